"""NumPy's methods on expressions: filled in here, where the functions are that they call."""

from __future__ import annotations

from lazyflow.functions import elementwise as e
from lazyflow.functions import reduce as r
from lazyflow.functions import shape as s
from lazyflow.record.expr import METHODS

__all__ = ["METHODS"]

_REDUCTIONS = "all", "any", "argmax", "argmin", "cumsum", "max", "mean", "min", "prod", "std", "sum", "var"
_SHAPES = "diagonal", "ravel", "repeat", "reshape", "squeeze", "swapaxes", "transpose"

METHODS.update(
    {name: getattr(r, name) for name in _REDUCTIONS}
    | {name: getattr(s, name) for name in _SHAPES}
    | {"astype": e.astype, "clip": e.clip, "round": e.round, "flatten": s.ravel}
)

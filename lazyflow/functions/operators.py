"""NumPy's methods on expressions: filled in here, where the functions are that they call."""

from __future__ import annotations

from lazyflow.expr import METHODS
from lazyflow.functions import elementwise as e
from lazyflow.functions import reduce as r
from lazyflow.functions import shape as s

__all__ = ["METHODS"]

METHODS.update(
    {name: getattr(r, name) for name in ("all", "any", "argmin", "cumsum", "max", "min", "prod", "std", "var")}
    | {name: getattr(s, name) for name in ("diagonal", "ravel", "repeat", "squeeze", "swapaxes", "transpose")}
    | {"clip": e.clip, "round": e.round, "flatten": s.ravel}
)

"""Python's operators on expressions, and NumPy's methods: installed here, where the functions are that they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lazyflow.errors import DTypeError
from lazyflow.expr import Expr
from lazyflow.functions import elementwise as e
from lazyflow.functions import reduce as r
from lazyflow.functions import shape as s
from lazyflow.functions.linalg import matmul
from lazyflow.trace import TracedNumber

__all__ = ["BINARY", "METHODS", "UNARY"]

BINARY: dict[str, Callable[[Any, Any], Expr]] = {
    "add": e.add,
    "sub": e.subtract,
    "mul": e.multiply,
    "truediv": e.divide,
    "floordiv": e.floor_divide,
    "mod": e.remainder,
    "pow": e.power,
    "matmul": matmul,
}


def _of_values(function: Callable[[Any, Any], Expr]) -> Callable[[Any, Any], Any]:
    """A comparison which leaves what is no value to Python: ``h == None`` is False, and ``h < None`` a TypeError."""

    def compare(self: Expr, other: Any) -> Any:
        return function(self, other) if isinstance(other, _VALUES) or hasattr(other, "__array__") else NotImplemented

    return compare


_VALUES = (Expr, int, float, TracedNumber, list, tuple, range, memoryview)
COMPARISON: dict[str, Callable[[Any, Any], Any]] = {
    "eq": _of_values(e.equal),
    "ne": _of_values(e.not_equal),
    "lt": _of_values(e.less),
    "le": _of_values(e.less_equal),
    "gt": _of_values(e.greater),
    "ge": _of_values(e.greater_equal),
}


def _itself(self: Expr) -> Expr:
    """``+x``. Raises `DTypeError` for booleans, as NumPy does."""
    if self.dtype == bool:
        raise DTypeError("+ takes numbers, got bool; count with .astype('int64')")
    return self


UNARY: dict[str, Callable[[Any], Expr]] = {"neg": e.negative, "pos": _itself, "abs": e.abs}


def _of_booleans(symbol: str, function: Callable[..., Expr]) -> Callable[..., Expr]:
    def apply(*operands: Any) -> Expr:
        kinds = [str(getattr(o, "dtype", type(o).__name__)) for o in operands]
        if any(kind != "bool" for kind in kinds):
            raise DTypeError(f"{symbol} takes booleans, such as those of a comparison, got {' and '.join(kinds)}")
        return function(*operands)

    return apply


LOGICAL: dict[str, Callable[..., Expr]] = {
    "and": _of_booleans("&", e.logical_and),
    "or": _of_booleans("|", e.logical_or),
    "invert": _of_booleans("~", e.logical_not),
}


def _transposed(self: Expr, *axes: Any) -> Expr:
    """With its axes permuted, named one by one or as one sequence (reversed by default)."""
    return s.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)


METHODS: dict[str, Callable[..., Expr]] = {
    **{name: getattr(r, name) for name in ("all", "any", "argmin", "cumsum", "max", "min", "prod", "std", "var")},
    **{name: getattr(s, name) for name in ("diagonal", "ravel", "repeat", "squeeze", "swapaxes")},
    "clip": e.clip,
    "round": e.round,
    "flatten": s.ravel,
    "transpose": _transposed,
}


def _reflected(function: Callable[[Any, Any], Expr]) -> Callable[[Any, Any], Expr]:
    return lambda self, other: function(other, self)


for _name, _function in {**BINARY, **COMPARISON, **UNARY, **LOGICAL}.items():
    setattr(Expr, f"__{_name}__", _function)
for _name, _function in BINARY.items():
    setattr(Expr, f"__r{_name}__", _reflected(_function))
for _name, _function in METHODS.items():
    setattr(Expr, _name, _function)

"""Which of NumPy's functions take expressions, and the choice between the two: arrays compute, expressions record."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lazyflow import functions
from lazyflow.functions import linalg
from lazyflow.functions.elementwise import OPERATIONS
from lazyflow.functions.reduce import largest, smallest
from lazyflow.numpy import _expressions
from lazyflow.ops import OPS
from lazyflow.record.expr import PROTOCOLS, UFUNCS, Expr, memo_of

# By one name in NumPy and in lazyflow.functions, with the same arguments.
_SHARED = (
    "add", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "ceil", "cos", "cosh",
    "divide", "equal", "exp", "expm1", "floor", "floor_divide", "greater", "greater_equal", "hypot", "isfinite",
    "isnan", "less", "less_equal", "log", "log1p", "logical_and", "logical_not", "logical_or", "maximum", "minimum",
    "multiply", "negative", "not_equal", "power", "remainder", "sign", "sin", "sinh", "sqrt",
    "subtract", "tan", "tanh", "all", "any", "argmax", "argmin", "argsort", "broadcast_to", "cumsum",
    "diagonal", "expand_dims", "flip", "matmul", "ravel", "repeat", "reshape", "roll", "squeeze",
    "swapaxes", "take_along_axis", "tile", "transpose", "tril", "triu", "astype",
)  # fmt: skip

# Of bits and of two numbers: operations that have no name elsewhere.
_NUMPYS = (
    "cbrt", "deg2rad", "exp2", "fmax", "fmin", "log10", "log2", "logaddexp", "logaddexp2", "rad2deg", "sinc",
)  # fmt: skip

# Other names of the same functions: NumPy's own, and those of the array API standard.
_ALIASES: Mapping[str, str] = {
    "absolute": "abs", "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh",
    "atan": "arctan", "atan2": "arctan2", "atanh": "arctanh", "true_divide": "divide", "mod": "remainder",
    "pow": "power", "around": "round", "amax": "max",
    "amin": "min", "concat": "concatenate", "permute_dims": "transpose", "degrees": "rad2deg", "radians": "deg2rad",
    "conj": "conjugate", "asanyarray": "asarray",
    "bitwise_not": "invert", "bitwise_invert": "invert", "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
}  # fmt: skip

# To NumPy a list is an array, which these reduce as a whole; `lazyflow.functions` reduces over a list.
_OF_LISTS = ("all", "any", "average", "max", "mean", "min", "prod", "ptp", "sum")

# All that the module defines, but for its own helpers.
_COMPOSED = {
    name: function
    for name, function in vars(_expressions).items()
    if callable(function) and getattr(function, "__module__", "") == _expressions.__name__ and name[0] != "_"
}


def _of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction that takes a list for the array that it is in NumPy. Over a list of scalars both are the same: that
    stays one node of as many operands."""

    @functools.wraps(function)
    def reduce(x: Any, *args: Any, **kwargs: Any) -> Any:
        kinds = (list, tuple)
        if isinstance(x, kinds) and (args or kwargs or any(isinstance(v, kinds) or np.ndim(v) for v in x)):
            x = _expressions.array(x)
        return function(x, *args, **kwargs)

    return reduce


def _lazy() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {name: getattr(functions, name) for name in _SHARED}
    found["abs"] = functions.abs
    found.update({name: getattr(functions.elementwise, name) for name in _NUMPYS})
    found.update(max=largest, min=smallest)
    found.update(_COMPOSED)
    found.update({name: getattr(_expressions, name) for name in ("zeros_like", "ones_like", "full_like", "empty_like")})
    found.update({name: _of_arrays(found[name]) for name in _OF_LISTS})
    found.update({alias: found[name] for alias, name in _ALIASES.items()})
    return found


# NumPy's functions on expressions, by name.
EXPRESSIONS: Mapping[str, Callable[..., Any]] = _lazy()

_REDUCTIONS = {
    "add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "logical_and": "all", "logical_or": "any",
}  # fmt: skip


def has_expressions(values: Iterable[Any]) -> bool:
    """Whether an expression is among the values, or in a list among them.

    >>> has_expressions([1.0, np.zeros(3), [2.0]])
    False
    """
    for value in values:
        if isinstance(value, Expr) or (isinstance(value, list | tuple) and has_expressions(value)):
            return True
    return False


def either(name: str, recorded: Callable[..., Any], computed: Callable[..., Any]) -> Callable[..., Any]:
    """The function that records where an expression is among the arguments, and calls NumPy's where none is.

    >>> either("sin", functions.sin, np.sin)(0.0)
    np.float64(0.0)
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        if has_expressions(args) or (kwargs and has_expressions(kwargs.values())):
            return recorded(*args, **kwargs)
        return computed(*args, **kwargs)

    module, _, plain = f"lazyflow.numpy.{name}".rpartition(".")
    function.__module__, function.__name__, function.__qualname__ = module, plain, plain  # where pickle finds it
    function.__doc__ = f"``numpy.{name}`` of arrays; of expressions, an expression."
    return function


def ufunc(function: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """NEP 13: NumPy's ufuncs on expressions record; ``np.add.reduce`` and the like are the reductions."""
    name = function.__name__
    if "out" in options:
        raise TypeError(
            f"numpy.{name}: an expression is no array to compute into, and cannot be written into one; "
            "write w = w - e instead of w -= e, or take its value with .numpy()"
        )
    if method == "__call__" and name in EXPRESSIONS:
        return EXPRESSIONS[name](*inputs, **options)
    if method == "reduce" and name in _REDUCTIONS:
        return EXPRESSIONS[_REDUCTIONS[name]](*inputs, **{"axis": 0, **options})
    raise _unknown(name if method == "__call__" else f"{name}.{method}")


def array_function(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """NEP 18: NumPy's other functions on expressions record."""
    name, where = function.__name__, function.__module__
    found = LINALG.get(name) if where.endswith("linalg") else EXPRESSIONS.get(name)
    if found is None:
        raise _unknown(name)
    return found(*args, **kwargs)


def _unknown(name: str) -> TypeError:
    return TypeError(f"numpy.{name} has no counterpart that records; for its value call .numpy() on the expressions")


LINALG: dict[str, Callable[..., Any]] = {
    name: getattr(linalg, name) for name in ("inv", "det", "slogdet", "cholesky", "eigh")
}


PROTOCOLS.update(ufunc=ufunc, array_function=array_function)
UFUNCS.update(
    (function, memo_of(OPERATIONS[EXPRESSIONS[function.__name__]]))
    for function in vars(np).values()
    if isinstance(function, np.ufunc) and EXPRESSIONS.get(function.__name__) in OPERATIONS
)
UFUNCS[np.matmul] = memo_of(OPS["matmul"])

"""Elementwise functions, each made from its operation: the formula in `lazyflow.ops.elementwise` is all there is to
say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lazyflow.expr import Expr, binary, constant, plain_dtype, record, unary
from lazyflow.ops import OPS
from lazyflow.ops.base import Op, number
from lazyflow.templates import by_kinds

_UNARY = [
    "negative",
    "abs",
    "sign",
    "sqrt",
    "square",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "arccosh",
    "arctanh",
    "erf",
    "ndtr",
    "sigmoid",
    "logsigmoid",
    "softplus",
    "softsign",
    "tanhshrink",
    "relu",
    "selu",
    "silu",
    "reciprocal",
    "floor",
    "ceil",
    "round",
    "isnan",
    "isfinite",
    "logical_not",
    "cbrt",
    "deg2rad",
    "exp2",
    "invert",
    "log10",
    "log2",
    "rad2deg",
    "sinc",
]
_BINARY = [
    "add",
    "arctan2",
    "hypot",
    "subtract",
    "multiply",
    "divide",
    "floor_divide",
    "remainder",
    "power",
    "maximum",
    "minimum",
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "fmax",
    "fmin",
    "left_shift",
    "logaddexp",
    "logaddexp2",
    "right_shift",
]

__all__ = [
    "abs",
    "add",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "astype",
    "ceil",
    "celu",
    "clip",
    "cos",
    "cosh",
    "divide",
    "elu",
    "equal",
    "erf",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "gelu",
    "greater",
    "greater_equal",
    "hardtanh",
    "hypot",
    "isfinite",
    "isnan",
    "leaky_relu",
    "less",
    "less_equal",
    "lgamma",
    "log",
    "log1p",
    "logical_and",
    "logical_not",
    "logical_or",
    "logsigmoid",
    "maximum",
    "minimum",
    "multiply",
    "ndtr",
    "negative",
    "not_equal",
    "power",
    "reciprocal",
    "relu",
    "remainder",
    "round",
    "scale_gradient",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "tanhshrink",
    "where",
]


def _documented(function: Callable[..., Expr], op: Op) -> Callable[..., Expr]:
    formula = f", ``{op.formula['y']}``" if "y" in op.formula else ""
    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = (
        f"""Elementwise {op.name}{formula}; operands broadcast as in NumPy. Raises `ShapeError` where they do not."""
    )
    return function


abs: Callable[[Any], Expr]
add: Callable[[Any, Any], Expr]
arccos: Callable[[Any], Expr]
arccosh: Callable[[Any], Expr]
arcsin: Callable[[Any], Expr]
arcsinh: Callable[[Any], Expr]
arctan: Callable[[Any], Expr]
arctan2: Callable[[Any, Any], Expr]
arctanh: Callable[[Any], Expr]
ceil: Callable[[Any], Expr]
cos: Callable[[Any], Expr]
cosh: Callable[[Any], Expr]
divide: Callable[[Any, Any], Expr]
equal: Callable[[Any, Any], Expr]
erf: Callable[[Any], Expr]
exp: Callable[[Any], Expr]
expm1: Callable[[Any], Expr]
floor: Callable[[Any], Expr]
floor_divide: Callable[[Any, Any], Expr]
greater: Callable[[Any, Any], Expr]
greater_equal: Callable[[Any, Any], Expr]
isfinite: Callable[[Any], Expr]
isnan: Callable[[Any], Expr]
less: Callable[[Any, Any], Expr]
less_equal: Callable[[Any, Any], Expr]
log: Callable[[Any], Expr]
log1p: Callable[[Any], Expr]
logical_and: Callable[[Any, Any], Expr]
logical_not: Callable[[Any], Expr]
logical_or: Callable[[Any, Any], Expr]
logsigmoid: Callable[[Any], Expr]
maximum: Callable[[Any, Any], Expr]
minimum: Callable[[Any, Any], Expr]
multiply: Callable[[Any, Any], Expr]
ndtr: Callable[[Any], Expr]
negative: Callable[[Any], Expr]
not_equal: Callable[[Any, Any], Expr]
power: Callable[[Any, Any], Expr]
reciprocal: Callable[[Any], Expr]
relu: Callable[[Any], Expr]
remainder: Callable[[Any, Any], Expr]
round: Callable[[Any], Expr]
selu: Callable[[Any], Expr]
sigmoid: Callable[[Any], Expr]
sign: Callable[[Any], Expr]
silu: Callable[[Any], Expr]
sin: Callable[[Any], Expr]
sinh: Callable[[Any], Expr]
softplus: Callable[[Any], Expr]
softsign: Callable[[Any], Expr]
sqrt: Callable[[Any], Expr]
square: Callable[[Any], Expr]
subtract: Callable[[Any, Any], Expr]
tan: Callable[[Any], Expr]
tanh: Callable[[Any], Expr]
bitwise_and: Callable[[Any, Any], Expr]
bitwise_or: Callable[[Any, Any], Expr]
bitwise_xor: Callable[[Any, Any], Expr]
cbrt: Callable[[Any], Expr]
deg2rad: Callable[[Any], Expr]
exp2: Callable[[Any], Expr]
fmax: Callable[[Any, Any], Expr]
fmin: Callable[[Any, Any], Expr]
hypot: Callable[[Any, Any], Expr]
invert: Callable[[Any], Expr]
left_shift: Callable[[Any, Any], Expr]
log10: Callable[[Any], Expr]
log2: Callable[[Any], Expr]
logaddexp: Callable[[Any, Any], Expr]
logaddexp2: Callable[[Any, Any], Expr]
rad2deg: Callable[[Any], Expr]
right_shift: Callable[[Any, Any], Expr]
sinc: Callable[[Any], Expr]
tanhshrink: Callable[[Any], Expr]

globals().update({name: _documented(unary(OPS[name]), OPS[name]) for name in _UNARY})
globals().update({name: _documented(binary(OPS[name]), OPS[name]) for name in _BINARY})


@by_kinds
def leaky_relu(x: Any, slope: float = 0.01) -> Expr:
    """``x`` where positive, else ``slope * x``; different slopes batch.

    >>> import lazyflow as lf
    >>> lf.leaky_relu(lf.constant([-1.0, 2.0]), 0.5).numpy()
    array([-0.5,  2. ], dtype=float32)
    """
    return record(OPS["leaky_relu"], (constant(x), number("leaky_relu", "slope", slope)))


@by_kinds
def elu(x: Any, alpha: float = 1.0) -> Expr:
    """``x`` where positive, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016); different alphas batch."""
    return record(OPS["elu"], (constant(x), number("elu", "alpha", alpha)))


@by_kinds
def celu(x: Any, alpha: float = 1.0) -> Expr:
    """``x`` where positive, else ``alpha * (exp(x / alpha) - 1)`` (Barron 2017); different alphas batch."""
    return record(OPS["celu"], (constant(x), number("celu", "alpha", alpha)))


@by_kinds
def gelu(x: Any, approximate: bool | str = False) -> Expr:
    """``x`` times the normal distribution function of ``x`` (Hendrycks and Gimpel 2016); ``approximate`` (True, or
    ``"tanh"``) by tanh. Raises ``ValueError`` for another word."""
    if isinstance(approximate, str):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"gelu: approximate must be 'none' or 'tanh', True or False, got {approximate!r}")
        approximate = approximate == "tanh"
    return record(OPS["gelu_tanh" if approximate else "gelu"], (constant(x),))


@by_kinds
def hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Expr:
    """``x`` cut off at ``low`` and ``high``."""
    return record(OPS["hardtanh"], (constant(x), number("hardtanh", "low", low), number("hardtanh", "high", high)))


@partial(by_kinds, arrays=True)
def clip(x: Any, low: Any = None, high: Any = None) -> Expr:
    """``x`` cut off at ``low`` and ``high``, of which one may be ``None``; no gradient where it was cut.

    >>> import lazyflow as lf
    >>> x = lf.constant([-5.0, 0.5])
    >>> lf.clip(x, 0.0, 1.0).numpy(), x.clip(-1.0).numpy()
    (array([0. , 0.5], dtype=float32), array([-1. ,  0.5], dtype=float32))
    """
    if low is None:
        return constant(x) if high is None else record(OPS["minimum"], (constant(x), high))
    if high is None:
        return record(OPS["maximum"], (constant(x), low))
    return record(OPS["clip"], (constant(x), low, high))


@partial(by_kinds, arrays=True)
def where(condition: Any, a: Any, b: Any) -> Expr:
    """``a`` where ``condition`` holds, else ``b``; gradients flow to the one chosen.

    >>> import lazyflow as lf
    >>> x = lf.constant([1.0, -2.0])
    >>> lf.where(x > 0, x, x * 10).numpy()
    array([  1., -20.], dtype=float32)
    """
    return record(OPS["where"], (constant(condition), a, b))


@by_kinds
def astype(x: Any, dtype: Any) -> Expr:
    """``x`` converted to ``dtype``; gradients are converted back."""
    return record(OPS["astype"], (constant(x),), dtype=plain_dtype(dtype))


_lgamma = unary(OPS["lgamma"])


def lgamma(x: Any) -> Expr:
    """The logarithm of the gamma function, elementwise, for positive ``x``; ``log(n!)`` is ``lgamma(n + 1)``.

    >>> import lazyflow as lf
    >>> lf.lgamma(lf.constant([1.0, 4.0])).numpy().round(4)
    array([0.    , 1.7918], dtype=float32)
    """
    return _lgamma(x)


@by_kinds
def scale_gradient(x: Any, scale: float) -> Expr:
    """``x`` itself, with the gradient that comes back through here times ``scale``.

    With -1 the gradient is reversed (Ganin and Lempitsky 2015). Raises `DTypeError` for ``x`` that is not floating,
    ``TypeError`` for a scale that is no number.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> lf.sum(lf.scale_gradient(w, -1.0) * 3).backward()
    >>> w.grad
    array([-3., -3.], dtype=float32)
    """
    return record(OPS["scale_gradient"], (constant(x), number("scale_gradient", "scale", scale)))

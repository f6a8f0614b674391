"""Elementwise functions, each made from its operation: the formula in `lazyflow.ops.elementwise` is all there is to
say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from lazyflow.ops import OPS
from lazyflow.ops.base import Op, number
from lazyflow.record.expr import (
    Binary,
    Expr,
    OperandLike,
    Unary,
    apply1,
    constant,
    memo_of,
    plain_dtype,
    record,
)
from lazyflow.record.frames import binary_frame, unary_frame
from lazyflow.record.templates import by_kinds

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# The functions that are an operation and nothing more.
OPERATIONS: dict[Callable[..., object], Op] = {}
ExprFunction = TypeVar("ExprFunction", bound=Callable[..., Expr])


def _documented(function: ExprFunction, op: Op) -> ExprFunction:
    formula = f", ``{op.formula['y']}``" if "y" in op.formula else ""
    function.__name__ = function.__qualname__ = op.name
    function.__module__ = __name__
    OPERATIONS[function] = op
    function.__doc__ = (
        f"""Elementwise {op.name}{formula}; operands broadcast as in NumPy. Raises `ShapeError` where they do not."""
    )
    return function


def _unary(name: str) -> Unary:
    return _documented(unary_frame(memo_of(OPS[name])), OPS[name])


def _binary(name: str) -> Binary:
    return _documented(binary_frame(memo_of(OPS[name])), OPS[name])


# Functions that `lazyflow.numpy` alone offers, of one operand and of two.
_NUMPYS = ("cbrt", "deg2rad", "exp2", "invert", "log10", "log2", "rad2deg", "sinc")
_NUMPYS2 = (
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "fmax",
    "fmin",
    "left_shift",
    "logaddexp",
    "logaddexp2",
    "right_shift",
)
_ELSEWHERE = {name: _unary(name) for name in _NUMPYS} | {name: _binary(name) for name in _NUMPYS2}
globals().update(_ELSEWHERE)
_BEFORE = frozenset(globals())

# All that stands below is offered; an operation that is a function of its name and nothing more is a line.
negative = _unary("negative")
abs = _unary("abs")
sign = _unary("sign")
sqrt = _unary("sqrt")
square = _unary("square")
exp = _unary("exp")
expm1 = _unary("expm1")
log = _unary("log")
log1p = _unary("log1p")
sin = _unary("sin")
cos = _unary("cos")
tan = _unary("tan")
arcsin = _unary("arcsin")
arccos = _unary("arccos")
arctan = _unary("arctan")
sinh = _unary("sinh")
cosh = _unary("cosh")
tanh = _unary("tanh")
arcsinh = _unary("arcsinh")
arccosh = _unary("arccosh")
arctanh = _unary("arctanh")
erf = _unary("erf")
ndtr = _unary("ndtr")
sigmoid = _unary("sigmoid")
logsigmoid = _unary("logsigmoid")
softplus = _unary("softplus")
softsign = _unary("softsign")
tanhshrink = _unary("tanhshrink")
relu = _unary("relu")
selu = _unary("selu")
silu = _unary("silu")
reciprocal = _unary("reciprocal")
floor = _unary("floor")
ceil = _unary("ceil")
round = _unary("round")
isnan = _unary("isnan")
isfinite = _unary("isfinite")
logical_not = _unary("logical_not")
add = _binary("add")
arctan2 = _binary("arctan2")
hypot = _binary("hypot")
subtract = _binary("subtract")
multiply = _binary("multiply")
divide = _binary("divide")
floor_divide = _binary("floor_divide")
remainder = _binary("remainder")
power = _binary("power")
maximum = _binary("maximum")
minimum = _binary("minimum")
equal = _binary("equal")
not_equal = _binary("not_equal")
less = _binary("less")
less_equal = _binary("less_equal")
greater = _binary("greater")
greater_equal = _binary("greater_equal")
logical_and = _binary("logical_and")
logical_or = _binary("logical_or")


@by_kinds
def leaky_relu(x: OperandLike, slope: float = 0.01) -> Expr:
    """``x`` where positive, else ``slope * x``; different slopes batch.

    >>> import lazyflow as lf
    >>> lf.leaky_relu(lf.constant([-1.0, 2.0]), 0.5).numpy()
    array([-0.5,  2. ], dtype=float32)
    """
    return record(OPS["leaky_relu"], (constant(x), number("leaky_relu", "slope", slope)))


@by_kinds
def elu(x: OperandLike, alpha: float = 1.0) -> Expr:
    """``x`` where positive, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016); different alphas batch."""
    return record(OPS["elu"], (constant(x), number("elu", "alpha", alpha)))


@by_kinds
def celu(x: OperandLike, alpha: float = 1.0) -> Expr:
    """``x`` where positive, else ``alpha * (exp(x / alpha) - 1)`` (Barron 2017); different alphas batch."""
    return record(OPS["celu"], (constant(x), number("celu", "alpha", alpha)))


@by_kinds
def gelu(x: OperandLike, approximate: bool | str = False) -> Expr:
    """``x`` times the normal distribution function of ``x`` (Hendrycks and Gimpel 2016); ``approximate`` (True, or
    ``"tanh"``) by tanh. Raises ``ValueError`` for another word."""
    if isinstance(approximate, str):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"gelu: approximate must be 'none' or 'tanh', True or False, got {approximate!r}")
        approximate = approximate == "tanh"
    return record(OPS["gelu_tanh" if approximate else "gelu"], (constant(x),))


@by_kinds
def hardtanh(x: OperandLike, low: float = -1.0, high: float = 1.0) -> Expr:
    """``x`` cut off at ``low`` and ``high``."""
    return record(OPS["hardtanh"], (constant(x), number("hardtanh", "low", low), number("hardtanh", "high", high)))


@partial(by_kinds, arrays=True)
def clip(x: OperandLike, low: OperandLike | None = None, high: OperandLike | None = None) -> Expr:
    """``x`` cut off at ``low`` and ``high``, of which one may be ``None``; gradients flow to what was chosen.

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
def where(condition: OperandLike, a: OperandLike, b: OperandLike) -> Expr:
    """``a`` where ``condition`` holds, else ``b``; gradients flow to the one chosen.

    >>> import lazyflow as lf
    >>> x = lf.constant([1.0, -2.0])
    >>> lf.where(x > 0, x, x * 10).numpy()
    array([  1., -20.], dtype=float32)
    """
    return record(OPS["where"], (constant(condition), a, b))


@by_kinds
def astype(x: OperandLike, dtype: DTypeLike) -> Expr:
    """``x`` converted to ``dtype``; gradients are converted back."""
    return record(OPS["astype"], (constant(x),), dtype=plain_dtype(dtype))


_LGAMMA = memo_of(OPS["lgamma"])


def lgamma(x: OperandLike) -> Expr:
    """The logarithm of the gamma function, elementwise, for positive ``x``; ``log(n!)`` is ``lgamma(n + 1)``.

    >>> import lazyflow as lf
    >>> lf.lgamma(lf.constant([1.0, 4.0])).numpy().round(4)
    array([0.    , 1.7918], dtype=float32)
    """
    return apply1(_LGAMMA, x)


@by_kinds
def scale_gradient(x: OperandLike, scale: float) -> Expr:
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


# Type checkers take what is defined here and does not begin with an underscore.
if not TYPE_CHECKING:
    __all__ = [name for name in list(globals()) if not name.startswith("_") and name not in _BEFORE]

"""What each function means: on plain NumPy arrays of ONE example, with its derivative, written without lazyflow.

A `Function` computes in double precision (integers and truth values in their own dtypes) and its answer is rounded to
``dtype`` of the operands' dtypes. ``vjps[i](g, y, *operands, **static)`` is the cotangent of operand ``i``, which may
still have to be summed down to the operand's shape; None where there is no gradient. ``exact``: nothing is rounded.
``absolute``: how far from the value one may be besides, in units of the last place of one (and the cotangent of one
that is not elementwise, in such units of the cotangent). ``sums``: it adds numbers. ``mixes``: an element may be as far
off as the largest one.

Derivatives are written by hand where that is a line; `analytic` differentiates anything analytic by complex steps
(Squire and Trapp 1998), which lose no digits; what only moves elements is differentiated by moving their numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ops import derived

Array = Any


@dataclass(frozen=True)
class Function:
    """See the module's text."""

    name: str
    forward: Callable[..., Array]
    vjps: tuple[Callable[..., Array] | None, ...]
    dtype: Callable[..., Any]
    exact: bool = False
    elementwise: bool = False
    absolute: float = 0.0
    sums: bool = False
    mixes: bool = False


# Dtypes of results, as NumPy has them.


def joint(*dtypes: Any) -> Any:
    return np.result_type(*dtypes)


def first(dtype: Any, *others: Any) -> Any:
    return dtype


def truth(*dtypes: Any) -> Any:
    return np.dtype(bool)


def position(*dtypes: Any) -> Any:
    return np.dtype(np.int64)


def floating(*dtypes: Any) -> Any:
    """What ``numpy.exp`` makes of it."""
    return np.exp(np.zeros((), joint(*dtypes))).dtype


def summed(dtype: Any, *others: Any) -> Any:
    return np.add.reduce(np.ones(1, dtype)).dtype


def averaged(dtype: Any, *others: Any) -> Any:
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def quotient(*dtypes: Any) -> Any:
    return np.divide(*(np.ones((), t) for t in dtypes)).dtype


def of_ufunc(function: Callable[..., Array]) -> Callable[..., Any]:
    return lambda *dtypes: function(*(np.ones((), t) for t in dtypes)).dtype


FUNCTIONS: dict[str, Function] = {}


def define(name: str, forward: Any, *vjps: Any, dtype: Any = joint, exact: bool = False, **more: Any) -> Function:
    FUNCTIONS[name] = found = Function(name, forward, vjps, dtype, exact, **more)
    return found


def times(g: Array, slope: Array) -> Array:
    """A cotangent times a slope; where the cotangent is zero, so is the product, whatever the slope."""
    return np.where(g == 0, 0.0, g * slope)


# Elementwise.

ERF = np.vectorize(math.erf, otypes=[float])


class Unspecified(Exception):
    """What lazyflow promises nothing about."""


def _lgamma(x: float) -> float:
    if x < 0:
        raise Unspecified("lgamma is of positive numbers")
    return math.lgamma(x) if 0 < x < math.inf else math.nan if math.isnan(x) else math.inf


def _digamma(x: float) -> float:
    """By recurrence up to 12, then asymptotically (Abramowitz and Stegun 1964, 6.3.5 and 6.3.18)."""
    total = 0.0
    while x < 12:
        total -= 1 / x
        x += 1
    s = 1 / (x * x)
    series = 1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s * (1 / 132 - s * (691 / 32760)))))
    return total + math.log(x) - 0.5 / x - s * series


LGAMMA, DIGAMMA = (np.vectorize(f, otypes=[float]) for f in (_lgamma, _digamma))


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _phi(x: Array) -> Array:
    """The normal distribution function, accurate in the lower tail."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2))


def _bell(x: Array) -> Array:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Array) -> Array:
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _gelu_tanh_slope(x: Array) -> Array:
    inner = 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return _sigmoid(inner) + x * _sigmoid(inner) * _sigmoid(-inner) * 2 * math.sqrt(2 / math.pi) * (
        1 + 3 * 0.044715 * x * x
    )


def _tanhshrink(x: Array) -> Array:
    """Its difference cancels near zero, where Lambert's continued fraction of tanh does not: x / (1 + x^2 / (3 + ..."""
    s = np.minimum(x * x, 9.0)
    rest: Array = 0.0
    for k in range(41, 1, -2):
        rest = s / (k + rest)
    return np.where(np.abs(x) < 3, x * rest / (1 + rest), x - np.tanh(x))


def _sinc_slope(x: Array) -> Array:
    """Its difference cancels near zero, where its series does not."""
    near, away = np.clip(x, -1, 1), np.where(np.abs(x) < 1, 1.0, x)
    terms = (
        (-1) ** k * 2 * k / math.factorial(2 * k + 1) * math.pi ** (2 * k) * near ** (2 * k - 1) for k in range(1, 20)
    )
    return np.where(np.abs(x) < 1, sum(terms), (np.cos(math.pi * away) - np.sinc(away)) / away)


SELU, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

UNARY: dict[str, tuple[Callable[..., Array], Callable[..., Array] | None]] = {
    "negative": (np.negative, lambda x, y: -1.0),
    "abs": (np.abs, lambda x, y: np.sign(x)),
    "sign": (np.sign, None),
    "sqrt": (np.sqrt, lambda x, y: 0.5 / np.sqrt(x)),
    "square": (np.square, lambda x, y: 2 * x),
    "exp": (np.exp, lambda x, y: np.exp(x)),
    "expm1": (np.expm1, lambda x, y: np.exp(x)),
    "log": (np.log, lambda x, y: 1 / x),
    "log1p": (np.log1p, lambda x, y: 1 / (1 + x)),
    "sin": (np.sin, lambda x, y: np.cos(x)),
    "cos": (np.cos, lambda x, y: -np.sin(x)),
    "tan": (np.tan, lambda x, y: 1 / np.cos(x) ** 2),
    "arcsin": (np.arcsin, lambda x, y: 1 / np.sqrt((1 - x) * (1 + x))),
    "arccos": (np.arccos, lambda x, y: -1 / np.sqrt((1 - x) * (1 + x))),
    "arctan": (np.arctan, lambda x, y: 1 / (1 + x * x)),
    "sinh": (np.sinh, lambda x, y: np.cosh(x)),
    "cosh": (np.cosh, lambda x, y: np.sinh(x)),
    "tanh": (np.tanh, lambda x, y: 1 / np.cosh(np.minimum(np.abs(x), 700)) ** 2),
    "arcsinh": (np.arcsinh, lambda x, y: 1 / np.hypot(1, x)),
    "arccosh": (np.arccosh, lambda x, y: 1 / (np.sqrt(x - 1) * np.sqrt(x + 1))),
    "arctanh": (np.arctanh, lambda x, y: 1 / ((1 - x) * (1 + x))),
    "erf": (ERF, lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-x * x)),
    "lgamma": (LGAMMA, lambda x, y: DIGAMMA(x)),
    "sigmoid": (_sigmoid, lambda x, y: _sigmoid(x) * _sigmoid(-x)),
    "logsigmoid": (lambda x: -_softplus(-x), lambda x, y: _sigmoid(-x)),
    "softplus": (_softplus, lambda x, y: _sigmoid(x)),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda x, y: 1 / (1 + np.abs(x)) ** 2),
    "relu": (lambda x: np.where(np.isnan(x) | (x > 0), x, 0.0), lambda x, y: np.where(x > 0, 1.0, 0.0)),
    "selu": (
        lambda x: SELU * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x, y: SELU * np.where(x > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(x, 0))),
    ),
    "silu": (
        lambda x: _sigmoid(x) * x,
        lambda x, y: _sigmoid(x) + _sigmoid(x) * _sigmoid(-x) * x,
    ),
    "gelu": (lambda x: _phi(x) * x, lambda x, y: _phi(x) + _bell(x) * x),
    "ndtr": (lambda x: _phi(x), lambda x, y: _bell(x)),
    "gelu_tanh": (_gelu_tanh, lambda x, y: _gelu_tanh_slope(x)),
    "tanhshrink": (lambda x: _tanhshrink(x), lambda x, y: np.tanh(x) ** 2),
    "exp2": (np.exp2, lambda x, y: math.log(2) * np.exp2(x)),
    "log2": (np.log2, lambda x, y: 1 / (math.log(2) * x)),
    "log10": (np.log10, lambda x, y: 1 / (math.log(10) * x)),
    "cbrt": (np.cbrt, lambda x, y: 1 / (3 * np.cbrt(x) ** 2)),
    "sinc": (np.sinc, lambda x, y: _sinc_slope(x)),
    "deg2rad": (np.deg2rad, lambda x, y: math.pi / 180),
    "rad2deg": (np.rad2deg, lambda x, y: 180 / math.pi),
    "invert": (np.invert, None),
    "reciprocal": (lambda x: 1 / x, lambda x, y: -1 / (x * x)),
    "floor": (np.floor, None),
    "ceil": (np.ceil, None),
    "round": (np.round, None),
    "isnan": (np.isnan, None),
    "isfinite": (np.isfinite, None),
    "logical_not": (np.logical_not, None),
}


def _derived(name: str) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """The same of a function that has a row in the table of accuracy alone."""
    value, slope = (derived.reference(name, key) for key in ("y", "x"))
    return value, lambda x, y: slope(x)


UNARY |= {name: _derived(name) for name in derived.names(UNARY)}
EXACT = {"negative", "abs", "sign", "relu", "floor", "ceil", "round", "isnan", "isfinite", "logical_not", "invert"}
OWN_DTYPES = {
    **dict.fromkeys(("negative", "abs", "sign", "square", "floor", "ceil", "round", "relu", "invert"), first),
    **dict.fromkeys(("isnan", "isfinite", "logical_not"), truth),
    "reciprocal": lambda t: quotient(np.dtype(np.int8) if t.kind != "f" else t, t),
}


def _slope_vjp(slope: Callable[..., Array]) -> Callable[..., Array]:
    return lambda g, y, x: times(g, slope(x, y))


for _name, (_f, _slope) in UNARY.items():
    define(
        _name,
        _f,
        _slope_vjp(_slope) if _slope else None,
        dtype=OWN_DTYPES.get(_name, floating),
        exact=_name in EXACT,
        elementwise=True,
        absolute=32.0 if _name == "lgamma" else 0.0,
    )


def _masked(mask: Array, x: Array) -> Array:
    """A product, of which even a zero keeps its sign; what is no number is hidden, too."""
    return np.where((mask == 0) & np.isnan(mask * x), 0.0, mask * x)


def _power_base(g: Array, y: Array, a: Array, b: Array) -> Array:
    return times(g, np.where(b == 0, 0.0, b * np.power(a, np.where(b == 0, 1.0, b - 1))))


def _power_exponent(g: Array, y: Array, a: Array, b: Array) -> Array:
    return times(g, np.where(a > 0, np.power(a, b) * np.log(np.where(a > 0, a, 1.0)), 0.0))


def _share(larger: Callable[..., Array]) -> Callable[..., Array]:
    """Ties are shared evenly."""
    return lambda g, y, a, b: g * np.where(larger(a, b), 1.0, np.where(a == b, 0.5, 0.0))


def _share_of_numbers(larger: Callable[..., Array], a: Array, b: Array) -> Array:
    """The same of `numpy.fmax`, where what is no number is no candidate."""
    return np.where(larger(a, b) | np.isnan(b), 1.0, np.where(a == b, 0.5, 0.0))


def _of_numbers(larger: Callable[..., Array]) -> tuple[Callable[..., Array], Callable[..., Array]]:
    return (
        lambda g, y, a, b: np.where(g == 0, 0.0, g * _share_of_numbers(larger, a, b)),
        lambda g, y, a, b: np.where(g == 0, 0.0, g * _share_of_numbers(larger, b, a)),
    )


def _part_of_exponentials(a: Array, b: Array, scale: float) -> Array:
    """exp(scale * a) of the sum of both."""
    return np.where(a == b, 0.5, _sigmoid(scale * (a - b)))


BINARY: dict[str, tuple[Any, Any, Any, Any, bool]] = {
    "add": (np.add, lambda g, y, a, b: g, lambda g, y, a, b: g, of_ufunc(np.add), False),
    "subtract": (np.subtract, lambda g, y, a, b: g, lambda g, y, a, b: -g, of_ufunc(np.subtract), False),
    "multiply": (
        np.multiply,
        lambda g, y, a, b: times(g, b),
        lambda g, y, a, b: times(g, a),
        of_ufunc(np.multiply),
        False,
    ),
    "divide": (
        np.divide,
        lambda g, y, a, b: times(g, 1 / b),
        lambda g, y, a, b: times(g, -a / b / b),
        quotient,
        False,
    ),
    "floor_divide": (np.floor_divide, None, None, of_ufunc(np.floor_divide), False),
    "remainder": (
        np.remainder,
        lambda g, y, a, b: g,
        lambda g, y, a, b: times(g, -np.floor_divide(a, b)),
        of_ufunc(np.remainder),
        False,
    ),
    "power": (np.power, _power_base, _power_exponent, of_ufunc(np.power), False),
    "maximum": (np.maximum, _share(np.greater), _share(np.less), joint, True),
    "minimum": (np.minimum, _share(np.less), _share(np.greater), joint, True),
    "fmax": (np.fmax, *_of_numbers(np.greater), joint, True),
    "fmin": (np.fmin, *_of_numbers(np.less), joint, True),
    **{
        f.__name__: (
            f,
            lambda g, y, a, b, s=s: times(g, _part_of_exponentials(a, b, s)),
            lambda g, y, a, b, s=s: times(g, _part_of_exponentials(b, a, s)),
            floating,
            False,
        )
        for f, s in ((np.logaddexp, 1.0), (np.logaddexp2, math.log(2)))
    },
    **{
        f.__name__: (f, None, None, joint, True)
        for f in (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift)
    },
    "hypot": (
        np.hypot,
        lambda g, y, a, b: times(g, np.where(y == 0, 0.0, a / np.where(y == 0, 1.0, y))),
        lambda g, y, a, b: times(g, np.where(y == 0, 0.0, b / np.where(y == 0, 1.0, y))),
        floating,
        False,
    ),
    "arctan2": (
        np.arctan2,
        lambda g, y, a, b: times(g, b / (a * a + b * b)),
        lambda g, y, a, b: times(g, -a / (a * a + b * b)),
        floating,
        False,
    ),
    **{
        f.__name__: (f, None, None, truth, True)
        for f in (
            np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.logical_and, np.logical_or,
        )
    },
}  # fmt: skip
for _name, (_f, _a, _b, _dtype, _exact) in BINARY.items():
    define(_name, _f, _a, _b, dtype=_dtype, exact=_exact, elementwise=True)

define(
    "leaky_relu",
    lambda x, slope: np.where(x > 0, x, slope * x),
    lambda g, y, x, slope: g * np.where(x > 0, 1.0, slope),
    None,
    elementwise=True,
)
define(
    "elu",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    lambda g, y, x, alpha: g * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0))),
    None,
    dtype=floating,
    elementwise=True,
)
define(
    "celu",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x / alpha, 0))),
    lambda g, y, x, alpha: times(g, np.where(x > 0, 1.0, np.exp(np.minimum(x / alpha, 0)))),
    None,
    dtype=floating,
    elementwise=True,
)
define(
    "hardtanh",
    lambda x, low, high: np.minimum(np.maximum(x, low), high),
    lambda g, y, x, low, high: g * ((x > low) & (x < high)),
    None,
    None,
    exact=True,
    elementwise=True,
)
define(
    "clip",
    lambda x, low, high: np.minimum(np.maximum(x, low), high),
    lambda g, y, x, low, high: g * ((x >= low) & (x <= high)),
    lambda g, y, x, low, high: g * ((x < low) & (low <= high)),
    lambda g, y, x, low, high: g * ((x > high) | (low > high)),
    exact=True,
    elementwise=True,
)
define(
    "where",
    lambda c, a, b: np.where(c, a, b),
    None,
    lambda g, y, c, a, b: np.where(c, g, 0.0),
    lambda g, y, c, a, b: np.where(c, 0.0, g),
    dtype=lambda c, a, b: joint(a, b),
    exact=True,
    elementwise=True,
)
define("astype", lambda x, dtype: x, lambda g, y, x, dtype: g, dtype=lambda t, dtype: np.dtype(dtype), exact=True)
define("scale_gradient", lambda x, scale: x, lambda g, y, x, scale: g * scale, dtype=lambda t, scale: t, exact=True)
define(
    "masked",
    lambda x, mask: _masked(mask, x),
    lambda g, y, x, mask: _masked(mask, g),
    None,
)
define("identity", lambda x: x, lambda g, y, x: g, dtype=first, exact=True)
define("detach", lambda x: x, None, dtype=first, exact=True)


# What only moves elements: ``move(x, fill)`` puts ``fill`` where nothing of ``x`` is.


def _moved_vjp(g: Array, y: Array, x: Array, move: Callable[..., Array], fill: float = 0) -> Array:
    places = move(np.arange(1, x.size + 1).reshape(x.shape), 0)
    found = np.zeros(x.size + 1)
    np.add.at(found, np.asarray(places).ravel(), np.asarray(g).ravel())
    return found[1:].reshape(x.shape)


define(
    "move", lambda x, move, fill=0: move(x, fill), _moved_vjp, dtype=lambda t, move, fill=0: t, exact=True
)  # fmt: skip


def _joined_vjp(i: int) -> Callable[..., Array]:
    def vjp(g: Array, y: Array, *xs: Array, join: Callable[..., Array]) -> Array:
        numbers = [
            np.arange(x.size).reshape(x.shape) + 1 if k == i else np.zeros(x.shape, int) for k, x in enumerate(xs)
        ]
        found = np.zeros(xs[i].size + 1)
        np.add.at(found, join(numbers).ravel(), g.ravel())
        return found[1:].reshape(xs[i].shape)

    return vjp


MOST_OPERANDS = 400


def joining(n: int) -> Function:
    return Function(
        "join",
        lambda *xs, join: join(xs),
        tuple(_joined_vjp(i) for i in range(n)),
        lambda *dtypes, join: joint(*dtypes),
        True,
    )


def listed(n: int, mean: bool) -> Function:
    scale = 1 / n if mean else 1.0
    return Function(
        "mean_list" if mean else "sum_list",
        lambda *xs: np.sum(xs, axis=0) * (scale if mean else 1),
        (lambda g, y, *xs: g * scale,) * n,
        averaged if mean else summed,
        sums=True,
    )


# Anything analytic.


def analytic(function: Callable[..., Array], operand: int) -> Callable[..., Array]:
    """The vjp of one operand, by a complex step in each of its elements."""

    def vjp(g: Array, y: Array, *operands: Array, **static: Any) -> Array:
        x = operands[operand]
        found = np.zeros(x.shape)
        for place in np.ndindex(*x.shape):
            moved = x.astype(complex)
            moved[place] += 1e-100j
            others = [moved if i == operand else o for i, o in enumerate(operands)]
            slope = np.imag(function(*others, **static)) / 1e-100
            found[place] = np.sum(np.where(slope == 0, 0.0, times(g, slope)))
        return found

    return vjp


def smooth(name: str, function: Callable[..., Array], n: int = 1, **more: Any) -> None:
    more.setdefault("dtype", lambda *dtypes, **static: joint(*dtypes))
    define(name, function, *(analytic(function, i) for i in range(n)), **more)


# Products.


def _product(a: Array, b: Array) -> Array:
    return np.matmul(a, b)


def _as_matrices(a: Array, b: Array, g: Array) -> tuple[Array, Array, Array]:
    if a.ndim == 1:
        a, g = a[None], np.expand_dims(g, -1 if b.ndim == 1 else -2)
    elif b.ndim == 1:
        g = g[..., None]
    if b.ndim == 1:
        b, g = b[:, None], g.reshape(g.shape if g.ndim >= 2 else (*g.shape, 1))
    return a, b, g


def _matmul_a(g: Array, y: Array, a: Array, b: Array) -> Array:
    A, B, G = _as_matrices(a, b, g)
    return down(G @ B.swapaxes(-1, -2), A.shape).reshape(a.shape)


def _matmul_b(g: Array, y: Array, a: Array, b: Array) -> Array:
    A, B, G = _as_matrices(a, b, g)
    return down(A.swapaxes(-1, -2) @ G, B.shape).reshape(b.shape)


def down(value: Array, shape: tuple[int, ...]) -> Array:
    """Summed to ``shape``: the transpose of broadcasting."""
    value = np.asarray(value)
    if value.shape == shape:
        return value
    if value.ndim > len(shape):
        value = value.sum(axis=tuple(range(value.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 != value.shape[i])
    value = value.sum(axis=stretched, keepdims=True) if stretched else value
    return np.broadcast_to(value, shape)


define("matmul", _product, _matmul_a, _matmul_b)
define("dot", np.dot, lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)
define("outer", np.outer, lambda g, y, a, b: g @ b, lambda g, y, a, b: a @ g)
define(
    "affine",
    lambda W, b, x: np.einsum("mk,...k->...m", W, x) + b,
    lambda g, y, W, b, x: np.einsum("...m,...k->mk", g, x),
    lambda g, y, W, b, x: g.reshape(-1, g.shape[-1]).sum(0),
    lambda g, y, W, b, x: g @ W,
)


def _einsum(a: Array, b: Array, subscripts: str) -> Array:
    return np.einsum(subscripts, a, b)


smooth("einsum", _einsum, 2)


def _bilinear(x: Array, W: Array, y: Array) -> Array:
    if not all(np.isfinite(a).all() for a in (x.real, W.real, y.real)):
        raise Unspecified("which two of three are multiplied first, and what zero meets infinity")
    return np.einsum("k,mkl,l->m", x, W, y)


smooth("bilinear", _bilinear, 3)


def per_axis(value: Any, n: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * n


def _views(x: Array, kernel: Sequence[int], stride: Any, dilation: Any, out: Sequence[int]) -> Any:
    """For each element of the kernel, what it meets in ``x`` (..., *size), already padded."""
    n = len(kernel)
    for k in itertools.product(*map(range, kernel)):
        parts = tuple(
            slice(i * d, i * d + (o - 1) * s + 1, s) for i, d, s, o in zip(k, dilation, stride, out, strict=True)
        )
        yield k, x[(..., *parts)]
    assert n


def _padding(x: Array, n: int, pairs: Any, fill: float = 0.0) -> Array:
    """Padded, or cut where negative."""
    pairs = [p if isinstance(p, tuple) else (p, p) for p in per_axis(pairs, n)]
    lead = [(0, 0)] * (x.ndim - n)
    x = np.pad(x, [*lead, *((max(a, 0), max(b, 0)) for a, b in pairs)], constant_values=fill)
    cut = tuple(slice(max(-a, 0), x.shape[x.ndim - n + i] - max(-b, 0)) for i, (a, b) in enumerate(pairs))
    return x[(..., *cut)]


def _conv(x: Array, W: Array, b: Array = None, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Array:
    n = W.ndim - 2
    stride, dilation = per_axis(stride, n), per_axis(dilation, n)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, W.shape[2:], strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in totals)
    x = _padding(x, n, 0 if padding == "valid" else padding)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, W.shape[2:], strict=True)]
    out = [(s - r) // t + 1 for s, r, t in zip(x.shape[1:], reach, stride, strict=True)]
    if min(out) < 1:
        raise ValueError("the kernel does not fit")
    parts, inside, outside = [], W.shape[1], W.shape[0] // groups
    for group in range(groups):
        some, weight = x[group * inside : (group + 1) * inside], W[group * outside : (group + 1) * outside]
        y: Any = 0
        for k, view in _views(some, W.shape[2:], stride, dilation, out):
            y = y + np.tensordot(weight[(slice(None), slice(None), *k)], view, 1)
        parts.append(y)
    y = np.concatenate(parts)
    return y if b is None else y + b.reshape(-1, *(1,) * n)


smooth("conv", _conv, 3)


def _conv_transpose(
    x: Array, W: Array, b: Array = None, *, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Array:
    n = W.ndim - 2
    stride, dilation, padding, more = (per_axis(v, n) for v in (stride, dilation, padding, output_padding))
    rows = zip(x.shape[1:], W.shape[2:], stride, dilation, more, strict=True)
    full = [(s - 1) * t + d * (k - 1) + 1 + m for s, k, t, d, m in rows]
    y = np.zeros((W.shape[1] * groups, *full), np.result_type(x, W))
    each = W.shape[0] // groups
    for c in range(x.shape[0]):
        at = c // each * W.shape[1]
        for k, view in _views(y[at : at + W.shape[1]], W.shape[2:], stride, dilation, x.shape[1:]):
            view += W[(c, slice(None), *k)].reshape(-1, *(1,) * n) * x[c]
    y = y[(slice(None), *(slice(p, s - p) for p, s in zip(padding, y.shape[1:], strict=True)))]
    return y if b is None else y + b.reshape(-1, *(1,) * n)


smooth("conv_transpose", _conv_transpose, 3)


def _places(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> list[list[int]]:
    """The elements of each window along one axis; those below 0 or beyond the size are padding."""
    found, start = [], -padding
    while True:
        window = [start + i * dilation for i in range(kernel)]
        if window[-1] >= size + padding and not (ceil_mode and start < size):
            return found
        found.append(window)
        start += stride


def _windows_of(x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """The result's place, the places inside the value, and how many there are padding included."""
    n = len(kernel)
    stride, padding, dilation = (per_axis(v, n) for v in (stride, padding, dilation))
    size = x.shape[x.ndim - n :]
    axes = [_places(*row, ceil_mode) for row in zip(size, kernel, stride, padding, dilation, strict=True)]
    if any(2 * p > k for k, p in zip(kernel, padding, strict=True)):
        raise ValueError("padding of more than half of the kernel")
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    if any(r > m for r, m in zip(reach, size, strict=True)):
        raise ValueError("no window fits")
    for place in np.ndindex(*map(len, axes)):
        spots = list(itertools.product(*(axis[p] for axis, p in zip(axes, place, strict=True))))
        inside = [s for s in spots if all(0 <= i < m for i, m in zip(s, size, strict=True))]
        counted = sum(all(i < m + p for i, m, p in zip(s, size, padding, strict=True)) for s in spots)
        yield tuple(map(len, axes)), place, inside, counted


def _max_pool_places(x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Array:
    """The number, from 1 on, of the first of the largest elements of each window; 0 where there is none."""
    n = len(kernel)
    flat = np.arange(1, x.size + 1).reshape(x.shape)
    found: Any = None
    for shape, place, inside, _ in _windows_of(x, kernel, stride, padding, dilation, ceil_mode):
        if found is None:
            found = np.zeros((*x.shape[: x.ndim - n], *shape), int)
        for lead in np.ndindex(*x.shape[: x.ndim - n]):
            spots = [lead + s for s in inside]
            if spots:
                found[lead + place] = flat[max(spots, key=lambda s: (x[s],))]
    return found


def _max_pool(x: Array, **how: Any) -> Array:
    return np.append(-np.inf, x.ravel())[_max_pool_places(x, **how)]


def _max_pool_x(g: Array, y: Array, x: Array, **how: Any) -> Array:
    found = np.zeros(x.size + 1)
    np.add.at(found, _max_pool_places(x, **how).ravel(), g.ravel())
    return found[1:].reshape(x.shape)


define("max_pool", _max_pool, _max_pool_x, dtype=lambda t, **how: t, exact=True)


def _avg_pool(x: Array, count_include_pad: bool, divisor_override: Any, **how: Any) -> Array:
    n, found = len(how["kernel"]), None
    for shape, place, inside, counted in _windows_of(x, dilation=1, **how):
        if found is None:
            found = np.zeros((*x.shape[: x.ndim - n], *shape), x.dtype)
        divisor = divisor_override or (counted if count_include_pad else len(inside))
        found[(..., *place)] = sum(x[(..., *s)] for s in inside) / divisor
    return found


smooth("avg_pool", _avg_pool)


def _adaptive(x: Array, output_size: Any) -> Array:
    n = len(output_size)
    old = x.shape[x.ndim - n :]
    out = [s if o is None else o for o, s in zip(output_size, old, strict=True)]
    y = np.zeros((*x.shape[: x.ndim - n], *out), x.dtype)
    for place in np.ndindex(*out):
        rows = zip(place, out, old, strict=True)
        bins = tuple(slice(math.floor(i * s / o), math.ceil((i + 1) * s / o)) for i, o, s in rows)
        y[(..., *place)] = x[(..., *bins)].mean(axis=tuple(range(-n, 0)))
    return y


smooth("adaptive_avg_pool", _adaptive)


def shown(x: Array, fill: float, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Array:
    """`lf.windows`."""
    n = len(kernel)
    stride, dilation = per_axis(stride, n), per_axis(dilation, n)
    x = _padding(x, n, padding, fill)
    sizes = x.shape[x.ndim - n :]
    rows = zip(sizes, kernel, stride, dilation, strict=True)
    out = [(s - d * (k - 1) - 1) // t + 1 for s, k, t, d in rows]
    if min(out) < 1:
        raise ValueError("the kernel does not fit")
    y = np.empty((*x.shape[: x.ndim - n], *kernel, *out), x.dtype)
    for k, view in _views(x, kernel, stride, dilation, out):
        y[(slice(None),) * (x.ndim - n) + k] = view
    return y


def _folded(x: Array, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Array:
    n = len(kernel)
    stride, dilation = per_axis(stride, n), per_axis(dilation, n)
    pairs = [p if isinstance(p, tuple) else (p, p) for p in per_axis(padding, n)]
    full = [s + a + b for s, (a, b) in zip(size, pairs, strict=True)]
    lead = x.shape[: x.ndim - 2 * n]
    y = np.zeros((*lead, *full), x.dtype)
    for k, view in _views(y, kernel, stride, dilation, x.shape[x.ndim - n :]):
        view += x[(slice(None),) * len(lead) + k]
    return y[(..., *(slice(a, a + s) for s, (a, _) in zip(size, pairs, strict=True)))]


smooth("fold_windows", _folded)


# Linear systems and decompositions.


def _t(a: Array) -> Array:
    return np.swapaxes(a, -1, -2)


smooth("inv", np.linalg.inv, mixes=True)
smooth("det", np.linalg.det, mixes=True)


def _solve(a: Array, b: Array) -> Array:
    return np.linalg.solve(a, b[..., None])[..., 0] if b.ndim == 1 else np.linalg.solve(a, b)


smooth("solve", _solve, 2, mixes=True)
define(
    "slogdet",
    lambda a: np.stack(np.linalg.slogdet(a), -1),
    lambda g, y, a: g[..., 1][..., None, None] * _t(np.linalg.inv(a)),
    mixes=True,
)


def _cholesky(a: Array) -> Array:
    """Column by column, so that complex steps go through."""
    if a.ndim > 2:
        return np.stack([_cholesky(m) for m in a])
    a, n = (a + a.T) / 2, len(a)
    found = np.zeros_like(a)
    for j in range(n):
        left = a[j, j] - np.sum(found[j, :j] ** 2)
        if left.real <= 0:
            raise np.linalg.LinAlgError("not positive definite")
        found[j, j] = left**0.5
        for i in range(j + 1, n):
            found[i, j] = (a[i, j] - np.sum(found[i, :j] * found[j, :j])) / found[j, j]
    return found


smooth("cholesky", _cholesky, mixes=True)


def _eigh(a: Array) -> Array:
    values, vectors = np.linalg.eigh((a + _t(a)) / 2)
    return np.concatenate((values, vectors.reshape(*a.shape[:-2], -1)), -1)


def _eigh_x(g: Array, y: Array, a: Array) -> Array:
    """Perturbation of first order: each pair of eigenvectors turns by what the change has between them."""
    if a.ndim > 2:
        return np.stack([_eigh_x(*part) for part in zip(g, y, a, strict=True)])
    n = len(a)
    values, v = y[:n], y[n:].reshape(n, n)
    h = v.T @ g[n:].reshape(n, n)
    inner = np.diag(g[:n])
    for i, j in itertools.permutations(range(n), 2):
        if values[i] != values[j]:
            inner[i, j] = h[i, j] / (values[j] - values[i])
    found = v @ inner @ v.T
    return (found + found.T) / 2


define("eigh", _eigh, _eigh_x, mixes=True)


def _singular_values(a: Array) -> Array:
    return np.linalg.svd(a, compute_uv=False)


def _singular_values_x(g: Array, y: Array, a: Array) -> Array:
    u, _, vh = np.linalg.svd(a, full_matrices=False)
    return (u * g[..., None, :]) @ vh


define("singular_values", _singular_values, _singular_values_x, mixes=True)


# Reductions. ``axis`` is None, a number or a tuple.


def _how(*dtypes: Any, **static: Any) -> Any:
    return first(*dtypes)


def _again(g: Array, x: Array, axis: Any, keepdims: bool) -> Array:
    """Something reduced, so that it broadcasts against what it was reduced from."""
    if keepdims:
        return g
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return np.reshape(g, [1 if i in {a % max(x.ndim, 1) for a in axes} else n for i, n in enumerate(x.shape)])


def _count(x: Array, axis: Any) -> int:
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.prod(x.shape[a] for a in axes)


def _mean(x: Array, axis: Any, keepdims: bool) -> Array:
    if not _count(x, axis):
        raise ValueError("the mean of no elements")
    return np.mean(x, axis=axis, keepdims=keepdims)


define(
    "sum",
    lambda x, axis, keepdims: np.sum(x, axis=axis, keepdims=keepdims),
    lambda g, y, x, axis, keepdims: np.broadcast_to(_again(g, x, axis, keepdims), x.shape),
    dtype=lambda t, **how: summed(t),
    sums=True,
)
define(
    "mean",
    _mean,
    lambda g, y, x, axis, keepdims: np.broadcast_to(_again(g, x, axis, keepdims) / _count(x, axis), x.shape),
    dtype=lambda t, **how: averaged(t),
    sums=True,
)
smooth("prod", lambda x, axis, keepdims: np.prod(x, axis=axis, keepdims=keepdims), dtype=lambda t, **how: summed(t))


def _extreme_x(g: Array, y: Array, x: Array, axis: Any, keepdims: bool) -> Array:
    chosen = x == _again(y, x, axis, keepdims)
    number = chosen.sum(axis=axis, keepdims=True)
    return np.where(chosen, _again(g, x, axis, keepdims) / np.maximum(number, 1), 0.0)


for _name, _f in (("max", np.max), ("min", np.min)):
    define(
        _name, lambda x, axis, keepdims, f=_f: f(x, axis=axis, keepdims=keepdims), _extreme_x, dtype=_how, exact=True
    )
for _name, _f in (("any", np.any), ("all", np.all)):
    define(
        _name,
        lambda x, axis, keepdims, f=_f: f(x, axis=axis, keepdims=keepdims),
        None,
        dtype=lambda t, **how: truth(),
        exact=True,
    )
for _name, _f in (("argmax", np.argmax), ("argmin", np.argmin)):
    define(
        _name,
        lambda x, axis, keepdims, f=_f: f(x, axis=axis, keepdims=keepdims),
        None,
        dtype=lambda t, **how: position(),
        exact=True,
    )


def _var(x: Array, axis: Any, keepdims: bool, ddof: int) -> Array:
    if not _count(x, axis) > ddof:
        raise ValueError("ddof")
    middle = x.mean(axis=axis, keepdims=True)
    return ((x - middle) ** 2).sum(axis=axis, keepdims=keepdims) / (_count(x, axis) - ddof)


def _std(x: Array, axis: Any, keepdims: bool, ddof: int) -> Array:
    return _var(x, axis, keepdims, ddof) ** 0.5


def _std_x(g: Array, y: Array, x: Array, axis: Any, keepdims: bool, ddof: int) -> Array:
    again, spread = _again(g, x, axis, keepdims), _again(y, x, axis, keepdims)
    away = (x - x.mean(axis=axis, keepdims=True)) / (_count(x, axis) - ddof)
    return np.where(spread == 0, 0.0, again * away / np.where(spread == 0, 1.0, spread))


def _var_x(g: Array, y: Array, x: Array, axis: Any, keepdims: bool, ddof: int) -> Array:
    return _again(g, x, axis, keepdims) * 2 * (x - x.mean(axis=axis, keepdims=True)) / (_count(x, axis) - ddof)


define("var", _var, _var_x, dtype=lambda t, **how: averaged(t))
define("std", _std, _std_x, dtype=lambda t, **how: averaged(t))


def _norm(x: Array, ord: float, axis: Any, keepdims: bool) -> Array:
    if ord == 1:
        return np.abs(x).sum(axis=axis, keepdims=keepdims)
    if ord == 2:
        return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))
    return np.abs(x).max(axis=axis, keepdims=keepdims)


def _norm_x(g: Array, y: Array, x: Array, ord: float, axis: Any, keepdims: bool) -> Array:
    g, y = _again(g, x, axis, keepdims), _again(y, x, axis, keepdims)
    if ord == 1:
        return g * np.sign(x)
    if ord == 2:
        return np.where(y == 0, 0.0, g * x / np.where(y == 0, 1.0, y))
    chosen = np.abs(x) == np.abs(x).max(axis=axis, keepdims=True)
    return np.where(chosen, g * np.sign(x) / np.maximum(chosen.sum(axis=axis, keepdims=True), 1), 0.0)


define("norm", _norm, _norm_x, dtype=_how)


def _logsumexp(x: Array, axis: Any, keepdims: bool) -> Array:
    top = np.max(x.real, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    count = (x.real == top).sum(axis=axis, keepdims=True)  # of the largest, whose terms are ones
    rest = np.where(x.real == top, 0.0, np.exp(x - top)).sum(axis=axis, keepdims=True)
    rest = rest + np.where(x.real == top, x - top, 0.0).sum(axis=axis, keepdims=True)  # a complex step beside a one
    found = (
        np.log(np.where(count > 0, count, rest)) + np.log1p(np.where(count > 0, rest / np.maximum(count, 1), 0.0)) + top
    )
    return found if keepdims else found.reshape(np.max(x.real, axis=axis).shape)


def _standardised(x: Array, axis: Any, eps: float) -> Array:
    off = x - x.mean(axis=axis, keepdims=True)
    return off / np.sqrt((off * off).mean(axis=axis, keepdims=True) + eps)


def _standardised_x(g: Array, y: Array, x: Array, axis: Any, eps: float) -> Array:
    off = x - x.mean(axis=axis, keepdims=True)
    inner = g - g.mean(axis=axis, keepdims=True) - y * (g * y).mean(axis=axis, keepdims=True)
    return inner / np.sqrt((off * off).mean(axis=axis, keepdims=True) + eps)


define("standardise", _standardised, _standardised_x, dtype=_how)

LIKELY = 0.5  # The logarithm of a sum that is almost one, and a probability less one, are as exact as one is.


def _log_softmax(x: Array, axis: int = -1) -> Array:
    """All NaN beside an infinite score, as in PyTorch."""
    top = np.max(x.real, axis=axis, keepdims=True)
    less = x - np.where(np.isfinite(top), top, 0.0)
    found = less - np.log(np.exp(less).sum(axis=axis, keepdims=True))
    return np.where(np.isposinf(x.real).any(axis=axis, keepdims=True), np.nan, found)


def _softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(_log_softmax(x, axis))


define(
    "logsumexp",
    _logsumexp,
    lambda g, y, x, axis, keepdims: times(_again(g, x, axis, keepdims), np.exp(x - _again(y, x, axis, keepdims))),
    dtype=_how,
)
define(
    "softmax",
    _softmax,
    lambda g, y, x, axis: y * (g - (g * y).sum(axis=axis, keepdims=True)),
    dtype=_how,
)
define(
    "log_softmax",
    _log_softmax,
    lambda g, y, x, axis: g - _softmax(x, axis) * g.sum(axis=axis, keepdims=True),
    dtype=_how,
    absolute=LIKELY,
)


def _weights(q: Array, k: Array, causal: bool, shown: tuple[bool, ...] | None) -> Array:
    scores = q @ k.T / math.sqrt(q.shape[1])
    seen = np.tri(*scores.shape, dtype=bool) | (not causal)
    if shown is not None:
        seen &= np.array(shown)
    some = seen.any(axis=1, keepdims=True)
    return np.where(some, _softmax(np.where(some, np.where(seen, scores, -np.inf), 0)), 0)


def _score_slopes(g: Array, q: Array, k: Array, v: Array, kept: Array, **seen: Any) -> Array:
    weights, of_weights = _weights(q, k, **seen), g @ v.T * kept
    return weights * (of_weights - (weights * of_weights).sum(1, keepdims=True)) / math.sqrt(q.shape[1])


define(
    "attention",
    lambda q, k, v, kept, **seen: _weights(q, k, **seen) * kept @ v,
    lambda g, y, q, k, v, kept, **seen: _score_slopes(g, q, k, v, kept, **seen) @ k,
    lambda g, y, q, k, v, kept, **seen: _score_slopes(g, q, k, v, kept, **seen).T @ q,
    lambda g, y, q, k, v, kept, **seen: (_weights(q, k, **seen) * kept).T @ g,
    None,
    dtype=lambda *types, **_: joint(*types[:3]),
)


def _cumsum_x(g: Array, y: Array, x: Array, axis: Any) -> Array:
    if axis is None:
        return np.cumsum(g[::-1])[::-1].reshape(x.shape)
    return np.flip(np.cumsum(np.flip(g, axis), axis), axis)


define("cumsum", lambda x, axis: np.cumsum(x, axis), _cumsum_x, dtype=lambda t, **how: summed(t))


def _threshold(values: Callable[[float], Array], low: float, high: float) -> float:
    """The t at which the sum of ``values(t)``, which falls with t, is one."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if values(middle).sum() > 1 else (low, middle)
    return (low + high) / 2


def _sparsemax(x: Array, axis: int) -> Array:
    def one(row: Array) -> Array:
        t = _threshold(lambda t: np.maximum(row - t, 0), row.max() - 1, row.max())
        chosen = row > t
        t = (row[chosen].sum() - 1) / chosen.sum()
        return np.maximum(row - t, 0)

    return np.apply_along_axis(one, axis, x)


def _sparsemax_x(g: Array, y: Array, x: Array, axis: int) -> Array:
    chosen = y > 0
    mean = np.where(chosen, g, 0).sum(axis=axis, keepdims=True) / chosen.sum(axis=axis, keepdims=True)
    return np.where(chosen, g - mean, 0.0)


define("sparsemax", _sparsemax, _sparsemax_x, dtype=_how)


def _constrained(x: Array, upper: Array) -> Array:
    def one(row: Array, bound: Array) -> Array:
        if bound.sum() <= 1:
            return bound
        t = _threshold(lambda t: np.minimum(np.exp(row - t), bound), row.max() - 60, row.max() + 60)
        free = np.exp(row - t) < bound
        scale = (1 - bound[~free].sum()) / np.exp(row[free]).sum()
        return np.where(free, np.exp(row) * scale, bound)

    flat = zip(x.reshape(-1, x.shape[-1]), upper.reshape(-1, upper.shape[-1]), strict=True)
    return np.reshape([one(*part) for part in flat], x.shape)


def _free_mean(g: Array, y: Array, upper: Array) -> Array:
    free = y < upper
    total = np.where(free, y, 0).sum(-1, keepdims=True)
    return free, np.where(free, y * g, 0).sum(-1, keepdims=True) / np.where(total == 0, 1, total)


def _constrained_x(g: Array, y: Array, x: Array, upper: Array) -> Array:
    free, mean = _free_mean(g, y, upper)
    return np.where(free, y * (g - mean), 0.0)


def _constrained_upper(g: Array, y: Array, x: Array, upper: Array) -> Array:
    free, mean = _free_mean(g, y, upper)
    return np.where(free, 0.0, g - mean)


define("constrained_softmax", _constrained, _constrained_x, _constrained_upper)


# Losses.


def _reduce(losses: Array, reduction: str) -> Array:
    if reduction == "none":
        return losses
    if reduction == "mean" and not losses.size:
        raise ValueError("the mean of no losses")
    return losses.sum() if reduction == "sum" else losses.sum() / losses.size


def _picked(x: Array, index: Array) -> Array:
    return np.take_along_axis(x, index[..., None].astype(np.int64), -1)[..., 0]


def _spread(g: Array, losses_shape: Any, reduction: str) -> Array:
    scale = 1 / max(math.prod(losses_shape), 1) if reduction == "mean" else 1.0
    return np.broadcast_to(g * scale, losses_shape)


def _hot(x: Array, index: Array) -> Array:
    return np.arange(x.shape[-1]) == index[..., None]


def _ce_x(g: Array, y: Array, x: Array, index: Array, reduction: str) -> Array:
    return _spread(g, index.shape, reduction)[..., None] * (_softmax(x) - _hot(x, index))


define(
    "cross_entropy",
    lambda x, index, reduction: _reduce(-_picked(_log_softmax(x), index), reduction),
    _ce_x,
    None,
    dtype=_how,
    absolute=LIKELY,
)
define(
    "nll",
    lambda x, index, reduction: _reduce(-_picked(x, index), reduction),
    lambda g, y, x, index, reduction: _spread(g, index.shape, reduction)[..., None] * -_hot(x, index).astype(float),
    None,
    dtype=_how,
)


def _violation(x: Array, index: Array, margin: float) -> Array:
    return np.where(_hot(x, index), 0.0, np.maximum(0.0, margin + x - _picked(x, index)[..., None]))


def _hinge_x(g: Array, y: Array, x: Array, index: Array, margin: float, reduction: str) -> Array:
    over = (_violation(x, index, margin) > 0).astype(float)
    over = np.where(_hot(x, index), -over.sum(-1, keepdims=True), over)
    return _spread(g, index.shape, reduction)[..., None] * over


define(
    "hinge",
    lambda x, index, margin, reduction: _reduce(_violation(x, index, margin).sum(-1), reduction),
    _hinge_x,
    None,
    dtype=_how,
)


def _pair(name: str, loss: Callable[..., Array], dx: Callable[..., Array], dt: Callable[..., Array]) -> None:
    """A loss of each element and a target."""

    def vjp(slope: Callable[..., Array]) -> Callable[..., Array]:
        return lambda g, y, x, t, reduction, **how: _spread(g, x.shape, reduction) * slope(x, t, **how)

    define(
        name,
        lambda x, t, reduction, **how: _reduce(loss(x, t, **how), reduction),
        vjp(dx),
        vjp(dt),
        dtype=lambda a, b, **how: joint(a, b),
    )


_pair("mse", lambda x, t: (x - t) ** 2, lambda x, t: 2 * (x - t), lambda x, t: 2 * (t - x))
_pair(
    "bce_with_logits",
    lambda x, t: times(t, _softplus(-x)) + times(1 - t, _softplus(x)),  # an answer of probability 0 costs nothing
    lambda x, t: _sigmoid(x) - t,
    lambda x, t: -x,
)
_pair(
    "huber",
    lambda x, t, delta: np.where(np.abs(x - t) < delta, (x - t) ** 2 / 2, delta * (np.abs(x - t) - delta / 2)),
    lambda x, t, delta: np.clip(x - t, -delta, delta),
    lambda x, t, delta: -np.clip(x - t, -delta, delta),
)
define(
    "soft_cross_entropy",
    lambda x, t, reduction: _reduce(times(t, _logsumexp(x, -1, True) - x).sum(-1), reduction),
    lambda g, y, x, t, reduction: (
        _spread(g, x.shape[:-1], reduction)[..., None] * (_softmax(x) * t.sum(-1, keepdims=True) - t)
    ),
    lambda g, y, x, t, reduction: _spread(g, x.shape[:-1], reduction)[..., None] * (_logsumexp(x, -1, True) - x),
    dtype=lambda a, b, **how: joint(a, b),
    absolute=LIKELY,
)


def _bounded_log(x: Array) -> Array:
    return np.maximum(np.log(x), -100.0)


_pair(
    "binary_cross_entropy",
    lambda x, t: -(t * _bounded_log(x) + (1 - t) * _bounded_log(1 - x)),
    lambda x, t: (x - t) / np.maximum((1 - x) * x, 1e-12),
    lambda x, t: _bounded_log(1 - x) - _bounded_log(x),
)

# Positions.

define(
    "argsort",
    lambda x, axis: np.argsort(x, axis=axis, kind="stable"),
    None,
    dtype=lambda t, **how: position(),
    exact=True,
)
define(
    "one_hot",
    lambda i, n, dtype: np.eye(n)[i],
    None,
    dtype=lambda t, n, dtype: np.dtype(dtype),
    exact=True,
)  # fmt: skip


def _lookup_x(g: Array, y: Array, table: Array, index: Array) -> Array:
    found = np.zeros(table.shape)
    np.add.at(found, index, g)
    return found


define("lookup", lambda table, index: table[index], _lookup_x, None, dtype=first, exact=True)


def _take_x(g: Array, y: Array, x: Array, index: Array, axis: int) -> Array:
    return _moved_vjp(g, y, x, lambda v, _: np.take(v, index, axis))


define("take", lambda x, index, axis: np.take(x, index, axis), _take_x, None, dtype=lambda t, i, **how: t, exact=True)


def _pick(x: Array, index: Array, axis: int) -> Array:
    if index.ndim:
        raise ValueError("one index")
    moved = np.moveaxis(x, axis, -1)
    return np.take_along_axis(moved, np.broadcast_to(index, moved.shape[:-1])[..., None], -1)[..., 0]


def _pick_x(g: Array, y: Array, x: Array, index: Array, axis: int) -> Array:
    return _moved_vjp(g, y, x, lambda v, _: _pick(v, index, axis))


define("pick", _pick, _pick_x, None, dtype=lambda t, i, **how: t, exact=True)


def _along_x(g: Array, y: Array, x: Array, index: Array, axis: Any) -> Array:
    return _moved_vjp(g, y, x, lambda v, _: np.take_along_axis(v, index, axis))


define(
    "take_along_axis",
    lambda x, index, axis: np.take_along_axis(x, index, axis),
    _along_x,
    None,
    dtype=lambda t, i, **how: t,
    exact=True,
)


def _scatter(rows: Array, index: Array, n: int) -> Array:
    found = np.zeros((n, *rows.shape[index.ndim :]), rows.dtype)
    np.add.at(found, index, rows)
    return found


define("scatter", _scatter, lambda g, y, rows, index, n: g[index], None, dtype=lambda t, i, **how: t)


def _of_segments(x: Array, index: Array, n: int, function: Callable[[Array], Array], empty: float) -> Array:
    found = np.full((n, *x.shape[1:]), empty, x.dtype)
    for segment in np.unique(index):
        found[segment] = function(x[index == segment])
    return found


def _segment_mean(x: Array, index: Array, n: int) -> Array:
    return _of_segments(x, index, n, lambda rows: rows.mean(0), 0)


def _segment_mean_x(g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    count = np.bincount(index, minlength=n)[index]
    return g[index] / count.reshape(-1, *[1] * (x.ndim - 1))


def _segment_max(x: Array, index: Array, n: int) -> Array:
    return _of_segments(x, index, n, lambda rows: rows.max(0), -np.inf)


def _segment_max_x(g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    chosen = (x == y[index]).astype(float)
    return np.where(chosen > 0, g[index] / np.maximum(_scatter(chosen, index, n)[index], 1), 0.0)


def _segment_softmax(x: Array, index: Array, n: int) -> Array:
    found = np.zeros_like(x)
    for segment in np.unique(index):
        found[index == segment] = _softmax(x[index == segment], 0)
    return found


def _segment_softmax_x(g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    return y * (g - _scatter(g * y, index, n)[index])


define("segment_mean", _segment_mean, _segment_mean_x, None, dtype=lambda t, i, **how: t, sums=True)
define("segment_max", _segment_max, _segment_max_x, None, dtype=lambda t, i, **how: t, exact=True)
define("segment_softmax", _segment_softmax, _segment_softmax_x, None, dtype=lambda t, i, **how: t)


def circular(u: Array, v: Array, sign: int) -> Array:
    n = len(u)
    return np.array([sum(u[j] * v[(i + sign * j) % n] for j in range(n)) for i in range(n)])


smooth("circular", circular, 2)


# Random numbers: SplitMix64 (Steele, Lea and Flood 2014), with Python's integers.

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def words(seed: int, count: int, n: int) -> list[int]:
    """``n`` words of 64 bits for draw number ``count`` of the stream ``seed``."""
    state = _mix((_mix(seed) + count * _GAMMA) & _MASK)
    return [_mix((state + k * _GAMMA) & _MASK) for k in range(1, n + 1)]


def _halves(seed: int, count: int, n: int) -> list[int]:
    return [h for w in words(seed, count, (n + 1) // 2) for h in (w & 0xFFFFFFFF, w >> 32)][:n]


def _unit(seed: int, count: int, n: int, dtype: Any) -> Array:
    if dtype.itemsize == 8:
        return np.array([(w >> 11) * 2.0**-53 for w in words(seed, count, n)])
    p = 24 if dtype.itemsize == 4 else 11
    return np.array([(h >> (32 - p)) * 2.0**-p for h in _halves(seed, count, n)])


def _gauss(seed: int, count: int, n: int, dtype: Any) -> Array:
    m = n + n % 2
    p, drawn = (53, [w >> 11 for w in words(seed, count, m)]) if dtype.itemsize == 8 else (32, _halves(seed, count, m))
    found = []
    for a, b in zip(drawn[0::2], drawn[1::2], strict=True):
        radius = math.sqrt(-2 * math.log((a + 1) * 2.0**-p))
        found += [radius * math.cos(2 * math.pi * b * 2.0**-p), radius * math.sin(2 * math.pi * b * 2.0**-p)]
    return np.array(found[:n])


def _below(seed: int, count: int, n: int, p: float) -> Array:
    return np.array([(h >> 8) < round(p * 2**24) for h in _halves(seed, count, n)], float)


def drawn(name: str, seed: int, count: int, n: int, dtype: Any, *given: float) -> Array:
    """The numbers of one draw, as a vector."""
    if name == "uniform":
        low, high = given
        return low + _unit(seed, count, n, dtype) * (high - low)
    if name == "normal":
        mean, std = given
        return mean + std * _gauss(seed, count, n, dtype)
    if name == "gumbel":
        loc, scale = given
        u = [((w >> 12) + 0.5) * 2.0**-52 for w in words(seed, count, n)]
        return np.array([loc - scale * math.log(-math.log(v)) for v in u])
    if name == "bernoulli":
        return _below(seed, count, n, given[0])
    keep = 1 - given[0]
    return _below(seed, count, n, keep) * (1 / keep if keep else 0.0)

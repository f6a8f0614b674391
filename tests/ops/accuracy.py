"""How accurate elementwise functions are: the one table of bounds, for every kernel that computes them.

A bound is in ulps: units in the last place of the right result, rounded to the dtype (below the normal numbers, the
smallest subnormal one). It holds over the whole domain, tails included, for the value (``y``) and for the slope in each
operand, in the kernels of single operations, in NumPy's blocks and in compiled loops. Results that are not finite, and
zeros, are exact. The references are `mpmath`'s.

What kernels are made of: sums, products, quotients, square roots, comparisons and selections are rounded once
(`tests/fuse/test_exactness.py`). ``exp``, ``expm1``, ``log``, ``log1p``, ``tanh`` and the trigonometric functions are
NumPy's, which allows its vector code 4 ulps, or our own, of at most 1 (``exp``) and 5 (``tanh`` in float32).

Some bounds are wider, each for a reason that its row gives:

- ``near`` is a size that an error is relative to at least. A result near a root that is no number of the dtype, such as
  that of the slope of silu at -1.278, has as few right digits as its operand.
- ``further`` ulps come of what ``exp`` is taken of, if that was rounded: its error is multiplied by its size.
- ``factor``: where a result is a product with a number that is subnormal, the error of that is multiplied by this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mpmath as mp

Reference = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    """One function: references and bounds of its value (``y``) and of its slopes by operand.

    ``domain`` is that of the first operand, ``others`` are values of the second, ``points`` where to look closely.
    """

    references: Mapping[str, Reference]
    bounds: Mapping[str, float]
    domain: tuple[float, float] = (-float("inf"), float("inf"))
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    points: tuple[float, ...] = ()
    near: Mapping[str, float] = field(default_factory=dict)
    further: Reference = lambda *x: 0
    factor: Reference = lambda *x: 0


def row(y: Reference, slope: Reference | None, *bounds: float, **more: Any) -> Row:
    """The row of a function of one operand ``x``: its value, its slope, and their bounds."""
    found = {"y": y} if slope is None else {"y": y, "x": slope}
    return Row(found, dict(zip(found, bounds, strict=True)), **more)


def logistic(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def bell(x: Any) -> Any:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def exp2(x: Any) -> Any:
    return mp.exp(x * mp.log(2))  # not by mp.power, which takes the power of an integer exactly, however large it is


def log1pexp(x: Any) -> Any:
    return mp.log1p(mp.exp(x))


def softplus(x: Any) -> Any:
    return x + log1pexp(-x) if x > 0 else log1pexp(x)


def ndtr(x: Any) -> Any:
    return mp.erfc(-min(max(x, -10000), 10000) / mp.sqrt(2)) / 2


def tanhshrink(x: Any) -> Any:
    return x - mp.tanh(x) if abs(x) > 1e-9 else x**3 / 3 - 2 * x**5 / 15


def tanh_inner(x: Any) -> Any:
    return mp.sqrt(8 / mp.pi) * (x + mp.mpf(0.044715) * x**3)


def gelu_tanh_slope(x: Any) -> Any:
    u = tanh_inner(x)
    inner = mp.sqrt(8 / mp.pi) * (1 + 3 * mp.mpf(0.044715) * x * x)
    return logistic(u) + x * logistic(u) * logistic(-u) * inner


def overflown(x: Any) -> Any:
    """Where ``x * x`` is infinite, ``1 / (1 + x * x)`` is 0 and not a subnormal number: it, in smallest ones."""
    least = 1.4e-45 if abs(x) < 1e100 else 5e-324
    return 1 / mp.mpf(x) ** 2 / least if abs(x) > 1e19 else 0


SCALE, SCALE_ALPHA = mp.mpf(1.0507009873554805), mp.mpf(1.7580993408473766)
ALPHAS = (0.1, 1.0, 2.5, -0.5, -2.0)

TABLE: Mapping[str, Row] = {
    # Rounded once, or a few times.
    "square": row(lambda x: x * x, lambda x: 2 * x, 0.5, 0.5),
    "sqrt": row(mp.sqrt, lambda x: 0.5 / mp.sqrt(x), 0.5, 1.5, domain=(0, float("inf"))),
    "reciprocal": row(lambda x: 1 / x, lambda x: -1 / (x * x), 0.5, 2.5),
    "softsign": row(lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2, 1.5, 3),
    "divide": Row(
        {"y": lambda a, b: a / b, "a": lambda a, b: 1 / b, "b": lambda a, b: -a / (b * b)},
        {"y": 0.5, "a": 0.5, "b": 1.5},
        others={"b": (3.0, -0.7, 1e-12, 1e15)},
    ),
    # Powers. The slope's exponent is rounded where it is less than -1 / 2.
    "power": Row(
        {
            "y": mp.power,
            "a": lambda a, b: b * mp.power(a, b - 1),
            "b": lambda a, b: mp.power(a, b) * mp.log(a),
        },
        {"y": 4, "a": 5, "b": 7},
        domain=(5e-324, float("inf")),
        others={"b": (0.5, 1.0, 2.0, 3.5, 0.3, -1.5)},
        points=(1.0,),
        further=lambda a, b: abs(mp.log(a)) if b < 0.5 else 0,
        factor=lambda a, b: abs(mp.log(a)),
    ),
    "hypot": Row(
        {"y": mp.hypot, "a": lambda a, b: a / mp.hypot(a, b), "b": lambda a, b: b / mp.hypot(a, b)},
        {"y": 2, "a": 3, "b": 3},
        others={"b": (1.0, -1e-12, 1e30)},
    ),
    "arctan2": Row(
        {
            "y": mp.atan2,
            "a": lambda a, b: b / (a * a + b * b),
            "b": lambda a, b: -a / (a * a + b * b),
        },
        {"y": 4, "a": 4, "b": 4},
        others={"b": (1.0, -1e-12, 1e30)},
    ),
    # Exponentials and logarithms.
    "exp": row(mp.exp, mp.exp, 4, 4),
    "expm1": row(mp.expm1, mp.exp, 4, 4, points=(0.0,)),
    "log": row(mp.log, lambda x: 1 / x, 4, 0.5, domain=(0, float("inf")), points=(1.0,)),
    "log1p": row(mp.log1p, lambda x: 1 / (1 + x), 4, 1.5, domain=(-1, float("inf")), points=(-1.0, 0.0)),
    "exp2": row(exp2, lambda x: mp.log(2) * exp2(x), 4, 5),
    "log2": row(lambda x: mp.log(x, 2), lambda x: 1 / (x * mp.log(2)), 4, 2, domain=(0, float("inf")), points=(1.0,)),
    "log10": row(mp.log10, lambda x: 1 / (x * mp.log(10)), 4, 2, domain=(0, float("inf")), points=(1.0,)),
    "cbrt": row(
        lambda x: mp.sign(x) * mp.cbrt(abs(x)),
        lambda x: 1 / (3 * mp.cbrt(abs(x)) ** 2),
        2,
        6,
        domain=(5e-324, float("inf")),
    ),
    "deg2rad": row(mp.radians, lambda x: mp.pi / 180, 1.5, 1),
    "rad2deg": row(mp.degrees, lambda x: 180 / mp.pi, 1.5, 1),
    "logaddexp": Row(
        {"y": lambda a, b: softplus(a - b) + b, "a": lambda a, b: logistic(a - b), "b": lambda a, b: logistic(b - a)},
        {"y": 5, "a": 6, "b": 6},
        others={"b": (2.0,)},
        further=lambda a, b: abs(a - b),
    ),
    "logaddexp2": Row(
        {
            "y": lambda a, b: softplus(mp.log(2) * (a - b)) / mp.log(2) + b,
            "a": lambda a, b: logistic(mp.log(2) * (a - b)),
            "b": lambda a, b: logistic(mp.log(2) * (b - a)),
        },
        {"y": 6, "a": 6, "b": 6},
        others={"b": (2.0,)},
        further=lambda a, b: abs(a - b),
    ),
    # Off by what pi times the operand is rounded by, which is not small beside a result near a root.
    "sinc": row(
        mp.sincpi,
        lambda x: (mp.cospi(x) - mp.sincpi(x)) / x if x else mp.mpf(0),
        4,
        16,
        domain=(-1e4, 1e4),
        points=(0.0, 0.2, 1.0),
        near={"y": 1.0, "x": 1.0},
    ),
    # Trigonometry. Slopes that divide by a rounded square are of 2 ulps more.
    "sin": row(mp.sin, mp.cos, 4, 4),
    "cos": row(mp.cos, lambda x: -mp.sin(x), 4, 4),
    "tan": row(mp.tan, lambda x: mp.sec(x) ** 2, 4, 8),
    "arcsin": row(mp.asin, lambda x: 1 / mp.sqrt((1 - x) * (1 + x)), 4, 3, domain=(-1, 1), points=(-1.0, 0.0, 1.0)),
    "arccos": row(mp.acos, lambda x: -1 / mp.sqrt((1 - x) * (1 + x)), 4, 3, domain=(-1, 1), points=(-1.0, 0.0, 1.0)),
    "arctan": row(mp.atan, lambda x: 1 / (1 + x * x), 4, 3, factor=overflown),
    "sinh": row(mp.sinh, mp.cosh, 4, 4),
    "cosh": row(mp.cosh, mp.sinh, 4, 4),
    "tanh": row(mp.tanh, lambda x: mp.sech(x) ** 2, 5, 5),
    "tanhshrink": row(tanhshrink, lambda x: mp.tanh(x) ** 2, 7, 11, points=(1.0, -1.0)),
    "arcsinh": row(mp.asinh, lambda x: 1 / mp.sqrt(1 + x * x), 4, 2.5),
    "arccosh": row(mp.acosh, lambda x: 1 / mp.sqrt((x - 1) * (x + 1)), 4, 3, domain=(1, float("inf")), points=(1.0,)),
    "arctanh": row(mp.atanh, lambda x: 1 / ((1 - x) * (1 + x)), 4, 3, domain=(-1, 1), points=(-1.0, 0.0, 1.0)),
    # Distribution functions.
    "erf": row(mp.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x), 6, 6),
    "ndtr": row(ndtr, bell, 6, 6),
    "lgamma": row(
        mp.loggamma,
        mp.digamma,
        8,
        6,
        domain=(0, float("inf")),
        points=(1.0, 1.4616, 2.0, 8.0),
        near={"y": 8.0, "x": 2.0},
    ),
    # Activations.
    "sigmoid": row(logistic, lambda x: logistic(x) * logistic(-x), 4, 5),
    "logsigmoid": row(lambda x: -softplus(-x), lambda x: logistic(-x), 5, 6),
    "softplus": row(softplus, logistic, 5, 6),
    "elu": Row(
        {
            "y": lambda x, alpha: x if x > 0 else alpha * mp.expm1(x),
            "x": lambda x, alpha: 1 if x > 0 else alpha * mp.exp(x),
        },
        {"y": 4.5, "x": 4.5},
        others={"alpha": ALPHAS},
    ),
    "selu": row(
        lambda x: SCALE * x if x > 0 else SCALE_ALPHA * mp.expm1(x),
        lambda x: SCALE if x > 0 else SCALE_ALPHA * mp.exp(x),
        4.5,
        4.5,
    ),
    "celu": Row(
        {
            "y": lambda x, alpha: x if x > 0 else alpha * mp.expm1(x / alpha),
            "x": lambda x, alpha: 1 if x > 0 else mp.exp(x / alpha),
        },
        {"y": 5, "x": 5},
        others={"alpha": (0.1, 1.0, 2.5, -2.0)},
        further=lambda x, alpha: abs(min(x, 0) / alpha),
    ),
    "silu": row(
        lambda x: x * logistic(x),
        lambda x: logistic(x) * (1 + x * logistic(-x)),
        4.5,
        5,
        points=(-1.2784645,),
        near={"x": 0.25},
        factor=abs,
    ),
    "gelu": row(
        lambda x: x * ndtr(x), lambda x: ndtr(x) + x * bell(x), 6, 6, points=(-0.7517916,), near={"x": 0.25}, factor=abs
    ),
    "gelu_tanh": row(
        lambda x: x * logistic(tanh_inner(x)),
        gelu_tanh_slope,
        5,
        6,
        points=(-0.7524614,),
        near={"x": 0.25},
        further=lambda x: 5 * abs(tanh_inner(x)),
        factor=abs,
    ),
}

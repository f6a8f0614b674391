"""Elementwise operations, one line each: the name, the formula, and for each operand the formula of its derivative.

In the derivatives ``g`` is the cotangent of the result and ``y`` the result. An operand without a derivative is not
differentiable there. ``slope``, ``alpha``, ``lo`` and ``hi`` are operands like any other, so that calls with different
values run together.

Dtypes are NumPy's: the dtype of a result is what NumPy's promotion makes of the formula, Python numbers being weak.
Masks select and do not multiply: ``where(mask, g, 0)``, since an infinite ``g`` times no is not zero. The other way
round, a zero ``g`` times an infinite slope, every derivative is zero by itself: see `lazyflow.ops.formula.pullback`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import Abstract, Op, Result, broadcast_shape, looking_at, register, require_floating, written
from lazyflow.ops.formula import (
    at_first_call,
    compile_forward,
    compile_vjp,
    multiply_no_nan,
    operands_of,
    parse,
    pullback,
    result_dtype,
)


def _infer_formula(name: str, source: str, *operands: Abstract) -> Result:
    formula = parse(source)
    if len(operands) != len(formula.operands):
        raise TypeError(
            f"{name} takes {len(formula.operands)} operands ({', '.join(formula.operands)}), got {len(operands)}"
        )
    shape = broadcast_shape(name, operands)
    try:
        return Result(shape, result_dtype(formula, tuple(o.dtype for o in operands)))
    except TypeError as error:
        dtypes = ", ".join(f"{n} {o.dtype}" for n, o in zip(formula.operands, operands, strict=True))
        raise DTypeError(f"{name} does not take {dtypes}: {error}; convert with .astype(...)") from None


def elementwise(name: str, formula: str, **derivatives: str) -> Op:
    """Register an elementwise operation: kernels, shape rule and gradients all follow from the formulas.

    Operands are named in the formula and come in the order in which they appear there. Raises ``ValueError`` for the
    derivative of something that is no operand; a formula outside `lazyflow.ops.formula` is refused at its first use,
    when it is read: there are hundreds, and few programs need more than ten.
    """
    operands = operands_of(formula)
    unknown = sorted(set(derivatives) - set(operands))
    if unknown:
        raise ValueError(f"{name}: {', '.join(unknown)} is no operand of {formula!r}")
    vjps = tuple(_vjp(f"{name}_{o}", derivatives[o], operands) if o in derivatives else None for o in operands)
    return register(
        Op(
            name,
            partial(_infer_formula, name, formula),
            at_first_call(lambda: compile_forward(name, parse(formula))),
            vjps,
            elementwise=True,
            formula={"y": formula, **derivatives},
        )
    )


def _vjp(name: str, source: str, operands: Sequence[str]) -> Callable[..., Array]:
    """A vjp that says what it looks at."""
    unknown = sorted(set(operands_of(source)) - {"g", "y", *operands})
    if unknown:
        raise ValueError(f"formula {source!r} of {name}: unknown operand {', '.join(unknown)}")
    kernel = at_first_call(lambda: compile_vjp(name, pullback(source), operands))
    return looking_at(kernel, [i for i, o in enumerate(("y", *operands)) if o in operands_of(source)])


# Arithmetic. A power's exponent has a gradient where the base is positive, and 0 ** 0 has derivative 0 in its base.
ADD = elementwise("add", "a + b", a="g", b="g")
SUBTRACT = elementwise("subtract", "a - b", a="g", b="-g")
MULTIPLY = elementwise("multiply", "a * b", a="g * b", b="g * a")
DIVIDE = elementwise("divide", "a / b", a="g / b", b="-(y / b * g)")
FLOOR_DIVIDE = elementwise("floor_divide", "a // b")
REMAINDER = elementwise("remainder", "a % b", a="g", b="-(a // b * g)")
POWER = elementwise("power", "a ** b", a="g * b * a ** (b - (b != 0))", b="g * y * log(where(a > 0, a, 1))")
NEGATIVE = elementwise("negative", "-x", x="-g")
RECIPROCAL = elementwise("reciprocal", "1 / x", x="-(g * y * y)")
SQUARE = elementwise("square", "x * x", x="2 * g * x")
SQRT = elementwise("sqrt", "sqrt(x)", x="0.5 * g / y")
ABS = elementwise("abs", "abs(x)", x="where(x > 0, g, 0) - where(x < 0, g, 0)")

# Ties are shared evenly, as in HIPS/autograd.
MAXIMUM = elementwise(
    "maximum",
    "maximum(a, b)",
    a="where(a > b, g, 0) + where(a == b, 0.5 * g, 0)",
    b="where(b > a, g, 0) + where(a == b, 0.5 * g, 0)",
)
MINIMUM = elementwise(
    "minimum",
    "minimum(a, b)",
    a="where(a < b, g, 0) + where(a == b, 0.5 * g, 0)",
    b="where(b < a, g, 0) + where(a == b, 0.5 * g, 0)",
)
CLIP = elementwise(
    "clip",
    "minimum(maximum(x, lo), hi)",
    x="where(logical_and(x >= lo, x <= hi), g, 0)",
    lo="where(logical_and(x < lo, lo <= hi), g, 0)",
    hi="where(logical_or(x > hi, lo > hi), g, 0)",
)
WHERE = elementwise(
    "where", "where(condition, a, b)", a="where(condition, g, 0)", b="where(logical_not(condition), g, 0)"
)

# What a derivative is, as an operation: a cotangent ``a`` times a slope, zero where the cotangent is. Differentiated by
# either of them it is a product in which both annihilate what the other is, and whose derivatives are again such ones.
MULTIPLY_NO_NAN = elementwise("multiply_no_nan", "where_nonzero(a, a * b)", a="g * b", b="multiply_or_zero(g, a)")
MULTIPLY_OR_ZERO = elementwise(
    "multiply_or_zero", "multiply_or_zero(a, b)", a="multiply_or_zero(g, b)", b="multiply_or_zero(g, a)"
)

# Steps: constant almost everywhere.
SIGN = elementwise("sign", "sign(x)")
FLOOR = elementwise("floor", "floor(x)")
CEIL = elementwise("ceil", "ceil(x)")
ROUND = elementwise("round", "round(x)")

# Exponentials, logarithms, trigonometry. Derivatives are written so that no digits cancel, not by the result where that
# has lost them: that of tanh is not 1 - y * y, which is 0 from 10 on. `tests/ops/accuracy.py` has the bounds.


def _horner(x: str, coefficients: Sequence[float]) -> str:
    """A polynomial in ``x``, by Horner's rule."""
    text = repr(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        text = f"({coefficient!r} + {x} * {text})"
    return text


def _bell(x: str) -> str:
    """``e / (1 + e) ** 2`` with ``e = exp(x)``: the derivative of the logistic function, an even one, at x <= 0."""
    return f"(exp({x}) / (1 + exp({x})) / (1 + exp({x})))"


def _exp_of_square(factor: float, half: float) -> str:
    """``factor * exp(-half * x * x)``, as a product of two: a multiple of 1 / 16 has an exact square, and what is left
    is small. The error of ``x * x`` would be multiplied by its size."""
    x = "minimum(maximum(x, -40), 40)"
    near = f"(floor(16 * {x}) * 0.0625)"
    return f"({factor} * exp({-half} * {near} * {near}) * exp({half} * ({near} - {x}) * ({near} + {x})))"


EXP = elementwise("exp", "exp(x)", x="g * y")
EXPM1 = elementwise("expm1", "expm1(x)", x="exp(x) * g")
LOG = elementwise("log", "log(x)", x="g / x")
LOG1P = elementwise("log1p", "log1p(x)", x="g / (1 + x)")
SIN = elementwise("sin", "sin(x)", x="cos(x) * g")
COS = elementwise("cos", "cos(x)", x="-sin(x) * g")
TAN = elementwise("tan", "tan(x)", x="(1 + y * y) * g")
ARCSIN = elementwise("arcsin", "arcsin(x)", x="g / sqrt((1 - x) * (1 + x))")
ARCCOS = elementwise("arccos", "arccos(x)", x="-g / sqrt((1 - x) * (1 + x))")
ARCTAN = elementwise("arctan", "arctan(x)", x="g / (1 + x * x)")
_LENGTH = "(hypot(a, b) + (hypot(a, b) == 0))"
ARCTAN2 = elementwise(
    "arctan2",
    "arctan2(a, b)",  # at the origin both derivatives are 0, as in PyTorch
    a=f"b / {_LENGTH} / {_LENGTH} * g",
    b=f"-(a / {_LENGTH} / {_LENGTH} * g)",
)
HYPOT = elementwise(
    "hypot", "hypot(a, b)", a="where(y != 0, a / (y + (y == 0)), 0) * g", b="where(y != 0, b / (y + (y == 0)), 0) * g"
)
SINH = elementwise("sinh", "sinh(x)", x="cosh(x) * g")
COSH = elementwise("cosh", "cosh(x)", x="sinh(x) * g")
TANH = elementwise("tanh", "tanh(x)", x=f"4 * {_bell('-2 * magnitude(x)')} * g")

# x - tanh(x): below 1 an odd polynomial from the cube on, minimax (Remez) in 60 digits; from there on a sum, in which
# nothing cancels, since 1 - tanh(x) is 2 / (exp(2 x) + 1).
_BELOW_ONE = "(minimum(abs(x), 1) * minimum(abs(x), 1))"
_SHRINK = (
    0.3333333333333333, -0.1333333333333331, 0.05396825396823156, -0.02186948853529803, 0.008863235512589444,
    -0.0035921278236704956, 0.0014558326533984118, -0.0005900175767987523, 0.00023908846508934669,
    -9.67910927048607e-05, 3.8991871173576284e-05, -1.5416452019486524e-05, 5.777654441628333e-06,
    -1.9218143651936037e-06, 5.123303671256177e-07, -9.365620009647933e-08, 8.540000704058055e-09,
)  # fmt: skip
TANHSHRINK = elementwise(
    "tanhshrink",
    f"where(abs(x) < 1, x * {_horner(_BELOW_ONE, _SHRINK)} * {_BELOW_ONE}, "
    "sign(x) * (abs(x) - 1 + 2 / (exp(2 * abs(x)) + 1)))",
    x="tanh(x) * tanh(x) * g",
)
ARCSINH = elementwise("arcsinh", "arcsinh(x)", x="g / hypot(1, x)")
ARCCOSH = elementwise("arccosh", "arccosh(x)", x="g / (sqrt(x - 1) * sqrt(x + 1))")
ARCTANH = elementwise("arctanh", "arctanh(x)", x="g / ((1 - x) * (1 + x))")
ERF = elementwise("erf", "erf(x)", x=f"{_exp_of_square(2 / math.sqrt(math.pi), 1)} * g")

# What NumPy has beside these. Dividing by ``y`` twice keeps the sign of an infinite second derivative.
CBRT = elementwise("cbrt", "cbrt(x)", x="g / 3 / y / y")
EXP2 = elementwise("exp2", "exp2(x)", x=f"{math.log(2)} * g * y")
LOG2 = elementwise("log2", "log2(x)", x=f"{1 / math.log(2)} * g / x")
LOG10 = elementwise("log10", "log10(x)", x=f"{1 / math.log(10)} * g / x")
DEG2RAD = elementwise("deg2rad", "deg2rad(x)", x=f"{math.pi / 180} * g")
RAD2DEG = elementwise("rad2deg", "rad2deg(x)", x=f"{180 / math.pi} * g")
FMAX = elementwise(
    "fmax",
    "fmax(a, b)",
    a="where(logical_or(a > b, isnan(b)), g, 0) + where(a == b, 0.5 * g, 0)",
    b="where(logical_or(b > a, isnan(a)), g, 0) + where(a == b, 0.5 * g, 0)",
)
FMIN = elementwise(
    "fmin",
    "fmin(a, b)",
    a="where(logical_or(a < b, isnan(b)), g, 0) + where(a == b, 0.5 * g, 0)",
    b="where(logical_or(b < a, isnan(a)), g, 0) + where(a == b, 0.5 * g, 0)",
)

# sin(pi x) / (pi x). Near zero the derivative is its series, as what it is elsewhere cancels; 8 terms are exact up to
# 0.2.
_SINC_TERMS = [(-1) ** k * 2 * k * math.pi ** (2 * k) / math.factorial(2 * k + 1) for k in range(1, 9)]
_SINC_SERIES = ""
for _term in reversed(_SINC_TERMS):
    _SINC_SERIES = f"({_term!r} + x * x * {_SINC_SERIES})" if _SINC_SERIES else repr(_term)
_AWAY = "where(abs(x) < 0.2, 1, x)"
SINC = elementwise(
    "sinc",
    f"where(x == 0, 1, sin({math.pi} * x) / ({math.pi} * where(x == 0, 1, x)))",
    x=f"g * where(abs(x) < 0.2, x * {_SINC_SERIES}, (cos({math.pi} * {_AWAY}) - y) / {_AWAY})",
)

# Of bits.
BITWISE_AND = elementwise("bitwise_and", "bitwise_and(a, b)")
BITWISE_OR = elementwise("bitwise_or", "bitwise_or(a, b)")
BITWISE_XOR = elementwise("bitwise_xor", "bitwise_xor(a, b)")
INVERT = elementwise("invert", "invert(x)")
LEFT_SHIFT = elementwise("left_shift", "left_shift(a, b)")
RIGHT_SHIFT = elementwise("right_shift", "right_shift(a, b)")

# The logarithm of the gamma function for x > 0: Stirling's series from 8 on, and below that ``gamma(x + 8)`` divided by
# ``x (x + 1) ... (x + 7)``. Its derivative, digamma, alike (Abramowitz and Stegun 1964, 6.1.41 and 6.3.18).
_Z, _W = "where(x < 8, x + 8, x)", "minimum(x, 8)"
_SQUARE = f"(1 / ({_Z} * {_Z}))"
_LOW, _HIGH = (" * ".join(f"({_W} + {k})" for k in ks) for ks in ((0, 1, 2, 3), (4, 5, 6, 7)))
_BELOW = " + ".join(f"1 / ({_W} + {k})" for k in range(8))


_DIGAMMA = 1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160
_STIRLING = 1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400
LGAMMA = elementwise(
    "lgamma",
    f"({_Z} - 0.5) * (log({_Z}) - 1) + {0.5 * math.log(2 * math.pi) - 0.5}"
    f" + {_horner(_SQUARE, _STIRLING)} / {_Z}"
    f" - (x < 8) * (log({_LOW}) + log({_HIGH}))",
    x=f"g * (log({_Z}) - 0.5 / {_Z} - {_SQUARE} * {_horner(_SQUARE, _DIGAMMA)} - (x < 8) * ({_BELOW}))",
)

NDTR = elementwise("ndtr", "ndtr(x)", x=f"{_exp_of_square(1 / math.sqrt(2 * math.pi), 0.5)} * g")


# Activations. Nothing overflows: exp only sees what is at most 40, beyond which 1 + exp(x) is exp(x).


def _logistic(x: str) -> str:
    return f"(exp(minimum({x}, 40)) / (1 + exp(minimum({x}, 40))))"


_BELL = _exp_of_square(1 / math.sqrt(2 * math.pi), 0.5)
_C, _C3 = math.sqrt(2 / math.pi), 0.044715
_WIDE = "minimum(maximum(x, -40), 40)"
# (1 + tanh(u)) / 2 is the logistic function of 2 u.
_INNER = f"({_WIDE} * ({2 * _C} + {2 * _C * _C3} * {_WIDE} * {_WIDE}))"
_SLOPE = f"({2 * _C} + {6 * _C * _C3} * {_WIDE} * {_WIDE})"
_SELU, _SELU_ALPHA = 1.0507009873554805, 1.7580993408473766  # scale and scale * alpha of Klambauer et al. 2017
_BOTH = "logical_and(a == b, logical_not(isfinite(a)))"  # whose difference is not a number
_LESS, _MORE = f"where({_BOTH}, 0, a - b)", f"where({_BOTH}, 0, b - a)"
_LN2 = math.log(2)
LOGADDEXP = elementwise("logaddexp", "logaddexp(a, b)", a=f"{_logistic(_LESS)} * g", b=f"{_logistic(_MORE)} * g")
LOGADDEXP2 = elementwise(
    "logaddexp2",
    "logaddexp2(a, b)",
    a=f"{_logistic(f'({_LN2} * {_LESS})')} * g",
    b=f"{_logistic(f'({_LN2} * {_MORE})')} * g",
)
SIGMOID = elementwise("sigmoid", _logistic("x"), x=f"{_bell('-magnitude(x)')} * g")
LOGSIGMOID = elementwise("logsigmoid", "minimum(x, 0) - log1p(exp(-abs(x)))", x="-expm1(y) * g")
SOFTPLUS = elementwise("softplus", "maximum(x, 0) + log1p(exp(-abs(x)))", x="-expm1(-y) * g")
SOFTSIGN = elementwise("softsign", "x / (1 + abs(x))", x="g / (1 + abs(x)) / (1 + abs(x))")
RELU = elementwise("relu", "maximum(x, 0)", x="where(y > 0, g, 0)")
LEAKY_RELU = elementwise(
    "leaky_relu", "maximum(x, 0) + slope * minimum(x, 0)", x="where(x > 0, g, 0) + where(x <= 0, slope * g, 0)"
)
ELU = elementwise(
    "elu",
    "maximum(x, 0) + alpha * expm1(minimum(x, 0))",
    x="where(x > 0, g, 0) + where(x <= 0, alpha * exp(minimum(x, 0)) * g, 0)",
)
SELU = elementwise(
    "selu",
    f"{_SELU} * maximum(x, 0) + {_SELU_ALPHA} * expm1(minimum(x, 0))",
    x=f"where(x > 0, {_SELU} * g, 0) + where(x <= 0, {_SELU_ALPHA} * exp(minimum(x, 0)) * g, 0)",
)
CELU = elementwise(
    "celu",
    "maximum(x, 0) + alpha * expm1(minimum(x, 0) / alpha)",
    x="where(x > 0, g, 0) + where(x <= 0, exp(minimum(x, 0) / alpha) * g, 0)",
)
GELU = elementwise("gelu", "x * ndtr(x)", x=f"(ndtr(x) + x * {_BELL}) * g")
GELU_TANH = elementwise(
    "gelu_tanh",
    f"x * {_logistic(_INNER)}",
    x=f"{_logistic(_INNER)} * (1 + {_WIDE} * {_logistic(f'-{_INNER}')} * {_SLOPE}) * g",
)
# Not y + (1 - y) sigmoid(x), which cancels to 0 where x is large.
SILU = elementwise("silu", f"x * {_logistic('x')}", x=f"{_logistic('x')} * (1 + x * {_logistic('-x')}) * g")
HARDTANH = elementwise("hardtanh", "minimum(maximum(x, lo), hi)", x="where(logical_and(x > lo, x < hi), g, 0)")

# Truth values.
EQUAL = elementwise("equal", "a == b")
NOT_EQUAL = elementwise("not_equal", "a != b")
LESS = elementwise("less", "a < b")
LESS_EQUAL = elementwise("less_equal", "a <= b")
GREATER = elementwise("greater", "a > b")
GREATER_EQUAL = elementwise("greater_equal", "a >= b")
LOGICAL_AND = elementwise("logical_and", "logical_and(a, b)")
LOGICAL_OR = elementwise("logical_or", "logical_or(a, b)")
LOGICAL_NOT = elementwise("logical_not", "logical_not(x)")
ISFINITE = elementwise("isfinite", "isfinite(x)")
ISNAN = elementwise("isnan", "isnan(x)")


def _astype_infer(x: Abstract, dtype: Any) -> Result:
    target = np.dtype(dtype)
    if target.kind not in "biuf":
        raise DTypeError(f"astype: values are bool, integer or floating, not {target}")
    return Result(x.shape, target, {"dtype": target})


def _astype(xp: ArrayModule, x: Array, out: Array = None, *, dtype: DType) -> Array:
    if out is None:
        return x.astype(dtype)
    xp.copyto(out, x, casting="unsafe")
    return out


def _astype_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, dtype: DType) -> Array:
    return g.astype(x.dtype)


ASTYPE = register(Op("astype", _astype_infer, _astype, (_astype_x,)))


# A value as it is, its cotangent times a number. The number is an operand, so that different ones run together.


def _scale_gradient_infer(x: Abstract, scale: Abstract) -> Result:
    require_floating("scale_gradient", x)
    if scale.shape:
        raise ShapeError(f"scale_gradient takes one number as the scale, of shape (), got shape {scale.shape}")
    return Result(x.shape, x.dtype)


def _scale_gradient(xp: ArrayModule, x: Array, scale: Array, out: Array = None) -> Array:
    return written(out, x)


def _scale_gradient_x(xp: ArrayModule, g: Array, y: Array, x: Array, scale: Array) -> Array:
    return multiply_no_nan(xp, g, scale).astype(x.dtype)


SCALE_GRADIENT = register(
    Op("scale_gradient", _scale_gradient_infer, _scale_gradient, (_scale_gradient_x, None), elementwise=True)
)

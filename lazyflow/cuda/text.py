"""The steps of formulas as expressions of CUDA C, with NumPy's answers at infinities, NaN and zeros of either sign.

Sums, products, quotients and roots are rounded once, as on the CPU: nothing is compiled with ``-use_fast_math``, and a
product and a sum are not contracted (`OPTIONS`). Functions are CUDA's own, whose errors are in its programming guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lazyflow.device import DType

OPTIONS = ("--fmad=false",)

# What a template of the text needs in front of it.
HELPERS = """\
template <class T> __device__ T lf_remainder(T a, T b) {  // as in Python: with the sign of the divisor
    T r = fmod(a, b);
    if (b == 0 || r != r) return r;
    if (r == 0) return copysign(T(0), b);
    return (b < 0) != (r < 0) ? r + b : r;
}
template <class T> __device__ T lf_floor_divide(T a, T b) {
    T r = fmod(a, b);
    if (b == 0) return a / b;
    T quotient = (a - r) / b;
    if (r != 0 && (b < 0) != (r < 0)) quotient -= 1;
    if (quotient == 0) return copysign(T(0), a / b);
    T whole = floor(quotient);
    return quotient - whole > T(0.5) ? whole + 1 : whole;
}
union lf_word { float value; unsigned bits; };
__device__ float lf_float16_value(unsigned short bits) {
    lf_word x;
    x.bits = (bits & 0x7fffu) << 13;
    x.value *= 5192296858534827628530496329220096.0f;  // 2^112: exact, also below the normal numbers
    if ((bits & 0x7c00u) == 0x7c00u) x.bits |= 0x7f800000u;
    x.bits |= (bits & 0x8000u) << 16;
    return x.value;
}
__device__ unsigned short lf_float16_bits(float value) {
    lf_word x;
    x.value = value;
    const unsigned sign = x.bits >> 16 & 0x8000u;
    x.bits &= 0x7fffffffu;
    if (x.bits > 0x7f800000u) return (unsigned short)(sign | 0x7e00u);
    if (x.bits >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);  // 65520, halfway beyond the largest number
    if (x.bits < 0x38800000u) {  // below the normal numbers: the sum is rounded to their last digit, 2^-24
        x.value += 0.5f;
        return (unsigned short)(sign | (x.bits - 0x3f000000u));
    }
    x.bits -= 0x38000000u;
    return (unsigned short)(sign | (x.bits + 0xfffu + (x.bits >> 13 & 1u)) >> 13);
}
__device__ float lf_bfloat16_value(unsigned short bits) {
    lf_word x;
    x.bits = (unsigned)bits << 16;
    return x.value;
}
__device__ unsigned short lf_bfloat16_bits(float value) {
    lf_word x;
    x.value = value;
    if (value != value) return (unsigned short)(x.bits >> 16 | 0x40u);
    return (unsigned short)((x.bits + 0x7fffu + (x.bits >> 16 & 1u)) >> 16);
}
"""

_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_COMPARED = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">="}

# CUDA's functions, each with an f behind its name in single precision.
_CALLS_IN_C = {
    **{
        name: name
        for name in ("sqrt", "cbrt", "floor", "ceil", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p")
    },
    **{name: name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "erf", "hypot")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "abs": "fabs",
    "magnitude": "fabs",
    "round": "rint",
    "power": "pow",
    "arctan2": "atan2",
    "ndtr": "normcdf",
}

# Others: REAL stands for the type, F for the f of the functions in single precision.
_TEMPLATES = {
    "negative": "-{0}",
    "sign": "{0} > 0 ? (REAL)1 : {0} < 0 ? (REAL)-1 : {0} == 0 ? (REAL)0 : {0}",
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}",
    "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
    "fmax": "{0} > {1} || {1} != {1} ? {0} : {1}",
    "fmin": "{0} < {1} || {1} != {1} ? {0} : {1}",
    "where": "{0} != 0 ? {1} : {2}",
    "where_nonzero": "{0} != 0 || {1} == {1} ? {1} : (REAL)0",
    "multiply_or_zero": "({0} != 0 && {1} != 0) || {0} * {1} == {0} * {1} ? {0} * {1} : (REAL)0",
    "logical_and": "(REAL)({0} != 0 && {1} != 0)",
    "logical_or": "(REAL)({0} != 0 || {1} != 0)",
    "logical_not": "(REAL)({0} == 0)",
    "isfinite": "(REAL)({0} - {0} == 0)",
    "isnan": "(REAL)({0} != {0})",
    "remainder": "lf_remainder<REAL>({0}, {1})",
    "floor_divide": "lf_floor_divide<REAL>({0}, {1})",
    # Infinities of one sign are not apart.
    "logaddexp": "({0} > {1} ? {0} : {1}) + log1pF(expF({0} == {1} ? (REAL)0 : -fabsF({0} - {1})))",
    "logaddexp2": "({0} > {1} ? {0} : {1}) + log1pF(exp2F({0} == {1} ? (REAL)0 : -fabsF({0} - {1}))) * "
    "(REAL)1.4426950408889634",
    "deg2rad": f"{{0}} * (REAL){np.pi / 180!r}",
    "rad2deg": f"{{0}} * (REAL){180 / np.pi!r}",
}

KNOWN_FUNCTIONS = frozenset((*_INFIX, *_COMPARED, *_CALLS_IN_C, *_TEMPLATES))
REALS: Mapping[str, str] = {"float32": "float", "float64": "double"}


class Number(NamedTuple):
    """How a number lies in memory: its type in CUDA C, ``kept``, and what it is computed in, ``real``; the functions
    that lead from one to the other, rounding to nearest even."""

    real: str
    kept: str
    value: str = ""
    bits: str = ""


# Numbers of float32 that are kept in 16 bits, and the dtype of arrays of them: NumPy has no bfloat16, so that these are
# their bits.
STORED: Mapping[str, DType] = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}
NUMBER_FORMS: Mapping[str, Number] = {real: Number(real, real) for real in REALS.values()} | {
    name: Number("float", "unsigned short", f"lf_{name}_value", f"lf_{name}_bits") for name in STORED
}


def literal(value: float, real: str) -> str:
    """A number, rounded as NumPy rounds it.

    >>> literal(0.1, "float"), literal(float("-inf"), "double")
    ('(float)0.1', '(double)(-1.0 / 0.0)')
    """
    if value != value:
        return f"({real})(0.0 / 0.0)"
    if value in (float("inf"), float("-inf")):
        return f"({real})({'-' if value < 0 else ''}1.0 / 0.0)"
    return f"({real}){value!r}"


def expression(name: str, inputs: Sequence[str], real: str) -> str:
    """One step of values that are names or numbers.

    >>> expression("tanh", ["v1"], "float"), expression("less", ["v1", "v2"], "double")
    ('tanhf(v1)', '(double)(v1 < v2)')
    """
    if name in _INFIX:
        return f"{inputs[0]} {_INFIX[name]} {inputs[1]}"
    if name in _COMPARED:
        return f"({real})({inputs[0]} {_COMPARED[name]} {inputs[1]})"
    suffix = "f" if real == "float" else ""
    if name in _CALLS_IN_C:
        return f"{_CALLS_IN_C[name]}{suffix}({', '.join(inputs)})"
    template = _TEMPLATES[name]
    for function in ("log1p", "exp2", "exp", "fabs"):
        template = template.replace(f"{function}F(", f"{function}{suffix}(")
    return template.replace("REAL", real).format(*inputs)

"""The steps of formulas as expressions of CUDA C, with NumPy's answers at infinities, NaN and zeros of either sign.

Sums, products, quotients and roots are rounded once, as on the CPU: nothing is compiled with ``-use_fast_math``, and a
product and a sum are not contracted (`OPTIONS`). Functions are CUDA's own, whose errors are in its programming guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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

"""Kernels as one loop that numba compiles, gathers and row-adds inside.

What makes LLVM turn the loops into vector code, each measured on the gates of a Tree-LSTM (64 x 750 elements, float32:
28 us against 192 as plain numba, and 95 as NumPy calls with ``out=``):

- ``exp`` and, in float32, ``tanh`` as polynomials, as scalar calls of the C library do not vectorise: ``exp`` of what
  is left beside a multiple of log 2 (minimax, within 1 ulp, subnormal results included); ``tanh`` as the rational one
  of Eigen (13th over 6th degree, within 5 ulps, and exactly 1 where it is beyond).
- rows are slices, so that an index is never negative and needs no check;
- the checks that rows do not overlap stay with each row (see `lazyflow.jit`).

A kernel computes what its instructions say, each rounded once, as NumPy does: LLVM may neither contract a product and
a sum (``a * a - b * b`` would not be 0 at a == b) nor divide by way of a reciprocal (that of a subnormal number is
infinite). Only inside of ``exp`` and ``tanh``, whose errors the table of bounds covers, a product and a sum may be one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from lazyflow import jit
from lazyflow.fuse.scalar import ALL, BLOCK, CHEAP, LAUNCH, NUMBER, ROWS, SOME, TRUTH, Instruction, Kernel, Value

_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_ROW = {ALL: "i", LAUNCH: "i - first", SOME: "i - low"}
_COMPARE = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">="}

# What becomes vector code, of each dtype; any other function is a scalar call of the C library, 2 to 12 ns an element
# where NumPy's take 0.4 (float32).
VECTORISED = {
    "float32": CHEAP | {"divide", "sqrt", "exp", "tanh"},
    "float64": CHEAP | {"divide", "sqrt", "exp"},
}

_PRELUDE = '''"""Printed by lazyflow; see lazyflow/fuse/compiled.py."""

import math

import numpy as np
from numba import njit

_real = np.{dtype}


@njit(inline="always")
def _maximum(a, b):
    return a if a > b or a != a else b


@njit(inline="always")
def _minimum(a, b):
    return a if a < b or a != a else b


@njit(inline="always")
def _sign(x):
    return _real(1) if x > 0 else _real(-1) if x < 0 else x + _real(0)


{exp}


{tanh}
'''

# exp(x) = 2 ** n * exp(r): n is x / log 2 rounded, by adding and subtracting a number so large that all its digits are
# whole, and r = x - n log 2, with log 2 in two parts of which n times the first is exact. As n may be beyond the
# exponents of normal numbers, the power is two factors.
_EXP = """@njit(error_model="numpy", fastmath={{"contract"}}, forceinline=True)
def _exp(x):
    z = _real({high}) if x > _real({high}) else x
    z = _real({low}) if z < _real({low}) else z
    n = (z * _real({log2e!r}) + _real({whole})) - _real({whole})
    r = (z - n * _real({ln2[0]!r})) - n * _real({ln2[1]!r})
    p = _real({last!r})
    {horner}
    p = p * (r * r) + r + _real(1)
    half = n * _real(0.5) + _real({whole})
    rest = (n - (half - _real({whole}))) + _real({whole})
    return (p * _power(half)) * _power(rest)


@njit(inline="always")
def _power(n):
    return np.{integer}((_real(n).view(np.{integer}) + {bias}) << {digits}).view(_real)"""


def _exp(coefficients: Sequence[float], **constants: Any) -> str:
    """The text of ``exp``. ``coefficients``: minimax ones of (exp(r) - 1 - r) / r**2 for r up to log(2) / 2."""
    *rest, last = coefficients
    horner = "\n    ".join(f"p = p * r + _real({c!r})" for c in reversed(rest))
    return _EXP.format(last=last, horner=horner, log2e=1 / math.log(2), **constants)


_FUNCTIONS = {
    "float32": {
        "exp": _exp(
            (0.49999993447608637, 0.16666520631168508, 0.04166838807601518, 0.008368716929492741,
             0.0013814597438222226),
            low=-104, high=89, whole=1.5 * 2**23, ln2=(0.693359375, -0.00021219444005469057),
            integer="int32", bias=127, digits=23,
        ),
        "tanh": """@njit(error_model="numpy", fastmath={"contract"}, forceinline=True)
def _tanh(x):
    z = x if x < _real(7.90531110763549805) else _real(7.90531110763549805)
    z = z if z > _real(-7.90531110763549805) else _real(-7.90531110763549805)
    s = z * z
    p = _real(-2.76076847742355e-16) * s + _real(2.00018790482477e-13)
    p = p * s + _real(-8.60467152213735e-11)
    p = p * s + _real(5.12229709037114e-08)
    p = p * s + _real(1.48572235717979e-05)
    p = p * s + _real(6.37261928875436e-04)
    p = p * s + _real(4.89352455891786e-03)
    q = _real(1.19825839466702e-06) * s + _real(1.18534705686654e-04)
    q = q * s + _real(2.26843463243900e-03)
    q = q * s + _real(4.89352518554385e-03)
    return z * (p / q) if abs(x) < _real(7.90531110763549805) else _sign(x)""",
    },
    "float64": {
        "exp": _exp(
            (0.5000000000000011, 0.16666666666666413, 0.041666666666530155, 0.008333333333494466, 0.0013888888943630372,
             0.0001984126950657235, 2.4801493098632217e-05, 2.7557586378063306e-06, 2.763024847658922e-07,
             2.5000060571192997e-08),
            low=-746, high=710, whole=1.5 * 2**52, ln2=(0.693145751953125, 1.4286068203094173e-06),
            integer="int64", bias=1023, digits=52,
        ),
        "tanh": """@njit(inline="always")
def _tanh(x):
    return math.tanh(x)""",
    },
}  # fmt: skip


def _number(value: float) -> str:
    if value != value:
        return "_real(np.nan)"
    return f"_real({value!r})" if abs(value) != float("inf") else f"_real({'-' if value < 0 else ''}np.inf)"


def _spell(value: Value) -> str:
    return _number(value) if isinstance(value, float) else f"v{value}"


def _expression(instruction: Instruction) -> str:
    name, inputs = instruction.name, [_spell(v) for v in instruction.inputs]
    if name in _INFIX:
        return f"{inputs[0]} {_INFIX[name]} {inputs[1]}"
    if name in _COMPARE:
        return f"_real(1) if {inputs[0]} {_COMPARE[name]} {inputs[1]} else _real(0)"
    if name in TRUTH:
        test = {"logical_and": " and ", "logical_or": " or "}
        whole = test[name].join(f"{i} != 0" for i in inputs) if name in test else f"{inputs[0]} == 0"
        return f"_real(1) if {whole} else _real(0)"
    if name == "where":
        return f"{inputs[1]} if {inputs[0]} != 0 else {inputs[2]}"
    if name == "where_nonzero":
        return f"{inputs[1]} if {inputs[0]} != 0 or {inputs[1]} == {inputs[1]} else _real(0)"
    if name == "multiply_or_zero":
        product = f"{inputs[0]} * {inputs[1]}"
        return f"{product} if {inputs[0]} != 0 and {inputs[1]} != 0 or {product} == {product} else _real(0)"
    if name == "negative":
        return f"-{inputs[0]}"
    function = {"abs": "abs", **{f: f"_{f}" for f in ("maximum", "minimum", "sign", "exp", "tanh")}}.get(name)
    spelled = {"arctan": "atan"}.get(name, name)
    return f"{function}({', '.join(inputs)})" if function else f"_real(math.{spelled}({inputs[0]}))"


class _Source:
    """The text of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.rows: dict[tuple[int, int], str] = {}
        self.heads: list[str] = []

    def parameters(self) -> list[str]:
        names = []
        for a, argument in enumerate(self.kernel.arguments):
            names += [f"a{a}", f"at{a}"] if argument.kind == ROWS else [f"a{a}"]
        return names

    def row(self, a: int, shift: int) -> str:
        """The variable that holds a row, and whether it has one column."""
        argument = self.kernel.arguments[a]
        if argument.kind == NUMBER:
            return f"a{a}[i]"
        if (a, shift) not in self.rows:
            name = f"r{a}_{shift}"
            end = 1 if argument.columns == 1 else self.kernel.width
            if argument.kind == ROWS:
                self.heads.append(f"b{a}_{shift} = at{a}[i] + {shift}")
                self.heads.append(f"{name} = a{a}[b{a}_{shift} : b{a}_{shift} + {end}]")
            elif argument.kind == BLOCK:
                self.heads.append(f"{name} = a{a}[{_ROW[argument.rows]}, {shift} : {shift + end}]")
            else:
                self.heads.append(f"{name} = a{a}[{shift} : {shift + end}]")
            self.rows[a, shift] = name
        return self.rows[a, shift]

    def element(self, a: int, shift: int) -> str:
        argument = self.kernel.arguments[a]
        row = self.row(a, shift)
        return row if argument.kind == NUMBER else f"{row}[0]" if argument.columns == 1 else f"{row}[j]"

    def text(self) -> str:
        body = []
        for i, instruction in enumerate(self.kernel.instructions):
            loads = instruction.name == "load"
            right = self.element(instruction.argument, instruction.shift) if loads else _expression(instruction)
            body.append(f"v{i} = {right}")
        before, after = [], []
        if not self.kernel.stores:
            body.append("pass")  # nothing to compute, as of a cell that hands its operands on
        for k, store in enumerate(self.kernel.stores):
            argument = self.kernel.arguments[store.argument]
            target, value = self.element(store.argument, store.shift), _spell(store.value)
            if argument.columns == 1 and self.kernel.width > 1:
                before.append(f"s{k} = 0.0")
                body.append(f"s{k} += {value}")
                after.append(f"{target} {'+=' if store.adds else '='} _real(s{k})")
            else:
                body.append(f"{target} {'+=' if store.adds else '='} {value}")
        lines = [
            f"def kernel(low, high, first, {', '.join(self.parameters())}):",
            "    for i in range(low, high):",
            *(f"        {line}" for line in [*self.heads, *before]),
            f"        for j in range({self.kernel.width}):",
            *(f"            {line}" for line in body),
            *(f"        {line}" for line in after),
        ]
        return "\n".join(lines)


def source(kernel: Kernel) -> str:
    """The module's text: what the kernel needs, and the kernel."""
    name = kernel.dtype.name
    head = _PRELUDE.format(dtype=name, **_FUNCTIONS[name])
    options = "cache=True, boundscheck=False, nogil=True, error_model='numpy'"
    return f"{head}\n@njit({options})\n{_Source(kernel).text()}\n"


@functools.cache
def _loaded(text: str) -> Callable[..., None]:
    return jit.module(text).kernel  # type: ignore[no-any-return]


def compiled(kernel: Kernel) -> Callable[..., None]:
    """A function of the first row, the one behind the last, the first of the launch, and the arguments in order, `ROWS`
    as buffer and offsets.

    Raises ``ImportError`` without numba.
    """
    return _loaded(source(kernel))

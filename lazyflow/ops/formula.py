"""Scalar formulas: parsed once into a flat list of ufunc steps, and printed as straight-line code for arrays.

``"0.5 * tanh(0.5 * x) + 0.5"`` becomes four steps in static single assignment (every `FormulaStep` names
the steps that it reads), which is all that a printer needs: the one here prints NumPy and CuPy calls that write into
``out`` and reuse it,

    def sigmoid(xp, x, out=None):
        if out is None:
            out = empty(xp, x)
        xp.multiply(0.5, x, out=out)
        xp.tanh(out, out=out)
        xp.multiply(0.5, out, out=out)
        xp.add(out, 0.5, out=out)
        return out

so that a launch allocates nothing and Python does nothing between two ufuncs. Of two operands the one with more steps
is computed first (Sethi and Ullman 1970): it may use ``out``, and the shorter one needs less memory beside it. Equal
steps are computed once.

The formula of a derivative pulls a cotangent ``g`` back, and is linear in it. Where ``g`` is zero the answer is zero,
whatever the slope is: of ``where(x > 0, sqrt(x), 0)`` at zero the slope is infinite and nobody asks for it. So
`pullback` selects, unless the formula `vanishes` with ``g`` by itself.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.locks import Lock
from lazyflow.ops.base import OPS, at_host, host_form, symbolic, written

BOOLEAN, SAME, FLOATING = range(3)  # what a step makes: truth values, the dtype of what it reads, or floating numbers

_OPERATORS: Mapping[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder", ast.Pow: "power", ast.USub: "negative", ast.Eq: "equal", ast.NotEq: "not_equal",
    ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal",
}  # fmt: skip
_RESULT_KINDS: Mapping[str, int] = {
    **dict.fromkeys(
        [
            "add",
            "subtract",
            "multiply",
            "floor_divide",
            "remainder",
            "power",
            "negative",
            "abs",
            "sign",
            "maximum",
            "minimum",
        ],
        SAME,
    ),
    **dict.fromkeys(["floor", "ceil", "round", "where", "where_nonzero", "multiply_or_zero", "magnitude"], SAME),
    **dict.fromkeys(
        [
            "divide",
            "sqrt",
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
        ],
        FLOATING,
    ),
    **dict.fromkeys(["arcsinh", "arccosh", "arctanh", "arctan2", "hypot", "erf", "ndtr"], FLOATING),
    **dict.fromkeys(["cbrt", "exp2", "log2", "log10", "logaddexp", "logaddexp2"], FLOATING),
    **dict.fromkeys(["deg2rad", "rad2deg"], FLOATING),
    **dict.fromkeys(["fmax", "fmin"], SAME),
    **dict.fromkeys(["bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift", "right_shift"], SAME),
    **dict.fromkeys(["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"], BOOLEAN),
    **dict.fromkeys(["logical_and", "logical_or", "logical_not", "isfinite", "isnan"], BOOLEAN),
}
_BOOLEANS = [ufunc for ufunc, kind in _RESULT_KINDS.items() if kind == BOOLEAN]
_ARITHMETIC = frozenset(("add", "subtract", "multiply"))
_LINEAR = frozenset(("add", "subtract", "negative", "where", "where_nonzero"))


@dataclass(frozen=True)
class Name:
    """An operand of the formula."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A Python number: weak in promotion, so float16 stays float16."""

    value: float


@dataclass(frozen=True)
class StepResult:
    """What an earlier step computed."""

    step: int


FormulaValue = Name | Constant | StepResult


@dataclass(frozen=True)
class FormulaStep:
    """One ufunc call. ``kind`` is what it makes of its inputs; ``reads`` names all operands that it depends on."""

    ufunc: str
    inputs: tuple[FormulaValue, ...]
    kind: int
    reads: frozenset[str]


@dataclass(frozen=True)
class Formula:
    """A formula as data: operands in order of appearance, steps in order of computation, and the value of the whole."""

    source: str
    operands: tuple[str, ...]
    steps: tuple[FormulaStep, ...]
    result: FormulaValue


class _Parser:
    def __init__(self, source: str, numbers: Mapping[str, int] = MappingProxyType({})) -> None:
        self.source, self.numbers = source, numbers
        self.steps: list[FormulaStep] = []
        self.known: dict[str, StepResult] = {}

    def refuse(self, node: ast.AST) -> ValueError:
        return ValueError(f"formula {self.source!r}: {ast.unparse(node)!r} is not an operation that formulas know")

    def value(self, node: ast.expr) -> FormulaValue:
        if isinstance(node, ast.Name):
            return Constant(self.numbers[node.id]) if node.id in self.numbers else Name(node.id)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return Constant(node.value)
        ufunc, children = self.call(node)
        # The longest operand first; each keeps its place among the inputs.
        values = {i: self.value(children[i]) for i in sorted(range(len(children)), key=lambda i: -_size(children[i]))}
        return self.step(ufunc, tuple(values[i] for i in range(len(children))))

    def call(self, node: ast.expr) -> tuple[str, list[ast.expr]]:
        """The ufunc of a node and the nodes of its inputs."""
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _RESULT_KINDS
            and not node.keywords
        ):
            return node.func.id, node.args
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)], [node.left, node.right]
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)], [node.operand]
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
            return _OPERATORS[type(node.ops[0])], [node.left, *node.comparators]
        raise self.refuse(node)

    def step(self, ufunc: str, inputs: tuple[FormulaValue, ...]) -> FormulaValue:
        one = Constant(1)
        if ufunc == "multiply" and one in inputs and self.numbers:
            return inputs[0] if inputs[1] == one else inputs[1]
        if all(isinstance(v, Constant) for v in inputs):
            return Constant(getattr(np, ufunc)(*(v.value for v in inputs if isinstance(v, Constant))).item())
        key = f"{ufunc}{inputs}"
        if key not in self.known:
            self.known[key] = StepResult(len(self.steps))
            self.steps.append(
                FormulaStep(ufunc, inputs, self.kind(ufunc, inputs), frozenset().union(*map(self.reads, inputs)))
            )
        return self.known[key]

    def kind(self, ufunc: str, inputs: Sequence[FormulaValue]) -> int:
        numbers = inputs[1:] if ufunc == "where" else inputs
        return max(SAME, *map(self.kind_of, numbers)) if _RESULT_KINDS[ufunc] == SAME else _RESULT_KINDS[ufunc]

    def kind_of(self, value: FormulaValue) -> int:
        if isinstance(value, Constant):
            return FLOATING if isinstance(value.value, float) else SAME
        return self.steps[value.step].kind if isinstance(value, StepResult) else SAME

    def reads(self, value: FormulaValue) -> frozenset[str]:
        if isinstance(value, Name):
            return frozenset((value.name,))
        return self.steps[value.step].reads if isinstance(value, StepResult) else frozenset()


def _size(node: ast.expr) -> int:
    """How many operations a subtree holds."""
    return sum(isinstance(n, ast.BinOp | ast.UnaryOp | ast.Call | ast.Compare) for n in ast.walk(node))


def _operand_names(tree: ast.expr) -> Iterator[str]:
    functions = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in functions]
    yield from dict.fromkeys(n.id for n in sorted(names, key=lambda n: n.col_offset))


_parsing = Lock()


def _tree(source: str) -> ast.expr:
    """The syntax tree of an expression, for reading. One thread at a time: where threads change places while CPython
    makes trees, it takes their depths for one (``SystemError``; its issue 106905)."""
    with _parsing:
        return ast.parse(source, mode="eval").body


def operands_of(source: str) -> tuple[str, ...]:
    """The names in a formula that are no functions, in order of appearance, without parsing it.

    >>> operands_of("where(x > 1e-3, x, lo) * tanh(y)")
    ('x', 'lo', 'y')
    """
    words = source.translate(_SPACED).split()
    return tuple(dict.fromkeys(word for word in words if word.isidentifier()))


_SPACED = str.maketrans({**dict.fromkeys("+-*/%<>=!,)", " "), "(": "( "})  # a function keeps its bracket


@cache
def parse(source: str) -> Formula:
    """A formula of names, numbers, operators and the functions that NumPy and CuPy share, as steps.

    Raises ``ValueError`` for anything else.

    >>> [step.ufunc for step in parse("x / (1 + abs(x))").steps]
    ['abs', 'add', 'divide']
    """
    tree = _tree(source)
    parser = _Parser(source)
    result = parser.value(tree)
    return Formula(source, tuple(_operand_names(tree)), tuple(parser.steps), result)


def vanishes(formula: Formula) -> bool:
    """Whether a derivative is zero where ``g`` is, even if everything else in it is infinite or not a number.

    >>> vanishes(parse("where(y > 0, g, 0)")), vanishes(parse("g / x"))
    (True, False)
    """
    steps: list[bool] = []

    def zero(v: FormulaValue) -> bool:
        return v == Name("g") if isinstance(v, Name) else v.value == 0 if isinstance(v, Constant) else steps[v.step]

    for step in formula.steps:
        inputs = step.inputs
        if step.ufunc == "multiply_or_zero":
            steps.append(any(map(zero, inputs)))
        elif step.ufunc == "multiply":
            steps.append(any(zero(a) and isinstance(b, Constant) for a, b in (inputs, inputs[::-1])))
        elif step.ufunc == "divide":
            steps.append(zero(inputs[0]) and isinstance(inputs[1], Constant))
        else:
            linear = {"where": inputs[1:], "where_nonzero": inputs[:1]}.get(step.ufunc, inputs)
            steps.append(step.ufunc in _LINEAR and all(map(zero, linear)))
    return zero(formula.result)


@cache
def pullback(source: str) -> Formula:
    """A derivative as its kernel computes it: zero where ``g`` is.

    >>> pullback("g / x").source, pullback("where(y > 0, g, 0)").source
    ('where_nonzero(g, g / x)', 'where(y > 0, g, 0)')
    """
    formula = parse(source)
    return formula if vanishes(formula) else parse(f"where_nonzero(g, {source})")


@cache
def slope(source: str) -> Formula | None:
    """What a derivative multiplies ``g`` by; None if it `vanishes` with ``g``, and is best taken as it is.

    >>> [step.ufunc for step in slope("g * cos(x)").steps], slope("-g")
    (['cos'], None)
    """
    if vanishes(parse(source)):
        return None
    tree = _tree(source)
    parser = _Parser(source, {"g": 1})
    result = parser.value(tree)
    return Formula(source, tuple(o for o in _operand_names(tree) if o != "g"), tuple(parser.steps), result)


def evaluate(formula: Formula, xp: ArrayModule, *, choices: DType | None = None, **operands: Any) -> Any:
    """The formula's value by the functions of ``xp`` alone: for anything that these take, expressions included.

    ``choices``: the dtype of numbers of which a condition chooses one, and which have no other number beside them.

    >>> evaluate(parse("a * b + 1"), np, a=np.arange(3.0), b=2.0).tolist()
    [1.0, 3.0, 5.0]
    """
    values: list[Any] = []

    def value(v: FormulaValue) -> Any:
        return operands[v.name] if isinstance(v, Name) else v.value if isinstance(v, Constant) else values[v.step]

    for step in formula.steps:
        given = list(map(value, step.inputs))
        numbers = all(isinstance(v, float | int | np.generic) for v in given[1:])
        if choices is not None and step.ufunc == "where" and numbers:
            given[1:] = [np.array(v, choices) for v in given[1:]]
        values.append(function_of(xp, step.ufunc)(*given))
    return value(formula.result)


def function_of(xp: ArrayModule, ufunc: str) -> Callable[..., Array]:
    """What computes a step: a function of ``xp``, or one of ours that has no namespace.

    >>> function_of(np, "where_nonzero")(np.array([0.0, 2.0]), np.array([np.nan, 4.0])).tolist()
    [0.0, 4.0]
    """
    return getattr(xp, ufunc, None) or partial(_OURS[ufunc], xp)


@cache
def result_dtype(formula: Formula, dtypes: tuple[object, ...]) -> DType:
    """What NumPy's promotion makes of operands of these dtypes (``float``: a Python number).

    Raises ``TypeError`` where NumPy does, and for a condition that is not bool.

    >>> result_dtype(parse("0.5 * x"), (np.dtype(np.float16),))
    dtype('float16')
    """
    ones = {n: d(1) if isinstance(d, type) else np.ones(1, d) for n, d in zip(formula.operands, dtypes, strict=True)}
    for step in formula.steps:
        condition = step.inputs[0]
        if (
            step.ufunc == "where"
            and isinstance(condition, Name)
            and getattr(ones[condition.name], "dtype", None) != np.bool_
        ):
            raise TypeError(f"{condition.name} must be bool")
    with np.errstate(all="ignore"):
        return np.dtype(np.asarray(evaluate(formula, np, **ones)).dtype)


class _ArrayPrinter:
    """Prints a formula as a function. ``whole``: operands that have the result's shape and dtype, as cotangents do."""

    def __init__(self, formula: Formula, whole: frozenset[str] = frozenset()) -> None:
        self.formula, self.whole = formula, whole
        self.last = self.last_uses()
        self.places: list[str] = []  # the variable that each step is in
        self.holds: dict[str, int] = {}  # the step that each array we may write into holds now, "out" first
        self.lines: list[str] = []

    def last_uses(self) -> list[int]:
        """The last step that reads each step; the result is read after all of them."""
        last = list(range(len(self.formula.steps)))
        for i, step in enumerate(self.formula.steps):
            for value in step.inputs:
                if isinstance(value, StepResult):
                    last[value.step] = i
        return last

    def print(self) -> list[str]:
        if isinstance(self.formula.result, Name):
            name = self.formula.result.name
            return ["if out is None:", f"    return {name}", f"xp.copyto(out, {name})", "return out"]
        for i in range(len(self.formula.steps)):
            self.add(i)
        return [*self.lines, "return out"]

    def add(self, i: int) -> None:
        step = self.formula.steps[i]
        place = self.place(i, step)
        if place == "out" and place not in self.holds:
            self.lines[:0] = self.prologue(step)
        if self.whole and place != "out" and place not in self.holds and step.kind != BOOLEAN:
            self.lines.append(f"{place} = xp.empty(g.shape, g.dtype)")
            self.holds[place] = i
        fresh = place not in self.holds
        # Only an array that surely has the result's shape and dtype can be written into again.
        if place == "out" or place in self.holds:
            self.holds[place] = i
        inputs = [self.spell(v) for v in step.inputs]
        self.places.append(place)
        self.lines += _PRINTERS.get(step.ufunc, _call)(step.ufunc, inputs, place, fresh)

    def needs_memory(self) -> bool:
        """Whether what was printed needs arrays beside the result."""
        makes_own = any(step.ufunc in ("erf", "ndtr") for step in self.formula.steps)
        return makes_own or any(place != "out" for place in self.places)

    def spell(self, value: FormulaValue) -> str:
        if isinstance(value, StepResult):
            return self.places[value.step]
        return value.name if isinstance(value, Name) else repr(value.value)

    def place(self, i: int, step: FormulaStep) -> str:
        """``out`` if nothing that is still needed lies there, else an own array that is free, else a new one."""
        if i == len(self.formula.steps) - 1:
            return "out"
        if self.fits_out(i, step):
            for name in ("out", *self.holds):
                if name not in self.holds or self.last[self.holds[name]] <= i:
                    return name
        return f"t{i}"

    def fits_out(self, i: int, step: FormulaStep) -> bool:
        """Whether an array of the result's dtype can hold a step: truth values only where they are used as numbers."""
        if step.kind != BOOLEAN:
            return bool(self.whole) or step.kind <= self.formula.steps[-1].kind
        users = [s for s in self.formula.steps if StepResult(i) in s.inputs]
        return bool(self.whole) and all(s.ufunc in _ARITHMETIC for s in users)

    def prologue(self, first: FormulaStep) -> list[str]:
        """Make ``out`` beforehand, unless the first step into it does so by itself."""
        if (first.reads & self.whole and first.kind != BOOLEAN) or len(self.formula.steps) == 1:
            return []
        make = "xp.empty(g.shape, g.dtype)" if self.whole else f"empty(xp, {', '.join(self.formula.operands)})"
        self.holds["out"] = 0
        return ["if out is None:", f"    out = {make}"]


def _call(ufunc: str, inputs: list[str], place: str, fresh: bool) -> list[str]:
    function = f"{ufunc}_of(xp, " if ufunc in _OURS else f"xp.{ufunc}("
    arguments = ", ".join(inputs)
    # By keyword: CuPy takes no positional None, and NumPy's maximum no positional output.
    if not fresh:
        return [f"{function}{arguments}, out={place})"]
    return [f"{place} = {function}{arguments}{', out=out' if place == 'out' else ''})"]


def _written(made: str, place: str, fresh: bool, write: Sequence[str]) -> list[str]:
    """A function that is no ufunc: made anew, or written by other means into an array that there is."""
    if not fresh:
        return list(write)
    if place != "out":
        return [f"{place} = {made}"]
    return ["if out is None:", f"    out = {made}", "else:", *("    " + line for line in write)]


def _where_lines(ufunc: str, inputs: list[str], place: str, fresh: bool) -> list[str]:
    condition, a, b = inputs
    if b == "0" and (not fresh or place == "out"):
        return [f"{place} = select_of(xp, {condition}, {a}, {place})"]
    write = [f"xp.copyto({place}, {b})"] * (place != b) + [f"xp.copyto({place}, {a}, where={condition})"]
    if place == a:
        write = [f"xp.copyto({place}, {b}, where=xp.logical_not({condition}))"]
    return _written(f"xp.where({', '.join(inputs)})", place, fresh, write)


def _round(ufunc: str, inputs: list[str], place: str, fresh: bool) -> list[str]:
    return _written(f"xp.round({inputs[0]})", place, fresh, [f"xp.copyto({place}, xp.round({inputs[0]}))"])


# Integers as wide as floating numbers.
_BITS = {2: np.int16, 4: np.int32, 8: np.int64}


def select(xp: ArrayModule, condition: Array, a: Array, out: Array = None) -> Array:
    """``where(condition, a, 0)``, into ``out`` if there is one; it may be ``a``.

    By the bits of the numbers: NumPy's masked copies branch at every element, which costs ten times as much where the
    truth values are mixed.

    >>> select(np, np.array([True, False]), np.array([2.0, np.inf])).tolist()
    [2.0, 0.0]
    """
    if not isinstance(a, np.ndarray) or not isinstance(condition, np.ndarray) or a.dtype.kind != "f":
        return written(out, xp.where(condition, a, 0))
    out = np.empty(np.broadcast_shapes(a.shape, condition.shape), a.dtype) if out is None else out
    bits = _BITS[a.itemsize]
    ones = np.negative(condition.view(np.int8), dtype=bits)  # all bits of a number, or none
    np.bitwise_and(a.view(bits), ones, out=out.view(bits))
    return out


def where_nonzero(xp: ArrayModule, g: Array, value: Array, out: Array = None) -> Array:
    """``value``, zero where it is no number and ``g`` is zero; into ``out`` if there is one.

    For a ``value`` that is linear in ``g``: zero already, with a sign, unless a slope is infinite or not a number.
    Where the host can look, it only selects if there is a NaN, which costs a tenth of what selecting costs; so what is
    zero already has to stay as it is, or its sign would depend on its neighbours.

    >>> where_nonzero(np, np.array([0.0, 2.0]), np.array([np.nan, 4.0])).tolist()
    [0.0, 4.0]
    """
    if isinstance(value, np.ndarray) and not has_nan(value):
        if out is None or out is value:
            return value
        np.copyto(out, value)
        return out
    if out is not None and out is value and not isinstance(value, np.ndarray):
        xp.copyto(
            out, 0, where=g == 0
        )  # on a device, where each operation is a launch, zeros have no sign of their own
        return out
    return written(out, xp.where(xp.logical_or(g != 0, value == value), value, 0))


def multiply_or_zero(xp: ArrayModule, a: Array, b: Array, out: Array = None) -> Array:
    """``a * b``, zero where one of them is, even if the other is infinite or not a number.

    >>> multiply_or_zero(np, np.array([0.0, np.nan, 2.0]), np.array([np.nan, 0.0, 3.0])).tolist()
    [0.0, 0.0, 6.0]
    """
    answer = a * b  # not into ``out``, which may be one of them
    if not isinstance(answer, np.ndarray) or has_nan(answer):
        answer = xp.where(xp.logical_or(xp.logical_and(a != 0, b != 0), answer == answer), answer, 0)
    return written(out, answer)


def multiply_no_nan(xp: ArrayModule, g: Array, slope: Array) -> Array:
    """A cotangent times a slope, arrays or expressions: zero where ``g`` is, even if the slope is infinite.

    >>> multiply_no_nan(np, np.array([0.0, 2.0]), np.array([np.nan, 3.0])).tolist()
    [0.0, 6.0]
    """
    if symbolic(xp):
        return xp.record_op(OPS["multiply_no_nan"], (g, slope))
    return where_nonzero(xp, g, g * slope)


def has_nan(x: Array) -> bool:
    """Whether an element is NaN: then so is the sum of squares, which nothing else makes NaN."""
    total = np.vdot(x, x)
    return bool(total != total)


def is_finite(x: Array) -> bool:
    """Whether all elements are, or none but huge ones: their sum of squares is, or else their sum."""
    return bool(np.isfinite(np.vdot(x, x))) or bool(np.isfinite(x.sum()))


def _magnitude(ufunc: str, inputs: list[str], place: str, fresh: bool) -> list[str]:
    return _call("abs", inputs, place, fresh)


_PRINTERS: Mapping[str, Callable[[str, list[str], str, bool], list[str]]] = {
    "where": _where_lines,
    "round": _round,
    "magnitude": _magnitude,
}


def _function(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    return "\n    ".join([f"def {name}(xp, {', '.join(arguments)}, out=None):", *lines]) + "\n"


def _prepared_lines(name: str, printer: _ArrayPrinter, arguments: Sequence[str]) -> list[str]:
    """The lines of a function of several steps, behind those that hand float16 on to float32, to be rounded once, and
    much that needs memory of its own on in blocks."""
    formula, lines = printer.formula, printer.print()
    if len(formula.steps) < 2 and not any(step.ufunc in _OURS for step in formula.steps):
        return lines
    first, together = arguments[0], f"({', '.join(arguments)},)"
    half = [
        f"if getattr({first}, 'dtype', None) == half:",
        f"    return in_float32({name}, dtype_of, xp, {together}, out)",
    ]
    large = [
        f"if getattr({first}, 'size', 0) > {LARGE}:",
        f"    made = in_blocks({name}, dtype_of, xp, {together}, out)",
        "    if made is not None:",
        "        return made",
    ]
    return [*half, *(large if printer.needs_memory() else []), *lines]


LARGE = 1 << 15  # elements from which a formula that needs arrays of its own is computed in blocks of half as many


def in_blocks(
    kernel: Callable[..., Array],
    dtype_of: Callable[..., DType],
    xp: ArrayModule,
    operands: tuple[Array, ...],
    out: Array | None,
) -> Array | None:
    """A kernel's answer of some rows after the other, so that the arrays it makes stay in cache and come from memory
    that is there; None unless these are host arrays, all of one shape but for single numbers."""
    shape, *other = {x.shape for x in operands if getattr(x, "ndim", 0)}
    if xp is not np or other or shape[0] < 2 or (out is not None and out.shape != shape):
        return None
    out = np.empty(shape, dtype_of(*operands)) if out is None else out
    rows = max(1, LARGE // 2 // math.prod(shape[1:]))
    for low in range(0, shape[0], rows):
        some = [x[low : low + rows] if getattr(x, "ndim", 0) else x for x in operands]
        kernel(xp, *some, out=out[low : low + rows])
    return out


def in_float32(
    kernel: Callable[..., Array],
    dtype_of: Callable[..., DType],
    xp: ArrayModule,
    operands: tuple[Array, ...],
    out: Array | None,
) -> Array:
    """A kernel's answer in its own dtype, which was float16 or came of it, computed of float32.

    The range and the digits of float16 are not enough for what stands between: ``exp(12)`` is infinite.
    """
    wide = [x.astype(np.float32) if getattr(x, "dtype", None) == np.float16 else x for x in operands]
    answer = kernel(xp, *wide)
    if out is None:
        return answer.astype(dtype_of(*operands))
    xp.copyto(out, answer, casting="same_kind")
    return out


def forward_source(name: str, formula: Formula) -> str:
    """The forward kernel's text, a function of ``(xp, *operands, out=None)``.

    >>> print(forward_source("exp", parse("exp(x)")))
    def exp(xp, x, out=None):
        out = xp.exp(x, out=out)
        return out
    <BLANKLINE>
    """
    return _function(name, formula.operands, _prepared_lines(name, _ArrayPrinter(formula), formula.operands))


def vjp_source(name: str, formula: Formula, operands: Sequence[str]) -> str:
    """The text of a vjp, a function of ``(xp, g, y, *operands, out=None)``.

    >>> print(vjp_source("relu_x", parse("g * (y > 0)"), ("x",)))
    def relu_x(xp, g, y, x, out=None):
        if getattr(g, 'dtype', None) == half:
            return in_float32(relu_x, dtype_of, xp, (g, y, x,), out)
        if out is None:
            out = xp.empty(g.shape, g.dtype)
        xp.greater(y, 0, out=out)
        xp.multiply(g, out, out=out)
        return out
    <BLANKLINE>
    """
    arguments = ("g", "y", *operands)
    printer = _ArrayPrinter(formula, frozenset(("g", "y")))
    return _function(name, arguments, _prepared_lines(name, printer, arguments))


def _compiled(
    name: str, formula: Formula, operands: Sequence[str], source: str, **names: object
) -> Callable[..., Array]:
    ours = {f"{ufunc}_of": function for ufunc, function in _OURS.items()}
    namespace: dict[str, Any] = {"in_float32": in_float32, "in_blocks": in_blocks, "half": np.dtype(np.float16)}
    namespace.update(ours, select_of=select, **names)
    exec(compile(source, f"<lazyflow formula {name}>", "exec"), namespace)
    # Under the same name, as `in_float32` goes by it.
    namespace[name] = _on_machine(formula, operands, namespace[name])
    return namespace[name]  # type: ignore[no-any-return]


# What the machine computes to the same bits as NumPy. One such step alone is NumPy's, which looks up less.
_SAME_BITS = frozenset(
    [
        *("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "negative", "abs", "sign", "sqrt"),
        *("maximum", "minimum", "floor", "ceil", "round", "where", "magnitude", *_BOOLEANS),
    ]
)
_MACHINE_NAMES = {"magnitude": "abs"}  # what has a name of its own for the sake of its derivative


def machine_code(formula: Formula) -> tuple[list[tuple[int, ...]], list[float]] | None:
    """The instructions of the compiled core's machine and their constants, where argument ``k`` is operand ``k``; None
    if there is no core, or the machine does not know all of the formula."""
    known = {} if core.machine is None else core.machine.NUMBER_OF
    names = [_MACHINE_NAMES.get(step.ufunc, step.ufunc) for step in formula.steps]
    if not all(name in known for name in names):
        return None
    # By their bits: 0.0 and -0.0 are two numbers.
    numbers = {float(v.value).hex(): float(v.value) for s in formula.steps for v in s.inputs if isinstance(v, Constant)}
    place = {bits: i for i, bits in enumerate(numbers)}
    first = len(numbers) + len(formula.operands)

    def value(v: FormulaValue) -> int:
        if isinstance(v, Constant):
            return place[float(v.value).hex()]
        return first + v.step if isinstance(v, StepResult) else len(numbers) + formula.operands.index(v.name)

    code: list[tuple[int, ...]] = [(known["constant"], i, -1, -1) for i in range(len(numbers))]
    code += [(known["load"], k, 0, -1) for k in range(len(formula.operands))]
    for name, step in zip(names, formula.steps, strict=True):
        code.append((known[name], *map(value, step.inputs), *[-1] * (3 - len(step.inputs))))
    return code, list(numbers.values())


def _on_machine(formula: Formula, operands: Sequence[str], kernel: Callable[..., Array]) -> Callable[..., Array]:
    """The kernel, or one that hands host arrays of one floating dtype on to the machine.

    There a formula gives the bits that it gives within a fused kernel, in one pass over its operands. Whether there is
    a machine is asked at every call, not when a kernel is first called: what tests do without is there afterwards.
    """
    steps = formula.steps
    if not steps or steps[-1].kind == BOOLEAN or formula.result != StepResult(len(steps) - 1):
        return kernel
    if len(steps) == 1 and steps[0].ufunc in _SAME_BITS:
        return kernel
    made: list[Any] = []

    def whole() -> Any:
        if core.machine is None:
            return None
        if not made:
            code = machine_code(formula)
            order = tuple(map(operands.index, formula.operands))
            made.append(None if code is None else core.machine.Elementwise(order, *code))
        return made[0]

    def on_machine(xp: ArrayModule, *given: Array, out: Array | None = None) -> Array:
        run = whole() if xp is np else None
        answer: Array | None = None if run is None else run(given, out)
        return kernel(xp, *given, out=out) if answer is None else answer

    return at_host(on_machine, whole)


def at_first_call(make: Callable[[], Callable[..., Array]]) -> Callable[..., Array]:
    """A kernel that is made when it is first called."""
    made = functools.cache(make)

    def kernel(*operands: object, **options: object) -> Array:
        return made()(*operands, **options)

    return at_host(kernel, lambda: host_form(made()))


def compile_forward(name: str, formula: Formula) -> Callable[..., Array]:
    """The forward kernel of a formula.

    >>> compile_forward("double", parse("2 * x"))(np, np.arange(3)).tolist()
    [0, 2, 4]
    """

    def dtype_of(*operands: Array) -> DType:
        return result_dtype(formula, tuple(getattr(o, "dtype", float) for o in operands))

    def empty(xp: ArrayModule, *operands: Array) -> Array:
        shape = np.broadcast_shapes(*(getattr(o, "shape", ()) for o in operands))
        return xp.empty(shape, dtype_of(*operands))

    source = forward_source(name, formula)
    return _compiled(name, formula, formula.operands, source, empty=empty, dtype_of=dtype_of)


def compile_vjp(name: str, formula: Formula, operands: Sequence[str]) -> Callable[..., Array]:
    """The vjp of one operand, from its formula in ``g``, ``y`` and the ``operands``."""
    source = vjp_source(name, formula, operands)
    return _compiled(name, formula, ("g", "y", *operands), source, dtype_of=lambda g, *rest: g.dtype)


# erf(x) = tanh(x * P(x^2) / Q(x^2)) for |x| up to the first number, where erf is 1 in that precision. As tanh is flat
# where erf is, an error of P / Q shrinks with it. The coefficients are a least-squares fit of atanh(erf(x)) / x in 80
# digits, reweighted (Lawson 1961) to the least relative error of erf: 3e-9 and 2e-16, before rounding.
_ERF: Mapping[int, tuple[float, tuple[float, ...], tuple[float, ...]]] = {
    4: (
        4.0,
        (1.128379225730896, 0.2797923982143402, 0.04264196753501892, 0.0021778871305286884),
        (1.0, 0.15687979757785797, 0.023687029257416725, 0.0003248337307013571),
    ),
    8: (
        6.0,
        (
            1.1283791670955123, 0.48742516891713167, 0.13723758370740288, 0.02397455242480951, 0.0030178307601555557,
            0.00025655621676744467, 1.457193595166182e-05, 4.3452953259472127e-07, 2.704738266238459e-09,
        ),
        (
            1.0, 0.3408894605926474, 0.0907608754497424, 0.013566588895252016, 0.001576768024420355,
            0.0001111535997655534, 5.4206049949071515e-06, 8.843579101304782e-08, 1.4407537191841249e-10,
        ),
    ),
}  # fmt: skip


def erf_of(xp: ArrayModule, x: Array, out: Array = None) -> Array:
    """The error function, by arithmetic and tanh of ``xp`` alone, as NumPy has none.

    Off by at most 2e-7 in float32 and 4e-16 in float64; float16 is computed in float32.

    >>> abs(erf_of(np, np.array([0.5])).item() - 0.5204998778130465) < 4e-16
    True
    """
    x = x if x.dtype.kind == "f" else x + 0.0
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    limit, top, bottom = _ERF[wide.dtype.itemsize]
    wide = xp.clip(wide, -limit, limit)
    square = wide * wide
    ratio = _polynomial(square, top)
    ratio /= _polynomial(square, bottom)
    ratio *= wide
    y = xp.tanh(ratio, out=out)
    return y if out is not None or y.dtype == x.dtype else y.astype(x.dtype)


# Phi(-t) = exp(-t**2 / 2) * P((t - c) / (t + c)) / (1 + t) for t >= 0: c, and the coefficients of P, Chebyshev
# interpolation in 50 digits (the form is that of Shepherd and Laframboise 1981).
_NDTR: Mapping[int, tuple[float, tuple[float, ...]]] = {
    4: (
        3.5,
        (
            0.4785531902592047, -0.09771258216882597, 0.0007869103809129968, 0.038047979653006304,
            -0.030256917609741606, 0.010377300342074508, 0.00026660890211338843, -0.001414097937482136,
            0.00014040758172004263, 0.00019381498733884311, -1.906041177821221e-05, -2.1275582958258494e-05,
        ),
    ),
    8: (
        4.0,
        (
            0.47205320650984467, -0.09670347732652577, 0.013999634724424333, 0.02860036405354698,
            -0.03219783742802203, 0.017936097479808313, -0.005002378592511494, -0.0002856231002340135,
            0.0006948971219073166, -9.443023204456728e-05, -8.785330394797745e-05, 2.1249915729449347e-05,
            1.3627395285352675e-05, -3.4316562688625695e-06, -2.6144101706596152e-06, 4.029912427574402e-07,
            5.548340462207789e-07, 4.242344418455244e-09, -1.1446850712758079e-07, -2.3315488161994288e-08,
            2.0257667136861587e-08, 8.858538843412724e-09, -2.6180348731255444e-09, -1.9068104342795306e-09,
            1.7873545221852657e-10, 1.968773941157256e-10,
        ),
    ),
}  # fmt: skip


def ndtr_of(xp: ArrayModule, x: Array, out: Array = None) -> Array:
    """The normal distribution function, whose lower tail has all digits that its size allows; float16 as `erf`.

    ``exp(-t**2 / 2)`` is a product of two: the square of ``t`` to four binary places is exact, the rest is small.

    >>> abs(ndtr_of(np, np.array([-30.0])).item() / 4.906713927148187e-198 - 1) < 1e-15
    True
    """
    if not x.ndim:  # of arrays without axes NumPy makes numbers, which nothing can be written to
        return written(out, ndtr_of(xp, x.reshape(1)).reshape(()))
    x = x if x.dtype.kind == "f" else x + 0.0
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    centre, coefficients = _NDTR[wide.dtype.itemsize]
    t = xp.minimum(xp.abs(wide), 40)
    near = xp.floor(16 * t)
    near *= 0.0625
    rest = near - t
    rest *= 0.5 * (near + t)
    near *= -0.5 * near
    other = t + centre
    tail = _polynomial(xp.divide(t - centre, other, out=other), coefficients)
    t += 1
    tail /= t
    tail *= xp.exp(near, out=near)
    tail *= xp.exp(rest, out=rest)
    return written(out, xp.where(x > 0, 1 - tail, tail).astype(x.dtype, copy=False))


def magnitude(xp: ArrayModule, x: Array) -> Array:
    """``abs(x)`` where the derivative of an even function is made of it, with slope 1 at 0: that of ``abs`` is 0 there,
    which would make the second derivative of every even function of it 0."""
    return xp.where(x < 0, -x, x)


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    *rest, last = coefficients
    value = x * last
    for coefficient in reversed(rest[1:]):
        value += coefficient
        value *= x
    value += rest[0]
    return value


_OURS: Mapping[str, Callable[..., Array]] = {
    "erf": erf_of,
    "ndtr": ndtr_of,
    "magnitude": magnitude,
    "where_nonzero": where_nonzero,
    "multiply_or_zero": multiply_or_zero,
}

"""What a fused kernel computes for one element: scalar code in static single assignment.

The operations of a `Kernel` come from the formulas of `lazyflow.ops.elementwise`, with equal steps computed once.
Around them are loads and stores of rows: element ``j`` of row ``i`` is read from, or written to, column ``shift + j``
of an argument. A kernel knows nothing of launches; whoever calls it says how many rows there are and where they lie.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lazyflow.device import DType
from lazyflow.ops.formula import Constant, Formula, Name, function_of
from lazyflow.ops.formula import FormulaValue as FormulaValue

ScalarValue = int | float  # an int is the number of an instruction, a float a number

ARG_BLOCK, ARG_ROWS, ARG_VECTOR, ARG_NUMBER = "block", "rows", "vector", "number"
ROWS_OF_ALL, ROWS_OF_LAUNCH, ROWS_OF_SOME = "all", "launch", "some"

TRUTH = frozenset(
    ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_not")
)
CHEAP = (
    TRUTH
    | {"add", "subtract", "multiply", "negative", "abs", "magnitude", "sign", "maximum", "minimum", "where"}
    | {"where_nonzero", "multiply_or_zero"}
)
# What both printers know; a formula with anything else, such as operations on bits, is not fused.
FUSABLE = (
    CHEAP
    | {
        "divide",
        "floor_divide",
        "remainder",
        "power",
        "sqrt",
        "cbrt",
        "hypot",
        "floor",
        "ceil",
        "round",
        "fmax",
        "fmin",
    }
    | {"exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "logaddexp2", "erf", "ndtr"}
    | {"sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "deg2rad", "rad2deg"}
    | {"sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "isfinite", "isnan", "round"}
)


@dataclass(frozen=True)
class Argument:
    """An array that a kernel reads or writes.

    ``kind``: ``ARG_BLOCK`` is a matrix (rows, columns); ``ARG_ROWS`` a flat buffer and the element offset of every row;
    ``ARG_VECTOR`` is one row for all; ``ARG_NUMBER`` a vector with one number for each row. ``key`` tells the caller
    what it is; ``columns``: of a row, 1 where one element stands for the whole row.

    ``rows``: which rows a matrix has: `ROWS_OF_ALL` calls, `ROWS_OF_LAUNCH`, or `ROWS_OF_SOME`, those that a kernel
    runs on. ``stored``: how its numbers lie in memory, of `lazyflow.cuda.text.STORED`, where that is not the kernel's
    dtype.
    """

    kind: str
    key: tuple[Any, ...]
    columns: int
    rows: str = ROWS_OF_ALL
    stored: str = ""


@dataclass(frozen=True)
class Instruction:
    """``name`` is a ufunc on earlier values, or ``"load"``: of argument ``argument`` at column ``shift``."""

    name: str
    inputs: tuple[ScalarValue, ...] = ()
    argument: int = -1
    shift: int = 0


@dataclass(frozen=True)
class Store:
    """``value`` goes to columns from ``shift`` of an argument: added, or put there. A row of one column gets a sum."""

    argument: int
    shift: int
    value: ScalarValue
    adds: bool


@dataclass(frozen=True, eq=False)
class Kernel:
    """Scalar code for rows of ``width`` elements of ``dtype``."""

    width: int
    dtype: DType
    arguments: tuple[Argument, ...]
    instructions: tuple[Instruction, ...]
    stores: tuple[Store, ...]


@dataclass
class Builder:
    """Collects the code of one kernel; equal instructions are one."""

    width: int
    dtype: np.dtype
    arguments: dict[object, int] = field(default_factory=dict)
    described: list[Argument] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    known: dict[object, int] = field(default_factory=dict)
    stores: list[Store] = field(default_factory=list)

    def argument(self, kind: str, key: tuple[object, ...], columns: int) -> int:
        """The number of an argument, which is new or was asked for before."""
        known = key, columns == 1  # one element may stand for a row in one place and not in another
        if known not in self.arguments:
            self.arguments[known] = len(self.described)
            self.described.append(Argument(kind, key, columns))
        return self.arguments[known]

    def load(self, kind: str, key: tuple[object, ...], shift: int, columns: int) -> ScalarValue:
        """Element ``j`` of a row: column ``shift + j``."""
        return self.emit(Instruction("load", argument=self.argument(kind, key, columns), shift=shift))

    def emit(self, instruction: Instruction) -> int:
        """The number of an instruction, an equal one that there is already if possible."""
        # The value 1 is not the number 1.0, nor is 0.0 the number -0.0, though they are equal in Python.
        key = instruction, tuple(v.hex() if isinstance(v, float) else v for v in instruction.inputs)
        if key not in self.known:
            self.known[key] = len(self.instructions)
            self.instructions.append(instruction)
        return self.known[key]

    def call(self, ufunc: str, *inputs: ScalarValue) -> ScalarValue:
        """A ufunc of values; of numbers it is a number, rounded as the kernel would round it."""
        if all(isinstance(v, float) for v in inputs):
            with np.errstate(all="ignore"):
                return float(function_of(np, ufunc)(*map(self.dtype.type, inputs)))
        return self.emit(Instruction(ufunc, inputs))

    def formula(self, formula: Formula, names: Mapping[str, ScalarValue]) -> ScalarValue:
        """The code of a formula, with these values for its operands."""
        steps: list[ScalarValue] = []

        def value(v: FormulaValue) -> ScalarValue:
            if isinstance(v, Name):
                return names[v.name]
            return float(v.value) if isinstance(v, Constant) else steps[v.step]

        for step in formula.steps:
            ufunc = "abs" if step.ufunc == "magnitude" else step.ufunc
            steps.append(self.call(ufunc, *(value(v) for v in step.inputs)))
        return value(formula.result)

    def store(
        self, kind: str, key: tuple[object, ...], shift: int, columns: int, value: ScalarValue, *, adds: bool
    ) -> None:
        """Write a value to columns from ``shift`` on."""
        self.stores.append(Store(self.argument(kind, key, columns), shift, value, adds))

    def kernel(self) -> Kernel:
        """The finished kernel, without the instructions that no store needs."""
        needed = _needed(self.instructions, self.stores)
        number = {old: new for new, old in enumerate(needed)}

        def renumbered(v: ScalarValue) -> ScalarValue:
            return v if isinstance(v, float) else number[v]

        kept = [self.instructions[i] for i in needed]
        code = tuple(Instruction(i.name, tuple(map(renumbered, i.inputs)), i.argument, i.shift) for i in kept)
        stores = tuple(Store(s.argument, s.shift, renumbered(s.value), s.adds) for s in self.stores)
        return Kernel(self.width, self.dtype, tuple(self.described), code, stores)


def _needed(instructions: list[Instruction], stores: list[Store]) -> list[int]:
    wanted = [s.value for s in stores if isinstance(s.value, int)]
    seen = set(wanted)
    while wanted:
        for v in instructions[wanted.pop()].inputs:
            if isinstance(v, int) and v not in seen:
                seen.add(v)
                wanted.append(v)
    return sorted(seen)


def may_share(kernel: Kernel, read: tuple[object, ...], written: tuple[object, ...]) -> bool:
    """Whether a kernel still computes the same if the argument ``written`` lies in the memory of ``read``.

    An element of a row must be read before it is overwritten: a column that element ``j`` writes may be one that
    element ``j`` reads, as loads stand before stores, but no other element of the row may read it. What is stored must
    be computed: NumPy would load such a value no earlier than it is stored.
    """
    both = [a for a in kernel.arguments if a.key in (read, written)]
    if any(a.kind != ARG_BLOCK or (a.columns == 1 != kernel.width) for a in both):
        return False
    loads = {i: c.shift for i, c in enumerate(kernel.instructions) if c.name == "load" and _is(kernel, c, read)}
    if any(c.name == "load" and _is(kernel, c, written) for c in kernel.instructions):
        return False
    stores = [s for s in kernel.stores if _is(kernel, s, written)]
    if any(s.adds for s in stores) or any(s.value in loads for s in kernel.stores if isinstance(s.value, int)):
        return False
    apart = {abs(s.shift - shift) for s in stores for shift in loads.values()} - {0}
    return min(apart, default=kernel.width) >= kernel.width


def _is(kernel: Kernel, item: Instruction | Store, key: tuple[object, ...]) -> bool:
    return kernel.arguments[item.argument].key == key


def shared(kernel: Kernel, read: tuple[object, ...], written: tuple[object, ...]) -> Kernel:
    """The kernel with one argument ``read`` in place of it and of ``written``, see `may_share`."""
    arguments: list[Argument] = []
    number = []
    for a in kernel.arguments:
        a = replace(a, key=read) if a.key == written else a
        number.append(next((k for k, known in enumerate(arguments) if known.key == a.key == read), len(arguments)))
        arguments += [a] if number[-1] == len(arguments) else []
    code = tuple(replace(c, argument=number[c.argument]) if c.name == "load" else c for c in kernel.instructions)
    stores = tuple(replace(s, argument=number[s.argument]) for s in kernel.stores)
    return replace(kernel, arguments=tuple(arguments), instructions=code, stores=stores)


def in_order(kernels: Sequence[Kernel]) -> Kernel | None:
    """One kernel that does what several do one after the other, element by element; None where they are of different
    widths, or where an element needs what another one stores."""
    alike = len({(kernel.width, kernel.dtype) for kernel in kernels}) == 1
    return functools.reduce(_followed, kernels) if len(kernels) == 1 or (alike and _are_by_elements(kernels)) else None


def _are_by_elements(kernels: Sequence[Kernel]) -> bool:
    """Whether nothing that an element stores is read, or stored, by another one; many may add to rows that none
    reads."""
    stores = [(kernel.arguments[store.argument], store) for kernel in kernels for store in kernel.stores]
    loads = [(k.arguments[c.argument], c) for k in kernels for c in k.instructions if c.name == "load"]
    read, added = {argument.key for argument, _ in loads}, {argument.key for argument, store in stores if store.adds}
    stored = {argument.key for argument, store in stores if argument.kind != ARG_ROWS or not store.adds}
    if added & (read | stored):
        return False
    places: dict[tuple[object, ...], set[int]] = {}
    uses: list[tuple[Argument, Instruction | Store]] = [*loads, *stores]
    for argument, use in uses:
        if argument.key in stored:
            places.setdefault(argument.key, set()).add(use.shift)
            if argument.columns == 1 != kernels[0].width:
                return False
    return all(b - a >= kernels[0].width for found in places.values() for a, b in itertools.pairwise(sorted(found)))


def _followed(first: Kernel, then: Kernel) -> Kernel:
    """What the first kernel has stored the other one has at hand."""
    arguments, number = list(first.arguments), list[int]()
    for a in then.arguments:
        known = [k for k, other in enumerate(arguments) if (other.key, other.columns == 1) == (a.key, a.columns == 1)]
        number.append(known[0] if known else len(arguments))
        arguments += [] if known else [a]
    stored = {(store.argument, store.shift): store.value for store in first.stores}
    code, values = list(first.instructions), list[ScalarValue]()

    def renumbered(value: ScalarValue) -> ScalarValue:
        return value if isinstance(value, float) else values[value]

    for c in then.instructions:
        at_hand = stored.get((number[c.argument], c.shift)) if c.name == "load" else None
        values.append(len(code) if at_hand is None else at_hand)
        if at_hand is None:
            argument = number[c.argument] if c.name == "load" else -1
            code.append(Instruction(c.name, tuple(map(renumbered, c.inputs)), argument, c.shift))
    stores = [Store(number[s.argument], s.shift, renumbered(s.value), s.adds) for s in then.stores]
    return Kernel(first.width, first.dtype, tuple(arguments), tuple(code), (*first.stores, *stores))


def with_rows(kernel: Kernel, rows: Mapping[tuple[str, int], str]) -> Kernel:
    """The kernel with arguments whose ``rows`` are those of their keys."""
    return replace(kernel, arguments=tuple(replace(a, rows=rows.get(a.key, a.rows)) for a in kernel.arguments))


def with_storage(kernel: Kernel, stored: str, keys: Collection[tuple[object, ...]]) -> Kernel:
    """The kernel with arguments of these keys ``stored`` otherwise than it computes."""
    given = [replace(a, stored=stored) if a.key in keys else a for a in kernel.arguments]
    return replace(kernel, arguments=tuple(given))


def is_fusable(formula: Formula) -> bool:
    """Whether both printers know all that the formula uses."""
    return all(step.ufunc in FUSABLE for step in formula.steps)


def is_cheap(formula: Formula) -> bool:
    """Whether computing it again costs less than reading what was kept."""
    return all(step.ufunc in CHEAP for step in formula.steps)

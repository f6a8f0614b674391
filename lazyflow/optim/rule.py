"""An optimizer's update as formulas, written once, and the two forms in which it runs.

A rule is a list of assignments to arrays, by name, in order: later ones read what earlier ones made. Where there is the
compiled core they are one program, which reads and writes every array once, whatever its size; the rows of a table that
a row-sparse gradient touches are read and written in their places. Elsewhere they are array operations, one for each
step of a formula, into memory that is lent. All steps are rounded exactly, so both forms give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow.device import DType, module
from lazyflow.fuse import machine
from lazyflow.fuse.blocks import last_uses
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_ROWS, ARG_VECTOR, Builder, Kernel, ScalarValue
from lazyflow.ops.formula import function_of, parse
from lazyflow.ops.sparse import RowSparse

__all__ = ["Assignments", "Rule", "kernel_of"]

Array = Any
Assignments = Sequence[tuple[str, str]]
"""Names with the formulas of what they become. A name that is no array is an intermediate result."""


class Rule:
    """Assignments with the numbers in them, to be run for any number of parameters: what is looked up for the first is
    kept for the others. Of one step, since numbers are another time others.

    >>> rule = Rule([("move", "gradient * rate"), ("x", "x - move")], {"rate": 0.5})
    >>> x = np.array([1.0, 2.0])
    >>> rule.run({"x": x, "gradient": np.ones(2)}, lambda name, like: np.empty_like(like))
    >>> x
    array([0.5, 1.5])
    """

    __slots__ = ("_prepared", "assignments", "numbers")

    def __init__(self, assignments: Assignments, numbers: Mapping[str, float]) -> None:
        self.assignments, self.numbers = tuple(assignments), numbers
        self._prepared: dict[tuple[tuple[str, ...], DType, int], tuple[Kernel, Any, tuple[Array, ...]]] = {}

    def run(self, arrays: Mapping[str, Array], scratch: Callable[[str, Array], Array]) -> None:
        """Change ``arrays``, all of one shape and dtype, as the rule says; ``"gradient"`` is only read.

        ``scratch`` lends memory like an array, by name.
        """
        kernel, program, numbers = self._for(tuple(arrays), arrays["gradient"].dtype, 0)
        if program is None or not program.update((*arrays.values(), *numbers)):
            _by_calls(kernel, arrays, list(self.numbers.values()), scratch)

    def run_in_core(self, arrays: Mapping[str, Array], gradient: Array | RowSparse) -> bool:
        """Change ``arrays``, whose gradient this is, or those rows of them that it has, in their places.

        False if they are not arrays that the core can work on: then nothing was done.
        """
        where, width = None, 0
        if isinstance(gradient, RowSparse):
            where, gradient = gradient.indices, gradient.values
            width = math.prod(gradient.shape[1:])
            if not width:
                return True
        _, program, numbers = self._for((*arrays, "gradient"), gradient.dtype, width)
        return program is not None and program.update((*arrays.values(), gradient, *numbers), where)

    def _for(self, names: tuple[str, ...], dtype: DType, width: int) -> tuple[Kernel, Any, tuple[Array, ...]]:
        """For arrays of these names, in this order: the kernel, the core's program if it has one, and the numbers as it
        takes them."""
        key = names, dtype, width
        found = self._prepared.get(key)
        if found is None:
            kernel = kernel_of(self.assignments, names, tuple(self.numbers), dtype, width)
            program = None if core.machine is None or dtype.char not in "fd" else _compiled(kernel)
            numbers = (np.array(list(self.numbers.values()), dtype),) if self.numbers else ()
            found = self._prepared[key] = kernel, program, numbers
        return found


@cache
def kernel_of(rule: Assignments, names: tuple[str, ...], numbers: tuple[str, ...], dtype: DType, width: int) -> Kernel:
    """A rule as a kernel, of elements, or of rows of some width in a buffer, whose gradient lies by itself."""
    b = Builder(max(width, 1), dtype)
    kinds = {name: ARG_ROWS if width and name != "gradient" else ARG_BLOCK for name in names}
    values: dict[str, ScalarValue] = {name: b.load(kinds[name], (name,), 0, width or 1) for name in names}
    values |= {name: b.load(ARG_VECTOR, ("numbers",), k, 1) for k, name in enumerate(numbers)}
    for name, source in rule:
        values[name] = b.formula(parse(source), values)
    for name in dict.fromkeys(name for name, _ in rule if name in names and name != "gradient"):
        b.store(kinds[name], (name,), 0, width or 1, values[name], adds=False)
    return b.kernel()


@cache
def _compiled(kernel: Kernel) -> Any:
    return machine.program(kernel, distinct=True)


@cache
def _steps(kernel: Kernel) -> list[tuple[str, bool]]:
    """Where each value is computed: in the array of that name and True, or in memory that is lent under that name."""
    last = last_uses(kernel)
    found: list[tuple[str, bool]] = [("", False)] * len(last)
    free, count = [], 0
    for i, step in enumerate(kernel.instructions):
        read = [v for v in dict.fromkeys(step.inputs) if isinstance(v, int)]
        free += [found[v][0] for v in read if last[v] == i and found[v][0] and not found[v][1]]
        if step.name == "load":
            continue
        array = _array_of(kernel, last, i)
        if array is not None:
            found[i] = array, True
        else:
            count += not free
            found[i] = free.pop() if free else f"register {count}", False
    return found


def _array_of(kernel: Kernel, last: list[int], i: int) -> str | None:
    """The array that a value may be computed into: it is stored there, or is needed no longer than until what is stored
    there is computed, and nobody reads afterwards what was there."""
    for store in kernel.stores:
        loads = [k for k, c in enumerate(kernel.instructions) if c.name == "load" and c.argument == store.argument]
        before = max((last[k] for k in loads), default=-1)
        v = store.value
        if not isinstance(v, int) or kernel.instructions[v].name == "load" or before > i:
            continue
        if v == i or (before == i and last[i] <= v):
            name: str = kernel.arguments[store.argument].key[0]
            return name
    return None


def _by_calls(
    kernel: Kernel, arrays: Mapping[str, Array], numbers: list[float], scratch: Callable[[str, Array], Array]
) -> None:
    # Lent memory is one array each: to CuPy two views of it overlap, and it copies an operand that overlaps its result.
    xp, values, lent = module(arrays["gradient"]), [], dict[str, Array]()
    for step, (place, stored) in zip(kernel.instructions, _steps(kernel), strict=True):
        if step.name == "load":
            name = kernel.arguments[step.argument].key[0]
            values.append(numbers[step.shift] if name == "numbers" else arrays[name])
            continue
        inputs = [values[v] if isinstance(v, int) else v for v in step.inputs]
        if not stored and place not in lent:
            lent[place] = scratch(place, arrays["gradient"])
        out = arrays[place] if stored else lent[place]
        values.append(function_of(xp, step.name)(*inputs, out=out))
    for store in kernel.stores:
        value = values[store.value] if isinstance(store.value, int) else store.value
        target = arrays[kernel.arguments[store.argument].key[0]]
        if value is not target:
            target[...] = value

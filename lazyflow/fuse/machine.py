"""Kernels as programs of the compiled core's machine (``lazyflow/core``): no code is made, no length is compiled in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lazyflow import core
from lazyflow.fuse.scalar import (
    ARG_BLOCK,
    ARG_NUMBER,
    ARG_ROWS,
    ARG_VECTOR,
    ROWS_OF_ALL,
    ROWS_OF_LAUNCH,
    ROWS_OF_SOME,
    Kernel,
    ScalarValue,
)

_KIND = {ARG_BLOCK: 0, ARG_ROWS: 1, ARG_VECTOR: 2, ARG_NUMBER: 3}
_BEGIN = {ROWS_OF_ALL: 0, ROWS_OF_LAUNCH: 1, ROWS_OF_SOME: 2}


_SAME = {"magnitude": "abs"}  # what has a name of its own for the sake of its derivative


def program(kernel: Kernel, distinct: bool = False) -> Any:
    """The kernel as data of the machine: numbers are values of their own, before all instructions. ``distinct``: see
    `core_function`."""
    used = [v for i in kernel.instructions for v in i.inputs] + [s.value for s in kernel.stores]
    # By their bits: 0.0 and -0.0 are two numbers, and NaN is one.
    numbers = {v.hex(): v for v in used if isinstance(v, float)}
    place = {bits: i for i, bits in enumerate(numbers)}

    def value(v: ScalarValue) -> int:
        return place[v.hex()] if isinstance(v, float) else len(numbers) + v

    code = [(core.machine.NUMBER_OF["constant"], i, -1, -1) for i in range(len(numbers))]
    for i in kernel.instructions:
        if i.name == "load":
            code.append((core.machine.NUMBER_OF["load"], i.argument, i.shift, -1))
        else:
            number = core.machine.NUMBER_OF[_SAME.get(i.name, i.name)]
            code.append((number, *[value(v) for v in i.inputs], *[-1] * (3 - len(i.inputs))))
    stores = [(s.argument, s.shift, value(s.value), int(s.adds)) for s in kernel.stores]
    parameters = [(_KIND[a.kind], int(a.columns == 1), _BEGIN[a.rows]) for a in kernel.arguments]
    is_double = kernel.dtype.itemsize == 8
    return core.machine.Program(kernel.width, is_double, code, stores, parameters, list(numbers.values()), distinct)


def core_function(kernel: Kernel, *, distinct: bool = False) -> Callable[..., None]:
    """A function of the first row, the one behind the last, the first of the launch, and the arguments in order,
    `ARG_ROWS` as buffer and offsets. ``distinct``: no argument lies in the memory of another."""
    found: Callable[..., None] = program(kernel, distinct)
    return found

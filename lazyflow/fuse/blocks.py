"""Kernels as NumPy calls over blocks of rows that stay in cache: what everybody gets.

Each instruction is one ufunc call that writes into a buffer of its own that is used again when its value is no longer
needed, so that a kernel allocates nothing and what it reads twice is still in cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.device import Array
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
from lazyflow.ops.formula import function_of, select
from lazyflow.ops.sparse import scatter_add_rows

# Elements of one value in a block: 64 KiB in float32, so that the dozen values of a cell stay in a cache of a megabyte.
VALUE_ELEMENTS = 1 << 14


def rows_of(buffer: Array, at: Array, width: int, brought: Array | None = None) -> Array:
    """A copy of rows of a flat buffer that begin at the elements ``at``. ``brought``: these where the buffer is, if
    that is not the host."""
    if brought is not None:
        return devices.stretches(buffer, width)[brought]
    if len(at) and width and not (at % width).any():
        whole = buffer.size // width
        return devices.take_rows(buffer[: whole * width].reshape(whole, width), at // width)
    return devices.stretches(buffer, width)[devices.module(buffer).asarray(at)]


def add_rows(buffer: Array, at: Array, rows: Array, brought: Array | None = None) -> None:
    """Add rows to those of a flat buffer that begin at the elements ``at``; they may repeat, and may overlap.
    ``brought``: see `rows_of`."""
    width = rows.shape[1]
    xp = devices.module(rows)
    if not len(at) or not width:
        return
    aligned = not (at % width).any()
    if aligned and brought is None:
        whole = buffer.size // width
        scatter_add_rows(xp, buffer[: whole * width].reshape(whole, width), at // width, rows)
    elif aligned or (np.diff(np.unique(at)) >= width).all():
        bring = None if brought is None else lambda at: brought
        scatter_add_rows(xp, devices.stretches(buffer, width), at, rows, bring)
    else:
        elements = (at[:, None] + np.arange(width)).ravel()
        scatter_add_rows(xp, buffer.reshape(-1, 1), elements, rows.reshape(-1, 1))


def last_uses(kernel: Kernel) -> list[int]:
    """The last instruction that reads each value, the number of instructions for one that is stored."""
    last = list(range(len(kernel.instructions)))
    for i, instruction in enumerate(kernel.instructions):
        for v in instruction.inputs:
            if isinstance(v, int):
                last[v] = i
    for store in kernel.stores:
        if isinstance(store.value, int):
            last[store.value] = len(last)
    return last


def _registers(kernel: Kernel) -> tuple[list[int], int]:
    """A buffer for every value that is computed (-1 for the others), used again when its value is dead; their number.

    An element may be overwritten by the instruction that reads it last, as ufuncs go element by element. Truth values
    are written as numbers: NumPy would add them as truth values, and compute functions of them in half precision.
    """
    last = last_uses(kernel)
    place, free, count = [-1] * len(last), [], 0
    for i, instruction in enumerate(kernel.instructions):
        read = [v for v in dict.fromkeys(instruction.inputs) if isinstance(v, int)]
        dying = [place[v] for v in read if place[v] >= 0 and last[v] == i]
        if instruction.name != "where":
            free += dying
        if instruction.name == "load":
            continue
        if free:
            place[i] = free.pop()
        else:
            place[i] = count
            count += 1
        if instruction.name == "where":
            free += dying
    return place, count


def numpy_function(kernel: Kernel) -> Callable[..., None]:
    """A function of the first row, the one behind the last, the first of the launch, and the arguments in order,
    `ARG_ROWS` as buffer and offsets."""
    place, count = _registers(kernel)
    step = max(1, VALUE_ELEMENTS // max(kernel.width, 1))

    def run(low: int, high: int, first: int, *arrays: Array) -> None:
        registers = [np.empty((min(step, high - low), kernel.width), kernel.dtype) for _ in range(count)]
        begins = {ROWS_OF_ALL: 0, ROWS_OF_LAUNCH: first, ROWS_OF_SOME: low}
        for a in range(low, high, step):
            _run_block(kernel, place, registers, _Arguments(kernel, arrays, begins, a, min(a + step, high)))

    return run


class _Arguments:
    """The arguments of one block of rows."""

    def __init__(
        self, kernel: Kernel, arrays: tuple[Array, ...], begins: Mapping[str, int], low: int, high: int
    ) -> None:
        self.width, self.low, self.high = kernel.width, low, high
        self.arrays: list[Any] = []
        position = 0
        for argument in kernel.arguments:
            if argument.kind == ARG_ROWS:
                self.arrays.append((arrays[position], arrays[position + 1][low:high]))
                position += 2
                continue
            rows = slice(low - begins[argument.rows], high - begins[argument.rows])
            self.arrays.append(arrays[position][rows] if argument.kind != ARG_VECTOR else arrays[position])
            position += 1
        self.described = kernel.arguments

    def columns(self, a: int) -> int:
        return 1 if self.described[a].columns == 1 else self.width

    def load(self, a: int, shift: int) -> Array:
        kind, array, width = self.described[a].kind, self.arrays[a], self.columns(a)
        if kind == ARG_ROWS:
            return rows_of(array[0], array[1] + shift, width)
        if kind == ARG_BLOCK:
            return array[:, shift : shift + width]
        if kind == ARG_NUMBER:
            return array[:, None]
        return array[shift : shift + width]

    def store(self, a: int, shift: int, value: Array, adds: bool) -> None:
        width = self.columns(a)
        if width == 1 != self.width:
            value = np.broadcast_to(value, (self.high - self.low, self.width)).sum(axis=1, keepdims=True)
        if self.described[a].kind == ARG_ROWS:
            rows = np.broadcast_to(value, (self.high - self.low, width))
            add_rows(self.arrays[a][0], self.arrays[a][1] + shift, rows)
            return
        target = self.arrays[a][:, shift : shift + width]
        if adds:
            target += value
        else:
            target[...] = value


def _run_block(kernel: Kernel, place: list[int], registers: list[Array], arguments: _Arguments) -> None:
    values: list[Array] = []
    rows = arguments.high - arguments.low
    real = kernel.dtype.type

    def value(v: ScalarValue) -> Array:
        return real(v) if isinstance(v, float) else values[v]

    for i, instruction in enumerate(kernel.instructions):
        if instruction.name == "load":
            values.append(arguments.load(instruction.argument, instruction.shift))
            continue
        inputs = [value(v) for v in instruction.inputs]
        if instruction.name == "where" and repr(instruction.inputs[2]) == "0.0":
            values.append(select(np, inputs[0] != 0, inputs[1], registers[place[i]][:rows]))
        elif instruction.name == "where":
            out = registers[place[i]][:rows]
            np.copyto(out, inputs[2])
            np.copyto(out, inputs[1], where=inputs[0] != 0)
            values.append(out)
        else:
            values.append(function_of(np, instruction.name)(*inputs, out=registers[place[i]][:rows]))
    for store in kernel.stores:
        arguments.store(store.argument, store.shift, value(store.value), store.adds)

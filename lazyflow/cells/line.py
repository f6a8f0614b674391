"""What the calls of a cell do, one step after the other: a stage of its program made ready for one run.

A `Line` is told once which arrays the steps read and write, and then runs for the calls of every launch. Of a view it
knows the matrix and which call its first row belongs to. The compiled core has the same class for host arrays
(``lazyflow.core.machine.Line``): there all launches of a chain of calls are one step of Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow import core
from lazyflow.cuda import products
from lazyflow.cuda.rows import Part, add_parts, gather
from lazyflow.device import Array, ArrayModule
from lazyflow.fuse import cuda

OF_ALL, OF_LAUNCH, OF_BLOCK = (
    0,
    1,
    2,
)  # the first row of a matrix is that of the first call, of a launch's, or of a block's


STORED_SIZE = 2  # bytes of a number: on a device steps have no others so small


class View(NamedTuple):
    """The rows of a matrix that belong to calls."""

    array: Array
    base: int

    def rows(self, low: int, high: int, first: int) -> Array:
        """Those of the calls from ``low`` to ``high`` of a launch whose first call is ``first``."""
        if self.base == OF_BLOCK:
            return self.array[: high - low]
        begin = 0 if self.base == OF_ALL else first
        return self.array[low - begin : high - begin]


# A step for the calls from ``low`` to ``high`` of a launch whose first call is ``first``; the first argument is whose
# calls they are.
LineStep = Callable[[Any, int, int, int], None]


class Line:
    """Steps as functions, on any device."""

    def __init__(self, xp: ArrayModule) -> None:
        self.xp = xp
        self.segments: list[tuple[int | None, list[LineStep]]] = []

    def segment(self, rows: int | None) -> None:
        """What follows is done for blocks of about so many calls, or all of a launch at once (None)."""
        self.segments.append((rows, []))

    def call(self, step: LineStep) -> None:
        """Any function."""
        self.segments[-1][1].append(step)

    def program(self, program: Callable[..., None], *arrays: Array) -> None:
        """A fused kernel with these arrays."""
        self.call(lambda calls, low, high, first: program(low, high, first, *arrays))

    def kernel(self, program: cuda.CudaKernel, arrays: Sequence[Array], hosts: Sequence[Array | None]) -> None:
        """The same on a device; ``hosts``: of each argument that is rows, their offsets on the host."""
        run = program.bound(*arrays, hosts=hosts)
        self.call(lambda calls, low, high, first: run(low, high, first))

    def product(self, x: View, weight: Array, out: View) -> None:
        """``out = x @ weight``."""
        xp = self.xp

        def multiply(calls: object, low: int, high: int, first: int) -> None:
            left, right = x.rows(low, high, first), out.rows(low, high, first)
            if xp is not np and weight.itemsize == STORED_SIZE:
                products.multiply_into(right, left, weight)
            else:
                xp.matmul(left, weight, out=right)

        self.call(multiply)

    def add_product(self, x: View, weight: Array, out: View) -> None:
        """``out += x @ weight``, on a device in one launch."""

        def multiply(calls: object, low: int, high: int, first: int) -> None:
            left, right = x.rows(low, high, first), out.rows(low, high, first)
            if products.are_multiplied(right, left, weight, stored=True):
                products.multiply_into(right, left, weight, add=True)
            else:
                right += left @ weight

        self.call(multiply)

    def gather(self, out: View, columns: Array, buffer: Array, at: Array, widths: Array) -> None:
        """Rows of a buffer into columns of a matrix: see ``lazyflow.core.machine.gather``."""
        gathered = core.machine.gather
        self.call(lambda _, low, high, first: gathered(out.rows(low, high, first), columns, buffer, at, low, widths))

    def add_several(self, buffer: Array, at: Array, rows: View, columns: Array, widths: Array) -> None:
        """The transpose of `gather`."""
        add = core.machine.add_several
        self.call(lambda _, low, high, first: add(buffer, at, low, rows.rows(low, high, first), columns, widths))

    def gather_parts(self, out: View, buffer: Array, parts: Sequence[Part]) -> None:
        """The same on a device: see `lazyflow.cuda.rows.gather`."""
        self.call(lambda _, low, high, first: gather(out.rows(low, high, first), buffer, parts, low))

    def add_parts(self, buffer: Array, matrix: View, parts: Sequence[Part]) -> None:
        """The transpose of `gather_parts`."""
        self.call(lambda _, low, high, first: add_parts(buffer, matrix.rows(low, high, first), parts, low))

    def copy(self, target: View, rows: View) -> None:
        """``target = rows``, as matrices."""

        def copy(calls: object, low: int, high: int, first: int) -> None:
            target.rows(low, high, first)[...] = rows.rows(low, high, first)

        self.call(copy)

    def add(self, target: View, rows: View) -> None:
        """``target += rows``."""
        xp = self.xp

        def add(calls: object, low: int, high: int, first: int) -> None:
            out, more = target.rows(low, high, first), rows.rows(low, high, first)
            if xp is not np and more.itemsize == STORED_SIZE:
                cuda.add_stored(out, more)
            else:
                out += more

        self.call(add)

    def zero(self, target: View) -> None:
        """``target = 0``."""

        def zero(calls: object, low: int, high: int, first: int) -> None:
            target.rows(low, high, first)[...] = 0

        self.call(zero)

    def __call__(self, edges: Array, whole: bool, backwards: bool = False, calls: object = None) -> None:
        """Do it for the calls between one of the ``edges`` and the next, launch by launch, the last one first if
        ``backwards``. ``whole``: the first row of a launch is call 0. ``calls``: for steps that are functions."""
        pairs = list(itertools.pairwise(edges.tolist()))
        for low, high in reversed(pairs) if backwards else pairs:
            first = 0 if whole else low
            for rows, steps in self.segments:
                for a, b in equal_blocks(low, high, rows):
                    for step in steps:
                        step(calls, a, b, first)


def most(rows: int) -> int:
    """The rows of the largest block.

    >>> most(10)
    15
    """
    return rows + rows // 2


def equal_blocks(low: int, high: int, rows: int | None) -> Iterator[tuple[int, int]]:
    """A range in equal blocks of about ``rows``; products are made for four rows at a time.

    >>> list(equal_blocks(0, 40, 12))
    [(0, 12), (12, 24), (24, 36), (36, 40)]
    """
    count = high - low
    if rows is None or count <= most(rows):
        yield low, high
        return
    step = -(-count // -(-count // rows) // 4) * 4
    for a in range(low, high, step):
        yield a, min(a + step, high)

"""Launches of one cell that follow each other, as one kernel that goes from level to level (`lazyflow.fuse.phases`).

That is done under ``lf.using(persistent=True)``, on a device, of two levels or more, where what is computed in each
launch is products with parameters, of operands or of operands side by side, and elementwise kernels of one width whose
element ``j`` reads columns ``j`` of the products' gates; and where a block's share of the weights has room in shared
memory. Everything else runs step by step, and so does what is stored in 16 bits.

What is in memory afterwards is the same as step by step, up to rounding: so backward need not know which way was taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.cells.lifetimes import SCOPE_ALL
from lazyflow.cells.program import Stages
from lazyflow.cells.steps import MAIN, REF_INPUT, REF_NODE, Assemble, Fused, Product, Ref
from lazyflow.cells.values import CallValues
from lazyflow.cuda.module import functions
from lazyflow.device import Array
from lazyflow.fuse.cuda import has_sums, sizes, with_pitches
from lazyflow.fuse.phases import PHASE_THREADS, Factor, columns_read, grid_shape, phase_source
from lazyflow.fuse.scalar import Kernel, in_order

FEWEST_LEVELS = 2
GRID_COUNTER = np.zeros(1, np.int64)  # comes to the device with the indices of a plan; the blocks of a grid count there
_NOWHERE_KEPT = np.uint64(0), np.int32(0)


@dataclass(frozen=True, eq=False)
class Phase:
    """A main stage that can be one kernel: products, what their left sides are put together of, and the kernel."""

    kernel: Kernel
    products: tuple[Product, ...]
    assembled: tuple[Assemble | None, ...]
    factors: tuple[Factor, ...]

    @cached_property
    def text(self) -> str:
        """The text of the kernel."""
        return phase_source(self.kernel, self.factors, "phase")

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that belong to one column of the kernel."""
        rows = sum(step.columns * step.x.size for step in self.products)
        return rows // self.kernel.width * self.kernel.dtype.itemsize

    def parts(self, p: int) -> tuple[Ref, ...]:
        """The operands that a left side is put together of."""
        whole = self.assembled[p]
        return (self.products[p].x,) if whole is None else whole.parts


def phase_of(stages: Stages) -> Phase | None:
    """The main stage as one kernel, if it can be."""
    if "forward" not in stages.phases:
        stages.phases["forward"] = _phase_of(stages)
    found: Phase | None = stages.phases["forward"]
    return found


def _phase_of(stages: Stages) -> Phase | None:
    steps = stages.segments[MAIN][0].steps if len(stages.segments[MAIN]) == 1 else ()
    products = tuple(step for step in steps if isinstance(step, Product))
    wholes = {step.place: step for step in steps if isinstance(step, Assemble)}
    fused = [step.forward for step in steps if isinstance(step, Fused)]
    if stages.fuse != "cuda" or stages.stored or not products or not fused or any(map(has_sums, fused)):
        return None
    kernel = in_order(fused)
    own = {place.slab for place in wholes}
    if kernel is None or any(argument.key[0] == "slab" and argument.key[1] in own for argument in kernel.arguments):
        return None
    places = [stages.places.get(step.x.index) if step.x.kind == REF_NODE else None for step in products]
    assembled = tuple([wholes.pop(place, None) if place is not None else None for place in places])
    factors = [_factor(stages, kernel, *pair) for pair in zip(products, assembled, strict=True)]
    if wholes or None in factors:
        return None
    return Phase(kernel, products, assembled, tuple([factor for factor in factors if factor is not None]))


def _factor(stages: Stages, kernel: Kernel, step: Product, whole: Assemble | None) -> Factor | None:
    """A product as the kernel reads it, if it is of operands of the cell, and each column is read by the thread whose
    own column it belongs to."""
    parts = (step.x,) if whole is None else whole.parts
    entire = whole is None or (step.x.shift == 0 and step.x.size == whole.columns)
    if not entire or not all(ref.kind == REF_INPUT and ref.dtype == kernel.dtype and ref.size for ref in parts):
        return None
    numbers = [a for a, argument in enumerate(kernel.arguments) if argument.key == ("slab", step.place.slab)]
    if step.place.slab < 0 or len(numbers) != 1 or stages.slabs[step.place.slab].columns != step.columns:
        return None
    [number] = numbers
    is_whole = kernel.arguments[number].columns != 1 or kernel.width == 1
    if not is_whole or columns_read(kernel, number) != list(range(0, step.columns, kernel.width)):
        return None
    return Factor(number, len(parts), stages.memory.values[step.place.slab] == SCOPE_ALL)


class Levels:
    """The main stage of some calls as one kernel, made ready for one run."""

    def __init__(self, calls: CallValues, phase: Phase, blocks: int) -> None:
        self.phase, self.blocks = phase, blocks
        kernel, arena = phase.kernel, calls.arena
        matrices = {"slab": calls.slabs, "output": calls.out}
        arrays = calls.arrays_of(kernel, matrices, {"input": arena})
        self.head = [np.int32(calls.whole), arena.index(GRID_COUNTER)]
        self.rest = [
            arena.buffers[kernel.dtype],
            *_of_products(calls, phase),
            *sizes(kernel),
            *with_pitches(kernel, arrays),
        ]
        self.index = arena.index

    def __call__(self, edges: Array) -> bool:
        """Run the calls between one of the edges and the next, one launch for all of them. False, and nothing is
        done, if the weights are too large for that."""
        phase, levels = self.phase, len(edges) - 1
        rows = -(-int(edges[-1] - edges[0]) // levels)
        shape = grid_shape(phase.kernel.width, phase.nbytes, rows, self.blocks)
        if shape is None:
            return False
        [function] = functions(phase.text, ("phase",), cooperative=True)
        tiles = [np.int32(shape.units), np.int32(shape.tiles)]
        arguments = (self.index(edges), np.int32(levels), *self.head, *tiles, *self.rest)
        grid = shape.tiles * shape.shares
        function((grid,), (PHASE_THREADS,), arguments, shared_mem=shape.units * phase.nbytes)
        return True


def _of_products(calls: CallValues, phase: Phase) -> Iterator[Any]:
    """Of each product its weights, where its left sides are kept, and where their parts lie."""
    for p, step in enumerate(phase.products):
        kept = _kept_left_sides(calls, step, phase.assembled[p])
        pitch = _NOWHERE_KEPT if kept is None else (kept, np.int32(kept.strides[0] // kept.itemsize))
        yield from (calls.weight(step), np.int32(step.x.size), *pitch)
        for ref in phase.parts(p):
            yield from (calls.arena.index(calls.at[ref.index]), np.int32(ref.shift), np.int32(ref.size))


def _kept_left_sides(calls: CallValues, step: Product, whole: Assemble | None) -> Array | None:
    """Where the left sides of a product go that are kept for the gradients of weights, if they do not lie as they
    should."""
    if whole is not None:
        kept = calls.stages.memory.values[whole.place.slab] == SCOPE_ALL
        return calls.place(whole.place, whole.columns).array if kept else None
    evenly = calls.evenly(step.x)
    if evenly is not None:
        calls.xs[id(step)] = evenly
    return calls.left_sides(step) if step.grad and evenly is None else None


def levels_of(calls: CallValues) -> Levels | None:
    """What runs the main stage of these calls as one kernel; None if it has to be run step by step."""
    phase = phase_of(calls.stages)
    if phase is None or not all(calls.weight(step).flags.c_contiguous for step in phase.products):
        return None
    return Levels(calls, phase, devices.multiprocessors(calls.device))

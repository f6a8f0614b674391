"""Launches of one cell that follow each other, as one kernel that goes from level to level (`lazyflow.fuse.phases`).

That is done under ``lf.using(persistent=True)``, on a device, of two levels or more, where what is computed in each
launch is products with parameters, of operands or of operands side by side, and elementwise kernels of one width whose
element ``j`` reads columns ``j`` of the products' gates; and where a block's share of the weights has room in shared
memory. Everything else runs step by step, and so does what is stored in 16 bits.

What is in memory afterwards is the same as step by step, up to rounding: so backward need not know which way was taken.
It is a kernel of its own, where additions may be in any order, the elementwise part has no sums of rows, and all calls
take part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lazyflow import device as devices
from lazyflow import settings
from lazyflow.cells.lifetimes import SCOPE_ALL, SCOPE_SAME
from lazyflow.cells.line import View
from lazyflow.cells.program import Stages
from lazyflow.cells.steps import MAIN, REF_INPUT, REF_NODE, Assemble, Fused, Place, Product, Ref
from lazyflow.cells.values import CallValues, Matrices
from lazyflow.cuda.module import functions
from lazyflow.device import Array
from lazyflow.fuse.cuda import has_sums, sizes, with_pitches
from lazyflow.fuse.phases import (
    PHASE_THREADS,
    Factor,
    GridShape,
    columns_read,
    grid_shape,
    phase_back_source,
    phase_source,
)
from lazyflow.fuse.scalar import Kernel, in_order
from lazyflow.plan.arena import Arena

FEWEST_LEVELS = 2
LEVELS = -1  # what is prepared for all launches of the main stage as one, beside the lines of stages
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

    def grid(self, edges: Array, blocks: int) -> GridShape | None:
        """How so many blocks divide the calls between one of the edges and the next; None if there is no room."""
        return grid_shape(self.kernel.width, self.nbytes, rows_of_level(edges), blocks)

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


@dataclass(frozen=True, eq=False)
class PhaseBack:
    """A main stage that can be one kernel backward: the kernel, and the products that something is handed on through,
    each with the operands that get it and the columns of the left side that these are."""

    kernel: Kernel
    products: tuple[Product, ...]
    parts: tuple[tuple[tuple[Ref, int], ...], ...]

    @cached_property
    def text(self) -> str:
        """The text of the kernel."""
        return phase_back_source(self.kernel, tuple(map(len, self.parts)), "phase_back")

    @property
    def columns(self) -> int:
        """Those of all left sides."""
        return sum(step.x.size for step in self.products)

    @property
    def room(self) -> int:
        """The most weights that belong to one of these columns."""
        return max(step.columns for step in self.products)

    @property
    def nbytes(self) -> int:
        """Bytes of these weights."""
        return self.room * self.kernel.dtype.itemsize

    def grid(self, edges: Array, blocks: int) -> GridShape | None:
        """How so many blocks divide a level on the way back: see `Phase.grid`."""
        return grid_shape(self.columns, self.nbytes, rows_of_level(edges), blocks)


def phase_back_of(stages: Stages) -> PhaseBack | None:
    """The main stage backward as one kernel, if it can be."""
    if "backward" not in stages.phases:
        phase = phase_of(stages)
        stages.phases["backward"] = None if phase is None else _phase_back_of(stages, phase)
    found: PhaseBack | None = stages.phases["backward"]
    return found


def _phase_back_of(stages: Stages, phase: Phase) -> PhaseBack | None:
    [segment] = stages.segments[MAIN]
    kernels = [step.backward for step in segment.steps if isinstance(step, Fused) and step.backward is not None]
    kernel = None if not kernels or any(map(has_sums, kernels)) else in_order(kernels[::-1])
    pairs = [(step, whole) for step, whole in zip(phase.products, phase.assembled, strict=True) if step.x_grad]
    own = {whole.place.slab for whole in phase.assembled if whole is not None}
    if kernel is None or not pairs or not own.issuperset(segment.zeroed):
        return None
    if any(stages.memory.cotangents[step.place.slab] not in (SCOPE_ALL, SCOPE_SAME) for step, _ in pairs):
        return None
    parts = []
    for step, whole in pairs:
        columns = [(step.x, 0)] if whole is None else list(zip(whole.parts, whole.at, strict=True))
        parts.append(tuple([(ref, at) for ref, at in columns if ref.grad]))
    return PhaseBack(kernel, tuple([step for step, _ in pairs]), tuple(parts))


class Levels:
    """The main stage of some calls as one kernel, made ready for one run."""

    def __init__(self, calls: CallValues, phase: Phase) -> None:
        self.phase, self.blocks = phase, devices.multiprocessors(calls.device)
        kernel, arena = phase.kernel, calls.arena
        arrays = calls.arrays_of(kernel, {"slab": calls.slabs, "output": calls.out}, {"input": arena})
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
        phase = self.phase
        shape = phase.grid(edges, self.blocks)
        if shape is not None:
            tiles = [np.int32(shape.units), np.int32(shape.tiles)]
            arguments = [self.index(edges), np.int32(len(edges) - 1), *self.head, *tiles, *self.rest]
            _launched(phase.text, "phase", shape, phase.nbytes, arguments)
        return shape is not None


class LevelsBack:
    """The same of one backward pass. ``g``: of each product the cotangents of its rows; others as `levels_back_of`."""

    def __init__(
        self, calls: CallValues, phase: PhaseBack, matrices: Matrices, g: Sequence[Array], target: Arena
    ) -> None:
        self.phase, self.blocks = phase, devices.multiprocessors(calls.device)
        kernel, arena = phase.kernel, calls.arena
        arrays = calls.arrays_of(kernel, matrices, {"input": arena, "input cotangent": target})
        self.rest: list[object] = [np.int32(phase.columns), np.int32(phase.room), target.buffers[kernel.dtype]]
        start = 0
        for step, parts, rows in zip(phase.products, phase.parts, g, strict=True):
            self.rest += [calls.weight(step), *map(np.int32, (start, step.x.size, step.columns))]
            self.rest += [rows, np.int32(rows.strides[0] // rows.itemsize)]
            for ref, column in parts:
                at = arena.index(calls.at[ref.index])
                self.rest += [at, *map(np.int32, (ref.shift, start + column, ref.size))]
            start += step.x.size
        self.rest += [*sizes(kernel), *with_pitches(kernel, arrays)]
        self.index = arena.index

    def __call__(self, edges: Array) -> bool:
        """Go back through the calls between one of the edges and the next, the last first: see `Levels`."""
        phase = self.phase
        shape = phase.grid(edges, self.blocks)
        if shape is not None:
            head = [self.index(edges), np.int32(len(edges) - 1), self.index(GRID_COUNTER)]
            arguments = [*head, np.int32(shape.units), np.int32(shape.tiles), *self.rest]
            _launched(phase.text, "phase_back", shape, phase.nbytes, arguments)
        return shape is not None


def how_levels_run(stages: Stages, edges: Array, device: str, grad: bool) -> str:
    """In words, whether the calls between one of the edges and the next are one kernel, forward and, with ``grad``,
    backward: of parameters as they are made, and a backward that reaches all calls."""
    if len(edges) <= FEWEST_LEVELS:
        return "alone, with other launches before and behind"
    if stages.stored:
        return "step by step, as what is kept lies in 16 bits"
    phase, blocks = phase_of(stages), devices.multiprocessors(device)
    if phase is None:
        return "step by step, as a level is more than products with parameters and elementwise kernels of one width"
    if phase.grid(edges, blocks) is None:
        return "step by step, as the weights have no room in shared memory"
    if not grad:
        return "one kernel"
    back = None if settings.current().deterministic else phase_back_of(stages)
    if back is None or back.grid(edges, blocks) is None:
        return "one kernel forward, and step by step backward"
    return "one kernel forward and one backward"


def rows_of_level(edges: Array) -> int:
    """How many calls a level has, on average.

    >>> rows_of_level(np.array([0, 4, 6, 7]))
    3
    """
    return -(-int(edges[-1] - edges[0]) // (len(edges) - 1))


def _launched(text: str, name: str, shape: GridShape, nbytes: int, arguments: Sequence[object]) -> None:
    [function] = functions(text, (name,), cooperative=True)
    grid, room = shape.tiles * shape.shares, shape.units * nbytes
    function((grid,), (PHASE_THREADS,), tuple(arguments), shared_mem=room)


def _of_products(calls: CallValues, phase: Phase) -> Iterator[object]:
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
    return None if phase is None or not _have_rows(calls, phase.products) else Levels(calls, phase)


def levels_back_of(
    calls: CallValues, matrices: Matrices, cotangent: Callable[[Place, int], View], target: Arena
) -> LevelsBack | None:
    """What goes back through the main stage as one kernel. ``matrices``: those of values and cotangents; ``cotangent``:
    columns of these; ``target``: the arena of cotangents."""
    phase = phase_back_of(calls.stages)
    if phase is None or calls.scattered or settings.current().deterministic or not _have_rows(calls, phase.products):
        return None
    g = [cotangent(step.place, step.columns).array for step in phase.products]
    return LevelsBack(calls, phase, matrices, g, target)


def _have_rows(calls: CallValues, products: Sequence[Product]) -> bool:
    """Whether the weights of products lie row by row."""
    return all(calls.weight(step).flags.c_contiguous for step in products)

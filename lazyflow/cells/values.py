"""What the stages of a cell keep of its calls in a run, where it lies, and how the steps read it.

A *call* is one node; the calls of a signature in one phase are numbered in the order in which they run. What the stages
of a program keep of a call is a row of a slab, so that a launch is a range of rows, and what is left to the end (weight
gradients, hoisted and sunk steps) is all of them at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.cells import line as lines
from lazyflow.cells.lifetimes import SCOPE_ALL, SCOPE_BLOCK
from lazyflow.cells.line import Line, View
from lazyflow.cells.line import most as most_rows
from lazyflow.cells.program import Stages
from lazyflow.cells.steps import (
    HOISTED,
    MAIN,
    REF_CONSTANT,
    REF_FLOAT,
    REF_INPUT,
    REF_INT,
    REF_NODE,
    REF_PARAMETER,
    REF_STATIC,
    SUNK,
    Node,
    Place,
    Product,
    Ref,
    Step,
)
from lazyflow.cuda.rows import Part
from lazyflow.device import Array, DType
from lazyflow.fuse import cuda
from lazyflow.fuse.blocks import rows_of
from lazyflow.fuse.scalar import ARG_NUMBER, ARG_ROWS, ARG_VECTOR, Argument, Kernel
from lazyflow.ops.base import brought
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.arena import POOL, Arena, give_back
from lazyflow.record.expr import Parameter

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class Slabs:
    """Matrices from the pool, which get them back when nobody holds this any more."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.buffers: list[Array] = []

    def matrix(self, rows: int, columns: int, dtype: DTypeLike) -> Array:
        """A matrix whose contents are undefined."""
        [matrix] = self.matrices([(rows, columns, np.dtype(dtype))])
        return matrix

    def matrices(self, shapes: Sequence[tuple[int, int, DType]]) -> list[Array]:
        """Matrices whose contents are undefined, those of one dtype in one buffer: few buffers fit again."""
        starts: list[int] = []
        sizes: dict[DType, int] = {}
        for rows, columns, dtype in shapes:
            starts.append(sizes.get(dtype, 0))
            sizes[dtype] = starts[-1] + -(-rows * columns // LINE) * LINE
        buffers = {dtype: POOL.take(self.device, dtype, size) for dtype, size in sizes.items()}
        self.buffers += buffers.values()
        return [
            buffers[dtype][start : start + rows * columns].reshape(rows, columns)
            for start, (rows, columns, dtype) in zip(starts, shapes, strict=True)
        ]

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        if not ends():  # names of modules may be gone then
            give_back(self.device, self.buffers)


# Matrices begin at multiples of so many elements: rows of different ones do not meet in one line of the cache.
LINE = 16


Matrices = Mapping[str, Sequence[object]]
Buffers = Mapping[str, Arena]


class CallColumns(NamedTuple):
    """What tells calls of one cell apart. ``inputs[k]`` and ``outputs[k]``: the element offsets of operands and results
    in the arena, one for each call; ``ints`` and ``floats``: their payload numbers; ``calls``: how many
    there are."""

    inputs: Sequence[Array]
    outputs: Sequence[Array]
    ints: Sequence[Array]
    floats: Sequence[Array]
    calls: int

    def some(self, rows: Array, results: Sequence[int]) -> CallColumns:
        """Those of the calls with the numbers ``rows``, with these results."""
        inputs, ints, floats = ([column[rows] for column in some] for some in (self.inputs, self.ints, self.floats))
        return CallColumns(inputs, [self.outputs[k][rows] for k in results], ints, floats, len(rows))


class CallValues:
    """What is kept of some calls of one cell. ``largest``: how many of them the largest launch has. ``grad``: a
    backward pass may follow.

    ``slabs``, ``out`` and ``shared``: the values of all calls, or of a block, by slab; the results; and what has one
    value for all calls, by node. ``xs``: left sides of products that are kept for weight gradients, by step.
    ``scattered``: the results do not lie one behind the other in the arena; ``persistent``: launches that follow each
    other are to be one.
    """

    slabs: list[Array]
    out: list[Array]
    scattered: bool

    def __init__(
        self,
        stages: Stages,
        arena: Arena,
        parameters: Sequence[Parameter],
        columns: CallColumns,
        largest: int,
        grad: bool,
    ) -> None:
        self.stages, self.program, self.nodes = stages, stages.program, stages.program.nodes
        self.arena, self.device, self.grad = arena, arena.device, grad
        self.xp = devices.array_module(arena.device)
        self.columns, self.parameters, self.largest = columns, parameters, largest
        self.at, self.out_at, self.ints, self.floats, self.count = columns
        self.whole = keeps_all(stages, grad)
        self.persistent = False
        self.memory = Slabs(arena.device)
        self.shifted: dict[tuple[int, int], Array] = {}
        self.xs: dict[int, Array] = {}
        self.shared: dict[int, Array] = {}

    def block(self, arena: Arena, k: int) -> Array:
        """All results ``k``, or their cotangents, as a matrix of the arena."""
        node = self.nodes[self.program.outputs[k]]
        first = int(self.out_at[k][0])
        return arena.buffers[node.dtype][first : first + self.count * node.size].reshape(self.count, node.size)

    def slab(self, slab: int, column: int, columns: int) -> View:
        """Columns of a slab of values."""
        matrix = self.slabs[slab][:, column : column + columns]
        if self.stages.memory.values[slab] == SCOPE_BLOCK:
            return View(matrix, lines.OF_BLOCK)
        return View(matrix, lines.OF_ALL if self.whole else lines.OF_LAUNCH)

    def place(self, place: Place, columns: int) -> View:
        """Columns of a slab, or, for slab -1 - k, of output ``k``."""
        if place.slab >= 0:
            return self.slab(place.slab, place.column, columns)
        return View(self.out[-1 - place.slab][:, place.column : place.column + columns], lines.OF_ALL)

    def node(self, ref: Ref) -> View:
        """Elements of a node that lies in memory."""
        return self.place(self.place_of(ref.index, ref.shift), ref.size)

    def place_of(self, i: int, shift: int) -> Place:
        """Where a node lies; slab -1 - k is output ``k``."""
        k = self.stages.output_of.get(i)
        place = self.stages.places[i] if k is None else Place(-1 - k, 0)
        return Place(place.slab, place.column + shift)

    def input_rows(self, ref: Ref, low: int, high: int) -> Array:
        """The rows of an input, as a matrix."""
        at = self.starts(ref)
        brought = None if self.device == "cpu" or not ref.size else self.arena.index(at)[low:high]
        return rows_of(self.arena.buffers[ref.dtype], at[low:high], ref.size, brought)

    def rows_of_node(self, i: int, shift: int, size: int, low: int, high: int, first: int) -> Array:
        """Elements of a node that lies in memory: those of the calls from ``low`` to ``high``."""
        stages = self.stages
        k = stages.output_of.get(i)
        if k is not None:
            return self.out[k][low:high, shift : shift + size]
        place = stages.places[i]
        matrix, column = self.slabs[place.slab], place.column + shift
        if stages.memory.values[place.slab] == SCOPE_BLOCK:
            return matrix[: high - low, column : column + size]
        if not self.whole:
            low, high = low - first, high - first
        return matrix[low:high, column : column + size]

    def starts(self, ref: Ref) -> Array:
        """Where the rows of an input begin."""
        at = self.at[ref.index]
        if not ref.shift:
            return at
        key = ref.index, ref.shift
        if key not in self.shifted:
            self.shifted[key] = at + ref.shift
        return self.shifted[key]

    def has_rows(self, dtype: DType) -> bool:
        """Whether there are operations on rows of a dtype: the compiled core's, or the device's."""
        return self.stages.fuse in ("core", "cuda") and dtype.char in "fd"

    def parts(self, inputs: Sequence[tuple[Ref, int]]) -> list[Part]:
        """Of inputs and columns of a matrix what operations on rows of the device take."""
        return [
            Part(self.arena.index(self.at[ref.index]), 1, ref.shift, column, ref.size, self.at[ref.index])
            for ref, column in inputs
        ]

    def several(self, inputs: Sequence[tuple[Ref, int]]) -> tuple[Array, Array, Array, Array]:
        """Of inputs and columns of a matrix: the arena, where the rows begin in it, the columns, and the widths."""
        at = np.stack([self.starts(ref) for ref, _ in inputs])
        where, widths = (np.array(numbers) for numbers in ([c for _, c in inputs], [ref.size for ref, _ in inputs]))
        return self.arena.buffers[inputs[0][0].dtype], at, where, widths

    def weight(self, step: Product) -> Array:
        """The weights of a product, (m, k); those of several parameters are joined once an update, and all are made
        narrow once where its sides are stored in 16 bits."""
        if self.stages.multiplied_as(step) != step.x.dtype:
            narrow: Array = self.once(
                (id(step), "stored"), step, lambda: cuda.narrowed(self._wide_weight(step), self.stages.stored)
            )
            return narrow
        return self._wide_weight(step)

    def _wide_weight(self, step: Product) -> Array:
        parameters = [self.parameters[ref.index] for ref in step.parameters]
        if len(parameters) == 1:
            return parameters[0].memory
        found: Array = self.once(
            (id(step), "joined"), step, lambda: self.xp.concatenate([p.memory for p in parameters])
        )
        return found

    def evenly(self, ref: Ref) -> Array | None:
        """All rows of an input as a view of the arena, if they lie one behind the other."""
        at = self.at[ref.index]
        if len(at) > 1 and not (at[1:] - at[:-1] == ref.size).all():
            return None
        first = int(at[0]) + ref.shift
        return self.arena.buffers[ref.dtype][first : first + len(at) * ref.size].reshape(len(at), ref.size)

    def left_sides(self, step: Product) -> Array:
        """The matrix in which the left sides of a product are kept for the gradients of its weights."""
        if id(step) not in self.xs:
            self.xs[id(step)] = self.memory.matrix(self.count, step.x.size, self.stages.multiplied_as(step))
        return self.xs[id(step)]

    def once(self, key: object, step: Product, make: Callable[[], Array]) -> Array:
        """What is made of the parameters of a product, again only if one has changed."""
        parameters = [self.parameters[ref.index] for ref in step.parameters]
        version = tuple((p.version, self.arena.number if p._exposed else 0) for p in parameters)
        known = self.stages.weights.get(key)
        if known is None or known[0] != version:
            known = self.stages.weights[key] = version, make()
        return known[1]

    def operands(self, node: Node, low: int, high: int, first: int) -> list[Array]:
        """What an operation's own kernel takes: one array for each operand, with a batch axis unless it is shared."""
        signature = node.signature
        assert signature is not None
        arrays = [self._array(ref, low, high, first) for ref in node.reads]
        if not signature.op.stacked:
            return arrays
        count = len(arrays)
        if node.batch:
            shape = node.reads[0].shape
            arrays = [self.xp.broadcast_to(a, (high - low, *shape)) if a.ndim == len(shape) else a for a in arrays]
        joined = self.xp.stack(arrays, axis=1 if node.batch else 0)
        if not signature.op.ragged:
            return [joined]
        rows = high - low if node.batch else 1
        flat = joined.reshape((rows * count, *node.reads[0].shape))
        return [flat, np.full(rows, count, np.int64)]

    def shared_operands(self, node: Node) -> list[Array]:
        """Those of an operation that has one value for all calls: stacked ones still need a batch axis."""
        assert node.signature is not None
        op, arrays = node.signature.op, self.operands(node, 0, 0, 0)
        return [arrays[0][None]] if op.stacked and not op.ragged else arrays

    def _array(self, ref: Ref, low: int, high: int, first: int) -> Array:
        if ref.kind == REF_STATIC:
            return ref.value
        if ref.kind == REF_INT:
            numbers = self.ints[ref.index]
            some = numbers[low:high].astype(np.int64)  # a kernel multiplies indices by sizes
            return some if self.device == "cpu" else brought(some, self.arena.index(numbers)[low:high])
        if ref.kind == REF_FLOAT:
            numbers = self.floats[ref.index]
            numbers = numbers if self.device == "cpu" else self.arena.payload(numbers)
            return numbers[low:high].astype(ref.dtype).reshape((-1,) + (1,) * len(ref.shape))
        if ref.kind in (REF_PARAMETER, REF_CONSTANT) or (ref.kind == REF_NODE and not self.nodes[ref.index].batch):
            return self.flat(ref)[ref.shift : ref.shift + ref.size].reshape(ref.shape)
        if ref.kind == REF_NODE:
            rows = self.rows_of_node(ref.index, ref.shift, ref.size, low, high, first)
        else:
            rows = self.input_rows(ref, low, high)
        return rows if len(ref.shape) == 1 else rows.reshape((high - low, *ref.shape))

    def flat(self, ref: Ref) -> Array:
        """A shared value as a vector."""
        if ref.kind == REF_PARAMETER:
            return self.parameters[ref.index].memory.reshape(-1)
        if ref.kind == REF_CONSTANT:
            return devices.to_device(self.program.constants[ref.index], self.device).reshape(-1)
        return self.shared[ref.index].reshape(-1)

    def stage_of(self, step: Step) -> int:
        """The stage that the step belongs to."""
        return next(stage for stage, steps in enumerate(self.stages.steps) if step in steps)

    def new_line(self, stage: int) -> Line:
        """A line for the steps of a stage."""
        return core.machine.Line() if self.stages.by_core[stage] else Line(self.xp)

    @property
    def all(self) -> Array:
        """The edges of one range with all of the calls."""
        return np.array([0, self.count])

    def matrices(self, memory: Slabs, scopes: Sequence[str], rows: int) -> list[Any]:
        """A matrix for each slab that needs one of its own, None for the others."""
        found = iter(memory.matrices(shapes_of(self.stages, scopes, rows, self.count, self.largest)))
        return [next(found) if scope in (SCOPE_ALL, SCOPE_BLOCK) else None for scope in scopes]

    def kernel(self, line: Line, kernel: Kernel, matrices: Matrices, buffers: Buffers) -> None:
        """Append a fused kernel to a line."""
        line.program(self.stages.function_of(kernel), *self.arrays_of(kernel, matrices, buffers))

    def arrays_of(self, kernel: Kernel, matrices: Matrices, buffers: Buffers) -> list[Array]:
        """What a fused kernel takes. ``matrices`` and ``buffers``: what the kinds of its arguments lie in."""
        return [array for a in kernel.arguments for array in self._argument(a, kernel.dtype, matrices, buffers)]

    def _argument(self, argument: Argument, dtype: DType, matrices: Matrices, buffers: Buffers) -> tuple[Array, ...]:
        what, which = argument.key[:2]
        if argument.kind == ARG_ROWS:
            return buffers[what].buffers[dtype], self.arena.index(self.at[which])
        if argument.kind == ARG_NUMBER:
            numbers = (self.ints if what == REF_INT else self.floats)[which]
            if self.device != "cpu":
                return (self.arena.index(numbers) if what == REF_INT else self.arena.payload(numbers),)
            return (numbers.astype(dtype),)
        if argument.kind == ARG_VECTOR:
            return (self.flat(Ref(what, which, 0, (), dtype, 0)),)
        return (matrices[what][which],)


def keeps_all(stages: Stages, grad: bool) -> bool:
    """Whether slabs have a row for each call, not for those of a launch."""
    return grad or bool(stages.steps[HOISTED] or stages.steps[SUNK])


def shapes_of(
    stages: Stages, scopes: Sequence[str], rows: int, count: int, largest: int
) -> list[tuple[int, int, DType]]:
    """Rows, columns and dtype of each slab that needs a matrix of its own."""
    return [
        (rows if scope == SCOPE_ALL else block_rows(slab.stage, block, count, largest), slab.columns, slab.dtype)
        for slab, scope, block in zip(stages.slabs, scopes, stages.memory.rows, strict=True)
        if scope in (SCOPE_ALL, SCOPE_BLOCK)
    ]


def block_rows(stage: int, block: int | None, count: int, largest: int) -> int:
    """How many rows the largest block of a segment has."""
    most = largest if stage == MAIN else count
    return most if block is None else min(most, most_rows(block))


def bytes_of_calls(stages: Stages, count: int, largest: int, grad: bool) -> tuple[int, int]:
    """Bytes of the slabs of so many calls: of values, and of what backward needs beside them."""

    def nbytes(scopes: Sequence[str], rows: int) -> int:
        return sum(r * c * dtype.itemsize for r, c, dtype in shapes_of(stages, scopes, rows, count, largest))

    products = [(stage, s) for stage, part in enumerate(stages.steps) for s in part if isinstance(s, Product)]
    kept = sum(count * s.x.size * stages.multiplied_as(s).itemsize for _, s in products if s.x.kind == REF_INPUT)
    values = nbytes(stages.memory.values, count if keeps_all(stages, grad) else largest)
    handed = [(largest if stage == MAIN else count) * s.x.size * s.x.dtype.itemsize for stage, s in products]
    return values + kept, nbytes(stages.memory.cotangents, count) + sum(handed) if grad else 0


def bytes_of_left_sides(stages: Stages, count: int) -> int:
    """Bytes of the left sides of all products with weights that get gradients, of so many calls: on a device they are
    copied (`lazyflow.ops.linalg.shown_all`)."""
    products = [s for part in stages.steps for s in part if isinstance(s, Product) and s.grad]
    return sum(count * s.x.size * stages.multiplied_as(s).itemsize for s in products)


def columns_of(view: View, column: int, size: int) -> View:
    """Some columns of a matrix."""
    return View(view.array[:, column : column + size], view.base)


def dense(gradient: Array) -> Array:
    """A gradient as an array."""
    return gradient.to_dense() if isinstance(gradient, RowSparse) else gradient

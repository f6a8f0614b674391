"""The calls of one cell in a run: their slabs, and the steps of its stages over ranges of them, forward and backward.

A *call* is one node; the calls of a signature in one phase are numbered in the order in which they run. What the stages
of a program keep of a call is a row of a slab, so that a launch is a range of rows, and what is left to the end (weight
gradients, hoisted and sunk steps) is all of them at once.

The steps of a stage are prepared once a run, with all that they need looked up, as a `lazyflow.cells.line.Line` or the
compiled core's. It holds arrays, never the calls, so that nothing holds itself and memory is free as soon as it can be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.cells import line as lines
from lazyflow.cells.lifetimes import SCOPE_ALL, SCOPE_BLOCK, SCOPE_SAME, Segment
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
    Assemble,
    Fused,
    Node,
    OwnKernel,
    Place,
    Product,
    Ref,
    Step,
)
from lazyflow.cuda.rows import Part
from lazyflow.device import Array
from lazyflow.fuse import cuda
from lazyflow.fuse.blocks import add_rows, rows_of
from lazyflow.fuse.scalar import ARG_NUMBER, ARG_ROWS, ARG_VECTOR, Argument, Kernel
from lazyflow.ops.base import brought, unbroadcast
from lazyflow.ops.linalg import column_sums, outer_sum, rows_at_once, transposed
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.arena import POOL, Arena, give_back
from lazyflow.record.expr import Parameter

# So many calls of a run are brief: a copy of the weights by columns does not pay.
BRIEF = 32

Accumulate = Callable[[Parameter, Any], None]
Prepare = Callable[[Any, Step, Segment], None]


class Slabs:
    """Matrices from the pool, which get them back when nobody holds this any more."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.buffers: list[Array] = []

    def matrix(self, rows: int, columns: int, dtype: Any) -> Array:
        """A matrix whose contents are undefined."""
        [matrix] = self.matrices([(rows, columns, np.dtype(dtype))])
        return matrix

    def matrices(self, shapes: Sequence[tuple[int, int, np.dtype[Any]]]) -> list[Array]:
        """Matrices whose contents are undefined, those of one dtype in one buffer: few buffers fit again."""
        starts: list[int] = []
        sizes: dict[np.dtype[Any], int] = {}
        for rows, columns, dtype in shapes:
            starts.append(sizes.get(dtype, 0))
            sizes[dtype] = starts[-1] + -(-rows * columns // LINE) * LINE
        buffers = {dtype: POOL.take(self.device, dtype, size) for dtype, size in sizes.items()}
        self.buffers += buffers.values()
        return [
            buffers[dtype][start : start + rows * columns].reshape(rows, columns)
            for start, (rows, columns, dtype) in zip(starts, shapes, strict=True)
        ]

    def __del__(self) -> None:
        give_back(self.device, self.buffers)


# Matrices begin at multiples of so many elements: rows of different ones do not meet in one line of the cache.
LINE = 16


class Calls:
    """``count`` calls of one cell. ``inputs[k]`` and ``outputs[k]``: the element offsets of operands and results in the
    arena, one for each call; ``ints`` and ``floats``: their payload numbers.

    ``largest``: how many calls the largest launch has. ``apart``: the results go to memory of their own.
    """

    def __init__(
        self,
        stages: Stages,
        arena: Arena,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        ints: Sequence[Array],
        floats: Sequence[Array],
        parameters: Sequence[Parameter],
        count: int,
        largest: int,
        grad: bool,
        apart: bool = False,
    ) -> None:
        self.stages, self.program, self.nodes = stages, stages.program, stages.program.nodes
        self.arena, self.device, self.grad = arena, arena.device, grad
        self.xp = devices.array_module(arena.device)
        self.at, self.out_at, self.ints, self.floats = inputs, outputs, ints, floats
        self.shifted: dict[tuple[int, int], Array] = {}
        self.parameters, self.count, self.largest = parameters, count, largest
        self.memory = Slabs(arena.device)
        self.whole = _keeps_all(stages, grad)
        self.rows = count if self.whole else largest
        self.slabs = self._matrices(self.memory, stages.memory.values, self.rows)
        if apart:
            results = [self.nodes[i] for i in self.program.outputs]
            self.out = self.memory.matrices([(count, node.size, node.dtype) for node in results])
        else:
            self.out = [self._block(arena, k) for k in range(len(self.program.outputs))]
        self.xs: dict[int, Array] = {}  # left sides of products that are kept for weight gradients, by step
        self.shared: dict[int, Array] = {}
        self.prepared: dict[int, Any] = {}  # the line of each stage
        self.ran: list[Array] = []
        self.spent = False  # a backward pass has put cotangents in the place of values
        self.scattered = apart  # results do not lie one behind the other: some of the calls of a run

    def _matrices(self, memory: Slabs, scopes: Sequence[str], rows: int) -> list[Any]:
        """A matrix for each slab that needs one of its own, None for the others."""
        found = iter(memory.matrices(_shapes(self.stages, scopes, rows, self.count, self.largest)))
        return [next(found) if scope in (SCOPE_ALL, SCOPE_BLOCK) else None for scope in scopes]

    def _block(self, arena: Arena, k: int) -> Array:
        node = self.nodes[self.program.outputs[k]]
        first = int(self.out_at[k][0])
        return arena.buffers[node.dtype][first : first + self.count * node.size].reshape(self.count, node.size)

    # Ranges.

    def forward(self, edges: Array) -> None:
        """Run the calls between one of the ``edges`` and the next, launch by launch."""
        if edges[0] == 0:
            self._run_shared()
            self._run(HOISTED, self._all)
        self._run(MAIN, edges)
        if edges[-1] == self.count:
            self._run(SUNK, self._all)
        if self.grad:
            self.ran.append(edges)

    @property
    def _all(self) -> Array:
        return np.array([0, self.count])

    def _run(self, stage: int, edges: Array) -> None:
        segments = self.stages.segments[stage]
        if not segments:
            return
        line = self.prepared.get(stage)
        if line is None:
            line = self._new_line(stage)
            for segment in segments:
                line.segment(segment.rows)
                for step in segment.steps:
                    self._prepare(line, step, segment)
            self.prepared[stage] = line  # now that it is whole
        line(edges, self.whole, False, self)

    def _new_line(self, stage: int) -> Any:
        return core.machine.Line() if self.stages.by_core[stage] else Line(self.xp)

    def _run_shared(self) -> None:
        for i in self.stages.shared:
            signature = self.nodes[i].signature
            assert signature is not None
            found = signature.forward(self.xp, *self._shared_operands(self.nodes[i]))
            # An operation may answer with a view, a diagonal; compiled kernels read a vector from its first element on.
            self.shared[i] = found if found.flags.c_contiguous else self.xp.ascontiguousarray(found)

    # Where rows lie.

    def _slab(self, slab: int, column: int, columns: int) -> View:
        """Columns of a slab of values."""
        matrix = self.slabs[slab][:, column : column + columns]
        if self.stages.memory.values[slab] == SCOPE_BLOCK:
            return View(matrix, lines.OF_BLOCK)
        return View(matrix, lines.OF_ALL if self.whole else lines.OF_LAUNCH)

    def _place(self, place: Place, columns: int) -> View:
        """Columns of a slab, or, for slab -1 - k, of output ``k``."""
        if place.slab >= 0:
            return self._slab(place.slab, place.column, columns)
        return View(self.out[-1 - place.slab][:, place.column : place.column + columns], lines.OF_ALL)

    def _node(self, ref: Ref) -> View:
        """Elements of a node that lies in memory."""
        return self._place(self._place_of(ref.index, ref.shift), ref.size)

    def _place_of(self, i: int, shift: int) -> Place:
        """Where a node lies; slab -1 - k is output ``k``."""
        k = self.stages.output_of.get(i)
        place = self.stages.places[i] if k is None else Place(-1 - k, 0)
        return Place(place.slab, place.column + shift)

    def _input(self, ref: Ref, low: int, high: int) -> Array:
        """The rows of an input, as a matrix."""
        at = self._starts(ref)
        brought = None if self.device == "cpu" or not ref.size else self.arena.index(at)[low:high]
        return rows_of(self.arena.buffers[ref.dtype], at[low:high], ref.size, brought)

    # Operations by their own kernels ask for every operand of every block: here it is there, without a function first.

    def _rows(self, i: int, shift: int, size: int, low: int, high: int, first: int) -> Array:
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

    def _cotangent_rows(self, i: int, shift: int, size: int, low: int, high: int) -> Array:
        """Those of its cotangent."""
        stages = self.stages
        k = stages.output_of.get(i)
        if k is not None:
            return self.out_cotangents[k][low:high, shift : shift + size]
        place = stages.places[i]
        matrix, column = self.cotangents[place.slab], place.column + shift
        if stages.memory.cotangents[place.slab] == SCOPE_BLOCK:
            low, high = 0, high - low
        return matrix[low:high, column : column + size]

    def _starts(self, ref: Ref) -> Array:
        at = self.at[ref.index]
        if not ref.shift:
            return at
        key = ref.index, ref.shift
        if key not in self.shifted:
            self.shifted[key] = at + ref.shift
        return self.shifted[key]

    # Steps.

    def _prepare(self, line: Any, step: Step, segment: Segment) -> None:
        if isinstance(step, Fused):
            self._kernel(line, step.forward)
        elif isinstance(step, Product):
            self._product(line, step, segment)
        elif isinstance(step, Assemble):
            self._copies(line, self._place(step.place, step.columns), step.parts, step.at)
        else:
            line.call(lambda calls, low, high, first: calls._call(step, low, high, first))

    def _copies(self, line: Any, out: View, parts: Sequence[Ref], columns: Sequence[int]) -> None:
        """Put the rows of inputs and nodes into columns of a matrix: the core, all inputs at once."""
        pairs = list(zip(parts, columns, strict=True))
        inputs = [(ref, c) for ref, c in pairs if ref.kind == REF_INPUT and self._has_rows(ref.dtype)]
        for ref, column in [pair for pair in pairs if pair not in inputs]:
            target = _columns_of(out, column, ref.size)
            if ref.kind == REF_INPUT:
                line.call(partial(_fill, ref, target))
            else:
                line.copy(target, self._node(ref))
        if inputs and self.stages.fuse == "cuda":
            line.gather_parts(out, self.arena.buffers[inputs[0][0].dtype], self._parts(inputs))
        elif inputs:
            buffer, at, where, widths = self._several(inputs)
            line.gather(out, where, buffer, at, widths)

    def _has_rows(self, dtype: np.dtype[Any]) -> bool:
        """Whether there are operations on rows of a dtype: the compiled core's, or the device's."""
        return self.stages.fuse in ("core", "cuda") and dtype.char in "fd"

    def _parts(self, inputs: Sequence[tuple[Ref, int]]) -> list[Part]:
        """The same for operations on rows of the device."""
        return [
            Part(self.arena.index(self.at[ref.index]), 1, ref.shift, column, ref.size, self.at[ref.index])
            for ref, column in inputs
        ]

    def _several(self, inputs: Sequence[tuple[Ref, int]]) -> tuple[Array, Array, Array, Array]:
        """Of inputs and columns of a matrix: the arena, where the rows begin in it, the columns, and the widths."""
        at = np.stack([self._starts(ref) for ref, _ in inputs])
        where, widths = (np.array(numbers) for numbers in ([c for _, c in inputs], [ref.size for ref, _ in inputs]))
        return self.arena.buffers[inputs[0][0].dtype], at, where, widths

    def _product(self, line: Any, step: Product, segment: Segment) -> None:
        x, out = self._operand(line, step, segment), self._place(step.place, step.columns)
        if self._is_brief(step):
            line.product(x, self._weight(step), out, 0, True)
        else:
            weight = self._columns(step)
            line.product(x, weight, out, rows_at_once(self.xp, weight))

    def _is_brief(self, step: Product) -> bool:
        """Whether a copy of the weights by columns would cost more than it gains. The loop wants contiguous rows."""
        if self.device != "cpu" or not self._has_rows(step.x.dtype) or self.count > BRIEF:
            return False
        x = None if step.x.kind == REF_INPUT else self._place_of(step.x.index, step.x.shift)
        pairs = [(step.place, step.columns), *([(x, step.x.size)] if x else [])]
        return all(self._is_whole(place, columns) for place, columns in pairs)

    def _is_whole(self, place: Place, columns: int) -> bool:
        k = -1 - place.slab
        return columns == (self.out[k].shape[1] if k >= 0 else self.stages.slabs[place.slab].columns)

    def _operand(self, line: Any, step: Product, segment: Segment) -> View:
        """The left side of a product: where it lies, or gathered into a matrix that is kept for the weight gradient."""
        ref = step.x
        if ref.kind != REF_INPUT:
            return self._node(ref)
        evenly = self._evenly(ref)
        if evenly is not None:
            self.xs[id(step)] = evenly
            return View(evenly, lines.OF_ALL)
        if step.grad:
            self.xs[id(step)] = self.memory.matrix(self.count, ref.size, ref.dtype)
            rows = View(self.xs[id(step)], lines.OF_ALL)
        else:
            most = _block_rows(self._stage_of(step), segment.rows, self.count, self.largest)
            rows = View(self.memory.matrix(most, ref.size, ref.dtype), lines.OF_BLOCK)
        self._copies(line, rows, [ref], [0])
        return rows

    def _stage_of(self, step: Step) -> int:
        return next(stage for stage, steps in enumerate(self.stages.steps) if step in steps)

    def _evenly(self, ref: Ref) -> Array | None:
        """All rows of an input as a view of the arena, if they lie one behind the other."""
        at = self.at[ref.index]
        if len(at) > 1 and not (at[1:] - at[:-1] == ref.size).all():
            return None
        first = int(at[0]) + ref.shift
        return self.arena.buffers[ref.dtype][first : first + len(at) * ref.size].reshape(len(at), ref.size)

    def _weight(self, step: Product) -> Array:
        """The weights of a product, (m, k); those of several parameters are joined once an update."""
        parameters = [self.parameters[ref.index] for ref in step.parameters]
        if len(parameters) == 1:
            return parameters[0].memory
        found: Array = self._once(
            (id(step), "joined"), step, lambda: self.xp.concatenate([p.memory for p in parameters])
        )
        return found

    def _columns(self, step: Product) -> Array:
        """The weights of a product, (k, m), on the host with contiguous rows, copied once an update."""
        if self.device != "cpu":
            return self._weight(step).T
        if len(step.parameters) == 1:
            return self.parameters[step.parameters[0].index].columns(self.arena.number).T
        found: Array = self._once((id(step), "columns"), step, lambda: transposed(self.xp, self._weight(step)))
        return found

    def _once(self, key: Any, step: Product, make: Callable[[], Array]) -> Array:
        """What is made of the parameters of a product, again only if one has changed."""
        parameters = [self.parameters[ref.index] for ref in step.parameters]
        version = tuple((p.version, self.arena.number if p._exposed else 0) for p in parameters)
        known = self.stages.weights.get(key)
        if known is None or known[0] != version:
            known = self.stages.weights[key] = version, make()
        return known[1]

    def _kernel(self, line: Any, kernel: Kernel) -> None:
        arrays = [array for a in kernel.arguments for array in self._argument(a, kernel.dtype)]
        function = self.stages.function_of(kernel)
        if isinstance(function, cuda.CudaKernel):
            line.kernel(function, arrays, [self.at[a.key[1]] if a.kind == ARG_ROWS else None for a in kernel.arguments])
        else:
            line.program(function, *arrays)

    def _argument(self, argument: Argument, dtype: Any) -> tuple[Array, ...]:
        what, which = argument.key[:2]
        if argument.kind == ARG_ROWS:
            arena = self.arena if what == "input" else self.cotangent_arena
            return arena.buffers[dtype], self.arena.index(self.at[which])
        if argument.kind == ARG_NUMBER:
            numbers = (self.ints if what == REF_INT else self.floats)[which]
            if self.device != "cpu":
                return (self.arena.index(numbers) if what == REF_INT else self.arena.payload(numbers),)
            return (numbers.astype(dtype),)
        if argument.kind == ARG_VECTOR:
            return (self._flat(Ref(what, which, 0, (), dtype, 0)),)
        return (getattr(self, _MATRICES[what])[which],)

    # Operations by their own kernels.

    def _call(self, step: OwnKernel, low: int, high: int, first: int) -> None:
        node = self.nodes[step.node]
        assert node.signature is not None
        target = self._rows(step.node, 0, node.size, low, high, first)
        shaped = target if len(node.shape) == 1 else target.reshape((high - low, *node.shape))
        shares = shaped is target or self.xp is not np or np.may_share_memory(shaped, target)
        out = shaped if shares else None
        result = node.signature.forward(self.xp, *self._operands(node, low, high, first), out=out)
        if out is None:
            target[...] = self.xp.broadcast_to(result, shaped.shape).reshape(target.shape)
        elif result is not out:
            out[...] = result

    def _operands(self, node: Node, low: int, high: int, first: int) -> list[Array]:
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

    def _shared_operands(self, node: Node) -> list[Array]:
        """Those of an operation that has one value for all calls: stacked ones still need a batch axis."""
        assert node.signature is not None
        op, arrays = node.signature.op, self._operands(node, 0, 0, 0)
        return [arrays[0][None]] if op.stacked and not op.ragged else arrays

    def _array(self, ref: Ref, low: int, high: int, first: int) -> Any:
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
            return self._flat(ref)[ref.shift : ref.shift + ref.size].reshape(ref.shape)
        if ref.kind == REF_NODE:
            rows = self._rows(ref.index, ref.shift, ref.size, low, high, first)
        else:
            rows = self._input(ref, low, high)
        return rows if len(ref.shape) == 1 else rows.reshape((high - low, *ref.shape))

    def _flat(self, ref: Ref) -> Array:
        """A shared value as a vector."""
        if ref.kind == REF_PARAMETER:
            return self.parameters[ref.index].memory.reshape(-1)
        if ref.kind == REF_CONSTANT:
            return devices.to_device(self.program.constants[ref.index], self.device).reshape(-1)
        return self.shared[ref.index].reshape(-1)

    # Other backward passes: of some of the calls, where a gradient does not reach all of them, and second ones.

    def part(
        self,
        rows: Array,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        ints: Sequence[Array],
        floats: Sequence[Array],
        largest: int,
    ) -> Calls:
        """The calls with the numbers ``rows``, for a backward pass of them alone; what was kept of them is copied."""
        self._restore()
        some = object.__new__(Calls)
        some.__dict__.update(self.__dict__)
        some.at, some.out_at, some.ints, some.floats = inputs, outputs, ints, floats
        some.shifted = {}
        some.count, some.largest, some.prepared = len(rows), largest, {}
        some.memory = Slabs(self.device)
        some.slabs = [slab if slab is None else slab[rows] for slab in self.slabs]
        some.xs = {key: x[rows] for key, x in self.xs.items()}
        some.out = [out[rows] for out in self.out]
        some.scattered = True
        return some

    def _restore(self) -> None:
        """Compute the values again that a backward pass has overwritten, in the ranges in which they were computed
        first: they are the same to the last bit."""
        if not self.spent:
            return
        results, ran, memory = self.out, self.ran, Slabs(self.device)
        self.out = memory.matrices([(*out.shape, out.dtype) for out in results])
        self.prepared, self.ran, self.spent = {}, [], False
        for edges in ran:
            self.forward(edges)
        self.out, self.prepared = results, {}

    # Cotangents.

    def begin_backward(self, cotangents: Arena) -> None:
        """Make the slabs of cotangents for one backward pass, whose arena is ``cotangents``."""
        self._restore()
        scopes, stages = self.stages.memory.cotangents, self.stages
        self.cotangent_arena = cotangents
        self.backward_memory = Slabs(self.device)
        self.cotangents = self._matrices(self.backward_memory, scopes, self.count)
        for i, scope in enumerate(scopes):
            if scope == SCOPE_SAME:
                self.cotangents[i], self.spent = self.slabs[i], True
            elif scope == SCOPE_ALL and i in stages.zeroed:
                self.cotangents[i].fill(0)
        self.out_cotangents = [self._out_cotangents(cotangents, k) for k in range(len(self.program.outputs))]
        self.back: dict[int, Any] = {}

    def end_backward(self) -> None:
        """Let go of the slabs of cotangents."""
        for name in ("cotangent_arena", "backward_memory", "cotangents", "out_cotangents", "back"):
            delattr(self, name)

    def _out_cotangents(self, arena: Arena, k: int) -> Any:
        node = self.nodes[self.program.outputs[k]]
        if node.dtype.kind != "f":
            return None
        if not self.scattered:
            return self._block(arena, k)
        found = self.backward_memory.matrix(self.count, node.size, node.dtype)
        found.fill(0)
        return found

    def _gather_cotangents(self, stage: int, low: int, high: int) -> None:
        """Bring in what later launches have left for the results that a stage computes."""
        for k, i in enumerate(self.program.outputs):
            target = self.out_cotangents[k]
            if self.stages.stage[i] == stage and target is not None and high > low:
                buffer = self.cotangent_arena.buffers[self.nodes[i].dtype]
                rows = rows_of(buffer, self.out_at[k][low:high], max(self.nodes[i].size, 1))
                target[low:high] += rows[:, : self.nodes[i].size]

    def backward(self, edges: Array) -> None:
        """Hand the cotangents of the results of calls on to what they were made of, the last launch first."""
        if edges[-1] == self.count:
            self._run_back(SUNK, self._all)
        self._run_back(MAIN, edges)
        if edges[0] == 0:
            self._run_back(HOISTED, self._all)

    def _run_back(self, stage: int, edges: Array) -> None:
        segments = self.stages.segments[stage]
        if not segments and not self.scattered:
            return
        line = self.back.get(stage)
        if line is None:
            line = self._new_line(stage)
            for segment in reversed(segments):
                line.segment(segment.rows)
                self._prepare_back(line, segment)
            self.back[stage] = line
        if not self.scattered:
            line(edges, True, True, self)
            return
        for k in range(len(edges) - 1, 0, -1):
            self._gather_cotangents(stage, int(edges[k - 1]), int(edges[k]))
            line(edges[k - 1 : k + 1], True, True, self)

    def _prepare_back(self, line: Any, segment: Segment) -> None:
        for slab in segment.zeroed:
            line.zero(View(self.cotangents[slab], lines.OF_BLOCK))
        for step in reversed(segment.steps):
            self._step_back(line, step, segment)

    def _step_back(self, line: Any, step: Step, segment: Segment) -> None:
        """What a step does in backward, if anything."""
        if isinstance(step, Fused):
            if step.backward is not None:
                self._kernel(line, step.backward)
        elif isinstance(step, Product):
            if step.x_grad:
                self._product_back(line, step, segment)
        elif isinstance(step, Assemble):
            if step.grad:
                self._assemble_back(line, step)
        else:
            line.call(lambda calls, low, high, first: calls._call_back(step, low, high))

    def _cotangent(self, place: Place, columns: int) -> View:
        """Columns of a slab of cotangents, or, for slab -1 - k, of those of output ``k``."""
        if place.slab < 0:
            return View(self.out_cotangents[-1 - place.slab][:, place.column : place.column + columns], lines.OF_ALL)
        matrix = self.cotangents[place.slab][:, place.column : place.column + columns]
        return View(
            matrix, lines.OF_BLOCK if self.stages.memory.cotangents[place.slab] == SCOPE_BLOCK else lines.OF_ALL
        )

    def _node_cotangent(self, ref: Ref) -> View:
        return self._cotangent(self._place_of(ref.index, ref.shift), ref.size)

    def _product_back(self, line: Any, step: Product, segment: Segment) -> None:
        ref, weight = step.x, self._weight(step)
        g = self._cotangent(step.place, step.columns)
        place = self.stages.places.get(ref.index) if ref.kind == REF_NODE else None
        if place is not None and place.slab not in self.stages.zeroed:
            line.product(g, weight, self._node_cotangent(ref), rows_at_once(self.xp, weight))
            return
        most = _block_rows(self._stage_of(step), segment.rows, self.count, self.largest)
        rows = View(self.backward_memory.matrix(most, ref.size, ref.dtype), lines.OF_BLOCK)
        line.product(g, weight, rows, rows_at_once(self.xp, weight))
        self._adds(line, rows, [ref], [0])

    def _assemble_back(self, line: Any, step: Assemble) -> None:
        parts = [(ref, column) for ref, column in zip(step.parts, step.at, strict=True) if ref.grad]
        cotangent = self._cotangent(step.place, step.columns)
        self._adds(line, cotangent, [ref for ref, _ in parts], [column for _, column in parts])

    def _adds(self, line: Any, rows: View, refs: Sequence[Ref], columns: Sequence[int]) -> None:
        """Add columns of a matrix to the cotangents of inputs and nodes: by the core, to all inputs at once."""
        pairs = list(zip(refs, columns, strict=True))
        inputs = [(ref, c) for ref, c in pairs if ref.kind == REF_INPUT and self._has_rows(ref.dtype)]
        for ref, column in [pair for pair in pairs if pair not in inputs]:
            part = _columns_of(rows, column, ref.size)
            if ref.kind == REF_INPUT:
                line.call(partial(_add_rows, ref, part))
            else:
                line.add(self._node_cotangent(ref), part)
        if inputs and self.stages.fuse == "cuda":
            line.add_parts(self.cotangent_arena.buffers[inputs[0][0].dtype], rows, self._parts(inputs))
        elif inputs:
            _, at, where, widths = self._several(inputs)
            line.add_several(self.cotangent_arena.buffers[inputs[0][0].dtype], at, rows, where, widths)

    def _add_to_input(self, ref: Ref, rows: Array, low: int, high: int) -> None:
        """Add rows to the cotangents of an input of the calls from ``low`` to ``high``."""
        buffer, at = self.cotangent_arena.buffers[ref.dtype], self._starts(ref)
        brought = None if self.device == "cpu" else self.arena.index(at)[low:high]
        add_rows(buffer, at[low:high], rows, brought)

    def _call_back(self, step: OwnKernel, low: int, high: int) -> None:
        node = self.nodes[step.node]
        wanted = [(k, ref) for k, ref in enumerate(node.reads) if ref.grad and ref.kind in (REF_INPUT, REF_NODE)]
        wanted = [(k, ref) for k, ref in wanted if ref.kind == REF_INPUT or self.nodes[ref.index].batch]
        for ref, cotangent in self._pulled_back(step.node, wanted, low, high):
            rows = unbroadcast(self.xp, cotangent, (high - low, *ref.shape)).reshape(high - low, -1)
            if ref.kind == REF_NODE:
                target = self._cotangent_rows(ref.index, ref.shift, ref.size, low, high)
                target += rows
            else:
                self._add_to_input(ref, self.xp.ascontiguousarray(rows), low, high)  # a vjp may answer with any view

    def _pulled_back(self, i: int, wanted: Sequence[tuple[int, Ref]], low: int, high: int) -> list[tuple[Ref, Array]]:
        """The cotangents of some operands of an operation, each with a batch axis in front where it has one."""
        node = self.nodes[i]
        signature = node.signature
        assert signature is not None
        if not wanted or not node.grad:
            return []
        g, y = self._rows_and_cotangents(i, low, high)
        arrays = self._operands(node, low, high, 0)
        if not signature.op.stacked:
            vjps = [(ref, signature.operands[k].vjp) for k, ref in wanted]
            return [(ref, _dense(vjp(self.xp, g, y, *arrays))) for ref, vjp in vjps if vjp is not None]
        vjp = signature.operands[0].vjp
        assert vjp is not None
        whole = _dense(vjp(self.xp, g, y, *arrays))
        whole = whole.reshape((g.shape[0], len(node.reads), *node.reads[0].shape))
        return [(ref, whole[:, k]) for k, ref in wanted]

    def _rows_and_cotangents(self, i: int, low: int, high: int) -> tuple[Array, Array]:
        node = self.nodes[i]
        g, y = self._cotangent_rows(i, 0, node.size, low, high), self._rows(i, 0, node.size, low, high, 0)
        if len(node.shape) == 1:
            return g, y
        return g.reshape((high - low, *node.shape)), y.reshape((high - low, *node.shape))

    # Gradients of what all calls share, once all cotangents are there.

    def parameter_gradients(self, accumulate: Accumulate) -> None:
        """Add the gradients of the parameters, one product or sum over all calls for each."""
        shared: dict[int, Array] = {}

        def add(ref: Ref, gradient: Array) -> None:
            if ref.kind == REF_PARAMETER:
                parameter = self.parameters[ref.index]
                accumulate(parameter, self._whole(ref, gradient, parameter))
            elif ref.kind == REF_NODE:
                flat = shared.setdefault(ref.index, self.xp.zeros(self.nodes[ref.index].size, ref.dtype))
                flat[ref.shift : ref.shift + ref.size] += gradient.reshape(-1)

        for steps in self.stages.steps:
            for step in steps:
                if isinstance(step, Product) and step.grad:
                    self._weight_gradients(step, add)
                elif isinstance(step, OwnKernel):
                    self._shared_gradients(step.node, add)
        for sum_ in self.stages.sums:
            rows = self._cotangent(sum_.place, sum_.ref.size).rows(0, self.count, 0)
            add(sum_.ref, column_sums(self.xp, rows))
        for i in reversed(self.stages.shared):
            if i in shared and self.nodes[i].grad:
                self._through_shared(i, shared[i], add)

    def _whole(self, ref: Ref, gradient: Any, parameter: Parameter) -> Any:
        if isinstance(gradient, RowSparse) or gradient.shape == parameter.shape:
            return gradient
        if ref.size == parameter.size:
            return gradient.reshape(parameter.shape)
        whole = self.xp.zeros(parameter.size, gradient.dtype)
        whole[ref.shift : ref.shift + ref.size] = gradient.reshape(-1)
        return whole.reshape(parameter.shape)

    def _weight_gradients(self, step: Product, add: Callable[[Ref, Array], None]) -> None:
        g = self._cotangent(step.place, step.columns).rows(0, self.count, 0)
        x = self.xs[id(step)] if step.x.kind == REF_INPUT else self._node(step.x).rows(0, self.count, 0)
        gradient = outer_sum(self.xp, g, x)
        low = 0
        for ref in step.parameters:
            high = low + ref.shape[0]
            if ref.grad:
                add(ref, gradient[low:high] if len(step.parameters) > 1 else gradient)
            low = high

    def _shared_gradients(self, i: int, add: Callable[[Ref, Any], None]) -> None:
        """Of an operation with an operand that all calls share."""
        node = self.nodes[i]
        wanted = [(k, ref) for k, ref in enumerate(node.reads) if ref.grad and self._is_shared(ref)]
        signature = node.signature
        if not wanted or not node.grad or signature is None:
            return
        if signature.op.stacked:
            for ref, cotangent in self._pulled_back(i, wanted, 0, self.count):
                add(ref, unbroadcast(self.xp, cotangent, ref.shape))
            return
        g, y = self._rows_and_cotangents(i, 0, self.count)
        arrays = self._operands(node, 0, self.count, 0)
        for k, ref in wanted:
            vjp = signature.operands[k].vjp
            assert vjp is not None
            gradient = vjp(self.xp, g, y, *arrays)
            if not isinstance(gradient, RowSparse):
                gradient = unbroadcast(self.xp, self.xp.asarray(gradient), ref.shape)
            elif ref.kind != REF_PARAMETER:
                gradient = gradient.to_dense()
            add(ref, gradient)

    def _is_shared(self, ref: Ref) -> bool:
        return ref.kind == REF_PARAMETER or (ref.kind == REF_NODE and not self.nodes[ref.index].batch)

    def _through_shared(self, i: int, cotangent: Array, add: Callable[[Ref, Any], None]) -> None:
        node = self.nodes[i]
        signature = node.signature
        assert signature is not None
        g, y = cotangent.reshape((1, *node.shape)), self.shared[i].reshape((1, *node.shape))
        arrays = self._shared_operands(node)
        for k, ref in enumerate(node.reads):
            operand = signature.operands[0 if signature.op.stacked else k]
            if ref.grad and operand.vjp is not None:
                gradient = _dense(operand.vjp(self.xp, g, y, *arrays))
                if signature.op.stacked:
                    gradient = gradient.reshape((1, len(node.reads), *ref.shape))[:, k]
                add(ref, unbroadcast(self.xp, self.xp.asarray(gradient), ref.shape))


class Separate:
    """The calls of a cell in a backward that reaches other results of some than of others. Those alike are computed
    again together, by the program of these results alone: a slope of the others may be infinite, and 0 * inf is not 0.

    ``whole``: all calls of the run. ``hot``: of each of these calls, which results are reached.
    """

    def __init__(
        self,
        whole: Calls,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        ints: Sequence[Array],
        floats: Sequence[Array],
        hot: Array,
    ) -> None:
        self.count = len(hot)
        self.groups: list[tuple[Array, Calls]] = []
        patterns, which = np.unique(hot, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            results = tuple(np.flatnonzero(pattern).tolist())
            rows = np.flatnonzero(which.reshape(-1) == number)
            stages = whole.program.of_results(results).staged(frozenset(), frozenset(), True, whole.stages.fuse)
            at, out_at = [a[rows] for a in inputs], [outputs[k][rows] for k in results]
            payload = [column[rows] for column in ints], [column[rows] for column in floats]
            sizes = len(rows), len(rows)
            calls = Calls(stages, whole.arena, at, out_at, *payload, whole.parameters, *sizes, True, apart=True)
            calls.forward(np.array([0, len(rows)]))
            self.groups.append((rows, calls))

    def begin_backward(self, cotangents: Arena) -> None:
        """See `Calls.begin_backward`."""
        for _, calls in self.groups:
            calls.begin_backward(cotangents)

    def backward(self, edges: Array) -> None:
        """See `Calls.backward`."""
        for low, high in reversed(list(itertools.pairwise(edges.tolist()))):
            for rows, calls in self.groups:
                if high == self.count:
                    calls._run_back(SUNK, calls._all)
                some = np.searchsorted(rows, (low, high))
                if some[0] < some[1]:
                    calls._run_back(MAIN, some)
                if low == 0:
                    calls._run_back(HOISTED, calls._all)

    def parameter_gradients(self, accumulate: Accumulate) -> None:
        """See `Calls.parameter_gradients`."""
        for _, calls in self.groups:
            calls.parameter_gradients(accumulate)

    def end_backward(self) -> None:
        """See `Calls.end_backward`."""
        for _, calls in self.groups:
            calls.end_backward()


def _keeps_all(stages: Stages, grad: bool) -> bool:
    """Whether slabs have a row for each call, not for those of a launch."""
    return grad or bool(stages.steps[HOISTED] or stages.steps[SUNK])


def _shapes(stages: Stages, scopes: Sequence[str], rows: int, count: int, largest: int) -> list[Any]:
    """Rows, columns and dtype of each slab that needs a matrix of its own."""
    return [
        (rows if scope == SCOPE_ALL else _block_rows(slab.stage, block, count, largest), slab.columns, slab.dtype)
        for slab, scope, block in zip(stages.slabs, scopes, stages.memory.rows, strict=True)
        if scope in (SCOPE_ALL, SCOPE_BLOCK)
    ]


def _block_rows(stage: int, block: int | None, count: int, largest: int) -> int:
    """How many rows the largest block of a segment has."""
    most = largest if stage == MAIN else count
    return most if block is None else min(most, most_rows(block))


def bytes_of_calls(stages: Stages, count: int, largest: int, grad: bool) -> tuple[int, int]:
    """Bytes of the slabs of so many calls: of values, and of what backward needs beside them."""

    def nbytes(scopes: Sequence[str], rows: int) -> int:
        return sum(r * c * dtype.itemsize for r, c, dtype in _shapes(stages, scopes, rows, count, largest))

    products = [(stage, s.x) for stage, part in enumerate(stages.steps) for s in part if isinstance(s, Product)]
    kept = sum(count * ref.size * ref.dtype.itemsize for _, ref in products if ref.kind == REF_INPUT)
    values = nbytes(stages.memory.values, count if _keeps_all(stages, grad) else largest)
    handed = [(largest if stage == MAIN else count) * ref.size * ref.dtype.itemsize for stage, ref in products]
    return values + kept, nbytes(stages.memory.cotangents, count) + sum(handed) if grad else 0


def _dense(gradient: Any) -> Array:
    return gradient.to_dense() if isinstance(gradient, RowSparse) else gradient


# The matrices of a kernel's arguments.
_MATRICES = {"slab": "slabs", "output": "out", "cotangent": "cotangents", "output cotangent": "out_cotangents"}


def _columns_of(view: View, column: int, size: int) -> View:
    return View(view.array[:, column : column + size], view.base)


def _fill(ref: Ref, target: View, calls: Calls, low: int, high: int, first: int) -> None:
    target.rows(low, high, first)[...] = calls._input(ref, low, high)


def _add_rows(ref: Ref, rows: View, calls: Calls, low: int, high: int, first: int) -> None:
    calls._add_to_input(ref, rows.rows(low, high, first), low, high)

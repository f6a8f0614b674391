"""One backward pass through calls of a cell: where the cotangents lie, the steps of the stages in reverse, and the
gradients of what all calls share. It dies with the pass; what was kept of the calls stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from lazyflow import settings
from lazyflow.cells import line as lines
from lazyflow.cells.lifetimes import SCOPE_ALL, SCOPE_BLOCK, SCOPE_SAME, Segment
from lazyflow.cells.line import Line, View
from lazyflow.cells.phases import FEWEST_LEVELS, LEVELS, levels_back_of
from lazyflow.cells.steps import (
    HOISTED,
    MAIN,
    REF_INPUT,
    REF_NODE,
    REF_PARAMETER,
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
from lazyflow.cells.values import (
    CallValues,
    Matrices,
    Slabs,
    block_rows,
    columns_of,
    dense,
)
from lazyflow.cuda import products
from lazyflow.cuda.rows import Places, put_in
from lazyflow.device import Array, ArrayModule, DType, HostArray
from lazyflow.fuse.blocks import add_rows, rows_of
from lazyflow.fuse.scalar import Kernel
from lazyflow.ops.base import Shape, adder_of, brought, joint_of, sorted_by, unbroadcast
from lazyflow.ops.linalg import outer_sum, outer_sum_of_shown, shown_all, sums_of_columns
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.arena import Arena
from lazyflow.record.expr import Parameter


class CallsBack:
    """One backward pass, whose arena is ``arena``, through the calls of a cell. ``cotangents`` and ``out_cotangents``:
    of the slabs and of the results, None where there are none."""

    def __init__(self, calls: CallValues, arena: Arena) -> None:
        self.calls, self.arena = calls, arena
        self.memory = Slabs(calls.device)
        self.prepared: dict[int, Any] = {}  # the line of each stage
        scopes = calls.stages.memory.cotangents
        self.cotangents = calls.matrices(self.memory, scopes, calls.count)
        for i, scope in enumerate(scopes):
            if scope == SCOPE_SAME:
                self.cotangents[i] = calls.slabs[i]
            elif scope == SCOPE_ALL and i in calls.stages.zeroed:
                self.cotangents[i].fill(0)
        self.out_cotangents = [self._out_cotangents(k) for k in range(len(calls.program.outputs))]

    def _out_cotangents(self, k: int) -> Array:
        node = self.calls.nodes[self.calls.program.outputs[k]]
        if node.dtype.kind != "f":
            return None
        if not self.calls.scattered:
            return self.calls.block(self.arena, k)
        found = self.memory.matrix(self.calls.count, node.size, node.dtype)
        found.fill(0)
        return found

    def backward(self, edges: Array) -> None:
        """Hand the cotangents of the results of calls on to what they were made of, the last launch first."""
        if edges[-1] == self.calls.count:
            self.run(SUNK, self.calls.all)
        if not (self.calls.persistent and len(edges) > FEWEST_LEVELS and self._run_levels(edges)):
            self.run(MAIN, edges)
        if edges[0] == 0:
            self.run(HOISTED, self.calls.all)

    def _run_levels(self, edges: Array) -> bool:
        """Go back through all launches of the main stage as one, if that can be."""
        if LEVELS not in self.prepared:
            self.prepared[LEVELS] = levels_back_of(self.calls, self._matrices, self.cotangent, self.arena)
        levels = self.prepared[LEVELS]
        return levels is not None and levels(edges)

    def run(self, stage: int, edges: Array) -> None:
        segments = self.calls.stages.segments[stage]
        if not segments and not self.calls.scattered:
            return
        line = self.prepared.get(stage)
        if line is None:
            line = self.calls.new_line(stage)
            for segment in reversed(segments):
                line.segment(segment.rows)
                self._prepare_back(line, segment)
            self.prepared[stage] = line
        if not self.calls.scattered:
            line(edges, True, True, self)
            return
        for k in range(len(edges) - 1, 0, -1):
            self._gather_cotangents(stage, int(edges[k - 1]), int(edges[k]))
            line(edges[k - 1 : k + 1], True, True, self)

    def _prepare_back(self, line: Line, segment: Segment) -> None:
        for slab in segment.zeroed:
            line.zero(View(self.cotangents[slab], lines.OF_BLOCK))
        for step in reversed(segment.steps):
            self._step_back(line, step, segment)

    def _step_back(self, line: Line, step: Step, segment: Segment) -> None:
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
            line.call(lambda calls, low, high, first: calls.call_kernel_back(step, low, high))

    def _kernel(self, line: Line, kernel: Kernel) -> None:
        self.calls.kernel(line, kernel, self._matrices, {"input": self.calls.arena, "input cotangent": self.arena})

    @property
    def _matrices(self) -> Matrices:
        """What kernels read and write beside operands."""
        values = {"slab": self.calls.slabs, "output": self.calls.out}
        return values | {"cotangent": self.cotangents, "output cotangent": self.out_cotangents}

    def cotangent(self, place: Place, columns: int) -> View:
        """Columns of a slab of cotangents, or, for slab -1 - k, of those of output ``k``."""
        if place.slab < 0:
            return View(self.out_cotangents[-1 - place.slab][:, place.column : place.column + columns], lines.OF_ALL)
        matrix = self.cotangents[place.slab][:, place.column : place.column + columns]
        return View(
            matrix, lines.OF_BLOCK if self.calls.stages.memory.cotangents[place.slab] == SCOPE_BLOCK else lines.OF_ALL
        )

    def _node_cotangent(self, ref: Ref) -> View:
        return self.cotangent(self.calls.place_of(ref.index, ref.shift), ref.size)

    def _cotangent_rows(self, i: int, shift: int, size: int, low: int, high: int) -> Array:
        """Those of its cotangent."""
        stages = self.calls.stages
        k = stages.output_of.get(i)
        if k is not None:
            return self.out_cotangents[k][low:high, shift : shift + size]
        place = stages.places[i]
        matrix, column = self.cotangents[place.slab], place.column + shift
        if stages.memory.cotangents[place.slab] == SCOPE_BLOCK:
            low, high = 0, high - low
        return matrix[low:high, column : column + size]

    def _product_back(self, line: Line, step: Product, segment: Segment) -> None:
        ref, weight = step.x, self.calls.weight(step)
        g = self.cotangent(step.place, step.columns)
        place = self.calls.stages.places.get(ref.index) if ref.kind == REF_NODE else None
        if place is not None and place.slab not in self.calls.stages.zeroed:
            line.product(g, weight, self._node_cotangent(ref))
            return
        if ref.kind == REF_NODE and self.calls.device != "cpu":
            line.add_product(g, weight, self._node_cotangent(ref))
            return
        most = block_rows(self.calls.stage_of(step), segment.rows, self.calls.count, self.calls.largest)
        rows = View(self.memory.matrix(most, ref.size, ref.dtype), lines.OF_BLOCK)
        line.product(g, weight, rows)
        self._adds(line, rows, [ref], [0])

    def _assemble_back(self, line: Line, step: Assemble) -> None:
        parts = [(ref, column) for ref, column in zip(step.parts, step.at, strict=True) if ref.grad]
        cotangent = self.cotangent(step.place, step.columns)
        self._adds(line, cotangent, [ref for ref, _ in parts], [column for _, column in parts])

    def _adds(self, line: Line, rows: View, refs: Sequence[Ref], columns: Sequence[int]) -> None:
        """Add columns of a matrix to the cotangents of inputs and nodes: by the core, to all inputs at once."""
        pairs = list(zip(refs, columns, strict=True))
        inputs = [(ref, c) for ref, c in pairs if ref.kind == REF_INPUT and self.calls.has_rows(ref.dtype)]
        for ref, column in [pair for pair in pairs if pair not in inputs]:
            part = columns_of(rows, column, ref.size)
            if ref.kind == REF_INPUT:
                line.call(partial(_add_rows, ref, part))
            else:
                line.add(self._node_cotangent(ref), part)
        if inputs and self.calls.stages.fuse == "cuda":
            line.add_parts(self.arena.buffers[inputs[0][0].dtype], rows, self.calls.parts(inputs))
        elif inputs:
            _, at, where, widths = self.calls.several(inputs)
            line.add_several(self.arena.buffers[inputs[0][0].dtype], at, rows, where, widths)

    def add_to_input(self, ref: Ref, rows: Array, low: int, high: int) -> None:
        """Add rows to the cotangents of an input of the calls from ``low`` to ``high``."""
        buffer, at = self.arena.buffers[ref.dtype], self.calls.starts(ref)
        brought = None if self.calls.device == "cpu" else self.calls.arena.index(at)[low:high]
        add_rows(buffer, at[low:high], rows, brought)

    def call_kernel_back(self, step: OwnKernel, low: int, high: int) -> None:
        node = self.calls.nodes[step.node]
        wanted = [(k, ref) for k, ref in enumerate(node.reads) if ref.grad and ref.kind in (REF_INPUT, REF_NODE)]
        wanted = [(k, ref) for k, ref in wanted if ref.kind == REF_INPUT or self.calls.nodes[ref.index].batch]
        for ref, cotangent in self.pulled_back(step.node, wanted, low, high):
            rows = unbroadcast(self.calls.xp, cotangent, (high - low, *ref.shape)).reshape(high - low, -1)
            if ref.kind == REF_NODE:
                target = self._cotangent_rows(ref.index, ref.shift, ref.size, low, high)
                if self._is_added(ref):
                    target += rows
                else:
                    target[...] = rows
            else:
                whole = self.calls.xp.ascontiguousarray(rows)  # a vjp may answer with any view
                self.add_to_input(ref, whole, low, high)

    def _is_added(self, ref: Ref) -> bool:
        """Whether others may have left something for a node, or its cotangent is zero to begin with."""
        place = self.calls.stages.places.get(ref.index)
        return place is None or place.slab in self.calls.stages.zeroed

    def _adds_there(self, ref: Ref, vjp: Callable[..., Array], low: int, high: int, arguments: Sequence[Array]) -> bool:
        """Whether one launch on a device has brought the cotangent of an operand where it belongs."""
        adder = None if self.calls.device == "cpu" or ref.kind != REF_NODE else adder_of(vjp)
        if adder is None:
            return False
        return adder(self._place_there(ref, low, high), *arguments)

    def _place_there(self, ref: Ref, low: int, high: int) -> Places:
        target = self._cotangent_rows(ref.index, ref.shift, ref.size, low, high)
        return put_in(target, adds=self._is_added(ref))

    def _together(
        self, joint: Callable[..., Any], wanted: Sequence[tuple[int, Ref]], low: int, high: int, given: Sequence[Any]
    ) -> list[tuple[Ref, Array]]:
        """What answers for several operands at once, without what is where it belongs."""
        there = self.calls.device != "cpu" and not settings.current().deterministic
        into = [self._place_there(ref, low, high) if there and ref.kind == REF_NODE else None for _, ref in wanted]
        answers = joint([k for k, _ in wanted], into, *given)
        return [(ref, answer) for (_, ref), answer in zip(wanted, answers, strict=True) if answer is not None]

    def pulled_back(self, i: int, wanted: Sequence[tuple[int, Ref]], low: int, high: int) -> list[tuple[Ref, Array]]:
        """The cotangents of some operands of an operation, each with a batch axis in front where it has one; without
        those that are where they belong by then."""
        node = self.calls.nodes[i]
        signature = node.signature
        assert signature is not None
        if not wanted or not node.grad:
            return []
        g, y = self.rows_and_cotangents(i, low, high)
        arrays = self.calls.operands(node, low, high, 0)
        if not signature.op.stacked:
            pairs = [(ref, signature.operands[k].vjp) for k, ref in wanted]
            given = (self.calls.xp, g, y, *arrays)
            joint = joint_of([vjp for _, vjp in pairs if vjp is not None])
            if joint is not None:
                return self._together(joint, wanted, low, high, given)
            vjps = [(ref, vjp) for ref, vjp in pairs if vjp and not self._adds_there(ref, vjp, low, high, given)]
            return [(ref, dense(vjp(*given))) for ref, vjp in vjps]
        vjp = signature.operands[0].vjp
        assert vjp is not None
        whole = dense(vjp(self.calls.xp, g, y, *arrays))
        whole = whole.reshape((g.shape[0], len(node.reads), *node.reads[0].shape))
        return [(ref, whole[:, k]) for k, ref in wanted]

    def rows_and_cotangents(self, i: int, low: int, high: int) -> tuple[Array, Array]:
        node = self.calls.nodes[i]
        g, y = self._cotangent_rows(i, 0, node.size, low, high), self.calls.rows_of_node(i, 0, node.size, low, high, 0)
        if len(node.shape) == 1:
            return g, y
        return g.reshape((high - low, *node.shape)), y.reshape((high - low, *node.shape))

    def _gather_cotangents(self, stage: int, low: int, high: int) -> None:
        """Bring in what later launches have left for the results that a stage computes."""
        for k, i in enumerate(self.calls.program.outputs):
            target = self.out_cotangents[k]
            if self.calls.stages.stage[i] == stage and target is not None and high > low:
                buffer = self.arena.buffers[self.calls.nodes[i].dtype]
                rows = rows_of(buffer, self.calls.out_at[k][low:high], max(self.calls.nodes[i].size, 1))
                target[low:high] += rows[:, : self.calls.nodes[i].size]

    def every(self) -> Iterator[CallsBack]:
        """This one: see `SeparateBack`."""
        yield self


class Gradients(Protocol):
    """Sums of gradients of parameters: `lazyflow.run.sums.Sums`."""

    def add(self, parameter: Parameter, gradient: Array | RowSparse, own: bool = False) -> None:
        """Add one; ``own``: nobody else has this array."""

    def place(self, parameter: Parameter) -> Array | None:
        """The sum so far, if others may add to it where it lies."""


# Rows of a dtype and a shape, by their elements in the arena, as the host has them; or None.
RowsOnHost = Callable[[DType, Array, Shape], HostArray | None]


def gradients_of_calls(backs: Sequence[CallsBack | SeparateBack], sums: Gradients, on_host: RowsOnHost) -> None:
    """Add the gradients of what the calls of a run share, once all cotangents are there: a product or sum over all
    calls each. What all of them need a device for is one launch."""
    found = [SharedGradients(one, sums, on_host) for back in backs for one in back.every()]
    if not found:
        return
    xp = found[0].calls.xp
    products = [(some, step, *some.factors(step)) for some in found for step in some.products()]
    xs = [x for *_, x in products] if xp is np else _left_sides(xp, [(g, x) for *_, g, x in products])
    for (some, step, g, _), x in zip(products, xs, strict=True):
        some.add_product(step, g, x)
    for some in found:
        some.add_operations()
    _add_column_sums(xp, found)
    for some in found:
        some.add_through()


def _left_sides(xp: ArrayModule, pairs: Sequence[tuple[Array, Array]]) -> list[Array]:
    """Those of the products of gradients on a device: a launch for each dtype that they are stored in."""
    kinds = list(dict.fromkeys(x.dtype for _, x in pairs))
    shown = {kind: iter(shown_all(xp, [(g, x) for g, x in pairs if x.dtype == kind], stored=True)) for kind in kinds}
    return [next(shown[x.dtype]) for _, x in pairs]


def _add_column_sums(xp: ArrayModule, found: Sequence[SharedGradients]) -> None:
    """Add the gradients of vectors that all calls share; of one that several cells share, the sum of all."""
    groups: dict[tuple[object, DType], tuple[SharedGradients, Ref, list[Array]]] = {}
    for some in found:
        for number, (ref, rows) in enumerate(some.rows()):
            parameter = some.whole_parameter(ref)
            key = ((id(some), number) if parameter is None else id(parameter)), rows.dtype
            groups.setdefault(key, (some, ref, []))[2].append(rows)
    for kind in dict.fromkeys(dtype for _, dtype in groups):
        same = [group for (_, dtype), group in groups.items() if dtype == kind]
        for (some, ref, _), total in zip(same, sums_of_columns(xp, [rows for *_, rows in same]), strict=True):
            some.add(ref, total, own=True)


class SharedGradients:
    """The gradients of what the calls of one cell share."""

    def __init__(self, back: CallsBack, sums: Gradients, on_host: RowsOnHost) -> None:
        self.back, self.calls, self.sums, self.on_host = back, back.calls, sums, on_host
        self.shared: dict[int, Array] = {}  # cotangents of what has one value for all calls, flat, by node

    def products(self) -> Iterator[Product]:
        """The products with weights that get gradients."""
        for steps in self.calls.stages.steps:
            yield from (step for step in steps if isinstance(step, Product) and step.grad)

    def factors(self, step: Product) -> tuple[Array, Array]:
        """The cotangents of a product's rows, and its left side."""
        calls = self.calls
        g = self.back.cotangent(step.place, step.columns).rows(0, calls.count, 0)
        return g, calls.xs[id(step)] if step.x.kind == REF_INPUT else calls.node(step.x).rows(0, calls.count, 0)

    def add_operations(self) -> None:
        """Add the gradients of operands that all calls share of operations of their own."""
        for steps in self.calls.stages.steps:
            for step in steps:
                if isinstance(step, OwnKernel):
                    self._of_operation(step.node)

    def rows(self) -> Iterator[tuple[Ref, Array]]:
        """What is a sum over all calls, with the rows that are summed."""
        for sum_ in self.calls.stages.sums:
            if sum_.ref.kind in (REF_PARAMETER, REF_NODE):
                yield sum_.ref, self.back.cotangent(sum_.place, sum_.ref.size).rows(0, self.calls.count, 0)

    def whole_parameter(self, ref: Ref) -> Parameter | None:
        """The parameter that a reference reads, if it reads all of it."""
        parameter = self.calls.parameters[ref.index] if ref.kind == REF_PARAMETER else None
        return parameter if parameter is not None and parameter.size == ref.size else None

    def add_through(self) -> None:
        """Hand on the cotangents of what is made of parameters alone."""
        for i in reversed(self.calls.stages.shared):
            if i in self.shared and self.calls.nodes[i].grad:
                self._through(i, self.shared[i])

    def add(self, ref: Ref, gradient: Array, own: bool = False) -> None:
        """Add to the gradient of a parameter, or to the cotangent of what is made of parameters."""
        if ref.kind == REF_PARAMETER:
            parameter = self.calls.parameters[ref.index]
            self.sums.add(parameter, self._whole(ref, gradient, parameter), own)
        elif ref.kind == REF_NODE:
            size = self.calls.nodes[ref.index].size
            flat: Array = self.shared.setdefault(ref.index, self.calls.xp.zeros(size, ref.dtype))
            flat[ref.shift : ref.shift + ref.size] += gradient.reshape(-1)

    def _whole(self, ref: Ref, gradient: Array, parameter: Parameter) -> Array:
        if isinstance(gradient, RowSparse) or gradient.shape == parameter.shape:
            return gradient
        if ref.size == parameter.size:
            return gradient.reshape(parameter.shape)
        whole = self.calls.xp.zeros(parameter.size, gradient.dtype)
        whole[ref.shift : ref.shift + ref.size] = gradient.reshape(-1)
        return whole.reshape(parameter.shape)

    def add_product(self, step: Product, g: Array, x: Array) -> None:
        """Add the gradients of a product's weights."""
        xp = self.calls.xp
        if len(step.parameters) == 1:
            place = self.sums.place(self.calls.parameters[step.parameters[0].index])
            if place is not None and products.are_multiplied(place, g.T, x, stored=True):
                products.multiply_into(place, g.T, x, add=True)
                return
        gradient = outer_sum(xp, g, x) if xp is np else outer_sum_of_shown(xp, g, x, stored=True)
        low = 0
        for ref in step.parameters:
            high = low + ref.shape[0]
            if ref.grad:
                whole = len(step.parameters) == 1
                self.add(ref, gradient if whole else gradient[low:high], own=whole)
            low = high

    def _of_operation(self, i: int) -> None:
        """Of an operation with an operand that all calls share."""
        node = self.calls.nodes[i]
        wanted = [(k, ref) for k, ref in enumerate(node.reads) if ref.grad and self._is_shared(ref)]
        signature = node.signature
        if not wanted or not node.grad or signature is None:
            return
        if signature.op.stacked:
            for ref, cotangent in self.back.pulled_back(i, wanted, 0, self.calls.count):
                self.add(ref, unbroadcast(self.calls.xp, cotangent, ref.shape))
            return
        g, y = self.back.rows_and_cotangents(i, 0, self.calls.count)
        arrays = self.calls.operands(node, 0, self.calls.count, 0)
        for k, ref in wanted:
            vjp = signature.operands[k].vjp
            assert vjp is not None
            gradient = vjp(self.calls.xp, g, y, *self._sorted_on_host(node, vjp, arrays))
            if not isinstance(gradient, RowSparse):
                gradient = unbroadcast(self.calls.xp, self.calls.xp.asarray(gradient), ref.shape)
            elif ref.kind != REF_PARAMETER:
                gradient = gradient.to_dense()
            self.add(ref, gradient)

    def _sorted_on_host(self, node: Node, vjp: Callable[..., Array], arrays: Sequence[Array]) -> Sequence[Array]:
        """Operands, with integers that a vjp sorts as the host has them, where a device would be asked for a copy."""
        which = None if self.calls.device == "cpu" else sorted_by(vjp)
        if which is None or node.reads[which].kind != REF_INPUT:
            return arrays
        ref = node.reads[which]
        host = self.on_host(ref.dtype, self.calls.starts(ref), ref.shape)
        there = arrays[which]
        return arrays if host is None else [brought(host, there) if a is there else a for a in arrays]

    def _is_shared(self, ref: Ref) -> bool:
        return ref.kind == REF_PARAMETER or (ref.kind == REF_NODE and not self.calls.nodes[ref.index].batch)

    def _through(self, i: int, cotangent: Array) -> None:
        node = self.calls.nodes[i]
        signature = node.signature
        assert signature is not None
        g, y = cotangent.reshape((1, *node.shape)), self.calls.shared[i].reshape((1, *node.shape))
        arrays = self.calls.shared_operands(node)
        for k, ref in enumerate(node.reads):
            operand = signature.operands[0 if signature.op.stacked else k]
            if ref.grad and operand.vjp is not None:
                gradient = dense(operand.vjp(self.calls.xp, g, y, *arrays))
                if signature.op.stacked:
                    gradient = gradient.reshape((1, len(node.reads), *ref.shape))[:, k]
                self.add(ref, unbroadcast(self.calls.xp, self.calls.xp.asarray(gradient), ref.shape))


class SeparateBack:
    """One backward pass through `lazyflow.cells.calls.Separate`: one of each group, with the numbers of its calls."""

    def __init__(self, count: int, groups: Sequence[tuple[Array, CallsBack]]) -> None:
        self.count, self.groups = count, groups

    def backward(self, edges: Array) -> None:
        """See `CallsBack.backward`."""
        for low, high in reversed(list(itertools.pairwise(edges.tolist()))):
            for rows, back in self.groups:
                if high == self.count:
                    back.run(SUNK, back.calls.all)
                some = np.searchsorted(rows, (low, high))
                if some[0] < some[1]:
                    back.run(MAIN, some)
                if low == 0:
                    back.run(HOISTED, back.calls.all)

    def every(self) -> Iterator[CallsBack]:
        """That of each group."""
        for _, back in self.groups:
            yield back


def _add_rows(ref: Ref, rows: View, back: CallsBack, low: int, high: int, first: int) -> None:
    back.add_to_input(ref, rows.rows(low, high, first), low, high)

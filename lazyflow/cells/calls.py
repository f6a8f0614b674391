"""The calls of one cell in a run, forward: the steps of its stages over ranges of them.

The steps of a stage are prepared once a run, with all that they need looked up, as a `lazyflow.cells.line.Line` or the
compiled core's. It holds arrays, never the calls, so that nothing holds itself and memory is free as soon as it can be.
What goes back through calls is an object of its own, `lazyflow.cells.back.CallsBack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyflow.cells import line as lines
from lazyflow.cells.back import CallsBack, SeparateBack
from lazyflow.cells.lifetimes import SCOPE_SAME, Segment
from lazyflow.cells.line import Line, View
from lazyflow.cells.phases import FEWEST_LEVELS, LEVELS, levels_of
from lazyflow.cells.program import Stages
from lazyflow.cells.steps import (
    HOISTED,
    MAIN,
    REF_INPUT,
    SUNK,
    Assemble,
    Fused,
    OwnKernel,
    Product,
    Ref,
    Step,
)
from lazyflow.cells.values import (
    CallColumns,
    CallValues,
    Slabs,
    block_rows,
    columns_of,
)
from lazyflow.device import Array
from lazyflow.ops.linalg import is_brief, transposed
from lazyflow.plan.arena import Arena
from lazyflow.record.expr import Parameter


class Calls(CallValues):
    """All calls of one cell in a run, or some, ``apart``, whose results go to memory of their own. See `CallValues`."""

    def __init__(
        self,
        stages: Stages,
        arena: Arena,
        parameters: Sequence[Parameter],
        columns: CallColumns,
        largest: int,
        grad: bool,
        apart: bool = False,
    ) -> None:
        super().__init__(stages, arena, parameters, columns, largest, grad)
        self.slabs = self.matrices(self.memory, stages.memory.values, self.count if self.whole else largest)
        if apart:
            results = [self.nodes[i] for i in self.program.outputs]
            self.out = self.memory.matrices([(self.count, node.size, node.dtype) for node in results])
        else:
            self.out = [self.block(arena, k) for k in range(len(self.program.outputs))]
        self.prepared: dict[int, Any] = {}  # the line of each stage, and what runs all launches of one
        self.ran: list[Array] = []
        self.spent = False  # a backward pass has put cotangents in the place of values
        self.scattered = apart

    def forward(self, edges: Array) -> None:
        """Run the calls between one of the ``edges`` and the next, launch by launch."""
        if edges[0] == 0:
            self._run_shared()
            self._run(HOISTED, self.all)
        if not (self.persistent and len(edges) > FEWEST_LEVELS and self._run_levels(edges)):
            self._run(MAIN, edges)
        if edges[-1] == self.count:
            self._run(SUNK, self.all)
        if self.grad:
            self.ran.append(edges)

    def _run(self, stage: int, edges: Array) -> None:
        segments = self.stages.segments[stage]
        if not segments:
            return
        line = self.prepared.get(stage)
        if line is None:
            line = self.new_line(stage)
            for segment in segments:
                line.segment(segment.rows)
                for step in segment.steps:
                    self._prepare(line, step, segment)
            self.prepared[stage] = line  # now that it is whole
        line(edges, self.whole, False, self)

    def _run_levels(self, edges: Array) -> bool:
        """Run all launches of the main stage as one, if that can be."""
        if LEVELS not in self.prepared:
            self.prepared[LEVELS] = levels_of(self)
        levels = self.prepared[LEVELS]
        return levels is not None and levels(edges)

    def _run_shared(self) -> None:
        for i in self.stages.shared:
            signature = self.nodes[i].signature
            assert signature is not None
            found = signature.forward(self.xp, *self.shared_operands(self.nodes[i]))
            # An operation may answer with a view, a diagonal; compiled kernels read a vector from its first element on.
            self.shared[i] = found if found.flags.c_contiguous else self.xp.ascontiguousarray(found)

    def _prepare(self, line: Line, step: Step, segment: Segment) -> None:
        if isinstance(step, Fused):
            self.kernel(line, step.forward, {"slab": self.slabs, "output": self.out}, {"input": self.arena})
        elif isinstance(step, Product):
            self._product(line, step, segment)
        elif isinstance(step, Assemble):
            self._copies(line, self.place(step.place, step.columns), step.parts, step.at)
        else:
            line.call(lambda calls, low, high, first: calls.call_kernel(step, low, high, first))

    def _copies(self, line: Line, out: View, parts: Sequence[Ref], columns: Sequence[int]) -> None:
        """Put the rows of inputs and nodes into columns of a matrix: the core, all inputs at once."""
        pairs = list(zip(parts, columns, strict=True))
        inputs = [(ref, c) for ref, c in pairs if ref.kind == REF_INPUT and self.has_rows(ref.dtype)]
        for ref, column in [pair for pair in pairs if pair not in inputs]:
            target = columns_of(out, column, ref.size)
            if ref.kind == REF_INPUT:
                line.call(partial(_fill, ref, target))
            else:
                line.copy(target, self.node(ref))
        if inputs and self.stages.fuse == "cuda":
            line.gather_parts(out, self.arena.buffers[inputs[0][0].dtype], self.parts(inputs))
        elif inputs:
            buffer, at, where, widths = self.several(inputs)
            line.gather(out, where, buffer, at, widths)

    def _product(self, line: Line, step: Product, segment: Segment) -> None:
        x, out = self._operand(line, step, segment), self.place(step.place, step.columns)
        brief = is_brief(self.xp, self.count) and self.has_rows(step.x.dtype)
        line.product(x, self.weight(step).T if brief else self._columns(step), out)

    def _operand(self, line: Line, step: Product, segment: Segment) -> View:
        """The left side of a product: where it lies, or gathered into a matrix that is kept for the weight gradient."""
        ref = step.x
        if ref.kind != REF_INPUT:
            return self.node(ref)
        dtype = self.stages.multiplied_as(step)
        evenly = self.evenly(ref) if dtype == ref.dtype else None
        if evenly is not None:
            self.xs[id(step)] = evenly
            return View(evenly, lines.OF_ALL)
        if step.grad:
            rows = View(self.left_sides(step), lines.OF_ALL)
        else:
            most = block_rows(self.stage_of(step), segment.rows, self.count, self.largest)
            rows = View(self.memory.matrix(most, ref.size, dtype), lines.OF_BLOCK)
        self._copies(line, rows, [ref], [0])
        return rows

    def _columns(self, step: Product) -> Array:
        """The weights of a product, (k, m), on the host with contiguous rows, copied once an update."""
        if self.device != "cpu":
            return self.weight(step).T
        if len(step.parameters) == 1:
            return self.parameters[step.parameters[0].index].columns(self.arena.number).T
        found: Array = self.once((id(step), "columns"), step, lambda: transposed(self.xp, self.weight(step)))
        return found

    def call_kernel(self, step: OwnKernel, low: int, high: int, first: int) -> None:
        node = self.nodes[step.node]
        assert node.signature is not None
        target = self.rows_of_node(step.node, 0, node.size, low, high, first)
        shaped = target if len(node.shape) == 1 else target.reshape((high - low, *node.shape))
        shares = shaped is target or self.xp is not np or np.may_share_memory(shaped, target)
        out = shaped if shares else None
        result = node.signature.forward(self.xp, *self.operands(node, low, high, first), out=out)
        if out is None:
            target[...] = self.xp.broadcast_to(result, shaped.shape).reshape(target.shape)
        elif result is not out:
            out[...] = result

    def restore(self) -> None:
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

    def back(self, cotangents: Arena) -> CallsBack:
        """One backward pass, whose arena is ``cotangents``."""
        self.restore()
        self.spent = SCOPE_SAME in self.stages.memory.cotangents
        return CallsBack(self, cotangents)


class SomeCalls(CallValues):
    """The calls with the numbers ``rows`` among ``whole``, for a backward pass of them alone; what was kept of them is
    copied."""

    def __init__(self, whole: Calls, rows: Array, columns: CallColumns, largest: int) -> None:
        whole.restore()
        super().__init__(whole.stages, whole.arena, whole.parameters, columns, largest, whole.grad)
        self.persistent = whole.persistent
        self.slabs = [slab if slab is None else slab[rows] for slab in whole.slabs]
        self.xs = {key: x[rows] for key, x in whole.xs.items()}
        self.out = [out[rows] for out in whole.out]
        self.shared, self.scattered = whole.shared, True

    def back(self, cotangents: Arena) -> CallsBack:
        """See `Calls.back`."""
        return CallsBack(self, cotangents)


class Separate:
    """The calls of a cell in a backward that reaches other results of some than of others. Those alike are computed
    again together, by the program of these results alone: a slope of the others may be infinite, and 0 * inf is not 0.

    ``whole``: all calls of the run. ``hot``: of each of these calls, which results are reached.
    """

    def __init__(self, whole: Calls, columns: CallColumns, hot: Array) -> None:
        self.count = len(hot)
        self.groups: list[tuple[Array, Calls]] = []
        patterns, which = np.unique(hot, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            results = tuple(np.flatnonzero(pattern).tolist())
            rows = np.flatnonzero(which.reshape(-1) == number)
            stages = whole.program.of_results(results).staged(frozenset(), frozenset(), True, whole.stages.printed_by)
            some = columns.some(rows, results)
            calls = Calls(stages, whole.arena, whole.parameters, some, len(rows), grad=True, apart=True)
            calls.persistent = whole.persistent
            calls.forward(calls.all)
            self.groups.append((rows, calls))

    def back(self, cotangents: Arena) -> SeparateBack:
        """See `Calls.back`."""
        return SeparateBack(self.count, [(rows, calls.back(cotangents)) for rows, calls in self.groups])


def _fill(ref: Ref, target: View, calls: Calls, low: int, high: int, first: int) -> None:
    target.rows(low, high, first)[...] = calls.input_rows(ref, low, high)

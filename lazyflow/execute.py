"""Forward: an interpreter of a plan. No scheduling in it.

A `Run` is one execution: the plan, the arenas that its launches fill, and the versions of the parameters they used.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.arena import Arena, next_number
from lazyflow.calls import Calls
from lazyflow.expr import Parameter, moment
from lazyflow.fuse.blocks import rows_of
from lazyflow.ops.base import Array, Shape
from lazyflow.plan import Cells, Launch, Plan, Rows
from lazyflow.tape import CONSTANT, KNOWN, Operand, Type


def _indices(plan: Plan) -> list[Any]:
    """All indices by which the launches of a plan gather, and the calls of its cells."""
    reads = [read for launch in plan.launches for read in launch.reads]
    gathers = [read.index for read in reads if isinstance(read, Rows) and read.index is not None]
    return gathers + [at for cells in plan.cells for at in cells.inputs]


class Run:
    """One execution of a plan. ``calls`` are those of its cells. ``rests_on`` are the types of the parameters that it
    and the runs before it have used; ``stamp``: none of these had a later version then; ``superseded``: whether a run
    that it rests on was forgotten since; ``kept``: what is left of it, if not all."""

    __slots__ = (
        "__weakref__", "arena", "calls", "device", "differentiable", "fuse", "kept", "number", "plan", "readers",
        "rests_on", "stamp", "superseded",
    )  # fmt: skip

    def __init__(self, plan: Plan, device: str, differentiable: bool, fuse: str) -> None:
        self.plan, self.device, self.differentiable, self.fuse = plan, device, differentiable, fuse
        self.number = next_number()
        self.arena = Arena(device, plan.sizes)
        if device != "cpu":
            self.arena.bring(_indices(plan))
        earlier = {id(run): run for run in plan.graph.known_run}.values()
        self.rests_on = _joined(plan.kinds, [run.rests_on for run in earlier])
        for parameter in self._parameters():
            parameter.notice()
        self.stamp = moment()
        self.superseded = False
        self.kept: dict[tuple[Any, int, Shape], Array] | None = None
        self.readers: list[weakref.ref[Run]] = []
        for run in earlier:
            run.note_reader(self)
        self.calls = [calls_of(self, cells) for cells in plan.cells]

    def is_stale(self) -> bool:
        """Whether a parameter that the run rests on has changed since, or a value that it read was forgotten."""
        if self.superseded:
            return True
        for parameter in self._parameters():
            parameter.notice()
            if parameter.version > self.stamp:
                return True
        return False

    def _parameters(self) -> Iterator[Parameter]:
        for kind in self.rests_on:
            parameter = None if kind.parameter is None else kind.parameter()
            if parameter is not None:
                yield parameter

    def supersede(self) -> None:
        """Say that values of this run were forgotten: whatever read them is stale."""
        stack = [self]
        while stack:
            run = stack.pop()
            if not run.superseded:
                run.superseded = True
                stack.extend([found for reader in run.readers if (found := reader()) is not None])

    def note_reader(self, run: Run) -> None:
        """Say that another run rests on this one. Now and then those that are no more are dropped, so that a value that
        is read for ever costs no more than those that read it now."""
        if len(self.readers) >= 8 and len(self.readers) & (len(self.readers) - 1) == 0:
            self.readers = [reader for reader in self.readers if reader() is not None]
        self.readers.append(weakref.ref(run))

    def settle(self, kept: dict[tuple[Any, int, Shape], Array]) -> None:
        """Leave nothing but these values, by dtype, offset and shape: see `lazyflow.settle`."""
        self.kept = kept
        del self.arena, self.calls, self.plan  # whoever asks a stale run for more is wrong

    def value(self, offset: int, kind: Type) -> Array:
        """A copy of the value of one node."""
        if self.kept is not None:
            return self.kept[kind.dtype, offset, kind.shape].copy()
        return devices.view(self.arena.buffers[kind.dtype], offset, kind.shape).copy()


def calls_of(run: Run, cells: Cells) -> Calls:
    """What computes the calls of one cell."""
    program = cells.signature.cell
    parameters = [parameter_of(kind) for kind in program.parameters]
    stages = program.staged(cells.external, cells.outside, run.differentiable, run.fuse)
    payload = cells.ints, cells.floats
    count = len(cells.nodes)
    return Calls(
        stages, run.arena, cells.inputs, cells.outputs, *payload, parameters, count, cells.largest, run.differentiable
    )


def fused_by(wanted: str, device: str) -> str:
    """How kernels are fused: as the settings say, where that can be had."""
    if device != "cpu":
        return "off"
    if wanted == "auto":
        return "numpy" if core.machine is None else "core"
    return wanted


def _joined(own: frozenset[Type], others: Sequence[frozenset[Type]]) -> frozenset[Type]:
    """The union, which is one of the sets wherever it can be: the runs of a long chain rest on the same parameters."""
    for other in others:
        own = other if own <= other else own if other <= own else own | other
    return own


def parameters_of(plan: Plan) -> list[Parameter | None]:
    """The parameters among the operands of the plan's signatures; None for one that has died since."""
    return [kind.parameter() for kind in plan.kinds if kind.parameter is not None]


def parameter_of(kind: Type) -> Parameter:
    """The parameter that a type belongs to; the tapes of the nodes that use it keep it alive."""
    assert kind.parameter is not None
    parameter = kind.parameter()
    assert isinstance(parameter, Parameter)
    return parameter


def operand_value(arena: Arena, operand: Operand, read: Any, by_columns: bool = False) -> Array:
    """One operand of a launch as its kernel wants it: ``(count, *shape)``, without the batch axis where it is
    shared."""
    if operand.kind == "row":
        if isinstance(read, np.ndarray):  # of a cell
            return rows_of(arena.buffers[operand.dtype], read, max(devices.elements(operand.shape), 1)).reshape(
                (len(read), *operand.shape)
            )
        return arena.read(operand.dtype, read, operand.shape)
    if operand.kind == "shared":
        assert operand.type is not None
        parameter = parameter_of(operand.type)
        array = parameter.columns(arena.number) if by_columns and operand.type.ndim == 2 else parameter.memory
        return array if array.shape == operand.shape else array.reshape(operand.shape)
    if operand.kind == "int" or isinstance(read, float):  # indices, that is: see `lazyflow.ops.base`
        return read
    return devices.to_device(read, arena.device)


def _stacked_value(arena: Arena, operand: Operand, read: Rows, count: int) -> Array:
    values = arena.read(operand.dtype, read, operand.shape)
    return (
        values.reshape((count, read.count // count, *operand.shape))
        if not read.shared
        else _repeated(arena, operand, read, count)
    )


def _repeated(arena: Arena, operand: Operand, read: Rows, count: int) -> Array:
    value = arena.view(operand.dtype, read, operand.shape)
    return devices.array_module(arena.device).broadcast_to(value, (count, read.count // count, *operand.shape))


def operand_values(arena: Arena, launch: Launch, *, forward: bool = False) -> list[Array]:
    """All operands of a launch, in the operation's order; in ``forward``, parameters by columns where that is asked
    for."""
    signature = launch.signature
    if signature.op.stacked:
        operand, read = signature.operands[0], launch.reads[0]
        assert isinstance(read, Rows)
        if signature.op.ragged:
            return [
                _stacked_value(arena, operand, read, 1)[0],
                operand_value(arena, signature.operands[1], launch.reads[1]),
            ]
        return [_stacked_value(arena, operand, read, launch.writes.count)]
    by_columns = signature.op.by_columns if forward else ()
    pairs = zip(signature.operands, launch.reads, strict=True)
    return [operand_value(arena, o, r, i in by_columns) for i, (o, r) in enumerate(pairs)]


def _gather_into(arena: Arena, launch: Launch, out: Array) -> bool:
    """Gather the operands' rows straight into the result, where that is all there is to do."""
    read = launch.reads[0]
    if not (isinstance(read, Rows) and read.index is not None and read.aligned and out.size):
        return False
    devices.take_rows(arena.table(out.dtype, read.width), arena.index(read.index), out.reshape(-1, read.width))
    return True


def _fill(run: Run, number: int, launch: Launch, out: Array) -> None:
    """Bring in values that no kernel computes: constants of the tapes, and values of earlier runs."""
    graph, brought = run.plan.graph, run.plan.brought[number]
    if launch.signature.op is CONSTANT:
        for i, (tape, row) in enumerate(brought):
            out[i] = devices.to_device(graph.tape(tape).objects[row], run.device)
        return
    shape = out.shape[1:]
    for i, k in enumerate(brought):
        source, offset = graph.known_run[k], int(graph.known_offset[k])
        known = devices.view(source.arena.buffers[out.dtype], offset, shape)
        out[i] = known if source.device == run.device else devices.to_device(known, run.device)


def execute(run: Run) -> None:
    """Fill the arena, launch by launch."""
    xp = devices.array_module(run.device)
    arena = run.arena
    for i, launch in enumerate(run.plan.launches):
        signature = launch.signature
        if launch.calls is not None:
            number, low, high = launch.calls
            run.calls[number].forward(low, high)
            continue
        out = arena.view(signature.type.dtype, launch.writes, signature.type.shape)
        if signature.op is CONSTANT or signature.op is KNOWN:
            _fill(run, i, launch, out)
        elif not (signature.op.gathers and _gather_into(arena, launch, out)):
            result = signature.forward(xp, *operand_values(arena, launch, forward=True), out=out)
            if result is not out:
                out[...] = result

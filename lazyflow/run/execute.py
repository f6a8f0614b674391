"""Forward: an interpreter of a plan. No scheduling in it.

A `Run` is one execution: the plan, the arenas that its launches fill, and the versions of the parameters they used.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.cells.calls import Calls
from lazyflow.cells.phases import FEWEST_LEVELS, GRID_COUNTER
from lazyflow.cells.values import CallColumns
from lazyflow.core.columns import ELEMENTS
from lazyflow.cuda.rows import fetch, has_rows
from lazyflow.device import Array, DType, HostArray
from lazyflow.errors import LazyflowError
from lazyflow.graph.graph import Graph
from lazyflow.graph.reading import row_at
from lazyflow.ops.base import Shape
from lazyflow.plan.arena import Arena, next_number
from lazyflow.plan.plan import Cells, Launch, Plan, Rows
from lazyflow.plan.recorded import Sources
from lazyflow.record.expr import Parameter, moment
from lazyflow.record.tape import CONSTANT_OP, Operand, Tape, Type, signature_by_id
from lazyflow.run.launch import DO_CALLS, DO_CONSTANTS, DO_KERNEL, DO_KNOWNS, Bound, Form, bound, parameter_of
from lazyflow.run.way import RunWay


def indices(plan: Plan, way: RunWay) -> list[HostArray]:
    """All indices by which the launches of a plan gather, and the calls of its cells; where these may be one kernel for
    several launches, where each of them ends; in a run that is differentiable, also those of the gradients of its
    parameters."""
    reads = [read for launch in plan.launches for read in launch.reads]
    ragged = {id(array) for array in counts(plan)}
    mine = {id(launch) for launch in plan.launches}
    late = [launch for launch in plan.parameter_launches if id(launch) not in mine] if way.differentiable else []
    every = [*reads, *(read for launch in late for read in launch.reads)]
    gathers = [read.index for read in every if isinstance(read, Rows) and read.index is not None]
    given = [
        read for read in reads if isinstance(read, np.ndarray) and read.dtype.kind in "iu" and id(read) not in ragged
    ]
    calls = [at for cells in plan.cells for at in (*cells.inputs, *cells.ints)]
    return gathers + given + calls + (_levels(plan) if plan.cells and way.persistent else [])


def _levels(plan: Plan) -> list[HostArray]:
    """What kernels need that go from level to level."""
    edges = [launch.calls[1] for launch in plan.launches if launch.calls is not None]
    return [GRID_COUNTER, *(some for some in edges if len(some) > FEWEST_LEVELS)]


def counts(plan: Plan) -> list[Any]:
    """How many operands the nodes of lists have, or rows."""
    return [
        read
        for launch in plan.launches
        for operand, read in zip(launch.signature.operands, launch.reads, strict=False)
        if operand.kind == "count" or (operand.kind == "int" and launch.signature.op.ragged)
    ]


def planned_payload(plan: Plan) -> list[HostArray]:
    """Numbers among the payload of a plan, and of the calls of its cells."""
    reads = [read for launch in plan.launches for read in launch.reads]
    given = [read for read in reads if isinstance(read, np.ndarray) and read.dtype.kind == "f"]
    return given + [column for cells in plan.cells for column in cells.floats]


def given_to(run: Run) -> dict[int, HostArray]:
    """Of the launches of a run on a device that bring values in, by number, what goes there in the plan's one copy: the
    constants of each, if all lie on the host, or the addresses of the values of earlier runs, if all lie there."""
    found: dict[int, HostArray] = {}
    plan, device = run.plan, run.device
    tapes = [tape() for tape in run.tapes]
    for number, brought in plan.brought.items():
        signature = plan.launches[number].signature
        if signature.op is CONSTANT_OP:
            values = [tapes[tape].objects[row_at(run.rows[tape], position)] for tape, position in brought]
            if not any(devices.is_on_gpu(value) for value in values):
                found[number] = np.concatenate([value.reshape(-1) for value in values])
        elif has_rows(signature.type.dtype) and all(run.known_runs[k].device == device for k in brought):
            found[number] = np.array([_address(run, k, signature.type.dtype) for k in brought], np.int64)
    return {number: array for number, array in found.items() if array.size and plan.launches[number].writes.width}


def _address(run: Run, k: int, dtype: DType) -> int:
    """Where the ``k``-th of the run's known values lies."""
    return int(run.known_runs[k].arena.buffers[dtype].data.ptr) + run.known_places[k] * dtype.itemsize


_NO_CALLS: list[Calls] = []
_NOTHING_GIVEN: dict[int, HostArray] = {}


class State:
    """What a `Run` is made of, apart so that it can be of C."""

    __slots__ = (
        "__weakref__", "arena", "calls", "device", "given", "kept", "known_places", "known_runs", "number", "plan",
        "readers", "rests_on", "rows", "stamp", "superseded", "tapes", "way",
    )  # fmt: skip


class Run(State):
    """One execution of a plan, in a ``way``, for these ``rows`` of ``tapes``, weak references. ``calls``: of its cells.
    ``known_runs`` and ``known_places``: where each value lies that it has of earlier ones. ``rests_on`` are the types
    of the parameters that it and the runs before it have used; ``stamp``: none of these had a later version then;
    ``superseded``: whether a run that it rests on was forgotten since; ``kept``: what is left of it, if not all.
    ``given``: see `given_to`."""

    __slots__ = ()

    def __init__(self, plan: Plan, way: RunWay, tapes: tuple[Any, ...], known: Sources, rows: Any) -> None:
        self.plan, self.way, self.tapes, self.rows = plan, way, tapes, rows
        self.known_runs, self.known_places = known.runs, known.places
        device = self.device = way.device  # which is asked for often
        self.number = next_number()
        self.arena = Arena(device, plan.layout.sizes)
        self.given: dict[int, HostArray] = _NOTHING_GIVEN
        if device != "cpu":
            self.given = given_to(self)
            self.arena.bring(indices(plan, way), planned_payload(plan), counts(plan), list(self.given.values()))
        earlier = distinct(self.known_runs)
        self.rests_on = _joined(plan.layout.kinds, earlier)
        notice(self.rests_on)
        self.stamp = moment()
        self.superseded = False
        self.kept: dict[tuple[DType, int, Shape], Array] | None = None
        self.readers: list[weakref.ref[Run]] = []
        for run in earlier:
            run.note_reader(self)
        self.calls = [calls_of(self, cells) for cells in plan.cells] if plan.cells else _NO_CALLS

    @property
    def graph(self) -> Graph:
        """The graph that it has computed, with its tapes, their payload, and the runs that it rests on."""
        graph, payload = self.plan.structure, self.plan.payload
        if graph.tapes:  # it is not one of others that were recorded like these
            return graph
        if payload is not None:
            graph = replace(graph, ints=payload.ints, floats=payload.floats)
        offsets = np.array(self.known_places, np.int64)
        known = tuple(self.known_runs)
        return replace(graph, tapes=self.tapes, rows=self.rows, known_run=known, known_offset=offsets)

    def is_stale(self) -> bool:
        """Whether a parameter that the run rests on has changed since, or a value that it read was forgotten."""
        return self.superseded or notice(self.rests_on) > self.stamp

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

    def settle(self, kept: dict[tuple[DType, int, Shape], Array]) -> None:
        """Leave nothing but these values, by dtype, offset and shape: see `lazyflow.run.settle`."""
        self.kept = kept
        del self.arena, self.calls, self.plan  # whoever asks a stale run for more is wrong
        del self.known_runs, self.known_places

    def value(self, offset: int, kind: Type) -> Array:
        """A copy of the value of one node."""
        if self.kept is not None:
            return self.kept[kind.dtype, offset, kind.shape].copy()
        buffer = self.arena.buffers[kind.dtype]
        if type(buffer) is np.ndarray:
            return ELEMENTS.copy(buffer, offset, kind.shape)
        return devices.stretch(buffer, offset, kind.shape).copy()

    def downloaded(self, offset: int, kind: Type) -> HostArray:
        """A copy of the value of one node on the host."""
        if self.device == "cpu" or self.kept is not None:
            return devices.to_host(self.value(offset, kind))
        with devices.on(self.device):
            return devices.to_host(devices.stretch(self.arena.buffers[kind.dtype], offset, kind.shape))


def calls_of(run: Run, cells: Cells) -> Calls:
    """What computes the calls of one cell."""
    program = cells.signature.cell
    parameters = [parameter_of(kind) for kind in program.parameters]
    stages = program.staged(cells.external, cells.outside, run.way.differentiable, run.way.printed)
    columns = CallColumns(cells.inputs, cells.outputs, cells.ints, cells.floats, len(cells.nodes))
    calls = Calls(stages, run.arena, parameters, columns, cells.largest, run.way.differentiable)
    calls.persistent = run.way.persistent
    return calls


def distinct(runs: list[Run]) -> list[Run]:
    """Each run once."""
    found, last = [], None
    for run in runs:  # most often they are of one run
        if run is not last:
            found.append(run)
            last = run
    return found if len(found) < 2 else list({id(run): run for run in found}.values())


def any_stale(runs: list[Run]) -> bool:
    """Whether one of the runs rests on parameters, or on values, that have changed since."""
    for run in distinct(runs):  # noqa: SIM110 (a compiled function has no generator)
        if run.is_stale():
            return True
    return False


def notice(kinds: frozenset[Type]) -> int:
    """Look at the parameters of these types, and return the latest of their versions."""
    latest = -1
    for kind in kinds:
        parameter = None if kind.parameter is None else kind.parameter()
        if parameter is not None:
            parameter.notice()
            latest = max(latest, parameter.version)
    return latest


def check_recorded(kinds: Iterable[Type]) -> None:
    """Raise `LazyflowError` if the parameter of one of the types is not what it was when it was recorded."""
    for kind in kinds:
        parameter = None if kind.parameter is None else kind.parameter()
        if parameter is None:
            continue
        array = parameter.memory
        device = "cpu" if type(array) is np.ndarray else devices.device_of(array)
        if kind.epoch != parameter.epoch or array.shape != kind.shape or array.dtype != kind.dtype:
            raise LazyflowError(_changed(parameter, kind, device))
        if device != kind.device:
            raise LazyflowError(_changed(parameter, kind, device))


def _changed(parameter: Parameter, kind: Type, device: str) -> str:
    name = f"parameter {parameter.name or list(kind.shape)}"
    if kind.epoch != parameter.epoch:
        return f"{name} was replaced in its module since this was recorded: record it again"
    return (
        f"{name} was {kind.dtype}{list(kind.shape)} on {kind.device} when this was recorded, and is "
        f"{parameter.memory.dtype}{list(parameter.memory.shape)} on {device} now: record it again"
    )


def _joined(own: frozenset[Type], runs: Sequence[Run]) -> frozenset[Type]:
    """The union of types and those that runs rest on, which is one of the sets wherever it can be: the runs of a long
    chain rest on the same parameters."""
    for run in runs:
        other = run.rests_on
        if other is not own:
            own = other if own <= other else own if other <= own else own | other
    return own


def parameters_of(plan: Plan) -> list[Parameter | None]:
    """The parameters among the operands of the plan's signatures; None for one that has died since."""
    return [kind.parameter() for kind in plan.layout.kinds if kind.parameter is not None]


def _bring(run: Run, number: int, step: Bound) -> None:
    """Bring in values that no kernel computes: constants of the tapes, and values of earlier runs."""
    brought = run.plan.brought[number]
    if run.device == "cpu" and step.does == DO_KNOWNS:
        return _bring_here(run, brought, step)
    if run.device == "cpu":
        return _constants_here(run, brought, step)
    out = step.out.read(run.arena)
    if number in run.given:
        there = run.arena.index(run.given[number])
        if step.does == DO_CONSTANTS:
            out[...] = there.reshape(out.shape)
        else:
            fetch(there, out.reshape(len(out), -1))
        return
    if step.does == DO_CONSTANTS:
        tapes = [tape() for tape in run.tapes]
        joined, place = step.signature.walks is not None, 0
        for tape, position in brought:
            value = devices.to_device(tapes[tape].objects[row_at(run.rows[tape], position)], run.device)
            end = place + (value.size // max(step.signature.type.size, 1) if joined else 1)
            out[place:end] = value.reshape(end - place, *out.shape[1:]) if joined else value
            place = end
        return
    shape = out.shape[1:]
    for i, k in enumerate(brought):
        source, offset = run.known_runs[k], run.known_places[k]
        known = devices.stretch(source.arena.buffers[out.dtype], offset, shape)
        out[i] = known if source.device == run.device else devices.to_device(known, run.device)


def _constants_here(run: Run, brought: list[tuple[int, int]], step: Bound) -> None:
    """Copy the constants of the tapes on the host. Those of joined rows lie end to end."""
    buffer, offset, width = run.arena.buffers[step.out.dtype], step.out.offset, step.out.width
    joined = step.signature.walks is not None
    tapes = [reference() for reference in run.tapes]
    for number, position in brought:
        tape: Tape = tapes[number]
        rows = run.rows[number]
        row = position if rows is None else ELEMENTS.number(rows, position)
        end = ELEMENTS.put(buffer, offset, devices.to_device(tape.objects[row], "cpu"))
        offset = end if joined else offset + width


def _bring_here(run: Run, brought: list[int], step: Bound) -> None:
    """Copy the values of earlier runs of the host."""
    dtype, offset = step.out.dtype, step.out.offset
    size, width, buffer = step.signature.type.size, step.out.width, run.arena.buffers[step.out.dtype]
    runs, places = run.known_runs, run.known_places
    last, there = None, None
    for k in brought:
        source = runs[k]
        if source is not last:  # most often they are of one run
            last, there = source, source.arena.buffers[dtype]
        start = places[k]
        if source.device != "cpu":
            buffer[offset : offset + size] = devices.to_device(devices.stretch(there, start, (size,)), "cpu")
        else:
            devices.copy_elements(buffer, offset, there, start, size)
        offset += width


def execute(run: Run) -> None:
    """Fill the arena, launch by launch."""
    xp = devices.array_module(run.device)
    arena = run.arena
    steps = bound(run.plan)
    i = 0
    try:
        for i in range(len(steps)):
            step = steps[i]
            does = step.does
            if does == DO_CALLS:
                number, edges = step.calls
                run.calls[number].forward(edges)
            elif does in (DO_CONSTANTS, DO_KNOWNS):
                _bring(run, i, step)
            else:
                step.compute(xp, arena)
    except MemoryError:  # whoever runs this says how much is missing
        raise
    except Exception as error:
        _say_where(error, run, steps[i])
        raise


def line_of(run: Run, launch: Launch, position: int) -> str:
    """``file:line`` where a node of a launch, by its position, was recorded: where the first of its signature was,
    unless its tape has noted lines."""
    graph = run.plan.structure
    [(number, place)] = graph.positions(graph.origin[launch.nodes[position : position + 1]])
    row = row_at(run.rows[number], place)
    tape: Tape = run.tapes[number]()
    if tape.lines is not None:
        return tape.lines[row]
    return f"{signature_by_id(tape.signatures[row]).line} (where it was first recorded)"


def _say_where(error: Exception, run: Run, step: Bound) -> None:
    """Say in an error of a launch which operation, of which shapes, has raised it, and where the nodes were recorded
    that fail by themselves; where that is not to be seen, all of them. What is said of an index names its axis."""
    launch = step.launch
    every = range(len(launch.nodes))
    failing = [position for position in every if _fails(run, step, position, type(error))] or every
    lines = " or ".join(dict.fromkeys(line_of(run, launch, position) for position in failing))
    signature = step.signature if launch.each is None else launch.each.forms[failing[0]]
    what = "" if isinstance(error, IndexError) else f", in {signature!r}"
    error.args = (f"{error}{what}, at {lines}",)


def _fails(run: Run, step: Bound, position: int, kind: type[Exception]) -> bool:
    """Whether the kernel of a launch raises an error of that kind for one of its nodes."""
    operands, readers, each = step.signature.operands, step.operands, step.launch.each
    own = step.signature.walks is None and (each is not None or len(readers) == len(operands))
    if step.does != DO_KERNEL or not own:
        return False
    try:
        if each is not None:
            form = Form(each.forms[position])
            reads = tuple([None if read is None else read[position] for read in each.reads])
            form.forward(np, *form.arrays(np, run.arena, reads))
        else:
            step.forward(np, *[_of_one(o, r.read(run.arena), position) for o, r in zip(operands, readers, strict=True)])
    except Exception as error:
        return type(error) is kind
    return False


def _of_one(operand: Operand, array: Array, position: int) -> Array:
    """The row of one node, or what all share."""
    batched = operand.kind != "shared" and np.ndim(array) > len(operand.shape)
    return array[position : position + 1] if batched else array

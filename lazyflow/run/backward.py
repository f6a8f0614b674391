"""Backward: the launches of a run in reverse, each adding its operands' cotangents into an arena of the same layout.

The cotangent of a node lies where its value lies, at the same offset of a second arena. Adding back is a slice add
where rows are evenly spaced, an indexed add where they are distinct, and rounds of distinct rows only where they
repeat. A parameter's gradient is computed once for each signature it occurs in, over all rows at once, when everything
else is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow import passes, settings
from lazyflow.cells.back import CallsBack, SeparateBack, gradients_of_calls
from lazyflow.cells.calls import Calls, Separate, SomeCalls
from lazyflow.cells.steps import OwnKernel
from lazyflow.cells.values import CallColumns
from lazyflow.core.arrays import Ints
from lazyflow.device import Array, DType, HostArray
from lazyflow.graph.graph import Graph
from lazyflow.hooks import Hook, through
from lazyflow.ops.base import Shape, brought, sorted_by
from lazyflow.ops.formula import is_finite
from lazyflow.ops.sparse import RowSparse
from lazyflow.ops.sparse import add_sparse as add_sparse
from lazyflow.plan.arena import Arena
from lazyflow.plan.plan import Cells, Launch, Plan, Rows, launches, parameter_launches
from lazyflow.record.expr import Parameter
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, Signature, Type
from lazyflow.run.check import check_cotangents
from lazyflow.run.execute import Run
from lazyflow.run.launch import DO_KNOWNS, Bound, Loop, bound, bound_among, bound_for_parameters, bound_of, pull_all
from lazyflow.run.sums import FEW_NODES, ParameterRows, Sums, Waiting, gradients_of_each, parameter_gradients

RunObserver = Callable[[Run, Arena, object], None]


class Seeds(NamedTuple):
    """Cotangents of nodes of a run, all of one type: the elements where their values begin, and a row for each."""

    run: Run
    nodes: Ints
    offsets: Ints
    cotangents: Array


class Hooked(NamedTuple):
    """A node whose cotangent goes through hooks when it is complete: where it lies, and what to call."""

    kind: Type
    offset: int
    hooks: Sequence[Hook]


def backward(
    seeds: Sequence[Seeds], retained: RunObserver, hooked: Callable[[Run], Mapping[int, Hooked]]
) -> dict[int, tuple[Parameter, Array]]:
    """Gradients of parameters, by ``id``, for these cotangents.

    Runs are taken latest first: what a run read of an earlier one is by then complete. ``retained`` is shown every
    run with its cotangents before they are freed; ``hooked`` says which nodes of a run have hooks.
    """
    sums, later = Sums(), Waiting()
    waiting: dict[int, list[Seeds]] = {}
    queue: list[int] = []

    def add(some: Seeds) -> None:
        if some.run.number not in waiting:
            waiting[some.run.number] = []
            heapq.heappush(queue, -some.run.number)
        waiting[some.run.number].append(some)

    for some in seeds:
        add(some)
    while queue:
        given = waiting.pop(-heapq.heappop(queue))
        run = given[0].run
        done = _of_run(run, given, hooked(run))
        sums.update_by(done.sums)
        later.add(done.rows, sums.add)
        retained(run, done.arena, done.active)
        for some in done.handed_on:
            add(some)
    later.finish(sums.add)
    return {number: (found.parameter, found.total()) for number, found in sums.items()}


class _Done(NamedTuple):
    """The backward of one run: its cotangents, the nodes that took part (None for all), the gradients of its
    parameters, rows that give more of them, and the seeds of earlier runs."""

    arena: Arena
    active: Ints | None
    sums: Sums
    rows: list[ParameterRows]
    handed_on: list[Seeds]

    def is_finite(self) -> bool:
        """Whether all that comes out of it is."""
        found = [one.total() for one in self.sums.values()] + [some.cotangents for some in self.handed_on]
        arrays = [g.values if isinstance(g, RowSparse) else g for g in found]
        if not arrays or not devices.is_on_gpu(arrays[0]):
            return all(is_finite(a) for a in arrays)
        sums = [a.sum() for a in arrays]
        return bool(np.isfinite(float(sum(sums[1:], sums[0]))))  # one wait for the device


def _of_run(run: Run, given: list[Seeds], hooked: Mapping[int, Hooked]) -> _Done:
    """The backward of one run. The calls of a cell take part with all of their results; where only some are reached and
    the slope of another is infinite, NaNs come of it, and it is done again with these alone. So it is done at once
    where the others are all that reaches some parameter or operand, whose gradient would be zero instead of None."""
    structure, nodes = run.plan.structure, _nodes_of(given)
    if not len(structure.results):
        return _if_finite(run, given, _done(run, given, _known_way(run, nodes), hooked), hooked)
    hot = reached_results(structure, nodes) if any(_is_uneven(s) for s in structure.signatures) else None
    watched = hooked or any(tape.retained for tape in (t() for t in run.tapes) if tape is not None)
    if not watched and (hot is None or not _leaves_out(structure, hot)):
        with np.errstate(invalid="ignore", divide="ignore"):
            done = _done(run, given, _way(run, nodes_reached(structure, nodes)), hooked)
        if _keeps_zeros(run) or done.is_finite():
            return done
    hot = reached_results(structure, nodes) if hot is None else hot
    active = hot.copy()
    active[structure.call[np.flatnonzero(hot)]] = True
    return _done(run, given, _way(run, active, hot), hooked)._replace(active=hot)


def _nodes_of(given: Sequence[Seeds]) -> list[int]:
    return [node for some in given for node in some.nodes.tolist()]


def _if_finite(run: Run, given: list[Seeds], done: _Done, hooked: Mapping[int, Hooked]) -> _Done:
    """What is done, if it is finite or nobody asked."""
    if run.way.checked and not done.is_finite():
        way = _known_way(run, _nodes_of(given))
        check_cotangents(run, _cotangents(run, given), done.arena, way.launches, way.at_once, hooked)
    return done


def _keeps_zeros(run: Run) -> bool:
    """Whether no infinity comes into what a cell hands on of a result that is not reached, so that nobody has to look:
    on a device that would be a wait. Parameters are taken to be finite there (`lazyflow.ops.linalg.where_shown`). That
    no operation makes a NaN of zeros there is a test of all of them: tests/run/test_backward.py."""
    if run.device == "cpu":
        return False
    steps = [(calls, step) for calls in run.calls for stage in calls.stages.steps for step in stage]
    own = [calls.nodes[step.node].signature for calls, step in steps if isinstance(step, OwnKernel)]
    return all(s is not None and not _has_diagonal(s) for s in own)


def _has_diagonal(signature: Signature) -> bool:
    """Whether it is a product along a diagonal, of which a device does not know what is shown."""
    letters: Any = signature.static.get("letters", ())
    return any(len({*some}) < len(some) for some in letters)


def _is_uneven(signature: Signature) -> bool:
    """Whether the gradients of a cell's results flow to different operands and parameters."""
    if not signature.further:
        return False
    flows = signature.cell.flows
    return not flows[flows.any(axis=1)].all()


def _leaves_out(graph: Graph, hot: Array) -> bool:
    """Whether of some call, of which a result is reached, those that are reached do not flow to all that others do."""
    for s, signature in enumerate(graph.signatures):
        if _is_uneven(signature):
            calls = np.flatnonzero(graph.signature == s)
            results = hot[calls[:, None] + np.arange(len(signature.cell.outputs))]
            flown = results @ signature.cell.flows
            if not flown[results.any(axis=1)].all():
                return True
    return False


class WayBack(NamedTuple):
    """The way back through a run: the nodes that are ``active`` (None for all), their launches, those for the
    parameters' gradients, the calls of cells, and of the launches that have brought values of earlier runs in: their
    number, where their cotangents lie, and which rows are active. Which values these are is for each run to say: tapes
    that have computed some of them before make a graph of the same structure, and count them otherwise."""

    active: Ints | None
    launches: tuple[Bound, ...]
    at_once: tuple[Bound, ...]
    calls: Sequence[Calls | SomeCalls | Separate]
    sources: tuple[tuple[int, Bound, tuple[int, ...]], ...]


MOST_WAYS = 8  # that are kept with a plan
FEW_SEEDS = 4  # that are added one by one


def _known_way(run: Run, nodes: Sequence[int]) -> WayBack:
    """The way back from some nodes of a run without calls of cells, which is that of all runs of its plan."""
    kept, key = run.plan.bound.setdefault("back", {}), tuple(nodes)
    found: WayBack | None = kept.get(key)
    if found is None:
        found = _way(run, nodes_reached(run.plan.structure, nodes))
        if not found.calls and len(kept) < MOST_WAYS:
            kept[key] = found
    return found


def _way(run: Run, active: Ints | None, hot: Ints | None = None) -> WayBack:
    """``hot``: the results that are reached, where others of their calls are not."""
    profile = settings.current().profile
    before = "" if profile is None else profile.switch("schedule")
    way = WayBack(active, *_launches(run, active, hot), _sources(run, active))
    if profile is not None:
        profile.switch(before)
    return way


def _done(run: Run, given: list[Seeds], way: WayBack, hooked: Mapping[int, Hooked]) -> _Done:
    sums, rows = Sums(), list[ParameterRows]()
    arena = _run_backward(run, given, way, sums, rows, hooked)
    return _Done(arena, way.active, sums, rows, _handed_on(run, arena, way.sources))


def _run_backward(
    run: Run,
    given: list[Seeds],
    way: WayBack,
    sums: Sums,
    rows: list[ParameterRows],
    hooked: Mapping[int, Hooked],
) -> Arena:
    xp = devices.array_module(run.device)
    arena = _cotangents(run, given)
    backs = [some.back(arena) for some in way.calls]
    if hooked or backs:
        _pull_all(run, arena, way.launches, backs, hooked)
    else:
        pull_all(way.launches, xp, run.arena, arena)
    for step in way.at_once:
        if isinstance(step, Loop):
            for parameter, gradient in gradients_of_each(run, arena, step):
                sums.add(parameter, gradient)
            continue
        some_rows = _rows_of(run, arena, step)
        if _may_wait(run, step.launch):
            rows.append(some_rows._replace(g=some_rows.g.copy()))
        else:
            for parameter, gradient in parameter_gradients(some_rows):
                sums.add(parameter, gradient)
    gradients_of_calls(backs, sums, partial(constant_rows, run))
    return arena


def _cotangents(run: Run, given: list[Seeds]) -> Arena:
    """An arena of cotangents: zeros, but for those that are given; a number of the host needs no copy."""
    sizes = run.plan.layout.floating
    arena = Arena(run.device, sizes, run.arena.brought)
    for dtype, size in sizes.items():
        arena.buffers[dtype][:size] = 0
    for some in given:
        _add_seeds(arena, some.offsets, some.cotangents)
    return arena


def _add_seeds(arena: Arena, offsets: Ints, cotangents: Array) -> None:
    """Add cotangents where the values begin that they are of."""
    rows = cotangents.reshape(len(offsets), -1)
    size, buffer = rows.shape[1], arena.buffers[cotangents.dtype]
    if rows.size == 1 and arena.device != "cpu" and not devices.is_on_gpu(rows):
        buffer[int(offsets[0]) : int(offsets[0]) + 1] += rows.item()
        return
    rows = devices.to_device(rows, arena.device)
    if len(offsets) > FEW_SEEDS and (np.diff(np.sort(offsets)) >= size).all():  # none shows a part of another
        buffer[devices.to_device(offsets[:, None] + np.arange(size), arena.device)] += rows
        return
    for offset, row in zip(offsets.tolist(), rows, strict=True):
        buffer[offset : offset + size] += row


def _pull_all(
    run: Run,
    arena: Arena,
    steps: Sequence[Bound],
    backs: Sequence[CallsBack | SeparateBack],
    hooked: Mapping[int, Hooked],
) -> None:
    """The launches backward, with calls of cells and hooks."""
    xp = devices.array_module(run.device)
    for step in reversed(steps):
        if hooked:
            _call_hooks(arena, step.launch, hooked)
        if step.calls is not None:
            number, edges = step.calls
            if step.signature.differentiable:
                backs[number].backward(edges)
        elif step.signature.differentiable:
            step.pull(xp, run.arena, arena)


def _call_hooks(arena: Arena, launch: Launch, hooked: Mapping[int, Hooked]) -> None:
    """Put what the hooks make of a cotangent in its place, before it is handed on."""
    for node in launch.nodes.tolist():
        if node in hooked:
            kind, offset, hooks = hooked[node]
            flat = arena.buffers[kind.dtype][offset : offset + kind.size]
            flat[...] = through(hooks, flat.reshape(kind.shape).copy()).reshape(-1)


def _may_wait(run: Run, launch: Launch) -> bool:
    """Whether other runs may have nodes that a few ones are worth waiting for. Where what comes of a run is looked at
    for NaN, all is there at once."""
    if (
        run.way.checked
        or len(run.plan.structure.results)
        or not (run.known_runs or run.readers)
        or launch.signature.loops
    ):
        return False
    return not launch.signature.op.stacked and launch.writes.count <= FEW_NODES


def _launches(
    run: Run, active: Ints | None, hot: Ints | None
) -> tuple[tuple[Bound, ...], tuple[Bound, ...], Sequence[Calls | SomeCalls | Separate]]:
    """The launches of the ``active`` nodes, those for the parameters' gradients, and the calls of cells; others must
    not take part (0 * inf is not 0). ``hot``: the results that are reached, where others of their calls are not."""
    plan = run.plan
    if active is None:
        return bound(plan), bound_for_parameters(plan), run.calls
    graph = run.graph
    mine = np.flatnonzero(active)
    calls: Sequence[Calls | SomeCalls | Separate] = run.calls
    if hot is None and all(active[cells.nodes].all() for cells in plan.cells):
        steps = _active_steps(run, graph, active)
    else:
        found, some = launches(graph, plan.schedule, plan.offsets, mine)
        whole = {id(cells.signature): calls for cells, calls in zip(plan.cells, run.calls, strict=True)}
        calls = [_some_calls(whole[id(cells.signature)], cells, hot) for cells in some]
        steps = tuple([bound_of(launch) for launch in found])
    at_once = parameter_launches(graph, plan.schedule.launch, plan.offsets, [step.launch for step in steps], mine)
    return steps, bound_among(at_once, steps), calls


def _active_steps(run: Run, graph: Graph, active: Ints) -> tuple[Bound, ...]:
    """The launches of a run, and of those of which only some nodes are active, one of these."""
    plan = run.plan
    steps = bound(plan)
    flags = [active[step.launch.nodes] for step in steps]
    parts = [step.launch.nodes[some] for step, some in zip(steps, flags, strict=True) if not some.all()]
    made = iter(launches(graph, plan.schedule, plan.offsets, np.concatenate(parts))[0] if parts else ())
    pairs = [(step, some.all()) for step, some in zip(steps, flags, strict=True) if some.any()]
    return tuple([step if whole else bound_of(next(made)) for step, whole in pairs])


def _some_calls(whole: Calls, some: Cells, hot: Ints | None) -> Calls | SomeCalls | Separate:
    columns = CallColumns(some.inputs, some.outputs, some.ints, some.floats, len(some.nodes))
    if hot is None:
        return SomeCalls(whole, some.rows, columns, some.largest)
    return Separate(whole, columns, hot[some.nodes[:, None] + np.arange(len(some.outputs))])


def reached_results(graph: Graph, nodes: Sequence[int]) -> Ints:
    """Which nodes a gradient from the given ones reaches, each result of a cell's call for itself."""
    return _reached(graph, nodes, apart=True) & _wanting(graph)


def nodes_reached(graph: Graph, nodes: Sequence[int]) -> Ints | None:
    """Which nodes a gradient from the given ones reaches, or None if it is every node that can have one. A cell's call
    takes part with all of its results or not at all."""
    wanted = _wanting(graph)
    wanted[graph.results] = False
    found = _reached(graph, nodes, apart=False)
    return None if found[wanted].all() else found


def _reached(graph: Graph, nodes: Sequence[int], apart: bool) -> Ints:
    told = [len(s.further) + 1 if apart and s.further else 0 for s in graph.signatures]
    flags = [_hands_on(s, bool(results)) for s, results in zip(graph.signatures, told, strict=True)]
    slots = np.cumsum([0, *map(len, flags)])
    flat = np.array([flag for some in flags for flag in some], bool)
    return passes.reached(graph.nodes, np.array(told, np.int64), flat, slots, np.array(nodes, np.int64))


def _hands_on(signature: Signature, apart: bool) -> list[bool]:
    """Whether a gradient goes on to each operand; of a cell whose results are told apart, of each result for itself."""
    if apart:
        inputs = range(signature.rows)
        return [slot in mine for mine in signature.cell.reached for slot in inputs]
    return [o.vjp is not None for o in signature.operands if o.kind == "row"]


def _wanting(graph: Graph) -> Ints:
    return np.array([_wants_gradient(s) for s in graph.signatures], bool)[graph.signature]


def _wants_gradient(signature: Signature) -> bool:
    return signature.differentiable or (signature.op is KNOWN_OP and signature.type.requires_grad)


def _rows_of(run: Run, cotangents: Arena, step: Bound) -> ParameterRows:
    """The nodes of a launch as one."""
    g, y = step.out.read(cotangents), step.out.read(run.arena)
    operands = step.operand_values(run.arena)
    for which in _sorted_operands(step) if run.given else ():
        host = _rows_on_host(run, step, which)
        if host is not None:
            operands[which] = brought(host, operands[which])
    return ParameterRows(run, step.signature, g, y, operands)


def _sorted_operands(step: Bound) -> set[int]:
    """The operands that are rows of integers, which the vjps of parameters sort on the host."""
    operands = step.signature.operands
    wanted = {sorted_by(o.vjp) for o in operands if o.kind == "shared" and o.vjp is not None}
    return {which for which in wanted if which is not None and operands[which].kind == "row"}


def _rows_on_host(run: Run, step: Bound, which: int) -> HostArray | None:
    """`constant_rows` of an operand; without a batch axis where all nodes share one row."""
    rows, operand = step.launch.reads[which], step.signature.operands[which]
    assert isinstance(rows, Rows)
    offsets = rows.offsets()
    found = constant_rows(run, operand.dtype, offsets[:1] if rows.shared else offsets, operand.shape)
    return found[0] if found is not None and rows.shared else found


def constant_rows(run: Run, dtype: DType, offsets: Ints, shape: Shape) -> HostArray | None:
    """Rows of one shape at these elements as the host has them, if they are constants of one launch, which went from
    there to the device in the plan's one copy."""
    for number, array in run.given.items():
        launch = run.plan.launches[number]
        if launch.signature.op is CONSTANT_OP and array.dtype == dtype and len(offsets):
            first, size = offsets - launch.writes.offset, devices.elements(shape)
            if first.min() >= 0 and first.max() + size <= array.size:
                return array[first[:, None] + np.arange(size)].reshape(len(first), *shape)
    return None


def accumulated(a: Array, b: Array) -> Array:
    """The sum of two gradients; sparse as long as both are."""
    if isinstance(a, RowSparse) and isinstance(b, RowSparse):
        return add_sparse(a, b)
    if isinstance(a, RowSparse):
        a, b = b, a
    if not isinstance(b, RowSparse):
        return devices.module(a).asarray(a + b)
    total = a.copy()
    b.add_to(total)
    return total


def _sources(run: Run, active: Ints | None) -> tuple[tuple[int, Bound, tuple[int, ...]], ...]:
    """See `WayBack`."""
    found, steps = [], bound(run.plan)
    for number, values in run.plan.brought.items() if run.known_runs else ():
        step = steps[number]
        if step.does == DO_KNOWNS and step.signature.type.requires_grad:
            nodes = step.launch.nodes
            rows = tuple([i for i in range(len(values)) if active is None or active[nodes[i]]])
            found.append((number, step, rows))
    return tuple(found)


def _handed_on(run: Run, arena: Arena, sources: Sequence[Any]) -> list[Seeds]:
    """Cotangents of the values that the run had of earlier runs, as seeds for those."""
    found = []
    for number, step, rows in sources:
        dtype, values = step.signature.type.dtype, run.plan.brought[number]
        of_run: dict[int, list[int]] = {}
        for i in rows:
            source = run.known_runs[values[i]]
            if source.way.differentiable:
                of_run.setdefault(source.number, []).append(i)
        g: Any = step.out.read(arena) if of_run else None
        for some in of_run.values():
            source = run.known_runs[values[some[0]]]
            offsets = np.array([run.known_places[values[i]] for i in some], np.int64)
            cotangents = g.copy() if len(some) == len(g) else g[some]
            found.append(Seeds(source, nodes_at(source.plan, offsets, dtype), offsets, cotangents))
    return found


def nodes_at(plan: Plan, offsets: Ints, dtype: DType) -> Ints:
    """The nodes whose memory holds these elements: views lie inside the nodes that they show."""
    kept = plan.bound.setdefault("nodes", {})
    found = kept.get(dtype)
    if found is None:
        graph = plan.structure
        mine = np.flatnonzero(np.array([s.type.dtype == dtype for s in graph.signatures], bool)[graph.signature])
        sizes = np.array([s.type.size for s in graph.signatures], np.int64)[graph.signature[mine]]
        mine = mine[np.lexsort((sizes, plan.offsets[mine]))]  # those without elements before what lies there
        found = kept[dtype] = mine, plan.offsets[mine]
    nodes, begins = found
    there: Ints = nodes[np.searchsorted(begins, offsets, side="right") - 1]
    return there

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
from lazyflow.plan.plan import Cells, Launch, Rows, launches, parameter_launches
from lazyflow.record.expr import Parameter
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, Signature, Type
from lazyflow.run.check import check_cotangents
from lazyflow.run.execute import Run
from lazyflow.run.launch import DO_KNOWNS, Bound, Loop, bound, bound_among, bound_for_parameters, bound_of, pull_all
from lazyflow.run.sums import FEW_NODES, ParameterRows, Sums, Waiting, gradients_of_each, parameter_gradients

RunObserver = Callable[[Run, Arena, object], None]


class Hooked(NamedTuple):
    """A node whose cotangent goes through hooks when it is complete: where it lies, and what to call."""

    kind: Type
    offset: int
    hooks: Sequence[Hook]


def backward(
    seeds: Sequence[tuple[Run, int, int, Array]], retained: RunObserver, hooked: Callable[[Run], Mapping[int, Hooked]]
) -> dict[int, tuple[Parameter, Array]]:
    """Gradients of parameters, by ``id``, for cotangents given as (run, node, element offset, cotangent).

    Runs are taken latest first: what a run read of an earlier one is by then complete. ``retained`` is shown every
    run with its cotangents before they are freed; ``hooked`` says which nodes of a run have hooks.
    """
    sums, later = Sums(), Waiting()
    waiting: dict[int, tuple[Run, list[tuple[int, int, Array]]]] = {}
    queue: list[int] = []

    def add_seed(run: Run, node: int, offset: int, cotangent: Array) -> None:
        if run.number not in waiting:
            waiting[run.number] = run, []
            heapq.heappush(queue, -run.number)
        waiting[run.number][1].append((node, offset, cotangent))

    for seed in seeds:
        add_seed(*seed)
    while queue:
        run, given = waiting.pop(-heapq.heappop(queue))
        done = _of_run(run, given, hooked(run))
        sums.update_by(done.sums)
        later.add(done.rows, sums.add)
        retained(run, done.arena, done.active)
        for source in done.handed_on:
            add_seed(*source)
    later.finish(sums.add)
    return {number: (found.parameter, found.total()) for number, found in sums.items()}


class _Done(NamedTuple):
    """The backward of one run: its cotangents, the nodes that took part (None for all), the gradients of its
    parameters, rows that give more of them, and the seeds of earlier runs."""

    arena: Arena
    active: Ints | None
    sums: Sums
    rows: list[ParameterRows]
    handed_on: list[tuple[Run, int, int, Array]]

    def is_finite(self) -> bool:
        """Whether all that comes out of it is."""
        found = [one.total() for one in self.sums.values()] + [seed[3] for seed in self.handed_on]
        arrays = [g.values if isinstance(g, RowSparse) else g for g in found]
        if not arrays or not devices.is_on_gpu(arrays[0]):
            return all(is_finite(a) for a in arrays)
        sums = [a.sum() for a in arrays]
        return bool(np.isfinite(float(sum(sums[1:], sums[0]))))  # one wait for the device


def _of_run(run: Run, given: list[tuple[int, int, Array]], hooked: Mapping[int, Hooked]) -> _Done:
    """The backward of one run. The calls of a cell take part with all of their results; where only some are reached and
    the slope of another is infinite, NaNs come of it, and it is done again with these alone. So it is done at once
    where the others are all that reaches some parameter or operand, whose gradient would be zero instead of None."""
    structure, nodes = run.plan.structure, [node for node, _, _ in given]
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


def _if_finite(run: Run, given: list[tuple[int, int, Array]], done: _Done, hooked: Mapping[int, Hooked]) -> _Done:
    """What is done, if it is finite or nobody asked."""
    if run.way.checked and not done.is_finite():
        way = _known_way(run, [node for node, _, _ in given])
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


MOST_WAYS, MOST_FOUND = 8, 64  # that are kept with a plan


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


def _done(run: Run, given: list[tuple[int, int, Array]], way: WayBack, hooked: Mapping[int, Hooked]) -> _Done:
    sums, rows = Sums(), list[ParameterRows]()
    arena = _run_backward(run, given, way, sums, rows, hooked)
    return _Done(arena, way.active, sums, rows, _handed_on(run, arena, way.sources))


def _run_backward(
    run: Run,
    given: list[tuple[int, int, Array]],
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


def _cotangents(run: Run, given: list[tuple[int, int, Array]]) -> Arena:
    """An arena of cotangents: zeros, but for those that are given; a number of the host needs no copy."""
    sizes = run.plan.layout.floating
    arena = Arena(run.device, sizes, run.arena.brought)
    for dtype, size in sizes.items():
        arena.buffers[dtype][:size] = 0
    for _, offset, cotangent in given:
        flat = arena.buffers[cotangent.dtype][offset : offset + cotangent.size]
        is_number = run.device != "cpu" and cotangent.size == 1 and not devices.is_on_gpu(cotangent)
        flat += cotangent.item() if is_number else devices.to_device(cotangent.reshape(-1), run.device)
    return arena


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
    found, cells = launches(graph, plan.schedule, plan.offsets, mine)
    whole = {id(c.signature): calls for c, calls in zip(plan.cells, run.calls, strict=True)}
    calls = [_some_calls(whole[id(c.signature)], c, hot) for c in cells]
    at_once = parameter_launches(graph, plan.schedule.launch, plan.offsets, found, mine)
    steps = tuple([bound_of(launch) for launch in found])
    return steps, bound_among(at_once, steps), calls


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


def _handed_on(run: Run, arena: Arena, sources: Sequence[Any]) -> list[tuple[Run, int, int, Array]]:
    """Cotangents of the values that the run had of earlier runs, as seeds for those."""
    found = []
    for number, step, rows in sources:
        dtype, values = step.signature.type.dtype, run.plan.brought[number]
        some = [i for i in rows if run.known_runs[values[i]].way.differentiable]
        if not some:
            continue
        g = step.out.read(arena).copy()
        for i in some:
            source, offset = run.known_runs[values[i]], run.known_places[values[i]]
            found.append((source, node_at(source, offset, dtype), offset, g[i]))
    return found


def node_at(run: Run, offset: int, dtype: DType) -> int:
    """The node whose memory holds the element at ``offset``: views lie inside the node that they show."""
    kept, key = run.plan.bound.setdefault("nodes", {}), (offset, dtype)
    node: int | None = kept.get(key)
    if node is None:
        node = _node_at(run, offset, dtype)
        if len(kept) < MOST_FOUND:
            kept[key] = node
    return node


def _node_at(run: Run, offset: int, dtype: DType) -> int:
    launch = next(
        (
            item
            for item in run.plan.launches
            if item.signature.type.dtype == dtype
            and item.writes.offset <= offset < item.writes.offset + item.writes.count * item.writes.width
        ),
        None,
    )
    if launch is not None:
        row, counts = (offset - launch.writes.offset) // launch.writes.width, run.plan.structure.counts
        ends = None if counts is None else np.cumsum(counts[launch.nodes])
        return int(launch.nodes[row if ends is None else np.searchsorted(ends, row, side="right")])
    graph = run.plan.structure
    for node in graph.results.tolist():
        kind = graph.signatures[graph.signature[node]].type
        if kind.dtype == dtype and 0 <= offset - run.plan.offsets[node] < max(kind.size, 1):
            return int(node)
    raise LookupError(f"no node of dtype {dtype} lies at {offset}")

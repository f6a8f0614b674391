"""Forward, from roots to what is noted on their tapes: graph, plan and run, or what was recorded before.

What is computed is remembered on the tapes: where each row's value lies. A value asked for in the middle is a root
like any other; what it needed is not computed again by a later forward, unless a parameter has changed in between.
Where the package was compiled, this is of C: a small run costs little more than what stands here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lazyflow import device as devices
from lazyflow import passes, settings
from lazyflow.cells.chains import Chains, with_chains
from lazyflow.core.arrays import Ints
from lazyflow.graph.graph import Graph, awaited, collect, drawn_anew, reached_tapes, tape_parts
from lazyflow.graph.joined import with_joined_rows, with_loops
from lazyflow.graph.repeats import may_repeat, repeats_merged
from lazyflow.plan.plan import Plan, graph_schedule, make
from lazyflow.plan.plans import Plans
from lazyflow.plan.recorded import Sources, again, alone, are_whole, key_of, known_of, sources_of, whole_tapes
from lazyflow.plan.schedule import Choices
from lazyflow.record.expr import Expr
from lazyflow.record.tape import Computed, Tape, signature_by_id
from lazyflow.run import settle
from lazyflow.run.check import check_finite
from lazyflow.run.execute import Run, any_stale, check_recorded, execute
from lazyflow.run.needs import out_of_memory
from lazyflow.run.roots import owners_of
from lazyflow.run.way import RunWay, way_of
from lazyflow.settings import Settings
from lazyflow.threads import quietly

# What "phases" has learned about recurrent components. It never changes a value, only how fast it comes.
CHOICES = Choices()

# Plans by structure. They never change a value either: see `lazyflow.plan.plans`.
PLANS = Plans()

# Elementwise nodes that stand together, as one node: see `lazyflow.cells.chains`.
CHAINS = Chains()

# Runs that hold memory: see `lazyflow.run.settle`.
SETTLING = settle.Settling()


def plan_of(graph: Graph, batching: str, *, reuse: bool = False) -> Plan:
    """Schedule and plan a graph, or take the plan of one of equal structure."""

    def made() -> Plan:
        return make(graph, graph_schedule(graph, batching, CHOICES), reuse=reuse)

    return PLANS.plan(graph, (batching, reuse), made)


def reduced(graph: Graph, way: RunWay) -> Graph:
    """The graph that is scheduled: equal nodes are one, nodes of rows are joined (see `lazyflow.graph.joined`), and
    chains of elementwise nodes are one where they pay (see `lazyflow.cells.chains`), unless each node is to be run, or
    checked, as it was recorded."""
    if way.dedupe:
        graph = repeats_merged(graph)
    if way.batching == "none" or way.checked:
        return graph
    graph = with_joined_rows(graph)
    if way.device == "cpu":  # elsewhere many small kernels take longer than a few batches
        graph = with_loops(graph)
    return with_chains(graph, CHAINS) if passes.chains is not None and way.fuse in CHAINS.fusions else graph


def compute(roots: Sequence[Expr]) -> None:
    """Compute the roots, after what they need from the other side of ``no_grad`` blocks."""
    options = settings.current()
    profile = options.profile
    before = "" if profile is None else profile.switch("schedule")
    tape = alone(roots)
    if tape is None or not _compute_alike(roots, tape, options, at_once=True):
        _compute_after_others(roots, options)
    if profile is not None:  # after an error, whoever counts goes on with a part of its own
        profile.switch(before)


def _compute_after_others(roots: Sequence[Expr], options: Settings) -> None:
    stack = [list(roots)]
    while stack:
        reached = reached_tapes(stack[-1], anew=False)
        first = awaited(reached)
        if first:
            stack.append(first)
        elif _compute_alike(stack[-1], reached, options):
            stack.pop()


def _compute_alike(roots: Sequence[Expr], reached: list[Tape], options: Settings, at_once: bool = False) -> bool:
    """Compute the roots, which rest on the tapes ``reached``, all of each if ``at_once``; if a value that they rest on
    is stale, only forget all that they rest on, and return False."""
    way = way_of(roots, reached, options)  # first: it counts who refers to a tape
    tapes, parts = reached, None
    if not at_once:
        parts = tape_parts(reached, roots, anew=False)
        tapes = [tape for tape, _, _ in parts]
    for tape in reached:
        tape.seal()
    key = key_of(tapes, roots, way) if parts is None or are_whole(parts) else None
    found = None if key is None else PLANS.of_recording(key, tapes)
    if found is not None:
        known = sources_of(found, tapes)
    else:
        graph = collect(roots, parts=whole_tapes(tapes) if parts is None else parts)
        known = known_of(graph)
    if any_stale(known.runs):
        forget(roots)
        return False
    if found is not None:
        _run(roots, tapes, again(found, tapes), way, known, options)
    elif len(graph):
        plan = _planned(graph, tapes, way, key)
        _run(roots, tapes, plan, way, known_of(plan.structure), options)
    return True


def _planned(graph: Graph, tapes: Sequence[Tape], way: RunWay, key: object) -> Plan:
    """The plan of a graph, kept by the columns that it was collected from."""
    counted = (
        way.others and not way.checked and _nbytes_of_values(graph) > KEPT and all(t.handles is not None for t in tapes)
    )
    reuse = not way.differentiable and not way.checked and (counted or not way.others)
    by_payload = way.dedupe and may_repeat(graph)
    ints = drawn_anew(graph, tapes, graph.ints)
    graph = _with_kept(graph if ints is graph.ints else replace(graph, ints=ints), counted)
    plan = plan_of(reduced(graph, way), way.batching, reuse=reuse)
    if not counted:
        PLANS.keep_recording(key, tapes, plan, by_payload)
    return plan


def _run(
    roots: Sequence[Expr],
    tapes: list[Tape],
    plan: Plan,
    way: RunWay,
    known: Sources,
    options: Settings,
) -> None:
    """Run a plan that needs these values of earlier runs, and note where the values of the tapes lie now."""
    check_recorded(plan.layout.kinds)
    if SETTLING.waiting:
        SETTLING.settle(owners_of(roots))
    profile = options.profile
    before = "" if profile is None else profile.switch("forward")
    try:
        with quietly(options.threads):
            if way.device == "cpu":
                run = _executed(roots, tapes, plan, way, known)
            else:
                with devices.on(way.device), devices.products(way.device, options.tf32):
                    run = _executed(roots, tapes, plan, way, known)
        if plan.layout.nbytes >= settle.LEAST:
            SETTLING.add(run, owners_of(roots))
    except MemoryError as error:
        raise out_of_memory(error, plan, way, "a forward") from error
    if profile is not None:
        profile.switch(before)


def _executed(roots: Sequence[Expr], tapes: list[Tape], plan: Plan, way: RunWay, known: Sources) -> Run:
    run = Run(plan, way, tuple([weakref.ref(tape) for tape in tapes]), known)
    execute(run)
    if way.checked:
        check_finite(run, roots)
    _note_run(run, tapes)
    return run


# Under `no_grad` the values that somebody holds an expression of are kept. Where a graph has at most so many bytes, and
# where nobody counts expressions, all are.
KEPT = 1 << 24


def _nbytes_of_values(graph: Graph) -> int:
    """Bytes of the values of all nodes."""
    counts = np.bincount(graph.signature, minlength=len(graph.signatures)).tolist()
    kinds = [s.type for s in graph.signatures]
    return sum(n * kind.size * kind.dtype.itemsize for n, kind in zip(counts, kinds, strict=True))


def _with_kept(graph: Graph, counted: bool) -> Graph:
    """The graph with more roots, so that their values are kept: the rows that somebody holds an expression of, where
    they are ``counted``, and those whose first value is to be remembered."""
    places = [place for _, _, place in watched_places(graph, lambda tape: tape.remembered)]
    places += _held_places(graph) if counted else ()
    bases = {(graph.node_of(graph.tape_base[place]), int(graph.tape_shift[place])) for place in places}
    kept = {(node, shift) for node, shift in bases if node is not None} - set(graph.roots)
    return replace(graph, roots=(*graph.roots, *sorted(kept))) if kept else graph


def watched_places(graph: Graph, entries: Callable[[Tape], Iterable[int]]) -> Iterator[tuple[Tape, int, int]]:
    """Those rows of a graph's tapes that have entries: tape, row, and the number of the row through all tapes."""
    for number, reference in enumerate(graph.tapes):
        tape = reference()
        for row in list(entries(tape)) if tape is not None else ():
            place = int(graph.tape_starts[number]) + row - int(graph.tape_lows[number])
            if tape is not None and graph.tape_starts[number] <= place < graph.tape_starts[number + 1]:
                yield tape, row, place


def _held_places(graph: Graph) -> Iterator[int]:
    """The rows that somebody holds an expression of, numbered through all tapes."""
    for number, reference in enumerate(graph.tapes):
        tape, start, low = reference(), int(graph.tape_starts[number]), int(graph.tape_lows[number])
        if tape is not None:
            high = low + int(graph.tape_starts[number + 1]) - start
            yield from [row - low + start for row in tape.handles.held(low, high)]


def _note_run(run: Run, tapes: Sequence[Tape]) -> None:
    """Note on the tapes where the values of their rows lie now."""
    if len(tapes) == 1 and _note_first(run, tapes[0]):
        return
    graph, places = run.plan.structure, run.plan.places
    starts, lows = graph.tape_starts.tolist(), graph.tape_lows.tolist()
    first = 0
    for number, tape in enumerate(tapes):
        if number + 1 == len(tapes) or tapes[number + 1] is not tape:  # the parts of a tape stand behind each other
            _note(tape, run, places, [(lows[k], starts[k], starts[k + 1]) for k in range(first, number + 1)])
            first = number + 1


def _note_first(run: Run, tape: Tape) -> bool:
    """Note on a tape that has no values yet where those of a plan lie that is for the whole of it, and known; return
    False if that is not how it is."""
    first = run.plan.first or run.plan
    if first.structure.tapes or tape.computed is not None or tape.remembered:
        return False
    tape.computed = Computed([run], *first.noted, [(0, len(tape))])
    return True


def _note(tape: Tape, run: Run, places: Ints, parts: Sequence[tuple[int, int, int]]) -> None:
    """``parts``: of each part of the tape, its first row, and the range of its rows among those of all tapes."""
    for row in [row for row in tape.remembered if _place_of(row, parts, places) >= 0]:
        kind = signature_by_id(tape.signatures[row]).type
        tape.remembered.pop(row).append(run.value(_place_of(row, parts, places), kind))
    computed = tape.computed
    if computed is None:
        nowhere = np.full(len(tape), -1, np.int32), np.zeros(len(tape), np.int64)
        computed = tape.computed = Computed([], *nowhere, [])
    elif not computed.run_of.flags.writeable:  # of `_note_first`
        computed.run_of, computed.offset_of = computed.run_of.copy(), computed.offset_of.copy()
    # First: an interrupt must not leave rows that point to no run, or that are never forgotten.
    computed.touched += [(low, low + end - start) for low, start, end in parts]
    computed.runs.append(run)
    for low, start, end in parts:
        some, rows = places[start:end], slice(low, low + end - start)
        found = some >= 0
        np.copyto(computed.offset_of[rows], some, where=found)
        np.copyto(computed.run_of[rows], len(computed.runs) - 1, where=found, casting="unsafe")


def _place_of(row: int, parts: Sequence[tuple[int, int, int]], places: Ints) -> int:
    return next((int(places[row - low + start]) for low, start, end in parts if 0 <= row - low < end - start), -1)


def forget(roots: Sequence[Expr], *, draw_anew: bool = True) -> None:
    """Drop what was computed below the roots; random nodes draw anew the next time, unless values are to stay as they
    were."""
    for tape in reached_tapes(roots, anew=True):
        if tape.runs:
            if draw_anew:  # first: what rests on its values is stale, wherever an interrupt comes
                for run in tape.runs:
                    run.supersede()
                tape.generation += 1
            tape.forget()

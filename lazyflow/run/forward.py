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
from lazyflow.graph.graph import Graph, collect, drawn_anew
from lazyflow.graph.joined import with_joined_rows, with_loops
from lazyflow.graph.reading import Reading, are_parts, awaited, position_of, readings_of
from lazyflow.graph.repeats import may_repeat, repeats_merged
from lazyflow.plan.plan import Plan, graph_schedule, make
from lazyflow.plan.plans import Plans
from lazyflow.plan.recorded import Sources, again, alone, key_of, known_of, sources_of
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
    readings = alone(roots)
    if readings is None or not _compute_alike(roots, readings, options):
        readings = None
        _compute_after_others(roots, options)
    if profile is not None:  # after an error, whoever counts goes on with a part of its own
        profile.switch(before)


def _compute_after_others(roots: Sequence[Expr], options: Settings) -> None:
    stack = [list(roots)]
    while stack:
        readings = readings_of(stack[-1], anew=False)
        first = awaited(readings)
        if first:
            stack.append(first)
        elif _compute_alike(stack[-1], readings, options):
            stack.pop()


def _compute_alike(roots: Sequence[Expr], readings: list[Reading], options: Settings) -> bool:
    """Compute the roots, which need these; if a value that they rest on is stale, only forget all that they rest on,
    and return False."""
    way = way_of(roots, readings, options)  # first: it counts who refers to a tape
    key = key_of(readings, roots, way)
    found = PLANS.of_recording(key, readings)
    if found is not None:
        known = sources_of(found, readings)
    else:
        graph = collect(roots, readings=readings)
        known = known_of(graph)
    if any_stale(known.runs):
        forget(roots)
        return False
    if found is not None:
        _run(roots, readings, again(found, readings), way, known, options)
    elif len(graph):
        plan = _planned(graph, readings, way, key)
        _run(roots, readings, plan, way, known_of(plan.structure), options)
    return True


def _planned(graph: Graph, readings: Sequence[Reading], way: RunWay, key: object) -> Plan:
    """The plan of a graph, kept by the columns that it was collected from."""
    counted = (
        way.others
        and not way.checked
        and _nbytes_of_values(graph) > KEPT
        and all(reading.tape.handles is not None for reading in readings)
    )
    reuse = not way.differentiable and not way.checked and (counted or not way.others)
    by_payload = way.dedupe and may_repeat(graph)
    ints = drawn_anew(graph, readings, graph.ints)
    graph = _with_kept(graph if ints is graph.ints else replace(graph, ints=ints), counted)
    plan = plan_of(reduced(graph, way), way.batching, reuse=reuse)
    if not counted:
        PLANS.keep_recording(key, readings, plan, by_payload)
    return plan


def _run(
    roots: Sequence[Expr],
    readings: list[Reading],
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
                run = _executed(roots, readings, plan, way, known)
            else:
                with devices.on(way.device), devices.products(way.device, options.tf32):
                    run = _executed(roots, readings, plan, way, known)
        # A run of roots that are kept is held by their tape, with its plan, until these very roots are asked for again.
        if plan.layout.nbytes >= settle.LEAST or are_parts(readings):
            SETTLING.add(run, owners_of(roots))
    except MemoryError as error:
        raise out_of_memory(error, plan, way, "a forward") from error
    if profile is not None:
        profile.switch(before)
        if profile.plans is not None:
            profile.plans.append(plan)


def _executed(
    roots: Sequence[Expr], readings: list[Reading], plan: Plan, way: RunWay, known: Sources
) -> Run:  # fmt: skip
    tapes = tuple([weakref.ref(reading.tape) for reading in readings])
    run = Run(plan, way, tapes, known, tuple([reading.rows for reading in readings]))
    execute(run)
    if way.checked:
        check_finite(run, roots)
    _note_run(run, readings)
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
        if tape is not None and (rows := list(entries(tape))):
            yield from [(tape, row, place) for row, place in graph.places_of(number, rows)]


def _held_places(graph: Graph) -> Iterator[int]:
    """The rows that somebody holds an expression of, numbered through all tapes."""
    for number, reference in enumerate(graph.tapes):
        tape = reference()
        if tape is not None:
            held = tape.handles.held_among(graph.rows[number])
            yield from [place for _, place in graph.places_of(number, held)]


def _note_run(run: Run, readings: Sequence[Reading]) -> None:
    """Note on the tapes where the values of their rows lie now."""
    if len(readings) == 1 and _note_first(run, readings[0].tape):
        return
    places, starts = run.plan.places, run.plan.structure.tape_starts.tolist()
    for number, reading in enumerate(readings):
        _note(reading.tape, run, places[starts[number] : starts[number + 1]], reading.rows)


def _note_first(run: Run, tape: Tape) -> bool:
    """Note on a tape that has no values yet where those of a plan lie that is for the whole of it, and known; return
    False if that is not how it is."""
    first = run.plan.first or run.plan
    if first.structure.tapes or run.rows[0] is not None or tape.computed is not None or tape.remembered:
        return False
    tape.computed = Computed([run], *first.noted, [None])
    return True


def _note(tape: Tape, run: Run, places: Ints, rows: Ints | None) -> None:
    """``places``: where the values of the ``rows`` of the tape lie, or of all, -1 where there is none."""
    for row in list(tape.remembered):
        position = position_of(rows, row)
        if position >= 0 and places[position] >= 0:
            kind = signature_by_id(tape.signatures[row]).type
            tape.remembered.pop(row).append(run.value(int(places[position]), kind))
    computed = tape.computed
    if computed is None:
        run_of = np.empty(len(tape), np.int32)
        run_of.fill(-1)
        computed = tape.computed = Computed([], run_of, np.zeros(len(tape), np.int64), [])
    elif not computed.run_of.flags.writeable:  # of `_note_first`
        computed.run_of, computed.offset_of = computed.run_of.copy(), computed.offset_of.copy()
    # First: an interrupt must not leave rows that point to no run, or that are never forgotten.
    computed.touched.append(rows)
    computed.runs.append(run)
    passes.note_places(computed.run_of, computed.offset_of, rows, places, len(computed.runs) - 1)


def forget(roots: Sequence[Expr], *, draw_anew: bool = True) -> None:
    """Drop what was computed below the roots; random nodes draw anew the next time, unless values are to stay as they
    were."""
    for tape in [reading.tape for reading in readings_of(roots, anew=True)]:
        if tape.runs:
            if draw_anew:  # first: what rests on its values is stale, wherever an interrupt comes
                for run in tape.runs:
                    run.supersede()
                tape.generation += 1
            tape.forget()

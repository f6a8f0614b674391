"""The engine: from roots to values and gradients. It ties graph, schedule, plan, execute and backward together.

What is computed is remembered on the tapes: where each row's value lies. A value asked for in the middle is a root
like any other; what it needed is not computed again by a later forward, unless a parameter has changed in between.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from lazyflow import device as devices
from lazyflow import fibers, passes, settings
from lazyflow.cells.chains import Chains, with_chains
from lazyflow.core.arrays import Ints
from lazyflow.device import Array, HostArray
from lazyflow.errors import CellError, DTypeError, GradientError, ShapeError, user_line
from lazyflow.graph.graph import (
    Graph,
    awaited,
    collect,
    drawn_anew,
    reached_tapes,
    tape_parts,
)
from lazyflow.graph.joined import with_joined_rows, with_loops
from lazyflow.graph.repeats import may_repeat, repeats_merged
from lazyflow.hooks import through
from lazyflow.locks import Lock, together
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.arena import Arena
from lazyflow.plan.plan import Plan, graph_schedule, make
from lazyflow.plan.plans import Plans
from lazyflow.plan.recorded import RunWay, again, alone, key_of, sources_of, way_of, whole_tapes
from lazyflow.plan.schedule import Choices
from lazyflow.record import expr
from lazyflow.record.expr import Expr, Parameter, handle, own_array, value_of
from lazyflow.record.tape import CONSTANT_OP, IMPORT_OP, KNOWN_OP, VIEW_OP, Tape, payload_starts, signature_by_id
from lazyflow.run import settle
from lazyflow.run.backward import Hooked, accumulated
from lazyflow.run.backward import backward as run_backward
from lazyflow.run.check import check_finite
from lazyflow.run.execute import Run, any_stale, any_stale_source, check_recorded, execute, fused_by, printed_by
from lazyflow.run.needs import out_of_memory
from lazyflow.run.roots import alike, copies, missing, others_held, owners_of, runs_of, to_run, traced
from lazyflow.settings import tracing
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


def reduced(graph: Graph, device: str, checked: bool = False) -> Graph:
    """The graph that is scheduled: equal nodes are one, nodes of rows are joined (see `lazyflow.graph.joined`), and
    chains of elementwise nodes are one where they pay (see `lazyflow.cells.chains`), unless each node is to be run, or
    ``checked``, as it was recorded."""
    options = settings.current()
    if options.dedupe:
        graph = repeats_merged(graph)
    if options.batching == "none" or checked:
        return graph
    graph = with_joined_rows(graph)
    if device == "cpu":  # elsewhere many small kernels take longer than a few batches
        graph = with_loops(graph)
    fused = passes.chains is not None and fused_by(options.fuse, device) in CHAINS.fusions
    return with_chains(graph, CHAINS) if fused else graph


def _run(roots: Sequence[Expr]) -> None:
    """Compute the roots, after what they need from the other side of ``no_grad`` blocks."""
    profile = settings.current().profile
    before = "" if profile is None else profile.switch("schedule")
    tape = alone(roots)
    if tape is None or not _run_alike(roots, tape, at_once=True):
        _run_after_others(roots)
    if profile is not None:  # after an error, whoever counts goes on with a part of its own
        profile.switch(before)


def _run_after_others(roots: Sequence[Expr]) -> None:
    stack = [list(roots)]
    while stack:
        reached = reached_tapes(stack[-1], anew=False)
        first = awaited(reached)
        if first:
            stack.append(first)
        elif _run_alike(stack[-1], reached):
            stack.pop()


def _run_alike(roots: Sequence[Expr], reached: Sequence[Tape], at_once: bool = False) -> bool:
    """Compute the roots, which rest on the tapes ``reached``, all of each if ``at_once``; if a value that they rest on
    is stale, only forget all that they rest on, and return False."""
    way = _run_way(roots, reached)  # first: it counts who refers to a tape
    parts = whole_tapes(reached) if at_once else tape_parts(reached, roots, anew=False)
    tapes = reached if at_once else [tape for tape, _, _ in parts]
    for tape in reached:
        tape.seal()
    key = key_of(parts, roots, way)
    found = PLANS.of_recording(key, tapes)
    graph = collect(roots, parts=parts) if found is None else None
    sources = [] if found is None else sources_of(found, tapes)
    if any_stale_source(sources) if graph is None else any_stale(list(cast("tuple[Run, ...]", graph.known_run))):
        _forget(roots)
        return False
    if found is not None:
        _compute(roots, tapes, again(found, tapes, sources), way)
    elif graph is not None and len(graph):
        _compute(roots, tapes, _planned(graph, tapes, way, key), way)
    return True


def _run_way(roots: Sequence[Expr], reached: Sequence[Tape]) -> RunWay:
    options, root = settings.current(), roots[0]
    others = not root.tape.grad and (others_held(roots, reached) or _others_referred(roots, reached))
    return way_of(options, root, reached, printed_by(options, root.type.device), others)


def _planned(graph: Graph, tapes: Sequence[Tape], way: RunWay, key: object) -> Plan:
    """The plan of a graph, kept by the columns that it was collected from."""
    counted = (
        way.others and not way.checked and _nbytes_of_values(graph) > KEPT and all(t.handles is not None for t in tapes)
    )
    reuse = not way.differentiable and not way.checked and (counted or not way.others)
    by_payload = way.dedupe and may_repeat(graph)
    ints = drawn_anew(graph, tapes, graph.ints)
    graph = _with_kept(graph if ints is graph.ints else replace(graph, ints=ints), counted)
    plan = plan_of(reduced(graph, way.device, way.checked), way.batching, reuse=reuse)
    if not counted:
        PLANS.keep_recording(key, tapes, plan, by_payload)
    return plan


def _compute(roots: Sequence[Expr], tapes: Sequence[Tape], plan: Plan, way: RunWay) -> None:
    """Run a plan, and note where the values of the tapes lie now."""
    check_recorded(plan.layout.kinds)
    if SETTLING.waiting:
        SETTLING.settle(owners_of(roots))
    options = settings.current()
    profile = options.profile
    before = "" if profile is None else profile.switch("forward")
    try:
        with quietly(options.threads), devices.on(way.device), devices.products(way.device, options.tf32):
            run = _ran(plan, way, roots)
            _note_run(run, tapes)
            if plan.layout.nbytes >= settle.LEAST:
                SETTLING.add(run, owners_of(roots))
    except MemoryError as error:
        raise out_of_memory(error, plan, way.device, way.differentiable, way.fuse, "a forward") from error
    if profile is not None:
        profile.switch(before)


def _ran(plan: Plan, way: RunWay, roots: Sequence[Expr]) -> Run:
    run = Run(plan, way.device, way.differentiable, way.fuse)
    execute(run)
    if way.checked:
        check_finite(run, roots)
    return run


# Under `no_grad` the values that somebody holds an expression of are kept. Where a graph has at most so many bytes, and
# where nobody counts expressions, all are.
KEPT = 1 << 24


def _reference_counts(tapes: Sequence[object]) -> list[int]:
    return [sys.getrefcount(tape) for tape in tapes]


_NOBODY = _reference_counts([object()])[0]


def _others_referred(roots: Sequence[Expr], reached: Sequence[Tape]) -> bool:
    """Whether somebody refers to these tapes who has nothing to do with the roots: another tape, which imports values
    of them, or, where nobody counts expressions, somebody who may hold others than the roots."""
    distinct = list(reached)
    known = Counter(id(tape) for tape in reached)
    known.update(id(tape) for tape in {id(e): e.tape for e in roots}.values())
    known.update(id(source) for tape in distinct for source, _ in tape.imports)
    counts = zip(distinct, _reference_counts(distinct), strict=True)
    return any(count > _NOBODY + known[id(tape)] for tape, count in counts)


def _nbytes_of_values(graph: Graph) -> int:
    """Bytes of the values of all nodes."""
    counts = np.bincount(graph.signature, minlength=len(graph.signatures)).tolist()
    kinds = [s.type for s in graph.signatures]
    return sum(n * kind.size * kind.dtype.itemsize for n, kind in zip(counts, kinds, strict=True))


def _with_kept(graph: Graph, counted: bool) -> Graph:
    """The graph with more roots, so that their values are kept: the rows that somebody holds an expression of, where
    they are ``counted``, and those whose first value is to be remembered."""
    places = [place for _, _, place in _watched_places(graph, lambda tape: tape.remembered)]
    places += _held_places(graph) if counted else ()
    bases = {(graph.node_of(graph.tape_base[place]), int(graph.tape_shift[place])) for place in places}
    kept = {(node, shift) for node, shift in bases if node is not None} - set(graph.roots)
    return replace(graph, roots=(*graph.roots, *sorted(kept))) if kept else graph


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
            parts = [(lows[k], starts[k], starts[k + 1]) for k in range(first, number + 1)]
            tape.touched += [(low, low + end - start) for low, start, end in parts]  # first: see `_note`
            _note(tape, run, places, parts)
            first = number + 1


def _note_first(run: Run, tape: Tape) -> bool:
    """Note on a tape that has no values yet where those of a plan lie that is for the whole of it, and known; return
    False if that is not how it is."""
    if run.plan.first is None or tape.run_of is not None or tape.remembered:
        return False
    tape.touched.append((0, len(tape)))  # first: see `_note`
    tape.runs.append(run)
    tape.run_of, tape.offset_of = run.plan.first.noted
    return True


def _note(tape: Tape, run: Run, places: Ints, parts: Sequence[tuple[int, int, int]]) -> None:
    """``parts``: of each part of the tape, its first row, and the range of its rows among those of all tapes."""
    if tape.run_of is None or tape.run_of.shape[0] != len(tape):
        tape.run_of, tape.offset_of = np.full(len(tape), -1, np.int32), np.zeros(len(tape), np.int64)
    elif not tape.run_of.flags.writeable:  # of `_note_first`
        tape.run_of, tape.offset_of = tape.run_of.copy(), tape.offset_of.copy()
    for row in [row for row in tape.remembered if _place_of(row, parts, places) >= 0]:
        kind = signature_by_id(tape.signatures[row]).type
        tape.remembered.pop(row).append(run.value(_place_of(row, parts, places), kind))
    tape.runs.append(run)  # first: an interrupt must not leave rows that point to no run, or that are never forgotten
    for low, start, end in parts:
        some, rows = places[start:end], slice(low, low + end - start)
        found = some >= 0
        np.copyto(tape.offset_of[rows], some, where=found)
        np.copyto(tape.run_of[rows], len(tape.runs) - 1, where=found, casting="unsafe")


def _place_of(row: int, parts: Sequence[tuple[int, int, int]], places: Ints) -> int:
    return next((int(places[row - low + start]) for low, start, end in parts if 0 <= row - low < end - start), -1)


def _forget(roots: Sequence[Expr], *, draw_anew: bool = True) -> None:
    """Drop what was computed below the roots; random nodes draw anew the next time, unless values are to stay as they
    were."""
    for tape in reached_tapes(roots, anew=True):
        if tape.runs:
            if draw_anew:  # first: what rests on its values is stale, wherever an interrupt comes
                for run in tape.runs:
                    run.supersede()
                tape.generation += 1
            tape.forget()


def _refuse_in_cells(roots: Sequence[Expr]) -> None:
    trace = traced(roots) or tracing()
    if trace is not None:
        raise CellError(
            f"{user_line()}: a value is asked for inside the {trace.name}, whose body is recorded only once, for calls "
            "that have not been made: return the expression and ask outside, use lf.where in place of an if, or leave "
            "lf.cell off"
        )


Method = TypeVar("Method", bound=Callable[..., object])


def _undisturbed(method: Method) -> Method:
    """A method that computes its roots while no other thread computes what they rest on: what is known of a tape, and
    what lies in the arenas of its runs, changes."""

    def locked(engine: Engine, roots: object, *args: object) -> object:
        if type(roots) is Expr and len(roots.tape.owners) == 1:  # most often: one value, of this thread alone
            (owner,) = roots.tape.owners
            with owner.lock:
                return method(engine, roots, *args)
        owners = owners_of(roots if isinstance(roots, list | tuple) else [roots])
        return together(sorted(owners, key=lambda o: o.number), method, engine, roots, *args)

    @functools.wraps(method)
    def computing(engine: Engine, roots: object, *args: object) -> object:
        example = fibers.current_example()
        if example is None or (type(roots) is Expr and not args and roots.tape.has_value(roots.row)):
            return locked(engine, roots, *args)
        if _waited(example, roots if isinstance(roots, list | tuple) else [roots], *args):
            return None
        example.busy += 1
        try:
            return locked(engine, roots, *args)
        finally:
            example.busy -= 1

    return computing  # type: ignore[return-value]


def _waited(example: fibers.Example, roots: Sequence[object], *cotangents: Array) -> bool:
    """Let an example of `lazyflow.map` wait until what it asks for was computed, together with what others ask for.
    Return whether that is all, as it is of a backward."""
    wanted = [e for e in roots if isinstance(e, Expr) and not isinstance(e, Parameter)]
    found = wanted if cotangents else missing(wanted)
    if len(wanted) < len(roots) or not found or not example.waits():
        return False
    _refuse_in_cells(found)
    return example.wait(found, *cotangents)


class Engine:
    """The evaluator that expressions are bound to."""

    @_undisturbed
    def forward(self, roots: Sequence[Expr]) -> None:
        """Make the roots' values those under the current parameters."""
        self._forward(roots)

    def _forward(self, roots: Sequence[object]) -> None:
        wanted = to_run(roots)
        _refuse_in_cells(wanted)
        runs = runs_of(wanted)
        if any_stale(runs):
            check_recorded({kind for run in runs for kind in run.rests_on})  # before anything is forgotten
            _forget(wanted)
        self._run_missing(wanted)

    def _run_missing(self, wanted: Sequence[Expr]) -> None:
        """Compute what has no value yet."""
        while found := missing(wanted):
            _run(alike(found))

    def host_value(self, root: Expr) -> HostArray:
        """The same on the host. An example of a map waits for it, and is given it, together with the others."""
        example = fibers.current_example()
        if example is None or root.tape.has_value(root.row) or not example.waits():
            return self._on_host(root)
        if root.tape.trace is not None or tracing() is not None:
            _refuse_in_cells((root,))
        answer: HostArray | None = example.ask(root)
        if answer is not None:
            return answer
        example.busy += 1  # it computes by itself what the others could not, and waits no more
        try:
            return self._on_host(root)
        finally:
            example.busy -= 1

    @_undisturbed
    def answers(self, roots: Sequence[Expr]) -> list[HostArray]:
        """Copies of the values of several roots on the host, which come from a device all at once."""
        self._run_missing(roots)
        places = {run.device for run in runs_of(roots)}
        if places <= {"cpu"} or len(places) > 1 or len({e.type.dtype for e in roots}) > 1:
            return copies(roots)
        return _downloaded(roots, places.pop())

    @_undisturbed
    def value(self, root: Expr) -> Array:
        """A copy of the root's value; computes it if it is not there yet."""
        shown = self._made(root)
        if shown is not None:
            return shown
        run, offset = root.tape.place_of(root.row)
        if run.device == "cpu" == root.type.device:
            return run.value(offset, root.type)
        with devices.on(run.device):  # not the root's, where that rests on no parameter: see `expr.on_one_device`
            return devices.to_device(run.value(offset, root.type), root.device)

    @_undisturbed
    def _on_host(self, root: Expr) -> HostArray:
        """The same on the host: from a device it is one copy."""
        shown = self._made(root)
        if shown is not None:
            return devices.to_host(shown)
        run, offset = root.tape.place_of(root.row)
        found: HostArray = run.downloaded(offset, root.type)
        return found

    def _made(self, root: Expr) -> Array | None:
        """See to it that the root has a value; or answer with a copy of it, where no run is needed for that."""
        _refuse_in_cells((root,))
        if not root.tape.has_value(root.row):
            shown = _shown(root)
            if shown is not None:
                return shown
            self._run_missing((root,))
        return None

    def backward(self, root: Expr, cotangent: Array | None) -> None:
        """Add the gradients of ``root`` to its parameters; none of them if it is interrupted, or if a hook raises."""
        self.backward_all([root], [cotangent])

    @_undisturbed
    def backward_all(self, roots: Sequence[Expr], cotangents: Sequence[Array | None]) -> None:
        """As `backward`, of several roots of one device as one."""
        profile = settings.current().profile
        if profile is None:
            self._backward(roots, cotangents)
        else:
            with profile.counting("backward"):
                self._backward(roots, cotangents)

    def _backward(self, roots: Sequence[Expr], cotangents: Sequence[Array | None]) -> None:
        _refuse_in_cells(to_run(roots))
        seeds = [_cotangent(root, given) for root, given in zip(roots, cotangents, strict=True)]
        if isinstance(roots[0], Parameter):  # it stands alone
            with devices.on(roots[0].device):
                seed = devices.to_device(seeds[0], roots[0].device)
                _add_to_gradients([(roots[0], through(roots[0].hooks, seed))], [])
            return
        for root in roots:
            if not root.requires_grad:
                raise GradientError(_nothing_to_differentiate(root))
        self._forward(roots)
        for run in {id(run): run for run in [e.tape.place_of(e.row)[0] for e in roots]}.values():
            _check_trained(run)
        joined = _in_many_runs(roots)
        if joined:
            self._forward([*roots, *_forgotten(joined)])
        if any(_hides_watched(root) for root in roots):  # run again: what somebody watches is a node of its own then
            _forget(roots, draw_anew=False)
            self._forward(roots)
        try:
            _differentiate(roots, seeds)
        except MemoryError as error:
            run = roots[0].tape.place_of(roots[0].row)[0]
            plan, fuse = run.plan, run.fuse
            del run
            _forget(roots, draw_anew=False)  # what can be computed again is let go of
            raise out_of_memory(error, plan, roots[0].device, True, fuse, "a backward") from error


def _downloaded(roots: Sequence[Expr], device: str) -> list[HostArray]:
    """Copies of values of one dtype on the host, all in one transfer."""
    with devices.on(device):
        found = []
        for root in roots:
            run, offset = root.tape.place_of(root.row)
            found.append(devices.stretch(run.arena.buffers[root.type.dtype], offset, (root.type.size,)))
        whole = devices.to_host(devices.array_module(device).concatenate(found))
    ends = np.cumsum([root.type.size for root in roots]).tolist()
    return [whole[end - root.type.size : end].reshape(root.shape).copy() for root, end in zip(roots, ends, strict=True)]


SHORT = 32  # rows of a tape that are walked through to read a value in place: on more, a run costs less a value


def _shown(root: Expr) -> Array | None:
    """A copy of what a view shows of a constant, or of a value that an earlier run on the host has computed and that is
    as it was: elements of a vector that are looked at one by one. None where there is more to it."""
    tape = root.tape
    if len(tape) > SHORT or tape.trace is not None or tape.lines is not None or root.row in tape.remembered:
        return None
    ints, operands = payload_starts(tape)
    if ints[-1] != len(tape.ints) or operands[-1] != len(tape.operands):
        return None  # it is not whole, and a run says so
    tape.seal()  # as a run does: what is long-lived is not to hold all that comes after
    row, shift = root.row, 0
    while (op := signature_by_id(tape.signatures[row]).op) is VIEW_OP:
        shift += tape.ints[ints[row]]
        row = tape.operands[operands[row]]
    if op is CONSTANT_OP and type(tape.objects[row]) is np.ndarray and root.type.device == "cpu":
        return devices.stretch(tape.objects[row].reshape(-1), shift, root.type.shape).copy()
    if op is not IMPORT_OP:
        return None
    source, place = tape.imports[tape.ints[ints[row]]]
    if not source.has_value(place):
        return None
    run, offset = source.place_of(place)
    if run.is_stale() or not run.device == "cpu" == root.type.device:
        return None
    return run.value(offset + shift, root.type)


# A backward through more runs than this, of no more elements on the average, is one forward more and one run to go back
# through: a small run costs more beside its kernels, in either direction, than they do.
MANY_RUNS, SMALL_RUN = 8, 1 << 16


def _in_many_runs(roots: Sequence[Expr]) -> list[Tape]:
    """The tapes whose values were computed for roots that rest on many small runs, if they do."""
    runs: dict[int, Run] = {}
    stack = [e.tape.place_of(e.row)[0] for e in roots]
    while stack:
        run = stack.pop()
        if run.number not in runs and run.differentiable:
            runs[run.number] = run
            stack.extend([source for source, _ in run.known])
    sizes = sum(sum(run.plan.layout.sizes.values()) for run in runs.values())
    if len(runs) <= MANY_RUNS or sizes > SMALL_RUN * len(runs):
        return []
    tapes = [tape for tape in reached_tapes(roots, anew=True) if tape.grad and tape.runs and tape.handles is not None]
    return [tape for tape in tapes if all(run.number in runs for run in tape.runs)]


def _forgotten(tapes: Sequence[Tape]) -> list[Expr]:
    """Drop what was computed of these tapes, and return what somebody holds of it, which is to keep its value."""
    found = [
        handle(tape, row, signature_by_id(tape.signatures[row]).type)
        for tape in tapes
        for row in tape.handles.rows()
        if tape.has_value(row)
    ]
    for tape in tapes:
        tape.forget()
    return found


def _differentiate(roots: Sequence[Expr], cotangents: Sequence[Array]) -> None:
    """Add what a backward from computed roots finds."""
    places = [root.tape.place_of(root.row) for root in roots]
    seeds = [
        (run, _node_of(run, root), offset, cotangent)
        for (run, offset), root, cotangent in zip(places, roots, cotangents, strict=True)
    ]
    options, device = settings.current(), roots[0].device
    with devices.on(device):
        with quietly(options.threads), devices.products(device, options.tf32):
            retained: list[Retained] = []
            found = run_backward(seeds, partial(_retain, retained), _hooked)
        trained = [(p, gradient) for p, gradient in found.values() if p.requires_grad]  # some may be frozen since
        gradients = [(parameter, through(parameter.hooks, gradient)) for parameter, gradient in trained]
        _add_to_gradients(gradients, retained)


def _check_trained(run: Run) -> None:
    """Raise `GradientError` if a parameter of a kept root has a gradient by now, and had none when it was recorded, or
    if none has one any more."""
    pairs = [(kind, kind.parameter()) for kind in run.rests_on if kind.parameter is not None]
    alive = [(kind, p) for kind, p in pairs if p is not None and not kind.detached]
    thawed = next((p for kind, p in alive if p.requires_grad and not kind.requires_grad), None)
    if thawed is not None:
        raise GradientError(
            f"parameter {thawed.name or list(thawed.shape)} had requires_grad=False when this was recorded, and has "
            "requires_grad=True now: record it again for its gradient"
        )
    if not any(p.requires_grad for _, p in alive):
        raise GradientError(_NO_GRADIENT)


def _watched(run: Run, entries: Callable[[Tape], Mapping[int, Any]]) -> Iterator[tuple[Tape, int, int, Any]]:
    """Those of a tape's entries by row, hooks or retained gradients, whose rows this run has computed: tape, row, node
    and entry.

    A later run has a copy of the value, and a part of its gradient: `Tape.place_of` would find that one.
    """
    if not any(tape is not None and entries(tape) for tape in [reference() for reference in run.plan.tapes]):
        return  # as most often, and the graph is not asked for
    graph = run.plan.graph
    for tape, row, place in _watched_places(graph, entries):
        node = _computed_node(graph, place)
        if node is not None:
            yield tape, row, node, entries(tape)[row]


def _watched_places(graph: Graph, entries: Callable[[Tape], Iterable[int]]) -> Iterator[tuple[Tape, int, int]]:
    """Those rows of a graph's tapes that have entries: tape, row, and the number of the row through all tapes."""
    for number, reference in enumerate(graph.tapes):
        tape = reference()
        for row in list(entries(tape)) if tape is not None else ():
            place = int(graph.tape_starts[number]) + row - int(graph.tape_lows[number])
            if tape is not None and graph.tape_starts[number] <= place < graph.tape_starts[number + 1]:
                yield tape, row, place


def _hides_watched(root: Expr) -> bool:
    """Whether a run that the root rests on computed a watched row together with others, before anybody watched it."""
    seen: set[int] = set()
    stack = [root.tape.place_of(root.row)[0]]
    while stack:
        run = stack.pop()
        if run.number not in seen:
            seen.add(run.number)
            tapes = [reference() for reference in run.plan.tapes]
            if any(tape is not None and (tape.hooks or tape.retained) for tape in tapes):
                graph = run.plan.graph
                places = _watched_places(graph, lambda t: t.hooks | t.retained)
                if any(_is_hidden(graph, place) for _, _, place in places):
                    return True
            stack.extend([source for source, _ in run.known])
    return False


def _is_hidden(graph: Graph, place: int) -> bool:
    """Whether a row is computed on the way of a chain, or by a node that stands for other rows too."""
    base = graph.tape_base[place]
    at = int(np.searchsorted(graph.inside, base))
    if at < len(graph.inside) and graph.inside[at] == base:
        return True
    node = graph.node_of(base)
    if node is None or graph.signatures[graph.signature[node]].op is KNOWN_OP:
        return False
    return sum(_computes(graph, p) for p in np.flatnonzero(graph.tape_base == base).tolist()) > 1


def _computed_node(graph: Graph, place: int) -> int | None:
    """The node that computes a row; None if it was known already, or not needed. Raises `GradientError` if it is
    computed together with others."""
    if _is_hidden(graph, place):
        raise GradientError(
            "the gradient of this value cannot be told from those of others that it was computed together with: "
            "register its hook before backward() is called"
        )
    node = graph.node_of(graph.tape_base[place])
    return None if node is None or graph.signatures[graph.signature[node]].op is KNOWN_OP else node


def _computes(graph: Graph, place: int) -> bool:
    """Whether a row is an operation's, and not a view or an import of another."""
    number = int(np.searchsorted(graph.tape_starts, place, side="right")) - 1
    tape = graph.tapes[number]()
    row = place - int(graph.tape_starts[number]) + int(graph.tape_lows[number])
    return tape is not None and signature_by_id(tape.signatures[row]).op not in (VIEW_OP, IMPORT_OP)


def _hooked(run: Run) -> dict[int, Hooked]:
    """The nodes of a run that have hooks (see `Expr.register_hook`)."""
    return {
        node: Hooked(signature_by_id(tape.signatures[row]).type, int(run.plan.offsets[node]), hooks)
        for tape, row, node, hooks in _watched(run, lambda tape: {r: h for r, h in tape.hooks.items() if h})
    }


class Retained(NamedTuple):
    """The gradient of a value whose gradient is kept."""

    tape: Tape
    row: int
    gradient: Array


def _retain(found: list[Retained], run: Run, cotangents: Arena, active: Ints | None) -> None:
    """Find the cotangents that `Expr.retain_grad` asked for, of those nodes that this backward reached."""
    for tape, row, node, _ in _watched(run, lambda tape: tape.retained):
        if active is None or active[node]:
            kind = signature_by_id(tape.signatures[row]).type
            gradient = cotangents.buffers[kind.dtype][int(run.plan.offsets[node]) :][: kind.size].reshape(kind.shape)
            found.append(Retained(tape, row, gradient.copy()))


def _node_of(run: Run, root: Expr) -> int:
    graph = run.plan.structure
    for number, tape in enumerate(run.plan.tapes):
        row = root.row - int(graph.tape_lows[number])
        start, end = graph.tape_starts[number : number + 2].tolist()
        if tape() is root.tape and 0 <= row < end - start:
            node = graph.node_of(graph.tape_base[start + row])
            if node is not None:
                return node
    raise LookupError("the root is not part of its run")


def _nothing_to_differentiate(root: Expr) -> str:
    if root.type.requires_grad:
        return "backward() of an expression recorded under lf.no_grad(): record it outside to differentiate it"
    return _NO_GRADIENT


_NO_GRADIENT = (
    "backward() of an expression that reaches no parameter with requires_grad=True: there is nothing to differentiate"
)


def _cotangent(root: Expr, given: Any) -> Array:
    if given is None:
        if root.type.size != 1:
            raise GradientError(
                f"backward() of an expression of shape {root.shape} needs the gradient to start from: "
                "backward(gradient) of that shape, or reduce it first, for example lf.sum(x).backward()"
            )
        return np.ones(root.shape, root.dtype)  # on any device: a number needs no copy
    given = value_of(own_array(given))
    array = given if devices.is_array(given) else np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"backward(gradient): the gradient must be of numbers, got {array.dtype}")
    if array.shape != root.shape:
        raise ShapeError(
            f"backward(gradient): the expression has shape {root.shape}, the gradient {array.shape}; they must be equal"
        )
    with devices.on(root.device):
        return devices.to_device(array, root.device).astype(root.dtype)


_adding = Lock()


def _add_to_gradients(gradients: Sequence[tuple[Parameter, Array]], retained: Sequence[Retained]) -> None:
    """Add what a backward found, all of it or nothing; other threads may be adding to the same parameters."""
    with _adding:
        before = [(parameter, parameter.grad) for parameter, _ in gradients]
        kept = [(tape.retained, tape.retained.copy()) for tape, _, _ in retained]
        try:
            for parameter, gradient in gradients:
                _accumulate(parameter, gradient)
            for tape, row, gradient in retained:
                known = tape.retained.get(row)
                tape.retained[row] = gradient if known is None else known + gradient
        except BaseException:
            for parameter, gradient in before:
                parameter.grad = gradient
            for now, then in kept:
                now.update(then)
            raise


def _accumulate(parameter: Parameter, gradient: Array) -> None:
    """Add to ``grad``, which has the parameter's dtype whatever it was computed with."""
    if gradient.dtype != parameter.dtype:
        gradient = gradient.astype(parameter.dtype)
    if parameter.grad is not None:
        parameter.grad = accumulated(parameter.grad, gradient)
    elif isinstance(gradient, RowSparse):
        parameter.grad = gradient
    else:
        # A vjp may answer with a view of memory that is about to be used again.
        parameter.grad = gradient if gradient.flags.owndata else gradient.copy()


__all__ = ["CHOICES", "Arena", "Engine", "forward", "plan_of"]

expr.ENGINE[:] = [Engine()]


def forward(roots: Expr | Iterable[Expr]) -> Any:
    """The values of several expressions, computed together: a list of NumPy arrays; of one expression, its array.

    Raises ``TypeError`` for what is no expression.

    >>> import lazyflow as lf
    >>> x = lf.constant([1.0, 4.0])
    >>> lf.forward([lf.sqrt(x), x + 1])
    [array([1., 2.], dtype=float32), array([2., 5.], dtype=float32)]
    >>> lf.forward(lf.sum(x))
    array(5., dtype=float32)
    """
    if isinstance(roots, Expr):
        return forward([roots])[0]
    found = list(roots)
    expr.ENGINE[0].forward(found)
    return [root.numpy() for root in found]

"""The engine: from roots to values and gradients. It ties forward and backward together.

What an expression asks for comes here, and goes on to `lazyflow.run.forward` and `lazyflow.run.backward`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lazyflow import device as devices
from lazyflow import fibers, settings
from lazyflow.core.arrays import Ints
from lazyflow.device import Array, HostArray
from lazyflow.errors import CellError, DTypeError, GradientError, ShapeError, user_line
from lazyflow.graph.graph import Graph
from lazyflow.graph.reading import position_of, readings_of
from lazyflow.hooks import through
from lazyflow.locks import Lock, together
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.arena import Arena
from lazyflow.record import expr
from lazyflow.record.expr import Expr, Parameter, handle, own_array, value_of
from lazyflow.record.tape import IMPORT_OP, KNOWN_OP, VIEW_OP, Computed, PastRun, Tape, signature_by_id
from lazyflow.run.backward import Hooked, Seeds, accumulated
from lazyflow.run.backward import backward as run_backward
from lazyflow.run.execute import Run, any_stale, check_recorded, distinct
from lazyflow.run.forward import compute, forget, watched_places
from lazyflow.run.needs import out_of_memory
from lazyflow.run.roots import alike, copies, missing, owners_of, runs_of, runs_read, shown, to_run, traced
from lazyflow.settings import tracing
from lazyflow.threads import quietly


def _refuse_in_cells(roots: Sequence[Expr]) -> None:
    body = traced(roots) or tracing()
    if body is not None:
        raise CellError(
            f"{user_line()}: a value is asked for inside the {body.name}, whose body is recorded only once, for calls "
            "that have not been made: return the expression and ask outside, use lf.where in place of an if, or leave "
            "lf.cell off"
        )


Method = TypeVar("Method", bound=Callable[..., object])


def _locked(method: Callable[..., Any], engine: Engine, roots: object, *args: object) -> Any:
    """Call a method that computes its roots while no other thread computes what they rest on: what is known of a tape,
    and what lies in the arenas of its runs, changes."""
    if type(roots) is Expr:
        owners = roots.tape.owners
    else:
        owners = owners_of(roots if isinstance(roots, list | tuple) else [roots])
    if len(owners) == 1:  # most often: values of this thread alone
        (owner,) = owners
        with owner.lock:
            return method(engine, roots, *args)
    return together(sorted(owners, key=lambda o: o.number), method, engine, roots, *args)


def _undisturbed(method: Method) -> Method:
    """`_locked` by name; an example of a map waits first."""

    @functools.wraps(method)
    def computing(engine: Engine, roots: object, *args: object) -> object:
        example = fibers.current_example()
        if example is None or (type(roots) is Expr and not args and roots.tape.has_value(roots.row)):
            return _locked(method, engine, roots, *args)
        if _waited(example, roots if isinstance(roots, list | tuple) else [roots], *args):
            return None
        example.busy += 1
        try:
            return _locked(method, engine, roots, *args)
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


def _on_host(engine: Engine, root: Expr) -> HostArray:
    """A copy of the root's value on the host, computed if it is not there yet: from a device it is one copy."""
    part = engine.made(root)
    if part is not None:
        return devices.to_host(part)
    run, offset = root.tape.place_of(root.row)
    found: HostArray = run.downloaded(offset, root.type)
    return found


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
            forget(wanted)
        self._run_missing(wanted)

    def _run_missing(self, wanted: Sequence[Expr]) -> None:
        """Compute what has no value yet."""
        left = len(wanted) + 1
        while found := missing(wanted):
            if len(found) >= left:  # one took the place of another, which rests on values of the same runs: all anew
                forget(wanted)
                found, left = missing(wanted), len(wanted) + 1
            else:
                left = len(found)
            compute(alike(found))

    def host_value(self, root: Expr) -> HostArray:
        """The same on the host. An example of a map waits for it, and is given it, together with the others."""
        example = fibers.current_example()
        if example is None:
            return _locked(_on_host, self, root)  # type: ignore[no-any-return]
        if root.tape.has_value(root.row) or not example.waits():
            return self._on_host(root)
        if root.tape.body is not None or tracing() is not None:
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
        part = self.made(root)
        if part is not None:
            return part
        run, offset = root.tape.place_of(root.row)
        if run.device == "cpu" == root.type.device:
            return run.value(offset, root.type)
        with devices.on(run.device):  # not the root's, where that rests on no parameter: see `expr.on_one_device`
            return devices.to_device(run.value(offset, root.type), root.device)

    _on_host = _undisturbed(_on_host)

    def made(self, root: Expr) -> Array | None:
        """See to it that the root has a value; or answer with a copy of it, where no run is needed for that."""
        if root.tape.body is not None or tracing() is not None:
            _refuse_in_cells((root,))
        if not root.tape.has_value(root.row):
            found = shown(root)
            if found is not None:
                return found
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
        self._forward([*roots, *_held_of_dropped(_many_small_runs(roots))])
        for run in {id(run): run for run in [e.tape.place_of(e.row)[0] for e in roots]}.values():
            _check_trained(run)
        if any(_hides_watched(root) for root in roots):  # run again: what somebody watches is a node of its own then
            forget(roots, draw_anew=False)
            self._forward(roots)
        try:
            _differentiate(roots, seeds)
        except MemoryError as error:
            run = roots[0].tape.place_of(roots[0].row)[0]
            plan, way = run.plan, run.way
            del run
            forget(roots, draw_anew=False)  # what can be computed again is let go of
            raise out_of_memory(error, plan, way, "a backward") from error


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


# A backward through more small runs than this computes them once more, as one: a small run costs more beside its
# kernels, in either direction, than they do. A run of more elements is gone back through as it is.
MANY_RUNS, SMALL_RUN = 8, 1 << 17


def _many_small_runs(roots: Sequence[Expr]) -> list[Run]:
    """The small runs that roots rest on, if they are many; none of which another that stays has read a value."""
    first = _read_runs(roots)
    if any_stale(first):  # a forward computes all of it anew
        return []
    runs = _runs_below(first)
    kept = _runs_below([run for run in runs.values() if not _may_be_dropped(run) or _has_other_readers(run, runs)])
    small = [run for number, run in runs.items() if number not in kept]
    return small if len(small) > MANY_RUNS else []


def _read_runs(roots: Sequence[Expr]) -> list[Run]:
    """The runs that have computed the roots, or what is read to compute them."""
    found: list[Any] = runs_of(roots)
    unknown = missing(roots)
    for reading in readings_of(unknown, anew=False) if unknown else ():
        found += reading.tape.runs
        found += runs_read(reading.imports)
    return distinct(found)


def _runs_below(runs: Sequence[Run]) -> dict[int, Run]:
    """These and all that they rest on, by number, as far as gradients go."""
    found: dict[int, Run] = {}
    stack = list(runs)
    while stack:
        run = stack.pop()
        if run.number not in found and run.way.differentiable:
            found[run.number] = run
            stack.extend(distinct(run.known_runs))
    return found


def _may_be_dropped(run: Run) -> bool:
    """Whether a run is small, and it is known what somebody holds of it."""
    tapes = [tape for tape in [reference() for reference in run.tapes] if tape is not None]
    return sum(run.plan.layout.sizes.values()) <= SMALL_RUN and all(tape.handles is not None for tape in tapes)


def _has_other_readers(run: Run, runs: Mapping[int, Run]) -> bool:
    """Whether a run besides these has read a value of it, which, computed again, would be two where both are needed."""
    readers = [reader for reader in [reference() for reference in run.readers] if reader is not None]
    return any(reader.number not in runs and reader.way.differentiable for reader in readers)


def _held_of_dropped(runs: Sequence[Run]) -> list[Expr]:
    """Drop what these runs have computed, and return what somebody holds of it, which is to keep its value."""
    some = set(runs)
    tapes = {id(tape): tape for run in runs for tape in [reference() for reference in run.tapes] if tape is not None}
    held = [
        (tape, row)
        for tape in tapes.values()
        for row in tape.handles.rows()
        if tape.has_value(row) and tape.place_of(row)[0] in some
    ]
    copies = _copies_of_kept(runs, some)
    for number, tape in tapes.items():
        _drop(tape, some, copies.get(number, {}))
    lost = [(tape, row) for tape, row in held if not tape.has_value(row)]
    return [handle(tape, row, signature_by_id(tape.signatures[row]).type) for tape, row in lost]


def _copies_of_kept(runs: Sequence[Run], some: set[Run]) -> dict[int, dict[int, tuple[Run, int]]]:
    """The values that some runs have of others, and that a tape says to be theirs: by ``id`` of the tape and row, where
    they were computed."""
    found: dict[int, dict[int, tuple[Run, int]]] = {}
    for run in runs:
        tapes = [reference() for reference in run.tapes]
        several = np.array([tape is not None and len(tape.runs) > 1 for tape in tapes], bool)
        if not several.any() or some.issuperset(run.known_runs):  # as most often, and the graph is not asked for
            continue
        graph = run.graph
        rows = graph.origin[graph.known]
        for k in np.flatnonzero(several[np.searchsorted(graph.tape_starts, rows, side="right") - 1]).tolist():
            if graph.known_run[k] not in some:
                [(number, row)] = graph.tape_rows(rows[k : k + 1])
                found.setdefault(id(tapes[number]), {})[row] = graph.known_run[k], int(graph.known_offset[k])
    return found


def _drop(tape: Tape, runs: set[Run], copies: Mapping[int, tuple[Run, int]]) -> None:
    """Drop what runs have left on a tape, but where they have ``copies`` of what others have computed."""
    computed = tape.computed
    if computed is None:
        return
    rows = [row for row in copies if tape.has_value(row) and tape.place_of(row)[0] in runs]
    others: list[Any] = [run for run in computed.runs if run not in runs]
    kept: list[PastRun] = [*distinct([*others, *[copies[row][0] for row in rows]])]
    if not kept:
        tape.forget()
        return
    place: dict[Any, int] = {run: k for k, run in enumerate(kept)}
    number = np.array([place.get(run, -1) for run in computed.runs] + [-1], np.int32)  # the last: rows without a value
    run_of, offset_of = number[computed.run_of], computed.offset_of.copy()
    run_of[rows] = [place[copies[row][0]] for row in rows]
    offset_of[rows] = [copies[row][1] for row in rows]
    tape.computed = Computed(kept, run_of, offset_of, computed.touched)


def _differentiate(roots: Sequence[Expr], cotangents: Sequence[Array]) -> None:
    """Add what a backward from computed roots finds."""
    places = [root.tape.place_of(root.row) for root in roots]
    seeds = [
        Seeds(run, np.array([_node_of(run, root)]), np.array([offset]), cotangent[None])
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
    if not any(tape is not None and entries(tape) for tape in [reference() for reference in run.tapes]):
        return  # as most often, and the graph is not asked for
    graph = run.graph
    for tape, row, place in watched_places(graph, entries):
        node = _computed_node(graph, place)
        if node is not None:
            yield tape, row, node, entries(tape)[row]


def _hides_watched(root: Expr) -> bool:
    """Whether a run that the root rests on computed a watched row together with others, before anybody watched it."""
    seen: set[int] = set()
    stack = [root.tape.place_of(root.row)[0]]
    while stack:
        run = stack.pop()
        if run.number not in seen:
            seen.add(run.number)
            tapes = [reference() for reference in run.tapes]
            if any(tape is not None and (tape.hooks or tape.retained) for tape in tapes):
                graph = run.graph
                places = watched_places(graph, lambda t: t.hooks | t.retained)
                if any(_is_hidden(graph, place) for _, _, place in places):
                    return True
            stack.extend(run.known_runs)
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
    [(number, row)] = graph.tape_rows(np.array([place]))
    tape = graph.tapes[number]()
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
    for number, tape in enumerate(run.tapes):
        position = position_of(run.rows[number], root.row) if tape() is root.tape else -1
        if position >= 0:
            node = graph.node_of(graph.tape_base[int(graph.tape_starts[number]) + position])
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


def _cotangent(root: Expr, given: Array | None) -> Array:
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


__all__ = ["Arena", "Engine", "forward"]

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
    engine = expr.ENGINE[0]
    engine.forward(found)
    if any(isinstance(root, Parameter) for root in found):
        return [root.numpy() for root in found]
    return engine.answers(found)

"""Plans that are kept: a graph of equal structure gets the plan of the one before, with its own payload.

What makes a plan is compared whole, never by a hash alone: the signatures (parameters are part of them), which node
has which, all edges and shifts, the roots, and the way of batching. So a plan cannot be stale: a replaced parameter,
another mode or another setting is another key.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lazyflow.device import HostArray
from lazyflow.graph.graph import Graph
from lazyflow.graph.reading import Reading
from lazyflow.locks import Lock
from lazyflow.plan.plan import Plan, plan_again
from lazyflow.plan.recorded import Recorded, payload_of, recorded
from lazyflow.record.tape import Signature, Type

LIMIT = 16 << 20  # bytes of arrays


@dataclass(frozen=True)
class CacheInfo:
    """What `Plans.info` returns: hits and misses so far, how many plans are kept, their bytes, and the limit of
    these."""

    hits: int
    misses: int
    plans: int
    nbytes: int
    limit: int

    def __str__(self) -> str:
        size = f"{self.plans} plans in {self.nbytes / 2**20:.1f} of {self.limit / 2**20:.0f} MiB"
        return f"plans kept: {self.hits} hits, {self.misses} misses, {size}"


class Kept(NamedTuple):
    """A plan and its bytes, and what else is known of it if it is kept by a recording. No plan: it is kept by the
    recording and its payload."""

    plan: Plan | None
    nbytes: int
    recorded: Recorded | None = None

    @property
    def signatures(self) -> Iterable[Signature]:
        """The signatures that it keeps alive."""
        if self.recorded is not None:
            return self.recorded.signatures
        return () if self.plan is None else self.plan.structure.signatures


class Plans:
    """Keeps plans by structure, up to ``limit`` bytes; those not asked for the longest go first.

    A plan is kept when its structure comes by for the second time, or at ``once``: minibatches that are shuffled never
    come again, and cost a few bytes each.
    """

    def __init__(self, limit: int = LIMIT, once: bool = False) -> None:
        self.limit, self.once = limit, once
        self.seen: OrderedDict[object, None] = OrderedDict()
        self.kept: OrderedDict[object, Kept] = OrderedDict()
        self.watched: weakref.WeakSet[Type] = weakref.WeakSet()
        self.hits = self.misses = 0
        self.most = self.since = 0  # no fewer than the bytes that are kept; how many were added since they were counted
        self.bereft = False
        self.lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept. Counted anew: an interrupt could come between a plan and a count of it."""
        with self.lock:
            return sum([kept.nbytes for kept in self.kept.values()])

    def info(self) -> CacheInfo:
        """Counts and sizes."""
        with self.lock:
            plans = [kept.plan for kept in self.kept.values() if kept.plan is not None]
            distinct = len({id(plan.offsets) for plan in plans})  # several keys may lead to one
            return CacheInfo(self.hits, self.misses, distinct, self.nbytes, self.limit)

    def plan(self, graph: Graph, way: object, make: Callable[[], Plan]) -> Plan:
        """The plan of a graph, run in a certain ``way``; made anew if no graph of equal structure has one."""
        key = way, graph.signatures, graph.forms, graph.roots, *(_sample(a) for a in _structure_of(graph))
        with self.lock:
            if self.bereft:
                self._drop_dead()
            found = self.kept.get(key)
            if found is not None and found.plan is not None and _is_alike(found.plan.structure, graph):
                self.kept.move_to_end(key)
                self.hits += 1
                return plan_again(found.plan, graph)
            self.misses += 1
            again = self._comes_again(key)
        plan = make()
        if again:
            with self.lock:
                bare = replace(plan, structure=_bare(plan.structure))
                self._keep(key, Kept(bare, _nbytes(bare)))
        return plan

    def of_recording(self, key: object, readings: Sequence[Reading]) -> Recorded | None:
        """What is known of what is read of tapes, with this key (`lazyflow.plan.recorded.key_of`)."""
        if self.bereft:
            with self.lock:
                self._drop_dead()
        found = self.kept.get(key)
        if found is not None and found.plan is None:
            key = key, payload_of(readings)
            found = self.kept.get(key)
        if found is None:
            return None
        with self.lock:  # another thread may be walking through all that is kept, or has dropped it since
            with suppress(KeyError):
                self.kept.move_to_end(key)
            self.hits += 1
        return found.recorded

    def keep_recording(self, key: object, readings: Sequence[Reading], plan: Plan, by_payload: bool) -> None:
        """Keep the plan of these, if the key comes by for the second time, or with the very same payload."""
        with self.lock:
            whole = (key, payload_of(readings)) if by_payload else key
            if not self._comes_again(whole):
                return
            kept = recorded(plan, readings)
            noted = [kept.plan.places, *(kept.plan.noted if len(readings) == 1 else ())]
            size = _nbytes(kept.plan) + sum([a.nbytes for a in noted]) + _nbytes_of(whole)
            beside = _nbytes_of(key) if by_payload else 0
            if size + beside > self.limit:
                return
            if by_payload:  # first: what is kept last stays the longest
                self._keep(key, Kept(None, beside))
            self._keep(whole, Kept(kept.plan, size, kept))

    def _comes_again(self, key: object) -> bool:
        """Whether the key was here before; from now on it was."""
        number = hash(key)
        found = self.once or number in self.seen
        self.seen[number] = None
        if len(self.seen) > MOST_SEEN:
            self.seen.popitem(last=False)
        return found

    def _keep(self, key: object, kept: Kept) -> None:
        size = kept.nbytes
        if size > self.limit:
            return
        self.kept.pop(key, None)
        self.since += 1
        if self.most + size > self.limit and self.since > RECOUNTED:
            self.most, self.since = self.nbytes, 0
        self.most += size  # before it is kept: an interrupt leaves too much counted, and too little kept
        while self.most > self.limit and self.kept:
            self.most -= self.kept.popitem(last=False)[1].nbytes
        for kind in _parameter_types(kept.signatures):
            parameter = kind.parameter() if kind.parameter is not None else None
            if parameter is not None and kind not in self.watched:
                weakref.finalize(parameter, self._note_death).atexit = False
                self.watched.add(kind)
        self.kept[key] = kept

    def _note_death(self) -> None:
        """A parameter has died, at whatever moment: its plans go when the next plan is asked for."""
        self.bereft = True

    def _drop_dead(self) -> None:
        """Let go of plans with a parameter that is no more, and of its signatures."""
        self.bereft = False
        for key, kept in list(self.kept.items()):
            kinds = _parameter_types(kept.signatures)
            if any(kind.parameter is not None and kind.parameter() is None for kind in kinds):
                del self.kept[key]


def _parameter_types(signatures: Iterable[Signature]) -> list[Type]:
    return [o.type for s in signatures for o in s.operands if o.kind == "shared" and o.type]


RECOUNTED = 64  # plans that are added between two counts of the bytes of all
MOST_SEEN = 4096  # structures that are remembered to have come by once
STEP = 61  # elements from one that is part of the key to the next; all are compared when a key is found


def _sample(array: HostArray) -> tuple[int, bytes]:
    return len(array), array[::STEP].tobytes()


def _is_alike(one: Graph, other: Graph) -> bool:
    pairs = zip(_structure_of(one), _structure_of(other), strict=True)  # of one dtype, pair by pair
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def _structure_of(graph: Graph) -> tuple[HostArray, ...]:
    nothing = graph.results[:0]
    counts = nothing if graph.counts is None else graph.counts
    form = nothing if graph.form is None else graph.form
    return graph.signature, graph.starts, graph.base, graph.shift, graph.results, counts, form


def _bare(graph: Graph) -> Graph:
    """A graph without what only its own run needs: payload, places on tapes, and the runs that it rests on."""
    nothing = np.empty(0, np.int64)
    return replace(
        graph,
        int_starts=nothing,
        ints=nothing,
        float_starts=nothing,
        floats=nothing,
        origin=nothing,
        tapes=(),
        known_run=(),
        known_offset=nothing,
        tape_base=nothing,
        tape_shift=nothing,
        inside=nothing,
    )


def _nbytes_of(key: object) -> int:
    """Bytes of the columns that are part of a recording's key."""
    if isinstance(key, tuple):
        return sum([_nbytes_of(part) for part in key])
    return len(key) if isinstance(key, bytes) else 8


OBJECTS = 2048  # bytes of the objects of one launch, beside its arrays


def _nbytes(plan: Plan) -> int:
    """Bytes that a kept plan holds, near enough: all arrays of nodes and edges, of reads, and the launches' objects."""
    per_node = [
        plan.offsets,
        plan.schedule.launch,
        plan.schedule.launch,
    ]  # the nodes of all launches are one array more
    reads = [a for launch in plan.launches for r in launch.reads if (a := getattr(r, "index", r)) is not None]
    cells = [a for c in plan.cells for a in (*c.inputs, *c.outputs, *c.ints, *c.floats)]
    graph = plan.structure
    rows = [graph.origin, graph.tape_base, graph.tape_shift]
    payload = [graph.int_starts, graph.ints, graph.float_starts, graph.floats]
    arrays = [
        a for a in (*per_node, *_structure_of(graph), *rows, *payload, *reads, *cells) if isinstance(a, np.ndarray)
    ]
    return sum(a.nbytes for a in arrays) + OBJECTS * len(plan.launches)

"""Plans that are kept: a graph of equal structure gets the plan of the one before, with its own payload.

What makes a plan is compared whole, never by a hash alone: the signatures (parameters are part of them), which node
has which, all edges and shifts, the roots, and the way of batching. So a plan cannot be stale: a replaced parameter,
another mode or another setting is another key.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lazyflow.graph import Graph
from lazyflow.locks import Lock
from lazyflow.plan import Cells, Launch, Plan, Read, payload_read
from lazyflow.tape import Signature, Type

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


class Plans:
    """Keeps plans by structure, up to ``limit`` bytes; those not asked for the longest go first.

    A plan is kept when its structure comes by for the second time: minibatches that are shuffled never come again, and
    cost a few bytes each.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.seen: OrderedDict[Any, None] = OrderedDict()
        self.kept: OrderedDict[Any, tuple[Plan, int]] = OrderedDict()
        self.watched: weakref.WeakSet[Type] = weakref.WeakSet()
        self.hits = self.misses = 0
        self.bereft = False
        self.lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept. Counted anew: an interrupt could come between a plan and a count of it."""
        return sum(size for _, size in list(self.kept.values()))

    def info(self) -> CacheInfo:
        """Counts and sizes."""
        return CacheInfo(self.hits, self.misses, len(self.kept), self.nbytes, self.limit)

    def plan(self, graph: Graph, way: Any, make: Callable[[], Plan]) -> Plan:
        """The plan of a graph, run in a certain ``way``; made anew if no graph of equal structure has one."""
        key = way, graph.signatures, graph.roots, *(_sample(a) for a in _structure(graph))
        with self.lock:
            if self.bereft:
                self._drop_dead()
            found = self.kept.get(key)
            if found is not None and _is_alike(found[0].graph, graph):
                self.kept.move_to_end(key)
                self.hits += 1
                return _with_payload(found[0], graph)
            self.misses += 1
            again = hash(key) in self.seen
            self.seen[hash(key)] = None
            if len(self.seen) > MOST_SEEN:
                self.seen.popitem(last=False)
        plan = make()
        if again:
            with self.lock:
                self._keep(key, plan)
        return plan

    def _keep(self, key: Any, plan: Plan) -> None:
        size = _nbytes(plan)
        if size > self.limit:
            return
        self.kept.pop(key, None)
        total = self.nbytes + size
        while total > self.limit:  # before it is kept: an interrupt finds too little kept, never too much
            _, (_, freed) = self.kept.popitem(last=False)
            total -= freed
        for kind in _parameter_types(plan.graph.signatures):
            parameter = kind.parameter() if kind.parameter is not None else None
            if parameter is not None and kind not in self.watched:
                weakref.finalize(parameter, self._note_death).atexit = False
                self.watched.add(kind)
        self.kept[key] = replace(plan, graph=_bare(plan.graph)), size

    def _note_death(self) -> None:
        """A parameter has died, at whatever moment: its plans go when the next plan is asked for."""
        self.bereft = True

    def _drop_dead(self) -> None:
        """Let go of plans with a parameter that is no more, and of its signatures."""
        self.bereft = False
        for key, (plan, _) in list(self.kept.items()):
            kinds = _parameter_types(plan.graph.signatures)
            if any(kind.parameter is not None and kind.parameter() is None for kind in kinds):
                del self.kept[key]


def _parameter_types(signatures: Sequence[Signature]) -> list[Type]:
    return [o.type for s in signatures for o in s.operands if o.kind == "shared" and o.type]


MOST_SEEN = 4096  # structures that are remembered to have come by once
STEP = 61  # elements from one that is part of the key to the next; all are compared when a key is found


def _sample(array: np.ndarray[Any, Any]) -> tuple[int, bytes]:
    return len(array), array[::STEP].tobytes()


def _is_alike(one: Graph, other: Graph) -> bool:
    pairs = zip(_structure(one), _structure(other), strict=True)  # of one dtype, pair by pair
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def _structure(graph: Graph) -> tuple[np.ndarray[Any, Any], ...]:
    return graph.signature, graph.starts, graph.base, graph.shift, graph.results


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
    arrays = [a for a in (*per_node, *_structure(plan.graph), *reads, *cells) if isinstance(a, np.ndarray)]
    return sum(a.nbytes for a in arrays) + OBJECTS * len(plan.launches)


def _with_payload(plan: Plan, graph: Graph) -> Plan:
    """A plan for another graph of the same structure: only payload differs."""
    cells = tuple(_refilled_cells(c, graph) for c in plan.cells)
    launches = tuple(_refilled(launch, graph) for launch in plan.launches)
    return replace(plan, graph=graph, launches=launches, cells=cells)


def _refilled_cells(cells: Cells, graph: Graph) -> Cells:
    signature, nodes = cells.signature, cells.nodes
    return replace(
        cells,
        ints=tuple(graph.ints[graph.int_starts[nodes] + k] for k in range(signature.ints)),
        floats=tuple(graph.floats[graph.float_starts[nodes] + k] for k in range(signature.floats)),
    )


def _refilled(launch: Launch, graph: Graph) -> Launch:
    signature = launch.signature
    if launch.calls is not None or (not signature.ints and not signature.floats):
        return launch
    reads: list[Read] = list(launch.reads)
    for i, operand in enumerate(signature.operands):
        if operand.kind in ("int", "float"):
            reads[i] = payload_read(graph, operand, launch.nodes)
    return launch._replace(reads=tuple(reads))

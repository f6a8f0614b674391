"""Which nodes run together, and in which order: pure functions from a `Dag` to a `Schedule`.

The nodes of one launch have one signature, and none of them needs another. Fewer launches are better, and six ways
are offered:

- ``"none"``: every node on its own, as recorded.
- ``"depth"``: nodes of one signature at one depth of the whole graph (TensorFlow Fold: Looks et al. 2017).
- ``"agenda"``: of the signatures with ready nodes, the one with the lowest mean depth (DyNet: Neubig, Goldberg and
Dyer 2017).
- ``"levels"`` and ``"frontier"``: *phases* first. The signatures form a graph, an edge where some node of one feeds
some node
  of the other. Its strongly connected components are run one after another; a component without a cycle is ONE launch,
  at whatever depth its nodes stand. Inside a recurrent component, ``"levels"`` goes by depth counted there, and
  ``"frontier"`` runs, of the signatures with ready nodes, the one with the largest share of ready nodes among those
  that
  could still join: those whose same-signature ancestors have all run (the reward that ED-Batch learns a policy for,
  Chen et al. 2023, used greedily).
- ``"phases"``: for each component the cheapest of these, as `Choices` remembers it.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lazyflow import jit, loops

Ints = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Dag:
    """Nodes in a topological order: ``signature`` (below ``signatures``) of each, and the operands of node ``i`` at
    ``operands[starts[i]:starts[i + 1]]``."""

    signature: Ints
    signatures: int
    starts: Ints
    operands: Ints

    def __len__(self) -> int:
        return len(self.signature)

    @cached_property
    def users(self) -> Ints:
        """The node that each entry of ``operands`` belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True, eq=False)
class Schedule:
    """``launch[i]``: when node ``i`` runs, a number below ``launches``; ``phase[k]``: the component that launch ``k``
    belongs to."""

    launch: Ints
    launches: int
    phase: Ints


@dataclass(frozen=True, eq=False)
class Components:
    """Strongly connected components of the signature graph, numbered in topological order.

    ``of_signature``: the component of each signature; ``recurrent``: whether a component has a cycle.
    """

    of_signature: Ints
    recurrent: Ints
    members: tuple[tuple[int, ...], ...]


def signature_edges(dag: Dag) -> Ints:
    """``edges[a, b]``: some node of signature ``a`` feeds some node of signature ``b``."""
    if jit.by_loops():
        alone = np.arange(len(dag))
        found: Ints = jit.compiled(loops.signature_edges)(
            dag.signature, dag.starts, dag.operands, alone, dag.signatures
        )
        return found
    edges = np.zeros((dag.signatures, dag.signatures), bool)
    edges[dag.signature.take(dag.operands), dag.signature.take(dag.users)] = True
    return edges


def components(edges: Ints) -> Components:
    """Strongly connected components of a graph given as a matrix; remembered, for models record alike all the time."""
    return _components(len(edges), edges.tobytes())


@functools.lru_cache(maxsize=256)
def _components(n: int, matrix: bytes) -> Components:
    """Tarjan's algorithm (1972) without recursion; a component is finished only after all that it reaches."""
    edges = np.frombuffer(matrix, bool).reshape(n, n)
    successors = [np.flatnonzero(row).tolist() for row in edges]
    numbers = itertools.count()
    number = [-1] * n
    low = [0] * n
    on_stack = [False] * n
    stack: list[int] = []
    found: list[tuple[int, ...]] = []
    for start in range(n):
        if number[start] >= 0:
            continue
        path: list[tuple[int, Iterator[int]]] = []
        _enter(start, next(numbers), number, low, on_stack, stack)
        path.append((start, iter(successors[start])))
        while path:
            node, rest = path[-1]
            for child in rest:
                if number[child] < 0:
                    _enter(child, next(numbers), number, low, on_stack, stack)
                    path.append((child, iter(successors[child])))
                    break
                if on_stack[child]:
                    low[node] = min(low[node], number[child])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == number[node]:
                    found.append(_leave(node, on_stack, stack))
    found.reverse()
    of_signature = np.empty(n, np.int64)
    for i, members in enumerate(found):
        of_signature[list(members)] = i
    recurrent = np.array([len(m) > 1 or bool(edges[m[0], m[0]]) for m in found], bool)
    return Components(of_signature, recurrent, tuple(found))


def _enter(node: int, found: int, number: list[int], low: list[int], on_stack: list[bool], stack: list[int]) -> None:
    number[node] = low[node] = found
    on_stack[node] = True
    stack.append(node)


def _leave(node: int, on_stack: list[bool], stack: list[int]) -> tuple[int, ...]:
    members = []
    while True:
        member = stack.pop()
        on_stack[member] = False
        members.append(member)
        if member == node:
            return tuple(sorted(members))


def depths(dag: Dag, internal: Ints | None = None) -> Ints:
    """The longest path of operands below each node; ``internal`` marks the edges that count (all by default)."""
    users, operands = dag.users, dag.operands
    if internal is not None:
        users, operands = users[internal], operands[internal]
    # One pass in recorded order, for users come after their operands. A level at a time in NumPy is slower: 15 us a
    # level against 0.07 us a node in Python and 0.002 compiled, and a chain has as many levels as nodes.
    if jit.by_loops():
        found: Ints = jit.compiled(loops.depths)(len(dag), users, operands)
        return found
    if len(users) and np.bincount(users).max() <= 2:
        return _depths_of_pairs(len(dag), users, operands)
    depth = [0] * len(dag)
    for user, operand in zip(users.tolist(), operands.tolist(), strict=True):
        below = depth[operand] + 1
        if below > depth[user]:
            depth[user] = below
    return np.array(depth, np.int64)


def _depths_of_pairs(n: int, users: Ints, operands: Ints) -> Ints:
    """The same where no node has more than two operands that count: a node at a time instead of an edge."""
    first = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    last = np.concatenate((first[1:], [len(users)])) - 1
    depth = [0] * n
    for user, a, b in zip(users[first].tolist(), operands[first].tolist(), operands[last].tolist(), strict=True):
        x, y = depth[a], depth[b]
        depth[user] = x + 1 if x > y else y + 1
    return np.array(depth, np.int64)


def _ranked(keys: Ints) -> tuple[Ints, Ints]:
    """The rank of each key among the distinct keys, and those keys; by counting where they are dense."""
    if not len(keys):
        return keys, keys
    highest = int(keys.max()) + 1
    if highest > 16 * len(keys) + 65536:
        distinct, ranks = np.unique(keys, return_inverse=True)
        return ranks, distinct
    present = np.zeros(highest, bool)
    present[keys] = True
    return (np.cumsum(present) - 1)[keys], np.flatnonzero(present)


def by_none(dag: Dag) -> Schedule:
    """Every node a launch of its own, in recorded order."""
    n = len(dag)
    return Schedule(np.arange(n), n, np.zeros(n, np.int64))


def by_depth(dag: Dag) -> Schedule:
    """One launch for each depth and signature."""
    ranks, distinct = _ranked(depths(dag) * dag.signatures + dag.signature)
    return Schedule(ranks, len(distinct), np.zeros(len(distinct), np.int64))


def by_agenda(dag: Dag) -> Schedule:
    """The ready signature of the lowest mean depth next, with all of its ready nodes."""
    depth = depths(dag)
    count = np.maximum(np.bincount(dag.signature, minlength=dag.signatures), 1)
    mean = (np.bincount(dag.signature, depth, dag.signatures) / count).tolist()
    launch, launches = _ready_first(dag, lambda ready: heapq.heappop(ready), mean)
    return Schedule(launch, launches, np.zeros(launches, np.int64))


def _ready_first(dag: Dag, pop: Callable[[list[Any]], Any], priority: list[float]) -> tuple[Ints, int]:
    n = len(dag)
    pairs = _distinct_edges(dag)
    users, starts = _users(n, *pairs)
    waiting = np.bincount(pairs[0], minlength=n).tolist()
    signature = dag.signature.tolist()
    ready: dict[int, list[int]] = {}
    for node in np.flatnonzero(np.array(waiting) == 0).tolist():
        ready.setdefault(signature[node], []).append(node)
    queue = [(priority[s], s) for s in ready]
    heapq.heapify(queue)
    launch = [0] * n
    launches = 0
    while queue:
        _, s = pop(queue)
        for node in ready.pop(s):
            launch[node] = launches
            for user in users[starts[node] : starts[node + 1]]:
                waiting[user] -= 1
                if not waiting[user]:
                    group = ready.get(signature[user])
                    if group is None:
                        group = ready[signature[user]] = []
                        heapq.heappush(queue, (priority[signature[user]], signature[user]))
                    group.append(user)
        launches += 1
    return np.array(launch, np.int64), launches


def _distinct_edges(dag: Dag, internal: Ints | None = None) -> tuple[Ints, Ints]:
    """Users and operands of the edges, repeated operands of one node counted once."""
    users, operands = dag.users, dag.operands
    if internal is not None:
        users, operands = users[internal], operands[internal]
    keys = np.unique(users * len(dag) + operands)
    return keys // len(dag), keys % len(dag)


def _users(n: int, users: Ints, operands: Ints) -> tuple[list[int], list[int]]:
    """The users of node ``i`` at ``users[starts[i]:starts[i + 1]]``."""
    order = np.argsort(operands, kind="stable")
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(operands, minlength=n), out=starts[1:])
    return users[order].tolist(), starts.tolist()


def critical_ancestors(dag: Dag, depth: Ints) -> Ints:
    """For each node the same-signature ancestor that ends the longest chain of dependent same-signature nodes, or -1.

    A table of the best chain for every signature goes up the graph a depth at a time. Nobody can join a launch of its
    signature before this ancestor has run, and when it has, so have all others (their chains are shorter).
    """
    best, critical = _longest_chains(dag, depth)
    del best
    return critical


def _longest_chains(dag: Dag, depth: Ints) -> tuple[Ints, Ints]:
    """Length of the longest same-signature chain that ends in each node, and the node before it in that chain."""
    n = len(dag)
    chain = np.zeros((n + 1, dag.signatures), np.int64)  # length * (n + 1) + node + 1; row n stays empty
    length, critical = np.ones(n, np.int64), np.full(n, -1, np.int64)
    order = np.argsort(depth, kind="stable")
    bounds = np.searchsorted(depth[order], np.arange(int(depth.max(initial=0)) + 2))
    counts = np.diff(dag.starts)
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        nodes = order[low:high]
        some = nodes[counts[nodes] > 0]
        if len(some):
            ends = np.cumsum(counts[some])
            slots = np.repeat(dag.starts[some] - ends + counts[some], counts[some]) + np.arange(ends[-1])
            chain[some] = np.maximum.reduceat(chain[dag.operands[slots]], ends - counts[some], axis=0)
        own = dag.signature[nodes]
        before = chain[nodes, own]
        critical[nodes] = before % (n + 1) - 1
        length[nodes] = before // (n + 1) + 1
        chain[nodes, own] = length[nodes] * (n + 1) + nodes + 1
    return length, critical


def lower_bound(dag: Dag) -> int:
    """No schedule has fewer launches: for every signature its longest chain of dependent nodes, summed."""
    length, _ = _longest_chains(dag, depths(dag))
    longest = np.zeros(dag.signatures, np.int64)
    np.maximum.at(longest, dag.signature, length)
    return int(longest.sum())


def _frontier(dag: Dag) -> tuple[Ints, int]:
    """Launch numbers of the nodes of one component, greedily by the share of ready nodes among those that could
    join."""
    n = len(dag)
    pairs = _distinct_edges(dag)
    users, starts = _users(n, *pairs)
    waiting = np.bincount(pairs[0], minlength=n).tolist()
    critical = critical_ancestors(dag, depths(dag))
    followers: list[list[int]] = [[] for _ in range(n)]
    for node in np.flatnonzero(critical >= 0).tolist():
        followers[critical[node]].append(node)
    signature = dag.signature.tolist()
    could_join = np.bincount(dag.signature[critical < 0], minlength=dag.signatures).tolist()
    ready: dict[int, list[int]] = {}
    for node in np.flatnonzero(np.array(waiting) == 0).tolist():
        ready.setdefault(signature[node], []).append(node)
    launch = [0] * n
    launches = 0
    while ready:
        s = max(ready, key=lambda s: (len(ready[s]) / could_join[s], len(ready[s])))
        group = ready.pop(s)
        could_join[s] -= len(group)
        for node in group:
            launch[node] = launches
            could_join[s] += len(followers[node])
            for user in users[starts[node] : starts[node + 1]]:
                waiting[user] -= 1
                if not waiting[user]:
                    ready.setdefault(signature[user], []).append(user)
        launches += 1
    return np.array(launch, np.int64), launches


def _part(dag: Dag, nodes: Ints) -> Dag:
    """The subgraph of ``nodes`` (ascending), with the edges inside it and its own numbering of signatures."""
    new = np.full(len(dag), -1, np.int64)
    new[nodes] = np.arange(len(nodes))
    users, operands = new[dag.users], new[dag.operands]
    inside = (users >= 0) & (operands >= 0)
    starts = np.zeros(len(nodes) + 1, np.int64)
    np.cumsum(np.bincount(users[inside], minlength=len(nodes)), out=starts[1:])
    signature, distinct = _ranked(dag.signature[nodes])
    return Dag(signature, len(distinct), starts, operands[inside])


@dataclass(frozen=True, eq=False)
class Choice:
    """What was learned of one component: the way that was cheapest, and on how many graphs it was compared."""

    way: str
    seen: int
    compared: int


class Choices:
    """What ``"phases"`` remembers: for each recurrent component, known by its signatures, the way that was cheapest.

    A component of up to ``small`` nodes is compared every time, for that costs less than a launch saved; a larger one
    when it is seen for the 1st, 4th, 16th, 64th... time.
    """

    def __init__(self, small: int = 256, most: int = 4096) -> None:
        self.small = small
        self.most = most
        self.known: dict[Any, Choice] = {}

    def due(self, key: Any, nodes: int) -> bool:
        choice = self.known.get(key)
        return choice is None or nodes <= self.small or choice.seen + 1 == 4**choice.compared

    def way(self, key: Any) -> str:
        choice = self.known.get(key)
        if choice is None:  # another thread has put its own in the last free place
            return "levels"
        self.known[key] = Choice(choice.way, choice.seen + 1, choice.compared)
        return choice.way

    def is_levels(self, key: Any) -> bool:
        choice = self.known.get(key)
        return choice is not None and choice.way == "levels"

    def learn(self, key: Any, way: str) -> None:
        choice = self.known.get(key, Choice(way, 0, 0))
        if len(self.known) >= self.most and key not in self.known:
            self.known.pop(next(iter(self.known)), None)  # the oldest: its model may be long gone
        self.known[key] = Choice(way, choice.seen + 1, choice.compared + 1)


# What one launch costs beyond its arithmetic, forward and backward, and what frontier adds to scheduling for each
# node; in microseconds, as measured by ``python -m benchmarks launches``.
LAUNCH_US = 40.0
FRONTIER_NODE_US = 1.0


def cheapest(counts: dict[str, int], nodes: int) -> str:
    """The way of least cost: its launches, and its scheduling time where the way has one worth counting.

    Never more launches than by depth or agenda, whatever the time.
    """
    ceiling = min(counts["depth"], counts["agenda"])
    allowed = {way: n for way, n in counts.items() if n <= ceiling}
    extra = {"frontier": nodes * FRONTIER_NODE_US, "agenda": nodes * FRONTIER_NODE_US}
    return min(allowed, key=lambda way: (allowed[way] * LAUNCH_US + extra.get(way, 0.0), way != "levels"))


def by_phases(dag: Dag, way: str, choices: Choices | None = None, names: Sequence[Any] = ()) -> Schedule:
    """Components one after another; inside a recurrent one ``way``, or, for ``"phases"``, what `Choices` says.

    ``names``: what each signature is called in the memory of ``choices``, the same for the same signature in every
    graph.
    """
    parts = components(signature_edges(dag))
    level, heights = _levels(dag, parts)
    component = parts.of_signature.take(dag.signature)
    within = level * dag.signatures + dag.signature
    spans = (heights + 1) * dag.signatures
    if way != "levels":
        for i in np.flatnonzero(parts.recurrent).tolist():
            nodes = np.flatnonzero(component == i)
            key = tuple(names[s] for s in parts.members[i])
            chosen = _inside(dag, nodes, within[nodes], int(heights[i]), way, choices, key)
            if chosen is not None:
                within[nodes] = chosen
                spans[i] = int(chosen.max()) + 1
    origin = np.concatenate([[0], np.cumsum(spans)[:-1]])
    ranks, distinct = _ranked(origin[component] + within)
    phase = np.searchsorted(origin, distinct, side="right") - 1
    return Schedule(ranks, len(distinct), phase)


def _levels(dag: Dag, parts: Components) -> tuple[Ints, Ints]:
    """The depth of each node inside its component, and the greatest depth in each component."""
    component = parts.of_signature.take(dag.signature)
    level = depths(dag, component.take(dag.users) == component.take(dag.operands))
    heights = np.zeros(len(parts.members), np.int64)
    for i in np.flatnonzero(parts.recurrent).tolist():
        heights[i] = level[component == i].max()
    return level, heights


def by_levels(dag: Dag, call: Ints, batching: str, choices: Choices, names: Sequence[Any]) -> Schedule | None:
    """What `schedule` says where levels are the way of all components, by compiled loops; None where that is not so, or
    without a compiler.

    ``call``: the node whose launch computes each node of ``dag``; edges to other nodes do not count.
    """
    if batching not in ("levels", "phases") or not jit.by_loops():
        return None
    columns = dag.signature, dag.starts, dag.operands, call
    parts = components(jit.compiled(loops.signature_edges)(*columns, dag.signatures))
    launch, phase, sizes, counts, heights = jit.compiled(loops.by_levels)(
        *columns, parts.of_signature, dag.signatures, len(parts.members), 16 * len(dag) + 65536
    )
    if len(dag) and not len(phase):
        return None
    # Of others, the nodes of the longest path run one by one in any schedule.
    open_ = np.flatnonzero(parts.recurrent & (counts != heights + 1)).tolist() if batching == "phases" else []
    keys = [tuple(names[s] for s in parts.members[i]) for i in open_]
    for i, key in zip(open_, keys, strict=True):
        if choices.due(key, int(sizes[i])) or not choices.is_levels(key):
            return None
    for key in keys:
        choices.way(key)
    return Schedule(launch, len(phase), phase)


def _inside(
    dag: Dag, nodes: Ints, levels: Ints, height: int, way: str, choices: Choices | None, key: Any
) -> Ints | None:
    """The launches of one recurrent component if they are not to go by levels."""
    if way == "frontier":
        return _by_way(dag, nodes, way)
    assert choices is not None
    by_level = len(_ranked(levels)[1])
    if by_level == height + 1:  # the nodes of the longest path run one by one in any schedule
        return None
    if not choices.due(key, len(nodes)):
        return _by_way(dag, nodes, choices.way(key))
    if by_level == lower_bound(_part(dag, nodes)):
        choices.learn(key, "levels")
        return None
    ways = {way: found for way in ("frontier", "depth", "agenda") if (found := _by_way(dag, nodes, way)) is not None}
    counts = {"levels": by_level, **{name: len(_ranked(found)[1]) for name, found in ways.items()}}
    best = cheapest(counts, len(nodes))
    choices.learn(key, best)
    return None if best == "levels" else ways[best]


def _by_way(dag: Dag, nodes: Ints, way: str) -> Ints | None:
    """Launch numbers of one component's nodes; None for levels, which stand already.

    A whole-graph schedule seen on the nodes of one component is a valid one there, too.
    """
    if way == "levels":
        return None
    if way == "frontier":
        return _frontier(_part(dag, nodes))[0]
    return (by_depth(dag) if way == "depth" else by_agenda(dag)).launch[nodes]


def schedule(dag: Dag, batching: str = "phases", choices: Choices | None = None, names: Sequence[Any] = ()) -> Schedule:
    """The launches of ``dag`` by one of the ways described above.

    >>> chain = Dag(np.array([0, 1, 0, 1]), 2, np.array([0, 0, 1, 1, 2]), np.array([0, 2]))
    >>> schedule(chain, "none").launches, schedule(chain, "phases").launches
    (4, 2)
    """
    if batching == "none":
        return by_none(dag)
    if batching == "depth":
        return by_depth(dag)
    if batching == "agenda":
        return by_agenda(dag)
    return by_phases(dag, batching, choices or Choices(), names or tuple(range(dag.signatures)))

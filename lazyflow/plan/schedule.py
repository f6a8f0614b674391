"""Which nodes run together, and in which order: pure functions from a `Dag` to a `Schedule`.

The nodes of one launch have one signature, and none of them needs another. Fewer launches are better. `WAYS` has the
ways that ``lf.using(batching=...)`` offers, each a function and a row:

- ``"none"``: every node on its own, as recorded.
- ``"depth"``: nodes of one signature at one depth of the whole graph (TensorFlow Fold: Looks et al. 2017).
- ``"agenda"``: of the signatures with ready nodes, the one with the lowest mean depth (DyNet: Neubig, Goldberg and Dyer
  2017).
- ``"levels"`` and ``"frontier"``: *phases* first. The signatures form a graph, an edge where some node of one feeds
  some node of the other. Its strongly connected components are run one after another; a component without a cycle is
  ONE launch, at whatever depth its nodes stand. Inside a recurrent component, ``"levels"`` goes by depth counted
  there, and ``"frontier"`` runs, of the signatures with ready nodes, the one with the largest share of ready nodes
  among those that could still join: those whose same-signature ancestors have all run (the reward that ED-Batch learns
  a policy for, Chen et al. 2023, used greedily). It does so from both ends of the graph, and keeps what has fewer
  launches.
- ``"phases"``: for each component the cheapest of these (`INSIDE`), as `Choices` remembers it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lazyflow import passes, settings
from lazyflow.core import arrays
from lazyflow.core.arrays import Ints


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
    def nodes(self) -> passes.Nodes:
        """The same as `lazyflow.passes` have it."""
        return passes.Nodes(self.signature, self.signatures, self.starts, self.operands, np.empty(0, np.int64))


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


def dag_edges(dag: Dag) -> Ints:
    """``edges[a, b]``: some node of signature ``a`` feeds some node of signature ``b``."""
    found: Ints = passes.signature_edges(dag.nodes)
    return found


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
                    found.append(_component_left(node, on_stack, stack))
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


def _component_left(node: int, on_stack: list[bool], stack: list[int]) -> tuple[int, ...]:
    members = []
    while True:
        member = stack.pop()
        on_stack[member] = False
        members.append(member)
        if member == node:
            return tuple(sorted(members))


def by_none(nodes: passes.Nodes) -> Schedule:
    """Every node a launch of its own, in recorded order."""
    alone = nodes.call == np.arange(len(nodes))
    launch = (np.cumsum(alone) - 1)[nodes.call]
    count = int(alone.sum())
    return Schedule(launch, count, np.zeros(count, np.int64))


def by_depth(nodes: passes.Nodes) -> Schedule:
    """One launch for each depth and signature."""
    launch, phase, *_ = passes.by_levels(nodes, np.zeros(nodes.signatures, np.int64), 1)
    return Schedule(launch, len(phase), phase)


def by_agenda(nodes: passes.Nodes) -> Schedule:
    """The ready signature of the lowest mean depth next, with all of its ready nodes."""
    launch, launches = passes.agenda(nodes)
    return Schedule(launch, launches, np.zeros(launches, np.int64))


def from_the_start(nodes: passes.Nodes) -> tuple[Ints, int]:
    """Launch numbers of the nodes, by the share of ready nodes among those that could join, greedily; and how many."""
    found: tuple[Ints, int] = passes.frontier(nodes)
    return found


def from_the_end(nodes: passes.Nodes) -> tuple[Ints, int]:
    """The same from the other end of the graph: the last launch is chosen first."""
    launch, launches = passes.frontier(passes.backwards(nodes))
    return launches - 1 - launch[::-1], launches


def lower_bound(dag: Dag) -> int:
    """No schedule has fewer launches: for every signature its longest chain of dependent nodes, summed."""
    return _fewest(dag.nodes)


def _fewest(nodes: passes.Nodes) -> int:
    length, _ = passes.longest_chains(nodes)
    longest = np.zeros(nodes.signatures, np.int64)
    np.maximum.at(longest, nodes.signature, length)
    return int(longest.sum())


@dataclass(frozen=True, eq=False)
class Choice:
    """What was learned of one component: the way that was cheapest, and on how many graphs it was compared."""

    way: str
    seen: int
    compared: int


# Up to so many nodes ways are compared every time. By compiled passes that takes 0.3 us a node; in Python, 4.
SMALL_GRAPH = 48 if passes.chains is None else 4096


class Choices:
    """What ``"phases"`` remembers: for each recurrent component, known by its signatures, the way that was cheapest.

    A component of up to ``small`` nodes is compared every time, for that costs less than a launch saved; a larger one
    when it is seen for the 1st, 4th, 16th, 64th... time.
    """

    def __init__(self, small: int = SMALL_GRAPH, most: int = 4096) -> None:
        self.small = small
        self.most = most
        self.known: dict[object, Choice] = {}

    def due(self, key: object, nodes: int) -> bool:
        choice = self.known.get(key)
        return choice is None or nodes <= self.small or choice.seen + 1 == 4**choice.compared

    def way(self, key: object) -> str:
        choice = self.known.get(key)
        if choice is None:  # another thread has put its own in the last free place
            return "levels"
        self.known[key] = Choice(choice.way, choice.seen + 1, choice.compared)
        return choice.way

    def learn(self, key: object, way: str) -> None:
        choice = self.known.get(key, Choice(way, 0, 0))
        if len(self.known) >= self.most and key not in self.known:
            self.known.pop(next(iter(self.known)), None)  # the oldest: its model may be long gone
        self.known[key] = Choice(way, choice.seen + 1, choice.compared + 1)


# What one launch costs beyond its arithmetic, forward and backward, and what frontier adds to scheduling for each
# node; in microseconds, as measured by ``python -m benchmarks launches``.
LAUNCH_US = 40.0
FRONTIER_NODE_US = 2.0 if passes.chains is None else 0.15


def cheapest(counts: Mapping[str, int], nodes: int) -> str:
    """The way inside of a component that costs least: its launches, and its scheduling time where that is worth
    counting. Never more launches than those that are a ceiling, whatever the time."""
    ceiling = min(counts[way] for way, inside in INSIDE.items() if inside.is_ceiling)
    allowed = {way: n for way, n in counts.items() if n <= ceiling}
    return min(allowed, key=lambda way: (allowed[way] * LAUNCH_US + nodes * INSIDE[way].node_us, way != "levels"))


Inner = Callable[["Component"], tuple[Ints, int] | None]  # launch numbers of its nodes, and how many; None for levels


def by_phases(nodes: passes.Nodes, inside: Inner) -> Schedule:
    """Components one after another; a recurrent one goes ``inside`` as that function says, or by levels."""
    parts = components(passes.signature_edges(nodes))
    launch, phase, sizes, counts, heights = passes.by_levels(nodes, parts.of_signature, len(parts.members))
    others = {}
    # Where there are as many levels as launches, none can be saved: the nodes of the longest path run one by one.
    for i in np.flatnonzero(parts.recurrent & (counts != heights + 1)).tolist():
        part = Component(nodes, parts, i, int(sizes[i]), int(counts[i]))
        found = inside(part)
        if found is not None:
            others[i] = part.members, *found
    return _with(others, launch, counts, nodes) if others else Schedule(launch, len(phase), phase)


@dataclass(frozen=True, eq=False)
class Component:
    """One component of a graph: its number, how many nodes it has, and in how many launches levels run them."""

    whole: passes.Nodes
    parts: Components
    number: int
    size: int
    levels: int

    @cached_property
    def _cut(self) -> tuple[Ints, passes.Nodes]:
        found: tuple[Ints, passes.Nodes] = passes.part(self.whole, self.parts.of_signature, self.number)
        return found

    @property
    def members(self) -> Ints:
        """Its nodes."""
        return self._cut[0]

    @property
    def nodes(self) -> passes.Nodes:
        """The subgraph, with its own numbering of nodes and signatures."""
        return self._cut[1]

    def by_way(self, way: str) -> tuple[Ints, int] | None:
        """The launch numbers of its nodes, and how many; None for levels, and where these have no more."""
        found = INSIDE[way].find(self)
        return found if found is not None and found[1] < self.levels else None


class Inside(NamedTuple):
    """A way through a recurrent component that `by_phases` may take: ``node_us`` is what it adds to scheduling for each
    node; of one that is a ceiling no other may have more launches."""

    find: Inner
    node_us: float = 0.0
    is_ceiling: bool = False


def _by_levels(part: Component) -> None:
    """By the depth counted inside of the component, which `by_phases` does itself."""


def _by_whole(by: Callable[[passes.Nodes], Schedule]) -> Inner:
    """A whole-graph schedule seen on the nodes of one component, a valid one there, too."""

    def find(part: Component) -> tuple[Ints, int]:
        launch, distinct = arrays.ranked(by(part.whole).launch[part.members])
        return launch, len(distinct)

    return find


INSIDE: Mapping[str, Inside] = {
    "levels": Inside(_by_levels),
    "frontier": Inside(lambda part: from_the_start(part.nodes), FRONTIER_NODE_US),
    "backward": Inside(lambda part: from_the_end(part.nodes), FRONTIER_NODE_US),
    "depth": Inside(_by_whole(by_depth), is_ceiling=True),
    "agenda": Inside(_by_whole(by_agenda), FRONTIER_NODE_US, is_ceiling=True),
}


def _of_both_ends(part: Component) -> tuple[Ints, int] | None:
    """The frontier from the end of the graph where it takes fewer launches."""
    return min(filter(None, map(part.by_way, ("frontier", "backward"))), key=lambda found: found[1], default=None)


def _cheapest(part: Component, choices: Choices, names: Sequence[object]) -> tuple[Ints, int] | None:
    """The launches of one recurrent component, None if they are to go by levels."""
    key = tuple(names[s] for s in part.parts.members[part.number])
    if not choices.due(key, part.size):
        return part.by_way(choices.way(key))
    if part.levels == _fewest(part.nodes):
        choices.learn(key, "levels")
        return None
    found = {way: part.by_way(way) for way in INSIDE}
    counts = {way: part.levels if f is None else f[1] for way, f in found.items()}
    best = cheapest(counts, part.size if part.size > choices.small else 0)
    choices.learn(key, best)
    return found[best]


def _with(others: Mapping[int, tuple[Ints, Ints, int]], launch: Ints, counts: Ints, nodes: passes.Nodes) -> Schedule:
    """The launches by levels, of ``counts`` in each component, with those of some components replaced: members, their
    launch numbers, and how many."""
    now = counts.copy()
    for i, (_, _, launches) in others.items():
        now[i] = launches
    origin = arrays.begins(now)
    component = np.repeat(np.arange(len(counts)), counts)[launch]
    moved = launch + (origin - arrays.begins(counts))[component]
    for i, (members, found, _) in others.items():
        moved[members] = origin[i] + found
    return Schedule(moved[nodes.call], int(origin[-1]), np.repeat(np.arange(len(now)), now))


# What ``lf.using(batching=...)`` offers, by name: functions of the nodes, of what was learned of components, and of
# what each signature is called there (the same for the same signature in every graph).
Scheduler = Callable[["passes.Nodes", Choices, Sequence[object]], Schedule]
WAYS: Mapping[str, Scheduler] = {
    "phases": lambda nodes, choices, names: by_phases(nodes, lambda part: _cheapest(part, choices, names)),
    "levels": lambda nodes, *_: by_phases(nodes, _by_levels),
    "frontier": lambda nodes, *_: by_phases(nodes, _of_both_ends),
    "depth": lambda nodes, *_: by_depth(nodes),
    "agenda": lambda nodes, *_: by_agenda(nodes),
    "none": lambda nodes, *_: by_none(nodes),
}
settings.BATCHINGS[:] = WAYS


def scheduled(nodes: passes.Nodes, batching: str, choices: Choices, names: Sequence[object]) -> Schedule:
    """The launches of nodes by one of the ways described above; a cell's further results run with its call."""
    return WAYS[batching](nodes, choices, names)


def schedule(
    dag: Dag, batching: str = "phases", choices: Choices | None = None, names: Sequence[object] = ()
) -> Schedule:
    """The launches of ``dag`` by one of the ways described above.

    >>> chain = Dag(np.array([0, 1, 0, 1]), 2, np.array([0, 0, 1, 1, 2]), np.array([0, 2]))
    >>> schedule(chain, "none").launches, schedule(chain, "phases").launches
    (4, 2)
    """
    return scheduled(dag.nodes, batching, choices or Choices(), names or tuple(range(dag.signatures)))

"""Schedules in the plainest Python, to hold the fast ones against: nodes are pairs of a signature and operands.

A schedule is a list of launches, a launch a list of node numbers. Nothing here is shared with the package.
"""

from __future__ import annotations

from collections.abc import Sequence

Node = tuple[int, Sequence[int]]


def as_pairs(signatures: Sequence[int], starts: Sequence[int], operands: Sequence[int]) -> list[Node]:
    """Nodes from flat arrays: the operands of node ``i`` are ``operands[starts[i]:starts[i + 1]]``."""
    return [
        (int(signature), [int(o) for o in operands[starts[i] : starts[i + 1]]])
        for i, signature in enumerate(signatures)
    ]


def depths(nodes: Sequence[Node]) -> list[int]:
    """The number of edges on the longest path from each node down to one without operands."""
    found: list[int] = []
    for _, operands in nodes:
        found.append(1 + max((found[o] for o in operands), default=-1))
    return found


def by_depth(nodes: Sequence[Node]) -> list[list[int]]:
    """A launch for every depth and signature that occur together; depths ascend (Looks et al. 2017)."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, ((signature, _), depth) in enumerate(zip(nodes, depths(nodes), strict=True)):
        groups.setdefault((depth, signature), []).append(number)
    return [groups[key] for key in sorted(groups)]


def by_agenda(nodes: Sequence[Node]) -> list[list[int]]:
    """Again and again, all ready nodes of one signature: the one of lowest mean depth over the whole graph (Neubig,
    Goldberg and Dyer 2017). Of equal means, the lower number."""
    depth = depths(nodes)
    of_signature: dict[int, list[int]] = {}
    for number, (signature, _) in enumerate(nodes):
        of_signature.setdefault(signature, []).append(depth[number])
    mean = {signature: sum(all_) / len(all_) for signature, all_ in of_signature.items()}
    users: list[list[int]] = [[] for _ in nodes]
    for number, (_, operands) in enumerate(nodes):
        for operand in set(operands):
            users[operand].append(number)
    waiting = [len(set(operands)) for _, operands in nodes]
    ready = [number for number, count in enumerate(waiting) if count == 0]
    launches = []
    while ready:
        signature = min((nodes[number][0] for number in ready), key=lambda s: (mean[s], s))
        launch = [number for number in ready if nodes[number][0] == signature]
        launches.append(launch)
        ready = [number for number in ready if nodes[number][0] != signature]
        for number in launch:
            for user in users[number]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    ready.append(user)
    return launches


def lower_bound(nodes: Sequence[Node]) -> int:
    """For every signature the longest chain of nodes of that signature in which each needs the one before; summed.

    No schedule has fewer launches, for two nodes of such a chain are never in one launch.
    """
    chains: list[dict[int, int]] = []  # of each node: by signature, the longest chain among the node and all it needs
    for signature, operands in nodes:
        longest: dict[int, int] = {}
        for operand in operands:
            for other, length in chains[operand].items():
                longest[other] = max(length, longest.get(other, 0))
        longest[signature] = longest.get(signature, 0) + 1
        chains.append(longest)
    best: dict[int, int] = {}
    for longest in chains:
        for signature, length in longest.items():
            best[signature] = max(length, best.get(signature, 0))
    return sum(best.values())


def fewest_launches(nodes: Sequence[Node]) -> int:
    """The least number of launches of any schedule, by trying all: breadth-first over sets of nodes that have run."""
    everything = (1 << len(nodes)) - 1
    needs = [sum(1 << o for o in set(operands)) for _, operands in nodes]
    frontier, seen, launches = {0}, {0}, 0
    while everything not in frontier:
        frontier = {after for done in frontier for after in _one_launch_later(nodes, needs, done)} - seen
        seen |= frontier
        launches += 1
    return launches


def _one_launch_later(nodes: Sequence[Node], needs: Sequence[int], done: int) -> set[int]:
    """All ready nodes of one signature; fewer of them would never make for fewer launches."""
    after: dict[int, int] = {}
    for number, (signature, _) in enumerate(nodes):
        if not done >> number & 1 and needs[number] & ~done == 0:
            after[signature] = after.get(signature, done) | 1 << number
    return set(after.values())


def faults(nodes: Sequence[Node], launches: Sequence[Sequence[int]]) -> list[str]:
    """What is wrong with a schedule: nothing, for a valid one."""
    found = []
    order = sorted(number for launch in launches for number in launch)
    if order != list(range(len(nodes))):
        found.append(f"the launches hold the nodes {order}, not each of {len(nodes)} once")
    done: set[int] = set()
    for position, launch in enumerate(launches):
        if len({nodes[number][0] for number in launch}) != 1:
            found.append(
                f"launch {position} does not have exactly one signature: {[nodes[number][0] for number in launch]}"
            )
        for number in launch:
            if not done.issuperset(nodes[number][1]):
                found.append(f"node {number} in launch {position} runs before its operands {list(nodes[number][1])}")
        done.update(launch)
    return found

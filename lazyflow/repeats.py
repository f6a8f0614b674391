"""Each thing once: nodes that compute the same are one node.

In real text half of the leaves of a minibatch of trees are repeats, inner nodes hardly ever. So repeats are looked for
where payload enters (look-ups, calls of cells with an index) and then only among nodes all of whose operands were found
repeated: everything that hangs on a word alone, at no cost for the rest of the graph.

Nodes are compared by signature, payload and operands, a column at a time and never by a hash. Random nodes, and nodes
that somebody watches (`Expr.retain_grad`, hooks), stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lazyflow import jit, loops
from lazyflow.graph import Graph, Ints
from lazyflow.tape import CONSTANT, KNOWN, OUTPUT, RAGGED, Signature

FEWEST = 2  # nodes of one signature that are worth a look
WORTH = 64  # each round passes over all edges: one edge in so many must lead to a node that may be a repeat


def without_repeats(graph: Graph) -> Graph:
    """The graph with each group of equal nodes as one; rows of the tapes point to the one that is left."""
    found = _by_loops(graph) if jit.by_loops() else _by_arrays(graph)
    if found is None:
        return graph
    new, signature, starts, base, shift, int_starts, float_starts, origin, results, tape_base = found
    return replace(
        graph,
        signature=signature,
        starts=starts,
        base=base,
        shift=shift,
        int_starts=int_starts,
        float_starts=float_starts,
        origin=origin,
        roots=tuple([(int(new[base]), shift) for base, shift in graph.roots]),
        known=new[graph.known],
        tape_base=tape_base,
        results=results,
    )


def _by_loops(graph: Graph) -> tuple[Ints, ...] | None:
    """The new number of each node and the graph's arrays without repeats, or None if there are none."""
    counts = [np.array([getattr(s, name) for s in graph.signatures], np.int64) for name in ("ints", "floats")]
    columns = graph.signature, graph.starts, graph.base, graph.shift
    payload = graph.int_starts, graph.ints, graph.float_starts, graph.floats.view(np.int64)
    merged, found = jit.compiled(loops.without_repeats)(
        _usable(graph), *columns, *payload, *counts, graph.results, FEWEST, WORTH, graph.origin, graph.tape_base
    )
    return found if merged else None


def _by_arrays(graph: Graph) -> tuple[Ints, ...] | None:
    """The same without a compiler."""
    first = _first_equals(graph)
    if first is None:
        return None
    kept = np.flatnonzero(first == np.arange(len(graph)))
    new = np.empty(len(graph), np.int64)
    new[kept] = np.arange(len(kept))
    new = new[first]
    counts = np.diff(graph.starts)
    edges = np.repeat(first == np.arange(len(graph)), counts)
    starts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(counts[kept], out=starts[1:])
    rows = np.arange(int(graph.tape_starts[-1]) + 1)
    rows[graph.origin] = graph.origin[first]
    payload = graph.int_starts[kept], graph.float_starts[kept], graph.origin[kept]
    results = new[graph.results[first[graph.results] == graph.results]]
    columns = graph.signature[kept], starts, new[graph.base[edges]], graph.shift[edges]
    return new, *columns, *payload, results, rows[graph.tape_base]


def _first_equals(graph: Graph) -> Ints | None:
    """For each node the first one that equals it; None if all differ."""
    usable = _usable(graph)
    counts = np.diff(graph.starts)
    nodes = np.flatnonzero(usable & (counts == 0))
    if len(nodes) < FEWEST:
        return None
    first = np.arange(len(graph))
    repeated = np.zeros(len(graph), bool)
    users = np.repeat(np.arange(len(graph)), counts)
    done = np.zeros(len(graph), bool)
    while len(nodes) * WORTH > len(graph.base):
        done[nodes] = True
        found = _merge(graph, nodes, first)
        if not len(found):
            break
        repeated[found] = True
        _spread_to_results(graph, found, first, repeated)
        # Whoever reads repeated nodes alone is next: of all others a repeat would be chance.
        readers, reads = _runs(users[repeated[graph.base]])
        nodes = readers[(reads == counts[readers]) & usable[readers] & ~done[readers]]
    return first if repeated.any() else None


def _runs(ascending: Ints) -> tuple[Ints, Ints]:
    """The distinct values of an ascending array, and how often each occurs."""
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1]))[: len(ascending)])
    return ascending[starts], np.diff(starts, append=len(ascending))


def _usable(graph: Graph) -> Ints:
    """Nodes that may be one with another."""
    table = np.array([_may_repeat(s) for s in graph.signatures], bool)
    usable = table[graph.signature]
    usable[graph.call[watched(graph)]] = False
    return usable


def watched(graph: Graph) -> Ints:
    """The nodes that somebody watches, by a hook or `Expr.retain_grad`."""
    found = [np.empty(0, np.int64)]
    for number, reference in enumerate(graph.tapes):
        tape = reference()
        if tape is not None and (tape.retained or tape.hooks):
            start, low = int(graph.tape_starts[number]), int(graph.tape_lows[number])
            rows = np.array([*tape.retained, *tape.hooks], np.int64) - low + start
            rows = rows[(rows >= start) & (rows < graph.tape_starts[number + 1])]
            found.append(np.flatnonzero(np.isin(graph.origin, graph.tape_base[rows])))
    return np.concatenate(found)


def _may_repeat(signature: Signature) -> bool:
    if signature.op in (CONSTANT, KNOWN, OUTPUT) or signature.draws or signature.rows == RAGGED:
        return False
    return signature.rows > 0 or signature.ints > 0 or signature.floats > 0


def _merge(graph: Graph, nodes: Ints, first: Ints) -> Ints:
    """Point equal ones among ``nodes`` to the first of them, in ``first``; returns all that have an equal."""
    kinds = graph.signature[nodes]
    present = np.flatnonzero(np.bincount(kinds)).tolist()
    for s in present:
        mine = nodes if len(present) == 1 else nodes[kinds == s]
        if len(mine) >= FEWEST:
            first[mine] = mine[_leaders(_key(graph, mine, graph.signatures[s], first))]
    leaders = first[nodes]
    size = np.bincount(leaders, minlength=len(graph))
    repeated: Ints = nodes[size[leaders] > 1]
    return repeated


def _leaders(key: Ints) -> Ints:
    """For each element the position of the first one that equals it; keys are small non-negative numbers."""
    positions = np.arange(len(key))
    table = np.empty(int(key.max()) + 1, np.int64)  # only what is written is read
    table[key[::-1]] = positions[::-1]
    found: Ints = table[key]
    return found


# Keys go through a table of this many entries at most; NumPy takes its memory only where it is touched.
LARGEST = 1 << 22


def _key(graph: Graph, nodes: Ints, signature: Signature, first: Ints) -> Ints:
    """A small number for each node, the same for equal ones and for these only."""
    key = np.zeros(len(nodes), np.int64)
    size = 1
    for column in _columns(graph, nodes, signature, first):
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        sparse = high - low + 1 > LARGEST
        ranks = np.unique(column, return_inverse=True)[1] if sparse else column - low
        width = int(ranks.max()) + 1
        key = key * width + ranks
        size *= width
        if size > LARGEST:
            key = np.unique(key, return_inverse=True)[1]
            size = int(key.max()) + 1
    return key


def _columns(graph: Graph, nodes: Ints, signature: Signature, first: Ints) -> Iterator[Ints]:
    """All that must be equal, column by column."""
    for k in range(signature.ints):
        yield graph.ints[graph.int_starts[nodes] + k]
    for k in range(signature.floats):
        yield graph.floats[graph.float_starts[nodes] + k].view(np.int64)  # 0.0 and -0.0 differ
    for k in range(signature.rows):
        edges = graph.starts[nodes] + k
        yield first[graph.base[edges]]
        yield graph.shift[edges]


def _spread_to_results(graph: Graph, calls: Ints, first: Ints, repeated: Ints) -> None:
    """The further results of equal calls are equal."""
    if len(graph.results):
        mine = np.zeros(len(graph), bool)
        mine[calls] = True
        results = graph.results[mine[graph.call[graph.results]]]
        call = graph.call[results]
        first[results] = first[call] + results - call
        repeated[results] = True

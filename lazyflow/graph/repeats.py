"""Each thing once: nodes that compute the same are one node.

In real text half of the leaves of a minibatch of trees are repeats, inner nodes hardly ever. So repeats are looked for
where payload enters (look-ups, calls of cells with an index) and then only among nodes all of whose operands were found
repeated: everything that hangs on a word alone, at no cost for the rest of the graph.

This is the search for common subexpressions (Cocke 1970) by numbers of values: operands that were found equal have one
number already when what reads them is looked at, so that one pass in topological order finds equal graphs of any depth.

Nodes are compared by signature, payload and operands, never by a hash alone. Random nodes, and nodes that somebody
watches (`Expr.retain_grad`, hooks), stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import Ints
from lazyflow.graph.graph import Graph
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, OUTPUT_OP, RAGGED, Signature

FEWEST_ALIKE = 2  # nodes of one signature that are worth a look
WORTH = 64  # a look passes over all edges: one node without operands that may be a repeat must come on so many


def repeats_merged(graph: Graph) -> Graph:
    """The graph with each group of equal nodes as one; rows of the tapes point to the one that is left."""
    if not may_repeat(graph):
        return graph
    ints, floats = (np.array([getattr(s, name) for s in graph.signatures], np.int64) for name in ("ints", "floats"))
    compared = graph.nodes, graph.shift, graph.payload, (ints, floats), _usable(graph)
    found = passes.without_repeats(*compared, (graph.origin, graph.tape_base), FEWEST_ALIKE, WORTH)
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


def may_repeat(graph: Graph) -> bool:
    """Whether there is anything to look at: repeats begin at leaves, and known ones are left as they are."""
    leaves = np.count_nonzero(graph.starts[1:] == graph.starts[:-1])
    return int(leaves) - len(graph.known) >= FEWEST_ALIKE


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
            rows = [place for _, place in graph.places_of(number, [*tape.retained, *tape.hooks])]
            found.append(np.flatnonzero(np.isin(graph.origin, graph.tape_base[rows])))
    return np.concatenate(found)


def _may_repeat(signature: Signature) -> bool:
    if signature.op in (CONSTANT_OP, KNOWN_OP, OUTPUT_OP) or signature.draws or signature.rows == RAGGED:
        return False
    return bool(signature.operands)  # what is computed of parameters alone, such as a transpose, repeats too

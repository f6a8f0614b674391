"""Chains: neighbouring elementwise nodes become one node, whose launches are fused kernels.

In a scheduled plan the rows of neighbouring launches rarely align: a launch of all sigmoids holds three of the gates of
every node, one of all products the terms of every sum. In the graph they align by construction. So nodes are joined
there, before anything is scheduled: a *chain* has the signature of a cell (`lazyflow.cells.program`) and all that cells
have, and takes part in the schedule as one node.

This is what compilers of static graphs do once a model, the fusion of injective operators of TVM (Chen et al. 2018);
here a graph is new each time, so that it has to be one linear pass, and equal chains have to be found to be equal.

A node joins a chain if nobody else reads it, and what does reads all of it, element by element. So a chain has one
result, and a gradient that reaches it reaches all of its members: none gets one (and a NaN, where zero meets an
infinite slope) that it would not have alone. One pass against the order of recording finds all chains. They are told
apart by what they are made of, member by member, in a trie; equal ones are one signature.

A chain of nodes of rows (`lazyflow.graph.joined`) has a call for each row. Nodes that somebody watches
(`Expr.retain_grad`, hooks) join nothing. What reads a parameter is always a result: its value must stay the one under
the parameter as it was.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.cells.program import Program, call_signature, elementwise_formulas, with_gradients_of_results
from lazyflow.cells.steps import ELEMENTWISE, REF_FLOAT, REF_INPUT, REF_NODE, REF_PARAMETER, Node, Ref
from lazyflow.core.arrays import Ints
from lazyflow.graph.graph import Graph
from lazyflow.graph.repeats import watched
from lazyflow.locks import Lock
from lazyflow.record.tape import Operand, Signature, Type

# NumPy calls gather every operand first, which costs more than the launches that are saved.
CHAIN_FUSIONS = ("core", "cuda")
FEWEST_CHAINS = 4  # chains of one structure in a graph that are worth a kernel
MOST_MEMBERS = 32  # members of a chain
SLOTS = 4  # operands that are rows, of a member
MOST_STRUCTURES = 128  # structures that are kept
AGE = 256  # graphs without it after which a structure gives way to a new one


class Member(NamedTuple):
    """One node of a chain: its signature, and for each operand that is a row the member it is (-1: from outside) and
    the element it is read from. The last member is the result."""

    signature: Signature
    inside: tuple[int, ...]
    shifts: tuple[int, ...]


Structure = tuple[Member, ...]


class Chains:
    """When chains are made, and the signatures of those that were.

    They are made where kernels are one of ``fusions``, of what stands in a graph ``fewest`` times or more. Up to
    ``most`` structures are kept; a new one takes the place of one that has not come by in the last ``age`` graphs, or
    is refused: each costs the time to compile its kernels.
    """

    def __init__(
        self,
        fusions: Collection[str] = CHAIN_FUSIONS,
        fewest: int = FEWEST_CHAINS,
        most: int = MOST_STRUCTURES,
        age: int = AGE,
    ) -> None:
        self.fusions, self.fewest, self.most, self.age = fusions, fewest, most, age
        self.graphs = 0
        self.known: OrderedDict[Structure, tuple[Signature, int]] = OrderedDict()
        self.kinds: weakref.WeakKeyDictionary[Signature, _Kind] = weakref.WeakKeyDictionary()
        self.lock = Lock()

    def kind(self, signature: Signature) -> _Kind:
        """What joining needs to know of a signature."""
        found = self.kinds.get(signature)
        if found is None:
            found = self.kinds[signature] = _chain_kind(signature)
        return found

    def next_graph(self) -> None:
        """Another graph comes by."""
        with self.lock:
            self.graphs += 1

    def signature(self, structure: Structure) -> Signature | None:
        """The signature of all chains of a structure."""
        with self.lock:
            found = self.known.get(structure)
            if found is None and not self._has_room():
                return None
            signature = _signature(structure) if found is None else found[0]
            self.known[structure] = signature, self.graphs
            self.known.move_to_end(structure)
            return signature

    def _has_room(self) -> bool:
        if len(self.known) >= self.most:
            for structure in [s for s, (signature, _) in self.known.items() if _is_bereft(signature)]:
                del self.known[structure]
        if len(self.known) >= self.most:
            oldest, (_, seen) = next(iter(self.known.items()))
            if self.graphs - seen <= self.age:
                return False
            del self.known[oldest]
        return True


def _is_bereft(signature: Signature) -> bool:
    """Whether a parameter of the signature has died."""
    kinds = [o.type for o in signature.operands if o.kind == "shared"]
    return any(k is not None and k.parameter is not None and k.parameter() is None for k in kinds)


class _Kind(NamedTuple):
    """Of a signature: what its neighbours must have in common to join it (None: it joins nothing), which of its rows
    are read whole, and whether its value is always a result."""

    joins: tuple[str, int] | None
    whole: tuple[bool, ...]
    output: bool


_NEVER_JOINED = _Kind(None, (), False)


def _chain_kind(signature: Signature) -> _Kind:
    kind, formulas = signature.type, None
    if not signature.loops and signature.op.elementwise and kind.dtype.name in ("float32", "float64"):
        formulas = elementwise_formulas(signature.op)
    if (
        formulas is None
        or not 0 < signature.rows <= SLOTS
        or not all(_operand_fits(o, kind) for o in signature.operands)
    ):
        return _NEVER_JOINED
    rows = [(o.type, _walks(signature, o)) for o in signature.operands if o.kind == "row"]
    whole = tuple(t is not None and t.size == kind.size and walks for t, walks in rows)
    return _Kind((kind.dtype.name, kind.size), whole, any(o.kind == "shared" for o in signature.operands))


def _walks(signature: Signature, operand: Operand) -> bool:
    """Whether a node of rows has one of the operand for each of its own; of any other node it is so."""
    return signature.walks is None or signature.walks[signature.operands.index(operand)]


def _operand_fits(operand: Operand, kind: Type) -> bool:
    if operand.kind == "float":
        return True
    size = operand.type.size if operand.type is not None and operand.kind in ("row", "shared") else 0
    return operand.dtype == kind.dtype and size in (1, kind.size) and size > 0


def _signature(structure: Structure) -> Signature:
    """The cell that computes a chain."""
    inputs: list[Type] = []
    walks: list[bool] = []
    parameters: dict[Type, int] = {}
    floats = 0

    def read(o: Operand, m: Member) -> Ref:
        nonlocal floats
        if o.kind == "float":
            floats += 1
            return Ref(REF_FLOAT, floats - 1, 0, o.shape, o.dtype, 1)
        assert o.type is not None
        if o.kind == "shared":
            kind, index = REF_PARAMETER, parameters.setdefault(o.type, len(parameters))
        elif m.inside[o.position] >= 0:
            kind, index = REF_NODE, m.inside[o.position]
        else:
            inputs.append(o.type)
            walks.append(_walks(m.signature, o))
            kind, index = REF_INPUT, len(inputs) - 1
        shift = m.shifts[o.position] if kind == REF_NODE else 0
        return Ref(kind, index, shift, o.shape, o.dtype, o.type.size, o.vjp is not None)

    members = [_program_node(m.signature, tuple(read(o, m) for o in m.signature.operands)) for m in structure]
    nodes, outputs = with_gradients_of_results(members, [len(members) - 1]), (len(members) - 1,)
    program = Program(_applied_name(structure), nodes, outputs, tuple(inputs), tuple(parameters), ())
    signature = call_signature(program, [structure[-1].signature.type], 0, floats)
    signature.line = structure[-1].signature.line
    if any(m.signature.walks is not None for m in structure):
        signature.walks = tuple(walks)
    return signature


def _program_node(signature: Signature, reads: tuple[Ref, ...]) -> Node:
    kind, formulas = signature.type, elementwise_formulas(signature.op)
    assert formulas is not None
    shape = kind.shape, kind.dtype, kind.size, True, signature.differentiable
    return Node(ELEMENTWISE, signature, reads, *shape, formulas[0], formulas[0].operands, formulas[1])


WIDEST = 60  # characters of a chain's name


def _applied_name(structure: Structure) -> str:
    """The operations as they are applied, those of the last member outermost."""

    def text(i: int, room: int) -> str:
        member = structure[i]
        found = member.signature.op.name
        below = [j for j in member.inside if j >= 0]
        if not below:
            return found
        room -= len(found) + 2 * len(below)
        parts = [text(j, room // len(below)) for j in below] if room >= 3 * len(below) else ["..."]
        return f"{found}({', '.join(parts)})"

    return text(len(structure) - 1, WIDEST)


class _Found(NamedTuple):
    """Of each node: the last member of its chain (itself if it is alone), its number among the members, and the
    structure of the chain whose last it is (-1 if none); and how many structures there are."""

    last: Ints
    number: Ints
    structure: Ints
    structures: int


# Loop fusion (Kennedy and McKinley 1993) over the graph of a whole minibatch. Three steps, all compiled but the second:
#
# 1. `passes.chains` finds the chains. It goes against the order of recording, so that who reads a node was there before
#    it: a node joins the chain of its one reader, if that reads all of it, element by element, and is no longer than
#    `MOST_MEMBERS`. The members of each chain are then read in order as a word over (signature, operands inside), and
#    equal words, found in a trie, are one *structure*. Nothing is compared twice, and a chain costs a step for each
#    member.
# 2. `_accepted` asks of each structure, not of each chain, whether it is worth a kernel, and makes or finds the
#    signature of its cell.
# 3. `passes.joined` writes the graph anew, with a call in place of the last member and nothing in place of the others.
#
# Two nodes of one signature have to end up in one launch. So where one of them is a result because others read it,
# those of the same surroundings are results as well, though nobody else happens to read them.


def with_chains(graph: Graph, chains: Chains) -> Graph:
    """The graph with chains of elementwise nodes as one node each; nodes inside of them are gone."""
    chains.next_graph()
    if len(graph) < 2 * chains.fewest:  # two members are the least
        return graph
    kinds = [chains.kind(s) for s in graph.signatures]
    able = np.array([k.joins is not None for k in kinds], bool)[graph.signature]
    joining = able[graph.base]
    if np.count_nonzero(joining) < chains.fewest:
        return graph
    joining &= np.repeat(
        able, np.diff(graph.starts)
    )  # edges from one that may join to another: a chain has one at least
    if np.count_nonzero(joining) < chains.fewest:
        return graph
    found = _chains_of(graph, kinds)
    table, which = _accepted(graph, found, chains)
    return _with_joined(graph, found, table, which) if len(table) > len(graph.signatures) else graph


def _chains_of(graph: Graph, kinds: Sequence[_Kind]) -> _Found:
    """All chains of a graph, whose signatures are of these kinds."""
    classes = {k: i for i, k in enumerate(dict.fromkeys(k.joins for k in kinds if k.joins is not None))}
    joins = np.array([-1 if k.joins is None else classes[k.joins] for k in kinds], np.int64)[graph.signature]
    joins[watched(graph)] = -1
    types = np.array([ord(dtype[-1]) for dtype, _ in classes])
    sizes = np.array([size for _, size in classes])
    whole = np.array([k.whole + (False,) * (SLOTS - len(k.whole)) for k in kinds], bool)
    output = np.array([k.output for k in kinds], bool)[graph.signature]
    output[[base for base, _ in graph.roots]] = True
    if graph.counts is not None:  # of nodes of rows nobody may read a part
        users = np.repeat(np.arange(len(graph)), np.diff(graph.starts))
        output[graph.base[(graph.counts[users] != graph.counts[graph.base]) | (graph.shift != 0)]] = True
    return _Found(*passes.chains(graph.nodes, graph.shift, joins, types, sizes, whole, output, MOST_MEMBERS))


def _accepted(graph: Graph, found: _Found, chains: Chains) -> tuple[list[Signature], Ints]:
    """The graph's signatures and those of the structures that are worth it; and for each structure which it has, -1 for
    none."""
    lasts = np.flatnonzero((found.structure >= 0) & (found.last == np.arange(len(graph))))
    structure = found.structure[lasts]
    first = np.full(found.structures, -1, np.int64)
    first[structure[::-1]] = lasts[::-1]
    table, which = list(graph.signatures), np.full(found.structures, -1, np.int64)
    for s in np.flatnonzero(np.bincount(structure, minlength=found.structures) >= chains.fewest).tolist():
        signature = chains.signature(_chain_structure(graph, found, int(first[s])))
        if signature is not None:
            which[s] = len(table)
            table.append(signature)
    return table, which


def _chain_structure(graph: Graph, found: _Found, last: int) -> Structure:
    """The structure of the chain that ends in a node."""
    members: list[Member] = []
    for i in np.flatnonzero(found.last[: last + 1] == last).tolist():
        edges = slice(int(graph.starts[i]), int(graph.starts[i + 1]))
        bases = graph.base[edges]
        own = found.last[bases] == last
        inside, shifts = np.where(own, found.number[bases], -1), np.where(own, graph.shift[edges], 0)
        signature = graph.signatures[graph.signature[i]]
        members.append(Member(signature, tuple(inside.tolist()), tuple(shifts.tolist())))
    return tuple(members)


def _with_joined(graph: Graph, found: _Found, table: Sequence[Signature], which: Ints) -> Graph:
    """The graph with the accepted chains as calls of their cells."""
    new, old, signature, starts, base, shift, inside = passes.joined(
        graph.nodes, graph.shift, found.last, found.structure, which
    )
    float_starts, copied = _floats_of_chains(graph, new, old)
    return replace(
        graph,
        signatures=tuple(table),
        signature=signature,
        starts=starts,
        base=base,
        shift=shift,
        int_starts=graph.int_starts[old],
        float_starts=float_starts,
        floats=np.concatenate([graph.floats, graph.floats[copied]]) if len(copied) else graph.floats,
        origin=graph.origin[old],
        roots=tuple([(int(new[base]), shift) for base, shift in graph.roots]),
        known=new[graph.known],
        results=new[graph.results],
        inside=graph.origin[inside],
        copied=copied,
        counts=None if graph.counts is None else graph.counts[old],
        form=None if graph.form is None else graph.form[old],
    )


def _floats_of_chains(graph: Graph, call: Ints, old: Ints) -> tuple[Ints, Ints]:
    """Payload: that of the members of each chain side by side, behind all other. Where it begins, and which it is."""
    starts = graph.float_starts[old]
    counts = np.array([s.floats for s in graph.signatures], np.int64)[graph.signature]
    size = np.bincount(call)
    member = np.flatnonzero((counts > 0) & (size[call] > 1))
    if not len(member):
        return starts, graph.copied
    member = member[np.argsort(call[member], kind="stable")]
    counts = counts[member]
    ends = np.cumsum(counts)
    copied = np.repeat(graph.float_starts[member] - ends + counts, counts) + np.arange(ends[-1])
    calls, first = np.unique(call[member], return_index=True)
    starts[calls] = len(graph.floats) + (ends - counts)[first]
    return starts, copied

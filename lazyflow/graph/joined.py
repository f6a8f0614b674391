"""Joined rows: values whose first axis differs share a launch.

A sentence as a matrix of its words is n rows, and most of what is computed of it is computed row by row: products with
a weight, elementwise functions, softmax and norms along other axes. A node of such an operation computes exactly what n
nodes of the same operation on one row would compute in a launch, with operands that lie behind each other. So here it
gets the signature of *that* operation, of rows, which says nothing of n, and n as its count of rows (`Graph.counts`):
the schedule sees one signature for all lengths, the layout counts rows in place of nodes, and a kernel is given all
rows of all nodes as one batch. Kernels, vjps, gradients of parameters and everything else that is made for a batch
holds for them as it is.

Of an operand a node reads n rows (it *walks*), or one row for all of its own: a bias, a vector of the example that is
broadcast. The latter's cotangents are added where it was read, once for each row: the sum over its segment. Nodes that
read a matrix for all of their rows are joined with those that read the same one.

Sums over all rows, reading some of them by an index, and sums by segments have operands with a number of rows of their
own. A launch of such nodes has all rows of all nodes, too, and a kernel that is told where those of each begin
(`Signature.spans`).

This comes after repeats were looked for, among nodes of exact types, and before chains and schedule; shapes were
checked when the line was recorded. Where all nodes of a kind are of one length nothing is joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import Ints
from lazyflow.graph.graph import Graph
from lazyflow.ops.base import NOTHING, Shape
from lazyflow.ops.rows import ByParts, ByRows, by_parts, by_rows
from lazyflow.ops.stretches import LOOPED_ON_HOST
from lazyflow.record.tape import (
    CONSTANT_OP,
    IMPORT_OP,
    INPUT_OP,
    KNOWN_OP,
    OUTPUT_OP,
    VIEW_OP,
    Operand,
    Signature,
    Type,
    intern_type,
    interned,
    leaf_signature,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lazyflow.ops.base import Op

LEAVES = (CONSTANT_OP, IMPORT_OP, INPUT_OP, KNOWN_OP, OUTPUT_OP, VIEW_OP)


def with_joined_rows(graph: Graph) -> Graph:
    """The graph with nodes that work row by row as nodes of rows, where there are several lengths of a kind."""
    kin = [_kin(s) for s in graph.signatures]
    several = [family for k in kin for family in (k.rows, k.parts) if family is not None]
    if len(set(several)) == len(several):
        return graph
    found, apart = _Choice(graph, kin).chosen()
    return _with_families(graph, found, apart) if found or apart else graph


def _with_families(graph: Graph, found: dict[int, Signature], apart: dict[int, Signature]) -> Graph:
    """The graph with the nodes of the signatures ``found`` as nodes of their families, and those of ``apart`` as nodes
    of theirs, whose operands have rows of their own number."""
    table, whole = list(graph.signatures), np.full(len(graph.signatures), -1, np.int64)
    members: dict[Signature, list[int]] = {}
    for s, family in (*found.items(), *apart.items()):
        members.setdefault(family, []).append(s)
    reading = [family for family in members if _large(family)]
    for family, mine in members.items():
        if family not in reading:
            whole[mine] = len(table)
            table.append(family)
    joined = whole[graph.signature] >= 0
    signature = np.where(joined, whole[graph.signature], graph.signature)
    for family in reading:
        nodes = np.flatnonzero(np.isin(graph.signature, members[family]))
        part = _parts(graph, family, nodes)
        for k in range(int(part.max(initial=-1)) + 1):
            signature[nodes[part == k]] = len(table)
            table.append(_part_of(family, k))
        joined[nodes[part >= 0]] = True
    lengths = np.ones(len(graph.signatures), np.int64)
    for s, family in (*found.items(), *apart.items()):
        lengths[s] = graph.signatures[s].type.size // family.type.size
    present, signature = _present(signature, len(table))
    signatures = tuple([table[s] for s in present.tolist()])
    counts = np.where(joined, lengths[graph.signature], 1)
    found_graph = replace(graph, signatures=signatures, signature=signature, counts=counts)
    return replace(found_graph, forms=graph.signatures, form=graph.signature) if apart else found_graph


def _present(numbers: Ints, most: int) -> tuple[Ints, Ints]:
    """The different ones of numbers below ``most``, ascending, and which of these each is; ``np.unique`` would sort."""
    there = np.zeros(most, bool)
    there[numbers] = True
    return there.nonzero()[0], (there.cumsum() - 1)[numbers]


def _parts(graph: Graph, family: Signature, nodes: Ints) -> Ints:
    """For each of the nodes of a family a number, the same for those that read the same matrices; -1 for those that
    read one for themselves alone, or with fewer others than would share a launch as nodes of one length."""
    edges = [graph.starts[nodes] + slot for slot in _large(family)]
    where = np.stack([column[e] for e in edges for column in (graph.base, graph.shift)])
    _, part, sizes = np.unique(where, axis=1, return_inverse=True, return_counts=True)
    part = part.reshape(-1)
    several, found = sizes[part] > 1, np.full(len(nodes), -1, np.int64)
    if np.count_nonzero(sizes > 1) > 1:
        several &= sizes[part] >= len(nodes) / _level_launches(graph, nodes)
    found[several] = np.unique(part[several], return_inverse=True)[1]
    return found


def _level_launches(graph: Graph, nodes: Ints) -> int:
    """How many launches some nodes take by levels, those of each length by themselves."""
    return len(np.unique(passes.depths(graph.nodes)[nodes] * len(graph.signatures) + graph.signature[nodes]))


def _walking(family: Signature) -> list[tuple[Operand, bool]]:
    """The operands that are rows, each with whether it walks."""
    assert family.walks is not None
    return [pair for pair in zip(family.operands, family.walks, strict=True) if pair[0].kind == "row"]


def _large(family: Signature) -> list[int]:
    """The places of operands that are one for all rows of a node, and larger than what is computed of each: to have one
    once for each row would cost more than is saved."""
    return [o.position for o, walks in _walking(family) if not walks and o.type and o.type.size > family.widths[0]]


def _part_of(family: Signature, number: int) -> Signature:
    """A signature like the family for the nodes of one part."""

    def make() -> Signature:
        found = Signature(family.op, family.operands, family.type, family.static, family.rows)
        found.walks, found.line = family.walks, family.line
        return found

    return interned(("part", family.serial, number), make) if number else family


# Nodes of one signature, at most, and signatures that are alike, at least, for which a loop is no slower than batches.
MOST_LOOPED, FEWEST_KINDS = 16, 3

# Static attributes that say what is computed, whatever the sizes.
SAYING = frozenset(("axis", "axis1", "axis2", "keepdims", "ndim", "of", "ord", "order", "inverse", "letters", "name"))
SAYING |= {"causal", "flat", "heads", "mask", "reduction"}


def with_loops(graph: Graph) -> Graph:
    """The graph with nodes of one operation and many shapes as nodes of one signature, which says nothing of shapes: a
    product of two values of an example, softmax along its length. A launch takes them one by one, where they lie."""
    alike: dict[Signature, list[int]] = {}
    for s, signature in enumerate(graph.signatures):
        whole = _kin(signature).alike
        if whole is not None:
            alike.setdefault(whole, []).append(s)
    if not any(len(mine) >= FEWEST_KINDS for mine in alike.values()):
        return graph
    sizes = np.bincount(graph.signature, minlength=len(graph.signatures)).tolist()
    few = {key: [s for s in mine if 0 < sizes[s] <= MOST_LOOPED] for key, mine in alike.items()}
    mine = [s for some in few.values() if len(some) >= FEWEST_KINDS for s in some]
    able = _with_rows_below(graph, mine)
    few = {key: [s for s in some if s in able] for key, some in few.items()}
    found = {key: some for key, some in few.items() if len(some) >= FEWEST_KINDS}
    return _with_loops(graph, found) if found else graph


def _with_rows_below(graph: Graph, asked: Sequence[int]) -> set[int]:
    """Those of the signatures that are of matrices, or of vectors computed of what is rows: others, such as hidden
    states, are of few sizes."""
    able = {s for s in asked if _kin(graph.signatures[s]).axes > 1}
    if len(able) == len(asked):
        return able
    first = _first_nodes(graph)
    for s in sorted(set(asked) - able, key=first.__getitem__):
        low, high = graph.starts[first[s]], graph.starts[first[s] + 1]
        bases = graph.signature[graph.base[low:high]].tolist()
        if any(base in able or graph.signatures[base].walks is not None for base in bases):
            able.add(s)
    return able


def _first_nodes(graph: Graph) -> Ints:
    """Of each signature the first node, the number of nodes where it has none."""
    first = np.full(len(graph.signatures), len(graph), np.int64)
    first[graph.signature[::-1]] = np.arange(len(graph))[::-1]
    return first


def _with_loops(graph: Graph, found: dict[Signature, list[int]]) -> Graph:
    table, number = list(graph.signatures), np.arange(len(graph.signatures))
    for whole, mine in found.items():
        number[mine] = len(table)
        table.append(whole)
    looped = (number >= len(graph.signatures))[graph.signature]
    for element, mine in _constants_of(graph, looped).items():
        if len(mine) > 1:
            number[mine] = table.index(element) if element in table else len(table)
            table += [] if element in table else [element]
    own = number == np.arange(len(number))
    sizes = np.array([1 if is_own else s.type.size for s, is_own in zip(graph.signatures, own, strict=True)], np.int64)
    counts = sizes[graph.signature]
    if graph.counts is not None:
        counts = np.where(own[graph.signature], graph.counts, counts)
    present, signature = _present(number[graph.signature], len(table))
    signatures = tuple([table[s] for s in present.tolist()])
    forms = (graph.signatures, graph.signature) if graph.form is None else (graph.forms, graph.form)
    return replace(graph, signatures=signatures, signature=signature, counts=counts, forms=forms[0], form=forms[1])


def _constants_of(graph: Graph, looped: Ints) -> dict[Signature, list[int]]:
    """The signatures of constants that nodes read one by one and no others, by that of their elements: which are
    brought in together."""
    users = np.repeat(looped, np.diff(graph.starts))
    read, others = np.zeros((2, len(graph.signatures)), bool)
    read[graph.signature[graph.base[users]]] = True
    others[graph.signature[graph.base[~users]]] = True
    found: dict[Signature, list[int]] = {}
    for s in np.flatnonzero(read & ~others).tolist():
        signature = graph.signatures[s]
        element = _kin(signature).element
        if element is not None and signature.walks is None and signature.type.size:
            found.setdefault(element, []).append(s)
    return found


def _element_family(constant: Signature) -> Signature:
    """The signature of constants of any shape by their elements."""
    kind = constant.type
    element = intern_type((), kind.dtype, kind.device, kind.requires_grad)
    return _interned_signature(constant, (), element, CONSTANT_OP, NOTHING, ())


def _may_loop(signature: Signature) -> bool:
    op = signature.op
    if op in LEAVES or signature.cell is not None or signature.walks is not None or signature.loops or signature.draws:
        return False
    kinds = _types_of_rows(signature)
    return len(kinds) > 1 and all(k.size for k in kinds) and _most_axes(signature) > 0


def _types_of_rows(signature: Signature) -> list[Type]:
    """The types of a result and of the operands that are rows."""
    return [signature.type, *[o.type for o in signature.operands if o.kind == "row" and o.type is not None]]


def _most_axes(signature: Signature) -> int:
    return max(kind.ndim for kind in _types_of_rows(signature))


def _likeness(signature: Signature) -> object:
    """What signatures have in common that are taken in one launch."""
    operands = tuple(
        [
            (o.kind, o.position, o.dtype, _flows(o), o.vjp is not None, o.type if o.kind == "shared" else len(o.shape))
            for o in signature.operands
        ]
    )
    static = tuple([(k, v) for k, v in sorted(signature.static.items()) if signature.by_element or k in SAYING])
    kind = signature.type
    return signature.op, operands, signature.rows, static, kind.ndim, kind.dtype, kind.device, kind.requires_grad


def _flows(operand: Operand) -> bool:
    return operand.type is not None and operand.type.requires_grad


def _looping(like: Signature) -> Signature:
    """The signature of all nodes that are alike: of single elements, as which the layout counts them."""

    def element(kind: Type | None) -> Type | None:
        return None if kind is None else intern_type((), kind.dtype, kind.device, kind.requires_grad)

    def make() -> Signature:
        operands = tuple(
            [o if o.kind == "shared" else o._replace(type=element(o.type), shape=()) for o in like.operands]
        )
        result = element(like.type)
        assert result is not None
        found = Signature(like.op, operands, result, like.static if like.by_element else NOTHING, like.rows)
        found.loops, found.line = True, like.line
        return found

    return interned(("each", _likeness(like)), make)


class _Walking(NamedTuple):
    """Of a family the places of the operands that have rows of their own, and of those among them whose rows are single
    numbers, of which not every vector is made."""

    places: tuple[int, ...]
    numbers: tuple[int, ...]


def _about(family: Signature) -> _Walking:
    mine = [o for o, walks in _walking(family) if walks]
    numbers = [] if _says_rows(family) else [o for o in mine if o.type is not None and o.type.ndim == 0]
    return _Walking(tuple([o.position for o in mine]), tuple([o.position for o in numbers if o.dtype.kind not in "iu"]))


class _Choice:
    """Which signatures of a graph are joined: those whose family has several lengths there. ``able``: those that would
    be, whatever the lengths; ``beside``: those of vectors of constants and draws alone, which what is able may read."""

    def __init__(self, graph: Graph, kin: Sequence[_Kin]) -> None:
        self.graph, self.kin = graph, kin
        self.first = _first_nodes(graph)
        self.able: set[int] = set()
        self.beside: set[int] = set()

    def chosen(self) -> tuple[dict[int, Signature], dict[int, Signature]]:
        """The family of each signature that is joined, and of each whose operands have numbers of rows of their own."""
        order = np.argsort(self.first, kind="stable")  # operands before users
        for s in order[self.first[order] < len(self.graph)].tolist():  # of a value that is known no node may be left
            if self.kin[s].walking is not None:
                self._look_at(s)
        found, apart = (
            _of_several_lengths({s: family for s in self.able if (family := getattr(self.kin[s], which)) is not None})
            for which in ("rows", "parts")
        )
        walked, elements = self._walked([*found, *apart]), self._by_elements([*found, *apart])
        constants = {s: k.rows for s, k in enumerate(self.kin) if k.rows is not None and s in walked}
        constants |= {s: element for s in elements if (element := self.kin[s].element) is not None}
        return found | _of_several_lengths(constants), apart

    def _look_at(self, s: int) -> None:
        """Note a signature as able, if its rows of one element are what is left of larger ones: computed of rows, or of
        what stands beside these, which is then taken along. What has other rows, too, may read any numbers."""
        walking = self.kin[s].walking
        below = self._numbers_below(s)
        others = [kind for kind in below if kind not in self.able]
        of_numbers = walking is None or len(walking.places) == len(below)
        if of_numbers and any(not self._stands_beside(kind) for kind in others):
            return
        if _draws_vectors(self.graph.signatures[s]) or (below and of_numbers and len(others) == len(below)):
            self.beside.add(s)
        elif walking is not None:
            self.able.add(s)
            self._take_along(others)

    def _numbers_below(self, s: int) -> list[int]:
        """The signatures of what the first node reads as rows of one element."""
        walking, start = self.kin[s].walking, int(self.graph.starts[self.first[s]])
        edges = [start + place for place in (() if walking is None else walking.numbers)]
        return [int(self.graph.signature[self.graph.base[edge]]) for edge in edges]

    def _stands_beside(self, s: int) -> bool:
        return s in self.beside or self.graph.signatures[s].op is CONSTANT_OP

    def _take_along(self, kinds: list[int]) -> None:
        """Of what is joined, what nothing but constants and draws go into."""
        while kinds:
            s = kinds.pop()
            if s in self.beside and s not in self.able:
                self.able.add(s)
                kinds += self._numbers_below(s)

    def _walked(self, joined: Sequence[int]) -> set[int]:
        """The signatures of constants that joined nodes read row by row."""
        graph, walked = self.graph, np.zeros(len(self.kin), bool)
        places: dict[int, list[int]] = {}
        for s in joined:
            walking = self.kin[s].walking
            for place in walking.places if walking is not None else ():
                places.setdefault(place, []).append(s)
        for place, mine in places.items():
            reads = np.zeros(len(self.kin), bool)
            reads[mine] = True
            nodes = np.flatnonzero(reads[graph.signature])
            walked[graph.signature[graph.base[graph.starts[nodes] + place]]] = True
        lists = np.zeros(len(self.kin), bool)
        lists[[s for s in joined if (parts := self.kin[s].parts) is not None and parts.op.gathers]] = True
        walked[graph.signature[graph.base[np.repeat(lists[graph.signature], np.diff(graph.starts))]]] = True
        return {s for s in np.flatnonzero(walked).tolist() if graph.signatures[s].op is CONSTANT_OP}

    def _by_elements(self, joined: Sequence[int]) -> set[int]:
        """The signatures of constants with several axes that joined nodes read number by number, and nobody else."""
        graph, of_numbers, places = self.graph, np.zeros(len(self.graph.base), bool), dict[int, list[int]]()
        for s in joined:
            walking = self.kin[s].walking
            for place in walking.numbers if walking is not None else ():
                places.setdefault(place, []).append(s)
        if not any(s.op is CONSTANT_OP and s.type.ndim > 1 for s in graph.signatures):
            return set()
        for place, mine in places.items():
            reads = np.zeros(len(self.kin), bool)
            reads[mine] = True
            of_numbers[graph.starts[np.flatnonzero(reads[graph.signature])] + place] = True
        read, others = np.zeros((2, len(self.kin)), bool)
        read[graph.signature[graph.base[of_numbers]]] = True
        others[graph.signature[graph.base[~of_numbers]]] = True
        found = np.flatnonzero(read & ~others).tolist()
        return {s for s in found if graph.signatures[s].op is CONSTANT_OP and graph.signatures[s].type.ndim > 1}


def _draws_vectors(signature: Signature) -> bool:
    """Of those that are no rows there are many of few sizes."""
    return bool(signature.draws) and signature.type.ndim < 2


def _of_several_lengths(families: dict[int, Signature]) -> dict[int, Signature]:
    members: dict[Signature, int] = {}
    for family in families.values():
        members[family] = members.get(family, 0) + 1
    return {s: family for s, family in families.items() if members[family] > 1}


def _says_rows(family: Signature) -> bool:
    """Whether the operation itself says that vectors are rows of one element: by an index for each, or making them."""
    return family.operands[-1].kind == "place" or family.op.name in ("stack", "stack_rows")


class _Kin(NamedTuple):
    """What a signature can be joined with, kept with it: its family, the signature of rows that nodes of any length
    share; the one in which operands have rows of their own number, with these ``sizes``; which operands the nodes of
    either of these walk over, None of constants; the signature of all with which it is taken in one launch; of a
    constant that of its elements. None for what it has not. And the most ``axes`` of what is read and computed."""

    rows: Signature | None
    parts: Signature | None
    sizes: Shape
    walking: _Walking | None
    alike: Signature | None
    element: Signature | None
    axes: int


def _kin(signature: Signature) -> _Kin:
    found: _Kin | None = signature.family
    if found is None:
        single = signature.walks is None and not signature.loops
        parts = _parts_of(signature) if single else None
        apart = None if parts is None else _apart(signature, parts)
        family = _family(signature) if single and parts is None else None
        joined = apart if family is None else family
        found = _Kin(
            family,
            apart,
            () if parts is None else parts.sizes,
            None if joined is None or signature.op is CONSTANT_OP else _about(joined),
            _looping(signature) if _may_loop(signature) else None,
            _element_family(signature) if signature.op is CONSTANT_OP else None,
            _most_axes(signature),
        )
        signature.family = found
    return found


def _parts_of(signature: Signature) -> ByParts | None:
    """What a signature is of rows of which each operand has a number of its own."""
    kind, op, operands = signature.type, signature.op, signature.operands
    if not kind.size or signature.cell is not None or (op.stacked and op.ragged):
        return None
    kinds, draws = {o.kind for o in operands}, bool(signature.draws)
    if not kinds <= ({"int", "float"} if draws else {"row", "int"}) or ("row" in kinds) == draws:
        return None
    found = by_parts(op, [o.shape for o in _operands(signature)], kind.shape, signature.static)
    alike = {(o.dtype, o.type is not None and o.type.requires_grad, o.vjp is not None) for o in operands}
    if found is None or (found.of_list and len(alike) > 1):
        return None
    return None if kind.device == "cpu" and op.name in LOOPED_ON_HOST and "more" in found.static else found


def _apart(signature: Signature, parts: ByParts) -> Signature:
    first, kind = signature.operands[0], signature.type
    if parts.of_list:
        assert first.type is not None
        row = intern_type(parts.row, first.dtype, first.type.device, first.type.requires_grad)
        operands = [first._replace(type=row, shape=parts.row)]
    else:
        operands = [o if o.kind != "row" else _without_rows(o) for o in signature.operands]
    payload = [Operand(parts.payload, 0, None, (), np.dtype(np.int64), None)] if parts.payload else []
    result = intern_type(parts.row, kind.dtype, kind.device, kind.requires_grad)
    walks = (*[o.kind == "row" for o in operands], *[False for _ in payload])
    return _interned_signature(signature, (*operands, *payload), result, parts.op, parts.static, walks, parts.spans)


def _without_rows(operand: Operand) -> Operand:
    kind = operand.type
    return operand._replace(type=None if kind is None else _row_type(kind), shape=operand.shape[1:])


def _family(signature: Signature) -> Signature | None:
    kind = signature.type
    if not kind.shape or not kind.size or signature.cell is not None or signature.draws:
        return None
    if signature.op is CONSTANT_OP:
        return _interned_signature(signature, (), _row_type(kind), CONSTANT_OP, NOTHING, ())
    operands = _operands(signature)
    shapes = [() if o.type is None else o.type.shape for o in operands]
    rows = by_rows(signature.op, shapes, kind.shape, signature.static)
    if rows is None or not all(_may(o, walks) for o, walks in zip(operands, rows.walks, strict=True)):
        return None
    kinds = tuple([_of_rows(o, walks, len(kind.shape), rows) for o, walks in zip(operands, rows.walks, strict=True)])
    return _interned_signature(signature, kinds, _row_type(kind), rows.op, rows.static, rows.walks)


def _operands(signature: Signature) -> tuple[Operand, ...]:
    """Those of one node, one by one where they are stacked."""
    if not signature.op.stacked or signature.op.ragged:
        return signature.operands
    (one,) = signature.operands
    return tuple([one._replace(position=i) for i in range(signature.rows)])


def _may(operand: Operand, walks: bool) -> bool:
    """A parameter has no rows of its own for each node, and rows without elements have no place."""
    return operand.type is None or (operand.type.size > 0 and not (walks and operand.kind == "shared"))


def _row_type(kind: Type) -> Type:
    return intern_type(kind.shape[1:], kind.dtype, kind.device, kind.requires_grad)


def _of_rows(operand: Operand, walks: bool, ndim: int, rows: ByRows) -> Operand:
    """The operand of an operation of rows."""
    kind, shape = operand.type, operand.shape
    if walks:
        assert kind is not None
        kind = _row_type(kind)
        shape = shape[1:]
    elif len(shape) == ndim and rows.op.elementwise:  # padded with ones in front
        shape = shape[1:]
    return operand._replace(type=kind, shape=shape)


def _interned_signature(
    signature: Signature,
    operands: tuple[Operand, ...],
    result: Type,
    op: Op,
    static: Mapping[str, Any],
    walks: tuple[bool, ...],
    spans: tuple[int, ...] | None = None,
) -> Signature:
    wants = tuple([o.vjp is not None for o in operands])
    kinds = tuple([(o.kind, o.position, o.type, o.shape, o.dtype) for o in operands])
    key = op, kinds, wants, result, tuple(sorted(static.items())), walks

    def make() -> Signature:
        if op is CONSTANT_OP:
            found = leaf_signature(CONSTANT_OP, result, ints=0)
        else:
            with_vjps = tuple(
                [o._replace(vjp=_vjp_of(op, i, static)) if wants[i] else o for i, o in enumerate(operands)]
            )
            found = Signature(op, with_vjps, result, static or NOTHING, sum(o.kind == "row" for o in operands))
        found.walks, found.spans, found.line, found.draws = walks, spans, signature.line, signature.draws
        return found

    return interned(("rows", key), make)


def _vjp_of(op: Any, operand: int, static: Mapping[str, object]) -> Callable[..., object]:
    vjp = op.vjps[operand]
    return partial(vjp, **static) if static else vjp

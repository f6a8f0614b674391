"""Passes over the arrays of a graph by whole arrays: what runs where the compiled core was not built.

The same functions as in ``core/passes.pyx``, with the same arguments and results; `lazyflow.passes` offers one or the
other. NumPy takes some two hundred passes of a microsecond or more for what plain loops do in a few.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Ints = np.ndarray[Any, np.dtype[Any]]

PLAIN_ROW, VIEW_ROW, IMPORT_ROW, OUTPUT_ROW = range(4)  # kinds of rows, as in core/passes.pyx


def begins(counts: Ints) -> Ints:
    """Where groups of so many begin, and the last one ends."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


# What the passes of either form take together.


class TapeColumns(NamedTuple):
    """The columns of a tape, or of several end to end: int32, but for the floats."""

    ids: Ints
    operands: Ints
    ints: Ints
    floats: Ints


class RowBegins(NamedTuple):
    """Where the operands, the integers and the floats of each row begin, and those of the last row end."""

    operands: Ints
    ints: Ints
    floats: Ints


class NodePayload(NamedTuple):
    """The integers (int32) and floats (float64) of all nodes, and where those of each node begin."""

    int_starts: Ints
    ints: Ints
    float_starts: Ints
    floats: Ints


class CellShape(NamedTuple):
    """The number of a cell's signature in a graph, and how many of each a call has: operands, results, integers,
    floats."""

    kind: int
    rows: int
    results: int
    ints: int
    floats: int


# Rows of tapes.


def row_starts(ids: Ints, ints: Ints, rows: Ints, int_counts: Ints, float_counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Where the operands, the integers and the floats of each row begin."""
    int_starts = begins(int_counts.take(ids))
    counts = rows.take(ids)
    ragged = np.flatnonzero(counts < 0)
    if len(ragged):  # of a torn tape, not all of them have a number
        counts[ragged] = np.maximum(np.append(ints, 0)[np.minimum(int_starts[ragged], len(ints))], 0)
    return begins(counts), int_starts, begins(float_counts.take(ids))


def structure(ids: object, ints: object, rows: Ints, int_counts: Ints, kinds: Ints) -> bytes:
    """Of the integers of all rows those that say what is connected to what, and are no payload."""
    ids, ints = np.asarray(ids), np.asarray(ints)
    says = (kinds == VIEW_ROW) | (kinds == IMPORT_ROW) | (rows < 0)
    which = np.repeat(says.take(ids), int_counts.take(ids))
    return bytes(ints[which].tobytes()) if len(which) == len(ints) else bytes(ints.tobytes())


def reach(
    rows: Ints, ids: Ints, kinds: Ints, starts: Ints, operands: Ints, marks: Ints, gap: int
) -> tuple[Ints, Ints, Ints]:
    """The ranges of rows that each of ``rows`` rests on: where they begin and end, and how many each row has."""
    found = [_reach_of(row, ids, kinds, starts, operands, gap) for row in rows.tolist()]
    lows, highs = (np.array([part[k] for parts in found for part in parts], np.int64) for k in (0, 1))
    return lows, highs, np.array([len(parts) for parts in found], np.int64)


def _reach_of(row: int, ids: Ints, kinds: Ints, starts: Ints, operands: Ints, gap: int) -> list[tuple[int, int]]:
    rows = _rows_below(row, starts, operands)
    breaks = np.flatnonzero(np.diff(rows) > gap) + 1
    lows = [int(rows[0]), *rows[breaks].tolist()]
    lasts = [*rows[breaks - 1].tolist(), int(rows[-1])]
    return [(low, _end_of_call(last + 1, ids, kinds)) for low, last in zip(lows, lasts, strict=True)]


def _end_of_call(row: int, ids: Ints, kinds: Ints) -> int:
    """The first row from this one on that is no further result of the call before it."""
    while row < len(ids) and kinds[ids[row]] == OUTPUT_ROW:
        row += 1
    return row


def _rows_below(row: int, starts: Ints, operands: Ints) -> Ints:
    """The rows that a row rests on, ascending, itself included."""
    seen, stack = {row}, [row]
    while stack:
        i = stack.pop()
        for operand in operands[int(starts[i]) : int(starts[i + 1])].tolist():
            if operand not in seen:
                seen.add(operand)
                stack.append(operand)
    return np.array(sorted(seen), np.int64)


def needed(
    columns: tuple[object, ...], reals: int, tables: tuple[Ints, Ints, Ints], kinds: Ints, asked: Sequence[int]
) -> tuple[Ints, Ints, Ints, Ints] | None:
    """The rows that the ``asked`` ones rest on, and views of them, ascending; behind them where what each row of the
    tape has begins. None for all, and of a torn tape."""
    ids, operands, ints = (np.asarray(column) for column in columns)
    found = row_starts(ids, ints, *tables)
    starts, n = found[0], len(ids)
    users = np.repeat(np.arange(n), np.diff(starts))
    if [int(ends[-1]) for ends in found] != [len(operands), len(ints), reals]:
        return None
    if (operands >= users).any() or (operands < 0).any():
        return None
    reached = _rows_reached(n, np.array(asked, np.int64), users, operands, np.ones(n, bool)).copy()
    results = np.flatnonzero(kinds.take(ids) == OUTPUT_ROW)
    reached[results] |= reached[operands[starts[results]]]
    views = np.flatnonzero(kinds.take(ids) == VIEW_ROW)
    for view, base in zip(views.tolist(), operands[starts[views]].tolist(), strict=True):
        reached[view] |= reached[base]
    return None if reached.all() else (np.flatnonzero(reached), *found)


def rows_of_ranges(lows: object, highs: object, starts: Ints, operands: Ints, marks: Ints) -> Ints:
    """The rows of ranges of a tape, each once: in the order in which the ranges stand, so that operands come before
    users; ascending where they would not, and where most ranges have the same rows."""
    low, high = (np.asarray(column, np.int32).astype(np.int64) for column in (lows, highs))
    every = _of_ranges(*_ranges_merged(low, high))
    if (high - low).sum() > 2 * len(every):
        return every
    rows = _of_ranges(low, high)
    rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
    if len(rows) == (high - low).sum():
        return rows
    users = np.repeat(np.arange(len(rows)), starts[rows + 1] - starts[rows])
    return rows if (RowPlaces(rows).of(operands[_of_groups(starts, rows)]) < users).all() else every


def _ranges_merged(lows: Ints, highs: Ints) -> tuple[Ints, Ints]:
    """Ranges that together are these, ascending, and apart from each other."""
    order = np.argsort(lows, kind="stable")
    lows, highs = lows[order], np.maximum.accumulate(highs[order])
    apart = np.flatnonzero(lows[1:] > highs[:-1]) + 1
    return lows[np.append(0, apart)[: len(lows)]], highs[np.append(apart - 1, len(highs) - 1)[: len(highs)]]


def _of_ranges(lows: Ints, highs: Ints) -> Ints:
    """The rows of ranges, one range behind the other."""
    starts = begins(highs - lows)
    found: Ints = np.arange(int(starts[-1])) + np.repeat(lows - starts[:-1], highs - lows)
    return found


class RowPlaces:
    """Where each of ``rows``, in any order, stands among them."""

    def __init__(self, rows: Ints) -> None:
        self.rows, self.order = rows, np.argsort(rows, kind="stable")

    def of(self, asked: object) -> Ints:
        """Where the ``asked`` rows stand, a column or of int32: as int32, and -1 for others."""
        wanted = np.asarray(asked, np.int32)
        found = np.append(self.order, -1)[np.searchsorted(self.rows, wanted, sorter=self.order)]
        places: Ints = np.where(np.append(self.rows, -1)[found] == wanted, found, -1).astype(np.int32)
        return places


def note_places(run_of: Ints, offset_of: Ints, rows: Ints | None, places: Ints, run: int) -> None:
    """Note that the values of some rows of a tape, or of all, lie at these places of a run, which are not negative."""
    found = places >= 0
    some = np.flatnonzero(found) if rows is None else rows[found]
    offset_of[some] = places[found]
    run_of[some] = run


def picked(columns: TapeColumns, row_begins: RowBegins, kinds: Ints, places: RowPlaces) -> tuple[Ints, ...]:
    """Some rows of a tape, in any order, as a tape of their own, and the numbers of its imports."""
    ids, *others = columns
    rows = places.rows
    where = [_of_groups(starts, rows) for starts in row_begins]
    operands, ints, floats = (column[places] for column, places in zip(others, where, strict=True))
    found = places.of(operands)
    before = found < np.repeat(np.arange(len(rows)), np.diff(row_begins[0])[rows])
    kept = ids[rows]
    counts = np.diff(row_begins[1])[rows]
    first = begins(counts)[:-1][(kinds.take(kept) == IMPORT_ROW) & (counts > 0)]
    imports, ints[first] = ints[first].astype(np.int64), np.arange(len(first))
    return kept, np.where(before, found, -1).astype(np.int32), ints, floats, imports


def _of_groups(starts: Ints, which: Ints) -> Ints:
    """The elements of some of the groups that begin at ``starts``."""
    counts = starts[which + 1] - starts[which]
    found: Ints = np.arange(int(counts.sum())) + np.repeat(starts[which] - begins(counts)[:-1], counts)
    return found


def collected(
    columns: TapeColumns, kinds: Ints, row_begins: RowBegins, imports: Ints, targets: Ints, known: Ints, roots: Ints
) -> tuple[Ints, ...]:
    """All rows that the roots need, as a graph."""
    ids, operands, ints, _ = columns
    starts, int_starts, float_starts = row_begins
    n = len(ids)
    kind = kinds.take(ids)
    views = np.flatnonzero(kind == VIEW_ROW)
    results = np.flatnonzero(kind == OUTPUT_ROW)
    aliases = np.concatenate([views, imports])
    ends = np.concatenate([operands[starts[views]], targets])
    shifts = np.concatenate([ints[int_starts[views]].astype(np.int64), np.zeros(len(imports), np.int64)])
    base, shift = _resolved(n, aliases, ends, shifts)

    computed = np.ones(n + 1, bool)  # the last row stands for all that were not read
    computed[aliases] = False
    has_operands = computed.copy()
    if len(known):
        has_operands[:n] &= ~known
        results = results[~known[results]]
    users = np.repeat(np.arange(n), np.diff(starts))
    edges = np.flatnonzero(has_operands.take(users))
    users, read = users.take(edges), operands.take(edges)
    resolved = base.take(read)
    needed = _rows_reached(n + 1, base[roots], users, resolved, computed)
    needed[results] |= needed[operands[starts[results]]]  # a call computes all of its results
    kept = needed.take(users)
    if not kept.all():
        users, read, resolved = users[kept], read[kept], resolved[kept]
    nodes = np.flatnonzero(needed[:n])
    new = np.full(n + 1, -1, np.int64)
    new[nodes] = np.arange(len(nodes))
    present, signature = as_they_come(*np.unique(ids.take(nodes), return_inverse=True))
    counts = np.bincount(users, minlength=n).take(nodes)
    edges_of = signature, begins(counts), new.take(resolved), shift.take(read)
    payload = int_starts.take(nodes), float_starts.take(nodes), nodes, new[results[needed[results]]]
    return (present.astype(np.int64), *edges_of, *payload, new, needed, base[:n], shift[:n])


def as_they_come(present: Ints, signature: Ints) -> tuple[Ints, Ints]:
    """Signatures in the order of their first nodes, not of their ids, which are used again: what is computed first, and
    so the last bits of a sum, must not depend on which other ones have been let go of. ``signature``: which of them
    each node has; those without any stand behind the others."""
    first = np.full(len(present), len(signature))
    first[signature[::-1]] = np.arange(len(signature))[::-1]
    order = np.argsort(first, kind="stable")
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return present[order], number[signature]


def _resolved(n: int, aliases: Ints, targets: Ints, shifts: Ints) -> tuple[Ints, Ints]:
    """Follow chains of aliases to their ends by pointer jumping: base and element shift of every row, and of the one
    behind the last."""
    base, shift = np.arange(n + 1), np.zeros(n + 1, np.int64)
    base[aliases], shift[aliases] = targets, shifts
    while len(aliases):
        step = base[aliases]
        further = base[step]
        moved = further != step
        if not moved.any():
            break
        aliases, step, further = aliases[moved], step[moved], further[moved]
        shift[aliases] += shift[step]
        base[aliases] = further
    return base, shift


def _rows_reached(n: int, roots: Ints, users: Ints, operands: Ints, computed: Ints) -> Ints:
    """Which rows the roots reach. Dead ends are peeled off in whole rounds; a graph with long dead chains is walked
    instead."""
    needed = computed.copy()
    is_root = np.zeros(n, bool)
    is_root[roots] = True
    for _ in range(8):
        used = is_root.copy()
        used[operands] = True
        dead = needed & ~used
        if not dead.any():
            alive: Ints = needed & used
            return alive
        needed &= used
        keep = ~dead[users]
        users, operands = users[keep], operands[keep]
    return rested_on(n, roots.tolist(), users, operands) & computed


def rested_on(n: int, nodes: Sequence[int], users: Ints, operands: Ints) -> Ints:
    """Which of ``n`` nodes the given ones rest on, themselves included, along edges in ascending order of users."""
    starts = np.searchsorted(users, np.arange(n + 1)).tolist()
    sources = operands.tolist()
    reached = bytearray(n)
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if not reached[node]:
            reached[node] = 1
            stack.extend(sources[starts[node] : starts[node + 1]])
    return np.frombuffer(reached, bool)


# Nodes of a graph.


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes in a topological order: ``signature`` (below ``signatures``) of each, the operands of node ``i`` at
    ``base[starts[i]:starts[i + 1]]``, and which nodes the launch of the cell call that is their operand computes
    (``results``)."""

    signature: Ints
    signatures: int
    starts: Ints
    base: Ints
    results: Ints

    def __len__(self) -> int:
        return len(self.signature)

    @cached_property
    def call(self) -> Ints:
        """The node whose launch computes each node: itself, but of a cell's further result the call."""
        call = np.arange(len(self))
        call[self.results] = self.base[self.starts[self.results]]
        return call

    @cached_property
    def users(self) -> Ints:
        """The node that each entry of ``base`` belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @cached_property
    def edges(self) -> tuple[Ints, Ints]:
        """Users and operands, each as the node whose launch computes it; without those of further results."""
        if not len(self.results):
            return self.users, self.base
        kept = np.ones(len(self.base), bool)
        kept[self.starts[self.results]] = False
        return self.users[kept], self.call[self.base[kept]]


def without_repeats(
    nodes: Nodes,
    shift: Ints,
    payload: NodePayload,
    counts: tuple[Ints, Ints],
    usable: Ints,
    rows_of_tapes: tuple[Ints, Ints],
    fewest: int,
    worth: int,
) -> tuple[Ints, ...] | None:
    """The graph with each group of equal nodes as one, or None if all differ."""
    origin, tape_base = rows_of_tapes
    first = _first_equals(nodes, _Compared(shift, payload, *counts), usable, fewest, worth)
    if first is None:
        return None
    is_first = first == np.arange(len(nodes))
    kept = np.flatnonzero(is_first)
    new = np.empty(len(nodes), np.int64)
    new[kept] = np.arange(len(kept))
    new = new[first]
    reads = np.diff(nodes.starts)
    edges = np.repeat(is_first, reads)
    rows = np.arange(len(tape_base) + 1)
    rows[origin] = origin[first]
    columns = nodes.signature[kept], begins(reads[kept]), new[nodes.base[edges]], shift[edges]
    starts = payload.int_starts[kept], payload.float_starts[kept]
    results = new[nodes.results[is_first[nodes.results]]]
    return (new, *columns, *starts, origin[kept], results, rows[tape_base])


class _Compared(NamedTuple):
    """What must be equal besides signatures and operands; how many integers and floats nodes of a signature have."""

    shift: Ints
    payload: NodePayload
    int_counts: Ints
    float_counts: Ints


def _first_equals(nodes: Nodes, compared: _Compared, usable: Ints, fewest: int, worth: int) -> Ints | None:
    """For each node the first one that equals it; None if all differ."""
    counts = np.diff(nodes.starts)
    some = np.flatnonzero(usable & (counts == 0))
    if len(some) < fewest or len(some) * worth <= len(nodes.base):
        return None
    first = np.arange(len(nodes))
    repeated = np.zeros(len(nodes), bool)
    done = np.zeros(len(nodes), bool)
    while len(some):
        done[some] = True
        found = _merge(nodes, compared, some, first)
        if not len(found):
            break
        repeated[found] = True
        _spread_to_results(nodes, found, first, repeated)
        # Whoever reads repeated nodes alone is next: of all others a repeat would be chance.
        readers, reads = _runs(nodes.users[repeated[nodes.base]])
        some = readers[(reads == counts[readers]) & usable[readers] & ~done[readers]]
    return first if repeated.any() else None


def _runs(ascending: Ints) -> tuple[Ints, Ints]:
    """The distinct values of an ascending array, and how often each occurs."""
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1]))[: len(ascending)])
    return ascending[starts], np.diff(starts, append=len(ascending))


def _merge(nodes: Nodes, compared: _Compared, some: Ints, first: Ints) -> Ints:
    """Point equal ones among ``some`` nodes to the first of them, in ``first``; returns all that have an equal."""
    kinds = nodes.signature[some]
    present = np.flatnonzero(np.bincount(kinds)).tolist()
    for s in present:
        mine = some if len(present) == 1 else some[kinds == s]
        if len(mine) > 1:
            first[mine] = mine[_leaders(_key(nodes, compared, mine, s, first))]
    leaders = first[some]
    size = np.bincount(leaders, minlength=len(nodes))
    repeated: Ints = some[size[leaders] > 1]
    return repeated


def _leaders(key: Ints) -> Ints:
    """For each element the position of the first one that equals it; keys are small non-negative numbers."""
    positions = np.arange(len(key))
    table = np.empty(int(key.max()) + 1, np.int64)  # only what is written is read
    table[key[::-1]] = positions[::-1]
    found: Ints = table[key]
    return found


# Keys go through a table of this many entries at most; NumPy takes its memory only where it is touched.
LARGEST_TABLE = 1 << 22


def _key(nodes: Nodes, compared: _Compared, some: Ints, signature: int, first: Ints) -> Ints:
    """A small number for each node, the same for equal ones and for these only."""
    key = np.zeros(len(some), np.int64)
    size = 1
    for column in _compared_columns(nodes, compared, some, signature, first):
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        sparse = high - low + 1 > LARGEST_TABLE
        ranks = np.unique(column, return_inverse=True)[1] if sparse else column - low
        width = int(ranks.max()) + 1
        key = key * width + ranks
        size *= width
        if size > LARGEST_TABLE:
            key = np.unique(key, return_inverse=True)[1]
            size = int(key.max()) + 1
    return key


def _compared_columns(nodes: Nodes, compared: _Compared, some: Ints, signature: int, first: Ints) -> Iterator[Ints]:
    """All that must be equal, column by column."""
    payload = compared.payload
    for k in range(int(compared.int_counts[signature])):
        yield payload.ints[payload.int_starts[some] + k]
    for k in range(int(compared.float_counts[signature])):
        yield payload.floats[payload.float_starts[some] + k].view(np.int64)  # 0.0 and -0.0 differ
    counts = nodes.starts[some + 1] - nodes.starts[some]
    if counts.min() == counts.max():
        for k in range(int(counts[0])):
            edges = nodes.starts[some] + k
            yield first[nodes.base[edges]]
            yield compared.shift[edges]
        return
    yield counts
    for k in range(int(counts.max())):
        has = counts > k
        edges = (nodes.starts[some] + k)[has]
        for column in (first[nodes.base[edges]], compared.shift[edges]):
            found = np.zeros(len(some), np.int64)
            found[has] = column
            yield found


def _spread_to_results(nodes: Nodes, calls: Ints, first: Ints, repeated: Ints) -> None:
    """The further results of equal calls are equal."""
    if len(nodes.results):
        mine = np.zeros(len(nodes), bool)
        mine[calls] = True
        results = nodes.results[mine[nodes.call[nodes.results]]]
        call = nodes.call[results]
        first[results] = first[call] + results - call
        repeated[results] = True


# Scheduling.


def depths(nodes: Nodes) -> Ints:
    """The longest path of operands below each node."""
    return _depths(len(nodes), nodes.users, nodes.base)


def _depths(n: int, users: Ints, operands: Ints) -> Ints:
    # One pass in recorded order, for users come after their operands. A level at a time in NumPy is slower: 15 us a
    # level against 0.07 us a node in Python, and a chain has as many levels as nodes.
    if len(users) and np.bincount(users).max() <= 2:
        return _depths_of_pairs(n, users, operands)
    depth = [0] * n
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


def signature_edges(nodes: Nodes) -> Ints:
    """``edges[a, b]``: some node of signature ``a`` feeds some node of signature ``b``."""
    edges = np.zeros((nodes.signatures, nodes.signatures), bool)
    users, operands = nodes.edges
    edges[nodes.signature.take(operands), nodes.signature.take(users)] = True
    return edges


def by_levels(nodes: Nodes, component: Ints, components: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The launch of each node, by component, depth inside of it, and signature; the component of each launch; and how
    many nodes and launches each component has, and its greatest depth."""
    of = component.take(nodes.signature)
    users, operands = nodes.edges
    inside = of.take(users) == of.take(operands)
    level = _depths(len(nodes), users[inside], operands[inside])
    height = np.zeros(components, np.int64)
    np.maximum.at(height, of, level)
    alone = nodes.call == np.arange(len(nodes)) if len(nodes.results) else slice(None)
    origin = begins((height + 1) * nodes.signatures)
    ranks, distinct = ranked((origin[of] + level * nodes.signatures + nodes.signature)[alone])
    phase = np.searchsorted(origin, distinct, side="right") - 1
    launch = ranks
    if len(nodes.results):
        launch = np.empty(len(nodes), np.int64)
        launch[alone] = ranks
        launch = launch[nodes.call]
    sizes, counts = np.bincount(of[alone], minlength=components), np.bincount(phase, minlength=components)
    return launch, phase, sizes, counts, height


def part(nodes: Nodes, component: Ints, which: int) -> tuple[Ints, Nodes]:
    """The nodes of the signatures of one component, without further results of calls, and the graph of these: with
    their own numbers, and those of their signatures; a call stands for its results."""
    inside = (component == which)[nodes.signature]
    inside[nodes.results] = False
    members = np.flatnonzero(inside)
    new = np.full(len(nodes), -1, np.int64)
    new[members] = np.arange(len(members))
    users, operands = (new[ends] for ends in nodes.edges)
    kept = (users >= 0) & (operands >= 0)
    starts = begins(np.bincount(users[kept], minlength=len(members)))
    signature, distinct = ranked(nodes.signature[members])
    return members, Nodes(signature, len(distinct), starts, operands[kept], np.empty(0, np.int64))


def backwards(nodes: Nodes) -> Nodes:
    """The graph read from its other end: what was an operand is a user, and what was last is first."""
    n = len(nodes)
    users, operands = n - 1 - nodes.base, n - 1 - nodes.users
    order = np.lexsort((operands, users))
    starts = begins(np.bincount(users, minlength=n))
    return Nodes(nodes.signature[::-1].copy(), nodes.signatures, starts, operands[order], np.empty(0, np.int64))


def agenda(nodes: Nodes) -> tuple[Ints, int]:
    """Of the ready signatures the one of the lowest mean depth next, with all of its ready nodes."""
    users, operands = nodes.edges
    depth = _depths(len(nodes), users, operands)
    alone = nodes.call == np.arange(len(nodes))
    kinds = nodes.signature[alone]
    count = np.maximum(np.bincount(kinds, minlength=nodes.signatures), 1)
    mean = (np.bincount(kinds, depth[alone], nodes.signatures) / count).tolist()
    found = _Ready(nodes)
    queue = [(mean[s], s) for s in found.ready]
    heapq.heapify(queue)
    while queue:
        for s in found.run(heapq.heappop(queue)[1]):
            heapq.heappush(queue, (mean[s], s))
    return np.array(found.launch, np.int64)[nodes.call], found.launches


class _Ready:
    """The ready nodes of each signature, and what has run."""

    def __init__(self, nodes: Nodes) -> None:
        n = len(nodes)
        keys = np.unique(nodes.edges[0] * n + nodes.edges[1])  # repeated operands of one node count once
        users, operands = keys // max(n, 1), keys % max(n, 1)
        self.users = users[np.argsort(operands, kind="stable")].tolist()
        self.starts = begins(np.bincount(operands, minlength=n)).tolist()
        self.waiting = np.bincount(users, minlength=n).tolist()
        self.signature = nodes.signature.tolist()
        self.launch, self.launches = [0] * n, 0
        self.ready: dict[int, list[int]] = {}
        first = np.bincount(users, minlength=n) == 0
        first[nodes.results] = False
        for node in np.flatnonzero(first).tolist():
            self.ready.setdefault(self.signature[node], []).append(node)

    def run(self, s: int) -> list[int]:
        """Launch all ready nodes of a signature; returns the signatures that had none before."""
        fresh = []
        for node in self.ready.pop(s):
            self.launch[node] = self.launches
            for user in self.users[self.starts[node] : self.starts[node + 1]]:
                self.waiting[user] -= 1
                if not self.waiting[user]:
                    kind = self.signature[user]
                    if kind not in self.ready:
                        self.ready[kind] = []
                        fresh.append(kind)
                    self.ready[kind].append(user)
        self.launches += 1
        return fresh


def frontier(nodes: Nodes) -> tuple[Ints, int]:
    """Of the ready signatures the one with the largest share of ready nodes among those that could join the launch
    next; of equal shares, that of more nodes."""
    _, critical = longest_chains(nodes)
    followers: list[list[int]] = [[] for _ in range(len(nodes))]
    for node in np.flatnonzero(critical >= 0).tolist():
        followers[critical[node]].append(node)
    could_join = np.bincount(nodes.signature[critical < 0], minlength=nodes.signatures).tolist()
    found = _Ready(nodes)
    ready = found.ready
    while ready:
        s = max(ready, key=lambda s: (len(ready[s]) / could_join[s], len(ready[s])))
        could_join[s] += sum(len(followers[node]) for node in ready[s]) - len(ready[s])
        found.run(s)
    return np.array(found.launch, np.int64), found.launches


def longest_chains(nodes: Nodes) -> tuple[Ints, Ints]:
    """Length of the longest chain of dependent nodes of one signature that ends in each node, and the node before it in
    that chain, or -1.

    A table of the best chain for every signature goes up the graph a depth at a time. Nobody can join a launch of its
    signature before that node has run, and when it has, so have all others (their chains are shorter).
    """
    n = len(nodes)
    chain = np.zeros((n + 1, nodes.signatures), np.int64)  # length * (n + 1) + node + 1; row n stays empty
    length, critical = np.ones(n, np.int64), np.full(n, -1, np.int64)
    depth = depths(nodes)
    order = np.argsort(depth, kind="stable")
    bounds = np.searchsorted(depth[order], np.arange(int(depth.max(initial=0)) + 2))
    counts = np.diff(nodes.starts)
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        level = order[low:high]
        some = level[counts[level] > 0]
        if len(some):
            ends = np.cumsum(counts[some])
            slots = np.repeat(nodes.starts[some] - ends + counts[some], counts[some]) + np.arange(ends[-1])
            chain[some] = np.maximum.reduceat(chain[nodes.base[slots]], ends - counts[some], axis=0)
        own = nodes.signature[level]
        before = chain[level, own]
        critical[level] = before % (n + 1) - 1
        length[level] = before // (n + 1) + 1
        chain[level, own] = length[level] * (n + 1) + level + 1
    return length, critical


def ranked(keys: Ints) -> tuple[Ints, Ints]:
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


# Memory.


def in_order_of(launch: Ints, launches: int) -> Ints:
    """Nodes ordered by launch, recorded order within; NumPy sorts 16-bit keys by radix, which is linear."""
    keys = launch.astype(np.uint16) if launches < 65536 else launch
    return np.argsort(keys, kind="stable")


def bounds_of(keys: Ints, count: int) -> Ints:
    """Where each group begins in what is sorted by these keys."""
    return begins(np.bincount(keys, minlength=count))


def by_launch(launch: Ints, wanted: Ints, launches: int) -> tuple[Ints, Ints]:
    """The wanted nodes (a flag for each) in the order of their launches, recorded order within, and where each launch
    begins; launches without any are left out."""
    some = np.flatnonzero(wanted)
    order = some[in_order_of(launch[some], launches)]
    return order, np.unique(bounds_of(launch[order], launches))


def laid_out(
    nodes: Nodes, launch: Ints, phase: Ints, widths: Ints, dtypes: Ints, count: int, rows: Ints | None = None
) -> tuple[Ints, Ints]:
    """The element offset of each node, blocks laid behind each other by phase and signature, each run of one signature
    aligned to its width; and how many elements of each of ``count`` dtypes there are. ``rows``: how many each node has,
    None where all have one."""
    block, place, sizes, kinds, phases = _launch_blocks(nodes, launch, phase, rows)
    start, ends = np.empty(len(sizes), np.int64), np.zeros(count, np.int64)
    order = np.lexsort((np.arange(len(sizes)), kinds, phases, dtypes[kinds]))
    for d in range(count):
        mine = order[dtypes[kinds[order]] == d]
        ends[d] = _stacked(start, mine, widths[kinds[mine]], sizes[mine], kinds[mine])
    return start[block] + place * widths[nodes.signature], ends


def _stacked(start: Ints, blocks: Ints, widths: Ints, counts: Ints, signature: Ints) -> int:
    cursor, previous = 0, -1
    columns = (a.tolist() for a in (blocks, widths, counts, signature))
    for block, width, count, s in zip(*columns, strict=True):
        if s != previous:
            cursor = -(-cursor // width) * width
            previous = s
        start[block] = cursor
        cursor += width * count
    return cursor


def _launch_blocks(nodes: Nodes, launch: Ints, phase: Ints, rows: Ints | None) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    block, launch_of = launch, np.arange(len(phase))
    if len(nodes.results):
        result = np.arange(len(nodes)) - nodes.call
        most = int(result.max()) + 1
        block, distinct = ranked(launch * most + result)
        launch_of = distinct // most
    order = in_order_of(block, len(launch_of))
    bounds = bounds_of(block, len(launch_of))
    ends = np.arange(len(nodes) + 1) if rows is None else begins(rows[order])
    place = np.empty(len(nodes), np.int64)
    place[order] = ends[:-1] - np.repeat(ends[bounds[:-1]], np.diff(bounds))
    sizes = np.diff(ends[bounds])
    kinds = np.zeros(len(sizes), np.int64)
    kinds[block] = nodes.signature
    return block, place, sizes, kinds, phase[launch_of]


def blocks(
    nodes: Nodes, launch: Ints, phase: Ints, roots: Ints, rows: Ints | None = None
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints]:
    """Which nodes get consecutive rows: the block of each node, the place of its first row there, and of each block how
    many rows it has, their signature, its phase, and the last phase in which it is read, of a root the greatest number
    there is. ``rows``: how many each node has, None where all have one."""
    block, place, sizes, kinds, phases = _launch_blocks(nodes, launch, phase, rows)
    last = phases.copy()
    np.maximum.at(last, block[nodes.base], phases[block[nodes.users]])
    last[block[roots]] = np.iinfo(last.dtype).max  # phases may have gaps: more of them than launches
    return block, place, sizes, kinds, phases, last


def within_phases(nodes: Nodes, launch: Ints, phase: Ints) -> tuple[Ints, Ints]:
    """Which operands lie in the phase of the node that reads them, and which nodes others read in their own phase;
    further results of calls read nothing."""
    phases = phase[launch]
    within = phases[nodes.base] == phases[nodes.users]
    within[nodes.starts[nodes.results]] = False  # a result that reads its call is no use of it
    read = np.zeros(len(nodes), bool)
    read[nodes.base[within]] = True
    return within, read


def calls(
    nodes: Nodes,
    shift: Ints,
    offsets: Ints,
    payload: NodePayload,
    order: Ints,
    launch: Ints,
    within: tuple[Ints, Ints],
    cell: CellShape,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, int]:
    """The calls of a cell in this order: nodes, the offsets of operands and of results, integers, floats, which
    operands and which results are read in the phase of the calls (``within``: of `within_phases`), and the most calls
    of a launch."""
    kind, rows, results, int_count, float_count = cell
    int_starts, ints, float_starts, floats = payload
    edges_within, read_within = within
    some = order[nodes.signature[order] == kind]
    edges = nodes.starts[some]
    inputs = _as_matrix([offsets[nodes.base[edges + k]] + shift[edges + k] for k in range(rows)], some, np.int64)
    outputs = _as_matrix([offsets[some + k] for k in range(results)], some, np.int64)
    numbers = _as_matrix([ints[int_starts[some] + k] for k in range(int_count)], some, np.int32)
    reals = _as_matrix([floats[float_starts[some] + k] for k in range(float_count)], some, np.float64)
    read = np.array([edges_within[edges + k].any() for k in range(rows)], bool)
    used = np.array([read_within[some + k].any() for k in range(results)], bool)
    return some, inputs, outputs, numbers, reals, read, used, int(np.bincount(launch[some]).max(initial=0))


def _as_matrix(rows: Sequence[Ints], columns: Ints, dtype: type[np.generic]) -> Ints:
    return np.stack(rows) if rows else np.empty((0, len(columns)), dtype)


def operand_offsets(nodes: Nodes, shift: Ints, offsets: Ints, order: Ints, bounds: Ints, has: Ints, slot: int) -> Ints:
    """Where operand ``slot`` of each node in this order lies; 0 for launches without one (``has``)."""
    found = np.zeros(len(order), np.int64)
    every = np.repeat(has, np.diff(bounds))
    edges = nodes.starts.take(order[every]) + slot
    found[every] = offsets.take(nodes.base.take(edges)) + shift.take(edges)
    return found


def evenly(offsets: Ints, bounds: Ints, widths: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """For each launch whether its offsets are evenly spaced, how far apart (of a single one: its width), and the first;
    and of each offset the number of the row that begins there, of a launch that is not even and of which all offsets
    are multiples of its ``widths``, which is said of each launch at last."""
    low, high = bounds[:-1], bounds[1:]
    if not len(offsets):
        flags, numbers = np.empty(0, bool), np.empty(0, np.int64)
        return flags, numbers, numbers, offsets, flags
    step = np.diff(offsets)
    uneven = np.zeros(len(offsets) + 1, np.int64)
    if len(step) > 1:
        np.cumsum(step[1:] != step[:-1], out=uneven[1 : len(step)])
        uneven[len(step) :] = uneven[len(step) - 1]
    two = high - low > 1
    pitch = np.zeros(len(low), np.int64)
    pitch[two] = step[low[two]]
    even = (uneven[np.maximum(high - 2, low)] == uneven[low]) & (pitch >= 0)
    each = np.repeat(np.maximum(widths, 1), high - low)
    aligned = ~even & (np.maximum.reduceat(offsets % each, low) == 0)
    rows = np.where(np.repeat(aligned, high - low), offsets // each, offsets)
    return even, np.where(two, pitch, widths), offsets[low], rows, aligned


def stacked_rows(nodes: Nodes, shift: Ints, offsets: Ints, some: Ints, width: int) -> tuple[Ints, int, int, bool]:
    """Where all operands of ``some`` nodes lie, one node behind the other: element offsets, their distance if they are
    evenly spaced, else -1, and the first; or, if all are aligned to ``width`` and not evenly spaced, row numbers, and
    True."""
    starts = nodes.starts[some]
    counts = nodes.starts[some + 1] - starts
    ends = begins(counts)
    edges = np.repeat(starts - ends[:-1], counts) + np.arange(ends[-1])
    found = offsets.take(nodes.base.take(edges)) + shift.take(edges)
    pitch = int(found[1] - found[0]) if len(found) > 1 else width
    if pitch < 0 or (len(found) > 2 and (found[1:] - found[:-1] != pitch).any()):
        pitch = -1
    first = int(found[0]) if len(found) else 0
    index = found // width
    aligned = pitch < 0 and bool((index * width == found).all())
    return index if aligned else found, pitch, first, aligned


def places(base: Ints, shift: Ints, origin: Ints, kept: Ints, offsets: Ints) -> Ints:
    """The element offset of the value that each row of the tapes shows, -1 where there is none."""
    offset = np.full(len(base) + 1, -1, np.int64)
    offset[origin[kept]] = offsets[kept]
    found = offset[base]
    return np.where(found >= 0, found + shift, -1)


# Gradients.


def reached(nodes: Nodes, apart: Ints, wants: Ints, slots: Ints, roots: Ints) -> Ints:
    """The nodes that a gradient from ``roots`` reaches. ``wants[slots[s] + k]``: whether signature ``s`` hands one on
    to operand ``k``; its last entry stands for further operands. ``apart[s]``: 0 for a signature whose call takes part
    with all of its results or not at all, else how many results it has, of which each has flags of its own."""
    n, told = len(nodes), apart[nodes.signature[nodes.call]] > 0
    taking_part = np.where(told, np.arange(n), nodes.call)
    users, operands = _gradient_edges(nodes, apart, wants, slots)
    found: Ints = _rows_reached(n, taking_part[roots], users, taking_part[operands], np.ones(n, bool)).copy()
    whole = nodes.results[~told[nodes.results]]
    found[whole] = found[nodes.call[whole]]
    return found


def _gradient_edges(nodes: Nodes, apart: Ints, wants: Ints, slots: Ints) -> tuple[Ints, Ints]:
    """The edges along which a gradient goes, in ascending order of users; those of a call whose results are told apart
    are edges of each result for itself."""
    kept = np.ones(len(nodes.base), bool)
    kept[nodes.starts[nodes.results]] = False
    edges = np.flatnonzero(kept)
    users = nodes.users[edges]
    slot, kinds = edges - nodes.starts[users], nodes.signature[users]
    results = np.maximum(apart, 1)
    widths = np.diff(slots) // results
    found = []
    for result in range(int(results.max(initial=1))):
        some = np.flatnonzero((results[kinds] > result) & (widths[kinds] > 0) & (users + result < len(nodes)))
        kind = kinds[some]
        flags = slots[kind] + result * widths[kind] + np.minimum(slot[some], widths[kind] - 1)
        some = some[wants[flags]] if len(some) else some
        found.append((users[some] + result, nodes.base[edges[some]]))
    user, operand = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(user, kind="stable")
    return user[order], operand[order]


# Chains are not looked for: without the machine that runs them they cost more than the launches they save.
chains = joined = None

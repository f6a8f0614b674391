"""From roots to flat arrays: what the roots reach on their tapes, with views resolved away.

`collect` puts the tapes that still have something to compute one behind the other, follows every view to the node whose
memory it shows, drops what no root reaches, and returns a `Graph`: the only thing that scheduling and planning see.
Everything is a look-up of whole arrays; the only Python loops go over tapes, imports and roots.
"""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lazyflow import jit, loops
from lazyflow.errors import LazyflowError, TornError
from lazyflow.expr import Expr, handle
from lazyflow.tape import (
    OUTPUT,
    RAGGED,
    Signature,
    Tape,
    known_signature,
    signature_by_id,
    signature_columns,
)

Ints = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes to compute, in a topological order.

    Node ``i`` has signature ``signatures[signature[i]]`` and operands ``base[starts[i]:starts[i + 1]]``, each read
    from element
    ``shift`` of the base's value on; its payload stands in ``ints`` and ``floats`` behind ``int_starts`` and
    ``float_starts``.
    Node ``i`` is row ``origin[i]`` of the tapes laid end to end; tape ``t`` begins at ``tape_starts[t]``, with its row
    ``tape_lows[t]`` (of a long tape only parts are read, each as a tape of its own).
    ``roots`` are pairs of base and shift. ``known`` nodes have their value in an earlier run: ``known_run``,
    ``known_offset``. ``results`` are nodes that a launch of the cell call before them computes, its further results.
    ``inside`` are rows, numbered as in ``origin``, that have no node: chains compute them on their way.
    Row ``i`` of the tapes shows the memory of row ``tape_base[i]`` from element ``tape_shift[i]`` on; the number behind
    the last row stands for rows that were not read.
    """

    signatures: tuple[Signature, ...]
    signature: Ints
    starts: Ints
    base: Ints
    shift: Ints
    int_starts: Ints
    ints: Ints
    float_starts: Ints
    floats: Ints
    origin: Ints
    tapes: tuple[
        weakref.ref[Tape], ...
    ]  # a tape owns its runs, which own their graph: a strong reference would be a cycle
    tape_starts: Ints
    tape_lows: Ints
    roots: tuple[tuple[int, int], ...]
    known: Ints
    known_run: tuple[Any, ...]
    known_offset: Ints
    tape_base: Ints
    tape_shift: Ints
    results: Ints
    inside: Ints

    @cached_property
    def call(self) -> Ints:
        """The node whose launch computes each node: itself, but of a cell's further result the call."""
        call = np.arange(len(self))
        call[self.results] = self.base[self.starts[self.results]]
        return call

    @cached_property
    def alone(self) -> Ints:
        """Which nodes have a launch of their own: all but the further results of calls."""
        alone = np.ones(len(self), bool)
        alone[self.results] = False
        return alone

    @cached_property
    def _by_origin(self) -> Ints:
        return np.argsort(self.origin, kind="stable")

    def node_of(self, row: int) -> int | None:
        """The node that is a row, numbered as in ``origin``."""
        place = int(np.searchsorted(self.origin, row, sorter=self._by_origin))
        node = int(self._by_origin[place]) if place < len(self) else -1
        return node if node >= 0 and self.origin[node] == row else None

    def __len__(self) -> int:
        return len(self.signature)

    def tape_rows(self, rows: Ints) -> list[tuple[int, int]]:
        """For rows as in ``origin``: the number of the tape, as in `tape`, and the row there."""
        tapes = np.searchsorted(self.tape_starts, rows, side="right") - 1
        there = rows - self.tape_starts[tapes] + self.tape_lows[tapes]
        return list(zip(tapes.tolist(), there.tolist(), strict=True))

    def tape(self, number: int) -> Tape:
        """The ``number``-th tape; whoever holds an expression of it keeps it alive."""
        found = self.tapes[number]()
        assert found is not None, "the roots keep their tapes alive"
        return found


class Segment(NamedTuple):
    """Rows ``low`` to ``high`` (not included) of a tape."""

    tape: Tape
    low: int
    high: int


# A tape of so many rows that was recorded for good (its roots are kept) is not read as a whole for a few of its roots.
LONG = 512
# Rows that a root does not reach are read all the same where they are this few in a row.
GAP = 128


def _segments(tapes: Sequence[Tape], roots: Sequence[Expr], anew: bool) -> list[Segment]:
    """What to read of each tape: all of it, or, of a long one that was sealed before, what the roots need."""
    asked: dict[int, set[int]] = {id(t): set() for t in tapes}
    for e in roots:
        asked[id(e.tape)].add(e.row)
    for tape in tapes:
        for source, row in tape.imports:
            if id(source) in asked and (anew or not is_evaluated(source, row)):
                asked[id(source)].add(row)
    found = []
    for tape in tapes:
        if tape.sealed and len(tape) >= LONG:
            found += [Segment(tape, low, high) for low, high in _merged_ranges(tape, asked[id(tape)])]
        else:
            found.append(Segment(tape, 0, len(tape)))
    return found


def _merged_ranges(tape: Tape, rows: set[int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(reach(tape, rows)):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def reach(tape: Tape, rows: Iterable[int]) -> list[tuple[int, int]]:
    """The ranges of rows that rows of a sealed tape rest on, themselves included; kept with the tape."""
    known = tape.reach
    asked = list(rows)
    fresh = [row for row in asked if row not in known]
    if fresh and jit.by_loops():
        known.update(zip(fresh, _reach_by_loops(tape, fresh), strict=True))
    else:
        known.update((row, _reach_by_arrays(tape, row)) for row in fresh)
    return [part for row in asked for part in known[row]]


def _reach_by_loops(tape: Tape, rows: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    ids, operands = _buffer(tape.signatures, np.int32), _buffer(tape.operands, np.int32)
    kinds, starts, marks = signature_columns().kinds, decoded(tape).starts, decoded(tape).marks
    found = jit.compiled(loops.reach)(np.array(rows, np.int64), ids, kinds, starts, operands, marks, GAP)
    lows, highs, counts = (column.tolist() for column in found)
    parts = iter(zip(lows, highs, strict=True))
    return (tuple(itertools.islice(parts, count)) for count in counts)


def _buffer(column: Any, dtype: Any) -> Ints:
    return np.frombuffer(column, dtype) if len(column) else np.empty(0, dtype)


def _reach_by_arrays(tape: Tape, row: int) -> tuple[tuple[int, int], ...]:
    rows = _rows_below(tape, row)
    breaks = np.flatnonzero(np.diff(rows) > GAP) + 1
    lows = [int(rows[0]), *rows[breaks].tolist()]
    lasts = [*rows[breaks - 1].tolist(), int(rows[-1])]
    highs = [_end_of_call(tape, last) for last in lasts]
    return tuple(zip(lows, highs, strict=True))


def _end_of_call(tape: Tape, row: int) -> int:
    """The row behind a row and, of a cell's call or one of its results, behind the last result: a launch computes all
    of them, and they stand in a row."""
    is_result = signature_by_id(tape.signatures[row]).op is OUTPUT
    call = tape.operands[int(decoded(tape).starts[row])] if is_result else row
    return int(call) + 1 + len(signature_by_id(tape.signatures[call]).further)


def _rows_below(tape: Tape, row: int) -> Ints:
    """The rows that a row of a sealed tape rests on, ascending, itself included."""
    starts = decoded(tape).starts
    seen, stack = {row}, [row]
    while stack:
        i = stack.pop()
        for operand in tape.operands[int(starts[i]) : int(starts[i + 1])]:
            if operand not in seen:
                seen.add(operand)
                stack.append(operand)
    return np.array(sorted(seen), np.int64)


class Decoded(NamedTuple):
    """Where the operands and the payload of each row of a tape begin."""

    starts: Ints
    int_starts: Ints
    float_starts: Ints
    marks: Ints  # all false: for a walk over the rows to use and to leave so


def decoded(tape: Tape) -> Decoded:
    """The columns of a sealed tape that `Segment`s are cut by; kept with it."""
    if tape.decoded is None:
        ids, *columns = whole_columns(tape)
        starts = _row_starts(ids, columns[1])
        _check_whole(starts, columns)
        tape.decoded = Decoded(*starts, np.zeros(len(tape), np.bool_))
    return tape.decoded  # type: ignore[no-any-return]


def _check_whole(starts: tuple[Ints, Ints, Ints], columns: Sequence[Ints]) -> None:
    """Raise `TornError` unless what the rows say to have is what stands in the other columns."""
    if [int(ends[-1]) for ends in starts] != [len(column) for column in columns]:
        raise TornError(
            "the recording was torn: an interrupt, or several threads recording from one expression; an expression "
            "belongs to the thread that recorded it until its value was computed. Record it again"
        )


def _row_starts(ids: Ints, ints: Ints) -> tuple[Ints, Ints, Ints]:
    """Where the operands, the integers and the floats of each row begin."""
    columns = signature_columns()
    if jit.by_loops():
        starts: tuple[Ints, Ints, Ints] = jit.compiled(loops.starts_of)(
            ids, ints, columns.rows, columns.ints, columns.floats
        )
        return starts
    int_starts = _starts(columns.ints.take(ids))
    counts = columns.rows.take(ids)
    ragged = np.flatnonzero(counts == RAGGED)
    counts[ragged] = ints[int_starts[ragged]] if len(ragged) else 0
    return _starts(counts), int_starts, _starts(columns.floats.take(ids))


def is_evaluated(tape: Tape, row: int) -> bool:
    """Whether the row itself (not a view of it) has a value in some run."""
    return tape.run_of is not None and tape.run_of[row] >= 0


def reached_tapes(roots: Sequence[Expr], anew: bool) -> list[Tape]:
    """The tapes that hold something to compute, operands before users; ``anew``: whatever was computed counts for
    nothing.

    Tapes recorded with and without gradients do not mix in one run; see `awaited`.
    """
    order: list[Tape] = []
    seen: set[int] = set()
    stack = [(e.tape, False) for e in reversed(roots)]
    while stack:
        tape, finished = stack.pop()
        if finished:
            order.append(tape)
        elif id(tape) not in seen:
            seen.add(id(tape))
            stack.append((tape, True))
            wanted = {id(t): t for t, row in tape.imports if anew or (t.grad == tape.grad and not is_evaluated(t, row))}
            stack.extend((t, False) for t in wanted.values())
    return order


def awaited(tapes: Sequence[Tape]) -> list[Expr]:
    """What the tapes import from the other side of a ``no_grad`` block and is not computed yet: to be run before
    them."""
    found = {
        (id(t), row): (t, row)
        for tape in tapes
        for t, row in tape.imports
        if t.grad != tape.grad and not is_evaluated(t, row)
    }
    return [handle(t, row, signature_by_id(t.signatures[row]).type) for t, row in found.values()]


def _starts(counts: Ints) -> Ints:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


class _Columns:
    """The tapes' arrays laid end to end."""

    def __init__(self, tapes: Sequence[Segment]) -> None:
        self.segments = tuple(tapes)
        self.tape_starts = _starts(np.array([high - low for _, low, high in tapes], np.int64))
        self.places: dict[int, tuple[list[int], list[int]]] = {}  # lows and starts of the segments of each tape, by id
        for (tape, low, _), start in zip(tapes, self.tape_starts.tolist(), strict=False):
            lows, starts = self.places.setdefault(id(tape), ([], []))
            lows.append(low)
            starts.append(start)
        self.ids, self.operands, self.ints, self.floats = self._laid_end_to_end()
        self.kinds = signature_columns().kinds
        self.starts, self.int_starts, self.float_starts = found = _row_starts(self.ids, self.ints)
        _check_whole(found, (self.operands, self.ints, self.floats))

    def __len__(self) -> int:
        return len(self.ids)

    def _laid_end_to_end(self) -> list[Ints]:
        """Signatures, operands, integers and floats; operands are rows as numbered through all segments."""
        parts = []
        done = 0
        outside = int(self.tape_starts[-1])
        for lows, starts in self.places.values():  # the segments of a tape stand behind each other
            tape, low, _ = self.segments[done]
            highs = [s.high for s in self.segments[done : done + len(lows)]]
            done += len(lows)
            ids, operands, ints, floats = whole_columns(tape)
            if (low, highs) != (0, [len(tape)]):
                ranges = np.array(lows, np.int64), np.array(highs, np.int64)
                ids, operands, ints, floats = _cut(tape, *ranges, outside - starts[0])
            parts.append((ids, operands + np.int64(starts[0]), ints, floats))
        return list(parts[0]) if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]

    def row(self, tape: Tape, row: int) -> int:
        """The number of a row of a tape through all segments, one of which holds it."""
        lows, starts = self.places[id(tape)]
        which = bisect.bisect_right(lows, row) - 1
        return starts[which] + row - lows[which]

    def nodes_of(self, kind: int) -> Ints:
        """The rows of that kind (see `lazyflow.loops`)."""
        return np.flatnonzero(self.kinds.take(self.ids) == kind)


def whole_columns(tape: Tape) -> tuple[Ints, Ints, Ints, Ints]:
    """The four columns of a tape."""
    names = (tape.signatures, np.int32), (tape.operands, np.int32), (tape.ints, np.int32), (tape.floats, np.float64)
    return tuple(_buffer(column, dtype) for column, dtype in names)  # type: ignore[return-value]


def _cut(tape: Tape, lows: Ints, highs: Ints, outside: int) -> tuple[Ints, Ints, Ints, Ints]:
    """The ranges of a tape's rows from ``lows`` to ``highs`` as columns of their own. Rows that are read and not needed
    may have operands in none of them: these become ``outside``."""
    starts = decoded(tape)
    whole = whole_columns(tape)
    if jit.by_loops():
        found: tuple[Ints, Ints, Ints, Ints] = jit.compiled(loops.cut)(*whole, *starts[:3], lows, highs, outside)
        return found
    some = [slice(low, high) for low, high in zip(lows.tolist(), highs.tolist(), strict=True)]
    ends = [
        _joined(column, [slice(s[r.start], s[r.stop]) for r in some])
        for column, s in zip(whole[1:], starts, strict=False)
    ]
    places = _starts(highs - lows)
    which = np.searchsorted(lows, ends[0], side="right") - 1
    inside = (which >= 0) & (ends[0] < highs[which])
    operands = np.where(inside, ends[0] + (places[:-1] - lows)[which], outside)
    return _joined(whole[0], some), operands, ends[1], ends[2]


def _joined(column: Ints, parts: Sequence[slice]) -> Ints:
    return np.concatenate([column[part] for part in parts])


def _resolve(columns: _Columns, aliases: Ints, targets: Ints, shifts: Ints) -> tuple[Ints, Ints]:
    """Follow chains of aliases to their ends by pointer jumping: base and element shift of every row, and of the one
    behind the last, which stands for all that were not read."""
    n = len(columns) + 1
    base, shift = np.arange(n), np.zeros(n, np.int64)
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


class _Known(NamedTuple):
    """Rows whose value lies in an earlier run, as parallel arrays; ``which`` indexes ``runs``."""

    rows: Ints
    runs: list[Any]
    which: Ints
    offsets: Ints


def _known_rows(columns: _Columns, foreign: list[tuple[int, Tape, int]], anew: bool) -> _Known:
    """What was computed before: rows of these tapes (unless ``anew``), and the ``foreign`` imports (row, tape, row
    there)."""
    runs: list[Any] = []
    parts: list[tuple[Ints, Ints, Ints]] = []
    for (tape, low, high), start in zip(columns.segments, columns.tape_starts.tolist(), strict=False):
        if tape.run_of is not None and not anew:
            found = np.flatnonzero(tape.run_of[low:high] >= 0) + low
            parts.append((found + (start - low), tape.run_of[found] + len(runs), tape.offset_of[found]))
            runs.extend(tape.runs)
    places = [location(tape, row) for _, tape, row in foreign]
    numbers = np.arange(len(runs), len(runs) + len(places))
    runs.extend(run for run, _ in places)
    parts.append((_int_array([row for row, _, _ in foreign]), numbers, _int_array([offset for _, offset in places])))
    rows, which, offsets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Known(rows, runs, which, offsets)


def _imports(columns: _Columns, anew: bool) -> tuple[list[tuple[int, int]], list[tuple[int, Tape, int]]]:
    """Imports of rows that are computed here (row, source row), which are aliases, and of values computed before."""
    aliases: list[tuple[int, int]] = []
    foreign: list[tuple[int, Tape, int]] = []
    if not any(s.tape.imports for s in columns.segments):
        return [], []
    nodes = columns.nodes_of(loops.IMPORT)
    which = np.searchsorted(columns.tape_starts, nodes, side="right") - 1
    numbers = columns.ints[columns.int_starts[nodes]]
    for node, t, number in zip(nodes.tolist(), which.tolist(), numbers.tolist(), strict=True):
        source, row = columns.segments[t].tape.imports[number]
        if id(source) in columns.places and (anew or not is_evaluated(source, row)):
            aliases.append((node, columns.row(source, row)))
        else:
            foreign.append((node, source, row))
    return aliases, foreign


def _int_array(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def location(tape: Tape, row: int) -> tuple[Any, int]:
    """Run and element offset of an evaluated row."""
    return tape.runs[tape.run_of[row]], int(tape.offset_of[row])


def _needed(n: int, roots: Ints, users: Ints, operands: Ints, computed: Ints) -> Ints:
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
    return reachable(n, roots.tolist(), users, operands) & computed


def reachable(n: int, nodes: Sequence[int], users: Ints, operands: Ints) -> Ints:
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


def collect(roots: Sequence[Expr], anew: bool = False) -> Graph:
    """The graph of everything that ``roots`` need and that has no value yet (``anew``: whether it has or not). Seals
    the tapes."""
    tapes = reached_tapes(roots, anew)
    segments = _segments(tapes, roots, anew)
    for tape in tapes:
        tape.seal()
    c = _Columns(segments)
    imported, foreign = _imports(c, anew)
    known = _known_rows(c, foreign, anew)
    root_rows = np.array([c.row(e.tape, e.row) for e in roots], np.int64)
    return (_by_loops if jit.by_loops() else _by_arrays)(c, imported, known, root_rows)


def _by_loops(c: _Columns, imported: Sequence[tuple[int, int]], known: _Known, roots: Ints) -> Graph:
    """The graph, by compiled loops."""
    if len(known.rows):
        known, _ = _whole_calls(c, known, c.nodes_of(loops.OUTPUT))
    is_known = np.zeros(len(c) if len(known.rows) else 0, np.bool_)
    is_known[known.rows] = True
    rows = [_int_array(list(column)) for column in zip(*imported, strict=True)] if imported else [_int_array([])] * 2
    nodes, needed, base, shift = jit.compiled(loops.collected)(
        c.ids, c.kinds, c.operands, c.ints, c.starts, c.int_starts, c.float_starts, *rows, is_known, roots
    )
    _check_all_read(needed)
    present, signature, starts, new_base, new_shift, int_starts, float_starts, origin, results, new = nodes
    signatures = tuple([signature_by_id(i) for i in present.tolist()])
    kept = needed[known.rows]
    if len(known.rows):
        signatures, signature = _with_known(signatures, signature, new[known.rows[kept]])
    return Graph(
        signatures=signatures,
        signature=signature,
        starts=starts,
        base=new_base,
        shift=new_shift,
        int_starts=int_starts,
        ints=c.ints,
        float_starts=float_starts,
        floats=c.floats,
        origin=origin,
        tapes=tuple([weakref.ref(s.tape) for s in c.segments]),
        tape_starts=c.tape_starts,
        tape_lows=np.array([s.low for s in c.segments], np.int64),
        roots=tuple(zip(new[base[roots]].tolist(), shift[roots].tolist(), strict=True)),
        known=new[known.rows[kept]],
        known_run=tuple([known.runs[i] for i in known.which[kept].tolist()]),
        known_offset=known.offsets[kept],
        tape_base=base[:-1],
        tape_shift=shift[:-1],
        results=results,
        inside=_int_array([]),
    )


def _by_arrays(c: _Columns, imported: Sequence[tuple[int, int]], known: _Known, root_rows: Ints) -> Graph:
    """The same without a compiler, a look-up of whole arrays at a time."""
    n = len(c) + 1  # the last row stands for all that were not read
    views = c.nodes_of(loops.VIEW)
    results = c.nodes_of(loops.OUTPUT)
    if len(results):
        known, results = _whole_calls(c, known, results)
    aliases = np.concatenate([views, _int_array([row for row, _ in imported])])
    targets = np.concatenate([c.operands[c.starts[views]], _int_array([source for _, source in imported])])
    shifts = np.concatenate([c.ints[c.int_starts[views]].astype(np.int64), np.zeros(len(imported), np.int64)])
    base, shift = _resolve(c, aliases, targets, shifts)

    computed = np.ones(n, bool)
    computed[aliases] = False
    has_operands = computed.copy()
    has_operands[known.rows] = False
    users = np.repeat(np.arange(len(c)), np.diff(c.starts))
    edges = np.flatnonzero(has_operands.take(users))
    users, operands = users.take(edges), c.operands.take(edges)
    resolved = base.take(operands)
    needed = _needed(n, base[root_rows], users, resolved, computed)
    _check_all_read(needed)
    needed[results] |= needed[c.operands[c.starts[results]]]  # a call computes all of its results
    kept = needed.take(users)
    if not kept.all():
        users, operands, resolved = users[kept], operands[kept], resolved[kept]
    return _compressed(c, needed, _Edges(users, operands, resolved), base, shift, root_rows, known, results)


def drawn_anew(graph: Graph) -> Graph:
    """The graph with the next draws of their streams for the random nodes whose values were dropped because a parameter
    had changed, in the order of recording; these are noted on the tapes."""
    tapes = [graph.tape(number) for number in range(len(graph.tapes))]
    if not any(tape.generation for tape in tapes):
        return graph
    ints = graph.ints.copy()
    for tape, row, node in _random_rows(graph, tapes):
        if tape.drawn.get(row, 0) < tape.generation:
            tape.drawn[row] = tape.generation
            there = int(decoded(tape).int_starts[row])
            for places in graph.signatures[graph.signature[node]].draws:
                stream = tape.streams.get(tape.ints[there + places[0]])
                for place, number in zip(places, stream.draw() if stream else (), strict=False):
                    tape.ints[there + place] = ints[graph.int_starts[node] + place] = number
    return replace(graph, ints=ints)


def _random_rows(graph: Graph, tapes: Sequence[Tape]) -> list[tuple[Tape, int, int]]:
    """The random nodes as tape, row and node, in the order of recording."""
    draws = np.array([bool(s.draws) for s in graph.signatures], bool)
    nodes = np.flatnonzero(draws[graph.signature])
    places = zip(graph.tape_rows(graph.origin[nodes]), nodes.tolist(), strict=True)
    return sorted(((tapes[t], row, node) for (t, row), node in places), key=lambda found: (found[0].number, found[1]))


def _check_all_read(needed: Ints) -> None:
    """Nothing that is needed may rest on the row behind the last, which stands for what was not read."""
    if needed[-1]:
        raise LazyflowError("the roots rest on rows of their tapes that were not read: this is a bug in lazyflow")


def _whole_calls(c: _Columns, known: _Known, results: Ints) -> tuple[_Known, Ints]:
    """What is known without the calls of which only some results are: these run again; and the results to compute."""
    calls = c.operands[c.starts[results]]
    is_known = np.zeros(len(c) + 1, bool)
    is_known[known.rows] = True
    broken = np.zeros(len(c) + 1, bool)
    broken[calls[is_known[calls] != is_known[results]]] = True
    broken[results[broken[calls]]] = True
    kept = ~broken[known.rows]
    is_known &= ~broken
    return known._replace(
        rows=known.rows[kept], which=known.which[kept], offsets=known.offsets[kept]
    ), results[~is_known[results]]  # fmt: skip


class _Edges(NamedTuple):
    """The edges of a graph in the order of their users: user, operand as recorded, the node whose memory that is."""

    users: Ints
    operands: Ints
    resolved: Ints


def _compressed(
    c: _Columns,
    needed: Ints,
    edges: _Edges,
    base: Ints,
    shift: Ints,
    root_rows: Ints,
    known: _Known,
    results: Ints,
) -> Graph:
    nodes = np.flatnonzero(needed)
    new = np.full(len(needed), -1, np.int64)
    new[nodes] = np.arange(len(nodes))
    starts = _starts(np.bincount(edges.users, minlength=len(needed)).take(nodes))
    kept = needed[known.rows]
    known_nodes = new[known.rows[kept]]
    present, signature = np.unique(c.ids.take(nodes), return_inverse=True)
    signatures, signature = _with_known(tuple([signature_by_id(i) for i in present.tolist()]), signature, known_nodes)
    root_bases = new[base[root_rows]].tolist()
    return Graph(
        signatures=signatures,
        signature=signature,
        starts=starts,
        base=new.take(edges.resolved),
        shift=shift.take(edges.operands),
        int_starts=c.int_starts.take(nodes),
        ints=c.ints,
        float_starts=c.float_starts.take(nodes),
        floats=c.floats,
        origin=nodes,
        tapes=tuple(weakref.ref(s.tape) for s in c.segments),
        tape_starts=c.tape_starts,
        tape_lows=np.array([s.low for s in c.segments], np.int64),
        roots=tuple(zip(root_bases, shift[root_rows].tolist(), strict=True)),
        known=known_nodes,
        known_run=tuple(known.runs[i] for i in known.which[kept].tolist()),
        known_offset=known.offsets[kept],
        tape_base=base[:-1],
        tape_shift=shift[:-1],
        results=new[results[needed[results]]],
        inside=np.empty(0, np.int64),
    )


def _with_known(signatures: tuple[Signature, ...], signature: Ints, known: Ints) -> tuple[tuple[Signature, ...], Ints]:
    """Nodes whose value is known get a signature that says so: nothing is left to compute for them."""
    found = list(signatures)
    for old in np.unique(signature[known]).tolist():
        mine = known[signature[known] == old]
        kind = known_signature(found[old].type)
        if kind not in found:
            found.append(kind)
        signature[mine] = found.index(kind)
    return tuple(found), signature


__all__ = ["Graph", "awaited", "collect", "drawn_anew", "is_evaluated", "location", "reachable", "reached_tapes"]

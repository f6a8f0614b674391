"""From roots to flat arrays: what the roots reach on their tapes, with views resolved away.

`collect` puts the tapes that still have something to compute one behind the other, follows every view to the node whose
memory it shows, drops what no root reaches, and returns a `Graph`: the only thing that scheduling and planning see.
What goes over rows is one of the `lazyflow.passes`; the only Python loops go over tapes, imports and roots.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import Ints, NodePayload, RowBegins, TapeColumns, as_they_come, begins
from lazyflow.errors import LazyflowError, TornError
from lazyflow.record.expr import Expr, handle
from lazyflow.record.tape import (
    PastRun,
    Signature,
    Tape,
    known_signature,
    signature_by_id,
    signature_columns,
)

if TYPE_CHECKING:
    from lazyflow.core.columns import FloatColumn, IntColumn

MOST_SIZES = 4  # numbers of rows that operands of one operation have of their own, unless it is a list


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes to compute, in a topological order.

    - Node ``i`` has signature ``signatures[signature[i]]`` and operands ``base[starts[i]:starts[i + 1]]``, each read
      from element ``shift`` of the base's value on; its payload stands in ``ints`` and ``floats`` behind
      ``int_starts`` and ``float_starts``.
    - It is row ``origin[i]`` of what was read of the tapes, laid end to end: that of tape ``t`` begins at
      ``tape_starts[t]``, and is the rows ``rows[t]`` of it, or all where these are None.
    - ``roots`` are pairs of base and shift.
    - ``known`` nodes have their value in an earlier run: ``known_run``, ``known_offset``.
    - ``results`` are nodes that a launch of the cell call before them computes, its further results.
    - ``inside`` are rows, numbered as in ``origin``, that have no node: chains compute them on their way.
    - ``copied``: which of the tapes' floats stand once more behind the last of them, for chains.
    - ``counts``: how many rows each node has, None where all have one; ``forms[form[i]]``: the signature that node
      ``i`` was recorded with, of a graph with signatures that do not say it (see `lazyflow.graph.joined`).
    - Row ``i`` of the tapes shows the memory of row ``tape_base[i]`` from element ``tape_shift[i]`` on; the number
      behind the last row stands for rows that were not read.
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
    # A tape owns its runs, which own their graph: a strong reference would be a cycle.
    tapes: tuple[weakref.ref[Tape], ...]
    tape_starts: Ints
    rows: tuple[Ints | None, ...]
    roots: tuple[tuple[int, int], ...]
    known: Ints
    known_run: tuple[PastRun, ...]
    known_offset: Ints
    tape_base: Ints
    tape_shift: Ints
    results: Ints
    inside: Ints
    copied: Ints
    counts: Ints | None = None
    forms: tuple[Signature, ...] = ()
    form: Ints | None = None

    @cached_property
    def nodes(self) -> passes.Nodes:
        """Nodes and edges as `lazyflow.passes` have them, checked once."""
        return passes.Nodes(self.signature, len(self.signatures), self.starts, self.base, self.results)

    @cached_property
    def sizes(self) -> Ints:
        """Of each of the ``forms`` the first numbers of rows of its operands (see `lazyflow.ops.rows.ByParts`)."""
        found = np.zeros((MOST_SIZES, len(self.forms)), np.int64)
        for i, form in enumerate(self.forms):
            sizes = form.family.sizes[:MOST_SIZES] if form.family else ()
            found[: len(sizes), i] = sizes
        return found

    @property
    def call(self) -> Ints:
        """The node whose launch computes each node: itself, but of a cell's further result the call."""
        found: Ints = self.nodes.call
        return found

    @property
    def payload(self) -> NodePayload:
        """The numbers of all nodes, and where those of each node begin."""
        return NodePayload(self.int_starts, self.ints, self.float_starts, self.floats)

    @cached_property
    def alone(self) -> Ints:
        """Which nodes have a launch of their own: all but the further results of calls."""
        alone = np.ones(len(self), bool)
        alone[self.results] = False
        return alone

    @cached_property
    def place_of_known(self) -> dict[int, int]:
        """Where each known node stands among them."""
        return {node: place for place, node in enumerate(self.known.tolist())}

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

    def positions(self, rows: Ints) -> list[tuple[int, int]]:
        """For rows as in ``origin``: the number of the tape, and the position among what was read of it."""
        tapes = np.searchsorted(self.tape_starts, rows, side="right") - 1
        return list(zip(tapes.tolist(), (rows - self.tape_starts[tapes]).tolist(), strict=True))

    def tape_rows(self, rows: Ints) -> list[tuple[int, int]]:
        """The same, with the row of the tape in place of the position."""
        return [(number, row_at(self.rows[number], position)) for number, position in self.positions(rows)]

    def places_of(self, number: int, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Those of some rows of a tape that were read, each with its number as in ``origin``."""
        start, end = self.tape_starts[number : number + 2].tolist()
        found = [(row, position_of(self.rows[number], row)) for row in rows]
        return [(row, start + position) for row, position in found if 0 <= position < end - start]

    def tape(self, number: int) -> Tape:
        """The ``number``-th tape; whoever holds an expression of it keeps it alive."""
        found = self.tapes[number]()
        assert found is not None, "the roots keep their tapes alive"
        return found


def row_at(rows: Ints | None, position: int) -> int:
    """The row at a position among ``rows``, which are all where they are None."""
    return position if rows is None else int(rows[position])


def position_of(rows: Ints | None, row: int) -> int:
    """Where a row stands among ``rows``, ascending ones or None for all; -1 where it does not."""
    if rows is None:
        return row
    found = int(np.searchsorted(rows, row))
    return found if found < len(rows) and rows[found] == row else -1


def span_of(rows: Ints | None, count: int) -> tuple[int, int]:
    """From where to where ``rows`` are, of so many."""
    return (0, count) if rows is None else (int(rows[0]), int(rows[-1]) + 1)


def ranges_of(rows: Ints | None, count: int) -> list[tuple[int, int]]:
    """The ranges that ``rows`` are, of so many: of a few, one with them and what is between."""
    if rows is None or count < LONG:
        return [span_of(rows, count)]
    breaks = np.flatnonzero(np.diff(rows) > 1)
    lows, lasts = rows[np.append(0, breaks + 1)], rows[np.append(breaks, len(rows) - 1)]
    return list(zip(lows.tolist(), (lasts + 1).tolist(), strict=True))


class Reading:
    """What is read of a tape: the ``rows`` that are needed, ascending, as a tape of their own. They are None where that
    is all of it. ``begins``: where what each row of the tape has begins, if that is known. ``ranges``: the rows once
    more, in the order in which they are asked for: where each begins, and ends; None if that is not known."""

    __slots__ = ("_begins", "_picked", "_sources", "ranges", "rows", "tape")

    def __init__(
        self,
        tape: Tape,
        rows: Ints | None,
        begins: RowBegins | None = None,
        ranges: Ints | None = None,
    ) -> None:
        self.tape, self.rows, self._begins, self.ranges = tape, rows, begins, ranges
        self._picked: tuple[TapeColumns, list[int]] | None = None
        self._sources: list[tuple[Tape, int]] | None = None

    def __len__(self) -> int:
        return len(self.tape) if self.rows is None else len(self.rows)

    def _pick(self) -> tuple[TapeColumns, list[int]]:
        if self._picked is None:
            assert self.rows is not None, "all of a tape is as it is"
            kinds, row_begins = signature_columns().kinds, self._begins or RowBegins(*decoded(self.tape)[:3])
            *columns, numbers = passes.picked(whole_columns(self.tape), row_begins, kinds, self.rows)
            self._picked = TapeColumns(*columns), numbers.tolist()
        return self._picked

    @property
    def columns(self) -> TapeColumns:
        """Its columns; an operand that is not read is -1."""
        return whole_columns(self.tape) if self.rows is None else self._pick()[0]

    @property
    def imports(self) -> list[tuple[Tape, int]]:
        """What it imports, by the numbers in its columns."""
        if self._sources is None:
            every: list[tuple[Tape, int]] = self.tape.imports
            whole = self.rows is None or not every
            self._sources = every if whole else [every[number] for number in self._pick()[1]]
        return self._sources

    @property
    def ranks(self) -> Ints | None:
        """When each of the rows is first asked for; None where that is as they were recorded, where many roots rest on
        the same, and where they have ranges of many lengths, in whose graph no other order will come by."""
        if self.rows is None or self.ranges is None or (np.diff(self.ranges[0]) >= 0).all():
            return None
        if len(np.unique(np.diff(self.ranges, axis=0))) > FEW_LENGTHS:
            return None
        rows = _rows_of_ranges(*self.ranges)
        if len(rows) > 2 * len(self):
            return None
        found = np.empty(len(self), np.int64)
        found[np.searchsorted(self.rows, rows)[::-1]] = np.arange(len(rows))[::-1]
        return found

    def import_at(self, position: int) -> int:
        """The number of the import that stands at a position."""
        row = row_at(self.rows, position)
        number: int = self.tape.ints[int(decoded(self.tape).int_starts[row])]
        return number if self.rows is None else self._pick()[1].index(number)


# A tape of so many rows that was recorded for good (its roots are kept) is not walked through for a few of its roots:
# what each rests on is kept with it.
LONG = 512
# Rows that a root does not reach are read all the same where they are this few in a row.
GAP = 128


# Examples of one structure have as many rows each; some more ranges are of what they share.
FEW_LENGTHS = 3


def reading_of(tape: Tape, asked: Sequence[int]) -> Reading:
    """What is read of a tape, which is sealed by it, for some of its rows."""
    kept = tape.sealed and len(tape) >= LONG
    tape.seal()
    if kept:
        ranges = np.array(ranges_reached(tape, asked), np.int64).T
        return Reading(tape, _rows_of_ranges(*_ranges_merged(*ranges)), None, ranges)
    rows, int_counts, float_counts, kinds = signature_columns()
    columns = tape.signatures, tape.operands, tape.ints
    found = passes.needed(columns, len(tape.floats), (rows, int_counts, float_counts), kinds, list(asked))
    return Reading(tape, None) if found is None else Reading(tape, found[0], RowBegins(*found[1:]))


def _ranges_merged(lows: Ints, highs: Ints) -> tuple[Ints, Ints]:
    """Ranges that together are these, ascending, and apart from each other."""
    order = np.argsort(lows, kind="stable")
    lows, highs = lows[order], np.maximum.accumulate(highs[order])
    apart = np.flatnonzero(lows[1:] > highs[:-1])
    return lows[np.append(0, apart + 1)], highs[np.append(apart, len(highs) - 1)]


def _rows_of_ranges(lows: Ints, highs: Ints) -> Ints:
    """The rows of ranges, one range behind the other."""
    starts = begins(highs - lows)
    found: Ints = np.arange(int(starts[-1])) + np.repeat(lows - starts[:-1], highs - lows)
    return found


def ranges_reached(tape: Tape, rows: Iterable[int]) -> list[tuple[int, int]]:
    """The ranges of rows that rows of a sealed tape rest on, themselves included; kept with the tape."""
    known = tape.reach
    asked = list(rows)
    fresh = [row for row in asked if row not in known]
    if fresh:
        known.update(zip(fresh, _reach(tape, fresh), strict=True))
    return [part for row in asked for part in known[row]]


def _reach(tape: Tape, rows: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    ids, operands = _buffer(tape.signatures, np.int32), _buffer(tape.operands, np.int32)
    kinds, starts, marks = signature_columns().kinds, decoded(tape).starts, decoded(tape).marks
    found = passes.reach(_int_array(rows), ids, kinds, starts, operands, marks, GAP)
    lows, highs, counts = (column.tolist() for column in found)
    parts = iter(zip(lows, highs, strict=True))
    return (tuple(itertools.islice(parts, count)) for count in counts)


def _buffer(column: IntColumn | FloatColumn, dtype: type[np.generic]) -> Ints:
    return np.frombuffer(column, dtype) if len(column) else np.empty(0, dtype)


class Decoded(NamedTuple):
    """Where the operands and the payload of each row of a tape begin."""

    starts: Ints
    int_starts: Ints
    float_starts: Ints
    marks: Ints  # all false: for a walk over the rows to use and to leave so


def decoded(tape: Tape) -> Decoded:
    """Where what the rows of a sealed tape have begins; kept with it."""
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
    starts: tuple[Ints, Ints, Ints] = passes.row_starts(ids, ints, columns.rows, columns.ints, columns.floats)
    return starts


def readings_of(roots: Sequence[Expr], anew: bool) -> list[Reading]:
    """What the roots need of the tapes that hold something to compute, operands before users; ``anew``: whatever was
    computed counts for nothing. Seals the tapes.

    Tapes recorded with and without gradients do not mix in one run; see `awaited`.
    """
    found = _Readings(anew)
    for e in roots:
        found.ask(e.tape, e.row)
    found.read()
    return found.in_order([e.tape for e in roots])


class _Readings:
    """Readings of tapes, the latest first: what is imported was recorded before, so that most tapes are read once."""

    def __init__(self, anew: bool) -> None:
        self.anew = anew
        self.asked: dict[int, dict[int, None]] = {}  # rows, by the id of their tape
        self.waiting: list[tuple[int, Tape]] = []
        self.queued: set[int] = set()
        self.readings: dict[int, Reading] = {}
        self.wanted: dict[int, list[Tape]] = {}  # of which others a tape reads what is to be computed

    def ask(self, tape: Tape, row: int) -> None:
        """Say that a row is needed."""
        rows = self.asked.setdefault(id(tape), {})
        if row not in rows:
            rows[row] = None
            if id(tape) not in self.queued:
                self.queued.add(id(tape))
                heapq.heappush(self.waiting, (-tape.number, tape))

    def read(self) -> None:
        """Follow imports as far as there is something to compute."""
        while self.waiting:
            _, tape = heapq.heappop(self.waiting)
            self.queued.remove(id(tape))
            self.readings[id(tape)] = reading = reading_of(tape, list(self.asked[id(tape)]))
            sources: dict[int, Tape] = {}
            for source, row in reading.imports:
                if self.anew or (source.grad == tape.grad and not source.has_value(row)):
                    sources[id(source)] = source
                    self.ask(source, row)
            self.wanted[id(tape)] = list(sources.values())

    def in_order(self, tapes: Sequence[Tape]) -> list[Reading]:
        """All of them, operands before users."""
        order: list[Reading] = []
        seen: set[int] = set()
        stack = [(tape, False) for tape in reversed(tapes)]
        while stack:
            tape, finished = stack.pop()
            reading = self.readings[id(tape)]
            if finished:
                order.append(reading)
            elif id(tape) not in seen:
                seen.add(id(tape))
                stack.append((tape, True))
                stack.extend((source, False) for source in self.wanted[id(tape)])
        return order


def awaited(readings: Sequence[Reading]) -> list[Expr]:
    """What these import from the other side of a ``no_grad`` block and is not computed yet: to be run before them."""
    found = {
        (id(t), row): (t, row)
        for reading in readings
        for t, row in reading.imports
        if t.grad != reading.tape.grad and not t.has_value(row)
    }
    return [handle(t, row, signature_by_id(t.signatures[row]).type) for t, row in found.values()]


class _Columns:
    """What is read of the tapes, laid end to end."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.readings = tuple(readings)
        self.tape_starts = begins(np.array([len(reading) for reading in readings], np.int64))
        pairs = zip(readings, self.tape_starts.tolist(), strict=False)
        self.places = {id(reading.tape): (reading, start) for reading, start in pairs}
        self.ids, self.operands, self.ints, self.floats = self._laid_end_to_end()
        self.kinds = signature_columns().kinds
        self.starts, self.int_starts, self.float_starts = found = _row_starts(self.ids, self.ints)
        _check_whole(found, (self.operands, self.ints, self.floats))

    def __len__(self) -> int:
        return len(self.ids)

    def _laid_end_to_end(self) -> list[Ints]:
        """Signatures, operands, integers and floats; operands are rows as numbered through all of them."""
        columns = []
        outside = int(self.tape_starts[-1])
        for reading, start in self.places.values():
            ids, operands, ints, floats = reading.columns
            moved = operands + np.int64(start)
            if reading.rows is not None:
                np.copyto(moved, outside, where=operands < 0)
            columns.append((ids, moved, ints, floats))
        return (
            list(columns[0]) if len(columns) == 1 else [np.concatenate(column) for column in zip(*columns, strict=True)]
        )

    def computed_tapes(self) -> Iterator[tuple[Any, Ints | slice, int]]:
        """Of each tape of which something was computed what runs have left on it, its rows, and the number of the first
        of them."""
        for reading, start in self.places.values():
            if reading.tape.computed is not None:
                yield reading.tape.computed, slice(None) if reading.rows is None else reading.rows, start

    def row(self, tape: Tape, row: int) -> int:
        """The number of a row of a tape through all of them, one of which holds it."""
        reading, start = self.places[id(tape)]
        place: int = start + (row if reading.rows is None else int(np.searchsorted(reading.rows, row)))
        return place

    def rows(self, tape: Tape, rows: Ints) -> Ints:
        """The same of many rows."""
        reading, start = self.places[id(tape)]
        found: Ints = start + (rows if reading.rows is None else np.searchsorted(reading.rows, rows))
        return found

    def nodes_of(self, kind: int) -> Ints:
        """The rows of that kind (see `lazyflow.passes`)."""
        return np.flatnonzero(self.kinds.take(self.ids) == kind)


def whole_columns(tape: Tape) -> TapeColumns:
    """The four columns of a tape."""
    ids, operands, ints = [_buffer(column, np.int32) for column in (tape.signatures, tape.operands, tape.ints)]
    return TapeColumns(ids, operands, ints, _buffer(tape.floats, np.float64))


class _Known(NamedTuple):
    """Rows whose value lies in an earlier run, as parallel arrays; ``which`` indexes ``runs``."""

    rows: Ints
    runs: list[object]
    which: Ints
    offsets: Ints


def _known_rows(columns: _Columns, foreign: Sequence[_Imported], anew: bool) -> _Known:
    """What was computed before: rows of these tapes (unless ``anew``), and the ``foreign`` imports, in their order."""
    runs: list[object] = []
    parts = [(_NO_ROWS, _NO_ROWS, _NO_ROWS)]
    for computed, rows, start in () if anew else columns.computed_tapes():
        run_of = computed.run_of[rows]
        found = np.flatnonzero(run_of >= 0)
        if len(found):
            parts.append((found + start, run_of[found] + len(runs), computed.offset_of[rows][found]))
            runs.extend(computed.runs)
    own = len(parts)
    for tape, nodes, rows in foreign:
        computed = tape.computed
        assert computed is not None, "a value was computed before that is not computed here"
        parts.append((nodes, computed.run_of[rows] + len(runs), computed.offset_of[rows]))
        runs.extend(computed.runs)
    parts[own:] = [_in_order(parts[own:])] if len(parts) > own + 1 else parts[own:]
    all_rows, which, offsets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Known(all_rows, runs, which, offsets)


def _in_order(parts: Sequence[tuple[Ints, ...]]) -> Any:
    """Parallel arrays of several parts as one, sorted by the first of them."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return tuple([column[order] for column in columns])


class _Imported(NamedTuple):
    """Imports from one tape: the nodes that import, and the rows there."""

    tape: Tape
    nodes: Ints
    rows: Ints


def _resolved_imports(columns: _Columns, anew: bool) -> tuple[tuple[Ints, Ints], list[_Imported]]:
    """Imports of rows that are computed here, which are aliases (row, source row), and of values computed before."""
    aliases: list[tuple[Ints, Ints]] = []
    foreign: list[_Imported] = []
    for tape, nodes, rows in _by_source(columns):
        here = np.full(len(rows), id(tape) in columns.places)
        if tape.computed is not None and not anew:
            here &= tape.computed.run_of[rows] < 0
        if here.any():
            aliases.append((nodes[here], columns.rows(tape, rows[here])))
        if not here.all():
            nodes, rows = nodes[~here], rows[~here]
            if len(columns.readings) > 1:  # one tape imports each once, and several are one node
                _, firsts, number = np.unique(rows, return_index=True, return_inverse=True)
                first = firsts[number]
                again = first != np.arange(len(rows))
                aliases.append((nodes[again], nodes[first[again]]))
                nodes, rows = nodes[~again], rows[~again]
            foreign.append(_Imported(tape, nodes, rows))
    return _in_order(aliases) if aliases else (_NO_ROWS, _NO_ROWS), foreign


def _by_source(columns: _Columns) -> list[_Imported]:
    """The imports, from each tape those of all its rows that are imported."""
    tables = [reading.imports for reading in columns.readings]
    if not any(tables):
        return []
    nodes = columns.nodes_of(passes.IMPORT_ROW)
    which = np.searchsorted(columns.tape_starts, nodes, side="right") - 1
    numbers = columns.ints[columns.int_starts[nodes]]
    groups: dict[int, tuple[Tape, list[int], list[int]]] = {}
    for node, t, number in zip(nodes.tolist(), which.tolist(), numbers.tolist(), strict=True):
        source, row = tables[t][number]
        group = groups.get(id(source))
        if group is None:
            group = groups[id(source)] = source, [], []
        group[1].append(node)
        group[2].append(row)
    return [_Imported(tape, _int_array(mine), _int_array(rows)) for tape, mine, rows in groups.values()]


def _int_array(values: Sequence[int]) -> Ints:
    return np.array(values, np.int64)


_NO_ROWS = _int_array([])


def collect(roots: Sequence[Expr], anew: bool = False, readings: Sequence[Reading] | None = None) -> Graph:
    """The graph of everything that ``roots`` need and that has no value yet (``anew``: whether it has or not). Seals
    the tapes, of which the ``readings`` are those of `readings_of` where they are known."""
    c = _Columns(readings_of(roots, anew) if readings is None else readings)
    imported, foreign = _resolved_imports(c, anew)
    known = _known_rows(c, foreign, anew)
    root_rows = np.array([c.row(e.tape, e.row) for e in roots], np.int64)
    return _as_asked(_graph(c, imported, known, root_rows), c)


# Roots that are kept are asked for in any order, minibatch after minibatch, and a tape has its rows in that in which
# they were recorded. So that examples of one structure make graphs of one structure, for which there is a plan then,
# the nodes of a graph stand as the roots ask for them, as they would if they were recorded anew.


def _as_asked(graph: Graph, columns: _Columns) -> Graph:
    """The graph with its nodes in the order in which the roots ask for them, if that is a topological one."""
    ranks = [reading.ranks for reading in columns.readings]
    if all(rank is None for rank in ranks):
        return graph
    pairs = zip(ranks, columns.tape_starts.tolist(), columns.readings, strict=False)
    # Ranks of a tape have gaps, where ranges overlap.
    wide = [start * 2 + (np.arange(len(of)) if rank is None else rank) for rank, start, of in pairs]
    order = np.argsort(np.concatenate(wide)[graph.origin], kind="stable")
    new = np.empty_like(order)
    new[order] = np.arange(len(order))
    counts = np.diff(graph.starts)
    if (new[graph.base] >= np.repeat(new, counts)).any():
        return graph
    edges, known = edges_of(graph, order), new[graph.known]
    known_order = np.argsort(known)
    present, signature = as_they_come(np.arange(len(graph.signatures)), graph.signature[order])
    return replace(
        graph,
        signatures=tuple([graph.signatures[s] for s in present.tolist()]),
        signature=signature,
        starts=begins(counts[order]),
        base=new[graph.base[edges]],
        shift=graph.shift[edges],
        int_starts=graph.int_starts[order],
        float_starts=graph.float_starts[order],
        origin=graph.origin[order],
        roots=tuple([(int(new[base]), shift) for base, shift in graph.roots]),
        known=known[known_order],
        known_run=tuple([graph.known_run[i] for i in known_order.tolist()]),
        known_offset=graph.known_offset[known_order],
        results=np.sort(new[graph.results]),
    )


def edges_of(graph: Graph, nodes: Ints) -> Ints:
    """All edges of nodes, one node behind the other."""
    starts = graph.starts[nodes]
    counts = graph.starts[nodes + 1] - starts
    ends = begins(counts)
    return np.repeat(starts - ends[:-1], counts) + np.arange(ends[-1])


def _graph(c: _Columns, imported: tuple[Ints, Ints], known: _Known, roots: Ints) -> Graph:
    is_known = np.zeros(len(c) if len(known.rows) else 0, np.bool_)
    if len(known.rows):
        known = _whole_calls(c, known)
        is_known[known.rows] = True
    columns = TapeColumns(c.ids, c.operands, c.ints, c.floats)
    row_begins = RowBegins(c.starts, c.int_starts, c.float_starts)
    found = passes.collected(columns, c.kinds, row_begins, *imported, is_known, roots)
    present, *nodes, new, needed, base, shift = found
    _check_all_read(needed)
    signature, starts, new_base, new_shift, int_starts, float_starts, origin, results = nodes
    signatures = tuple([signature_by_id(i) for i in present.tolist()])
    kept = needed[known.rows]
    known_nodes = new[known.rows[kept]]
    if len(known.rows):
        signatures, signature = _with_known(signatures, signature, known_nodes)
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
        tapes=tuple([weakref.ref(reading.tape) for reading in c.readings]),
        tape_starts=c.tape_starts,
        rows=tuple([reading.rows for reading in c.readings]),
        roots=tuple(zip(new[base[roots]].tolist(), shift[roots].tolist(), strict=True)),
        known=known_nodes,
        known_run=tuple([known.runs[i] for i in known.which[kept].tolist()]),
        known_offset=known.offsets[kept],
        tape_base=base,
        tape_shift=shift,
        results=results,
        inside=_int_array([]),
        copied=_int_array([]),
    )


def payload(readings: Sequence[Reading]) -> tuple[Ints, Ints]:
    """The integers and the floats of what is read of tapes, end to end."""
    columns = [reading.columns for reading in readings]
    if len(columns) == 1:
        return columns[0].ints, columns[0].floats
    return np.concatenate([c.ints for c in columns]), np.concatenate([c.floats for c in columns])


def drawn_anew(graph: Graph, readings: Sequence[Reading], ints: Ints) -> Ints:
    """The integers of a graph of these with the next draws of their streams for the random nodes whose values were
    dropped because a parameter had changed, in the order of recording; these are noted on the tapes."""
    if not any(reading.tape.generation for reading in readings):
        return ints
    ints = ints.copy()
    for tape, row, node in _random_rows(graph, readings):
        if tape.drawn.get(row, 0) < tape.generation:
            tape.drawn[row] = tape.generation
            there = int(decoded(tape).int_starts[row])
            for places in graph.signatures[graph.signature[node]].draws:
                stream = tape.streams.get(tape.ints[there + places[0]])
                for place, number in zip(places, stream.following() if stream else (), strict=False):
                    tape.ints[there + place] = ints[graph.int_starts[node] + place] = number
    return ints


def _random_rows(graph: Graph, readings: Sequence[Reading]) -> list[tuple[Tape, int, int]]:
    """The random nodes as tape, row and node, in the order of recording."""
    draws = np.array([bool(s.draws) for s in graph.signatures], bool)
    nodes = np.flatnonzero(draws[graph.signature])
    places = zip(graph.positions(graph.origin[nodes]), nodes.tolist(), strict=True)
    found = [(readings[t].tape, row_at(readings[t].rows, position), node) for (t, position), node in places]
    return sorted(found, key=lambda random: (random[0].number, random[1]))


def _check_all_read(needed: Ints) -> None:
    """Nothing that is needed may rest on the row behind the last, which stands for what was not read."""
    if needed[-1]:
        raise LazyflowError("the roots rest on rows of their tapes that were not read: this is a bug in lazyflow")


def _whole_calls(c: _Columns, known: _Known) -> _Known:
    """What is known without the calls of which only some results are: these run again."""
    results = c.nodes_of(passes.OUTPUT_ROW)
    if not len(results):
        return known
    calls = c.operands[c.starts[results]]
    is_known = np.zeros(len(c) + 1, bool)
    is_known[known.rows] = True
    broken = np.zeros(len(c) + 1, bool)
    broken[calls[is_known[calls] != is_known[results]]] = True
    broken[results[broken[calls]]] = True
    kept = ~broken[known.rows]
    return known._replace(rows=known.rows[kept], which=known.which[kept], offsets=known.offsets[kept])


def _with_known(signatures: tuple[Signature, ...], signature: Ints, known: Ints) -> tuple[tuple[Signature, ...], Ints]:
    """Nodes whose value is known get a signature that says so: nothing is left to compute for them."""
    found = list(signatures)
    kinds = signature[known]
    for old in np.flatnonzero(np.bincount(kinds)).tolist():
        mine = known[kinds == old]
        kind = known_signature(found[old].type)
        if kind not in found:
            found.append(kind)
        signature[mine] = found.index(kind)
    return tuple(found), signature


__all__ = ["Graph", "Reading", "awaited", "collect", "drawn_anew", "readings_of"]

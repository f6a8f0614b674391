"""What is read of tapes: of each the rows that roots rest on, as a tape of their own, a `Reading`.

Roots that are kept are asked for some at a time, in any order, minibatch after minibatch. What each rests on is found
once, and its rows are read in the order in which the roots ask for them, as if they had been recorded anew: so examples
of one structure have one structure in any order, and the plan of those before.
Where the package was compiled, this is of C: it goes over roots and imports one by one.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import Ints, RowBegins, TapeColumns
from lazyflow.core.columns import IntColumn
from lazyflow.errors import TornError
from lazyflow.record.expr import Expr, handle
from lazyflow.record.tape import Tape, signature_by_id, signature_columns

if TYPE_CHECKING:
    from lazyflow.core.columns import FloatColumn


def row_at(rows: Ints | None, position: int) -> int:
    """The row at a position among ``rows``, which are all where they are None."""
    return position if rows is None else int(rows[position])


def position_of(rows: Ints | None, row: int) -> int:
    """Where a row stands among ``rows``, which are all where they are None; -1 where it does not."""
    return row if rows is None else int(passes.RowPlaces(rows).of(IntColumn([row]))[0])


class Reading:
    """What is read of a tape: the ``rows`` that are needed, operands before users, as a tape of their own. They are
    None where that is all of it. ``begins``: where what each row of the tape has begins, if that is known."""

    __slots__ = ("_begins", "_picked", "_places", "_sources", "rows", "tape")

    def __init__(self, tape: Tape, rows: Ints | None, begins: RowBegins | None = None) -> None:
        self.tape, self.rows, self._begins = tape, rows, begins
        self._picked: tuple[TapeColumns, list[int]] | None = None
        self._sources: list[tuple[Tape, int]] | None = None
        self._places: passes.RowPlaces | None = None

    def __len__(self) -> int:
        return len(self.tape) if self.rows is None else len(self.rows)

    @property
    def places(self) -> passes.RowPlaces:
        """Where its rows stand, of a part of a tape."""
        if self._places is None:
            assert self.rows is not None, "all of a tape is as it is"
            self._places = passes.RowPlaces(self.rows)
        return self._places

    def _pick(self) -> tuple[TapeColumns, list[int]]:
        if self._picked is None:
            kinds, row_begins = signature_columns().kinds, self._begins or RowBegins(*decoded(self.tape)[:3])
            *columns, numbers = passes.picked(whole_columns(self.tape), row_begins, kinds, self.places)
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


def is_kept(tape: Tape) -> bool:
    """Whether what its rows rest on is kept with the tape."""
    return tape.sealed and len(tape) >= LONG


def are_parts(readings: list[Reading]) -> bool:
    """Whether any is of some rows of a long tape, which is there for the others, too."""
    for reading in readings:  # noqa: SIM110  # compiled, an `any` would be a generator
        if reading.rows is not None and len(reading.tape) >= LONG:
            return True
    return False


def reading_of(tape: Tape, asked: Sequence[int]) -> Reading:
    """What is read of a tape, which is sealed by it, for some of its rows."""
    kept = is_kept(tape)
    tape.seal()
    if kept:
        lows, highs = ranges_reached(tape, asked)
        there, operands = decoded(tape), _buffer(tape.operands, np.int32)
        return Reading(tape, passes.rows_of_ranges(lows, highs, there.starts, operands, there.marks))
    rows, int_counts, float_counts, kinds = signature_columns()
    columns = tape.signatures, tape.operands, tape.ints
    found = passes.needed(columns, len(tape.floats), (rows, int_counts, float_counts), kinds, list(asked))
    return Reading(tape, None) if found is None else Reading(tape, found[0], RowBegins(*found[1:]))


def ranges_reached(tape: Tape, rows: Sequence[int]) -> tuple[IntColumn, IntColumn]:
    """The ranges of rows that rows of a sealed tape rest on, themselves included: where they begin, and where they end.
    They are kept with the tape."""
    known = tape.reach
    lows, highs = IntColumn(), IntColumn()
    for row in rows:
        parts = known.get(row)
        if parts is None:
            fresh = [row for row in rows if row not in known]
            known.update(zip(fresh, _reach(tape, fresh), strict=True))
            parts = known[row]
        for low, high in parts:
            lows.append(low)
            highs.append(high)
    return lows, highs


def _reach(tape: Tape, rows: Sequence[int]) -> list[tuple[tuple[int, int], ...]]:
    ids, operands = _buffer(tape.signatures, np.int32), _buffer(tape.operands, np.int32)
    kinds, starts, marks = signature_columns().kinds, decoded(tape).starts, decoded(tape).marks
    found = passes.reach(np.array(rows, np.int64), ids, kinds, starts, operands, marks, GAP)
    lows, highs, counts = [column.tolist() for column in found]
    parts: Iterator[tuple[int, int]] = iter(zip(lows, highs, strict=True))
    return [tuple(itertools.islice(parts, count)) for count in counts]


def _buffer(column: IntColumn | FloatColumn, dtype: type[np.generic]) -> Ints:
    return np.frombuffer(column, dtype) if len(column) else np.empty(0, dtype)


def whole_columns(tape: Tape) -> TapeColumns:
    """The four columns of a tape."""
    ids, operands, ints = [_buffer(column, np.int32) for column in (tape.signatures, tape.operands, tape.ints)]
    return TapeColumns(ids, operands, ints, _buffer(tape.floats, np.float64))


def payload(readings: Sequence[Reading]) -> tuple[Ints, Ints]:
    """The integers and the floats of what is read of tapes, end to end."""
    columns = [reading.columns for reading in readings]
    if len(columns) == 1:
        return columns[0].ints, columns[0].floats
    return np.concatenate([c.ints for c in columns]), np.concatenate([c.floats for c in columns])


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
        starts = begins_of_rows(ids, columns[1])
        check_whole(starts, columns)
        tape.decoded = Decoded(*starts, np.zeros(len(tape), np.bool_))
    return tape.decoded  # type: ignore[no-any-return]


def check_whole(starts: tuple[Ints, Ints, Ints], columns: Sequence[Ints]) -> None:
    """Raise `TornError` unless what the rows say to have is what stands in the other columns."""
    if [int(ends[-1]) for ends in starts] != [len(column) for column in columns]:
        raise TornError(
            "the recording was torn: an interrupt, or several threads recording from one expression; an expression "
            "belongs to the thread that recorded it until its value was computed. Record it again"
        )


def begins_of_rows(ids: Ints, ints: Ints) -> tuple[Ints, Ints, Ints]:
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
    tapes: list[Tape] = []
    last: object = None
    for e in roots:
        root: Expr = e
        found.ask(root.tape, root.row)
        if root.tape is not last:  # most often they are of one tape
            last = root.tape
            tapes.append(root.tape)
    found.read()
    return found.in_order(tapes)


class _Asked:
    """The rows of a tape that are needed; ``queued``: whether it waits to be read."""

    __slots__ = ("queued", "rows", "tape")

    def __init__(self, tape: Tape) -> None:
        self.tape, self.queued = tape, False
        self.rows: dict[int, None] = {}


class _Readings:
    """Readings of tapes, the latest first: what is imported was recorded before, so that most tapes are read once."""

    def __init__(self, anew: bool) -> None:
        self.anew = anew
        self.asked: dict[int, _Asked] = {}  # by the id of the tape
        self.last: Any = None  # of these, for most often the next row is one of the same
        self.waiting: list[tuple[int, _Asked]] = []
        self.readings: dict[int, Reading] = {}
        self.wanted: dict[int, list[Tape]] = {}  # of which others a tape reads what is to be computed

    def ask(self, tape: Tape, row: int) -> None:
        """Say that a row is needed."""
        found = self.last
        if found is None or found.tape is not tape:
            found = self.asked.get(id(tape))
            if found is None:
                found = self.asked[id(tape)] = _Asked(tape)
            self.last = found
        if row not in found.rows:
            found.rows[row] = None
            if not found.queued:
                found.queued = True
                heapq.heappush(self.waiting, (-tape.number, found))

    def read(self) -> None:
        """Follow imports as far as there is something to compute."""
        while self.waiting:
            asked = heapq.heappop(self.waiting)[1]
            asked.queued = False
            tape = asked.tape
            self.readings[id(tape)] = reading = reading_of(tape, list(asked.rows))
            sources: dict[int, Tape] = {}
            last: object = None
            for of, row in reading.imports:
                source: Tape = of
                if self.anew or (source.grad == tape.grad and not source.has_value(row)):
                    self.ask(source, row)
                    if source is not last:
                        last = source
                        sources[id(source)] = source
            self.wanted[id(tape)] = list(sources.values())

    def in_order(self, tapes: Sequence[Tape]) -> list[Reading]:
        """All of them, operands before users."""
        order: list[Reading] = []
        seen: set[int] = set()
        stack = [(tape, False) for tape in reversed(tapes)]
        while stack:
            tape, finished = stack.pop()
            if finished:
                order.append(self.readings[id(tape)])
            elif id(tape) not in seen:
                seen.add(id(tape))
                stack.append((tape, True))
                stack.extend([(source, False) for source in self.wanted[id(tape)]])
        return order


def awaited(readings: Sequence[Reading]) -> list[Expr]:
    """What these import from the other side of a ``no_grad`` block and is not computed yet: to be run before them."""
    found: dict[tuple[int, int], tuple[Tape, int]] = {}
    for reading in readings:
        tape: Tape = reading.tape
        for of, row in reading.imports:
            source: Tape = of
            if source.grad != tape.grad and not source.has_value(row):
                found[id(source), row] = source, row
    return [handle(t, row, signature_by_id(t.signatures[row]).type) for t, row in found.values()]


class AskedRows:
    """Rows of tapes that are read: the ``numbers`` of the tapes among the readings, and the ``rows`` there."""

    __slots__ = ("numbers", "rows")

    def __init__(self, roots: Sequence[Expr], readings: Sequence[Reading]) -> None:
        self.numbers, self.rows = IntColumn(), IntColumn()
        number = numbers_by_tape(readings)
        for e in roots:
            root: Expr = e
            self.numbers.append(number[id(root.tape)])
            self.rows.append(root.row)

    def positions(self, readings: Sequence[Reading]) -> Ints:
        """Where they stand in what is read of their tapes, as int32."""
        picked = [number for number, reading in enumerate(readings) if reading.rows is not None]
        if len(readings) == 1 and picked:
            one: Ints = readings[0].places.of(self.rows)
            return one
        found = np.array(self.rows, np.int32)
        if picked:
            numbers = np.array(self.numbers, np.int32)
            for number in picked:
                mine = numbers == number
                found[mine] = readings[number].places.of(found[mine])
        return found


def numbers_by_tape(readings: Sequence[Reading]) -> dict[int, int]:
    """The number of each reading, by the id of its tape."""
    found: dict[int, int] = {}
    for reading in readings:
        found[id(reading.tape)] = len(found)
    return found


class Imports:
    """What nodes import, by numbers of rows of ``readings`` that are laid end to end. ``here``: of each reading, nodes
    that import what is read there as well, and the rows. ``again``: nodes that import what one before them does, and
    these. All others import values that were computed before: ``nodes``, and of each the run and the element offset."""

    __slots__ = ("again", "here", "nodes", "offsets", "runs", "seen", "several")

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.here: list[tuple[IntColumn, IntColumn]] = [(IntColumn(), IntColumn()) for _ in readings]
        self.again = IntColumn(), IntColumn()
        self.nodes, self.several = IntColumn(), len(readings) > 1
        self.runs: list[Any] = []
        self.offsets: list[int] = []
        self.seen: dict[tuple[int, int], int] = {}

    def add_known(self, node: int, source: Tape, row: int) -> None:
        """Say that a node imports a value that was computed before."""
        if self.several:  # one tape imports each once, and several are one node
            first = self.seen.setdefault((id(source), row), node)
            if first != node:
                self.again[0].append(node)
                self.again[1].append(first)
                return
        run, offset = source.place_of(row)
        self.nodes.append(node)
        self.runs.append(run)
        self.offsets.append(offset)

    def aliases(self, readings: Sequence[Reading], starts: Sequence[int]) -> list[tuple[Ints, Ints]]:
        """The nodes that import what is computed here, or by a node before, and the rows that do."""
        found = [(_wide(self.again[0]), _wide(self.again[1]))] if len(self.again[0]) else []
        for reading, start, (nodes, rows) in zip(readings, starts, self.here, strict=False):
            if len(nodes):
                there = _wide(rows) if reading.rows is None else reading.places.of(rows)
                found.append((_wide(nodes), there.astype(np.int64) + start))
        return found


def imports_of(readings: Sequence[Reading], starts: Sequence[int], found: Sequence[Ints], anew: bool) -> Imports:
    """The imports among the rows of tapes that are laid end to end, each of which begins at one of ``starts``.
    ``found``: the nodes that import, ascending, and the number of each among the imports of its tape; ``anew``:
    whatever was computed counts for nothing."""
    imports, read = Imports(readings), numbers_by_tape(readings)
    last, here, t, end = None, -1, -1, 0
    table: list[tuple[Tape, int]] = []
    for node, number in zip(*[column.tolist() for column in found], strict=True):
        while node >= end:
            t += 1
            table, end = readings[t].imports, starts[t + 1]
        source, row = table[number]
        if source is not last:  # most often it is the tape of the one before
            last, here = source, read.get(id(source), -1)
        if here >= 0 and (anew or not source.has_value(row)):
            nodes, rows = imports.here[here]
            nodes.append(node)
            rows.append(row)
        else:
            imports.add_known(node, source, row)
    return imports


def _wide(column: IntColumn) -> Ints:
    return _buffer(column, np.int32).astype(np.int64)


__all__ = [
    "AskedRows", "Imports", "Reading", "awaited", "begins_of_rows", "check_whole", "decoded", "imports_of", "is_kept",
    "numbers_by_tape", "payload", "position_of", "reading_of", "readings_of", "row_at", "whole_columns",
]  # fmt: skip

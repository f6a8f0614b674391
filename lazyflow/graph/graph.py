"""From roots to flat arrays: what the roots reach on their tapes, with views resolved away.

`collect` puts the tapes that still have something to compute one behind the other, follows every view to the node whose
memory it shows, drops what no root reaches, and returns a `Graph`: the only thing that scheduling and planning see.
What goes over rows is one of the `lazyflow.passes`; the only Python loops go over tapes, imports and roots.
"""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import Ints, NodePayload, RowBegins, TapeColumns, begins
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


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes to compute, in a topological order.

    - Node ``i`` has signature ``signatures[signature[i]]`` and operands ``base[starts[i]:starts[i + 1]]``, each read
      from element ``shift`` of the base's value on; its payload stands in ``ints`` and ``floats`` behind
      ``int_starts`` and ``float_starts``.
    - It is row ``origin[i]`` of the tapes laid end to end; tape ``t`` begins at ``tape_starts[t]``, with its row
      ``tape_lows[t]`` (of a long tape only parts are read, each as a tape of its own).
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
    tape_lows: Ints
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
        """Of each of the ``forms`` the first two numbers of rows of its operands (see `lazyflow.ops.rows.ByParts`)."""
        found = np.zeros((2, len(self.forms)), np.int64)
        for i, form in enumerate(self.forms):
            sizes = form.family.sizes[:2] if form.family else ()
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


class TapePart(NamedTuple):
    """Rows ``low`` to ``high`` (not included) of a tape."""

    tape: Tape
    low: int
    high: int


# A tape of so many rows that was recorded for good (its roots are kept) is not read as a whole for a few of its roots.
LONG = 512
# Rows that a root does not reach are read all the same where they are this few in a row.
GAP = 128


def tape_parts(tapes: Sequence[Tape], roots: Sequence[Expr], anew: bool) -> list[TapePart]:
    """What to read of each tape: all of it, or, of a long one that was sealed before, what the roots need."""
    asked: dict[int, set[int]] = {id(t): set() for t in tapes}
    for e in roots:
        asked[id(e.tape)].add(e.row)
    for tape in tapes:
        for source, row in tape.imports:
            if id(source) in asked and (anew or not source.has_value(row)):
                asked[id(source)].add(row)
    found = []
    for tape in tapes:
        if tape.sealed and len(tape) >= LONG:
            found += [TapePart(tape, low, high) for low, high in _merged_ranges(tape, asked[id(tape)])]
        else:
            found.append(TapePart(tape, 0, len(tape)))
    return found


def _merged_ranges(tape: Tape, rows: set[int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges_reached(tape, rows)):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


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
    """The columns of a sealed tape that `TapePart`s are cut by; kept with it."""
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
            wanted = {id(t): t for t, row in tape.imports if anew or (t.grad == tape.grad and not t.has_value(row))}
            stack.extend((t, False) for t in wanted.values())
    return order


def awaited(tapes: Sequence[Tape]) -> list[Expr]:
    """What the tapes import from the other side of a ``no_grad`` block and is not computed yet: to be run before
    them."""
    found = {
        (id(t), row): (t, row)
        for tape in tapes
        for t, row in tape.imports
        if t.grad != tape.grad and not t.has_value(row)
    }
    return [handle(t, row, signature_by_id(t.signatures[row]).type) for t, row in found.values()]


class _Columns:
    """The tapes' arrays laid end to end."""

    def __init__(self, tapes: Sequence[TapePart]) -> None:
        self.parts = tuple(tapes)
        self.tape_starts = begins(np.array([high - low for _, low, high in tapes], np.int64))
        self.places: dict[int, tuple[list[int], list[int]]] = {}  # lows and starts of the parts of each tape, by id
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
        """Signatures, operands, integers and floats; operands are rows as numbered through all parts."""
        columns = []
        done = 0
        outside = int(self.tape_starts[-1])
        for lows, starts in self.places.values():  # the parts of a tape stand behind each other
            tape, low, _ = self.parts[done]
            highs = [part.high for part in self.parts[done : done + len(lows)]]
            done += len(lows)
            ids, operands, ints, floats = whole_columns(tape)
            if (low, highs) != (0, [len(tape)]):
                ranges = np.array(lows, np.int64), np.array(highs, np.int64)
                ids, operands, ints, floats = _cut(tape, *ranges, outside - starts[0])
            columns.append((ids, operands + np.int64(starts[0]), ints, floats))
        return (
            list(columns[0]) if len(columns) == 1 else [np.concatenate(column) for column in zip(*columns, strict=True)]
        )

    def computed_tapes(self) -> Iterator[tuple[Any, Ints, int]]:
        """Of each tape of which something was computed what runs have left on it, its rows, and the number of the first
        of them through all parts: those of a tape stand behind each other."""
        done = 0
        for lows, starts in self.places.values():
            first, done = done, done + len(lows)
            computed = self.parts[first].tape.computed
            if computed is not None:
                ends = self.tape_starts[first + 1 : done + 1]
                shifts = _int_array(lows) - _int_array(starts)
                rows = np.arange(starts[0], int(ends[-1])) + np.repeat(shifts, ends - _int_array(starts))
                yield computed, rows, starts[0]

    def row(self, tape: Tape, row: int) -> int:
        """The number of a row of a tape through all parts, one of which holds it."""
        lows, starts = self.places[id(tape)]
        which = bisect.bisect_right(lows, row) - 1
        return starts[which] + row - lows[which]

    def rows(self, tape: Tape, rows: Ints) -> Ints:
        """The same of many rows."""
        lows, starts = (_int_array(column) for column in self.places[id(tape)])
        which = np.searchsorted(lows, rows, side="right") - 1
        found: Ints = starts[which] + rows - lows[which]
        return found

    def nodes_of(self, kind: int) -> Ints:
        """The rows of that kind (see `lazyflow.passes`)."""
        return np.flatnonzero(self.kinds.take(self.ids) == kind)


def whole_columns(tape: Tape) -> TapeColumns:
    """The four columns of a tape."""
    names = (tape.signatures, np.int32), (tape.operands, np.int32), (tape.ints, np.int32), (tape.floats, np.float64)
    return TapeColumns(*(_buffer(column, dtype) for column, dtype in names))


def _cut(tape: Tape, lows: Ints, highs: Ints, outside: int) -> TapeColumns:
    """The ranges of a tape's rows from ``lows`` to ``highs`` as columns of their own. Rows that are read and not needed
    may have operands in none of them: these become ``outside``."""
    starts = decoded(tape)
    return TapeColumns(*passes.cut(whole_columns(tape), RowBegins(*starts[:3]), lows, highs, outside))


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
        found = np.flatnonzero(computed.run_of[rows] >= 0)
        if len(found):
            there = rows[found]
            parts.append((found + start, computed.run_of[there] + len(runs), computed.offset_of[there]))
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
            foreign.append(_Imported(tape, nodes[~here], rows[~here]))
    return _in_order(aliases) if aliases else (_NO_ROWS, _NO_ROWS), foreign


def _by_source(columns: _Columns) -> list[_Imported]:
    """The imports, from each tape those of all its rows that are imported."""
    tables = [part.tape.imports for part in columns.parts]
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


def _as_they_come(present: Ints, signature: Ints) -> tuple[Ints, Ints]:
    """Signatures in the order of their first nodes, not of their ids, which are used again: what is computed first, and
    so the last bits of a sum, must not depend on which other ones have been let go of."""
    first = np.empty(len(present), np.int64)
    first[signature[::-1]] = np.arange(len(signature))[::-1]
    if (first[1:] > first[:-1]).all():
        return present, signature
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return present[order], number[signature]


def collect(roots: Sequence[Expr], anew: bool = False, parts: Sequence[TapePart] | None = None) -> Graph:
    """The graph of everything that ``roots`` need and that has no value yet (``anew``: whether it has or not). Seals
    the tapes, of which the ``parts`` are read where they are known."""
    parts = tape_parts(reached_tapes(roots, anew), roots, anew) if parts is None else parts
    for tape, _, _ in parts:
        tape.seal()
    c = _Columns(parts)
    imported, foreign = _resolved_imports(c, anew)
    known = _known_rows(c, foreign, anew)
    root_rows = np.array([c.row(e.tape, e.row) for e in roots], np.int64)
    return _graph(c, imported, known, root_rows)


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
    present, signature = _as_they_come(present, signature)
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
        tapes=tuple([weakref.ref(part.tape) for part in c.parts]),
        tape_starts=c.tape_starts,
        tape_lows=_int_array([part.low for part in c.parts]),
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


def payload(tapes: Sequence[Tape]) -> tuple[Ints, Ints]:
    """The integers and the floats of whole tapes, end to end."""
    ints, floats = [_buffer(t.ints, np.int32) for t in tapes], [_buffer(t.floats, np.float64) for t in tapes]
    return (ints[0], floats[0]) if len(tapes) == 1 else (np.concatenate(ints), np.concatenate(floats))


def drawn_anew(graph: Graph, tapes: Sequence[Tape], ints: Ints) -> Ints:
    """The integers of a graph of these tapes with the next draws of their streams for the random nodes whose values
    were dropped because a parameter had changed, in the order of recording; these are noted on the tapes."""
    if not any(tape.generation for tape in tapes):
        return ints
    ints = ints.copy()
    for tape, row, node in _random_rows(graph, tapes):
        if tape.drawn.get(row, 0) < tape.generation:
            tape.drawn[row] = tape.generation
            there = int(decoded(tape).int_starts[row])
            for places in graph.signatures[graph.signature[node]].draws:
                stream = tape.streams.get(tape.ints[there + places[0]])
                for place, number in zip(places, stream.following() if stream else (), strict=False):
                    tape.ints[there + place] = ints[graph.int_starts[node] + place] = number
    return ints


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


__all__ = ["Graph", "awaited", "collect", "drawn_anew", "reached_tapes"]

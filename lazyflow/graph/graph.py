"""From roots to flat arrays: what the roots reach on their tapes, with views resolved away.

`collect` puts what is read of the tapes (see `lazyflow.graph.reading`) one behind the other, follows every view to the
node whose memory it shows, drops what no root reaches, and returns a `Graph`: the only thing that scheduling and
planning see. What goes over rows is one of the `lazyflow.passes`; the only Python loops here go over tapes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import Ints, NodePayload, RowBegins, TapeColumns, begins
from lazyflow.core.columns import IntColumn
from lazyflow.errors import LazyflowError
from lazyflow.graph.reading import (
    AskedRows,
    Imports,
    Reading,
    begins_of_rows,
    check_whole,
    decoded,
    imports_of,
    readings_of,
    row_at,
)
from lazyflow.record.expr import Expr
from lazyflow.record.tape import (
    PastRun,
    Signature,
    Tape,
    known_signature,
    signature_by_id,
    signature_columns,
)

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
        read = self.rows[number]
        positions = rows if read is None else passes.RowPlaces(read).of(IntColumn(rows)).tolist()
        pairs = zip(rows, positions, strict=True)
        return [(row, start + position) for row, position in pairs if 0 <= position < end - start]

    def tape(self, number: int) -> Tape:
        """The ``number``-th tape; whoever holds an expression of it keeps it alive."""
        found = self.tapes[number]()
        assert found is not None, "the roots keep their tapes alive"
        return found


class _Columns:
    """What is read of the tapes, laid end to end."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.readings = tuple(readings)
        self.tape_starts = begins(np.array([len(reading) for reading in readings], np.int64))
        pairs = zip(readings, self.tape_starts.tolist(), strict=False)
        self.places = {id(reading.tape): (reading, start) for reading, start in pairs}
        self.ids, self.operands, self.ints, self.floats = self._laid_end_to_end()
        self.kinds = signature_columns().kinds
        self.starts, self.int_starts, self.float_starts = found = begins_of_rows(self.ids, self.ints)
        check_whole(found, (self.operands, self.ints, self.floats))

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

    def nodes_of(self, kind: int) -> Ints:
        """The rows of that kind (see `lazyflow.passes`)."""
        return np.flatnonzero(self.kinds.take(self.ids) == kind)


class _Known(NamedTuple):
    """Rows whose value lies in an earlier run, as parallel arrays; ``which`` indexes ``runs``."""

    rows: Ints
    runs: list[object]
    which: Ints
    offsets: Ints


def _known_rows(columns: _Columns, imports: Imports | None, anew: bool) -> _Known:
    """What was computed before: rows of these tapes (unless ``anew``), and the imports, in their order."""
    runs: list[object] = []
    parts: list[tuple[Ints, Ints, Ints]] = []
    for computed, rows, start in () if anew else columns.computed_tapes():
        run_of = computed.run_of[rows]
        found = np.flatnonzero(run_of >= 0)
        if len(found):
            parts.append((found + start, run_of[found] + len(runs), computed.offset_of[rows][found]))
            runs.extend(computed.runs)
    if imports is not None and imports.runs:
        which = np.arange(len(runs), len(runs) + len(imports.runs))
        parts.append((np.array(imports.nodes, np.int64), which, _int_array(imports.offsets)))
        runs.extend(imports.runs)
    rows, which, offsets = _as_one(parts) if parts else (_NO_ROWS, _NO_ROWS, _NO_ROWS)
    return _Known(rows, runs, which, offsets)


def _as_one(parts: Sequence[tuple[Ints, ...]]) -> Sequence[Ints]:
    """Parallel arrays of several parts as one."""
    return parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]


def _imported(columns: _Columns, anew: bool) -> Imports | None:
    """What the rows import; None for nothing."""
    if not any(reading.imports for reading in columns.readings):
        return None
    nodes = columns.nodes_of(passes.IMPORT_ROW)
    numbers = columns.ints[columns.int_starts[nodes]]
    return imports_of(columns.readings, columns.tape_starts.tolist(), (nodes, numbers), anew)


def _aliases(columns: _Columns, imports: Imports | None) -> tuple[Ints, Ints]:
    """Imports of rows that are computed here, or by a node before, and these rows."""
    parts = [] if imports is None else imports.aliases(columns.readings, columns.tape_starts.tolist())
    if not parts:
        return _NO_ROWS, _NO_ROWS
    nodes, rows = _as_one(parts)
    if len(parts) == 1:  # they are ascending
        return nodes, rows
    order = np.argsort(nodes, kind="stable")
    return nodes[order], rows[order]


def _int_array(values: Sequence[int]) -> Ints:
    return np.array(values, np.int64)


_NO_ROWS = _int_array([])


def collect(roots: Sequence[Expr], anew: bool = False, readings: Sequence[Reading] | None = None) -> Graph:
    """The graph of everything that ``roots`` need and that has no value yet (``anew``: whether it has or not). Seals
    the tapes, of which the ``readings`` are those of `readings_of` where they are known."""
    c = _Columns(readings_of(roots, anew) if readings is None else readings)
    imports = _imported(c, anew)
    known = _known_rows(c, imports, anew)
    asked = AskedRows(roots, c.readings)
    root_rows = c.tape_starts[np.array(asked.numbers, np.int32)] + asked.positions(c.readings)
    return _graph(c, _aliases(c, imports), known, root_rows)


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
    known_nodes = _NO_ROWS
    if len(known.rows):
        kept = needed[known.rows]
        known = known._replace(rows=known.rows[kept], which=known.which[kept], offsets=known.offsets[kept])
        known_nodes = new[known.rows]
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
        known_run=tuple([known.runs[i] for i in known.which.tolist()]),
        known_offset=known.offsets,
        tape_base=base,
        tape_shift=shift,
        results=results,
        inside=_int_array([]),
        copied=_int_array([]),
    )


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


__all__ = ["Graph", "collect", "drawn_anew", "edges_of"]

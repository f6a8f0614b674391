"""From roots to flat arrays: what the roots reach on their tapes, with views resolved away.

`collect` puts the tapes that still have something to compute one behind the other, follows every view to the node whose
memory it shows, drops what no root reaches, and returns a `Graph`: the only thing that scheduling and planning see.
Everything is a look-up of whole arrays; the only Python loops go over tapes, imports and roots.
"""

from __future__ import annotations

import bisect
import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lazyflow import jit
from lazyflow.errors import LazyflowError
from lazyflow.expr import Expr, handle
from lazyflow.tape import (
    IMPORT,
    OUTPUT,
    RAGGED,
    VIEW,
    Signature,
    Tape,
    known_signature,
    signature_by_id,
    signature_columns,
)

Ints = np.ndarray[Any, np.dtype[Any]]
_NEXT_DRAWS = 1_000_003  # a prime stride, so that draws of a repeated forward do not meet those of the next nodes


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
    for low, high in sorted(r for row in rows for r in reach(tape, row)):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def reach(tape: Tape, row: int) -> tuple[tuple[int, int], ...]:
    """The ranges of rows that a row of a sealed tape rests on, itself included; kept with the tape."""
    found = tape.reach.get(row)
    if found is None:
        rows = _rows_below(tape, row)
        breaks = np.flatnonzero(np.diff(rows) > GAP) + 1
        lows = [int(rows[0]), *rows[breaks].tolist()]
        lasts = [*rows[breaks - 1].tolist(), int(rows[-1])]
        highs = [_end_of_call(tape, last) for last in lasts]
        found = tape.reach[row] = tuple(zip(lows, highs, strict=True))
    return found


def _end_of_call(tape: Tape, row: int) -> int:
    """The row behind a row and, of a cell's call or one of its results, behind the last result: a launch computes all
    of them, and they stand in a row."""
    is_result = signature_by_id(tape.signatures[row]).op is OUTPUT
    call = tape.operands[int(decoded(tape).starts[row])] if is_result else row
    return int(call) + 1 + len(signature_by_id(tape.signatures[call]).further)


def _rows_below(tape: Tape, row: int) -> Ints:
    """The rows that a row of a sealed tape rests on, ascending, itself included."""
    starts = decoded(tape).starts
    if jit.is_available():
        return _loop()(row, starts, np.frombuffer(tape.operands, np.int32), decoded(tape).marks)
    seen, stack = {row}, [row]
    while stack:
        i = stack.pop()
        for operand in tape.operands[int(starts[i]) : int(starts[i + 1])]:
            if operand not in seen:
                seen.add(operand)
                stack.append(operand)
    return np.array(sorted(seen), np.int64)


_REACH = '''"""Printed by lazyflow; see lazyflow/graph.py."""

import numpy as np
from numba import njit


@njit(cache=True)
def reach(row, starts, operands, marks):
    found = np.empty(256, np.int64)
    found[0] = row
    marks[row] = True
    count, done = 1, 0
    while done < count:
        i = found[done]
        done += 1
        for e in range(starts[i], starts[i + 1]):
            operand = operands[e]
            if not marks[operand]:
                marks[operand] = True
                if count == len(found):
                    larger = np.empty(2 * count, np.int64)
                    larger[:count] = found
                    found = larger
                found[count] = operand
                count += 1
    for k in range(count):
        marks[found[k]] = False
    return np.sort(found[:count])
'''


@functools.cache
def _loop() -> Callable[..., Ints]:
    return jit.module(_REACH).reach  # type: ignore[no-any-return]


class Decoded(NamedTuple):
    """Where the operands and the payload of each row of a tape begin."""

    starts: Ints
    int_starts: Ints
    float_starts: Ints
    marks: Ints  # all false: for a walk over the rows to use and to leave so


def decoded(tape: Tape) -> Decoded:
    """The columns of a sealed tape that `Segment`s are cut by; kept with it."""
    if tape.decoded is None:
        rows, ints, floats = signature_columns()
        ids = np.frombuffer(tape.signatures, np.int32)
        int_starts = _starts(ints.take(ids))
        counts = rows.take(ids)
        ragged = np.flatnonzero(counts == RAGGED)
        counts[ragged] = np.frombuffer(tape.ints, np.int32)[int_starts[ragged]] if len(ragged) else 0
        marks = np.zeros(len(tape), np.bool_)
        tape.decoded = Decoded(_starts(counts), int_starts, _starts(floats.take(ids)), marks)
    return tape.decoded  # type: ignore[no-any-return]


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


_STARTS = {"operands": "starts", "ints": "int_starts", "floats": "float_starts"}


def _parts(segments: Sequence[Segment], name: str, dtype: Any) -> list[Ints]:
    """A column of the rows of each segment."""
    found = []
    seen: Tape | None = None
    column, starts = np.empty(0, dtype), None
    for tape, low, high in segments:
        if tape is not seen:
            seen, whole = tape, getattr(tape, name)
            column = np.frombuffer(whole, dtype) if len(whole) else np.empty(0, dtype)
            starts = None
        if high - low == len(tape):
            found.append(column)
        elif name == "signatures":
            found.append(column[low:high])
        else:
            starts = getattr(decoded(tape), _STARTS[name]) if starts is None else starts
            found.append(column[starts[low] : starts[high]])
    return found


def _laid_end_to_end(segments: Sequence[Segment], name: str, dtype: Any) -> Ints:
    parts = [part for part in _parts(segments, name, dtype) if len(part)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, dtype)


def _starts(counts: Ints) -> Ints:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


class _Columns:
    """The tapes' arrays laid end to end, decoded through the columns of the signature table."""

    def __init__(self, tapes: Sequence[Segment]) -> None:
        self.segments = tuple(tapes)
        self.tape_starts = _starts(np.array([high - low for _, low, high in tapes], np.int64))
        self.places: dict[int, tuple[list[int], list[int]]] = {}  # lows and starts of the segments of each tape, by id
        for (tape, low, _), start in zip(tapes, self.tape_starts.tolist(), strict=False):
            lows, starts = self.places.setdefault(id(tape), ([], []))
            lows.append(low)
            starts.append(start)
        ids = _laid_end_to_end(tapes, "signatures", np.int32)
        rows, ints, floats = signature_columns()
        present = np.flatnonzero(np.bincount(ids, minlength=1))
        compact = np.empty(present[-1] + 1 if len(present) else 0, np.int32)
        compact[present] = np.arange(len(present), dtype=np.int32)
        self.signatures = tuple(signature_by_id(int(i)) for i in present)
        self.signature = compact.take(ids)
        self.int_starts = _starts(ints.take(ids))
        self.float_starts = _starts(floats.take(ids))
        self.operands = self._operands()
        self.ints = self._drawn_anew(_laid_end_to_end(tapes, "ints", np.int32))
        counts = rows.take(ids)
        ragged = np.flatnonzero(counts == RAGGED)
        counts[ragged] = self.ints[self.int_starts[ragged]]
        self.starts = _starts(counts)
        self.floats = _laid_end_to_end(tapes, "floats", np.float64)
        ends = int(self.starts[-1]), int(self.int_starts[-1]), int(self.float_starts[-1])
        if ends != (len(self.operands), len(self.ints), len(self.floats)):
            raise LazyflowError(
                "the recording was torn: an interrupt, or several threads recording from one expression; an expression "
                "belongs to the thread that recorded it until its value was computed. Record it again"
            )

    def _operands(self) -> Ints:
        """The rows that are read, numbered through all segments."""
        parts = _parts(self.segments, "operands", np.int32)
        found = []
        done = 0
        for lows, starts in self.places.values():  # the segments of a tape stand behind each other
            rows = parts[done] if len(lows) == 1 else np.concatenate(parts[done : done + len(lows)])
            done += len(lows)
            if len(lows) == 1 and lows[0] == 0:
                found.append(rows + np.int64(starts[0]))
            else:
                which = np.searchsorted(lows, rows, side="right") - 1
                moved = rows + (np.array(starts) - np.array(lows))[which]
                # What no root reaches may read rows that are left out: any row will do for these.
                found.append(np.clip(moved, 0, self.tape_starts[-1] - 1))
        return found[0] if len(found) == 1 else np.concatenate(found) if found else np.empty(0, np.int64)

    def row(self, tape: Tape, row: int) -> int:
        """The number of a row of a tape through all segments."""
        lows, starts = self.places[id(tape)]
        which = bisect.bisect_right(lows, row) - 1
        return starts[which] + row - lows[which]

    def _drawn_anew(self, ints: Ints) -> Ints:
        """The payload, with other draw counts (the second number of a random node) on tapes that are computed again."""
        generations = np.array([s.tape.generation for s in self.segments], np.int64)
        drawing = [(i, place) for i, s in enumerate(self.signatures) for place in s.draws]
        if not generations.any() or not drawing:
            return ints
        ints = ints.copy()
        for signature, place in drawing:
            nodes = np.flatnonzero(self.signature == signature)
            counts = self.int_starts[nodes] + place
            again = generations[np.searchsorted(self.tape_starts, nodes, side="right") - 1]
            ints[counts] = (ints[counts] + again * _NEXT_DRAWS) % 2**31
        return ints

    def nodes_of(self, op: Any) -> Ints:
        flags = np.array([s.op is op for s in self.signatures], bool)
        return np.flatnonzero(flags.take(self.signature)) if flags.any() else np.empty(0, np.int64)


def _resolve(columns: _Columns, aliases: Ints, targets: Ints, shifts: Ints) -> tuple[Ints, Ints]:
    """Follow chains of aliases to their ends by pointer jumping: base and element shift of every row."""
    n = len(columns.signature)
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
        if tape.runs and not anew:
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
    nodes = columns.nodes_of(IMPORT)
    which = np.searchsorted(columns.tape_starts, nodes, side="right") - 1
    for node, t in zip(nodes.tolist(), which.tolist(), strict=True):
        source, row = columns.segments[t].tape.imports[int(columns.ints[columns.int_starts[node]])]
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
    n = len(c.signature)
    views = c.nodes_of(VIEW)
    imported, foreign = _imports(c, anew)
    known = _known_rows(c, foreign, anew)
    results = c.nodes_of(OUTPUT)
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
    users = np.repeat(np.arange(n), np.diff(c.starts))
    edges = np.flatnonzero(has_operands.take(users))
    users, operands = users.take(edges), c.operands.take(edges)
    resolved = base.take(operands)
    root_rows = np.array([c.row(e.tape, e.row) for e in roots], np.int64)
    needed = _needed(n, base[root_rows], users, resolved, computed)
    needed[results] |= needed[c.operands[c.starts[results]]]  # a call computes all of its results
    kept = needed.take(users)
    if not kept.all():
        users, operands, resolved = users[kept], operands[kept], resolved[kept]
    return _compressed(c, needed, _Edges(users, operands, resolved), base, shift, root_rows, known, results)


def _whole_calls(c: _Columns, known: _Known, results: Ints) -> tuple[_Known, Ints]:
    """What is known without the calls of which only some results are: these run again; and the results to compute."""
    calls = c.operands[c.starts[results]]
    is_known = np.zeros(len(c.signature), bool)
    is_known[known.rows] = True
    broken = np.zeros(len(c.signature), bool)
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
    signatures, signature = _with_known(c.signatures, c.signature.take(nodes), known_nodes)
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
        tape_base=base,
        tape_shift=shift,
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


__all__ = ["Graph", "awaited", "collect", "is_evaluated", "location", "reachable", "reached_tapes"]

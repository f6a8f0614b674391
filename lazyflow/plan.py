"""A schedule as frozen data: which memory every launch reads and writes.

All values of one dtype live in one flat buffer, the *arena*; a value is a row of it: an element offset and a width. The
nodes of a launch get consecutive rows, and all launches of one signature in one phase stand behind each other, so that

- writing is always one contiguous block;
- reading an operand is a strided view wherever the rows are evenly spaced (no copy), and one gather elsewhere;
- a slice of the first axis, a reshape or a split is just another offset into the same memory: it costs no launch;
- a parameter's gradient is one product over all rows of its signature, not one per launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lazyflow.graph import Graph
from lazyflow.schedule import Dag, Schedule
from lazyflow.tape import Signature

Ints = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Where the rows of one operand, or of a launch's result, lie in the arena of their dtype.

    ``count`` rows of ``width`` elements. ``index`` is None for evenly spaced rows: from ``offset`` on, ``pitch``
    elements
    apart; a pitch of 0 with more than one row means that all nodes read the same one (it is *shared*). Otherwise
    ``index`` holds row numbers of the arena seen as rows of ``width``, or, if not ``aligned``, element offsets.
    """

    count: int
    width: int
    offset: int
    pitch: int
    index: Ints | None = None
    aligned: bool = True

    @property
    def shared(self) -> bool:
        return self.index is None and self.pitch == 0 and self.count > 1

    def offsets(self) -> Ints:
        """The element offset of every row."""
        if self.index is None:
            return self.offset + self.pitch * np.arange(self.count)
        return self.index * self.width if self.aligned else self.index


Read = Rows | np.ndarray | float | None


@dataclass(frozen=True, eq=False, slots=True)
class Launch:
    """One kernel call: ``reads[i]`` is where operand ``i`` comes from: `Rows`, payload numbers, or None for a
    parameter."""

    signature: Signature
    writes: Rows
    reads: tuple[Read, ...]
    nodes: Ints


@dataclass(frozen=True, eq=False)
class Plan:
    """The launches in order, the arena's size in elements for each dtype, and the arena offset of every node."""

    graph: Graph
    schedule: Schedule
    launches: tuple[Launch, ...]
    offsets: Ints
    sizes: dict[np.dtype[Any], int]
    reuses: bool

    @cached_property
    def parameter_launches(self) -> tuple[Launch, ...]:
        """All nodes of each signature that has a differentiable parameter, as if nothing forbade to run them at once:
        what backward computes the parameters' gradients from. Made when a backward first asks."""
        return () if self.reuses else parameter_launches(self.graph, self.schedule.launch, self.offsets)

    def check(self) -> None:
        """Raise ``AssertionError`` if this is not a valid plan: every node once, operands before users, rows
        consecutive."""
        graph, launch = self.graph, self.schedule.launch
        nodes = np.concatenate([item.nodes for item in self.launches]) if self.launches else np.empty(0, np.int64)
        assert np.array_equal(np.sort(nodes), np.arange(len(graph))), "every node runs exactly once"
        users = np.repeat(np.arange(len(graph)), np.diff(graph.starts))
        assert (launch[graph.base] < launch[users]).all(), "operands run before their users"
        for item in self.launches:
            assert item.writes.index is None and (item.writes.pitch == item.writes.width or item.writes.count == 1)
            assert np.array_equal(
                self.offsets[item.nodes], item.writes.offset + item.writes.width * np.arange(item.writes.count)
            )
            assert len({int(graph.signature[n]) for n in item.nodes}) == 1, "a launch has one signature"
        if not self.reuses:
            self._check_disjoint()

    def _check_disjoint(self) -> None:
        for dtype, size in self.sizes.items():
            blocks = sorted(
                (i.writes.offset, i.writes.count * i.writes.width)
                for i in self.launches
                if i.signature.type.dtype == dtype
            )
            ends = [offset + length for offset, length in blocks]
            assert all(end <= start for end, (start, _) in zip(ends, blocks[1:], strict=False)), (
                "no two nodes share memory"
            )
            assert not ends or max(ends) <= size, "every row lies in the arena"


def dag_of(graph: Graph) -> Dag:
    """What scheduling sees of a graph."""
    return Dag(graph.signature, len(graph.signatures), graph.starts, graph.base)


class _Table:
    """Columns of the signature table of one graph, for look-ups by node."""

    def __init__(self, graph: Graph) -> None:
        types = [s.type for s in graph.signatures]
        self.width = np.array([max(t.size, 1) for t in types], np.int64)
        self.dtypes = sorted({t.dtype for t in types}, key=str)
        self.dtype = np.array([self.dtypes.index(t.dtype) for t in types], np.int64)


def _bounds(keys: Ints, count: int) -> Ints:
    bounds = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=bounds[1:])
    return bounds


def _by_launch(launch: Ints, launches: int) -> Ints:
    """Nodes ordered by launch, recorded order within; NumPy sorts 16-bit keys by radix, which is linear."""
    keys = launch.astype(np.uint16) if launches < 65536 else launch
    return np.argsort(keys, kind="stable")


def _place(
    graph: Graph, schedule: Schedule, table: _Table, order: Ints, bounds: Ints, reuse: bool
) -> tuple[Ints, dict[Any, int]]:
    """Arena offset of every node. Blocks are aligned to their own width, so that a gather is a plain ``take`` of
    rows."""
    first = order[bounds[:-1]]
    signature = graph.signature[first]
    block = np.lexsort((np.arange(len(first)), signature, schedule.phase, table.dtype[signature]))
    counts = np.diff(bounds)
    last_read = _last_read(graph, schedule) if reuse else None
    start = np.empty(len(first), np.int64)
    sizes: dict[Any, int] = {}
    for d, dtype in enumerate(table.dtypes):
        mine = block[table.dtype[signature[block]] == d]
        widths = table.width[signature[mine]]
        if last_read is None:
            sizes[dtype] = _stacked_blocks(start, mine, widths, counts[mine], signature[mine])
        else:
            sizes[dtype] = _recycled_blocks(start, mine, widths, counts[mine], schedule.phase[mine], last_read[mine])
    offsets = np.empty(len(order), np.int64)
    position = np.arange(len(order)) - np.repeat(bounds[:-1], counts)
    offsets[order] = np.repeat(start, counts) + position * table.width[graph.signature[order]]
    return offsets, sizes


def _stacked_blocks(start: Ints, blocks: Ints, widths: Ints, counts: Ints, signature: Ints) -> int:
    cursor, previous = 0, -1
    for block, width, count, s in zip(
        blocks.tolist(), widths.tolist(), counts.tolist(), signature.tolist(), strict=True
    ):
        if s != previous:
            cursor = -(-cursor // width) * width
            previous = s
        start[block] = cursor
        cursor += width * count
    return cursor


def _last_read(graph: Graph, schedule: Schedule) -> Ints:
    """The last phase in which each launch's rows are read; never over for a root."""
    users = np.repeat(np.arange(len(graph)), np.diff(graph.starts))
    last: Ints = schedule.phase.copy()
    np.maximum.at(last, schedule.launch[graph.base], schedule.phase[schedule.launch[users]])
    roots = [base for base, _ in graph.roots]
    last[schedule.launch[roots]] = np.iinfo(last.dtype).max  # phases may have gaps: more of them than launches
    return last


def _recycled_blocks(start: Ints, blocks: Ints, widths: Ints, counts: Ints, phase: Ints, last: Ints) -> int:
    """First fit: a block whose last reader's phase is over is free memory for later phases."""
    free: list[tuple[int, int]] = []
    busy: list[tuple[int, int, int]] = []
    end, now = 0, -1
    for block, width, count, p, until in zip(*(a.tolist() for a in (blocks, widths, counts, phase, last)), strict=True):
        if p != now:
            now = p
            done = [(offset, size) for over, offset, size in busy if over < p]
            busy = [b for b in busy if b[0] >= p]
            free = _coalesced(free + done)
        offset, end = _first_fit(free, width * count, width, end)
        start[block] = offset
        busy.append((until, offset, width * count))
    return end


def _coalesced(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, size in sorted(pieces):
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + size)
        else:
            merged.append((offset, size))
    return merged


def _first_fit(free: list[tuple[int, int]], size: int, width: int, end: int) -> tuple[int, int]:
    for i, (offset, room) in enumerate(free):
        begin = -(-offset // width) * width
        if begin + size <= offset + room:
            rest = [(offset, begin - offset), (begin + size, offset + room - begin - size)]
            free[i : i + 1] = [piece for piece in rest if piece[1]]
            return begin, end
    begin = -(-end // width) * width
    if begin > end:
        free.append((end, begin - end))
    return begin, begin + size


class _Column:
    """The ``slot``-th operand of all nodes in launch order: arena offsets, and per launch whether they are evenly
    spaced."""

    def __init__(self, offsets: Ints, bounds: Ints, widths: Ints) -> None:
        self.offsets = offsets
        low, high = bounds[:-1], bounds[1:]
        step = np.diff(offsets)
        uneven = np.zeros(len(offsets) + 1, np.int64)
        if len(step) > 1:
            np.cumsum(step[1:] != step[:-1], out=uneven[1 : len(step)])
            uneven[len(step) :] = uneven[len(step) - 1]
        two = high - low > 1
        pitch = np.zeros(len(low), np.int64)
        pitch[two] = step[low[two]]
        self.even = ((uneven[np.maximum(high - 2, low)] == uneven[low]) & (pitch >= 0)).tolist()
        self.pitch = np.where(two, pitch, widths).tolist()
        self.first = offsets[np.minimum(low, max(len(offsets) - 1, 0))].tolist() if len(offsets) else []

    def rows(self, launch: int, low: int, high: int, width: int) -> Rows:
        if self.even[launch]:
            return Rows(high - low, width, self.first[launch], self.pitch[launch])
        return _gathered(self.offsets[low:high], width)


def _gathered(offsets: Ints, width: int) -> Rows:
    """Rows that are not evenly spaced: by row number where all are aligned to their width, else by element offset."""
    index = offsets // width
    if (index * width == offsets).all():
        return Rows(len(offsets), width, 0, 0, index)
    return Rows(len(offsets), width, 0, 0, offsets.copy(), aligned=False)


def _few_rows(offsets: Ints, width: int) -> Rows:
    """The `Rows` of one launch, without the work that is shared by all launches of a plan."""
    step = offsets[1:] - offsets[:-1]
    pitch = int(step[0]) if len(step) else width
    if pitch >= 0 and (step == pitch).all():
        return Rows(len(offsets), width, int(offsets[0]), pitch)
    return _gathered(offsets, width)


def _payload(values: Ints, starts: Ints, nodes: Ints, position: int) -> Ints:
    found: Ints = values[starts[nodes] + position]
    return found


def _floats(values: Ints, dtype: np.dtype[Any], ndim: int) -> Any:
    """A launch's scalars as one Python float if they are all equal, else as an array that broadcasts behind the batch
    axis."""
    bits = values.view(np.int64)  # 0.0 and -0.0 are equal, and not the same
    if (bits == bits[0]).all():
        return float(values[0])
    return values.astype(dtype).reshape((-1,) + (1,) * ndim)


def launches(graph: Graph, launch_of: Ints, count: int, offsets: Ints, nodes: Ints | None = None) -> tuple[Launch, ...]:
    """The launches of ``nodes`` (all by default), numbered by ``launch_of``, over memory laid out by ``offsets``."""
    order = _by_launch(launch_of, count) if nodes is None else nodes[_by_launch(launch_of[nodes], count)]
    bounds = _bounds(launch_of[order], count)
    bounds = np.unique(bounds)  # launches of which no node is asked for are gone
    return _described(graph, order, bounds, offsets) if len(bounds) > 1 else ()


def _described(graph: Graph, order: Ints, bounds: Ints, offsets: Ints) -> tuple[Launch, ...]:
    signature_of = graph.signature[order[bounds[:-1]]]
    signatures = [graph.signatures[s] for s in signature_of.tolist()]
    result = _Column(offsets.take(order), bounds, np.array([max(s.type.size, 1) for s in signatures], np.int64))
    read = _reader(graph, order, bounds, offsets, signatures)
    edges = bounds.tolist()
    found = []
    for i, signature in enumerate(signatures):
        low, high = edges[i], edges[i + 1]
        nodes = order[low:high]
        writes = result.rows(i, low, high, max(signature.type.size, 1))
        reads = tuple(_read_of(graph, operand, read, i, low, high, nodes, signature) for operand in signature.operands)
        found.append(Launch(signature, writes, reads, nodes))
    return tuple(found)


def _read_of(
    graph: Graph, operand: Any, read: Any, launch: int, low: int, high: int, nodes: Ints, signature: Signature
) -> Read:
    if operand.kind == "row":
        rows: Rows = read(operand.position, launch, low, high, signature, operand)
        return rows
    if operand.kind == "int":
        return _payload(graph.ints, graph.int_starts, nodes, operand.position).astype(np.int64)
    if operand.kind == "float":
        values = _payload(graph.floats, graph.float_starts, nodes, operand.position)
        scalar: float | np.ndarray = _floats(values, operand.dtype, len(operand.shape))
        return scalar
    return None


def _reader(
    graph: Graph, order: Ints, bounds: Ints, offsets: Ints, signatures: Sequence[Signature]
) -> Callable[..., Rows]:
    """A function that says where an operand of a launch lies; the columns behind it are made once for all launches."""
    starts = graph.starts.take(order)
    columns: dict[int, _Column] = {}

    def place(edges: Ints) -> Ints:
        found: Ints = offsets.take(graph.base.take(edges)) + graph.shift.take(edges)
        return found

    def column(slot: int) -> _Column:
        if slot not in columns:
            has = [len(s.operands) if s.op.stacked else s.rows for s in signatures]
            filled = np.repeat(
                np.array([n > slot and not s.op.stacked for n, s in zip(has, signatures, strict=True)]), np.diff(bounds)
            )
            values = np.zeros(len(order), np.int64)
            values[filled] = place(starts[filled] + slot)
            widths = [_width_of_slot(s, slot) for s in signatures]
            columns[slot] = _Column(values, bounds, np.array(widths, np.int64))
        return columns[slot]

    def read(slot: int, launch: int, low: int, high: int, signature: Signature, operand: Any) -> Rows:
        width = max(operand.type.size, 1)
        if not signature.op.stacked:
            return column(slot).rows(launch, low, high, width)
        counts = graph.starts[order[low:high] + 1] - starts[low:high]
        ends = np.cumsum(counts)
        values = place(np.repeat(starts[low:high] - ends + counts, counts) + np.arange(ends[-1]))
        return _few_rows(values, width)

    return read


def _width_of_slot(signature: Signature, slot: int) -> int:
    return next(
        (max(o.type.size, 1) for o in signature.operands if o.kind == "row" and o.position == slot and o.type), 1
    )


def has_parameter_gradient(signature: Signature) -> bool:
    """Whether a parameter among the operands wants a gradient."""
    return any(o.kind == "shared" and o.vjp is not None for o in signature.operands)


def parameter_launches(graph: Graph, launch_of: Ints, offsets: Ints, nodes: Ints | None = None) -> tuple[Launch, ...]:
    """One launch for each signature with a differentiable parameter, of all its nodes in the order of their rows."""
    wanted = np.array([has_parameter_gradient(s) for s in graph.signatures], bool)
    if not wanted.any():
        return ()
    mine = wanted[graph.signature]
    if nodes is not None:
        chosen = np.zeros(len(graph), bool)
        chosen[nodes] = True
        mine &= chosen
    found = np.flatnonzero(mine)
    # Rows lie in the order of their launches, and within one as recorded: two stable sorts put them so.
    by_launch = found[_by_launch(launch_of[found], int(launch_of.max(initial=0)) + 1)]
    in_order = by_launch[_by_launch(graph.signature[by_launch], len(graph.signatures))]
    bounds = np.unique(_bounds(graph.signature[in_order], len(graph.signatures)))
    return _described(graph, in_order, bounds, offsets) if len(bounds) > 1 else ()


def make(graph: Graph, schedule: Schedule, *, reuse: bool = False) -> Plan:
    """The plan of a schedule. ``reuse``: memory whose readers are done is used again (nothing can be differentiated
    then)."""
    table = _Table(graph)
    order = _by_launch(schedule.launch, schedule.launches)
    bounds = _bounds(schedule.launch, schedule.launches)
    offsets, sizes = _place(graph, schedule, table, order, bounds, reuse)
    found = _described(graph, order, bounds, offsets) if len(graph) else ()
    return Plan(graph, schedule, found, offsets, sizes, reuse)

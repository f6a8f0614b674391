"""A schedule as frozen data: which memory every launch reads and writes.

All values of one dtype live in one flat buffer, the *arena*; a value is a row of it: an element offset and a width. The
nodes of a launch get consecutive rows, and all launches of one signature in one phase stand behind each other, so that

- writing is always one contiguous block;
- reading an operand is a strided view wherever the rows are evenly spaced (no copy), and one gather elsewhere;
- a slice of the first axis, a reshape or a split is just another offset into the same memory: it costs no launch;
- a parameter's gradient is one product over all rows of its signature, not one per launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import CellShape, Ints, NodePayload, begins, in_order_of
from lazyflow.device import DType, HostArray
from lazyflow.graph.graph import Graph, edges_of
from lazyflow.plan.schedule import Choices, Dag, Schedule
from lazyflow.plan.schedule import scheduled as schedule_of
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, Operand, Signature, Type


class Rows(NamedTuple):
    """Where the rows of one operand, or of a launch's result, lie in the arena of their dtype.

    ``count`` rows of ``width`` elements. ``index`` is None for evenly spaced rows: from ``offset`` on, ``pitch``
    elements apart; a pitch of 0 with more than one row means that all nodes read the same one (it is *shared*).
    Otherwise ``index`` holds row numbers of the arena seen as rows of ``width``, or, if not ``aligned``, element
    offsets.
    """

    count: int  # type: ignore[assignment]  # in place of the method of tuples, which nobody needs here
    width: int
    offset: int
    pitch: int
    index: Ints | None = None  # type: ignore[assignment]
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


class Each(NamedTuple):
    """The nodes of a launch one by one: their signatures, where their results lie, and for each operand of them where
    it lies (of a list all of its operands), its number where it is payload, or None for a parameter."""

    forms: tuple[Signature, ...]
    offsets: Ints
    reads: tuple[Ints | tuple[Ints, ...] | None, ...]


class Launch(NamedTuple):
    """One kernel call: ``reads[i]`` is where operand ``i`` comes from: `Rows`, payload numbers, or None for a
    parameter.

    Of a cell it is all launches that follow each other with no other between them, such as the steps of a chain:
    ``calls`` are the number of its `Cells`, which say what is read (see `reads_of`), and the edges of their ranges.

    ``each``: its nodes where these are taken one by one (`Signature.loops`); there are no ``reads`` then. Where they
    work element by element and lie end to end they are elements of one, and there is no ``each``.
    """

    signature: Signature
    writes: Rows
    reads: tuple[Read, ...]
    nodes: Ints
    calls: tuple[int, Ints] | None = None
    each: Each | None = None


@dataclass(frozen=True, eq=False)
class Cells:
    """The calls of one cell, in the order of their launches: where their operands (``inputs``) and results
    (``outputs``) lie, an element offset for each call, and their payload.

    ``external``: operands that all come from earlier phases; ``outside``: results that only later phases read.
    ``largest``: the calls of the largest launch. ``rows``: which calls these are of those that ran, None for all.
    """

    signature: Signature
    nodes: Ints
    inputs: tuple[Ints, ...]
    outputs: tuple[Ints, ...]
    ints: tuple[Ints, ...]
    floats: tuple[Ints, ...]
    external: frozenset[int]
    outside: frozenset[int]
    largest: int
    rows: Ints | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """What plans of one structure share: the launch of every node and its arena offset, the arena's size in elements
    for each dtype, and whether memory is used again. ``nbytes`` of all values; ``floating``: the sizes of what may have
    cotangents; ``kinds``: the types of the parameters among the operands."""

    schedule: Schedule
    offsets: Ints
    sizes: dict[DType, int]
    reuses: bool
    nbytes: int
    floating: dict[DType, int]
    kinds: frozenset[Type]


@dataclass(frozen=True, eq=False)
class Plan:
    """The launches in order, of nodes whose values lie as the ``layout`` says.

    ``structure``: the graph that it is of; of a plan for tapes that are recorded like others before, one that is alike
    but for tapes, earlier runs and payload, which is ``payload`` where any launch has some. ``first``: the plan that
    this one has all from but its payload. ``like``: a plan with the same launches but for payload. ``bound``: its
    launches as they are run, once it did (see `lazyflow.run.launch`).
    """

    structure: Graph
    layout: Layout
    launches: tuple[Launch, ...]
    cells: tuple[Cells, ...] = ()
    payload: NodePayload | None = None
    first: Plan | None = None
    like: Plan | None = None
    bound: dict[str, Any] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """The launch of every node."""
        return self.layout.schedule

    @property
    def offsets(self) -> Ints:
        """The arena offset of every node."""
        return self.layout.offsets

    @cached_property
    def carrying(self) -> tuple[int, ...]:
        """The launches that have payload numbers of their own."""
        of = enumerate(self.launches)
        return tuple([i for i, x in of if x.calls is None and (x.signature.ints or x.signature.floats)])

    @cached_property
    def brought(self) -> dict[int, list[Any]]:
        """The launches that compute nothing: of each node the tape and the position there (see
        `Graph.positions`) of the constant that it is, or which of the known ones it is."""
        if self.first is not None:
            return self.first.brought
        graph, found = self.structure, dict[int, list[Any]]()
        for i, launch in enumerate(self.launches):
            if launch.signature.op is CONSTANT_OP:
                found[i] = graph.positions(graph.origin[launch.nodes])
            elif launch.signature.op is KNOWN_OP:
                found[i] = [graph.place_of_known[node] for node in launch.nodes.tolist()]
        return found

    @cached_property
    def places(self) -> Ints:
        """The element offset of the value that each row of the tapes shows afterwards, -1 where there is none."""
        if self.first is not None:
            return self.first.places
        graph, kept = self.structure, np.arange(len(self.structure))
        if self.layout.reuses:
            kept = np.unique(np.array([base for base, _ in graph.roots], np.int64))
        found: Ints = passes.places(graph.tape_base, graph.tape_shift, graph.origin, kept, self.offsets)
        return found

    @cached_property
    def noted(self) -> tuple[Ints, Ints]:
        """What to note on a tape that was read whole and has no values yet: of each row the run, which is the first, or
        -1, and the element offset. Nobody may write to these arrays."""
        run_of, offset_of = np.where(self.places >= 0, 0, -1).astype(np.int32), np.maximum(self.places, 0)
        run_of.flags.writeable = offset_of.flags.writeable = False
        return run_of, offset_of

    @cached_property
    def parameter_launches(self) -> tuple[Launch, ...]:
        """All nodes of each signature that has a differentiable parameter, as if nothing forbade to run them at once:
        what backward computes the parameters' gradients from. Made when a backward first asks."""
        if self.first is not None:
            mine = {id(old): new for old, new in zip(self.first.launches, self.launches, strict=True)}
            graph, payload = self.structure, self.payload or self.structure.payload
            return tuple([mine.get(id(x)) or _refilled(x, graph, payload) for x in self.first.parameter_launches])
        if self.layout.reuses:
            return ()
        return parameter_launches(self.structure, self.schedule.launch, self.offsets, self.launches)

    def check(self) -> None:
        """Raise ``AssertionError`` if this is not a valid plan: every node once, operands before users, rows
        consecutive."""
        graph, launch = self.structure, self.schedule.launch
        counts = np.ones(len(graph), np.int64) if graph.counts is None else graph.counts
        nodes = np.concatenate([item.nodes for item in self.launches]) if self.launches else np.empty(0, np.int64)
        alone = np.setdiff1d(np.arange(len(graph)), graph.results)
        assert np.array_equal(np.sort(nodes), alone), "every node runs exactly once"
        users = np.repeat(np.arange(len(graph)), np.diff(graph.starts))
        later = launch[graph.base] < launch[users]
        assert later[~np.isin(users, graph.results)].all(), "operands run before their users"
        for item in self.launches:
            assert item.writes.index is None and (item.writes.pitch == item.writes.width or item.writes.count == 1)
            rows = begins(counts[item.nodes])
            assert item.writes.count == rows[-1], "a launch writes the rows of all of its nodes"
            assert np.array_equal(self.offsets[item.nodes], item.writes.offset + item.writes.width * rows[:-1])
            assert len({int(graph.signature[n]) for n in item.nodes}) == 1, "a launch has one signature"
        if not self.layout.reuses:
            self._check_disjoint(counts)

    def _check_disjoint(self, counts: Ints) -> None:
        for dtype, size in self.layout.sizes.items():
            types = [self.structure.signatures[s].type for s in self.structure.signature.tolist()]
            blocks = sorted(
                (offset, max(kind.size, 1) * count)
                for offset, kind, count in zip(self.offsets.tolist(), types, counts.tolist(), strict=True)
                if kind.dtype == dtype
            )
            ends = [offset + length for offset, length in blocks]
            assert all(end <= start for end, (start, _) in zip(ends, blocks[1:], strict=False)), (
                "no two nodes share memory"
            )
            assert not ends or max(ends) <= size, "every row lies in the arena"


def dag_of(graph: Graph) -> Dag:
    """What scheduling sees of a graph: a cell's call and its further results are one node."""
    if not len(graph.results):
        return Dag(graph.signature, len(graph.signatures), graph.starts, graph.base)
    alone, number = _tasks(graph)
    kept = np.ones(len(graph.base), bool)
    kept[graph.starts[graph.results]] = False
    counts = np.diff(graph.starts)[alone]
    return Dag(
        graph.signature[alone],
        len(graph.signatures),
        np.concatenate(([0], np.cumsum(counts))),
        number[graph.call[graph.base[kept]]],
    )


def _tasks(graph: Graph) -> tuple[Ints, Ints]:
    """The nodes that are scheduled, and the number of each node among them."""
    return np.flatnonzero(graph.alone), np.cumsum(graph.alone) - 1


def graph_schedule(graph: Graph, batching: str, choices: Choices) -> Schedule:
    """The schedule of all nodes of a graph."""
    return schedule_of(graph.nodes, batching, choices, [s.serial for s in graph.signatures])


def over_all_nodes(graph: Graph, schedule: Schedule) -> Schedule:
    """The schedule of `dag_of` the graph as one of all nodes."""
    if len(schedule.launch) == len(graph):
        return schedule
    number = np.cumsum(graph.alone) - 1
    return Schedule(schedule.launch[number[graph.call]], schedule.launches, schedule.phase)


class _Table:
    """Columns of the signature table of one graph, for look-ups by node."""

    def __init__(self, graph: Graph) -> None:
        dtypes = [s.type.dtype for s in graph.signatures]
        self.width = np.array([s.widths[0] for s in graph.signatures], np.int64)
        self.dtypes = list(set(dtypes)) if len(set(dtypes)) == 1 else sorted(set(dtypes), key=str)
        self.dtype = np.array([self.dtypes.index(dtype) for dtype in dtypes], np.int64)


def _blocks_of(table: _Table, signature: Ints, phase: Ints) -> Iterator[tuple[DType, Ints]]:
    """The blocks of each dtype, by phase and signature."""
    block = np.lexsort((np.arange(len(signature)), signature, phase, table.dtype[signature]))
    for d, dtype in enumerate(table.dtypes):
        yield dtype, block[table.dtype[signature[block]] == d]


def _recycled(table: _Table, counts: Ints, signature: Ints, phase: Ints, last: Ints) -> tuple[Ints, dict[DType, int]]:
    """The same, where memory that is read for the last time in phase ``last`` is used again."""
    start, sizes = np.empty(len(counts), np.int64), {}
    for dtype, mine in _blocks_of(table, signature, phase):
        widths = table.width[signature[mine]]
        sizes[dtype] = _recycled_runs(start, mine, widths, counts[mine], signature[mine], phase[mine], last[mine])
    return start, sizes


def _recycled_runs(
    start: Ints, blocks: Ints, widths: Ints, counts: Ints, signature: Ints, phase: Ints, last: Ints
) -> int:
    """The blocks of one signature in one phase stay together, and their memory is free when all of them are done."""
    if not len(blocks):
        return 0
    first = np.flatnonzero(
        np.concatenate(([True], (signature[1:] != signature[:-1]) | (phase[1:] != phase[:-1])))
    )  # fmt: skip
    heads = np.empty(len(start), np.int64)
    total = np.add.reduceat(counts, first)
    latest = np.maximum.reduceat(last, first)
    end = _recycled_blocks(heads, np.arange(len(first)), widths[first], total, phase[first], latest)
    lengths = np.diff(np.append(first, len(blocks)))
    before = np.cumsum(counts) - counts
    within = before - np.repeat(before[first], lengths)
    start[blocks] = np.repeat(heads[: len(first)], lengths) + within * widths
    return end


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
        even, pitch, first, self.numbers, aligned = passes.evenly(offsets, bounds, widths)
        self.even, self.aligned = even.tolist(), aligned.tolist()
        self.pitch, self.first = pitch.tolist(), first.tolist()

    def all_rows(self, bounds: Ints, widths: Sequence[int]) -> list[Rows]:
        """The `Rows` of every launch."""
        found = list(map(Rows, np.diff(bounds).tolist(), widths, self.first, self.pitch))
        for i in [i for i, even in enumerate(self.even) if not even]:
            low, high = int(bounds[i]), int(bounds[i + 1])
            found[i] = Rows(high - low, widths[i], 0, 0, self.numbers[low:high], self.aligned[i])
        return found


def _counts(graph: Graph, nodes: Ints) -> Ints:
    """How many rows each node has, of a graph with joined ones."""
    assert graph.counts is not None
    return graph.counts[nodes]


def sizes_of(graph: Graph, nodes: Ints, which: int) -> Ints:
    """One of the numbers of rows of nodes whose operands have rows of their own number (`Signature.spans`)."""
    assert graph.form is not None
    found: Ints = graph.sizes[which][graph.form[nodes]]
    return found


def _sizes_of_lists(graph: Graph, nodes: Ints) -> Ints:
    """The numbers of rows of all that nodes read whose operands are put end to end."""
    assert graph.form is not None
    return np.array([n for kind in graph.form[nodes].tolist() for n in graph.forms[kind].family.sizes], np.int64)


def _distinct(graph: Graph, nodes: Ints, slot: int) -> tuple[Ints, Ints]:
    """Which of the nodes are the first to read an operand with rows of its own number, and for each node which of
    these reads the same."""
    edges, every = graph.starts[nodes] + slot, np.arange(len(nodes))
    base = graph.base[edges]
    if (np.diff(base) > 0).all():
        return every, every
    keys = np.stack([base, graph.shift[edges], sizes_of(graph, nodes, 1)], axis=1)
    _, once, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return once, which.reshape(-1)


def _places_of_rows(graph: Graph, nodes: Ints, signature: Signature) -> Ints:
    """For each row of nodes where what it is about begins among what all of them have, and how many rows that has: of
    an index into rows these, each once, else the segments of each node."""
    assert signature.spans is not None
    rows, sizes = sizes_of(graph, nodes, 0), sizes_of(graph, nodes, 1)
    if 1 in signature.spans:
        once, which = _distinct(graph, nodes, signature.operands[signature.spans.index(1)].position)
        begin = begins(sizes[once])[which]
    else:
        begin = begins(sizes)[:-1]
    return np.stack([np.repeat(begin, rows), np.repeat(sizes, rows)])


def _joined_rows(offsets: Ints, counts: Ints, width: int, walks: bool) -> Rows:
    """The rows that nodes with so many rows read, or write, from these offsets on: one behind the other, or all of a
    node the same."""
    if not counts.all():  # what has no rows may lie anywhere
        offsets, counts = offsets[counts > 0], counts[counts > 0]
        if not len(counts):
            return Rows(0, width, 0, width)
    if not walks and len(offsets) and (offsets == offsets[0]).all():
        total = int(counts.sum())
        return Rows(total, width, int(offsets[0]), 0 if total > 1 else width)
    ends = begins(counts)
    if walks and (np.diff(offsets) == counts[:-1] * width).all():
        return Rows(int(ends[-1]), width, int(offsets[0]), width)
    found = np.repeat(offsets - ends[:-1] * width if walks else offsets, counts)
    found += np.arange(ends[-1]) * width if walks else 0
    [rows] = _Column(found, bounds := np.array([0, len(found)]), np.array([width])).all_rows(bounds, [width])
    return rows


def _unshared(rows: Rows) -> Rows:
    """Rows for a kernel that goes by their number, though all may be one."""
    return _gathered(rows.offsets(), rows.width) if rows.shared else rows


def _gathered(offsets: Ints, width: int) -> Rows:
    """Rows that are not evenly spaced: by row number where all are aligned to their width, else by element offset."""
    index = offsets // width
    if (index * width == offsets).all():
        return Rows(len(offsets), width, 0, 0, index)
    return Rows(len(offsets), width, 0, 0, offsets.copy(), aligned=False)


def _scalars(values: Ints, dtype: DType, ndim: int) -> HostArray | float:
    """A launch's scalars as one Python float if they are all equal, else as an array that broadcasts behind the batch
    axis."""
    if len(values) == 1:
        return float(values[0])
    bits = values.view(np.int64)  # 0.0 and -0.0 are equal, and not the same
    if (bits == bits[0]).all():
        return float(values[0])
    return values.astype(dtype).reshape((-1,) + (1,) * ndim)


def launches(
    graph: Graph, schedule: Schedule, offsets: Ints, nodes: Ints | None = None
) -> tuple[tuple[Launch, ...], tuple[Cells, ...]]:
    """The launches of ``nodes`` (all by default) over memory laid out by ``offsets``, and the calls of cells in
    them."""
    wanted = graph.alone
    if nodes is not None:
        wanted = np.zeros(len(graph), bool)
        wanted[graph.call[nodes]] = True
    order, bounds = passes.by_launch(schedule.launch, wanted, schedule.launches)
    cells = _cells(graph, schedule, order, offsets)
    if nodes is not None and cells:
        cells = tuple(_part_of_cells(graph, schedule, c, np.flatnonzero(graph.alone)) for c in cells)
    return _described(graph, order, bounds, offsets, cells, nodes is None) if len(bounds) > 1 else (), cells


def _cells(graph: Graph, schedule: Schedule, order: Ints, offsets: Ints) -> tuple[Cells, ...]:
    """The calls of each cell among the nodes in ``order``, which is that of their launches."""
    kinds = [s for s, signature in enumerate(graph.signatures) if signature.cell is not None]
    if not kinds:
        return ()
    within = passes.within_phases(graph.nodes, schedule.launch, schedule.phase)
    found = (_calls_of(graph, schedule, order, offsets, within, kind) for kind in kinds)
    return tuple([cells for cells in found if len(cells.nodes)])


def _calls_of(
    graph: Graph, schedule: Schedule, order: Ints, offsets: Ints, within: tuple[Ints, Ints], kind: int
) -> Cells:  # fmt: skip
    s = graph.signatures[kind]
    cell = CellShape(kind, s.rows, 1 + len(s.further), s.ints, s.floats)
    nodes, inputs, outputs, ints, floats, read, used, largest = passes.calls(
        graph.nodes, graph.shift, offsets, graph.payload, order, schedule.launch, within, cell
    )
    external, outside = (frozenset([k for k, r in enumerate(flags.tolist()) if not r]) for flags in (read, used))
    found = Cells(s, nodes, tuple(inputs), tuple(outputs), tuple(ints), tuple(floats), external, outside, largest)
    return found if s.walks is None else _by_rows(found, _counts(graph, nodes), schedule)


def _by_rows(cells: Cells, rows: Ints, schedule: Schedule) -> Cells:
    """The calls of a cell whose nodes have several rows: one for each row."""
    signature, starts = cells.signature, begins(rows)
    nodes = np.repeat(cells.nodes, rows)
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], rows)
    assert signature.walks is not None
    inputs = [
        np.repeat(at, rows) + (within * signature.widths[1][k] if walks else 0)
        for k, (at, walks) in enumerate(zip(cells.inputs, signature.walks, strict=True))
    ]
    return replace(
        cells,
        nodes=nodes,
        inputs=tuple(inputs),
        outputs=tuple([np.repeat(at, rows) + within * signature.widths[0] for at in cells.outputs]),
        ints=tuple([np.repeat(column, rows) for column in cells.ints]),
        floats=tuple([np.repeat(column, rows) for column in cells.floats]),
        largest=int(np.bincount(schedule.launch[nodes]).max(initial=0)),
    )


def _part_of_cells(graph: Graph, schedule: Schedule, part: Cells, alone: Ints) -> Cells:
    """The calls with their places among all calls of their cell."""
    mine = alone[graph.signature[alone] == graph.signature[part.nodes[0]]]
    all_nodes = mine[in_order_of(schedule.launch[mine], schedule.launches)]
    place = np.empty(len(graph), np.int64)
    if part.signature.walks is None:
        place[all_nodes] = np.arange(len(all_nodes))
        return replace(part, rows=place[part.nodes])
    place[all_nodes] = begins(_counts(graph, all_nodes))[:-1]
    first = np.flatnonzero(np.diff(part.nodes, prepend=-1))
    within = np.arange(len(part.nodes)) - np.repeat(first, np.diff(first, append=len(part.nodes)))
    return replace(part, rows=place[part.nodes] + within)


def _described(
    graph: Graph, order: Ints, bounds: Ints, offsets: Ints, cells: Sequence[Cells] = (), consecutive: bool = False
) -> tuple[Launch, ...]:
    """The launches of nodes in this order; ``consecutive``: whether the nodes of each are all of its block."""
    numbers = {id(c.signature): i for i, c in enumerate(cells)}
    done = [0] * len(cells)
    single, series = bounds, _series(graph, order, bounds) if cells else np.arange(len(bounds))
    bounds = single[series]
    firsts = order[bounds[:-1]]
    signatures = [graph.signatures[s] for s in graph.signature.take(firsts).tolist()]
    widths = [s.widths[0] for s in signatures]
    calls = single if graph.counts is None else begins(graph.counts[order])[single]  # where they begin, by rows
    if consecutive:
        writes = list(map(Rows, np.diff(calls[series]).tolist(), widths, offsets.take(firsts).tolist(), widths))
    else:
        writes = _Column(offsets.take(order), bounds, np.array(widths, np.int64)).all_rows(bounds, widths)
        for i, s in enumerate(signatures):
            if s.walks is not None or s.loops:
                nodes = order[bounds[i] : bounds[i + 1]]
                writes[i] = _joined_rows(offsets[nodes], _counts(graph, nodes), widths[i], True)
    columns = _OperandRows(graph, order, bounds, offsets, signatures)
    edges = bounds.tolist()
    found = []
    for i, signature in enumerate(signatures):
        low, high = edges[i], edges[i + 1]
        nodes = order[low:high]
        if signature.cell is not None:
            number = numbers[id(signature)]
            ranges = calls[series[i] : series[i + 1] + 1]
            ranges = ranges - ranges[0] + done[number]
            done[number] = int(ranges[-1])
            found.append(Launch(signature, writes[i], (), nodes, (number, ranges)))
            continue
        if signature.loops:
            found.append(_looping_launch(graph, signature, writes[i], nodes, offsets))
            continue
        plain = signature.walks is None and not signature.op.stacked
        reads = [
            columns.of(o.position)[i] if plain and o.kind == "row" else columns.read(o, nodes, signature)
            for o in signature.operands
        ]
        found.append(Launch(signature, writes[i], tuple(reads), nodes))
    return tuple(found)


def _series(graph: Graph, order: Ints, bounds: Ints) -> Ints:
    """Which of the ``bounds`` are left where launches of one cell that follow each other are one."""
    kinds = graph.signature.take(order[bounds[:-1]])
    is_cell = np.array([s.cell is not None for s in graph.signatures], bool)[kinds]
    kept = np.ones(len(bounds), bool)
    kept[1:-1] = (kinds[1:] != kinds[:-1]) | ~is_cell[1:]
    return np.flatnonzero(kept)


def reads_of(plan: Plan, launch: Launch) -> tuple[Read, ...]:
    """What a launch reads: of a cell's, element offsets of the operands, None for parameters, and payload."""
    if launch.calls is None:
        return launch.reads
    number, edges = launch.calls
    low, high = int(edges[0]), int(edges[-1])
    cells = plan.cells[number]
    payload = {"row": cells.inputs, "int": cells.ints, "float": cells.floats}
    return tuple(
        None if o.kind == "shared" else payload[o.kind][o.position][low:high] for o in cells.signature.operands
    )


def _looping_launch(graph: Graph, signature: Signature, writes: Rows, nodes: Ints, offsets: Ints) -> Launch:
    """A launch that takes its nodes one by one."""
    assert graph.form is not None
    forms = tuple([graph.forms[i] for i in graph.form[nodes].tolist()])
    reads = tuple([_of_each(graph, signature, o, nodes, offsets) for o in signature.operands])
    if _lie_end_to_end(signature, forms, writes, reads, _counts(graph, nodes)):
        pairs = zip(signature.operands, reads, strict=True)
        flat = [
            Rows(writes.count, 1, int(at[0]), 1)
            if isinstance(at, np.ndarray) and o.kind == "row"
            else _payload_read(graph, graph.payload, o, nodes, signature)
            for o, at in pairs
        ]
        return Launch(signature, writes, tuple(flat), nodes)
    return Launch(signature, writes, (), nodes, None, Each(forms, offsets[nodes], reads))


def _lie_end_to_end(
    signature: Signature, forms: Sequence[Signature], writes: Rows, reads: Sequence[Any], counts: Ints
) -> bool:
    """Whether nodes that work element by element are one of as many elements as all of them have: neither do shapes
    broadcast, nor is anything between them."""
    if not signature.by_element or writes.index is not None:
        return False
    for form in dict.fromkeys(forms):
        if any(o.shape != (form.type.shape if o.kind == "row" else ()) for o in form.operands if o.type is not None):
            return False
    steps = counts[:-1]
    rows = [at for o, at in zip(signature.operands, reads, strict=True) if o.kind == "row"]
    return bool(rows) and all((np.diff(at) == steps).all() for at in rows)


def _of_each(
    graph: Graph, signature: Signature, operand: Operand, nodes: Ints, offsets: Ints
) -> Ints | tuple[Ints, ...] | None:
    """What each of the nodes reads as an operand."""
    if operand.kind == "shared":
        return None
    if operand.kind != "row":
        return _numbers_of(graph.payload, operand, nodes)
    edges = edges_of(graph, nodes) if signature.op.stacked else graph.starts[nodes] + operand.position
    found = offsets[graph.base[edges]] + graph.shift[edges]
    if not signature.op.stacked:
        return found
    ends = np.cumsum(graph.starts[nodes + 1] - graph.starts[nodes])
    return tuple(np.split(found, ends[:-1]))


def _numbers_of(payload: NodePayload, operand: Operand, nodes: Ints) -> Ints:
    """The payload of nodes, a number for each."""
    if operand.kind == "int":
        found: Ints = payload.ints[payload.int_starts[nodes] + operand.position].astype(np.int64)
        return found
    found = payload.floats[payload.float_starts[nodes] + operand.position]
    return found


def _payload_read(graph: Graph, payload: NodePayload, operand: Operand, nodes: Ints, signature: Signature) -> Read:
    """The payload numbers of nodes as an operand of their launch, of joined ones for each row; None for a parameter."""
    if operand.kind in ("int", "float") and graph.counts is not None and signature.spans is None:
        nodes = np.repeat(nodes, graph.counts[nodes])
    if operand.kind == "int":
        return _numbers_of(payload, operand, nodes)
    if operand.kind == "float":
        values = _numbers_of(payload, operand, nodes)
        scalar: float | np.ndarray = _scalars(values, operand.dtype, len(operand.shape))
        return scalar
    return None


class _OperandRows:
    """Where the operands of launches lie; ``order``: their nodes, of each from one of the ``bounds`` on."""

    def __init__(
        self, graph: Graph, order: Ints, bounds: Ints, offsets: Ints, signatures: Sequence[Signature]
    ) -> None:  # fmt: skip
        self.graph, self.order, self.bounds, self.offsets = graph, order, bounds, offsets
        self.signatures = signatures
        self.columns: dict[int, list[Rows]] = {}

    def of(self, slot: int) -> list[Rows]:
        """The ``slot``-th operand of every launch whose nodes have one row for each; made once for all of them."""
        if slot not in self.columns:
            filled = np.array([s.rows > slot and _has_one_each(s) for s in self.signatures])
            widths = [s.widths[1].get(slot, 1) for s in self.signatures]
            given = self.graph.nodes, self.graph.shift, self.offsets, self.order, self.bounds, filled, slot
            column = _Column(passes.operand_offsets(*given), self.bounds, np.array(widths, np.int64))
            self.columns[slot] = column.all_rows(self.bounds, widths)
        return self.columns[slot]

    def read(self, operand: Operand, nodes: Ints, signature: Signature) -> Read:
        """What a launch of these nodes has as any other operand."""
        if operand.kind == "row":
            joined = signature.walks is not None
            return self._joined(operand, nodes, signature) if joined else self._stacked(operand, nodes, signature)
        if operand.kind == "shared":
            return None
        if operand.kind == "count":
            return sizes_of(self.graph, nodes, 0)
        if operand.kind == "ends":
            return np.stack([np.cumsum(sizes_of(self.graph, nodes, which)) for which in (0, 1)])
        if operand.kind == "place":
            return _places_of_rows(self.graph, nodes, signature)
        return _payload_read(self.graph, self.graph.payload, operand, nodes, signature)

    def _stacked(self, operand: Operand, nodes: Ints, signature: Signature) -> Rows:
        width = signature.widths[1][operand.position]
        given = self.graph.nodes, self.graph.shift, self.offsets, nodes, width
        found, pitch, first, aligned = passes.stacked_rows(*given)
        return Rows(len(found), width, first, pitch) if pitch >= 0 else Rows(len(found), width, 0, 0, found, aligned)

    def _joined(self, operand: Operand, nodes: Ints, signature: Signature) -> Rows:
        graph, offsets, width = self.graph, self.offsets, signature.widths[1][operand.position]
        which, spans, walks = signature.operands.index(operand), signature.spans, signature.walks
        assert walks is not None
        if signature.op.gathers:
            edges = edges_of(graph, nodes)
            found, rows = offsets[graph.base[edges]] + graph.shift[edges], _sizes_of_lists(graph, nodes)
            return _unshared(_joined_rows(found, rows, width, True))
        edges = graph.starts[nodes] + operand.position
        found = offsets[graph.base[edges]] + graph.shift[edges]
        rows = _counts(graph, nodes) if spans is None else sizes_of(graph, nodes, spans[which])
        if spans is not None and spans[which] and signature.operands[-1].kind == "place":
            once, _ = _distinct(graph, nodes, operand.position)
            found, rows = found[once], rows[once]
        joined = _joined_rows(found, rows, width, walks[which])
        return joined if spans is None else _unshared(joined)


def _has_one_each(signature: Signature) -> bool:
    """Whether operands are rows of a column: of a cell its calls say where they lie."""
    return signature.cell is None and signature.walks is None and not signature.op.stacked


def has_parameter_gradient(signature: Signature) -> bool:
    """Whether a parameter among the operands wants a gradient, and no cell computes it."""
    return signature.cell is None and any(o.kind == "shared" and o.vjp is not None for o in signature.operands)


def parameter_launches(
    graph: Graph, launch_of: Ints, offsets: Ints, there: Sequence[Launch], nodes: Ints | None = None
) -> tuple[Launch, ...]:
    """One launch for each signature with a differentiable parameter, of all its nodes in the order of their rows: the
    one that is ``there``, where all of them run at once, as look-ups and what stands behind a recurrence do."""
    wanted = [has_parameter_gradient(s) for s in graph.signatures]
    if not any(wanted):
        return ()
    running: dict[int, list[Launch]] = {}
    for launch in there:
        running.setdefault(launch.signature.serial, []).append(launch)
    mine = [running.get(s.serial, ()) if want else () for s, want in zip(graph.signatures, wanted, strict=True)]
    apart = _joined_launches(graph, launch_of, offsets, [len(launches) > 1 for launches in mine], nodes)
    return tuple([launches[0] if len(launches) == 1 else next(apart) for launches in mine if launches])


def _joined_launches(
    graph: Graph, launch_of: Ints, offsets: Ints, wanted: Sequence[bool], nodes: Ints | None
) -> Iterator[Launch]:
    """The launches of some signatures, each as one, in the order of these."""
    if not any(wanted):
        return iter(())
    mine = np.array(wanted, bool)[graph.signature]
    if nodes is not None:
        chosen = np.zeros(len(graph), bool)
        chosen[nodes] = True
        mine &= chosen
    # Rows lie in the order of their launches, and within one as recorded: two stable sorts put them so.
    by_launch, _ = passes.by_launch(launch_of, mine, int(launch_of.max(initial=0)) + 1)
    kinds = graph.signature[by_launch]
    order, bounds = passes.by_launch(kinds, np.ones(len(kinds), bool), len(graph.signatures))
    return iter(_described(graph, by_launch[order], bounds, offsets))


def make(graph: Graph, schedule: Schedule, *, reuse: bool = False) -> Plan:
    """The plan of a schedule of `dag_of` the graph. ``reuse``: memory whose readers are done is used again (nothing can
    be differentiated then)."""
    table = _Table(graph)
    schedule = over_all_nodes(graph, schedule)
    offsets, sizes = _place(graph, schedule, table, reuse)
    found, cells = launches(graph, schedule, offsets)
    return Plan(graph, _layout_of(graph, schedule, offsets, sizes, reuse), found, cells)


def _layout_of(graph: Graph, schedule: Schedule, offsets: Ints, sizes: dict[DType, int], reuse: bool) -> Layout:
    nbytes = sum(size * dtype.itemsize for dtype, size in sizes.items())
    floating = {dtype: size for dtype, size in sizes.items() if dtype.kind == "f"}
    kinds = frozenset(o.type for s in graph.signatures for o in s.operands if o.kind == "shared" and o.type)
    return Layout(schedule, offsets, sizes, reuse, nbytes, floating, kinds)


def _place(graph: Graph, schedule: Schedule, table: _Table, reuse: bool) -> tuple[Ints, dict[DType, int]]:
    """Arena offset of every node, and the size of the arena for each dtype. Blocks are aligned to their own width, so
    that a gather is a plain ``take`` of rows."""
    if not reuse:
        columns = table.width, table.dtype, len(table.dtypes)
        offsets, ends = passes.laid_out(graph.nodes, schedule.launch, schedule.phase, *columns, graph.counts)
        return offsets, dict(zip(table.dtypes, ends.tolist(), strict=True))
    roots = np.array([base for base, _ in graph.roots], np.int64)
    found = passes.blocks(graph.nodes, schedule.launch, schedule.phase, roots, graph.counts)
    block, place, counts, kinds, phases, last = found
    start, sizes = _recycled(table, counts, kinds, phases, last)
    return start[block] + place * table.width[graph.signature], sizes


def plan_again(plan: Plan, graph: Graph, payload: NodePayload | None = None) -> Plan:
    """A plan for another graph of the same structure, or with another payload for this one."""
    numbers = graph.payload if payload is None else payload
    cells = tuple([_refilled_cells(c, numbers) for c in plan.cells]) if plan.cells else ()
    launches, bound = plan.launches, plan.bound
    if plan.carrying:
        refilled = list(launches)
        for i in plan.carrying:
            refilled[i] = _refilled(launches[i], graph, numbers)
        launches, bound = tuple(refilled), {}
    first = None if payload is None else plan
    return Plan(graph, plan.layout, launches, cells, payload, first, plan, bound)


def _refilled_cells(cells: Cells, payload: NodePayload) -> Cells:
    signature, nodes = cells.signature, cells.nodes
    return replace(
        cells,
        ints=tuple(payload.ints[payload.int_starts[nodes] + k] for k in range(signature.ints)),
        floats=tuple(payload.floats[payload.float_starts[nodes] + k] for k in range(signature.floats)),
    )


def _refilled(launch: Launch, graph: Graph, payload: NodePayload) -> Launch:
    signature = launch.signature
    if launch.calls is not None or (not signature.ints and not signature.floats):
        return launch
    if launch.each is not None:
        pairs = zip(signature.operands, launch.each.reads, strict=True)
        own = [_numbers_of(payload, o, launch.nodes) if o.kind in ("int", "float") else at for o, at in pairs]
        return launch._replace(each=launch.each._replace(reads=tuple(own)))
    reads: list[Read] = list(launch.reads)
    for i, operand in enumerate(signature.operands):
        if operand.kind in ("int", "float"):
            reads[i] = _payload_read(graph, payload, operand, launch.nodes, signature)
    return launch._replace(reads=tuple(reads))

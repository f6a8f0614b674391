"""The compiled passes beside those by whole arrays, on random graphs; and wrong arguments, which are errors."""

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lazyflow import core, passes
from lazyflow.core import arrays
from lazyflow.core.columns import IntColumn

if core.passes is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

SOME = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FORMS = (core.passes, arrays)


def ints(values):
    return np.array(values, np.int64)


def comparable(value):
    """Results as plain data; the edges of a graph in the order in which they stand."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind, value.shape, value.tolist()
    if isinstance(value, core.passes.Nodes | arrays.Nodes):
        return [comparable(getattr(value, name)) for name in ("signature", "starts", "base", "results", "call")]
    if isinstance(value, tuple | list):
        return [comparable(v) for v in value]
    return value


def assert_same(call):
    """That both forms give the same; returns it, as the compiled one gives it."""
    found, expected = (call(form) for form in FORMS)
    assert comparable(found) == comparable(expected)
    return found


# Nodes of a graph.


@st.composite
def graphs(draw, results=True):
    """The arguments of `Nodes`; nodes of the first signature are calls, with their further results behind them."""
    kinds = draw(st.integers(1, 5))
    count = draw(st.integers(0, 2)) if results else 0
    signature, starts, base, further = [], [0], [], []
    for _ in range(draw(st.integers(0, 25))):
        i = len(signature)
        operands = draw(st.lists(st.integers(max(0, i - 9), i - 1), max_size=3)) if i else []
        signature.append(draw(st.integers(0, kinds - 1)))
        base += operands
        starts.append(len(base))
        for _ in range(count if signature[i] == 0 else 0):
            further.append(len(signature))
            signature.append(kinds)
            base.append(i)
            starts.append(len(base))
    return ints(signature), kinds + 1, ints(starts), ints(base), ints(further)


def chain(length, kinds=2):
    """One node behind the other."""
    starts = np.maximum(np.arange(length + 1) - 1, 0)
    return np.arange(length) % kinds, kinds, starts, np.arange(length - 1), ints([])


EDGES = [
    (ints([]), 0, ints([0]), ints([]), ints([])),
    (ints([]), 3, ints([0]), ints([]), ints([])),
    (ints([0]), 1, ints([0, 0]), ints([]), ints([])),
    (ints([0, 1]), 2, ints([0, 0, 1]), ints([0]), ints([1])),
    chain(700),
]


def on_graphs(results=True):
    """Runs a test on random graphs with a generator of random numbers, and on those with nothing, one node, and a long
    chain."""

    def decorate(test):
        run = given(graphs(results), st.integers(0, 10**6).map(np.random.default_rng))(test)
        for graph in EDGES if results else EDGES[:3]:
            run = example(graph, np.random.default_rng(0))(run)
        return SOME(run)

    return decorate


def schedule_of(form, arguments):
    """A valid schedule: by levels, all signatures in one component."""
    nodes = form.Nodes(*arguments)
    return nodes, *form.by_levels(nodes, np.zeros(arguments[1], np.int64), 1)[:2]


@on_graphs()
def test_calls_and_depths_and_edges(graph, rng):
    for name in ("depths", "signature_edges"):
        assert_same(lambda form, name=name: getattr(form, name)(form.Nodes(*graph)))
    found = assert_same(lambda form: form.Nodes(*graph).call)
    assert len(found) == len(graph[0])


@on_graphs()
def test_levels_by_components(graph, rng):
    components = max(1, graph[1] - 1)
    component = np.sort(rng.integers(0, components, graph[1]))
    assert_same(lambda form: form.by_levels(form.Nodes(*graph), component, components))
    assert_same(lambda form: form.part(form.Nodes(*graph), component, 0))


@on_graphs()
def test_agenda(graph, rng):
    assert_same(lambda form: form.agenda(form.Nodes(*graph)))


@on_graphs(results=False)
def test_frontier_from_both_ends(graph, rng):
    assert_same(lambda form: form.backwards(form.Nodes(*graph)))
    assert_same(lambda form: form.longest_chains(form.Nodes(*graph)))
    assert_same(lambda form: form.frontier(form.Nodes(*graph)))
    assert_same(lambda form: form.frontier(form.backwards(form.Nodes(*graph))))


@on_graphs()
def test_repeats(graph, rng):
    n, kinds = len(graph[0]), graph[1]
    int_counts, float_counts = rng.integers(0, 3, kinds), rng.integers(0, 2, kinds)
    int_counts[-1:], float_counts[-1:] = 0, 0  # further results
    int_starts = arrays.begins(int_counts[graph[0]])
    float_starts = arrays.begins(float_counts[graph[0]])
    shift = rng.integers(0, 2, len(graph[3]))
    numbers = rng.integers(-1, 2, int(int_starts[-1])).astype(np.int32)
    reals = rng.choice([0.0, -0.0, np.nan, 2.5], int(float_starts[-1]))
    usable = rng.random(n) < 0.9
    usable[graph[4]] = False
    origin = np.arange(n) * 2
    tape_base = np.repeat(origin, 2)
    payload = arrays.NodePayload(int_starts[:-1], numbers, float_starts[:-1], reals)
    counts = int_counts, float_counts
    given = shift, payload, counts, usable, (origin, tape_base), 2, 64
    assert_same(lambda form: form.without_repeats(form.Nodes(*graph), *given))


@on_graphs()
def test_memory(graph, rng):
    n, kinds = len(graph[0]), graph[1]
    widths, dtypes = rng.integers(1, 9, kinds), rng.integers(0, 2, kinds)
    roots = rng.integers(0, n, 2) if n else ints([])

    def run(form, rows):
        nodes, launch, phase = schedule_of(form, graph)
        blocks = form.blocks(nodes, launch, phase, roots, rows)
        return form.laid_out(nodes, launch, phase, widths, dtypes, 2, rows), blocks

    for rows in (None, rng.integers(1, 5, n)):
        assert_same(lambda form, rows=rows: run(form, rows))


@on_graphs()
def test_launches_and_what_they_read(graph, rng):
    n = len(graph[0])
    shift, offsets = rng.integers(0, 4, len(graph[3])), rng.integers(0, 50, n)
    wanted = rng.random(n) < 0.7
    counts = np.diff(graph[2])

    def run(form):
        nodes, launch, phase = schedule_of(form, graph)
        order, bounds = form.by_launch(launch, wanted, len(phase))
        least = np.array([counts[order[a:b]].min() for a, b in itertools.pairwise(bounds)], np.int64)
        columns = [form.operand_offsets(nodes, shift, offsets, order, bounds, least > slot, slot) for slot in range(2)]
        even = form.evenly(columns[0], bounds, np.full(len(bounds) - 1, 3))
        stacked = [
            form.stacked_rows(nodes, shift, offsets, order[: k + 1], 1 + k % 3) for k in range(min(len(order), 4))
        ]
        steady = form.stacked_rows(nodes, shift * 0, np.arange(n) * 2, order[:3], 2)
        return order, bounds, columns, even, stacked, steady

    assert_same(run)


@on_graphs()
def test_calls_of_cells(graph, rng):
    n, kinds = len(graph[0]), graph[1]
    shift, offsets = rng.integers(0, 4, len(graph[3])), rng.integers(0, 50, n)
    numbers, reals = rng.integers(0, 9, 2 * n + 2).astype(np.int32), rng.normal(size=n + 1)
    payload = np.arange(n) * 2, numbers, np.arange(n), reals
    counts = np.diff(graph[2])

    def run(form):
        nodes, launch, phase = schedule_of(form, graph)
        order, _ = form.by_launch(launch, nodes.call == np.arange(n), len(phase))
        within = form.within_phases(nodes, launch, phase)
        found = [within]
        for kind in range(kinds):
            rows = int(counts[order[graph[0][order] == kind]].min(initial=3))
            found.append(form.calls(nodes, shift, offsets, payload, order, launch, within, (kind, rows, 1, 2, 1)))
        return found

    assert_same(run)


@on_graphs()
def test_what_a_gradient_reaches(graph, rng):
    n, kinds = len(graph[0]), graph[1]
    apart = rng.integers(0, 3, kinds) * (rng.random(kinds) < 0.5)
    slots = arrays.begins(rng.integers(0, 4, kinds) * np.maximum(apart, 1))
    wants = rng.random(slots[-1]) < 0.8
    roots = rng.integers(0, n, 2) if n else ints([])
    assert_same(lambda form: form.reached(form.Nodes(*graph), apart, wants, slots, roots))


@on_graphs(results=False)
def test_chains_joined_are_a_graph_of_what_is_left(graph, rng):
    """There is one form only: members and edges are counted, and nothing of a chain is read from outside."""
    n, kinds = len(graph[0]), graph[1]
    joins = rng.integers(-1, 2, kinds)[graph[0]] if n else ints([])
    whole = np.ones((kinds, 4), bool)
    output, shift = rng.random(n) < 0.1, rng.integers(0, 2, len(graph[3]))
    nodes = core.passes.Nodes(*graph)
    last, _, structure, count = core.passes.chains(nodes, shift, joins, ints([1, 1]), ints([4, 8]), whole, output, 5)
    which = np.arange(count) % 3 - 1  # some stay as they are
    which[which >= 0] += kinds
    new, old, signature, starts, base, shifts, gone = core.passes.joined(nodes, shift, last, structure, which)
    assert len(old) + len(gone) == n and sorted([*old.tolist(), *gone.tolist()]) == list(range(n))
    core.passes.Nodes(signature, kinds + 2, starts, base, ints([]))
    assert (last[last] == last).all() and (np.bincount(last, minlength=1) <= 5).all()
    taken = (structure[last] >= 0) & (np.append(which, -1)[structure[last]] >= 0) if n else np.zeros(0, bool)
    chain_of = np.where(taken, last, np.arange(n))
    assert new.tolist() == [int(np.flatnonzero(old == chain)[0]) for chain in chain_of.tolist()]
    users = np.repeat(np.arange(n), np.diff(graph[2]))
    outer = chain_of[users] != chain_of[graph[3]]
    assert len(base) == len(shifts) == outer.sum()
    assert (chain_of[graph[3][outer]] == graph[3][outer]).all(), "only the last member is read from outside"


# Rows of tapes.


@st.composite
def tapes(draw):
    """Columns of one tape: constants, operations, views, imports, calls with further results."""
    kinds = np.array(
        [passes.PLAIN_ROW, passes.VIEW_ROW, passes.IMPORT_ROW, passes.OUTPUT_ROW, passes.PLAIN_ROW, passes.PLAIN_ROW],
        np.int32,
    )
    rows = np.array([0, 1, 0, 1, 2, -1], np.int32)
    int_counts, float_counts = np.array([0, 1, 1, 0, 1, 1], np.int32), np.array([0, 0, 0, 0, 1, 0], np.int32)
    ids, operands, numbers, reals = [], [], [], []
    for i in range(draw(st.integers(0, 40))):
        kind = draw(st.sampled_from([0, 1, 2, 3, 4, 5])) if i else 0
        call = next((k for k in range(i - 1, -1, -1) if ids[k] != 3), 0)
        kind = 0 if kind == 3 and ids[call] != 4 else kind
        count = {1: 1, 3: 1, 4: 2, 5: draw(st.integers(0, 4))}.get(kind, 0)
        some = st.integers(0, max(i - 1, 0))
        operands += [call] if kind == 3 else draw(st.lists(some, min_size=count, max_size=count))
        numbers += [count] if kind == 5 else [draw(st.integers(0, 3))] * int(int_counts[kind])
        reals += [0.5] * int(float_counts[kind])
        ids.append(kind)
    columns = np.array(ids, np.int32), np.array(operands, np.int32), np.array(numbers, np.int32), np.array(reals, float)
    return columns, (kinds, rows, int_counts, float_counts)


def starts_of(form, tape):
    (ids, _, numbers, _), (_, rows, int_counts, float_counts) = tape
    return form.row_starts(ids, numbers, rows, int_counts, float_counts)


@SOME
@given(tapes())
def test_where_rows_begin(tape):
    found = assert_same(lambda form: starts_of(form, tape))
    assert [int(s[-1]) for s in found] == [len(column) for column in tape[0][1:]]


@SOME
@given(tapes(), st.integers(0, 2))
def test_the_structure_that_integers_say(tape, torn):
    (ids, _, numbers, _), (kinds, rows, int_counts, _) = tape
    given = numbers[: len(numbers) - torn]
    found = assert_same(lambda form: np.frombuffer(form.structure(ids, given, rows, int_counts, kinds), np.int32))
    says = np.repeat(np.isin(ids, (1, 2, 5)), int_counts[ids])
    np.testing.assert_array_equal(found, numbers[says] if len(given) == len(numbers) else given)
    columns = IntColumn(ids.tolist()), IntColumn(given.tolist())
    assert_same(lambda form: np.frombuffer(form.structure(*columns, rows, int_counts, kinds), np.int32))


@SOME
@given(tapes(), st.integers(0, 10**6))
def test_collected(tape, seed):
    (ids, operands, numbers, reals), (kinds, *_) = tape
    rng, n = np.random.default_rng(seed), len(ids)
    imports = np.flatnonzero(ids == 2)
    imports = imports[(rng.random(len(imports)) < 0.7) & (imports > 0)]
    targets = ints([rng.integers(0, i) for i in imports])
    known = rng.random(n) < 0.2 if rng.random() < 0.5 else np.zeros(0, bool)
    if len(known):  # of a call all results are known, or none
        known[ids == 1] = False
        known[imports] = False
        starts = starts_of(arrays, tape)[0]
        results = np.flatnonzero(ids == 3)
        known[results] = known[operands[starts[results]]]
    roots = rng.integers(0, n, min(n, 3)) if n else ints([])
    wide = operands.astype(np.int64)

    def run(form):
        columns = ids, wide, numbers, reals
        return form.collected(columns, kinds, starts_of(form, tape), imports, targets, known, roots)

    present, signature, starts, base, *_ = assert_same(run)
    core.passes.Nodes(signature, len(present), starts, base, ints([]))


@SOME
@given(tapes(), st.integers(0, 10**6), st.integers(0, 5))
def test_ranges_of_rows(tape, seed, gap):
    (ids, operands, *_), (kinds, *_) = tape
    n = len(ids)
    rows = np.random.default_rng(seed).integers(0, n, min(n, 4)) if n else ints([])

    def run(form):
        marks = np.zeros(n, bool)
        found = form.reach(rows, ids, kinds, starts_of(form, tape)[0], operands, marks, gap)
        assert not marks.any()
        return found

    assert_same(run)


@SOME
@given(tapes(), st.integers(0, 10**6))
def test_the_rows_that_are_needed(tape, seed):
    """Those of a walk in plain Python, and views of them; all of them are None."""
    (ids, operands, numbers, reals), (kinds, *tables) = tape
    n, begins = len(ids), starts_of(arrays, tape)
    starts = begins[0]
    asked = np.random.default_rng(seed).integers(0, n, min(n, 2)).tolist() if n else []
    columns = [IntColumn(column.tolist()) for column in (ids, operands, numbers)]
    found = assert_same(lambda form: form.needed(columns, len(reals), tables, kinds, asked))
    assert assert_same(lambda form: form.needed(columns, len(reals) + 1, tables, kinds, asked)) is None
    walked, stack = set(asked), list(asked)
    while stack:
        i = stack.pop()
        further = list(itertools.takewhile(lambda k: ids[k] == 3, range(i + 1, n)))
        fresh = {*operands[starts[i] : starts[i + 1]].tolist(), *further} - walked
        walked |= fresh
        stack += fresh
    for i in range(n):
        if ids[i] == 1 and operands[starts[i]] in walked:
            walked.add(i)
    assert (list(range(n)) if found is None else found[0].tolist()) == sorted(walked)
    assert found is None or (len(found[0]) < n and comparable(found[1:]) == comparable(begins))


@SOME
@given(tapes(), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=6), st.booleans())
def test_the_rows_of_ranges(tape, ranges, by_row):
    """Each once: as they are asked for, unless that is no order to compute them in, or most are asked for twice."""
    (ids, operands, *_), _ = tape
    n = len(ids)
    if by_row:  # all that some rows rest on
        kinds, starts = tape[1][0], starts_of(arrays, tape)[0]
        some = ints([row for row, _ in ranges if row < n])
        lows, highs = (c.astype(np.int32) for c in arrays.reach(some, ids, kinds, starts, operands, None, 1)[:2])
    else:
        lows = np.array([min(low, n) for low, _ in ranges], np.int32)
        highs = np.array([min(low + count, n) for low, count in ranges], np.int32)
    starts = starts_of(arrays, tape)[0]

    def run(form):
        marks = np.zeros(n, bool)
        given = (lows, highs) if form is arrays else (IntColumn(lows.tolist()), IntColumn(highs.tolist()))
        found = form.rows_of_ranges(*given, starts, operands, marks)
        assert not marks.any()
        return found

    found = assert_same(run).tolist()
    asked = [row for low, high in zip(lows.tolist(), highs.tolist(), strict=True) for row in range(low, high)]
    first = list(dict.fromkeys(asked))
    place = {row: k for k, row in enumerate(first)}
    apart = len(first) == len(asked)
    works = all(place.get(o, -1) < k for k, row in enumerate(first) for o in operands[starts[row] : starts[row + 1]])
    as_asked = len(asked) <= 2 * len(first) and (apart or works)
    assert found == (first if as_asked else sorted(first))


@SOME
@given(st.integers(0, 30), st.booleans(), st.integers(0, 10**6))
def test_where_rows_stand_among_others(n, shuffled, seed):
    rng = np.random.default_rng(seed)
    rows, asked = np.flatnonzero(rng.random(n) < 0.5), rng.integers(-1, n + 2, 9).astype(np.int32)
    rows = rng.permutation(rows) if shuffled else rows
    found = assert_same(lambda form: form.RowPlaces(rows).of(asked))
    assert found.tolist() == [rows.tolist().index(row) if row in rows else -1 for row in asked]
    assert comparable(core.passes.RowPlaces(rows).of(IntColumn(asked.tolist()))) == comparable(found)


@SOME
@given(st.integers(1, 30), st.booleans(), st.integers(0, 10**6))
def test_where_the_values_of_rows_are_noted(n, every, seed):
    rng = np.random.default_rng(seed)
    rows = None if every else np.flatnonzero(rng.random(n) < 0.6)
    places = rng.integers(-2, 50, n if rows is None else len(rows))

    def run(form):
        run_of, offset_of = np.full(n, -1, np.int32), np.zeros(n, np.int64)
        form.note_places(run_of, offset_of, rows, places, 7)
        return run_of, offset_of

    run_of, offset_of = assert_same(run)
    noted = {int(r): int(p) for r, p in zip(range(n) if every else rows, places, strict=True) if p >= 0}
    assert {i: int(offset_of[i]) for i in range(n) if run_of[i] == 7} == noted
    assert set(run_of.tolist()) <= {-1, 7}


@SOME
@given(tapes(), st.sampled_from([0.1, 0.6]), st.booleans(), st.integers(0, 10**6))
def test_some_rows_as_a_tape_of_their_own(tape, share, shuffled, seed):
    (ids, operands, numbers, reals), (kinds, *_) = tape
    n, starts, rng = len(ids), starts_of(arrays, tape), np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(n) < share)
    rows = rng.permutation(rows) if shuffled else rows
    found = assert_same(
        lambda form: form.picked((ids, operands, numbers, reals), starts_of(form, tape), kinds, form.RowPlaces(rows))
    )  # fmt: skip
    position = {row: k for k, row in enumerate(rows.tolist())}
    mine = [[column[s[i] : s[i + 1]].tolist() for i in rows] for column, s in zip(tape[0][1:], starts, strict=True)]
    imports = [own[0] for i, own in zip(rows, mine[1], strict=True) if ids[i] == 2]
    renumbered = iter(range(len(imports)))
    payload = [[next(renumbered)] if ids[i] == 2 else own for i, own in zip(rows, mine[1], strict=True)]
    assert found[0].tolist() == ids[rows].tolist()
    places = [(k, position.get(o, -1)) for k, own in enumerate(mine[0]) for o in own]
    assert found[1].tolist() == [place if place < k else -1 for k, place in places]
    assert found[2].tolist() == [x for own in payload for x in own]
    assert found[3].tolist() == [x for own in mine[2] for x in own]
    assert found[4].tolist() == imports


@SOME
@given(st.integers(0, 30), st.integers(0, 20), st.integers(0, 10**6))
def test_places(rows, count, seed):
    rng = np.random.default_rng(seed)
    n = min(rows, count)
    origin = rng.permutation(rows)[:n]
    kept = np.flatnonzero(rng.random(n) < 0.8)
    columns = rng.integers(0, rows + 1, rows), rng.integers(0, 9, rows), origin, kept, rng.integers(0, 99, n)
    assert_same(lambda form: form.places(*columns))


# Memory.


@SOME
@example(400, [2, 0, 3], "f4")
@given(st.integers(0, 30), st.lists(st.integers(0, 4), max_size=4), st.sampled_from(["f4", "f8", "i8", "?"]))
def test_views(offset, shape, dtype):
    buffer, size = np.arange(300).astype(dtype), int(np.prod(shape))
    found = core.passes.view(buffer, offset, tuple(shape))
    np.testing.assert_array_equal(found, buffer[offset : offset + size].reshape(shape))
    assert found.dtype == buffer.dtype and found.flags.carray and not found.flags.owndata
    assert np.shares_memory(found, buffer) == (size > 0)


BUFFER = np.arange(12.0)


@pytest.mark.parametrize(
    "wrong",
    [
        (BUFFER, 1, (3, 4)),
        (BUFFER, -1, (2,)),
        (BUFFER, 0, (-2, -3)),
        (BUFFER, 0, (0, -1)),
        (BUFFER, 0, (2**40, 2**40)),
        (BUFFER, 0, (1,) * 33),
        (BUFFER[::2], 0, (2,)),
        (BUFFER.reshape(3, 4), 0, (2,)),
        (BUFFER.tolist(), 0, (2,)),
        (None, 0, (2,)),
        (BUFFER, 0, [2]),
        (BUFFER, 0, ("a",)),
    ],
    ids=repr,
)
def test_wrong_views(wrong):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        core.passes.view(*wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_elements_are_copied(dtype):
    to, source = np.zeros(7, dtype), np.arange(9).astype(dtype)
    core.passes.copy_elements(to, 2, source, 4, 5)
    np.testing.assert_array_equal(to, [0, 0, *source[4:]])
    core.passes.copy_elements(to, 7, source, 9, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        (np.zeros(3), 0, BUFFER, 0, 4),
        (np.zeros(30), 0, BUFFER, 9, 4),
        (np.zeros(30), -1, BUFFER, 0, 4),
        (np.zeros(30), 0, BUFFER, -1, 4),
        (np.zeros(30), 0, BUFFER, 0, -1),
        (np.zeros(30, np.float32), 0, BUFFER, 0, 4),
        (np.zeros((3, 3)), 0, BUFFER, 0, 4),
        (np.zeros(30)[::2], 0, BUFFER, 0, 4),
        (np.zeros(3, object), 0, np.zeros(3, object), 0, 1),
        (None, 0, BUFFER, 0, 4),
    ],
)
def test_elements_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        core.passes.copy_elements(*wrong)


# Wrong arguments.


class Small:
    """Arrays of a small graph, of one of single results alone, of their payload and of a tape."""

    def __init__(self):
        self.graph = ints([0, 1, 2, 1]), 3, ints([0, 0, 1, 2, 4]), ints([0, 1, 0, 1]), ints([2])
        self.nodes = core.passes.Nodes(*self.graph)
        self.alone = core.passes.Nodes(ints([0, 1, 1]), 2, ints([0, 0, 1, 3]), ints([0, 0, 1]), ints([]))
        self.launch, self.phase, *_ = core.passes.by_levels(self.nodes, ints([0, 0, 0]), 1)
        self.usable, self.marks = np.ones(4, bool), np.zeros(4, bool)
        self.order, _ = core.passes.by_launch(self.launch, self.usable, len(self.phase))
        self.numbers, starts = np.zeros(8, np.int32), ints([0, 2, 4, 6])
        self.payload = starts, self.numbers, starts, np.zeros(8)
        self.rows = ints([1, 2, 1, 3])
        self.shift, self.offsets = ints([0, 1, 2, 3]), ints([0, 4, 8, 12])
        self.ids = self.table = np.array([0, 1, 2, 3], np.int32)
        self.operands = np.array([0, 1], np.int32)
        self.begins = ints([0, 0, 1, 1, 2]), ints([0, 0, 1, 2, 2]), ints([0, 0, 0, 1, 1])


def arguments():
    """Good arguments of each pass, over a small graph."""
    small = Small()
    yield from recording_arguments(small)
    yield from schedule_arguments(small)
    yield from layout_arguments(small)


def recording_arguments(s):
    """Of passes that read tapes, and that look for repeats."""
    yield "Nodes", s.graph
    for name in ("row_starts", "structure"):
        yield name, (s.ids, s.numbers, s.table, s.table, s.table)
    yield "reach", (ints([3]), s.ids, s.table, s.begins[0], s.operands, s.marks, 0)
    lows, highs = np.array([2, 0, 2], np.int32), np.array([4, 2, 3], np.int32)
    yield "rows_of_ranges", (lows, highs, s.begins[0], s.operands, s.marks)
    tape = s.ids, s.operands, s.numbers[:2], s.payload[3][:1]
    yield "needed", ((s.ids, s.operands, s.numbers[:2]), 1, (s.table,) * 3, s.table, [3])
    yield "RowPlaces", (ints([0, 2, 3]),)
    yield "note_places", (s.ids.copy(), s.offsets.copy(), ints([0, 2]), ints([4, 5]), 1)
    yield "picked", (tape, s.begins, s.table, core.passes.RowPlaces(ints([0, 2, 3])))
    read = s.ids, s.operands.astype(np.int64), s.numbers[:2], None  # of which the floats are not read
    yield "collected", (read, s.table, s.begins, ints([2]), ints([0]), s.marks, ints([3]))
    every = ints([0, 1, 2, 3])
    kinds = ints([1, 1, 0]), ints([1, 0, 0])
    yield "without_repeats", (s.nodes, s.shift, s.payload, kinds, s.usable, (every, every), 0, 64)


def schedule_arguments(s):
    """Of passes that say what runs when."""
    for name in ("depths", "signature_edges", "agenda"):
        yield name, (s.nodes,)
    for name in ("backwards", "longest_chains", "frontier"):
        yield name, (s.alone,)
    yield "by_levels", (s.nodes, ints([0, 0, 0]), 1)
    yield "part", (s.nodes, ints([0, 0, 0]), 0)
    yield "by_launch", (s.launch, s.usable, len(s.phase))
    yield "reached", (s.nodes, ints([0, 0, 0]), np.ones(3, bool), ints([0, 1, 2, 3]), ints([3]))
    classes = ints([0, 0, -1, 0]), ints([1]), ints([4])
    yield "chains", (s.nodes, s.shift, *classes, np.ones((3, 2), bool), s.marks, 4)
    yield "joined", (s.nodes, s.shift, ints([1, 1, 2, 3]), ints([-1, 0, -1, -1]), ints([2]))


def layout_arguments(s):
    """Of passes that say where values lie."""
    yield "laid_out", (s.nodes, s.launch, s.phase, ints([1, 2, 3]), ints([0, 0, 0]), 1, s.rows)
    yield "blocks", (s.nodes, s.launch, s.phase, ints([3]), s.rows)
    yield "within_phases", (s.nodes, s.launch, s.phase)
    within = s.usable, s.usable
    yield "calls", (s.nodes, s.shift, s.offsets, s.payload, s.order, s.launch, within, (1, 1, 1, 1, 1))
    yield "operand_offsets", (s.nodes, s.shift, s.offsets, ints([1, 3]), ints([0, 1, 2]), np.ones(2, bool), 0)
    yield "evenly", (s.offsets, ints([0, 2, 4]), ints([4, 4]))
    yield "stacked_rows", (s.nodes, s.shift, s.offsets, s.order, 2)
    yield "places", (ints([0, 1, 2]), ints([0, 1, 2]), ints([0, 2]), ints([0, 1]), ints([0, 4]))


GOOD = dict(arguments())
OPTIONAL = {("laid_out", 6), ("blocks", 4), ("note_places", 2)}  # how many rows nodes have: None where all have one


def test_every_pass_has_arguments_here():
    assert set(GOOD) == set(passes.NAMES)
    for name, given_ in GOOD.items():
        getattr(core.passes, name)(*given_)


def flat(given_):
    """The arguments without their records: what these hold, in order."""
    return [part for argument in given_ for part in (argument if isinstance(argument, tuple) else [argument])]


def grouped(name, parts):
    """The arguments of a pass, of what `flat` makes of them."""
    rest = iter(parts)
    return [tuple([next(rest) for _ in a]) if isinstance(a, tuple) else next(rest) for a in GOOD[name]]


def wrong(array, name):
    """The array in ways that are an error for whoever takes it."""
    yield None
    yield array.tolist()
    yield array.astype(np.float32)
    yield array.astype(np.int16)
    yield array.astype(array.dtype.newbyteorder())
    yield np.repeat(array, 2)[::2]
    yield array.reshape(*array.shape, 1)


def is_alike(one, other):
    if not isinstance(one, np.ndarray):
        return False
    return one.flags.c_contiguous and (one.dtype, one.shape) == (other.dtype, other.shape)


@pytest.mark.parametrize("name", GOOD)
def test_what_is_no_fitting_array_is_refused(name):
    function, given_ = getattr(core.passes, name), flat(GOOD[name])
    for k, argument in enumerate(given_):
        if isinstance(argument, np.ndarray):
            for other in wrong(argument, name):
                if is_alike(other, argument) or (other is None and (name, k) in OPTIONAL):
                    continue  # a single byte has no order, a single element no stride
                with pytest.raises((TypeError, ValueError)):
                    function(*grouped(name, [*given_[:k], other, *given_[k + 1 :]]))
        elif isinstance(argument, core.passes.Nodes):
            for other in (None, 3, arrays.Nodes(ints([]), 0, ints([0]), ints([]), ints([]))):
                with pytest.raises(TypeError):
                    function(*grouped(name, [other, *given_[1:]]))


@pytest.mark.parametrize("name", [name for name, given_ in GOOD.items() if any(type(a) is tuple for a in given_)])
def test_what_is_no_record_is_refused(name):
    for k, argument in enumerate(GOOD[name]):
        if isinstance(argument, tuple):
            for other in (None, 3, argument[:-1], (*argument, argument[0])):
                with pytest.raises((TypeError, ValueError)):
                    getattr(core.passes, name)(*GOOD[name][:k], other, *GOOD[name][k + 1 :])


NUMBERS = (-(2**62), -2, -1, 0, 1, 3, 4, 5, 1000, 2**31 - 1, 2**62)


@pytest.mark.parametrize("name", GOOD)
@settings(SOME, max_examples=100)
@given(data=st.data())
def test_wrong_numbers_and_lengths_are_errors_or_harmless(name, data):
    """Whatever stands in the arrays, and however long they are: a result or an exception, never a read outside."""
    changed = flat(GOOD[name])
    for k in data.draw(st.lists(st.sampled_from(range(len(changed))), min_size=1, max_size=3, unique=True)):
        argument = changed[k]
        if isinstance(argument, np.ndarray):
            n = len(argument)
            shape = data.draw(st.sampled_from([n, n, 0, max(n - 1, 0), n + 1])), *argument.shape[1:]
            argument = np.resize(argument, shape) if argument.size else np.zeros(shape, argument.dtype)
            if argument.size and argument.dtype.kind == "i":
                number = data.draw(st.sampled_from(NUMBERS))
                argument.reshape(-1)[data.draw(st.integers(0, argument.size - 1))] = np.clip(
                    number, *_limits(argument.dtype)
                )
            changed[k] = argument
        elif isinstance(argument, int):
            changed[k] = data.draw(st.sampled_from([-1, 0, 1, 2, 5, 100]))
    with contextlib.suppress(TypeError, ValueError, MemoryError, OverflowError):
        getattr(core.passes, name)(*grouped(name, changed))


def _limits(dtype):
    info = np.iinfo(dtype)
    return info.min, info.max


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0, 5], 1, [0, 0, 0], [], []), "signature: numbers below 1"),
        (([0, 0], 1, [0, 1, 0], [0], []), "starts: ascending"),
        (([0, 0], 1, [0, 1, 1], [0], []), "base: operands before their users"),
        (([0, 0], 1, [0, 0, 1], [1], []), "base: operands before their users"),
        (([0, 0], 1, [0, 0, 1], [-1], []), "base: operands before their users"),
        (([0, 0], 1, [0, 0, 0], [], [1]), "results: nodes with one operand"),
        (([0, 0], 1, [0, 0], [], []), "starts: 3 entries expected, got 2"),
    ],
)
def test_nodes_that_are_no_graph(columns, message):
    signature, signatures, starts, base, results = columns
    with pytest.raises(ValueError, match=message):
        core.passes.Nodes(ints(signature), signatures, ints(starts), ints(base), ints(results))

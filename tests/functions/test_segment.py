"""Sums by segments, reading by edges, and sums over all rows: of graphs of any sizes they are one launch, with the
numbers of one graph at a time."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.graph.graph import collect
from lazyflow.plan.plan import graph_schedule, make
from lazyflow.plan.schedule import Choices
from lazyflow.run.forward import reduced
from lazyflow.run.way import way_of

WIDTH = 3
# Numbers of nodes and edges: some alike, one node, no edge, as many edges as nodes.
SIZES = ((3, 4), (5, 7), (1, 2), (4, 4), (2, 0), (6, 9), (3, 4), (1, 1))


class Graph:
    def __init__(self, rng, nodes, edges):
        self.nodes, self.edges = nodes, edges
        self.values = rng.normal(size=(nodes, WIDTH))
        self.source, self.target = (rng.integers(0, nodes, edges) for _ in range(2))


def graphs_of(seed, sizes=SIZES):
    rng = np.random.default_rng(seed)
    return [Graph(rng, *size) for size in sizes]


class Model:
    def __init__(self):
        rng = np.random.default_rng(7)
        self.W, self.V = (lf.Parameter(rng.normal(size=(WIDTH, WIDTH))) for _ in range(2))
        self.filters = lf.Parameter(rng.normal(size=(WIDTH, WIDTH, 3)))

    def zero(self):
        self.W.grad = self.V.grad = self.filters.grad = None

    def gradients(self):
        return [self.W.grad, self.V.grad, self.filters.grad]


def _by_attention(m, h, g):
    """Weights of edges that are vectors of numbers, as of one head."""
    scores = lf.sum(h[g.source] * (h @ m.V)[g.target], axis=1)
    weights = lf.segment_softmax(scores, g.target, g.nodes)
    return lf.segment_sum(h[g.source] * weights.reshape(-1, 1), g.target, g.nodes)


# What becomes of the values of a graph's nodes.
STEPS = {
    "sums": lambda m, h, g: lf.segment_sum(h[g.source], g.target, g.nodes),
    "means": lambda m, h, g: lf.segment_mean((h @ m.W)[g.source], g.target, g.nodes),
    "largest": lambda m, h, g: h + lf.maximum(lf.segment_max(h[g.source], g.target, g.nodes), -9.0),
    "softmax": lambda m, h, g: (
        lf.segment_sum(lf.segment_softmax(h[g.source] @ m.V, g.target, g.nodes), g.source, g.nodes) + h
    ),
    "attention": _by_attention,
    "take": lambda m, h, g: h * lf.segment_sum(lf.take(h, g.target), g.source, g.nodes),
    "negative": lambda m, h, g: lf.segment_sum(h[g.source - g.nodes], g.target, g.nodes),
    "scatter": lambda m, h, g: lf.scatter(lf.embedding(h, g.source), g.target, g.nodes) + h,
    "vectors": lambda m, h, g: (
        h + lf.segment_max((h @ m.W[0])[g.source], np.arange(g.edges) % 2, 2).reshape(2, 1)[0].detach() * 0 + h
        if g.edges > 1
        else h * 2
    ),
    "mean of all": lambda m, h, g: h - lf.mean(h, axis=0),
    "sum of all": lambda m, h, g: h - lf.sum(lf.tanh(h @ m.V), axis=0, keepdims=True),
    "sum of numbers": lambda m, h, g: h * lf.mean(lf.sum(h, axis=1), axis=0),
    "pairs": lambda m, h, g: lf.segment_sum(
        lf.sum(h[np.stack([g.source, g.target], axis=1)], axis=1), g.target, g.nodes
    ),
    "computed": lambda m, h, g: lf.segment_sum(h, lf.argmax(h, axis=1), WIDTH)[0] + h,
    "affine": lambda m, h, g: lf.tanh(h @ m.W) + h,
    "stack of rows": lambda m, h, g: lf.stack([lf.tanh(row) for row in h]) + h,
    "stack of numbers": lambda m, h, g: h * lf.softmax(lf.stack([row @ m.V[0] for row in h])).reshape(-1, 1),
    "stack of matrices": lambda m, h, g: lf.sum(lf.stack([h, lf.tanh(h), h]), axis=0),
    "concatenate": lambda m, h, g: (
        lf.concatenate([h, h[1:], h @ m.W, m.V * 1.0])[: g.nodes] * lf.concatenate([h, h])[g.nodes :]
    ),
    "softmax over rows": lambda m, h, g: h * lf.softmax(h @ m.W, axis=0),
    "log_softmax over rows": lambda m, h, g: h + lf.log_softmax(h, axis=0),
    "largest over rows": lambda m, h, g: h - lf.max(h, axis=0) + lf.min(h @ m.V, axis=0, keepdims=True),
    "weighted by numbers": lambda m, h, g: h + lf.softmax(lf.tanh(h @ m.W[0])) @ h,
    "softmax of numbers": lambda m, h, g: h * (lf.softmax(h @ m.W[0]) - lf.max(h @ m.V[0], axis=0)).reshape(-1, 1),
    "convolution": lambda m, h, g: h + lf.conv(h.T, m.filters, padding=1).T,
    "product with a parameter": lambda m, h, g: h + lf.transpose(m.W @ h.T),
    "sum of a list": lambda m, h, g: lf.sum([h, lf.tanh(h), h @ m.W][: 1 + g.nodes % 3]),
    "mean of a list": lambda m, h, g: lf.mean([h, lf.tanh(h)]),
    "stack of columns": lambda m, h, g: lf.stack([h, lf.tanh(h)], axis=1)[:, 1] * h,
    "constants of any shape": lambda m, h, g: lf.softmax(h @ h.T + np.eye(g.nodes)) @ h,
    "dropout": lambda m, h, g: lf.dropout(h, 0.3) * 2.0,
    "dropout of rows": lambda m, h, g: lf.dropout(lf.tanh(h @ m.W), 0.3, axis=1) + h,
    "dropout of columns": lambda m, h, g: lf.dropout(h, 0.3, axis=0) + h,
    "noise": lambda m, h, g: h + lf.normal(h.shape) * lf.tanh(h),
}


def values_of(model, graphs, steps):
    found = []
    lf.seed(3)
    for g in graphs:
        h = lf.constant(g.values) @ model.V
        for step in steps:
            h = STEPS[step](model, h, g)
        found.append(h)
    return found


def by(batching, model, graphs, steps):
    with lf.using(batching=batching):
        values = values_of(model, graphs, steps)
        model.zero()
        lf.sum([lf.sum(lf.tanh(h * 0.1)) for h in values]).backward()
        return [h.numpy() for h in values], model.gradients()


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        if b is not None or a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


RANDOM = {"dropout", "dropout of rows", "dropout of columns", "noise"}


def steps_of(seed, without=frozenset()):
    rng = np.random.default_rng(seed)
    return [str(s) for s in rng.choice(sorted(set(STEPS) - without), rng.integers(2, 5))]


EVERY = [
    "attention",
    "means",
    "take",
    "largest",
    "mean of all",
    "computed",
    "stack of rows",
    "dropout",
    "softmax over rows",
]
PROGRAMS = [
    EVERY,
    *(pytest.param([name], marks=pytest.mark.host) for name in STEPS),
    *(pytest.param(steps_of(seed), marks=pytest.mark.host) for seed in range(24)),
]


@pytest.mark.parametrize("steps", PROGRAMS, ids="-".join)
def test_programs_are_as_one_graph_at_a_time(steps):
    model, graphs = Model(), graphs_of(len(steps))
    expected, slopes = by("none", model, graphs, steps)
    for batching in ("phases", "agenda"):
        found, gradients = by(batching, model, graphs, steps)
        assert_close(found, expected)
        assert_close(gradients, slopes)


@pytest.mark.host
@pytest.mark.parametrize("seed", range(8))
def test_plans_hold_what_plans_hold(seed):
    graph = reduced(collect(values_of(Model(), graphs_of(seed), steps_of(seed))), way_of([], [], lf.settings.current()))
    assert graph.counts is not None
    for reuse in (False, True):
        make(graph, graph_schedule(graph, "phases", Choices()), reuse=reuse).check()


@pytest.mark.host
@pytest.mark.parametrize("seed", range(6))
def test_kept_roots_values_in_the_middle_and_no_gradients(seed):
    model, graphs, steps = Model(), graphs_of(seed), steps_of(seed, RANDOM)
    values = values_of(model, graphs, steps)
    loss = lf.sum([lf.sum(lf.tanh(h * 0.1)) for h in values])
    for _ in range(3):
        model.zero()
        loss.backward()
        gradients = model.gradients()
        expected, slopes = by("none", model, graphs, steps)
        assert_close([h.numpy() for h in values], expected)
        assert_close(gradients, slopes)
        model.W.data = model.W.numpy() * 0.9
    expected, slopes = by("none", model, graphs, steps)
    with lf.no_grad():
        assert_close([h.numpy() for h in values_of(model, graphs, steps)], expected)
    found = [lf.constant(g.values) @ model.V for g in graphs]
    for step in steps:
        found = [STEPS[step](model, h, g) for h, g in zip(found, graphs, strict=True)]
        lf.forward(found)
    model.zero()
    lf.sum([lf.sum(lf.tanh(h * 0.1)) for h in found]).backward()
    assert_close(model.gradients(), slopes)


@pytest.mark.host
def test_a_plan_that_is_kept_is_not_that_of_other_sizes():
    """The same signatures, the same edges, as many rows in all."""
    model = Model()
    for sizes in [((2, 3), (3, 2)), ((3, 2), (2, 3)), ((2, 3), (3, 2)), ((4, 3), (1, 2)), ((2, 3), (3, 2))] * 2:
        graphs = graphs_of(sum(sizes[0]), sizes)
        expected, slopes = by("none", model, graphs, ["attention", "means"])
        found, gradients = by("phases", model, graphs, ["attention", "means"])
        assert_close(found, expected)
        assert_close(gradients, slopes)


@pytest.mark.host
def test_only_what_is_reached_takes_part_in_backward():
    model, graphs = Model(), graphs_of(2)
    for batching in ("none", "phases"):
        with lf.using(batching=batching):
            values = values_of(model, graphs, ["attention", "largest", "mean of all"])
            lf.forward(values)
            model.zero()
            lf.sum([lf.sum(h) for h in values[1:4]]).backward()
            if batching == "none":
                expected = model.gradients()
    assert_close(model.gradients(), expected)


@pytest.mark.host
def test_second_derivatives():
    graphs = graphs_of(3, ((2, 3), (3, 4), (4, 2)))

    def second(batching):
        model = Model()
        with lf.using(batching=batching):
            values = values_of(model, graphs, ["attention", "means", "largest", "sum of all"])
            slopes = lf.gradients(lf.sum([lf.sum(lf.tanh(h)) for h in values]), [model.W, model.V])
            lf.sum([lf.sum(s * s) for s in slopes]).backward()
            return [s.numpy() for s in slopes] + model.gradients()[:2]

    for a, b in zip(second("phases"), second("none"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


# Of each operation how a minibatch of graphs is recorded, and what it is called.
LAUNCHES = {
    "gather": (lambda h, g: h[g.source], "take"),
    "segment_sum": (lambda h, g: lf.segment_sum(h, np.arange(g.nodes) // 2, g.nodes), "scatter"),
    "segment_mean": (lambda h, g: lf.segment_mean(h, np.arange(g.nodes) // 2, 3), "segment_mean"),
    "segment_max": (lambda h, g: lf.segment_max(h, np.arange(g.nodes) // 2, 3), "segment_max"),
    "segment_softmax": (lambda h, g: lf.segment_softmax(h, np.arange(g.nodes) // 2, 3), "segment_softmax"),
    "sum": (lambda h, g: lf.sum(h, axis=0), "sum"),
    "mean": (lambda h, g: lf.mean(h, axis=0), "mean"),
    "max": (lambda h, g: lf.max(h, axis=0), "max"),
    "softmax": (lambda h, g: lf.softmax(h, axis=0), "softmax"),
    "dropout": (lambda h, g: lf.dropout(h, 0.5), "dropout_mask"),
    "normal": (lambda h, g: lf.normal((g.nodes, 4)), "normal"),
    "stack": (lambda h, g: lf.stack([lf.tanh(row) for row in h]), "stack_rows"),
    "stack of numbers": (lambda h, g: lf.stack([lf.sum(row) for row in h]), "stack_rows"),
    "concatenate": (lambda h, g: lf.concatenate([h, h, h]), "concatenate_rows"),
    "concatenate others": (lambda h, g: lf.concatenate([h * 2, h[1:]]), "concatenate"),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_graphs_of_all_sizes_share_a_launch(name):
    make_one, operation = LAUNCHES[name]
    graphs = [g for g in graphs_of(4) if g.edges]
    values = [lf.sum(make_one(lf.constant(g.values), g), axis=None) for g in graphs]
    groups = lf.explain(lf.sum(values), groups=50).groups
    mine = [g for g in groups if g.signature.startswith(f"rows of {operation}(")]
    assert [(g.nodes, g.launches) for g in mine] == [(len(graphs), 1)]
    assert not any("each of constant" in g.signature for g in groups)


def test_a_network_of_a_minibatch_takes_the_launches_of_one_graph():
    def launches(graphs):
        model = Model()
        values = values_of(model, graphs, ["attention", "affine", "means", "mean of all", "largest"])
        return lf.explain(lf.sum([lf.sum(lf.mean(h, axis=0)) for h in values])).launches

    rng = np.random.default_rng(3)
    many = graphs_of(5, [(int(n), int(m)) for n, m in rng.integers(2, 20, (40, 2))])
    assert launches(many) <= launches(many[:1]) + 1, "a list for the sum over the minibatch"


SHAPES = [(3, 5), (1, 1), (7, 3), (2, 3, 5), (3, 5), (1, 9), (40, 11)]
DRAWS = {
    "uniform": lambda shape, dtype: lf.uniform(shape, -2.0, 3.0, dtype=dtype),
    "normal": lambda shape, dtype: lf.normal(shape, 1.0, shape[0] + 0.5, dtype=dtype),
    "gumbel": lambda shape, dtype: lf.gumbel(shape, dtype=dtype),
    "bernoulli": lambda shape, dtype: lf.bernoulli(1 / (shape[0] + 1), shape, dtype=dtype),
    "dropout": lambda shape, dtype: lf.dropout(lf.constant(np.ones(shape, dtype)), 0.25),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_one_at_a_time(name, dtype):
    """To the bit, of all shapes in a launch, and in whatever order they run."""

    def drawn(batching, order):
        lf.seed(4)
        found = [DRAWS[name](shape, dtype) for shape in SHAPES]
        with lf.using(batching=batching):
            lf.forward([found[i] for i in order])
        return [x.numpy() for x in found]

    order = list(range(len(SHAPES)))
    expected = drawn("none", order)
    for found in (drawn("phases", order), drawn("phases", order[::-1]), drawn("agenda", order)):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_plans_that_come_again_have_their_own_draws():
    """The same structure with other seeds and probabilities: payload of the plan."""

    def drawn(seed, batching):
        lf.seed(seed)
        with lf.using(batching=batching):
            found = [lf.dropout(lf.constant(np.ones((n, 3))), 0.1 + seed / 10) + lf.normal((n, 3)) for n in (2, 3, 5)]
            lf.forward(found)
            return [x.numpy() for x in found]

    for seed in (1, 2, 3, 4, 2, 5):
        for a, b in zip(drawn(seed, "phases"), drawn(seed, "none"), strict=True):
            np.testing.assert_array_equal(a, b)


def test_kept_draws_are_drawn_anew_by_every_forward():
    """As many numbers as without joining, the next of the stream."""
    sums = {}
    for batching in ("none", "phases"):
        lf.seed(1)
        weight = lf.Parameter(np.ones(3))
        values = [lf.dropout(weight * np.ones((n, 3)), 0.5) for n in (2, 3, 5)]
        with lf.using(batching=batching):
            found = []
            for _ in range(3):
                lf.forward(values)
                found.append([x.numpy() for x in values])
                weight.data = weight.numpy() * 1.0
        sums[batching] = found
    for a, b in zip(sums["none"], sums["phases"], strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(sums["phases"][0][2], sums["phases"][1][2])


# Programs of several nodes that read the same rows, one row, no rows, or each other's.
SAME_ROWS = {
    "an index that all have": lambda p: [lf.tanh(p[:n] * 1.0)[np.array([0])] for n in (1, 2, 3, 4)],
    "a row, other segments": lambda p: [lf.segment_sum(lf.tanh(p[:1]), [0], n) for n in (1, 2, 3)],
    "a row, softmax": lambda p: [lf.segment_softmax(lf.tanh(p[:1]), [0], n) for n in (1, 2, 3)],
    "a row in a list": lambda p: [lf.stack([lf.tanh(p[0])] * k) for k in (1, 2, 3)],
    "a matrix in a list": lambda p: [lf.concatenate([lf.tanh(p[:1])] * k) for k in (1, 2, 3)],
    "a number in a list": lambda p: [lf.stack([lf.sum(lf.tanh(p[0]))] * k) for k in (1, 2, 3)],
    "a list of parts": lambda p: [lf.sum([lf.tanh(p)[:k]] * 3) for k in (1, 2, 3)],
    "no rows": lambda p: [lf.segment_sum(lf.tanh(p)[:0], [], n) + lf.sum(p) for n in (1, 2, 3)],
    "no rows in one": lambda p: [lf.segment_mean(lf.tanh(p)[:n], [0] * n, n + 1) for n in (0, 1, 2, 0)],
    "an empty part": lambda p: [lf.concatenate([lf.tanh(p)[:k], p[3:] * 2.0]) for k in (0, 1, 2, 0)],
    "rows of one another": lambda p: [
        lf.stack(
            [
                lf.sum(
                    lf.concatenate([lf.tanh(p)[:k], lf.stack([lf.tanh(p[j]) for j in range(k)])])[
                        np.arange(2 * k)[::-1].copy()
                    ],
                    axis=0,
                )
                for k in (1, 2, 3)
            ]
        )
    ],
    "every other row": lambda p: [lf.sum(lf.tanh(p)[::2][: k + 1], axis=0) for k in (0, 1)],
    "columns": lambda p: [lf.max(lf.tanh(p).T[:k], axis=0) for k in (1, 2, 3)],
}


@pytest.mark.parametrize("name", SAME_ROWS)
def test_rows_that_are_read_by_several(name):
    p = lf.Parameter(np.random.default_rng(0).normal(size=(4, WIDTH)))

    def run(batching):
        p.grad = None
        with lf.using(batching=batching):
            found = SAME_ROWS[name](p)
            lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
            return [*[y.numpy() for y in found], p.grad]

    assert_close(run("phases"), run("none"))


def test_rows_that_several_read_are_there_once():
    """A table that all examples read, by indices of different numbers, beside parts of it and others."""
    table = lf.Parameter(np.random.default_rng(0).normal(size=(9, WIDTH)))
    lengths = (2, 3, 5, 3, 1)

    def run(batching):
        table.grad = None
        with lf.using(batching=batching):
            h = lf.tanh(table * 1.0)
            parts = [h, h[:4], h, lf.sin(h), h[4:]]
            values = [x[np.arange(n) % 4] * (n + 1.0) for x, n in zip(parts, lengths, strict=True)]
            lf.sum([lf.sum(y * y) for y in values]).backward()
            return [y.numpy() for y in values], [table.grad], values

    (expected, slopes, _), (found, gradients, values) = run("none"), run("phases")
    assert_close(found, expected)
    assert_close(gradients, slopes)
    graph = reduced(collect(values, anew=True), way_of([], [], lf.settings.current()))
    plan = make(graph, graph_schedule(graph, "phases", Choices()))
    (mine,) = [launch for launch in plan.launches if launch.signature.op.name == "take"]
    assert mine.reads[0].count == 9 + 4 + 9 + 5


@pytest.mark.host
def test_computed_segments_are_checked_when_they_are_read():
    for sizes in ([3], [2, 3, 4]):
        for bad in (-1, 2):
            rows = [lf.constant(np.ones((n, 2))) for n in sizes]
            index = [lf.constant(np.full(n, bad if n == 3 else 1)) * 1 for n in sizes]
            values = [lf.segment_sum(r, i, 2) for r, i in zip(rows, index, strict=True)]
            with pytest.raises(IndexError, match=f"segment_sum: index {bad} is out of range for an axis of 2"):
                lf.forward(values)


@pytest.mark.parametrize("name", ["segment_sum", "segment_mean", "segment_max", "segment_softmax"])
def test_refused_at_the_line_of_the_user(name):
    f, x = getattr(lf, name), lf.constant(np.ones((3, 2)))
    for segments, n, error, text in (
        ([0, 1, 2], 2, IndexError, rf"{name}: index 2 \(element \[2\]\) is out of range for 2 segments$"),
        ([0, -1, 1], 2, IndexError, rf"{name}: index -1 \(element \[1\]\) is out of range for 2 segments$"),
        ([0, 0, 1], 1, IndexError, "is out of range for 1 segment$"),
        ([0, 1], 2, lf.ShapeError, r"values \(m, ...\) and segments \(m,\), an index for each row; got \(3, 2\) and"),
        ([[0, 1, 1]], 2, lf.ShapeError, "an index for each row"),
        ([0.0, 1.0, 1.0], 2, lf.DTypeError, r"a segment must be an integer, got float32; .*\.astype\('int64'\)"),
        (lf.constant([0.0, 1.0, 1.0]), 2, lf.DTypeError, "a segment must be an integer, got float32"),
        ([0, 1, 1], -1, lf.ShapeError, "must not be negative, got -1"),
        ([0, 1, 1], 2.0, TypeError, "n, the number of segments, must be an integer, got 2.0"),
    ):
        with pytest.raises(error, match=text):
            f(x, segments, n)


def test_in_a_cell_and_by_vmap():
    x, segments = np.random.default_rng(0).normal(size=(4, 5, 2)), np.array([2, 0, 2, 1, 0])

    def f(rows):
        return lf.segment_sum(lf.segment_softmax(rows, segments, 3) * rows, segments, 3)

    want = np.stack([f(lf.constant(one)).numpy() for one in x])
    np.testing.assert_allclose(np.stack([lf.cell(f)(lf.constant(one)).numpy() for one in x]), want, rtol=1e-12)
    np.testing.assert_allclose(lf.vmap(f)(x), want, rtol=1e-12)


@pytest.mark.host
@pytest.mark.parametrize("culprit", range(3))
def test_check_finite_names_who_made_it(culprit):
    with np.errstate(all="ignore"):
        rows = [lf.Parameter(np.full((n, 2), 1e308 if i == culprit else 1.0)) for i, n in enumerate((3, 2, 4))]
        values = [lf.segment_sum(r * 1.5, np.zeros(len(r), int), 2) for r in rows]
        lf.forward(values)
        with lf.using(check_finite=True), pytest.raises(lf.NonFiniteError, match=r"scatter at .*made an infinity"):
            lf.forward([lf.sum(y + 1.0) for y in values])


def test_parts_of_one_value_are_told_apart():
    """Views of one memory, of one size and of several, each read by an index of its own."""
    rows, index = np.arange(30.0).reshape(10, 3), np.array([2, 0])
    table = lf.Parameter(rows)
    whole = table * 1.0
    parts = [(0, 3), (3, 6), (6, 10)]
    found = [lf.take(whole[a:b], index) for a, b in parts]
    lf.sum([lf.sum(y) * (k + 1.0) for k, y in enumerate(found)]).backward()
    want = np.zeros((10, 3))
    for k, (y, (a, b)) in enumerate(zip(found, parts, strict=True)):
        np.testing.assert_array_equal(y.numpy(), rows[a:b][index])
        want[a + index] += k + 1.0
    np.testing.assert_array_equal(table.grad, want)

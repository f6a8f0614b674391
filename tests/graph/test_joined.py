"""Values of different length share launches, and everything is as one example at a time."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device, passes
from lazyflow.graph.graph import collect
from lazyflow.graph.joined import MOST_LOOPED, _kin, with_joined_rows
from lazyflow.graph.repeats import repeats_merged
from lazyflow.plan.plan import graph_schedule, make
from lazyflow.plan.schedule import Choices
from lazyflow.record.tape import signature_by_id
from lazyflow.run.forward import reduced
from lazyflow.run.way import way_of

WIDTH = 3
WORDS = 7
LENGTHS = (0, 1, 2, 3, 3, 5, 1, 8)


class Model:
    """Parameters, in float64 so that only the order of sums may differ."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.W = lf.Parameter(rng.normal(size=(WIDTH, WIDTH)), name="W")
        self.b = lf.Parameter(rng.normal(size=WIDTH), name="b")
        self.E = lf.Parameter(rng.normal(size=(WORDS, WIDTH)), name="E")
        self.parameters = [self.W, self.b, self.E]

    def gradients(self):
        grads = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        dense = [g.to_dense() if hasattr(g, "to_dense") else g for g in grads]
        return [
            np.zeros(p.shape) if g is None else device.to_device(g, "cpu")
            for p, g in zip(self.parameters, dense, strict=True)
        ]


class Numpy:
    """The functions that steps use, of arrays."""

    tanh, exp, sqrt, square, where, mean, sum, maximum, argmax, cumsum = (
        np.tanh, np.exp, np.sqrt, np.square, np.where, np.mean, np.sum, np.maximum, np.argmax, np.cumsum
    )  # fmt: skip
    concatenate = staticmethod(np.concatenate)
    constant = staticmethod(np.asarray)

    @staticmethod
    def segment_sum(x, segments, n):
        return np.eye(n)[:, segments] @ x

    @staticmethod
    def segment_max(x, segments, n):
        return np.stack([x[segments == k].max(axis=0) for k in range(n)])

    @staticmethod
    def segment_softmax(x, segments, n):
        e = np.exp(x)
        return e / (np.eye(n)[:, segments] @ e)[segments]

    @staticmethod
    def conv(x, w, padding):
        padded = np.pad(x, ((0, 0), (padding, padding)))
        size = x.shape[1] + 2 * padding - w.shape[2] + 1
        return sum(w[:, :, k] @ padded[:, k : k + size] for k in range(w.shape[2]))

    @staticmethod
    def affine(W, b, x):
        return x @ W.T + b

    @staticmethod
    def softmax(x, axis):
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)

    @staticmethod
    def embedding(E, index):
        return E[index]

    @staticmethod
    def cross_entropy(scores, index):
        shifted = scores - scores.max(axis=-1, keepdims=True)
        return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(index)), index]

    @staticmethod
    def transpose(x, axes):
        return x.transpose(axes)


class Lazy:
    """The same of expressions."""

    tanh, exp, sqrt, square, where, mean, sum, maximum, argmax, cumsum = (
        lf.tanh, lf.exp, lf.sqrt, lf.square, lf.where, lf.mean, lf.sum, lf.maximum, lf.argmax, lf.cumsum
    )  # fmt: skip
    segment_sum, segment_max, segment_softmax, conv = lf.segment_sum, lf.segment_max, lf.segment_softmax, lf.conv
    concatenate, constant, affine, softmax, embedding = lf.concatenate, lf.constant, lf.affine, lf.softmax, lf.embedding
    transpose = lf.transpose

    @staticmethod
    def cross_entropy(scores, index):
        return lf.nn.functional.cross_entropy(scores, index, reduction="none")


def _normed(f, m, x, e):
    centred = x - f.mean(x, axis=1, keepdims=True)
    return centred / f.sqrt(f.mean(f.square(centred), axis=1, keepdims=True) + 0.1)


def _shifted(f, m, x, e):
    """Rows next to each other, where there are two."""
    return f.concatenate([x[1:] * f.tanh(x[:-1]), x[:1]], axis=0) if len(e.words) > 1 else x


def _parts(f, m, x, e):
    """Parts of what elementwise operations make, read by others."""
    if not len(e.words):
        return x
    y = f.tanh(x * 0.5)
    return f.concatenate([f.tanh(y[1:] * 0.5 + 1), f.sqrt(y * y + 1)[:1]], axis=0) * f.tanh(y[-1] + 1)


def _heads(f, m, x, e):
    n = len(e.words)
    return f.transpose(x.reshape(n, WIDTH, 1) * x.reshape(n, 1, WIDTH), (0, 2, 1)).sum(axis=1)


def _attended(f, m, x, e):
    return f.softmax(x @ f.transpose(x, (1, 0)), axis=-1) @ x if len(e.words) else x


def _by_pairs(f, m, x, e):
    """Every two rows a segment."""
    n = len(e.words)
    if not n:
        return x
    pairs, count = np.arange(n) // 2, (n + 1) // 2
    sums = f.segment_sum(x, pairs, count) + f.segment_max(f.tanh(x), pairs, count)
    return sums[pairs] * f.segment_softmax(f.tanh(x), pairs, count)


def _convolved(f, m, x, e):
    if not len(e.words):
        return x
    filters = f.concatenate([m.W.reshape(WIDTH, WIDTH, 1) * (0.5 + k) for k in range(3)], axis=2)
    return f.transpose(f.conv(f.transpose(x, (1, 0)), filters, padding=1), (1, 0))


def _weighted(f, m, x, e):
    """By the softmax of scores, vectors as long as the example, of which a mask leaves some."""
    n = len(e.words)
    if not n:
        return x
    scores = f.where(e.words % 3 > 0, x @ m.b * e.matrix[:, 0], -1e9)
    return x * f.softmax(f.cumsum(f.tanh(scores), axis=0) + scores * 0.1, axis=-1).reshape(n, 1)


# What a program is made of: from an (n, WIDTH) value another one, with functions, model and example.
STEPS = {
    "tanh": lambda f, m, x, e: f.tanh(x),
    "scaled by a number of its own": lambda f, m, x, e: x / (len(e.words) + 1.5),
    "scaled": lambda f, m, x, e: x * 0.5 + 0.25,
    "itself": lambda f, m, x, e: x * x + x,
    "vector": lambda f, m, x, e: x + f.constant(e.vector),
    "vector of a parameter": lambda f, m, x, e: x * f.embedding(m.E, e.words[0] if len(e.words) else 0),
    "affine": lambda f, m, x, e: f.affine(m.W, m.b, x),
    "product": lambda f, m, x, e: x @ m.W.T + m.b,
    "softmax": lambda f, m, x, e: f.softmax(x, axis=-1),
    "normed": _normed,
    "concatenated": lambda f, m, x, e: f.concatenate([x, f.tanh(x)], axis=1)[:, 2:5],
    "columns": lambda f, m, x, e: x[:, ::-1] - x,
    "selected": lambda f, m, x, e: f.where(x > 0, x, -0.5 * x),
    "embedded": lambda f, m, x, e: x + f.embedding(m.E, e.words),
    "constant": lambda f, m, x, e: x * f.constant(e.matrix),
    "shifted": _shifted,
    "parts": _parts,
    "several": lambda f, m, x, e: f.tanh(f.sqrt(x * x + 0.5) / (1.5 + f.square(x)) * 0.5 + f.constant(e.vector)),
    "heads": _heads,
    "flat": lambda f, m, x, e: f.tanh(x.reshape(-1)).reshape(len(e.words), WIDTH),
    "sum of all rows": lambda f, m, x, e: x - f.sum(x, axis=0),
    "attention": _attended,
    "by rows": lambda f, m, x, e: x * f.sum(x, axis=1).reshape(len(e.words), 1),
    "largest": lambda f, m, x, e: x + f.argmax(x, axis=0) if len(e.words) else x,
    "running sums": lambda f, m, x, e: f.cumsum(x, axis=0) * 0.3,
    "casts": lambda f, m, x, e: x * (x > 0.1).astype("float64") + (f.tanh(x) > 0).astype("int64"),
    "by pairs": _by_pairs,
    "convolved": _convolved,
    "weighted": _weighted,
    "row products": lambda f, m, x, e: (x @ m.b).reshape(len(e.words), 1) + x,
}


# Steps that draw, which NumPy has no reference for.
DRAWN = {
    "dropout": lambda f, m, x, e: lf.dropout(x, 0.3),
    "dropout of a vector": lambda f, m, x, e: x * lf.dropout(x @ m.b, 0.3).reshape(len(e.words), 1),
    "noise": lambda f, m, x, e: x + lf.normal(shape=(len(e.words), WIDTH)),
}


class Example:
    def __init__(self, rng, length):
        self.words = rng.integers(0, WORDS, length)
        self.vector, self.matrix = rng.normal(size=WIDTH), rng.normal(size=(length, WIDTH))


def examples_of(seed, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return [Example(rng, n) for n in lengths]


def computed(f, m, example, steps):
    """The value of a program, and a loss of each row."""
    x = f.embedding(m.E, example.words) * f.constant(example.matrix)
    for step in steps:
        x = (STEPS.get(step) or DRAWN[step])(f, m, x, example)
    return x, f.cross_entropy(f.tanh(x), example.words % WIDTH)


def losses_of(m, examples, steps):
    pairs = [computed(Lazy, m, e, steps) for e in examples]
    return [x for x, _ in pairs], [lf.sum(losses) + lf.sum(x * x) for x, losses in pairs]


def steps_of(seed):
    rng = np.random.default_rng(seed)
    return [str(s) for s in rng.choice(sorted(STEPS), rng.integers(1, 7))]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def by(batching, model, examples, steps):
    lf.seed(7)
    with lf.using(batching=batching):
        values, losses = losses_of(model, examples, steps)
        lf.sum(losses).backward()
        return [x.numpy() for x in values], model.gradients()


PROGRAMS = [[name] for name in STEPS] + [steps_of(seed) for seed in range(60)]
DRAWING = [[*steps_of(seed)[:2], name, *steps_of(seed + 1)[:2]] for seed in range(4) for name in DRAWN]


@pytest.mark.parametrize("steps", [*PROGRAMS, *DRAWING], ids="-".join)
def test_programs_are_as_one_example_at_a_time(steps):
    model, examples = Model(1), examples_of(len(steps))
    expected, slopes = by("none", model, examples, steps)
    for batching in ("phases", "levels", "frontier", "depth", "agenda"):
        found, gradients = by(batching, model, examples, steps)
        assert_close(found, expected)
        assert_close(gradients, slopes)


class Arrays:
    def __init__(self, model):
        self.W, self.b, self.E = (p.numpy() for p in model.parameters)


@pytest.mark.parametrize("steps", PROGRAMS, ids="-".join)
def test_programs_are_as_numpy(steps):
    model, examples = Model(2), examples_of(3)
    values, _ = losses_of(model, examples, steps)
    lf.forward(values)
    assert_close([x.numpy() for x in values], [computed(Numpy, Arrays(model), e, steps)[0] for e in examples])


@pytest.mark.parametrize("seed", range(20))
def test_plans_hold_what_plans_hold(seed):
    values, losses = losses_of(Model(1), examples_of(seed), steps_of(seed))
    graph = reduced(collect([*losses, *values]), way_of([], [], lf.settings.current()))
    assert graph.counts is not None
    for reuse in (False, True):
        plan = make(graph, graph_schedule(graph, "phases", Choices()), reuse=reuse)
        plan.check()


@pytest.mark.parametrize("seed", range(12))
def test_without_gradients_memory_is_used_again(seed):
    model, examples, steps = Model(1), examples_of(seed), [*steps_of(seed), "affine", "tanh", "normed"]
    expected, _ = by("none", model, examples, steps)
    with lf.no_grad():
        found = [losses_of(model, [e], steps)[0][0] for e in examples]
        lf.forward(found)
        assert_close([x.numpy() for x in found], expected)


@pytest.mark.parametrize("seed", range(12))
def test_kept_roots_follow_their_parameters(seed):
    model, examples, steps = Model(1), examples_of(seed), steps_of(seed)
    values, losses = losses_of(model, examples, steps)
    loss = lf.sum(losses)
    for _ in range(3):
        loss.backward()
        gradients = model.gradients()
        expected, slopes = by("none", model, examples, steps)
        assert_close([x.numpy() for x in values], expected)
        assert_close(gradients, slopes)
        model.W.data = model.W.numpy() * 0.9
        model.E.data = model.E.numpy() + 0.1


def test_a_plan_that_is_kept_is_not_that_of_other_lengths():
    """The same signatures of rows, the same edges, other lengths."""
    model = Model(1)
    for lengths in [(2, 3), (3, 2), (2, 3), (4, 1), (2, 3), (3, 2), (4, 1)]:
        examples = examples_of(sum(lengths), lengths)
        expected, slopes = by("none", model, examples, ["tanh", "affine"])
        found, gradients = by("phases", model, examples, ["tanh", "affine"])
        assert_close(found, expected)
        assert_close(gradients, slopes)


@pytest.mark.parametrize("seed", range(12))
def test_values_in_the_middle(seed):
    """Each step a run of its own, whose values later ones know."""
    model, examples, steps = Model(1), examples_of(seed), steps_of(seed)
    expected, slopes = by("none", model, examples, steps)
    values = [lf.embedding(model.E, e.words) * lf.constant(e.matrix) for e in examples]
    for step in steps:
        values = [STEPS[step](Lazy, model, x, e) for x, e in zip(values, examples, strict=True)]
        lf.forward(values)
    losses = [
        lf.sum(Lazy.cross_entropy(lf.tanh(x), e.words % WIDTH)) + lf.sum(x * x)
        for x, e in zip(values, examples, strict=True)
    ]
    lf.sum(losses).backward()
    assert_close(model.gradients(), slopes)
    assert_close([x.numpy() for x in values], expected)


def test_hooks_and_retained_gradients_of_single_values():
    model, examples = Model(1), examples_of(5, (2, 3, 1, 4))

    def slopes(batching):
        seen = []
        with lf.using(batching=batching):
            inner = [lf.tanh(lf.affine(model.W, model.b, lf.constant(e.matrix))) for e in examples]
            inner[1].register_hook(lambda g: seen.append(g) or 2 * g)
            inner[2].retain_grad()
            lf.sum([lf.sum(x * x) for x in inner]).backward()
        return [*seen, inner[2].grad, *model.gradients()]

    assert_close(slopes("phases"), slopes("none"))


@pytest.mark.parametrize("seed", range(6))
def test_gradients_as_expressions(seed):
    model, examples, steps = Model(1), examples_of(seed, (1, 2, 4)), steps_of(seed)

    def second(batching):
        with lf.using(batching=batching):
            _, losses = losses_of(model, examples, steps)
            slopes = lf.gradients(lf.sum(losses), [model.W, model.E])
            lf.sum([lf.sum(s * s) for s in slopes]).backward()
            return [s.numpy() for s in slopes] + model.gradients()

    for a, b in zip(second("phases"), second("none"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_only_what_is_reached_takes_part_in_backward():
    """A backward from a few of the values that were computed together."""
    model, examples = Model(1), examples_of(5, (2, 3, 1, 4))
    for batching in ("none", "phases"):
        with lf.using(batching=batching):
            values, losses = losses_of(model, examples, ["affine", "vector", "tanh"])
            lf.forward([*values, *losses])
            lf.sum(losses[1:3]).backward()
            found = model.gradients()
            if batching == "none":
                expected = found
    assert_close(found, expected)


# Of which example a value is not finite, and what makes it so: in a launch of rows, and one by one.
CULPRITS = {
    "rows": (lambda x: lf.log(x), -1.0, "log", "NaN"),
    "rows of a chain": (lambda x: lf.tanh(lf.log(x) * 0.5) * 2.0, -1.0, "log", "NaN"),
    "one by one": (lambda x: x @ x.T, 1e200, "matmul", "an infinity"),
    "behind others, one by one": (lambda x: lf.softmax(x @ x.T, axis=-1) @ x, 1e200, "matmul", "an infinity"),
}


@pytest.mark.host
@pytest.mark.parametrize("lengths", [(2, 3), (1, 2, 4), (5, 3, 1, 2)], ids=str)
@pytest.mark.parametrize("case", CULPRITS)
def test_check_finite_names_who_made_it_in_an_earlier_run(case, lengths):
    """The earlier run was not checked, so its values are joined."""
    make, bad, operation, what = CULPRITS[case]
    W = lf.Parameter(np.eye(WIDTH))
    for culprit in range(len(lengths)):
        inputs = [np.full((n, WIDTH), bad if i == culprit else 1.0) for i, n in enumerate(lengths)]
        with np.errstate(all="ignore"):
            values = [make(lf.constant(x) @ W) for x in inputs]
            lf.forward(values)
            with lf.using(check_finite=True), pytest.raises(lf.NonFiniteError) as caught:
                lf.forward([lf.sum(x + 1.0) for x in values])
        assert f"made {what}" in str(caught.value) and operation in str(caught.value)
        if "one by one" in case:
            n = lengths[culprit]
            assert f"-> float64[{n}, {n}]" in str(caught.value)


def test_nodes_of_one_length_are_left_alone():
    model, examples = Model(1), examples_of(5, (3, 3, 3))
    _, losses = losses_of(model, examples, ["affine", "vector", "tanh"])
    graph = repeats_merged(collect(losses))
    assert with_joined_rows(graph) is graph


def test_repeats_are_of_one_length():
    """tanh of two rows of a value is not tanh of three of them."""
    model = Model(1)
    x = lf.embedding(model.E, np.arange(4))
    parts = [lf.tanh(x[: n + 1]) for n in range(4)] + [lf.tanh(x[:2])]
    lf.forward(parts)
    assert [p.shape for p in parts] == [(1, 3), (2, 3), (3, 3), (4, 3), (2, 3)]
    assert_close([p.numpy() for p in parts], [np.tanh(model.E.numpy()[:n]) for n in (1, 2, 3, 4, 2)])


def launches(values):
    """The launches of a forward by operation."""
    return {g.signature: g.launches for g in lf.explain(lf.sum([lf.sum(x) for x in values]), groups=100).groups}


def launches_of(values, prefix):
    """Of each signature whose name begins so how many launches a forward has."""
    groups = lf.explain(lf.sum([lf.sum(x) for x in values]), groups=100).groups
    return [g.launches for g in groups if g.signature.startswith(prefix)]


def test_lengths_share_launches():
    model, examples = Model(1), examples_of(5, (2, 3, 1, 4, 7))
    values, _ = losses_of(model, examples, ["affine", "softmax", "normed", "vector", "columns", "concatenated"])
    found = launches(values)
    joined = {name: n for name, n in found.items() if name.startswith("rows of")}
    assert len(joined) > 10
    assert max(joined.values()) == 2, "the mean of a row, and that of the squares of what is left"


@pytest.mark.host
def test_what_works_along_the_length_is_taken_one_by_one():
    """Attention over five lengths: a launch of each operation, and nothing of it by rows."""
    model, examples = Model(1), examples_of(5, (2, 3, 1, 4, 7))
    values, _ = losses_of(model, examples, ["attention"])
    found = launches(values)
    looped = {name: n for name, n in found.items() if name.startswith("each of")}
    names = sorted(name.split("(")[0].removeprefix("each of ") for name in looped)
    assert names == ["matmul", "softmax", "sum", "transpose"]
    assert sum(looped.values()) == 5, "two products that depend on each other are two launches"


@pytest.mark.host
@pytest.mark.parametrize("lengths", [(2, 3), (2, 3, 4) * (MOST_LOOPED + 1)])
def test_what_batches_well_is_not_taken_one_by_one(lengths):
    """Two kinds are two launches either way, and many nodes of a kind are faster as a batch."""
    model, examples = Model(1), examples_of(5, lengths)
    values, _ = losses_of(model, examples, ["attention"])
    assert not launches_of(values, "each of softmax")


def test_elements_of_vectors_are_no_rows():
    """A vector is not a batch of numbers, unless these are what is left of rows."""
    arrays = [np.random.default_rng(n).normal(size=(n, 2)) for n in (2, 3, 4)]
    assert not launches_of([lf.tanh(lf.constant(a[:, 0])) for a in arrays], "rows of")
    assert launches_of([lf.tanh(lf.sum(lf.constant(a), axis=1)) for a in arrays], "rows of tanh") == [1]


def test_constants_that_are_walked_are_one_launch():
    arrays = [np.random.default_rng(n).normal(size=(n, 2)) for n in (2, 3, 4)]
    values = [lf.tanh(lf.constant(a)) for a in arrays]
    assert launches_of(values, "rows of constant") == [1] and not launches_of(values, "constant")


def test_a_plan_that_is_kept_is_not_that_of_other_shapes():
    """As many elements in other shapes, along which a softmax is another."""
    rng = np.random.default_rng(2)
    groups = [[(2, 6), (3, 4), (1, 12)], [(6, 2), (4, 3), (12, 1)], [(2, 6), (4, 3), (1, 12)]]
    for shapes in [*groups, *groups, *groups[::-1]]:
        arrays = [rng.normal(size=shape) for shape in shapes]
        tables = [lf.Parameter(a) for a in arrays]
        found = [lf.softmax(t * 1, axis=0) for t in tables]
        lf.sum([lf.sum(y * lf.constant(a)) for y, a in zip(found, arrays, strict=True)]).backward()
        for a, y, t in zip(arrays, found, tables, strict=True):
            right = np.exp(a) / np.exp(a).sum(0)
            np.testing.assert_allclose(y.numpy(), right, rtol=1e-12)
            np.testing.assert_allclose(t.grad, right * (a - (a * right).sum(0)), rtol=1e-9, atol=1e-12)


def test_products_with_two_weights_of_one_shape():
    """Each weight, written as its transpose by every example, has one launch; a matrix of each example has none."""
    rng = np.random.default_rng(4)
    W, V = (lf.Parameter(rng.normal(size=(3, 3))) for _ in range(2))
    arrays = [rng.normal(size=(n, 3)) for n in (1, 2, 4, 2)]
    own = [rng.normal(size=(3, 3)) for _ in arrays]

    def run(batching):
        W.grad = V.grad = None
        with lf.using(batching=batching):
            pairs = zip(arrays, own, strict=True)
            found = [(lf.constant(a) @ W.T) @ V.T @ lf.constant(b) for a, b in pairs]
            lf.sum([lf.sum(lf.tanh(y)) for y in found]).backward()
            return [y.numpy() for y in found], [W.grad, V.grad]

    (found, slopes), (expected, right) = run("phases"), run("none")
    assert_close(found, expected)
    assert_close(slopes, right)
    values = [(lf.constant(a) @ W.T) @ V.T for a in arrays]
    groups = lf.explain(lf.sum([lf.sum(y) for y in values]), groups=100).groups
    assert [g.launches for g in groups if g.signature.startswith("rows of matmul")] == [1, 1]
    level = [lf.constant(a) @ weight.T for a in arrays for weight in (W, V)]
    assert launches_of(level, "rows of matmul") == [1, 1], "in no launch two weights"
    alone = [lf.constant(a) @ lf.constant(b) for a, b in zip(arrays, own, strict=True)]
    assert not launches_of(alone, "rows of matmul")


@pytest.mark.parametrize("layers", [1, 6])
def test_what_few_nodes_read_has_no_launch_of_its_own(layers):
    """Forty matrices of four lengths, every two times the same vector, as keys are times the queries of equal words: no
    more launches than lengths. A weight that all read has one, however many layers of weights there are."""
    rng = np.random.default_rng(6)
    table, weights = lf.Parameter(rng.normal(size=(20, 3))), lf.Parameter(rng.normal(size=(layers, 3, 3)))
    values = [lf.constant(rng.normal(size=(1 + k % 4, 3))) for k in range(40)]
    for transposed in [weight.T for weight in weights]:
        values = [lf.tanh(x @ transposed) for x in values]
    assert launches_of(values, "rows of matmul") == [1] * layers
    found = [lf.sum(x @ lf.tanh(table[k // 2])) for k, x in enumerate(values)]
    groups = lf.explain(lf.sum(found), groups=100).groups
    assert sum(g.launches for g in groups if g.operation == "matmul") <= layers + 4


@pytest.mark.skipif(passes.chains is None, reason="chains are the compiled core's")
def test_rows_are_chained():
    """Neighbouring elementwise operations of all lengths are one kernel, with payload of each example."""
    model, examples = Model(1), examples_of(5, (2, 3, 1, 4, 7))
    values, _ = losses_of(model, examples, ["affine", "several", "scaled by a number of its own"])
    names = [name for name, n in launches(values).items() if name.startswith("rows of ") and "(" in name]
    assert any(name.startswith("rows of divide(tanh(add(multiply(divide(sqrt(add(") for name in names)


def test_families_say_nothing_of_lengths():
    kinds = [signature_by_id(x.tape.signatures[x.row]) for x in (lf.tanh(lf.constant(np.ones((n, 2)))) for n in (1, 5))]
    first, second = [_kin(kind).rows for kind in kinds]
    assert first is second is not None
    assert first.walks == (True,)
    assert _kin(signature_by_id(kinds[0].id)).rows is first
    number = lf.tanh(lf.constant(1.0))
    assert _kin(signature_by_id(number.tape.signatures[number.row])).rows is None


def test_layout_counts_rows():
    """Nodes of 2, 1 and 3 rows of three elements lie behind each other."""
    nodes = passes.Nodes(np.zeros(3, np.int64), 1, np.zeros(4, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    where = np.zeros(3, np.int64), np.zeros(1, np.int64)
    widths, dtypes, rows = np.array([3]), np.array([0]), np.array([2, 1, 3])
    offsets, ends = passes.laid_out(nodes, *where, widths, dtypes, 1, rows)
    assert offsets.tolist() == [0, 6, 9]
    assert ends.tolist() == [18]
    assert passes.blocks(nodes, *where, np.array([0]), rows)[2].tolist() == [6]

"""Vectors of many lengths, computed of rows, take the launches of one example, and each is as by itself."""

import itertools

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.graph.joined import MOST_LOOPED

D = 3
LENGTHS = range(1, 13)
F = lf.nn.functional


def own(s, seed=0):
    """Numbers of the example, as many as it is long."""
    return np.random.default_rng([seed, s.shape[0]]).normal(size=s.shape)


# Of a vector, what has one launch whatever the lengths. Those of `LOOPED` are taken one by one on the host.
REDUCED = ("argmax", "argmin", "logsumexp", "max", "mean", "min", "norm", "std", "sum", "var")
SAME_LENGTH = ("argsort", "cumsum", "flip", "log_softmax", "softmax")
VECTORS = {
    **{name: lambda s, name=name: getattr(lf, name)(s) for name in (*REDUCED, *SAME_LENGTH)},
    **{
        f"{name}, kept": lambda s, name=name: getattr(lf, name)(s, keepdims=True)
        for name in ("argmax", "logsumexp", "var")
    },
    "norm of absolute values": lambda s: lf.norm(s, ord=1),
    "norm of the largest": lambda s: lf.norm(s, ord=float("inf")),
    "variance of many": lambda s: lf.var(lf.concatenate([s, s * 2]), ddof=1),
    "pad": lambda s: lf.pad(s, (1, 2)),
    "pad by numbers": lambda s: lf.pad(s, (0, 1), constant_value=2.5),
    "cross_entropy": lambda s: lf.cross_entropy(s, s.shape[0] // 2),
    "cross_entropy of what is computed": lambda s: lf.cross_entropy(s, lf.argmin(s)),
    "nll": lambda s: F.nll_loss(s, s.shape[0] // 2),
    "pick": lambda s: lf.pick(s, -1),
    "times a constant": lambda s: s * own(s),
    "a constant less it": lambda s: own(s) - s,
    "a constant of integers": lambda s: s + np.arange(s.shape[0]),
    "masked": lambda s: lf.where(own(s) > 0, s, -1e9),
    "attention with a mask": lambda s: lf.softmax(lf.where(own(s) > 0, s, -1e9)),
    "masked by what is computed of constants": lambda s: lf.where(lf.constant(own(s)) * 2.0 > 0.5, s, 0.0),
    **{
        f"{name} by {reduction}": lambda s, name=name, reduction=reduction: getattr(lf, name)(
            lf.sigmoid(s), (own(s) > 0) * 0.9, reduction=reduction
        )
        for name in ("mse", "bce_with_logits", "huber")
        for reduction in ("mean", "sum", "none")
    },
    "binary_cross_entropy": lambda s: F.binary_cross_entropy(lf.sigmoid(s), lf.constant((own(s) > 0) * 0.9)),
    "divergence": lambda s: F.kl_div(lf.log_softmax(s), np.ones(s.shape) / s.shape[0]),
    "dropout": lambda s: lf.dropout(s, 0.5),
    "noise": lambda s: s + lf.normal(shape=s.shape),
    "astype": lambda s: s.astype("float32"),
    "by segments": lambda s: lf.segment_sum(s, np.arange(s.shape[0]) // 2, 8),
    "concatenate": lambda s: lf.concatenate([s, s * 2]),
    "concatenate with constants": lambda s: lf.concatenate([s, lf.constant(own(s))]),
    "backwards, then what joins": lambda s: lf.tanh(lf.flip(s)) * s * own(s),
}
LOOPED = {
    **{name: lambda s, name=name: getattr(lf, name)(s) for name in ("prod", "sparsemax")},
    "topk": lambda s: lf.topk(s, 1)[0],
    "places of topk": lambda s: lf.topk(s, 1)[1],
    "any": lambda s: lf.any(s > 0),
    "pad by what is reflected": lambda s: lf.pad(lf.concatenate([s, s]), (1, 0), mode="reflect"),
    "shift": lambda s: lf.concatenate([s[1:], s[:1]]),
    "roll": lambda s: lf.roll(s, 1),
    "slice": lambda s: s[::-1],
    "dot": lambda s: s @ s,
    "repeat": lambda s: lf.repeat(s, 2),
    "looped, then what joins": lambda s: lf.tanh(lf.roll(s, 1)) * s + own(s),
    "cross_entropy with probabilities": lambda s: lf.cross_entropy(s, lf.constant(np.ones(s.shape) / s.shape[0])),
}
EVERY = {**VECTORS, **LOOPED}


def computed(f, table, lengths):
    """Of each example its scores, and what is computed of them; ``table`` has the rows of all."""
    ends = itertools.pairwise(np.cumsum([0, *lengths]).tolist())
    rows = [lf.embedding(table, np.arange(low, high)) for low, high in ends]
    return [f(lf.sum(x * 1.5, axis=1)) for x in rows]


def table_of(lengths, kind="plain", seed=0):
    rng = np.random.default_rng(seed)
    size = sum(lengths), D
    if kind == "plain":
        return lf.Parameter(rng.normal(size=size))
    if kind == "ties":
        return lf.Parameter(rng.integers(-1, 2, size) * np.array([1.0, 0, 0]))
    special = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], size[0])
    return lf.Parameter(np.stack([special, *np.zeros((D - 1, size[0]))], axis=1))


def launches(f, lengths):
    return lf.explain(computed(f, table_of(lengths), lengths), groups=99)


def found_of(f, lengths, batching, kind="plain"):
    """Values, and the gradient of a loss of all."""
    lf.seed(3)
    table = table_of(lengths, kind)
    with lf.using(batching=batching), np.errstate(all="ignore"):
        found = computed(f, table, lengths)
        if found[0].requires_grad:
            lf.sum([lf.sum(lf.sin(y)) for y in found]).backward()
        slopes = 0.0 if table.grad is None else table.grad.to_dense()
        return [y.numpy() for y in found], slopes


def assert_same(found, expected):
    (values, slopes), (right, steep) = found, expected
    for a, b in zip(values, right, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9 if a.dtype != "float32" else 1e-6, atol=1e-11)
    np.testing.assert_allclose(slopes, steep, rtol=1e-9, atol=1e-9)


@pytest.mark.host
@pytest.mark.parametrize("name", EVERY)
def test_lengths_share_launches(name):
    one, many = (launches(EVERY[name], lengths) for lengths in ([12], LENGTHS))
    assert many.launches <= one.launches + 1, many


@pytest.mark.parametrize("name", VECTORS)
def test_operations_by_parts_share_launches_where_nothing_is_taken_one_by_one(name):
    """As on a device, or where each length has many nodes."""
    f, few = VECTORS[name], range(1, 5)
    one, many = (launches(f, lengths) for lengths in ([4], [*few] * (MOST_LOOPED + 1)))
    assert many.launches <= one.launches + 1, many


@pytest.mark.parametrize("kind", ["plain", "ties", "special"])
@pytest.mark.parametrize("name", EVERY)
def test_values_and_gradients_are_as_one_example_at_a_time(name, kind):
    for lengths in ([2, 1, 5, 3, 1, 9, 2], [1, 2] * 3, [3, 3, 3]):
        assert_same(found_of(EVERY[name], lengths, "phases", kind), found_of(EVERY[name], lengths, "none", kind))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint64", "float16", "float32"])
def test_orders_of_any_dtype(dtype):
    rng = np.random.default_rng(1)
    low = 2**63 - 4 if dtype == "uint64" else 0
    given = [lf.constant(rng.integers(low, low + 8, (n, 2), np.uint64).astype(dtype)) for n in (40, 3, 7, 1, 300)]
    found = [lf.argsort(x, axis=0) for x in given]
    lf.forward(found)
    for y, x in zip(found, given, strict=True):
        np.testing.assert_array_equal(y.numpy(), np.argsort(x.numpy(), axis=0, kind="stable"))


NUMERIC = ("logsumexp", "max", "norm", "norm of absolute values", "norm of the largest", "pad", "std", "var", "softmax")


@pytest.mark.parametrize("name", NUMERIC)
def test_gradients_are_those_of_differences(name):
    lengths, step = [3, 5, 4, 2], 1e-6
    table = table_of(lengths)
    lf.sum([lf.sum(lf.sin(y)) for y in computed(EVERY[name], table, lengths)]).backward()
    slopes, rows = table.grad.to_dense(), table.numpy().copy()

    def loss(i, off):
        moved = rows.copy()
        moved[i, 0] += off
        return sum(np.sin(y.numpy()).sum() for y in computed(EVERY[name], lf.Parameter(moved), lengths))

    for i in range(len(rows)):
        assert abs(slopes[i, 0] - (loss(i, step) - loss(i, -step)) / (2 * step)) < 1e-7


EMPTY = ("cumsum", "flip", "sum", "times a constant", "masked", "dropout", "mse by sum", "mse by none", "astype", "any")


@pytest.mark.parametrize("name", [*EMPTY, "prod", "dot", "pad"])
def test_vectors_of_no_elements(name):
    for lengths in ([0, 2, 1, 4, 0], [0, 1], [0, 3, 5, 7]):
        assert_same(found_of(EVERY[name], lengths, "phases"), found_of(EVERY[name], lengths, "none"))


# What random programs are made of: from a vector another one.
STEPS = {
    "tanh": lf.tanh,
    "softmax": lf.softmax,
    "running": lambda s: lf.cumsum(s) * 0.3,
    "flip": lf.flip,
    "shifted": lambda s: lf.roll(s, 1),
    "less logsumexp": lambda s: s - lf.logsumexp(s),
    "constant": lambda s: s * own(s, 1),
    "masked": lambda s: lf.where(own(s, 2) > 0, s, 0.5),
    "largest": lambda s: s + lf.max(s),
    "position": lambda s: s * (lf.argmax(s) + 1),
    "order": lambda s: s + lf.argsort(s) * 0.1,
    "norm": lambda s: s / (lf.norm(s) + 1.0),
    "dropout": lambda s: lf.dropout(s, 0.3),
    "cast": lambda s: (s > 0).astype("float64") + s,
    "loss": lambda s: s * lf.tanh(lf.mse(s, own(s, 3))),
    "class": lambda s: s + lf.tanh(lf.cross_entropy(s, 0)),
    "read": lambda s: s[np.arange(s.shape[0])[::-1] // 2],
    "parts": lambda s: lf.concatenate([s[1:], s[:1] * 2]),
    "segments": lambda s: lf.segment_softmax(s, np.arange(s.shape[0]) // 3, 9),
}


def program(seed):
    names = np.random.default_rng(seed).choice(sorted(STEPS), 4)

    def run(s):
        for name in names:
            s = STEPS[name](s)
        return s

    return run


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_of_vectors(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 20, rng.integers(2, 12)).tolist()
    expected = found_of(program(seed), lengths, "none")
    for batching in ("phases", "levels", "frontier", "depth"):
        assert_same(found_of(program(seed), lengths, batching), expected)


def test_hidden_states_of_several_sizes_stay_batches():
    """Vectors that are computed of no rows: each size is a batch of as many nodes as there are."""
    sizes = (4, 6, 9)
    layers = [lf.Parameter(np.eye(n)) for n in sizes]
    states = [lf.tanh(W @ lf.constant(np.ones(len(W.numpy())) * k)) for W in layers for k in range(4)]
    found = [lf.dropout(lf.softmax(lf.flip(h)), 0.5) * own(h) for h in states]
    groups = lf.explain(found, groups=99).groups
    assert not [g.signature for g in groups if g.signature.startswith(("rows of", "each of"))]

"""Attention in the core, with every instruction set that this processor has, beside NumPy."""

import numpy as np
import pytest

from lazyflow.core import machine

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("instruction_set")
# Widths of keys and values: of no whole vector, of some, and between.
WIDTHS = [(1, 1), (3, 5), (8, 8), (16, 32), (17, 40)]


def of_one_head(q, k, v, g, causal, added=0.0, kept=1.0):
    """Result, cotangents, and those of what is ``added`` to scores, in float64; ``kept``: factors of the weights."""
    q, k, v, g = (x.astype(float) for x in (q, k, v, g))
    scale = 1 / np.sqrt(q.shape[1])
    scores = q @ k.T * scale
    scores = np.where(np.tri(*scores.shape, dtype=bool), scores, -np.inf) if causal else scores
    scores = scores + added
    top = scores.max(1, keepdims=True)
    weights = np.exp(scores - np.where(top > -np.inf, top, 0))
    weights /= np.where(top > -np.inf, weights.sum(1, keepdims=True), 1)
    of_weights, left = g @ v.T * kept, weights * kept
    slopes = weights * (of_weights - (weights * of_weights).sum(1, keepdims=True))
    return left @ v, slopes * scale @ k, slopes.T * scale @ q, left.T @ g, slopes


def in_numpy(operands, ends, heads, causal):
    q, k, v, g = operands
    out, *to = (np.empty(x.shape) for x in (g, q, k, v))
    starts = np.concatenate([[[0], [0]], ends[:, :-1]], 1)
    for (i, j), (to_i, to_j) in zip(starts.T, ends.T, strict=True):
        queries, keys = slice(i, to_i), slice(j, to_j)
        for h in range(heads):
            d, e = q.shape[1] // heads, v.shape[1] // heads
            wide, narrow = slice(h * d, h * d + d), slice(h * e, h * e + e)
            parts = (queries, wide), (keys, wide), (keys, narrow), (queries, narrow)
            *found, _ = of_one_head(*(x[part] for x, part in zip(operands, parts, strict=True)), causal)
            for target, part, value in zip((out, *to), (parts[3], *parts[:3]), found, strict=True):
                target[part] = value
    return [out, *to]


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nodes_of_any_lengths(dtype, heads, causal):
    rng = np.random.default_rng(heads)
    for d, e in WIDTHS:
        rows, keys = np.array([0, 1, 3, 70, 130, 2]), rng.integers(1, 80, 6)
        keys[:2] = 1, 16
        ends = np.stack([rows.cumsum(), keys.cumsum()])
        shapes = (rows.sum(), d), (keys.sum(), d), (keys.sum(), e), (rows.sum(), e)
        q, k, v, g = (rng.normal(size=(n, heads * width)).astype(dtype) for n, width in shapes)
        out, to = np.empty_like(g), (np.empty_like(q), np.ones_like(k), np.ones_like(v))
        how = heads, causal, d**-0.5
        machine.attend(how, ends, q, k, v, out)
        machine.attend(how, ends, q, k, v, g, to)
        expected = in_numpy((q, k, v, g), ends, heads, causal)
        expected[2:] = [x + 1 for x in expected[2:]]  # they are added
        bound = 2e-4 if dtype == "float32" else 1e-11
        for found, right in zip((out, *to), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=bound, atol=bound)


@pytest.mark.parametrize("each", [True, False], ids=["of each", "of all"])
@pytest.mark.parametrize("of", ["keys", "all", "heads"])
@pytest.mark.parametrize("says", ["seen", "hidden", "added"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks_and_factors(dtype, says, of, each):
    """Of every node its own, or one for nodes of one size; the last query of two sees nothing."""
    rng, heads, d, e = np.random.default_rng(8), 2, 3, 5
    rows, keys = (np.array([3, 1, 70]), np.array([5, 2, 17])) if each else (np.full(3, 4), np.full(3, 6))
    ends, own = np.stack([rows.cumsum(), keys.cumsum()]), range(3) if each else range(1)
    widths = (rows.sum(), d), (keys.sum(), d), (keys.sum(), e), (rows.sum(), e)
    q, k, v, g = (rng.normal(size=(n, heads * w)).astype(dtype) for n, w in widths)
    sizes = [{"keys": (1, 1, m), "all": (1, n, m), "heads": (heads, n, m)}[of] for n, m in zip(rows, keys, strict=True)]
    masks = [rng.random(sizes[i]) < 0.6 for i in own]
    for mask in masks:
        mask[:, -1] = mask[:, -1] if of == "keys" else says == "hidden"
    if says == "added":
        masks = [np.where(mask, rng.normal(size=mask.shape), -np.inf).astype(dtype) for mask in masks]
    kept = [rng.choice([0, 2.0], (heads, rows[i], keys[i])).astype(dtype) for i in own]
    to = (np.empty_like(q), np.zeros_like(k), np.zeros_like(v), np.empty(heads * (rows * keys).sum(), dtype))
    how, out = (heads, of == "all", d**-0.5), np.empty_like(g)
    flat = {
        "mask": (says, of, each, np.concatenate([x.ravel() for x in masks])),
        "kept": (each, np.concatenate([x.ravel() for x in kept])),
    }
    machine.attend(how, ends, q, k, v, out, **flat)
    machine.attend(how, ends, q, k, v, g, to, **flat)
    bound, pairs = 2e-4 if dtype == "float32" else 1e-11, 0
    for node, (n, m) in enumerate(zip(rows, keys, strict=True)):
        mask, factors = masks[node if each else 0], kept[node if each else 0]
        added = mask if says == "added" else np.where(mask == (says == "seen"), 0, -np.inf)
        queries, their = (slice(end[node] - size, end[node]) for end, size in zip(ends, (n, m), strict=True))
        for h in range(heads):
            wide, narrow = slice(h * d, h * d + d), slice(h * e, h * e + e)
            given = q[queries, wide], k[their, wide], v[their, narrow], g[queries, narrow]
            right = of_one_head(*given, how[1], np.broadcast_to(added, (heads, n, m))[h], factors[h])
            mine = to[3][pairs : pairs + n * m].reshape(n, m)
            found = out[queries, narrow], to[0][queries, wide], to[1][their, wide], to[2][their, narrow], mine
            for a, b in zip(found, right, strict=True):
                np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
            pairs += n * m


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_weights_by_themselves(dtype, causal):
    """As products with values that are a matrix of ones along its diagonal, one node at a time."""
    rng, heads, d = np.random.default_rng(4), 2, 3
    rows, keys = np.array([3, 1, 70]), np.array([5, 2, 17])
    ends, how = np.stack([rows.cumsum(), keys.cumsum()]), (heads, causal, d**-0.5)
    q, k = (rng.normal(size=(n.sum(), heads * d)).astype(dtype) for n in (rows, keys))
    cells = heads * (rows * keys).sum()
    kept, given, weights = (x.astype(dtype) for x in (rng.choice([0, 2.0], cells), *rng.normal(size=(2, cells))))
    none = [np.empty((len(x), 0), dtype) for x in (q, k)]
    to = np.zeros_like(q), np.zeros_like(k), None
    machine.attend(how, ends, q, k, none[1], none[0], kept=(True, kept), weights=weights)
    machine.attend(how, ends, q, k, none[1], none[0], to, kept=(True, kept), weights=given)
    begin, bound = 0, 2e-5 if dtype == "float32" else 1e-12
    for node, (n, m) in enumerate(zip(rows, keys, strict=True)):
        queries, their = (slice(end[node] - size, end[node]) for end, size in zip(ends, (n, m), strict=True))
        for h in range(heads):
            own, wide = slice(begin, begin + n * m), slice(h * d, h * d + d)
            share, factors = given[own].reshape(n, m), kept[own].reshape(n, m)
            right = of_one_head(q[queries, wide], k[their, wide], np.eye(m), share, causal, kept=factors)
            found = weights[own].reshape(n, m), to[0][queries, wide], to[1][their, wide]
            for a, b in zip(found, right[:3], strict=True):
                np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
            begin += n * m
    with pytest.raises(ValueError, match="do not fit"):
        machine.attend(how, ends, q, k, none[1], none[0], weights=weights[1:].copy())


def test_cotangents_that_nobody_wants():
    rng, ends = np.random.default_rng(1), np.array([[3], [4]])
    q, k, v, g = (rng.normal(size=(n, 4)) for n in (3, 4, 4, 3))
    every = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    machine.attend((2, False, 0.5), ends, q, k, v, g, every)
    for i in range(3):
        some = [None] * 3
        some[i] = np.zeros_like(every[i])
        machine.attend((2, False, 0.5), ends, q, k, v, g, tuple(some))
        np.testing.assert_array_equal(some[i], every[i])


def test_columns_of_a_larger_matrix_are_read_where_they_lie():
    rng, ends = np.random.default_rng(2), np.array([[3, 5], [2, 5]])
    whole = rng.normal(size=(5, 24))
    q, k, v = (whole[:, i : i + 8] for i in (0, 8, 16))
    found, expected = np.empty((5, 16))[:, 8:], np.empty((5, 8))
    machine.attend((2, True, 0.5), ends, q, k, v, found)
    machine.attend((2, True, 0.5), ends, q.copy(), k.copy(), v.copy(), expected)
    np.testing.assert_array_equal(found, expected)


def test_threads_change_no_bit():
    rng, rows = np.random.default_rng(3), np.full(20, 40)
    ends = np.stack([rows.cumsum()] * 2)
    q, k, v, g = (rng.normal(size=(800, 32)).astype("float32") for _ in range(4))

    def run():
        out, to = np.empty_like(g), (np.empty_like(q), np.zeros_like(k), np.zeros_like(v))
        machine.attend((4, False, 0.3), ends, q, k, v, out)
        machine.attend((4, False, 0.3), ends, q, k, v, g, to)
        return out, *to

    alone, before = run(), machine.use_threads(3)
    try:
        shared = run()
    finally:
        machine.use_threads(before)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a, b)


X, ENDS, NONE = np.zeros((3, 4)), np.array([[3], [3]]), np.zeros(9, bool)
MISUSES = {
    "no heads": lambda: machine.attend((0, False, 1.0), ENDS, X, X, X, X),
    "heads that do not fit": lambda: machine.attend((3, False, 1.0), ENDS, X, X, X, X),
    "another width": lambda: machine.attend((1, False, 1.0), ENDS, X, np.zeros((3, 5)), X, X),
    "fewer values": lambda: machine.attend((1, False, 1.0), ENDS, X, X, np.zeros((2, 4)), X),
    "fewer results": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, np.zeros((2, 4))),
    "another dtype": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, np.zeros((3, 4), "float32")),
    "more rows": lambda: machine.attend((1, False, 1.0), np.array([[4], [3]]), X, X, X, X),
    "no keys": lambda: machine.attend((1, False, 1.0), np.array([[1, 3], [3, 3]]), X, X, X, X),
    "rows before others": lambda: machine.attend((1, False, 1.0), np.array([[4, 3], [1, 3]]), X, X, X, X),
    "a mask of fewer": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, X, None, ("seen", "all", True, NONE[:8])),
    "a mask of numbers": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, X, None, ("seen", "all", True, X)),
    "a mask of truths": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, X, None, ("added", "all", True, NONE)),
    "fewer factors": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, X, None, None, (True, np.zeros(8))),
    "cotangents of a smaller mask": lambda: machine.attend(
        (1, False, 1.0), ENDS, X, X, X, X, (None, None, None, np.zeros(8)), ("added", "all", True, np.zeros(9))
    ),
    "places of another size": lambda: machine.attend((1, False, 1.0), ENDS, X, X, X, X, (X[:2], None, None)),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
def test_what_does_not_fit_is_refused(misuse):
    with pytest.raises((TypeError, ValueError)):
        misuse()

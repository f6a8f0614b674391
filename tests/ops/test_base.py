"""Sums are added wider, or pairwise: against float64, of many and of float16 numbers, wherever something is added up.

The bound that is stated (`lazyflow.ops.base.total`) is ``(STRETCH + log2(n)) * eps`` of the sum of sizes, which is 8e-6
in float32.
"""

import itertools

import numpy as np
import pytest

import lazyflow as lf
from tests.places import here

F = lf.nn.functional
MANY = 10**6
CLOSE = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-12}


def close(got, want, dtype):
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=CLOSE[dtype], atol=0)


def numbers(shape, dtype, size=0.1):
    """All of one sign, so that errors of a sum add up and nothing cancels."""
    return (size * np.random.default_rng(3).uniform(0.5, 1.5, shape)).astype(dtype)


REDUCTIONS = {
    "sum": (lf.sum, np.sum),
    "mean": (lf.mean, np.mean),
    "norm": (lf.norm, lambda x, axis: np.sqrt((x * x).sum(axis))),
    "norm of order 1": (lambda x, axis: lf.norm(x, 1, axis), lambda x, axis: abs(x).sum(axis)),
    "var": (lf.var, np.var),
    "std": (lf.std, np.std),
    "logsumexp": (lf.logsumexp, lambda x, axis: np.log(np.exp(x).sum(axis))),
}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("shape", "axis"), [((MANY,), 0), ((MANY, 2), 0), ((2, 20000), 1), ((300, 2, 100), (0, 2))])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, shape, axis, dtype):
    record, reference = REDUCTIONS[name]
    small = dtype == "float16" and name in ("sum", "norm of order 1")  # a million of them are no more than 65504
    x = numbers(shape, dtype, 1e-2 if small else 0.1)
    close(record(lf.constant(x), axis=axis).numpy(), reference(x.astype(np.float64), axis=axis), dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("name", ["sum", "mean"])
def test_lists(name, dtype):
    """Of equal and of unequal numbers of operands, which are two ways to add."""
    x = numbers((3000, 2), dtype)
    operands = [lf.constant(row) for row in x]
    for lengths in ([3000], [2500, 500], [100, 2900]):
        ends = np.cumsum([0, *lengths])
        found = [getattr(lf, name)(operands[a:b]) for a, b in itertools.pairwise(ends)]
        lf.sum(found).forward()
        for got, (a, b) in zip(found, itertools.pairwise(ends), strict=True):
            close(got.numpy(), getattr(np, name)(x[a:b].astype(np.float64), axis=0), dtype)


def test_a_million_vectors():
    vectors = [lf.constant(np.full(2, 0.1, np.float32))] * MANY
    np.testing.assert_allclose(lf.sum(vectors).numpy(), 1e5, rtol=1e-5)
    np.testing.assert_allclose(lf.mean(vectors).numpy(), 0.1, rtol=1e-5)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("shape", "axis"), [((MANY,), 0), ((20000, 2), 0), ((2, 20000), None)])
def test_running_sums(shape, axis, dtype):
    x = numbers(shape, dtype, 1e-3 if dtype == "float16" else 0.1)
    want = np.cumsum(x.astype(np.float64), axis=axis)
    got = lf.cumsum(lf.constant(x), axis=axis).numpy()
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=max(CLOSE[dtype], 1e-10))


def test_float16_does_not_overflow_on_the_way():
    x = np.full(70000, 2.0, np.float16)
    assert lf.mean(lf.constant(x)).item() == 2.0
    assert lf.mean([lf.constant(np.float16(60000.0))] * 3).item() == 60000.0
    np.testing.assert_allclose(lf.norm(lf.constant(np.full(4, 300.0, np.float16))).item(), 600.0)
    np.testing.assert_allclose(lf.std(lf.constant(np.array([-600.0, 600.0], np.float16))).item(), 600.0)
    big = np.array([-3000.0, 0.0, 3000.0], np.float16)
    want = (big / np.sqrt((big.astype(np.float64) ** 2).mean())).astype(np.float16)
    np.testing.assert_allclose(F.layer_norm(lf.constant(big), 3).numpy(), want, rtol=2e-3)
    np.testing.assert_allclose(F.rms_norm(lf.constant(big), 3).numpy(), want, rtol=2e-3)
    np.testing.assert_allclose(F.group_norm(lf.constant(big.reshape(1, 3)), 1).numpy()[0], want, rtol=2e-3)


@pytest.mark.parametrize("size", [100, 5000, 60000])
def test_softmax_of_many_float16(size):
    x = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float16)
    exact = np.exp(x.astype(np.float64))
    exact /= exact.sum()
    np.testing.assert_allclose(lf.softmax(lf.constant(x)).numpy(), exact, rtol=2e-3, atol=6e-8)
    np.testing.assert_allclose(lf.log_softmax(lf.constant(x)).numpy(), np.log(exact), rtol=2e-3)
    np.testing.assert_allclose(lf.cross_entropy(lf.constant(x), 3).item(), -np.log(exact[3]), rtol=2e-3)
    np.testing.assert_allclose(lf.logsumexp(lf.constant(x)).item(), np.log(np.exp(x.astype(float)).sum()), rtol=2e-3)


@pytest.mark.host  # the order in which a BLAS adds
@pytest.mark.parametrize("dtype", CLOSE)
def test_gradients_added_over_many_rows(dtype):
    count = 20000
    x = numbers((count, 3), dtype, 1e-3 if dtype == "float16" else 0.1)
    wide = x.astype(np.float64)
    w = lf.Parameter(np.ones((2, 3), dtype))
    b = lf.Parameter(np.zeros(2, dtype))
    scale = lf.Parameter(np.ones(3, dtype))
    y = lf.affine(w, b, lf.constant(x) * scale)
    y.backward(np.full(y.shape, 1e-3, dtype))
    step = float(np.array(1e-3, dtype))
    close(w.grad, np.tile(wide.sum(0) * step, (2, 1)), dtype)
    close(b.grad, np.full(2, count * step), dtype)
    close(scale.grad, 2 * wide.sum(0) * step, dtype)


@pytest.mark.parametrize("dtype", CLOSE)
def test_gradients_added_over_many_examples(dtype):
    count = 5000
    x = numbers((count, 3), dtype, 1e-2)
    wide = x.astype(np.float64).sum(0)
    w, b, scale = (lf.Parameter(np.ones(s, dtype)) for s in ((2, 3), (2,), (3,)))
    lf.sum([lf.sum(lf.affine(w, b, lf.constant(row) * scale)) for row in x]).backward()
    close(w.grad, np.tile(wide, (2, 1)), dtype)
    close(b.grad, np.full(2, count), dtype)
    close(scale.grad, 2 * wide, dtype)


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("width", [1, 40])
def test_rows_of_one_word(width, dtype):
    count = 30000
    factors = numbers((count,), dtype, 1e-3)
    table = lf.Parameter(np.ones((3, width), dtype))
    rows = lf.embedding(table, np.ones(count, np.int64)) * factors[:, None]
    lf.sum(rows).backward()
    want = factors.astype(np.float64).sum()
    np.testing.assert_allclose(table.grad.to_dense()[1], want, rtol=max(CLOSE[dtype], 1e-11))


def test_norms_of_gradients():
    w = lf.Parameter(np.zeros(MANY, np.float32))
    for dtype in (np.float32, np.float16):
        gradient = numbers(MANY, np.float32).astype(dtype)
        w.grad = here(gradient)
        want = np.sqrt((gradient.astype(np.float64) ** 2).sum())
        np.testing.assert_allclose(lf.optim.grad_norm([w]), want, rtol=1e-5)


@pytest.mark.parametrize("dtype", CLOSE)
def test_products(dtype):
    size = 1e-3 if dtype == "float16" else 0.1
    a, b = numbers((2, 20000), dtype, size), numbers((20000, 3), dtype, size)
    wide = a.astype(np.float64) @ b.astype(np.float64)
    close(lf.matmul(lf.constant(a), lf.constant(b)).numpy(), wide, dtype)
    close(lf.dot(lf.constant(a[0]), lf.constant(b[:, 0])).numpy(), wide[0, 0], dtype)
    close(
        lf.einsum("ij,kl->j", lf.constant(b), lf.constant(b[:1])).numpy(),
        b.astype(float).sum(0) * b[0].astype(float).sum(),
        dtype,
    )

"""Reductions at zeros, ties, infinities and equal elements, where numeric derivatives cannot judge."""

import itertools
import math

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops import OPS


def gradient(name, x, g=None, **attrs):
    """The vjp of the first operand, for one example."""
    op, x = OPS[name], np.asarray(x, float)
    result = op.infer(x, **attrs)
    y = np.broadcast_to(op.forward(np, x[None], **result.static), (1, *result.shape))
    g = np.ones(y.shape) if g is None else np.asarray(g, float)[None]
    return np.broadcast_to(op.vjps[0](np, g, y, x[None], **result.static), (1, *x.shape))[0].tolist()


@pytest.mark.parametrize(
    ("name", "x", "attrs", "want"),
    [
        ("max", [1.0, 1.0, 0.0], {}, [0.5, 0.5, 0.0]),
        ("min", [[1.0, 1.0], [0.0, 2.0]], {"axis": 1}, [[0.5, 0.5], [1.0, 0.0]]),
        ("max", [-math.inf, -math.inf], {}, [0.5, 0.5]),
        ("norm", [0.0, 0.0], {}, [0.0, 0.0]),
        ("norm", [0.0, 0.0], {"ord": 1}, [0.0, 0.0]),
        ("norm", [0.0, 0.0], {"ord": math.inf}, [0.0, 0.0]),
        ("norm", [3.0, -3.0, 1.0], {"ord": math.inf}, [0.5, -0.5, 0.0]),
        ("std", [2.0, 2.0], {}, [0.0, 0.0]),
        ("var", [2.0, 2.0], {}, [0.0, 0.0]),
        ("prod", [0.0, 2.0, 3.0], {}, [6.0, 0.0, 0.0]),
        ("prod", [0.0, 0.0, 3.0], {}, [0.0, 0.0, 0.0]),
        ("logsumexp", [-math.inf, 0.0], {}, [0.0, 1.0]),
        ("logsumexp", [800.0, 800.0], {}, [0.5, 0.5]),
    ],
)
def test_gradients_at_ties_and_zeros(name, x, attrs, want):
    np.testing.assert_allclose(gradient(name, x, **attrs), want, rtol=1e-12)


def test_masked_scores_have_no_probability():
    x = np.array([[-math.inf, 0.0, 0.0]])
    assert OPS["softmax"].forward(np, x, axis=-1).tolist() == [[0.0, 0.5, 0.5]]
    assert OPS["log_softmax"].forward(np, x, axis=-1)[0, 0] == -math.inf


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["std", "var"])
def test_equal_elements_do_not_spread(name, dtype):
    """However their mean rounds: nothing of it may become a slope."""
    for value, count in itertools.product(np.random.default_rng(41).normal(size=20).astype(dtype), (2, 3, 5, 7, 10)):
        x = lf.Parameter(np.full((count, 2), value))
        y = getattr(lf, name)(x * 1.0, axis=0)
        lf.sum(y).backward()
        assert (y.numpy() == 0).all() and (x.grad == 0).all()
        assert (lf.gradients(lf.sum(getattr(lf, name)(x * 1.0)), [x])[0].numpy() == 0).all()


@pytest.mark.parametrize("name", ["std", "var"])
@pytest.mark.parametrize(
    "x", [[-3e38, 3e38], [3e38, -3e38, 1.0], [np.inf, 1.0], [1.0, np.inf], [np.nan, 1.0], [-np.inf, np.inf]]
)
def test_spreads_that_overflow_are_those_of_numpy(name, x):
    x = np.array(x, np.float32)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x)
    np.testing.assert_array_equal(getattr(lf, name)(lf.constant(x)).numpy(), want)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_the_spread_of_what_lies_far_from_zero(offset):
    x = np.random.default_rng(42).normal(size=(4, 50)).astype(np.float32) + np.float32(offset)
    np.testing.assert_allclose(lf.std(lf.constant(x), axis=1).numpy(), x.astype(float).std(axis=1), rtol=1e-6)


def test_the_gradient_of_a_product_in_half_precision_is_rounded_once():
    """Products of a few factors are below the normal numbers of float16, where each rounding takes digits."""
    x = np.random.default_rng(43).uniform(0.005, 0.05, (200, 4)).astype(np.float16)
    p = lf.Parameter(x)
    lf.sum(lf.prod(p, axis=1), axis=0).backward(np.float16(1))
    exact = np.prod(x.astype(float), axis=1, keepdims=True) / x.astype(float)
    np.testing.assert_allclose(p.grad.astype(float), exact, rtol=2**-10, atol=2**-25)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logsumexp_keeps_what_is_small_beside_one(dtype):
    x = np.array([[0, -30], [0, -80], [-1, -31], [3, 3], [-np.inf, -np.inf], [np.inf, 0], [-np.inf, 2]], dtype)
    want = np.logaddexp(*x.astype(float).T)
    np.testing.assert_allclose(lf.logsumexp(lf.constant(x), axis=1).numpy(), want, rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(lf.logsumexp(lf.constant(np.array([0, np.nan], dtype))).item())

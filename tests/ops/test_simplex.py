"""Distributions that may be zero, or bounded."""

import itertools

import numpy as np
import pytest

import lazyflow as lf


def test_no_bound_is_exceeded_where_they_sum_to_less_than_one():
    upper = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(lf.constrained_softmax(lf.constant([5.0, 0.0, -9.0]), upper).numpy(), upper)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_class_at_its_bound_does_not_make_the_others_vanish(dtype):
    """However far above them it is: weights are relative to the largest of those that share what is left."""
    x, upper = lf.Parameter(np.array([0, 1, 400, 900], dtype)), np.array([1.0, 1.0, 0.25, 0.25], dtype)
    y = lf.constrained_softmax(x, upper)
    odds = 1 / (1 + np.exp([1.0, -1.0]))
    tolerance = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y.numpy(), [*(odds / 2), 0.25, 0.25], rtol=tolerance)
    y[0].backward()
    slope = odds[0] * odds[1] / 2
    np.testing.assert_allclose(x.grad, [slope, -slope, 0, 0], rtol=2 * tolerance)


@pytest.mark.parametrize("f", [lf.sparsemax, lambda x: lf.constrained_softmax(x, np.full(3, 0.6))])
def test_distributions_sum_to_one(f):
    for scores in itertools.product([-50.0, 0.0, 0.4, 90.0], repeat=3):
        np.testing.assert_allclose(f(lf.constant(np.array(scores))).numpy().sum(), 1.0, rtol=1e-12)

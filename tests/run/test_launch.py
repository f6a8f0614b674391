"""Launches: bound once for all runs, and what they read is added back where it was read."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.plan.plans import Plans
from lazyflow.run import forward


@pytest.fixture
def w():
    return lf.Parameter(np.array([1.0, -2.0, 3.0]))


@pytest.mark.parametrize("indices", [[1], [1, 1, 0]])
def test_looking_up_in_a_computed_table(w, indices):
    table = lf.outer(w, w)
    lf.sum([lf.sum(lf.embedding(table, i)) for i in indices]).backward()
    v = w.numpy()
    expected = np.zeros(3)
    for i in indices:
        expected += v[i]
        expected[i] += v.sum()
    np.testing.assert_allclose(w.grad, expected)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_overlapping_windows_add_their_gradients(step):
    w = lf.Parameter(np.arange(12.0))
    x = w * 1.0
    parts = [lf.tanh(x[k : k + 3]) for k in (0, step, 4, 7, 4)]
    lf.sum(parts).backward(np.ones(3))
    expected = np.zeros(12)
    for k in (0, step, 4, 7, 4):
        expected[k : k + 3] += 1 - np.tanh(np.arange(k, k + 3.0)) ** 2
    np.testing.assert_allclose(w.grad, expected)


W0 = np.random.default_rng(3).normal(size=(4, 4))


VECTORS = np.random.default_rng(5).normal(size=(8, 4))


@pytest.fixture
def plans(monkeypatch):
    """Plans of one's own, kept at once."""
    own = Plans(once=True)
    monkeypatch.setattr(forward, "PLANS", own)
    return own


def test_launches_are_bound_once_for_all_runs_of_a_plan(plans):
    W = lf.Parameter(W0)
    found = []
    for k in range(4):
        h = lf.tanh(W @ lf.constant(VECTORS[k]))
        h.forward()
        lf.sum(h).backward()
        found.append(h.tape.runs[0].plan.bound)
        np.testing.assert_allclose(h.numpy(), np.tanh(W0 @ VECTORS[k]))
    assert found[1]["launches"] is found[2]["launches"] is found[3]["launches"]


def test_zeros_of_both_signs_in_one_launch():
    xs = [lf.constant(np.array([1.0])) * 1.0 for _ in range(2)]
    with np.errstate(divide="ignore"):
        values = lf.forward([xs[0] / 0.0, xs[1] / -0.0])
    assert [float(v[0]) for v in values] == [np.inf, -np.inf]


@pytest.mark.parametrize("use", [lambda b, W, x: lf.affine(W, b, x), lambda b, W, x: b + x])
def test_a_float16_gradient_of_many_nodes(use):
    b, W = lf.Parameter(np.zeros(2, np.float16)), lf.Parameter(np.zeros((2, 2), np.float16))
    x = lf.constant(np.ones(2, np.float16))
    lf.sum([lf.sum(use(b, W, x * 1.0)) for _ in range(3000)]).backward()
    assert b.grad.tolist() == [3000.0, 3000.0]

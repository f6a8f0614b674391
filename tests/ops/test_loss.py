"""Losses at infinities, of no rows, and of classes that are none, where numeric derivatives cannot judge."""

import numpy as np
import pytest

from lazyflow import core, device
from lazyflow.ops import OPS


@pytest.mark.parametrize("name", ["cross_entropy", "nll", "hinge"])
def test_an_index_out_of_range_that_only_the_kernel_sees(name):
    op = OPS[name]
    scores, index = np.zeros((2, 3)), np.array([0, 3])
    result = op.infer(scores[0], index[0])
    with pytest.raises(IndexError, match="class 3 is out of range for 3 scores"):
        op.forward(np, scores, index, **result.static)


def test_cross_entropy_far_from_zero():
    logits, index = np.array([[1e4, -1e4, 0.0]]), np.array([1])
    static = OPS["cross_entropy"].infer(logits[0], index[0]).static
    assert OPS["cross_entropy"].forward(np, logits, index, **static).tolist() == [2e4]
    vjp = OPS["cross_entropy"].vjps[0]
    assert vjp(np, np.ones(1), np.ones(1), logits, index, **static).tolist() == [[1.0, -1.0, 0.0]]


def test_losses_of_no_rows_can_be_summed():
    scores, index = np.zeros((0, 3)), np.zeros(0, int)
    result = OPS["cross_entropy"].infer(scores, index, reduction="sum")
    assert OPS["cross_entropy"].forward(np, scores[None], index[None], **result.static).tolist() == [0.0]


SPECIAL = np.array([[1.0, np.nan, 2.0], [np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf, -np.inf, -np.inf], [1e4, 3, -1e4]])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [1, 2, 5, 16, 100])
def test_rows_of_the_core_like_numpy(classes, dtype, monkeypatch):
    """The core's loop and the NumPy calls agree, also beyond the numbers."""
    rng = np.random.default_rng(classes)
    scores = rng.normal(size=(20, classes)).astype(dtype) * 3
    if classes == 5:
        scores = np.concatenate([scores, np.concatenate([SPECIAL, SPECIAL[:, :2]], axis=1).astype(dtype)])
    index, g = rng.integers(0, classes, len(scores)), rng.normal(size=len(scores)).astype(dtype)
    op, static = OPS["cross_entropy"], OPS["cross_entropy"].infer(scores[0], index[0]).static
    found = []
    for machine in (core.machine, None):
        monkeypatch.setattr(core, "machine", machine)
        y = op.forward(np, scores, index, **static)
        found.append((y, op.vjps[0](np, g, y, scores, index, **static)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-6)


@pytest.mark.gpu
def test_classes_may_stand_apart():
    """Those of nodes that are evenly spaced in memory come as a view of it."""
    rng = np.random.default_rng(3)
    scores, index, g = rng.normal(size=(4, 5)), rng.integers(0, 5, 12)[::3], rng.normal(size=4)
    op, static = OPS["cross_entropy"], OPS["cross_entropy"].infer(scores[0], index[0]).static
    with device.on("cuda:0"):
        xp = device.array_module("cuda:0")
        there = [xp.asarray(scores), xp.asarray(np.repeat(index, 3))[::3]]
        found = op.forward(xp, *there, **static), op.vjps[0](xp, xp.asarray(g), None, *there, **static)
    expected = op.forward(np, scores, index, **static), op.vjps[0](np, g, None, scores, index, **static)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(device.to_host(a), b, rtol=1e-12)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_class_that_is_out_of_range(wrong):
    op, scores, index = OPS["cross_entropy"], np.ones((3, 5), np.float32), np.array([0, wrong, 1])
    static = op.infer(scores[0], index[0]).static
    with pytest.raises(IndexError, match=f"class {wrong} is out of range for 5 scores"):
        op.forward(np, scores, index, **static)
    with pytest.raises(IndexError, match=f"class {wrong} is out of range for 5 scores"):
        op.vjps[0](np, np.ones(3, np.float32), None, scores, index, **static)

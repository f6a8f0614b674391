"""Normalisation over a minibatch: examples of any sizes, and running averages of a graph that runs later."""

import copy
import pickle

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import vectors


def standardised(arrays, eps=1e-5):
    """Arrays (c, ...), all elements of a channel together."""
    flat = np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)
    mean, var = flat.mean(1), flat.var(1)
    shape = (-1, *(1,) * (arrays[0].ndim - 1))
    return [(a - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + eps) for a in arrays], mean, flat.var(1, ddof=1)


def test_examples_of_different_sizes_are_one_minibatch():
    images = vectors(1, (2, 3, 4), (2, 5, 1), (2, 3, 4))
    layer = nn.BatchNorm2d(2)
    wanted, mean, var = standardised(images)
    for ours, theirs in zip(layer([lf.constant(x) for x in images]), wanted, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * var, rtol=1e-5)


def test_the_averages_of_calls_that_ran_and_of_those_that_did_not_run_yet():
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [np.float32(b) for b in vectors(2, (4, 2), (4, 2), (4, 2))]
    lf.sum(layer(batches[0])).backward()
    layer(batches[1])
    layer(batches[2])
    assert layer.num_batches_tracked == 3
    np.testing.assert_allclose(layer.running_mean, np.mean(batches, axis=(0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var, np.var(batches, axis=1, ddof=1).mean(0), rtol=1e-5)


def test_training_does_not_run_the_graph_early():
    layer, head = nn.BatchNorm1d(2), nn.Linear(2, 1)
    for batch in vectors(3, (4, 2), (4, 2)):
        y = head(lf.relu(layer(np.float32(batch))))
        assert not y.tape.runs, "nothing ran while the model was recorded"
        lf.sum(y).backward()


def test_evaluating_uses_the_averages_for_one_example():
    layer = nn.BatchNorm1d(2)
    layer.load_state_dict({
        "weight": np.float32([1, 2]), "bias": np.float32([0, 1]), "running_mean": np.float32([1, 2]),
        "running_var": np.float32([4, 9]), "num_batches_tracked": np.array(5),
    })  # fmt: skip
    layer.eval()
    wanted = [0.5, 3.0]
    for given in (lf.constant([2.0, 5.0]), lf.constant([[2.0, 5.0]])):
        np.testing.assert_allclose(layer(given).numpy().ravel(), wanted, rtol=1e-4)
    (listed,) = layer([lf.constant([2.0, 5.0])])
    np.testing.assert_allclose(listed.numpy(), wanted, rtol=1e-4)
    assert layer.num_batches_tracked == 5


def test_no_grad_and_copies_keep_the_averages():
    layer = nn.BatchNorm1d(2)
    with lf.no_grad():
        layer(np.float32([[1, 2], [3, 6]]))
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    for module in (layer, *twins):
        np.testing.assert_allclose(module.running_mean, [0.2, 0.4], rtol=1e-6)
        assert list(module.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    layer.reset_running_stats()
    assert layer.running_mean.tolist() == [0, 0] and layer.running_var.tolist() == [1, 1]
    assert twins[0].num_batches_tracked == 1


def test_without_averages_there_are_none():
    layer = nn.BatchNorm1d(2, track_running_stats=False, affine=False).eval()
    assert layer.running_mean is None and not layer.state_dict()
    x = np.float32([[1, 2], [3, 6]])
    np.testing.assert_allclose(layer(x).numpy(), [[-1, -1], [1, 1]], rtol=1e-4)
    with pytest.raises(lf.ShapeError, match="list of examples"):
        layer(x[0])


def test_the_batch_is_trained_through():
    """The statistics depend on every example, and so do the gradients."""
    xs = [lf.Parameter(x) for x in vectors(5, (3,), (3,), (3,))]
    with lf.using(dtype="float64"):
        first, *_ = nn.BatchNorm1d(3)(xs)
    lf.sum(first * np.arange(3.0)).backward()
    assert all(np.abs(x.grad[1:]).min() > 1e-6 for x in xs)
    np.testing.assert_allclose(sum(x.grad for x in xs), 0, atol=1e-12)


def test_functional_forms():
    F = nn.functional
    np.testing.assert_allclose(F.normalize(lf.constant([[3.0, 4.0]])).numpy(), [[0.6, 0.8]], rtol=1e-6)
    y = F.batch_norm(lf.constant([[1.0, 3.0]]), [1.0], [4.0], lf.constant([2.0]), lf.constant([1.0]), eps=0.0)
    np.testing.assert_allclose(y.numpy(), [[1.0, 3.0]])

"""Averages of parameters: their numbers, the block that uses them, and checkpoints."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim

RNG = np.random.default_rng(3)
VALUES = RNG.normal(size=(6, 2, 3))


def exponential(values, decay):
    average = values[0]
    for value in values[1:]:
        average = decay * average + (1 - decay) * value
    return average


AVERAGES = {
    "exponential": (lambda p: optim.ExponentialMovingAverage(p, decay=0.7), lambda v: exponential(v, 0.7)),
    "simple": (optim.SimpleAverage, lambda v: v[1:].mean(0)),
}
every = pytest.mark.parametrize("name", AVERAGES)


def followed(name, values=VALUES):
    w = lf.Parameter(values[0])
    average = AVERAGES[name][0]([w])
    for value in values[1:]:
        w.assign(value)
        average.update()
    return w, average


@every
def test_numbers(name):
    w, average = followed(name)
    with average.applied():
        np.testing.assert_allclose(w.numpy(), AVERAGES[name][1](VALUES), rtol=1e-12)
    np.testing.assert_array_equal(w.numpy(), VALUES[-1])
    average.copy_to_parameters()
    np.testing.assert_allclose(w.numpy(), AVERAGES[name][1](VALUES), rtol=1e-12)


@every
def test_without_an_update_nothing_changes(name):
    w, average = followed(name, VALUES[:1])
    with average.applied():
        np.testing.assert_array_equal(w.numpy(), VALUES[0])


@every
def test_a_forward_in_the_block_uses_the_averages(name):
    w, average = followed(name)
    y = lf.sum(w * w)
    outside = y.item()
    with average.applied():
        np.testing.assert_allclose(y.forward().item(), (AVERAGES[name][1](VALUES) ** 2).sum())
    assert y.forward().item() == outside


@every
def test_values_come_back_after_an_error(name):
    w, average = followed(name)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    np.testing.assert_array_equal(w.numpy(), VALUES[-1])
    average.update()


@every
def test_a_stopped_run_goes_on_with_the_same_averages(name, tmp_path):
    _, average = followed(name, VALUES[:4])
    lf.save(tmp_path / "a.safetensors", average=average)
    v = lf.Parameter(np.zeros((2, 3)))
    other = AVERAGES[name][0]([v])
    lf.load(tmp_path / "a.safetensors", average=other)
    for value in VALUES[4:]:
        v.assign(value)
        other.update()
    other.copy_to_parameters()
    np.testing.assert_allclose(v.numpy(), AVERAGES[name][1](VALUES), rtol=1e-12)
    assert len(other.averages) == 1 and other.updates == 5


def test_the_decay_is_saved():
    w = lf.Parameter(VALUES[0])
    other = optim.ExponentialMovingAverage([w], decay=0.1)
    other.load_state_dict(optim.ExponentialMovingAverage([w], decay=0.6).state_dict())
    assert other.decay == 0.6


def test_averages_of_a_trained_model():
    lf.seed(0)
    model = nn.Linear(3, 1)
    optimizer, average = optim.SGD(model.parameters(), lr=0.1), optim.SimpleAverage(model.parameters())
    seen = []
    for x in RNG.normal(size=(5, 3)).astype(np.float32):
        optimizer.zero_grad()
        lf.sum(model(x) ** 2).backward()
        optimizer.step()
        average.update()
        seen.append(model.weight.numpy())
    with average.applied():
        np.testing.assert_allclose(model.weight.numpy(), np.mean(seen, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda w: optim.ExponentialMovingAverage([w], decay=1.0), ValueError, "decay must be at least 0 and below 1"),
        (lambda w: optim.ExponentialMovingAverage([w], decay="0.9"), ValueError, "decay must be"),
        (lambda w: optim.SimpleAverage([]), ValueError, "the list is empty"),
        (lambda w: optim.SimpleAverage(w), TypeError, "expected a list of parameters"),
        (lambda w: optim.SimpleAverage([np.ones(3)]), TypeError, "entry 0 must be a Parameter, got a ndarray"),
        (lambda w: optim.SimpleAverage([w]).load_state_dict({}), lf.CheckpointError, "SimpleAverage"),
        (
            lambda w: optim.SimpleAverage([w]).load_state_dict(optim.SimpleAverage([w, w]).state_dict()),
            lf.CheckpointError,
            "averages.1: not expected",
        ),
        (
            lambda w: optim.SimpleAverage([w]).load_state_dict(optim.ExponentialMovingAverage([w]).state_dict()),
            lf.CheckpointError,
            "that of ExponentialMovingAverage",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(lf.Parameter([1.0]))


def test_blocks_do_not_nest():
    _, average = followed("simple")
    with average.applied():
        with pytest.raises(RuntimeError, match="update\\(\\) within applied"):
            average.update()
        with pytest.raises(RuntimeError, match="applied\\(\\) within applied"), average.applied():
            pass

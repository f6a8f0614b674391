"""The LSTM over sentences is the same model in every library and form: losses, predictions, gradients, training."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import lazyflow_sequence, peers, sentences
from benchmarks.sentences import Sentence
from tests.benchmarks.test_peers import sigmoid

VOCABULARY, DIM, HIDDEN, CLASSES, SEED = 50, 6, 4, 7, 3
NAMES = [*(f"lazyflow {form}" for form in lazyflow_sequence.FORMS), *sorted(peers.SEQUENCE_MODULES)]


def find(name):
    library, _, form = name.partition(" ")
    return lazyflow_sequence.FORMS[form] if library == "lazyflow" else peers.find_sequence(name)


@pytest.fixture(params=[1, 2])
def weights(request):
    drawn = peers.initial_sequence_weights(VOCABULARY, DIM, HIDDEN, CLASSES, SEED, request.param)
    rng = np.random.default_rng(SEED)
    return {name: rng.normal(0, 0.5, array.shape).astype(np.float32) for name, array in drawn.items()}


@pytest.fixture
def batch():
    return [Sentence((3,), (1,)), *sentences.synthetic(5, SEED, VOCABULARY, CLASSES), Sentence((4, 4), (0, 6))]


def reference_logits(weights, words):
    """The formulas of `benchmarks.peers`, in float64 NumPy, word by word."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    columns = []
    for name in [name for name in peers.DIRECTIONS if f"{name}.state" in w]:
        h, c, found = np.zeros(HIDDEN), np.zeros(HIDDEN), []
        for word in words if name == "forward" else words[::-1]:
            gates = w[f"{name}.input"] @ w["embedding"][word] + w[f"{name}.state"] @ h + w[f"{name}.bias"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(i) * np.tanh(g) + sigmoid(f) * c
            h = sigmoid(o) * np.tanh(c)
            found.append(h)
        columns.append(found if name == "forward" else found[::-1])
    return np.array([w["head.weight"] @ np.concatenate(hs) + w["head.bias"] for hs in zip(*columns, strict=True)])


def reference_loss(weights, batch):
    total = 0.0
    for words, labels in batch:
        logits = reference_logits(weights, words)
        total += np.log(np.exp(logits).sum(1)).sum() - logits[np.arange(len(labels)), labels].sum()
    return total / len(batch)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_predictions_are_the_models(name, weights, batch):
    setup = find(name)
    if setup is None:
        pytest.skip(f"{name} is not installed")
    model = setup(weights)
    expected = np.concatenate([reference_logits(weights, s.words).argmax(1) for s in batch])
    assert np.array_equal(model.infer(batch), expected)
    np.testing.assert_allclose(model.train_step(batch), reference_loss(weights, batch), rtol=1e-5)
    assert set(model.watch.take()) >= {"record", "forward", "backward", "update"}


def test_training_moves_all_libraries_alike(weights, batch):
    found = {name: find(name) for name in NAMES}
    if missing := [name for name, setup in found.items() if setup is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    models = [setup(weights) for setup in found.values()]
    steps = batch, batch[:1], batch[::-1], batch[2:]
    losses = np.array([[model.train_step(step) for step in steps] for model in models])
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], losses.shape), rtol=2e-4)


@pytest.mark.peer
def test_by_hand_has_the_gradients_of_autograd(weights, batch):
    by_hand, steps = peers.find_sequence("torch_batched"), peers.find_sequence("torch_steps")
    if by_hand is None or steps is None:
        pytest.skip("torch is not installed")
    loss, gradients = by_hand(weights).loss_and_gradients(batch)
    model = steps(weights)
    by_autograd = model.gradients(batch)
    np.testing.assert_allclose(loss, reference_loss(weights, batch), rtol=1e-5)
    assert set(gradients) == set(by_autograd) == set(weights)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, by_autograd[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("form", lazyflow_sequence.FORMS)
def test_kept_graphs_train_like_fresh_ones(form, weights, batch):
    fresh, kept = (lazyflow_sequence.FORMS[form](weights) for _ in range(2))
    kept.keep(batch)
    for step in (batch, batch[::-2], batch[:1]):
        np.testing.assert_allclose(kept.train_step(step), fresh.train_step(step), rtol=1e-5)

"""lazyflow and the libraries it is compared with compute the very same model: same weights, losses and logits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from benchmarks import lazyflow_tree_lstm, peers
from benchmarks.trees import Tree, synthetic

VOCABULARY, DIM, HIDDEN, CLASSES = 50, 12, 7, 5
SEED_TREES, SEED_WEIGHTS = 3, 4


@pytest.fixture
def trees():
    return synthetic(6, SEED_TREES, VOCABULARY)


@pytest.fixture
def weights():
    drawn = peers.initial_weights(VOCABULARY, DIM, HIDDEN, CLASSES, SEED_WEIGHTS)
    rng = np.random.default_rng(SEED_WEIGHTS)  # biases too, or swapped gates would go unnoticed
    return {name: rng.normal(0, 0.5, array.shape).astype(np.float32) for name, array in drawn.items()}


FORMS = {f"lazyflow {form}": partial(lazyflow_tree_lstm.setup, form=form) for form in lazyflow_tree_lstm.FORMS}
NAMES = [*FORMS, *sorted(peers.MODULES)]


def find(name):
    return FORMS[name] if name in FORMS else peers.find(name)


@pytest.fixture(params=NAMES)
def setup(request):
    found = find(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    return found


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Reference:
    """The formulas of `benchmarks.peers`, in float64 NumPy, node by node."""

    def __init__(self, weights):
        self.w = {name: array.astype(np.float64) for name, array in weights.items()}

    def state(self, tree: Tree, logits: list[tuple[int, np.ndarray]]):
        w = self.w
        if tree.children:
            (hl, cl), (hr, cr) = (self.state(child, logits) for child in tree.children)
            gates = w["inner.weight"] @ np.concatenate([hl, hr]) + w["inner.bias"]
            i, fl, fr, o, u = np.split(gates, 5)
            c = sigmoid(i) * np.tanh(u) + sigmoid(fl) * cl + sigmoid(fr) * cr
        else:
            i, o, u = np.split(w["leaf.weight"] @ w["embedding"][tree.word] + w["leaf.bias"], 3)
            c = sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        logits.append((tree.label, w["head.weight"] @ h + w["head.bias"]))
        return h, c

    def logits(self, tree):
        found = []
        self.state(tree, found)
        return found

    def loss(self, trees):
        found = [pair for tree in trees for pair in self.logits(tree)]
        return sum(np.log(np.exp(y).sum()) - y[label] for label, y in found) / len(trees)

    def infer(self, trees):
        return np.array([self.logits(tree)[-1][1] for tree in trees])


def test_loss_and_logits_are_the_models(setup, trees, weights):
    model = setup(VOCABULARY, DIM, HIDDEN, CLASSES, 0, weights)
    reference = Reference(weights)
    np.testing.assert_allclose(model.infer(trees), reference.infer(trees), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.train_step(trees), reference.loss(trees), rtol=1e-4)
    assert set(model.watch.take()) >= {"forward", "backward", "update"}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_moves_all_libraries_alike(trees, weights, optimizer):
    found = {name: find(name) for name in NAMES}
    if missing := [name for name, setup in found.items() if setup is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    models = [setup(VOCABULARY, DIM, HIDDEN, CLASSES, 0, weights) for setup in found.values()]
    for model in models if optimizer == "sgd" else []:
        model.use_sgd()
    losses = np.array([[model.train_step(trees) for _ in range(4)] for model in models])
    assert losses[0, -1] < losses[0, 0]
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], losses.shape), rtol=2e-4)


def test_seeded_weights_are_the_same_for_all(setup, trees):
    by_seed = setup(VOCABULARY, DIM, HIDDEN, CLASSES, 11).infer(trees)
    given = setup(VOCABULARY, DIM, HIDDEN, CLASSES, 0, peers.initial_weights(VOCABULARY, DIM, HIDDEN, CLASSES, 11))
    np.testing.assert_allclose(by_seed, given.infer(trees), rtol=1e-6)


LONE = Tree(1, 3, ())  # a tree of one word, and a minibatch without an inner node


@pytest.mark.peer
@pytest.mark.parametrize("shape", ["mixed", "one tree", "one word"])
def test_batched_by_hand_has_the_gradients_of_one_tree_at_a_time(shape, trees, weights):
    batched, single = peers.find("torch_batched"), peers.find("torch")
    if batched is None or single is None:
        pytest.skip("torch is not installed")
    minibatch = {"mixed": [*trees, LONE], "one tree": trees[:1], "one word": [LONE, LONE]}[shape]
    model = single(VOCABULARY, DIM, HIDDEN, CLASSES, 0, weights)
    expected = sum(model.loss(tree) for tree in minibatch) / len(minibatch)
    expected.backward()
    pairs = {"leaf": model.leaf, "inner": model.inner, "head": model.head}
    expected_gradients = {f"{name}.weight": weight.grad for name, (weight, _) in pairs.items()}
    expected_gradients.update({f"{name}.bias": bias.grad for name, (_, bias) in pairs.items()})
    expected_gradients["embedding"] = model.table.weight.grad.to_dense()
    loss, gradients = batched(VOCABULARY, DIM, HIDDEN, CLASSES, 0, weights).loss_and_gradients(minibatch)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    assert set(gradients) == set(weights)
    for name, gradient in gradients.items():
        by_autograd = 0 if expected_gradients[name] is None else expected_gradients[name].numpy()
        np.testing.assert_allclose(gradient, by_autograd, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", [*FORMS, "torch_batched_kept"])
def test_kept_graphs_train_like_fresh_ones(name, trees, weights):
    setup = find(name)
    if setup is None:
        pytest.skip(f"{name} is not installed")
    fresh, kept = (setup(VOCABULARY, DIM, HIDDEN, CLASSES, 0, weights) for _ in range(2))
    kept.keep(trees)
    for batch in (trees, trees[::-2], trees[:1], trees[2:]):
        np.testing.assert_allclose(kept.train_step(batch), fresh.train_step(batch), rtol=1e-5)
    np.testing.assert_allclose(kept.infer(trees), fresh.infer(trees), rtol=1e-4, atol=1e-5)


def test_dynets_operations_are_counted_right(trees, capfd):
    setup = peers.find("dynet")
    if setup is None:
        pytest.skip("dynet is not installed")
    import dynet

    model = setup(VOCABULARY, DIM, HIDDEN, CLASSES, 0)
    model.record(trees)
    dynet.print_text_graphviz()
    assert capfd.readouterr().err.count("[label") == model.operations(trees)

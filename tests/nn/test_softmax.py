"""Softmax output layers: against a softmax written out, against DyNet's builders, however examples are batched."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import dense, scrambled, vectors

TREE = [[0, 3], [[2], [4, 1, [5, 6]]], 7]
CLUSTERS = [[0, 2], [1, 3, 4], [5]]
HS = vectors(2, (3,), (3,), (3,), (3,))


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum())


def by_hand(module, tree, h):
    """Log-probabilities by the definition: the rows of the table in the order of a breadth-first walk."""
    weight, bias = (p.numpy() for p in (module.weight, module.bias))
    found, queue, start = {}, [(tree, 0.0)], 0
    while queue:
        node, so_far = queue.pop(0)
        while isinstance(node, list) and len(node) == 1:
            node = node[0]
        if not isinstance(node, list):
            found[node] = so_far
            continue
        rows = slice(start, start + len(node))
        start += len(node)
        queue += zip(node, so_far + log_softmax(weight[rows] @ h + bias[rows]), strict=True)
    return np.array([found[i] for i in sorted(found)])


MODULES = {
    "softmax": lambda: nn.SoftmaxOutput(3, 6),
    "without bias": lambda: nn.SoftmaxOutput(3, 6, bias=False),
    "clusters": lambda: nn.ClassFactoredSoftmax(3, CLUSTERS),
    "clusters without bias": lambda: nn.ClassFactoredSoftmax(3, CLUSTERS, bias=False),
    "tree": lambda: nn.HierarchicalSoftmax(3, TREE),
}


def made(name):
    with lf.using(dtype="float64"):
        return scrambled(MODULES[name]())


@pytest.mark.parametrize(("make", "tree"), [("clusters", CLUSTERS), ("tree", TREE)])
def test_log_probabilities_by_hand(make, tree):
    module = made(make)
    for h in HS:
        np.testing.assert_allclose(module.log_prob(h).numpy(), by_hand(module, tree, h), rtol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_losses_are_the_log_probabilities(name):
    module = made(name)
    every = module.log_prob(HS[0]).numpy()
    np.testing.assert_allclose(np.exp(every).sum(), 1.0, rtol=1e-12)
    losses = [module(HS[0], i) for i in range(module.num_classes)]
    np.testing.assert_allclose([loss.item() for loss in losses], -every, rtol=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_batched_equals_unbatched(name):
    found = []
    for batching in ("none", "phases"):
        module = made(name)
        with lf.using(batching=batching):
            loss = lf.mean([module(h, i) for i in range(module.num_classes) for h in HS])
            loss.backward()
        found.append((loss.item(), [dense(p.grad) for p in module.parameters()]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("name", ["clusters", "tree"])
def test_gradients_by_differences(name):
    module = made(name)
    lf.check_grads(lambda h: lf.sum(module.log_prob(h) * np.arange(1.0, 1 + module.num_classes)))(HS[0])
    lf.sum([module(h, 1) for h in HS]).backward()
    gradient, rng = dense(module.weight.grad), np.random.default_rng(0)
    direction, before = rng.standard_normal(gradient.shape), module.weight.numpy()
    values = []
    for step in (1e-6, -1e-6):
        module.weight.assign(before + step * direction)
        values.append(lf.sum([module(h, 1) for h in HS]).item())
    np.testing.assert_allclose((gradient * direction).sum(), (values[0] - values[1]) / 2e-6, rtol=1e-6)


def test_only_the_rows_on_a_path_get_gradients():
    module = made("clusters")
    module(HS[0], 1).backward()
    assert module.weight.grad.indices.tolist() == [0, 1, 2, 5, 6, 7]


def test_classes_of_clusters_of_any_size_share_a_launch():
    module = nn.ClassFactoredSoftmax(3, [[0, 1], [2, 3], [4, 5]])
    groups = lf.explain([module(lf.constant([1.0, 2.0, 3.0]), i) for i in (0, 2, 4, 5)]).groups
    assert sum(group.launches for group in groups if group.operation == "cross_entropy") == 1


@pytest.mark.parametrize("name", MODULES)
def test_samples_have_their_probabilities(name):
    module, stream = made(name), lf.Stream(7)
    want = np.exp(module.log_prob(HS[1]).numpy())
    drawn = np.bincount([module.sample(HS[1], stream=stream) for _ in range(400)], minlength=module.num_classes)
    assert (abs(drawn / 400 - want) < 5 * np.sqrt(want * (1 - want) / 400) + 1e-3).all()


def test_a_tree_of_one_class_is_certain():
    module = nn.HierarchicalSoftmax(3, [[0]])
    h = lf.constant([1.0, 2.0, 3.0])
    assert module(h, 0).item() == 0 and module.log_prob(h).numpy().tolist() == [0.0] and module.sample(h) == 0


def test_state_is_saved(tmp_path):
    one, other = made("tree"), made("tree")
    scrambled(one, seed=9)
    lf.save(tmp_path / "a.safetensors", output=one)
    lf.load(tmp_path / "a.safetensors", output=other)
    assert (one.log_prob(HS[0]).numpy() == other.log_prob(HS[0]).numpy()).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.SoftmaxOutput(0, 3), ValueError, "in_features must be at least 1"),
        (lambda: nn.SoftmaxOutput(3, 2.5), TypeError, "num_classes must be an integer"),
        (
            lambda: nn.HierarchicalSoftmax(3, [[0, 1], [3]]),
            ValueError,
            "each of the classes 0 to 2 must be a leaf once",
        ),
        (lambda: nn.HierarchicalSoftmax(3, [[0, 1], [1, 2]]), ValueError, "must be a leaf once"),
        (lambda: nn.HierarchicalSoftmax(3, [[0, 1], []]), ValueError, "none of them empty"),
        (lambda: nn.HierarchicalSoftmax(3, []), ValueError, "none of them empty"),
        (lambda: nn.HierarchicalSoftmax(3, [0, "1"]), ValueError, "got '1'"),
        (lambda: nn.HierarchicalSoftmax(3, 5), ValueError, "a tree is made of lists"),
        (lambda: nn.HierarchicalSoftmax(-1, [0, 1]), ValueError, "in_features must be at least 1"),
        (lambda: nn.ClassFactoredSoftmax(3, [0, 1]), ValueError, "cluster 0 must be a list of classes"),
        (lambda: nn.ClassFactoredSoftmax(3, [[0], [[1]]]), ValueError, "cluster 1 must be a list of classes"),
        (lambda: nn.HierarchicalSoftmax(3, TREE)(np.ones(3), 8), IndexError, "class 8 is none of 0 to 7"),
        (lambda: nn.HierarchicalSoftmax(3, TREE)(np.ones(3), -1), IndexError, "class -1 is none of 0 to 7"),
        (lambda: nn.SoftmaxOutput(3, 2)(np.ones(3), 2), IndexError, "class 2 is out of range"),
        (lambda: nn.HierarchicalSoftmax(3, TREE)(np.ones(4), 0), lf.ShapeError, "matmul"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()

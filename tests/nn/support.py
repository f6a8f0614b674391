"""What the tests of `lazyflow.nn` share: examples, a loss that weighs every output apart, gradients by name."""

import numpy as np

import lazyflow as lf
from lazyflow.device import to_host

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def vectors(seed, *shapes):
    """Random float64 arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def sequences(seed, size, lengths):
    """Lists of random vectors, one list an example."""
    return [vectors([seed, length], *[(size,)] * length) for length in lengths]


def tree(rng, leaves):
    """A random binary tree: an integer for a leaf, a pair for an inner node."""
    if leaves == 1:
        return int(rng.integers(0, 10))
    left = int(rng.integers(1, leaves))
    return tree(rng, left), tree(rng, leaves - left)


def trees(seed, sizes):
    rng = np.random.default_rng(seed)
    return [tree(rng, size) for size in sizes]


def dependency_tree(rng, nodes):
    """A random tree of any arity: (word, [children])."""
    children = []
    nodes -= 1
    while nodes:
        size = int(rng.integers(1, nodes + 1))
        children.append(dependency_tree(rng, size))
        nodes -= size
    return int(rng.integers(0, 10)), children


def dependency_trees(seed, sizes):
    rng = np.random.default_rng(seed)
    return [dependency_tree(rng, size) for size in sizes]


def factors(outputs, seed=7):
    """One random array for each output: what `weighted` multiplies with, so that no two elements count alike."""
    return vectors(seed, *[tuple(o.shape) for o in outputs])


def weighted(outputs):
    """A scalar in which every element of every output has a weight of its own."""
    return lf.sum([lf.sum(o * f.astype(o.dtype)) for o, f in zip(outputs, factors(outputs), strict=True)])


def dense(gradient):
    """A gradient as a NumPy array."""
    return to_host(gradient.to_dense() if hasattr(gradient, "to_dense") else gradient)


def gradients(module):
    """Every parameter's gradient by name, as an array; None where nothing came."""
    return {name: None if p.grad is None else np.array(dense(p.grad)) for name, p in module.named_parameters()}


def assert_close(ours, theirs, tolerance):
    np.testing.assert_allclose(to_host(ours), to_host(theirs), rtol=tolerance, atol=tolerance)


def scrambled(module, seed=3, scale=0.5):
    """All parameters random, also those that start at zero or one."""
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        parameter.assign(rng.standard_normal(parameter.shape) * scale)
    return module


class TreeLSTM(lf.nn.Module):
    """Words, a binary Tree-LSTM, a classifier; plain recursion over one tree."""

    def __init__(self, dim=4, hidden=3, classes=5):
        super().__init__()
        self.words = lf.nn.Embedding(10, dim)
        self.cell = lf.nn.BinaryTreeLSTMCell(dim, hidden)
        self.head = lf.nn.Linear(hidden, classes)

    def state(self, tree):
        if isinstance(tree, int):
            return self.cell.leaf(self.words(tree))
        return self.cell(*[self.state(child) for child in tree])

    def forward(self, tree):
        return self.head(self.state(tree)[0])


class ChildSumTreeLSTM(lf.nn.Module):
    """The same with a word at every node, and any number of children."""

    def __init__(self, dim=4, hidden=3, classes=5):
        super().__init__()
        self.words = lf.nn.Embedding(10, dim)
        self.cell = lf.nn.ChildSumTreeLSTMCell(dim, hidden)
        self.head = lf.nn.Linear(hidden, classes)

    def state(self, tree):
        word, children = tree
        return self.cell(self.words(word), [self.state(child) for child in children])

    def forward(self, tree):
        return self.head(self.state(tree)[0])

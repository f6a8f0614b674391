"""A Tree-GRU, which is no part of the library: a user's own cell, beside the library's Tree-LSTM.

The cell (after Kokkinos and Potamianos 2017), for a word's embedding e and the children's states l and r:

    leaf:   z, n = W e + b                      h = sigmoid(z) tanh(n)
    inner:  a, b, z = U [l; r] + b              n = tanh(V [sigmoid(a) l; sigmoid(b) r] + b)
            h = sigmoid(z) n + (1 - sigmoid(z)) (l + r) / 2

with the loss of the Tree-LSTM: the cross-entropy at every node.
"""

from __future__ import annotations

import lazyflow as lf
from benchmarks.lazyflow_model import Model
from benchmarks.peers import LEARNING_RATE
from benchmarks.trees import Tree
from lazyflow import nn, optim


class TreeGRUCell(nn.Module):
    """The cell: all that a user writes, with one decorator."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.leaf_gates = nn.Linear(dim, 2 * hidden)
        self.gates, self.new = nn.Linear(2 * hidden, 3 * hidden), nn.Linear(2 * hidden, hidden)

    @lf.cell
    def leaf(self, word: lf.Expr) -> lf.Expr:
        """The state of a word."""
        z, n = lf.split(self.leaf_gates(word), 2)
        return lf.sigmoid(z) * lf.tanh(n)

    @lf.cell
    def forward(self, left: lf.Expr, right: lf.Expr) -> lf.Expr:
        """The state of a node with two children."""
        a, b, z = lf.split(self.gates(lf.concatenate([left, right])), 3)
        n = lf.tanh(self.new(lf.concatenate([lf.sigmoid(a) * left, lf.sigmoid(b) * right])))
        mean = 0.5 * (left + right)
        return mean + lf.sigmoid(z) * (n - mean)


class Nodes(nn.Module):
    """A node of a tree as one cell: the user's own, with table, classifier and loss, as for the library's cell in
    `benchmarks.lazyflow_tree_lstm`."""

    def __init__(self, vocabulary_size: int, dim: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(vocabulary_size, dim), nn.Linear(hidden, classes)
        self.cell = TreeGRUCell(dim, hidden)

    @lf.cell
    def leaf(self, word: int, label: int) -> tuple[lf.Expr, lf.Expr]:
        """Loss and state of a word."""
        h = self.cell.leaf(self.words(word))
        return lf.cross_entropy(self.head(h), label), h

    @lf.cell
    def inner(self, left: lf.Expr, right: lf.Expr, label: int) -> tuple[lf.Expr, lf.Expr]:
        """Loss and state of a node with two children."""
        h: lf.Expr = self.cell(left, right)
        return lf.cross_entropy(self.head(h), label), h

    @lf.cell
    def word(self, word: int) -> lf.Expr:
        """The state of a word alone."""
        return self.cell.leaf(self.words(word))


class TreeGRU(Model[Tree]):
    """See `benchmarks.peers.Model`."""

    def __init__(self, vocabulary_size: int, dim: int, hidden: int, classes: int, batching: str = "phases") -> None:
        super().__init__(batching)
        self.nodes = Nodes(vocabulary_size, dim, hidden, classes)
        self.optimizer = optim.Adam(self.nodes.parameters(), lr=LEARNING_RATE)

    def state(self, tree: Tree, losses: list[lf.Expr]) -> lf.Expr:
        """The state of the root; appends the loss of every node to ``losses``."""
        if tree.children:
            left, right = tree.children
            loss, h = self.nodes.inner(self.state(left, losses), self.state(right, losses), tree.label)
        else:
            loss, h = self.nodes.leaf(tree.word, tree.label)
        losses.append(loss)
        return h

    def bare_state(self, tree: Tree) -> lf.Expr:
        """The state of the root without any loss."""
        if tree.children:
            left, right = tree.children
            found: lf.Expr = self.nodes.cell(self.bare_state(left), self.bare_state(right))
            return found
        return self.nodes.word(tree.word)

    def loss(self, tree: Tree) -> lf.Expr:
        losses: list[lf.Expr] = []
        self.state(tree, losses)
        return lf.sum(losses)

    def outputs(self, tree: Tree) -> list[lf.Expr]:
        return [self.nodes.head(self.bare_state(tree))]

"""The Tree-LSTM of `benchmarks.peers` in lazyflow: plain recursion over one tree, in plain operations or as one
cell a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lazyflow as lf
from benchmarks.lazyflow_model import Model, assign, assign_layer
from benchmarks.peers import LEARNING_RATE, Array, initial_weights
from benchmarks.trees import Tree
from lazyflow import nn, optim


class TreeLSTM(Model[Tree]):
    """In plain operations.

    ``dropout`` acts on the words' embeddings and on what the classifier reads, ``weight_decay`` on all but the
    embeddings.
    """

    def __init__(
        self,
        weights: Mapping[str, Array],
        batching: str = "phases",
        learning_rate: float = LEARNING_RATE,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(batching)
        self.dropout = dropout
        self.parameters = {name: lf.Parameter(array) for name, array in weights.items()}
        dense = [parameter for name, parameter in self.parameters.items() if name != "embedding"]
        self.table = self.parameters["embedding"]
        self.leaf = self.parameters["leaf.weight"], self.parameters["leaf.bias"]
        self.inner = self.parameters["inner.weight"], self.parameters["inner.bias"]
        self.head = self.parameters["head.weight"], self.parameters["head.bias"]
        groups = [{"params": [self.table]}, {"params": dense, "weight_decay": weight_decay}]
        self.optimizer = optim.Adam(groups, lr=learning_rate)

    def state(self, tree: Tree, losses: list[lf.Expr] | None) -> tuple[lf.Expr, lf.Expr]:
        """Hidden state and memory of the root; appends the loss of every node to ``losses``."""
        drop = self.dropout if losses is not None else 0.0
        if tree.children:
            left, right = tree.children
            hl, cl = self.state(left, losses)
            hr, cr = self.state(right, losses)
            i, fl, fr, o, u = lf.split(lf.affine(*self.inner, lf.concatenate([hl, hr])), 5)
            c = lf.sigmoid(i) * lf.tanh(u) + lf.sigmoid(fl) * cl + lf.sigmoid(fr) * cr
        else:
            word = lf.embedding(self.table, tree.word)
            i, o, u = lf.split(lf.affine(*self.leaf, lf.dropout(word, drop) if drop else word), 3)
            c = lf.sigmoid(i) * lf.tanh(u)
        h = lf.sigmoid(o) * lf.tanh(c)
        if losses is not None:
            losses.append(lf.cross_entropy(self.logits(lf.dropout(h, drop) if drop else h), tree.label))
        return h, c

    def logits(self, h: lf.Expr) -> lf.Expr:
        return lf.affine(*self.head, h)

    def loss(self, tree: Tree) -> lf.Expr:
        """The loss of one tree: the sum over its nodes."""
        losses: list[lf.Expr] = []
        self.state(tree, losses)
        return lf.sum(losses)

    def outputs(self, tree: Tree) -> list[lf.Expr]:
        return [self.logits(self.state(tree, None)[0])]


class SpelledTreeLSTM(TreeLSTM):
    """In operators, as it stands in a paper: ``W @ x + b``, and a slice for each gate."""

    def state(self, tree: Tree, losses: list[lf.Expr] | None) -> tuple[lf.Expr, lf.Expr]:
        n = self.head[0].shape[1]
        if tree.children:
            left, right = tree.children
            hl, cl = self.state(left, losses)
            hr, cr = self.state(right, losses)
            weight, bias = self.inner
            gates = weight @ lf.concatenate([hl, hr]) + bias
            i, fl, fr, o = (lf.sigmoid(gates[k * n : (k + 1) * n]) for k in range(4))
            c = i * lf.tanh(gates[4 * n :]) + fl * cl + fr * cr
        else:
            weight, bias = self.leaf
            gates = weight @ self.table[tree.word] + bias
            i, o = lf.sigmoid(gates[:n]), lf.sigmoid(gates[n : 2 * n])
            c = i * lf.tanh(gates[2 * n :])
        h = o * lf.tanh(c)
        if losses is not None:
            losses.append(lf.cross_entropy(self.logits(h), tree.label))
        return h, c

    def logits(self, h: lf.Expr) -> lf.Expr:
        weight, bias = self.head
        return weight @ h + bias


class Nodes(nn.Module):
    """A node of a tree as one cell: the library's Tree-LSTM, with table, classifier and loss."""

    def __init__(self, vocabulary_size: int, dim: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(vocabulary_size, dim), nn.Linear(hidden, classes)
        self.cell = nn.BinaryTreeLSTMCell(dim, hidden)

    @lf.cell
    def leaf(self, word: int, label: int) -> tuple[lf.Expr, tuple[lf.Expr, lf.Expr]]:
        """Loss and state of a word."""
        state = self.cell.leaf(self.words(word))
        return lf.cross_entropy(self.head(state[0]), label), state

    @lf.cell
    def inner(self, left: tuple[lf.Expr, lf.Expr], right: tuple[lf.Expr, lf.Expr], label: int) -> Any:
        """Loss and state of a node with two children."""
        state = self.cell(left, right)
        return lf.cross_entropy(self.head(state[0]), label), state

    @lf.cell
    def word(self, word: int) -> tuple[lf.Expr, lf.Expr]:
        """The state of a word alone."""
        return self.cell.leaf(self.words(word))


class CellTreeLSTM(TreeLSTM):
    """The same as one cell a node."""

    def __init__(self, weights: Mapping[str, Array], batching: str = "phases") -> None:
        Model.__init__(self, batching)
        (vocabulary_size, dim), (classes, hidden) = weights["embedding"].shape, weights["head.weight"].shape
        self.nodes = Nodes(vocabulary_size, dim, hidden, classes)
        assign([(self.nodes.words.weight, weights["embedding"])])
        cell = self.nodes.cell
        for name, layer in {"leaf": cell.leaf_gates, "inner": cell.inner_gates, "head": self.nodes.head}.items():
            assign_layer(layer, weights, name)
        self.optimizer = optim.Adam(self.nodes.parameters(), lr=LEARNING_RATE)

    def state(self, tree: Tree, losses: list[lf.Expr] | None) -> tuple[lf.Expr, lf.Expr]:
        if losses is None:
            return self.bare_state(tree)
        if tree.children:
            left, right = tree.children
            loss, state = self.nodes.inner(self.state(left, losses), self.state(right, losses), tree.label)
        else:
            loss, state = self.nodes.leaf(tree.word, tree.label)
        losses.append(loss)
        return state

    def bare_state(self, tree: Tree) -> tuple[lf.Expr, lf.Expr]:
        """The state of the root without any loss."""
        if tree.children:
            left, right = tree.children
            found: tuple[lf.Expr, lf.Expr] = self.nodes.cell(self.bare_state(left), self.bare_state(right))
            return found
        return self.nodes.word(tree.word)

    def logits(self, h: lf.Expr) -> lf.Expr:
        return self.nodes.head(h)


FORMS: dict[str, type[TreeLSTM]] = {"plain": TreeLSTM, "spelled": SpelledTreeLSTM, "cell": CellTreeLSTM}


def setup(
    vocabulary_size: int,
    dim: int,
    hidden: int,
    classes: int,
    seed: int,
    weights: Mapping[str, Array] | None = None,
    form: str = "plain",
    **options: Any,
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`; ``form`` is one of `FORMS`, ``options`` are its own."""
    return FORMS[form](weights or initial_weights(vocabulary_size, dim, hidden, classes, seed), **options)

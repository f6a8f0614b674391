"""The Tree-LSTM in DyNet, with automatic batching.

Each gate is an affine transform of its own, with a matrix for every child, as in the programs of DyNet's authors. That
is also the fastest form: against one product for all gates, whose slices DyNet does not batch, it trains 17% faster at
64 trees a minibatch, and against gates on the concatenated children 8%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Stopwatch
from benchmarks.peers import LEARNING_RATE, Array, initial_weights
from benchmarks.peers.dynet_configured import dy, plain
from benchmarks.trees import Tree, nodes

PARAMETERS = 2 * 3 + 3 * 5 + 2  # a matrix for every input of every gate, and the biases


class TreeLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.watch = Stopwatch()
        self.model = model = dy.ParameterCollection()  # parameters die with it, whoever still points at them
        self.table = model.lookup_parameters_from_numpy(weights["embedding"])
        self.leaf = _gates(model, weights["leaf.weight"], weights["leaf.bias"], 3, inputs=1)
        self.inner = _gates(model, weights["inner.weight"], weights["inner.bias"], 5, inputs=2)
        self.head = [model.parameters_from_numpy(weights[name]) for name in ("head.bias", "head.weight")]
        self.trainer = plain(dy.AdamTrainer(model, alpha=LEARNING_RATE))

    def use_sgd(self) -> None:
        """See `benchmarks.peers.TreeModel`."""
        self.trainer = plain(dy.SimpleSGDTrainer(self.model, learning_rate=LEARNING_RATE))

    def state(self, tree: Tree, losses: list[Any] | None) -> tuple[Any, Any]:
        """Hidden state and memory of the root; appends the loss of every node to ``losses``."""
        if tree.children:
            (hl, cl), (hr, cr) = (self.state(child, losses) for child in tree.children)
            i, fl, fr, o, u = (dy.affine_transform([b, left, hl, right, hr]) for b, left, right in self.inner)
            kept = [dy.cmult(dy.logistic(fl), cl), dy.cmult(dy.logistic(fr), cr)]
            c = dy.esum([dy.cmult(dy.logistic(i), dy.tanh(u)), *kept])
        else:
            word = self.table[tree.word]
            i, o, u = (dy.affine_transform([b, w, word]) for b, w in self.leaf)
            c = dy.cmult(dy.logistic(i), dy.tanh(u))
        h = dy.cmult(dy.logistic(o), dy.tanh(c))
        if losses is not None:
            losses.append(dy.pickneglogsoftmax(self.logits(h), tree.label))
        return h, c

    def logits(self, h: Any) -> Any:
        return dy.affine_transform([*self.head, h])

    def record(self, trees: Sequence[Tree]) -> Any:
        """A fresh graph with the loss of one minibatch."""
        dy.renew_cg()
        losses: list[Any] = []
        for tree in trees:
            self.state(tree, losses)
        return dy.esum(losses) * (1 / len(trees))

    def operations(self, trees: Sequence[Tree]) -> int:
        """How many nodes `record` makes: for words, inner nodes, the loss of either, once parameters and sum."""
        count = sum(nodes(tree) for tree in trees)
        leaves = (count + len(trees)) // 2
        return 10 * leaves + 16 * (count - leaves) + 2 * count + PARAMETERS + 2

    def train_step(self, trees: Sequence[Tree]) -> float:
        self.watch.start()
        loss = self.record(trees)
        self.watch.lap("record")
        value: float = loss.value()
        self.watch.lap("forward")
        loss.backward()
        self.watch.lap("backward")
        self.trainer.update()
        self.watch.lap("update")
        return value

    def infer(self, trees: Sequence[Tree]) -> Array:
        dy.renew_cg()
        roots = [self.logits(self.state(tree, None)[0]) for tree in trees]
        logits: Array = dy.concatenate_to_batch(roots).npvalue()
        return logits.reshape(logits.shape[0], len(trees)).T


def _gates(model: Any, weight: Array, bias: Array, gates: int, inputs: int) -> list[list[Any]]:
    """For each gate its bias and a matrix for every input."""
    rows = zip(bias.reshape(gates, -1), weight.reshape(gates, -1, weight.shape[1]), strict=True)
    return [[model.parameters_from_numpy(array) for array in (b, *_columns(w, inputs))] for b, w in rows]


def _columns(matrix: Array, parts: int) -> list[Array]:
    width = matrix.shape[1] // parts
    return [matrix[:, k * width : (k + 1) * width] for k in range(parts)]


def setup(
    vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int, weights: Mapping[str, Array] | None = None
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`."""
    return TreeLSTM(weights or initial_weights(vocabulary_size, dim, hidden, classes, seed))

"""The Tree-LSTM of `benchmarks.peers` in lazyflow: written for one tree, in plain recursion and plain operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lazyflow as lf
from benchmarks.harness import Stopwatch
from benchmarks.peers import LEARNING_RATE, Array, initial_weights
from benchmarks.trees import Tree
from lazyflow import engine, optim


class TreeLSTM:
    """See `benchmarks.peers.TreeModel`. ``batching``: one of lazyflow's ways to group operations.

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
        self.watch = Stopwatch()
        self.batching, self.dropout = batching, dropout
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

    def record(self, trees: Sequence[Tree]) -> lf.Expr:
        """The loss of one minibatch."""
        return lf.mean([self.loss(tree) for tree in trees])

    def train_step(self, trees: Sequence[Tree]) -> float:
        with lf.using(batching=self.batching):
            self.watch.start()
            loss = self.record(trees)
            self.watch.lap("record")
            with schedule_apart(self.watch):
                loss.forward()
            value = loss.item()
            self.watch.lap("forward")
            for run in loss.tape.runs:  # what backward plans for itself is scheduling, too
                run.plan.parameter_launches  # noqa: B018
            self.watch.lap("schedule")
            loss.backward()
            self.watch.lap("backward")
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.watch.lap("update")
            return value

    def infer(self, trees: Sequence[Tree]) -> Array:
        with lf.using(batching=self.batching), lf.no_grad():
            roots = [self.logits(self.state(tree, None)[0]) for tree in trees]
            return lf.stack(roots).numpy()


@contextmanager
def schedule_apart(watch: Stopwatch) -> Iterator[None]:
    """Laps of their own for what a forward pass does before its first kernel: graph, schedule and plan."""
    parts = {name: getattr(engine, name) for name in ("collect", "plan_of")}
    for name, part in parts.items():
        setattr(engine, name, _lapped(part, watch))
    try:
        yield
    finally:
        for name, part in parts.items():
            setattr(engine, name, part)


def _lapped(part: Callable[..., Any], watch: Stopwatch) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        watch.lap("forward")
        result = part(*arguments, **options)
        watch.lap("schedule")
        return result

    return call


def setup(
    vocabulary_size: int,
    dim: int,
    hidden: int,
    classes: int,
    seed: int,
    weights: Mapping[str, Array] | None = None,
    **options: Any,
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`; ``options`` are those of `TreeLSTM`."""
    return TreeLSTM(weights or initial_weights(vocabulary_size, dim, hidden, classes, seed), **options)

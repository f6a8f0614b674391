"""The Tree-LSTM in PyTorch, batched by hand: what an expert writes who knows the model and gives up on autograd.

A minibatch runs level by level, counted from the roots, so that the children of a level's nodes stand in the next one,
in their parents' order: reading them is one gather straight into ``[hl; hr]``. All leaves are one product, each
distinct word once; so are the losses of all nodes, and in backward all weight gradients. Values of all levels lie in
one buffer a kind, used again by every minibatch, and every step writes in place. What backward needs of a node's own
activations is computed for all levels at once, so that a level takes seven calls there, and eleven in forward. Every
tanh is a sigmoid, ``tanh(x) = 1 - 2 sigmoid(-2 x)``, which PyTorch computes five times faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Stopwatch, threads_here
from benchmarks.peers import Array, initial_weights
from benchmarks.peers.torch_by_hand import Buffers, Numbering, Parameters, reordered, restored, sigmoid_gates_, slopes
from benchmarks.trees import Tree

# Gates in memory, as positions in the order of `benchmarks.peers`: first those that only the memory's gradient reaches.
ORDERS = {"leaf": (0, 2, 1), "inner": (0, 1, 2, 4, 3)}


class Nodes(NamedTuple):
    """The nodes of one or several trees, level by level from the roots, siblings beside each other.

    ``words`` has -1 for an inner node.
    """

    depths: Array
    words: Array
    labels: Array


class Structure(NamedTuple):
    """A minibatch as arrays. Rows: first the inner nodes, level by level, then the distinct words.

    ``children``: rows of the children of all inner nodes; ``sizes``: inner nodes of every level that has some;
    ``words``: the distinct words; ``labels``: how often a row has each label, divided by the number of trees.
    """

    children: Tensor
    sizes: list[int]
    words: Tensor
    labels: Tensor
    roots: Tensor


def nodes_of(trees: Sequence[Tree]) -> Nodes:
    depths: list[int] = []
    words: list[int] = []
    labels: list[int] = []
    level, depth = list(trees), 0
    while level:
        below: list[Tree] = []
        for label, word, children in level:
            labels.append(label)
            words.append(word)
            if children:
                below += children
        depths += [depth] * len(level)
        level, depth = below, depth + 1
    return Nodes(np.array(depths, np.int16), np.array(words), np.array(labels))


def joined(parts: Sequence[Nodes]) -> Nodes:
    """The nodes of several trees: sorting by level leaves siblings together, and in their parents' order."""
    if len(parts) == 1:
        return parts[0]
    depths, words, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(depths, kind="stable")
    return Nodes(depths[order], words[order], labels[order])


def structure(nodes: Nodes, trees: int, classes: int, number: Numbering) -> Structure:
    leaf = nodes.words >= 0
    inner = np.flatnonzero(~leaf)
    distinct, numbers = number(nodes.words[leaf])
    rows = np.empty(len(leaf), np.int64)
    rows[inner] = np.arange(len(inner))
    rows[leaf] = numbers + len(inner)
    total = len(inner) + len(distinct)
    counts = np.bincount(rows * classes + nodes.labels, minlength=total * classes) * np.float32(1 / trees)
    sizes = np.bincount(nodes.depths[inner]).tolist()
    arrays = rows[trees:], distinct, counts.astype(np.float32).reshape(total, classes), rows[:trees]
    children, words, labels, roots = map(torch.from_numpy, arrays)
    return Structure(children, sizes, words, labels, roots)


class TreeLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(threads_here())
        self.watch = Stopwatch()
        self.hidden, self.classes = weights["head.weight"].shape[1], len(weights["head.bias"])
        self.dim = weights["embedding"].shape[1]
        dense = {name: reordered(array, _order(name)) for name, array in weights.items() if name != "embedding"}
        self.parameters = Parameters(weights["embedding"], dense)
        self.buffers, self.number = Buffers(), Numbering(len(weights["embedding"]))
        self.kept: dict[int, Nodes] = {}

    def keep(self, trees: Sequence[Tree]) -> None:
        """Nothing is made before a minibatch asks for it."""

    def structure(self, trees: Sequence[Tree]) -> Structure:
        nodes = joined([self.kept[id(tree)] for tree in trees]) if self.kept else nodes_of(trees)
        return structure(nodes, len(trees), self.classes, self.number)

    def forward(self, batch: Structure) -> Tensor:
        """Hidden states of all rows."""
        rows = len(batch.labels)
        h, c, s = (self.buffers(name, rows, self.hidden) for name in ("h", "c", "s"))
        inner = rows - len(batch.words)
        self._leaves(batch.words, h[inner:], c[inner:], s[inner:])
        self._levels(batch, h, c, s)
        return h

    def _leaves(self, words: Tensor, h: Tensor, c: Tensor, s: Tensor) -> None:
        x = torch.index_select(self.parameters.table, 0, words, out=self.buffers("x", len(words), self.dim))
        gates = self.buffers("leaf gates", len(words), 3, self.hidden)
        bias, weight = self.parameters.dense["leaf.bias"], self.parameters.dense["leaf.weight"].t()
        torch.addmm(bias, x, weight, out=gates.flatten(1))
        i, u, o = gates.unbind(1)
        sigmoid_gates_(gates, u)
        torch.addcmul(i, i, u, value=-2, out=c)
        torch.mul(c, -2, out=s).sigmoid_()
        torch.addcmul(o, o, s, value=-2, out=h)

    def _levels(self, batch: Structure, h: Tensor, c: Tensor, s: Tensor) -> None:
        sizes = batch.sizes
        inner, size = sum(sizes), self.hidden
        x, cc = (self.buffers(name, 2 * inner, size) for name in ("children h", "children c"))
        gates = self.buffers("gates", inner, 5, size)
        bias, weight = self.parameters.dense["inner.bias"], self.parameters.dense["inner.weight"].t()
        pairs = [2 * n for n in sizes]
        by_node = (*gates.unbind(1), *cc.view(inner, 2, size).unbind(1), h[:inner], c[:inner], s[:inner])
        columns = [
            *(part.split(pairs) for part in (batch.children, x, cc)),
            *(part.split(sizes) for part in (x.view(inner, 2 * size), gates.flatten(1), *by_node)),
        ]
        for level in reversed(list(zip(*columns, strict=True))):
            children, xs, ccs, x2, g, i, fl, fr, u, o, cl, cr, h1, c1, s1 = level
            torch.index_select(h, 0, children, out=xs)
            torch.index_select(c, 0, children, out=ccs)
            torch.addmm(bias, x2, weight, out=g)
            sigmoid_gates_(g, u)
            torch.addcmul(i, i, u, value=-2, out=c1)
            c1.addcmul_(fl, cl).addcmul_(fr, cr)
            torch.mul(c1, -2, out=s1).sigmoid_()
            torch.addcmul(o, o, s1, value=-2, out=h1)

    def loss(self, batch: Structure, h: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient by the logits: a row's softmax, as often as it has a label, less its labels."""
        logs = torch.log_softmax(self.logits(h), 1)
        value = -torch.dot(logs.view(-1), batch.labels.view(-1))
        return value, logs.exp_().mul_(batch.labels.sum(1, keepdim=True)).sub_(batch.labels)

    def logits(self, h: Tensor) -> Tensor:
        return torch.addmm(self.parameters.dense["head.bias"], h, self.parameters.dense["head.weight"].t())

    def backward(self, batch: Structure, h: Tensor, dlogits: Tensor) -> Tensor:
        """Sets the gradients of all parameters; returns that of the embeddings' rows ``batch.words``."""
        rows, inner = len(h), sum(batch.sizes)
        dh = torch.mm(dlogits, self.parameters.dense["head.weight"], out=self.buffers("dh", rows, self.hidden))
        dc = self.buffers("dc", rows, self.hidden).zero_()
        torch.mm(dlogits.t(), h, out=self.parameters.gradients["head.weight"])
        torch.sum(dlogits, 0, out=self.parameters.gradients["head.bias"])
        s = self.buffers("s", rows, self.hidden)
        self._levels_backward(batch, dh, dc, s)
        return self._leaves_backward(len(batch.words), dh[inner:], dc[inner:], s[inner:])

    def _slopes(self, name: str, gates: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        out, by_c = self.buffers(name, *gates.shape), self.buffers(f"{name} by c", *s.shape)
        slopes(gates, s, out, by_c)
        return out, by_c

    def _levels_backward(self, batch: Structure, dh: Tensor, dc: Tensor, s: Tensor) -> None:
        sizes = batch.sizes
        inner, size = sum(sizes), self.hidden
        gates = self.buffers("gates", inner, 5, size)
        x, cc = (self.buffers(name, inner, 2, size) for name in ("children h", "children c"))
        by_gate, by_c = self._slopes("slopes", gates, s[:inner])
        by_gate[:, 1:3].mul_(cc)
        flat, weight = by_gate.flatten(1), self.parameters.dense["inner.weight"]
        dcc, dx = self.buffers("dcc", inner, 2, size), self.buffers("dx", inner, 2 * size)
        by_node = (
            *(by_gate[:, :4], by_gate[:, 4], flat, gates[:, 1:3], by_c),
            *(dh[:inner], dc[:inner], dc[:inner].unsqueeze(1), dcc, dx),
        )
        pairs = [2 * n for n in sizes]
        columns = [
            *(part.split(sizes) for part in by_node),
            *(part.split(pairs) for part in (batch.children, dcc.view(-1, size), dx.view(-1, size))),
        ]
        for level in zip(*columns, strict=True):
            by_memory, o, g, f, y, dh1, dc1, dc3, dcc1, dx1, children, dcs, dxs = level
            dc1.addcmul_(dh1, y)
            by_memory.mul_(dc3)
            o.mul_(dh1)
            torch.mul(dc3, f, out=dcc1)
            torch.mm(g, weight, out=dx1)
            dh.index_add_(0, children, dxs)
            dc.index_add_(0, children, dcs)
        torch.mm(flat.t(), x.flatten(1), out=self.parameters.gradients["inner.weight"])
        torch.sum(flat, 0, out=self.parameters.gradients["inner.bias"])

    def _leaves_backward(self, count: int, dh: Tensor, dc: Tensor, s: Tensor) -> Tensor:
        gates, x = self.buffers("leaf gates", count, 3, self.hidden), self.buffers("x", count, self.dim)
        by_gate, by_c = self._slopes("leaf slopes", gates, s)
        dc.addcmul_(dh, by_c)
        by_gate[:, :2].mul_(dc.unsqueeze(1))
        by_gate[:, 2].mul_(dh)
        flat = by_gate.flatten(1)
        torch.mm(flat.t(), x, out=self.parameters.gradients["leaf.weight"])
        torch.sum(flat, 0, out=self.parameters.gradients["leaf.bias"])
        return torch.mm(flat, self.parameters.dense["leaf.weight"], out=self.buffers("dx leaf", count, self.dim))

    def use_sgd(self) -> None:
        """See `benchmarks.peers.TreeModel`."""
        self.parameters.descends = True

    def train_step(self, trees: Sequence[Tree]) -> float:
        with torch.inference_mode():
            self.watch.start()
            batch = self.structure(trees)
            self.watch.lap("record")
            h = self.forward(batch)
            loss, dlogits = self.loss(batch, h)
            self.watch.lap("forward")
            gradient = self.backward(batch, h, dlogits)
            self.watch.lap("backward")
            self.parameters.update(batch.words, gradient, self.buffers)
            self.watch.lap("update")
            return loss.item()

    def infer(self, trees: Sequence[Tree]) -> Array:
        with torch.inference_mode():
            batch = self.structure(trees)
            return self.logits(self.forward(batch).index_select(0, batch.roots)).numpy()

    def loss_and_gradients(self, trees: Sequence[Tree]) -> tuple[float, dict[str, Array]]:
        """For tests: the loss, and the gradients under the names and in the layout of `benchmarks.peers`."""
        with torch.inference_mode():
            batch = self.structure(trees)
            h = self.forward(batch)
            loss, dlogits = self.loss(batch, h)
            rows = self.backward(batch, h, dlogits)
            gradients = self.parameters.all_gradients(batch.words, rows)
        return loss.item(), {name: restored(gradient, _order(name)) for name, gradient in gradients.items()}


def _order(name: str) -> Sequence[int]:
    return ORDERS.get(name.partition(".")[0], (0,))


def setup(
    vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int, weights: Mapping[str, Array] | None = None
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`."""
    return TreeLSTM(weights or initial_weights(vocabulary_size, dim, hidden, classes, seed))


class KeptTreeLSTM(TreeLSTM):
    """The same, with every tree's arrays made once."""

    def keep(self, trees: Sequence[Tree]) -> None:
        self.kept.update((id(tree), nodes_of([tree])) for tree in trees)


def setup_kept(
    vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int, weights: Mapping[str, Array] | None = None
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`."""
    return KeptTreeLSTM(weights or initial_weights(vocabulary_size, dim, hidden, classes, seed))

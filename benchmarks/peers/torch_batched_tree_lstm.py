"""The Tree-LSTM in PyTorch, batched by hand: what an expert writes who knows the model and gives up on autograd.

A minibatch runs level by level, counted from the roots, so that the children of a level's nodes stand in the next one,
in their parents' order: reading them is one gather straight into ``[hl; hr]``. All leaves are one product, each distinct
word once; so are the losses of all nodes, and in backward all weight gradients. Values of all levels lie in one buffer a
kind, used again by every minibatch, and every step writes in place. What backward needs of a node's own activations is
computed for all levels at once, so that a level takes seven calls there, and eleven in forward. Every tanh is a sigmoid,
``tanh(x) = 1 - 2 sigmoid(-2 x)``, which PyTorch computes five times faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from benchmarks.harness import Stopwatch, threads_here
from benchmarks.peers import LEARNING_RATE, Array, initial_weights
from benchmarks.trees import Tree

# Gates in memory, as positions in the order of `benchmarks.peers`: those that the memory's gradient alone reaches first.
ORDERS = {"leaf": (0, 2, 1), "inner": (0, 1, 2, 4, 3)}
ADAM: dict[str, Any] = {
    **{"lr": LEARNING_RATE, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    **{"amsgrad": False, "maximize": False, "fused": True},
}


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


class Numbering:
    """Numbers distinct words without sorting them: a table that knows where each was seen last."""

    def __init__(self, vocabulary_size: int) -> None:
        self.seen = np.empty(vocabulary_size, np.int64)

    def __call__(self, words: Array) -> tuple[Array, Array]:
        """The distinct words, and the number of each of ``words`` among them."""
        places = np.arange(len(words))
        self.seen[words] = places
        distinct = words[self.seen[words] == places]
        self.seen[distinct] = places[: len(distinct)]
        return distinct, self.seen[words]


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


class Buffers:
    """Memory by name, made larger when it must be and used again by every minibatch."""

    def __init__(self) -> None:
        self.flat: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = int(np.prod(shape))
        flat = self.flat.get(name)
        if flat is None or len(flat) < size:
            flat = self.flat[name] = torch.empty(size + size // 4)
        return flat[:size].view(shape)


class TreeLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(threads_here())
        self.watch = Stopwatch()
        self.hidden, self.classes = weights["head.weight"].shape[1], len(weights["head.bias"])
        self.dim = weights["embedding"].shape[1]
        self.table = torch.tensor(weights["embedding"])
        self.table_moments = [torch.zeros_like(self.table) for _ in range(2)]
        dense = {name: _in_order(name, array) for name, array in weights.items() if name != "embedding"}
        self.flat = torch.cat([torch.tensor(array).flatten() for array in dense.values()])
        self.flat_gradient = torch.zeros_like(self.flat)
        self.flat_moments = [torch.zeros_like(self.flat) for _ in range(2)]
        self.parameters, self.gradients = (
            _views(flat, {name: array.shape for name, array in dense.items()})
            for flat in (self.flat, self.flat_gradient)
        )
        self.steps = [torch.zeros(()) for _ in range(2)]
        self.buffers = Buffers()
        self.number = Numbering(len(self.table))
        self.kept: dict[int, Nodes] = {}

    def keep(self, trees: Sequence[Tree]) -> None:
        """Make the arrays of these trees once; a minibatch of them only joins them."""
        self.kept.update((id(tree), nodes_of([tree])) for tree in trees)

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
        x = torch.index_select(self.table, 0, words, out=self.buffers("x", len(words), self.dim))
        gates = self.buffers("leaf gates", len(words), 3, self.hidden)
        torch.addmm(self.parameters["leaf.bias"], x, self.parameters["leaf.weight"].t(), out=gates.view(len(words), -1))
        i, u, o = gates.unbind(1)
        u.mul_(-2)
        gates.sigmoid_()
        torch.addcmul(i, i, u, value=-2, out=c)
        torch.mul(c, -2, out=s).sigmoid_()
        torch.addcmul(o, o, s, value=-2, out=h)

    def _levels(self, batch: Structure, h: Tensor, c: Tensor, s: Tensor) -> None:
        sizes = batch.sizes
        inner, size = sum(sizes), self.hidden
        x, cc = (self.buffers(name, 2 * inner, size) for name in ("children h", "children c"))
        gates = self.buffers("gates", inner, 5, size)
        bias, weight = self.parameters["inner.bias"], self.parameters["inner.weight"].t()
        pairs = [2 * n for n in sizes]
        by_node = (*gates.unbind(1), *cc.view(inner, 2, size).unbind(1), h[:inner], c[:inner], s[:inner])
        columns = [
            *(part.split(pairs) for part in (batch.children, x, cc)),
            *(part.split(sizes) for part in (x.view(inner, -1), gates.view(inner, -1), *by_node)),
        ]
        for level in reversed(list(zip(*columns, strict=True))):
            children, xs, ccs, x2, g, i, fl, fr, u, o, cl, cr, h1, c1, s1 = level
            torch.index_select(h, 0, children, out=xs)
            torch.index_select(c, 0, children, out=ccs)
            torch.addmm(bias, x2, weight, out=g)
            u.mul_(-2)
            g.sigmoid_()
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
        return torch.addmm(self.parameters["head.bias"], h, self.parameters["head.weight"].t())

    def backward(self, batch: Structure, h: Tensor, dlogits: Tensor) -> Tensor:
        """Sets the gradients of all parameters; returns that of the embeddings' rows ``batch.words``."""
        rows, inner = len(h), sum(batch.sizes)
        dh = torch.mm(dlogits, self.parameters["head.weight"], out=self.buffers("dh", rows, self.hidden))
        dc = self.buffers("dc", rows, self.hidden).zero_()
        torch.mm(dlogits.t(), h, out=self.gradients["head.weight"])
        torch.sum(dlogits, 0, out=self.gradients["head.bias"])
        s = self.buffers("s", rows, self.hidden)
        self._levels_backward(batch, dh, dc, s)
        return self._leaves_backward(len(batch.words), dh[inner:], dc[inner:], s[inner:])

    def _slopes(self, name: str, gates: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of all gates by what went into them, times the other factor; of h by c."""
        slopes = torch.addcmul(gates, gates, gates, value=-1, out=self.buffers(name, *gates.shape))
        i, u = gates[:, 0], gates[:, -2]
        slopes[:, 0].addcmul_(slopes[:, 0], u, value=-2)
        slopes[:, -2].mul_(i).mul_(4)
        slopes[:, -1].addcmul_(slopes[:, -1], s, value=-2)
        by_c = torch.addcmul(s, s, s, value=-1, out=self.buffers(f"{name} by c", *s.shape)).mul_(gates[:, -1]).mul_(4)
        return slopes, by_c

    def _levels_backward(self, batch: Structure, dh: Tensor, dc: Tensor, s: Tensor) -> None:
        sizes = batch.sizes
        inner, size = sum(sizes), self.hidden
        gates = self.buffers("gates", inner, 5, size)
        x, cc = (self.buffers(name, inner, 2, size) for name in ("children h", "children c"))
        slopes, by_c = self._slopes("slopes", gates, s[:inner])
        slopes[:, 1:3].mul_(cc)
        flat, weight = slopes.view(inner, -1), self.parameters["inner.weight"]
        dcc, dx = self.buffers("dcc", inner, 2, size), self.buffers("dx", inner, 2 * size)
        by_node = (
            *(slopes[:, :4], slopes[:, 4], flat, gates[:, 1:3], by_c),
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
        torch.mm(flat.t(), x.view(inner, -1), out=self.gradients["inner.weight"])
        torch.sum(flat, 0, out=self.gradients["inner.bias"])

    def _leaves_backward(self, count: int, dh: Tensor, dc: Tensor, s: Tensor) -> Tensor:
        gates, x = self.buffers("leaf gates", count, 3, self.hidden), self.buffers("x", count, self.dim)
        slopes, by_c = self._slopes("leaf slopes", gates, s)
        dc.addcmul_(dh, by_c)
        slopes[:, :2].mul_(dc.unsqueeze(1))
        slopes[:, 2].mul_(dh)
        flat = slopes.view(count, -1)
        torch.mm(flat.t(), x, out=self.gradients["leaf.weight"])
        torch.sum(flat, 0, out=self.gradients["leaf.bias"])
        return torch.mm(flat, self.parameters["leaf.weight"], out=self.buffers("dx leaf", count, self.dim))

    def update(self, words: Tensor, gradient: Tensor) -> None:
        """Adam on the dense parameters, which are one array, and on the rows of the table that ``words`` touched."""
        tensors = self.table, *self.table_moments
        rows = [
            torch.index_select(part, 0, words, out=self.buffers(f"rows {k}", len(words), self.dim))
            for k, part in enumerate(tensors)
        ]
        adam(
            *([self.flat, rows[0]], [self.flat_gradient, gradient]),
            *([self.flat_moments[0], rows[1]], [self.flat_moments[1], rows[2]], [], self.steps),
            **ADAM,
        )
        for part, changed in zip(tensors, rows, strict=True):
            part.index_copy_(0, words, changed)

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
            self.update(batch.words, gradient)
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
            table = torch.zeros_like(self.table).index_copy_(0, batch.words, rows).numpy()
            dense = {name: _in_order(name, g.numpy(), np.argsort) for name, g in self.gradients.items()}
            return loss.item(), {"embedding": table, **dense}


def _in_order(name: str, array: Array, order: Any = tuple) -> Array:
    """The blocks of a parameter, one a gate, in this file's order; with ``np.argsort`` back in that of the formulas."""
    chosen = ORDERS.get(name.partition(".")[0], (0,))
    blocks = array.reshape(len(chosen), -1, *array.shape[1:])
    return blocks[list(order(chosen))].reshape(array.shape)


def _views(flat: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    parts = flat.split([int(np.prod(shape)) for shape in shapes.values()])
    return {name: part.view(*shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def setup(
    vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int, weights: Mapping[str, Array] | None = None
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`."""
    return TreeLSTM(weights or initial_weights(vocabulary_size, dim, hidden, classes, seed))

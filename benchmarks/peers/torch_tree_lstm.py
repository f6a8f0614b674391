"""The Tree-LSTM in PyTorch, eager, one tree at a time, as well as that can be done.

Within a tree whatever needs no recursion is one call: the look-ups of all words, the leaves' product and gates, the
classifier and loss of all nodes. That trains 1.4 times as fast as the plain recursion over all nodes; a backward pass
after every tree, while its values are in the cache, adds 6%.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Stopwatch, threads_here
from benchmarks.peers import LEARNING_RATE, Array, initial_weights
from benchmarks.trees import Tree, words

States = Iterator[tuple[Tensor, Tensor]]


class TreeLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(threads_here())
        self.watch = Stopwatch()
        parameters = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in weights.items()}
        self.table = torch.nn.Embedding.from_pretrained(parameters.pop("embedding"), freeze=False, sparse=True)
        self.leaf = parameters["leaf.weight"], parameters["leaf.bias"]
        self.inner = parameters["inner.weight"], parameters["inner.bias"]
        self.head = parameters["head.weight"], parameters["head.bias"]
        self.hidden = weights["head.weight"].shape[1]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.SparseAdam(self.table.parameters(), lr=LEARNING_RATE),
            torch.optim.Adam(parameters.values(), lr=LEARNING_RATE, fused=True),
        )

    def use_sgd(self) -> None:
        """See `benchmarks.peers.TreeModel`."""
        parameters = [*self.table.parameters(), *self.leaf, *self.inner, *self.head]
        self.optimizers = (torch.optim.SGD(parameters, lr=LEARNING_RATE),)

    def leaves(self, tree: Tree) -> States:
        """Hidden state and memory of each word, from left to right."""
        gates = F.linear(self.table(torch.tensor(list(words(tree)))), *self.leaf)
        i, o = torch.sigmoid(gates[:, : 2 * self.hidden]).chunk(2, 1)
        c = i * torch.tanh(gates[:, 2 * self.hidden :])
        h = o * torch.tanh(c)
        return zip(h.unbind(), c.unbind(), strict=True)

    def state(self, tree: Tree, leaves: States, hs: list[Tensor], labels: list[int]) -> tuple[Tensor, Tensor]:
        """Hidden state and memory of the root; appends hidden state and label of every node, the root's last."""
        if tree.children:
            (hl, cl), (hr, cr) = (self.state(child, leaves, hs, labels) for child in tree.children)
            i, fl, fr, o, u = F.linear(torch.cat((hl, hr)), *self.inner).chunk(5)
            c = torch.addcmul(torch.sigmoid(i) * torch.tanh(u), torch.sigmoid(fl), cl)
            c = torch.addcmul(c, torch.sigmoid(fr), cr)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            h, c = next(leaves)
        hs.append(h)
        labels.append(tree.label)
        return h, c

    def loss(self, tree: Tree) -> Tensor:
        hs: list[Tensor] = []
        labels: list[int] = []
        self.state(tree, self.leaves(tree), hs, labels)
        return F.cross_entropy(F.linear(torch.stack(hs), *self.head), torch.tensor(labels), reduction="sum")

    def train_step(self, trees: Sequence[Tree]) -> float:
        self.watch.start()
        total = torch.zeros(())
        for tree in trees:
            loss = self.loss(tree) / len(trees)
            self.watch.lap("forward")
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            self.watch.lap("backward")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.watch.lap("update")
        return total.item()

    def infer(self, trees: Sequence[Tree]) -> Array:
        with torch.inference_mode():
            roots = [self.state(tree, self.leaves(tree), [], [])[0] for tree in trees]
            return F.linear(torch.stack(roots), *self.head).numpy()


def setup(
    vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int, weights: Mapping[str, Array] | None = None
) -> TreeLSTM:
    """See `benchmarks.peers.Setup`."""
    return TreeLSTM(weights or initial_weights(vocabulary_size, dim, hidden, classes, seed))

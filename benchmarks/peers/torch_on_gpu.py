"""The models of `benchmarks.peers` in PyTorch on a device, batched by hand as an expert does there: few large kernels,
autograd, and Adam in one launch; eager, or through ``torch.compile``.

The Tree-LSTM runs level by level, counted from the roots. The children of a level's inner nodes are all nodes of the
next one, in their parents' order, so that ``[hl; hr]`` is the next level seen with half as many rows, and no level
gathers. The LSTM is cuDNN's, on packed sentences; compiled, it is what the compiler leaves of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Stopwatch
from benchmarks.peers import LEARNING_RATE, Array
from benchmarks.peers.torch_packed_sequence import _lstm, _packed
from benchmarks.sentences import Sentence
from benchmarks.trees import Tree


class OnDevice:
    """What both share: parameters on the device, and a step of training."""

    def __init__(self, weights: Mapping[str, Array], device: str, compiled: bool) -> None:
        self.watch, self.device = Stopwatch(), device
        self.table = torch.nn.Embedding.from_pretrained(
            torch.tensor(weights["embedding"], device=device), freeze=False, sparse=True
        )
        self.dense = self.parameters({name: w for name, w in weights.items() if name != "embedding"})
        self.optimizers = (
            torch.optim.SparseAdam(self.table.parameters(), lr=LEARNING_RATE),
            torch.optim.Adam(list(self.dense.values()), lr=LEARNING_RATE, fused=device != "cpu"),
        )
        self.compiled: Callable[[Any], Any] = (lambda f: torch.compile(f, dynamic=True)) if compiled else (lambda f: f)

    def parameters(self, weights: Mapping[str, Array]) -> dict[str, torch.nn.Parameter]:
        """All but the embeddings."""
        return {name: torch.nn.Parameter(torch.tensor(w, device=self.device)) for name, w in weights.items()}

    def loss(self, examples: Sequence[Any]) -> Tensor:
        """The loss of a minibatch."""
        raise NotImplementedError

    def train_step(self, examples: Sequence[Any]) -> float:
        """See `benchmarks.peers.Model`."""
        loss = self.loss(examples)
        value = loss.item()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return value


def leaf(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and memories of leaves."""
    i, o, u = F.linear(x, weight, bias).chunk(3, 1)
    c = torch.sigmoid(i) * torch.tanh(u)
    return torch.sigmoid(o) * torch.tanh(c), c


def inner(h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same of inner nodes, from those of their children."""
    i, fl, fr, o, u = F.linear(h.view(len(h) // 2, -1), weight, bias).chunk(5, 1)
    cl, cr = c.view(len(c) // 2, 2, -1).unbind(1)
    new = torch.sigmoid(i) * torch.tanh(u) + torch.sigmoid(fl) * cl + torch.sigmoid(fr) * cr
    return torch.sigmoid(o) * torch.tanh(new), new


class TreeLSTM(OnDevice):
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array], device: str, compiled: bool = False) -> None:
        super().__init__(weights, device, compiled)
        self.leaf, self.inner = self.compiled(leaf), self.compiled(inner)

    def loss(self, examples: Sequence[Tree]) -> Tensor:
        levels = levels_of(examples)
        words = [node.word for level in levels for node in level if not node.children]
        labels = [node.label for level in reversed(levels) for node in level]
        counts = [sum(not node.children for node in level) for level in levels]
        # Of each level, the place of every node among its inner nodes and then its leaves.
        orders = [_order([bool(node.children) for node in level]) for level in levels]
        flat = torch.from_numpy(np.concatenate([words, labels, *orders]).astype(np.int64)).to(self.device)
        words_, labels_, *orders_ = flat.split([len(words), len(labels), *map(len, orders)])
        h, c = self.leaf(self.table(words_), self.dense["leaf.weight"], self.dense["leaf.bias"])
        leaves = list(zip(h.split(counts), c.split(counts), orders_, levels, strict=True))
        found: list[Tensor] = []
        below: tuple[Tensor, Tensor] | None = None
        for lh, lc, order, level in reversed(leaves):
            if below is not None and any(node.children for node in level):
                ih, ic = self.inner(*below, self.dense["inner.weight"], self.dense["inner.bias"])
                lh, lc = torch.cat((ih, lh))[order], torch.cat((ic, lc))[order]
            below = lh, lc
            found.append(lh)
        logits = F.linear(torch.cat(found), self.dense["head.weight"], self.dense["head.bias"])
        return F.cross_entropy(logits, labels_, reduction="sum") / len(examples)


def levels_of(trees: Sequence[Tree]) -> list[list[Tree]]:
    """All nodes by their depth, each level in the order of the parents."""
    levels, level = [], list(trees)
    while level:
        levels.append(level)
        level = list(chain.from_iterable(node.children for node in level))
    return levels


def _order(is_inner: Sequence[bool]) -> Array:
    flags = np.array(is_inner)
    return np.where(flags, np.cumsum(flags) - 1, flags.sum() + np.cumsum(~flags) - 1)


class SequenceLSTM(OnDevice):
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array], device: str, compiled: bool = False) -> None:
        self.weights = weights
        super().__init__(weights, device, compiled)
        self.of_words = self.compiled(self._of_words)

    def parameters(self, weights: Mapping[str, Array]) -> dict[str, torch.nn.Parameter]:
        self.lstm = _lstm(self.weights).to(self.device)
        heads = super().parameters({name: weights[name] for name in ("head.weight", "head.bias")})
        return {**{name: p for name, p in self.lstm.named_parameters() if p.requires_grad}, **heads}

    def loss(self, examples: Sequence[Sentence]) -> Tensor:
        words, labels = (_packed([s[column] for s in examples]).to(self.device) for column in range(2))
        return self.of_words(words, labels.data) / len(examples)

    def _of_words(self, words: Any, labels: Tensor) -> Tensor:
        states, _ = self.lstm(words._replace(data=self.table(words.data)))
        logits = F.linear(states.data, self.dense["head.weight"], self.dense["head.bias"])
        return F.cross_entropy(logits, labels, reduction="sum")

"""The LSTM over sentences in PyTorch, batched by hand: a loop over steps, sentences sorted by length, without autograd.

At step t the first n sentences are those that still have a word, so the states that a step reads are the first rows of
the step before: a slice. Both directions take their steps together. The input's product is one for all words, each
distinct word once, the gradients of the weights are one product each at the end, and so is the classifier. As in
`torch_batched_tree_lstm`, buffers are used again, tanh is a sigmoid, and what backward needs of the activations is
computed for all words at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Stopwatch, threads_here
from benchmarks.peers import DIRECTIONS, Array
from benchmarks.peers.torch_by_hand import Buffers, Numbering, Parameters, sigmoid_gates_, slopes
from benchmarks.sentences import Sentence


class Structure(NamedTuple):
    """A minibatch as arrays. Rows are words, step by step, the longest sentence first.

    ``sizes``: sentences that have a word at each step; ``places``: the row of every word, sentence by sentence;
    ``mirror``: the row where the other direction has the same word; ``before``: the rows before those from the second
    step on; ``words``: the distinct words; ``numbers``: of each row, among them, for each direction; ``labels`` of the
    rows.
    """

    sizes: list[int]
    places: Array
    mirror: Tensor
    before: Tensor
    words: Tensor
    numbers: list[Tensor]
    labels: Tensor


def structure(sentences: Sequence[Sentence], number: Numbering) -> Structure:
    lengths = np.array([len(sentence.words) for sentence in sentences])
    words, labels = (np.array(list(chain.from_iterable(column))) for column in zip(*sentences, strict=True))
    order = np.argsort(-lengths, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    sizes = len(lengths) - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
    starts = np.cumsum(sizes) - sizes
    step = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    sentence = np.repeat(rank, lengths)
    places = starts[step] + sentence
    mirror, by_row, numbers = (np.empty_like(places) for _ in range(3))
    mirror[places] = starts[np.repeat(lengths, lengths) - 1 - step] + sentence
    distinct, numbers[places] = number(words)
    by_row[places] = labels
    before = np.arange(len(lengths), len(words)) - np.repeat(sizes[:-1], sizes[1:])
    arrays = mirror, before, distinct, numbers, numbers[mirror], by_row
    mirrored, previous, words_, forward, backward, labels_ = map(torch.from_numpy, arrays)
    return Structure(sizes.tolist(), places, mirrored, previous, words_, [forward, backward], labels_)


class SequenceLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(threads_here())
        self.watch = Stopwatch()
        self.hidden, self.dim = weights["forward.state"].shape[1], weights["embedding"].shape[1]
        self.classes = len(weights["head.bias"])
        self.names = [name for name in DIRECTIONS if f"{name}.state" in weights]
        self.parameters = Parameters(
            weights["embedding"], {name: array for name, array in weights.items() if name != "embedding"}
        )
        self.dense, self.gradients = self.parameters.dense, self.parameters.gradients
        self.buffers, self.number = Buffers(), Numbering(len(weights["embedding"]))

    def rows(self, name: str, batch: Structure, *shape: int) -> Tensor:
        """A buffer of ``shape`` for every direction and word."""
        return self.buffers(name, len(self.names), len(batch.labels), *shape)

    def forward(self, batch: Structure) -> Tensor:
        """Hidden states of both directions, ``(words, directions * hidden)``, in the rows of the forward one."""
        self._inputs(batch)
        h = self._steps(batch)
        if len(self.names) == 1:
            return h[0]
        joined = self.buffers("joined", len(batch.labels), 2 * self.hidden)
        return torch.cat((h[0], h[1].index_select(0, batch.mirror)), 1, out=joined)

    def _inputs(self, batch: Structure) -> None:
        """The input's share of all gates."""
        distinct = len(batch.words)
        x = torch.index_select(self.parameters.table, 0, batch.words, out=self.buffers("x", distinct, self.dim))
        product = self.buffers("products", distinct, 4 * self.hidden)
        gates = self.rows("gates", batch, 4 * self.hidden)
        for name, numbers, out in zip(self.names, batch.numbers, gates, strict=False):
            torch.addmm(self.dense[f"{name}.bias"], x, self.dense[f"{name}.input"].t(), out=product)
            torch.index_select(product, 0, numbers, out=out)

    def _steps(self, batch: Structure) -> Tensor:
        h, c, s = (self.rows(name, batch, self.hidden) for name in ("h", "c", "s"))
        gates = self.rows("gates", batch, 4, self.hidden)
        by_step = (gates, *gates.unbind(2), h, c, s)
        weights = [self.dense[f"{name}.state"].t() for name in self.names]
        columns = [part.split(batch.sizes, 1) for part in by_step]
        h_before, c_before = None, None
        for n, g, i, f, u, o, h1, c1, s1 in zip(batch.sizes, *columns, strict=True):
            if h_before is not None:
                for product, state, weight in zip(g.view(len(weights), n, -1), h_before[:, :n], weights, strict=True):
                    product.addmm_(state, weight)
            sigmoid_gates_(g, u)
            torch.addcmul(i, i, u, value=-2, out=c1)
            if c_before is not None:
                c1.addcmul_(f, c_before[:, :n])
            torch.mul(c1, -2, out=s1).sigmoid_()
            torch.addcmul(o, o, s1, value=-2, out=h1)
            h_before, c_before = h1, c1
        return h

    def logits(self, h: Tensor) -> Tensor:
        out = self.buffers("logits", len(h), self.classes)
        return torch.addmm(self.dense["head.bias"], h, self.dense["head.weight"].t(), out=out)

    def loss(self, batch: Structure, h: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient by the logits, both times the number of sentences."""
        logits = self.logits(h)
        logs = torch.log_softmax(logits, 1, out=self.buffers("logs", *logits.shape))
        labels = batch.labels.unsqueeze(1)
        value = -logs.gather(1, labels).sum()
        return value, logs.exp_().scatter_add_(1, labels, torch.full((len(labels), 1), -1.0))

    def backward(self, batch: Structure, h: Tensor, dlogits: Tensor) -> Tensor:
        """Sets the gradients of all parameters; returns that of the embeddings' rows ``batch.words``."""
        share = 1 / batch.sizes[0]
        out = self.gradients["head.weight"]
        torch.addmm(out, dlogits.t(), h, beta=0, alpha=share, out=out)
        torch.sum(dlogits, 0, out=self.gradients["head.bias"]).mul_(share)
        joined = self.buffers("dh joined", *h.shape)
        torch.addmm(joined, dlogits, self.dense["head.weight"], beta=0, alpha=share, out=joined)
        dh = self.rows("dh", batch, self.hidden)
        dh[0].copy_(joined[:, : self.hidden])
        if len(self.names) == 2:
            torch.index_select(joined[:, self.hidden :], 0, batch.mirror, out=dh[1])
        return self._inputs_backward(batch, self._steps_backward(batch, dh))

    def _steps_backward(self, batch: Structure, dh: Tensor) -> Tensor:
        """Sets the gradients of the state's weights; returns those of the gates."""
        h, c, s, by_c, dc = (self.rows(name, batch, self.hidden) for name in ("h", "c", "s", "by c", "dc"))
        gates, by_gate = (self.rows(name, batch, 4, self.hidden) for name in ("gates", "by gate"))
        slopes(*(part.flatten(0, 1) for part in (gates, s, by_gate, by_c)))
        first = batch.sizes[0]
        by_gate[:, :first, 1].zero_()
        by_gate[:, first:, 1].mul_(c.index_select(1, batch.before))
        dc.zero_()
        weights = [self.dense[f"{name}.state"] for name in self.names]
        by_step = by_gate, by_gate[:, :, :3], by_gate[:, :, 3], gates[:, :, 1], by_c, dh, dc, dc.unsqueeze(2)
        levels = list(zip(batch.sizes, *(part.split(batch.sizes, 1) for part in by_step), strict=True))
        for t in reversed(range(len(levels))):
            n, g, by_memory, o, f, y, dh1, dc1, dc3 = levels[t]
            dc1.addcmul_(dh1, y)
            by_memory.mul_(dc3)
            o.mul_(dh1)
            if t:
                dh_before, dc_before = levels[t - 1][6:8]
                torch.mul(dc1, f, out=dc_before[:, :n])
                for out, product, weight in zip(dh_before[:, :n], g.view(len(weights), n, -1), weights, strict=True):
                    out.addmm_(product, weight)
        flat = by_gate.flatten(2)
        for name, product, states in zip(self.names, flat, h, strict=True):
            before = states.index_select(0, batch.before)
            torch.mm(product[first:].t(), before, out=self.gradients[f"{name}.state"])
        return flat

    def _inputs_backward(self, batch: Structure, gates: Tensor) -> Tensor:
        distinct = len(batch.words)
        x, dx = (self.buffers(name, distinct, self.dim) for name in ("x", "dx"))
        product = self.buffers("products", distinct, 4 * self.hidden)
        for k, name in enumerate(self.names):
            product.zero_().index_add_(0, batch.numbers[k], gates[k])
            torch.mm(product.t(), x, out=self.gradients[f"{name}.input"])
            torch.sum(product, 0, out=self.gradients[f"{name}.bias"])
            torch.addmm(dx, product, self.dense[f"{name}.input"], beta=float(k > 0), out=dx)
        return dx

    def train_step(self, sentences: Sequence[Sentence]) -> float:
        with torch.inference_mode():
            self.watch.start()
            batch = structure(sentences, self.number)
            self.watch.lap("record")
            h = self.forward(batch)
            loss, dlogits = self.loss(batch, h)
            self.watch.lap("forward")
            gradient = self.backward(batch, h, dlogits)
            self.watch.lap("backward")
            self.parameters.update(batch.words, gradient, self.buffers)
            self.watch.lap("update")
            return loss.item() / len(sentences)

    def infer(self, sentences: Sequence[Sentence]) -> Array:
        with torch.inference_mode():
            batch = structure(sentences, self.number)
            best: Array = self.logits(self.forward(batch)).argmax(1).numpy()[batch.places]
            return best

    def loss_and_gradients(self, sentences: Sequence[Sentence]) -> tuple[float, dict[str, Array]]:
        """For tests: the loss, and the gradients under the names and in the layout of `benchmarks.peers`."""
        with torch.inference_mode():
            batch = structure(sentences, self.number)
            h = self.forward(batch)
            loss, dlogits = self.loss(batch, h)
            gradient = self.backward(batch, h, dlogits)
            return loss.item() / len(sentences), self.parameters.all_gradients(batch.words, gradient)


def setup(weights: Mapping[str, Array]) -> SequenceLSTM:
    """See `benchmarks.peers.SequenceSetup`."""
    return SequenceLSTM(weights)

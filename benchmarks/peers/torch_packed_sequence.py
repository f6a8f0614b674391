"""The LSTM over sentences in PyTorch as its users write it: a minibatch packed by length into ``torch.nn.LSTM``.

The look-up, the classifier and the loss read the packed words, so nothing is padded anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from benchmarks.harness import Stopwatch, threads_here
from benchmarks.peers import DIRECTIONS, LEARNING_RATE, Array
from benchmarks.sentences import Sentence


class SequenceLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(threads_here())
        self.watch = Stopwatch()
        self.table = torch.nn.Embedding.from_pretrained(torch.tensor(weights["embedding"]), freeze=False, sparse=True)
        self.lstm = _lstm(weights)
        self.head = [torch.nn.Parameter(torch.tensor(weights[name])) for name in ("head.weight", "head.bias")]
        self.optimizers = (
            torch.optim.SparseAdam(self.table.parameters(), lr=LEARNING_RATE),
            torch.optim.Adam([*_trained(self.lstm), *self.head], lr=LEARNING_RATE, fused=True),
        )

    def logits(self, words: PackedSequence) -> Tensor:
        """Of all words, packed."""
        states, _ = self.lstm(words._replace(data=self.table(words.data)))
        return F.linear(states.data, *self.head)

    def train_step(self, sentences: Sequence[Sentence]) -> float:
        self.watch.start()
        words, labels = (_packed([s[column] for s in sentences]) for column in range(2))
        self.watch.lap("record")
        loss = F.cross_entropy(self.logits(words), labels.data, reduction="sum") / len(sentences)
        value = loss.item()
        self.watch.lap("forward")
        loss.backward()  # type: ignore[no-untyped-call]
        self.watch.lap("backward")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.watch.lap("update")
        return value

    def infer(self, sentences: Sequence[Sentence]) -> Array:
        with torch.inference_mode():
            words = _packed([s.words for s in sentences])
            best = words._replace(data=self.logits(words).argmax(1))
            return torch.cat(torch.nn.utils.rnn.unpack_sequence(best)).numpy()


def _packed(columns: Sequence[Sequence[int]]) -> PackedSequence:
    return pack_sequence([torch.from_numpy(np.array(column)) for column in columns], enforce_sorted=False)


def _lstm(weights: Mapping[str, Array]) -> torch.nn.LSTM:
    """With biases of its own for the state, as PyTorch has it, that stay zero."""
    dim, hidden = weights["embedding"].shape[1], weights["forward.state"].shape[1]
    lstm = torch.nn.LSTM(dim, hidden, bidirectional="backward.state" in weights)
    for direction, suffix in zip(DIRECTIONS, ("", "_reverse"), strict=True):
        if f"{direction}.state" in weights:
            for ours, theirs in (("input", "weight_ih_l0"), ("state", "weight_hh_l0"), ("bias", "bias_ih_l0")):
                getattr(lstm, theirs + suffix).data[:] = torch.tensor(weights[f"{direction}.{ours}"])
            getattr(lstm, "bias_hh_l0" + suffix).requires_grad_(False).zero_()
    return lstm


def _trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def setup(weights: Mapping[str, Array]) -> SequenceLSTM:
    """See `benchmarks.peers.SequenceSetup`."""
    return SequenceLSTM(weights)

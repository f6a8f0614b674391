"""See `benchmarks.breadth.documents`. Batched: all sentences of the minibatch are packed, then all documents; attention
is masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_packed_sequence

from benchmarks.breadth.documents import CLASSES
from benchmarks.breadth.pytorch.ragged import packed


class Attention(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.reader = nn.GRU(size, hidden, bidirectional=True, batch_first=True)
        self.attend = nn.Linear(2 * hidden, 2 * hidden)
        self.context = nn.Parameter(torch.empty(2 * hidden))

    def one(self, xs: Tensor) -> Tensor:
        """A vector of one sequence (length, size)."""
        states, _ = self.reader(xs)
        return (self.attend(states).tanh() @ self.context).softmax(0) @ states

    def forward(self, xs: Tensor, lengths: Sequence[int]) -> Tensor:
        """A vector of each of the sequences of these lengths that lie one behind the other."""
        states, sizes = pad_packed_sequence(self.reader(packed(xs, lengths))[0], batch_first=True)
        scores = self.attend(states).tanh() @ self.context
        outside = torch.arange(scores.shape[1]) >= sizes[:, None]
        weights = scores.masked_fill(outside, float("-inf")).softmax(1)
        return (weights[:, None] @ states)[:, 0]


class Classifier(nn.Module):
    def __init__(self, words: int, size: int, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size, sparse=True)
        self.sentence = Attention(size, hidden)
        self.document = Attention(2 * hidden, hidden)
        self.output = nn.Linear(2 * hidden, CLASSES)

    def outputs(self, document: Any) -> list[Tensor]:
        vectors = [self.sentence.one(self.words(torch.tensor(sentence))) for sentence in document.sentences]
        return [self.output(self.document.one(torch.stack(vectors)))]

    def loss(self, document: Any) -> Tensor:
        (scores,) = self.outputs(document)
        return cross_entropy(scores, torch.tensor(document.label))

    def batch_outputs(self, batch: Sequence[Any]) -> list[Tensor]:
        texts = [sentence for document in batch for sentence in document.sentences]
        words = self.words(torch.tensor([word for sentence in texts for word in sentence]))
        vectors = self.sentence(words, [len(sentence) for sentence in texts])
        return [self.output(self.document(vectors, [len(document.sentences) for document in batch]))]

    def batch_loss(self, batch: Sequence[Any]) -> Tensor:
        (scores,) = self.batch_outputs(batch)
        return cross_entropy(scores, torch.tensor([document.label for document in batch]), reduction="sum")


model = Classifier

"""See `benchmarks.breadth.transformer`. Batched: padded, with a mask over what is padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from benchmarks.breadth.transformer import positions


class Encoder(nn.Module):
    def __init__(self, words: int, tags: int, size: int, heads: int, inner: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size, sparse=True)
        layer = nn.TransformerEncoderLayer(size, heads, inner, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.output = nn.Linear(size, tags)
        self.positions = torch.tensor(positions(size))

    def scores(self, sentence: Any) -> Tensor:
        x = self.words(torch.tensor(sentence.words)) + self.positions[: len(sentence.words)]
        return self.output(self.encoder(x))

    def outputs(self, sentence: Any) -> list[Tensor]:
        return [self.scores(sentence)]

    def loss(self, sentence: Any) -> Tensor:
        return cross_entropy(self.scores(sentence), torch.tensor(sentence.labels), reduction="sum")

    def batch_scores(self, batch: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Of all words, sentence by sentence."""
        words = pad_sequence([torch.tensor(sentence.words) for sentence in batch], batch_first=True)
        lengths = torch.tensor([len(sentence.words) for sentence in batch])
        outside = torch.arange(words.shape[1]) >= lengths[:, None]
        x = self.encoder(self.words(words) + self.positions[: words.shape[1]], src_key_padding_mask=outside)
        return self.output(x[~outside])

    def batch_outputs(self, batch: Sequence[Any]) -> list[Tensor]:
        return [self.batch_scores(batch)]

    def batch_loss(self, batch: Sequence[Any]) -> Tensor:
        labels = torch.tensor([label for sentence in batch for label in sentence.labels])
        return cross_entropy(self.batch_scores(batch), labels, reduction="sum")


model = Encoder

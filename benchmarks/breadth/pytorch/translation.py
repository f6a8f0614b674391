"""See `benchmarks.breadth.translation`. Batched: packed in the encoder, padded and masked in attention and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PADDING = -100  # what cross_entropy leaves out


class Translator(nn.Module):
    def __init__(self, words: int, size: int, hidden: int) -> None:
        super().__init__()
        self.source = nn.Embedding(words, size, sparse=True)
        self.target = nn.Embedding(words, size, sparse=True)
        self.encoder = nn.LSTM(size, hidden, bidirectional=True, batch_first=True)
        self.decoder = nn.LSTMCell(size, 2 * hidden)
        self.query = nn.Linear(2 * hidden, 2 * hidden, bias=False)
        self.join = nn.Linear(4 * hidden, size)
        self.output = nn.Linear(size, words)

    def scores(self, pair: Any) -> Tensor:
        read, (h, c) = self.encoder(self.source(torch.tensor(pair.source)))
        h, c, found = h.reshape(-1), c.reshape(-1), []
        for word in self.target(torch.tensor(pair.target[:-1])):
            h, c = self.decoder(word, (h, c))
            weights = (read @ self.query(h)).softmax(0)
            found.append(torch.cat([h, weights @ read]))
        return self.output(self.join(torch.stack(found)).tanh())

    def outputs(self, pair: Any) -> list[Tensor]:
        return [self.scores(pair)]

    def loss(self, pair: Any) -> Tensor:
        return cross_entropy(self.scores(pair), torch.tensor(pair.target[1:]), reduction="sum")

    def batch_scores(self, batch: Sequence[Any]) -> Tensor:
        """(pairs, the longest target, words)."""
        lengths = torch.tensor([len(pair.source) for pair in batch])
        source = pad_sequence([torch.tensor(pair.source) for pair in batch], batch_first=True)
        packed = pack_padded_sequence(self.source(source), lengths, batch_first=True, enforce_sorted=False)
        states, (h, c) = self.encoder(packed)
        read, _ = pad_packed_sequence(states, batch_first=True)
        outside = torch.arange(read.shape[1]) >= lengths[:, None]
        h, c = (x.transpose(0, 1).reshape(len(batch), -1) for x in (h, c))
        target = pad_sequence([torch.tensor(pair.target[:-1]) for pair in batch])
        found = []
        for words in self.target(target):
            h, c = self.decoder(words, (h, c))
            scores = (read @ self.query(h)[:, :, None])[:, :, 0].masked_fill(outside, float("-inf"))
            found.append(torch.cat([h, (scores.softmax(1)[:, None] @ read)[:, 0]], dim=1))
        return self.output(self.join(torch.stack(found, dim=1)).tanh())

    def batch_outputs(self, batch: Sequence[Any]) -> list[Tensor]:
        scores = self.batch_scores(batch)
        return [scores[k, : len(pair.target) - 1] for k, pair in enumerate(batch)]

    def batch_loss(self, batch: Sequence[Any]) -> Tensor:
        following = [torch.tensor(pair.target[1:]) for pair in batch]
        following = pad_sequence(following, batch_first=True, padding_value=PADDING)
        return cross_entropy(self.batch_scores(batch).flatten(0, 1), following.flatten(), reduction="sum")


model = Translator

"""See `benchmarks.breadth.tagger`. Batched: all words of the minibatch are spelled in one packed LSTM, and all its
sentences read in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.breadth.pytorch.ragged import packed, padded


class Tagger(nn.Module):
    def __init__(
        self, words: int, characters: int, tags: int, word_size: int, character_size: int, spelling: int, hidden: int
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, word_size, sparse=True)
        self.characters = nn.Embedding(characters, character_size, sparse=True)
        self.speller = nn.LSTM(character_size, spelling, bidirectional=True)
        self.reader = nn.LSTM(word_size + 2 * spelling, hidden, bidirectional=True)
        self.output = nn.Linear(2 * hidden, tags)

    # One sentence.

    def vector(self, word: Any) -> Tensor:
        _, (h, _) = self.speller(self.characters(torch.tensor(word.characters)))
        return torch.cat([self.words(torch.tensor(word.word)), h[0], h[1]])

    def scores(self, sentence: Sequence[Any]) -> Tensor:
        states, _ = self.reader(torch.stack([self.vector(word) for word in sentence]))
        return self.output(states)

    def outputs(self, sentence: Sequence[Any]) -> list[Tensor]:
        return [self.scores(sentence)]

    def loss(self, sentence: Sequence[Any]) -> Tensor:
        return cross_entropy(self.scores(sentence), torch.tensor([w.tag for w in sentence]), reduction="sum")

    # A minibatch.

    def batch_scores(self, batch: Sequence[Sequence[Any]]) -> Tensor:
        """Of all words, sentence by sentence."""
        words = [word for sentence in batch for word in sentence]
        lengths = [len(word.characters) for word in words]
        characters = torch.tensor([c for word in words for c in word.characters])
        spelled, sizes = padded(characters, lengths)  # numbers, which have no gradient
        spelled = pack_padded_sequence(self.characters(spelled), sizes, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.speller(spelled)
        vectors = torch.cat([self.words(torch.tensor([word.word for word in words])), h[0], h[1]], dim=1)
        states, _ = self.reader(packed(vectors, [len(s) for s in batch]))
        states, sizes = pad_packed_sequence(states, batch_first=True)
        mask = torch.arange(states.shape[1]) < sizes[:, None]
        return self.output(states[mask])

    def batch_outputs(self, batch: Sequence[Sequence[Any]]) -> list[Tensor]:
        return [self.batch_scores(batch)]

    def batch_loss(self, batch: Sequence[Sequence[Any]]) -> Tensor:
        tags = torch.tensor([word.tag for sentence in batch for word in sentence])
        return cross_entropy(self.batch_scores(batch), tags, reduction="sum")


model = Tagger

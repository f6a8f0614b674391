"""Sequence to sequence with attention (Luong et al. 2015): a BiLSTM over the source, an LSTM that looks at it at every
step and is told the word before."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import lazyflow as lf
from benchmarks import sentences
from benchmarks.breadth.base import Task
from lazyflow import nn

MOST = 2000  # words of either language; all others are one


class Pair(NamedTuple):
    """Words of the source, and of the target, which begins with the mark of a beginning and has an end."""

    source: tuple[int, ...]
    target: tuple[int, ...]


class Translator(nn.Module):
    """For one pair."""

    def __init__(self, words: int, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.source = nn.Embedding(words, size)
        self.target = nn.Embedding(words, size)
        self.encoder = nn.LSTM(size, hidden, bidirectional=True)
        self.decoder = nn.LSTMCell(size, 2 * hidden)
        self.query = nn.Linear(2 * hidden, 2 * hidden, bias=False)
        self.join = nn.Linear(4 * hidden, size)
        self.output = nn.Linear(size, words)

    def outputs(self, pair: Pair) -> list[lf.Expr]:
        states, (forward, backward) = self.encoder([self.source(word) for word in pair.source])
        read = lf.stack(states)  # (source, 2 hidden)
        state = lf.concatenate([forward[0], backward[0]]), lf.concatenate([forward[1], backward[1]])
        found = []
        for word in pair.target[:-1]:
            state = self.decoder(self.target(word), state)
            h, _ = state
            weights = lf.softmax(read @ self.query(h))
            context = weights @ read
            found.append(self.output(lf.tanh(self.join(lf.concatenate([h, context])))))
        return found

    def loss(self, pair: Pair) -> lf.Expr:
        return lf.sum([lf.cross_entropy(y, word) for y, word in zip(self.outputs(pair), pair.target[1:], strict=True)])


def read(folder: Path | None, count: int) -> tuple[list[Pair], int]:
    """Pairs of sentences, and how many words there are."""
    if folder is None:
        texts = sentences.synthetic_words(2 * count, 0, MOST)
        pairs = [Pair(tuple(a[:15]), (0, *b[:12], 1)) for a, b in zip(texts[::2], texts[1::2], strict=True)]
        return pairs, MOST
    source, target = (_numbered(folder / f"train.{language}.gz") for language in ("ja", "en"))
    return [Pair(tuple(a), (0, *b, 1)) for a, b in zip(source, target, strict=True) if a and b], MOST


def _numbered(path: Path) -> list[list[int]]:
    with gzip.open(path, "rt", encoding="utf-8") as text:
        lines = [line.split() for line in text]
    known = sentences.numbered((word for line in lines for word in line), first=3, most=MOST - 3)
    return [[known.get(word, 2) for word in line] for line in lines]


def tasks(options: Any) -> list[Task]:
    found, words = read(options.pairs, options.examples)
    sizes = {"size": 4, "hidden": 3} if options.small else {"size": 128, "hidden": 64}
    return [
        Task(
            "sequence to sequence with attention", 32, "1.4 and 1.1", found, {"words": words, **sizes}, Translator,
            pytorch="translation",
        )
    ]  # fmt: skip

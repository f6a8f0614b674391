"""Hierarchical attention over documents (Yang et al. 2016): a bidirectional GRU and attention over the words of each
sentence, and again over the sentences of the document, which is then classified."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import lazyflow as lf
from benchmarks import sentences
from benchmarks.breadth.base import Task
from lazyflow import nn

CLASSES = 5


class Document(NamedTuple):
    """Sentences of words, and the class of all of it."""

    sentences: tuple[tuple[int, ...], ...]
    label: int


class Attention(nn.Module):
    """One vector (2 hidden,) of a list of any length: a bidirectional GRU, and a weighted sum of its states."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.reader = nn.GRU(size, hidden, bidirectional=True)
        self.attend = nn.Linear(2 * hidden, 2 * hidden)
        self.context = lf.Parameter(np.random.default_rng(0).normal(0, 0.1, 2 * hidden).astype(np.float32))

    def forward(self, xs: list[lf.Expr]) -> lf.Expr:
        states = lf.stack(self.reader(xs)[0])  # (length, 2 hidden)
        weights = lf.softmax(lf.tanh(self.attend(states)) @ self.context)
        return weights @ states


class Classifier(nn.Module):
    """For one document."""

    def __init__(self, words: int, size: int, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size)
        self.sentence = Attention(size, hidden)
        self.document = Attention(2 * hidden, hidden)
        self.output = nn.Linear(2 * hidden, CLASSES)

    def outputs(self, document: Document) -> list[lf.Expr]:
        vectors = [self.sentence([self.words(word) for word in sentence]) for sentence in document.sentences]
        return [self.output(self.document(vectors))]

    def loss(self, document: Document) -> lf.Expr:
        (scores,) = self.outputs(document)
        return lf.cross_entropy(scores, document.label)


def documents(texts: Sequence[Sequence[int]], seed: int = 0) -> list[Document]:
    """Of 3 to 12 sentences that follow each other."""
    chance, found, start = random.Random(seed), [], 0
    while start < len(texts):
        end = start + chance.randint(3, 12)
        found.append(Document(tuple(tuple(text[:60]) for text in texts[start:end]), chance.randrange(CLASSES)))
        start = end
    return found


def tasks(options: Any) -> list[Task]:
    corpus = sentences.tagging(options.ud, 6 * options.examples)
    sizes = {"size": 4, "hidden": 3} if options.small else {"size": 100, "hidden": 50}
    return [
        Task(
            "hierarchical attention over documents", 16, "1.2 and 1.1", documents([s.words for s in corpus.train]),
            {"words": corpus.vocabulary_size, **sizes}, Classifier, pytorch="documents",
        )
    ]  # fmt: skip

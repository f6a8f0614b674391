"""A tagger whose words are spelled: BiLSTMs over the characters of a word, and over the words of a sentence (Plank et
al. 2016; the "tagger with characters" of DyNet's benchmarks)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lazyflow as lf
from benchmarks import sentences
from benchmarks.breadth.base import Task
from lazyflow import data, nn


class Word(NamedTuple):
    """A word, its characters and its tag, as numbers."""

    word: int
    characters: tuple[int, ...]
    tag: int


class Tagger(nn.Module):
    """For one sentence, a list of words."""

    def __init__(
        self, words: int, characters: int, tags: int, word_size: int, character_size: int, spelling: int, hidden: int
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, word_size)
        self.characters = nn.Embedding(characters, character_size)
        self.speller = nn.LSTM(character_size, spelling, bidirectional=True)
        self.reader = nn.LSTM(word_size + 2 * spelling, hidden, bidirectional=True)
        self.output = nn.Linear(2 * hidden, tags)

    def vector(self, word: Word) -> lf.Expr:
        _, (forward, backward) = self.speller([self.characters(c) for c in word.characters])
        return lf.concatenate([self.words(word.word), forward[0], backward[0]])

    def outputs(self, sentence: Sequence[Word]) -> list[lf.Expr]:
        states, _ = self.reader([self.vector(word) for word in sentence])
        return [self.output(h) for h in states]

    def loss(self, sentence: Sequence[Word]) -> lf.Expr:
        scores = self.outputs(sentence)
        return lf.sum([lf.cross_entropy(y, word.tag) for y, word in zip(scores, sentence, strict=True)])


def read(folder: Path | None, count: int) -> tuple[list[list[Word]], dict[str, int]]:
    """Sentences of the treebank, or generated ones, and how many words, characters and tags there are."""
    texts = _generated(count) if folder is None else _of_treebank(folder)
    words = sentences.numbered((form for text in texts for form, _ in text), first=0)
    characters = sentences.numbered((c for text in texts for form, _ in text for c in form), first=0)
    tags = sentences.numbered((tag for text in texts for _, tag in text), first=0)
    found = [[Word(words[f], tuple(characters[c] for c in f), tags[tag]) for f, tag in text] for text in texts]
    return found, {"words": len(words), "characters": len(characters), "tags": len(tags)}


def _of_treebank(folder: Path) -> list[list[tuple[str, str]]]:
    return [[(t.form, t.upos) for t in s.tokens] for s in data.read_conllu(sentences.file_of(folder))]


def _generated(count: int) -> list[list[tuple[str, str]]]:
    chance = random.Random(1)
    letters = "etaoinshrdlucmfwyp"
    known = ["".join(chance.choices(letters, k=min(14, 1 + int(chance.expovariate(0.25))))) for _ in range(8000)]
    texts = sentences.synthetic(count, 0, len(known), 17)
    return [[(known[w], str(y)) for w, y in zip(text.words, text.labels, strict=True)] for text in texts]


def tasks(options: Any) -> list[Task]:
    found, sizes = read(options.ud, options.examples)
    small = {"word_size": 4, "character_size": 3, "spelling": 2, "hidden": 5}
    full = {"word_size": 100, "character_size": 25, "spelling": 25, "hidden": 100}
    sizes.update(small if options.small else full)
    return [
        Task(
            "tagger with characters", 32, "1.4 and 1.1; to DyNet 1.5", found, sizes, Tagger, pytorch="tagger",
            dynet="dynet_tagger",
        )
    ]  # fmt: skip

"""The sentences that the sequence models run on: a treebank's, in CoNLL-U from a folder, or synthetic ones.

The synthetic ones need no data: log-normal lengths with a mean of about 24 words, as in English news text, and words
drawn by Zipf's law.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lazyflow import data

MEAN_LOG_LENGTH, DEVIATION_LOG_LENGTH, SHORTEST, LONGEST = 3.05, 0.5, 3, 80
UNKNOWN, START = 0, 1  # words that no text has


class Sentence(NamedTuple):
    """What to read and what to say at every word, as numbers."""

    words: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Sentences to train on; words are numbers below ``vocabulary_size``, labels below ``classes``."""

    name: str
    train: Sequence[Sentence]
    vocabulary_size: int
    classes: int


def length(rng: random.Random) -> int:
    """How many words a synthetic sentence has."""
    return min(LONGEST, max(SHORTEST, round(rng.lognormvariate(MEAN_LOG_LENGTH, DEVIATION_LOG_LENGTH))))


def synthetic(count: int, seed: int, vocabulary_size: int, classes: int) -> list[Sentence]:
    """``count`` sentences whose labels depend on the words alone, most of the time."""
    lengths = [length(rng) for rng in [random.Random(seed)] for _ in range(count)]
    rng = np.random.default_rng(seed)
    weights = np.cumsum((np.arange(vocabulary_size - 2) + 3.7) ** -1.1)
    words = np.searchsorted(weights, rng.random(sum(lengths)) * weights[-1]) + 2
    labels = np.where(rng.random(len(words)) < 0.9, words % classes, rng.integers(0, classes, len(words)))
    parts = (np.split(column, np.cumsum(lengths)[:-1]) for column in (words, labels))
    return [Sentence(tuple(w.tolist()), tuple(y.tolist())) for w, y in zip(*parts, strict=True)]


def tagging(folder: Path | None, count: int = 1024, seed: int = 0) -> Corpus:
    """Part-of-speech tags (``xpos``) of the training part of the treebank in ``folder``, or of synthetic sentences.

    Raises ``FileNotFoundError`` for a folder without a file ``*train.conllu`` or ``*train.conllu.gz``.
    """
    if folder is None:
        return Corpus("synthetic", synthetic(count, seed, 10_000, 50), 10_000, 50)
    read = data.read_conllu(file_of(folder))
    words = numbered(form for sentence in read for form in sentence.words)
    tags = numbered((token.xpos for sentence in read for token in sentence.tokens), first=0)
    train = [Sentence(tuple(words[w] for w in s.words), tuple(tags[t.xpos] for t in s.tokens)) for s in read]
    return Corpus(folder.name, train, len(words) + 2, len(tags))


def language(folder: Path | None, vocabulary_size: int = 1000, count: int = 1024, seed: int = 0) -> Corpus:
    """Next words, of the most frequent ``vocabulary_size``: the label at every word is the word after it."""
    if folder is None:
        return Corpus("synthetic", _next_words(synthetic_words(count, seed, vocabulary_size)), *(2 * [vocabulary_size]))
    read = data.read_conllu(file_of(folder))
    known = numbered((form for sentence in read for form in sentence.words), most=vocabulary_size - 2)
    texts = [[known.get(form, UNKNOWN) for form in sentence.words] for sentence in read]
    return Corpus(folder.name, _next_words(texts), vocabulary_size, vocabulary_size)


def synthetic_words(count: int, seed: int, vocabulary_size: int) -> list[Sequence[int]]:
    return [sentence.words for sentence in synthetic(count, seed, vocabulary_size, 1)]


def _next_words(texts: Iterable[Sequence[int]]) -> list[Sentence]:
    return [Sentence((START, *words[:-1]), tuple(words)) for words in texts]


def numbered(items: Iterable[str], first: int = 2, most: int | None = None) -> dict[str, int]:
    """Numbers from ``first`` on, the most frequent items first.

    >>> numbered(["b", "a", "b"])
    {'b': 2, 'a': 3}
    """
    return {item: first + k for k, (item, _) in enumerate(Counter(items).most_common(most))}


def file_of(folder: Path) -> Path:
    found = [path for suffix in ("", ".gz") for path in sorted(folder.glob(f"*train.conllu{suffix}"))]
    if not found:
        raise FileNotFoundError(f"expected a file *train.conllu or *train.conllu.gz in {folder}")
    return found[0]

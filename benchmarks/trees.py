"""The trees that the Tree-LSTM runs on: the Stanford Sentiment Treebank from a folder, or synthetic ones like it.

The synthetic trees need no data: their sizes, shapes, labels and repeated words follow the statistics of the
treebank's training part (Socher et al. 2013): 19.1 +- 9.3 words a tree, depth 9.8 +- 3.9, 18,280 word forms, 51% of the
words of 64 trees distinct.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lazyflow import data

CLASSES = 5
SST_VOCABULARY = 18_280
# Zipf-Mandelbrot weights 1 / (rank + shift) ** exponent, fitted to the share of distinct words in 64 and in 256 trees.
ZIPF_EXPONENT, ZIPF_SHIFT = 1.1, 2.7
LEAF_LABELS = (0.007, 0.048, 0.858, 0.070, 0.017)
INNER_LABELS = (0.046, 0.171, 0.512, 0.211, 0.060)
# How often the left or the right child of a node is a single word; otherwise every split is equally likely.
LEFT_WORD, RIGHT_WORD = 0.42, 0.12


class Tree(NamedTuple):
    """A binary tree: a label at every node, a word's number at the leaves (-1 elsewhere), two children or none."""

    label: int
    word: int
    children: tuple[Tree, ...]


@dataclass(frozen=True)
class Corpus:
    """Trees to train and to judge on; words are numbers below ``vocabulary_size``, 0 being the unknown word."""

    name: str
    train: Sequence[Tree]
    dev: Sequence[Tree]
    vocabulary_size: int


def nodes(tree: Tree) -> int:
    """How many nodes a tree has.

    >>> nodes(Tree(2, -1, (Tree(2, 0, ()), Tree(2, 1, ()))))
    3
    """
    return 1 + sum(nodes(child) for child in tree.children)


def words(tree: Tree) -> Iterator[int]:
    """The words of a tree from left to right."""
    if not tree.children:
        yield tree.word
    for child in tree.children:
        yield from words(child)


def synthetic(count: int, seed: int, vocabulary_size: int = SST_VOCABULARY) -> list[Tree]:
    """``count`` sentiment-like trees."""
    rng = random.Random(seed)
    weights = np.cumsum((np.arange(vocabulary_size) + 1 + ZIPF_SHIFT) ** -ZIPF_EXPONENT)
    lengths = [min(52, max(2, round(rng.gauss(19.1, 9.3)))) for _ in range(count)]
    drawn = np.searchsorted(weights, np.random.default_rng(seed).random(sum(lengths)) * weights[-1])
    vocabulary = iter(drawn.tolist())
    return [_grown(length, rng, vocabulary) for length in lengths]


def _grown(leaves: int, rng: random.Random, vocabulary: Iterator[int]) -> Tree:
    if leaves == 1:
        return Tree(_label(rng, LEAF_LABELS), next(vocabulary), ())
    left = _left_leaves(leaves, rng)
    children = _grown(left, rng, vocabulary), _grown(leaves - left, rng, vocabulary)
    return Tree(_label(rng, INNER_LABELS), -1, children)


def _left_leaves(leaves: int, rng: random.Random) -> int:
    draw = rng.random()
    if draw < LEFT_WORD:
        return 1
    return leaves - 1 if draw < LEFT_WORD + RIGHT_WORD else rng.randrange(1, leaves)


def _label(rng: random.Random, weights: Sequence[float]) -> int:
    return rng.choices(range(CLASSES), weights)[0]


def load(folder: Path | None, count: int = 1024, seed: int = 0) -> Corpus:
    """The treebank in ``folder`` (``train`` and ``dev``, ``.txt`` or ``.txt.gz``), or ``count`` synthetic trees.

    Raises ``FileNotFoundError`` for a folder without the files, and `lazyflow.errors.ParseError` for malformed ones.
    """
    if folder is None:
        drawn = synthetic(count + count // 8, seed)
        return Corpus("synthetic", drawn[:count], drawn[count:], SST_VOCABULARY)
    train, dev = (list(data.read_ptb_trees(_file(folder, part))) for part in ("train", "dev"))
    vocabulary = _vocabulary(train)
    encoded = [[_encoded(tree, vocabulary) for tree in part] for part in (train, dev)]
    return Corpus("SST", encoded[0], encoded[1], len(vocabulary) + 1)


def _file(folder: Path, part: str) -> Path:
    candidates = [folder / f"{part}{suffix}" for suffix in (".txt", ".txt.gz")]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise FileNotFoundError(f"expected {candidates[0]} or {candidates[1].name} there; sentiment trees, one a line")
    return found


def _vocabulary(trees: Sequence[data.Tree]) -> dict[str, int]:
    """The words of the trees, numbered from 1."""
    vocabulary: dict[str, int] = {}
    stack = list(reversed(trees))
    while stack:
        tree = stack.pop()
        stack.extend(reversed(tree.children))
        if tree.word is not None:
            vocabulary.setdefault(tree.word, len(vocabulary) + 1)
    return vocabulary


def _encoded(tree: data.Tree, vocabulary: dict[str, int]) -> Tree:
    word = -1 if tree.word is None else vocabulary.get(tree.word, 0)
    return Tree(int(tree.label), word, tuple(_encoded(child, vocabulary) for child in tree.children))


def minibatches(trees: Sequence[Tree], size: int, seed: int) -> list[Sequence[Tree]]:
    """All whole minibatches of one shuffled pass; one of all trees if there are fewer than ``size``."""
    shuffled = list(trees)
    random.Random(seed).shuffle(shuffled)
    return [shuffled[i : i + size] for i in range(0, len(shuffled) - size + 1, size)] or [shuffled]

"""Five families of graphs to count launches on: what models of these kinds record for a minibatch.

Each generator takes the number of examples and a seed and returns `Nodes`: flat arrays, operands before their users.
"""

from __future__ import annotations

import importlib.util
import random
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sentences
from benchmarks.trees import Tree, synthetic

Ints = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Nodes:
    """A graph: node ``i`` has signature ``signatures[i]`` (numbered from 0 without gaps) and the earlier nodes
    ``operands[starts[i]:starts[i + 1]]``. All int64."""

    signatures: Ints
    starts: Ints
    operands: Ints

    def __len__(self) -> int:
        return len(self.signatures)

    @property
    def signature_count(self) -> int:
        return int(self.signatures.max(initial=-1)) + 1


Family = Callable[[int, int], Nodes]


class Recorder:
    """Appends nodes; calling it with a signature's name and operands returns the new node's number."""

    def __init__(self) -> None:
        self.names: dict[Hashable, int] = {}
        self.signatures, self.starts, self.operands = array("q"), array("q", [0]), array("q")

    def __call__(self, name: Hashable, *operands: int) -> int:
        self.signatures.append(self.names.setdefault(name, len(self.names)))
        self.operands.extend(operands)
        self.starts.append(len(self.operands))
        return len(self.signatures) - 1

    def nodes(self) -> Nodes:
        columns = (np.array(column, np.int64) for column in (self.signatures, self.starts, self.operands))
        return Nodes(*columns)


def tree_lstm(examples: int, seed: int) -> Nodes:
    """A binary Tree-LSTM in plain operations, with a loss at every node of every tree."""
    record = Recorder()
    for tree in synthetic(examples, seed):
        _tree_lstm_state(record, tree)
    return record.nodes()


def _tree_lstm_state(record: Recorder, tree: Tree) -> tuple[int, int]:
    if tree.children:
        states = [_tree_lstm_state(record, child) for child in tree.children]
        gates = record("inner affine", record("concatenate", *(h for h, _ in states)))
        i, left, right, o, u = (record(("gate", k), gates) for k in range(5))
        c = record("multiply", record("sigmoid", i), record("tanh", u))
        for forget, (_, memory) in zip((left, right), states, strict=True):
            c = record("add", c, record("multiply", record("sigmoid", forget), memory))
    else:
        gates = record("leaf affine", record("embedding"))
        i, o, u = (record(("gate", k), gates) for k in range(3))
        c = record("multiply", record("sigmoid", i), record("tanh", u))
    h = record("multiply", record("sigmoid", o), record("tanh", c))
    record("cross entropy", record("head", h))
    return h, c


def bilstm_tagger(examples: int, seed: int) -> Nodes:
    """A tagger of two bidirectional LSTM layers in plain operations, with a loss at every word."""
    rng, record = random.Random(seed), Recorder()
    for _ in range(examples):
        xs = [record("embedding") for _ in range(sentences.length(rng))]
        for layer in range(2):
            forward = _lstm(record, ("forward", layer), xs)
            backward = _lstm(record, ("backward", layer), xs[::-1])[::-1]
            xs = [record("concatenate", *pair) for pair in zip(forward, backward, strict=True)]
        for x in xs:
            record("cross entropy", record("head", record("tanh of the hidden layer", record("hidden layer", x))))
    return record.nodes()


def _lstm(record: Recorder, name: Hashable, xs: Sequence[int]) -> list[int]:
    hs: list[int] = []
    c = -1
    for x in xs:
        gates = record((name, "affine"), x, hs[-1]) if hs else record((name, "first affine"), x)
        i, f, o, u = (record(("gate", k), gates) for k in range(4))
        new = record("multiply", record("sigmoid", i), record("tanh", u))
        c = record("add", new, record("multiply", record("sigmoid", f), c)) if hs else new
        hs.append(record("multiply", record("sigmoid", o), record("tanh", c)))
    return hs


def lattice(examples: int, seed: int) -> Nodes:
    """A lattice LSTM: a chain of character cells, and word cells that leap from a word's first character to its last.

    A character cell's signature says how many words end in it (up to three), for so many inputs it has.
    """
    rng, record = random.Random(seed), Recorder()
    for _ in range(examples):
        ending: dict[int, list[int]] = {}
        cell: tuple[int, ...] = ()
        length = rng.randint(10, 50)
        for position in range(length):
            arriving = ending.pop(position, [])[:3]
            cell = (record(("character", len(arriving), len(cell)), record("character embedding"), *cell, *arriving),)
            for last in _words_from(rng, position, length):
                ending.setdefault(last, []).append(record("word", *cell, record("word embedding")))
    return record.nodes()


def _words_from(rng: random.Random, first: int, length: int) -> Iterable[int]:
    """Last characters of the dictionary's words that begin here: of two characters often, of four seldom."""
    chances = ((2, 0.35), (3, 0.22), (4, 0.17))
    return [first + size - 1 for size, chance in chances if rng.random() < chance and first + size <= length]


def typed_trees(examples: int, seed: int) -> Nodes:
    """Binary trees of cells, the inner ones of three kinds, with a classifier at the root."""
    rng, record = random.Random(seed), Recorder()

    def cell(tree: Tree) -> int:
        if not tree.children:
            return record("leaf")
        return record(("inner", rng.randrange(3)), *[cell(child) for child in tree.children])

    for tree in synthetic(examples, seed):
        record("head", cell(tree))
    return record.nodes()


def nested_rnn(examples: int, seed: int) -> Nodes:
    """A recurrent network whose every step first runs another one, of a length of its own."""
    rng, record = random.Random(seed), Recorder()
    for _ in range(examples):
        outer = record("start")
        for _ in range(rng.randint(20, 40)):
            inner = outer
            for _ in range(rng.randint(5, 15)):
                inner = record("inner", inner)
            outer = record("outer", outer, inner)
    return record.nodes()


FAMILIES: dict[str, Family] = {f.__name__: f for f in (tree_lstm, bilstm_tagger, lattice, typed_trees, nested_rnn)}


def from_pairs(pairs: Iterable[tuple[Hashable, Sequence[int]]]) -> Nodes:
    """`Nodes` from a list of (signature, operands).

    >>> from_pairs([("leaf", []), ("leaf", []), ("add", [0, 1])]).operands.tolist()
    [0, 1]
    """
    record = Recorder()
    for name, operands in pairs:
        record(name, *operands)
    return record.nodes()


def load(path: Path) -> dict[str, Family]:
    """The ``FAMILIES`` of a Python file: functions of examples and seed that return (signature, operands) pairs."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python file with FAMILIES, got {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: _converted(function) for name, function in module.FAMILIES.items()}


def _converted(function: Callable[[int, int], Iterable[tuple[Hashable, Sequence[int]]]]) -> Family:
    return lambda examples, seed: from_pairs(function(examples, seed))

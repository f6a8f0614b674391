"""The parser's candidates: made with equal weights, checked for equal losses and trees, and measured."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lazyflow as lf
from benchmarks import harness, sentences
from benchmarks.decisions.base import Alone, Noting, Numbered, Oracle, Together, Unasked, example
from benchmarks.decisions.lazily import Lazily

MAP, LOOP, HAND, UNASKED = "lazyflow, lf.map", "lazyflow, one at a time", "lazyflow, by hand", "lazyflow, not asking"
PEERS = {"pytorch": "PyTorch", "dynet": "DyNet"}
SIZES = {"embedding": 100, "tag": 25, "lstm": 125, "hidden": 100}
SMALL = {"embedding": 6, "tag": 3, "lstm": 4, "hidden": 5}


class Task(NamedTuple):
    """Sentences in minibatches, and the example's parser, whose weights all candidates have."""

    batches: list[list[Numbered]]
    parser: Any
    sizes: Mapping[str, int]
    corpus: Any


def task(folder: Path | None, count: int, batch: int, small: bool) -> Task:
    """Of the treebank in ``folder``, or of generated sentences."""
    module = example("parser")
    corpus = module.generated(count, 0) if folder is None else module.treebank(sentences.file_of(folder))
    corpus = [corpus[k] for k in np.random.default_rng(0).permutation(len(corpus)).tolist()]
    lf.seed(0)
    sizes = SMALL if small else SIZES
    parser = module.Parser(corpus, *sizes.values()).eval()
    found = [numbered(parser, sentence) for sentence in corpus[:count]]
    return Task([found[k : k + batch] for k in range(0, len(found) - batch + 1, batch)], parser, sizes, corpus)


def numbered(parser: Any, sentence: Any) -> Numbered:
    """A sentence as the parser numbers it."""
    words = (parser.words[word.lower()] for word in sentence.words)
    root = example("parser").ROOT
    tags = (parser.tags[tag] for tag in (*sentence.tags, root))
    return Numbered((*words, parser.words[root]), tuple(tags), parser._gold(sentence))


def candidates(of: Task, libraries: Sequence[str]) -> dict[str, Alone]:
    """All, with equal weights, each with parameters of its own."""
    weights, oracle = of.parser.state_dict(), Oracle(of.parser)

    def ours() -> Lazily:
        parser = example("parser").Parser(of.corpus, *of.sizes.values()).eval()
        parser.load_state_dict(weights)
        return Lazily(parser)

    found: dict[str, Alone] = {
        MAP: Alone(ours(), oracle, lf.map),
        LOOP: Alone(ours(), oracle),
        HAND: Together(ours(), oracle),
        UNASKED: Unasked(ours(), oracle),
    }
    for name in libraries:
        setup = importlib.import_module(f"benchmarks.decisions.{'torch' if name == 'pytorch' else name}_parser").setup
        found[f"{PEERS[name]}, one at a time"] = Alone(setup(weights), oracle)
        found[f"{PEERS[name]}, by hand"] = Together(setup(weights), oracle)
    return found


def prepare(of: Task, found: Mapping[str, Alone], batch: Sequence[Numbered]) -> None:
    """Tell the one that does not ask what is decided on this minibatch under the weights as they are."""
    unasked = found[UNASKED]
    assert isinstance(unasked, Unasked)
    module, weights = unasked.library.parser, unasked.library.parser.state_dict()
    for kind, method in (("train", "train_step"), ("infer", "infer")):
        oracle = Noting(of.parser)
        getattr(Together(Lazily(module), oracle), method)(batch)
        unasked.learn(batch, oracle.found, kind)
        module.load_state_dict(weights)


def check_equal(of: Task, found: Mapping[str, Alone]) -> None:
    """Raise ``AssertionError`` unless all have the same trees, and the same losses over two steps of SGD."""
    batch = of.batches[0]
    prepare(of, found, batch)
    trees = {name: candidate.infer(batch) for name, candidate in found.items()}
    losses: dict[str, list[float]] = {name: [candidate.train_step(batch)] for name, candidate in found.items()}
    prepare(of, found, batch)
    for name, candidate in found.items():
        losses[name].append(candidate.train_step(batch))
        right = np.mean(
            [a == b for x, y in zip(trees[name], trees[MAP], strict=True) for a, b in zip(x, y, strict=True)]
        )
        assert right > 0.99, f"{name}: only {right:.1%} of the heads are those of {MAP}"  # ties may fall otherwise
        np.testing.assert_allclose(losses[name], losses[MAP], rtol=1e-3, err_msg=name)


def share(of: Task, candidate: Alone, method: str, round_: int) -> float:
    """Sentences a CPU second of one minibatch."""
    batch = of.batches[round_ % len(of.batches)]
    begin = time.process_time()
    getattr(candidate, method)(batch)
    return len(batch) / (time.process_time() - begin)


def measured(of: Task, found: Mapping[str, Alone], rounds: int) -> dict[str, Any]:
    """Medians of sentences a CPU second, and ratios within the rounds; all see the same minibatches."""
    results: dict[str, Any] = {}
    for kind, method in (("train", "train_step"), ("infer", "infer")):
        speeds: dict[str, list[float]] = {name: [] for name in found}
        for name, candidate in found.items():
            if name == UNASKED:
                prepare(of, found, of.batches[0])
            share(of, candidate, method, 0)  # what is made once, is made here

        def one(name: str, method: str, round_: int) -> float:
            if name == UNASKED:
                prepare(of, found, of.batches[round_ % len(of.batches)])
            return share(of, found[name], method, round_)

        speeds = harness.alternate({name: partial(one, name, method) for name in found}, rounds, f"parser, {kind}")
        results[kind] = {
            name: {
                "per_s": statistics.median(own),
                "rounds": own,
                "ratio": harness.paired_ratio(speeds[MAP], own),
            }
            for name, own in speeds.items()
        }
    return results


class Launches(NamedTuple):
    """Of one minibatch parsed by `lf.map`: rounds, launches, rows a launch of the scorer's first product, and the most
    that can be: with all sentences of a minibatch in every round until the longest ends."""

    rounds: int
    launches: int
    rows: float
    bound: float


def launches(of: Task, found: Mapping[str, Alone], batch: Sequence[Numbered]) -> Launches:
    """What ran."""
    with lf.rounds() as seen:
        found[MAP].infer(batch)
    own = [o for o in seen.operations if o.operation.startswith("affine")]
    steps = [2 * sentence.length for sentence in batch]
    count = sum(o.launches for o in own)
    return Launches(
        len(seen.seen), sum(o.launches for o in seen.operations), sum(o.rows for o in own) / count,
        sum(steps) / max(steps),
    )  # fmt: skip

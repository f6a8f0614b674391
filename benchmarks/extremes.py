"""Training on either end: one sentence of 20,000 words, and a minibatch of 10,000 trees of three leaves.

Training steps, beside DyNet and PyTorch batched by hand; all in the best forms of the other benchmarks.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks import harness, lazyflow_sequence, lazyflow_tree_lstm, peers
from benchmarks.sentences import Sentence
from benchmarks.trees import CLASSES, Tree

VOCABULARY = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--words", type=int, default=20_000, help="of the sentence")
    parser.add_argument("--trees", type=int, default=10_000, help="of the minibatch")
    parser.add_argument("--hidden", type=int, default=64, help="size of states and embeddings")
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS)


def sentence(words: int, rng: random.Random) -> Sentence:
    """One sentence, with a label at every word."""
    numbers = tuple(rng.randrange(VOCABULARY) for _ in range(words))
    return Sentence(numbers, tuple(word % CLASSES for word in numbers))


def small_tree(rng: random.Random) -> Tree:
    """Three leaves, two of them under one node."""
    one, two, three = (Tree(rng.randrange(CLASSES), rng.randrange(VOCABULARY), ()) for _ in range(3))
    return Tree(rng.randrange(CLASSES), -1, (Tree(rng.randrange(CLASSES), -1, (one, two)), three))


def sequences(hidden: int) -> dict[str, Any]:
    """The LSTM in every library that is installed."""
    weights = peers.initial_sequence_weights(VOCABULARY, hidden, hidden, CLASSES, 0, 1)
    found = {"lazyflow cell": lazyflow_sequence.FORMS["cell"](weights)}
    for name in ("dynet", "torch_batched"):
        setup = peers.find_sequence(name)
        if setup is not None:
            found[name] = setup(weights)  # type: ignore[assignment]
    return found


def tree_models(hidden: int) -> dict[str, Any]:
    """The Tree-LSTM in every library that is installed."""
    sizes = VOCABULARY, hidden, hidden, CLASSES, 0
    found: dict[str, Any] = {
        f"lazyflow {form}": lazyflow_tree_lstm.setup(*sizes, form=form) for form in ("plain", "cell")
    }
    setups = {name: peers.find(name) for name in ("dynet", "torch_batched")}
    return found | {name: setup(*sizes) for name, setup in setups.items() if setup is not None}


def seconds(model: Any, examples: Sequence[Any], round_: int) -> float:
    """Of one training step."""
    del round_
    start = time.perf_counter()
    model.train_step(examples)
    return time.perf_counter() - start


def compared(title: str, models: Mapping[str, Any], examples: Sequence[Any], repeats: int) -> dict[str, Any]:
    """Prints and returns the medians, and how many times faster each is than each peer, paired by round."""
    for model in models.values():
        model.train_step(examples)
    rounds = harness.alternate({n: partial(seconds, m, examples) for n, m in models.items()}, repeats, title)
    references = [name for name in models if not name.startswith("lazyflow")]
    medians = {name: statistics.median(found) for name, found in rounds.items()}
    ratios = {name: {r: harness.paired_ratio(rounds[r], rounds[name]) for r in references} for name in models}
    rows = [[name, medians[name], *(ratios[name][r] for r in references)] for name in models]
    print(f"\n{title}")
    print(harness.table(["", "s a step", *(f"/ {r}" for r in references)], rows), flush=True)
    return {"seconds": medians, "ratios": ratios}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns both tables."""
    rng = random.Random(0)
    long, small = [sentence(options.words, rng)], [small_tree(rng) for _ in range(options.trees)]
    titles = f"one sentence of {options.words:,} words", f"{options.trees:,} trees of three leaves"
    return {
        "sentence": compared(titles[0], sequences(options.hidden), long, options.repeats),
        "trees": compared(titles[1], tree_models(options.hidden), small, options.repeats),
    }

"""Resident memory over many minibatches of varying structure, and over a million small tapes: it must not grow."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from tqdm import tqdm

import lazyflow as lf
from benchmarks import harness, lazyflow_tree_lstm
from benchmarks.tree_lstm import add_model_arguments
from benchmarks.trees import CLASSES, load, minibatches

EVERY = 10
PARTS = 10  # of the tapes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=64, help="trees a minibatch (default: 64)")
    parser.add_argument("--batches", type=int, default=200, help="minibatches (default: 200)")
    parser.add_argument("--tapes", type=int, default=1_000_000, help="small tapes, a step each (default: 1000000)")


class SmallSteps:
    """A tape each: a few nodes of one of many lengths, a value that is read, a gradient now and then, and a tape that
    nobody computes."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.w, self.b = (lf.Parameter(rng.normal(size=8).astype(np.float32)) for _ in range(2))
        self.x = rng.normal(size=8).astype(np.float32)

    def record(self, number: int) -> lf.Expr:
        h = self.x * self.w
        for _ in range(number % 7):
            h = lf.tanh(h) * 0.5 + self.b
        return lf.sum(h)

    def __call__(self, number: int) -> None:
        with lf.using():
            loss = self.record(number)
            if number % 5 == 4:
                return  # never computed
            loss.item()
            if number % 5 == 0:
                self.w.zero_grad()
                loss.backward()


def resident_over_tapes(count: int) -> list[float]:
    """Resident megabytes after every tenth of so many tapes."""
    step, resident = SmallSteps(), []
    for number in tqdm(range(count), desc="tapes", leave=False, disable=None):
        step(number)
        if (number + 1) % max(1, count // PARTS) == 0:
            resident.append(harness.resident_bytes() / 1e6)
    return resident


def growth(resident: list[float]) -> float:
    """Over the second half."""
    return resident[-1] - resident[len(resident) // 2] if resident else 0.0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the resident megabytes after every tenth minibatch, and every tenth of the tapes, and the
    growth over the second half."""
    corpus = load(options.data)
    model = lazyflow_tree_lstm.setup(corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0)
    batches = minibatches(corpus.train, options.batch, seed=0)
    resident = []
    for number in tqdm(range(options.batches), desc="minibatches", leave=False, disable=None):
        model.train_step(batches[number % len(batches)])
        if (number + 1) % EVERY == 0:
            resident.append(harness.resident_bytes() / 1e6)
    rows = [[(i + 1) * EVERY, megabytes] for i, megabytes in enumerate(resident)]
    print(harness.table(["minibatches", "resident MB"], rows))
    print(f"growth over the second half: {growth(resident):.1f} MB")
    tapes = resident_over_tapes(options.tapes)
    each = max(1, options.tapes // PARTS)
    print(harness.table(["tapes", "resident MB"], [[(i + 1) * each, megabytes] for i, megabytes in enumerate(tapes)]))
    print(f"growth over the second half: {growth(tapes):.1f} MB")
    return {
        "corpus": corpus.name,
        "batch": options.batch,
        "resident_mb": resident,
        "growth_second_half_mb": growth(resident),
        "tapes": options.tapes,
        "tapes_resident_mb": tapes,
        "tapes_growth_second_half_mb": growth(tapes),
    }

"""Resident memory while training over many minibatches of varying structure: it must not grow."""

from __future__ import annotations

import argparse
from typing import Any

from tqdm import tqdm

from benchmarks import harness, lazyflow_tree_lstm
from benchmarks.tree_lstm import add_model_arguments
from benchmarks.trees import CLASSES, load, minibatches

EVERY = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=64, help="trees a minibatch (default: 64)")
    parser.add_argument("--batches", type=int, default=200, help="minibatches (default: 200)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the resident megabytes after every tenth minibatch, and the growth over the second half."""
    corpus = load(options.data)
    model = lazyflow_tree_lstm.setup(corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0)
    batches = minibatches(corpus.train, options.batch, seed=0)
    resident = []
    for number in tqdm(range(options.batches), desc="minibatches", leave=False, disable=None):
        model.train_step(batches[number % len(batches)])
        if (number + 1) % EVERY == 0:
            resident.append(harness.resident_bytes() / 1e6)
    growth = resident[-1] - resident[len(resident) // 2]
    rows = [[(i + 1) * EVERY, megabytes] for i, megabytes in enumerate(resident)]
    print(harness.table(["minibatches", "resident MB"], rows))
    print(f"growth over the second half: {growth:.1f} MB")
    return {"corpus": corpus.name, "batch": options.batch, "resident_mb": resident, "growth_second_half_mb": growth}

"""Peak memory of a training step at 256 trees a minibatch: lazyflow beside PyTorch batched by hand, a process each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import harness, lazyflow_tree_lstm, peers
from benchmarks.tree_lstm import add_model_arguments
from benchmarks.trees import CLASSES, load, minibatches

REFERENCE = "torch_batched"
MEASURED = (*(f"lazyflow {form}" for form in lazyflow_tree_lstm.FORMS), REFERENCE, "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=256, help="trees a minibatch (default: 256)")
    parser.add_argument("--steps", type=int, default=5, help="training steps (default: 5)")


def setup_of(name: str, sizes: Sequence[int]) -> peers.TreeModel | None:
    """A candidate by its name, or None if its library is not installed."""
    library, _, form = name.partition(" ")
    if library == "lazyflow":
        return lazyflow_tree_lstm.setup(*sizes, form=form)
    setup = peers.find(name)
    return None if setup is None else setup(*sizes)


def measure(name: str, data: Path | None, embedding: int, hidden: int, batch: int, steps: int) -> list[float] | None:
    """Resident megabytes before the first whole minibatch, and the most there ever were after it began.

    A step on one tree before loads what the libraries load when they are first asked.
    """
    corpus = load(data)
    model = setup_of(name, (corpus.vocabulary_size, embedding, hidden, CLASSES, 0))
    if model is None:
        return None
    batches = minibatches(corpus.train, batch, seed=0)
    model.train_step(corpus.train[:1])
    before = harness.resident_bytes()
    harness.forget_peak()
    for number in range(steps):
        model.train_step(batches[number % len(batches)])
    return [before / 1e6, harness.peak_bytes() / 1e6]


def alone(name: str, options: argparse.Namespace) -> list[float] | None:
    """`measure` in a fresh process."""
    arguments = options.data, options.embedding, options.hidden, options.batch, options.steps
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, name, *arguments).result()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns, for each candidate, the megabytes before, at the peak, and what the steps added."""
    found = {name: alone(name, options) for name in MEASURED}
    steps = {name: megabytes[1] - megabytes[0] for name, megabytes in found.items() if megabytes}
    rows = [[name, *megabytes, steps[name], _share(steps, name)] for name, megabytes in found.items() if megabytes]
    for name in [name for name, megabytes in found.items() if megabytes is None]:
        print(f"{name}: not installed")
    print(harness.table(["", "MB before", "MB at the peak", "MB of a step", f"/ {REFERENCE}"], rows))
    return {"batch": options.batch, "megabytes": found, "step_mb": steps}


def _share(steps: dict[str, float], name: str) -> float | None:
    return steps[name] / steps[REFERENCE] if REFERENCE in steps else None

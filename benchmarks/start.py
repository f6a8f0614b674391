"""What a program waits for before it is at speed: import, the first minibatch, lengths that never come twice.

And how many megabytes are installed. Each is measured in a fresh interpreter, several times; beside NumPy's import.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks import harness
from lazyflow import nn, optim

SIZES = 16, 16  # embedding and hidden: what is not arithmetic is to be seen
STEPS, SENTENCES, LONGEST = 400, 4, 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS)


class Tagger(nn.Module):
    """An LSTM over a sentence of numbers, in cells, with a loss at every word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cell, self.head = nn.Embedding(1000, SIZES[0]), nn.LSTMCell(*SIZES), nn.Linear(SIZES[1], 10)

    def loss(self, words: list[int]) -> lf.Expr:
        """The loss of one sentence."""
        state, losses = None, []
        for word in words:
            state = self.cell(self.words(word), state)
            losses.append(lf.cross_entropy(self.head(state[0]), word % 10))
        return lf.sum(losses)


def minibatches(count: int) -> list[list[list[int]]]:
    """Sentences of random lengths."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 1000, rng.integers(2, LONGEST)).tolist() for _ in range(SENTENCES)] for _ in range(count)]


def steps(count: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each training step."""
    model, found = Tagger(), []
    optimizer = optim.Adam(model.parameters())
    for sentences in minibatches(count):
        start = clock()
        lf.mean([model.loss(words) for words in sentences]).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(clock() - start)
    return found


def first_minibatch() -> float:
    """Seconds that the first minibatch takes longer than the tenth."""
    found = steps(10, time.perf_counter)
    return found[0] - found[-1]


def all_steps() -> float:
    """CPU seconds of all steps."""
    return sum(steps(STEPS, time.process_time))


def measured(part: Callable[[], float]) -> float:
    """What a fresh interpreter measures."""
    command = [sys.executable, "-c", f"from benchmarks import start; print(start.{part.__name__}())"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def imported(module: str) -> float:
    """Seconds until a fresh interpreter has imported a module and ended. With bytecode, as an installed package has it:
    compiling all sources takes several times as long."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", f"import {module}"]
    subprocess.run(command, check=True, env=environment)  # which writes it
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment)
    return time.perf_counter() - start


def installed() -> float:
    """Megabytes of the package's files, the compiled ones among them; what its compiler has left is not installed."""
    files = [f for f in Path(lf.__file__).parent.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    left = {".c", ".pyx"}
    return sum(f.stat().st_size for f in files if f.suffix not in left) / 1e6


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the medians."""
    runs = {
        "import numpy, s": lambda _: imported("numpy"),
        "import lazyflow, s": lambda _: imported("lazyflow"),
        "first minibatch beyond the tenth, s": lambda _: measured(first_minibatch),
        f"{STEPS} steps of random lengths, CPU s": lambda _: measured(all_steps),
    }
    rounds = harness.alternate(runs, options.repeats, "start")
    medians = {name: statistics.median(values) for name, values in rounds.items()} | {"installed, MB": installed()}
    print(harness.table(["", ""], [[name, value] for name, value in medians.items()]))
    return {"medians": medians}

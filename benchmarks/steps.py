"""Microseconds of a step whose value is looked at before the next is recorded, beside DyNet and PyTorch.

    h = tanh(W h + b);  h[0].item()

once more and again, as in a parser, a beam search or a simulation: nothing can be batched, and what a library does
before and after the arithmetic is all. The states have gradients; ``train`` goes back through all steps at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks import harness, peers

SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 10_000], help="how many steps follow each other")
    parser.add_argument("--train", type=int, default=100, help="steps before each backward")
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS)


class Steps:
    """The steps in lazyflow; the peers have the same methods."""

    def __init__(self, weight: peers.Array, bias: peers.Array) -> None:
        self.weight, self.bias = lf.Parameter(weight), lf.Parameter(bias)
        self.start = np.ones(len(bias), np.float32)

    def run(self, count: int) -> lf.Expr:
        """The state after so many steps, each of which was looked at."""
        h = lf.constant(self.start)
        for _ in range(count):
            h = lf.tanh(lf.affine(self.weight, self.bias, h))
            h[0].item()
        return h

    def train(self, count: int) -> None:
        """The steps, and the gradients of the sum of the last state."""
        lf.sum(self.run(count)).backward()
        for parameter in (self.weight, self.bias):
            parameter.zero_grad()


def microseconds(run: Callable[[], object], count: int, round_: int) -> float:
    """Of one of ``count`` steps."""
    del round_
    start = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - start) / count


def first_value(round_: int) -> float:
    """Microseconds of a forward of one node on values that are there."""
    found = []
    for k in range(50):
        x = lf.constant(np.full(SIZE, 0.1 * round_ + k, np.float32))
        x.forward()
        start = time.perf_counter()
        lf.tanh(x).forward()
        found.append(1e6 * (time.perf_counter() - start))
    return statistics.median(found)


def models() -> dict[str, Any]:
    """The steps in every library that is installed, from the same weights."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(-0.2, 0.2, (SIZE, SIZE)).astype(np.float32), rng.uniform(-0.1, 0.1, SIZE).astype(np.float32)
    setups = {"lazyflow": Steps} | {name: peers.find_steps(name) for name in peers.STEPS_MODULES}
    return {name: setup(*weights) for name, setup in setups.items() if setup is not None}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the medians, and each peer's by lazyflow's in the same round."""
    found = models()
    missing = [name for name in peers.STEPS_MODULES if name not in found]
    print(*[f"{name}: not installed" for name in missing], sep="\n", end="\n" if missing else "")
    runs: dict[str, Callable[[int], float]] = {"a node, lazyflow": first_value}
    for name, model in found.items():
        for count in options.steps:
            runs[f"{count:,} steps, {name}"] = partial(microseconds, partial(model.run, count), count)
        runs[f"train {options.train:,}, {name}"] = partial(
            microseconds, partial(model.train, options.train), options.train
        )
    rounds = harness.alternate(runs, options.repeats, "steps")
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    print(harness.table(["", "us a step"], [[name, value] for name, value in medians.items()]))
    return {"microseconds": medians}

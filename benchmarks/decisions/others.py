"""What a round costs, early and late; early exit, a stack machine and a sampling decoder, with `lf.map` and one at a
time; and what `lf.map` costs where nothing is asked for."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks import harness
from benchmarks.decisions.base import example
from lazyflow import nn, optim

SIZE = 8  # of the vectors that a round asks for


def round_costs(rounds: int, examples: int, grad: bool) -> dict[str, float]:
    """Microseconds of a round in which each example asks for one vector, at the beginning and at the end, without its
    kernels and without what recording it alone takes: medians of some dozens of rounds."""
    lf.seed(0)
    step = nn.Linear(SIZE, SIZE)
    clock: list[float] = []

    def episode(number: int) -> None:
        h = lf.constant(np.full(SIZE, number, np.float32))
        for _ in range(rounds):
            h = lf.tanh(step(h))
            if not number:
                clock.append(time.thread_time())
            h.numpy()

    with contextlib.nullcontext() if grad else lf.no_grad():
        lf.map(episode, range(examples))
    whole = np.diff(clock) * 1e6
    beside = _kernels(examples) + _recording(step, examples)
    few = max(rounds // 20, 1)
    return {
        "first": float(np.median(whole[1 : 1 + few])) - beside,
        "last": float(np.median(whole[-few:])) - beside,
        "beside": beside,
    }


def _kernels(examples: int) -> float:
    x, w, out = (np.ones(shape, np.float32) for shape in ((examples, SIZE), (SIZE, SIZE), (examples, SIZE)))
    begin = time.thread_time()
    for _ in range(1000):
        np.matmul(x, w.T, out=out)
        np.add(out, w[0], out=out)
        np.tanh(out, out=out)
    return (time.thread_time() - begin) * 1e3


def _recording(step: nn.Linear, examples: int) -> float:
    begin = time.thread_time()
    for _ in range(examples):
        h = lf.constant(np.ones(SIZE, np.float32))
        for _ in range(100):
            h = lf.tanh(step(h))
    return (time.thread_time() - begin) * 1e4


class Writer(nn.Module):
    """A decoder that draws its next word and stops at the first of all."""

    def __init__(self, words: int, hidden: int) -> None:
        super().__init__()
        self.word, self.cell = nn.Embedding(words, hidden), nn.GRUCell(hidden, hidden)
        self.scores = nn.Linear(hidden, words)

    def write(self, start: int, most: int = 40) -> list[int]:
        written, h = [start], None
        while written[-1] and len(written) < most:
            h = self.cell(self.word(written[-1]), h)
            written.append(int(lf.sample(self.scores(h), top=20).item()))
        return written


Run = Callable[[Callable[..., Any], Any], list[Any]]


def one_by_one(function: Callable[..., Any], examples: Any) -> list[Any]:
    """What `lf.map` is compared with: the plain loop."""
    return [function(example) for example in examples]


def tasks(small: bool) -> dict[str, Callable[[Run], object]]:
    """What is run by either, by name."""
    lf.seed(0)
    count, hidden = (6, 6) if small else (64, 64)
    early, stack = example("early_exit"), example("stack_machine")
    reader, views = early.Reader(16, hidden, 4, 0.95), early.generated(count, 0)
    machine, expressions = stack.Machine(hidden // 2, hidden), stack.generated(count, 0)
    writer, starts = Writer(50 if small else 1000, hidden), [1 + k % 20 for k in range(count)]
    rate = 1e-6  # the models stay as they are: what is compared is the same work
    slow = [optim.SGD(model.parameters(), lr=rate) for model in (reader, machine)]

    def writes(run: Run) -> None:
        lf.seed(1)
        with lf.no_grad():
            run(writer.write, starts)

    return {
        "early exit, training": lambda run: early.train(reader, slow[0], [views], run),
        "early exit, inference": lambda run: early.evaluate(reader, [views], run),
        "stack machine, training": lambda run: stack.train(machine, slow[1], [expressions], run),
        "stack machine, inference": lambda run: stack.evaluate(machine, [expressions], run),
        "sampling decoder": writes,
    }


def seconds(task: Callable[[Run], object], run: Run, _: int) -> float:
    begin = time.process_time()
    task(run)
    return time.process_time() - begin


def gains(small: bool, rounds: int) -> dict[str, dict[str, Any]]:
    """How many times faster `lf.map` is than the plain loop."""
    found = {}
    for name, task in tasks(small).items():
        for run in (lf.map, one_by_one):
            task(run)
        runs: Mapping[str, Any] = {"map": partial(seconds, task, lf.map), "loop": partial(seconds, task, one_by_one)}
        taken = harness.alternate(runs, rounds, name)
        ratio = harness.paired_ratio(taken["loop"], taken["map"])
        found[name] = {"ratio": ratio, **{k: statistics.median(own) for k, own in taken.items()}}
    return found


def overhead(small: bool, rounds: int) -> float:
    """By which part a training step of a BiLSTM over sentences takes longer by `lf.map`, which nothing asks for."""
    lf.seed(0)
    size, count = (4, 6) if small else (100, 32)
    lstm, rng = nn.LSTM(size, size), np.random.default_rng(0)
    xs = [rng.normal(size=(int(rng.integers(5, 20)), size)).astype(np.float32) for _ in range(count)]

    def loss(x: Any) -> lf.Expr:
        outputs, _ = lstm([lf.constant(row) for row in x])
        return lf.sum([lf.sum(h) for h in outputs])

    def step(run: Run) -> None:
        lf.mean(run(loss, xs)).backward()
        for parameter in lstm.parameters():
            parameter.grad = None

    for run in (lf.map, one_by_one):
        step(run)
    runs: Mapping[str, Any] = {"map": partial(seconds, step, lf.map), "loop": partial(seconds, step, one_by_one)}
    taken = harness.alternate(runs, 5 * rounds, "nothing asked")
    return harness.paired_ratio(taken["map"], taken["loop"]) - 1

"""A classifier that looks until it is sure, written for one example in a plain loop, trained and run in batches.

    python examples/early_exit.py

Every example is a row of noisy views of one of several patterns; some are hard to see. A recurrent network reads one
view after another and stops as soon as one class has more than ``--sure`` of the probability. `lf.map` runs the
examples that still look together.

Prints accuracy and the mean number of views on held-out examples after every epoch, then both for several thresholds,
and in the end what batching has gained.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import lazyflow as lf
from lazyflow import data, nn, optim


class Example(NamedTuple):
    """Views of a pattern, an array of shape (number, size), and which pattern it is."""

    views: Any
    label: int


class Answer(NamedTuple):
    """A class, and after how many views it was given."""

    label: int
    views: int


class Reader(nn.Module):
    """Reads views until it is sure."""

    def __init__(self, size: int, hidden: int, classes: int, sure: float) -> None:
        super().__init__()
        self.cell = nn.GRUCell(size, hidden)
        self.output = nn.Linear(hidden, classes)
        self.sure = sure

    def answer(self, example: Example) -> Answer:
        """The class of ONE example, as soon as one is likely enough."""
        h, best = None, 0
        for count, view in enumerate(example.views, 1):
            h = self.cell(view, h)
            chances = lf.softmax(self.output(h)).numpy()
            best = int(chances.argmax())
            if chances[best] > self.sure:
                return Answer(best, count)
        return Answer(best, len(example.views))

    def loss(self, example: Example) -> lf.Expr:
        """The mean loss of ONE example over the views that it takes: what is not read need not be right."""
        h, losses = None, []
        for view in example.views:
            h = self.cell(view, h)
            scores = self.output(h)
            losses.append(lf.cross_entropy(scores, example.label))
            if lf.max(lf.softmax(scores)) > self.sure:
                break
        return lf.mean(losses)


Run = Callable[[Callable[[Example], Any], Sequence[Example]], list[Any]]


def one_by_one(function: Callable[[Example], Any], examples: Sequence[Example]) -> list[Any]:
    """What `lf.map` is compared with."""
    return [function(example) for example in examples]


def train(model: Reader, optimizer: optim.Optimizer, batches: Iterable[list[Example]], run: Run = lf.map) -> float:
    """One update for every minibatch; returns the mean loss."""
    values = []
    for batch in batches:
        loss = lf.mean(run(model.loss, batch))
        loss.backward()
        values.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return sum(values) / len(values)


@lf.no_grad()
def evaluate(model: Reader, batches: Iterable[list[Example]], run: Run = lf.map) -> tuple[float, float]:
    """The share of right answers, and the mean number of views."""
    pairs = [pair for batch in batches for pair in zip(batch, run(model.answer, batch), strict=True)]
    right = sum(answer.label == example.label for example, answer in pairs)
    return right / len(pairs), sum(answer.views for _, answer in pairs) / len(pairs)


def generated(count: int, seed: int, views: int = 12, size: int = 16, classes: int = 4) -> list[Example]:
    """Examples of patterns that are the same for every seed; how noisy one is differs."""
    patterns = np.random.default_rng(7).normal(size=(classes, size))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label, noise = int(rng.integers(classes)), rng.uniform(0.5, 4.0)
        found.append(Example((patterns[label] + noise * rng.normal(size=(views, size))).astype(np.float32), label))
    return found


def compare(model: Reader, optimizer: optim.Optimizer, batch: list[Example]) -> None:
    """What `lf.map` has gained, on the given minibatch."""
    tasks: dict[str, Callable[[Run], Any]] = {
        "training": lambda run: train(model, optimizer, [batch], run),
        "answering": lambda run: evaluate(model, [batch], run),
    }
    print(f"\n{len(batch)} examples a minibatch")
    for name, task in tasks.items():
        speeds = []
        for run in (lf.map, one_by_one):
            begin = time.process_time()
            task(run)
            speeds.append(len(batch) / (time.process_time() - begin))
        print(f"{name:>9}: {speeds[0]:6.0f} examples/s with lf.map, {speeds[1]:6.0f} one by one")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="passes over the examples (6, with --quick 3)")
    parser.add_argument("--batch", type=int, default=64, help="examples a minibatch")
    parser.add_argument("--hidden", type=int, default=32, help="size of the network's state")
    parser.add_argument("--sure", type=float, default=0.95, help="the probability at which it stops")
    parser.add_argument("--lr", type=float, default=0.005, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer examples: only to see that it works")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make examples, train, and compare."""
    options = parsed(arguments)
    lf.seed(options.seed)
    examples = generated(384 if options.quick else 4096, options.seed)
    corpus, dev = examples[len(examples) // 6 :], examples[: len(examples) // 6]
    model = Reader(size=16, hidden=options.hidden, classes=4, sure=options.sure)
    optimizer = optim.Adam(model.parameters(), lr=options.lr)
    batches = data.batches(corpus, options.batch, shuffle=True, seed=options.seed)
    held_out = data.batches(dev, 256)
    print(f"{len(corpus)} examples to train and {len(dev)} held out, of {len(dev[0].views)} views at most")
    for epoch in range(1, 1 + (options.epochs or (3 if options.quick else 6))):
        loss = train(model, optimizer, batches)
        right, views = evaluate(model, held_out)
        print(f"epoch {epoch:2}: loss {loss:6.3f}, accuracy on held-out examples {right:6.1%} after {views:4.1f} views")
    for model.sure in (0.6, 0.8, 0.9, 0.99, 1.0):
        right, views = evaluate(model, held_out)
        print(f"sure at {model.sure:4.2f}: accuracy {right:6.1%} after {views:4.1f} views")
    model.sure = options.sure
    compare(model, optimizer, dev[: options.batch])


if __name__ == "__main__":
    main()

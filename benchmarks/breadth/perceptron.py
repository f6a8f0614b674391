"""A perceptron 784-256-10, an image of 28 x 28 an example: the model that gains least, as nothing differs between
examples; also with a batch axis put in by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import lazyflow as lf
from benchmarks.breadth.base import Array, Lazily, Task
from lazyflow import nn


class Image(NamedTuple):
    """Grey values, and the class."""

    pixels: Array
    label: int


class Perceptron(nn.Module):
    """For one image."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden)
        self.output = nn.Linear(hidden, 10)

    def forward(self, x: Any) -> lf.Expr:
        return self.output(lf.relu(self.hidden(x)))

    def outputs(self, image: Image) -> list[lf.Expr]:
        return [self(image.pixels)]

    def loss(self, image: Image) -> lf.Expr:
        return lf.cross_entropy(self(image.pixels), image.label)


class WithBatchAxis(Lazily):
    """The same module on the stacked pixels of a minibatch."""

    def record(self, examples: Sequence[Image]) -> lf.Expr:
        labels = np.array([image.label for image in examples])
        return lf.mean(lf.cross_entropy(self.module(np.stack([image.pixels for image in examples])), labels))

    def infer(self, examples: Sequence[Image]) -> list[Array]:
        with self.settings(), lf.no_grad():
            return [self.module(np.stack([image.pixels for image in examples])).numpy()]


def images(count: int, *shape: int) -> list[Image]:
    """Noise with a place that depends on the class."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        pixels, label = rng.random(shape, np.float32), int(rng.integers(10))
        pixels.reshape(-1)[label::10] += 0.5
        found.append(Image(pixels, label))
    return found


def tasks(options: Any) -> list[Task]:
    sizes = {"size": 12, "hidden": 5} if options.small else {"size": 784, "hidden": 256}
    return [
        Task(
            "perceptron an example", 128, "0.9 and 0.8; kept, or with a batch axis, 1.0",
            images(options.examples, sizes["size"]), sizes, Perceptron, pytorch="perceptron",
            further={"batch axis": WithBatchAxis},
        )
    ]  # fmt: skip

"""Convolutions on small images, one an example: two of 3 x 3 with pooling, and a linear layer (LeCun et al. 1998)."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks.breadth.base import Task
from benchmarks.breadth.perceptron import Image, images
from lazyflow import nn


class Network(nn.Module):
    """For one image (1, side, side)."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Linear(2 * channels * (side // 4) ** 2, 10)

    def forward(self, x: Any) -> lf.Expr:
        x = self.pool(lf.relu(self.first(x)))
        x = self.pool(lf.relu(self.second(x)))
        return self.output(x.reshape(-1))

    def outputs(self, image: Image) -> list[lf.Expr]:
        return [self(image.pixels)]

    def loss(self, image: Image) -> lf.Expr:
        return lf.cross_entropy(self(image.pixels), image.label)


def digits(folder: Path) -> list[Image]:
    """Handwritten digits of 8 x 8."""
    with gzip.open(folder / "optdigits.tra.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2)
    pixels = (table[:, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    return [Image(x, int(label)) for x, label in zip(pixels, table[:, 64], strict=True)]


def tasks(options: Any) -> list[Task]:
    channels = 2 if options.small else 16
    of_8 = images(options.examples, 1, 8, 8) if options.digits is None else digits(options.digits)
    return [
        Task(
            f"convolutions on {side} x {side}", 64, "0.8 and 0.8", found, {"side": side, "channels": channels}, Network,
            pytorch="convolution",
        )
        for side, found in ((28, images(options.examples, 1, 28, 28)), (8, of_8))
    ]  # fmt: skip

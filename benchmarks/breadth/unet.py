"""The UNet of two slides on images of different sizes, a class for every pixel. PyTorch has no batch of these: it runs
one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks.breadth.base import Task
from benchmarks.breadth.perceptron import Image
from lazyflow import nn

CLASSES = 11


class UNetModule(nn.Module):
    """One level: an encoder halves the image, a decoder doubles it."""

    def __init__(self, in_channels: int, out_channels: int, mode: str) -> None:
        super().__init__()
        self.mode = mode
        stride = 2 if mode == "encoder" else 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.act1 = nn.ReLU()
        if mode == "decoder":
            self.transposed = nn.ConvTranspose2d(
                out_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
            )

    def forward(self, input: Any, lateral_input: Any = None) -> lf.Expr:
        if lateral_input is not None:
            input = lf.concatenate((input, lateral_input), axis=0)
        output = self.act1(self.conv1(input))
        return self.transposed(output) if self.mode == "decoder" else output


class UNet(nn.Module):
    """For one image (1, height, width), multiples of 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder1 = UNetModule(1, channels, "encoder")
        self.encoder2, self.encoder3, self.encoder4 = (UNetModule(channels, channels, "encoder") for _ in range(3))
        self.decoder4 = UNetModule(channels, channels, "decoder")
        self.decoder3, self.decoder2, self.decoder1 = (UNetModule(2 * channels, channels, "decoder") for _ in range(3))
        self.classifier = nn.Conv2d(channels, CLASSES, 1, bias=False)

    def forward(self, input: Any) -> lf.Expr:
        output1 = self.encoder1(input)
        output2 = self.encoder2(output1)
        output3 = self.encoder3(output2)
        output = self.decoder4(self.encoder4(output3))
        output = self.decoder3(output, output3)
        output = self.decoder2(output, output2)
        return self.classifier(self.decoder1(output, output1))

    def outputs(self, image: Image) -> list[lf.Expr]:
        return [self(image.pixels)]

    def loss(self, image: Image) -> lf.Expr:
        return nn.CrossEntropyLoss(dim=0)(self(image.pixels), image.label)


def images(count: int) -> list[Any]:
    """Noise, brighter where there is a class; sides of 16 to 64."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        height, width = 16 * rng.integers(1, 5, 2)
        label = rng.integers(0, CLASSES, (height, width))
        found.append(Image((rng.random((1, height, width)) + label / CLASSES).astype(np.float32), label))
    return found


def tasks(options: Any) -> list[Task]:
    return [
        Task(
            "UNet on images of different sizes", 12, "2, to PyTorch one at a time", images(options.examples),
            {"channels": 2 if options.small else 16}, UNet, pytorch="unet", batched=False,
        )
    ]  # fmt: skip

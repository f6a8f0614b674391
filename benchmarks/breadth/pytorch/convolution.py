"""See `benchmarks.breadth.convolution`."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.breadth.pytorch.perceptron import OfImages


class Network(OfImages):
    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Linear(2 * channels * (side // 4) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.first(x).relu())
        x = self.pool(self.second(x).relu())
        return self.output(x.flatten(-3))


model = Network

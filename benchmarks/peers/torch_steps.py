"""Steps that are looked at in PyTorch."""

from __future__ import annotations

import torch

from benchmarks.peers import Array


class Steps:
    """See `benchmarks.steps`."""

    def __init__(self, weight: Array, bias: Array) -> None:
        self.weight, self.bias = (torch.nn.Parameter(torch.from_numpy(array.copy())) for array in (weight, bias))

    def run(self, count: int) -> torch.Tensor:
        h = torch.ones(len(self.bias))
        for _ in range(count):
            h = torch.tanh(torch.nn.functional.linear(h, self.weight, self.bias))
            h[0].item()
        return h

    def train(self, count: int) -> None:
        self.run(count).sum().backward()
        self.weight.grad = self.bias.grad = None

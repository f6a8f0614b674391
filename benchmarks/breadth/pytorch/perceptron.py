"""See `benchmarks.breadth.perceptron`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class OfImages(nn.Module):
    """What calls itself on one image, or on a stack of them."""

    def outputs(self, image: Any) -> list[Tensor]:
        return [self(torch.from_numpy(image.pixels))]

    def loss(self, image: Any) -> Tensor:
        (scores,) = self.outputs(image)
        return cross_entropy(scores, torch.tensor(image.label))

    def batch_outputs(self, batch: Sequence[Any]) -> list[Tensor]:
        return [self(torch.from_numpy(np.stack([image.pixels for image in batch])))]

    def batch_loss(self, batch: Sequence[Any]) -> Tensor:
        (scores,) = self.batch_outputs(batch)
        return cross_entropy(scores, torch.tensor([image.label for image in batch]), reduction="sum")


class Perceptron(OfImages):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden)
        self.output = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x).relu())


model = Perceptron

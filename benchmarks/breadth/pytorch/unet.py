"""See `benchmarks.breadth.unet`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.breadth.unet import CLASSES


class UNetModule(nn.Module):
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

    def forward(self, input: Tensor, lateral_input: Tensor | None = None) -> Tensor:
        if lateral_input is not None:
            input = torch.cat((input, lateral_input), dim=0)
        output = self.act1(self.conv1(input))
        return self.transposed(output) if self.mode == "decoder" else output


class UNet(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder1 = UNetModule(1, channels, "encoder")
        self.encoder2, self.encoder3, self.encoder4 = (UNetModule(channels, channels, "encoder") for _ in range(3))
        self.decoder4 = UNetModule(channels, channels, "decoder")
        self.decoder3, self.decoder2, self.decoder1 = (UNetModule(2 * channels, channels, "decoder") for _ in range(3))
        self.classifier = nn.Conv2d(channels, CLASSES, 1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        output1 = self.encoder1(input)
        output2 = self.encoder2(output1)
        output3 = self.encoder3(output2)
        output = self.decoder4(self.encoder4(output3))
        output = self.decoder3(output, output3)
        output = self.decoder2(output, output2)
        return self.classifier(self.decoder1(output, output1))

    def outputs(self, image: Any) -> list[Tensor]:
        return [self(torch.from_numpy(image.pixels))]

    def loss(self, image: Any) -> Tensor:
        (scores,) = self.outputs(image)
        return cross_entropy(scores[None], torch.from_numpy(image.label)[None])


model = UNet

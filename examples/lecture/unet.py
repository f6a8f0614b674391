"""The UNet of two slides (PyTorch), trained on digits that are pasted on canvases of different sizes.

    python examples/lecture/unet.py                  digits of a font of its own, with noise
    python examples/lecture/unet.py --data FOLDER    handwritten ones: optdigits.tra and optdigits.tes, or .gz of them

Every image is an example of its own size and has a graph of its own; the engine runs those of one size together, so
nothing is padded, cropped or sorted. The network says for each pixel which digit's ink it is, or none. In the end the
held-out images, their masks and the predicted masks are saved as a picture.
"""

from __future__ import annotations

import argparse
import gzip
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

import lazyflow as lf
from lazyflow import nn, optim

Array = np.ndarray[Any, Any]


class UNetModule(nn.Module):
    """One level: an encoder halves the image, a decoder doubles it."""

    def __init__(self, in_channels: int, out_channels: int, mode: str) -> None:
        super().__init__()
        assert mode in ["encoder", "decoder"]
        self.mode = mode

        stride = 2 if self.mode == "encoder" else 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.act1 = nn.ReLU()

        if self.mode == "decoder":
            self.transposed = nn.ConvTranspose2d(
                out_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
            )

    def forward(self, input: Any, lateral_input: Any = None) -> lf.Expr:
        """One image's channels; a decoder also takes those of the encoder beside it."""
        if self.mode == "decoder" and lateral_input is not None:
            input = lf.concatenate((input, lateral_input), axis=0)
        output = self.conv1(input)
        output = self.act1(output)
        if self.mode == "decoder":
            output = self.transposed(output)
        return output


class UNet(nn.Module):
    """Scores (n_classes, h, w) for the pixels of one image (n_input_channels, h, w); h and w are multiples of 16."""

    def __init__(self, n_classes: int, n_input_channels: int = 3) -> None:
        super().__init__()
        self.n_classes = n_classes

        self.encoder1 = UNetModule(n_input_channels, 16, mode="encoder")
        self.encoder2 = UNetModule(16, 16, mode="encoder")
        self.encoder3 = UNetModule(16, 16, mode="encoder")
        self.encoder4 = UNetModule(16, 16, mode="encoder")

        self.decoder4 = UNetModule(16, 16, mode="decoder")
        self.decoder3 = UNetModule(32, 16, mode="decoder")
        self.decoder2 = UNetModule(32, 16, mode="decoder")
        self.decoder1 = UNetModule(32, 16, mode="decoder")

        self.classifier = nn.Conv2d(16, n_classes, 1, padding=0, bias=False)

    def forward(self, input: Any) -> lf.Expr:
        """Down four levels, and up again."""
        encoder1_output = self.encoder1(input)
        encoder2_output = self.encoder2(encoder1_output)
        encoder3_output = self.encoder3(encoder2_output)
        encoder4_output = self.encoder4(encoder3_output)

        decoder4_output = self.decoder4(encoder4_output)
        decoder3_output = self.decoder3(decoder4_output, encoder3_output)
        decoder2_output = self.decoder2(decoder3_output, encoder2_output)
        decoder1_output = self.decoder1(decoder2_output, encoder1_output)

        output = self.classifier(decoder1_output)

        return output


# Data


class Image(NamedTuple):
    """Grey values (1, h, w), and for each pixel its class (h, w): 0 for paper, 1 + d for the ink of digit d."""

    pixels: Array
    mask: Array


FONT = (
    "01110 10001 10011 10101 11001 10001 01110", "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111", "01110 10001 00001 00110 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010", "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110", "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110", "01110 10001 10001 01111 00001 00010 01100",
)  # fmt: skip
Glyph = tuple[Array, int]


def font_glyphs() -> list[Glyph]:
    """The digits of `FONT`, twice as large: (14, 10), ink is 1."""
    rows = [np.array([[float(bit) for bit in row] for row in text.split()], np.float32) for text in FONT]
    return [(np.kron(glyph, np.ones((2, 2), np.float32)), digit) for digit, glyph in enumerate(rows)]


def read_digits(folder: Path, name: str) -> list[Glyph]:
    """Handwritten digits (16, 16) of a file of optdigits: 64 numbers from 0 to 16, then the class, in each line."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise SystemExit(f"no {name} and no {name}.gz in {folder}")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2)
    images = table[:, :64].reshape(-1, 8, 8) / np.float32(16)
    return [(np.kron(i, np.ones((2, 2), np.float32)), int(d)) for i, d in zip(images, table[:, 64], strict=True)]


def paste(glyphs: Sequence[Glyph], count: int, seed: int, sizes: Sequence[int] = (16, 32, 48)) -> list[Image]:
    """Canvases with random sides among ``sizes``, one digit in a random place of each whole cell of 16 rows and columns
    or none, and noise."""
    rng = np.random.default_rng(seed)
    return [_canvas(glyphs, rng, *rng.choice(sizes, 2)) for _ in range(count)]


def _canvas(glyphs: Sequence[Glyph], rng: np.random.Generator, height: int, width: int) -> Image:
    pixels, mask = np.zeros((height, width), np.float32), np.zeros((height, width), np.int64)
    cells = [(top, left) for top in range(0, height, 16) for left in range(0, width, 16)]
    for i, (top, left) in enumerate(cells):
        if i and rng.random() < 0.3:
            continue
        glyph, digit = glyphs[rng.integers(len(glyphs))]
        top, left = top + rng.integers(17 - glyph.shape[0]), left + rng.integers(17 - glyph.shape[1])
        place = slice(top, top + glyph.shape[0]), slice(left, left + glyph.shape[1])
        pixels[place] = glyph * rng.uniform(0.6, 1.0)
        mask[place][glyph > 0.3] = 1 + digit
    return Image((pixels + rng.normal(0, 0.1, pixels.shape).astype(np.float32))[None], mask)


# Training


def train(model: UNet, optimizer: Any, images: Sequence[Image], batch: int) -> list[float]:
    """One pass; the loss of every minibatch."""
    loss_fn = nn.CrossEntropyLoss(dim=0)
    losses = []
    for start in range(0, len(images), batch):
        loss = lf.mean([loss_fn(model(pixels), mask) for pixels, mask in images[start : start + batch]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def predict(model: UNet, images: Sequence[Image]) -> list[Array]:
    """The class of every pixel; all images in one forward."""
    with lf.no_grad():
        return lf.forward([lf.argmax(model(pixels), axis=0) for pixels, _ in images])


def scores(predicted: Sequence[Array], images: Sequence[Image]) -> tuple[float, float]:
    """Intersection over union of all ink, and the share of the ink that has the right digit."""
    p, m = (np.concatenate([a.ravel() for a in arrays]) for arrays in (predicted, [i.mask for i in images]))
    return float(((p > 0) & (m > 0)).sum() / ((p > 0) | (m > 0)).sum()), float((p == m)[m > 0].mean())


# The picture

COLOURS = np.array([
    [255, 255, 255], [230, 25, 75], [60, 180, 75], [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 200, 220],
    [240, 50, 230], [170, 110, 40], [128, 128, 0], [0, 0, 128],
], np.uint8)  # fmt: skip


def picture(images: Sequence[Image], predicted: Sequence[Array], gap: int = 4, scale: int = 3) -> Array:
    """Images side by side: above their pixels, below the true and the predicted masks; (height, width, 3)."""
    tall = max(i.mask.shape[0] for i in images) + gap
    wide = sum(i.mask.shape[1] + gap for i in images)
    canvas = np.full((3 * tall, wide, 3), 200, np.uint8)
    left = 0
    for image, guess in zip(images, predicted, strict=True):
        height, width = image.mask.shape
        grey = (255 * (1 - image.pixels[0].clip(0, 1))).astype(np.uint8)
        for row, rgb in enumerate((np.stack([grey] * 3, -1), COLOURS[image.mask], COLOURS[guess])):
            canvas[row * tall : row * tall + height, left : left + width] = rgb
        left += width + gap
    return canvas.repeat(scale, 0).repeat(scale, 1)


def write_png(path: Path, rgb: Array) -> None:
    """An array (height, width, 3) of bytes as a PNG file (RFC 2083)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = rgb.shape
    rows = np.pad(rgb.reshape(height, -1), ((0, 0), (1, 0)))  # in front of each row the filter, 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes())), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="optdigits, in place of the font")
    parser.add_argument("--images", type=int, default=256, help="canvases to train on")
    parser.add_argument("--epochs", type=int, default=25, help="passes over them")
    parser.add_argument("--batch", type=int, default=8, help="images a minibatch")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate of Adam")
    parser.add_argument("--picture", type=Path, default=Path("unet.png"), help="where the masks are drawn")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, predict, draw."""
    options = parsed(arguments)
    lf.seed(options.seed)
    parts = [read_digits(options.data, f"optdigits.{p}") if options.data else font_glyphs() for p in ("tra", "tes")]
    images, held_out = paste(parts[0], options.images, options.seed), paste(parts[1], 64, options.seed + 1)
    model = UNet(n_classes=11, n_input_channels=1)
    optimizer = optim.Adam(model.parameters(), lr=options.lr)
    for epoch in tqdm(range(options.epochs), unit="epoch", leave=False):
        order = np.random.default_rng((options.seed, epoch)).permutation(len(images))
        losses = train(model, optimizer, [images[i] for i in order], options.batch)
    found = predict(model, held_out)
    overlap, right = scores(found, held_out)
    print(f"loss {np.mean(losses):.3f}; held-out ink: intersection over union {overlap:.1%}, right digit {right:.1%}")
    write_png(options.picture, picture(held_out[:12], found[:12]))
    print(f"the masks of 12 images are drawn in {options.picture}")


if __name__ == "__main__":
    main()

"""A Transformer's encoder over one sentence (Vaswani et al. 2017), d 128, 2 layers, a tag for every word: with the
library's layers, and written out in plain operations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks import sentences
from benchmarks.breadth.base import Task
from benchmarks.sentences import Sentence
from lazyflow import nn


def positions(size: int) -> Any:
    """Sines and cosines for the first 512 places."""
    angles = np.arange(512)[:, None] / 10_000 ** (np.arange(0, size, 2) / size)
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(512, size).astype(np.float32)


class Encoder(nn.Module):
    """For one sentence, with the layers of `nn`."""

    def __init__(self, words: int, tags: int, size: int, heads: int, inner: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(size, heads, inner, dropout=0.0), 2)
        self.output = nn.Linear(size, tags)
        self.positions = positions(size)

    def embedded(self, sentence: Sentence) -> lf.Expr:
        return self.words(np.array(sentence.words)) + self.positions[: len(sentence.words)]

    def outputs(self, sentence: Sentence) -> list[lf.Expr]:
        return [self.output(self.encoder(self.embedded(sentence)))]

    def loss(self, sentence: Sentence) -> lf.Expr:
        (scores,) = self.outputs(sentence)
        return nn.functional.cross_entropy(scores, np.array(sentence.labels), reduction="sum")


class Plain(Encoder):
    """The same with every operation written out."""

    def outputs(self, sentence: Sentence) -> list[lf.Expr]:
        x = self.embedded(sentence)
        for layer in self.encoder.layers:
            x = self.normed(layer.norm1, x + self.attention(layer.self_attn, x))
            inner = lf.relu(x @ layer.linear1.weight.T + layer.linear1.bias)
            x = self.normed(layer.norm2, x + (inner @ layer.linear2.weight.T + layer.linear2.bias))
        return [x @ self.output.weight.T + self.output.bias]

    def attention(self, layer: Any, x: lf.Expr) -> lf.Expr:
        length, size = x.shape
        heads = layer.num_heads
        joined = x @ layer.in_proj_weight.T + layer.in_proj_bias  # (length, 3 size)
        q, k, v = (
            y.reshape(length, heads, size // heads).transpose(1, 0, 2) for y in lf.split(joined, 3, axis=1)
        )  # (heads, length, size / heads)
        weights = lf.softmax(q @ k.transpose(0, 2, 1) / math.sqrt(size // heads), axis=-1)
        together = (weights @ v).transpose(1, 0, 2).reshape(length, size)
        return together @ layer.out_proj.weight.T + layer.out_proj.bias

    def normed(self, layer: Any, x: lf.Expr) -> lf.Expr:
        centred = x - lf.mean(x, axis=1, keepdims=True)
        variance = lf.mean(lf.square(centred), axis=1, keepdims=True)
        return centred / lf.sqrt(variance + layer.eps) * layer.weight + layer.bias


def tasks(options: Any) -> list[Task]:
    corpus = sentences.tagging(options.ud, options.examples)
    sizes = {"size": 8, "heads": 2, "inner": 12} if options.small else {"size": 128, "heads": 4, "inner": 512}
    return [
        Task(
            "Transformer encoder a sentence", 32, "1.2 and 1.1; launches 150 plain, 60 by cells", corpus.train,
            {"words": corpus.vocabulary_size, "tags": corpus.classes, **sizes}, Encoder, {"plain": Plain},
            pytorch="transformer",
        )
    ]  # fmt: skip

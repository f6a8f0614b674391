"""The parser's verbs in lazyflow; see `benchmarks.decisions.base`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks.decisions.base import LEARNING_RATE, Array, Numbered
from lazyflow import optim


class Lazily:
    """With the example's own modules."""

    no_grad = staticmethod(lf.no_grad)

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.optimizer = optim.SGD(parser.parameters(), lr=LEARNING_RATE)

    def begin(self) -> None:
        pass

    def encode(self, sentence: Numbered) -> list[lf.Expr]:
        p = self.parser
        pairs = zip(sentence.words, sentence.tags, strict=True)
        outputs, _ = p.lstm([lf.concatenate([p.word(w), p.tag(t)]) for w, t in pairs])
        return [*outputs, p.nothing(0)]

    def encode_all(self, sentences: Sequence[Numbered]) -> list[list[lf.Expr]]:
        outputs = [self.encode(sentence) for sentence in sentences]
        lf.forward([h for found in outputs for h in found])
        return outputs

    def score(self, outputs: list[lf.Expr], at: Sequence[int]) -> lf.Expr:
        p = self.parser
        return p.scores(lf.tanh(p.hidden(lf.concatenate([outputs[i] for i in at]))))

    def score_all(self, outputs: list[list[lf.Expr]], at: Sequence[tuple[int, Sequence[int]]]) -> list[lf.Expr]:
        return [self.score(outputs[k], places) for k, places in at]

    def value(self, scores: lf.Expr) -> Array:
        return scores.numpy()

    def values(self, scores: list[lf.Expr]) -> Array:
        return np.array(lf.forward(scores))

    def margin(self, scores: lf.Expr, wrong: int, right: int) -> lf.Expr:
        return scores[wrong] - scores[right]

    def margins(self, scores: list[lf.Expr], pairs: Sequence[tuple[int, int, int]]) -> list[lf.Expr]:
        return [self.margin(scores[row], wrong, right) for row, wrong, right in pairs]

    def step(self, losses: Sequence[lf.Expr], count: int, sentences: int) -> float:
        loss = (lf.sum(losses) + float(count)) / sentences
        loss.backward()
        value: float = loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value

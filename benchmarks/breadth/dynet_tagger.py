"""See `benchmarks.breadth.tagger`: the same in DyNet with automatic batching and its fused LSTM builders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.breadth.base import LEARNING_RATE, Array
from benchmarks.harness import Stopwatch
from benchmarks.peers.dynet_configured import dy, lstm, plain


class Tagger:
    """``tolerance``: DyNet's LSTM has one bias where the others have two, which together move twice as far."""

    tolerance = 1e-2

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.watch = Stopwatch()
        self.model = dy.ParameterCollection()
        self.words, self.characters = (
            self.model.lookup_parameters_from_numpy(weights[f"{name}.weight"]) for name in ("words", "characters")
        )
        self.speller, self.reader = (
            [self.builder(weights, n, d) for d in ("", "_reverse")] for n in ("speller", "reader")
        )
        self.head = [self.model.parameters_from_numpy(weights[f"output.{name}"]) for name in ("bias", "weight")]
        self.trainer = plain(dy.SimpleSGDTrainer(self.model, learning_rate=LEARNING_RATE))

    def builder(self, weights: Mapping[str, Array], layer: str, direction: str) -> Any:
        w, u, b, c = (
            weights[f"{layer}.{name}_l0{direction}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return lstm(self.model, w, u, b + c)

    def vector(self, word: Any) -> Any:
        xs = [self.characters[c] for c in word.characters]
        ends = [b.initial_state().transduce(xs[:: 1 - 2 * k])[-1] for k, b in enumerate(self.speller)]
        return dy.concatenate([self.words[word.word], *ends])

    def scores(self, sentence: Sequence[Any]) -> list[Any]:
        xs = [self.vector(word) for word in sentence]
        forward, backward = (
            b.initial_state().transduce(xs[:: 1 - 2 * k])[:: 1 - 2 * k] for k, b in enumerate(self.reader)
        )
        return [
            dy.affine_transform([*self.head, dy.concatenate([f, b])]) for f, b in zip(forward, backward, strict=True)
        ]

    def train_step(self, batch: Sequence[Any]) -> float:
        dy.renew_cg()
        pairs = [pair for s in batch for pair in zip(self.scores(s), s, strict=True)]
        loss = dy.esum([dy.pickneglogsoftmax(y, word.tag) for y, word in pairs]) * (1 / len(batch))
        value: float = loss.value()
        loss.backward()
        self.trainer.update()
        return value

    def infer(self, batch: Sequence[Any]) -> list[Array]:
        dy.renew_cg()
        found = dy.concatenate_cols([y for sentence in batch for y in self.scores(sentence)])
        return [found.npvalue().T]


def setup(weights: Mapping[str, Array], **sizes: int) -> Tagger:
    return Tagger(weights)

"""The parser's verbs in DyNet with automatic batching; see `benchmarks.decisions.base`. By hand: all scores of a step
are asked for at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from benchmarks.decisions.base import LEARNING_RATE, Array, Numbered
from benchmarks.peers.dynet_configured import dy, lstm, plain


class DyNet:
    """With its fused LSTM builders."""

    no_grad = staticmethod(nullcontext)

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.model = dy.ParameterCollection()
        self.word, self.tag, self.nothing = (
            self.model.lookup_parameters_from_numpy(weights[f"{name}.weight"]) for name in ("word", "tag", "nothing")
        )
        self.layers = [[self.builder(weights, f"l{k}{d}") for d in ("", "_reverse")] for k in range(2)]
        self.hidden, self.scores = (
            [self.model.parameters_from_numpy(weights[f"{name}.{part}"]) for part in ("bias", "weight")]
            for name in ("hidden", "scores")
        )
        self.trainer = plain(dy.SimpleSGDTrainer(self.model, learning_rate=LEARNING_RATE))

    def builder(self, weights: Mapping[str, Array], name: str) -> Any:
        w, u, b, c = (weights[f"lstm.{part}_{name}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return lstm(self.model, w, u, b + c)

    def begin(self) -> None:
        dy.renew_cg()

    def encode(self, sentence: Numbered) -> list[Any]:
        xs = [dy.concatenate([self.word[w], self.tag[t]]) for w, t in zip(sentence.words, sentence.tags, strict=True)]
        for forward, backward in self.layers:
            there = forward.initial_state().transduce(xs)
            back = backward.initial_state().transduce(xs[::-1])[::-1]
            xs = [dy.concatenate([f, b]) for f, b in zip(there, back, strict=True)]
        return [*xs, self.nothing[0]]

    def encode_all(self, sentences: Sequence[Numbered]) -> list[list[Any]]:
        return [self.encode(sentence) for sentence in sentences]

    def score(self, outputs: list[Any], at: Sequence[int]) -> Any:
        h = dy.tanh(dy.affine_transform([*self.hidden, dy.concatenate([outputs[i] for i in at])]))
        return dy.affine_transform([*self.scores, h])

    def score_all(self, outputs: list[list[Any]], at: Sequence[tuple[int, Sequence[int]]]) -> list[Any]:
        return [self.score(outputs[k], places) for k, places in at]

    def value(self, scores: Any) -> Array:
        found: Array = scores.npvalue()
        return found

    def values(self, scores: list[Any]) -> Array:
        found: Array = dy.concatenate_cols(scores).npvalue()
        return found.reshape(-1, len(scores), order="F").T

    def margin(self, scores: Any, wrong: int, right: int) -> Any:
        return scores[wrong] - scores[right]

    def margins(self, scores: list[Any], pairs: Sequence[tuple[int, int, int]]) -> list[Any]:
        return [self.margin(scores[row], wrong, right) for row, wrong, right in pairs]

    def step(self, losses: Sequence[Any], count: int, sentences: int) -> float:
        loss = (dy.esum(list(losses)) + count) * (1 / sentences)
        value: float = loss.value()
        loss.backward()
        self.trainer.update()
        return value


def setup(weights: Mapping[str, Array]) -> Any:
    """The library, with these weights."""
    return DyNet(weights)

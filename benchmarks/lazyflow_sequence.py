"""The LSTM over sentences of `benchmarks.peers` in lazyflow, written for one sentence, in three forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import lazyflow as lf
from benchmarks.lazyflow_model import Model, assign, assign_layer
from benchmarks.peers import DIRECTIONS, LEARNING_RATE, Array
from benchmarks.sentences import Sentence
from lazyflow import nn, optim


class SequenceLSTM(Model[Sentence]):
    """With the library's layers. A form says how the hidden states come about."""

    def __init__(self, weights: Mapping[str, Array], batching: str = "phases") -> None:
        super().__init__(batching)
        self.table, self.head = (
            nn.Embedding(*weights["embedding"].shape),
            nn.Linear(*weights["head.weight"].shape[::-1]),
        )
        assign([(self.table.weight, weights["embedding"])])
        assign_layer(self.head, weights, "head")
        self.directions = [name for name in DIRECTIONS if f"{name}.state" in weights]
        parameters = [*self.table.parameters(), *self.head.parameters(), *self.build(weights)]
        self.optimizer = optim.Adam([p for p in parameters if p.requires_grad], lr=LEARNING_RATE)

    def build(self, weights: Mapping[str, Array]) -> Sequence[lf.Parameter]:
        """Make what `states` needs; returns its parameters."""
        raise NotImplementedError

    def states(self, xs: list[lf.Expr]) -> list[lf.Expr]:
        """The hidden states of all words, of both directions if there are two."""
        columns = [self.run(name, xs) for name in self.directions[:1]]
        columns += [self.run(name, xs[::-1])[::-1] for name in self.directions[1:]]
        return columns[0] if len(columns) == 1 else [lf.concatenate(pair) for pair in zip(*columns, strict=True)]

    def run(self, direction: str, xs: list[lf.Expr]) -> list[lf.Expr]:
        """The hidden states of one direction."""
        raise NotImplementedError

    def outputs(self, sentence: Sentence) -> list[lf.Expr]:
        return [self.head(h) for h in self.states([self.table(word) for word in sentence.words])]

    def loss(self, sentence: Sentence) -> lf.Expr:
        pairs = zip(self.outputs(sentence), sentence.labels, strict=True)
        return lf.sum([lf.cross_entropy(y, label) for y, label in pairs])

    def infer(self, sentences: Sequence[Sentence]) -> Array:
        best: Array = super().infer(sentences).argmax(1)
        return best


class PlainLSTM(SequenceLSTM):
    """In plain operations."""

    def build(self, weights: Mapping[str, Array]) -> Sequence[lf.Parameter]:
        self.weights = {
            name: [lf.Parameter(weights[f"{name}.{part}"]) for part in ("input", "bias", "state")]
            for name in self.directions
        }
        return [p for parts in self.weights.values() for p in parts]

    def run(self, direction: str, xs: list[lf.Expr]) -> list[lf.Expr]:
        weight, bias, state = self.weights[direction]
        found: list[lf.Expr] = []
        c: lf.Expr | None = None
        for x in xs:
            gates = lf.affine(weight, bias, x)
            i, f, g, o = lf.split(gates + lf.matmul(state, found[-1]) if found else gates, 4)
            new = lf.sigmoid(i) * lf.tanh(g)
            c = new if c is None else new + lf.sigmoid(f) * c
            found.append(lf.sigmoid(o) * lf.tanh(c))
        return found


class CellLSTM(SequenceLSTM):
    """With `nn.LSTMCell` in a loop."""

    def build(self, weights: Mapping[str, Array]) -> Sequence[lf.Parameter]:
        sizes = weights["forward.input"].shape[1], weights["forward.state"].shape[1]
        self.cells = {name: nn.LSTMCell(*sizes) for name in self.directions}
        for name, cell in self.cells.items():
            _assign(cell, "", weights, name)
        return [p for cell in self.cells.values() for p in cell.parameters()]

    def run(self, direction: str, xs: list[lf.Expr]) -> list[lf.Expr]:
        found = []
        state = None
        for x in xs:
            state = self.cells[direction](x, state)
            found.append(state[0])
        return found


class ModuleLSTM(SequenceLSTM):
    """With `nn.LSTM` or `nn.BiLSTM`."""

    def build(self, weights: Mapping[str, Array]) -> Sequence[lf.Parameter]:
        kind = nn.BiLSTM if len(self.directions) == 2 else nn.LSTM
        self.layer = kind(weights["forward.input"].shape[1], weights["forward.state"].shape[1])
        for name, suffix in zip(self.directions, ("_l0", "_l0_reverse"), strict=False):
            _assign(self.layer, suffix, weights, name)
        return list(self.layer.parameters())

    def states(self, xs: list[lf.Expr]) -> list[lf.Expr]:
        outputs: list[lf.Expr] = self.layer(xs)[0]
        return outputs


def _assign(module: nn.Module, suffix: str, weights: Mapping[str, Array], direction: str) -> None:
    """The state's own bias, which the other libraries do not have, stays zero."""
    for theirs, ours in (("weight_ih", "input"), ("weight_hh", "state"), ("bias_ih", "bias")):
        getattr(module, theirs + suffix).assign(weights[f"{direction}.{ours}"])
    unused = getattr(module, "bias_hh" + suffix)
    unused.assign(np.zeros(unused.shape, unused.dtype))
    unused.requires_grad = False


FORMS: dict[str, type[SequenceLSTM]] = {"plain": PlainLSTM, "cell": CellLSTM, "module": ModuleLSTM}

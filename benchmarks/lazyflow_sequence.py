"""The LSTM over sentences of `benchmarks.peers` in lazyflow, written for one sentence, in three forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


class Words(nn.Module):
    """The LSTM of one or two directions in two cells: what a word gives to all of them, and a step of all of them.

    What a word gives is computed once for all places of a minibatch where it stands.
    """

    def __init__(self, table: nn.Embedding, input_size: int, hidden_size: int, directions: int) -> None:
        super().__init__()
        self.table = table
        self.cells = nn.ModuleList(nn.LSTMCell(input_size, hidden_size) for _ in range(directions))

    @lf.cell
    def gates(self, word: int) -> tuple[lf.Expr, ...]:
        """The word's part of the gates in each direction."""
        x = self.table(word)
        return tuple(lf.affine(cell.weight_ih, cell.bias_ih, x) for cell in self.cells)

    @lf.cell
    def step(self, gates: tuple[lf.Expr, ...], hs: tuple[lf.Expr, ...], cs: tuple[lf.Expr, ...]) -> Any:
        """Hidden states and memories after one more word in each direction, which need not be the same word."""
        given = zip(self.cells, gates, hs, cs, strict=True)
        return tuple(zip(*(_step(cell.weight_hh, *rest) for cell, *rest in given), strict=True))


def _step(weight: lf.Expr, gates: lf.Expr, h: lf.Expr, c: lf.Expr) -> tuple[lf.Expr, lf.Expr]:
    i, f, g, o = lf.split(gates + lf.matmul(weight, h), 4)
    c = lf.sigmoid(f) * c + lf.sigmoid(i) * lf.tanh(g)
    return lf.sigmoid(o) * lf.tanh(c), c


class Head(nn.Module):
    """What is read off the states of a word."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    @lf.cell
    def logits(self, states: tuple[lf.Expr, ...]) -> lf.Expr:
        """The logits of a word."""
        logits: lf.Expr = self.head(states[0] if len(states) == 1 else lf.concatenate(states))
        return logits

    @lf.cell
    def loss(self, states: tuple[lf.Expr, ...], label: int) -> lf.Expr:
        """The loss of a word."""
        return lf.cross_entropy(self.logits(states), label)


class CellLSTM(SequenceLSTM):
    """With cells for a word, for a step of all directions, and for the loss of a word."""

    def build(self, weights: Mapping[str, Array]) -> Sequence[lf.Parameter]:
        sizes = weights["forward.input"].shape[1], weights["forward.state"].shape[1]
        self.words, self.reader = Words(self.table, *sizes, len(self.directions)), Head(self.head)
        self.zero = np.zeros(sizes[1], weights["forward.state"].dtype)
        for name, cell in zip(self.directions, self.words.cells, strict=True):
            _assign(cell, "", weights, name)
        return list(self.words.cells.parameters())

    def columns(self, sentence: Sentence) -> Iterable[tuple[lf.Expr, ...]]:
        """The hidden states of each word, one or two."""
        gates, zero = [self.words.gates(word) for word in sentence.words], lf.constant(self.zero)
        given = ([word[0] for word in gates], [word[1] for word in reversed(gates)] if len(self.directions) > 1 else [])
        hs = cs = (zero,) * len(self.directions)
        found = []
        for together in zip(*given[: len(self.directions)], strict=True):
            hs, cs = self.words.step(together, hs, cs)
            found.append(hs)
        if len(hs) == 1:
            return found
        return [(first[0], second[1]) for first, second in zip(found, reversed(found), strict=True)]

    def outputs(self, sentence: Sentence) -> list[lf.Expr]:
        return [self.reader.logits(states) for states in self.columns(sentence)]

    def loss(self, sentence: Sentence) -> lf.Expr:
        loss = self.reader.loss
        pairs = zip(self.columns(sentence), sentence.labels, strict=True)
        return lf.sum([loss(states, label) for states, label in pairs])


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

"""The LSTM over sentences in DyNet, with automatic batching: in operations of its own, and with its fused builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Stopwatch
from benchmarks.peers import DIRECTIONS, LEARNING_RATE, Array
from benchmarks.peers.dynet_configured import dy, plain
from benchmarks.sentences import Sentence

I, F, G, O = range(4)  # noqa: E741  (the gates' names in the formulas)


class SequenceLSTM:
    """See `benchmarks.peers`. Each gate is an affine transform of its own, as in `dynet_tree_lstm`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.watch = Stopwatch()
        self.model = dy.ParameterCollection()  # parameters die with it, whoever still points at them
        self.table = self.model.lookup_parameters_from_numpy(weights["embedding"])
        self.head = [self.model.parameters_from_numpy(weights[name]) for name in ("head.bias", "head.weight")]
        self.layers = [self.layer(weights, name) for name in DIRECTIONS if f"{name}.state" in weights]
        self.trainer = plain(dy.AdamTrainer(self.model, alpha=LEARNING_RATE))

    def layer(self, weights: Mapping[str, Array], direction: str) -> Any:
        """One direction's parameters: for each gate its bias and the two matrices."""
        columns = [np.split(weights[f"{direction}.{name}"], 4) for name in ("bias", "input", "state")]
        return [[self.model.parameters_from_numpy(array) for array in gate] for gate in zip(*columns, strict=True)]

    def states(self, layer: Any, xs: Sequence[Any]) -> list[Any]:
        """Hidden states of one direction."""
        found: list[Any] = []
        c: Any = None
        for x in xs:
            before = found[-1:]
            i, f, g, o = (dy.affine_transform([b, w, x, *(v for h in before for v in (u, h))]) for b, w, u in layer)
            new = dy.cmult(dy.logistic(i), dy.tanh(g))
            c = new + dy.cmult(dy.logistic(f), c) if before else new
            found.append(dy.cmult(dy.logistic(o), dy.tanh(c)))
        return found

    def logits(self, sentence: Sentence) -> list[Any]:
        xs = [self.table[word] for word in sentence.words]
        columns = [self.states(layer, xs[:: 1 - 2 * k])[:: 1 - 2 * k] for k, layer in enumerate(self.layers)]
        hs = columns[0] if len(columns) == 1 else [dy.concatenate(list(pair)) for pair in zip(*columns, strict=True)]
        return [dy.affine_transform([*self.head, h]) for h in hs]

    def record(self, sentences: Sequence[Sentence]) -> Any:
        """A fresh graph with the loss of one minibatch."""
        dy.renew_cg()
        pairs = [pair for s in sentences for pair in zip(self.logits(s), s.labels, strict=True)]
        return dy.esum([dy.pickneglogsoftmax(y, label) for y, label in pairs]) * (1 / len(sentences))

    def train_step(self, sentences: Sequence[Sentence]) -> float:
        self.watch.start()
        loss = self.record(sentences)
        self.watch.lap("record")
        value: float = loss.value()
        self.watch.lap("forward")
        loss.backward()
        self.watch.lap("backward")
        self.trainer.update()
        self.watch.lap("update")
        return value

    def infer(self, sentences: Sequence[Sentence]) -> Array:
        dy.renew_cg()
        logits = dy.concatenate_to_batch([y for sentence in sentences for y in self.logits(sentence)])
        logits.forward()
        # DyNet's own argmax: three times faster than to copy the language model's logits into an array
        best: Array = logits.tensor_value().argmax().as_numpy().ravel()
        return best


class FusedSequenceLSTM(SequenceLSTM):
    """The same with ``CompactVanillaLSTMBuilder``, whose gates are one operation."""

    def layer(self, weights: Mapping[str, Array], direction: str) -> Any:
        """DyNet's builder has the gates in the order i, f, o, g, and adds one to the forget gate's input."""
        w, u, b = (np.split(weights[f"{direction}.{name}"], 4) for name in ("input", "state", "bias"))
        b[F] = b[F] - 1
        hidden, dim = w[0].shape[0], w[0].shape[1]
        builder = dy.CompactVanillaLSTMBuilder(1, dim, hidden, self.model)
        for parameter, gates in zip(builder.get_parameters()[0], (w, u, b), strict=True):
            parameter.set_value(np.concatenate([gates[k] for k in (I, F, O, G)]))
        return builder

    def states(self, layer: Any, xs: Sequence[Any]) -> list[Any]:
        found: list[Any] = layer.initial_state().transduce(xs)
        return found


def setup(weights: Mapping[str, Array]) -> SequenceLSTM:
    """See `benchmarks.peers.SequenceSetup`."""
    return SequenceLSTM(weights)


def setup_fused(weights: Mapping[str, Array]) -> FusedSequenceLSTM:
    """See `benchmarks.peers.SequenceSetup`."""
    return FusedSequenceLSTM(weights)

"""The LSTM over sentences in PyTorch, a batched loop over steps under autograd: what a careful user writes.

The input's product is one for all words, at every step the sentences that still have a word are the first rows of the
step before, and both directions take their steps together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Stopwatch, threads_here
from benchmarks.peers import DIRECTIONS, LEARNING_RATE, Array
from benchmarks.peers.torch_batched_sequence import Structure, structure
from benchmarks.peers.torch_by_hand import Numbering
from benchmarks.sentences import Sentence


class SequenceLSTM:
    """See `benchmarks.peers`."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(threads_here())
        self.watch = Stopwatch()
        parameters = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in weights.items()}
        self.table = torch.nn.Embedding.from_pretrained(parameters.pop("embedding"), freeze=False, sparse=True)
        self.parameters, self.number = parameters, Numbering(len(weights["embedding"]))
        self.names = [name for name in DIRECTIONS if f"{name}.state" in weights]
        self.optimizers = (
            torch.optim.SparseAdam(self.table.parameters(), lr=LEARNING_RATE),
            torch.optim.Adam(parameters.values(), lr=LEARNING_RATE, fused=True),
        )

    def logits(self, batch: Structure) -> Tensor:
        """Of all words, step by step."""
        x = self.table(batch.words)
        states = self._steps(batch, [self._inputs(x, name, k, batch) for k, name in enumerate(self.names)])
        joined = states[0] if len(states) == 1 else torch.cat((states[0], states[1][batch.mirror]), 1)
        return F.linear(joined, self.parameters["head.weight"], self.parameters["head.bias"])

    def _inputs(self, x: Tensor, name: str, direction: int, batch: Structure) -> Tensor:
        product = F.linear(x, self.parameters[f"{name}.input"], self.parameters[f"{name}.bias"])
        return product.index_select(0, batch.numbers[direction])

    def _steps(self, batch: Structure, inputs: Sequence[Tensor]) -> Tensor:
        """Hidden states, ``(directions, words, hidden)``."""
        weights = torch.stack([self.parameters[f"{name}.state"].t() for name in self.names])
        found: list[Tensor] = []
        c: Tensor | None = None
        for n, gates in zip(batch.sizes, torch.stack(list(inputs)).split(batch.sizes, 1), strict=True):
            if found:
                gates = torch.baddbmm(gates, found[-1][:, :n], weights)
            i, f, g, o = gates.chunk(4, 2)
            new = torch.sigmoid(i) * torch.tanh(g)
            c = new if c is None else torch.addcmul(new, torch.sigmoid(f), c[:, :n])
            found.append(torch.sigmoid(o) * torch.tanh(c))
        return torch.cat(found, 1)

    def loss(self, batch: Structure, sentences: int) -> Tensor:
        return F.cross_entropy(self.logits(batch), batch.labels, reduction="sum") / sentences

    def train_step(self, sentences: Sequence[Sentence]) -> float:
        self.watch.start()
        batch = structure(sentences, self.number)
        self.watch.lap("record")
        loss = self.loss(batch, len(sentences))
        value = loss.item()
        self.watch.lap("forward")
        loss.backward()  # type: ignore[no-untyped-call]
        self.watch.lap("backward")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.watch.lap("update")
        return value

    def infer(self, sentences: Sequence[Sentence]) -> Array:
        with torch.inference_mode():
            batch = structure(sentences, self.number)
            best: Array = self.logits(batch).argmax(1).numpy()[batch.places]
            return best

    def gradients(self, sentences: Sequence[Sentence]) -> dict[str, Array]:
        """For tests: under the names of `benchmarks.peers`."""
        self.loss(structure(sentences, self.number), len(sentences)).backward()  # type: ignore[no-untyped-call]
        found = {name: parameter.grad for name, parameter in self.parameters.items()}
        return {
            name: g.to_dense().numpy()
            for name, g in {**found, "embedding": self.table.weight.grad}.items()
            if g is not None
        }


def setup(weights: Mapping[str, Array]) -> SequenceLSTM:
    """See `benchmarks.peers.SequenceSetup`."""
    return SequenceLSTM(weights)

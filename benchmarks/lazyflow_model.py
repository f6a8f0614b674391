"""What the models in lazyflow share: a training step whose time is split into parts, and losses that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

import lazyflow as lf
from benchmarks.harness import threads_here
from benchmarks.peers import LEARNING_RATE, Array
from lazyflow import nn, optim
from lazyflow.profile import Profile

Example = TypeVar("Example")


class Model(Generic[Example]):
    """See `benchmarks.peers.Model`. A model is its `loss` of one example, and what `infer` asks for.

    ``batching``: one of lazyflow's ways to group operations; ``fuse``: what runs elementwise parts.
    """

    optimizer: optim.Optimizer

    fuse = "auto"

    def __init__(self, batching: str = "phases") -> None:
        self.watch = Profile()
        self.batching = batching
        self.kept: dict[int, lf.Expr] = {}
        self.kept_outputs: dict[int, list[lf.Expr]] = {}

    def settings(self) -> lf.using:
        """Those of a step."""
        return lf.using(batching=self.batching, fuse=self.fuse, threads=threads_here(), profile=self.watch)

    def loss(self, example: Example) -> lf.Expr:
        """The loss of one example."""
        raise NotImplementedError

    def outputs(self, example: Example) -> list[lf.Expr]:
        """The logits that `infer` asks for."""
        raise NotImplementedError

    def use_sgd(self) -> None:
        """Update by plain gradient descent from now on, at the same rate, instead of Adam."""
        groups = [{"params": group["params"]} for group in self.optimizer.param_groups]
        self.optimizer = optim.SGD(groups, lr=LEARNING_RATE)

    def keep(self, examples: Iterable[Example]) -> None:
        """Record the losses and outputs of these examples now, once; minibatches of them only join these roots."""
        self.kept.update((id(example), self.loss(example)) for example in examples)
        with lf.no_grad():
            self.kept_outputs.update((id(example), self.outputs(example)) for example in examples)

    def record(self, examples: Sequence[Example]) -> lf.Expr:
        """The loss of one minibatch."""
        if self.kept:
            return lf.mean([self.kept[id(example)] for example in examples])
        return lf.mean([self.loss(example) for example in examples])

    def train_step(self, examples: Sequence[Example]) -> float:
        with self.settings(), self.watch.counting("record"):
            loss = self.record(examples)
            with self.watch.counting("forward"):
                loss.forward()
                value = loss.item()
            loss.backward()
            with self.watch.counting("update"):
                self.optimizer.step()
                self.optimizer.zero_grad()
            return value

    def infer(self, examples: Sequence[Example]) -> Array:
        with self.settings(), lf.no_grad():
            if self.kept_outputs:
                self._as_after_an_update()
                # The roots themselves: what rests on known values without gradient is a snapshot of them.
                return np.stack(lf.forward([y for example in examples for y in self.kept_outputs[id(example)]]))
            outputs = [y for example in examples for y in self.outputs(example)]
            joined = lf.stack(outputs)
            joined.forward()
            return joined.numpy()

    def _as_after_an_update(self) -> None:
        """What was computed under these very parameters would not be computed again."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.touch()


def assign(pairs: Iterable[tuple[lf.Parameter | None, Array]]) -> None:
    """Start modules from given weights."""
    for parameter, array in pairs:
        assert parameter is not None
        parameter.assign(array)


def assign_layer(layer: nn.Linear, weights: Mapping[str, Array], name: str) -> None:
    """The weights ``name.weight`` and ``name.bias``."""
    assign([(layer.weight, weights[f"{name}.weight"]), (layer.bias, weights[f"{name}.bias"])])

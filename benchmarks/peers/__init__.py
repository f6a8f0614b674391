"""The same models in other libraries, each in its own best form, behind one interface.

A peer is a function ``setup(vocabulary_size, dim, hidden, classes, seed, weights=None)``, which returns a `Model`.

The binary Tree-LSTM (Tai et al. 2015, on a binarised tree), for a word's embedding e and the children's states
(hl, cl) and (hr, cr):

    leaf:   i, o, u = W e + b                   c = sigmoid(i) tanh(u)
    inner:  i, fl, fr, o, u = U [hl; hr] + b    c = sigmoid(i) tanh(u) + sigmoid(fl) cl + sigmoid(fr) cr
    both:   h = sigmoid(o) tanh(c), logits = H h + b

The loss is the cross-entropy at every node, summed over a tree, meaned over the trees of a minibatch; Adam updates the
embeddings' rows that the minibatch touched, and all other parameters.

The LSTM over a sentence, in one direction or in both (Hochreiter and Schmidhuber 1997; Graves and Schmidhuber 2005),
for a word's embedding e, the state (h, c) of the step before, and zeros before the first:

    i, f, g, o = W e + U h + b                  c = sigmoid(i) tanh(g) + sigmoid(f) c
    h = sigmoid(o) tanh(c)                      logits = H [forward h; backward h] + b, or H h + b

with the cross-entropy at every word, summed over a sentence, meaned over a minibatch; the same updates.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from benchmarks.harness import Stopwatch
from benchmarks.sentences import Sentence
from benchmarks.trees import Tree
from lazyflow.profile import Profile

Array = np.ndarray[Any, Any]
LEARNING_RATE = 1e-3
MODULES = {
    "dynet": "dynet_tree_lstm:setup",
    "torch": "torch_tree_lstm:setup",
    "torch_batched": "torch_batched_tree_lstm:setup",
    "torch_batched_kept": "torch_batched_tree_lstm:setup_kept",
}
SEQUENCE_MODULES = {
    "dynet": "dynet_sequence:setup",
    "dynet_fused": "dynet_sequence:setup_fused",
    "torch_packed": "torch_packed_sequence:setup",
    "torch_steps": "torch_steps_sequence:setup",
    "torch_batched": "torch_batched_sequence:setup",
}
STEPS_MODULES = {"dynet": "dynet_steps:Steps", "torch": "torch_steps:Steps"}
DIRECTIONS = ("forward", "backward")
Example = TypeVar("Example", contravariant=True)


class Model(Protocol[Example]):
    """What a benchmark runs. ``watch`` splits the time of `train_step` into parts."""

    watch: Stopwatch | Profile

    def train_step(self, examples: Sequence[Example], /) -> float:
        """Forward, backward and update on one minibatch; returns the loss before the update."""

    def infer(self, examples: Sequence[Example], /) -> Array:
        """The logits at the roots, ``(trees, classes)``, or the likeliest labels of all words, one after another."""


class TreeModel(Model[Tree], Protocol):
    """A Tree-LSTM."""

    def use_sgd(self) -> None:
        """Update by plain gradient descent from now on, at the same rate, instead of Adam."""


class Setup(Protocol):
    """How a Tree-LSTM is made; ``weights`` are those of `initial_weights`, drawn with ``seed`` if not given."""

    def __call__(
        self,
        vocabulary_size: int,
        dim: int,
        hidden: int,
        classes: int,
        seed: int,
        weights: Mapping[str, Array] | None = None,
    ) -> TreeModel: ...


class SequenceSetup(Protocol):
    """How an LSTM over sentences is made from the weights of `initial_sequence_weights`, which say all of its sizes."""

    def __call__(self, weights: Mapping[str, Array]) -> Model[Sentence]: ...


def find(name: str) -> Setup | None:
    """The peer of `MODULES` with this name, or None if its library is not installed."""
    return _imported(MODULES[name])


def find_sequence(name: str) -> SequenceSetup | None:
    """The same for `SEQUENCE_MODULES`."""
    return _imported(SEQUENCE_MODULES[name])


def find_steps(name: str) -> Any:
    """The same for `STEPS_MODULES`: see `benchmarks.steps`."""
    return _imported(STEPS_MODULES[name])


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(f"benchmarks.peers.{module}"), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("benchmarks", "lazyflow")):
            raise
        return None


def weight_shapes(vocabulary_size: int, dim: int, hidden: int, classes: int) -> dict[str, tuple[int, ...]]:
    """The parameters and their shapes; gates stand in the order of the formulas above."""
    return {
        "embedding": (vocabulary_size, dim),
        "leaf.weight": (3 * hidden, dim),
        "leaf.bias": (3 * hidden,),
        "inner.weight": (5 * hidden, 2 * hidden),
        "inner.bias": (5 * hidden,),
        "head.weight": (classes, hidden),
        "head.bias": (classes,),
    }


def sequence_weight_shapes(
    vocabulary_size: int, dim: int, hidden: int, classes: int, directions: int
) -> dict[str, tuple[int, ...]]:
    """Those of the LSTM over a sentence; ``directions`` is 1 or 2."""
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocabulary_size, dim)}
    for name in DIRECTIONS[:directions]:
        shapes[f"{name}.input"] = (4 * hidden, dim)
        shapes[f"{name}.state"] = (4 * hidden, hidden)
        shapes[f"{name}.bias"] = (4 * hidden,)
    return {**shapes, "head.weight": (classes, directions * hidden), "head.bias": (classes,)}


def initial_weights(vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int) -> dict[str, Array]:
    """float32 arrays to start every library from: uniform, of a width that keeps variances (Glorot and Bengio 2010)."""
    return drawn(weight_shapes(vocabulary_size, dim, hidden, classes), seed)


def initial_sequence_weights(
    vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int, directions: int
) -> dict[str, Array]:
    """The same for `sequence_weight_shapes`."""
    return drawn(sequence_weight_shapes(vocabulary_size, dim, hidden, classes, directions), seed)


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Array]:
    """Such arrays by name."""
    rng = np.random.default_rng(seed)

    def array(name: str, shape: tuple[int, ...]) -> Array:
        width = 0.1 if name == "embedding" else 0.0 if len(shape) == 1 else (6 / sum(shape)) ** 0.5
        return rng.uniform(-width, width, shape).astype(np.float32)

    return {name: array(name, shape) for name, shape in shapes.items()}

"""The same binary Tree-LSTM in other libraries, each in its own best form, behind one interface.

A peer is a module with ``setup(vocabulary_size, dim, hidden, classes, seed, weights=None)``, which returns a
`TreeModel`. The model (Tai et al. 2015, on a binarised tree), for a word's embedding e and the children's states
(hl, cl) and (hr, cr):

    leaf:   i, o, u = W e + b                   c = sigmoid(i) tanh(u)
    inner:  i, fl, fr, o, u = U [hl; hr] + b    c = sigmoid(i) tanh(u) + sigmoid(fl) cl + sigmoid(fr) cr
    both:   h = sigmoid(o) tanh(c), logits = H h + b

The loss is the cross-entropy at every node, summed over a tree, meaned over the trees of a minibatch; Adam updates the
embeddings' rows that the minibatch touched, and all other parameters.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.harness import Stopwatch
from benchmarks.trees import Tree

Array = np.ndarray[Any, Any]
LEARNING_RATE = 1e-3
MODULES = {"dynet": "dynet_tree_lstm", "torch": "torch_tree_lstm"}


class TreeModel(Protocol):
    """What a benchmark runs. ``watch`` splits the time of `train_step` into parts."""

    watch: Stopwatch

    def train_step(self, trees: Sequence[Tree]) -> float:
        """Forward, backward and update on one minibatch; returns the loss before the update."""

    def infer(self, trees: Sequence[Tree]) -> Array:
        """The logits at the roots, ``(trees, classes)``."""


class Setup(Protocol):
    """How a model is made; ``weights`` are those of `initial_weights`, drawn with ``seed`` if not given."""

    def __call__(
        self,
        vocabulary_size: int,
        dim: int,
        hidden: int,
        classes: int,
        seed: int,
        weights: Mapping[str, Array] | None = None,
    ) -> TreeModel: ...


def find(name: str) -> Setup | None:
    """The ``setup`` of a peer of `MODULES`, or None if its library is not installed."""
    try:
        setup: Setup = importlib.import_module(f"benchmarks.peers.{MODULES[name]}").setup
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("benchmarks", "lazyflow")):
            raise
        return None
    return setup


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


def initial_weights(vocabulary_size: int, dim: int, hidden: int, classes: int, seed: int) -> dict[str, Array]:
    """float32 arrays to start every library from: uniform, of a width that keeps variances (Glorot and Bengio 2010)."""
    rng = np.random.default_rng(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Array:
        width = 0.1 if name == "embedding" else 0.0 if len(shape) == 1 else (6 / sum(shape)) ** 0.5
        return rng.uniform(-width, width, shape).astype(np.float32)

    return {name: drawn(name, shape) for name, shape in weight_shapes(vocabulary_size, dim, hidden, classes).items()}

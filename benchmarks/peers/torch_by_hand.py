"""What the models that are batched by hand in PyTorch share: memory used again, numbers for words, parameters as one
array, and Adam on it and on rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from benchmarks.peers import LEARNING_RATE, Array

ADAM: dict[str, Any] = {
    "lr": LEARNING_RATE,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
    "fused": True,
}


class Buffers:
    """Memory by name, made larger when it must be and used again by every minibatch."""

    def __init__(self) -> None:
        self.flat: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Uninitialised float32 of this shape, at the same place as the last time."""
        size = math.prod(shape)
        flat = self.flat.get(name)
        if flat is None or len(flat) < size:
            flat = self.flat[name] = torch.empty(size + size // 4)
        return flat[:size].view(shape)


class Numbering:
    """Numbers distinct words without sorting them: a table that knows where each was seen last."""

    def __init__(self, vocabulary_size: int) -> None:
        self.seen = np.empty(vocabulary_size, np.int64)

    def __call__(self, words: Array) -> tuple[Array, Array]:
        """The distinct words, and the number of each of ``words`` among them."""
        places = np.arange(len(words))
        self.seen[words] = places
        distinct = words[self.seen[words] == places]
        self.seen[distinct] = places[: len(distinct)]
        return distinct, self.seen[words]


class Parameters:
    """A table of embeddings, and all other parameters as one array: ``dense`` and ``gradients`` are its parts by name.

    Both are updated by one call of Adam, the table only at the rows that a minibatch touched.
    """

    def __init__(self, table: Array, dense: Mapping[str, Array]) -> None:
        self.table = torch.tensor(table)
        self.table_moments = [torch.zeros_like(self.table) for _ in range(2)]
        self.flat = torch.cat([torch.tensor(array).flatten() for array in dense.values()])
        self.flat_gradient = torch.zeros_like(self.flat)
        self.flat_moments = [torch.zeros_like(self.flat) for _ in range(2)]
        shapes = {name: array.shape for name, array in dense.items()}
        self.dense, self.gradients = (_parts(flat, shapes) for flat in (self.flat, self.flat_gradient))
        self.steps = [torch.zeros(()) for _ in range(2)]
        self.descends = False  # plainly along the gradient, instead of Adam

    def update(self, words: Tensor, gradient: Tensor, buffers: Buffers) -> None:
        """One step, with ``gradients`` and with the gradient of the table's rows ``words``, each of them once."""
        if self.descends:
            self.flat.add_(self.flat_gradient, alpha=-LEARNING_RATE)
            self.table.index_add_(0, words, gradient, alpha=-LEARNING_RATE)
            return
        tensors = self.table, *self.table_moments
        rows = [
            torch.index_select(part, 0, words, out=buffers(f"rows {k}", *gradient.shape))
            for k, part in enumerate(tensors)
        ]
        adam(
            *([self.flat, rows[0]], [self.flat_gradient, gradient]),
            *([self.flat_moments[0], rows[1]], [self.flat_moments[1], rows[2]], [], self.steps),
            **ADAM,
        )
        for part, changed in zip(tensors, rows, strict=True):
            part.index_copy_(0, words, changed)

    def all_gradients(self, words: Tensor, gradient: Tensor) -> dict[str, Array]:
        """Copies by name, that of the table as a whole array under ``embedding``."""
        table = torch.zeros_like(self.table).index_copy_(0, words, gradient)
        return {"embedding": table.numpy(), **{name: part.numpy().copy() for name, part in self.gradients.items()}}


def _parts(flat: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    parts = flat.split([math.prod(shape) for shape in shapes.values()])
    return {name: part.view(*shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def reordered(array: Array, order: Sequence[int]) -> Array:
    """The blocks of a parameter, one a gate, in another order.

    >>> reordered(np.array([1, 2, 3, 4]), (1, 0))
    array([3, 4, 1, 2])
    """
    blocks = array.reshape(len(order), -1, *array.shape[1:])
    return blocks[list(order)].reshape(array.shape)


def restored(array: Array, order: Sequence[int]) -> Array:
    """What `reordered` made of ``array``, back in order."""
    return reordered(array, np.argsort(order).tolist())


def sigmoid_gates_(gates: Tensor, u: Tensor) -> None:
    """Sigmoids in place, of ``-2 u`` where the formula has tanh(u) = 1 - 2 sigmoid(-2 u)."""
    u.mul_(-2)
    gates.sigmoid_()


def slopes(gates: Tensor, s: Tensor, out: Tensor, by_c: Tensor) -> None:
    """All that backward needs of a cell's own activations, of all rows at once.

    ``gates`` (rows, n, hidden) are the activations of i, whatever forget gates there are, u and o, with u as
    `sigmoid_gates_` leaves it; ``s`` (rows, hidden) is sigmoid(-2 c). ``out`` gets the derivatives of the gates, times
    what they are multiplied with in the cell (not so those of the forget gates); ``by_c`` that of h by c.
    """
    i, u, o = gates[:, 0], gates[:, -2], gates[:, -1]
    torch.addcmul(gates, gates, gates, value=-1, out=out)
    out[:, 0].addcmul_(out[:, 0], u, value=-2)
    out[:, -2].mul_(i).mul_(4)
    out[:, -1].addcmul_(out[:, -1], s, value=-2)
    torch.addcmul(s, s, s, value=-1, out=by_c).mul_(o).mul_(4)

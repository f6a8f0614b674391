"""A custom `Module` (PyTorch): a subclass defines its own layers, and a forward with loops and ifs.

    python examples/lecture/module.py

``__init__`` calls the superclass before it assigns, so that the layers are registered. ``forward`` is written for one
example, here a list of vectors of any length: the loop is as long as the list, and the `if` asks for a value that the
engine computes there and then. Backward knows nothing of either.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import lazyflow as lf
import lazyflow.nn.functional as F
from lazyflow import nn, optim

Example = tuple[list[Any], Any]


class Network(nn.Module):
    """The two layers of the slide, the first of them once for each vector of an example."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(input_dim, hidden_dim)
        self.again = nn.Linear(hidden_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, output_dim)

    def forward(self, inputs: Sequence[Any]) -> lf.Expr:
        """One output for one list of vectors."""
        output = F.relu(self.linear1(inputs[0]))
        for vector in inputs[1:]:
            output = F.relu(self.linear1(vector) + self.again(output))
        if output.mean() > 0.2:  # the value of this very example, computed here
            output = output - output.mean()
        return self.linear2(output)


def examples(count: int, dim: int, seed: int) -> list[Example]:
    """Lists of one to six vectors; to be found is the mean of all their elements."""
    rng = np.random.default_rng(seed)
    lists = [list(rng.standard_normal((rng.integers(1, 7), dim), np.float32)) for _ in range(count)]
    return [(vectors, np.mean(vectors).reshape(1)) for vectors in lists]


def train(
    model: nn.Module, data: Sequence[Example], epochs: int = 20, batch: int = 16, lr: float = 0.05
) -> list[float]:
    """Minibatches of examples, each with a graph of its own; the mean loss of every epoch."""
    optimizer, loss_fn = optim.SGD(model.parameters(), lr=lr), nn.MSELoss()
    means = []
    for _ in range(epochs):
        losses = []
        for start in range(0, len(data), batch):
            loss = lf.mean([loss_fn(model(x), y) for x, y in data[start : start + batch]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(float(np.mean(losses)))
    return means


def main() -> None:
    """Train on 64 lists."""
    lf.seed(0)
    for epoch, loss in enumerate(train(Network(4, 16, 1), examples(64, 4, seed=1)), 1):
        if epoch % 4 == 0:
            print(f"epoch {epoch}: loss {loss:.4f}")


if __name__ == "__main__":
    main()

"""Linear regression in one slide (PyTorch): a `Sequential`, a loss that is summed, an update written out.

    python examples/lecture/linear_regression.py

The 64 rows go through the model as one matrix, as in the original; only the imports have changed. Written for one row
at a time, ``lf.sum([loss_fn(model(x[i]), y[i]) for i in range(len(x))])``, it is the same number and as few launches.
"""

from __future__ import annotations

import os
from typing import Any

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import lazyflow as lf
from lazyflow import nn

batch_size, input_dim, hidden_dim, output_dim = 64, 1000, 100, 10


def network(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """Two layers with a ReLU between."""
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, output_dim),
    )


def train(model: nn.Module, x: Any, y: Any, steps: int = 500, learning_rate: float = 1e-4) -> list[float]:
    """Gradient descent on all rows at once; the losses of all steps."""
    loss_fn = nn.MSELoss(reduction="sum")
    losses = []
    for _ in range(steps):
        y_pred = model(x)
        loss = loss_fn(y_pred, y)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with lf.no_grad():
            for param in model.parameters():
                param -= learning_rate * param.grad
    return losses


def main() -> None:
    """Random rows, as on the slide."""
    lf.seed(0)
    rng = np.random.default_rng(0)
    x = lf.constant(rng.standard_normal((batch_size, input_dim), np.float32))
    y = lf.constant(rng.standard_normal((batch_size, output_dim), np.float32))
    for step, loss in enumerate(train(network(input_dim, hidden_dim, output_dim), x, y)):
        if step % 50 == 0:
            print(step, loss)
    print("trained:", loss)


if __name__ == "__main__":
    main()

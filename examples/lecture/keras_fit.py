"""Five lines from data to a trained model, as Keras, Torchnet and Pylearn2 have it.

    python examples/lecture/keras_fit.py

The data are points on three arms of a spiral; which arm a point is on is to be learned. The model sees one point.
"""

from __future__ import annotations

import os
from typing import Any

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import lazyflow as lf
from lazyflow import nn, optim, train


def spirals(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """``count`` points (count, 2) and the number of the arm, 0 to 2, of each (count,)."""
    random = np.random.default_rng(seed)
    arms, radius = random.integers(0, 3, count), random.uniform(0.1, 1.0, count)
    angle = 4 * radius + 2 * np.pi / 3 * arms + random.normal(0, 0.15, count)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points.astype(np.float32), arms


def network(hidden: int = 32) -> nn.Sequential:
    """Scores of the three arms for one point."""
    return nn.Sequential(nn.Linear(2, hidden), lf.tanh, nn.Linear(hidden, hidden), lf.tanh, nn.Linear(hidden, 3))


def main() -> None:
    """Train, and show the history."""
    lf.seed(0)
    points, arms = spirals(1200, seed=0)
    model = network()
    optimizer, metrics = optim.Adam(model.parameters(), lr=0.01), {"accuracy": train.Accuracy()}
    history = train.fit(
        model,
        lf.cross_entropy,
        (points, arms),
        epochs=15,
        optimizer=optimizer,
        validation=0.25,
        metrics=metrics,
        seed=0,
    )
    print(history)


if __name__ == "__main__":
    main()

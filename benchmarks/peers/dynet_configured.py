"""DyNet with automatic batching, as ``dy``: its configuration is read when it is imported, once a process."""

from __future__ import annotations

from typing import Any

import dynet_config  # type: ignore[import-not-found]

# Megabytes for values, gradients, parameters and scratch: a pool that a graph outgrows is an error under automatic
# batching. These are good for about 500 trees, and for 256 sentences of the language model.
dynet_config.set(mem="500,500,150,100", autobatch=1, random_seed=1)
import dynet as dy  # type: ignore[import-not-found]  # noqa: E402  (reads its configuration when imported)
import numpy as np  # noqa: E402

__all__ = ["dy", "lstm", "plain"]

Array = np.ndarray[Any, Any]


def lstm(model: dy.ParameterCollection, w: Array, u: Array, bias: Array) -> dy.CompactVanillaLSTMBuilder:
    """A layer with the weights of inputs ``w``, of states ``u``, and the sum of their biases, gates in the order i, f,
    g, o. DyNet's are in the order i, f, o, g, and it adds one to the forget gate's input."""
    parts = [np.split(array, 4) for array in (w, u, bias)]
    parts[2][1] = parts[2][1] - 1
    builder = dy.CompactVanillaLSTMBuilder(1, w.shape[1], u.shape[1], model)
    for parameter, gates in zip(builder.get_parameters()[0], parts, strict=True):
        parameter.set_value(np.concatenate([gates[k] for k in (0, 1, 3, 2)]))
    return builder


def plain(trainer: dy.Trainer) -> dy.Trainer:
    """A trainer that updates the rows of tables that were looked up, and does not clip: by default every update takes
    the norm of all gradients first, which nobody else is asked to do."""
    trainer.set_sparse_updates(True)
    trainer.set_clip_threshold(0)
    return trainer

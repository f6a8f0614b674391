"""DyNet with automatic batching, as ``dy``: its configuration is read when it is imported, once a process."""

from __future__ import annotations

import dynet_config  # type: ignore[import-not-found]

# Megabytes for values, gradients, parameters and scratch: a pool that a graph outgrows is an error under automatic
# batching. These are good for about 500 trees, and for 256 sentences of the language model.
dynet_config.set(mem="500,500,150,100", autobatch=1, random_seed=1)
import dynet as dy  # type: ignore[import-not-found]  # noqa: E402  (reads its configuration when imported)

__all__ = ["dy", "plain"]


def plain(trainer: dy.Trainer) -> dy.Trainer:
    """A trainer that updates the rows of tables that were looked up, and does not clip: by default every update takes
    the norm of all gradients first, which nobody else is asked to do."""
    trainer.set_sparse_updates(True)
    trainer.set_clip_threshold(0)
    return trainer

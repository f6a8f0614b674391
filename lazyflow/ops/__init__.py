"""The operations. Importing this package fills `OPS`, the table of them by name."""

from lazyflow.ops import (
    attention,
    conv,
    decompositions,
    elementwise,
    index,
    linalg,
    loss,
    random,
    reduce,
    segment,
    shape,
    simplex,
)
from lazyflow.ops.base import OPS

__all__ = [
    "OPS",
    "attention",
    "conv",
    "decompositions",
    "elementwise",
    "index",
    "linalg",
    "loss",
    "random",
    "reduce",
    "segment",
    "shape",
    "simplex",
]

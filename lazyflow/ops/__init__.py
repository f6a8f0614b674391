"""The operations. Importing this package fills `OPS`, the table of them by name."""

from lazyflow.ops import decompositions, elementwise, index, linalg, loss, random, reduce, shape
from lazyflow.ops.base import OPS

__all__ = ["OPS", "decompositions", "elementwise", "index", "linalg", "loss", "random", "reduce", "shape"]

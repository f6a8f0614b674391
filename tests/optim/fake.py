"""A parameter without an engine: what optimizers need of one and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from lazyflow.ops.sparse import RowSparse


class FakeParameter:
    def __init__(self, array: Any, name: str = "") -> None:
        self.array = np.array(array)
        self.name = name
        self.grad: Any = None
        self.touched = 0

    def touch(self) -> None:
        self.touched += 1


def rows(indices: Any, values: Any, shape: tuple[int, ...]) -> RowSparse:
    return RowSparse(np.asarray(indices, np.int64), np.asarray(values), shape)


def random_rows(rng: np.random.Generator, shape: tuple[int, ...], count: int, dtype: Any = np.float64) -> RowSparse:
    indices = np.sort(rng.choice(shape[0], count, replace=False))
    return rows(indices, rng.standard_normal((count, *shape[1:])).astype(dtype), shape)

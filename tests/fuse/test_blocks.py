"""Kernels of NumPy, block by block, and rows that are added where they begin."""

import numpy as np
import pytest

from lazyflow.fuse import blocks
from lazyflow.fuse.scalar import ARG_BLOCK, Builder


def test_numpy_kernels_go_block_by_block():
    width = blocks.VALUE_ELEMENTS // 4
    b = Builder(width, np.dtype("float64"))
    x = b.load(ARG_BLOCK, ("in",), 0, width)
    b.store(ARG_BLOCK, ("out",), 0, width, b.call("add", b.call("multiply", x, x), 1.0), adds=False)
    arrays = np.random.default_rng(0).normal(size=(11, width)), np.empty((11, width))
    blocks.numpy_function(b.kernel())(0, 11, 0, *arrays)
    np.testing.assert_array_equal(arrays[1], arrays[0] ** 2 + 1)


@pytest.mark.parametrize("at", [[0, 4, 8, 0], [0, 5, 9, 0], [1, 2, 3, 1], [], [3], [7, 7, 7, 7]], ids=str)
def test_rows_are_added_where_they_begin(at):
    rng = np.random.default_rng(0)
    buffer, rows = rng.normal(size=20), rng.normal(size=(len(at), 4))
    expected = buffer.copy()
    for start, row in zip(at, rows, strict=True):
        expected[start : start + 4] += row
    found = blocks.rows_of(buffer, np.array(at, np.int64), 4)
    np.testing.assert_array_equal(found, [buffer[s : s + 4] for s in at] if at else np.empty((0, 4)))
    blocks.add_rows(buffer, np.array(at, np.int64), rows)
    np.testing.assert_allclose(buffer, expected, rtol=1e-14)

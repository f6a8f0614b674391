"""Indices of many nodes end to end, and sums of rows by them, on the device beside NumPy."""

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda.places import MOST_LOOKED_THROUGH, Segments, placed_among_all, placed_evenly
from lazyflow.ops.base import brought

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
# Of each node the rows and the segments; of some there are none of either.
NODES = {
    "several": [(3, 2), (1, 4), (40, 5), (2, 1)],
    "one": [(5, 3)],
    "without rows": [(2, 3), (0, 2), (3, 1), (4, 4)],
}


def given(nodes):
    """For each row its index, some from the end, and ``place``; and the index among all segments."""
    rng, begin, index, place, whole = np.random.default_rng(1), 0, [], [], []
    for rows, n in nodes:
        own = rng.integers(-n, n, rows)
        index.append(own)
        place.append(np.stack([np.full(rows, begin), np.full(rows, n)]))
        whole.append(own % n + begin)
        begin += n
    return np.concatenate(index), np.concatenate(place, axis=1), np.concatenate(whole), begin


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NODES)
def test_of_nodes_of_any_sizes(name, dtype, mean):
    index, place, whole, n = given(NODES[name])
    rng = np.random.default_rng(2)
    x, g = rng.normal(size=(len(index), 2, 3)).astype(dtype), rng.normal(size=(n, 2, 3)).astype(dtype)
    sums, counts = np.zeros((n, 2, 3)), np.bincount(whole, minlength=n).clip(1)[:, None, None]
    np.add.at(sums, whole, x)
    with devices.on(CUDA):
        there = [devices.to_device(a, CUDA) for a in (index, x, g, place)]
        segments = Segments(there[0], brought(place, there[3]), 0, 0)
        assert segments.suits(there[1])
        found = (
            placed_among_all(there[0], there[3]),
            segments.sums(there[1], n, mean),
            segments.spread(there[2], len(x), mean),
        )
    right = whole, sums / counts if mean else sums, (g / counts if mean else g)[whole]
    for a, b in zip(map(devices.to_host, found), right, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6 if dtype == "float32" else 1e-14, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_of_nodes_of_one_size(shared):
    rng, batch, rows, n = np.random.default_rng(3), 4, 5, 3
    index = rng.integers(-n, n, (rows,) if shared else (batch, rows))
    x, out = rng.normal(size=(batch, rows, 2)), np.zeros((batch, n, 2))
    whole = (np.broadcast_to(index, (batch, rows)) % n + np.arange(batch)[:, None] * n).reshape(-1)
    sums = np.zeros((batch * n, 2))
    np.add.at(sums, whole, x.reshape(-1, 2))
    with devices.on(CUDA):
        index, x, out = (devices.to_device(a, CUDA) for a in (index, x, out))
        segments = Segments(index, None, rows, n)
        found = segments.sums(x.reshape(-1, 2), batch * n, False, out)
        assert found is out and segments.suits(x) and not Segments(index, None, MOST_LOOKED_THROUGH + 1, n).suits(x)
        np.testing.assert_array_equal(devices.to_host(placed_evenly(index, batch, n, 1)), whole)
    np.testing.assert_allclose(devices.to_host(out).reshape(-1, 2), sums)

"""Sums, extremes and softmax of the rows of segments on the device, and their transposes, beside NumPy."""

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda.rows import Groups
from lazyflow.cuda.segments import (
    MOST_LOOKED_THROUGH,
    SEGMENT_OPERATIONS,
    Segments,
    along_segments,
    slopes_along_segments,
)
from lazyflow.ops.base import brought
from lazyflow.ops.segment import (
    ByIndex,
    _log_softmax,
    _max_x,
    _segment_log_softmax_x,
    _segment_softmax_x,
    largest_of,
    smallest_of,
    softmax_of_parts,
)

pytestmark = pytest.mark.gpu
CUDA, TOLERANCE = "cuda:0", {"float32": 2e-6, "float64": 1e-14}
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
def test_sums_of_nodes_of_any_sizes(name, dtype, mean):
    index, place, whole, n = given(NODES[name])
    rng = np.random.default_rng(2)
    x, g = rng.normal(size=(len(index), 2, 3)).astype(dtype), rng.normal(size=(n, 2, 3)).astype(dtype)
    sums, counts = np.zeros((n, 2, 3)), np.bincount(whole, minlength=n).clip(1)[:, None, None]
    np.add.at(sums, whole, x)
    with devices.on(CUDA):
        there = [devices.to_device(a, CUDA) for a in (index, x, g, place)]
        segments = Segments(there[0], brought(place, there[3]), 0, 0)
        assert segments.suits(there[1])
        found = segments.sums(there[1], n, mean), segments.spread(there[2], len(x), mean)
    right = sums / counts if mean else sums, (g / counts if mean else g)[whole]
    for a, b in zip(map(devices.to_host, found), right, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_sums_of_nodes_of_one_size(shared):
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
    np.testing.assert_allclose(devices.to_host(out).reshape(-1, 2), sums)


HERE = {
    "softmax": (softmax_of_parts, _segment_softmax_x),
    "log_softmax": (_log_softmax, _segment_log_softmax_x),
    "max": (largest_of, _max_x),
    "min": (smallest_of, _max_x),
}
VALUES = {
    "plain": lambda rng, size: rng.normal(size=size) * 3,
    "equal": lambda rng, size: rng.integers(-1, 2, size) * 1.0,
    "special": lambda rng, size: rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 700.0], size),
}


def test_every_operation_has_a_reference():
    assert set(HERE) == set(SEGMENT_OPERATIONS)


def compared(name, x, whole, n, there, dtype):
    """An operation of rows with these segments among all, on the host and on a device."""
    forward, back = HERE[name]
    parted, rng = ByIndex(np, whole, n), np.random.default_rng(4)
    with np.errstate(all="ignore"):
        y = forward(x, parted)
        g = np.where(rng.random(y.shape) < 0.3, 0, rng.normal(size=y.shape)).astype(dtype)
        right = y, back(g, y, x, parted)
    with devices.on(CUDA):
        given = [devices.to_device(a, CUDA) for a in (x, g, y)]
        out = devices.to_device(np.full(y.shape, 7, dtype), CUDA)
        made = along_segments(name, given[0], there(), n, out)
        assert made is out
        found = made, slopes_along_segments(name, given[1], given[2], given[0], there(), n)
    for a, b in zip(map(devices.to_host, found), right, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("name", SEGMENT_OPERATIONS)
def test_of_nodes_of_any_sizes_by_an_index(name, nodes, dtype, values):
    index, place, whole, n = given(NODES[nodes])
    x = VALUES[values](np.random.default_rng(2), (len(index), 2, 3)).astype(dtype)
    compared(name, x, whole, n, lambda: Segments(devices.to_device(index, CUDA), place, 0, 0), dtype)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", SEGMENT_OPERATIONS)
def test_of_nodes_of_one_size_by_an_index(name, shared, values):
    rng, batch, rows, n = np.random.default_rng(3), 4, 40, 3
    index = rng.integers(-n, n, (rows,) if shared else (batch, rows))
    whole = (np.broadcast_to(index, (batch, rows)) % n + np.arange(batch)[:, None] * n).reshape(-1)
    x = VALUES[values](rng, (batch * rows, 2))
    compared(name, x, whole, batch * n, lambda: Segments(devices.to_device(index, CUDA), None, rows, n), "float64")


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("counts", [[3, 1, 70, 2], [33], [4, 4, 4]], ids=str)
@pytest.mark.parametrize("name", SEGMENT_OPERATIONS)
def test_of_rows_that_follow_each_other(name, counts, values):
    whole = np.repeat(np.arange(len(counts)), counts)
    x = VALUES[values](np.random.default_rng(5), (len(whole), 3))

    def there():
        ends = None if len(set(counts)) == 1 else devices.to_device(np.cumsum(counts), CUDA)
        return Groups(ends, counts[0])

    compared(name, x, whole, len(counts), there, "float64")

"""Variances, norms, logsumexp, orders and pads of stretches of rows on the device, beside the host."""

import itertools

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda.reductions import (
    STRETCH_REDUCTIONS,
    inside_of_pads,
    order_stretches,
    pad_stretches,
    reduce_stretches,
    slopes_of_stretches,
)
from lazyflow.cuda.rows import Groups
from lazyflow.ops.stretches import ALONG_STRETCHES

pytestmark = pytest.mark.gpu
CUDA, TOLERANCE = "cuda:0", {"float32": 3e-6, "float64": 1e-13}
COUNTS = [[3, 1, 70, 2], [33], [4, 4, 4], [1, 1]]
VALUES = {
    "plain": lambda rng, size: rng.normal(size=size) * 3,
    "equal": lambda rng, size: rng.integers(0, 2, size) * 0.1,
    "far from zero": lambda rng, size: 1e6 + rng.integers(0, 9, size),
    "special": lambda rng, size: rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 700.0], size),
    "minus infinity": lambda rng, size: np.full(size, -np.inf),
}


def statics(what):
    if isinstance(what, tuple):
        return [{"ord": what[1]}]
    return [{"ddof": 0}, {"ddof": 1}] if what in ("var", "std") else [{}]


REDUCED = [
    (what, static, counts)
    for what in STRETCH_REDUCTIONS
    for static in statics(what)
    for counts in COUNTS
    if min(counts) > static.get("ddof", 0)
]


def there(array):
    return devices.to_device(array, CUDA)


def groups_of(counts):
    return Groups(None if len(set(counts)) == 1 else there(np.cumsum(counts)), counts[0])


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("what", "static", "counts"), REDUCED, ids=str)
def test_reductions(what, static, counts, dtype, values):
    name = what[0] if isinstance(what, tuple) else what
    rng, op = np.random.default_rng(2), ALONG_STRETCHES[name]
    x = VALUES[values](rng, (sum(counts), 2, 3)).astype(dtype)
    with np.errstate(all="ignore"):
        y = op.forward(np, x, np.array(counts), **static)
        g = np.where(rng.random(y.shape) < 0.3, 0, rng.normal(size=y.shape)).astype(dtype)
        right = y, op.vjps[0](np, g, y, x, np.array(counts), **static)
    with devices.on(CUDA):
        number, more = STRETCH_REDUCTIONS[what], static.get("ddof", 0)
        found = (
            reduce_stretches(number, there(x), groups_of(counts), len(counts), more),
            slopes_of_stretches(number, there(g), there(y), there(x), groups_of(counts), more),
        )
    for a, b in zip(map(devices.to_host, found), right, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "values"), [*itertools.product(("float32", "float64"), VALUES), ("int64", "plain"), ("int64", "equal")]
)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_orders(counts, dtype, values):
    x = VALUES[values](np.random.default_rng(3), (sum(counts), 2, 3)).astype(dtype)
    ends = np.cumsum(counts)
    right = np.concatenate([np.argsort(part, 0, kind="stable") for part in np.split(x, ends[:-1])])
    with devices.on(CUDA):
        found = order_stretches(there(x), groups_of(counts), len(counts))
    np.testing.assert_array_equal(devices.to_host(found), right)


@pytest.mark.parametrize("pair", [(1, 2), (0, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_pads(counts, dtype, pair):
    x = np.random.default_rng(4).normal(size=(sum(counts), 2)).astype(dtype)
    parts = np.split(x, np.cumsum(counts)[:-1])
    right = np.concatenate([np.pad(part, (pair, (0, 0)), constant_values=2.5) for part in parts])
    with devices.on(CUDA):
        found = pad_stretches(there(x), groups_of(counts), len(counts), pair, 2.5)
        back = inside_of_pads(found, groups_of(counts), len(counts), pair)
    np.testing.assert_array_equal(devices.to_host(found), right)
    np.testing.assert_array_equal(devices.to_host(back), x)

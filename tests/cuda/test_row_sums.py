"""Sums of columns, rows that are shown, and rows that go where they belong: one launch each, the numbers of NumPy."""

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda import rows

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"


def there(array):
    return devices.to_device(array, CUDA)


@pytest.fixture
def rng():
    with devices.on(CUDA):
        yield np.random.default_rng(9)


GROUPS = {
    "one": [[(70, 5)]],
    "wide": [[(3, 100)], [(40, 33)]],
    "some of several matrices": [[(4, 3), (50, 3)], [(2, 40)], [(1, 3), (0, 3), (6, 3)]],
    "no rows": [[(0, 4)]],
    "no columns": [[(3, 0)], [(3, 2)]],
    "as many as there may be": [[(k + 1, 7) for k in range(rows.MOST_OPERANDS)]],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_sums_of_columns(groups, dtype, rng):
    matrices = [[rng.normal(size=(n, width + 2)).astype(dtype) for n, width in group] for group in groups]
    found = rows.column_sums_of([[there(m)[:, 1:-1] for m in group] for group in matrices])
    for total, group in zip(found, matrices, strict=True):
        expected = sum(m[:, 1:-1].astype(np.float64).sum(0) for m in group)
        assert total.dtype == dtype and total.flags.c_contiguous
        np.testing.assert_allclose(devices.to_host(total), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 3, rows.MOST_OPERANDS + 2])
def test_rows_of_no_cotangent_are_zero(count, dtype, rng):
    pairs = []
    for k in range(count):
        g, x = rng.normal(size=(5 + k, 40)).astype(dtype), rng.normal(size=(5 + k, 3 + k)).astype(dtype)
        g[1 :: k + 2] = 0
        x[1 :: k + 2, 0] = np.nan
        pairs.append((g, x))
    found = rows.shown_rows([(there(g)[:, 2:], there(x)) for g, x in pairs])
    for (g, x), out in zip(pairs, found, strict=True):
        np.testing.assert_array_equal(devices.to_host(out), np.where((g[:, 2:] != 0).any(1)[:, None], x, 0))


HOW = {"put": (False, False), "added": (True, False), "added where others may be": (True, True)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("adds", "repeats"), HOW.values(), ids=HOW)
def test_rows_of_groups_go_where_they_belong(adds, repeats, dtype, rng):
    values, before = rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=60).astype(dtype)
    ends, counts, at = np.array([1, 1, 5]), np.array([1, 0, 4]), np.array([2, 0, 2, 5, 1])
    memory = there(before.copy())
    places = rows.Places(memory[8:], 9, 5, 4, there(at) if repeats else None, adds)
    rows.repeat_groups(there(values), rows.Groups(there(ends)), places, mean=True)
    expected = before.copy()
    for k, row in enumerate(np.repeat(values / np.maximum(counts, 1)[:, None].astype(dtype), counts, axis=0)):
        begin = 8 + 9 * (at[k] if repeats else k)
        expected[begin : begin + 4] = row + (expected[begin : begin + 4] if adds else 0)
    np.testing.assert_allclose(devices.to_host(memory), expected, rtol=1e-6)

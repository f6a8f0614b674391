"""Indices of many nodes end to end, on the device beside NumPy."""

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda.places import placed_among_all, placed_evenly
from tests.cuda.test_segments import NODES, given

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"


@pytest.mark.parametrize("name", NODES)
def test_of_nodes_of_any_sizes(name):
    index, place, whole, _ = given(NODES[name])
    with devices.on(CUDA):
        found = placed_among_all(devices.to_device(index, CUDA), devices.to_device(place, CUDA))
    np.testing.assert_array_equal(devices.to_host(found), whole)


@pytest.mark.parametrize("shared", [False, True])
def test_of_nodes_of_one_size(shared):
    rng, batch, rows, n = np.random.default_rng(3), 4, 5, 3
    index = rng.integers(-n, n, (rows,) if shared else (batch, rows))
    whole = (np.broadcast_to(index, (batch, rows)) % n + np.arange(batch)[:, None] * n).reshape(-1)
    with devices.on(CUDA):
        found = placed_evenly(devices.to_device(index, CUDA), batch, n, 1)
    np.testing.assert_array_equal(devices.to_host(found), whole)

"""Softmax and norms of rows on the device: one launch each, the numbers of NumPy's form."""

import numpy as np
import pytest

from lazyflow import core
from lazyflow import device as devices
from lazyflow.ops.base import OPS

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
FORMS = {"softmax": {"axis": -1}, "log_softmax": {"axis": -1}, "standardise": {"axis": (-1,), "eps": 0.01}}


@pytest.fixture
def without_core(monkeypatch):
    monkeypatch.setattr(core, "machine", None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 1), (2, 3, 31), (1, 32), (9, 70)])
@pytest.mark.parametrize("name", FORMS)
def test_along_rows(name, shape, dtype, without_core):
    rng, op = np.random.default_rng(4), OPS[name]
    x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x[0] += 300
    y = op.forward(np, x, **FORMS[name])
    slopes = op.vjps[0](np, g, y, x, **FORMS[name])
    xp = devices.array_module(CUDA)
    with devices.on(CUDA):
        gs, ys, xs = (devices.to_device(a, CUDA) for a in (g, y, x))
        found = [op.forward(xp, xs, **FORMS[name]), op.vjps[0](xp, gs, ys, xs, **FORMS[name])]
    for array, expected in zip(found, (y, slopes), strict=True):
        assert array.dtype == dtype and array.shape == shape
        np.testing.assert_allclose(
            devices.to_host(array), expected, rtol=3e-5 if dtype == "float32" else 1e-11, atol=1e-5
        )


@pytest.mark.parametrize("name", FORMS)
def test_of_no_cotangents_nothing_comes(name):
    xp = devices.array_module(CUDA)
    with devices.on(CUDA):
        x, zero = (devices.to_device(np.full((2, 3), value, np.float32), CUDA) for value in (np.nan, 0.0))
        found = OPS[name].vjps[0](xp, zero, x, x, **FORMS[name])
    np.testing.assert_array_equal(devices.to_host(found), np.zeros((2, 3)))

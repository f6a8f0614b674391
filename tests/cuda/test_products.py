"""Products by cuBLAS: of matrices as they lie, into any rows, added to what is there."""

import itertools

import numpy as np
import pytest

from lazyflow import device as devices
from lazyflow.cuda import products

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"


def matrix(rng, shape, dtype, form):
    """A matrix of the device: by rows, by columns, or some columns of a larger one."""
    there = devices.to_device(rng.normal(size=(shape[0] + 1, shape[1] + 3)).astype(dtype), CUDA)
    xp = devices.array_module(CUDA)
    if form == "columns of a larger one":
        return there[: shape[0], 2 : 2 + shape[1]]
    if form == "by columns":
        return xp.ascontiguousarray(there[: shape[0], : shape[1]].T).T
    return xp.ascontiguousarray(there[: shape[0], : shape[1]])


FORMS = ("by rows", "by columns", "columns of a larger one")
SIZES = ((4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1), (1, 4, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), SIZES)
def test_products_of_matrices_as_they_lie(m, n, k, add, dtype):
    rng = np.random.default_rng(m + n + k)
    with devices.on(CUDA):
        for forms in itertools.product(FORMS, FORMS, ("by rows", "columns of a larger one")):
            shapes = (m, k), (k, n), (m, n)
            a, b, out = (matrix(rng, shape, dtype, form) for shape, form in zip(shapes, forms, strict=True))
            expected = a.get() @ b.get() + (out.get() if add else 0)
            assert products.are_multiplied(out, a, b)
            products.multiply_into(out, a, b, add)
            np.testing.assert_allclose(out.get(), expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_asked_for_stays_as_it_was():
    with devices.on(CUDA):
        whole = devices.array_module(CUDA).ones((4, 6), np.float32)
        products.multiply_into(whole[1:3, 2:4], whole[:2, :1], whole[:1, :2] * 3)
        found = whole.get()
    expected = np.ones((4, 6), np.float32)
    expected[1:3, 2:4] = 3
    np.testing.assert_array_equal(found, expected)


def test_what_cublas_does_not_take():
    with devices.on(CUDA):
        xp = devices.array_module(CUDA)
        whole = xp.ones((4, 6), np.float32)
        fits = whole[:, :3], whole[:, :2], whole[:2, :3]
        assert products.are_multiplied(*fits)
        wrong = {
            "columns apart": (fits[0], whole[:, ::3], fits[2]),
            "another dtype": (fits[0], fits[1].astype(np.float64), fits[2]),
            "whole numbers": tuple(m.astype(np.int32) for m in fits),
            "float16": tuple(m.astype(np.float16) for m in fits),
            "empty": (fits[0], whole[:, :0], whole[:0, :3]),
            "the result by columns": (xp.ones((3, 4), np.float32).T, *fits[1:]),
            "one row many times": (fits[0], fits[1], xp.broadcast_to(whole[0, :3], (2, 3))),
        }
        for name, matrices in wrong.items():
            assert not products.are_multiplied(*matrices), name
    assert not products.are_multiplied(*(np.ones((2, 2)) for _ in range(3)))


@pytest.mark.parametrize("add", [False, True])
def test_products_are_of_tf32_where_cupys_are(add):
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 40), (40, 6)))
    found = {}
    for tf32 in (False, True):
        with devices.on(CUDA), devices.products(CUDA, tf32):
            out = devices.array_module(CUDA).zeros((5, 6), np.float32)
            products.multiply_into(out, *(devices.to_device(m, CUDA) for m in (a, b)), add)
            found[tf32] = np.abs(out.get() - a.astype(np.float64) @ b).max()
    assert found[False] < 1e-5 < found[True] < 1e-1

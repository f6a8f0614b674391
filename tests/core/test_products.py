"""Products by NumPy's own loop, on one thread and cut into parts for several, against `numpy.matmul`."""

import numpy as np
import pytest

from lazyflow import core

if core.machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

SEED = 20
SHAPES = {  # of both operands; some are large enough to be cut by rows, by columns and by products
    "small": ((3, 4), (4, 5)),
    "rows": ((700, 64), (64, 90)),
    "columns": ((50, 64), (64, 900)),
    "products": ((6, 90, 64), (6, 64, 100)),
    "one row": ((1, 300), (300, 9000)),
    "one column": ((9000, 300), (300, 1)),
    "no rows": ((0, 4), (4, 5)),
    "no columns": ((4, 3), (3, 0)),
    "nothing to sum": ((3, 0), (0, 5)),
    "no products": ((0, 3, 4), (0, 4, 5)),
    "a vector": ((3, 4), (4,)),
    "products of one": ((1, 3, 4), (6, 4, 5)),
}


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = core.machine.use_threads(request.param)
    yield request.param
    core.machine.use_threads(before)


def laid_out(array, how):
    """The same numbers in other places of memory."""
    if how == "columns":
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2) if array.ndim > 1 else array
    if how == "every other":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    return array[::-1].copy()[::-1] if how == "backwards" else array


@pytest.mark.parametrize("how", ["rows", "columns", "every other", "backwards"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_products_are_those_of_numpy(threads, name, dtype, how):
    rng = np.random.default_rng(SEED)
    a, b = (laid_out(rng.integers(-9, 9, shape).astype(dtype), how) for shape in SHAPES[name])  # sums are exact
    expected = np.matmul(a, b)
    found = core.machine.multiply(a, b)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    for place in (np.empty_like(expected), laid_out(np.full_like(expected, 7), how)):
        assert core.machine.multiply(a, b, place) is place
        np.testing.assert_array_equal(place, expected)


def test_special_values(threads):
    a, b = np.zeros((600, 64)), np.ones((64, 90))
    a[0, 0], a[1, 1], a[2, 2] = np.nan, np.inf, -np.inf
    b[1, 3], b[2, 4] = 0.0, -1.0
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(core.machine.multiply(a, b), np.matmul(a, b))


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        (np.ones((3, 4)), np.ones((5, 6)), None),
        (np.ones((2, 3, 4)), np.ones((3, 4, 5)), None),
        (np.ones((3, 4)), np.ones((4, 5)), np.ones((5, 3))),
        (np.ones((3, 4)), np.ones((4, 5)), np.ones((1, 3, 6))),
        (np.ones((3, 4)), np.ones((4, 5)), np.broadcast_to(np.ones(5), (3, 5))),
    ],
)
def test_shapes_that_do_not_fit_are_an_error_of_numpy(a, b, out):
    with pytest.raises(ValueError, match=r"mismatch|read-only|dimension|broadcast"):
        core.machine.multiply(a, b, out)

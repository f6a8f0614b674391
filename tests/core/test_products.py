"""Products by kernels of the core and by NumPy's own loop, on one thread and cut into parts for several, against
`numpy.matmul`, with every instruction set that this processor has."""

import numpy as np
import pytest

from lazyflow import core

if core.machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("instruction_set")

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


@pytest.fixture(params=[False, True], ids=["a fast BLAS", "a slow BLAS"])
def blas(request):
    """Beside a BLAS for older processors, the core's kernels are for any number of rows."""
    before = core.machine.expect_slow_blas(request.param)
    yield request.param
    core.machine.expect_slow_blas(before)


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
def test_products_are_those_of_numpy(threads, blas, name, dtype, how):
    rng = np.random.default_rng(SEED)
    a, b = (laid_out(rng.integers(-9, 9, shape).astype(dtype), how) for shape in SHAPES[name])  # sums are exact
    expected = np.matmul(a, b)
    found = core.machine.multiply(a, b)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    for place in (np.empty_like(expected), laid_out(np.full_like(expected, 7), how)):
        assert core.machine.multiply(a, b, place) is place
        np.testing.assert_array_equal(place, expected)


# Around the widths of vectors and the heights of tiles, and beyond what stays in the first cache.
WIDTHS = [1, 3, 15, 16, 17, 31, 64, 70, 133]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", ["plain", "upright", "of columns"])
@pytest.mark.parametrize("rows", [*range(1, 10), 13, 25, 41, 150])
def test_products_of_any_size(rows, how, dtype):
    """No element beside the result is written; numbers are small integers, so that sums are exact."""
    rng = np.random.default_rng(SEED)
    for inner in WIDTHS:
        for columns in WIDTHS:
            a, b = (rng.integers(-9, 9, shape).astype(dtype) for shape in ((rows, inner), (inner, columns)))
            a = laid_out(a, "columns") if how == "of columns" else a
            b = laid_out(b, "columns") if how == "upright" else b
            out = np.full((rows, columns + 2), 7, dtype)
            core.machine.multiply(a, b, out[:, 1:-1])
            np.testing.assert_array_equal(out[:, 1:-1], a.astype(int) @ b.astype(int))
            assert (out[:, [0, -1]] == 7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", ["rows", "columns"])
def test_an_element_is_the_same_among_any_others(how, dtype):
    """To the bit, whatever rows and columns are computed beside it by a kernel of the core."""
    rng = np.random.default_rng(SEED)
    a, b = rng.normal(size=(16, 150)).astype(dtype), laid_out(rng.normal(size=(150, 70)).astype(dtype), how)
    small = 8 if how == "columns" else 16  # what every instruction set takes
    whole = core.machine.multiply(a[:small], b)
    for low, high in ((0, 1), (1, 3), (2, 5), (0, 7), (1, 8)):
        np.testing.assert_array_equal(core.machine.multiply(a[low:high], b), whole[low:high])
        np.testing.assert_array_equal(core.machine.multiply(a[low:high], b[:, 11:53]), whole[low:high, 11:53])


@pytest.mark.parametrize("how", ["rows", "columns"])
@pytest.mark.parametrize("rows", [5, 600])
def test_special_values(threads, blas, rows, how):
    a, b = np.zeros((rows, 70)), laid_out(np.ones((70, 90)), how)
    a[0, 0], a[1, 1], a[2, 2], a[3, 69], a[4, 0] = np.nan, np.inf, -np.inf, np.inf, -0.0
    b[1, 3], b[2, 4], b[69, 5], b[68, 6] = 0.0, -1.0, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = np.matmul(a, b)
        for dtype in (np.float32, np.float64):
            found = core.machine.multiply(a.astype(dtype), b.astype(dtype, order="K"))
            np.testing.assert_array_equal(found, expected)


def test_long_sums_are_sums_of_stretches():
    """Within the bound of as many roundings; in order these terms would be twice as far off."""
    a, b = np.full((3, 8000), 0.1, np.float32), np.ones((8000, 32), np.float32)
    np.testing.assert_allclose(core.machine.multiply(a, b), 8000 * np.float64(np.float32(0.1)), rtol=528 * 2.0**-24)


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

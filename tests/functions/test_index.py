"""The largest elements, in their order or not, and rows that are added at indices: values, gradients, refusals."""

import numpy as np
import pytest

import lazyflow as lf

RNG = np.random.default_rng(5)
M = RNG.permutation(np.linspace(-2.0, 2.0, 24)).reshape(2, 3, 4)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("k", [1, 2])
def test_topk(k, axis):
    values, places = lf.topk(lf.constant(M), k, axis)
    want = np.flip(np.sort(M, axis), axis).take(range(k), axis)
    np.testing.assert_array_equal(values.numpy(), want)
    np.testing.assert_array_equal(np.take_along_axis(M, places.numpy(), axis), want)
    lf.check_grads(lambda x: lf.topk(x, k, axis)[0], order=2)(M)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_kmax_pool_keeps_the_order(axis):
    k = 2

    def pooled(row):
        least = np.sort(row)[-k]
        return row[row >= least]

    got = lf.kmax_pool(lf.constant(M), k, axis).numpy()
    np.testing.assert_array_equal(got, np.apply_along_axis(pooled, axis, M))
    lf.check_grads(lambda x: lf.kmax_pool(x, k, axis), order=2)(M)


def test_equal_elements_count_in_their_order():
    x = lf.constant([2.0, 1.0, 2.0, 2.0])
    assert lf.topk(x, 2)[1].numpy().tolist() == [0, 2]
    assert lf.kmax_pool(lf.constant([1, 3, 3, 2]), 3).numpy().tolist() == [3, 3, 2]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "int64", "float16"])
def test_topk_of_other_dtypes(dtype):
    x = np.array([0, 1, 100, 3]).astype(dtype) if dtype != "int8" else np.array([-128, 127, 3, 0], dtype)
    values, _ = lf.topk(lf.constant(x), 2)
    assert values.dtype == x.dtype and values.numpy().tolist() == sorted(x.tolist())[:-3:-1]
    assert sorted(lf.kmax_pool(lf.constant(x), 2).numpy().tolist()) == sorted(x.tolist())[2:]


@pytest.mark.parametrize("f", [lf.topk, lf.kmax_pool])
@pytest.mark.parametrize(
    ("k", "axis", "error", "message"),
    [
        (0, -1, lf.ShapeError, "k must be from 1 to 4"),
        (5, -1, lf.ShapeError, "k must be from 1 to 4"),
        (3, 0, lf.ShapeError, "k must be from 1 to 2"),
        (1, 3, lf.ShapeError, "axis 3 is out of range"),
        (1.0, 0, TypeError, "k must be an integer"),
    ],
)
def test_how_many_is_checked(f, k, axis, error, message):
    with pytest.raises(error, match=message):
        f(lf.constant(M), k, axis)


def test_scatter():
    rows = M[0]
    want = np.zeros((5, 4))
    np.add.at(want, [3, 0, 3], rows)
    np.testing.assert_allclose(lf.scatter(lf.constant(rows), [3, 0, 3], 5).numpy(), want)
    lf.check_grads(lambda x: lf.scatter(x, np.array([3, 0, 3]), 5), order=2)(rows)


@pytest.mark.parametrize(
    ("rows", "index", "n", "error", "message"),
    [
        ([1.0], [4], 4, IndexError, r"index 4 \(element \[0\]\) is out of range for 4 rows"),
        ([1.0], [-1], 4, IndexError, r"index -1 \(element \[0\]\) is out of range"),
        ([1.0], [0.5], 4, TypeError, "an index must be an integer"),
        ([1.0], [0, 1], 4, lf.ShapeError, "do not begin with"),
        ([1.0], [0], "4", TypeError, "n, the number of rows, must be an integer"),
    ],
)
def test_what_scatter_refuses(rows, index, n, error, message):
    with pytest.raises(error, match=message):
        lf.scatter(lf.constant(rows), index, n)

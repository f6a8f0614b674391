"""Operations on rows, with every instruction set that this processor has, beside NumPy."""

import itertools

import numpy as np
import pytest

from lazyflow.core import machine

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("instruction_set")

DTYPES = ["float32", "float64"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def close(found, expected, dtype):
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_and_its_transpose(dtype, rng):
    buffer, at = rng.normal(size=1000).astype(dtype), rng.integers(0, 900, (2, 7))
    columns, widths = np.array([3, 20]), np.array([10, 33])
    out = np.zeros((5, 60), dtype)[:, :55]
    machine.gather(out, columns, buffer, at, 2, widths)
    expected = np.zeros_like(out)
    added = buffer.copy()
    for i in range(5):
        for k in range(2):
            part = slice(columns[k], columns[k] + widths[k])
            expected[i, part] = buffer[at[k, 2 + i] :][: widths[k]]
            added[at[k, 2 + i] :][: widths[k]] += expected[i, part]
    np.testing.assert_array_equal(out, expected)
    found = buffer.copy()
    machine.add_several(found, at, 2, out, columns, widths)
    np.testing.assert_array_equal(found, added)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 100])
def test_rows_that_repeat_are_all_added(dtype, width, rng):
    rows, at = rng.normal(size=(50, width)).astype(dtype), rng.integers(0, 4, 50) * width
    found = np.zeros(4 * width, dtype)
    machine.add_rows(found, at, rows)
    expected = np.zeros((4, width))
    np.add.at(expected, at // width, rows)
    close(found, expected.ravel(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_groups(dtype, rng):
    rows, positions = rng.normal(size=(40, 37)).astype(dtype), rng.permutation(40)
    starts = np.array([0, 1, 1, 7, 40])
    groups = [positions[low:high] for low, high in itertools.pairwise(starts)]
    out = np.empty((4, 37), dtype)
    machine.sum_groups(out, rows, positions, starts)
    close(out, [rows[group].astype(float).sum(0) for group in groups], dtype)
    machine.sum_groups(out, rows, None, starts)
    close(out, [rows[low:high].astype(float).sum(0) for low, high in itertools.pairwise(starts)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("of", [np.maximum, np.minimum])
def test_extremes_of_groups(of, dtype, rng):
    rows, positions = rng.normal(size=(40, 37)).astype(dtype), rng.permutation(40)
    rows[rng.integers(0, 40, 9), rng.integers(0, 37, 9)] = np.nan
    rows[rng.integers(0, 40, 9), rng.integers(0, 37, 9)] = -np.inf
    starts, out = np.array([0, 1, 3, 7, 40]), np.empty((4, 37), dtype)
    machine.extremes_of_groups(out, rows, positions, starts, of is np.maximum)
    np.testing.assert_array_equal(out, of.reduceat(rows[positions], starts[:-1], axis=0))
    out = np.full((2, 37), 7, dtype)
    machine.extremes_of_groups(out, rows, None, np.array([0, 40, 40]), of is np.maximum)  # nothing is read behind them
    np.testing.assert_array_equal(out, [of.reduce(rows), np.full(37, 7)])
    few = np.empty((4, 20), dtype)
    machine.extremes_of_groups(few, rows[:, :20], None, starts, of is np.maximum)
    np.testing.assert_array_equal(few, of.reduceat(rows[:, :20], starts[:-1], axis=0))


def test_many_rows_are_summed_in_double_precision():
    out = np.empty((1, 1), np.float32)
    machine.sum_groups(out, np.full((1_000_000, 1), 0.1, np.float32), None, np.array([0, 1_000_000]))
    assert abs(out[0, 0] - 1e5) < 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 16, 17, 300])
def test_cross_entropy_and_its_slopes(classes, dtype, rng):
    scores, index = (10 * rng.normal(size=(9, classes))).astype(dtype), rng.integers(0, classes, 9)
    share = rng.normal(size=9).astype(dtype)
    share[3], scores[3] = 0, -np.inf
    out, slopes = np.empty(9, dtype), np.empty_like(scores)
    assert machine.cross_entropy(scores, index, out)
    assert machine.cross_entropy_slopes(scores, index, share, slopes)
    wide = np.delete(scores, 3, 0).astype(float)
    exponentials = np.exp(wide - wide.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    rest = np.delete(np.arange(9), 3)
    picked = np.take_along_axis(wide - wide.max(1, keepdims=True), index[rest, None], 1)[:, 0]
    close(out[rest], np.log(exponentials.sum(1)) - picked, dtype)
    np.put_along_axis(probabilities, index[rest, None], np.take_along_axis(probabilities, index[rest, None], 1) - 1, 1)
    close(slopes[rest], probabilities * share[rest, None], dtype)
    assert (slopes[3] == 0).all()  # nothing is asked for


@pytest.mark.parametrize("wrong", [-1, 5])
def test_an_index_that_is_no_class(wrong):
    scores, index, out = np.ones((3, 5)), np.array([0, wrong, 1]), np.empty((3, 5))
    assert not machine.cross_entropy(scores, index, out[:, 0])
    assert not machine.cross_entropy_slopes(scores, index, np.ones(3), out)


def pooled(size, windows, divisors=None):
    """Means of two windows of the last of three axes."""
    axes = [1, 1, 0, 1, 1, 0, size, 2, 2]
    ranges, divisors = np.array([0, 1, *windows]), np.ones(1) if divisors is None else divisors
    return machine.pool_each(np.zeros(2), np.zeros(size), np.array([[0, 0, 1, *axes, 0, 0]]), ranges, divisors)


MISUSES = {
    "another dtype": lambda: machine.add_rows(np.zeros(4, np.float32), np.array([0]), np.zeros((1, 2))),
    "half precision": lambda: machine.add_rows(np.zeros(4, "f2"), np.array([0]), np.zeros((1, 2), "f2")),
    "columns of a matrix": lambda: machine.add_rows(np.zeros(4), np.array([0, 0]), np.zeros((2, 2)).T[:, ::-1]),
    "starts of another kind": lambda: machine.add_rows(np.zeros(4), np.array([0], np.int32), np.zeros((1, 2))),
    "too few starts": lambda: machine.add_rows(np.zeros(4), np.array([0]), np.zeros((2, 2))),
    "sums of what is not there": lambda: machine.reduce_each(0, np.zeros(4), np.zeros(9), np.array([[0, 4, 1, 3, 2]])),
    "sums to where nothing is": lambda: machine.reduce_each(0, np.zeros(4), np.zeros(9), np.array([[3, 0, 1, 2, 2]])),
    "sums of no elements": lambda: machine.reduce_each(0, np.zeros(4), np.zeros(9), np.array([[0, 0, 1, 0, 2]])),
    "shares of what is not there": lambda: machine.reduce_each_back(0, *np.zeros((4, 4)), np.array([[0, 1, 1, 2, 2]])),
    "rows of what is not there": lambda: machine.along_each(
        machine.ALONG["softmax"], np.zeros(9), np.zeros(5), np.array([[0, 0, 2, 3]]), np.zeros(1)
    ),
    "slopes to where nothing is": lambda: machine.along_each(
        machine.ALONG_SLOPES["softmax"],
        np.zeros(5),
        np.zeros(9),
        np.array([[0, 0, 2, 3]]),
        np.zeros(1),
        *np.zeros((2, 9)),
    ),
    "windows of what is not there": lambda: pooled(2, [0, 1, 2, 4]),
    "windows that are not said": lambda: pooled(2, [0, 1, 2]),
    "windows without a divisor": lambda: pooled(4, [0, 1, 2, 3], np.zeros(0)),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
def test_what_does_not_fit_is_refused(misuse):
    with pytest.raises((TypeError, ValueError)):
        misuse()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 7, 16, 17, 40, 64, 65])
def test_a_row_has_the_same_bits_alone_and_among_others(classes, dtype, rng):
    scores = (rng.standard_normal((37, classes)) * 4).astype(dtype)
    scores[3, -1], scores[4, 0], scores[5, classes // 2] = np.inf, np.nan, -np.inf
    index, share = rng.integers(0, classes, 37), rng.standard_normal(37).astype(dtype)
    share[[3, 7]] = 0.0

    def of_rows(low, high):
        part, some = scores[low:high], slice(low, high)
        losses, slopes, *others = np.empty(high - low, dtype), *(np.empty_like(part) for _ in range(3))
        machine.cross_entropy(part, index[some], losses)
        machine.cross_entropy_slopes(part, index[some], share[some], slopes)
        for name, out in zip(("softmax", "log_softmax"), others, strict=True):
            machine.along(machine.ALONG[name], classes, 0.0, out, part)
        return losses, slopes, *others

    together = of_rows(0, 37)
    for i in range(37):
        for found, alone in zip(together, of_rows(i, i + 1), strict=True):
            np.testing.assert_array_equal(found[i : i + 1], alone)


def along_in_numpy(name, x, eps):
    if name == "standardise":
        off = x - x.mean(1, keepdims=True)
        return off / np.sqrt((off * off).mean(1, keepdims=True) + eps)
    shares = np.exp(x - x.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return shares if name == "softmax" else np.log(shares)


def slopes_in_numpy(name, x, y, g, eps):
    if name == "standardise":
        off = x - x.mean(1, keepdims=True)
        inner = g - g.mean(1, keepdims=True) - y * (g * y).mean(1, keepdims=True)
        return inner / np.sqrt((off * off).mean(1, keepdims=True) + eps)
    return y * (g - (g * y).sum(1, keepdims=True)) if name == "softmax" else g - g.sum(1, keepdims=True) * np.exp(y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "standardise"])
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 100])
def test_along_rows(name, width, dtype, rng):
    x, g = (rng.normal(size=(7, width)).astype(dtype) for _ in range(2))
    x[0] += 1000
    found, slopes = np.empty_like(x), np.empty_like(x)
    machine.along(machine.ALONG[name], width, 0.01, found, x)
    close(found, along_in_numpy(name, x.astype("float64"), 0.01), dtype)
    machine.along(machine.ALONG_SLOPES[name], width, 0.01, slopes, x, found, g)
    close(slopes, slopes_in_numpy(name, *(a.astype("float64") for a in (x, found, g)), 0.01), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_along_which_all_are_equal_are_off_by_nothing(dtype):
    x = np.full((2, 7), 0.1, dtype)
    out = np.empty_like(x)
    machine.along(machine.ALONG["standardise"], 7, 1e-5, out, x)
    np.testing.assert_array_equal(out, np.zeros_like(x))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "standardise"])
def test_without_cotangents_nothing_comes_of_values_that_are_not_finite(name):
    x, y, g = np.full((1, 3), np.nan), np.full((1, 3), np.nan), np.zeros((1, 3))
    out = np.ones((1, 3))
    machine.along(machine.ALONG_SLOPES[name], 3, 1e-5, out, x, y, g)
    np.testing.assert_array_equal(out, g)


def test_rows_that_do_not_fit_are_refused():
    x = np.zeros((2, 3))
    for width, out, given in ((0, x, (x,)), (4, x, (x,)), (3, np.zeros(3), (x,))):
        with pytest.raises(ValueError, match="the shapes do not fit"):
            machine.along(machine.ALONG["softmax"], width, 0.0, out, *given)

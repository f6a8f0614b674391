"""Functions that are made of several operations, or of options of one: values, gradients, and what they refuse."""

import itertools

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host

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
        ([1.0], [4], 4, IndexError, "index 4 is out of range for 4 rows"),
        ([1.0], [-1], 4, IndexError, "index -1 is out of range"),
        ([1.0], [0.5], 4, TypeError, "an index must be an integer"),
        ([1.0], [0, 1], 4, lf.ShapeError, "do not begin with"),
        ([1.0], [0], "4", TypeError, "n, the number of rows, must be an integer"),
    ],
)
def test_what_scatter_refuses(rows, index, n, error, message):
    with pytest.raises(error, match=message):
        lf.scatter(lf.constant(rows), index, n)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_hinge_of_rows(reduction):
    rows, classes = M[0], [1, 0, 3]
    each = [lf.hinge(lf.constant(row), k, 0.5).item() for row, k in zip(rows, classes, strict=True)]
    want = {"mean": np.mean, "sum": np.sum, "none": np.array}[reduction](each)
    np.testing.assert_allclose(lf.hinge(lf.constant(rows), classes, 0.5, reduction).numpy(), want)
    with pytest.raises(ValueError, match="reduction must be one of"):
        lf.hinge(lf.constant(rows), classes, reduction="max")


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5])
def test_scaled_gradients(scale):
    w = lf.Parameter(M)
    y = lf.scale_gradient(lf.tanh(w), scale)
    lf.sum(y * M).backward()
    np.testing.assert_array_equal(y.numpy(), np.tanh(M))
    np.testing.assert_allclose(w.grad, scale * M * (1 - np.tanh(M) ** 2), atol=1e-15)


def test_different_scales_run_together():
    rows = [lf.scale_gradient(lf.Parameter(M) * 1.0, 0.1 * i) for i in range(5)]
    assert sum(group.launches for group in lf.explain(rows).groups if group.operation == "scale_gradient") == 1


@pytest.mark.parametrize(("x", "scale", "error"), [(M, "1", TypeError), (M, True, TypeError), ([1], 1, lf.DTypeError)])
def test_a_scale_is_a_number(x, scale, error):
    with pytest.raises(error, match="scale_gradient"):
        lf.scale_gradient(np.asarray(x), scale)


@pytest.mark.parametrize("axis", [0, 1])
def test_log_softmax_of_some_classes(axis):
    x = RNG.normal(size=(3, 4))
    restrict = [2, 0]
    got = lf.log_softmax(lf.constant(x), axis, restrict=restrict).numpy()
    some = x.take(sorted(restrict), axis)
    want = some - np.log(np.exp(some).sum(axis, keepdims=True))
    np.testing.assert_allclose(got.take(sorted(restrict), axis), want)
    assert np.isneginf(np.delete(got, restrict, axis)).all()
    w = lf.Parameter(x)
    lf.sum(lf.take(lf.log_softmax(w, axis, restrict=restrict), restrict, axis)).backward()
    assert (np.delete(to_host(w.grad), restrict, axis) == 0).all() and abs(w.grad).sum() > 0


@pytest.mark.parametrize(
    ("restrict", "error", "message"),
    [
        ([], ValueError, "names no class"),
        ([3], IndexError, "classes are 0 to 2"),
        ([-1], IndexError, "classes are 0 to 2"),
        ([0.5], TypeError, "must be an integer"),
    ],
)
def test_restricted_classes_are_checked(restrict, error, message):
    with pytest.raises(error, match=message):
        lf.log_softmax(lf.constant([1.0, 2.0, 3.0]), restrict=restrict)


def test_categorical_draws_with_the_probabilities_of_softmax():
    logits = np.log([0.1, 0.2, 0.7])
    stream = lf.Stream(3)
    drawn = [lf.categorical(lf.constant(logits), stream=stream) for _ in range(4000)]
    lf.forward(drawn)
    share = np.bincount([d.item() for d in drawn], minlength=3) / 4000
    np.testing.assert_allclose(share, [0.1, 0.2, 0.7], atol=0.04)


def test_categorical_along_an_axis():
    sure = lf.constant(np.where(np.eye(3)[[2, 0]] > 0, 0.0, -1e9))
    assert lf.categorical(sure).numpy().tolist() == [2, 0]
    assert lf.categorical(sure, axis=0).numpy().tolist()[::2] == [1, 0]
    with pytest.raises(lf.DTypeError, match="categorical takes floating"):
        lf.categorical([1, 2])
    with pytest.raises(lf.ShapeError, match="axis 2 is out of range"):
        lf.categorical(sure, axis=2)


@pytest.mark.parametrize(("temperature", "top"), [(1.0, None), (0.5, None), (1.0, 2), (2.0, 3), (0.7, 4)])
def test_sample_draws_with_the_probabilities_of_what_is_left(temperature, top):
    logits = np.log([0.1, 0.4, 0.2, 0.3])
    kept = np.argsort(-logits)[:top]
    expected = np.zeros(4)
    expected[kept] = np.exp(logits[kept] / temperature)
    stream = lf.Stream(3)
    drawn = [lf.sample(lf.constant(logits), temperature=temperature, top=top, stream=stream) for _ in range(4000)]
    lf.forward(drawn)
    share = np.bincount([d.item() for d in drawn], minlength=4) / 4000
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.04)
    assert lf.explain(drawn).launches < 25


def test_sample_along_an_axis_and_what_it_refuses():
    sure = lf.constant(np.where(np.eye(3)[[2, 0]] > 0, 0.0, -1e9))
    for top in (None, 1, 3):
        assert lf.sample(sure, top=top).numpy().tolist() == [2, 0]
    assert lf.sample(sure, 0, top=1).numpy().tolist()[::2] == [1, 0]
    assert lf.sample(sure, top=2).dtype == np.int64
    for wrong, error, message in (
        ({"temperature": 0.0}, ValueError, "must be positive"),
        ({"temperature": float("nan")}, ValueError, "must be positive"),
        ({"top": 0}, lf.ShapeError, "topk"),
        ({"top": 4}, lf.ShapeError, "topk"),
        ({"axis": 2}, lf.ShapeError, "axis 2 is out of range"),
    ):
        with pytest.raises(error, match=message):
            lf.sample(sure, **wrong)
    with pytest.raises(lf.DTypeError, match="sample takes floating"):
        lf.sample([1, 2])


@pytest.mark.parametrize("axis", [(), 0, 1, (0, -1), (0, 1, 2)])
def test_dropout_of_what_differs_along_an_axis(axis):
    x = np.ones((4, 5, 6))
    y = lf.dropout(lf.constant(x), 0.5, axis=axis, stream=lf.Stream(1)).numpy()
    assert set(np.unique(y)) <= {0.0, 2.0}
    axes = (axis,) if isinstance(axis, int) else axis
    for a in axes:
        assert (np.ptp(y, axis=a) == 0).all()
    others = set(range(3)) - {a % 3 for a in axes}
    assert all(np.ptp(y, axis=a).any() for a in others)


def test_dropout_of_no_such_axis():
    with pytest.raises(lf.ShapeError, match="dropout: axis 1 is out of range"):
        lf.dropout(lf.constant([1.0]), 0.5, axis=1)


def test_gumbel_noise_is_drawn_anew():
    stream = lf.Stream(2)
    a, b = lf.gumbel((3,), stream=stream), lf.gumbel((3,), 1.0, 0.0, stream=stream)
    assert len(set(a.numpy().tolist())) == 3 and b.numpy().tolist() == [1.0] * 3
    with pytest.raises(TypeError, match="loc must be a number"):
        lf.gumbel((3,), "0")


def test_no_bound_is_exceeded_where_they_sum_to_less_than_one():
    upper = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(lf.constrained_softmax(lf.constant([5.0, 0.0, -9.0]), upper).numpy(), upper)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_class_at_its_bound_does_not_make_the_others_vanish(dtype):
    """However far above them it is: weights are relative to the largest of those that share what is left."""
    x, upper = lf.Parameter(np.array([0, 1, 400, 900], dtype)), np.array([1.0, 1.0, 0.25, 0.25], dtype)
    y = lf.constrained_softmax(x, upper)
    odds = 1 / (1 + np.exp([1.0, -1.0]))
    tolerance = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y.numpy(), [*(odds / 2), 0.25, 0.25], rtol=tolerance)
    y[0].backward()
    slope = odds[0] * odds[1] / 2
    np.testing.assert_allclose(x.grad, [slope, -slope, 0, 0], rtol=2 * tolerance)


@pytest.mark.parametrize("f", [lf.sparsemax, lambda x: lf.constrained_softmax(x, np.full(3, 0.6))])
def test_distributions_sum_to_one(f):
    for scores in itertools.product([-50.0, 0.0, 0.4, 90.0], repeat=3):
        np.testing.assert_allclose(f(lf.constant(np.array(scores))).numpy().sum(), 1.0, rtol=1e-12)


@pytest.mark.parametrize(("f", "sign"), [(lf.circular_convolution, -1), (lf.circular_correlation, 1)])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_circular_products(f, sign, n):
    u, v = RNG.normal(size=(2, n))
    want = [sum(u[j] * v[(i + sign * j) % n] for j in range(n)) for i in range(n)]
    np.testing.assert_allclose(f(lf.constant(u), lf.constant(v)).numpy(), want)
    lf.check_grads(f, argnum=(0, 1), order=2)(u, v)
    with pytest.raises(lf.ShapeError, match="two vectors of one size"):
        f(u, v[1:])
    with pytest.raises(lf.ShapeError, match="two vectors of one size"):
        f(u[None], v[None])


@pytest.mark.parametrize("fuse", ["auto", "numpy", "off"])
@pytest.mark.parametrize("f", [lf.arctan2, lf.hypot], ids=["arctan2", "hypot"])
def test_derivatives_at_the_origin_are_zero(f, fuse):
    """As PyTorch has them: there is no direction."""
    with lf.using(fuse=fuse):
        x, y = (lf.Parameter(np.array([0.0, -0.0, 3.0])) for _ in range(2))
        lf.sum(f(x * 1.0, y * 1.0)).backward()
    assert (x.grad[:2] == 0).all() and (y.grad[:2] == 0).all() and x.grad[2] != 0
    z = lf.Parameter(0.0)
    assert lf.gradients(f(z, z * 2.0), [z])[0].item() == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["std", "var"])
def test_equal_elements_do_not_spread(name, dtype):
    """However their mean rounds: nothing of it may become a slope."""
    for value, count in itertools.product(np.random.default_rng(41).normal(size=20).astype(dtype), (2, 3, 5, 7, 10)):
        x = lf.Parameter(np.full((count, 2), value))
        y = getattr(lf, name)(x * 1.0, axis=0)
        lf.sum(y).backward()
        assert (y.numpy() == 0).all() and (x.grad == 0).all()
        assert (lf.gradients(lf.sum(getattr(lf, name)(x * 1.0)), [x])[0].numpy() == 0).all()


@pytest.mark.parametrize("name", ["std", "var"])
@pytest.mark.parametrize(
    "x", [[-3e38, 3e38], [3e38, -3e38, 1.0], [np.inf, 1.0], [1.0, np.inf], [np.nan, 1.0], [-np.inf, np.inf]]
)
def test_spreads_that_overflow_are_those_of_numpy(name, x):
    x = np.array(x, np.float32)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x)
    np.testing.assert_array_equal(getattr(lf, name)(lf.constant(x)).numpy(), want)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_the_spread_of_what_lies_far_from_zero(offset):
    x = np.random.default_rng(42).normal(size=(4, 50)).astype(np.float32) + np.float32(offset)
    np.testing.assert_allclose(lf.std(lf.constant(x), axis=1).numpy(), x.astype(float).std(axis=1), rtol=1e-6)


def test_the_gradient_of_a_product_in_half_precision_is_rounded_once():
    """Products of a few factors are below the normal numbers of float16, where each rounding takes digits."""
    x = np.random.default_rng(43).uniform(0.005, 0.05, (200, 4)).astype(np.float16)
    p = lf.Parameter(x)
    lf.sum(lf.prod(p, axis=1), axis=0).backward(np.float16(1))
    exact = np.prod(x.astype(float), axis=1, keepdims=True) / x.astype(float)
    np.testing.assert_allclose(p.grad.astype(float), exact, rtol=2**-10, atol=2**-25)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logsumexp_keeps_what_is_small_beside_one(dtype):
    x = np.array([[0, -30], [0, -80], [-1, -31], [3, 3], [-np.inf, -np.inf], [np.inf, 0], [-np.inf, 2]], dtype)
    want = np.logaddexp(*x.astype(float).T)
    np.testing.assert_allclose(lf.logsumexp(lf.constant(x), axis=1).numpy(), want, rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(lf.logsumexp(lf.constant(np.array([0, np.nan], dtype))).item())

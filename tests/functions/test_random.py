"""Draws by functions of several operations: their probabilities, axes, and what they refuse."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.functions.random import masked


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


@pytest.mark.host  # a device selects by a launch, which gives zeros no sign
@pytest.mark.parametrize("fuse", ["auto", "numpy", "off"])
@pytest.mark.parametrize("wrap", [lambda f: f, lf.cell], ids=["plain", "cell"])
@pytest.mark.parametrize("neighbour", [1.0, np.inf, np.nan])
def test_the_sign_of_a_zero_does_not_depend_on_its_neighbours(wrap, fuse, neighbour):
    given, mask = np.array([-1.0, 1.0, -2.0, neighbour], np.float32), np.array([0.0, 0.0, 1.0, 0.0], np.float32)
    with lf.using(fuse=fuse):
        hidden = wrap(lambda x, m: masked(x, m) * 1.0)(lf.constant(given), lf.constant(mask)).numpy()
    np.testing.assert_array_equal(hidden, [-0.0, 0.0, -2.0, 0.0])
    assert np.signbit(hidden).tolist() == [True, False, True, False]

"""Reductions of some classes, and of lists."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host

RNG = np.random.default_rng(5)


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


@pytest.mark.parametrize("position", [0, 1])
def test_numbers_among_expressions_in_a_list(position):
    p = lf.Parameter([2.0])
    operands = [lf.sum(p * p)]
    operands.insert(position, 1.0)
    total = lf.sum(operands)
    total.backward()
    assert total.item() == 5.0 and p.grad.tolist() == [4.0]


@pytest.mark.parametrize("use", [lambda x: lf.sum(x, axis=1), lambda x: lf.mean(x, keepdims=True)])
def test_a_list_has_no_axis(use):
    a = lf.constant([1.0, 2.0])
    with pytest.raises(TypeError, match="no axis"):
        use([a, a])

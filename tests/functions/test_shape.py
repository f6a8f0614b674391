"""What joins and takes apart: lists with and without gradient, with nothing in them, and NumPy's five newest."""

import numpy as np
import pytest

import lazyflow as lf

LISTS = {
    "sum": lf.sum,
    "mean": lambda operands: lf.mean(operands) * 2,
    "stack": lambda operands: lf.sum(lf.stack(operands), axis=0),
    "stack behind": lambda operands: lf.sum(lf.stack(operands, axis=1), axis=1),
    "concatenate": lambda operands: lf.sum(lf.concatenate(operands).reshape(2, 2), axis=0),
}


def without_gradient():
    with lf.no_grad():
        return lf.Parameter(np.ones(2)) * 2.0


OTHERS = {
    "no_grad": without_gradient,
    "constant": lambda: lf.constant(np.ones(2)),
    "detached": lambda: (lf.Parameter(np.ones(2)) * 2.0).detach(),
    "parameter": lambda: lf.Parameter(np.ones(2)),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("join", LISTS)
def test_a_list_of_values_with_and_without_gradient(join, other, first):
    q = lf.Parameter(np.ones(2))
    y, h = q * 3.0, OTHERS[other]()
    loss = lf.sum(LISTS[join]([h, y] if first else [y, h])) + lf.sum(y)
    loss.backward()
    np.testing.assert_allclose(q.grad, [6.0, 6.0])


@pytest.mark.parametrize("join", [lf.concatenate, lf.stack])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_empty_value_joined_with_itself_has_a_gradient(join, axis):
    p = lf.Parameter(np.ones(()))
    empty = np.ones((2, 0)) * p
    lf.sum(join([empty, empty], axis=axis)).backward()
    assert p.grad == 0


def test_the_last_five_shape_functions():
    x = np.arange(6.0).reshape(2, 3)
    for ours, numpys in (
        (lf.roll(x, 1, axis=1), np.roll(x, 1, axis=1)),
        (lf.tile(x, (2, 1)), np.tile(x, (2, 1))),
        (lf.tril(x), np.tril(x)),
        (lf.triu(x, 1), np.triu(x, 1)),
        (lf.diagonal(x), np.diagonal(x)),
    ):
        np.testing.assert_array_equal(ours.numpy(), numpys)

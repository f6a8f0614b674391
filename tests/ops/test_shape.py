"""All slices of small arrays against NumPy's: values, shapes, gradients; one example and several at a time."""

import itertools

import numpy as np
import pytest

import lazyflow as lf

ENDS = (None, *range(-6, 7))
STEPS = (None, *range(-6, 0), *range(1, 7))
SLICES = [slice(*parts) for parts in itertools.product(ENDS, ENDS, STEPS)]
SOME = SLICES[::97]


def array_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def weights_of(value):
    return np.arange(1.0, 1.0 + value.size).reshape(value.shape)


def check(array, keys, examples=1, view=lambda x: x):
    """`keys` of the same array of several examples at once: each example's values, and its gradient by all keys."""
    arrays = [array + n for n in range(examples)]
    parameters = [lf.Parameter(a) for a in arrays]
    found = [[view(p * 1.0)[key] for key in keys] for p in parameters]
    wanted = [[view(a)[key] for key in keys] for a in arrays]
    losses, pairs = [], [pair for both in zip(found, wanted, strict=True) for pair in zip(*both, strict=True)]
    for got, want in pairs:
        assert got.shape == want.shape
        losses.append(lf.sum(got * weights_of(want)))
    loss = lf.sum(losses)
    loss.forward()
    for key, (got, want) in zip(list(keys) * examples, pairs, strict=True):
        np.testing.assert_array_equal(got.numpy(), want, err_msg=str(key))
    loss.backward()
    for p, a, want in zip(parameters, arrays, wanted, strict=True):
        gradient = np.zeros_like(a)
        for key, part in zip(keys, want, strict=True):
            np.add.at(view(gradient), key, weights_of(part))
        np.testing.assert_allclose(p.grad if p.grad is not None else 0 * a, gradient)


@pytest.mark.parametrize("length", range(5))
@pytest.mark.parametrize("part", range(4))
def test_all_slices_of_a_vector(length, part):
    check(array_of(length), SLICES[part::4])


@pytest.mark.parametrize("length", range(5))
def test_all_slices_of_the_second_axis(length):
    check(array_of((2, length)), [(slice(None), key) for key in SLICES[::3]])


@pytest.mark.parametrize("length", range(5))
def test_slices_of_a_parameter_itself(length):
    p = lf.Parameter(array_of((length, 2)))
    for key in SLICES[::11]:
        np.testing.assert_array_equal(p[key].numpy(), p.array[key], err_msg=str(key))


@pytest.mark.parametrize("shape", [(4, 3), (0, 2), (1, 1), (3, 0)])
def test_slices_of_several_examples(shape):
    check(array_of(shape), SOME, examples=3)
    check(array_of(shape), [(key, other) for key, other in itertools.product(SOME[::3], SOME[::4])], examples=3)


@pytest.mark.parametrize("other", [0, -1, None, ..., slice(None), slice(2, None, -1), slice(-9, None, -2)])
def test_slices_beside_other_parts(other):
    array = array_of((3, 4, 2))
    keys = [parts for key in SOME for parts in ((key, other), (other, key), (..., key), (key, None, other))]
    check(array, [k for k in keys if sum(p is ... for p in k) < 2], examples=2)


def test_slices_of_views():
    check(array_of((4, 3)), SOME, examples=2, view=lambda x: x[1:])
    check(array_of((4, 3)), SOME, examples=2, view=lambda x: x.transpose())
    check(array_of((4, 3)), SOME, examples=2, view=lambda x: x[::-1])


@pytest.mark.parametrize("index", [[0, 2], [-1, 0, 0], [], np.array([[1, -2]]), [2]])
def test_lists_of_integers(index):
    key = np.array(index, np.int64)
    for array in (array_of(3), array_of((3, 2))):
        check(array, [key], examples=2)
    p = lf.Parameter(array_of((3, 2)))
    np.testing.assert_array_equal(p[key].numpy(), p.array[key])


def test_a_step_of_zero_is_refused():
    for x in (lf.constant(array_of(3)), lf.Parameter(array_of(3))):
        with pytest.raises(ValueError, match="slice step cannot be zero"):
            x[::0]

"""Operators, methods and formats of expressions."""

import numpy as np
import pytest

import lazyflow as lf


def test_small_things():
    x = lf.constant([[1.0, 2.0], [3.0, 4.0]])
    assert x.sum(axis=[0, 1]).item() == 10.0
    assert x[[]].shape == (0, 2) and lf.embedding(x, []).shape == (0, 2)
    np.testing.assert_array_equal(lf.embedding(np.eye(2), 1).numpy(), [0.0, 1.0])


def test_logic_of_comparisons():
    x = lf.constant([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(((x > 1) & (x < 3)).numpy(), [False, True, False])
    np.testing.assert_array_equal(((x < 2) | ~(x < 3)).numpy(), [True, False, True])
    for mistake in (lambda: x & x, lambda: ~x, lambda: (x > 1) | 1.0):
        with pytest.raises(lf.DTypeError, match="booleans"):
            mistake()


def test_a_value_in_a_text():
    loss = lf.sum(lf.constant([1.0, 2.5]))
    assert f"{loss:.2f}" == "3.50"
    assert "float32" in f"{loss}"


X = np.array([[0.3, -0.7, 1.1], [0.2, 0.4, -0.6]])


E = lf.constant(X)


def test_the_sign_plus():
    assert +E is E
    np.testing.assert_array_equal(lf.grad(lambda x: lf.sum(+x * x))(np.array([1.0, 2.0])), [2.0, 4.0])
    with pytest.raises(lf.DTypeError, match=r"\+ takes numbers, got bool"):
        _ = +(E > 0.0)

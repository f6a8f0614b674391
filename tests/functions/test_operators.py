"""Operators, methods and formats of expressions."""

import inspect

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.record.expr import METHODS


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


# For each option of a function that is a method, too: a value, and what NumPy makes of X by it.
OPTIONS = {
    "axis": 1, "keepdims": True, "ddof": 1, "dtype": np.float32, "low": 0.0, "high": 0.3, "offset": 1, "axis1": 1,
    "axis2": 0, "repeats": 2, "shape": (3, 2), "axes": (1, 0),
}  # fmt: skip
REFERENCES = {
    "astype": lambda x, dtype: x.astype(dtype),
    "clip": lambda x, low=None, high=None: np.clip(x, low, high),
    "flatten": np.ravel,
    "reshape": lambda x, shape: np.reshape(x, shape),
}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_takes_what_its_function_takes(name):
    """Each option alone, with those that are needed, by its name and as NumPy computes it."""
    _, *options = inspect.signature(METHODS[name]).parameters.values()
    needed = {p.name: OPTIONS[p.name] for p in options if p.default is p.empty}
    alike = X if name != "squeeze" else X[:, :1]
    reference = REFERENCES.get(name) or getattr(np, name)
    for given in [needed, *({**needed, p.name: OPTIONS[p.name]} for p in options)]:
        if name == "diagonal" and {"axis1", "axis2"} & set(given):
            given = {**given, "axis1": 1, "axis2": 0}
        if name == "clip" and not given:
            continue
        value = getattr(lf.constant(alike), name)(**given).numpy()
        np.testing.assert_allclose(value, reference(alike, **given), rtol=1e-12, strict=True)


def test_integers_of_a_method_come_one_by_one_or_by_name_but_not_both():
    x = lf.constant(X)
    assert x.reshape(3, 2).shape == x.reshape(shape=[3, 2]).shape == x.transpose(axes=(1, 0)).shape == (3, 2)
    for name, mistake in {"shape": lambda: x.reshape(3, shape=2), "axes": lambda: x.transpose(1, axes=0)}.items():
        with pytest.raises(TypeError, match=f"multiple values for argument '{name}'"):
            mistake()

"""What may stand beside an expression: other libraries' arrays are operands, or the error says what to write; nothing
that has a gradient becomes an array unasked."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import lazyflow as lf

A = np.array([[1.0, 2.0, 0.5], [0.0, 3.0, -1.0], [2.0, 0.0, 1.0]], np.float32)


def parameter() -> lf.Parameter:
    return lf.Parameter(np.array([0.5, -1.0, 2.0], np.float32))


def gradient_of(result: Any, w: lf.Parameter) -> np.ndarray:
    lf.sum(result).backward()
    return w.grad


def _torch(a: np.ndarray) -> Any:
    return pytest.importorskip("torch").from_numpy(a.copy())


def _series(a: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.Series(a) if a.ndim == 1 else pandas.DataFrame(a)


def _arrow(a: np.ndarray) -> Any:
    return pytest.importorskip("pyarrow").array(a)


def _big_endian(a: np.ndarray) -> Any:
    return a.astype(">f4")


def _read_only(a: np.ndarray) -> Any:
    a = a.copy()
    a.flags.writeable = False
    return a


FORMS: dict[str, Any] = {
    "torch": _torch,
    "pandas": _series,
    "arrow": _arrow,
    "memoryview": lambda a: memoryview(a.copy()),
    "big endian": _big_endian,
    "read only": _read_only,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": lambda a: np.repeat(a, 2)[::2],
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}
OPERATIONS: dict[str, Any] = {
    "x + a": lambda x, a: x + a,
    "a + x": lambda x, a: a + x,
    "x * a": lambda x, a: x * a,
    "a * x": lambda x, a: a * x,
    "a - x": lambda x, a: a - x,
    "maximum": lambda x, a: lf.maximum(x, a),
    "stack": lambda x, a: lf.stack([x, a]),
    "sum": lambda x, a: lf.sum([x, a]),
    "where": lambda x, a: lf.where(x > 0, x, a),
    "dot": lambda x, a: lf.dot(x, a),
    "constant": lambda x, a: x * lf.constant(a),
    "mse": lambda x, a: lf.mse(x, a),
    "linear": lambda x, a: lf.sum(x) * lf.nn.functional.linear(a, lf.constant(A)),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_arrays_of_others_are_operands(form: Any, operation: Any) -> None:
    """Value, gradient and dtype are those beside the plain array."""
    a, w, v = A[0], parameter(), parameter()
    found, expected = operation(w, form(a)), operation(v, a)
    assert isinstance(found, lf.Expr)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
    np.testing.assert_allclose(gradient_of(found, w), gradient_of(expected, v), rtol=1e-6)


@pytest.mark.parametrize("form", ["big endian", "torch", "pandas", "reversed"])
def test_arrays_of_others_as_parameters_indices_and_seeds(form: str) -> None:
    a = FORMS[form](A[0])
    np.testing.assert_array_equal(lf.Parameter(a).numpy(), A[0])
    w = parameter()
    w.assign(a)
    np.testing.assert_array_equal(w.numpy(), A[0])
    (w * 2).backward(a)
    np.testing.assert_array_equal(w.grad, 2 * A[0])
    index = {"big endian": np.array([2, 0], ">i8"), "reversed": np.array([0, 2])[::-1]}.get(form)
    index = FORMS[form](np.array([2, 0])) if index is None else index
    table = lf.Parameter(A)
    for rows in (lf.embedding(table, index), lf.take(table, index), table[index], lf.constant(A)[index]):
        np.testing.assert_array_equal(rows.numpy(), A[[2, 0]])
    np.testing.assert_allclose(
        lf.cross_entropy(lf.constant(A[:2]), index).numpy(), lf.cross_entropy(lf.constant(A[:2]), [2, 0]).numpy()
    )


def test_big_endian_dtypes_are_the_machines() -> None:
    x = lf.constant([1.0, 2.0])
    assert x.astype(">f8").dtype.isnative
    assert lf.one_hot(1, 3, dtype=">f4").dtype.isnative
    assert lf.uniform((2,), dtype=">f4").dtype.isnative
    with lf.using(dtype=">f8"):
        assert lf.constant([1.0]).dtype == np.dtype("float64")


def _matrix() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(A)


def _sparse() -> Any:
    return pytest.importorskip("scipy.sparse").csr_matrix(A)


def _requires_grad(w: Any) -> Any:
    return pytest.importorskip("torch").ones(3, requires_grad=True)


# What would lose something in silence, and what the error says instead.
REFUSED: dict[str, tuple[Any, str]] = {
    "sparse @ w": (lambda w: _sparse() @ w, r"\.numpy\(\)"),
    "sparse * w": (lambda w: _sparse() * w, r"\.numpy\(\)"),
    "w @ sparse": (lambda w: w @ _sparse(), r"toarray\(\)"),
    "w + sparse": (lambda w: w + _sparse(), r"toarray\(\)"),
    "list * array": (lambda w: [w[0], w[1], w[2]] * A[0], r"\.numpy\(\)"),
    "array * list": (lambda w: A[0] * [w[0], w[1], w[2]], r"\.numpy\(\)"),
    "np.array([w, w])": (lambda w: np.array([w, w]), r"\.numpy\(\)"),
    "np.asarray(w)": (lambda w: np.asarray(w), r"\.numpy\(\)"),
    "np.asarray(w * 2)": (lambda w: np.asarray(w * 2), r"\.numpy\(\)"),
    "np.vectorize": (lambda w: np.vectorize(abs)(w), r"\.numpy\(\)"),
    "assignment": (lambda w: A.copy().__setitem__(0, w), r"\.numpy\(\)"),
    "masked + w": (lambda w: np.ma.masked_array(A[0], [0, 1, 0]) + w, r"\.numpy\(\)"),
    "w + masked": (lambda w: w + np.ma.masked_array(A[0], [0, 1, 0]), "mask"),
    "matrix * w": (lambda w: _matrix() * w, "np.asarray"),
    "w @ matrix": (lambda w: w @ _matrix(), "np.asarray"),
    "Series of it": (lambda w: pytest.importorskip("pandas").Series(w), r"\.numpy\(\)"),
    "DataFrame @ w": (lambda w: _series(A) @ w, r"\.numpy\(\)"),
    "w + tensor with a gradient": (lambda w: w + _requires_grad(w), r"detach\(\)"),
    "tensor with a gradient + w": (lambda w: _requires_grad(w) + w, r"detach\(\)"),
    "objects": (lambda w: w + np.array([1, 2, 3], object), "astype"),
    "records": (lambda w: w + np.zeros(3, [("a", "f4")]), r"x\['a'\]"),
    "strings": (lambda w: w + np.array(["a", "b", "c"]), "expected numbers"),
    "complex": (lambda w: w + np.ones(3, complex), "complex128"),
    "dates": (lambda w: w + np.zeros(3, "M8[s]"), "datetime64"),
    "long double": (lambda w: w + np.ones(3, np.longdouble), "float64"),
    "generator": (lambda w: w + (i for i in range(3)), "list"),
    "None": (lambda w: w + None, "NoneType"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "match"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_lost_is_refused(call: Any, match: str) -> None:
    if "long double" in match and np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is float64 here")
    with pytest.raises((lf.LazyflowError, TypeError), match=match):
        call(parameter())


def test_values_without_a_gradient_become_arrays() -> None:
    w = parameter()
    with lf.no_grad():
        y = w * 2
    frozen = lf.Parameter(A, requires_grad=False)
    for e, expected in ((w.detach(), w.numpy()), ((w * 2).detach(), 2 * w.numpy()), (y, 2 * w.numpy()), (frozen, A)):
        np.testing.assert_array_equal(np.asarray(e), expected)
    assert math.sqrt(w[2]) == math.sqrt(2.0)  # float() asks for the value


def test_a_comparison_with_what_is_no_value_is_pythons() -> None:
    h = parameter() * 2
    assert (h == None) is False  # noqa: E711
    assert (h != None) is True  # noqa: E711
    assert (h == "h") is False
    assert (h == object()) is False
    assert None in [h, None]
    assert None not in [h]
    assert h in [h]
    with pytest.raises(TypeError, match="NoneType"):
        _ = h < None
    assert (h == [1.0, -2.0, 0.0]).numpy().tolist() == [True, True, False]

"""A call that is differentiated: what its inputs are inside, and what may be closed over."""

import numpy as np
import pytest

import lazyflow as lf

X = np.array([0.3, -0.7, 1.1])


V = np.array([1.0, 2.0, -0.5])


def close(got, want, tolerance=1e-12):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_arrays_keep_their_dtype_and_python_numbers_are_double():
    for dtype in ("float16", "float32", "float64"):
        assert lf.grad(lambda x: lf.sum(x * x))(X.astype(dtype)).dtype == dtype
        assert lf.grad(lambda x: x * x)(X.astype(dtype)[0]).dtype == dtype
    assert lf.grad(lambda x: x * x)(2.0).dtype == np.float64


def test_what_a_result_does_not_rest_on_gets_zeros():
    close(lf.grad(lambda x, y: lf.sum(x), 1)(X, V), np.zeros(3))
    close(lf.grad(lambda x: lf.constant(3.0))(X), np.zeros(3))
    close(lf.grad(lambda x: lf.sum(x * x.detach()))(X), X)
    close(lf.grad(lambda x: lf.sum(lf.floor(x)) + lf.sum(x))(X), np.ones(3))
    close(lf.jvp(lambda x: lf.floor(x), (X,), (V,))[1], np.zeros(3))


@pytest.mark.host
def test_arrays_stay_arrays_inside_of_another_function():
    def f(x):
        w = np.ones(3)
        for _ in range(3):  # rests on no input of f: an array, changed in place
            w -= lf.grad(lambda w: lf.sum(w * w))(w) * 0.25
        assert isinstance(w, np.ndarray)
        return lf.sum(x * w)

    close(lf.grad(f)(X), np.full(3, 1 / 8))


def test_called_with_expressions_it_records():
    e = lf.constant(X)
    got = lf.grad(lambda x: lf.sum(x**3))(e)
    assert isinstance(got, lf.Expr)
    close(got.numpy(), 3 * X**2)
    w = lf.Parameter(X)
    lf.sum(lf.grad(lambda x: lf.sum(x**3))(w)).backward()
    close(w.grad, 6 * X)
    value, tangent = lf.jvp(lambda x: x * x, (e,), (V,))
    close(tangent.numpy(), 2 * X * V)
    assert isinstance(value, lf.Expr)


def test_closed_over_parameters_count_as_numbers():
    w = lf.Parameter(V)
    close(lf.grad(lambda x: lf.sum(x * w))(X), V)
    assert w.grad is None


def test_under_no_grad_it_differentiates_all_the_same():
    with lf.no_grad():
        close(lf.grad(lambda x: lf.sum(x * x))(X), 2 * X)
        close(lf.jvp(lambda x: x * x, (X,), (V,))[1], 2 * X * V)

    def partly(x):
        with lf.no_grad():
            scale = lf.sum(x)
        return lf.sum(x * scale)

    close(lf.grad(partly)(X), np.full(3, X.sum()))


def test_an_error_inside_leaves_nothing_behind():
    with pytest.raises(ZeroDivisionError):
        lf.grad(lambda x: x / (1 // 0))(2.0)
    assert not isinstance(lf.grad(lambda x: x * x)(2.0), lf.Expr)

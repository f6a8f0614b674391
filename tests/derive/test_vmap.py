"""vmap: one example's function over many, batched by the engine."""

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp
from tests.places import is_array_here

M = np.arange(12.0).reshape(4, 3) / 10
V = np.array([1.0, -2.0, 0.5])

CALLS = {
    "a vector each": (lambda: lf.vmap(anp.sum)(M), M.sum(1)),
    "by columns": (lambda: lf.vmap(anp.sum, in_axes=1)(M), M.sum(0)),
    "by the last axis": (lambda: lf.vmap(anp.sum, in_axes=-1)(M), M.sum(0)),
    "one argument shared": (lambda: lf.vmap(anp.dot, in_axes=(0, None))(M, V), M @ V),
    "two arguments": (lambda: lf.vmap(anp.multiply, in_axes=(1, 0))(M, V), (M * V).T),
    "results along another axis": (lambda: lf.vmap(lambda x: x * 2, out_axes=1)(M), 2 * M.T),
    "numbers": (lambda: lf.vmap(lambda x: x * x)(V), V * V),
    "nested": (lambda: lf.vmap(lf.vmap(anp.multiply, (None, 0)), (0, None))(V, V), np.outer(V, V)),
    "gradients of each": (lambda: lf.vmap(lf.grad(lambda x: anp.sum(x**3)))(M), 3 * M**2),
    "the gradient of all": (lambda: lf.grad(lambda w: anp.sum(lf.vmap(anp.dot, (0, None))(M, w)))(V), M.sum(0)),
    "integers": (lambda: lf.vmap(lambda i, x: x[i])(np.array([0, 2, 1, 0]), M), M[range(4), [0, 2, 1, 0]]),
    "branches": (lambda: lf.vmap(lambda x: x if anp.sum(x) > 1 else -x)(M), np.where(M.sum(1)[:, None] > 1, M, -M)),
    "a constant result": (lambda: lf.vmap(lambda x: 2.0)(M), np.full(4, 2.0)),
}


@pytest.mark.parametrize("name", CALLS)
def test_vmap(name):
    call, want = CALLS[name]
    got = call()
    assert is_array_here(got)
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_of_expressions_it_is_an_expression():
    w = lf.Parameter(V)
    y = lf.sum(lf.vmap(anp.dot, (0, None))(M, w))
    y.backward()
    np.testing.assert_allclose(w.grad, M.sum(0))


def test_what_rests_on_parameters_can_be_differentiated():
    w = lf.Parameter(V)
    lf.mean(lf.vmap(lambda x: anp.dot(x, w))(M)).backward()
    np.testing.assert_allclose(w.grad, M.mean(0))
    with lf.no_grad():
        assert is_array_here(lf.vmap(lambda x: anp.dot(x, w))(M))


def test_the_calls_run_as_one():
    w = lf.Parameter(V)
    found = lf.explain(lf.vmap(lambda x: lf.sum(lf.tanh(x * w)))(lf.constant(M)))
    assert found.launches < found.nodes / 2


ERRORS = (
    ("no function", lambda: lf.vmap(M), TypeError, "vmap takes a function, got ndarray"),
    ("no axis", lambda: lf.vmap(anp.sum)(2.0), lf.ShapeError, r"argument 0 of shape \(\) has no axis 0"),
    ("axis too large", lambda: lf.vmap(anp.sum, in_axes=2)(M), lf.ShapeError, "has no axis 2"),
    ("sizes", lambda: lf.vmap(anp.dot)(M, V), lf.ShapeError, "have one size, got {'argument 0': 4, 'argument 1': 3}"),
    ("too few axes", lambda: lf.vmap(anp.dot, (0,))(M, V), TypeError, "in_axes names 1 arguments, .* with 2"),
    ("nothing to count", lambda: lf.vmap(anp.sum, in_axes=None)(M), TypeError, "an axis of one argument at least"),
    ("no examples", lambda: lf.vmap(anp.sum)(M[:0]), lf.ShapeError, "there are no examples"),
    ("structures", lambda: lf.vmap(lambda x: [x] * (1 + (x.item() > 0)))(V), lf.ShapeError, "must have one structure"),
    ("shapes", lambda: lf.vmap(lambda i: M[: int(i)])(np.arange(1, 3)), lf.ShapeError, "stack"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""NumPy's own functions on expressions (NEP 13, NEP 18), the array API, DLPack, and random numbers by streams."""

import operator

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp

X = np.array([[0.3, -0.7, 1.1], [0.2, 0.4, -0.6]])
E = lf.constant(X)
W = lf.Parameter(X)

CALLS = {
    "a ufunc": (lambda x: np.tanh(x), np.tanh(X)),
    "an alias": (lambda x: np.absolute(x), np.abs(X)),
    "a method of a ufunc": (lambda x: np.add.reduce(x), X.sum(0)),
    "another": (lambda x: np.maximum.reduce(x, axis=1), X.max(1)),
    "a list": (lambda x: np.concatenate([x, x[:1]]), np.concatenate([X, X[:1]])),
    "a keyword": (lambda x: np.sum(x, axis=1, keepdims=True), X.sum(1, keepdims=True)),
    "where": (lambda x: np.where(X > 0, x, -1.0), np.where(X > 0, X, -1.0)),
    "einsum": (lambda x: np.einsum("ij,kj->ik", x, X), X @ X.T),
    "linalg": (lambda x: np.linalg.norm(x), np.linalg.norm(X)),
    "solve": (lambda x: np.linalg.solve(x[:, :2], np.ones(2)), np.linalg.solve(X[:, :2], np.ones(2))),
    "a method": (lambda x: x.transpose(1, 0).swapaxes(0, 1).clip(0.0, 1.0).std(axis=0), X.clip(0, 1).std(0)),
    "more methods": (lambda x: x.T.flatten().cumsum().repeat(2).prod(), X.T.flatten().cumsum().repeat(2).prod()),
}


@pytest.mark.parametrize("make", [lf.constant, lf.Parameter], ids=["expression", "parameter"])
@pytest.mark.parametrize("name", CALLS)
def test_numpys_own_functions_record(name, make):
    (call, want), x = CALLS[name], make(X)
    got = call(x)
    assert isinstance(got, lf.Expr) and got.requires_grad == x.requires_grad
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14)


OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "eq", "ne", "lt", "le", "gt", "ge")


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_with_arrays_in_both_orders(name):
    apply = getattr(operator, name)
    a, b = np.abs(X), np.abs(X[::-1]) + 0.5
    b = b.T if name == "matmul" else b
    for left, right in ((lf.constant(a), b), (a, lf.constant(b)), (lf.constant(a), lf.constant(b))):
        got = apply(left, right)
        assert isinstance(got, lf.Expr)
        np.testing.assert_allclose(got.numpy(), apply(a, b), rtol=1e-13)
    if name != "matmul":
        for number in (2.0, np.float64(2.0), np.array(2.0)):
            np.testing.assert_allclose(apply(number, lf.constant(b)).numpy(), apply(2.0, b), rtol=1e-13)


def test_gradients_flow_through_numpys_own_functions():
    f = lambda x: np.sum(np.tanh(X @ np.concatenate([x, x[:1]])) ** 2)  # noqa: E731
    lf.check_grads(f)(np.array([0.3, 0.8]))


def into(array):
    array += E
    return array


BAD = (
    ("in place", lambda: into(X.copy()), r"numpy.add: an expression is no array to compute into.*w = w - e"),
    ("out", lambda: np.tanh(E, out=X.copy()), "numpy.tanh: an expression is no array to compute into"),
    ("an unknown ufunc", lambda: np.gcd(lf.constant(3), 2), "numpy.gcd has no counterpart that records"),
    ("an unknown method", lambda: np.add.accumulate(E), "numpy.add.accumulate has no counterpart"),
    ("an unknown function", lambda: np.unique(E), "numpy.unique has no counterpart"),
    ("an unknown one of linalg", lambda: np.linalg.pinv(E), "numpy.pinv has no counterpart"),
    ("no array", lambda: lf.from_dlpack([1.0]), "from_dlpack takes an array that has __dlpack__, got list"),
)


@pytest.mark.parametrize(("call", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_cannot_be_recorded_says_so(call, message):
    with pytest.raises(TypeError, match=message):
        call()


# The array API.

STRICT_UNARY = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "exp", "expm1", "floor",
    "isfinite", "isinf", "isnan", "log", "log1p", "log2", "log10", "negative", "positive", "reciprocal",
    "round", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc",
)  # fmt: skip
STRICT_BINARY = (
    "add", "atan2", "divide", "equal", "floor_divide", "greater", "greater_equal", "hypot", "less",
    "less_equal", "logaddexp", "maximum", "minimum", "multiply", "not_equal", "pow", "remainder", "subtract",
)  # fmt: skip
STRICT = {
    **{name: (lambda xp, x, n=name: getattr(xp, n)(x)) for name in STRICT_UNARY},
    **{name: (lambda xp, x, n=name: getattr(xp, n)(x, x + 1)) for name in STRICT_BINARY},
    **{
        name: (lambda xp, x, n=name: getattr(xp, n)(x, axis=1, keepdims=True))
        for name in ("sum", "prod", "max", "min", "mean", "argmax", "argmin")
    },
    "var": lambda xp, x: xp.var(x, axis=0, correction=1.0),
    "std": lambda xp, x: xp.std(x, correction=1.0),
    "any": lambda xp, x: xp.any(x > 0.5, axis=0),
    "all": lambda xp, x: xp.all(x > 0.2),
    "logical": lambda xp, x: xp.logical_or(xp.logical_not(x > 0.5), xp.logical_and(x < 0.9, x > 0.7)),
    "bitwise": lambda xp, x: xp.bitwise_or(x > 0.9, xp.bitwise_and(x < 0.5, x > 0.3)),
    "where": lambda xp, x: xp.where(x > 0.5, x, -x),
    "clip": lambda xp, x: xp.clip(x, min=0.3, max=0.8),
    "concat": lambda xp, x: xp.concat([x, x], axis=1),
    "stack": lambda xp, x: xp.stack([x, x], axis=1),
    "unstack": lambda xp, x: xp.unstack(x, axis=1)[2],
    "expand_dims": lambda xp, x: xp.expand_dims(x, axis=1),
    "squeeze": lambda xp, x: xp.squeeze(xp.expand_dims(x, axis=0), axis=0),
    "flip": lambda xp, x: xp.flip(x, axis=1),
    "roll": lambda xp, x: xp.roll(x, 1, axis=0),
    "reshape": lambda xp, x: xp.reshape(x, (3, 2)),
    "permute_dims": lambda xp, x: xp.permute_dims(x, (1, 0)),
    "moveaxis": lambda xp, x: xp.moveaxis(x, 0, 1),
    "matrix_transpose": lambda xp, x: xp.matrix_transpose(x),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x, (2, 2, 3)),
    "repeat": lambda xp, x: xp.repeat(x, 2, axis=1),
    "tile": lambda xp, x: xp.tile(x, (2, 1)),
    "tril": lambda xp, x: xp.tril(x),
    "triu": lambda xp, x: xp.triu(x, k=1),
    "sort": lambda xp, x: xp.sort(x, axis=1),
    "argsort": lambda xp, x: xp.argsort(x, axis=1),
    "astype": lambda xp, x: xp.astype(x, xp.float32),
    "matmul": lambda xp, x: xp.matmul(x, xp.matrix_transpose(x)),
    "tensordot": lambda xp, x: xp.tensordot(x, x, axes=((1,), (1,))),
    "vecdot": lambda xp, x: xp.vecdot(x, x),
    "zeros_like": lambda xp, x: x + xp.zeros_like(x),
    "ones_like": lambda xp, x: x + xp.ones_like(x),
    "arange": lambda xp, x: x + xp.arange(3, dtype=xp.float64),
    "linalg": lambda xp, x: xp.linalg.vector_norm(x, axis=1, keepdims=True),
    "det": lambda xp, x: xp.linalg.det(xp.matmul(x, xp.matrix_transpose(x))),
    "operators": lambda xp, x: (-x + 2 * x**2 - x / 3) @ xp.matrix_transpose(x),
}  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize("name", STRICT)
def test_the_array_api(name):
    strict = pytest.importorskip("array_api_strict", reason="the reference of the array API (extra 'peers')")
    x = np.abs(X) + (1.1 if name == "acosh" else 0)
    x = x * 0.8 if name in ("acos", "asin", "atanh") else x
    want = np.asarray(STRICT[name](strict, strict.asarray(x)))
    e = lf.constant(x)
    got = STRICT[name](e.__array_namespace__(), e)
    assert isinstance(got, lf.Expr)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14, atol=1e-14)


def test_the_array_namespace_has_a_version():
    assert E.__array_namespace__() is anp is E.__array_namespace__(api_version="2022.12")
    with pytest.raises(ValueError, match=r"version 2024\.12 of the array API"):
        E.__array_namespace__(api_version="2999.12")


# DLPack.


# Random numbers.


def test_gradients_flow_to_the_parameters_of_a_distribution():
    def sampled(loc, scale):
        return anp.sum(anp.random.normal(loc, scale, stream=anp.random.Stream(3)))

    noise = anp.random.Stream(3).generator().standard_normal(3)
    by_loc, by_scale = lf.grad(sampled, (0, 1))(np.zeros(3), np.ones(3))
    np.testing.assert_allclose(by_loc, np.ones(3))
    np.testing.assert_allclose(by_scale, noise)

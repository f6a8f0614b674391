"""The same programs under HIPS/autograd and here: only the imports differ."""

import numpy as np
import pytest

import lazyflow
import lazyflow.numpy as lazy_numpy

autograd = pytest.importorskip("autograd", reason="compared with autograd, which is not installed (extra 'peers')")
autograd_numpy = pytest.importorskip("autograd.numpy")
pytestmark = pytest.mark.peer

RNG = np.random.default_rng(0)
X, Y, M = RNG.normal(size=4), RNG.normal(size=4), RNG.normal(size=(4, 4)) + 4 * np.eye(4)


def rosenbrock(np, x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def network(np, layers):
    h = X
    for W, b in layers:
        h = np.tanh(np.dot(W, h) + b)
    return np.sum(h**2)


def mixture(np, x):
    return -np.log(np.sum(np.exp(-0.5 * (x[:, None] - np.array([0.0, 1.0, 2.0])) ** 2) / np.sqrt(2 * np.pi), axis=1))


def gaussian(np, S):
    L = np.linalg.cholesky(np.dot(S, S.T) + np.eye(4))
    return np.sum(np.linalg.solve(L, X) ** 2) + 2 * np.sum(np.log(np.diag(L)))


def pendulum(np, state):
    angle, speed = state
    for _ in range(10):
        speed = speed - 0.1 * np.sin(angle)
        angle = angle + 0.1 * speed
    return angle**2 + speed**2


def fluid(np, f):
    return np.mean((np.roll(f, 1, axis=0) + np.roll(f, -1, axis=1) - 2 * f) ** 2 + np.maximum(f, 0.1))


PROGRAMS = {
    "rosenbrock": (rosenbrock, X),
    "network": (network, [(M, X), (M.T * 0.3, Y)]),
    "gaussian": (gaussian, M),
    "pendulum": (pendulum, (0.4, 0.1)),
    "fluid": (fluid, M),
    "log determinant": (lambda np, m: np.linalg.slogdet(m)[1] + np.linalg.det(m) + np.trace(np.linalg.inv(m)), M),
    "eigenvalues": (lambda np, m: np.sum(np.linalg.eigh(m + m.T)[0] ** 2 * np.arange(4)), M),
    "joins": (lambda np, x: np.sum(np.concatenate([x[::-1], x * 2, np.hstack([x[:1], x])]) ** 3), X),
    "loop with a branch": (lambda np, x: sum(v * v if v > 0 else -v for v in x), X),
}


def same(got, want):
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        got, want = list(got.values()), list(want.values())
    if isinstance(want, list | tuple):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_and_gradients(name):
    program, x = PROGRAMS[name]
    mine = lazyflow.value_and_grad(lambda x: program(lazy_numpy, x))(x)
    theirs = autograd.value_and_grad(lambda x: program(autograd_numpy, x))(x)
    same(mine[0], theirs[0])
    same(mine[1], theirs[1])


@pytest.mark.parametrize("name", ["rosenbrock", "fluid", "gaussian", "joins", "log determinant"])
def test_hessians_and_their_products(name):
    program, x = PROGRAMS[name]
    mine, theirs = lambda x: program(lazy_numpy, x), lambda x: program(autograd_numpy, x)
    same(lazyflow.hessian(mine)(x), autograd.hessian(theirs)(x))
    same(lazyflow.hessian_vector_product(mine)(x, x), autograd.hessian_vector_product(theirs)(x, x))


def test_functions_of_several_arguments_and_results():
    def f(np, x, y):
        return np.outer(np.sin(x), y * x)

    mine, theirs = lambda x, y: f(lazy_numpy, x, y), lambda x, y: f(autograd_numpy, x, y)
    same(lazyflow.jacobian(mine, 1)(X, Y), autograd.jacobian(theirs, 1)(X, Y))
    same(lazyflow.elementwise_grad(mine)(X, Y), autograd.elementwise_grad(theirs)(X, Y))
    same(lazyflow.make_jvp(mine)(X, Y)(Y), autograd.make_jvp(theirs)(X, Y)(Y))
    g = np.ones((4, 4))
    same(lazyflow.make_vjp(mine)(X, Y)[0](g), autograd.make_vjp(theirs)(X, Y)[0](g))


def test_a_vector_of_results():
    mine, theirs = lambda x: mixture(lazy_numpy, x), lambda x: mixture(autograd_numpy, x)
    same(lazyflow.jacobian(mine)(X), autograd.jacobian(theirs)(X))

"""Nested arguments and results: gradients have their structure."""

from collections import namedtuple

import numpy as np

import lazyflow as lf

X = np.array([0.3, -0.7, 1.1])


V = np.array([1.0, 2.0, -0.5])


A = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])


def close(got, want, tolerance=1e-12):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_several_outputs_in_a_structure():
    y, pull = lf.vjp(lambda x: {"a": x * 2, "b": [lf.sum(x)]}, X)
    close(y["b"][0], X.sum())
    close(pull({"a": V, "b": [1.0]})[0], 2 * V + 1)
    close(lf.jvp(lambda x: (x * 2, x * x), (X,), (V,))[1][1], 2 * X * V)


Pair = namedtuple("Pair", "left right")


def test_gradients_have_the_structure_of_the_argument():
    tree = {"w": [X, (V, 2.0)], "pair": Pair(A, {"z": X})}

    def f(t):
        (x, (v, s)), pair = t["w"], t["pair"]
        return lf.sum(x * v) * s + lf.sum(pair.left @ pair.right["z"])

    got = lf.grad(f)(tree)
    assert isinstance(got["pair"], Pair) and isinstance(got["w"][1], tuple)
    close(got["w"][0], V * 2.0)
    close(got["w"][1][0], X * 2.0)
    close(got["w"][1][1], X @ V)
    close(got["pair"].left, np.outer(np.ones(2), X))
    close(got["pair"].right["z"], A.sum(0))


def test_several_arguments_and_structures():
    f = lambda t, y, flag: lf.sum(t["a"] * y) * (2.0 if flag else 1.0)  # noqa: E731
    lf.check_grads(f)({"a": X}, X, True)
    lf.check_grads(f, argnum=(0, 1))({"a": X}, X, True)
    lf.check_grads(lambda x: (x * x, [lf.sin(x)]))(X)
    lf.check_grads(lambda x: x**3)(0.5)
    lf.check_grads(lambda x: x**3)(lf.constant(X))


M = np.arange(12.0).reshape(4, 3) / 10


def test_structures_of_arguments_and_results():
    got = lf.vmap(lambda t: {"sum": t["a"] + t["b"][0], "pair": (t["a"], 1)})({"a": M, "b": [M]})
    np.testing.assert_allclose(got["sum"], 2 * M)
    np.testing.assert_allclose(got["pair"][0], M)
    np.testing.assert_array_equal(got["pair"][1], np.ones(4, int))

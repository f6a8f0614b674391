"""Gradients of functions: known derivatives, any order, structures, nesting, expressions, and what is refused."""

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp

X = np.array([0.3, -0.7, 1.1])
V = np.array([1.0, 2.0, -0.5])
A = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])


def close(got, want, tolerance=1e-12):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


# One number in: the first three derivatives, by name.
SCALARS = {
    "cube": (lambda x: x**3, [lambda x: 3 * x**2, lambda x: 6 * x, lambda x: 6.0]),
    "sin": (anp.sin, [np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x)]),
    "exp": (lf.exp, [np.exp] * 3),
    "straight line": (lambda x: 3 * x, [lambda x: 3.0, lambda x: 0.0, lambda x: 0.0]),
    "quotient": (lambda x: 1 / x, [lambda x: -(x**-2.0), lambda x: 2 * x**-3.0, lambda x: -6 * x**-4.0]),
    "loop": (lambda x: power(x, 3), [lambda x: 3 * x**2, lambda x: 6 * x, lambda x: 6.0]),
    "branch on a value": (lambda x: x**3 if x > 0 else -x, [lambda x: 3 * x**2, lambda x: 6 * x, lambda x: 6.0]),
    "value in the middle": (lambda x: x**2 * x * (x.item() > 0), [lambda x: 3 * x**2, lambda x: 6 * x, lambda x: 6.0]),
}


def power(x, n):
    y = 1.0
    for _ in range(n):
        y = y * x
    return y


@pytest.mark.host
@pytest.mark.parametrize("name", SCALARS)
def test_derivatives_up_to_the_third(name):
    f, derivatives = SCALARS[name]
    for derivative in derivatives:
        f = lf.grad(f)
        got = f(0.7)
        assert isinstance(got, np.float64)
        close(got, derivative(0.7))


def test_value_and_grad_and_elementwise_grad():
    value, gradient = lf.value_and_grad(lambda x: lf.sum(x**3))(X)
    close(value, (X**3).sum())
    close(gradient, 3 * X**2)
    close(lf.elementwise_grad(lf.elementwise_grad(anp.tanh))(X), -2 * np.tanh(X) * (1 - np.tanh(X) ** 2))


def test_jacobian_and_hessian():
    close(lf.jacobian(lambda x: A @ x)(X), A)
    close(
        lf.jacobian(lambda x: anp.outer(x, x))(X),
        np.einsum("ik,j->ijk", np.eye(3), X) + np.einsum("jk,i->ijk", np.eye(3), X),
    )
    close(lf.hessian(lambda x: x @ (A.T @ A) @ x)(X), 2 * A.T @ A)
    close(lf.hessian(lambda x: lf.sum(x) * lf.sum(x**2))(X), 2 * X.sum() * np.eye(3) + 2 * (X[:, None] + X))
    assert lf.jacobian(lambda x: x[:0])(X).shape == (0, 3)
    with_both = lf.jacobian(lambda a, b: a * b, argnum=(0, 1))(X, V)
    close(with_both[0], np.diag(V))
    close(with_both[1], np.diag(X))


@pytest.mark.host
def test_hessian_vector_product():
    f = lambda x, s: s * lf.sum(lf.tanh(x) * x)  # noqa: E731
    close(lf.hessian_vector_product(f)(X, 2.0, V), lf.hessian(f)(X, 2.0) @ V)
    matrix = lambda w: lf.sum(lf.tanh(w @ X) ** 2)  # noqa: E731
    close(lf.hessian_vector_product(matrix)(A, A), np.tensordot(lf.hessian(matrix)(A), A, 2))
    tree = lf.hessian_vector_product(lambda t: lf.sum(t["a"] ** 2 * t["b"]))({"a": X, "b": V}, {"a": V, "b": X})
    close(tree["a"], 2 * V * V + 2 * X * X)
    close(tree["b"], 2 * X * V)


def test_jvp_and_vjp_and_the_forms_of_autograd():
    f = lambda x, y: lf.tanh(x * y)  # noqa: E731
    slope = 1 - np.tanh(X * V) ** 2
    y, pushed = lf.jvp(f, (X, V), (V, X))
    close(y, np.tanh(X * V))
    close(pushed, slope * (V * V + X * X))
    y, pull = lf.vjp(f, X, V)
    for cotangent in (V, X):
        close(pull(cotangent)[0], cotangent * slope * V)
        close(pull(cotangent)[1], cotangent * slope * X)
    close(lf.make_jvp(f, 1)(X, V)(X)[1], slope * X * X)
    close(lf.make_vjp(f)(X, V)[0](X), X * slope * V)


def test_forward_over_reverse_is_reverse_over_forward():
    f = lambda x: lf.sum(lf.sin(x) * x**2)  # noqa: E731
    close(lf.jvp(lf.grad(f), (X,), (V,))[1], lf.grad(lambda x: lf.jvp(f, (x,), (V,))[1])(X))


def test_argnum():
    f = lambda x, y, *, scale=1.0: lf.sum(x * y) * scale  # noqa: E731
    close(lf.grad(f, 1)(X, V, scale=2.0), 2 * X)
    close(lf.grad(f, -1)(X, V), X)
    both = lf.grad(f, (1, 0))(X, V)
    assert isinstance(both, tuple)
    close(both[0], X)
    close(both[1], V)
    close(lf.grad(f, argnum=[0])(X, V)[0], V)


# Nesting.


def test_inner_derivatives_do_not_mix_with_outer_ones():
    close(lf.grad(lambda x: x * lf.grad(lambda y: x + y)(1.0))(1.0), 1.0)  # Siskind and Pearlmutter 2005
    close(lf.grad(lambda x: x * lf.grad(lambda y: x * y * y)(x))(2.0), 3 * 2 * 2.0**2)
    close(lf.grad(lambda x: lf.value_and_grad(lambda y: y * x)(3.0)[1] ** 2)(2.0), 4.0)
    close(lf.grad(lambda x: lf.vjp(lambda y: y * x, 3.0)[1](1.0)[0] ** 2)(2.0), 4.0)


def test_a_gradient_descent_is_differentiated_by_its_rate():
    def trained(rate):
        w = X
        for _ in range(4):
            w = w - rate * lf.grad(lambda w: lf.sum(w**2))(w)
        return lf.sum(w)

    close(lf.grad(trained)(0.1), X.sum() * 4 * (1 - 0.2) ** 3 * -2)


# Expressions.


# Reading parts: the cotangents of parts are joined, not added up one by one.


PARTS = {
    "rows": (lambda a: sum(i * lf.sum(row) for i, row in enumerate(a)), np.array([[0.0] * 3, [1.0] * 3])),
    "a row twice": (lambda a: lf.sum(a[1] * a[1]), np.array([[0.0] * 3, 2 * A[1]])),
    "overlapping": (lambda a: lf.sum(a[0:2]) + lf.sum(a[1:2]) + lf.sum(a[1]), np.array([[1.0] * 3, [3.0] * 3])),
    "the whole and a part": (lambda a: lf.sum(a) + lf.sum(a[0]), np.array([[2.0] * 3, [1.0] * 3])),
    "a part of a part": (lambda a: lf.sum(a[1][1:]), np.array([[0.0] * 3, [0.0, 1.0, 1.0]])),
    "reshaped": (lambda a: lf.sum(a.reshape(-1)[2:4] * np.array([5.0, 7.0])), np.array([[0, 0, 5.0], [7.0, 0, 0]])),
    "columns": (lambda a: lf.sum(a[:, 1]) + 2 * lf.sum(a[:, ::2]), np.array([[2.0, 1.0, 2.0]] * 2)),
    "split": (lambda a: lf.sum(lf.split(a, 2)[1]), np.array([[0.0] * 3, [1.0] * 3])),
    "by an index": (lambda a: lf.sum(a[np.array([1, 1, 0])]), np.array([[1.0] * 3, [2.0] * 3])),
    "empty": (lambda a: lf.sum(a[0:0]) + lf.sum(a[1:1]) + lf.sum(a), np.ones((2, 3))),
}


@pytest.mark.parametrize("name", PARTS)
def test_reading_parts(name):
    f, want = PARTS[name]
    close(lf.grad(f)(A), want)
    lf.check_grads(lambda a: f(lf.tanh(a)))(A)


def test_a_long_chain_needs_no_deep_stack():
    def f(x):
        for _ in range(3000):
            x = lf.tanh(x)
        return x

    y = 0.5
    slope = 1.0
    for _ in range(3000):
        y = np.tanh(y)
        slope *= 1 - y * y
    close(lf.grad(f)(0.5), slope)


# Graphs: gradients of expressions by parameters.


def test_gradients_of_a_graph_run_again_under_new_parameters():
    w, table = lf.Parameter(X), lf.Parameter(A)
    loss = lf.sum(lf.tanh(w * lf.embedding(table, 1)) ** 2)
    by_w, by_table = lf.gradients(loss, [w, table])
    for scale in (1.0, 2.0):
        w.data = X * scale
        lf.forward([by_w, by_table])
        loss.backward()
        close(by_w.numpy(), w.grad)
        close(by_table.numpy(), table.grad.to_dense())
        w.zero_grad()
        table.zero_grad()


def test_gradients_by_values_in_the_middle():
    w = lf.Parameter(X)
    h = w * 2
    y = lf.sum(h * h * w)
    by_h, by_w = lf.gradients(y, [h, w])
    close(by_h.numpy(), 2 * (2 * X) * X)
    close(by_w.numpy(), 12 * X**2)
    close(lf.gradients(h, [w], cotangent=V)[0].numpy(), 2 * V)
    close(lf.gradients(y, [w, lf.Parameter(V)])[1].numpy(), np.zeros(3))
    close(lf.gradients(w[0:1], [w])[0].numpy(), [1, 0, 0])


def test_a_parameter_gets_one_product_for_all_of_its_uses():
    w = lf.Parameter(A)
    y = lf.sum([lf.sum(lf.tanh(w @ (X * i))) for i in range(20)])
    (by_w,) = lf.gradients(y, [w])
    by_w.forward()
    graph = by_w.tape.runs[-1].graph
    assert sum(graph.signatures[s].op.name == "einsum_or_zero" for s in graph.signature) == 1
    y.backward()
    close(by_w.numpy(), w.grad)


@pytest.mark.parametrize(
    ("read", "transpose"),
    [
        (lambda a, i: a @ (X * i), "einsum_or_zero"),
        (lambda a, i: a[np.array([i % 2, 0])], "scatter"),
        (lambda a, i: lf.embedding(a, i % 2), "scatter"),
        (lambda a, i: a[:, i % 3], "embed"),
    ],
)
def test_an_array_gets_one_cotangent_for_all_of_its_uses(read, transpose):
    f = lambda a: lf.sum([lf.sum(lf.tanh(read(a, i))) for i in range(6)])  # noqa: E731
    gradient = lf.grad(f)(lf.constant(A)).forward()
    graph = gradient.tape.runs[-1].graph
    made = sum(graph.signatures[s].op.name == transpose for s in graph.signature)
    assert made == (3 if transpose == "embed" else 1)
    lf.check_grads(f)(A)


def test_a_hook_on_the_way_is_refused():
    w = lf.Parameter(X)
    h = w * 2
    handle = h.register_hook(lambda g: g * 10)
    y = lf.sum(h * h)
    with pytest.raises(lf.GradientError, match=r"a value with a hook, which takes arrays: use \.backward"):
        lf.gradients(y, [w])
    handle.remove()
    close(lf.gradients(y, [w])[0].numpy(), 8 * X)


# Bad input.

EXPRESSION = lf.constant(X)
ERRORS = (
    ("not one number", lambda: lf.grad(lf.tanh)(X), lf.GradientError, r"shape \(3,\): it must be one number"),
    ("value_and_grad of several", lambda: lf.value_and_grad(lf.tanh)(X), lf.GradientError, "must be one number"),
    ("hessian of several", lambda: lf.hessian(lf.tanh)(X), lf.GradientError, "must be one number"),
    ("a float returned", lambda: lf.grad(lambda x: 3.0)(X), lf.GradientError, "returned a float, which is no"),
    ("its value returned", lambda: lf.grad(lambda x: lf.sum(x).item())(X), lf.GradientError, "returned a float"),
    ("an array returned", lambda: lf.jacobian(lambda x: x.numpy())(X), lf.GradientError, "returned an array"),
    ("nothing returned", lambda: lf.grad(lambda x: None)(X), lf.GradientError, "returned a NoneType"),
    ("an integer returned", lambda: lf.grad(lambda x: lf.argmax(x))(X), lf.DTypeError, "returned int64, which has no"),
    ("an integer", lambda: lf.grad(lambda x: x)(3), lf.DTypeError, "argument 0 holds int64; only floating"),
    ("integers", lambda: lf.grad(lf.sum)(np.arange(3)), lf.DTypeError, "argument 0 holds int64"),
    ("a truth value", lambda: lf.grad(lambda x: x)(True), lf.DTypeError, "argument 0 holds bool"),
    ("a word", lambda: lf.grad(lambda x: x)("w"), TypeError, "argument 0 is no array, number or expression but str"),
    ("deep inside", lambda: lf.grad(lambda t: t)({"w": [1.0, None]}), TypeError, r"argument 0\['w'\]\[1\] is no array"),
    ("argnum too large", lambda: lf.grad(lf.multiply, 2)(X, V), TypeError, "argnum 2 names no argument, .* with 2"),
    ("argnum among several", lambda: lf.grad(lf.multiply, (0, 5))(X, V), TypeError, "argnum 5"),
    ("no arguments", lambda: lf.grad(lambda: 1.0)(), TypeError, "argnum 0 names no argument, .* with 0"),
    ("argnum no number", lambda: lf.grad(lf.sum, "x"), TypeError, "argnum is the number of an argument, .* got 'x'"),
    ("argnum a truth value", lambda: lf.grad(lf.sum, True), TypeError, "argnum is the number"),
    ("argnum empty", lambda: lf.grad(lf.sum, ()), TypeError, "argnum is the number"),
    ("an expression for a function", lambda: lf.grad(EXPRESSION), TypeError, "got Expr; .* lf.gradients"),
    ("a wrong cotangent", lambda: lf.vjp(lf.tanh, X)[1](np.ones(2)), lf.ShapeError, r"cotangent must have the shapes"),
    ("too few tangents", lambda: lf.jvp(lf.multiply, (X, V), (X,)), lf.ShapeError, "tangents must have the shapes"),
    ("a bare tangent", lambda: lf.jvp(lf.tanh, X, X), TypeError, "takes a tuple of arguments and a tuple"),
    ("gradients of an array", lambda: lf.gradients(X, [lf.Parameter(X)]), lf.GradientError, "returned an array"),
    ("gradients of several", lambda: lf.gradients(lf.Parameter(X) * 2, []), lf.GradientError, "must be one number"),
    ("gradients by a constant", lambda: lf.gradients(lf.sum(EXPRESSION), [EXPRESSION]), lf.GradientError, "no grad"),
    ("gradients by one", lambda: lf.gradients(lf.sum(lf.Parameter(X)), lf.Parameter(X)), TypeError, "takes a list"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("function", [lf.selu, lambda x: lf.leaky_relu(x, 0.3), lambda x: lf.elu(x, 0.7)])
@pytest.mark.parametrize("value", [0.7, -0.6])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_a_recorded_slope_has_the_dtype_of_the_value(function, value, shape):
    """A number chosen by a comparison took the default dtype: 0.30000001 in place of 0.3."""
    x = lf.Parameter(np.full(shape, value))
    lf.sum(function(x)).backward()
    [recorded] = lf.gradients(lf.sum(function(x)), [x])
    np.testing.assert_allclose(recorded.numpy(), x.grad, rtol=1e-15)

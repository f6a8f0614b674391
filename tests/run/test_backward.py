"""A cotangent that is zero and a slope that is infinite never meet: every operation, by every way to a gradient.

Both directions: a zero cotangent that reaches an infinite slope (``where(x > 0, sqrt(x), 0)`` at zero), and an infinite
cotangent that reaches what a mask has hidden (``sqrt(relu(x))`` below zero). The answer is zero, never NaN.
"""

import math

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device
from lazyflow.ops.base import OPS
from lazyflow.ops.linalg import without_nan
from lazyflow.record.expr import record
from tests.ops.harness import draw, launch_of
from tests.ops.test_ops import CASES

INF, NAN = math.inf, math.nan
F = lf.nn.functional
DTYPES = ("float16", "float32", "float64")


def zero(x):
    return lf.constant(np.zeros(x.shape, x.dtype))


# What is infinite or not a number somewhere, and where. The mask hides that place.
SLOPES = {
    "sqrt": (lf.sqrt, 0.0),
    "sqrt of a negative": (lf.sqrt, -1.0),
    "log": (lf.log, 0.0),
    "log of a negative": (lf.log, -1.0),
    "log1p": (lf.log1p, -1.0),
    "reciprocal": (lambda x: 1.0 / x, 0.0),
    "0 / 0": (lambda x: x / x, 0.0),
    "power": (lambda x: x**0.5, 0.0),
    "power of a negative": (lambda x: x**-1.5, -1.0),
    "2 to infinity": (lambda x: 2.0**x, INF),
    "arcsin": (lf.arcsin, 1.0),
    "arccos": (lf.arccos, 1.0),
    "arcsin beyond": (lf.arcsin, 2.0),
    "arccosh": (lf.arccosh, 1.0),
    "arctanh": (lf.arctanh, 1.0),
    "arctan2": (lambda x: lf.arctan2(x, x * 2.0), 0.0),
    "exp": (lf.exp, 2000.0),
    "sinh": (lf.sinh, 2000.0),
    "cosh": (lf.cosh, -2000.0),
    "tan": (lf.tan, INF),
    "square": (lambda x: lf.square(lf.square(x * x)), 3e4),
    "multiply": (lambda x: x * (x * 3.0), INF),
    "exp of a product": (lambda x: lf.exp(x * 2000.0) * x, 9.0),
    "tanh of log": (lambda x: lf.tanh(lf.log(x)), 0.0),
    "sigmoid of log": (lambda x: lf.sigmoid(lf.log(x)), 0.0),
    "lgamma": (lf.lgamma, 0.0),
    "remainder": (lambda x: x % (x * 0.0), 1.0),
    "relu of log": (lambda x: lf.relu(lf.log(x)), 0.0),
    "norm": (lambda x: lf.norm(x), INF),
    "std": (lambda x: lf.std(lf.stack([x, x * 2.0])), INF),
    "var": (lambda x: lf.var(lf.stack([x, x * 2.0])), INF),
    "prod": (lambda x: lf.prod(lf.stack([x, 1.0 / x])), 0.0),
    "logsumexp": (lambda x: lf.logsumexp(lf.stack([x, x])), -INF),
    "softmax": (lambda x: lf.sum(lf.softmax(lf.stack([x, x]))[:1]), -INF),
    "log_softmax": (lambda x: lf.sum(lf.log_softmax(lf.stack([x, x]))[:1]), -INF),
    "cross_entropy": (lambda x: lf.cross_entropy(lf.stack([x, x, x]), 1), -INF),
    "cross_entropy of rows": (lambda x: lf.cross_entropy(lf.stack([x] * 20).reshape(2, 10), [1, 2]), -INF),
    "soft cross_entropy": (lambda x: lf.cross_entropy(lf.stack([x, x]), np.array([0.5, 0.5])), INF),
    "mse": (lambda x: lf.mse(lf.stack([x]), lf.stack([x])), INF),
    "huber": (lambda x: lf.huber(lf.stack([x]), lf.stack([x])), INF),
    "bce_with_logits": (lambda x: lf.bce_with_logits(lf.stack([x]), lf.stack([x])), INF),
    "binary_cross_entropy": (lambda x: F.binary_cross_entropy(x, x), 2.0),
    "hinge": (lambda x: lf.hinge(lf.stack([x, x]), 1), INF),
    "nll": (lambda x: lf.nll(lf.stack([x, x * 0.0]), 1), INF),
    "max": (lambda x: lf.max(lf.stack([x, x])), NAN),
    "sum": (lambda x: lf.sum(lf.stack([x, lf.log(x)])), 0.0),
    "hypot": (lambda x: lf.numpy.hypot(x, x), 0.0),
    "cbrt": (lambda x: lf.numpy.cbrt(x), NAN),
}

# What hides the place where the slope behind it is infinite.
MASKS = {
    "relu": lambda x: lf.relu(x),
    "clip": lambda x: lf.clip(x, 0.0, 1.0),
    "maximum": lambda x: lf.maximum(x, 0.0),
    "minimum": lambda x: -lf.minimum(-x, 0.0),
    "where": lambda x: lf.where(x > 0, x, 0.0),
    "where, the other": lambda x: lf.where(x <= 0, 0.0, x),
    "hardtanh": lambda x: lf.hardtanh(x, 0.0, 1.0),
    "relu6": lambda x: F.relu6(x),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "hardshrink": lambda x: lf.abs(F.hardshrink(x, 2.0)),
    "softshrink": lambda x: lf.abs(F.softshrink(x, 2.0)),
    "hardsigmoid": lambda x: F.hardsigmoid(x - 3.0),
    "max": lambda x: lf.max(lf.stack([x, zero(x)])),
    "min": lambda x: -lf.min(lf.stack([-x, zero(x)])),
    "hinge": lambda x: lf.hinge(lf.stack([1.0 - x, zero(x)]), 0),
    "maximum norm": lambda x: lf.norm(lf.stack([zero(x) * x, zero(x) * x]), ord=np.inf),
    "abs at zero": lambda x: lf.abs(x * 0.0),
    "dropped": lambda x: lf.functions.random.masked(x, zero(x)),
    "max_pool1d": lambda x: F.max_pool1d(lf.stack([x, zero(x)]).reshape(1, 2), 2)[0, 0],
}
BEHIND = {"sqrt": lf.sqrt, "twice": lambda y: lf.sqrt(y) ** 0.25}


# Sums of products. Of arrays, those of two operands look for what is infinite; recorded they are products again.


def ways(function, x):
    """The gradient by `x` of a function of one number, by every way there is, and the second derivative."""
    for fuse in ("auto", "numpy", "off"):
        with lf.using(fuse=fuse):
            yield fuse, gradient_of(function, x)
            if fuse != "auto" or x.dtype == np.float32:  # every function is compiled anew
                yield f"{fuse}, in a cell", gradient_of(lf.cell(lambda v: function(v)), x)
    p = lf.Parameter(x.copy())
    (first,) = lf.gradients(lf.sum([function(p[i] * 1.0) for i in range(len(x))]), [p])
    yield "recorded", first.numpy()
    if first.requires_grad:
        yield "twice", lf.gradients(lf.sum(first), [p])[0].numpy()


def gradient_of(function, x):
    p = lf.Parameter(x.copy())
    lf.sum([function(p[i] * 1.0) for i in range(len(x))]).backward()
    return dense(p.grad)


def dense(gradient):
    return gradient.to_dense() if isinstance(gradient, lf.RowSparse) else gradient


def hidden(function, place):
    """The function at every other place, and zero at this one."""

    def masked(x):
        here = lf.isnan(x) if place != place else lf.equal(x, place)
        return lf.where(here, 0.0, function(x))

    return masked


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SLOPES)
def test_zero_times_an_infinite_slope(name, dtype):
    function, place = SLOPES[name]
    x = np.array([place, 0.5, place, 0.25], dtype)
    for way, gradient in ways(hidden(function, place), x):
        assert (gradient[::2] == 0).all(), (way, gradient)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("name", MASKS)
def test_infinity_at_a_mask(name, behind, dtype):
    x = np.array([-1.0, -0.25], dtype)
    for way, gradient in ways(lambda v: BEHIND[behind](MASKS[name](v)), x):
        assert np.shape(gradient) == (2,) and (gradient == 0).all(), (way, gradient)


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if any(op.vjps)))
@pytest.mark.parametrize("value", [INF, -INF, NAN, 0.0, 1.0])
def test_every_operation_hands_zeros_on(name, value):
    """Whatever the operands are, of cotangents that are all zero every operation makes zeros, once and recorded."""
    case = next(c for c in CASES if c.op == name and c.gradient and all(s.dtype != "float32" for s in c.operands))
    decomposition = name in ("inv", "solve", "det", "slogdet", "cholesky", "eigh", "svd")
    if decomposition and value != 1.0:
        pytest.skip("not for these values")
    arrays = [a[0] for a in draw(case, 1)]
    given, parameters = [], []
    for a in arrays:
        is_index = a.dtype.kind in "iu" and not a.ndim and not case.record.elementwise
        if a.dtype != np.float64:
            given.append(int(a) if is_index else lf.constant(a))
            continue
        parameters.append(lf.Parameter(a if decomposition else np.full_like(a, value)))
        given.append(parameters[-1] * 1.0)
    y = record(case.record, given, **case.attrs)
    if not y.requires_grad:
        return
    y.backward(np.zeros(y.shape))
    for p in parameters:
        assert p.grad is None or (dense(p.grad) == 0).all(), p.grad
    if not case.record.once:
        seed = lf.constant(np.zeros(y.shape))
        for gradient in lf.gradients(record(case.record, given, **case.attrs), parameters, cotangent=seed):
            assert (gradient.numpy() == 0).all()


def shown_to_keep_zeros():
    """The cases of operations of which `lazyflow.run.backward` takes it for granted on a device, where to look is to
    wait: of all but products along a diagonal."""
    known = [c for c in CASES if c.gradient and not has_diagonal(c)]
    return [c for c in known if all(s.dtype not in ("float16", "float32") for s in c.operands)]


def has_diagonal(case):
    operands = case.attrs.get("subscripts", "").split("->")[0].split(",")
    return any(len({*letters}) < len(letters) for letters in operands)


def test_what_is_taken_to_keep_zeros_is_an_operation_with_cases():
    assert {c.op for c in shown_to_keep_zeros()} >= {n for n, op in OPS.items() if any(op.vjps)}


@pytest.mark.gpu
@pytest.mark.parametrize("case", shown_to_keep_zeros(), ids=lambda c: c.id)
def test_a_call_with_a_zero_cotangent_leaves_nothing_of_infinities(case):
    """Of three calls one has a zero cotangent, and operands that are infinite or not a number. Its own gradients are
    zero, and those of what is shared by all are of the others alone."""
    finite, xp = draw(case, 3), device.array_module("cuda:0")
    for value in (INF, -INF, NAN):
        broken = [a.copy() for a in finite]
        for a in broken:
            if a.dtype.kind == "f":
                a[1] = value
        for which in range(-1, len(finite)):  # an operand that is shared by all, a parameter, is finite; or none is
            if case.record.stacked and which >= 0:
                continue
            shared = [i == which for i in range(len(finite))]
            given = [f if s else b for f, b, s in zip(finite, broken, shared, strict=True)]
            with device.on("cuda:0"), np.errstate(all="ignore"):
                found, expected = (_pulled(case, arrays, xp, shared) for arrays in (given, finite))
            for one, other in zip(found, expected, strict=True):
                assert np.isfinite(one).all()
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def _pulled(case, arrays, xp, shared):
    launch = launch_of(case, arrays, xp, () if case.record.stacked else shared)
    y = launch.forward()
    g = np.random.default_rng(7).normal(size=y.shape)
    g[1] = 0
    return [device.to_host(launch.gradient(i, xp.asarray(g), y)) for i in launch.differentiable()]


PRODUCTS = {
    "dot": (lf.dot, (3,), (3,)),
    "matmul, left": (lambda x, w: x @ w, (2, 3), (3, 2)),
    "matmul, right": (lambda x, w: w @ x, (3,), (2, 3)),
    "outer": (lf.outer, (3,), (2,)),
    "einsum": (lambda x, w: lf.einsum("i,ij->j", x, w), (3,), (3, 2)),
    "affine, weight": (lambda x, w: lf.affine(x, np.zeros(2), w), (2, 3), (3,)),
    "affine, input": (lambda x, w: lf.affine(w, np.zeros(2), x), (3,), (2, 3)),
    "bilinear, left": (lambda x, w: lf.bilinear(x, w, np.ones(2)), (3,), (2, 3, 2)),
    "bilinear, weight": (lambda x, w: lf.bilinear(w, x, np.ones(2)), (2, 3, 2), (3,)),
    "bilinear, right": (lambda x, w: lf.bilinear(np.ones(2), w, x), (3,), (2, 2, 3)),
    "circular": (lf.circular_correlation, (3,), (3,)),
    "conv, input": (lambda x, w: lf.conv(x, w), (1, 4), (2, 1, 2)),
    "conv, weight": (lambda x, w: lf.conv(w, x), (2, 1, 2), (1, 4)),
    "conv_transpose, input": (lambda x, w: lf.conv_transpose(x, w), (1, 4), (1, 2, 2)),
    "conv_transpose, weight": (lambda x, w: lf.conv_transpose(w, x), (1, 2, 2), (1, 4)),
}


@pytest.mark.parametrize("form", ["arrays", "recorded"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_sums_of_products_whose_cotangents_are_zero(name, form):
    """A result of infinite size is hidden by a function that is flat there: nothing but zero comes back from it."""
    function, shape, other = PRODUCTS[name]
    x = lf.Parameter(np.linspace(0.5, 2.0, math.prod(shape)).reshape(shape))
    loss = lf.sum(lf.tanh(function(x * 1.0, lf.constant(np.full(other, INF)))))
    if form == "arrays":
        loss.backward()
        gradient = x.grad
    else:
        gradient = lf.gradients(loss, [x])[0].numpy()
    assert (gradient == 0).all(), gradient


def test_derivatives_by_a_zero_cotangent_are_not_zero():
    """Forward mode differentiates by the cotangent, at zero: nothing is cut off there."""
    _, tangent = lf.jvp(lambda x: lf.sqrt(x) * lf.exp(x), (np.array([1.0, 4.0]),), (np.array([1.0, 0.0]),))
    np.testing.assert_allclose(tangent, [1.5 * np.e, 0.0])
    _, tangent = lf.jvp(lf.numpy.sqrt, (lf.constant(np.array([0.0, 0.0])),), (np.array([1.0, 0.0]),))
    np.testing.assert_array_equal(tangent.numpy(), [INF, 0.0])
    x = np.array([0.0, 2.0, -1.0])
    np.testing.assert_allclose(np.diag(lf.hessian(lambda v: lf.sum(v * v * v))(x)), 6 * x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("more", [{}, {"label_smoothing": 0.25}, {"weight": np.array([1.0, 0.5, 2.0])}])
def test_ignored_rows_of_impossible_scores(reduction, more):
    p = lf.Parameter(np.array([[0.5, 1.0, 2.0], [-INF, -INF, -INF], [INF, NAN, 0.0]]))
    loss = F.cross_entropy(p * 1.0, np.array([2, -100, -100]), reduction=reduction, **more)
    q = lf.Parameter(p.array[:1])
    alone = F.cross_entropy(q * 1.0, np.array([2]), reduction=reduction, **more)
    np.testing.assert_allclose(lf.sum(loss).item(), lf.sum(alone).item())
    lf.sum(loss).backward()
    lf.sum(alone).backward()
    np.testing.assert_allclose(p.grad[:1], q.grad)
    assert (p.grad[1:] == 0).all()


@pytest.mark.parametrize("mask", [np.array([[True, False], [False, False]]), np.array([[0.0, -INF], [-INF, -INF]])])
def test_attention_that_sees_nothing(mask):
    x = lf.Parameter(np.array([[1.0, 2.0], [3.0, -1.0]]))
    y = F.scaled_dot_product_attention(x, x, x, attn_mask=mask)
    np.testing.assert_allclose(y.numpy(), [[1.0, 2.0], [0.0, 0.0]])
    lf.sum(y).backward()
    np.testing.assert_allclose(x.grad, [[1.0, 1.0], [0.0, 0.0]])


@pytest.mark.host
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_products_is_that_of_its_terms(dtype):
    """What is infinite in an operand does not hide what is infinite, or not a number, in cotangents of other rows."""
    rng = np.random.default_rng(0)
    values = np.array([0, 0, 1, 1, -2, 2, 3, INF, -INF, NAN], dtype)
    with np.errstate(all="ignore"):
        for _ in range(300):
            rows = rng.integers(1, 7)
            g, x = rng.choice(values, (rows, 2)), rng.choice(values, (rows, 3))
            found = without_nan(lambda g, x: g.T @ x, g, x)
            expected = np.where((g == 0)[:, :, None], 0, g[:, :, None] * x[:, None, :]).sum(axis=0)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batching", ["phases", "none"])
def test_an_infinity_of_one_example_does_not_hide_nan_of_another(batching):
    w = lf.Parameter(np.ones((1, 1)))
    inputs = [np.array([[1.0], [2.0]]), np.array([[-INF]])]
    cotangents = [np.array([[INF], [-INF]]), np.array([[-1.0]])]
    with lf.using(batching=batching), np.errstate(all="ignore"):
        products = [lf.constant(x) @ w for x in inputs]
        lf.sum([lf.sum(y * lf.constant(g)) for y, g in zip(products, cotangents, strict=True)]).backward()
    assert np.isnan(device.to_host(w.grad)).all()

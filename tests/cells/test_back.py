"""Results of a cell that no gradient reaches: their slopes, infinite or not a number, never meet a zero cotangent."""

import itertools

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host

X = np.array([0.0, 1.0, 4.0])

BODIES = {
    "a root at zero": lambda x, w: (x * w, lf.sqrt(x * w * 0)),
    "a logarithm": lambda x, w: (lf.tanh(x * w), lf.log(w * 0), x + w),
    "a quotient": lambda x, w: (x * w, x / (w - w), lf.sum(w)),
    "a sum of both": lambda x, w: (x * w, (x * w) + lf.sqrt(w - w)),
    "a product of both": lambda x, w: (lf.tanh(x * w), lf.tanh(x * w) * lf.sqrt(w - w)),
    "a norm": lambda x, w: (x + w, lf.norm(w - w), w * 2),
    "a power": lambda x, w: (x + w, (w - w) ** 0.5),
    "a matrix product": lambda x, w: (w * 2, lf.outer(w, x) @ lf.sqrt(w - w)),
}
FUSIONS = ("off", "numpy")


def gradients(step, w, use):
    w.grad = None
    with np.errstate(all="ignore"):
        loss = use(step)
        loss.backward()
        first = np.array(to_host(w.grad))
        w.grad = None
        loss.backward()
    np.testing.assert_allclose(w.grad, first, rtol=1e-12)
    return first


def first_alone(w):
    return lambda step: lf.sum(step(lf.constant(X), w * 1.0)[0])


def chained(w):
    def use(step):
        h = lf.constant(X)
        for _ in range(4):
            h = step(h, w * 1.0)[0] * 0.5
        return lf.sum(h)

    return use


USES = {"first alone": first_alone, "chained": chained}


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_an_unused_result_brings_no_nan(body, use, fuse):
    w = lf.Parameter(np.array([0.5, -1.5, 2.0]))
    with lf.using(dtype="float64", fuse=fuse):
        expected = gradients(body, w, use(w))
        found = gradients(lf.cell(body), w, use(w))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("fuse", FUSIONS)
def test_calls_of_one_launch_with_different_results_in_use(fuse):
    """Every choice of the results of each of three calls that are one launch; the slope of one of them is infinite."""
    w = lf.Parameter(np.array([0.5, 1.5, 2.0]))

    def body(x, v):
        return v * x, lf.sqrt(v - x), lf.tanh(v + x)

    points = [w.numpy(), w.numpy() - 0.25, w.numpy() - 0.5]
    choices = [(0,), (2,), (0, 2)], [(1,), (0, 1), (0, 1, 2)], [(0,), (1, 2)]
    with lf.using(dtype="float64", fuse=fuse):
        cell = lf.cell(body)
        for chosen in itertools.product(*choices):

            def use(step, chosen=chosen):
                results = [step(lf.constant(p), w * 1.0) for p in points]
                return lf.sum([lf.sum(r[k]) for r, ks in zip(results, chosen, strict=True) for k in ks])

            expected, found = gradients(body, w, use), gradients(cell, w, use)
            assert np.isfinite(expected).all()
            np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("fuse", FUSIONS)
def test_operands_of_an_unused_result_get_no_cotangent(fuse):
    w = lf.Parameter(X)
    with lf.using(dtype="float64", fuse=fuse), np.errstate(all="ignore"):
        cell = lf.cell(lambda a, b: (a * 2, b * 3))
        loss = lf.sum(cell(w + 1.0, lf.sqrt(w - w))[0])
        loss.backward()
    np.testing.assert_array_equal(w.grad, [2.0, 2.0, 2.0])


@pytest.mark.host
@pytest.mark.parametrize("fuse", FUSIONS)
def test_hooks_and_kept_gradients_beside_an_unused_result(fuse):
    w, seen = lf.Parameter(X), []
    with lf.using(dtype="float64", fuse=fuse), np.errstate(all="ignore"):
        v = w * 1.0
        v.retain_grad()
        v.register_hook(lambda g: seen.append(g.copy()))
        lf.sum(lf.cell(lambda v: (v * 2, lf.sqrt(v - v)))(v)[0]).backward()
    np.testing.assert_array_equal(v.grad, [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(seen, [[2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(w.grad, [2.0, 2.0, 2.0])


def test_a_slope_that_is_infinite_stays_so():
    w = lf.Parameter(X)
    with lf.using(dtype="float64"), np.errstate(all="ignore"):
        lf.sum(lf.cell(lambda v: (v * 2, lf.sqrt(v)))(w * 1.0)[1]).backward()
    np.testing.assert_array_equal(w.grad, [np.inf, 0.5, 0.25])


@pytest.mark.parametrize("fuse", FUSIONS)
def test_values_in_the_middle_and_several_runs(fuse):
    w = lf.Parameter(np.array([0.5, 1.5, 2.0]))

    def body(v):
        return v * 2, lf.sqrt(v - v)

    def use(step):
        first, second = step(w * 1.0)
        second.numpy()
        h = first * 0.5
        h.numpy()
        return lf.sum(step(h)[0])

    with lf.using(dtype="float64", fuse=fuse):
        expected, found = gradients(body, w, use), gradients(lf.cell(body), w, use)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# Who has a gradient: with the cell those that have one without, be it zero or not.

W, V, U = (lf.Parameter(np.eye(3) / k) for k in (1.0, 2.0, 4.0))
FLOWS = {
    "another result": lambda x, y: (lf.tanh(W @ x), lf.tanh(V @ x) * y),
    "another result of a common value": lambda x, y: (h := lf.tanh(W @ x), h * (V @ y)),
    "one result of all": lambda x, y: (lf.tanh(W @ x) * (V @ y), lf.exp(W @ x)),
    "detached": lambda x, y: (lf.tanh(W @ x) * lf.tanh(V @ y).detach(), x),
    "detached and not": lambda x, y: (lf.tanh(W @ x) * lf.tanh(V @ y).detach(), V @ x),
    "a parameter detached": lambda x, y: (lf.tanh(W @ x) + V.detach() @ y, x * 2),
    "a sign": lambda x, y: (lf.tanh(W @ x) * lf.sign(V @ y), x),
    "a comparison": lambda x, y: (lf.where(V @ y > 0, W @ x, x), x),
    "an index": lambda x, y: ((W @ x)[lf.argmax(V @ y)], x),
    "a result without gradient": lambda x, y: (lf.tanh(W @ x), lf.argmax(V @ y)),
}


@pytest.mark.host  # the parameters of all tests are on the CPU
@pytest.mark.parametrize("fuse", ["auto", "off", "numpy"])
@pytest.mark.parametrize("roots", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("body", FLOWS.values(), ids=FLOWS)
def test_who_has_a_gradient(body, roots, fuse):
    def gradients(function):
        leaves = [W, V, U, lf.Parameter(np.array([0.5, -1.0, 2.0]))]
        for leaf in leaves:
            leaf.grad = None
        x = lf.constant(np.array([1.0, 2.0, -0.5]))
        calls = [function(x, U @ leaves[3]), function(leaves[3] * 2, x)]
        root = lf.sum([lf.sum(calls[0][k].astype("float64")) for k in roots])
        if root.requires_grad:
            root.backward()
        return [leaf.grad for leaf in leaves]

    with lf.using(fuse=fuse):
        want, found = gradients(body), gradients(lf.cell(body))
    assert [g is None for g in found] == [g is None for g in want]
    for a, b in zip(found, want, strict=True):
        if b is not None:
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.host
def test_an_optimizer_leaves_a_parameter_alone_that_a_cell_only_reads_detached():
    optimizer = lf.optim.Adam([W, V], lr=0.1, weight_decay=0.1)
    before = V.numpy()
    cell = lf.cell(lambda x: lf.tanh(W @ x) * (V @ x).detach())
    lf.sum(cell(lf.constant(np.ones(3)))).backward()
    optimizer.step()
    np.testing.assert_array_equal(V.numpy(), before)

"""Launches: bound once for all runs, and what they read is added back where it was read."""

import sys
from functools import partial

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device
from lazyflow.ops.base import OPS, host_form
from lazyflow.plan.plans import Plans
from lazyflow.run import forward
from tests import simcupy


@pytest.fixture
def w():
    return lf.Parameter(np.array([1.0, -2.0, 3.0]))


@pytest.mark.parametrize("indices", [[1], [1, 1, 0]])
def test_looking_up_in_a_computed_table(w, indices):
    table = lf.outer(w, w)
    lf.sum([lf.sum(lf.embedding(table, i)) for i in indices]).backward()
    v = w.numpy()
    expected = np.zeros(3)
    for i in indices:
        expected += v[i]
        expected[i] += v.sum()
    np.testing.assert_allclose(w.grad, expected)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_overlapping_windows_add_their_gradients(step):
    w = lf.Parameter(np.arange(12.0))
    x = w * 1.0
    parts = [lf.tanh(x[k : k + 3]) for k in (0, step, 4, 7, 4)]
    lf.sum(parts).backward(np.ones(3))
    expected = np.zeros(12)
    for k in (0, step, 4, 7, 4):
        expected[k : k + 3] += 1 - np.tanh(np.arange(k, k + 3.0)) ** 2
    np.testing.assert_allclose(w.grad, expected)


W0 = np.random.default_rng(3).normal(size=(4, 4))


VECTORS = np.random.default_rng(5).normal(size=(8, 4))


@pytest.fixture
def plans(monkeypatch):
    """Plans of one's own, kept at once."""
    own = Plans(once=True)
    monkeypatch.setattr(forward, "PLANS", own)
    return own


def test_launches_are_bound_once_for_all_runs_of_a_plan(plans):
    W = lf.Parameter(W0)
    found = []
    for k in range(4):
        h = lf.tanh(W @ lf.constant(VECTORS[k]))
        h.forward()
        lf.sum(h).backward()
        found.append(h.tape.runs[0].plan.bound)
        np.testing.assert_allclose(h.numpy(), np.tanh(W0 @ VECTORS[k]))
    assert found[1]["launches"] is found[2]["launches"] is found[3]["launches"]


def test_launches_with_other_payload_are_bound_like_those_before(plans):
    """What a plan is bound to once more has its own payload, forward and backward."""
    table, w = lf.Parameter(W0), lf.Parameter(np.ones(4))
    for k in range(1, 5):
        x = lf.embedding(table, k % 4) * (w * float(k))
        h = lf.sum(lf.tanh(x)[k % 3 :])
        assert h.item() == pytest.approx(np.tanh(W0[k % 4] * k)[k % 3 :].sum())
        h.backward()
        slope = np.where(np.arange(4) >= k % 3, 1 - np.tanh(W0[k % 4] * k) ** 2, 0.0)
        np.testing.assert_allclose(w.grad, slope * W0[k % 4] * k)
        np.testing.assert_allclose(table.grad.to_dense()[k % 4], slope * k)
        w.zero_grad()
        table.zero_grad()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("rows", "inner", "width"), [(1, 64, 64), (5, 3, 7), (32, 64, 50), (3, 1, 4), (2, 5, 1)])
def test_what_the_core_has_for_a_kernel_gives_its_bits(rows, inner, width, dtype):
    rng = np.random.default_rng(rows + width)
    W, b, x = (rng.normal(size=shape).astype(dtype) for shape in ((width, inner), (width,), (rows, inner)))
    run = host_form(partial(OPS["affine"].forward, heads=""))
    for weight in (W, np.asfortranarray(W)):
        for some in (x, np.repeat(x, 2, axis=0)[::2]):
            expected = OPS["affine"].forward(np, weight, b, some, out=np.empty((rows, width), dtype), heads="")
            out = np.empty((rows, width), dtype)
            if run is not None and run((weight, b, some), out) is not None:
                np.testing.assert_array_equal(out, expected)
            else:
                assert run is None or dtype == "f2" or inner == 1
    assert host_form(partial(OPS["affine"].forward, heads="c")) is None


def test_zeros_of_both_signs_in_one_launch():
    xs = [lf.constant(np.array([1.0])) * 1.0 for _ in range(2)]
    with np.errstate(divide="ignore"):
        values = lf.forward([xs[0] / 0.0, xs[1] / -0.0])
    assert [float(v[0]) for v in values] == [np.inf, -np.inf]


@pytest.mark.parametrize("use", [lambda b, W, x: lf.affine(W, b, x), lambda b, W, x: b + x])
def test_a_float16_gradient_of_many_nodes(use):
    b, W = lf.Parameter(np.zeros(2, np.float16)), lf.Parameter(np.zeros((2, 2), np.float16))
    x = lf.constant(np.ones(2, np.float16))
    lf.sum([lf.sum(use(b, W, x * 1.0)) for _ in range(3000)]).backward()
    assert b.grad.tolist() == [3000.0, 3000.0]


# Results on a device that begin as the bias, all of a phase in one launch.


def recurrent(where, batching, grad, dtype):
    """Losses of sequences of several lengths, with a bias that is computed for some, before and after it has changed,
    and gradients."""
    rng = np.random.default_rng(5)
    with lf.using(device=where, dtype=dtype, batching=batching, grad=grad):
        W, U = (lf.Parameter(rng.normal(size=(3, 3))) for _ in range(2))
        b, c = (lf.Parameter(rng.normal(size=3)) for _ in range(2))
        xs = [lf.constant(rng.normal(size=3)) for _ in range(5)]
        losses = []
        for n in (1, 4, 2, 5, 5):
            h = xs[n - 1]
            for _ in range(n):
                h = lf.tanh(lf.affine(W, b, h))
            other = lf.affine(U, lf.affine(W, b, h) if n % 2 else c, h)
            losses.append(lf.sum(other * h))
        loss = lf.mean(losses)
        first = [loss.item()]
        b.assign(b.array * 2)
        loss.forward()
        if grad:
            loss.backward()
            first += [g for p in (W, U, b, c) for g in device.to_host(p.grad).ravel().tolist()]
        return [*first, loss.item()]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("batching", ["phases", "depth", "agenda", "none"])
def test_results_begin_as_the_bias(batching, grad, dtype):
    rtol = 1e-9 if dtype == "float64" else 1e-4
    found, expected = (recurrent(where, batching, grad, dtype) for where in ("cuda:0", "cpu"))
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.gpu
def test_they_do_so_in_one_launch():
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    with lf.using(device="cuda:0"):
        W, b = lf.Parameter(np.ones((3, 3), np.float32)), lf.Parameter(np.ones(3, np.float32))
        h = lf.constant(np.ones(3, np.float32))
        for _ in range(6):
            h = lf.tanh(lf.affine(W, b, h))
        with simcupy.counting() as seen:
            h.forward()
    # The constant and the bias; the first product, of a value without gradient, has a signature of its own.
    assert (seen.kinds["gemm"], seen.kinds["copy"], seen.kinds["cupy_add"]) == (6, 2, 1), seen.table()

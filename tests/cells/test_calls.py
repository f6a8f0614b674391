"""A decorated function gives the values and the gradients of the plain one: random bodies, called in chains and trees,
by every printer of kernels and every way of batching."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.settings import BATCHINGS
from tests import bodies as C

SLOW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEW = settings(SLOW, max_examples=5)
needs_core = pytest.mark.skipif(core.machine is None, reason="the core was not compiled")


def outcome(body, use, seed, results, decorate, **options):
    """The loss and the gradients, after a second backward that gives them again."""
    parameters = C.parameters(seed)
    step = decorate(body.function(parameters))
    with lf.using(dtype="float64", **options):
        loss = C.loss_of(step, use, seed, results=results)
        value = loss.item()
        if not loss.requires_grad:
            return value, C.gradients(parameters)
        loss.backward()
        first = C.gradients(parameters)
        for p in parameters.values():
            p.zero_grad()
        loss.backward()
        for run in loss.tape.runs:
            run.plan.check()
    for name, again in C.gradients(parameters).items():
        np.testing.assert_allclose(again, first[name], rtol=1e-12, atol=1e-13, err_msg=f"second backward, {name}")
    return value, first


def plain(function):
    return function


def agree(found, expected, text=""):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-9, err_msg=text)
    for name, gradient in expected[1].items():
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-7, atol=1e-9, err_msg=f"{text} {name}")


def compare(body, use, seed, results, fuse, batchings=("phases",)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a deep random body may overflow: the same one, both ways
        expected = outcome(body, use, seed, results, plain, batching="none")
        for batching in batchings:
            found = outcome(body, use, seed, results, lf.cell, fuse=fuse, batching=batching)
            agree(found, expected, f"{fuse} {batching}")


CALLS = (st.sampled_from(list(C.USES)), st.integers(0, 1000), st.booleans())


@SLOW
@given(C.bodies(), *CALLS, st.sampled_from(BATCHINGS))
def test_numpy_kernels(body, use, seed, results, batching):
    compare(body, use, seed, results, "numpy", (batching,))


@SLOW
@given(C.bodies(), *CALLS, st.sampled_from(BATCHINGS))
def test_one_operation_after_another(body, use, seed, results, batching):
    compare(body, use, seed, results, "off", (batching,))


@needs_core
@FEW
@given(C.bodies(), *CALLS)
def test_compiled_kernels(body, use, seed, results):
    compare(body, use, seed, results, "core")


@SLOW
@given(C.bodies(), *CALLS, st.sampled_from(BATCHINGS), st.sampled_from(["numpy", "off"]))
def test_without_gradients(body, use, seed, results, batching, fuse):
    parameters = C.parameters(seed)
    function = body.function(parameters)
    values = []
    with warnings.catch_warnings(), lf.no_grad():
        warnings.simplefilter("ignore", RuntimeWarning)
        for step, options in ((function, {"batching": "none"}), (lf.cell(function), {"batching": batching})):
            with lf.using(dtype="float64", fuse=fuse, **options):
                values.append(C.loss_of(step, use, seed, results=results).item())
    np.testing.assert_allclose(values[1], values[0], rtol=1e-9, atol=1e-9)


@SLOW
@given(C.bodies(), *CALLS, st.sets(st.integers(0, 3), min_size=1, max_size=3), st.sampled_from(["numpy", "off"]))
def test_gradients_of_some_of_the_values_that_were_computed_together(body, use, seed, results, chosen, fuse):
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for decorate in (plain, lf.cell):
            parameters = C.parameters(seed)
            step = decorate(body.function(parameters))
            with lf.using(dtype="float64", fuse=fuse):
                rng = np.random.default_rng(seed)
                losses = [C.USES[use](step, rng, results) for _ in range(4)]
                values = lf.forward(losses)
                for k in sorted(chosen):
                    if losses[k].requires_grad:
                        losses[k].backward()
            found.append((np.array(values), C.gradients(parameters)))
    agree(found[1], found[0])


@SLOW
@given(
    C.bodies(), st.sampled_from(list(C.USES)), st.integers(0, 1000), st.booleans(), st.sampled_from(["numpy", "off"])
)
def test_values_in_the_middle(body, use, seed, results, fuse):
    """Some values are asked for while the rest is recorded, and one parameter changes before all are computed again."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for decorate in (plain, lf.cell):
            parameters = C.parameters(seed)
            step = decorate(body.function(parameters))
            with lf.using(dtype="float64", fuse=fuse):
                rng = np.random.default_rng(seed)
                losses = []
                for _ in range(3):
                    losses.append(C.USES[use](step, rng, results))
                    losses[-1].numpy()
                loss = lf.mean(losses)
                parameters["W"].assign(parameters["W"].numpy() * 0.5)
                value = loss.forward().item()
                if loss.requires_grad:
                    loss.backward()
            found.append((value, C.gradients(parameters)))
    agree(found[1], found[0])


@settings(SLOW, max_examples=30)
@given(C.bodies(), *CALLS)
def test_single_precision(body, use, seed, results):
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for decorate, fuse in ((plain, "off"), (lf.cell, "numpy")):
            parameters = C.parameters(seed, "float32")
            with lf.using(dtype="float32", fuse=fuse):
                loss = C.loss_of(decorate(body.function(parameters)), use, seed, results=results)
                if loss.requires_grad:
                    loss.backward()
                assert all(p.grad is None or p.grad.dtype == np.float32 for p in parameters.values())
                found.append((loss.dtype, loss.item(), C.gradients(parameters)))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-3, atol=1e-4)

"""Every way of batching gives the values and the gradients of a naive interpreter, on random programs over several
examples."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.settings import BATCHINGS
from tests import programs as P

SLOW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EPSILON = 1e-6


def eager_loss(batch, parameters, inputs):
    """The mean over examples of the sum of the last value: each example on its own, each operation at once."""
    return np.mean([np.tanh(p.run(True, parameters, x)[-1]).sum() for p, x in zip(batch, inputs, strict=False)])


def lazy_loss(batch, parameters, inputs):
    return lf.mean(
        [
            lf.sum(lf.tanh(p.run(False, parameters, [lf.constant(a) for a in x])[-1]))
            for p, x in zip(batch, inputs, strict=False)
        ]
    )


def lazy_gradients(batch, values, inputs, batching, middle=False):
    parameters = {name: lf.Parameter(value) for name, value in values.items()}
    with lf.using(batching=batching):
        loss = (
            lazy_loss(batch, parameters, inputs)
            if not middle
            else loss_with_values_in_the_middle(batch, parameters, inputs)
        )
        value = loss.item()
        if loss.requires_grad:
            loss.backward()
        for run in loss.tape.runs:
            run.plan.check()
    dense = {
        n: np.zeros(p.shape) if p.grad is None else p.grad.to_dense() if hasattr(p.grad, "to_dense") else p.grad
        for n, p in parameters.items()
    }
    return value, dense


def loss_with_values_in_the_middle(batch, parameters, inputs):
    losses = []
    for program, x in zip(batch, inputs, strict=False):
        values = program.run(False, parameters, [lf.constant(a) for a in x])
        assert np.isfinite(values[len(values) // 2].numpy()).all()
        losses.append(lf.sum(lf.tanh(values[-1])))
        float(losses[-1])
    return lf.mean(losses)


def numeric_projection(batch, values, inputs, direction):
    moved = [{n: v + s * EPSILON * direction[n] for n, v in values.items()} for s in (1, -1)]
    return (eager_loss(batch, moved[0], inputs) - eager_loss(batch, moved[1], inputs)) / (2 * EPSILON)


@SLOW
@given(st.lists(P.programs(), min_size=1, max_size=4), st.integers(0, 1000))
def test_all_strategies_agree_with_the_naive_interpreter(batch, seed):
    values, inputs = P.arrays(seed), P.example_inputs(seed + 1, len(batch))
    expected = eager_loss(batch, values, inputs)
    results = {way: lazy_gradients(batch, values, inputs, way) for way in BATCHINGS}
    for way, (value, gradients) in results.items():
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9, err_msg=way)
        for name in values:
            np.testing.assert_allclose(
                gradients[name], results["none"][1][name], rtol=1e-7, atol=1e-9, err_msg=f"{way} {name}"
            )


# Programs whose eager form can be differentiated numerically: smooth, and nothing detached.
SMOOTH = tuple(n for n in P.STEPS if n not in ("detach", "row of a table", "where", "elu"))


@pytest.mark.host
@SLOW
@given(st.lists(P.programs(SMOOTH, most=8), min_size=1, max_size=3), st.integers(0, 1000))
def test_gradients_agree_with_central_differences(batch, seed):
    values, inputs = P.arrays(seed), P.example_inputs(seed + 1, len(batch))
    rng = np.random.default_rng(seed + 2)
    direction = {n: rng.normal(size=v.shape) for n, v in values.items()}
    _, gradients = lazy_gradients(batch, values, inputs, "phases")
    projected = sum((gradients[n] * direction[n]).sum() for n in values)
    numeric = numeric_projection(batch, values, inputs, direction)
    np.testing.assert_allclose(projected, numeric, rtol=2e-4, atol=2e-6)


@SLOW
@given(st.lists(P.programs(), min_size=1, max_size=3), st.integers(0, 1000), st.sampled_from(BATCHINGS))
def test_values_in_the_middle_change_nothing(batch, seed, batching):
    values, inputs = P.arrays(seed), P.example_inputs(seed + 1, len(batch))
    plain = lazy_gradients(batch, values, inputs, "none")
    crossed = lazy_gradients(batch, values, inputs, batching, middle=True)
    np.testing.assert_allclose(crossed[0], plain[0], rtol=1e-9, atol=1e-9)
    for name in values:
        np.testing.assert_allclose(crossed[1][name], plain[1][name], rtol=1e-7, atol=1e-9, err_msg=name)


@SLOW
@given(st.lists(P.programs(), min_size=1, max_size=3), st.integers(0, 1000), st.sampled_from(BATCHINGS))
def test_without_gradients_the_values_are_the_same(batch, seed, batching):
    values, inputs = P.arrays(seed), P.example_inputs(seed + 1, len(batch))
    parameters = {name: lf.Parameter(value) for name, value in values.items()}
    with lf.using(batching=batching), lf.no_grad():
        loss = lazy_loss(batch, parameters, inputs)
        assert not loss.requires_grad
        np.testing.assert_allclose(loss.item(), eager_loss(batch, values, inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", P.STEPS)
def test_every_step_depends_on_its_operands(name):
    step = P.STEPS[name]
    values = P.arrays(3)
    rng = np.random.default_rng(4)
    first, second = (step.eager(values, 1, *rng.normal(size=(step.arity, P.N))) for _ in range(2))
    assert first.shape == (P.N,) and not np.allclose(first, second)

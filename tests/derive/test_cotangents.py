"""Recorded gradients are those that backward computes, on random programs, with values in the middle and without."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from tests import programs as P
from tests.test_programs import lazy_loss, loss_with_values_in_the_middle

FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FEW
@given(st.lists(P.programs(), min_size=1, max_size=3), st.integers(0, 1000), st.booleans())
def test_gradients_agree_with_backward(batch, seed, middle):
    inputs = P.example_inputs(seed + 1, len(batch))
    parameters = {name: lf.Parameter(value) for name, value in P.arrays(seed).items()}
    loss = (loss_with_values_in_the_middle if middle else lazy_loss)(batch, parameters, inputs)
    recorded = lf.forward(lf.gradients(loss, list(parameters.values()))) if loss.requires_grad else []
    if recorded:
        loss.backward()
    for (name, p), got in zip(parameters.items(), recorded, strict=False):
        want = np.zeros(p.shape) if p.grad is None else p.grad.to_dense() if hasattr(p.grad, "to_dense") else p.grad
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11, err_msg=name)


SMOOTH = tuple(n for n in P.STEPS if n not in ("detach", "row of a table", "where", "elu", "mixed dtype"))


@FEW
@given(P.programs(SMOOTH, most=6), st.integers(0, 1000))
def test_second_derivatives_agree_with_central_differences(program, seed):
    values, (inputs,) = P.arrays(seed), P.example_inputs(seed + 1, 1)

    def f(parameters, *inputs):
        return lf.mean(lf.tanh(program.run(False, parameters, list(inputs))[-1] * 0.1))

    lf.check_grads(f, argnum=(0, 1, 2), order=2, tolerance=1e-5)(values, *inputs)


@pytest.mark.parametrize("batching", ["none", "phases", "agenda"])
def test_recorded_gradients_batch_like_everything(batching):
    w = lf.Parameter(np.eye(3))
    with lf.using(batching=batching):
        losses = [lf.sum(lf.tanh(w @ np.full(3, 0.1 * i))) for i in range(8)]
        gradients = [lf.gradients(loss, [w])[0] for loss in losses]
        each = lf.forward(gradients)
    for i, (loss, got) in enumerate(zip(losses, each, strict=True)):
        w.zero_grad()
        loss.backward()
        np.testing.assert_allclose(got, w.grad, rtol=1e-12, err_msg=str(i))

"""Loss scaling, against PyTorch and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import optim
from lazyflow.errors import CheckpointError
from tests.optim.fake import FakeParameter, rows

# What the gradients of two parameters are, step after step, beside the scale; finite or not.
GOOD, HUGE, NAN = 0.5, np.inf, np.nan
STEPS = [GOOD, GOOD, GOOD, HUGE, GOOD, NAN, NAN, GOOD, GOOD, GOOD, GOOD, GOOD]
OPTIONS: dict[str, Any] = {"init_scale": 64.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 2}


def optimizer(*shapes: tuple[int, ...]) -> optim.SGD:
    return optim.SGD([FakeParameter(np.ones(shape, np.float32)) for shape in shapes], lr=1.0)


def give(descent: optim.SGD, *gradients: Any) -> None:
    for parameter, gradient in zip(descent.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = gradient


def test_scales_steps_and_gradients_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    weights = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    theirs, peer = torch.optim.SGD(weights, lr=1.0), torch.amp.GradScaler("cpu", **OPTIONS)
    ours, scaler = optimizer((3,), (2,)), optim.GradScaler(**OPTIONS)
    for value in STEPS:
        scale = scaler.get_scale()
        gradients = [np.full(3, 0.5 * scale, np.float32), np.array([1.0, value], np.float32) * scale]
        give(ours, *(g.copy() for g in gradients))
        peer.scale(torch.zeros(1))  # or it knows no scale
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = torch.tensor(gradient)
        for some, step in ((scaler, ours), (peer, theirs)):
            some.step(step)
            some.update()
        assert scaler.get_scale() == peer.get_scale()
        for parameter, weight in zip(ours.param_groups[0]["params"], weights, strict=True):
            np.testing.assert_array_equal(parameter.array, weight.detach().numpy())
            np.testing.assert_array_equal(parameter.grad, weight.grad.numpy())


def test_a_step_that_is_left_out_says_so_and_changes_nothing() -> None:
    descent, scaler = optimizer((2,), (4, 2)), optim.GradScaler(**OPTIONS)
    for table in (rows([1, 3], np.array([[1.0, np.inf], [1, 1]], np.float32), (4, 2)), None):
        give(descent, np.array([np.nan if table is None else 1.0, 1.0], np.float32), table)
        assert scaler.step(descent) is False
        scaler.update()
    assert all((p.array == 1).all() and not p.touched for p in descent.param_groups[0]["params"])
    assert scaler.get_scale() == 64 / 16
    give(descent, np.array([4.0, 8.0], np.float32), rows([1], np.array([[4.0, 4.0]], np.float32), (4, 2)))
    assert scaler.step(descent) is True
    first, second = (p.array for p in descent.param_groups[0]["params"])
    np.testing.assert_array_equal(first, [0, -1])
    np.testing.assert_array_equal(second, [[1, 1], [0, 0], [1, 1], [1, 1]])


def test_gradients_may_be_clipped_between() -> None:
    w = lf.Parameter([3.0, 4.0])
    descent, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(1024.0)
    scaler.scale(lf.sum(w * w) / 2).backward()
    scaler.unscale_(descent)
    assert optim.clip_grad_norm([w], 1.0) == pytest.approx(5.0)
    scaler.step(descent)
    np.testing.assert_allclose(w.numpy(), [2.4, 3.2], rtol=1e-5)


def test_one_scaler_serves_several_optimizers() -> None:
    """Each takes its own step, and the scale looks at all of them."""
    pair, scaler = [optimizer((2,)), optimizer((2,))], optim.GradScaler(**OPTIONS)
    for descent, value in zip(pair, (np.inf, 64.0), strict=True):
        give(descent, np.full(2, value, np.float32))
    assert [scaler.step(descent) for descent in pair] == [False, True]
    scaler.update()
    assert scaler.get_scale() == 16.0


def test_what_is_not_enabled_does_nothing() -> None:
    w = lf.Parameter([1.0])
    descent, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(enabled=False)
    loss = lf.sum(w * np.float32(np.inf))
    assert scaler.scale(loss) is loss and scaler.get_scale() == 1.0
    loss.backward()
    scaler.unscale_(descent)
    assert scaler.step(descent)
    scaler.update()
    assert np.isinf(w.numpy()).all()


def test_a_stopped_scaler_resumes() -> None:
    scaler, other = optim.GradScaler(**OPTIONS), optim.GradScaler()
    descent = optimizer((1,))
    for value in STEPS[:5]:
        give(descent, np.full(1, value, np.float32))
        scaler.step(descent)
        scaler.update()
    other.load_state_dict(scaler.state_dict())
    for value in STEPS[5:]:
        for some in (scaler, other):
            give(descent, np.full(1, value, np.float32))
            some.step(descent)
            some.update()
        assert scaler.state_dict() == other.state_dict()


BAD_STATES: list[tuple[Any, str]] = [
    ({"scale": -1.0}, "above 0"), ({"scale": "much"}, "scale: expected a number"),
    ({"growth_tracker": -1}, "growth_tracker"), ({"growth_interval": 0}, "growth_interval"),
    ({"backoff_factor": 1.0}, "backoff_factor"), ({"more": 1}, "more"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_STATES)
def test_a_state_that_does_not_fit(change: Any, message: str) -> None:
    scaler = optim.GradScaler(**OPTIONS)
    before = scaler.state_dict()
    with pytest.raises(CheckpointError, match=message):
        scaler.load_state_dict({**before, **change})
    assert scaler.state_dict() == before


@pytest.mark.parametrize(
    "option", [{"init_scale": 0}, {"growth_factor": 1}, {"backoff_factor": 0}, {"growth_interval": 1.5}]
)
def test_numbers_that_make_no_scale(option: Any) -> None:
    with pytest.raises(ValueError, match=r"GradScaler: .* must be"):
        optim.GradScaler(**option)


def test_calls_in_another_order() -> None:
    descent, scaler = optimizer((2,)), optim.GradScaler()
    give(descent, np.ones(2, np.float32))
    with pytest.raises(RuntimeError, match=r"update\(\) comes behind step"):
        scaler.update()
    scaler.unscale_(descent)
    with pytest.raises(RuntimeError, match="unscaled since the last"):
        scaler.unscale_(descent)

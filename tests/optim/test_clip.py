"""Gradient clipping, dense and row-sparse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lazyflow import optim
from lazyflow.errors import NonFiniteError
from lazyflow.ops.sparse import RowSparse
from tests.optim.fake import FakeParameter, random_rows, rows


def parameters(dtype: Any = np.float64) -> list[FakeParameter]:
    rng = np.random.default_rng(1)
    made = [FakeParameter(np.zeros(shape, dtype)) for shape in ((3, 4), (5,), (), (6, 2), (2,))]
    for p in made[:3]:
        p.grad = rng.standard_normal(p.array.shape).astype(dtype) if p.array.shape else np.array(0.7, dtype)
    made[3].grad = random_rows(rng, (6, 2), 3, dtype)
    return made  # the last has no gradient


def dense(p: FakeParameter) -> Any:
    return p.grad.to_dense() if isinstance(p.grad, RowSparse) else p.grad


def flat(params: list[FakeParameter]) -> Any:
    return np.concatenate([np.ravel(dense(p)) for p in params if p.grad is not None])


@pytest.mark.parametrize("order", [1.0, 2.0, 3.5, math.inf])
def test_the_norm_is_that_of_one_long_vector(order: float) -> None:
    expected = np.linalg.norm(flat(parameters()), order)
    assert optim.grad_norm(parameters(), norm_type=order) == pytest.approx(expected, rel=1e-12)


def test_no_gradients_have_norm_zero() -> None:
    assert optim.grad_norm([FakeParameter(np.zeros(3))]) == 0.0
    assert optim.clip_grad_norm([FakeParameter(np.zeros(3))], 1.0) == 0.0
    empty = FakeParameter(np.zeros((3, 2)))
    empty.grad = rows([], np.zeros((0, 2)), (3, 2))
    assert optim.grad_norm([empty]) == optim.grad_norm([empty], norm_type=math.inf) == 0.0


@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("limit", [0.0, 0.5, 1e3])
def test_clipping_by_norm(order: float, limit: float) -> None:
    params, before = parameters(), flat(parameters())
    norm = optim.clip_grad_norm(params, limit, norm_type=order)
    assert norm == pytest.approx(np.linalg.norm(before, order))
    np.testing.assert_allclose(flat(params), before * min(1.0, limit / (norm + 1e-6)), rtol=1e-12, atol=0)
    assert isinstance(params[3].grad, RowSparse) and params[4].grad is None


@pytest.mark.peer
def test_clipping_by_norm_gives_pytorchs_numbers() -> None:
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    params = parameters(np.float32)
    theirs = [torch.zeros(p.array.shape, requires_grad=True) for p in params]
    for p, t in zip(params, theirs, strict=True):
        t.grad = None if p.grad is None else torch.tensor(dense(p).copy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, 0.8)
    assert optim.clip_grad_norm(params, 0.8) == pytest.approx(float(expected), rel=1e-6)
    for p, t in zip(params, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_allclose(dense(p), t.grad.numpy(), rtol=1e-5)


def test_clipping_by_value() -> None:
    params, before = parameters(), flat(parameters())
    optim.clip_grad_value(params, 0.4)
    np.testing.assert_array_equal(flat(params), np.clip(before, -0.4, 0.4))


def test_a_gradient_is_scaled_in_place_unless_its_memory_is_shared() -> None:
    owned, broadcast = FakeParameter(np.zeros(4)), FakeParameter(np.zeros((3, 4)))
    owned.grad, broadcast.grad = np.ones(4), np.broadcast_to(np.ones(4), (3, 4))
    memory, view = owned.grad, broadcast.grad
    optim.clip_grad_norm([owned, broadcast], 1.0)
    assert owned.grad is memory
    np.testing.assert_array_equal(view, 1.0)
    np.testing.assert_allclose(broadcast.grad, 0.25, rtol=1e-6)
    optim.clip_grad_value([broadcast], 0.1)
    np.testing.assert_array_equal(broadcast.grad, 0.1)


def test_float16_gradients_do_not_overflow() -> None:
    p = FakeParameter(np.zeros(4, np.float16))
    p.grad = np.full(4, 300.0, np.float16)
    assert optim.clip_grad_norm(p, 1.0) == 600.0  # type: ignore[arg-type]
    assert p.grad.dtype == np.float16
    np.testing.assert_allclose(p.grad, 0.5, rtol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, "1", None])
def test_a_limit_must_be_a_number(bad: Any) -> None:
    for clip in (optim.clip_grad_norm, optim.clip_grad_value):
        with pytest.raises(ValueError, match="must be a finite number, at least 0; got"):
            clip(parameters(), bad)


@pytest.mark.parametrize("order", [0.0, -1.0, float("nan")])
def test_an_order_must_be_above_zero(order: float) -> None:
    with pytest.raises(ValueError, match="norm_type must be above 0"):
        optim.clip_grad_norm(parameters(), 1.0, norm_type=order)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    params = parameters()
    params[1].grad[2] = bad
    before = flat(params).copy()
    with pytest.raises(NonFiniteError, match=r"the norm of the gradients is .*; the gradients were not changed"):
        optim.clip_grad_norm(params, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(flat(params), before)
    with np.errstate(invalid="ignore"):
        assert not math.isfinite(optim.clip_grad_norm(params, 1.0))
    assert np.isnan(params[1].grad[2])


# On a device.

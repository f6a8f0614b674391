"""The norm of gradients on a device: two launches, nobody waits, and the numbers of the CPU."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import optim
from lazyflow.errors import NonFiniteError
from lazyflow.ops.sparse import RowSparse
from tests import simcupy
from tests.optim.fake import FakeParameter


def dense(p: FakeParameter) -> Any:
    return p.grad.to_dense() if isinstance(p.grad, RowSparse) else p.grad


def on_a_device(dtype: Any, scale: float = 1.0) -> tuple[list[Any], list[Any]]:
    """Parameters with the same gradients on the CPU and on a device, one of them row-sparse, one without any."""
    rng = np.random.default_rng(4)
    found: tuple[list[Any], list[Any]] = [], []
    for shape in ((300, 7), (5,), (), (0, 3), (6, 2), (2,)):
        gradient = np.asarray(scale * rng.standard_normal(shape)).astype(dtype)
        for place, some in zip(("cpu", "cuda:0"), found, strict=True):
            with lf.using(device=place):
                some.append(lf.Parameter(np.zeros(shape, dtype)))
                if shape == (6, 2):
                    index = devices.to_device(np.array([1, 4]), place)
                    some[-1].grad = RowSparse(index, devices.copied(gradient[:2], place), shape)
                elif shape != (2,):
                    some[-1].grad = devices.copied(gradient, place)
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limit", [0.0, 0.3, 1e4])
def test_on_a_device_nobody_waits(dtype: Any, limit: float) -> None:
    here, there = on_a_device(dtype)
    optim.clip_grad_norm(on_a_device(dtype)[1], limit)  # by which time all that is made once is made
    if sys.modules.get("cupy") is simcupy.namespace.CUPY:
        with simcupy.counting() as seen:
            norm = optim.clip_grad_norm(there, limit)
        assert (seen.launches, seen.h2d, seen.d2h, seen.syncs) == (2, 1, 0, 0), seen.table()
    else:
        norm = optim.clip_grad_norm(there, limit)
    expected = optim.clip_grad_norm(here, limit)
    assert norm == pytest.approx(expected, rel=1e-6) and math.isfinite(norm)
    assert f"{norm:.3f}" == f"{expected:.3f}" and norm + 1 > 1 and 2 * norm == norm * 2 and not norm < 0
    for a, b in zip(here, there, strict=True):
        assert type(a.grad) is not RowSparse or type(b.grad) is RowSparse
        if a.grad is not None:
            np.testing.assert_allclose(devices.to_host(dense(b)), dense(a), rtol=1e-5, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_on_a_device_a_norm_that_is_not_finite(bad: float) -> None:
    here, there = on_a_device(np.float32)
    for some in (here, there):
        some[0].grad[3, 2] = bad
    with pytest.raises(NonFiniteError):
        optim.clip_grad_norm(there, 1.0, error_if_nonfinite=True)
    with np.errstate(invalid="ignore"):
        expected, norm = optim.clip_grad_norm(here, 1.0), optim.clip_grad_norm(there, 1.0)
    assert repr(norm) == repr(expected)
    for a, b in zip(here[:3], there, strict=False):
        np.testing.assert_array_equal(devices.to_host(b.grad), a.grad)


@pytest.mark.gpu
def test_on_a_device_two_parameters_with_one_gradient() -> None:
    there = on_a_device(np.float32)[1]
    there[1].grad = there[0].grad[0, :5]
    norm = np.sqrt(sum((devices.to_host(dense(p)).astype(float) ** 2).sum() for p in there if p.grad is not None))
    assert optim.clip_grad_norm(there, 1e9) == pytest.approx(norm, rel=1e-5)

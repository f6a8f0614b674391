"""Tests that need a GPU are skipped where there is none, and say what is missing."""

import hypothesis
import numpy as np
import pytest

import lazyflow as lf
from lazyflow import arena, device
from lazyflow.errors import DeviceError

# No test may fail because a machine is busy.
hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no clock")


def missing_gpu():
    try:
        device.canonical("cuda:0")
    except DeviceError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh memory holds NaN: whoever reads what nobody wrote gets caught."""
    take = arena.Pool.take

    def poisoned(pool, where, dtype, size):
        buffer = take(pool, where, dtype, size)
        if where == "cpu":  # the simulator's memory is like that by itself, and a fill would be counted
            buffer.fill(np.nan if dtype.kind == "f" else 1)
        return buffer

    monkeypatch.setattr(arena.Pool, "take", poisoned)


@pytest.fixture(autouse=True)
def default_device(request):
    """With ``--device``, all that a test does not place itself is on that device."""
    if request.config.option.device == "cpu" or request.node.get_closest_marker("host"):
        yield
    else:
        with lf.using(device="cuda:0"):
            yield


def pytest_collection_modifyitems(config, items):
    reason = missing_gpu()
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))

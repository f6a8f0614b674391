"""Tests that need a GPU are skipped where there is none, and say what is missing."""

import zlib
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device
from lazyflow.errors import DeviceError
from lazyflow.plan import arena

# No test may fail because a machine is busy.
hypothesis.settings.register_profile("no clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no clock")

HERE = Path(__file__).parent
# What stays on the CPU, and why; single tests of other files are marked `host`.
HOST = {
    "benchmarks": "tools; those that mean a device are marked gpu",
    "cells/test_chains.py": "chains as the CPU fuses them",
    "cells/test_lifetimes.py": "memory of the CPU's kernels of cells",
    "cells/test_line.py": "lines of the compiled core, which is the CPU's",
    "cells/test_program.py": "how a body is cut, from types made by hand; it is run by cells/test_cell.py",
    "core": "the compiled core, which is the CPU's",
    "data": "text, files and batches of what a user has, before there are arrays",
    "examples": "programs as a user starts them, in processes of their own",
    "fuse": "fused kernels without any device; those of a GPU run as C++",
    "fuzz": "a tool, which chooses where it computes",
    "simcupy": "the simulator itself",
    "test_conventions.py": "text of the sources",
    "test_diagrams.py": "pictures of a program, as it runs on the CPU",
    "test_docs.py": "text, and programs as it stands there",
    "test_import_order.py": "text of the sources",
    "test_interrupts.py": "interrupts between lines of Python, and that the settings are the default ones behind them",
    "test_public_names.py": "names",
    "test_settings.py": "settings, from those that nobody has made: the device is one of them",
}


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
        ordinary = HERE in item.path.parents and not item.get_closest_marker("gpu")
        if ordinary and any((HERE / name) in (item.path, *item.path.parents) for name in HOST):
            item.add_marker(pytest.mark.host)
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
    if config.option.cases:
        left_out = thinned(items, config.option.cases)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def thinned(items, most):
    """The names of those that are left out, so that about ``most`` cases stay of each test. Of hypothesis, examples."""
    ordinary = [item for item in items if not item.get_closest_marker("gpu")]
    count = Counter(item.nodeid.partition("[")[0] for item in ordinary)
    for item in ordinary:
        found = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if found is not None and found.max_examples > most:  # there is no public way to settings that a test has
            fewer = hypothesis.settings(found, max_examples=most)
            item.obj._hypothesis_internal_use_settings = fewer
    return {
        item.nodeid
        for item in ordinary
        if zlib.crc32(item.nodeid.encode()) % -(-count[item.nodeid.partition("[")[0]] // most)
    }

"""What all tests share: which of them run on this machine, and how hypothesis draws."""

from __future__ import annotations

import hypothesis
import pytest

from lazyflow import device, errors

# The same examples in every run, and no deadline: a busy machine is no failure.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def why_no_gpu() -> str | None:
    """What is missing for the tests marked ``gpu``; None where they can run."""
    try:
        device.canonical("cuda:0")
    except errors.DeviceError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = why_no_gpu() if marked else None
    if reason is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))

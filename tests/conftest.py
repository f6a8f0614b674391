"""Tests that need a GPU are skipped where there is none, and say what is missing."""

import pytest

from lazyflow import device
from lazyflow.errors import DeviceError


def missing_gpu():
    try:
        device.canonical("cuda:0")
    except DeviceError as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(config, items):
    reason = missing_gpu()
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))

"""PyTorch and Ignite, or a visible skip."""

import warnings

import pytest


def ignite():
    """The modules ``torch`` and ``ignite``, whose import warns of what PyTorch deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason="compared with Ignite and PyTorch, not installed (extra 'peers')")
        found = pytest.importorskip("ignite", reason="compared with Ignite, which is not installed (extra 'peers')")
    return torch, found

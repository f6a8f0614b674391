"""The two forms of the passes over a graph: compiled, and by whole arrays."""

from contextlib import contextmanager

import pytest

from lazyflow import core, passes
from lazyflow.core import arrays

needs_core = pytest.mark.skipif(core.passes is None, reason="the core was not compiled")
FORMS = [pytest.param("core", marks=needs_core), "arrays"]


def form(name):
    """The module that has the passes of that name."""
    return {"core": core.passes, "arrays": arrays}[name]


@contextmanager
def planning(name):
    """Graphs are collected, scheduled and planned by one form in here."""
    before = {one: getattr(passes, one) for one in passes.NAMES}
    passes.use(form(name))
    try:
        yield
    finally:
        vars(passes).update(before)

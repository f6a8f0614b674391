"""A model that decides, and examples for it."""

import sys

import numpy as np
import pytest

import lazyflow as lf

maps = sys.modules["lazyflow.run.map"]
needs_fibers = pytest.mark.skipif(maps.greenlet is None, reason="greenlet is not installed")
XS = [np.random.default_rng(k).normal(size=3) * (k + 1) for k in range(8)]


def parameter(seed=0, *shape, name=""):
    return lf.Parameter(np.random.default_rng(seed).normal(size=shape), name=name)


def steps(w, x):
    """How often x is multiplied by w until it is small, and what it is then."""
    h, count = lf.constant(x), 0
    while lf.sum(h * h) > 0.1 and count < 30:
        h, count = lf.tanh(w @ h) * 0.7, count + 1
    return h, count

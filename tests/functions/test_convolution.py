"""Pooling: where the gradient of max pooling goes, and that a bin is its own."""

from itertools import product

import numpy as np
import pytest

import lazyflow as lf

FORMS = [
    {"kernel": (2, 2), "stride": 2},
    {"kernel": (3, 2), "stride": (2, 1)},
    {"kernel": (3, 3), "stride": 1, "padding": 1},
    {"kernel": (2, 2), "stride": 3},
    {"kernel": (2, 3), "stride": 1, "dilation": 2},
    {"kernel": (2, 2), "stride": 2, "ceil_mode": True},
]
VALUES = {
    "ties": lambda rng, shape: rng.integers(0, 2, shape),
    "all alike": lambda rng, shape: np.zeros(shape),
    "zeros of both signs": lambda rng, shape: rng.choice([0.0, -0.0], shape),
    "NaN": lambda rng, shape: rng.choice([np.nan, 1.0, 2.0], shape),
    "infinities": lambda rng, shape: rng.choice([np.inf, -np.inf, 1.0], shape),
}


def expected(x, g, kernel, stride, padding=0, dilation=1, ceil_mode=False):
    """One window after another."""
    stride, found = (stride, stride) if isinstance(stride, int) else stride, np.zeros_like(x)
    for channel, i, j in product(*map(range, g.shape)):
        cells = [
            (i * stride[0] + a * dilation - padding, j * stride[1] + b * dilation - padding)
            for a, b in product(*map(range, kernel))
        ]
        inside = [(r, c) for r, c in cells if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]]
        values = [x[channel, r, c] for r, c in inside]
        place = next((k for k, v in enumerate(values) if v != v), None)
        best = inside[values.index(max(values)) if place is None else place]
        found[channel][best] += g[channel, i, j]
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("values", VALUES)
def test_the_first_of_the_largest_gets_it(form, values):
    rng = np.random.default_rng(3)
    x = VALUES[values](rng, (2, 7, 6)).astype(np.float64)
    if values == "infinities" and form.get("padding"):
        x = np.where(np.isneginf(x), -1e300, x)  # beside padding, which is as small
    w = lf.Parameter(x)
    y = lf.max_pool(w, **form)
    g = rng.integers(1, 5, y.shape).astype(np.float64)
    y.backward(g)
    np.testing.assert_array_equal(w.grad, expected(x, g, **form))


def test_a_cotangent_that_is_infinite_goes_nowhere_else():
    w = lf.Parameter([[[1.0, 2.0], [3.0, 4.0]]])
    lf.max_pool(w, kernel=(2, 2), stride=2).backward(np.full((1, 1, 1), np.inf))
    np.testing.assert_array_equal(w.grad, [[[0, 0], [0, np.inf]]])


def test_a_bin_of_an_adaptive_pool_does_not_see_what_is_infinite_in_another():
    x = lf.Parameter(np.array([[np.inf, 1.0, 2.0, 3.0], [4.0, np.nan, 5.0, 6.0]], np.float32))
    y = lf.adaptive_avg_pool(x, (2, 3))
    np.testing.assert_array_equal(y.numpy(), [[np.inf, 1.5, 2.5], [np.nan, np.nan, 5.5]])
    y.backward(np.array([[np.inf, 1.0, 2.0], [0.0, 0.0, 4.0]], np.float32))
    np.testing.assert_array_equal(x.grad, [[np.inf, np.inf, 1.5, 1.0], [0.0, 0.0, 2.0, 2.0]])

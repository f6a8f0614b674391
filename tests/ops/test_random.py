"""Random numbers: the same for every batching, and distributed as they say (fixed seeds, bounds of five errors)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.ops import random
from lazyflow.ops.base import OPS, Aval

PARAMS = {
    "uniform": (-1.0, 3.0),
    "normal": (2.0, 0.5),
    "gumbel": (1.0, 0.5),
    "bernoulli": (0.3,),
    "dropout_mask": (0.3,),
}
DTYPES = ("float16", "float32", "float64")
CLOSE = {"float16": 1e-2, "float32": 5e-6, "float64": 1e-12}


def draw(
    op: str, seed: Any, counter: Any, *params: Any, shape: Any = (50,), dtype: str = "float32", out: Any = None
) -> Any:
    scalars = (Aval((), np.dtype(np.int64)),) * 2 + (Aval((), np.dtype(np.float64)),) * len(params)
    result = OPS[op].infer(*scalars, shape=shape, dtype=dtype)
    return OPS[op].forward(np, np.asarray(seed), np.asarray(counter), *params, out=out, **result.static)


@pytest.mark.parametrize("op", PARAMS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    nodes=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40)), min_size=1, max_size=9),
    size=st.integers(0, 40),
    block=st.sampled_from([1, 16, 64, random.DRAWN_AT_ONCE]),
)
def test_a_row_depends_on_its_seed_and_counter_alone(
    op: str, dtype: str, nodes: list[tuple[int, int]], size: int, block: int
) -> None:
    seed, counter = np.array(nodes, np.int64).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "DRAWN_AT_ONCE", block)
        together = draw(op, seed, counter, *PARAMS[op], shape=(size,), dtype=dtype)
    assert together.shape == (len(nodes), size) and together.dtype == dtype
    tolerance = (
        CLOSE[dtype] if op in ("normal", "gumbel") else 0
    )  # the last bit of a cosine may depend on its place in a vector
    for row, (s, c) in enumerate(nodes):
        alone = draw(op, s, c, *PARAMS[op], shape=(size,), dtype=dtype)
        longer = draw(op, [s], [c], *PARAMS[op], shape=(size + 3,), dtype=dtype)[0, :size]
        np.testing.assert_allclose(together[row].astype(float), alone.astype(float), rtol=0, atol=tolerance)
        np.testing.assert_allclose(together[row].astype(float), longer.astype(float), rtol=0, atol=tolerance)


@pytest.mark.parametrize("op", PARAMS)
def test_parameters_may_differ_between_rows(op: str) -> None:
    columns = [np.linspace(p, p + 0.5, 4).reshape(4, 1, 1) for p in PARAMS[op]]
    together = draw(op, np.arange(4), 5, *columns, shape=(3, 2))
    for row in range(4):
        alone = draw(op, row, 5, *(float(c[row, 0, 0]) for c in columns), shape=(3, 2))
        np.testing.assert_allclose(together[row], alone, atol=1e-6)


@pytest.mark.parametrize("op", PARAMS)
def test_the_answer_is_written_to_rows_that_stand_apart(op: str) -> None:
    memory = np.full((4, 9), -7, np.float32)
    out = memory[:, :6].reshape(4, 2, 3)
    place = np.lib.stride_tricks.as_strided(memory, (4, 2, 3), (36, 12, 4))
    got = draw(op, np.arange(4), 1, *PARAMS[op], shape=(2, 3), out=place)
    assert got is place and (memory[:, 6:] == -7).all()
    assert (got == draw(op, np.arange(4), 1, *PARAMS[op], shape=(2, 3))).all() and out.shape == got.shape


def within(values: Any, mean: float, variance: float) -> None:
    """The mean of independent values is within five standard errors of what it should be."""
    assert abs(values.astype(float).mean() - mean) < 5 * math.sqrt(variance / values.size)


def kolmogorov_smirnov(values: Any, cumulative: Any) -> float:
    """The largest distance between the empirical and the true distribution function, times the root of the count."""
    values = np.sort(values.ravel().astype(np.float64))
    steps = np.arange(values.size + 1) / values.size
    exact = cumulative(values)
    return math.sqrt(values.size) * max((steps[1:] - exact).max(), (exact - steps[:-1]).max())


def normal_cdf(z: Any) -> Any:
    return np.array([0.5 + 0.5 * math.erf(v / math.sqrt(2)) for v in z])


# A Kolmogorov-Smirnov statistic exceeds 2.2 once in 8,000 draws.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform(dtype: str) -> None:
    u = draw("uniform", 3, np.arange(400), 0.0, 1.0, dtype=dtype)
    assert u.min() >= 0 and u.max() < 1
    within(u, 1 / 2, 1 / 12)
    within(u.astype(float) ** 2, 1 / 3, 4 / 45)
    assert kolmogorov_smirnov(u, lambda v: v) < 2.2
    shifted = draw("uniform", 3, np.arange(400), -1.0, 3.0, dtype=dtype)
    np.testing.assert_allclose(shifted, -1 + 4 * u.astype(float), atol=1e-6)


def test_half_precision_stays_below_one() -> None:
    u = draw("uniform", 3, np.arange(400), 0.0, 1.0, dtype="float16")
    assert u.min() >= 0 and u.max() < 1
    within(u, 1 / 2 - 2**-12, 1 / 12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal(dtype: str) -> None:
    z = draw("normal", 4, np.arange(400), 0.0, 1.0, dtype=dtype).astype(float)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        within(z**power, mean, variance)
    assert kolmogorov_smirnov(z, normal_cdf) < 2.2
    within(z[:, 0::2] * z[:, 1::2], 0, 1)
    within(z[:, 0::2] ** 2 * z[:, 1::2] ** 2, 1, 8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gumbel(dtype: str) -> None:
    z = draw("gumbel", 4, np.arange(400), 0.0, 1.0, dtype=dtype).astype(float)
    within(z, np.euler_gamma, math.pi**2 / 6)
    assert kolmogorov_smirnov(z, lambda v: np.exp(-np.exp(-v))) < 2.2


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.3, 0.5, 1.0])
def test_bernoulli_and_dropout(p: float) -> None:
    hits = draw("bernoulli", 5, np.arange(400), p)
    assert set(np.unique(hits)) <= {0.0, 1.0}
    assert abs(hits.mean() - p) <= 5 * math.sqrt(p * (1 - p) / hits.size)
    mask = draw("dropout_mask", 5, np.arange(400), p)
    assert set(np.unique(mask)) <= {0.0, np.float32(1 / (1 - p) if p < 1 else 0)}
    assert abs((mask == 0).mean() - p) <= 5 * math.sqrt(p * (1 - p) / mask.size)


def correlation(a: Any, b: Any) -> float:
    """Of two equally long samples, in standard errors."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * math.sqrt(a.size)


@pytest.mark.parametrize("step", [1, 2, 3, 64, 2**32])
def test_neighbours_are_independent(step: int) -> None:
    """Rows of neighbouring counters and seeds, and elements of one row, are uncorrelated."""
    counters = np.arange(300)
    u = draw("uniform", 6, counters, 0.0, 1.0, shape=(64,), dtype="float64")
    later = draw("uniform", 6, counters + step, 0.0, 1.0, shape=(64,), dtype="float64")
    other = draw("uniform", 6 + step, counters, 0.0, 1.0, shape=(64,), dtype="float64")
    assert abs(correlation(u, later)) < 5 and abs(correlation(u, other)) < 5
    assert abs(correlation(u[:, :-3], u[:, 3:])) < 5
    swapped = draw("uniform", counters + step, 6, 0.0, 1.0, shape=(64,), dtype="float64")
    assert not (swapped[7:] == later[7:]).any(), "seed and counter must not be interchangeable"


def test_no_two_rows_are_equal() -> None:
    seeds, counters = (grid.ravel() for grid in np.meshgrid(np.arange(-50, 50), np.arange(100)))
    states = random.keys(seeds, counters)
    assert len(np.unique(states)) == seeds.size
    assert len(np.unique(random.words(states, 4))) == 4 * seeds.size


def test_each_bit_is_set_half_of_the_time() -> None:
    words = random.words(random.keys(np.full(200, 7), np.arange(200)), 50).ravel()
    for bit in range(64):
        within((words >> np.uint64(bit)) & np.uint64(1), 0.5, 0.25)


def test_the_seed_is_not_changed() -> None:
    seed = np.arange(3).astype(np.uint64)
    draw("uniform", seed, seed, 0.0, 1.0)
    assert seed.tolist() == [0, 1, 2]

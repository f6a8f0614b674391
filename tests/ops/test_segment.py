"""Segments of rows: dtypes, special values, and reductions that are those of one example."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops import OPS
from lazyflow.ops.base import looked_at
from lazyflow.ops.rows import OPS_OF_PARTS, PART_RULES
from lazyflow.ops.segment import BY_PARTS


def test_dtypes():
    segments = np.array([1, 1, 3])
    for dtype in ("float16", "float32", "float64"):
        x = lf.constant(np.array([1, 2, 4], dtype))
        for f, want in (
            (lf.segment_sum, [0, 3, 0, 4]),
            (lf.segment_mean, [0, 1.5, 0, 4]),
            (lf.segment_max, [-np.inf, 2, -np.inf, 4]),
        ):
            found = f(x, segments, 4)
            assert found.dtype == dtype and found.numpy().tolist() == want
        assert lf.segment_softmax(x, segments, 4).dtype == dtype
    whole = lf.constant(np.array([1, 2, 4]))
    assert lf.segment_sum(whole, segments, 4).numpy().tolist() == [0, 3, 0, 4]
    assert lf.segment_sum(whole > 1, segments, 4).numpy().tolist() == [0, 1, 0, 1]
    assert lf.segment_mean(whole, segments, 4).dtype == "float64"
    assert lf.segment_max(whole, segments, 4).numpy()[0] == np.iinfo(whole.dtype).min
    assert lf.segment_softmax([0, 0, 1], segments, 4).dtype == "float32"
    assert lf.segment_sum(whole > 0, segments, 4).numpy().tolist() == [0, 2, 0, 1], "truth values are counted"
    many = np.ones(5000, np.float16)
    assert lf.segment_sum(many, np.zeros(5000, int), 1).numpy() == 5000, "added in float32"
    assert lf.segment_mean(many, np.zeros(5000, int), 1).numpy() == 1
    assert lf.segment_mean(np.ones(70_000, np.float16), np.zeros(70_000, int), 1).numpy() == 1, "more than there are"


HALVES = {
    "segment_softmax": lambda x: lf.segment_softmax(x, np.arange(x.shape[0]) // 9, 5),
    "softmax": lambda x: lf.softmax(x, axis=0),
    "log_softmax": lambda x: lf.log_softmax(x, axis=0),
}


@pytest.mark.host
@pytest.mark.parametrize("name", HALVES)
def test_half_precision_is_rounded_once(name):
    rows = [np.random.default_rng(n).normal(size=(n, 3)).astype(np.float16) for n in (40, 20, 33)]
    found = [HALVES[name](lf.constant(r)) for r in rows]
    lf.forward(found)
    for y, r in zip(found, rows, strict=True):
        wide = HALVES[name](lf.constant(r.astype(np.float64))).numpy()
        assert y.dtype == "float16"
        np.testing.assert_allclose(y.numpy(), wide, rtol=2.0**-11 * 1.01, atol=1e-7)


@pytest.mark.parametrize("sizes", [[4], [4, 4], [4, 2, 3]], ids=str)
def test_special_values_stay_in_their_segment(sizes):
    """Of one graph, of several of one size and of several: NaN and infinities, and the gradients beside them."""
    rows = np.array([[np.nan, 1], [np.inf, 2], [-np.inf, 3], [5, 4.0]])
    segments = np.array([0, 1, 2, 3])
    tables = [lf.Parameter(rows[:n]) for n in sizes]
    with np.errstate(all="ignore"):
        for f in (lf.segment_sum, lf.segment_mean, lf.segment_max):
            found = [f(t * 1.0, segments[:n], 5) for t, n in zip(tables, sizes, strict=True)]
            lf.forward(found)
            for y, n in zip(found, sizes, strict=True):
                np.testing.assert_array_equal(y.numpy()[:n], rows[:n])
        weights = [lf.segment_softmax(t * 1.0, segments[:n], 5) for t, n in zip(tables, sizes, strict=True)]
        shown = [lf.where(np.isfinite(rows[:n]), w * 2.0, 0.0) for w, n in zip(weights, sizes, strict=True)]
        lf.sum([lf.sum(s) for s in shown]).backward()
    for t, w, n in zip(tables, weights, sizes, strict=True):
        np.testing.assert_array_equal(np.isnan(w.numpy()), ~np.isfinite(rows[:n]))
        np.testing.assert_array_equal(t.grad, np.zeros((n, 2)))


ALONG_ROWS = {
    "softmax": lambda x: lf.softmax(x, axis=0),
    "log_softmax": lambda x: lf.log_softmax(x, axis=0),
    "max": lambda x: lf.max(x, axis=0),
    "min": lambda x: lf.min(x, axis=0),
    "sum": lambda x: lf.sum(x, axis=0),
    "mean": lambda x: lf.mean(x, axis=0),
}
FLOATING = ("float16", "float32", "float64")
REDUCED = [
    (name, dtype)
    for name in ALONG_ROWS
    for dtype in (FLOATING if "softmax" in name else (*FLOATING, "int64", "uint8", "bool"))
]


@pytest.mark.host
@pytest.mark.parametrize(("name", "dtype"), REDUCED)
def test_reductions_of_rows_are_those_of_one_example(name, dtype):
    """With NaN, infinities and ties: values, dtypes, and gradients, which are zero where nobody asks."""
    rng = np.random.default_rng(6)
    kinds = [-np.inf, np.inf, np.nan, 1.0, -2.0, 0.0] if dtype[0] == "f" else [0, 1, 2]
    arrays = [rng.choice(kinds, (n, 5), p=None).astype(dtype) for n in (1, 2, 4, 3, 6, 2)]
    arrays += [np.full((n, 5), kinds[0], dtype) for n in (2, 3)]

    def run(batching):
        with lf.using(batching=batching), np.errstate(all="ignore"):
            given = [lf.Parameter(a) if dtype[0] == "f" else lf.constant(a) for a in arrays]
            found = [ALONG_ROWS[name](x if dtype[0] != "f" else x * 1.0) for x in given]
            lf.forward(found)  # together
            if dtype[0] == "f":
                lf.sum([lf.sum(lf.where(lf.isfinite(y), y, 0.0)) for y in found]).backward()
            return [y.numpy() for y in found], [x.grad for x in given if dtype[0] == "f"]

    tolerance = {"float16": 2e-3, "float32": 1e-6}.get(dtype, 1e-12)
    (found, slopes), (expected, right) = run("phases"), run("none")
    for a, b in zip([*found, *slopes], [*expected, *right], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_rules_are_of_operations():
    assert set(PART_RULES) == set(OPS_OF_PARTS) <= set(OPS)


@pytest.mark.parametrize("name", ["concatenate", "concatenate_rows", "concatenate_same", "stack", "stack_rows"])
def test_backward_of_values_end_to_end_gathers_no_values(name):
    assert looked_at(BY_PARTS[name].vjps[0], 1) == frozenset()

"""Losses of several rows are those of each."""

import numpy as np
import pytest

import lazyflow as lf

RNG = np.random.default_rng(5)


M = RNG.permutation(np.linspace(-2.0, 2.0, 24)).reshape(2, 3, 4)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_hinge_of_rows(reduction):
    rows, classes = M[0], [1, 0, 3]
    each = [lf.hinge(lf.constant(row), k, 0.5).item() for row, k in zip(rows, classes, strict=True)]
    want = {"mean": np.mean, "sum": np.sum, "none": np.array}[reduction](each)
    np.testing.assert_allclose(lf.hinge(lf.constant(rows), classes, 0.5, reduction).numpy(), want)
    with pytest.raises(ValueError, match="reduction must be one of"):
        lf.hinge(lf.constant(rows), classes, reduction="max")

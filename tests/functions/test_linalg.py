"""Products that are made of several operations, against their sums."""

import numpy as np
import pytest

import lazyflow as lf

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(("f", "sign"), [(lf.circular_convolution, -1), (lf.circular_correlation, 1)])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_circular_products(f, sign, n):
    u, v = RNG.normal(size=(2, n))
    want = [sum(u[j] * v[(i + sign * j) % n] for j in range(n)) for i in range(n)]
    np.testing.assert_allclose(f(lf.constant(u), lf.constant(v)).numpy(), want)
    lf.check_grads(f, argnum=(0, 1), order=2)(u, v)
    with pytest.raises(lf.ShapeError, match="two vectors of one size"):
        f(u, v[1:])
    with pytest.raises(lf.ShapeError, match="two vectors of one size"):
        f(u[None], v[None])

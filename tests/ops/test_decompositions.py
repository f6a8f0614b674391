"""Determinants of matrices that are singular, or whose minors differ in size."""

from fractions import Fraction

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_small_cofactors_of_a_determinant_are_as_exact_as_large_ones(n):
    """By singular values they were exact to the digits of the largest: 557 in the last place of a small one."""
    a = np.random.default_rng(n).integers(-9, 10, (n, n)) / 8.0  # whose minors are exact
    a[0] *= 2.0**-20
    p = lf.Parameter(a)
    lf.det(p).backward()
    every = np.arange(n)

    def minor(i, j):
        block = a[np.ix_(every != i, every != j)].tolist()
        return (-1) ** (i + j) * exact_det([[Fraction(x) for x in row] for row in block])

    want = np.array([[float(minor(i, j)) for j in every] for i in every])
    assert (abs(to_host(p.grad) - want) <= 1e-13 * abs(want).max(axis=1, keepdims=True)).all()


def exact_det(rows):
    if not rows:
        return Fraction(1)
    rest = [[row[:j] + row[j + 1 :] for row in rows[1:]] for j in range(len(rows))]
    return sum((-1) ** j * rows[0][j] * exact_det(block) for j, block in enumerate(rest))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("rank", [0, 1, -2, -1, None])
def test_determinants_of_singular_matrices(n, rank):
    """Values and cofactors, beside the determinants of the minors."""
    rng = np.random.default_rng(n)
    rank = n if rank is None else max(0, n + rank) if rank < 0 else min(rank, n)
    a = rng.integers(-3, 4, (n, rank)).astype(float) @ rng.integers(-3, 4, (rank, n)).astype(float)
    p = lf.Parameter(a)
    lf.det(p).backward()
    minors = [[np.delete(np.delete(a, i, 0), j, 1) for j in range(n)] for i in range(n)]
    want = [[(-1) ** (i + j) * np.linalg.det(m) for j, m in enumerate(row)] for i, row in enumerate(minors)]
    np.testing.assert_allclose(p.grad, want, rtol=1e-9, atol=1e-9 * max(1.0, abs(a).max()) ** n)
    if n <= 4:
        np.testing.assert_allclose(lf.gradients(lf.det(p), [p])[0].numpy(), want, rtol=1e-9, atol=1e-9)

"""Products that are made of several operations, against their sums, and summations over axes of size one."""

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


# An axis of size one goes with any size of its letter: subscripts, and the operands' shapes.
BROADCAST = (
    ("ij,j->i", (2, 3), (1,)), ("ij,j->i", (2, 1), (3,)), ("ij,j", (2, 1), (3,)), ("ij,ij->ij", (1, 3), (2, 1)),
    ("ij,ij->", (1, 3), (2, 3)), ("i,i->i", (1,), (3,)), ("i,i", (3,), (1,)), ("ij,jk->ki", (2, 3), (1, 4)),
    ("ii,i->i", (1, 1), (3,)), ("ii,ij->j", (3, 3), (1, 2)), ("ij,k->ik", (1, 3), (1,)), ("i,i->i", (1,), (1,)),
)  # fmt: skip


@pytest.mark.parametrize(("subscripts", "left", "right"), BROADCAST)
def test_einsum_broadcasts_axes_of_size_one(subscripts, left, right):
    a, b = RNG.normal(size=left), RNG.normal(size=right)
    value = lf.einsum(subscripts, lf.constant(a), lf.constant(b)).numpy()
    np.testing.assert_allclose(value, np.einsum(subscripts, a, b), rtol=1e-12, strict=True)
    lf.check_grads(lambda a, b: lf.einsum(subscripts, a, b), argnum=(0, 1), order=2)(a, b)


@pytest.mark.parametrize("shapes", [((2, 2), (3, 2)), ((1, 2), (2, 3)), ((1, 3), (0, 2))])
def test_einsum_of_other_sizes_is_refused(shapes):
    with pytest.raises(lf.ShapeError, match="long"):
        lf.einsum("ij,ij->j", *(lf.constant(np.ones(s)) for s in shapes))

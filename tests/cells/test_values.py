"""What is kept of calls: matrices that do not meet, weights that follow their parameters, views of what is shared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.cells.values import Slabs

N = 4


def test_merged_weights_follow_their_parameters():
    first, second = lf.Parameter(np.eye(N)), lf.Parameter(np.eye(N))

    @lf.cell
    def step(x):
        return (first @ x) * (second @ x)

    for factor in (1.0, 2.0, 3.0):
        first.assign(np.eye(N) * factor)
        np.testing.assert_allclose(step(lf.constant(np.ones(N))).numpy(), factor)
    second.data[...] = 0
    np.testing.assert_allclose(step(lf.constant(np.ones(N))).numpy(), 0)
    second.data = np.eye(N) * 5
    np.testing.assert_allclose(step(lf.constant(np.ones(N))).numpy(), 15)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["float32", "float64"])), max_size=6))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_matrices_do_not_overlap(shapes):
    slabs = Slabs("cpu")
    found = slabs.matrices([(rows, columns, np.dtype(dtype)) for rows, columns, dtype in shapes])
    for k, matrix in enumerate(found):
        matrix[...] = k
    assert [m.shape for m in found] == [shape[:2] for shape in shapes]
    assert all((matrix == k).all() for k, matrix in enumerate(found))


needs_core = pytest.mark.skipif(core.machine is None, reason="needs the compiled core")


@pytest.mark.parametrize("fuse", ["off", "numpy", pytest.param("core", marks=needs_core)])
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_of_a_vjp_in_a_cell_may_be_any_view(fuse, axis):
    """That of a stack along the last axis has strides, which the compiled core refused."""
    b = lf.Parameter(np.arange(2.0))

    @lf.cell
    def stacked(x):
        return lf.stack([lf.softmax(x), x * 2, x], axis=axis)

    with lf.using(fuse=fuse):
        weights = np.arange(6.0).reshape((3, 2) if axis == 0 else (2, 3))
        lf.sum(stacked(b * 1.0) * weights).backward()
        cell, b.grad = b.grad, None
        lf.sum(lf.stack([lf.softmax(b), b * 2, b * 1.0], axis=axis) * weights).backward()
    np.testing.assert_allclose(cell, b.grad, rtol=1e-14)


VIEWS_OF_PARAMETERS = {
    "a diagonal": (lambda w: lf.diagonal(w), np.diagonal),
    "a diagonal of a value": (lambda w: lf.diagonal(w * 2), lambda w: 2 * np.diagonal(w)),
    "a column": (lambda w: w[:, 1], lambda w: w[:, 1]),
    "every second of a column": (lambda w: (w * 2)[::2, 1], lambda w: 2 * w[::2, 1]),
    "a row backwards": (lambda w: w[2][::-1], lambda w: w[2][::-1]),
    "flipped": (lambda w: lf.flip(w[0] * 1, 0), lambda w: w[0, ::-1]),
    "transposed": (lambda w: w.T, lambda w: w.T),
    "broadcast": (lambda w: lf.broadcast_to(w[0], (3, 4)), lambda w: np.broadcast_to(w[0], (3, 4))),
    "a window": (lambda w: lf.windows(w[0], (2,))[0], lambda w: w[0, :3]),
}


@pytest.mark.parametrize("fuse", ["auto", "numpy", "off"])
@pytest.mark.parametrize("view", VIEWS_OF_PARAMETERS)
def test_a_kernel_reads_a_view_of_a_parameter(view, fuse):
    lazy, eager = VIEWS_OF_PARAMETERS[view]
    w = lf.Parameter(np.arange(16.0).reshape(4, 4) + 1)
    part = eager(w.numpy())
    given = [np.arange(part.size).reshape(part.shape) + 0.5, np.full(part.shape, 3.0)]
    cell = lf.cell(lambda x: lazy(w) * x + lf.tanh(lazy(w)))
    with lf.using(fuse=fuse):
        values = [cell(lf.constant(x)) for x in given]
        lf.sum([lf.sum(v) for v in values]).backward()
        for v, x in zip(values, given, strict=True):
            np.testing.assert_allclose(v.numpy(), part * x + np.tanh(part), rtol=1e-14)
    gradient = w.grad
    w.grad = None
    lf.sum([lf.sum(lazy(w) * x + lf.tanh(lazy(w))) for x in given]).backward()
    np.testing.assert_allclose(gradient, w.grad, rtol=1e-14)

"""Nothing at all: empty values, products of no rows, cells with nothing in them; and too much: views beyond 2**31
elements.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core, passes
from lazyflow.fuse import blocks, machine
from lazyflow.fuse.scalar import ARG_BLOCK, Builder

PRINTERS = [
    blocks.numpy_function,
    pytest.param(
        machine.core_function, marks=pytest.mark.skipif(core.machine is None, reason="the core was not compiled")
    ),
]
SIZES = (0, 1, 3)


def gradients(function: Callable[..., lf.Expr], arrays: list[Any]) -> tuple[Any, list[Any]]:
    """The sum of a function of parameters over three calls, and the gradients."""
    parameters = [lf.Parameter(a) for a in arrays]
    root = lf.sum([lf.sum(function(*parameters[:-1], parameters[-1] * float(k))) for k in range(1, 4)])
    root.backward()
    return root.numpy(), [p.grad for p in parameters]


def values(*shape: int) -> Any:
    return np.linspace(-1.0, 2.0, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("in_a_cell", [False, True], ids=["plain", "cell"])
@pytest.mark.parametrize(("out", "inner", "rows"), [*itertools.product(SIZES, SIZES, (None, *SIZES))], ids=str)
def test_affine_of_any_size(out: int, inner: int, rows: int | None, in_a_cell: bool) -> None:
    W, b, x = values(out, inner), values(out), values(inner) if rows is None else values(rows, inner)
    found, grads = gradients(lf.cell(lf.affine) if in_a_cell else lf.affine, [W, b, x])
    count = 1 if rows is None else rows
    ones = np.ones((*x.shape[:-1], out))
    flat, columns = ones.reshape(count, out), x.reshape(count, inner)
    np.testing.assert_allclose(found, sum((k * x @ W.T + b).sum() for k in range(1, 4)), atol=1e-12)
    for grad, expected in zip(grads, [6 * flat.T @ columns, 3 * flat.sum(0), 6 * ones @ W], strict=True):
        np.testing.assert_allclose(grad, expected, atol=1e-12)
        assert grad.shape == expected.shape


@pytest.mark.parametrize("in_a_cell", [False, True], ids=["plain", "cell"])
@pytest.mark.parametrize(("rows", "inner", "columns"), [*itertools.product(SIZES, SIZES, (None, *SIZES))], ids=str)
def test_products_of_any_size(rows: int, inner: int, columns: int | None, in_a_cell: bool) -> None:
    a, b = values(rows, inner), values(inner) if columns is None else values(inner, columns)
    found, grads = gradients(lf.cell(lf.matmul) if in_a_cell else lf.matmul, [a, b])
    ones = np.ones((a @ b).shape)
    np.testing.assert_allclose(found, 6 * (a @ b).sum(), atol=1e-12)
    pairs = (np.outer(ones, b) if columns is None else ones @ b.T), a.T @ ones
    for grad, expected in zip(grads, pairs, strict=True):
        np.testing.assert_allclose(grad, 6 * expected, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "body",
    [
        lambda h, x: h,
        lambda h, x: (h, x),
        lambda h, x: (h, h, h),
        lambda h, x: (h, lf.constant(np.ones(2))),
        lambda h, x: (h, x[:0]),
        lambda h, x: (h, lf.tanh(x[:0])),
        lambda h, x: (h[0:], lf.reshape(x, (-1, 1))),
        lambda h, x: (h * 1.0, lf.tanh(x) * 2.0)[0],
        lambda h, x: h.detach(),
        lambda h, x: (h.detach(), x),
        lambda h, x: (lf.tanh(h), lf.sum(x[:0])),
        lambda h, x: (lf.concatenate([h, x[:0]]), lf.stack([x, x])),
    ],
)
def test_cells_with_nothing_in_them(body: Callable[..., Any], size: int) -> None:
    def run(step: Callable[..., Any], used: int) -> tuple[Any, Any]:
        w = lf.Parameter(values(size))
        roots = []
        for length in (1, 2, 3):
            h = w * 2.0
            for k in range(length):
                results = step(h, w * float(k))
                results = results if isinstance(results, tuple) else (results,)
                h = results[0]
            roots += [lf.sum(results[used % len(results)])]
        root = lf.sum(roots)
        if root.requires_grad:
            root.backward()
        return root.numpy(), w.grad

    for used in range(3):
        found, expected = run(lf.cell(body), used), run(body, used)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(
            np.zeros(size) if found[1] is None else found[1],
            np.zeros(size) if expected[1] is None else expected[1],
            rtol=1e-12,
        )


def test_an_empty_product_beside_another_takes_nothing_of_its_memory() -> None:
    """Its rows have a slab of their own, without columns."""
    W, Z = lf.Parameter(values(3, 2)), lf.Parameter(np.ones((0, 2)))

    @lf.cell
    def step(x: lf.Expr) -> tuple[lf.Expr, lf.Expr, lf.Expr]:
        return lf.tanh(Z @ x), lf.tanh(x) * lf.sum(Z @ x), lf.tanh(W @ x)

    xs = [lf.constant(values(2)) * float(k) for k in range(5)]
    results = [step(x) for x in xs]
    lf.sum([lf.sum(a) + lf.sum(b) + lf.sum(c) for a, b, c in results]).backward()
    for k, (a, b, c) in enumerate(results):
        assert a.numpy().shape == (0,)
        np.testing.assert_array_equal(b.numpy(), np.zeros(2))
        np.testing.assert_allclose(c.numpy(), np.tanh(W.numpy() @ (k * values(2))))
    assert Z.grad.shape == (0, 2)


@pytest.mark.parametrize("printer", PRINTERS)
def test_a_kernel_that_stores_nothing(printer: Any) -> None:
    empty = Builder(3, np.dtype(np.float64)).kernel()
    printer(empty)(0, 4, 0)
    some = Builder(3, np.dtype(np.float64))
    some.load(ARG_BLOCK, ("slab", 0), 0, 3)
    printer(some.kernel())(0, 4, 0, np.ones((4, 3)))


# Too much. Nothing of it is ever computed: these are shapes.


def huge(*shape: int) -> lf.Expr:
    return lf.broadcast_to(lf.constant(np.zeros((1,) * len(shape), np.int8)), shape)


@pytest.mark.parametrize(
    "view",
    [
        lambda: huge(3, 2**30)[2],
        lambda: huge(2**33, 2)[2**31],
        lambda: huge(2**33, 2)[-3],
        lambda: huge(2**33, 2)[2**30 :],
        lambda: lf.split(huge(2, 2**32), 2),
        lambda: lf.split(huge(4, 2**30), 4),
        lambda: lf.embedding(huge(2**33, 2), 2**32),
        lambda: huge(2**33)[2**31],
    ],
)
def test_a_view_beyond_what_a_tape_holds_is_refused(view: Callable[[], Any]) -> None:
    before = lf.constant(np.ones(3)) * 2.0
    with pytest.raises(lf.ShapeError, match=r"reaches element \d+ of an array; a tape holds indices up to 2\*\*31 - 1"):
        view()
    np.testing.assert_array_equal((before + 1.0).numpy(), np.full(3, 3.0))


def test_views_of_views_may_reach_further() -> None:
    """The element that a chain of views reaches is added up in 64 bits."""
    part = huge(3, 2**30)[1][2**29 :][2**29 - 1 :]
    assert part.shape == (1,)
    ids, kinds = np.array([0, 1, 1], np.int32), np.array([passes.PLAIN_ROW, passes.VIEW_ROW], np.int32)
    operands, ints = np.array([0, 1]), np.array([2**31 - 1, 2**31 - 1], np.int32)
    starts = np.array([0, 0, 1, 2])
    nothing = np.empty(0, np.int64)
    columns = (ids, operands, ints, np.empty(0)), kinds, (starts, starts, np.zeros(4, np.int64))
    *_, shift = passes.collected(*columns, nothing, nothing, np.empty(0, bool), np.array([2]))
    assert shift.tolist() == [0, 2**31 - 1, 2**32 - 2]


@pytest.mark.parametrize("count", [1, 7])
def test_values_without_elements_lie_anywhere(count: int) -> None:
    """They take an element each, so that no two lie at one place; several are none, wherever the last of them ends."""
    x = lf.constant(np.arange(3.0))
    with lf.using(dedupe=False):
        found = [lf.stack([x[None, -1:3:-1], x[None, 3:]], axis=1) for _ in range(count)]
        assert lf.mean(found).numpy().shape == (1, 2, 0)
        assert lf.sum(lf.stack(found)).item() == 0

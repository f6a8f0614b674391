"""Products, shapes and indices beyond the common checks: memory layouts, random contractions, indices out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.ops import linalg
from lazyflow.ops.base import OPS, Aval
from lazyflow.ops.shape import EveryOperand
from tests.ops.cases_linalg import CASES
from tests.ops.harness import Case, Launch, close, draw, launch_of, rng_of

DENSE = [case for case in CASES if case.op != "lookup"]


def apart(array: Any) -> tuple[Any, Any]:
    """A copy whose rows stand three elements apart, and those gaps: as values stand in memory that they share."""
    if not array.ndim or not array.size:
        return array, np.zeros(0)
    rows, size = len(array), array[0].size
    memory = np.zeros((rows, size + 3), array.dtype)
    inner = np.ascontiguousarray(array).strides[1:]
    view = np.lib.stride_tricks.as_strided(memory, array.shape, (memory.strides[0], *inner))
    view[...] = array
    return view, memory[:, size:]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_operands_and_answers_may_stand_apart(case: Case) -> None:
    packed = launch_of(case, draw(case, 3))
    spread = packed.with_arrays([apart(a)[0] for a in packed.arrays])
    want = packed.forward()
    close(spread.forward(), want, case)
    out, gaps = apart(np.ones_like(want, order="C"))
    got = spread.op.forward(np, *spread.arrays, out=out, **spread.result.static)
    close(got, want, case)
    assert got is out or not np.shares_memory(got, out), "an answer that was written to out must be out"
    assert not gaps.any()


@pytest.mark.parametrize("case", DENSE, ids=lambda case: case.id)
def test_cotangents_may_stand_apart(case: Case) -> None:
    packed = launch_of(case, draw(case, 3))
    spread = packed.with_arrays([apart(a)[0] for a in packed.arrays])
    y = np.array(packed.forward())
    for operand in packed.differentiable():
        g = rng_of(case).standard_normal(y.shape).astype(y.dtype)
        close(spread.gradient(operand, apart(g)[0], y), packed.gradient(operand, g, y), case, scale=30.0)


WRITTEN = (
    "matmul",
    "affine",
    "outer",
    "take",
    "concatenate",
    "concatenate_same",
    "stack",
    "getitem",
    "one_hot",
    "pad",
)


@pytest.mark.parametrize("op", WRITTEN)
def test_the_answer_is_written_to_out(op: str) -> None:
    case = next(case for case in CASES if case.op == op)
    launch = launch_of(case, draw(case, 3), np, (True, False) if op == "take" else ())
    out = np.ones((3, *launch.result.shape), launch.result.dtype)
    assert launch.op.forward(np, *launch.arrays, out=out, **launch.result.static) is out
    close(out, launch.forward(), case)


def affine_launch(shared: tuple[bool, bool, bool], batch: int = 40) -> Launch:
    case = next(case for case in CASES if case.op == "affine")
    return launch_of(case, draw(case, batch), np, shared)


class Counting:
    """An array module that counts its products."""

    def __init__(self) -> None:
        self.products = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def matmul(self, a: Any, b: Any, out: Any = None) -> Any:
        assert a.ndim == b.ndim == 2
        self.products += 1
        return np.matmul(a, b, out=out)


def test_a_shared_weight_takes_one_product_in_each_direction() -> None:
    launch, xp = affine_launch((True, True, False)), Counting()
    y = launch.op.forward(xp, *launch.arrays, out=np.empty((40, 2)), **launch.result.static)
    for operand, want in ((0, 1), (2, 1)):
        xp.products = 0
        vjp = launch.op.vjps[operand]
        assert vjp is not None
        gradient = vjp(xp, np.ones_like(y), y, *launch.arrays, **launch.result.static)
        assert gradient.shape == launch.arrays[operand].shape and xp.products == want


@pytest.mark.parametrize("rows", [1, linalg.TALL - 1, linalg.TALL, 200])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_column_sums(rows: int, dtype: str) -> None:
    matrix = np.random.default_rng(21).integers(-3, 4, (rows, 5)).astype(dtype)
    assert (linalg.column_sums(np, matrix) == matrix.sum(0)).all() and linalg.column_sums(np, matrix).dtype == dtype


@st.composite
def contractions(draw: Any) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Subscripts of two operands, letters possibly twice in one of them, and their shapes."""
    sizes = dict(zip("abcdef", (2, 3, 1, 4, 2, 3), strict=True))
    left, right = ("".join(draw(st.lists(st.sampled_from("abcdef"), max_size=4))) for _ in range(2))
    letters = sorted(set(left + right))
    result = "".join(draw(st.permutations(letters)))[: draw(st.integers(0, len(letters)))]
    return f"{left},{right}->{result}", tuple(sizes[c] for c in left), tuple(sizes[c] for c in right)


@given(contractions(), st.sampled_from([(False, False), (True, False), (False, True), (True, True)]))
def test_einsum_is_that_of_numpy_and_its_gradient_that_of_its_linearity(
    contraction: tuple[str, tuple[int, ...], tuple[int, ...]], shared: tuple[bool, bool]
) -> None:
    subscripts, *shapes = contraction
    rng, op = np.random.default_rng(22), OPS["einsum"]
    arrays = [rng.standard_normal(s if alone else (3, *s)) for s, alone in zip(shapes, shared, strict=True)]
    static = op.infer(*(Aval(s, np.dtype(np.float64)) for s in shapes), subscripts=subscripts).static
    whole = [np.broadcast_to(a, (3, *s)) for a, s in zip(arrays, shapes, strict=True)]
    want = np.array([np.einsum(subscripts, whole[0][i], whole[1][i]) for i in range(3)])
    y = np.broadcast_to(op.forward(np, *arrays, **static), want.shape)
    np.testing.assert_allclose(y, want, atol=1e-12)
    g = rng.standard_normal(want.shape)
    for operand, vjp in enumerate(op.vjps):
        assert vjp is not None
        gradient = vjp(np, g, y, *arrays, **static)
        assert gradient.shape == arrays[operand].shape
        # A contraction is linear in each operand, so <g, f(x)> = <f*(g), x>.
        np.testing.assert_allclose((gradient * arrays[operand]).sum(), (g * want).sum(), atol=1e-9)


def test_equal_slices_have_equal_keys() -> None:
    x = Aval((5, 4), np.dtype(np.float32))
    keys = {
        OPS["getitem"].infer(x, key=key).static["key"]
        for key in (
            (slice(None), 1),
            (("slice", 0, 5, 1), -3),
            (Ellipsis, 1),
            (("slice", -5, 99, None), Ellipsis, 1),
        )
    }
    assert keys == {(("slice", 0, 5, 1), 1)}


def test_any_number_of_operands_has_gradients() -> None:
    op = OPS["concatenate"]
    assert isinstance(op.vjps, EveryOperand)
    arrays = [np.full((2, 1 + i % 3), float(i)) for i in range(1000)]
    static = op.infer(*(Aval(a.shape[1:], a.dtype) for a in arrays)).static
    y = op.forward(np, *arrays, **static)
    for i in (0, 500, 999):
        vjp = op.vjps[i]
        assert vjp is not None
        assert (vjp(np, y, y, *arrays, **static) == arrays[i]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 5, 4), (18, 750, 300), (40, 300, 200), (900, 90, 10)])
def test_outer_sum(shape: tuple[int, int, int], dtype: str) -> None:
    rows, m, k = shape
    rng = np.random.default_rng(rows)
    g, x = rng.normal(size=(rows, m + 3)).astype(dtype)[:, 2 : 2 + m], rng.normal(size=(rows, k)).astype(dtype)
    found = linalg.outer_sum(np, g, x)
    assert found.dtype == dtype and found.flags.owndata
    np.testing.assert_allclose(found, np.einsum("bm,bk->mk", g.astype(float), x), rtol=1e-3, atol=1e-3)


@pytest.mark.host
@pytest.mark.skipif(core.machine is None, reason="the core was not compiled")
@pytest.mark.parametrize("cell", [False, True], ids=["plain", "cell"])
@pytest.mark.parametrize("rows", [1, linalg.BRIEF, linalg.BRIEF + 1])
def test_few_rows_need_no_copy_of_their_weights(rows: int, cell: bool) -> None:
    W, b = (lf.Parameter(np.ones(shape, np.float32)) for shape in ((30, 20), (30,)))

    def layer(x: Any) -> Any:
        return lf.tanh(lf.affine(W, b, x))

    layer = lf.cell(layer) if cell else layer
    lf.forward([layer(lf.constant(np.full(20, k, np.float32))) for k in range(rows)])
    assert (W._columns[1] is not None) == (rows > linalg.BRIEF)


@pytest.mark.parametrize("shape", [(0, 3), (1, 5), (64, 2), (65, 3), (200, 70)])
def test_transposed(shape: tuple[int, int]) -> None:
    matrix = np.arange(float(np.prod(shape))).reshape(shape)
    found = linalg.transposed(np, matrix)
    assert found.flags.c_contiguous and (found == matrix.T).all()


@pytest.mark.parametrize("count", [2, 7, 40])
@pytest.mark.parametrize("shared", ["nothing", "W", "x", "y", "x and W", "W and y", "x and y"])
def test_bilinear_takes_infinities_alike_for_any_number_of_examples(shared, count):
    """Which two of three are multiplied first says whether zero meets infinity."""
    rng, values = np.random.default_rng(31), np.array([np.inf, -np.inf, 0.0, 1.0, -2.0])
    for sizes in ((1, 6), (6, 1), (3, 2)):
        shapes = {"x": sizes[:1], "W": (2, *sizes), "y": sizes[1:]}
        given = {
            name: [lf.Parameter(rng.choice(values, shape))] * count
            if name in shared
            else [lf.constant(a) for a in rng.choice(values, (count, *shape))]
            for name, shape in shapes.items()
        }
        triples = list(zip(*given.values(), strict=True))
        together = lf.forward([lf.bilinear(*three) for three in triples])
        np.testing.assert_array_equal(together, [lf.bilinear(*three).numpy() for three in triples])

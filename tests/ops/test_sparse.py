"""Sums of rows at repeated indices, and row-sparse gradients, against adding one row at a time."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.errors import ShapeError
from lazyflow.ops import sparse
from lazyflow.ops.base import OPS, Aval
from lazyflow.ops.sparse import RowSparse, add_sparse, scatter_add_rows, scatter_rounds, sums_of_segments

SHAPES = ((), (1,), (3,), (2, 3), (sparse.NARROW_ROW + 1,), (0,))


def one_by_one(index: Any, rows: Any, n: int) -> Any:
    sums = np.zeros((n, *rows.shape[1:]))
    for i, row in zip(index, rows, strict=True):
        sums[i] += row
    return sums


def index_of(name: str, n: int = 50) -> Any:
    rng = np.random.default_rng(11)
    frequencies = 1 / np.arange(1, n + 1)
    return {
        "empty": np.zeros(0, np.int64),
        "one": np.array([n - 1]),
        "distinct": rng.permutation(n),
        "pairs": np.repeat(np.arange(n), 2),
        "uniform": rng.integers(0, n, 200),
        "words": rng.choice(n, 300, p=frequencies / frequencies.sum()),
        "all the same": np.full(100, 7),
        "int32": rng.integers(0, n, 60).astype(np.int32),
        "unsigned": rng.integers(0, n, 60).astype(np.uint64),
    }[name]


INDICES = ("empty", "one", "distinct", "pairs", "uniform", "words", "all the same", "int32", "unsigned")


@pytest.mark.parametrize("name", INDICES)
def test_rounds_have_distinct_indices_and_name_every_row_once(name: str) -> None:
    index = index_of(name)
    rounds = scatter_rounds(index)
    assert sorted(p for positions, _ in rounds for p in positions.ravel()) == list(range(len(index)))
    for positions, indices in rounds:
        assert len(set(indices.tolist())) == len(indices) == len(positions) > 0
        assert (index[positions] == indices[:, None]).all()
    largest = int(np.bincount(index.astype(np.int64), minlength=1).max())
    assert len(rounds) <= largest.bit_length()


@pytest.mark.parametrize("few", [0, sparse.FEW_ELEMENTS])
@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_equal_adding_one_row_at_a_time(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...], few: int
) -> None:
    monkeypatch.setattr(sparse, "FEW_ELEMENTS", few)
    index, rng = index_of(name), np.random.default_rng(12)
    rows = rng.standard_normal((len(index), *shape))
    want = one_by_one(index, rows, 50)
    target = rng.standard_normal((50, *shape))
    before = target.copy()
    scatter_add_rows(np, target, index, rows)
    np.testing.assert_allclose(target, before + want, atol=1e-12)
    np.testing.assert_allclose(sums_of_segments(np, index, rows, 50), want, atol=1e-12)
    gradient = RowSparse.coalesce(np, index, rows, (50, *shape))
    assert gradient.indices.tolist() == sorted(set(index.tolist())) and gradient.indices.dtype == np.int64
    assert gradient.shape == gradient.to_dense().shape == (50, *shape)
    np.testing.assert_allclose(gradient.to_dense(), want, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_sums_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    index = index_of("words")
    rows = np.random.default_rng(13).standard_normal((len(index), 20))
    monkeypatch.setattr(sparse, "ROUND_ELEMENTS", block)
    monkeypatch.setattr(sparse, "FEW_ELEMENTS", 0)
    target = np.zeros((50, 20))
    scatter_add_rows(np, target, index, rows)
    np.testing.assert_allclose(target, one_by_one(index, rows, 50), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sums_keep_the_dtype(dtype: str) -> None:
    rows = np.ones((6, 2), dtype)
    index = np.array([1, 1, 1, 0, 1, 1])
    gradient = RowSparse.coalesce(np, index, rows, (3, 2))
    assert gradient.dtype == gradient.to_dense().dtype == sums_of_segments(np, index, rows, 3).dtype == dtype
    assert gradient.to_dense().tolist() == [[1, 1], [5, 5], [0, 0]]


def test_sums_read_and_write_rows_that_stand_apart() -> None:
    index = index_of("uniform")
    wide = np.random.default_rng(14).standard_normal((len(index), 9))
    target = np.zeros((50, 30))
    scatter_add_rows(np, target[:, 3:8], index, wide[:, 2:7])
    np.testing.assert_allclose(target[:, 3:8], one_by_one(index, wide[:, 2:7], 50), atol=1e-12)
    assert not target[:, :3].any() and not target[:, 8:].any()


@pytest.mark.parametrize("few", [0, sparse.FEW_ELEMENTS])
def test_coalesce_takes_rows_of_any_layout(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(sparse, "FEW_ELEMENTS", few)
    index, rows = index_of("words"), np.random.default_rng(16).standard_normal((20, 300)).T
    gradient = RowSparse.coalesce(np, index, rows, (50, 20))
    np.testing.assert_allclose(gradient.to_dense(), one_by_one(index, rows, 50), atol=1e-12)


def test_coalesce_leaves_its_arguments_alone() -> None:
    index, rows = np.array([3, 1, 3]), np.arange(6.0).reshape(3, 2)
    gradient = RowSparse.coalesce(np, index, rows, (4, 2))
    gradient.values[...] = 9
    assert index.tolist() == [3, 1, 3] and rows.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_numpy_takes_it_for_the_array_it_stands_for() -> None:
    gradient = RowSparse(np.array([1, 2]), np.array([[3.0, 0.0], [0.0, 4.0]]), (4, 2))
    dense = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(gradient, dense)
    assert np.linalg.norm(gradient) == 5 and np.array(gradient, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(gradient, copy=False)


rows_of_table = st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9)), max_size=12)


def gradient_of(pairs: list[tuple[int, int]]) -> RowSparse:
    index, rows = (np.array([pair[side] for pair in pairs], kind) for side, kind in ((0, np.int64), (1, np.float64)))
    return RowSparse.coalesce(np, index, rows, (6,))


@given(rows_of_table, rows_of_table, st.integers(-3, 3))
def test_addition_and_scaling_are_those_of_the_dense_arrays(
    a: list[tuple[int, int]], b: list[tuple[int, int]], factor: int
) -> None:
    one, two = gradient_of(a), gradient_of(b)
    total = add_sparse(one, two)
    assert (total.to_dense() == one.to_dense() + two.to_dense()).all()
    assert total.indices.tolist() == sorted({*one.indices.tolist(), *two.indices.tolist()})
    assert (one.scale(factor).to_dense() == factor * one.to_dense()).all()
    dense = np.ones(6)
    one.add_to(dense)
    assert (dense == 1 + one.to_dense()).all()
    assert (one.to("cpu").to_dense() == one.to_dense()).all()


def test_gradients_of_different_tables_do_not_add() -> None:
    one, two = (RowSparse.coalesce(np, np.array([0]), np.ones((1, n)), (4, n)) for n in (2, 3))
    with pytest.raises(ShapeError, match=r"\(4, 2\) and \(4, 3\)"):
        add_sparse(one, two)


@pytest.mark.parametrize("shared_index", [False, True])
def test_lookup_in_a_shared_table_has_a_row_sparse_gradient(shared_index: bool) -> None:
    rng, op = np.random.default_rng(15), OPS["lookup"]
    table, index, g = rng.standard_normal((40, 3)), rng.integers(0, 40, (6, 5)), rng.standard_normal((6, 5, 3))
    static = op.infer(Aval((40, 3), table.dtype), Aval((5,), index.dtype)).static
    vjp = op.vjps[0]
    assert vjp is not None
    gradient = vjp(np, g, None, table, index[0] if shared_index else index, **static)
    assert isinstance(gradient, RowSparse)
    want = one_by_one(np.tile(index[0], 6) if shared_index else index.ravel(), g.reshape(30, 3), 40)
    np.testing.assert_allclose(gradient.to_dense(), want, atol=1e-12)


def test_a_sparse_gradient_is_scaled_and_subtracted_as_any_other() -> None:
    table = lf.Parameter(np.ones((5, 2), np.float32))
    lf.sum(lf.embedding(table, 1) + lf.embedding(table, 3) * 2).backward()
    gradient = table.grad
    assert isinstance(gradient, RowSparse)
    dense = gradient.to_dense()
    for scaled, expected in ((0.5 * gradient, 0.5 * dense), (gradient * 3, 3 * dense), (-gradient / 4, -dense / 4)):
        assert isinstance(scaled, RowSparse) and scaled.dtype == np.float32
        np.testing.assert_array_equal(scaled.to_dense(), expected)
    with lf.no_grad():
        table -= 0.1 * gradient
    np.testing.assert_allclose(table.numpy(), 1 - 0.1 * dense, rtol=1e-6)
    with pytest.raises(AttributeError, match=r"has no 'max': take gradient.to_dense\(\), an array of shape \(5, 2\)"):
        gradient.max()
    with pytest.raises(TypeError):
        gradient * "2"


def test_a_sparse_gradient_is_copied_and_pickled() -> None:
    gradient = RowSparse(np.array([1]), np.array([[5.0]]), (3, 1))
    for other in (copy.copy(gradient), copy.deepcopy(gradient), pickle.loads(pickle.dumps(gradient))):
        np.testing.assert_array_equal(other.to_dense(), gradient.to_dense())

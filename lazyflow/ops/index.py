"""Reading rows and elements at integer indices: lookup, take, pick and one_hot.

Gradients are added back without ``np.add.at`` (see `lazyflow.ops.sparse`); that of a shared table is a `RowSparse` of
the rows that were read.

An index known when it is recorded is checked there. One that is computed is checked here, on the CPU (one reduction,
1 us); on a GPU that would wait for the device at every launch, and an index out of range wraps around.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.places import placed_evenly
from lazyflow.cuda.segments import Segments
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError, counted
from lazyflow.ops.base import (
    Abstract,
    Op,
    Result,
    Shape,
    negative_axis,
    on_device,
    register,
    require_integer,
    sorting,
    symbolic,
    total,
)
from lazyflow.ops.sparse import RowSparse, sums_of_segments

# A table has no row -1, and there is no class -1.
FROM_ZERO = frozenset(("lookup", "one_hot", "scatter", "segment_sum", "segment_mean", "segment_max", "segment_softmax"))


def checked_index(xp: ArrayModule, name: str, index: Array, n: int) -> Array:
    """``index`` with negative entries counted from the end; raises ``IndexError`` on the CPU where one is out of range.

    >>> checked_index(np, "take", np.array([0, -1]), 5).tolist()
    [0, 4]
    """
    if not isinstance(index, np.ndarray):
        return index.astype(np.int64, copy=False) % n
    given = index.astype(np.int64, copy=False)
    # Seen as unsigned, negative numbers are huge: one reduction looks for both.
    if not given.size or given.view(np.uint64).max() < n:
        return given
    index = np.where(given < 0, given + n, given)
    if name in FROM_ZERO:
        index = given
    wrong = (index < 0) | (index >= n)
    if wrong.any():
        raise IndexError(f"{name}: index {given[wrong].flat[0]} is out of range for an axis of {counted(n, 'element')}")
    return index


def behind_each_other(index: Array, batch: int, n: int, index_ndim: int) -> Array:
    """Indices of a stack of ``batch`` tables of ``n`` rows, flat, as those of one table."""
    return (index + n * _along(devices.module(index), batch, 0, 1 + index_ndim)).reshape(-1)


def checked_behind(xp: ArrayModule, name: str, index: Array, batch: int, n: int, index_ndim: int) -> Array:
    """The same of indices that were not checked."""
    if isinstance(index, np.ndarray):
        return behind_each_other(checked_index(xp, name, index, n), batch, n, index_ndim)
    return placed_evenly(index, batch, n, index_ndim)


def _along(xp: ArrayModule, size: int, axis: int, ndim: int) -> Array:
    """``0 .. size - 1`` along one of ``ndim`` axes."""
    return xp.arange(size).reshape(tuple(-1 if i == axis else 1 for i in range(ndim)))


def _read(xp: ArrayModule, x: Array, index: Array, axis: int, out: Array = None) -> Array:
    # The index was checked; with that said, NumPy writes to ``out`` without a buffer, in less than half the time.
    return np.take(x, index, axis, out, "clip") if xp is np else xp.take(x, index, axis, out)


def _take(
    xp: ArrayModule, x: Array, index: Array, out: Array = None, *, name: str, axis: int, ndim: int, index_ndim: int
) -> Array:
    before = ndim + axis
    if not before and x.ndim > ndim and index.ndim > index_ndim and not isinstance(index, np.ndarray):
        flat = placed_evenly(index, len(x), x.shape[1], index_ndim).reshape(index.shape)
        return _read(xp, x.reshape(len(x) * x.shape[1], *x.shape[2:]), flat, 0, out)
    index = on_device(xp, checked_index(xp, name, index, x.shape[axis]))
    if index.ndim == index_ndim:
        return _read(xp, x, index, axis, out if x.ndim > ndim else None)
    if x.ndim == ndim:
        return _read(xp, x, index, axis, out) if not before else xp.moveaxis(_read(xp, x, index, axis), before, 0)
    rows = xp.moveaxis(x, axis, 1) if before else x
    return _index_axes_back(xp, rows[_along(xp, len(x), 0, index.ndim), index], before, index_ndim)


def _index_axes_back(xp: ArrayModule, rows: Array, before: int, count: int) -> Array:
    """From (batch, *index, *before, *after) to (batch, *before, *index, *after)."""
    if not before or not count:
        return rows
    return xp.moveaxis(rows, tuple(range(1, 1 + count)), tuple(range(1 + before, 1 + before + count)))


def _index_axes_front(xp: ArrayModule, rows: Array, before: int, count: int) -> Array:
    if not before or not count:
        return rows
    return xp.moveaxis(rows, tuple(range(1 + before, 1 + before + count)), tuple(range(1, 1 + count)))


def _shared_rows(xp: ArrayModule, g: Array, index: Array, index_ndim: int) -> tuple[Array, Array]:
    """Indices (N,) and the rows (N, ...) to add there, of a ``g`` whose index axes stand in front."""
    if index.ndim == index_ndim:
        g = total(g, 0)
    return index.reshape(-1), g.reshape(index.size, *g.shape[index.ndim :])


def _take_x(xp: ArrayModule, g: Array, y: Array, x: Array, index: Array, **static: Any) -> Array:
    return (_scattered if symbolic(xp) else _added_back)(xp, g, x, index, **static)


def _added_back(
    xp: ArrayModule, g: Array, x: Array, index: Array, *, name: str, axis: int, ndim: int, index_ndim: int
) -> Array:
    n, before = x.shape[axis], ndim + axis
    if x.ndim == ndim or not index_ndim:
        index = checked_index(xp, name, index, n)
    g = _index_axes_front(xp, g, before, index_ndim)
    if x.ndim == ndim:
        sums = sums_of_segments(xp, *_shared_rows(xp, g, index, index_ndim), n)
    elif index_ndim == 0:
        sums = xp.zeros((len(x), n, *g.shape[1:]), g.dtype)
        sums[xp.arange(len(x)), on_device(xp, index)] = g  # one index per example: nothing repeats
    else:
        flat = checked_behind(xp, name, index, len(x), n, index_ndim)
        sums = sums_of_segments(xp, flat, g.reshape(flat.size, *g.shape[1 + index_ndim :]), len(x) * n)
        sums = sums.reshape(len(x), n, *sums.shape[1:])
    return xp.moveaxis(sums, 0 if x.ndim == ndim else 1, axis) if before else sums


def _scattered(
    xp: ArrayModule, g: Array, x: Array, index: Array, *, name: str, axis: int, ndim: int, index_ndim: int
) -> Array:
    """The same of expressions: one table gets the rows of all nodes; an operand that is no shared one has one node."""
    before = ndim + axis
    g = _index_axes_front(xp, g, before, index_ndim)
    if index.ndim == index_ndim:
        g = total(g, 0)
    sums = xp.record_op(SCATTER, (g, index), n=x.shape[axis], name=name)
    sums = xp.moveaxis(sums, 0, before) if before else sums
    return sums.reshape(x.shape)


def _lookup_table(xp: ArrayModule, g: Array, y: Array, table: Array, index: Array, **static: Any) -> Array | RowSparse:
    if table.ndim > static["ndim"] or symbolic(xp):
        return _take_x(xp, g, y, table, index, **static)
    known = isinstance(index, np.ndarray) and xp is not np  # on the host, and read on a device by now
    index = index.astype(np.int64) % len(table) if known else checked_index(xp, static["name"], index, len(table))
    indices, rows = _shared_rows(xp, g, index, static["index_ndim"])
    return RowSparse.coalesce(xp, indices, rows, table.shape)


def _selected(name: str, x: Abstract, index: Abstract, axis: int) -> Result:
    if not x.shape:
        raise ShapeError(f"{name}: a scalar has no axis to select from")
    require_integer(name, "the index", index)
    axis = negative_axis(name, axis, len(x.shape))
    shape = (*x.shape[:axis], *index.shape, *x.shape[len(x.shape) + axis + 1 :])
    static = {"name": name, "axis": axis, "ndim": len(x.shape), "index_ndim": len(index.shape)}
    return Result(shape, x.dtype, static)


def _take_shape(x: Abstract, index: Abstract, *, axis: int) -> Result:
    return _selected("take", x, index, axis)


def _lookup_shape(table: Abstract, index: Abstract) -> Result:
    return _selected("lookup", table, index, 0)


def _pick_shape(x: Abstract, index: Abstract, *, axis: int = -1) -> Result:
    if index.shape:
        raise ShapeError(f"pick takes one index, of shape (), got shape {index.shape}; for several use take")
    return _selected("pick", x, index, axis)


TAKE = register(Op("take", _take_shape, _take, (_take_x, None)))
PICK = register(Op("pick", _pick_shape, _take, (_take_x, None)))
LOOKUP = register(Op("lookup", _lookup_shape, _take, (sorting(_lookup_table, 1), None)))


# The transpose of reading rows is adding rows.


def _scatter_shape(rows: Abstract, index: Abstract, *, n: int, name: str = "scatter") -> Result:
    """``name``: whose indices these are, which says whether they may count from the end."""
    require_integer("scatter", "the index", index)
    if rows.shape[: len(index.shape)] != index.shape:
        raise ShapeError(f"scatter: rows of shape {rows.shape} do not begin with the index's shape, {index.shape}")
    if n < 0:
        raise ShapeError(f"scatter: n, the number of rows, must not be negative, got {n}")
    shape = (n, *rows.shape[len(index.shape) :])
    return Result(shape, rows.dtype, {"name": name, "n": n, "ndim": len(rows.shape), "index_ndim": len(index.shape)})


def _added_at(
    xp: ArrayModule, rows: Array, index: Array, out: Array = None, *, name: str, n: int, ndim: int, index_ndim: int
) -> Array:
    if index.ndim == index_ndim and rows.ndim == ndim:
        index = checked_index(xp, name, index, n)
        return sums_of_segments(xp, index.reshape(-1), rows.reshape(index.size, *rows.shape[index_ndim:]), n)
    batch = len(index) if index.ndim > index_ndim else len(rows)
    if index_ndim == 1 and rows.ndim == ndim + 1 and not isinstance(index, np.ndarray):
        mine = Segments(index, None, index.shape[-1], n)
        if mine.suits(rows):
            sums = mine.sums(rows.reshape(batch * rows.shape[1], *rows.shape[2:]), batch * n, False, out)
            return sums if sums is out else sums.reshape(batch, n, *rows.shape[2:])
    rows = rows if rows.ndim > ndim else xp.broadcast_to(rows, (batch, *rows.shape))
    flat = checked_behind(xp, name, index, batch, n, index_ndim)
    sums = sums_of_segments(xp, flat, rows.reshape(flat.size, *rows.shape[1 + index_ndim :]), batch * n)
    return sums.reshape(batch, n, *sums.shape[1:])


def _scatter_rows(
    xp: ArrayModule, g: Array, y: Array, rows: Array, index: Array, *, name: str, index_ndim: int, **static: Any
) -> Array:
    if symbolic(xp):
        whole = index if index.ndim == index_ndim else index.reshape(index.shape[1:])
        return xp.record_op(TAKE, (g.reshape(g.shape[1:]), whole), axis=0)[None]
    if index_ndim == 1 and not isinstance(index, np.ndarray):
        mine = Segments(index, None, index.shape[-1], g.shape[1])
        if mine.suits(g):
            whole = mine.spread(g.reshape(-1, *g.shape[2:]), len(g) * mine.inner, mean=False)
            return whole.reshape(len(g), mine.inner, *g.shape[2:])
    return _take(xp, g, index, name=name, axis=-g.ndim + 1, ndim=g.ndim - 1, index_ndim=index_ndim)


SCATTER = register(Op("scatter", _scatter_shape, _added_at, (_scatter_rows, None)))


# Indices along an axis as offsets from its beginning, for what reads a flattened array.


def _offsets_shape(index: Abstract, *, n: int, name: str) -> Result:
    require_integer(name, "the index", index)
    return Result(index.shape, np.dtype(np.int64), {"n": n, "name": name})


def _offsets(xp: ArrayModule, index: Array, out: Array = None, *, n: int, name: str) -> Array:
    return checked_index(xp, name, index, n).astype(np.int64, copy=False)


OFFSETS = register(Op("offsets", _offsets_shape, _offsets, (None,)))


def _argsort_shape(x: Abstract, *, axis: int = -1) -> Result:
    if not x.shape:
        raise ShapeError("argsort: a scalar has no axis to sort along")
    return Result(x.shape, np.dtype(np.intp), {"axis": negative_axis("argsort", int(axis), len(x.shape))})


def _argsort(xp: ArrayModule, x: Array, out: Array = None, *, axis: int) -> Array:
    return xp.argsort(x, axis=axis, kind="stable")


ARGSORT = register(Op("argsort", _argsort_shape, _argsort, (None,)))


def _one_hot_shape(index: Abstract, *, n: int, dtype: Any = "float32") -> Result:
    require_integer("one_hot", "the index", index)
    if n < 1:
        raise ShapeError(f"one_hot: n, the number of classes, must be at least 1, got {n}")
    dtype = np.dtype(dtype)
    if dtype.kind not in "biuf":
        raise DTypeError(f"one_hot: dtype must be a number's or bool, got {dtype}")
    return Result((*index.shape, n), dtype, {"n": n, "dtype": dtype})


def _one_hot(xp: ArrayModule, index: Array, out: Array = None, *, n: int, dtype: DType) -> Array:
    shape: Shape = (*index.shape, n)
    if out is None or out.shape != shape:
        out = xp.empty(shape, dtype)
    out[...] = 0
    index = on_device(xp, checked_index(xp, "one_hot", index, n))
    place = (*(_along(xp, size, axis, index.ndim) for axis, size in enumerate(index.shape)), index)
    out[place] = 1
    return out


ONE_HOT = register(Op("one_hot", _one_hot_shape, _one_hot, (None,)))

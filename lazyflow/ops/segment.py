"""Operations on segments of rows: means, largest elements and softmax of the rows that have one index; their sum is
`scatter` in `lazyflow.ops.index`.

Names and edges are those of ``jax.ops.segment_sum`` and its like: an empty segment has the sum 0, and as its largest
element the lowest there is; its mean is 0, as in PyTorch Geometric. Softmax by segments is that over the edges that
lead into a node (Velickovic et al. 2018).

Each is written once, for rows of one example with its index. A launch of many examples is one of those rows end to end,
with indices that are apart: of examples of one size by a batch axis, of others by where the segments of each begin (see
`BY_PARTS` and `lazyflow.graph.joined`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lazyflow.cuda import rows as there
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import (
    OPS,
    Abstract,
    Array,
    Op,
    Result,
    on_device,
    register,
    require_floating,
    require_integer,
    symbolic,
    wide,
)
from lazyflow.ops.formula import multiply_no_nan, select
from lazyflow.ops.index import FROM_ZERO, behind_each_other, checked, scatter, take
from lazyflow.ops.reduce import MEAN, SUM, averaged
from lazyflow.ops.sparse import segment_sum, sorted_groups

# Rows of one example, or of all end to end: (m, ...), their index (m,), and the number of segments.


def _sums(xp: Any, rows: Array, index: Array, n: int) -> Array:
    if symbolic(xp):
        return xp.record_op(scatter, (rows, index), n=n)
    return segment_sum(xp, index, rows, n)


def _spread(xp: Any, of_segments: Array, index: Array) -> Array:
    """For each row what its segment has."""
    if symbolic(xp):
        return xp.record_op(take, (of_segments, index), axis=0)
    return of_segments.take(index, 0, mode="clip") if xp is np else of_segments.take(index, 0)


def _sizes(xp: Any, index: Array, n: int, like: Array) -> Array:
    """How many rows each segment has, at least 1, as a floating column that broadcasts against ``like``."""
    if xp is np:
        counted = np.bincount(index, minlength=n).astype(like.dtype)
    else:
        counted = _sums(xp, xp.ones(index.shape, like.dtype), index, n)
    return xp.maximum(counted, 1).reshape((n,) + (1,) * (like.ndim - 1))


def _mean(xp: Any, x: Array, index: Array, n: int) -> Array:
    sums = _sums(xp, wide(x.astype(averaged(x.dtype), copy=False)), index, n)
    return (sums / _sizes(xp, index, n, sums)).astype(averaged(x.dtype), copy=False)


def _mean_x(xp: Any, g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    if symbolic(xp):
        return _spread(xp, g / _sizes(xp, index, n, g), index)
    return _spread(xp, (wide(g) / _sizes(xp, index, n, wide(g))).astype(g.dtype, copy=False), index)


def _lowest(dtype: np.dtype[Any]) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _max(xp: Any, x: Array, index: Array, n: int) -> Array:
    found = xp.full((n, *x.shape[1:]), _lowest(x.dtype), x.dtype)
    if not x.size:
        return found
    if xp is np:
        positions, starts, _, present = sorted_groups(index)
        found[present] = np.maximum.reduceat(x[positions], starts, axis=0)
    elif there.has_rows(x.dtype):
        order = xp.argsort(index, kind="stable")
        ends = xp.searchsorted(index[order], xp.arange(n), side="right")
        there.max_groups(xp.ascontiguousarray(x.reshape(len(x), -1)), ends, order, found.reshape(n, -1))
    elif x.dtype.kind == "f":
        return _max(xp, wide(x), index, n).astype(x.dtype)
    else:
        xp.maximum.at(found, index, x)
    return found


def _max_x(xp: Any, g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    """Shared among equals."""
    chosen = x == _spread(xp, y, index)
    count = xp.maximum(_sums(xp, chosen.astype(wide(x).dtype if not symbolic(xp) else x.dtype), index, n), 1)
    share = g / count
    return select(xp, chosen, _spread(xp, share if symbolic(xp) else share.astype(g.dtype, copy=False), index))


def _softmax(xp: Any, x: Array, index: Array, n: int) -> Array:
    if x.dtype == np.float16:
        return _softmax(xp, wide(x), index, n).astype(x.dtype)
    y = x - _spread(xp, _max(xp, x, index, n), index)
    xp.exp(y, y)
    return xp.divide(y, _spread(xp, _sums(xp, y, index, n), index), y)


def _softmax_x(xp: Any, g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    weighted = multiply_no_nan(xp, g, y)
    return weighted - multiply_no_nan(xp, _spread(xp, _sums(xp, weighted, index, n), index), y)


def _scatter_x(xp: Any, g: Array, y: Array, x: Array, index: Array, n: int) -> Array:
    return _spread(xp, g, index)


# Examples of one size, with a batch axis.


class _Flat(NamedTuple):
    """Arrays of all examples end to end, with the index of rows among the segments of all, and how many those are."""

    arrays: list[Array]
    index: Array
    n: int
    batch: int | None


def _flat(xp: Any, arrays: Sequence[Array], ndim: int, index: Array, n: int) -> _Flat:
    """``ndim``: the axes of one example's array."""
    if symbolic(xp):
        return _Flat([a.reshape(a.shape[a.ndim - ndim :]) for a in arrays], index.reshape(index.shape[-1:]), n, 1)
    batches = [len(a) for a in arrays if a.ndim > ndim] + [len(index)] * (index.ndim > 1)
    if not batches:
        return _Flat(list(arrays), index, n, None)
    batch = batches[0]
    whole = [a if a.ndim > ndim else xp.broadcast_to(a, (batch, *a.shape)) for a in arrays]
    flat = [a.reshape(batch * a.shape[1], *a.shape[2:]) for a in whole]
    return _Flat(flat, behind_each_other(index, batch, n, 1), batch * n, batch)


def _forward(
    kernel: Callable[..., Array], xp: Any, x: Array, index: Array, out: Array = None, *, n: int, name: str, ndim: int
) -> Array:
    flat = _flat(xp, [x], ndim, checked(xp, name, index, n), n)
    y = kernel(xp, *flat.arrays, flat.index, flat.n)
    return y if flat.batch is None else y.reshape(flat.batch, len(y) // flat.batch, *y.shape[1:])


def _backward(
    vjp: Callable[..., Array], xp: Any, g: Array, y: Array, x: Array, index: Array, *, n: int, name: str, ndim: int
) -> Array:
    index = index if symbolic(xp) else checked(xp, name, index, n)
    flat = _flat(xp, [g, y, x], ndim, index, n)
    answer = vjp(xp, *flat.arrays, flat.index, flat.n)
    assert flat.batch is not None  # cotangents have the batch axis
    return answer.reshape(flat.batch, answer.shape[0] // flat.batch, *answer.shape[1:])


def _infer(name: str, x: Abstract, index: Abstract, *, n: int) -> Result:
    require_integer(name, "a segment", index)
    if len(index.shape) != 1 or x.shape[:1] != index.shape:
        raise ShapeError(f"{name} takes values (m, ...) and segments (m,), got {x.shape} and {index.shape}")
    if n < 0:
        raise ShapeError(f"{name}: n, the number of segments, must not be negative, got {n}")
    return Result((n, *x.shape[1:]), x.dtype, {"name": name, "n": n, "ndim": len(x.shape)})


def _mean_infer(x: Abstract, index: Abstract, *, n: int) -> Result:
    shape, dtype, static = _infer("segment_mean", x, index, n=n)
    return Result(shape, averaged(dtype), static)


def _max_infer(x: Abstract, index: Abstract, *, n: int) -> Result:
    found = _infer("segment_max", x, index, n=n)
    if x.dtype.kind not in "iuf":
        raise DTypeError(f"segment_max takes numbers, got {x.dtype}; convert with .astype('int32')")
    return found


def _softmax_infer(x: Abstract, index: Abstract, *, n: int) -> Result:
    require_floating("segment_softmax", x)
    return Result(x.shape, x.dtype, _infer("segment_softmax", x, index, n=n).static)


_KERNELS = {
    "scatter": (_sums, _scatter_x),
    "segment_mean": (_mean, _mean_x),
    "segment_max": (_max, _max_x),
    "segment_softmax": (_softmax, _softmax_x),
}


def _segments(name: str, infer: Callable[..., Result]) -> Op:
    kernel, vjp = _KERNELS[name]
    return register(Op(name, infer, partial(_forward, kernel), (partial(_backward, vjp), None)))


SEGMENT_MEAN = _segments("segment_mean", _mean_infer)
SEGMENT_MAX = _segments("segment_max", _max_infer)
SEGMENT_SOFTMAX = _segments("segment_softmax", _softmax_infer)


# Examples of any sizes, end to end. ``place`` (2, m) on the host says of each row where the segments of its example
# begin among those of all, and how many it has.


def _placed(xp: Any, name: str, index: Array, place: Array) -> Array:
    """Indices into what all examples have, from those into what each has."""
    starts, sizes = on_device(xp, place)
    shape = (-1,) + (1,) * (index.ndim - 1)
    starts, sizes = starts.reshape(shape), sizes.reshape(shape)
    index = index.astype(np.int64, copy=False)
    if not isinstance(index, np.ndarray):
        return index % sizes + starts
    given = index
    if name not in FROM_ZERO:
        index = np.where(index < 0, index + sizes, index)
    wrong = (index < 0) | (index >= sizes)
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        n = int(np.broadcast_to(sizes, index.shape)[at])
        raise IndexError(f"{name}: index {given[at]} is out of range for an axis of {n} elements")
    return index + starts


def _count(place: Array) -> int:
    """How many segments the examples have up to the last that has a row."""
    return int(place[0, -1] + place[1, -1]) if place.shape[1] else 0


def _parts(name: str) -> Op:
    kernel, vjp = _KERNELS[name]
    by_rows = name == "segment_softmax"

    def forward(xp: Any, x: Array, index: Array, place: Array, out: Array = None, *, name: str) -> Array:
        n = _count(place) if by_rows else len(out)
        return kernel(xp, x, _placed(xp, name, index, place), n)

    def back(xp: Any, g: Array, y: Array, x: Array, index: Array, place: Array, *, name: str) -> Array:
        n = _count(place) if by_rows else len(g)
        return vjp(xp, g, y, x, _placed(xp, name, index, place), n)

    return Op(name, OPS[name].infer, forward, (back, None))


def _taken(xp: Any, x: Array, index: Array, place: Array, out: Array = None, *, name: str) -> Array:
    index = _placed(xp, name, index, place)
    return np.take(x, index, 0, out, "clip") if xp is np else xp.take(x, index, 0, out)


def _taken_x(xp: Any, g: Array, y: Array, x: Array, index: Array, place: Array, *, name: str) -> Array:
    index = _placed(xp, name, index, place).reshape(-1)
    return segment_sum(xp, index, g.reshape(index.size, *x.shape[1:]), len(x))


def _along_rows(name: str, of_lists: Op) -> Op:
    """A reduction over all rows of each example, as that over the operands of a list."""
    return Op(name, OPS[name].infer, of_lists.forward, of_lists.vjps)


# By the name of an operation the one that computes it of rows end to end, as above.
BY_PARTS = {
    **{name: _parts(name) for name in _KERNELS},
    **{op.name: Op(op.name, op.infer, _taken, (_taken_x, None)) for op in (take, OPS["lookup"])},
    SUM.name: _along_rows(SUM.name, OPS["sum_list"]),
    MEAN.name: _along_rows(MEAN.name, OPS["mean_list"]),
}

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
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.core.arrays import begins
from lazyflow.cuda import rows as there
from lazyflow.cuda.places import placed_among_all
from lazyflow.cuda.segments import Segments, along_segments, slopes_along_segments
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError, counted
from lazyflow.ops.attention import ATTENTIONS_BY_PARTS
from lazyflow.ops.base import (
    OPS,
    Abstract,
    Op,
    Result,
    looking_at,
    on_device,
    register,
    require_floating,
    require_integer,
    symbolic,
    wide,
)
from lazyflow.ops.formula import multiply_no_nan, select
from lazyflow.ops.index import FROM_ZERO, SCATTER, TAKE, checked_behind, checked_index
from lazyflow.ops.random import DRAWN_BY_PARTS as drawn_by_parts
from lazyflow.ops.reduce import MEAN, SUM, averaged, groups_of, repeated, sums_of_stretches
from lazyflow.ops.shape import CONCATENATE, CONCATENATE_ROWS, CONCATENATE_SAME, STACK, STACK_ROWS
from lazyflow.ops.sparse import core_has, sorted_groups, sums_of_segments

# Rows of one example, or of all end to end, (m, ...), and how they are parted.


class ByIndex(NamedTuple):
    """Segments by an index (m,), below ``n``; arrays, or expressions."""

    xp: ArrayModule
    index: Array
    n: int

    def sums(self, rows: Array) -> Array:
        """Of each segment the sum of its rows."""
        if symbolic(self.xp):
            return self.xp.record_op(SCATTER, (rows, self.index), n=self.n)
        return sums_of_segments(self.xp, self.index, rows, self.n)

    def spread(self, of_segments: Array) -> Array:
        """For each row what its segment has."""
        xp = self.xp
        if symbolic(xp):
            return xp.record_op(TAKE, (of_segments, self.index), axis=0)
        return of_segments.take(self.index, 0, mode="clip") if xp is np else of_segments.take(self.index, 0)

    def sizes(self, like: Array) -> Array:
        """How many rows each segment has, at least 1, as a floating column that broadcasts against ``like``."""
        xp = self.xp
        if xp is np:
            counted = np.bincount(self.index, minlength=self.n).astype(like.dtype)
        else:
            counted = self.sums(xp.ones(self.index.shape, like.dtype))
        return xp.maximum(counted, 1).reshape((self.n,) + (1,) * (like.ndim - 1))

    def extremes(self, x: Array, found: Array, of: Any) -> None:
        """Raise, or lower, the rows ``found`` of segments to the largest or smallest of theirs, as the ufunc ``of``
        says."""
        if isinstance(x, np.ndarray):
            positions, starts, _, present = sorted_groups(self.index)
            found[present] = _extremes_here(x, positions, np.append(starts, len(positions)), of)
        elif there.has_rows(x.dtype):
            order = self.xp.argsort(self.index, kind="stable")
            ends = self.xp.searchsorted(self.index[order], self.xp.arange(self.n), side="right")
            there.extremes_of_groups(_matrix(self.xp, x), there.Groups(ends), found.reshape(self.n, -1), of, order)
        else:
            of.at(found, self.index, x)


class ByCount(NamedTuple):
    """Segments that lie behind each other, of some rows each; the numbers are payload."""

    xp: ArrayModule
    counts: Array

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.counts)

    def sums(self, rows: Array) -> Array:
        """Of each segment the sum of its rows."""
        return sums_of_stretches(self.xp, rows, self.counts)

    def spread(self, of_segments: Array) -> Array:
        """For each row what its segment has."""
        return repeated(self.xp, of_segments, self.counts)

    def extremes(self, x: Array, found: Array, of: Any) -> None:
        """Raise, or lower, the rows ``found`` of segments to the largest or smallest of theirs, as the ufunc ``of``
        says."""
        if isinstance(x, np.ndarray):
            found[...] = _extremes_here(x, None, begins(self.counts), of)
        else:
            of.at(found, self.xp.asarray(np.repeat(np.arange(self.n), self.counts)), x)


Parted = ByIndex | ByCount


def _made_there(name: str, parted: Parted, x: Array, out: Array = None) -> Array | None:
    """What a kernel of a device makes along segments that lie behind each other; None where there is none."""
    if not _has_kernel(parted, x):
        return None
    return along_segments(name, x, groups_of(parted.xp, parted.counts), parted.n, out)


def _pulled_there(name: str, parted: Parted, g: Array, y: Array, x: Array) -> Array | None:
    """The same of the cotangents of rows."""
    if not _has_kernel(parted, x) or not g.dtype == y.dtype == x.dtype:
        return None
    return slopes_along_segments(name, g, y, x, groups_of(parted.xp, parted.counts), parted.n)


def _has_kernel(parted: Parted, x: Array) -> TypeGuard[ByCount]:
    if not isinstance(parted, ByCount) or symbolic(parted.xp) or isinstance(x, np.ndarray):
        return False
    return bool(x.size) and there.has_rows(x.dtype)


def _extremes_here(x: Array, positions: Array | None, edges: Array, of: Any) -> Array:
    """The extremes of groups of rows, which are at ``positions``; none is empty."""
    if not core_has(x):
        return of.reduceat(x if positions is None else x[positions], edges[:-1], axis=0)
    found = np.empty((len(edges) - 1, *x.shape[1:]), x.dtype)
    rows, out = x.reshape(len(x), -1), found.reshape(len(found), -1)
    core.machine.extremes_of_groups(out, rows, positions, edges, of is np.maximum)
    return found


def _matrix(xp: ArrayModule, x: Array) -> Array:
    return xp.ascontiguousarray(x.reshape(len(x), -1))


def _scatter(x: Array, parted: Parted) -> Array:
    return parted.sums(x)


def _scatter_x(g: Array, y: Array, x: Array, parted: Parted) -> Array:
    return parted.spread(g)


def _segment_mean(x: Array, parted: ByIndex) -> Array:
    dtype = averaged(x.dtype)
    sums = parted.sums(wide(x.astype(dtype, copy=False)))
    return (sums / parted.sizes(sums)).astype(dtype, copy=False)


def _segment_mean_x(g: Array, y: Array, x: Array, parted: ByIndex) -> Array:
    return parted.spread(g / parted.sizes(g))


def _bounds(dtype: DType) -> tuple[float, float]:
    """The lowest and the highest there is."""
    if dtype.kind == "f":
        return -np.inf, np.inf
    return (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (False, True)


def largest_of(x: Array, parted: Parted) -> Array:
    """Of each segment the largest of each column."""
    found = _made_there("max", parted, x)
    return _extremes(x, parted, parted.xp.maximum, _bounds(x.dtype)[0]) if found is None else found


def smallest_of(x: Array, parted: Parted) -> Array:
    """Of each segment the smallest of each column."""
    found = _made_there("min", parted, x)
    return _extremes(x, parted, parted.xp.minimum, _bounds(x.dtype)[1]) if found is None else found


def _extremes(x: Array, parted: Parted, of: Any, empty: float) -> Array:
    if x.dtype == np.float16 and not isinstance(x, np.ndarray):
        return _extremes(wide(x), parted, of, empty).astype(x.dtype)
    found = parted.xp.full((parted.n, *x.shape[1:]), empty, x.dtype)
    if x.size:
        parted.extremes(x, found, of)
    return found


def _max_x(g: Array, y: Array, x: Array, parted: Parted) -> Array:
    """Shared among equals."""
    found = _pulled_there("max", parted, g, y, x)
    if found is not None:
        return found
    chosen = x == parted.spread(y)
    count = parted.xp.maximum(parted.sums(chosen.astype(g.dtype)), 1)
    return select(parted.xp, chosen, parted.spread(g / count))


def softmax_of_parts(x: Array, parted: Parted) -> Array:
    """Softmax of each column of each segment."""
    if x.dtype == np.float16:
        return softmax_of_parts(wide(x), parted).astype(x.dtype)
    found = _made_there("softmax", parted, x)
    if found is not None:
        return found
    xp = parted.xp
    y = x - parted.spread(largest_of(x, parted))
    xp.exp(y, y)
    return xp.divide(y, parted.spread(parted.sums(y)), y)


def _segment_softmax_x(g: Array, y: Array, x: Array, parted: Parted) -> Array:
    found = _pulled_there("softmax", parted, g, y, x)
    if found is not None:
        return found
    weighted = multiply_no_nan(parted.xp, g, y)
    return weighted - multiply_no_nan(parted.xp, parted.spread(parted.sums(weighted)), y)


def _log_softmax(x: Array, parted: Parted) -> Array:
    if x.dtype == np.float16:
        return _log_softmax(wide(x), parted).astype(x.dtype)
    found = _made_there("log_softmax", parted, x)
    if found is not None:
        return found
    y = x - parted.spread(largest_of(x, parted))
    return y - parted.spread(parted.xp.log(parted.sums(parted.xp.exp(y))))


def _segment_log_softmax_x(g: Array, y: Array, x: Array, parted: Parted) -> Array:
    found = _pulled_there("log_softmax", parted, g, y, x)
    if found is not None:
        return found
    return g - multiply_no_nan(parted.xp, parted.spread(parted.sums(g)), parted.xp.exp(y))


# Examples of one size, with a batch axis.


class _Flat(NamedTuple):
    """Arrays of all examples end to end, with the index of rows among the segments of all, and how many those are."""

    arrays: list[Array]
    index: Array
    n: int
    batch: int | None


def _laid_flat(xp: ArrayModule, name: str, arrays: Sequence[Array], ndim: int, index: Array, n: int) -> _Flat:
    """``ndim``: the axes of one example's array; ``name``: whose indices these are, which are checked here."""
    if symbolic(xp):
        return _Flat([a.reshape(a.shape[a.ndim - ndim :]) for a in arrays], index.reshape(index.shape[-1:]), n, 1)
    batches = [len(a) for a in arrays if a.ndim > ndim] + [len(index)] * (index.ndim > 1)
    if not batches:
        return _Flat(list(arrays), checked_index(xp, name, index, n), n, None)
    batch = batches[0]
    whole = [a if a.ndim > ndim else xp.broadcast_to(a, (batch, *a.shape)) for a in arrays]
    flat = [a.reshape(batch * a.shape[1], *a.shape[2:]) for a in whole]
    return _Flat(flat, checked_behind(xp, name, index, batch, n, 1), batch * n, batch)


def _segments_there(x: Array, index: Array, place: Array, inner: int, n: int) -> Segments | None:
    """What kernels of a device are told of small nodes; None elsewhere."""
    if not (devices.is_on_gpu(index) and devices.is_on_gpu(x)):
        return None
    found = Segments(index, place, inner, n)
    return found if found.suits(x) else None


_SUMMED = ("scatter", "segment_mean")


def _made_by_index(name: str, x: Array, segments: Segments, n: int, out: Array) -> Array:
    """By one kernel, of ``n`` segments."""
    if name in _SUMMED:
        return segments.sums(x, n, name == "segment_mean", out)
    return along_segments(name.removeprefix("segment_"), x, segments, n, out)


def _pulled_by_index(name: str, g: Array, y: Array, x: Array, segments: Segments, n: int) -> Array:
    if name in _SUMMED:
        return segments.spread(g, len(x), name == "segment_mean")
    return slopes_along_segments(name.removeprefix("segment_"), g, y, x, segments, n)


def _end_to_end_rows(x: Array) -> Array:
    """The rows of nodes of one size."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _forward(
    kernel: Callable[..., Array],
    xp: ArrayModule,
    x: Array,
    index: Array,
    out: Array = None,
    *,
    n: int,
    name: str,
    ndim: int,
) -> Array:
    mine = _segments_there(x, index, None, x.shape[1], n) if x.ndim > ndim else None
    if mine is not None:
        found = _made_by_index(name, _end_to_end_rows(x), mine, len(x) * n, out)
        return found if found is out else found.reshape(len(x), len(found) // len(x), *x.shape[2:])
    flat = _laid_flat(xp, name, [x], ndim, index, n)
    y = kernel(*flat.arrays, ByIndex(xp, flat.index, flat.n))
    return y if flat.batch is None else y.reshape(flat.batch, len(y) // flat.batch, *y.shape[1:])


def _backward(pull: Callable[..., Array]) -> Callable[..., Array]:
    def vjp(xp: ArrayModule, g: Array, y: Array, x: Array, index: Array, *, n: int, name: str, ndim: int) -> Array:
        fits = not symbolic(xp) and x.ndim > ndim and g.dtype == y.dtype == x.dtype
        mine = _segments_there(x, index, None, x.shape[1], n) if fits else None
        if mine is not None:
            rows = _end_to_end_rows(g), _end_to_end_rows(y), _end_to_end_rows(x)
            return _pulled_by_index(name, *rows, mine, len(x) * n).reshape(x.shape)
        flat = _laid_flat(xp, name, [g, y, x], ndim, index, n)
        answer = pull(*flat.arrays, ByIndex(xp, flat.index, flat.n))
        assert flat.batch is not None  # cotangents have the batch axis
        return answer.reshape(flat.batch, answer.shape[0] // flat.batch, *answer.shape[1:])

    return vjp


def _infer_segments(name: str, x: Abstract, index: Abstract, *, n: int) -> Result:
    require_integer(name, "a segment", index)
    if len(index.shape) != 1 or x.shape[:1] != index.shape:
        raise ShapeError(f"{name} takes values (m, ...) and segments (m,), got {x.shape} and {index.shape}")
    if n < 0:
        raise ShapeError(f"{name}: n, the number of segments, must not be negative, got {n}")
    return Result((n, *x.shape[1:]), x.dtype, {"name": name, "n": n, "ndim": len(x.shape)})


def _mean_infer(x: Abstract, index: Abstract, *, n: int) -> Result:
    shape, dtype, static = _infer_segments("segment_mean", x, index, n=n)
    return Result(shape, averaged(dtype), static)


def _max_infer(x: Abstract, index: Abstract, *, n: int) -> Result:
    found = _infer_segments("segment_max", x, index, n=n)
    if x.dtype.kind not in "iuf":
        raise DTypeError(f"segment_max takes numbers, got {x.dtype}; convert with .astype('int32')")
    return found


def _softmax_infer(x: Abstract, index: Abstract, *, n: int) -> Result:
    require_floating("segment_softmax", x)
    return Result(x.shape, x.dtype, _infer_segments("segment_softmax", x, index, n=n).static)


_KERNELS = {
    "scatter": (_scatter, _scatter_x),
    "segment_mean": (_segment_mean, _segment_mean_x),
    "segment_max": (largest_of, _max_x),
    "segment_softmax": (softmax_of_parts, _segment_softmax_x),
}


def _segments(name: str, infer: Callable[..., Result]) -> Op:
    kernel, vjp = _KERNELS[name]
    return register(Op(name, infer, partial(_forward, kernel), (_backward(vjp), None)))


SEGMENT_MEAN = _segments("segment_mean", _mean_infer)
SEGMENT_MAX = _segments("segment_max", _max_infer)
SEGMENT_SOFTMAX = _segments("segment_softmax", _softmax_infer)


# Examples of any sizes, end to end. ``place`` (2, m) on the host says of each row where the segments of its example
# begin among those of all, and how many it has.


def _placed(xp: ArrayModule, name: str, index: Array, place: Array) -> Array:
    """Indices into what all examples have, from those into what each has."""
    if not isinstance(index, np.ndarray):
        return placed_among_all(index, on_device(xp, place))
    starts, sizes = place
    shape = (-1,) + (1,) * (index.ndim - 1)
    starts, sizes = starts.reshape(shape), sizes.reshape(shape)
    index = index.astype(np.int64, copy=False)
    given = index
    if name not in FROM_ZERO:
        index = np.where(index < 0, index + sizes, index)
    wrong = (index < 0) | (index >= sizes)
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        n = int(np.broadcast_to(sizes, index.shape)[at])
        raise IndexError(f"{name}: index {given[at]} is out of range for an axis of {counted(n, 'element')}")
    return index + starts


def _segments_before(place: Array) -> int:
    """How many segments the examples have up to the last that has a row."""
    return int(place[0, -1] + place[1, -1])


def _op_by_parts(name: str) -> Op:
    kernel, vjp = _KERNELS[name]
    operation, by_rows = name, name == "segment_softmax"

    def forward(xp: ArrayModule, x: Array, index: Array, place: Array, out: Array = None, *, name: str) -> Array:
        n = _segments_before(place) if by_rows else len(out)
        mine = _segments_there(x, index, place, 0, 0)
        if mine is not None:
            return _made_by_index(operation, x, mine, n, out)
        return kernel(x, ByIndex(xp, _placed(xp, name, index, place), n))

    def back(xp: ArrayModule, g: Array, y: Array, x: Array, index: Array, place: Array, *, name: str) -> Array:
        n = _segments_before(place) if by_rows else len(g)
        mine = _segments_there(x, index, place, 0, 0) if g.dtype == x.dtype else None
        if mine is not None:
            return _pulled_by_index(operation, g, y, x, mine, n)
        return vjp(g, y, x, ByIndex(xp, _placed(xp, name, index, place), n))

    return Op(name, OPS[name].infer, forward, (back, None))


def _taken(xp: ArrayModule, x: Array, index: Array, place: Array, out: Array = None, *, name: str) -> Array:
    index = _placed(xp, name, index, place)
    return np.take(x, index, 0, out, "clip") if xp is np else xp.take(x, index, 0, out)


def _taken_x(xp: ArrayModule, g: Array, y: Array, x: Array, index: Array, place: Array, *, name: str) -> Array:
    index = _placed(xp, name, index, place).reshape(-1)
    return sums_of_segments(xp, index, g.reshape(index.size, *x.shape[1:]), len(x))


def _over_rows(name: str, of_lists: Op) -> Op:
    """A reduction over all rows of each example, as that over the operands of a list."""
    return Op(name, OPS[name].infer, of_lists.forward, of_lists.vjps)


_ALONG = {
    "max": (largest_of, _max_x),
    "min": (smallest_of, _max_x),
    "softmax": (softmax_of_parts, _segment_softmax_x),
    "log_softmax": (_log_softmax, _segment_log_softmax_x),
}


def _along_rows(name: str) -> Op:
    kernel, vjp = _ALONG[name]

    def forward(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
        return kernel(x, ByCount(xp, counts))

    def back(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array) -> Array:
        return vjp(g, y, x, ByCount(xp, counts))

    return Op(name, OPS[name].infer, forward, (back,))


def _itself(xp: ArrayModule, x: Array, out: Array = None) -> Array:
    return x


def _itself_x(xp: ArrayModule, g: Array, y: Array, x: Array) -> Array:
    return g


_END_TO_END = (CONCATENATE, CONCATENATE_ROWS, CONCATENATE_SAME, STACK, STACK_ROWS)

# By the name of an operation the one that computes it of rows end to end, as above.
BY_PARTS = {
    **{name: _op_by_parts(name) for name in _KERNELS},
    **{op.name: Op(op.name, op.infer, _taken, (_taken_x, None)) for op in (TAKE, OPS["lookup"])},
    **{op.name: _over_rows(op.name, OPS[f"{op.name}_list"]) for op in (SUM, MEAN)},
    **{name: _along_rows(name) for name in _ALONG},
    **{op.name: Op(op.name, op.infer, _itself, (looking_at(_itself_x, ()),), gathers=True) for op in _END_TO_END},
    **drawn_by_parts,
    **ATTENTIONS_BY_PARTS,
}

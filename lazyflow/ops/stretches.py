"""Operations along the first axis of values of any lengths, all of them end to end: each value is a stretch of rows.

What is said of stretches by sums, largest elements and spreading back stands in `lazyflow.ops.segment`; here is what
goes by positions, too: where the largest is, running sums, rows turned round, the loss of one class among scores. Of
each stretch this gives what the operation gives of the value by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np

from lazyflow.core.arrays import begins
from lazyflow.cuda import reductions as there
from lazyflow.cuda.rows import has_rows
from lazyflow.device import Array, ArrayModule, HostArray, module
from lazyflow.errors import counted
from lazyflow.ops.base import OPS, Op, brought, looking_at, on_device, total, wide, written
from lazyflow.ops.formula import multiply_no_nan, select
from lazyflow.ops.reduce import RUNNING_WIDER, averaged, groups_of, summed_dtype
from lazyflow.ops.segment import BY_PARTS, ByCount, largest_of, smallest_of, softmax_of_parts

StretchKernel = Callable[..., Array]


def _first_rows(counts: Array) -> HostArray:
    """Where each stretch begins."""
    found: HostArray = begins(counts)[:-1]
    return found


def _numbered(counts: Array) -> HostArray:
    """Of each row which it is of its stretch."""
    found: HostArray = np.arange(int(counts.sum())) - np.repeat(_first_rows(counts), counts)
    return found


def _last_to_first(counts: Array) -> HostArray:
    """The numbers of rows, those of each stretch from its last to its first."""
    edges = begins(counts)
    found: HostArray = np.repeat(edges[:-1] + edges[1:] - 1, counts) - np.arange(edges[-1])
    return found


def _beside(xp: ArrayModule, numbers: HostArray, x: Array) -> Array:
    """A number for each row, so that it broadcasts against ``x``."""
    return on_device(xp, numbers).reshape((-1,) + (1,) * (x.ndim - 1))


def _rows_at(xp: ArrayModule, x: Array, index: HostArray) -> Array:
    return x.take(on_device(xp, index), 0)


def _of_each_length(counts: Array) -> Iterator[tuple[Array, HostArray]]:
    """Which stretches have each length, and the numbers of their rows, (stretches, length)."""
    starts = _first_rows(counts)
    for n in np.unique(counts).tolist():
        mine = counts == n
        yield mine, starts[mine][:, None] + np.arange(n)


# Where the largest or smallest is, the first of equals; a NaN is either.


def _positions_of(name: str, xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    if xp is not np:
        return _position_there(largest_of if name == "argmax" else smallest_of, xp, x, counts)
    answer = np.empty((len(counts), *x.shape[1:]), np.intp)
    for mine, rows in _of_each_length(counts):
        answer[mine] = getattr(x[rows], name)(axis=1)
    return answer


def _position_there(extreme: StretchKernel, xp: ArrayModule, x: Array, counts: Array) -> Array:
    parted, x = ByCount(xp, counts), x.astype(np.uint8) if x.dtype.kind == "b" else x
    chosen = (x == parted.spread(extreme(x, parted))) | (x != x)
    places = _beside(xp, _numbered(counts).astype(np.float64), x)  # a device finds the extremes of floating numbers
    return smallest_of(xp.where(chosen, places, np.inf), parted).astype(np.intp)


# Reductions by kernels of a device, and of others: see `lazyflow.ops.reduce`.


def _reduced_of(what: object, xp: ArrayModule, x: Array, counts: Array, ddof: int = 0) -> Array | None:
    """What a kernel of a device makes of stretches of rows; None where there is none."""
    if xp is np or not has_rows(x.dtype) or not x.size:
        return None
    return there.reduce_stretches(there.STRETCH_REDUCTIONS[what], x, groups_of(xp, counts), len(counts), ddof)


def _slopes_of(what: object, g: Array, y: Array, x: Array, counts: Array, ddof: int = 0) -> Array | None:
    """The same of the cotangents of rows."""
    if isinstance(x, np.ndarray) or not has_rows(x.dtype) or not g.dtype == y.dtype == x.dtype or not x.size:
        return None
    groups = groups_of(module(x), counts)
    return there.slopes_of_stretches(there.STRETCH_REDUCTIONS[what], g, y, x, groups, ddof)


def _off_mean(xp: ArrayModule, x: Array, parted: ByCount) -> Array:
    """What rows are off the mean of their stretch, counted from its first row: equal ones are off by nothing."""
    first = _rows_at(xp, x, _first_rows(parted.counts))
    off = x - parted.spread(xp.where(abs(first) <= np.finfo(x.dtype).max / 4, first, 0))
    return off - parted.spread(parted.sums(off) / _beside(xp, parted.counts.astype(x.dtype), x))


def _moment_of_parts(name: str, xp: ArrayModule, x: Array, counts: Array, out: Array = None, *, ddof: int) -> Array:
    dtype = averaged(x.dtype)
    x = wide(x.astype(dtype, copy=False))
    found = _reduced_of(name, xp, x, counts, ddof)
    if found is None:
        parted = ByCount(xp, counts)
        off = _off_mean(xp, x, parted)
        found = parted.sums(off * off) / _beside(xp, (counts - ddof).astype(x.dtype), x)
        found = xp.sqrt(found) if name == "std" else found
    return found.astype(dtype, copy=False)


def _var_of_parts_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array, *, ddof: int) -> Array:
    found = _slopes_of("var", g, y, x, counts, ddof)
    if found is not None:
        return found
    parted, rows = ByCount(xp, counts), wide(x)
    share = g * _beside(xp, 2 / (counts - ddof).astype(rows.dtype), rows)
    return multiply_no_nan(xp, parted.spread(share), _off_mean(xp, rows, parted)).astype(x.dtype, copy=False)


def _std_of_parts_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array, *, ddof: int) -> Array:
    found = _slopes_of("std", g, y, x, counts, ddof)
    if found is not None:
        return found
    parted, rows = ByCount(xp, counts), wide(x)
    y = y.astype(rows.dtype, copy=False)
    below = (y + (y == 0)) * _beside(xp, (counts - ddof).astype(rows.dtype), rows)
    known = parted.spread((y != 0).astype(rows.dtype)) != 0
    slope = select(xp, known, _off_mean(xp, rows, parted) / parted.spread(below))
    return multiply_no_nan(xp, parted.spread(g), slope).astype(x.dtype, copy=False)


def _norm_of_parts(xp: ArrayModule, x: Array, counts: Array, out: Array = None, *, ord: float) -> Array:
    found = _reduced_of(("norm", ord), xp, x, counts)
    if found is not None:
        return found
    parted, rows = ByCount(xp, counts), wide(x)
    if ord == 2:
        found = xp.sqrt(parted.sums(rows * rows))
    else:
        found = (parted.sums if ord == 1 else partial(largest_of, parted=parted))(abs(rows))
    return found.astype(x.dtype, copy=False)


def _norm_of_parts_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array, *, ord: float) -> Array:
    found = _slopes_of(("norm", ord), g, y, x, counts)
    if found is not None:
        return found
    parted = ByCount(xp, counts)
    share = parted.spread(g)
    if ord == 2:
        whole = parted.spread(y)
        return multiply_no_nan(xp, share, select(xp, whole != 0, x / (whole + (whole == 0))))
    if ord == np.inf:
        chosen = xp.abs(x) == parted.spread(y)
        many = parted.sums(chosen.astype(x.dtype))
        share = select(xp, chosen, parted.spread(g / xp.maximum(many, 1)))
    return select(xp, x > 0, share) - select(xp, x < 0, share)


def _logsumexp_of_parts(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    found = _reduced_of("logsumexp", xp, x, counts)
    if found is not None:
        return found
    parted, dtype, x = ByCount(xp, counts), x.dtype, wide(x)
    top = largest_of(x, parted)
    top = xp.where(xp.isfinite(top), top, 0)
    spread = parted.spread(top)
    ones = x == spread
    count = parted.sums(ones.astype(x.dtype))
    rest = parted.sums(xp.where(ones, 0, xp.exp(x - spread)))
    y = xp.log(xp.where(count > 0, count, rest)) + xp.log1p(xp.where(count > 0, rest / xp.maximum(count, 1), 0)) + top
    return y.astype(dtype, copy=False)


def _logsumexp_of_parts_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array) -> Array:
    found = _slopes_of("logsumexp", g, y, x, counts)
    if found is not None:
        return found
    parted, y = ByCount(xp, counts), xp.where(y == -np.inf, 0, y)
    return multiply_no_nan(xp, parted.spread(g), xp.exp(x - parted.spread(y)))


# The order of elements, equal ones in theirs, and rows around each stretch.


def _order_of_parts(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    fits = x.dtype.kind in "fiub" and x.dtype != np.uint64  # whose numbers are all numbers of what is compared
    if xp is not np and fits and int(counts.max()) <= there.MOST_ORDERED:
        whole = x if has_rows(x.dtype) else x.astype(np.float32 if x.dtype.kind == "f" else np.int64)
        return there.order_stretches(whole, groups_of(xp, counts), len(counts))
    answer = xp.empty(x.shape, np.intp)
    for _, rows in _of_each_length(counts):
        rows = on_device(xp, rows)
        answer[rows] = xp.argsort(x[rows], axis=1, kind="stable")
    return answer


def _padded_of_parts(
    xp: ArrayModule, x: Array, counts: Array, out: Array = None, *, pair: tuple[int, int], fill: float
) -> Array:
    if xp is not np and has_rows(x.dtype) and x.size:
        return there.pad_stretches(x, groups_of(xp, counts), len(counts), pair, fill)
    whole = xp.full((len(x) + len(counts) * sum(pair), *x.shape[1:]), fill, x.dtype)
    whole[on_device(xp, _places_in_pads(counts, pair))] = x
    return written(out, whole)


def _padded_of_parts_x(
    xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array, *, pair: tuple[int, int], fill: float
) -> Array:
    if xp is not np and has_rows(g.dtype) and g.size:
        return there.inside_of_pads(g, groups_of(xp, counts), len(counts), pair)
    return _rows_at(xp, g, _places_in_pads(counts, pair))


def _places_in_pads(counts: Array, pair: tuple[int, int]) -> HostArray:
    """Where the rows of each stretch stand when there are so many around each."""
    return np.arange(int(counts.sum())) + np.repeat(np.arange(len(counts)) * sum(pair) + pair[0], counts)


# Over further axes behind the first, too: each row is as many elements.


def _several_a_row(counts: Array, factor: int) -> Array:
    """The counts of elements, of so many in each row."""
    ends = getattr(counts, "ends", None)
    return counts * factor if ends is None else brought(counts * factor, None, ends * factor)


def _rows_of_elements(x: Array, more: int) -> Array:
    return x.reshape(x.shape[0] * prod(x.shape[1 : 1 + more]), *x.shape[1 + more :])


def _over_more(name: str, op: Op) -> Op:
    """A reduction of stretches over so many axes more."""
    (vjp,) = op.vjps

    def forward(xp: ArrayModule, x: Array, counts: Array, out: Array = None, *, more: int, **static: Any) -> Array:
        elements, several = _rows_of_elements(x, more), _several_a_row(counts, prod(x.shape[1 : 1 + more]))
        return op.forward(xp, elements, several, out, **static)

    def back(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array, *, more: int, **static: Any) -> Array:
        assert vjp is not None
        elements, several = _rows_of_elements(x, more), _several_a_row(counts, prod(x.shape[1 : 1 + more]))
        return vjp(xp, g, y, elements, several, **static).reshape(x.shape)

    return Op(name, OPS[name].infer, forward, (None if vjp is None else back,))


# Running sums.


def _running(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    dtype = summed_dtype(x.dtype)
    x = x.astype(RUNNING_WIDER.get(x.dtype, dtype), copy=False)
    return (_running_here if xp is np else _running_there)(xp, x, counts).astype(dtype, copy=False)


def _running_here(xp: ArrayModule, x: Array, counts: Array) -> Array:
    answer = np.empty_like(x)
    for _, rows in _of_each_length(counts):
        answer[rows] = x[rows].cumsum(1)
    return answer


def _running_there(xp: ArrayModule, x: Array, counts: Array) -> Array:
    """By sums of 2, 4, 8... rows (Hillis and Steele 1986), in as many steps as the longest has binary digits."""
    places, step, y = _beside(xp, _numbered(counts), x), 1, x.copy()
    while step < int(counts.max()):
        y[step:] += xp.where(places[step:] >= step, y[:-step], 0)
        step *= 2
    return y


def _running_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array) -> Array:
    """Running sums from the other end."""
    turned = _last_to_first(counts)
    return _rows_at(xp, _running(xp, _rows_at(xp, g, turned), counts), turned)


def _flipped(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    return _rows_at(xp, x, _last_to_first(counts))


def _flipped_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array) -> Array:
    return _flipped(xp, g, counts)


# One of the numbers of each stretch, and losses of a class among scores.


def _one_of_each(xp: ArrayModule, name: str, index: Array, counts: Array) -> Array:
    """The rows of elements with these indices, one a stretch; checked where they are on the host."""
    starts, index = _first_rows(counts), index.astype(np.int64, copy=False)
    if not isinstance(index, np.ndarray):  # what is computed may be out of range
        return index % on_device(xp, counts) + on_device(xp, starts)
    lowest = -counts if name == "pick" else 0
    wrong = (index < lowest) | (index >= counts)
    if wrong.any():
        number, n = index[wrong][0], int(counts[wrong][0])
        if name == "pick":
            raise IndexError(f"{name}: index {number} is out of range for an axis of {counted(n, 'element')}")
        raise IndexError(f"class {number} is out of range for {n} scores; classes are numbered from 0")
    return on_device(xp, np.where(index < 0, index + counts, index) + starts)


def _put_at(xp: ArrayModule, x: Array, places: Array, values: Array) -> Array:
    """Zeros like ``x``, but for these values at their places, which differ."""
    found = xp.zeros(x.shape, values.dtype)
    found[places] = values
    return found


def _picked_of_parts(
    sign: int, name: str, xp: ArrayModule, x: Array, index: Array, counts: Array, out: Array = None
) -> Array:
    found = x.take(_one_of_each(xp, name, index, counts), 0)
    return -found if sign < 0 else found


def _picked_of_parts_x(
    sign: int, name: str, xp: ArrayModule, g: Array, y: Array, x: Array, index: Array, counts: Array
) -> Array:
    return _put_at(xp, x, _one_of_each(xp, name, index, counts), -g if sign < 0 else g)


def _cross_entropy_of_parts(xp: ArrayModule, x: Array, index: Array, counts: Array, out: Array = None) -> Array:
    parted, dtype, x = ByCount(xp, counts), x.dtype, wide(x)
    shifted = x - parted.spread(largest_of(x, parted))
    picked = shifted.take(_one_of_each(xp, "cross_entropy", index, counts), 0)
    return (xp.log(parted.sums(xp.exp(shifted))) - picked).astype(dtype, copy=False)


def _cross_entropy_of_parts_x(xp: ArrayModule, g: Array, y: Array, x: Array, index: Array, counts: Array) -> Array:
    parted = ByCount(xp, counts)
    slopes = softmax_of_parts(x, parted)
    slopes[_one_of_each(xp, "cross_entropy", index, counts)] -= 1
    return multiply_no_nan(xp, parted.spread(g), slopes)


# Losses of elements, as their sums or means over stretches.


def _over_sizes(xp: ArrayModule, numbers: Array, x: Array, counts: Array, reduction: str) -> Array:
    """A number of each stretch, over the elements ``x`` that it has if it is a mean."""
    if reduction != "mean":
        return numbers
    sizes = counts * (x[:1].size or 1)
    return numbers / on_device(xp, sizes.astype(numbers.dtype))


def _loss_of_parts(
    op: Op, xp: ArrayModule, x: Array, target: Array, counts: Array, out: Array = None, *, reduction: str, **static: Any
) -> Array:
    losses = op.forward(xp, x, target, reduction="none", ndim=0, **static)
    rows = total(wide(losses), tuple(range(1, losses.ndim))) if losses.ndim > 1 else losses
    found = _over_sizes(xp, ByCount(xp, counts).sums(rows), losses, counts, reduction)
    return found.astype(losses.dtype, copy=False)


def _loss_of_parts_slope(
    vjp: StretchKernel,
    xp: ArrayModule,
    g: Array,
    y: Array,
    *given: Array,
    reduction: str,
    **static: Any,
) -> Array:
    x, target, counts = given
    share = ByCount(xp, counts).spread(_over_sizes(xp, g, x, counts, reduction))
    return vjp(xp, share.reshape((-1,) + (1,) * (x.ndim - 1)), y, x, target, reduction="none", ndim=0, **static)


looking_at(_logsumexp_of_parts_x, (0, 1, 2))
looking_at(_padded_of_parts_x, (2,))
looking_at(_running_x, (2,))
looking_at(_flipped_x, (2,))
looking_at(_picked_of_parts_x, (2, 3), (1,))
looking_at(_cross_entropy_of_parts_x, (1, 2, 3))
looking_at(_loss_of_parts_slope, (1, 2, 3))


def _picking(name: str, sign: int) -> tuple[str, Op]:
    kernels = [partial(of, sign, name) for of in (_picked_of_parts, _picked_of_parts_x)]
    return _stretched(name, *kernels, None)


def _stretched(name: str, forward: StretchKernel, *vjps: StretchKernel | None) -> tuple[str, Op]:
    return name, Op(name, OPS[name].infer, forward, vjps)


def _loss_stretched(name: str) -> tuple[str, Op]:
    op = OPS[name]
    slopes = [None if vjp is None else partial(_loss_of_parts_slope, vjp) for vjp in op.vjps]
    return _stretched(name, partial(_loss_of_parts, op), *slopes)


LOSSES_OF_ELEMENTS = ("mse", "bce_with_logits", "binary_cross_entropy", "huber")

# As `lazyflow.ops.segment.BY_PARTS`.
ALONG_STRETCHES: dict[str, Op] = dict(
    [
        _stretched("argmax", partial(_positions_of, "argmax"), None),
        _stretched("argmin", partial(_positions_of, "argmin"), None),
        _stretched("argsort", _order_of_parts, None),
        _stretched("logsumexp", _logsumexp_of_parts, _logsumexp_of_parts_x),
        _stretched("norm", _norm_of_parts, _norm_of_parts_x),
        _stretched("pad", _padded_of_parts, _padded_of_parts_x),
        _stretched("std", partial(_moment_of_parts, "std"), _std_of_parts_x),
        _stretched("var", partial(_moment_of_parts, "var"), _var_of_parts_x),
        _stretched("cumsum", _running, _running_x),
        _stretched("flip", _flipped, _flipped_x),
        _picking("pick", 1),
        _picking("nll", -1),
        _stretched("cross_entropy", _cross_entropy_of_parts, _cross_entropy_of_parts_x, None),
        *map(_loss_stretched, LOSSES_OF_ELEMENTS),
    ]
)

# Reductions over the first axis and some behind it; on the host some of them are as fast one by one (`ops/each.py`).
LOOPED_ON_HOST = ("max", "mean", "min", "sum")
OVER_MORE_AXES: dict[str, Op] = {
    name: _over_more(name, {**BY_PARTS, **ALONG_STRETCHES}[name])
    for name in ("argmax", "argmin", "logsumexp", "max", "mean", "min", "norm", "std", "sum", "var")
}

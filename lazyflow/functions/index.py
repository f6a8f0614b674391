"""Look-ups."""

from __future__ import annotations

import math
import operator
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np

from lazyflow import device as devices
from lazyflow.core.columns import are_within
from lazyflow.device import Array
from lazyflow.errors import ShapeError, counted
from lazyflow.functions.elementwise import isnan, negative, where
from lazyflow.functions.shape import broadcast_to, ravel, swapaxes
from lazyflow.ops import OPS
from lazyflow.ops.base import integer, negative_axis, require_integer
from lazyflow.record.expr import (
    Expr,
    OperandLike,
    binary,
    checked_range,
    constant,
    index_array,
    plain_dtype,
    record,
    taken_within,
)
from lazyflow.record.frames import indexed_frame
from lazyflow.record.templates import by_kinds
from lazyflow.record.trace import TracedNumber

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["argsort", "embedding", "kmax_pool", "one_hot", "pick", "scatter", "take", "take_along_axis", "topk"]

_lookup, _pick = binary(OPS["lookup"]), binary(OPS["pick"])


def _in_range(name: str, indices: OperandLike, size: int, what: str, lowest: int = 0) -> Array:
    array = index_array(indices)
    require_integer(name, "an index", array)
    return array if are_within(array, lowest, size) else checked_range(name, array, size, what, lowest)


@partial(indexed_frame, OPS["lookup"], 0, arrays=True)
def embedding(table: OperandLike, index: OperandLike) -> Expr:
    """Row ``index`` of ``table`` (n, ...); an array of indices gives an array of rows.

    The gradient of a parameter that is only looked up in is a `RowSparse`: only the rows touched.
    Raises ``IndexError`` for an index below 0 or not below n, at this line, or, of one that is computed, when it runs;
    `DTypeError` for one that is not of integers.

    >>> import lazyflow as lf
    >>> table = lf.Parameter([[0.0, 1.0], [2.0, 3.0]])
    >>> lf.embedding(table, 1).numpy()
    array([2., 3.], dtype=float32)
    """
    table = constant(table)
    if not table.shape:
        raise ShapeError("embedding: the table needs at least one axis")
    if isinstance(index, Expr):
        return record(OPS["lookup"], (table, index))
    if isinstance(index, TracedNumber):
        return record(OPS["lookup"], (table, index.below("embedding", table.shape[0])))
    label = getattr(table, "name", "") or "the table"
    array = _in_range(
        "embedding", index, table.shape[0], f"{label} of shape {table.shape}, with indices 0 to {table.shape[0] - 1}"
    )
    return _lookup(table, int(array)) if array.ndim == 0 else record(OPS["lookup"], (table, array))


def take(x: OperandLike, indices: OperandLike, axis: int = 0) -> Expr:
    """The elements of ``x`` at integer ``indices`` (an array, a list or an expression) along ``axis``, as
    ``numpy.take``. Negative ones count from the end. Errors as in `embedding`.

    >>> import lazyflow as lf
    >>> lf.take(lf.constant([5.0, 6.0, 7.0]), [2, 0]).numpy()
    array([7., 5.], dtype=float32)
    """
    found = taken_within(x, indices) if type(axis) is int and axis == 0 else None
    if found is not None:
        return found
    x = constant(x)
    axis = integer("take", "axis", axis)
    if not isinstance(indices, Expr) and -x.ndim <= axis < x.ndim:
        size = x.shape[axis]
        given = _in_range("take", indices, size, f"axis {axis} of shape {x.shape}", lowest=-size)
        indices = np.where(given < 0, given + size, given)
    return record(OPS["take"], (x, indices), axis=axis)


@partial(indexed_frame, OPS["pick"], -1)
def pick(x: OperandLike, index: OperandLike, axis: int = -1) -> Expr:
    """One element along ``axis``: ``x[..., index]`` by default; the index is payload, so different ones batch.

    >>> import lazyflow as lf
    >>> lf.pick(lf.constant([5.0, 6.0, 7.0]), 2).item()
    7.0
    """
    x = constant(x)
    axis = integer("pick", "axis", axis)
    if devices.is_array(index):
        index = index_array(index)[()]  # one of no axes is a number
    if isinstance(index, TracedNumber) and index.value >= 0 and axis in (-1, x.ndim - 1):
        return record(OPS["pick"], (x, index.below("pick", x.shape[-1])))
    if isinstance(index, int | np.integer) and -x.ndim <= axis < x.ndim:
        size = x.shape[axis]
        index = int(
            _in_range("pick", index + size if -size <= index < 0 else index, size, f"axis {axis} of shape {x.shape}")
        )
        if axis in (-1, x.ndim - 1):
            return _pick(x, index)
    return record(OPS["pick"], (x, index), axis=axis)


@by_kinds
def one_hot(index: OperandLike, n: int, dtype: DTypeLike = np.float32) -> Expr:
    """A vector of ``n`` zeros with a one at ``index``.

    >>> import lazyflow as lf
    >>> lf.one_hot(1, 3).numpy()
    array([0., 1., 0.], dtype=float32)
    """
    n = integer("one_hot", "n, the number of classes,", n)
    if not isinstance(index, Expr):
        _in_range("one_hot", index, n, f"{n} classes")
    return record(OPS["one_hot"], (index,), n=n, dtype=plain_dtype(dtype))


@by_kinds
def argsort(x: OperandLike, axis: int = -1) -> Expr:
    """The indices that sort ``x`` along ``axis``, equal elements in their order; an int64 expression.

    >>> import lazyflow as lf
    >>> lf.argsort(lf.constant([5.0, 1.0, 3.0])).numpy()
    array([1, 2, 0])
    """
    return record(OPS["argsort"], (constant(x),), axis=int(axis))


def take_along_axis(x: OperandLike, indices: OperandLike, axis: int | None = -1) -> Expr:
    """The elements of ``x`` at ``indices`` along ``axis``, as ``numpy.take_along_axis``: one look-up in the flattened
    array.

    >>> import lazyflow as lf
    >>> lf.take_along_axis(lf.constant([[5.0, 6.0], [7.0, 8.0]]), np.array([[1], [0]])).numpy()
    array([[6.],
           [7.]], dtype=float32)
    """
    x = constant(x)
    if axis is None:
        return take(ravel(x), indices)
    axis = x.ndim + negative_axis("take_along_axis", axis, x.ndim)
    size = x.shape[axis]
    if not isinstance(indices, Expr):
        _in_range("take_along_axis", indices, size, f"axis {axis} of shape {x.shape}", lowest=-size)
    index = record(OPS["offsets"], (constant(indices),), n=size, name="take_along_axis")
    shape = np.broadcast_shapes((*x.shape[:axis], 1, *x.shape[axis + 1 :]), index.shape)
    index = index if index.shape == shape else broadcast_to(index, shape)
    strides = [math.prod(x.shape[i + 1 :]) for i in range(x.ndim)]
    places = [np.arange(n).reshape([-1 if i == j else 1 for j in range(x.ndim)]) for i, n in enumerate(shape)]
    others = reduce(operator.add, (p * s for i, (p, s) in enumerate(zip(places, strides, strict=True)) if i != axis), 0)
    return take(ravel(x), index * strides[axis] + others)


def scatter(rows: OperandLike, index: OperandLike, n: int) -> Expr:
    """Zeros (n, ...), to which each of ``rows`` (*index.shape, ...) is added at its ``index``: a sparse value, dense.

    Gradients flow to the rows; rows of one index add up. Errors as in `embedding`, and `ShapeError` for rows that do
    not begin with the shape of ``index``.

    >>> import lazyflow as lf
    >>> lf.scatter(lf.constant([5.0, 6.0, 1.0]), [3, 0, 3], 4).numpy()
    array([6., 0., 0., 6.], dtype=float32)
    """
    n = integer("scatter", "n, the number of rows,", n)
    if not isinstance(index, Expr):
        index = _in_range("scatter", index, n, counted(n, "row"))
    return record(OPS["scatter"], (constant(rows), index), n=n)


def _largest(name: str, x: Expr, k: int, axis: int) -> Expr:
    """The places of the ``k`` largest along ``axis``, the largest first; of equals the first."""
    k, axis = integer(name, "k", k), negative_axis(name, axis, x.ndim)
    if not 1 <= k <= x.shape[axis]:
        raise ShapeError(f"{name}: k must be from 1 to {x.shape[axis]}, the size of axis {axis}; got {k}")
    # All bits inverted, integers stand in reverse order, the least too, which has no negative. NaN is the largest.
    falling = where(isnan(x), -math.inf, negative(x)) if x.dtype.kind == "f" else record(OPS["invert"], (x,))
    order = argsort(falling, axis)
    return order[:k] if axis == -x.ndim else swapaxes(swapaxes(order, 0, axis)[:k], 0, axis)


@by_kinds
def topk(x: OperandLike, k: int, axis: int = -1) -> tuple[Expr, Expr]:
    """The ``k`` largest elements along ``axis``, the largest first, and their places, int64.

    Gradients flow to the elements. Raises `ShapeError` for ``k`` below 1 or beyond the size of the axis.

    >>> import lazyflow as lf
    >>> values, places = lf.topk(lf.constant([1.0, 5.0, 3.0]), 2)
    >>> values.numpy(), places.numpy()
    (array([5., 3.], dtype=float32), array([1, 2]))
    """
    x = constant(x)
    places = _largest("topk", x, k, axis)
    return take_along_axis(x, places, axis), places


@by_kinds
def kmax_pool(x: OperandLike, k: int, axis: int = -1) -> Expr:
    """The ``k`` largest elements along ``axis`` in the order in which they stand (Kalchbrenner et al. 2014).

    Raises `ShapeError` for ``k`` below 1 or beyond the size of the axis.

    >>> import lazyflow as lf
    >>> lf.kmax_pool(lf.constant([3.0, 1.0, 5.0, 4.0]), 3).numpy()
    array([3., 5., 4.], dtype=float32)
    """
    x = constant(x)
    places = _largest("kmax_pool", x, k, axis)
    return take_along_axis(x, take_along_axis(places, argsort(places, axis), axis), axis)

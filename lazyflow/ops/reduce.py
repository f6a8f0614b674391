"""Reductions over an example's axes, normalisations along one axis, and sums over a list of operands.

The shape rules turn ``axis`` (an integer, several, or None for all axes of the example) into axes counted from the end.
Gradients are shared evenly among ties, right where factors are zero, and zero where a norm or a standard deviation is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from lazyflow import core
from lazyflow.core.arrays import begins
from lazyflow.cuda import rows as there
from lazyflow.cuda.along import ROW_OPERATIONS, SLOPES, along_rows
from lazyflow.cuda.reductions import MOST_OF_A_WARP, STRETCH_REDUCTIONS, reduce_stretches, slopes_of_stretches
from lazyflow.cuda.segments import along_segments, slopes_along_segments
from lazyflow.cuda.text import REALS
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import (
    ALL,
    NOTHING,
    OPS,
    STRETCH,
    Abstract,
    Axis,
    Op,
    Result,
    Shape,
    adding,
    looking_at,
    negative_axes,
    negative_axis,
    on_device,
    register,
    require_floating,
    symbolic,
    total,
    wide,
)
from lazyflow.ops.formula import multiply_no_nan, select
from lazyflow.ops.sparse import core_has, sums_of_segments

Axes = tuple[int, ...]
ReductionKernel = Callable[..., Array]


# Shape rules.


def _reduced(shape: Shape, axes: Axes, keepdims: bool) -> Shape:
    if keepdims:
        return tuple(1 if i - len(shape) in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i - len(shape) not in axes)


def _is_kept(name: str, keepdims: object) -> bool:
    """``keepdims`` as a truth value; a dtype, which stands there in other libraries, is none."""
    if keepdims is None or isinstance(keepdims, int | np.bool_ | np.integer):
        return bool(keepdims)
    raise TypeError(f"{name}: keepdims must be True or False, got {keepdims!r}; x.astype(dtype) converts")


def _count(shape: Shape, axes: Axes) -> int:
    """How many elements go into one element of the result."""
    return math.prod(shape[a] for a in axes)


def _require_elements(name: str, x: Abstract, axes: Axes) -> None:
    if not _count(x.shape, axes):
        raise ShapeError(f"{name} of no elements: axes {axes} of the shape {x.shape} hold none, at least 1 is needed")


def summed_dtype(dtype: DType) -> DType:
    """The dtype that NumPy sums in: integers and truth values are counted in the machine's integer."""
    dtype = np.add.reduce(np.ones(1, dtype)).dtype
    return dtype


def averaged(dtype: DType) -> DType:
    """The dtype of NumPy's means: float64 for integers and truth values."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _same_dtype(dtype: DType) -> DType:
    return dtype


def _boolean(dtype: DType) -> DType:
    return np.dtype(np.bool_)


def _infer(
    name: str, dtype: Callable[[DType], DType], empty: bool, x: Abstract, axis: Axis = None, keepdims: bool = False
) -> Result:
    axes = negative_axes(name, axis, len(x.shape))
    if not empty:
        _require_elements(name, x, axes)
    keepdims = _is_kept(name, keepdims)
    return Result(_reduced(x.shape, axes, keepdims), dtype(x.dtype), {"axis": axes, "keepdims": keepdims})


@cache
def _axes_subscript(axis: Axes) -> tuple[object, ...]:
    """The subscript that gives a reduced array its axes back, with size 1."""
    return (..., *(None if a in axis else ALL for a in range(min(axis, default=0), 0)))


def _spread(reduced: Array, axis: Axes, keepdims: bool) -> Array:
    """A reduced array, so that it broadcasts against what it was reduced from."""
    return reduced if keepdims or not axis else reduced[_axes_subscript(axis)]


def _elements(x: Array, axis: Axes) -> int:
    return _count(x.shape, axis)


def _room(out: Array | None, x: Array, axis: Axes, keepdims: bool) -> Array | None:
    """``out`` if a reduction of ``x`` can be written there: one of a shared operand lacks the batch axis."""
    return out if out is not None and out.ndim == x.ndim - (0 if keepdims else len(axis)) else None


def _method(name: str) -> ReductionKernel:
    """The kernel that is a method of arrays."""

    def reduce(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool, **static: object) -> Array:
        return getattr(x, name)(axis=axis, keepdims=keepdims, out=_room(out, x, axis, keepdims), **static)

    return reduce


def _reduction(
    name: str,
    forward: ReductionKernel,
    vjp: ReductionKernel | None = None,
    *,
    dtype: Callable[[DType], DType] = _same_dtype,
    empty: bool = False,
) -> Op:
    """Register a reduction; ``dtype`` says what becomes of the operand's, ``empty`` whether it may be over nothing."""
    return register(Op(name, partial(_infer, name, dtype, empty), forward, (vjp,)))


# Sums and products.


def _sum_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return _spread(g, axis, keepdims)


def _mean_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return _spread(g, axis, keepdims) / _elements(x, axis)


def _prod_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Times the product of the other factors, which is zero where one of those is."""
    if symbolic(xp):
        return multiply_no_nan(xp, _spread(g, axis, keepdims), _products_of_others(xp, x, axis))
    zero = x == 0
    factors = xp.where(zero, 1, wide(x))
    others = xp.prod(factors, axis=axis, keepdims=True) / factors
    zeros_among_others = xp.sum(zero, axis=axis, keepdims=True) - zero
    answer = select(xp, zeros_among_others == 0, multiply_no_nan(xp, wide(_spread(g, axis, keepdims)), others))
    return answer.astype(x.dtype, copy=False)


def _products_of_others(xp: ArrayModule, x: Array, axis: Axes) -> Array:
    """For every element the product of the others along ``axis``, one product each: right to any order, at zeros
    too."""
    if not axis:
        return xp.ones(x.shape, x.dtype)
    last = tuple(range(-len(axis), 0))
    moved = xp.moveaxis(x, axis, last)
    flat = _flattened(moved, len(axis))
    itself = np.eye(flat.shape[-1], dtype=np.bool_)
    others = xp.where(itself, 1, flat[..., None, :]).prod(axis=-1)
    return xp.moveaxis(others.reshape(moved.shape), last, axis)


def _sum(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool) -> Array:
    if x.dtype.kind != "f":
        return x.sum(axis=axis, keepdims=keepdims, out=_room(out, x, axis, keepdims))
    return total(x, axis, keepdims, _room(out, x, axis, keepdims))


def _mean(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool) -> Array:
    if x.dtype.kind != "f":
        return x.mean(axis=axis, keepdims=keepdims, out=_room(out, x, axis, keepdims))
    mean = total(wide(x), axis, keepdims)
    return xp.asarray(mean / mean.dtype.type(_elements(x, axis))).astype(x.dtype, copy=False)


def _prod(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool) -> Array:
    if x.dtype == np.float16:
        return x.prod(axis=axis, keepdims=keepdims, dtype=np.float32).astype(x.dtype)
    return x.prod(axis=axis, keepdims=keepdims, out=_room(out, x, axis, keepdims))


SUM = _reduction("sum", _sum, looking_at(_sum_x, ()), dtype=summed_dtype, empty=True)
MEAN = _reduction("mean", _mean, looking_at(_mean_x, (), (1,)), dtype=averaged)
PROD = _reduction("prod", _prod, _prod_x, dtype=summed_dtype, empty=True)


# Extremes and truth values.


class _Lined(NamedTuple):
    """Arrays as rows of a device, those of each group behind each other; how many groups there are."""

    rows: list[Array]
    groups: there.Groups
    number: int


def _lined(xp: ArrayModule, axis: Axes, x: Array, *of: Array, whole: bool = False) -> _Lined | None:
    """``x``, with axes that stand together as one, and what has an element for each that is left, or all of them;
    None where a device has no kernels for it."""
    if xp is np or symbolic(xp) or x.dtype.name not in REALS or not x.size or not axis:
        return None
    low, high = x.ndim + min(axis), x.ndim + max(axis) + 1
    n, inner = math.prod(x.shape[low:high]), math.prod(x.shape[high:])
    size = x.size if whole else x.size // n
    if high - low != len(axis) or n > MOST_OF_A_WARP or any(a.dtype != x.dtype or a.size != size for a in of):
        return None
    rows = [xp.ascontiguousarray(a).reshape(-1, inner) for a in (x, *of)]
    return _Lined(rows, there.Groups(None, n), x.size // (n * inner))


def _along_there(xp: ArrayModule, name: str, axis: Axes, x: Array, *of: Array) -> Array | None:
    """What a kernel of a device makes along axes, or of cotangents and results the cotangents of ``x``; None where
    there is none."""
    found = _lined(xp, axis, x, *of, whole=name.endswith("softmax"))
    if found is None:
        return None
    (rows, *more), groups, count = found
    if not of:
        return along_segments(name, rows, groups, count).reshape(x.shape)
    g, y = more
    return slopes_along_segments(name, g, y, rows, groups, count).reshape(x.shape)


def _reduced_there(
    xp: ArrayModule, what: object, x: Array, axis: Axes, keepdims: bool, *of: Array, ddof: int = 0
) -> Array | None:
    """The same of `STRETCH_REDUCTIONS`."""
    found = _lined(xp, axis, x, *of)
    if found is None:
        return None
    (rows, *more), groups, count = found
    if not of:
        shape = _reduced((*x.shape,), axis, keepdims)
        return reduce_stretches(STRETCH_REDUCTIONS[what], rows, groups, count, ddof).reshape(shape)
    g, y = more
    return slopes_of_stretches(STRETCH_REDUCTIONS[what], g, y, rows, groups, ddof).reshape(x.shape)


def _extreme_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    found = _along_there(xp, "max", axis, x, g, y)
    if found is not None:
        return found
    chosen = x == _spread(y, axis, keepdims)
    return select(xp, chosen, _spread(g, axis, keepdims) / _number(xp, chosen, axis, g.dtype))


def _number(xp: ArrayModule, chosen: Array, axis: Axes, dtype: DType) -> Array:
    """How many are chosen, as floating numbers, so that a quotient keeps its dtype."""
    return xp.sum(chosen, axis=axis, keepdims=True).astype(dtype)


MAX = _reduction("max", _method("max"), _extreme_x)
MIN = _reduction("min", _method("min"), _extreme_x)
ANY = _reduction("any", _method("any"), dtype=_boolean, empty=True)
ALL_TRUE = _reduction("all", _method("all"), dtype=_boolean, empty=True)


def _position_infer(name: str, x: Abstract, axis: int | None = None, keepdims: bool = False) -> Result:
    ndim = len(x.shape)
    axes = _one_or_all(name, axis, ndim)
    _require_elements(name, x, axes)
    keepdims = _is_kept(name, keepdims)
    shape = _reduced(x.shape, axes, keepdims)
    return Result(shape, np.dtype(np.intp), {"axis": axes, "flat": axis is None, "keepdims": keepdims})


def _one_or_all(name: str, axis: int | None, ndim: int) -> Axes:
    """One axis, or all of them as if they were one: what running sums and positions are counted along."""
    if axis is not None and not isinstance(axis, int | np.integer):
        raise ShapeError(f"{name} takes one axis, or None for the flattened value, got {axis!r}")
    return negative_axes(name, axis if axis is None else int(axis), ndim)


def _flattened(x: Array, ndim: int) -> Array:
    """The last ``ndim`` axes as one."""
    return x.reshape((*x.shape[: x.ndim - ndim], math.prod(x.shape[x.ndim - ndim :])))


def _position(
    name: str, xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, flat: bool, keepdims: bool
) -> Array:
    y = getattr(_flattened(x, len(axis)), name)(axis=-1) if flat else getattr(x, name)(axis=axis[0])
    return _spread(y, axis, False) if keepdims else y


ARGMAX = register(Op("argmax", partial(_position_infer, "argmax"), partial(_position, "argmax"), (None,)))
ARGMIN = register(Op("argmin", partial(_position_infer, "argmin"), partial(_position, "argmin"), (None,)))


# Moments and norms.


def _moment_infer(name: str, x: Abstract, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Result:
    shape, dtype, static = _infer(name, averaged, False, x, axis, keepdims)
    count = _count(x.shape, static["axis"])
    if count <= ddof:
        raise ShapeError(
            f"{name} divides by the number of elements minus ddof: {count} elements need a smaller ddof than {ddof}"
        )
    return Result(shape, dtype, {**static, "ddof": ddof})


def _first(x: Array, axis: Axes) -> Array:
    """The first element along the axes, which stay."""
    places = [slice(0, 1) if a in axis else slice(None) for a in range(min(axis, default=0), 0)]
    index = (Ellipsis, *places)
    return x[index]


def _centred(xp: ArrayModule, x: Array, axis: Axes) -> Array:
    """What elements are off their mean, counted from the first of them: equal ones are off by nothing at all, where a
    rounded mean would leave some digits, of which `_std_x` would make a slope."""
    if symbolic(xp):
        off = x - xp.record_op(OPS["detach"], (_first(x, axis),))
        return off - xp.mean(off, axis=axis, keepdims=True)
    return _wide_centred(xp, x, axis).astype(x.dtype, copy=False)


def _wide_centred(xp: ArrayModule, x: Array, axis: Axes) -> Array:
    x = wide(x)
    first = _first(x, axis)
    off = x - xp.where(abs(first) <= np.finfo(x.dtype).max / 4, first, 0)  # no difference overflows, nor is infinite
    return off - total(off, axis, True) / off.dtype.type(_elements(x, axis))


def _var_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool, ddof: int) -> Array:
    found = _reduced_there(xp, "var", x, axis, keepdims, g, y, ddof=ddof)
    if found is not None:
        return found
    share = _spread(g, axis, keepdims) * (2 / (_elements(x, axis) - ddof))
    return multiply_no_nan(xp, share, _centred(xp, x, axis))


def _std_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool, ddof: int) -> Array:
    found = _reduced_there(xp, "std", x, axis, keepdims, g, y, ddof=ddof)
    if found is not None:
        return found
    y = _spread(y, axis, keepdims)
    slope = select(xp, y != 0, _centred(xp, x, axis) / (y + (y == 0)) / (_elements(x, axis) - ddof))
    return multiply_no_nan(xp, _spread(g, axis, keepdims), slope)


def _var(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool, ddof: int) -> Array:
    if x.dtype.kind != "f":
        return x.var(axis=axis, keepdims=keepdims, ddof=ddof)
    found = _reduced_there(xp, "var", x, axis, keepdims, ddof=ddof)
    if found is not None:
        return found
    return _wide_var(xp, x, axis, keepdims, ddof).astype(x.dtype, copy=False)


def _wide_var(xp: ArrayModule, x: Array, axis: Axes, keepdims: bool, ddof: int) -> Array:
    off = _wide_centred(xp, x, axis)
    return xp.asarray(total(off * off, axis, keepdims) / off.dtype.type(_elements(x, axis) - ddof))


def _std(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool, ddof: int) -> Array:
    if x.dtype.kind != "f":
        return x.std(axis=axis, keepdims=keepdims, ddof=ddof)
    found = _reduced_there(xp, "std", x, axis, keepdims, ddof=ddof)
    if found is not None:
        return found
    return xp.sqrt(_wide_var(xp, x, axis, keepdims, ddof)).astype(x.dtype, copy=False)


VAR = register(Op("var", partial(_moment_infer, "var"), _var, (_var_x,)))
STD = register(Op("std", partial(_moment_infer, "std"), _std, (_std_x,)))


def _norm_infer(x: Abstract, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Result:
    require_floating("norm", x)
    if ord not in (1, 2, math.inf):
        raise ValueError(f"norm: ord must be 1, 2 or inf, got {ord!r}")
    shape, dtype, static = _infer("norm", _same_dtype, ord != math.inf, x, axis, keepdims)
    return Result(shape, dtype, {**static, "ord": ord})


def _norm(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool, ord: float) -> Array:
    found = _reduced_there(xp, ("norm", ord), x, axis, keepdims)
    if found is not None:
        return found
    out = _room(out, x, axis, keepdims)
    if ord == 2:
        x, dtype = wide(x), x.dtype
        return xp.asarray(xp.sqrt(total(x * x, axis, keepdims))).astype(dtype, copy=False)
    size = abs(x)
    return total(size, axis, keepdims, out) if ord == 1 else size.max(axis=axis, keepdims=keepdims, out=out)


def _norm_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool, ord: float) -> Array:
    found = _reduced_there(xp, ("norm", ord), x, axis, keepdims, g, y)
    if found is not None:
        return found
    g, y = _spread(g, axis, keepdims), _spread(y, axis, keepdims)
    if ord == 2:
        return multiply_no_nan(xp, g, select(xp, y != 0, x / (y + (y == 0))))
    if ord == math.inf:
        chosen = xp.abs(x) == y
        g = select(xp, chosen, g / _number(xp, chosen, axis, g.dtype))
    return select(xp, x > 0, g) - select(xp, x < 0, g)


NORM = register(Op("norm", _norm_infer, _norm, (_norm_x,)))


# Exponentials, shifted by the largest element so that nothing overflows.


def _floating_infer(name: str, x: Abstract, axis: Axis = None, keepdims: bool = False) -> Result:
    require_floating(name, x)
    return _infer(name, _same_dtype, False, x, axis, keepdims)


def _logsumexp(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, keepdims: bool) -> Array:
    found = _reduced_there(xp, "logsumexp", x, axis, keepdims)
    if found is not None:
        return found
    x, dtype = wide(x), x.dtype
    top = x.max(axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)  # inf - inf is not a number
    # The largest terms are ones, and are counted: beside them the others would be rounded away.
    ones = x == top
    count = xp.sum(ones, axis=axis, keepdims=True).astype(x.dtype)
    rest = total(xp.where(ones, 0, xp.exp(x - top)), axis, keepdims=True)
    y = xp.log(xp.where(count > 0, count, rest)) + xp.log1p(xp.where(count > 0, rest / xp.maximum(count, 1), 0)) + top
    if not keepdims and axis:
        y = y.reshape(_reduced(y.shape, axis, False))
    return y.astype(dtype, copy=False)


def _logsumexp_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    found = _reduced_there(xp, "logsumexp", x, axis, keepdims, g, y)
    if found is not None:
        return found
    y = xp.where(y == -math.inf, 0, y)  # nothing but minus infinities: what they are less it is not a number
    return multiply_no_nan(xp, _spread(g, axis, keepdims), xp.exp(x - _spread(y, axis, keepdims)))


LOGSUMEXP = register(Op("logsumexp", partial(_floating_infer, "logsumexp"), _logsumexp, (_logsumexp_x,)))


# Along one axis, or the last ones: one pass over rows, where nothing stands behind them, by the core or a kernel.


def _along_last(
    xp: ArrayModule, name: str, count: int, out: Array | None, x: Array, *of: Array, eps: float = 0.0
) -> Array | None:
    """The operation ``name`` along the last ``count`` axes, or the cotangents of its operand from result and
    cotangents; None where it is to be made of others."""
    at_home = xp is np and core.machine is not None
    if symbolic(xp) or not (at_home or xp is not np) or x.dtype.name not in REALS or not x.size:
        return None
    if any(a.shape != x.shape or a.dtype != x.dtype for a in of):
        return None
    if out is None or out.shape != x.shape or not out.flags.c_contiguous:
        out = xp.empty(x.shape, x.dtype)
    rows, width = [xp.ascontiguousarray(a) for a in (x, *of)], math.prod(x.shape[x.ndim - count :])
    if at_home:
        core.machine.along((core.machine.ALONG_SLOPES if of else core.machine.ALONG)[name], width, eps, out, *rows)
    else:
        along_rows(ROW_OPERATIONS[name] + (SLOPES if of else 0), width, eps, out, *rows)
    return out


def _along_one(xp: ArrayModule, name: str, axis: int, out: Array | None, x: Array, *of: Array) -> Array | None:
    """The same along one axis, which on a device may be any."""
    if axis == -1:
        return _along_last(xp, name, 1, out, x, *of)
    return _along_there(xp, name, (axis,), x, *of[::-1])


def _along_infer(name: str, x: Abstract, axis: int = -1) -> Result:
    require_floating(name, x)
    found = negative_axis(name, axis, len(x.shape))
    _require_elements(name, x, (found,))
    return Result(x.shape, x.dtype, {"axis": found})


def softmax_of(xp: ArrayModule, x: Array, out: Array = None, *, axis: int) -> Array:
    """``exp(x) / sum(exp(x))`` along ``axis``, in four passes over ``out``."""
    if x.dtype == np.float16:
        return softmax_of(xp, x.astype(np.float32), axis=axis).astype(x.dtype)
    found = _along_one(xp, "softmax", axis, out, x)
    if found is not None:
        return found
    y = xp.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    xp.exp(y, y)
    return xp.divide(y, total(y, axis, keepdims=True), y)


def _softmax_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: int) -> Array:
    found = _along_one(xp, "softmax", axis, None, x, y, g)
    if found is not None:
        return found
    weighted = multiply_no_nan(xp, g, y)
    return weighted - multiply_no_nan(xp, xp.sum(weighted, axis=axis, keepdims=True), y)


def log_softmax_of(xp: ArrayModule, x: Array, out: Array = None, *, axis: int) -> Array:
    """``log(softmax(x))`` along ``axis``."""
    if x.dtype == np.float16:
        return log_softmax_of(xp, x.astype(np.float32), axis=axis).astype(x.dtype)
    found = _along_one(xp, "log_softmax", axis, out, x)
    if found is not None:
        return found
    y = xp.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    return xp.subtract(y, xp.log(total(xp.exp(y), axis, keepdims=True)), y)


def _log_softmax_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: int) -> Array:
    found = _along_one(xp, "log_softmax", axis, None, x, y, g)
    if found is not None:
        return found
    return g - multiply_no_nan(xp, xp.sum(g, axis=axis, keepdims=True), xp.exp(y))


SOFTMAX = register(Op("softmax", partial(_along_infer, "softmax"), softmax_of, (_softmax_x,)))
LOG_SOFTMAX = register(Op("log_softmax", partial(_along_infer, "log_softmax"), log_softmax_of, (_log_softmax_x,)))


# Less the mean, over the root mean square: what norms of layers are made of (Ba, Kiros and Hinton 2016).


def _standardise_infer(x: Abstract, axis: Axis = -1, eps: float = 1e-5) -> Result:
    require_floating("standardise", x)
    axes = negative_axes("standardise", axis, len(x.shape))
    _require_elements("standardise", x, axes)
    return Result(x.shape, x.dtype, {"axis": axes, "eps": float(eps)})


def _are_last(axis: Axes) -> bool:
    return sorted(axis) == list(range(-len(axis), 0))


def _standardise(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, eps: float) -> Array:
    found = _along_last(xp, "standardise", len(axis), out, x, eps=eps) if _are_last(axis) else None
    if found is not None:
        return found
    off = _wide_centred(xp, x, axis)
    scale = xp.sqrt(total(off * off, axis, True) / off.dtype.type(_elements(x, axis)) + off.dtype.type(eps))
    return (off / scale).astype(x.dtype, copy=False)


def _standardise_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, eps: float) -> Array:
    found = _along_last(xp, "standardise", len(axis), None, x, y, g, eps=eps) if _are_last(axis) else None
    if found is not None:
        return found
    if not symbolic(xp) and x.dtype == np.float16:
        wider = [a.astype(np.float32) for a in (g, y, x)]
        return _standardise_x(xp, *wider, axis=axis, eps=eps).astype(x.dtype)
    off, weighted = _centred(xp, x, axis), multiply_no_nan(xp, g, y)
    scale = xp.sqrt(xp.mean(off * off, axis=axis, keepdims=True) + eps)
    along = multiply_no_nan(xp, xp.mean(weighted, axis=axis, keepdims=True), y)
    return multiply_no_nan(xp, g - xp.mean(g, axis=axis, keepdims=True) - along, 1 / scale)


STANDARDISE = register(Op("standardise", _standardise_infer, _standardise, (_standardise_x,)))


# Running sums.


def _cumsum_infer(x: Abstract, axis: int | None = None) -> Result:
    axes = _one_or_all("cumsum", axis, len(x.shape))
    shape = (math.prod(x.shape),) if axis is None else x.shape
    return Result(shape, summed_dtype(x.dtype), {"axis": axes, "flat": axis is None})


RUNNING_WIDER = {np.dtype(np.float16): np.float32, np.dtype(np.float32): np.float64}


def _cumsum(xp: ArrayModule, x: Array, out: Array = None, *, axis: Axes, flat: bool) -> Array:
    flattened, along = (_flattened(x, len(axis)), -1) if flat else (x, axis[0])
    if x.dtype in RUNNING_WIDER:  # one after another they must be added, so in a wider dtype
        return flattened.cumsum(axis=along, dtype=RUNNING_WIDER[x.dtype]).astype(x.dtype)
    room = out if out is not None and out.shape == flattened.shape else None
    return flattened.cumsum(axis=along, out=room)


def _cumsum_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Axes, flat: bool) -> Array:
    """Running sums from the other end."""
    along = -1 if flat else axis[0]
    answer = xp.flip(xp.cumsum(xp.flip(g, along), along), along)
    return answer.reshape((*g.shape[:1], *x.shape[x.ndim - len(axis) :])) if flat else answer


CUMSUM = register(Op("cumsum", _cumsum_infer, _cumsum, (_cumsum_x,)))


# Sums over a list, ragged: all operands of all nodes end to end, (total, *shape), and how many are each node's.


def _list_infer(name: str, dtype: Callable[[DType], DType], *operands: Abstract) -> Result:
    if not operands:
        raise ShapeError(f"{name} needs at least one operand, got none")
    first = operands[0]
    shapes = sorted({o.shape for o in operands})
    if len(shapes) > 1:
        raise ShapeError(f"{name} needs operands of one shape, got {' and '.join(map(str, shapes))}")
    if len({o.dtype for o in operands}) > 1:
        dtypes = " and ".join(sorted({str(o.dtype) for o in operands}))
        raise DTypeError(f"{name} needs operands of one dtype, got {dtypes}; convert with .astype(...)")
    return Result(first.shape, dtype(first.dtype), NOTHING)


def sums_of_stretches(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    """Sums of consecutive stretches of rows, of float16 in float32; on a device in ``out``, if that can be."""
    if _are_there(x):
        return _grouped(xp, x, counts, out)
    counts, x = np.asarray(counts.tolist()), wide(x)
    if xp is np and core_has(x):
        return _grouped_here(x, counts)
    if (counts == counts[0]).all():
        return total(x.reshape((len(counts), int(counts[0]), *x.shape[1:])), 1)
    starts = np.cumsum(counts) - counts
    if xp is np:
        sums = np.add.reduceat(x, starts, axis=0)
        for i in np.flatnonzero(counts > STRETCH) if x.dtype.kind == "f" else ():
            sums[i] = total(x[starts[i] : starts[i] + counts[i]], 0)
        return sums
    return sums_of_segments(xp, np.repeat(np.arange(len(counts)), counts), x, len(counts))


def _grouped_here(x: Array, counts: Array) -> Array:
    """By the compiled core: ``np.add.reduceat`` takes half a microsecond a group and more."""
    sums = np.empty((len(counts), *x.shape[1:]), x.dtype)
    core.machine.sum_groups(sums.reshape(len(counts), -1), x.reshape(len(x), -1), None, begins(counts))
    return sums


def _are_there(x: Array) -> bool:
    """Whether a device has kernels for these rows."""
    return not isinstance(x, np.ndarray) and bool(x.size) and there.has_rows(x.dtype) and x.flags.c_contiguous


def groups_of(xp: ArrayModule, counts: Array) -> there.Groups:
    """Stretches of so many rows, as kernels of a device have them."""
    if (counts == counts[0]).all():
        return there.Groups(None, int(counts[0]))
    ends = getattr(counts, "ends", None)
    return there.Groups(xp.cumsum(on_device(xp, counts)) if ends is None else ends)


def _grouped(xp: ArrayModule, x: Array, counts: Array, out: Array = None, mean: bool = False) -> Array:
    """Sums or means of consecutive stretches of rows on a device."""
    if out is None or out.dtype != x.dtype or not out.flags.c_contiguous:
        out = xp.empty((len(counts), *x.shape[1:]), x.dtype)
    there.sum_groups(x.reshape(len(x), -1), groups_of(xp, counts), out.reshape(len(counts), -1), mean=mean)
    return out


def _repeated_there(xp: ArrayModule, rows: Array, counts: Array, mean: bool = False) -> Array:
    """The transpose of `_grouped`."""
    total_ = int(counts.sum())
    found = xp.empty((total_, rows.size // len(rows)), rows.dtype)
    there.repeat_groups(rows.reshape(len(rows), -1), groups_of(xp, counts), there.put_in(found), mean)
    return found.reshape((total_, *rows.shape[1:]))


def _add_repeated(
    mean: bool, places: there.Places, xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array
) -> bool:
    """`_repeated_there`, where it belongs."""
    if not (_are_there(g) and there.is_rows(places, g)):
        return False
    there.repeat_groups(g.reshape(len(g), -1), groups_of(xp, counts), places, mean)
    return True


def repeated(xp: ArrayModule, rows: Array, counts: Array) -> Array:
    """Each row for all of its operands; of one node's row as an expression, all of them get the same."""
    if symbolic(xp):
        return rows
    if _are_there(rows):
        return _repeated_there(xp, rows, counts)
    if xp is np:
        return np.repeat(rows, counts, axis=0)
    return rows.take(xp.asarray(np.repeat(np.arange(len(counts)), counts)), 0)


def _counts_beside(xp: ArrayModule, counts: Array, x: Array) -> Array:
    return on_device(xp, counts.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1)))


def _sum_list(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    return sums_of_stretches(xp, x, counts, out).astype(summed_dtype(x.dtype), copy=False)


def _sum_list_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array) -> Array:
    return repeated(xp, g, counts)


def _mean_list(xp: ArrayModule, x: Array, counts: Array, out: Array = None) -> Array:
    if _are_there(x):
        return _grouped(xp, x, counts, out, mean=True)
    sums = sums_of_stretches(xp, x, counts)
    return (sums / _counts_beside(xp, counts, sums)).astype(averaged(x.dtype), copy=False)


def _mean_list_x(xp: ArrayModule, g: Array, y: Array, x: Array, counts: Array) -> Array:
    if symbolic(xp):
        return g / int(counts[0])
    if _are_there(g):
        return _repeated_there(xp, g, counts, mean=True)
    return repeated(xp, g / _counts_beside(xp, counts, g), counts)


adding(looking_at(_sum_list_x, (2,)), partial(_add_repeated, False))
adding(looking_at(_mean_list_x, (2,)), partial(_add_repeated, True))

SUM_LIST = register(
    Op(
        "sum_list",
        partial(_list_infer, "sum_list", summed_dtype),
        _sum_list,
        (_sum_list_x,),
        stacked=True,
        ragged=True,
    )
)
MEAN_LIST = register(
    Op(
        "mean_list",
        partial(_list_infer, "mean_list", averaged),
        _mean_list,
        (_mean_list_x,),
        stacked=True,
        ragged=True,
    )
)

"""NumPy's functions on expressions, with NumPy's arguments: what `lazyflow.functions` does not offer in that form.

Most are compositions. Every function here has the name of NumPy's, and `lazyflow.numpy` calls it where an expression is
among the arguments.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyflow import functions as f
from lazyflow.device import DType
from lazyflow.errors import ShapeError
from lazyflow.ops import OPS
from lazyflow.ops.base import floating, negative_axis, require_floating
from lazyflow.record.expr import Expr, constant, holds_expressions, record, subscripted, unstacked
from lazyflow.record.templates import by_kinds

Axis = Any


def _place(name: str, axis: int, ndim: int) -> int:
    """``axis`` counted from the front."""
    return negative_axis(name, int(axis), ndim) + ndim


# Elementwise.


def _floating(x: Any) -> Expr:
    """``x`` as floating numbers, of the dtype in which NumPy computes functions of it."""
    x = constant(x)
    return x if x.dtype.kind == "f" else f.astype(x, floating(x.type))


def positive(x: Any) -> Expr:
    return +constant(x)


def conjugate(x: Any) -> Expr:
    return _numbers(x)


def _numbers(x: Any) -> Expr:
    """Truth values as NumPy's smallest integers, where a function has no other form for them."""
    given: Expr = constant(x)
    return f.astype(given, np.int8) if given.dtype == np.bool_ else given


def fabs(x: Any) -> Expr:
    return f.abs(_floating(x))


def rint(x: Any) -> Expr:
    return f.round(_floating(x))


def square(x: Any) -> Expr:
    return f.square(_numbers(x))


def reciprocal(x: Any) -> Expr:
    x = constant(x)
    require_floating("reciprocal", x.type)  # NumPy divides integers by integers here: 1 / 2 is 0
    return f.reciprocal(x)


def trunc(x: Any) -> Expr:
    return f.where(f.less(x, 0), f.ceil(x), f.floor(x))


def isinf(x: Any) -> Expr:
    return f.logical_not(f.logical_or(f.isfinite(x), f.isnan(x)))


def _bits(name: str) -> Callable[..., Expr]:
    """A function of integers, or of truth values; Python's integers take the dtype of what they stand beside."""

    def function(*operands: Any) -> Expr:
        dtypes = [o.dtype for o in operands if isinstance(o, Expr | np.ndarray | np.generic)]
        found = [
            constant(np.asarray(o, np.result_type(*dtypes, o)) if isinstance(o, int) and not isinstance(o, bool) else o)
            for o in operands
        ]
        recorded: Expr = getattr(f.elementwise, name)(*found)
        return recorded

    function.__name__ = function.__qualname__ = name
    return function


bitwise_and, bitwise_or, bitwise_xor = _bits("bitwise_and"), _bits("bitwise_or"), _bits("bitwise_xor")
left_shift, right_shift, invert = _bits("left_shift"), _bits("right_shift"), _bits("invert")


def logical_xor(a: Any, b: Any) -> Expr:
    return f.not_equal(f.not_equal(a, 0), f.not_equal(b, 0))


def float_power(a: Any, b: Any) -> Expr:
    return f.power(f.astype(a, np.float64), b)


def clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Expr:
    return f.clip(x, a_min if a_min is not None else min, a_max if a_max is not None else max)


def where(condition: Any, *choices: Any) -> Expr:
    if len(choices) != 2:
        raise TypeError("where of an expression takes condition, x and y: the shape may not depend on values")
    return f.where(_truth(condition), *choices)


def _truth(x: Any) -> Expr:
    x = constant(x)
    return x if x.dtype == np.bool_ else f.not_equal(x, 0)


def round(x: Any, decimals: int = 0) -> Expr:
    scale = 10.0**decimals
    return f.round(constant(x) * scale) / scale if decimals else f.round(x)


def nan_to_num(
    x: Any, copy: bool = True, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Expr:
    given: Expr = constant(x)
    if given.dtype.kind != "f":
        return given
    largest = float(np.finfo(given.dtype).max)
    high, low = largest if posinf is None else posinf, -largest if neginf is None else neginf
    bounded = f.where(f.equal(given, np.inf), high, f.where(f.equal(given, -np.inf), low, given))
    return f.where(f.isnan(given), nan, bounded)


def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Expr:
    a, b = _numbers(a), _numbers(b)
    near = f.logical_and(f.less_equal(f.abs(a - b), f.abs(b) * rtol + atol), f.isfinite(b))
    near = f.logical_or(near, f.equal(a, b))
    return f.logical_or(near, f.logical_and(f.isnan(a), f.isnan(b))) if equal_nan else near


# Reductions.


def _as(x: Any, dtype: Any) -> Any:
    return x if dtype is None else f.astype(x, dtype)


def mean(x: Any, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Expr:
    return f.mean(_as(x, dtype), axis, keepdims)


def sum(x: Any, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Expr:
    return f.sum(_as(x, dtype), axis, keepdims)


def prod(x: Any, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Expr:
    return f.prod(_as(x, dtype), axis, keepdims)


def var(
    x: Any, axis: Axis = None, dtype: Any = None, *, ddof: int = 0, keepdims: bool = False, correction: Any = None
) -> Expr:
    return f.var(_as(x, dtype), axis, keepdims, ddof if correction is None else int(correction))


def std(
    x: Any, axis: Axis = None, dtype: Any = None, *, ddof: int = 0, keepdims: bool = False, correction: Any = None
) -> Expr:
    return f.std(_as(x, dtype), axis, keepdims, ddof if correction is None else int(correction))


def ptp(x: Any, axis: Axis = None, keepdims: bool = False) -> Expr:
    return f.max(x, axis, keepdims) - f.min(x, axis, keepdims)


def average(x: Any, axis: Axis = None, weights: Any = None, *, keepdims: bool = False) -> Expr:
    if weights is None:
        return f.mean(x, axis, keepdims)
    x, weights = constant(x), constant(weights)
    if weights.ndim < x.ndim and isinstance(axis, int):
        weights = f.reshape(weights, tuple(-1 if i == _place("average", axis, x.ndim) else 1 for i in range(x.ndim)))
    whole = f.broadcast_to(weights, x.shape)
    return f.sum(x * weights, axis, keepdims) / f.sum(whole, axis, keepdims)


def count_nonzero(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Expr:
    return f.sum(f.not_equal(x, 0), axis, keepdims)


def diff(x: Any, n: int = 1, axis: int = -1) -> Expr:
    x = constant(x)
    place = (slice(None),) * _place("diff", axis, x.ndim)
    step = f.not_equal if x.dtype == np.bool_ else f.subtract
    for _ in range(n):
        x = step(subscripted(x, (*place, slice(1, None))), subscripted(x, (*place, slice(None, -1))))
    return constant(x)


# Products.


@partial(by_kinds, arrays=True)
def dot(a: Any, b: Any) -> Expr:
    a, b = constant(a), constant(b)
    if not a.ndim or not b.ndim:
        return f.multiply(a, b)
    return tensordot(a, b, ((-1,), (-1 if b.ndim == 1 else -2,)))


@partial(by_kinds, arrays=True)
def vdot(a: Any, b: Any) -> Expr:
    return f.dot(f.ravel(a), f.ravel(b))


@partial(by_kinds, arrays=True)
def inner(a: Any, b: Any) -> Expr:
    a, b = constant(a), constant(b)
    return f.multiply(a, b) if not a.ndim or not b.ndim else tensordot(a, b, ((-1,), (-1,)))


@partial(by_kinds, arrays=True)
def outer(a: Any, b: Any) -> Expr:
    return f.outer(f.ravel(a), f.ravel(b))


@partial(by_kinds, arrays=True)
def vecdot(a: Any, b: Any, axis: int = -1) -> Expr:
    product = f.multiply(a, b)
    value = f.sum(product, axis)
    return value if value.dtype == product.dtype else f.astype(value, product.dtype)


@partial(by_kinds, arrays=True)
def tensordot(a: Any, b: Any, axes: Any = 2) -> Expr:
    """The sum of products over pairs of axes: the last ``axes`` of a with the first of b, or those that are named."""
    a, b = constant(a), constant(b)
    pairs = (range(-axes, 0), range(axes)) if isinstance(axes, int) else axes
    mine, theirs = ((s,) if isinstance(s, int) else tuple(s) for s in pairs)
    if len(mine) != len(theirs):
        raise ShapeError(f"tensordot: {len(mine)} axes of a and {len(theirs)} of b; they come in pairs")
    letters = iter(string.ascii_letters)
    left, right = ([next(letters) for _ in range(x.ndim)] for x in (a, b))
    for i, j in zip(mine, theirs, strict=True):
        right[_place("tensordot", j, b.ndim)] = left[_place("tensordot", i, a.ndim)]
    result = [c for c in left if c not in right] + [c for c in right if c not in left]
    return f.einsum(f"{''.join(left)},{''.join(right)}->{''.join(result)}", a, b)


@partial(by_kinds, arrays=True)
def kron(a: Any, b: Any) -> Expr:
    a, b = constant(a), constant(b)
    ndim = max(a.ndim, b.ndim)
    a, b = (f.reshape(x, (1,) * (ndim - x.ndim) + x.shape) for x in (a, b))
    product = a.reshape([n for size in a.shape for n in (size, 1)]) * b.reshape(
        [n for size in b.shape for n in (1, size)]
    )
    return f.reshape(product, [m * n for m, n in zip(a.shape, b.shape, strict=True)])


@partial(by_kinds, arrays=True)
def cross(a: Any, b: Any, axis: int = -1) -> Expr:
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise ShapeError(f"cross takes vectors of three elements along axis {axis}, got {a.shape} and {b.shape}")
    a, b = ([x[..., i] for i in range(3)] for x in (a, b))
    parts = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return f.stack(parts, axis)


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Expr:
    return f.sum(f.diagonal(x, offset, axis1, axis2), -1)


def einsum(subscripts: str, *operands: Any) -> Expr:
    """Einstein's summation over any number of operands, pair by pair from the left; ``...``: axes in front."""
    found = [constant(o) for o in operands]
    groups, result = _einsum_groups(subscripts, found)
    if len(found) == 1:
        return f.einsum(f"{groups[0]},->{result}", found[0], np.ones((), found[0].dtype))
    value, letters = found[0], groups[0]
    for i in range(1, len(found)):
        later = "".join(groups[i + 1 :]) + result
        kept = result if i == len(found) - 1 else "".join(c for c in dict.fromkeys(letters + groups[i]) if c in later)
        value, letters = f.einsum(f"{letters},{groups[i]}->{kept}", value, found[i]), kept
    return value


def _einsum_groups(subscripts: str, operands: Sequence[Expr]) -> tuple[list[str], str]:
    """The letters of every operand and of the result, with letters of their own in place of ``...``."""
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    groups = inputs.split(",")
    if len(groups) != len(operands):
        raise ShapeError(f"einsum: {subscripts!r} names {len(groups)} operands, got {len(operands)}")
    free = [c for c in reversed(string.ascii_letters) if c not in subscripts]
    counts = [o.ndim - len(g) + 3 if "..." in g else 0 for g, o in zip(groups, operands, strict=True)]
    longest = max(counts, default=0)
    dots = "".join(free[:longest])
    groups = [g.replace("...", dots[longest - n :]) for g, n in zip(groups, counts, strict=True)]
    if not arrow:
        letters = "".join(groups)
        result = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in dots))
    return groups, result.replace("...", dots)


# Shapes.


def concatenate(operands: Sequence[Any], axis: int | None = 0) -> Expr:
    if axis is None:
        return f.concatenate([f.ravel(constant(o)) for o in operands])
    return f.concatenate(list(operands), axis)


def stack(operands: Sequence[Any], axis: int = 0) -> Expr:
    return f.stack(list(operands), axis)


def atleast_1d(x: Any) -> Expr:
    x = constant(x)
    return x if x.ndim else f.reshape(x, (1,))


def atleast_2d(x: Any) -> Expr:
    x = constant(x)
    return x if x.ndim > 1 else f.reshape(x, (1, -1))


def atleast_3d(x: Any) -> Expr:
    x = constant(x)
    return x if x.ndim > 2 else f.reshape(x, (*x.shape, 1) if x.ndim == 2 else (1, -1, 1))


def hstack(operands: Sequence[Any]) -> Expr:
    parts = [atleast_1d(o) for o in operands]
    return f.concatenate(parts, 0 if parts[0].ndim == 1 else 1)


def vstack(operands: Sequence[Any]) -> Expr:
    return f.concatenate([atleast_2d(o) for o in operands])


def dstack(operands: Sequence[Any]) -> Expr:
    return f.concatenate([atleast_3d(o) for o in operands], 2)


def column_stack(operands: Sequence[Any]) -> Expr:
    columns = [constant(o) for o in operands]
    return f.concatenate([c if c.ndim > 1 else f.reshape(c, (-1, 1)) for c in columns], 1)


def append(a: Any, values: Any, axis: int | None = None) -> Expr:
    return concatenate([a, values], axis)


def array_split(x: Any, sections: Any, axis: int = 0) -> list[Expr]:
    x = constant(x)
    if not isinstance(sections, int):
        return f.split(x, sections, axis)
    size = x.shape[axis]
    short, longer = divmod(size, sections)
    bounds = np.cumsum([short + (i < longer) for i in range(sections)])[:-1]
    return f.split(x, bounds.tolist(), axis)


def split(x: Any, sections: Any, axis: int = 0) -> list[Expr]:
    return f.split(x, sections if isinstance(sections, int) else [int(i) for i in sections], axis)


def hsplit(x: Any, sections: Any) -> list[Expr]:
    return split(x, sections, 0 if constant(x).ndim == 1 else 1)


def vsplit(x: Any, sections: Any) -> list[Expr]:
    return split(x, sections, 0)


def dsplit(x: Any, sections: Any) -> list[Expr]:
    return split(x, sections, 2)


def unstack(x: Any, axis: int = 0) -> tuple[Expr, ...]:
    return tuple(unstacked(moveaxis(x, axis, 0)))


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Expr:
    x = constant(x)
    pairs = [(a,) if isinstance(a, int | np.integer) else tuple(a) for a in (source, destination)]
    sources, places = ([_place("moveaxis", a, x.ndim) for a in axes] for axes in pairs)
    order = [a for a in range(x.ndim) if a not in sources]
    for place, origin in sorted(zip(places, sources, strict=True)):
        order.insert(place, origin)
    return x if order == list(range(x.ndim)) else f.transpose(x, order)


def rollaxis(x: Any, axis: int, start: int = 0) -> Expr:
    x = constant(x)
    axis = _place("rollaxis", axis, x.ndim)
    return moveaxis(x, axis, start - 1 if start > axis else start)


def matrix_transpose(x: Any) -> Expr:
    return f.swapaxes(x, -1, -2)


def fliplr(x: Any) -> Expr:
    return f.flip(x, 1)


def flipud(x: Any) -> Expr:
    return f.flip(x, 0)


def rot90(x: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Expr:
    x = constant(x)
    for _ in range(k % 4):
        x = f.swapaxes(f.flip(x, axes[1]), *axes)
    return constant(x)


def broadcast_arrays(*operands: Any) -> tuple[Expr, ...]:
    found = [constant(o) for o in operands]
    shape = np.broadcast_shapes(*(o.shape for o in found))
    return tuple(f.broadcast_to(o, shape) for o in found)


def diag(x: Any, k: int = 0) -> Expr:
    x = constant(x)
    if x.ndim not in (1, 2):
        raise ShapeError(f"diag takes a vector or a matrix, got {x.shape}; diagonal takes two axes of others")
    if x.ndim == 2:
        return f.diagonal(x, k)
    n = x.shape[0] + np.abs(k)
    return record(OPS["embed_diagonal"], (x,), shape=(int(n), int(n)), offset=int(k), axis1=0, axis2=1)


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Expr:
    return f.pad(x, pad_width, mode, constant_values)


def array(value: Any, dtype: Any = None) -> Expr:
    """Nested lists of numbers and expressions as one expression: joined by ``stack``."""
    x = f.stack([array(v) for v in value]) if holds_expressions(value) else constant(value)
    return x if dtype is None or x.dtype == dtype else f.astype(x, dtype)


def asarray(value: Any, dtype: Any = None) -> Expr:
    return array(value, dtype)


def copy(x: Any) -> Expr:
    return constant(x)


def _filled(name: str) -> Callable[..., Any]:
    def like(x: Any, *value: Any, dtype: Any = None) -> Any:
        return getattr(np, name)(x.shape, *value, dtype=x.dtype if dtype is None else dtype)

    like.__qualname__ = f"{name}_like"
    return like


zeros_like, ones_like, empty_like, full_like = (_filled(name) for name in ("zeros", "ones", "empty", "full"))


def shape(x: Any) -> tuple[int, ...]:
    return constant(x).shape


def ndim(x: Any) -> int:
    return constant(x).ndim


def size(x: Any, axis: int | None = None) -> int:
    return constant(x).size if axis is None else constant(x).shape[axis]


# Indexing and order.


def take(x: Any, indices: Any, axis: int | None = None) -> Expr:
    return f.take(f.ravel(x), indices) if axis is None else f.take(x, indices, axis)


def sort(x: Any, axis: int | None = -1) -> Expr:
    x = constant(x)
    if axis is None:
        return sort(f.ravel(x))
    return f.take_along_axis(x, f.argsort(x, axis), axis)


def median(x: Any, axis: int | None = None, keepdims: bool = False) -> Expr:
    x = constant(x)
    place = 0 if axis is None else _place("median", axis, x.ndim)
    ordered = sort(x, axis)
    n = ordered.shape[place]
    middle = ordered[(slice(None),) * place + (slice((n - 1) // 2, n // 2 + 1),)]
    value = f.mean(middle, place, keepdims and axis is not None)
    if x.dtype.kind == "f" and n:  # NaN stands at the end, and is the median wherever there is one
        last = ordered[(slice(None),) * place + (slice(n - 1, n),)]
        value = f.where(f.isnan(f.sum(last, place, keepdims and axis is not None)), np.nan, value)
    return f.reshape(value, (1,) * x.ndim) if keepdims and axis is None else value


# Ranges, and what looks at values.


def linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True) -> Expr:
    start, stop = constant(start), constant(stop)
    dtype = np.result_type(start.dtype, stop.dtype, 1.0)
    start, stop = (x if x.dtype.kind == "f" else f.astype(x, dtype) for x in (start, stop))
    parts = np.linspace(0, 1, num, endpoint=endpoint, dtype=dtype).reshape(-1, *(1,) * max(start.ndim, stop.ndim))
    value = f.add(start, (stop - start) * parts)
    last = np.arange(num).reshape(parts.shape) == num - 1
    return f.where(last, stop, value) if endpoint and num > 1 else value


def result_type(*operands: Any) -> DType:
    return np.result_type(*(o.dtype if isinstance(o, Expr) else o for o in operands))


def _value(x: Any) -> Any:
    return x.numpy() if isinstance(x, Expr) else x


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    return np.allclose(_value(a), _value(b), rtol, atol, equal_nan)


def array_equal(a: Any, b: Any, equal_nan: bool = False) -> bool:
    return np.array_equal(_value(a), _value(b), equal_nan)

"""Operations that only move elements: joining, splitting, reshaping, padding and repeating.

Attributes of a user count the axes of one example; the shape rules turn them into axes counted from the end, and the
kernels leave whatever axes lead alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from lazyflow.device import Array, ArrayModule, HostArray
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import (
    ALL,
    Abstract,
    Aval,
    Axis,
    Op,
    Pads,
    Result,
    Shape,
    integer,
    integers,
    looking_at,
    negative_axes,
    negative_axis,
    register,
    symbolic,
    total,
    written,
)
from lazyflow.ops.index import SCATTER
from lazyflow.ops.sparse import scatter_rounds

if TYPE_CHECKING:
    from lazyflow.ops.base import Subscript


def lead(array: Array, ndim: int) -> Shape:
    """The batch axis of an array whose example has ``ndim`` axes, as a shape; none if it is shared."""
    return tuple(array.shape[: array.ndim - ndim])


def along(axis: int, index: object) -> tuple[object, ...]:
    """The subscript that is ``index`` at a negative axis and takes all of the others."""
    return (..., index, *(ALL,) * (-axis - 1))


# Joining: ``concatenate`` takes operands of any sizes; the others take operands of one type as one array.


def _one_type(name: str, operands: Sequence[Abstract]) -> Abstract:
    if not operands:
        raise ShapeError(f"{name} needs at least one operand")
    first = operands[0]
    for o in operands:
        if o.shape != first.shape:
            raise ShapeError(f"{name}: all operands must have one shape, got {first.shape} and {o.shape}")
        if o.dtype != first.dtype:
            raise DTypeError(f"{name}: all operands must have one dtype, got {first.dtype} and {o.dtype}; use .astype")
    return first


def _joined_shape(name: str, shape: Shape, axis: int, length: int) -> Shape:
    if not shape:
        raise ShapeError(f"{name}: scalars have no axis to join along; use stack")
    axis = negative_axis(name, axis, len(shape)) + len(shape)
    return (*shape[:axis], length, *shape[axis + 1 :])


def _concatenate_shape(*operands: Abstract, axis: int = 0) -> Result:
    if not operands:
        raise ShapeError("concatenate needs at least one operand")
    first = operands[0].shape
    results = {_joined_shape("concatenate", o.shape, axis, 0) for o in operands}
    if len(results) > 1:
        shapes = ", ".join(str(o.shape) for o in operands)
        raise ShapeError(f"concatenate: shapes must be equal except along axis {axis}, got {shapes}")
    axis = negative_axis("concatenate", axis, len(first))
    sizes = [o.shape[axis] for o in operands]
    dtype = np.result_type(*(o.dtype for o in operands))
    static = {"axis": axis, "ndim": len(first), "ends": tuple(accumulate(sizes, initial=0))}
    return Result(_joined_shape("concatenate", first, axis, sum(sizes)), dtype, static)


def _concatenate(xp: ArrayModule, *arrays: Array, out: Array = None, axis: int, ndim: int, ends: Shape) -> Array:
    batched = [a for a in arrays if a.ndim > ndim]
    if not batched:
        return xp.concatenate(arrays, axis)
    if len(batched) < len(arrays):
        batch = len(batched[0])
        batched = [a if a.ndim > ndim else xp.broadcast_to(a, (batch, *a.shape)) for a in arrays]
    return xp.concatenate(batched, axis, out=out)


def _concatenate_part(
    operand: int, xp: ArrayModule, g: Array, y: Array, *arrays: Array, axis: int, ndim: int, ends: Shape
) -> Array:
    return g[along(axis, slice(ends[operand], ends[operand + 1]))]


class EveryOperand(tuple[Callable[..., Array], ...]):
    """The vjps of an operation on any number of operands that are not stacked: as many as anybody asks for.

    >>> vjps = EveryOperand(lambda operand, xp, g: (operand, g))
    >>> vjps[1000](np, 2.0), 5000 < len(vjps)
    ((1000, 2.0), True)
    """

    rule: Callable[..., Array]

    def __new__(cls, rule: Callable[..., Array]) -> EveryOperand:
        self = super().__new__(cls)
        self.rule = rule
        return self

    def __len__(self) -> int:
        return 1 << 31

    def __getitem__(self, operand: Any) -> Any:
        return partial(self.rule, operand)

    def __iter__(self) -> Iterator[Callable[..., Array]]:
        return (self[operand] for operand in range(len(self)))


CONCATENATE = register(
    Op("concatenate", _concatenate_shape, _concatenate, EveryOperand(looking_at(_concatenate_part, ())))
)


def _concatenate_same_shape(*operands: Abstract, axis: int = 0) -> Result:
    first = _one_type("concatenate", operands)
    shape = _joined_shape("concatenate", first.shape, axis, 0)
    axis = negative_axis("concatenate", axis, len(shape))
    shape = _joined_shape("concatenate", shape, axis, len(operands) * first.shape[axis])
    return Result(shape, first.dtype, {"axis": axis, "shape": shape})


def _concatenate_same(xp: ArrayModule, x: Array, out: Array = None, *, axis: int, shape: Shape) -> Array:
    moved = xp.moveaxis(x, 1, axis - 1)
    if out is None:
        return moved.reshape(len(x), *shape)
    out.reshape(moved.shape)[...] = moved
    return out


def _concatenate_same_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: int, shape: Shape) -> Array:
    count = x.shape[1]
    split = axis + g.ndim
    parts = g.reshape(*g.shape[:split], count, g.shape[split] // count, *g.shape[split + 1 :])
    return xp.moveaxis(parts, axis - 1, 1)


def _stack_shape(*operands: Abstract, axis: int = 0) -> Result:
    first = _one_type("stack", operands)
    axis = negative_axis("stack", axis, len(first.shape) + 1)
    place = axis + len(first.shape) + 1
    return Result((*first.shape[:place], len(operands), *first.shape[place:]), first.dtype, {"axis": axis})


def _stack(xp: ArrayModule, x: Array, out: Array = None, *, axis: int) -> Array:
    return written(out, xp.moveaxis(x, 1, axis))


def _stack_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: int) -> Array:
    return xp.moveaxis(g, axis, 1)


CONCATENATE_SAME = register(
    Op(
        "concatenate_same",
        _concatenate_same_shape,
        _concatenate_same,
        (looking_at(_concatenate_same_x, (), (1,)),),
        stacked=True,
    )
)
STACK = register(Op("stack", _stack_shape, _stack, (looking_at(_stack_x, ()),), stacked=True))


def _concatenate_rows_shape(*operands: Abstract) -> Result:
    result = _concatenate_same_shape(*operands)
    return Result(result.shape, result.dtype, {"shape": result.shape, "parts": (len(operands), *operands[0].shape)})


def _stack_rows_shape(*operands: Abstract) -> Result:
    first = _one_type("stack", operands)
    shape = (len(operands), *first.shape)
    return Result(shape, first.dtype, {"shape": shape, "parts": shape})


def _rows(xp: ArrayModule, x: Array, out: Array = None, *, shape: Shape, parts: Shape) -> Array:
    return written(out, x.reshape(len(x), *shape))


def _rows_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, shape: Shape, parts: Shape) -> Array:
    return g.reshape(len(g), *parts)


looking_at(_rows_x, ())
CONCATENATE_ROWS = register(
    Op("concatenate_rows", _concatenate_rows_shape, _rows, (_rows_x,), stacked=True, gathers=True)
)
STACK_ROWS = register(Op("stack_rows", _stack_rows_shape, _rows, (_rows_x,), stacked=True, gathers=True))


# One operand, the same elements.


def _reshape_shape(x: Abstract, *, shape: int | Sequence[int]) -> Result:
    wanted = integers("reshape", "the shape", shape)
    size, known = prod(x.shape), prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and not size % known:
        wanted = tuple(size // known if n == -1 else n for n in wanted)
    if min(wanted, default=0) < 0 or prod(wanted) != size:
        raise ShapeError(
            f"reshape: {x.shape} has {size} elements, which do not fill {shape}; at most one size may be -1"
        )
    return Result(wanted, x.dtype, {"shape": wanted, "ndim": len(x.shape)})


def _reshape(xp: ArrayModule, x: Array, out: Array = None, *, shape: Shape, ndim: int) -> Array:
    return written(out, x.reshape(lead(x, ndim) + shape))


def _reshape_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, shape: Shape, ndim: int) -> Array:
    return g.reshape(g.shape[:1] + x.shape[x.ndim - ndim :])


RESHAPE = register(Op("reshape", _reshape_shape, _reshape, (looking_at(_reshape_x, (), (1,)),)))


def _transpose_shape(x: Abstract, *, axes: Sequence[int] | None = None) -> Result:
    ndim = len(x.shape)
    order = range(ndim)[::-1] if axes is None else axes
    order = tuple(negative_axis("transpose", axis, ndim) for axis in integers("transpose", "axes", tuple(order)))
    if sorted(order) != list(range(-ndim, 0)):
        raise ShapeError(f"transpose: axes {axes} must name each of the {ndim} axes of shape {x.shape} once")
    inverse = tuple(int(i) - ndim for i in np.argsort(order))
    return Result(tuple(x.shape[axis] for axis in order), x.dtype, {"order": order, "inverse": inverse})


def _permuted(x: Array, order: Shape) -> Array:
    return x.transpose((*range(x.ndim - len(order)), *(x.ndim + axis for axis in order)))


def _transpose(xp: ArrayModule, x: Array, out: Array = None, *, order: Shape, inverse: Shape) -> Array:
    return written(out, _permuted(x, order))


def _transpose_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, order: Shape, inverse: Shape) -> Array:
    return _permuted(g, inverse)


TRANSPOSE = register(Op("transpose", _transpose_shape, _transpose, (looking_at(_transpose_x, ()),)))


def _swapaxes_shape(x: Abstract, *, axis1: int, axis2: int) -> Result:
    one, two = (negative_axis("swapaxes", axis, len(x.shape)) for axis in (axis1, axis2))
    shape = list(x.shape)
    shape[one], shape[two] = shape[two], shape[one]
    return Result(tuple(shape), x.dtype, {"axis1": one, "axis2": two})


def _swapaxes(xp: ArrayModule, x: Array, out: Array = None, *, axis1: int, axis2: int) -> Array:
    return written(out, x.swapaxes(axis1, axis2))


def _swapaxes_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis1: int, axis2: int) -> Array:
    return g.swapaxes(axis1, axis2)


SWAPAXES = register(Op("swapaxes", _swapaxes_shape, _swapaxes, (looking_at(_swapaxes_x, ()),)))


def _expand_dims_shape(x: Abstract, *, axis: int | Sequence[int]) -> Result:
    given = integers("expand_dims", "axis", axis)
    axes = negative_axes("expand_dims", given, len(x.shape) + len(given))
    rest = iter(x.shape)
    shape = tuple(1 if i in axes else next(rest) for i in range(-len(x.shape) - len(given), 0))
    return Result(shape, x.dtype, {"axis": axes})


def _expand_dims(xp: ArrayModule, x: Array, out: Array = None, *, axis: Shape) -> Array:
    return written(out, xp.expand_dims(x, axis))


def _expand_dims_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Shape) -> Array:
    return g.squeeze(axis)


def _squeeze_shape(x: Abstract, *, axis: Axis = None) -> Result:
    ones = tuple(i for i, n in enumerate(x.shape) if n == 1) if axis is None else axis
    axes = negative_axes("squeeze", ones, len(x.shape))
    if any(x.shape[i] != 1 for i in axes):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} is longer than 1")
    kept = tuple(n for i, n in enumerate(x.shape, -len(x.shape)) if i not in axes)
    return Result(kept, x.dtype, {"axis": axes})


def _squeeze(xp: ArrayModule, x: Array, out: Array = None, *, axis: Shape) -> Array:
    return written(out, x.squeeze(axis))


def _squeeze_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Shape) -> Array:
    return xp.expand_dims(g, axis)


EXPAND_DIMS = register(Op("expand_dims", _expand_dims_shape, _expand_dims, (_expand_dims_x,)))
SQUEEZE = register(Op("squeeze", _squeeze_shape, _squeeze, (_squeeze_x,)))


def _flip_shape(x: Abstract, *, axis: Axis = None) -> Result:
    return Result(x.shape, x.dtype, {"axis": negative_axes("flip", axis, len(x.shape))})


def _flip(xp: ArrayModule, x: Array, out: Array = None, *, axis: Shape) -> Array:
    return written(out, xp.flip(x, axis))


def _flip_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: Shape) -> Array:
    return xp.flip(g, axis)


FLIP = register(Op("flip", _flip_shape, _flip, (_flip_x,)))


def _roll_shape(x: Abstract, *, shift: int | Sequence[int], axis: Axis = None) -> Result:
    shifts = integers("roll", "shift", shift)
    if axis is None:
        axes: Shape = ()
        wanted = 1
    else:
        axes = tuple(negative_axis("roll", a, len(x.shape)) for a in integers("roll", "axis", axis))
        wanted = len(axes)
    if len(shifts) != wanted:
        raise ShapeError(f"roll: {len(shifts)} shifts for {wanted} axes; shift and axis must be as long as each other")
    return Result(x.shape, x.dtype, {"shift": shifts, "axis": axes, "ndim": len(x.shape)})


def _rolled(xp: ArrayModule, x: Array, shift: Shape, axis: Shape, ndim: int) -> Array:
    if axis:
        return xp.roll(x, shift, axis)
    return xp.roll(x.reshape((*lead(x, ndim), -1)), shift[0], -1).reshape(x.shape)


def _roll(xp: ArrayModule, x: Array, out: Array = None, *, shift: Shape, axis: Shape, ndim: int) -> Array:
    return written(out, _rolled(xp, x, shift, axis, ndim))


def _roll_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, shift: Shape, axis: Shape, ndim: int) -> Array:
    return _rolled(xp, g, tuple(-s for s in shift), axis, ndim)


ROLL = register(Op("roll", _roll_shape, _roll, (_roll_x,)))


def _triangle_shape(name: str, x: Abstract, *, k: int = 0) -> Result:
    if len(x.shape) < 2:
        raise ShapeError(f"{name} takes a matrix, or a stack of them, got shape {x.shape}")
    return Result(x.shape, x.dtype, {"k": int(k)})


def _triangle(name: str, xp: ArrayModule, x: Array, out: Array = None, *, k: int) -> Array:
    return written(out, getattr(xp, name)(x, k))


def _triangle_x(name: str, xp: ArrayModule, g: Array, y: Array, x: Array, *, k: int) -> Array:
    return getattr(xp, name)(g, k)


def _triangular(name: str) -> Op:
    return register(Op(name, partial(_triangle_shape, name), partial(_triangle, name), (partial(_triangle_x, name),)))


TRIL, TRIU = _triangular("tril"), _triangular("triu")


def _identity_shape(x: Abstract) -> Result:
    return Result(x.shape, x.dtype)


def _identity(xp: ArrayModule, x: Array, out: Array = None) -> Array:
    return written(out, x)


def _identity_x(xp: ArrayModule, g: Array, y: Array, x: Array) -> Array:
    return g


IDENTITY = register(Op("identity", _identity_shape, _identity, (_identity_x,)))
DETACH = register(Op("detach", _identity_shape, _identity, (None,)))


# One operand, some elements.


def _basic_part(part: Any, size: int) -> Any:
    """One part of a basic index, checked, with non-negative numbers and without anything left to default."""
    if isinstance(part, tuple):
        start, stop, step = slice(*part[1:]).indices(size)
        if not range(start, stop, step):  # backwards from before the first: -1, which would mean the last
            return ("slice", 0, 0, 1)
        return ("slice", start, None if stop < 0 else stop, step)
    if not -size <= part < size:
        raise IndexError(f"index {part} is out of range for an axis of size {size}")
    return int(part) % size


def _key_parts(key: Any) -> list[object]:
    parts = key if isinstance(key, tuple) and key[:1] != ("slice",) else (key,)
    parts = tuple(("slice", p.start, p.stop, p.step) if isinstance(p, slice) else p for p in parts)
    for part in parts:
        is_slice = isinstance(part, tuple) and len(part) == 4 and part[0] == "slice"
        is_integer = isinstance(part, int | np.integer) and not isinstance(part, bool)
        if not (part is None or part is Ellipsis or is_slice or is_integer):
            raise TypeError(f"getitem: an index is made of integers, slices, None and ..., got {part!r}; see also take")
    return list(parts)


def _full_key(key: Any, shape: Shape) -> tuple[object, ...]:
    """The key with one part for every axis and only numbers in it, so that equal keys are equal tuples."""
    parts = _key_parts(key)
    used = sum(part is not None and part is not Ellipsis for part in parts)
    ellipses = sum(part is Ellipsis for part in parts)
    if used > len(shape) or ellipses > 1:
        raise IndexError(f"getitem: {used} indices and {ellipses} '...' for an expression of shape {shape}")
    if not ellipses:
        parts.append(Ellipsis)
    place = next(i for i, part in enumerate(parts) if part is Ellipsis)
    parts[place : place + 1] = [("slice", None, None, None)] * (len(shape) - used)
    sizes = iter(shape)
    return tuple(None if part is None else _basic_part(part, next(sizes)) for part in parts)


@lru_cache(maxsize=512)
def _subscript(key: tuple[Any, ...]) -> Subscript:
    """A normalised key as NumPy's, behind whatever axes lead."""
    return (..., *(slice(*part[1:]) if isinstance(part, tuple) else part for part in key))


def _getitem_shape(x: Abstract, *, key: Any) -> Result:
    full = _full_key(key, x.shape)
    like = np.broadcast_to(np.empty((), np.bool_), x.shape)[_subscript(full)]
    return Result(like.shape, x.dtype, {"key": full, "ndim": len(x.shape)})


def _sliced(xp: ArrayModule, x: Array, out: Array = None, *, key: tuple[object, ...], ndim: int) -> Array:
    return written(out, x[_subscript(key)])


def _getitem_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, key: tuple[object, ...], ndim: int) -> Array:
    if symbolic(xp):
        lead, part = (1, g) if x.ndim > ndim else (0, total(g, 0))
        return xp.record_op(EMBED, (part,), key=(("slice", None, None, None),) * lead + key, shape=x.shape)
    return _embedded(xp, g if x.ndim > ndim else total(g, 0), key, x.shape)


def _embedded(xp: ArrayModule, part: Array, key: tuple[object, ...], shape: Shape) -> Array:
    answer = xp.zeros(shape, part.dtype)
    answer[_subscript(key)] = part
    return answer


GETITEM = register(Op("getitem", _getitem_shape, _sliced, (_getitem_x,)))


# The transposes of taking a part: zeros with the operand in that part.


def _embed_shape(part: Abstract, *, key: Any, shape: int | Sequence[int]) -> Result:
    whole = integers("embed", "the shape", shape)
    full = _full_key(key, whole)
    like = np.broadcast_to(np.empty((), np.bool_), whole)[_subscript(full)]
    if like.shape != part.shape:
        raise ShapeError(f"embed: this part of shape {whole} has shape {like.shape}, the operand {part.shape}")
    return Result(whole, part.dtype, {"key": full, "shape": whole, "ndim": len(part.shape)})


def _embed(
    xp: ArrayModule, part: Array, out: Array = None, *, key: tuple[object, ...], shape: Shape, ndim: int
) -> Array:
    return _embedded(xp, part, key, lead(part, ndim) + shape)


def _embed_part(
    xp: ArrayModule, g: Array, y: Array, part: Array, *, key: tuple[object, ...], shape: Shape, ndim: int
) -> Array:
    return g[_subscript(key)]


EMBED = register(Op("embed", _embed_shape, _embed, (_embed_part,)))


def _diagonal_shape(x: Abstract, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Result:
    if len(x.shape) < 2:
        raise ShapeError(f"diagonal takes a matrix, or a stack of them, got shape {x.shape}")
    one, two = (negative_axis("diagonal", axis, len(x.shape)) for axis in (axis1, axis2))
    if one == two:
        raise ShapeError(f"diagonal: axis1 and axis2 must differ, both are {axis1}")
    shape = np.broadcast_to(np.empty((), np.bool_), x.shape).diagonal(offset, one, two).shape
    return Result(shape, x.dtype, {"offset": int(offset), "axis1": one, "axis2": two, "ndim": len(x.shape)})


def _diagonal(xp: ArrayModule, x: Array, out: Array = None, *, offset: int, axis1: int, axis2: int, ndim: int) -> Array:
    return written(out, x.diagonal(offset, axis1, axis2))


def _diagonal_x(
    xp: ArrayModule, g: Array, y: Array, x: Array, *, offset: int, axis1: int, axis2: int, ndim: int
) -> Array:
    part = g if x.ndim > ndim else total(g, 0)
    where = {"offset": offset, "axis1": axis1, "axis2": axis2}
    if symbolic(xp):
        return xp.record_op(EMBED_DIAGONAL, (part,), shape=x.shape, **where)
    return _on_diagonal(xp, part, x.shape, **where)


def _on_diagonal(xp: ArrayModule, part: Array, shape: Shape, offset: int, axis1: int, axis2: int) -> Array:
    answer = xp.zeros(shape, part.dtype)
    i = xp.arange(part.shape[-1])
    place = xp.moveaxis(answer, (axis1, axis2), (-2, -1))
    place[..., i + max(-offset, 0), i + max(offset, 0)] = part
    return answer


DIAGONAL = register(Op("diagonal", _diagonal_shape, _diagonal, (_diagonal_x,)))


def _embed_diagonal_shape(
    part: Abstract, *, shape: int | Sequence[int], offset: int = 0, axis1: int = 0, axis2: int = 1
) -> Result:
    whole = integers("embed_diagonal", "the shape", shape)
    like, _, static = _diagonal_shape(Aval(whole, part.dtype), offset=offset, axis1=axis1, axis2=axis2)
    if like != part.shape:
        raise ShapeError(f"embed_diagonal: the diagonal of shape {whole} has shape {like}, the operand {part.shape}")
    return Result(whole, part.dtype, {**static, "shape": whole, "ndim": len(part.shape)})


def _embed_diagonal(
    xp: ArrayModule, part: Array, out: Array = None, *, shape: Shape, offset: int, axis1: int, axis2: int, ndim: int
) -> Array:
    return _on_diagonal(xp, part, lead(part, ndim) + shape, offset, axis1, axis2)


def _embed_diagonal_part(
    xp: ArrayModule, g: Array, y: Array, part: Array, *, offset: int, axis1: int, axis2: int, **static: object
) -> Array:
    return g.diagonal(offset, axis1, axis2)


EMBED_DIAGONAL = register(Op("embed_diagonal", _embed_diagonal_shape, _embed_diagonal, (_embed_diagonal_part,)))


# One operand, its elements several times.


def _broadcast_to_shape(x: Abstract, *, shape: int | Sequence[int]) -> Result:
    wanted = integers("broadcast_to", "the shape", shape)
    try:
        fits = np.broadcast_shapes(x.shape, wanted) == wanted
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"broadcast_to: {x.shape} does not broadcast to {wanted}; aligned at the end, sizes must be equal or 1"
        )
    return Result(wanted, x.dtype, {"shape": wanted, "ndim": len(x.shape)})


def _broadcast_to(xp: ArrayModule, x: Array, out: Array = None, *, shape: Shape, ndim: int) -> Array:
    head = lead(x, ndim)
    padded = x.reshape(head + (1,) * (len(shape) - ndim) + x.shape[len(head) :])
    return written(out, xp.broadcast_to(padded, head + shape))


def _broadcast_to_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, shape: Shape, ndim: int) -> Array:
    new = len(shape) - ndim
    return total(g, tuple(range(1, 1 + new))) if new else g


BROADCAST_TO = register(Op("broadcast_to", _broadcast_to_shape, _broadcast_to, (looking_at(_broadcast_to_x, ()),)))


def _repeat_shape(x: Abstract, *, repeats: int, axis: int) -> Result:
    count = integer("repeat", "repeats", repeats)
    if count < 0:
        raise ShapeError(f"repeat: repeats must not be negative, got {count}")
    axis = negative_axis("repeat", axis, len(x.shape))
    return Result(
        _joined_shape("repeat", x.shape, axis, count * x.shape[axis]), x.dtype, {"repeats": count, "axis": axis}
    )


def _repeat(xp: ArrayModule, x: Array, out: Array = None, *, repeats: int, axis: int) -> Array:
    return written(out, xp.repeat(x, repeats, axis))


def _repeat_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, repeats: int, axis: int) -> Array:
    split = g.ndim + axis
    return total(g.reshape(*g.shape[:split], x.shape[axis], repeats, *g.shape[split + 1 :]), split + 1)


REPEAT = register(Op("repeat", _repeat_shape, _repeat, (_repeat_x,)))


def _tile_shape(x: Abstract, *, reps: int | Sequence[int]) -> Result:
    counts = integers("tile", "reps", reps)
    if min(counts, default=0) < 0:
        raise ShapeError(f"tile: reps must not be negative, got {reps}")
    ndim = max(len(counts), len(x.shape))
    counts = (1,) * (ndim - len(counts)) + counts
    sizes = (1,) * (ndim - len(x.shape)) + x.shape
    shape = tuple(c * n for c, n in zip(counts, sizes, strict=True))
    # Each axis as (copies, size): tiling is then broadcasting, and its gradient a sum over the copies.
    ones = tuple(n for size in sizes for n in (1, size))
    pairs = tuple(n for pair in zip(counts, sizes, strict=True) for n in pair)
    return Result(shape, x.dtype, {"shape": shape, "ones": ones, "pairs": pairs, "ndim": len(x.shape)})


def _tile(xp: ArrayModule, x: Array, out: Array = None, *, shape: Shape, ones: Shape, pairs: Shape, ndim: int) -> Array:
    head = lead(x, ndim)
    return written(out, xp.broadcast_to(x.reshape(head + ones), head + pairs).reshape(head + shape))


def _tile_x(
    xp: ArrayModule, g: Array, y: Array, x: Array, *, shape: Shape, ones: Shape, pairs: Shape, ndim: int
) -> Array:
    copies = tuple(range(1, 1 + len(pairs), 2))
    return total(g.reshape(len(g), *pairs), copies).reshape(g.shape[:1] + x.shape[x.ndim - ndim :])


TILE = register(Op("tile", _tile_shape, _tile, (_tile_x,)))


PADDINGS = ("constant", "edge", "reflect", "symmetric", "wrap")


PadWidth = int | Sequence[int] | Sequence[Sequence[int]]


def pads(pad_width: PadWidth, ndim: int) -> Pads:
    """``pad_width`` as np.pad reads it: one number, one pair, or one pair an axis."""
    try:
        pairs = np.broadcast_to(np.asarray(pad_width), (ndim, 2))
    except ValueError:  # also of a ragged list
        pairs = None
    if pairs is None or pairs.dtype.kind not in "iu" or (pairs < 0).any():
        raise ShapeError(f"pad: pad_width must be a number, a pair, or {ndim} pairs, none negative; got {pad_width}")
    return tuple((int(before), int(after)) for before, after in pairs)


def _pad_shape(x: Abstract, *, pad_width: PadWidth, mode: str = "constant", constant_value: float = 0.0) -> Result:
    if mode not in PADDINGS:
        raise ValueError(f"pad: mode must be one of {', '.join(PADDINGS)}; got {mode!r}")
    widths = pads(pad_width, len(x.shape))
    if mode != "constant" and any(n == 0 and sum(pair) for n, pair in zip(x.shape, widths, strict=True)):
        raise ShapeError(f"pad: mode {mode!r} has nothing to repeat along an empty axis of shape {x.shape}")
    shape = tuple(before + n + after for n, (before, after) in zip(x.shape, widths, strict=True))
    fill = constant_value if mode == "constant" else None
    return Result(shape, x.dtype, {"pads": widths, "mode": mode, "fill": fill})


def _core(pads: Pads, shape: Shape) -> tuple[object, ...]:
    """The subscript of the operand's own elements in the padded array."""
    sizes = shape[len(shape) - len(pads) :]
    return (..., *(slice(before, n - after) for n, (before, after) in zip(sizes, pads, strict=True)))


@lru_cache(maxsize=512)
def _padded_from(size: int, pads: tuple[int, int], mode: str) -> HostArray:
    """Which element of an axis stands at each place of the padded axis."""
    return np.pad(np.arange(size), pads, mode)  # type: ignore[call-overload,no-any-return]


@lru_cache(maxsize=512)
def _strays(size: int, pads: tuple[int, int], mode: str) -> tuple[tuple[Array, Array], ...]:
    """Rounds that add the places outside the core to the elements that stand there, as `scatter_rounds`."""
    sources, places = _padded_from(size, pads, mode), np.arange(size + sum(pads))
    outside = np.concatenate((places[: pads[0]], places[pads[0] + size :]))
    return tuple((outside[positions], elements) for positions, elements in scatter_rounds(sources[outside]))


def _pad(xp: ArrayModule, x: Array, out: Array = None, *, pads: Pads, mode: str, fill: float | None) -> Array:
    sizes = x.shape[x.ndim - len(pads) :]
    head = lead(x, len(pads))
    shape = head + tuple(before + n + after for n, (before, after) in zip(sizes, pads, strict=True))
    if fill is not None:
        y = xp.empty(shape, x.dtype) if out is None or out.shape != shape else out
        y[...] = fill
        y[_core(pads, shape)] = x
        return y
    for axis, (size, pair) in enumerate(zip(sizes, pads, strict=True), -len(pads)):
        if any(pair):
            x = x.take(xp.asarray(_padded_from(size, pair, mode)), axis)
    return written(out, x)


def _pad_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, pads: Pads, mode: str, fill: float | None) -> Array:
    if fill is not None:
        return g[_core(pads, g.shape)]
    for axis, (size, pair) in enumerate(zip(x.shape[x.ndim - len(pads) :], pads, strict=True), -len(pads)):
        if any(pair):
            g = _folded(xp, g, axis, size, pair, mode)
    return g


def _folded(xp: ArrayModule, g: Array, axis: int, size: int, pair: tuple[int, int], mode: str) -> Array:
    if symbolic(xp):
        return xp.moveaxis(
            xp.record_op(SCATTER, (xp.moveaxis(g, axis, 0), _padded_from(size, pair, mode)), n=size), 0, axis
        )
    answer = g[along(axis, slice(pair[0], pair[0] + size))].copy()
    for positions, elements in _strays(size, pair, mode):
        answer[along(axis, xp.asarray(elements))] += g[along(axis, xp.asarray(positions))].sum(axis)
    return answer


PAD = register(Op("pad", _pad_shape, _pad, (_pad_x,)))

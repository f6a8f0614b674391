"""Joining, cutting and rearranging."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from lazyflow.core.columns import IntColumn
from lazyflow.errors import ShapeError
from lazyflow.ops import OPS
from lazyflow.ops.base import axis_argument, integer, integers, negative_axis
from lazyflow.ops.shape import PadWidth, pads
from lazyflow.record import expr
from lazyflow.record.expr import (
    Expr,
    OperandLike,
    constant,
    constants,
    of_one_type,
    on_one_device,
    payload_integers,
    record,
    remembered,
    subscripted,
)
from lazyflow.record.frames import COMPILED, stacked_frame, views_frame
from lazyflow.record.tape import Type, intern_type, table_of_interned
from lazyflow.record.templates import by_kinds
from lazyflow.settings import SCOPE

__all__ = [
    "broadcast_to",
    "concatenate",
    "diagonal",
    "expand_dims",
    "flip",
    "pad",
    "ravel",
    "repeat",
    "reshape",
    "roll",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "tile",
    "transpose",
    "tril",
    "triu",
]


_concatenations, _concatenate_again, _concatenate_rows = stacked_frame(OPS["concatenate_rows"])
_stacks, _stack_again, _stack_rows = stacked_frame(OPS["stack_rows"])


@by_kinds
def reshape(x: OperandLike, shape: int | Sequence[int]) -> Expr:
    """``x`` in another shape of the same size; one size may be -1. Free: no launch, no copy. Raises `ShapeError`.

    >>> import lazyflow as lf
    >>> lf.reshape(lf.constant([[1.0, 2.0], [3.0, 4.0]]), (-1,)).numpy()
    array([1., 2., 3., 4.], dtype=float32)
    """
    return expr.reshaped(x, shape)


def _of_one_rank(name: str, operands: Sequence[OperandLike]) -> list[Expr]:
    if isinstance(operands, Expr | np.ndarray) or not isinstance(operands, Iterable):
        raise TypeError(f"{name} takes a list of expressions, got one {type(operands).__name__}")
    found = constants(operands)
    if not found:
        raise ShapeError(f"{name} needs at least one operand, got an empty list")
    return list(on_one_device(OPS[name], found))


def _alike(found: Sequence[Expr]) -> bool:
    return len({(e.shape, e.dtype, e.device) for e in found}) == 1


@partial(by_kinds, listed=_concatenations, arrays=True)
def concatenate(operands: Sequence[OperandLike], axis: int = 0) -> Expr:
    """Expressions joined along an axis that exists; the other sizes are equal.

    Operands of one shape along the first axis are gathered straight into place. Raises `ShapeError` otherwise or for
    an empty list.

    >>> import lazyflow as lf
    >>> lf.concatenate([lf.constant([1.0]), lf.constant([2.0, 3.0])]).numpy()
    array([1., 2., 3.], dtype=float32)
    """
    if axis == 0 and (again := _concatenate_again(operands)) is not None:
        return again
    axis = integer("concatenate", "axis", axis)
    found = _of_one_rank("concatenate", operands)
    first = found[0].type
    if _alike(found) and first.shape:
        if axis == 0 or axis == -first.ndim:
            return _concatenate_rows(found)
        return record(OPS["concatenate_same"], of_one_type(found), axis=negative_axis("concatenate", axis, first.ndim))
    return record(OPS["concatenate"], found, axis=axis)


def concatenate_each(lists: Iterable[Sequence[Expr]]) -> list[Expr]:
    """`concatenate` of each of several lists."""
    return expr.listed_each(_concatenations, lists, concatenate) if COMPILED else [concatenate(x) for x in lists]


@partial(by_kinds, listed=_stacks, arrays=True)
def stack(operands: Sequence[OperandLike], axis: int = 0) -> Expr:
    """Expressions of one shape along a new axis.

    >>> import lazyflow as lf
    >>> lf.stack([lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])]).shape
    (2, 2)
    """
    if axis == 0 and (again := _stack_again(operands)) is not None:
        return again
    axis = integer("stack", "axis", axis)
    found = _of_one_rank("stack", operands)
    first = found[0].type
    if len({e.shape for e in found}) > 1:
        raise ShapeError(
            f"stack: all operands need one shape, got {' and '.join(sorted({str(e.shape) for e in found}))}"
        )
    if _alike(found):
        if axis == 0 or axis == -first.ndim - 1:
            return _stack_rows(found)
        return record(OPS["stack"], of_one_type(found), axis=axis)
    return concatenate([expand_dims(e, axis) for e in found], axis)


_splits: dict[Type, dict[int, tuple[Type, IntColumn]]] = table_of_interned({})


@by_kinds
def split(x: OperandLike, sections: int | Sequence[int], axis: int = 0) -> list[Expr]:
    """``x`` cut along ``axis``, as ``numpy.split``: into ``sections`` equal parts, or before each of the given indices.

    Along the first axis the parts are free: they are other offsets into the same memory, and no launch.
    Raises `ShapeError` if the axis cannot be cut into that many equal parts.

    >>> import lazyflow as lf
    >>> [part.numpy().tolist() for part in lf.split(lf.constant([1.0, 2.0, 3.0, 4.0]), 2)]
    [[1.0, 2.0], [3.0, 4.0]]
    """
    if axis == 0 and sections.__class__ is int and type(x) is Expr and x.tape.scope is SCOPE.mine():
        return _equal_parts(x, sections)
    x = constant(x)
    axis = negative_axis("split", axis, x.ndim) + x.ndim
    bounds = _edges(x.shape[axis], sections)
    return [
        subscripted(x, (slice(None),) * axis + (slice(a, b),) if axis else slice(a, b)) for a, b in pairwise(bounds)
    ]


def _edges(size: int, sections: int | Sequence[int]) -> list[int]:
    if not isinstance(sections, int | np.integer) or isinstance(sections, bool):
        given = sections if isinstance(sections, Sequence | np.ndarray) else (sections,)
        return [0, *(min(i, size) for i in integers("split", "sections", given)), size]
    sections = int(sections)
    if sections < 1 or size % sections:
        raise ShapeError(f"split: an axis of size {size} does not divide into {sections} equal parts")
    return list(range(0, size + 1, size // sections)) if size else [0] * (sections + 1)


def _equal_parts(x: Expr, sections: int) -> list[Expr]:
    try:
        kind, offsets = _splits[x.type][sections]
    except KeyError:
        kind, offsets = remembered(_splits, x.type)[sections] = _prepare(x, sections)
    return views_frame(x, kind, offsets)


def _prepare(x: Expr, sections: int) -> tuple[Type, IntColumn]:
    if not x.shape:
        raise ShapeError("split: an expression without axes cannot be split")
    bounds = _edges(x.shape[0], sections)
    rest = x.size // x.shape[0] if x.shape[0] else 0
    kind = intern_type((bounds[1], *x.shape[1:]), x.dtype, x.device, x.type.requires_grad)
    return kind, IntColumn(payload_integers([b * rest for b in bounds[:-1]]))


@by_kinds
def roll(x: OperandLike, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Expr:
    """``x`` with its elements moved on by ``shift`` along ``axis``, those that fall off coming back, as ``numpy.roll``.

    >>> import lazyflow as lf
    >>> lf.roll(lf.constant([1.0, 2.0, 3.0]), 1).numpy()
    array([3., 1., 2.], dtype=float32)
    """
    return record(
        OPS["roll"],
        (constant(x),),
        shift=integers("roll", "shift", shift),
        axis=None if axis is None else integers("roll", "axis", axis),
    )


@by_kinds
def tile(x: OperandLike, reps: int | Sequence[int]) -> Expr:
    """``x`` repeated as a whole, ``reps`` times along each axis, as ``numpy.tile``."""
    return record(OPS["tile"], (constant(x),), reps=integers("tile", "reps", reps))


@by_kinds
def tril(x: OperandLike, k: int = 0) -> Expr:
    """The lower triangle of a matrix, zeros above diagonal ``k``.

    >>> import lazyflow as lf
    >>> lf.tril(lf.constant([[1.0, 2.0], [3.0, 4.0]])).numpy()
    array([[1., 0.],
           [3., 4.]], dtype=float32)
    """
    return record(OPS["tril"], (constant(x),), k=integer("tril", "k", k))


@by_kinds
def triu(x: OperandLike, k: int = 0) -> Expr:
    """The upper triangle of a matrix, zeros below diagonal ``k``."""
    return record(OPS["triu"], (constant(x),), k=integer("triu", "k", k))


@by_kinds
def diagonal(x: OperandLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Expr:
    """The diagonal of two axes, as the last axis of the result, as ``numpy.diagonal``."""
    given = {"offset": offset, "axis1": axis1, "axis2": axis2}
    return record(OPS["diagonal"], (constant(x),), **{n: integer("diagonal", n, v) for n, v in given.items()})


@by_kinds
def ravel(x: OperandLike) -> Expr:
    """``x`` as a vector; free."""
    return reshape(x, (-1,))


@by_kinds
def transpose(x: OperandLike, axes: Sequence[int] | None = None) -> Expr:
    """``x`` with its axes permuted (reversed by default).

    >>> import lazyflow as lf
    >>> lf.transpose(lf.constant([[1.0, 2.0, 3.0]])).shape
    (3, 1)
    """
    return record(OPS["transpose"], (constant(x),), axes=None if axes is None else integers("transpose", "axes", axes))


@by_kinds
def swapaxes(x: OperandLike, axis1: int, axis2: int) -> Expr:
    """``x`` with two axes exchanged."""
    return record(
        OPS["swapaxes"],
        (constant(x),),
        axis1=integer("swapaxes", "axis1", axis1),
        axis2=integer("swapaxes", "axis2", axis2),
    )


@by_kinds
def expand_dims(x: OperandLike, axis: int | Sequence[int]) -> Expr:
    """``x`` with new axes of size one at ``axis`` of the result; free.

    >>> import lazyflow as lf
    >>> lf.expand_dims(lf.constant([1.0, 2.0]), 1).shape
    (2, 1)
    """
    x = constant(x)
    return reshape(x, OPS["expand_dims"].infer(x.type, axis=integers("expand_dims", "axis", axis)).shape)


@by_kinds
def squeeze(x: OperandLike, axis: int | Sequence[int] | None = None) -> Expr:
    """``x`` without axes of size one (all of them, or those named); free. Raises `ShapeError` for a longer axis."""
    x = constant(x)
    return reshape(x, OPS["squeeze"].infer(x.type, axis=axis_argument("squeeze", axis)).shape)


@by_kinds
def broadcast_to(x: OperandLike, shape: Sequence[int]) -> Expr:
    """``x`` repeated to ``shape`` by NumPy's broadcasting."""
    return record(OPS["broadcast_to"], (constant(x),), shape=integers("broadcast_to", "the shape", shape))


@by_kinds
def flip(x: OperandLike, axis: int | Sequence[int] | None = None) -> Expr:
    """``x`` reversed along ``axis`` (all axes by default)."""
    return record(OPS["flip"], (constant(x),), axis=axis_argument("flip", axis))


@by_kinds
def pad(x: OperandLike, pad_width: PadWidth, mode: str = "constant", constant_value: float = 0.0) -> Expr:
    """``x`` with ``pad_width`` more elements at the ends of its axes, as ``numpy.pad``: modes constant, edge,
    reflect, symmetric and wrap.

    >>> import lazyflow as lf
    >>> lf.pad(lf.constant([1.0, 2.0]), (1, 2)).numpy()
    array([0., 1., 2., 0., 0.], dtype=float32)
    """
    x = constant(x)
    if isinstance(constant_value, Expr) or np.ndim(constant_value) or isinstance(constant_value, str):
        raise TypeError(f"pad: constant_value must be a number, got {constant_value!r}")
    width = pads(pad_width, x.ndim)
    return record(OPS["pad"], (x,), pad_width=width, mode=mode, constant_value=constant_value)


@by_kinds
def repeat(x: OperandLike, repeats: int, axis: int | None = None) -> Expr:
    """Every element of ``x`` ``repeats`` times along ``axis`` (of the flattened value by default)."""
    x = constant(x)
    return record(
        OPS["repeat"],
        (ravel(x) if axis is None else x,),
        repeats=integer("repeat", "repeats", repeats),
        axis=0 if axis is None else integer("repeat", "axis", axis),
    )

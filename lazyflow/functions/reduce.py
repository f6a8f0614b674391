"""Reductions over an example's axes, and sums over a list of expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeGuard

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.functions.shape import stack
from lazyflow.ops import OPS
from lazyflow.ops.base import Axis, axis_argument, integer, integers, negative_axis
from lazyflow.record.expr import (
    Expr,
    OperandLike,
    as_floating,
    constant,
    constants,
    holds_expressions,
    record,
    reduction_recorder,
)
from lazyflow.record.frames import stacked_frame
from lazyflow.record.templates import by_kinds

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "constrained_softmax",
    "cumsum",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "softmax",
    "sparsemax",
    "std",
    "sum",
    "var",
]

_sums, _sum_again, _record_sums = stacked_frame(OPS["sum_list"])
_means, _mean_again, _record_means = stacked_frame(OPS["mean_list"])
_record_sum, _record_mean, _argmax, _argmin = (
    reduction_recorder(OPS[name]) for name in ("sum", "mean", "argmax", "argmin")
)


def _listed(name: str, recorder: Callable[[Sequence[OperandLike]], Expr], operands: Sequence[OperandLike]) -> Expr:
    if not operands:
        raise ShapeError(f"{name} of an empty list: the batch has no examples")
    found = constants(operands)
    if len({(e.shape, e.dtype) for e in found}) > 1:
        kinds = sorted({f"{e.dtype}{list(e.shape)}" for e in found})
        raise ShapeError(
            f"{name} over a list needs expressions of one shape and dtype, got {', '.join(kinds)}; "
            "x.astype(dtype) and x.reshape(shape) make them alike"
        )
    return recorder(found)


def _as_numbers(x: OperandLike) -> OperandLike:
    """A list of Python's integers in the default dtype, for a function whose result is floating anyway."""
    if type(x) is Expr:
        return x
    return as_floating(x) if isinstance(x, int | list | tuple) else x


def _is_list(x: OperandLike, name: str, axis: Axis, keepdims: bool) -> TypeGuard[Sequence[OperandLike]]:
    """Whether ``x`` is a list of expressions, to be summed over, and not one array written as a list of numbers."""
    if type(x) is Expr or not isinstance(x, list | tuple) or (len(x) and not holds_expressions(x)):
        return False
    if axis is not None or keepdims:
        raise TypeError(f"{name} over a list of expressions takes no axis and no keepdims; use lf.stack for that")
    return True


@partial(by_kinds, listed=_sums)
def sum(x: OperandLike, axis: Axis = None, keepdims: bool = False) -> Expr:
    """The sum over ``axis`` (all axes by default), or over a Python list of expressions of one shape: one node, any
    number.

    Raises `ShapeError` for an axis out of range, an empty list, or different shapes in the list.

    >>> import lazyflow as lf
    >>> x = lf.constant([[1.0, 2.0], [3.0, 4.0]])
    >>> lf.sum(x).item(), lf.sum(x, axis=0).numpy(), lf.sum([x[0], x[1]]).numpy()
    (10.0, array([4., 6.], dtype=float32), array([4., 6.], dtype=float32))
    """
    if x.__class__ is list and axis is None and not keepdims and (again := _sum_again(x)) is not None:
        return again
    if _is_list(x, "sum", axis, keepdims):
        return _listed("sum", _record_sums, x)
    return _record_sum(x, axis, keepdims)


@partial(by_kinds, listed=_means)
def mean(x: OperandLike, axis: Axis = None, keepdims: bool = False) -> Expr:
    """The mean over ``axis`` (all axes by default), or over a Python list of expressions of one shape: one node, any
    number.

    >>> import lazyflow as lf
    >>> lf.mean([lf.constant(1.0), lf.constant(3.0)]).item()
    2.0
    """
    if x.__class__ is list and axis is None and not keepdims and (again := _mean_again(x)) is not None:
        return again
    if _is_list(x, "mean", axis, keepdims):
        return _listed("mean", _record_means, x)
    return _record_mean(_as_numbers(x), axis, keepdims)


def _reduction_of(name: str, text: str) -> Callable[..., Expr]:
    op, one = OPS[name], reduction_recorder(OPS[name])

    def reduce(x: OperandLike, axis: Axis = None, keepdims: bool = False) -> Expr:
        if _is_list(x, name, axis, keepdims):
            if not x:
                raise ShapeError(f"{name} of an empty list: the batch has no examples")
            return record(op, (stack(x),), axis=(0,), keepdims=False)
        x = _as_numbers(x) if name == "logsumexp" else x
        return one(x, axis, keepdims)

    reduce.__name__ = reduce.__qualname__ = name
    reduce.__doc__ = f"""{text} over ``axis`` (all axes by default); ``keepdims`` leaves axes of size one.

    Of a Python list of expressions of one shape: elementwise, over the list."""
    return by_kinds(reduce)


prod = _reduction_of("prod", "The product")
largest = _reduction_of("max", "The largest element; the gradient is shared among equals,")
smallest = _reduction_of("min", "The smallest element; the gradient is shared among equals,")
any = _reduction_of("any", "Whether an element is true,")
all = _reduction_of("all", "Whether all elements are true,")
logsumexp = _reduction_of("logsumexp", "``log(sum(exp(x)))``, without overflow,")


def _values_alone(name: str, function: Callable[..., Expr]) -> Callable[..., Expr]:
    """A function of NumPy whose name in PyTorch returns indices, too: its result does not let itself be unpacked."""
    note = (
        f"{name} over an axis gives values alone, as in NumPy, and no indices: those are lf.arg{name}(x, axis), or "
        "both lf.topk(x, 1, axis). To go over its elements, write result[:]"
    )

    def reduce(x: OperandLike, axis: Axis = None, keepdims: bool = False) -> Expr:
        if isinstance(axis, Expr | np.ndarray):
            raise TypeError(f"{name}: axis must be an integer, got {axis!r}; of two values take lf.{name}imum(x, y)")
        result = function(x, axis, keepdims)
        if axis is not None:
            result.note = note
        return result

    reduce.__name__ = reduce.__qualname__ = name
    reduce.__doc__ = function.__doc__
    return by_kinds(reduce)


max, min = _values_alone("max", largest), _values_alone("min", smallest)


@by_kinds
def argmax(x: OperandLike, axis: int | None = None, keepdims: bool = False) -> Expr:
    """The index of the largest element along ``axis`` (of the flattened value by default), an int64 expression.

    >>> import lazyflow as lf
    >>> lf.argmax(lf.constant([1.0, 5.0, 2.0])).item()
    1
    """
    return _argmax(x, axis, keepdims)


@by_kinds
def argmin(x: OperandLike, axis: int | None = None, keepdims: bool = False) -> Expr:
    """The index of the smallest element along ``axis`` (of the flattened value by default), an int64 expression."""
    return _argmin(x, axis, keepdims)


@by_kinds
def var(x: OperandLike, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Expr:
    """The variance over ``axis``, divided by n - ``ddof``."""
    return record(
        OPS["var"],
        (_as_numbers(x),),
        axis=axis_argument("var", axis),
        keepdims=keepdims,
        ddof=integer("var", "ddof", ddof),
    )


@by_kinds
def std(x: OperandLike, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Expr:
    """The standard deviation over ``axis``; its gradient at 0 is 0."""
    return record(
        OPS["std"],
        (_as_numbers(x),),
        axis=axis_argument("std", axis),
        keepdims=keepdims,
        ddof=integer("std", "ddof", ddof),
    )


@by_kinds
def norm(x: OperandLike, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Expr:
    """The vector norm over ``axis`` (of all elements by default), of order 1, 2 or infinity; its gradient at 0 is 0.

    >>> import lazyflow as lf
    >>> lf.norm(lf.constant([3.0, 4.0])).item()
    5.0
    """
    return record(OPS["norm"], (_as_numbers(x),), ord=ord, axis=axis_argument("norm", axis), keepdims=keepdims)


@by_kinds
def cumsum(x: OperandLike, axis: int | None = None) -> Expr:
    """Running sums along ``axis`` (of the flattened value by default)."""
    return record(OPS["cumsum"], (x,), axis=axis_argument("cumsum", axis))


@by_kinds
def softmax(x: OperandLike, axis: int = -1) -> Expr:
    """``exp(x) / sum(exp(x))`` along ``axis``, without overflow.

    >>> import lazyflow as lf
    >>> lf.softmax(lf.constant([0.0, 0.0])).numpy()
    array([0.5, 0.5], dtype=float32)
    """
    return record(OPS["softmax"], (_as_numbers(x),), axis=axis_argument("softmax", axis))


@by_kinds
def log_softmax(x: OperandLike, axis: int = -1, *, restrict: Sequence[int] | None = None) -> Expr:
    """``log(softmax(x))`` along ``axis``, without overflow.

    ``restrict``: the only classes along ``axis`` that are possible; the others get minus infinity, and no gradient.
    Raises ``IndexError`` for one out of range, ``ValueError`` for none at all.

    >>> import lazyflow as lf
    >>> lf.log_softmax(lf.constant([0.0, 5.0, 0.0]), restrict=[0, 2]).numpy().round(3)
    array([-0.693,   -inf, -0.693], dtype=float32)
    """
    found = _as_numbers(x) if restrict is None else _restricted(constant(_as_numbers(x)), axis, restrict)
    return record(OPS["log_softmax"], (found,), axis=axis_argument("log_softmax", axis))


def _restricted(x: Expr, axis: int, classes: Sequence[int]) -> Expr:
    """``x`` with minus infinity everywhere but at ``classes`` along ``axis``."""
    axis = negative_axis("log_softmax", axis, x.ndim)
    chosen, size = integers("log_softmax", "restrict", classes), x.shape[axis]
    if not chosen:
        raise ValueError("log_softmax: restrict names no class; at least one must be possible")
    lowest, highest = sorted(chosen)[0], sorted(chosen)[-1]  # min and max are those of expressions here
    if lowest < 0 or highest >= size:
        raise IndexError(f"log_softmax: restrict names {highest} or {lowest}, classes are 0 to {size - 1}")
    possible = np.zeros((size,) + (1,) * (-axis - 1), np.bool_)
    possible[list(chosen)] = True
    return record(OPS["where"], (possible, x, x.dtype.type(-np.inf)))


@by_kinds
def sparsemax(x: OperandLike, axis: int = -1) -> Expr:
    """The distribution along ``axis`` that is nearest to ``x``, with most classes at zero (Martins, Astudillo 2016).

    Raises `ShapeError` where there is no class, `DTypeError` for what is not floating.

    >>> import lazyflow as lf
    >>> lf.sparsemax(lf.constant([1.0, 0.5, -1.0])).numpy()
    array([0.75, 0.25, 0.  ], dtype=float32)
    """
    return record(OPS["sparsemax"], (x,), axis=integer("sparsemax", "axis", axis))


@by_kinds
def constrained_softmax(x: OperandLike, upper: OperandLike) -> Expr:
    """The distribution over the last axis nearest to ``softmax(x)`` in which no class has more than its ``upper``
    (Martins and Kreutzer 2017).

    ``x`` and ``upper`` have one shape; gradients flow to both. Bounds that sum to less than one are all reached, and
    so is their sum. Raises `ShapeError` for operands of different shapes.

    >>> import lazyflow as lf
    >>> lf.constrained_softmax(lf.constant([0.0, 0.0, 9.0]), lf.constant([1.0, 1.0, 0.5])).numpy()
    array([0.25, 0.25, 0.5 ], dtype=float32)
    """
    return record(OPS["constrained_softmax"], (x, upper))

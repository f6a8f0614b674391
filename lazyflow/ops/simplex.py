"""Maps onto the probability simplex that may be zero, or bounded: sparsemax and the constrained softmax.

Where softmax gives every class some probability, sparsemax is the nearest distribution itself, and most of it is zero
(Martins and Astudillo, "From Softmax to Sparsemax", ICML 2016). The constrained softmax is the distribution nearest to
softmax under upper bounds, which bounds how much attention a word may get (Martins and Kreutzer, EMNLP 2017).
"""

from __future__ import annotations

import numpy as np

from lazyflow.device import Array, ArrayModule
from lazyflow.errors import ShapeError
from lazyflow.ops.base import Abstract, Op, Result, negative_axis, register, require_floating
from lazyflow.ops.formula import multiply_no_nan, select


def _require_classes(name: str, x: Abstract, axis: int) -> None:
    require_floating(name, x)
    if not x.shape or not x.shape[axis]:
        raise ShapeError(f"{name} takes at least one score along axis {axis}, got the shape {x.shape}")


def _sparsemax_infer(x: Abstract, axis: int = -1) -> Result:
    found = negative_axis("sparsemax", axis, len(x.shape))
    _require_classes("sparsemax", x, found)
    return Result(x.shape, x.dtype, {"axis": found})


def _sparsemax(xp: ArrayModule, x: Array, out: Array = None, *, axis: int) -> Array:
    """``max(x - t, 0)`` with the threshold t that makes it sum to one: the largest of those that a number of scores,
    the largest ones, would give."""
    falling = -xp.sort(-(x - x.max(axis=axis, keepdims=True)), axis=axis)
    counts = xp.arange(1, x.shape[axis] + 1, dtype=x.dtype).reshape((-1,) + (1,) * (-axis - 1))
    threshold = ((falling.cumsum(axis=axis) - 1) / counts).max(axis=axis, keepdims=True)
    return xp.maximum(x - x.max(axis=axis, keepdims=True) - threshold, 0, out=_own_room(out, x))


def _own_room(out: Array | None, x: Array) -> Array | None:
    return out if out is not None and out.shape == x.shape else None


def _sparsemax_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, axis: int) -> Array:
    """Among the scores that count, the cotangent less its mean."""
    support = (y > 0).astype(g.dtype)
    kept = select(xp, y > 0, g)
    count = xp.maximum(xp.sum(support, axis=axis, keepdims=True), 1)
    return kept - support * (xp.sum(kept, axis=axis, keepdims=True) / count)


SPARSEMAX = register(Op("sparsemax", _sparsemax_infer, _sparsemax, (_sparsemax_x,)))


def _constrained_infer(x: Abstract, upper: Abstract) -> Result:
    if x.shape != upper.shape:
        raise ShapeError(
            f"constrained_softmax takes scores and upper bounds of one shape, got {x.shape} and {upper.shape}"
        )
    for operand in (x, upper):
        _require_classes("constrained_softmax", operand, -1)
    return Result(x.shape, np.result_type(x.dtype, upper.dtype))


def _constrained(xp: ArrayModule, x: Array, upper: Array, out: Array = None) -> Array:
    """``min(c exp(x), upper)`` with the c that makes it sum to one (Martins and Kreutzer 2017).

    c grows with every class that is at its bound: those that pass theirs are put there, all at once, until none does.
    Weights are relative to the largest of the classes that are left, or they would vanish beside one at its bound.
    """
    dtype = np.result_type(x.dtype, upper.dtype)
    scores, upper = xp.broadcast_arrays(x.astype(np.result_type(dtype, np.float32), copy=False), upper)
    free, y = xp.ones(scores.shape, bool), upper
    for _ in range(scores.shape[-1]):
        y = _shared(xp, scores, upper, free)
        beyond = xp.logical_and(free, y > upper)
        if not beyond.any():
            break
        free = xp.logical_and(free, xp.logical_not(beyond))
    return xp.minimum(y, upper).astype(dtype, copy=False)


def _shared(xp: ArrayModule, scores: Array, upper: Array, free: Array) -> Array:
    """The bounds of classes that are at them, and what these leave, shared out among the others as by softmax."""
    largest = xp.where(free, scores, -np.inf).max(axis=-1, keepdims=True)
    weights = select(xp, free, xp.exp(scores - xp.where(largest == -np.inf, 0, largest)))
    total = weights.sum(axis=-1, keepdims=True)
    left = 1 - select(xp, xp.logical_not(free), upper).sum(axis=-1, keepdims=True)
    return xp.where(free, weights * (left / (total + (total == 0))), upper)


def _below_bounds(xp: ArrayModule, g: Array, y: Array, upper: Array) -> tuple[Array, Array]:
    """The probabilities of the classes below their bounds, and the mean of their cotangents, weighted by them."""
    free = select(xp, y < upper, y)
    total = xp.sum(free, axis=-1, keepdims=True)
    return free, xp.sum(multiply_no_nan(xp, g, free), axis=-1, keepdims=True) / (total + (total == 0))


def _constrained_x(xp: ArrayModule, g: Array, y: Array, x: Array, upper: Array) -> Array:
    free, mean = _below_bounds(xp, g, y, upper)
    return multiply_no_nan(xp, g - mean, free)


def _constrained_upper(xp: ArrayModule, g: Array, y: Array, x: Array, upper: Array) -> Array:
    """What a bound gains, the free classes lose."""
    _, mean = _below_bounds(xp, g, y, upper)
    return select(xp, xp.logical_not(y < upper), g - mean)


CONSTRAINED_SOFTMAX = register(
    Op("constrained_softmax", _constrained_infer, _constrained, (_constrained_x, _constrained_upper))
)

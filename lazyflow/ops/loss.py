"""Losses of one example. A mean over a minibatch is ``mean_list`` of them.

A class is given by its index, one for every row of scores: scores ``(n,)`` take an index ``()``, scores ``(t, n)`` take
``(t,)``. Then ``reduction`` says what becomes of the ``t`` losses: their mean, their sum, or ``"none"``, all of them. A
loss of elements, such as ``mse``, reduces over all elements of the example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from lazyflow import core
from lazyflow import device as devices
from lazyflow.cuda import rows
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import (
    Abstract,
    Op,
    Result,
    Shape,
    adding,
    looking_at,
    on_device,
    register,
    require_floating,
    require_integer,
    total,
    wide,
)
from lazyflow.ops.formula import multiply_no_nan, select, where_nonzero
from lazyflow.ops.reduce import log_softmax_of, softmax_of

REDUCTIONS = ("mean", "sum", "none")


# What the losses share.


def _reduced_infer(name: str, shape: Shape, dtype: DType, reduction: str, **static: object) -> Result:
    """The shape rule's last step: ``shape`` is that of the losses before the reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if reduction == "mean" and not math.prod(shape):
        raise ShapeError(f"{name}: the mean of no losses; the shape {shape} has no elements, use reduction='sum'")
    return Result(() if reduction != "none" else shape, dtype, {"reduction": reduction, "ndim": len(shape), **static})


def _reduce(losses: Array, reduction: str, ndim: int) -> Array:
    """The losses of each example, ``ndim`` trailing axes, as its mean or sum."""
    if reduction == "none" or not ndim:
        return losses
    axes = tuple(range(-ndim, 0))
    found = total(wide(losses), axes)
    found = found / _element_count(losses, ndim) if reduction == "mean" else found
    return found.astype(losses.dtype, copy=False)


def _spread_losses(g: Array, reduction: str, ndim: int, count: int, more: int = 0) -> Array:
    """The cotangents of the losses before the reduction, with ``more`` axes of size 1 behind."""
    behind = (None,) * (more if reduction == "none" else more + ndim)
    subscript = (..., *behind)
    g = g[subscript] if behind else g
    return g / count if reduction == "mean" and count != 1 else g


def _scaled(xp: ArrayModule, answer: Array, share: Array) -> Array:
    """An answer of our own times cotangents: in place, unless all operands are shared and it lacks the batch axis."""
    if not _is_array(xp, answer) or answer.ndim < share.ndim:
        return multiply_no_nan(xp, share, answer)
    answer *= share
    return where_nonzero(xp, share, answer)


def _lead(scores: Array, ndim: int) -> int:
    """How many losses one example has; ``scores`` have their classes behind these axes."""
    return math.prod(scores.shape[-ndim - 1 : -1])


def _element_count(array: Array, ndim: int) -> int:
    return math.prod(array.shape[array.ndim - ndim :])


# Losses of a class index.


def _classes_infer(name: str, scores: Abstract, index: Abstract, reduction: str = "mean") -> Result:
    require_floating(name, scores)
    require_integer(name, "the class index", index)
    if not scores.shape or not scores.shape[-1]:
        raise ShapeError(f"{name} takes scores of at least one class, (n,) or (t, n), got the shape {scores.shape}")
    if index.shape != scores.shape[:-1]:
        raise ShapeError(
            f"{name} takes one class index for each row of scores: scores of shape {scores.shape} need "
            f"indices of shape {scores.shape[:-1]}, got {index.shape}"
        )
    return _reduced_infer(name, index.shape, scores.dtype, reduction)


def _repeated(xp: ArrayModule, scores: Array, index: Array) -> Array:
    """Scores as they are, or repeated for every node where they are shared and the indices are not."""
    if scores.ndim > index.ndim:
        return scores
    return xp.broadcast_to(scores, (*index.shape, scores.shape[-1]))


def _places(xp: ArrayModule, scores: Array, index: Array) -> tuple[Array, Array]:
    """The rows of flattened scores, and the class that belongs to each."""
    if index.shape != scores.shape[:-1]:
        index = devices.module(index).broadcast_to(index, scores.shape[:-1])
    if isinstance(index, np.ndarray) and index.size and (index.min() < 0 or index.max() >= scores.shape[-1]):
        wrong = index[(index < 0) | (index >= scores.shape[-1])].flat[0]
        raise IndexError(f"class {wrong} is out of range for {scores.shape[-1]} scores; classes are numbered from 0")
    return xp.arange(index.size), on_device(xp, index.reshape(-1))


def _picked(xp: ArrayModule, scores: Array, index: Array) -> Array:
    """The score of each row's class."""
    flat = scores.reshape(-1, scores.shape[-1])
    return flat[_places(xp, scores, index)].reshape(scores.shape[:-1])


def _hot(xp: ArrayModule, scores: Array, index: Array) -> Array:
    """Whether a score is that of its row's class."""
    return on_device(xp, index)[..., None] == xp.arange(scores.shape[-1])


def _is_array(xp: ArrayModule, value: object) -> bool:
    """Whether elements of ``value`` can be assigned: not those of an expression, which is differentiated further."""
    return isinstance(value, getattr(xp, "ndarray", ()))


def _minus_one_hot(xp: ArrayModule, probabilities: Array, index: Array) -> Array:
    """Subtract 1 at each row's class: in place, one element a row."""
    if not _is_array(xp, probabilities):
        return probabilities - _hot(xp, probabilities, index)
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    flat[_places(xp, probabilities, index)] -= 1
    return flat.reshape(probabilities.shape)


# One pass over the rows, which as NumPy calls takes a dozen passes and temporaries.


def _as_rows(xp: ArrayModule, scores: Array, index: Array, ndim: int) -> tuple[Array, Array] | None:
    """Scores and their classes as rows of scores with a class each, if they are such in the host's memory, which the
    compiled core knows, and both have a batch axis."""
    if core.machine is None or xp is not np or scores.dtype.itemsize < 4 or index.dtype != np.int64:
        return None
    if index.ndim != ndim + 1:
        return None
    if index.shape != scores.shape[:-1] or scores.strides[-1] != scores.itemsize or not index.flags.c_contiguous:
        return None
    if scores.ndim == 2:
        return scores, index
    return (scores.reshape(-1, scores.shape[-1]), index.reshape(-1)) if scores.flags.c_contiguous else None


def losses_of_rows(scores: Array, index: Array, out: Array = None) -> Array:
    """Cross entropies of rows of scores, by the core."""
    losses = np.empty(len(index), scores.dtype) if out is None else out
    if not core.machine.cross_entropy(scores, index, losses):
        _places(np, scores, index)  # which says which class there is not
    return losses


def slopes_of_rows(scores: Array, index: Array, share: Array) -> Array:
    """The slopes of `losses_of_rows`, times the cotangents of these."""
    answer = np.empty(scores.shape, scores.dtype)
    if not core.machine.cross_entropy_slopes(scores, index, share, answer):
        _places(np, scores, index)
    return answer


def _share_of_rows(g: Array, shape: Shape, reduction: str, ndim: int) -> Array:
    """The cotangent of each row's loss."""
    share = _spread_losses(g, reduction, ndim, math.prod(shape[len(shape) - ndim :]))
    return share if share.ndim == 1 and share.shape == shape else np.broadcast_to(share, shape).reshape(-1)


def _by_rows_there(xp: ArrayModule, scores: Array, index: Array, ndim: int) -> bool:
    """The same in the memory of a device."""
    if ndim or not _is_array(xp, scores) or not rows.is_matrix(scores) or index.shape != scores.shape[:1]:
        return False
    _places(np, scores, index)  # which looks whether there are such classes
    return bool(index.dtype == np.int64 and len(index))


def _labels(xp: ArrayModule, index: Array) -> Array:
    return xp.ascontiguousarray(on_device(xp, index))


def _cross_entropy(
    xp: ArrayModule, logits: Array, index: Array, out: Array = None, *, reduction: str, ndim: int
) -> Array:
    host = _as_rows(xp, logits, index, ndim)
    if host is not None:
        losses = losses_of_rows(*host, None if ndim else out)
        return _reduce(losses.reshape(index.shape), reduction, ndim) if ndim else losses
    if _by_rows_there(xp, logits, index, ndim):
        losses = xp.empty(len(logits), logits.dtype) if out is None else out
        rows.cross_entropy_rows(logits, _labels(xp, index), losses)
        return losses
    scores = wide(_repeated(xp, logits, index))
    shifted = scores - scores.max(axis=-1, keepdims=True)
    losses = xp.log(xp.exp(shifted).sum(axis=-1)) - _picked(xp, shifted, index)
    return _reduce(losses, reduction, ndim).astype(logits.dtype, copy=False)


def _cross_entropy_logits(
    xp: ArrayModule, g: Array, y: Array, logits: Array, index: Array, *, reduction: str, ndim: int
) -> Array:
    host = _as_rows(xp, logits, index, ndim)
    if host is not None and g.shape == index.shape[: g.ndim]:
        return slopes_of_rows(*host, _share_of_rows(g, index.shape, reduction, ndim)).reshape(logits.shape)
    if _by_rows_there(xp, logits, index, ndim) and g.shape == index.shape:
        answer = xp.empty(logits.shape, logits.dtype)
        rows.cross_entropy_slopes(logits, _labels(xp, index), g, rows.put_in(answer))
        return answer
    scores = _repeated(xp, logits, index)
    answer = _minus_one_hot(xp, _probabilities(xp, scores), index)
    return _scaled(xp, answer, _spread_losses(g, reduction, ndim, _lead(logits, ndim), more=1))


def _add_slopes(
    places: rows.Places, xp: ArrayModule, g: Array, y: Array, logits: Array, index: Array, *, reduction: str, ndim: int
) -> bool:
    """`_cross_entropy_logits`, where it belongs."""
    if not _by_rows_there(xp, logits, index, ndim) or g.shape != index.shape or not rows.is_rows(places, logits, g):
        return False
    rows.cross_entropy_slopes(logits, _labels(xp, index), g, places)
    return True


def _probabilities(xp: ArrayModule, scores: Array) -> Array:
    """The probabilities of scores along the last axis, for arrays and expressions."""
    return softmax_of(xp, scores, axis=-1) if _is_array(xp, scores) else xp.softmax(scores, axis=-1)


def _nll(xp: ArrayModule, scores: Array, index: Array, out: Array = None, *, reduction: str, ndim: int) -> Array:
    return _reduce(-_picked(xp, _repeated(xp, scores, index), index), reduction, ndim)


def _nll_scores(
    xp: ArrayModule, g: Array, y: Array, scores: Array, index: Array, *, reduction: str, ndim: int
) -> Array:
    return select(xp, _hot(xp, scores, index), _spread_losses(-g, reduction, ndim, _lead(scores, ndim), more=1))


CROSS_ENTROPY = register(
    Op(
        "cross_entropy",
        partial(_classes_infer, "cross_entropy"),
        _cross_entropy,
        (adding(looking_at(_cross_entropy_logits, (1, 2)), _add_slopes), None),
    )
)
NLL = register(Op("nll", partial(_classes_infer, "nll"), _nll, (_nll_scores, None)))


# The multi-class hinge of Weston and Watkins 1999: every wrong class that comes closer than the margin costs.


def _hinge_infer(scores: Abstract, index: Abstract, margin: float = 1.0, reduction: str = "mean") -> Result:
    shape, dtype, static = _classes_infer("hinge", scores, index, reduction)
    return Result(shape, dtype, {**static, "margin": float(margin)})


def _violations(xp: ArrayModule, scores: Array, index: Array, margin: float) -> Array:
    """By how much each wrong class comes too close, negative where it does not; the right class itself counts as 0."""
    hot = _hot(xp, scores, index)
    return xp.where(hot, 0, scores - _right(xp, scores, index, hot) + margin)


def _right(xp: ArrayModule, scores: Array, index: Array, hot: Array) -> Array:
    """The score of each row's class, with an axis of size 1 for the classes."""
    if _is_array(xp, scores):
        return _picked(xp, _repeated(xp, scores, index), index)[..., None]
    return xp.sum(xp.where(hot, scores, 0), axis=-1, keepdims=True)


def _hinge(
    xp: ArrayModule, scores: Array, index: Array, out: Array = None, *, reduction: str, ndim: int, margin: float
) -> Array:
    violations = _violations(xp, scores, index, margin)
    return _reduce(xp.maximum(violations, 0).sum(axis=-1), reduction, ndim)


def _hinge_scores(
    xp: ArrayModule, g: Array, y: Array, scores: Array, index: Array, *, reduction: str, ndim: int, margin: float
) -> Array:
    share = _spread_losses(g, reduction, ndim, _lead(scores, ndim), more=1)
    each = select(xp, _violations(xp, scores, index, margin) > 0, share)
    return each - select(xp, _hot(xp, scores, index), xp.sum(each, axis=-1, keepdims=True))


HINGE = register(Op("hinge", _hinge_infer, _hinge, (_hinge_scores, None)))


# Cross-entropy with a distribution as the target.


def _pair(name: str, a: Abstract, b: Abstract) -> DType:
    """The dtype of two operands of one shape, one of them floating."""
    if a.shape != b.shape:
        raise ShapeError(
            f"{name} takes two operands of one shape, got {a.shape} and {b.shape}; broadcast_to makes them equal"
        )
    dtype = np.result_type(a.dtype, b.dtype)
    if dtype.kind != "f":
        raise DTypeError(f"{name} takes floating numbers, got {a.dtype} and {b.dtype}; convert with .astype('float32')")
    return dtype


def _soft_infer(logits: Abstract, target: Abstract, reduction: str = "mean") -> Result:
    dtype = _pair("soft_cross_entropy", logits, target)
    if not logits.shape or not logits.shape[-1]:
        raise ShapeError(
            f"soft_cross_entropy takes logits of at least one class, (n,) or (t, n), got the shape {logits.shape}"
        )
    return _reduced_infer("soft_cross_entropy", logits.shape[:-1], dtype, reduction)


def _soft(xp: ArrayModule, logits: Array, target: Array, out: Array = None, *, reduction: str, ndim: int) -> Array:
    return _reduce(-multiply_no_nan(xp, target, log_softmax_of(xp, logits, axis=-1)).sum(axis=-1), reduction, ndim)


def _soft_logits(
    xp: ArrayModule, g: Array, y: Array, logits: Array, target: Array, *, reduction: str, ndim: int
) -> Array:
    answer = _probabilities(xp, logits) * xp.sum(target, axis=-1, keepdims=True) - target
    return multiply_no_nan(xp, _spread_losses(g, reduction, ndim, _lead(logits, ndim), more=1), answer)


def _soft_target(
    xp: ArrayModule, g: Array, y: Array, logits: Array, target: Array, *, reduction: str, ndim: int
) -> Array:
    answer = log_softmax_of(xp, logits, axis=-1) if _is_array(xp, logits) else xp.log_softmax(logits, axis=-1)
    return multiply_no_nan(xp, -_spread_losses(g, reduction, ndim, _lead(logits, ndim), more=1), answer)


SOFT_CROSS_ENTROPY = register(Op("soft_cross_entropy", _soft_infer, _soft, (_soft_logits, _soft_target)))


# Losses of elements: the loss of one, and its derivative in ``x`` and in the target, all by plain operators.

Losses = Callable[..., Array]


def _elements_infer(name: str, x: Abstract, target: Abstract, reduction: str = "mean", **static: object) -> Result:
    return _reduced_infer(name, x.shape, _pair(name, x, target), reduction, **static)


def _elements_forward(
    losses: Losses,
    xp: ArrayModule,
    x: Array,
    target: Array,
    out: Array = None,
    *,
    reduction: str,
    ndim: int,
    **static: object,
) -> Array:
    return _reduce(losses(xp, x, target, **static), reduction, ndim)


def _elements_vjp(slope: Losses) -> Losses:
    def vjp(
        xp: ArrayModule, g: Array, y: Array, x: Array, target: Array, *, reduction: str, ndim: int, **static: object
    ) -> Array:
        return multiply_no_nan(
            xp, _spread_losses(g, reduction, ndim, _element_count(x, ndim)), slope(xp, x, target, **static)
        )

    return vjp


def _element_loss(
    name: str, losses: Losses, x: Losses, target: Losses, infer: Callable[..., Result] | None = None
) -> Op:
    """Register a loss of elements, from its value and its two derivatives."""
    return register(
        Op(
            name,
            infer or partial(_elements_infer, name),
            partial(_elements_forward, losses),
            (_elements_vjp(x), _elements_vjp(target)),
        )
    )


def _squared_error(xp: ArrayModule, x: Array, target: Array) -> Array:
    difference = x - target
    return difference * difference


def _logistic_loss(xp: ArrayModule, x: Array, target: Array) -> Array:
    """``t log(1 + exp(-x)) + (1 - t) log(1 + exp(x))``, of which an answer of probability 0 takes no part."""
    rest = xp.log1p(xp.exp(-abs(x)))
    return multiply_no_nan(xp, target, xp.maximum(-x, 0) + rest) + multiply_no_nan(
        xp, 1 - target, xp.maximum(x, 0) + rest
    )


def _binary_slope(xp: ArrayModule, x: Array, target: Array) -> Array:
    """The logistic function of ``x`` less the target, as ``(1 - t) s(x) - t s(-x)``: for the right answer it has all
    digits of what is left, where a difference from 1 has none."""
    e = xp.exp(xp.where(x < 0, x, -x))
    return ((1 - target) * xp.where(x < 0, e, 1) - target * xp.where(x < 0, 1, e)) / (1 + e)


# Of probabilities: each logarithm at least -100, and its slope bounded by 1e12, as in PyTorch.


def _log(xp: ArrayModule, x: Array) -> Array:
    return xp.maximum(xp.log(x), -100.0)


def _log1m(xp: ArrayModule, x: Array) -> Array:
    return xp.maximum(xp.log1p(-x), -100.0)


def _of_probabilities(xp: ArrayModule, x: Array, target: Array) -> Array:
    return (target - 1) * _log1m(xp, x) - target * _log(xp, x)


def _probabilities_slope(xp: ArrayModule, x: Array, target: Array) -> Array:
    least = max(1e-12, float(np.finfo(x.dtype).smallest_subnormal))
    return (x - target) / xp.maximum((1 - x) * x, least)


def _huber_infer(x: Abstract, target: Abstract, delta: float = 1.0, reduction: str = "mean") -> Result:
    if not delta > 0:
        raise ValueError(f"huber: delta must be positive, got {delta!r}")
    return _elements_infer("huber", x, target, reduction, delta=float(delta))


def _huber(xp: ArrayModule, x: Array, target: Array, *, delta: float) -> Array:
    distance = abs(x - target)
    quadratic = xp.minimum(distance, delta)
    return quadratic * (distance - 0.5 * quadratic)


def _huber_slope(xp: ArrayModule, x: Array, target: Array, *, delta: float) -> Array:
    return xp.clip(x - target, -delta, delta)


MSE = _element_loss("mse", _squared_error, lambda xp, x, t: 2 * (x - t), lambda xp, x, t: 2 * (t - x))
BCE_WITH_LOGITS = _element_loss("bce_with_logits", _logistic_loss, _binary_slope, lambda xp, x, t: -x)
BINARY_CROSS_ENTROPY = _element_loss(
    "binary_cross_entropy", _of_probabilities, _probabilities_slope, lambda xp, x, t: _log1m(xp, x) - _log(xp, x)
)
HUBER = _element_loss(
    "huber", _huber, _huber_slope, lambda xp, x, t, delta: _huber_slope(xp, t, x, delta=delta), _huber_infer
)

"""Losses of one example; the mean over a minibatch is ``lf.mean([loss1, loss2, ...])``."""

from __future__ import annotations

from functools import partial
from typing import TypeGuard

import numpy as np
from numpy import ndarray

from lazyflow.core.columns import are_within
from lazyflow.device import Array
from lazyflow.errors import ShapeError
from lazyflow.ops import OPS
from lazyflow.ops.base import number
from lazyflow.ops.loss import REDUCTIONS
from lazyflow.record.expr import Expr, OperandLike, as_floating, binary, in_one_dtype, index_array, record
from lazyflow.record.frames import indexed_frame
from lazyflow.record.templates import by_kinds
from lazyflow.record.trace import TracedNumber

__all__ = ["bce_with_logits", "cross_entropy", "hinge", "huber", "mse", "nll"]

_record_cross_entropy, _record_nll = binary(OPS["cross_entropy"]), binary(OPS["nll"])


def _class(name: str, i: int | TracedNumber, scores: Expr) -> int | TracedNumber:
    if not scores.shape:
        raise ShapeError(f"{name} takes scores of at least one class, (n,) or (t, n), got the shape ()")
    n = scores.shape[-1]
    if isinstance(i, TracedNumber):
        return i.below(name, n)
    if not 0 <= i < n:
        raise IndexError(
            f"{name}: class {i} is out of range for {n} scores of shape {scores.shape}; classes are numbered from 0"
        )
    return int(i)


def _is_index(target: OperandLike) -> TypeGuard[int | TracedNumber]:
    if isinstance(target, TracedNumber):
        return isinstance(target.value, int | np.integer)
    return isinstance(target, int | np.integer) and not isinstance(target, bool)


def _classes(name: str, target: OperandLike, scores: Expr) -> Expr | Array:
    """Class indices that are arrays or lists, checked; expressions are left alone, their values are not known yet."""
    if isinstance(target, Expr):
        return target
    array = index_array(target)
    if array.dtype.kind in "iu" and not (scores.shape and are_within(array, 0, scores.shape[-1])) and array.size:
        _class(name, int(array.min()), scores)
        _class(name, int(array.max()), scores)
    return array


def are_classes(target: OperandLike, scores: OperandLike, axis: int) -> TypeGuard[Array]:
    """Whether a target is an array of integers that are classes, of which there are as many as scores along an axis."""
    if type(target) is not ndarray or not isinstance(scores, Expr) or target.dtype.kind not in "iu":
        return False
    shape = scores.type.shape
    return -len(shape) <= axis < len(shape) and are_within(target, 0, shape[axis])


@partial(by_kinds, arrays=True)
def of_classes(name: str, scores: OperandLike, target: OperandLike, reduction: str) -> Expr:
    """The loss of an array of which every element is known to be a class."""
    return record(OPS[name], (as_floating(scores), target), reduction=reduction)


@partial(indexed_frame, OPS["cross_entropy"], -1, ndim=1)
def cross_entropy(logits: OperandLike, target: OperandLike, reduction: str = "mean") -> Expr:
    """Minus the log-probability of the target under ``softmax(logits)``, a scalar.

    ``logits`` (n,): ``target`` is a class index, or n probabilities. ``logits`` (t, n): t indices or (t, n)
    probabilities, and the mean over t (``reduction="sum"`` or ``"none"`` otherwise). Raises ``IndexError`` at this line
    for an index out of range.

    >>> import lazyflow as lf
    >>> round(lf.cross_entropy(lf.constant([0.0, 0.0]), 1).item(), 4)
    0.6931
    """
    if are_classes(target, logits, -1):
        return of_classes("cross_entropy", logits, target, reduction)
    logits = as_floating(logits)
    if _is_index(target) and logits.ndim == 1 and reduction in REDUCTIONS:
        return _record_cross_entropy(logits, _class("cross_entropy", target, logits))
    target = _classes("cross_entropy", target, logits)
    if logits.ndim == 1 and not target.shape and target.dtype.kind not in "iu":
        raise TypeError(
            f"cross_entropy: a class is an integer, got one {target.dtype} number; probabilities are as many as scores"
        )
    if target.dtype.kind in "iu":
        return record(OPS["cross_entropy"], (logits, target), reduction=reduction)
    return record(OPS["soft_cross_entropy"], in_one_dtype(logits, target), reduction=reduction)


@partial(indexed_frame, OPS["nll"], -1, ndim=1)
def nll(log_probabilities: OperandLike, target: OperandLike, reduction: str = "mean") -> Expr:
    """Minus the log-probability of class ``target``; as `cross_entropy` on what `log_softmax` returns.

    >>> import lazyflow as lf
    >>> lf.nll(lf.constant([-1.0, -2.0]), 1).item()
    2.0
    """
    if are_classes(target, log_probabilities, -1):
        return of_classes("nll", log_probabilities, target, reduction)
    scores = as_floating(log_probabilities)
    if _is_index(target) and scores.ndim == 1 and reduction in REDUCTIONS:
        return _record_nll(scores, _class("nll", target, scores))
    return record(OPS["nll"], (scores, _classes("nll", target, scores)), reduction=reduction)


@partial(by_kinds, arrays=True)
def mse(x: OperandLike, target: OperandLike, reduction: str = "mean") -> Expr:
    """The squared difference, averaged over the example's elements (``"sum"``, ``"none"`` otherwise).

    >>> import lazyflow as lf
    >>> lf.mse(lf.constant([1.0, 2.0]), [0.0, 0.0]).item()
    2.5
    """
    return record(OPS["mse"], in_one_dtype(x, target), reduction=reduction)


@partial(by_kinds, arrays=True)
def bce_with_logits(logits: OperandLike, target: OperandLike, reduction: str = "mean") -> Expr:
    """Binary cross-entropy of ``sigmoid(logits)`` with targets in [0, 1], averaged over the example's elements.

    >>> import lazyflow as lf
    >>> round(lf.bce_with_logits(lf.constant([0.0]), [1.0]).item(), 4)
    0.6931
    """
    return record(OPS["bce_with_logits"], in_one_dtype(logits, target), reduction=reduction)


@by_kinds
def hinge(scores: OperandLike, target: OperandLike, margin: float = 1.0, reduction: str = "mean") -> Expr:
    """The sum over the wrong classes j of ``max(0, margin - scores[target] + scores[j])`` (Weston and Watkins 1999).

    ``scores`` (n,): ``target`` is a class index. ``scores`` (t, n): t indices, and the mean of the t losses
    (``reduction="sum"`` or ``"none"`` otherwise).

    >>> import lazyflow as lf
    >>> lf.hinge(lf.constant([1.0, 0.5, -1.0]), 0).item()
    0.5
    """
    x = as_floating(scores)
    return record(
        OPS["hinge"],
        (x, _class("hinge", target, x) if _is_index(target) else _classes("hinge", target, x)),
        margin=number("hinge", "margin", margin),
        reduction=reduction,
    )


@partial(by_kinds, arrays=True)
def huber(x: OperandLike, target: OperandLike, delta: float = 1.0, reduction: str = "mean") -> Expr:
    """Squared below ``delta`` and linear above (Huber 1964), averaged over the example's elements.

    >>> import lazyflow as lf
    >>> lf.huber(lf.constant([0.0]), [3.0]).item()
    2.5
    """
    return record(OPS["huber"], in_one_dtype(x, target), delta=number("huber", "delta", delta), reduction=reduction)

"""Losses of one example, with PyTorch's names and formulas.

``reduction`` says what becomes of the losses of the example's elements (or rows): ``"mean"``, ``"sum"`` or ``"none"``.
The mean over a minibatch is ``lf.mean([loss of each example])``; where examples have unequal numbers of elements, that
is not PyTorch's mean over a padded batch: sum them with ``reduction="sum"`` and divide. A margin, an ``eps`` or a share
is a number: what may have a gradient is a ``TypeError``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.functions import elementwise as e
from lazyflow.functions import loss as losses
from lazyflow.functions import reduce as r
from lazyflow.functions.index import one_hot, take
from lazyflow.functions.shape import concatenate, stack, transpose
from lazyflow.nn.functional.maps import cosine_similarity, pairwise_distance
from lazyflow.ops import OPS
from lazyflow.ops.base import number
from lazyflow.record.expr import Expr, as_floating, constant, in_one_dtype, record
from lazyflow.record.templates import by_kinds

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy", "ctc_loss",
    "gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss",
    "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "nll_loss", "poisson_nll_loss",
    "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(name: str, reduction: str, *more: str) -> None:
    """Raise ``ValueError`` unless ``reduction`` is one of those that the loss has.

    >>> check_reduction("l1_loss", "avg")
    Traceback (most recent call last):
    ValueError: l1_loss: reduction must be one of mean, sum, none, got 'avg'
    """
    if reduction not in (*REDUCTIONS, *more):
        raise ValueError(f"{name}: reduction must be one of {', '.join((*REDUCTIONS, *more))}, got {reduction!r}")


def _reduced(name: str, values: Expr, reduction: str) -> Expr:
    check_reduction(name, reduction)
    return values if reduction == "none" else r.mean(values) if reduction == "mean" else r.sum(values)


def _pair(name: str, x: Any, target: Any) -> tuple[Expr, Expr]:
    """Both as expressions of one shape, in the dtype of the first."""
    a, b = in_one_dtype(x, target)
    if a.shape != b.shape:
        raise ShapeError(f"{name} takes two operands of one shape, got {a.shape} and {b.shape}")
    return a, b


def _like(value: Any, x: Expr) -> Expr:
    """Weights in the dtype of what they weigh."""
    return as_floating(value, x)


# Losses of elements.


@partial(by_kinds, arrays=True)
def mse_loss(x: Any, target: Any, reduction: str = "mean") -> Expr:
    """The squared difference.

    >>> import lazyflow as lf
    >>> lf.nn.functional.mse_loss(lf.constant([1.0, 2.0]), [0.0, 0.0], reduction="sum").item()
    5.0
    """
    check_reduction("mse_loss", reduction)
    return losses.mse(x, target, reduction)


@partial(by_kinds, arrays=True)
def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Expr:
    """The size of the difference."""
    a, b = _pair("l1_loss", x, target)
    return _reduced("l1_loss", e.abs(a - b), reduction)


@partial(by_kinds, arrays=True)
def huber_loss(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Expr:
    """Half the squared difference below ``delta``, and linear above (Huber 1964)."""
    check_reduction("huber_loss", reduction)
    return losses.huber(x, target, delta, reduction)


@partial(by_kinds, arrays=True)
def smooth_l1_loss(x: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Expr:
    """`huber_loss` divided by ``beta`` (Girshick 2015); `l1_loss` for ``beta`` 0, ``ValueError`` below."""
    beta = number("smooth_l1_loss", "beta", beta)
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must be at least 0, got {beta}")
    return l1_loss(x, target, reduction) if not beta else huber_loss(x, target, reduction, beta) / beta


@partial(by_kinds, arrays=True)
def binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Expr:
    """``-(target * log(x) + (1 - target) * log(1 - x))`` for probabilities ``x``, each logarithm at least -100, and
    ``(x - target) / max(x * (1 - x), 1e-12)`` for its slope, as in PyTorch.

    ``weight``: factors of the losses. For probabilities that come of a sigmoid, `binary_cross_entropy_with_logits` is
    exact where this one has lost all digits.
    """
    name = "binary_cross_entropy"
    check_reduction(name, reduction)
    p, t = _pair(name, x, target)
    if weight is None:
        return record(OPS[name], (p, t), reduction=reduction)
    return _reduced(name, record(OPS[name], (p, t), reduction="none") * _like(weight, p), reduction)


@partial(by_kinds, arrays=True)
def binary_cross_entropy_with_logits(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Expr:
    """`binary_cross_entropy` of ``sigmoid(x)``, without overflow. ``pos_weight``: a factor of the targets' part.

    >>> import lazyflow as lf
    >>> round(lf.nn.functional.binary_cross_entropy_with_logits(lf.constant([0.0]), [1.0]).item(), 4)
    0.6931
    """
    name = "binary_cross_entropy_with_logits"
    check_reduction(name, reduction)
    if weight is None and pos_weight is None:
        return losses.bce_with_logits(x, target, reduction)
    a, t = _pair(name, x, target)
    values = _of_logits(a, t if pos_weight is None else _like(pos_weight, a) * t, 1.0 - t)
    return _reduced(name, values if weight is None else values * _like(weight, a), reduction)


def _of_logits(x: Expr, yes: Expr, no: Expr) -> Expr:
    """What the two answers cost, by their weights; one of weight 0 nothing, even if its logit is infinite."""
    return _none_if_zero(yes, e.softplus(-x)) + _none_if_zero(no, e.softplus(x))


def _none_if_zero(weight: Expr, cost: Expr) -> Expr:
    return record(OPS["multiply_no_nan"], (weight, cost))


@partial(by_kinds, arrays=True)
def kl_div(x: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Expr:
    """``target * (log(target) - x)`` for log-probabilities ``x``, 0 where the target is; ``log_target``: the target is
    a logarithm, too.

    ``"mean"`` is over all elements; ``"batchmean"`` is the sum over the first axis's size, the mathematical definition
    for rows of distributions.

    >>> import lazyflow as lf
    >>> lf.nn.functional.kl_div(lf.constant([0.0, 0.0]), [0.0, 1.0], reduction="sum").item()
    0.0
    """
    check_reduction("kl_div", reduction, "batchmean")
    a, t = _pair("kl_div", x, target)
    weight, log_t = (e.exp(t), t) if log_target else (t, e.log(e.where(t > 0, t, 1.0)))
    values = _none_if_zero(weight, log_t - a)
    if reduction == "batchmean":
        return r.sum(values) / float(a.shape[0] if a.shape else 1)
    return _reduced("kl_div", values, reduction)


@partial(by_kinds, arrays=True)
def poisson_nll_loss(
    x: Any, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Expr:
    """``exp(x) - target * x``, or ``x - target * log(x + eps)`` without ``log_input``: minus a Poisson's log-density.

    ``full`` adds Stirling's approximation of the constant, ``t log t - t + log(2 pi t) / 2`` where t is above 1.
    """
    a, t = _pair("poisson_nll_loss", x, target)
    values = e.exp(a) - t * a if log_input else a - t * e.log(a + number("poisson_nll_loss", "eps", eps))
    if full:
        safe = e.maximum(t, 1.0)
        values = values + e.where(t > 1.0, safe * e.log(safe) - safe + 0.5 * e.log(2 * math.pi * safe), 0.0)
    return _reduced("poisson_nll_loss", values, reduction)


@partial(by_kinds, arrays=True)
def gaussian_nll_loss(
    x: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Expr:
    """``(log(var) + (x - target)^2 / var) / 2``, minus a Gaussian's log-density; ``var`` is at least ``eps``.

    ``full`` adds ``log(2 pi) / 2``. ``var`` broadcasts against ``x``.
    """
    a, t = _pair("gaussian_nll_loss", x, target)
    v = e.maximum(_like(var, a), number("gaussian_nll_loss", "eps", eps))
    values = 0.5 * (e.log(v) + e.square(a - t) / v)
    return _reduced("gaussian_nll_loss", values + 0.5 * math.log(2 * math.pi) if full else values, reduction)


@partial(by_kinds, arrays=True)
def soft_margin_loss(x: Any, target: Any, reduction: str = "mean") -> Expr:
    """``log(1 + exp(-target * x))`` for targets of -1 and 1."""
    a, t = _pair("soft_margin_loss", x, target)
    return _reduced("soft_margin_loss", e.softplus(-(t * a)), reduction)


@partial(by_kinds, arrays=True)
def hinge_embedding_loss(x: Any, target: Any, margin: float = 1.0, reduction: str = "mean") -> Expr:
    """``x`` where the target is 1, ``max(0, margin - x)`` where it is -1."""
    a, t = _pair("hinge_embedding_loss", x, target)
    margin = number("hinge_embedding_loss", "margin", margin)
    return _reduced("hinge_embedding_loss", e.where(t == 1, a, e.relu(margin - a)), reduction)


@partial(by_kinds, arrays=True)
def margin_ranking_loss(x1: Any, x2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Expr:
    """``max(0, -target * (x1 - x2) + margin)``: 1 says that ``x1`` ranks higher, -1 that ``x2`` does."""
    a, b = _pair("margin_ranking_loss", x1, x2)
    margin = number("margin_ranking_loss", "margin", margin)
    return _reduced("margin_ranking_loss", e.relu(margin - _like(target, a) * (a - b)), reduction)


# Losses of vectors: of one, or of one in each row.


@partial(by_kinds, arrays=True)
def cosine_embedding_loss(x1: Any, x2: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Expr:
    """``1 - cos(x1, x2)`` where the target is 1, ``max(0, cos(x1, x2) - margin)`` where it is -1.

    Vectors (n,) take a target (), rows (t, n) one each, (t,).
    """
    a, b = _pair("cosine_embedding_loss", x1, x2)
    target = _rows("cosine_embedding_loss", target, a)
    cosine = cosine_similarity(a, b)
    values = e.where(target == 1, 1.0 - cosine, e.relu(cosine - number("cosine_embedding_loss", "margin", margin)))
    return _reduced("cosine_embedding_loss", values, reduction)


def _rows(name: str, target: Any, x: Expr) -> Expr:
    given = constant(target)
    if not x.ndim or given.shape != x.shape[:-1]:
        raise ShapeError(f"{name}: vectors of shape {x.shape} need targets of shape {x.shape[:-1]}, got {given.shape}")
    return given


def triplet_margin_with_distance_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    distance_function: Callable[[Any, Any], Expr] = pairwise_distance,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Expr:
    """``max(0, d(anchor, positive) - d(anchor, negative) + margin)`` with any distance of expressions.

    ``swap``: where the positive is nearer to the negative than the anchor is, that distance counts (Balntas 2016).
    """
    anchor, positive, negative = in_one_dtype(anchor, positive, negative)
    near, far = distance_function(anchor, positive), distance_function(anchor, negative)
    far = e.minimum(far, distance_function(positive, negative)) if swap else far
    margin = number("triplet_margin_loss", "margin", margin)
    return _reduced("triplet_margin_loss", e.relu(near - far + margin), reduction)


@partial(by_kinds, arrays=True)
def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Expr:
    """`triplet_margin_with_distance_loss` with `pairwise_distance` of order ``p``; vectors (n,), or rows of them."""

    def distance(a: Any, b: Any) -> Expr:
        return pairwise_distance(a, b, p, eps)

    _pair("triplet_margin_loss", anchor, positive)
    _pair("triplet_margin_loss", anchor, negative)
    return triplet_margin_with_distance_loss(anchor, positive, negative, distance, margin, swap, reduction)


@partial(by_kinds, arrays=True)
def multilabel_soft_margin_loss(x: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Expr:
    """The mean over the classes, the last axis, of `binary_cross_entropy_with_logits`; ``weight``: one for each."""
    a, t = _pair("multilabel_soft_margin_loss", x, target)
    values = _of_logits(a, t, 1.0 - t)
    values = values if weight is None else values * _like(weight, a)
    return _reduced("multilabel_soft_margin_loss", r.mean(values, axis=-1), reduction)


def multilabel_margin_loss(x: Any, target: Any, reduction: str = "mean") -> Expr:
    """The sum over target classes j and others i of ``max(0, 1 - (x[j] - x[i]))``, divided by the number of classes.

    ``x`` (n,) or (t, n); ``target`` an array of the same shape: class indices, and -1 behind the last one.
    """
    a = constant(x)
    if isinstance(target, Expr):
        raise TypeError("multilabel_margin_loss: the target must be an array of class indices, not an expression")
    counts = _label_counts(_known(target), a)
    gaps = e.relu(1.0 - (a.reshape(*a.shape, 1) - a.reshape(*a.shape[:-1], 1, a.shape[-1])))
    pairs = counts[..., :, None] * (counts == 0)[..., None, :]
    values = r.sum(gaps * pairs.astype(a.dtype), axis=(-2, -1)) / float(a.shape[-1])
    return _reduced("multilabel_margin_loss", values, reduction)


def _label_counts(target: Any, x: Expr) -> Any:
    """How often each class is named before the first -1 of its row."""
    if not x.ndim or target.shape != x.shape or target.dtype.kind not in "iu":
        raise ShapeError(
            f"multilabel_margin_loss takes class indices of the scores' shape {x.shape}, -1 behind the last one; "
            f"got {target.dtype} of shape {target.shape}"
        )
    if target.size and (target.max() >= x.shape[-1] or target.min() < -1):
        raise IndexError(f"multilabel_margin_loss: classes are 0 to {x.shape[-1] - 1} and -1, got {target.tolist()}")
    given = np.logical_and.accumulate(target >= 0, axis=-1)
    return ((target[..., None] == np.arange(x.shape[-1])) & given[..., None]).sum(axis=-2)


# Losses of a class.


def multi_margin_loss(
    x: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean"
) -> Expr:
    """The sum over wrong classes i of ``max(0, margin - x[target] + x[i]) ** p``, divided by the number of classes.

    ``x`` (n,) and an index (), or (t, n) and (t,). ``p`` is 1 or 2; ``weight`` (n,): a factor for each target class.
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p must be 1 or 2, got {p!r}")
    a = constant(x)
    index = _index("multi_margin_loss", target, a)
    margin = number("multi_margin_loss", "margin", margin)
    gaps = e.relu(margin + a + losses.nll(a, index, "none").reshape(*a.shape[:-1], 1))
    gaps = gaps * (1.0 - one_hot(index, a.shape[-1], dtype=a.dtype))
    gaps = gaps if p == 1 else e.square(gaps)
    gaps = gaps if weight is None else gaps * _class_weights(weight, index, a).reshape(*a.shape[:-1], 1)
    return _reduced("multi_margin_loss", r.sum(gaps, axis=-1) / float(a.shape[-1]), reduction)


def _index(name: str, target: Any, scores: Expr) -> Any:
    """Class indices, one for each row of ``scores`` (classes last); an array or an integer expression."""
    index = target if isinstance(target, Expr) else _known(target)
    if index.dtype.kind not in "iu":
        raise DTypeError(f"{name}: the class index must be an integer, got {index.dtype}")
    if not scores.ndim or index.shape != scores.shape[:-1]:
        raise ShapeError(
            f"{name} takes one class index for each row of scores: scores (classes last) of shape {scores.shape} "
            f"need indices of shape {scores.shape[:-1]}, got {index.shape}"
        )
    return index


def _known(target: Any) -> Any:
    """A target that is known, as an array: of numbers, where it lies; of classes, on the host, where they are looked
    at."""
    if devices.is_on_gpu(target) and target.dtype.kind == "f":
        return target
    return np.asarray(devices.to_host(target))


def _class_weights(weight: Any, index: Any, scores: Expr) -> Any:
    """The weight of each row's class."""
    shape = weight.shape if isinstance(weight, Expr) else np.shape(weight)
    if shape != scores.shape[-1:]:
        raise ShapeError(f"weight must have one element for each of {scores.shape[-1]} classes, got shape {shape}")
    if isinstance(weight, np.ndarray) and not isinstance(index, Expr):
        return constant(np.asarray(weight[index], scores.dtype))
    return take(_like(weight, scores), index)


def _classes_last(name: str, x: Any, dim: int) -> Expr:
    """``x`` with its classes, along ``dim``, as the last axis."""
    scores = constant(x)
    if not -scores.ndim <= dim < scores.ndim:
        raise ShapeError(f"{name}: dim, the axis of the classes, is {dim}; the scores have shape {scores.shape}")
    axis = dim % scores.ndim
    if axis == scores.ndim - 1:
        return scores
    return transpose(scores, (*(i for i in range(scores.ndim) if i != axis), axis))


def _is_ignored(name: str, index: Any, ignore_index: int, reduction: str) -> tuple[Any, Any]:
    """Indices that are all classes, and which of them count: None if all of them do."""
    if isinstance(index, Expr):
        counted = index != ignore_index
        return e.where(counted, index, 0), counted
    counted = index != ignore_index
    if counted.all():
        return index, None
    if reduction == "mean" and not counted.any():
        raise ValueError(f"{name}: all targets are ignore_index={ignore_index}; their mean is undefined, use 'sum'")
    return np.where(counted, index, 0), counted


def _weighted_classes(
    name: str,
    scores: Expr,
    target: Any,
    weight: Any,
    ignore_index: int,
    reduction: str,
    smoothing: float,
) -> Expr:
    """The losses of log-probabilities ``scores``, classes last."""
    given = _index(name, target, scores)
    checks = ignore_index >= 0 or not isinstance(given, Expr)
    index, counted = _is_ignored(name, given, ignore_index, reduction) if checks else (given, None)
    factors = None if weight is None else _class_weights(weight, index, scores)
    values = losses.nll(scores, index if isinstance(index, Expr) or index.ndim else int(index), "none")
    if factors is not None:
        values = values * factors
    if smoothing:
        all_classes = -r.sum(scores if weight is None else scores * _like(weight, scores), axis=-1)
        values = (1.0 - smoothing) * values + smoothing / scores.shape[-1] * all_classes
    if counted is not None:  # selected, not multiplied: an impossible class costs infinity, and that times zero is none
        values = e.where(counted, values, 0.0)
        factors = e.where(counted, 1.0 if factors is None else factors, np.zeros((), scores.dtype))
    if reduction == "mean" and factors is not None:
        return r.sum(values) / r.sum(factors)
    return _reduced(name, values, reduction)


def nll_loss(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    dim: int = -1,
) -> Expr:
    """Minus the log-probability of the target class, for log-probabilities ``x``. Arguments as in `cross_entropy`.

    >>> import lazyflow as lf
    >>> lf.nn.functional.nll_loss(lf.constant([-1.0, -2.0]), 1).item()
    2.0
    """
    check_reduction("nll_loss", reduction)
    scores = _classes_last("nll_loss", x, dim)
    if weight is None and isinstance(target, int) and target != ignore_index:
        return losses.nll(scores, target, reduction)
    return _weighted_classes("nll_loss", scores, target, weight, ignore_index, reduction, 0.0)


def cross_entropy(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    dim: int = -1,
) -> Expr:
    """Minus the log-probability of the target under ``softmax(x)`` along ``dim``, the axis of the classes.

    ``x`` (n,) takes a class index, ``x`` (t, n) t of them, and an image (n, h, w), with ``dim=0``, indices (h, w); or
    probabilities of the shape of ``x``. ``weight`` (n,): a factor for each class, by whose sum ``"mean"`` divides.
    Rows whose target is ``ignore_index`` do not count. ``label_smoothing``: this share of the target goes evenly to
    all classes (Szegedy et al. 2016). Raises `ShapeError`, ``IndexError`` and ``ValueError`` at this line.

    >>> import lazyflow as lf
    >>> image = lf.constant([[[0.0, 0.0]], [[0.0, 9.0]]])  # two classes, one row of two pixels
    >>> lf.nn.functional.cross_entropy(image, [[0, 1]], reduction="none", dim=0).shape
    (1, 2)
    """
    if weight is None and label_smoothing == 0.0:  # as most often
        if type(target) is int and target != ignore_index and dim == -1 and reduction in REDUCTIONS:
            return losses.cross_entropy(x, target, reduction)
        if ignore_index < 0 and losses.are_classes(target, x, dim):
            return _of_classes(x, target, reduction, dim)
    check_reduction("cross_entropy", reduction)
    label_smoothing = number("cross_entropy", "label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be from 0 to 1, got {label_smoothing}")
    scores = _classes_last("cross_entropy", x, dim)
    if not isinstance(target, Expr):
        target = target if isinstance(target, int) else _known(target)
    if not isinstance(target, int) and target.dtype.kind == "f":
        return _soft_targets(scores, _classes_last("cross_entropy", target, dim), weight, reduction, label_smoothing)
    if weight is None and not label_smoothing and not _may_ignore(target, ignore_index):
        return losses.cross_entropy(scores, target, reduction)
    log_probabilities = r.log_softmax(scores)
    return _weighted_classes(
        "cross_entropy", log_probabilities, target, weight, ignore_index, reduction, label_smoothing
    )


@partial(by_kinds, arrays=True)
def _of_classes(x: Expr, target: Any, reduction: str, dim: int) -> Expr:
    """`cross_entropy` of an array of which every element is known to be a class."""
    check_reduction("cross_entropy", reduction)
    return losses.of_classes("cross_entropy", _classes_last("cross_entropy", x, dim), target, reduction)


def smoothed_cross_entropy(scores: Any, target: int, label_smoothing: float) -> Expr:
    """`cross_entropy` of one vector with a class as target and with ``label_smoothing``, in which the class may differ
    from call to call of a `lazyflow.cell`.

    >>> import lazyflow as lf
    >>> round(smoothed_cross_entropy(lf.constant([0.0, 0.0]), 1, 0.1).item(), 4)
    0.6931
    """
    logs = r.log_softmax(constant(scores))
    return (1.0 - label_smoothing) * losses.nll(logs, target) - label_smoothing / logs.shape[0] * r.sum(logs)


def _may_ignore(target: Any, ignore_index: int) -> bool:
    """Whether a target is ignored; one that is not known yet may be, if ``ignore_index`` is a class."""
    if isinstance(target, int):
        return target == ignore_index
    return ignore_index >= 0 if isinstance(target, Expr) else bool(np.any(np.equal(target, ignore_index)))


def _soft_targets(scores: Expr, target: Expr, weight: Any, reduction: str, smoothing: float) -> Expr:
    if target.shape != scores.shape:
        raise ShapeError(f"cross_entropy: probabilities need the scores' shape {scores.shape}, got {target.shape}")
    if smoothing:
        target = target * (1.0 - smoothing) + smoothing / scores.shape[-1]
    if weight is not None:
        target = target * _like(weight, scores)
    return losses.cross_entropy(scores, target, reduction)


# Losses of a sequence of classes.

_IMPOSSIBLE = -1e30  # in place of minus infinity, whose differences are no numbers


def ctc_loss(log_probs: Any, target: Any, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> Expr:
    """Minus the log-probability that ``log_probs`` (t, n), one row of log-probabilities a step, spell ``target`` (l,).

    Summed over all ways to stay at a class or to put ``blank`` in between (Graves et al. 2006). ``target``: an array of
    classes other than ``blank``. ``"mean"`` divides by the number of classes in it. A target that does not fit into t
    steps, one for each class and one between equal neighbours, has no probability: ``ValueError``, or a loss of 0 with
    ``zero_infinity``. Raises ``IndexError`` for a class that is none, `ShapeError`, ``TypeError`` for an expression as
    a target.

    >>> import lazyflow as lf
    >>> steps = lf.log_softmax(lf.constant([[0.0, 0.0], [0.0, 0.0]]))
    >>> round(lf.nn.functional.ctc_loss(steps, [1]).item(), 4)  # three of four ways spell 1: 1 1, 1 _ and _ 1
    0.2877
    """
    check_reduction("ctc_loss", reduction)
    steps = constant(log_probs)
    labels = _spelled(target, steps, blank)
    repeats = int((labels[1:] == labels[:-1]).sum())
    if len(labels) + repeats > len(steps):
        if zero_infinity:
            return r.sum(steps * 0.0)
        raise ValueError(
            f"ctc_loss: {len(labels)} classes, {repeats} of them after an equal one, do not fit into {len(steps)} "
            "steps; their loss is infinite, or 0 with zero_infinity=True"
        )
    loss = -_spelling(steps, labels, blank)
    return loss / float(max(len(labels), 1)) if reduction == "mean" else loss


def _spelled(target: Any, steps: Expr, blank: int) -> Any:
    if isinstance(target, Expr):
        raise TypeError("ctc_loss: the target must be an array of classes, not an expression")
    labels = _known(target)
    labels = labels if labels.size else labels.astype(np.int64)
    if steps.ndim != 2 or not len(steps) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ShapeError(
            f"ctc_loss takes log-probabilities (steps, classes) and classes (length,), "
            f"got shape {steps.shape} and {labels.dtype} of shape {labels.shape}"
        )
    wrong = (labels < 0) | (labels >= steps.shape[1]) | (labels == blank)
    if wrong.any() or not 0 <= blank < steps.shape[1]:
        raise IndexError(
            f"ctc_loss: classes are 0 to {steps.shape[1] - 1} and not blank={blank}, got {labels.tolist()}"
        )
    return labels


def _spelling(steps: Expr, labels: Any, blank: int) -> Expr:
    """The log-probability of ``labels`` with blanks around them, by the forward recursion over the steps."""
    places = np.full(2 * len(labels) + 1, blank)
    places[1::2] = labels
    emitted = take(steps, places, axis=1)
    size = len(places)
    dtype = steps.dtype
    # From two places before, a place is reached only if the blank between may be left out.
    leap = np.full(size, _IMPOSSIBLE, dtype)
    leap[3::2] = np.where(labels[1:] != labels[:-1], 0.0, _IMPOSSIBLE)
    start = np.full(size, _IMPOSSIBLE, dtype)
    start[:2] = 0.0
    reached = emitted[0] + start
    shut = [np.full(min(n, size), _IMPOSSIBLE, dtype) for n in (1, 2)]
    for step in list(emitted)[1:]:
        before = concatenate([shut[0], reached[: size - 1]]) if size > 1 else constant(shut[0])
        leapt = concatenate([shut[1], reached[: size - 2]]) + leap if size > 2 else None
        ways = [reached, before] if leapt is None else [reached, before, leapt]
        reached = step + r.logsumexp(stack(ways), axis=0)
    return r.logsumexp(reached[max(size - 2, 0) :])

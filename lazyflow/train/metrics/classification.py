"""Metrics of classes: how often the right one was chosen, and which were taken for which.

Predictions are scores ``(batch, ..., classes)``, of which the largest counts, or classes ``(batch, ...)``; targets are
classes ``(batch, ...)``. What stands between the first and the last axis counts as further examples (the words of a
sentence, say), and a list with an array for each example may have arrays of different size. The numbers are those of
Ignite, whose classes stand in the second axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.device import HostArray
from lazyflow.errors import ShapeError
from lazyflow.train.checks import check_count
from lazyflow.train.metrics.base import Block, Metric, blocks, itself

__all__ = ["Accuracy", "ConfusionMatrix", "Fbeta", "Precision", "Recall", "TopKCategoricalAccuracy"]

Array = HostArray
Transform = Callable[[Any], Any]


class Accuracy(Metric):
    """The share of examples whose class is right.

    `update` takes ``(y_pred, y)``: scores ``(batch, ..., classes)`` or classes ``(batch, ...)``, and the right classes
    ``(batch, ...)``. With ``is_multilabel``, both are zeros and ones ``(batch, ..., labels)``, and an example is right
    when all its labels are.

    Raises `ShapeError` for shapes that do not fit and ``ValueError`` for predictions that are no classes (scores
    between 0 and 1 of a yes-or-no question: round them in ``output_transform``).

    >>> from lazyflow import train
    >>> accuracy = train.Accuracy()
    >>> accuracy.update(([[0.1, 0.9], [0.2, 0.8]], [1, 0]))
    >>> accuracy.compute()
    0.5
    """

    def __init__(self, output_transform: Transform = itself, *, is_multilabel: bool = False) -> None:
        self.is_multilabel = is_multilabel
        super().__init__(output_transform)

    def reset(self) -> None:
        self.right, self.count = 0, 0

    def update(self, output: Any) -> None:
        for block in blocks(self, output):
            right = self._right(block)
            self.right += int(right.sum())
            self.count += right.size

    def _right(self, block: Block) -> Array:
        predicted, actual = _labels(self, block) if self.is_multilabel else _chosen(self, block)
        same = np.asarray(predicted == actual)
        return np.asarray(same.all(axis=-1)) if self.is_multilabel else same

    def compute(self) -> float:
        if not self.count:
            raise self.nothing_seen()
        return self.right / self.count


class TopKCategoricalAccuracy(Metric):
    """The share of examples whose class has one of the ``k`` largest scores; on a tie, it has.

    `update` takes scores ``(batch, ..., classes)`` and classes ``(batch, ...)``. Raises ``ValueError`` for ``k`` below
    1 and classes out of range, `ShapeError` for shapes that do not fit.

    >>> from lazyflow import train
    >>> metric = train.TopKCategoricalAccuracy(k=2)
    >>> metric.update(([[0.1, 0.5, 0.4], [0.7, 0.2, 0.1]], [2, 2]))
    >>> metric.compute()
    0.5
    """

    def __init__(self, k: int = 5, output_transform: Transform = itself) -> None:
        self.k = check_count("TopKCategoricalAccuracy: k", k, 1)
        super().__init__(output_transform)

    def reset(self) -> None:
        self.right, self.count = 0, 0

    def update(self, output: Any) -> None:
        for block in blocks(self, output):
            scores, actual = _scored(self, block)
            own = np.take_along_axis(scores, actual[..., None], axis=-1)
            above = np.sum(~(scores <= own), axis=-1)  # so that NaN counts as above, and a NaN has all above it
            self.right += int(np.sum(above < self.k))
            self.count += actual.size

    def compute(self) -> float:
        if not self.count:
            raise self.nothing_seen()
        return self.right / self.count


class ConfusionMatrix(Metric):
    """How often class i was taken for class j: a matrix ``(num_classes, num_classes)``, row i, column j.

    `update` takes scores ``(batch, ..., num_classes)`` or classes ``(batch, ...)``, and the right classes. ``average``:
    None for counts, ``"samples"`` for shares of all examples, ``"recall"`` for shares of their row, ``"precision"`` of
    their column; a share of nothing is 0.

    Raises ``ValueError`` for another ``average`` and for classes out of range.

    >>> from lazyflow import train
    >>> matrix = train.ConfusionMatrix(2)
    >>> matrix.update(([1, 0, 1], [1, 1, 1]))
    >>> matrix.compute()
    array([[0, 0],
           [1, 2]])
    """

    def __init__(self, num_classes: int, average: str | None = None, output_transform: Transform = itself) -> None:
        if average not in (None, "samples", "recall", "precision"):
            raise ValueError(
                f"ConfusionMatrix: average must be None, 'samples', 'recall' or 'precision', got {average!r}"
            )
        self.num_classes, self.average = check_count("ConfusionMatrix: num_classes", num_classes, 1), average
        super().__init__(output_transform)

    def reset(self) -> None:
        self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, output: Any) -> None:
        for block in blocks(self, output):
            predicted, actual = _chosen(self, block)
            for what, classes in (("y_pred", predicted), ("y", actual)):
                _check_range(self, what, classes, self.num_classes)
            cells = actual.ravel() * self.num_classes + predicted.ravel()
            self.counts += np.bincount(cells, minlength=self.num_classes**2).reshape(self.counts.shape)

    def compute(self) -> Array:
        if not self.counts.any():
            raise self.nothing_seen()
        if self.average is None:
            return np.array(self.counts)
        axis = {"samples": None, "recall": 1, "precision": 0}[self.average]
        return _shares(self.counts, self.counts.sum(axis=axis, keepdims=True))


class _Hits(Metric):
    """For each class, how often it was predicted rightly, predicted at all, and right."""

    averages: tuple[Any, ...] = (False, True, "macro", "micro", "weighted")
    of_class_one = False  # whether the value for zeros and ones is never averaged

    def __init__(
        self, average: bool | str = False, output_transform: Transform = itself, *, is_multilabel: bool = False
    ) -> None:
        if average not in self.averages:
            raise ValueError(
                f"{type(self).__name__}: average must be one of {', '.join(map(repr, self.averages))}; got {average!r}"
            )
        self.average, self.is_multilabel = average, is_multilabel
        super().__init__(output_transform)

    def reset(self) -> None:
        self.hits: Array | None = None  # (3, classes)
        self.binary = False

    def update(self, output: Any) -> None:
        for block in blocks(self, output):
            found = self._of(block)
            if self.hits is not None and self.hits.shape != found.shape:
                raise ShapeError(
                    f"{type(self).__name__} has seen {self.hits.shape[1]} classes, this batch has {found.shape[1]}"
                )
            self.hits = found if self.hits is None else self.hits + found

    def _of(self, block: Block) -> Array:
        if self.is_multilabel:
            return _label_hits(*_labels(self, block))
        predicted, actual = _chosen(self, block)
        if block[0].ndim > block[1].ndim:
            return _class_hits(predicted, actual, block[0].shape[-1])
        self.binary = True
        for what, classes in (("y_pred", predicted), ("y", actual)):
            _check_range(self, what, classes, 2)
        return _class_hits(predicted, actual, 2)

    def values(self, hits: Array) -> Array:
        """The metric of columns of ``hits``."""
        raise NotImplementedError(f"{type(self).__name__} needs a method values(hits)")

    def compute(self) -> Any:
        if self.hits is None:
            raise self.nothing_seen()
        found = self.values(self.hits)
        if self.binary and (self.of_class_one or not self.average):
            return float(found[1])
        if self.average == "micro":
            return float(self.values(self.hits.sum(axis=1)))
        if self.average == "weighted":
            return float(_shares(np.sum(found * self.hits[2]), np.sum(self.hits[2])))
        return float(found.mean()) if self.average else found


class Precision(_Hits):
    """Of the examples that were given a class, the share that has it.

    `update` takes scores ``(batch, ..., classes)`` and classes ``(batch, ...)``; or zeros and ones ``(batch, ...)`` in
    both; or, with ``is_multilabel``, zeros and ones ``(batch, ..., labels)``. ``average``: False for an array with a
    value for each class, or, of zeros and ones, the value of class 1; True or ``"macro"`` for the mean over classes,
    ``"weighted"`` for their mean weighted by how often each class is right, ``"micro"`` for that of all classes in one.
    A class that was never given has 0.

    Raises ``ValueError`` for another ``average`` and for classes out of range, `ShapeError` for shapes that do not fit.

    >>> from lazyflow import train
    >>> metric = train.Precision()
    >>> metric.update(([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4]], [1, 0, 0]))
    >>> metric.compute()
    array([1. , 0.5])
    """

    def values(self, hits: Array) -> Array:
        return _shares(hits[0], hits[1])


class Recall(_Hits):
    """Of the examples that have a class, the share that was given it; all else is as for `Precision`.

    >>> from lazyflow import train
    >>> metric = train.Recall()
    >>> metric.update(([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4]], [1, 0, 0]))
    >>> metric.compute()
    array([0.5, 1. ])
    """

    def values(self, hits: Array) -> Array:
        return _shares(hits[0], hits[2])


class Fbeta(_Hits):
    """The harmonic mean of precision and recall, in which recall counts ``beta ** 2`` times (van Rijsbergen 1979).

    With ``beta`` 1, the default, this is F1. ``average``: True for the mean over classes, False for an array with a
    value for each; of zeros and ones it is always the value of class 1. What `update` takes is as for `Precision`.
    Raises ``ValueError`` for ``beta`` not above 0.

    >>> from lazyflow import train
    >>> f1 = train.Fbeta()
    >>> f1.update(([1, 0, 1, 1], [1, 1, 1, 0]))
    >>> round(f1.compute(), 4)
    0.6667
    """

    averages = (False, True)
    of_class_one = True

    def __init__(
        self,
        beta: float = 1.0,
        average: bool = True,
        output_transform: Transform = itself,
        *,
        is_multilabel: bool = False,
    ) -> None:
        if not beta > 0:
            raise ValueError(f"Fbeta: beta must be above 0, got {beta!r}")
        self.beta = beta
        super().__init__(average, output_transform, is_multilabel=is_multilabel)

    def values(self, hits: Array) -> Array:
        square = self.beta**2
        return _shares((1 + square) * hits[0], square * hits[2] + hits[1])


def _label_hits(predicted: Array, actual: Array) -> Array:
    """Of zeros and ones ``(..., labels)``: how often each label is one in both, in the first, and in the second."""
    axes = tuple(range(predicted.ndim - 1))
    return np.stack([np.sum(a, axis=axes) for a in (predicted & actual, predicted, actual)])


def _class_hits(predicted: Array, actual: Array, number: int) -> Array:
    """The same of classes."""
    sets = predicted[predicted == actual], predicted.ravel(), actual.ravel()
    return np.stack([np.bincount(a, minlength=number) for a in sets])


def _shares(part: Any, whole: Any) -> Array:
    """``part / whole``, and 0 of nothing."""
    out: Array = np.zeros(np.broadcast(part, whole).shape)
    np.divide(part, whole, out=out, where=np.asarray(whole) != 0)
    return out


def _chosen(metric: Metric, block: Block) -> Block:
    """Predicted and right classes, as integers of one shape."""
    y_pred, y = block
    if y_pred.ndim > y.ndim:
        scores, actual = _scored(metric, block)
        return scores.argmax(axis=-1), actual
    if y_pred.shape != y.shape:
        raise _misshapen(metric, block)
    return _classes(metric, "y_pred", y_pred), _classes(metric, "y", y)


def _scored(metric: Metric, block: Block) -> Block:
    """Scores and right classes, which are in range."""
    scores, y = block
    if scores.shape[:-1] != y.shape or scores.shape[-1] < 2:
        raise _misshapen(metric, block)
    actual = _classes(metric, "y", y)
    _check_range(metric, "y", actual, scores.shape[-1])
    return scores, actual


def _labels(metric: Metric, block: Block) -> Block:
    """Predicted and right labels: zeros and ones, the labels of an example along the last axis."""
    if block[0].shape != block[1].shape or block[0].ndim < 2:
        raise ShapeError(
            f"{type(metric).__name__}, multilabel, takes y_pred and y of one shape (batch, ..., labels), "
            f"got {block[0].shape} and {block[1].shape}"
        )
    found = _classes(metric, "y_pred", block[0]), _classes(metric, "y", block[1])
    for what, labels in zip(("y_pred", "y"), found, strict=True):
        _check_range(metric, what, labels, 2)
    return found


def _classes(metric: Metric, what: str, array: Array) -> Array:
    """``array`` as integers. Raises ``ValueError`` for numbers that are none."""
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    whole = array == np.floor(array)
    if not whole.all():
        raise ValueError(
            f"{type(metric).__name__}: {what} must hold classes, whole numbers, got {array[~whole][0]}; "
            "scores of a yes-or-no question are rounded first, in output_transform="
        )
    return array.astype(np.int64)


def _check_range(metric: Metric, what: str, classes: Array, number: int) -> None:
    wrong = classes[(classes < 0) | (classes >= number)]
    if wrong.size:
        raise ValueError(
            f"{type(metric).__name__}: {what} has class {wrong.flat[0]}, there are {number}, numbered from 0"
        )


def _misshapen(metric: Metric, block: Block) -> ShapeError:
    return ShapeError(
        f"{type(metric).__name__} takes scores (batch, ..., classes), of two classes or more, or classes (batch, ...) "
        f"as y_pred, and classes (batch, ...) as y; got {block[0].shape} and {block[1].shape}"
    )

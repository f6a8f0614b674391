"""The loss itself, and the distances between numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.settings import using
from lazyflow.train.batch import mean_loss, rows, values
from lazyflow.train.checks import check_call
from lazyflow.train.metrics.base import Block, Metric, blocks, itself, pair

__all__ = ["Loss", "MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError"]

Transform = Callable[[Any], Any]


class Loss(Metric):
    """The mean over examples of ``loss_fn(y_pred, y)``, a function of **one** example such as `lazyflow.nll`.

    `update` takes ``(y_pred, y)`` with an entry for each example; the losses of a batch run together, without
    gradients. Raises ``TypeError`` for a ``loss_fn`` that is no function of two arguments, `ShapeError` for one that
    does not return a single number.

    >>> import lazyflow as lf
    >>> from lazyflow import train
    >>> loss = train.Loss(lf.mse)
    >>> loss.update(([1.0, 3.0], [0.0, 0.0]))
    >>> loss.compute()
    5.0
    """

    def __init__(self, loss_fn: Callable[[Any, Any], Any], output_transform: Transform = itself) -> None:
        check_call("loss_fn", loss_fn, ("y_pred", "y"))
        self.loss_fn = loss_fn
        super().__init__(output_transform)

    def reset(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, output: Any) -> None:
        y_pred, y = map(rows, pair(self, output))
        if y:
            with using(grad=False):
                self.sum += len(y) * mean_loss(self.loss_fn, values(list(y_pred)), y).item()
            self.count += len(y)

    def compute(self) -> float:
        if not self.count:
            raise self.nothing_seen()
        return self.sum / self.count


class _Distance(Metric):
    """The mean over examples of a sum over their elements."""

    def reset(self) -> None:
        self.sum, self.count = 0.0, 0

    def elements(self, difference: Any) -> Any:
        """What is summed."""
        raise NotImplementedError(f"{type(self).__name__} needs a method elements(difference)")

    def update(self, output: Any) -> None:
        for block in blocks(self, output):
            self.sum += float(np.sum(self.elements(self._difference(block))))
            self.count += len(block[0])

    def _difference(self, block: Block) -> Any:
        y_pred, y = block
        if y_pred.size != y.size:
            raise ShapeError(
                f"{type(self).__name__} takes y_pred and y of one shape (batch, ...), got {y_pred.shape} and {y.shape}"
            )
        return y_pred.astype(np.float64) - y.reshape(y_pred.shape)  # (batch, 1) and (batch,) must not broadcast

    def compute(self) -> float:
        if not self.count:
            raise self.nothing_seen()
        return self.sum / self.count


class MeanSquaredError(_Distance):
    """The mean over examples of the sum of squared differences of an example's elements, as in Ignite.

    `update` takes ``y_pred`` and ``y`` ``(batch, ...)`` of one shape. For examples of one number this is the mean
    squared error; for more, `lazyflow.mse` also divides by the number of elements. Raises `ShapeError` for shapes that
    do not fit.

    >>> from lazyflow import train
    >>> metric = train.MeanSquaredError()
    >>> metric.update(([1.0, 3.0], [0.0, 0.0]))
    >>> metric.compute()
    5.0
    """

    def elements(self, difference: Any) -> Any:
        return np.square(difference)


class RootMeanSquaredError(MeanSquaredError):
    """The square root of `MeanSquaredError`.

    >>> from lazyflow import train
    >>> metric = train.RootMeanSquaredError()
    >>> metric.update(([3.0, 3.0], [0.0, 0.0]))
    >>> metric.compute()
    3.0
    """

    def compute(self) -> float:
        return math.sqrt(super().compute())


class MeanAbsoluteError(_Distance):
    """The mean over examples of the sum of absolute differences of an example's elements, as in Ignite.

    >>> from lazyflow import train
    >>> metric = train.MeanAbsoluteError()
    >>> metric.update(([1.0, -3.0], [0.0, 0.0]))
    >>> metric.compute()
    2.0
    """

    def elements(self, difference: Any) -> Any:
        return np.abs(difference)

"""Averages of whatever an engine puts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.state import is_array
from lazyflow.train.batch import host
from lazyflow.train.events import Events
from lazyflow.train.metrics.base import Metric, itself

__all__ = ["Average", "RunningAverage"]


class Average(Metric):
    """The mean of what `update` was given: numbers, or arrays of one shape. Every update counts the same.

    Raises ``TypeError`` for what is neither.

    >>> from lazyflow import train
    >>> engine = train.Engine(lambda engine, batch: batch / 10)
    >>> train.Average().attach(engine, "output")
    >>> engine.run([1, 2, 6]).metrics
    {'output': 0.3}
    """

    def reset(self) -> None:
        self.sum: Any = 0.0
        self.count = 0

    def update(self, output: Any) -> None:
        self.sum = self.sum + _numeric(self, output)
        self.count += 1

    def compute(self) -> Any:
        if not self.count:
            raise self.nothing_seen()
        return self.sum / self.count


class RunningAverage(Metric):
    """An exponential moving average: ``alpha * before + (1 - alpha) * value``, beginning with the first value.

    The value is that of ``src``, a metric of one batch which belongs to the average and is not attached itself; or,
    without one, the output, a number or an array. The average is in ``state.metrics`` after every iteration, goes on
    through all epochs of a run, and so is for progress bars.

    Raises ``TypeError`` for a ``src`` that is no metric, ``ValueError`` for ``alpha`` outside [0, 1) and for both a
    ``src``, which has a transform of its own, and an ``output_transform``.

    >>> from lazyflow import train
    >>> average = train.RunningAverage(alpha=0.5)
    >>> for loss in (4.0, 2.0, 2.0):
    ...     average.update(loss)
    >>> average.compute()
    2.5
    """

    reset_event = Events.STARTED
    value_event = Events.ITERATION_COMPLETED

    def __init__(
        self, src: Metric | None = None, alpha: float = 0.98, output_transform: Callable[[Any], Any] = itself
    ) -> None:
        if src is not None and not isinstance(src, Metric):
            raise TypeError(f"RunningAverage: src must be a train.Metric, got {src!r}")
        if src is not None and output_transform is not itself:
            raise ValueError("RunningAverage: give output_transform to src, which is updated with the output")
        if not 0 <= alpha < 1:
            raise ValueError(f"RunningAverage: alpha must be at least 0 and below 1, got {alpha!r}")
        self.src, self.alpha = src, alpha
        super().__init__(output_transform)

    def reset(self) -> None:
        self.average: Any = None

    def update(self, output: Any) -> None:
        value = self._of_batch(output)
        self.average = value if self.average is None else self.alpha * self.average + (1 - self.alpha) * value

    def _of_batch(self, output: Any) -> Any:
        if self.src is None:
            return _numeric(self, output)
        self.src.reset()
        self.src.update(self.src.output_transform(output))
        return self.src.compute()

    def compute(self) -> Any:
        if self.average is None:
            raise self.nothing_seen()
        return self.average


def _numeric(metric: Metric, output: Any) -> Any:
    """A number as a float, an array as one of float64."""
    array = host(output) if is_array(output) or isinstance(output, int | float) else None
    if array is None or array.dtype.kind not in "biuf":
        raise TypeError(
            f"{type(metric).__name__} takes a number or an array of numbers, got {output!r:.60}; "
            "output_transform= may be a function that picks one from what the process function returns"
        )
    return array.astype(np.float64) if array.ndim else float(array)

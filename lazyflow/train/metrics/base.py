"""What all metrics share: numbers gathered batch by batch, and handlers that do so while an engine runs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from lazyflow.device import HostArray
from lazyflow.errors import NotComputableError, ShapeError
from lazyflow.train.batch import host, values
from lazyflow.train.checks import check_call
from lazyflow.train.engine import Engine
from lazyflow.train.events import Events

__all__ = ["Block", "Combined", "Metric", "blocks", "pair"]

Block = tuple[HostArray, HostArray]


def itself(output: Any) -> Any:
    return output


class Metric:
    """Base class: `reset` forgets, `update` takes in one batch, `compute` gives the value over all batches since.

    Attached to an engine, a metric is reset when an epoch starts, updated with ``state.output`` after each iteration,
    and its value is in ``state.metrics`` under its name when the epoch is complete: for handlers of ``EPOCH_COMPLETED``
    that were added later, and for the caller. ``output_transform``: a function of ``state.output`` that gives what
    `update` takes, where the process function returns something else.

    Metrics of one output can be combined: ``precision * recall * 2 / (precision + recall)`` is a metric too.

    >>> from lazyflow import train
    >>> class Largest(train.Metric):
    ...     def reset(self):
    ...         self.largest = float("-inf")
    ...     def update(self, output):
    ...         self.largest = max(self.largest, output)
    ...     def compute(self):
    ...         return self.largest
    >>> engine = train.Engine(lambda engine, batch: batch)
    >>> Largest().attach(engine, "largest")
    >>> engine.run([3, 8, 5]).metrics
    {'largest': 8}
    """

    reset_event: ClassVar[Events] = Events.EPOCH_STARTED
    value_event: ClassVar[Events] = Events.EPOCH_COMPLETED

    def __init__(self, output_transform: Callable[[Any], Any] = itself) -> None:
        check_call(f"{type(self).__name__}: output_transform", output_transform, ("output",))
        self.output_transform = output_transform
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError(f"{type(self).__name__} needs a method reset()")

    def update(self, output: Any) -> None:
        """Take in one batch."""
        raise NotImplementedError(f"{type(self).__name__} needs a method update(output)")

    def compute(self) -> Any:
        """The value over all batches since `reset`. Raises `NotComputableError` before any update."""
        raise NotImplementedError(f"{type(self).__name__} needs a method compute()")

    def nothing_seen(self) -> NotComputableError:
        """The error of `compute` before any update."""
        return NotComputableError(
            f"{type(self).__name__}.compute() before any update: run the engine that it is attached to, "
            "or call update(...) with a batch first"
        )

    # Handlers

    def started(self, engine: Engine) -> None:
        """Handler: forget the epoch before."""
        self.reset()

    def iteration_completed(self, engine: Engine) -> None:
        """Handler: take in the output of the process function."""
        self.update(self.output_transform(engine.state.output))

    def completed(self, engine: Engine, name: str) -> None:
        """Handler: put the value where others find it; an epoch that was restored after its last batch has none."""
        if engine.state.epoch_iteration:
            engine.state.metrics[name] = self.compute()
        else:
            engine.state.metrics.pop(name, None)

    def attach(self, engine: Engine, name: str) -> None:
        """Measure what ``engine`` puts out, as ``engine.state.metrics[name]``. Raises ``TypeError`` for no engine."""
        if not isinstance(engine, Engine) or not isinstance(name, str):
            raise TypeError(f"attach(engine, name) takes a train.Engine and a string, got {engine!r} and {name!r}")
        self.listen(engine)
        engine.add_event_handler(self.value_event, self.completed, name)

    def listen(self, engine: Engine) -> None:
        """Be reset and updated by ``engine``, once, under however many names the value is asked for."""
        if not engine.has_event_handler(self.iteration_completed, Events.ITERATION_COMPLETED):
            engine.add_event_handler(self.reset_event, self.started)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)

    def is_attached(self, engine: Engine) -> bool:
        """Whether the value is put into the engine's ``state.metrics``."""
        return engine.has_event_handler(self.completed)

    def detach(self, engine: Engine) -> None:
        """Undo `attach`."""
        for handler in (self.started, self.iteration_completed, self.completed):
            for event in Events:
                if engine.has_event_handler(handler, event):
                    engine.remove_event_handler(handler, event)

    # Arithmetic

    def __add__(self, other: Any) -> Combined:
        return Combined(operator.add, self, other)

    def __radd__(self, other: Any) -> Combined:
        return Combined(operator.add, other, self)

    def __sub__(self, other: Any) -> Combined:
        return Combined(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Combined:
        return Combined(operator.sub, other, self)

    def __mul__(self, other: Any) -> Combined:
        return Combined(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Combined:
        return Combined(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Combined:
        return Combined(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Combined:
        return Combined(operator.truediv, other, self)


class Combined(Metric):
    """A function of the values of other metrics; what arithmetic between metrics gives.

    ``arguments`` may be metrics and anything else. The metrics need not be attached themselves, and may be.

    >>> from lazyflow import train
    >>> error = 1 - train.Accuracy()
    >>> error.update(([[0.1, 0.9], [0.2, 0.8]], [1, 0]))
    >>> error.compute()
    0.5
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments
        inside = [part for argument in arguments for part in _parts(argument)]
        self.parts: list[Metric] = list({id(part): part for part in inside}.values())
        super().__init__()

    def reset(self) -> None:
        for metric in self.parts:
            metric.reset()

    def update(self, output: Any) -> None:
        for metric in self.parts:
            metric.update(metric.output_transform(output))

    def compute(self) -> Any:
        return self.function(*(a.compute() if isinstance(a, Metric) else a for a in self.arguments))

    def listen(self, engine: Engine) -> None:
        for metric in self.parts:
            metric.listen(engine)


def _parts(argument: Any) -> list[Metric]:
    if isinstance(argument, Combined):
        return argument.parts
    return [argument] if isinstance(argument, Metric) else []


def pair(metric: Metric, output: Any) -> tuple[Any, Any]:
    """``output`` as ``(y_pred, y)``, with an entry for each example in both."""
    name = type(metric).__name__
    if not (isinstance(output, tuple | list) and len(output) == 2):
        raise TypeError(
            f"{name} takes a pair (y_pred, y), got {output!r:.60}; "
            "output_transform= may be a function that picks them from what the process function returns"
        )
    y_pred, y = output
    if not (_has_length(y_pred) and _has_length(y)):
        raise TypeError(f"{name} takes (y_pred, y) with an entry for each example, got {y_pred!r:.60} and {y!r:.60}")
    if len(y_pred) != len(y):
        raise ShapeError(f"{name} takes as many predictions as targets, got {len(y_pred)} and {len(y)}")
    return y_pred, y


def _has_length(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "shape", True) != ()


def blocks(metric: Metric, output: Any) -> list[Block]:
    """A batch as pairs of arrays with a batch axis: one, unless it has examples of several shapes."""
    y_pred, y = pair(metric, output)
    if not len(y):
        return []
    if not (isinstance(y_pred, tuple | list) or isinstance(y, tuple | list)):
        return [(host(y_pred), host(y))]
    predictions, targets = ([host(v) for v in values(list(column))] for column in (y_pred, y))
    if len({p.shape for p in predictions}) == len({t.shape for t in targets}) == 1:
        return [(np.stack(predictions), np.stack(targets))]
    return [(p[None], t[None]) for p, t in zip(predictions, targets, strict=True)]

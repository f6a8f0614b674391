"""The events that an engine fires: the seven of Ignite, and those that users define beside them.

An event narrowed by a filter (``Events.ITERATION_COMPLETED(every=100)``) is another record around the same event, and
``|`` makes a tuple of several; a handler is added to each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lazyflow.train.checks import check_call, check_count

__all__ = ["EventEnum", "Events", "EventsList", "FilteredEvent"]

Filter = Callable[[Any, int], bool]


class EventEnum(Enum):
    """Base class of events; inherit from it to define your own, and tell the engine with `Engine.register_events`.

    Calling an event narrows it. ``every=n``: the n-th, 2n-th, ... time. ``once=n``, or a list: those times only.
    ``after=a``, ``before=b``: the times strictly between; together with ``every``, one counts from there: a + 1,
    a + 1 + n, ... ``event_filter``: a function of the engine and the count. What is counted is the epoch for the events
    of an epoch, the iteration for those of an iteration, and for all others how often the event was fired in this run.

    Raises ``TypeError`` for no condition or for conditions that exclude each other, and for a filter that is no
    function of two arguments; ``ValueError`` for counts that are no positive integers (not negative ones for ``after``
    and ``before``).

    >>> from lazyflow import train
    >>> class Backward(train.EventEnum):
    ...     STARTED = "backward started"
    >>> Backward.STARTED, Backward.STARTED | train.Events.COMPLETED
    (Backward.STARTED, (Backward.STARTED, Events.COMPLETED))
    >>> train.Events.EPOCH_STARTED(every=2).accepts(None, 4)
    True
    """

    def __call__(
        self,
        event_filter: Filter | None = None,
        *,
        every: int | None = None,
        once: int | Collection[int] | None = None,
        after: int | None = None,
        before: int | None = None,
    ) -> FilteredEvent:
        ranged = not (every is None and after is None and before is None)
        if (event_filter is not None) + (once is not None) + ranged != 1:
            raise TypeError(
                f"{self!r}(...) takes one condition: event_filter=, once=, or every= with after= and before="
            )
        if event_filter is not None:
            check_call("event_filter", event_filter, ("engine", "count"))
            return FilteredEvent(self, event_filter)
        if once is not None:
            return FilteredEvent(self, _among(once))
        return FilteredEvent(self, _between(every, after, before))

    def __or__(self, other: Any) -> EventsList:
        return joined(self, other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Events(EventEnum):
    """What every engine fires, in the order of a run.

    A handler gets the engine; that of ``EXCEPTION_RAISED`` gets the engine and the exception.

    >>> [event.name for event in Events]  # doctest: +NORMALIZE_WHITESPACE
    ['STARTED', 'EPOCH_STARTED', 'ITERATION_STARTED', 'ITERATION_COMPLETED', 'EPOCH_COMPLETED', 'COMPLETED',
     'EXCEPTION_RAISED']
    """

    STARTED = "started"
    EPOCH_STARTED = "epoch_started"
    ITERATION_STARTED = "iteration_started"
    ITERATION_COMPLETED = "iteration_completed"
    EPOCH_COMPLETED = "epoch_completed"
    COMPLETED = "completed"
    EXCEPTION_RAISED = "exception_raised"


@dataclass(frozen=True)
class FilteredEvent:
    """An event, and at which counts it concerns a handler; what calling an event returns."""

    event: EventEnum
    accepts: Filter

    def __or__(self, other: Any) -> EventsList:
        return joined(self, other)


class EventsList(tuple[Any, ...]):
    """Several events, as ``|`` joins them."""

    __slots__ = ()

    def __or__(self, other: Any) -> EventsList:
        return joined(self, other)


def joined(*events: Any) -> EventsList:
    """Events, and what is in lists of events, as one list."""
    return EventsList(e for event in events for e in (event if isinstance(event, tuple) else (event,)))


def _among(once: Any) -> Filter:
    times = once if isinstance(once, Collection) and not isinstance(once, str) else [once]
    if not times:
        raise ValueError("once= must name at least one count, got an empty list")
    wanted = frozenset(check_count("once", time, 1) for time in times)
    return lambda engine, count: count in wanted


def _between(every: int | None, after: int | None, before: int | None) -> Filter:
    step = 1 if every is None else check_count("every", every, 1)
    low = 0 if after is None else check_count("after", after, 0)
    high = None if before is None else check_count("before", before, 0)
    first = step if after is None and before is None else low + 1  # as in Ignite

    def accepts(engine: Any, count: int) -> bool:
        return count >= first and (high is None or count < high) and (count - first) % step == 0

    return accepts

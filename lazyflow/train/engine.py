"""The loop over epochs and batches, which knows nothing about models (after Ignite 0.1, whose engine is this small).

An engine calls one function for every batch and fires an event before and after everything it does. All else, metrics,
progress bars, checkpoints, is handlers of these events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lazyflow.state import check_kind, differences, miscounts, raise_differences
from lazyflow.train.checks import check_call, check_count, mismatch, name_of
from lazyflow.train.events import EventEnum, Events, FilteredEvent

__all__ = ["Engine", "RemovableEventHandle", "State"]

Handler = Callable[..., Any]
_END = object()


@dataclass
class State:
    """Where a run is, and what it found; handlers may add attributes of their own.

    ``epoch`` and ``iteration`` count from 1, the iteration through all epochs and ``epoch_iteration`` within the epoch;
    they are 0 before. ``batch`` is the latest batch, ``output`` what the process function returned for it, ``metrics``
    the attached metrics by name. ``epoch_length`` is the number of batches in an epoch where it is known, else None.
    """

    epoch: int = 0
    iteration: int = 0
    epoch_iteration: int = 0
    max_epochs: int | None = None
    epoch_length: int | None = None
    dataloader: Any = None
    batch: Any = None
    output: Any = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Registered:
    """A handler with its further arguments, and whether it takes the engine."""

    handler: Handler
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    takes_engine: bool
    accepts: Callable[[Any, int], bool] | None


@dataclass(frozen=True)
class RemovableEventHandle:
    """What `Engine.add_event_handler` returns: ``remove()`` takes the handler off again, and so does leaving a ``with``
    block.

    >>> from lazyflow import train
    >>> engine = train.Engine(lambda engine, batch: batch)
    >>> with engine.add_event_handler(train.Events.COMPLETED, print, "done"):
    ...     state = engine.run([1])  # doctest: +ELLIPSIS
    <lazyflow.train.engine.Engine object at ...> done
    >>> state = engine.run([1])
    """

    engine: Engine
    event: Any
    handler: Handler

    def remove(self) -> None:
        """Take the handler off the events it was added to, where it still is."""
        for event in _flat(self.event):
            if self.engine.has_event_handler(self.handler, event):
                self.engine.remove_event_handler(self.handler, event)

    def __enter__(self) -> RemovableEventHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Engine:
    """Runs ``process_function(engine, batch)`` for every batch of every epoch and fires `Events` around it.

    What the function returns is kept in ``state.output``. ``current_event`` is the event whose handlers are being
    called, None otherwise. Raises ``TypeError`` when the function does not take two arguments.

    >>> from lazyflow import train
    >>> engine = train.Engine(lambda engine, batch: 10 * batch)
    >>> @engine.on(train.Events.ITERATION_COMPLETED(every=2))
    ... def show(engine):
    ...     print(engine.state.epoch, engine.state.iteration, engine.state.output)
    >>> state = engine.run([1, 2, 3], max_epochs=2)
    1 2 20
    2 4 10
    2 6 30
    """

    def __init__(self, process_function: Callable[[Engine, Any], Any]) -> None:
        check_call("the process function", process_function, ("engine", "batch"))
        self.process_function = process_function
        self.state = State()
        self.current_event: EventEnum | str | None = None
        self._handlers: dict[EventEnum | str, list[_Registered]] = {event: [] for event in Events}
        self._fired: Counter[EventEnum | str] = Counter()
        self._running = self._stop_run = self._stop_epoch = False
        self._epoch_done, self._restored, self._unfinished = True, False, False

    # Handlers

    def register_events(self, *events: EventEnum | str) -> None:
        """Let handlers be added for these events and `fire_event` fire them: strings, or members of an `EventEnum`.

        Raises ``TypeError`` for anything else.
        """
        for event in events:
            if not isinstance(event, EventEnum | str):
                raise TypeError(f"an event is a string or a member of a train.EventEnum, got {event!r}")
            self._handlers.setdefault(event, [])

    def on(self, event: Any, *args: Any, **kwargs: Any) -> Callable[[Handler], Handler]:
        """`add_event_handler` as a decorator; the function stays what it is."""

        def add(handler: Handler) -> Handler:
            self.add_event_handler(event, handler, *args, **kwargs)
            return handler

        return add

    def add_event_handler(self, event: Any, handler: Handler, *args: Any, **kwargs: Any) -> RemovableEventHandle:
        """Call ``handler(engine, *args, **kwargs)`` whenever ``event`` is fired, after those that were added before.

        A handler that does not take so many arguments is called without the engine. For ``Events.EXCEPTION_RAISED`` the
        exception follows the engine. ``event``: an event, a filtered one, or several joined by ``|``.

        Raises ``ValueError`` for an event that is not registered, ``TypeError`` for a handler that cannot be called
        with these arguments.
        """
        events = [self._known(e) for e in _flat(event)]
        added = [_registered(e, accepts, handler, args, kwargs) for e, accepts in events]
        for (e, _), registered in zip(events, added, strict=True):
            self._handlers[e].append(registered)
        return RemovableEventHandle(self, event, handler)

    def has_event_handler(self, handler: Handler, event: Any = None) -> bool:
        """Whether ``handler`` was added for ``event``, or, without one, for any."""
        events = list(self._handlers) if event is None else [self._known(e)[0] for e in _flat(event)]
        return any(registered.handler == handler for e in events for registered in self._handlers[e])

    def remove_event_handler(self, handler: Handler, event: Any) -> None:
        """Take ``handler`` off ``event``. Raises ``ValueError`` if it is not there."""
        for e in _flat(event):
            known, _ = self._known(e)
            if not self.has_event_handler(handler, known):
                raise ValueError(f"{name_of(handler)} is no handler of {known!r}, so it cannot be removed")
            self._handlers[known] = [r for r in self._handlers[known] if r.handler != handler]

    def fire_event(self, event: EventEnum | str) -> None:
        """Call the handlers of ``event`` now: how a process function fires an event of its own.

        Raises ``ValueError`` for an event that is not registered, and for ``EXCEPTION_RAISED``, which exceptions fire.
        """
        if event is Events.EXCEPTION_RAISED:
            raise ValueError("Events.EXCEPTION_RAISED is fired with an exception; raise one, and the engine fires it")
        self._fire(self._known(event)[0])

    def event_count(self, event: EventEnum | str) -> int:
        """What filters count: the epoch or the iteration for their events, else how often ``event`` was fired in this
        run.
        """
        if event in (Events.EPOCH_STARTED, Events.EPOCH_COMPLETED):
            return self.state.epoch
        if event in (Events.ITERATION_STARTED, Events.ITERATION_COMPLETED):
            return self.state.iteration
        return self._fired[event]

    def _known(self, event: Any) -> tuple[EventEnum | str, Callable[[Any, int], bool] | None]:
        """The event without its filter, and the filter."""
        accepts = event.accepts if isinstance(event, FilteredEvent) else None
        bare = event.event if isinstance(event, FilteredEvent) else event
        if not isinstance(bare, EventEnum | str) or bare not in self._handlers:
            raise ValueError(
                f"unknown event {bare!r}; this engine has {', '.join(map(repr, self._handlers))}, "
                "and others after engine.register_events(...)"
            )
        return bare, accepts

    def _fire(self, event: EventEnum | str, *event_args: Any) -> None:
        self._fired[event] += 1
        outer, self.current_event = self.current_event, event
        try:
            for registered in list(self._handlers[event]):
                if registered.accepts is None or registered.accepts(self, self.event_count(event)):
                    first = (self, *event_args) if registered.takes_engine else event_args
                    registered.handler(*first, *registered.args, **registered.kwargs)
        finally:
            self.current_event = outer

    # Running

    def run(self, data: Iterable[Any], max_epochs: int = 1, epoch_length: int | None = None) -> State:
        """Go through ``data``, an iterable of batches, ``max_epochs`` times; returns the state.

        ``epoch_length``: how many batches make an epoch, for data that never end or are to be cut otherwise; one epoch
        then goes on where the one before stopped, and data that end begin again. Every run starts with a state of its
        own, unless `load_state_dict` was called since the last one: then it goes on from there.

        An exception, an interrupt from the keyboard too, goes to the handlers of ``EXCEPTION_RAISED`` and then to the
        caller. Raises ``ValueError`` for ``max_epochs`` or ``epoch_length`` below 1, for data without a batch (an
        iterator has none in its second epoch) and for a restored run that is over; ``TypeError`` for data that are not
        iterable; ``RuntimeError`` when the engine is running already.
        """
        self._begin(data, max_epochs, epoch_length)
        try:
            self._epochs(_epochs_of(data, epoch_length))
        except BaseException as error:
            self._fire(Events.EXCEPTION_RAISED, error)
            raise
        finally:
            self._running = False
        return self.state

    def terminate(self) -> None:
        """End the run when the handlers of the event that is being fired are done.

        Of the events, only ``COMPLETED`` is fired after that, as in Ignite.
        """
        self._stop_run = True

    def terminate_epoch(self) -> None:
        """End the epoch when the handlers of the event that is being fired are done, and go on with the next.

        ``EPOCH_COMPLETED`` is fired.
        """
        self._stop_epoch = True

    def _begin(self, data: Any, max_epochs: Any, epoch_length: Any) -> None:
        if self._running:
            raise RuntimeError("this engine is running; a handler that runs data of its own needs another engine")
        check_count("max_epochs", max_epochs, 1)
        if epoch_length is not None:
            check_count("epoch_length", epoch_length, 1)
        if not isinstance(data, Iterable):
            raise TypeError(f"data must be an iterable of batches, such as lf.data.batches(...), got {data!r}")
        self.state = self._first_state(max_epochs)
        self._unfinished = self._restored and not self._epoch_done
        self._epoch_done, self._restored = True, False
        self.state.max_epochs, self.state.dataloader = max_epochs, data
        self.state.epoch_length = epoch_length or _length(data)
        self._fired.clear()
        self._running, self._stop_run, self._stop_epoch = True, False, False

    def _first_state(self, max_epochs: int) -> State:
        """A new state, or the restored one at the beginning of the epoch that is to be run or finished."""
        if not self._restored:
            return State()
        done = self.state.epoch - (not self._epoch_done)
        if done >= max_epochs:
            raise ValueError(
                f"the restored run has finished {done} epochs: max_epochs, the total, must be larger, got {max_epochs}"
            )
        return State(epoch=done, iteration=self.state.iteration)

    def _epochs(self, epochs: Iterator[Iterator[Any]]) -> None:
        assert self.state.max_epochs is not None
        self._fire(Events.STARTED)
        while not self._stop_run and self.state.epoch < self.state.max_epochs:
            self._epoch(next(epochs))
        self._fire(Events.COMPLETED)

    def _epoch(self, batches: Iterator[Any]) -> None:
        self.state.epoch += 1
        self.state.epoch_iteration = 0
        self._stop_epoch = self._epoch_done = False
        self._fire(Events.EPOCH_STARTED)
        while not self._stopping and (batch := next(batches, _END)) is not _END:
            self._iteration(batch)
        if not (self.state.epoch_iteration or self._stopping or self._unfinished):
            raise ValueError(_no_batch(self.state.epoch))
        self._unfinished = False  # of a restored epoch there may have been no batch left
        if not self._stop_run:
            self._epoch_done = True
            self._fire(Events.EPOCH_COMPLETED)

    def _iteration(self, batch: Any) -> None:
        self.state.batch, self.state.output = batch, None  # what it held is free before the next is computed
        self.state.iteration += 1
        self.state.epoch_iteration += 1
        self._fire(Events.ITERATION_STARTED)
        if not self._stopping:
            self.state.output = self.process_function(self, batch)
            self._fire(Events.ITERATION_COMPLETED)

    @property
    def _stopping(self) -> bool:
        return self._stop_run or self._stop_epoch

    # Saved state

    def state_dict(self) -> dict[str, Any]:
        """Epoch, iteration, and whether the epoch is complete, for `lazyflow.save`."""
        return {
            "kind": "Engine",
            "epoch": self.state.epoch,
            "iteration": self.state.iteration,
            "epoch_done": self._epoch_done,
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        check_kind("Engine", state)
        raise_differences("Engine", differences(self.state_dict(), state))
        found = miscounts(state, "epoch", "iteration")
        if not isinstance(state["epoch_done"], bool):
            found.append(f"epoch_done must be True or False, got {state['epoch_done']!r}")
        raise_differences("Engine", found)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `run` go on after the last epoch of ``state``, or within it if it was saved there.

        Within an epoch it is the data that say which batches are left: `lazyflow.data.Batches` that were restored too
        go on with the next batch, anything else begins the epoch again. Metrics of that epoch are of what was left.

        Raises `CheckpointError` for the state of something else, and changes nothing then.

        >>> from lazyflow import train
        >>> engine = train.Engine(lambda engine, batch: None)
        >>> engine.load_state_dict({"kind": "Engine", "epoch": 3, "iteration": 30, "epoch_done": True})
        >>> state = engine.run(range(10), max_epochs=5)
        >>> state.epoch, state.iteration
        (5, 50)
        """
        self.check_state_dict(state)
        self.state = State(epoch=int(state["epoch"]), iteration=int(state["iteration"]))
        self._epoch_done, self._restored = state["epoch_done"], True


def _flat(event: Any) -> tuple[Any, ...]:
    return tuple(event) if isinstance(event, tuple | list) else (event,)


def _registered(
    event: EventEnum | str, accepts: Any, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> _Registered:
    """The handler, once it is clear with which arguments it can be called."""
    if not callable(handler):
        raise TypeError(f"a handler of {event!r} must be a function, got {handler!r}")
    names = ("engine", "exception") if event is Events.EXCEPTION_RAISED else ("engine",)
    reason = mismatch(handler, (*names, *args), kwargs)
    if reason and mismatch(handler, (*names[1:], *args), kwargs):
        call = ", ".join([*names, *map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        raise TypeError(
            f"a handler of {event!r} gets ({call}), or the same without the engine; "
            f"{name_of(handler)} does not take that: {reason}"
        )
    return _Registered(handler, args, dict(kwargs), not reason, accepts)


def _epochs_of(data: Iterable[Any], length: int | None) -> Iterator[Iterator[Any]]:
    """An iterator of batches for every epoch."""
    endless = _endless(data)
    while True:
        yield iter(data) if length is None else islice(endless, length)


def _endless(data: Iterable[Any]) -> Iterator[Any]:
    """The batches over and over, until a round has none."""
    found = True
    while found:
        found = False
        for batch in data:
            found = True
            yield batch


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a generator has none
        return None


def _no_batch(epoch: int) -> str:
    if epoch == 1:
        return "the data are empty: there was no batch in the first epoch"
    return (
        f"there was no batch in epoch {epoch}: an iterator can be gone through only once; "
        "give a list or lf.data.batches(...), or epoch_length= for a generator that does not end"
    )

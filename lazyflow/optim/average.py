"""Averages of parameters over training: often better to use, and to validate with, than the last values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lazyflow.device import copied, device_of, on_device_of, to_device
from lazyflow.optim.base import Array, array_of, has_array
from lazyflow.state import check_kind, differences, miscounts, raise_differences

__all__ = ["ExponentialMovingAverage", "SimpleAverage"]


class _Average:
    """Arrays beside the parameters, which `update` moves, and which take their place in a ``with`` block."""

    def __init__(self, params: Iterable[Any]) -> None:
        name = type(self).__name__
        if has_array(params) or isinstance(params, Mapping | str):
            raise TypeError(f"{name}: expected a list of parameters, got a {type(params).__name__}")
        self.params = list(params)
        for i, parameter in enumerate(self.params):
            if not (has_array(parameter) and hasattr(parameter, "touch")):
                raise TypeError(f"{name}: entry {i} must be a Parameter, got a {type(parameter).__name__}")
        if not self.params:
            raise ValueError(f"{name}: there are no parameters to average: the list is empty")
        self.updates = 0
        self.averages: list[Array] = [copied(array_of(p), device_of(array_of(p))) for p in self.params]
        self._inside = False

    def weight(self) -> float:
        """What the average keeps of itself in the next update."""
        raise NotImplementedError(f"{type(self).__name__} needs a method weight()")

    def update(self) -> None:
        """Take the current values into the averages; call it after ``optimizer.step()``.

        Raises ``RuntimeError`` within `applied`, where the parameters are the averages themselves.
        """
        if self._inside:
            raise RuntimeError(f"{type(self).__name__}: update() within applied(): leave the block first")
        kept = self.weight()
        self.updates += 1
        for i, parameter in enumerate(self.params):
            average = self._average(i)
            with on_device_of(average):
                average += ((1.0 - kept) * (array_of(parameter) - average)).astype(average.dtype)

    def _average(self, i: int) -> Array:
        """On the parameter's device, which may have changed."""
        device = device_of(array_of(self.params[i]))
        if device_of(self.averages[i]) != device:
            self.averages[i] = to_device(self.averages[i], device)
        return self.averages[i]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters have their averages as values; afterwards, also after an error, their own.

        Raises ``RuntimeError`` for a block within a block.
        """
        if self._inside:
            raise RuntimeError(f"{type(self).__name__}: applied() within applied()")
        before = [copied(array_of(p), device_of(array_of(p))) for p in self.params]
        self._inside = True
        try:
            self.copy_to_parameters()
            yield
        finally:
            self._inside = False
            for parameter, value in zip(self.params, before, strict=True):
                _put(parameter, value)

    def copy_to_parameters(self) -> None:
        """Give the parameters their averages for good."""
        for i, parameter in enumerate(self.params):
            _put(parameter, self._average(i))

    # Saving and restoring.

    def _settings(self) -> dict[str, Any]:
        return {}

    def _setting_differences(self, state: Mapping[str, Any]) -> list[str]:
        """A line for each setting of ``state`` that the constructor would refuse."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """The averages, how many updates they took, and the settings. The arrays are not copies."""
        averages = {str(i): average for i, average in enumerate(self.averages)}
        return {"kind": type(self).__name__, "updates": self.updates, **self._settings(), "averages": averages}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        kind = type(self).__name__
        check_kind(kind, state)
        raise_differences(kind, differences(self.state_dict(), state))
        raise_differences(kind, [*miscounts(state, "updates"), *self._setting_differences(state)])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the averages of ``state`` (copied). Raises `CheckpointError`, and changes nothing then."""
        self.check_state_dict(state)
        averages = [copied(state["averages"][str(i)], device_of(array_of(p))) for i, p in enumerate(self.params)]
        self.updates, self.averages = int(state["updates"]), averages
        for name in self._settings():
            setattr(self, name, state[name])


def _put(parameter: Any, value: Array) -> None:
    """In place and on the parameter's device: nothing goes by way of the host."""
    with on_device_of(array_of(parameter)):
        array_of(parameter)[...] = value
    parameter.touch()


class ExponentialMovingAverage(_Average):
    """``average = decay * average + (1 - decay) * parameter`` at each update, from the values at the start on (Polyak
    and Juditsky 1992).

    ``params``: a list of parameters, such as ``model.parameters()``. Use the averages in a block of `applied`; save
    them with the rest: ``lf.save(path, model=model, optimizer=optimizer, average=average)``. Raises ``ValueError`` for
    a decay outside [0, 1) and an empty list, ``TypeError`` for what is no parameter.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([0.0])
    >>> average = ExponentialMovingAverage([w], decay=0.75)
    >>> w.assign([4.0]); average.update()
    >>> with average.applied():
    ...     print(w.numpy())
    [1.]
    >>> w.numpy()
    array([4.], dtype=float32)
    """

    def __init__(self, params: Iterable[Any], decay: float = 0.999) -> None:
        if not _is_decay(decay):
            raise ValueError(f"ExponentialMovingAverage: {_bad_decay(decay)}")
        self.decay = float(decay)
        super().__init__(params)

    def weight(self) -> float:
        return self.decay

    def _settings(self) -> dict[str, Any]:
        return {"decay": self.decay}

    def _setting_differences(self, state: Mapping[str, Any]) -> list[str]:
        return [] if _is_decay(state["decay"]) else [_bad_decay(state["decay"])]


def _is_decay(decay: Any) -> bool:
    return isinstance(decay, int | float) and not isinstance(decay, bool) and 0 <= decay < 1


def _bad_decay(decay: Any) -> str:
    return f"decay must be at least 0 and below 1, got {decay!r}"


class SimpleAverage(_Average):
    """The mean of the values at all updates (Ruppert 1988), as stochastic weight averaging takes it.

    Used and saved as `ExponentialMovingAverage`. Before the first update the averages are the values at the start.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([0.0])
    >>> average = SimpleAverage([w])
    >>> for value in (1.0, 3.0):
    ...     w.assign([value]); average.update()
    >>> average.copy_to_parameters(); w.numpy()
    array([2.], dtype=float32)
    """

    def weight(self) -> float:
        return self.updates / (self.updates + 1)

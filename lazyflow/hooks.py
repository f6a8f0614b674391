"""Functions that are called with a gradient on its way back, and may replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.device import Array
from lazyflow.errors import ShapeError

Hook = Callable[..., object]


class _Entry:
    """One registration of a hook: the same function may be registered several times."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def __call__(self, *args: object) -> object:
        return self.hook(*args)


class HookHandle:
    """What registering a hook returns: `remove` it, or use it as a ``with`` block, at whose end it is removed."""

    def __init__(self, hooks: list[Hook], hook: Hook) -> None:
        if not callable(hook):
            raise TypeError(f"a hook is a function, got a {type(hook).__name__}")
        self._hooks, self._entry = hooks, _Entry(hook)
        hooks.append(self._entry)

    def remove(self) -> None:
        """Call the hook no more for this registration of it; a second time changes nothing."""
        self._hooks[:] = [h for h in self._hooks if h is not self._entry]

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def name_of(hook: Hook) -> str:
    """The name of a hook, or of a registration of one, for errors."""
    function = hook.hook if isinstance(hook, _Entry) else hook
    return str(getattr(function, "__qualname__", repr(function)))


def through(hooks: Iterable[Hook], gradient: Array) -> Array:
    """``gradient`` after all hooks, each called with what the one before left. Raises `ShapeError` or ``TypeError`` for
    an answer that is no gradient of the same value.

    >>> through([lambda g: None, lambda g: 2 * g], np.ones(2)).tolist()
    [2.0, 2.0]
    """
    for hook in list(hooks):
        answer = hook(gradient)
        if answer is not None:
            gradient = checked_answer(hook, answer, gradient)
    return gradient


def checked_answer(hook: Hook, answer: Any, gradient: Array) -> Array:
    """A hook's answer with the shape and dtype of the gradient that it takes the place of."""
    name = name_of(hook)
    array = answer if devices.is_on_gpu(answer) else np.asarray(answer)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"the hook {name} must return a gradient or None, got a {type(answer).__name__}")
    if array.shape != gradient.shape:
        raise ShapeError(
            f"the hook {name} returned a gradient of shape {array.shape} for a value of shape {gradient.shape}; "
            "they must be equal, or return None to leave the gradient as it is"
        )
    return devices.to_device(array.astype(gradient.dtype), devices.device_of(gradient))

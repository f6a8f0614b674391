"""Loss scaling: small cotangents survive in 16 bits when all of them are multiplied by a large number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from lazyflow.device import device_of, module, on_device_of
from lazyflow.optim.base import Array, Optimizer
from lazyflow.optim.clip import gradients_of, replace, scaled
from lazyflow.optim.options import number, plain
from lazyflow.record.expr import Expr
from lazyflow.state import check_kind, differences, miscounts, raise_differences

__all__ = ["GradScaler"]


class GradScaler:
    """Multiplies the loss by a scale that is as large as it can be, and the gradients by its inverse.

    For ``lf.using(storage="float16")``, in which what a cell keeps of small cotangents would be zero (Micikevicius et
    al. 2018). Begins with ``init_scale``. A step whose gradients are not all finite is left out, and the scale is
    multiplied by ``backoff_factor``; after ``growth_interval`` steps without one, by ``growth_factor``. The names and
    the numbers are those of ``torch.amp.GradScaler``. ``enabled=False`` makes it do nothing, but for ``step``.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> optimizer, scaler = lf.optim.SGD([w], lr=0.1), GradScaler(init_scale=1024.0)
    >>> scaler.scale(lf.sum(w * w)).backward()
    >>> w.grad  # a thousand times as large
    array([2048., 4096.], dtype=float32)
    >>> scaler.step(optimizer)  # in place of optimizer.step()
    True
    >>> scaler.update()
    >>> w.numpy()
    array([0.8, 1.6], dtype=float32)

    To look at gradients, or to clip them, before the step: `unscale_`. Raises ``ValueError`` for numbers that make no
    scale.
    """

    settings: ClassVar[tuple[str, ...]] = ("growth_factor", "backoff_factor", "growth_interval")

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._scale, self._good, self._enabled = init_scale, 0, bool(enabled)
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self._finite: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()  # of what was unscaled since `update`
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ``ValueError`` for a number out of range."""
        wrong = {
            "the scale must be a finite number above 0": number(self._scale) and self._scale > 0,
            "growth_factor must be a finite number above 1": number(self.growth_factor) and self.growth_factor > 1,
            "backoff_factor must be a number between 0 and 1": number(self.backoff_factor)
            and 0 < self.backoff_factor < 1,
            "growth_interval must be an integer of at least 1": number(self.growth_interval)
            and self.growth_interval >= 1
            and int(self.growth_interval) == self.growth_interval,
        }
        for text, holds in wrong.items():
            if not holds:
                given = {name: getattr(self, name) for name in self.settings}
                raise ValueError(f"GradScaler: {text}; got a scale of {self._scale!r}, {given}")

    def get_scale(self) -> float:
        """The scale: 1 where the scaler is not enabled."""
        return float(self._scale) if self._enabled else 1.0

    def scale(self, loss: Expr) -> Expr:
        """The loss times the scale, to call ``backward`` of."""
        return loss * self.get_scale() if self._enabled else loss

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, for who looks at them before `step`.

        Raises ``RuntimeError`` for a second time before `update`.
        """
        if not self._enabled:
            return
        if optimizer in self._finite:
            raise RuntimeError("GradScaler: the gradients of this optimizer were unscaled since the last update()")
        self._finite[optimizer] = _unscale(optimizer, 1.0 / self.get_scale())

    def step(self, optimizer: Optimizer) -> bool:
        """Take the step of an optimizer, if its gradients are finite once they are unscaled; whether it was taken."""
        if self._enabled:
            if optimizer not in self._finite:
                self.unscale_(optimizer)
            if not self._finite[optimizer]:
                return False
        optimizer.step()
        return True

    def update(self) -> None:
        """Make the scale smaller or larger, once an iteration, behind the steps of all optimizers.

        Raises ``RuntimeError`` where no gradients were unscaled since the last time.
        """
        if not self._enabled:
            return
        if not self._finite:
            raise RuntimeError("GradScaler: update() comes behind step(optimizer), or unscale_(optimizer)")
        good = all(self._finite.values())
        self._finite.clear()
        self._good = self._good + 1 if good else 0
        if not good:
            self._scale = self.get_scale() * self.backoff_factor
        elif self._good >= self.growth_interval:
            larger = self.get_scale() * self.growth_factor
            self._scale, self._good = larger if math.isfinite(larger) else self._scale, 0

    def state_dict(self) -> dict[str, Any]:
        """The scale, the steps since it changed and the settings, as JSON scalars."""
        state = {"scale": float(self._scale), "growth_tracker": self._good}
        return {
            "kind": type(self).__name__,
            **plain({**state, **{name: getattr(self, name) for name in self.settings}}),
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        kind = type(self).__name__
        check_kind(kind, state)
        raise_differences(kind, differences(self.state_dict(), state))
        raise_differences(kind, miscounts(state, "growth_tracker"))
        other = copy(self)
        other._take(state)
        try:
            other.check_settings()
        except ValueError as error:
            raise_differences(kind, [str(error)])

    def _take(self, state: Mapping[str, Any]) -> None:
        self._scale, self._good = state["scale"], state["growth_tracker"]
        for name in self.settings:
            setattr(self, name, state[name])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was saved. Raises `CheckpointError` if it does not fit, and changes nothing then."""
        self.check_state_dict(state)
        self._take(state)


def _unscale(optimizer: Optimizer, factor: float) -> bool:
    """Multiply all gradients by a number; whether they are finite then. On a device one look at all of them."""
    finite: dict[str, Array] = {}
    for group in optimizer.param_groups:
        for parameter, values in gradients_of(group["params"]):
            with on_device_of(values):
                replace(parameter, values, scaled(values, factor))
                found = module(values).isfinite(values).all()
                place = device_of(values)
                finite[place] = found & finite[place] if place in finite else found
    return all(map(bool, finite.values()))

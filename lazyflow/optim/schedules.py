"""Learning-rate schedules. Each is one formula: the rate at a time from the rate a group began with.

A schedule is made after the optimizer, sets the rate of time 0 at once, and is stepped after ``optimizer.step()``, once
an epoch or once an update as its numbers are meant. The names and numbers are those of ``torch.optim.lr_scheduler``.

Several schedules of one optimizer chain, as there: each goes on from the rate that it finds, so that what they do to it
multiplies. The same goes for a rate that was set by hand.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar

from lazyflow.optim.base import Optimizer
from lazyflow.optim.options import number, plain
from lazyflow.state import check_kind, differences, miscounts, misscored, raise_differences

__all__ = [
    "CosineAnnealingLR",
    "CyclicLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearWarmup",
    "MultiStepLR",
    "ReduceLROnPlateau",
    "Schedule",
    "StepLR",
]


def _check(name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    kinds = "an integer" if whole else "a finite number"
    if not number(value) or not low <= value <= high or (whole and int(value) != value):
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be {kinds} {limits}; got {value!r}")


def _bad_rates(name: str, rates: Sequence[Any]) -> list[str]:
    return [
        f"{name} must be a finite number, not below zero; got {rate!r}"
        for rate in rates
        if not number(rate) or rate < 0
    ]


class Schedule:
    """Base class: a subclass gives ``rate(base, time)``, names its numbers in ``settings``, and may check them in
    ``check_settings()``.

    ``last_epoch`` is the time: how often `step` was called. ``base_lrs`` are the rates the groups began with; of a
    group whose rate something else has changed since, that with which it would have come to where it was found.

    >>> import lazyflow as lf
    >>> class Halving(Schedule):
    ...     def rate(self, base, time):
    ...         return base / 2**time
    >>> schedule = Halving(lf.optim.SGD([lf.Parameter([1.0])], lr=0.8))
    >>> schedule.step(); schedule.get_last_lr()
    [0.4]
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """The attributes that a checkpoint keeps beside the time and the first rates."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"{type(self).__name__}: expected an optimizer, got a {type(optimizer).__name__}")
        self.check_settings()
        self.optimizer = optimizer
        self.last_epoch = 0
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self._apply()

    def check_settings(self) -> None:
        """Raise ``ValueError`` for a setting that makes no schedule; called by the constructor and before a loading."""

    def rate(self, base: float, time: int) -> float:
        """The learning rate at ``time`` for a group that began with ``base``."""
        raise NotImplementedError(f"{type(self).__name__} needs a method rate(base, time)")

    def step(self) -> None:
        """Go to the next time and set every group's ``lr``."""
        self._join()
        self._find()
        self.last_epoch += 1
        self._apply()

    def _join(self) -> None:
        """Take up the groups that were added since: they go on from the rate that they have now."""
        for i, group in enumerate(self.optimizer.param_groups[len(self.base_lrs) :], len(self.base_lrs)):
            self.base_lrs.append(self._base(i, float(group["lr"]), unknown=float(group["lr"])))

    def _find(self) -> None:
        """Go on from the rates that the groups have now, where these are not the ones that were set here last."""
        for i, (group, rate) in enumerate(zip(self.optimizer.param_groups, self._set, strict=False)):
            if group["lr"] != rate:
                self.base_lrs[i] = self._base(i, float(group["lr"]), unknown=self.base_lrs[i])

    def _base(self, i: int, lr: float, unknown: float) -> float:
        """What group ``i`` would have begun with to have the rate ``lr`` now; ``unknown`` where that does not matter.

        A rate is linear in the one that a group began with, which is found from two of them.
        """
        of_zero, of_one = self._rate(i, 0.0), self._rate(i, 1.0)
        slope = of_one - of_zero
        return (lr - of_zero) / slope if slope else unknown

    def _rate(self, i: int, base: float) -> float:
        """The rate of group ``i`` at this time, if it has begun with ``base``."""
        return self.rate(base, self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group, as last set."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _rates(self) -> list[float]:
        """The rate of every group at this time."""
        return [self._rate(i, base) for i, base in enumerate(self.base_lrs)]

    def _apply(self) -> None:
        self._set = self._rates()
        for group, rate in zip(self.optimizer.param_groups, self._set, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The time, the first rates and the settings, as JSON scalars and lists."""
        self._join()
        settings = {name: getattr(self, name) for name in ("last_epoch", "base_lrs", *self.settings)}
        return {"kind": type(self).__name__, **plain(settings)}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        kind = type(self).__name__
        check_kind(kind, state)
        raise_differences(kind, differences(self.state_dict(), state))
        raise_differences(kind, [*miscounts(state, "last_epoch"), *_bad_rates("base_lrs", state["base_lrs"])])
        raise_differences(kind, self._with(state)._setting_differences())

    def _with(self, state: Mapping[str, Any]) -> Schedule:
        """A copy that stands where ``state`` was saved."""
        other = copy(self)
        other._take(state)
        return other

    def _setting_differences(self) -> list[str]:
        """A line for what keeps this schedule from having a rate for every group."""
        try:
            self.check_settings()
            return _bad_rates(f"the rate at time {self.last_epoch}", self._rates())
        except Exception as error:  # a formula, which may be a user's, and numbers from a file
            return [f"no rate at time {self.last_epoch}: {error!r}"]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was saved, with its settings; sets every group's ``lr``.

        Of several of one optimizer, load the states in the order in which they are stepped.
        Raises `CheckpointError` for the state of another schedule or of other groups, and for settings that make no
        rate, and changes nothing then.
        """
        self.check_state_dict(state)
        self._take(state)
        self._apply()

    def _take(self, state: Mapping[str, Any]) -> None:
        for name in ("last_epoch", "base_lrs", *self.settings):
            setattr(self, name, state[name])


class StepLR(Schedule):
    """``lr = base * gamma ** (time // step_size)``.

    >>> import lazyflow as lf
    >>> schedule = StepLR(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), 2, gamma=0.5)
    >>> [(schedule.get_last_lr()[0], schedule.step())[0] for _ in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    settings = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def check_settings(self) -> None:
        _check("StepLR: step_size", self.step_size, 1, whole=True)
        _check("StepLR: gamma", self.gamma, 0)

    def rate(self, base: float, time: int) -> float:
        return base * self.gamma ** (time // self.step_size)


class MultiStepLR(Schedule):
    """``lr = base * gamma ** n``, with ``n`` the number of ``milestones`` that the time has reached.

    >>> import lazyflow as lf
    >>> schedule = MultiStepLR(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), [1, 3], gamma=0.5)
    >>> [(schedule.get_last_lr()[0], schedule.step())[0] for _ in range(5)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    settings = ("milestones", "gamma")

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer)

    def check_settings(self) -> None:
        for milestone in self.milestones:
            _check("MultiStepLR: a milestone", milestone, 0, whole=True)
        if self.milestones != sorted(self.milestones):
            raise ValueError(f"MultiStepLR: milestones must rise, got {self.milestones}")
        _check("MultiStepLR: gamma", self.gamma, 0)

    def rate(self, base: float, time: int) -> float:
        return base * self.gamma ** bisect_right(self.milestones, time)


class ExponentialLR(Schedule):
    """``lr = base * gamma ** time``.

    >>> import lazyflow as lf
    >>> schedule = ExponentialLR(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), 0.5)
    >>> [(schedule.get_last_lr()[0], schedule.step())[0] for _ in range(3)]
    [1.0, 0.5, 0.25]
    """

    settings = ("gamma",)

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def check_settings(self) -> None:
        _check("ExponentialLR: gamma", self.gamma, 0)

    def rate(self, base: float, time: int) -> float:
        return base * self.gamma**time


class CosineAnnealingLR(Schedule):
    """From the base rate down to ``eta_min`` in ``T_max`` steps along half a cosine.

    Of Loshchilov & Hutter 2017, without restarts.
    ``lr = eta_min + (base - eta_min) * (1 + cos(pi * time / T_max)) / 2``; past ``T_max`` it goes up again, as in
    PyTorch.

    >>> import lazyflow as lf
    >>> schedule = CosineAnnealingLR(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), 2)
    >>> [round((schedule.get_last_lr()[0], schedule.step())[0], 6) for _ in range(3)]
    [1.0, 0.5, 0.0]
    """

    settings = ("T_max", "eta_min")

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def check_settings(self) -> None:
        _check("CosineAnnealingLR: T_max", self.T_max, 1, whole=True)
        _check("CosineAnnealingLR: eta_min", self.eta_min, 0)

    def rate(self, base: float, time: int) -> float:
        return self.eta_min + (base - self.eta_min) * (1.0 + math.cos(math.pi * time / self.T_max)) / 2.0


class CyclicLR(Schedule):
    """Up from ``base_lr`` to ``max_lr`` in ``step_size_up`` steps, down in ``step_size_down``, and again (Smith 2017).

    ``step_size_down``: as many as up where it is None. ``mode``: the height of the triangles, ``"triangular"``
    constant, ``"triangular2"`` halved at every cycle, ``"exp_range"`` ``gamma ** time``. Step it once an update. The
    rates do not depend on those that the groups began with. Momentum is left alone.

    >>> import lazyflow as lf
    >>> schedule = CyclicLR(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), 1.0, 3.0, step_size_up=2)
    >>> [(schedule.get_last_lr()[0], schedule.step())[0] for _ in range(6)]
    [1.0, 2.0, 3.0, 2.0, 1.0, 2.0]
    """

    settings = ("base_lr", "max_lr", "step_size_up", "step_size_down", "mode", "gamma")

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float,
        max_lr: float,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
    ) -> None:
        self.base_lr, self.max_lr, self.mode, self.gamma = base_lr, max_lr, mode, gamma
        self.step_size_up = step_size_up
        self.step_size_down = step_size_up if step_size_down is None else step_size_down
        super().__init__(optimizer)

    def check_settings(self) -> None:
        _check("CyclicLR: base_lr", self.base_lr, 0)
        _check("CyclicLR: max_lr", self.max_lr, self.base_lr)
        _check("CyclicLR: step_size_up", self.step_size_up, 1, whole=True)
        _check("CyclicLR: step_size_down", self.step_size_down, 1, whole=True)
        _check("CyclicLR: gamma", self.gamma, 0)
        if self.mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"CyclicLR: mode must be 'triangular', 'triangular2' or 'exp_range', got {self.mode!r}")

    def rate(self, base: float, time: int) -> float:
        cycle, place = divmod(time, self.step_size_up + self.step_size_down)
        up = place <= self.step_size_up
        share = place / self.step_size_up if up else 1 - (place - self.step_size_up) / self.step_size_down
        return self.base_lr + (self.max_lr - self.base_lr) * share * self._height(cycle, time)

    def _height(self, cycle: int, time: int) -> float:
        if self.mode == "triangular":
            return 1.0
        return 0.5**cycle if self.mode == "triangular2" else self.gamma**time


class LinearWarmup(Schedule):
    """From ``start_factor * base`` up to the base rate in ``steps`` equal steps; then constant, or ``after``.

    ``start_factor``: ``1 / (steps + 1)`` unless given, so that the rates are 1, 2, 3, ... parts of the base rate.
    ``after``: another schedule of the same optimizer, whose time 0 is the end of the warm-up; step only the warm-up
    then. Without it, the numbers are those of PyTorch's ``LinearLR``.

    >>> import lazyflow as lf
    >>> optimizer = lf.optim.SGD([lf.Parameter([1.0])], lr=1.0)
    >>> schedule = LinearWarmup(optimizer, 3, after=ExponentialLR(optimizer, 0.5))
    >>> [(schedule.get_last_lr()[0], schedule.step())[0] for _ in range(6)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    settings = ("steps", "start_factor")

    def __init__(
        self, optimizer: Optimizer, steps: int, *, start_factor: float | None = None, after: Schedule | None = None
    ) -> None:
        _check("LinearWarmup: steps", steps, 1, whole=True)
        self.start_factor = 1.0 / (steps + 1) if start_factor is None else start_factor
        if after is not None and (after.optimizer is not optimizer or after.last_epoch):
            raise ValueError("LinearWarmup: after must be a schedule of the same optimizer that was not stepped")
        self.steps, self.after = steps, after
        self.check_settings()
        if after is not None:  # it has set its own first rates
            for group, base in zip(optimizer.param_groups, after.base_lrs, strict=True):
                group["lr"] = base
        super().__init__(optimizer)

    def check_settings(self) -> None:
        _check("LinearWarmup: steps", self.steps, 1, whole=True)
        _check("LinearWarmup: start_factor", self.start_factor, 0, 1)

    def rate(self, base: float, time: int) -> float:
        if time >= self.steps:
            return base if self.after is None else self.after.rate(base, time - self.steps)
        return base * (self.start_factor + (1.0 - self.start_factor) * time / self.steps)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self.after is None else {**state, "after": self.after.state_dict()}

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.after is not None and isinstance(state, Mapping) and "after" in state:
            self.after.check_state_dict(state["after"])
        super().check_state_dict(state)

    def _with(self, state: Mapping[str, Any]) -> LinearWarmup:
        other = copy(self)
        other.after = copy(self.after)
        other._take(state)
        return other

    def _take(self, state: Mapping[str, Any]) -> None:
        super()._take(state)
        if self.after is not None:
            self.after._take(state["after"])


class LambdaLR(Schedule):
    """``lr = base * lr_lambda(time)``; one function for all groups, or a list with one for each.

    A checkpoint keeps the time, not the functions.

    >>> import lazyflow as lf
    >>> schedule = LambdaLR(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), lambda time: 1 / (1 + time))
    >>> [(schedule.get_last_lr()[0], schedule.step())[0] for _ in range(2)]
    [1.0, 0.5]
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(
                f"LambdaLR: expected one function or {groups}, one for each group; got {len(self.lr_lambdas)}"
            )
        self._for_all = lr_lambda if callable(lr_lambda) else None
        super().__init__(optimizer)

    def _rate(self, i: int, base: float) -> float:
        if i >= len(self.lr_lambdas) and self._for_all is None:
            raise ValueError(
                "LambdaLR: a group was added to the optimizer, and each that was there before has its own function: "
                "append its own to schedule.lr_lambdas and its rate to schedule.base_lrs"
            )
        factor = self.lr_lambdas[i] if self._for_all is None else self._for_all
        return base * float(factor(self.last_epoch))

    def _join(self) -> None:
        super()._join()
        if self._for_all is not None:
            self.lr_lambdas = [self._for_all] * len(self.base_lrs)


class ReduceLROnPlateau:
    """Multiply the rates by ``factor`` when a metric has not improved for more than ``patience`` calls of `step`.

    ``mode``: "min" or "max", what counts as better. Better means by more than ``threshold``, a share of the size of the
    best value ("rel") or an amount ("abs", ``threshold_mode``). After a reduction, ``cooldown`` calls do not count. No
    rate goes below ``min_lr``; a reduction by less than ``eps`` is not made. A metric of NaN is not an improvement.

    >>> import lazyflow as lf
    >>> schedule = ReduceLROnPlateau(lf.optim.SGD([lf.Parameter([1.0])], lr=1.0), factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.step(loss)
    >>> schedule.get_last_lr()
    [0.5]
    """

    settings: ClassVar[tuple[str, ...]] = (
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps",
    )  # fmt: skip
    counters: ClassVar[tuple[str, ...]] = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        *,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown = threshold, threshold_mode, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.check_settings()
        self.last_epoch, self.num_bad_epochs, self.cooldown_counter = 0, 0, 0
        self.best: float = math.inf if mode == "min" else -math.inf

    def check_settings(self) -> None:
        """Raise ``ValueError`` for a setting out of range."""
        if self.mode not in ("min", "max") or self.threshold_mode not in ("rel", "abs"):
            raise ValueError(
                "ReduceLROnPlateau: mode must be 'min' or 'max' and threshold_mode 'rel' or 'abs'; "
                f"got {self.mode!r} and {self.threshold_mode!r}"
            )
        if not (number(self.factor) and 0 <= self.factor < 1):
            raise ValueError(f"ReduceLROnPlateau: factor must be a number from 0 to below 1; got {self.factor!r}")
        for name in ("patience", "cooldown"):
            _check(f"ReduceLROnPlateau: {name}", getattr(self, name), 0, whole=True)
        for name in ("threshold", "min_lr", "eps"):
            _check(f"ReduceLROnPlateau: {name}", getattr(self, name), 0)

    def step(self, metric: float) -> None:
        """Take note of ``metric`` (anything that ``float()`` takes) and reduce the rates if it is time."""
        value = float(metric)
        self.last_epoch += 1
        if self._better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _better(self, value: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        margin = self.threshold if self.threshold_mode == "abs" else self.threshold * abs(self.best)
        return sign * value < sign * self.best - (margin if math.isfinite(margin) else 0.0)

    def _reduce(self) -> None:
        for group in self.optimizer.param_groups:
            reduced = max(group["lr"] * self.factor, self.min_lr)
            if group["lr"] - reduced > self.eps:
                group["lr"] = reduced

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Settings and counters, as JSON scalars. The rates themselves are part of the optimizer's state."""
        return {
            "kind": type(self).__name__,
            **plain({name: getattr(self, name) for name in self.settings + self.counters}),
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded."""
        kind = type(self).__name__
        check_kind(kind, state)
        raise_differences(kind, differences(self.state_dict(), state))
        counts = miscounts(state, "last_epoch", "num_bad_epochs", "cooldown_counter")
        raise_differences(kind, [*counts, *misscored(state, "best")])
        try:
            self._with(state).check_settings()
        except ValueError as error:
            raise_differences(kind, [str(error)])

    def _with(self, state: Mapping[str, Any]) -> ReduceLROnPlateau:
        """A copy that stands where ``state`` was saved."""
        other = copy(self)
        other._take(state)
        return other

    def _take(self, state: Mapping[str, Any]) -> None:
        for name in self.settings + self.counters:
            setattr(self, name, state[name])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was saved. Raises `CheckpointError` if it does not fit, and changes nothing then."""
        self.check_state_dict(state)
        self._take(state)

"""Optimizers as pure functions of arrays, for programs that keep their parameters themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lazyflow.device import copied, device_of
from lazyflow.optim.base import Array, Kept, Optimizer

__all__ = ["Pure", "functional"]

Arrays = Mapping[str, Array]
State = Mapping[str, Mapping[str, Any]]


class Pure(NamedTuple):
    """``init(arrays) -> state`` and ``update(gradients, arrays, state) -> (arrays, state)``, without side effects."""

    init: Callable[[Arrays], State]
    update: Callable[[Mapping[str, Any], Arrays, State], tuple[dict[str, Array], State]]


@dataclass(eq=False)
class _Holder:
    array: Array
    name: str
    grad: Any = None

    def touch(self) -> None:
        """Nothing refers to the array yet."""


def functional(optimizer: type[Optimizer], **options: Any) -> Pure:
    """The update rule of an optimizer class as two pure functions of named arrays.

    ``options`` are those of the class. A state holds, for each name, ``"step"`` and the arrays that the optimizer
    keeps. Gradients are arrays or `RowSparse`; a name without one (or with None) is left as it is. For use in a loop
    prefer the optimizer itself, which copies nothing.

    >>> import numpy as np
    >>> from lazyflow.optim import SGD
    >>> init, update = functional(SGD, lr=0.5, momentum=0.9)
    >>> arrays = {"w": np.array([1.0, 2.0])}
    >>> arrays, state = update({"w": np.array([1.0, -1.0])}, arrays, init(arrays))
    >>> arrays["w"], state["w"]["step"]
    (array([0.5, 2.5]), 1)
    """

    def optimizer_for(arrays: Arrays) -> tuple[Optimizer, list[_Holder]]:
        holders = [_Holder(copied(array, device_of(array)), name) for name, array in arrays.items()]
        return optimizer(holders, **options), holders

    def init(arrays: Arrays) -> State:
        made, holders = optimizer_for(arrays)
        group = made.param_groups[0]
        return {h.name: {"step": 0, **made.slots_for(h.array, group)} for h in holders}

    def update(gradients: Mapping[str, Any], arrays: Arrays, state: State) -> tuple[dict[str, Array], State]:
        made, holders = optimizer_for(arrays)
        made.kept.update({i: _copied(h.array, state[h.name]) for i, h in enumerate(holders)})
        for holder in holders:
            holder.grad = gradients.get(holder.name)
        made.step()
        kept = {h.name: {"step": made.kept[i].step, **made.kept[i].slots} for i, h in enumerate(holders)}
        return {h.name: h.array for h in holders}, kept

    return Pure(init, update)


def _copied(array: Array, state: Mapping[str, Any]) -> Kept:
    slots = {name: copied(value, device_of(value)) for name, value in state.items() if name != "step"}
    return Kept(state["step"], slots, device_of(array))

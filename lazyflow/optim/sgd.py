"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from lazyflow.device import module
from lazyflow.optim.base import Array, Optimizer, Options

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent, with momentum as in PyTorch (Sutskever et al. 2013, with the learning rate outside the buffer).

    ``momentum_buffer = momentum * momentum_buffer + (1 - dampening) * gradient``, at the parameter's first step
    ``momentum_buffer = gradient``; then ``parameter -= lr * momentum_buffer``, or with ``nesterov``
    ``parameter -= lr * (gradient + momentum * momentum_buffer)``. Without momentum nothing is kept.

    Row-sparse gradients: without momentum and weight decay the same as dense ones. With momentum a row that is not
    touched neither moves nor loses momentum; the buffer of a row that is first touched after the parameter's first step
    starts from zero. See `Optimizer` for parameter groups, ``sparse`` and ``weight_decay``.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([1.0, 2.0])
    >>> w.grad = np.array([1.0, -1.0], np.float32)
    >>> SGD([w], lr=0.5).step()
    >>> w.numpy()
    array([0.5, 2.5], dtype=float32)
    """

    defaults: ClassVar[Options] = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        sparse: bool = True,
    ) -> None:
        options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        super().__init__(params, lr, weight_decay=weight_decay, sparse=sparse, **options)

    def check_options(self, options: Options) -> None:
        super().check_options(options)
        if options["nesterov"] and (not options["momentum"] or options["dampening"]):
            raise ValueError(
                "SGD: nesterov needs momentum > 0 and dampening == 0; "
                f"got momentum {options['momentum']} and dampening {options['dampening']}"
            )

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        return {"momentum_buffer": module(parameter).zeros_like(parameter)} if options["momentum"] else {}

    def apply_single(self, gradient: Array, parameter: Array, state: Mapping[str, Any], options: Options) -> None:
        xp, step = module(parameter), self.scratch("step", parameter)
        if options["momentum"]:
            gradient = self._with_momentum(gradient, state, options)
        xp.multiply(gradient, float(options["lr"]), out=step)
        xp.subtract(parameter, step, out=parameter)

    def _with_momentum(self, gradient: Array, state: Mapping[str, Any], options: Options) -> Array:
        buffer, momentum = state["momentum_buffer"], float(options["momentum"])
        xp, step = module(gradient), self.scratch("step", gradient)
        if state["step"] == 1:
            buffer[...] = gradient
        else:
            xp.multiply(buffer, momentum, out=buffer)
            weight = 1.0 - float(options["dampening"])
            xp.add(buffer, gradient if weight == 1.0 else xp.multiply(gradient, weight, out=step), out=buffer)
        if not options["nesterov"]:
            return buffer
        return xp.add(xp.multiply(buffer, momentum, out=step), gradient, out=step)

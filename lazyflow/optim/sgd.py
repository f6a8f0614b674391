"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
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

    def formulas(self, options: Options, step: int) -> dict[str, str]:
        if not options["momentum"]:
            return {"parameter": "parameter - gradient * lr"}
        weighed = "gradient * weight" if options["dampening"] else "gradient"
        move = "momentum_buffer * momentum + gradient" if options["nesterov"] else "momentum_buffer"
        return {
            "momentum_buffer": "gradient" if step == 1 else f"momentum_buffer * momentum + {weighed}",
            "parameter": f"parameter - ({move}) * lr",
        }

    def numbers(self, options: Options, step: int) -> dict[str, float]:
        return {**super().numbers(options, step), "weight": 1.0 - float(options["dampening"])}

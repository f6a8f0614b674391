"""Exponentiated gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from lazyflow.device import module
from lazyflow.optim.base import Array, Optimizer, Options

__all__ = ["ExponentiatedGradient"]


class ExponentiatedGradient(Optimizer):
    """Multiplicative updates on the simplex (Kivinen and Warmuth 1997): each parameter is a distribution and stays one.

    ``parameter *= exp(-lr * gradient)``, then it is divided by its sum. With ``momentum``, ``buffer = momentum *
    buffer - lr * gradient`` takes the place of ``-lr * gradient``. A parameter is updated as a whole; row-sparse
    gradients are made dense. Raises ``ValueError`` at a step for a parameter with an element below zero or a sum that
    is not positive.

    >>> import lazyflow as lf, numpy as np
    >>> w = lf.Parameter([0.5, 0.5])
    >>> w.grad = np.array([0.0, np.log(3.0)], np.float32)
    >>> ExponentiatedGradient([w], lr=1.0).step()
    >>> w.numpy().round(4)
    array([0.75, 0.25], dtype=float32)
    """

    defaults: ClassVar[Options] = {"momentum": 0.0}
    elementwise = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        sparse: bool = True,
    ) -> None:
        super().__init__(params, lr, weight_decay=weight_decay, sparse=sparse, momentum=momentum)

    def init_single(self, parameter: Array, options: Options) -> dict[str, Array]:
        return {"momentum_buffer": module(parameter).zeros_like(parameter)} if options["momentum"] else {}

    def apply_single(self, gradient: Array, parameter: Array, state: Mapping[str, Any], options: Options) -> None:
        if bool((parameter < 0).any()) or not bool(parameter.sum() > 0):
            raise ValueError(
                "ExponentiatedGradient: a parameter must be a distribution, with no element below zero and a positive "
                f"sum; one of shape {parameter.shape} is not: start from np.full(shape, 1 / size)"
            )
        change = -float(options["lr"]) * gradient
        if options["momentum"]:
            change += float(options["momentum"]) * state["momentum_buffer"]
            state["momentum_buffer"][...] = change
        parameter *= module(parameter).exp(change - change.max())
        parameter /= parameter.sum()

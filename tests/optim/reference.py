"""The optimizers once more, from the formulas of their papers: in float64, with nothing folded and nothing in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rule = Callable[..., Array]


def descend(rule: str, start: Array, gradients: Sequence[Array], **options: Any) -> Array:
    """``start`` after one step for each gradient."""
    parameter, formula = np.array(start, np.float64), globals()[rule]
    kept: dict[str, Any] = {}
    for step, gradient in enumerate(gradients, 1):
        parameter = formula(parameter, np.asarray(gradient, np.float64), kept, step, **options)
    return parameter


def sgd(
    p: Array, g: Array, kept: dict[str, Any], step: int, *, lr: float, momentum: float = 0, dampening: float = 0,
    nesterov: bool = False, weight_decay: float = 0,
) -> Array:  # fmt: skip
    g = g + weight_decay * p
    velocity = g if step == 1 else momentum * kept["velocity"] + (1 - dampening) * g
    kept["velocity"] = velocity
    return p - lr * (g + momentum * velocity if nesterov else velocity)


def adam(
    p: Array, g: Array, kept: dict[str, Any], step: int, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, decoupled: bool = False,
) -> Array:  # fmt: skip
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    m = kept["m"] = betas[0] * kept.get("m", 0) + (1 - betas[0]) * g
    v = kept["v"] = betas[1] * kept.get("v", 0) + (1 - betas[1]) * g**2
    if amsgrad:
        v = kept["max"] = np.maximum(kept.get("max", 0), v)
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


def adagrad(
    p: Array, g: Array, kept: dict[str, Any], step: int, *, lr: float, lr_decay: float = 0, weight_decay: float = 0,
    initial_accumulator_value: float = 0, eps: float = 1e-10,
) -> Array:  # fmt: skip
    g = g + weight_decay * p
    total = kept["sum"] = kept.get("sum", initial_accumulator_value) + g**2
    return p - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps)


def adadelta(
    p: Array,
    g: Array,
    kept: dict[str, Any],
    step: int,
    *,
    lr: float,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0,
) -> Array:
    g = g + weight_decay * p
    square = kept["square"] = rho * kept.get("square", 0) + (1 - rho) * g**2
    move = np.sqrt(kept.get("moves", 0) + eps) / np.sqrt(square + eps) * g
    kept["moves"] = rho * kept.get("moves", 0) + (1 - rho) * move**2
    return p - lr * move


def rmsprop(
    p: Array, g: Array, kept: dict[str, Any], step: int, *, lr: float, alpha: float = 0.99, eps: float = 1e-8,
    weight_decay: float = 0, momentum: float = 0, centered: bool = False,
) -> Array:  # fmt: skip
    g = g + weight_decay * p
    square = kept["square"] = alpha * kept.get("square", 0) + (1 - alpha) * g**2
    mean = kept["mean"] = alpha * kept.get("mean", 0) + (1 - alpha) * g
    move = g / (np.sqrt(square - mean**2 if centered else square) + eps)
    kept["velocity"] = momentum * kept.get("velocity", 0) + move
    return p - lr * kept["velocity"]

"""Activations, with PyTorch's names and arguments. ``dim`` counts the axes of one example.

``inplace`` is accepted where PyTorch has it, and does nothing: values never change, and the engine reuses memory. Other
arguments beside ``x`` are numbers, unless it is said: what may have a gradient is a ``TypeError``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from lazyflow.errors import ShapeError
from lazyflow.functions import elementwise as e
from lazyflow.functions import reduce as r
from lazyflow.functions.elementwise import logsigmoid, sigmoid, softsign, tanh
from lazyflow.functions.random import uniform
from lazyflow.functions.shape import split
from lazyflow.ops.base import number
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, as_floating, constant
from lazyflow.record.templates import by_kinds

__all__ = [
    "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax",
    "logsigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softmax", "softmin",
    "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
]  # fmt: skip


def relu(x: Any, inplace: bool = False) -> Expr:
    """``max(x, 0)``.

    >>> import lazyflow as lf
    >>> lf.nn.functional.relu(lf.constant([-1.0, 2.0])).numpy()
    array([0., 2.], dtype=float32)
    """
    return e.relu(x)


@partial(by_kinds, arrays=True)
def relu6(x: Any, inplace: bool = False) -> Expr:
    """``min(max(x, 0), 6)``."""
    return e.hardtanh(x, 0.0, 6.0)


@partial(by_kinds, arrays=True)
def leaky_relu(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Expr:
    """``x`` where positive, else ``negative_slope * x`` (Maas et al. 2013)."""
    return e.leaky_relu(x, negative_slope)


@partial(by_kinds, arrays=True)
def prelu(x: Any, weight: Any) -> Expr:
    """``x`` where positive, else ``weight * x`` (He et al. 2015): a weight (1,) for all, or (c,) for ``x`` (c, ...).

    Raises `ShapeError` where the sizes differ.

    >>> import lazyflow as lf
    >>> lf.nn.functional.prelu(lf.constant([-1.0, 2.0]), lf.constant([0.5])).numpy()
    array([-0.5,  2. ], dtype=float32)
    """
    x, weight = as_floating(x, weight), as_floating(weight)
    if weight.shape != (1,) and (weight.ndim != 1 or x.shape[:1] != weight.shape):
        raise ShapeError(
            f"prelu takes a weight (1,) or (c,) with x (c, ...); got weight {weight.shape} and x {x.shape}"
        )
    slope = weight.reshape(-1, *(1,) * (x.ndim - 1)) if x.ndim else weight.reshape(())
    return e.where(x > 0, x, slope * x)


@partial(by_kinds, arrays=True)
def rrelu(
    x: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
    stream: Stream | None = None,
) -> Expr:
    """A `leaky_relu` with a slope drawn from ``lower .. upper`` for each element while training, else their mean
    (Xu et al. 2015)."""
    if not lower <= upper:
        raise ValueError(f"rrelu: lower must be at most upper, got {lower} and {upper}")
    x = constant(x)
    if not training:
        return e.leaky_relu(x, (lower + upper) / 2)
    return e.where(x >= 0, x, x * uniform(x.shape, lower, upper, dtype=x.dtype, stream=stream))


@partial(by_kinds, arrays=True)
def elu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Expr:
    """``x`` where positive, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2016)."""
    return e.elu(x, alpha)


@partial(by_kinds, arrays=True)
def celu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Expr:
    """``x`` where positive, else ``alpha * (exp(x / alpha) - 1)`` (Barron 2017). Raises ``ValueError`` for alpha 0."""
    if not alpha:
        raise ValueError("celu: alpha must not be 0")
    return e.celu(x, alpha)


def selu(x: Any, inplace: bool = False) -> Expr:
    """The scaled `elu` that keeps mean and variance (Klambauer et al. 2017)."""
    return e.selu(x)


@partial(by_kinds, arrays=True)
def gelu(x: Any, approximate: str = "none") -> Expr:
    """``x`` times the normal distribution function of ``x`` (Hendrycks and Gimpel 2016); ``approximate="tanh"`` by
    tanh. Raises ``ValueError`` for another word."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return e.gelu(x, approximate == "tanh")


def silu(x: Any, inplace: bool = False) -> Expr:
    """``x * sigmoid(x)``, also called swish."""
    return e.silu(x)


@partial(by_kinds, arrays=True)
def mish(x: Any, inplace: bool = False) -> Expr:
    """``x * tanh(softplus(x))`` (Misra 2019)."""
    value = constant(x)
    return value * tanh(e.softplus(value))


@partial(by_kinds, arrays=True)
def hardsigmoid(x: Any, inplace: bool = False) -> Expr:
    """``relu6(x + 3) / 6``."""
    return relu6(constant(x) + 3.0) / 6.0


@partial(by_kinds, arrays=True)
def hardswish(x: Any, inplace: bool = False) -> Expr:
    """``x * relu6(x + 3) / 6`` (Howard et al. 2019)."""
    value = constant(x)
    return value * hardsigmoid(value)


@partial(by_kinds, arrays=True)
def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Expr:
    """``x`` cut off at ``min_val`` and ``max_val``. Raises ``ValueError`` if the first is greater."""
    if not min_val <= max_val:
        raise ValueError(f"hardtanh: min_val must be at most max_val, got {min_val} and {max_val}")
    return e.hardtanh(x, min_val, max_val)


def tanhshrink(x: Any) -> Expr:
    """``x - tanh(x)``, to the last digits near 0, too."""
    return e.tanhshrink(x)


@partial(by_kinds, arrays=True)
def softplus(x: Any, beta: float = 1.0, threshold: float = math.inf) -> Expr:
    """``log(1 + exp(beta * x)) / beta``, exact and without overflow for any ``x``; ``x`` itself where ``beta * x`` is
    above ``threshold``, which nothing needs here. Raises ``ValueError`` for beta 0."""
    beta, threshold = number("softplus", "beta", beta), number("softplus", "threshold", threshold)
    if not beta:
        raise ValueError("softplus: beta must not be 0")
    x = constant(x)
    inner = x if beta == 1 else x * beta
    smooth = e.softplus(inner) if beta == 1 else e.softplus(inner) / beta
    return smooth if threshold == math.inf else e.where(inner > threshold, x, smooth)


@partial(by_kinds, arrays=True)
def hardshrink(x: Any, lambd: float = 0.5) -> Expr:
    """``x`` where its size is above ``lambd``, else 0."""
    x = constant(x)
    return e.where(e.abs(x) <= number("hardshrink", "lambd", lambd), 0.0, x)


@partial(by_kinds, arrays=True)
def softshrink(x: Any, lambd: float = 0.5) -> Expr:
    """``x`` moved towards 0 by ``lambd``, which must not be negative (``ValueError``)."""
    lambd = number("softshrink", "lambd", lambd)
    if not lambd >= 0:
        raise ValueError(f"softshrink: lambd must be at least 0, got {lambd}")
    value = constant(x)
    return value - e.clip(value, -lambd, lambd)


@partial(by_kinds, arrays=True)
def threshold(x: Any, threshold: float, value: float, inplace: bool = False) -> Expr:
    """``x`` where it is above ``threshold``, else ``value``."""
    x = constant(x)
    return e.where(x <= number("threshold", "threshold", threshold), number("threshold", "value", value), x)


@partial(by_kinds, arrays=True)
def softmax(x: Any, dim: int = -1) -> Expr:
    """``exp(x) / sum(exp(x))`` along ``dim``."""
    return r.softmax(x, axis=dim)


@partial(by_kinds, arrays=True)
def softmin(x: Any, dim: int = -1) -> Expr:
    """The `softmax` of ``-x``."""
    return r.softmax(-constant(x), axis=dim)


@partial(by_kinds, arrays=True)
def log_softmax(x: Any, dim: int = -1) -> Expr:
    """``log(softmax(x))`` along ``dim``."""
    return r.log_softmax(x, axis=dim)


@partial(by_kinds, arrays=True)
def glu(x: Any, dim: int = -1) -> Expr:
    """Half of ``x`` along ``dim`` times the sigmoid of the other half (Dauphin et al. 2017).

    Raises `ShapeError` for an odd number of elements.

    >>> import lazyflow as lf
    >>> lf.nn.functional.glu(lf.constant([1.0, 2.0, 0.0, 0.0])).numpy()
    array([0.5, 1. ], dtype=float32)
    """
    x = constant(x)
    if not x.ndim or not -x.ndim <= dim < x.ndim or x.shape[dim] % 2:
        raise ShapeError(f"glu halves axis {dim}, which must exist and have an even size; got shape {x.shape}")
    value, gate = split(x, 2, axis=dim + x.ndim if dim < 0 else dim)
    return value * sigmoid(gate)

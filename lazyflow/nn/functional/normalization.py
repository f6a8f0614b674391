"""Normalisations. Statistics are those of one example, but for `batch_norm`, which is given them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.functions import elementwise as e
from lazyflow.functions import reduce as r
from lazyflow.ops.base import OPS, number
from lazyflow.record.expr import Expr, as_floating, in_dtype, record
from lazyflow.record.templates import by_kinds

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "normalize", "rms_norm"]


def _scaled(y: Expr, weight: Any, bias: Any) -> Expr:
    y = y if weight is None else y * in_dtype(weight, y.dtype)
    return y if bias is None else y + in_dtype(bias, y.dtype)


def _standardised(x: Expr, axes: int | tuple[int, ...], eps: float) -> Expr:
    return record(OPS["standardise"], (x,), axis=axes, eps=number("norm", "eps", eps))


def _last_axes(name: str, x: Expr, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    if x.shape[max(0, x.ndim - len(sizes)) :] != sizes:
        raise ShapeError(f"{name} takes a value whose last axes have sizes {sizes}, got shape {x.shape}")
    return tuple(range(-len(sizes), 0))


@partial(by_kinds, arrays=True)
def layer_norm(
    x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Expr:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axes, of sizes ``normalized_shape``.

    ``weight`` and ``bias`` have that shape, or are None. Raises `ShapeError` for an ``x`` that does not end so.

    >>> import lazyflow as lf
    >>> lf.nn.functional.layer_norm(lf.constant([1.0, 3.0]), 2, eps=0.0).numpy()
    array([-1.,  1.], dtype=float32)
    """
    x = as_floating(x, weight, bias)
    return _scaled(_standardised(x, _last_axes("LayerNorm", x, normalized_shape), eps), weight, bias)


@partial(by_kinds, arrays=True)
def rms_norm(x: Any, normalized_shape: int | Sequence[int], weight: Any = None, eps: float | None = None) -> Expr:
    """``x / sqrt(mean(x * x) + eps) * weight`` over the last axes (Zhang and Sennrich 2019).

    ``eps``: by default the dtype's precision, ``np.finfo(x.dtype).eps``.

    >>> import lazyflow as lf
    >>> lf.nn.functional.rms_norm(lf.constant([3.0, 3.0]), 2, eps=0.0).numpy()
    array([1., 1.], dtype=float32)
    """
    x = as_floating(x, weight)
    axes = _last_axes("RMSNorm", x, normalized_shape)
    eps = float(np.finfo(x.dtype).eps) if eps is None else number("rms_norm", "eps", eps)
    wide = x.astype(np.float32) if x.dtype == np.float16 else x  # squares overflow from 256 on
    y = wide / e.sqrt(r.mean(wide * wide, axis=axes, keepdims=True) + eps)
    return _scaled(y if wide is x else y.astype(x.dtype), weight, None)


def _by_channel(value: Any, x: Expr) -> Any:
    """A weight (c,), so that it broadcasts against ``x`` (c, ...)."""
    return None if value is None else as_floating(value, x).reshape(-1, *(1,) * (x.ndim - 1))


@partial(by_kinds, arrays=True)
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Expr:
    """``x`` (c, ...) standardised in ``num_groups`` groups of channels (Wu and He 2018); weight and bias are (c,).

    Raises `ShapeError` unless the groups divide the channels.

    >>> import lazyflow as lf
    >>> lf.nn.functional.group_norm(lf.constant([1.0, 3.0, 5.0, 7.0]), 2, eps=0.0).numpy()
    array([-1.,  1., -1.,  1.], dtype=float32)
    """
    x = as_floating(x, weight, bias)
    if not x.ndim or num_groups < 1 or x.shape[0] % num_groups:
        raise ShapeError(f"group_norm: {num_groups} groups must divide the channels of x (c, ...), got shape {x.shape}")
    y = _standardised(x.reshape(num_groups, -1), -1, eps).reshape(x.shape)
    return _scaled(y, _by_channel(weight, x), _by_channel(bias, x))


@partial(by_kinds, arrays=True)
def instance_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Expr:
    """Every channel of ``x`` (c, ...) standardised by itself (Ulyanov et al. 2016); weight and bias are (c,).

    Raises `ShapeError` for an ``x`` that has only channels, or one element in each.
    """
    x = as_floating(x, weight, bias)
    if x.ndim < 2 or x.size == x.shape[0]:
        raise ShapeError(f"instance_norm takes x (channels, ...) with several elements a channel, got shape {x.shape}")
    y = _standardised(x, tuple(range(1, x.ndim)), eps)
    return _scaled(y, _by_channel(weight, x), _by_channel(bias, x))


@partial(by_kinds, arrays=True)
def batch_norm(x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Expr:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` for one example ``x`` (c, ...), all others (c,).

    Where the statistics come from is the caller's affair: a running average, or the minibatch, see `nn.BatchNorm1d`.

    >>> import lazyflow as lf
    >>> F = lf.nn.functional
    >>> F.batch_norm(lf.constant([1.0, 3.0]), [1.0, 1.0], [1.0, 4.0], eps=0.0).numpy()
    array([0., 1.], dtype=float32)
    """
    x = as_floating(x, weight, bias)
    scale = 1.0 / e.sqrt(as_floating(var, x) + number("batch_norm", "eps", eps))
    y = (x - _by_channel(mean, x)) * _by_channel(scale, x)
    return _scaled(y, _by_channel(weight, x), _by_channel(bias, x))


@partial(by_kinds, arrays=True)
def normalize(x: Any, p: float = 2.0, dim: int = -1, eps: float = 1e-12) -> Expr:
    """``x`` divided by its norm of order ``p`` (1, 2 or infinity) along ``dim``, or by ``eps`` if that is larger.

    >>> import lazyflow as lf
    >>> lf.nn.functional.normalize(lf.constant([3.0, 4.0])).numpy()
    array([0.6, 0.8], dtype=float32)
    """
    value = as_floating(x)
    return value / e.maximum(r.norm(value, ord=p, axis=dim, keepdims=True), number("normalize", "eps", eps))

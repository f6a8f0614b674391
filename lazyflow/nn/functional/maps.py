"""Affine and bilinear maps, look-ups, dropout, and distances."""

from __future__ import annotations

import string
from functools import partial
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.functions import elementwise as e
from lazyflow.functions import linalg
from lazyflow.functions import reduce as r
from lazyflow.functions.index import embedding as looked_up
from lazyflow.functions.index import one_hot
from lazyflow.functions.random import dropout as dropped
from lazyflow.functions.random import masked, normal
from lazyflow.ops.base import negative_axes, negative_axis, number
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, as_floating, constant, in_one_dtype
from lazyflow.record.templates import by_kinds

__all__ = [
    "bilinear", "cosine_similarity", "dropout", "dropout1d", "dropout2d", "embedding",
    "gaussian_noise", "linear", "one_hot", "pairwise_distance", "weight_norm",
]  # fmt: skip


@partial(by_kinds, arrays=True)
def affine(weight: Any, bias: Any, x: Any) -> Expr:
    """``weight @ x + bias`` over the last axis of ``x``, with or without a bias: one node either way."""
    if bias is not None:
        return linalg.affine(weight, bias, x)
    x = as_floating(x, weight)
    if len(x.type.shape) < 2:
        return linalg.matmul(weight, x)
    axes = string.ascii_lowercase[: x.ndim - 1]
    return linalg.einsum(f"YZ,{axes}Z->{axes}Y", weight, x)


def linear(x: Any, weight: Any, bias: Any = None) -> Expr:
    """``weight @ x + bias`` for ``x`` (..., k), weight (m, k) and bias (m,): (..., m). Raises `ShapeError`.

    >>> import lazyflow as lf
    >>> lf.nn.functional.linear(lf.constant([1.0, 2.0]), lf.constant([[1.0, 1.0]])).numpy()
    array([3.], dtype=float32)
    """
    return affine(weight, bias, x)


@partial(by_kinds, arrays=True)
def bilinear(x1: Any, x2: Any, weight: Any, bias: Any = None) -> Expr:
    """``x1`` (k,) and ``x2`` (l,) through a weight (m, k, l) and a bias (m,): (m,)."""
    return linalg.bilinear(x1, weight, x2, bias)


def embedding(index: Any, weight: Any) -> Expr:
    """Row, or rows, ``index`` of ``weight`` (n, ...). See `lazyflow.embedding`."""
    return looked_up(weight, index)


@partial(by_kinds, arrays=True)
def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False, stream: Stream | None = None) -> Expr:
    """Zeros at random with probability ``p`` while ``training``. See `lazyflow.dropout`."""
    return dropped(x, p, training=training, stream=stream)


def _channels_dropped(name: str, axes: int, x: Any, p: float, training: bool, stream: Stream | None) -> Expr:
    value = constant(x)
    if value.ndim != axes + 1:
        raise ShapeError(f"{name} takes one example of {axes + 1} axes, the channels in front; got shape {value.shape}")
    kept = dropped(np.ones((value.shape[0], *(1,) * axes), value.dtype), p, training=training, stream=stream)
    return masked(value, kept) if training and p else value


@partial(by_kinds, arrays=True)
def dropout1d(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False, stream: Stream | None = None
) -> Expr:
    """`dropout` of whole channels of ``x`` (c, t) (Tompson et al. 2015)."""
    return _channels_dropped("dropout1d", 1, x, p, training, stream)


@partial(by_kinds, arrays=True)
def dropout2d(
    x: Any, p: float = 0.5, training: bool = True, inplace: bool = False, stream: Stream | None = None
) -> Expr:
    """`dropout` of whole channels of ``x`` (c, h, w) (Tompson et al. 2015)."""
    return _channels_dropped("dropout2d", 2, x, p, training, stream)


@partial(by_kinds, arrays=True)
def gaussian_noise(x: Any, std: float, training: bool = True, stream: Stream | None = None) -> Expr:
    """``x`` plus normal noise of deviation ``std`` while ``training``.

    >>> import lazyflow as lf
    >>> lf.nn.functional.gaussian_noise(lf.constant([1.0]), 0.5, training=False).numpy()
    array([1.], dtype=float32)
    """
    value = constant(x)
    return value + normal(value.shape, 0.0, std, dtype=value.dtype, stream=stream) if training and std else value


@partial(by_kinds, arrays=True)
def weight_norm(v: Any, g: Any, dim: int | None = 0) -> Expr:
    """``g * v / norm(v)``: a weight by its direction and its length (Salimans and Kingma 2016).

    ``dim``: the axis along which each slice has a norm of its own, and ``g`` then has ``v``'s number of axes with size
    1 at all others; None for one norm of all. Examples that share ``v`` and ``g`` share the result: it is computed
    once in a minibatch. Raises `ShapeError`.

    >>> import lazyflow as lf
    >>> lf.nn.functional.weight_norm(lf.constant([[3.0, 4.0], [0.0, 2.0]]), lf.constant([[1.0], [5.0]])).numpy()
    array([[0.6, 0.8],
           [0. , 5. ]], dtype=float32)
    """
    value, length = constant(v), constant(g)
    axes = weight_norm_axes(value, dim)
    kept = tuple(1 if i - value.ndim in axes else n for i, n in enumerate(value.shape))
    if length.shape not in ((), kept):
        raise ShapeError(f"weight_norm: g must have shape {kept} for v {value.shape} and dim={dim}, got {length.shape}")
    return value * (length / r.norm(value, axis=axes, keepdims=True))


def weight_norm_axes(v: Expr, dim: int | None) -> tuple[int, ...]:
    """The axes that `weight_norm` takes the norm over: all, or all but ``dim``."""
    every = negative_axes("weight_norm", None, v.ndim)
    return every if dim is None else tuple(a for a in every if a != negative_axis("weight_norm", dim, v.ndim))


@partial(by_kinds, arrays=True)
def cosine_similarity(x1: Any, x2: Any, dim: int = -1, eps: float = 1e-8) -> Expr:
    """``x1 . x2 / (|x1| |x2|)`` along ``dim``, each norm at least ``eps``.

    >>> import lazyflow as lf
    >>> lf.nn.functional.cosine_similarity(lf.constant([1.0, 0.0]), lf.constant([2.0, 0.0])).item()
    1.0
    """
    # Divided first: the product of vectors that float16 holds, and that of their norms, may be beyond it.
    eps = number("cosine_similarity", "eps", eps)
    a, b = [v / e.maximum(r.norm(v, axis=dim, keepdims=True), eps) for v in in_one_dtype(x1, x2)]
    return r.sum(a * b, axis=dim)


@partial(by_kinds, arrays=True)
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Expr:
    """The norm of order ``p`` (1, 2 or infinity) of ``x1 - x2 + eps`` along the last axis.

    >>> import lazyflow as lf
    >>> lf.nn.functional.pairwise_distance(lf.constant([3.0, 4.0]), [0.0, 0.0], eps=0.0).item()
    5.0
    """
    a, b = in_one_dtype(x1, x2)
    return r.norm(a - b + number("pairwise_distance", "eps", eps), ord=p, axis=-1, keepdims=keepdim)

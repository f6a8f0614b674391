"""Attention of one example: sequences of any length, no padding, no batch axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.functions.elementwise import where
from lazyflow.functions.linalg import matmul
from lazyflow.functions.random import dropout
from lazyflow.functions.reduce import max, softmax
from lazyflow.functions.shape import swapaxes
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, as_floating, constant, in_dtype, in_one_dtype

__all__ = ["attention_weights", "scaled_dot_product_attention"]


def attention_weights(query: Any, key: Any, mask: Any = None, is_causal: bool = False) -> Expr:
    """``softmax(query @ key.T / sqrt(d))`` for ``query`` (..., t, d) and ``key`` (..., s, d): (..., t, s).

    ``mask`` broadcasts to that shape: floating numbers are added to the scores, of truth values the true places take
    part; where it hides every key, all weights are zero. ``is_causal``: place i sees the places up to i. Raises
    `ShapeError` where sizes differ.

    >>> import lazyflow as lf
    >>> x = lf.constant([[1.0, 0.0], [1.0, 0.0]])
    >>> attention_weights(x, x, is_causal=True).numpy()
    array([[1. , 0. ],
           [0.5, 0.5]], dtype=float32)
    """
    query, key = in_one_dtype(query, key)
    if query.ndim < 2 or key.ndim < 2 or query.shape[-1] != key.shape[-1]:
        raise ShapeError(f"attention takes query (..., t, d) and key (..., s, d), got {query.shape} and {key.shape}")
    scores = matmul(query * (1.0 / math.sqrt(query.shape[-1])), swapaxes(key, -1, -2))
    if is_causal:
        scores = where(np.tri(*scores.shape[-2:], dtype=bool), scores, -math.inf)
    if mask is not None:
        mask = constant(mask)
        scores = where(mask, scores, -math.inf) if mask.dtype.kind == "b" else scores + in_dtype(mask, scores.dtype)
        sees = max(scores, axis=-1, keepdims=True) != -math.inf
        return where(sees, softmax(scores), 0.0)
    return softmax(scores)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    stream: Stream | None = None,
) -> Expr:
    """The `attention_weights` of query and key, times ``value`` (..., s, e): (..., t, e) (Vaswani et al. 2017).

    ``dropout_p``: the probability that a weight is dropped.

    >>> import lazyflow as lf
    >>> x = lf.constant([[1.0], [3.0]])
    >>> lf.nn.functional.scaled_dot_product_attention(x * 0, x, x).numpy()
    array([[2.],
           [2.]], dtype=float32)
    """
    weights = attention_weights(query, key, attn_mask, is_causal)
    return matmul(dropout(weights, dropout_p, training=dropout_p > 0, stream=stream), as_floating(value, weights))

"""Attention of one example: sequences of any length, no padding, no batch axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from lazyflow.functions.elementwise import where
from lazyflow.functions.linalg import matmul
from lazyflow.functions.random import dropout, dropout_factors, probability
from lazyflow.functions.reduce import max, softmax
from lazyflow.functions.shape import broadcast_to, swapaxes, tile, transpose
from lazyflow.ops import OPS
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, as_floating, constant, in_dtype, in_one_dtype, record

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


def attended(
    query: Any,
    key: Any,
    value: Any,
    heads: int,
    is_causal: bool,
    mask: Expr | None = None,
    hides: bool = False,
    dropout_p: float = 0.0,
    stream: Stream | None = None,
) -> Expr | None:
    """The `attention_weights` of ``query`` (t, d) and ``key`` (s, d), by heads, times ``value`` (s, e), as one
    operation; None of other shapes, or where there is nothing.

    ``hides``: of truth values of the mask the true places take no part.

    >>> import lazyflow as lf
    >>> x = lf.constant([[1.0, 2.0], [1.0, 4.0]])
    >>> attended(x * 0, x, x, 2, is_causal=True).numpy()
    array([[1., 2.],
           [1., 3.]], dtype=float32)
    """
    query, key = in_one_dtype(query, key)
    factors = factors_of_weights(query, key, heads, dropout_p, stream) if _fit(query, key) else None
    return attended_by(query, key, value, heads, is_causal, mask, hides, factors)


def _fit(query: Expr, key: Expr) -> bool:
    """Whether one operation takes queries and keys like these."""
    shapes = query.shape, key.shape
    return all(len(shape) == 2 and all(shape) for shape in shapes) and query.shape[1] == key.shape[1]


def factors_of_weights(query: Expr, key: Expr, heads: int, dropout_p: float, stream: Stream | None) -> Expr | None:
    """What weights of a query and a key are multiplied by, by heads, end to end: zero, or more than one; None if none
    are dropped."""
    size = heads * len(query) * len(key)
    return dropout_factors((size,), dropout_p, query.dtype, stream) if dropout_p else None


def attended_by(
    query: Expr,
    key: Expr,
    value: Any,
    heads: int,
    is_causal: bool,
    mask: Expr | None,
    hides: bool,
    factors: Expr | None,
) -> Expr | None:
    """`attended`, of queries and keys of one dtype, with these `factors_of_weights`."""
    value = as_floating(value, query)
    if not _fit(query, key) or len(value.shape) != 2 or not value.shape[1] or key.shape[0] != value.shape[0]:
        return None
    beside = _beside(query, key, heads, mask, hides, factors)
    if beside is None:
        return None
    kind, operands, static = beside
    return record(OPS[f"{kind}attention"], [query, key, value, *operands], **static, causal=bool(is_causal))


def weights_by(
    query: Expr,
    key: Expr,
    heads: int,
    is_causal: bool,
    average: bool,
    mask: Expr | None,
    hides: bool,
    factors: Expr | None,
) -> Expr:
    """The weights of what `attended_by` gives, by heads (heads, t, s), or as the mean of these (t, s)."""
    beside = _beside(query, key, heads, mask, hides, factors)
    assert beside is not None, "attended_by has taken them"
    kind, operands, static = beside
    options = {**static, "causal": bool(is_causal), "average": average}
    flat = record(OPS[f"{kind}attention_weights"], [query, key, *operands], **options)
    return flat.reshape((len(query), len(key)) if average else (heads, len(query), len(key)))


def _attended_by_heads(
    query: Any, key: Any, value: Any, is_causal: bool, mask: Expr, dropout_p: float, stream: Stream | None
) -> Expr | None:
    """`attended` of a mask (heads, t, s), and of queries, keys and values that are the same for all heads, or
    (heads, ...): (heads, t, e). None of others."""
    query, key = in_one_dtype(query, key)
    given = query, key, as_floating(value, query)
    heads = {x.shape[0] for x in (*given, mask) if x.ndim == 3} - {1}
    if any(x.ndim not in (2, 3) for x in (*given, mask)) or len(heads) > 1:
        return None
    (count,) = heads or {1}
    q, k, v = (_side_by_side(x, count) for x in given)
    found = attended(q, k, v, count, is_causal, mask, dropout_p=dropout_p, stream=stream)
    return None if found is None else transpose(found.reshape(len(q), count, v.shape[1] // count), (1, 0, 2))


def _side_by_side(x: Expr, heads: int) -> Expr:
    """The rows of all heads, (rows, heads * width), of values by heads or the same for all."""
    if x.ndim == 2 or x.shape[0] == 1:
        return tile(x.reshape(x.shape[-2:]), (1, heads))
    return transpose(x, (1, 0, 2)).reshape(x.shape[1], heads * x.shape[2])


def _beside(
    query: Expr, key: Expr, heads: int, mask: Expr | None, hides: bool, factors: Expr | None
) -> tuple[str, list[Expr], dict[str, Any]] | None:
    """What stands beside queries and keys, how the operation is called that takes it, and what it is told."""
    operands, static = list[Expr](), dict[str, Any](heads=heads)
    if mask is not None:
        said = "added" if mask.dtype.kind != "b" else "hidden" if hides else "seen"
        flat = _flat_mask(mask if said != "added" else in_dtype(mask, query.dtype), heads, len(query), len(key))
        if flat is None:
            return None
        operands.append(flat[0])
        static.update(mask=said, of=flat[1])
    if factors is not None:
        operands.append(factors)
    return "masked_" * (mask is not None) + "dropped_" * (factors is not None), operands, static


def _flat_mask(mask: Expr, heads: int, t: int, s: int) -> tuple[Expr, str] | None:
    """The elements of a mask, and what they are of, if one operation takes such; those of numbers with a gradient are
    by heads, as their cotangents come."""
    shape, whole = mask.shape, (heads, t, s)
    if len(shape) > 3 or any(n not in (1, own) for n, own in zip(shape[::-1], whole[::-1], strict=False)):
        return None
    known = {(s,): "keys", (t, s): "all", whole: "heads"}
    of = known.get(shape) or ("keys" if mask.size == s and shape[-1:] == (s,) else None)
    if of is None or (mask.type.requires_grad and of != "heads"):
        mask, of = broadcast_to(mask, whole), "heads"
    return mask.reshape(-1), of


def mask_of(attn_mask: Any) -> Expr | None:
    """A mask as an expression. Raises `DTypeError` for integers, which could mean either of what it may be."""
    mask = None if attn_mask is None else constant(attn_mask)
    if mask is not None and mask.dtype.kind not in "bf":
        raise DTypeError(
            f"attn_mask is of truth values, or of floating numbers that are added to the scores; got {mask.dtype}: "
            "take attn_mask.astype(bool)"
        )
    return mask


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
    mask = mask_of(attn_mask)
    dropout_p = probability(dropout_p)
    if mask is None or mask.ndim < 3:
        found = attended(query, key, value, 1, is_causal, mask, dropout_p=dropout_p, stream=stream)
    else:
        found = _attended_by_heads(query, key, value, is_causal, mask, dropout_p, stream)
    if found is not None:
        return found
    weights = attention_weights(query, key, mask, is_causal)
    return matmul(dropout(weights, dropout_p, training=dropout_p > 0, stream=stream), as_floating(value, weights))

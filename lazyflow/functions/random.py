"""Random numbers, and dropout. Every node draws anew from a `Stream`; see `lazyflow.random`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow import settings
from lazyflow.expr import Expr, constant, record
from lazyflow.ops import OPS
from lazyflow.ops.base import integers, number
from lazyflow.random import Stream, default_stream
from lazyflow.tape import current_tape

__all__ = ["bernoulli", "dropout", "normal", "uniform"]


def _draw(name: str, shape: Any, dtype: Any, stream: Stream | None, *arguments: float) -> Expr:
    sizes = integers(name, "the shape", shape)
    if not isinstance(stream, Stream | None):
        raise TypeError(f"{name}: stream must be a lazyflow.random.Stream, got {stream!r}")
    trace = current_tape().trace
    source = stream or default_stream()
    seed, count = source.draw() if trace is None else trace.draw(source)
    kind = np.dtype(settings.current().dtype if dtype is None else dtype)
    return record(OPS[name], (seed, count, *arguments), shape=sizes, dtype=kind)


def uniform(
    shape: int | Sequence[int] = (),
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: Any = None,
    stream: Stream | None = None,
) -> Expr:
    """Numbers evenly distributed from ``low`` to ``high`` (not included).

    >>> import lazyflow as lf
    >>> 0 <= lf.uniform().item() < 1
    True
    """
    return _draw("uniform", shape, dtype, stream, number("uniform", "low", low), number("uniform", "high", high))


def normal(
    shape: int | Sequence[int] = (),
    mean: float = 0.0,
    std: float = 1.0,
    *,
    dtype: Any = None,
    stream: Stream | None = None,
) -> Expr:
    """Normally distributed numbers.

    >>> import lazyflow as lf
    >>> lf.normal((3, 2)).shape
    (3, 2)
    """
    return _draw("normal", shape, dtype, stream, number("normal", "mean", mean), number("normal", "std", std))


def bernoulli(p: float, shape: int | Sequence[int] = (), *, dtype: Any = None, stream: Stream | None = None) -> Expr:
    """Ones with probability ``p``, else zeros.

    >>> import lazyflow as lf
    >>> lf.bernoulli(1.0, (2,)).numpy()
    array([1., 1.], dtype=float32)
    """
    p = number("bernoulli", "p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"bernoulli: p must be from 0 to 1, got {p}")
    return _draw("bernoulli", shape, dtype, stream, p)


def dropout(x: Any, p: float, *, training: bool = True, stream: Stream | None = None) -> Expr:
    """``x`` with each element zero with probability ``p`` and else divided by ``1 - p`` (Srivastava et al. 2014).

    ``training=False`` returns ``x`` itself. Raises ``ValueError`` for ``p`` outside [0, 1).

    >>> import lazyflow as lf
    >>> lf.dropout(lf.constant([1.0, 1.0]), 0.0).numpy()
    array([1., 1.], dtype=float32)
    """
    p = number("dropout", "p", p)
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be at least 0 and below 1, got {p}")
    value = constant(x)
    if not training or p == 0:
        return value
    return value * _draw("dropout_mask", value.shape, value.dtype, stream, p)

"""Random numbers, and dropout. Every node draws anew from a `Stream`; see `lazyflow.random`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lazyflow import settings
from lazyflow.functions.index import take_along_axis, topk
from lazyflow.functions.shape import expand_dims, squeeze
from lazyflow.ops import OPS
from lazyflow.ops.base import integer, integers, negative_axes, number, require_floating
from lazyflow.random import Stream, default_stream
from lazyflow.record.expr import Expr, OperandLike, constant, plain_dtype, record
from lazyflow.record.tape import current_tape
from lazyflow.record.templates import by_kinds
from lazyflow.record.trace import TracedNumber

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["bernoulli", "categorical", "dropout", "gumbel", "normal", "sample", "uniform"]


def _draw(
    name: str, shape: int | Sequence[int], dtype: DTypeLike | None, stream: Stream | None, *arguments: float
) -> Expr:
    sizes = integers(name, "the shape", shape)
    if stream is not None and not isinstance(stream, Stream):
        raise TypeError(f"{name}: stream must be a lazyflow.random.Stream, got {stream!r}")
    tape, source = current_tape(), stream or default_stream()
    if tape.trace is not None:
        drawn: tuple[TracedNumber, TracedNumber] | tuple[int, int] = tape.trace.draw(source)
    else:
        source = source.here()
        drawn = source.following()
        tape.streams[drawn[0]] = source
    kind = plain_dtype(settings.current().dtype if dtype is None else dtype)
    return record(OPS[name], (*drawn, *arguments), shape=sizes, dtype=kind)


@by_kinds
def uniform(
    shape: int | Sequence[int] = (),
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: DTypeLike | None = None,
    stream: Stream | None = None,
) -> Expr:
    """Numbers evenly distributed from ``low`` to ``high`` (not included).

    >>> import lazyflow as lf
    >>> 0 <= lf.uniform().item() < 1
    True
    """
    if number("uniform", "low", low) >= number("uniform", "high", high):
        raise ValueError(f"uniform(shape, low, high): low must be below high, got {low} and {high} for shape {shape}")
    return _draw("uniform", shape, dtype, stream, number("uniform", "low", low), number("uniform", "high", high))


@by_kinds
def normal(
    shape: int | Sequence[int] = (),
    mean: float = 0.0,
    std: float = 1.0,
    *,
    dtype: DTypeLike | None = None,
    stream: Stream | None = None,
) -> Expr:
    """Normally distributed numbers.

    >>> import lazyflow as lf
    >>> lf.normal((3, 2)).shape
    (3, 2)
    """
    return _draw("normal", shape, dtype, stream, number("normal", "mean", mean), number("normal", "std", std))


@by_kinds
def gumbel(
    shape: int | Sequence[int] = (),
    loc: float = 0.0,
    scale: float = 1.0,
    *,
    dtype: DTypeLike | None = None,
    stream: Stream | None = None,
) -> Expr:
    """Gumbel-distributed numbers, ``loc - scale * log(-log(u))`` with ``u`` uniform between 0 and 1.

    ``lf.softmax((logits + lf.gumbel(logits.shape)) / temperature)`` is a relaxed sample (Jang et al. 2017).

    >>> import lazyflow as lf
    >>> lf.gumbel((3, 2)).shape
    (3, 2)
    """
    return _draw("gumbel", shape, dtype, stream, number("gumbel", "loc", loc), number("gumbel", "scale", scale))


@by_kinds
def categorical(logits: OperandLike, axis: int = -1, *, stream: Stream | None = None) -> Expr:
    """An index drawn with the probabilities ``softmax(logits)`` along ``axis``, an int64 expression.

    It is the largest of the logits plus Gumbel noise (Gumbel 1954, Yellott 1977). Its log-probability is
    ``lf.pick(lf.log_softmax(logits), index)``. Raises `DTypeError` for logits that are not floating.

    >>> import lazyflow as lf
    >>> lf.categorical(lf.constant([-100.0, 0.0, -100.0])).item()
    1
    """
    value = constant(logits)
    require_floating("categorical", value.type)
    noise = _draw("gumbel", value.shape, value.dtype, stream, 0.0, 1.0)
    return record(OPS["argmax"], (value + noise,), axis=integer("categorical", "axis", axis), keepdims=False)


def sample(
    logits: OperandLike,
    axis: int = -1,
    *,
    temperature: float = 1.0,
    top: int | None = None,
    stream: Stream | None = None,
) -> Expr:
    """An index drawn with the probabilities ``softmax(logits / temperature)`` along ``axis``, an int64 expression.

    ``top``: among that many, the largest of the logits, only (Fan et al. 2018). A decoder's next word is
    ``lf.sample(scores, temperature=0.8, top=40).item()``; examples of a `lazyflow.map` draw in one launch. Raises
    `DTypeError` for logits that are not floating, `ShapeError` for ``top`` below 1 or beyond the size of the axis, and
    ``ValueError`` for a temperature that is not positive.

    >>> import lazyflow as lf
    >>> lf.sample(lf.constant([0.0, 9.0, 1.0]), temperature=0.5, top=1).item()
    1
    """
    temperature = number("sample", "temperature", temperature)
    if not temperature > 0:
        raise ValueError(
            f"sample: the temperature must be positive, got {temperature}; lf.argmax(logits) is what it tends to"
        )
    value = constant(logits)
    require_floating("sample", value.type)
    if top is None:
        return categorical(value if temperature == 1 else value / temperature, axis, stream=stream)
    largest, places = topk(value, top, axis)
    chosen = categorical(largest if temperature == 1 else largest / temperature, axis, stream=stream)
    return squeeze(take_along_axis(places, expand_dims(chosen, axis), axis), axis)


@by_kinds
def bernoulli(
    p: float, shape: int | Sequence[int] = (), *, dtype: DTypeLike | None = None, stream: Stream | None = None
) -> Expr:
    """Ones with probability ``p``, else zeros.

    >>> import lazyflow as lf
    >>> lf.bernoulli(1.0, (2,)).numpy()
    array([1., 1.], dtype=float32)
    """
    p = number("bernoulli", "p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"bernoulli: p must be from 0 to 1, got {p}")
    return _draw("bernoulli", shape, dtype, stream, p)


@by_kinds
def dropout(
    x: OperandLike, p: float, *, axis: int | Sequence[int] = (), training: bool = True, stream: Stream | None = None
) -> Expr:
    """``x`` with each element zero with probability ``p`` and else divided by ``1 - p`` (Srivastava et al. 2014).

    Elements that differ only along ``axis``, an axis or several, are dropped together: all of a vector with ``axis=0``.
    ``training=False`` returns ``x`` itself. Raises ``ValueError`` for ``p`` outside [0, 1), `ShapeError` for an axis
    that is not there.

    >>> import lazyflow as lf
    >>> lf.dropout(lf.constant([1.0, 1.0]), 0.0).numpy()
    array([1., 1.], dtype=float32)
    """
    p, value = probability(p), constant(x)
    together = () if type(axis) is tuple and not axis else negative_axes("dropout", axis, value.ndim)
    if not training or p == 0:
        return value
    shape = value.shape
    if together:
        shape = tuple(1 if i - value.ndim in together else n for i, n in enumerate(value.shape))
    return masked(value, dropout_factors(shape, p, value.dtype, stream))


def probability(p: float) -> float:
    """What `dropout` takes for ``p``, as a number.

    >>> probability(0)
    0.0
    """
    p = number("dropout", "p", p)
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be at least 0 and below 1, got {p}")
    return p


def dropout_factors(shape: int | Sequence[int], p: float, dtype: DTypeLike, stream: Stream | None) -> Expr:
    """What `dropout` multiplies by: zero with probability ``p``, and else ``1 / (1 - p)``.

    >>> dropout_factors((2,), 0.0, "float32", None).numpy()
    array([1., 1.], dtype=float32)
    """
    return _draw("dropout_mask", shape, dtype, stream, p)


def masked(x: Expr, mask: Expr) -> Expr:
    """``x * mask``, and zero where the mask is, whatever ``x`` is there, in value and gradient.

    >>> import lazyflow as lf, numpy as np
    >>> masked(lf.constant([1.0, np.inf]), lf.constant([2.0, 0.0])).numpy()
    array([2., 0.], dtype=float32)
    """
    return record(OPS["multiply_no_nan"], (mask, x))

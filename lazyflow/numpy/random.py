"""``numpy.random`` by named streams: arrays that depend on a stream and on how often it was drawn from, nothing else.

These are for data and weights, outside of a model. Random numbers *inside* one, drawn anew at every run, are
`lazyflow.normal`, `lazyflow.uniform`, `lazyflow.bernoulli` and `lazyflow.dropout`.

>>> import lazyflow.numpy as np
>>> stream = np.random.Stream(7)
>>> np.random.normal(size=3, stream=stream).shape
(3,)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.random import Stream, default_stream, seed

__all__ = [
    "Stream",
    "choice",
    "normal",
    "permutation",
    "rand",
    "randint",
    "randn",
    "random",
    "seed",
    "standard_normal",
    "uniform",
]

Size = Any


def _generator(stream: Stream | None) -> np.random.Generator:
    return (stream or default_stream()).generator()


def normal(loc: Any = 0.0, scale: Any = 1.0, size: Size = None, *, stream: Stream | None = None) -> Any:
    """Normally distributed numbers. ``loc`` and ``scale`` may be expressions: then gradients flow to them.

    >>> import lazyflow.numpy as np
    >>> np.random.seed(0)
    >>> np.random.normal(5.0, 0.0, size=2).tolist()
    [5.0, 5.0]
    """
    return loc + scale * standard_normal(_size(size, loc, scale), stream=stream)


def uniform(low: Any = 0.0, high: Any = 1.0, size: Size = None, *, stream: Stream | None = None) -> Any:
    """Numbers evenly distributed from ``low`` to ``high``, which may be expressions."""
    return low + (high - low) * random(_size(size, low, high), stream=stream)


def _size(size: Size, *operands: Any) -> Size:
    return np.broadcast_shapes(*(getattr(o, "shape", ()) for o in operands)) if size is None else size


def standard_normal(size: Size = None, *, stream: Stream | None = None) -> Any:
    """Numbers of mean 0 and standard deviation 1."""
    return _generator(stream).standard_normal(size)


def random(size: Size = None, *, stream: Stream | None = None) -> Any:
    """Numbers evenly distributed from 0 to 1."""
    return _generator(stream).random(size)


def _by_sizes(name: str, draw: Callable[..., Any], text: str) -> Callable[..., Any]:
    def function(*sizes: int, stream: Stream | None = None) -> Any:
        return draw(sizes or None, stream=stream)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


randn = _by_sizes("randn", standard_normal, "Standard normal numbers; every argument is the size of an axis.")
rand = _by_sizes("rand", random, "Numbers evenly distributed from 0 to 1; every argument is the size of an axis.")


def randint(low: int, high: int | None = None, size: Size = None, *, stream: Stream | None = None) -> Any:
    """Integers from ``low`` (or 0) up to and without ``high`` (or ``low``)."""
    return _generator(stream).integers(low, high, size)


def permutation(x: Any, *, stream: Stream | None = None) -> Any:
    """The numbers below ``x``, or the rows of an array, in random order."""
    return _generator(stream).permutation(x)


def choice(a: Any, size: Size = None, replace: bool = True, p: Any = None, *, stream: Stream | None = None) -> Any:
    """Elements of ``a`` (or numbers below it), drawn with or without replacement."""
    return _generator(stream).choice(a, size, replace, p)

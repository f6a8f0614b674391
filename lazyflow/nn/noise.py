"""Noise while training: on activations, on whole sequences, on weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lazyflow import random as streams
from lazyflow.functions.random import masked
from lazyflow.nn.functional import maps as f
from lazyflow.nn.module import Module, checked_probability
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, Parameter, constant

__all__ = ["GaussianNoise", "VariationalDropout", "weight_noise"]


def _checked_std(owner: str, std: Any) -> float:
    if isinstance(std, bool) or not isinstance(std, int | float | np.number):
        raise TypeError(f"{owner}: std must be a number, got {std!r}")
    if not 0 <= std < math.inf:
        raise ValueError(f"{owner}: std must be at least 0 and finite, got {std}")
    return float(std)


class GaussianNoise(Module):
    """While training, normal noise of deviation ``std`` is added to each element; after `eval`, the identity.

    ``stream`` as in `Dropout`. Raises ``ValueError`` for a negative ``std``.

    >>> import lazyflow as lf
    >>> layer = lf.nn.GaussianNoise(0.1).eval()
    >>> layer(lf.constant([1.0, 2.0])).numpy()
    array([1., 2.], dtype=float32)
    """

    def __init__(self, std: float, *, stream: Stream | None = None) -> None:
        super().__init__()
        self.std, self.stream = _checked_std("GaussianNoise", std), stream

    def forward(self, x: Any) -> Expr:
        """``x`` with noise."""
        return f.gaussian_noise(x, self.std, training=self.training, stream=self.stream)

    def extra_repr(self) -> str:
        return f"std={self.std}"


class VariationalDropout(Module):
    """`Dropout` with one mask for all vectors of a sequence, drawn at each call (Gal and Ghahramani 2016).

    Called with a list of expressions of one shape, it returns such a list. Inside of a recurrence, use the option
    ``variational_dropout`` of `LSTM`, `GRU` and `RNN`. Raises ``ValueError`` for ``p`` outside [0, 1).

    >>> import lazyflow as lf
    >>> a, b = lf.nn.VariationalDropout(0.5)([lf.constant([1.0] * 8)] * 2)
    >>> bool((a.numpy() == b.numpy()).all())
    True
    """

    def __init__(self, p: float = 0.5, *, stream: Stream | None = None) -> None:
        super().__init__()
        self.p, self.stream = checked_probability("VariationalDropout", p), stream

    def forward(self, xs: Sequence[Any]) -> list[Expr]:
        """The vectors of one sequence, with the same elements dropped in all."""
        values = [constant(x) for x in xs]
        if not self.training or not self.p or not values:
            return values
        first = values[0]
        mask = f.dropout(np.ones(first.shape, first.dtype), self.p, stream=self.stream)
        return [masked(value, mask) for value in values]

    def extra_repr(self) -> str:
        return f"p={self.p}"


@contextmanager
def weight_noise(
    parameters: Module | Sequence[Parameter], std: float, *, stream: Stream | None = None
) -> Iterator[None]:
    """Within the block, all floating parameters have normal noise of deviation ``std`` added (Graves 2011).

    ``parameters``: a module, or a list of parameters. Record, run and differentiate a minibatch in the block and step
    the optimizer after it: the gradients are those at the noisy weights, the update is one of the weights themselves,
    which the end of the block restores, also after an error. One draw serves all examples and steps of the minibatch.
    Raises ``ValueError`` for a negative ``std``, ``TypeError`` for what holds no parameters.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> with lf.nn.weight_noise([w], 0.1):
    ...     lf.sum(w * w).backward()
    >>> w.numpy(), bool((w.grad != [2.0, 4.0]).all())
    (array([1., 2.], dtype=float32), True)
    """
    std = _checked_std("weight_noise", std)
    found = list(parameters.parameters() if isinstance(parameters, Module) else parameters)
    for parameter in found:
        if not isinstance(parameter, Parameter):
            raise TypeError(f"weight_noise takes a module or a list of parameters, got a {type(parameter).__name__}")
    floating = [parameter for parameter in found if parameter.dtype.kind == "f"]
    before = [parameter.numpy() for parameter in floating]
    generator = streams.generator() if stream is None else stream.generator()
    try:
        for parameter, value in zip(floating, before, strict=True):
            parameter.assign((value + std * generator.standard_normal(value.shape)).astype(value.dtype))
        yield
    finally:
        for parameter, value in zip(floating, before, strict=True):
            parameter.assign(value)

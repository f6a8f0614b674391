"""Initial weights: functions that fill a parameter in place and return it, with the names and formulas of
``torch.nn.init``.

``rng`` is a ``numpy.random.Generator``, a seed, or None for the next draw of lazyflow's default stream (see
`lazyflow.seed`). A weight is (out, in), or (out, in, ...) with further axes that multiply both fans, as in a
convolution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lazyflow import random as streams
from lazyflow.errors import ShapeError
from lazyflow.expr import Parameter

__all__ = [
    "calculate_gain", "constant_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_",
    "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip

Rng = np.random.Generator | int | None

_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2.0), "selu": 3 / 4}


def _generator(rng: Rng) -> np.random.Generator:
    return streams.generator() if rng is None else np.random.default_rng(rng)


def _filled(parameter: Parameter, value: Any) -> Parameter:
    parameter.assign(np.broadcast_to(np.asarray(value, parameter.dtype), parameter.shape))
    return parameter


def constant_(parameter: Parameter, value: float) -> Parameter:
    """Every element becomes ``value``."""
    return _filled(parameter, value)


def zeros_(parameter: Parameter) -> Parameter:
    """Every element becomes 0."""
    return _filled(parameter, 0.0)


def ones_(parameter: Parameter) -> Parameter:
    """Every element becomes 1."""
    return _filled(parameter, 1.0)


def eye_(parameter: Parameter) -> Parameter:
    """Ones on the diagonal and zeros elsewhere. Raises `ShapeError` unless the parameter is a matrix.

    >>> import lazyflow as lf
    >>> lf.nn.init.eye_(lf.Parameter([[5.0, 5.0], [5.0, 5.0]])).numpy()
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    if len(parameter.shape) != 2:
        raise ShapeError(f"eye_ fills a matrix, got a parameter of shape {parameter.shape}")
    return _filled(parameter, np.eye(*parameter.shape))


def uniform_(parameter: Parameter, low: float = 0.0, high: float = 1.0, *, rng: Rng = None) -> Parameter:
    """Numbers evenly distributed from ``low`` to ``high``.

    >>> import lazyflow as lf
    >>> w = lf.nn.init.uniform_(lf.Parameter([0.0, 0.0]), 2.0, 3.0, rng=0)
    >>> bool((w.numpy() >= 2).all())
    True
    """
    return _filled(parameter, _generator(rng).uniform(low, high, parameter.shape))


def normal_(parameter: Parameter, mean: float = 0.0, std: float = 1.0, *, rng: Rng = None) -> Parameter:
    """Normally distributed numbers."""
    return _filled(parameter, _generator(rng).normal(mean, std, parameter.shape))


def calculate_gain(nonlinearity: str, a: float = 0.0) -> float:
    """What a layer's weights are scaled by so that ``nonlinearity`` keeps the variance; ``a``: the slope of
    ``"leaky_relu"``.

    Raises ``ValueError`` for a name that is not linear, sigmoid, tanh, relu, leaky_relu or selu.

    >>> calculate_gain("tanh")
    1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + a * a))
    if nonlinearity not in _GAINS:
        raise ValueError(f"nonlinearity must be one of {', '.join(_GAINS)}, leaky_relu; got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def _fans(name: str, parameter: Parameter) -> tuple[int, int]:
    """How many inputs an output sums over, and how many outputs an input goes to."""
    shape = parameter.shape
    if len(shape) < 2:
        raise ShapeError(
            f"{name} needs a weight of at least two axes, (out, in, ...), got shape {shape}; see uniform_ and normal_"
        )
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _xavier_std(name: str, parameter: Parameter, gain: float) -> float:
    return gain * math.sqrt(2.0 / max(1, sum(_fans(name, parameter))))


def xavier_uniform_(parameter: Parameter, gain: float = 1.0, *, rng: Rng = None) -> Parameter:
    """Uniform in ``-a .. a`` with ``a = gain * sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio 2010).

    Raises `ShapeError` for fewer than two axes.
    """
    bound = math.sqrt(3.0) * _xavier_std("xavier_uniform_", parameter, gain)
    return uniform_(parameter, -bound, bound, rng=rng)


def xavier_normal_(parameter: Parameter, gain: float = 1.0, *, rng: Rng = None) -> Parameter:
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio 2010).

    Raises `ShapeError` for fewer than two axes.
    """
    return normal_(parameter, 0.0, _xavier_std("xavier_normal_", parameter, gain), rng=rng)


def _kaiming_std(name: str, parameter: Parameter, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(name, parameter)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, fan))


def kaiming_uniform_(
    parameter: Parameter, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, rng: Rng = None
) -> Parameter:
    """Uniform in ``-b .. b`` with ``b = gain * sqrt(3 / fan)`` (He et al. 2015); ``a`` and ``nonlinearity`` as in
    `calculate_gain`.

    Raises `ShapeError` for fewer than two axes and ``ValueError`` for an unknown ``mode`` or ``nonlinearity``.
    """
    bound = math.sqrt(3.0) * _kaiming_std("kaiming_uniform_", parameter, a, mode, nonlinearity)
    return uniform_(parameter, -bound, bound, rng=rng)


def kaiming_normal_(
    parameter: Parameter, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, rng: Rng = None
) -> Parameter:
    """Normal with standard deviation ``gain / sqrt(fan)`` (He et al. 2015); see `kaiming_uniform_`."""
    return normal_(parameter, 0.0, _kaiming_std("kaiming_normal_", parameter, a, mode, nonlinearity), rng=rng)


def orthogonal_(parameter: Parameter, gain: float = 1.0, *, rng: Rng = None) -> Parameter:
    """``gain`` times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2013).

    Axes after the first count as columns. Raises `ShapeError` for fewer than two axes.

    >>> import lazyflow as lf
    >>> q = lf.nn.init.orthogonal_(lf.Parameter(np.zeros((2, 3))), rng=0).numpy()
    >>> bool(np.allclose(q @ q.T, np.eye(2)))
    True
    """
    _fans("orthogonal_", parameter)
    rows, columns = parameter.shape[0], math.prod(parameter.shape[1:])
    normal = _generator(rng).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # without it, the signs that QR chooses would not be uniform
    return _filled(parameter, gain * (q if rows >= columns else q.T).reshape(parameter.shape))

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
from lazyflow.device import to_host
from lazyflow.errors import ShapeError
from lazyflow.record.expr import Parameter

__all__ = [
    "calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_",
    "orthogonal_", "sparse_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip

Rng = np.random.Generator | int | None

_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_GAINS = {
    **dict.fromkeys(_LINEAR, 1.0), "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2.0), "selu": 3 / 4,
}  # fmt: skip


def _generator(rng: Rng) -> np.random.Generator:
    return streams.generator() if rng is None else np.random.default_rng(rng)


def _filled(parameter: Parameter, value: Any) -> Parameter:
    parameter.assign(np.broadcast_to(np.asarray(to_host(value), parameter.dtype), parameter.shape))
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


def trunc_normal_(
    parameter: Parameter, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, *, rng: Rng = None
) -> Parameter:
    """Normally distributed numbers, those outside ``a .. b`` drawn again. Raises ``ValueError`` unless a < b.

    >>> import lazyflow as lf
    >>> w = lf.nn.init.trunc_normal_(lf.Parameter(np.zeros(100)), std=5.0, rng=0).numpy()
    >>> bool((abs(w) <= 2).all())
    True
    """
    low, high = ((edge - mean) / std for edge in (a, b))
    if not low < high:
        raise ValueError(f"trunc_normal_: a must be smaller than b, got {a} and {b}")
    if _normal_share(high) - _normal_share(low) < 1e-6:
        raise ValueError(f"trunc_normal_: nearly no number of mean {mean} and deviation {std} lies in {a} .. {b}")
    generator, values = _generator(rng), np.full(parameter.shape, np.inf)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = generator.normal(mean, std, int(outside.sum()))
    return _filled(parameter, values)


def _normal_share(x: float) -> float:
    """The normal distribution function."""
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


def dirac_(parameter: Parameter, groups: int = 1) -> Parameter:
    """A convolution's weight (out, in, ...) that passes on as many channels as there are, each group by itself.

    Raises `ShapeError` for other than 3, 4 or 5 axes, ``ValueError`` unless ``groups`` divides the outputs.

    >>> import lazyflow as lf
    >>> lf.nn.init.dirac_(lf.Parameter(np.ones((2, 2, 3)))).numpy()[0].tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if len(parameter.shape) not in (3, 4, 5):
        raise ShapeError(f"dirac_ fills a convolution's weight (out, in, ...), got shape {parameter.shape}")
    if parameter.shape[0] % groups:
        raise ValueError(f"dirac_: groups={groups} must divide the {parameter.shape[0]} outputs")
    outputs = parameter.shape[0] // groups
    values, middle = np.zeros(parameter.shape), tuple(n // 2 for n in parameter.shape[2:])
    for group in range(groups):
        for i in range(min(outputs, parameter.shape[1])):
            values[(group * outputs + i, i) + middle] = 1  # noqa: RUF005 (a star there is Python 3.11's)
    return _filled(parameter, values)


def sparse_(parameter: Parameter, sparsity: float, std: float = 0.01, *, rng: Rng = None) -> Parameter:
    """Normal numbers with a share ``sparsity`` of zeros, rounded up, in each column (Martens 2010).

    Raises `ShapeError` unless the parameter is a matrix, ``ValueError`` for a share outside 0 .. 1.
    """
    if len(parameter.shape) != 2:
        raise ShapeError(f"sparse_ fills a matrix, got a parameter of shape {parameter.shape}")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_: sparsity is a share from 0 to 1, got {sparsity}")
    generator = _generator(rng)
    values = generator.normal(0.0, std, parameter.shape)
    zeros = generator.permuted(np.tile(np.arange(len(values))[:, None], parameter.shape[1]), axis=0)
    np.put_along_axis(values, zeros[: math.ceil(sparsity * len(values))], 0.0, axis=0)
    return _filled(parameter, values)


def calculate_gain(nonlinearity: str, a: float | None = None) -> float:
    """What a layer's weights are scaled by so that ``nonlinearity`` keeps the variance; ``a``: the slope of
    ``"leaky_relu"``, 0.01 by default.

    Raises ``ValueError`` for a name that is not linear, that of a convolution, sigmoid, tanh, relu, leaky_relu or selu.

    >>> calculate_gain("tanh")
    1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if a is None else a
        return math.sqrt(2.0 / (1.0 + slope * slope))
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

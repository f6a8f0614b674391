"""Normalisation: over an example's own elements, and over a minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow import settings
from lazyflow.errors import ShapeError
from lazyflow.functions import elementwise as e
from lazyflow.functions.reduce import mean
from lazyflow.functions.shape import concatenate, stack
from lazyflow.nn import init
from lazyflow.nn.functional import normalization as f
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.ops.base import number
from lazyflow.record.expr import ENGINE, Expr, Parameter, as_floating, constant, first_value

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "LayerNorm", "RMSNorm",
]  # fmt: skip

Array = Any
_Statistic = tuple[Expr, list[Array]]  # of a minibatch, and where its value goes when it is first computed


def _reset(module: LayerNorm | RMSNorm | _ByChannel) -> None:
    if module.weight is not None:
        init.ones_(module.weight)
    if getattr(module, "bias", None) is not None:
        init.zeros_(module.bias)  # type: ignore[union-attr, arg-type]


def _sizes(owner: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    if not sizes:
        raise ValueError(f"{owner}: normalized_shape must name at least one axis, got ()")
    return checked_sizes(owner, **{f"normalized_shape[{i}]": n for i, n in enumerate(sizes)})


class LayerNorm(Module):
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` (Ba et al. 2016), with both taken over the last axes.

    ``normalized_shape``: the sizes of those axes, an integer for one axis. ``weight`` (ones at first) and ``bias``
    (zeros) have that shape; ``elementwise_affine=False`` leaves out both, ``bias=False`` the second. Raises
    ``ValueError`` for a size below 1 and `ShapeError` for an ``x`` that does not end in these axes.

    >>> import lazyflow as lf
    >>> lf.nn.LayerNorm(2, eps=0.0)(lf.constant([1.0, 3.0])).numpy()
    array([-1.,  1.], dtype=float32)
    """

    quiet = True

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        *,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.normalized_shape = _sizes("LayerNorm", normalized_shape)
        self.eps = number("LayerNorm", "eps", eps)
        self.weight = new_parameter(*self.normalized_shape) if elementwise_affine else None
        self.bias = new_parameter(*self.normalized_shape) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones and zeros again."""
        _reset(self)

    def forward(self, x: Any) -> Expr:
        """``x`` normalised."""
        return f.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        missing = ", elementwise_affine=False" if self.weight is None else ", bias=False" if self.bias is None else ""
        return f"{self.normalized_shape}, eps={self.eps}{missing}"


class RMSNorm(Module):
    """``x / sqrt(mean(x * x) + eps) * weight`` over the last axes (Zhang and Sennrich 2019), as ``torch.nn.RMSNorm``.

    ``eps``: by default the precision of the dtype of ``x``. Sizes and errors as in `LayerNorm`.

    >>> import lazyflow as lf
    >>> lf.nn.RMSNorm(2, eps=0.0)(lf.constant([3.0, 3.0])).numpy()
    array([1., 1.], dtype=float32)
    """

    quiet = True

    weight: Parameter | None

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, *, elementwise_affine: bool = True
    ) -> None:
        super().__init__()
        self.normalized_shape = _sizes("RMSNorm", normalized_shape)
        self.eps = None if eps is None else number("RMSNorm", "eps", eps)
        self.weight = new_parameter(*self.normalized_shape) if elementwise_affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones again."""
        _reset(self)

    def forward(self, x: Any) -> Expr:
        """``x`` normalised."""
        return f.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        missing = ", elementwise_affine=False" if self.weight is None else ""
        return f"{self.normalized_shape}, eps={self.eps}{missing}"


class _ByChannel(Module):
    """What the normalisations of channels share: a weight and a bias, one element a channel."""

    weight: Parameter | None
    bias: Parameter | None

    def _make(self, channels: int, eps: float, affine: bool) -> None:
        self.eps, self.affine = number(type(self).__name__, "eps", eps), bool(affine)
        self.weight = new_parameter(channels) if affine else None
        self.bias = new_parameter(channels) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones and zeros again."""
        _reset(self)


def _require_channels(owner: str, x: Expr, channels: int, ndims: tuple[int, ...] = ()) -> None:
    if x.shape[:1] != (channels,) or (ndims and x.ndim not in ndims):
        form = "" if not ndims else f" in {' or '.join(map(str, ndims))} axes"
        raise ShapeError(f"{owner} takes one example ({channels}, ...){form}, got shape {x.shape}")


class GroupNorm(_ByChannel):
    """One example ``x`` (num_channels, ...) standardised in groups of channels (Wu and He 2018).

    ``weight`` (ones) and ``bias`` (zeros): one element a channel; ``affine=False`` leaves them out. Raises
    ``ValueError`` unless ``num_groups`` divides ``num_channels``, `ShapeError` for an ``x`` of other channels.

    >>> import lazyflow as lf
    >>> lf.nn.GroupNorm(2, 4, eps=0.0)(lf.constant([1.0, 3.0, 5.0, 7.0])).numpy()
    array([-1.,  1., -1.,  1.], dtype=float32)
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_groups, self.num_channels = checked_sizes(
            "GroupNorm", num_groups=num_groups, num_channels=num_channels
        )
        if self.num_channels % self.num_groups:
            raise ValueError(f"GroupNorm: num_groups={num_groups} must divide num_channels={num_channels}")
        self._make(self.num_channels, eps, affine)

    def forward(self, x: Any) -> Expr:
        """``x`` normalised."""
        x = constant(x)
        _require_channels("GroupNorm", x, self.num_channels)
        return f.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = "" if self.affine else ", affine=False"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}{affine}"


class _InstanceNorm(_ByChannel):
    ndim: int

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = False) -> None:
        super().__init__()
        (self.num_features,) = checked_sizes(type(self).__name__, num_features=num_features)
        self._make(self.num_features, eps, affine)

    def forward(self, x: Any) -> Expr:
        """``x`` normalised."""
        x = constant(x)
        _require_channels(type(self).__name__, x, self.num_features, (self.ndim,))
        return f.instance_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}" + (", affine=True" if self.affine else "")


class InstanceNorm1d(_InstanceNorm):
    """Every channel of one example (num_features, t) standardised by itself (Ulyanov et al. 2016).

    ``affine=True`` adds a trained weight and bias, one element a channel. Raises `ShapeError` for another shape, and
    for a single place, whose variance would be 0.

    >>> import lazyflow as lf
    >>> lf.nn.InstanceNorm1d(1, eps=0.0)(lf.constant([[1.0, 3.0]])).numpy()
    array([[-1.,  1.]], dtype=float32)
    """

    ndim = 2


class InstanceNorm2d(_InstanceNorm):
    """`InstanceNorm1d` for one image (num_features, h, w).

    >>> import lazyflow as lf
    >>> lf.nn.InstanceNorm2d(1, eps=0.0)(lf.constant([[[1.0], [3.0]]])).shape
    (1, 2, 1)
    """

    ndim = 3


class _BatchNorm(_ByChannel):
    """Statistics over a minibatch that is seen as a whole, and their running averages.

    The statistics of a minibatch are expressions: they are not known when the layer is called. They wait in
    ``_waiting`` and are added to the running averages when these are next read, or when the layer is next called with
    their tape closed; by then a forward has computed them as a part of the model. What it computed counts, once,
    whatever becomes of the weights, and however often `forward` is called after that.
    """

    ndims: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        (self.num_features,) = checked_sizes(type(self).__name__, num_features=num_features)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"{type(self).__name__}: momentum must be from 0 to 1, or None, got {momentum}")
        self.momentum, self.track_running_stats = momentum, bool(track_running_stats)
        self._waiting: list[tuple[_Statistic, _Statistic, int]] = []
        self._make(self.num_features, eps, affine)
        if self.track_running_stats:
            self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Means of 0, variances of 1, from no minibatch."""
        options = settings.current()
        zeros = np.zeros(self.num_features, options.dtype)
        start = {"running_mean": zeros, "running_var": zeros + 1, "num_batches_tracked": np.zeros((), np.int64)}
        self._waiting.clear()
        for name, array in start.items():
            self.__dict__[name] = devices.to_device(array, options.device)
            self._buffers.add(name)

    # Running averages, brought up to date by whoever reads them

    def _settle(self, finished_only: bool = False) -> None:
        while self._waiting and not (finished_only and not self._waiting[0][0][0].tape.sealed):
            (*statistics, count), *rest = self._waiting
            means, variances = (first[0] if first else ENGINE[0].value(e) for e, first in statistics)
            own = self.__dict__
            with devices.on_device_of(own["running_mean"]):
                tracked = own["num_batches_tracked"] + 1
                share = self.momentum if self.momentum is not None else 1.0 / int(tracked)
                new = {
                    "num_batches_tracked": tracked if devices.is_on_gpu(tracked) else np.asarray(tracked),
                    "_waiting": rest,
                }
                for name, value, factor in (
                    ("running_mean", means, 1.0),
                    ("running_var", variances, count / (count - 1)),
                ):
                    step = share * (factor * value.reshape(-1) - own[name])
                    new[name] = (own[name] + step).astype(own[name].dtype)
            own.update(new)  # at once: an interrupt must not count a minibatch in one average and not in the other

    def _statistic(self, name: str) -> Any:
        self._settle()
        return self.__dict__.get(name)

    @property
    def running_mean(self) -> Any:
        """The average of the minibatches' means, (num_features,), or None."""
        return self._statistic("running_mean")

    @property
    def running_var(self) -> Any:
        """The average of the minibatches' unbiased variances, (num_features,), or None."""
        return self._statistic("running_var")

    @property
    def num_batches_tracked(self) -> Any:
        """The number of minibatches in the averages, or None."""
        return self._statistic("num_batches_tracked")

    def _own_buffers(self) -> list[tuple[str, Array]]:
        self._settle()
        return super()._own_buffers()

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return dict(self.__dict__)

    # The layer

    def forward(self, x: Any) -> Any:
        """The examples of a minibatch, each normalised: a list for a list, an array for an array."""
        if isinstance(x, list | tuple):
            return self._examples([self._taken(v) for v in x])
        x = self._taken(x)
        if not self._by_running() or x.ndim - 1 in self.ndims:
            return self._stacked(x)
        _require_channels(type(self).__name__, x, self.num_features, self.ndims)
        return self._by_average(x, 0)

    def _taken(self, x: Any) -> Expr:
        return as_floating(x, self.weight)

    def _by_running(self) -> bool:
        return not self.training and self.track_running_stats

    def _examples(self, xs: list[Expr]) -> list[Expr]:
        if not xs:
            raise ShapeError(f"{type(self).__name__}: the list of examples is empty")
        for x in xs:
            _require_channels(type(self).__name__, x, self.num_features, self.ndims)
        if self._by_running():
            return [self._by_average(x, 0) for x in xs]
        if len({x.shape for x in xs}) == 1:
            return list(self._by_batch(stack(xs), 1))
        joined = self._by_batch(concatenate([x.reshape(self.num_features, -1) for x in xs], axis=1), 0)
        ends = np.cumsum([x.size // self.num_features for x in xs]).tolist()
        starts = [0, *ends[:-1]]
        return [joined[:, a:b].reshape(x.shape) for x, a, b in zip(xs, starts, ends, strict=True)]

    def _stacked(self, x: Expr) -> Expr:
        if x.ndim - 1 not in self.ndims or x.shape[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__} normalises over the minibatch and must be given it: a list of examples "
                f"({self.num_features}, ...), or a stack of them (n, {self.num_features}, ...); got shape {x.shape}"
            )
        return self._by_average(x, 1) if self._by_running() else self._by_batch(x, 1)

    def _by_average(self, x: Expr, axis: int) -> Expr:
        shape = (-1, *(1,) * (x.ndim - axis - 1))
        with devices.on_device_of(self.running_var):
            scale = 1.0 / np.sqrt(self.running_var + self.eps)
        y = (x - as_floating(self.running_mean.reshape(shape), x)) * as_floating(scale.reshape(shape), x)
        return self._scaled(y, shape)

    def _by_batch(self, x: Expr, axis: int) -> Expr:
        count = x.size // self.num_features
        if count < 2:
            raise ShapeError(
                f"{type(self).__name__}: one element a channel has no variance; while training, it needs several "
                f"examples, or an example of several places; got shape {x.shape}"
            )
        axes = tuple(i for i in range(x.ndim) if i != axis)
        dtype, x = x.dtype, x.astype(np.float32) if x.dtype == np.float16 else x  # squares overflow from 256 on
        means = mean(x, axis=axes, keepdims=True)
        centred = x - means
        variances = mean(centred * centred, axis=axes, keepdims=True)
        if self.training and self.track_running_stats:
            self._settle(finished_only=True)
            self._waiting.append(((means, first_value(means)), (variances, first_value(variances)), count))
        y = centred / e.sqrt(variances + self.eps)
        return self._scaled(y if y.dtype == dtype else y.astype(dtype), (-1, *(1,) * (x.ndim - axis - 1)))

    def _scaled(self, y: Expr, shape: tuple[int, ...]) -> Expr:
        y = y if self.weight is None else y * self.weight.reshape(shape)
        return y if self.bias is None else y + self.bias.reshape(shape)

    def extra_repr(self) -> str:
        options = {
            "momentum": (self.momentum, 0.1),
            "affine": (self.affine, True),
            "track_running_stats": (self.track_running_stats, True),
        }
        more = "".join(f", {name}={value}" for name, (value, default) in options.items() if value != default)
        return f"{self.num_features}, eps={self.eps}{more}"


class BatchNorm1d(_BatchNorm):
    """Channels standardised over a minibatch (Ioffe and Szegedy 2015), as ``torch.nn.BatchNorm1d``.

    A model sees one example, so this layer has to be given all of them: ``layer([x1, x2, ...])`` takes a list of
    examples, (num_features,) or (num_features, t) with any t, and returns a list of them; ``layer(x)`` takes a stack,
    (n, num_features) or (n, num_features, t). All elements of a channel count alike. After `eval`, running averages
    take the place of the minibatch's statistics, and one example (num_features,) will do.

    ``momentum``: the share of a new minibatch in ``running_mean`` and ``running_var``, or None for the mean of all.
    ``track_running_stats=False``: always the minibatch's. Raises `ShapeError` for a single example while training, for
    other channels, and for one element a channel.

    >>> import lazyflow as lf
    >>> layer = lf.nn.BatchNorm1d(1, eps=0.0)
    >>> [y.item() for y in layer([lf.constant([1.0]), lf.constant([3.0])])]
    [-1.0, 1.0]
    >>> layer.running_mean
    array([0.2], dtype=float32)
    """

    ndims = (1, 2)


class BatchNorm2d(_BatchNorm):
    """`BatchNorm1d` for images: a list of (num_features, h, w), of any sizes, or a stack (n, num_features, h, w).

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> images = [np.ones((3, 4, 4), np.float32), np.zeros((3, 2, 6), np.float32)]
    >>> [y.shape for y in lf.nn.BatchNorm2d(3)(images)]
    [(3, 4, 4), (3, 2, 6)]
    """

    ndims = (3,)

"""Convolutions and pooling over one example's last axes. Parameters have PyTorch's names, layout and initial values."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from lazyflow.nn import init
from lazyflow.nn.functional import convolution as f
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.nn.wrapped import FunctionModule, wrapped
from lazyflow.record.expr import Expr, Parameter

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AvgPool1d", "AvgPool2d", "Conv1d", "Conv2d", "ConvTranspose1d",
    "ConvTranspose2d", "Fold", "MaxPool1d", "MaxPool2d", "Unfold",
]  # fmt: skip

Sizes = int | Sequence[int]

AdaptiveAvgPool1d: type[FunctionModule]
AdaptiveAvgPool2d: type[FunctionModule]
AvgPool1d: type[FunctionModule]
AvgPool2d: type[FunctionModule]
Fold: type[FunctionModule]
MaxPool1d: type[FunctionModule]
MaxPool2d: type[FunctionModule]
Unfold: type[FunctionModule]

_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "AdaptiveAvgPool1d": f.adaptive_avg_pool1d, "AdaptiveAvgPool2d": f.adaptive_avg_pool2d, "AvgPool1d": f.avg_pool1d,
    "AvgPool2d": f.avg_pool2d, "Fold": f.fold, "MaxPool1d": f.max_pool1d, "MaxPool2d": f.max_pool2d,
    "Unfold": f.unfold,
}  # fmt: skip
globals().update({name: wrapped(__name__, name, function) for name, function in _FUNCTIONS.items()})


def _per_axis(owner: str, what: str, value: Any, axes: int, least: int = 1) -> tuple[int, ...]:
    """``value`` as one integer an axis. Raises ``TypeError`` or ``ValueError`` that name it."""
    given = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * axes
    if len(given) != axes:
        raise ValueError(f"{owner}: {what} must be one integer, or one for each of {axes} axes, got {value!r}")
    for n in given:
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise TypeError(f"{owner}: {what} must be an integer, got {n!r}")
        if n < least:
            raise ValueError(f"{owner}: {what} must be at least {least}, got {n}")
    return _one_of_equals(tuple([operator.index(n) for n in given]))


@functools.lru_cache(1024)
def _one_of_equals(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The same object for all layers, by which what they record is found sooner."""
    return sizes


class _Conv(Module):
    """What convolutions and transposed ones share: sizes, weight and bias."""

    axes: int
    function: Callable[..., Expr]
    transposed = False
    bias: Parameter | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes, dilation: Sizes, groups: int
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.in_channels, self.out_channels, self.groups = checked_sizes(
            owner, in_channels=in_channels, out_channels=out_channels, groups=groups
        )
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"{owner}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        self.kernel_size = _per_axis(owner, "kernel_size", kernel_size, self.axes)
        self.stride = _per_axis(owner, "stride", stride, self.axes)
        self.dilation = _per_axis(owner, "dilation", dilation, self.axes)

    def _make_weights(self, bias: bool) -> None:
        first, second = self.out_channels, self.in_channels
        if self.transposed:
            first, second = second, first
        self.weight = new_parameter(first, second // self.groups, *self.kernel_size)
        self.bias = new_parameter(self.out_channels) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5.0))
        if self.bias is not None:
            bound = 1.0 / math.sqrt(math.prod(self.weight.shape[1:]))
            init.uniform_(self.bias, -bound, bound)

    def _options(self) -> dict[str, tuple[Any, Any]]:
        """What else is printed: the value of each option, and the one that is not."""
        return {
            "stride": (self.stride, (1,) * self.axes),
            "dilation": (self.dilation, (1,) * self.axes),
            "groups": (self.groups, 1),
            "bias": (self.bias is not None, True),
        }

    def extra_repr(self) -> str:
        more = [f", {name}={value}" for name, (value, default) in self._options().items() if value != default]
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}" + "".join(more)


class _Forward(_Conv):
    """A convolution with padding, of zeros or of other elements."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups)
        owner = type(self).__name__
        if padding_mode not in f.MODES:
            raise ValueError(f"{owner}: padding_mode must be one of {', '.join(f.MODES)}; got {padding_mode!r}")
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{owner}: padding must be numbers, 'valid' or 'same', got {padding!r}")
        if padding == "same" and max(self.stride) > 1:
            raise ValueError(f"{owner}: padding='same' needs stride 1, got {stride}; give the padding in numbers")
        self.padding = padding if isinstance(padding, str) else _per_axis(owner, "padding", padding, self.axes, 0)
        self.padding_mode = padding_mode
        self._make_weights(bias)

    def forward(self, x: Any) -> Expr:
        """The convolution of one example."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = f.padded(x, self._pads(), self.padding_mode), 0
        return type(self).function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _pads(self) -> list[tuple[int, int]]:
        if self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(total // 2, total - total // 2) for total in totals]
        return [(0, 0)] * self.axes if isinstance(self.padding, str) else [(p, p) for p in self.padding]

    def _options(self) -> dict[str, tuple[Any, Any]]:
        own = {"padding": (self.padding, (0,) * self.axes), "padding_mode": (self.padding_mode, "zeros")}
        return {**super()._options(), **own}


class Conv1d(_Forward):
    """The convolution of ``x`` (in_channels, t) with a trained ``weight``, as ``torch.nn.Conv1d``: (out_channels, t').

    ``weight`` (out_channels, in_channels / groups, kernel_size), ``bias`` (out_channels,) or None. ``padding``: a
    number, or ``"same"`` or ``"valid"``; ``padding_mode``: zeros, reflect, replicate or circular. A stack of examples
    (n, in_channels, t) works, too, but needs not be made: examples of one shape share a launch. Raises ``ValueError``
    or ``TypeError`` for sizes that cannot be, `ShapeError` for an ``x`` of other channels or too few places.

    >>> import lazyflow as lf
    >>> lf.nn.Conv1d(2, 4, 3, padding=1)(lf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).shape
    (4, 3)
    """

    axes = 1
    function = staticmethod(f.conv1d)


class Conv2d(_Forward):
    """The convolution of ``x`` (in_channels, h, w) with a trained ``weight``, as ``torch.nn.Conv2d``.

    ``weight`` (out_channels, in_channels / groups, kh, kw). Everything else as in `Conv1d`.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> lf.nn.Conv2d(3, 8, 3, stride=2, padding=1)(np.zeros((3, 16, 12), np.float32)).shape
    (8, 8, 6)
    """

    axes = 2
    function = staticmethod(f.conv2d)


class _Transposed(_Conv):
    """A transposed convolution."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups)
        owner = type(self).__name__
        self.padding = _per_axis(owner, "padding", padding, self.axes, 0)
        self.output_padding = _per_axis(owner, "output_padding", output_padding, self.axes, 0)
        if any(m >= max(s, d) for m, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)):
            raise ValueError(
                f"{owner}: output_padding must be smaller than stride or dilation, "
                f"got {output_padding} with stride {stride} and dilation {dilation}"
            )
        self._make_weights(bias)

    def forward(self, x: Any) -> Expr:
        """The transposed convolution of one example."""
        how = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return type(self).function(x, self.weight, self.bias, *how)

    def _options(self) -> dict[str, tuple[Any, Any]]:
        zeros = (0,) * self.axes
        own = {"padding": (self.padding, zeros), "output_padding": (self.output_padding, zeros)}
        return {**super()._options(), **own}


class ConvTranspose1d(_Transposed):
    """The transposed convolution of ``x`` (in_channels, t), as ``torch.nn.ConvTranspose1d``: (out_channels, t').

    ``weight`` (in_channels, out_channels / groups, kernel_size). ``t' = (t - 1) stride - 2 padding + dilation
    (kernel_size - 1) + output_padding + 1``. Errors as in `Conv1d`.

    >>> import lazyflow as lf
    >>> lf.nn.ConvTranspose1d(1, 4, 3, stride=2)(lf.constant([[1.0, 2.0, 3.0]])).shape
    (4, 7)
    """

    axes = 1
    function = staticmethod(f.conv_transpose1d)


class ConvTranspose2d(_Transposed):
    """The transposed convolution of ``x`` (in_channels, h, w), as ``torch.nn.ConvTranspose2d``.

    ``weight`` (in_channels, out_channels / groups, kh, kw). Everything else as in `ConvTranspose1d`.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> up = lf.nn.ConvTranspose2d(3, 8, 3, stride=2, padding=1, output_padding=1)
    >>> up(np.zeros((3, 8, 6), np.float32)).shape
    (8, 16, 12)
    """

    axes = 2
    function = staticmethod(f.conv_transpose2d)

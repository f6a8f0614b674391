"""Convolutions and pooling with PyTorch's names: the functions of `lazyflow.functions.convolution` for one or two axes.

One example is (channels, length) or (channels, height, width). A stack of examples, with one axis more, is taken apart,
and its results are stacked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lazyflow.errors import ShapeError
from lazyflow.functions import convolution as f
from lazyflow.functions.shape import pad, stack
from lazyflow.record.expr import Expr, constant
from lazyflow.record.templates import by_kinds

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "conv1d", "conv2d", "conv_transpose1d",
    "conv_transpose2d", "fold", "max_pool1d", "max_pool2d", "padded", "unfold",
]  # fmt: skip

Sizes = int | Sequence[int]
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _each(name: str, axes: int, function: Callable[[Expr], Expr], x: Any) -> Expr:
    """``function`` of one example, or of each in a stack of them."""
    x = constant(x)
    if x.ndim == axes + 1:
        return function(x)
    if x.ndim != axes + 2 or not len(x):
        form = ", ".join(("length",) if axes == 1 else ("height", "width"))
        raise ShapeError(f"{name} takes one example (channels, {form}), or a stack of them; got shape {x.shape}")
    return stack([function(example) for example in x])


@partial(by_kinds, arrays=True)
def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Expr:
    """The convolution of ``x`` (c, t) with ``weight`` (o, c / groups, k): (o, t'). See `lazyflow.conv`.

    >>> import lazyflow as lf
    >>> lf.nn.functional.conv1d([[1.0, 2.0, 4.0]], lf.constant([[[1.0, -1.0]]])).numpy()
    array([[-1., -2.]], dtype=float32)
    """
    return _each("conv1d", 1, lambda x: f.conv(x, weight, bias, stride, padding, dilation, groups), x)


@partial(by_kinds, arrays=True)
def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Expr:
    """The convolution of ``x`` (c, h, w) with ``weight`` (o, c / groups, kh, kw): (o, h', w'). See `lazyflow.conv`."""
    return _each("conv2d", 2, lambda x: f.conv(x, weight, bias, stride, padding, dilation, groups), x)


@partial(by_kinds, arrays=True)
def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Expr:
    """The transposed convolution of ``x`` (c, t) with ``weight`` (c, o / groups, k): (o, t')."""
    how = stride, padding, output_padding, groups, dilation
    return _each("conv_transpose1d", 1, lambda x: f.conv_transpose(x, weight, bias, *how), x)


@partial(by_kinds, arrays=True)
def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Expr:
    """The transposed convolution of ``x`` (c, h, w) with ``weight`` (c, o / groups, kh, kw): (o, h', w')."""
    how = stride, padding, output_padding, groups, dilation
    return _each("conv_transpose2d", 2, lambda x: f.conv_transpose(x, weight, bias, *how), x)


def padded(x: Any, padding: Sequence[tuple[int, int]], mode: str) -> Expr:
    """``x`` with its last axes padded: modes zeros, reflect, replicate and circular. ``ValueError`` for another.

    >>> import lazyflow as lf
    >>> padded(lf.constant([[1.0, 2.0, 3.0]]), [(1, 0)], "circular").numpy()
    array([[3., 1., 2., 3.]], dtype=float32)
    """
    if mode not in MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(MODES)}; got {mode!r}")
    x = constant(x)
    return pad(x, ((0, 0),) * (x.ndim - len(padding)) + tuple(padding), MODES[mode])


def _kernel(size: Sizes, axes: int) -> tuple[int, ...]:
    given = tuple(size) if isinstance(size, Sequence) else (size,) * axes
    if len(given) != axes:
        raise ValueError(f"a size over {axes} axes is one integer, or one for each of them, got {size!r}")
    return given


@partial(by_kinds, arrays=True)
def max_pool1d(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Expr:
    """The largest element of each window of ``x`` (..., t). See `lazyflow.max_pool`."""
    return f.max_pool(x, _kernel(kernel_size, 1), stride, padding, dilation, ceil_mode)


@partial(by_kinds, arrays=True)
def max_pool2d(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Expr:
    """The largest element of each window of ``x`` (..., h, w). See `lazyflow.max_pool`."""
    return f.max_pool(x, _kernel(kernel_size, 2), stride, padding, dilation, ceil_mode)


@partial(by_kinds, arrays=True)
def avg_pool1d(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Expr:
    """The mean of each window of ``x`` (..., t). See `lazyflow.avg_pool`."""
    return f.avg_pool(x, _kernel(kernel_size, 1), stride, padding, ceil_mode, count_include_pad)


@partial(by_kinds, arrays=True)
def avg_pool2d(
    x: Any,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Expr:
    """The mean of each window of ``x`` (..., h, w). See `lazyflow.avg_pool`."""
    return f.avg_pool(x, _kernel(kernel_size, 2), stride, padding, ceil_mode, count_include_pad, divisor_override)


@partial(by_kinds, arrays=True)
def adaptive_avg_pool1d(x: Any, output_size: Any) -> Expr:
    """Means over ``output_size`` bins of ``x`` (..., t), whatever t is. See `lazyflow.adaptive_avg_pool`."""
    return f.adaptive_avg_pool(x, _kernel(output_size, 1))


@partial(by_kinds, arrays=True)
def adaptive_avg_pool2d(x: Any, output_size: Any) -> Expr:
    """Means over bins of ``x`` (..., h, w); one size for both axes or a pair, None to keep an axis."""
    return f.adaptive_avg_pool(x, _kernel(output_size, 2))


def unfold(x: Any, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Expr:
    """The windows of ``x`` (c, h, w) as columns (c * kh * kw, windows): im2col."""
    x = constant(x)
    if x.ndim != 3:
        raise ShapeError(f"unfold takes one example (channels, height, width), got shape {x.shape}")
    columns = f.windows(x, _kernel(kernel_size, 2), stride, padding, dilation)
    c, kh, kw, oh, ow = columns.shape
    return columns.reshape(c * kh * kw, oh * ow)


def fold(
    x: Any, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Expr:
    """Columns (c * kh * kw, windows) added up to (c, h, w) of ``output_size``: the transpose of `unfold`."""
    x, size, kernel = constant(x), _kernel(output_size, 2), _kernel(kernel_size, 2)
    if x.ndim != 2 or x.shape[0] % (kernel[0] * kernel[1]):
        raise ShapeError(f"fold takes columns (c * {kernel[0] * kernel[1]}, windows), got shape {x.shape}")
    out = _places(size, kernel, dilation, padding, stride)
    if x.shape[1] != out[0] * out[1]:
        raise ShapeError(f"fold to {size} takes {out[0]} * {out[1]} columns, got {x.shape[1]}")
    return f.fold_windows(x.reshape(-1, *kernel, *out), size, kernel, stride, padding, dilation)


def _places(size: Sequence[int], kernel: Sequence[int], dilation: Sizes, padding: Sizes, stride: Sizes) -> list[int]:
    rows = zip(size, kernel, _kernel(dilation, 2), _kernel(padding, 2), _kernel(stride, 2), strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in rows]

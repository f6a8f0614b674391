"""Convolutions and pooling, over as many last axes as the weight or the kernel has.

An example has its channels in front: (channels, length) or (channels, height, width). There is no batch axis; examples
of one shape share a launch, in which a convolution is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazyflow.ops import OPS
from lazyflow.ops.conv import Padding, Sizes
from lazyflow.record.expr import Expr, OperandLike, as_floating, constant, record
from lazyflow.record.templates import by_kinds

__all__ = ["adaptive_avg_pool", "avg_pool", "conv", "conv_transpose", "fold_windows", "max_pool", "windows"]


def _hashable(value: Any) -> Any:
    return tuple(_hashable(v) for v in value) if isinstance(value, list | tuple) else value


def _of_one_dtype(x: OperandLike, weight: OperandLike, bias: OperandLike) -> list[OperandLike]:
    """The operands in the dtype of the weight."""
    operands: list[OperandLike] = [as_floating(x, weight), weight]
    return operands if bias is None else [*operands, as_floating(bias, weight)]


@by_kinds
def conv(
    x: OperandLike,
    weight: OperandLike,
    bias: OperandLike | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Expr:
    """The convolution (cross-correlation, as in PyTorch) of ``x`` (c, *size) with ``weight`` (o, c / groups, *kernel).

    The result is (o, *out) with ``out = (size + 2 padding - dilation (kernel - 1) - 1) // stride + 1``. ``bias``: (o,).
    ``stride``, ``padding`` and ``dilation`` are one number, or one for each axis; ``padding`` may also be ``"same"``,
    ``"valid"`` or a pair for each axis. Raises `ShapeError` where channels, groups or sizes do not fit, ``ValueError``
    for a stride, dilation or number of groups below 1 or another word for ``padding``.

    >>> import lazyflow as lf
    >>> lf.conv(lf.constant([[1.0, 2.0, 4.0]]), lf.constant([[[1.0, -1.0]]])).numpy()
    array([[-1., -2.]], dtype=float32)
    """
    operands = _of_one_dtype(x, weight, bias)
    return record(
        OPS["conv"],
        operands,
        stride=_hashable(stride),
        padding=_hashable(padding),
        dilation=_hashable(dilation),
        groups=groups,
    )


@by_kinds
def conv_transpose(
    x: OperandLike,
    weight: OperandLike,
    bias: OperandLike | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Expr:
    """The transpose of `conv` (Zeiler et al. 2010): ``x`` (c, *size) with ``weight`` (c, o / groups, *kernel).

    The result is (o, *out), ``out = (size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1``.
    ``output_padding`` must be smaller than stride or dilation (``ValueError``). Other errors as in `conv`.

    >>> import lazyflow as lf
    >>> lf.conv_transpose(lf.constant([[1.0, 2.0]]), lf.constant([[[1.0, -1.0]]]), stride=2).numpy()
    array([[ 1., -1.,  2., -2.]], dtype=float32)
    """
    operands = _of_one_dtype(x, weight, bias)
    return record(
        OPS["conv_transpose"],
        operands,
        stride=_hashable(stride),
        padding=_hashable(padding),
        output_padding=_hashable(output_padding),
        dilation=_hashable(dilation),
        groups=groups,
    )


@by_kinds
def max_pool(
    x: OperandLike,
    kernel: Sequence[int],
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Expr:
    """The largest element of each window over the last ``len(kernel)`` axes; ``stride`` is the kernel's size by
    default.

    Padding counts as minus infinity. The gradient goes to the first of equal elements, as in PyTorch. ``ceil_mode``:
    windows may end behind the value. Raises `ShapeError` where no window fits, ``ValueError`` for padding of more than
    half a window, `DTypeError` for integers.

    >>> import lazyflow as lf
    >>> lf.max_pool(lf.constant([[1.0, 3.0, 2.0, 0.0]]), (2,)).numpy()
    array([[3., 2.]], dtype=float32)
    """
    kernel = _hashable(kernel)
    return record(
        OPS["max_pool"],
        (constant(x),),
        kernel=kernel,
        stride=kernel if stride is None else _hashable(stride),
        padding=_hashable(padding),
        dilation=_hashable(dilation),
        ceil_mode=bool(ceil_mode),
    )


@by_kinds
def avg_pool(
    x: OperandLike,
    kernel: Sequence[int],
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Expr:
    """The mean of each window over the last ``len(kernel)`` axes, zeros of the padding included.

    ``count_include_pad=False`` divides by the number of elements that are no padding, ``divisor_override`` by that
    number. Other arguments and errors as in `max_pool`.

    >>> import lazyflow as lf
    >>> lf.avg_pool(lf.constant([[1.0, 3.0, 2.0, 0.0]]), (2,)).numpy()
    array([[2., 1.]], dtype=float32)
    """
    kernel = _hashable(kernel)
    return record(
        OPS["avg_pool"],
        (constant(x),),
        kernel=kernel,
        stride=kernel if stride is None else _hashable(stride),
        padding=_hashable(padding),
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )


@by_kinds
def adaptive_avg_pool(x: OperandLike, output_size: int | Sequence[int | None]) -> Expr:
    """Means over ``output_size`` bins of each of the last axes, whatever their sizes; None keeps an axis, one integer
    stands for the last.

    Bin i goes from floor(i n / out) to ceil((i + 1) n / out), as in PyTorch. Raises ``ValueError`` for a size below 1,
    `ShapeError` for fewer axes than sizes.

    >>> import lazyflow as lf
    >>> lf.adaptive_avg_pool(lf.constant([[1.0, 3.0, 2.0]]), (2,)).numpy()
    array([[2. , 2.5]], dtype=float32)
    """
    sizes = (output_size,) if isinstance(output_size, int) else output_size
    return record(OPS["adaptive_avg_pool"], (constant(x),), output_size=_hashable(sizes))


@by_kinds
def windows(
    x: OperandLike,
    kernel: Sequence[int],
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    fill: float = 0.0,
) -> Expr:
    """All windows over the last axes of ``x`` (..., *size), as (..., *kernel, *out); ``fill`` is what is padded.

    >>> import lazyflow as lf
    >>> lf.windows(lf.constant([1.0, 2.0, 3.0]), (2,)).numpy()
    array([[1., 2.],
           [2., 3.]], dtype=float32)
    """
    return record(
        OPS["windows"],
        (constant(x),),
        kernel=_hashable(kernel),
        stride=_hashable(stride),
        padding=_hashable(padding),
        dilation=_hashable(dilation),
        fill=float(fill),
    )


@by_kinds
def fold_windows(
    x: OperandLike,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
) -> Expr:
    """(..., *kernel, *out) added up to (..., *size): each window into where `windows` takes it from.

    >>> import lazyflow as lf
    >>> lf.fold_windows(lf.constant([[1.0, 2.0], [2.0, 3.0]]), (3,), (2,)).numpy()
    array([1., 4., 3.], dtype=float32)
    """
    return record(
        OPS["fold_windows"],
        (constant(x),),
        size=_hashable(size),
        kernel=_hashable(kernel),
        stride=_hashable(stride),
        padding=_hashable(padding),
        dilation=_hashable(dilation),
    )

"""Rows for `lazyflow.ops.conv`. The references are plain loops over places and kernel elements, on one example."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec


def x(*shape: int, dtype: str = "float64", **more: Any) -> Spec:
    return Spec(shape, dtype, **more)


def per_axis(value: Any, n: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) * n


def convolved(x: Any, W: Any, b: Any = None, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """One output element after the other."""
    n = W.ndim - 2
    stride, dilation = per_axis(stride, n), per_axis(dilation, n)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, W.shape[2:], strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in totals)
    padding = per_axis(0 if padding == "valid" else padding, n)
    pairs = [p if isinstance(p, tuple) else (p, p) for p in padding]
    padded = np.pad(x, [(0, 0), *pairs])
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, W.shape[2:], strict=True)]
    out = [(s - r) // t + 1 for s, r, t in zip(padded.shape[1:], reach, stride, strict=True)]
    y = np.zeros((len(W), *out))
    for o, *place in np.ndindex(*y.shape):
        group = o // (len(W) // groups)
        for c, *k in np.ndindex(*W.shape[1:]):
            at = [p * s + i * d for p, s, i, d in zip(place, stride, k, dilation, strict=True)]
            y[(o, *place)] += W[(o, c, *k)] * padded[(group * W.shape[1] + c, *at)]
    return y if b is None else y + b.reshape(-1, *(1,) * n)


def transposed(
    x: Any, W: Any, b: Any = None, *, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Any:
    """Every input element added to all that it reaches."""
    n = W.ndim - 2
    stride, dilation, padding, more = (per_axis(v, n) for v in (stride, dilation, padding, output_padding))
    rows = zip(x.shape[1:], W.shape[2:], stride, dilation, more, strict=True)
    full = [(s - 1) * t + d * (k - 1) + 1 + m for s, k, t, d, m in rows]
    y = np.zeros((W.shape[1] * groups, *full))
    for c, *place in np.ndindex(*x.shape):
        group = c // (len(x) // groups)
        for o, *k in np.ndindex(*W.shape[1:]):
            at = [p * s + i * d for p, s, i, d in zip(place, stride, k, dilation, strict=True)]
            y[(group * W.shape[1] + o, *at)] += W[(c, o, *k)] * x[(c, *place)]
    y = y[(slice(None), *(slice(p, s - p) for p, s in zip(padding, y.shape[1:], strict=True)))]
    return y if b is None else y + b.reshape(-1, *(1,) * n)


def conv(
    image: tuple[int, ...], weight: tuple[int, ...], bias: bool = False, dtype: str = "float64", **how: Any
) -> Case:
    attrs = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **how}
    operands = (x(*image, dtype=dtype), x(*weight, dtype=dtype)) + (x(weight[0], dtype=dtype),) * bias
    tolerance = {"float16": 5e-2, "float32": 1e-5}.get(dtype)
    return Case("conv", operands, lambda *a: convolved(*a, **attrs), attrs, dtype, tolerance)


def back(
    image: tuple[int, ...], weight: tuple[int, ...], bias: bool = False, dtype: str = "float64", **how: Any
) -> Case:
    attrs = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1, **how}
    channels = weight[1] * attrs["groups"]
    operands = (x(*image, dtype=dtype), x(*weight, dtype=dtype)) + (x(channels, dtype=dtype),) * bias
    tolerance = {"float16": 5e-2, "float32": 1e-5}.get(dtype)
    return Case("conv_transpose", operands, lambda *a: transposed(*a, **attrs), attrs, dtype, tolerance)


CONVOLUTIONS = (
    conv((2, 5), (3, 2, 2)),
    conv((2, 5), (3, 2, 2), True, stride=2),
    conv((1, 1), (1, 1, 1), True),
    conv((2, 4, 5), (3, 2, 3, 2)),
    conv((2, 4, 5), (3, 2, 1, 1), True),
    conv((2, 5, 4), (3, 2, 3, 3), True, padding=1),
    conv((2, 6, 5), (3, 2, 3, 2), stride=(2, 1), padding=(1, 0)),
    conv((2, 6, 7), (2, 2, 3, 3), True, stride=2, padding=1),
    conv((2, 6, 7), (2, 2, 2, 3), dilation=(2, 3)),
    conv((2, 5, 6), (2, 2, 2, 3), padding="same", dilation=(1, 2)),
    conv((2, 5, 6), (2, 2, 2, 3), padding="valid", stride=2),
    conv((2, 3, 4), (2, 2, 3, 2), padding=((2, 0), (0, 1))),
    conv((4, 4, 4), (6, 2, 2, 2), True, groups=2, padding=1),
    conv((3, 4, 3), (6, 1, 2, 2), groups=3, stride=2),
    conv((1, 3, 3, 3), (2, 1, 2, 2, 2), True, padding=1),
    conv((2, 4, 5), (3, 2, 3, 2), True, "float32"),
    conv((2, 4, 5), (3, 2, 3, 2), True, "float16"),
    back((2, 4), (2, 3, 2)),
    back((2, 4), (2, 3, 3), True, stride=2),
    back((2, 3, 4), (2, 3, 3, 2)),
    back((2, 3, 4), (2, 3, 3, 2), True, padding=1),
    back((2, 3, 3), (2, 3, 3, 3), True, stride=2, padding=1, output_padding=1),
    back((2, 3, 2), (2, 1, 3, 2), stride=(3, 2), output_padding=(2, 0)),
    back((2, 3, 3), (2, 2, 2, 2), dilation=3, output_padding=2),
    back((4, 3, 3), (4, 2, 2, 3), True, groups=2, stride=2),
    back((1, 2, 2, 2), (1, 2, 2, 2, 2), stride=2),
    back((2, 3, 4), (2, 3, 3, 2), True, "float32"),
    back((2, 3, 4), (2, 3, 3, 2), True, "float16"),
)


# Windows and pooling


def places(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> list[list[int]]:
    """The elements of each window along one axis; those below 0 or beyond the size are padding."""
    found, start = [], -padding
    while True:
        window = [start + i * dilation for i in range(kernel)]
        inside = window[-1] < size + padding
        before = window[-1] - stride  # where the window before ends, which has not reached all
        if not inside and not (ceil_mode and start < size and before < size + padding - 1):
            return found
        found.append(window)
        start += stride


def pooled(
    reduce: Any,
    x: Any,
    kernel: tuple[int, ...],
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """``reduce`` over the elements inside of each window, and the numbers of places in it and in the padded value."""
    n = len(kernel)
    stride = per_axis(kernel if stride is None else stride, n)
    padding, dilation, size = per_axis(padding, n), per_axis(dilation, n), x.shape[x.ndim - n :]
    axes = [places(*row, ceil_mode) for row in zip(size, kernel, stride, padding, dilation, strict=True)]
    y = np.zeros((*x.shape[: x.ndim - n], *map(len, axes)), x.dtype)
    for lead in np.ndindex(*x.shape[: x.ndim - n]):
        for place in np.ndindex(*map(len, axes)):
            spots = list(itertools.product(*(axis[p] for axis, p in zip(axes, place, strict=True))))
            inside = [s for s in spots if all(0 <= i < m for i, m in zip(s, size, strict=True))]
            counted = [s for s in spots if all(i < m + p for i, m, p in zip(s, size, padding, strict=True))]
            y[lead + place] = reduce([x[lead + s] for s in inside], len(counted))
    return y


def largest(values: list[float], counted: int) -> float:
    return max(values, default=-math.inf)


def average(values: list[float], counted: int) -> float:
    return sum(values) / counted


def average_inside(values: list[float], counted: int) -> float:
    return sum(values) / len(values)


def pool(name: str, shape: tuple[int, ...], reduce: Any, dtype: str = "float64", more: Any = None, **how: Any) -> Case:
    attrs = {"stride": how["kernel"], **how, **(more or {})}
    spec = Spec(shape, dtype, distinct=dtype == "float64", low=-2.0, high=2.9)
    tolerance = {"float16": 1e-2, "float32": 1e-5}.get(dtype)
    return Case(name, (spec,), lambda x: pooled(reduce, x, **how), attrs, dtype, tolerance)


SHAPES: tuple[dict[str, Any], ...] = (
    {"kernel": (2,)},
    {"kernel": (3,), "stride": 1, "padding": 1},
    {"kernel": (2, 2)},
    {"kernel": (2, 3), "stride": (1, 2), "padding": (1, 0)},
    {"kernel": (2, 2), "stride": 2, "ceil_mode": True},
    {"kernel": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel": (1, 1)},
    {"kernel": (6, 5), "stride": 3, "ceil_mode": True},
)
POOLS = (
    *(pool("max_pool", (2, 5, 6), largest, **how) for how in SHAPES),
    pool("max_pool", (5, 5), largest, kernel=(2, 2), stride=1, dilation=(2, 3), padding=(1, 0)),
    pool("max_pool", (3,), largest, kernel=(2,)),
    *(pool("avg_pool", (2, 5, 6), average, **how) for how in SHAPES),
    *(pool("avg_pool", (2, 5, 6), average_inside, more={"count_include_pad": False}, **how) for how in SHAPES),
    pool("avg_pool", (4, 4), lambda v, _: sum(v) / 3, more={"divisor_override": 3}, kernel=(2, 2)),
    *(
        pool(name, (2, 4, 4), f, t, kernel=(2, 2))
        for name, f in (("max_pool", largest), ("avg_pool", average))
        for t in ("float32", "float16")
    ),
    Case(
        "max_pool",
        (Spec((4, 4), choices=(0.0, 1.0)),),
        lambda x: pooled(largest, x, (2, 2)),
        {"kernel": (2, 2), "stride": 2},
        gradient=False,
    ),
)


def adapted(x: Any, sizes: tuple[int | None, ...]) -> Any:
    n = len(sizes)
    old = x.shape[x.ndim - n :]
    out = [s if o is None else o for o, s in zip(sizes, old, strict=True)]
    y = np.zeros((*x.shape[: x.ndim - n], *out))
    for place in np.ndindex(*out):
        rows = zip(place, out, old, strict=True)
        bins = tuple(slice(math.floor(i * s / o), math.ceil((i + 1) * s / o)) for i, o, s in rows)
        y[(..., *place)] = x[(..., *bins)].mean(axis=tuple(range(-n, 0)))
    return y


SIZES: tuple[tuple[tuple[int, ...], tuple[int | None, ...]], ...] = (
    ((5,), (2,)),
    ((2, 5), (3,)),
    ((2, 5, 7), (3, 2)),
    ((2, 3, 4), (None, 1)),
    ((2, 3), (5, 4)),
    ((1, 4, 4), (4, 4)),
)
ADAPTIVE = (
    *(Case("adaptive_avg_pool", (x(*a),), lambda x, s=s: adapted(x, s), {"output_size": s}) for a, s in SIZES),
    Case("adaptive_avg_pool", (x(5, dtype="float32"),), lambda x: adapted(x, (3,)), {"output_size": (3,)}, "float32"),
)


def shown(x: Any, kernel: Any, stride: int = 1, padding: int = 0, dilation: int = 1, fill: float = 0.0) -> Any:
    padded = np.pad(x, padding, constant_values=fill)
    reach = [dilation * (k - 1) + 1 for k in kernel]
    whole = np.lib.stride_tricks.sliding_window_view(padded, reach)[(slice(None, None, stride),) * x.ndim]
    return np.moveaxis(whole[(..., *(slice(None, None, dilation),) * x.ndim)], range(x.ndim), range(-x.ndim, 0))


MOVES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((5,), {"kernel": (2,)}),
    ((5,), {"kernel": (2,), "stride": 2, "padding": 1}),
    ((4, 5), {"kernel": (2, 3), "dilation": 2, "padding": 1}),
    ((3, 3), {"kernel": (3, 3)}),
)
MOVED = (
    *(Case("windows", (x(*s),), lambda x, h=how: shown(x, **h), how) for s, how in MOVES),
    Case(
        "windows", (x(3),), lambda x: shown(x, (2,), padding=1, fill=7.0), {"kernel": (2,), "padding": 1, "fill": 7.0}
    ),
    Case("windows", (x(3, 4),), lambda x: np.stack([x[:, :2], x[:, 1:3]], 1), {"kernel": (2,), "padding": ((0, -1),)}),
    Case("windows", (Spec((5,), "int64"),), lambda x: shown(x, (2,)), {"kernel": (2,)}),
    Case("fold_windows", (x(2, 4),), lambda x: np.append(x[0], 0) + np.append(0, x[1]), {"size": (5,), "kernel": (2,)}),
    Case(
        "fold_windows",
        (x(3, 2, 2),),
        lambda x: np.stack([x[:, 0, 0], x[:, 1, 0], x[:, 0, 1], x[:, 1, 1], np.zeros(3)], 1),
        {"size": (5,), "kernel": (2,), "stride": 2},
    ),
    Case("fold_windows", (x(2, 1),), lambda x: x[1], {"size": (1,), "kernel": (2,), "padding": ((1, 0),)}),
    Case(
        "fold_windows", (x(1, 2),), lambda x: np.append(x[0], 0), {"size": (3,), "kernel": (1,), "padding": ((0, -1),)}
    ),
)

CASES = (*CONVOLUTIONS, *POOLS, *ADAPTIVE, *MOVED)


# Refused


def error(
    op: str, operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, /, **attrs: Any
) -> ErrorCase:
    return ErrorCase(op, operands, kind, message, attrs)


CONV = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
BACK = {**CONV, "output_padding": 0}
IMAGE, WEIGHT = x(4, 5, 5), x(6, 4, 3, 3)

ERRORS = (
    error("conv", (x(3, 5, 5), WEIGHT), r"x \(3, 5, 5\) has 3 channels, and W .*takes 4", **CONV),
    error("conv", (x(5, 5), WEIGHT), r"takes x \(channels, \*size\) and a weight \(out", **CONV),
    error("conv", (x(5), x(3)), r"takes x \(channels", **CONV),
    error("conv", (IMAGE, WEIGHT, x(5)), r"bias must have one element for each of 6 channels, got \(5,\)", **CONV),
    error("conv", (x(4, 2, 2), WEIGHT), r"kernel of sizes \(3, 3\).*does not fit into sizes \(2, 2\)", **CONV),
    error("conv", (IMAGE, WEIGHT), r"of sizes \(7, 7\), dilation included", **{**CONV, "dilation": 3}),
    error("conv", (IMAGE, x(6, 1, 3, 3)), "groups=4 must divide the channels", **{**CONV, "groups": 4}),
    error(
        "conv", (IMAGE, WEIGHT), "groups must be an integer of at least 1, got 0", ValueError, **{**CONV, "groups": 0}
    ),
    error("conv", (IMAGE, WEIGHT), "groups must be an integer.*got 1.5", ValueError, **{**CONV, "groups": 1.5}),
    error("conv", (IMAGE, WEIGHT), "stride must be at least 1.*got 0", ValueError, **{**CONV, "stride": 0}),
    error(
        "conv",
        (IMAGE, WEIGHT),
        r"stride must be at least 1 for each of 2 axes.*\(1, 1, 1\)",
        ValueError,
        **{**CONV, "stride": (1, 1, 1)},
    ),
    error("conv", (IMAGE, WEIGHT), "dilation must be an integer", TypeError, **{**CONV, "dilation": 1.5}),
    error("conv", (IMAGE, WEIGHT), "padding must be at least 0", ValueError, **{**CONV, "padding": -1}),
    error("conv", (IMAGE, WEIGHT), "'valid' or 'same', got 'full'", ValueError, **{**CONV, "padding": "full"}),
    error(
        "conv", (IMAGE, WEIGHT), "padding='same' needs stride 1", ValueError, **{**CONV, "padding": "same", "stride": 2}
    ),
    error("conv", (IMAGE, WEIGHT), "padding must name 2 axes", ValueError, **{**CONV, "padding": ((1, 1),)}),
    error("conv", (Spec((4, 5, 5), "bool"), WEIGHT), "takes numbers, got bool", DTypeError, **CONV),
    error("conv_transpose", (x(3, 5, 5), WEIGHT), "has 3 channels, and W .*takes 6", **BACK),
    error("conv_transpose", (x(6, 5), WEIGHT), r"a weight \(channels, out / groups", **BACK),
    error("conv_transpose", (x(6, 5, 5), WEIGHT, x(6)), "each of 4 channels", **BACK),
    error("conv_transpose", (x(6, 5, 5), WEIGHT), "groups=4 must divide", **{**BACK, "groups": 4}),
    error(
        "conv_transpose",
        (x(6, 5, 5), WEIGHT),
        "output_padding must be smaller than stride or dilation",
        ValueError,
        **{**BACK, "output_padding": 1},
    ),
    error("conv_transpose", (x(6, 1, 1), WEIGHT), r"leave the sizes \(-1, -1\)", **{**BACK, "padding": 2}),
    error(
        "conv_transpose", (x(6, 5, 5), WEIGHT), "padding must be an integer", TypeError, **{**BACK, "padding": "same"}
    ),
    error("max_pool", (x(4),), "over 2 axes takes a value of as many", kernel=(2, 2), stride=2),
    error("max_pool", (x(2, 4),), "does not fit", kernel=(5,), stride=1),
    error("max_pool", (x(2, 4),), "does not fit", kernel=(5,), stride=1, ceil_mode=True),
    error("max_pool", (x(2, 4),), "half of the kernel's sizes", ValueError, kernel=(2,), stride=1, padding=2),
    error("max_pool", (x(2, 4),), "kernel's size must be at least 1", ValueError, kernel=(0,), stride=1),
    error("max_pool", (x(2, 4),), "stride must be at least 1", ValueError, kernel=(2,), stride=0),
    error("max_pool", (Spec((4,), "int64"),), "takes floating numbers", DTypeError, kernel=(2,), stride=1),
    error("avg_pool", (x(4),), "over 2 axes", kernel=(2, 2), stride=2),
    error(
        "avg_pool", (x(4),), "divisor_override must be positive", ValueError, kernel=(2,), stride=2, divisor_override=0
    ),
    error("avg_pool", (Spec((4,), "int64"),), "takes floating numbers", DTypeError, kernel=(2,), stride=1),
    error("adaptive_avg_pool", (x(4),), "over 2 axes", output_size=(1, 1)),
    error("adaptive_avg_pool", (x(0),), "none empty", output_size=(1,)),
    error("adaptive_avg_pool", (x(4),), "output_size must be at least 1", ValueError, output_size=(0,)),
    error("adaptive_avg_pool", (x(4),), "output_size must be an integer", TypeError, output_size=(1.5,)),
    error("windows", (x(4),), "over 2 axes", kernel=(2, 2)),
    error("windows", (x(4),), "does not fit", kernel=(5,)),
    error("fold_windows", (x(2, 3),), r"last axes are \(2, 4\), got \(2, 3\)", size=(5,), kernel=(2,)),
)

"""Convolutions and pooling over the last axes of an example, and the two moves that they are made of.

`windows` shows an array through a sliding window, as a strided view; `fold_windows` adds windows back to where they
were taken from. Each is the transpose of the other. Around them stands one matrix product over the whole minibatch
(Chellapilla, Puri and Simard 2006), of three kinds for three operands:

    correlate    image (C, *size)  with weight (O, C / groups, *kernel)  to maps (O, *out)
    spread       maps              with weight                           to image
    weigh        image             with maps                             to weight

A convolution is ``correlate``, and the other two its gradients; a transposed convolution is ``spread``, and the other
two its gradients. An axis of groups is a batch axis of the product.

On the host the core computes the three, for whole minibatches, without laying windows out (``core/c/images.h``); what
stands here is for devices, for a weight an example, and for where there is no core.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial, reduce
from itertools import chain, product
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from lazyflow import core
from lazyflow.device import Array, ArrayModule, DType, HostArray
from lazyflow.errors import ShapeError
from lazyflow.ops.base import ALL, Abstract, Op, Pads, Result, Shape, register, require_floating, symbolic, total
from lazyflow.ops.formula import has_nan, select
from lazyflow.ops.linalg import BATCH, contract, contract_or_zero, lettered, numeric, without_nan

WINDOW_LETTERS, PLACE_LETTERS = "uvw", "xyz"  # letters of a window's own axes, and of the places that it stands at


Sizes = int | Sequence[int]
Padding = str | Sizes | Sequence[Sequence[int]]
Subscript = tuple[EllipsisType | slice | int, ...]


class Windows(NamedTuple):
    """Where a sliding window stands: sizes, steps and padding along each of the last axes.

    ``pads``: elements added before and after each axis, so that the last window ends with the last of them; a negative
    number behind means elements that no window reaches.
    """

    size: Shape
    kernel: Shape
    stride: Shape
    pads: Pads
    dilation: Shape
    out: Shape


# Shape rules.


def _whole(name: str, what: str, value: Padding, n: int, least: int) -> Shape:
    """``value`` as ``n`` integers: one for all axes, or one for each."""
    asked = tuple(value) if isinstance(value, Sequence) else (value,) * n
    given = tuple(int(v) for v in asked if isinstance(v, int | np.integer) and not isinstance(v, bool))
    if len(given) != len(asked):
        raise TypeError(f"{name}: {what} must be an integer, or one for each of {n} axes, got {value!r}")
    if len(given) != n or min(given) < least:
        raise ValueError(f"{name}: {what} must be at least {least} for each of {n} axes, got {value!r}")
    return given


def _pairs(name: str, padding: Padding, kernel: Shape, stride: Shape, dilation: Shape) -> Pads:
    """``padding`` as a pair for each axis: a number, one an axis, pairs, ``"valid"`` or ``"same"``."""
    n = len(kernel)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{name}: padding must be numbers, 'valid' or 'same', got {padding!r}")
        if padding == "same" and max(stride) > 1:
            raise ValueError(f"{name}: padding='same' needs stride 1, got {stride}; give the padding in numbers")
        whole = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in whole)
    if isinstance(padding, Sequence):
        pairs = [p for p in padding if isinstance(p, Sequence) and not isinstance(p, str)]
        if pairs and len(pairs) == len(padding):
            return tuple((int(before), int(after)) for before, after in pairs)
    return tuple((p, p) for p in _whole(name, "padding", padding, n, 0))


def windows_of(
    name: str, size: Shape, kernel: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, ceil_mode: bool = False
) -> Windows:
    """The windows that fit into the last axes, of sizes ``size``. Raises ``ValueError`` for what no window can have and
    `ShapeError` where not even one fits.

    >>> windows_of("conv", (5,), 3, 2, 1, 1).out
    (3,)
    """
    n = len(size)
    kernel = _whole(name, "the kernel's size", kernel, n, 1)
    stride, dilation = _whole(name, "stride", stride, n, 1), _whole(name, "dilation", dilation, n, 1)
    pads = _pairs(name, padding, kernel, stride, dilation)
    if len(pads) != n:
        raise ValueError(f"{name}: padding must name {n} axes, got {padding!r}")
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    room = tuple(s + sum(pair) - r for s, pair, r in zip(size, pads, reach, strict=True))
    out = tuple(_window_steps(*axis, ceil_mode) for axis in zip(room, stride, size, pads, strict=True))
    if min(out, default=1) < 1:
        raise ShapeError(
            f"{name}: a kernel of sizes {reach}, dilation included, does not fit into sizes {size} with padding {pads}"
        )
    return _exact(size, kernel, stride, tuple(before for before, _ in pads), dilation, out)


def _window_steps(room: int, stride: int, size: int, pads: tuple[int, int], ceil_mode: bool) -> int:
    """How many windows there are; rounded up, the last one must still start inside of the value or left of it."""
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pads[0] else count


def _exact(size: Shape, kernel: Shape, stride: Shape, before: Shape, dilation: Shape, out: Shape) -> Windows:
    """Windows whose padding behind ends with the last window."""
    rows = zip(size, kernel, stride, before, dilation, out, strict=True)
    pads = tuple((b, (o - 1) * s + d * (k - 1) + 1 - n - b) for n, k, s, b, d, o in rows)
    return Windows(size, kernel, stride, pads, dilation, out)


# Views.


def _inside(pads: Pads, size: Shape) -> Subscript:
    """The subscript of an array's own elements in the padded one."""
    return (..., *(slice(before, before + n + min(after, 0)) for n, (before, after) in zip(size, pads, strict=True)))


def _within_reach(pads: Pads, size: Shape) -> Subscript:
    """The subscript of the elements that some window may reach."""
    return (..., *(slice(0, n + min(after, 0)) for n, (_, after) in zip(size, pads, strict=True)))


def _padded_shape(w: Windows) -> Shape:
    return tuple(n + before + after for n, (before, after) in zip(w.size, w.pads, strict=True))


def _padded(xp: ArrayModule, x: Array, w: Windows, fill: float) -> Array:
    x = x[_within_reach(w.pads, w.size)]
    if not any(before or after > 0 for before, after in w.pads):
        return x
    padded = xp.full((*x.shape[: x.ndim - len(w.size)], *_padded_shape(w)), fill, x.dtype)
    padded[_inside(w.pads, w.size)] = x
    return padded


def sliding(xp: ArrayModule, x: Array, w: Windows, fill: float = 0.0) -> Array:
    """``x`` (..., *size) seen as (..., *kernel, *out): no copy but that of the padding."""
    if symbolic(xp):
        how = {"kernel": w.kernel, "stride": w.stride, "padding": w.pads, "dilation": w.dilation}
        return xp.record_op(WINDOWS, (x,), fill=fill, **how)
    padded = _padded(xp, x, w, fill)
    lead = padded.ndim - len(w.size)
    steps = padded.strides[lead:]
    return xp.lib.stride_tricks.as_strided(
        padded,
        (*padded.shape[:lead], *w.kernel, *w.out),
        (
            *padded.strides[:lead],
            *(d * step for d, step in zip(w.dilation, steps, strict=True)),
            *(s * step for s, step in zip(w.stride, steps, strict=True)),
        ),
    )


@lru_cache(maxsize=512)
def _window_places(w: Windows) -> tuple[tuple[Subscript, Subscript], ...]:
    """For every element of a window: its subscript in the windows, and in the padded array."""
    found: list[tuple[Subscript, Subscript]] = []
    for offset in product(*map(range, w.kernel)):
        rows = zip(offset, w.dilation, w.stride, w.out, strict=True)
        stretch = tuple(slice(o * d, o * d + s * (n - 1) + 1, s) for o, d, s, n in rows)
        found.append(((..., *offset, *(ALL,) * len(offset)), (..., *stretch)))
    return tuple(found)


def folded(xp: ArrayModule, columns: Array, w: Windows) -> Array:
    """(..., *kernel, *out) added up to (..., *size): the transpose of `sliding`."""
    if symbolic(xp):
        how = {"kernel": w.kernel, "stride": w.stride, "padding": w.pads, "dilation": w.dilation}
        return xp.record_op(FOLD_WINDOWS, (columns,), size=w.size, **how)
    taps = (columns[inside] for inside, _ in _window_places(w))
    return _spread_taps(xp, taps, columns, columns.ndim - 2 * len(w.size), w)


def _spread_taps(xp: ArrayModule, taps: Iterable[Array], like: Array, lead: int, w: Windows) -> Array:
    """What comes back to each element of all windows, in the order of `_window_places`, added up to (..., *size). The
    first ``lead`` axes, and the dtype, are those of ``like``."""
    padded = xp.zeros((*like.shape[:lead], *_padded_shape(w)), like.dtype)
    for (_, place), tap in zip(_window_places(w), taps, strict=True):
        padded[place] += tap
    answer = padded[_inside(w.pads, w.size)]
    if all(after >= 0 for _, after in w.pads):
        return answer
    whole = xp.zeros((*like.shape[:lead], *w.size), like.dtype)
    whole[_within_reach(w.pads, w.size)] = answer
    return whole


def _windows_shape(
    x: Abstract, *, kernel: Sizes, stride: Sizes = 1, padding: Padding = 0, dilation: Sizes = 1, fill: float = 0.0
) -> Result:
    n = len(kernel) if isinstance(kernel, Sequence) else 1
    if len(x.shape) < n:
        raise ShapeError(f"windows over {n} axes takes a value of as many, got shape {x.shape}")
    lead, size = x.shape[: len(x.shape) - n], x.shape[len(x.shape) - n :]
    w = windows_of("windows", size, kernel, stride, padding, dilation)
    return Result((*lead, *w.kernel, *w.out), x.dtype, {"w": w, "fill": float(fill)})


def _windows(xp: ArrayModule, x: Array, out: Array = None, *, w: Windows, fill: float) -> Array:
    return sliding(xp, x, w, fill)


def _windows_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, w: Windows, fill: float) -> Array:
    return folded(xp, g, w)


def _fold_shape(
    x: Abstract, *, size: Sizes, kernel: Sizes, stride: Sizes = 1, padding: Padding = 0, dilation: Sizes = 1
) -> Result:
    n = len(size) if isinstance(size, Sequence) else 1
    w = windows_of("fold_windows", _whole("fold_windows", "size", size, n, 1), kernel, stride, padding, dilation)
    want = (*w.kernel, *w.out)
    if x.shape[len(x.shape) - 2 * n :] != want:
        raise ShapeError(f"fold_windows to sizes {w.size} takes a value whose last axes are {want}, got {x.shape}")
    return Result((*x.shape[: len(x.shape) - 2 * n], *w.size), x.dtype, {"w": w})


def _fold(xp: ArrayModule, x: Array, out: Array = None, *, w: Windows) -> Array:
    return folded(xp, x, w)


def _fold_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, w: Windows) -> Array:
    return sliding(xp, g, w)


WINDOWS = register(Op("windows", _windows_shape, _windows, (_windows_x,)))
FOLD_WINDOWS = register(Op("fold_windows", _fold_shape, _fold, (_fold_x,)))


# The three products. Arrays come with their groups apart: image (g, c, *size), maps (g, o, *out), weight
# (g, o, c, *kernel), each with the batch axis in front or without.


def _in_groups(xp: ArrayModule, x: Array, groups: int, axes: int) -> Array:
    """The axis that has ``axes`` axes behind it as two: groups, and the rest."""
    at = x.ndim - axes - 1
    return xp.reshape(x, (*x.shape[:at], groups, x.shape[at] // groups, *x.shape[at + 1 :]))


def _merged(xp: ArrayModule, x: Array, axes: int) -> Array:
    """The inverse of `_in_groups`."""
    at = x.ndim - axes - 2
    return xp.reshape(x, (*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :]))


def _batch_first(xp: ArrayModule, x: Array, letters: str) -> Array:
    at = letters.find(BATCH)
    return x if at < 1 else xp.transpose(x, (at, *(i for i in range(x.ndim) if i != at)))


def _result_letters(a: str, own: str, rest: str, batched: bool) -> str:
    """The letters of a product: the batch stands with the operand that has it, so that rows stay contiguous."""
    if not batched:
        return own + rest
    return BATCH + own + rest if BATCH in a else own + BATCH + rest


def _contracted(
    xp: ArrayModule, left: tuple[Array, str], right: tuple[Array, str], result: str, cotangent: int | None
) -> Array:
    """`contract` of two operands, or of an operand with a cotangent, which is the first or the second of them."""
    if cotangent is None:
        return contract(xp, *left, *right, result)
    return contract_or_zero(xp, left, right, result, cotangent)


# In the next three, ``cotangent`` says which of the two is one in a vjp: the weight and the image, the weight and the
# maps, the image and the maps.


def correlate(
    xp: ArrayModule, image: Array, weight: Array, w: Windows, batched: bool, cotangent: int | None = None
) -> Array:
    """``maps[o, p] = sum over c and k of weight[o, c, k] * image[c, k + p]``."""
    kernel, places = WINDOW_LETTERS[: len(w.size)], PLACE_LETTERS[: len(w.size)]
    columns = sliding(xp, image, w)
    left, right = lettered(weight, "goc" + kernel), lettered(columns, "gc" + kernel + places)
    letters = _result_letters(left, "go", places, batched)
    return _batch_first(xp, _contracted(xp, (weight, left), (columns, right), letters, cotangent), letters)


def spread(
    xp: ArrayModule, maps: Array, weight: Array, w: Windows, batched: bool, cotangent: int | None = None
) -> Array:
    """``image[c, k + p] = sum over o of weight[o, c, k] * maps[o, p]``."""
    # Only of cotangents, of which a zero makes nothing of an infinite weight: the padding has zeros of its own.
    back = None if cotangent is None or symbolic(xp) else _back(w)
    if back is not None and weight.shape[-len(w.size) - 2] <= weight.shape[-len(w.size) - 1]:
        return correlate(xp, maps, _turned(xp, weight, len(w.size)), back, batched, cotangent)
    kernel, places = WINDOW_LETTERS[: len(w.size)], PLACE_LETTERS[: len(w.size)]
    left, right = lettered(weight, "goc" + kernel), lettered(maps, "go" + places)
    letters = _result_letters(left, "gc" + kernel, places, batched)
    answer = _contracted(xp, (weight, left), (maps, right), letters, cotangent)
    return folded(xp, _batch_first(xp, answer, letters), w)


@lru_cache(maxsize=512)
def _back(w: Windows) -> Windows | None:
    """The windows over the maps that reach each element of the image, where steps are of one: a sum over them takes a
    third less time than to spread, at nine additions an element for a kernel of 3 x 3, if there are no more maps than
    channels."""
    reach = [d * (k - 1) for k, d in zip(w.kernel, w.dilation, strict=True)]
    pads = tuple((r - before, r - after) for r, (before, after) in zip(reach, w.pads, strict=True))
    if any(s != 1 for s in w.stride) or any(min(pair) < 0 for pair in pads):
        return None
    return Windows(w.out, w.kernel, w.stride, pads, w.dilation, w.size)


def _turned(xp: ArrayModule, weight: Array, n: int) -> Array:
    """A weight (..., o, c, *kernel) as (..., c, o, *kernel), each kernel from its end."""
    return xp.flip(xp.swapaxes(weight, -n - 2, -n - 1), tuple(range(-n, 0)))


def weigh(xp: ArrayModule, image: Array, maps: Array, w: Windows, batched: bool, cotangent: int) -> Array:
    """``weight[o, c, k] = sum over p of maps[o, p] * image[c, k + p]``."""
    n = len(w.size)
    kernel, places = WINDOW_LETTERS[:n], PLACE_LETTERS[:n]
    columns = sliding(xp, image, w)
    left, right = lettered(columns, "gc" + kernel + places), lettered(maps, "go" + places)
    letters = BATCH * batched + "gc" + kernel + "o"
    answer = _contracted(xp, (columns, left), (maps, right), letters, cotangent)
    head = tuple(range(1 + batched))  # the batch and the groups stay in front, the maps come next
    return xp.transpose(answer, (*head, answer.ndim - 1, *range(1 + batched, answer.ndim - 1)))


# The same by the core.


class _AxisPlaces(NamedTuple):
    """Along one axis: of each element of the kernel the plane that it reads and how many places on, how many places a
    row has, and of each plane the first place that is an element of the image, how many are, and the first element."""

    planes: list[int]
    shifts: list[int]
    pitch: int
    spans: list[tuple[int, int, int]]


def _axis_places(size: int, kernel: int, stride: int, before: int, dilation: int, out: int) -> _AxisPlaces:
    """Windows that are ``stride`` apart read planes of every ``stride``-th element. Rows share as many of the zeros
    between them as all of them have at either end."""
    reached = [t * dilation for t in range(kernel)]
    steps = sorted({r % stride for r in reached})
    shifts = [r // stride for r in reached]
    places = out + max(shifts)
    spans = []
    for step in steps:
        first = min(max(-((step - before) // stride), 0), places)
        end = min(max(-((step - before - size) // stride), first), places)
        spans.append((first, end - first, step - before + first * stride))
    zeros = min(min(first, places - first - count) for first, count, _ in spans)
    return _AxisPlaces([steps.index(r % stride) for r in reached], shifts, places - min(zeros, max(shifts)), spans)


def _rows_of_planes(axis: _AxisPlaces, stride: int) -> HostArray:
    """Of each plane and place along one axis the element of the image, or -1."""
    found = np.full((len(axis.spans), axis.pitch), -1, np.int64)
    for plane, (first, count, element) in zip(found, axis.spans, strict=True):
        plane[first : first + count] = element + stride * np.arange(count)
    return found


@lru_cache(maxsize=512)
def windows_in_core(w: Windows) -> Any:
    """Where the core reads images and maps of these windows: ``lf_places`` in ``core/c/images.h``."""
    befores = tuple(before for before, _ in w.pads)
    axes = [_axis_places(*axis) for axis in zip(w.size, w.kernel, w.stride, befores, w.dilation, w.out, strict=True)]
    plane, shift, map_row = (np.zeros(1, np.int64) for _ in range(3))
    row_from = np.zeros((1, 1), np.int64)
    for axis in axes:
        plane = np.add.outer(plane * len(axis.spans), axis.planes).ravel()
        shift = np.add.outer(shift * axis.pitch, axis.shifts).ravel()
    for axis, size, stride, out in zip(axes, w.size, w.stride, w.out[:-1], strict=False):
        map_row = np.add.outer(map_row * axis.pitch, np.arange(out)).ravel()
        before, own = row_from[:, None, :, None], _rows_of_planes(axis, stride)[None, :, None, :]
        row_from = np.where((before < 0) | (own < 0), -1, before * size + own)
        row_from = row_from.reshape(row_from.shape[0] * row_from.shape[1], -1)
    row_from[row_from > 0] *= w.size[-1]
    (lead, rows), last = row_from.shape, axes[-1]
    spans = np.array(last.spans, np.int64).T.copy()
    sizes = (math.prod(w.size), rows, last.pitch, lead, len(last.spans), w.stride[-1], int(shift.max()), w.out[-1])
    return core.machine.Places(sizes, row_from, spans, np.stack([plane, shift]), map_row)


def _is_for_core(xp: ArrayModule, w: Windows, x: Array, W: Array, b: Array = None) -> bool:
    """Whether the core computes products of these: arrays of the host, and one weight, and bias, for all examples."""
    if xp is not np or core.machine is None or W.ndim > len(w.size) + 2 or (b is not None and b.ndim > 1):
        return False
    return bool(x.dtype == W.dtype and x.dtype.char in "fd" and x.size and W.size and 0 not in w.size)


def _minibatch(x: Array, w: Windows) -> Array:
    """Images or maps as the core takes them: contiguous, with a batch axis."""
    return np.ascontiguousarray(x if _is_batched(x, w) else x[None])


def _room_for_result(x: Array, w: Windows, shape: Shape, out: Array = None) -> tuple[Array, Array]:
    """Room for the results of a minibatch, or of one example, of this ``shape``: as the core takes it, and as it is."""
    whole = (len(x), *shape) if _is_batched(x, w) else shape
    if out is None or out.shape != whole or out.dtype != x.dtype or not out.flags.c_contiguous:
        out = np.empty(whole, x.dtype)
    return out.reshape(-1, *shape), out


def _correlated(w: Windows, groups: int, x: Array, W: Array, b: Array = None, out: Array = None) -> Array:
    """`correlate` by the core, plus a bias."""
    rows, answer = _room_for_result(x, w, (len(W), *w.out), out)
    core.machine.correlate(windows_in_core(w), groups, _minibatch(x, w), np.ascontiguousarray(W), rows, b)
    return answer


def _spread_by_core(w: Windows, groups: int, x: Array, W: Array, b: Array = None, out: Array = None) -> Array:
    """`spread` by the core, plus a bias."""
    rows, answer = _room_for_result(x, w, (W.shape[1] * groups, *w.size), out)
    core.machine.spread(windows_in_core(w), groups, _minibatch(x, w), np.ascontiguousarray(W), rows, b)
    return answer


def _weighed(w: Windows, groups: int, image: Array, maps: Array) -> Array:
    """`weigh` by the core, summed over a minibatch."""
    images, some = _minibatch(image, w), _minibatch(maps, w)
    if len(images) != len(some):  # one is that of all examples
        count = max(len(images), len(some))
        images, some = (np.ascontiguousarray(np.broadcast_to(a, (count, *a.shape[1:]))) for a in (images, some))
    answer = np.empty((some.shape[1], images.shape[1] // groups, *w.kernel), image.dtype)
    core.machine.weigh(windows_in_core(w), groups, images, some, answer)
    return answer


# Convolutions.


def _axes(name: str, x: Abstract, W: Abstract, form: str) -> int:
    n = len(W.shape) - 2
    if not 1 <= n <= len(WINDOW_LETTERS) or len(x.shape) != n + 1:
        raise ShapeError(f"{name} takes x (channels, *size) and a weight {form}; got x {x.shape} and W {W.shape}")
    return n


def _channels(name: str, x: Abstract, W: Abstract, wanted: int, groups: int, split: int, form: str) -> None:
    """Check that the channels fit the weight, and that ``groups`` divides all of them."""
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 1:
        raise ValueError(f"{name}: groups must be an integer of at least 1, got {groups!r}")
    if split % groups or x.shape[0] % groups:
        raise ShapeError(f"{name}: groups={groups} must divide the channels of x {x.shape} and of W {W.shape}")
    if x.shape[0] != wanted:
        raise ShapeError(
            f"{name}: x {x.shape} has {x.shape[0]} channels, and W {W.shape}, {form} with groups={groups}, "
            f"takes {wanted}"
        )


def _bias(name: str, b: Abstract | None, channels: int) -> None:
    if b is not None and b.shape != (channels,):
        raise ShapeError(f"{name}: the bias must have one element for each of {channels} channels, got {b.shape}")


def _conv_shape(
    x: Abstract,
    W: Abstract,
    b: Abstract | None = None,
    *,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int,
) -> Result:
    form = "(out, channels / groups, *kernel)"
    dtype = numeric("conv", *(o for o in (x, W, b) if o is not None))
    _axes("conv", x, W, form)
    _channels("conv", x, W, W.shape[1] * groups if isinstance(groups, int) else 0, groups, W.shape[0], form)
    _bias("conv", b, W.shape[0])
    w = windows_of("conv", x.shape[1:], W.shape[2:], stride, padding, dilation)
    return Result((W.shape[0], *w.out), dtype, {"w": w, "groups": int(groups)})


def _conv_transpose_shape(
    x: Abstract,
    W: Abstract,
    b: Abstract | None = None,
    *,
    stride: Sizes,
    padding: Padding,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Result:
    form = "(channels, out / groups, *kernel)"
    dtype = numeric("conv_transpose", *(o for o in (x, W, b) if o is not None))
    n = _axes("conv_transpose", x, W, form)
    _channels("conv_transpose", x, W, W.shape[0], groups, W.shape[0], form)
    channels = W.shape[1] * groups
    _bias("conv_transpose", b, channels)
    w = _windows_back(x.shape[1:], W.shape[2:], n, stride, padding, output_padding, dilation)
    return Result((channels, *w.size), dtype, {"w": w, "groups": int(groups)})


def _windows_back(
    out: Shape, kernel: Shape, n: int, stride: Sizes, padding: Padding, more: Sizes, dilation: Sizes
) -> Windows:
    """The windows of the convolution whose input has the size that a transposed one's result shall have."""
    name = "conv_transpose"
    stride, dilation = _whole(name, "stride", stride, n, 1), _whole(name, "dilation", dilation, n, 1)
    before, more = _whole(name, "padding", padding, n, 0), _whole(name, "output_padding", more, n, 0)
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise ValueError(
            f"{name}: output_padding must be smaller than stride or dilation, "
            f"got {more} with stride {stride} and dilation {dilation}"
        )
    rows = zip(out, kernel, stride, before, dilation, more, strict=True)
    size = tuple((o - 1) * s - 2 * b + d * (k - 1) + m + 1 for o, k, s, b, d, m in rows)
    if min(size) < 1:
        raise ShapeError(f"{name}: sizes {out} with a kernel {kernel} and padding {before} leave the sizes {size}")
    return _exact(size, kernel, stride, before, dilation, out)


def _is_batched(x: Array, w: Windows) -> bool:
    return bool(x.ndim > len(w.size) + 1)


def _with_bias(xp: ArrayModule, y: Array, b: Array | None, out: Array | None, axes: int) -> Array:
    """``y``, groups apart, with its bias: straight into the launch's own memory where it has the batch axis."""
    if out is not None and out.ndim < y.ndim and out.flags.c_contiguous:
        target = out.reshape(y.shape)
    elif b is None:
        return _merged(xp, y, axes)
    else:
        target = None
    if b is None:
        target[...] = y
        return out
    columns = b.reshape((*b.shape[:-1], *y.shape[-axes - 2 : -axes], *(1,) * axes))
    total = xp.add(y, columns, out=target if target is not None and columns.ndim <= target.ndim else None)
    return out if total is target else _merged(xp, total, axes)


def _conv(xp: ArrayModule, x: Array, W: Array, b: Array = None, out: Array = None, *, w: Windows, groups: int) -> Array:
    if _is_for_core(xp, w, x, W, b):
        return _correlated(w, groups, x, W, b, out)
    n = len(w.size)
    image, weight = _in_groups(xp, x, groups, n), _in_groups(xp, W, groups, n + 1)
    batched = _is_batched(x, w) or W.ndim > n + 2
    return _with_bias(xp, correlate(xp, image, weight, w, batched), b, _room_for(out, batched), n)


def _room_for(out: Array | None, batched: bool) -> Array | None:
    """The launch's memory, if the answer has its batch axis."""
    return out if batched else None


def _conv_x(xp: ArrayModule, g: Array, y: Array, x: Array, W: Array, *b: Array, w: Windows, groups: int) -> Array:
    if _is_for_core(xp, w, g, W):
        return without_nan(partial(_spread_by_core, w, groups), g, W)
    n = len(w.size)
    answer = spread(xp, _in_groups(xp, g, groups, n), _in_groups(xp, W, groups, n + 1), w, _is_batched(x, w), 1)
    return _merged(xp, answer, n)


def _conv_W(xp: ArrayModule, g: Array, y: Array, x: Array, W: Array, *b: Array, w: Windows, groups: int) -> Array:
    if _is_for_core(xp, w, g, W) and x.dtype == g.dtype:
        return without_nan(lambda maps, image: _weighed(w, groups, image, maps), g, x)
    n = len(w.size)
    answer = weigh(xp, _in_groups(xp, x, groups, n), _in_groups(xp, g, groups, n), w, W.ndim > n + 2, 1)
    return _merged(xp, answer, n + 1)


def _conv_b(xp: ArrayModule, g: Array, y: Array, x: Array, W: Array, b: Array, *, w: Windows, groups: int) -> Array:
    axes = tuple(range(-len(w.size), 0))
    return xp.sum(g, axis=axes) if symbolic(xp) else total(g, axes)


def _transposed(
    xp: ArrayModule, x: Array, W: Array, b: Array = None, out: Array = None, *, w: Windows, groups: int
) -> Array:
    if _is_for_core(xp, w, x, W, b):
        answer = _spread_by_core(w, groups, x, W, b, out)
        if not has_nan(answer) or np.isfinite(W).all():  # between the rows of maps it has zeros, which no window reads
            return answer
    n = len(w.size)
    maps, weight = _in_groups(xp, x, groups, n), _in_groups(xp, W, groups, n + 1)
    batched = _is_batched(x, w) or W.ndim > n + 2
    return _with_bias(xp, spread(xp, maps, weight, w, batched), b, _room_for(out, batched), n)


def _transposed_x(xp: ArrayModule, g: Array, y: Array, x: Array, W: Array, *b: Array, w: Windows, groups: int) -> Array:
    if _is_for_core(xp, w, g, W):
        return without_nan(partial(_correlated, w, groups), g, W)
    n = len(w.size)
    answer = correlate(xp, _in_groups(xp, g, groups, n), _in_groups(xp, W, groups, n + 1), w, _is_batched(x, w), 1)
    return _merged(xp, answer, n)


def _transposed_W(xp: ArrayModule, g: Array, y: Array, x: Array, W: Array, *b: Array, w: Windows, groups: int) -> Array:
    if _is_for_core(xp, w, g, W) and x.dtype == g.dtype:
        found = _weighed(w, groups, g, x)
        if not has_nan(found):
            return found
        if np.isfinite(g).all():  # an infinite cotangent would meet the zeros between the rows of maps
            return without_nan(partial(_weighed, w, groups), g, x)
    n = len(w.size)
    answer = weigh(xp, _in_groups(xp, g, groups, n), _in_groups(xp, x, groups, n), w, W.ndim > n + 2, 0)
    return _merged(xp, answer, n + 1)


CONV = register(Op("conv", _conv_shape, _conv, (_conv_x, _conv_W, _conv_b)))
CONV_TRANSPOSE = register(
    Op("conv_transpose", _conv_transpose_shape, _transposed, (_transposed_x, _transposed_W, _conv_b))
)


# Pooling. The lead axes, channels among them, are pooled alike.


def _pool_windows(
    name: str, x: Abstract, kernel: Sizes, stride: Sizes, padding: Padding, dilation: Sizes, ceil_mode: bool
) -> tuple[Windows, Shape]:
    """The windows, and the shape of the pooled value; padding may be half a window at most, as in PyTorch."""
    require_floating(name, x)
    n = len(kernel) if isinstance(kernel, Sequence) else 1
    if len(x.shape) < n:
        raise ShapeError(f"{name} over {n} axes takes a value of as many, got shape {x.shape}")
    lead = x.shape[: len(x.shape) - n]
    w = windows_of(name, x.shape[len(lead) :], kernel, stride, padding, dilation, bool(ceil_mode))
    if any(2 * before > k for (before, _), k in zip(w.pads, w.kernel, strict=True)):
        raise ValueError(f"{name}: padding must be half of the kernel's sizes {w.kernel} at most, got {padding!r}")
    return w, (*lead, *w.out)


def _max_pool_shape(
    x: Abstract, *, kernel: Sizes, stride: Sizes, padding: Padding = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> Result:
    w, shape = _pool_windows("max_pool", x, kernel, stride, padding, dilation, ceil_mode)
    return Result(shape, x.dtype, {"w": w})


def _taps(xp: ArrayModule, x: Array, w: Windows, fill: float) -> list[Array]:
    """One array for every element of a window: that element of all windows."""
    view = sliding(xp, x, w, fill)
    return [view[inside] for inside, _ in _window_places(w)]


@lru_cache(maxsize=512)
def pool_axes(w: Windows) -> tuple[Shape, ...]:
    """Of each of three axes what the core is to know, of one of one element where there are fewer."""
    befores = tuple(before for before, _ in w.pads)
    own = tuple(zip(w.size, w.kernel, w.stride, w.dilation, befores, w.out, strict=True))
    return ((1, 1, 1, 1, 0, 1),) * (3 - len(own)) + own


def _pools_in_core(xp: ArrayModule, w: Windows, *arrays: Array) -> bool:
    if xp is not np or core.machine is None or len(w.size) > 3:
        return False
    return all(
        a.flags.c_contiguous and a.ndim == arrays[0].ndim and a.dtype == arrays[0].dtype and a.dtype.char in "fd"
        for a in arrays
    )


def _max_pool(xp: ArrayModule, x: Array, out: Array = None, *, w: Windows) -> Array:
    if _pools_in_core(xp, w, x):
        shape = (*x.shape[: x.ndim - len(w.size)], *w.out)
        y = out if out is not None and out.shape == shape and out.flags.c_contiguous else np.empty(shape, x.dtype)
        core.machine.max_pool(pool_axes(w), x, y)
        return y
    first, *others = _taps(xp, x, w, -math.inf)
    y = out if out is not None and out.shape == first.shape else xp.empty(first.shape, first.dtype)
    y[...] = first
    for tap in others:
        xp.maximum(y, tap, out=y)
    return y


def _max_pool_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, w: Windows) -> Array:
    """To the first of the largest elements of each window, as in PyTorch."""
    if _pools_in_core(xp, w, x, y, g):
        back = np.zeros(x.shape, x.dtype)
        core.machine.max_pool_back(pool_axes(w), x, y, g, back)
        return back
    n, count = len(w.size), math.prod(w.kernel)
    if xp is np:  # elsewhere a few operations over all windows at once are faster
        return _spread_taps(xp, _shares(g, y, _taps(xp, x, w, -math.inf), _inside_taps(y, w)), g, g.ndim - n, w)
    columns = sliding(xp, x, w, -math.inf)
    lead = columns.shape[: columns.ndim - 2 * n]
    rows = xp.reshape(columns, (*lead, count, *w.out))
    if any(chain.from_iterable(w.pads)):  # a window of minus infinities is no reason to choose its padding
        inside = xp.reshape(sliding(xp, xp.ones(w.size, x.dtype), w), (count, *w.out))
        rows = select(xp, (rows == xp.expand_dims(y, -n - 1)) | xp.isnan(rows), inside)
    first = xp.expand_dims(xp.argmax(rows, axis=-n - 1), -n - 1)
    chosen = first == xp.reshape(xp.arange(count), (count, *(1,) * n))
    share = select(xp, chosen, xp.expand_dims(g, -n - 1))
    return folded(xp, xp.reshape(share, (*share.shape[: share.ndim - n - 1], *w.kernel, *w.out)), w)


def _shares(g: Array, y: Array, taps: Sequence[Array], there: Sequence[Array | bool]) -> Iterator[Array]:
    """For each element of a window its part of the cotangent: all of it for the first that is the largest, or NaN, and
    that is ``there``."""
    free, has_nans = np.ones(y.shape, bool), has_nan(y)
    for tap, inside in zip(taps, there, strict=True):
        chosen = (tap == y) | np.isnan(tap) if has_nans else tap == y
        chosen &= free & inside
        free ^= chosen
        yield select(np, chosen, g)


def _inside_taps(y: Array, w: Windows) -> Sequence[Array | bool]:
    """Of each element of a window, where it is none of the padding: asked where that may be the largest."""
    if not np.isneginf(y).any():
        return [True] * math.prod(w.kernel)
    return [tap > 0 for tap in _taps(np, np.ones(w.size, np.float32), w, 0.0)]


MAX_POOL = register(Op("max_pool", _max_pool_shape, _max_pool, (_max_pool_x,)))


def _avg_pool_shape(
    x: Abstract,
    *,
    kernel: Sizes,
    stride: Sizes,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Result:
    if divisor_override is not None and not divisor_override > 0:
        raise ValueError(f"avg_pool: divisor_override must be positive, got {divisor_override!r}")
    w, shape = _pool_windows("avg_pool", x, kernel, stride, padding, 1, ceil_mode)
    counted = tuple(before if count_include_pad else 0 for before, _ in w.pads)
    return Result(shape, x.dtype, {"w": w, "counted": counted, "divisor": divisor_override})


@lru_cache(maxsize=512)
def _divisors(w: Windows, counted: Shape, divisor: int | None) -> Array:
    """What each window's sum is divided by: the elements in it, ``counted`` of the padding among them."""
    if divisor is not None:
        return float(divisor)
    inside = np.zeros(_padded_shape(w))
    rows = zip(w.pads, counted, w.size, strict=True)
    inside[tuple(slice(before - c, before + n + c) for (before, _), c, n in rows)] = 1
    whole = Windows(inside.shape, w.kernel, w.stride, ((0, 0),) * len(w.size), w.dilation, w.out)
    counts = sliding(np, inside, whole).sum(axis=tuple(range(len(w.size))))
    return float(counts.flat[0]) if (counts == counts.flat[0]).all() else counts


def _divisor(xp: ArrayModule, dtype: DType, w: Windows, counted: Shape, divisor: int | None) -> Array:
    counts = _divisors(w, counted, divisor)
    return counts if isinstance(counts, float) else xp.asarray(counts.astype(dtype))


def divisors_of(w: Windows, counted: Shape, divisor: int | None) -> tuple[list[tuple[int, HostArray, HostArray]], Any]:
    """Of each axis its size and where the windows begin and end in it, and what their sums are divided by."""
    found = []
    for size, kernel, stride, (before, _), out in zip(w.size, w.kernel, w.stride, w.pads, w.out, strict=True):
        first = np.arange(out) * stride - before
        found.append((size, np.clip(first, 0, size), np.clip(first + kernel, 0, size)))
    return found, np.array(_divisors(w, counted, divisor), np.float64)


def _avg_pool(
    xp: ArrayModule, x: Array, out: Array = None, *, w: Windows, counted: Shape, divisor: int | None
) -> Array:
    first, *others = _taps(xp, x, w, 0.0)
    y = out if out is not None and out.shape == first.shape else xp.empty(first.shape, first.dtype)
    y[...] = first
    for tap in others:
        y += tap
    y /= _divisor(xp, x.dtype, w, counted, divisor)
    return y


def _avg_pool_x(
    xp: ArrayModule, g: Array, y: Array, x: Array, *, w: Windows, counted: Shape, divisor: int | None
) -> Array:
    n = len(w.size)
    share = g / _divisor(xp, x.dtype, w, counted, divisor)
    lead = share.shape[: share.ndim - n]
    columns = xp.broadcast_to(xp.reshape(share, (*lead, *(1,) * n, *w.out)), (*lead, *w.kernel, *w.out))
    return folded(xp, columns, w)


AVG_POOL = register(Op("avg_pool", _avg_pool_shape, _avg_pool, (_avg_pool_x,)))


def _adaptive_shape(x: Abstract, *, output_size: Sequence[int | None]) -> Result:
    require_floating("adaptive_avg_pool", x)
    n = len(output_size)
    if len(x.shape) < n or not math.prod(x.shape[len(x.shape) - n :]):
        raise ShapeError(f"adaptive_avg_pool over {n} axes takes a value of as many, none empty, got shape {x.shape}")
    lead, size = x.shape[: len(x.shape) - n], x.shape[len(x.shape) - n :]
    out = tuple(s if o is None else o for o, s in zip(output_size, size, strict=True))
    out = _whole("adaptive_avg_pool", "output_size", out, n, 1)
    return Result((*lead, *out), x.dtype, {"sizes": tuple(zip(out, size, strict=True))})


@lru_cache(maxsize=512)
def _bins(out: int, size: int) -> tuple[HostArray, HostArray]:
    """Where each of ``out`` bins begins and ends: from floor(i n / out) to ceil((i + 1) n / out)."""
    i = np.arange(out)
    return i * size // out, -((i + 1) * -size // out)


def bins_of(sizes: tuple[tuple[int, int], ...]) -> tuple[list[tuple[int, HostArray, HostArray]], Any]:
    """The same of bins."""
    ranges = [(size, *_bins(out, size)) for out, size in sizes]
    counts = [stop - start for _, start, stop in ranges]
    return ranges, reduce(np.multiply.outer, counts).astype(np.float64)


@lru_cache(maxsize=512)
def _holders(out: int, size: int) -> tuple[HostArray, HostArray]:
    """Of each element, where the bins that hold it begin and end."""
    start, stop = _bins(out, size)
    at = np.arange(size)
    return np.searchsorted(stop, at, "right"), np.searchsorted(start, at, "right")


def _sums_of_ranges(xp: ArrayModule, x: Array, axis: int, start: HostArray, stop: HostArray) -> Array:
    """Sums of ``x`` from ``start`` to ``stop`` along an axis counted from the end. No product with a matrix of zeros
    and ones: zero times what is infinite elsewhere is not zero."""
    at = start[:, None] + np.arange((stop - start).max())
    inside = (at < stop[:, None]).reshape(*at.shape, *(1,) * (-axis - 1))
    parts = xp.where(xp.asarray(inside), xp.take(x, xp.asarray(np.minimum(at, stop[:, None] - 1)), axis), 0)
    return xp.sum(parts, axis=axis) if symbolic(xp) else total(parts, axis)


def _counts_in_ranges(xp: ArrayModule, dtype: DType, axis: int, pair: tuple[int, int]) -> Array:
    start, stop = _bins(*pair)
    return xp.asarray((stop - start).astype(dtype).reshape(-1, *(1,) * (-axis - 1)))


def _adaptive(xp: ArrayModule, x: Array, out: Array = None, *, sizes: tuple[tuple[int, int], ...]) -> Array:
    for axis, pair in enumerate(sizes, -len(sizes)):
        x = _sums_of_ranges(xp, x, axis, *_bins(*pair)) / _counts_in_ranges(xp, x.dtype, axis, pair)
    return x


def _adaptive_x(xp: ArrayModule, g: Array, y: Array, x: Array, *, sizes: tuple[tuple[int, int], ...]) -> Array:
    for axis, pair in enumerate(sizes, -len(sizes)):
        g = _sums_of_ranges(xp, g / _counts_in_ranges(xp, g.dtype, axis, pair), axis, *_holders(*pair))
    return g


ADAPTIVE_AVG_POOL = register(Op("adaptive_avg_pool", _adaptive_shape, _adaptive, (_adaptive_x,)))

"""Random numbers as a pure function of (seed, counter, element): uniform, normal, gumbel, bernoulli, dropout_mask.

Row ``i`` of a launch depends on ``seed[i]`` and ``counter[i]`` alone, so the numbers are the same however nodes were
batched, in whatever order they ran, on NumPy and on a device, where one kernel draws all of a launch
(`lazyflow.cuda.draws`; up to the last bits of ``log`` and ``cos``). That is a
counter-based generator (Salmon, Moraes, Dror & Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011); the
bijection is that of SplitMix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014),
twice: output number ``counter`` of the generator that starts at ``seed`` is the state that the row is drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import pi, prod
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.draws import draw as draw_there
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import Abstract, Op, Result, Shape, on_device, register, require_integer, written

# The increment and the two multipliers of SplitMix64.
GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIXING = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
LAST = np.uint64(31)

# Elements drawn at a time on the CPU: the temporaries stay in cache, which halves the time of a large draw.
DRAWN_AT_ONCE = 1 << 15

DTYPES = ("float16", "float32", "float64")

Draw = Callable[..., Array]
Count = int | Array


def mix(state: Array) -> Array:
    """SplitMix64's bijection of 64-bit words that scatters counters; in place, on an array of uint64.

    >>> [hex(word) for word in mix(np.array([GAMMA], np.uint64))]
    ['0xe220a8397b1dcdaf']
    """
    for shift, factor in MIXING:
        state ^= state >> shift
        state *= factor
    state ^= state >> LAST
    return state


def keys(seed: Array, counter: Array) -> Array:
    """One 64-bit state a row, (batch,) or (1,), from the integers ``seed`` and ``counter``, each (batch,) or ()."""
    start = mix(np.asarray(seed).reshape(-1).astype(np.uint64))
    return mix(start + np.asarray(counter).reshape(-1).astype(np.uint64) * GAMMA)


# Of every state ``count`` numbers, (batch, count), or, if that is an array, as many as it says, end to end.


def words(key: Array, count: Count) -> Array:
    """The first ``count`` outputs of SplitMix64 from every state, uint64."""
    if isinstance(count, int):
        return mix(key[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GAMMA)
    return mix(np.repeat(key, count) + _within(count) * GAMMA)


def _within(count: Array) -> Array:
    """For each state 1, 2, ... up to its count."""
    ends = np.cumsum(count)
    return np.arange(1, int(ends[-1]) + 1, dtype=np.uint64) - np.repeat((ends - count).astype(np.uint64), count)


def _but_odd(drawn: Array, count: Count) -> Array:
    """Numbers that were drawn in pairs, without the last of those that have an odd count."""
    if isinstance(count, int):
        return drawn.reshape(len(drawn), -1)[:, :count]
    drawn, pairs = drawn.reshape(-1), count + count % 2
    if (pairs == count).all():
        return drawn
    kept = np.ones(len(drawn), np.bool_)
    kept[(np.cumsum(pairs) - 1)[pairs != count]] = False
    return drawn[kept]


def bits32(key: Array, count: Count) -> Array:
    """Words of 32 bits, two from each 64-bit word."""
    return _but_odd(words(key, (count + 1) // 2).view(np.uint32), count)


def unit(key: Array, count: Count, dtype: DType) -> Array:
    """Multiples of 2**-p in [0, 1), where p is the precision of ``dtype``: 11, 24 or 53 bits."""
    if dtype.itemsize == 8:
        return (words(key, count) >> np.uint64(11)) * 2.0**-53
    precision = 24 if dtype.itemsize == 4 else 11
    bits = bits32(key, count) >> np.uint32(32 - precision)
    return bits.astype(dtype) * dtype.type(2.0**-precision)


def gauss(key: Array, count: Count, dtype: DType) -> Array:
    """Standard normal numbers, two from every pair of words (Box & Muller 1958).

    The radius is drawn from (0, 1], so that its logarithm is finite; in single precision with 32 bits, which reach to
    6.7 standard deviations.
    """
    pairs = (count + 1) // 2
    if dtype.itemsize == 8:
        drawn, precision, real = words(key, 2 * pairs) >> np.uint64(11), 53, np.float64
    else:
        drawn, precision, real = bits32(key, 2 * pairs), 32, np.float32
    radius = drawn[..., 0::2].astype(real)
    radius += real(1)
    radius *= real(2.0**-precision)
    radius = np.sqrt(np.log(radius) * real(-2))
    angle = drawn[..., 1::2].astype(real)
    angle *= real(2 * pi * 2.0**-precision)
    both = np.empty((*radius.shape, 2), real)
    both[..., 0] = radius * np.cos(angle)
    both[..., 1] = radius * np.sin(angle)
    return _but_odd(both, count).astype(dtype, copy=False)


def below(key: Array, count: Count, p: Array) -> Array:
    """Booleans that are true with probability ``p``, a column; it is rounded to 24 bits."""
    threshold = np.rint(p * 2.0**24).astype(np.uint32)
    return (bits32(key, count) >> np.uint32(8)) < threshold


def _uniform(key: Array, count: int, dtype: DType, low: Array, high: Array) -> Array:
    low, high = low.astype(dtype), high.astype(dtype)
    return low + unit(key, count, dtype) * (high - low)


def _normal(key: Array, count: int, dtype: DType, mean: Array, std: Array) -> Array:
    return gauss(key, count, dtype) * std.astype(dtype) + mean.astype(dtype)


def _gumbel(key: Array, count: int, dtype: DType, loc: Array, scale: Array) -> Array:
    """By inversion, of numbers strictly between 0 and 1 (52 bits and a half), so that both logarithms are finite."""
    u = ((words(key, count) >> np.uint64(12)) + 0.5) * 2.0**-52
    return (loc - scale * np.log(-np.log(u))).astype(dtype, copy=False)


def _bernoulli(key: Array, count: int, dtype: DType, p: Array) -> Array:
    return below(key, count, p).astype(dtype)


def _dropout_mask(key: Array, count: int, dtype: DType, p: Array) -> Array:
    keep = 1 - p
    scale = np.where(keep > 0, 1 / np.where(keep > 0, keep, 1), 0)  # p = 1 drops everything, and is no division by zero
    return below(key, count, keep) * scale.astype(dtype)


def _column(value: Any) -> Array:
    """A parameter of a distribution, a number or (batch, 1, ..., 1), as (batch, 1) or (1, 1), in double precision."""
    return np.asarray(value, np.float64).reshape(-1, 1)


_DRAWS: dict[str, Draw] = {
    "uniform": _uniform,
    "normal": _normal,
    "gumbel": _gumbel,
    "bernoulli": _bernoulli,
    "dropout_mask": _dropout_mask,
}


def _drawn_into(
    name: str, xp: ArrayModule, seed: Array, counter: Array, *given: Any, out: Array = None, shape: Shape, dtype: DType
) -> Array:
    count, alike = prod(shape), not any(getattr(operand, "ndim", 0) for operand in (seed, counter, *given))
    if xp is not np:
        nodes = _nodes_there(xp, seed, counter, given)
        found = _rows_there(xp, None if alike else out, max(node.size for node in nodes), shape, dtype)
        draw_there(name, nodes, found, count)
        return found.reshape(shape) if alike else found if out is None or found is out else written(out, found)
    draw, key, columns = _DRAWS[name], keys(seed, counter), [_column(value) for value in given]
    if alike:
        return draw(key, count, dtype, *columns).reshape(shape)
    batch = max(len(key), *(len(column) for column in columns))
    key, *columns = (rows if len(rows) == batch else rows.repeat(batch, 0) for rows in (key, *columns))
    if out is None:
        out = np.empty((batch, *shape), dtype)
    step = max(1, DRAWN_AT_ONCE // max(count, 1))
    for rows in (slice(start, start + step) for start in range(0, batch, step)):
        block = out[rows]
        block[...] = draw(key[rows], count, dtype, *(column[rows] for column in columns)).reshape(block.shape)
    return out


def _rows_there(xp: ArrayModule, out: Array, batch: int, shape: Shape, dtype: DType) -> Array:
    """Memory for the numbers of ``batch`` nodes on a device: ``out`` itself, if a kernel can write there."""
    fits = out is not None and out.shape == (batch, *shape) and out.dtype == dtype
    return out if fits and out[:1].flags.c_contiguous else xp.empty((batch, *shape), dtype)


def _nodes_there(xp: ArrayModule, seed: Array, counter: Array, given: Sequence[Any]) -> list[Array]:
    """What nodes draw from, as the kernel takes it: numbers, and arrays of the device."""
    kinds: list[Any] = [np.int64, np.int64, *[np.float64] * len(given)]
    return [_there(xp, value, kind) for value, kind in zip((seed, counter, *given), kinds, strict=True)]


def _there(xp: ArrayModule, value: Any, kind: Any) -> Array:
    """A number, or an array of the device in that dtype: what was copied there of payload is taken from there."""
    if devices.is_on_gpu(value):
        return value.reshape(-1).astype(kind, copy=False)
    host = np.asarray(value)
    if host.size == 1:
        return host.reshape(()).astype(kind)[()]
    return xp.asarray(on_device(xp, value)).reshape(-1).astype(kind, copy=False)


def _filled_end_to_end(
    name: str, xp: ArrayModule, seed: Array, counter: Array, *given: Any, out: Array = None, dtype: DType
) -> Array:
    """Of each node as many numbers as the last of ``given`` says, the same as in a launch of its own."""
    *given_numbers, count = given
    if xp is not np:
        ends = getattr(count, "ends", None)
        ends = xp.asarray(np.cumsum(count)) if ends is None else ends
        draw_there(name, _nodes_there(xp, seed, counter, given_numbers), out, 0, ends)
        return out
    draw, key, columns = _DRAWS[name], keys(seed, counter), [_column(value).reshape(-1) for value in given_numbers]
    columns = [column.repeat(len(count), 0) if len(column) < len(count) else column for column in columns]
    count, ends = np.asarray(count), np.cumsum(count)
    step = max(1, DRAWN_AT_ONCE * len(count) // max(int(ends[-1]), 1))
    for rows in (slice(start, start + step) for start in range(0, len(count), step)):
        mine, first = count[rows], int(ends[rows.start]) - int(count[rows.start])
        some = [np.repeat(column[rows], mine, axis=0) for column in columns]
        out[first : first + int(mine.sum())] = draw(key[rows], mine, dtype, *some)
    return out


def _drawn_result(
    name: str,
    params: tuple[str, ...],
    seed: Abstract,
    counter: Abstract,
    *given: Abstract,
    shape: Any,
    dtype: Any = "float32",
) -> Result:
    for what, operand in (("seed", seed), ("counter", counter)):
        require_integer(name, what, operand)
    if len(given) != len(params) or any(o.shape for o in (seed, counter, *given)):
        shapes = ", ".join(str(o.shape) for o in (seed, counter, *given))
        raise ShapeError(f"{name} takes the scalars seed, counter, {', '.join(params)}; got the shapes {shapes}")
    sizes = tuple(int(n) for n in (shape if isinstance(shape, Sequence) else (shape,)))
    if min(sizes, default=0) < 0:
        raise ShapeError(f"{name}: sizes must not be negative, got shape {sizes}")
    kind = np.dtype(dtype)
    if kind.name not in DTYPES:
        raise DTypeError(f"{name} draws {', '.join(DTYPES)}, not {kind}; convert with .astype")
    return Result(sizes, kind, {"shape": sizes, "dtype": kind})


def _random(name: str, *params: str) -> Op:
    vjps = (None,) * (2 + len(params))
    infer = partial(_drawn_result, name, params)
    DRAWN_BY_PARTS[name] = Op(name, infer, partial(_filled_end_to_end, name), (*vjps, None))
    return register(Op(name, infer, partial(_drawn_into, name), vjps, random=True))


# What draws for many nodes of any shapes, by name; see `lazyflow.ops.rows.ByParts`.
DRAWN_BY_PARTS: dict[str, Op] = {}

UNIFORM = _random("uniform", "low", "high")
NORMAL = _random("normal", "mean", "std")
GUMBEL = _random("gumbel", "loc", "scale")
BERNOULLI = _random("bernoulli", "p")
DROPOUT_MASK = _random("dropout_mask", "p")

"""Random numbers as a pure function of (seed, counter, element): uniform, normal, gumbel, bernoulli, dropout_mask.

Row ``i`` of a launch depends on ``seed[i]`` and ``counter[i]`` alone, so the numbers are the same however nodes were
batched, in whatever order they ran, on NumPy and on CuPy (up to the last bits of ``log`` and ``cos``). That is a
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
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import Abstract, Op, Result, Shape, register, require_integer

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


def keys(xp: ArrayModule, seed: Array, counter: Array) -> Array:
    """One 64-bit state a row, (batch,) or (1,), from the integers ``seed`` and ``counter``, each (batch,) or ()."""
    known = not (devices.is_on_gpu(seed) or devices.is_on_gpu(counter))
    where = np if known else xp
    start = mix(where.asarray(seed).reshape(-1).astype(np.uint64))
    return xp.asarray(mix(start + where.asarray(counter).reshape(-1).astype(np.uint64) * GAMMA))


# Of every state ``count`` numbers, (batch, count), or, if that is an array, as many as it says, end to end.


def words(xp: ArrayModule, key: Array, count: Count) -> Array:
    """The first ``count`` outputs of SplitMix64 from every state, uint64."""
    if isinstance(count, int):
        return mix(key[:, None] + xp.arange(1, count + 1, dtype=np.uint64) * GAMMA)
    state = _repeated_rows(xp, key, count)
    return mix(state + _within(xp, count) * GAMMA)


def _within(xp: ArrayModule, count: Array) -> Array:
    """For each state 1, 2, ... up to its count."""
    ends = np.cumsum(count)
    steps = xp.arange(1, int(ends[-1]) + 1, dtype=np.uint64)
    return steps - _repeated_rows(xp, xp.asarray((ends - count).astype(np.uint64)), count)


def _repeated_rows(xp: ArrayModule, rows: Array, count: Array) -> Array:
    """Each as often as its count says, which is known on the host."""
    if xp is np:
        return np.repeat(rows, count, axis=0)
    ends = xp.asarray(np.cumsum(count))
    return rows[xp.searchsorted(ends, xp.arange(int(count.sum())), side="right")]


def _but_odd(xp: ArrayModule, drawn: Array, count: Count) -> Array:
    """Numbers that were drawn in pairs, without the last of those that have an odd count."""
    if isinstance(count, int):
        return drawn.reshape(len(drawn), -1)[:, :count]
    drawn, pairs = drawn.reshape(-1), count + count % 2
    if (pairs == count).all():
        return drawn
    kept = np.ones(len(drawn), np.bool_)
    kept[(np.cumsum(pairs) - 1)[pairs != count]] = False
    return drawn[xp.asarray(np.flatnonzero(kept))]


def bits32(xp: ArrayModule, key: Array, count: Count) -> Array:
    """Words of 32 bits, two from each 64-bit word."""
    return _but_odd(xp, words(xp, key, (count + 1) // 2).view(np.uint32), count)


def unit(xp: ArrayModule, key: Array, count: Count, dtype: DType) -> Array:
    """Multiples of 2**-p in [0, 1), where p is the precision of ``dtype``: 11, 24 or 53 bits."""
    if dtype.itemsize == 8:
        return (words(xp, key, count) >> np.uint64(11)) * 2.0**-53
    precision = 24 if dtype.itemsize == 4 else 11
    bits = bits32(xp, key, count) >> np.uint32(32 - precision)
    return bits.astype(dtype) * dtype.type(2.0**-precision)


def gauss(xp: ArrayModule, key: Array, count: Count, dtype: DType) -> Array:
    """Standard normal numbers, two from every pair of words (Box & Muller 1958).

    The radius is drawn from (0, 1], so that its logarithm is finite; in single precision with 32 bits, which reach to
    6.7 standard deviations.
    """
    pairs = (count + 1) // 2
    if dtype.itemsize == 8:
        drawn, precision, real = words(xp, key, 2 * pairs) >> np.uint64(11), 53, np.float64
    else:
        drawn, precision, real = bits32(xp, key, 2 * pairs), 32, np.float32
    radius = drawn[..., 0::2].astype(real)
    radius += real(1)
    radius *= real(2.0**-precision)
    radius = xp.sqrt(xp.log(radius) * real(-2))
    angle = drawn[..., 1::2].astype(real)
    angle *= real(2 * pi * 2.0**-precision)
    both = xp.empty((*radius.shape, 2), real)
    both[..., 0] = radius * xp.cos(angle)
    both[..., 1] = radius * xp.sin(angle)
    return _but_odd(xp, both, count).astype(dtype, copy=False)


def below(xp: ArrayModule, key: Array, count: Count, p: Array) -> Array:
    """Booleans that are true with probability ``p``, a column; it is rounded to 24 bits."""
    threshold = xp.rint(p * 2.0**24).astype(np.uint32)
    return (bits32(xp, key, count) >> np.uint32(8)) < threshold


def _uniform(xp: ArrayModule, key: Array, count: int, dtype: DType, low: Array, high: Array) -> Array:
    low, high = low.astype(dtype), high.astype(dtype)
    return low + unit(xp, key, count, dtype) * (high - low)


def _normal(xp: ArrayModule, key: Array, count: int, dtype: DType, mean: Array, std: Array) -> Array:
    return gauss(xp, key, count, dtype) * std.astype(dtype) + mean.astype(dtype)


def _gumbel(xp: ArrayModule, key: Array, count: int, dtype: DType, loc: Array, scale: Array) -> Array:
    """By inversion, of numbers strictly between 0 and 1 (52 bits and a half), so that both logarithms are finite."""
    u = ((words(xp, key, count) >> np.uint64(12)) + 0.5) * 2.0**-52
    return (loc - scale * xp.log(-xp.log(u))).astype(dtype, copy=False)


def _bernoulli(xp: ArrayModule, key: Array, count: int, dtype: DType, p: Array) -> Array:
    return below(xp, key, count, p).astype(dtype)


def _dropout_mask(xp: ArrayModule, key: Array, count: int, dtype: DType, p: Array) -> Array:
    keep = 1 - p
    scale = xp.where(keep > 0, 1 / xp.where(keep > 0, keep, 1), 0)  # p = 1 drops everything, and is no division by zero
    return below(xp, key, count, keep) * scale.astype(dtype)


def _column(xp: ArrayModule, value: Any) -> Array:
    """A parameter of a distribution, a number or (batch, 1, ..., 1), as (batch, 1) or (1, 1), in double precision."""
    return xp.asarray(value, np.float64).reshape(-1, 1)


def _drawn_into(
    draw: Draw, xp: ArrayModule, seed: Array, counter: Array, *given: Any, out: Array = None, shape: Shape, dtype: DType
) -> Array:
    key, columns, count = keys(xp, seed, counter), [_column(xp, value) for value in given], prod(shape)
    if not any(getattr(operand, "ndim", 0) for operand in (seed, counter, *given)):
        return draw(xp, key, count, dtype, *columns).reshape(shape)
    batch = max(len(key), *(len(column) for column in columns))
    key, *columns = (rows if len(rows) == batch else rows.repeat(batch, 0) for rows in (key, *columns))
    if out is None:
        out = xp.empty((batch, *shape), dtype)
    step = max(1, DRAWN_AT_ONCE // max(count, 1)) if xp is np else batch
    for rows in (slice(start, start + step) for start in range(0, batch, step)):
        block = out[rows]
        block[...] = draw(xp, key[rows], count, dtype, *(column[rows] for column in columns)).reshape(block.shape)
    return out


def _filled_end_to_end(
    draw: Draw, xp: ArrayModule, seed: Array, counter: Array, *given: Any, out: Array = None, dtype: DType
) -> Array:
    """Of each node as many numbers as the last of ``given`` says, the same as in a launch of its own."""
    *given_numbers, count = given
    key, columns = keys(xp, seed, counter), [_column(xp, value).reshape(-1) for value in given_numbers]
    columns = [column.repeat(len(count), 0) if len(column) < len(count) else column for column in columns]
    count, ends = np.asarray(count), np.cumsum(count)
    step = max(1, DRAWN_AT_ONCE * len(count) // max(int(ends[-1]), 1)) if xp is np else len(count)
    for rows in (slice(start, start + step) for start in range(0, len(count), step)):
        mine, first = count[rows], int(ends[rows.start]) - int(count[rows.start])
        some = [_repeated_rows(xp, column[rows], mine) for column in columns]
        out[first : first + int(mine.sum())] = draw(xp, key[rows], mine, dtype, *some)
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


def _random(name: str, draw: Draw, *params: str) -> Op:
    vjps = (None,) * (2 + len(params))
    infer = partial(_drawn_result, name, params)
    DRAWN_BY_PARTS[name] = Op(name, infer, partial(_filled_end_to_end, draw), (*vjps, None))
    return register(Op(name, infer, partial(_drawn_into, draw), vjps, random=True))


# What draws for many nodes of any shapes, by name; see `lazyflow.ops.rows.ByParts`.
DRAWN_BY_PARTS: dict[str, Op] = {}

UNIFORM = _random("uniform", _uniform, "low", "high")
NORMAL = _random("normal", _normal, "mean", "std")
GUMBEL = _random("gumbel", _gumbel, "loc", "scale")
BERNOULLI = _random("bernoulli", _bernoulli, "p")
DROPOUT_MASK = _random("dropout_mask", _dropout_mask, "p")

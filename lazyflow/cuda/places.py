"""Indices on a device into what many nodes have end to end, from those into what each has: one launch."""

from __future__ import annotations

from math import prod

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import functions, launch
from lazyflow.cuda.rows import NO_ADDRESS
from lazyflow.device import Array

# Negative indices count from the end; what is out of range, which nobody looks at there, is taken by the remainder.
PLACE_SOURCE = """\
extern "C" __global__ void place_indices(
    const long long* index, long long given, const long long* starts, const long long* sizes, long long inner,
    long long size, long long* out, long long count) {
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= count) return;
    const long long own = e / inner, n = sizes ? sizes[own] : size, at = n ? index[e % given] % n : 0;
    out[e] = (at < 0 ? at + n : at) + (starts ? starts[own] : own * size);
}
"""


def placed_among_all(index: Array, place: Array) -> Array:
    """Indices of a first axis of rows, of which ``place`` (2, rows) says where what their node has begins and how much
    that is; int64, on the device.

    The result has the shape of the index.
    """
    return _among_all(index, index.shape, prod(index.shape[1:]), place, 0)


def placed_evenly(index: Array, batch: int, n: int, ndim: int) -> Array:
    """Flat indices into ``batch`` times ``n`` rows; the index of a node has ``ndim`` axes, and may be one for all."""
    shape = index.shape[index.ndim - ndim :]
    return _among_all(index, (batch, *shape), prod(shape), None, n).reshape(-1)


def _among_all(index: Array, shape: tuple[int, ...], inner: int, place: Array, size: int) -> Array:
    index = devices.module(index).ascontiguousarray(index.astype(np.int64, copy=False))
    out = devices.module(index).empty(shape, np.int64)
    starts, sizes = (NO_ADDRESS, NO_ADDRESS) if place is None else (place[0], place[1])
    arguments = [index, np.int64(index.size), starts, sizes, np.int64(max(inner, 1)), np.int64(size)]
    launch(functions(PLACE_SOURCE, ("place_indices",))[0], out.size, [*arguments, out, np.int64(out.size)])
    return out

"""Indices on a device into what many nodes have end to end, from those into what each node has; and sums and means of
the rows of small nodes by such indices, and their transposes: one launch each, in order.

A thread has an element of a sum and looks through the rows of its node.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import functions, launch
from lazyflow.cuda.rows import NO_ADDRESS
from lazyflow.cuda.text import REALS
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


_OWN = """\
__device__ long long segment_place(const long long* index, long long given, long long row, long long n) {
    const long long at = n ? index[row % given] % n : 0;
    return at < 0 ? at + n : at;
}
__device__ void rows_of_segment(
    const long long* starts, const long long* sizes, long long rows, long long segment, long long* low,
    long long* high) {
    for (int which = 0; which < 2; which++) {  // rows stand in the order of their nodes
        long long a = 0, b = rows;
        while (a < b) {
            const long long middle = (a + b) / 2;
            const bool before = which ? starts[middle] <= segment : starts[middle] + sizes[middle] <= segment;
            if (before) a = middle + 1; else b = middle;
        }
        *(which ? high : low) = a;
    }
}
"""
_SEGMENTS = """\
extern "C" __global__ void sum_segments_{real}(
    const {real}* x, const long long* index, long long given, const long long* starts, const long long* sizes,
    long long inner, long long size, int mean, {real}* out, long long segments, long long rows, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, s = e / width;
    if (s >= segments) return;
    long long low = 0, high = 0, base = 0, n = size, count = 0;
    if (starts) {{
        rows_of_segment(starts, sizes, rows, s, &low, &high);
        if (low < high) base = starts[low], n = sizes[low];
    }} else base = s / size * size, low = s / size * inner, high = low + inner;
    double sum = 0;
    for (long long r = low; r < high; r++)
        if (base + segment_place(index, given, r, n) == s) sum += x[r * width + e % width], count++;
    out[e] = ({real})(mean && count ? sum / count : sum);
}}
extern "C" __global__ void spread_segments_{real}(
    const {real}* g, const long long* index, long long given, const long long* starts, const long long* sizes,
    long long inner, long long size, int mean, {real}* out, long long segments, long long rows, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, row = e / width;
    if (row >= rows) return;
    const long long own = row / inner, n = starts ? sizes[row] : size, base = starts ? starts[row] : own * size;
    const long long at = segment_place(index, given, row, n), s = base + at;
    long long low = own * inner, high = low + inner, count = 0;
    if (mean && starts) rows_of_segment(starts, sizes, rows, s, &low, &high);
    for (long long r = low; mean && r < high; r++) count += segment_place(index, given, r, n) == at;
    out[e] = mean ? g[s * width + e % width] / ({real})count : g[s * width + e % width];
}}
"""
SEGMENT_SOURCE = _OWN + "".join(_SEGMENTS.format(real=real) for real in REALS.values())
_SEGMENT_KERNELS = tuple(f"{name}_{real}" for real in REALS.values() for name in ("sum_segments", "spread_segments"))
MOST_LOOKED_THROUGH = 256  # rows of a node that a thread looks through


class Segments(NamedTuple):
    """Rows of nodes end to end and the index of each among the segments of its node: of nodes with ``inner`` rows and
    ``size`` segments each, or those of which ``place`` (2, rows), on the host, says where the segments of their node
    begin and how many these are. ``index`` may be one for all nodes of one size."""

    index: Array
    place: Array
    inner: int
    size: int

    def suits(self, x: Array) -> bool:
        """Whether nodes are small enough, and numbers those of kernels."""
        return x.dtype.name in REALS and x.size > 0 and self._most() <= MOST_LOOKED_THROUGH

    def _most(self) -> int:
        """The rows of the largest node."""
        if self.place is None:
            return self.inner
        edges = np.flatnonzero(np.diff(np.asarray(self.place[0]), prepend=-1, append=-1))
        return int(np.diff(edges).max(initial=0))

    def sums(self, x: Array, n: int, mean: bool, out: Array = None) -> Array:
        """Of each of all ``n`` segments the sum, or the mean, of its rows, in ``out`` if that has their size: of none
        it is 0."""
        return self._launched("sum_segments", x, n, n, len(x), mean, out)

    def spread(self, g: Array, rows: int, mean: bool) -> Array:
        """For each of so many rows what its segment has, over the number of the segment's rows for a mean."""
        return self._launched("spread_segments", g, rows, len(g), rows, mean)

    def _launched(
        self, name: str, x: Array, count: int, segments: int, rows: int, mean: bool, out: Array = None
    ) -> Array:
        xp, width = devices.module(x), prod(x.shape[1:])
        fits = out is not None and out.dtype == x.dtype and out.size == count * width and out.flags.c_contiguous
        out = out if fits else xp.empty((count, *x.shape[1:]), x.dtype)
        index = xp.ascontiguousarray(self.index.astype(np.int64, copy=False))
        place = self.place if self.place is None else getattr(self.place, "there", None)
        place = xp.asarray(self.place) if place is None and self.place is not None else place
        starts, sizes = (NO_ADDRESS, NO_ADDRESS) if place is None else (place[0], place[1])
        kernel = functions(SEGMENT_SOURCE, _SEGMENT_KERNELS)[_SEGMENT_KERNELS.index(f"{name}_{REALS[x.dtype.name]}")]
        sized = [np.int64(max(self.inner, 1)), np.int64(max(self.size, 1)), np.int32(mean), out]
        numbers = [np.int64(segments), np.int64(rows), np.int32(width)]
        given = [xp.ascontiguousarray(x), index, np.int64(index.size), starts, sizes]
        launch(kernel, out.size, [*given, *sized, *numbers])
        return out


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

"""What is made on a device of the rows of each segment: sums and means, largest and smallest elements, softmax; and the
cotangents of the rows: one launch each, in order.

Segments are rows that have one index among those of their node, or rows that follow each other. Of indices a thread has
an element of a sum, and a warp all elements of a column of a segment, and looks through the rows of the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import WARP, functions, launch
from lazyflow.cuda.rows import NO_ADDRESS, Groups
from lazyflow.cuda.text import REALS
from lazyflow.device import Array

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
struct Span {  // the rows of the node of a segment, its first segment, and how many it has
    const long long *index;
    long long given, segment, low, high, base, n;
    __device__ bool has(long long row) const {
        return !index || base + segment_place(index, given, row, n) == segment;
    }
};
__device__ Span span_of_segment(
    const long long* index, long long given, const long long* starts, const long long* sizes, const long long* ends,
    long long inner, long long size, long long rows, long long s) {
    Span span = {index, given, s, 0, 0, 0, size};
    if (ends) span.low = s ? ends[s - 1] : 0, span.high = ends[s];
    else if (starts) {
        rows_of_segment(starts, sizes, rows, s, &span.low, &span.high);
        if (span.low < span.high) span.base = starts[span.low], span.n = sizes[span.low];
    } else span.base = s / size * size, span.low = s / size * inner, span.high = span.low + inner;
    return span;
}
"""
_SEGMENTS = """\
extern "C" __global__ void sum_segments_{real}(
    int mean, const {real}* x, {given}, {real}* out, long long segments, long long rows, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, s = e / width;
    if (s >= segments) return;
    const Span span = span_of_segment(index, given, starts, sizes, ends, inner, size, rows, s);
    long long count = 0;
    double sum = 0;
    for (long long r = span.low; r < span.high; r++)
        if (span.has(r)) sum += x[r * width + e % width], count++;
    out[e] = ({real})(mean && count ? sum / count : sum);
}}
extern "C" __global__ void spread_segments_{real}(
    int mean, const {real}* g, {given}, {real}* out, long long segments, long long rows, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, row = e / width;
    if (row >= rows) return;
    const long long own = row / inner, n = starts ? sizes[row] : size, base = starts ? starts[row] : own * size;
    const long long at = segment_place(index, given, row, n), s = base + at;
    long long low = own * inner, high = low + inner, count = 0;
    if (mean && starts) rows_of_segment(starts, sizes, rows, s, &low, &high);
    for (long long r = low; mean && r < high; r++) count += segment_place(index, given, r, n) == at;
    out[e] = mean ? g[s * width + e % width] / ({real})count : g[s * width + e % width];
}}
__device__ double segment_total_{real}(double sum) {{
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}}
extern "C" __global__ void along_segments_{real}(
    int what, const {real}* x, const {real}* y, const {real}* g, {given}, {real}* out, long long segments,
    long long rows, int width) {{
    const int lane = threadIdx.x % 32;
    const long long e = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32, s = e / width;
    if (s >= segments) return;  // a warp as a whole
    const Span span = span_of_segment(index, given, starts, sizes, ends, inner, size, rows, s);
    const long long j = e % width, first = span.low + lane;
    double sum = 0;
    if (what < 4) {{
        {real} most = ({real})(what == 3 ? 1.0 / 0.0 : -1.0 / 0.0);
        for (long long r = first; r < span.high; r += 32) {{
            const {real} v = x[r * width + j];
            if (span.has(r) && ((what == 3 ? v < most : v > most) || v != v)) most = v;
        }}
        for (int d = 16; d; d /= 2) {{
            const {real} v = __shfl_xor_sync(0xffffffffu, most, d);
            if ((what == 3 ? v < most : v > most) || v != v) most = v;
        }}
        if (what >= 2) {{
            if (lane == 0) out[e] = most;
            return;
        }}
        for (long long r = first; r < span.high; r += 32)
            if (span.has(r)) sum += exp{f}(x[r * width + j] - most);
        const {real} total = ({real})segment_total_{real}(sum), less = what ? log{f}(total) : 0;
        for (long long r = first; r < span.high; r += 32) {{
            const {real} off = x[r * width + j] - most;
            if (span.has(r)) out[r * width + j] = what ? off - less : exp{f}(off) / total;
        }}
        return;
    }}
    for (long long r = first; r < span.high; r += 32) {{
        const long long at = r * width + j;
        if (span.has(r)) sum += what == 4 ? g[at] == 0 ? 0 : g[at] * y[at] : what == 5 ? g[at] : x[at] == y[e];
    }}
    const {real} total = ({real})segment_total_{real}(sum);
    for (long long r = first; r < span.high; r += 32) {{
        const long long at = r * width + j;
        if (!span.has(r)) continue;
        if (what == 6) {{
            out[at] = x[at] == y[e] ? g[e] / total : 0;
            continue;
        }}
        const {real} part = what == 5 || g[at] == 0 ? g[at] : g[at] * y[at];
        out[at] = total == 0 ? part : part - total * (what == 5 ? exp{f}(y[at]) : y[at]);
    }}
}}
"""
_GIVEN = """\
const long long* index, long long given, const long long* starts, const long long* sizes, const long long* ends,
    long long inner, long long size"""
SEGMENT_SOURCE = _OWN + "".join(
    _SEGMENTS.format(real=real, f="f" if real == "float" else "", given=_GIVEN) for real in REALS.values()
)
_SEGMENT_TEXTS = ("sum_segments", "spread_segments", "along_segments")
_SEGMENT_KERNELS = tuple(f"{name}_{real}" for real in REALS.values() for name in _SEGMENT_TEXTS)
MOST_LOOKED_THROUGH = 256  # rows of a node that a thread or a warp looks through for each segment

# Of what is made along segments the numbers in the text, and those of its cotangents; and whether it has a row for each
# row, not for each segment.
SEGMENT_OPERATIONS = {
    "softmax": (0, 4, True),
    "log_softmax": (1, 5, True),
    "max": (2, 6, False),
    "min": (3, 6, False),
}


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
        out = _room_of_rows(out, n, x)
        return _segments_launched("sum_segments", mean, [x], self.where(), out, (n, len(x)), out.size)

    def spread(self, g: Array, rows: int, mean: bool) -> Array:
        """For each of so many rows what its segment has, over the number of the segment's rows for a mean."""
        out = _room_of_rows(None, rows, g)
        return _segments_launched("spread_segments", mean, [g], self.where(), out, (len(g), rows), out.size)

    def where(self) -> list[object]:
        """What a kernel is told of them."""
        xp = devices.module(self.index)
        index = xp.ascontiguousarray(self.index.astype(np.int64, copy=False))
        place = self.place if self.place is None else getattr(self.place, "there", None)
        place = xp.asarray(self.place) if place is None and self.place is not None else place
        starts, sizes = (NO_ADDRESS, NO_ADDRESS) if place is None else (place[0], place[1])
        sized = [np.int64(max(self.inner, 1)), np.int64(max(self.size, 1))]
        return [index, np.int64(index.size), starts, sizes, NO_ADDRESS, *sized]


def along_segments(name: str, x: Array, segments: Segments | Groups, n: int, out: Array = None) -> Array:
    """One of `SEGMENT_OPERATIONS` of rows in ``n`` segments, in ``out`` if that has its size. Of no rows the largest is
    minus infinity; a NaN makes its segment's NaN."""
    what, _, by_rows = SEGMENT_OPERATIONS[name]
    out = _room_of_rows(out, len(x) if by_rows else n, x)
    arrays = [x, NO_ADDRESS, NO_ADDRESS]
    return _segments_launched("along_segments", what, arrays, _given_of(segments), out, (n, len(x)), _warps(x, n))


def slopes_along_segments(name: str, g: Array, y: Array, x: Array, segments: Segments | Groups, n: int) -> Array:
    """The cotangents of the rows, from those of the result ``y``: shared among equals."""
    out = _room_of_rows(None, len(x), x)
    arrays, what = [x, y, g], SEGMENT_OPERATIONS[name][1]
    return _segments_launched("along_segments", what, arrays, _given_of(segments), out, (n, len(x)), _warps(x, n))


def _warps(x: Array, n: int) -> int:
    return n * WARP * int(prod(x.shape[1:]))


def _given_of(segments: Segments | Groups) -> list[object]:
    if isinstance(segments, Segments):
        return segments.where()
    ends = NO_ADDRESS if segments.ends is None else segments.ends
    nothing = [NO_ADDRESS, np.int64(1), NO_ADDRESS, NO_ADDRESS]
    return [*nothing, ends, np.int64(max(segments.each, 1)), np.int64(1)]


def _room_of_rows(out: Array, count: int, like: Array) -> Array:
    """An array for so many rows, ``out`` if it has their size."""
    fits = out is not None and out.dtype == like.dtype and out.size == count * prod(like.shape[1:])
    if fits and out.flags.c_contiguous:
        return out
    return devices.module(like).empty((count, *like.shape[1:]), like.dtype)


def _segments_launched(
    name: str,
    what: int,
    arrays: Sequence[Array],
    given: Sequence[object],
    out: Array,
    sizes: tuple[int, int],
    threads: int,
) -> Array:
    """``sizes``: how many segments and rows there are."""
    xp, width = devices.module(out), prod(arrays[0].shape[1:])
    kernel = functions(SEGMENT_SOURCE, _SEGMENT_KERNELS)[_SEGMENT_KERNELS.index(f"{name}_{REALS[out.dtype.name]}")]
    laid = [x if x is NO_ADDRESS else xp.ascontiguousarray(x) for x in arrays]
    launch(kernel, threads, [np.int32(what), *laid, *given, out, *map(np.int64, sizes), np.int32(width)])
    return out

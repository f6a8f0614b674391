"""Variances, norms and logsumexp of stretches of rows that follow each other, on a device, their cotangents, the order
of their elements, and rows put around them: one launch each.

Of reductions a warp has a column of a stretch, with sums in double precision, in one order. Of the order of elements a
thread has one of them, and counts what stands before it.
"""

from __future__ import annotations

from math import inf, prod

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import WARP, functions, launch
from lazyflow.cuda.rows import NO_ADDRESS, Groups
from lazyflow.cuda.text import REALS
from lazyflow.device import Array

# What is reduced, by the name of the operation, and of a norm with its order; the numbers are those of the text.
STRETCH_REDUCTIONS: dict[object, int] = {
    "var": 0,
    "std": 1,
    ("norm", 1): 2,
    ("norm", 2): 3,
    ("norm", inf): 4,
    "logsumexp": 5,
}

_BOUNDS = """\
__device__ long long stretch_of(const long long* ends, long long each, long long apart, long long count, long long r) {
    if (!ends) return r / (each + apart);  // of stretches with so many rows more the one that has this row
    long long low = 0, high = count - 1;
    while (low < high) {
        const long long middle = (low + high) / 2;
        if (r < ends[middle] + (middle + 1) * apart) high = middle; else low = middle + 1;
    }
    return low;
}
__device__ long long begin_of(const long long* ends, long long each, long long i) {
    return ends ? i ? ends[i - 1] : 0 : i * each;
}
"""
_REDUCED_TEXT = """\
__device__ double reduced_total_{real}(double sum) {{
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}}
extern "C" __global__ void reduce_stretches_{real}(
    int what, int ddof, const {real}* x, const {real}* y, const {real}* g, const long long* ends, long long each,
    {real}* out, long long count, int width) {{
    const long long e = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32, i = e / width;
    if (i >= count) return;  // a warp as a whole
    const long long low = begin_of(ends, each, i), n = begin_of(ends, each, i + 1) - low;
    const int lane = threadIdx.x % 32;
    const long long first = low * width + e % width;  // element k is at first + k * width
    x += first;
    const {real} divisor = ({real})(n - ddof);
    {real} from = 0, mean = 0, most = 0;
    double sum = 0, many = 0;
    if (what < 2) {{
        from = n && fabs{f}(x[0]) <= ({real}){quarter} ? x[0] : 0;
        for (long long k = lane; k < n; k += 32) sum += x[k * width] - from;
        mean = ({real})(reduced_total_{real}(sum) / n);
    }}
    if (what == 4 && g) {{
        for (long long k = lane; k < n; k += 32) many += fabs{f}(x[k * width]) == y[e];
        many = reduced_total_{real}(many);
    }}
    if (g) {{
        const {real} share = g[e], whole = what == 5 && y[e] == -({real})(1.0 / 0.0) ? 0 : y[e];
        out += first;
        for (long long k = lane; k < n; k += 32) {{
            const {real} v = x[k * width], off = v - from - mean;
            const {real} even = what == 4 ? fabs{f}(v) == y[e] ? share / ({real})many : 0 : share;
            {real} found;
            if (what == 0) found = share * (({real})2 / divisor) * off;
            else if (what == 1) found = whole != 0 ? share * (off / whole / divisor) : 0;
            else if (what == 3) found = whole != 0 ? share * (v / whole) : 0;
            else if (what == 5) found = share * exp{f}(v - whole);
            else found = v > 0 ? even : v < 0 ? -even : 0;
            out[k * width] = share == 0 ? 0 : found;
        }}
        return;
    }}
    if (what >= 4) {{
        most = what == 5 ? -({real})(1.0 / 0.0) : 0;
        for (long long k = lane; k < n; k += 32) {{
            const {real} v = what == 5 ? x[k * width] : fabs{f}(x[k * width]);
            if (v > most || v != v) most = v;
        }}
        for (int d = 16; d; d /= 2) {{
            const {real} v = __shfl_xor_sync(0xffffffffu, most, d);
            if (v > most || v != v) most = v;
        }}
        if (what == 5 && !(most - most == 0)) most = 0;
    }}
    sum = 0;
    for (long long k = lane; k < n && what != 4; k += 32) {{
        const {real} v = x[k * width], off = v - from - mean, square = off * off;
        if (what == 5 && v == most) many++;
        else sum += what == 5 ? exp{f}(v - most) : what == 2 ? fabs{f}(v) : square;
    }}
    sum = reduced_total_{real}(sum), many = reduced_total_{real}(many);
    if (lane) return;
    const {real} rest = ({real})sum, ones = ({real})many;
    if (what == 5) out[e] = log{f}(ones > 0 ? ones : rest) + log1p{f}(ones > 0 ? rest / ones : 0) + most;
    else if (what == 4) out[e] = most;
    else if (what == 2) out[e] = rest;
    else out[e] = what == 0 ? rest / divisor : what == 1 ? sqrt{f}(rest / divisor) : sqrt{f}(rest);
}}
extern "C" __global__ void pad_stretches_{real}(
    int back, const {real}* x, const long long* ends, long long each, int before, int after, double fill, {real}* out,
    long long count, long long rows, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, r = e / width;
    if (r >= rows) return;
    const long long apart = back ? 0 : before + after, i = stretch_of(ends, each, apart, count, r);
    const long long low = begin_of(ends, each, i), n = begin_of(ends, each, i + 1) - low;
    const long long k = r - low - i * apart - (back ? 0 : before);
    if (back) out[e] = x[e + (i * (before + after) + before) * width];
    else out[e] = k < 0 || k >= n ? ({real})fill : x[(low + k) * width + e % width];
}}
"""
_IN_ORDER = """\
__device__ bool is_before_{name}({real} a, {real} b) {{ return a < b || (b != b && a == a); }}  // NaN comes last
extern "C" __global__ void order_stretches_{name}(
    const {real}* x, const long long* ends, long long each, long long* out, long long count, long long rows,
    int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, r = e / width;
    if (r >= rows) return;
    const long long i = stretch_of(ends, each, 0, count, r), low = begin_of(ends, each, i);
    const long long high = begin_of(ends, each, i + 1);
    const {real} mine = x[e];
    long long place = low;
    for (long long k = low; k < high; k++) {{
        const {real} other = x[k * width + e % width];
        place += is_before_{name}(other, mine) || (k < r && !is_before_{name}(mine, other));
    }}
    out[place * width + e % width] = r - low;
}}
"""
_TYPES_IN_ORDER = {**REALS, "int64": "long long"}
_NAMES_IN_C = {dtype: real.replace(" ", "_") for dtype, real in _TYPES_IN_ORDER.items()}
_QUARTER_OF_LARGEST = {"float": "8.5e37", "double": "4.4e307"}  # no difference of such ones overflows
STRETCH_SOURCE = (
    _BOUNDS
    + "".join(
        _REDUCED_TEXT.format(real=r, f="f" if r == "float" else "", quarter=_QUARTER_OF_LARGEST[r])
        for r in REALS.values()
    )
    + "".join(_IN_ORDER.format(real=real, name=_NAMES_IN_C[dtype]) for dtype, real in _TYPES_IN_ORDER.items())
)
_STRETCH_KERNELS = (
    *(f"{name}_{real}" for name in ("reduce_stretches", "pad_stretches") for real in REALS.values()),
    *(f"order_stretches_{name}" for name in _NAMES_IN_C.values()),
)
MOST_OF_A_WARP = 2**14  # elements of what is reduced, of values of one size
MOST_ORDERED = 4096  # rows of a stretch each of whose elements is compared with all of them


def _stretch_function(name: str, x: Array) -> object:
    return functions(STRETCH_SOURCE, _STRETCH_KERNELS)[_STRETCH_KERNELS.index(f"{name}_{_NAMES_IN_C[x.dtype.name]}")]


def _ends_of(groups: Groups) -> list[object]:
    return [NO_ADDRESS if groups.ends is None else groups.ends, np.int64(groups.each)]


def reduce_stretches(what: int, x: Array, groups: Groups, count: int, ddof: int = 0) -> Array:
    """One of `STRETCH_REDUCTIONS` of ``count`` stretches of rows: a row each."""
    out = devices.module(x).empty((count, *x.shape[1:]), x.dtype)
    _reduce_into(what, ddof, [x, NO_ADDRESS, NO_ADDRESS], groups, out, count)
    return out


def slopes_of_stretches(what: int, g: Array, y: Array, x: Array, groups: Groups, ddof: int = 0) -> Array:
    """The cotangents of the rows, from those of the results ``y``."""
    out = devices.module(x).empty(x.shape, x.dtype)
    _reduce_into(what, ddof, [x, y, g], groups, out, len(g))
    return out


def _reduce_into(what: int, ddof: int, arrays: list[Array], groups: Groups, out: Array, count: int) -> None:
    xp, width = devices.module(out), prod(out.shape[1:])
    laid = [x if x is NO_ADDRESS else xp.ascontiguousarray(x) for x in arrays]
    sizes = [out, np.int64(count), np.int32(width)]
    given = [np.int32(what), np.int32(ddof), *laid, *_ends_of(groups), *sizes]
    launch(_stretch_function("reduce_stretches", out), count * width * WARP, given)


def order_stretches(x: Array, groups: Groups, count: int) -> Array:
    """Of each column of each stretch the numbers of its rows in the order of their elements, equal ones in theirs."""
    xp, width = devices.module(x), prod(x.shape[1:])
    x = xp.ascontiguousarray(x)
    out = xp.empty(x.shape, np.int64)
    sizes = [np.int64(count), np.int64(len(x)), np.int32(width)]
    launch(_stretch_function("order_stretches", x), x.size, [x, *_ends_of(groups), out, *sizes])
    return out


def pad_stretches(x: Array, groups: Groups, count: int, pair: tuple[int, int], fill: float) -> Array:
    """The stretches with so many rows more before and behind each."""
    return _pad_rows(x, groups, count, pair, fill, len(x) + count * sum(pair))


def inside_of_pads(g: Array, groups: Groups, count: int, pair: tuple[int, int]) -> Array:
    """The rows of the stretches, which have so many around them."""
    return _pad_rows(g, groups, count, pair, None, len(g) - count * sum(pair))


def _pad_rows(x: Array, groups: Groups, count: int, pair: tuple[int, int], fill: float | None, rows: int) -> Array:
    xp, width = devices.module(x), prod(x.shape[1:])
    out = xp.empty((rows, *x.shape[1:]), x.dtype)
    where = [*_ends_of(groups), *map(np.int32, pair), np.float64(0 if fill is None else fill)]
    sizes = [out, np.int64(count), np.int64(rows), np.int32(width)]
    given = [np.int32(fill is None), xp.ascontiguousarray(x), *where, *sizes]
    launch(_stretch_function("pad_stretches", x), out.size, given)
    return out

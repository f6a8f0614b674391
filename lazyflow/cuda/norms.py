"""The norm of many arrays of a device as one, and all of them scaled by it: two launches, and nobody waits.

Sums are made in double precision and in an order that depends on the sizes alone, so they are the same at every run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import THREADS, WARP, functions
from lazyflow.cuda.text import REALS
from lazyflow.device import Array

MOST = 128  # blocks: each adds up several elements a thread, and all read what every warp has added

# Arrays stand in a table: where the elements of each end, and its address.
_TEXT = """\
extern "C" __global__ void squares_{real}(const long long* table, long long total, double* parts) {{
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    double sum = 0;
    int k = 0;
    for (long long e = thread; e < total; e += threads) {{
        while (e >= table[2 * k]) k++;
        const double x = (({real}*)table[2 * k + 1])[k ? e - table[2 * k - 2] : e];
        sum += x * x;
    }}
    for (int d = 16; d; d /= 2) sum += __shfl_down_sync(0xffffffffu, sum, d);
    if (thread % 32 == 0) parts[thread / 32] = sum;
}}
extern "C" __global__ void scaled_{real}(
    const long long* table, long long total, const double* parts, int count, double limit, double* norm) {{
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    double sum = 0;
    for (int p = thread % 32; p < count; p += 32) sum += parts[p];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    const double size = sqrt(sum), factor = limit / (size + 1e-6);
    if (thread == 0) *norm = size;
    if (factor >= 1) return;  // of a norm that is no number all become so
    int k = 0;
    for (long long e = thread; e < total; e += threads) {{
        while (e >= table[2 * k]) k++;
        (({real}*)table[2 * k + 1])[k ? e - table[2 * k - 2] : e] *= ({real})factor;
    }}
}}
"""
NORM_SOURCE = "".join(_TEXT.format(real=real) for real in REALS.values())
NORM_KERNELS = tuple(f"{name}_{real}" for real in REALS.values() for name in ("squares", "scaled"))


def is_possible(arrays: Sequence[Array]) -> bool:
    """Whether these are contiguous arrays of one device and dtype, of a dtype that kernels have, each with memory of
    its own, and not all empty."""
    if not arrays or not all(devices.is_on_gpu(a) and a.flags.c_contiguous for a in arrays):
        return False
    kinds = {(devices.device_of(a), a.dtype) for a in arrays}
    places = [a.data.ptr for a in arrays if a.size]
    return len(kinds) == 1 and arrays[0].dtype.name in REALS and 0 < len(places) == len(set(places))


def limited(arrays: Sequence[Array], limit: float) -> Array:
    """Scale arrays as `is_possible` takes by ``limit / (norm + 1e-6)`` where that is below 1; the norm before, an array
    of no axes on their device, float64."""
    first = arrays[0]
    place, real = devices.device_of(first), REALS[first.dtype.name]
    ends = np.cumsum([a.size for a in arrays])
    found = functions(NORM_SOURCE, NORM_KERNELS)
    squares, scaled = (found[NORM_KERNELS.index(f"{name}_{real}")] for name in ("squares", "scaled"))
    with devices.on(place):
        table = devices.to_device(np.stack([ends, [a.data.ptr for a in arrays]], 1).astype(np.int64), place)
        blocks = min(-(-int(ends[-1]) // THREADS), MOST)
        count = blocks * THREADS // WARP
        found = devices.array_module(place).empty(count + 1, np.float64)
        total, parts, norm = np.int64(ends[-1]), found[:count], found[count:]
        squares((blocks,), (THREADS,), (table, total, parts))
        scaled((blocks,), (THREADS,), (table, total, parts, np.int32(count), np.float64(limit), norm))
    return norm.reshape(())

"""Softmax, its logarithm and norms of rows on the device, and the cotangents of their operands: one launch each, a warp
a row. Sums are in double precision, in one order."""

from __future__ import annotations

import numpy as np

from lazyflow.cuda.module import WARP, functions, launch
from lazyflow.cuda.text import REALS
from lazyflow.device import Array

# Where an operation stands among the numbers of `_ALONG_TEXT`, and its cotangents three further on.
ROW_OPERATIONS = {"softmax": 0, "log_softmax": 1, "standardise": 2}
SLOPES = 3

_ALONG_TEXT = """\
__device__ double sum_{real}(double sum) {{
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}}
extern "C" __global__ void along_{real}(
    int what, const {real}* x, const {real}* y, const {real}* g, {real}* out, int count, int width, double eps) {{
    const int lane = threadIdx.x % 32;
    const int i = (int)(((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32);
    if (i >= count) return;  // a warp as a whole
    const long long at = (long long)i * width;
    x += at, out += at;
    if (what >= 3) y += at, g += at;
    double sum = 0, other = 0;
    if (what < 2) {{
        {real} most = x[lane < width ? lane : 0];
        for (int j = lane; j < width; j += 32) most = x[j] > most || x[j] != x[j] ? x[j] : most;
        for (int d = 16; d; d /= 2) {{
            const {real} next = __shfl_xor_sync(0xffffffffu, most, d);
            most = next > most || next != next ? next : most;
        }}
        for (int j = lane; j < width; j += 32) sum += exp{f}(x[j] - most);
        const {real} total = ({real})sum_{real}(sum), less = what ? log{f}(total) : 0;
        for (int j = lane; j < width; j += 32) out[j] = what ? x[j] - most - less : exp{f}(x[j] - most) / total;
        return;
    }}
    if (what == 3 || what == 4) {{
        for (int j = lane; j < width; j += 32) sum += what == 4 ? g[j] : g[j] == 0 ? 0 : g[j] * y[j];
        const {real} total = ({real})sum_{real}(sum);
        for (int j = lane; j < width; j += 32) {{
            const {real} part = what == 4 || g[j] == 0 ? g[j] : g[j] * y[j];
            out[j] = total == 0 ? part : part - total * (what == 4 ? exp{f}(y[j]) : y[j]);
        }}
        return;
    }}
    const {real} first = fabs{f}(x[0]) <= ({real}){quarter} ? x[0] : 0;
    for (int j = lane; j < width; j += 32) sum += x[j] - first;
    const {real} mean = ({real})(sum_{real}(sum) / width);
    sum = 0;
    for (int j = lane; j < width; j += 32) {{
        const double off = x[j] - first - mean;
        sum += off * off;
    }}
    const {real} scale = ({real})(1 / sqrt(sum_{real}(sum) / width + eps));
    if (what == 2) {{
        for (int j = lane; j < width; j += 32) out[j] = scale * (x[j] - first - mean);
        return;
    }}
    bool any = false;
    sum = 0;
    for (int j = lane; j < width; j += 32) {{
        any = any || g[j] != 0;
        sum += g[j];
        other += (double)g[j] * y[j];
    }}
    any = sum_{real}(any) != 0;  // of no cotangents nothing comes, whatever the values are
    const {real} level = ({real})(sum_{real}(sum) / width), along = ({real})(sum_{real}(other) / width);
    for (int j = lane; j < width; j += 32) out[j] = any ? scale * (g[j] - level - along * y[j]) : 0;
}}
"""
_QUARTERS = {"float": "8.5e37", "double": "4.4e307"}  # of the largest number: no difference of such ones overflows
ALONG_SOURCE = "".join(
    _ALONG_TEXT.format(real=r, f="f" if r == "float" else "", quarter=_QUARTERS[r]) for r in REALS.values()
)
ALONG_KERNELS = tuple(f"along_{real}" for real in REALS.values())


def along_rows(what: int, width: int, eps: float, out: Array, x: Array, y: Array = None, g: Array = None) -> None:
    """One of `ROW_OPERATIONS` of rows of ``width`` elements; or, `SLOPES` further on, from operand, result and
    cotangents. All arrays are contiguous, and of one dtype."""
    kernel = functions(ALONG_SOURCE, ALONG_KERNELS)[list(REALS).index(out.dtype.name)]
    count = out.size // width
    given = [x, x if y is None else y, x if g is None else g, out]
    launch(kernel, count * WARP, [np.int32(what), *given, np.int32(count), np.int32(width), np.float64(eps)])

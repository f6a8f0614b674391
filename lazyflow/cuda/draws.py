"""Random numbers on the device, all of a launch at once: the bits of `lazyflow.ops.random`, and what is made of them.

A thread has one element: it makes the state of its node, the word of SplitMix64 that is its own, and the number, each
step rounded as on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import functions, launch
from lazyflow.cuda.rows import NO_ADDRESS
from lazyflow.cuda.text import NUMBER_FORMS
from lazyflow.device import Array

# Where a distribution stands among the numbers of `_DRAW`.
DISTRIBUTIONS = {"uniform": 0, "normal": 1, "gumbel": 2, "bernoulli": 3, "dropout_mask": 4}

_WORDS = """\
__device__ unsigned long long mixed(unsigned long long state) {
    state ^= state >> 30;
    state *= 0xBF58476D1CE4E5B9ull;
    state ^= state >> 27;
    state *= 0x94D049BB133111EBull;
    return state ^ state >> 31;
}
__device__ unsigned long long drawn_word(unsigned long long key, long long k) {
    return mixed(key + (unsigned long long)(k + 1) * 0x9E3779B97F4A7C15ull);
}
__device__ unsigned drawn_half(unsigned long long key, long long k) {
    return (unsigned)(drawn_word(key, k / 2) >> (k % 2 ? 32 : 0));
}
__device__ float odd_float(double x) {  // rounded so that float16 can be rounded once more, as if at once (Boldo 2008)
    lf_word found;
    found.value = (float)x;
    if ((double)found.value != x && x == x) {
        if (fabs((double)found.value) > fabs(x)) found.bits -= 1;
        found.bits |= 1;
    }
    return found.value;
}
"""
_DRAW = """\
__device__ {real} rounded_{kind}({real} x) {{ return {value}({bits}(x)); }}
__device__ {real} unit_{kind}(unsigned long long key, long long k) {{ return {unit}; }}
__device__ {real} gauss_{kind}(unsigned long long key, long long k) {{
    const {word} one = {drawn}(key, k / 2 * 2){less}, other = {drawn}(key, k / 2 * 2 + 1){less};
    const {real} radius = sqrt{f}(log{f}((({real})one + 1) * ({real}){grain}) * -2);
    const {real} angle = ({real})other * ({real})(6.283185307179586 * {grain});
    return rounded_{kind}(radius * (k % 2 ? sin{f}(angle) : cos{f}(angle)));
}}
extern "C" __global__ void draw_{kind}(
    int what, int shared, const long long* seeds, long long seed, const long long* counters, long long counter,
    const double* firsts, double first, const double* seconds, double second, const long long* ends, int nodes,
    long long each, long long total, {kept}* out, long long pitch) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= total) return;
    int low = 0, high = nodes - 1;
    while (ends && low < high) {{
        const int middle = (low + high) / 2;
        if (e < ends[middle]) high = middle; else low = middle + 1;
    }}
    const long long i = ends ? low : e / each, k = e - (ends ? low ? ends[low - 1] : 0 : i * each);
    const unsigned long long start = seeds ? seeds[shared & 1 ? 0 : i] : seed;
    const unsigned long long steps = counters ? counters[shared & 2 ? 0 : i] : counter;
    const unsigned long long key = mixed(mixed(start) + steps * 0x9E3779B97F4A7C15ull);
    const double a = firsts ? firsts[shared & 4 ? 0 : i] : first, b = seconds ? seconds[shared & 8 ? 0 : i] : second;
    const {real} one = rounded_{kind}({narrow}(a)), other = rounded_{kind}({narrow}(b));
    {real} value;
    if (what == 0) {{
        value = one + rounded_{kind}(unit_{kind}(key, k) * rounded_{kind}(other - one));
    }} else if (what == 1) {{
        value = rounded_{kind}(gauss_{kind}(key, k) * other) + one;
    }} else if (what == 2) {{
        const double u = ((double)(drawn_word(key, k) >> 12) + 0.5) * 0x1p-52;
        value = {narrow}(a - b * log(-log(u)));
    }} else {{
        const double keep = what == 3 ? a : 1 - a;
        const bool below = (drawn_half(key, k) >> 8) < (unsigned)rint(keep * 16777216.0);
        value = {narrow}(!below || keep <= 0 ? 0 : what == 3 ? 1 : 1 / keep);
    }}
    out[ends ? e : i * pitch + k] = {bits}(value);
}}
"""
_UNITS = {
    "double": "(double)(drawn_word(key, k) >> 11) * 0x1p-53",
    "float": "(float)(drawn_half(key, k) >> 8) * 0x1p-24f",
    "float16": "(float)(drawn_half(key, k) >> 21) * 0x1p-11f",
}
_GAUSS = {
    "double": {"word": "unsigned long long", "drawn": "drawn_word", "less": " >> 11", "grain": "0x1p-53", "f": ""},
    "float": {"word": "unsigned", "drawn": "drawn_half", "less": "", "grain": "0x1p-32", "f": "f"},
}
_DRAWN_KINDS = {"float16": "float16", "float32": "float", "float64": "double"}
_NARROW = {"float16": "odd_float", "float": "(float)", "double": "(double)"}


def _text_of(kind: str) -> str:
    names = NUMBER_FORMS[kind]
    return _DRAW.format(kind=kind, unit=_UNITS[kind], narrow=_NARROW[kind], **names._asdict(), **_GAUSS[names.real])


DRAW_SOURCE = _WORDS + "".join(map(_text_of, _DRAWN_KINDS.values()))
DRAW_KERNELS = tuple(f"draw_{kind}" for kind in _DRAWN_KINDS.values())


def draw(name: str, nodes: Sequence[Array], out: Array, each: int, ends: Array = None) -> None:
    """Numbers of one of `DISTRIBUTIONS` for all nodes of a launch, in one launch of the device.

    ``nodes``: seed, counter, and one or two parameters, each a number, or an array of the device, int64 or float64,
    with one element for each node, or one for all. Node ``i`` has ``each`` numbers, a row of ``out``, which is
    contiguous; or, if there are ``ends``, int64 on the device, those of a flat ``out`` up to ``ends[i]``.
    """
    kinds = (np.int64, np.int64, np.float64, np.float64)
    shared, places = 0, list[object]()
    for k, (kind, given) in enumerate(zip(kinds, (*nodes, 0.0)[:4], strict=True)):
        there = devices.is_on_gpu(given)
        shared |= (there and given.size == 1) << k
        places += [given if there else NO_ADDRESS, kind(0 if there else given)]
    count, total = (len(out), len(out) * each) if ends is None else (len(ends), out.size)
    pitch = out.strides[0] // out.itemsize if out.ndim > 1 else each
    sizes = [np.int32(count), np.int64(max(each, 1)), np.int64(total), out, np.int64(pitch)]
    kernel = functions(DRAW_SOURCE, DRAW_KERNELS)[list(_DRAWN_KINDS).index(out.dtype.name)]
    table = NO_ADDRESS if ends is None else ends
    launch(kernel, total, [np.int32(DISTRIBUTIONS[name]), np.int32(shared), *places, table, *sizes])

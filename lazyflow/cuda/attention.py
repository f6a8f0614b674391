"""Attention on a device, over the rows of nodes of any lengths: one launch forward, and two back.

A warp has a query and a head, or a key and a head; scores are made where they are used, and none is kept.

Sums of products are as wide as their numbers; those of exponentials are in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.module import WARP, functions, launch
from lazyflow.cuda.rows import NO_ADDRESS, Groups, Places, put_in
from lazyflow.cuda.text import REALS
from lazyflow.device import Array

# Columns that a lane has at a time, so that a warp has this many times 32.
_COLUMNS_OF_A_LANE = 4

_ATTENTION_TEXT = """\
__device__ long long end_of_{real}(const long long* ends, int each, int node) {{
    return node < 0 ? 0 : ends ? ends[node] : (long long)(node + 1) * each;
}}
__device__ int node_of_{real}(const long long* ends, int each, int nodes, int row) {{
    if (!ends) return row / each;
    int low = 0, high = nodes - 1;
    while (low < high) {{
        const int middle = (low + high) / 2;
        if (row < ends[middle]) high = middle; else low = middle + 1;
    }}
    return low;
}}
__device__ {real} dot_{real}(const {real}* a, const {real}* b, int n) {{
    {real} sum = 0;
    for (int c = 0; c < n; c++) sum += a[c] * b[c];
    return sum;
}}
__device__ {real} pulled_{real}(const {real}* g, const {real}* x, int n) {{  // of no cotangent nothing comes
    {real} sum = 0;
    for (int c = 0; c < n; c++) sum += g[c] == 0 ? ({real})0 : g[c] * x[c];
    return sum;
}}
__device__ double over_lanes_{real}(double sum) {{
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}}
// What stands beside queries and keys: a mask of truth values or numbers, and factors of weights. Of one row of scores
// they begin at these places.
struct beside_{real} {{
    const unsigned char* truths;
    const {real} *numbers, *factors;
    bool hides;
    long long mask, kept;
    __device__ bool shows(bool is_seen, long long j) const {{
        return is_seen && (!truths || (truths[mask + j] != 0) != hides);
    }}
    __device__ {real} score({real} score, long long j) const {{ return numbers ? score + numbers[mask + j] : score; }}
    __device__ {real} keep({real} x, long long j) const {{
        if (!factors) return x;
        const {real} factor = factors[kept + j];
        return factor == 0 ? 0 : factor * x;
    }}
    // A cotangent: zero where it is, whatever the factor.
    __device__ {real} pull({real} x, long long j) const {{ return x == 0 ? 0 : keep(x, j); }}
}};
// Pairs of queries and keys of the nodes before one, counted by a warp.
__device__ long long pairs_before_{real}(
    const long long* q_ends, int q_each, const long long* k_ends, int k_each, int node, int lane) {{
    if (!q_ends) return (long long)node * q_each * k_each;
    long long sum = 0;
    for (int k = lane; k < node; k += 32)
        sum += (q_ends[k] - (k ? q_ends[k - 1] : 0)) * (k_ends[k] - (k ? k_ends[k - 1] : 0));
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    return sum;
}}
__device__ beside_{real} beside_of_{real}(
    const unsigned char* truths, int hides, const {real}* numbers, const {real}* factors, int mask_of, int mask_each,
    int kept_each, long long area, long long before, long long pairs, int heads, int h, int row, int keys) {{
    const long long by_head = area * heads + h * pairs, own = h * pairs, down = (long long)row * keys;
    const long long at = mask_of == 2 ? (mask_each ? by_head : own) : !mask_each ? 0 : mask_of ? area : before;
    return {{truths, numbers, factors, hides != 0, at + (mask_of ? down : 0), (kept_each ? by_head : own) + down}};
}}
__device__ {real} score_{real}(
    const {real}* query, const {real}* key, int width, {real} scale, bool is_seen, const beside_{real}& beside,
    long long j) {{
    const bool shown = beside.shows(is_seen, j);
    return beside.score(shown ? dot_{real}(query, key, width) * scale : ({real})(-1.0 / 0.0), j);
}}
__device__ {real} largest_{real}(
    const {real}* query, const {real}* keys, int pitch, int width, {real} scale, int seen, const beside_{real}& beside,
    int lane) {{
    {real} most = ({real})(-1.0 / 0.0);
    for (int j = lane; j < seen; j += 32) {{
        const {real} score = score_{real}(query, keys + (long long)j * pitch, width, scale, true, beside, j);
        most = score > most || score != score ? score : most;
    }}
    for (int d = 16; d; d /= 2) {{
        const {real} next = __shfl_xor_sync(0xffffffffu, most, d);
        most = next > most || next != next ? next : most;
    }}
    return (beside.truths || beside.numbers) && most == ({real})(-1.0 / 0.0) ? 0 : most;  // who sees nothing has zeros
}}
__device__ {real} whole_of_{real}(double total, {real} most) {{ return total == 0 && most == 0 ? 1 : ({real})total; }}
__device__ void put_{real}(
    {real}* target, const long long* at, int apart, int how, int row, int column, {real} value) {{
    {real}* place = target + (at ? at[row] : row) * (long long)apart + column;
    if (how) atomicAdd(place, value); else *place = value;
}}
__device__ {real} share_{real}(
    const {real}* query, const {real}* key, int width, {real} scale, bool is_seen, const beside_{real}& beside,
    long long j, {real} most) {{
    return exp{f}(score_{real}(query, key, width, scale, is_seen, beside, j) - most);
}}
__device__ {real} slope_{real}({real} weight, {real} pull, {real} level, bool is_seen) {{
    const {real} slope = (pull == 0 ? 0 : weight * pull) - (level == 0 ? 0 : level * weight);
    return is_seen ? slope : 0;
}}
extern "C" __global__ void attend_{real}({parameters}, {real}* out) {{
{head}
    const {real} most = largest_{real}(query, keys, k_pitch, width, scale, seen, beside, lane);
    for (int first = 0; first < v_width; first += 32 * {columns}) {{
        {real} sums[{columns}] = {{}};
        double total = 0;
        for (int j = 0; j < count; j += 32) {{
            const int key = j + lane;
            const {real}* row = keys + (long long)key * k_pitch;
            const {real} part = key < count ? share_{real}(query, row, width, scale, key < seen, beside, key, most) : 0;
            total += part;
            const {real} kept = key < count ? beside.keep(part, key) : 0;
            for (int t = 0; t < 32 && j + t < count; t++) {{
                const {real} weight = __shfl_sync(0xffffffffu, kept, t);
                for (int c = 0; c < {columns}; c++) {{
                    const int column = first + 32 * c + lane;
                    if (column < v_width) sums[c] += weight * values[(long long)(j + t) * v_pitch + column];
                }}
            }}
        }}
        const {real} whole = whole_of_{real}(over_lanes_{real}(total), most);
        for (int c = 0; c < {columns}; c++) {{
            const int column = first + 32 * c + lane;
            if (column < v_width) out[(long long)i * heads * v_width + h * v_width + column] = sums[c] / whole;
        }}
    }}
}}
// The weights themselves, by heads or as their mean over these: a query, and then all heads, for each warp.
extern "C" __global__ void attention_weights_{real}({parameters}, int average, {real}* out) {{
    const int lane = threadIdx.x % 32, each = average ? 1 : heads;
    const long long warp = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int i = (int)(warp / each), low_head = (int)(warp % each), high_head = average ? heads : low_head + 1;
    if (i >= rows) return;  // a warp as a whole
    const int node = node_of_{real}(q_ends, q_each, nodes, i);
    const long long begin = end_of_{real}(q_ends, q_each, node - 1), low = end_of_{real}(k_ends, k_each, node - 1);
    const int count = (int)(end_of_{real}(k_ends, k_each, node) - low), row = (int)(i - begin);
    const int seen = causal && row + 1 < count ? row + 1 : count;
    const long long pairs = (end_of_{real}(q_ends, q_each, node) - begin) * count;
    const long long area = pairs_before_{real}(q_ends, q_each, k_ends, k_each, node, lane);
    for (int h = low_head; h < high_head; h++) {{
        const {real} *query = q + (long long)i * q_pitch + h * width, *keys = k + low * k_pitch + h * width;
        const beside_{real} beside = beside_of_{real}({beside}, area, low, pairs, heads, h, row, count);
        const {real} most = largest_{real}(query, keys, k_pitch, width, scale, seen, beside, lane);
        double total = 0;
        for (int j = lane; j < count; j += 32)
            total += share_{real}(query, keys + (long long)j * k_pitch, width, scale, j < seen, beside, j, most);
        const {real} whole = whole_of_{real}(over_lanes_{real}(total), most);
        {real}* target = out + (average ? area : area * heads + h * pairs) + (long long)row * count;
        for (int j = lane; j < count; j += 32) {{
            const {real}* key = keys + (long long)j * k_pitch;
            const {real} part = share_{real}(query, key, width, scale, j < seen, beside, j, most);
            const {real} value = beside.keep(part / whole, j);
            target[j] = average ? (h ? target[j] + value : value) : value;
            if (average && h == heads - 1) target[j] /= heads;
        }}
    }}
}}
// The cotangent of a weight before some are dropped: by that of the result, or given.
__device__ {real} of_weight_{real}(
    const {real}* share, const {real}* value, int v_width, const {real}* of_weights, long long at, int average,
    int heads) {{
    if (!of_weights) return pulled_{real}(share, value, v_width);
    return average ? of_weights[at] / heads : of_weights[at];
}}
extern "C" __global__ void attend_back_{real}(
    {parameters}, const {real}* g, {real}* kept, {real}* target, const long long* at, int apart, int how,
    {real}* of_mask, const {real}* of_weights, int average) {{
{head}
    const long long own = (average ? area : area * heads + h * pairs) + (long long)(before - 1) * count;
    const long long by_head = (area * heads + h * pairs) + (long long)(before - 1) * count;
    const {real}* share = g + (long long)i * heads * v_width + h * v_width;
    const {real} most = largest_{real}(query, keys, k_pitch, width, scale, seen, beside, lane);
    double total = 0, along = 0;
    for (int key = lane; key < count; key += 32) {{
        const {real}* row = keys + (long long)key * k_pitch;
        const {real} part = share_{real}(query, row, width, scale, key < seen, beside, key, most);
        const {real}* value = values + (long long)key * v_pitch;
        const {real} pulled = of_weight_{real}(share, value, v_width, of_weights, own + key, average, heads);
        const {real} pull = beside.pull(pulled, key);
        total += part;
        along += pull == 0 ? 0 : (double)part * pull;
    }}
    along = over_lanes_{real}(along);
    const {real} whole = whole_of_{real}(over_lanes_{real}(total), most);
    const {real} level = along == 0 ? ({real})0 : ({real})(along / whole);
    if (lane == 0) {{
        {real}* mine = kept + 3 * ((long long)i * heads + h);
        mine[0] = most, mine[1] = whole, mine[2] = level;
    }}
    for (int first = 0; (target || of_mask) && first < width; first += 32 * {columns}) {{
        {real} sums[{columns}] = {{}};
        for (int j = 0; j < count; j += 32) {{
            const int key = j + lane;
            {real} slope = 0;
            if (key < count) {{
                const {real}* row = keys + (long long)key * k_pitch;
                const {real} weight = share_{real}(query, row, width, scale, key < seen, beside, key, most) / whole;
                const {real}* value = values + (long long)key * v_pitch;
                const {real} pulled = of_weight_{real}(share, value, v_width, of_weights, own + key, average, heads);
                slope = slope_{real}(weight, beside.pull(pulled, key), level, beside.shows(key < seen, key));
                if (of_mask && first == 0) of_mask[by_head + key] = slope;
            }}
            for (int t = 0; t < 32 && j + t < count; t++) {{
                const {real} mine = __shfl_sync(0xffffffffu, slope, t);
                for (int c = 0; c < {columns}; c++) {{
                    const int column = first + 32 * c + lane;
                    if (column < width && mine != 0) sums[c] += mine * keys[(long long)(j + t) * k_pitch + column];
                }}
            }}
        }}
        for (int c = 0; c < {columns}; c++) {{
            const int column = first + 32 * c + lane;
            if (target && column < width)
                put_{real}(target, at, apart, how, i, h * width + column, scale * sums[c]);
        }}
    }}
}}
extern "C" __global__ void attend_back_of_keys_{real}(
    {parameters}, const {real}* g, const {real}* kept, {real}* k_target, const long long* k_at, int k_apart, int k_how,
    {real}* v_target, const long long* v_at, int v_apart, int v_how, const {real}* of_weights, int average,
    int total) {{
    const int lane = threadIdx.x % 32;
    const long long warp = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int j = (int)(warp / heads), h = (int)(warp % heads);
    if (j >= total) return;  // a warp as a whole
    const int node = node_of_{real}(k_ends, k_each, nodes, j);
    const long long begin = end_of_{real}(q_ends, q_each, node - 1), low = end_of_{real}(k_ends, k_each, node - 1);
    const int count = (int)(end_of_{real}(q_ends, q_each, node) - begin), place = (int)(j - low);
    const {real} *key = k + (long long)j * k_pitch + h * width, *value = v + (long long)j * v_pitch + h * v_width;
    const {real} *queries = q + begin * q_pitch + h * width, *shares = g + (begin * heads + h) * v_width;
    const int own = (int)(end_of_{real}(k_ends, k_each, node) - low);
    const long long pairs = (long long)count * own;
    const long long area = is_beside ? pairs_before_{real}(q_ends, q_each, k_ends, k_each, node, lane) : 0;
    beside_{real} beside = beside_of_{real}({beside}, area, low, pairs, heads, h, 0, own);
    const int most_columns = width > v_width ? width : v_width;
    for (int first = 0; first < most_columns; first += 32 * {columns}) {{
        {real} of_key[{columns}] = {{}}, of_value[{columns}] = {{}};
        for (int i = 0; i < count; i += 32) {{
            const int query = i + lane;
            {real} weight = 0, slope = 0;
            if (query < count) {{
                const {real}* mine = kept + 3 * ((begin + query) * heads + h);
                const bool is_seen = !causal || place <= query;
                const {real}* row = queries + (long long)query * q_pitch;
                const long long at = (long long)query * own + place;
                const long long said = mask_of ? at : place;
                const {real} part = share_{real}(row, key, width, scale, is_seen, beside, said, mine[0]);
                const {real}* share = shares + (long long)query * heads * v_width;
                const long long given = (average ? area : area * heads + h * pairs) + at;
                const {real} pull = of_weight_{real}(share, value, v_width, of_weights, given, average, heads);
                const bool shown = beside.shows(is_seen, said);
                slope = slope_{real}(part / mine[1], beside.pull(pull, at), mine[2], shown);
                weight = beside.keep(part / mine[1], at);
            }}
            for (int t = 0; t < 32 && i + t < count; t++) {{
                const {real} w = __shfl_sync(0xffffffffu, weight, t), s = __shfl_sync(0xffffffffu, slope, t);
                for (int c = 0; c < {columns}; c++) {{
                    const int column = first + 32 * c + lane;
                    if (column < v_width) {{
                        const {real} share = shares[(long long)(i + t) * heads * v_width + column];
                        if (share != 0) of_value[c] += w * share;
                    }}
                    if (column < width && s != 0) of_key[c] += s * queries[(long long)(i + t) * q_pitch + column];
                }}
            }}
        }}
        for (int c = 0; c < {columns}; c++) {{
            const int column = first + 32 * c + lane;
            if (k_target && column < width)
                put_{real}(k_target, k_at, k_apart, k_how, j, h * width + column, scale * of_key[c]);
            if (v_target && column < v_width)
                put_{real}(v_target, v_at, v_apart, v_how, j, h * v_width + column, of_value[c]);
        }}
    }}
}}
"""
_PARAMETERS = """\
const {real}* q, int q_pitch, const {real}* k, int k_pitch, const {real}* v, int v_pitch, const long long* q_ends, \
int q_each, const long long* k_ends, int k_each, int nodes, int rows, int heads, int width, int v_width, int causal, \
{real} scale, const unsigned char* truths, int hides, const {real}* numbers, const {real}* factors, int mask_of, \
int mask_each, int kept_each, int is_beside"""
# A query and a head for each warp.
_HEAD = """\
    const int lane = threadIdx.x % 32;
    const long long warp = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const int i = (int)(warp / heads), h = (int)(warp % heads);
    if (i >= rows) return;  // a warp as a whole
    const int node = node_of_{real}(q_ends, q_each, nodes, i);
    const long long low = end_of_{real}(k_ends, k_each, node - 1);
    const int count = (int)(end_of_{real}(k_ends, k_each, node) - low);
    const int before = (int)(i + 1 - end_of_{real}(q_ends, q_each, node - 1));
    const int seen = causal && before < count ? before : count;
    const {real} *query = q + (long long)i * q_pitch + h * width, *keys = k + low * k_pitch + h * width;
    const {real}* values = v + low * v_pitch + h * v_width;
    const long long queries = end_of_{real}(q_ends, q_each, node) - end_of_{real}(q_ends, q_each, node - 1);
    const long long pairs = queries * count;
    const long long area = is_beside ? pairs_before_{real}(q_ends, q_each, k_ends, k_each, node, lane) : 0;
    const beside_{real} beside = beside_of_{real}({beside}, area, low, pairs, heads, h, before - 1, count);"""
_BESIDE = "truths, hides, numbers, factors, mask_of, mask_each, kept_each"


def _text(real: str) -> str:
    parameters, head = _PARAMETERS.format(real=real), _HEAD.format(real=real, beside=_BESIDE)
    names = {"real": real, "f": "f" if real == "float" else "", "columns": _COLUMNS_OF_A_LANE, "beside": _BESIDE}
    return _ATTENTION_TEXT.format(parameters=parameters, head=head, **names)


ATTENTION_SOURCE = "".join(_text(real) for real in REALS.values())
_KERNEL_NAMES = ("attend", "attention_weights", "attend_back", "attend_back_of_keys")
ATTENTION_KERNELS = tuple(f"{name}_{real}" for real in REALS.values() for name in _KERNEL_NAMES)


class Heads(NamedTuple):
    """How many heads there are, whether query i sees the keys up to i alone, what a mask says and of what (see
    `lazyflow.ops.attention`), and what scores are multiplied by.

    ``mask``, truth values or numbers, and ``kept``, factors of the weights, or None: flat, of all nodes one behind the
    other, or one for all of them where they are not ``each``."""

    heads: int
    causal: bool
    says: str
    of: str
    scale: float
    mask: Array = None
    kept: Array = None
    mask_each: bool = False
    kept_each: bool = False

    def beside(self) -> list[object]:
        """What kernels take of mask and factors."""
        adds, of = self.says == "added", ("keys", "all", "heads").index(self.of) if self.of else 0
        truths, numbers = (NO_ADDRESS if self.mask is None or adds is other else self.mask for other in (True, False))
        factors = NO_ADDRESS if self.kept is None else self.kept
        each = self.mask_each, self.kept_each, self.mask is not None or self.kept is not None
        return [truths, np.int32(self.says == "hidden"), numbers, factors, np.int32(of), *map(np.int32, each)]


def attend(how: Heads, groups: tuple[Groups, Groups], operands: Sequence[Array], out: Array) -> None:
    """``out`` becomes the result of queries, keys and values, the rows of all nodes; ``groups``: those of each node, of
    queries and of keys. All are contiguous matrices of one dtype."""
    launch(_kernel_of("attend", out), len(out) * how.heads * WARP, [*_arguments(how, groups, operands), out])


def attention_weights(
    how: Heads, groups: tuple[Groups, Groups], operands: Sequence[Array], average: bool, out: Array
) -> None:
    """``out`` becomes the weights of queries and keys, of all nodes end to end, by heads, or the mean of these."""
    values = devices.module(out).empty((len(operands[1]), 0), out.dtype)
    arguments = _arguments(how, groups, [*operands, values])
    warps = len(operands[0]) * (1 if average else how.heads)
    launch(_kernel_of("attention_weights", out), warps * WARP, [*arguments, np.int32(average), out])


def attend_back(
    how: Heads,
    groups: tuple[Groups, Groups],
    given: Sequence[Array],
    wanted: Sequence[int],
    into: Sequence[Places | None],
    of_mask: Array,
    of_weights: tuple[Array, bool] | None = None,
) -> list[Array | None]:
    """From cotangents of the result and the operands those of the operands ``wanted``; None where they were brought to
    places of their own. Those of a mask of numbers, the fourth, come by heads in ``of_mask``. ``of_weights``: in place
    of those of the result, which has no columns, those of the weights, or of their mean over heads."""
    g, *operands = given
    weights = [NO_ADDRESS, np.int32(0)] if of_weights is None else [of_weights[0], np.int32(of_weights[1])]
    xp, found, places = devices.module(g), list[Array | None](), dict[int, Places]()
    for i, place in zip(wanted, into, strict=True):
        if i == len(operands):
            found.append(of_mask)
            continue
        fits = place is not None and place.memory.dtype == g.dtype
        found.append(None if fits else xp.empty(operands[i].shape, g.dtype))
        places[i] = place if fits and place is not None else put_in(found[-1])
    kept = xp.empty(3 * len(g) * how.heads, g.dtype)
    arguments = [*_arguments(how, groups, operands, of_weights is not None), g, kept]
    rest = [*_where_put(places.get(0)), of_mask if len(operands) in wanted else NO_ADDRESS, *weights]
    launch(_kernel_of("attend_back", g), len(g) * how.heads * WARP, [*arguments, *rest])
    if 1 in places or 2 in places:
        keys, rest = len(operands[1]), [*_where_put(places.get(1)), *_where_put(places.get(2)), *weights]
        launch(_kernel_of("attend_back_of_keys", g), keys * how.heads * WARP, [*arguments, *rest, np.int32(keys)])
    return found


def _kernel_of(name: str, like: Array) -> object:
    kernels = functions(ATTENTION_SOURCE, ATTENTION_KERNELS)
    return kernels[ATTENTION_KERNELS.index(f"{name}_{REALS[like.dtype.name]}")]


def _arguments(
    how: Heads, groups: tuple[Groups, Groups], operands: Sequence[Array], by_pairs: bool = False
) -> list[object]:
    """``by_pairs``: something stands beside each query and key."""
    q, _, v = operands
    arguments: list[object] = []
    for x in operands:
        arguments += [x, np.int32(x.shape[1])]
    for ends, each in groups:
        arguments += [NO_ADDRESS if ends is None else ends, np.int32(each)]
    nodes = len(q) // max(groups[0].each, 1) if groups[0].ends is None else len(groups[0].ends)
    sizes = (nodes, len(q), how.heads, q.shape[1] // how.heads, v.shape[1] // how.heads, how.causal)
    *beside, is_beside = how.beside()
    numbers = [*map(np.int32, sizes), v.dtype.type(how.scale)]
    return [*arguments, *numbers, *beside, np.int32(1) if by_pairs else is_beside]


def _where_put(places: Places | None) -> list[object]:
    """Where cotangents go, and how: others may be added there."""
    if places is None:
        return [NO_ADDRESS, NO_ADDRESS, np.int32(0), np.int32(0)]
    memory, at, pitch, _ = places.arguments()
    return [memory, at, pitch, np.int32(places.adds)]

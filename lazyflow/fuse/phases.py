"""A recurrent phase as one kernel in CUDA C: it goes from level to level by itself, and waits for the grid in between.

Blocks stay where they are for the whole phase. Each has a *tile* of the kernel's columns, and keeps the weights of
these in shared memory; blocks that have the same tile *share* the rows of a level. Of a row and some columns a warp
computes the products, reading the left sides where they lie, and a thread for each column the elementwise rest. What
the next level reads is there when all blocks have been at the barrier of the grid.

Weights that stay on the chip, in blocks that persist, are of Diamos et al. (Persistent RNNs, 2016), and for graphs that
change with the input of Khorasani et al. (VPPS, 2018); levels inside of one kernel, with a barrier in between, are of
Fegade et al. (Cortex, 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lazyflow.cuda.module import WARP
from lazyflow.cuda.text import REALS
from lazyflow.fuse.cuda import computed_values, element, parameters, spelled_shift, stored_text
from lazyflow.fuse.scalar import Kernel

PHASE_THREADS = 256  # of a block
SHARED_BYTES = 48 << 10  # that a block may have without asking for more
ROWS_OF_SHARE = 2 * PHASE_THREADS // WARP  # of a level, on average, that are worth blocks of their own


class Factor(NamedTuple):
    """A product of a phase: the number of the kernel's argument that is its result, of how many parts the left side
    is put together, and whether the result is written, not only read by the kernel."""

    argument: int
    parts: int
    written: bool


def columns_read(kernel: Kernel, argument: int) -> list[int]:
    """Where the columns begin that a kernel loads of an argument."""
    return sorted({c.shift for c in kernel.instructions if c.name == "load" and c.argument == argument})


class GridShape(NamedTuple):
    """``units`` columns for each of the ``tiles``, and so many blocks that share its rows."""

    units: int
    tiles: int
    shares: int


def grid_shape(width: int, nbytes: int, rows: int, blocks: int) -> GridShape | None:
    """How the blocks of a device, all of which run at once, divide a phase of ``width`` columns, whose weights take
    ``nbytes`` each, and about ``rows`` a level; None if the weights are too large.

    Few rows get narrow tiles, so that many blocks have something to do.

    >>> grid_shape(150, 6000, 1, 132), grid_shape(150, 6000, 200, 132)
    (GridShape(units=2, tiles=75, shares=1), GridShape(units=8, tiles=19, shares=6))
    >>> grid_shape(2048, 32768, 1, 132) is None
    True
    """
    most = min(WARP, SHARED_BYTES // nbytes, width)
    if most * blocks < width:
        return None
    shares = min(-(-rows // ROWS_OF_SHARE), blocks)
    units = min(most, -(-width // max(blocks // shares, 1)))
    tiles = -(-width // units)
    return GridShape(units, tiles, max(1, min(shares, blocks // tiles)))


# The barrier is that of CUDA's cooperative groups: all blocks together add 2^31 to the counter, which nobody needs to
# set back. A cooperative launch has all blocks run at once, or fails.
BARRIER = """\
__device__ void wait_for_grid(unsigned* counter) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const unsigned before = atomicAdd(counter, blockIdx.x ? 1u : 0x80000000u - (gridDim.x - 1));
        while (((before ^ *(volatile unsigned*)counter) & 0x80000000u) == 0) __nanosleep(32);
        __threadfence();
    }
    __syncthreads();
}
"""
_PHASE_HEAD = """\
extern "C" __global__ void __launch_bounds__({threads}) {name}(
    {parameters}) {{
    extern __shared__ {real} weights[];
    const int tile = blockIdx.x % tiles, share = blockIdx.x / tiles, shares = gridDim.x / tiles;
    const int begin = tile * units, count = min(units, {columns} - begin);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
"""
_RESIDENT = """\
    {real}* const resident{p} = {place};
    for (int e = threadIdx.x; e < count * {gates} * inner{p}; e += blockDim.x) {{
        const int gate = e / inner{p} % {gates}, unit = e / inner{p} / {gates};
        resident{p}[e] = weight{p}[(long long)(begin + unit + ({shift})) * inner{p} + e % inner{p}];
    }}
"""
# Where there are more warps than rows, several of them have a part each of the columns of one.
_TASKS = """\
        const int rows = (high - low + shares - 1) / shares;
        const int groups = min(count, max(1, warps / max(1, rows))), each = (count + groups - 1) / groups;
        for (int task = share * warps + warp; task < (high - low) * groups; task += shares * warps) {{
            const int i = low + task / groups, from = task % groups * each, some = min(each, count - from);
{work}
        }}
"""
_LEVELS = """\
    __syncthreads();
    for (int level = 0; level < levels; level++) {{
        const int low = (int)edges[level], high = (int)edges[level + 1], first = whole ? 0 : low;
{tasks}\
        if (level + 1 < levels) wait_for_grid(barrier);
    }}
}}
"""
_LEVELS_BACK = """\
    __syncthreads();
    for (int level = levels - 1; level >= 0; level--) {{
        const int low = (int)edges[level], high = (int)edges[level + 1], first = 0;
        const long long elements = (long long)(high - low) * width, all = (long long)gridDim.x * blockDim.x;
        for (long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x; e < elements; e += all) {{
            const int i = low + (int)(e / width), j = (int)(e % width);
{elements}
        }}
        wait_for_grid(barrier);
{tasks}\
        if (level) wait_for_grid(barrier);
    }}
}}
"""
_RESIDENT_BACK = """\
    for (int e = threadIdx.x; e < count * outer{p}; e += blockDim.x) {{
        const int unit = e % count, k = begin + unit - start{p};
        if (k < 0 || k >= inner{p}) continue;
        weights[unit * room + e / count] = weight{p}[(long long)(e / count) * inner{p} + k];
    }}
"""
_PART_OF_PRODUCT = """\
{{
    const {real}* x = buffer + at{q}[i] + column{q};
    for (int k = lane; k < size{q}; k += 32) {{
{sums}
    }}
    w += size{q};
}}"""


def phase_source(kernel: Kernel, factors: Sequence[Factor], name: str) -> str:
    """The text of a phase: of each level the products, and the kernel, which reads them."""
    real = REALS[kernel.dtype.name]
    written = [factor.argument for factor in factors if factor.written]
    given = ",\n    ".join([*_phase_parameters(real, factors), ", ".join(parameters(kernel, written))])
    resident = "".join(_resident(kernel, factors, p) for p in range(len(factors)))
    tasks = _TASKS.format(work=_indented(3, _work_of_warp(kernel, factors)))
    head = _PHASE_HEAD.format(threads=PHASE_THREADS, name=name, parameters=given, real=real, columns="width")
    return BARRIER + head + resident + _LEVELS.format(tasks=tasks)


def _indented(depth: int, lines: Iterable[str]) -> str:
    return "\n".join(" " * 4 * depth + line for line in lines)


def _phase_parameters(real: str, factors: Sequence[Factor]) -> Iterator[str]:
    yield f"const long long* edges, int levels, int whole, unsigned* barrier, int units, int tiles, {real}* buffer"
    for p, factor in enumerate(factors):
        yield f"const {real}* weight{p}, int inner{p}, {real}* left{p}, int apart{p}"
        yield from (f"const long long* at{q}, int column{q}, int size{q}" for q in _parts_of_factor(p, factor))


def _parts_of_factor(p: int, factor: Factor) -> list[str]:
    return [f"{p}_{k}" for k in range(factor.parts)]


def _dot_names(kernel: Kernel, p: int, factor: Factor) -> list[str]:
    return [f"{p}_{k}" for k in range(len(columns_read(kernel, factor.argument)))]


def _resident(kernel: Kernel, factors: Sequence[Factor], p: int) -> str:
    """The weights of a tile, row by row: those of all columns that belong to one of the kernel's stand together."""
    columns, before = columns_read(kernel, factors[p].argument), "weights"
    if p:
        before = f"resident{p - 1} + (long long)units * {len(_dot_names(kernel, p - 1, factors[p - 1]))} * inner{p - 1}"
    shift = spelled_shift(kernel, factors[p].argument, columns[-1])
    for gate in range(len(columns) - 2, -1, -1):
        shift = f"gate == {gate} ? {spelled_shift(kernel, factors[p].argument, columns[gate])} : {shift}"
    real = REALS[kernel.dtype.name]
    return _RESIDENT.format(real=real, p=p, place=before, gates=len(columns), shift=shift)


def _work_of_warp(kernel: Kernel, factors: Sequence[Factor]) -> Iterator[str]:
    """What a warp does for some columns of a row."""
    real = REALS[kernel.dtype.name]
    every = [dot for p, factor in enumerate(factors) for dot in _dot_names(kernel, p, factor)]
    yield f"{real} {', '.join(f'dot{dot} = 0' for dot in every)};"
    yield "for (int unit = from; unit < from + some; unit++) {"
    yield f"    {real} {', '.join(f'sum{dot} = 0' for dot in every)};"
    for p, factor in enumerate(factors):
        yield from (f"    {line}" for line in _products_of_row(kernel, p, factor))
    yield f"    for (int d = {WARP // 2}; d; d /= 2) {{"
    yield from (f"        sum{dot} += __shfl_xor_sync(0xffffffffu, sum{dot}, d);" for dot in every)
    yield "    }"
    yield f"    if (lane == unit - from) {{ {' '.join(f'dot{dot} = sum{dot};' for dot in every)} }}"
    yield "}"
    for p, factor in enumerate(factors):
        yield from _left_side_kept(real, p, factor)
    yield "if (lane < some) {"
    yield "    const int j = begin + from + lane;"
    yield from (f"    {line}" for line in _elementwise_rest(kernel, factors))
    yield "}"


def _products_of_row(kernel: Kernel, p: int, factor: Factor) -> Iterator[str]:
    """The products of a row of the left side with the weights of a column of the kernel's, a share for each lane."""
    real, dots = REALS[kernel.dtype.name], _dot_names(kernel, p, factor)
    fma = "fmaf" if real == "float" else "fma"
    sums = [f"        sum{dot} = {fma}(x[k], w[{k} * inner{p} + k], sum{dot});" for k, dot in enumerate(dots)]
    yield "{"
    yield f"    const {real}* w = resident{p} + (long long)unit * {len(dots)} * inner{p};"
    for q in _parts_of_factor(p, factor):
        yield from (
            f"    {line}" for line in _PART_OF_PRODUCT.format(real=real, q=q, sums="\n".join(sums)).splitlines()
        )
    yield "}"


def _left_side_kept(real: str, p: int, factor: Factor) -> Iterator[str]:
    """The left side of a product is kept for the gradient of its weights, if there is a place for it."""
    yield f"if (left{p} && from == 0 && task / groups % tiles == tile) {{"
    yield f"    {real}* row = left{p} + (long long)i * apart{p};"
    for q in _parts_of_factor(p, factor):
        yield f"    for (int k = lane; k < size{q}; k += 32) row[k] = buffer[at{q}[i] + column{q} + k];"
        yield f"    row += size{q};"
    yield "}"


def _elementwise_rest(kernel: Kernel, factors: Sequence[Factor]) -> Iterator[str]:
    known: dict[tuple[int, int], str] = {}
    for p, factor in enumerate(factors):
        for shift, dot in zip(columns_read(kernel, factor.argument), _dot_names(kernel, p, factor), strict=True):
            known[factor.argument, shift] = f"dot{dot}"
            if factor.written:
                yield f"{element(kernel, factor.argument, shift)} = dot{dot};"
    yield from computed_values(kernel, known)
    yield from (stored_text(kernel, store) for store in kernel.stores)


# Backward: of each level, the last first, the elementwise kernel, for whose cotangents of products all blocks wait;
# then products with the columns of the weights, which are added to the cotangents of operands, and all blocks wait
# again. A tile is of the columns of all left sides, those of one product behind those of the other.


def phase_back_source(kernel: Kernel, parts: Sequence[int], name: str) -> str:
    """The text of a phase backward: of each level the kernel, and products, each handed on to so many operands."""
    real = REALS[kernel.dtype.name]
    given = ",\n    ".join([*_back_parameters(real, parts), ", ".join(parameters(kernel))])
    head = _PHASE_HEAD.format(threads=PHASE_THREADS, name=name, parameters=given, real=real, columns="columns")
    resident = "".join(_RESIDENT_BACK.format(p=p) for p in range(len(parts)))
    elements = [*computed_values(kernel), *(stored_text(kernel, store) for store in kernel.stores)]
    tasks = _TASKS.format(work=_indented(3, _work_back(real, parts)))
    return BARRIER + head + resident + _LEVELS_BACK.format(elements=_indented(3, elements), tasks=tasks)


def _back_parameters(real: str, parts: Sequence[int]) -> Iterator[str]:
    yield "const long long* edges, int levels, unsigned* barrier, int units, int tiles, int columns, int room"
    yield f"{real}* target"
    for p, count in enumerate(parts):
        yield f"const {real}* weight{p}, int start{p}, int inner{p}, int outer{p}"
        yield f"const {real}* g{p}, int step{p}"
        yield from (
            f"const long long* at{p}_{k}, int column{p}_{k}, int start{p}_{k}, int size{p}_{k}" for k in range(count)
        )


def _work_back(real: str, parts: Sequence[int]) -> Iterator[str]:
    """What a warp does for some columns of the left sides of a row."""
    fma = "fmaf" if real == "float" else "fma"
    yield f"{real} dot = 0;"
    yield "for (int unit = from; unit < from + some; unit++) {"
    yield "    const int column = begin + unit;"
    yield f"    {real} sum = 0;"
    for p in range(len(parts)):
        yield f"    if (column >= start{p} && column < start{p} + inner{p})"
        yield f"        for (int k = lane; k < outer{p}; k += {WARP})"
        yield f"            sum = {fma}(g{p}[(long long)i * step{p} + k], weights[unit * room + k], sum);"
    yield f"    for (int d = {WARP // 2}; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);"
    yield "    if (lane == unit - from) dot = sum;"
    yield "}"
    yield "const int column = begin + from + lane;"
    for q in [f"{p}_{k}" for p, count in enumerate(parts) for k in range(count)]:
        yield f"if (lane < some && column >= start{q} && column < start{q} + size{q})"
        yield f"    atomicAdd(&target[at{q}[i] + column{q} + column - start{q}], dot);"

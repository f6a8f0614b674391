"""Operations on rows of a flat buffer on the device, one launch each: gathers of several operands side by side, their
transpose, and sums of groups of rows.

Rows that are added may repeat, so additions are atomic, in any order: where three or more meet, their sum may differ in
its last bits from run to run. Under ``lf.using(deterministic=True)`` rows are sorted on the host by where they go, and
each place gets the sum of its own, in order; that costs a sort and a copy to the device for each launch. Sums of groups
are always made in order. All sums are in double precision.

The matrices that rows are gathered into and added from may be stored in 16 bits (`lazyflow.cuda.text.STORED`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow import settings
from lazyflow.cuda.module import WARP, functions, launch
from lazyflow.cuda.text import NUMBER_FORMS, REALS, STORED
from lazyflow.device import Array, DType

MOST_OPERANDS = 8  # operands of one launch

_MOVE = """\
extern "C" __global__ void {name}_{parts}_{kind}(
    {real}* buffer, {kept}* rows, int pitch, int low, int count, int total{parameters}) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / total);
    int j = (int)(e % total);
    if (i >= count) return;
    {kept}* row = rows + (long long)i * pitch;
{cases}
}}
"""
_GATHERED = "row[column{k} + j] = {bits}(buffer[at{k}[low + i] * scale{k} + shift{k} + j]);"
_ADDED = "atomicAdd(&buffer[at{k}[low + i] * scale{k} + shift{k} + j], {value}(row[column{k} + j]));"
_PART = ", const long long* at{k}, int scale{k}, int shift{k}, int column{k}, int width{k}"
# What becomes of the value of column j of row i: it is added where others may be, added, or put.
_PUT = """\
    {real}* place = target + (at ? at[i] : i) * (long long)apart + j;
    if (how == 2) atomicAdd(place, value); else *place = how ? *place + value : value;
"""
_SHOWN = """\
__device__ void show_{kind}(
    int i, const {kept}* g, int pitch, int columns, const {kept}* x, int apart, {kept}* out, int width) {{
    const int lane = threadIdx.x % 32;
    int any = 0;
    for (int j = lane; j < columns; j += 32) any |= {value}(g[(long long)i * pitch + j]) != 0;
    for (int d = 16; d; d /= 2) any |= __shfl_xor_sync(0xffffffffu, any, d);
    for (int j = lane; j < width; j += 32)
        out[(long long)i * width + j] = any ? x[(long long)i * apart + j] : ({kept})0;
}}
extern "C" __global__ void shown_{kind}({parameters}) {{
    int i = (int)(((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32);  // a warp as a whole has a row
{cases}
}}
"""
_SHOWN_PART = """\
const {kept}* g{k}, int pitch{k}, int columns{k}, const {kept}* x{k}, int apart{k}, {kept}* out{k}, int count{k}, \
int width{k}"""
_SHOWN_CASE = """\
    if (i < count{k}) {{ show_{kind}(i, g{k}, pitch{k}, columns{k}, x{k}, apart{k}, out{k}, width{k}); return; }}
    i -= count{k};"""
# A block has 32 columns, and in each of them 32 threads that share the rows. The compiler is told of them all: else it
# may give each more registers than there are.
_COLUMNS = """\
extern "C" __global__ void __launch_bounds__(1024) column_sums_{kind}(int parts, {parameters}) {{
    const {kept}* const rows[] = {{{rows}}};
    {real}* const sums[] = {{{sums}}};
    const int pitches[] = {{{pitches}}}, counts[] = {{{counts}}}, widths[] = {{{widths}}};
    __shared__ double partial[32][33];
    const int lane = threadIdx.x % 32, share = threadIdx.x / 32;
    int tile = blockIdx.x, first = 0;
    while (!sums[first] || tile >= (widths[first] + 31) / 32) {{
        if (sums[first]) tile -= (widths[first] + 31) / 32;
        first++;
    }}
    const int j = 32 * tile + lane;
    double sum = 0;
    if (j < widths[first]) {{
        int k = first;
        do {{
            for (int i = share; i < counts[k]; i += 32) sum += {value}(rows[k][(long long)i * pitches[k] + j]);
        }} while (++k < parts && !sums[k]);  // more rows of the same sum
    }}
    partial[share][lane] = sum;
    __syncthreads();
    if (share == 0 && j < widths[first]) {{
        for (int s = 1; s < 32; s++) sum += partial[s][lane];
        sums[first][j] = ({real})sum;
    }}
}}
"""
_COLUMNS_PART = "const {kept}* rows{k}, int pitch{k}, int count{k}, int width{k}, {real}* sums{k}"
_LOSS_HEAD = """\
    const int lane = threadIdx.x % 32;
    const int i = (int)(((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32);
    if (i >= count) return;  // a warp as a whole
    const {real}* row = logits + (long long)i * pitch;
    const long long label = (labels[i] % classes + classes) % classes;  // what is computed may be out of range
    {real} most = row[lane < classes ? lane : 0];
    for (int j = lane; j < classes; j += 32) most = row[j] > most || row[j] != row[j] ? row[j] : most;
    for (int d = 16; d; d /= 2) {{
        const {real} other = __shfl_xor_sync(0xffffffffu, most, d);
        most = other > most || other != other ? other : most;
    }}
    double sum = 0;
    for (int j = lane; j < classes; j += 32) sum += exp{f}(row[j] - most);
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
"""
_LOSS = """\
extern "C" __global__ void cross_entropy_{real}(
    const {real}* logits, int pitch, const long long* labels, {real}* losses, int apart, int count, int classes) {{
{head}
    if (lane == 0) losses[(long long)i * apart] = log{f}(({real})sum) - (row[label] - most);
}}
extern "C" __global__ void cross_entropy_slopes_{real}(
    const {real}* logits, int pitch, const long long* labels, const {real}* g, int step, {real}* target,
    const long long* at, int apart, int how, int count, int classes) {{
{head}
    const {real} share = g[(long long)i * step];
    for (int j = lane; j < classes; j += 32) {{
        const {real} slope = exp{f}(row[j] - most) / ({real})sum - (j == label ? 1 : 0);
        const {real} value = share == 0 ? ({real})0 : share * slope;
{put}
    }}
}}
"""
_GROUPS = """\
extern "C" __global__ void sum_groups_{real}(
    const {real}* rows, int pitch, const long long* positions, const long long* ends, int each, int mean, {real}* out,
    int count, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / width), j = (int)(e % width);
    if (i >= count) return;
    const long long end = ends ? ends[i] : (long long)(i + 1) * each;
    const long long begin = ends ? i ? ends[i - 1] : 0 : end - each;
    double sum = 0;
    for (long long k = begin; k < end; k++) sum += rows[(positions ? positions[k] : k) * pitch + j];
    out[(long long)i * width + j] = ({real})(mean ? sum / (end - begin) : sum);
}}
extern "C" __global__ void extremes_{real}(
    const {real}* rows, int pitch, const long long* positions, const long long* ends, int each, int smallest,
    {real}* out, int count, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / width), j = (int)(e % width);
    if (i >= count) return;
    const long long end = ends ? ends[i] : (long long)(i + 1) * each;
    {real} most = out[(long long)i * width + j];
    for (long long k = ends ? i ? ends[i - 1] : 0 : end - each; k < end; k++) {{
        const {real} value = rows[(positions ? positions[k] : k) * pitch + j];
        const bool further = smallest ? value < most : value > most;
        most = further || value != value ? value : most;
    }}
    out[(long long)i * width + j] = most;
}}
extern "C" __global__ void repeat_groups_{real}(
    const {real}* rows, int pitch, const long long* ends, int each, int mean, int groups, {real}* target,
    const long long* at, int apart, int how, int count, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / width), j = (int)(e % width);
    if (i >= count) return;
    int low = 0, high = groups - 1;
    while (ends && low < high) {{
        const int middle = (low + high) / 2;
        if (i < ends[middle]) high = middle; else low = middle + 1;
    }}
    const int group = ends ? low : i / each;
    const long long size = ends ? ends[group] - (group ? ends[group - 1] : 0) : each;
    const {real} whole = rows[(long long)group * pitch + j], value = mean ? whole / ({real})size : whole;
{put}
}}
"""

_FETCHED = """\
extern "C" __global__ void fetch_{real}(const long long* addresses, {real}* out, int count, int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / width), j = (int)(e % width);
    if (i < count) out[e] = ((const {real}*)addresses[i])[j];
}}
"""
_ORDERED = """\
extern "C" __global__ void add_groups_{kind}(
    {real}* buffer, const {kept}* rows, int pitch, int column, const long long* table, int groups, int inner,
    int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / width), j = (int)(e % width);
    if (i >= groups) return;
    const long long *ends = table, *places = table + groups, *positions = places + groups;
    {real}* target = buffer + places[i] + j;
    double sum = *target;
    for (long long k = i ? ends[i - 1] : 0; k < ends[i]; k++)
        sum += {value}(rows[positions[k] / inner * pitch + column + positions[k] % inner + j]);
    *target = ({real})sum;
}}
"""


def _move(name: str, parts: int, statement: str, names: Mapping[str, str]) -> str:
    statements = [statement.format(k=k, **names) for k in range(parts)]
    cases = [f"    if (j < width{k}) {{ {text} return; }}\n    j -= width{k};" for k, text in enumerate(statements)]
    parameters = "".join(_PART.format(k=k) for k in range(parts))
    return _MOVE.format(name=name, parts=parts, parameters=parameters, cases="\n".join(cases), **names)


def _several(text: str, part: str, names: Mapping[str, str]) -> str:
    """A kernel of `MOST_OPERANDS` parts, of which the last may be empty."""

    def each(form: str, between: str = ", ") -> str:
        return between.join(form.format(k=k, **names) for k in range(MOST_OPERANDS))

    lists = {f"{name}s": each(f"{name}{{k}}") for name in ("pitch", "count", "width")} | {"pitches": each("pitch{k}")}
    cases = each(_SHOWN_CASE, "\n")
    return text.format(parameters=each(part), cases=cases, rows=each("rows{k}"), sums=each("sums{k}"), **lists, **names)


def _texts(real: str) -> Iterator[tuple[str, str]]:
    """Names of kernels with their text; a text with several kernels stands with the first."""
    f, put = "f" if real == "float" else "", _PUT.format(real=real).rstrip()
    loss = _LOSS.format(real=real, f=f, head=_LOSS_HEAD.format(real=real, f=f).rstrip(), put=put)
    yield from (("sum_groups", _GROUPS.format(real=real, put=put)), ("extremes", ""), ("repeat_groups", ""))
    yield "fetch", _FETCHED.format(real=real)
    yield from (("cross_entropy", loss), ("cross_entropy_slopes", ""))
    yield from _texts_of_kept(real)


def _texts_of_kept(kind: str) -> Iterator[tuple[str, str]]:
    """Those of matrices that cells keep, of which the numbers may be stored in 16 bits."""
    names = NUMBER_FORMS[kind]._asdict() | {"kind": kind}
    yield "add_groups", _ORDERED.format(**names)
    yield "shown", _several(_SHOWN, _SHOWN_PART, names)
    yield "column_sums", _several(_COLUMNS, _COLUMNS_PART, names)
    for parts in range(1, MOST_OPERANDS + 1):
        yield f"gather_{parts}", _move("gather", parts, _GATHERED, names)
        yield f"add_rows_{parts}", _move("add_rows", parts, _ADDED, names)


ROW_KERNELS = {f"{name}_{real}": text for real in REALS.values() for name, text in _texts(real)}
STORED_KERNELS = {f"{name}_{stored}": text for stored in STORED for name, text in _texts_of_kept(stored)}
ROW_SOURCE, STORED_SOURCE = ("".join(texts.values()) for texts in (ROW_KERNELS, STORED_KERNELS))
_PLACES_IN_SOURCE = {name: k for texts in (ROW_KERNELS, STORED_KERNELS) for k, name in enumerate(texts)}
_NAMES_OF_NUMBERS = {**REALS, **{dtype.name: stored for stored, dtype in STORED.items()}}


def _row_function(name: str, dtype: DType) -> object:
    whole = f"{name}_{_NAMES_OF_NUMBERS[dtype.name]}"
    source, kernels = (ROW_SOURCE, ROW_KERNELS) if whole in ROW_KERNELS else (STORED_SOURCE, STORED_KERNELS)
    return functions(source, tuple(kernels))[_PLACES_IN_SOURCE[whole]]


class Part(NamedTuple):
    """One operand: row ``i`` is ``width`` elements from ``at[i] * scale + shift`` on, and stands at ``column`` of a
    matrix. ``at``: int64, on the device; ``host``: the same on the host, where it is there."""

    at: Array
    scale: int
    shift: int
    column: int
    width: int
    host: Array = None


def gather(out: Array, buffer: Array, parts: Sequence[Part], low: int = 0) -> None:
    """Rows of the buffer into columns of a matrix, ``low`` being the first."""
    _moved("gather", buffer, out, parts, low)


def add_parts(buffer: Array, rows: Array, parts: Sequence[Part], low: int = 0) -> None:
    """The transpose of `gather`: columns of a matrix are added to rows of the buffer, which may repeat and overlap."""
    if settings.current().deterministic:
        for part in parts:
            add_in_order(buffer, rows, part, low)
    else:
        _moved("add_rows", buffer, rows, parts, low)


def add_in_order(buffer: Array, rows: Array, part: Part, low: int) -> None:
    """The same of one part, in an order that is always the same."""
    count, width, inner = len(rows), part.width, 1
    if not count or not width:
        return
    host = devices.to_host(part.at) if part.host is None else part.host
    places = host[low : low + count].astype(np.int64) * part.scale + part.shift
    order, ends, distinct = _groups(places)
    if (np.diff(distinct) < width).any():  # rows that overlap: element by element
        order, ends, distinct = _groups((places[:, None] + np.arange(width)).ravel())
        width, inner = 1, width
    table = devices.to_device(np.concatenate([ends, distinct, order]), devices.device_of(buffer))
    sizes = [np.int32(part.column), table, *map(np.int32, (len(ends), inner, width))]
    launch(_row_function("add_groups", rows.dtype), len(ends) * width, [buffer, rows, _pitch(rows), *sizes])


def _groups(places: Array) -> tuple[Array, Array, Array]:
    """Positions in the order of their places, equal ones as they come; where each group of them ends; its place."""
    order = np.argsort(places, kind="stable")
    ordered = places[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
    return order, ends, ordered[ends - 1]


def _moved(name: str, buffer: Array, matrix: Array, parts: Sequence[Part], low: int) -> None:
    for first in range(0, len(parts), MOST_OPERANDS):
        some = parts[first : first + MOST_OPERANDS]
        count, total = len(matrix), sum(part.width for part in some)
        pitch = matrix.strides[0] // matrix.itemsize
        arguments: list[object] = [buffer, matrix, *map(np.int32, (pitch, low, count, total))]
        for part in some:
            arguments += [part.at, *map(np.int32, part[1:5])]
        launch(_row_function(f"{name}_{len(some)}", matrix.dtype), count * total, arguments)


def fetch(addresses: Array, out: Array) -> None:
    """Row ``i`` of a contiguous matrix becomes what lies at an address of the device: int64, there."""
    count, width = out.shape
    arguments = [addresses, out, np.int32(count), np.int32(width)]
    launch(_row_function("fetch", out.dtype), count * width, arguments)


class Groups(NamedTuple):
    """Consecutive stretches of rows: where each ends, int64 on the device, or ``each`` rows if that is None."""

    ends: Array
    each: int = 0


NO_ADDRESS = np.uint64(0)


def sum_groups(rows: Array, groups: Groups, out: Array, positions: Array = None, mean: bool = False) -> None:
    """``out[i]`` is the sum, or the mean, of the rows of group ``i``, in order; row ``k`` is ``rows[positions[k]]``
    where there are positions, int64 on the device. Both are matrices, ``out`` contiguous."""
    count, width = out.shape
    at, ends = (NO_ADDRESS if array is None else array for array in (positions, groups.ends))
    arguments = [rows, _pitch(rows), at, ends, np.int32(groups.each), np.int32(mean), out]
    launch(_row_function("sum_groups", rows.dtype), count * width, [*arguments, np.int32(count), np.int32(width)])


def extremes_of_groups(rows: Array, groups: Groups, out: Array, of: Any, positions: Array = None) -> None:
    """``out[i]`` becomes the largest, or of the ufunc ``minimum`` the smallest, of what it is and the rows of group
    ``i``, elementwise, NaN if one is; other arguments as in `sum_groups`."""
    count, width = out.shape
    at, ends = (NO_ADDRESS if array is None else array for array in (positions, groups.ends))
    smallest = np.int32(of.__name__.endswith("minimum"))
    arguments = [rows, _pitch(rows), at, ends, np.int32(groups.each), smallest, out, np.int32(count), np.int32(width)]
    launch(_row_function("extremes", rows.dtype), count * width, arguments)


class Places(NamedTuple):
    """Where rows go: ``rows`` of them, ``width`` elements each. Row ``i`` begins ``pitch * i`` elements behind the
    first one of ``memory``, or ``pitch * at[i]``; ``at``: int64 on the device. Where it ``adds``, places may repeat."""

    memory: Array
    pitch: int
    rows: int
    width: int
    at: Array = None
    adds: bool = True

    def matrix(self) -> Array:
        """The rows, which are evenly spaced."""
        return devices.strided(self.memory, 0, (self.rows, self.width), self.pitch)

    def arguments(self) -> list[object]:
        """What `_PUT` takes."""
        how = 0 if not self.adds else 1 if self.at is None else 2
        return [self.memory, NO_ADDRESS if self.at is None else self.at, np.int32(self.pitch), np.int32(how)]


def put_in(matrix: Array, adds: bool = False) -> Places:
    """The rows of a matrix as places."""
    count, width = matrix.shape
    return Places(matrix, matrix.strides[0] // matrix.itemsize, count, width, None, adds)


def repeat_groups(rows: Array, groups: Groups, places: Places, mean: bool = False) -> None:
    """The transpose of `sum_groups`: row ``k`` is that of its group, divided by the group's size for a mean."""
    count, width = places.rows, places.width
    ends = NO_ADDRESS if groups.ends is None else groups.ends
    arguments = [rows, _pitch(rows), ends, np.int32(groups.each), np.int32(mean), np.int32(len(rows))]
    sizes = [np.int32(count), np.int32(width)]
    launch(_row_function("repeat_groups", rows.dtype), count * width, [*arguments, *places.arguments(), *sizes])


def shown_rows(pairs: Sequence[tuple[Array, Array]]) -> list[Array]:
    """Of each pair of ``g`` and ``x``, matrices of one dtype, a copy of ``x``, zero in the rows that are zero in
    ``g``."""
    found = []
    for first in range(0, len(pairs), MOST_OPERANDS):
        some, arguments = pairs[first : first + MOST_OPERANDS], list[object]()
        for g, x in some:
            found.append(devices.module(x).empty(x.shape, x.dtype))
            arguments += [g, _pitch(g), np.int32(g.shape[1]), x, _pitch(x), found[-1], *map(np.int32, x.shape)]
        arguments += _NO_PAIR * (MOST_OPERANDS - len(some))
        launch(_row_function("shown", found[-1].dtype), WARP * sum(len(x) for _, x in some), arguments)
    return found


_NO_PAIR = [NO_ADDRESS, np.int32(0), np.int32(0), NO_ADDRESS, np.int32(0), NO_ADDRESS, np.int32(0), np.int32(0)]


def column_sums_of(groups: Sequence[Sequence[Array]]) -> list[Array]:
    """Of each group of matrices of one width the sum of all their rows: `MOST_OPERANDS` matrices of one dtype at
    most."""
    arguments, tiles, found = list[object](), 0, []
    for group in groups:
        width = group[0].shape[1]
        found.append(devices.module(group[0]).empty(width, computed_in(group[0].dtype)))
        tiles += -(-width // WARP)
        for k, rows in enumerate(group):
            arguments += [rows, _pitch(rows), np.int32(len(rows)), np.int32(width), NO_ADDRESS if k else found[-1]]
    parts = len(arguments) // len(_NO_SUM)
    arguments = [np.int32(parts), *arguments, *_NO_SUM * (MOST_OPERANDS - parts)]
    if tiles:
        _row_function("column_sums", groups[0][0].dtype)((tiles,), (WARP * WARP,), tuple(arguments))  # type: ignore[operator]
    return found


_NO_SUM = [NO_ADDRESS, np.int32(0), np.int32(0), np.int32(0), NO_ADDRESS]


def cross_entropy_rows(logits: Array, labels: Array, losses: Array) -> None:
    """``losses[i] = log(sum(exp(logits[i]))) - logits[i, labels[i]]``; rows of the matrix are contiguous, and so are
    the ``labels``, int64 on the device."""
    count, classes = logits.shape
    arguments = [logits, _pitch(logits), labels, losses, _pitch(losses), np.int32(count), np.int32(classes)]
    launch(_row_function("cross_entropy", logits.dtype), count * WARP, arguments)


def cross_entropy_slopes(logits: Array, labels: Array, g: Array, places: Places) -> None:
    """What cotangents ``g`` of the losses are pulled back to: zero where they are."""
    count, classes = logits.shape
    arguments = [logits, _pitch(logits), labels, g, _pitch(g), *places.arguments(), np.int32(count), np.int32(classes)]
    launch(_row_function("cross_entropy_slopes", logits.dtype), count * WARP, arguments)


def _pitch(array: Array) -> object:
    return np.int32(array.strides[0] // array.itemsize)


def computed_in(dtype: DType) -> DType:
    """What kernels compute in with numbers of a dtype that cells keep.

    >>> computed_in(np.dtype("uint16")), computed_in(np.dtype("float64"))
    (dtype('float32'), dtype('float64'))
    """
    return dtype if dtype.name in REALS else _SINGLE


_SINGLE = np.dtype(np.float32)


def is_rows(places: Places, *arrays: Array) -> bool:
    """Whether the places are for rows of these arrays' dtype."""
    return all(array.dtype == places.memory.dtype for array in arrays)


def is_matrix(array: Array, stored: bool = False) -> bool:
    """Whether an array of the device has rows that kernels read: contiguous ones, of a dtype that they have, or that
    cells keep if it may be ``stored``."""
    known = not isinstance(array, np.ndarray) and array.ndim == 2
    known = known and array.dtype.name in (_NAMES_OF_NUMBERS if stored else REALS)
    return bool(known and (array.strides[1] == array.itemsize or array.shape[1] == 1))


def has_rows(dtype: DType) -> bool:
    """Whether there are such kernels for a dtype.

    >>> has_rows(np.dtype("float32")), has_rows(np.dtype("int64"))
    (True, False)
    """
    return dtype.name in REALS

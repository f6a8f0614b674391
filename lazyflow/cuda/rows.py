"""Operations on rows of a flat buffer on the device, one launch each: gathers of several operands side by side, their
transpose, and sums of groups of rows.

Additions are atomic, as rows may repeat: see `lazyflow.fuse.cuda`. Sums of groups are made in order, in double
precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow.cuda.module import functions, launch
from lazyflow.cuda.text import REALS

MOST = 8  # operands of one launch

_MOVE = """\
extern "C" __global__ void {name}_{parts}_{real}(
    {real}* buffer, {real}* rows, int pitch, int low, int count, int total{parameters}) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / total);
    int j = (int)(e % total);
    if (i >= count) return;
    {real}* row = rows + (long long)i * pitch;
{cases}
}}
"""
_GATHERED = "row[column{k} + j] = buffer[at{k}[low + i] * scale{k} + shift{k} + j];"
_ADDED = "atomicAdd(&buffer[at{k}[low + i] * scale{k} + shift{k} + j], row[column{k} + j]);"
_PART = ", const long long* at{k}, int scale{k}, int shift{k}, int column{k}, int width{k}"
_GROUPS = """\
extern "C" __global__ void sum_groups_{real}(
    const {real}* rows, int pitch, const long long* positions, const long long* starts, {real}* out, int count,
    int width) {{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int i = (int)(e / width), j = (int)(e % width);
    if (i >= count) return;
    double sum = 0;
    for (long long k = starts[i]; k < starts[i + 1]; k++) sum += rows[(positions ? positions[k] : k) * pitch + j];
    out[(long long)i * width + j] = ({real})sum;
}}
"""


def _move(name: str, parts: int, real: str, statement: str) -> str:
    cases = [f"    if (j < width{k}) {{ {statement.format(k=k)} return; }}\n    j -= width{k};" for k in range(parts)]
    parameters = "".join(_PART.format(k=k) for k in range(parts))
    return _MOVE.format(name=name, parts=parts, real=real, parameters=parameters, cases="\n".join(cases))


def _kernels(real: str) -> dict[str, str]:
    found = {"sum_groups_" + real: _GROUPS.format(real=real)}
    for parts in range(1, MOST + 1):
        found[f"gather_{parts}_{real}"] = _move("gather", parts, real, _GATHERED)
        found[f"add_rows_{parts}_{real}"] = _move("add_rows", parts, real, _ADDED)
    return found


KERNELS = {name: text for real in REALS.values() for name, text in _kernels(real).items()}
SOURCE = "".join(KERNELS.values())
_NUMBER_OF = {name: k for k, name in enumerate(KERNELS)}


def _function(name: str, dtype: np.dtype[Any]) -> Any:
    return functions(SOURCE, tuple(KERNELS))[_NUMBER_OF[f"{name}_{REALS[dtype.name]}"]]


class Part(NamedTuple):
    """One operand: row ``i`` is ``width`` elements from ``at[i] * scale + shift`` on, and stands at ``column`` of a
    matrix. ``at``: int64, on the device."""

    at: Any
    scale: int
    shift: int
    column: int
    width: int


def gather(out: Any, buffer: Any, parts: Sequence[Part], low: int = 0) -> None:
    """Rows of the buffer into columns of a matrix, ``low`` being the first."""
    _moved("gather", buffer, out, parts, low)


def add_rows(buffer: Any, rows: Any, parts: Sequence[Part], low: int = 0) -> None:
    """The transpose of `gather`: columns of a matrix are added to rows of the buffer, which may repeat and overlap."""
    _moved("add_rows", buffer, rows, parts, low)


def _moved(name: str, buffer: Any, matrix: Any, parts: Sequence[Part], low: int) -> None:
    for first in range(0, len(parts), MOST):
        some = parts[first : first + MOST]
        count, total = len(matrix), sum(part.width for part in some)
        pitch = matrix.strides[0] // matrix.itemsize
        arguments: list[Any] = [buffer, matrix, *map(np.int32, (pitch, low, count, total))]
        for part in some:
            arguments += [part.at, *map(np.int32, part[1:])]
        launch(_function(f"{name}_{len(some)}", buffer.dtype), count * total, arguments)


def sum_groups(rows: Any, positions: Any, starts: Any, out: Any) -> None:
    """``out[i]`` is the sum of ``rows[positions[k]]``, or of ``rows[k]`` if that is None, for ``k`` from ``starts[i]``
    to ``starts[i + 1]``; both int64, on the device. ``rows`` and ``out`` are matrices, ``out`` contiguous."""
    count, width = out.shape
    pitch = rows.strides[0] // rows.itemsize
    at = np.uint64(0) if positions is None else positions
    arguments = [rows, np.int32(pitch), at, starts, out, np.int32(count), np.int32(width)]
    launch(_function("sum_groups", rows.dtype), count * width, arguments)


def has_rows(dtype: Any) -> bool:
    """Whether there are such kernels for a dtype.

    >>> has_rows(np.dtype("float32")), has_rows(np.dtype("int64"))
    (True, False)
    """
    return dtype.name in REALS

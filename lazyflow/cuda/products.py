"""Products of matrices of a device by cuBLAS, which CuPy's ``matmul`` makes less of: added to what is there, and of
columns of larger matrices, read and written where they lie. CuPy would make a fresh matrix, and copies of columns.

Matrices that are stored in 16 bits (`lazyflow.cuda.text.STORED`) are multiplied as such, and summed in float32
(Micikevicius et al. 2018); their product is as narrow, or of float32. cuBLAS takes bfloat16 from compute capability 8.0
on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.cuda.rows import computed_in
from lazyflow.device import Array

# cuBLAS takes addresses of numbers on the host: 0 and 1 in each dtype.
_NUMBERS = {name: np.array([0, 1], name) for name in ("float32", "float64")}
_ADDRESSES = {name: (array.ctypes.data, array.ctypes.data + array.itemsize) for name, array in _NUMBERS.items()}


class _Layout(NamedTuple):
    """Whether the columns of a matrix are contiguous, not its rows; and how many elements lie from one to the next."""

    by_columns: bool
    pitch: int


def _layout(matrix: Array) -> _Layout | None:
    """How cuBLAS is told of a matrix; None of one that it cannot take where it lies."""
    (rows, columns), (down, right), size = matrix.shape, matrix.strides, matrix.itemsize
    if (right == size or columns == 1) and (rows == 1 or down >= columns * size):
        return _Layout(False, down // size if rows > 1 else max(columns, 1))
    if (down == size or rows == 1) and (columns == 1 or right >= rows * size):
        return _Layout(True, right // size if columns > 1 else max(rows, 1))
    return None


# What cuBLAS calls the dtypes of matrices, uint16 being the bits of bfloat16.
_CUBLAS_TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint16": 14}


def are_multiplied(out: Array, a: Array, b: Array, stored: bool = False) -> bool:
    """Whether these are matrices of a device, of one dtype that cuBLAS multiplies, with contiguous rows or columns (of
    ``out`` rows), and none of them empty. ``stored``: all, or the operands alone, may be stored in 16 bits."""
    matrices = (out, a, b)
    if not all(devices.is_on_gpu(m) and m.ndim == 2 and m.size for m in matrices) or a.dtype != b.dtype:
        return False
    if a.dtype.name not in (_CUBLAS_TYPES if stored else _NUMBERS) or out.dtype not in (a.dtype, computed_in(a.dtype)):
        return False
    layouts = [_layout(m) for m in matrices]
    return None not in layouts and not layouts[0].by_columns  # type: ignore[union-attr]


def multiply_into(out: Array, a: Array, b: Array, add: bool = False) -> None:
    """``out = a @ b``, or ``out += a @ b``, of matrices as `are_multiplied` takes; ``out`` shares no memory with the
    others. Rounded to TF32 where CuPy's products are."""
    left, right, place = _layout(a), _layout(b), _layout(out)
    assert left is not None and right is not None and place is not None
    xp: Any = devices.module(out)
    cublas, name = xp.cuda.cublas, computed_in(out.dtype).name
    zero, one = _ADDRESSES[name]
    # cuBLAS counts by columns: to it each of these is its own transpose, and out.T = b.T @ a.T.
    sizes = int(right.by_columns), int(left.by_columns), out.shape[1], out.shape[0], a.shape[1]
    kind, made, compute = _CUBLAS_TYPES[a.dtype.name], _CUBLAS_TYPES[out.dtype.name], _compute_type(xp, a.dtype.name)
    cublas.gemmEx(
        xp.cuda.device.get_cublas_handle(), *sizes, one, b.data.ptr, kind, right.pitch, a.data.ptr, kind, left.pitch,
        one if add else zero, out.data.ptr, made, place.pitch, compute, cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip


def _compute_type(xp: Any, name: str) -> int:
    """How cuBLAS is to add what operands of a dtype make."""
    cublas = xp.cuda.cublas
    if name != "float32":
        return int(cublas.CUBLAS_COMPUTE_64F if name == "float64" else cublas.CUBLAS_COMPUTE_32F)
    tf32 = xp._core.get_compute_type(np.float32) == xp._core._routines_linalg.COMPUTE_TYPE_TF32
    return int(cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F)

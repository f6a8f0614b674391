"""cuBLAS: ``cupy.cublas``, for arrays, and ``cupy.cuda.cublas``, for addresses of matrices by columns.

Real numbers; float16 and bfloat16 by the functions whose names end in ``Ex`` alone, as in cuBLAS, summed in the type
that they are told. Addresses are taken as they come: what lies there is not checked. Copies that CuPy makes of what
cuBLAS cannot read or write where it lies are counted.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import compute, counters, cuda
from .array import checked, ndarray, own
from .errors import NotSimulated

Host = np.ndarray[Any, Any]

CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C = 0, 1, 2
CUBLAS_POINTER_MODE_HOST, CUBLAS_POINTER_MODE_DEVICE = 0, 1
CUBLAS_SIDE_LEFT, CUBLAS_SIDE_RIGHT = 0, 1
CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_UPPER = 0, 1
CUBLAS_GEMM_DEFAULT, CUBLAS_GEMM_DEFAULT_TENSOR_OP = -1, 99
CUBLAS_COMPUTE_16F, CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F = 64, 68, 77, 70
COMPUTED_IN = {
    CUBLAS_COMPUTE_16F: np.float16, CUBLAS_COMPUTE_32F: np.float32, CUBLAS_COMPUTE_32F_FAST_TF32: np.float32,
    CUBLAS_COMPUTE_64F: np.float64,
}  # fmt: skip
BFLOAT16 = np.uint16  # its bits
DATA_TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: BFLOAT16}  # CUDA_R_32F, _64F, _16F, _16BF
DTYPES = {"s": np.float32, "d": np.float64}


class CUBLASError(RuntimeError):
    """As ``cupy.cuda.cublas.CUBLASError``."""


def get_cublas_handle() -> int:
    """That of the current device."""
    return 1 + cuda.current()


_pointer_mode = CUBLAS_POINTER_MODE_HOST


def getPointerMode(handle: int) -> int:
    """Whether numbers such as alpha lie on the host or on the device."""
    return _pointer_mode


def setPointerMode(handle: int, mode: int) -> None:
    """See `getPointerMode`."""
    global _pointer_mode
    _pointer_mode = mode


# For addresses.


def _memory(address: int, count: int, dtype: Any) -> Host:
    kind = np.dtype(dtype)
    held = (ctypes.c_ubyte * (count * kind.itemsize)).from_address(address)
    return np.frombuffer(held, kind)


def _matrix(address: int, rows: int, columns: int, leading: int, dtype: Any) -> Host:
    """A matrix by columns, ``leading`` elements apart."""
    if leading < max(1, rows):
        raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE")
    memory = _memory(address, leading * (columns - 1) + rows if columns else 0, dtype)
    size = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), (size, leading * size), writeable=True)


def _operand(address: int, trans: int, rows: int, columns: int, leading: int, dtype: Any) -> Host:
    """``op`` of a matrix, which is (rows, columns)."""
    if trans == CUBLAS_OP_N:
        return _matrix(address, rows, columns, leading, dtype)
    return _matrix(address, columns, rows, leading, dtype).T


def _widened(matrix: Host, kind: Any, wide: Any) -> Host:
    if kind is BFLOAT16:
        return (matrix.astype(np.uint32) << 16).view(np.float32).astype(wide)
    return matrix.astype(wide)


def _narrowed(matrix: Host, kind: Any) -> Host:
    """Rounded to nearest even."""
    if kind is not BFLOAT16:
        return matrix.astype(kind)
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(matrix), bits >> 16 | 0x40, rounded).astype(np.uint16)


def _number(address: int, dtype: Any) -> Any:
    return _memory(address, 1, dtype)[0]


class _Products:
    """``C = alpha op(A) op(B) + beta C``, once or of several matrices, by their addresses."""

    def __init__(self, transa: int, transb: int, m: int, n: int, k: int, wide: Any, tf32: bool = False) -> None:
        self.transa, self.transb, self.sizes, self.wide, self.tf32 = transa, transb, (m, n, k), wide, tf32

    def __call__(self, alpha: int, a: Any, b: Any, beta: int, c: Any) -> None:
        """Operands: address, leading dimension and dtype."""
        m, n, k = self.sizes
        factor, keep = _number(alpha, self.wide), _number(beta, self.wide)
        left = _operand(a[0], self.transa, m, k, a[1], a[2])
        right = _operand(b[0], self.transb, k, n, b[1], b[2])
        left, right = _widened(left, a[2], self.wide), _widened(right, b[2], self.wide)
        if self.tf32:
            left, right = compute.rounded(left), compute.rounded(right)
        out = _matrix(c[0], m, n, c[1], c[2])
        with np.errstate(all="ignore"):
            value = factor * (left @ right)
            if keep:  # what is not kept may be anything
                value = value + keep * _widened(out, c[2], self.wide)
            out[...] = _narrowed(value, c[2])


def _gemm_of(kind: str) -> Any:
    dtype = DTYPES[kind]

    def gemm(
        handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int, B: int, ldb: int,
        beta: int, C: int, ldc: int,
    ) -> None:  # fmt: skip
        counters.launch("gemm", 1, m * n)
        product = _Products(transa, transb, m, n, k, dtype)
        product(alpha, (A, lda, dtype), (B, ldb, dtype), beta, (C, ldc, dtype))

    return gemm


def _strided_of(kind: str) -> Any:
    dtype = DTYPES[kind]

    def gemm(
        handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, lda: int, strideA: int,
        B: int, ldb: int, strideB: int, beta: int, C: int, ldc: int, strideC: int, batchCount: int,
    ) -> None:  # fmt: skip
        counters.launch("gemm batched", 1, m * n * batchCount)
        product, size = _Products(transa, transb, m, n, k, dtype), np.dtype(dtype).itemsize
        for i in range(batchCount):
            places = (A + i * strideA * size, B + i * strideB * size, C + i * strideC * size)
            product(alpha, (places[0], lda, dtype), (places[1], ldb, dtype), beta, (places[2], ldc, dtype))

    return gemm


def _batched_of(kind: str) -> Any:
    dtype = DTYPES[kind]

    def gemm(
        handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, Aarray: int, lda: int, Barray: int,
        ldb: int, beta: int, Carray: int, ldc: int, batchCount: int,
    ) -> None:  # fmt: skip
        counters.launch("gemm batched", 1, m * n * batchCount)
        product = _Products(transa, transb, m, n, k, dtype)
        tables = [_memory(table, batchCount, np.uint64).tolist() for table in (Aarray, Barray, Carray)]
        for a, b, c in zip(*tables, strict=True):
            product(alpha, (a, lda, dtype), (b, ldb, dtype), beta, (c, ldc, dtype))

    return gemm


sgemm, dgemm = map(_gemm_of, "sd")
sgemmStridedBatched, dgemmStridedBatched = map(_strided_of, "sd")
sgemmBatched, dgemmBatched = map(_batched_of, "sd")


def _types(*numbers: int) -> list[Any]:
    if any(number not in DATA_TYPES for number in numbers):
        raise NotSimulated(f"cuBLAS with data of types {numbers}")
    return [DATA_TYPES[number] for number in numbers]


def gemmEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int, B: int,
    Btype: int, ldb: int, beta: int, C: int, Ctype: int, ldc: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """A product of matrices of float16, bfloat16, float32 or float64, summed in another."""
    gemmStridedBatchedEx(
        handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1,
        computeType, algo,
    )  # fmt: skip


def gemmStridedBatchedEx(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, A: int, Atype: int, lda: int,
    strideA: int, B: int, Btype: int, ldb: int, strideB: int, beta: int, C: int, Ctype: int, ldc: int, strideC: int,
    batchCount: int, computeType: int, algo: int,
) -> None:  # fmt: skip
    """`gemmEx` of several matrices, each so many elements behind the one before."""
    of_a, of_b, of_c = _types(Atype, Btype, Ctype)
    wide = COMPUTED_IN[computeType]
    known = {(np.float16, np.float16): (np.float16, np.float32), (np.float16, np.float32): (np.float32,),
             (BFLOAT16, BFLOAT16): (np.float32,), (BFLOAT16, np.float32): (np.float32,),
             (np.float32, np.float32): (np.float32,), (np.float64, np.float64): (np.float64,)}  # fmt: skip
    exact = computeType != CUBLAS_COMPUTE_32F_FAST_TF32 or of_a is np.float32
    if of_a is not of_b or not exact or wide not in known.get((of_a, of_c), ()):
        raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    tf32 = computeType == CUBLAS_COMPUTE_32F_FAST_TF32
    kind = "gemm" if batchCount == 1 else "gemm batched"
    counters.launch(f"{kind} of TF32" if tf32 else kind, 1, m * n * batchCount)
    product = _Products(transa, transb, m, n, k, wide, tf32)
    sizes = [np.dtype(d).itemsize for d in (of_a, of_b, of_c)]
    for i in range(batchCount):
        steps = (strideA, strideB, strideC)
        a, b, c = (p + i * s * size for p, s, size in zip((A, B, C), steps, sizes, strict=True))
        product(alpha, (a, lda, of_a), (b, ldb, of_b), beta, (c, ldc, of_c))


# For arrays: ``cupy.cublas``.


def _floating(x: ndarray) -> None:
    if x.dtype.char in "FD":
        raise NotSimulated("cupy.cublas with complex numbers")
    if x.dtype.char not in "fd":
        raise TypeError("invalid dtype")


def _vectors(x: Any, y: Any) -> None:
    for name, v in (("x", x), ("y", y)):
        if v.ndim != 1:
            raise ValueError(f"{name} must be a 1D array (actual: {v.ndim})")
    if x.size != y.size:
        raise TypeError(f"x and y must be the same size (actual: {x.size} and {y.size})")
    if x.dtype != y.dtype:
        raise TypeError(f"x and y must be the same dtype (actual: {x.dtype} and {y.dtype})")


def _scalar(value: Any, dtype: Any) -> Any:
    """alpha or beta: from the host, or from the device, where it is read without a wait."""
    return np.asarray(checked(value)._a if isinstance(value, ndarray) else value).astype(dtype)[()]


def _scalars(dtype: Any, *values: Any) -> list[Any]:
    """If one of them lies on the device, the others are brought there."""
    given = [isinstance(v, ndarray) for v in values]
    if any(given):
        counters.launch("fill", given.count(False))
    return [_scalar(v, dtype) for v in values]


def _trans(trans: Any) -> bool:
    if trans not in ("N", "T", "H", CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C):
        raise TypeError(f"invalid trans (actual: {trans})")
    return trans not in ("N", CUBLAS_OP_N)


def _is_whole(x: ndarray) -> bool:
    return bool(x.flags.c_contiguous or x.flags.f_contiguous)


def _readable(*operands: ndarray) -> None:
    """Count a copy of each matrix that is contiguous in no order."""
    for x in operands:
        checked(x)
        if not _is_whole(x):
            counters.launch("copy before a product", 1, x.size)


def _written(out: ndarray, value: Host) -> None:
    if not _is_whole(out):
        counters.launch("copy before a product", 1, out.size)
        counters.launch("copy behind a product", 1, out.size)
    checked(out)._a[...] = value


def _empty(shape: tuple[int, ...], dtype: Any) -> ndarray:
    return ndarray(shape, dtype, order="F")


def gemm(
    transa: Any, transb: Any, a: ndarray, b: ndarray, out: Any = None, alpha: Any = 1.0, beta: Any = 0.0
) -> ndarray:
    """``alpha op(a) @ op(b) + beta out``."""
    assert a.ndim == b.ndim == 2
    assert a.dtype == b.dtype
    _floating(a)
    left, right = (x._a.T if _trans(t) else x._a for x, t in ((a, transa), (b, transb)))
    assert left.shape[1] == right.shape[0]
    shape = left.shape[0], right.shape[1]
    if out is None:
        out, beta = _empty(shape, a.dtype), 0.0
    assert out.ndim == 2
    assert out.shape == shape
    assert out.dtype == a.dtype
    factor, keep = _scalars(a.dtype, alpha, beta)
    _readable(a, b)
    counters.launch("gemm", 1, out.size)
    with np.errstate(all="ignore"):
        _written(out, factor * (left @ right) + (keep * out._a if keep else 0))
    return out  # type: ignore[no-any-return]


def gemv(transa: Any, alpha: Any, a: ndarray, x: ndarray, beta: Any, y: ndarray) -> None:
    """``y = alpha op(a) @ x + beta y``."""
    _floating(a)
    assert a.ndim == 2
    assert x.ndim == y.ndim == 1
    assert a.dtype == x.dtype == y.dtype
    left = a._a.T if _trans(transa) else a._a
    assert left.shape == (y.size, x.size)
    factor, keep = _scalars(a.dtype, alpha, beta)
    _readable(a)
    counters.launch("gemv", 1, y.size)
    checked(y)._a[...] = factor * (left @ checked(x)._a) + (keep * y._a if keep else 0)


def ger(alpha: Any, x: ndarray, y: ndarray, a: ndarray) -> None:
    """``a += alpha x @ y.T``."""
    _floating(a)
    assert a.ndim == 2
    assert x.ndim == y.ndim == 1
    assert a.dtype == x.dtype == y.dtype
    assert a.shape == (x.size, y.size)
    counters.launch("ger", 1, a.size)
    _written(a, a._a + _scalar(alpha, a.dtype) * np.outer(checked(x)._a, checked(y)._a))


def geam(transa: Any, transb: Any, alpha: Any, a: ndarray, beta: Any, b: ndarray, out: Any = None) -> ndarray:
    """``alpha op(a) + beta op(b)``."""
    assert a.ndim == b.ndim == 2
    assert a.dtype == b.dtype
    _floating(a)
    left, right = (x._a.T if _trans(t) else x._a for x, t in ((a, transa), (b, transb)))
    assert left.shape == right.shape
    out = _empty(left.shape, a.dtype) if out is None else out
    assert out.shape == left.shape
    assert out.dtype == a.dtype
    one, two = _scalars(a.dtype, alpha, beta)
    _readable(a, b)
    counters.launch("geam", 1, out.size)
    _written(out, one * left + two * right)
    return out  # type: ignore[no-any-return]


def dgmm(side: Any, a: ndarray, x: ndarray, out: Any = None, incx: int = 1) -> ndarray:
    """``diag(x) @ a`` for the side "L", ``a @ diag(x)`` for "R"."""
    assert a.ndim == 2
    assert 0 <= x.ndim <= 2
    assert a.dtype == x.dtype
    _floating(a)
    if side not in ("L", "R", CUBLAS_SIDE_LEFT, CUBLAS_SIDE_RIGHT):
        raise ValueError(f"invalid side (actual: {side})")
    on_left = side in ("L", CUBLAS_SIDE_LEFT)
    count = a.shape[0 if on_left else 1]
    assert x.size >= (count - 1) * abs(incx) + 1
    if incx < 1:
        raise NotSimulated("dgmm with incx below one")
    diagonal = checked(x)._a.ravel()[: (count - 1) * incx + 1 : incx]
    out = ndarray(a.shape, a.dtype, order="C" if a.flags.c_contiguous else "F") if out is None else out
    assert out.shape == a.shape
    assert out.dtype == a.dtype
    if out.flags.c_contiguous != a.flags.c_contiguous or not _is_whole(a):
        counters.launch("copy before a product", 1, a.size)
    counters.launch("dgmm", 1, out.size)
    _written(out, diagonal[:, None] * checked(a)._a if on_left else a._a * diagonal)
    return out  # type: ignore[no-any-return]


def axpy(a: Any, x: ndarray, y: ndarray) -> None:
    """``y += a x``."""
    _vectors(x, y)
    _floating(x)
    counters.launch("axpy", 1, y.size)
    checked(y)._a[...] += _scalar(a, x.dtype) * checked(x)._a


def scal(a: Any, x: ndarray) -> None:
    """``x *= a``."""
    if x.ndim != 1:
        raise ValueError(f"x must be a 1D array (actual: {x.ndim})")
    _floating(x)
    counters.launch("scal", 1, x.size)
    checked(x)._a[...] *= _scalar(a, x.dtype)


def _result(value: Any, dtype: Any, out: Any) -> Any:
    """A number of the device; with a NumPy array as ``out`` of the host, for which the host waits."""
    if out is None:
        return own(np.asarray(value, dtype))
    if isinstance(out, ndarray):
        if out.dtype != dtype:
            counters.launch("copy")
        checked(out)._a[...] = value
    elif isinstance(out, np.ndarray):
        counters.download(np.dtype(dtype).itemsize)
        out[...] = value
    else:
        raise TypeError("out must be either cupy or numpy ndarray")
    return out


def dot(x: ndarray, y: ndarray, out: Any = None) -> Any:
    """The sum of the products."""
    _floating(x)
    _vectors(x, y)
    counters.launch("dot", 2, x.size)
    return _result(np.dot(checked(x)._a, checked(y)._a), x.dtype, out)


def _reduced(name: str, x: ndarray, value: Any, dtype: Any, out: Any) -> Any:
    if x.ndim != 1:
        raise ValueError(f"x must be a 1D array (actual: {x.ndim})")
    _floating(x)
    counters.launch(name, 2, x.size)
    return _result(value(checked(x)._a), dtype, out)


def nrm2(x: ndarray, out: Any = None) -> Any:
    """The Euclidean norm."""
    return _reduced("nrm2", x, np.linalg.norm, x.dtype, out)


def asum(x: ndarray, out: Any = None) -> Any:
    """The sum of the sizes."""
    return _reduced("asum", x, lambda a: np.abs(a).sum(), x.dtype, out)


def iamax(x: ndarray, out: Any = None) -> Any:
    """Where the largest size is, counted from 1."""
    return _reduced("iamax", x, lambda a: 1 + np.abs(a).argmax(), np.int32, out)


def iamin(x: ndarray, out: Any = None) -> Any:
    """Where the smallest size is, counted from 1."""
    return _reduced("iamin", x, lambda a: 1 + np.abs(a).argmin(), np.int32, out)


OF_ARRAYS: Sequence[Any] = (gemm, gemv, ger, geam, dgmm, axpy, scal, dot, nrm2, asum, iamax, iamin)
OF_ADDRESSES = {
    **{f"{kind}{name}": globals()[f"{kind}{name}"]
       for kind, name in itertools.product("sd", ("gemm", "gemmStridedBatched", "gemmBatched"))},
    "gemmEx": gemmEx, "gemmStridedBatchedEx": gemmStridedBatchedEx, "getPointerMode": getPointerMode,
    "setPointerMode": setPointerMode,
}  # fmt: skip

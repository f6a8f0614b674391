"""The simulator against CuPy's own description of itself, and what it must refuse, count and compute."""

import inspect
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from .. import simcupy
from . import cublas, emulate, functions, introspect
from .array import ndarray
from .namespace import CUPY as cupy

API = json.loads((Path(simcupy.__file__).parent / "api.json").read_text())


@pytest.mark.parametrize("name", sorted(functions.FUNCTIONS))
def test_functions_have_the_parameters_of_cupy(name):
    assert introspect.parameters(functions.FUNCTIONS[name]) == API["cupy"][name]["parameters"]


@pytest.mark.parametrize("name", [n for n in API["cupy.linalg"] if hasattr(functions.linalg, n)])
def test_linear_algebra_has_the_parameters_of_cupy(name):
    assert introspect.parameters(getattr(functions.linalg, name)) == API["cupy.linalg"][name]["parameters"]


METHODS = [n for n, e in API["ndarray"].items() if hasattr(ndarray, n) and e["parameters"]]


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_parameters_of_cupy(name):
    assert introspect.parameters(getattr(ndarray, name)) == API["ndarray"][name]["parameters"]


@pytest.mark.parametrize("name", [made.__name__ for made in cublas.OF_ARRAYS])
def test_cublas_for_arrays_has_the_parameters_of_cupy(name):
    assert introspect.parameters(getattr(cublas, name)) == API["cupy.cublas"][name]["parameters"]


@pytest.mark.parametrize("name", cublas.OF_ADDRESSES)
def test_cublas_for_addresses_has_the_parameters_of_cupy(name):
    assert introspect.parameters(cublas.OF_ADDRESSES[name]) == API["cupy.cuda.cublas"][name]["parameters"]


def test_there_is_nothing_that_cupy_lacks():
    public = [n for n, v in vars(ndarray).items() if n[0] != "_" and (inspect.isfunction(v) or isinstance(v, property))]
    assert set(public) <= set(API["ndarray"])
    with pytest.raises(AttributeError):
        cupy.erf  # noqa: B018
    with pytest.raises(simcupy.NotSimulated):
        cupy.fft  # noqa: B018


HOST, DEVICE = np.ones(3, np.float32), cupy.ones(3, np.float32)
REFUSED = {
    "a host array as an operand": lambda: DEVICE + HOST,
    "on the left": lambda: HOST + DEVICE,
    "in place": lambda: DEVICE.__iadd__(HOST),
    "as an argument": lambda: cupy.exp(HOST),
    "compared": lambda: DEVICE < HOST,
    "in where": lambda: cupy.where(DEVICE > 0, HOST, 0.0),
    "implicit conversion": lambda: np.asarray(DEVICE),
    "a condition of a ufunc": lambda: cupy.add(DEVICE, 1, where=DEVICE > 0),
    "mode of take": lambda: DEVICE.take([0], 0, mode="clip"),
    "NumPy's repeats": lambda: cupy.repeat(DEVICE, np.array([1, 2, 3])),
    "a float into an int": lambda: cupy.add(DEVICE, 1, out=cupy.ones(3, int)),
    "a host result": lambda: cupy.add(DEVICE, 1, out=np.ones(3, np.float32)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cupy_refuses_with_a_type_error(name):
    with pytest.raises(TypeError):
        REFUSED[name]()


def test_other_refusals():
    with pytest.raises(ValueError, match="fill"):
        cupy.zeros(3)[:] = np.ones(3)
    with pytest.raises(ValueError, match="Out shape"):
        cupy.add(cupy.ones((2, 3)), 1, out=cupy.ones(3))
    with pytest.raises(simcupy.UndefinedOnDevice):
        cupy.zeros(3)[cupy.asarray([0, 0])] = cupy.asarray([1.0, 2.0])


def test_indices_wrap_around_and_fresh_memory_is_garbage():
    assert DEVICE.take(cupy.asarray([7]), 0).shape == (1,)
    assert np.isnan(cupy.empty(2, np.float32).get()).all()


@pytest.mark.parametrize(
    ("operands", "dtype"),
    [((np.float32, 2.0), "float32"), ((np.float32, np.float64(2)), "float64"), ((np.int64, 2.0), "float64"),
     ((np.float16, 1), "float16"), ((np.uint8, 3), "uint8"), ((np.bool_, 1), "int64"),
     ((np.int32, np.float32), "float64")],
)  # fmt: skip
def test_promotion_is_that_of_numpy(operands, dtype):
    a, b = (cupy.ones(2, o) if isinstance(o, type) else o for o in operands)
    assert (a + b).dtype == dtype


def test_a_number_that_does_not_fit():
    with pytest.raises(OverflowError):
        cupy.ones(2, np.int8) % 200


def test_counts():
    a, b = cupy.ones((4, 3), np.float32), cupy.ones((3, 2), np.float32)
    with simcupy.counting() as seen:
        c = a @ b
        c += 1
        _ = c[np.array([0, 1])]
        float(c.sum())
    assert (seen.launches, seen.h2d, seen.implicit, seen.d2h, seen.syncs) == (4, 1, 1, 1, 1)
    with simcupy.counting() as seen:
        cupy.matmul(a, b, out=cupy.empty((4, 5), np.float32)[:, 1:3])
    assert seen.kinds == {"gemm": 1, "copy behind a product": 1}
    with simcupy.counting() as seen:
        cupy.multiply(a[:2], 2, out=a[:2])  # another view of the same memory: CuPy copies first
    assert seen.launches == 2


@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (0, 1, 2), None])
@pytest.mark.parametrize("name", ["sum", "mean", "var", "prod"])
def test_reductions_add_in_a_tree(name, axis):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    for keepdims in (False, True):
        wanted = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        found = getattr(cupy, name)(cupy.asarray(x), axis=axis, keepdims=keepdims)
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found.get(), wanted, rtol=1e-5)
    many = cupy.asarray(np.full((100_000, 2), 0.1, np.float32))
    np.testing.assert_allclose(many.sum(axis=0).get(), 1e4, rtol=1e-6)


def test_views_into_a_buffer():
    buffer = cupy.arange(12, dtype=np.float32)
    window = cupy.ndarray((3, 2), np.float32, buffer.data + 4, (16, 4))
    assert window.tolist() == [[1, 2], [5, 6], [9, 10]]
    window += 1
    assert buffer.tolist()[:3] == [0, 2, 3]


def test_addition_at_indices_that_repeat():
    a = cupy.zeros(3, np.float32)
    with simcupy.counting() as seen:
        cupy.add.at(a, cupy.asarray([0, 2, 0]), cupy.asarray([1.0, 2.0, 4.0]))
    assert a.tolist() == [5, 0, 2]
    assert seen.launches == 2  # float64 was converted


SUM = """
extern "C" __global__ void rows(const float* __restrict__ a, float* b, int n, int width) {
    extern __shared__ float part[];
    int row = blockIdx.x;
    float s = 0;
    for (int j = threadIdx.x; j < width; j += blockDim.x) s += a[row * width + j];
    for (int d = 16; d; d >>= 1) s += __shfl_down_sync(0xffffffffu, s, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x == 0) { for (int w = 1; w < blockDim.x / 32; w++) s += part[w]; atomicAdd(&b[row], s); }
}
"""


compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="kernels in CUDA C need g++")


@compiles
def test_a_kernel_with_barriers_and_shuffles():
    kernel = cupy.RawModule(code=SUM).get_function("rows")
    a, b = cupy.arange(200, dtype=np.float32).reshape(2, 100), cupy.zeros(2, np.float32)
    kernel((2,), (64,), (a, b, np.int32(2), np.int32(100)), shared_mem=8)
    assert b.tolist() == a.get().sum(1).tolist()


TOTAL = """
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

extern "C" __global__ void total(const float* a, float* parts, float* out, int n) {
    __shared__ float mine[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    mine[threadIdx.x] = i < n ? a[i] : 0;
    cg::this_grid().sync();
    for (int d = blockDim.x / 2; d; d /= 2) {
        cg::this_thread_block().sync();
        if (threadIdx.x < d) mine[threadIdx.x] += mine[threadIdx.x + d];
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = mine[0];
    cg::this_grid().sync();
    if (i == 0) for (unsigned b = 0; b < gridDim.x; b++) out[0] += parts[b];
    if (i == 1) out[1] = cg::this_grid().size();
}
"""


@compiles
def test_a_grid_that_waits_for_all_of_its_blocks():
    kernel = cupy.RawKernel(TOTAL, "total", enable_cooperative_groups=True)
    a, parts, out = cupy.arange(200, dtype=np.float32), cupy.zeros(4, np.float32), cupy.zeros(2, np.float32)
    kernel((4,), (64,), (a, parts, out, np.int32(200)))
    assert parts.tolist() == [a.get()[i : i + 64].sum() for i in range(0, 200, 64)]  # each block has memory of its own
    assert out.tolist() == [a.get().sum(), 256]


@compiles
def test_a_grid_waits_in_cooperative_launches_only():
    arguments = cupy.zeros(64, np.float32), cupy.zeros(4, np.float32), cupy.zeros(2, np.float32), np.int32(64)
    with pytest.raises(RuntimeError, match="enable_cooperative_groups"):
        cupy.RawKernel(TOTAL, "total")((2,), (64,), arguments)
    with pytest.raises(ValueError, match="more blocks than run at once"):
        cupy.RawKernel(TOTAL, "total", enable_cooperative_groups=True)((132 * 32 + 1,), (64,), arguments)
    uneven = """
    extern "C" __global__ void f() { if (blockIdx.x) cooperative_groups::this_grid().sync(); }
    """
    with pytest.raises(RuntimeError, match="never reach"):
        cupy.RawKernel(uneven, "f", enable_cooperative_groups=True)((2,), (32,), ())


COUNTED = """
extern "C" __global__ void turns(unsigned* counter, float* a, int turns) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    for (int turn = 0; turn < turns; turn++) {
        a[(turn + 1) * n + i] = a[turn * n + (i + 1) % n] + 1;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(counter, 1u);
            while (*(volatile unsigned*)counter < (turn + 1) * gridDim.x) __nanosleep(32);
            __threadfence();
        }
        __syncthreads();
    }
}
"""


@compiles
@pytest.mark.parametrize("order", [nullcontext, emulate.backwards])
def test_blocks_that_wait_for_a_counter(order):
    kernel = cupy.RawModule(code=COUNTED, enable_cooperative_groups=True).get_function("turns")
    counter, a = cupy.zeros(1, np.uint32), cupy.zeros((4, 192), np.float32)
    a[0] = cupy.arange(192, dtype=np.float32)
    with order():
        kernel((3,), (64,), (counter, a, np.int32(3)))
    assert a[3].tolist() == (np.roll(np.arange(192), -3) + 3).tolist() and counter.tolist() == [9]


@compiles
def test_who_sleeps_for_what_never_comes_is_found_out():
    with pytest.raises(RuntimeError, match="enable_cooperative_groups"):  # one block after the other
        cupy.RawKernel(COUNTED, "turns")((2,), (64,), (cupy.zeros(1, np.uint32), cupy.zeros(256), np.int32(1)))
    alone = """
    extern "C" __global__ void f(volatile int* flag) { while (!*flag) __nanosleep(32); }
    """
    with pytest.raises(RuntimeError, match="never reach"):
        cupy.RawKernel(alone, "f", enable_cooperative_groups=True)((2,), (32,), (cupy.zeros(1, np.int32),))


@compiles
def test_arguments_of_kernels_are_checked():
    kernel = cupy.RawKernel(SUM, "rows")
    with pytest.raises(TypeError, match="argument 2"):
        kernel((1,), (32,), (DEVICE, DEVICE, 3, np.int32(1)))
    stuck = 'extern "C" __global__ void f(int n) { if (threadIdx.x < n) __syncthreads(); else __syncwarp(); }'
    with pytest.raises(RuntimeError, match="barrier"):
        emulate.compiled(stuck).kernel("f")((1,), (32,), [np.int32(5)])


APART = """
extern "C" __global__ void alone(int* a) { a[threadIdx.x] = threadIdx.x; }
__device__ int next(int* a) { __syncthreads(); return a[(threadIdx.x + 1) % blockDim.x]; }
extern "C" __global__ void turned(int* a) { int found = next(a); __syncthreads(); a[threadIdx.x] = found; }
"""


@compiles
def test_a_kernel_waits_in_functions_too():
    a, module = cupy.zeros(40, np.int32), cupy.RawModule(code=APART)
    module.get_function("alone")((1,), (40,), (a,))
    for k in range(1, 3):
        module.get_function("turned")((1,), (40,), (a,))
        assert a.tolist() == [(i + k) % 40 for i in range(40)]


HALVES = """
#include <cuda_fp16.h>
extern "C" __global__ void widened(const half* a, float* b, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) b[i] = __half2float(a[i]);
}
extern "C" __global__ void narrowed(const float* a, half* b, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) b[i] = __float2half(a[i]);
}
extern "C" __global__ void each(const half* a, const half* b, half* out, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        half x = a[i], y = b[i];
        half found[] = {x + y, x - y, x * y, x / y, hsqrt(x), -x, __hmax(x, y), __hadd(x, half(1)), __hfma(x, y, x)};
        for (int k = 0; k < 9; k++) out[k * n + i] = found[k];
    }
}
extern "C" __global__ void pairs(const half2* a, half scale, half* total) {
    half2 v = __hmul2(a[threadIdx.x], __half2half2(scale));
    half s = __low2half(v) + __high2half(v);
    for (int d = 16; d; d >>= 1) s += __shfl_down_sync(0xffffffffu, s, d);
    if (threadIdx.x == 0) atomicAdd(total, s);
}
"""


@compiles
def test_half_precision_in_kernels_is_that_of_numpy():
    module = cupy.RawModule(code=HALVES)
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    wide = cupy.empty(65536, np.float32)
    module.get_function("widened")((1,), (128,), (cupy.asarray(every), wide, np.int32(65536)))
    np.testing.assert_array_equal(wide.get(), every.astype(np.float32))
    rng = np.random.default_rng(0)
    finite = np.nan_to_num(every.astype(np.float64), posinf=65520, neginf=-1e9)
    given = (
        np.outer([1, 1 + 2**-11, 1 - 2**-12, 1 + 2**-11 + 2**-20], finite).ravel().astype(np.float32)
    )  # halfway, too
    narrow = cupy.empty(given.size, np.float16)
    module.get_function("narrowed")((1,), (128,), (cupy.asarray(given), narrow, np.int32(given.size)))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrow.get(), given.astype(np.float16))
    x, y = rng.permutation(every), rng.permutation(every)
    out = cupy.empty((9, 65536), np.float16)
    module.get_function("each")((1,), (128,), (cupy.asarray(x), cupy.asarray(y), out, np.int32(65536)))
    with np.errstate(all="ignore"):
        wanted = [x + y, x - y, x * y, x / y, np.sqrt(x), -x, np.fmax(x, y), x + np.float16(1)]
        wanted.append((x.astype(float) * y + x).astype(np.float16))
    np.testing.assert_array_equal(out.get(), np.stack(wanted))


@compiles
def test_pairs_of_halves():
    kernel = cupy.RawModule(code=HALVES).get_function("pairs")
    a, total = cupy.arange(64, dtype=np.float16), cupy.zeros(1, np.float16)
    kernel((1,), (32,), (a, np.float16(0.5), total))
    assert total.tolist() == [64 * 63 / 4]
    with pytest.raises(TypeError, match="argument 1 is a half of 2 bytes"):
        kernel((1,), (32,), (a, np.float32(0.5), total))
    with pytest.raises(emulate.CompileError, match="half"):  # as NVRTC, without the #include
        emulate.compiled('extern "C" __global__ void f(half* a) { a[0] = 1; }')


def matrices(dtype, *shapes):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("order", ["by rows", "by columns", "strided"])
@pytest.mark.parametrize("transa", ["N", "T"])
@pytest.mark.parametrize("transb", ["N", "T"])
def test_a_product_by_cublas(transa, transb, order):
    def laid(array):  # on the device, in this order
        if order == "strided":
            return cupy.asarray(np.repeat(array, 2, 1))[:, ::2]
        return cupy.asarray(array.T.copy()).T if order == "by columns" else cupy.asarray(array.copy())

    a, b, c = matrices("float32", (3, 4), (4, 5), (3, 5))
    given = laid(a if transa == "N" else a.T), laid(b if transb == "N" else b.T)
    with simcupy.counting() as seen:
        found = cupy.cublas.gemm(transa, transb, *given)
    np.testing.assert_allclose(found.get(), a @ b, rtol=1e-5)
    assert found.flags.f_contiguous and seen.launches == (3 if order == "strided" else 1)
    out = laid(c)
    assert cupy.cublas.gemm(transa, transb, *given, out=out, alpha=2.0, beta=cupy.asarray(0.5, "float32")) is out
    np.testing.assert_allclose(out.get(), 2 * a @ b + 0.5 * c, rtol=1e-5, atol=1e-6)


def test_vectors_by_cublas():
    a, x, y = (cupy.asarray(m) for m in matrices("float64", (3, 4), (4,), (3,)))
    host = [v.get() for v in (a, x, y)]
    cupy.cublas.gemv("N", 2.0, a, x, 1.0, y)
    np.testing.assert_allclose(y.get(), 2 * host[0] @ host[1] + host[2])
    cupy.cublas.ger(1.0, y, x, a)
    np.testing.assert_allclose(a.get(), host[0] + np.outer(y.get(), host[1]))
    cupy.cublas.axpy(0.5, x, z := x.copy())
    cupy.cublas.scal(2.0, z)
    np.testing.assert_allclose(z.get(), 3 * host[1])
    assert float(cupy.cublas.dot(x, x)) == pytest.approx(float(cupy.cublas.nrm2(x)) ** 2)
    assert int(cupy.cublas.iamax(x)) == 1 + np.abs(host[1]).argmax()
    np.testing.assert_allclose(cupy.cublas.dgmm("R", a, x).get(), a.get() * host[1])
    np.testing.assert_allclose(cupy.cublas.geam("T", "T", 2.0, a, -1.0, a).get(), a.get().T)


def test_what_cublas_refuses():
    a = cupy.ones((2, 2), np.float16)
    for refused in (lambda: cupy.cublas.gemm("N", "N", a, a), lambda: cupy.cublas.axpy(1.0, a[0], a[1])):
        with pytest.raises(TypeError, match="invalid dtype"):
            refused()
    with pytest.raises(TypeError, match="invalid trans"):
        cupy.cublas.gemm("C", "N", cupy.ones((2, 2)), cupy.ones((2, 2)))
    with pytest.raises(AssertionError):
        cupy.cublas.gemm("N", "N", cupy.ones((2, 3)), cupy.ones((2, 3)))
    with cupy.cuda.Device(1):
        other = cupy.ones((2, 2))
    with pytest.raises(ValueError, match="device"):
        cupy.cublas.gemm("N", "N", cupy.ones((2, 2)), other)
    with pytest.raises(simcupy.NotSimulated):
        cupy.cublas.batched_gesv  # noqa: B018


def by_columns(array):
    return cupy.asarray(array.swapaxes(-1, -2).copy())  # whose memory cuBLAS takes for the matrices by columns


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_by_address(dtype):
    blas, handle = cupy.cuda.cublas, cupy.cuda.get_cublas_handle()
    a, b, c = matrices(dtype, (2, 3, 4), (2, 4, 5), (2, 3, 5))
    da, db, dc = map(by_columns, (a, b, c))
    one = np.array(1, dtype)
    kind = {"float32": "s", "float64": "d"}[dtype]
    places = [x.data.ptr for x in (da, db, dc)]
    getattr(blas, f"{kind}gemm")(handle, 0, 0, 3, 5, 4, one.ctypes.data, places[0], 3, places[1], 4, one.ctypes.data,
                                 places[2], 3)  # fmt: skip
    wanted = c.copy()
    wanted[0] += a[0] @ b[0]
    np.testing.assert_allclose(dc.get().swapaxes(1, 2), wanted, rtol=1e-5)
    strided = getattr(blas, f"{kind}gemmStridedBatched")
    pairs = places[0], 3, 12, places[1], 4, 20
    strided(handle, 0, 0, 3, 5, 4, one.ctypes.data, *pairs, one.ctypes.data, places[2], 3, 15, 2)
    np.testing.assert_allclose(dc.get().swapaxes(1, 2), wanted + a @ b, rtol=1e-5)
    tables = [
        cupy.asarray(np.array([p, p + x[0].nbytes], np.uint64)) for p, x in zip(places, (da, db, dc), strict=True)
    ]
    rows = [t.data.ptr for t in tables]
    getattr(blas, f"{kind}gemmBatched")(handle, 0, 0, 3, 5, 4, one.ctypes.data, rows[0], 3, rows[1], 4, one.ctypes.data,
                                        rows[2], 3, 2)  # fmt: skip
    np.testing.assert_allclose(dc.get().swapaxes(1, 2), wanted + 2 * a @ b, rtol=1e-5)


def test_products_of_halves_by_address():
    blas, runtime = cupy.cuda.cublas, cupy.cuda.runtime
    a, b = (m.astype(np.float16) for m in matrices("float32", (3, 4), (4, 5)))
    da, db, dc = by_columns(a), by_columns(b), cupy.empty((5, 3), np.float16)
    one, none = np.float32(1), np.float32(0)
    half = runtime.CUDA_R_16F
    scalars = [np.array(v) for v in (one, none)]

    def product(compute, result=dc, kind=half):
        blas.gemmEx(1, 0, 0, 3, 5, 4, scalars[0].ctypes.data, da.data.ptr, half, 3, db.data.ptr, half, 4,
                    scalars[1].ctypes.data, result.data.ptr, kind, 3, compute, blas.CUBLAS_GEMM_DEFAULT)  # fmt: skip
        return result.get().T

    wide = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(product(blas.CUBLAS_COMPUTE_32F), wide.astype(np.float16))
    whole = cupy.empty((5, 3), np.float32)
    np.testing.assert_array_equal(product(blas.CUBLAS_COMPUTE_32F, whole, runtime.CUDA_R_32F), wide)
    with pytest.raises(blas.CUBLASError, match="NOT_SUPPORTED"):
        product(blas.CUBLAS_COMPUTE_64F)


def test_submodules_are_found_by_their_names(monkeypatch):
    import sys

    before = dict(sys.modules)
    for name in [n for n in before if n.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in {"cupy": cupy, **simcupy._submodules(cupy)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    from cupy import cublas as arrays
    from cupy.cuda import cublas as addresses
    from cupy_backends.cuda.libs import cublas as same

    assert arrays is cupy.cublas and addresses is same is cupy.cuda.cublas

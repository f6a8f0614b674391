"""The simulator against CuPy's own description of itself, and what it must refuse, count and compute."""

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from .. import simcupy
from . import emulate, functions, introspect
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


@compiles
def test_arguments_of_kernels_are_checked():
    kernel = cupy.RawKernel(SUM, "rows")
    with pytest.raises(TypeError, match="argument 2"):
        kernel((1,), (32,), (DEVICE, DEVICE, 3, np.int32(1)))
    stuck = 'extern "C" __global__ void f(int n) { if (threadIdx.x < n) __syncthreads(); else __syncwarp(); }'
    with pytest.raises(RuntimeError, match="barrier"):
        emulate.compiled(stuck).kernel("f")((1,), (32,), [np.int32(5)])

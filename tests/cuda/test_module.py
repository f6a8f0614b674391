"""Kernels of a source: compiled once, launched over as many threads as there are elements, or not at all."""

import numpy as np
import pytest

from lazyflow import device
from lazyflow.cuda.module import THREADS, functions, launch, with_helpers

SOURCE = """
extern "C" __global__ void left_over(double* x, double divisor, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = lf_remainder<double>(x[i], divisor);
}
extern "C" __global__ void doubled(double* x, double divisor, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] *= 2;
}
"""
NAMES = ("left_over", "doubled")


@pytest.mark.gpu
@pytest.mark.parametrize("count", [0, 1, THREADS, 3 * THREADS + 1])
@pytest.mark.parametrize(("name", "function"), [("left_over", lambda x: x % 3.0), ("doubled", lambda x: x * 2)])
def test_a_launch_reaches_every_element(name, function, count):
    x = np.random.default_rng(count).normal(size=count) * 10
    with device.on("cuda:0"):
        there = device.to_device(x, "cuda:0")
        kernel = functions(SOURCE, NAMES)[NAMES.index(name)]
        launch(kernel, count, (there, np.float64(3), np.int32(count)))
    np.testing.assert_allclose(device.to_host(there), function(x), rtol=1e-15)


@pytest.mark.gpu
def test_a_source_is_compiled_once():
    assert functions(SOURCE, NAMES) is functions(SOURCE, NAMES)


def test_helpers_stand_before_what_reads_them_alone():
    assert with_helpers(SOURCE).endswith(SOURCE) and with_helpers(SOURCE) != SOURCE
    assert with_helpers("__global__ void f() {}") == "__global__ void f() {}"

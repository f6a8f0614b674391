"""Kernels in CUDA C on the CPU: the text that a GPU gets, compiled as C++ (`tests.simcupy.emulate`)."""

import shutil

import numpy as np
import pytest

from lazyflow.cuda.module import THREADS, with_helpers
from lazyflow.fuse import cuda
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_NUMBER, ARG_ROWS

from ..simcupy import emulate

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which stands in for NVIDIA's compiler")


def together(kernels):
    """Functions of kernels, of one source."""
    names = [f"k{i}" for i in range(len(kernels))]
    text = "\n".join(cuda.source(kernel, name) for kernel, name in zip(kernels, names, strict=True))
    library = emulate.compiled(with_helpers(text))
    return [_function(kernel, library.kernel(name)) for kernel, name in zip(kernels, names, strict=True)]


def compiled(kernel):
    """A function of host arrays, as those of the other printers."""
    [function] = together([kernel])
    return function


def _function(kernel, run):
    threads = cuda.CudaKernel(kernel, lambda: run).threads

    def function(low, high, first, *arrays):
        given = [np.int32(low), np.int32(high), np.int32(first), *cuda.sizes(kernel)]
        held, rest = [], list(arrays)
        for argument in kernel.arguments:
            array = rest.pop(0)
            held.append(array.astype(np.float64) if argument.kind == ARG_NUMBER else array)
            given.append(held[-1].ctypes.data)
            if argument.kind == ARG_ROWS:
                held.append(rest.pop(0).astype(np.int64))
                given.append(held[-1].ctypes.data)
            elif argument.kind == ARG_BLOCK:
                given.append(np.int32(array.strides[0] // array.itemsize))
        count = (high - low) * threads
        if count:
            run((-(-count // THREADS),), (THREADS,), given)

    return function

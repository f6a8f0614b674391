"""Kernels in CUDA C: what the instructions say, and one text for every width."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyflow.fuse import cuda
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_ROWS, Builder
from tests.fuse.test_kernels import check_kernel, kernels

from . import emulated

SLOW = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(SLOW, max_examples=25)
@emulated.needs_compiler
@given(kernels(), st.integers(0, 4))
def test_a_gpu_gets_the_instructions(kernel, n):
    check_kernel(kernel, "cuda", n)


def test_a_gpu_gets_the_same_text_for_every_width():
    def text(width, tail):
        b = Builder(width, np.dtype("float32"))
        gates = [b.load(ARG_BLOCK, ("gates",), k * width, width) for k in range(3)]
        state = b.load(ARG_ROWS, ("state",), tail, width)
        value = b.call("add", b.call("multiply", *gates[:2]), b.call("multiply", gates[2], state))
        b.store(ARG_BLOCK, ("out",), width, width, value, adds=False)
        b.store(ARG_BLOCK, ("total",), 0, 1, value, adds=True)
        return cuda.source(b.kernel(), "f")

    assert len({text(width, tail) for width in (2, 5, 300) for tail in (1, 2, 7)}) == 1

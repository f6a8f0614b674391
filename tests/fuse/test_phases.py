"""A phase as one kernel: one text for every size, blocks that divide all columns, and a barrier of their grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.fuse import phases
from lazyflow.fuse.phases import (
    BARRIER,
    SHARED_BYTES,
    Factor,
    columns_read,
    grid_shape,
    phase_back_source,
    phase_source,
)
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_ROWS, Builder

from ..simcupy import emulate
from . import emulated


def gated(width):
    """A kernel of three gates from two products, and a state."""
    b = Builder(width, np.dtype("float32"))
    gates = [b.load(ARG_BLOCK, ("slab", 0), k * width, width) for k in range(3)]
    other = b.load(ARG_BLOCK, ("slab", 1), 0, width)
    value = b.call("multiply", b.call("add", gates[0], other), b.call("add", *gates[1:]))
    b.store(
        ARG_BLOCK,
        ("output", 0),
        0,
        width,
        b.call("add", value, b.load(ARG_ROWS, ("input", 0), 0, width)),
        adds=False,
    )
    return b.kernel()


def test_a_gpu_gets_the_same_text_for_every_size():
    factors = (Factor(0, 2, True), Factor(1, 1, False))
    assert len({phase_source(gated(width), factors, "phase") for width in (2, 5, 300)}) == 1
    assert len({phase_back_source(gated(width), (2, 1), "phase_back") for width in (2, 5, 300)}) == 1


def test_the_products_that_a_kernel_reads_are_not_read_from_memory():
    kernel = gated(4)
    assert columns_read(kernel, 0) == [0, 4, 8] and columns_read(kernel, 1) == [0]
    text = phase_source(kernel, (Factor(0, 1, False), Factor(1, 1, True)), "phase")
    assert "= a0[" not in text and "(float)a0[" not in text and "(float)a1[" not in text
    assert "a0[" not in text and "a1[(long long)i * pitch1 + j] = dot1_0;" in text  # who is not written is not touched


@given(st.integers(1, 3000), st.integers(1, 60000), st.integers(1, 5000), st.integers(1, 200))
def test_blocks_have_all_columns_and_room_for_their_weights(width, nbytes, rows, blocks):
    shape = grid_shape(width, nbytes, rows, blocks)
    if shape is None:
        assert min(32, SHARED_BYTES // nbytes) * blocks < width
        return
    units, tiles, shares = shape
    assert (tiles - 1) * units < width <= tiles * units and units <= 32
    assert units * nbytes <= SHARED_BYTES and tiles * shares <= blocks and shares >= 1
    assert shares == 1 or (shares - 1) * phases.ROWS_OF_SHARE < rows  # none has nothing to do on average


SUMS = (
    BARRIER
    + """
extern "C" __global__ void sums(unsigned* counter, int* a, int turns) {
    for (int turn = 0; turn < turns; turn++) {
        if (threadIdx.x == 0) a[blockIdx.x] += turn;
        wait_for_grid(counter);
        if (threadIdx.x == 1) for (int b = 0; b < gridDim.x; b++) a[gridDim.x + blockIdx.x] += a[b];
        wait_for_grid(counter);
    }
}
"""
)


@emulated.needs_compiler
@pytest.mark.parametrize("backwards", [False, True])
def test_one_counter_does_for_grids_of_all_sizes(backwards):
    run, counter = emulate.compiled(SUMS).kernel("sums"), np.zeros(1, np.uint32)
    for blocks in (1, 2, 7, 3):
        a = np.zeros((2, blocks), np.int32)
        arguments = [counter.ctypes.data, a.ctypes.data, np.int32(4)]
        if backwards:
            with emulate.backwards():
                run((blocks,), (64,), arguments, cooperative=True)
        else:
            run((blocks,), (64,), arguments, cooperative=True)
        assert a.tolist() == [[6] * blocks, [blocks * (0 + 1 + 3 + 6)] * blocks]
        assert counter[0] in (0, 0x80000000)

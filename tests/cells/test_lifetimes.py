"""What the slabs of a cell need, and that neither blocks of rows nor cotangents in the place of values change a
result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.cells.lifetimes import SCOPE_ALL, SCOPE_NONE, SCOPE_SAME
from lazyflow.cells.lifetimes import SCOPE_BLOCK as ONE_BLOCK
from lazyflow.fuse import blocks, machine
from lazyflow.fuse.scalar import ARG_BLOCK, ROWS_OF_SOME, Builder, may_share, shared, with_rows
from lazyflow.plan.arena import Arena

needs_core = pytest.mark.skipif(core.machine is None, reason="the core was not compiled")
PRINTERS = [
    pytest.param("numpy", blocks.numpy_function),
    pytest.param("core", machine.core_function, marks=needs_core),
]
FUSES = ["off", "numpy", pytest.param("core", marks=needs_core)]
READ, WRITTEN, OTHER = ("slab", 0), ("cotangent", 0), ("other",)
WIDTH = 3


# Kernels that write in place of what they read.


@st.composite
def kernels(draw):
    """Columns of one matrix to columns of another, and some to a third."""
    b = Builder(WIDTH, np.dtype("float64"))
    shifts = st.sampled_from([0, 3, 6, 9, 1])
    values = [b.load(ARG_BLOCK, READ, shift, 12) for shift in draw(st.lists(shifts, min_size=1, max_size=3))]
    values += [b.call("multiply", v, draw(st.sampled_from(values))) for v in values]
    for key in draw(st.lists(st.sampled_from([WRITTEN, WRITTEN, OTHER]), min_size=1, max_size=3)):
        b.store(
            ARG_BLOCK,
            key,
            draw(shifts),
            12,
            draw(st.sampled_from(values)),
            adds=draw(st.sampled_from([False, False, False, True])),
        )
    return b.kernel()


def run(kernel, printer, matrices):
    printer(kernel)(0, 4, 0, *(matrices[a.key] for a in kernel.arguments))


@pytest.mark.parametrize(("name", "printer"), PRINTERS)
def test_kernels_may_write_in_place_of_what_they_read(name, printer):
    accepted = kernels().filter(lambda kernel: may_share(kernel, READ, WRITTEN))

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(accepted)
    def check(kernel):
        rng = np.random.default_rng(0)
        apart = {key: rng.normal(size=(4, 12)) for key in (READ, WRITTEN, OTHER)}
        together = {key: apart[READ if key == WRITTEN else key].copy() for key in apart}
        run(kernel, printer, apart)
        run(shared(kernel, READ, WRITTEN), printer, together)
        np.testing.assert_array_equal(together[OTHER], apart[OTHER])
        for store in kernel.stores:
            if kernel.arguments[store.argument].key == WRITTEN:
                columns = slice(store.shift, store.shift + WIDTH)
                np.testing.assert_array_equal(together[READ][:, columns], apart[WRITTEN][:, columns])

    check()


REFUSED = {
    "a column that a later element reads": (0, 1, False, True),
    "what is added": (0, 0, True, True),
    "what is not computed": (0, 0, False, False),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kernels_that_may_not(case):
    read, written, adds, computed = REFUSED[case]
    b = Builder(WIDTH, np.dtype("float64"))
    value = b.load(ARG_BLOCK, READ, read, 12)
    b.store(ARG_BLOCK, WRITTEN, written, 12, b.call("tanh", value) if computed else value, adds=adds)
    assert not may_share(b.kernel(), READ, WRITTEN)


@pytest.mark.parametrize(("name", "printer"), PRINTERS)
def test_an_argument_with_rows_for_a_block_alone(name, printer):
    b = Builder(WIDTH, np.dtype("float64"))
    b.store(ARG_BLOCK, WRITTEN, 0, WIDTH, b.call("add", b.load(ARG_BLOCK, READ, 0, WIDTH), 1.0), adds=False)
    kernel = with_rows(b.kernel(), {WRITTEN: ROWS_OF_SOME})
    x, out = np.arange(30.0).reshape(10, 3), np.zeros((2, 3))
    printer(kernel)(6, 8, 4, x, out)
    np.testing.assert_array_equal(out, x[6:8] + 1)


# Slabs.


# Cells.


class Gated:
    """A recurrence with gates; ``size`` wide."""

    def __init__(self, size, dtype="float64"):
        rng = np.random.default_rng(size)
        with lf.using(dtype=dtype):
            self.W = lf.Parameter(rng.normal(size=(2 * size, size)) / size**0.5)
            self.b = lf.Parameter(rng.normal(size=2 * size))
        self.size, self.dtype = size, dtype
        W, b = self.W, self.b

        def step(x, h):
            i, u = lf.split(lf.affine(W, b, x + h), 2)
            return lf.sigmoid(i) * lf.tanh(u)

        self.step = step

    def losses(self, decorate, count, length):
        step, rng, found = decorate(self.step), np.random.default_rng(0), []
        for _ in range(count):
            h = lf.constant(rng.normal(size=self.size).astype(self.dtype))
            for _ in range(length):
                h = step(lf.constant(rng.normal(size=self.size).astype(self.dtype)), h)
            found.append(lf.sum(h))
        return found

    def gradients(self):
        found = [p.grad.copy() for p in (self.W, self.b)]
        for p in (self.W, self.b):
            p.zero_grad()
        return found


def calls_of(loss):
    return max((calls for run in loss.tape.runs for calls in run.calls), key=lambda calls: calls.count)


def test_what_slabs_need():
    model = Gated(4)
    with lf.using(fuse="numpy", dtype="float64"):
        loss = lf.sum(model.losses(lf.cell, 2, 3))
        loss.backward()
        memory = calls_of(loss).stages.memory
        assert memory.cotangents.count(SCOPE_SAME) == 1  # of the gates
        assert set(memory.values) <= {SCOPE_ALL}
        with lf.no_grad():
            loss = lf.sum(model.losses(lf.cell, 2, 3)).forward()
    memory = calls_of(loss).stages.memory
    assert set(memory.cotangents) == {SCOPE_NONE}
    assert set(memory.values) == {ONE_BLOCK}


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("size", [4, 700])
def test_blocks_of_rows_change_nothing(fuse, size):
    """The wider cell runs in several blocks of rows."""
    model = Gated(size)
    expected = None
    for decorate in (lambda f: f, lf.cell):
        with lf.using(fuse=fuse, dtype="float64"):
            loss = lf.sum(model.losses(decorate, 200, 2))
            loss.backward()
            with lf.no_grad():
                value = lf.sum(model.losses(decorate, 200, 2)).item()
        found = [np.array(loss.item()), np.array(value), *model.gradients()]
        expected = expected or found
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)
    assert fuse == "off" or size == 4 or calls_of(loss).stages.segments[1][0].rows < 200


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [3, 60])
def test_a_second_backward_is_the_first_to_the_last_bit(fuse, dtype, count):
    model = Gated(5, dtype)
    with lf.using(fuse=fuse, dtype=dtype):
        loss = lf.sum(model.losses(lf.cell, count, 3))
        for _ in range(3):
            before = loss.item()
            loss.backward()
            found = model.gradients()
            loss.backward()
            for again, first in zip(model.gradients(), found, strict=True):
                np.testing.assert_array_equal(again, first)
            assert loss.item() == before


@pytest.mark.parametrize("fuse", FUSES)
def test_losses_one_by_one_before_and_after_all_of_them(fuse):
    model = Gated(5)
    with lf.using(fuse=fuse, dtype="float64"):
        losses = model.losses(lf.cell, 4, 3)
        loss = lf.sum(losses)
        loss.forward()
        losses[1].backward()
        first = model.gradients()
        loss.backward()
        whole = model.gradients()
        losses[1].backward()
        again = model.gradients()
        for one in losses:
            one.backward()
        each = model.gradients()
    for a, b in [*zip(again, first, strict=True), *zip(each, whole, strict=True)]:
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fuse", FUSES)
def test_what_is_random_is_drawn_once(fuse):
    model = Gated(5)

    @lf.cell
    def step(x, h):
        return lf.dropout(model.step(x, h), 0.5)

    with lf.using(fuse=fuse, dtype="float64"):
        x = lf.constant(np.ones(5))
        loss = lf.sum(step(x, step(x, step(x, x))))
        loss.backward()
        first = model.gradients()
        loss.backward()
    for a, b in zip(model.gradients(), first, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_is_freed_without_the_garbage_collector():
    """Prepared steps hold arrays, not the calls: else the memory of a run waits for the collector."""
    import gc
    import weakref

    model = Gated(4)
    with lf.using(dtype="float64"):
        loss = lf.sum(model.losses(lf.cell, 2, 3))
        loss.backward()
        arena = weakref.ref(calls_of(loss).arena)
        gc.disable()
        try:
            assert isinstance(arena(), Arena)
            del loss
            assert arena() is None
        finally:
            gc.enable()

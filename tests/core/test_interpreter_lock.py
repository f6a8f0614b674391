"""Kernels and products let other threads run: the interpreter's lock is not held meanwhile.

The interpreter takes the lock from nobody here, for its switch interval is an hour: another thread gets on only where
it is let go of. So that thread stands waiting for the lock, and a kernel that let go of it is where it has run.
"""

import sys
import threading

import numpy as np
import pytest

from lazyflow.core import machine

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

N, WIDTH = 2000, 300
TRIES = 500  # a processor may have other work than the thread that waits


def elementwise(rng):
    code = [(machine.NUMBER_OF["load"], 0, 0, -1), (machine.NUMBER_OF["tanh"], 0, -1, -1)]
    run, x, out = machine.Elementwise((0,), code, []), rng.normal(size=N * WIDTH), np.empty(N * WIDTH)
    return lambda: run((x,), out)


def rows(name):
    def make(rng):
        x, out, starts = rng.normal(size=(N, WIDTH)), np.empty((N, WIDTH)), np.arange(N) * WIDTH
        buffer, losses, index = x.ravel().copy(), np.empty(N), rng.integers(0, WIDTH, N)
        columns, widths, at = np.array([0]), np.array([WIDTH]), starts[None]
        edges, positions = np.array([0, N // 2, N]), rng.permutation(N)
        return {
            "gather": lambda: machine.gather(out, columns, buffer, at, 0, widths),
            "add_several": lambda: machine.add_several(buffer, at, 0, x, columns, widths),
            "add_rows": lambda: machine.add_rows(buffer, starts, x),
            "sum_groups": lambda: machine.sum_groups(out[:2], x, positions, edges),
            "extremes_of_groups": lambda: machine.extremes_of_groups(out[:2], x, positions, edges, True),
            "cross_entropy": lambda: machine.cross_entropy(x, index, losses),
            "cross_entropy_slopes": lambda: machine.cross_entropy_slopes(x, index, losses, out),
        }[name]

    return make


def product(rng):
    a, b, out = rng.normal(size=(N, WIDTH)), rng.normal(size=(WIDTH, WIDTH)), np.empty((N, WIDTH))
    return lambda: machine.multiply(a, b, out)


def few_rows(rng):
    x, weight, out = rng.normal(size=(64, WIDTH)), rng.normal(size=(N, WIDTH)), np.empty((64, N))
    return lambda: machine.multiply(x, weight.T, out)


def attention(rng):
    q, k, v, out = (rng.normal(size=(WIDTH, 64)) for _ in range(4))
    ends = np.array([[WIDTH], [WIDTH]])
    return lambda: machine.attend((2, False, 0.1), ends, q, k, v, out)


KERNELS = {
    "elementwise": elementwise,
    "product": product,
    "a product of few rows": few_rows,
    "attention": attention,
    **{
        name: rows(name)
        for name in (
            "gather", "add_several", "add_rows", "sum_groups", "extremes_of_groups", "cross_entropy",
            "cross_entropy_slopes",
        )
    },
}  # fmt: skip


@pytest.fixture
def nobody_is_interrupted():
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600.0)
    yield
    sys.setswitchinterval(before)


def has_run_beside(work, tries):
    """Whether a thread that only waits for the interpreter's lock ran while ``work`` was done, once or more often."""
    go, ran = threading.Lock(), []
    go.acquire()

    def other():
        with go:
            ran.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    go.release()
    found = False
    for _ in range(tries):
        work()
        if ran:
            found = True
            break
    thread.join()
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_another_thread_runs_beside_a_kernel(nobody_is_interrupted, name):
    work = KERNELS[name](np.random.default_rng(0))
    assert has_run_beside(work, TRIES)


def test_no_thread_runs_beside_what_holds_the_lock(nobody_is_interrupted):
    """What the test above tells apart."""
    assert not has_run_beside(lambda: sum([k * k for k in range(50_000)]), 5)

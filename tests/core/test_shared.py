"""Work that cores share: the same results to the bit, from any thread, and in the child of a fork.

What is small is not shared (``LEAST`` in ``core/c/machine.c``), so all of this is large.
"""

import os
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.core import machine
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_NUMBER, ARG_ROWS, ARG_VECTOR, Builder
from lazyflow.ops.sparse import RowSparse
from lazyflow.optim import rule

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

from lazyflow.fuse.machine import core_function

DTYPES = ["float32", "float64"]
NUMBERS = [2, 3, 8]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def as_before():
    before = machine.use_threads(1)
    yield
    machine.use_threads(before)


def same(run, *written):
    """What a function writes on several threads is what it writes on one, to the bit."""
    start = [a.copy() for a in written]
    run()
    expected = [a.copy() for a in written]
    for number in NUMBERS:
        for array, before in zip(written, start, strict=True):
            array[...] = before
        machine.use_threads(number)
        run()
        machine.use_threads(1)
        for array, wanted in zip(written, expected, strict=True):
            np.testing.assert_array_equal(array.view(np.uint8), wanted.view(np.uint8))


def long_value(b, x, y):
    return b.call("add", b.call("tanh", b.call("multiply", x, y)), b.call("exp", b.call("negative", x)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(400, 300), (5, 30_001), (1, 90_000), (90_001, 1), (3000, 7)])
def test_rows_and_columns_of_matrices(rows, width, dtype, rng):
    b = Builder(width, np.dtype(dtype))
    x, y = b.load(ARG_BLOCK, ("x",), 1, width), b.load(ARG_VECTOR, ("y",), 0, width)
    b.store(
        ARG_BLOCK, ("out",), 0, width, long_value(b, x, b.call("add", y, b.load(ARG_NUMBER, ("z",), 0, 1))), adds=True
    )
    x, y, z = (rng.normal(size=s).astype(dtype) for s in ((rows, width + 3), width, rows))
    out = rng.normal(size=(rows, width)).astype(dtype)
    program = core_function(b.kernel())
    same(lambda: program(0, rows, 0, x, y, z, out), out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_rows(dtype, rng):
    b = Builder(900, np.dtype(dtype))
    b.store(ARG_BLOCK, ("sum",), 0, 1, b.call("exp", b.load(ARG_BLOCK, ("x",), 0, 900)), adds=True)
    x, total = rng.normal(size=(333, 900)).astype(dtype), np.ones((333, 1), dtype)
    program = core_function(b.kernel())
    same(lambda: program(0, 333, 0, x, total), total)


STARTS = {
    "repeated": lambda rng: rng.integers(0, 7, 900) * 500,
    "apart": lambda rng: rng.permutation(900) * 500,
    "overlapping": lambda rng: rng.integers(0, 4000, 900),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("starts", STARTS)
def test_sums_at_rows_of_a_buffer(starts, dtype, rng):
    b = Builder(500, np.dtype(dtype))
    x = b.load(ARG_BLOCK, ("x",), 0, 500)
    b.store(ARG_ROWS, ("buffer",), 0, 500, long_value(b, x, 2.0), adds=True)
    b.store(ARG_ROWS, ("buffer",), 500, 500, b.call("tanh", x), adds=True)
    at, x = STARTS[starts](rng).astype(np.int64), rng.normal(size=(900, 500)).astype(dtype)
    buffer = rng.normal(size=901 * 500).astype(dtype)
    program = core_function(b.kernel())
    same(lambda: program(0, 900, 0, x, buffer, at), buffer)
    rows = rng.normal(size=(900, 700)).astype(dtype)[:, :500]
    same(lambda: machine.add_rows(buffer, at, rows), buffer)
    columns, widths = np.array([0, 130]), np.array([100, 370])
    same(lambda: machine.add_several(buffer, np.stack([at, at[::-1]]), 3, rows[3:], columns, widths), buffer)
    out = np.empty((897, 500), dtype)
    same(lambda: machine.gather(out, columns, buffer, np.stack([at, at[::-1]]), 3, widths), out[:, :100], out[:, 130:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_operations_on_rows(dtype, rng):
    rows, positions = rng.normal(size=(6000, 70)).astype(dtype), rng.permutation(6000)
    starts, out = np.sort(rng.integers(0, 6000, 41)), np.empty((40, 70), dtype)
    same(lambda: machine.sum_groups(out, rows, positions, starts), out)
    edges = np.arange(41) * 150
    same(lambda: machine.extremes_of_groups(out, rows, positions, edges, True), out)
    x, weight, product = rows[:5], rng.normal(size=(3001, 70)).astype(dtype), np.empty((5, 3001), dtype)
    same(lambda: machine.multiply(x, weight.T, product), product)
    index, share, losses, slopes = rng.integers(0, 70, 6000), rows[:, 1], np.empty(6000, dtype), np.empty_like(rows)
    same(lambda: machine.cross_entropy(rows, index, losses), losses)
    same(lambda: machine.cross_entropy_slopes(rows, index, share, slopes), slopes)
    machine.use_threads(4)
    index[4777] = 70
    assert not machine.cross_entropy(rows, index, losses)
    assert not machine.cross_entropy_slopes(rows, index, share, slopes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates(dtype, rng):
    names = ("parameter", "gradient", "exp_avg", "exp_avg_sq")
    arrays = {name: np.abs(rng.normal(size=(401, 500))).astype(dtype) for name in names}
    adam = object.__new__(lf.optim.Adam)
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "lr": 1e-3}
    assignments, numbers = list(adam.formulas(options, 3).items()), adam.numbers(options, 3)
    adams = rule.Rule(assignments, numbers)
    same(lambda: adams.run(arrays, lambda name, like: np.empty_like(like)), *arrays.values())
    gradient, where = arrays.pop("gradient")[:300], rng.permutation(401)[:300]
    some = RowSparse(where, gradient, (401, 500))
    same(lambda: adams.run_in_core(arrays, some), *arrays.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_arrays_of_any_shape(dtype, rng):
    code = [(machine.NUMBER_OF["load"], 0, 0, -1), (machine.NUMBER_OF["load"], 1, 0, -1)]
    run = machine.Elementwise((0, 1), [*code, (machine.NUMBER_OF["power"], 0, 1, -1)], [])
    a, b = np.abs(rng.normal(size=(30, 80, 90))).astype(dtype), rng.normal(size=(80, 1)).astype(dtype)
    for one in (a, a[::2], a[:, :1], a[0, 0], np.asfortranarray(a)):
        out = np.empty(np.broadcast_shapes(one.shape, b.shape), dtype)
        same(lambda one=one, out=out: run((one, b), out), out)


def step(k):
    """A step of a small model whose launches are large enough to be shared."""
    rng = np.random.default_rng(k)
    w, v = (lf.Parameter(rng.normal(size=(400, 400)).astype("f4")) for _ in range(2))
    x = lf.constant(rng.normal(size=(200, 400)).astype("f4"))
    loss = lf.sum(lf.tanh(x @ w) * lf.sigmoid(x * 2.0) + lf.tanh(x) / (1.0 + x * x))
    loss.backward()
    v.grad = w.grad
    lf.optim.Adam([v]).step()
    return v.numpy()


def test_a_run_and_an_update_have_the_threads_of_the_settings(monkeypatch):
    """Some of the products are of BLAS, whose last bits differ with the parts that they are cut into."""
    users = lf.threads._Users()
    users.enter = users.leave = lambda *_: None
    monkeypatch.setattr(lf.threads, "_users", lambda: users)
    expected, seen = step(0), []
    use = machine.use_threads
    fake = {name: getattr(machine, name) for name in dir(machine)}
    monkeypatch.setattr(
        lf.core, "machine", type("watched", (), fake | {"use_threads": lambda n: seen.append(n) or use(n)})
    )
    with lf.using(threads=3):
        np.testing.assert_allclose(step(0), expected, rtol=1e-4, atol=1e-6)
    assert seen == [3, 1, 3, 1, 3, 1]


def test_many_threads_at_once_each_with_several():
    expected = [step(k) for k in range(6)]

    def run(k):
        with lf.using(threads=2):
            return step(k)

    with ThreadPoolExecutor(6) as pool:
        for found, wanted in zip(pool.map(run, range(6)), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_the_child_of_a_fork_shares_again(rng):
    x = rng.normal(size=400_000)
    run = machine.Elementwise((0,), [(machine.NUMBER_OF["load"], 0, 0, -1), (machine.NUMBER_OF["tanh"], 0, -1, -1)], [])
    expected = run((x,), None)
    machine.use_threads(3)
    run((x,), None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, where there are threads
        child = os.fork()
    if not child:
        os._exit(0 if all((run((x,), None) == expected).all() for _ in range(5)) else 1)
    np.testing.assert_array_equal(run((x,), None), expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="what threads block is not to be seen here")
def test_signals_are_for_the_threads_of_the_interpreter(rng):
    """A signal that came to a thread of the pool would interrupt nobody."""
    machine.use_threads(3)
    x = rng.normal(size=400_000)
    machine.Elementwise((0,), [(machine.NUMBER_OF["load"], 0, 0, -1), (machine.NUMBER_OF["exp"], 0, -1, -1)], [])(
        (x,), x
    )
    blocked = []
    for task in Path("/proc/self/task").iterdir():
        line = next(t for t in (task / "status").read_text().splitlines() if t.startswith("SigBlk"))
        blocked.append(bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1))
    assert blocked.count(True) >= 2

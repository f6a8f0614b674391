"""What an operation computes alone it computes within a fused kernel, to the last bit, with every instruction set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.core import machine
from lazyflow.ops import OPS
from lazyflow.ops.formula import compile_forward, parse
from tests.core.test_machine import SETS, as_before, use  # noqa: F401
from tests.fuse import test_kernels as kernels

if machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

from lazyflow.fuse.machine import core_function


def assert_same_bits(found, expected, what):
    """But for what a NaN looks like, which the C compiler may choose."""
    np.testing.assert_array_equal(found, expected, what)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]), what)


def alone(name, key, dtype):
    """The kernel of an operation, or of its derivative, on the numbers that `results_of` takes."""
    op, columns = OPS[name], kernels.operands(name, key, np.dtype(dtype))
    rows = {n: kernels.rows_of(column, dtype) for n, column in columns.items()}
    names = parse(op.formula["y"]).operands
    with np.errstate(all="ignore"):
        if key == "y":
            return op.forward(np, *(rows[n] for n in names))
        g = rows.get("g", next(iter(rows.values())))
        return op.vjps[names.index(key)](np, g, rows.get("y", g), *(rows.get(n, g) for n in names))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", kernels.FORMULAS)
def test_every_formula_and_derivative(name, dtype):
    for key, found in kernels.results_of(name, dtype, "core").items():
        assert_same_bits(found, alone(name, key, dtype), f"{key} of {name}")


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "silu", "sin", "exp"])
def test_every_instruction_set(name, instructions):
    use(instructions)
    kernels.results_of.cache_clear()
    for key, found in kernels.results_of(name, "float32", "core").items():
        assert_same_bits(found, alone(name, key, "float32"), f"{key} of {name}")
    kernels.results_of.cache_clear()


# However the operands lie in memory.


@st.composite
def strided(draw, shape, dtype):
    """An array of a shape that broadcasts to this one, as some view of a larger one."""
    sizes = [1 if draw(st.integers(0, 3)) == 0 else n for n in shape]
    sizes = sizes[draw(st.integers(0, len(sizes))) :]
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1])) for _ in sizes]
    order = draw(st.permutations(range(len(sizes))))
    pairs = list(zip(steps, sizes, strict=True))
    whole = np.random.default_rng(draw(st.integers(0, 9))).normal(size=(*(abs(s) * n + 1 for s, n in pairs), 1))
    whole = whole[..., 0].astype(dtype)
    whole = np.array(whole.transpose(order), order="C").transpose(np.argsort(order).astype(int))
    return whole[(..., *(slice(0, s * n, s) if s > 0 else slice(n, 0, s) for s, n in pairs))]


SOURCE = "tanh(a) * b + exp(-abs(c)) * 0.5"


@kernels.SLOW
@given(st.data(), st.lists(st.integers(0, 5), max_size=4), st.sampled_from(["float32", "float64"]))
def test_operands_of_every_layout(data, shape, dtype):
    arrays = [data.draw(strided(shape, dtype)) for _ in "abc"]
    kernel = compile_forward("kernel", parse(SOURCE))
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    whole = [np.array(np.broadcast_to(a, shape), order="C") for a in arrays]
    expected = kernel(np, *whole)
    np.testing.assert_allclose(expected, np.tanh(whole[0]) * whole[1] + np.exp(-np.abs(whole[2])) * 0.5, 1e-6, 1e-6)
    found = kernel(np, *arrays)
    assert found.shape == expected.shape and found.dtype == dtype
    assert_same_bits(found, expected, "made")
    out = data.draw(st.sampled_from([lambda s: np.empty(s, dtype), lambda s: np.empty([2 * n for n in s], dtype)]))
    out = out(expected.shape)[(..., *(slice(0, n) for n in expected.shape))]
    assert kernel(np, *arrays, out=out) is out
    assert_same_bits(out, expected, "written")


@pytest.mark.parametrize("other", [lambda a: a, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.T], ids=str)
def test_a_result_may_lie_in_the_memory_of_an_operand(other):
    x = np.random.default_rng(0).normal(size=(300, 300))
    a, b = x.copy(), other(x).copy()
    expected = compile_forward("kernel", parse(SOURCE))(np, a, b, a)
    compile_forward("kernel", parse(SOURCE))(np, x, other(x), x, out=x)
    assert_same_bits(x, expected, "")


NUMBERS = [0.1, 3, -0.0, np.float32(0.1), np.array(0.1, np.float32), np.array([0.1], np.float32), 1e300]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_numbers_beside_arrays(number):
    x = np.linspace(-2, 2, 35, dtype=np.float32).reshape(5, 7)
    kernel = compile_forward("kernel", parse("tanh(x) + s"))
    with np.errstate(over="ignore"):
        found, whole = kernel(np, x, number), np.full_like(x, number)
    assert found.dtype == np.float32
    assert_same_bits(found, kernel(np, x, whole), "")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1)])
def test_one_element_and_none(shape):
    x = np.full(shape, 0.5)
    found = OPS["tanh"].forward(np, x)
    assert found.shape == shape and found.dtype == x.dtype
    np.testing.assert_allclose(found, np.tanh(x), rtol=1e-15)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "f2", "i8", "?", "g"])
def test_other_dtypes_are_as_before(dtype):
    x = np.array([0, 1, 1, 0], dtype)
    with np.errstate(all="ignore"):
        expected = np.tanh(x)
    assert OPS["tanh"].forward(np, x).dtype == expected.dtype
    np.testing.assert_allclose(OPS["tanh"].forward(np, x), expected, rtol=1e-3 if dtype == "f2" else 1e-6)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="broadcast"):
        compile_forward("kernel", parse("tanh(a) + b"))(np, np.ones(3), np.ones(2))


def test_what_a_nan_carries_stays():
    x = np.array([0x7FC01234, 0xFFC00001], np.uint32).view(np.float32)
    b = kernels.Builder(2, np.dtype("f4"))
    loaded = b.load(kernels.ARG_BLOCK, ("in",), 0, 2)
    b.store(kernels.ARG_BLOCK, ("out",), 0, 2, b.call("where", 1.0, b.call("maximum", loaded, 0.0), loaded), adds=False)
    out = np.empty((1, 2), np.float32)
    core_function(b.kernel())(0, 1, 0, x[None], out)
    np.testing.assert_array_equal(out[0].view(np.uint32), x.view(np.uint32))


# Whole programs.


def test_a_cell_is_what_its_operations_are():
    def gates(x, c):
        i, f, o, u = lf.split(x, 4)
        c = lf.sigmoid(i) * lf.tanh(u) + lf.sigmoid(f) * c
        return lf.sigmoid(o) * lf.tanh(c), lf.softplus(c)

    rng = np.random.default_rng(0)
    x, c = lf.Parameter(rng.normal(size=40)), lf.Parameter(rng.normal(size=10))
    results = []
    for function, fuse in ((gates, "off"), (lf.cell(gates), "core")):
        with lf.using(fuse=fuse):
            found = function(x * 1.0, c * 1.0)
            lf.sum([lf.sum(f) for f in found]).backward()
            results.append([*(f.numpy() for f in found), x.grad, c.grad])
            x.grad = c.grad = None
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b, "")

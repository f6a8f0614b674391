"""What IEEE 754 rounds exactly is exact when fused, too: no contraction, no reciprocal, no rewriting, in any kernel."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.fuse import blocks, machine
from lazyflow.fuse.scalar import ARG_BLOCK, Builder

needs_core = pytest.mark.skipif(core.machine is None, reason="the core was not compiled")
PRINTERS = {"numpy": blocks.numpy_function, "core": machine.core_function}
BOTH = [pytest.param("numpy"), pytest.param("core", marks=needs_core)]
FUSIONS = [pytest.param("off"), *BOTH]
DTYPES = ["float32", "float64"]
WIDTH = 64


def special(dtype):
    """Zeros, infinities, NaN, the largest, smallest and subnormal numbers of both signs, and ordinary ones."""
    info = np.finfo(dtype)
    some = [0.0, 1.0, 3.0, 1 / 3, np.inf, info.max, info.tiny, info.smallest_subnormal, info.tiny / 3, info.eps, 1e-3]
    some = np.concatenate([some, np.random.default_rng(0).lognormal(0, 3, 20)]).astype(dtype)
    return np.concatenate([some, -some, np.array([np.nan], dtype)])


def pairs(dtype):
    a, b = (np.resize(g.ravel(), (-(-g.size // WIDTH), WIDTH)) for g in np.meshgrid(special(dtype), special(dtype)))
    return a, b


def equal_bits(found, want):
    """Equal, zeros with their signs; one NaN is as good as another."""
    np.testing.assert_array_equal(found, want)
    where = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(found)[where], np.signbit(want)[where])


# Random kernels.

UNARY = ["negative", "abs", "sign", "sqrt", "logical_not"]
BINARY = ["add", "subtract", "multiply", "divide", "less", "less_equal", "equal", "not_equal", "logical_and"]
EXTREMA = ["maximum", "minimum"]  # which of two zeros they return is not for NumPy to say: `+ 0` makes both positive


@st.composite
def codes(draw):
    """Instructions by number: the first two values are operands."""
    code = []
    for i in range(2, draw(st.integers(4, 12))):
        name = draw(st.sampled_from([*UNARY, *BINARY, *BINARY, *EXTREMA, "where"]))
        arity = 1 if name in UNARY else 3 if name == "where" else 2
        value = st.one_of(st.integers(0, i - 1), st.sampled_from([0.1, -3.0, 0.5]))
        code.append((name, tuple(draw(value) for _ in range(arity))))
    return code


def kernel_of(code, dtype):
    b = Builder(WIDTH, np.dtype(dtype))
    values = [b.load(ARG_BLOCK, (name,), 0, WIDTH) for name in "ab"]
    for name, inputs in code:
        found = b.call(name, *(v if isinstance(v, float) else values[v] for v in inputs))
        values.append(b.call("add", found, 0.0) if name in EXTREMA else found)
    b.store(ARG_BLOCK, ("out",), 0, WIDTH, values[-1], adds=False)
    return b.kernel()


def by_numpy(code, a, b):
    """One array for each value, each step rounded once."""
    real = a.dtype.type
    values = [a, b]
    with np.errstate(all="ignore"):
        for name, inputs in code:
            given = [real(v) if isinstance(v, float) else values[v] for v in inputs]
            if name == "where":
                given[0] = given[0] != 0
            found = np.asarray(getattr(np, name)(*given)).astype(a.dtype)
            values.append(found + real(0) if name in EXTREMA else found)
    return np.broadcast_to(values[-1], a.shape)


def run(kernel, printer, a, b):
    given = {("a",): a, ("b",): b, ("out",): np.empty_like(a)}
    with np.errstate(all="ignore"):
        PRINTERS[printer](kernel)(0, len(a), 0, *(given[argument.key] for argument in kernel.arguments))
    return given[("out",)]


def check(code, printer, dtype):
    a, b = pairs(dtype)
    equal_bits(run(kernel_of(code, dtype), printer, a, b), by_numpy(code, a, b))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(codes(), st.sampled_from(DTYPES))
def test_random_kernels_of_numpy(code, dtype):
    check(code, "numpy", dtype)


@needs_core
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(codes(), st.sampled_from(DTYPES))
def test_random_compiled_kernels(code, dtype):
    check(code, "core", dtype)


CODES = {
    "products and sums": [("multiply", (0, 0)), ("multiply", (1, 1)), ("subtract", (2, 3)), ("add", (4, 2))],
    "one product and a sum": [("multiply", (0, 1)), ("add", (2, 0.1))],
    "quotients by one number": [("divide", (0, 1)), ("divide", (1.0, 1)), ("divide", (0, -3.0)), ("add", (2, 4))],
    "sign": [("sign", (0,)), ("divide", (1.0, 2))],
    "differences of sums": [("add", (0, 1)), ("subtract", (2, 0)), ("subtract", (3, 1))],
}


@pytest.mark.parametrize("printer", BOTH)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CODES)
def test_kernels_that_tempt_a_compiler(name, dtype, printer):
    check(CODES[name], printer, dtype)


@pytest.mark.parametrize("printer", BOTH)
@pytest.mark.parametrize("name", EXTREMA)
def test_of_equal_zeros_the_sign_is_one_of_theirs(name, printer):
    a, b = pairs("float32")
    found = run(kernel_of([(name, (0, 1)), ("add", (2, 0.0))], "float32"), printer, a, b)
    np.testing.assert_array_equal(found, getattr(np, name)(a, b))


# Cells and chains.


def difference(a, b):
    return lf.sqrt(a * a - b * b)


def quotient(a, b):
    return a / b


def halved(a, b):
    return (a / 3 - b / 3) * (a - b)


def shifted(a, b):
    return a - b * 0.1 + b


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [difference, quotient, halved, shifted], ids=lambda f: f.__name__)
@pytest.mark.parametrize("as_cell", [True, False], ids=["cell", "plain"])
def test_values_are_those_of_numpy(function, dtype, fuse, as_cell):
    a, b = pairs(dtype)
    a[::2] = b[::2]  # what should cancel
    body = lf.cell(function) if as_cell else function
    with lf.using(fuse=fuse), np.errstate(all="ignore"):
        found = [body(lf.constant(x), lf.constant(y)) for x, y in zip(a, b, strict=True)]
        lf.forward(found)
        values = np.stack([v.numpy() for v in found])
        want = np.sqrt(a * a - b * b) if function is difference else function(a, b)
    equal_bits(values, want)

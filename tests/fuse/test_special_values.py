"""Random chains of operations over special values: fused or not, as cells or plain, values and gradients are the same.

Chains of what IEEE 754 rounds exactly are equal to the bit, gradients included; where a chain ends in a function that
the forms compute differently, that one is within its bounds.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.cells.chains import Chains
from lazyflow.run import forward

from .test_exactness import equal_bits, special

HAS_CORE = core.machine is not None
UNARY = {
    "negative": lambda x: -x,
    "abs": lf.abs,
    "square": lf.square,
    "sqrt": lf.sqrt,
    "reciprocal": lf.reciprocal,
    "relu": lf.relu,
    "leaky": lambda x: lf.leaky_relu(x, -0.3),
    "clip": lambda x: lf.clip(x, -1.0, 2.0),
    "hardtanh": lf.hardtanh,
    "softsign": lf.softsign,
    "by a number": lambda x: x * 0.1,
    "over a number": lambda x: x / 3.0,
    "a number over": lambda x: 2.0 / x,
}
BINARY = {
    "add": lambda x, c: x + c,
    "subtract": lambda x, c: c - x,
    "multiply": lambda x, c: x * c,
    "divide": lambda x, c: x / c,
    "divided": lambda x, c: c / x,
    "maximum": lf.maximum,
    "minimum": lambda x, c: lf.minimum(c, x),
    "where": lambda x, c: lf.where(c > 0, x, c),
    "chosen": lambda x, c: lf.where(x < c, x * 2.0, c),
}
FUNCTIONS = {
    name: getattr(lf, name)
    for name in ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "logsigmoid", "softplus", "silu", "selu", "arctan")
}
SOME = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
CHAIN = st.lists(st.sampled_from([*UNARY, *BINARY]), min_size=2, max_size=6)
DTYPE = st.sampled_from(["float32", "float64"])


def body(names):
    def function(x, c):
        for name in names:
            x = BINARY[name](x, c) if name in BINARY else (UNARY | FUNCTIONS)[name](x)
        return x

    return function


def run(names, dtype, fuse, cell):
    """Values and gradients of a chain of each of some rows, all pairs of special values among them."""
    values = special(dtype)
    a, c = np.meshgrid(values, values)
    table, function = lf.Parameter(a.copy()), body(names)
    function = lf.cell(function) if cell else function
    with lf.using(fuse=fuse), np.errstate(all="ignore"):
        found = [function(table[k], lf.constant(row)) for k, row in enumerate(c)]
        lf.sum([lf.sum(lf.where(lf.isfinite(y), y, 0.0)) for y in found]).backward()
        return np.stack([y.numpy() for y in found]), table.grad.to_dense()


def forms():
    yield "numpy", True
    if HAS_CORE:
        yield "core", True
        yield "core", False


@pytest.fixture(autouse=True)
def chains(monkeypatch):
    """Chains of whatever stands together."""
    monkeypatch.setattr(forward, "CHAINS", Chains(("core",), fewest=1))


def check(names, dtype, fusions, compare):
    value, gradient = run(names, dtype, "off", False)
    for fuse, cell in fusions:
        found = run(names, dtype, fuse, cell)
        compare(found[0], value)
        compare(found[1], gradient)


@settings(SOME, max_examples=60)
@given(CHAIN, DTYPE)
def test_exact_chains_of_numpy(names, dtype):
    check(names, dtype, [("numpy", True)], equal_bits)


@pytest.mark.skipif(not HAS_CORE, reason="the core was not compiled")
@settings(SOME, max_examples=60)
@given(CHAIN, DTYPE)
def test_exact_chains_compiled(names, dtype):
    check(names, dtype, [("core", True), ("core", False)], equal_bits)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_within_their_bounds(name, dtype):
    """Special values exactly, others within what the two bounds leave between two forms; infinities are special."""

    def close(found, want):
        info = np.finfo(dtype)
        same = (found == want) | (np.isnan(found) & np.isnan(want))
        off = np.abs(found - want) <= 12 * info.eps * np.abs(want) + 8 * info.smallest_subnormal
        assert (same | off).all(), (found[~(same | off)][:4], want[~(same | off)][:4])

    with np.errstate(all="ignore"):
        check(["by a number", name, "over a number"], dtype, list(forms()), close)

"""Scalar code: equal instructions are one, unused ones none, and numbers are no values."""

import numpy as np

from lazyflow.fuse import blocks
from lazyflow.fuse.scalar import ARG_BLOCK, FUSABLE, TRUTH, Builder, is_fusable
from lazyflow.ops.formula import parse


def test_equal_instructions_are_one_and_unused_ones_none():
    b = Builder(2, np.dtype("float32"))
    x = b.load(ARG_BLOCK, ("in",), 0, 2)
    first, second = b.call("tanh", x), b.call("tanh", x)
    b.call("exp", x)
    b.store(ARG_BLOCK, ("out",), 0, 2, b.call("add", first, second), adds=False)
    assert first == second
    assert [i.name for i in b.kernel().instructions] == ["load", "tanh", "add"]


def test_a_value_is_not_taken_for_a_number_that_equals_its_place():
    b = Builder(1, np.dtype("float64"))
    x, y = b.load(ARG_BLOCK, ("in",), 0, 1), b.load(ARG_BLOCK, ("in",), 1, 1)
    codes = [b.call("add", x, y), b.call("add", x, 1.0), b.call("divide", x, 0.0), b.call("divide", x, -0.0)]
    assert (y, len(set(codes))) == (1, 4)
    for k, code in enumerate(codes):
        b.store(ARG_BLOCK, ("out",), k, 1, code, adds=False)
    out = np.empty((1, 4))
    with np.errstate(divide="ignore"):
        blocks.numpy_function(b.kernel())(0, 1, 0, np.array([[5.0, 7.0]]), out)
    np.testing.assert_array_equal(out, [[12.0, 6.0, np.inf, -np.inf]])


def test_numbers_are_computed_at_once():
    b = Builder(2, np.dtype("float32"))
    assert b.call("exp", 0.0) == 1.0
    assert not b.instructions


def test_formulas_with_other_functions_are_not_fused():
    assert is_fusable(parse("tanh(x) + sqrt(x)"))
    assert not is_fusable(parse("bitwise_and(a, b)"))
    assert TRUTH < FUSABLE

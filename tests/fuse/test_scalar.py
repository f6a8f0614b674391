"""Scalar code: equal instructions are one, unused ones none, and numbers are no values."""

import numpy as np
import pytest

from lazyflow.fuse import blocks
from lazyflow.fuse.scalar import ARG_BLOCK, ARG_ROWS, FUSABLE, TRUTH, Builder, in_order, is_fusable
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


def of_blocks(text, width=2):
    """A kernel ``"a0 b2 > c1"``, which stores the sum of what it reads, plus 1, wherever it writes: names of matrices
    and columns; ``b!2``: one element for all of a row, ``> +c1``: added."""
    b = Builder(width, np.dtype("float64"))
    value = 1.0
    reads, writes = (part.split() for part in text.split(">"))
    for name, *_, column in reads:
        columns = 1 if f"{name}!{column}" in reads else width
        value = b.call("add", value, b.load(ARG_BLOCK, (name,), int(column), columns))
    for place in writes:
        b.store(ARG_BLOCK, (place[-2],), int(place[-1]), width, value, adds=place[0] == "+")
    return b.kernel()


IN_ORDER = (
    ("a0 > b0", "b0 a2 > c1"),
    ("a0 > b0 c2", "c2 > d0", "b0 d0 c2 > b0"),
    ("a0 > b0", "c1 > a0"),
    ("> b0", "b0 a0 > c0"),
    ("a0 > b0", "a1 > b2"),
)
APART = {
    "it reads a neighbour's": ("a0 > b0", "b1 > c0"),
    "it reads one element for all": ("a0 > b0", "b!0 > c0"),
    "it writes what a neighbour reads": ("a0 > b0", "c0 > a1"),
    "it writes what a neighbour writes": ("a0 > b0", "c0 > b1"),
    "others add to it": ("a0 > +b0", "b0 > c0"),
    "two add to it": ("a0 > +b0", "c0 > +b0"),
}


@pytest.mark.parametrize("texts", IN_ORDER, ids=", ".join)
def test_kernels_of_one_element_after_the_other_are_one(texts):
    kernels, names = list(map(of_blocks, texts)), "abcd"
    matrices = {name: np.random.default_rng(ord(name)).normal(size=(3, 4)) for name in names}
    expected = {name: matrix.copy() for name, matrix in matrices.items()}
    joined = in_order(kernels)
    for found, some in ((expected, kernels), (matrices, [joined])):
        for kernel in some:
            blocks.numpy_function(kernel)(0, 3, 0, *(found[argument.key[0]] for argument in kernel.arguments))
    for name in names:
        np.testing.assert_array_equal(matrices[name], expected[name], err_msg=name)
    stored = {kernels[0].arguments[store.argument].key for store in kernels[0].stores}
    loaded = {joined.arguments[c.argument].key for c in joined.instructions if c.name == "load"}
    assert not stored & loaded


@pytest.mark.parametrize("why", APART)
def test_kernels_whose_elements_meet_stay_apart(why):
    assert in_order(list(map(of_blocks, APART[why]))) is None


def test_a_kernel_alone_is_itself_and_rows_are_added_by_many():
    kernel = of_blocks("a0 > +b1")
    assert in_order([kernel]) is kernel
    parts = []
    for name in "ab":
        b = Builder(2, np.dtype("float64"))
        b.store(ARG_ROWS, ("rows",), 1, 2, b.load(ARG_BLOCK, (name,), 0, 2), adds=True)
        parts.append(b.kernel())
    assert [store.adds for store in in_order(parts).stores] == [True, True]


def test_kernels_of_other_widths_stay_apart():
    assert in_order([of_blocks("a0 > b0", 2), of_blocks("a0 > c0", 1)]) is None

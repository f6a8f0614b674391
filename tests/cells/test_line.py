"""Lines of the compiled core do what those in Python do: every step, for launches, blocks and either direction."""

import itertools

import numpy as np
import pytest

from lazyflow import core
from lazyflow.cells import line
from lazyflow.cells.line import OF_ALL, OF_BLOCK, OF_LAUNCH, View

if core.machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

SEED, CALLS = 9, 40
EDGES = {
    "one launch": [0, CALLS],
    "several": [0, 3, 4, 17, CALLS],
    "some calls": [5, 9, 30],
    "an empty launch": [2, 2, 8],
    "none": [4],
}


class Arrays:
    """What the steps of both forms read and write, the same twice."""

    def __init__(self, dtype, base, most):
        rng = np.random.default_rng(SEED)
        rows = {OF_ALL: CALLS, OF_LAUNCH: most, OF_BLOCK: most}[base]
        whole = rng.integers(-3, 4, (3, rows, 12)).astype(dtype)  # sums are exact
        self.x, self.y, self.z = (View(matrix[:, 2:8], base) for matrix in whole)
        self.matrices = whole
        self.buffer = rng.integers(-3, 4, 100).astype(dtype)
        self.weight = rng.integers(-2, 3, (6, 6)).astype(dtype)
        self.at = rng.integers(0, 90, (2, CALLS))
        self.columns, self.widths = np.array([0, 3]), np.array([3, 3])

    def all(self):
        return [*self.matrices, self.buffer]


def steps(form, a):
    """Every step, so that each reads what others have written."""
    form.gather(a.x, a.columns, a.buffer, a.at, a.widths)
    form.product(a.x, a.weight, a.y)
    form.product(a.x, a.weight, a.z)
    form.add(a.z, a.y)
    form.copy(a.x, a.z)
    form.add_several(a.buffer, a.at, a.x, a.columns, a.widths)
    form.zero(View(a.y.array[:, 1:2], a.y.base))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("rows", [None, 6])
@pytest.mark.parametrize(
    ("base", "whole"), [(OF_ALL, True), (OF_ALL, False), (OF_LAUNCH, False), (OF_BLOCK, False), (OF_BLOCK, True)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EDGES)
def test_both_forms_do_the_same(name, dtype, base, whole, rows, backwards):
    edges = np.array(EDGES[name])
    most = max([b - a for a, b in itertools.pairwise(EDGES[name])], default=0)
    found = []
    for make in (core.machine.Line, lambda: line.Line(np)):
        arrays, form = Arrays(dtype, base, max(most, 1)), make()
        form.segment(rows)
        steps(form, arrays)
        form.segment(None)
        form.copy(arrays.y, arrays.x)
        form(edges, whole, backwards)
        found.append(arrays.all())
    changed = any((a != b).any() for a, b in zip(found[0], Arrays(dtype, base, max(most, 1)).all(), strict=True))
    assert changed == (most > 0)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [None, 6])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_step_may_be_a_function(rows, backwards):
    whose, found = object(), []
    for make in (core.machine.Line, lambda: line.Line(np)):
        arrays, form, asked = Arrays("float64", OF_ALL, CALLS), make(), []

        def double(calls, low, high, first, arrays=arrays, asked=asked):
            asked.append((calls is whose, low, high, first))
            arrays.y.array[low:high] *= 2

        form.segment(rows)
        form.copy(arrays.y, arrays.x)
        form.call(double)
        form.add(arrays.z, arrays.y)
        form(np.array([0, 3, 17, CALLS]), False, backwards, whose)
        found.append((asked, arrays.z.array.tolist()))
    assert found[0] == found[1]
    assert len(found[0][0]) >= 3
    fresh = Arrays("float64", OF_ALL, CALLS)
    np.testing.assert_array_equal(found[0][1], fresh.z.array + 2 * fresh.x.array)


def test_what_a_function_raises_ends_the_run():
    arrays, form = Arrays("float32", OF_ALL, CALLS), core.machine.Line()
    before = arrays.y.array.copy()
    form.segment(None)
    form.call(lambda calls, low, high, first: 1 / (low - 3))
    form.zero(arrays.y)
    with pytest.raises(ZeroDivisionError):
        form(np.array([0, 3, 9, CALLS]), True)
    assert not arrays.y.array[:3].any()
    np.testing.assert_array_equal(arrays.y.array[3:], before[3:])


def test_few_calls_read_weights_as_they_lie():
    arrays = Arrays("float32", OF_ALL, CALLS)
    x = View(np.ascontiguousarray(arrays.x.array), OF_ALL)
    outs = []
    for make in (core.machine.Line, lambda: line.Line(np)):
        form, out = make(), np.zeros((CALLS, 6), np.float32)
        form.segment(None)
        form.product(x, arrays.weight.T, View(out, OF_ALL))
        form(np.array([3, 9]), True)
        outs.append(out)
    np.testing.assert_array_equal(*outs)
    np.testing.assert_array_equal(outs[0][3:9], x.array[3:9] @ arrays.weight.T)


def test_calls_beyond_the_rows_are_refused():
    arrays, form = Arrays("float32", OF_ALL, CALLS), core.machine.Line()
    form.segment(None)
    form.copy(arrays.x, arrays.y)
    for edges in ([0, CALLS + 1], [-1, 3], [5, 3]):
        with pytest.raises(IndexError):
            form(np.array(edges), True)
    short = core.machine.Line()
    short.segment(None)
    short.gather(arrays.x, arrays.columns, arrays.buffer, np.ascontiguousarray(arrays.at[:, :5]), arrays.widths)
    with pytest.raises(IndexError):
        short(np.array([0, 6]), True)


@pytest.mark.parametrize(
    "add",
    [
        lambda form, a: form.product(a.x, a.weight[:5], a.y),
        lambda form, a: form.product(a.x, a.weight.astype(np.float64), a.y),
        lambda form, a: form.copy(a.x, View(a.y.array[:, :2], OF_ALL)),
        lambda form, a: form.add(a.x, View(a.y.array.astype(np.float64), OF_ALL)),
        lambda form, a: form.zero(View(a.x.array[:, ::2], OF_ALL)),
        lambda form, a: form.gather(a.x, a.columns, a.buffer.astype(np.float64), a.at, a.widths),
        lambda form, a: form.gather(a.x, a.columns, a.buffer, a.at.astype(np.int32), a.widths),
    ],
)
def test_what_does_not_fit_is_refused_and_adds_nothing(add):
    arrays, form = Arrays("float32", OF_ALL, CALLS), core.machine.Line()
    form.segment(None)
    with pytest.raises((TypeError, ValueError)):
        add(form, arrays)
    before = [array.copy() for array in arrays.all()]
    form(np.array([0, CALLS]), True)
    for array, then in zip(arrays.all(), before, strict=True):
        np.testing.assert_array_equal(array, then)


def test_steps_stand_in_segments():
    arrays = Arrays("float32", OF_ALL, CALLS)
    with pytest.raises(ValueError, match="outside of a segment"):
        core.machine.Line().copy(arrays.x, arrays.y)

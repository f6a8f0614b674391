"""Types and signatures are interned, and let go: there are as many as are held, and a bounded number of recent ones."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.record import tape as tapes
from lazyflow.record.tape import Signature, Type

MOST = 128  # instead of some thousands, and so many fewer shapes show the same


def counted() -> tuple[int, int]:
    """Types and signatures that are alive."""
    gc.collect()
    found = gc.get_objects()
    return sum(type(o) is Type for o in found), sum(type(o) is Signature for o in found)


def program(size: int, weight: lf.Parameter) -> lf.Expr:
    x = lf.constant(np.zeros(size, np.float32))
    y = lf.tanh(x) * 2.0 + x
    first, second = lf.split(lf.concatenate([y, y]), 2)
    return lf.sum(lf.stack([first, second])[0][: size // 2] - y[0]) * weight


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tapes, "MOST_INTERNED", MOST)


@pytest.mark.host  # counts what is held of thousands of shapes
def test_shapes_that_nobody_holds_any_more_are_let_go(bounded: None) -> None:
    weight = lf.Parameter(np.ones((), np.float32))
    kept = [program(size, weight) for size in (3, 5, 7)]
    before, numbers = counted(), len(tapes._SIGNATURES)
    for size in range(1, 2000):
        root = program(size, weight)
        if size % 50 == 0:
            root.backward()
    types, signatures = counted()
    assert types < before[0] + 8 * MOST and signatures < before[1] + 16 * MOST  # of 24,000
    assert len(tapes._SIGNATURES) < numbers + 16 * MOST
    assert [float(e.numpy()) for e in kept] == [0.0] * 3


def test_shapes_of_what_reads_a_parameter_are_let_go_while_it_lives(bounded: None) -> None:
    weight = lf.Parameter(np.ones((2, 2), np.float32))
    bias = lf.Parameter(np.ones(2, np.float32))

    def use(size: int) -> None:
        x = lf.constant(np.zeros((size, 2), np.float32))
        lf.affine(weight, bias, x)
        lf.tanh(x) @ weight

    before = counted()[1]
    for size in range(1, 16 * MOST):
        use(size)
    assert len(weight.type.signatures) <= 3 * MOST
    assert counted()[1] < before + 6 * MOST


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are emptied at every second new entry: each program below is recorded across many sweeps."""
    monkeypatch.setattr(tapes, "MOST_INTERNED", 1)


def test_an_open_tape_keeps_what_it_holds_across_sweeps(few: None) -> None:
    def parts(size: int) -> list[lf.Expr]:
        x = lf.constant(np.arange(float(size)))
        return [lf.sum(lf.tanh(x) * x), lf.sum(x[1:] * 2.0), lf.max(x), lf.sum(lf.split(lf.concatenate([x, x]), 2)[1])]

    found = [e for size in range(2, 40) for e in parts(size)]
    for _ in range(100):
        lf.sum(lf.constant(np.zeros(200)) + 1.0)
    expected = [
        value
        for x in (np.arange(float(size)) for size in range(2, 40))
        for value in (np.sum(np.tanh(x) * x), 2 * x[1:].sum(), x.max(), x.sum())
    ]
    np.testing.assert_allclose([float(e.numpy()) for e in found], expected, rtol=1e-12)


def test_what_is_equal_stays_one_while_anybody_holds_it(few: None) -> None:
    """So nodes that were recorded before and after a sweep still share a launch."""
    x = [lf.constant(np.full(3, float(i))) for i in range(8)]
    found = []
    for i, e in enumerate(x):
        found.append(lf.tanh(e))
        lf.exp(lf.constant(np.zeros((i + 2, 5))))  # new types: the tables are emptied
    assert len({id(e.type) for e in [*x, *found]}) == 1
    assert lf.explain(found).launches <= 3


def test_gradients_across_sweeps(few: None) -> None:
    w = lf.Parameter(np.array([0.5, -1.0]))
    for size in range(1, 20):
        lf.sum(lf.constant(np.ones((size, 2))) * w).backward()
    np.testing.assert_array_equal(w.grad, np.full(2, float(sum(range(1, 20)))))


def test_cells_across_sweeps(few: None) -> None:
    w = lf.Parameter(np.array(2.0))

    @lf.cell
    def step(x: lf.Expr) -> tuple[lf.Expr, lf.Expr]:
        return lf.tanh(x) * w, x + 1.0

    for size in range(1, 12):
        a, b = step(lf.constant(np.ones(size)))
        c, d = step(a + b)
        lf.sum(c * d).backward()
        np.testing.assert_allclose(c.numpy(), 2 * np.tanh(2 * np.tanh(np.ones(size)) + 2))
    x, first = 2.0, np.tanh(1.0)
    u = x * first + 2.0
    slope = sum(range(1, 12)) * (np.tanh(u) * (u + 1) + x * first * ((1 - np.tanh(u) ** 2) * (u + 1) + np.tanh(u)))
    np.testing.assert_allclose(w.grad, slope, rtol=1e-12)


def test_a_type_dies_with_its_last_use(few: None) -> None:
    kind = weakref.ref(lf.constant(np.zeros((7, 11, 3))).type)
    for size in range(50):
        lf.constant(np.zeros((size, 13)))
    gc.collect()
    assert kind() is None


@pytest.mark.parametrize(("high", "stays"), [(3, True), (50, False)], ids=["a few rows", "many rows"])
def test_what_runs_have_left_is_forgotten_where_there_is_something(high: int, stays: bool) -> None:
    x = lf.constant(np.ones(2))
    for _ in range(100):
        x = lf.tanh(x)
    tape = x.tape
    assert tape.computed is None and tape.runs == [] and not tape.has_value(0)
    x.forward()
    [run] = tape.runs
    places = np.where(np.arange(len(tape)) < high, 0, -1), np.arange(len(tape)) + 5
    tape.computed = tapes.Computed([run], *places, [np.arange(high)])
    assert tape.place_of(high - 1) == (run, high + 4) and not tape.has_value(high)
    tape.forget()
    assert tape.runs == [] and not any(tape.has_value(row) for row in range(len(tape)))
    assert (tape.computed is not None) == stays


def test_columns_of_signatures_are_of_one_length_where_memory_ran_out_in_the_middle(monkeypatch) -> None:
    longer = tapes.array("i", [*tapes._ROWS, 0])
    monkeypatch.setattr(tapes, "_ROWS", longer)
    monkeypatch.setattr(tapes, "_columns", [])
    found = tapes.signature_columns()
    assert {len(column) for column in found} == {len(tapes._SIGNATURES)}


def test_a_place_that_there_is_not_is_an_error() -> None:
    x = lf.constant(np.ones(2))
    with pytest.raises(AssertionError, match="nothing of it was computed"):
        x.tape.place_of(x.row)

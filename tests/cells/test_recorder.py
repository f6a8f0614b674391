"""What a call records: its results in their structure, its payload, and the limits of its indices."""

import collections
import itertools
import sys
from typing import NamedTuple

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn

Answer = collections.namedtuple("Answer", "h c")
X, Y = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.25, -0.5])


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_what_is_returned_besides_expressions():
    cell = lf.cell(lambda x, n: {"x": [x * 2, (x, None)], "n": n, "text": "yes", "pair": Answer(x + 1, 3)})
    for n in (1, 2, 1):
        found = cell(lf.constant(X), n)
        assert (found["n"], found["text"], found["x"][1][1]) == (n, "yes", None)
        assert type(found["pair"]) is Answer and found["pair"].c == 3
        close(found["x"][0].numpy(), 2 * X)
        close(found["x"][1][0].numpy(), X)
        close(found["pair"].h.numpy(), X + 1)


BIG = {
    "a float factor": (lambda x, t: x * t, (1e300, float("inf"), -0.0, 5e-324)),
    "a large factor": (lambda x, n: x * n, (3, 2**40, 7, -(2**70), 10**18)),
    "a large sum": (lambda x, n: x + n, (1, 2**31, -(2**31) - 1)),
}


@pytest.mark.parametrize("name", BIG)
def test_huge_numbers(name):
    body, numbers = BIG[name]
    cell = lf.cell(body)
    for number in (*numbers, *numbers):
        with lf.using(dtype="float64"):
            close(cell(lf.constant(X), number).numpy(), body(lf.constant(X), number).numpy())


@pytest.mark.parametrize("index", [5, -1, 2**31, 2**40])
def test_an_index_out_of_range_names_the_line_of_the_call(index):
    table = lf.Parameter(np.zeros((5, 2)))
    cell = lf.cell(lambda i: lf.embedding(table, i) * 2)
    for _ in range(2):
        with pytest.raises(IndexError, match=f"embedding.*{index}"):
            cell(index)
        for k in range(3):
            cell(k)


def test_a_class_out_of_range():
    cell = lf.cell(lambda x, y: lf.cross_entropy(x * 2, y))
    close(cell(lf.constant(X), 2).item(), lf.cross_entropy(2 * X, 2).item())
    with pytest.raises(IndexError, match="3"):
        cell(lf.constant(X), 3)
    with pytest.raises(IndexError, match="-1"):
        cell(lf.constant(X), -1)


INDEXED = {
    "embedding": lambda x, i: lf.sum(lf.embedding(lf.constant(np.eye(4, dtype=np.float32)), i) * x),
    "cross_entropy": lambda x, i: lf.cross_entropy(x, i),
    "nll": lambda x, i: lf.nll(x, i),
    "hinge": lambda x, i: lf.hinge(x, i),
    "pick": lambda x, i: lf.pick(x, i),
}


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_is_payload_and_needs_no_program_of_its_own(name):
    runs = itertools.count()

    @lf.cell
    def body(x, i):
        next(runs)
        return INDEXED[name](x, i)

    x = lf.constant([0.5, 1.0, -1.0, 2.0])
    found = lf.forward([body(x, i) for i in range(4)])
    expected = lf.forward([INDEXED[name](x, i) for i in range(4)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert next(runs) == 1


FACTOR = 1.0


class Named(NamedTuple):
    h: object
    c: object

    def scaled(self):
        return self.h * FACTOR + self.c


class Derived(collections.namedtuple("Derived", "h c")):
    def scaled(self):
        return self.h * FACTOR + self.c


class Pair(tuple):
    __slots__ = ()

    def scaled(self):
        return self[0] * FACTOR + self[1]


class Listed(list):
    __slots__ = ()

    def scaled(self):
        return self[0] * FACTOR + self[1]


PAIRS = {"named": Named._make, "derived": Derived._make, "tuple": Pair, "list": Listed}


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_tuples_and_lists_of_a_class_with_methods(make, monkeypatch):
    kind = type(make([0, 0]))
    cell = lf.cell(lambda pair: (pair.scaled(), make([pair[1], pair[0] * 2])))
    for factor in (2.0, 2.0, 3.0, 3.0, 3.0, 2.0, 2.0):
        monkeypatch.setattr(sys.modules[__name__], "FACTOR", factor)
        scaled, swapped = cell(make([lf.constant(X) * 1, lf.constant(Y)]))
        close(scaled.numpy(), X * factor + Y)
        assert type(swapped) is kind
        close([e.numpy() for e in swapped], [Y, X * 2])


def test_final_states_of_a_layer_go_into_cells_and_come_out_of_them():
    x, lstm, cell = lf.constant(X), nn.LSTM(3, 2), nn.LSTMCell(3, 2)
    _, states = lstm([x, x])
    h, _ = cell(x, states[-1])
    want, _ = cell(x, tuple(states[-1]))
    close(h.numpy(), want.numpy())
    kept = lf.cell(lambda states: (states[0][0] * 2, states))(states)
    close(kept[0].numpy(), states[0][0].numpy() * 2)
    assert type(kept[1]) is type(states) and type(kept[1][0]) is type(states[0])
    _, encoded = lf.cell(lambda *xs: lstm(xs))(x, x)
    close(encoded[0][1].numpy(), states[0][1].numpy())

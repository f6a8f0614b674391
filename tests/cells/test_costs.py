"""What every call of a cell compares with what it was: how often it is looked through in Python, and what is said."""

import collections
import gc
import sys
import warnings
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.cells import recorder, visible

cells = sys.modules["lazyflow.cells.cell"]
X = np.array([0.5, -1.0, 2.0], np.float32)
WEIGHTS = [lf.Parameter(X), lf.Parameter(2 * X)]


class Plain:
    def __init__(self):
        self.scale = 3.0


PLAIN = Plain()

# What is held; how much of it a body reads; what changes it, in place.
HELD = {
    "an array": (lambda: np.arange(1.0, 9), lambda h: float(h[2]), lambda h: h.__setitem__(2, 7.0)),
    "a large array": (lambda: np.arange(1.0, 6000), lambda h: float(h[2]), lambda h: h.__setitem__(2, 7.0)),
    "an array with gaps": (lambda: np.arange(1.0, 900)[::2], lambda h: float(h[2]), lambda h: h.__setitem__(2, 7.0)),
    "an array of dates": (
        lambda: np.array(["2020-01-01", "2021-01-03"], "M8[D]"),
        lambda h: float((h[1] - h[0]).astype(int)),
        lambda h: h.__setitem__(0, np.datetime64("2020-05-05")),
    ),
    "a list": (lambda: [float(k) for k in range(300)], lambda h: h[7], lambda h: h.__setitem__(7, 9.5)),
    "a dict": (lambda: {k: k + 0.5 for k in range(300)}, lambda h: h[7], lambda h: h.__setitem__(7, 9.5)),
    "a nested list": (lambda: [[1.0, 2.0], [3.0, 4.0]], lambda h: h[1][0], lambda h: h[1].__setitem__(0, 9.5)),
    "lists in a dict": (lambda: {"a": ([1.0], 2.0)}, lambda h: h["a"][0][0], lambda h: h["a"][0].__setitem__(0, 9.5)),
    "arrays in a list": (lambda: [np.ones(3), np.ones(2)], lambda h: float(h[0][1]), lambda h: h[0].__setitem__(1, 5)),
    "a set": (lambda: {1.0, 2.0}, lambda h: sum(h), lambda h: h.add(5.0)),
    "a deque": (lambda: collections.deque([1.0, 2.0]), lambda h: sum(h), lambda h: h.append(5.0)),
    "a dict with an order": (
        lambda: collections.OrderedDict(a=2.0, b=3.0),
        lambda h: next(iter(h.values())),
        lambda h: h.move_to_end("a"),
    ),
    "a list of objects": (lambda: [Plain(), Plain()], lambda h: h[1].scale, lambda h: setattr(h[1], "scale", 5.0)),
    "a list of functions": (lambda: [lf.tanh, abs], lambda h: h[1](2.0), lambda h: h.__setitem__(1, lambda x: x + 1)),
    "an object that goes": (
        lambda: [Plain()],
        lambda h: 1.0 if h[0] is None else 2.0,
        lambda h: h.__setitem__(0, None),
    ),
    "parameters": (lambda: list(WEIGHTS), lambda h: h[0], lambda h: h.__setitem__(0, WEIGHTS[1])),
    "modules": (lambda: [nn.Linear(3, 3)], lambda h: h[0].bias, lambda h: h.__setitem__(0, nn.Linear(3, 3))),
    "a number of NumPy's": (lambda: [np.float32(2)], lambda h: float(h[0]), lambda h: h.__setitem__(0, np.float32(3))),
}  # fmt: skip


def called(cell, times):
    for _ in range(times):
        cell(lf.constant(X))


def looked_through(monkeypatch):
    """A list that grows whenever all that a cell sees is looked through in Python."""
    found, see = [], cells.see
    monkeypatch.setattr(cells, "see", lambda *arguments: found.append(1) or see(*arguments))
    return found


@pytest.mark.parametrize("compiled", [True, False], ids=["as it is", "in Python"])
@pytest.mark.parametrize("name", HELD)
def test_what_is_as_it_was_is_not_looked_through(monkeypatch, name, compiled):
    if not compiled:
        monkeypatch.setattr(recorder, "same_contents", visible._same_contents)
        monkeypatch.setattr(visible, "same_content", visible._same_content)
    make, read, change = HELD[name]
    held = make()
    times, body = [], lambda x: times.append(1) or x * read(held)
    cell = lf.cell(body)
    for _ in range(3):
        np.testing.assert_array_equal(cell(lf.constant(X)).numpy(), (lf.constant(X) * read(held)).numpy())
    looks, runs = looked_through(monkeypatch), len(times)
    for _ in range(5):
        cell(lf.constant(X))
    assert (len(looks), len(times)) == (0, runs)
    change(held)
    np.testing.assert_array_equal(cell(lf.constant(X)).numpy(), (lf.constant(X) * read(held)).numpy())
    assert looks


def test_a_weak_reference_that_is_dead_is_not_none():
    gone = Plain()
    parts = (weakref.ref(gone),)
    del gone
    for same in {visible._same_contents, visible.same_contents}:
        assert not same((([None], parts),), ())


def test_what_a_cell_has_seen_does_not_keep_its_object_alive():
    class Model(nn.Module):
        @lf.cell
        def forward(self, x):
            return x * self.held[0].scale

    model = Model()
    inner = Plain()
    inner.owner, model.held = model, [inner]
    for _ in range(3):
        model(lf.constant(X))
    gone = weakref.ref(model)
    del model, inner
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("method", [False, True])
def test_an_argument_that_the_body_does_not_use(monkeypatch, method):
    times = []

    class Step:
        @lf.cell
        def __call__(self, a, b, c=None):
            times.append(1)
            return lf.tanh(b) * 2

    step = Step() if method else lf.cell(lambda a, b, c=None: times.append(1) or lf.tanh(b) * 2)
    x, y = lf.constant(X), lf.constant(2 * X)
    earlier = y * 2
    earlier.numpy()
    calls = [(x, y), (x, y, x), (np.ones(3, "f4"), y), (earlier, y), (lf.constant(np.ones((2, 2))), y), (x, earlier)]
    for _ in range(3):
        for arguments in calls:
            step(*arguments)
    looks, runs = looked_through(monkeypatch), len(times)
    for arguments in calls * 3:
        np.testing.assert_allclose(step(*arguments).numpy(), 2 * np.tanh(arguments[1].numpy()), rtol=1e-6)
    assert (len(looks), len(times)) == (0, runs)


def test_of_a_large_array_it_is_said_once_what_it_costs():
    table = np.ones(20_000)

    def scaled(x):
        return x * float(table[3])

    cell = lf.cell(scaled)
    with pytest.warns(RuntimeWarning, match=r"scaled: reads an array of 160,000 bytes as 'table'") as said:
        called(cell, 40)
    assert len(said) == 1 and said[0].filename == __file__


DEAR = {
    "a defaultdict": (lambda: collections.defaultdict(int, a=2.0), lambda h: h["a"], "defaultdict as 'held'"),
    "a weak reference": (lambda: weakref.ref(PLAIN), lambda h: h().scale, "ReferenceType as 'held'"),
    "more than is watched": (lambda: [1.0] * 5000, lambda h: h[3], "more than 4,096 values"),
}


@pytest.mark.parametrize("name", DEAR)
def test_what_has_to_be_looked_through_is_said_once(name):
    make, read, text = DEAR[name]
    held = make()

    cell = lf.cell(lambda x: x * read(held))
    with pytest.warns(RuntimeWarning, match=text) as said:
        called(cell, 300)
    assert len(said) == 1


def test_nothing_is_said_of_what_costs_little():
    table, numbers = np.ones(1000), {k: [k] for k in range(300)}
    cell = lf.cell(lambda x: x * float(table[3]) * numbers[3][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        called(cell, 300)

"""Streams: numbers depend on a seed and a count, whoever draws, in whatever batch."""

import copy
import pickle

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp
from lazyflow.random import Stream
from lazyflow.settings import BATCHINGS
from tests.interrupts import bytecodes, meanwhile


def every(function, files, most=24):
    """Places to stop a function at: at most so many of its bytecodes in these files, evenly spaced."""
    count = bytecodes(function, files)
    assert count
    return range(0, count, max(1, count // most))


def test_draws_of_several_threads_differ():
    stream = Stream(3)
    found = []

    def draw():
        found.append(stream.draw())

    places = every(draw, ("random.py",))
    before = len(found)
    for k in places:
        meanwhile(draw, k, draw, ("random.py",))
    assert len(set(found)) == len(found) == stream.count == before + 2 * len(places)


def test_a_stream_is_copied_with_its_count():

    stream = Stream(3)
    stream.draw()
    for again in (copy.copy(stream), copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert again.state_dict() == stream.state_dict() and again.draw() == (3, 2)
    assert stream.count == 1


DRAWS = {
    "normal": lambda r, **k: r.normal(1.0, 2.0, (3, 2), **k),
    "standard_normal": lambda r, **k: r.standard_normal(5, **k),
    "randn": lambda r, **k: r.randn(2, 3, **k),
    "uniform": lambda r, **k: r.uniform(1.0, 2.0, 4, **k),
    "rand": lambda r, **k: r.rand(4, **k),
    "random": lambda r, **k: r.random(4, **k),
    "randint": lambda r, **k: r.randint(0, 100, 9, **k),
    "permutation": lambda r, **k: r.permutation(20, **k),
    "choice": lambda r, **k: r.choice(np.arange(50), 9, replace=False, **k),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_numbers_depend_on_stream_and_count_alone(name):
    first, again, other = (anp.random.Stream(seed) for seed in (1, 1, 2))
    draws = [DRAWS[name](anp.random, stream=s) for s in (first, again, other, first)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2]) and not np.array_equal(draws[0], draws[3])
    anp.random.seed(1)
    np.testing.assert_array_equal(DRAWS[name](anp.random), draws[0])
    assert set(DRAWS) == set(anp.random.__all__) - {"Stream", "seed"}


@pytest.fixture
def w():
    return lf.Parameter(np.array([1.0, -2.0, 3.0]))


def test_dropout_draws_anew_for_every_node_and_forward_but_not_between_forward_and_backward():
    lf.seed(3)
    w = lf.Parameter(np.ones(1000))
    a, b = (lf.sum(lf.dropout(w * 1.0, 0.5)) for _ in range(2))
    first = a.forward().item(), b.forward().item()
    assert first[0] != first[1]
    a.backward()
    assert w.grad.sum() == first[0]
    w.touch()
    assert a.forward().item() != first[0]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_random_numbers_do_not_depend_on_batching(batching):
    lf.seed(5)
    with lf.using(batching=batching):
        drawn = lf.forward([lf.normal((3,)), lf.uniform((2,), -1, 1), lf.normal((3,))])
    lf.seed(5)
    again = [lf.normal((3,)).numpy(), lf.uniform((2,), -1, 1).numpy(), lf.normal((3,)).numpy()]
    for a, b in zip(drawn, again, strict=False):
        np.testing.assert_array_equal(a, b)

"""What a forward is asked for: which roots lack a value, which run together, and who holds others."""

import gc
import threading

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.core.columns import Counts
from lazyflow.graph.reading import readings_of
from lazyflow.locks import owner
from lazyflow.run import roots
from lazyflow.run.way import others_held

counted = pytest.mark.skipif(Counts() is None, reason="in Python nobody counts expressions")


def test_parameters_have_their_values_and_others_are_no_roots():
    w = lf.Parameter([1.0])
    x = w * 2
    assert roots.to_run([w, x, w]) == [x]
    with pytest.raises(TypeError, match="expected an expression, got int"):
        roots.to_run([x, 3])


def test_what_has_a_value_is_not_missing():
    x = lf.constant([1.0])
    first, second = lf.tanh(x), lf.exp(x)
    assert roots.missing([first, second]) == [first, second]
    first.forward()
    assert roots.missing([first, second]) == [second]
    assert roots.runs_of([second]) == []
    (run,) = roots.runs_of([first, second, first])
    assert run is first.tape.place_of(first.row)[0]


def test_those_with_gradients_and_those_without_do_not_run_together():
    w = lf.Parameter([1.0])
    first = w * 2
    with lf.no_grad():
        second = w * 3
    third = w * 4
    assert roots.alike([first, second, third]) == [first, third]
    assert roots.alike([second, first]) == [second]


def test_the_owners_are_those_of_all_roots():
    mine = lf.constant([1.0]) * 2
    found = []
    thread = threading.Thread(target=lambda: found.append((lf.constant([1.0]) * 2, owner())))
    thread.start()
    thread.join()
    (theirs, other) = found[0]
    assert roots.owners_of([mine, lf.Parameter([1.0]), 3]) == {owner()}
    assert roots.owners_of([mine, theirs, mine]) == {owner(), other}
    assert roots.owners_of([]) == frozenset()


@counted
def test_others_are_held_while_somebody_has_an_expression_of_another_row():
    with lf.no_grad():
        x = lf.constant([1.0])
        middle = lf.tanh(x)
        root = lf.exp(middle)
    readings = readings_of([root], anew=False)
    assert others_held([root], readings)
    del x
    assert others_held([root], readings)
    assert not others_held([root, middle], readings)
    del middle
    gc.collect()
    assert not others_held([root], readings)
    assert not others_held([root, root], readings)


def test_values_are_copies():
    x, w = lf.constant([[1.0, 2.0]]), lf.Parameter([3.0])
    found = [lf.tanh(x), lf.exp(x)[0, 1], lf.argmax(x, axis=1), w * 2]
    lf.forward(found)
    expected = [np.tanh([[1.0, 2.0]]), np.exp(2.0), [1], [6.0]]
    for k, value in enumerate(roots.copies(found)):
        np.testing.assert_allclose(value, expected[k], rtol=1e-6)
        assert value.shape == found[k].shape and value.dtype == found[k].dtype
        value[...] = 0
    assert found[3].item() == 6.0


@pytest.mark.parametrize("root", [lf.Parameter([1.0]), None])
@pytest.mark.parametrize("function", [roots.missing, roots.runs_of, roots.traced, roots.copies])
def test_what_is_no_root_is_an_error_and_no_crash(function, root):
    with pytest.raises(AttributeError):
        function([root])

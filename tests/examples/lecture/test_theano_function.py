"""One graph, run many times, against autograd on the same data."""

import re

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.examples import names


@pytest.fixture(scope="module")
def program():
    return names("theano_function")


def test_the_graph_is_defined_once(program):
    points, labels = program["data"](20, 3)
    model = program["LogisticRegression"](20, 3)
    recorded = len(model.cost.tape)
    costs = [model.train(points, labels)[0].item() for _ in range(30)]
    assert costs == sorted(costs, reverse=True)
    assert len(model.cost.tape) == recorded
    (predicted,) = model.predict(points)
    assert (predicted == labels).mean() > 0.8
    assert "10 to compute" in str(lf.explain(model.cost))


def test_the_plan_is_taken_from_those_kept(program):
    points, labels = program["data"](20, 3)
    model = program["LogisticRegression"](20, 3)
    for _ in range(2):  # a structure's plan is kept when it comes by for the second time
        model.train(points, labels)
    before = lf.explain(model.cost).plans
    for _ in range(10):
        model.train(points, labels)
    after = lf.explain(model.cost).plans
    assert (after.hits - before.hits, after.misses - before.misses) == (10, 0)


def test_data_of_another_shape_is_refused(program):
    model = program["LogisticRegression"](20, 3)
    with pytest.raises(lf.ShapeError, match=r"has shape \(20, 3\), got \(5, 3\)"):
        model.train(*program["data"](5, 3))


@pytest.mark.peer
def test_the_same_numbers_as_autograd(program):
    autograd = pytest.importorskip("autograd", reason="compared with autograd (extra 'peers')")
    anp = pytest.importorskip("autograd.numpy")
    points, labels = program["data"](50, 4)
    model = program["LogisticRegression"](50, 4)
    ours = [model.train(points, labels)[0] for _ in range(25)]

    def cost(w, b):
        scores = anp.dot(points, w) + b
        entropy = anp.logaddexp(0, scores) - scores * labels
        return anp.mean(entropy) + 0.01 * anp.sum(w**2)

    w, b, theirs = np.zeros(4), 0.0, []
    for _ in range(25):
        theirs.append(cost(w, b))
        gw, gb = autograd.grad(cost, (0, 1))(w, b)
        w, b = w - 0.1 * gw, b - 0.1 * gb
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    np.testing.assert_allclose(model.w.numpy(), w, rtol=1e-9)
    np.testing.assert_allclose(model.b.numpy(), b, rtol=1e-9)


def test_main_runs(program, capsys):
    program["main"]()
    printed = capsys.readouterr().out
    assert re.search(r"plans kept: [1-9]\d* hits", printed)
    assert "accuracy 0.9" in printed

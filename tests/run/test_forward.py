"""From roots to what is noted on their tapes: what was recorded before is neither collected nor planned, and what a run
has of its own, tapes, earlier values and payload, stays its own."""

from itertools import pairwise

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.plan.plans import Plans
from lazyflow.run import forward


@pytest.fixture
def collected(monkeypatch):
    """The graphs that were made, with plans of one's own that are kept at once."""
    graphs, collect = [], forward.collect

    def noted(*args, **kwargs):
        graphs.append(collect(*args, **kwargs))
        return graphs[-1]

    monkeypatch.setattr(forward, "PLANS", Plans(once=True))
    monkeypatch.setattr(forward, "collect", noted)
    return graphs


def test_a_chain_of_small_runs_is_planned_once(collected):
    W, start = np.eye(3, dtype="f4")[::-1] * 0.5, np.array([1.0, 2.0, 3.0], "f4")
    w, h, expected = lf.Parameter(W), lf.constant(start), start
    for _ in range(6):
        h, expected = lf.matmul(w, h) + 1.0, W @ expected + 1
        assert h[0].item() == expected[0]
    assert len(collected) == 2  # from a constant, and from a value
    runs = [h.tape.runs[0]]
    while runs[-1].known_runs:
        runs.append(runs[-1].known_runs[0])
    assert len(runs) == 6
    assert len({id(run.plan) for run in runs[:4]}) == 4  # each with a number of its own
    assert len({id(run.plan.first or run.plan) for run in runs[:4]}) == 1
    for run, earlier in pairwise(runs):
        assert run.graph.known_run == (earlier,) and [t() for t in run.graph.tapes] == [t() for t in run.tapes]


def test_runs_without_payload_share_the_plan_and_not_their_values(collected):
    w, values = lf.Parameter(np.ones((2, 2))), ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    held = []
    for v in values:
        with lf.using():
            held.append(lf.tanh(lf.matmul(w, lf.constant(np.array(v) / 10))))
            held[-1].forward()
    plans = {id(h.tape.runs[0].plan) for h in held}
    assert len(plans) <= 2 and len({id(h.tape.runs[0]) for h in held}) == 3
    for h, v in zip(held, values, strict=True):
        np.testing.assert_allclose(h.numpy(), np.tanh(np.full(2, sum(v) / 10)), rtol=1e-6)


@pytest.mark.parametrize("grad", [True, False])
def test_what_was_recorded_before_differs_in_what_is_read_of_it(collected, grad):
    """Roots, known rows and imports are part of what a plan is kept by."""
    w = lf.Parameter(np.full(2, 2.0))

    def asked(which):
        with lf.using(grad=grad):
            x = lf.constant([1.0, 3.0]) * w
            x.forward()
            a, b = x + 1.0, x * x
            found = {"a": [a], "b": [b], "both": [a, b], "turned": [b, a]}[which]
            return [v.tolist() for v in lf.forward(found)]

    expected = {"a": [[3, 7]], "b": [[4, 36]], "both": [[3, 7], [4, 36]], "turned": [[4, 36], [3, 7]]}
    for _ in range(3):
        for which, values in expected.items():
            assert asked(which) == values

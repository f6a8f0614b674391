"""`lf.compare`: what it says is so, and what it refuses."""

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core, optim
from lazyflow.inspect.compared import HEADER
from lazyflow.profile import Profile
from lazyflow.settings import BATCHINGS
from tests.inspect.tagger import QUICK, SENTENCES

# What it says.


@pytest.mark.parametrize("train", [True, False])
def test_rows_are_what_was_asked_for(model, train):
    found = lf.compare(model.loss, SENTENCES, batch=(2, 4), modes=("none", "depth"), train=train, **QUICK)
    assert [(row.batch, row.batching) for row in found.rows] == [(2, "none"), (2, "depth"), (4, "none"), (4, "depth")]
    assert (found.train, found.updated, found.examples, found.notes) == (train, False, 7, found.notes)
    for row in found.rows:
        assert len(row.rounds) == 5 and min(row.rounds) > 0
        assert set(row.ms) == {"record", "schedule", "forward", *(["backward"] if train else [])}
        assert min(row.ms.values()) > 0 and row.examples_per_s > 0
        assert row.lower_bound <= row.launches <= row.nodes
        assert (row.gradients_differ is None) == (not train)


@pytest.fixture
def ticking(monkeypatch):
    """A clock that goes on by a second whenever it is asked."""
    clock = itertools.count().__next__
    monkeypatch.setattr(sys.modules["lazyflow.inspect.compare"], "Profile", lambda: Profile(clock))


@pytest.mark.parametrize("train", [True, False])
def test_the_parts_of_a_round_are_all_of_it(model, ticking, train):
    found = lf.compare(model.loss, SENTENCES[2:3] * 4, batch=(2, 4), modes=("none", "depth"), train=train, **QUICK)
    for row in found.rows:
        assert len({*row.rounds}) == 1, "rounds of equal steps"
        assert sum(row.ms.values()) == pytest.approx(1e3 / row.examples_per_s, rel=1e-12)


def test_a_round_is_all_of_its_steps():
    steps = [{"record": 1.0, "forward": 2.0}, {"record": 3.0}]
    found = sys.modules["lazyflow.inspect.compare"]._Round.of(steps, 4)
    assert found.per_s == pytest.approx(4 / 6) and found.ms == {"record": 1000.0, "forward": 500.0}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("mode", BATCHINGS)
def test_values_are_those_of_one_example_at_a_time(model, mode, train):
    (row,) = lf.compare(model.loss, SENTENCES, batch=7, modes=[mode], train=train, **QUICK).rows
    assert row.differs < 1e-5


@pytest.mark.parametrize("train", [True, False])
def test_losses_that_decide_are_batched_between_their_questions(train):
    pytest.importorskip("greenlet")
    lf.seed(2)
    w = lf.Parameter(np.random.default_rng(0).normal(size=(3, 3)), name="w")

    def loss_of(x):  # draws too: an example's draws are its own, however examples are batched
        h, count = lf.constant(x), 0
        while lf.sum(h * h) > 0.5 and count < 6:
            h, count = lf.tanh(w @ lf.dropout(h, 0.3)) * 0.8, count + 1
        return lf.sum(lf.tanh(w @ h))

    examples = [np.random.default_rng(k).normal(size=3) * (1 + k % 4) for k in range(8)]
    with lf.rounds() as seen:
        rows = lf.compare(loss_of, examples, batch=(1, 8), train=train, **QUICK).rows
    assert all(row.differs is not None and row.differs < 1e-5 for row in rows)
    assert max(r.examples for r in seen.seen) == 8, "all of a minibatch ask together"
    assert {r.examples for r in seen.seen} >= {1, 8}
    assert w.grad is None
    with lf.rounds() as seen:
        lf.compare(loss_of, examples, batch=8, modes="none", train=train, **QUICK)
    assert not seen.seen, "unbatched they ask one after another, in no rounds"


@pytest.mark.skipif(core.passes is None, reason="chains are of the core")
@pytest.mark.parametrize("train", [True, False])
def test_nodes_and_launches_of_losses_that_decide_are_those_of_all_rounds(train):
    pytest.importorskip("greenlet")
    w = lf.Parameter(np.random.default_rng(0).normal(size=(3, 3)))

    def loss_of(x):
        h, count = lf.constant(x), 0
        while lf.sum(h * h) > 0.5 and count < 6:
            h, count = lf.tanh(w @ h) * 0.8, count + 1
        return lf.sum(w @ h)

    examples = [np.random.default_rng(k).normal(size=3) * (1 + k % 4) for k in range(8)]
    none, phases = lf.compare(loss_of, examples, batch=8, train=train, **QUICK).rows
    with lf.using(grad=train), lf.rounds() as seen:
        lf.map(loss_of, examples)
    launches = [rows for r in seen.seen for _, _, rows in r.launches]
    assert len(seen.seen) > 3 and phases.launches > len(launches) >= phases.lower_bound - 1 - len(seen.seen)
    assert none.launches == none.nodes > phases.nodes > sum(launches), "phases makes chains one node"
    assert none.lower_bound > 0


def test_gradients_are_compared_by_parameter():
    """The first example of some does not reach what the first of others does."""
    w, v = lf.Parameter([1.0, 2.0]), lf.Parameter([[3.0, 4.0], [5.0, 6.0]])

    def loss(example):
        return lf.sum(w * 2.0) if example < 2 else lf.sum(v * float(example)) + lf.sum(w)

    (row,) = lf.compare(loss, [3, 1, 0, 2, 4, 1, 2], batch=7, modes="phases", **QUICK).rows
    assert row.gradients_differ < 1e-5
    values = sys.modules["lazyflow.inspect.compare"]._Values
    one = values([], {1: np.ones(2), 2: np.zeros(3)})
    other = values([], {2: np.zeros(3), 1: np.ones(2), 3: np.zeros(4)})
    assert one.differences(other) == (0.0, 0.0) and other.differences(one) == (0.0, 0.0)


def test_nodes_launches_and_bound_are_those_of_explain(model):
    model.eval()
    (row,) = lf.compare(model.scores, SENTENCES, batch=7, modes="phases", train=False, **QUICK).rows
    with lf.no_grad():
        explained = lf.explain([model.scores(s) for s in SENTENCES])
    assert (row.nodes, row.launches, row.lower_bound) == (
        explained.nodes, explained.launches, explained.lower_bound,
    )  # fmt: skip


def test_with_an_optimizer_updates_are_measured(model):
    optimizer = optim.Adam(model.parameters())
    found = lf.compare(model.loss, SENTENCES, batch=3, optimizer=optimizer, **QUICK)
    assert found.updated and all(row.ms["update"] > 0 for row in found.rows)


def test_the_default_is_none_against_the_batching_that_holds():
    w = lf.Parameter([1.0])
    with lf.using(batching="depth"):
        found = lf.compare(lambda x: lf.sum(w * x), [1.0, 2.0], batch=2, **QUICK)
    assert [row.batching for row in found.rows] == ["none", "depth"]
    assert found.rows[0].ratio == 1 and found.rows[1].ratio is not None


def test_without_none_there_are_no_ratios():
    w = lf.Parameter([1.0])
    (row,) = lf.compare(lambda x: lf.sum(w * x), [1.0, 2.0], batch=2, modes=["phases"], **QUICK).rows
    assert row.ratio is None and not row.within_noise and row.cells()[HEADER.index("ratio")] == "-"


def test_sizes_beyond_the_examples_are_all_of_them_and_that_is_said():
    w = lf.Parameter([1.0])
    found = lf.compare(lambda x: lf.sum(w * x), [1.0, 2.0, 3.0], modes=["phases"], **QUICK)
    assert [row.batch for row in found.rows] == [1, 3]
    assert "16, 64, 256 have all 3 examples" in found.notes[0]


def test_no_example_is_twice_in_a_minibatch():
    w, seen = lf.Parameter([1.0]), []
    lf.compare(lambda x: [seen.append(x), lf.sum(w * x)][1], range(4), batch=4, modes=["phases"], **QUICK)
    assert all(sorted(seen[k : k + 4]) == [0, 1, 2, 3] for k in range(4, len(seen), 4))


def test_all_modes_run_the_same_minibatches():
    w, seen = lf.Parameter([1.0]), {"none": [], "depth": []}

    def loss_of(x):
        seen[lf.settings.current().batching].append(x)
        return lf.sum(w * x)

    lf.compare(loss_of, range(9), batch=2, modes=["none", "depth"], seconds=0.01, progress=False)
    assert seen["none"][-10:] == seen["depth"][-10:]


def test_other_values_when_called_again_are_no_equality():
    w, calls = lf.Parameter([1.0]), []
    found = lf.compare(lambda x: [calls.append(x), lf.sum(w * len(calls))][1], [1, 2], batch=2, **QUICK)
    assert all(row.differs is None and row.cells()[-1] == "?" for row in found.rows)
    assert "other values when it is called again" in str(found)


def test_other_values_in_another_mode_are_said():
    w = lf.Parameter([1.0])
    found = lf.compare(
        lambda x: lf.sum(w * (1.0 if lf.settings.current().batching == "none" else 1.5)), [1, 2], batch=2, **QUICK
    )
    assert found.rows[0].differs == 0 and found.rows[1].losses_differ == found.rows[1].gradients_differ == 0.5
    assert "2 a minibatch, phases: values differ by more than rounding" in found.notes[0]


def test_nan_is_equal_to_nan_and_to_nothing_else():
    w = lf.Parameter([-1.0])
    found = lf.compare(lambda x: lf.sum(lf.log(w)), [1, 2], batch=2, train=False, **QUICK)
    assert all(row.differs == 0 for row in found.rows)


def test_a_model_that_looks_at_its_values_is_measured_whole(model):
    def loss_of(sentence):
        loss = model.loss(sentence)
        return loss * 2 if loss.item() > 1 else loss

    for row in lf.compare(loss_of, SENTENCES, batch=3, **QUICK).rows:
        assert min(row.ms[part] for part in ("record", "schedule", "forward", "backward")) > 0


def test_what_is_kept_is_computed_anew(model):
    kept = [lf.cross_entropy(model.output(model.cell(model.embedding(s[-1]))), 1) for s in SENTENCES]
    lf.forward(kept)
    none, phases = lf.compare(kept.__getitem__, range(7), batch=7, **QUICK).rows
    assert none.differs < 1e-5 > phases.differs
    before = [row.numpy() for row in kept]
    model.output.bias.assign([1.0, 2.0, 3.0])
    lf.forward(kept)
    assert all((a.numpy() != b).all() for a, b in zip(kept, before, strict=True)), "still follows the parameters"


def test_noise_is_said(model):
    (row,) = lf.compare(model.loss, SENTENCES, batch=2, modes=["none"], **QUICK).rows
    row = replace(row, batching="depth", ratios=(0.9, 0.9, 1.0, 1.1, 1.1))
    assert row.within_noise and "1.00*" in row.cells()
    assert not replace(row, ratios=(0.5, 1.1, 1.1, 1.2, 1.2)).within_noise, "one round that was disturbed says nothing"
    assert replace(row, rounds=(1.0, 9.0, 10.0, 11.0, 90.0)).spread == 0.1


# What it refuses.

W = lf.Parameter([1.0, 2.0])


def loss(x):
    return lf.sum(W * x)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("loss", [1.0]), {}, TypeError, r"loss_of must be a function of one example .*'loss'"),
        ((loss, 3), {}, TypeError, r"examples must be a list of examples.* got a int"),
        ((loss, []), {}, ValueError, r"no examples: give at least one"),
        ((loss, [1.0], 0), {}, ValueError, r"batch must be positive numbers .* got 0"),
        ((loss, [1.0], (1, -2)), {}, ValueError, r"batch must be positive numbers .* got \(1, -2\)"),
        ((loss, [1.0], ()), {}, ValueError, r"batch must be positive numbers"),
        ((loss, [1.0], (1, 2.5)), {}, ValueError, r"batch must be positive numbers"),
        ((loss, [1.0], (True,)), {}, ValueError, r"batch must be positive numbers"),
        ((loss, [1.0], "64"), {}, TypeError, r"batch must be a number of examples or several, got '64'"),
        ((loss, [1.0], 1, ["fast"]), {}, ValueError, r"modes must be of phases, .*; got 'fast'"),
        ((loss, [1.0], 1, []), {}, ValueError, r"modes must be of phases, .*; got none"),
        ((loss, [1.0]), {"rounds": 4}, ValueError, r"rounds must be a number of at least 5.*got 4"),
        ((loss, [1.0]), {"seconds": -1}, ValueError, r"seconds must be a number, 0 or more, got -1"),
        ((loss, [1.0]), {"optimizer": "adam"}, TypeError, r"optimizer must be one of lazyflow.optim.* got a str"),
        (
            (loss, [1.0]), {"optimizer": optim.SGD([W], lr=0.1), "train": False}, ValueError,
            r"inference has no update: leave optimizer away, or train=False",
        ),
        ((lambda x: 0.5, [1.0]), {}, TypeError, r"the expression of a loss, not its value .* got a float: 0\.5"),
        ((lambda x: W, [1.0]), {}, TypeError, r"not its value or a parameter; got a Parameter"),
        ((lambda x: None, [1.0]), {}, TypeError, r"got a NoneType"),
        ((lambda x: W * x, [1.0]), {}, lf.ShapeError, r"one element, got shape \(2,\): return lf\.sum\(x\)"),
        ((lambda x: lf.constant(x) + 1, [1.0]), {}, lf.GradientError, r"reach a parameter .* pass train=False"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_fix(arguments, options, error, message):
    with pytest.raises(error, match=message):
        lf.compare(*arguments, **{**QUICK, **options})


def test_not_in_a_cell():
    @lf.cell
    def body(x):
        lf.compare(loss, [1.0], **QUICK)
        return x

    with pytest.raises(lf.CellError, match=r"call lf\.compare outside"):
        body(lf.constant([1.0]))


def test_errors_of_the_model_come_through(model):
    with pytest.raises(IndexError, match="index 99 is out of range"):
        lf.compare(model.loss, [[0], [99]], batch=2, **QUICK)


def test_under_no_grad_it_still_trains():
    with lf.no_grad():
        assert lf.compare(loss, [1.0], batch=1, **QUICK).train

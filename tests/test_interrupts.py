"""After an interrupt before any bytecode, the same program gives the right values: nothing is torn, lost or locked."""

import functools
import threading

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import data, locks, nn, optim, settings
from lazyflow.plan.arena import POOL
from lazyflow.run.forward import PLANS
from lazyflow.settings import Settings
from tests.interrupts import bytecodes, interrupted

# One that comes in a callback of a weak reference cannot be caught by anybody; Python prints it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
X = np.linspace(-1.0, 1.0, 3)


def every(program, most):
    """Bytecodes to interrupt a program at: at most so many, evenly spaced. It has run before, so it does the same."""
    program()
    program()
    count = bytecodes(program)
    return range(0, count, max(1, count // most))


def check_nothing_is_left(where):
    assert settings.current() == Settings(), where
    left = []

    def look():
        for lock in [found.inner for r in locks._locks if (found := r()) is not None]:
            if lock.acquire(blocking=False):
                lock.release()
            else:
                left.append(lock)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert not left, where


class Program:
    """Two minibatches of a small model, with what there is to record: cells, views, lists, indices, blocks."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.w = lf.Parameter(rng.normal(size=(3, 3)))
        self.b = lf.Parameter(rng.normal(size=3))
        self.table = lf.Parameter(rng.normal(size=(5, 3)))
        self.cell = lf.cell(lambda x, h: lf.tanh(lf.affine(self.w, self.b, x) + h))

    def record(self):
        h = lf.constant(X)
        for k in range(4):
            h = self.cell(lf.embedding(self.table, k), h) * 2.0 + lf.concatenate([h[0:1], lf.split(h, 3)[1], h[2:]])
        return lf.sum([lf.sum(h), lf.mean(lf.stack([h, lf.tanh(h), h.detach()]))])

    def __call__(self):
        for p in (self.w, self.b, self.table):
            p.zero_grad()
        loss = self.record()
        with lf.no_grad():
            value = self.record().item()
        middle = lf.tanh(loss)
        assert middle.item() <= 1.0
        loss.backward()
        return [value, loss.item(), *(dense(p.grad) for p in (self.w, self.b, self.table))]


def dense(gradient):
    return gradient.to_dense() if hasattr(gradient, "to_dense") else gradient


def test_a_program_that_is_interrupted_and_run_again():
    program = Program()
    expected = program()
    for k in every(program, 60):
        where = interrupted(program, k)
        check_nothing_is_left(where)
        for found, right in zip(program(), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-9, err_msg=str(where))


def test_a_recording_that_goes_on_after_an_interrupt_is_right_or_refused():
    program, kept = Program(), []
    expected = program()[1]

    def record():
        kept[:] = [program.record()]

    outcomes = set()
    for k in every(record, 60):
        x = lf.constant(X)  # an expression of the tape that the interrupted recording goes on
        kept.clear()
        where = interrupted(record, k)
        y = lf.tanh(x) * 3.0
        try:
            np.testing.assert_allclose(y.numpy(), 3 * np.tanh(X), err_msg=str(where))
            if kept:
                np.testing.assert_allclose(kept[0].item(), expected, err_msg=str(where))
            outcomes.add("right")
        except lf.TornError:
            outcomes.add("refused")
        np.testing.assert_allclose(program.record().item(), expected)
    assert "right" in outcomes


@pytest.mark.parametrize("hooks", [False, True])
def test_an_interrupted_forward_and_backward_of_a_kept_root(hooks):
    program = Program()
    root = program.record()
    if hooks:
        root = lf.sum(program.record() * 1.0)
        root.retain_grad()

    def run():
        program.w.touch()
        root.forward()
        root.backward()

    run()
    program.w.grad = program.b.grad = program.table.grad = None
    root.backward()
    once, before = program.w.grad, program.w.numpy()
    for k in every(run, 40):
        program.w.assign(before * 2.0)
        root.forward()
        program.w.assign(before)
        program.w.grad = None
        where = interrupted(run, k)
        check_nothing_is_left(where)
        steps = 0 if program.w.grad is None else 1
        if steps:
            np.testing.assert_allclose(program.w.grad, once, rtol=1e-9, err_msg=str(where))
        root.forward()
        root.backward()
        np.testing.assert_allclose(program.w.grad, (1 + steps) * once, rtol=1e-9, err_msg=str(where))


@pytest.mark.parametrize("make", [lambda p: optim.Adam(p, lr=0.1), lambda p: optim.SGD(p, lr=0.1, momentum=0.9)])
def test_an_interrupted_step_is_whole_or_refused(make):
    start = [np.ones(3), np.full((2, 2), 2.0)]

    def fresh():
        parameters = [lf.Parameter(value) for value in start]
        for p in parameters:
            p.grad = np.full(p.shape, 0.5)
        return parameters, make(parameters)

    parameters, optimizer = fresh()
    optimizer.step()
    after = [p.numpy() for p in parameters]
    outcomes = set()
    for k in every(lambda: fresh()[1].step(), 100):
        parameters, optimizer = fresh()
        state = optimizer.state_dict()
        seen = [lf.sum(p * p).forward() for p in parameters]
        where = interrupted(optimizer.step, k)
        values = [p.numpy() for p in parameters]
        if all((v == s).all() for v, s in zip(values, start, strict=True)) and not optimizer._torn:
            outcomes.add("not begun")
            optimizer.step()
        elif not optimizer._torn:
            outcomes.add("done")
        else:
            outcomes.add("refused")
            for refused in (optimizer.step, optimizer.state_dict):
                with pytest.raises(lf.TornError, match="was cut off"):
                    refused()
            for p, value, loss in zip(parameters, start, seen, strict=True):
                assert loss.forward().item() == pytest.approx((p.numpy() ** 2).sum())  # nothing is taken for fresh
                p.assign(value)
            optimizer.load_state_dict(state)
            optimizer.step()
        for p, value in zip(parameters, after, strict=True):
            np.testing.assert_array_equal(p.numpy(), value, err_msg=str(where))
    assert {"not begun", "refused"} <= outcomes


def test_an_interrupted_load_changes_all_or_nothing():
    old = {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    new = {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)}
    model = nn.Linear(3, 2)
    model.load_state_dict(old)
    for k in every(lambda: model.load_state_dict(old), 200):
        model.load_state_dict(old)
        where = interrupted(lambda: model.load_state_dict(new), k)
        assert {float(v) for p in model.parameters() for v in p.numpy().ravel()} in ({0.0}, {1.0}), where


def test_interrupted_batches_skip_and_repeat_no_epoch():
    def fresh():
        return data.batches(range(7), 3, shuffle=True, seed=1)

    epoch = list(fresh())
    for k in every(lambda: list(fresh()), 150):
        batches = fresh()
        where = interrupted(functools.partial(list, batches), k)
        state = batches.state_dict()
        assert state["epoch"] in (0, 1) and 0 <= state["position"] <= 3, where
        again = fresh()
        again.load_state_dict(state)
        rest = list(again)
        if state["epoch"] == 0:
            assert [*epoch[: state["position"]], *rest] == epoch, where

    def load(batches, state):
        batches.load_state_dict(state)

    half = fresh()
    next(iter(half))
    state = half.state_dict()
    for k in every(lambda: load(fresh(), state), 60):
        batches = fresh()
        where = interrupted(functools.partial(load, batches, state), k)
        assert list(batches) in (epoch, epoch[1:]), where


def test_counts_of_what_is_kept_stay_right():
    program = Program()
    for k in every(program, 20):
        interrupted(program, k)
    assert POOL.held == sum(b.nbytes for waiting in POOL.free.values() for b in waiting) <= POOL.limit
    assert PLANS.nbytes == sum(kept.nbytes for kept in PLANS.kept.values()) <= PLANS.limit


def test_interrupted_averages_of_a_batch_norm_count_each_minibatch_once():
    def fresh():
        norm = nn.BatchNorm1d(2)
        norm([lf.constant([1.0, 2.0]), lf.constant([3.0, 6.0])])
        return norm

    names = "num_batches_tracked", "running_mean", "running_var"
    right = [np.array(getattr(fresh(), name)) for name in names]
    for k in every(lambda: fresh().running_mean, 60):
        norm = fresh()
        where = interrupted(functools.partial(getattr, norm, "running_mean"), k)
        for name, value in zip(names, right, strict=True):
            np.testing.assert_array_equal(getattr(norm, name), value, err_msg=str(where))

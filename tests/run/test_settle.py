"""Stale runs keep the values that somebody holds, and nothing else."""

import threading

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim
from lazyflow.core.columns import Counts
from lazyflow.run import forward, settle

# On a device runs stay as they are.
pytestmark = pytest.mark.host

if Counts() is None:
    pytest.skip("expressions are not counted: the core was not compiled", allow_module_level=True)


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Small runs count, too, and those of other tests do not come first."""
    monkeypatch.setattr(settle, "LEAST", 0)
    monkeypatch.setattr(forward, "SETTLING", settle.Settling())


def is_settled(run):
    return run.kept is not None and [getattr(run, name, None) for name in ("arena", "plan", "calls")] == [None] * 3


def test_values_stay_readable_as_they_were():
    w = lf.Parameter([1.0, 2.0, 3.0])
    h = w * 2.0
    part, y = h[1:], lf.exp(h)
    loss = lf.sum(y)
    loss.backward()
    [run] = loss.tape.runs
    before = [e.numpy() for e in (h, part, y, loss)]
    w.assign([0.0, 0.0, 0.0])
    lf.sum(w * 1.0).item()
    assert is_settled(run)
    for e, value in zip((h, part, y, loss), before, strict=True):
        np.testing.assert_array_equal(e.numpy(), value)
    np.testing.assert_array_equal((part + 0.0).numpy(), [0.0, 0.0])  # what rests on it is of now
    loss.forward()
    np.testing.assert_array_equal(y.numpy(), [1.0, 1.0, 1.0])


def test_what_nobody_held_is_computed_anew():
    w = lf.Parameter([1.0, 2.0])
    x = w * 3.0
    y = lf.sum(x)
    later = lf.sum(x * x)
    y.item()
    del x
    w.assign([1.0, 0.0])
    lf.sum(w * 1.0).item()
    assert y.item() == 9.0
    assert later.item() == 9.0


@pytest.mark.parametrize("as_cell", [False, True])
def test_results_and_gradients_of_kept_roots(as_cell):
    """Kept losses train as losses that are recorded each time, and only the last minibatch holds memory."""

    def trained(kept):
        rng = np.random.default_rng(3)
        layer = nn.Linear(4, 4)
        for parameter in layer.parameters():
            parameter.assign(rng.normal(size=parameter.shape))
        step = lf.cell(lambda h: lf.tanh(layer(h))) if as_cell else lambda h: lf.tanh(layer(h))

        def loss_of(x):
            h = lf.constant(x)
            for _ in range(3):
                h = step(h)
            return lf.sum(h * h)

        examples = [rng.normal(size=4).astype(np.float32) for _ in range(12)]
        losses = [loss_of(x) for x in examples]
        optimizer, found, runs = optim.SGD(layer.parameters(), lr=0.1), [], []
        for _ in range(2):
            for low in range(0, 12, 3):
                some = losses[low : low + 3] if kept else [loss_of(x) for x in examples[low : low + 3]]
                loss = lf.mean(some)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                found.append(loss.item())
                runs += loss.tape.runs
        if kept:
            assert sum(not is_settled(run) for run in runs) == 1
        return found

    np.testing.assert_allclose(trained(kept=True), trained(kept=False), rtol=1e-5)


def test_values_of_a_run_that_is_not_stale_stay():
    w, other = lf.Parameter([1.0, 2.0]), lf.Parameter([1.0])
    x = w * 3.0
    x.numpy()
    [run] = x.tape.runs
    other.touch()
    (other * 2.0).item()
    assert not is_settled(run)


def test_runs_of_another_thread_stay():
    w = lf.Parameter([1.0, 2.0])
    found = []

    def run():
        with lf.using():
            x = w * 3.0
            x.numpy()
        found.append(x)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    w.touch()
    (w * 2.0).numpy()
    [x] = found
    assert not is_settled(x.tape.runs[0])
    np.testing.assert_array_equal(x.numpy(), [3.0, 6.0])


def test_small_runs_of_roots_that_are_kept_are_let_go(monkeypatch):
    """Each would be held by the tape of all, with its plan, until the same roots are asked for again."""
    monkeypatch.setattr(settle, "LEAST", 1 << 18)
    w = lf.Parameter([1.0, 2.0])
    roots = [lf.sum(lf.tanh(w * float(k))) for k in range(300)]
    lf.forward(roots[:1])  # seals their tape, which is long
    for k in range(1, 20):
        lf.forward(roots[k : k + 1])
        w.assign(w.numpy() + 1.0)
    runs = roots[0].tape.runs
    assert len(runs) >= 19
    assert sum(not is_settled(run) for run in runs) <= 3
    assert [round(e.item(), 3) for e in roots[1:4]] == [1.726, 1.999, 2.0]

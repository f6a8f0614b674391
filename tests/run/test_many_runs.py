"""A backward through many small runs computes them once more as one: nobody can tell but by the time."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import optim
from lazyflow.device import to_host
from lazyflow.record.tape import current_tape
from lazyflow.run import engine
from tests.programs import Program, arrays, example_inputs, programs

counted = pytest.mark.skipif(current_tape().handles is None, reason="the core that counts expressions is absent")


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(engine, "MANY_RUNS", 0)


def parameters():
    rng = np.random.default_rng(0)
    return lf.Parameter(rng.normal(size=(4, 4)) * 0.5), lf.Parameter(rng.normal(size=4))


def episode(w, b, steps=20, each=lambda h: None):
    """Steps, each of which is looked at: a run each."""
    h, losses = lf.tanh(b * 2.0), []
    for _ in range(steps):
        h = lf.tanh(w @ h + b)
        if lf.sum(h).item() > 0:
            h = h * 0.9
        each(h)
        losses.append(lf.sum(h * h))
    return lf.sum(losses)


def runs_below(root):
    found, stack = {}, [root.tape.place_of(root.row)[0]]
    while stack:
        run = stack.pop()
        found[run.number] = run
        stack.extend(source for source in run.known_runs)
    return list(found.values())


@counted
def test_many_runs_become_one_and_few_stay():
    w, b = parameters()
    for steps in (20, 5):
        loss = episode(w, b, steps)
        loss.forward()
        before = len(runs_below(loss))
        assert before == steps + 1
        loss.backward()
        assert len(runs_below(loss)) == (1 if steps == 20 else before)


def test_gradients_are_those_of_many_runs(monkeypatch):
    w, b = parameters()
    found = []
    for most in (0, 10**9):
        monkeypatch.setattr(engine, "MANY_RUNS", most)
        w.zero_grad(), b.zero_grad()
        loss = episode(w, b)
        loss.backward()
        found.append((loss.item(), w.grad, b.grad))
    for a, c in zip(*found, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12)


@pytest.mark.usefixtures("always")
def test_values_that_somebody_holds_stay_what_they_were():
    w, b = parameters()
    held = []
    loss = episode(w, b, each=held.append)
    logged = lf.sum(held[3]) * 5.0  # no part of the loss, and looked at
    values = [h.numpy() for h in held], logged.item(), loss.item()
    optimizer = optim.SGD([w, b], lr=0.1)
    loss.backward()
    optimizer.step()
    for h, value in zip(held, values[0], strict=True):
        np.testing.assert_allclose(h.numpy(), value, rtol=1e-12)
    np.testing.assert_allclose([logged.item(), loss.item()], values[1:], rtol=1e-12)
    assert not np.allclose(loss.forward().item(), values[2])


@pytest.mark.usefixtures("always")
def test_old_values_beside_new_ones_stay_old():
    w, b = parameters()
    with lf.using():
        first, second = lf.sum(w @ b), lf.sum(lf.tanh(b))
    old = first.item()
    w.assign(w.numpy() * 2)
    total = lf.sum([second * float(k) for k in range(3)])
    for _ in range(3):
        total = total + total.item()
    total.backward()
    assert first.item() == old


@pytest.mark.usefixtures("always")
def test_draws_hooks_and_kept_gradients_are_as_ever():
    w, b = parameters()
    outcomes = []
    for most in (0, 10**9):
        engine.MANY_RUNS = most
        lf.seed(5)
        w.zero_grad(), b.zero_grad()
        seen, kept = [], []

        def each(h, seen=seen, kept=kept):
            y = lf.dropout(h, 0.5) + lf.normal((4,), dtype="float64")
            y.retain_grad()
            y.register_hook(lambda g: seen.append(g.copy()))
            kept.append(y)
            lf.sum(y).item()

        loss = episode(w, b, 6, each) + lf.sum([lf.sum(y * y) for y in kept])
        loss.backward()
        outcomes.append([loss.item(), w.grad, b.grad, *(y.grad for y in kept), *sorted(map(float, map(np.sum, seen)))])
        outcomes[-1].append(lf.normal().item())
    for a, c in zip(*outcomes, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12)


@pytest.mark.usefixtures("always")
def test_what_was_computed_without_gradients_is_not_computed_again(monkeypatch):
    w, b = parameters()
    with lf.no_grad():
        target = lf.tanh(w @ b)
        target.forward()
    run = target.tape.place_of(target.row)[0]
    loss = episode(w, b, 4) + lf.sum(target * b)
    loss.backward()
    assert target.tape.place_of(target.row)[0] is run


@pytest.mark.usefixtures("always")
def test_two_roots_of_the_same_runs():
    w, b = parameters()
    losses = []
    total = episode(w, b, each=lambda h: losses.append(lf.sum(h)))
    other = lf.sum(losses)
    other.forward()
    total.backward()
    other.backward()
    together, w.grad = w.grad, None
    losses = []
    (episode(w, b, each=lambda h: losses.append(lf.sum(h))) + lf.sum(losses)).backward()
    np.testing.assert_allclose(together, w.grad, rtol=1e-12)


def test_large_runs_are_not_computed_twice(monkeypatch):
    monkeypatch.setattr(engine, "SMALL_RUN", 4)
    w, b = parameters()
    loss = episode(w, b)
    loss.forward()
    before = len(runs_below(loss))
    loss.backward()
    assert len(runs_below(loss)) == before


@counted
def test_a_large_run_is_gone_back_through_as_it_is_and_small_ones_behind_it_are_one(monkeypatch):
    """What several of the small ones read of it is read once."""
    found = []
    for most in (8, 10**9):
        monkeypatch.setattr(engine, "MANY_RUNS", most)
        monkeypatch.setattr(engine, "SMALL_RUN", 200)
        w, b = parameters()
        table = lf.Parameter(np.linspace(-1, 1, 400).reshape(100, 4))
        rows = [lf.tanh(table[k]) for k in range(100)]
        lf.forward(rows)
        large = rows[0].tape.place_of(rows[0].row)[0]
        h, losses = b, []
        for k in range(20):
            h = lf.tanh(w @ h + rows[k // 4] + rows[99])
            lf.sum(h).item()
            losses.append(lf.sum(h * rows[k // 4]))
        loss = lf.sum(losses)
        loss.backward()
        found.append((loss.item(), w.grad, b.grad, np.asarray(table.grad)))
        assert rows[0].tape.place_of(rows[0].row)[0] is large
        below = runs_below(loss)
        assert len(below) == (2 if most == 8 else 22)
        if most == 8:
            assert len(loss.tape.place_of(loss.row)[0].known_runs) == 6  # of five groups, and the last
    for a, c in zip(*found, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12)


@counted
def test_a_run_that_a_large_one_has_read_stays(monkeypatch):
    """Else what is computed twice would have a part of its gradient in either, and a hook would be called twice."""
    monkeypatch.setattr(engine, "MANY_RUNS", 3)
    w, b = parameters()
    seen = []
    small = lf.tanh(b)
    small.register_hook(lambda g: seen.append(g.copy()))
    lf.sum(small).item()
    wide = [lf.sum(small * float(k)) for k in range(100)]
    lf.forward(wide)
    monkeypatch.setattr(engine, "SMALL_RUN", 100)
    h, losses = small, []
    for _ in range(10):
        h = lf.tanh(w @ h)
        losses.append(lf.sum(h) * lf.sum(small) + h[0].item())
    loss = lf.sum(losses) + lf.sum(wide)
    loss.backward()
    assert len(seen) == 1
    np.testing.assert_allclose(to_host(b.grad), to_host(seen[0]) * (1 - small.numpy() ** 2), rtol=1e-12)


@counted
@pytest.mark.usefixtures("always")
def test_what_a_run_that_stays_reads_is_not_computed_again(monkeypatch):
    """Else a loss of both has two nodes of one value, and a hook gets either part of the gradient by itself."""
    w, b = parameters()
    x = lf.tanh(w @ b)
    seen = []
    x.register_hook(lambda g: seen.append(to_host(g).copy()))
    lf.sum(x).item()
    beside = lf.tanh(x * 2.0)
    lf.sum(beside).item()  # a run that the first loss does not rest on
    first = lf.sum(lf.sin(x))
    first.backward()
    both = first + lf.sum(beside)
    monkeypatch.setattr(engine, "MANY_RUNS", 10**9)
    seen.clear(), b.zero_grad(), w.zero_grad()
    both.backward()
    value = to_host(x.numpy())
    np.testing.assert_allclose(seen, [np.cos(value) + 2 / np.cosh(2 * value) ** 2], rtol=1e-12)


@counted
@pytest.mark.usefixtures("always")
def test_copies_of_what_stays_are_dropped_and_it_does_not(monkeypatch):
    """What the small run has read of the large one is on one tape with what it has computed."""
    monkeypatch.setattr(engine, "SMALL_RUN", 40)
    w, b = parameters()
    table = lf.Parameter(np.linspace(-1, 1, 40).reshape(10, 4))
    x = lf.tanh(w @ b)
    seen = []
    x.register_hook(lambda g: seen.append(to_host(g).copy()))
    rows, later = [lf.tanh(table[k] * x) for k in range(10)], lf.sum(lf.sin(x))
    lf.forward(rows)
    large = rows[0].tape.place_of(rows[0].row)[0]
    later.item()  # on the tape of the large run, whose value of x it copies
    loss = later + lf.sum(rows[3])
    loss.backward()
    below = runs_below(loss)
    assert len(below) == 2 and large in below
    value, row = to_host(x.numpy()), to_host(table.numpy())[3]
    np.testing.assert_allclose(seen, [np.cos(value) + row / np.cosh(row * value) ** 2], rtol=1e-12)


@counted
def test_what_the_root_does_not_rest_on_stays_beside_what_is_one(monkeypatch):
    """Steps without a loss are runs of their own, whose tapes have losses of the steps before."""
    w, b = parameters()
    found = []
    for most in (8, 10**9):
        monkeypatch.setattr(engine, "MANY_RUNS", most)
        w.zero_grad(), b.zero_grad()
        losses, states = [], []
        for k in range(40):
            h = lf.tanh(w @ b * float(k + 1))
            if lf.sum(h).item() and k % 3:
                losses.append(lf.sum(h * h))
                states.append(h)
        loss = lf.sum(losses)
        loss.backward()
        assert len(runs_below(loss)) == (1 if most == 8 else 27)
        found.append((loss.item(), w.grad, b.grad))
    for a, c in zip(*found, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-12)


@hypothesis.given(programs(most=8), st.integers(0, 30), st.lists(st.integers(0, 7), max_size=6))
@hypothesis.settings(max_examples=50)
def test_any_program_looked_at_anywhere(program, seed, looks):
    outcomes = []
    before = engine.MANY_RUNS
    for most in (0, 10**9):
        engine.MANY_RUNS = most
        try:
            P = {name: lf.Parameter(value) for name, value in arrays(seed).items()}
            inputs = [lf.tanh(lf.constant(x) + lf.sum(P["p"]) * 0.1) for x in example_inputs(seed, 1)[0]]
            values = list(inputs)
            for k in range(len(program.steps)):
                name, payload, operands = program.steps[k]
                step = Program(((name, payload, tuple(range(len(operands)))),))
                values.append(step.run(False, P, [values[i] for i in operands])[-1])
                if k in looks:
                    lf.sum(values[-1]).item()
            loss = lf.sum([lf.sum(lf.tanh(v)) for v in values])
            loss.backward()
            outcomes.append([loss.item(), *(P[n].grad for n in sorted(P))])
        finally:
            engine.MANY_RUNS = before
    for a, c in zip(*outcomes, strict=True):
        assert (a is None) == (c is None)
        if a is not None:
            a, c = (x.to_dense() if hasattr(x, "to_dense") else x for x in (a, c))
            np.testing.assert_allclose(a, c, rtol=1e-9, atol=1e-10)


def test_the_way_back_of_a_plan_leads_each_run_to_its_own_values():
    """A tape that has computed a value of an earlier one before counts it twice: another of the same graph does not."""
    p, q = lf.Parameter([0.1, 0.2]), lf.Parameter([0.3, 0.4])

    def gradients(beside):
        p.zero_grad()
        q.zero_grad()
        u, v = p * 2, q * 5
        lf.forward([u, v])
        loss, other = lf.sum(lf.sin(u) * lf.cos(v)), lf.exp(v)
        if beside:
            other.forward()
        loss.backward()
        return p.grad, q.grad

    expected = gradients(False)
    for beside in (False, False, True, True, False):  # a plan is kept when it comes again
        for found, one in zip(gradients(beside), expected, strict=True):
            np.testing.assert_allclose(found, one)

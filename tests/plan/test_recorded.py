"""What was recorded before is planned before: with the columns of earlier tapes come their plans, and nothing else."""

import gc
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host
from lazyflow.graph.graph import Graph, collect
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.plan import Cells, Layout, Plan
from lazyflow.plan.plans import Plans
from lazyflow.plan.schedule import Schedule
from lazyflow.record.tape import Signature
from lazyflow.run import forward

W0 = np.random.default_rng(3).normal(size=(4, 4))
TABLE = np.random.default_rng(4).normal(size=(5, 4))
VECTORS = np.random.default_rng(5).normal(size=(8, 4))


def on_host(gradient):
    return np.asarray(gradient) if isinstance(gradient, RowSparse) else to_host(gradient)


@pytest.fixture
def plans(monkeypatch):
    """Plans of one's own, kept at once."""
    own = Plans(once=True)
    monkeypatch.setattr(forward, "PLANS", own)
    return own


class Model:
    """Parameters that live through all rounds of a program."""

    def __init__(self):
        self.W, self.b, self.table = lf.Parameter(W0), lf.Parameter(W0[0]), lf.Parameter(TABLE)
        self.step = lf.cell(lambda h, x, scale: lf.tanh(self.W @ h + x * scale))

    def seen(self, *values):
        """Values, the gradients of a sum of them, and an update."""
        found = [v.numpy() for v in values]
        lf.sum([lf.sum(v * v) for v in values]).backward()
        for p in (self.W, self.b, self.table):
            found.append(np.zeros(p.shape) if p.grad is None else on_host(p.grad))
            if p.grad is not None:
                p.assign(p.numpy() - 0.1 * on_host(p.grad))
            p.zero_grad()
        return found


# Programs: ``k`` is the number of the round, and changes payload, structure, or nothing.


def constants(m, k):
    return m.seen(lf.tanh(m.W @ lf.constant(VECTORS[k]) + m.b))


def scalars_in_chains(m, k):
    return m.seen(*[lf.sin((m.W @ lf.constant(v)) * (0.5 + k) - 0.25 * k) for v in VECTORS[:5]])


def lookups(m, k):
    with lf.using(dedupe=False):
        return m.seen(lf.sum([m.table[(k * i) % 5] for i in range(4)]))


def repeated_lookups(m, k):
    words = ([0, 1, 2, 3], [0, 0, 2, 2], [0, 1, 2, 3], [3, 3, 3, 3], [0, 0, 2, 2])[k % 5]
    return m.seen(*[lf.tanh(m.W @ m.table[w]) for w in words])


def slices(m, k):
    x = m.W @ lf.constant(VECTORS[0])
    return m.seen(x[k % 3 : k % 3 + 2] * 2.0)


def lists_of_other_lengths(m, k):
    xs = [m.W @ lf.constant(v) for v in VECTORS]
    cut = (2, 3, 2, 5)[k % 4]
    return m.seen(lf.sum(xs[:cut]) + lf.sum(xs[cut:]))


def values_in_the_middle(m, k):
    h = lf.tanh(m.W @ lf.constant(VECTORS[k]))
    found = [h.numpy()] if k % 2 else []
    g = m.W @ h
    if k % 3 == 1:
        found.append(g.numpy())
    return found + m.seen(g + h)


def steps(m, k):
    h, found = lf.constant(VECTORS[k]), []
    for _ in range(4):
        h = lf.tanh(m.W @ h + m.b)
        found.append(h[0].numpy())
    return found + m.seen(h)


def hooks(m, k):
    h = lf.tanh(m.W @ lf.constant(VECTORS[0]))
    g, gradients = h * 2.0 + 1.0, []
    if k in (1, 3):
        h.register_hook(lambda cotangent: gradients.append(cotangent) or cotangent * 0.5)
    if k == 2:
        g.retain_grad()
    return m.seen(g * g) + [on_host(x) for x in gradients] + ([on_host(g.grad)] if k == 2 else [])


def frozen(m, k):
    m.b.requires_grad = k % 2 == 0
    return m.seen(lf.tanh(m.W @ lf.constant(VECTORS[0]) + m.b))


def draws(m, k):
    return m.seen(lf.dropout(m.W @ lf.constant(VECTORS[0]), 0.5) * lf.uniform((4,)))


def cells(m, k):
    h = lf.constant(VECTORS[k])
    for word in (k, k + 1, 2):
        h = m.step(h, m.table[word % 5], 0.5 * k)
    return m.seen(h)


def without_gradients(m, k):
    with lf.no_grad():
        h = lf.tanh(m.W @ lf.constant(VECTORS[k]))
        held = h if k % 2 else None
        g = m.W @ h
        del h
        found = [g.numpy()]
        return found if held is None else [*found, held.numpy(), (held + g).numpy()]


def two_tapes(m, k):
    first = lf.tanh(m.W @ lf.constant(VECTORS[k]))
    with lf.using(batching="depth"):  # a tape of its own
        second = lf.tanh(m.W @ first)
    if k % 2:
        first.forward()
    return m.seen(lf.sum([first, second, m.W @ second]))


PROGRAMS = (
    constants, scalars_in_chains, lookups, repeated_lookups, slices, lists_of_other_lengths, values_in_the_middle,
    steps, hooks, frozen, draws, cells, without_gradients, two_tapes,
)  # fmt: skip


def rounds(program, forget):
    """What is seen in each round; with ``forget`` no round knows of those before."""
    lf.seed(11)
    model, found = Model(), []
    for k in range(6):
        if forget:
            forward.PLANS.kept.clear()
            forward.PLANS.seen.clear()
        found.append(program(model, k))
    return found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_values_and_gradients_are_those_without_plans_of_before(plans, program):
    want = rounds(program, forget=True)
    plans.hits = 0
    found = rounds(program, forget=False)
    assert plans.hits > 0
    for mine, alone in zip(found, want, strict=True):
        assert len(mine) == len(alone)
        for a, b in zip(mine, alone, strict=True):
            np.testing.assert_array_equal(a, b)


def kept_root(m, root):
    m.W.assign(m.W.numpy() * 0.9)
    return [root.numpy(), *m.seen(root)]


@pytest.mark.parametrize("length", [3, 400])  # as a whole, and as a long tape of which parts are read
@pytest.mark.parametrize("draw", [False, True])
def test_kept_roots_under_new_parameters(plans, length, draw):
    def run(forget):
        lf.seed(12)
        m = Model()
        h = lf.constant(VECTORS[0])
        for _ in range(length):
            h = lf.tanh(m.W @ h + m.b)
        root, found = (lf.dropout(h, 0.5) if draw else h), []
        for _ in range(5):
            if forget:
                plans.kept.clear()
            found += kept_root(m, root)
        return found

    want = run(True)
    plans.hits = 0
    for a, b in zip(run(False), want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert plans.hits > 0


def test_a_step_that_comes_again_needs_no_graph(plans, monkeypatch):
    m = Model()
    steps(m, 0)
    steps(m, 1)

    def collect(*_, **__):
        raise AssertionError("collected again")

    monkeypatch.setattr(forward, "collect", collect)
    np.testing.assert_array_equal(len(steps(m, 2)), 8)


def test_what_nobody_asks_for_is_no_part_of_what_comes_again(plans, monkeypatch):
    w = lf.Parameter(VECTORS[0])

    def step(before, behind):
        x = lf.constant(VECTORS[1])
        unread = [lf.exp(x * (k + 1.0)) for k in range(before)]
        y = x * w
        unread += [lf.sum(y) * k for k in range(behind)]
        z = lf.tanh(y) + lf.constant(VECTORS[2])
        found = z.numpy()
        return found, [e.item() for e in unread if not e.shape]

    want = [step(0, 0), step(1, 2)][0][0]
    collected = []
    monkeypatch.setattr(forward, "collect", lambda roots, **how: collected.append(roots) or collect(roots, **how))
    for before, behind in ((2, 0), (0, 0), (7, 3), (1, 1)):
        found, unread = step(before, behind)
        np.testing.assert_array_equal(found, want)
        np.testing.assert_allclose(unread, [float(np.sum(VECTORS[1] * VECTORS[0])) * k for k in range(behind)])
        assert not [roots for roots in collected if roots[0].shape]


def test_dead_parameters_take_what_was_recorded_with_them(plans):
    for _ in range(3):
        steps(Model(), 0)
    gc.collect()  # a cell and what it sees refer to each other
    lf.sum(lf.constant([1.0, 2.0])).forward()
    kinds = [o.type for kept in plans.kept.values() for s in kept.signatures for o in s.operands if o.kind == "shared"]
    assert plans.kept and not kinds


def test_rows_that_were_computed_before_are_let_go_with_their_parameter(plans):
    model = Model()
    x = lf.tanh(model.W @ lf.constant(VECTORS[0]))
    x.forward()
    (x * 2.0).forward()  # on the same tape, no part of what is computed
    tape = weakref.ref(x.tape)
    del model, x
    gc.collect()
    lf.sum(lf.constant([1.0, 2.0])).forward()
    assert tape() is None
    assert not any(o.kind == "shared" for kept in plans.kept.values() for s in kept.signatures for o in s.operands)


def arrays_of(plan):
    """The arrays that a plan holds, by identity, whatever holds them."""
    found, stack, seen = {}, [plan], set()
    while stack:
        value = stack.pop()
        if id(value) in seen or isinstance(value, Signature | str | int | float):
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            base = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
            found[id(base)] = base.nbytes
        elif isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, Plan | Layout | Graph | Schedule | Cells):
            stack += vars(value).values()
    return found


@pytest.mark.parametrize("dedupe", [False, True])
def test_what_is_kept_holds_no_more_than_is_counted(plans, dedupe):
    m = Model()
    plans.limit = 300_000
    with lf.using(dedupe=dedupe):
        for length in range(2, 40):
            for k in range(3):
                lf.sum([lf.tanh(m.W @ m.table[(k * i) % 5]) for i in range(length)]).forward()
    assert any(kept.recorded is not None for kept in plans.kept.values())
    assert any(kept.plan is None for kept in plans.kept.values()) == dedupe
    for kept in plans.kept.values():
        assert kept.plan is None or sum(arrays_of(kept.plan).values()) <= kept.nbytes
    assert plans.info().nbytes <= plans.limit


def test_payload_of_a_plan_that_comes_again_is_its_own(plans):
    """What launches with payload have bound is never that of another recording."""
    W = lf.Parameter(W0)
    held = [lf.sin((W @ lf.constant(VECTORS[0])) * (0.5 + k)).forward() for k in range(4)]
    for k, y in enumerate(held):
        W.zero_grad()
        lf.sum(y).backward()
        z = W0 @ VECTORS[0] * (0.5 + k)
        np.testing.assert_allclose(y.numpy(), np.sin(z))
        np.testing.assert_allclose(on_host(W.grad), np.outer(np.cos(z) * (0.5 + k), VECTORS[0]))


def test_a_second_run_on_a_tape_notes_nothing_on_another(plans):
    """Tapes that come again share what is noted on them until one has more to note."""
    W = lf.Parameter(W0)

    def two(k):
        h = lf.tanh(W @ lf.constant(VECTORS[k]))
        return h, W @ h

    two(0)[0].forward()
    rounds = [two(k) for k in range(1, 4)]
    for h, _ in rounds:
        h.forward()
    later = rounds[0][1].numpy()
    np.testing.assert_allclose(later, W0 @ np.tanh(W0 @ VECTORS[1]))
    assert [g.tape.has_value(g.row) for _, g in rounds] == [True, False, False]
    for k, (h, g) in enumerate(rounds, 1):
        np.testing.assert_allclose(h.numpy(), np.tanh(W0 @ VECTORS[k]))
        np.testing.assert_allclose(g.numpy(), W0 @ h.numpy())


def test_tapes_that_import_one_value_are_no_tapes_that_import_two(plans):
    p = lf.Parameter([0.1, 0.2])
    for same in (True, True, False, False, True):
        u, v = p * 2.0, p * 5.0
        lf.forward([u, v])
        other = u if same else v
        with lf.using():
            first = lf.tanh(u + 0.5)
        with lf.using():
            second = lf.sin(other + 0.25)
        p.zero_grad()
        total = lf.sum(first * second)
        total.backward()
        x, y = u.numpy(), other.numpy()
        np.testing.assert_allclose(total.item(), (np.tanh(x + 0.5) * np.sin(y + 0.25)).sum(), rtol=1e-5)
        slope = 2.0 * (1 - np.tanh(x + 0.5) ** 2) * np.sin(y + 0.25)
        slope += (2.0 if same else 5.0) * np.tanh(x + 0.5) * np.cos(y + 0.25)
        np.testing.assert_allclose(p.grad, slope, rtol=1e-5)

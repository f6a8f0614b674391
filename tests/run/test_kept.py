"""Roots that are kept: computed again in any company, under new parameters, they are what a fresh recording gives.

Of a long tape only the rows that the asked roots rest on are read; what was not asked must not matter.
"""

import gc
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.graph.graph import collect
from lazyflow.graph.reading import LONG
from lazyflow.settings import BATCHINGS
from tests import bodies as C

N = 5


def parameters():
    rng = np.random.default_rng(0)
    return [lf.Parameter(rng.normal(size=s) * 0.3) for s in ((30, 6), (N, 6), (N, N), N)]


class Model:
    """A recurrence over words, recorded plainly or by cells; every example's loss uses a constant that all share."""

    def __init__(self, decorated, dropout=0.0):
        self.parameters = E, W, U, b = parameters()
        self.E = E

        def step(x, h):
            h = lf.tanh(lf.affine(W, b, x) + lf.matmul(U, lf.dropout(h, dropout) if dropout else h))
            return h, lf.sum(h * h), h[1:3] * 2

        self.step = lf.cell(step) if decorated else step

    def loss(self, words, start):
        h, losses = start, []
        for k, word in enumerate(words):
            h, loss, part = self.step(lf.embedding(self.E, word), h)
            losses.append(loss if k % 2 else lf.sum(part[::-1] * part[0]))
        return lf.sum([*losses, lf.sum(h[:2])])


def words(i):
    return [int(w) for w in np.random.default_rng(i).integers(0, 30, size=3 + i % 7)]


def start():
    return lf.constant(np.full(N, 0.1))


def outcome(loss, parameters):
    """Value and gradients of a backward."""
    value = loss.forward().item()
    loss.backward()
    found = [np.array(C.dense(p.grad)) for p in parameters]
    for p in parameters:
        p.zero_grad()
    return value, found


def close(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


EXAMPLES = 120
KINDS = pytest.mark.parametrize("decorated", [False, True], ids=["plain", "cells"])


def recorded(decorated, **options):
    model = Model(decorated, **options)
    with lf.using(dtype="float64"):
        shared = start()
        kept = [model.loss(words(i), shared) for i in range(EXAMPLES)]
    assert len(kept[0].tape) > LONG
    return model, kept


@KINDS
def test_minibatches_in_any_order(decorated):
    model, kept = recorded(decorated)
    rng = np.random.default_rng(5)
    with lf.using(dtype="float64"):
        for round_ in range(10):
            chosen = rng.choice(EXAMPLES, size=9, replace=round_ % 3 == 0)
            got = outcome(lf.mean([kept[i] for i in chosen]), model.parameters)
            want = outcome(lf.mean([model.loss(words(i), start()) for i in chosen]), model.parameters)
            close(got, want)
            for p, g in zip(model.parameters, want[1], strict=True):
                if round_ % 2:
                    p.assign(p.numpy() - 0.05 * g)
            one = kept[int(chosen[0])]
            assert one.forward().item() == pytest.approx(model.loss(words(chosen[0]), start()).item(), rel=1e-12)


@KINDS
def test_only_what_the_roots_rest_on_is_read(decorated):
    _, kept = recorded(decorated)
    collect(kept[:1])  # seals the tape
    few = collect([kept[3], kept[100]])
    assert len(few.signature) < 200
    assert int(few.tape_starts[-1]) < len(kept[0].tape) / 4


@KINDS
def test_roots_in_the_middle_of_what_was_recorded(decorated):
    """A value that is neither a loss nor the last result of its call."""
    model = Model(decorated)
    with lf.using(dtype="float64"):
        h, found = start(), []
        for k in range(400):
            h, *others = model.step(lf.embedding(model.E, k % 30), h if k % 8 else start())
            found.append((h, *others))
        lf.forward([found[-1][0]])
        for k in (3, 250, 17, 390):
            for which in (1, 0, 2):
                lf.forward([found[k][which]])
        fresh = start()
        for k in range(248, 251):
            fresh, *others = model.step(lf.embedding(model.E, k % 30), fresh)
        for got, want in zip(found[250], (fresh, *others), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12)
        model.parameters[1].assign(model.parameters[1].numpy() * 0.5)
        loss = lf.sum(found[250][1]) + lf.sum(found[3][2])
        got = outcome(loss, model.parameters)
        fresh = [start(), start()]
        for k in range(248, 251):
            fresh[0], second, _ = model.step(lf.embedding(model.E, k % 30), fresh[0])
        for k in range(4):
            fresh[1], _, third = model.step(lf.embedding(model.E, k), fresh[1])
        close(got, outcome(lf.sum(second) + lf.sum(third), model.parameters))


@KINDS
@pytest.mark.parametrize("seed", range(6))
def test_any_values_in_any_order(decorated, seed):
    """Values asked for one by one, in between updates, some by a root of their own."""
    model, kept = recorded(decorated)
    rng = np.random.default_rng(seed)
    with lf.using(dtype="float64"):
        for _ in range(12):
            i, j = rng.integers(0, EXAMPLES, 2)
            what = rng.integers(0, 5)
            if what == 0:
                kept[i].numpy()
            elif what == 1:
                lf.forward([kept[i], kept[j]])
            elif what == 2:
                p = model.parameters[rng.integers(0, 4)]
                p.assign(p.numpy() * 0.9)
            elif what == 3:
                got = outcome(kept[i] * kept[j], model.parameters)
                fresh = [model.loss(words(k), start()) for k in (i, j)]
                close(got, outcome(fresh[0] * fresh[1], model.parameters))
            else:
                kept[i].forward()
                assert kept[i].item() == pytest.approx(model.loss(words(i), start()).item(), rel=1e-12)


@KINDS
def test_dropout_draws_anew_each_time(decorated):
    model, kept = recorded(decorated, dropout=0.5)
    found = []
    for _ in range(3):
        model.parameters[0].assign(model.parameters[0].numpy())  # a version of its own: computed again
        found.append([e.item() for e in lf.forward(kept[:4])])
    assert len({tuple(f) for f in found}) == 3


@KINDS
def test_freed_roots(decorated):
    model, kept = recorded(decorated)
    with lf.using(dtype="float64"):
        for low in range(0, 40, 8):
            outcome(lf.mean(kept[low : low + 8]), model.parameters)
            for i in range(low, low + 4):
                kept[i] = None
            gc.collect()
        close(outcome(kept[5], model.parameters), outcome(model.loss(words(5), start()), model.parameters))


@KINDS
def test_settings_changed_between(decorated):
    model, kept = recorded(decorated)
    want = None
    for batching in BATCHINGS:
        for options in ({"fuse": "numpy"}, {"fuse": "off"}, {"dedupe": False}):
            model.parameters[0].assign(model.parameters[0].numpy())
            with lf.using(batching=batching, dtype="float64", **options):
                got = outcome(lf.mean([kept[i] for i in (4, 90, 17)]), model.parameters)
            want = want or got
            close(got, want)
    with lf.no_grad():
        assert lf.mean([kept[i] for i in (4, 90, 17)]).item() == pytest.approx(want[0], rel=1e-12)


@pytest.mark.host
@KINDS
def test_a_retained_gradient_of_a_kept_value(decorated):
    model = Model(decorated)
    with lf.using(dtype="float64"):
        states, losses = [], []
        for i in range(EXAMPLES):
            h = start()
            for word in words(i):
                h, _, _ = model.step(lf.embedding(model.E, word), h)
            states.append(h)
            losses.append(lf.sum(h * h))
        watched = states[90]
        watched.retain_grad()
        lf.forward(losses)
        for chosen in ([3, 90, 5], [90], [4, 5]):
            before = 0 if watched.grad is None else watched.grad.copy()
            model.parameters[0].assign(model.parameters[0].numpy() * 0.9)
            outcome(lf.sum([losses[i] for i in chosen]), model.parameters)
            added = 2 * watched.numpy() if 90 in chosen else 0
            np.testing.assert_allclose(watched.grad, before + added, rtol=1e-12)


@KINDS
def test_a_replaced_array_is_read(decorated):
    model, kept = recorded(decorated)
    with lf.using(dtype="float64"):
        before = kept[7].item()
        model.parameters[1].data = np.zeros((N, 6))
        assert kept[7].forward().item() == pytest.approx(model.loss(words(7), start()).item(), rel=1e-12)
        model.parameters[1].data[...] = 0.25
        assert kept[7].forward().item() == pytest.approx(model.loss(words(7), start()).item(), rel=1e-12)
        assert kept[7].item() != pytest.approx(before)


def test_long_tapes_that_import_of_each_other():
    """Roots of one long tape that rest on values of another, computed and not."""
    w = lf.Parameter(np.array([0.5, -0.25]))
    with lf.using(dtype="float64"):
        first = [lf.tanh(lf.constant(np.full(2, k / 100)) * w) for k in range(400)]
        lf.forward(first[:3])
        second = [lf.sum(first[k] * w + first[(k * 7) % 400][::-1]) for k in range(400)]
        lf.forward(second[:2])
        for k in (5, 399, 200):
            w.assign(w.numpy() * 1.1)

            def value(k):
                return np.tanh(k / 100 * w.numpy())

            want = (value(k) * w.numpy() + value((k * 7) % 400)[::-1]).sum()
            assert second[k].forward().item() == pytest.approx(want, rel=1e-12)
            got = outcome(second[k] + second[(k + 1) % 400], [w])
            fresh = [
                lf.sum(lf.tanh(np.full(2, i / 100) * w) * w + lf.tanh(np.full(2, (i * 7) % 400 / 100) * w)[::-1])
                for i in (k, (k + 1) % 400)
            ]
            close(got, outcome(fresh[0] + fresh[1], [w]))


SLOW = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.host
@SLOW
@given(C.bodies(), st.sampled_from(list(C.USES)), st.integers(0, 1000), st.booleans())
def test_random_bodies(body, use, seed, decorated):
    parameters = C.parameters(seed)
    step = body.function(parameters)
    step = lf.cell(step) if decorated else step

    def loss(i):
        return C.USES[use](step, np.random.default_rng((seed, i)), True)

    with warnings.catch_warnings(), lf.using(dtype="float64", fuse="numpy"):
        warnings.simplefilter("ignore", RuntimeWarning)
        kept = [loss(i) for i in range(EXAMPLES)]
        rng = np.random.default_rng(seed)
        for _ in range(4):
            chosen = rng.integers(0, EXAMPLES, 4)
            found = []
            for losses in ([kept[i] for i in chosen], [loss(i) for i in chosen]):
                total = lf.mean(losses)
                value = total.forward().item()
                if total.requires_grad:
                    total.backward()
                found.append((value, C.gradients(parameters)))
                for p in parameters.values():
                    p.zero_grad()
            np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-9, atol=1e-12)
            for name, gradient in found[1][1].items():
                np.testing.assert_allclose(found[0][1][name], gradient, rtol=1e-7, atol=1e-10, err_msg=name)
            p = parameters[rng.choice(list(parameters))]
            p.assign(p.numpy() * 0.9)


def test_a_new_expression_over_kept_roots_has_the_value_of_now():
    """Asked for by ``item`` or ``numpy``, too, and not only by ``forward``."""
    model = Model(True)
    kept = [model.loss(words(i), start()) for i in range(4)]
    lf.mean(kept).backward()
    optimizer = lf.optim.SGD(model.parameters, lr=0.5)
    before = lf.mean(kept).item()
    optimizer.step()
    fresh = lf.mean([model.loss(words(i), start()) for i in range(4)]).item()
    found = lf.mean(kept).item()
    assert abs(found - fresh) < 1e-6 and abs(found - before) > 1e-4


def of_words(words, E, step, shared):
    """A loss whose structure is the same for all words."""
    h, losses = shared, []
    for word in words:
        h, loss = step(lf.embedding(E, word), h)
        losses.append(loss * (1.5 + word))
    return lf.sum([*losses, lf.sum(h[1:])])


@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize("several", [False, True])
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_kept_roots_of_one_structure_make_one_graph_in_whatever_order(decorated, several, seed):
    """So that there is a plan for them, and values are those of a fresh recording."""
    rng = np.random.default_rng(0)
    E, W = lf.Parameter(rng.normal(size=(9, 3)).astype(np.float32)), lf.Parameter(np.full((3, 3), 0.5, np.float32))
    starts = [lf.constant(np.full(3, 0.1 * (k + 1), np.float32)) for k in range(2 if several else 1)]
    words = rng.integers(0, 9, (60, 4)).tolist()

    def step(x, h):
        h = lf.tanh(lf.matmul(W, h) + x)
        return h, lf.sum(h * h)

    step = lf.cell(step) if decorated else step
    kept = [of_words(some, E, step, starts[i % len(starts)]) for i, some in enumerate(words)]
    # Of the first ones what is shared lies near: they are read as one range with it, and stand as they were recorded.
    order = np.random.default_rng(seed).permutation(range(20, 60)).tolist()
    some = [i for i in order if not several or i % 2]
    lf.forward(kept)
    assert len(kept[0].tape) >= LONG
    W.touch()

    def structure(asked):
        graph = collect([lf.mean([kept[i] for i in asked])], anew=True)
        assert (graph.base < np.repeat(np.arange(len(graph)), np.diff(graph.starts))).all()
        parts = graph.signature, graph.starts, graph.base, graph.shift, graph.results, graph.known
        return graph.signatures, [part.tolist() for part in parts]

    assert structure(some) == structure(sorted(some))
    found, fresh = (
        outcome(lf.mean([make(i) for i in some]), [E, W])
        for make in (kept.__getitem__, lambda i: of_words(words[i], E, step, starts[i % len(starts)]))
    )
    np.testing.assert_allclose(found[0], fresh[0], rtol=1e-6)
    for mine, theirs in zip(found[1], fresh[1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)

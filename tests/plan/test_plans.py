"""Plans that are kept by structure: they are found again, with other payload, and are never stale."""

import functools
import gc
import importlib

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.plan.plans import Plans
from lazyflow.run import forward
from tests.interrupts import bytecodes, interrupted

TABLE = np.random.default_rng(0).normal(size=(6, 3))
WEIGHT = np.random.default_rng(1).normal(size=(3, 3))


@pytest.fixture
def plans(monkeypatch):
    """Plans of one's own: those of other tests do not count."""
    own = Plans()
    monkeypatch.setattr(forward, "PLANS", own)
    monkeypatch.setattr(importlib.import_module("lazyflow.inspect.explain"), "PLANS", own)
    return own


def parameters():
    return lf.Parameter(TABLE), lf.Parameter(WEIGHT)


def loss(table, weight, words, scale=1.0, cell=False):
    def step(h, word):
        return lf.tanh(lf.matmul(weight, h) + lf.embedding(table, word)) * scale

    run = lf.cell(step) if cell else step
    h = lf.embedding(table, words[0])
    for word in words[1:]:
        h = run(h, word)
    return lf.sum(h * h)


def expected(table, weight, words, scale):
    h = table[words[0]]
    for word in words[1:]:
        h = np.tanh(weight @ h + table[word]) * scale
    return (h * h).sum()


@pytest.mark.parametrize("cell", [False, True])
def test_a_structure_that_came_by_twice_is_found_with_other_payload(plans, cell):
    table, weight = parameters()
    with lf.using(dedupe=False):
        for k in range(5):
            words, scale = [(i * (k + 1) + k) % 6 for i in range(4)], 0.5 + k
            found = loss(table, weight, words, scale, cell)
            np.testing.assert_allclose(found.item(), expected(TABLE, WEIGHT, words, scale))
    assert (plans.hits, plans.misses) == (3, 2) or cell  # a cell that is made anew has another signature
    assert cell or plans.info().plans == 1


def test_a_kept_root_runs_under_new_parameters_and_its_gradient_is_theirs(plans):
    table, weight = parameters()
    kept = loss(table, weight, [0, 1, 2])
    for k in range(5):
        weight.assign(WEIGHT * (1 + k))
        kept.forward()
        kept.backward()
        again_table, again_weight = lf.Parameter(TABLE), lf.Parameter(weight.numpy())
        fresh = loss(again_table, again_weight, [0, 1, 2])
        fresh.backward()
        np.testing.assert_allclose(kept.item(), fresh.item())
        np.testing.assert_allclose(weight.grad, again_weight.grad)
        weight.zero_grad()
    assert plans.hits == 3


@pytest.mark.parametrize("way", ["levels", "none"])
def test_another_setting_is_another_plan(plans, way):
    table, weight = parameters()
    for _ in range(3):
        loss(table, weight, [0, 1, 2]).forward()
    with lf.using(batching=way):
        root = loss(table, weight, [0, 1, 2])
        root.forward()
    assert plans.hits == 1 and plans.misses == 3
    np.testing.assert_allclose(root.item(), expected(TABLE, WEIGHT, [0, 1, 2], 1.0))


def test_another_parameter_is_another_plan(plans):
    for k in range(4):
        weight = lf.Parameter(WEIGHT * k)
        assert np.isclose(lf.sum(lf.matmul(weight, np.ones(3))).item(), (WEIGHT * k).sum())
    assert plans.hits == 0


def test_values_in_the_middle_come_from_their_own_run(plans):
    table, _ = parameters()
    for k in range(5):
        h = lf.embedding(table, k) * (k + 1)
        assert np.allclose(h.numpy(), TABLE[k] * (k + 1))  # known from here on
        assert np.isclose(lf.sum(h * 2).item(), 2 * (TABLE[k] * (k + 1)).sum())
    assert plans.hits == 6


def test_no_more_bytes_are_kept_than_allowed(plans):
    table, weight = parameters()
    plans.limit = 100_000
    for length in range(2, 14):
        for _ in range(3):
            loss(table, weight, [i % 6 for i in range(length)]).forward()
        assert plans.info().nbytes <= 100_000
    assert 0 < plans.info().plans < 12


def test_an_interrupt_leaves_no_more_bytes_than_allowed(plans):
    table, weight = parameters()
    for length in (5, 5, 6, 6, 7, 7):
        loss(table, weight, [0] * length).forward()
    *kept, (key, last) = plans.kept.items()
    limit = plans.info().nbytes - last.nbytes  # one more, and the longest unused has to go

    def full():
        own = Plans(limit)
        own.kept.update(kept)
        own.most = own.nbytes
        return own

    for k in range(bytecodes(functools.partial(full()._keep, key, last), ["plan/plans.py"])):
        own = full()
        where = interrupted(functools.partial(own._keep, key, last), k, ["plan/plans.py"])
        assert own.info().nbytes <= limit, where


def test_plans_go_with_their_parameters(plans):
    table, weight = parameters()
    for _ in range(3):
        loss(table, weight, [0, 1, 2]).forward()
    assert plans.info().plans == 1
    del table, weight
    gc.collect()
    lf.sum(lf.constant([1.0])).forward()
    gc.collect()
    assert plans.info().plans == 0


def test_explain_tells_what_is_kept(plans):
    table, weight = parameters()
    for _ in range(4):
        root = loss(table, weight, [0, 1, 2])
        root.forward()
    info = lf.explain(root).plans
    assert (info.hits, info.misses, info.plans) == (2, 2, 1)
    assert "plans kept: 2 hits, 2 misses, 1 plans in 0.0 of 16 MiB" in str(lf.explain(root))

"""Gradients of parameters over many runs: rows that wait for each other, and sums of dense and sparse gradients."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.device import to_host
from lazyflow.ops.sparse import RowSparse
from lazyflow.run import engine, sums
from lazyflow.run.sums import Sum

N = 4
RNG = np.random.default_rng(8)
W0, B0, TABLE, T0 = (RNG.normal(size=shape) * 0.5 for shape in ((N, N), N, (6, N), (2, N, N)))


def parameters():
    return [lf.Parameter(value) for value in (W0, B0, TABLE, T0, B0[0])]


STEPS = {  # what a step makes of the state, by which kinds of operands
    "affine": lambda W, b, E, T, s, h, t: lf.tanh(lf.affine(W, b, h)),
    "a matrix and a vector": lambda W, b, E, T, s, h, t: lf.tanh(W @ h) * b,
    "a vector and a matrix": lambda W, b, E, T, s, h, t: lf.sin(h @ W) + b,
    "rows of a table": lambda W, b, E, T, s, h, t: lf.tanh(E[t % 6] + E[(t * t) % 6] * h),
    "several rows": lambda W, b, E, T, s, h, t: lf.tanh(
        h + lf.sum(lf.embedding(E, [t % 6, (t + 2) % 6, t % 6]), axis=0)
    ),
    "payload numbers": lambda W, b, E, T, s, h, t: lf.sin(W * (0.1 * t) @ h + s * (1.0 if t % 2 else 2.0)),
    "a number": lambda W, b, E, T, s, h, t: h * s + b / (2.0 + t % 3),
    "one state read twice": lambda W, b, E, T, s, h, t: lf.tanh(W @ h + W @ lf.sin(h)),
    "a state for all": lambda W, b, E, T, s, h, t: lf.tanh(lf.sum([lf.affine(W, b, h) for _ in range(3)])),
    "slices": lambda W, b, E, T, s, h, t: lf.tanh(lf.concatenate([W[:2] @ h, h[2:] * b[2:]])),
    "a bilinear form": lambda W, b, E, T, s, h, t: lf.tanh(lf.concatenate([lf.bilinear(h, T, b), h[:2]])),
    "lists": lambda W, b, E, T, s, h, t: lf.tanh(lf.sum([b, h, *[s * h] * (t % 3)])),
}


def gradients(name, count, looks):
    """Of all parameters, by as many steps, whose values are looked at on the way or not."""
    found = parameters()
    h, values = lf.constant(B0), []
    for t in range(count):
        h = STEPS[name](*found, h, t)
        if looks:
            values.append(h.numpy())
    lf.sum(h * h).backward()
    grads = [p.grad for p in found]
    return [g if g is None else np.asarray(g) if isinstance(g, RowSparse) else to_host(g) for g in grads]


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("name", STEPS)
def test_gradients_over_many_runs_are_those_of_one(name, count):
    for looked, whole in zip(gradients(name, count, True), gradients(name, count, False), strict=True):
        assert (looked is None) == (whole is None)
        if looked is not None:
            np.testing.assert_allclose(looked, whole, rtol=1e-9, atol=1e-12)


# The first state has no gradient: its step has a signature of its own.
@pytest.mark.parametrize(("count", "products"), [(1, 1), (40, 2), (300, 3)])
def test_rows_of_one_signature_are_multiplied_together(monkeypatch, count, products):
    monkeypatch.setattr(engine, "MANY_RUNS", 10**9)  # many runs, and not one in their place
    calls = []
    whole = sums.parameter_gradients
    monkeypatch.setattr(sums, "parameter_gradients", lambda rows: calls.append(len(rows.g)) or whole(rows))
    monkeypatch.setattr("lazyflow.run.backward.parameter_gradients", sums.parameter_gradients)
    gradients("affine", count, True)
    assert sum(calls) == count and len(calls) == products


def test_sparse_gradients_of_many_runs_are_merged_when_they_have_doubled(monkeypatch):
    rows = []
    coalesce = RowSparse.coalesce.__func__
    monkeypatch.setattr(
        RowSparse,
        "coalesce",
        classmethod(lambda cls, xp, index, *rest: rows.append(len(index)) or coalesce(cls, xp, index, *rest)),
    )
    table = Sum(lf.Parameter(np.zeros((1000, 1))))
    for i in range(1000):
        table.add(RowSparse(np.array([i]), np.ones((1, 1)), (1000, 1)))
    assert (table.total().to_dense() == 1).all()
    assert sum(rows) < 5000  # one merge for each would be half a million


GRADIENT = st.tuples(st.booleans(), st.integers(0, 10**6))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(GRADIENT, min_size=1, max_size=12), st.booleans())
def test_sums(kinds, views):
    parameter = lf.Parameter(np.zeros((5, 2)))
    found, want = Sum(parameter), np.zeros((5, 2))
    given_ = []
    for sparse, seed in kinds:
        rng = np.random.default_rng(seed)
        index, values = rng.integers(0, 5, 3), rng.integers(-9, 9, (3, 2)).astype(float)
        one = RowSparse.coalesce(np, index, values, (5, 2))
        dense = np.concatenate([one.to_dense()] * 2)[:5] if views else one.to_dense()
        given_.append((one if sparse else dense, one.to_dense()))
        want += one.to_dense()
        found.add(given_[-1][0])
    total = found.total()
    assert isinstance(total, RowSparse) == all(sparse for sparse, _ in kinds)
    np.testing.assert_array_equal(np.asarray(total), want)
    for one, as_it_was in given_:  # nobody's array is changed
        np.testing.assert_array_equal(np.asarray(one), as_it_was)


def test_a_sum_has_a_place_where_nobody_else_has_it():
    w, found = lf.Parameter(np.zeros(2)), sums.Sums()
    assert found.place(w) is None
    given = np.array([1.0, 2.0])
    found.add(w, given)
    assert found.place(w) is None
    found.add(w, given)
    found.place(w)[0] += 1
    assert found[id(w)].total().tolist() == [3.0, 4.0] and given.tolist() == [1.0, 2.0]
    own = sums.Sums()
    own.add(w, given, own=True)
    assert own.place(w) is given

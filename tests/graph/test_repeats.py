"""Each thing once: equal nodes are one where they hang on payload alone, and nothing changes but the speed."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.graph.graph import collect
from lazyflow.graph.repeats import repeats_merged
from tests import bodies as C

SLOW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
N = 3
WORDS = [1, 4, 1, 1, 2, 4]


def nodes(root, operation=None):
    """How many nodes are computed, of one operation or all."""
    found = lf.explain(root, groups=1000)
    return found.nodes if operation is None else sum(g.nodes for g in found.groups if g.operation == operation)


def table(rows=5):
    return lf.Parameter(np.random.default_rng(0).normal(size=(rows, N)))


def test_equal_look_ups_and_what_hangs_on_them_alone():
    E, W = table(), lf.Parameter(np.ones((N, N)))
    leaves = [lf.tanh(W @ lf.embedding(E, w)) for w in WORDS]
    total = lf.sum([lf.sum(a * b) for a, b in zip(leaves, reversed(leaves), strict=True)])
    with lf.using(dedupe=False):
        assert (nodes(total, "lookup"), nodes(total, "matmul"), nodes(total, "multiply")) == (6, 6, 6)
    assert (nodes(total, "lookup"), nodes(total, "matmul"), nodes(total, "tanh")) == (3, 3, 3)
    pairs = {(a, b) for a, b in zip(WORDS, reversed(WORDS), strict=True)}
    assert nodes(total, "multiply") == len(pairs)


def test_cells_with_an_index():
    E = table()
    leaf = lf.cell(lambda i: (lf.tanh(lf.embedding(E, i)), lf.sum(lf.embedding(E, i))))
    found = [leaf(w) for w in WORDS]
    total = lf.sum([lf.sum(h) * s for h, s in found])
    cells = [g.nodes for g in lf.explain(total).groups if g.operation.startswith("cell")]
    assert cells == [3]
    with lf.using(dedupe=False):
        assert [g.nodes for g in lf.explain(total).groups if g.operation.startswith("cell")] == [6]


def test_shared_constants_do_not_make_everything_equal():
    """What hangs on operands without payload is left alone: repeats among them would be chance."""
    x = [lf.constant(np.ones(N)) for _ in range(4)]
    total = lf.sum([lf.sum(lf.tanh(v)) for v in x])
    assert nodes(total, "tanh") == 4


def test_factors_that_differ_by_sign_of_zero_or_are_nan():
    E = table()
    rows = [lf.embedding(E, 1) * t for t in (0.0, -0.0, float("nan"), float("nan"), 0.0, 2.0, 2.0)]
    total = lf.sum(rows)
    assert nodes(total, "lookup") == 1
    assert nodes(total, "multiply") == 4
    signs = [np.signbit(v) for v in lf.forward(rows)]
    assert (signs[0] != signs[1]).all()


def test_columns_beyond_the_table_of_keys():
    """Indices far apart, and many columns, are compared all the same."""
    E = lf.Parameter(np.arange(2.0 * 9_000_000).reshape(-1, 2).astype(np.float32), requires_grad=False)
    far = [0, 8_999_999, 5, 8_999_999, 0, 4_500_000]
    found = [lf.embedding(E, i) for i in far]
    assert nodes(lf.sum(found), "lookup") == 4
    np.testing.assert_array_equal(lf.forward(found), [[2 * i, 2 * i + 1] for i in np.float32(far)])


def test_random_nodes_are_never_one():
    E = table()
    dropped = lf.cell(lambda i: lf.dropout(lf.embedding(E, i) * 0 + 1, 0.5))
    draws = [lf.dropout(lf.embedding(E, 1) * 0 + 1, 0.5) for _ in range(20)]
    calls = [dropped(1) for _ in range(20)]
    noise = [lf.normal((N,)) for _ in range(20)]
    for found in (draws, calls, noise):
        assert len({a.numpy().tobytes() for a in found}) > 2
    assert nodes(lf.sum(draws), "dropout_mask") == 20


def test_what_hangs_on_random_nodes_is_never_one():
    E = table()
    found = [lf.tanh(lf.dropout(lf.embedding(E, 1), 0.5)) for _ in range(8)]
    with lf.using(fuse="off"):
        assert nodes(lf.sum(found), "tanh") == 8


@pytest.mark.parametrize("watch", ["retain_grad", "hook"])
def test_watched_nodes_have_gradients_of_their_own(watch):
    E = table()
    a, b, c = (lf.embedding(E, 1) * 1.0 for _ in range(3))
    seen = []
    if watch == "retain_grad":
        a.retain_grad()
    else:
        a.register_hook(lambda g: seen.append(g.copy()))
    loss = lf.sum(a * 2) + lf.sum(b * 3) + lf.sum(c * 5)
    loss.backward()
    np.testing.assert_allclose(a.grad if watch == "retain_grad" else seen[0], 2.0)
    np.testing.assert_allclose(C.dense(E.grad)[1], 10.0)
    assert nodes(loss, "lookup") <= 3


def test_watched_after_it_was_computed_with_an_equal_one():
    """It is computed again by itself, and its gradient is all of its own, from before and after."""
    E = table()
    a, b = (lf.embedding(E, 1) for _ in range(2))
    loss = lf.sum(a * 2) + lf.sum(b * 3)
    loss.forward()
    a.retain_grad()
    (loss + lf.sum(a * 7)).backward()
    np.testing.assert_allclose(a.grad, 9.0)
    np.testing.assert_allclose(C.dense(E.grad)[1], 12.0)


def test_a_hook_on_what_was_computed_with_an_equal_one():
    E = table()
    a, b = (lf.tanh(lf.embedding(E, 1)) for _ in range(2))
    loss = lf.sum(a * 2) + lf.sum(b * 3)
    before = loss.numpy()
    handle = a.register_hook(lambda g: g * 100)
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), before, rtol=1e-12)
    handle.remove()
    loss.backward()
    np.testing.assert_allclose(C.dense(E.grad)[1], (203 + 5) * (1 - np.tanh(E.numpy()[1]) ** 2))


def test_an_equal_root_is_a_value_of_its_own():
    E = table()
    a, b = (lf.tanh(lf.embedding(E, 2)) for _ in range(2))
    values = lf.forward([a, b])
    np.testing.assert_array_equal(*values)
    lf.sum(b * b).backward()
    np.testing.assert_allclose(C.dense(E.grad)[2], 2 * values[0] * (1 - values[0] ** 2))


def test_sums_of_many_are_left_alone():
    E = table()
    sums = [lf.sum([lf.embedding(E, w) for w in (1, 2)]) for _ in range(3)]
    assert nodes(lf.sum([lf.sum(s * s) for s in sums]), "sum_list") >= 3


def test_a_value_in_the_middle_and_equals_recorded_later():
    E = table()
    total = lf.sum(lf.embedding(E, 1))
    for _ in range(3):
        float(total)
        total = total + lf.sum(lf.embedding(E, 1) * lf.embedding(E, 1))
    total.backward()
    row = E.numpy()[1]
    np.testing.assert_allclose(total.item(), row.sum() + 3 * (row * row).sum())
    np.testing.assert_allclose(C.dense(E.grad)[1], 1 + 6 * row)


def test_a_graph_without_repeats_stays_as_it_is():
    graph = collect([lf.sum(lf.embedding(table(), 1))])
    assert repeats_merged(graph) is graph


def outcome(body, seed, decorate, **options):
    """Examples that repeat: each of three seeds twice, and words of a table of five."""
    parameters = C.parameters(seed)
    step = decorate(body.function(parameters))

    def leaf(i):
        return lf.embedding(parameters["E"], i)

    with lf.using(dtype="float64", **options):
        rng = np.random.default_rng(seed)
        losses = []
        for _ in range(6):
            a, b = leaf(int(rng.integers(0, 3))), leaf(int(rng.integers(0, 3)))
            for _ in range(int(rng.integers(1, 3))):
                h, others = step(a, b, int(rng.integers(0, 2)), float(rng.integers(0, 2)))
                a = lf.tanh(h)
            losses.append(lf.sum(a) + lf.tanh(others["sum"]))
        loss = lf.mean(losses)
        value = loss.item()
        loss.backward()
        for run in loss.tape.runs:
            run.plan.check()
        return value, C.gradients(parameters), nodes(loss)


@SLOW
@given(C.bodies(), st.integers(0, 500), st.booleans())
def test_nothing_changes_but_the_number_of_nodes(body, seed, decorated):
    decorate = lf.cell if decorated else (lambda f: f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        once = outcome(body, seed, decorate, fuse="numpy")
        each = outcome(body, seed, decorate, fuse="numpy", dedupe=False)
    np.testing.assert_allclose(once[0], each[0], rtol=1e-12)
    for name in each[1]:
        np.testing.assert_allclose(once[1][name], each[1][name], rtol=1e-9, atol=1e-11, err_msg=name)
    assert once[2] <= each[2]

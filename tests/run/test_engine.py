"""What a user relies on: values in the middle, staleness, gradients where needed, roots, memory, depth."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.settings import BATCHINGS
from tests.places import here


@pytest.fixture
def w():
    return lf.Parameter(np.array([1.0, -2.0, 3.0]))


def grad_of(parameter):
    return parameter.grad.to_dense() if isinstance(parameter.grad, lf.RowSparse) else parameter.grad


def test_nothing_runs_before_a_value_is_asked_for(w):
    y = lf.sum(w * 2)
    assert y.tape.runs == []
    assert y.item() == 4.0
    assert len(y.tape.runs) == 1


def test_a_value_in_the_middle_runs_only_what_it_needs(w):
    a = lf.tanh(w * 2)
    b = lf.exp(w * 3)
    a.numpy()
    (run,) = a.tape.runs
    assert {launch.signature.op.name for launch in run.plan.launches} == {"multiply", "tanh"}
    assert b.tape is a.tape and not b.tape.has_value(b.row)


def test_a_later_forward_uses_what_was_computed(w):
    h = lf.tanh(w)
    h.numpy()
    y = lf.sum(h * h)
    y.forward()
    names = [launch.signature.op.name for launch in y.tape.runs[0].plan.launches]
    assert "tanh" not in names and "known" in names


def test_an_unfinished_tape_and_its_successor_run_as_one_batch(w):
    left = [lf.tanh(w * k) for k in (1.0, 2.0)]
    (w * 5.0)[0].item()
    right = [lf.tanh(w * k) for k in (3.0, 4.0)]
    total = lf.sum(left + right)
    total.forward()
    (run,) = total.tape.runs
    assert [len(x.nodes) for x in run.plan.launches if x.signature.op.name == "tanh"] == [4]
    np.testing.assert_allclose(total.numpy(), sum(np.tanh(w.numpy() * k) for k in (1, 2, 3, 4)))


def test_an_expression_in_an_if_runs(w):
    x = lf.sum(w)
    assert x > 0
    assert not x < 0
    y = x * 2 if x > 1 else x * 3
    assert y.item() == 4.0


def test_backward_crosses_any_number_of_values_in_the_middle(w):
    h = lf.sum(w * w)
    for _ in range(20):
        if h > 0:
            h = h * 1.1
    h.backward()
    np.testing.assert_allclose(w.grad, 2 * w.numpy() * 1.1**20, rtol=1e-12)


def test_forward_after_an_update_means_the_new_parameters(w):
    y = lf.sum(w * w)
    assert y.forward().item() == 14.0
    w.assign([1.0, 1.0, 1.0])
    assert y.item() == 14.0, "a value that was computed stays until forward() is asked for"
    assert y.forward().item() == 3.0


@pytest.mark.parametrize(
    "change", [lambda p: p.assign([0.0, 1.0, 0.0]), lambda p: p.data.__setitem__(slice(None), here([0.0, 1.0, 0.0]))]
)
def test_every_way_to_change_a_parameter_is_noticed(w, change):
    y = lf.sum(w * w).forward()
    change(w)
    assert y.forward().item() == 1.0


def test_backward_after_an_update_differentiates_at_the_new_parameters(w):
    y = lf.sum(w * w * w).forward()
    w.assign([2.0, 2.0, 2.0])
    y.backward()
    np.testing.assert_allclose(w.grad, [12.0] * 3)


def test_an_update_reaches_values_that_rest_on_earlier_tapes(w):
    h = lf.tanh(w)
    h.numpy()
    y = lf.sum(h * 2)
    y.forward()
    w.assign([0.0, 0.0, 0.0])
    h.forward()
    assert y.forward().item() == 0.0


def test_in_place_arithmetic_needs_no_grad(w):
    with pytest.raises(RuntimeError, match="no_grad"):
        w -= 1.0
    with lf.no_grad():
        w -= 1.0
        w *= 2.0
    np.testing.assert_array_equal(w.numpy(), [0.0, -6.0, 4.0])


def test_gradients_accumulate_until_zero_grad(w):
    for _ in range(2):
        lf.sum(w * w).backward()
    np.testing.assert_allclose(w.grad, 4 * w.numpy())
    w.zero_grad()
    assert w.grad is None


def test_a_second_backward_adds_once_more(w):
    y = lf.sum(w * w)
    y.backward()
    y.backward()
    np.testing.assert_allclose(w.grad, 4 * w.numpy())


def test_a_parameter_that_the_loss_does_not_reach_has_no_gradient(w):
    other = lf.Parameter([1.0])
    lf.sum(other * 2).forward()
    lf.sum(w).backward()
    assert other.grad is None


def test_frozen_parameters_get_no_gradient(w):
    other = lf.Parameter([2.0, 2.0, 2.0])
    other.requires_grad = False
    y = lf.sum(w * other)
    y.backward()
    assert other.grad is None
    np.testing.assert_allclose(w.grad, [2.0] * 3)
    other.requires_grad = True
    lf.sum(w * other).backward()
    np.testing.assert_allclose(other.grad, w.numpy())


def test_detach_stops_the_gradient_and_keeps_the_value(w):
    y = lf.sum(w * (w * 3).detach())
    y.backward()
    np.testing.assert_allclose(w.grad, w.numpy() * 3)


def test_several_roots_run_together_and_differentiate_apart(w):
    a, b = lf.sum(lf.tanh(w)), lf.sum(lf.log(w))
    with np.errstate(invalid="ignore"):
        values = lf.forward([a, b])
    assert np.isnan(values[1])
    a.backward()
    np.testing.assert_allclose(w.grad, 1 - np.tanh(w.numpy()) ** 2), "a NaN of the other root must not get in"


def test_roots_of_a_generator_a_tuple_and_one_alone(w):
    values = [(w.numpy() * k).tolist() for k in (1, 2)]
    assert [v.tolist() for v in lf.forward(w * k for k in (1, 2))] == values
    assert [v.tolist() for v in lf.forward((w * 1, w * 2))] == values
    assert lf.forward(w * 2).tolist() == values[1]
    assert lf.forward(lf.sum(w)) == w.numpy().sum()
    with pytest.raises(TypeError, match="expected an expression, got list"):
        lf.forward([[w * 1, w * 2]])


def test_a_root_of_any_shape_with_a_given_gradient(w):
    (w * w).backward(np.array([1.0, 0.0, 10.0]))
    np.testing.assert_allclose(w.grad, [2.0, 0.0, 60.0])


def test_a_root_that_is_a_view(w):
    y = (w * w)[1:]
    np.testing.assert_allclose(y.numpy(), [4.0, 9.0])
    y.backward(np.array([1.0, 1.0]))
    np.testing.assert_allclose(w.grad, [0.0, -4.0, 6.0])


def test_a_parameter_itself_as_a_root(w):
    w.backward(np.ones(3))
    np.testing.assert_allclose(w.grad, np.ones(3))


def test_no_grad_records_constants(w):
    with lf.no_grad():
        y = w * 2
    assert not y.requires_grad
    z = lf.sum(y * w)
    z.backward()
    np.testing.assert_allclose(w.grad, w.numpy() * 2)


def test_without_gradients_finished_phases_are_freed():
    W = [lf.Parameter(np.eye(50, dtype=np.float32)) for _ in range(12)]

    def chain():
        x = lf.constant(np.ones(50, np.float32))
        for weight in W:
            x = weight @ x
        return x

    kept = chain().forward()
    with lf.no_grad():
        freed = chain().forward()
    np.testing.assert_array_equal(kept.numpy(), freed.numpy())
    few, all_ = [e.tape.runs[0].plan.layout.sizes[np.dtype(np.float32)] for e in (freed, kept)]
    assert few * 4 <= all_


def test_an_intermediate_value_is_computed_again_where_its_memory_was_freed():
    w = lf.Parameter(np.array([0.5]))
    with lf.no_grad():
        h = lf.tanh(w)
        y = lf.exp(lf.tanh(lf.tanh(h)))
        y.forward()
        np.testing.assert_allclose(h.numpy(), np.tanh([0.5]))


@pytest.mark.host  # no deep stack; a minute on the simulator
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_chain_of_a_hundred_thousand_nodes(batching):
    n = 100_000
    w = lf.Parameter(np.array(1e-6))
    with lf.using(batching=batching):
        x = lf.constant(np.array(0.0))
        for _ in range(n):
            x = x + w
        x.backward()
    np.testing.assert_allclose(x.item(), n * 1e-6, rtol=1e-9)
    np.testing.assert_allclose(w.grad, n)


def test_deep_views_are_resolved():
    x = y = lf.constant(np.arange(8.0)) * 1.0
    for k in range(1000):
        y = y.reshape((2, 4) if k % 2 == 0 else (8,))
    np.testing.assert_array_equal(y.numpy(), x.numpy())


def test_tapes_and_values_die_with_their_handles_and_leave_no_garbage(w):
    gc.collect()
    gc.disable()
    try:
        y = lf.sum(lf.tanh(w * w))
        y.backward()
        tape = weakref.ref(y.tape)
        run = weakref.ref(y.tape.runs[0])
        del y
        assert tape() is None and run() is None
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_parameter_lives_as_long_as_what_was_recorded_with_it():
    def forget():
        return lf.sum(lf.Parameter(np.array([2.0])) * 3.0)

    assert forget().item() == 6.0


def test_signatures_of_a_dead_parameter_go_with_it():
    p = lf.Parameter(np.ones((3, 3)))
    y = lf.sum(p @ lf.constant(np.ones(3)))
    y.backward()
    dead = weakref.ref(p)
    del p, y
    assert dead() is None


def test_recording_does_not_allocate_objects_that_the_collector_walks(w):
    x = lf.constant(np.ones(3)) * 1.0
    for _ in range(10):
        x = lf.tanh(x * x)
    before = len(gc.get_objects())
    for _ in range(1000):
        x = lf.tanh(x * x)
    assert len(gc.get_objects()) - before < 20
    assert x.tape.nbytes / len(x.tape) <= 40


def test_threads_record_on_tapes_of_their_own():
    from concurrent.futures import ThreadPoolExecutor

    w = lf.Parameter(np.ones(4))

    def work(k):
        x = lf.constant(np.full(4, float(k)))
        for _ in range(200):
            x = lf.tanh(x * w + 0.1)
        return x.numpy(), id(x.tape)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    for k, (value, _) in enumerate(found):
        np.testing.assert_array_equal(value, work(k)[0])


def test_settings_nest_and_end():
    with lf.using(dtype="float64"):
        with lf.using(batching="depth"):
            assert lf.constant([1.0]).dtype == np.float64
        assert lf.constant(1.0).dtype == np.float64
    assert lf.constant([1.0]).dtype == np.float32


def test_using_is_a_decorator():
    @lf.no_grad()
    def f(p):
        return p * 2

    assert not f(lf.Parameter([1.0])).requires_grad


def test_a_constant_is_a_snapshot():
    a = np.array([1.0, 2.0])
    x = lf.constant(a)
    y = x + a
    a[:] = 100.0
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])
    np.testing.assert_array_equal(y.numpy(), [2.0, 4.0])


def test_what_numpy_returns_is_the_callers_own(w):
    y = w * 1.0
    y.numpy()[:] = 100.0
    np.testing.assert_array_equal(y.numpy(), w.numpy())


def test_embedding_gradients_are_sparse_rows():
    table = lf.Parameter(np.arange(12.0).reshape(6, 2))
    loss = lf.mean([lf.sum(lf.embedding(table, i) * (i + 1.0)) for i in (4, 1, 4)])
    loss.backward()
    assert isinstance(table.grad, lf.RowSparse)
    assert table.grad.indices.tolist() == [1, 4]
    np.testing.assert_allclose(table.grad.values, [[2 / 3] * 2, [10 / 3] * 2])


def test_a_table_that_is_looked_up_in_and_multiplied_has_a_dense_gradient():
    table = lf.Parameter(np.eye(3))
    loss = lf.sum(lf.embedding(table, 1)) + lf.sum(table @ lf.constant(np.array([1.0, 2.0, 3.0])))
    loss.backward()
    expected = np.tile([1.0, 2.0, 3.0], (3, 1))
    expected[1] += 1
    np.testing.assert_allclose(grad_of(table), expected)


def test_retain_grad_keeps_the_gradient_of_an_intermediate(w):
    h = w * 2
    h.retain_grad()
    lf.sum(h * h).backward()
    np.testing.assert_allclose(h.grad, 4 * w.numpy())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("float32", 1e-6), ("float64", 1e-14)])
def test_storage_dtypes(dtype, tolerance):
    w = lf.Parameter(np.array([0.5, -0.25], dtype))
    y = lf.sum(lf.tanh(w) * 2)
    y.backward()
    assert y.dtype == w.grad.dtype == np.dtype(dtype)
    np.testing.assert_allclose(w.grad, 2 * (1 - np.tanh([0.5, -0.25]) ** 2), rtol=tolerance)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copied_parameter_has_gradients_of_its_own(w, duplicate):
    other = duplicate(w)
    lf.sum(other * other).backward()
    assert w.grad is None
    np.testing.assert_allclose(other.grad, 2 * w.numpy())


def test_a_run_outlives_a_parameter_that_it_used(w):
    h, side = lf.tanh(w), lf.constant(3.0) * 1.0
    side.numpy()
    brief = lf.Parameter(np.ones(3))
    lf.sum(h * brief).numpy()
    del brief
    lf.sum(h * h).backward()
    np.testing.assert_allclose(w.grad, 2 * np.tanh(w.numpy()) * (1 - np.tanh(w.numpy()) ** 2))


def test_long_lived_constants_keep_no_run_alive(w):
    data = [lf.constant(np.full(3, float(k))) for k in range(10)]
    data[0].numpy()
    runs = []
    for x in data:
        loss = lf.sum(w * x)
        loss.backward()
        runs.append(weakref.ref(loss.tape.runs[0]))
        del loss
    assert [run() for run in runs] == [None] * len(data)


@pytest.mark.parametrize("count", [2, 5])
def test_roots_of_one_tape_whose_values_are_stale_in_turn(w, count):
    """The run of each reads a tape of its own and theirs: what is forgotten for one takes the other's value away."""
    before = []
    for k in range(count):
        before.append(w * (k + 1.0))
        lf.forward(before[-1:])
    w.assign([0.5, 0.25, 0.125])
    roots = [lf.tanh(value) for value in before]
    for root in roots[1:]:
        root.numpy()
    found = lf.forward([*roots[1:], roots[0]])
    expected = [np.tanh(np.array([0.5, 0.25, 0.125]) * (k + 1)) for k in [*range(1, count), 0]]
    np.testing.assert_allclose(found, expected)

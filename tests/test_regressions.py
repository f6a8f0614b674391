"""What went wrong once, each the smallest program that showed it."""

import threading
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.schedule import Choices
from lazyflow.settings import BATCHINGS
from lazyflow.tape import signature_columns

LISTS = {
    "sum": lf.sum,
    "mean": lambda operands: lf.mean(operands) * 2,
    "stack": lambda operands: lf.sum(lf.stack(operands), axis=0),
    "stack behind": lambda operands: lf.sum(lf.stack(operands, axis=1), axis=1),
    "concatenate": lambda operands: lf.sum(lf.concatenate(operands).reshape(2, 2), axis=0),
}


def without_gradient():
    with lf.no_grad():
        return lf.Parameter(np.ones(2)) * 2.0


OTHERS = {
    "no_grad": without_gradient,
    "constant": lambda: lf.constant(np.ones(2)),
    "detached": lambda: (lf.Parameter(np.ones(2)) * 2.0).detach(),
    "parameter": lambda: lf.Parameter(np.ones(2)),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("join", LISTS)
def test_a_list_of_values_with_and_without_gradient(join, other, first):
    q = lf.Parameter(np.ones(2))
    y, h = q * 3.0, OTHERS[other]()
    loss = lf.sum(LISTS[join]([h, y] if first else [y, h])) + lf.sum(y)
    loss.backward()
    np.testing.assert_allclose(q.grad, [6.0, 6.0])


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("use", [lambda y, q: y.detach() * q, lambda y, q: lf.where(y > 0.5, q, 0.0)])
def test_no_gradient_passes_where_none_is_wanted(use, evaluated):
    p, q = lf.Parameter(np.array([0.0, 1.0])), lf.Parameter(np.array([1.0, 2.0]))
    y = lf.sqrt(p)  # whose derivative at 0 is infinite
    if evaluated:
        y.numpy()
    lf.sum(use(y, q)).backward()
    assert p.grad is None and np.isfinite(q.grad).all()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_known_values_stand_before_their_users(batching):
    with lf.using(batching=batching):
        x = lf.constant([1.0, 2.0])
        a, u = lf.tanh(x), lf.sin(x)
        a.numpy()
        b = a + 1.0
        lf.cos(a).numpy()
        total = u + b
        np.testing.assert_allclose(total.numpy(), np.sin([1, 2]) + np.tanh([1, 2]) + 1, rtol=1e-6)
        for run in total.tape.runs:
            run.plan.check()


def carried(steps, detach_first):
    """A state that is carried on through updates without gradient: truncated backpropagation through time."""
    w = lf.Parameter(np.eye(2))
    h, tapes = lf.constant(np.array([0.5, -0.5])), []
    for _ in range(steps):
        h = lf.tanh(w @ h)
        loss, kept = lf.sum(h * h), h.detach() if detach_first else None
        loss.backward()
        with lf.no_grad():
            w -= 0.1 * w.grad
        w.zero_grad()
        tapes.append(weakref.ref(h.tape))
        h = kept if kept is not None else h.detach()
    return w.numpy(), sum(tape() is not None for tape in tapes)


def carried_by_hand(steps):
    w, h = np.eye(2), np.array([0.5, -0.5])
    for _ in range(steps):
        before, h = h, np.tanh(w @ h)
        w = w - 0.1 * np.outer(2 * h * (1 - h * h), before)
    return w


@pytest.mark.parametrize("detach_first", [True, False])
def test_truncated_backpropagation_keeps_its_state_and_no_past(detach_first):
    w, alive = carried(30, detach_first)
    np.testing.assert_allclose(w, carried_by_hand(30), rtol=1e-12)
    assert alive <= 2


def test_streaming_without_gradient_keeps_no_past():
    w = lf.Parameter(np.eye(2))
    with lf.no_grad():
        h, tapes = lf.constant(np.array([0.5, -0.5])), []
        for _ in range(30):
            h = lf.tanh(w @ h)
            h.forward()
            tapes.append(weakref.ref(h.tape))
    assert sum(tape() is not None for tape in tapes) <= 2


def test_a_held_array_of_a_parameter_may_change_at_any_time():
    w = lf.Parameter(np.eye(2))
    held, x = w.data, lf.constant(np.array([1.0, 2.0]))
    (w @ x).numpy()
    held *= 10
    np.testing.assert_array_equal((w @ x).numpy(), [10.0, 20.0])
    np.testing.assert_array_equal((w * x).numpy(), [[10.0, 0.0], [0.0, 20.0]])


def test_a_payload_that_does_not_fit_leaves_the_tape_whole():
    x = lf.constant([1.0, 2.0])
    h, g = x * 1.0, x * 3.0
    with pytest.raises(OverflowError):
        h * 10**400
    np.testing.assert_array_equal((g * 5.0 * 7.0).numpy(), [105.0, 210.0])


def test_a_torn_recording_is_noticed():
    x = lf.constant([1.0, 2.0]) * 2.0
    x.tape.floats.append(1.0)  # what another thread does between two appends of this one
    with pytest.raises(lf.LazyflowError, match="several threads"):
        x.numpy()


def test_threads_that_share_parameters_do_not_meet():
    w, found = lf.Parameter(np.ones(4)), {}

    def work(k):
        x = lf.constant(np.full(4, float(k)))
        for _ in range(100):
            x = lf.tanh(x * w + 0.1)
        found[k] = x.numpy()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(found)
    for k in range(4):
        work(k)
        np.testing.assert_array_equal(together[k], found[k])


@pytest.mark.parametrize("position", [0, 1])
def test_numbers_among_expressions_in_a_list(position):
    p = lf.Parameter([2.0])
    operands = [lf.sum(p * p)]
    operands.insert(position, 1.0)
    total = lf.sum(operands)
    total.backward()
    assert total.item() == 5.0 and p.grad.tolist() == [4.0]


@pytest.mark.parametrize("use", [lf.constant, lf.logsumexp, lf.max, lf.softmax, lambda x: lf.Parameter([1.0, 1.0]) * x])
def test_a_list_of_expressions_is_no_array(use):
    a, b = lf.constant(1.0), lf.constant(2.0)
    with pytest.raises(TypeError, match=r"lf\.stack"):
        use([a, b])


@pytest.mark.parametrize("use", [lambda x: lf.sum(x, axis=1), lambda x: lf.mean(x, keepdims=True)])
def test_a_list_has_no_axis(use):
    a = lf.constant([1.0, 2.0])
    with pytest.raises(TypeError, match="no axis"):
        use([a, a])


@pytest.mark.parametrize("index", [-1, 3])
@pytest.mark.parametrize(
    "use", [lf.cross_entropy, lf.nll, lf.hinge, lambda x, i: lf.embedding(lf.Parameter(np.eye(3)), i)]
)
def test_a_computed_index_out_of_range(use, index):
    with pytest.raises(IndexError, match=f"{index} is out of range"):
        use(lf.constant([1.0, 2.0, 3.0]), lf.constant(index) + 0).numpy()


def test_retained_gradients_of_views_are_their_own():
    a = lf.Parameter(np.array([1.0, 2.0, 3.0]))
    z = a * 2.0
    v = z[1:]
    v.retain_grad()
    (lf.sum(v * v) + lf.sum(z)).backward()
    np.testing.assert_allclose(v.grad, [8.0, 12.0])
    np.testing.assert_allclose(a.grad, [2.0, 18.0, 26.0])


@pytest.mark.parametrize("value", [lambda a: (a * 2.0).detach(), lambda a: lf.argmax(a), lambda a: lf.constant(1.0)])
def test_only_values_with_a_gradient_retain_it(value):
    with pytest.raises(lf.GradientError, match="no gradient reaches"):
        value(lf.Parameter([1.0, 2.0])).retain_grad()


def test_a_retained_value_that_backward_does_not_reach_has_none():
    a = lf.Parameter([1.0, 2.0])
    h, other = a * 2.0, a * 3.0
    h.retain_grad()
    first, second = lf.sum(h), lf.sum(other)
    lf.forward([first, second])
    second.backward()
    assert h.grad is None


@pytest.mark.parametrize("optimizer", [lf.optim.SGD, lf.optim.Adam, lf.optim.RMSprop, lf.optim.Adagrad])
def test_a_learned_scalar(optimizer):
    s = lf.Parameter(2.0)
    opt = optimizer([s], lr=0.1)
    (s * s).backward()
    (s * 1.0).backward()
    assert isinstance(s.grad, np.ndarray) and s.grad.item() == 5.0
    lf.optim.clip_grad_norm([s], 1.0)
    opt.step()
    assert s.numpy() < 2.0


def test_check_finite_names_a_parameter_that_is_not():
    p = lf.Parameter([np.nan, 1.0], name="weight")
    with lf.using(check_finite=True), pytest.raises(lf.NonFiniteError, match=r"Parameter\(weight"):
        lf.sum(p * p).forward()


def test_check_finite_looks_at_the_root_alone():
    with lf.using(check_finite=True), np.errstate(divide="ignore"):
        y = lf.log(lf.constant([0.0, 1.0]))
        assert y[1].item() == 0.0


def test_check_finite_names_what_an_earlier_run_made():
    p = lf.Parameter([0.0, 1.0])
    with np.errstate(divide="ignore"), lf.using(check_finite=True):
        y = lf.log(p)
        y[1].item()
        with pytest.raises(lf.NonFiniteError, match=r"^log at "):
            lf.sum(y).forward()


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        (lambda x: lf.take(x, [-5]), IndexError, "index -5"),
        (lambda x: x[True], TypeError, "bool"),
        (lambda x: lf.explain(lf.Parameter([1.0])), TypeError, "Parameter"),
        (lambda x: lf.explain(3), TypeError, "int"),
    ],
)
def test_messages(mistake, error, words):
    with pytest.raises(error, match=words):
        mistake(lf.constant([1.0, 2.0, 3.0]))


def test_small_things():
    x = lf.constant([[1.0, 2.0], [3.0, 4.0]])
    assert x.sum(axis=[0, 1]).item() == 10.0
    assert x[[]].shape == (0, 2) and lf.embedding(x, []).shape == (0, 2)
    np.testing.assert_array_equal(lf.embedding(np.eye(2), 1).numpy(), [0.0, 1.0])


def test_logic_of_comparisons():
    x = lf.constant([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(((x > 1) & (x < 3)).numpy(), [False, True, False])
    np.testing.assert_array_equal(((x < 2) | ~(x < 3)).numpy(), [True, False, True])
    for mistake in (lambda: x & x, lambda: ~x, lambda: (x > 1) | 1.0):
        with pytest.raises(lf.DTypeError, match="booleans"):
            mistake()


def test_a_value_in_a_text():
    loss = lf.sum(lf.constant([1.0, 2.5]))
    assert f"{loss:.2f}" == "3.50"
    assert "float32" in f"{loss}"


def test_an_array_does_not_take_the_place_of_a_parameter():
    layer = lf.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"weight\.assign"):
        layer.weight = np.zeros((2, 2))
    layer.weight = lf.Parameter(np.zeros((2, 2)))
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_signatures_of_dead_parameters_leave_their_numbers():
    def use():
        w = lf.Parameter(np.ones((2, 2)))
        lf.sum(w @ lf.constant(np.ones(2))).backward()

    use()
    before = len(signature_columns()[0])
    for _ in range(50):
        use()
    assert len(signature_columns()[0]) == before


def test_choices_are_bounded():
    choices = Choices(most=3)
    for key in range(10):
        choices.learn(key, "levels")
    assert list(choices.known) == [7, 8, 9]


@pytest.mark.parametrize(
    "key",
    [
        None,
        (None,),
        (None, None),
        Ellipsis,
        (..., None),
        (slice(None), None),
        (None, ..., None),
        (slice(None), None, ...),
    ],
)
def test_new_axes_are_free(key):
    x = np.arange(6.0).reshape(2, 3)
    e = lf.constant(x) * 1
    part = e[key]
    assert lf.explain(part).nodes == lf.explain(e).nodes
    np.testing.assert_array_equal(part.numpy(), x[key])

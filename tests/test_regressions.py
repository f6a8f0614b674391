"""What went wrong once, each the smallest program that showed it."""

import threading
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops import OPS
from lazyflow.plan.schedule import Choices
from lazyflow.record.expr import record
from lazyflow.record.tape import signature_columns
from lazyflow.settings import BATCHINGS
from tests.places import is_array_here


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


@pytest.mark.host
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


@pytest.mark.parametrize("use", [lf.constant, lf.cumsum, lf.softmax, lambda x: lf.Parameter([1.0, 1.0]) * x])
def test_a_list_of_expressions_is_no_array(use):
    a, b = lf.constant(1.0), lf.constant(2.0)
    with pytest.raises(TypeError, match=r"lf\.stack"):
        use([a, b])


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
    assert is_array_here(s.grad) and s.grad.item() == 5.0
    lf.optim.clip_grad_norm([s], 1.0)
    opt.step()
    assert s.numpy() < 2.0


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

    for _ in range(10):  # as many as may live at a time: that of a plan that is kept, those of a graph run just now
        use()
    before = len(signature_columns()[0])
    for _ in range(50):
        use()
    assert len(signature_columns()[0]) <= before + 2


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


def test_roots_with_and_without_gradient_in_one_forward():
    w = lf.Parameter(np.array([1.0, 2.0, 3.0]))
    loss = lf.sum(lf.tanh(lf.tanh(w * w) * 2))
    with lf.no_grad():
        other = lf.exp(w)
    lf.forward([loss, other])
    loss.backward()
    squares = w.numpy() ** 2
    slope = 2 / np.cosh(2 * np.tanh(squares)) ** 2 / np.cosh(squares) ** 2
    np.testing.assert_allclose(w.grad, slope * 2 * w.numpy(), rtol=1e-9)


def test_a_value_taken_over_is_taken_over_again_when_it_has_changed():
    w = lf.Parameter(np.array([1.0, 2.0]))
    with lf.no_grad():
        h = lf.tanh(w)
    h.forward()
    first = h * w
    w.assign(np.zeros(2))
    h.forward()
    second = h * 1.0
    assert second.tape is first.tape
    np.testing.assert_array_equal(second.numpy(), [0.0, 0.0])


def test_a_run_of_new_values_does_not_hide_one_of_old_values():
    w = lf.Parameter(np.array([1.0, 2.0]))
    h = lf.tanh(w)
    h.forward()
    a, b = h * 2, h * 3
    a.numpy()
    w.assign(np.zeros(2))
    h.forward()
    b.numpy()
    np.testing.assert_array_equal(a.forward().numpy(), [0.0, 0.0])
    np.testing.assert_array_equal(b.forward().numpy(), [0.0, 0.0])


@pytest.mark.parametrize("batching", BATCHINGS)
def test_rows_of_no_elements(batching):
    table, p = lf.Parameter(np.ones((5, 0))), lf.Parameter(np.ones((0, 2)))
    with lf.using(batching=batching):
        rows = [lf.tanh(lf.embedding(table, i)) for i in (3, 1, 2, 0)]
        parts = [p * float(k) for k in range(4)]
        losses = [lf.sum(rows[i] * rows[j]) for i, j in ((3, 0), (1, 2), (0, 0))]
        losses += [lf.sum(lf.sum([parts[3], parts[0]])), lf.sum(lf.sum([parts[1], parts[3], parts[0]]))]
        losses += [lf.sum(join([parts[3], parts[0], parts[2]])) for join in (lf.stack, lf.concatenate)]
        total = lf.sum(losses)
        total.backward()
    assert total.item() == 0.0 and p.grad.shape == (0, 2) and table.grad.to_dense().shape == (5, 0)


@pytest.mark.parametrize(
    "use", [lambda p, x: p[0] * x, lambda p, x: lf.embedding(p, 1) * x, lambda p, x: p @ x, lambda p, x: p * x]
)
def test_a_gradient_has_the_dtype_of_its_parameter(use):
    p = lf.Parameter(np.ones((2, 2), np.float32))
    for _ in range(2):
        lf.sum(use(p, lf.constant(np.ones(2)))).backward()
        assert p.grad.dtype == np.float32


@pytest.mark.parametrize("batching", BATCHINGS)
def test_without_gradient_the_memory_of_a_root_is_not_used_again(batching):
    x = np.array([0.5, -0.5])
    with lf.no_grad(), lf.using(batching=batching):
        e = lf.constant(x)
        unused = [f(e) for f in (lf.exp, lf.log1p, lf.sinh, lf.cosh, lf.arctan, lf.erf, lf.square, lf.negative)]
        root = e * 2.0
        other = lf.sin(lf.cos(lf.tanh(lf.sigmoid(root))))
        values = lf.forward([root, other])
    assert len(unused) == 8
    np.testing.assert_array_equal(values[0], 2 * x)
    np.testing.assert_allclose(values[1], np.sin(np.cos(np.tanh(1 / (1 + np.exp(-2 * x))))))


def test_a_slice_to_a_value_that_changes():
    w, x = lf.Parameter([1.0, 0.0]), lf.constant(np.arange(5.0)) * 1.0
    n = lf.argmax(w)
    assert x[n:].shape == (5,)
    w.assign([0.0, 1.0])
    n.forward()
    assert x[n:].shape == (4,) and x[:n].shape == (1,)


@pytest.mark.parametrize(
    "use",
    [
        lambda: lf.exp(1.0),
        lambda: lf.add(1.0, 2.0),
        lambda: lf.where(lf.constant([1.0, 2.0]) > 1.5, 1.0, 0.0),
        lambda: (lf.constant([1.0, 2.0]) > 1.5) * 0.5,
        lambda: lf.cross_entropy(lf.constant([0.0, 1.0]), [0.3, 0.7]),
    ],
)
def test_numbers_without_a_dtype_beside_them_take_the_default_one(use):
    value = use()
    assert value.dtype == value.numpy().dtype == np.float32
    with lf.using(dtype="float64"):
        assert use().dtype == np.float64


def test_a_decorated_function_in_several_threads_goes_back_to_its_own_settings():
    entered, leave, dtypes = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)], {}

    @lf.no_grad()
    def wait(k):
        entered[k].set()
        assert leave[k].wait(10)

    def work(k, dtype):
        with lf.using(dtype=dtype):
            wait(k)
            dtypes[k] = lf.constant(1.0).dtype

    threads = [threading.Thread(target=work, args=(k, dtype)) for k, dtype in enumerate(("float64", "float16"))]
    for thread, event in zip(threads, entered, strict=True):
        thread.start()
        assert event.wait(10)
    for thread, event in zip(threads, leave, strict=True):  # the first to enter is the first to leave
        event.set()
        thread.join()
    assert dtypes == {0: np.float64, 1: np.float16}


X, MATRIX = lf.constant([1.0, 2.0, 3.0, 4.0]), lf.constant(np.ones((2, 3)))
TABLE = lf.Parameter(np.ones((3, 4)))
RAGGED = [[1, 2], [3]]
WRONG = {
    "split into a float": (lambda: lf.split(X, 2.0), "split: sections"),
    "split at a float": (lambda: lf.split(X, [1.5]), "split: sections"),
    "split along a float": (lambda: lf.split(MATRIX, 1, axis=1.0), "split: axis"),
    "ragged constant": (lambda: lf.constant(RAGGED), "different lengths"),
    "ragged parameter": (lambda: lf.Parameter(RAGGED), "different lengths"),
    "ragged operand": (lambda: X + RAGGED, "different lengths"),
    "ragged index": (lambda: X[RAGGED], "different lengths"),
    "ragged rows": (lambda: lf.embedding(TABLE, RAGGED), "different lengths"),
    "ragged take": (lambda: lf.take(X, RAGGED), "different lengths"),
    "ragged classes": (lambda: lf.cross_entropy(MATRIX, RAGGED), "different lengths"),
    "generator": (lambda: lf.sum(x for x in [X, X]), "make a list"),
    "float axis": (lambda: lf.sum(MATRIX, axis=1.0), "sum: axis"),
    "float axis of a method": (lambda: MATRIX.mean(1.0), "mean: axis"),
    "bool axis": (lambda: lf.max(MATRIX, axis=True), "max: axis"),
    "text axis": (lambda: lf.softmax(MATRIX, axis="a"), "softmax: axis"),
    "no axis": (lambda: lf.softmax(MATRIX, axis=None), "softmax: axis"),
    "no axis to stack along": (lambda: lf.stack([X, X], axis=None), "stack: axis"),
    "no axis to concatenate along": (lambda: lf.concatenate([X, X], axis="0"), "concatenate: axis"),
    "no list": (lambda: lf.concatenate(3), "a list of expressions"),
    "transpose": (lambda: lf.transpose(MATRIX, (1.0, 0)), "transpose: axes"),
    "swapaxes": (lambda: lf.swapaxes(MATRIX, 0.0, 1), "swapaxes: axis1"),
    "expand_dims": (lambda: lf.expand_dims(X, 1.0), "expand_dims: axis"),
    "squeeze": (lambda: lf.squeeze(MATRIX, 1.0), "squeeze: axis"),
    "flip": (lambda: lf.flip(MATRIX, 1.0), "flip: axis"),
    "reshape": (lambda: lf.reshape(X, (2.5, 2)), "reshape: the shape"),
    "broadcast_to": (lambda: lf.broadcast_to(X, (2.0, 4)), "broadcast_to: the shape"),
    "pad": (lambda: lf.pad(X, 1.5), "pad: pad_width"),
    "pad with a text": (lambda: lf.pad(X, 1, constant_value="a"), "pad: constant_value"),
    "pad by three": (lambda: lf.pad(X, (1, 2, 3)), "pad: pad_width"),
    "repeat": (lambda: lf.repeat(X, 1.5), "repeat: repeats"),
    "tril": (lambda: lf.tril(MATRIX, 0.5), "tril: k"),
    "diagonal": (lambda: lf.diagonal(MATRIX, 0.5), "diagonal: offset"),
    "ddof": (lambda: lf.var(X, ddof=0.5), "var: ddof"),
    "slice": (lambda: X[1.0:2], "a slice"),
    "inner slice": (lambda: MATRIX[:, "a":], "a slice"),
    "pick": (lambda: lf.pick(MATRIX, 1, axis=1.0), "pick: axis"),
    "take": (lambda: lf.take(MATRIX, [0], axis=1.0), "take: axis"),
    "take along no axis": (lambda: lf.take(MATRIX, [0], axis=5), "axis 5 is out of range"),
    "pick along no axis": (lambda: lf.pick(MATRIX, 1, axis=4), "axis 4 is out of range"),
    "one_hot": (lambda: lf.one_hot(1, 2.5), "one_hot: n"),
    "reduction": (lambda: lf.cross_entropy(X, 1, reduction="max"), "reduction must be"),
    "reduction of nll": (lambda: lf.nll(X, 1, reduction=None), "reduction must be"),
    "scores": (lambda: lf.cross_entropy(X[0], 0), "scores of at least one class"),
    "margin": (lambda: lf.hinge(X, 1, margin="a"), "hinge: margin"),
    "delta": (lambda: lf.huber(X, X, delta="a"), "huber: delta"),
    "einsum": (lambda: lf.einsum(3, X, X), "einsum: subscripts"),
    "dropout": (lambda: lf.dropout(X, "a"), "dropout: p"),
    "size of a draw": (lambda: lf.normal((2.5,)), "normal: the shape"),
    "spread of a draw": (lambda: lf.normal((2,), 0.0, "a"), "normal: std"),
    "stream of a draw": (lambda: lf.uniform((2,), stream=3), "uniform: stream"),
    "alpha": (lambda: lf.elu(X, "a"), "elu: alpha"),
    "gradient of text": (lambda: lf.sum(TABLE).backward("a"), "must be of numbers"),
    "gradient that is a list": (lambda: setattr(TABLE, "grad", [1.0]), "a gradient is an array"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_arguments_are_named(mistake):
    use, words = WRONG[mistake]
    with pytest.raises((TypeError, ValueError), match=words):
        use()


def test_numpy_integers_are_integers():
    one = np.int64(1)
    assert len(lf.split(X, np.int64(2))) == 2 and lf.split(X, np.array([1, 3]))[1].shape == (2,)
    assert lf.expand_dims(X, one).shape == (4, 1) and lf.squeeze(lf.reshape(X, (4, one)), one).shape == (4,)
    assert lf.sum(MATRIX, axis=np.array([0, 1])).shape == () and lf.flip(MATRIX, one).shape == (2, 3)
    assert lf.tile(X, np.array([2])).shape == (8,) and lf.broadcast_to(X[0], np.int64(3)).shape == (3,)
    assert lf.stack(x * 2.0 for x in [X, X]).shape == (2, 4)


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_choice_follows_an_update(evaluated):
    w = lf.Parameter(np.array([1.0, 2.0]))
    best, large = lf.argmax(w), w > 1.5
    if evaluated:
        lf.forward([best, large])
    y = lf.sum(lf.where(large, w, 0.0)) + lf.pick(lf.constant(np.array([10.0, 20.0])), best)
    assert y.forward().item() == 22.0
    w.assign(np.array([3.0, 1.0]))
    assert y.forward().item() == 13.0


@pytest.mark.parametrize("state", [{"seed": -4, "count": 1}, {"seed": 4, "count": "x"}, {"seed": 4}, 3])
def test_a_wrong_stream_leaves_the_model_beside_it_alone(state, tmp_path):
    class Saved:
        def state_dict(self):
            return state if isinstance(state, dict) else {"seed": state}

    path, model, stream = tmp_path / "run.safetensors", lf.nn.Linear(2, 2), lf.random.Stream(3)
    lf.save(path, model=model, stream=Saved())
    model.weight.assign(np.zeros((2, 2)))
    with pytest.raises(lf.CheckpointError, match="stream"):
        lf.load(path, model=model, stream=stream)
    assert not model.weight.numpy().any() and (stream.seed, stream.count) == (3, 0)


@pytest.mark.parametrize("fuse", ["auto", "numpy"])
def test_a_gate_that_a_later_step_reads_is_not_overwritten(fuse):
    # The sigmoid, kept for backward in the columns of its product, was taken once more for the sum behind the product.
    rng = np.random.default_rng(0)
    W, b, V = (lf.Parameter(rng.normal(size=size)) for size in ((6, 4), 6, (2, 4)))
    left, right = (lf.constant(rng.normal(size=2)) for _ in range(2))

    def mixed(left, right):
        z, r, s = lf.split(lf.sigmoid(lf.affine(W, b, lf.concatenate([left, right]))), 3)
        return z * lf.matmul(V, lf.concatenate([r * left, s * right])) + (1 - z)

    found = []
    for f in (mixed, lf.cell(mixed)):
        with lf.using(fuse=fuse):
            loss = lf.sum(f(f(left, right), right) ** 2)
            loss.backward()
        found.append([loss.numpy(), *(p.grad.copy() for p in (W, b, V))])
        W.grad = b.grad = V.grad = None
    for plain, cell in zip(*found, strict=True):
        np.testing.assert_allclose(cell, plain, rtol=1e-10)


EMPTY = (
    lambda x: x[3:],
    lambda x: x[1:1],
    lambda x: lf.split(x, [3])[1],
    lambda x: x[::2][2:],
    lambda x: x[3:].reshape(0, 2),
    lambda x: lf.tanh(x[3:]),
    lambda x: lf.tanh(x[3:])[0:0],
    lambda x: lf.tanh(x[3:]).reshape(2, 0)[1],
)


@pytest.mark.parametrize("part", range(len(EMPTY)))
def test_an_empty_part_of_a_value_that_is_known_belongs_to_that_value(part):
    """Behind its last element another value lies, which got the gradient, or nothing does."""
    p, q = lf.Parameter(np.ones(3)), lf.Parameter(np.ones(3))
    x, y = p * 2, q * 3
    e = EMPTY[part](x)
    lf.forward([x, y, e])
    lf.sum(e).backward()
    assert p.grad.tolist() == [0, 0, 0]
    assert q.grad is None


@pytest.mark.parametrize(
    "name", sorted(n for n, op in OPS.items() if op.elementwise and len(op.vjps) == 1 and n != "invert")
)
def test_a_parameter_without_axes_goes_through_every_elementwise_operation(name):
    """Its value comes to the kernel without a batch axis, as an array without axes."""
    p, q = lf.Parameter(np.full((), 1.25)), lf.Parameter(np.full(1, 1.25))
    if name == "arctanh":
        p, q = p * 0.5, q * 0.5
    one, other = record(OPS[name], (p,)), record(OPS[name], (q,))
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(one.numpy(), other[0].numpy())


# Zero times infinity, elsewhere than in gradients.


# Kernels of cells read what is shared by all calls from its first element on, whatever view an operation answers with.

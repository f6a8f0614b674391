"""What a function records of arguments of known kinds is what it records when nothing is known."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import pickle
import threading
import weakref

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.record.expr as recording
from lazyflow.core.columns import Recall
from lazyflow.record import tape as tapes
from lazyflow.record.tape import signature_by_id
from lazyflow.record.templates import by_kinds

SEED = 5


def operands():
    """Expressions that are no constants, of one fresh tape, and parameters."""
    random = np.random.default_rng(SEED)

    def made(*shape, dtype="f4"):
        return lf.constant(random.uniform(0.5, 2, shape).astype(dtype)) * 1

    return {
        "x": made(4),
        "y": made(4),
        "d": made(4, dtype="f8"),
        "i": lf.constant(np.array([3, 1, 2, 2])) * 1,
        "t": made(4) > 1,
        "m": made(2, 4),
        "s": made(3, 3) + 3 * lf.constant(np.eye(3, dtype="f4")),
        "image": made(2, 6, 6),
        "filters": made(3, 2, 3, 3),
        "a": random.uniform(0.5, 2, 4).astype("f4"),
        "a8": random.uniform(0.5, 2, 4),
        "mask": np.array([True, False, True, True]),
        "k": np.array([3, 1, 2, 2]),
        "k4": np.array([[0, -1], [2, 3]], "i4"),
    }


@functools.cache  # made by the first test, on the device of tests
def parameters():
    return {
        "w": lf.Parameter(np.linspace(1, 2, 4, dtype="f4"), name="w"),
        "W": lf.Parameter(np.ones((4, 4), "f4"), name="W"),
        "f": lf.Parameter(np.ones((3, 2, 3, 3), "f4"), name="f"),
    }


CALLS = """
lf.leaky_relu(x); lf.leaky_relu(x, 0.5); lf.leaky_relu(x, slope=0.5); lf.elu(x); lf.celu(w, 2.0); lf.gelu(x)
lf.gelu(x, True); lf.gelu(x, "tanh"); lf.gelu(x, approximate="none"); lf.hardtanh(x); lf.hardtanh(x, -2, high=2)
lf.clip(x, 0, 1); lf.clip(x, 0.0); lf.clip(x, None, 1); lf.clip(i, 1, 2); x.clip(-1.0, 1.0); lf.clip(t, 0, 1)
lf.where(t, x, y); lf.where(t, y, x); lf.where(t, x, w); lf.where(t, x, 0.0); lf.where(t, x, d)
lf.astype(x, "float64"); x.astype(np.float64); x.astype(np.dtype("f8")); x.astype("f4"); x.astype(int)
lf.scale_gradient(x, -1.0); lf.one_hot(2, 5); lf.one_hot(i, 5, "float64"); lf.argsort(m); lf.argsort(m, 0)
lf.topk(x, 2); lf.topk(m, 1, axis=0); lf.kmax_pool(x, 2); lf.take_along_axis(x, i, 0); lf.pick(x, 3); lf.pick(m, -1)
lf.dot(x, x); lf.dot(x, y); lf.dot(y, x); lf.dot(w, x); lf.outer(x, y); lf.outer(w, w); lf.einsum("i,i->i", x, y)
lf.bilinear(x[:3], lf.stack([s, s]), x[:3]); lf.inv(s); lf.solve(s, s); lf.det(s); lf.slogdet(s); lf.svd(s)
lf.cholesky(s @ s.T); lf.eigh(s); lf.circular_convolution(x, y); lf.circular_correlation(x, w)
lf.mse(x, x); lf.mse(x, y); lf.mse(y, x); lf.mse(x, d); lf.mse(d, x); lf.mse(x, w); lf.mse(x, y, "sum")
lf.mse(x, y, reduction="none"); lf.mse(i, i); lf.bce_with_logits(x, t); lf.huber(x, y); lf.huber(x, y, 2)
lf.huber(x, y, reduction="sum", delta=2.0); lf.hinge(x, 1); lf.hinge(x, 1, 0.5); lf.cross_entropy(x, 1)
lf.cross_entropy(x, np.int64(1)); lf.cross_entropy(i, 1); lf.cross_entropy(w, 1); lf.cross_entropy(m, i[:2])
lf.cross_entropy(x, 1, "sum"); lf.cross_entropy(x, target=1); lf.nll(x, 2); lf.nll(i, 2); lf.cross_entropy(x, y)
lf.sum(x); lf.sum(m, 0); lf.sum(m, axis=-1, keepdims=True); lf.sum(m, (0, 1)); x.sum(); m.sum(1); m.sum(keepdims=True)
lf.sum([x, y]); lf.sum([x]); lf.sum((x, y)); lf.mean([x, w]); lf.mean(x); m.mean((1,)); lf.mean(i); lf.prod(m, 1)
lf.max(x); lf.max(m, 0); lf.min(m, axis=1, keepdims=True); lf.any(t); lf.all(t, 0); lf.logsumexp(m, 1); lf.sum(t)
lf.argmax(m); lf.argmax(m, 1); m.argmax(0); lf.argmin(m, axis=0); lf.argmax(m, 1, True); lf.max([x, y])
lf.var(m); lf.var(m, 0, ddof=1); lf.std(m, axis=1); lf.norm(x); lf.norm(m, 1, 0); lf.norm(m, np.inf, axis=1)
lf.cumsum(m); lf.cumsum(m, 1); lf.softmax(x); lf.softmax(m, 0); lf.softmax(m, axis=-1); lf.log_softmax(x)
lf.log_softmax(x, restrict=(0, 2)); lf.log_softmax(m, 1, restrict=(0, 2)); lf.sparsemax(x)
lf.constrained_softmax(x, y); lf.split(x, 2); lf.split(x, (1, 3)); lf.split(m, 2, 1); lf.split(m, 2, axis=0)
lf.roll(m, 1); lf.roll(m, 1, axis=1); lf.roll(m, (1, 2), (0, 1)); lf.tile(x, 2); lf.tile(x, (2, 1)); lf.tril(s)
lf.tril(s, 1); lf.triu(s, k=-1); lf.diagonal(s); s.diagonal(1); lf.ravel(m); m.flatten(); lf.transpose(m)
m.T; m.transpose(1, 0); m.transpose((1, 0)); W.T; lf.swapaxes(m, 0, 1); lf.expand_dims(x, 0); lf.expand_dims(x, (0, 2))
lf.squeeze(lf.expand_dims(x, 0)); lf.broadcast_to(x, (3, 4)); lf.flip(m); lf.flip(m, 1); lf.pad(x, 1); lf.pad(m, 1)
lf.pad(x, (1, 2), "edge"); lf.pad(x, 1, constant_value=2.0); lf.repeat(m, 2); lf.repeat(m, 2, axis=1); x.reshape(2, 2)
x.reshape((2, 2)); x.reshape(-1, 2); lf.reshape(m, (8,)); lf.reshape(m, 8); W.reshape(16); lf.stack([x, y])
lf.stack([x]); lf.stack([x, y], 1)
lf.concatenate([x, y]); lf.concatenate((x, y)); lf.concatenate([m, m], 1); lf.concatenate([x, w])
lf.conv(image, filters, padding=1); lf.conv(image, f); lf.max_pool(image, 2); lf.avg_pool(image, (2, 2), stride=2)
lf.embedding(W, 1); lf.embedding(W, np.int32(1)); lf.embedding(W, i); W[1]; W[-1]; x[1]; x[-1]; m[1]; m[:, 1]; x[1:3]
x[::2]; x[None]; x[..., None]; m[0, 1:]; x[np.int64(2)]; x[i]; x > 0; x >= y; 0 < x; x == y; x != 1; t & t; t | t; ~t
lf.maximum(x, 0.0); lf.maximum(0, x); x + 1; 1 + x; x + True; x * 2.0; 2.0 * x; x * np.float32(2); x + w; w + x; w * 2.0
W @ x; x @ W; W @ x + w; lf.affine(W, w, x); x @ y; -x; abs(x); x ** 2; 2 ** x; x // 2; x % 2; i / 2; i * 2; i + 1.5
lf.where(mask, x, 0.0); lf.where(t, a, x); lf.where(mask, a, w); lf.where(mask, a, a8); lf.clip(x, a, 2); lf.dot(x, a)
lf.mse(x, a); lf.mse(a, x); lf.mse(x, a8); lf.mse(x, k); lf.huber(x, a, 2.0); lf.bce_with_logits(x, mask); lf.mse(w, a)
lf.bce_with_logits(x, a, "sum"); lf.outer(a, x); lf.einsum("i,j->ij", x, a); x + a; a * x; x - a8; x[k]; x[k4]; w[k]
x[k[:0]]; lf.embedding(W, k); lf.embedding(W, k[:1]); lf.embedding(m, k[1:2]); lf.take(x, k); lf.take(m, k, 1)
lf.cross_entropy(m, k[1:3]); lf.hinge(m, k[1:3]); lf.nll(m, k[1:3], "sum"); lf.constant(a); lf.constant(k4); x == a
lf.softmax(a); lf.sum(a); lf.sum([x, a]); lf.pick(m, k[1]); np.tanh(x); np.float32(2) * x; a @ x; W @ a; lf.argmax(a)
lf.concatenate([x, i]); lf.concatenate([x, m[0], d, w]); lf.concatenate([x, x[:2]]); lf.concatenate((m, s[:2, :3]), 1)
lf.concatenate([x, a, y[:1]], axis=0); lf.stack([x, w, y], axis=-1); lf.stack((x, i)); lf.max([x, w]); lf.min([w, x])
lf.concatenate(operands=[x, y[:3]]); lf.concatenate([x[:1]] * 20 + [y]); lf.concatenate([x[:2]] * 40 + [y])
x.detach(); x.std(1 - 1); x.var(ddof=1); x.round(); x.min(); t.any(); x.prod()
x[[2, 0]]; x[[-1]]; m[[1, 0, 1]]; W[[3, 1]]; lf.take(x, [1, 2]); lf.take(x, [-1, 2]); lf.take(w, k4); lf.take(m, [1], 1)
lf.embedding(W, [3, 1]); x[k.astype("i4")]; W[1:3]; W[:]; w[::2]; w[np.int64(1) :]; x[np.int64(1) : np.int8(3)]
x[: np.int32(-1)]; lf.one_hot(np.int64(2), 5); lf.one_hot(np.int8(2), 5); lf.hinge(x, np.int64(1)); lf.constant(2)
lf.constant(2.5); lf.constant([1, 2]); lf.constant([1, 2.5]); lf.constant((0.1, 1)); x + [1.0, 2, 3, 4]
x * [1, 2, 3, 4]; i * [1, 2, 3, 4]; a - x; a > x; k * i; np.float64(2) / x; np.int64(2) - i
np.matmul([1.0, 2.0, 3.0, 4.0], x); a @ W
np.maximum(x, 0); np.hypot(x, a); np.add(x, y); np.negative(x); np.power(2, x); np.logical_and(t, mask)
t & mask
lf.stack([x, a]); lf.stack((a, w, x), 1); lf.stack([a, d]); lf.concatenate([a, x, a8[:2]]); lf.concatenate([i, k])
lf.concatenate([m, np.ones((1, 4), "f4")]); lf.cross_entropy(m, k[1:3], "sum")
lf.cross_entropy(m, k[1:3], reduction="none"); lf.nll(m, k[1:3]); lf.cross_entropy(i, k[2])
lf.dropout(x, 0.5, training=False); lf.dropout(a, 0.0); lf.dropout(x, 0.0)
lf.nn.functional.cross_entropy(m, k[1:3], reduction="sum")
lf.nn.functional.cross_entropy(m, k[1:3], ignore_index=2); np.dot(x, y); np.dot(m, x); np.dot(a, x); np.dot(2.0, x)
np.inner(x, a); np.outer(a, x); np.tensordot(m, m, 2); np.vdot(x, y); np.stack([x, a]); np.concatenate([a, x])
"""


def calls():
    return [call.strip() for line in CALLS.strip().splitlines() for call in line.split(";")]


class Alone:
    """The functions of lazyflow without what they remember."""

    def __getattr__(self, name):
        found = getattr(lf, name)
        return inspect.unwrap(found)


def recorded(call, names, functions=lf):
    """All that a call has put on the tape, rows counted from where it began, and what it returned."""
    tape = names["x"].tape
    before = [len(tape), len(tape.operands), len(tape.ints), len(tape.floats)]
    result = eval(call, {"lf": functions, "np": np}, {**parameters(), **names})
    results = result if isinstance(result, list | tuple) else [result]
    row, first = before[0], names["x"].row

    def place(r):
        return r - row if r >= row else ("earlier", r - first)

    return (
        type(result),
        [(place(e.row), e.type) for e in results],
        [getattr(e, "note", None) for e in results],
        [signature_by_id(number) for number in tape.signatures[row:]],
        [place(r) for r in tape.operands[before[1] :]],
        list(tape.ints[before[2] :]),
        list(tape.floats[before[3] :]),
        [(r - row, a.dtype, a.tolist()) for r, a in sorted(tape.objects.items()) if r >= row],
    )


@pytest.mark.parametrize("call", calls())
def test_the_second_call_records_what_the_first_does(call):
    fresh = operands()  # on a tape of its own, and without what the public function remembers
    expected = recorded(call, fresh, Alone())
    found = operands()
    for _ in range(4):
        assert recorded(call, found) == expected
    del fresh, found
    again = operands()
    assert recorded(call, again) == expected


@pytest.mark.parametrize("call", calls())
def test_other_settings(call):
    for block in (lf.using(dtype="float64"), lf.no_grad()):
        recorded(call, operands())
        with block:
            expected = recorded(call, operands(), Alone())
            names = operands()
            for _ in range(2):
                assert recorded(call, names) == expected
        with lf.using(check_finite=True):
            names = operands()
            before = len(names["x"].tape)
            eval(call, {"lf": lf, "np": np}, {**parameters(), **names})
            assert len(names["x"].tape.lines) == len(names["x"].tape) >= before


@pytest.mark.parametrize("call", calls())
def test_of_values_of_an_earlier_run(call):
    """Whatever is remembered or not, and of whichever tape the operands are, the values are the same."""

    def values(names, functions=lf):
        result = eval(call, {"lf": functions, "np": np}, {**parameters(), **names})
        return lf.forward(result if isinstance(result, list | tuple) else [result])

    expected = values(operands(), Alone())
    for _ in range(3):
        names = operands()
        lf.forward([e for e in names.values() if isinstance(e, lf.Expr)])
        for found, wanted in zip(values(names), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


# Spellings that are recorded in general once, and by a look-up from then on.
LOOKED_UP = """
x[[2, 0]]; W[[3, 1]]; lf.take(x, [1, 2]); lf.take(x, k); lf.embedding(W, [3, 1]); x[k.astype("i4")]; W[1:3]; w[::2]
x[np.int64(1) :]; lf.one_hot(np.int64(2), 5); lf.hinge(x, np.int64(1)); lf.constant(2); lf.constant([1, 2.5]); a - x
np.float32(2) * x; np.int64(2) * x; a > x; a @ W; np.maximum(x, 0); t & t; scaled(x, np.int64(2))
scaled(x, np.float32(2)); lf.softmax(earlier)
lf.max_pool(earlier.reshape(2, 2, 1), 1); lf.mse(earlier, x); lf.where(t, earlier, 0.0)
lf.stack([x, a]); lf.concatenate([earlier, a]); lf.cross_entropy(m, k[1:3]); lf.nll(m, k[1:3], "sum"); np.dot(m, x)
lf.nn.functional.cross_entropy(m, k[1:3]); lf.nn.functional.cross_entropy(s, k[1:], dim=0); np.dot(x, a)
"""


@lf.cell
def scaled(x, by):
    return lf.tanh(x) * by


@pytest.mark.skipif(Recall() is None, reason="in Python nothing is remembered")
@pytest.mark.parametrize("call", [call.strip() for line in LOOKED_UP.strip().splitlines() for call in line.split(";")])
def test_what_was_recorded_is_looked_up(call, monkeypatch):
    names = operands()
    earlier = lf.tanh(names["x"])
    earlier.numpy()
    general = []

    def counted(memo, operands):
        general.append(memo.op.name)
        return recorded_in_general(memo, operands)

    recorded_in_general = recording._recorded
    monkeypatch.setattr(recording, "_recorded", counted)
    names = {**operands(), "earlier": earlier, "scaled": scaled}
    for _ in range(3):
        eval(call, {"lf": lf, "np": np}, {**parameters(), **names})
    learnt = len(general)
    for _ in range(5):
        eval(call, {"lf": lf, "np": np}, {**parameters(), **names})
    assert len(general) == learnt


@pytest.fixture
def few(monkeypatch):
    """Tables are emptied at every second new entry."""
    monkeypatch.setattr(tapes, "MOST_INTERNED", 1)


@pytest.mark.host
def test_across_sweeps(few):
    for call in calls():
        expected = recorded(call, operands(), Alone())
        names = operands()
        for _ in range(3):
            assert recorded(call, names)[4:] == expected[4:]


@pytest.mark.skipif(Recall() is None, reason="in Python nothing is remembered")
@pytest.mark.parametrize("with_parameter", [False, True])
def test_what_the_table_of_the_recalled_has_lost_is_not_found_out_again(with_parameter):
    called = []

    @by_kinds
    def function(x, w, number):
        called.append(number)
        return lf.tanh(x * w) + number

    x = lf.constant([1.0, 2.0]) * 1
    w = lf.Parameter([3.0, 4.0]) if with_parameter else lf.constant([3.0, 4.0]) * 1
    numbers = (0.5, -0.0, 0.0)
    expected = [function(x, w, number) for number in numbers]
    learnt = len(called)
    (recalled,) = [table for table in tapes._tables if type(table) is Recall]
    with contextlib.suppress(KeyError):
        while True:
            recalled.popitem()
    found = [function(x, w, number) for number in numbers]
    assert len(called) == learnt == 2 * len(numbers)  # once to record, and once to see what that was
    np.testing.assert_array_equal(lf.forward(found), lf.forward(expected))


def test_arrays_of_many_shapes_are_of_one_kind_each(monkeypatch):
    monkeypatch.setattr(tapes, "MOST_INTERNED", 10**9)
    arrays = [np.zeros((a, b), "f4") for a in range(1, 40) for b in range(1, 40)]  # more than `Shapes` has places
    tape = lf.constant([1.0]).tape
    kinds = [recording.array_kind(tape, array) for array in arrays]
    assert all(recording.array_kind(tape, array) is kind for array, kind in zip(arrays, kinds, strict=True))


@pytest.mark.skipif(Recall() is None, reason="in Python nothing is remembered")
def test_a_function_that_records_nothing_is_known_by_what_it_returns():
    called = []

    @by_kinds
    def function(x, y, flag):
        called.append(flag)
        return y if flag else x + y

    for _ in range(3):
        earlier = lf.constant([3.0]) * 1
        earlier.numpy()
        x, y = (lf.constant([1.0, 2.0]) * 1 for _ in range(2))
        assert function(x, y, True) is y and function(x, earlier, True) is earlier
        np.testing.assert_array_equal(function(x, y, False).numpy(), [2, 4])
    assert called == [True, True, True, True, False, False]  # once to record, and once to see what that was


@pytest.mark.skipif(Recall() is None, reason="in Python nothing is remembered")
def test_a_text_that_was_put_together_is_the_same_text():
    called = []

    @by_kinds
    def function(x, how):
        called.append(how)
        return lf.tanh(x) if how == "tangent" else lf.exp(x)

    x = lf.constant([1.0, 2.0]) * 1
    for _ in range(3):
        np.testing.assert_allclose(function(x, "".join(["tan", "gent"])).numpy(), np.tanh([1.0, 2.0]), rtol=1e-6)
        x = x * 1
    assert len(called) == 2  # once to record, and once to see what that was


@pytest.mark.skipif(Recall() is None, reason="in Python nothing is remembered")
def test_a_number_that_is_computed_again_is_the_same_number():
    called = []

    @by_kinds
    def function(x, slope):
        called.append(slope)
        return lf.tanh(x) * slope

    x = lf.constant([1.0, 2.0]) * 1
    for text in ("0.5", "0.5", "-0.5", "0.5", "-0.5"):
        np.testing.assert_allclose(function(x, float(text)).numpy(), np.tanh([1.0, 2.0]) * float(text), rtol=1e-6)
        x = x * 1
    assert called == [0.5, 0.5, -0.5, -0.5]  # once to record, and once to see what that was


@pytest.mark.skipif(Recall() is None, reason="in Python nothing is remembered")
def test_lists_of_other_lengths_and_other_kinds_are_told_apart():
    called = []

    @by_kinds
    def function(parts, beside=None):
        called.append(len(parts))
        return lf.concatenate(parts if beside is None else [*parts, beside])

    lists = {"two": "[x, y]", "three": "[x, y, z]", "tuple": "(x, y)", "swapped": "[y, x]", "longer": "[x, z]"}
    for _ in range(3):
        x, y, z = (lf.tanh(lf.constant(np.arange(n) + 0.5)) for n in (1, 2, 3))
        given = [(eval(text, {"x": x, "y": y, "z": z}), None) for text in lists.values()] + [([x, y], z)]
        found = lf.forward([function(*pair) for pair in given])
        for (parts, beside), joined in zip(given, found, strict=True):
            np.testing.assert_array_equal(
                joined, np.concatenate(lf.forward([*parts, *([beside] * (beside is not None))]))
            )
    assert len(called) == 2 * len(given)  # once to record, and once to see what that was
    for _ in range(3):
        function([lf.tanh(lf.constant([1.0])), [0.5, 1.0]])
    assert len(called) == 2 * len(given) + 3  # the inner list can change: nothing is remembered of it


def test_operands_of_one_kind_are_told_apart():
    """A function that was called with one value twice has not been seen to read the first of them twice."""
    names = operands()
    x, y = names["x"], names["y"]
    for _ in range(3):
        a, b = lf.outer(x, x), lf.outer(x, y)
        np.testing.assert_allclose(a.numpy(), np.outer(x.numpy(), x.numpy()), rtol=1e-6)
        np.testing.assert_allclose(b.numpy(), np.outer(x.numpy(), y.numpy()), rtol=1e-6)
        names = operands()
        x, y = names["x"], names["y"]


def test_numbers_that_are_equal_and_not_the_same():
    x = operands()["m"]
    with pytest.raises(TypeError):
        lf.sum(x, True)
    lf.sum(x, 1)
    for _ in range(2):
        with pytest.raises(TypeError):
            lf.sum(x, True)
        with pytest.raises(TypeError):
            lf.sum(x, 1.0)
    with pytest.raises(TypeError):
        lf.split(x, 2.0)
    assert lf.clip(x, -0.0, 1.0).numpy().min() >= 0


def test_errors_are_raised_every_time():
    x = operands()["x"]
    for _ in range(3):
        with pytest.raises(lf.ShapeError):
            lf.sum(x, 1)
        with pytest.raises(lf.ShapeError):
            lf.split(x, 3)
        with pytest.raises(IndexError):
            lf.cross_entropy(x, 4)
        with pytest.raises(IndexError):
            x[4]
        with pytest.raises(TypeError):
            lf.softmax()
        with pytest.raises(TypeError):
            lf.softmax(x, axes=0)
        with pytest.raises(TypeError):
            lf.softmax(x, 0, axis=0)


DRAWS = """
lf.dropout(x, 0.5); lf.dropout(m, 0.5, axis=0); lf.uniform((3,)); lf.uniform(3, -1, 1.0); lf.normal((2, 2), dtype="f8")
lf.normal(); lf.gumbel((3,)); lf.bernoulli(0.5, (4,)); lf.categorical(x); lf.categorical(m, 0); lf.dropout(w, 0.5)
lf.uniform((3,), stream=stream); lf.dropout(x, p=0.5, stream=stream); lf.dropout(x, 0.5, training=False)
"""


@pytest.mark.parametrize("call", [call.strip() for line in DRAWS.strip().splitlines() for call in line.split(";")])
def test_draws_are_made_anew_and_the_same_from_a_seed(call):
    def drawn(functions, block):
        found = []
        lf.seed(7)
        stream = lf.random.Stream(5)
        with block:
            names = {**operands(), "stream": stream}
            for _ in range(4):
                found.append(recorded(call, names, functions))
            found.append(list(names["x"].tape.streams))
            lf.constant(0.0).numpy()
            names = {**operands(), "stream": stream}
            for _ in range(2):
                found += [
                    recorded(call, names, functions),
                    eval(call, {"lf": functions, **parameters(), **names}).numpy().tolist(),
                ]
                names = {**operands(), "stream": stream}
        return found

    for _ in range(2):
        for block in (lf.using(), lf.using(dtype="float64"), lf.no_grad()):
            assert drawn(lf, block) == drawn(Alone(), block)


@pytest.mark.host
def test_contents_of_arrays_count_where_they_are_looked_at():
    x, table = operands()["m"], parameters()["W"]
    for _ in range(3):
        assert lf.embedding(table, np.array([0, 3])).shape == (2, 4)
        assert x[np.array([0, -1])].shape == (2, 4)
        assert lf.cross_entropy(x, np.array([0, 3])).shape == ()
        for wrong in (np.array([0, 4]), np.array([-5, 0])):
            with pytest.raises(IndexError):
                lf.embedding(table, wrong)
            with pytest.raises(IndexError):
                table[wrong]
            with pytest.raises(IndexError):
                lf.cross_entropy(x, wrong)
            with pytest.raises(IndexError):
                lf.hinge(x, wrong)
        with pytest.raises(IndexError):
            lf.embedding(table, np.array([-1, 0]))
        with pytest.raises((TypeError, lf.DTypeError)):
            x[np.array([True, False])]


def test_arrays_are_copied_when_they_are_recorded():
    x = operands()["x"]
    for _ in range(3):
        array = np.ones(4, "f4")
        found = [lf.constant(array), x * 0 + array, lf.where(np.ones(4, bool), array, x), lf.mse(x * 0, array)]
        array[:] = 7
        assert [float(e.numpy().max()) for e in found] == [1.0] * 4
        x = operands()["x"]


@pytest.mark.parametrize("order", "<>")
def test_arrays_of_either_byte_order_are_of_one_kind(order):
    m, x = operands()["m"], operands()["x"]
    given, classes = np.arange(4).astype(f"{order}f4"), np.array([[0, 3], [1, 2]]).astype(f"{order}i8")
    scores = lf.stack([m, m * 2])
    for _ in range(3):
        found = lf.where(given > 1, x, given), np.dot(m, given), lf.stack([x, given]), lf.nll(scores, classes)
        same = given.astype("f4"), classes.astype("i8")
        right = lf.where(given > 1, x, same[0]), m @ same[0], lf.stack([x, same[0]]), lf.nll(scores, same[1])
        for a, b in zip(found, right, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_inside_of_cells():
    @lf.cell
    def step(x, k):
        return lf.softmax(x * k), lf.cross_entropy(x, k), lf.split(x, 2)[1]

    for k in (1, 2, 1, 3):
        x = operands()["x"]
        a, b, c = step(x, k)
        np.testing.assert_allclose(a.numpy(), lf.softmax(x * k).numpy(), rtol=1e-6)
        assert b.item() == pytest.approx(lf.cross_entropy(x, k).item(), rel=1e-6)
        np.testing.assert_array_equal(c.numpy(), x.numpy()[2:])


def test_parameters_are_kept_by_the_tape_and_by_nothing_else():
    w = lf.Parameter(np.ones(4, "f4"))
    x = operands()["x"]
    for _ in range(3):
        y = lf.mse(x, w)
    reference, kind = weakref.ref(w), weakref.ref(w.type)
    del w
    gc.collect()
    assert reference() is not None and y.item() >= 0
    del x, y
    lf.constant(0.0)
    gc.collect()
    assert reference() is None and kind() is None


def test_values_of_an_earlier_run_and_of_another_tape():
    old = operands()
    old["x"].numpy()
    for _ in range(3):
        x = operands()["x"]
        np.testing.assert_allclose(lf.softmax(old["x"]).numpy(), lf.softmax(x).numpy(), rtol=1e-6)
        np.testing.assert_allclose(lf.mse(old["y"], x).numpy(), ((old["y"].numpy() - x.numpy()) ** 2).mean(), rtol=1e-5)


def test_threads_record_on_tapes_of_their_own():
    found = {}

    def run(number):
        x = lf.constant(np.full(4, number, "f4")) * 1
        found[number] = [
            float(lf.sum(lf.softmax(x) * x + lf.embedding(parameters()["W"], 1) * 0).numpy()) for _ in range(50)
        ]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_allclose(found[number], number, atol=1e-5)


@pytest.mark.parametrize("function", [lf.softmax, lf.split, lf.max, lf.cross_entropy, lf.embedding, lf.sum, lf.reshape])
def test_functions_keep_their_face(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__ and function.__module__.startswith("lazyflow")
    assert "axis" in str(inspect.signature(lf.softmax))

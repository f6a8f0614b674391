"""Calls that are recorded operation by operation, for whatever reason: they refuse and give what other calls do."""

import contextlib
import re
import traceback
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.device import to_host

X = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]])
W = lf.Parameter(np.array([1.0, 2.0, 3.0]))
OUTSIDE = W * 2


def as_a_program(body):
    return lf.cell(body)


def of_many_lengths(body):
    cell = lf.cell(body)
    for n in range(3, 13):
        with contextlib.suppress(Exception):  # of what is refused, in every call
            cell(lf.constant(np.ones((n, 3))))
    return cell


def with_check_finite(body):
    cell = lf.cell(body)

    def call(*args):
        with lf.using(check_finite=True):
            return cell(*args)

    return call


def in_a_cell(body):
    cell = lf.cell(body)
    return lf.cell(lambda *args: cell(*args))


def in_a_cell_of_many_lengths(body):
    return of_many_lengths(lf.cell(body))


PLAIN = [of_many_lengths, with_check_finite, in_a_cell, in_a_cell_of_many_lengths]
WAYS = [as_a_program, *PLAIN]


def outcome(call, argument):
    """The class of what is raised, its message, and the lines of the body where it was, or what is returned."""
    try:
        found = call(argument())
    except Exception as error:
        told = re.sub(r"[^\s:]*test_plain_calls\.py", "test_plain_calls.py", str(error))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == __file__]
        lines = [f.lineno for f in frames if f.lineno > outcome.__code__.co_firstlineno + 20]
        return type(error), told, lines
    return found


# What is refused.


def watched(x):
    y = x * W
    y.register_hook(np.negative)
    return y


def kept(x):
    y = x * W
    y.retain_grad()
    return y


def without_gradient(x):
    with lf.no_grad():
        return x * 2


def appended(x):
    more = [x]
    taken(more)
    return x


@lf.cell
def taken(more):
    more.append(1)
    return more[0] * 2


def put(x):
    W.data = np.ones(3)
    return x * W


def misshapen(x):
    y = x * 2
    return y @ lf.constant(np.ones(4))


REFUSED = {
    "an if": lambda x: x if lf.sum(x) > 0 else -x,
    "item": lambda x: x * lf.sum(x).item(),
    "numpy": lambda x: x * x.numpy(),
    "forward": lambda x: x * lf.forward([x])[0],
    "the value of a parameter": lambda x: x * W.numpy(),
    "a parameter that is changed": put,
    "a parameter that is made": lambda x: x * lf.Parameter(np.ones(3)),
    "a hook": watched,
    "a gradient that is kept": kept,
    "settings": without_gradient,
    "an expression of outside": lambda x: x * OUTSIDE,
    "a list that is changed": appended,
    "an object": lambda x: SimpleNamespace(h=x * 2),
    "another dict": lambda x: OrderedDict(h=x * 2),
    "a set": lambda x: {x * 2},
    "shapes": misshapen,
    "an index": lambda x: x[5],
    "an error of its own": lambda x: 1 // 0,
}


@pytest.mark.parametrize("way", PLAIN)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_every_way_at_the_same_line(name, way):
    body, argument = REFUSED[name], lambda: lf.constant(X)
    expected = outcome(as_a_program(body), argument)
    assert isinstance(expected, tuple)
    for _ in range(2):
        assert outcome(way(body), argument) == expected
    np.testing.assert_array_equal((lf.constant(X) * 2).numpy(), 2 * X)  # nothing is left behind


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("argument", [{1, 2}, iter([1])], ids=["a set", "an iterator"])
def test_arguments_are_refused_in_every_way(way, argument):
    options = [None]
    cell = lf.cell(lambda x, more: x * 2)
    call = way(lambda x: cell(x, options[0]))
    options[0] = argument
    with pytest.raises(TypeError, match=r"hashable|empty"):
        call(lf.constant(X))


# Arguments stay what they were.


def rebound(x):
    x *= 2
    return x + 1


def changed(x):
    if x.flags.writeable:
        x[0] = 7
    return lf.sum(x)


@pytest.mark.parametrize("way", WAYS)
def test_arrays_stay_as_they_are(way):
    x = X.copy()
    call = way(rebound)
    for _ in range(3):
        np.testing.assert_array_equal(call(x).numpy(), 2 * X + 1)
        np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("strides", [slice(None), slice(None, None, -1)])
def test_an_array_that_a_body_changes_is_refused(way, strides):
    x = X.copy()
    call = way(changed)
    for _ in range(2):
        with pytest.raises(lf.CellError, match=r"changes an array among its arguments"):
            call(x[strides])
        np.testing.assert_array_equal(x, X)


def test_an_array_that_the_body_knows_is_itself():
    known = np.ones(3)
    call = lf.cell(lambda x, y: lf.multiply(x, 2 if x is known else 1 if x is y else 3) + 0 * lf.sum(y))
    other = np.ones(3)
    for _ in range(2):
        assert call(known, other).numpy().tolist() == [2, 2, 2]
        assert call(other, other).numpy().tolist() == [1, 1, 1]
        assert call(other, known).numpy().tolist() == [3, 3, 3]


def test_an_expression_that_the_body_knows_is_itself():
    weight = lf.Parameter(np.array([1.0, 2.0, 3.0]))  # where the test runs
    start = weight * 2
    call = lf.cell(lambda h, x: x * 2 + h if h is start else x * 3 if x is h else x)
    one, other = weight * 3, lf.constant([1.0, 2.0, 3.0])
    for _ in range(2):
        np.testing.assert_allclose(call(start, other).numpy(), other.numpy() * 2 + start.numpy())
        np.testing.assert_allclose(call(one, one).numpy(), 3 * one.numpy())
        np.testing.assert_allclose(call(one, start).numpy(), start.numpy())


# Results, gradients and draws.


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = lf.Parameter(np.array([0.5, 1.5, -1.0]))
        self.stream = lf.Stream(5)

    def body(self, x, *more, scale=2.0, **options):
        h = lf.dropout(lf.tanh(x * self.weight), 0.5, stream=self.stream) * scale
        first = h[0] if options.get("index") is None else h[options["index"]]
        detached = (x * self.weight).detach() * self.weight
        return {"h": (h, detached), "more": [first, *more], "n": 3, "same": h, "given": x, "weight": self.weight * 1}

    step = lf.cell(body)


def values(found):
    if isinstance(found, lf.Expr):
        return found.dtype, found.requires_grad, found.numpy().tolist()
    if isinstance(found, dict):
        return {k: values(v) for k, v in found.items()}
    return type(found)(values(v) for v in found) if isinstance(found, list | tuple) else found


def everything(step, layer, gradients):
    lf.seed(3)
    layer.stream = lf.Stream(5)
    p = lf.Parameter(X)
    found = []
    for n in (1, 0, 1):
        made = step(layer, p * 1.0, p * 2.0, scale=3.0, index=n)
        found.append(values(made))
        if gradients:
            lf.sum([lf.sum(made["h"][0]), lf.sum(made["h"][1]), lf.sum(made["more"][0])]).backward()
    grads = [None if q.grad is None else to_host(q.grad).tolist() for q in (p, layer.weight)]
    layer.weight.grad = None
    return found, grads


@pytest.mark.parametrize("block", [lf.using(check_finite=True), lf.no_grad(), lf.using(check_finite=True, grad=False)])
@pytest.mark.parametrize("lengths", [0, 12])
def test_results_gradients_and_draws_are_those_of_the_function(block, lengths):
    layer, plain = Layer(), Layer()
    for n in range(lengths):
        layer.step(lf.constant(np.ones((n + 3, 3))), lf.constant(np.ones((n + 3, 3))), scale=3.0, index=0)
    outer = lf.cell(lambda m, x, y, scale, index: m.step(x, y, scale=scale, index=index))
    for gradients in (True, False):
        with contextlib.nullcontext() if gradients else block:
            expected = everything(Layer.body, plain, gradients)
            assert everything(Layer.step, layer, gradients) == expected
            assert everything(outer, layer, gradients) == expected


def test_a_number_of_the_outer_cell_stays_payload_in_the_inner_one():
    table, runs = lf.Parameter(np.eye(3)), []
    inner = lf.cell(lambda x, i, factor: (x * lf.embedding(table, i) * factor, i))

    def body(x, i, factor):
        runs.append(i)
        y, j = inner(x, i, factor)
        return y + lf.embedding(table, j)

    outer = lf.cell(body)
    for i in range(3):
        np.testing.assert_allclose(
            outer(lf.constant(np.ones(3)), i, 2.0 + i).numpy(), np.eye(3)[i] * (3.0 + i), rtol=1e-6
        )
    assert len(runs) == 1
    with pytest.raises(IndexError, match="index 3"):
        outer(lf.constant(np.ones(3)), 3, 1.0)


def test_a_body_that_sees_a_generator_runs_once_a_call_whatever_it_returns():
    def found(decorate):
        rng = np.random.default_rng(3)
        call = decorate(lambda x: lf.embedding(W, int(rng.integers(3))) * 2)
        return [call(lf.constant(1.0)).item() for _ in range(6)]

    assert found(lf.cell) == found(lambda f: f)


def test_what_a_body_detaches_is_what_it_is_then_in_every_way():
    w = lf.Parameter(np.ones(3))
    for way in WAYS:
        w.assign(np.ones(3))
        y = way(lambda x: x * w.detach())(lf.constant(X))
        w.assign(np.full(3, 2.0))
        np.testing.assert_array_equal(y.numpy(), 2 * X)


def test_the_line_of_a_nan_inside_of_a_cell_in_a_cell():
    inner = lf.cell(lambda x: lf.log(x) * 2)
    outer = lf.cell(lambda x: inner(x) + 1)
    with (
        lf.using(check_finite=True),
        pytest.raises(lf.NonFiniteError, match=rf"test_plain_calls\.py:{inner.__wrapped__.__code__.co_firstlineno}"),
    ):
        outer(lf.constant([-1.0])).numpy()

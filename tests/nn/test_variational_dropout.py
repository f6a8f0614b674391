"""Recurrent layers with one dropout mask a sequence: against their equations with the masks written in."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import gradients, scrambled, sequences, weighted

P = (0.4, 0.3)


@pytest.fixture(autouse=True)
def interpreted():
    """Nothing is compiled for a test's few steps."""
    with lf.using(fuse="numpy"):
        yield


def sigma(x):
    return 1 / (1 + np.exp(-x))


def rows(array, count):
    return np.split(np.asarray(array), count)


def rnn_step(p, s, x, h, mask):
    h = np.tanh(p["weight_ih" + s] @ x + p["bias_ih" + s] + p["weight_hh" + s] @ (h * mask) + p["bias_hh" + s])
    return h, h


def gru_step(p, s, x, h, mask):
    from_x, from_h = p["weight_ih" + s] @ x + p["bias_ih" + s], p["weight_hh" + s] @ (h * mask) + p["bias_hh" + s]
    (rx, zx, nx), (rh, zh, nh) = rows(from_x, 3), rows(from_h, 3)
    z = sigma(zx + zh)
    h = (1 - z) * np.tanh(nx + sigma(rx + rh) * nh) + z * h
    return h, h


def lstm_step(p, s, x, state, mask):
    h, c = (state, state) if isinstance(state, np.ndarray) else state
    i, f, g, o = rows(p["weight_ih" + s] @ x + p["bias_ih" + s] + p["weight_hh" + s] @ (h * mask) + p["bias_hh" + s], 4)
    c = sigma(f) * c + sigma(i) * np.tanh(g)
    h = sigma(o) * np.tanh(c)
    return h, (h, c)


STEPS = {nn.RNN: rnn_step, nn.GRU: gru_step, nn.LSTM: lstm_step}
every = pytest.mark.parametrize("make", STEPS)


def reference(make, p, xs, stream, layers=2):
    """The outputs, with masks drawn from a stream in the order of the layers and directions."""

    def mask(rate, size):
        return lf.dropout(np.ones(size), rate, stream=stream).numpy()

    for layer in range(layers):
        directions = []
        for s in (f"_l{layer}", f"_l{layer}_reverse"):
            over_x, over_h = mask(P[0], len(xs[0])), mask(P[1], 3)
            hs, state = [], np.zeros(3)
            for x in xs[::-1] if s.endswith("reverse") else xs:
                h, state = STEPS[make](p, s, x * over_x, state, over_h)
                hs.append(h)
            directions.append(hs[::-1] if s.endswith("reverse") else hs)
        xs = [np.concatenate(pair) for pair in zip(*directions, strict=True)]
    return xs


def made(make, **options):
    with lf.using(dtype="float64"):
        return scrambled(make(4, 3, 2, bidirectional=True, **options))


@every
def test_the_equations(make):
    layer = made(make, variational_dropout=P, stream=lf.Stream(5))
    (xs,) = sequences(1, 4, (4,))
    outputs, _ = layer([lf.constant(x) for x in xs])
    for ours, theirs in zip(outputs, reference(make, layer.state_dict(), xs, lf.Stream(5)), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


@every
def test_after_eval_nothing_is_dropped(make):
    (xs,) = sequences(1, 4, (3,))
    ours, _ = made(make, variational_dropout=0.5).eval()([lf.constant(x) for x in xs])
    plain, _ = made(make)([lf.constant(x) for x in xs])
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@every
@pytest.mark.parametrize("p", [(0.5, 0.0), (0.0, 0.5), 0.3])
def test_batched_equals_unbatched(make, p):
    found = []
    for batching in ("none", "phases"):
        layer = made(make, variational_dropout=p, stream=lf.Stream(2))
        with lf.using(batching=batching):
            outputs = [h for xs in sequences(1, 4, (3, 1, 4, 2)) for h in layer([lf.constant(x) for x in xs])[0]]
            loss = weighted(outputs)
            loss.backward()
        found.append((loss.item(), gradients(layer)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-10)
    for name, gradient in found[0][1].items():
        np.testing.assert_allclose(gradient, found[1][1][name], atol=1e-10)


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (1.0, ValueError, "below 1"),
        ((0.1, -0.1), ValueError, "at least 0"),
        ((0.1, 0.2, 0.3), ValueError, "a probability or two"),
        ("0.5", TypeError, "must be a number"),
    ],
)
def test_probabilities_are_checked(p, error, message):
    with pytest.raises(error, match=message):
        nn.LSTM(2, 3, variational_dropout=p)


def test_it_is_shown():
    assert repr(nn.GRU(2, 3, variational_dropout=(0.5, 0.0))) == "GRU(2, 3, variational_dropout=(0.5, 0.0))"

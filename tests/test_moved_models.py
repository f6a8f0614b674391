"""``model.to("cuda:0")`` and nothing else: what rests on no parameter goes where the parameters are that it meets."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn
from tests.test_device import value_of

pytestmark = pytest.mark.gpu
PLACES = ["cuda:0", "cuda:1"]


@pytest.fixture(autouse=True)
def no_device_was_asked_for():
    with lf.using(device="cpu"):
        yield


def numbers(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def parameter(place, *shape):
    return lf.Parameter(numbers(*shape)).to(place)


def trained(make, batches):
    """Losses and what is learned by a model that is moved, and nothing around it."""

    def program(place):
        model = make().to(place)
        optimizer, losses = lf.optim.SGD(model.parameters(), lr=0.1), []
        for batch in batches:
            loss = lf.mean([model(*example) for example in batch])
            loss.backward()
            lf.optim.clip_grad_norm(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(np.float32(loss.item()))
        model.eval()
        with lf.no_grad():
            return [*losses, model(*batches[0][0]), *model.state_dict().values()]

    return program


class Tagger(nn.Module):
    """Every cell starts from zeros of its own."""

    def __init__(self, kind):
        super().__init__()
        self.table, self.recurrent = nn.Embedding(9, 4), kind(4, 3)
        self.out = nn.Linear(6 if kind is nn.BiLSTM else 3, 3)

    def forward(self, words, tags):
        states = self.recurrent([self.table(word) for word in words])[0]
        return lf.sum([lf.cross_entropy(self.out(h), tag) for h, tag in zip(states, tags, strict=True)])


class Transformer(nn.Module):
    """Attention with a mask, dropout, positions and layer norms."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(9, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.25), 2)

    def forward(self, words, tags):
        n = len(words)
        x = lf.stack([self.table(word) for word in words]) + np.sin(np.outer(np.arange(n), np.arange(1, 9)) / 4)
        y = self.encoder(x.astype("float32"), mask=np.tril(np.ones((n, n), bool)))
        return lf.cross_entropy(self.out(lf.mean(y, axis=0)), tags[0])


class Trees(nn.Module):
    """The words in nested pairs."""

    def __init__(self):
        super().__init__()
        self.table, self.cell, self.out = nn.Embedding(9, 4), nn.BinaryTreeLSTMCell(4, 3), nn.Linear(3, 3)

    def forward(self, words, tags):
        state = self.cell.leaf(self.table(words[0]))
        for word in words[1:]:
            state = self.cell(state, self.cell.leaf(self.table(word)))
        return lf.cross_entropy(self.out(state[0]), tags[0])


class Features(nn.Module):
    """Arrays and what is computed of them, through norms with running averages."""

    def __init__(self):
        super().__init__()
        layers = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.25), nn.Linear(5, 3)
        self.layers, self.step = nn.Sequential(*layers), nn.GRUCell(4, 3)

    def forward(self, words, tags):
        x = np.cos(np.outer(words, [1.0, 2.0, 3.0, 4.0]))
        h = self.step(lf.constant(x[0]) / 2.0, lf.constant([0.5, 0.25, 0.0]))
        h = self.step(x[1], h)
        losses = lf.cross_entropy(self.layers(x), tags), lf.mse(self.layers(lf.constant(x) * 2.0), np.ones((len(x), 3)))
        return sum(losses) + lf.sum(h * h)


def batches():
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 6, (3, 4)).tolist()
    return [[(rng.integers(9, size=n), rng.integers(3, size=n)) for n in row] for row in sizes]


def by_hand(place):
    w, x, h, found = parameter(place, 2, 3), lf.constant([1.0, 2.0, 3.0]), lf.constant([0.0, 0.0]), []
    for t in range(3):
        h = lf.tanh(w @ x * 0.1 + h)
        x = x * 2 - lf.one_hot(t, 3)
        if lf.max(h) > 0.5:
            h = h * 0.5
        chosen = lf.argmax(x[:2])
        found += [
            h, lf.where(h > 0.1, h, np.float32(0.5)), lf.stack([h, np.ones(2, np.float32), [0.5, 0.25]]),
            lf.stack([x, w[0]]), lf.concatenate([x, h]), lf.sum([np.ones(2, np.float32), h]), lf.sum([x, w[0], x]),
            x + w, [1.0, 2.0] * h, h * np.float64(2), lf.maximum(h, [0.0, 0.2]), h[chosen], lf.pick(h, chosen),
            lf.embedding(w, chosen), lf.uniform((2,)) * h, lf.dropout(h, 0.5), lf.einsum("ij,j->i", w, x),
            lf.cross_entropy(h, chosen), lf.mse(h, x[:2]), lf.scatter(w, lf.argsort(x[:2]), 3), x[:2].detach() * h,
        ]  # fmt: skip
    lf.sum([lf.sum(value) for value in found]).backward()
    return [*found, w.grad, x]


def cells(place):
    w, found = parameter(place, 2, 3), []

    @lf.cell
    def step(x, h, n):
        return lf.tanh(w @ x + h * n + np.array([0.1, 0.2], np.float32)) * lf.uniform((2,))

    @lf.cell
    def row(i, n):
        return w[i] * n + lf.one_hot(i, 3)

    @lf.cell
    def free(x):
        return lf.tanh(x) * 2 + np.ones(3, np.float32)

    for grad in (True, False):
        with lf.using(grad=grad):
            h = lf.constant([0.0, 0.0])
            for t in range(4):
                h = step(lf.constant(np.full(3, t / 4, np.float32)), h, 0.5 * t)
                h = step(np.full(3, t / 4, np.float32), h, 0.5 * t)
                found += [h, row(t % 2, 0.5), w @ free(lf.constant([1.0, 2.0, 3.0]))]
    lf.sum([lf.sum(value) for value in found[:12]]).backward()
    return [*found, w.grad]


def functions(place):
    w, x = parameter(place, 3), np.array([1.0, 2.0, 3.0], np.float32)

    def f(x):
        return lf.sum(lf.tanh(x * w) * w)

    (slope,) = lf.gradients(f(lf.constant(x)), [w])
    lf.sum(slope * slope).backward()
    pairs = lf.vmap(f)(np.stack([x, x]))
    derivatives = lf.grad(f)(x), lf.jvp(f, (x,), (x,))[1], lf.vjp(f, x)[1](np.float32(1))[0], lf.hessian(f)(x)
    return [w.grad, slope, pairs, *derivatives]


def values_in_between(place):
    """What is computed on one device is known on the other."""
    w, x = parameter(place, 2), lf.constant([1.0, 2.0])
    y, mask = x * 3.0, lf.uniform((2,))
    y.numpy()
    product = y * w
    lf.forward([x * 5.0, product, mask, mask * w])
    later = y * 2.0 + mask
    return [product, mask, later, later * w, np.from_dlpack(later.detach())]


PROGRAMS = {
    "GRU": trained(lambda: Tagger(nn.GRU), batches()),
    "bidirectional LSTM": trained(lambda: Tagger(nn.BiLSTM), batches()),
    "Transformer": trained(Transformer, batches()),
    "Tree-LSTM": trained(Trees, batches()),
    "features": trained(Features, batches()),
    "by hand": by_hand,
    "cells": cells,
    "functions": functions,
    "values in between": values_in_between,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_those_of_the_cpu(name, place):
    if int(place[-1]) >= devices.count():
        pytest.skip("one device only")
    found = []
    for device in ("cpu", place):
        lf.seed(5)
        found.append([devices.to_host(value_of(v)) for v in PROGRAMS[name](device)])
    for on_cpu, on_gpu in zip(*found, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=2e-5, atol=2e-6)


REFUSED = {
    "parameters": lambda a, b, x: a * b,
    "what rests on one": lambda a, b, x: (a * x) * b,
    "detached": lambda a, b, x: (a * 2.0).detach() * b,
    "a matrix product": lambda a, b, x: (a * x) @ (b * x),
    "lists": lambda a, b, x: lf.sum([a * x, b * x]),
    "stack": lambda a, b, x: lf.stack([a * x, b * x]),
    "concatenate": lambda a, b, x: lf.concatenate([a * x, b * x]),
    "three": lambda a, b, x: lf.where(x > 0, a, b),
    "a cell": lambda a, b, x: lf.cell(lambda p, q: p * q)(a * x, b * x),
    "a cell's own": lambda a, b, x: lf.cell(lambda p: p * b)(a * x),
    "a cell's result": lambda a, b, x: lf.cell(lambda p: p * 2.0)(a * x) * b,
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_what_rests_on_parameters_elsewhere_is_refused(name, grad):
    a, b, x = lf.Parameter([1.0, 2.0]), lf.Parameter([1.0, 2.0]).to("cuda:0"), lf.constant([1.0, 2.0])
    for _ in range(2):
        with lf.using(grad=grad), pytest.raises(lf.DeviceError, match=r"devices, cpu and cuda:0; move the module"):
            REFUSED[name](a, b, x)


def test_a_device_that_was_asked_for_counts():
    """There a model that was not moved is an error, and not computed elsewhere in silence."""
    w = lf.Parameter([1.0, 2.0])
    with lf.using(device="cuda:0"), pytest.raises(lf.DeviceError, match="cpu and cuda:0"):
        w * [3.0, 4.0]
    with lf.using(device="cuda:0"), pytest.raises(lf.DeviceError, match="cpu and cuda:0"):
        lf.stack([w * 2.0, lf.constant([3.0, 4.0])])


def test_one_list_after_another_of_other_devices():
    """What was recorded for operands of one device is not taken for those of two."""
    w = lf.Parameter([1.0, 2.0]).to("cuda:0")
    x = lf.constant([3.0, 4.0])
    for _ in range(3):
        for function in (lf.sum, lf.stack, lf.mean):
            both = function([x * 2.0, w * x])
            assert both.device == "cuda:0" and function([x, x]).device == "cpu"
    assert lf.sum([x, w * x]).numpy().tolist() == [6, 12]


def test_data_that_was_recorded_before_a_device_was_asked_for():
    """It is copied onto the tape of the block, and ties nothing to its own."""
    w, x = lf.Parameter([1.0, 2.0]).to("cuda:0"), lf.constant([3.0, 4.0])
    y = x * 2.0
    for _ in range(2):
        with lf.using(device="cuda:0"):
            product = w * x
            assert not product.tape.imports
            assert product.numpy().tolist() == [3, 8] and (w * y).numpy().tolist() == [6, 16]
    with lf.using(device="cuda:0"):
        z = lf.constant([3.0, 4.0])
    assert (z * w).numpy().tolist() == [3, 8] and (z * x).numpy().tolist() == [9, 16]
    a = lf.Parameter([1.0, 2.0])
    with pytest.raises(lf.DeviceError, match="cpu and cuda:0"):
        a * z

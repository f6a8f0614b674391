"""Sums that have the same bits at every run on a device: the simulator runs what may come in any order in two."""

import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn
from lazyflow.cuda import rows
from lazyflow.settings import BATCHINGS
from tests import simcupy
from tests.counted import Loop, Tagger, TreeLSTM

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def simulated():
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator runs blocks in another order: --device simulated")


class Shared(nn.Module):
    """States that many read, by cells, in chains, in slices that overlap, and by index."""

    @staticmethod
    def data(rng):
        return [(rng.integers(0, 6, 9).tolist(), 0) for _ in range(6)]

    def __init__(self):
        super().__init__()
        self.table, self.cell, self.mix = nn.Embedding(6, 8), nn.GRUCell(8, 8), nn.Linear(8, 8)

    def __call__(self, words, _):
        state = self.mix(self.table(words[0]))
        ends = [self.cell(self.table(word), state) for word in words]
        ends += [lf.tanh(state[k % 3 : k % 3 + 5]) * state[:5] for k in range(7)]
        matrix = lf.stack([state * end[0] for end in ends])
        return lf.sum([lf.sum(end) for end in ends]) + lf.sum(lf.take(matrix, words) * state)


def gradients(model, settings, batching="phases"):
    lf.seed(3)
    with lf.using(device="cuda:0", batching=batching):
        module = model()
        data = model.data(np.random.default_rng(2))
        with lf.using(**settings):
            lf.mean([module(*example) for example in data]).backward()
    return [
        devices.to_host(g.to_dense() if hasattr(g, "to_dense") else g) for g in (p.grad for p in module.parameters())
    ]


def differing(model, settings, **more):
    """How many gradients differ where blocks and threads run in the other order; and the gradients."""
    found = gradients(model, settings, **more)
    with simcupy.emulate.backwards():
        others = gradients(model, settings, **more)
    return sum((a != b).any() for a, b in zip(found, others, strict=True)), found


@pytest.mark.parametrize("fuse", ["auto", "off"])
@pytest.mark.parametrize("model", [TreeLSTM, Tagger, Loop, Shared])
def test_gradients_have_the_same_bits_in_any_order(model, fuse):
    count, found = differing(model, {"deterministic": True, "fuse": fuse})
    assert count == 0
    for a, b in zip(found, gradients(model, {"fuse": fuse}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_schedules(batching):
    assert differing(Shared, {"deterministic": True}, batching=batching)[0] == 0


def test_without_it_bits_depend_on_the_order():
    """Else the tests above prove nothing."""
    assert differing(Shared, {})[0]


@pytest.mark.parametrize("shifts", [(0, 0), (0, 1), (3, 1)])
def test_rows_that_repeat_and_overlap(shifts):
    rng, cupy = np.random.default_rng(5), devices.array_module("cuda:0")
    at, matrix = rng.integers(0, 12, 50) * 2, rng.normal(size=(50, 9)).astype(np.float32)
    expected = rng.normal(size=60)
    buffer, there = (cupy.asarray(a) for a in (expected.astype(np.float32), matrix))
    parts = [
        rows.Part(cupy.asarray(at), 2, shift, 4 * k, 4 + k, host)
        for k, (shift, host) in enumerate(zip(shifts, (None, at), strict=True))
    ]
    with lf.using(deterministic=True):
        rows.add_parts(buffer, there[10:], parts, 10)
    for part in parts:
        for row, place in zip(matrix[10:], at[10:], strict=True):
            begin = 2 * place + part.shift
            expected[begin : begin + part.width] += row[part.column : part.column + part.width]
    np.testing.assert_allclose(devices.to_host(buffer), expected, rtol=1e-5, atol=1e-5)

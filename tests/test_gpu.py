"""The Tree-LSTM and the random programs on CuPy: ``pytest -m gpu``, which runs the operation table there as well
(`tests.ops.test_ops`)."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device, nn
from lazyflow.settings import BATCHINGS

from . import programs as P

pytestmark = pytest.mark.gpu
DEVICE = "cuda:0"


def chain_tree(cell, words, depth):
    state = cell.leaf(words[0])
    for k in range(1, depth):
        right = cell.leaf(words[k])
        state = cell(state, right) if k % 2 else cell(right, state)
    return state[0]


def tree_lstm_loss(where, batching):
    lf.seed(7)
    with lf.using(dtype="float64"):
        cell = nn.BinaryTreeLSTMCell(6, 5)
        table = nn.Embedding(20, 6)
    cell.to(where)
    table.to(where)
    rng = np.random.default_rng(8)
    with lf.using(device=where, batching=batching):
        trees = [[table(int(i)) for i in rng.integers(0, 20, n)] for n in (2, 5, 9, 3)]
        loss = lf.mean([lf.sum(chain_tree(cell, words, len(words))) for words in trees])
        loss.backward()
    parameters = [*cell.parameters(), *table.parameters()]
    gradients = [p.grad.to_dense() if isinstance(p.grad, lf.RowSparse) else p.grad for p in parameters]
    return loss.item(), [device.to_host(g) for g in gradients]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_tree_lstm_is_that_of_the_cpu(batching):
    value, gradients = tree_lstm_loss(DEVICE, batching)
    expected, expected_gradients = tree_lstm_loss("cpu", "none")
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    for a, b in zip(gradients, expected_gradients, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", P.STEPS)
def test_every_step_of_the_random_programs(name):
    program = P.Program(((name, 1, (0, 1)[: P.STEPS[name].arity]),))
    values, inputs = P.arrays(1), P.example_inputs(2, 3)
    with lf.using(device=DEVICE):
        parameters = {key: lf.Parameter(value) for key, value in values.items()}
        found = lf.forward([program.run(False, parameters, [lf.constant(a) for a in x])[-1] for x in inputs])
    for value, x in zip(found, inputs, strict=False):
        np.testing.assert_allclose(value, program.run(True, values, x)[-1], rtol=1e-9, atol=1e-12)


def test_mixing_devices_is_an_error():
    with lf.using(device="cpu"):
        w = lf.Parameter([1.0, 2.0])
    with lf.using(device=DEVICE), pytest.raises(lf.DeviceError, match="cpu and cuda:0"):
        w * lf.constant([1.0, 2.0])


def test_training_moves_parameters_on_the_device():
    lf.seed(3)
    with lf.using(device=DEVICE):
        layer = nn.Linear(3, 1)
        optimizer = lf.optim.Adam(layer.parameters(), lr=0.1)
        losses = []
        for _ in range(50):
            loss = lf.mse(layer(lf.constant([1.0, 2.0, 3.0])), [1.0])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]

"""The Tree-LSTM and the random programs on CuPy: ``pytest -m gpu``, which runs the operation table there as well
(`tests.ops.test_ops`)."""

import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device, nn
from lazyflow.settings import BATCHINGS
from tests import programs as P
from tests import simcupy

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


# Kernels in CUDA C beside the CPU's.


@lf.cell
def gated(x, h, n):
    update, gate = lf.split(lf.concatenate([x * n, h]), 2)
    return lf.tanh(update) * lf.sigmoid(gate) + lf.sum(x * h) / (n + 1), lf.exp(-h * h)


def of_cells(where, dtype, fuse="auto"):
    """A loss of calls with whole and broken numbers, a list of lists of all sizes, and repeated rows; its gradients."""
    rng = np.random.default_rng(3)
    with lf.using(device=where, dtype=dtype, fuse=fuse):
        table = lf.Parameter(rng.normal(size=(7, 4)))
        weight = lf.Parameter(rng.normal(size=(3, 4)))
        losses = []
        for k in range(6):
            h, parts = table[k % 3], []
            for n in range(1, 3 + k):
                h, other = gated(table[(2 * k + n) % 7], h, n if k % 2 else n / 4)
                parts.append(lf.cross_entropy(lf.matmul(weight, h), (k + n) % 3) + lf.sum(other))
            losses.append(lf.mean(parts))
        loss = lf.sum(losses)
        loss.backward()
        optimizer = lf.optim.Adam([table, weight], lr=0.1, weight_decay=0.1)
        optimizer.step()
        found = [loss.numpy(), table.grad.to_dense(), weight.grad, table.array, weight.array]
    return [device.to_host(a) for a in found]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fuse", ["auto", "off"])
def test_cells_lists_losses_and_updates_are_those_of_the_cpu(dtype, fuse):
    rtol = 1e-10 if dtype == "float64" else 2e-4
    for found, expected in zip(of_cells(DEVICE, dtype, fuse), of_cells("cpu", dtype), strict=True):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_a_class_that_is_hidden_leaves_nothing():
    with lf.using(device=DEVICE):
        scores = lf.Parameter([[1.0, 2.0, 3.0], [np.inf, 1.0, 2.0]])
        losses = [lf.cross_entropy(scores[k], 1) for k in range(2)]
        lf.sum([losses[0], lf.where(lf.constant(False), losses[1], 0.0)]).backward()
        assert np.isfinite(device.to_host(scores.grad.to_dense())).all()


# Products of float32 matrices.


def product(dtype, **given):
    """A product and the gradients of it, rounded if so asked, and the kinds of launches that the simulator counted."""
    rng = np.random.default_rng(6)
    with lf.using(device=DEVICE):
        x, w = (lf.Parameter(rng.normal(size=shape).astype(dtype)) for shape in ((5, 40), (40, 30)))
        with simcupy.counting() as seen, lf.using(**given):
            y = x @ w
            lf.sum(y * y).backward()
        return [device.to_host(a) for a in (y.numpy(), x.grad, w.grad)], {k for k in seen.kinds if k.startswith("gemm")}


def test_products_are_of_tf32_where_that_is_set():
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator says how: --device simulated")
    core = device.array_module(DEVICE)._core
    exact, kinds = product("float32")
    assert kinds == {"gemm"}
    rounded, kinds = product("float32", tf32=True)
    assert kinds == {"gemm of TF32"}
    wide, kinds = product("float64", tf32=True)
    assert kinds == {"gemm"}
    for a, b, c in zip(exact, rounded, wide, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-4)
        assert 1e-5 < np.abs(b - c).max() / np.abs(c).max() < 1e-2
    core.set_compute_type(np.float32, core._routines_linalg.COMPUTE_TYPE_TF32)  # a user's own, or CUPY_TF32=1
    try:
        assert product("float32")[1] == {"gemm"}
        assert core.get_compute_type(np.float32) == core._routines_linalg.COMPUTE_TYPE_TF32
    finally:
        core.set_compute_type(np.float32, core._routines_linalg.COMPUTE_TYPE_DEFAULT)

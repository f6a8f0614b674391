"""vmap and grad of one example's function, against autograd in a loop over the examples."""

import numpy as np
import pytest

import lazyflow as lf
import lazyflow.numpy as anp
from tests.examples.lecture.examples import names


@pytest.fixture(scope="module")
def program():
    return names("jax_vmap")


@pytest.fixture
def problem(program):
    stream = anp.random.Stream(1)
    inputs, targets = program["data"](6, stream)
    return program["initial"]([2, 3, 1], stream), inputs, targets


def test_training_lowers_the_loss(program, problem):
    params, inputs, targets = problem
    trained = program["train"](params, inputs, targets)
    assert program["batch_loss"](trained, inputs, targets) < program["batch_loss"](params, inputs, targets)


def test_the_gradients_of_each_have_the_batchs_mean(program, problem):
    each, whole = program["gradients_of_each"](*problem), program["batch_gradient"](*problem)
    for (we, be), (ww, bw) in zip(each, whole, strict=True):
        assert we.shape == (6, *ww.shape)
        np.testing.assert_allclose(we.mean(0), ww, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(be.mean(0), bw, rtol=1e-12, atol=1e-15)


def test_examples_of_equal_structure_run_as_one(program, problem):
    params, inputs, targets = problem
    loss = lf.vmap(program["loss"], (None, 0, 0))(params, lf.constant(inputs), targets)
    assert isinstance(loss, lf.Expr)
    found = lf.explain(loss)
    assert all(group.launches == 1 for group in found.groups if group.signature.startswith("matmul"))


def test_a_cell_is_the_jit(program, problem):
    params, inputs, targets = problem
    recorded = program["losses_of_each"](params, lf.constant(inputs), targets)
    (group,) = [g for g in lf.explain(recorded).groups if g.signature.startswith("cell loss")]
    assert (group.nodes, group.launches) == (6, 1)
    plain = lf.vmap(program["loss"], (None, 0, 0))(params, inputs, targets)
    np.testing.assert_allclose(recorded.numpy(), plain, rtol=1e-12)
    each = lf.vmap(lf.grad(program["loss_as_cell"]), (None, 0, 0))(params, inputs, targets)
    for ours, wanted in zip(each, program["gradients_of_each"](*problem), strict=True):
        for got, want in zip(ours, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


@pytest.mark.peer
def test_the_same_numbers_as_autograd(program, problem):
    autograd = pytest.importorskip("autograd", reason="compared with autograd (extra 'peers')")
    np_ = pytest.importorskip("autograd.numpy")
    params, inputs, targets = problem

    def loss(params, x, y):
        for weight, bias in params[:-1]:
            x = np_.tanh(np_.dot(x, weight) + bias)
        weight, bias = params[-1]
        return np_.sum((np_.dot(x, weight) + bias - y) ** 2)

    wanted = [autograd.grad(loss)(params, x, y) for x, y in zip(inputs, targets, strict=True)]
    each = program["gradients_of_each"](params, inputs, targets)
    for layer in range(2):
        for part in range(2):
            want = np.stack([g[layer][part] for g in wanted])
            np.testing.assert_allclose(each[layer][part], want, rtol=1e-9, atol=1e-12)
    trained = program["train"](params, inputs, targets, steps=5)
    for _ in range(5):
        whole = autograd.grad(lambda p: sum(loss(p, x, y) for x, y in zip(inputs, targets, strict=True)) / 6)(params)
        params = [(w - 0.1 * gw, b - 0.1 * gb) for (w, b), (gw, gb) in zip(params, whole, strict=True)]
    for ours, theirs in zip(trained, params, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9, atol=1e-12)


def test_main_runs(program, capsys):
    program["main"]()
    assert "Trained loss" in capsys.readouterr().out

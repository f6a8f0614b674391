"""Define by run on the CPU, against autograd; and on the GPU where there is one."""

import sys

import numpy as np
import pytest

import lazyflow as lf
from tests.examples.lecture.examples import names


@pytest.fixture(scope="module")
def program():
    return names("chainer_cupy")


def fresh(program):
    with lf.using(dtype="float64"):
        lf.seed(5)
        return program["MLP"](2, 6, 2), *program["data"](20)


def trained(program, model, examples, labels, **options):
    with lf.using(dtype="float64"):
        return program["train"](model, examples, labels, **options)


def test_the_functional_form_is_the_modules(program):
    model, examples, _ = fresh(program)
    parameters = dict(model.named_parameters())
    for x in examples[:5]:
        np.testing.assert_array_equal(program["functional"](parameters, x).numpy(), model(x).numpy())


def test_gradients_by_the_functional_form(program):
    model, examples, labels = fresh(program)
    loss = lambda p, x, y: lf.cross_entropy(program["functional"](p, x), y)  # noqa: E731
    by_name = lf.grad(loss)(model.state_dict(), examples[0], int(labels[0]))
    lf.cross_entropy(model(examples[0]), int(labels[0])).backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(by_name[name], p.grad, rtol=1e-12, err_msg=name)


@pytest.mark.peer
def test_the_same_numbers_as_autograd(program):
    autograd = pytest.importorskip("autograd", reason="compared with autograd (extra 'peers')")
    anp = pytest.importorskip("autograd.numpy")
    model, examples, labels = fresh(program)
    p = model.state_dict()

    def loss(p):
        x = examples
        for name in ("l1", "l2"):
            x = anp.maximum(anp.dot(x, p[f"{name}.weight"].T) + p[f"{name}.bias"], 0)
        scores = anp.dot(x, p["l3.weight"].T) + p["l3.bias"]
        return anp.mean(anp.log(anp.sum(anp.exp(scores), 1)) - scores[range(len(labels)), labels])

    ours, theirs = trained(program, model, examples, labels), []
    momentum = dict.fromkeys(p, 0.0)
    for _ in range(5):
        value, gradient = autograd.value_and_grad(loss)(p)
        theirs.append(value)
        momentum = {name: 0.9 * momentum[name] + gradient[name] for name in p}
        p = {name: p[name] - 0.1 * momentum[name] for name in p}
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, p[name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.gpu
def test_the_same_numbers_on_the_gpu(program):
    losses = [trained(program, *fresh(program), device=device) for device in ("cpu", "cuda:0")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


def test_main_runs(program, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["chainer_cupy.py", "--device", "cpu"])
    program["main"]()
    assert "the functional form agrees: True" in capsys.readouterr().out

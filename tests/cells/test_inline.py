"""Gradients through cells: the same as of their bodies, in any order, with several results, payload and draws."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn

RNG = np.random.default_rng(0)
W, B, X, Y = RNG.normal(size=(4, 4)) * 0.5, RNG.normal(size=4), RNG.normal(size=4), RNG.normal(size=4)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


def gated(x, y):
    update, gate = lf.split(lf.concatenate([lf.tanh(x) * y, lf.sigmoid(y)]), 2)
    return update * gate + x


def two_results(x, y):
    h = lf.tanh(x * y)
    return {"h": h, "s": [lf.sum(h) * 2, x + y]}


def of_numbers(x, y, k=3):
    return lf.pick(x, k) * y + 0.5 * k * x


def with_a_constant(x, y):
    return lf.outer(x, y) @ np.arange(4.0) + lf.softmax(x)


def of_lists(x, y):
    return lf.sum([x, y, x * y]) + lf.stack([x, y])[1]


BODIES = {f.__name__: f for f in (gated, two_results, of_numbers, with_a_constant, of_lists)}


def total(results):
    if isinstance(results, dict):
        return lf.sum(results["h"] * results["s"][1]) * results["s"][0]
    return lf.sum(results**2)


@pytest.mark.parametrize("name", BODIES)
def test_the_same_as_of_the_body(name):
    body, cell = BODIES[name], lf.cell(BODIES[name])
    for derivative in (lf.grad, lf.hessian):
        plain = derivative(lambda x: total(body(x * 2, Y)))(X)
        close(derivative(lambda x: total(cell(x * 2, lf.constant(Y))))(X), plain)
    lf.check_grads(lambda x, y: total(cell(x, y)), argnum=(0, 1))(X, Y)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = lf.Parameter(W), lf.Parameter(B)

    @lf.cell
    def forward(self, x, h):
        return lf.tanh(lf.affine(self.weight, self.bias, h) + self.weight @ x)


def unrolled(cell, steps=4):
    h = lf.constant(Y)
    for k in range(steps):
        h = cell(lf.constant(X * k), h)
    return lf.sum(h * h)


def test_gradients_by_the_parameters_of_a_cell():
    cell = Cell()
    loss = unrolled(cell)
    recorded = lf.forward(lf.gradients(loss, [cell.weight, cell.bias]))
    loss.backward()
    close(recorded[0], cell.weight.grad)
    close(recorded[1], cell.bias.grad)
    (by_weight,) = lf.gradients(loss, [cell.weight])
    curvature = lf.gradients(lf.sum(by_weight * W), [cell.weight])[0].numpy()
    step = 1e-6
    ends = []
    for sign in (1, -1):
        cell.weight.data = W * (1 + sign * step)
        ends.append(by_weight.forward().numpy())
    np.testing.assert_allclose(curvature, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


MODULES = {
    "LSTM": lambda: nn.LSTM(4, 3),
    "BiLSTM": lambda: nn.BiLSTM(4, 3),
    "GRU": lambda: nn.GRUCell(4, 3),
    "linear": lambda: nn.Linear(4, 3),
}


def outputs(name, module, xs):
    if name == "GRU":
        return [module(x, lf.constant(np.ones(3))) for x in xs]
    return [module(x) for x in xs] if name == "linear" else module(xs)[0]


@pytest.mark.parametrize("name", MODULES)
def test_the_librarys_cells(name):
    with lf.using(dtype="float64"):
        lf.seed(2)
        module = MODULES[name]()
        xs = [lf.constant(RNG.normal(size=4)) for _ in range(3)]
        loss = lf.sum([lf.sum(y * y) for y in outputs(name, module, xs)])
        recorded = lf.forward(lf.gradients(loss, list(module.parameters())))
        loss.backward()
    for (path, p), got in zip(module.named_parameters(), recorded, strict=True):
        np.testing.assert_allclose(got, p.grad, rtol=1e-9, atol=1e-11, err_msg=path)


def test_a_draw_in_a_cell_is_the_same_draw_in_its_gradient():
    @lf.cell
    def dropped(x):
        return lf.dropout(x, 0.5) * x

    x = np.ones(50)
    lf.seed(4)
    value, gradient = lf.value_and_grad(lambda x: lf.sum(dropped(x)))(x)
    assert 0 < np.count_nonzero(gradient) < 50
    close(gradient.sum(), 2 * value)
    close(np.unique(gradient), [0.0, 4.0])


def test_under_no_grad():
    cell = lf.cell(gated)
    with lf.no_grad():
        close(lf.grad(lambda x: lf.sum(cell(x, lf.constant(Y))))(X), lf.grad(lambda x: lf.sum(gated(x, Y)))(X))


def test_what_rests_on_a_cells_parameters_stays_an_expression():
    cell = Cell()
    loss = lf.mean(lf.vmap(lambda x: lf.sum(cell(x, lf.constant(Y))))(np.stack([X, Y])))
    assert isinstance(loss, lf.Expr)
    loss.backward()
    assert cell.weight.grad is not None

"""Cells and normalisation against their equations, written out in NumPy for one example: values, and gradients by
differences.

The references know nothing of lazyflow: they take a dict of arrays, as `state_dict` gives it.
"""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from tests.nn.support import (
    ChildSumTreeLSTM,
    TreeLSTM,
    dependency_trees,
    factors,
    gradients,
    scrambled,
    sequences,
    trees,
    vectors,
    weighted,
)


def sigma(x):
    return 1 / (1 + np.exp(-x))


def rows(array, count):
    """Equal parts along the first axis."""
    size = len(array) // count
    return [array[k * size : (k + 1) * size] for k in range(count)]


def rnn(p, xs):
    h, hs = np.zeros(p["weight_hh"].shape[1]), []
    for x in xs:
        h = np.tanh(p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ h + p["bias_hh"])
        hs.append(h)
    return hs


def lstm(p, xs):
    Wi, Wf, Wg, Wo = rows(p["weight_ih"], 4)
    Ui, Uf, Ug, Uo = rows(p["weight_hh"], 4)
    bi, bf, bg, bo = rows(p["bias_ih"] + p["bias_hh"], 4)
    h = c = np.zeros(len(bi))
    states = []
    for x in xs:
        i = sigma(Wi @ x + Ui @ h + bi)
        f = sigma(Wf @ x + Uf @ h + bf)
        g = np.tanh(Wg @ x + Ug @ h + bg)
        o = sigma(Wo @ x + Uo @ h + bo)
        c = f * c + i * g
        h = o * np.tanh(c)
        states += [h, c]
    return states


def gru(p, xs):
    Wr, Wz, Wn = rows(p["weight_ih"], 3)
    Ur, Uz, Un = rows(p["weight_hh"], 3)
    (br, bz, bn), (ar, az, an) = rows(p["bias_ih"], 3), rows(p["bias_hh"], 3)
    h, hs = np.zeros(len(br)), []
    for x in xs:
        r = sigma(Wr @ x + br + Ur @ h + ar)
        z = sigma(Wz @ x + bz + Uz @ h + az)
        n = np.tanh(Wn @ x + bn + r * (Un @ h + an))
        h = (1 - z) * n + z * h
        hs.append(h)
    return hs


def layer_norm(p, xs):
    found = []
    for x in xs:
        variance = np.sum((x - x.sum() / x.size) ** 2) / x.size
        found.append((x - x.sum() / x.size) / np.sqrt(variance + 1e-5) * p["weight"] + p["bias"])
    return found


def binary_tree(p, tree):
    Wi, Wo, Wu = rows(p["cell.leaf_gates.weight"], 3)
    ai, ao, au = rows(p["cell.leaf_gates.bias"], 3)
    Ui, Ufl, Ufr, Uo, Uu = rows(p["cell.inner_gates.weight"], 5)
    bi, bfl, bfr, bo, bu = rows(p["cell.inner_gates.bias"], 5)

    def state(node):
        if isinstance(node, int):
            x = p["words.weight"][node]
            c = sigma(Wi @ x + ai) * np.tanh(Wu @ x + au)
            return sigma(Wo @ x + ao) * np.tanh(c), c
        (hl, cl), (hr, cr) = map(state, node)
        s = np.append(hl, hr)
        c = sigma(Ui @ s + bi) * np.tanh(Uu @ s + bu) + sigma(Ufl @ s + bfl) * cl + sigma(Ufr @ s + bfr) * cr
        return sigma(Uo @ s + bo) * np.tanh(c), c

    return [p["head.weight"] @ state(tree)[0] + p["head.bias"]]


def child_sum_tree(p, tree):
    Wi, Wo, Wu, Wf = rows(p["cell.input_gates.weight"], 4)
    bi, bo, bu, bf = rows(p["cell.input_gates.bias"], 4)
    Ui, Uo, Uu = rows(p["cell.hidden_gates.weight"], 3)
    Uf = p["cell.forget_gate.weight"]

    def state(node):
        word, children = node
        x, below = p["words.weight"][word], [state(child) for child in children]
        s = np.zeros(len(bi))
        for h, _ in below:
            s = s + h
        c = sigma(Wi @ x + Ui @ s + bi) * np.tanh(Wu @ x + Uu @ s + bu)
        for h, ck in below:
            c = c + sigma(Wf @ x + Uf @ h + bf) * ck
        return sigma(Wo @ x + Uo @ s + bo) * np.tanh(c), c

    return [p["head.weight"] @ state(tree)[0] + p["head.bias"]]


def stepped(cell, xs):
    state, outputs = None, []
    for x in xs:
        state = cell(lf.constant(x), state)
        outputs.extend(state if isinstance(state, tuple) else [state])
    return outputs


def each(layer, xs):
    return [layer(lf.constant(x)) for x in xs]


def whole(model, tree):
    return [model(tree)]


WORDS = sequences(2, 4, (3, 1, 5, 2))
CASES = {
    "RNNCell": (lambda: nn.RNNCell(4, 3), WORDS, stepped, rnn),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), WORDS, stepped, lstm),
    "GRUCell": (lambda: nn.GRUCell(4, 3), WORDS, stepped, gru),
    "LayerNorm": (lambda: nn.LayerNorm(4), WORDS, each, layer_norm),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((2, 3)), [vectors(n, (2, 3)) for n in range(3)], each, layer_norm),
    "BinaryTreeLSTMCell": (TreeLSTM, trees(3, (1, 2, 3, 8)), whole, binary_tree),
    "ChildSumTreeLSTMCell": (ChildSumTreeLSTM, dependency_trees(3, (1, 2, 3, 8)), whole, child_sum_tree),
}


def outputs_of(case, module):
    _, examples, ours, _ = CASES[case]
    return [o for example in examples for o in ours(module, example)]


@pytest.mark.parametrize("case", CASES)
def test_values(case):
    make, examples, _, reference = CASES[case]
    with lf.using(dtype="float64"):
        module = scrambled(make())
        expected = [o for example in examples for o in reference(module.state_dict(), example)]
        for output, value in zip(lf.forward(outputs_of(case, module)), expected, strict=True):
            np.testing.assert_allclose(output, value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    """Of every parameter, in a random direction, against central differences of the reference."""
    make, examples, _, reference = CASES[case]

    def loss(p):
        found = [o for example in examples for o in reference(p, example)]
        return sum(np.sum(o * f) for o, f in zip(found, factors(found), strict=True))

    with lf.using(dtype="float64"):
        module = scrambled(make())
        weighted(outputs_of(case, module)).backward()
    state, found, step = module.state_dict(), gradients(module), 1e-5
    for name in state:
        (direction,) = vectors(1, state[name].shape)
        above, below = ({**state, name: state[name] + sign * step * direction} for sign in (1, -1))
        numeric = (loss(above) - loss(below)) / (2 * step)
        assert np.sum(found[name] * direction) == pytest.approx(numeric, rel=1e-6, abs=1e-8), name


def test_the_order_of_the_children_does_not_matter_to_the_child_sum():
    with lf.using(dtype="float64"):
        model = scrambled(ChildSumTreeLSTM())
        leaves = [(1, []), (2, []), (3, [(4, [])])]
        one, other = model((0, leaves)), model((0, leaves[::-1]))
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12)

"""The other LSTM cells and the N-ary Tree-LSTM: against their equations in NumPy, and against DyNet's builders."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.device import to_host
from tests.nn.support import dependency_trees, gradients, scrambled, sequences, weighted


@pytest.fixture(autouse=True)
def interpreted():
    """Nothing is compiled for a test's few steps."""
    with lf.using(fuse="numpy"):
        yield


def sigma(x):
    return 1 / (1 + np.exp(-x))


def coupled(p, xs):
    def peep(name, c):
        weight = p.get(name)
        return 0.0 if weight is None else weight @ c if weight.ndim == 2 else weight * c

    h = c = np.zeros(p["weight_hh"].shape[1])
    states = []
    for x in xs:
        i, g, o = np.split(p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias"], 3)
        i = sigma(i + peep("weight_ci", c))
        c = (1 - i) * c + i * np.tanh(g)
        h = sigma(o + peep("weight_co", c)) * np.tanh(c)
        states += [h, c]
    return states


def norm(p, name, x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p[f"norm_{name}_weight"] + p[f"norm_{name}_bias"]


def layer_normed(p, xs):
    h = c = np.zeros(p["weight_hh"].shape[1])
    states = []
    for x in xs:
        gates = norm(p, "ih", p["weight_ih"] @ x) + norm(p, "hh", p["weight_hh"] @ h) + p["bias"]
        i, f, g, o = np.split(gates, 4)
        c = sigma(f) * c + sigma(i) * np.tanh(g)
        h = sigma(o) * np.tanh(norm(p, "c", c))
        states += [h, c]
    return states


def steps(cell, xs):
    state, found = None, []
    for x in xs:
        state = cell(lf.constant(x), state)
        found += state
    return found


def shortened(tree):
    """At most three children, some of them missing."""
    word, children = tree
    found = [shortened(child) for child in children[:3]]
    return word, [None, *found] if word % 2 and len(found) < 3 else found


TABLE = np.random.default_rng(0).normal(size=(10, 4))


def over_tree(cell, tree):
    word, children = tree
    return cell(lf.constant(TABLE[word]), [c if c is None else over_tree(cell, c) for c in children])


def nary(p, tree):
    word, children = tree
    states = [None if child is None else nary(p, child) for child in children]
    states += [None] * (3 - len(states))
    i, o, u, f = np.split(p["input_gates.weight"] @ TABLE[word] + p["input_gates.bias"], 4)
    zero = np.zeros(len(i))
    below = np.concatenate([zero if s is None else s[0] for s in states])
    si, so, su, *forget = np.split(p["hidden_gates.weight"] @ below, 6)
    c = sigma(i + si) * np.tanh(u + su)
    for s, k in zip(states, forget, strict=True):
        c = c if s is None else c + sigma(f + k) * s[1]
    return [sigma(o + so) * np.tanh(c), c]


WORDS = sequences(1, 4, (3, 1, 5, 2))
TREES = [shortened(tree) for tree in dependency_trees(4, (1, 5, 9, 3, 7))]
CELLS = {
    "coupled": (lambda: nn.CoupledLSTMCell(4, 3), WORDS, steps, coupled),
    "diagonal": (lambda: nn.CoupledLSTMCell(4, 3, peepholes="diagonal"), WORDS, steps, coupled),
    "without peepholes": (lambda: nn.CoupledLSTMCell(4, 3, peepholes="none"), WORDS, steps, coupled),
    "layer norm": (lambda: nn.LayerNormLSTMCell(4, 3), WORDS, steps, layer_normed),
    "N-ary": (lambda: nn.NaryTreeLSTMCell(4, 3, n=3), TREES, lambda cell, tree: list(over_tree(cell, tree)), nary),
}
every = pytest.mark.parametrize("name", CELLS)


def made(name):
    with lf.using(dtype="float64"):
        return scrambled(CELLS[name][0]())


@every
def test_the_equations(name):
    _, examples, outputs, reference = CELLS[name]
    cell = made(name)
    for example in examples:
        for ours, theirs in zip(outputs(cell, example), reference(cell.state_dict(), example), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10)


@every
def test_gradients_by_differences(name):
    _, examples, outputs, _ = CELLS[name]
    cell, rng = made(name), np.random.default_rng(0)

    def total():
        return weighted([o for example in examples for o in outputs(cell, example)])

    total().backward()
    for name, parameter in cell.named_parameters():
        direction, before, values = rng.standard_normal(parameter.shape), parameter.numpy(), []
        for step in (1e-6, -1e-6):
            parameter.assign(before + step * direction)
            values.append(total().item())
        parameter.assign(before)
        numeric = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose(
            (to_host(parameter.grad) * direction).sum(), numeric, rtol=1e-5, atol=1e-6, err_msg=name
        )


@every
def test_batched_equals_unbatched(name):
    found = []
    for batching in ("none", "phases"):
        _, examples, outputs, _ = CELLS[name]
        cell = made(name)
        with lf.using(batching=batching):
            loss = weighted([o for example in examples for o in outputs(cell, example)])
            loss.backward()
        found.append((loss.item(), gradients(cell)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-10)
    for parameter, gradient in found[0][1].items():
        np.testing.assert_allclose(gradient, found[1][1][parameter], atol=1e-10)


@every
def test_float32_stays_float32(name):
    make, examples, outputs, _ = CELLS[name]
    cell = make()
    if name != "N-ary":
        assert {o.dtype for o in outputs(cell, np.float32(examples[0]))} == {np.dtype("float32")}
    assert {p.dtype for p in cell.parameters()} == {np.dtype("float32")}


def ones(n):
    return lf.constant(np.ones(n, np.float32))


def pair(n):
    return ones(n), ones(n)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.CoupledLSTMCell(0, 3), ValueError, "input_size must be at least 1"),
        (lambda: nn.CoupledLSTMCell(2, 3, peepholes="some"), ValueError, "peepholes must be one of full"),
        (lambda: nn.CoupledLSTMCell(2, 3)(ones(3)), lf.ShapeError, "affine"),
        (lambda: nn.CoupledLSTMCell(2, 3)(ones(2), pair(2)), lf.ShapeError, "matmul"),
        (lambda: nn.LayerNormLSTMCell(2, 0), ValueError, "hidden_size must be at least 1"),
        (lambda: nn.LayerNormLSTMCell(2, 3)(ones(3)), lf.ShapeError, "matmul"),
        (lambda: nn.NaryTreeLSTMCell(2, 3, 0), ValueError, "n must be at least 1"),
        (lambda: nn.NaryTreeLSTMCell(2, 3)(ones(2), [pair(3)] * 3), ValueError, "at most n=2 children, got 3"),
        (lambda: nn.NaryTreeLSTMCell(2, 3)(ones(2), [pair(4)]), lf.ShapeError, "matmul"),
        (lambda: nn.NaryTreeLSTMCell(2, 3)(ones(3)), lf.ShapeError, "affine"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_forget_bias():
    assert nn.LayerNormLSTMCell(2, 1, forget_bias=2.5).bias.numpy().tolist() == [0.0, 2.5, 0.0, 0.0]
    lf.seed(1)
    plain = nn.NaryTreeLSTMCell(2, 1).input_gates.bias.numpy()
    lf.seed(1)
    raised = nn.NaryTreeLSTMCell(2, 1, forget_bias=1.5).input_gates.bias.numpy()
    np.testing.assert_allclose(raised - plain, [0.0, 0.0, 0.0, 1.5], atol=1e-6)

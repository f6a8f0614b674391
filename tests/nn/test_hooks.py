"""Hooks on modules, beside PyTorch's, and what they refuse."""

import copy

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.device import to_host
from tests.nn.support import scrambled


def c(*shape):
    return lf.constant(np.ones(shape, np.float32))


class Pair(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, a, b, scale=1.0):
        return self.layer(a) * scale, a * b


def test_forward_hooks_see_and_change():
    layer, seen = nn.Linear(2, 3), []
    layer.register_forward_pre_hook(lambda module, args: seen.append((module, args)))
    layer.register_forward_pre_hook(lambda module, args: args[0] * 2)
    layer.register_forward_hook(lambda module, args, output: seen.append((module, args, output)))
    layer.register_forward_hook(lambda module, args, output: output + 1)
    x = c(2)
    y = layer(x)
    np.testing.assert_allclose(y.numpy(), layer.forward(x * 2).numpy() + 1, rtol=1e-6)
    assert seen[0] == (layer, (x,))
    assert seen[1][:1] == (layer,) and seen[1][1][0].numpy().tolist() == [2, 2]


def test_handles_and_copies():
    layer, seen = nn.Linear(2, 3), []
    handle = layer.register_forward_hook(lambda *a: seen.append("hook"))
    twin = copy.deepcopy(layer)
    layer(c(2))
    handle.remove()
    layer(c(2))
    assert seen == ["hook"]
    twin(c(2))
    assert seen == ["hook"] * 2, "a copy has the hooks of its original"
    assert "_hooks" not in nn.Linear(2, 3).__dict__


def test_backward_hooks_of_several_inputs_and_outputs():
    module, seen = scrambled(Pair()), []
    module.register_full_backward_hook(lambda m, grad_input, grad_output: seen.append((grad_input, grad_output)))
    a, b = lf.Parameter([1.0, 2.0]), lf.Parameter([3.0, 4.0])
    first, second = module(a, b, scale=2.0)
    (lf.sum(first) + 10 * lf.sum(second)).backward()
    [(grad_input, grad_output)] = seen
    np.testing.assert_allclose(grad_output[0], [1, 1, 1])
    np.testing.assert_allclose(grad_output[1], [10, 10])
    np.testing.assert_allclose(grad_input[0], a.grad)
    np.testing.assert_allclose(grad_input[1], b.grad)
    np.testing.assert_allclose(a.grad, 2 * module.layer.weight.numpy().sum(0) + [30, 40], rtol=1e-6)


def test_backward_hooks_replace_the_gradients_of_the_inputs():
    module = scrambled(Pair())
    module.register_full_backward_hook(lambda m, grad_input, grad_output: (None, 0 * grad_input[1] + 5))
    a, b = lf.Parameter([1.0, 2.0]), lf.Parameter([3.0, 4.0])
    lf.sum(module(a, b)[1]).backward()
    assert a.grad.tolist() == [3, 4] and b.grad.tolist() == [5, 5]


def test_inputs_without_gradient_are_none():
    layer, seen = nn.Linear(2, 3), []
    layer.register_full_backward_hook(lambda m, grad_input, grad_output: seen.append((grad_input, grad_output)))
    lf.sum(layer(c(2)) * 2).backward()
    [(grad_input, (gradient,))] = seen
    assert grad_input == (None,) and gradient.tolist() == [2, 2, 2]
    with lf.no_grad():
        layer(c(2)).numpy()


def test_every_example_of_a_batch_calls_the_hook():
    layer, seen = nn.Linear(2, 1), []
    layer.register_full_backward_hook(lambda m, grad_input, grad_output: seen.append(grad_output[0].item()))
    lf.sum([float(i) * lf.sum(layer(c(2) * i)) for i in range(4)]).backward()
    assert sorted(seen) == [0, 1, 2, 3]


@pytest.mark.peer
def test_as_in_pytorch():
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    seen = {"ours": [], "theirs": []}

    def run(linear, activation, x, key):
        for module in (linear, activation):
            module.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
            module.register_forward_hook(lambda m, args, output: output * 3)
            module.register_full_backward_hook(lambda m, gi, go: seen[key].append([to_host(g) for g in (*gi, *go)]))
            module.register_full_backward_hook(lambda m, gi, go: (gi[0] * 0.5,))
        return activation(linear(x))

    with lf.using(dtype="float64"):
        ours = scrambled(nn.Linear(4, 3))
        x = lf.Parameter(np.arange(4.0) / 20)
        lf.sum(run(ours, nn.Tanh(), x, "ours")).backward()
    theirs = torch.nn.Linear(4, 3).double()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    tensor = torch.tensor(x.numpy(), requires_grad=True)
    run(theirs, torch.nn.Tanh(), tensor, "theirs").sum().backward()
    for found, wanted in zip(seen["ours"], seen["theirs"], strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(x.grad, tensor.grad, rtol=1e-9)
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad, rtol=1e-9)


def hooked(answer):
    def run():
        layer = nn.Linear(2, 3)
        layer.register_full_backward_hook(lambda m, grad_input, grad_output: answer)
        lf.sum(layer(lf.Parameter([1.0, 2.0]))).backward()

    return run


class Named(nn.Module):
    def forward(self, x):
        return {"x": x}


class Mixed(nn.Module):
    def forward(self, x):
        return x, x.astype("float64")


def called(module):
    def run():
        module.register_full_backward_hook(print)
        module(lf.Parameter([1.0]))

    return run


def hooks_inside_a_cell():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *a: None)

    @lf.cell
    def step(x):
        return layer(x)

    step(c(2))


MISTAKES = {
    "in a cell": (hooks_inside_a_cell, lf.CellError, ["Linear has hooks", "step", "lf.cell off"]),
    "no function": (lambda: nn.Tanh().register_forward_hook("print"), TypeError, ["function", "str"]),
    "shape": (hooked((np.ones(3),)), lf.ShapeError, ["<lambda>", "(3,)", "(2,)"]),
    "number": (hooked((np.ones(2), np.ones(2))), lf.ShapeError, ["1 gradients", "got 2"]),
    "text": (hooked("none"), TypeError, ["gradient or None", "str"]),
    "dict": (called(Named()), TypeError, ["Named", "tuple or list", "dict"]),
    "dtypes": (called(Mixed()), lf.GradientError, ["one dtype", "float32 and float64"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    action, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action()
    for word in words:
        assert word in str(caught.value), str(caught.value)

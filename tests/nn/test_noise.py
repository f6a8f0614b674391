"""Noise on activations, sequences and weights, and weight normalisation."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim
from tests.nn.support import vectors

X = np.ones((40, 50))


def test_gaussian_noise_while_training():
    layer = nn.GaussianNoise(0.5, stream=lf.Stream(1))
    noise = layer(lf.constant(X)).numpy() - X
    assert abs(noise.mean()) < 0.06 and abs(noise.std() - 0.5) < 0.05
    assert (layer.eval()(lf.constant(X)).numpy() == X).all() and repr(layer) == "GaussianNoise(std=0.5)"
    assert (nn.GaussianNoise(0)(lf.constant(X)).numpy() == X).all()


def test_noise_keeps_the_dtype_and_lets_gradients_through():
    w = lf.Parameter(np.ones(3, np.float32))
    y = nn.GaussianNoise(0.5)(w)
    lf.sum(y).backward()
    assert y.dtype == np.float32 and w.grad.tolist() == [1.0, 1.0, 1.0]


def test_variational_dropout_has_one_mask_a_sequence():
    layer = nn.VariationalDropout(0.5, stream=lf.Stream(1))
    first, second = (np.stack([x.numpy() for x in layer(list(map(lf.constant, X)))]) for _ in range(2))
    assert (first == first[0]).all() and (second == second[0]).all() and (first[0] != second[0]).any()
    assert set(np.unique(first)) == {0.0, 2.0}
    assert layer([]) == [] and repr(layer) == "VariationalDropout(p=0.5)"
    assert (layer.eval()([lf.constant(X)])[0].numpy() == X).all()


def test_weight_noise_moves_the_weights_and_puts_them_back():
    model = nn.LSTM(3, 4)
    before = model.state_dict()
    xs = [lf.constant(x) for x in vectors(1, (3,), (3,))]
    clean = lf.sum(model(xs)[0]).numpy()
    with nn.weight_noise(model, 0.1, stream=lf.Stream(1)):
        noisy = model.state_dict()
        lf.sum(lf.sum(model(xs)[0])).backward()
    moved = np.concatenate([(noisy[n] - before[n]).ravel() for n in before])
    assert abs(moved.std() - 0.1) < 0.02 and all(p.grad is not None for p in model.parameters())
    assert all((before[n] == after).all() for n, after in model.state_dict().items())
    np.testing.assert_array_equal(lf.sum(model(xs)[0]).numpy(), clean)


def test_gradients_of_noisy_weights_update_the_clean_ones():
    w = lf.Parameter(np.array([1.0, 2.0]))
    with nn.weight_noise([w], 0.5, stream=lf.Stream(4)):
        at = w.numpy()
        lf.sum(w * w).backward()
    optim.SGD([w], lr=0.1).step()
    np.testing.assert_allclose(w.numpy(), [1.0, 2.0] - 0.1 * 2 * at)


def test_weights_come_back_after_an_error():
    w = lf.Parameter(np.array([1.0, 2.0]))
    with pytest.raises(KeyError), nn.weight_noise([w], 0.5):
        raise KeyError
    assert w.numpy().tolist() == [1.0, 2.0]


def noisy(parameters, std):
    with nn.weight_noise(parameters, std):
        pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.GaussianNoise(-1.0), ValueError, "std must be at least 0"),
        (lambda: nn.GaussianNoise(float("nan")), ValueError, "std must be at least 0 and finite"),
        (lambda: nn.GaussianNoise("1"), TypeError, "std must be a number"),
        (lambda: nn.VariationalDropout(1.0), ValueError, "at least 0 and below 1"),
        (lambda: nn.VariationalDropout(0.5)([np.ones(2), np.ones(3)])[1], lf.ShapeError, "do not broadcast"),
        (lambda: noisy([np.ones(3)], 0.1), TypeError, "got a ndarray"),
        (lambda: noisy([lf.Parameter([1.0])], -0.1), ValueError, "weight_noise: std"),
        (lambda: nn.weight_norm(nn.ReLU()), ValueError, "ReLU has no parameter 'weight'"),
        (lambda: nn.weight_norm(nn.weight_norm(nn.Linear(2, 2))), ValueError, "has no parameter 'weight'"),
        (lambda: nn.weight_norm(nn.Linear(2, 2), dim=2), lf.ShapeError, "axis 2 is out of range"),
        (lambda: nn.weight_norm(nn.LayerNorm(3), "bias"), lf.GradientError, "has no direction"),
        (lambda: nn.remove_weight_norm(nn.Linear(2, 2)), ValueError, "has no weight norm on 'weight'"),
        (lambda: nn.functional.weight_norm(np.ones((2, 3)), np.ones(3)), lf.ShapeError, r"g must have shape \(2, 1\)"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


LAYERS = [(lambda: nn.Linear(3, 4), (3,)), (lambda: nn.Conv1d(2, 3, 2), (2, 5)), (lambda: nn.Bilinear(3, 3, 2), (3,))]


def outputs(layer, x):
    return layer(x, x) if isinstance(layer, nn.Bilinear) else layer(x)


@pytest.mark.parametrize("dim", [0, 1, -1, None])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_weight_norm_changes_nothing_at_first(make, shape, dim):
    with lf.using(dtype="float64"):
        layer = make()
    (x,) = map(lf.constant, vectors(1, shape))
    before = outputs(layer, x).numpy()
    nn.weight_norm(layer, dim=dim)
    np.testing.assert_allclose(outputs(layer, x).numpy(), before, rtol=1e-12)
    layer.weight_v.assign(3 * layer.weight_v.numpy())  # a direction has no length
    np.testing.assert_allclose(outputs(layer, x).numpy(), before, rtol=1e-12)
    nn.remove_weight_norm(layer, "weight")
    np.testing.assert_allclose(outputs(layer, x).numpy(), before, rtol=1e-12)
    assert {name for name, _ in layer.named_parameters()} == {"bias", "weight"}


@pytest.mark.parametrize("batching", ["none", "phases"])
def test_weight_norm_is_computed_once_for_all_examples(batching):
    with lf.using(dtype="float64"):
        layer = nn.weight_norm(nn.Linear(3, 4))
    xs = vectors(2, *[(3,)] * 5)
    with lf.using(batching=batching):
        loss = lf.mean([lf.sum(lf.tanh(layer(lf.constant(x)))) for x in xs])
        loss.backward()
    v, g, b = (p.numpy() for p in (layer.weight_v, layer.weight_g, layer.bias))
    norm = np.linalg.norm(v, axis=1, keepdims=True)
    slope = sum(np.outer(1 - np.tanh(v * g / norm @ x + b) ** 2, x) for x in xs) / 5
    along = (slope * v / norm).sum(1, keepdims=True)
    np.testing.assert_allclose(layer.weight_g.grad, along, rtol=1e-10)
    np.testing.assert_allclose(layer.weight_v.grad, g / norm * (slope - along * v / norm), atol=1e-12)
    assert sum(group.nodes for group in lf.explain(loss).groups if group.operation == "norm") <= 1


def test_a_normed_module_is_copied_and_keeps_no_tape():
    layer = nn.weight_norm(nn.Linear(3, 4))
    y = layer(lf.constant(np.ones(3, np.float32)))
    tape = weakref.ref(y.tape)
    before = y.numpy()
    del y
    gc.collect()
    assert tape() is None
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.weight_v.assign(2 * other.weight_v.numpy())
        np.testing.assert_allclose(other(np.ones(3, np.float32)).numpy(), before, rtol=1e-5)
        other.weight_g.assign(0 * other.weight_g.numpy())
        assert (other(np.ones(3, np.float32)).numpy() == other.bias.numpy()).all()
    np.testing.assert_array_equal(layer(np.ones(3, np.float32)).numpy(), before)


def test_a_forward_that_fails_leaves_a_normed_module_whole():
    layer = nn.weight_norm(nn.Linear(3, 4))
    with pytest.raises(lf.ShapeError):
        layer(np.ones(2, np.float32))
    assert layer(np.ones(3, np.float32)).shape == (4,)
    assert set(layer.state_dict()) == {"bias", "weight_v", "weight_g"}
    assert nn.remove_weight_norm(layer)(np.ones(3, np.float32)).shape == (4,)


def test_a_normed_module_follows_its_parameters_and_switches():
    layer = nn.weight_norm(nn.Linear(3, 4))
    x = np.ones(3, np.float32)
    first = layer(x)
    layer.weight_g.assign(0 * layer.weight_g.numpy())
    assert (layer(x).numpy() == layer.bias.numpy()).all()
    assert (first.forward().numpy() == layer.bias.numpy()).all()
    with lf.no_grad():
        assert not layer(x).requires_grad
    assert layer(x).requires_grad
    layer.requires_grad_(False)
    assert not layer(x).requires_grad


@pytest.mark.peer
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_of_pytorch(dim):
    torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    v, g = vectors(3, (4, 3), {0: (4, 1), 1: (1, 3), None: ()}[dim])
    theirs = (
        torch._weight_norm(torch.tensor(v), torch.tensor(g), 0 if dim is None else dim)
        if dim is not None
        else (torch.tensor(v) * torch.tensor(g) / torch.tensor(v).norm())
    )
    np.testing.assert_allclose(nn.functional.weight_norm(v, g, dim).numpy(), theirs.numpy(), rtol=1e-12)

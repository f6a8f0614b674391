"""Exponentiated gradient descent: against its formula, and on what is no distribution."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import optim
from tests.places import here

RNG = np.random.default_rng(1)
GRADIENTS = RNG.normal(size=(5, 2, 3))
START = RNG.dirichlet(np.ones(6)).reshape(2, 3)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_the_formula(momentum):
    w, theta, velocity = lf.Parameter(START), np.log(START), 0.0
    optimizer = optim.ExponentiatedGradient([w], lr=0.3, momentum=momentum)
    for gradient in GRADIENTS:
        w.grad = here(gradient)
        optimizer.step()
        velocity = momentum * velocity - 0.3 * gradient
        theta = theta + velocity
        np.testing.assert_allclose(w.numpy(), np.exp(theta) / np.exp(theta).sum(), rtol=1e-10)


def test_large_gradients_stay_finite():
    w = lf.Parameter(START)
    w.grad = here(1e4 * GRADIENTS[0])
    optim.ExponentiatedGradient([w], lr=1.0).step()
    assert w.numpy().sum() == 1.0 and w.numpy().max() == 1.0


def test_a_distribution_that_is_learned():
    w = lf.Parameter(np.full(3, 1 / 3))
    optimizer, target = optim.ExponentiatedGradient([w], lr=0.5), np.array([0.1, 0.2, 0.7])
    for _ in range(100):
        optimizer.zero_grad()
        (-lf.sum(target * lf.log(w))).backward()
        optimizer.step()
    np.testing.assert_allclose(w.numpy(), target, atol=1e-6)


def test_state_is_saved(tmp_path):
    runs = []
    for stop in (False, True):
        w = lf.Parameter(START)
        optimizer = optim.ExponentiatedGradient([w], lr=0.3, momentum=0.8)
        for i, gradient in enumerate(GRADIENTS):
            if stop and i == 2:
                lf.save(tmp_path / "o.safetensors", optimizer=optimizer)
                optimizer = optim.ExponentiatedGradient([w], momentum=0.8)
                lf.load(tmp_path / "o.safetensors", optimizer=optimizer)
            w.grad = here(gradient)
            optimizer.step()
        runs.append(w.numpy())
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("start", [[0.5, -0.1], [0.0, 0.0], [np.nan, 1.0]])
def test_what_is_no_distribution(start):
    w = lf.Parameter(np.array(start))
    w.grad = here(np.ones(2))
    with pytest.raises(ValueError, match="must be a distribution"):
        optim.ExponentiatedGradient([w]).step()


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"momentum": -0.5}, {"momentum": "a"}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match="ExponentiatedGradient"):
        optim.ExponentiatedGradient([lf.Parameter(START)], **options)

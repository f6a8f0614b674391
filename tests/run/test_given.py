"""What a run on a device is given: constants of the host and values of earlier runs, in the plan's one copy."""

import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from tests import simcupy

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"


def vectors(count, dtype="float32", shape=(3,)):
    rng = np.random.default_rng(11)
    return [(4 * rng.normal(size=shape)).astype(dtype) for _ in range(count)]


def sums(arrays):
    w = lf.Parameter(np.float32([0.5, -1.0, 2.0]))
    return [lf.sum(lf.tanh(w * lf.constant(a))) for a in arrays]


KINDS = {
    "float32": lambda: sums(vectors(5)),
    "float16": lambda: [lf.sum(lf.constant(a) * 2) for a in vectors(5, "float16")],
    "float64": lambda: [lf.sum(lf.constant(a) * 2) for a in vectors(5, "float64")],
    "whole numbers": lambda: [lf.sum(lf.constant(a) + 1) for a in vectors(5, "int32")],
    "truth values": lambda: [
        lf.where(lf.constant(a), 1.0, lf.constant(b)) for a, b in zip(vectors(3, "bool"), vectors(3), strict=True)
    ],
    "several shapes": lambda: sums(vectors(3)) + [lf.sum(lf.constant(a) ** 2) for a in vectors(3, shape=(2, 2))],
    "sentences": lambda: [
        lf.sum(lf.tanh(lf.constant(a)), axis=0) for k in range(1, 4) for a in vectors(2, shape=(k, 3))
    ],
    "no elements": lambda: [lf.sum(lf.constant(a)) for a in vectors(3, shape=(0, 2))],
}


@pytest.mark.parametrize("record", KINDS.values(), ids=KINDS)
def test_constants_are_those_of_the_cpu(record):
    found = []
    for place in (CUDA, "cpu"):
        with lf.using(device=place):
            found.append(lf.forward(record()))
    for there, here in zip(*found, strict=True):
        assert there.dtype == here.dtype
        np.testing.assert_allclose(there, here, rtol=1e-5)


def test_constants_of_host_and_device_in_one_launch():
    arrays = vectors(4)
    with lf.using(device=CUDA):
        mixed = [devices.to_device(a, CUDA) if k % 2 else a for k, a in enumerate(arrays)]
        found = lf.forward([lf.sum(lf.constant(a)) for a in mixed])
    np.testing.assert_allclose(found, [a.sum() for a in arrays], rtol=1e-5)


def uploads(record):
    """How many copies to the device a forward of something takes, and its launches."""
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    with lf.using(device=CUDA):
        for _ in range(2):
            roots = record()
            with simcupy.counting() as seen:
                lf.mean(roots).forward()
    return seen.h2d, seen.launches


@pytest.mark.parametrize("count", [2, 20])
def test_constants_of_any_number_of_examples_are_one_copy(count):
    assert uploads(lambda: sums(vectors(count)))[0] == uploads(lambda: sums(vectors(1)))[0] <= 2


def stepwise(runs):
    """States that are looked at after each step, and a sum of all of them."""
    w = lf.Parameter(np.float32([0.5, -1.0, 2.0]))
    states, parts = [w * lf.constant(a) for a in (np.float32([1, 2, 3]), np.float32([3, -2, 1]))], []
    for _ in range(runs):
        states = [lf.tanh(state + w) for state in states]
        lf.forward(states)
        parts += [lf.sum(state * state) for state in states]
    return w, parts


@pytest.mark.parametrize("runs", [1, 4])
def test_values_of_earlier_runs_are_those_of_the_cpu(runs):
    found = []
    for place in (CUDA, "cpu"):
        with lf.using(device=place):
            w, parts = stepwise(runs)
            loss = lf.sum(parts)
            loss.backward()
            found.append((loss.numpy(), devices.to_host(w.grad)))
    for there, here in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-5)


def test_values_of_any_number_of_runs_are_one_launch():
    few, many = uploads(lambda: stepwise(3)[1]), uploads(lambda: stepwise(6)[1])
    assert few == many

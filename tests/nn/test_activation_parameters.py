"""Activations with odd parameters and at special values, against PyTorch: values and gradients."""

import functools
import math

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core
from lazyflow.nn import functional as ours

torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
pytestmark = pytest.mark.peer

X = np.array([-1e4, -30, -3, -1, -0.5, -1e-3, -0.0, 0.0, 1e-3, 0.5, 1, 3, 6, 30, 1e4])
SPECIAL = np.array([-np.inf, np.inf, np.nan])
ROWS = [
    *(("elu", (alpha,)) for alpha in (-2.0, -0.5, 0.0, 0.5, 2.0)),
    *(("celu", (alpha,)) for alpha in (-2.0, -0.5, 0.5, 2.0)),
    *(("leaky_relu", (slope,)) for slope in (-2.0, -0.5, 0.0, 0.5, 2.0)),
    *(("threshold", pair) for pair in ((0.0, -1.0), (1.0, 0.0), (-1.0, 5.0))),
    *(("hardtanh", pair) for pair in ((0.5, 0.5), (0.0, 6.0), (-3.0, -1.0))),
    *(("softplus", pair) for pair in ((0.5, 20.0), (2.0, 1.0), (-1.0, 20.0), (3.0, -2.0))),
    *(("hardshrink", (lambd,)) for lambd in (0.0, 0.5, -0.5)),
    *(("softshrink", (lambd,)) for lambd in (0.0, 0.5)),
    *((name, ()) for name in ("relu6", "selu", "silu", "mish", "hardsigmoid", "hardswish", "logsigmoid", "gelu")),
    ("gelu", ("tanh",)),
]
IDS = [f"{name}{args}" for name, args in ROWS]
FUSIONS = ["off", "numpy", *(["core"] if core.machine is not None else [])]


def theirs(name, args, x):
    function = getattr(torch.nn.functional, name)
    if args == ("tanh",):
        function, args = functools.partial(function, approximate="tanh"), ()
    leaf = torch.tensor(x, requires_grad=True)
    y = function(leaf, *args)
    y.sum().backward()
    return y.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize(("name", "args"), ROWS, ids=IDS)
@pytest.mark.parametrize("fuse", FUSIONS)
def test_values_and_gradients(name, args, fuse):
    want, slope = theirs(name, args, X)
    cell = lf.cell(lambda v: getattr(ours, name)(v, *args))
    parameter = lf.Parameter(X.copy())
    with lf.using(fuse=fuse), np.errstate(over="ignore"):  # of negative alphas
        y = cell(parameter * 1.0) if fuse != "off" else getattr(ours, name)(parameter, *args)
        lf.sum(y).backward()
        values = y.numpy()
    # PyTorch's tails of gelu and mish cancel, and its sixth in hardsigmoid is one of float32.
    np.testing.assert_allclose(values, want, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(parameter.grad, slope, rtol=4e-8, atol=1e-13)


@pytest.mark.parametrize(("name", "args"), ROWS, ids=IDS)
def test_values_at_infinity_and_nan(name, args):
    with np.errstate(all="ignore"):
        found = getattr(ours, name)(lf.constant(SPECIAL), *args).numpy()
    np.testing.assert_array_equal(found, theirs(name, args, SPECIAL)[0])


def test_hardtanh_refuses_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match="must be at most max_val, got 2"):
        ours.hardtanh(lf.constant(1.0), 2.0, 1.0)


def test_nan_is_not_replaced():
    assert math.isnan(ours.threshold(lf.constant(np.nan), 0.0, 5.0).item())
    assert math.isnan(ours.hardshrink(lf.constant(np.nan)).item())

"""Elementwise functions with options, and where derivatives have no direction."""

import numpy as np
import pytest

import lazyflow as lf

RNG = np.random.default_rng(5)


M = RNG.permutation(np.linspace(-2.0, 2.0, 24)).reshape(2, 3, 4)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5])
def test_scaled_gradients(scale):
    w = lf.Parameter(M)
    y = lf.scale_gradient(lf.tanh(w), scale)
    lf.sum(y * M).backward()
    np.testing.assert_array_equal(y.numpy(), np.tanh(M))
    np.testing.assert_allclose(w.grad, scale * M * (1 - np.tanh(M) ** 2), atol=1e-15)


def test_different_scales_run_together():
    rows = [lf.scale_gradient(lf.Parameter(M) * 1.0, 0.1 * i) for i in range(5)]
    assert sum(group.launches for group in lf.explain(rows).groups if group.operation == "scale_gradient") == 1


@pytest.mark.parametrize(("x", "scale", "error"), [(M, "1", TypeError), (M, True, TypeError), ([1], 1, lf.DTypeError)])
def test_a_scale_is_a_number(x, scale, error):
    with pytest.raises(error, match="scale_gradient"):
        lf.scale_gradient(np.asarray(x), scale)


# x, low, high; what becomes of it, and the operand that the gradient flows to.
CUT = {
    "between": (0.5, 0.0, 1.0, 0.5, 0),
    "below": (-0.5, 0.0, 1.0, 0.0, 1),
    "above": (1.5, 0.0, 1.0, 1.0, 2),
    "at the lower bound": (0.0, 0.0, 1.0, 0.0, 0),
    "at the upper bound": (1.0, 0.0, 1.0, 1.0, 0),
    "bounds the wrong way round": (0.5, 1.0, 0.0, 0.0, 2),
    "below bounds that are equal": (0.5, 1.0, 1.0, 1.0, 1),
}


@pytest.mark.parametrize("fuse", ["auto", "numpy", "off"])
def test_the_gradient_of_what_is_cut_off_flows_to_the_bound(fuse):
    rows = [[lf.Parameter(float(v)) for v in row[:3]] for row in CUT.values()]
    with lf.using(fuse=fuse):
        lf.sum([lf.clip(x * 1.0, low * 1.0, high * 1.0) for x, low, high in rows] * 2).backward()
    for row, (name, (*operands, value, chosen)) in zip(rows, CUT.items(), strict=True):
        assert lf.clip(*operands).item() == lf.clip(*row).item() == value, name
        assert [p.grad for p in row] == [2.0 * (k == chosen) for k in range(3)], name


@pytest.mark.parametrize("fuse", ["auto", "numpy", "off"])
@pytest.mark.parametrize("f", [lf.arctan2, lf.hypot], ids=["arctan2", "hypot"])
def test_derivatives_at_the_origin_are_zero(f, fuse):
    """As PyTorch has them: there is no direction."""
    with lf.using(fuse=fuse):
        x, y = (lf.Parameter(np.array([0.0, -0.0, 3.0])) for _ in range(2))
        lf.sum(f(x * 1.0, y * 1.0)).backward()
    assert (x.grad[:2] == 0).all() and (y.grad[:2] == 0).all() and x.grad[2] != 0
    z = lf.Parameter(0.0)
    assert lf.gradients(f(z, z * 2.0), [z])[0].item() == 0


def test_the_logarithm_of_the_gamma_function_of_infinity():
    x = lf.Parameter(np.array([np.inf, 0.0, 3.0]))
    y = lf.lgamma(x)
    np.testing.assert_allclose(y.numpy(), [np.inf, np.inf, np.log(2.0)], rtol=1e-14)
    lf.sum(y[0]).backward()
    np.testing.assert_array_equal(x.grad, [np.inf, 0.0, 0.0])

"""The way back to a convolution's image where steps are of one: cotangents are correlated with the turned kernel."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.device import to_host
from lazyflow.ops import conv

FORMS = [
    {"padding": 0}, {"padding": 1}, {"padding": 2}, {"padding": ((2, 0), (0, 1))}, {"dilation": 2, "padding": 1},
    {"groups": 2}, {"padding": 3}, {"stride": 2}, {"stride": (1, 2), "padding": 1},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("channels", "maps"), [(4, 2), (2, 2), (2, 4)])
@pytest.mark.parametrize("examples", [1, 3])
def test_it_is_the_transpose_of_the_product(form, channels, maps, examples):
    rng = np.random.default_rng(2)
    W = lf.Parameter(rng.standard_normal((maps, channels // form.get("groups", 1), 3, 2)))
    xs = [lf.Parameter(rng.standard_normal((channels, 6, 7))) for _ in range(examples)]
    ys = [lf.conv(x * 1.0, W, **form) for x in xs]
    gs = [rng.standard_normal(y.shape) for y in ys]
    lf.sum([lf.sum(y * g) for y, g in zip(ys, gs, strict=True)]).backward()
    for x, g in zip(xs, gs, strict=True):
        direction = rng.standard_normal(x.shape)
        with lf.no_grad():
            moved = lf.conv(direction, W, **form).numpy()
        np.testing.assert_allclose((to_host(x.grad) * direction).sum(), (moved * g).sum(), rtol=1e-9)


def test_which_windows_have_a_way_back():
    assert conv._back(conv.windows_of("conv", (5,), 3, 1, 1, 1)).pads == ((1, 1),)
    assert conv._back(conv.windows_of("conv", (5,), 3, 1, 3, 1)) is None, "padding that no element is under"
    assert conv._back(conv.windows_of("conv", (5,), 3, 2, 1, 1)) is None


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_zero_cotangent_makes_nothing_of_a_weight_that_is_not_finite(value):
    x, W = lf.Parameter(np.ones((1, 4, 4))), np.full((1, 1, 3, 3), value)
    (lf.conv(x * 1.0, lf.constant(W), padding=1)).backward(np.zeros((1, 4, 4)))
    np.testing.assert_array_equal(x.grad, np.zeros((1, 4, 4)))


@pytest.mark.parametrize("place", range(5))
def test_an_infinite_cotangent_reaches_the_weights_of_its_windows_alone(place):
    W, cotangents = lf.Parameter(np.ones((1, 1, 3))), np.ones((1, 5))
    cotangents[0, place] = np.inf
    lf.sum(lf.conv_transpose(np.array([[1.0, 2.0, 3.0]]), W) * cotangents).backward()
    reached = [any(t + k == place for t in range(3)) for k in range(3)]
    np.testing.assert_array_equal(W.grad[0, 0], np.where(reached, np.inf, 6.0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shared", [False, True])
def test_padding_is_never_the_largest(shared, dtype):
    p = lf.Parameter(np.full(4, -np.inf, dtype))
    pooled = lf.max_pool(p if shared else p * 1, (2,), padding=(1,))
    lf.sum(pooled * np.array([1, 2, 3], dtype)).backward()
    np.testing.assert_array_equal(p.grad, [1, 2, 0, 3])

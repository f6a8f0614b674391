"""Functions and losses made of several operations keep their relative accuracy in the tails, values and gradients."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.nn import functional as f

mp = pytest.importorskip("mpmath", reason="references are computed by mpmath (extra test)")

X = [-80.0, -60.0, -30.0, -17.0, -5.0, -0.3, -1e-3, -1e-12, 1e-12, 1e-3, 0.4, 3.0, 10.0, 17.0, 30.0, 88.0, 1e4]


def logistic(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(x)) if x < 0 else x + mp.log1p(mp.exp(-x))


def binary(target):
    """The loss of a score, and its slope."""
    t = mp.mpf(target)
    return (
        lambda x: (1 - t) * softplus(x) + t * softplus(-x),
        lambda x: (1 - t) * logistic(x) - t * logistic(-x),
    )


def mish_slope(x):
    s = softplus(x)
    return mp.tanh(s) + x * mp.sech(s) ** 2 * logistic(x)


ROWS = {
    "mish": (f.mish, lambda x: x * mp.tanh(softplus(x)), mish_slope),
    "tanhshrink": (f.tanhshrink, lambda x: x - mp.tanh(x), lambda x: mp.tanh(x) ** 2),
    "softplus of 4 x": (
        lambda x: f.softplus(x, 4.0),
        lambda x: softplus(4 * x) / 4,
        lambda x: logistic(4 * x),
    ),
    "log(sigmoid)": (lambda x: lf.log(lf.sigmoid(x)), lambda x: -softplus(-x), lambda x: logistic(-x)),
    "soft margin": (
        lambda x: f.soft_margin_loss(x, np.ones((), x.dtype), reduction="sum"),
        lambda x: softplus(-x),
        lambda x: -logistic(-x),
    ),
    **{
        f"binary cross-entropy of {t}": (
            lambda x, t=t: f.binary_cross_entropy_with_logits(x, np.full((), t, x.dtype), reduction="sum"),
            *binary(t),
        )
        for t in (0.0, 1.0)
    },
}


def close(found, exact, dtype, ulps=24):
    """Within so many ulps of the right number, or of the smallest normal one."""
    info = np.finfo(dtype)
    for x, got, right in zip(X, found, exact, strict=True):
        size = max(abs(right), mp.mpf(float(info.tiny)))
        if abs(right) < float(info.max):
            assert abs(mp.mpf(float(got)) - right) <= ulps * float(info.eps) * size, (x, got, mp.nstr(right, 17))


@pytest.mark.parametrize("fuse", ["off", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ROWS)
def test_tails(name, dtype, fuse):
    function, value, slope = ROWS[name]
    points = [mp.mpf(float(np.dtype(dtype).type(x))) for x in X]
    parameter = lf.Parameter(np.array(X, dtype))
    with lf.using(fuse=fuse):
        found = [(lf.cell(function) if fuse == "auto" else function)(parameter[k] * 1.0) for k in range(len(X))]
        lf.sum(found).backward()
        values = [float(y.numpy()) for y in found]
    with mp.workdps(60):
        if name != "log(sigmoid)":  # whose upper tail is that of 1 - x
            close(values, [value(x) for x in points], dtype)
            close(parameter.grad.to_dense(), [slope(x) for x in points], dtype)
        else:
            assert np.isfinite(values).all()
            close(parameter.grad.to_dense(), [slope(x) for x in points], dtype)

"""check_grads passes what is right and finds what is wrong, in either mode, of first and second order."""

import dataclasses

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops import OPS
from lazyflow.record.expr import record

X = np.array([0.3, -0.7, 1.1])
SQUARE = OPS["square"]


def square(derivative):
    """``x * x`` with another derivative."""
    op = dataclasses.replace(SQUARE, formula={"y": "x * x", "x": derivative})
    return lambda x: record(op, (x,))


@pytest.mark.parametrize("modes", [["fwd"], ["rev"], ["fwd", "rev"], ("rev",)])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_right_derivatives_pass(modes, order):
    lf.check_grads(lambda x: lf.tanh(square("2 * g * x")(x)), modes=modes, order=order)(X)


@pytest.mark.parametrize("modes", [["fwd"], ["rev"]])
def test_wrong_derivatives_are_found(modes):
    with pytest.raises(AssertionError, match=r"check_grads: the (forward|reverse) derivative of .* the numeric one"):
        lf.check_grads(square("3 * g * x"), modes=modes, order=1)(X)


@pytest.mark.parametrize("modes", [["fwd"], ["rev"]])
def test_wrong_second_derivatives_are_found(modes):
    steps = square("2 * g * (floor(8 * x) / 8)")  # right beside multiples of 1/8, wrong as a function of x
    at = np.array([0.25, 0.5]) + 1e-9
    lf.check_grads(steps, modes=modes, order=1)(at)
    with pytest.raises(AssertionError, match="derivative of"):
        lf.check_grads(steps, modes=modes, order=2)(at)


ERRORS = (
    ("integers", lambda: lf.check_grads(lf.sum)(np.arange(3)), lf.DTypeError, "0 holds int64; .* need float64"),
    ("an integer", lambda: lf.check_grads(lambda x: x)(3), lf.DTypeError, "holds int64"),
    ("float32", lambda: lf.check_grads(lf.sum)(X.astype("float32")), lf.DTypeError, "holds float32"),
    ("deep inside", lambda: lf.check_grads(lf.sum)([X, {"n": 3}]), lf.DTypeError, r"0\[1\]\['n'\] holds int64"),
    ("a mode", lambda: lf.check_grads(lf.sum, modes=["back"]), ValueError, r"modes are a list of 'fwd' and 'rev'"),
    ("a bare mode", lambda: lf.check_grads(lf.sum, modes="rev"), ValueError, "modes are a list"),
    ("order", lambda: lf.check_grads(lf.sum, order=0), ValueError, "order at least 1"),
    ("argnum", lambda: lf.check_grads(lf.sum, argnum=3)(X), TypeError, "argnum 3 names no argument"),
    ("no function", lambda: lf.check_grads(X), TypeError, "takes a function"),
    ("no expression", lambda: lf.check_grads(lambda x: x.numpy())(X), lf.GradientError, "which is no expression"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""`check_finite` names the first operation that was not finite, and its line, in this run or an earlier one."""

import numpy as np
import pytest

import lazyflow as lf


def test_check_finite_names_a_parameter_that_is_not():
    p = lf.Parameter([np.nan, 1.0], name="weight")
    with lf.using(check_finite=True), pytest.raises(lf.NonFiniteError, match=r"Parameter\(weight"):
        lf.sum(p * p).forward()


def test_check_finite_looks_at_the_root_alone():
    with lf.using(check_finite=True), np.errstate(divide="ignore"):
        y = lf.log(lf.constant([0.0, 1.0]))
        assert y[1].item() == 0.0


def test_check_finite_names_what_an_earlier_run_made():
    p = lf.Parameter([0.0, 1.0])
    with np.errstate(divide="ignore"), lf.using(check_finite=True):
        y = lf.log(p)
        y[1].item()
        with pytest.raises(lf.NonFiniteError, match=r"^log at "):
            lf.sum(y).forward()


def test_check_finite_names_the_first_operation_and_its_line():
    w = lf.Parameter([1.0, -1.0])
    with lf.using(check_finite=True), np.errstate(invalid="ignore"):
        bad = lf.log(w)  # the line that made it
        fine = lf.exp(w)
        loss = lf.sum(lf.tanh(bad) + fine)
        with pytest.raises(lf.NonFiniteError) as caught:
            loss.forward()
    message = str(caught.value)
    line = test_check_finite_names_the_first_operation_and_its_line.__code__.co_firstlineno + 3
    assert message.startswith("log at ") and f"{__file__}:{line}" in message and "NaN" in message


def test_check_finite_finds_the_same_signature_at_the_right_line():
    w = lf.Parameter([1.0, 2.0])
    with lf.using(check_finite=True), np.errstate(divide="ignore"):
        first = lf.log(w)
        second = lf.log(w * 0.0)
        with pytest.raises(lf.NonFiniteError) as caught:
            lf.sum(first + second).backward()
    assert f":{test_check_finite_finds_the_same_signature_at_the_right_line.__code__.co_firstlineno + 4} " in str(
        caught.value
    )
    assert "infinity" in str(caught.value) and w.grad is None


def test_check_finite_lets_masks_pass():
    with lf.using(check_finite=True):
        scores = lf.constant([1.0, 2.0]) + lf.constant([0.0, -np.inf])
        assert lf.sum(lf.softmax(scores)).item() == 1.0


# Where a gradient goes wrong that no value does: the program of a parameter of 1 and 0, all in one line with the
# operation to blame, its name, and what is made.
BACKWARD = {
    "a slope": (lambda w: lf.sum(lf.sqrt(w * 1.0)), "sqrt", "an infinity"),
    "a slope at a parameter": (lambda w: lf.sum(lf.sqrt(w)), "sqrt", "an infinity in the gradient of w"),
    "a number": (lambda w: lf.sum(lf.scale_gradient(w * 1.0, float("nan"))), "scale_gradient", "NaN"),
    "an overflow": (
        lambda w: lf.sum(lf.scale_gradient(w * 1e30, 1e30)), "multiply", "an infinity in the gradient of w",
    ),
    "a table": (
        lambda w: lf.sum(lf.sqrt(lf.embedding(w.reshape(2, 1), [0, 1]) * 2.0)), "sqrt", "an infinity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("batching", ["phases", "none"])
@pytest.mark.parametrize("name", BACKWARD)
def test_check_finite_names_whose_derivative_is_not_finite(name, batching):
    program, op, what = BACKWARD[name]
    good, w = lf.Parameter([1.0, 2.0], name="good"), lf.Parameter([1.0, 0.0], name="w")
    with lf.using(check_finite=True, batching=batching), np.errstate(all="ignore"):
        tame = lambda x: lf.sum(lf.sqrt(x * 1.0) + lf.log(x * 1.0) + lf.sqrt(x))  # noqa: E731
        loss = tame(good) + program(w) + tame(good)
        assert np.isfinite(loss.item())
        with pytest.raises(lf.NonFiniteError) as caught:
            loss.backward()
    line = program.__code__.co_firstlineno
    assert str(caught.value).startswith(f"the derivative of {op} at {__file__}:{line} made {what}: {op}(")
    assert w.grad is None and good.grad is None


def test_check_finite_goes_back_to_what_an_earlier_run_made():
    w = lf.Parameter([0.0, 4.0])
    with lf.using(check_finite=True), np.errstate(all="ignore"):
        root = lf.sqrt(w * 1.0)
        root[1].item()
        loss = lf.sum(root * 2.0)
        with pytest.raises(lf.NonFiniteError, match=r"the derivative of sqrt at .* made an infinity: sqrt"):
            loss.backward()


@pytest.mark.parametrize("body", [lambda x: lf.sqrt(x * 1.0), lambda x: (lf.sqrt(x * 1.0), x + 1.0)])
def test_check_finite_looks_into_cells_that_were_recorded_before(body):
    w = lf.Parameter([0.0, 4.0])
    found = lf.cell(body)(w)
    loss = lf.sum(found) if isinstance(found, lf.Expr) else lf.sum(lf.add(*found))
    with lf.using(check_finite=True), np.errstate(all="ignore"), pytest.raises(lf.NonFiniteError) as caught:
        loss.backward()
    assert str(caught.value).startswith("the derivative of sqrt at ")


def test_check_finite_knows_hooks_and_given_gradients():
    w = lf.Parameter([1.0, 2.0])
    calls = []
    with lf.using(check_finite=True):
        y = lf.tanh(w * 2.0)
        y.register_hook(lambda g: calls.append(g) or g * np.inf)
        with pytest.raises(lf.NonFiniteError, match=r"a hook of tanh at .* made an infinity of its gradient"):
            lf.sum(y).backward()
        assert len(calls) == 1
        with pytest.raises(lf.NonFiniteError, match="the gradient that backward was given"):
            (w * 3.0).backward(np.array([np.nan, 1.0], np.float32))
        fine = lf.tanh(w * 2.0)
        fine.register_hook(lambda g: g * 2.0)
        lf.sum(fine).backward()
    np.testing.assert_allclose(w.grad, 4.0 / np.cosh(2.0 * w.numpy()) ** 2, rtol=1e-5)


def test_check_finite_lets_gradients_pass_that_reach_nothing():
    """And those that are huge, of which a sum is infinite."""
    w, c = lf.Parameter([1.0, 2.0]), lf.constant([0.0, 1.0])
    with lf.using(check_finite=True), np.errstate(all="ignore"):
        lf.sum(lf.sqrt(c) * w).backward()
        lf.sum(lf.scale_gradient(w, 3e38)).backward()
        lf.sum(lf.where(w > 3, lf.log(w - w), 0.0)).backward()
    assert np.isfinite(w.grad).all()

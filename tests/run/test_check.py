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

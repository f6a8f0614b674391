"""Comparing states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lazyflow.errors import CheckpointError
from lazyflow.state import check_kind, differences, raise_differences


@pytest.mark.parametrize(
    ("expected", "given", "lines"),
    [
        ({}, {}, []),
        ({"w": np.zeros(2), "n": [1, {"x": None}]}, {"w": np.ones(2), "n": (2.5, {"x": "text"})}, []),
        ({"w": np.zeros((2, 3))}, {}, ["w: missing, expected float64 of shape (2, 3)"]),
        ({}, {"a": {"b": [1]}}, ["a.b.0: not expected, got 1"]),
        ({"w": np.zeros(2)}, {"w": np.zeros(())}, ["w: expected shape (2,), got ()"]),
        (
            {"w": np.zeros(2)},
            {"w": np.zeros(3, np.int8)},
            ["w: expected shape (2,), got (3,)", "w: expected dtype float64, got int8"],
        ),
        ({"w": np.zeros(2)}, {"w": 1.5}, ["w: expected float64 of shape (2,), got 1.5"]),
        ({"w": 1.5}, {"w": np.float32(2)}, ["w: expected 1.5, got float32 of shape ()"]),
        ({"s": "x", "n": 1}, {"s": 1, "n": "x"}, ["s: expected a string, got 1", "n: expected a number, got 'x'"]),
        ({"a": {"b": 1}}, {"a.b": 1}, ["a.b: missing, expected 1", "a.b: not expected, got 1"]),
        ([1, 2], [1], ["1: missing, expected 2"]),
    ],
)
def test_differences(expected: Any, given: Any, lines: list[str]) -> None:
    assert differences(expected, given) == lines


def test_raising_lists_all_of_them() -> None:
    raise_differences("model", [])
    with pytest.raises(CheckpointError, match=r"^model does not fit, and nothing was changed:\n  one\n  two$"):
        raise_differences("model", ["one", "two"])


def test_kinds() -> None:
    check_kind("Adam", {"kind": "Adam"})
    for state, came in (({"kind": "SGD"}, "that of SGD"), ({}, "a dict without a kind"), (3, "a int without a kind")):
        with pytest.raises(CheckpointError, match=f"expected the state of Adam, got {came}; nothing was changed"):
            check_kind("Adam", state)

"""Rows for `lazyflow.ops.simplex`. The references are found by bisection, one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec


def x(*shape: int, dtype: str = "float64", **more: Any) -> Spec:
    return Spec(shape, dtype, **more)


def summing_to_one(values: Callable[[float], Any], low: float, high: float) -> Any:
    """``values(t)`` for the t at which they sum to one; their sum falls with t."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if values(middle).sum() > 1 else (low, middle)
    return values((low + high) / 2)


def sparsemax(scores: Any, axis: int) -> Any:
    def one(row: Any) -> Any:
        return summing_to_one(lambda t: np.maximum(row - t, 0), row.min() - 1, row.max())

    return np.apply_along_axis(one, axis, scores.astype(float)).astype(scores.dtype)


def constrained(scores: Any, upper: Any) -> Any:
    flat = zip(scores.reshape(-1, scores.shape[-1]), upper.reshape(-1, upper.shape[-1]), strict=True)
    found = [summing_to_one(lambda t, s=s, u=u: np.minimum(np.exp(s - t), u), -20.0, 20.0) for s, u in flat]
    return np.reshape(found, scores.shape).astype(np.result_type(scores, upper))


CASES = (
    *(
        Case("sparsemax", (x(*shape, dtype=t),), lambda a, axis=axis: sparsemax(a, axis), {"axis": axis},
             tolerance=tolerance)
        for shape, axis in (((4,), -1), ((2, 3), 0), ((2, 3), 1), ((2, 3, 4), -2), ((1,), 0))
        for t, tolerance in (("float64", None), ("float32", 4e-6), ("float16", 1e-2))
    ),
    Case("sparsemax", (x(5, low=-0.1, high=0.1),), lambda a: sparsemax(a, 0)),
    Case("sparsemax", (x(6, low=-1e4, high=1e4),), lambda a: sparsemax(a, 0), tolerance=1e-9),
    *(
        Case("constrained_softmax", (x(*shape, dtype=t), x(*shape, dtype=u, low=low, high=0.9)), constrained,
             tolerance=tolerance)
        for shape, low in (((4,), 0.3), ((2, 5), 0.25), ((2, 2, 3), 0.4), ((2,), 0.8))
        for t, u, tolerance in (("float64", "float64", 1e-11), ("float32", "float64", 1e-6))
    ),
    Case("constrained_softmax", (x(4), x(4, low=1.0, high=2.0)), lambda a, u: np.exp(a) / np.exp(a).sum()),
)  # fmt: skip


def error(op: str, operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, **attrs: Any) -> Any:
    return ErrorCase(op, operands, kind, message, attrs)


ERRORS = (
    error("sparsemax", (x(),), "out of range for an operand of 0 axes"),
    error("sparsemax", (x(3),), "axis 1 is out of range", axis=1),
    error("sparsemax", (x(3, 0),), "at least one score"),
    error("sparsemax", (x(3, dtype="int64"),), "takes floating numbers, got int64", DTypeError),
    error("constrained_softmax", (x(3), x(2)), r"one shape, got \(3,\) and \(2,\)"),
    error("constrained_softmax", (x(), x()), "at least one score"),
    error("constrained_softmax", (x(0), x(0)), "at least one score"),
    error("constrained_softmax", (x(3), x(3, dtype="bool")), "takes floating numbers, got bool", DTypeError),
)

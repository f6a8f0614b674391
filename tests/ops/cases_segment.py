"""Rows for `lazyflow.ops.segment`. References go over the segments one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec

INF = math.inf


def of(values: Any, segments: Any, n: int, one: Callable[[Any], Any], empty: Any, dtype: Any = None) -> Any:
    """``one`` of the rows of each segment."""
    found = np.full((n, *values.shape[1:]), empty, dtype or values.dtype)
    for i in set(segments.tolist()):
        found[i] = one(values[segments == i])
    return found


def softmax(values: Any, segments: Any, n: int) -> Any:
    found = np.empty_like(values)
    for i in set(segments.tolist()):
        weights = np.exp(values[segments == i].astype(float) - values[segments == i].max(0).astype(float))
        found[segments == i] = weights / weights.sum(0)
    return found


def lowest(dtype: str) -> Any:
    return -INF if dtype.startswith("f") else np.iinfo(dtype).min


def mean(rows: Any) -> Any:
    return rows.mean(0, dtype=np.float64)


REFERENCES: dict[str, Callable[..., Any]] = {
    "segment_mean": lambda x, s, n: of(x, s, n, mean, 0, x.dtype if x.dtype.kind == "f" else np.float64),
    "segment_max": lambda x, s, n: of(x, s, n, lambda rows: rows.max(0), lowest(str(x.dtype))),
    "segment_softmax": softmax,
}
# m rows of a shape, n segments: all of one row, one of all, empty ones, no rows, no segments but those.
SIZES = (
    (5, (), 3),
    (5, (2,), 3),
    (6, (2, 3), 4),
    (4, (3,), 1),
    (1, (3,), 6),
    (0, (2,), 3),
    (3, (0,), 2),
    (40, (2,), 4),
)
TOLERANCE = {"float16": 4e-3, "float32": 2e-6}


def case(name: str, m: int, shape: tuple[int, ...], n: int, dtype: str = "float64", index: str = "int64") -> Case:
    spec = Spec((m, *shape), dtype, -3, 4, distinct=name == "segment_max" and dtype == "float64")
    reference = REFERENCES[name]
    return Case(
        name,
        (spec, Spec((m,), index, 0, n)),
        lambda x, s: reference(x, s, n),
        {"n": n},
        tolerance=TOLERANCE.get(dtype),
        gradient=name != "segment_max" or m > 9 * n,  # an empty segment's is infinite
    )


CASES = (
    *(case(name, *sizes) for name in REFERENCES for sizes in SIZES),
    *(case(name, 7, (3,), 3, dtype) for name in REFERENCES for dtype in ("float32", "float16")),
    *(case(name, 7, (3,), 3, index=index) for name in REFERENCES for index in ("int32", "uint8")),
    *(case(name, 7, (3,), 3, dtype) for name in ("segment_mean", "segment_max") for dtype in ("int64", "int32")),
    Case(
        "segment_max",
        (Spec((8, 2), choices=(-1.0, 0.0, 1.0)), Spec((8,), "int64", 0, 3)),
        lambda x, s: REFERENCES["segment_max"](x, s, 3),
        {"n": 3},
        gradient=False,
    ),
    Case(
        "segment_max",
        (Spec((9, 2), choices=(-INF, math.nan, INF, 1.0)), Spec((9,), "int64", 0, 3)),
        lambda x, s: REFERENCES["segment_max"](x, s, 3),
        {"n": 3},
        gradient=False,
    ),
    Case(
        "segment_softmax",
        (Spec((12,), low=-800.0, high=800.0), Spec((12,), "int64", 0, 3)),
        lambda x, s: softmax(x, s, 3),
        {"n": 3},
    ),
)

ROWS, SEGMENTS = Spec((3, 2)), Spec((3,), "int64", 0, 2)


def error(name: str, operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, n: int = 2) -> Any:
    return ErrorCase(name, operands, kind, message, {"n": n})


ERRORS = (
    *(error(name, (ROWS, Spec((2,), "int64", 0, 2)), r"\(3, 2\) and \(2,\)") for name in REFERENCES),
    *(error(name, (Spec(()), Spec((), "int64", 0, 2)), r"\(\) and \(\)") for name in REFERENCES),
    *(error(name, (ROWS, Spec((3, 2), "int64", 0, 2)), r"segments \(m,\)") for name in REFERENCES),
    *(error(name, (ROWS, Spec((3,))), "must be an integer, got float64", DTypeError) for name in REFERENCES),
    *(error(name, (ROWS, SEGMENTS), "must not be negative, got -1", n=-1) for name in REFERENCES),
    error("segment_max", (Spec((3, 2), "bool"), SEGMENTS), "takes numbers, got bool", DTypeError),
    error("segment_softmax", (Spec((3, 2), "int64"), SEGMENTS), "takes floating numbers, got int64", DTypeError),
)

"""Rows for `lazyflow.ops.attention`. The reference goes over heads and queries one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec


def attended(q: Any, k: Any, v: Any, heads: int, causal: bool) -> Any:
    d, e = q.shape[1] // heads, v.shape[1] // heads
    found = np.empty((len(q), heads * e), np.result_type(q, k, v))
    for h in range(heads):
        keys, values = k[:, h * d : (h + 1) * d].astype(float), v[:, h * e : (h + 1) * e].astype(float)
        for i, query in enumerate(q[:, h * d : (h + 1) * d].astype(float)):
            scores = keys @ query / math.sqrt(d)
            if causal:
                scores[i + 1 :] = -math.inf
            weights = np.exp(scores - scores.max())
            found[i, h * e : (h + 1) * e] = weights / weights.sum() @ values
    return found


TOLERANCE = {"float16": 4e-3, "float32": 1e-5}


def case(n: int, m: int, d: int, e: int, heads: int, causal: bool, dtypes: str = "float64") -> Case:
    q, k, v = (dtypes.split() * 3)[:3]
    specs = Spec((n, heads * d), q), Spec((m, heads * d), k), Spec((m, heads * e), v)
    least = min(specs, key=lambda s: np.dtype(s.dtype).itemsize).dtype
    return Case(
        "attention",
        specs,
        lambda q, k, v: attended(q, k, v, heads, causal),
        {"heads": heads, "causal": causal},
        tolerance=TOLERANCE.get(least),
    )


SIZES = ((1, 1, 3, 2, 1), (4, 4, 2, 3, 2), (3, 5, 1, 1, 3), (5, 2, 4, 4, 1), (2, 17, 3, 1, 4), (0, 2, 1, 1, 1))
CASES = (
    *(case(*sizes, causal) for sizes in SIZES for causal in (False, True)),
    *(case(3, 4, 2, 3, 2, causal, dtype) for causal in (False, True) for dtype in ("float32", "float16")),
    case(3, 4, 2, 3, 2, False, "float32 float64 float32"),
    case(66, 3, 1, 1, 1, True, "float64"),
)

Q, K, V = Spec((3, 4)), Spec((5, 4)), Spec((5, 2))


def error(operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, heads: int = 1) -> ErrorCase:
    return ErrorCase("attention", operands, kind, message, {"heads": heads})


ERRORS = (
    error((Spec((3, 4), "int64"), K, V), "takes floating numbers, got int64", DTypeError),
    error((Q, Spec((5, 3)), V), r"got \(3, 4\), \(5, 3\) and \(5, 2\)"),
    error((Q, K, Spec((4, 2))), r"keys \(s, d\) and values \(s, e\)"),
    error((Spec((4,)), K, V), r"queries \(t, d\)"),
    error((Q, Spec((0, 4)), Spec((0, 2))), r"keys \(0, 4\)"),
    *(error((Q, K, V), f"{heads} heads of queries", heads=heads) for heads in (0, 3, 4)),
)

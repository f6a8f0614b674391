"""Rows for `lazyflow.ops.attention`. The reference goes over heads and queries one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec


def attended(q: Any, k: Any, v: Any, heads: int, causal: bool, added: Any = None, kept: Any = None) -> Any:
    """``added`` to the scores, and ``kept`` of the weights: by heads, queries and keys."""
    weights, e = weights_of(q, k, heads, causal, added, kept), v.shape[1] // heads
    found = np.empty((len(q), heads * e), np.result_type(q, k, v))
    for h in range(heads):
        found[:, h * e : (h + 1) * e] = weights[h] @ v[:, h * e : (h + 1) * e].astype(float)
    return found


def weights_of(q: Any, k: Any, heads: int, causal: bool, added: Any = None, kept: Any = None) -> Any:
    added = np.zeros((heads, len(q), len(k))) if added is None else added
    d, found = q.shape[1] // heads, np.ones((heads, len(q), len(k))) if kept is None else kept.astype(float)
    for h in range(heads):
        keys = k[:, h * d : (h + 1) * d].astype(float)
        for i, query in enumerate(q[:, h * d : (h + 1) * d].astype(float)):
            scores = keys @ query / math.sqrt(d)
            if causal:
                scores[i + 1 :] = -math.inf
            scores = scores + added[h, i]
            top = max(scores.max(), -1e9)  # of who sees nothing all weights are zero
            weights = np.exp(scores - top)
            found[h, i] *= weights / (weights.sum() or 1)
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


def axes(of: str, heads: int, n: int, m: int) -> tuple[int, ...]:
    return {"keys": (1, 1, m), "all": (1, n, m), "heads": (heads, n, m)}[of]


def beside(
    n: int, m: int, d: int, e: int, heads: int, causal: bool, mask: str, of: str, drops: bool, average: Any = None
) -> Case:
    """With a mask or factors of the weights, or both. ``average``: of the weights, whether their mean."""
    size = math.prod(axes(of, heads, n, m)) if mask else 0
    numbers = Spec((size,)) if mask == "added" else Spec((size,), "bool")
    specs = [Spec((n, heads * d)), Spec((m, heads * d)), Spec((m, heads * e))]
    specs += [numbers] * bool(mask) + [Spec((heads * n * m,), choices=(0.0, 1.25))] * drops

    def reference(q: Any, k: Any, *rest: Any) -> Any:
        v, *rest = (None, *rest) if average is not None else rest
        added = kept = None
        if mask:
            said = rest[0].reshape(axes(of, heads, n, m))
            added = said if mask == "added" else np.where(said == (mask == "seen"), 0.0, -math.inf)
            added = np.broadcast_to(added, (heads, n, m))
        if drops:
            kept = rest[-1].reshape(heads, n, m)
        if average is None:
            return attended(q, k, v, heads, causal, added, kept)
        weights = weights_of(q, k, heads, causal, added, kept).astype(np.result_type(q, k))
        return (weights.mean(0) if average else weights).reshape(-1)

    name = "masked_" * bool(mask) + "dropped_" * drops + "attention" + "_weights" * (average is not None)
    static = {"heads": heads, "causal": causal, **({"mask": mask, "of": of} if mask else {})}
    if average is None:
        return Case(name, tuple(specs), reference, static)
    return Case(name, (*specs[:2], *specs[3:]), reference, {**static, "average": average})


SIZES = ((1, 1, 3, 2, 1), (4, 4, 2, 3, 2), (3, 5, 1, 1, 3), (5, 2, 4, 4, 1), (2, 17, 3, 1, 4), (0, 2, 1, 1, 1))
CASES = (
    *(case(*sizes, causal) for sizes in SIZES for causal in (False, True)),
    *(case(3, 4, 2, 3, 2, causal, dtype) for causal in (False, True) for dtype in ("float32", "float16")),
    case(3, 4, 2, 3, 2, False, "float32 float64 float32"),
    case(66, 3, 1, 1, 1, True, "float64"),
    *(
        beside(3, 4, 2, 3, 2, causal, mask, of, drops)
        for mask in ("seen", "hidden", "added")
        for of in ("keys", "all", "heads")
        for causal, drops in ((False, False), (mask == "added", True))
    ),
    beside(4, 3, 1, 2, 1, True, "", "", True),
    beside(2, 5, 2, 1, 3, False, "", "", True),
    *(
        beside(3, 4, 2, 1, 2, causal, mask, of, drops, average)
        for mask, of in (("", ""), ("seen", "keys"), ("hidden", "heads"), ("added", "all"), ("added", "keys"))
        for causal, drops, average in ((False, False, True), (True, False, False), (False, True, False))
    ),
    beside(1, 1, 3, 1, 1, True, "", "", False, True),
    beside(0, 2, 1, 1, 2, False, "", "", False, True),
    beside(2, 17, 1, 1, 3, False, "added", "heads", True, True),
)

Q, K, V = Spec((3, 4)), Spec((5, 4)), Spec((5, 2))


def error(
    operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, heads: int = 1, **mask: str
) -> ErrorCase:
    name = "masked_" * bool(mask) + "dropped_" * (len(operands) - bool(mask) > 3) + "attention"
    return ErrorCase(name, operands, kind, message, {"heads": heads, **mask})


def of_weights(
    operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, heads: int = 1, **mask: str
) -> ErrorCase:
    name = "masked_" * bool(mask) + "dropped_" * (len(operands) - bool(mask) > 2) + "attention_weights"
    return ErrorCase(name, operands, kind, message, {"heads": heads, **mask})


ERRORS = (
    error((Spec((3, 4), "int64"), K, V), "takes floating numbers, got int64", DTypeError),
    error((Q, Spec((5, 3)), V), r"got \(3, 4\), \(5, 3\) and \(5, 2\)"),
    error((Q, K, Spec((4, 2))), r"keys \(s, d\) and values \(s, e\)"),
    error((Spec((4,)), K, V), r"queries \(t, d\)"),
    error((Q, Spec((0, 4)), Spec((0, 2))), r"keys \(0, 4\)"),
    *(error((Q, K, V), f"{heads} heads of queries", heads=heads) for heads in (0, 3, 4)),
    error((Q, K, V, Spec((5,))), "a mask of what is seen is of float64", DTypeError, mask="seen", of="keys"),
    error((Q, K, V, Spec((5,), "bool")), "a mask of what is added is of bool", DTypeError, mask="added", of="keys"),
    error((Q, K, V, Spec((4,))), r"a mask of keys of 3 queries and 5 keys, got \(4,\)", mask="added", of="keys"),
    error((Q, K, V, Spec((15,))), r"a mask of heads of 3 queries and 5 keys", heads=2, mask="added", of="heads"),
    error((Q, K, V, Spec((14,))), "factors of 1 heads, 3 queries and 5 keys"),
    error((Q, K, V, Spec((15,), "int64")), "takes floating numbers, got int64", DTypeError),
    error((Q, K, V, Spec((5,)), Spec((14,))), "factors of 1 heads", mask="added", of="keys"),
    of_weights((Q, Spec((5, 3))), r"got \(3, 4\) and \(5, 3\)"),
    of_weights((Q, Spec((4,))), r"queries \(t, d\)"),
    of_weights((Q, K), "3 heads of queries", heads=3),
    of_weights((Q, Spec((5, 4), "int64")), "takes floating numbers, got int64", DTypeError),
    of_weights((Q, K, Spec((5,))), "a mask of what is seen is of float64", DTypeError, mask="seen", of="keys"),
    of_weights((Q, K, Spec((4,))), r"a mask of keys of 3 queries and 5 keys, got \(4,\)", mask="added", of="keys"),
    of_weights((Q, K, Spec((14,))), "factors of 1 heads"),
    of_weights((Q, K, Spec((5,)), Spec((14,))), "factors of 1 heads", mask="added", of="keys"),
)

"""Rows for `lazyflow.ops.decompositions`, and for the operations that are transposes of reading a part."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyflow.errors import DTypeError, ShapeError
from tests.ops.harness import Case, ErrorCase, Spec


@dataclass(frozen=True)
class Dominant(Spec):
    """Square matrices with distinct, large numbers on the diagonal: well conditioned, eigenvalues apart."""

    def draw(self, rng: np.random.Generator, batch: int) -> Any:
        n = self.shape[-1]
        return Spec.draw(self, rng, batch) / 2 + np.diag(3.0 * np.arange(1, n + 1)).astype(self.dtype)


def x(*shape: int, dtype: str = "float64", **more: Any) -> Spec:
    return Spec(shape, dtype, **more)


def square(*shape: int, dtype: str = "float64") -> Spec:
    return Dominant(shape, dtype)


def index(n: int, *shape: int) -> Spec:
    return Spec(shape, "int64", 0, n)


def determinant(a: Any) -> Any:
    """By permutations."""
    if a.ndim > 2:
        return np.stack([determinant(m) for m in a])
    n = len(a)
    signs = {p: np.linalg.det(np.eye(n)[list(p)]) for p in itertools.permutations(range(n))}
    return sum(sign * np.prod([a[i, p[i]] for i in range(n)]) for p, sign in signs.items())


def slogdet(a: Any) -> Any:
    d = determinant(a)
    return np.stack([np.sign(d), np.log(np.abs(d))], -1)


def cholesky(a: Any) -> Any:
    """Row by row (Cholesky and Banachiewicz)."""
    if a.ndim > 2:
        return np.stack([cholesky(m) for m in a])
    a, lower = (a + a.T) / 2, np.zeros_like(a)
    for i, j in itertools.product(range(len(a)), repeat=2):
        rest = a[i, j] - lower[i] @ lower[j]
        if i >= j:
            lower[i, j] = np.sqrt(rest) if i == j else rest / lower[j, j]
    return lower


def eigh(a: Any) -> Any:
    values, vectors = np.linalg.eigh((a + a.swapaxes(-1, -2)) / 2)
    return np.concatenate([values, vectors.reshape(*a.shape[:-2], -1)], -1)


def svd(a: Any) -> Any:
    u, s, vh = np.linalg.svd(a, full_matrices=False)
    flat = [part.reshape(*a.shape[:-2], -1) for part in (u, s, vh)]
    return np.concatenate(flat, -1)


def embedded(part: Any, shape: Any, key: Any) -> Any:
    whole = np.zeros(shape, part.dtype)
    whole[tuple(slice(*k[1:]) if isinstance(k, tuple) else k for k in key)] = part
    return whole


def scattered(rows: Any, i: Any, n: int) -> Any:
    whole = np.zeros((n, *rows.shape[i.ndim :]), rows.dtype)
    for place in np.ndindex(i.shape):
        whole[i[place]] += rows[place]
    return whole


KEYS = (
    ((3,), (4, 3), (1,)),
    ((2, 3), (4, 3), (("slice", 1, 3, None),)),
    ((4,), (4, 3), (("slice", None, None, -1), 2)),
    ((2, 3, 2), (4, 3, 2), (("slice", None, None, 2),)),
    ((), (3,), (-1,)),
)

CASES = (
    *(
        Case(name, (square(*shape, dtype=t),), f, dtype=t, tolerance=None if t == "float64" else 2e-5)
        for name, f in (
            ("inv", lambda a: np.linalg.solve(a, np.broadcast_to(np.eye(a.shape[-1]), a.shape)).astype(a.dtype)),
            ("det", determinant),
            ("slogdet", slogdet),
            ("cholesky", cholesky),
            ("eigh", eigh),
            ("svd", svd),
        )
        for shape, t in (((3, 3), "float64"), ((2, 3, 3), "float64"), ((1, 1), "float64"), ((2, 2), "float32"))
    ),
    *(Case("svd", (x(*shape),), svd, tolerance=1e-11) for shape in ((2, 4), (4, 2), (2, 3, 1))),
    *(
        Case("solve", (square(*a), x(*b)), lambda a, b: np.linalg.inv(a) @ b)
        for a, b in (((3, 3), (3,)), ((3, 3), (3, 2)), ((2, 3, 3), (2, 3, 1)))
    ),
    Case("solve", (square(2, 2, dtype="float32"), x(2)), lambda a, b: np.linalg.inv(a).astype("float64") @ b,
         tolerance=1e-5),
    *(
        Case("argsort", (x(*shape, distinct=True),), lambda a, axis=axis: np.argsort(a, axis), {"axis": axis})
        for shape, axis in (((4,), -1), ((3, 4), 0), ((2, 3, 4), 1))
    ),
    Case("argsort", (index(3, 9),), lambda a: np.argsort(a, kind="stable")),
    *(
        Case("offsets", (Spec(shape, "int64", -3, 3),), lambda i: np.where(i < 0, i + 3, i), {"n": 3, "name": "take"})
        for shape in ((), (4,), (2, 3))
    ),
    *(
        Case("arctan2", (x(*a), x(*b)), np.arctan2)
        for a, b in (((), ()), ((2, 3), (3,)), ((3,), (2, 3)))
    ),
    Case("arctan2", (x(5, dtype="float32"), x(5, dtype="float32")), np.arctan2, tolerance=4e-6),
    *(
        Case("embed", (x(*part),), lambda v, s=shape, k=key: embedded(v, s, k), {"key": key, "shape": shape})
        for part, shape, key in KEYS
    ),
    *(
        Case("embed_diagonal", (x(*part),), f, {"shape": shape, **more})
        for part, shape, f, more in (
            ((3,), (3, 3), np.diag, {}),
            ((2,), (3, 3), lambda v: np.diag(v, -1), {"offset": -1}),
            ((3,), (3, 4), lambda v: np.diag(v, 1)[:3], {"offset": 1}),
            ((2, 3), (2, 3, 3), lambda v: v[..., None] * np.eye(3), {"axis1": 1, "axis2": 2}),
        )
    ),
    *(
        Case("scatter", (x(*rows), index(5, *i)), lambda r, i: scattered(r, i, 5), {"n": 5})
        for rows, i in (((4,), (4,)), ((4, 3), (4,)), ((2, 3, 2), (2, 3)), ((3,), ()), ((20, 30), (20,)))
    ),
)  # fmt: skip


def error(
    op: str, operands: tuple[Spec, ...], message: str, kind: type[Exception] = ShapeError, /, **attrs: Any
) -> Any:
    return ErrorCase(op, operands, kind, message, attrs)


ERRORS = (
    *(
        row
        for op in ("inv", "det", "slogdet", "cholesky", "eigh", "svd")
        for row in (
            error(op, (x(3),), f"{op} takes a matrix"),
            error(op, (x(3, 3, dtype="float16"),), "float32 or float64, got float16", DTypeError),
            error(op, (index(3, 2, 2),), "float32 or float64, got int64", DTypeError),
        )
    ),
    *(error(op, (x(2, 3),), "square") for op in ("inv", "det", "slogdet", "cholesky", "eigh")),
    error("solve", (x(2, 3), x(2)), "square"),
    error("solve", (x(3, 3), x(2)), r"got \(3, 3\) and \(2,\)"),
    error("solve", (x(2, 3, 3), x(3)), "same leading axes"),
    error("solve", (x(2, 3, 3), x(4, 3, 1)), "same leading axes"),
    error("argsort", (x(),), "no axis to sort along"),
    ErrorCase("offsets", (x(3),), DTypeError, "take: the index must be an integer", {"n": 3, "name": "take"}),
    error("argsort", (x(3),), "axis 1 is out of range", axis=1),
    error("arctan2", (x(3), x(2)), "do not broadcast"),
    error("embed", (x(3),), r"has shape \(2,\), the operand \(3,\)", key=(0,), shape=(4, 2)),
    error("embed", (x(3),), "index 4 is out of range", IndexError, key=(4,), shape=(4, 3)),
    error("embed_diagonal", (x(3),), r"has shape \(2,\)", shape=(2, 2)),
    error("embed_diagonal", (x(3),), "takes a matrix", shape=(2,)),
    error("scatter", (x(3), x(3)), "index must be an integer", DTypeError, n=3),
    error("scatter", (x(3), index(3, 2)), "do not begin with", n=3),
    error("scatter", (x(3), index(3, 3)), "must not be negative", n=-1),
)

"""``numpy.linalg`` over expressions and arrays alike: systems, decompositions and norms, of matrices or stacks of them.

>>> import lazyflow.numpy as np
>>> np.linalg.det(np.eye(2)), np.linalg.norm(np.array([3.0, 4.0]))
(np.float64(1.0), np.float64(5.0))
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from lazyflow import functions as f
from lazyflow.errors import ShapeError
from lazyflow.numpy import _expressions as e
from lazyflow.numpy.dispatch import LINALG, either
from lazyflow.record.expr import Expr, constant

LinAlgError = numpy.linalg.LinAlgError


def _solve(a: Any, b: Any) -> Expr:
    a, b = constant(a), constant(b)
    if b.ndim > 1:
        heads = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (x if x.shape[:-2] == heads else f.broadcast_to(x, heads + x.shape[-2:]) for x in (a, b))
    elif a.ndim > 2:
        return _solve(a, f.reshape(b, (-1, 1)))[..., 0]
    return f.solve(a, b)


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    parts = f.svd(a)
    if not compute_uv:
        return parts[1]
    if full_matrices and parts[0].shape[-2] != parts[2].shape[-1]:
        raise ShapeError("svd of an expression that is not square has full_matrices=False: its vectors beyond have no "
                         "gradient; pass full_matrices=False")  # fmt: skip
    return parts


def _power(a: Any, n: int) -> Expr:
    a = constant(a)
    if n < 0:
        a, n = f.inv(a), -n
    if n == 0:
        return f.add(a * 0, numpy.eye(a.shape[-1], dtype=a.dtype))
    half = _power(a, n // 2) if n > 1 else None
    return a if half is None else half @ half @ a if n % 2 else half @ half


def _floating(x: Any) -> Expr:
    x = constant(x)
    return x if x.dtype.kind == "f" else f.astype(x, numpy.float64)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Expr:
    x = _floating(x)
    if axis is None and ord is not None:
        if x.ndim > 2:
            raise ShapeError(f"norm: an axis must be named for ord={ord!r} of shape {x.shape}")
        axis = tuple(range(x.ndim))
    if ord is None or ord == "fro":
        return f.norm(x, 2, axis, keepdims)
    if isinstance(axis, tuple) and len(axis) == 2:
        return _matrix_norm(x, ord, axis, keepdims)
    return _vector_norm(x, ord, axis, keepdims)


def _vector_norm(x: Any, ord: float = 2, axis: Any = None, keepdims: bool = False) -> Expr:
    x = _floating(x)
    size = f.abs(x)
    if ord in (1, 2, math.inf):
        return f.norm(x, ord, axis, keepdims)
    if ord == -math.inf:
        return f.min(size, axis, keepdims)
    if ord == 0:
        return f.astype(f.sum(f.not_equal(x, 0), axis, keepdims), size.dtype)
    total = f.sum(f.power(size, float(ord)), axis, keepdims)
    nothing = f.equal(total, 0)  # where the root has no slope, and the norm, by convention, the slope zero
    return f.where(nothing, 0, f.power(f.where(nothing, 1, total), 1.0 / ord))


def _matrix_norm(x: Any, ord: Any = "fro", axis: tuple[int, int] = (-2, -1), keepdims: bool = False) -> Expr:
    moved = e.moveaxis(_floating(x), axis, (-2, -1))
    value = _of_matrix(moved, ord)
    return f.expand_dims(value, tuple(a % moved.ndim for a in axis)) if keepdims else value


def _of_matrix(x: Expr, ord: Any) -> Expr:
    if ord == "fro":
        return f.norm(x, 2, (-2, -1))
    if ord in (2, -2, "nuc"):
        values = f.svd(x)[1]
        return f.sum(values, -1) if ord == "nuc" else values[..., 0 if ord == 2 else -1]
    if ord in (1, -1, math.inf, -math.inf):
        sums = f.sum(f.abs(x), -2 if ord in (1, -1) else -1)
        return f.max(sums, -1) if ord > 0 else f.min(sums, -1)
    raise ValueError(f"norm: ord of a matrix is 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, got {ord!r}")


_own: dict[str, Any] = {
    "solve": _solve,
    "svd": _svd,
    "svdvals": lambda a: f.svd(a)[1],
    "eigvalsh": lambda a: f.eigh(a)[0],
    "norm": _norm,
    "vector_norm": lambda x, axis=None, keepdims=False, ord=2: _vector_norm(x, ord, axis, keepdims),
    "matrix_norm": lambda x, keepdims=False, ord="fro": _matrix_norm(x, ord, (-2, -1), keepdims),
    "matrix_power": _power,
    "trace": lambda x, offset=0: e.trace(x, offset, -2, -1),
    "diagonal": lambda x, offset=0: f.diagonal(x, offset, -2, -1),
}
for _name, _function in _own.items():
    _function.__qualname__ = _name  # by which Python calls it where the arguments do not fit

LINALG.update(
    _own,
    matmul=f.matmul,
    outer=e.outer,
    cross=e.cross,
    vecdot=e.vecdot,
    tensordot=e.tensordot,
    matrix_transpose=e.matrix_transpose,
)

globals().update(
    {
        name: either(f"linalg.{name}", recorded, getattr(numpy.linalg, name))
        for name, recorded in LINALG.items()
        if hasattr(numpy.linalg, name)
    }
)

__all__ = ["LinAlgError", *(name for name in LINALG if hasattr(numpy.linalg, name))]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"lazyflow.numpy.linalg does not offer {name!r}; it has {', '.join(__all__)}")

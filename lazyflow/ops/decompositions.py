"""Linear systems and decompositions: inv, solve, det, slogdet, cholesky, eigh and svd, of matrices or stacks of them.

NumPy's and CuPy's functions are generalised ufuncs already, so leading axes are batch. An operation has one result; a
decomposition's parts lie end to end in it, and cutting them out is free.

``cholesky`` and ``eigh`` read the symmetric part ``(a + a.T) / 2``, not one triangle as LAPACK does: their gradient is
then right in every direction, and symmetric. Reverse rules: M. Giles, "An extended collection of matrix derivative
results for forward and reverse mode AD" (2008); J. Townsend, "Differentiating the singular value decomposition" (2016);
I. Murray, "Differentiation of the Cholesky decomposition" (2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lazyflow.cuda.rows import shown_rows
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError
from lazyflow.ops.base import Abstract, Op, Result, register, symbolic
from lazyflow.ops.formula import multiply_no_nan


def _matrices(name: str, *operands: Abstract) -> DType:
    """The operands' common dtype, which must be one that LAPACK knows; the first must have two axes at least."""
    for operand in operands:
        if operand.dtype not in (np.float32, np.float64):
            raise DTypeError(f"{name} takes float32 or float64, got {operand.dtype}; convert with .astype")
    if len(operands[0].shape) < 2:
        raise ShapeError(f"{name} takes a matrix, or a stack of them, got shape {operands[0].shape}")
    return np.result_type(*(o.dtype for o in operands))


def _square(name: str, *operands: Abstract) -> DType:
    dtype = _matrices(name, *operands)
    if operands[0].shape[-1] != operands[0].shape[-2]:
        raise ShapeError(f"{name} takes square matrices, got shape {operands[0].shape}")
    return dtype


def _t(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _symmetric(x: Array) -> Array:
    return 0.5 * (x + _t(x))


def _eye(xp: ArrayModule, x: Array) -> Array:
    return xp.eye(x.shape[-1], dtype=x.dtype)


def _of_shown(vjp: Callable[..., Array], axes: int) -> Callable[..., Array]:
    """A vjp that on a device makes zeros of cotangents that are zero, of all of the last ``axes``, whatever has been
    solved: on the host whoever needs that looks at the answer, which would be a wait there."""

    def shown(xp: ArrayModule, g: Array, y: Array, *operands: Array, **static: Any) -> Array:
        answer = vjp(xp, g, y, *operands, **static)
        if xp is np or symbolic(xp):
            return answer
        own = 1 if static.get("vector") else axes
        count = math.prod(g.shape[: g.ndim - own])
        pair = [xp.ascontiguousarray(a, answer.dtype).reshape(count, -1) for a in (g, answer)]
        return shown_rows([(pair[0], pair[1])])[0].reshape(answer.shape) if answer.size else answer

    return shown


def _inv_shape(a: Abstract) -> Result:
    return Result(a.shape, _square("inv", a))


def _inv(xp: ArrayModule, a: Array, out: Array = None) -> Array:
    return xp.linalg.inv(a)


def _inv_a(xp: ArrayModule, g: Array, y: Array, a: Array) -> Array:
    return -(_t(y) @ g @ _t(y))


INV = register(Op("inv", _inv_shape, _inv, (_of_shown(_inv_a, 2),)))


def _solve_shape(a: Abstract, b: Abstract) -> Result:
    dtype = _square("solve", a, b)
    vector = len(b.shape) == 1
    heads = a.shape[:-2] if vector else (*a.shape[:-2], b.shape[-1])
    if (*a.shape[:-2], a.shape[-1], *heads[len(a.shape) - 2 :]) != b.shape or (vector and len(a.shape) > 2):
        raise ShapeError(
            f"solve takes a (..., n, n) and b (..., n, k) with the same leading axes, or a (n, n) and b (n,); "
            f"got {a.shape} and {b.shape}"
        )
    return Result(b.shape, dtype, {"vector": vector})


def _as_columns(x: Array, vector: bool) -> Array:
    return x[..., None] if vector else x


def _solved(xp: ArrayModule, a: Array, b: Array, vector: bool) -> Array:
    x = xp.linalg.solve(a, _as_columns(b, vector))
    return x[..., 0] if vector else x


def _solve(xp: ArrayModule, a: Array, b: Array, out: Array = None, *, vector: bool) -> Array:
    return _solved(xp, a, b, vector)


def _solve_b(xp: ArrayModule, g: Array, y: Array, a: Array, b: Array, *, vector: bool) -> Array:
    return _solved(xp, _t(a), g, vector)


def _solve_a(xp: ArrayModule, g: Array, y: Array, a: Array, b: Array, *, vector: bool) -> Array:
    return -(_as_columns(_solved(xp, _t(a), g, vector), vector) @ _t(_as_columns(y, vector)))


SOLVE = register(Op("solve", _solve_shape, _solve, (_of_shown(_solve_a, 2), _of_shown(_solve_b, 2))))


def _det_shape(a: Abstract) -> Result:
    return Result(a.shape[:-2], _square("det", a))


def _det(xp: ArrayModule, a: Array, out: Array = None) -> Array:
    return xp.asarray(xp.linalg.det(a))


def _det_a(xp: ArrayModule, g: Array, y: Array, a: Array) -> Array:
    """By the cofactors, which a singular matrix has, too."""
    return multiply_no_nan(xp, g[..., None, None], _cofactors(xp, a, y))


def _cofactors(xp: ArrayModule, a: Array, y: Array) -> Array:
    n = a.shape[-1]
    if n <= FEW_ROWS:
        return _minors(xp, a)
    if symbolic(xp):
        return y[..., None, None] * _t(xp.linalg.inv(a))
    # Of U, s and V they are those of U and V, which are their determinants, times the products of the other s.
    u, s, vh = xp.linalg.svd(a)
    signs = xp.linalg.det(u) * xp.linalg.det(vh)
    others = xp.where(xp.eye(n, dtype=np.bool_), 1, s[..., None, :]).prod(-1)
    return (signs[..., None, None] * u * others[..., None, :]) @ vh


# Rows of a matrix whose cofactors are computed one by one: recorded, they are differentiated further anywhere; as
# numbers, each is exact to its own last digits, where by singular values they are to those of the largest.
FEW_ROWS = 4


def _minors(xp: ArrayModule, a: Array) -> Array:
    n = a.shape[-1]
    if n == 1:
        return xp.ones(a.shape, a.dtype)
    every = np.arange(n)

    def minor(i: int, j: int) -> Array:
        rows, columns = every[every != i], every[every != j]
        block = _taken_along(xp, _taken_along(xp, a, rows, -2), columns, -1)
        return (-1) ** (i + j) * (xp.record_op(DET, (block,)) if symbolic(xp) else xp.linalg.det(block))

    return xp.stack([xp.stack([minor(i, j) for j in every.tolist()], -1) for i in every.tolist()], -2)


def _taken_along(xp: ArrayModule, a: Array, index: Array, axis: int) -> Array:
    behind = (slice(None),) * (-axis - 1)
    parts = [(..., slice(i, i + 1), *behind) for i in index.tolist()]
    return xp.concatenate([a[part] for part in parts], axis)


DET = register(Op("det", _det_shape, _det, (_det_a,)))


def _slogdet_shape(a: Abstract) -> Result:
    return Result((*a.shape[:-2], 2), _square("slogdet", a))


def _slogdet(xp: ArrayModule, a: Array, out: Array = None) -> Array:
    sign, size = xp.linalg.slogdet(a)
    return xp.stack((xp.asarray(sign, a.dtype), xp.asarray(size, a.dtype)), -1)


def _slogdet_a(xp: ArrayModule, g: Array, y: Array, a: Array) -> Array:
    return g[..., 1][..., None, None] * _t(xp.linalg.inv(a))


SLOGDET = register(Op("slogdet", _slogdet_shape, _slogdet, (_of_shown(_slogdet_a, 1),)))


def _cholesky_shape(a: Abstract) -> Result:
    return Result(a.shape, _square("cholesky", a))


def _cholesky(xp: ArrayModule, a: Array, out: Array = None) -> Array:
    return xp.linalg.cholesky(_symmetric(a))


def _cholesky_a(xp: ArrayModule, g: Array, y: Array, a: Array) -> Array:
    inverse = xp.linalg.inv(y)
    inner = xp.tril(_t(y) @ xp.tril(g)) * (1 - 0.5 * _eye(xp, y))
    return _symmetric(_t(inverse) @ inner @ inverse)


CHOLESKY = register(Op("cholesky", _cholesky_shape, _cholesky, (_of_shown(_cholesky_a, 2),)))


def _last_as_one(x: Array, ndim: int) -> Array:
    """The last ``ndim`` axes as one."""
    return x.reshape((*x.shape[: x.ndim - ndim], -1))


def _reciprocal_differences(x: Array) -> Array:
    """``1 / (x[j] - x[i])`` at (i, j), and zero where both are equal."""
    difference = x[..., None, :] - x[..., :, None]
    return (difference != 0) / (difference + (difference == 0))


def _eigh_shape(a: Abstract) -> Result:
    n = a.shape[-1] if a.shape else 0
    return Result((*a.shape[:-2], n + n * n), _square("eigh", a))


def _eigh(xp: ArrayModule, a: Array, out: Array = None) -> Array:
    values, vectors = xp.linalg.eigh(_symmetric(a))
    return xp.concatenate((values, _last_as_one(vectors, 2)), -1)


def _eigh_parts(x: Array, n: int) -> tuple[Array, Array]:
    return x[..., :n], x[..., n:].reshape((*x.shape[:-1], n, n))


def _eigh_a(xp: ArrayModule, g: Array, y: Array, a: Array) -> Array:
    (values, v), (g_values, g_v) = (_eigh_parts(part, a.shape[-1]) for part in (y, g))
    inner = _eye(xp, a) * g_values[..., None, :] + _reciprocal_differences(values) * (_t(v) @ g_v)
    return _symmetric(v @ inner @ _t(v))


EIGH = register(Op("eigh", _eigh_shape, _eigh, (_of_shown(_eigh_a, 1),)))


def _svd_shape(a: Abstract) -> Result:
    dtype = _matrices("svd", a)
    m, n = a.shape[-2:]
    k = min(m, n)
    return Result((*a.shape[:-2], m * k + k + k * n), dtype)


def _svd(xp: ArrayModule, a: Array, out: Array = None) -> Array:
    u, s, vh = xp.linalg.svd(a, full_matrices=False)
    return xp.concatenate((_last_as_one(u, 2), s, _last_as_one(vh, 2)), -1)


def svd_parts(x: Array, m: int, n: int) -> tuple[Array, Array, Array]:
    """``U`` (..., m, k), ``S`` (..., k) and ``Vh`` (..., k, n) of what ``svd`` returns; k is min(m, n)."""
    k, head = min(m, n), x.shape[:-1]
    u, s, vh = x[..., : m * k], x[..., m * k : m * k + k], x[..., m * k + k :]
    return u.reshape((*head, m, k)), s, vh.reshape((*head, k, n))


def _svd_a(xp: ArrayModule, g: Array, y: Array, a: Array) -> Array:
    (u, s, vh), (g_u, g_s, g_vh) = (svd_parts(part, *a.shape[-2:]) for part in (y, g))
    v, g_v = _t(vh), _t(g_vh)
    f = _reciprocal_differences(s * s)
    left, right = _t(u) @ g_u, _t(v) @ g_v
    inner = f * (left - _t(left)) * s[..., None, :] + s[..., :, None] * f * (right - _t(right))
    inner = inner + xp.eye(s.shape[-1], dtype=s.dtype) * g_s[..., None, :]
    inverse = 1 / (s + (s == 0))
    outside_u = (g_u - u @ left) * inverse[..., None, :]
    outside_v = (g_v - v @ right) * inverse[..., None, :]
    return u @ inner @ vh + outside_u @ vh + u @ _t(outside_v)


SVD = register(Op("svd", _svd_shape, _svd, (_of_shown(_svd_a, 1),)))

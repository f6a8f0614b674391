"""Products, linear systems and decompositions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import compress

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.ops import OPS
from lazyflow.ops.decompositions import svd_parts
from lazyflow.ops.linalg import split_subscripts
from lazyflow.record.expr import (
    Expr,
    OperandLike,
    as_floating,
    binary,
    constant,
    constants,
    in_dtype,
    record,
)
from lazyflow.record.frames import affine_frame
from lazyflow.record.templates import by_kinds

__all__ = [
    "affine",
    "bilinear",
    "cholesky",
    "circular_convolution",
    "circular_correlation",
    "det",
    "dot",
    "eigh",
    "einsum",
    "inv",
    "matmul",
    "outer",
    "slogdet",
    "solve",
    "svd",
]

_record_matmul = binary(OPS["matmul"])


def matmul(a: OperandLike, b: OperandLike) -> Expr:
    """The matrix product ``a @ b`` with NumPy's rules, for vectors, matrices and stacks of matrices.

    With a parameter on the left and a vector on the right, ``W @ x``, all nodes of a launch become one product.
    Raises `ShapeError` where the inner sizes differ.

    >>> import lazyflow as lf
    >>> lf.matmul(lf.constant([[1.0, 2.0]]), lf.constant([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    if isinstance(a, list | tuple) or isinstance(b, list | tuple):
        a, b = constants((a, b))
    return _record_matmul(a, b)


@partial(affine_frame, OPS["affine"])
def affine_layer(weight: OperandLike, bias: OperandLike, x: OperandLike) -> Expr:
    if isinstance(weight, Expr) and weight.dtype.kind == "f":  # a layer's, in whose dtype its operands are
        bias, x = in_dtype(bias, weight.dtype), in_dtype(x, weight.dtype)
    return record(OPS["affine"], (weight, bias, x))


def affine(weight: OperandLike, bias: OperandLike, x: OperandLike) -> Expr:
    """``weight @ x + bias``: weight (m, k), bias (m,), x (k,) or (t, k); the result is (m,) or (t, m). One node.

    Raises `ShapeError` where the sizes differ.

    >>> import lazyflow as lf
    >>> W, b = lf.Parameter([[1.0, 2.0], [0.0, 1.0]]), lf.Parameter([0.5, 0.5])
    >>> lf.affine(W, b, lf.constant([1.0, 1.0])).numpy()
    array([3.5, 1.5], dtype=float32)
    """
    return affine_layer(weight, bias, x)


@partial(by_kinds, arrays=True)
def dot(a: OperandLike, b: OperandLike) -> Expr:
    """The inner product of two vectors of one size, a scalar.

    >>> import lazyflow as lf
    >>> lf.dot(lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])).item()
    11.0
    """
    return record(OPS["dot"], constants((a, b)))


@partial(by_kinds, arrays=True)
def outer(a: OperandLike, b: OperandLike) -> Expr:
    """The outer product of vectors (m,) and (n,): (m, n).

    >>> import lazyflow as lf
    >>> lf.outer(lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])).numpy()
    array([[3., 4.],
           [6., 8.]], dtype=float32)
    """
    return record(OPS["outer"], constants((a, b)))


@partial(by_kinds, arrays=True)
def einsum(subscripts: str, a: OperandLike, b: OperandLike) -> Expr:
    """Einstein's summation over two operands, as ``numpy.einsum`` without ellipsis; an axis of size one goes with any
    size that its letter has in the other operand.

    Raises `ShapeError` for other sizes, and for subscripts that do not name the axes of two operands.

    >>> import lazyflow as lf
    >>> lf.einsum("ij,j->i", lf.constant([[1.0, 2.0]]), lf.constant([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    found = constants((a, b))
    left, right, result = split_subscripts(subscripts)
    sizes = _letter_sizes((left, right), found)
    (x, left), (y, right) = (_without_ones(o, group, sizes) for o, group in zip(found, (left, right), strict=True))
    return record(OPS["einsum"], (x, y), subscripts=f"{left},{right}->{result}")


def _letter_sizes(groups: Sequence[str], operands: Sequence[Expr]) -> dict[str, int]:
    """Of each letter a size that it has, one only where it has no other."""
    sizes: dict[str, int] = {}
    for group, operand in zip(groups, operands, strict=True):
        for letter, size in zip(group, operand.shape, strict=False):
            sizes[letter] = size if size != 1 else sizes.get(letter, 1)
    return sizes


def _without_ones(x: Expr, group: str, sizes: Mapping[str, int]) -> tuple[Expr, str]:
    """An operand and its letters without axes of size one whose letter is longer elsewhere."""
    kept = [n == sizes[letter] or n != 1 for letter, n in zip(group, x.shape, strict=False)]
    if all(kept) or len(group) != x.ndim:
        return x, group
    return x.reshape(tuple(compress(x.shape, kept))), "".join(compress(group, kept))


@by_kinds
def bilinear(x: OperandLike, weight: OperandLike, y: OperandLike, bias: OperandLike | None = None) -> Expr:
    """``x`` (k,) and ``y`` (l,) through a weight (m, k, l): ``sum_kl x_k W_mkl y_l + b_m``, of shape (m,).

    >>> import lazyflow as lf
    >>> lf.bilinear(lf.constant([1.0, 2.0]), lf.constant([[[1.0, 0.0], [0.0, 1.0]]]), lf.constant([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    result = record(OPS["bilinear"], (as_floating(x, weight), weight, as_floating(y, weight)))
    return result if bias is None else result + as_floating(bias, weight)


@by_kinds
def inv(a: OperandLike) -> Expr:
    """The inverse of square matrices (..., n, n). Raises ``numpy.linalg.LinAlgError`` for a singular one when it runs.

    >>> import lazyflow as lf
    >>> lf.inv(lf.constant([[2.0, 0.0], [0.0, 4.0]])).numpy()
    array([[0.5 , 0.  ],
           [0.  , 0.25]], dtype=float32)
    """
    return record(OPS["inv"], (constant(a),))


@by_kinds
def solve(a: OperandLike, b: OperandLike) -> Expr:
    """``x`` with ``a @ x = b``: a (n, n) and b (n,), or a (..., n, n) and b (..., n, k).

    >>> import lazyflow as lf
    >>> lf.solve(lf.constant([[2.0, 0.0], [0.0, 4.0]]), lf.constant([2.0, 2.0])).numpy()
    array([1. , 0.5], dtype=float32)
    """
    return record(OPS["solve"], constants((a, b)))


@by_kinds
def det(a: OperandLike) -> Expr:
    """The determinant of square matrices (..., n, n). Its gradient is the matrix of cofactors, of a singular one too.

    >>> import lazyflow as lf
    >>> lf.det(lf.constant([[2.0, 0.0], [0.0, 4.0]])).item()
    8.0
    """
    return record(OPS["det"], (constant(a),))


@by_kinds
def slogdet(a: OperandLike) -> tuple[Expr, Expr]:
    """Sign and logarithm of the size of the determinant of square matrices (..., n, n).

    >>> import lazyflow as lf
    >>> sign, size = lf.slogdet(lf.constant([[-1.0, 0.0], [0.0, 1.0]]))
    >>> sign.item(), size.item()
    (-1.0, 0.0)
    """
    both = record(OPS["slogdet"], (constant(a),))
    return both[..., 0], both[..., 1]


@by_kinds
def cholesky(a: OperandLike) -> Expr:
    """The lower triangular ``L`` with ``L @ L.T = (a + a.T) / 2``, of positive definite matrices (..., n, n).

    >>> import lazyflow as lf
    >>> lf.cholesky(lf.constant([[4.0, 0.0], [0.0, 9.0]])).numpy()
    array([[2., 0.],
           [0., 3.]], dtype=float32)
    """
    return record(OPS["cholesky"], (constant(a),))


@by_kinds
def eigh(a: OperandLike) -> tuple[Expr, Expr]:
    """Eigenvalues (..., n), ascending, and eigenvectors (..., n, n), as columns, of the symmetric ``(a + a.T) / 2``.

    Where eigenvalues are equal their vectors have no gradient, and none of it is counted.

    >>> import lazyflow as lf
    >>> values, vectors = lf.eigh(lf.constant([[2.0, 0.0], [0.0, 1.0]]))
    >>> values.numpy()
    array([1., 2.], dtype=float32)
    """
    a = constant(a)
    parts = record(OPS["eigh"], (a,))
    n = a.shape[-1]
    return parts[..., :n], parts[..., n:].reshape(a.shape)


@by_kinds
def svd(a: OperandLike) -> tuple[Expr, Expr, Expr]:
    """``U`` (..., m, k), ``S`` (..., k), descending, and ``Vh`` (..., k, n) with ``a = U * S @ Vh``; k = min(m, n).

    >>> import lazyflow as lf
    >>> lf.svd(lf.constant([[3.0, 0.0], [0.0, 4.0]]))[1].numpy()
    array([4., 3.], dtype=float32)
    """
    a = constant(a)
    return svd_parts(record(OPS["svd"], (a,)), *a.shape[-2:])


@by_kinds
def circular_convolution(u: OperandLike, v: OperandLike) -> Expr:
    """``y[i] = sum_j u[j] v[(i - j) mod n]`` of two vectors (n,), as holographic representations bind (Plate 1995).

    A product with the matrix of all rotations of ``v``. Raises `ShapeError` for other shapes.

    >>> import lazyflow as lf
    >>> lf.circular_convolution(lf.constant([1.0, 2.0, 3.0]), lf.constant([0.0, 1.0, 0.0])).numpy()
    array([3., 1., 2.], dtype=float32)
    """
    return _rotated("circular_convolution", u, v, -1)


@by_kinds
def circular_correlation(u: OperandLike, v: OperandLike) -> Expr:
    """``y[i] = sum_j u[j] v[(i + j) mod n]`` of two vectors (n,): what undoes `circular_convolution`, nearly.

    Raises `ShapeError` for other shapes.

    >>> import lazyflow as lf
    >>> lf.circular_correlation(lf.constant([0.0, 1.0, 0.0]), lf.constant([3.0, 1.0, 2.0])).numpy()
    array([1., 2., 3.], dtype=float32)
    """
    return _rotated("circular_correlation", u, v, 1)


def _rotated(name: str, u: OperandLike, v: OperandLike, sign: int) -> Expr:
    u, v = constant(u), constant(v)
    if u.ndim != 1 or u.shape != v.shape:
        raise ShapeError(f"{name} takes two vectors of one size, got {u.shape} and {v.shape}")
    i = np.arange(u.shape[0])
    rotations = record(OPS["take"], (v, (i[:, None] + sign * i) % max(len(i), 1)), axis=0)
    return matmul(rotations, u)

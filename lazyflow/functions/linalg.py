"""Products."""

from __future__ import annotations

from typing import Any

from lazyflow.expr import Expr, affine_recorder, binary, record
from lazyflow.ops import OPS

__all__ = ["affine", "bilinear", "dot", "einsum", "matmul", "outer"]

_affine = affine_recorder(OPS["affine"])
_matmul = binary(OPS["matmul"])


def matmul(a: Any, b: Any) -> Expr:
    """The matrix product ``a @ b`` with NumPy's rules, for vectors, matrices and stacks of matrices.

    With a parameter on the left and a vector on the right, ``W @ x``, all nodes of a launch become one product.
    Raises `ShapeError` where the inner sizes differ.

    >>> import lazyflow as lf
    >>> lf.matmul(lf.constant([[1.0, 2.0]]), lf.constant([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    return _matmul(a, b)


def affine(weight: Any, bias: Any, x: Any) -> Expr:
    """``weight @ x + bias``: weight (m, k), bias (m,), x (k,) or (t, k); the result is (m,) or (t, m). One node.

    Raises `ShapeError` where the sizes differ.

    >>> import lazyflow as lf
    >>> W, b = lf.Parameter([[1.0, 2.0], [0.0, 1.0]]), lf.Parameter([0.5, 0.5])
    >>> lf.affine(W, b, lf.constant([1.0, 1.0])).numpy()
    array([3.5, 1.5], dtype=float32)
    """
    return _affine(weight, bias, x)


def dot(a: Any, b: Any) -> Expr:
    """The inner product of two vectors of one size, a scalar.

    >>> import lazyflow as lf
    >>> lf.dot(lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])).item()
    11.0
    """
    return record(OPS["dot"], (a, b))


def outer(a: Any, b: Any) -> Expr:
    """The outer product of vectors (m,) and (n,): (m, n).

    >>> import lazyflow as lf
    >>> lf.outer(lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])).numpy()
    array([[3., 4.],
           [6., 8.]], dtype=float32)
    """
    return record(OPS["outer"], (a, b))


def einsum(subscripts: str, a: Any, b: Any) -> Expr:
    """Einstein's summation over two operands, as ``numpy.einsum`` without ellipsis.

    >>> import lazyflow as lf
    >>> lf.einsum("ij,j->i", lf.constant([[1.0, 2.0]]), lf.constant([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    return record(OPS["einsum"], (a, b), subscripts=subscripts)


def bilinear(x: Any, weight: Any, y: Any, bias: Any = None) -> Expr:
    """``x`` (k,) and ``y`` (l,) through a weight (m, k, l): ``sum_kl x_k W_mkl y_l + b_m``, of shape (m,).

    >>> import lazyflow as lf
    >>> lf.bilinear(lf.constant([1.0, 2.0]), lf.constant([[[1.0, 0.0], [0.0, 1.0]]]), lf.constant([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    result = record(OPS["bilinear"], (x, weight, y))
    return result if bias is None else result + bias

"""Sums, means, largest elements and softmax by segments: rows that have one index."""

from __future__ import annotations

from lazyflow.core.columns import are_within
from lazyflow.errors import ShapeError, counted
from lazyflow.ops import OPS
from lazyflow.ops.base import integer, require_integer
from lazyflow.record.expr import Expr, OperandLike, as_floating, checked_range, constant, index_array, record

__all__ = ["segment_max", "segment_mean", "segment_softmax", "segment_sum"]


def _segment_operands(name: str, values: Expr, segments: OperandLike, n: int) -> tuple[Expr, OperandLike, int]:
    """Rows, the segment of each, and how many there are, checked."""
    n = integer(name, "n, the number of segments,", n)
    if n < 0:
        raise ShapeError(f"{name}: n, the number of segments, must not be negative, got {n}")
    index = segments if isinstance(segments, Expr) else index_array(segments)
    require_integer(name, "a segment", index)
    if len(index.shape) != 1 or values.shape[:1] != index.shape:
        raise ShapeError(
            f"{name} takes values (m, ...) and segments (m,), an index for each row; got {values.shape} and "
            f"{index.shape}"
        )
    if not isinstance(index, Expr) and not are_within(index, 0, n):
        checked_range(name, index, n, counted(n, "segment"), 0)
    return values, index, n


def _floating(values: OperandLike) -> Expr:
    """Of a list of Python's integers numbers in the default dtype."""
    return as_floating(values) if isinstance(values, list | tuple) else constant(values)


def segment_sum(values: OperandLike, segments: OperandLike, n: int) -> Expr:
    """Row i, of ``n``, is the sum of the rows of ``values`` (m, ...) whose segment is i; zero where there is none.

    ``segments``: m integers, in any order; those of graphs of any numbers of nodes and edges share a launch. As
    ``jax.ops.segment_sum``; integers stay integers, and truth values are counted. Raises ``IndexError`` for a segment
    below 0 or not below ``n``, at this line, or, of ``segments`` that are computed, when they run (on a GPU nobody
    looks); `DTypeError` for segments that are no integers, ``TypeError`` for such an ``n``, `ShapeError` where the
    numbers of rows differ, or ``n`` is negative.

    >>> import lazyflow as lf
    >>> lf.segment_sum(lf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), [2, 0, 2], 3).numpy()
    array([[3., 4.],
           [0., 0.],
           [6., 8.]], dtype=float32)
    """
    values = constant(values)
    values = values.astype("int64") if values.dtype.kind == "b" else values
    values, segments, n = _segment_operands("segment_sum", values, segments, n)
    return record(OPS["scatter"], (values, segments), n=n, name="segment_sum")


def segment_mean(values: OperandLike, segments: OperandLike, n: int) -> Expr:
    """Row i, of ``n``, is the mean of the rows of ``values`` (m, ...) whose segment is i; zero where there is none, as
    in PyTorch Geometric. The mean of integers is float64. Operands and errors as in `segment_sum`.

    >>> import lazyflow as lf
    >>> lf.segment_mean(lf.constant([1.0, 3.0, 5.0]), [2, 0, 2], 3).numpy()
    array([3., 0., 3.], dtype=float32)
    """
    values, segments, n = _segment_operands("segment_mean", _floating(values), segments, n)
    return record(OPS["segment_mean"], (values, segments), n=n)


def segment_max(values: OperandLike, segments: OperandLike, n: int) -> Expr:
    """Row i, of ``n``, has the largest elements of the rows of ``values`` (m, ...) whose segment is i; where there is
    none the lowest there is, minus infinity, as ``jax.ops.segment_max``. A NaN makes its segment's NaN.

    The gradient is shared among equals. Operands and errors as in `segment_sum`; `DTypeError` for truth values.

    >>> import lazyflow as lf
    >>> lf.segment_max(lf.constant([1.0, 3.0, 5.0]), [2, 0, 2], 3).numpy()
    array([  3., -inf,   5.], dtype=float32)
    """
    values, segments, n = _segment_operands("segment_max", constant(values), segments, n)
    return record(OPS["segment_max"], (values, segments), n=n)


def segment_softmax(values: OperandLike, segments: OperandLike, n: int) -> Expr:
    """``exp(x) / sum(exp(x))`` over the rows that have one segment, without overflow: scores (m, ...) become weights
    (m, ...), the attention over the edges that lead into a node (Velickovic et al. 2018).

    What is not finite acts as in `softmax`, in its segment alone. Operands and errors as in `segment_sum`;
    `DTypeError` for what is not floating.

    >>> import lazyflow as lf
    >>> lf.segment_softmax(lf.constant([1.0, 3.0, 1.0]), [2, 0, 2], 3).numpy()
    array([0.5, 1. , 0.5], dtype=float32)
    """
    values, segments, n = _segment_operands("segment_softmax", _floating(values), segments, n)
    return record(OPS["segment_softmax"], (values, segments), n=n)

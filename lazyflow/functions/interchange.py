"""Arrays of other libraries."""

from __future__ import annotations

from lazyflow import device as devices
from lazyflow.record.expr import Expr, constant

__all__ = ["from_dlpack"]


def from_dlpack(x: object) -> Expr:
    """An array of another library, such as a PyTorch tensor, as a constant; copied, so later changes do not matter.

    The other way, any library's ``from_dlpack(expression)`` takes the value of an expression.

    >>> import numpy as np, lazyflow as lf
    >>> lf.from_dlpack(np.ones(2)).numpy(), np.from_dlpack(lf.constant([1.0]))
    (array([1., 1.]), array([1.], dtype=float32))
    """
    return constant(devices.array_from_dlpack(x))

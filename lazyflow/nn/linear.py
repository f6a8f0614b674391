"""`Linear`: an affine map."""

from __future__ import annotations

import math
import string
from typing import Any

from lazyflow.expr import Expr, Parameter, constant
from lazyflow.functions.linalg import affine, einsum, matmul
from lazyflow.nn import init
from lazyflow.nn.module import Module, checked_sizes, new_parameter

__all__ = ["Linear"]


class Linear(Module):
    """``weight @ x + bias``: ``weight`` (out_features, in_features), ``bias`` (out_features,) or None.

    ``x`` is (in_features,) or (..., in_features); the result has out_features in place of in_features. Both start
    uniform in ``-1/sqrt(in_features) .. 1/sqrt(in_features)``, as in PyTorch. Raises ``ValueError`` for a size below
    1, and `ShapeError` for an ``x`` of another size.

    >>> import lazyflow as lf
    >>> lf.nn.Linear(3, 2)(lf.constant([1.0, 2.0, 3.0])).shape
    (2,)
    """

    bias: Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = checked_sizes(
            "Linear", in_features=in_features, out_features=out_features
        )
        self.weight = new_parameter(self.out_features, self.in_features)
        self.bias = new_parameter(self.out_features) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5.0))
        if self.bias is not None:
            bound = 1.0 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Any) -> Expr:
        """The map of one example's ``x``."""
        return linear(self.weight, self.bias, x)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


def linear(weight: Any, bias: Any, x: Any) -> Expr:
    """``weight @ x + bias`` over the last axis of ``x``, with or without a bias: one node either way."""
    if bias is not None:
        return affine(weight, bias, x)
    x = constant(x)
    if len(x.type.shape) < 2:
        return matmul(weight, x)
    axes = string.ascii_lowercase[: x.ndim - 1]
    return einsum(f"YZ,{axes}Z->{axes}Y", weight, x)

"""Affine and bilinear maps, and layers that carry a part of their input past them."""

from __future__ import annotations

import math
from typing import Any

from lazyflow.functions.elementwise import relu, sigmoid
from lazyflow.functions.linalg import affine_layer
from lazyflow.functions.shape import split
from lazyflow.nn import init
from lazyflow.nn.functional.maps import affine, bilinear
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.nn.one_node import one_node
from lazyflow.ops.base import number
from lazyflow.record.expr import Expr, Parameter, as_floating

__all__ = ["Bilinear", "Highway", "Linear"]


class Linear(Module):
    """``weight @ x + bias``: ``weight`` (out_features, in_features), ``bias`` (out_features,) or None.

    ``x`` is (in_features,) or (..., in_features); the result has out_features in place of in_features. Both start
    uniform in ``-1/sqrt(in_features) .. 1/sqrt(in_features)``, as in PyTorch. Raises ``ValueError`` for a size below
    1, and `ShapeError` for an ``x`` of another size.

    >>> import lazyflow as lf
    >>> lf.nn.Linear(3, 2)(lf.constant([1.0, 2.0, 3.0])).shape
    (2,)
    """

    quiet = True

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
        bias = self.bias
        return affine(self.weight, None, x) if bias is None else affine_layer(self.weight, bias, x)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class Bilinear(Module):
    """``x1`` (in1_features,) and ``x2`` (in2_features,) through ``weight`` (out_features, in1_features, in2_features).

    The result is (out_features,). Weights start uniform in ``-1/sqrt(in1_features) .. 1/sqrt(in1_features)``. Raises
    ``ValueError`` for a size below 1, `ShapeError` for vectors of other sizes.

    >>> import lazyflow as lf
    >>> lf.nn.Bilinear(2, 3, 4)(lf.constant([1.0, 2.0]), lf.constant([1.0, 2.0, 3.0])).shape
    (4,)
    """

    bias: Parameter | None

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in1_features, self.in2_features, self.out_features = checked_sizes(
            "Bilinear", in1_features=in1_features, in2_features=in2_features, out_features=out_features
        )
        self.weight = new_parameter(self.out_features, self.in1_features, self.in2_features)
        self.bias = new_parameter(self.out_features) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        bound = 1.0 / math.sqrt(self.in1_features)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, x1: Any, x2: Any) -> Expr:
        """The map of one example's two vectors."""
        return bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        sizes = f"{self.in1_features}, {self.in2_features}, {self.out_features}"
        return sizes + ("" if self.bias is not None else ", bias=False")


class Highway(Module):
    """``t * relu(W x + b) + (1 - t) * x`` with ``t = sigmoid(W_t x + b_t)`` (Srivastava et al. 2015).

    Both products are one, of ``layer``, a `Linear` (features, 2 features): its first rows are W, the others W_t. The
    biases b_t start at -2, so that a new layer carries most of ``x`` past itself. ``x`` is (features,).

    >>> import lazyflow as lf
    >>> lf.nn.Highway(3)(lf.constant([1.0, 2.0, 3.0])).shape
    (3,)
    """

    quiet = True

    def __init__(self, features: int, *, gate_bias: float = -2.0) -> None:
        super().__init__()
        (self.features,) = checked_sizes("Highway", features=features)
        self.gate_bias = number("Highway", "gate_bias", gate_bias)
        self.layer = Linear(self.features, 2 * self.features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        self.layer.reset_parameters()
        assert self.layer.bias is not None
        biases = self.layer.bias.numpy()
        biases[self.features :] = self.gate_bias
        self.layer.bias.assign(biases)

    @one_node
    def forward(self, x: Any) -> Expr:
        """One example's vector, in part transformed and in part carried."""
        value, gate = split(self.layer(x), 2)
        t = sigmoid(gate)
        carried: Expr = (1.0 - t) * as_floating(x, t)
        return t * relu(value) + carried

    def extra_repr(self) -> str:
        return str(self.features)

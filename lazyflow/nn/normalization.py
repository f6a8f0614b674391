"""`LayerNorm`: normalisation over an example's own elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazyflow.errors import ShapeError
from lazyflow.expr import Expr, Parameter, constant
from lazyflow.functions.elementwise import sqrt
from lazyflow.functions.reduce import mean
from lazyflow.nn import init
from lazyflow.nn.module import Module, checked_sizes, new_parameter

__all__ = ["LayerNorm"]


class LayerNorm(Module):
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` (Ba et al. 2016), with both taken over the last axes.

    ``normalized_shape``: the sizes of those axes, an integer for one axis. ``weight`` (ones at first) and ``bias``
    (zeros) have that shape; ``elementwise_affine=False`` leaves out both, ``bias=False`` the second. Raises
    ``ValueError`` for a size below 1 and `ShapeError` for an ``x`` that does not end in these axes.

    >>> import lazyflow as lf
    >>> lf.nn.LayerNorm(2, eps=0.0)(lf.constant([1.0, 3.0])).numpy()
    array([-1.,  1.], dtype=float32)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        *,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sizes = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if not sizes:
            raise ValueError("LayerNorm: normalized_shape must name at least one axis, got ()")
        self.normalized_shape = checked_sizes("LayerNorm", **{f"normalized_shape[{i}]": n for i, n in enumerate(sizes)})
        self.eps = float(eps)
        self.weight = new_parameter(*self.normalized_shape) if elementwise_affine else None
        self.bias = new_parameter(*self.normalized_shape) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones and zeros again."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Any) -> Expr:
        """``x`` normalised."""
        given = constant(x)
        axes = tuple(range(-len(self.normalized_shape), 0))
        if given.shape[-len(axes) :] != self.normalized_shape:
            raise ShapeError(
                f"LayerNorm takes a value whose last axes have sizes {self.normalized_shape}, got shape {given.shape}"
            )
        centred = given - mean(given, axis=axes, keepdims=True)
        y = centred / sqrt(mean(centred * centred, axis=axes, keepdims=True) + self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        missing = ", elementwise_affine=False" if self.weight is None else ", bias=False" if self.bias is None else ""
        return f"{self.normalized_shape}, eps={self.eps}{missing}"

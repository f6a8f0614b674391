"""Activations as modules: the functions of `lazyflow.nn.functional.activation` with their options kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lazyflow.nn import init
from lazyflow.nn.functional import activation as f
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.nn.wrapped import FunctionModule, wrapped
from lazyflow.ops.base import number
from lazyflow.random import Stream
from lazyflow.record.expr import Expr

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "SELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU",
    "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Softmax", "Softmax2d",
    "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
]  # fmt: skip

CELU: type[FunctionModule]
ELU: type[FunctionModule]
GELU: type[FunctionModule]
GLU: type[FunctionModule]
SELU: type[FunctionModule]
Hardshrink: type[FunctionModule]
Hardsigmoid: type[FunctionModule]
Hardswish: type[FunctionModule]
Hardtanh: type[FunctionModule]
LeakyReLU: type[FunctionModule]
LogSigmoid: type[FunctionModule]
LogSoftmax: type[FunctionModule]
Mish: type[FunctionModule]
ReLU: type[FunctionModule]
ReLU6: type[FunctionModule]
SiLU: type[FunctionModule]
Sigmoid: type[FunctionModule]
Softmax: type[FunctionModule]
Softmax2d: type[FunctionModule]
Softmin: type[FunctionModule]
Softplus: type[FunctionModule]
Softshrink: type[FunctionModule]
Softsign: type[FunctionModule]
Tanh: type[FunctionModule]
Tanhshrink: type[FunctionModule]
Threshold: type[FunctionModule]


def _softmax2d(x: Any) -> Expr:
    """``softmax`` over the channels of ``x`` (c, h, w)."""
    return f.softmax(x, dim=-3)


_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "CELU": f.celu, "ELU": f.elu, "GELU": f.gelu, "GLU": f.glu, "SELU": f.selu, "Hardshrink": f.hardshrink,
    "Hardsigmoid": f.hardsigmoid, "Hardswish": f.hardswish, "Hardtanh": f.hardtanh, "LeakyReLU": f.leaky_relu,
    "LogSigmoid": f.logsigmoid, "LogSoftmax": f.log_softmax, "Mish": f.mish, "ReLU": f.relu, "ReLU6": f.relu6,
    "SiLU": f.silu, "Sigmoid": f.sigmoid, "Softmax": f.softmax, "Softmax2d": _softmax2d, "Softmin": f.softmin,
    "Softplus": f.softplus, "Softshrink": f.softshrink, "Softsign": f.softsign, "Tanh": f.tanh,
    "Tanhshrink": f.tanhshrink, "Threshold": f.threshold,
}  # fmt: skip
globals().update({name: wrapped(__name__, name, function) for name, function in _FUNCTIONS.items()})


class PReLU(Module):
    """``x`` where positive, else ``weight * x`` (He et al. 2015), the slope being trained: one, or one a channel.

    ``x`` is (num_parameters, ...), or of any shape for one slope. Raises ``ValueError`` for a number below 1,
    `ShapeError` for other channels.

    >>> import lazyflow as lf
    >>> lf.nn.PReLU()(lf.constant([-1.0, 2.0])).numpy()
    array([-0.25,  2.  ], dtype=float32)
    """

    quiet = True

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        (self.num_parameters,) = checked_sizes("PReLU", num_parameters=num_parameters)
        self.init = number("PReLU", "init", init)
        self.weight = new_parameter(self.num_parameters)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The slopes that it started with."""
        init.constant_(self.weight, self.init)

    def forward(self, x: Any) -> Expr:
        """``x``, its negative elements times their slope."""
        return f.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class RReLU(Module):
    """`LeakyReLU` with slopes drawn from ``lower .. upper`` while training, else their mean (Xu et al. 2015).

    ``stream``: where the random numbers come from. Raises ``ValueError`` where ``lower`` is above ``upper``.

    >>> import lazyflow as lf
    >>> lf.nn.RReLU(0.0, 1.0).eval()(lf.constant([-1.0, 2.0])).numpy()
    array([-0.5,  2. ], dtype=float32)
    """

    quiet = True

    def __init__(
        self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False, *, stream: Stream | None = None
    ) -> None:
        super().__init__()
        self.lower, self.upper = number("RReLU", "lower", lower), number("RReLU", "upper", upper)
        if not self.lower <= self.upper:
            raise ValueError(f"RReLU: lower must be at most upper, got {lower} and {upper}")
        self.stream = stream

    def forward(self, x: Any) -> Expr:
        """``x``, its negative elements times a slope."""
        return f.rrelu(x, self.lower, self.upper, training=self.training, stream=self.stream)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"

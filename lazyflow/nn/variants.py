"""Other long short-term memories: with coupled gates and peepholes, and with layer normalisation. Cells, each one node.

Weights have the layout of `lazyflow.nn.recurrent`: the rows of all gates below each other.
"""

from __future__ import annotations

import math
from typing import Any

from lazyflow.cells.cell import cell
from lazyflow.functions.elementwise import sigmoid, tanh
from lazyflow.nn import init
from lazyflow.nn.functional.maps import affine
from lazyflow.nn.functional.normalization import layer_norm
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.nn.recurrent import checked_pair, split_gates, zero_state
from lazyflow.ops.base import number
from lazyflow.record.expr import Expr, Parameter

__all__ = ["CoupledLSTMCell", "LayerNormLSTMCell"]

State = tuple[Expr, Expr]

_PEEPHOLES = ("full", "diagonal", "none")


class CoupledLSTMCell(Module):
    """An LSTM that forgets as much as it takes in, with peepholes (Gers et al. 2000; Greff et al. 2017).

    ::

        i  = sigmoid(W_i x + U_i h + P_i c + b_i)
        g  = tanh(W_g x + U_g h + b_g)
        c' = (1 - i) * c + i * g
        o  = sigmoid(W_o x + U_o h + P_o c' + b_o)
        h' = o * tanh(c')

    ``weight_ih`` (3 hidden_size, input_size), ``weight_hh`` (3 hidden_size, hidden_size) and ``bias`` (3 hidden_size,)
    hold the gates in the order i, g, o; ``weight_ci`` and ``weight_co`` are the peepholes: matrices with
    ``peepholes="full"``, vectors that multiply c with ``"diagonal"``, absent with ``"none"``. Called with ``x``
    (input_size,) and a state ``(h, c)``, zeros where it is None. Raises ``ValueError`` for a size below 1 and other
    peepholes, `ShapeError` for operands of other sizes.

    >>> import lazyflow as lf
    >>> h, c = lf.nn.CoupledLSTMCell(2, 3)(lf.constant([1.0, 2.0]))
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    weight_ci: Parameter | None
    weight_co: Parameter | None

    def __init__(self, input_size: int, hidden_size: int, *, peepholes: str = "full") -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes(
            "CoupledLSTMCell", input_size=input_size, hidden_size=hidden_size
        )
        if peepholes not in _PEEPHOLES:
            raise ValueError(f"CoupledLSTMCell: peepholes must be one of {', '.join(_PEEPHOLES)}, got {peepholes!r}")
        self.peepholes = peepholes
        self.weight_ih = new_parameter(3 * self.hidden_size, self.input_size)
        self.weight_hh = new_parameter(3 * self.hidden_size, self.hidden_size)
        self.bias = new_parameter(3 * self.hidden_size)
        self.weight_ci, self.weight_co = self._peephole(), self._peephole()
        self.reset_parameters()

    def _peephole(self) -> Parameter | None:
        n = self.hidden_size
        return None if self.peepholes == "none" else new_parameter(*((n, n) if self.peepholes == "full" else (n,)))

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, those of `LSTMCell`."""
        _draw_uniformly(self, self.hidden_size)

    def _peeped(self, gate: Expr, weight: Parameter | None, c: Any) -> Expr:
        if weight is None:
            return gate
        seen: Expr = weight * c if self.peepholes == "diagonal" else weight @ c
        return gate + seen

    @cell
    def forward(self, x: Any, state: tuple[Any, Any] | None = None) -> State:
        """The next state ``(h, c)``."""
        zero = zero_state(self.weight_hh)
        h, c = (zero, zero) if state is None else checked_pair(self, state, self.hidden_size, zero.dtype)
        from_x, from_h = affine(self.weight_ih, self.bias, x), affine(self.weight_hh, None, h)
        i, g, o = split_gates(self, from_x + from_h, 3)
        taken = sigmoid(self._peeped(i, self.weight_ci, c))
        c = c + taken * (tanh(g) - c)
        return sigmoid(self._peeped(o, self.weight_co, c)) * tanh(c), c

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, peepholes={self.peepholes!r}"


class LayerNormLSTMCell(Module):
    """An LSTM with layer normalisation of both products and of the memory (Ba, Kiros and Hinton 2016).

    ``i, f, g, o = norm(W_ih x) + norm(W_hh h) + b`` and ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and
    ``h' = sigmoid(o) * tanh(norm(c'))``. Each of the three norms has a weight and a bias of its own (``norm_ih``,
    ``norm_hh``, ``norm_c``), ones and zeros at first; ``bias`` starts at zero, with ``forget_bias`` for f. Called with
    ``x`` (input_size,) and a state ``(h, c)``, zeros where it is None. Raises ``ValueError`` for a size below 1,
    `ShapeError` for operands of other sizes.

    >>> import lazyflow as lf
    >>> h, c = lf.nn.LayerNormLSTMCell(2, 3)(lf.constant([1.0, 2.0]))
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes(
            "LayerNormLSTMCell", input_size=input_size, hidden_size=hidden_size
        )
        self.eps = number("LayerNormLSTMCell", "eps", eps)
        self.forget_bias, n = number("LayerNormLSTMCell", "forget_bias", forget_bias), self.hidden_size
        self.weight_ih, self.weight_hh = new_parameter(4 * n, self.input_size), new_parameter(4 * n, n)
        self.bias = new_parameter(4 * n)
        for name, size in (("ih", 4 * n), ("hh", 4 * n), ("c", n)):
            setattr(self, f"norm_{name}_weight", new_parameter(size))
            setattr(self, f"norm_{name}_bias", new_parameter(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for weight in (self.weight_ih, self.weight_hh):
            init.uniform_(weight, -bound, bound)
        for name in ("ih", "hh", "c"):
            init.ones_(self.__dict__[f"norm_{name}_weight"])
            init.zeros_(self.__dict__[f"norm_{name}_bias"])
        bias = init.zeros_(self.bias).numpy()
        bias[self.hidden_size : 2 * self.hidden_size] = self.forget_bias
        self.bias.assign(bias)

    def _normed(self, name: str, x: Expr) -> Expr:
        own = self.__dict__
        return layer_norm(x, x.shape[-1], own[f"norm_{name}_weight"], own[f"norm_{name}_bias"], eps=self.eps)

    @cell
    def forward(self, x: Any, state: tuple[Any, Any] | None = None) -> State:
        """The next state ``(h, c)``."""
        zero = zero_state(self.weight_hh)
        h, c = (zero, zero) if state is None else checked_pair(self, state, self.hidden_size, zero.dtype)
        from_x, from_h = affine(self.weight_ih, None, x), affine(self.weight_hh, None, h)
        gates = self._normed("ih", from_x) + self._normed("hh", from_h) + self.bias
        i, f, g, o = split_gates(self, gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(self._normed("c", c)), c

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


def _draw_uniformly(module: Module, hidden: int) -> None:
    """Uniform in ``-1/sqrt(hidden) .. 1/sqrt(hidden)``, as in PyTorch."""
    bound = 1.0 / math.sqrt(hidden)
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)

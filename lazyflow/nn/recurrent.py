"""Recurrent cells, and an LSTM over a Python list.

Parameters have the names, the layout and the order of gates of PyTorch, so weights copy over.

The steps are cells (`lazyflow.cell`): one node each, and the input's product ``W_ih x``, which does not depend on the
recurrence, is computed for all steps of all examples at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.cell import cell
from lazyflow.expr import Expr, Parameter, constant
from lazyflow.functions.elementwise import add, multiply, relu, sigmoid, tanh
from lazyflow.functions.random import dropout as dropped
from lazyflow.functions.shape import concatenate, split
from lazyflow.nn import init
from lazyflow.nn.linear import linear
from lazyflow.nn.module import Module, checked_probability, checked_sizes, new_parameter
from lazyflow.random import Stream

__all__ = ["LSTM", "BiLSTM", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Expr, Expr]
Weights = tuple[Parameter, Parameter, "Parameter | None", "Parameter | None"]  # weight_ih, weight_hh, bias_ih, bias_hh

_NONLINEARITIES = {"tanh": tanh, "relu": relu}


def _new_weights(gates: int, width: int, hidden: int, bias: bool) -> Weights:
    """Uniform in ``-1/sqrt(hidden) .. 1/sqrt(hidden)``, as in PyTorch."""
    bound = 1.0 / math.sqrt(hidden)
    rows = gates * hidden

    def drawn(*shape: int) -> Parameter:
        return init.uniform_(new_parameter(*shape), -bound, bound)

    return drawn(rows, width), drawn(rows, hidden), drawn(rows) if bias else None, drawn(rows) if bias else None


def split_gates(owner: Module, values: Expr, count: int) -> list[Expr]:
    """The gates of one step, ``count`` equal parts of a vector. Raises `ShapeError` if it is none."""
    if len(values.type.shape) != 1:
        raise ShapeError(
            f"{type(owner).__name__} takes the vectors of one step, or one node, of one example; its gates have "
            f"shape {values.shape}, so an operand had more axes: call it once for each, the engine does the batching"
        )
    return split(values, count)


def _zeros(size: int, like: Parameter) -> Expr:
    return constant(np.zeros(size, like.dtype))


def _lstm_step(owner: Module, gates: Expr, c: Expr) -> State:
    i, f, g, o = split_gates(owner, gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


class _Cell(Module):
    """The four parameters of a cell, each with the rows of all gates below each other."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes(
            type(self).__name__, input_size=input_size, hidden_size=hidden_size
        )
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = _new_weights(
            self.gates, self.input_size, self.hidden_size, bias
        )

    def _products(self, x: Any, h: Any) -> tuple[Expr, Expr]:
        return linear(self.weight_ih, self.bias_ih, x), linear(self.weight_hh, self.bias_hh, h)

    def _start(self) -> Expr:
        return _zeros(self.hidden_size, self.weight_hh)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias_ih is not None else ", bias=False")


class RNNCell(_Cell):
    """``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`` (Elman 1990), or with ``nonlinearity="relu"``.

    ``x`` (input_size,), ``h`` (hidden_size,), zeros where it is None. Raises ``ValueError`` for a size below 1 or
    another nonlinearity, `ShapeError` for operands of other sizes.

    >>> import lazyflow as lf
    >>> lf.nn.RNNCell(2, 3)(lf.constant([1.0, 2.0])).shape
    (3,)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, nonlinearity: str = "tanh") -> None:
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias)
        self.nonlinearity = nonlinearity

    @cell
    def forward(self, x: Any, h: Any = None) -> Expr:
        """The next state."""
        from_x, from_h = self._products(x, self._start() if h is None else h)
        return _NONLINEARITIES[self.nonlinearity](from_x + from_h)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTMCell(_Cell):
    """One step of a long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000), as in PyTorch.

    ``i, f, g, o = W_ih x + b_ih + W_hh h + b_hh``, four gates of hidden_size in this order;
    ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h' = sigmoid(o) * tanh(c')``. ``x`` (input_size,), state ``(h,
    c)``, each (hidden_size,), zeros where it is None. Raises ``ValueError`` for a size below 1, `ShapeError` for
    operands of other sizes.

    >>> import lazyflow as lf
    >>> cell = lf.nn.LSTMCell(2, 3)
    >>> h, c = cell(lf.constant([1.0, 2.0]))
    >>> h, c = cell(lf.constant([3.0, 4.0]), (h, c))
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    gates = 4

    @cell
    def forward(self, x: Any, state: tuple[Any, Any] | None = None) -> State:
        """The next state ``(h, c)``."""
        h, c = (self._start(), self._start()) if state is None else state
        from_x, from_h = self._products(x, h)
        return _lstm_step(self, from_x + from_h, c)


class GRUCell(_Cell):
    """One step of a gated recurrent unit (Cho et al. 2014), as in PyTorch.

    With three gates of hidden_size in the order r, z, n in the rows of the weights: ``r = sigmoid(W_ir x + b_ir + W_hr
    h + b_hr)``, ``z`` alike, ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))`` and ``h' = (1 - z) * n + z * h``. ``x``
    (input_size,), ``h`` (hidden_size,), zeros where it is None. Raises ``ValueError`` for a size below 1, `ShapeError`
    for operands of other sizes.

    >>> import lazyflow as lf
    >>> lf.nn.GRUCell(2, 3)(lf.constant([1.0, 2.0])).shape
    (3,)
    """

    gates = 3

    @cell
    def forward(self, x: Any, h: Any = None) -> Expr:
        """The next state."""
        h = self._start() if h is None else h
        from_x, from_h = self._products(x, h)
        (rx, zx, nx), (rh, zh, nh) = split_gates(self, from_x, 3), split_gates(self, from_h, 3)
        n = tanh(nx + sigmoid(rx + rh) * nh)
        return add(n, multiply(sigmoid(zx + zh), h - n))


class LSTM(Module):
    """Layers of `LSTMCell` over a list of vectors, one list an example; parameters as those of ``torch.nn.LSTM``.

    ``dropout``: applied, while training, to the outputs of every layer but the last. Called with a list of t
    expressions (input_size,) it returns the t outputs of the last layer, (hidden_size,) each, and the final ``(h, c)``
    of every layer. ``state``: what to start from, in that form; zeros where it is None. Raises ``ValueError`` for a
    size below 1 or ``dropout`` outside [0, 1), `ShapeError` for an empty list or vectors of another size.

    >>> import lazyflow as lf
    >>> words = [lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0]), lf.constant([5.0, 6.0])]
    >>> outputs, [(h, c)] = lf.nn.LSTM(2, 3)(words)
    >>> len(outputs), outputs[0].shape, h.shape
    (3, (3,), (3,))
    """

    directions: tuple[str, ...] = ("",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        stream: Stream | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size, self.hidden_size, self.num_layers = checked_sizes(
            name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        self.dropout, self.stream = checked_probability(name, dropout), stream
        for layer in range(self.num_layers):
            width = self.hidden_size * len(self.directions) if layer else self.input_size
            for direction in self.directions:
                self._assign_weights(f"_l{layer}{direction}", _new_weights(4, width, self.hidden_size, bias))

    def _assign_weights(self, suffix: str, weights: Weights) -> None:
        for name, parameter in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
            setattr(self, name + suffix, parameter)

    def _weights(self, suffix: str) -> Weights:
        own = self.__dict__
        return own["weight_ih" + suffix], own["weight_hh" + suffix], own["bias_ih" + suffix], own["bias_hh" + suffix]

    def forward(
        self, xs: Sequence[Any], state: Sequence[tuple[Any, Any]] | None = None
    ) -> tuple[list[Expr], list[State]]:
        """Outputs of the last layer for every step, and the final states of all layers."""
        outputs = list(xs)
        if not outputs:
            raise ShapeError(
                f"{type(self).__name__}: the list of inputs is empty; a sequence needs at least one vector"
            )
        starts = self._starts(state)
        finals: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                outputs = [dropped(x, self.dropout, training=self.training, stream=self.stream) for x in outputs]
            outputs = self._layer(layer, outputs, starts, finals)
        return outputs, finals

    def _starts(self, state: Sequence[tuple[Any, Any]] | None) -> list[tuple[Any, Any]]:
        count = self.num_layers * len(self.directions)
        if state is None:
            zeros = _zeros(self.hidden_size, self._weights("_l0")[1])
            return [(zeros, zeros)] * count
        if len(state) != count:
            raise ShapeError(f"{type(self).__name__}: state must be a list of {count} pairs (h, c), got {len(state)}")
        return list(state)

    def _layer(self, layer: int, xs: list[Any], starts: list[tuple[Any, Any]], finals: list[State]) -> list[Expr]:
        """Outputs of one layer, both directions joined; appends their final states."""
        found = []
        for direction in self.directions:
            backwards = bool(direction)
            hs, final = self._run(f"_l{layer}{direction}", xs[::-1] if backwards else xs, starts[len(finals)])
            finals.append(final)
            found.append(hs[::-1] if backwards else hs)
        return found[0] if len(found) == 1 else [concatenate(pair) for pair in zip(*found, strict=True)]

    def _run(self, suffix: str, xs: list[Any], start: tuple[Any, Any]) -> tuple[list[Expr], State]:
        h, c = start
        hs = []
        for x in xs:
            h, c = self._step(suffix, x, h, c)
            hs.append(h)
        return hs, (h, c)

    @cell
    def _step(self, suffix: str, x: Any, h: Any, c: Any) -> State:
        """One step of one layer in one direction."""
        weight_ih, weight_hh, bias_ih, bias_hh = self._weights(suffix)
        return _lstm_step(self, linear(weight_ih, bias_ih, x) + linear(weight_hh, bias_hh, h), c)

    def extra_repr(self) -> str:
        layers = "" if self.num_layers == 1 else f", {self.num_layers}"
        bias = "" if self._weights("_l0")[2] is not None else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{layers}{bias}" + (
            f", dropout={self.dropout}" if self.dropout else ""
        )


class BiLSTM(LSTM):
    """An `LSTM` in both directions (Graves and Schmidhuber 2005), as ``torch.nn.LSTM(bidirectional=True)``.

    The outputs are ``[forward; backward]``, (2 * hidden_size,) each, and go so into the next layer. The final states,
    and ``state``, are in the order layer 0 forward, layer 0 backward, layer 1 forward, and so on.

    >>> import lazyflow as lf
    >>> outputs, states = lf.nn.BiLSTM(2, 3)([lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])])
    >>> outputs[0].shape, len(states)
    ((6,), 2)
    """

    directions = ("", "_reverse")

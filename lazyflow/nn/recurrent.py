"""Recurrent cells, and layers of them over a Python list.

Parameters have the names, the layout and the order of gates of PyTorch, so weights copy over.

The steps are cells (`lazyflow.cell`): one node each, and the input's product ``W_ih x``, which does not depend on the
recurrence, is computed for all steps of all examples at once.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Sequence
from dis import opmap
from types import CodeType, FrameType
from typing import Any

import numpy as np

from lazyflow.cells.cell import cell, recurrence
from lazyflow.device import Array
from lazyflow.errors import ShapeError
from lazyflow.functions.elementwise import add, multiply, relu, sigmoid, tanh
from lazyflow.functions.random import dropout as dropped
from lazyflow.functions.random import masked
from lazyflow.functions.shape import concatenate_each, split
from lazyflow.nn import init
from lazyflow.nn.functional.maps import affine
from lazyflow.nn.module import Module, checked_probability, checked_sizes, new_parameter
from lazyflow.ops.base import Shape
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, Parameter, all_in_dtype, beside, constant, constant_here, in_dtype, unstacked

__all__ = ["GRU", "LSTM", "RNN", "BiLSTM", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Expr, Expr]
Weights = tuple[Parameter, Parameter, "Parameter | None", "Parameter | None"]  # weight_ih, weight_hh, bias_ih, bias_hh

_NO_MASKS = 0.0, 0.0
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
    return beside(constant_here(_array_of_zeros(size, like.dtype)), like)


@functools.lru_cache(64)
def _array_of_zeros(size: int, dtype: Any) -> Array:
    """The one that all states of this size start from."""
    array = np.zeros(size, dtype)
    array.flags.writeable = False
    return array


def zero_state(weight_hh: Parameter) -> Expr:
    """The state of zeros that a recurrent weight (gates, hidden_size) starts from."""
    return _zeros(weight_hh.shape[-1], weight_hh)


def checked_pair(owner: Module, state: Any, size: int, dtype: Any) -> State:
    """``h`` and ``c`` of one state as expressions of this dtype. Raises `ShapeError` for what is no pair, and for a
    memory of another size beside a state of this one: it would be broadcast. The products check the rest."""
    is_stack = isinstance(state, Expr | np.ndarray) and state.shape[:1] == (2,) and len(state.shape) > 1
    parts = list(state) if is_stack or isinstance(state, tuple | list) else []
    found = [in_dtype(part, dtype) for part in parts if part is not None] if len(parts) == 2 else []
    if len(found) != 2 or _shape(found[0]) is None or (_shape(found[0]) == (size,) != _shape(found[1])):
        raise ShapeError(
            f"{type(owner).__name__}: a state is a pair (h, c) of vectors of {size}, got {_in_words(state)}"
        )
    return found[0], found[1]


def _shape(value: Any) -> Shape | None:
    return value.shape if isinstance(value, Expr | np.ndarray) else None


def _in_words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(_in_words, value))}"
    shape = _shape(value)
    return value.__class__.__name__ if shape is None else f"shape {shape}"


def _lstm_step(owner: Module, gates: Expr, c: Expr) -> State:
    i, f, g, o = split_gates(owner, gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru_step(owner: Module, from_x: Expr, from_h: Expr, h: Any) -> Expr:
    (rx, zx, nx), (rh, zh, nh) = split_gates(owner, from_x, 3), split_gates(owner, from_h, 3)
    n = tanh(nx + sigmoid(rx + rh) * nh)
    return add(n, multiply(sigmoid(zx + zh), in_dtype(h, n.dtype) - n))


def _checked_pair(owner: str, p: Any) -> tuple[float, float]:
    """One probability for inputs and one for states; a single one is both."""
    pair = tuple(p) if isinstance(p, tuple | list) else (p, p)
    if len(pair) != 2:
        raise ValueError(f"{owner}: variational_dropout is a probability or two, for inputs and states; got {p!r}")
    return checked_probability(owner, pair[0]), checked_probability(owner, pair[1])


def _checked_nonlinearity(owner: str, nonlinearity: str) -> str:
    if nonlinearity not in _NONLINEARITIES:
        raise ValueError(f"{owner}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return nonlinearity


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
        return affine(self.weight_ih, self.bias_ih, x), affine(self.weight_hh, self.bias_hh, h)

    def _start(self) -> Expr:
        return zero_state(self.weight_hh)

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
        _checked_nonlinearity("RNNCell", nonlinearity)
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
        weight = self.weight_hh
        zero = zero_state(weight)
        h, c = (zero, zero) if state is None else checked_pair(self, state, weight.shape[-1], weight.dtype)
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
        return _gru_step(self, from_x, from_h, h)


class LSTMState(tuple[Any, ...]):
    """The final ``(h, c)`` of one layer in one direction of an `LSTM`. It is unpacked, and not taken for PyTorch's h_n,
    whose entries are layers: another use raises ``TypeError``.

    >>> states = [LSTMState("h0", "c0"), LSTMState("h1", "c1")]
    >>> h, c = states[-1]
    """

    __slots__ = ()
    note = (
        "the final states of an LSTM are a list with one pair (h, c) for each layer and direction, as in outputs, "
        "[(h0, c0), (h1, c1)] = lstm(xs), and not PyTorch's pair (h_n, c_n); the last layer's h is states[-1][0]"
    )

    def __new__(cls, h: Any, c: Any) -> LSTMState:
        return super().__new__(cls, (h, c))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and key >= 0:
            return tuple.__getitem__(self, key)
        raise TypeError(self.note)

    def __getattr__(self, name: str) -> Any:
        if hasattr(Expr, name) and not name.startswith("__"):
            raise TypeError(self.note)
        raise AttributeError(f"LSTMState has no attribute {name!r}")


class LayerStates(list[Any]):
    """The final states of a recurrent layer: a list with one for each layer and direction. To unpack it into another
    number of names raises ``ValueError`` that says so, and to repeat it, as if it were a vector, ``TypeError``.

    >>> h, c = LayerStates([("h0", "c0")])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the final states are a list with one for each layer and direction, 1 here: ...; got 2 names for it
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        names = _names_unpacked_into(sys._getframe(1))
        if names not in (None, len(self)):
            raise ValueError(f"{self._convention()}; got {names} names for it")
        return list.__iter__(self)

    def _convention(self) -> str:
        return (
            f"the final states are a list with one for each layer and direction, {len(self)} here: "
            "outputs, [(h, c)] = lstm(xs) or outputs, [h] = gru(xs)"
        )

    def __mul__(self, other: Any) -> Any:
        raise TypeError(self._convention())

    __rmul__ = __mul__


def _names_unpacked_into(frame: FrameType) -> int | None:
    """Into how many names a frame is unpacking something at this moment, None if it does something else."""
    code, place = _instructions(frame.f_code), frame.f_lasti
    return code[place + 1] if place >= 0 and code[place] == _UNPACK else None


def _instructions(code: CodeType) -> bytes:
    """Those of a function, which Python puts together anew whenever they are asked for."""
    known = _read.get(id(code))
    if known is None:
        if len(_read) >= MOST_READ:
            _read.clear()
        known = _read[id(code)] = code, code.co_code
    return known[1]


_UNPACK = opmap["UNPACK_SEQUENCE"]
_read: dict[int, tuple[CodeType, bytes]] = {}  # by id of the function's code, which is held as long
MOST_READ = 64


@functools.cache
def _suffix(layer: int, direction: str) -> str:
    """Of the names of a layer's parameters; the same text each time, which is found sooner."""
    return f"_l{layer}{direction}"


class _Recurrent(Module):
    """Layers of a cell over a list of vectors. A subclass says what one step is, and what a state."""

    gates = 1
    states = "states h"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        variational_dropout: float | tuple[float, float] = 0.0,
        stream: Stream | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size, self.hidden_size, self.num_layers = checked_sizes(
            name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        self.dropout, self.stream = checked_probability(name, dropout), stream
        self.variational_dropout = _checked_pair(name, variational_dropout)
        self.directions: tuple[str, ...] = ("", "_reverse") if bidirectional else ("",)
        for layer in range(self.num_layers):
            width = self.hidden_size * len(self.directions) if layer else self.input_size
            for direction in self.directions:
                self._assign_weights(_suffix(layer, direction), _new_weights(self.gates, width, self.hidden_size, bias))

    @property
    def bidirectional(self) -> bool:
        """Whether each layer reads the list from both ends."""
        return len(self.directions) > 1

    def _assign_weights(self, suffix: str, weights: Weights) -> None:
        for name, parameter in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
            setattr(self, name + suffix, parameter)

    def _weights(self, suffix: str) -> Weights:
        own = self.__dict__
        return own["weight_ih" + suffix], own["weight_hh" + suffix], own["bias_ih" + suffix], own["bias_hh" + suffix]

    def _start(self, zeros: Expr) -> Any:
        """The state of zeros."""
        return zeros

    def _hidden(self, states: list[Any]) -> list[Expr]:
        """What of the states goes out, and into the next step's product."""
        return states

    def _step(self, suffix: str, x: Any, state: Any, mask: Any = None) -> Any:
        """The next state of one layer in one direction: a cell. ``mask`` goes over the state in the product."""
        raise NotImplementedError

    def _products(self, suffix: str, x: Any, h: Any, mask: Any = None) -> tuple[Expr, Expr]:
        weight_ih, weight_hh, bias_ih, bias_hh = self._weights(suffix)
        return affine(weight_ih, bias_ih, x), affine(weight_hh, bias_hh, h if mask is None else masked(h, mask))

    def forward(self, xs: Any, state: Sequence[Any] | None = None) -> tuple[list[Expr], list[Any]]:
        """Outputs of the last layer for every step, and the final states of all layers."""
        if isinstance(xs, LSTMState):
            raise TypeError(xs.note)
        outputs = all_in_dtype(unstacked(xs) if isinstance(xs, Expr) else xs, self.__dict__["weight_ih_l0"].dtype)
        if not outputs:
            raise ShapeError(
                f"{type(self).__name__}: the list of inputs is empty; a sequence needs at least one vector"
            )
        starts = self._starts(state)
        finals = LayerStates()
        for layer in range(self.num_layers):
            if layer:
                outputs = [dropped(x, self.dropout, training=self.training, stream=self.stream) for x in outputs]
            outputs = self._layer(layer, outputs, starts, finals)
        return outputs, finals

    def _starts(self, state: Sequence[Any] | None) -> list[Any]:
        count = self.num_layers * len(self.directions)
        if state is None:
            return [self._start(_zeros(self.hidden_size, self.__dict__["weight_hh_l0"]))] * count
        is_list = isinstance(state, tuple | list) or len(getattr(state, "shape", ())) > 1
        if not is_list or len(state) != count:
            raise ShapeError(
                f"{type(self).__name__}: state must be a list of {count} {self.states}, one for each layer and "
                f"direction, got {len(state) if is_list else _in_words(state)}"
            )
        return [self._checked_state(s) for s in state]

    def _checked_state(self, state: Any) -> Any:
        """The state to start one layer from."""
        return state

    def _layer(self, layer: int, xs: list[Any], starts: list[Any], finals: list[Any]) -> list[Expr]:
        """Outputs of one layer, both directions joined; appends their final states."""
        found = []
        for direction in self.directions:
            backwards = bool(direction)
            hs, final = self._run(_suffix(layer, direction), xs[::-1] if backwards else xs, starts[len(finals)])
            finals.append(tuple.__new__(LSTMState, final) if isinstance(final, tuple) else final)
            found.append(hs[::-1] if backwards else hs)
        return found[0] if len(found) == 1 else concatenate_each(zip(*found, strict=True))

    def _run(self, suffix: str, xs: list[Any], state: Any) -> tuple[list[Expr], Any]:
        over_h = None
        if self.training and self.variational_dropout != _NO_MASKS:
            over_x, over_h = self._masks(xs[0])
            xs = xs if over_x is None else [x * over_x for x in xs]
        states = recurrence(self._step, (suffix,), xs, state, (over_h,))
        return self._hidden(states), states[-1]

    def _masks(self, x: Any) -> tuple[Expr | None, Expr | None]:
        """For one sequence the masks of variational dropout over its inputs and over its states."""
        p_x, p_h = self.variational_dropout
        first = constant(x)
        over_x = self._mask(p_x, first.shape, first.dtype) if p_x else None
        return over_x, self._mask(p_h, (self.hidden_size,), first.dtype) if p_h else None

    def _mask(self, p: float, shape: Shape, dtype: Any) -> Expr:
        return dropped(np.ones(shape, dtype), p, stream=self.stream)

    def extra_repr(self) -> str:
        layers = "" if self.num_layers == 1 else f", {self.num_layers}"
        bias = "" if self._weights("_l0")[2] is not None else ", bias=False"
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        if any(self.variational_dropout):
            dropout += f", variational_dropout={self.variational_dropout}"
        both = ", bidirectional=True" if self.bidirectional else ""
        return f"{self.input_size}, {self.hidden_size}{layers}{bias}{dropout}{both}"


class RNN(_Recurrent):
    """Layers of `RNNCell` over a list of vectors, one list an example; parameters as those of ``torch.nn.RNN``.

    Called with a list of t expressions (input_size,), it returns the t outputs of the last layer and the final h,
    (hidden_size,), of every layer. ``nonlinearity``: ``"tanh"`` or ``"relu"``. Options and errors as in `LSTM`.

    >>> import lazyflow as lf
    >>> outputs, [h] = lf.nn.RNN(2, 3)([lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])])
    >>> len(outputs), h.shape
    (2, (3,))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: str = "tanh", **options: Any
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.nonlinearity = _checked_nonlinearity("RNN", nonlinearity)

    @cell
    def _step(self, suffix: str, x: Any, state: Any, mask: Any = None) -> Expr:
        from_x, from_h = self._products(suffix, x, state, mask)
        return _NONLINEARITIES[self.nonlinearity](from_x + from_h)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class GRU(_Recurrent):
    """Layers of `GRUCell` over a list of vectors, one list an example; parameters as those of ``torch.nn.GRU``.

    Called with a list of t expressions (input_size,), it returns the t outputs of the last layer and the final h,
    (hidden_size,), of every layer. Options and errors as in `LSTM`.

    >>> import lazyflow as lf
    >>> outputs, [h] = lf.nn.GRU(2, 3)([lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])])
    >>> len(outputs), h.shape
    (2, (3,))
    """

    gates = 3

    @cell
    def _step(self, suffix: str, x: Any, state: Any, mask: Any = None) -> Expr:
        return _gru_step(self, *self._products(suffix, x, state, mask), state)


class LSTM(_Recurrent):
    """Layers of `LSTMCell` over a list of vectors, one list an example; parameters as those of ``torch.nn.LSTM``.

    ``dropout``: applied, while training, to the outputs of every layer but the last. Called with a list of t
    expressions (input_size,) it returns the t outputs of the last layer, (hidden_size,) each, and the final ``(h, c)``
    of every layer. ``state``: what to start from, in that form; zeros where it is None. ``bidirectional=True``: each
    layer reads the list from both ends (Graves and Schmidhuber 2005); its outputs are ``[forward; backward]``, (2 *
    hidden_size,), and the states are in the order layer 0 forward, layer 0 backward, layer 1 forward, and so on.
    ``variational_dropout``: a probability, or one for inputs and one for states. While training, each layer drops the
    same elements of its inputs, and the same of the states that enter its products, at all steps of a sequence; the
    masks are drawn at each call (Gal and Ghahramani 2016).
    Raises ``ValueError`` for a size below 1 or ``dropout`` outside [0, 1), `ShapeError` for an empty list or vectors
    of another size.

    >>> import lazyflow as lf
    >>> words = [lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0]), lf.constant([5.0, 6.0])]
    >>> outputs, [(h, c)] = lf.nn.LSTM(2, 3)(words)
    >>> len(outputs), outputs[0].shape, h.shape
    (3, (3,), (3,))
    """

    gates = 4
    states = "pairs (h, c)"

    def _start(self, zeros: Expr) -> State:
        return zeros, zeros

    def _checked_state(self, state: Any) -> State:
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise ShapeError(
                f"{type(self).__name__}: a state is a list with one pair (h, c) for each layer and direction, got "
                f"{state!r:.60} as one; PyTorch's (h_n, c_n) is list(zip(h_n, c_n))"
            )
        return state[0], state[1]

    def _hidden(self, states: list[State]) -> list[Expr]:
        return [h for h, _ in states]

    @cell
    def _step(self, suffix: str, x: Any, state: State, mask: Any = None) -> State:
        weight = self._weights(suffix)[1]
        h, c = checked_pair(self, state, weight.shape[-1], weight.dtype)
        from_x, from_h = self._products(suffix, x, h, mask)
        return _lstm_step(self, from_x + from_h, c)


class BiLSTM(LSTM):
    """An `LSTM` with ``bidirectional=True``.

    >>> import lazyflow as lf
    >>> outputs, states = lf.nn.BiLSTM(2, 3)([lf.constant([1.0, 2.0]), lf.constant([3.0, 4.0])])
    >>> outputs[0].shape, len(states)
    ((6,), 2)
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__(input_size, hidden_size, num_layers, bidirectional=True, **options)

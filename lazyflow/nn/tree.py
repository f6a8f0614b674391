"""Tree-LSTM cells (Tai, Socher and Manning 2015): from the states of a node's children to its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow.cells.cell import cell
from lazyflow.functions.elementwise import sigmoid, tanh
from lazyflow.functions.reduce import sum as summed
from lazyflow.functions.shape import concatenate
from lazyflow.nn.linear import Linear
from lazyflow.nn.module import Module, checked_sizes
from lazyflow.nn.recurrent import checked_pair, split_gates
from lazyflow.record.expr import Expr, beside, constant

__all__ = ["BinaryTreeLSTMCell", "ChildSumTreeLSTMCell", "NaryTreeLSTMCell"]

State = tuple[Expr, Expr]


class BinaryTreeLSTMCell(Module):
    """A Tree-LSTM for binary trees with inputs at the leaves: the N-ary cell of Tai et al. 2015 with N = 2.

    Leaves and inner nodes have weights of their own, ``leaf_gates``, a `Linear` (input_size, 3 hidden_size), and
    ``inner_gates``, one (2 hidden_size, 5 hidden_size)::

        i, o, u = leaf_gates(x)
        c = sigmoid(i) * tanh(u)
        h = sigmoid(o) * tanh(c)

        i, fl, fr, o, u = inner_gates([hl; hr])
        c = sigmoid(i) * tanh(u) + sigmoid(fl) * cl + sigmoid(fr) * cr
        h = sigmoid(o) * tanh(c)

    ``forget_bias`` is added to the initial biases of fl and fr. Raises ``ValueError`` for a size below 1, `ShapeError`
    for operands of other sizes.

    >>> import lazyflow as lf
    >>> cell = lf.nn.BinaryTreeLSTMCell(2, 3)
    >>> left, right = cell.leaf(lf.constant([1.0, 2.0])), cell.leaf(lf.constant([3.0, 4.0]))
    >>> h, c = cell(left, right)
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes(
            "BinaryTreeLSTMCell", input_size=input_size, hidden_size=hidden_size
        )
        self.leaf_gates = Linear(self.input_size, 3 * self.hidden_size)
        self.inner_gates = Linear(2 * self.hidden_size, 5 * self.hidden_size)
        _raise_biases(self.inner_gates, (0.0, forget_bias, forget_bias, 0.0, 0.0))

    @cell
    def leaf(self, x: Any) -> State:
        """State ``(h, c)``, each (hidden_size,), of a leaf with input ``x`` (input_size,)."""
        i, o, u = split_gates(self, self.leaf_gates(x), 3)
        c = sigmoid(i) * tanh(u)
        return sigmoid(o) * tanh(c), c

    @cell
    def forward(self, left: tuple[Any, Any], right: tuple[Any, Any]) -> State:
        """State ``(h, c)`` of an inner node from those of its children."""
        (hl, cl), (hr, cr) = _states(self, self.inner_gates, [left, right])
        i, fl, fr, o, u = split_gates(self, self.inner_gates(concatenate([hl, hr])), 5)
        c = sigmoid(i) * tanh(u) + sigmoid(fl) * cl + sigmoid(fr) * cr
        return sigmoid(o) * tanh(c), c


class ChildSumTreeLSTMCell(Module):
    """A Tree-LSTM for nodes with an input and any number of children in any order (Tai et al. 2015, eq. 2-8).

    ``input_gates`` is a `Linear` (input_size, 4 hidden_size), ``hidden_gates`` one (hidden_size, 3 hidden_size) and
    ``forget_gate`` one (hidden_size, hidden_size), these two without bias. With the children's states ``(h_k, c_k)``::

        i, o, u = input_gates(x)[:3 hidden_size] + hidden_gates(sum_k h_k)
        f_k     = input_gates(x)[3 hidden_size:] + forget_gate(h_k)
        c = sigmoid(i) * tanh(u) + sum_k sigmoid(f_k) * c_k
        h = sigmoid(o) * tanh(c)

    ``forget_bias`` is added to the initial bias of f. Raises ``ValueError`` for a size below 1, `ShapeError` for
    operands of other sizes.

    >>> import lazyflow as lf
    >>> cell = lf.nn.ChildSumTreeLSTMCell(2, 3)
    >>> x = lf.constant([1.0, 2.0])
    >>> h, c = cell(x, [cell(x), cell(x), cell(x)])
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes(
            "ChildSumTreeLSTMCell", input_size=input_size, hidden_size=hidden_size
        )
        self.input_gates = Linear(self.input_size, 4 * self.hidden_size)
        self.hidden_gates = Linear(self.hidden_size, 3 * self.hidden_size, bias=False)
        self.forget_gate = Linear(self.hidden_size, self.hidden_size, bias=False)
        _raise_biases(self.input_gates, (0.0, 0.0, 0.0, forget_bias))

    @cell
    def forward(self, x: Any, children: Sequence[tuple[Any, Any]] = ()) -> State:
        """State ``(h, c)``, each (hidden_size,), of a node from its input ``x`` (input_size,) and its children's."""
        i, o, u, f = split_gates(self, self.input_gates(x), 4)
        if not children:
            c = sigmoid(i) * tanh(u)
            return sigmoid(o) * tanh(c), c
        states = _states(self, self.hidden_gates, children)
        si, so, su = split_gates(self, self.hidden_gates(_sum([h for h, _ in states])), 3)
        kept = [sigmoid(f + self.forget_gate(h)) * c for h, c in states]
        c = sigmoid(i + si) * tanh(u + su) + _sum(kept)
        return sigmoid(o + so) * tanh(c), c


class NaryTreeLSTMCell(Module):
    """A Tree-LSTM for nodes with an input and up to ``n`` children, in order (Tai et al. 2015, eq. 9-14).

    ``input_gates`` is a `Linear` (input_size, 4 hidden_size), ``hidden_gates`` one (n hidden_size, (3 + n)
    hidden_size), without bias, over the children's h below each other, zeros for those that are not there. With the
    children's states ``(h_k, c_k)``::

        i, o, u = input_gates(x)[:3 hidden_size] + hidden_gates([h_1; ...; h_n])[:3 hidden_size]
        f_k     = input_gates(x)[3 hidden_size:] + hidden_gates([h_1; ...; h_n])[(2 + k) hidden_size:][:hidden_size]
        c = sigmoid(i) * tanh(u) + sum_k sigmoid(f_k) * c_k
        h = sigmoid(o) * tanh(c)

    ``forget_bias`` is added to the initial bias of f. Raises ``ValueError`` for a size below 1 and more than ``n``
    children, `ShapeError` for operands of other sizes.

    >>> import lazyflow as lf
    >>> cell, x = lf.nn.NaryTreeLSTMCell(2, 3, n=2), lf.constant([1.0, 2.0])
    >>> h, c = cell(x, [cell(x), cell(x, [None, cell(x)])])
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    def __init__(self, input_size: int, hidden_size: int, n: int = 2, *, forget_bias: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.n = checked_sizes(
            "NaryTreeLSTMCell", input_size=input_size, hidden_size=hidden_size, n=n
        )
        self.input_gates = Linear(self.input_size, 4 * self.hidden_size)
        self.hidden_gates = Linear(self.n * self.hidden_size, (3 + self.n) * self.hidden_size, bias=False)
        _raise_biases(self.input_gates, (0.0, 0.0, 0.0, forget_bias))

    def forward(self, x: Any, children: Sequence[tuple[Any, Any] | None] = ()) -> State:
        """State ``(h, c)``, each (hidden_size,), of a node from its input and its children's; None for a missing
        one."""
        if len(children) > self.n:
            raise ValueError(f"NaryTreeLSTMCell: a node has at most n={self.n} children, got {len(children)}")
        present = [(k, child) for k, child in enumerate(children) if child is not None]
        if not present:
            return self._leaf(x)
        return self._node(x, [child for _, child in present], tuple(k for k, _ in present))

    @cell
    def _leaf(self, x: Any) -> State:
        i, o, u, _ = split_gates(self, self.input_gates(x), 4)
        c = sigmoid(i) * tanh(u)
        return sigmoid(o) * tanh(c), c

    @cell
    def _node(self, x: Any, children: Sequence[tuple[Any, Any]], places: tuple[int, ...]) -> State:
        i, o, u, f = split_gates(self, self.input_gates(x), 4)
        states = dict(zip(places, _states(self, self.hidden_gates, children), strict=True))
        weight = self.hidden_gates.weight
        zero = beside(constant(np.zeros(self.hidden_size, weight.dtype)), weight)
        below = concatenate([states[k][0] if k in states else zero for k in range(self.n)])
        si, so, su, *forget = split_gates(self, self.hidden_gates(below), 3 + self.n)
        kept = [sigmoid(f + forget[k]) * c for k, (_, c) in states.items()]
        c = sigmoid(i + si) * tanh(u + su) + _sum(kept)
        return sigmoid(o + so) * tanh(c), c


def _states(owner: Any, gates: Linear, states: Sequence[tuple[Any, Any]]) -> list[State]:
    """States in the dtype of the layer that they go into."""
    return [checked_pair(owner, state, owner.hidden_size, gates.weight.dtype) for state in states]


def _raise_biases(gates: Linear, amounts: Sequence[float]) -> None:
    """Add ``amounts`` to the biases of a layer's equal parts."""
    if gates.bias is not None:
        gates.bias.assign(gates.bias.numpy() + np.repeat(amounts, gates.bias.size // len(amounts)))


def _sum(terms: list[Any]) -> Any:
    return terms[0] if len(terms) == 1 else summed(terms)

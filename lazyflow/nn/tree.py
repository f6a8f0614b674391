"""Tree-LSTM cells (Tai, Socher and Manning 2015): from the states of a node's children to its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow.errors import ShapeError
from lazyflow.expr import Expr
from lazyflow.functions.elementwise import sigmoid, tanh
from lazyflow.functions.linalg import matmul
from lazyflow.functions.reduce import sum as summed
from lazyflow.functions.shape import concatenate, split
from lazyflow.nn.linear import Linear
from lazyflow.nn.module import Module, checked_sizes

__all__ = ["BinaryTreeLSTMCell", "ChildSumTreeLSTMCell"]

State = tuple[Expr, Expr]


def _gates(owner: str, values: Expr, count: int) -> list[Expr]:
    if len(values.type.shape) != 1:
        raise ShapeError(f"{owner} takes the vectors of one node; the gates have shape {values.shape}, so an operand had more axes")
    return split(values, count)


class BinaryTreeLSTMCell(Module):
    """A Tree-LSTM for binary trees with inputs at the leaves (the N-ary cell of Tai et al. 2015, N = 2, without inner inputs).

    A leaf: ``i, o, u = leaf_gates(x)``, ``c = sigmoid(i) * tanh(u)``, ``h = sigmoid(o) * tanh(c)``.
    An inner node: ``i, fl, fr, o, u = inner_gates([hl; hr])``, ``c = sigmoid(i) * tanh(u) + sigmoid(fl) * cl + sigmoid(fr) * cr``, and
    ``h`` as above. ``leaf_gates`` is a `Linear` (input_size, 3 hidden_size), ``inner_gates`` one (2 hidden_size, 5 hidden_size).
    ``forget_bias`` is added to the initial biases of fl and fr. Raises ``ValueError`` for a size below 1, `ShapeError` for
    operands of other sizes.

    >>> import lazyflow as lf
    >>> cell = lf.nn.BinaryTreeLSTMCell(2, 3)
    >>> left, right = cell.leaf(lf.constant([1.0, 2.0])), cell.leaf(lf.constant([3.0, 4.0]))
    >>> h, c = cell(left, right)
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes("BinaryTreeLSTMCell", input_size=input_size, hidden_size=hidden_size)
        self.leaf_gates = Linear(self.input_size, 3 * self.hidden_size)
        self.inner_gates = Linear(2 * self.hidden_size, 5 * self.hidden_size)
        if forget_bias:
            forgets = np.repeat([0.0, forget_bias, forget_bias, 0.0, 0.0], self.hidden_size)
            bias = self.inner_gates.bias
            assert bias is not None
            bias.assign(bias.numpy() + forgets)

    def leaf(self, x: Any) -> State:
        """State ``(h, c)``, each (hidden_size,), of a leaf with input ``x`` (input_size,)."""
        i, o, u = _gates("BinaryTreeLSTMCell.leaf", self.leaf_gates(x), 3)
        c = sigmoid(i) * tanh(u)
        return sigmoid(o) * tanh(c), c

    def forward(self, left: tuple[Any, Any], right: tuple[Any, Any]) -> State:
        """State ``(h, c)`` of an inner node from those of its children."""
        (hl, cl), (hr, cr) = left, right
        i, fl, fr, o, u = _gates("BinaryTreeLSTMCell", self.inner_gates(concatenate([hl, hr])), 5)
        c = sigmoid(i) * tanh(u) + sigmoid(fl) * cl + sigmoid(fr) * cr
        return sigmoid(o) * tanh(c), c


class ChildSumTreeLSTMCell(Module):
    """A Tree-LSTM for nodes with an input and any number of children, whose order does not matter (Tai et al. 2015, eq. 2-8).

    With ``i, o, u, f = input_gates(x)``, a `Linear` (input_size, 4 hidden_size), and the sum ``s`` of the children's ``h``:
    ``i, o, u`` have the three parts of ``hidden_gates(s)`` added, a `Linear` (hidden_size, 3 hidden_size) without bias; child k
    has a gate of its own, ``f_k = sigmoid(f + forget_gate(h_k))``, with a `Linear` (hidden_size, hidden_size) without bias.
    ``c = sigmoid(i) * tanh(u) + sum_k f_k * c_k``, ``h = sigmoid(o) * tanh(c)``. ``forget_bias`` is added to the initial bias of f.
    Raises ``ValueError`` for a size below 1, `ShapeError` for operands of other sizes.

    >>> import lazyflow as lf
    >>> cell = lf.nn.ChildSumTreeLSTMCell(2, 3)
    >>> x = lf.constant([1.0, 2.0])
    >>> h, c = cell(x, [cell(x), cell(x), cell(x)])
    >>> h.shape, c.shape
    ((3,), (3,))
    """

    def __init__(self, input_size: int, hidden_size: int, *, forget_bias: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size = checked_sizes("ChildSumTreeLSTMCell", input_size=input_size, hidden_size=hidden_size)
        self.input_gates = Linear(self.input_size, 4 * self.hidden_size)
        self.hidden_gates = Linear(self.hidden_size, 3 * self.hidden_size, bias=False)
        self.forget_gate = Linear(self.hidden_size, self.hidden_size, bias=False)
        if forget_bias:
            bias = self.input_gates.bias
            assert bias is not None
            bias.assign(bias.numpy() + np.repeat([0.0, 0.0, 0.0, forget_bias], self.hidden_size))

    def forward(self, x: Any, children: Sequence[tuple[Any, Any]] = ()) -> State:
        """State ``(h, c)``, each (hidden_size,), of a node with input ``x`` (input_size,) and the states of its children."""
        i, o, u, f = _gates("ChildSumTreeLSTMCell", self.input_gates(x), 4)
        if not children:
            c = sigmoid(i) * tanh(u)
            return sigmoid(o) * tanh(c), c
        hs = [h for h, _ in children]
        # The weight stands alone in these two products, without a function call in between: there is one for every child.
        si, so, su = split(matmul(self.hidden_gates.weight, _sum(hs)), 3)
        kept = [sigmoid(f + matmul(self.forget_gate.weight, h)) * c for h, c in children]
        c = sigmoid(i + si) * tanh(u + su) + _sum(kept)
        return sigmoid(o + so) * tanh(c), c


def _sum(terms: list[Any]) -> Any:
    return terms[0] if len(terms) == 1 else summed(terms)

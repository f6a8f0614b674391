"""Layers over the nodes of one example's graph, of any size, and what makes one vector of all of them.

Names, parameters and initial values are those of PyTorch Geometric. A graph is its nodes' values ``x`` (n, ...) and
``edge_index`` (2, m): of each edge the node that it leads from and the one that it leads to. Messages go along edges;
for both directions give both. There is no batch axis: graphs of all sizes share launches (see `segment_sum`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from lazyflow.errors import ShapeError, counted
from lazyflow.functions.elementwise import leaky_relu, tanh, where
from lazyflow.functions.index import take
from lazyflow.functions.linalg import matmul
from lazyflow.functions.random import dropout as dropped
from lazyflow.functions.reduce import mean, softmax, sum
from lazyflow.functions.segment import segment_max, segment_mean, segment_softmax, segment_sum
from lazyflow.nn import init
from lazyflow.nn.linear import Linear
from lazyflow.nn.module import Module, checked_probability, checked_sizes, new_parameter
from lazyflow.ops.base import number, require_integer
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, Parameter, as_floating, checked_range, constant, in_dtype, index_array

__all__ = ["AttentionPooling", "GATConv", "GCNConv", "GINConv", "GraphConv"]


class _Edges(NamedTuple):
    """Of each edge the nodes that it leads from and to, and how many nodes there are."""

    source: Any
    target: Any
    n: int

    def without_loops(self) -> _Edges:
        """Those between two nodes."""
        others = self.source != self.target
        return _Edges(self.source[others], self.target[others], self.n)

    def with_loops(self) -> _Edges:
        """With an edge from every node to itself in place of those that were there, behind all others."""
        source, target, n = self.without_loops()
        own = np.arange(n)
        return _Edges(np.concatenate([source, own]), np.concatenate([target, own]), n)


def _edges(owner: Module, x: Expr, edge_index: Any, size: int) -> _Edges:
    name = type(owner).__name__
    if x.ndim != 2 or x.shape[1] != size:
        batch = "" if x.ndim < 3 else "; there is no batch axis: call it for each graph, and the calls share launches"
        raise ShapeError(f"{name}: x is the nodes of one graph (n, {size}), got shape {x.shape}{batch}")
    if isinstance(edge_index, Expr):
        raise TypeError(f"{name}: edge_index must be an array or a list of integers, not an expression")
    ends = index_array(edge_index)
    if ends.shape in ((0,), (2, 0)):  # of a graph of one node, of whatever dtype
        ends = np.empty((2, 0), np.int64)
    if ends.ndim != 2 or len(ends) != 2:
        raise ShapeError(
            f"{name}: edge_index is (2, m), sources and targets of m edges, got shape {ends.shape}; of a list of pairs "
            "that is np.transpose(pairs)"
        )
    require_integer(name, "an element of edge_index", ends)
    n = x.shape[0]
    checked_range(f"{name}: edge_index", ends, n, counted(n, "node"), 0)
    return _Edges(ends[0].astype(np.int64, copy=False), ends[1].astype(np.int64, copy=False), n)


def _edge_weight(owner: Module, edge_weight: Any, edges: _Edges, dtype: Any) -> Expr | None:
    """Weights (m,) as a column."""
    if edge_weight is None:
        return None
    weight = in_dtype(edge_weight, dtype)
    if weight.shape != edges.source.shape:
        raise ShapeError(
            f"{type(owner).__name__}: edge_weight must be {edges.source.shape}, a number for each edge, got shape "
            f"{weight.shape}"
        )
    column: Expr = weight.reshape(-1, 1)
    return column


def _largest(values: Expr, target: Any, n: int) -> Expr:
    """Of each segment the largest elements, zero where it has none, as in PyTorch Geometric."""
    alone = np.bincount(target, minlength=n) == 0
    return where(alone.reshape(-1, 1), 0.0, segment_max(values, target, n))


_AGGREGATIONS = {"add": segment_sum, "mean": segment_mean, "max": _largest}


class GCNConv(Module):
    """The graph convolution of Kipf and Welling (2017): ``D^-1/2 (A + I) D^-1/2 x weight.T + bias``.

    Called with ``x`` (n, in_channels), the nodes of one graph, and ``edge_index`` (2, m), integers, it returns
    (n, out_channels). ``edge_index[0]`` are the nodes that edges lead from, ``edge_index[1]`` those that they lead to;
    an edge for both directions is given twice, and ``[]`` is no edges. The self-loops of I are added by the layer.
    ``edge_weight`` (m,): numbers in place of ones in A. A node with edges to itself has their weight in place of that
    of I. Parameters are ``lin.weight`` (out_channels, in_channels) and ``bias``. Raises ``IndexError``, at the line of
    the call, for an edge to a node that is not there, `DTypeError` for an ``edge_index`` that is not of integers,
    ``TypeError`` for one that is an expression, `ShapeError` for operands of other sizes.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> x = lf.constant(np.ones((3, 4), np.float32))
    >>> lf.nn.GCNConv(4, 2)(x, [[0, 1, 1, 2], [1, 0, 2, 1]]).shape
    (3, 2)
    """

    bias: Parameter | None

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels = checked_sizes(
            "GCNConv", in_channels=in_channels, out_channels=out_channels
        )
        self.lin = Linear(self.in_channels, self.out_channels, bias=False)
        self.bias = new_parameter(self.out_channels) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        init.xavier_uniform_(self.lin.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Any, edge_index: Any, edge_weight: Any = None) -> Expr:
        """The nodes, one layer further."""
        x = as_floating(x, self.lin.weight)
        edges = _edges(self, x, edge_index, self.in_channels)
        weight, own = self._weights(edges, edge_weight, x.dtype)
        others = edges.without_loops()
        degree = own + segment_sum(weight, others.target, edges.n)
        root = where(degree > 0, where(degree > 0, degree, 1.0) ** -0.5, 0.0)
        h = self.lin(x)
        messages = take(h, others.source) * (take(root, others.source) * weight * take(root, others.target))
        y = segment_sum(messages, others.target, edges.n) + h * (root * own * root)
        return y if self.bias is None else y + self.bias

    def _weights(self, edges: _Edges, edge_weight: Any, dtype: Any) -> tuple[Expr, Expr]:
        """Those of edges between two nodes, and of each node to itself, as columns."""
        ones, loops = np.ones((edges.n, 1), dtype), np.flatnonzero(edges.source == edges.target)
        weight = _edge_weight(self, edge_weight, edges, dtype)
        if weight is None:
            return constant(np.ones((len(edges.source) - len(loops), 1), dtype)), constant(ones)
        between = take(weight, np.flatnonzero(edges.source != edges.target))
        if not len(loops):
            return between, constant(ones)
        nodes = edges.source[loops]
        ones[nodes] = 0
        return between, segment_sum(take(weight, loops), nodes, edges.n) + ones

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}" + ("" if self.bias is not None else ", bias=False")


class GraphConv(Module):
    """``lin_root(x) + lin_rel(aggregate of the neighbours' x)`` (Morris et al. 2019).

    Called with ``x`` (n, in_channels) and ``edge_index`` (2, m), it returns (n, out_channels). ``edge_weight`` (m,)
    multiplies messages. ``aggr``: ``"add"``, ``"mean"`` or ``"max"`` over the edges that lead into a node, zero where
    there are none. Errors as in `GCNConv`.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> x = lf.constant(np.ones((3, 4), np.float32))
    >>> lf.nn.GraphConv(4, 2)(x, [[0, 1], [1, 2]]).shape
    (3, 2)
    """

    def __init__(self, in_channels: int, out_channels: int, aggr: str = "add", bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels = checked_sizes(
            "GraphConv", in_channels=in_channels, out_channels=out_channels
        )
        if aggr not in _AGGREGATIONS:
            raise ValueError(f"GraphConv: aggr must be {', '.join(_AGGREGATIONS)}, got {aggr!r}")
        self.aggr = aggr
        self.lin_rel = Linear(self.in_channels, self.out_channels, bias)
        self.lin_root = Linear(self.in_channels, self.out_channels, bias=False)

    def forward(self, x: Any, edge_index: Any, edge_weight: Any = None) -> Expr:
        """The nodes, one layer further."""
        x = as_floating(x, self.lin_root.weight)
        edges = _edges(self, x, edge_index, self.in_channels)
        weight = _edge_weight(self, edge_weight, edges, x.dtype)
        messages = take(x, edges.source)
        messages = messages if weight is None else messages * weight
        gathered = _AGGREGATIONS[self.aggr](messages, edges.target, edges.n)
        y: Expr = self.lin_rel(gathered) + self.lin_root(x)
        return y

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}" + ("" if self.aggr == "add" else f", aggr={self.aggr!r}")


class GINConv(Module):
    """``nn((1 + eps) x + sum of the neighbours' x)``, the graph isomorphism network's layer (Xu et al. 2019).

    ``nn``: a module or function of (n, ...). ``train_eps``: ``eps`` is a parameter. Called with ``x`` (n, d) and
    ``edge_index`` (2, m). Errors as in `GCNConv`.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> layer = lf.nn.GINConv(lf.nn.Sequential(lf.nn.Linear(4, 8), lf.nn.ReLU(), lf.nn.Linear(8, 2)))
    >>> layer(lf.constant(np.ones((3, 4), np.float32)), [[0, 1], [1, 2]]).shape
    (3, 2)
    """

    eps: Any

    def __init__(self, nn: Any, eps: float = 0.0, train_eps: bool = False) -> None:
        super().__init__()
        if not callable(nn):
            raise TypeError(f"GINConv: nn must be a module or a function, got {nn!r}")
        self.nn = nn
        eps = number("GINConv", "eps", eps)
        self.eps = init.constant_(new_parameter(1), eps) if train_eps else eps

    def forward(self, x: Any, edge_index: Any) -> Expr:
        """The nodes, one layer further."""
        x = as_floating(x)
        edges = _edges(self, x, edge_index, x.shape[-1] if x.ndim else 0)
        gathered = segment_sum(take(x, edges.source), edges.target, edges.n)
        y: Expr = self.nn(x * (self.eps + 1.0) + gathered)
        return y

    def extra_repr(self) -> str:
        return "train_eps=True" if isinstance(self.eps, Parameter) else f"eps={self.eps}"


class GATConv(Module):
    """Attention over the edges that lead into a node, and one from itself (Velickovic et al. 2018).

    With ``h = lin(x)`` by ``heads``, edge ``j -> i`` has the score ``leaky_relu(att_src h_j + att_dst h_i)``; its
    softmax over the edges into ``i`` weighs ``h_j``. Called with ``x`` (n, in_channels) and ``edge_index`` (2, m), it
    returns (n, heads * out_channels), or (n, out_channels), the mean over heads, with ``concat=False``. ``dropout``:
    of the weights, while training. Parameters: ``lin.weight``, ``att_src`` and ``att_dst`` (1, heads, out_channels),
    ``bias``. Errors as in `GCNConv`.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> x = lf.constant(np.ones((3, 4), np.float32))
    >>> lf.nn.GATConv(4, 2, heads=3)(x, [[0, 1, 1, 2], [1, 0, 2, 1]]).shape
    (3, 6)
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        bias: bool = True,
        *,
        stream: Stream | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.heads = checked_sizes(
            "GATConv", in_channels=in_channels, out_channels=out_channels, heads=heads
        )
        self.concat, self.negative_slope = bool(concat), number("GATConv", "negative_slope", negative_slope)
        self.add_self_loops, self.stream = bool(add_self_loops), stream
        self.dropout = checked_probability("GATConv", dropout)
        self.lin = Linear(self.in_channels, self.heads * self.out_channels, bias=False)
        self.att_src, self.att_dst = (new_parameter(1, self.heads, self.out_channels) for _ in range(2))
        self.bias = (
            new_parameter(self.heads * self.out_channels if self.concat else self.out_channels) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        init.xavier_uniform_(self.lin.weight)
        bound = math.sqrt(6.0 / (self.heads + self.out_channels))
        init.uniform_(self.att_src, -bound, bound)
        init.uniform_(self.att_dst, -bound, bound)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Any, edge_index: Any) -> Expr:
        """The nodes, one layer further."""
        x = as_floating(x, self.lin.weight)
        edges = _edges(self, x, edge_index, self.in_channels)
        edges = edges.with_loops() if self.add_self_loops else edges
        h = self.lin(x).reshape(edges.n, self.heads, self.out_channels)
        by_source, by_target = sum(h * self.att_src, axis=-1), sum(h * self.att_dst, axis=-1)  # (n, heads)
        scores = take(by_source, edges.source) + take(by_target, edges.target)
        weights = segment_softmax(leaky_relu(scores, self.negative_slope), edges.target, edges.n)
        weights = dropped(weights, self.dropout, training=self.training, stream=self.stream)
        messages = take(h, edges.source) * weights.reshape(-1, self.heads, 1)
        y = segment_sum(messages, edges.target, edges.n)
        y = y.reshape(edges.n, self.heads * self.out_channels) if self.concat else mean(y, axis=1)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        options = {"heads": 1, "concat": True, "negative_slope": 0.2, "dropout": 0.0, "add_self_loops": True}
        said = "".join(f", {k}={getattr(self, k)}" for k, usual in options.items() if getattr(self, k) != usual)
        return f"{self.in_channels}, {self.out_channels}{said}" + ("" if self.bias is not None else ", bias=False")


class AttentionPooling(Module):
    """One vector of a sequence, or of the nodes of a graph, ``x`` (n, size), of any n: a mean weighted by
    ``softmax(tanh(lin(x)) @ context)`` (Yang et al. 2016).

    ``hidden_size``: that of ``lin`` and ``context``, by default ``size``. Called with ``segments`` (n,) and ``n``, it
    returns (n, size), a vector for the rows of each segment, zeros where there are none. Raises `ShapeError` for rows
    of another size, or no rows.

    >>> import numpy as np
    >>> import lazyflow as lf
    >>> pool = lf.nn.AttentionPooling(4)
    >>> x = lf.constant(np.ones((5, 4), np.float32))
    >>> pool(x).shape, pool(x, [0, 0, 1, 1, 1], 2).shape
    ((4,), (2, 4))
    """

    def __init__(self, size: int, hidden_size: int | None = None) -> None:
        super().__init__()
        hidden_size = size if hidden_size is None else hidden_size
        self.size, self.hidden_size = checked_sizes("AttentionPooling", size=size, hidden_size=hidden_size)
        self.lin = Linear(self.size, self.hidden_size)
        self.context = new_parameter(self.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew."""
        self.lin.reset_parameters()
        bound = 1.0 / math.sqrt(self.hidden_size)
        init.uniform_(self.context, -bound, bound)

    def forward(self, x: Any, segments: Any = None, n: int | None = None) -> Expr:
        """The vector, or one for each segment."""
        x = as_floating(x, self.context)
        if x.ndim != 2 or x.shape[1] != self.size:
            raise ShapeError(f"AttentionPooling takes rows (n, {self.size}), got shape {x.shape}")
        scores = matmul(tanh(self.lin(x)), self.context)
        if segments is None:
            return matmul(softmax(scores), x)
        if n is None:
            raise TypeError("AttentionPooling: with segments say n, how many there are")
        return segment_sum(x * segment_softmax(scores, segments, n).reshape(-1, 1), segments, n)

    def extra_repr(self) -> str:
        return f"{self.size}" + ("" if self.hidden_size == self.size else f", {self.hidden_size}")

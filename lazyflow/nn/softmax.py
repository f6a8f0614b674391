"""Output layers over many classes: a softmax, or a tree of them.

A tree of softmaxes (Goodman 2001; Morin and Bengio 2005) costs the length of a path in place of the number of classes.
All weights of a tree are the rows of one table, and each inner node reads its own: so nodes with equally many children
run together, whatever the class, and only the rows on a path get gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow.device import HostArray
from lazyflow.functions.index import embedding, pick
from lazyflow.functions.linalg import matmul
from lazyflow.functions.loss import cross_entropy
from lazyflow.functions.random import categorical
from lazyflow.functions.reduce import log_softmax
from lazyflow.functions.reduce import sum as summed
from lazyflow.functions.shape import stack
from lazyflow.nn import init
from lazyflow.nn.linear import Linear
from lazyflow.nn.module import Module, checked_sizes, new_parameter
from lazyflow.nn.one_node import one_node
from lazyflow.random import Stream
from lazyflow.record.expr import Expr, as_floating, constant

__all__ = ["ClassFactoredSoftmax", "HierarchicalSoftmax", "SoftmaxOutput"]

Tree = Sequence[Any]  # of trees and classes


class SoftmaxOutput(Module):
    """A `Linear` ``layer`` from a vector (in_features,) to scores of classes, and their softmax.

    Called with a vector and a class it returns minus the class's log-probability. `log_prob` gives those of all
    classes, `sample` draws one. Raises ``ValueError`` for a size below 1, ``IndexError`` for a class out of range.

    >>> import lazyflow as lf
    >>> output, h = lf.nn.SoftmaxOutput(2, 5), lf.constant([1.0, 2.0])
    >>> output(h, 3).shape, output.log_prob(h).shape, 0 <= output.sample(h) < 5
    ((), (5,), True)
    """

    def __init__(self, in_features: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.num_classes = checked_sizes(
            "SoftmaxOutput", in_features=in_features, num_classes=num_classes
        )
        self.layer = Linear(self.in_features, self.num_classes, bias)

    def forward(self, h: Any, target: int) -> Expr:
        """Minus the log-probability of class ``target``."""
        is_one = type(target) is int and 0 <= target < self.num_classes
        return self._loss(constant(h), target) if is_one else cross_entropy(self.layer(h), target)

    @one_node
    def _loss(self, h: Expr, target: int) -> Expr:
        return cross_entropy(self.layer(h), target)

    def log_prob(self, h: Any) -> Expr:
        """The log-probabilities of all classes, (num_classes,)."""
        return self._log_prob(constant(h))

    @one_node
    def _log_prob(self, h: Expr) -> Expr:
        return log_softmax(self.layer(h))

    def sample(self, h: Any, *, stream: Stream | None = None) -> int:
        """A class, drawn with its probability: runs what it needs."""
        return int(categorical(self.layer(h), stream=stream).item())

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.num_classes}"


class _Node(NamedTuple):
    """An inner node of a tree: its row in the table for each child, and its children, classes or nodes."""

    rows: HostArray
    children: tuple[Any, ...]


class HierarchicalSoftmax(Module):
    """A tree with a softmax over the children of every inner node; the classes are its leaves.

    ``tree``: nested lists, with the classes 0 to n - 1, each once, as leaves: ``[[0, 1], [2, [3, 4]]]``. A class's
    probability is the product of those on its path. ``weight`` (edges, in_features) and ``bias`` (edges,) have a row
    for every edge, parents first and the edges of a node in a row; a node with one child needs none.

    Called with a vector (in_features,) and a class it returns minus the class's log-probability, of which only the
    path is computed. Raises ``ValueError`` for a tree that lacks a class or has one twice, or has a node without
    children, ``IndexError`` for a class out of range.

    >>> import lazyflow as lf
    >>> output, h = lf.nn.HierarchicalSoftmax(2, [[0, 1], [2, [3, 4]]]), lf.constant([1.0, 2.0])
    >>> output(h, 3).shape, output.log_prob(h).shape, 0 <= output.sample(h) < 5
    ((), (5,), True)
    """

    def __init__(self, in_features: int, tree: Tree, bias: bool = True) -> None:
        super().__init__()
        (self.in_features,) = checked_sizes(type(self).__name__, in_features=in_features)
        _check_classes(type(self).__name__, tree)
        self._root, edges = _laid_out(tree)
        self._paths = dict(_paths(self._root))
        self.num_classes = len(self._paths)
        self.weight = new_parameter(edges, self.in_features)
        self.bias = new_parameter(edges) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights anew, those of `Linear`."""
        bound = 1.0 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _scores(self, node: _Node, h: Any) -> Expr:
        """The scores of a node's children."""
        scores = matmul(embedding(self.weight, node.rows), as_floating(h, self.weight))
        return scores if self.bias is None else scores + embedding(self.bias, node.rows)

    def forward(self, h: Any, target: int) -> Expr:
        """Minus the log-probability of class ``target``."""
        if target not in self._paths:
            raise IndexError(f"{type(self).__name__}: class {target!r} is none of 0 to {self.num_classes - 1}")
        steps = [cross_entropy(self._scores(node, h), k) for node, k in self._paths[target]]
        return summed(steps) if steps else constant(np.zeros((), self.weight.dtype))

    def log_prob(self, h: Any) -> Expr:
        """The log-probabilities of all classes, (num_classes,)."""
        known = {id(node): log_softmax(self._scores(node, h)) for node in _nodes(self._root)}
        zero = constant(np.zeros((), self.weight.dtype))
        paths = [[pick(known[id(node)], k) for node, k in self._paths[i]] for i in range(self.num_classes)]
        return stack([summed(path) if path else zero for path in paths])

    def sample(self, h: Any, *, stream: Stream | None = None) -> int:
        """A class, drawn with its probability: runs what it needs, one node of the tree after another."""
        node = self._root
        while isinstance(node, _Node):
            node = node.children[int(categorical(self._scores(node, h), stream=stream).item())]
        return int(node)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.num_classes} classes"


class ClassFactoredSoftmax(HierarchicalSoftmax):
    """A softmax over clusters of classes, and one over the classes of each (Goodman 2001): a tree of depth two.

    ``clusters``: lists of classes, ``[[0, 1, 4], [2, 3]]``. Called as `HierarchicalSoftmax` is, with its errors. The
    first rows of ``weight`` are the clusters', those of the classes follow cluster by cluster.

    >>> import lazyflow as lf
    >>> output, h = lf.nn.ClassFactoredSoftmax(2, [[0, 1, 4], [2, 3]]), lf.constant([1.0, 2.0])
    >>> output(h, 3).shape, output.weight.shape
    ((), (7, 2))
    """

    def __init__(self, in_features: int, clusters: Sequence[Sequence[int]], bias: bool = True) -> None:
        for i, cluster in enumerate(clusters):
            if not _is_node(cluster) or any(_is_node(c) for c in cluster):
                raise ValueError(f"ClassFactoredSoftmax: cluster {i} must be a list of classes, got {cluster!r}")
        super().__init__(in_features, clusters, bias)


def _is_node(tree: Any) -> bool:
    return isinstance(tree, Sequence | np.ndarray) and not isinstance(tree, str)


def _is_class(tree: Any) -> bool:
    return isinstance(tree, int | np.integer) and not isinstance(tree, bool)


def _leaves(name: str, tree: Any) -> Iterator[int]:
    todo = [tree]
    while todo:
        found = todo.pop()
        if _is_node(found) and len(found):
            todo.extend(found)
        elif _is_class(found):
            yield int(found)
        else:
            raise ValueError(f"{name}: a tree is made of lists, none of them empty, and of classes; got {found!r}")


def _check_classes(name: str, tree: Any) -> None:
    """Every class from 0 on must be there once."""
    if not _is_node(tree):
        raise ValueError(f"{name}: a tree is made of lists, none of them empty, and of classes; got {tree!r}")
    found = sorted(_leaves(name, tree))
    if found != list(range(len(found))):
        raise ValueError(
            f"{name}: each of the classes 0 to {len(found) - 1} must be a leaf once, the leaves are {found}"
        )


def _collapsed(tree: Any) -> Any:
    """A node with one child is that child."""
    while _is_node(tree) and len(tree) == 1:
        tree = tree[0]
    return tree


def _laid_out(tree: Any) -> tuple[Any, int]:
    """The tree of `_Node`, and how many edges have weights, numbered breadth first."""
    queue, children, start, rows = [_collapsed(tree)], [], 0, []
    for node in queue:  # which grows
        below = [_collapsed(child) for child in node] if _is_node(node) else []
        queue += [child for child in below if _is_node(child)]
        children.append(below)
        rows.append(np.arange(start, start + len(below)))
        start += len(below)
    made: dict[int, _Node] = {}
    for node, below, own in zip(queue[::-1], children[::-1], rows[::-1], strict=True):  # children before their parents
        made[id(node)] = _Node(own, tuple(made[id(child)] if _is_node(child) else int(child) for child in below))
    return (made[id(queue[0])] if _is_node(queue[0]) else int(queue[0])), start


def _nodes(root: Any) -> Iterator[_Node]:
    """All inner nodes."""
    todo = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, _Node):
            yield node
            todo.extend(node.children)


def _paths(root: Any) -> Iterator[tuple[int, list[tuple[_Node, int]]]]:
    """Every class with the nodes on its path, and which child is taken at each."""
    todo: list[tuple[Any, list[tuple[_Node, int]]]] = [(root, [])]
    while todo:
        node, path = todo.pop()
        if isinstance(node, _Node):
            todo.extend((child, [*path, (node, k)]) for k, child in enumerate(node.children))
        else:
            yield node, path

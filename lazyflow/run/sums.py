"""The gradients of parameters, summed as the launches of a backward give them.

A program that looks at its own values has many small runs, each with a few rows for the gradient of a weight. The
gradient is the product of all of them, so they wait, and are multiplied together; see `Waiting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.ops.base import unbroadcast
from lazyflow.ops.sparse import RowSparse, merged
from lazyflow.plan.arena import Arena
from lazyflow.record.expr import Parameter
from lazyflow.record.tape import Operand, Signature
from lazyflow.run.execute import Run
from lazyflow.run.launch import Loop, parameter_of

Accumulate = Callable[[Parameter, Array], None]


class Sum:
    """The sum of the gradients of a parameter.

    Dense ones are added in place. Row-sparse ones lie side by side until their rows are twice as many as after the last
    merge, so that many of them cost no more than one.
    """

    __slots__ = ("dense", "least", "own", "parameter", "rows", "sparse")

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter
        self.dense: Array = None
        self.own = False  # whether nobody else has it: a vjp may answer with an operand, or a view of one
        self.sparse: list[RowSparse] = []
        self.rows, self.least = 0, 0  # of the sparse ones: now, and after the last merge

    def add(self, gradient: Array | RowSparse, own: bool = False) -> None:
        """Add another gradient; ``own``: nobody else has it."""
        if isinstance(gradient, RowSparse):
            self.sparse.append(gradient)
            self.rows += len(gradient.indices)
            if self.rows > 2 * self.least and len(self.sparse) > 1:
                self._merge()
        elif self.dense is None:
            self.own = own or not gradient.flags.owndata
            self.dense = gradient.copy() if self.own and not own else gradient
        elif self.own and gradient.dtype == self.dense.dtype:
            self.dense += gradient
        else:
            self.dense, self.own = devices.module(gradient).asarray(self.dense + gradient), True

    def _merge(self) -> None:
        self.sparse = [merged(self.sparse)]
        self.rows = self.least = len(self.sparse[0].indices)

    def total(self) -> Array:
        """The sum, row-sparse as long as all gradients were."""
        if len(self.sparse) > 1:
            self._merge()
        if self.dense is None or not self.sparse:
            return self.sparse[0] if self.sparse else self.dense
        total = self.dense.copy()
        self.sparse[0].add_to(total)
        return total


class Sums(dict[int, Sum]):
    """Sums by the ``id`` of their parameter."""

    def add(self, parameter: Parameter, gradient: Array, own: bool = False) -> None:
        """Add a gradient of a parameter; ``own``: nobody else has it."""
        found = self.get(id(parameter))
        if found is None:
            found = self[id(parameter)] = Sum(parameter)
        found.add(gradient, own)

    def place(self, parameter: Parameter) -> Array | None:
        """The sum so far, if others may add to it where it lies."""
        found = self.get(id(parameter))
        return found.dense if found is not None and found.own else None

    def update_by(self, other: Sums) -> None:
        """Add the sums of others."""
        for found in other.values():
            self.add(found.parameter, found.total(), found.own)


class ParameterRows(NamedTuple):
    """Some nodes of one signature with a parameter: their cotangents, values and operands, a row for each node; the
    run keeps the memory."""

    run: Run
    signature: Signature
    g: Array
    y: Array
    operands: list[Array]


def parameter_gradients(rows: ParameterRows, which: Sequence[int] | None = None) -> Iterator[tuple[Parameter, object]]:
    """What rows give to the gradients of the parameters among their operands, or among ``which`` of them."""
    xp = devices.array_module(rows.run.device)
    for i, operand in enumerate(rows.signature.operands):
        if which is not None and i not in which:
            continue
        if operand.kind == "shared" and operand.vjp is not None and operand.type is not None:
            parameter = parameter_of(operand.type)
            gradient = operand.vjp(xp, rows.g, rows.y, *rows.operands)
            if not isinstance(gradient, RowSparse):
                gradient = xp.asarray(unbroadcast(xp, gradient, rows.operands[i].shape))
                gradient = gradient if gradient.shape == parameter.shape else gradient.reshape(parameter.shape)
            yield parameter, gradient


def gradients_of_each(run: Run, cotangents: Arena, step: Loop) -> Iterator[tuple[Parameter, object]]:
    """What nodes that are taken one by one give to the gradients of parameters: all in one call, where there is one."""
    alone = []
    for i, operand in enumerate(step.signature.operands):
        if operand.kind == "shared" and operand.vjp is not None and operand.type is not None:
            found = step.gradient(i, run.arena, cotangents)
            if found is None:
                alone.append(i)
            else:
                yield parameter_of(operand.type), found
    if alone:
        for node in step.nodes(devices.array_module(run.device), run.arena, cotangents):
            yield from parameter_gradients(ParameterRows(run, *node), alone)


# A launch of so many nodes waits for others of its kind; so many together wait no longer, and are still in cache.
FEW_NODES, ENOUGH_NODES = 32, 256


class Waiting:
    """Rows of small launches, by signature, until there are enough of them."""

    def __init__(self) -> None:
        self.rows: dict[int, list[ParameterRows]] = {}
        self.counts: dict[int, int] = {}

    def add(self, some: Sequence[ParameterRows], accumulate: Accumulate) -> None:
        """Let some wait; those of which there are enough by then are accumulated."""
        for one in some:
            number = one.signature.id
            self.rows.setdefault(number, []).append(one)
            self.counts[number] = self.counts.get(number, 0) + len(one.g)
            if self.counts[number] >= ENOUGH_NODES:
                self.counts[number] = 0
                _accumulate_rows(self.rows.pop(number), accumulate)

    def finish(self, accumulate: Accumulate) -> None:
        """Accumulate all that wait."""
        while self.rows:
            _accumulate_rows(self.rows.popitem()[1], accumulate)


def _accumulate_rows(same: Sequence[ParameterRows], accumulate: Accumulate) -> None:
    for parameter, gradient in parameter_gradients(_rows_joined(same)):
        accumulate(parameter, gradient)


def _rows_joined(same: Sequence[ParameterRows]) -> ParameterRows:
    """Rows of one signature as one."""
    first = same[0]
    if len(same) == 1:
        return first
    xp = devices.array_module(first.run.device)
    g, y = xp.concatenate([one.g for one in same]), xp.concatenate([one.y for one in same])
    pairs = enumerate(first.signature.operands)
    operands = [_operand(xp, o, [one.operands[i] for one in same], [len(one.g) for one in same]) for i, o in pairs]
    return ParameterRows(first.run, first.signature, g, y, operands)


def _operand(xp: ArrayModule, operand: Operand, found: Sequence[Array], counts: Sequence[int]) -> Array:
    """One operand of several rows, each of ``counts`` nodes."""
    if operand.kind == "shared":
        return found[0]
    if operand.kind == "int":
        return np.concatenate(found)
    axes = len(operand.shape)
    arrays = [a if _is_of(a, operand.dtype) else xp.asarray(a, operand.dtype) for a in found]
    arrays = [a if a.ndim > axes or not a.ndim else a[None] for a in arrays]
    shapes = [(count, *operand.shape) for count in counts]
    pairs = zip(arrays, shapes, strict=True)
    return xp.concatenate([a if a.shape == shape else xp.broadcast_to(a, shape) for a, shape in pairs])


def _is_of(value: object, dtype: DType) -> bool:
    """Whether it is an array of that dtype on the host, which needs no look by NumPy."""
    return type(value) is np.ndarray and value.dtype == dtype

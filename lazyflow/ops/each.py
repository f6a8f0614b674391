"""Many nodes of one operation and of any shapes in one call of the core.

A launch that takes its nodes one by one (`lazyflow.graph.joined.with_loops`) costs a walk through Python for each: more
than the arithmetic, where images are small. So an operation may say here how all of them are computed at once, where
they lie in flat memory. It sees of each node its signature, where its result begins and where its operands do; and may
leave nodes out, which are then computed one by one: those in which there is a NaN, of which the operation alone knows
whether there is to be one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from lazyflow import core
from lazyflow.device import Array, HostArray
from lazyflow.ops.base import Shape
from lazyflow.ops.conv import pool_axes, windows_in_core
from lazyflow.ops.formula import has_nan
from lazyflow.ops.loss import losses_of_rows, slopes_of_rows

Left = Sequence[int] | None  # nodes that are left out, None for all


class ForEach(Protocol):
    """The nodes of a launch. Operands that are rows come as the flat memory in which all of them lie, others as what
    all nodes share."""

    def forward(self, out: Array, *operands: Array) -> Left:
        """Compute the results in the flat memory ``out``; returns which were not computed."""

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        """Add the cotangents of an operand that is a row to ``target``, from those of the results in ``g``, and the
        results in ``y``; returns of which nodes nothing was added."""

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        """The gradient of a parameter, summed over all nodes; None if it is to be had one by one."""


def for_each(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    """What computes nodes of these signatures whose results begin ``at`` these elements: ``reads`` are where operands
    begin, of a list of operands where all of them do, and None for a parameter. None where there is nothing."""
    make = FOR_EACH.get(forms[0].op.name)
    return None if make is None or core.machine is None else make(forms, at, reads)


def lie_apart(begins: HostArray, sizes: HostArray) -> bool:
    """Whether stretches of memory have no element in common, so that what is added to them may come at once."""
    order = np.argsort(begins)
    begins, sizes = begins[order], sizes[order]
    return bool((begins[:-1] + sizes[:-1] <= begins[1:]).all())


class _Convolutions:
    """Convolutions with one weight, or transposed ones."""

    def __init__(self, forms: Sequence[Any], at: HostArray, read: HostArray, is_transposed: bool) -> None:
        self.groups, self.is_transposed = forms[0].static["groups"], is_transposed
        self.begins, self.at = read, at
        self.sizes = np.array([form.operands[0].type.size for form in forms])
        self.places = np.array([form.type.size // form.type.shape[0] for form in forms])
        image, maps = (at, read) if is_transposed else (read, at)
        places = tuple([windows_in_core(form.static["w"]) for form in forms])
        self.images = core.machine.Images(places, image, maps)

    def forward(self, out: Array, *operands: Array) -> Left:
        x, weight, *bias = operands
        weight = np.ascontiguousarray(weight)
        if not self.is_transposed:
            self.images.correlate(self.groups, x, weight, out, *bias)
            return []
        left: Left = self.images.spread(self.groups, x, weight, out, *bias, nans=True)
        return [] if left and np.isfinite(weight).all() else left  # else the zeros between rows have met an infinity

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        if self.groups > 1 or not lie_apart(self.begins, self.sizes):
            return None
        product = self.images.correlate if self.is_transposed else self.images.spread
        left: Left = product(1, g, np.ascontiguousarray(operands[1]), target, add=True, nans=True)
        return left

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        if which == 2:
            return self._of_bias(g, len(operands[2]))
        image, maps = (g, operands[0]) if self.is_transposed else (operands[0], g)
        answer = np.empty(operands[1].shape, g.dtype)
        self.images.weigh(self.groups, image, maps, answer)
        return None if has_nan(answer) else answer

    def _of_bias(self, g: Array, channels: int) -> Array | None:
        if (np.diff(self.at) != channels * self.places[:-1]).any():
            return None
        rows = np.repeat(self.places, channels)
        starts = np.cumsum(rows) - rows
        stretch = g[self.at[0] : self.at[0] + int(rows.sum())]
        return np.add.reduceat(stretch, starts).reshape(-1, channels).sum(axis=0)


class _Pools:
    """Max pooling."""

    def __init__(self, forms: Sequence[Any], at: HostArray, read: HostArray) -> None:
        axes = [pool_axes(form.static["w"]) for form in forms]
        planes = [form.type.size // math.prod(form.static["w"].out) for form in forms]
        self.pools = core.machine.Pools(axes, planes, read, at)

    def forward(self, out: Array, *operands: Array) -> Left:
        self.pools.max_pool(operands[0], out)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        self.pools.max_pool_back(operands[0], y, g, target)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


AXES = 4  # of a move, at most


class _Moves:
    """What puts elements of its operands elsewhere. ``tables``: of each operand what `core.machine.move` takes."""

    def __init__(self, tables: Sequence[HostArray]) -> None:
        self.tables = tables
        two, four = [1, 0], [*range(2, 6)]
        self.backwards = [table[:, [*two, *four, *range(10, 14), *range(6, 10)]].copy() for table in tables]

    def forward(self, out: Array, *operands: Array) -> Left:
        for operand, table in zip(operands, self.tables, strict=True):
            core.machine.move(out, operand, table)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        core.machine.move(target, g, self.backwards[which], True)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


class _CrossEntropies:
    """Cross entropies of rows of scores, those of all nodes end to end: as those of one."""

    def __init__(self, forms: Sequence[Any], at: HostArray, scores: HostArray, index: HostArray) -> None:
        self.classes = forms[0].operands[0].type.shape[-1]
        self.rows = np.array([form.operands[1].type.size for form in forms])
        self.at, self.reduction = at, forms[0].static["reduction"]
        ends = np.cumsum(self.rows)
        self.starts, count = ends - self.rows, int(ends[-1])
        self.scores = slice(int(scores[0]), int(scores[0]) + count * self.classes)
        self.index = slice(int(index[0]), int(index[0]) + count)

    def _rows(self, scores: Array, index: Array) -> tuple[Array, Array]:
        return scores[self.scores].reshape(-1, self.classes), index[self.index]

    def forward(self, out: Array, *operands: Array) -> Left:
        losses = losses_of_rows(*self._rows(*operands))
        found = np.add.reduceat(losses, self.starts)
        out[self.at] = found / self.rows if self.reduction == "mean" else found
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        share = g[self.at]
        share = np.repeat(share / self.rows.astype(g.dtype) if self.reduction == "mean" else share, self.rows)
        target[self.scores] += slopes_of_rows(*self._rows(*operands), share).reshape(-1)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


Maker = Callable[[Sequence[Any], HostArray, Sequence[Any]], "ForEach | None"]


def _convolutions(is_transposed: bool, forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    x, *weights = forms[0].operands
    if x.kind != "row" or x.dtype.char not in "fd" or any(o.kind != "shared" or o.dtype != x.dtype for o in weights):
        return None
    if len({form.static["groups"] for form in forms}) > 1:
        return None
    return _Convolutions(forms, at, reads[0], is_transposed)


def _pools(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    [x] = forms[0].operands
    fits = x.dtype.char in "fd" and all(len(form.static["w"].size) <= 3 for form in forms)
    return _Pools(forms, at, reads[0]) if fits else None


def _cross_entropies(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    scores, index = forms[0].operands
    if scores.dtype.char not in "fd" or index.dtype != np.int64 or (scores.kind, index.kind) != ("row", "row"):
        return None
    sizes = [np.array([form.operands[k].type.size for form in forms]) for k in (0, 1)]
    alike = len({(form.operands[0].type.shape[-1], form.static["reduction"]) for form in forms}) == 1
    if not alike or forms[0].static["reduction"] == "none" or not all(map(_without_gaps, reads, sizes)):
        return None
    return _CrossEntropies(forms, at, *reads)


def _without_gaps(begins: HostArray, sizes: HostArray) -> bool:
    return bool((np.diff(begins) == sizes[:-1]).all())


def _table_of_moves(rows: Sequence[Sequence[int]]) -> HostArray:
    return np.array(rows, np.int64).reshape(-1, 2 + 3 * AXES)


def _may_move(form: Any) -> bool:
    kinds = {form.type.dtype, *[o.dtype for o in form.operands]}
    return len(kinds) == 1 and form.type.dtype.name in ("float32", "float64", "int64")


def _own_steps(shape: Shape) -> list[int]:
    """The steps along the axes of an array of its own."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


def _transposes(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    ndim = len(forms[0].type.shape)
    if not _may_move(forms[0]) or ndim > AXES:
        return None
    rows, ones, none = [], [1] * (AXES - ndim), [0] * (AXES - ndim)
    for form, to, begin in zip(forms, at.tolist(), reads[0].tolist(), strict=True):
        steps = _own_steps(form.operands[0].type.shape)
        steps = [steps[axis] for axis in form.static["order"]]
        rows.append([to, begin, *ones, *form.type.shape, *none, *_own_steps(form.type.shape), *none, *steps])
    return _Moves([_table_of_moves(rows)])


def _concatenates(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    if not _may_move(forms[0]) or any(o.kind != "row" for o in forms[0].operands):
        return None
    tables: list[list[list[int]]] = [[] for _ in reads]
    for form, to, *begins in zip(forms, at.tolist(), *[read.tolist() for read in reads], strict=True):
        axis = len(form.type.shape) + form.static["axis"]
        whole = math.prod(form.type.shape[axis:])
        for table, operand, begin in zip(tables, form.operands, begins, strict=True):
            own = math.prod(operand.type.shape[axis:])
            table.append([to, begin, 1, 1, operand.type.size // own, own, 0, 0, whole, 1, 0, 0, own, 1])
            to += own
    return _Moves([_table_of_moves(table) for table in tables])


def _lists(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    """Values of one type side by side."""
    if not _may_move(forms[0]):
        return None
    rows = []
    for form, to, begins in zip(forms, at.tolist(), reads[0], strict=True):
        size = form.operands[0].type.size
        rows += [[to + k * size, b, 1, 1, 1, size, 0, 0, 0, 1, 0, 0, 0, 1] for k, b in enumerate(begins.tolist())]
    return _Moves([_table_of_moves(rows)])


FOR_EACH: dict[str, Maker] = {
    "conv": lambda *nodes: _convolutions(False, *nodes),
    "conv_transpose": lambda *nodes: _convolutions(True, *nodes),
    "max_pool": _pools,
    "cross_entropy": _cross_entropies,
    "transpose": _transposes,
    "concatenate": _concatenates,
    "concatenate_rows": _lists,
    "stack_rows": _lists,
}

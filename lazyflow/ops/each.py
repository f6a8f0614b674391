"""Many nodes of one operation and of any shapes in one call of the core.

A launch that takes its nodes one by one (`lazyflow.graph.joined.with_loops`) costs a walk through Python for each: more
than the arithmetic, where images are small. So an operation may say here how all of them are computed at once, where
they lie in flat memory. It sees of each node its signature, where its result begins and where its operands do; and may
leave nodes out, which are then computed one by one: those in which there is a NaN, of which the operation alone knows
whether there is to be one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from lazyflow import core
from lazyflow.device import Array, HostArray
from lazyflow.ops.base import Op, Shape, total
from lazyflow.ops.conv import bins_of, divisors_of, pool_axes, windows_in_core
from lazyflow.ops.formula import has_nan
from lazyflow.ops.loss import losses_of_rows, slopes_of_rows
from lazyflow.ops.stretches import ALONG_STRETCHES

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
    make = _by_elements if forms[0].by_element else FOR_EACH.get(forms[0].op.name)
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


def _reversed(table: HostArray) -> HostArray:
    """The moves from there to here."""
    found: HostArray = table[:, [1, 0, *range(2, 6), *range(10, 14), *range(6, 10)]].copy()
    return found


class _Moves:
    """What puts elements of its operands elsewhere. ``tables``: of each operand what `core.machine.move` takes."""

    def __init__(self, tables: Sequence[HostArray]) -> None:
        self.tables = tables
        self.backwards = [_reversed(table) for table in tables]

    def forward(self, out: Array, *operands: Array) -> Left:
        for operand, table in zip(operands, self.tables, strict=True):
            core.machine.move(out, operand, table)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        core.machine.move(target, g, self.backwards[which], True)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


class _Reductions:
    """Sums, means and largest or smallest elements over axes that stand together. ``table``: as
    `core.machine.reduce_each` takes it."""

    def __init__(self, how: int, table: HostArray) -> None:
        self.how, self.table = how, table

    def forward(self, out: Array, *operands: Array) -> Left:
        core.machine.reduce_each(self.how, out, operands[0], self.table)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        core.machine.reduce_each_back(self.how, target, g, y, operands[0], self.table)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


class _Stretches:
    """Reductions over axes that stand together, by what makes them of stretches that lie behind each other (see
    `lazyflow.ops.stretches`): ``lines`` puts the elements so, ``counts`` of them each, ``results`` the results."""

    def __init__(self, op: Op, static: dict[str, Any], sizes: HostArray, at: HostArray, read: HostArray) -> None:
        self.kernel, self.vjp = (partial(f, np, **static) for f in (op.forward, _only_vjp(op)))
        a, n, b = sizes.T
        one, none, elements, kept = np.ones_like(a), np.zeros_like(a), a * n * b, a * b
        begins, places = np.cumsum(elements) - elements, np.cumsum(kept) - kept
        self.size, self.kept = int(elements.sum()), int(kept.sum())
        self.counts = np.repeat(n, kept)
        lines = np.stack([begins, read, one, a, b, n, none, b * n, n, one, none, n * b, one, b], 1)
        by_columns = lines[:, [0, 1, 2, 3, 5, 4, 6, 7, 9, 8, 10, 11, 13, 12]]
        self.lines = np.where((b > n)[:, None], by_columns, lines)  # the longer loop is the inner one
        self.results = np.stack([at, places, one, one, one, kept, none, none, none, one, none, none, none, one], 1)

    def _gathered(self, x: Array, table: HostArray, size: int) -> Array:
        found = np.empty(size, x.dtype)
        core.machine.move(found, x, table)
        return found

    def forward(self, out: Array, *operands: Array) -> Left:
        rows = self._gathered(operands[0], self.lines, self.size)
        core.machine.move(out, np.ascontiguousarray(self.kernel(rows, self.counts)), self.results)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        share, found = (self._gathered(x, _reversed(self.results), self.kept) for x in (g, y))
        slopes = self.vjp(share, found, self._gathered(operands[0], self.lines, self.size), self.counts)
        core.machine.move(target, np.ascontiguousarray(slopes), _reversed(self.lines), True)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


def _only_vjp(op: Op) -> Callable[..., Array]:
    (vjp,) = op.vjps
    assert vjp is not None
    return vjp


class _AlongRows:
    """Softmax and norms along the last axes. ``table``: as `core.machine.along_each` takes it."""

    def __init__(self, name: str, table: HostArray, eps: HostArray) -> None:
        self.name, self.table, self.eps = name, table, eps

    def forward(self, out: Array, *operands: Array) -> Left:
        core.machine.along_each(core.machine.ALONG[self.name], out, operands[0], self.table, self.eps)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        how = core.machine.ALONG_SLOPES[self.name]
        core.machine.along_each(how, target, operands[0], self.table, self.eps, y, g)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


class _MeansOfWindows:
    """Average pooling, of windows that overlap or of so many of them. ``tables``: as `core.machine.pool_each` takes
    them."""

    def __init__(self, *tables: HostArray) -> None:
        self.tables = tables

    def forward(self, out: Array, *operands: Array) -> Left:
        core.machine.pool_each(out, operands[0], *self.tables)
        return []

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        core.machine.pool_each(g, target, *self.tables, True)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        return None


class _Broadcast(NamedTuple):
    """Of an operand that broadcasts, the moves to the elements of all results, the sums that are its cotangents, and
    how many elements it has."""

    moves: HostArray
    sums: HostArray
    size: int


class _ByElements:
    """What is computed element by element, of operands some of which broadcast: as one of all elements of all nodes,
    to which these are copied. ``stretches``: where those of the others lie, and the results."""

    def __init__(self, form: Any, count: int, operands: Sequence[Any], result: slice) -> None:
        self.form, self.count, self.operands, self.result = form, count, operands, result

    def _flat(self, operands: Sequence[Array]) -> list[Array]:
        return [self._one(of, array) for of, array in zip(self.operands, operands, strict=True)]

    def _one(self, of: Any, array: Array) -> Array:
        if not isinstance(of, _Broadcast):
            return array[of] if isinstance(of, slice) else of
        found = np.empty(self.count, array.dtype)
        core.machine.move(found, np.ascontiguousarray(array).reshape(-1), of.moves)
        return found

    def forward(self, out: Array, *operands: Array) -> Left:
        room = out[self.result]
        found = self.form.forward(np, *self._flat(operands), out=room)
        if found is not room:
            room[...] = found
        return []

    def _slopes(self, which: int, g: Array, y: Array, operands: Sequence[Array]) -> Array:
        """The cotangents of an operand, before they are summed."""
        found = self.form.operands[which].vjp(np, g[self.result], y[self.result], *self._flat(operands))
        return np.ascontiguousarray(np.broadcast_to(found, (self.count,)), g.dtype)

    def back(self, which: int, target: Array, g: Array, y: Array, *operands: Array) -> Left:
        of, slopes = self.operands[which], self._slopes(which, g, y, operands)
        if isinstance(of, slice):
            target[of] += slopes
        else:
            core.machine.reduce_each(0, target, slopes, of.sums, True)
        return []

    def gradient(self, which: int, g: Array, y: Array, *operands: Array) -> Array | None:
        of = self.operands[which]
        if not isinstance(of, _Broadcast):
            return None
        table = of.sums.copy()
        table[:, 0] = np.arange(len(table)) * of.size
        sums = np.empty((len(table), of.size), g.dtype)
        core.machine.reduce_each(0, sums.reshape(-1), self._slopes(which, g, y, operands), table)
        answer: Array = total(sums, 0).reshape(self.form.operands[which].type.shape)
        return answer


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


def _with_own(forms: Sequence[Any], own: Callable[[Any], list[int]], *columns: HostArray) -> HostArray:
    """Of each node a row: of columns, and of what its form says, which is worked out once a form."""
    known = {form: own(form) for form in dict.fromkeys(forms)}
    own_columns = np.array([known[form] for form in forms], np.int64)
    return np.column_stack([*columns, own_columns]).astype(np.int64, copy=False)


def _reduced_sizes(forms: Sequence[Any]) -> Callable[[Any], list[int]] | None:
    """Of a form the sizes of the axes before those that are reduced, of these, and of those behind; None where they do
    not stand together."""
    [x] = forms[0].operands
    axes = sorted(forms[0].static["axis"])
    if x.dtype.char not in "fd" or x.kind != "row" or axes != list(range(axes[0], axes[0] + len(axes))):
        return None

    def sizes(form: Any) -> list[int]:
        shape = form.operands[0].type.shape
        low, high = len(shape) + axes[0], len(shape) + axes[-1] + 1
        return [*map(math.prod, (shape[:low], shape[low:high], shape[high:]))]

    return sizes


def _reductions(name: str, forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    sizes = _reduced_sizes(forms)
    return None if sizes is None else _Reductions(core.machine.REDUCED[name], _with_own(forms, sizes, at, reads[0]))


def _stretches(name: str, forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    statics = [{key: form.static[key] for key in ("ddof", "ord") if key in form.static} for form in forms]
    sizes = _reduced_sizes(forms)
    if sizes is None or any(static != statics[0] for static in statics):
        return None
    return _Stretches(ALONG_STRETCHES[name], statics[0], _with_own(forms, sizes), at, reads[0])


def _rows_along(name: str, forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    [x], axis = forms[0].operands, forms[0].static["axis"]
    axes = sorted(axis) if isinstance(axis, tuple) else [axis]
    if x.dtype.char not in "fd" or x.kind != "row" or axes != list(range(-len(axes), 0)):
        return None

    def sizes(form: Any) -> list[int]:
        width = math.prod(form.type.shape[axes[0] :])
        return [form.type.size // width, width]

    eps = np.array([form.static.get("eps", 0.0) for form in forms])
    return _AlongRows(name, _with_own(forms, sizes, at, reads[0]), eps)


def _means_of_windows(windows: Any, forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    """``windows``: of static attributes where those of each axis begin and end, with its size, and the divisors."""
    [x] = forms[0].operands
    known = {form: windows(**form.static) for form in dict.fromkeys(forms)}
    ranges, divisors = [np.array([0, 1])], list[HostArray]()  # of axes of one element, first

    def about(form: Any) -> list[int]:
        axes, by = known[form]
        found = [[1, 1, 0]] * (3 - len(axes))
        for size, start, stop in axes:
            found.append([size, len(start), sum(map(len, ranges))])
            ranges.extend([start, stop])
        planes = form.type.size // math.prod([len(start) for _, start, _ in axes])
        divisors.append(by.reshape(-1))
        return [planes, *itertools.chain(*found), sum(map(len, divisors)) - by.size, int(by.size > 1)]

    if x.dtype.char not in "fd" or x.kind != "row" or any(len(axes) > 3 for axes, _ in known.values()):
        return None
    table = _with_own(forms, about, at, reads[0])
    return _MeansOfWindows(table, np.concatenate(ranges).astype(np.int64), np.concatenate(divisors))


def _by_elements(forms: Sequence[Any], at: HostArray, reads: Sequence[Any]) -> ForEach | None:
    sizes = np.array([form.type.size for form in forms])
    count = int(sizes.sum())
    if forms[0].type.dtype.char not in "fd" or not _without_gaps(at, sizes):
        return None
    operands = [_elements_of(k, forms, reads[k], sizes) for k in range(len(reads))]
    if any(of is None for of in operands):
        return None
    return _ByElements(forms[0], count, operands, slice(int(at[0]), int(at[0]) + count))


def _elements_of(k: int, forms: Sequence[Any], read: Any, sizes: HostArray) -> slice | _Broadcast | float | None:
    """What `_ByElements` is to know of an operand; None where that is too much."""
    operand = forms[0].operands[k]
    if operand.kind not in ("row", "shared"):
        return float(read[0]) if operand.kind == "float" and (read == read[0]).all() else None
    if operand.dtype != forms[0].type.dtype:
        return None
    alike = all(form.operands[k].shape == form.type.shape for form in forms)
    if alike and operand.kind == "row" and _without_gaps(read, sizes):
        return slice(int(read[0]), int(read[0]) + int(sizes.sum()))
    sums = _with_own(
        forms,
        lambda form: _broadcast_axes(form.operands[k].shape, form.type.shape),
        np.zeros(len(forms), np.int64) if read is None else read,
        np.cumsum(sizes) - sizes,
    )
    there, begin, a, n, b = sums.T
    one, none = np.ones_like(a), np.zeros_like(a)
    moves = np.stack([begin, there, one, a, n, b, none, n * b, b, one, none, b, none, one], 1)
    return _Broadcast(moves, sums, math.prod(operand.shape)) if (n > 0).all() else None


def _broadcast_axes(shape: Shape, whole: Shape) -> list[int]:
    """The sizes of the axes before those along which a shape broadcasts to another, of these, and of those behind; of
    none of these where they do not stand together."""
    shape = (1,) * (len(whole) - len(shape)) + tuple(shape)
    axes = [k for k, (own, n) in enumerate(zip(shape, whole, strict=True)) if own != n] or [0]
    low, high = axes[0], axes[-1] + 1
    if len(axes) > 1 and any(shape[k] != 1 for k in range(low, high)):
        return [0, 0, 0]
    if not whole or shape[low] == whole[low]:
        return [1, 1, math.prod(whole)]
    return [*map(math.prod, (whole[:low], whole[low:high], whole[high:]))]


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
    "avg_pool": lambda *nodes: _means_of_windows(divisors_of, *nodes),
    "adaptive_avg_pool": lambda *nodes: _means_of_windows(bins_of, *nodes),
    "sum": lambda *nodes: _reductions("sum", *nodes),
    "mean": lambda *nodes: _reductions("mean", *nodes),
    "max": lambda *nodes: _reductions("max", *nodes),
    "min": lambda *nodes: _reductions("min", *nodes),
    **{name: partial(_stretches, name) for name in ("logsumexp", "norm", "std", "var")},
    "softmax": lambda *nodes: _rows_along("softmax", *nodes),
    "log_softmax": lambda *nodes: _rows_along("log_softmax", *nodes),
    "standardise": lambda *nodes: _rows_along("standardise", *nodes),
    "cross_entropy": _cross_entropies,
    "transpose": _transposes,
    "concatenate": _concatenates,
    "concatenate_rows": _lists,
    "stack_rows": _lists,
}

"""Launches as they are run: what is known of one before there is a run is worked out once, when its plan first runs.

`Launch` says what a launch computes; a `Bound` one has its kernel, and a `Reader` for every operand and for the result,
which makes the array of a run in one step. So a forward and a backward are walks over a tuple, and what a launch costs
beside its kernel is the arrays that are made for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyflow import core, settings
from lazyflow import device as devices
from lazyflow.cuda.rows import Places
from lazyflow.device import Array, ArrayModule, DType
from lazyflow.fuse.blocks import rows_of
from lazyflow.ops.base import (
    Shape,
    adder_of,
    beginning_of,
    host_form,
    joint_of,
    looked_at,
    shapes_wanted,
    total,
    unbroadcast,
)
from lazyflow.ops.each import for_each
from lazyflow.ops.linalg import is_brief
from lazyflow.ops.sparse import RowSparse, scatter_add_rows
from lazyflow.plan.arena import Arena
from lazyflow.plan.plan import Launch, Plan, Rows
from lazyflow.record.expr import Parameter
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, Operand, Signature, Type

# On the host: the function of the core itself, if there is one.
_view = devices.stretch if core.passes is None else core.passes.view

# How a reader finds its array.
READ_VIEW, READ_SPACED, READ_TAKEN, READ_WINDOWS, READ_EMPTY, READ_PARAMETER = range(6)
READ_COLUMNS, READ_GIVEN, READ_MOVED, READ_SPREAD, READ_PLACED = range(6, 11)
# What a launch does: bring in constants, or values of earlier runs, put rows in order, call a kernel, calls of a cell.
DO_CONSTANTS, DO_KNOWNS, DO_GATHER, DO_KERNEL, DO_CALLS = range(5)


class Reader:
    """Where an array of a launch lies, and how it is made of it.

    In memory of ``dtype``: rows of ``shape``, with the batch axis if they have one, from ``offset`` on, ``pitch``
    elements apart, or by ``index``, with ``width`` elements each; seen as ``seen``, where that is another shape.
    ``value``: payload numbers; ``type``: that of a parameter.
    """

    __slots__ = ("dtype", "how", "index", "offset", "pitch", "seen", "shape", "type", "value", "width")

    def __init__(self, how: int, shape: Shape) -> None:
        self.how, self.shape = how, shape
        self.offset = self.pitch = self.width = 0
        self.dtype: Any = None
        self.index: Any = None
        self.value: Any = None
        self.seen: Any = None
        self.type: Any = None

    def read(self, arena: Arena) -> Array:
        """The array in a run with this arena."""
        how = self.how
        if how == READ_VIEW:
            return (_view if arena.device == "cpu" else devices.stretch)(
                arena.buffers[self.dtype], self.offset, self.shape
            )
        if how in (READ_PARAMETER, READ_COLUMNS):
            return self._of_parameter(arena)
        if how == READ_GIVEN:
            return self.value if arena.device == "cpu" else arena.given(self.value)
        if how == READ_MOVED:
            return self.value if arena.device == "cpu" else arena.payload(self.value).astype(self.value.dtype)
        array = self._rows(arena)
        return array if self.seen is None else array.reshape(self.seen)

    def hollow(self, arena: Arena) -> Array:
        """An array of the same shape, which costs nothing: what it holds is undefined."""
        if self.how in (READ_TAKEN, READ_WINDOWS):
            return devices.hollow(arena.buffers[self.dtype], self.shape_of())
        return self.read(arena)

    def shape_of(self) -> Shape:
        """The shape of the array, which is not read."""
        found: Shape = self.value if self.how == READ_SPREAD else self.shape if self.seen is None else self.seen
        return found

    def _of_parameter(self, arena: Arena) -> Array:
        parameter = parameter_of(self.type)
        whole = self.how == READ_PARAMETER or arena.device != "cpu"  # there products read any order
        array = parameter.memory if whole else parameter.columns(arena.number)
        return array if array.shape == self.shape else array.reshape(self.shape)

    def _rows(self, arena: Arena) -> Array:
        how, buffer = self.how, arena.buffers[self.dtype]
        if how == READ_SPACED:
            return devices.strided(buffer, self.offset, self.shape, self.pitch)
        if how == READ_TAKEN:
            return devices.take_rows(arena.table(self.dtype, self.width), arena.index(self.index)).reshape(self.shape)
        if how == READ_WINDOWS:
            return devices.stretches(buffer, self.width)[arena.index(self.index)].reshape(self.shape)
        xp = devices.array_module(arena.device)
        if how == READ_EMPTY:
            return xp.empty(self.shape, self.dtype)
        if how == READ_PLACED:
            return rows_of(buffer, self.index, self.width).reshape(self.shape)
        return xp.broadcast_to(devices.stretch(buffer, self.offset, self.shape), self.value)


def rows_reader(dtype: object, rows: Rows, shape: Shape) -> Reader:
    """The reader of rows of one ``shape`` each: with the batch axis in front, unless all nodes share one row."""
    count, width, offset, pitch, index, aligned = rows
    if index is not None:
        # Rows without elements are one element wide, so that no two nodes lie at one place.
        how = (READ_TAKEN if aligned else READ_WINDOWS) if devices.elements(shape) else READ_EMPTY
    else:
        how = READ_VIEW if pitch == width or count == 1 or pitch == 0 else READ_SPACED
    shared = index is None and pitch == 0 and count > 1
    found = Reader(how, shape if shared else (count, *shape))
    found.dtype, found.offset, found.pitch, found.width, found.index = dtype, offset, pitch, width, index
    return found


def operand_reader(operand: Operand, read: Any, by_columns: bool) -> Reader:
    """The reader of one operand as a kernel wants it: ``(count, *shape)``, without the batch axis where it is
    shared."""
    if operand.kind == "row":
        return (
            _placed_reader(operand, read)
            if isinstance(read, np.ndarray)
            else rows_reader(operand.dtype, read, operand.shape)
        )
    if operand.kind == "shared":
        assert operand.type is not None
        found = Reader(READ_COLUMNS if by_columns and operand.type.ndim == 2 else READ_PARAMETER, operand.shape)
        found.type = operand.type
        return found
    # Indices stay on the host: see `lazyflow.ops.base`.
    found = Reader(READ_GIVEN if operand.kind != "float" or isinstance(read, float) else READ_MOVED, ())
    found.value = read
    return found


def _placed_reader(operand: Operand, at: Array) -> Reader:
    """The reader of an operand of a cell, rows at any elements."""
    found = Reader(READ_PLACED, (len(at), *operand.shape))
    found.dtype, found.index, found.width = operand.dtype, at, max(devices.elements(operand.shape), 1)
    return found


def stacked_reader(operand: Operand, rows: Rows, heads: Shape) -> Reader:
    """The reader of the operands of a list, with the axes ``heads`` in place of that of the rows."""
    found, seen = rows_reader(operand.dtype, rows, operand.shape), (*heads, *operand.shape)
    if rows.shared:
        found.how, found.value = READ_SPREAD, seen
    elif found.how == READ_VIEW:
        found.shape = seen
    elif seen != found.shape:
        found.seen = seen
    return found


def readers_of(launch: Launch, forward: bool) -> tuple[Reader, ...]:
    """Those of all operands of a launch, in the operation's order; in ``forward``, parameters by columns where that is
    asked for and pays."""
    signature, reads = launch.signature, launch.reads
    op, operands = signature.op, signature.operands
    if op.stacked:
        rows = reads[0]
        assert isinstance(rows, Rows)
        if op.ragged:
            return stacked_reader(operands[0], rows, (rows.count,)), operand_reader(operands[1], reads[1], False)
        count = launch.writes.count
        return (stacked_reader(operands[0], rows, (count, rows.count // count)),)
    columns = op.by_columns if forward and not is_brief(np, launch.writes.count) else ()
    return tuple([operand_reader(operands[i], reads[i], i in columns) for i in range(len(operands))])


def _with_payload(readers: tuple[Reader, ...], launch: Launch) -> tuple[Reader, ...]:
    """Readers of all operands of a launch with other payload than that which they were made for."""
    pairs = zip(readers, launch.signature.operands, launch.reads, strict=True)
    return tuple([r if o.kind in ("row", "shared") else operand_reader(o, read, False) for r, o, read in pairs])


# How cotangents are added where an operand was read: into a view, at rows of a table, or of overlapping windows that
# are apart, or element by element, where they overlap, such as the windows of a convolution.
INTO, AT_ROWS, AT_WINDOWS, AT_ELEMENTS = range(4)


class Pull:
    """What backward does for one operand of a launch: its vjp, and where the answer is added. ``apart``: whether each
    row has a place; ``adder``: what does both on a device, if there is something (see `lazyflow.ops.base.adding`)."""

    __slots__ = ("adder", "apart", "at", "dtype", "how", "index", "shape", "sums", "target", "vjp", "width")

    def __init__(self, operand: Operand, rows: Rows, at: int, stacked: bool) -> None:
        self.at, self.vjp, self.dtype, self.shape, self.width = (
            at,
            operand.vjp,
            operand.dtype,
            operand.shape,
            rows.width,
        )
        self.sums = stacked and rows.shared
        self.target = rows_reader(operand.dtype, rows, operand.shape)
        self.how, self.index = _where(rows)
        assert operand.vjp is not None
        self.apart = not rows.shared and self.how in (INTO, AT_ROWS)
        self.adder: Any = adder_of(operand.vjp) if self.apart else None

    def adds(self, arena: Arena, arguments: Sequence[Array]) -> bool:
        """Whether the adder has done it; ``arguments`` are those of the vjp."""
        if self.how == AT_ROWS and settings.current().deterministic:
            return False
        return bool(self.adder(self.places(arena), *arguments))

    def places(self, arena: Arena) -> Places:
        """Where on a device the answer is added, if all rows are `apart`."""
        target, buffer = self.target, arena.buffers[self.dtype]
        count, width = target.shape[0], devices.elements(target.shape[1:])
        if self.how == AT_ROWS:
            at = arena.index(self.index).astype(np.int64, copy=False)
            return Places(buffer, target.width, count, width, at)
        return Places(buffer[target.offset :], target.pitch, count, width)

    def give(self, xp: ArrayModule, arena: Arena, cotangent: Array, shape: Shape) -> None:
        """Add the vjp's answer for an operand that is an array of that ``shape``."""
        if isinstance(cotangent, RowSparse):  # of a computed table; only a parameter's gradient stays sparse
            cotangent = cotangent.to_dense()
        if cotangent.shape != shape:
            cotangent = unbroadcast(xp, cotangent, shape)
        if self.sums:
            cotangent = total(cotangent.reshape((-1, *self.shape)), 0)
        self.add(arena, cotangent)

    def add(self, arena: Arena, cotangent: Array) -> None:
        """Add cotangents into the rows that the operand was read from."""
        how = self.how
        if how == INTO:
            target = self.target.read(arena)
            target += cotangent if cotangent.shape == target.shape else cotangent.reshape(target.shape)
            return
        xp = devices.module(cotangent)
        index = self.index
        flat = cotangent.reshape(self.target.shape[0], -1)
        if how == AT_ROWS:
            own: Any = arena  # of no known class: else Cython hands on a function that has not its arena with it
            scatter_add_rows(xp, arena.table(self.dtype, self.width), index, flat, own.index)
        elif how == AT_WINDOWS:
            scatter_add_rows(xp, devices.stretches(arena.buffers[self.dtype], self.width), index, flat)
        else:
            elements = index[:, None] + np.arange(flat.shape[1])
            scatter_add_rows(xp, arena.table(self.dtype, 1), elements.ravel(), flat.reshape(-1, 1))


def _where(rows: Rows) -> tuple[int, Array]:
    """How cotangents of rows are added, and at which."""
    if rows.index is None and (rows.pitch >= rows.width or rows.count == 1 or rows.pitch == 0):
        return INTO, None
    if rows.aligned and rows.index is not None:
        return AT_ROWS, rows.index
    offsets = rows.offsets()
    apart = (np.diff(np.unique(offsets)) >= rows.width).all()
    return AT_WINDOWS if apart else AT_ELEMENTS, offsets


class Bound:
    """A launch with all that is known of it before a run.

    ``forward`` is its kernel, and ``at_host`` what the core has in its place on the host, or None (see
    `lazyflow.ops.base.at_host`). ``operands`` are those of the forward kernel, ``values`` those of the vjps. ``rows``:
    where operands are gathered that a kernel need not touch. ``begins``: which operand the result begins as, what is
    added to it, and, of the first of several such launches, the reader of the results of all
    (`lazyflow.ops.base.beginning`). ``calls``: see `Launch`. ``pulls``: what backward does for its operands, once it
    did, and ``joint``: what answers for all of them at once, if there is something (`lazyflow.ops.base.jointly`);
    ``unread``: what of the result (0) and the operands (from 1 on) its vjps do not look at; ``shapes``: those of
    which they look at the shape alone.
    """

    __slots__ = (
        "at_host", "begins", "calls", "does", "forward", "joint", "launch", "operands", "out", "pulls", "rows",
        "shapes", "signature", "unread", "values",
    )  # fmt: skip

    def __init__(self, launch: Launch) -> None:
        signature = launch.signature
        op = signature.op
        self.launch, self.signature = launch, signature
        self.calls: Any = launch.calls
        self.forward: Callable[..., Array] = signature.forward
        self.begins: Any = None
        self.at_host: Any = host_form(signature.forward)
        self.rows: Any = None
        self.pulls: Any = None
        self.joint: Any = None
        self.unread: frozenset[int] = frozenset()
        self.shapes: frozenset[int] = frozenset()
        self.operands: tuple[Reader, ...] = ()
        self.values: tuple[Reader, ...] = ()
        self.out = rows_reader(signature.type.dtype, launch.writes, signature.type.shape)
        if self.calls is not None:
            self.does = DO_CALLS
        elif op is CONSTANT_OP or op is KNOWN_OP:
            self.does = DO_CONSTANTS if op is CONSTANT_OP else DO_KNOWNS
        else:
            self.does = DO_KERNEL
            self.operands = self.values = readers_of(launch, True)
            if op.by_columns:
                self.values = readers_of(launch, False)
            self._gathered(launch)

    def _gathered(self, launch: Launch) -> None:
        """Rows go straight into the result, where that is all there is to do."""
        rows = launch.reads[0] if self.signature.op.gathers else None
        if isinstance(rows, Rows) and rows.index is not None and rows.aligned and devices.elements(self.out.shape):
            self.does, self.rows = DO_GATHER, rows

    def compute(self, xp: ArrayModule, arena: Arena) -> None:
        """Fill the result's rows."""
        out = self.out.read(arena)
        if self.does == DO_GATHER:
            width = self.rows.width
            devices.take_rows(arena.table(out.dtype, width), arena.index(self.rows.index), out.reshape(-1, width))
            return
        given = tuple([reader.read(arena) for reader in self.operands])
        if self.at_host is not None and arena.device == "cpu" and self.at_host(given, out) is not None:
            return
        if self.begins is not None:
            which, add, every = self.begins
            if every is not None:
                every.read(arena)[...] = given[which]
            if add(out, xp, *given):
                return
        result = self.forward(xp, *given, out=out)
        if result is not out:
            out[...] = result

    def again(self, launch: Launch) -> Bound:
        """The same for a launch with other payload."""
        if self.signature.op.stacked or self.signature.loops:
            return bound_of(launch)
        found = Bound.__new__(Bound)
        found.launch, found.signature, found.calls, found.rows = launch, self.signature, self.calls, self.rows
        found.does, found.out, found.forward, found.at_host = self.does, self.out, self.forward, self.at_host
        found.begins = None  # see `_begin_at_once`
        found.pulls, found.joint, found.unread, found.shapes = self.pulls, self.joint, self.unread, self.shapes
        found.operands = _with_payload(self.operands, launch)
        found.values = found.operands if self.values is self.operands else _with_payload(self.values, launch)
        return found

    def operand_values(self, arena: Arena) -> list[Array]:
        """The operands as the vjps have them."""
        return [reader.read(arena) for reader in self.values]

    def pull(self, xp: ArrayModule, values: Arena, cotangents: Arena) -> None:
        """Add the cotangents of the operands that are rows."""
        if self.pulls is None:
            self.pulls = self._pulls()
        if not self.pulls:
            return
        g = self.out.read(cotangents)
        arguments = [xp, g, g if 0 in self.unread else self.out.read(values)]
        for i in range(len(self.values)):
            reader = self.values[i]
            if i + 1 in self.unread:
                arguments.append(g)
            else:
                arguments.append(reader.hollow(values) if i + 1 in self.shapes else reader.read(values))
        if self.joint is not None:
            self._pull_together(xp, cotangents, arguments)
            return
        for pull in self.pulls:
            if pull.adder is None or cotangents.device == "cpu" or not pull.adds(cotangents, arguments):
                pull.give(xp, cotangents, pull.vjp(*arguments), self.values[pull.at].shape_of())

    def _pull_together(self, xp: ArrayModule, cotangents: Arena, arguments: list[Any]) -> None:
        """Add the cotangents of all operands, which come at once."""
        wanted, pulls = tuple([pull.at for pull in self.pulls]), self.pulls
        at_home = cotangents.device == "cpu" or settings.current().deterministic
        into = [pull.places(cotangents) if pull.apart and not at_home else None for pull in pulls]
        for pull, answer in zip(pulls, self.joint(wanted, into, *arguments), strict=True):
            if answer is not None:
                pull.give(xp, cotangents, answer, self.values[pull.at].shape_of())

    def _pulls(self) -> tuple[Pull, ...]:
        found = []
        for i, operand in enumerate(self.signature.operands):
            if operand.kind == "row" and operand.vjp is not None and devices.elements(operand.shape):
                rows = self.launch.reads[i]
                assert isinstance(rows, Rows)
                found.append(Pull(operand, rows, i, self.signature.op.stacked))
        vjps = [pull.vjp for pull in found]
        self.unread, self.shapes = _unread(vjps, len(self.values))
        self.joint = joint_of(vjps)
        return tuple(found)


class Form:
    """How one node of a `Loop` is computed: its kernel, and dtypes and shapes, with a batch axis of one, of its result
    and its operands; the reader of one that is a parameter."""

    __slots__ = ("dtype", "forward", "operands", "shape", "signature")

    def __init__(self, signature: Signature) -> None:
        op = signature.op
        self.signature, self.forward = signature, signature.forward
        self.dtype, self.shape = signature.type.dtype, (1, *signature.type.shape)
        kinds = [
            ("ragged" if op.ragged else "list") if op.stacked and o.kind == "row" else o.kind
            for o in signature.operands
        ]
        pairs = list(zip(kinds, signature.operands, strict=True))
        self.operands: tuple[tuple[str, Any, Shape], ...] = tuple(
            [(k, operand_reader(o, None, False) if k == "shared" else o.dtype, (1, *o.shape)) for k, o in pairs]
        )

    def arrays(self, xp: ArrayModule, arena: Arena, reads: tuple[Any, ...]) -> list[Array]:
        """The operands of a node."""
        found = []
        for (kind, what, shape), at in zip(self.operands, reads, strict=True):
            if kind == "row":
                found.append(_view_here(arena, what, at, shape))
            elif kind == "list" or kind == "ragged":
                rows = xp.concatenate([_view_here(arena, what, one, shape) for one in at])
                found.append(rows if kind == "ragged" else rows[None])
            elif kind == "shared":
                found.append(what.read(arena))
            else:
                found.append(at if kind == "float" else np.array([at], np.int64))
        return found

    def give(self, xp: ArrayModule, arena: Arena, i: int, at: Array, answer: Array) -> None:
        """Add what a vjp answers for an operand of a node to its cotangent."""
        kind, dtype, shape = self.operands[i]
        if kind != "row":
            for one, part in zip(at, answer.reshape(len(at), *shape), strict=True):
                _view_here(arena, dtype, one, shape)[...] += part
            return
        target = _view_here(arena, dtype, at, shape)
        target += answer if answer.shape == shape else unbroadcast(xp, answer, shape)


def _view_here(arena: Arena, dtype: DType, offset: int, shape: Shape) -> Array:
    return (_view if arena.device == "cpu" else devices.stretch)(arena.buffers[dtype], offset, shape)


class Loop(Bound):
    """A launch that takes its nodes one by one, each with arrays of its own shapes where they lie: nothing is gathered.

    ``whole``: what computes many of them in one call (`lazyflow.ops.each`), or None; ``sources``: of each operand the
    reader of a parameter, the dtype of rows, or what it is. ``steps``, once there are nodes left: of each node its
    `Form`, where its result lies, and where its operands do, or what they are.
    """

    __slots__ = ("each", "sources", "steps", "whole")

    def __init__(self, launch: Launch) -> None:
        signature = launch.signature
        self.launch, self.signature, self.calls, self.forward = launch, signature, None, signature.forward
        self.begins = None
        self.at_host = None
        self.does, self.rows, self.pulls, self.unread, self.shapes = DO_KERNEL, None, (), frozenset(), frozenset()
        self.joint = None
        self.operands, self.values = (), ()
        self.out = rows_reader(signature.type.dtype, launch.writes, ())
        assert launch.each is not None
        self.each = launch.each
        self.steps: Any = None
        self.whole = for_each(self.each.forms, self.each.offsets, self.each.reads)
        self.sources = tuple([_source_of(o, at) for o, at in zip(signature.operands, self.each.reads, strict=True)])

    def _steps(self, left: Sequence[int] | None) -> Any:
        """All nodes, or those with these numbers."""
        if self.steps is None:
            each = self.each
            forms = {id(form): Form(form) for form in each.forms}
            reads = [_by_node(read, len(each.forms)) for read in each.reads]
            of_each = [forms[id(form)] for form in each.forms]
            self.steps = tuple(zip(of_each, each.offsets.tolist(), zip(*reads, strict=True), strict=True))
        return self.steps if left is None else [self.steps[i] for i in left]

    def _arrays(self, arena: Arena) -> list[Any]:
        """The operands of all nodes: flat memory, what they share, or numbers."""
        found = []
        for source in self.sources:
            if isinstance(source, Reader):
                source = source.read(arena)
            found.append(arena.buffers[source] if isinstance(source, np.dtype) else source)
        return found

    def compute(self, xp: ArrayModule, arena: Arena) -> None:
        """Compute the nodes, those that are left one after the other."""
        left: Sequence[int] | None = None
        if self.whole is not None:
            left = self.whole.forward(arena.buffers[self.out.dtype], *self._arrays(arena))
        if left is None or len(left):
            self._compute_each(xp, arena, left)

    def _compute_each(self, xp: ArrayModule, arena: Arena, left: Sequence[int] | None) -> None:
        for form, at, reads in self._steps(left):
            out = _view_here(arena, form.dtype, at, form.shape)
            result = form.forward(xp, *form.arrays(xp, arena, reads), out=out)
            if result is not out:
                out[...] = result

    def pull(self, xp: ArrayModule, values: Arena, cotangents: Arena) -> None:
        """Add the cotangents of the operands, node after node where they are left."""
        for i, operand in enumerate(self.signature.operands):
            if operand.kind == "row" and operand.vjp is not None:
                left: Sequence[int] | None = None
                if self.whole is not None:
                    g, y = cotangents.buffers[self.out.dtype], values.buffers[self.out.dtype]
                    left = self.whole.back(i, cotangents.buffers[operand.dtype], g, y, *self._arrays(values))
                if left is None or len(left):
                    self._pull_each(xp, values, cotangents, i, left)

    def _pull_each(self, xp: ArrayModule, values: Arena, cotangents: Arena, i: int, left: Sequence[int] | None) -> None:
        for form, at, reads in self._steps(left):
            g, y = _view_here(cotangents, form.dtype, at, form.shape), _view_here(values, form.dtype, at, form.shape)
            vjp = form.signature.operands[i].vjp
            form.give(xp, cotangents, i, reads[i], vjp(xp, g, y, *form.arrays(xp, values, reads)))

    def gradient(self, i: int, values: Arena, cotangents: Arena) -> Array | None:
        """The gradient of a parameter, an operand, if it can be had of all nodes in one call."""
        if self.whole is None:
            return None
        g, y = cotangents.buffers[self.out.dtype], values.buffers[self.out.dtype]
        return self.whole.gradient(i, g, y, *self._arrays(values))

    def nodes(
        self, xp: ArrayModule, values: Arena, cotangents: Arena
    ) -> list[tuple[Signature, Array, Array, list[Array]]]:
        """Of each node its signature, cotangent, value and operands: what gradients of parameters are made of."""
        found = []
        for form, at, reads in self._steps(None):
            g, y = _view_here(cotangents, form.dtype, at, form.shape), _view_here(values, form.dtype, at, form.shape)
            found.append((form.signature, g, y, form.arrays(xp, values, reads)))
        return found


def _source_of(operand: Operand, at: Any) -> Any:
    """Where the operands of all nodes are: see `Loop`."""
    if operand.kind == "shared":
        return operand_reader(operand, None, False)
    return operand.dtype if operand.kind == "row" else at


def _by_node(read: Any, count: int) -> list[Any]:
    """What each of the nodes of a `Loop` reads, as integers and floats of Python."""
    if read is None:
        return [None] * count
    return [one.tolist() for one in read] if isinstance(read, tuple) else read.tolist()


def bound_of(launch: Launch) -> Bound:
    """A launch as it is run."""
    return Bound(launch) if launch.each is None else Loop(launch)


def _unread(vjps: Sequence[Any], count: int) -> tuple[frozenset[int], frozenset[int]]:
    """Which of ``y`` and ``count`` operands none of the vjps looks at, and of which they look at the shape alone."""
    unread = frozenset(range(count + 1)).difference(*[looked_at(vjp, count) for vjp in vjps])
    shapes = frozenset[int]().union(*[shapes_wanted(vjp) for vjp in vjps]) & unread
    return unread - shapes, shapes


def pull_all(launches: tuple[Bound, ...], xp: ArrayModule, values: Arena, cotangents: Arena) -> None:
    """The launches backward, the last first."""
    for i in range(len(launches) - 1, -1, -1):
        launch = launches[i]
        if launch.signature.differentiable:
            launch.pull(xp, values, cotangents)


def bound(plan: Plan) -> tuple[Bound, ...]:
    """The launches of a plan, bound when it first runs."""
    found: tuple[Bound, ...] | None = plan.bound.get("launches")
    if found is None:
        there = () if plan.like is None else bound(plan.like)
        found = plan.bound["launches"] = _bound_launches(plan.launches, there)
        if not plan.layout.reuses:
            _begin_at_once(found)
    return found


def _begin_at_once(steps: Sequence[Bound]) -> None:
    """Let results on a device that begin as an operand which all share do so in one launch, where those of several lie
    one behind the other, as those of a phase do."""
    alike: dict[int, list[Bound]] = {}
    for step in steps:
        if step.does == DO_KERNEL and step.signature.type.device != "cpu" and not isinstance(step, Loop):
            alike.setdefault(id(step.signature), []).append(step)
    for some in alike.values():
        signature = some[0].signature
        begins = None if len(some) == 1 else beginning_of(signature.forward)
        if begins is not None and signature.operands[begins[0]].kind == "shared":
            writes = sorted([step.launch.writes for step in some], key=lambda rows: rows.offset)
            if all(a.offset + a.count * a.width == b.offset for a, b in itertools.pairwise(writes)):
                count, (_, width, offset, *_) = sum(rows.count for rows in writes), writes[0]
                every = rows_reader(signature.type.dtype, Rows(count, width, offset, width), signature.type.shape)
                for step in some:
                    step.begins = (*begins, every if step is some[0] else None)


def bound_for_parameters(plan: Plan) -> tuple[Bound, ...]:
    """The launches for the gradients of a plan's parameters, bound when a backward first asks."""
    found: tuple[Bound, ...] | None = plan.bound.get("parameters")
    if found is None:
        before = () if plan.first is None else bound_for_parameters(plan.first)
        found = plan.bound["parameters"] = bound_among(plan.parameter_launches, (*bound(plan), *before))
    return found


def bound_among(launches: Sequence[Launch], there: Sequence[Bound]) -> tuple[Bound, ...]:
    """The launches as they are run; those that are bound ``there`` are as they are."""
    known = {id(b.launch): b for b in there}
    return tuple([known.get(id(launch)) or bound_of(launch) for launch in launches])


def _bound_launches(launches: Sequence[Launch], there: tuple[Bound, ...]) -> tuple[Bound, ...]:
    """The launches as they are run; those that were bound ``there``, for another plan, are as they are."""
    if not there:
        return tuple([bound_of(launch) for launch in launches])
    return tuple([b if b.launch is launch else b.again(launch) for launch, b in zip(launches, there, strict=True)])


def parameter_of(kind: Type) -> Parameter:
    """The parameter that a type belongs to; the tapes of the nodes that use it keep it alive."""
    assert kind.parameter is not None
    parameter = kind.parameter()
    assert isinstance(parameter, Parameter)
    return parameter

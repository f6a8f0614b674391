"""What recording writes on: a tape of flat arrays, and the interned signatures that its rows point to.

A node is not an object. It is one row of a `Tape`: the number of its `Signature`, the rows of its operands, and its
payload (an index, a scalar, a position in a list of arrays). So building a graph leaves nothing for the garbage
collector to walk, nothing has to be collected before scheduling, and a node costs about a dozen bytes.

A signature says all that must agree for two nodes to run in one launch: the operation, its static attributes, and of
each operand the `Type`, or, for a parameter, which one. Signatures are interned: found by comparing keys, never hashes
alone. Python scalars and indices are payload, not signature, or ``x / len(sentence)`` would stop batching.
"""

from __future__ import annotations

import itertools
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from lazyflow import passes, settings
from lazyflow.core.arrays import Ints
from lazyflow.core.columns import ELEMENTS, Counts, FloatColumn, IntColumn, Scope
from lazyflow.device import Array, DType, HostArray, elements
from lazyflow.errors import DeviceError, ThreadError, user_line
from lazyflow.locks import Lock, owner
from lazyflow.ops.base import NOTHING, Abstract, Aval, Op, Result, Shape
from lazyflow.random import Stream
from lazyflow.record.trace import Body, Trace

T = TypeVar("T")


# What is held here of things that stand below: what is read of them by whoever has only a tape or a signature.


class CellProgram(Protocol):
    """The body of a cell: `lazyflow.cells.program.Program`."""

    @property
    def name(self) -> str: ...
    @property
    def outputs(self) -> tuple[int, ...]: ...
    @property
    def parameters(self) -> tuple[Type, ...]: ...
    @property
    def flows(self) -> HostArray: ...
    @property
    def reached(self) -> tuple[frozenset[int], ...]: ...
    def staged(self, external: frozenset[int], outside: frozenset[int], grad: bool, fuse: str) -> Any: ...


class PastRun(Protocol):
    """A run that has computed rows of a tape: `lazyflow.run.execute.Run`."""

    @property
    def number(self) -> int: ...
    def supersede(self) -> None:
        """Say that values of this run were forgotten."""


class Replaced(Protocol):
    """A parameter, in whose place others may be put."""

    epoch: int


class Type:
    """Shape, dtype, device and differentiability of one example's value, interned: equal types are one object.

    A parameter has a type of its own, with ``parameter`` set: its identity is part of the signatures it occurs in.
    """

    __slots__ = (
        "__weakref__", "detached", "device", "dtype", "epoch", "ndim", "parameter", "plain", "requires_grad",
        "shape", "signatures", "size",
    )  # fmt: skip

    def __init__(
        self, shape: Shape, dtype: DType, device: str, requires_grad: bool, parameter: Replaced | None = None
    ) -> None:
        self.shape, self.dtype, self.device, self.requires_grad = shape, dtype, device, requires_grad
        self.ndim, self.size = len(shape), elements(shape)
        self.parameter: weakref.ref[Any] | None = None if parameter is None else weakref.ref(parameter)
        self.detached = False  # of a parameter that is used without its gradient
        self.epoch = 0 if parameter is None else parameter.epoch  # how often a module had put another in its place
        # Signatures, and memos of them, in which this type is the first parameter: they go when the parameter goes.
        self.signatures: dict[object, Any] = {}
        self.plain: Type | None = None  # the same without gradient, once asked for
        if parameter is not None:
            _owners[id(self)] = self

    def __repr__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}" + (" parameter" if self.parameter is not None else "")


# What is interned is found in two steps. Tables of strong references, which recording reads, hold what was lately asked
# for; behind them are weak ones, of all that anybody holds. When `MOST_INTERNED` types and signatures were made since
# the last time, the strong tables are emptied, and what no tape, handle or plan needs goes: see `_sweep`.

MOST_INTERNED = 2048
_TYPES: weakref.WeakValueDictionary[object, Type] = weakref.WeakValueDictionary()
_INTERNED: weakref.WeakValueDictionary[object, Signature] = weakref.WeakValueDictionary()
_owners: weakref.WeakValueDictionary[int, Type] = weakref.WeakValueDictionary()  # the types of parameters
_tapes: list[weakref.ref[Tape]] = []  # all that are alive, and some that are no more
_tables: list[dict[object, object]] = []
_swept: list[object] = []  # what the tables held when they were emptied last
_interning = Lock()
_made = 0

Table = TypeVar("Table", bound="dict[Any, Any]")


def table_of_interned(table: Table) -> Table:
    """A table of types and signatures that is emptied now and then: what it misses is interned again."""
    _tables.append(table)
    return table


_types: dict[object, Type] = table_of_interned({})


def intern_type(shape: Shape, dtype: DType, device: str = "cpu", requires_grad: bool = False) -> Type:
    """The one `Type` of these properties."""
    key = shape, dtype, device, requires_grad
    found = _types.get(key)
    if found is None:
        found = _types[key] = _interned(_TYPES, key, lambda: Type(shape, dtype, device, requires_grad))
    return found


def without_gradient(kind: Type) -> Type:
    """The type of values that are as those of ``kind``, and through which no gradient flows."""
    if not kind.requires_grad:
        return kind
    if kind.plain is None:
        kind.plain = intern_type(kind.shape, kind.dtype, kind.device)
    return kind.plain


def interned(key: object, make: Callable[[], Signature]) -> Signature:
    """The one signature of a key, which says all that it depends on. The caller keeps it in a `table_of_interned`, or
    on a tape."""
    return _interned(_INTERNED, key, make)


def _interned(known: weakref.WeakValueDictionary[object, T], key: object, make: Callable[[], T]) -> T:
    global _made
    with _interning:
        found = known.get(key)
        if found is None:
            found = known[key] = make()
            _made += 1
            if _made > MOST_INTERNED:
                _made = 0
                _sweep()
        return found


def _sweep() -> None:
    """Empty the tables of what is interned.

    A tape has but the numbers of its signatures, so first of all it gets them to hold. Somebody may just have looked a
    signature up and be about to record a node of it: what the tables held is let go at the next sweep, when that node
    is on its tape.
    """
    for tape in _alive(_tapes.copy()):
        tape.keep.update([s for i in set(tape.signatures) if (s := _SIGNATURES[i]()) is not None])
    owners = _alive(_owners.valuerefs())
    _swept[:] = [entry for table in (*_tables, *(t.signatures for t in owners)) for entry in _emptied(table)]


def _emptied(table: dict[Array, Array]) -> Iterator[object]:
    """All entries of a table, one by one: what another thread adds meanwhile is taken, or stays."""
    with suppress(KeyError):
        while True:
            yield table.popitem()


def _alive(references: Iterable[weakref.ref[T]]) -> list[T]:
    return [found for ref in references if (found := ref()) is not None]


_most_tapes = 1024


def _enlist(tape: Tape) -> None:
    """Note that there is this tape. Now and then those that are no more are dropped."""
    global _most_tapes
    _tapes.append(weakref.ref(tape))
    if len(_tapes) > _most_tapes:
        with _interning:  # nobody else drops any, or looks for those that are alive; what is added comes behind
            seen = _tapes.copy()
            alive = [ref for ref in seen if ref() is not None]
            _tapes[: len(seen)] = alive
            _most_tapes = max(1024, 2 * len(alive))


class Inline:
    """In place of a type in a signature's key: a scalar or an index that is payload of the node."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return self.kind


SCALAR, INDEX = Inline("scalar"), Inline("index")
RAGGED = -1  # in place of a signature's number of operand rows: each node says it itself, as its first integer


class Operand(NamedTuple):
    """One operand in a signature: where a node keeps it and how the kernel wants to see it.

    ``kind`` is ``"row"`` (the ``position``-th of the node's operand rows), ``"shared"`` (a parameter), ``"int"`` or
    ``"float"`` (the ``position``-th of the node's payload numbers), ``"place"``, ``"count"`` or ``"ends"`` (see
    `lazyflow.ops.rows.ByParts`). ``shape`` is that of one example, padded with ones in front for an elementwise
    operation; ``vjp`` is None where no gradient is wanted.
    """

    kind: str
    position: int
    type: Type | None
    shape: Shape
    dtype: DType
    vjp: Callable[..., Array] | None


_serials = itertools.count()


class Signature:
    """All that the nodes of one launch have in common. See `intern` for how one comes to be."""

    __slots__ = (
        "__weakref__",
        "cell",
        "differentiable",
        "draws",
        "family",
        "floats",
        "forward",
        "further",
        "id",
        "ints",
        "line",
        "loops",
        "op",
        "operands",
        "rows",
        "serial",
        "spans",
        "static",
        "type",
        "walks",
        "widths",
    )

    def __init__(
        self, op: Op, operands: tuple[Operand, ...], result: Type, static: Mapping[str, object], rows: int
    ) -> None:
        self.op, self.operands, self.type, self.static, self.rows = op, operands, result, static, rows
        self.ints = sum(o.kind == "int" for o in operands)
        self.floats = sum(o.kind == "float" for o in operands)
        self.forward = partial(op.forward, **static) if static else op.forward
        # Of a cell: its program, and the signatures of its results but the first, which stand behind it on the tape.
        self.cell: CellProgram = None  # type: ignore[assignment]  # of a cell alone
        self.further: tuple[Signature, ...] = ()
        # Which payload integers are the seed and the count of a draw.
        self.draws: tuple[tuple[int, int], ...] = ((0, 1),) if op.random else ()
        self.differentiable = any(o.vjp is not None for o in operands)
        # How many elements a row of the result, and of each operand by its position among the rows, takes in memory.
        self.widths = (
            max(result.size, 1),
            {o.position: max(o.type.size, 1) for o in operands if o.kind == "row" and o.type},
        )
        # Of a signature of rows (see `lazyflow.graph.joined`): of each operand whether it has one for each row of the
        # result.
        self.walks: tuple[bool, ...] | None = None
        # Where each operand has rows of its own number: which of the sizes of a node's `family` that is.
        self.spans: tuple[int, ...] | None = None
        self.family: Any = None  # what nodes of other lengths share with these, once it was asked for
        self.loops = False  # of a signature of nodes of any shapes, which a launch takes one by one
        self.line = user_line()
        self.serial = next(_serials)  # never used again, while ids are
        self.id = _enroll(self)

    @property
    def by_element(self) -> bool:
        """Whether each element of the result is computed of the elements at its place."""
        return self.op.elementwise or self.op.name == "astype"

    def __repr__(self) -> str:
        kinds = ", ".join(self._kinds())
        static = "".join(f", {name}={value}" for name, value in self.static.items() if value != "")
        how = "each of " if self.loops else "" if self.walks is None else "rows of "
        return f"{how}{self.op.name}({kinds}{static}) -> {self.type}"

    def _kinds(self) -> Iterator[str]:
        """What the operands are; those of a cell may be many, equal ones in a row are counted."""
        for kind, same in itertools.groupby(str(o.type or o.kind) for o in self.operands):
            count = len(list(same))
            yield from [f"{count} x {kind}"] if self.cell is not None and count > 1 else [kind] * count


# Flat columns of all signatures ever made, indexed by id, so that whole tapes are decoded by NumPy look-ups.
_SIGNATURES: list[weakref.ref[Signature]] = []
_ROWS, _INTS, _FLOATS, _KINDS = array("i"), array("i"), array("i"), array("i")
_enrolling = Lock()
_columns: list[Columns] = []  # what they are now as NumPy arrays, once asked for


_free: list[int] = []  # ids of signatures that have died with their parameters


def _number_freed(number: int, append: Callable[[int], None], _: object) -> None:
    """The signature of that number is no more; ``append`` is given, for at the end of the process names may be gone."""
    append(number)


def _enroll(signature: Signature) -> int:
    with _enrolling:
        number = _free.pop() if _free else len(_SIGNATURES)
        if number == len(_SIGNATURES):
            for column in (_ROWS, _INTS, _FLOATS, _KINDS):
                if len(column) == number:  # longer where memory ran out behind it the last time
                    column.append(0)
            _SIGNATURES.append(weakref.ref(signature))
        _ROWS[number], _INTS[number], _FLOATS[number] = signature.rows, signature.ints, signature.floats
        _KINDS[number] = _KIND_OF.get(id(signature.op), passes.PLAIN_ROW)
        _columns.clear()
        # The callback may run while this very lock is held: appending to a list needs none.
        _SIGNATURES[number] = weakref.ref(signature, partial(_number_freed, number, _free.append))
        return number


def signature_by_id(number: int) -> Signature:
    """The signature of that number; it is alive as long as a tape has a node of it."""
    found = _SIGNATURES[number]()
    assert found is not None, "a tape keeps the signatures of its nodes alive"
    return found


class Columns(NamedTuple):
    """Of each signature ever made, by id: operand rows, integers and floats of a node, and which kind of node it is
    (see `lazyflow.passes`)."""

    rows: Ints
    ints: Ints
    floats: Ints
    kinds: Ints


def signature_columns() -> Columns:
    """The columns of all signatures, as int32 arrays."""
    found = _columns[:1]
    if not found:
        with _enrolling:  # copies: an exported buffer would forbid appending
            count = len(_SIGNATURES)  # columns may be longer, see `_enroll`
            found = [Columns(*(np.array(c, dtype=np.int32)[:count] for c in (_ROWS, _INTS, _FLOATS, _KINDS)))]
            _columns[:] = found
    return found[0]


def payload_starts(tape: Tape) -> tuple[list[int], list[int]]:
    """Where the integers and the operands of each row of a short tape begin, and where those of the last end."""
    ints, operands = [0], [0]
    int_end = operand_end = 0
    for number in tape.signatures.tolist():
        rows = _ROWS[number]
        if rows == RAGGED:
            rows = tape.ints[int_end] if int_end < len(tape.ints) else 0
        int_end += _INTS[number]
        operand_end += rows
        ints.append(int_end)
        operands.append(operand_end)
    return ints, operands


def _leaf(name: str) -> Op:
    def infer(*operands: Abstract, **attrs: object) -> Result:
        raise TypeError(f"{name} has no shape rule")

    return Op(name, infer, infer)


# Nodes that no kernel computes: an array given by the user, a value computed on an earlier tape, and another node's
# memory seen under another shape, at an offset in elements, or without its gradient.
# A KNOWN node stands in a graph for a value that an earlier run computed. An OUTPUT node is a result of the cell call
# before it, of which the first result is the call itself; an INPUT stands for an operand while a cell is traced.
CONSTANT_OP, IMPORT_OP, VIEW_OP, KNOWN_OP = _leaf("constant"), _leaf("import"), _leaf("view"), _leaf("known")
OUTPUT_OP, INPUT_OP = _leaf("output"), _leaf("input")
_KIND_OF = {id(VIEW_OP): passes.VIEW_ROW, id(IMPORT_OP): passes.IMPORT_ROW, id(OUTPUT_OP): passes.OUTPUT_ROW}

_known_signatures: dict[Type, Signature] = table_of_interned({})


def known_signature(kind: Type) -> Signature:
    """The signature of values of a type that were computed before."""
    found = _known_signatures.get(kind)
    if found is None:
        found = _known_signatures[kind] = interned((KNOWN_OP, kind), lambda: leaf_signature(KNOWN_OP, kind, ints=0))
    return found


class Computed:
    """What runs have left on a tape, made when the first does. Of each row an index into ``runs``, -1 where it has no
    value, and the element where that lies; ``touched``: the rows that each run has noted, or None for all of them."""

    __slots__ = ("offset_of", "run_of", "runs", "touched")

    def __init__(self, runs: list[PastRun], run_of: Ints, offset_of: Ints, touched: list[Ints | None]) -> None:
        self.runs, self.run_of, self.offset_of, self.touched = runs, run_of, offset_of, touched

    def forget(self) -> None:
        """Drop it, row by row."""
        for rows in self.touched:
            self.run_of[slice(None) if rows is None else rows] = -1
        self.touched, self.runs = [], []  # last: an interrupt must not leave rows that point to no run


class Tape:
    """Nodes in the order they were recorded; row numbers are topological.

    ``scope``: where the fast paths may append, which compare it with `lazyflow.settings.now`. ``sealed``: nobody may (a
    forward came by, or the block that it was recorded in was left); what is recorded next goes onto a fresh tape, which
    *imports* the rows it reads of this one. A tape lives as long as a handle or a later tape points to it.
    """

    __slots__ = (
        "__weakref__",
        "body",
        "computed",
        "decoded",
        "device",
        "drawn",
        "dtype",
        "floats",
        "generation",
        "grad",
        "handles",
        "hooks",
        "imported",
        "imports",
        "ints",
        "keep",
        "lines",
        "number",
        "objects",
        "operands",
        "options",
        "owner",
        "owners",
        "reach",
        "ready",
        "remembered",
        "retained",
        "scope",
        "sealed",
        "signatures",
        "streams",
        "trace",
    )

    def __init__(self, options: settings.Settings) -> None:
        self.signatures, self.operands, self.ints, self.floats = IntColumn(), IntColumn(), IntColumn(), FloatColumn()
        self.handles: Any = Counts()  # of each row, how many expressions there are of it; None where nobody counts
        self.objects: dict[int, Array] = {}  # the snapshots of constants, by row
        self.imports: list[tuple[Tape, int]] = []
        self.imported: dict[tuple[object, ...], int] = {}
        self.keep: set[object] = set()  # parameters and their signatures; after a sweep the signatures of all rows
        self.ready: dict[object, int] = {}  # the signatures of cells that may be recorded on it as things stand
        self.device, self.dtype, self.grad, self.options = options.device, options.dtype, options.grad, options
        self.lines: list[str] | None = [] if options.check_finite else None
        self.owner = owner()
        self.owners = self.owner.alone  # with those of the tapes that it imports from
        self.scope: Scope | None = None
        self.sealed = False
        self.number = next(_tape_numbers)
        _enlist(self)
        self.generation = 0  # how often its values were dropped because a parameter had changed
        self.streams: dict[int, Stream] = {}  # by seed: what its random nodes draw from
        self.drawn: dict[int, int] = {}  # the generation in which a random row has drawn, if not the first
        self.computed: Computed | None = None  # where values are, once there are any
        self.retained: dict[int, Array] = {}
        self.remembered: dict[int, list[object]] = {}  # by row: where its first value goes (see `expr.first_value`)
        self.hooks: dict[int, list[Any]] = {}
        # Of a sealed tape: where each row's operands begin, and the ranges that a kept root rests on, once asked for.
        self.decoded: Any = None
        self.reach: dict[int, Any] = {}
        # Of a tape that the body of a cell is recorded on: who that is, and, if it becomes a program, its payload.
        self.body: Body | None = None
        self.trace: Trace | None = None

    def __len__(self) -> int:
        return len(self.signatures)

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded graph, without the arrays of its constants."""
        return sum([a.itemsize * len(a) for a in (self.signatures, self.operands, self.ints, self.floats)])

    def forget(self) -> None:
        """Drop what was computed; of a long tape only where something was."""
        found = self.computed
        if found is not None and sum([len(self) if t is None else len(t) for t in found.touched]) < len(self) // 4:
            found.forget()
        else:
            self.computed = None

    @property
    def runs(self) -> list[PastRun]:
        """Those that have computed rows of it."""
        return [] if self.computed is None else self.computed.runs

    def has_value(self, row: int) -> bool:
        """Whether the row itself (not a view of it) has a value in some run."""
        return self.computed is not None and ELEMENTS.number(self.computed.run_of, row) >= 0

    def place_of(self, row: int) -> tuple[Any, int]:
        """Run and element offset of a row that has a value."""
        found = self.computed
        assert found is not None, "nothing of it was computed"
        return found.runs[ELEMENTS.number(found.run_of, row)], ELEMENTS.number(found.offset_of, row)

    @property
    def open(self) -> bool:
        """Whether a fast path may append to it here."""
        return self.scope is not None and self.scope is settings.now()

    def seal(self) -> None:
        """Let nobody append any more. Raises `ThreadError` if another thread may be doing so at this moment."""
        if not self.sealed and self.owner is not owner() and self.owner.is_alive():
            raise ThreadError(
                f"{user_line()}: uses an expression that the thread {self.owner.name!r} recorded and may go on from at "
                "this moment: let that thread compute it (forward) or record it in a block (with lf.using():), which "
                "ends its tape, or record it in this thread"
            )
        self.sealed = True
        self.scope = None
        self.ready.clear()


_tape_numbers = itertools.count()


def current_tape() -> Tape:
    """The tape that this context records on; a fresh one if the last was sealed or nobody holds it any more.

    A context that was copied into another thread has its settings, and never its tape.
    """
    scope: Scope = settings.SCOPE.get()
    if scope.entries:
        scope = settings.here()
    if scope.owner is not owner():
        scope = settings.owned(scope)
    tape: Tape | None = scope.tape()
    if tape is None or tape.sealed:
        tape = Tape(scope.settings)
        tape.scope = scope if tape.lines is None else None
        scope.tape = weakref.ref(tape)
    return tape


class recording_on(settings.using):
    """Record on this very tape in a ``with`` block."""

    ends_tape = False

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.on = weakref.ref(tape)

    def scope(self, outer: Scope, entry: settings.Entry) -> Scope:
        inside = super().scope(outer, entry)
        inside.owner, inside.tape = owner(), self.on
        tape = self.on()
        if tape is not None and tape.lines is None:
            tape.scope = inside
        return inside


def different_devices(op: Op, devices: Sequence[str]) -> DeviceError:
    """The error for operands that lie on several devices."""
    return DeviceError(
        f"{op.name}: the operands are on different devices, {' and '.join(devices)}; "
        "move the module with .to(device) or record under lf.using(device=...)"
    )


def check_device(op: Op, types: tuple[Type | Inline, ...]) -> str:
    """The one device that all operands are on, or a `DeviceError`."""
    devices = sorted({t.device for t in types if isinstance(t, Type)})
    if len(devices) > 1:
        raise different_devices(op, devices)
    return devices[0] if devices else settings.current().device


def _scalar_dtype(types: tuple[Type | Inline, ...]) -> DType:
    # NEP 50: a Python float is weak, it takes the floating dtype it meets and makes integers float64.
    return np.result_type(*(t.dtype for t in types if isinstance(t, Type)), 1.0)


def _abstract(op: Op, types: tuple[Type | Inline, ...]) -> list[Abstract]:
    scalar = Aval((), _scalar_dtype(types)) if SCALAR in types else None
    index = Aval((), np.dtype(np.int64))
    return [t if isinstance(t, Type) else scalar if t is SCALAR and scalar else index for t in types]


def build(op: Op, types: tuple[Type | Inline, ...], attrs: Mapping[str, object]) -> Signature:
    """The signature of ``op`` on operands of these types: runs the shape rule, which raises if they do not fit."""
    device = check_device(op, types)
    avals = _abstract(op, types)
    shape, dtype, static = op.infer(*avals, **attrs)
    ndim = len(shape)
    stacked = types[:1] if op.stacked else types
    operands, counts = [], {"row": 0, "int": 0, "float": 0, "shared": 0}
    for i, (kind_of, aval) in enumerate(zip(stacked, avals, strict=False)):
        kind = {SCALAR: "float", INDEX: "int"}.get(kind_of) or ("row" if kind_of.parameter is None else "shared")  # type: ignore
        wants = isinstance(kind_of, Type) and kind_of.requires_grad and dtype.kind == "f" and i < len(op.vjps)
        vjp = op.vjps[i] if wants else None
        pads = op.elementwise or kind == "float"
        padded = (1,) * (ndim - len(aval.shape)) + aval.shape if pads else aval.shape
        operands.append(
            Operand(
                kind,
                counts[kind],
                kind_of if isinstance(kind_of, Type) else None,
                padded,
                aval.dtype,
                partial(vjp, **static) if vjp and static else vjp,
            )
        )
        counts[kind] += 1
    differentiable = any(o.vjp is not None for o in operands)
    result = intern_type(shape, dtype, device, differentiable)
    if op.ragged:  # the number of operands is payload: nodes of any number share a launch
        operands.append(Operand("int", 0, None, (), np.dtype(np.int64), None))
    rows = RAGGED if op.ragged else len(types) if op.stacked else counts["row"]
    return Signature(op, tuple(operands), result, static or NOTHING, rows)


def by_program(*_: object) -> Array:
    """In place of a vjp of a cell's operand: its program computes all cotangents at once."""
    raise TypeError("the cotangents of a cell are computed by its program")


def output_signature(call: Type, result: Type) -> Signature:
    """The signature of a further result of a cell, a node that reads the call before it."""
    vjp = by_program if result.requires_grad else None
    return Signature(OUTPUT_OP, (Operand("row", 0, call, call.shape, call.dtype, vjp),), result, NOTHING, 1)


def leaf_signature(op: Op, result: Type, *, ints: int = 1, operand: Type | None = None) -> Signature:
    """The signature of a constant, an import or a view."""
    row = () if operand is None else (Operand("row", 0, operand, operand.shape, operand.dtype, None),)
    payload = tuple(Operand("int", i, None, (), np.dtype(np.int64), None) for i in range(ints))
    return Signature(op, row + payload, result, NOTHING, len(row))

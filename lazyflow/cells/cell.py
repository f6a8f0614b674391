"""``@lf.cell``: a function of expressions that is recorded as one node.

The body runs on a tape of its own, and what it recorded there becomes a `Program` (`lazyflow.cells.program`). A call
then appends one row to the tape, and one more for each further result.

A program is found in three ways, each slower and more general than the one before. By code that was printed for one way
to call the cell (`lazyflow.cells.recorder`). By a key of all that the call depends on: the structure of the arguments,
the types of the expressions in it, the settings, and what the body can see besides (`lazyflow.cells.visible`). And by
what the body records: where the key is new, or what the body sees cannot be watched, the body runs, and where it
records what it has recorded before, that program is taken.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow import settings
from lazyflow.cells.costs import Costs
from lazyflow.cells.program import call_signature, program_of
from lazyflow.cells.recorder import (
    EXPRESSION,
    NUMBER,
    OBJECT,
    FastPath,
    Payload,
    Recorder,
    is_sequence,
    path_of,
    results_rebuilt,
    sequence_of,
)
from lazyflow.cells.visible import (
    EVERY,
    FORMATS,
    IS,
    MISSING,
    Reach,
    Seen,
    VisiblePath,
    bits,
    hides_state,
    is_behind,
    see,
)
from lazyflow.cells.ways import COMPILED, LaidOut, Ways, steps_recorded
from lazyflow.errors import CellError, generated, python_signature
from lazyflow.graph.graph import collect
from lazyflow.graph.reading import Reading
from lazyflow.locks import Lock
from lazyflow.ops import OPS
from lazyflow.random import Stream
from lazyflow.record.expr import (
    STRUCTURE,
    Expr,
    Parameter,
    append,
    constant,
    handle,
    local_row,
    record,
    require_movable,
    type_on,
)
from lazyflow.record.tape import (
    INPUT_OP,
    Signature,
    Tape,
    Type,
    current_tape,
    interned,
    leaf_signature,
    recording_on,
    signature_by_id,
    table_of_interned,
)
from lazyflow.record.trace import Body, Trace, TracedNumber
from lazyflow.settings import Function

__all__ = ["cell", "cell_of_any_length"]


MOST_KEPT = 512  # keys, and programs, that are kept of one function or of a method of one object; the oldest go first
# Lengths of matrices in its arguments: operations of more share launches (`lazyflow.graph.joined`), calls do not.
MOST_LENGTHS = 8
PRINTED_WAYS = 64  # to call it on one object, that are recorded by code printed for them; a compiled way is data
CODE_PATIENCE = 256  # so often code is printed for one object
WAYS_PATIENCE = 4 * MOST_KEPT  # so often a way is made for one object


# Arguments, taken apart.


class _FlatArguments:
    """Arguments taken apart: the structure that is left, hashable, and the leaves in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.structure: object = None
        self.expressions: list[Expr] = []
        self.numbers: list[float] = []
        self.objects: list[object] = []
        self.copied: list[object] = []  # what the body gets something else for
        self.arrays: list[Any] = []
        self.places: list[int] = []  # of arrays among the expressions

    def part(self, value: Any) -> object:
        """The structure of a value: expressions, arrays, numbers and objects are leaves, containers are looked into."""
        kind = type(value)
        if kind is Expr:
            self.copied.append(value)
            self.expressions.append(value)
            return EXPRESSION
        if kind is tuple or kind is list:
            self.copied.append(value)
            return (kind, *[self.part(v) for v in value])
        if _is_number(value, kind):
            self.numbers.append(value)
            return value.__class__, NUMBER
        if kind is dict:
            self.copied.append(value)
            return (dict, *[(self._key(k), self.part(v)) for k, v in value.items()])
        if kind is str or kind is bool or value is None:
            return kind, value
        if isinstance(value, Parameter):
            return Parameter, value.type, value.name
        if isinstance(value, np.ndarray) or hasattr(kind, "__cuda_array_interface__"):
            self.arrays.append(value)
            self.copied.append(value)
            self.places.append(len(self.expressions))
            self.expressions.append(constant(value))
            return EXPRESSION
        if is_sequence(kind):
            self.copied.append(value)
            self.objects.append(kind)  # what its methods read counts
            return (kind, *[self.part(v) for v in value])
        self.objects.append(self._checked(value))
        return OBJECT

    def _key(self, key: object) -> object:
        if type(key) is str or type(key) is int:
            return type(key), key
        self.objects.append(key)
        return OBJECT

    def _checked(self, value: object) -> object:
        if hasattr(value, "__next__") and hides_state(type(value)):
            raise TypeError(
                f"{self.name}: a {type(value).__name__} is empty once the body has run; pass a list or a tuple of it"
            )
        if type(value).__hash__ is None and hides_state(type(value)) and type(value) is not slice:
            raise TypeError(
                f"{self.name}: every argument that is no expression must be hashable, for a program is made for each "
                f"of its values, got a {type(value).__name__}; pass tuples, lists, dicts, or expressions and arrays"
            )
        return value


def _is_number(value: object, kind: type) -> bool:
    """Whether an argument is a number; one of a cell that calls this one stands for it."""
    return kind is int or kind is float or kind is TracedNumber or isinstance(value, np.integer | np.floating)


# By these names a body could see that it has an expression in place of an array, or asks for what only an array has.
_TELL_ARRAYS = EVERY | frozenset(
    {
        "ndarray", "Expr", "__class__", FORMATS, "AttributeError", "base", "byteswap", "copy", "ctypes", "data",
        "dumps", "fill", "flags", "flat", "getfield", "itemsize", "nbytes", "setflags", "strides", "tobytes",
        "tofile", "tolist", "view", "__array_interface__", "__array_struct__",
    }
)  # fmt: skip
# Who names one of these may ask for a setting that says how something is run.
_NOT_RECORDED = frozenset({f.name for f in fields(settings.Settings)} - set(settings.RECORDING))
_BY_VALUE = frozenset({"type", "__class__", IS})


def _tells_apart(flat: _FlatArguments, seen: Seen) -> bool:
    """Whether the body may see that what it gets in place of its arguments is something else: that two of them are one,
    or one that it knows, or an array."""
    if flat.arrays and _tells_arrays(seen):
        return True
    copied = [id(value) for value in flat.copied]
    return IS in seen.names and (len({*copied}) < len(copied) or not seen.met.keys().isdisjoint(copied))


def _tells_arrays(seen: Seen) -> bool:
    return not seen.names.isdisjoint(_TELL_ARRAYS) or id(np.ndarray) in seen.met or id(Expr) in seen.met


def _containers(value: Any) -> list[tuple[Any, list[object]]]:
    """The lists and dicts in a value, each with what it holds."""
    if isinstance(value, list | tuple):
        own = [(value, list(value))] if isinstance(value, list) else []
        return own + [found for v in value for found in _containers(v)]
    if type(value) is dict:
        return [(value, [*value.keys(), *value.values()]), *(f for v in value.values() for f in _containers(v))]
    return []


class _Unchanged:
    """What a body may not change of what it was given: lists and dicts, which are copies, and arrays, each with what it
    holds."""

    def __init__(self, name: str, given: Sequence[object], kept: Substitutes) -> None:
        self.name, self.containers = name, _containers(given)
        arrays = [(value, now) for value, now in kept if hasattr(value, "tobytes")]
        self.arrays = [(now, _copied(value) if value is now else value) for value, now in arrays]

    def check(self) -> None:
        """Raise `CellError` if one was changed."""
        for container, items in self.containers:
            now = [*container.keys(), *container.values()] if isinstance(container, dict) else container
            if len(now) != len(items) or any(a is not b for a, b in zip(now, items, strict=True)):
                self._refuse(f"a {type(container).__name__}")
        for now, before in self.arrays:
            if now.dtype != before.dtype or now.shape != before.shape or now.tobytes() != before.tobytes():
                self._refuse("an array")

    def _refuse(self, what: str) -> None:
        raise CellError(
            f"{self.name}: changes {what} among its arguments, and the change would be lost, for its body is recorded "
            "once and not run at every call: return the new one, or leave lf.cell off"
        )


class _StandIns:
    """What a body gets for its arguments: other expressions and numbers in the order of `_FlatArguments.part`, and
    lists, tuples and dicts of its own, ``kept`` for some. ``once``: whether what is given twice is one thing, of which
    a program has two operands."""

    def __init__(self, expressions: Iterable[Expr], numbers: Iterable[object], kept: Substitutes, once: bool) -> None:
        self.expressions, self.numbers, self.once = iter(expressions), iter(numbers), once
        self.known = {id(value): (value, given) for value, given in kept}

    def of(self, value: Any) -> object:
        """What stands for an argument, or for a part of one."""
        kind = type(value)
        if _is_number(value, kind):
            return next(self.numbers)
        found = self._made(value, kind)
        return self.known.setdefault(id(value), (value, found))[1] if self.once else found

    def _made(self, value: Any, kind: Any) -> object:
        if kind is Expr or isinstance(value, np.ndarray) or hasattr(kind, "__cuda_array_interface__"):
            return next(self.expressions)
        if kind is dict:
            return {k: self.of(v) for k, v in value.items()}
        return sequence_of(kind, [self.of(v) for v in value]) if is_sequence(kind) else value


# Arguments, each with what a body gets for it in place of what stands for others.
Substitutes = Sequence[tuple[Any, Any]]


def _substitutes(flat: _FlatArguments, seen: Seen) -> Substitutes:
    """What a body gets that would see others to be something else: copies of arrays, and what it knows itself."""
    known = [value for value in flat.copied if IS in seen.names and id(value) in seen.met]
    arrays = flat.arrays if _tells_arrays(seen) else []
    return [*[(value, value) for value in known], *[(a, _copied(a)) for a in arrays if not any(a is k for k in known)]]


def _copied(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return np.array(array, order="K", subok=True)
    return array.copy() if hasattr(array, "copy") else array


# Results, taken apart.


class _Results:
    """The structure of what a body returned, and the expressions in it. ``fixed``: whether what is left in it cannot
    change, so that every call may return the same."""

    def __init__(self, name: str, value: object, trace: Trace) -> None:
        self.name, self.expressions, self.fixed, self.trace = name, list[Expr](), True, trace
        self.structure = self._part(value)

    def _part(self, value: Any) -> object:
        if isinstance(value, Parameter):
            value = record(OPS["identity"], (value,))
        if type(value) is TracedNumber and value.trace is self.trace:
            value = value.needed()
        kind = type(value)
        if kind is Expr:
            self.expressions.append(value)
            return EXPRESSION
        if is_sequence(kind):
            return (kind, *[self._part(v) for v in value])
        if kind is dict:
            return (dict, *[(k, self._part(v)) for k, v in value.items()])
        if any(isinstance(part, Expr) for part in _held_by(value)):
            raise TypeError(
                f"{self.name}: returns a {kind.__name__} that holds expressions; return them in tuples, lists or "
                "dicts, and make the object of what a call returns"
            )
        self.fixed &= value is None or isinstance(value, str | int | float | complex | bytes | np.generic | type)
        return kind, value


def _held_by(value: object) -> list[object]:
    """What an object holds that is no container of a kind that is looked into."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return [] if isinstance(value, type) else list(getattr(value, "__dict__", {}).values())


# Tracing.


class _Traced(NamedTuple):
    """What one run of the body has recorded, behind rows for its inputs."""

    tape: Tape
    trace: Trace
    body: Body
    outputs: list[Expr]
    results: _Results


_input_signatures: dict[Type, Signature] = table_of_interned({})


def _input_signature(kind: Type) -> Signature:
    found = _input_signatures.get(kind)
    if found is None:
        found = _input_signatures[kind] = interned((INPUT_OP, kind), lambda: leaf_signature(INPUT_OP, kind, ints=0))
    return found


def _traced(
    name: str,
    function: Callable[[Sequence[object]], object],
    values: Sequence[object],
    flat: _FlatArguments,
    types: Sequence[Type],
    of_calls: bool,
    stood_for: bool,
    kept: Substitutes = (),
) -> _Traced:
    """Run the body on a tape of its own, with inputs of these types for the expressions among the values, and, where
    numbers are ``stood_for``, with what stands for them. ``of_calls``: it is to be a program of many calls."""
    tape, trace = Tape(settings.current()), Trace()
    tape.body = body = Body(name, tuple(flat.expressions), flat.places)
    if of_calls or current_tape().trace is not None:
        tape.trace = trace
    with recording_on(tape):
        signatures = [_input_signature(kind) for kind in types]
        tape.keep.update(signatures)
        inputs = [append(tape, signature, ()) for signature in signatures]
        numbers: Sequence[object] = flat.numbers
        if stood_for:
            numbers = [TracedNumber(trace, i, value, ("number", i)) for i, value in enumerate(flat.numbers)]
        stand_ins = _StandIns(inputs, numbers, kept, once=not of_calls)
        for e, own in zip(flat.expressions, inputs, strict=True):
            if id(e) in stand_ins.known:  # the body gets the expression itself
                tape.imported[e.tape.number, e.row, e.tape.generation] = own.row
        given = [stand_ins.of(v) for v in values]
        unchanged = _Unchanged(name, given, kept)
        results = _Results(name, function(given), trace)
        unchanged.check()
        outputs = _own_nodes(tape, results.expressions)
    return _Traced(tape, trace, body, outputs, results)


def _laid_out(traced: _Traced, expressions: Sequence[Expr]) -> object:
    """A call operation by operation: what its body has recorded, with these expressions in place of its inputs."""
    own, first, there = traced.tape, len(traced.body.inputs), current_tape()
    operands = own.operands[:]
    for e in traced.outputs[:1]:
        if e.device != "cpu":
            require_movable(signature_by_id(own.signatures[e.row]).op, e.device, expressions)
    rows = {row: local_row(there, expressions[row]) for row in sorted({*operands}) if row < first}
    payload = {"ints": own.ints[:], "floats": own.floats[:]}
    _payload_handed_on(traced.trace, there, payload, len(there) - first)
    low, shift = len(there), len(there) - first
    if there.lines is not None and own.lines is not None:
        there.lines[low:] = own.lines[first:]
    there.keep.update(own.keep)
    there.streams.update(own.streams)
    there.ints.extend(payload["ints"])  # in the order of `append`
    there.floats.extend(payload["floats"])
    there.signatures.extend(own.signatures[first:])
    there.operands.extend([rows[row] if row < first else row + shift for row in operands])
    there.objects.update({row + shift: found for row, found in own.objects.items()})
    return results_rebuilt(
        traced.results.structure, iter([handle(there, e.row + shift, e.type) for e in traced.outputs])
    )


def _payload_handed_on(trace: Trace, there: Tape, payload: dict[str, Any], shift: int) -> None:
    """Draw what a body draws, and have the trace of another cell that calls this one know of its numbers."""
    draws = [_drawn_anew(there, stream) for stream in trace.streams]
    for (row, column, place), number in trace.links.items():
        at, (what, which) = trace.places[row, column, place], number.payload
        found = number if what == "number" or number.trace is not trace else draws[which][what == "count"]
        if type(found) is not TracedNumber:
            payload[column][at] = found
        elif there.trace is not None:
            there.trace.link(found, row + shift, column, place, len(getattr(there, column)) + at - place)


def _drawn_anew(tape: Tape, stream: Stream) -> tuple[Any, Any]:
    if tape.trace is not None:
        return tape.trace.draw(stream)
    source = stream.here()
    drawn = source.following()
    tape.streams[drawn[0]] = source
    return drawn


def _own_nodes(tape: Tape, expressions: Sequence[Expr]) -> list[Expr]:
    """The results as nodes of their own: what is an operand, a view, a constant or a result already gets a copy."""
    seen: set[int] = set()
    found = []
    for e in expressions:
        known = signature_by_id(tape.signatures[e.row]) if e.tape is tape else None
        if known is None or known.op.name in ("input", "view", "constant") or e.row in seen:
            e = record(OPS["identity"], (e,))
        seen.add(e.row)
        found.append(e)
    return found


def _freed(traced: _Traced, flat: _FlatArguments) -> None:
    """Of a body that is run for every call: the numbers and arrays that it has found are operands of the call, so that
    others find the same program."""
    tape, trace, start = traced.tape, traced.trace, 0
    for row, number in enumerate(tape.signatures):
        signature = signature_by_id(number)
        for place in range(signature.floats):
            if (row, "floats", place) not in trace.links:
                value, position = tape.floats[start + place], len(flat.numbers)
                flat.numbers.append(value)
                trace.link(TracedNumber(trace, position, value, ("number", position)), row, "floats", place, start)
        start += signature.floats
    for row, found in tape.objects.items():
        trace.given[row] = len(flat.expressions)
        flat.expressions.append(constant(found))


def _content(traced: _Traced) -> tuple[object, ...]:
    """All that a program is made of: equal for two runs of a body that have recorded the same, but for payload."""
    tape, trace = traced.tape, traced.trace
    columns: dict[str, array[Any]] = {"ints": tape.ints[:], "floats": tape.floats[:]}
    for key, place in trace.places.items():
        columns[key[1]][place] = 0
    kinds = [signature_by_id(number) for number in tape.signatures]
    return (
        tuple([s.type if s.op is INPUT_OP else s for s in kinds]),
        tape.operands.tobytes(),
        *[column.tobytes() for column in columns.values()],
        tuple(
            [
                (row, a.dtype, a.shape, devices.to_host(a).tobytes())
                for row, a in tape.objects.items()
                if row not in trace.given
            ]
        ),
        tuple(trace.given),
        tuple([e.row for e in traced.outputs]),
        tuple([(key, number.payload) for key, number in trace.links.items()]),
    )


class _Program(NamedTuple):
    """Of a program: the signature of its calls, which expressions are their operands, and their payload."""

    signature: Signature
    operands: tuple[int, ...]
    payload: Payload


def _program_of(name: str, traced: _Traced) -> _Program | None:
    """The program of what a body recorded, or None if a result is the same for all calls."""
    if not traced.outputs:
        return None
    traced.tape.seal()
    whole = [Reading(traced.tape, None)]  # rows of the graph are rows of the tape
    found = program_of(name, collect(traced.outputs, anew=True, readings=whole), traced.tape, traced.trace)
    if found is None:
        return None
    program, operands, ints, floats = found
    signature = call_signature(program, [e.type for e in traced.outputs], len(ints), len(floats))
    places = {entry: place for place, entry in enumerate(ints)}
    draws = [k for k in range(len(traced.trace.streams)) if ("count", k) in places]
    signature.draws = tuple((places["seed", k], places["count", k]) for k in draws)
    return _Program(signature, operands, Payload(ints, floats))


def _body_of(traced: _Traced) -> tuple[LaidOut, tuple[int, ...], Payload]:
    """What a body recorded, as rows that stand for any other call, which expressions are its operands, and what fills
    their payload."""
    tape, trace, count = traced.tape, traced.trace, len(traced.body.inputs)
    columns = tape.signatures[count:], tape.ints[:], tape.floats[:]
    body = LaidOut([signature_by_id(number) for number in columns[0]], columns[1], columns[2])
    used = sorted({row for row in tape.operands[:] if row < count})
    body.first = len(used)
    places = {row: k for k, row in enumerate(used)}
    body.operands = tuple([places[row] if row < count else row - count + body.first for row in tape.operands[:]])
    own: dict[str, list[tuple[int, str, int]]] = {"ints": [], "floats": []}
    for key, number in trace.links.items():
        own[key[1]].append((trace.places[key], *number.payload))
    body.own_ints, body.own_floats = tuple(own["ints"]), tuple(own["floats"])
    body.streams = tuple(trace.streams)
    body.objects = tuple([(row - count, found) for row, found in tape.objects.items()])
    body.results = tuple([e.row - count for e in traced.outputs])
    return body, tuple(used), Payload(*[tuple([entry[1:] for entry in own[column]]) for column in ("ints", "floats")])


# What is known of a function, or of a method of one object.


class _Ways:
    """The recorders for one key, by the values of the numbers at the ``static`` positions."""

    def __init__(self, static: frozenset[int]) -> None:
        self.static = static
        self.recorders: dict[object, Recorder | None] = {}

    def values(self, numbers: Sequence[object]) -> tuple[object, ...]:
        """What a recorder is found by."""
        chosen = [numbers[i] for i in sorted(self.static)]
        return tuple([(type(n), bits(n) if isinstance(n, float | np.floating) else n) for n in chosen])


class _Programs:
    """The programs of a function, or of a method of one object. Reading needs no lock: what is there is never changed,
    only replaced or added to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = Lock()
        self.ways: dict[object, _Ways] = {}
        self.programs: dict[object, _Program | None] = {}
        self.ignored: frozenset[VisiblePath] = frozenset()  # paths to what the body itself changes, and nobody watches
        self.telling: dict[object, None] = {}  # keys for which it counts which of the arguments are arrays
        self.paths: tuple[FastPath, ...] = ()
        self.made = self.printed = 0
        self.short: Ways | None = None
        self.lengths: dict[object, set[tuple[Type, ...]]] = {}  # by what calls of several lengths have in common

    def lengths_of(self, structure: object, types: tuple[Type, ...], most: int) -> str:
        """What calls that differ from this one in the lengths of matrices alone are of: ``"few"`` lengths, up to
        ``most``; ``"many"``; or, for one beyond the first `MOST_KEPT`, ``"too many"``. When they are found to be many,
        the ways that were made for some of them go."""
        if not any(kind.ndim > 1 for kind in types):
            return "few"
        apart = structure, _without_lengths(types)
        with self.lock:
            if apart not in self.lengths:
                _drop_oldest(self.lengths)
            lengths = self.lengths.setdefault(apart, set())
            if types not in lengths:
                if len(lengths) >= MOST_KEPT:
                    return "too many"
                lengths.add(types)
                if len(lengths) == most + 1:
                    self.paths = ()
            return "many" if len(lengths) > most else "few"

    def told(self, key: tuple[Any, ...], places: Sequence[int]) -> tuple[Any, ...]:
        """The key of calls with arrays in these places, which count from now on."""
        with self.lock:
            _drop_oldest(self.telling)
            self.telling[key] = None
        return *key, *places

    def find(self, key: object, numbers: Sequence[object]) -> Any:
        """The recorder of a key, None for one that there is no program for, `MISSING` where it is not known."""
        ways = self.ways.get(key)
        return MISSING if ways is None else ways.recorders.get(ways.values(numbers), MISSING)

    def put(self, key: object, static: frozenset[int], numbers: Sequence[object], recorder: Recorder | None) -> None:
        """Remember a recorder."""
        with self.lock:
            ways = self.ways.get(key)
            if ways is None or not static <= ways.static:
                ways = _Ways(static if ways is None else static | ways.static)
                _drop_oldest(self.ways)
                self.ways[key] = ways
            _drop_oldest(ways.recorders)
            ways.recorders[ways.values(numbers)] = recorder

    def recorder(self, traced: _Traced, numbers: Sequence[float], lengths: str) -> Recorder | None:
        """How to record a call whose body has recorded this: by a program that is there, if that recorded the same.
        What is called with many lengths is laid out."""
        if lengths != "few":
            return _laying_out(traced, numbers)
        content = _content(traced)
        if content not in self.programs:
            made = _program_of(self.name, traced)
            with self.lock:
                _drop_oldest(self.programs)
                self.programs.setdefault(content, made)
        program = self.programs.get(content)
        if program is None:
            return None
        types = tuple([o.type for o in program.signature.operands if o.kind == "row" and o.type is not None])
        return _recorder(traced, numbers, *program, types, program.signature.cell.parameters, None)


def _laying_out(traced: _Traced, numbers: Sequence[float]) -> Recorder | None:
    """How to record a call by what its body has recorded, row by row."""
    if not traced.outputs:
        return None
    body, operands, payload = _body_of(traced)
    types = tuple([signature_by_id(traced.tape.signatures[row]).type for row in operands])
    shared = [o.type for s in body.signatures for o in s.operands if o.kind == "shared" and o.type is not None]
    first = body.signatures[body.results[0]]
    return _recorder(traced, numbers, first, operands, payload, types, tuple(dict.fromkeys(shared)), body)


def _recorder(
    traced: _Traced, numbers: Sequence[float], signature: Signature, operands: tuple[int, ...], payload: Payload,
    types: tuple[Type, ...], parameters: tuple[Type, ...], body: LaidOut | None,
) -> Recorder:  # fmt: skip
    trace = traced.trace
    return Recorder(
        signature=signature,
        operands=operands,
        types=types,
        payload=payload,
        limits=tuple(trace.limits),
        streams=tuple(trace.streams),
        results=traced.results.structure,
        parameters=parameters,
        static={i: numbers[i] for i in trace.static},
        tells_arrays=traced.body.tells_arrays,
        body=body,
    )


def _without_lengths(kinds: Sequence[Type]) -> tuple[object, ...]:
    """What matrices of several lengths have in common, and masks of those that stand before; a vector of numbers may
    be anything."""
    sizes = without_lengths([kind.shape for kind in kinds])
    same = [k if k.ndim < 2 and k.dtype.kind != "b" else None for k in kinds]
    return tuple([k or (s, o.dtype, o.device, o.requires_grad) for s, k, o in zip(sizes, same, kinds, strict=True)])


def without_lengths(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int | None, ...]]:
    """Shapes but for lengths: the first axes of matrices, and further sizes of a mask, those of matrices before it.

    >>> without_lengths([(5, 4), (5, 5), (4,)])
    [(None, 4), (None, None), (4,)]
    """
    lengths: set[int] = set()
    found: list[tuple[int | None, ...]] = []
    for shape in shapes:
        rest = [None if n in lengths else n for n in shape]
        found.append((None, *rest[1:]) if len(shape) > 1 else tuple(rest))
        lengths.update(shape[:1] if len(shape) > 1 else ())
    return found


def _drop_oldest(table: dict[Any, Any]) -> None:
    while len(table) >= MOST_KEPT:
        del table[next(iter(table))]


def _has_room(paths: Sequence[FastPath], most: int, structure: int) -> bool:
    """Whether there are fewer than the most, or some that are good for nothing any more."""
    return len(paths) < most or any(path.valid[0] != structure for path in paths)


def _first_called(known: _Programs, owner: object, first: Callable[..., object]) -> Callable[..., object]:
    """What is called first: what finds the way of a call by the kinds of its arguments, or the ``first`` of what was
    printed."""
    if not COMPILED:
        return first
    if known.short is None:
        known.short = Ways(None if owner is None else weakref.ref(owner))
    known.short.set([path.way for path in known.paths], first)
    return known.short.recorder()


# The decorator.


class _Cell:
    """What a decorated function does when it is called, and what is known of it."""

    def __init__(self, function: Callable[..., object], method: bool, most_lengths: int) -> None:
        self.function, self.most_lengths = function, most_lengths
        self.name = f"cell {function.__qualname__.replace('<locals>.', '')}"
        self.parameters = tuple(python_signature(function, follow_wrapped=False).parameters.values())
        self.method = method and bool(self.parameters)
        self.names: frozenset[str] = frozenset()  # of attributes that the body may read
        self.costs = Costs(self.name, function.__code__)
        self.known: dict[int, _Programs] = {}  # by id of the object whose method it is, 0 for a function
        self.fast: dict[int, Callable[..., object]] = {}  # what is called first
        self.find, self.otherwise = self.fast.get, self.general
        self.first: Callable[..., object] = self.general  # of a function: what is called first

    def applied(self, values: Sequence[Any]) -> object:
        """The function itself, with the values of its parameters in their order."""
        args: list[object] = []
        kwargs: dict[str, object] = {}
        for p, value in zip(self.parameters, values, strict=True):
            if p.kind is inspect.Parameter.VAR_POSITIONAL:
                args += value
            elif p.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif p.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[p.name] = value
            else:
                args.append(value)
        return self.function(*args, **kwargs)

    def general(self, *values: object) -> object:
        """A call that no code was made for."""
        options, tape = settings.current(), current_tape()
        number = self._number(values)
        structure = STRUCTURE.count
        flat = _FlatArguments(self.name)
        flat.structure = tuple([flat.part(value) for value in values])
        types = tuple([type_on(tape, e) for e in flat.expressions])
        if options.check_finite or tape.trace is not None:  # to name the line of a NaN, or inlined into another cell
            return self._plainly(values, flat, types)
        known = self._known(number, values)
        lengths = known.lengths_of(flat.structure, types, self.most_lengths)
        if not known.paths:
            self._forget_code(number)
        if lengths == "too many":
            return self._plainly(values, flat, types)
        seen = self._seen(flat, self.names)
        self.names |= seen.names
        self.costs.note(seen)
        if _tells_apart(flat, seen):
            return self._plainly(values, flat, types)
        under = options.recording if seen.names.isdisjoint(_NOT_RECORDED) else options
        key: tuple[Any, ...] = (flat.structure, types, under, lengths)
        key = (*key, *flat.places) if key in known.telling else key
        recorder = known.find((*key, seen.key(known.ignored)), flat.numbers) if seen.watchable else MISSING
        is_new = recorder is MISSING
        if is_new:
            recorder, traced = self._traced(known, seen, key, values, flat)
            if recorder is None:
                return _laid_out(traced, flat.expressions)
        if recorder is None or not recorder.fits(flat.numbers):
            return self._plainly(values, flat, types)
        place = recorder.signature.type.device
        moved = place != "cpu" and any(e.device != place for e in flat.expressions)
        if moved:
            require_movable(recorder.signature.op, place, flat.expressions)
        if seen.counted and not is_new and not moved and not (IS in seen.names and len(flat.copied) > 1):
            self._print(known, number, values, seen, recorder, under, structure)
        return recorder(flat.expressions, flat.numbers)

    def _plainly(self, values: Sequence[Any], flat: _FlatArguments, types: Sequence[Type]) -> object:
        """A call operation by operation. Its body runs like one that becomes a program, and so refuses the same."""
        kept: Substitutes = ()
        if flat.arrays or not self.names or IS in self.names:
            seen = self._seen(flat, self.names)
            self.names |= seen.names
            kept = _substitutes(flat, seen)
        return _laid_out(_traced(self.name, self.applied, values, flat, types, False, False, kept), flat.expressions)

    def _seen(self, flat: _FlatArguments, names: frozenset[str]) -> Seen:
        objects = [(("object", k), value) for k, value in enumerate(flat.objects)]
        return see([*objects, (("function",), self.function)], names)

    def _traced(
        self, known: _Programs, seen: Seen, key: tuple[Any, ...], values: Sequence[object], flat: _FlatArguments
    ) -> tuple[Recorder | None, _Traced]:
        """Run the body, and remember what it recorded by what it can see then.

        What it has changed of that and does not read, such as a count of its runs, is not watched from now on: it would
        change with every run. What it has changed and may read is its state, and so is an attribute of a module that
        it sets: it runs again at the next call.
        """
        stood_for = seen.names.isdisjoint(_BY_VALUE)
        traced = _traced(self.name, self.applied, values, flat, key[1], True, stood_for)
        if not stood_for:
            traced.trace.static = set(range(len(flat.numbers)))
        traced.trace.settle()
        after = self._seen(flat, seen.names) if seen.watchable else seen
        changed = seen.changed(after)
        has_state = not changed.isdisjoint(after.state) or seen.reads(changed)
        if not seen.watchable or has_state:
            _freed(traced, flat)
        if not (seen.watchable and not has_state) and key[3] != "few":
            return None, traced
        recorder = known.recorder(traced, flat.numbers, key[3])
        if seen.watchable and traced.results.fixed and not has_state:
            known.ignored |= {path for path in changed if not is_behind(path[:-1], known.ignored | changed)}
            static = frozenset(traced.trace.static)
            if traced.body.tells_arrays:
                key = known.told(key[:4], flat.places)
            known.put((*key, after.key(known.ignored)), static, flat.numbers, recorder)
        return recorder, traced

    def _number(self, values: Sequence[object]) -> int:
        """The id of the object whose method is called, or 0."""
        if not self.method or isinstance(values[0], _NO_OWNERS) or values[0] is None:
            return 0
        try:
            weakref.ref(values[0])
        except TypeError:
            raise TypeError(
                f"{self.name}: the attributes of a {type(values[0]).__name__} cannot be watched, for its class has "
                "__slots__; leave them out, or decorate a function"
            ) from None
        return id(values[0])

    def _known(self, number: int, values: Sequence[object]) -> _Programs:
        found = self.known.get(number)
        if found is None:
            found = self.known.setdefault(number, _Programs(self.name))
            if number:
                weakref.finalize(values[0], self._forget, number).atexit = False
        return found

    def _forget_code(self, number: int) -> None:
        """Calls go the general way again."""
        self.fast.pop(number, None)
        if not number:
            self.first = self.general

    def _forget(self, number: int) -> None:
        self.fast.pop(number, None)
        self.known.pop(number, None)

    def ways_of(self, owner: object) -> Ways | None:
        """The ways to call the method of an object, where code was made for some."""
        known = self.known.get(id(owner)) if id(owner) in self.fast else None
        return None if known is None else known.short

    def _print(
        self,
        known: _Programs,
        number: int,
        values: Sequence[object],
        seen: Seen,
        recorder: Recorder,
        under: settings.Settings | tuple[object, ...],
        structure: int,
    ) -> None:
        """Next time, calls like this one are recorded by code made for them."""
        with known.lock:
            paths = [path for path in known.paths if path.recorder is not recorder]
            same = next((path for path in known.paths if path.recorder is recorder), None)
            if same is not None and same.holds(seen.guards):
                same.valid[0] = structure
                return
            printed = [path for path in paths if path.record is not None]
            may_print = known.printed < CODE_PATIENCE and _has_room(printed, PRINTED_WAYS, structure)
            if known.made >= WAYS_PATIENCE or not (may_print or _has_room(paths, MOST_KEPT, structure)):
                return  # called in more ways than are kept: to make one anew for every call costs most
            tells = recorder.tells_arrays or _tells_arrays(seen)
            made = path_of(recorder, values, seen.guards, under, structure, tells, number != 0, may_print)
            if made is None:
                return
            alike, most = (paths, MOST_KEPT) if made.record is None else (printed, PRINTED_WAYS)
            if len(alike) >= most:
                paths.remove(next(path for path in alike if path.valid[0] != structure))
            known.made += 1
            known.printed += made.record is not None
            known.paths = (*paths, made)
            first: Callable[..., object] = self.general
            for path in known.paths[::-1]:
                if path.record is not None:
                    path.names["otherwise"] = first
                    first = path.record
            self.fast[number] = _first_called(known, values[0] if number else None, first)
            if not number:
                self.first = self.fast[0]

    def wrapper(self) -> Callable[..., object]:
        """The decorated function, which has the parameters of the function."""
        own = "_"
        while any(p.name.startswith(own) for p in self.parameters):
            own += "_"
        names = [p.name for p in self.parameters]
        found = f"find({own}id({names[0]}), {own}cell.otherwise)" if self.method else "first"
        call = f"{own}cell.{found}({', '.join(names)})"
        # What it calls are constants of its code, so that code which is put into another function takes them along, as
        # tools do that reload modules. None of them keeps the cell alive: the garbage collector does not look into
        # code, and the function may be an attribute of what its body sees.
        reach = Reach(self)
        constants: dict[object, object] = {"known": reach.known, "anew": reach, "globals": globals, "id": id}
        lines = [f"def recorded({_parameters_text(self.parameters)}):", *(f" {own}{n} = {n!r}" for n in constants)]
        lines += [f" {own}cell = {own}known() or {own}anew({own}globals())", f" return {call}"]
        space: dict[str, types.FunctionType] = {}
        exec(compile("\n".join(lines), generated(self.name), "exec"), space)
        code = space["recorded"].__code__
        code = code.replace(co_consts=tuple([constants.get(c, c) for c in code.co_consts]))
        recorded = types.FunctionType(code, self.function.__globals__)
        recorded.__defaults__, recorded.__kwdefaults__ = self.function.__defaults__, self.function.__kwdefaults__
        functools.update_wrapper(recorded, self.function)
        recorded.__dict__["__cell__"] = self
        return recorded


_NO_OWNERS = (Expr, np.ndarray, np.generic, int, float, complex, str, bytes, tuple, list, dict, set, frozenset)


def _parameters_text(parameters: Sequence[inspect.Parameter]) -> str:
    """Parameters as they stand in a definition, with None for every default."""
    bare = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None) for p in parameters]
    return str(inspect.Signature(bare))[1:-1]


def _is_method(function: types.FunctionType) -> bool:
    """Whether a function was defined in the body of a class, or names its first parameter as methods do."""
    around = function.__qualname__.rpartition(".")[0]
    first = next(iter(function.__code__.co_varnames[: function.__code__.co_argcount]), "")
    return first == "self" or (bool(around) and not around.endswith("<locals>"))


def cell(function: Function) -> Function:
    """Record a call of ``function`` as one node, whatever it computes.

    ``function`` takes and returns expressions, nested in tuples, lists and dicts as they may be, and any other
    arguments. Its body runs once for each combination of shapes, dtypes and all else that it can see, and is compiled:
    what needs no gather between its operations, runs without; products that share an operand become one; elementwise
    operations become one loop; what does not depend on the recurrence runs once for all steps. Results and gradients
    are those of the function without the decorator.

    A body that is called with matrices of many lengths, more than eight that differ in their first axis alone, is
    recorded operation by operation from then on, as operations of any lengths share launches and calls do not. It still
    runs once for each length: what it has recorded is what its calls of that length append.

    Numbers among the arguments may differ from call to call where they are only used as indices or as factors; where
    their value decides (``range(n)``), the body runs once for each value. What the body can see besides are the other
    arguments, its closure, the globals and attributes that it and the functions it calls name, and the attributes of
    modules: all of it counts by its contents, lists, dicts and arrays of any size included, and a `RuntimeWarning` says
    once if comparing these costs more than the call. Where it sees what cannot
    be watched, such as a generator of random numbers of NumPy's, a file or a clock, sets an attribute of a module,
    or changes what it reads, it runs at every call. What it only writes, it writes once: a list that it appends to is
    not watched.

    Inside, everything can be done that can be done with expressions, except asking for a value, of a parameter too, and
    changing a list or a dict among the arguments: `CellError`. Raises ``TypeError`` for what is no function or method,
    for an iterator among the arguments, and for a container that cannot be hashed, such as a set.

    >>> import lazyflow as lf
    >>> W = lf.Parameter([[0.5, 0.0], [0.0, 0.5]])
    >>> @lf.cell
    ... def step(x, h):
    ...     return lf.tanh(lf.matmul(W, h) + x)
    >>> h = lf.constant([0.0, 0.0])
    >>> for x in ([1.0, 2.0], [3.0, 4.0]):
    ...     h = step(lf.constant(x), h)
    >>> h.numpy().round(3)
    array([0.998, 1.   ], dtype=float32)
    """
    if isinstance(function, types.MethodType):
        return types.MethodType(_decorated(function.__func__, True), function.__self__)  # type: ignore[return-value]
    if isinstance(function, staticmethod | classmethod):
        return type(function)(cell(function.__func__))
    if _is_own(function):
        return _decorated(_calling(function), False)  # type: ignore[return-value]
    if not inspect.isfunction(function):
        raise TypeError(
            f"lf.cell decorates a function or a method, got a {type(function).__name__}; decorate a function that "
            "calls it, as in lf.cell(lambda x: model(x)), or its method"
        )
    return _decorated(function, _is_method(function))  # type: ignore[return-value]


def _is_own(function: object) -> bool:
    """Whether it is a compiled function of this package, which sees nothing of a user's."""
    name = str(getattr(function, "__module__", None))
    return not inspect.isfunction(function) and inspect.isroutine(function) and name.split(".")[0] == "lazyflow"


def _calling(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return call


def cell_of_any_length(method: Function) -> Function:
    """A method as a cell whose calls are laid out as soon as there is a second length of matrices."""
    return _decorated(method, True, most_lengths=1)  # type: ignore[return-value]


def _decorated(function: Callable[..., object], method: bool, most_lengths: int | None = None) -> Callable[..., object]:
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"lf.cell decorates a function that returns its results, {function.__qualname__} yields or awaits"
        )
    return _Cell(function, method, MOST_LENGTHS if most_lengths is None else most_lengths).wrapper()


def recurrence(
    step: Any, before: tuple[object, ...], xs: list[Any], state: object, after: tuple[object, ...]
) -> list[Any]:
    """What a method makes of ``(*before, x, state, *after)`` for each ``x``, where the state is what it made of the one
    before. Of a cell the calls are recorded in one go: nothing that it sees can change between them.

    >>> class Sum:
    ...     def step(self, x, state):
    ...         return x + state
    >>> recurrence(Sum().step, (), [1, 2, 3], 0, ())
    [1, 3, 6]
    """
    own: _Cell | None = getattr(step, "__cell__", None)
    ways = None if own is None else own.ways_of(step.__self__)
    if ways is not None:  # as most often
        return steps_recorded(ways, step.__func__, (step.__self__, *before), xs, state, after)
    states: list[Any] = []
    for k, x in enumerate(xs):
        ways = None if own is None else own.ways_of(step.__self__)
        if ways is not None:
            return states + steps_recorded(ways, step.__func__, (step.__self__, *before), xs[k:], state, after)
        state = step(*before, x, state, *after)
        states.append(state)
    return states

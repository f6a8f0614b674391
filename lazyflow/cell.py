"""``@lf.cell``: a function of expressions that is recorded as one node.

The body runs once for every combination of operand types and other arguments, on a tape of its own; what it recorded
there becomes a `Program` (`lazyflow.program`). A call then appends one row to the tape, and one more for each further
result.

A program is found by what it depends on: the structure of the arguments, the types of the expressions in it, the
values of all other arguments, the settings, and what the function can see besides: the parameters, modules and plain
attributes of the object that it is a method of, or of its closure and the globals that it names. Small lists, dicts and
arrays among these count with their contents.
"""

from __future__ import annotations

import functools
import inspect
import re
import struct
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lazyflow import settings
from lazyflow.errors import generated
from lazyflow.expr import STRUCTURE, Expr, Parameter, constant, record, type_on
from lazyflow.expr import _append as append
from lazyflow.expr import _local_row as local_row
from lazyflow.graph import Graph, collect
from lazyflow.ops import OPS
from lazyflow.program import call_signature, program_of
from lazyflow.tape import (
    INPUT,
    Signature,
    Tape,
    Type,
    current,
    current_tape,
    leaf_signature,
    recording_on,
    signature_by_id,
)
from lazyflow.trace import NeedsValue, Trace, TracedNumber, check_limit

__all__ = ["cell"]

Function = TypeVar("Function", bound=Callable[..., Any])

MOST = 512  # programs that one function keeps; the oldest goes first
WAYS = 16  # to call it on one object, that are recorded by code made for them
FEW = 4  # of these that are part of its own code, the latest of all objects


class _Leaf:
    """In a structure: the place of an expression, or of a number."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return self.kind


EXPRESSION, NUMBER = _Leaf("expression"), _Leaf("number")


class _Flat(NamedTuple):
    """Arguments taken apart: their structure, hashable, and the expressions and numbers in it."""

    structure: Any
    expressions: list[Expr]
    numbers: list[float]


def _flatten(value: Any, expressions: list[Expr], numbers: list[float]) -> Any:
    """The structure of a value: expressions, arrays and numbers are leaves, containers are looked into."""
    kind = value.__class__
    if kind is Expr:
        expressions.append(value)
        return EXPRESSION
    if kind is tuple or kind is list:
        return (kind, *[_flatten(v, expressions, numbers) for v in value])
    if kind is int or kind is float:
        numbers.append(value)
        return kind, NUMBER
    if kind is dict:
        return (dict, *[(k, _flatten(v, expressions, numbers)) for k, v in value.items()])
    if isinstance(value, Parameter):
        return Parameter, value.type
    if isinstance(value, np.ndarray):
        expressions.append(constant(value))
        return EXPRESSION
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (kind, *[_flatten(v, expressions, numbers) for v in value])
    if isinstance(value, np.integer | np.floating):
        numbers.append(value.item())
        return kind, NUMBER
    return (kind, value, _Seen([], [value]).marks) if _has_state(value) else (kind, value)


def _has_state(value: Any) -> bool:
    """Whether an argument is a module, or another object with parameters or modules among its attributes."""
    if _is_module(value):
        return True
    attributes = () if isinstance(value, type) else getattr(value, "__dict__", {}).values()
    return any(isinstance(v, Parameter) or _is_module(v) for v in attributes)


def _rebuilt(structure: Any, expressions: Iterator[Any], numbers: Iterator[Any]) -> Any:
    """The value of a structure, with these leaves."""
    if structure is EXPRESSION:
        return next(expressions)
    kind, *parts = structure
    if parts and parts[0] is NUMBER:
        return next(numbers)
    if kind is tuple or kind is list:
        return kind(_rebuilt(p, expressions, numbers) for p in parts)
    if kind is dict:
        return {k: _rebuilt(p, expressions, numbers) for k, p in parts}
    if kind is Parameter:
        return parts[0].parameter()
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return kind(*(_rebuilt(p, expressions, numbers) for p in parts))
    return parts[0]


@dataclass(frozen=True, eq=False)
class _Payload:
    """What fills the payload of a call: ``("number", position)`` of its arguments, ``("seed", k)`` or ``("count", k)``
    of its ``k``-th draw."""

    ints: tuple[tuple[str, int], ...]
    floats: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Recorder:
    """How to record a call: its signature, which of the expressions are its operands, its payload, the limits of its
    indices, the streams it draws from, the structure of its results, its parameters, and the numbers of the arguments
    that it is good for one value of."""

    signature: Signature
    operands: tuple[int, ...]
    payload: _Payload
    limits: tuple[tuple[int, int, str], ...]
    streams: tuple[Any, ...]
    results: Any
    parameters: tuple[Type, ...]
    static: frozenset[int]

    def __call__(self, expressions: Sequence[Expr], numbers: Sequence[float]) -> Any:
        """Record a call with these leaves of its arguments."""
        for position, size, name in self.limits:
            check_limit(name, numbers[position], size)
        tape = current_tape()
        rows = [local_row(tape, expressions[k]) for k in self.operands]
        self.keep(tape)
        draws = [stream.draw() for stream in self.streams]
        ints = [_payload_value(entry, numbers, draws) for entry in self.payload.ints]
        floats = [_payload_value(entry, numbers, draws) for entry in self.payload.floats]
        first = append(tape, self.signature, rows, ints, floats)
        found = [first]
        for signature in self.signature.further:
            found.append(append(tape, signature, (first.row,)))
        return _rebuilt(self.results, iter(found), iter(()))

    def keep(self, tape: Tape) -> None:
        """The tape keeps alive what its nodes need."""
        if self.signature not in tape.keep:
            tape.keep.add(self.signature)
            tape.keep.update(kind.parameter() for kind in self.parameters if kind.parameter is not None)


def _payload_value(entry: tuple[str, int], numbers: Sequence[float], draws: Sequence[tuple[int, int]]) -> Any:
    what, which = entry
    if what == "number":
        return numbers[which]
    return draws[which][what == "count"]


# Code made for one way to call a cell.


class FastPath(NamedTuple):
    """``record(args)`` records a call like the one it was made from, and returns None for any other. ``valid``: the
    count of changes of modules, and the settings, that it is good for. ``lines`` and ``names`` are its code."""

    recorder: Recorder
    valid: list[Any]
    record: Callable[[tuple[Any, ...]], Any]
    arguments: tuple[str, ...]
    lines: tuple[str, ...]
    names: dict[str, Any]


class _Unusual(Exception):
    """Arguments that no fast path is made for."""


class _FastSource:
    """Prints the code: check that everything is as it was, append the rows, and make the handles of the results."""

    def __init__(self, recorder: Recorder, owner: Any) -> None:
        self.recorder = recorder
        self.names: dict[str, Any] = {"Expr": Expr, "current": current}
        self.lines: list[str] = []
        self.tests: list[str] = []
        self.compared: list[str] = []  # tests of the values of numbers, which those of a cell around this one refuse
        self.expressions: list[str] = []
        self.numbers: list[str] = []
        self.variables = 0

    def variable(self) -> str:
        self.variables += 1
        return f"x{self.variables}"

    def constant(self, value: Any) -> str:
        name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def take_apart(self, name: str, value: Any) -> None:
        """Tests and unpacking of one argument."""
        kind = value.__class__
        if kind is Expr:
            self.expressions.append(name)
        elif kind is tuple and value:
            parts = [self.variable() for _ in value]
            self.lines.append(f"if {name}.__class__ is not tuple: return None")
            self.lines.append(f"{', '.join(parts)}, = {name}")
            for part, v in zip(parts, value, strict=True):
                self.take_apart(part, v)
        elif kind is int or kind is float:
            self.tests.append(f"{name}.__class__ is {kind.__name__}")
            if len(self.numbers) in self.recorder.static:
                self.compared.append(f"{name} == {self.constant(value)}")
            self.numbers.append(name)
        elif value is None or kind is bool:
            self.tests.append(f"{name} is {value!r}")
        elif kind is str:
            self.tests.append(f"{name} == {value!r}")
        else:
            raise _Unusual


def fast_path(
    recorder: Recorder,
    args: tuple[Any, ...],
    watched: Sequence[tuple[str, Any, Any]],
    options: settings.Settings,
    owner: Any,
) -> FastPath | None:
    """The code for calls like one with ``args``, or None for arguments that are not made of expressions of one tape,
    numbers and None."""
    valid = [STRUCTURE[0], options]
    if owner is not None and not hasattr(owner, "named_parameters"):
        return None
    try:
        source = _fast_source(recorder, args, watched, owner, valid)
    except _Unusual:
        return None
    arguments = tuple(f"x{k + 1}" for k in range(len(args)))
    unpacked = f"{', '.join(arguments)}, = args" if arguments else "if args: return None"
    text = ["def record(args):", *_guarded([unpacked, *source.lines], "return None")]
    exec(compile("\n".join(text), generated(recorder.signature.op.name), "exec"), source.names)
    return FastPath(recorder, valid, source.names["record"], arguments, tuple(source.lines), source.names)


def _guarded(lines: Sequence[str], otherwise: str) -> list[str]:
    """Code that does ``otherwise`` for what does not fit."""
    inside = [f"  {line}".replace("return None", otherwise) for line in lines]
    return [" try:", *inside, " except (AttributeError, ValueError, OverflowError):", f"  {otherwise}"]


def _fast_source(
    recorder: Recorder, args: tuple[Any, ...], watched: Sequence[tuple[str, Any, Any]], owner: Any, valid: list[Any]
) -> _FastSource:
    source = _FastSource(recorder, owner)
    source.names.update(valid=valid, STRUCTURE=STRUCTURE)
    names = [source.variable() for _ in args]
    for name, value in zip(names, args, strict=True):
        if owner is not None and name == names[0]:
            source.tests.append(f"{source.constant(weakref.ref(owner))}() is {name}")
        else:
            source.take_apart(name, value)
    for text, on, value in watched:
        source.tests.append(f"{text.format(source.constant(on))} is {source.constant(value)}")
    source.lines += _recording(source)
    return source


def _recording(source: _FastSource) -> list[str]:
    recorder, signature = source.recorder, source.recorder.signature
    chosen = [source.expressions[k] for k in recorder.operands]
    types = [o.type for o in signature.operands if o.kind == "row"]
    # Of a thread without a tape, or with a sealed one, the next line makes an AttributeError or finds nothing ready.
    tape = f"{chosen[0]}.tape" if chosen else "current.tape and current.tape()"
    source.tests += [f"{e}.type is {source.constant(kind)}" for e, kind in zip(chosen, types, strict=True)]
    source.tests += [f"{e}.tape is tape" for e in chosen[1:]]
    source.compared += [f"0 <= {source.numbers[position]} < {size}" for position, size, _ in recorder.limits]
    unread = [e for k, e in enumerate(source.expressions) if k not in recorder.operands]
    if unread:
        raise _Unusual
    keep = source.constant(signature)
    results = [signature, *signature.further]
    ids = source.constant(array("i", [s.id for s in results]))
    rows = [f"{e}.row" for e in chosen] + ["row"] * len(signature.further)
    # What holds for all calls on a tape first, and looked at once: the numbers of a cell around this one cannot be
    # compared.
    lines = [f"tape = {tape}", "ready = tape.ready", f"if ready.get({keep}) != STRUCTURE[0]:"]
    state = ["tape.trace is None", "tape.open", "STRUCTURE[0] == valid[0]", "tape.options == valid[1]"]
    lines.append(f"  if not ({' and '.join(state)}): return None")
    lines += [f"  {source.constant(recorder.keep)}(tape)", f"  ready[{keep}] = STRUCTURE[0]"]
    if source.tests or source.compared:
        lines.append(f"if not ({' and '.join([*source.tests, *source.compared])}): return None")
    # Converted first: what does not fit raises before anything is on the tape.
    ints = [_payload_text(source, entry) for entry in recorder.payload.ints]
    floats = [_payload_text(source, entry) for entry in recorder.payload.floats]
    limited = [source.numbers[position] for position, _, _ in recorder.limits]
    free = [name for name in ints if name in source.numbers and name not in limited]
    lines += [f"if not -0x80000000 <= {name} <= 0x7fffffff: return None" for name in free]
    lines += [f"f{k} = float({name})" for k, name in enumerate(floats)]
    lines += [f"d{k} = {source.constant(stream)}.draw()" for k, stream in enumerate(recorder.streams)]
    lines += [f"tape.ints.append({name})" for name in ints]
    lines += [f"tape.floats.append(f{k})" for k in range(len(floats))]
    lines += ["signatures = tape.signatures", "row = len(signatures)", f"signatures.extend({ids})"]
    if len(rows) < 3:
        lines += [f"tape.operands.append({row})" for row in rows]
    else:  # half the time of extend() with a tuple
        pack = source.constant(struct.Struct(f"{len(rows)}i").pack)
        lines.append(f"tape.operands.frombytes({pack}({', '.join(rows)}))")
    for k, s in enumerate(results):
        lines += [f"e{k} = Expr()", f"e{k}.tape = tape", f"e{k}.row = row + {k}" if k else "e0.row = row"]
        lines.append(f"e{k}.type = {source.constant(s.type)}")
    lines.append(f"return {_rebuilt_text(source, recorder.results, iter(range(len(results))))}")
    return lines


def _payload_text(source: _FastSource, entry: tuple[str, int]) -> str:
    what, which = entry
    return source.numbers[which] if what == "number" else f"d{which}[{int(what == 'count')}]"


def _rebuilt_text(source: _FastSource, structure: Any, results: Iterator[int]) -> str:
    if structure is EXPRESSION:
        return f"e{next(results)}"
    kind, *parts = structure
    if kind is tuple:
        return f"({''.join(_rebuilt_text(source, p, results) + ', ' for p in parts)})"
    if kind is list:
        return f"[{', '.join(_rebuilt_text(source, p, results) for p in parts)}]"
    if kind is dict:
        return f"{{{', '.join(f'{source.constant(k)}: {_rebuilt_text(source, p, results)}' for k, p in parts)}}}"
    if parts and not isinstance(kind, type(None)) and not hasattr(kind, "_fields"):
        return source.constant(parts[0])
    raise _Unusual


# Tracing.


def _traced(
    function: Callable[..., Any], name: str, flat: _Flat, types: Sequence[Type], static: frozenset[int]
) -> Recorder | None:
    """The recorder of one combination of arguments, or None if nothing in it differs from call to call."""
    tape = Tape(settings.current())
    tape.trace = trace = Trace(name)
    with recording_on(tape):
        signatures = [leaf_signature(INPUT, kind, ints=0) for kind in types]
        tape.keep.update(signatures)
        inputs = [append(tape, signature, ()) for signature in signatures]
        numbers = [
            value if i in static else TracedNumber(trace, i, value, ("number", i))
            for i, value in enumerate(flat.numbers)
        ]
        args, kwargs = _rebuilt(flat.structure, iter(inputs), iter(numbers))
        results = function(*args, **kwargs)
        expressions: list[Expr] = []
        structure = _flatten_results(name, results, expressions)
        outputs = _own_nodes(tape, expressions)
    if not outputs:
        return None
    graph = collect(outputs, anew=True)
    return _recorder(name, graph, tape, trace, outputs, structure, static)


def _flatten_results(name: str, value: Any, expressions: list[Expr]) -> Any:
    if isinstance(value, Parameter):
        value = record(OPS["identity"], (value,))
    if isinstance(value, TracedNumber):
        value.needed()
    if value.__class__ is Expr:
        expressions.append(value)
        return EXPRESSION
    if value.__class__ in (tuple, list):
        return (value.__class__, *[_flatten_results(name, v, expressions) for v in value])
    if value.__class__ is dict:
        return (dict, *[(k, _flatten_results(name, v, expressions)) for k, v in value.items()])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (value.__class__, *[_flatten_results(name, v, expressions) for v in value])
    if any(isinstance(part, Expr) for part in _parts_of(value)):
        raise TypeError(
            f"{name}: returns a {type(value).__name__} that holds expressions; return them in tuples, lists or dicts, "
            "and make the object of what a call returns"
        )
    return value.__class__, value


def _parts_of(value: Any) -> list[Any]:
    """What an object holds that is no container of a kind that is looked into."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    return [] if isinstance(value, type) else list(getattr(value, "__dict__", {}).values())


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


def _recorder(
    name: str,
    graph: Graph,
    tape: Tape,
    trace: Trace,
    outputs: Sequence[Expr],
    structure: Any,
    static: frozenset[int],
) -> Recorder | None:
    found = program_of(name, graph, tape, trace)
    if found is None:
        return None
    program, operands, ints, floats = found
    signature = call_signature(program, [e.type for e in outputs], len(ints), len(floats))
    counts = [k for k, entry in enumerate(ints) if entry[0] == "count"]
    signature.draws = tuple(counts)
    limits = tuple(dict.fromkeys(trace.limits))
    return Recorder(
        signature,
        operands,
        _Payload(ints, floats),
        limits,
        tuple(trace.streams),
        structure,
        program.parameters,
        static,
    )


# What a function can see besides its arguments.


# Containers and arrays of so many elements count with their contents, larger ones by which they are.
SMALL = 256
# Attributes of modules whose changes are counted (see `STRUCTURE`), though they change in place.
COUNTED = ("_buffers", "_items")
_PLAIN = (int, float, str, bool, bytes, type(None))


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_parameters") and not isinstance(value, type)


class _Seen:
    """What a program depends on of values that are no arguments: ``marks``, equal for equal surroundings.

    A parameter counts with its type, a module with its class and attributes, other objects by which they are.
    ``is_counted``: whether every change of it goes through `STRUCTURE` or replaces a value.
    """

    def __init__(self, values: Sequence[Any], owners: Sequence[Any] = ()) -> None:
        self.waiting, self.known = list(owners), set(map(id, owners))
        self.is_counted = True
        found = [self._mark(value) for value in values]
        while self.waiting:
            owner = self.waiting.pop()
            for name, value in vars(owner).items():
                counted = name in COUNTED and _is_module(owner)
                found.append((name, *self._parts(value)) if counted else (name, self._mark(value)))
        self.marks = tuple(found)

    def _mark(self, value: Any) -> Any:
        if isinstance(value, Parameter):
            return value.type
        if value.__class__ in _PLAIN:
            return value.__class__, value
        if _is_module(value):
            if id(value) not in self.known:
                self.known.add(id(value))
                self.waiting.append(value)
            return value.__class__, id(value)
        if value.__class__ is tuple:
            return (tuple, *self._parts(value))
        if value.__class__ in (list, dict, set, np.ndarray):
            self.is_counted = False
            small = np.size(value) <= SMALL if isinstance(value, np.ndarray) else len(value) <= SMALL
            return (value.__class__, *self._parts(value)) if small else _Same(value)
        return _Same(value)

    def _parts(self, value: Any) -> list[Any]:
        if isinstance(value, np.ndarray):
            return [value.dtype.str, value.shape, value.tobytes() if value.dtype.kind != "O" else _Same(value)]
        return [self._mark(part) for part in (value.items() if isinstance(value, dict) else value)]


class _Same:
    """Equal to another of the very same object, which it keeps alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class _Surroundings:
    """What a function reads from its closure, from the globals that it names, and from the class of the object whose
    method it is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.cells = function.__closure__ or ()
        self.globals = function.__globals__
        self.names = _names_in(function.__code__)

    def watched(self, owner: Any) -> list[tuple[str, Any, Any]]:
        """Expressions that give what the body of a method of ``owner`` sees, each with an object it is evaluated on and
        the value now."""
        found: list[tuple[str, Any, Any]] = []
        found += [("{}.cell_contents", c, c.cell_contents) for c in self.cells if _is_filled(c)]
        found += [(f"{{}}.get({n!r})", self.globals, self.globals[n]) for n in self.names if n in self.globals]
        if owner is not None:
            found += [
                (f"getattr({{}}, {n!r}, None)", type(owner), v) for n, v in _of_class(type(owner), self.names).items()
            ]
        return [(text, on, v) for text, on, v in found if not isinstance(v, ModuleType)]

    def seen(self, owner: Any) -> _Seen:
        """What may change of it."""
        return _Seen([value for _, _, value in self.watched(owner)])


def _names_in(code: CodeType) -> tuple[str, ...]:
    """The globals and attributes that a body names, functions inside of it included."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *(n for c in inner for n in _names_in(c))]))


def _of_class(kind: type, names: Sequence[str]) -> dict[str, Any]:
    """Plain values among the attributes of a class that a body names; methods and the like do not change."""
    holders = {n: next((k for k in kind.__mro__ if n in vars(k)), None) for n in names}
    values = {n: vars(k)[n] for n, k in holders.items() if k is not None}
    return {n: v for n, v in values.items() if not callable(v) and not hasattr(v, "__get__")}


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


# The decorator.


class _Cell:
    """What a decorated function does when it is called, and the programs that it has made."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = f"cell {function.__qualname__.replace('<locals>.', '')}"
        self.method = next(iter(inspect.signature(function).parameters), "") == "self"
        self.surroundings = _Surroundings(function)
        self.known: dict[Any, Recorder | None] = {}
        self.of_owner: dict[int, dict[Any, Recorder | None]] = {}  # by id of the object whose method it is
        self.static: dict[Any, frozenset[int]] = {}
        self.fast: dict[int, list[FastPath]] = {}  # by id of the object whose method it is, 0 for a function
        self.parameters = _plain_parameters(function)
        self.recorded: Any = None
        self.inlined: list[FastPath] = []

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        options = settings.current()
        given = args
        if options.check_finite or current_tape().trace is not None:
            return self.function(*args, **kwargs)  # inlined: into another cell, or to name the line of a NaN
        owner, function = None, self.function
        if self.method:
            owner, function, args = self._checked_owner(args[0]), functools.partial(self.function, args[0]), args[1:]
        flat = _Flat(None, [], [])
        flat = flat._replace(structure=_flatten_arguments(args, kwargs, flat))
        recorder = self._recorder(owner, function, flat, options)
        if recorder is None:
            return function(*args, **kwargs)
        if not kwargs:
            self._remember_fast(owner, given, recorder, options)
        return recorder(flat.expressions, flat.numbers)

    def _checked_owner(self, owner: Any) -> Any:
        if not hasattr(owner, "__dict__") or not hasattr(owner, "__weakref__"):
            raise TypeError(
                f"{self.name}: the attributes of a {type(owner).__name__} cannot be watched, for its class has "
                "__slots__; leave them out, or decorate a function"
            )
        return owner

    def _remember_fast(self, owner: Any, args: tuple[Any, ...], recorder: Recorder, options: settings.Settings) -> None:
        """Next time, calls like this one are recorded by code made for them."""
        number = 0 if owner is None else id(owner)
        paths = self.fast.setdefault(number, [])
        for path in paths:
            if path.recorder is recorder:
                path.valid[:] = STRUCTURE[0], options
                return
        now = [STRUCTURE[0], options]
        if len(paths) >= WAYS and all(path.valid == now for path in paths):
            return  # called in more ways than there is code for: to make it anew for every call costs most
        if not self._is_counted(owner):
            return
        made = fast_path(recorder, args, self.surroundings.watched(owner), options, owner)
        if made is not None:
            if len(paths) >= WAYS:
                del paths[next(k for k, path in enumerate(paths) if path.valid != now)]
            paths.append(made)
            self._inline(made)
            if owner is not None and len(paths) == 1:
                weakref.finalize(owner, self.fast.pop, number, None)

    def _inline(self, path: FastPath) -> None:
        """Make a path part of the code of the decorated function itself, so that a call costs no further one."""
        if self.parameters is None or len(path.arguments) != len(self.parameters):
            return
        self.inlined = [*self.inlined[1 - FEW :], path]
        arguments = ", ".join(self.parameters)
        text = [f"def recorded({arguments}):"]
        for number, some in enumerate(self.inlined):
            prefix = f"p{number}_"
            renamed = [_renamed(line, some.names, some.arguments, self.parameters, prefix) for line in some.lines]
            text += [" while True:", *(f" {line}" for line in _guarded(renamed, "break"))]
            values = {prefix + name: value for name, value in some.names.items() if not name.startswith("__")}
            self.recorded.__globals__.update(values)
        text.append(f" return miss(({arguments},))")
        space: dict[str, Any] = {}
        exec(compile("\n".join(text), generated(self.name), "exec"), space)
        self.recorded.__code__ = space["recorded"].__code__

    def miss(self, args: tuple[Any, ...]) -> Any:
        """A call that the decorated function's own code does not know: by another path, or the long way."""
        tape = current_tape()  # noqa: F841  # held: the paths find it, and none but expressions would keep it alive
        for path in self.fast.get(id(args[0]) if self.method else 0, ()):
            found = path.record(args)
            if found is not None:
                return found
        return self(args, {})

    def wrapper(self) -> Callable[..., Any]:
        """The decorated function. One whose parameters are plain names gets code of its own when it was called."""
        if self.parameters is None:

            def recorded(*args: Any, **kwargs: Any) -> Any:
                return self(args, kwargs) if kwargs else self.miss(args)

            return recorded
        arguments = ", ".join(self.parameters)
        space: dict[str, Any] = {"miss": self.miss, "__name__": __name__}
        text = f"def recorded({arguments}):\n return miss(({arguments},))"
        exec(compile(text, generated(self.name), "exec"), space)
        self.recorded = space["recorded"]
        self.recorded.__defaults__ = self.function.__defaults__
        return self.recorded  # type: ignore[no-any-return]

    def _is_counted(self, owner: Any) -> bool:
        return self.surroundings.seen(owner).is_counted and (owner is None or _Seen([], [owner]).is_counted)

    def _recorder(
        self, owner: Any, function: Callable[..., Any], flat: _Flat, options: settings.Settings
    ) -> Recorder | None:
        tape = current_tape()
        types = tuple([type_on(tape, e) for e in flat.expressions])
        around = self.surroundings.seen(owner).marks, () if owner is None else _Seen([], [owner]).marks
        key = flat.structure, types, around, options.device, options.dtype, options.grad
        known = self._memory(owner)
        try:
            static = self.static.get((flat.structure, types), frozenset())
            whole = (*key, tuple([(i, flat.numbers[i]) for i in sorted(static)]))
            if whole in known:
                return known[whole]
        except TypeError:
            raise TypeError(
                f"{self.name}: every argument that is no expression must be hashable, for the cell is traced once for "
                "each of its values; pass tuples, or expressions and arrays"
            ) from None
        while True:
            whole = (*key, tuple([(i, flat.numbers[i]) for i in sorted(static)]))
            try:
                found = _traced(function, self.name, flat, types, static)
                break
            except NeedsValue as need:
                static |= {need.position}
                self.static[flat.structure, types] = static
        if len(known) >= MOST:
            del known[next(iter(known))]
        known[whole] = found
        return found

    def _memory(self, owner: Any) -> dict[Any, Recorder | None]:
        if owner is None:
            return self.known
        found = self.of_owner.get(id(owner))
        if found is None:
            found = self.of_owner[id(owner)] = {}
            weakref.finalize(owner, self.of_owner.pop, id(owner), None).atexit = False
        return found


def _plain_parameters(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of the parameters if there are any and all can be given by position or by name, else None."""
    parameters = inspect.signature(function).parameters.values()
    plain = all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and not _PREFIXED.match(p.name) for p in parameters)
    return tuple(p.name for p in parameters) if plain and parameters else None


def _renamed(
    line: str, names: Mapping[str, Any], arguments: Sequence[str], parameters: Sequence[str], prefix: str
) -> str:
    """Code with the parameters' own names for its arguments, all other names with a prefix of their own."""
    new = dict(zip(arguments, parameters, strict=True))

    def spelled(match: re.Match[str]) -> str:
        word = match.group()
        return new.get(word) or (prefix + word if word in names or _LOCAL.fullmatch(word) else word)

    return _WORD.sub(spelled, line)


_WORD = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*")
_PREFIXED = re.compile(r"p\d+_")
_LOCAL = re.compile(r"(x|e|f|d)\d+|tape|ready|row|signatures")


def _flatten_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], flat: _Flat) -> Any:
    return (
        tuple,
        _flatten(args, flat.expressions, flat.numbers),
        _flatten(kwargs, flat.expressions, flat.numbers),
    )


def cell(function: Function) -> Function:
    """Record a call of ``function`` as one node, whatever it computes.

    ``function`` takes and returns expressions, nested in tuples, lists and dicts as they may be, and any other
    arguments. Its body runs once for each combination of shapes, dtypes and other arguments, and is compiled: what
    needs no gather between its operations, runs without; products that share an operand become one; elementwise
    operations become one loop; what does not depend on the recurrence runs once for all steps. Results and gradients
    are those of the function without the decorator.

    Numbers among the arguments may differ from call to call where they are only used as indices or as factors; where
    their value decides (``range(n)``), the body runs once for each value. Inside, everything can be done that can be
    done with expressions, except asking for a value: `CellError`. What counts as argument is also every attribute of
    the object whose method it is, and of the modules in it, or what the function has from its closure and its globals;
    but of other objects, and of lists, dicts and arrays of more than 256 elements, only which they are: replace these,
    for a change in place goes unnoticed.

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
    if not inspect.isfunction(function):
        raise TypeError(f"lf.cell decorates a function or a method, got a {type(function).__name__}")
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"lf.cell decorates a function that returns its results, {function.__qualname__} yields or awaits"
        )
    return functools.update_wrapper(_Cell(function).wrapper(), function)  # type: ignore[return-value]

"""Recording a call of a cell: in general, and by code that is made for one way to call it.

A `Recorder` says how a call becomes rows of a tape. To find out which recorder a call needs takes longer than to record
a plain operation. So for each of the few ways in which a cell is called, a function is printed that checks that
everything is as it was, appends the rows, and makes the handles of the results, or hands the call on to the function
for another way, the last of them to the general one. It is printed once and never changed.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lazyflow import core, settings
from lazyflow.cells.visible import MISSING, Guard, hides_state, same_contents
from lazyflow.cells.ways import COMPILED, LaidOut, Way, as_tuple, body_laid_out, kinds_of
from lazyflow.core.columns import IntColumn
from lazyflow.errors import generated
from lazyflow.record.expr import (
    STRUCTURE,
    Expr,
    Parameter,
    append,
    array_kind,
    local_row,
    nodes,
    open_tape,
    operands_on,
    type_on,
)
from lazyflow.record.tape import Signature, Tape, Type, current_tape

if TYPE_CHECKING:
    from lazyflow.random import Stream

__all__ = [
    "EXPRESSION",
    "NUMBER",
    "OBJECT",
    "FastPath",
    "Payload",
    "Recorder",
    "is_sequence",
    "path_of",
    "results_rebuilt",
    "sequence_of",
]


def _unchanged(names: tuple[Any, ...], functions: tuple[Any, ...], missing: object) -> bool:
    for on, name, value in names:  # once a call: loops, which are quicker than generators
        if on.get(name, missing) is not value:
            return False
    for f, code, defaults, keywords in functions:
        if f.__code__ is not code or f.__defaults__ is not defaults or f.__kwdefaults__ is not keywords:
            return False
    return True


names_unchanged = _unchanged if core.guards is None else core.guards.unchanged


class _Leaf:
    """In a structure: the place of an expression, a number, or an object."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return self.kind


EXPRESSION, NUMBER, OBJECT = _Leaf("expression"), _Leaf("number"), _Leaf("object")


def results_rebuilt(structure: Any, results: Iterator[Expr]) -> Any:
    """The results of a call from their structure: containers are made anew, with these expressions."""
    if structure is EXPRESSION:
        return next(results)
    kind, *parts = structure
    if kind is dict:
        return {k: results_rebuilt(p, results) for k, p in parts}
    if is_sequence(kind):
        return sequence_of(kind, [results_rebuilt(p, results) for p in parts])
    return parts[0]


def is_sequence(kind: type) -> bool:
    """Whether a class is a tuple or a list, of which the items are all: named ones too, and with ``__slots__ = ()``.

    >>> class State(tuple): __slots__ = ()
    >>> is_sequence(State), is_sequence(type("Other", (tuple,), {})), is_sequence(str)
    (True, False, False)
    """
    if kind is tuple or kind is list:
        return True
    if not issubclass(kind, tuple | list) or hasattr(kind, "n_sequence_fields"):  # which C has, as of a time
        return False
    return not kind.__dictoffset__ or hasattr(kind, "_fields")


def sequence_of(kind: Any, items: Iterable[object]) -> Any:
    """One of such a class, whatever its constructor takes.

    >>> import collections
    >>> sequence_of(collections.namedtuple("State", "h c"), [1, 2])
    State(h=1, c=2)
    """
    if issubclass(kind, tuple):
        return tuple.__new__(kind, items)
    made: list[object] = list.__new__(kind)
    list.extend(made, items)
    return made


@dataclass(frozen=True, eq=False)
class Payload:
    """What fills the payload of a call: ``("number", position)`` of its arguments, ``("seed", k)`` or ``("count", k)``
    of its ``k``-th draw."""

    ints: tuple[tuple[str, int], ...]
    floats: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class Recorder:
    """How to record a call: its signature, or, of what is laid out, that of its first result; which of the expressions
    are its operands, and their types; its payload, the limits of its indices, the streams it draws from, the structure
    of its results, its parameters, and by position the values of those numbers among the arguments that it is good for
    one value of. ``tells_arrays``: it is good for arrays in the places where it was made for them, and for expressions
    in the others. ``body``: what is laid out in place of a node, None for a node."""

    signature: Signature
    operands: tuple[int, ...]
    types: tuple[Type, ...]
    payload: Payload
    limits: tuple[tuple[int, int], ...]
    streams: tuple[Stream, ...]
    results: object
    parameters: tuple[Type, ...]
    static: dict[int, float]
    tells_arrays: bool
    body: LaidOut | None

    def fits(self, numbers: Sequence[float]) -> bool:
        """Whether these numbers can be the payload: indices that are in range, and what a tape can hold."""
        if not all(0 <= numbers[position] < size for position, size in self.limits):
            return False
        try:
            array("i", [numbers[k] for what, k in self.payload.ints if what == "number"])
            array("d", [numbers[k] for what, k in self.payload.floats if what == "number"])
        except OverflowError:
            return False
        return True

    def __call__(self, expressions: Sequence[Expr], numbers: Sequence[float]) -> object:
        """Record a call with these leaves of its arguments."""
        tape = current_tape()
        rows = [local_row(tape, expressions[k]) for k in self.operands]
        self.keep(tape)
        if self.body is not None:
            return results_rebuilt(self.results, iter(body_laid_out(tape, self.body, rows, numbers)))
        streams = [stream.here() for stream in self.streams]
        draws = [stream.following() for stream in streams]
        tape.streams.update(zip([seed for seed, _ in draws], streams, strict=True))
        ints = [_payload_value(entry, numbers, draws) for entry in self.payload.ints]
        floats = [_payload_value(entry, numbers, draws) for entry in self.payload.floats]
        first = append(tape, self.signature, rows, ints, floats)
        found = [first]
        for signature in self.signature.further:
            found.append(append(tape, signature, (first.row,)))
        return results_rebuilt(self.results, iter(found))

    def keep(self, tape: Tape) -> None:
        """The tape keeps alive what its nodes need."""
        if self.signature not in tape.keep or self.body is not None:
            tape.keep.update((self.signature,) if self.body is None else self.body.signatures)
            tape.keep.update(kind.parameter() for kind in self.parameters if kind.parameter is not None)


def _payload_value(entry: tuple[str, int], numbers: Sequence[float], draws: Sequence[tuple[int, int]]) -> Any:
    what, which = entry
    if what == "number":
        return numbers[which]
    return draws[which][what == "count"]


@dataclass(frozen=True, eq=False)
class FastPath:
    """``record(*values)`` records a call like the one it was made from, and hands any other on to ``otherwise`` in
    ``names``. ``valid`` holds the one count of changes of modules that it is known to be good for. ``way``: the same in
    the form of data, where it has one; then compiled code reads that, and nothing is printed."""

    recorder: Recorder
    valid: list[int]
    record: Callable[..., object] | None
    guards: tuple[Guard, ...]
    names: dict[str, Any]
    way: Way | None

    def holds(self, guards: Sequence[Guard]) -> bool:
        """Whether what it checks is still so."""
        return len(guards) == len(self.guards) and all(map(_same_guard, guards, self.guards))


def _same_guard(a: Guard, b: Guard) -> bool:
    if a.kind in ("is", "attribute", "cell"):
        return a.value is b.value
    if a.kind == "function":
        return a.on is b.on and all(map(operator.is_, a.value, b.value))
    if a.kind == "items":
        return a.on is b.on and len(a.value) == len(b.value) and all(map(operator.is_, a.value, b.value))
    return bool((a.kind != "array" or a.on is b.on) and a.name is b.name and a.value == b.value)


def _type_here(value: Any) -> Type:
    """The type of an expression, or of an array, where a call is recorded now."""
    return array_kind(current_tape(), value).type if type(value) is np.ndarray else type_on(current_tape(), value)


def _has_type_here(value: object, kind: Type) -> bool:
    return (type(value) is np.ndarray or type(value) is Expr) and _type_here(value) is kind


class _Unusual(Exception):
    """Arguments that no code is made for."""


def path_of(
    recorder: Recorder,
    values: Sequence[object],
    guards: tuple[Guard, ...],
    under: settings.Settings | tuple[object, ...],
    structure: int,
    tells_arrays: bool,
    owned: bool,
    may_print: bool,
) -> FastPath | None:
    """The code for calls like one with ``values``, or None for arguments that are not made of expressions of one tape,
    numbers, strings, None and modules. ``under``: the settings that it is for, all or those of recording.
    ``tells_arrays``: it is not for arrays in place of expressions. ``owned``: the first value is the object whose
    method is called. ``may_print``: whether there may be text for it, where it cannot be data."""
    names = [f"x{k + 1}" for k in range(len(values))]
    printer = _Printer(recorder, under, [structure], names, tells_arrays)
    try:
        for name, value in zip(names, values, strict=True):
            printer.take_apart(name, value)
        printer.record(printer.guards(guards))
    except _Unusual:
        return None
    way = printer.way(values[1:] if owned else values, guards)
    if way is None or not COMPILED:
        if not may_print:
            return None
        lines = [f"   {line}" for line in printer.lines]
        head, otherwise = f"def record({', '.join(names)}):", f" return otherwise({', '.join(names)})"
        text = [head, " try:", "  while True:", *lines, f" except {_MISSES}: pass", otherwise]
        exec(compile("\n".join(text), generated(recorder.signature.op.name), "exec"), printer.names)
    return FastPath(recorder, printer.valid, printer.names.get("record"), guards, printer.names, way)


_MISSES = "(AttributeError, ValueError, OverflowError, TypeError)"


class _Printer:
    """Prints the code: check that everything is as it was, append the rows, and make the handles of the results.

    Its variables are x1, x2, ... for arguments and their parts, k1, k2, ... for what is known already.
    """

    def __init__(
        self,
        recorder: Recorder,
        under: settings.Settings | tuple[object, ...],
        valid: list[int],
        arguments: Sequence[str],
        tells_arrays: bool,
    ) -> None:
        self.recorder, self.under, self.valid, self.tells_arrays = recorder, under, valid, tells_arrays
        self.names: dict[str, Any] = {
            "nodes": nodes,
            "operands_on": operands_on,
            "Expr": Expr,
            "now": settings.SCOPE.mine,
            "open_tape": open_tape,
            "same_contents": same_contents,
            "is_of": _has_type_here,
            "printing": np.get_printoptions,
            "unchanged": names_unchanged,
            "STRUCTURE": STRUCTURE,
            "valid": valid,
        }
        self.known: dict[int, str] = {}
        self.lines: list[str] = []
        self.tests: list[str] = []
        self.of_arrays = False  # those in the places of arrays alone
        self.of_numbers: list[str] = []  # which are asked for their values where no other cell is traced
        self.expressions: list[str] = []
        self.types: list[Type] = []  # of the same
        self.numbers: list[str] = []
        self.variables = len(arguments)

    def variable(self) -> str:
        self.variables += 1
        return f"x{self.variables}"

    def constant(self, value: object) -> str:
        name = self.known.get(id(value))
        if name is None:
            name = self.known[id(value)] = f"k{len(self.names)}"
            self.names[name] = value
        return name

    def take_apart(self, name: str, value: Any) -> None:
        """Tests and unpacking of one argument."""
        kind = value.__class__
        if kind is Expr or kind is np.ndarray:
            self.expressions.append(name)
            self.types.append(_type_here(value))
            if self.tells_arrays:
                self.of_arrays |= kind is np.ndarray
                self.tests.append(f"{name}.__class__ is {self.constant(kind)}")
        elif isinstance(value, Parameter):
            self.tests.append(f"{self.constant(_weakly(value))}() is {name}")
        elif is_sequence(kind) and kind.__iter__ in (tuple.__iter__, list.__iter__):
            self._unpack(name, value)
        elif isinstance(value, np.integer | np.floating) and len(self.numbers) not in self.recorder.static:
            self.tests.append(f"{name}.__class__ is {self.constant(kind)}")
            self.numbers.append(name)
        elif kind is int or kind is float:
            self.tests.append(f"{name}.__class__ is {kind.__name__}")
            known = self.recorder.static.get(len(self.numbers))
            if known is not None:
                if (known == 0 and kind is float) or known != known:
                    raise _Unusual  # 0.0 == -0.0, and a NaN is equal to none
                self.of_numbers.append(f"{name} == {self.constant(known)}")
            self.numbers.append(name)
        elif value is None or kind is bool:
            self.tests.append(f"{name} is {value!r}")
        elif kind is str:
            self.tests.append(f"{name}.__class__ is str and {name} == {self.constant(value)}")
        elif kind is dict and not value:
            self.tests.append(f"{name}.__class__ is dict and not {name}")
        elif isinstance(value, Expr) or hides_state(kind):
            raise _Unusual
        else:  # an object, all of which is watched
            self.tests.append(f"{self.constant(_weakly(value))}() is {name}")

    def _unpack(self, name: str, value: Sequence[object]) -> None:
        parts = [self.variable() for _ in value]
        self.lines.append(f"if {name}.__class__ is not {self.constant(value.__class__)}: break")
        # Fewer or more parts are a ValueError.
        self.lines.append(f"[{', '.join(parts)}] = {name}" if parts else f"if {name}: break")
        for part, v in zip(parts, value, strict=True):
            self.take_apart(part, v)

    def guard(self, guard: Guard) -> str:
        kind, on, name, value = guard
        place, wanted = self.constant(on), self.constant(value)
        if kind == "is":
            return f"{place}.get({name!r}, {self.constant(MISSING)}) is {wanted}"
        if kind == "function":
            kept = zip(("code", "defaults", "kwdefaults"), value, strict=True)
            return " and ".join(f"{place}.__{part}__ is {self.constant(is_now)}" for part, is_now in kept)
        if kind == "cell":
            return f"{place}.cell_contents is {wanted}"
        if kind == "printing":
            return f"printing() == {wanted}"
        if kind == "size":
            return f"len({place}) == {wanted}"
        if kind == "keys":
            return f"{place}().__class__ is {self.constant(name)} and tuple({place}().__dict__) == {wanted}"
        return f"{place}().__dict__.get({name!r}, {self.constant(MISSING)}) is {wanted}"

    def guards(self, guards: Sequence[Guard]) -> list[str]:
        """The tests of all guards: compiled, those of names and of functions, of which there are most, are one, and so
        are those of contents."""
        others = self.others([g for g in guards if g.kind not in ("is", "function")])
        if not COMPILED:
            return [*[self.guard(g) for g in guards if g.kind in ("is", "function")], *others]
        names = tuple([(g.on, g.name, g.value) for g in guards if g.kind == "is"])
        functions = tuple([(g.on, *g.value) for g in guards if g.kind == "function"])
        known = f"unchanged({self.constant(names)}, {self.constant(functions)}, {self.constant(MISSING)})"
        return [known, *others] if names or functions else others

    def others(self, guards: Sequence[Guard]) -> list[str]:
        """The tests of guards of other kinds, what is quickly compared first."""
        containers, arrays = (tuple([(g.on, g.value) for g in guards if g.kind == kind]) for kind in ("items", "array"))
        tests = [self.guard(g) for g in guards if g.kind not in ("items", "array")]
        if containers or arrays:
            tests.append(f"same_contents({self.constant(containers)}, {self.constant(arrays)})")
        return tests

    def way(self, values: Sequence[object], guards: Sequence[Guard]) -> Way | None:
        """The same as data, for arguments that have kinds, and where no number's value counts."""
        recorder, signature = self.recorder, self.recorder.signature
        kinds = None if recorder.static or self.of_arrays else kinds_of(values, current_tape())
        if kinds is None:
            return None
        return Way(
            kinds=kinds,
            arrays=not self.tells_arrays,
            key=recorder,
            valid=self.valid,
            under=self.under,
            keep=recorder.keep,
            names=tuple([(g.on, g.name, g.value) for g in guards if g.kind == "is"]),
            functions=tuple([(g.on, *g.value) for g in guards if g.kind == "function"]),
            unchanged=names_unchanged if any(g.kind in ("is", "function") for g in guards) else None,
            missing=MISSING,
            check=self.check([g for g in guards if g.kind not in ("is", "function")]),
            body=recorder.body,
            signatures=(signature, *signature.further),
            operands=tuple(recorder.operands),
            ints=tuple(recorder.payload.ints),
            floats=tuple(recorder.payload.floats),
            limits=tuple(recorder.limits),
            streams=tuple(recorder.streams),
            rebuilt=_made_of(recorder.results),
        )

    def check(self, guards: Sequence[Guard]) -> Callable[[], bool] | None:
        """The tests of guards as a function."""
        if not guards:
            return None
        tests = " and ".join(self.others(guards))
        text = f"def check():\n try: return {tests}\n except {_MISSES}: return False"
        exec(compile(text, generated(self.recorder.signature.op.name), "exec"), self.names)
        found: Callable[[], bool] = self.names["check"]
        return found

    def record(self, guards: Sequence[str]) -> None:
        """The tests that are left, and what is recorded. What tells most ways to call a cell apart, its arguments, is
        tested first, and then the tape: a way that does not fit costs little."""
        recorder, signature = self.recorder, self.recorder.signature
        chosen = [self.expressions[k] for k in recorder.operands]
        types = self.constant(recorder.types)
        limits = [f"0 <= {self.numbers[position]} < {size}" for position, size in recorder.limits]
        self._test(self.tests)
        self._check_tape(chosen)
        self._test([*self.unused(), *self.of_numbers, *guards, *limits])
        found = f"operands_on(tape, given, {types})"
        self.lines.append(f"found = {found if COMPILED else self._as_given(chosen, found)}")
        self.lines.append("if found is None: break")
        if recorder.body is not None:
            self._put_body(recorder.body)
            return
        self._put_payload()
        results = (signature, *signature.further)
        if COMPILED:
            made = "".join(f"e{k}, " for k in range(len(results)))
            self.lines.append(f"{made} = nodes(tape, {self.constant(results)}, found)")
        else:
            self._put_nodes(results, len(chosen))
        self.lines.append(f"return {_printed(recorder.results, (f'e{k}' for k in range(len(results))), self.constant)}")

    def _as_given(self, chosen: Sequence[str], otherwise: str) -> str:
        """The operands as they were given, if they are expressions of the tape and of the types that are wanted."""
        tests = [
            f"{e}.__class__ is Expr and {e}.tape is tape and {e}.type is {self.constant(kind)}"
            for e, kind in zip(chosen, self.recorder.types, strict=True)
        ]
        return f"given if {' and '.join(tests)} else {otherwise}" if tests else "given"

    def _put_nodes(self, results: Sequence[Signature], operands: int) -> None:
        """What `nodes` does, without its frames: see `lazyflow.record.frames`."""
        rows = [f"found[{k}].row" for k in range(operands)] + ["row"] * (len(results) - 1)
        self.lines.append("row = len(tape.signatures)")
        self.lines.append(f"tape.signatures.add({self.constant(IntColumn([s.id for s in results]))})")
        self.lines.append(f"tape.operands.fromlist([{', '.join(rows)}])")
        for k, signature in enumerate(results):
            self.lines.append(f"e{k} = Expr()")
            self.lines.append(f"e{k}.tape, e{k}.row, e{k}.type = tape, row + {k}, {self.constant(signature.type)}")

    def _put_body(self, body: LaidOut) -> None:
        """What the body has recorded, in place of a node."""
        numbers = f"({''.join(f'{name}, ' for name in self.numbers)})"
        self.lines.append(f"if not {self.constant(self.recorder.fits)}({numbers}): break")
        rows = f"[{', '.join(f'found[{k}].row' for k in range(body.first))}]"
        self.lines.append(f"found = {self.constant(body_laid_out)}(tape, {self.constant(body)}, {rows}, {numbers})")
        results = (f"found[{k}]" for k in range(len(body.results)))
        self.lines.append(f"return {_printed(self.recorder.results, results, self.constant)}")

    def unused(self) -> list[str]:
        """The tests of those expressions that the body does not use: their types count all the same."""
        rest = [k for k in range(len(self.expressions)) if k not in self.recorder.operands]
        return [f"is_of({self.expressions[k]}, {self.constant(self.types[k])})" for k in rest]

    def _test(self, tests: Sequence[str]) -> None:
        if tests:
            self.lines.append(f"if not ({' and '.join(tests)}): break")

    def _check_tape(self, chosen: Sequence[str]) -> None:
        """What holds for all calls on a tape is looked at once."""
        ready, under = self.constant(self.recorder), self.constant(self.under)
        options = "tape.options.recording" if isinstance(self.under, tuple) else "tape.options"
        state = ["tape.trace is None", "tape.lines is None", "STRUCTURE.count == valid[0]", f"{options} == {under}"]
        self.lines += [
            f"given = ({''.join(f'{e}, ' for e in chosen)})",
            f"tape = {self._tape(chosen)}",
            f"if tape.ready.get({ready}) != STRUCTURE.count:",
            f"  if not ({' and '.join(state)}): break",
            f"  {self.constant(self.recorder.keep)}(tape)",
            f"  tape.ready[{ready}] = valid[0]",
        ]

    def _tape(self, chosen: Sequence[str]) -> str:
        if COMPILED or not chosen:
            return "open_tape(given)"
        first = chosen[0]
        return f"{first}.tape if {first}.__class__ is Expr and {first}.tape.scope is now() else open_tape(given)"

    def _put_payload(self) -> None:
        # Converted first: what does not fit raises before anything is on the tape.
        payload, limits = self.recorder.payload, [self.numbers[position] for position, _ in self.recorder.limits]
        ints, floats = ([self._payload(entry) for entry in column] for column in (payload.ints, payload.floats))
        free = [name for name in ints if name in self.numbers and name not in limits]
        self.lines += [f"if not -0x80000000 <= {name} <= 0x7fffffff: break" for name in free]
        self.lines += [f"f{k} = float({name})" for k, name in enumerate(floats) if name in self.numbers]
        for k, stream in enumerate(self.recorder.streams):
            draw = f"s{k} = {self.constant(stream.here)}()", f"d{k} = s{k}.following()", f"tape.streams[d{k}[0]] = s{k}"
            self.lines += draw
        self.lines += [f"tape.ints.append({name})" for name in ints]
        self.lines += [
            f"tape.floats.append({f'f{k}' if name in self.numbers else name})" for k, name in enumerate(floats)
        ]

    def _payload(self, entry: tuple[str, int]) -> str:
        what, which = entry
        return self.numbers[which] if what == "number" else f"d{which}[{int(what == 'count')}]"


def _printed(structure: Any, results: Iterator[str], constant: Callable[[object], str]) -> str:
    """The text that makes what a cell returns of the names of its results."""
    if structure is EXPRESSION:
        return next(results)
    kind, *parts = structure
    if kind is tuple:
        return f"({''.join(_printed(p, results, constant) + ', ' for p in parts)})"
    if kind is list:
        return f"[{', '.join(_printed(p, results, constant) for p in parts)}]"
    if kind is dict:
        return f"{{{', '.join(f'{constant(k)}: {_printed(p, results, constant)}' for k, p in parts)}}}"
    if is_sequence(kind):
        items = "".join(f"{_printed(p, results, constant)}, " for p in parts)
        return f"{constant(sequence_of)}({constant(kind)}, ({items}))"
    return constant(parts[0])


def _made_of(structure: Any) -> Callable[[Sequence[Expr]], object] | None:
    """What makes of results what a cell returns, as code; None where that is the one result."""
    if structure is EXPRESSION:
        return None
    if structure[0] is tuple and all(part is EXPRESSION for part in structure[1:]):
        return as_tuple
    names: dict[str, object] = {}
    places = (f"found[{k}]" for k in itertools.count())

    def constant(value: object) -> str:
        return next((name for name, known in names.items() if known is value), None) or _named(names, value)

    made: Callable[[Sequence[Expr]], object] = eval(f"lambda found: {_printed(structure, places, constant)}", names)
    return made


def _named(names: dict[str, object], value: object) -> str:
    name = f"k{len(names)}"
    names[name] = value
    return name


def _weakly(value: object) -> object:
    try:
        return weakref.ref(value)
    except TypeError:
        raise _Unusual from None

"""Recording again what a function has recorded before.

What the functions of `lazyflow.functions` record depends on the kinds of their operands and on the values of their
other arguments alone (`by_kinds`). So what one of them records is found out once, on a tape of its own on which inputs
stand for the expressions, and is a `Template` from then on: a look-up of the very same kinds and values, and the rows
are appended, whatever the function would check, convert and look up.

A short list of expressions counts as its length and the kinds of its parts, wherever it stands. Nothing is remembered
of other arguments that can change, of numbers of a traced cell, and of tapes on which every operation has its line. Of
arrays, which become constants, it is where the function says that their contents do not matter; and every draw is made
anew. Where the package was not compiled nothing is remembered at all: there the look-up would cost what it saves.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from sys import intern
from typing import Any

import numpy as np
from numpy import ndarray

import lazyflow.record.expr as recording
from lazyflow.core.columns import FloatColumn, IntColumn
from lazyflow.random import Stream
from lazyflow.record.expr import NUMPYS_INTEGERS, Expr, ListMemo, append
from lazyflow.record.tape import (
    IMPORT_OP,
    INPUT_OP,
    Signature,
    Tape,
    Type,
    leaf_signature,
    recording_on,
    signature_by_id,
    table_of_interned,
)
from lazyflow.record.trace import Body, Trace
from lazyflow.settings import SCOPE, Function

__all__ = ["by_kinds"]


OWN_ROW = 32  # from here on an operand is a row of the template itself, below the argument at that place
MOST_ROWS = 64  # together less than 128, as characters may be signed
MOST_KNOWN = 1024  # templates of one function
LEARNING = 16  # calls that a template has to serve before it has saved what it took to find it out
TEMPLATE_PATIENCE = 256  # so many templates are made for nothing before a function goes without
MOST_LISTED = 24  # of a list that counts as its parts; with what is beside it, less than `OWN_ROW`


class Template:
    """Rows to append: the ids of their signatures, their operands and payload, and the arrays of constants among them.

    ``operands``: places of arguments, or `OWN_ROW` plus a row of the template. ``results``: the rows that the function
    returns; ``kind``: in what it returns them, `Expr` where there is but one. ``draws``: of each, the stream, and where
    its seed and its count stand in the payload. ``shared``: parameters are among the arguments; ``kept``: the number of
    a tape that holds them, and the signatures. ``dtype`` and ``device``: those of the settings, the latter where it
    counts. ``arrays``: the places of arrays among the arguments. ``same``: the place of an argument that the function
    returns as it is, and records nothing; -1 elsewhere.
    """

    __slots__ = (
        "arrays", "device", "draws", "dtype", "floats", "ids", "ints", "kept", "kind", "note", "objects", "operands",
        "results", "same", "shared", "signatures",
    )  # fmt: skip

    def __init__(self, scratch: Tape, inputs: Sequence[int], results: Sequence[Expr], kind: type) -> None:
        first = len(inputs)
        self.ids, self.ints, self.floats = IntColumn(), IntColumn(), FloatColumn()
        self.ids.extend(scratch.signatures[first:])
        self.ints.extend(scratch.ints[:])
        self.floats.extend(scratch.floats[:])
        self.signatures = tuple([signature_by_id(number) for number in self.ids])
        self.operands = bytes([inputs[row] if row < first else OWN_ROW + row - first for row in scratch.operands[:]])
        self.objects = tuple([(row - first, array) for row, array in scratch.objects.items()])
        self.results = tuple([e.row - first for e in results])
        self.kind, self.note = kind, getattr(results[0], "note", None)
        self.same = inputs[results[0].row] if results[0].row < first else -1
        self.shared = bool(scratch.keep)
        self.kept = -1
        self.dtype, self.device = scratch.dtype, None if inputs and not self.objects else scratch.device
        assert scratch.trace is not None
        self.draws = _draws(scratch.trace)
        self.arrays: tuple[int, ...] = ()


def _draws(trace: Trace) -> tuple[tuple[Stream, int, int], ...]:
    """Of each draw, its stream, and where in the integers its seed and its count stand."""
    places: dict[object, int] = {number.payload: trace.places[key] for key, number in trace.links.items()}
    return tuple([(stream, places["seed", k], places["count", k]) for k, stream in enumerate(trace.streams)])


class Branch:
    """Where the templates for more than three arguments go on, and the ways of a cell for more than three kinds; the
    first thing that those of one function are found by."""

    __slots__ = ()


class Listed:
    """In place of a list or tuple of expressions: its length follows, and then its parts."""

    __slots__ = ("kind",)

    def __init__(self, kind: type) -> None:
        self.kind = kind


_LIST, _TUPLE = Listed(list), Listed(tuple)


class Spelled:
    """A function, the names of its parameters and their defaults, and how many more templates may be made of it.
    ``known``: its templates by the ``id`` of all kinds of their arguments, with these, but those for parameters (see
    `_table`). They are looked for there when the table of what was lately recalled has lost them: to find one out again
    takes a thousand times as long."""

    __slots__ = ("arrays", "defaults", "function", "known", "listed", "long", "names", "patience", "positional")

    def __init__(self, function: Callable[..., object], listed: ListMemo | None, arrays: bool) -> None:
        self.function, self.listed, self.arrays = function, listed, arrays
        parameters = inspect.signature(function).parameters.values()
        self.names = tuple([p.name for p in parameters])
        self.defaults = tuple([p.default for p in parameters])
        self.positional = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self.long = Branch()
        self.patience = TEMPLATE_PATIENCE * LEARNING
        self.known: dict[tuple[int, ...], tuple[Template, list[object]]] = table_of_interned({})

    def applied(self, flat: Sequence[object]) -> Any:
        """The function itself, with the values of its parameters in their order, as `_flat` has them."""
        given = _nested(flat)
        return self.function(
            *given[: self.positional],
            **dict(zip(self.names[self.positional :], given[self.positional :], strict=False)),
        )


def by_kinds(function: Function, *, listed: ListMemo | None = None, arrays: bool = False) -> Function:
    """A function that appends what it recorded before for arguments of these kinds and values; see the module's
    text. ``listed``: what is known of one that takes a list of expressions alone. ``arrays``: of arrays dtype and shape
    matter alone."""
    if recording.RECALL is None:
        return function
    spelled = Spelled(function, listed, arrays)

    def call(*args: object, **kwargs: object) -> object:
        return _called(spelled, args, kwargs)

    return functools.update_wrapper(call, function)  # type: ignore[return-value]


_KNOWN = Branch()  # what tuples are found by that are themselves known
_NONE = object()  # in place of an argument that is not there
_known: dict[object, object] = table_of_interned({})  # tuples, and large numbers, by their values


def _called(spelled: Spelled, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    if spelled.listed is not None and len(args) == 1 and not kwargs:
        again = recording.listed_again(spelled.listed, args[0])
        if again is not None:
            return again
    given = _given(spelled, args, kwargs)
    if given is None:
        return spelled.function(*args, **kwargs)
    tape: Tape | None = _tape_of(given) if spelled.arrays else None
    first: Any = spelled if len(given) <= 3 else spelled.long
    x: object = _NONE
    y: object = _NONE
    z: object = _NONE
    for k, o in enumerate(given):
        if type(o) is Expr:
            e: Expr = o
            kind: object = e.type
            if tape is None:
                tape = e.tape
            elif tape is not e.tape:
                return _called_across(spelled, args, kwargs, given)
        elif o is None or type(o) is bool or type(o) is float:
            kind = o
        else:
            kind = _kind_of(o, tape if spelled.arrays else None)
            if kind is None:
                return spelled.function(*args, **kwargs)
        place = k % 3
        if place == 0:
            if k:
                first = None if first is None else recording.RECALL.get(first, x, y, z)
            x, y, z = kind, _NONE, _NONE
        elif place == 1:
            y = kind
        else:
            z = kind
    tape = recording.open_here() if tape is None else tape
    if tape is None or tape.scope is not SCOPE.mine() or (tape.body is not None and _counts_arrays(tape, given)):
        return _called_across(spelled, args, kwargs, given)
    found: Any = None if first is None else recording.RECALL.get(first, x, y, z)
    if _fits(found, tape):
        spelled.patience += 1
        return _appended(tape, found, given)
    return _known_or_learnt(spelled, args, kwargs, given, tape)


def _called_across(
    spelled: Spelled, args: tuple[object, ...], kwargs: dict[str, object], given: tuple[object, ...]
) -> object:
    """As `_called`, of expressions that are not all on the tape of this context: the others are imported. In a cell
    the function itself is called."""
    tape = recording.open_here()
    if tape is None or tape.trace is not None or tape.body is not None:
        return spelled.function(*args, **kwargs)
    for o in given:
        if type(o) is Expr:
            e: Expr = o
            if e.type.device != tape.device or e.tape.body is not None:
                return spelled.function(*args, **kwargs)
        elif o is None or type(o) is bool or type(o) is float:
            pass
        elif _kind_of(o, tape if spelled.arrays else None) is None:
            return spelled.function(*args, **kwargs)
    return _known_or_learnt(spelled, args, kwargs, given, tape)


def _imported_here(tape: Tape, given: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments with expressions of this tape in place of those of others."""
    made = list(given)
    for k, o in enumerate(given):
        if type(o) is Expr:
            e: Expr = o
            if e.tape is not tape:
                kind = recording.type_on(tape, e)
                made[k] = recording.handle(tape, recording.local_row(tape, e), kind)
    return tuple(made)


def _counts_arrays(tape: Tape, given: tuple[object, ...]) -> bool:
    """Whether it may count whether an operand is an array among the arguments of a cell: see `is_array_of_a_call`."""
    body: Any = tape.body
    expressions = [o for o in given if isinstance(o, Expr)]
    if len({e.type.dtype for e in expressions}) < 2:
        return False
    return any(e.tape is tape and e.row < len(body.inputs) for e in expressions)


def _fits(found: object, tape: Tape) -> bool:
    """Whether this is a template, the tape has the settings under which it was recorded, and may draw what it draws."""
    if type(found) is not Template:
        return False
    template: Template = found
    if template.dtype is not tape.dtype or (template.device is not None and template.device != tape.device):
        return False
    return tape.trace is None or not template.draws


def _tape_of(given: tuple[object, ...]) -> Tape | None:
    """The tape of the first expression, if that is all there is to know."""
    for o in given:
        if type(o) is Expr:
            e: Expr = o
            return e.tape
    return recording.open_here()


def _kind_of(o: object, constants: Tape | None) -> object:
    """What an argument counts as that is no expression: itself, if it cannot change, and of an array its `ArrayKind`
    where it becomes one of the ``constants`` of a tape; None for what is not remembered."""
    if type(o) is int:
        return o if -5 <= o <= 256 else _known.setdefault(o, o)
    if type(o) is str:
        return intern(o)
    if type(o) in NUMPYS_INTEGERS:
        number = type(o), o
        return _known.setdefault(number, number)
    if type(o) is ndarray:
        return None if constants is None else recording.array_kind(constants, o)
    if type(o) is list:
        return None
    if isinstance(o, Expr):
        e: Expr = o
        return e.type if e.type.parameter is not None else None
    if type(o) is Listed:
        return o
    if type(o) is tuple:
        known = recording.RECALL.get(_KNOWN, o, None, None)
        if known is not None:
            return known
        for part in o:
            if type(part) is not int:
                return None
        known = _known.setdefault(o, o)
        if known is o:  # such as the strides of a layer, which come again
            recording.RECALL.put(_KNOWN, o, None, None, o)
        return known
    return o if type(o) is type or type(o) is Stream or isinstance(o, np.dtype) else None


def _given(spelled: Spelled, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[object, ...] | None:
    """The arguments of a call, flat; None where the function would not take them."""
    bound = _bound(spelled, args, kwargs) if kwargs else args
    return None if bound is None else _flat(bound)


def _flat(given: tuple[object, ...]) -> tuple[object, ...]:
    """Arguments with the parts of short lists of expressions among them in the place of these."""
    for o in given:
        if (type(o) is list or type(o) is tuple) and _holds_expressions(o):
            break
    else:
        return given
    flat: list[object] = []
    for o in given:
        if (type(o) is list or type(o) is tuple) and _holds_expressions(o):
            parts: Any = o
            flat.append(_LIST if type(o) is list else _TUPLE)
            flat.append(len(parts))
            flat.extend(parts)
        else:
            flat.append(o)
    return tuple(flat) if len(flat) < OWN_ROW else given


def _holds_expressions(parts: Any) -> bool:
    """Whether this is a short list or tuple of expressions, or one with expressions in it."""
    if len(parts) > MOST_LISTED:
        return False
    for part in parts:  # noqa: SIM110  # a generator is slower than all the rest of this
        if type(part) is not int and isinstance(part, Expr):
            return True
    return False


def _nested(flat: Sequence[object]) -> list[object]:
    """The arguments that `_flat` has taken apart."""
    given: list[object] = []
    rest = iter(flat)
    for o in rest:
        if type(o) is Listed:
            count: Any = next(rest)
            given.append(o.kind([next(rest) for _ in range(count)]))
        else:
            given.append(o)
    return given


def _bound(spelled: Spelled, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[object, ...] | None:
    """The values of the parameters in their order, up to the last that is given; None where the function would not take
    them."""
    given = list(args)
    left = len(kwargs)
    for k in range(len(args), len(spelled.names)):
        value = kwargs.get(spelled.names[k], _NONE)
        if value is _NONE:
            given.append(spelled.defaults[k])
            continue
        given.append(value)
        left -= 1
        if not left:
            return tuple(given)
    return None


def _appended(tape: Tape, template: Template, given: tuple[Any, ...]) -> Any:
    """Append a template's rows to an open tape, in the order of `lazyflow.record.expr._node`."""
    if template.shared and template.kept != tape.number:
        tape.keep.update([o for o in given if isinstance(o, Expr) and o.type.parameter is not None])
        tape.keep.update(template.signatures)
        template.kept = tape.number
    if template.arrays:
        given = _with_constants(tape, template, given)
    if template.same >= 0:
        return given[template.same]
    draws = _drawn(tape, template) if template.draws else None
    row, start = len(tape.signatures), len(tape.ints)
    tape.ints.add(template.ints)
    if draws is not None:
        for place, number in draws:
            tape.ints.put(start + place, number)
    tape.floats.add(template.floats)
    tape.signatures.add(template.ids)
    for code in template.operands:
        if code < OWN_ROW:
            e: Expr = given[code]
            tape.operands.append(e.row)
        else:
            tape.operands.append(row + code - OWN_ROW)
    for k, array in template.objects:
        tape.objects[row + k] = array
    if template.kind is Expr:
        result = _result(tape, template, row, template.results[0])
        if template.note is not None:
            result.note = template.note
        return result
    results = [_result(tape, template, row, k) for k in template.results]
    return results if template.kind is list else tuple(results)


def _with_constants(tape: Tape, template: Template, given: tuple[object, ...]) -> tuple[object, ...]:
    """The arguments with constants in place of arrays."""
    made = list(given)
    for k in template.arrays:
        kind = recording.array_kind(tape, made[k])
        made[k] = recording.constant_of(tape, kind, recording.copied_array(made[k], None))
    return tuple(made)


def _drawn(tape: Tape, template: Template) -> list[tuple[int, int]]:
    """The numbers of new draws, and where they stand in the template's payload."""
    found = []
    for stream, seed_place, count_place in template.draws:
        source = stream.here()
        seed, count = source.following()
        tape.streams[seed] = source
        found += [(seed_place, seed), (count_place, count)]
    return found


def _result(tape: Tape, template: Template, row: int, k: int) -> Expr:
    signature: Signature = template.signatures[k]
    return recording.handle(tape, row + k, signature.type)


def _known_or_learnt(
    spelled: Spelled, args: tuple[object, ...], kwargs: dict[str, object], given: tuple[object, ...], tape: Tape
) -> object:
    """What the function has recorded for such arguments, if that is known after all; else what `_learnt` does."""
    kinds = _kinds(given, tape)
    known = _table(spelled, kinds).get(tuple([id(kind) for kind in kinds]))
    if known is not None and _fits(known[0], tape):
        if known[0].same >= 0 and not known[0].arrays:
            return given[known[0].same]  # wherever it was recorded
        if all(type(o) is not float or o is kind for o, kind in zip(given, kinds, strict=False)):
            _recall_template(spelled, kinds, known[0])
        return _appended(tape, known[0], _imported_here(tape, given))
    return _learnt(spelled, args, kwargs, given, tape)


def _learnt(
    spelled: Spelled, args: tuple[object, ...], kwargs: dict[str, object], given: tuple[object, ...], tape: Tape
) -> object:
    """Call the function, and remember what it records."""
    before = len(tape.signatures)
    result = spelled.function(*args, **kwargs)
    recorded = len(tape.signatures) > before or type(result) is Expr
    if spelled.patience > 0 and tape.trace is None and tape.scope is SCOPE.mine() and recorded:
        spelled.patience -= LEARNING
        ids = tape.signatures[before:]
        given = _imported_here(tape, given)
        template = _template(spelled, given, tape)
        if template is not None and _agree(template, given, tape, before, ids):
            _remember_template(spelled, given, template, tape)
    return result


def _agree(template: Template, given: tuple[object, ...], tape: Tape, before: int, ids: Sequence[int]) -> bool:
    """Whether the function has recorded, from the row ``before`` on, what the template says, a constant for each array,
    and what was imported."""
    if template.same >= 0 and not template.arrays:
        return not len(ids)
    made = [recording.array_kind(tape, given[k]).signature.id for k in template.arrays]
    made += [tape.signatures[row] for row in {o.row for o in given if type(o) is Expr and o.row >= before}]
    rest = [number for number in ids if number not in made]
    return rest == [n for n in template.ids if n not in made] and len(ids) == len(template.ids) + len(made)


def _remember_template(spelled: Spelled, given: tuple[object, ...], template: Template, tape: Tape) -> None:
    kinds = _kinds(given, tape)
    table = _table(spelled, kinds)
    if len(table) >= MOST_KNOWN:
        table.clear()
    table[tuple([id(kind) for kind in kinds])] = template, kinds
    _recall_template(spelled, kinds, template)


def _table(spelled: Spelled, kinds: Sequence[object]) -> dict[tuple[int, ...], tuple[Template, list[object]]]:
    """The templates for arguments such as these: those for a parameter go when it goes."""
    for kind in kinds:
        if type(kind) is Type and kind.parameter is not None:
            return kind.signatures.setdefault(spelled, {})  # type: ignore[no-any-return]
    return spelled.known


def _kinds(given: tuple[object, ...], tape: Tape) -> list[object]:
    """What the arguments count as, in threes."""
    kinds: list[object] = []
    for o in given:
        if type(o) is Expr:
            kinds.append(recording.type_on(tape, o))
        else:
            kinds.append(o if o is None or type(o) is bool else _same(o) if type(o) is float else _kind_of(o, tape))
    return kinds + [_NONE] * (-len(kinds) % 3 if kinds else 3)


def _same(number: float) -> float:
    """The one object that stands for all equal numbers: what is computed, such as ``-c``, is a new one each time. Zeros
    of either sign, and NaN, stand for themselves."""
    return _floats.setdefault(number, number) if number and number == number else number


_floats: dict[float, float] = table_of_interned({})


def _recall_template(spelled: Spelled, kinds: list[object], template: Template) -> None:
    """Have a template found by the kinds of its arguments."""
    first: Any = spelled if len(kinds) <= 3 else spelled.long
    for k in range(0, len(kinds) - 3, 3):
        found = recording.RECALL.get(first, kinds[k], kinds[k + 1], kinds[k + 2])
        if found is None:
            found = Branch()
            recording.RECALL.put(first, kinds[k], kinds[k + 1], kinds[k + 2], found)
        first = found
    recording.RECALL.put(first, kinds[-3], kinds[-2], kinds[-1], template)


def _template(spelled: Spelled, given: tuple[object, ...], tape: Tape) -> Template | None:
    """What the function records of such arguments, if that is all that it does."""
    scratch = Tape(tape.options)
    scratch.body, scratch.trace = Body(spelled.function.__name__), Trace()  # so that nothing is drawn
    inputs: list[int] = []
    with recording_on(scratch):
        stand_ins = list(given)
        for k, o in enumerate(given):
            if type(o) is Expr or type(o) is ndarray:
                kind: Type = o.type if type(o) is Expr else recording.array_kind(tape, o).type
                signature = leaf_signature(INPUT_OP, kind, ints=0)
                scratch.keep.add(signature)
                stand_ins[k] = append(scratch, signature, ())
                inputs.append(k)
        held = len(scratch.keep)
        try:
            result = spelled.applied(stand_ins)
        except Exception:  # of what it refuses in place of an array
            return None
    made = type(result)
    results = [result] if made is Expr else list(result) if made is list or made is tuple else []
    rows = len(scratch) - len(inputs)
    first = 0 if made is Expr and not rows else len(inputs)  # it may return an argument as it is
    if not results or rows > MOST_ROWS or len(given) >= OWN_ROW or scratch.imports:
        return None
    if any(type(e) is not Expr or e.tape is not scratch or e.row < first for e in results):
        return None
    if len(results) > 1 and any(getattr(e, "note", None) is not None for e in results):
        return None
    trace: Trace = scratch.trace
    if trace.static or trace.limits or len(trace.links) != 2 * len(trace.streams):
        return None
    template = Template(scratch, inputs, results, made)
    if any(s.op is IMPORT_OP or s.cell is not None for s in template.signatures):
        return None
    template.arrays = tuple([k for k, o in enumerate(given) if type(o) is ndarray])
    template.shared = len(scratch.keep) > held
    return template

"""Recording a call of a cell once more: from the kinds of its arguments to the rows of its call in one step.

A cell is called in a few ways (see `lazyflow.cells.recorder`), and for each of them there is code that checks whether a
call is one of them. A `Way` says the same in the form of data: the kinds of the arguments that it is for, what has to
be as it was, and what to append. The kinds of the arguments at hand give the way by one look-up
(`core.columns.Recall`), however many ways there are. Calls that no way is for are left to that code. Where the package
was not compiled there is that code alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from sys import intern
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

import lazyflow.record.expr as recording
from lazyflow.core.columns import FloatColumn, IntColumn
from lazyflow.record.expr import STRUCTURE, Expr, Parameter, imported_type
from lazyflow.record.frames import COMPILED
from lazyflow.record.tape import Signature, Tape, Type, current_tape
from lazyflow.record.templates import Branch
from lazyflow.settings import SCOPE

if TYPE_CHECKING:
    from lazyflow.random import Stream

__all__ = ["COMPILED", "LaidOut", "Way", "Ways", "as_tuple", "body_laid_out", "kinds_of", "steps_recorded"]

NUMBERS = frozenset(np.dtype(c).type for c in "bBhHiIlLqQefd")
MISSED: object = object()  # in place of a result: this call is of no way that is known
_NO_KIND: object = object()  # in place of a kind that is not there


class LaidOut:
    """What a body has recorded, to be appended in place of one row for a call.

    ``signatures``: of the rows; ``operands``: of all of them, in one, where the numbers below ``first`` are the call's
    own operands, and the others, less that, rows of the body; ``ints`` and ``floats``: the payload, where what
    ``own_ints`` and ``own_floats`` say is each call's own: the place, and what fills it, as in
    `lazyflow.cells.recorder.Payload`; ``streams``: what it draws from; ``objects``: the arrays of constants, by row;
    ``results``: the rows that it returns.
    """

    __slots__ = (
        "first", "floats", "ids", "ints", "objects", "operands", "own_floats", "own_ints", "results", "signatures",
        "streams",
    )  # fmt: skip

    def __init__(self, signatures: Sequence[Signature], ints: Sequence[int], floats: Sequence[float]) -> None:
        self.ids, self.ints, self.floats = IntColumn(), IntColumn(), FloatColumn()
        self.signatures = tuple(signatures)
        self.ids.extend([s.id for s in signatures])
        self.ints.extend(ints)
        self.floats.extend(floats)
        self.first = 0
        self.operands: tuple[int, ...] = ()
        self.own_ints: tuple[tuple[int, str, int], ...] = ()
        self.own_floats: tuple[tuple[int, str, int], ...] = ()
        self.streams: tuple[Stream, ...] = ()
        self.objects: tuple[tuple[int, Any], ...] = ()
        self.results: tuple[int, ...] = ()


def _draws_noted(tape: Tape, streams: Sequence[Stream]) -> list[Any]:
    """The next draw of each stream, by a tape that knows the streams from now on."""
    draws = []
    for stream in streams:
        source = stream.here()
        draw = source.following()
        tape.streams[draw[0]] = source
        draws.append(draw)
    return draws


def body_laid_out(tape: Tape, body: LaidOut, rows: Sequence[int], numbers: Sequence[Any]) -> list[Expr]:
    """Append these rows to an open tape, in the order of `lazyflow.record.expr._node`, and return the results:
    ``rows`` of the operands, and numbers that fit."""
    draws = _draws_noted(tape, body.streams)
    row, start = len(tape.signatures), len(tape.ints)
    tape.ints.add(body.ints)
    for place, what, position in body.own_ints:
        tape.ints.put(start + place, numbers[position] if what == "number" else draws[position][what == "count"])
    start = len(tape.floats)
    tape.floats.add(body.floats)
    for place, what, position in body.own_floats:
        tape.floats[start + place] = numbers[position] if what == "number" else draws[position][what == "count"]
    tape.signatures.add(body.ids)
    shift = row - body.first
    for number in body.operands:
        code: int = number
        tape.operands.append(rows[code] if code < body.first else shift + code)
    for k, array in body.objects:
        tape.objects[row + k] = array
    found = []
    for k in body.results:
        signature: Signature = body.signatures[k]
        found.append(recording.handle(tape, row + k, signature.type))
    return found


class Way:
    """One way to call a cell.

    ``kinds``: of its arguments, see `_gather`; ``arrays``: whether an array may stand for an expression. ``operands``:
    which of the expressions among them are the call's. ``ints`` and ``floats``: its payload, entries as in
    `lazyflow.cells.recorder.Payload`. ``limits``: the sizes that numbers are indices of. ``key``: what `Tape.ready`
    knows it by; ``valid``: the count of changes that it is good for; ``under``: the settings that it is for, all or
    those of recording; ``keep``: what the tape keeps of it. ``body``: what is laid out for it, None for a node, with
    further results, of these ``signatures``. ``names`` and ``functions``, which ``unchanged`` compares, and ``check``:
    what has to be as it was. ``in_order``: the operands are all expressions as they come. ``rebuilt``:
    makes of results what the cell returns, None where that is one expression.
    """

    __slots__ = (
        "arrays", "body", "check", "floats", "functions", "in_order", "ints", "keep", "key", "kinds", "limits", "mark",
        "missing", "names", "operands", "rebuilt", "signatures", "streams", "unchanged", "under", "valid",
    )  # fmt: skip

    kinds: tuple[object, ...]
    arrays: bool
    body: LaidOut | None
    operands: tuple[int, ...]
    ints: tuple[tuple[str, int], ...]
    floats: tuple[tuple[str, int], ...]
    limits: tuple[tuple[int, int], ...]
    key: object
    valid: list[int]
    under: object
    keep: Callable[[Tape], None]
    names: tuple[object, ...]
    functions: tuple[object, ...]
    missing: object
    unchanged: Callable[..., bool] | None
    check: Callable[[], bool] | None
    signatures: tuple[Signature, ...]
    streams: tuple[Stream, ...]
    rebuilt: Callable[[Sequence[Expr]], object] | None

    def __init__(self, **fields: object) -> None:
        for name, value in fields.items():
            setattr(self, name, value)
        expressions = sum(isinstance(kind, Type) and kind.parameter is None for kind in self.kinds)
        self.in_order = self.operands == tuple(range(expressions))
        self.mark: object = Branch()  # what it is known by where it must not be kept alive


class Ways:
    """The ways to call a function, or a method of the object that ``owner`` refers to, in a tuple with what they are
    found by (``now``), which other threads see as a whole; ``otherwise`` takes all other calls."""

    __slots__ = ("now", "otherwise", "owner")

    def __init__(self, owner: Callable[[], object] | None) -> None:
        self.owner = owner
        self.set((), None)

    def set(self, ways: Sequence[Way | None], otherwise: Any) -> None:
        """Put others in their place."""
        # By a new branch, so that nothing is found any more that was found before.
        self.now: tuple[Any, tuple[Way, ...]] = Branch(), tuple([way for way in ways if way is not None])
        self.otherwise = otherwise

    def recorder(self) -> Callable[..., object]:
        """The function that records a call: of the values of the parameters."""

        def call(*values: object) -> object:
            found = _called_again(self, values)
            return self.otherwise(*values) if found is MISSED else found

        return call


class _Going:
    """Calls that come one after the other, each with the result of the one before, and nothing else in between: what
    has to be as it was is looked at once. ``way``, ``tape`` and ``row``: of the last; ``after``: the rows of what all
    have behind their state."""

    __slots__ = ("after", "row", "tape", "way")

    def __init__(self) -> None:
        self.way: Any = None
        self.tape: Any = None
        self.row = 0
        self.after: Any = None


def steps_recorded(
    ways: Ways, step: Callable[..., object], before: tuple[object, ...], xs: list[object], state: object,
    after: tuple[object, ...],
) -> list[object]:  # fmt: skip
    """See `lazyflow.cells.cell.recurrence`; ``before`` has the object first, ``step`` takes what has no way."""
    states = []
    going = _Going()
    for x in xs:
        last = going.way
        result = None if last is None else _called_on(ways, going, x, after)
        if result is None:
            result = _called_anyhow(ways, (*before, x, state, *after), going)
            if result is MISSED:
                going.way = None
                result = step(*before, x, state, *after)
            elif last is not None and type(x) is Expr:
                _note_following(ways, last, x, going.way)
        state = result
        states.append(state)
    return states


def _note_following(ways: Ways, last: Way, x: Expr, way: Way) -> None:
    """A call with ``x`` and the result of one of the way ``last`` is one of ``way``."""
    following = ways.now[1]
    takes_numbers = way.ints or way.floats or way.limits or way.streams
    if way in following and way.body is last.body is None and not takes_numbers and last.rebuilt in _STATES:
        recording.RECALL.put(ways.now[0], last.mark, x.type, _AFTER, following.index(way))


def _called_on(ways: Ways, going: _Going, x: object, after: tuple[object, ...]) -> object:
    """Record a call with ``x`` and the result of the one before; None where there is more to it."""
    if type(x) is not Expr:
        return None
    e: Expr = x
    tape: Tape = going.tape
    last: Way = going.way
    now = ways.now
    if e.tape is not tape:
        return None
    found: Any = recording.RECALL.get(now[0], last.mark, e.type, _AFTER)
    if found is None:
        return None
    way: Way = now[1][found]
    if way is not last:
        if not _is_ready(way, tape):
            return None
        going.way = way
    if going.after is None:
        going.after = [_row(tape, o) for o in after if type(o) is Expr or type(o) is ndarray]
    count, first, row = len(last.signatures), going.row, len(tape.signatures)
    for s in way.signatures:
        signature: Signature = s
        tape.signatures.append(signature.id)
    for k in way.operands:  # of x, the results of the call before, and what is behind them
        position: int = k
        if position == 0:
            tape.operands.append(e.row)
        elif position <= count:
            tape.operands.append(first + position - 1)
        else:
            tape.operands.append(going.after[position - count - 1])
    going.row = row
    return _results(tape, way, row)


def kinds_of(values: Sequence[object], tape: Tape) -> tuple[object, ...] | None:
    """The kinds of arguments, None if there is one that no way is for."""
    kinds: list[object] = []
    found = _gather(tape, tuple(values), 0, kinds, [], [])
    return tuple([k.type if isinstance(k, recording.ArrayKind) else k for k in kinds]) if found else None


def _gather(
    tape: Tape, values: tuple[object, ...], first: int, kinds: list[object], expressions: list[Any], numbers: list[Any]
) -> bool:
    """Collect the kinds of arguments, the expressions and arrays, and the numbers, in their order, from ``first`` on.
    False if one is of no kind.

    Of an expression the kind is its type, of an array its `ArrayKind`, of a number its class, of None, a truth value
    and text itself; a tuple or list gives its class and length, and then those of its parts.
    """
    for k in range(first, len(values)):
        o = values[k]
        if type(o) is Expr:
            e: Expr = o
            kinds.append(e.type if e.tape is tape else imported_type(e))
            expressions.append(o)
        elif o is None or type(o) is bool:
            kinds.append(o)
        elif type(o) is str:
            kinds.append(intern(o))  # kinds are looked up by identity, and a text may have been put together
        elif type(o) is int or type(o) is float:
            kinds.append(type(o))
            numbers.append(o)
        elif type(o) is tuple or type(o) is list:
            parts: Any = o if type(o) is tuple else tuple(o)
            kinds.append(type(o))
            kinds.append(len(parts))
            if len(parts) > 256 or not _gather(tape, parts, 0, kinds, expressions, numbers):
                return False
        elif type(o) is ndarray:
            kinds.append(recording.array_kind(tape, o))
            expressions.append(o)
        elif isinstance(o, Expr):
            e = o
            if e.type.parameter is None:
                return False
            kinds.append(e.type)
        elif type(o) in NUMBERS:
            kinds.append(type(o))
            numbers.append(o)
        else:
            return False
    return True


def _first_tape(values: tuple[object, ...]) -> Tape | None:
    """The tape of the first expression, at any depth of tuples."""
    for o in values:
        if type(o) is Expr:
            e: Expr = o
            return e.tape
        if type(o) is tuple:
            tape = _first_tape(o)
            if tape is not None:
                return tape
    return None


def _called_again(ways: Ways, values: tuple[object, ...]) -> object:
    """Record a call, if its way is known and all is as it was; else `MISSED`, and nothing is recorded."""
    if ways.owner is not None and ways.owner() is not values[0]:
        return MISSED
    result = _called_plainly(ways, values, 0 if ways.owner is None else 1)
    return _called_anyhow(ways, values, None) if result is None else result


def _called_plainly(ways: Ways, values: tuple[object, ...], first: int) -> object:
    """`_called_again` for what most calls are: up to three arguments that are expressions of one open tape, parameters,
    numbers, None and truth values, in a way that was taken lately. None where there is more to it."""
    count = len(values) - first
    if count > 3:
        return None
    tape: Tape | None = None
    numbers = False
    x: object = _NO_KIND
    y: object = _NO_KIND
    z: object = _NO_KIND
    for k in range(count):
        o = values[first + k]
        if type(o) is Expr:
            e: Expr = o
            if tape is None:
                tape = e.tape
            elif tape is not e.tape:
                return None
            kind: object = e.type
        elif o is None or type(o) is bool:
            kind = o
        elif type(o) is Parameter:
            e = o
            kind = e.type
        elif type(o) is int or type(o) is float or type(o) in NUMBERS:
            kind = type(o)
            numbers = True
        else:
            return None
        if k == 0:
            x = kind
        elif k == 1:
            y = kind
        else:
            z = kind
    if tape is None or tape.scope is not SCOPE.mine():
        return None
    now = ways.now
    found: object = recording.RECALL.get(now[0], x, y, z)
    if type(found) is not int or found < 0:
        return None
    way: Way = now[1][found]
    return _recorded_plainly(tape, way, values, first, numbers) if way.in_order else None


def _recorded_plainly(tape: Tape, way: Way, values: tuple[object, ...], first: int, numbers: bool) -> object:
    """Append the rows of such a call, whose expressions are its operands in their order. None where the way is for
    other settings, or something is not as it was."""
    if not _is_ready(way, tape):
        return None
    given: list[Any] = []
    if numbers or way.ints or way.floats:
        given = [o for o in values[first:] if type(o) is int or type(o) is float or type(o) in NUMBERS]
        if not _numbers_fit(way, given):
            return MISSED
    if way.body is not None:
        return _body_appended(tape, way, [o.row for o in values[first:] if type(o) is Expr], given)
    if way.ints or way.floats:
        _pay(tape, way, given)
    row = len(tape.signatures)
    for s in way.signatures:
        signature: Signature = s
        tape.signatures.append(signature.id)
    for k in range(first, len(values)):
        o = values[k]
        if type(o) is Expr:
            e: Expr = o
            tape.operands.append(e.row)
    return _results(tape, way, row)


def _called_anyhow(ways: Ways, values: tuple[object, ...], going: _Going | None) -> object:
    """`_called_again` for arguments of any kind."""
    tape = _first_tape(values)
    if tape is None or tape.scope is not SCOPE.mine():
        tape = recording.open_here()
        if tape is None:
            tape = current_tape()
    kinds: list[object] = []
    expressions: list[Any] = []
    numbers: list[Any] = []
    if not _gather(tape, values, 0 if ways.owner is None else 1, kinds, expressions, numbers):
        return MISSED
    way = _way_of(ways, kinds, None)
    if way is None:
        return MISSED
    if (going is None or going.way is not way or going.tape is not tape) and not _is_ready(way, tape):
        way = _way_of(ways, kinds, tape)
        if way is None:
            return MISSED
    if numbers and not _numbers_fit(way, numbers):
        return MISSED
    rows = [_row(tape, expressions[k]) for k in way.operands]
    if way.body is not None:
        return _body_appended(tape, way, rows, numbers)
    if way.ints or way.floats:
        _pay(tape, way, numbers)
    if going is not None:
        going.way, going.tape, going.row, going.after = way, tape, len(tape.signatures), None
    return _call_appended(tape, way, rows)


def _way_of(ways: Ways, kinds: list[object], ready_on: Tape | None) -> Way | None:
    """The way for arguments of these kinds; one that is ready on a tape, if it is said on which: under `no_grad` a cell
    is called in another way with arguments of the same kinds."""
    now = ways.now
    first: Any = now[0]
    known: Any = now[1]
    count = len(kinds)
    k = 0
    while True:
        x: object = kinds[k] if k < count else _NO_KIND
        y: object = kinds[k + 1] if k + 1 < count else _NO_KIND
        z: object = kinds[k + 2] if k + 2 < count else _NO_KIND
        found: Any = recording.RECALL.get(first, x, y, z)
        k += 3
        if k >= count:
            break
        if found is None:
            found = Branch()
            recording.RECALL.put(first, x, y, z, found)
        first = found
    if found is None or ready_on is not None:
        found = -1
        for number, way in enumerate(known):
            if _is_for(way, kinds) and (ready_on is None or _is_ready(way, ready_on)):
                found = number
                break
        recording.RECALL.put(first, x, y, z, found if found >= 0 or ready_on is None else None)
    return None if found < 0 else known[found]


def _is_for(way: Way, kinds: Sequence[object]) -> bool:
    """Whether arguments of these kinds are of this way: an array is taken for an expression, where nobody can tell."""
    if len(kinds) != len(way.kinds):
        return False
    for kind, wanted in zip(kinds, way.kinds, strict=True):
        if isinstance(kind, recording.ArrayKind):
            if not way.arrays or kind.type is not wanted:
                return False
        elif kind is not wanted and not (type(kind) is int and type(wanted) is int and kind == wanted):
            return False
    return True


def _is_ready(way: Way, tape: Tape) -> bool:
    """Whether all is as it was. What holds for all calls on a tape is looked at once."""
    changes = STRUCTURE
    if tape.ready.get(way.key) != changes.count:
        if tape.trace is not None or tape.lines is not None or changes.count != way.valid[0]:
            return False
        if (tape.options.recording if isinstance(way.under, tuple) else tape.options) != way.under:
            return False
        way.keep(tape)
        tape.ready[way.key] = way.valid[0]
    if way.unchanged is not None and not way.unchanged(way.names, way.functions, way.missing):
        return False
    return way.check is None or bool(way.check())


def _numbers_fit(way: Way, numbers: list[Any]) -> bool:
    """Whether these numbers can be the payload: indices that are in range, and what a tape can hold."""
    for position, size in way.limits:
        if not 0 <= numbers[position] < size:
            return False
    for what, position in way.ints:
        if what == "number" and not -0x80000000 <= numbers[position] <= 0x7FFFFFFF:
            return False
    try:
        for what, position in way.floats:
            if what == "number":
                float(numbers[position])
    except OverflowError:
        return False
    return True


def _pay(tape: Tape, way: Way, numbers: list[Any]) -> None:
    """Append the payload, which fits, with new draws."""
    draws = _draws_noted(tape, way.streams)
    for what, position in way.ints:
        tape.ints.append(numbers[position] if what == "number" else draws[position][what == "count"])
    for what, position in way.floats:
        tape.floats.append(numbers[position] if what == "number" else draws[position][what == "count"])


def _row(tape: Tape, value: object) -> int:
    """The row of an expression on this tape, or of a constant for an array."""
    if type(value) is Expr:
        e: Expr = value
        return e.row if e.tape is tape else recording.local_row(tape, e)
    return recording.constant_of(tape, recording.array_kind(tape, value), recording.copied_array(value, None)).row


def _call_appended(tape: Tape, way: Way, rows: list[int]) -> object:
    """Append a call whose payload is there, in the order of `lazyflow.record.expr._node`."""
    row = len(tape.signatures)
    for s in way.signatures:
        signature: Signature = s
        tape.signatures.append(signature.id)
    for operand in rows:
        tape.operands.append(operand)
    return _results(tape, way, row)


def _body_appended(tape: Tape, way: Way, rows: list[int], numbers: list[Any]) -> object:
    """Lay out what the body of a call has recorded."""
    assert way.body is not None
    found = body_laid_out(tape, way.body, rows, numbers)
    if way.rebuilt is None:
        return found[0]
    return tuple(found) if way.rebuilt is as_tuple else way.rebuilt(found)


def _results(tape: Tape, way: Way, row: int) -> object:
    """What a cell returns whose call stands at a row, with the further results behind it."""
    count = len(way.signatures)
    for _ in range(count - 1):
        tape.operands.append(row)
    if way.rebuilt is None:
        return _handle(tape, way, row, 0)
    found = [_handle(tape, way, row, k) for k in range(count)]
    return tuple(found) if way.rebuilt is as_tuple else way.rebuilt(found)


def _handle(tape: Tape, way: Way, row: int, k: int) -> Expr:
    signature: Signature = way.signatures[k]
    return recording.handle(tape, row + k, signature.type)


def as_tuple(results: Sequence[Expr]) -> object:
    """Results as a cell returns them that returns a tuple of them."""
    return tuple(results)


_STATES = (None, as_tuple)  # results that are nothing but expressions
_AFTER: object = Branch()  # what follows is for a call with the result of another

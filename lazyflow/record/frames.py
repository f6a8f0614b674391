"""Recording in one frame of Python: the operations that models are full of, where the package was not compiled.

`lazyflow.record.expr` is written for the compiler, to which a call is nothing: in Python the frames of one node take
twice as long as its look-ups and appends. So there what stands here looks up in the same tables and appends in the same
order, for expressions of an open tape alone, and hands on all else. Compiled, it is but the way to what is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any

import lazyflow.record.expr as recording
from lazyflow.core.columns import IntColumn, Recall
from lazyflow.ops.base import Op
from lazyflow.record.expr import (
    Binary,
    Expr,
    Joined,
    Memo,
    OperandLike,
    Ternary,
    Unary,
    apply1,
    apply2,
    memo_of,
    view_signature,
)
from lazyflow.record.tape import Type
from lazyflow.settings import SCOPE

__all__ = ["affine_frame", "binary_frame", "indexed_frame", "stacked_frame", "unary_frame", "views_frame"]

COMPILED = Recall() is not None
_LAYER = b"" if COMPILED else bytes([recording.SHARED, recording.SHARED, recording.ROW])
# Of operands that are no such expressions; raised before anything is on the tape.
_NO_EXPRESSION = AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError
_scope_now = SCOPE.mine


def unary_frame(memo: Memo) -> Unary:
    """`apply1` of an operation. (Of arguments that do not fit, Python says the names that they have here.)"""

    def compiled(x: OperandLike) -> Expr:
        return apply1(memo, x)

    table = memo.table

    def call(x: Any) -> Expr:
        try:
            signature = table[x.type].signature
            tape = x.tape
            if tape.scope is _scope_now():
                e = Expr()
                e.tape, e.row, e.type = tape, len(tape.signatures), signature.type
                tape.signatures.append(signature.id)
                tape.operands.append(x.row)
                return e
        except _NO_EXPRESSION:
            pass
        return apply1(memo, x)

    return compiled if COMPILED else call


def binary_frame(memo: Memo) -> Binary:
    """`apply2` of an operation."""

    def compiled(a: OperandLike, b: OperandLike) -> Expr:
        return apply2(memo, a, b)

    table = memo.table

    def call(a: Any, b: Any) -> Expr:
        try:
            signature = table[a.type][b.type].signature
            tape = a.tape
            if tape is b.tape and tape.scope is _scope_now():
                e = Expr()
                e.tape, e.row, e.type = tape, len(tape.signatures), signature.type
                tape.signatures.append(signature.id)
                tape.operands.append(a.row)
                tape.operands.append(b.row)
                return e
        except _NO_EXPRESSION:
            pass
        return apply2(memo, a, b)

    return compiled if COMPILED else call


def affine_frame(op: Op, general: Ternary) -> Ternary:
    """The recording function of ``W x + b``; ``general`` records what was not recorded before."""
    recorder, memo = recording.affine_recorder(op, general), memo_of(op)

    def call(weight: Any, bias: Any, x: Any) -> Expr:
        try:
            kind = weight.type
            entry = kind.signatures[memo][kind][bias.type][x.type]
            tape = x.tape
            if tape.scope is _scope_now() and entry.kept == tape.number and entry.codes == _LAYER:
                e = Expr()
                e.tape, e.row, e.type = tape, len(tape.signatures), entry.signature.type
                tape.signatures.append(entry.signature.id)
                tape.operands.append(x.row)
                return e
        except _NO_EXPRESSION:
            pass
        return recorder(weight, bias, x)

    return recorder if COMPILED else call


def indexed_frame(
    op: Op, axis: int, general: Callable[..., Expr], *, ndim: int | None = None, arrays: bool = False
) -> Callable[..., Expr]:
    """See `lazyflow.record.expr.indexed`."""
    recorder, memo = recording.indexed(op, axis, general, ndim=ndim, arrays=arrays), memo_of(op)
    if COMPILED:
        return recorder

    table = memo.table

    def call(*args: Any, **kwargs: Any) -> Expr:
        try:
            x, index = args
            kind = x.type
            shared = kind.parameter is not None
            entry = (kind.signatures[memo] if shared else table)[kind][type(index)]
            tape: Any = recording.open_here() if shared else x.tape
            if (
                not kwargs
                and type(index) is int
                and tape.scope is _scope_now()
                and (entry.kept == tape.number or not shared)
                and (ndim is None or kind.ndim == ndim)
                and 0 <= index < kind.shape[axis]
            ):
                tape.ints.append(index)
                e = Expr()
                e.tape, e.row, e.type = tape, len(tape.signatures), entry.signature.type
                tape.signatures.append(entry.signature.id)
                if not shared:
                    tape.operands.append(x.row)
                return e
        except _NO_EXPRESSION:
            pass
        return recorder(*args, **kwargs)

    return update_wrapper(call, general)


def stacked_frame(op: Op) -> Joined:
    """See `lazyflow.record.expr.stacked_recorder`."""
    memo, recorder, general = recording.stacked_recorder(op)
    table, ragged = memo.table, op.ragged

    def again(operands: Sequence[Any]) -> Expr | None:
        try:
            first: Any = operands[0] if type(operands) is list else None
            kind, tape = first.type, first.tape
            signature = table[kind][0 if ragged else len(operands)]
            rows = [o.row for o in operands if o.tape is tape and o.type is kind]
            if tape.scope is _scope_now() and len(rows) == len(operands):
                if ragged:
                    tape.ints.append(len(rows))
                e = Expr()
                e.tape, e.row, e.type = tape, len(tape.signatures), signature.type
                tape.signatures.append(signature.id)
                tape.operands.fromlist(rows)
                return e
        except _NO_EXPRESSION:
            pass
        return recorder(operands)

    return memo, recorder if COMPILED else again, general


def _views_in_frame(x: Expr, kind: Type, offsets: IntColumn) -> list[Expr]:
    tape = x.tape
    if tape.scope is not _scope_now():
        return recording.views(x, kind, offsets)
    signature, count, first = view_signature(x.type, kind), len(offsets), len(tape.signatures)
    tape.ints.add(offsets)
    tape.signatures.fromlist([signature.id] * count)
    tape.operands.fromlist([x.row] * count)
    made = []
    for row in range(first, first + count):
        e = Expr()
        e.tape, e.row, e.type = tape, row, kind
        made.append(e)
    return made


views_frame = recording.views if COMPILED else _views_in_frame
if not COMPILED:
    for _name, _memo in (
        ("add", recording.ADD_MEMO),
        ("sub", recording.SUBTRACT_MEMO),
        ("mul", recording.MULTIPLY_MEMO),
        ("truediv", recording.DIVIDE_MEMO),
    ):
        setattr(Expr, f"__{_name}__", binary_frame(_memo))

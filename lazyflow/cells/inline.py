"""A call of a cell as the operations of its body, recorded anew: what has rules of its own can be differentiated again.

A cell's program computes gradients with arrays, fused and in stages. To record them, the body is laid out first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lazyflow import functions
from lazyflow.cells.program import Program
from lazyflow.cells.steps import (
    PRODUCT,
    REF_CONSTANT,
    REF_FLOAT,
    REF_INPUT,
    REF_INT,
    REF_NODE,
    REF_PARAMETER,
    Node,
    Ref,
)
from lazyflow.ops import OPS
from lazyflow.record.expr import Expr, Parameter, append, constant_node, local_row, record, view
from lazyflow.record.tape import Signature, Tape, Type, current_tape, intern_type


class CellCall(NamedTuple):
    """A call of a cell: its program, its operands, and its payload."""

    program: Program
    inputs: Sequence[Expr]
    ints: Sequence[int]
    floats: Sequence[float]


def inlined(call: CellCall) -> list[Expr]:
    """The results of a call, computed by plain operations."""
    values: list[Expr] = []
    for node in call.program.nodes:
        values.append(_recorded_again(node, [_read_value(call, ref, values) for ref in node.reads]))
    return [values[i] for i in call.program.outputs]


def _read_value(call: CellCall, ref: Ref, values: Sequence[Expr]) -> object:
    """What a node reads, as a whole."""
    if ref.kind == REF_NODE:
        return values[ref.index]
    if ref.kind == REF_INPUT:
        return call.inputs[ref.index]
    if ref.kind == REF_PARAMETER:
        found = call.program.parameters[ref.index].parameter
        assert found is not None
        return found()
    if ref.kind == REF_CONSTANT:
        return constant_node(current_tape(), call.program.constants[ref.index])
    return (
        call.ints[ref.index] if ref.kind == REF_INT else call.floats[ref.index] if ref.kind == REF_FLOAT else ref.value
    )


def _recorded_again(node: Node, values: Sequence[Any]) -> Expr:
    if node.kind == PRODUCT:
        weight, x = values
        _, ref = node.reads
        return functions.matmul(weight, _part_as(x, intern_type(ref.shape, ref.dtype, x.device, ref.grad), ref.shift))
    assert node.signature is not None
    tape = current_tape()
    rows, ints, floats = _read_columns(tape, node.signature, node, values)
    tape.keep.add(node.signature)  # which the program holds, and nobody else may
    return append(tape, node.signature, rows, ints, floats)


def _read_columns(
    tape: Tape, signature: Signature, node: Node, values: Sequence[Any]
) -> tuple[list[int], list[int], list[float]]:
    """What a row of the signature reads: rows of the tape, and payload; the tape keeps parameters."""
    operands = signature.operands[:1] * len(values) if signature.op.stacked else signature.operands
    rows, ints, floats = [], [len(values)] if signature.op.ragged else [], []
    for operand, ref, value in zip(operands, node.reads, values, strict=True):
        if operand.kind == "row":
            assert operand.type is not None
            if operand.vjp is not None and value.requires_grad and not ref.grad:  # a view of it would have its gradient
                value = record(OPS["detach"], (value,))
            rows.append(local_row(tape, _part_as(value, operand.type, ref.shift)))
        elif operand.kind == "shared":
            tape.keep.add(value)
        elif operand.kind == "int":
            ints.append(int(value))
        else:
            floats.append(float(value))
    return rows, ints, floats


def _part_as(e: Expr, kind: Type, shift: int) -> Expr:
    """The elements from ``shift`` on, as ``kind``."""
    if isinstance(e, Parameter):
        e = record(OPS["identity"], (e,))
    return e if e.type is kind and not shift else view(e, kind, shift)

"""Gradients as expressions: the recorded graph walked backwards, recording every vjp as ordinary operations.

`Expr.backward` computes gradients with arrays; this records them, so that they can be differentiated again, kept and
run again. It has no rules of its own: the vjps of `lazyflow.ops` run on expressions as they run on arrays (see
`lazyflow.ops.base`), which is all that higher derivatives and forward mode need.

A vjp sees a batch axis in front; here it has size one, and costs nothing, as it is a view. What several examples record
alike still runs as one launch each. Gradients of parameters are recorded once for each signature they occur in, over
all nodes of it, as `lazyflow.run.backward` computes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache, partial
from typing import Any, cast

import numpy as np

import lazyflow.numpy as names
from lazyflow import functions
from lazyflow.cells.inline import CellCall, inlined
from lazyflow.cells.program import Program
from lazyflow.errors import GradientError
from lazyflow.ops.base import Op, Shape, unbroadcast
from lazyflow.ops.elementwise import MULTIPLY_NO_NAN, MULTIPLY_OR_ZERO
from lazyflow.ops.formula import Formula, evaluate, parse, slope
from lazyflow.record.expr import Expr, Parameter, constant, handle, record, type_on, view
from lazyflow.record.rows import DecodedRows
from lazyflow.record.tape import (
    IMPORT_OP,
    OUTPUT_OP,
    VIEW_OP,
    Operand,
    Signature,
    Tape,
    Type,
    current_tape,
    intern_type,
    signature_by_id,
)

TapeRow = tuple[Tape, int]
Piece = tuple[int, Expr]  # a flat cotangent of some elements, from an offset on
Use = tuple[Signature, int]  # the operand of that number, of nodes of that signature
WHOLE = -1  # in place of an offset: a cotangent of the node's own shape


def _product_of(op: Op, a: object, b: object) -> Expr:
    return record(op, (a, b))


class _Recorder:
    """The namespace of expressions, in which vjps record: NumPy's names, and what only `lazyflow` has."""

    record_op = staticmethod(record)
    erf = staticmethod(functions.erf)
    multiply_or_zero = staticmethod(partial(_product_of, MULTIPLY_OR_ZERO))
    ndtr = staticmethod(functions.elementwise.ndtr)
    softmax = staticmethod(functions.softmax)
    log_softmax = staticmethod(functions.log_softmax)

    def __getattr__(self, name: str) -> Any:
        return getattr(names, name)


RECORDER = _Recorder()


def _call_of(rows: DecodedRows, row: int, signature: Signature) -> CellCall:
    """A call of a cell."""
    inputs = [_expr((rows.tape, r)) for r in rows.operands(row)]
    ints = [rows.integer(row, k) for k in range(signature.ints)]
    floats = [rows.floating(row, k) for k in range(signature.floats)]
    return CellCall(cast("Program", signature.cell), inputs, ints, floats)


class Walk:
    """What the roots rest on by differentiable edges, operands before users; nothing below the nodes of ``stop``.

    With ``inline`` the calls of cells are recorded anew as plain operations, which stand for their results from here.
    """

    def __init__(self, roots: Sequence[Expr], stop: Collection[TapeRow] = (), *, inline: bool = True) -> None:
        self.rows: dict[Tape, DecodedRows] = {}
        self.stop, self.inline = frozenset(stop), inline
        self.inlined: dict[TapeRow, list[Expr]] = {}
        self.edges: dict[TapeRow, list[TapeRow]] = {}
        self.order = list(self._sorted([(e.tape, e.row) for e in roots if _can(e)]))

    def _sorted(self, roots: list[TapeRow]) -> Iterator[TapeRow]:
        stack = [(node, False) for node in roots]
        while stack:
            node, finished = stack.pop()
            if finished:
                yield node
            elif node not in self.edges:
                self.edges[node] = edges = self._edges(node)
                stack.append((node, True))
                stack.extend((n, False) for n in edges if n not in self.edges)

    def rows_of(self, tape: Tape) -> DecodedRows:
        if tape not in self.rows:
            self.rows[tape] = DecodedRows(tape)
        return self.rows[tape]

    def _edges(self, node: TapeRow) -> list[TapeRow]:
        tape, row = node
        if node in self.stop or not tape.grad:
            return []
        signature, rows = signature_by_id(tape.signatures[row]), self.rows_of(tape)
        if signature.op is IMPORT_OP:
            source = tape.imports[rows.integer(row, 0)]
            return [source] if _can(_expr(source)) else []
        if self.inline and (signature.cell is not None or signature.op is OUTPUT_OP):
            result = self._result(tape, row, signature)
            return [node_of(result)] if _can(result) else []
        operands = rows.operands(row)
        if signature.op is VIEW_OP:
            return [(tape, operands[0])] if _can(_expr((tape, operands[0]))) else []
        wanted = [o for o in signature.operands if o.kind == "row" and o.vjp is not None]
        if signature.op.stacked:
            return [(tape, r) for r in operands] if wanted else []
        return [(tape, operands[o.position]) for o in wanted]

    def _result(self, tape: Tape, row: int, signature: Signature) -> Expr:
        """A result of a cell's call, computed by plain operations."""
        call = row if signature.cell is not None else self.rows_of(tape).operands(row)[0]
        if (tape, call) not in self.inlined:
            of_call = signature_by_id(tape.signatures[call])
            self.inlined[tape, call] = inlined(_call_of(self.rows_of(tape), call, of_call))
        return self.inlined[tape, call][row - call]  # further results stand right behind the call

    def reads_parameters(self) -> bool:
        """Whether a parameter's gradient could come out of it."""
        signatures = {tape.signatures[row] for tape, row in self.order}
        return any(o.kind == "shared" and o.vjp is not None for n in signatures for o in signature_by_id(n).operands)

    def dependent(self, targets: Collection[TapeRow], parameters: Collection[Parameter]) -> set[TapeRow]:
        """The nodes that rest on one of the targets."""
        found: set[TapeRow] = set()
        wanted = {id(p.type) for p in parameters}
        for node in self.order:
            if node in targets or any(n in found for n in self.edges[node]) or (wanted and _reads(node, wanted)):
                found.add(node)
        return found


def _reads(node: TapeRow, types: set[int]) -> bool:
    return any(id(o.type) in types for o in signature_by_id(node[0].signatures[node[1]]).operands)


def _can(e: Expr) -> bool:
    return e.requires_grad and e.type.parameter is None


def _expr(node: TapeRow) -> Expr:
    return handle(node[0], node[1], signature_by_id(node[0].signatures[node[1]]).type)


def node_of(e: Expr) -> TapeRow:
    """What identifies an expression that is no parameter."""
    return e.tape, e.row


def cotangents(
    seeds: Sequence[tuple[Expr, object]], wrt: Sequence[Expr], walk: Walk | None = None
) -> list[Expr | None]:
    """For each of ``wrt`` the sum of what the roots' cotangents pull back to, None where no root rests on it.

    ``seeds``: pairs of a root and its cotangent, of its shape. ``wrt``: parameters and expressions with gradient.
    """
    walk = Walk([root for root, _ in seeds]) if walk is None else walk
    backward = _Backward(walk, wrt)
    for root, seed in seeds:
        backward.add(root, fitted(seed, root.type))
    return backward.run()


class _Backward:
    """One walk back: the cotangents that every node has got so far."""

    def __init__(self, walk: Walk, wrt: Sequence[Expr]) -> None:
        self.walk, self.wrt = walk, wrt
        self.parameters = [e for e in wrt if isinstance(e, Parameter)]
        self.targets = {node_of(e) for e in wrt if not isinstance(e, Parameter)}
        self.active = walk.dependent(self.targets, self.parameters)
        self.parts: dict[TapeRow, list[Piece]] = {}
        self.shared: dict[Use, list[tuple[TapeRow, Expr]]] = {}
        self.waiting: dict[TapeRow, dict[Use, list[tuple[TapeRow, Expr]]]] = {}
        self.found: dict[Any, list[Expr]] = {}

    def add(self, root: Expr, cotangent: Expr) -> None:
        if isinstance(root, Parameter):
            self.found.setdefault(root.type, []).append(cotangent)
        else:
            self._give(node_of(root), WHOLE, cotangent)

    def _give(self, node: TapeRow, offset: int, cotangent: Expr) -> None:
        if node in self.active:
            self.parts.setdefault(node, []).append((offset, cotangent))

    def run(self) -> list[Expr | None]:
        for node in reversed(self.walk.order):
            for (signature, i), users in self.waiting.pop(node, {}).items():
                self._give(node, WHOLE, self._together(node, signature, i, users))
            parts = self.parts.pop(node, None)
            if parts is not None:
                self._step(node, parts)
        for (signature, i), nodes in self.shared.items():
            self._parameter(signature, i, nodes)
        keys = [e.type if isinstance(e, Parameter) else node_of(e) for e in self.wrt]
        return [summed_expressions(self.found[key]) if key in self.found else None for key in keys]

    def _step(self, node: TapeRow, parts: list[Piece]) -> None:
        signature = signature_by_id(node[0].signatures[node[1]])
        _check_hooks(node)
        if node in self.targets:
            parts = [(WHOLE, assembled(parts, signature.type))]
            self.found.setdefault(node, []).append(parts[0][1])
        if signature.op is VIEW_OP and self.walk.edges[node]:
            self._view(node, signature, parts)
        elif _is_alias(signature) and self.walk.edges[node]:
            for offset, part in parts:
                self._give(self.walk.edges[node][0], offset, part)
        elif signature.op is not VIEW_OP and not _is_alias(signature) and node not in self.walk.stop:
            self._operation(node, signature, assembled(parts, signature.type))

    def _view(self, node: TapeRow, signature: Signature, parts: list[Piece]) -> None:
        source = self.walk.edges[node][0]
        kind = signature.operands[0].type
        assert kind is not None
        shift = self.walk.rows_of(node[0]).integer(node[1], 0)
        for offset, part in merged_wholes(parts):
            if offset == WHOLE and part.size == kind.size:
                self._give(source, WHOLE, functions.reshape(part, kind.shape))
            else:
                self._give(source, max(offset, 0) + shift, functions.reshape(part, (-1,)))

    def _operation(self, node: TapeRow, signature: Signature, g: Expr) -> None:
        for i, operand in enumerate(signature.operands):
            if operand.vjp is None:
                continue
            if operand.kind == "shared":
                if any(p.type is operand.type for p in self.parameters):
                    self.shared.setdefault((signature, i), []).append((node, g))
            elif signature.op.stacked:
                self._stacked(node, signature, g)
            else:
                source = node[0], self.walk.rows_of(node[0]).operands(node[1])[operand.position]
                if source in self.active and _is_large(signature, operand):
                    self.waiting.setdefault(source, {}).setdefault((signature, i), []).append((node, g))
                elif source in self.active:
                    self._give(source, WHOLE, self._single(node, signature, i, g))

    def _together(self, source: TapeRow, signature: Signature, i: int, users: list[tuple[TapeRow, Expr]]) -> Expr:
        """What a node gets of all of its users of one signature: it is shared by them, as a parameter would be."""
        if len(users) == 1:
            return self._single(users[0][0], signature, i, users[0][1])
        kind = _type_of(signature.operands[i])
        return fitted(unbroadcast(RECORDER, self._pulled_back(signature, i, users, _expr(source)), kind.shape), kind)

    def _single(self, node: TapeRow, signature: Signature, i: int, g: Expr) -> Expr:
        """What operand ``i`` of one node gets. A formula needs no batch axis, a rule of a kernel has one of size 1."""
        kind = _type_of(signature.operands[i])
        if signature.op.elementwise and signature.op.formula:
            return fitted(unbroadcast(RECORDER, self._by_formula(signature, i, [(node, g)]), kind.shape), kind)
        answer = unbroadcast(RECORDER, self._pulled_back(signature, i, [(node, g)]), (1, *signature.operands[i].shape))
        return fitted(_seen(answer, kind.shape), kind)

    def _by_formula(self, signature: Signature, i: int, nodes: list[tuple[TapeRow, Expr]]) -> Expr:
        """The formula of an elementwise operation's derivative, reading no more than what occurs in it."""
        _check_twice(signature.op)
        formula, operands = _derivative(signature.op, i)
        g = _batched([g for _, g in nodes], None)
        values: dict[str, object] = {"g": g} if "g" in formula.operands else {}
        if "y" in formula.operands:
            values["y"] = _batched([_expr(node) for node, _ in nodes], None)
        for name, operand in zip(operands, signature.operands, strict=True):
            if name in formula.operands:
                shape = None if len(nodes) == 1 else operand.shape
                values[name] = self._operand(signature, operand, [node for node, _ in nodes], shape)
        found = evaluate(formula, RECORDER, choices=g.dtype, **values)
        return constant(found) if "g" in values else record(MULTIPLY_NO_NAN, (g, found))

    def _stacked(self, node: TapeRow, signature: Signature, g: Expr) -> None:
        """A list's operands are one array, with an axis for them behind the batch; they may all get the same."""
        kind = _type_of(signature.operands[0])
        answer = self._pulled_back(signature, 0, [(node, g)])
        sources = self.walk.edges[node]
        if signature.op.ragged:
            each = [fitted(functions.reshape(answer, kind.shape), kind)] * len(sources)
        else:
            rows = functions.reshape(answer, (len(sources), *kind.shape))
            each = [fitted(row, kind) for row in rows]
        for source, part in zip(sources, each, strict=True):
            self._give(source, WHOLE, part)

    def _parameter(self, signature: Signature, i: int, nodes: list[tuple[TapeRow, Expr]]) -> None:
        kind = _type_of(signature.operands[i])
        answer = unbroadcast(RECORDER, self._pulled_back(signature, i, nodes), kind.shape)
        self.found.setdefault(kind, []).append(fitted(answer, kind))

    def _pulled_back(
        self, signature: Signature, i: int, nodes: list[tuple[TapeRow, Expr]], shared: Expr | None = None
    ) -> object:
        """The vjp of operand ``i``, over nodes of one signature: the batch axis counts them. They may share it."""
        _check_twice(signature.op)
        if signature.op.elementwise and signature.op.formula:
            return self._by_formula(signature, i, nodes)
        vjp, shape = signature.operands[i].vjp, signature.type.shape
        assert vjp is not None
        g = _batched([g for _, g in nodes], shape)
        y = _batched([_expr(node) for node, _ in nodes], shape)
        operands = [self._operand(signature, o, [node for node, _ in nodes], o.shape) for o in signature.operands]
        operands[i] = operands[i] if shared is None else shared
        return constant(vjp(RECORDER, g, y, *operands))

    def _operand(self, signature: Signature, operand: Operand, nodes: list[TapeRow], shape: Shape | None) -> object:
        """An operand of all of the nodes as a vjp sees it; a row's value as it is if ``shape`` is None."""
        rows = [(self.walk.rows_of(tape), row) for tape, row in nodes]
        if operand.kind == "shared":
            return _type_of(operand).parameter()  # type: ignore[misc]
        if operand.kind == "int":
            return np.array([r.integer(row, operand.position) for r, row in rows])
        if operand.kind == "float":
            numbers = [r.floating(row, operand.position) for r, row in rows]
            return numbers[0] if len(numbers) == 1 else _number_column(numbers, operand)
        if signature.op.stacked:
            return self._listed(signature, nodes[0])
        return _batched([_expr((r.tape, r.operands(row)[operand.position])) for r, row in rows], shape)

    def _listed(self, signature: Signature, node: TapeRow) -> object:
        """A list's operands as one array. What only joins or sums them reads its shape, and no values."""
        rows = self.walk.rows_of(node[0]).operands(node[1])
        kind = _type_of(signature.operands[0])
        if signature.op.gathers or signature.op.ragged:
            return np.broadcast_to(np.zeros((), kind.dtype), (1, len(rows), *kind.shape))
        return functions.stack([_expr((node[0], row)) for row in rows])[None]


def _is_alias(signature: Signature) -> bool:
    """Whether another node stands for it: one of another tape, or of the body of a cell."""
    return signature.op is IMPORT_OP or signature.op is OUTPUT_OP or signature.cell is not None


def _is_large(signature: Signature, operand: Operand) -> bool:
    """Whether the cotangent of an operand is no smaller than that of the result, as that of a matrix in a product is.

    Of a matrix that many nodes read, one such cotangent is made for all of them, not one each to be added up.
    """
    return not signature.op.elementwise and _type_of(operand).size >= signature.type.size


def _check_hooks(node: TapeRow) -> None:
    if node[0].hooks.get(node[1]):
        raise GradientError(
            "a gradient that is recorded comes by a value with a hook, which takes arrays: use .backward(), or remove "
            "the hook"
        )


def _check_twice(op: Op) -> None:
    if op.once:
        raise GradientError(
            f"{op.name} can be differentiated once only, with arrays, and not twice: its gradient cannot be "
            "recorded. Use .backward(), or write it with other operations"
        )


def _type_of(operand: Operand) -> Type:
    assert operand.type is not None
    return operand.type


def _number_column(numbers: list[float], operand: Operand) -> object:
    return np.array(numbers, operand.dtype).reshape((-1, *operand.shape))


@cache
def _derivative(op: Op, operand: int) -> tuple[Formula, tuple[str, ...]]:
    """The formula of an elementwise operation's derivative, and the names of all operands.

    That of the slope, without ``g``, where one must not multiply the other: their product is differentiated further by
    both, and zero times infinity is zero there, too.
    """
    operands = parse(op.formula["y"]).operands
    source = op.formula[operands[operand]]
    return slope(source) or parse(source), operands


def _batched(values: Sequence[Expr], shape: Shape | None) -> Expr:
    """Examples of one type with the batch axis in front, each of ``shape``; None: one example stays as it is."""
    if len(values) == 1:
        return values[0] if shape is None else _seen(values[0], (1, *shape))
    stacked = functions.stack(values)
    return stacked if shape is None else functions.reshape(stacked, (len(values), *shape))


def _seen(e: Expr, shape: Shape) -> Expr:
    """An expression in another shape of the same size: `reshape` without its checks."""
    if e.type.shape == shape:
        return e
    if e.type.parameter is not None:
        return functions.reshape(e, shape)
    return view(e, intern_type(shape, e.dtype, e.device, type_on(current_tape(), e).requires_grad), 0)


def fitted(value: object, kind: Type) -> Expr:
    """A cotangent in the shape and dtype of what it belongs to."""
    e = constant(value)
    if e.dtype != kind.dtype:
        e = functions.astype(e, kind.dtype)
    return e if e.shape == kind.shape else functions.broadcast_to(e, kind.shape)


def summed_expressions(values: Sequence[Expr]) -> Expr:
    """The sum of expressions of one shape."""
    if len(values) == 1:
        return values[0]
    return values[0] + values[1] if len(values) == 2 else functions.sum(list(values))


def merged_wholes(parts: Sequence[Piece]) -> list[Piece]:
    """The same with at most one cotangent of the whole."""
    wholes = [part for offset, part in parts if offset == WHOLE]
    others = [(offset, part) for offset, part in parts if offset != WHOLE]
    return [(WHOLE, summed_expressions(wholes)), *others] if wholes else others


def assembled(parts: Sequence[Piece], kind: Type) -> Expr:
    """The sum of cotangents of parts of a value, as one of its whole.

    Parts that do not overlap are joined, not added: reading a matrix row by row costs one copy of it, not one a row.
    """
    wholes = [part for offset, part in parts if offset == WHOLE]
    equal: dict[tuple[int, int], list[Expr]] = {}
    for offset, part in parts:
        if offset != WHOLE:
            equal.setdefault((offset, part.size), []).append(part)
    layers: list[list[Piece]] = []
    for (offset, _), found in sorted(equal.items(), key=lambda item: item[0]):
        fitting = next((layer for layer in layers if layer[-1][0] + layer[-1][1].size <= offset), None)
        if fitting is None:
            layers.append(fitting := [])
        fitting.append((offset, summed_expressions(found)))
    return summed_expressions([*wholes, *(_layer_joined(layer, kind) for layer in layers)])


def _layer_joined(layer: list[Piece], kind: Type) -> Expr:
    pieces: list[object] = []
    end = 0
    for offset, part in layer:
        if offset > end:
            pieces.append(np.zeros(offset - end, kind.dtype))
        pieces.append(part)
        end = offset + part.size
    if end < kind.size:
        pieces.append(np.zeros(kind.size - end, kind.dtype))
    return functions.reshape(pieces[0] if len(pieces) == 1 else functions.concatenate(pieces), kind.shape)

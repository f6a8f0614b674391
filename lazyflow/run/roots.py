# cython: nonecheck=True
"""What a forward is asked for: lists of roots, as short loops. A round of `lazyflow.map` asks for a value an example.

Where the package was compiled, these loops are of C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.core.columns import ELEMENTS
from lazyflow.device import Array, HostArray
from lazyflow.graph.reading import decoded
from lazyflow.locks import Owner
from lazyflow.record.expr import Expr, Parameter
from lazyflow.record.tape import CONSTANT_OP, IMPORT_OP, VIEW_OP, Tape, payload_starts, signature_by_id
from lazyflow.run.execute import Run


def to_run(roots: Sequence[object]) -> list[Expr]:
    """The roots without the parameters, which have their values."""
    found = []
    for root in roots:
        if not isinstance(root, Expr):
            raise TypeError(f"expected an expression, got {type(root).__name__}")
        if not isinstance(root, Parameter):
            found.append(root)
    return found


def missing(roots: Sequence[Expr]) -> list[Expr]:
    """Those that have no value yet."""
    found = []
    for e in roots:
        root: Expr = e
        if not root.tape.has_value(root.row):
            found.append(root)
    return found


def alike(roots: list[Expr]) -> list[Expr]:
    """Those that can run with the first: a run has one device, and without gradients it uses memory again that a
    backward would read."""
    first: Expr = roots[0]
    device, grad = first.type.device, first.tape.grad
    found = []
    for e in roots:
        root: Expr = e
        if root.type.device == device and root.tape.grad == grad:
            found.append(root)
    return found


def runs_of(roots: Sequence[Expr]) -> list[Run]:
    """The runs that have computed those that have a value, each once where they stand together."""
    found: list[Any] = []
    last: object = None
    for e in roots:
        root: Expr = e
        if root.tape.has_value(root.row):
            run = root.tape.place_of(root.row)[0]
            if run is not last:
                found.append(run)
                last = run
    return found


def runs_read(imports: Sequence[tuple[Tape, int]]) -> list[Run]:
    """The same of what is imported."""
    found: list[Any] = []
    last: object = None
    for tape, row in imports:
        source: Tape = tape
        if source.has_value(row):
            run = source.place_of(row)[0]
            if run is not last:
                found.append(run)
                last = run
    return found


def traced(roots: Sequence[Expr]) -> Any:
    """The `Body` of a cell that the first stands in that does in one, or None."""
    for e in roots:
        root: Expr = e
        if root.tape.body is not None:
            return root.tape.body
    return None


def owners_of(roots: Sequence[object]) -> frozenset[Owner]:
    """The threads that what the roots rest on belongs to."""
    found: Any = frozenset()
    for root in roots:
        if isinstance(root, Expr) and not isinstance(root, Parameter):
            e: Expr = root
            owners = e.tape.owners
            if owners is not found:
                found = found | owners if found else owners
    return found  # type: ignore[no-any-return]


SHORT = 32  # rows of a tape that are walked through to read a value in place: of more, where each begins is kept


def shown(e: Expr) -> Array | None:
    """A copy of what a view shows of a constant, or of a value that an earlier run on the host has computed and that is
    as it was: elements of a vector that are looked at one by one. None where there is more to it."""
    root: Expr = e
    tape = root.tape
    if tape.body is not None or tape.lines is not None or root.row in tape.remembered:
        return None
    row, shift = root.row, 0
    op = signature_by_id(tape.signatures[row]).op
    if op is not VIEW_OP and op is not CONSTANT_OP and op is not IMPORT_OP:
        return None
    tape.seal()  # as a run does: what is long-lived is not to hold all that comes after
    operands: Any
    ints: Any
    if len(tape.signatures) > SHORT:
        operands, ints = decoded(tape)[:2]
    else:
        ints, operands = payload_starts(tape)
        if ints[-1] != len(tape.ints) or operands[-1] != len(tape.operands):
            return None  # it is not whole, and a run says so
    while op is VIEW_OP:
        shift += tape.ints[ints[row]]
        row = tape.operands[operands[row]]
        op = signature_by_id(tape.signatures[row]).op
    kind = root.type
    if op is CONSTANT_OP:
        constant = tape.objects[row]
        if type(constant) is not np.ndarray or kind.device != "cpu":
            return None
        return devices.stretch(constant.reshape(-1), shift, kind.shape).copy()
    source, place = tape.imports[tape.ints[ints[row]]] if op is IMPORT_OP else (tape, row)
    if not source.has_value(place):
        return None
    run, offset = source.place_of(place)
    if run.is_stale() or not run.device == "cpu" == kind.device:
        return None
    value: Array = run.value(offset + shift, kind)
    return value


def copies(roots: Sequence[Expr]) -> list[HostArray]:
    """Copies of the values of roots that have them, on the host."""
    found = []
    last: Any = None
    last_kind: Any = None
    there: Any = None
    for e in roots:
        root: Expr = e
        tape, kind = root.tape, root.type
        computed: Any = tape.computed
        run: Any = computed.runs[ELEMENTS.number(computed.run_of, root.row)]
        offset = ELEMENTS.number(computed.offset_of, root.row)
        if run.kept is not None or run.device != "cpu":
            found.append(devices.to_host(run.value(offset, kind)))
            continue
        if run is not last or kind is not last_kind:  # most often they are of one run
            last, last_kind, there = run, kind, run.arena.buffers[kind.dtype]
        found.append(ELEMENTS.copy(there, offset, kind.shape))
    return found

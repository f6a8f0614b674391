"""What was recorded before is planned before: tapes with the columns of earlier ones get the plan of those.

A program that does the same thing again, a step of a simulation, a sentence of the same length, records the same
columns again. Then the plan needs no graph first: it is known by the columns themselves. They are compared whole, with
all else that a graph is made of: which rows are roots, what is known of each tape, what is watched on it. Payload is no
part of it, except where equal nodes are made one (see `lazyflow.graph.repeats`), and neither are the arrays of
constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import NodePayload
from lazyflow.core.columns import ELEMENTS, IntColumn
from lazyflow.graph.graph import (
    LONG,
    Graph,
    TapePart,
    decoded,
    drawn_anew,
    payload,
)
from lazyflow.plan.plan import Plan, plan_again
from lazyflow.record.expr import Expr
from lazyflow.record.tape import IMPORT_OP, Signature, Tape, signature_by_id, signature_columns


class Recorded(NamedTuple):
    """What was made of tapes with certain columns.

    ``plan``: of a graph that has neither tapes nor earlier runs. ``known``: of each known node the number of its tape,
    and there its row or, if the flag says so, the number of its import. ``signatures``: those of all nodes and rows,
    which stay alive.
    """

    plan: Plan
    known: tuple[tuple[int, int, bool], ...]
    signatures: frozenset[Signature]


class Sources(NamedTuple):
    """Where the values of known nodes lie: of each the run and the element offset."""

    runs: list[Any]
    places: list[int]


def alone(roots: Sequence[Expr]) -> list[Tape] | None:
    """The tape of the roots, alone in a list, if all that it reads of others was computed before, as most often where
    values are looked at; None if that is not so, or if parts of a long one may do (see
    `lazyflow.graph.graph.tape_parts`)."""
    tape = roots[0].tape
    for e in roots:
        if e.tape is not tape:
            return None
    if tape.sealed and len(tape) >= LONG:
        return None
    for source, row in tape.imports:
        if not source.has_value(row):
            return None
    return [tape]


def whole_tapes(tapes: Sequence[Tape]) -> list[TapePart]:
    """All of each tape."""
    return [TapePart(tape, 0, len(tape)) for tape in tapes]


def are_whole(parts: Sequence[TapePart]) -> bool:
    """Whether all of each tape is read."""
    return all(low == 0 and high == len(tape) for tape, low, high in parts)


def key_of(tapes: Sequence[Tape], roots: Sequence[Expr], way: object) -> tuple[object, ...]:
    """What `Recorded` depends on but payload, of tapes that are read whole."""
    number: dict[int, int] = {}
    for tape in tapes:
        number[id(tape)] = len(number)
    places = IntColumn()  # tape and row of the roots; then of each tape what is not in its columns
    places.append(len(roots))
    for e in roots:
        places.append(number[id(e.tape)])
        places.append(e.row)
    found: list[object] = [passes.Nodes, way]  # of one form of the passes
    for tape in tapes:
        _add_tape(found, places, tape, number)
    found.append(places.tobytes())
    return tuple(found)


def _add_tape(found: list[object], places: IntColumn, tape: Tape, number: dict[int, int]) -> None:
    """Where an import comes from, if that is computed with it: whatever was computed before is alike."""
    known = None if tape.computed is None else (tape.computed.run_of >= 0).tobytes()
    found.extend((tape.signatures.tobytes(), tape.operands.tobytes(), _structure(tape), known))
    places.append(len(tape.ints))
    places.append(len(tape.floats))
    for source, row in tape.imports:
        if id(source) not in number or source.has_value(row):
            places.append(-1)
        else:
            places.append(number[id(source)])
            places.append(row)
    for watched in (tape.hooks, tape.retained, tape.remembered):
        places.append(-2)
        if watched:
            places.extend(list(watched))


def _structure(tape: Tape) -> bytes:
    if not len(tape.ints):
        return b""
    columns = signature_columns()
    found: bytes = passes.structure(tape.signatures, tape.ints, columns.rows, columns.ints, columns.kinds)
    return found


def payload_of(tapes: Sequence[Tape]) -> tuple[bytes, ...]:
    """The payload of tapes, and what their structure says beside it."""
    return tuple([column.tobytes() for tape in tapes for column in (tape.ints, tape.floats)])


def recorded(plan: Plan, tapes: Sequence[Tape]) -> Recorded:
    """What is kept of the plan of these tapes."""
    graph = plan.structure
    known = tuple([_source(tapes[number], number, row) for number, row in graph.tape_rows(graph.origin[graph.known])])
    signatures = {signature_by_id(i) for tape in tapes for i in set(tape.signatures)}
    bare = replace(graph, tapes=(), known_run=(), known_offset=graph.known_offset[:0])
    first = replace(plan, structure=bare)
    _ = first.places, first.carrying, first.brought  # made here, once for all
    _ = first.noted if len(tapes) == 1 else None
    return Recorded(first, known, frozenset(signatures.union(graph.signatures)))


def _source(tape: Tape, number: int, row: int) -> tuple[int, int, bool]:
    """See `Recorded.known`."""
    if signature_by_id(tape.signatures[row]).op is not IMPORT_OP:
        return number, row, False
    return number, tape.ints[int(decoded(tape).int_starts[row])], True


def sources_of(found: Recorded, tapes: Sequence[Tape]) -> Sources:
    """Where the values of the known nodes lie."""
    runs, places = [], []
    for t, k, imported in found.known:
        tape, row = tapes[t].imports[k] if imported else (tapes[t], k)
        computed = tape.computed
        assert computed is not None, "it was known"
        runs.append(computed.runs[ELEMENTS.number(computed.run_of, row)])
        places.append(ELEMENTS.number(computed.offset_of, row))
    return Sources(runs, places)


def known_of(graph: Graph) -> Sources:
    """The same of a graph."""
    return Sources(list(graph.known_run), graph.known_offset.tolist())


def again(found: Recorded, tapes: Sequence[Tape]) -> Plan:
    """The plan for tapes with the same columns, with their payload."""
    plan = found.plan
    if not plan.carrying and not plan.cells:
        return plan
    return plan_again(plan, plan.structure, _payload(plan.structure, tapes))


def _payload(graph: Graph, tapes: Sequence[Tape]) -> NodePayload:
    ints, floats = payload(tapes)
    if len(graph.copied):
        floats = np.concatenate([floats, floats[graph.copied]])
    return graph.payload._replace(ints=drawn_anew(graph, tapes, ints), floats=floats)

"""What was recorded before is planned before: tapes with the columns of earlier ones get the plan of those.

A program that does the same thing again, a step of a simulation, a sentence of the same length, records the same
columns again. Then the plan needs no graph first: it is known by the columns themselves. They are compared whole, with
all else that a graph is made of: which rows are roots, what is known of each tape, what is watched on it. Payload is no
part of it, except where equal nodes are made one (see `lazyflow.graph.repeats`), and neither are the arrays of
constants. Neither are rows that the roots do not need, wherever they stand: of what is read of each tape that is a
`lazyflow.graph.reading.Reading`, which the columns are those of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lazyflow import passes
from lazyflow.core.arrays import NodePayload
from lazyflow.core.columns import ELEMENTS, IntColumn
from lazyflow.graph.graph import Graph, drawn_anew
from lazyflow.graph.reading import (
    AskedRows,
    Reading,
    is_kept,
    numbers_by_tape,
    payload,
    position_of,
    reading_of,
    row_at,
)
from lazyflow.plan.plan import Plan, plan_again
from lazyflow.record.expr import Expr
from lazyflow.record.tape import IMPORT_OP, Signature, signature_by_id, signature_columns


class Recorded(NamedTuple):
    """What was made of tapes with certain columns.

    ``plan``: of a graph that has neither tapes nor earlier runs. ``known``: of each known node the number of its tape,
    and its position in what is read there or, if the flag says so, the number of its import. ``signatures``: those of
    all nodes and rows, which stay alive.
    """

    plan: Plan
    known: tuple[tuple[int, int, bool], ...]
    signatures: frozenset[Signature]


class Sources(NamedTuple):
    """Where the values of known nodes lie: of each the run and the element offset."""

    runs: list[Any]
    places: list[int]


def alone(roots: Sequence[Expr]) -> list[Reading] | None:
    """What is read of the tape of the roots, alone in a list, if all that it reads of others was computed before, as
    most often where values are looked at; None if that is not so, or if it is a long one whose roots are kept (see
    `lazyflow.graph.reading.reading_of`)."""
    tape = roots[0].tape
    asked = []
    for e in roots:
        if e.tape is not tape:
            return None
        asked.append(e.row)
    if is_kept(tape):
        return None
    reading = reading_of(tape, asked)
    for source, row in reading.imports:
        if not source.has_value(row):
            return None
    return [reading]


def key_of(readings: Sequence[Reading], roots: Sequence[Expr], way: object) -> tuple[object, ...]:
    """What `Recorded` depends on but payload, of what is read of tapes."""
    number = numbers_by_tape(readings)
    asked = AskedRows(roots, readings)  # and what is imported of a tape that is read, too
    places = IntColumn()  # of each tape what is not in its columns
    found: list[object] = [passes.Nodes, way]  # of one form of the passes
    known: dict[tuple[int, int], int] | None = {} if len(readings) > 1 else None
    for reading in readings:
        _add_reading(found, places, asked, reading, number, known)
    found.extend((places.tobytes(), asked.numbers.tobytes(), asked.positions(readings).tobytes()))
    return tuple(found)


def _add_reading(
    found: list[object],
    places: IntColumn,
    asked: AskedRows,
    reading: Reading,
    number: dict[int, int],
    imported: dict[tuple[int, int], int] | None,
) -> None:
    """Where an import comes from, if that is computed with it: whatever was computed before is alike, but that several
    tapes may import the same value, each of which is ``imported``."""
    tape, rows = reading.tape, reading.rows
    columns: Any = reading.columns if rows is not None else (tape.signatures, tape.operands, tape.ints, tape.floats)
    signatures, operands, ints, floats = columns
    run_of = None if tape.computed is None else tape.computed.run_of
    known = None if run_of is None else ((run_of if rows is None else run_of[rows]) >= 0).tobytes()
    found.extend((signatures.tobytes(), operands.tobytes(), _structure(signatures, ints), known))
    places.append(len(ints))
    places.append(len(floats))
    last, here = None, -1
    for source, row in reading.imports:
        if source is not last:  # most often it is the tape of the one before
            last, here = source, number.get(id(source), -1)
        if here < 0 or source.has_value(row):
            places.append(-1 if imported is None else -3 - imported.setdefault((id(source), row), len(imported)))
        else:
            places.append(len(asked.rows))
            asked.numbers.append(here)
            asked.rows.append(row)
    for watched in (tape.hooks, tape.retained, tape.remembered):
        places.append(-2)
        if watched:
            places.extend([p for p in [position_of(rows, row) for row in watched] if p >= 0])


def _structure(signatures: Any, ints: Any) -> bytes:
    if not len(ints):
        return b""
    columns = signature_columns()
    found: bytes = passes.structure(signatures, ints, columns.rows, columns.ints, columns.kinds)
    return found


def payload_of(readings: Sequence[Reading]) -> tuple[bytes, ...]:
    """The payload of what is read of tapes, and what their structure says beside it."""
    return tuple([column.tobytes() for reading in readings for column in reading.columns[2:]])


def recorded(plan: Plan, readings: Sequence[Reading]) -> Recorded:
    """What is kept of the plan of these."""
    graph = plan.structure
    known = tuple([_source(readings[k], k, position) for k, position in graph.positions(graph.origin[graph.known])])
    signatures = {signature_by_id(i) for reading in readings for i in set(reading.columns.ids.tolist())}
    bare = replace(graph, tapes=(), rows=(), known_run=(), known_offset=graph.known_offset[:0])
    first = replace(plan, structure=bare)
    _ = first.places, first.carrying, first.brought  # made here, once for all
    _ = first.noted if len(readings) == 1 else None
    return Recorded(first, known, frozenset(signatures.union(graph.signatures)))


def _source(reading: Reading, number: int, position: int) -> tuple[int, int, bool]:
    """See `Recorded.known`."""
    if signature_by_id(int(reading.columns.ids[position])).op is not IMPORT_OP:
        return number, position, False
    return number, reading.import_at(position), True


def sources_of(found: Recorded, readings: Sequence[Reading]) -> Sources:
    """Where the values of the known nodes lie."""
    runs, places = [], []
    imports = [reading.imports for reading in readings]
    for t, k, imported in found.known:
        if imported:
            tape, row = imports[t][k]
        else:
            tape, row = readings[t].tape, row_at(readings[t].rows, k)
        computed = tape.computed
        assert computed is not None, "it was known"
        runs.append(computed.runs[ELEMENTS.number(computed.run_of, row)])
        places.append(ELEMENTS.number(computed.offset_of, row))
    return Sources(runs, places)


def known_of(graph: Graph) -> Sources:
    """The same of a graph."""
    return Sources(list(graph.known_run), graph.known_offset.tolist())


def again(found: Recorded, readings: Sequence[Reading]) -> Plan:
    """The plan for what is read with the same columns, with its payload."""
    plan = found.plan
    if not plan.carrying and not plan.cells:
        return plan
    return plan_again(plan, plan.structure, _payload(plan.structure, readings))


def _payload(graph: Graph, readings: Sequence[Reading]) -> NodePayload:
    ints, floats = payload(readings)
    if len(graph.copied):
        floats = np.concatenate([floats, floats[graph.copied]])
    return graph.payload._replace(ints=drawn_anew(graph, readings, ints), floats=floats)

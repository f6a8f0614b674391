"""Finding what made a NaN or an infinity: the search behind ``lf.using(check_finite=True)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow.device import Array
from lazyflow.errors import NonFiniteError
from lazyflow.plan.plan import Each, Launch, reads_of, sizes_of
from lazyflow.record.expr import Expr
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP
from lazyflow.run.execute import Run, line_of, parameters_of
from lazyflow.run.launch import parameter_of, readers_of


def check_finite(run: Run, roots: Sequence[Expr]) -> None:
    """Raise `NonFiniteError`, naming the first operation that made a NaN or an infinity of finite operands (or a
    parameter that holds one), if a root has one.

    A value that nothing goes wrong with in the end, such as the -inf of a mask under a softmax, is no error.
    """
    places = zip(roots, run.plan.structure.roots, strict=False)  # further ones are not asked for
    values = (run.value(int(run.plan.offsets[base]) + shift, root.type) for root, (base, shift) in places)
    if not all(bool(np.isfinite(value).all()) for value in values):
        raise NonFiniteError(_blame(run))


class _Culprit(NamedTuple):
    """A node of a launch, by its position, that is not finite though all it was made of is; and its value, or a row."""

    position: int
    value: Array


def _blame(run: Run) -> str:
    for launch in run.plan.launches:
        launch = launch._replace(reads=reads_of(run.plan, launch))
        found = _first_bad(run, launch)
        if found is not None:
            if launch.signature.op is KNOWN_OP:
                place = run.plan.structure.place_of_known[int(launch.nodes[found.position])]
                return _blame(run.known_runs[place])
            return _message(run, launch, found)
    for parameter in parameters_of(run.plan):
        if parameter is not None and not np.isfinite(parameter.stored()).all():
            return f"{parameter!r} holds a NaN or an infinity; what was computed of it is not finite"
    return "a value that was computed before, and whose memory was freed since, is not finite"


def _first_bad(run: Run, launch: Launch) -> _Culprit | None:
    """The first node that is not finite though all it was made of is; constants are made of nothing."""
    if launch.signature.type.dtype.kind != "f":
        return None
    return _first_bad_row(run, launch) if launch.each is None else _first_bad_one(run, launch.each)


def _first_bad_one(run: Run, each: Each) -> _Culprit | None:
    """Of nodes that are taken one by one."""
    for position, form in enumerate(each.forms):
        value = _value(run, form.type, each.offsets[position])
        if not np.isfinite(value).all() and all(np.isfinite(x).all() for x in _operands_read_by(run, each, position)):
            return _Culprit(position, value)
    return None


def _operands_read_by(run: Run, each: Each, position: int) -> Iterator[Array]:
    """The floating operands of one node that is taken by itself."""
    for operand, read in zip(each.forms[position].operands, each.reads, strict=True):
        if operand.dtype.kind == "f" and operand.kind == "shared":
            yield parameter_of(operand.type).stored() if operand.type is not None else 0.0
        elif operand.dtype.kind == "f" and operand.kind == "row" and read is not None:
            for at in np.atleast_1d(read[position]):
                yield _value(run, operand.type, at)


def _value(run: Run, kind: Any, offset: int) -> Array:
    return run.value(int(offset), kind)


def _first_bad_row(run: Run, launch: Launch) -> _Culprit | None:
    """Of nodes that are a row each, or several (see `lazyflow.graph.joined`)."""
    kind, count = launch.signature.type, launch.writes.count
    values = run.arena.read(kind.dtype, launch.writes, kind.shape)
    bad = ~_finite(values, count)
    if bad.any() and launch.signature.op is not CONSTANT_OP and not launch.signature.op.stacked:
        for operand, array in zip(
            launch.signature.operands, [r.read(run.arena) for r in readers_of(launch, False)], strict=True
        ):
            if operand.kind in ("row", "shared") and operand.dtype.kind == "f":
                batched = operand.kind == "row" and array.ndim == len(operand.shape) + 1 and len(array) == count
                if launch.signature.spans is not None:
                    bad &= _of_finite_nodes(run, launch, launch.signature.operands.index(operand), array)
                    continue
                bad &= _finite(array, count) if batched else np.isfinite(array).all()
    if not bad.any():
        return None
    row = int(np.flatnonzero(bad)[0])
    return _Culprit(_node_of_row(run, launch, row), values.reshape(count, -1)[row])


def _node_of_row(run: Run, launch: Launch, row: int) -> int:
    counts = run.plan.structure.counts
    if counts is None:
        return row
    return int(np.searchsorted(np.cumsum(counts[launch.nodes]), row, side="right"))


def _of_finite_nodes(run: Run, launch: Launch, which: int, array: Array) -> object:
    """Of each row of the result whether its node has read nothing of an operand but finite rows."""
    graph, spans = run.plan.structure, launch.signature.spans
    assert spans is not None and graph.counts is not None
    node = np.repeat(np.arange(len(launch.nodes)), sizes_of(graph, launch.nodes, spans[which]))
    wrong = np.bincount(node[~_finite(array, len(node))], minlength=len(launch.nodes))
    return np.repeat(wrong == 0, graph.counts[launch.nodes])


def _finite(array: Array, count: int) -> Array:
    return np.isfinite(array.reshape(count, -1)).all(axis=1)


def _message(run: Run, launch: Launch, found: _Culprit) -> str:
    signature = launch.signature if launch.each is None else launch.each.forms[found.position]
    where = line_of(run, launch, found.position)
    what = "NaN" if np.isnan(found.value).any() else "an infinity"
    return f"{signature.op.name} at {where} made {what}: {signature!r}"

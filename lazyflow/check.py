"""Finding what made a NaN or an infinity: the search behind ``lf.using(check_finite=True)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lazyflow.errors import NonFiniteError
from lazyflow.execute import Run, parameters_of
from lazyflow.expr import Expr
from lazyflow.launch import readers_of
from lazyflow.plan import Launch, reads_of
from lazyflow.tape import CONSTANT, KNOWN, Operand


def check_finite(run: Run, roots: Sequence[Expr]) -> None:
    """Raise `NonFiniteError`, naming the first operation that made a NaN or an infinity of finite operands (or a
    parameter that holds one), if a root has one.

    A value that nothing goes wrong with in the end, such as the -inf of a mask under a softmax, is no error.
    """
    places = zip(roots, run.plan.graph.roots, strict=False)  # further ones are not asked for
    values = (run.value(int(run.plan.offsets[base]) + shift, root.type) for root, (base, shift) in places)
    if not all(bool(np.isfinite(value).all()) for value in values):
        raise NonFiniteError(_blame(run))


def _blame(run: Run) -> str:
    for launch in run.plan.launches:
        launch = launch._replace(reads=reads_of(run.plan, launch))
        position = _first_bad(run, launch)
        if position is not None:
            if launch.signature.op is KNOWN:
                graph = run.plan.graph
                return _blame(graph.known_run[graph.place_of_known[int(launch.nodes[position])]])
            return _message(run, launch, position)
    for parameter in parameters_of(run.plan):
        if parameter is not None and not np.isfinite(parameter.stored()).all():
            return f"{parameter!r} holds a NaN or an infinity; what was computed of it is not finite"
    return "a value that was computed before, and whose memory was freed since, is not finite"


def _first_bad(run: Run, launch: Launch) -> int | None:
    """The position of the first row that is not finite though all it was made of is; constants are made of nothing."""
    kind = launch.signature.type
    if kind.dtype.kind != "f":
        return None
    bad = ~_finite(run.arena.read(kind.dtype, launch.writes, kind.shape), len(launch.nodes))
    if bad.any() and launch.signature.op is not CONSTANT and not launch.signature.op.stacked:
        for operand, array in zip(
            launch.signature.operands, [r.read(run.arena) for r in readers_of(launch, False)], strict=True
        ):
            if operand.kind in ("row", "shared") and operand.dtype.kind == "f":
                bad &= (
                    _finite(array, len(launch.nodes))
                    if _has_batch_axis(launch, operand, array)
                    else np.isfinite(array).all()
                )
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def _has_batch_axis(launch: Launch, operand: Operand, array: Any) -> bool:
    return operand.kind == "row" and array.ndim == len(operand.shape) + 1 and len(array) == len(launch.nodes)


def _finite(array: Any, count: int) -> Any:
    return np.isfinite(array.reshape(count, -1)).all(axis=1)


def _message(run: Run, launch: Launch, position: int) -> str:
    graph = run.plan.graph
    node = launch.nodes[position : position + 1]
    [(t, row)] = graph.tape_rows(graph.origin[node])
    lines = graph.tape(t).lines
    where = lines[row] if lines is not None else f"{launch.signature.line} (where it was first recorded)"
    value = run.arena.read(launch.signature.type.dtype, launch.writes, launch.signature.type.shape)[position]
    what = "NaN" if np.isnan(value).any() else "an infinity"
    return f"{launch.signature.op.name} at {where} made {what}: {launch.signature!r}"

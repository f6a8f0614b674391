"""Finding what made a NaN or an infinity: the search behind ``lf.using(check_finite=True)``."""

from __future__ import annotations

from typing import Any

import numpy as np

from lazyflow.errors import NonFiniteError
from lazyflow.execute import Run, operand_values
from lazyflow.plan import Launch
from lazyflow.tape import CONSTANT


def check_finite(run: Run) -> None:
    """Raise `NonFiniteError`, naming the first operation that made a NaN or an infinity of finite operands, if a root
    has one.

    A value that nothing goes wrong with in the end, such as the -inf of a mask under a softmax, is no error.
    """
    graph = run.plan.graph
    bad_root = any(
        not np.isfinite(
            run.arena.buffers[graph.signatures[graph.signature[base]].type.dtype][run.plan.offsets[base] + shift]
        ).all()
        if graph.signatures[graph.signature[base]].type.size == 1
        else not _finite_rows(run, base)
        for base, shift in graph.roots
    )
    if not bad_root:
        return
    for launch in run.plan.launches:
        node = _first_bad(run, launch)
        if node is not None:
            raise NonFiniteError(_message(run, launch, node))


def _finite_rows(run: Run, base: int) -> bool:
    kind = run.plan.graph.signatures[run.plan.graph.signature[base]].type
    return bool(np.isfinite(run.value(int(run.plan.offsets[base]), kind)).all())


def _first_bad(run: Run, launch: Launch) -> int | None:
    kind = launch.signature.type
    if kind.dtype.kind != "f":
        return None
    value = run.arena.read(kind.dtype, launch.writes, kind.shape)
    bad = ~_finite(value, len(launch.nodes))
    if not bad.any():
        return None
    if launch.signature.op is not CONSTANT:
        for operand, array in zip(launch.signature.operands, operand_values(run.arena, launch), strict=False):
            if operand.kind in ("row", "shared") and operand.dtype.kind == "f":
                bad &= (
                    _finite(array, len(launch.nodes))
                    if operand.kind == "row" and not _is_shared(array, launch)
                    else np.isfinite(array).all()
                )
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def _is_shared(array: Any, launch: Launch) -> bool:
    return array.ndim == 0 or len(array) != len(launch.nodes)


def _finite(array: Any, count: int) -> Any:
    return np.isfinite(array.reshape(count, -1)).all(axis=1)


def _message(run: Run, launch: Launch, position: int) -> str:
    graph = run.plan.graph
    row = int(graph.origin[launch.nodes[position]])
    t = int(np.searchsorted(graph.tape_starts, row, side="right")) - 1
    lines = graph.tape(t).lines
    where = (
        lines[row - int(graph.tape_starts[t])]
        if lines is not None
        else f"{launch.signature.line} (where it was first recorded)"
    )
    value = run.arena.read(launch.signature.type.dtype, launch.writes, launch.signature.type.shape)[position]
    what = "NaN" if np.isnan(value).any() else "an infinity"
    return f"{launch.signature.op.name} at {where} made {what}: {launch.signature!r}"

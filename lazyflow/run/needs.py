"""What a run needs of memory, known before any is taken, and what is said where there is not enough."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lazyflow.cells.values import bytes_of_calls, bytes_of_left_sides
from lazyflow.device import free_bytes
from lazyflow.errors import OutOfMemoryError
from lazyflow.graph.graph import Graph
from lazyflow.plan.plan import Launch, Plan, Rows
from lazyflow.record.tape import CONSTANT_OP
from lazyflow.run.execute import counts, indices, planned_payload
from lazyflow.run.way import RunWay

GRADIENTS = "gradients of parameters"  # as large for a minibatch of any size
LINES = 8  # of a report
SPARE = 0.85  # of what is free is counted on


class Share(NamedTuple):
    """Bytes, and what they are for."""

    what: str
    nbytes: int


def shares(plan: Plan, way: RunWay) -> tuple[Share, ...]:
    """What a run of the plan takes, and a backward through all of it where it is differentiable, the largest first.

    Gradients of parameters are in it; parameters, and what an optimizer keeps of them, are not.
    """
    found = Counter[str]()
    if plan.layout.reuses:
        found["values, in memory that is used again"] = plan.layout.nbytes
    else:
        found.update(_bytes_of_values(plan.structure))
    passing = max(map(_passing, plan.launches), default=0)
    if way.differentiable:  # what is pulled back to the operands is as large
        passing = max(2 * passing, max(map(_passing, plan.parameter_launches), default=0))
    found["operands and results of one launch"] = passing
    if way.differentiable:
        found["cotangents"] = sum(size * dtype.itemsize for dtype, size in plan.layout.floating.items())
        found[GRADIENTS] = 2 * sum(k.size * k.dtype.itemsize for k in plan.layout.kinds if k.requires_grad)
    for cells in plan.cells:
        program = cells.signature.cell
        stages = program.staged(cells.external, cells.outside, way.differentiable, way.printed)
        kept, back = bytes_of_calls(stages, len(cells.nodes), cells.largest, way.differentiable)
        found[f"what the calls of {program.name} keep"] += kept
        found["cotangents"] += back
        if way.differentiable and way.device != "cpu":
            found["left sides of the products of gradients"] += bytes_of_left_sides(stages, len(cells.nodes))
    if way.device != "cpu":
        found["where rows lie"] = 8 * sum(
            array.size for array in (*indices(plan, way), *planned_payload(plan), *counts(plan))
        )
        found["constants, as they came"] = sum(
            launch.writes.count * launch.writes.width * launch.signature.type.dtype.itemsize
            for launch in plan.launches
            if launch.signature.op is CONSTANT_OP
        )
    return tuple([Share(what, nbytes) for what, nbytes in found.most_common() if nbytes])


def _bytes_of_values(graph: Graph) -> Counter[str]:
    found = Counter[str]()
    rows = np.ones(len(graph), np.int64) if graph.counts is None else graph.counts
    counts = np.bincount(graph.signature, rows, len(graph.signatures)).astype(np.int64).tolist()
    for signature, count in zip(graph.signatures, counts, strict=True):
        found[f"values of {signature.op.name}"] += count * signature.widths[0] * signature.type.dtype.itemsize
    return found


def _passing(launch: Launch) -> int:
    """Bytes of a launch's result, and of the operands that are gathered for it."""
    own = launch.signature.type.dtype.itemsize * launch.writes.count * launch.writes.width
    pairs = zip(launch.signature.operands, launch.reads, strict=False)
    gathered = [read.count * read.width * o.dtype.itemsize for o, read in pairs if isinstance(read, Rows)]
    return own + sum(gathered)


def examples_of(graph: Graph) -> int:
    """How many examples a graph has: as many as roots, or, of one root, as what its list of losses has; 0 if that is
    not to be seen."""
    bases = {base for base, _ in graph.roots}
    if len(bases) > 1:
        return len(bases)
    [node] = bases or {-1}
    while node >= 0:
        read = graph.base[graph.starts[node] : graph.starts[node + 1]]
        if graph.signatures[graph.signature[node]].op.stacked:
            return len(read)
        node = int(read[0]) if len(read) == 1 else -1
    return 0


def in_units(nbytes: float) -> str:
    """Bytes as a person reads them.

    >>> in_units(999), in_units(25_600_000)
    ('999 B', '25.6 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            break
        nbytes, unit = nbytes / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{nbytes:.3g} {unit}"


def lines_of(some: Sequence[Share]) -> list[str]:
    """The largest shares, one a line."""
    lines = [f"{in_units(share.nbytes):>8}  {share.what}" for share in some[:LINES]]
    rest = sum(share.nbytes for share in some[LINES:])
    return [*lines, f"{in_units(rest):>8}  else"] if rest else lines


def _part_that_fits(some: Sequence[Share], free: int | None) -> float:
    needed, fixed = (sum(s.nbytes for s in some if s.what == GRADIENTS or every) for every in (True, False))
    if free is None or free >= needed:  # what is free may lie in pieces
        return 0.5
    return max(SPARE * (free - fixed) / (needed - fixed), 0.0)


def out_of_memory(error: MemoryError, plan: Plan, way: RunWay, doing: str) -> MemoryError:
    """What to raise in place of the error of an array module: the plan's bytes by what they are for, what there is, and
    for how many examples it would do.

    Arrays of functions that the error has ended are let go of: who catches it has their memory back.
    """
    if isinstance(error, OutOfMemoryError):
        return error
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None  # a frame that is cleared still has what its functions were closed over
    some, free = shares(plan, way), free_bytes(way.device)
    needed, examples = sum(share.nbytes for share in some), examples_of(plan.structure)
    part = _part_that_fits(some, free)
    fits = int(part * examples) if examples > 1 else None
    there = "" if free is None else f", and {in_units(free)} can be had there"
    return OutOfMemoryError(
        "\n".join(
            [
                f"out of memory on {way.device} in {doing}: {error}",
                f"A run of these {len(plan.structure)} nodes"
                f"{' and a backward through them' if way.differentiable else ''} needs {in_units(needed)}{there}:",
                *lines_of(some),
                f"A minibatch of {part:.2g} of this one's size would fit."
                if fits is None
                else f"A minibatch of {fits} of the {examples} examples would fit.",
                "Nothing was changed. lf.explain shows these bytes before they are taken.",
            ]
        ),
        needed,
        free,
        fits,
    )

# cython: nonecheck=True
"""How a run goes: decided once, at the top of it, and handed down as one record to whoever reduces its graph, plans it,
computes it, goes back through it, or says what it takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from lazyflow import core
from lazyflow.errors import DeviceError
from lazyflow.graph.reading import Reading
from lazyflow.record.expr import Expr
from lazyflow.record.tape import Tape
from lazyflow.settings import Settings


class RunWay(NamedTuple):
    """How a run goes, beside what it computes. ``fuse``: how kernels are fused, as can be had on the device;
    ``printed``: how they are printed, the same, on a device with what the settings say of storage behind a space.
    ``checked``: whether it is to say what made a NaN; ``others``: whether somebody holds values without gradient that
    are no roots; ``persistent``: whether launches of one cell that follow each other are to be one."""

    device: str
    batching: str
    dedupe: bool
    fuse: str
    printed: str
    differentiable: bool
    checked: bool
    others: bool
    persistent: bool


def way_of(roots: Sequence[Expr], readings: Sequence[Reading], options: Settings) -> RunWay:
    """How roots that need these are run under these settings. They are alike (`lazyflow.run.roots.alike`)."""
    device, differentiable = (roots[0].type.device, roots[0].tape.grad) if roots else ("cpu", False)
    # First: it counts who refers to a tape.
    others = not differentiable and (others_held(roots, readings) or _others_referred(roots, readings))
    checked: bool = options.check_finite
    for reading in readings:
        checked = checked or reading.tape.lines is not None
    fuse = _fused_by(options.fuse, device)
    printed = fuse if options.storage is None else _stored(fuse, options, device)
    persistent: bool = options.persistent and device != "cpu"
    return RunWay(device, options.batching, options.dedupe, fuse, printed, differentiable, checked, others, persistent)


def _fused_by(wanted: str, device: str) -> str:
    """How kernels are fused: as the settings say, where that can be had."""
    if device != "cpu":
        return "off" if wanted == "off" else "cuda"
    if wanted == "auto":
        return "numpy" if core.machine is None else "core"
    return wanted


def _stored(fused: str, options: Settings, device: str) -> str:
    if fused != "cuda":
        raise DeviceError(
            f"storage={options.storage!r} is of fused kernels on a device, and this runs on {device} with "
            f"fuse={options.fuse!r}: leave the setting out there, or record it under lf.using(device='cuda')"
        )
    return f"{fused} {options.storage}"


def _reference_counts(tapes: Sequence[object]) -> list[int]:
    return [sys.getrefcount(tape) for tape in tapes]


_NOBODY = _reference_counts([object()])[0]


def _others_referred(roots: Sequence[Expr], readings: Sequence[Reading]) -> bool:
    """Whether somebody refers to these tapes who has nothing to do with the roots: another tape, which imports values
    of them, or, where nobody counts expressions, somebody who may hold others than the roots."""
    distinct = [reading.tape for reading in readings]
    counts = _reference_counts(distinct)
    known: dict[Any, int] = {}
    for t in distinct:
        known[t] = _NOBODY + 1
    for e in set(roots):
        root: Expr = e
        if root.tape in known:
            known[root.tape] += 1
    for t in distinct:
        tape: Tape = t
        for source, _ in tape.imports:
            if source in known:
                known[source] += 1
    for t, count in zip(distinct, counts, strict=True):  # noqa: SIM110 (a compiled function has no generator)
        if count > known[t]:
            return True
    return False


def others_held(roots: Sequence[Expr], readings: Sequence[Reading]) -> bool:
    """Whether somebody holds expressions of these tapes, where these are counted, of other rows than the roots."""
    held = 0
    for reading in readings:
        tape: Tape = reading.tape
        if tape.handles is None:
            return False
        held += tape.handles.count()
    if held > len(roots):
        return True
    rows = set()
    for e in roots:
        root: Expr = e
        rows.add((root.tape.number, root.row))
    return held > len(rows)

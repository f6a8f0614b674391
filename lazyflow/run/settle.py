"""What nobody can ask for any more is let go of: the memory of runs that are stale.

A run is stale when a parameter has changed since: a gradient, and whatever rests on its values, is computed anew then.
But the values that somebody holds an expression of may still be read, as they were. So a stale run keeps these as
arrays of their own, and gives its arena, its plan and what its cells have kept back, before the next run takes memory.
Without this the roots that a program keeps for all of its training would hold every value of their last minibatch.
Where the package was compiled, this is of C, for there may be many values.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from lazyflow.core.columns import ELEMENTS
from lazyflow.device import Array
from lazyflow.locks import Lock, Owner
from lazyflow.record.tape import Tape, signature_by_id
from lazyflow.run.execute import Run

LEAST = 1 << 18  # bytes of an arena that are worth it
AT_ONCE = 2  # runs that one look takes, more than one run adds: there may be many that are not stale


class Settling:
    """Runs that hold memory, each with the threads that its values belong to."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[weakref.ref[Run], frozenset[Owner]]] = deque()
        self.lock = Lock()

    def add(self, run: Run, owners: frozenset[Owner]) -> None:
        """Look at the run again when others need memory."""
        if run.device == "cpu":
            self.waiting.append((weakref.ref(run), owners))

    def settle(self, owners: frozenset[Owner]) -> None:
        """Let some runs that are stale go; the caller holds the locks of these owners."""
        for _ in range(AT_ONCE):
            with self.lock:
                if not self.waiting:
                    return
                reference, own = self.waiting.popleft()
            run = reference()
            if run is not None and not (own <= owners and run.is_stale() and settled(run)):
                self.waiting.append((reference, own))


def settled(run: Run) -> bool:
    """Leave of a run the values that somebody holds an expression of. False where nobody counts expressions."""
    kept: dict[Any, Array] = {}
    for number, reference in enumerate(run.tapes):
        tape = reference()
        if tape is None:
            continue
        if tape.handles is None:
            return False
        _add_values(kept, run, tape, tape.handles.held_among(run.rows[number]))
    run.settle(kept)
    return True


def _add_values(kept: dict[Any, Array], run: Run, tape: Tape, rows: list[int]) -> None:
    """Add copies of those values of some rows of a tape that the run has computed, by dtype, offset and shape."""
    computed = tape.computed
    if computed is None:
        return
    runs, run_of, offset_of = computed.runs, computed.run_of, computed.offset_of
    last: int | None = None
    kind: Any = None
    buffer: Any = None
    for row in rows:
        which = ELEMENTS.number(run_of, row)
        if which >= 0 and runs[which] is run:
            offset, number = ELEMENTS.number(offset_of, row), tape.signatures[row]
            if number != last:  # most often they are of one kind
                last, kind = number, signature_by_id(number).type
                buffer = run.arena.buffers[kind.dtype]
            kept[kind.dtype, offset, kind.shape] = ELEMENTS.copy(buffer, offset, kind.shape)

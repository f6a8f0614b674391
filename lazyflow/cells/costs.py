"""What a cell sees that costs every call much, said once.

Whatever a cell sees counts by its contents. What these are is compared by loops of C for most of it, in some hundred
nanoseconds; but large arrays have to be read as a whole, objects that nothing tells the changes of have to be looked
through in Python, and where there is too much of all that, the body runs at every call. It is a `RuntimeWarning`, once
for each cell, as all of it can be kept elsewhere.
"""

from __future__ import annotations

import warnings
from types import CodeType
from typing import Any

import numpy as np

from lazyflow.cells.visible import MOST_MARKS, Seen, name_behind

__all__ = ["Costs"]

PATIENCE = 256  # calls that are looked through in Python before that is said
BYTES_IN_A_MICROSECOND = 1 << 15  # that are compared
_ADVICE = "hold what the body reads in numbers, tuples, lists, dicts, sets, arrays, parameters or modules"


class Costs:
    """What calls of one cell cost by what it sees: ``name`` and ``code`` are its own."""

    def __init__(self, name: str, code: CodeType) -> None:
        self.name, self.code, self.calls, self.said = name, code, 0, False

    def note(self, seen: Seen) -> None:
        """A call that no code was made for has seen this."""
        if self.said or not seen.dear or not (seen.watchable or None in seen.dear.values()):
            return
        self.calls += 1
        if self.calls > (1 if seen.counted and seen.watchable else PATIENCE):
            self.said = True
            path, value = list(seen.dear.items())[0 if seen.watchable else -1]
            warnings.warn_explicit(
                f"{self.name}: {_cost(value, name_behind(path), seen)}",
                RuntimeWarning,
                self.code.co_filename,
                self.code.co_firstlineno,
            )


def _cost(value: Any, name: str | None, seen: Seen) -> str:
    """What is seen, what it costs, and what to do."""
    place = "" if name is None else f", among them what {name!r} leads to"
    if not seen.watchable:
        return (
            f"sees more than {MOST_MARKS:,} values{place}, and so its body runs at every call, as without lf.cell: "
            "keep numbers in an array, or in an lf.Parameter(..., requires_grad=False)"
        )
    if seen.counted and isinstance(value, np.ndarray):
        microseconds = max(1, round(value.nbytes / BYTES_IN_A_MICROSECOND))
        return (
            f"reads an array of {value.nbytes:,} bytes as {name!r}, which every call compares with what it was, in "
            f"some {microseconds:,} microseconds: make it an lf.Parameter(array, requires_grad=False), or hold the "
            "part that the body reads"
        )
    return (
        f"sees a {type(value).__name__} as {name!r}, whose changes nothing tells, so that every call looks through all "
        f"that it sees, in some 100 microseconds: {_ADVICE}"
    )

"""Passes over the arrays of a graph: those of the compiled core, or, where it was not built, those by whole arrays.

Collecting, merging repeats, scheduling and laying out are each one or two passes over nodes and edges. Both forms give
the very same graphs and plans (``tests/core/test_passes.py``). `lazyflow.core.arrays` says what each does; ``chains``
and ``joined`` are None without the core.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from lazyflow import core
from lazyflow.core import arrays
from lazyflow.core.arrays import IMPORT_ROW, OUTPUT_ROW, PLAIN_ROW, VIEW_ROW, Ints

if TYPE_CHECKING:  # what the names that `use` fills are
    from lazyflow.core.arrays import (
        Nodes,
        RowPlaces,
        agenda,
        backwards,
        blocks,
        by_launch,
        by_levels,
        calls,
        collected,
        depths,
        evenly,
        frontier,
        laid_out,
        longest_chains,
        needed,
        note_places,
        operand_offsets,
        part,
        picked,
        places,
        reach,
        reached,
        row_starts,
        rows_of_ranges,
        signature_edges,
        stacked_rows,
        structure,
        within_phases,
        without_repeats,
    )  # fmt: skip

# None without the core.
chains: Callable[..., tuple[Ints, Ints, Ints, int]]
joined: Callable[..., tuple[Ints, ...]]

__all__ = [
    "IMPORT_ROW", "NAMES", "OUTPUT_ROW", "PLAIN_ROW", "VIEW_ROW",
    "Nodes", "RowPlaces", "agenda", "backwards", "blocks", "by_launch", "by_levels", "calls", "chains", "collected",
    "depths", "evenly", "frontier", "joined", "laid_out", "longest_chains", "needed", "note_places", "operand_offsets",
    "part", "picked", "places", "reach", "reached", "row_starts", "rows_of_ranges", "signature_edges",
    "stacked_rows", "structure", "use", "within_phases", "without_repeats",
]  # fmt: skip
NAMES = tuple([name for name in __all__ if not name.isupper() and name != "use"])


def use(form: ModuleType) -> None:
    """Offer the passes of ``form``, `lazyflow.core.arrays` or ``lazyflow.core.passes``. Tests compare the two; what was
    made by one is nothing for the other."""
    globals().update({name: getattr(form, name) for name in NAMES})


use(arrays if core.passes is None else core.passes)

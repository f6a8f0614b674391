"""Passes over the arrays of a graph: those of the compiled core, or, where it was not built, those by whole arrays.

Collecting, merging repeats, scheduling and laying out are each one or two passes over nodes and edges. Both forms give
the very same graphs and plans (``tests/core/test_passes.py``). `lazyflow.core.arrays` says what each does; ``chains``
and ``joined`` are None without the core.
"""

from __future__ import annotations

from typing import Any

from lazyflow import core
from lazyflow.core import arrays
from lazyflow.core.arrays import IMPORT_ROW, OUTPUT_ROW, PLAIN_ROW, VIEW_ROW

Nodes: Any
backwards: Any
blocks: Any
agenda: Any
by_launch: Any
by_levels: Any
calls: Any
chains: Any
collected: Any
cut: Any
depths: Any
evenly: Any
frontier: Any
joined: Any
laid_out: Any
longest_chains: Any
operand_offsets: Any
part: Any
places: Any
reach: Any
reached: Any
row_starts: Any
signature_edges: Any
stacked_rows: Any
structure: Any
without_repeats: Any

NAMES = (
    "Nodes", "backwards", "blocks", "agenda", "by_launch", "by_levels", "calls", "chains", "collected", "cut",
    "depths", "evenly", "frontier", "joined", "laid_out", "longest_chains", "operand_offsets", "part", "places",
    "reach", "reached", "row_starts", "signature_edges", "stacked_rows", "structure", "without_repeats",
)  # fmt: skip


def use(form: Any) -> None:
    """Offer the passes of ``form``, `lazyflow.core.arrays` or ``lazyflow.core.passes``. Tests compare the two; what was
    made by one is nothing for the other."""
    globals().update({name: getattr(form, name) for name in NAMES})


use(arrays if core.passes is None else core.passes)

__all__ = ["IMPORT_ROW", "NAMES", "OUTPUT_ROW", "PLAIN_ROW", "VIEW_ROW", "use"]

# The passes over the arrays of a graph, with the arguments and results of lazyflow/arrays.py.

from typing import Any

class Nodes:
    signature: Any
    signatures: int
    starts: Any
    base: Any
    results: Any
    call: Any
    def __init__(self, signature: Any, signatures: int, starts: Any, base: Any, results: Any) -> None: ...
    def __len__(self) -> int: ...

def row_starts(ids: Any, ints: Any, rows: Any, int_counts: Any, float_counts: Any) -> tuple[Any, Any, Any]: ...
def structure(ids: Any, ints: Any, rows: Any, int_counts: Any, kinds: Any) -> bytes: ...
def reach(
    rows: Any, ids: Any, kinds: Any, starts: Any, operands: Any, marks: Any, gap: int
) -> tuple[Any, Any, Any]: ...
def cut(
    ids: Any,
    operands: Any,
    ints: Any,
    floats: Any,
    starts: Any,
    int_starts: Any,
    float_starts: Any,
    lows: Any,
    highs: Any,
    outside: int,
) -> tuple[Any, Any, Any, Any]: ...
def collected(
    ids: Any,
    kinds: Any,
    operands: Any,
    ints: Any,
    starts: Any,
    int_starts: Any,
    float_starts: Any,
    imports: Any,
    targets: Any,
    known: Any,
    roots: Any,
) -> tuple[Any, ...]: ...
def without_repeats(
    nodes: Nodes,
    shift: Any,
    int_starts: Any,
    ints: Any,
    float_starts: Any,
    floats: Any,
    int_counts: Any,
    float_counts: Any,
    usable: Any,
    origin: Any,
    tape_base: Any,
    fewest: int,
    worth: int,
) -> tuple[Any, ...] | None: ...
def depths(nodes: Nodes) -> Any: ...
def signature_edges(nodes: Nodes) -> Any: ...
def by_levels(nodes: Nodes, component: Any, components: int) -> tuple[Any, Any, Any, Any, Any]: ...
def part(nodes: Nodes, component: Any, which: int) -> tuple[Any, Nodes]: ...
def backwards(nodes: Nodes) -> Nodes: ...
def agenda(nodes: Nodes) -> tuple[Any, int]: ...
def frontier(nodes: Nodes) -> tuple[Any, int]: ...
def longest_chains(nodes: Nodes) -> tuple[Any, Any]: ...
def by_launch(launch: Any, wanted: Any, launches: int) -> tuple[Any, Any]: ...
def laid_out(nodes: Nodes, launch: Any, phase: Any, widths: Any, dtypes: Any, count: int) -> tuple[Any, Any]: ...
def blocks(nodes: Nodes, launch: Any, phase: Any, roots: Any) -> tuple[Any, Any, Any, Any, Any, Any]: ...
def calls(
    nodes: Nodes,
    shift: Any,
    offsets: Any,
    int_starts: Any,
    ints: Any,
    float_starts: Any,
    floats: Any,
    order: Any,
    launch: Any,
    phase: Any,
    kind: int,
    rows: int,
    results: int,
    int_count: int,
    float_count: int,
) -> tuple[Any, Any, Any, Any, Any, Any, Any, int]: ...
def operand_offsets(nodes: Nodes, shift: Any, offsets: Any, order: Any, bounds: Any, has: Any, slot: int) -> Any: ...
def evenly(offsets: Any, bounds: Any, widths: Any) -> tuple[Any, Any, Any]: ...
def stacked_rows(nodes: Nodes, shift: Any, offsets: Any, some: Any, width: int) -> tuple[Any, int, int, bool]: ...
def places(base: Any, shift: Any, origin: Any, kept: Any, offsets: Any) -> Any: ...
def reaches_all(nodes: Nodes, wanted: Any, wants: Any, slots: Any, roots: Any) -> bool: ...
def chains(
    nodes: Nodes, shift: Any, joins: Any, types: Any, sizes: Any, whole: Any, output: Any, largest: int
) -> tuple[Any, Any, Any, int]: ...
def joined(nodes: Nodes, shift: Any, last: Any, structure: Any, which: Any) -> tuple[Any, ...]: ...

"""How long the slabs of a cell are needed: which have a row for every call, which for a few, which none, and which lie
in the memory of others.

The steps between two operations of their own (a *segment*) run on one block of rows after the other, so that what they
hand on is still in cache; a slab that only one segment touches holds one block. Cotangents take the place of values
where the kernel that writes them is the last to read these (as in-place activations do in PyTorch); a second backward
computes such values again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lazyflow.cells.steps import (
    REF_INPUT,
    REF_NODE,
    Assemble,
    Fused,
    Node,
    OwnKernel,
    Place,
    Product,
    Ref,
    Slab,
    Step,
    is_batched,
)
from lazyflow.fuse.scalar import (
    ROWS_OF_ALL,
    ROWS_OF_LAUNCH,
    ROWS_OF_SOME,
    Kernel,
    may_share,
    shared,
    with_rows,
    with_storage,
)

SCOPE_NONE, SCOPE_BLOCK, SCOPE_ALL, SCOPE_SAME = "none", "block", "all", "same"
NO: frozenset[int] = frozenset()

# What a block of rows reads and writes, in elements: a megabyte of float32 stays in the second cache.
SEGMENT_ELEMENTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Segment:
    """Steps that run on about ``rows`` rows, then on the next (None: on all at once).

    ``zeroed``: slabs whose cotangents hold one block, to which several steps add.
    """

    steps: tuple[Step, ...]
    rows: int | None
    zeroed: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Memory:
    """``values[i]`` and ``cotangents[i]`` say what slab ``i`` needs: nothing (`SCOPE_NONE`), one block of about
    ``rows[i]`` rows (`SCOPE_BLOCK`), all rows (`SCOPE_ALL`), or the same as its values (`SCOPE_SAME`)."""

    values: tuple[str, ...]
    cotangents: tuple[str, ...]
    rows: tuple[int | None, ...]


@dataclass(frozen=True)
class _Use:
    """The slabs that a step touches: in forward; in backward, their values, their cotangents, and those cotangents that
    it writes or adds to; and what is read of them when all calls are done."""

    forward: frozenset[int]
    values: frozenset[int] = NO
    cotangents: frozenset[int] = NO
    written: frozenset[int] = NO
    late_values: frozenset[int] = NO
    late_cotangents: frozenset[int] = NO


def memory_of(
    stages: Sequence[Sequence[Step]],
    nodes: Sequence[Node],
    places: Mapping[int, Place],
    exact: frozenset[int],
    summed: frozenset[int],
    slabs: int,
    grad: bool,
) -> Memory:
    """What the slabs of steps need.

    ``exact``: slabs of whose cotangents every column is written by one step, once; ``summed``: slabs whose cotangents
    are summed in the end.
    """
    parts = [part for stage in stages for part in _runs_of_steps(stage)]
    steps = [(number, step, _use(step, nodes, places)) for number, part in enumerate(parts) for step in part]
    values: list[str] = []
    cotangents: list[str] = []
    rows: list[int | None] = []
    for slab in range(slabs):
        values.append(_scope({n for n, _, use in steps if slab in use.forward}, grad))
        late = slab in summed or any(slab in use.late_cotangents for _, _, use in steps)
        scope = _scope({n for n, _, use in steps if slab in use.cotangents}, late)
        scope = SCOPE_ALL if late and scope == SCOPE_NONE else scope
        same = (
            scope == SCOPE_ALL
            and slab in exact
            and values[-1] == SCOPE_ALL
            and _written_once(slab, [(s, use) for _, s, use in steps])
        )
        cotangents.append(SCOPE_SAME if same else scope)
        blocks = [_block_rows(parts[n]) for n, _, use in steps if slab in use.forward | use.cotangents]
        rows.append(None if None in blocks else max(filter(None, blocks), default=None))
    return Memory(tuple(values), tuple(cotangents), tuple(rows))


def _block_rows(part: Sequence[Step]) -> int | None:
    """The rows of a block of a segment."""
    columns = sum(map(_elements_moved, part))
    return max(SEGMENT_ELEMENTS // columns // 16 * 16, 32) if columns and len(part) > 1 else None


def _scope(parts: set[int], later: bool) -> str:
    if not parts:
        return SCOPE_NONE
    return SCOPE_ALL if later or len(parts) > 1 else SCOPE_BLOCK


def _written_once(slab: int, steps: Sequence[tuple[Step, _Use]]) -> bool:
    """Whether one kernel alone writes the cotangents of a slab, and it alone reads the values in backward."""
    if any(slab in use.late_values for _, use in steps):
        return False
    writers = [step for step, use in steps if slab in use.written]
    readers = [step for step, use in steps if slab in use.values]
    if len(writers) != 1 or not all(step is writers[0] for step in readers):
        return False
    [step] = writers
    return isinstance(step, Fused) and step.backward is not None and may_share(step.backward, *_keys(slab))


def _keys(slab: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("slab", slab), ("cotangent", slab)


def with_memory(step: Step, memory: Memory, whole: bool) -> Step:
    """The step with kernels that know which rows their slabs have, and that write cotangents in place of values where
    the memory is so. ``whole``: slabs of values have rows for all calls, not only for those of a launch."""
    if not isinstance(step, Fused):
        return step
    rows = {SCOPE_ALL: ROWS_OF_ALL, SCOPE_SAME: ROWS_OF_ALL, SCOPE_BLOCK: ROWS_OF_SOME, SCOPE_NONE: ROWS_OF_ALL}
    known = {("cotangent", slab): rows[scope] for slab, scope in enumerate(memory.cotangents)}
    rows[SCOPE_ALL] = ROWS_OF_ALL if whole else ROWS_OF_LAUNCH
    known |= {("slab", slab): rows[scope] for slab, scope in enumerate(memory.values)}
    forward, backward = with_rows(step.forward, known), step.backward
    if backward is not None:
        for slab in sorted(_slabs_in(backward, "cotangent")):
            if memory.cotangents[slab] == SCOPE_SAME:
                backward = shared(backward, *_keys(slab))
        backward = with_rows(backward, known)
    return Fused(forward, backward)


def stored_slabs(
    steps: Sequence[Step], nodes: Sequence[Node], places: Mapping[int, Place], slabs: Sequence[Slab]
) -> frozenset[int]:
    """The slabs of float32 that may be stored in 16 bits: fused kernels, products and gathers read and write such ones,
    operations of their own do not. A product has both of its sides alike, or its gradient would not, and what is put
    side by side is like all of it."""
    wide = {number for number, slab in enumerate(slabs) if slab.dtype.name != "float32"}
    alike: list[set[int]] = []
    for step in steps:
        if isinstance(step, OwnKernel):
            wide |= _use_of_call(step.node, nodes, places).forward
        elif isinstance(step, Assemble | Product):
            read = [ref.index for ref in _sides_of(step) if ref.kind != REF_INPUT]
            alike.append({max(step.place.slab, _ARENA), *(places[i].slab if i in places else _ARENA for i in read)})
    wide.add(_ARENA)
    for _ in alike:
        for some in alike:
            if some & wide:
                wide |= some
    return frozenset(range(len(slabs))) - wide


_ARENA = -1  # in place of a slab: results of the cell lie there


def _sides_of(step: Assemble | Product) -> tuple[Ref, ...]:
    return step.parts if isinstance(step, Assemble) else (step.x,)


def with_stored(step: Step, stored: str, slabs: frozenset[int]) -> Step:
    """The step with kernels that know which slabs are ``stored`` in 16 bits, as values and as cotangents."""
    if not isinstance(step, Fused):
        return step
    keys = {(what, slab) for slab in slabs for what in ("slab", "cotangent")}
    backward = None if step.backward is None else with_storage(step.backward, stored, keys)
    return Fused(with_storage(step.forward, stored, keys), backward)


def segments(
    stage: Sequence[Step], nodes: Sequence[Node], places: Mapping[int, Place], memory: Memory, zeroed: frozenset[int]
) -> tuple[Segment, ...]:
    """The segments of a stage. ``zeroed``: slabs whose cotangents must be zero before anybody adds to them."""
    found = []
    for part in _runs_of_steps(stage):
        used = {slab for step in part for slab in _use(step, nodes, places).cotangents}
        blocks = tuple(s for s in sorted(used & zeroed) if memory.cotangents[s] == SCOPE_BLOCK)
        found.append(Segment(tuple(part), _block_rows(part), blocks))
    return tuple(found)


def _elements_moved(step: Step) -> int:
    """Elements of a row that a step reads or writes, products and what is assembled: kernels read the same ones."""
    if isinstance(step, Product):
        return step.x.size + step.columns
    return step.columns if isinstance(step, Assemble) else 0


def _runs_of_steps(stage: Sequence[Step]) -> Iterator[list[Step]]:
    """The longest runs of steps without an operation of its own, and these alone: they cost too much for small
    blocks."""
    part: list[Step] = []
    for step in stage:
        if isinstance(step, OwnKernel):
            yield from ([part] if part else [])
            yield [step]
            part = []
        else:
            part.append(step)
    yield from ([part] if part else [])


def _use(step: Step, nodes: Sequence[Node], places: Mapping[int, Place]) -> _Use:
    if isinstance(step, Fused):
        return _use_of_kernels(step)
    if isinstance(step, OwnKernel):
        return _use_of_call(step.node, nodes, places)
    place = frozenset({step.place.slab} if step.place.slab >= 0 else ())
    if isinstance(step, Assemble):
        written = _slabs_of([ref for ref in step.parts if ref.grad and step.grad], places)
        return _Use(
            place | _slabs_of(step.parts, places), cotangents=(place if step.grad else NO) | written, written=written
        )
    x = _slabs_of([step.x], places)
    if not step.grad:
        return _Use(place | x)
    written = x if step.x_grad else NO
    return _Use(place | x, NO, place | written, written, x, place)


def _use_of_kernels(step: Fused) -> _Use:
    forward = _slabs_in(step.forward, "slab")
    if step.backward is None:
        return _Use(forward)
    written = [step.backward.arguments[store.argument] for store in step.backward.stores]
    return _Use(
        forward,
        _slabs_in(step.backward, "slab"),
        _slabs_in(step.backward, "cotangent"),
        frozenset(a.key[1] for a in written if a.key[0] == "cotangent"),
    )


def _use_of_call(i: int, nodes: Sequence[Node], places: Mapping[int, Place]) -> _Use:
    """Its kernels and vjps may read the result and all operands."""
    node = nodes[i]
    mine = frozenset({places[i].slab} if i in places else ())
    values = mine | _slabs_of(node.reads, places)
    if not node.grad:
        return _Use(values)
    written = _slabs_of([ref for ref in node.reads if ref.grad], places)
    late = any(ref.grad and not is_batched(ref, nodes) for ref in node.reads)
    return _Use(values, values, mine | written, written, values if late else NO, mine if late else NO)


def _slabs_of(refs: Sequence[Ref], places: Mapping[int, Place]) -> frozenset[int]:
    return frozenset(places[ref.index].slab for ref in refs if ref.kind == REF_NODE and ref.index in places)


def _slabs_in(kernel: Kernel, what: str) -> frozenset[int]:
    return frozenset(a.key[1] for a in kernel.arguments if a.key[0] == what)

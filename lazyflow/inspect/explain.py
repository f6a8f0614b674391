"""Why an expression takes as many launches as it does, for a person to read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyflow import settings
from lazyflow.cells.phases import how_levels_run
from lazyflow.errors import counted
from lazyflow.graph.graph import Graph, collect
from lazyflow.graph.reading import readings_of
from lazyflow.plan.plan import Plan, dag_of, make
from lazyflow.plan.plans import CacheInfo
from lazyflow.plan.schedule import Schedule, lower_bound, schedule
from lazyflow.record.expr import Expr, Parameter
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, Operand, Signature
from lazyflow.run.forward import CHOICES, PLANS, reduced
from lazyflow.run.needs import Share, in_units, lines_of, shares
from lazyflow.run.rounds import Rounds, watching
from lazyflow.run.way import RunWay, way_of

__all__ = ["Explanation", "Group", "explain"]


@dataclass(frozen=True)
class Group:
    """The nodes of one signature: how many, in how many launches, the largest of them, and the line that first
    recorded it."""

    signature: str
    operation: str
    nodes: int
    launches: int
    largest: int
    line: str


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns; ``print`` shows it as a table.

    ``recorded`` nodes, of which ``nodes`` are computed (the others are views, in a chain of elementwise operations that
    is one node, or no root needs them); ``launches`` under ``batching``;
    ``lower_bound``: fewer are impossible; ``groups``, the one of most launches first; ``reasons``: why groups of one
    operation did not merge; ``persistent``: under that setting, whether the levels of each cell that follow each other
    are one kernel, or why not; ``memory``: bytes that a run takes, with a backward through all of it, by what they are
    for, the most first; ``plans``: what is kept of plans, of this and of all other graphs (`lazyflow.plan.plans`);
    ``runs``: in how many runs, or rounds of `lazyflow.map`, it was computed so far; ``rounds``: those that a
    `lazyflow.rounds` block around it has seen, None outside of one.
    """

    recorded: int
    nodes: int
    launches: int
    lower_bound: int
    batching: str
    groups: tuple[Group, ...]
    reasons: tuple[str, ...]
    persistent: tuple[str, ...]
    memory: tuple[Share, ...]
    plans: CacheInfo = field(compare=False)
    runs: int = field(compare=False)
    rounds: Rounds | None = field(compare=False)

    @property
    def nbytes(self) -> int:
        """All bytes of ``memory``."""
        return sum(share.nbytes for share in self.memory)

    def __str__(self) -> str:
        head = (
            f"{self.recorded} nodes recorded, {self.nodes} to compute, in {self.launches} launches "
            f"(batching={self.batching!r}; no fewer than {self.lower_bound} are possible)"
        )
        rows = [("nodes", "launches", "largest", "operation", "first recorded at")]
        rows += [(str(g.nodes), str(g.launches), str(g.largest), g.signature, g.line) for g in self.groups]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = [
            "  ".join(c.rjust(w) if i < 3 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False)))
            + "  "
            + row[4]
            for row in rows
        ]
        return "\n".join(
            [
                head,
                "",
                *table,
                *(["", "why these did not merge:"] if self.reasons else []),
                *(f"- {r}" for r in self.reasons),
                *(["", "levels that follow each other:"] if self.persistent else []),
                *(f"- {p}" for p in self.persistent),
                "",
                f"about {in_units(self.nbytes)} of memory:",
                *lines_of(self.memory),
                "",
                str(self.plans),
                *self._rounds_lines(),
            ]
        )

    def _rounds_lines(self) -> list[str]:
        if self.rounds is not None:
            return ["", str(self.rounds)]
        if self.runs > 1:
            return [
                "",
                f"computed so far in {self.runs} runs: which lines asked is seen in a block `with lf.rounds():`",
            ]
        return []


def explain(root: Expr | list[Expr], *, groups: int = 20) -> Explanation:
    """How many nodes became how many launches, the lower bound, why what looks alike did not merge, and how much memory
    it takes. Computes nothing, and takes none of that memory. All is shown as if it were to be computed at once; in a
    `lazyflow.rounds` block what follows is how it was, in the rounds of each `lazyflow.map` in that block: the lines
    that asked, and the rows of what ran.

    ``groups``: how many groups to list, those of most launches first.

    >>> import lazyflow as lf
    >>> print(lf.explain(lf.tanh(lf.constant([1.0])) + lf.tanh(lf.constant([2.0]))))  # doctest: +ELLIPSIS
    5 nodes recorded, 5 to compute, in 3 launches (batching='phases'; no fewer than 3 are possible)
    ...
    """
    roots = list(root) if isinstance(root, list | tuple) else [root]
    for e in roots:
        if not isinstance(e, Expr) or isinstance(e, Parameter):
            raise TypeError(f"explain takes recorded expressions, got {type(e).__name__}: it shows how operations run")
    readings = readings_of(roots, anew=True)
    graph = collect(roots, readings=readings, anew=True)
    way = way_of(roots, readings, settings.current())
    graph = reduced(graph, way) if roots else graph
    dag = dag_of(graph)
    plan = schedule(dag, way.batching, CHOICES, tuple(s.serial for s in graph.signatures))
    found = _groups_of(graph, plan)
    made = make(graph, plan, reuse=not (way.differentiable or way.checked))
    levels = Counter(_levels_of(made, way)) if settings.current().persistent else {}
    return Explanation(
        recorded=int(graph.tape_starts[-1]),
        nodes=len(dag),
        launches=plan.launches,
        lower_bound=lower_bound(dag),
        batching=way.batching,
        groups=tuple(group for _, group in found[:groups]),
        reasons=tuple(_reasons([s for s, _ in found])),
        persistent=tuple(text if n == 1 else f"{text} ({n} times)" for text, n in levels.items()),
        memory=shares(made, way),
        plans=PLANS.info(),
        runs=len({id(run) for reading in readings for run in reading.tape.runs}),
        rounds=watching(),
    )


def _levels_of(plan: Plan, way: RunWay) -> Iterator[str]:
    """Of each row of launches of one cell, without another between, how it runs."""
    for launch in plan.launches:
        if launch.calls is not None:
            number, edges = launch.calls
            cells = plan.cells[number]
            stages = cells.signature.cell.staged(cells.external, cells.outside, way.differentiable, way.printed)
            how = "step by step, as on every CPU"
            if way.persistent:
                how = how_levels_run(stages, edges, way.device, way.differentiable)
            yield f"{launch.signature.op.name}, {counted(len(edges) - 1, 'level')}: {how}"


def _groups_of(graph: Graph, plan: Schedule) -> list[tuple[Signature, Group]]:
    sizes = np.bincount(plan.launch, minlength=plan.launches)
    of_launch = np.zeros(plan.launches, np.int64)
    of_launch[plan.launch] = dag_of(graph).signature
    found = []
    for s, signature in enumerate(graph.signatures):
        mine = sizes[of_launch == s]
        if len(mine):
            group = Group(
                repr(signature), signature.op.name, int(mine.sum()), len(mine), int(mine.max()), signature.line
            )
            found.append((signature, group))
    return sorted(found, key=lambda pair: (-pair[1].launches, -pair[1].nodes, pair[1].signature))


def _reasons(signatures: list[Signature]) -> list[str]:
    alike: dict[str, list[Signature]] = defaultdict(list)
    for signature in signatures:
        if signature.op not in (CONSTANT_OP, KNOWN_OP):
            alike[signature.op.name].append(signature)
    return [
        f"{first.op.name}: {difference(first, other)}" for first, *others in alike.values() for other in others
    ]  # fmt: skip


def difference(a: Signature, b: Signature) -> str:
    """What keeps two signatures of one operation apart."""
    for name in sorted(set(a.static) | set(b.static)):
        if a.static.get(name) != b.static.get(name):
            return f"{name} differs: {a.static.get(name)} and {b.static.get(name)}"
    counts = [max(s.rows, len(s.operands)) for s in (a, b)]
    if counts[0] != counts[1]:
        return f"the number of operands differs: {counts[0]} and {counts[1]}"
    for i, (p, q) in enumerate(zip(a.operands, b.operands, strict=False)):
        if p.kind != q.kind or p.type is not q.type:
            return f"operand {i} differs: {_operand_text(p)} and {_operand_text(q)}"
    if a.type is b.type:
        return "what they compute differs inside"
    return f"the results differ: {a.type!r} and {b.type!r}"


def _operand_text(operand: Operand) -> str:
    kind: Any = operand.type
    if kind is None:
        return f"a Python {operand.kind}"
    if kind.parameter is not None:
        return repr(kind.parameter())
    return f"{kind.shape} {kind.dtype}" + ("" if kind.requires_grad else " without gradient")

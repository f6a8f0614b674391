"""What the rounds of `lazyflow.map` were: how many examples asked together, where, and what ran for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyflow.record.expr import Expr
from lazyflow.record.tape import CONSTANT_OP, KNOWN_OP, Signature
from lazyflow.run.execute import Run

__all__ = ["Asked", "Operation", "Round", "Rounds", "rounds"]


@dataclass(frozen=True)
class Asked:
    """A ``line`` that asked for values: in how many ``rounds``, and how often over all examples."""

    line: str
    rounds: int
    times: int


@dataclass(frozen=True)
class Operation:
    """What the rounds ran of one operation: ``rows``, one an example that needed it, in how many ``launches``, the
    ``largest`` of them, and the ``line`` that first recorded it."""

    operation: str
    rows: int
    launches: int
    largest: int
    line: str


@dataclass(frozen=True)
class Round:
    """One batched forward: how many ``examples`` asked for it, at which ``lines``, and its ``launches``: of each its
    operation, the line that first recorded that, and its rows."""

    examples: int
    lines: Counter[str]
    launches: tuple[tuple[str, str, int], ...]


class Rounds:
    """What `rounds` gives; ``print`` shows it as a table.

    ``seen``: the rounds, one `Round` each; ``asked`` and ``operations`` sum them up, what is most often first.
    """

    def __init__(self) -> None:
        self.seen: list[Round] = []
        self._before: list[Any] = []

    def __enter__(self) -> Rounds:
        self._before.append(_watching.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        _watching.reset(self._before.pop())

    @property
    def asked(self) -> list[Asked]:
        """The lines that asked for values."""
        times: Counter[str] = sum((r.lines for r in self.seen), Counter())
        rounds = Counter(line for r in self.seen for line in r.lines)
        return [Asked(line, rounds[line], n) for line, n in times.most_common()]

    @property
    def operations(self) -> list[Operation]:
        """The operations that ran."""
        rows: dict[tuple[str, str], list[int]] = defaultdict(list)
        for operation, line, count in [launch for r in self.seen for launch in r.launches]:
            rows[operation, line].append(count)
        found = [Operation(o, sum(n), len(n), max(n), line) for (o, line), n in rows.items()]
        return sorted(found, key=lambda o: (-o.launches, -o.rows, o.operation))

    def __str__(self) -> str:
        launches = [launch for r in self.seen for launch in r.launches]
        examples = _mean_text([r.examples for r in self.seen])
        rows = _mean_text([count for _, _, count in launches])
        head = f"{len(self.seen)} rounds of {examples} examples, in {len(launches)} launches of {rows} rows (means)"
        asked = [("rounds", "times", "asked at"), *((f"{a.rounds}", f"{a.times}", a.line) for a in self.asked)]
        ran = [("rows", "launches", "a launch", "largest", "operation", "first recorded at")]
        ran += [
            (f"{o.rows}", f"{o.launches}", f"{o.rows / o.launches:.1f}", f"{o.largest}", o.operation, o.line)
            for o in self.operations
        ]
        return "\n".join([head, "", *_table_text(asked, 2), "", *_table_text(ran, 4)])


def rounds() -> Rounds:
    """Watch each `lazyflow.map` in a ``with`` block: how many examples asked together, at which lines, and what ran.

    It looks for the line whenever a value is asked for, which takes about a microsecond.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([0.5])
    >>> def doublings(x):
    ...     while x < 10:
    ...         x = x / w
    ...     return x
    >>> with lf.rounds() as seen:
    ...     found = lf.map(doublings, [lf.constant([1.0]), lf.constant([3.0])])
    >>> [r.examples for r in seen.seen], [a.times for a in seen.asked]
    ([2, 2, 2, 1, 1], [8])
    """
    return Rounds()


_watching: ContextVar[Rounds | None] = ContextVar("lazyflow.rounds", default=None)
watching = _watching.get


def launched(roots: Sequence[Expr], since: int) -> tuple[tuple[str, str, int], ...]:
    """The launches of the runs that computed these roots, of those whose number is larger than ``since``."""
    found: dict[int, Run] = {}
    stack = [e.tape.place_of(e.row)[0] for e in roots if e.tape.has_value(e.row)]
    while stack:
        run = stack.pop()
        if run.number > since and run.number not in found:
            found[run.number] = run
            stack.extend(run.known_runs)
    return tuple(_launch_lines(found[number] for number in sorted(found)))


def _launch_lines(runs: Iterable[Run]) -> Iterator[tuple[str, str, int]]:
    for run in runs:
        for launch in run.plan.launches:
            signature: Signature = launch.signature
            if signature.op is not CONSTANT_OP and signature.op is not KNOWN_OP:
                counts = [len(launch.nodes)] if launch.calls is None else np.diff(launch.calls[1]).tolist()
                yield from [(repr(signature), signature.line, count) for count in counts]


def _mean_text(numbers: Sequence[int]) -> str:
    return f"{sum(numbers) / len(numbers):.1f}" if numbers else "0"


def _table_text(rows: Sequence[tuple[str, ...]], numbers: int) -> list[str]:
    """The rows with their columns below each other, the first ones, which are ``numbers``, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i < numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

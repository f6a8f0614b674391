"""Rows of a tape that is still written, decoded: where their operands and their payload begin."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lazyflow.record.tape import RAGGED, Tape, signature_columns

DECODED_AT_ONCE = 256  # rows of a tape that are decoded at a time, at least


class Row(NamedTuple):
    """Where the operands and the payload of a row begin, and how many operands there are."""

    start: int
    number: int
    ints: int
    floats: int


class DecodedRows:
    """The rows of a tape, decoded from its end on as far as they are asked for, and on as it grows.

    What is called over and over on one tape reads the end of it each time, never all of it.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.first = self.last = len(tape)
        self.begin = self.end = len(tape.operands), len(tape.ints), len(tape.floats)
        self.known: dict[int, Row] = {}

    def __getitem__(self, row: int) -> Row:
        while row < self.first:
            self._decode(max(0, min(row, 2 * self.first - self.last - DECODED_AT_ONCE)), self.first, self.begin)
        if row >= self.last:
            end = len(self.tape.operands), len(self.tape.ints), len(self.tape.floats)
            self._decode(self.last, len(self.tape), end)
        return self.known[row]

    def _decode(self, first: int, last: int, end: tuple[int, int, int]) -> None:
        """Rows from ``first`` up to ``last``, whose operands and payload end there."""
        ids = np.array(self.tape.signatures[first:last])
        rows, ints, floats, _ = (column[ids].astype(np.int64) for column in signature_columns())
        int_starts = _starts(ints, end[1])
        ragged = np.flatnonzero(rows == RAGGED)
        rows[ragged] = [self.tape.ints[i] for i in int_starts[ragged]]
        columns = _starts(rows, end[0]), rows, int_starts, _starts(floats, end[2])
        decoded = map(Row._make, zip(*(c.tolist() for c in columns), strict=True))
        self.known.update(zip(range(first, last), decoded, strict=True))
        if first < self.first:
            self.first, self.begin = first, (int(columns[0][0]), int(columns[2][0]), int(columns[3][0]))
        else:
            self.last, self.end = last, end

    def operands(self, row: int) -> list[int]:
        """The rows that a row reads."""
        start, number, _, _ = self[row]
        return self.tape.operands[start : start + number].tolist()

    def integer(self, row: int, position: int) -> int:
        """An integer of a row's payload."""
        return int(self.tape.ints[self[row].ints + position])

    def floating(self, row: int, position: int) -> float:
        """A floating number of a row's payload."""
        return float(self.tape.floats[self[row].floats + position])


def _starts(counts: Any, end: int) -> Any:
    """Where stretches of these lengths begin, the last of which ends at ``end``."""
    return end - np.cumsum(counts[::-1])[::-1]

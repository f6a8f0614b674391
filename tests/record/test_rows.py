"""Rows of a tape, decoded from its end: where their operands and payload begin, in any order and while it grows."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.record.rows import DECODED_AT_ONCE, DecodedRows
from lazyflow.record.tape import RAGGED, signature_columns

ROWS = 2 * DECODED_AT_ONCE + 50


def recorded(rng, x, table, rows):
    """So many rows of operations of any number of operands, with integers and floating numbers as payload or none."""
    for _ in range(rows):
        operation = rng.choice(["tanh", "factor", "lookup", "sum", "product"])
        if operation == "lookup":
            x = x + lf.embedding(table, int(rng.integers(4)))
        elif operation == "sum":
            x = lf.sum([x] * int(rng.integers(2, 5)))
        else:
            x = {"tanh": lf.tanh, "factor": lambda x: x * rng.normal(), "product": lambda x: x * x}[operation](x)
    return x


def by_walking(tape):
    """The same from the first row on."""
    found, start, ints, floats = [], 0, 0, 0
    for number in tape.signatures:
        operands, some_ints, some_floats, _ = (int(column[number]) for column in signature_columns())
        if operands == RAGGED:
            operands = tape.ints[ints]
        found.append((start, operands, ints, floats))
        start, ints, floats = start + operands, ints + some_ints, floats + some_floats
    return found


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_those_of_a_walk_from_the_beginning(seed):
    rng, table = np.random.default_rng(seed), lf.Parameter(np.ones((4, 3)))
    x = recorded(rng, lf.constant(np.ones(3)) * 1.0, table, ROWS)
    rows = DecodedRows(x.tape)
    for more in (0, 40, ROWS):
        x = recorded(rng, x, table, more)
        expected = by_walking(x.tape)
        for row in rng.permutation(len(x.tape))[:60]:
            assert rows[row] == expected[row]
            assert rows.operands(row) == x.tape.operands[expected[row][0] :][: expected[row][1]].tolist()


def test_payload_is_by_position():
    table = lf.Parameter(np.ones((4, 3)))
    x = lf.embedding(table, 3)
    y = x * 0.25
    rows = DecodedRows(y.tape)
    assert rows.integer(x.row, 0) == 3
    assert rows.floating(y.row, 0) == 0.25

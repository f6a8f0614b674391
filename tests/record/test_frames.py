"""What is recorded in one frame is what the general way records, which a tape of lines takes for every node."""

import numpy as np
import pytest

import lazyflow as lf

TABLE = lf.Parameter(np.ones((7, 4), np.float32))
WEIGHT = lf.Parameter(np.ones((6, 4), np.float32))
BIAS = lf.Parameter(np.ones(6, np.float32))

CASES = {
    "one operand": lambda x, y: lf.tanh(x),
    "one parameter": lambda x, y: lf.tanh(BIAS),
    "two operands": lambda x, y: lf.maximum(x, y),
    "operators": lambda x, y: (x + y) * (x - y) / y,
    "numbers": lambda x, y: (x * 2.5, 3 - x, x / 2),
    "a parameter and an operand": lambda x, y: (TABLE[0] * x, x * TABLE[0]),
    "layer": lambda x, y: lf.affine(WEIGHT, BIAS, x),
    "layer of no parameters": lambda x, y: lf.affine(WEIGHT, lf.affine(WEIGHT, BIAS, x), y),
    "row of a table": lambda x, y: (lf.embedding(TABLE, 2), lf.embedding(TABLE, 6), lf.embedding(TABLE, np.int64(3))),
    "class": lambda x, y: (lf.cross_entropy(x, 3), lf.nll(y, 0)),
    "list": lambda x, y: (lf.concatenate([x, y]), lf.stack([y, x, y]), lf.concatenate((x, y))),
    "sum of a list": lambda x, y: (lf.sum([x, y]), lf.sum([x, y, x]), lf.mean([y])),
    "parts": lambda x, y: lf.split(x, 2) + lf.split(lf.affine(WEIGHT, BIAS, y), 3),
}


def recorded(function, **options):
    with lf.using(**options):
        x, y = (lf.embedding(TABLE, k) * 1.5 for k in (0, 1))
        for _ in range(3):
            function(x, y)
        tape = x.tape
        return [column.tolist() for column in (tape.signatures, tape.operands, tape.ints, tape.floats)]


@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_the_general_way(name):
    assert recorded(CASES[name]) == recorded(CASES[name], check_finite=True)


@pytest.mark.parametrize("name", CASES)
def test_operands_of_a_tape_that_was_computed_are_imported(name):
    x, y = (lf.embedding(TABLE, k) * 1.5 for k in (0, 1))
    lf.forward([x, y])
    CASES[name](x, y)
    assert len(x.tape) == 4


def test_an_index_out_of_range_is_an_error_and_records_nothing():
    x = lf.constant(np.ones(4, np.float32))
    lf.cross_entropy(x, 3)
    before = len(x.tape)
    for index in (4, -5):
        with pytest.raises(IndexError):
            lf.cross_entropy(x, index)
    assert len(x.tape) == before

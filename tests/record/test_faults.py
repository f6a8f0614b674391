"""Faults in the middle of recording leave a tape whole or refused: no memory, too many rows, shape rules that raise."""

import collections
import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.core import columns
from lazyflow.core.columns import IntColumn
from lazyflow.graph.graph import collect
from lazyflow.graph.reading import whole_columns
from lazyflow.ops import OPS
from lazyflow.plan.plan import dag_of, make
from lazyflow.plan.schedule import schedule
from lazyflow.record import expr, tape
from lazyflow.record.expr import Memo, apply, record
from lazyflow.record.tape import current_tape
from tests.ops.test_ops import CASES, ERRORS

# Memory that runs out in a generator that is closed at that moment cannot be caught by anybody; Python prints it.
pytestmark = [
    pytest.mark.host,  # columns of tapes are there, wherever values are
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
X = np.linspace(-1.0, 1.0, 3)
compiled = pytest.mark.skipif(isinstance(IntColumn(), columns.array), reason="columns are of Python's own arrays")


@pytest.fixture(autouse=True)
def fresh_tape():
    """Whatever other files have recorded when they were imported stands on another one."""
    with lf.using():
        yield


def columns_of(tape):
    return [column.tolist() for column in (tape.signatures, tape.operands, tape.ints, tape.floats)]


def right_or_refused(value, expected):
    """Whether a value is refused; it is right otherwise."""
    try:
        found = value.numpy()
    except lf.TornError:
        return "refused"
    np.testing.assert_allclose(found, expected)
    return "right"


class Spellings:
    """What there is to record: a name, and a function of a vector of three elements."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.w, self.b, self.table = (lf.Parameter(rng.normal(size=shape)) for shape in ((3, 3), 3, (5, 3)))
        self.cell = lf.cell(lambda x, h, by: lf.tanh(lf.affine(self.w, self.b, x) + h) * by)
        with lf.using():
            self.elsewhere = lf.tanh(self.b * 2.0)
        self.table_of = {
            "an operand": lf.tanh,
            "two operands": lambda x: x + x,
            "a number": lambda x: 2.5 * x - 1,
            "a parameter": lambda x: self.w @ x + self.b,
            "an array": lambda x: x + X,
            "a constant": lambda x: lf.constant(X),
            "an index": lambda x: x[1],
            "a view": lambda x: x[1:],
            "a reshape": lambda x: x.reshape(3, 1),
            "parts": lambda x: lf.split(x, 3)[2],
            "a row of a table": lambda x: lf.embedding(self.table, 3),
            "a list": lambda x: lf.concatenate([x, x, lf.tanh(x)]),
            "a sum of a list": lambda x: lf.sum([x, x, x]),
            "a function of several nodes": lambda x: lf.softmax(x) * lf.std(x),
            "a choice": lambda x: lf.where(x > 0, x, 0.5),
            "a call of a cell": lambda x: self.cell(x, x, 0.5),
            "a value of another tape": lambda x: self.elsewhere + x,
            "a loss": lambda x: lf.cross_entropy(x, 2),
        }


@pytest.fixture(scope="module")
def spellings():
    return Spellings()


NAMES = tuple(Spellings().table_of)


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_a_column_that_cannot_grow(spellings, name):
    """More than 2**31 rows, operands or numbers are refused at the line, which may leave a tape that is refused; one
    of fewer numbers stands for that many. Whatever the column is that is full first, at some limit it is in the middle
    of a node."""
    do, outcomes, x = spellings.table_of[name], set(), lf.constant(X)
    expected = do(x).numpy()
    for most in range(40, 52):
        with lf.using():
            x = lf.constant(X)
            y = lf.tanh(x)
            before = columns.hold_at_most(most)
            try:
                with pytest.raises(OverflowError, match=r"a tape holds up to 2\*\*31 - 1 nodes"):
                    collections.deque((do(x) for _ in range(60)), maxlen=0)
            finally:
                columns.hold_at_most(before)
            outcomes.add(right_or_refused(y, np.tanh(X)))
            outcomes.add(right_or_refused(lf.tanh(x) * 3.0, 3 * np.tanh(X)))
        with lf.using():
            np.testing.assert_array_equal(do(lf.constant(X)).numpy(), expected)
    assert outcomes <= {"right", "refused"} and outcomes


def fail_each_allocation(do):
    """An allocation of what records a node fails, from the first on until none is left to fail; how many did."""
    import _testcapi as testing

    x = lf.constant(X)
    expected = do(x).numpy()
    failures = 0
    # Rows that are there: the column of signatures is full behind 16, then that of operands.
    for count, swept in ((0, False), (14, False), (15, False), (0, True)):
        k = spared = 0
        while spared < 4:
            with lf.using():
                x = lf.constant(X)
                y, found = lf.tanh(x), None
                held = [lf.tanh(x) for _ in range(count)]
                if swept:  # all that is known has to be learnt again
                    tape._sweep()
                testing.set_nomemory(k, k + 1)
                try:
                    found = do(x)
                    spared += 1
                except MemoryError:
                    failures, spared = failures + 1, 0
                finally:
                    testing.remove_mem_hooks()
                k += 1 + k // 50  # of thousands, where the body of a cell is recorded again, some
                right_or_refused(y, np.tanh(X))
                right_or_refused(lf.tanh(x) * 3.0, 3 * np.tanh(X))
                if found is not None:
                    np.testing.assert_array_equal(found.numpy(), expected)
                del held
            with lf.using():
                np.testing.assert_array_equal(do(lf.constant(X)).numpy(), expected)
    return failures


def memory_runs_out():
    """What is let go of once too often ends a process later, when its memory is used again: two rounds."""
    sys.unraisablehook = lambda _: None  # nobody can catch it in a generator that is closed at that moment
    for name, do in (*Spellings().table_of.items(), *Spellings().table_of.items()):
        assert fail_each_allocation(do), name


@compiled  # CPython itself may let go twice of what a list that cannot grow was given (its issue 151818)
def test_memory_that_runs_out_at_any_allocation():
    pytest.importorskip("_testcapi")
    code = "from tests.record import test_faults; test_faults.memory_runs_out()"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_elements_beyond_31_bits_are_counted_in_64():
    """Nothing of it is ever computed: where values lie is a plan."""
    x = lf.broadcast_to(lf.constant(np.zeros(1, np.float32)), (2**31,))
    graph = collect([lf.exp(lf.tanh(x)) + x])
    plan = make(graph, schedule(dag_of(graph)))
    plan.check()
    assert max(launch.writes.offset for launch in plan.launches) > 2**32


# Of a list, the function compares the operands with each other before it records.
OF_NUMBERS = [
    case for case in ERRORS if not OPS[case.op].ragged and all(np.dtype(s.dtype).kind in "biuf" for s in case.operands)
]


@pytest.mark.parametrize("case", OF_NUMBERS, ids=lambda case: case.id)
def test_operands_that_are_refused_leave_the_tape_as_it_was(case):
    tape = current_tape()
    operands = [lf.constant(np.ones(s.shape, s.dtype)) for s in case.operands]
    before = columns_of(tape)
    for _ in range(2):
        with pytest.raises((case.error, lf.LazyflowError)):
            record(OPS[case.op], operands, **case.attrs)
        assert columns_of(tape) == before and not tape.sealed
    np.testing.assert_array_equal((lf.constant(X) * 2.0).numpy(), X * 2)


ONE_OF_EACH = list({case.op: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.op)
def test_a_shape_rule_that_raises_leaves_the_tape_as_it_was(case, monkeypatch):
    """Whatever it raises, an interrupt among it."""
    tape = current_tape()
    operands = tuple(lf.constant(np.ones(s.shape, s.dtype)) for s in case.operands)
    before = columns_of(tape)

    def raising(*_, error):
        raise error("in a shape rule")

    for error in (RuntimeError, MemoryError, KeyboardInterrupt):
        monkeypatch.setattr(expr, "signature_of", functools.partial(raising, error=error))
        with pytest.raises(error, match="in a shape rule"):
            apply(Memo(OPS[case.op], dict(case.attrs)), operands)
        assert columns_of(tape) == before and not tape.sealed
    monkeypatch.undo()
    assert [len(column) for column in whole_columns(tape)] == [len(column) for column in before]
    np.testing.assert_array_equal((lf.constant(X) * 2.0).numpy(), X * 2)

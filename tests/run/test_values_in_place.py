"""Parts of values that were computed already, and of constants, are read where they lie: nothing runs for them."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow.record.expr import first_value
from lazyflow.run.roots import SHORT, shown

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)

PARTS = {
    "an element": (lambda x: x[1][2], 6.0),
    "the last row": (lambda x: x[-1], VALUES[-1]),
    "rows": (lambda x: x[1:], VALUES[1:]),
    "another shape": (lambda x: x.reshape(2, 6)[1], VALUES.reshape(2, 6)[1]),
    "new axes": (lambda x: x[:, None], VALUES[:, None]),
    "a part of a split": (lambda x: lf.split(x, 3)[2], VALUES[2:]),
    "detached": (lambda x: x.detach()[0], VALUES[0]),
    "of a list's sum": (lambda x: (lf.sum([x, x, x]), x[2])[1], VALUES[2]),  # as many operands as its payload says
    "behind others": (lambda x: (x * 2.0, x + x, x[1])[2], VALUES[1]),
}

SOURCES = {
    "computed": lambda w: w * 1.0,
    "without gradient": lambda w: (w * 1.0).detach(),
    "constant": lambda w: lf.constant(VALUES),
}


@pytest.mark.host
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_what_is_there_runs_nothing(part, source):
    x = SOURCES[source](lf.Parameter(VALUES))
    x.numpy()
    read, expected = PARTS[part]
    found = read(x)
    value = found.numpy()
    np.testing.assert_array_equal(value, expected)
    assert value.dtype == np.float32 and value.flags.owndata
    assert not found.tape.runs or found.tape is x.tape
    value += 1  # nobody else's memory
    np.testing.assert_array_equal(x.numpy(), VALUES)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.fixture
def doubled():
    """A parameter, and twice of it, which is computed."""
    w = lf.Parameter(VALUES)
    x = w * 2.0
    x.numpy()
    return w, x


def test_its_gradient_is_that_of_any_other(doubled):
    w, x = doubled
    part = x[1][2]
    assert part.item() == 12.0
    (part * part).backward()
    gradient = np.zeros_like(VALUES)
    gradient[1, 2] = 2 * 12.0 * 2.0
    np.testing.assert_array_equal(devices.to_host(w.grad), gradient)


def test_a_part_of_what_is_stale_is_that_of_now(doubled):
    w, x = doubled
    before = x[0][1]
    assert before.item() == 2.0
    w.assign(VALUES + 1)
    assert x[0][1].item() == 4.0


def test_many_parts_are_read_where_they_lie():
    """On a device, by one run."""
    w = lf.Parameter(np.arange(100, dtype=np.float32))
    x = w * 1.0
    x.numpy()
    parts = list(x)
    assert len(parts[0].tape) > SHORT
    assert [part.item() for part in parts] == list(range(100))
    assert len(parts[0].tape.runs) == (0 if w.device == "cpu" else 1)


def test_what_is_not_whole_is_refused_as_ever():
    w = lf.Parameter(VALUES)
    x = w * 1.0
    x.numpy()
    part = x[1]
    part.tape.ints.append(0)
    assert shown(part) is None
    with pytest.raises(lf.TornError):
        part.numpy()


def test_values_that_are_looked_for_go_the_long_way():
    """A NaN is named where it is looked for, and so it is in a part of a value."""
    w = lf.Parameter(VALUES * np.nan)
    x = w * 1.0
    x.numpy()
    with lf.using(check_finite=True):
        part = x[1]
        assert shown(part) is None


def test_the_tape_of_a_part_ends_as_if_it_had_run(doubled):
    _, x = doubled
    part = x[1]
    part.numpy()
    assert part.tape.sealed
    assert lf.tanh(lf.constant([1.0])).tape is not part.tape


def test_the_first_value_of_a_part_is_remembered_where_somebody_waits_for_it(doubled):
    _, x = doubled
    part = x[1]
    waiting = first_value(part)
    np.testing.assert_array_equal(part.numpy(), 2 * VALUES[1])
    assert [value.tolist() for value in waiting] == [(2 * VALUES[1]).tolist()]


def test_a_part_of_what_was_never_computed_is_computed():
    read = lf.Parameter(VALUES) * 1.0
    unread = read * 3.0  # on a tape that has run, but not this row
    read.numpy()
    np.testing.assert_array_equal(unread[1].numpy(), 3 * VALUES[1])

"""The columns of a tape, compiled or not, beside ``array.array``."""

import gc
import threading
import weakref
from array import array

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.core.columns import (
    ELEMENTS,
    Counts,
    FloatColumn,
    IntColumn,
    Recall,
    ThisThread,
    are_within,
    array_of_numbers,
)
from lazyflow.record import expr

counted = pytest.mark.skipif(
    Counts() is None or expr.__file__.endswith(".py"), reason="in Python nobody counts expressions off again"
)
KINDS = [pytest.param(IntColumn, "i", id="int"), pytest.param(FloatColumn, "d", id="float")]


@pytest.mark.parametrize(("column", "code"), KINDS)
def test_it_is_an_array(column, code):
    random = np.random.default_rng(5)
    ours, theirs = column(), array(code)
    for count in (1, 0, 3, 70, 500):
        some = random.integers(-100, 100, count).tolist()
        for value in some[:2]:
            ours.append(value)
            theirs.append(value)
        for given in (some, tuple(some), array(code, some), iter(some)):
            ours.extend(given)
            theirs.extend(some)
        ours.frombytes(array(code, some).tobytes())
        theirs.extend(some)
        assert len(ours) == len(theirs)
        assert ours.tolist() == theirs.tolist() == list(ours)
        assert ours.tobytes() == theirs.tobytes()
        assert ours.itemsize == theirs.itemsize
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))
        assert np.frombuffer(ours, code).tolist() == theirs.tolist()
        for key in (slice(None), slice(1, -1), slice(5, 2), slice(None, None, -1), slice(2, None, 3)):
            assert ours[key] == theirs[key]
        assert ours.count(some[0] if some else 0) == theirs.count(some[0] if some else 0)
    ours[3] = theirs[3] = 7
    assert ours[3] == ours[3 - len(ours)] == 7
    assert column([1, 2]).tolist() == [1, 2]


@pytest.mark.parametrize(("column", "code"), KINDS)
def test_what_does_not_fit_is_refused_and_nothing_is_added(column, code):
    ours = column([1, 2])
    with pytest.raises(OverflowError):
        ours.append(10**400)
    with pytest.raises(OverflowError):
        ours.extend([3, 10**400])
    with pytest.raises(TypeError):
        ours.append("x")
    with pytest.raises(TypeError):
        ours.extend([3, None])
    with pytest.raises(ValueError, match="multiple of"):
        ours.frombytes(b"123")
    for wrong in (2, -3):
        with pytest.raises(IndexError):
            ours[wrong]
    assert ours.tolist() == [1, 2]


@pytest.mark.parametrize(("column", "code"), KINDS)
def test_memory_that_is_looked_at_stays(column, code):
    ours = column([1, 2])
    seen = memoryview(ours)
    with pytest.raises(BufferError):
        ours.extend(range(100_000))
    assert seen.tolist() == [1, 2]
    seen.release()
    ours.extend(range(100_000))
    assert len(ours) == 100_002


def test_integers_of_32_bits():
    ours = IntColumn([2**31 - 1, -(2**31)])
    for wrong in (2**31, -(2**31) - 1):
        with pytest.raises(OverflowError):
            ours.append(wrong)
    assert ours.tolist() == [2**31 - 1, -(2**31)]


@pytest.fixture
def fresh_tape():
    """Whatever other files have recorded when they were imported stands on another one."""
    with lf.using():
        yield


@counted
def test_expressions_are_counted_by_row(fresh_tape):
    x = lf.constant([1.0, 2.0])
    h = lf.tanh(x)
    for _ in range(300):
        lf.exp(h)
    several = [h[:1] for _ in range(3)]
    again = several[0].tape.handles
    held = {x.row, h.row, *(e.row for e in several)}
    assert set(again.rows()) == held
    views = [lf.reshape(h, (2, 1)) for _ in range(2)]
    assert set(again.rows()) == held | {e.row for e in views}
    del views, several
    assert set(again.rows()) == {x.row, h.row}


@counted
def test_a_row_that_hundreds_hold_stays_held(fresh_tape):
    x = lf.constant([1.0, 2.0])
    copies = [lf.record.expr.handle(x.tape, x.row, x.type) for _ in range(300)]
    del copies
    assert x.tape.handles.rows() == [x.row]


compiled = pytest.mark.skipif(Recall() is None, reason="the package was not compiled")


@compiled
def test_what_was_recorded_is_found_by_the_very_same_objects():
    recall, keys = Recall(), [object() for _ in range(5)]
    a, b, c, d, e = keys
    assert recall.get(a, b, c, d) is None
    recall.put(a, b, c, d, "first")
    recall.put(a, b, d, c, "second")
    assert recall.get(a, b, c, d) == "first" and recall.get(a, b, d, c) == "second" and recall.get(b, a, c, d) is None
    assert recall.get(a, b, c, e) is None
    recall.put(1, True, None, 0.5, "third")
    assert recall.get(1, 1, None, 0.5) is None and recall.get(1, True, None, 0.5) == "third"
    recall.forget(True)
    assert recall.get(1, True, None, 0.5) is None and recall.get(a, b, c, d) == "first"
    assert sorted([recall.popitem(), recall.popitem()]) == ["first", "second"]
    with pytest.raises(KeyError):
        recall.popitem()
    assert recall.get(a, b, c, d) is None


class Key:
    pass


@compiled
def test_what_was_recorded_is_held_and_let_go():
    recall, key, found = Recall(), Key(), Key()
    references = [weakref.ref(key), weakref.ref(found)]
    recall.put(key, None, None, None, found)
    del key, found
    assert all(r() is not None for r in references)
    many = [Key() for _ in range(20_000)]  # many more than there are places for
    for one in many:
        recall.put(one, None, None, None, one)
    assert all(r() is None for r in references)
    held = [weakref.ref(one) for one in many]
    del many, one
    assert 0 < sum(r() is not None for r in held) <= 8192
    del recall
    assert all(r() is None for r in held)


def test_the_thread_that_asks():
    local = threading.local()
    this = ThisThread(local)
    found = {}

    def ask(name):
        local.owner = name
        for _ in range(1000):
            found.setdefault(name, set()).add(this.get())

    for names in ("ab", "cd"):
        threads = [threading.Thread(target=ask, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    ask("main")
    assert found == {name: {name} for name in ("a", "b", "c", "d", "main")}


@counted
def test_the_memory_of_handles_is_used_again():
    x = lf.constant([1.0, 2.0])
    held = [lf.tanh(x) for _ in range(600)]  # more than are kept
    assert len({id(e) for e in held}) == 600
    note = lf.max(x, axis=0)
    assert note.note is not None
    del held, note
    again = [lf.exp(x) for _ in range(600)]
    assert all(getattr(e, "note", None) is None and gc.is_tracked(e) for e in again)
    assert [e.row for e in again] == list(range(again[0].row, again[0].row + 600))


@counted
def test_a_cycle_through_a_hook_is_collected(fresh_tape):
    def made():
        y = lf.Parameter([1.0, 2.0]) * 2
        y.register_hook(lambda gradient: y.shape and None)
        return weakref.ref(y.tape)

    tape = made()
    lf.constant(0.0)
    gc.collect()
    assert tape() is None


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, ">i8"])
def test_an_element_is_read_as_numpy_reads_it(dtype):
    array = np.array([3, 0, 250, 7], dtype)
    for given in (array, array[::2], array[::-1]):
        assert [ELEMENTS.number(given, i) for i in range(len(given))] == given.tolist()
        assert ELEMENTS.number(given, -1) == int(given[-1])
        with pytest.raises(IndexError):
            ELEMENTS.number(given, len(given))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (2, 3)])
def test_a_stretch_is_copied(dtype, shape):
    buffer = np.arange(12).astype(dtype)
    found = ELEMENTS.copy(buffer, 5, shape)
    np.testing.assert_array_equal(found, buffer[5 : 5 + int(np.prod(shape))].reshape(shape))
    assert found.dtype == buffer.dtype and found.flags.owndata and found.flags.writeable
    with pytest.raises(ValueError, match=r"within 12|cannot reshape"):
        ELEMENTS.copy(buffer, 9, (2, 2))


ARRAYS = [
    np.float32(3), np.zeros((0, 4), np.float32), np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32).T[:2],
    np.ones((2, 2)), np.array([True, False]),
]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS)
def test_an_array_is_put_into_a_buffer(array):
    buffer, array = np.full(20, np.nan, np.float32), np.asarray(array)
    assert ELEMENTS.put(buffer, 3, array) == 3 + array.size
    np.testing.assert_array_equal(buffer[3 : 3 + array.size], array.ravel())
    assert np.isnan(buffer[:3]).all() and np.isnan(buffer[3 + array.size :]).all()
    with pytest.raises(ValueError, match=r"within 20|broadcast"):
        ELEMENTS.put(buffer, 19, np.ones(2, np.float32))


@counted
def test_rows_that_are_held_are_counted():
    counts = Counts()
    for row in (2, 2, 5, 700):
        counts.up(row)
    assert counts.count() == len(counts.rows()) == 3
    counts.down(2)
    assert counts.count() == 3
    counts.down(2)
    assert counts.count() == len(counts.rows()) == 2


@counted
def test_rows_that_are_held_among_others():
    counts = Counts()
    for row in (2, 5, 700):
        counts.up(row)
    assert counts.held_among(None) == [2, 5, 700]
    assert counts.held_among(np.array([-1, 0, 5, 6, 700, 10**9])) == [5, 700]
    assert counts.held_among(np.array([], np.int64)) == []
    for wrong in (np.array([1.0]), np.array([1], np.int32), np.arange(6)[::2]):
        with pytest.raises(ValueError, match=r"dtype|contiguous"):
            counts.held_among(wrong)


NUMBERS = [
    3, -0.0, 2.5, 2**62, -(2**63), float("inf"), [1, -3], (0,), [1, 2.5, 2**53 + 1], [0.1] * 70, [float("nan"), -0.0],
]  # fmt: skip


@pytest.mark.skipif(Recall() is None, reason="in Python NumPy makes them")
@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_numbers_become_the_array_that_numpy_makes_of_them(value):
    found, expected = array_of_numbers(value), np.asarray(value)
    assert found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()
    assert found.flags.owndata and found.flags.writeable


OTHERS = [
    True, None, "1", 2**63, 1j, np.float32(1), np.ones(2), [], (), [True, 1], [[1]], [1, None], ["1"], [2**63],
    [1.0, 2**64], [np.int64(1)], range(3), {1: 2}, type("Numbers", (list,), {})([1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("value", OTHERS, ids=str)
def test_anything_else_is_left_to_numpy(value):
    assert array_of_numbers(value) is None


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", ">i4", ">i8", "u8"])
def test_indices_within_an_axis(dtype):
    for given in (np.array([0, 3, 2]), np.array([[5, 1], [0, 4]]).T, np.array([], int), np.array(4), np.arange(9)[::2]):
        array = given.astype(dtype)
        for low, high in ((0, 6), (1, 9), (0, 4), (-2, 9)):
            assert are_within(array, low, high) == all(low <= i < high for i in given.ravel().tolist())

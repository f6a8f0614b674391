"""Recording once more what was recorded before gives the same node, however it is spelled, and nothing else does."""

import itertools

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.ops import OPS
from lazyflow.record.expr import memo_of, record
from lazyflow.record.tape import current_tape, signature_by_id

SEED = 11


def given(seed=SEED):
    """Values of many kinds, on the tape of now."""
    random = np.random.default_rng(seed)
    return {
        "expression": lf.constant(random.uniform(0.5, 2, 3).astype("f4")),
        "double": lf.constant(random.uniform(0.5, 2, 3)),
        "integers": lf.constant(np.array([1, 2, 3])),
        "truths": lf.constant(np.array([True, False, True])),
        "parameter": lf.Parameter(random.uniform(0.5, 2, 3).astype("f4")),
        "array": random.uniform(0.5, 2, 3).astype("f4"),
        "array of integers": np.array([3, 1, 2]),
        "int": 2,
        "float": 1.5,
        "bool": True,
        "float32": np.float32(1.5),
        "float64": np.float64(1.5),
        "int64": np.int64(2),
        "list": [1.0, 2.0, 3.0],
    }


def node(e):
    """What was recorded: the signature, and the node's share of each column."""
    signature = signature_by_id(e.tape.signatures[e.row])
    return (
        signature,
        e.tape.ints[len(e.tape.ints) - signature.ints :],
        e.tape.floats[len(e.tape.floats) - signature.floats :],
    )


PAIRS = [
    pair
    for pair in itertools.product(given(), repeat=2)
    if {"expression", "double", "integers", "truths", "parameter"} & set(pair)
]


@pytest.mark.parametrize("name", ["add", "subtract", "divide", "maximum", "less", "power", "matmul"])
def test_two_operands_of_any_kind(name):
    """The second of two nodes, and one on a fresh tape, are the first's; operands are told apart in any order."""
    op = OPS[name]
    for seed in (1, 2):
        for a, b in PAIRS:
            values = given(seed)
            x, y = values[a], values[b]
            memo_of(op).table.clear()
            try:
                first = record(op, (x, y))
            except (TypeError, ValueError, IndexError) as error:
                with pytest.raises(type(error)):
                    record(op, (x, y))
                continue
            before = node(first)
            second = record(op, (x, y))
            assert node(second) == before, (a, b)
            assert second.row > first.row
            np.testing.assert_array_equal(first.numpy(), second.numpy(), str((a, b)))
            third = record(op, (x, y))  # on a tape of its own, for the first was run: operands are imported
            assert third.tape is not first.tape or {a, b} <= {"parameter"} | {"array", "int", "float", "list"}
            assert third.type is first.type
            np.testing.assert_array_equal(first.numpy(), third.numpy(), str((a, b)))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (1.0, np.float64(1)), (1, np.int64(1)), (np.float32(1), 1.0), (True, np.bool_(True))],
)
def test_equal_numbers_of_other_classes_are_other_kinds(one, other):
    """What was remembered of one says nothing of the other: each is recorded as it would be alone."""
    for kind in ("integers", "truths", "expression", "double"):
        alone = []
        for number in (one, other):
            memo_of(OPS["add"]).table.clear()
            alone.append((given()[kind] + number).dtype)
        memo_of(OPS["add"]).table.clear()
        x = given()[kind]
        assert [(x + number).dtype for number in (one, other, one, other)] == alone * 2


def test_truth_values_beside_numbers_take_the_default_dtype_of_the_moment():
    x = lf.constant([True, False])
    for dtype in ("float32", "float64", "float32"):
        with lf.using(dtype=dtype):
            y = lf.constant([True, False])
            assert (y + 1.5).dtype == (y * 2.5).dtype == dtype
    assert (x + 1.5).dtype == np.float32


def test_arguments_that_are_equal_and_of_another_class_are_refused_still():
    x = lf.constant(np.arange(6.0))
    assert x.reshape(2, 3).shape == x.reshape(2, 3).shape == (2, 3)
    with pytest.raises(TypeError):
        x.reshape(2.0, 3.0)
    with pytest.raises(TypeError):
        x.reshape((True, 6))
    assert x[1].shape == x[1].shape == ()
    with pytest.raises(TypeError):
        x[True]


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_number_that_no_tape_holds_leaves_the_tape_whole(number):
    x = lf.constant([1.0, 2.0])
    before = (x * 2).numpy()
    for _ in range(2):
        with pytest.raises((OverflowError, lf.ShapeError)):
            x * number
        with pytest.raises((OverflowError, lf.ShapeError)):
            lf.clip(x, 0.0, number)
        y = x * 2
        np.testing.assert_array_equal(y.numpy(), before)


def test_an_index_that_no_tape_holds_leaves_the_tape_whole():
    x = lf.constant(np.arange(3.0))
    kept = record(OPS["pick"], (x, 1), axis=-1)
    with pytest.raises(lf.ShapeError, match=r"2\*\*31"):
        record(OPS["pick"], (x, 2**31), axis=-1)
    assert kept.item() == 1


def test_a_parameter_takes_what_was_remembered_of_it_along():
    x = lf.constant([1.0, 2.0])
    b = lf.Parameter([1.0, 2.0])
    kept = [x + b, x + b]
    assert memo_of(OPS["add"]) in b.type.signatures
    b.requires_grad = False
    assert memo_of(OPS["add"]) not in b.type.signatures
    y = x + b
    assert not y.requires_grad
    assert kept[1].requires_grad


@pytest.mark.host  # the device that nobody asked for
def test_draws_of_numbers_alone_follow_the_device():
    """Nothing but the setting says where such a node belongs; what is remembered is of one device."""
    for _ in range(2):
        assert lf.uniform((2,)).device == "cpu"
    tape = current_tape()
    before = len(tape)
    lf.uniform((2,))
    assert len(current_tape()) == before + 1


def test_lists_of_many_kinds():
    x, b = lf.constant([1.0, 2.0]), lf.Parameter([3.0, 4.0])
    for _ in range(3):
        a = x * 2
        for operands in ([a, a], [a, b], [b, a], [a, [1.0, 2.0]], [a, np.ones(2, "f4")], (a, a, a)):
            want = np.stack([o.numpy() if isinstance(o, lf.Expr) else np.asarray(o) for o in operands])
            np.testing.assert_array_equal(lf.stack(operands).numpy(), want)
            np.testing.assert_array_equal(lf.concatenate(operands).numpy(), want.ravel())
            np.testing.assert_array_equal(lf.sum(list(operands)).numpy(), want.sum(0))


ACROSS = {
    "concatenate": lambda a, b: lf.concatenate([a, b, a]),
    "stack": lambda a, b: lf.stack([a, b])[1],
    "sum of a list": lambda a, b: lf.sum([a, b, a]),
    "mixed with a constant": lambda a, b: lf.concatenate([a, lf.constant(np.ones(4)), b]),
    "mixed with a detached value": lambda a, b: lf.stack([a.detach(), b]),
    "mixed with what is here": lambda a, b: lf.stack([lf.tanh(a), b]),
    "an element": lambda a, b: a[1] + b[-1],
    "a block": lambda a, b: a[1:3] * b[:2],
    "a step": lambda a, b: a[::2] * b[1::2],
    "a new axis": lambda a, b: a[:, None] * b[None],
    "empty": lambda a, b: lf.concatenate([a[4:], b[2:2], a]),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("between", ["forward", "block", "detached"])
@pytest.mark.parametrize("record", ACROSS.values(), ids=ACROSS)
def test_what_is_on_other_tapes_is_recorded_as_what_is_here(record, between, grad):
    w = lf.Parameter(np.arange(4.0) + 1)

    def pair():
        return w * 2.0, lf.tanh(w)

    expected = lf.sum(record(*pair()))
    expected.backward()
    wanted, w.grad = w.grad, None
    for _ in range(3):  # the general way first, and then the fast one
        with lf.using(grad=grad):
            a, b = pair()
            if between == "forward":
                lf.forward([a, b])
        if between == "detached":
            a, b = a.detach(), b.detach()
        found = record(a, b)
        np.testing.assert_allclose(lf.sum(found).numpy(), expected.numpy())
        assert found.requires_grad == (grad and between != "detached")
        if found.requires_grad:
            lf.sum(found).backward()
            np.testing.assert_allclose(w.grad, wanted)
            w.grad = None


def test_what_was_refused_for_a_number_is_not_for_one_that_is_equal():
    x, w = lf.constant(np.zeros((1, 6, 6))), lf.constant(np.zeros((1, 1, 3, 3)))
    with pytest.raises(TypeError, match="must be an integer"):
        lf.max_pool(x, (2.0, 2.0))
    assert lf.max_pool(x, (2, 2)).shape == (1, 3, 3)
    with pytest.raises(TypeError, match="must be an integer"):
        lf.max_pool(x, (2.0, 2.0))
    for wrong, right in (({"stride": True}, {"stride": 1}), ({"groups": True}, {"groups": 1})):
        with pytest.raises((TypeError, ValueError)):
            lf.conv(x, w, **wrong)
        assert lf.conv(x, w, **right).shape == (1, 4, 4)


def test_zeros_of_either_sign_are_apart():
    for fill in (-0.0, 0.0, -0.0):
        found = lf.windows(lf.constant([[1.0]]), (2,), padding=1, fill=fill).numpy()
        assert np.signbit(found[0, 0, 0]) == np.signbit(fill)


WHOLE, INDEX = slice(None), np.int64(2)
KEYS = (
    *((1, 2), (-1, 0), (INDEX, 1), (1, 2, 3), (1, 2, -1, None), (1, INDEX, slice(1, 3)), (0,), (1, ...)),
    *((1, WHOLE, 2), (1, slice(0, 2)), (1, slice(None, None, 2)), (1, slice(3, None, -1), 1), (1, slice(2, 2))),
    *((1, None), (1, None, 2), (1, ..., 2), (WHOLE, 1), (WHOLE, -1), (WHOLE, WHOLE, 2), (WHOLE, 1, 2)),
    *((WHOLE, 1, None), (WHOLE, 2, slice(1, 3)), (WHOLE, 2, ..., 1), (..., 2), (None, 1), (slice(1, 2), 1)),
)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_parts_of_a_parameter(key):
    """Values, and gradients of arrays and as expressions, are those of NumPy; the gradient is an array."""
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    A, right = lf.Parameter(values), np.zeros_like(values)
    right[key] += 1 - np.tanh(values[key]) ** 2
    y = lf.tanh(A[key])
    np.testing.assert_allclose(y.numpy(), np.tanh(values[key]))
    lf.sum(y).backward()
    np.testing.assert_allclose(A.grad, right)
    np.testing.assert_allclose(lf.gradients(lf.sum(lf.tanh(A[key])), [A])[0].numpy(), right)


@pytest.mark.parametrize("key", [(5, 1), (1, 9), (WHOLE, 7), (WHOLE, 1, -6), (1, 2, 3, 4), (0, 1, WHOLE, WHOLE)])
def test_no_part_of_a_parameter(key):
    with pytest.raises(IndexError, match=r"out of range|4 indices"):
        lf.Parameter(np.zeros((3, 4, 5)))[key]


@pytest.mark.parametrize(
    "part",
    [lambda A, i, j: A[i, j], lambda A, i, j: A[-i, j, None], lambda A, i, j: A[:, j], lambda A, i, j: A[i, :, j]],
    ids=["element", "from the end", "column", "element of all rows"],
)
def test_parts_of_a_parameter_share_a_launch_whatever_the_integers(part):
    """A matrix of transitions is read at another place in every step, and by one launch."""
    A = lf.Parameter(np.ones((12, 12, 2)))
    found = lf.explain(lf.sum([lf.sum(part(A, 1 + k % 11, k % 2)) for k in range(60)]))
    alone = lf.explain(lf.sum([lf.sum(part(A, 1, 1))]))
    assert found.launches <= alone.launches + 2


def test_a_part_of_a_large_matrix_is_read_by_itself():
    """Where what stands at the first integer is a hundred times what is asked for, nobody reads all of it."""
    A = lf.Parameter(np.zeros((4, 128, 128), np.float32))
    assert "take" not in str(lf.explain(lf.sum(A[1, 2])))


USES = {
    "product": lambda x, y: x * y,
    "turned": lambda x, y: y * x,
    "comparison": lambda x, y: x > y,
    "function": lf.maximum,
    "choice": lambda x, y: lf.where(x > 0, y, x),
    "number": lambda x, y: lf.clip(x, y, 3),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
@pytest.mark.parametrize("values", [[1.0, -2.0, 0.5], [1, 2, 3], [1, 2.5, 3]], ids=str)
@pytest.mark.parametrize("under", ["float32", "float64"])
def test_a_list_of_numbers_is_as_weak_as_a_number(use, dtype, values, under):
    with lf.using(dtype=under):
        x = lf.constant(np.array([3, 0, 1]).astype(dtype))
        parts = [use(x[k], value) for k, value in enumerate(values)]
        expected = lf.stack(parts).numpy()
        for _ in range(3):
            changing = list(values)
            found = use(x, changing)
            changing[0] = 100
            assert len({type(v) for v in values}) > 1 or found.dtype == parts[0].dtype
            np.testing.assert_array_equal(found.numpy(), expected)


def test_a_list_that_holds_expressions_is_refused_at_its_line():
    x = lf.constant([1.0, 2.0])
    with pytest.raises(TypeError, match=r"lf\.stack or lf\.concatenate"):
        x * [lf.tanh(x[0]), 1.0]


@pytest.mark.parametrize(("dtype", "integer"), [("int32", 2**40), ("int8", -129), ("uint8", -1), ("uint8", 256)])
@pytest.mark.parametrize(
    "use", [lambda x, y: x + y, lf.maximum, lambda x, y: lf.stack([x, y])], ids=["+", "maximum", "stack"]
)
def test_a_list_that_a_dtype_does_not_hold_is_refused(dtype, integer, use):
    x = lf.constant(np.array([1, 2]).astype(dtype))
    with pytest.raises(OverflowError, match="out of"):
        use(x, [integer, 1])

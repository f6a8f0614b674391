"""What a run needs of memory is shown before it is taken, and said where it runs out."""

import sys
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.graph.graph import collect
from lazyflow.plan import arena
from lazyflow.plan.plan import dag_of, make
from lazyflow.plan.schedule import schedule
from lazyflow.run import needs
from lazyflow.run.way import way_of
from tests.losses import losses, vector


@pytest.fixture
def weight():
    return lf.Parameter(np.ones((2, 3), np.float32))


def test_memory_is_shown_before_it_is_taken(weight, monkeypatch):
    loss, taken = losses(weight), []
    take = arena.Pool.take
    monkeypatch.setattr(arena.Pool, "take", lambda *args: taken.append(args) or take(*args))
    explained = lf.explain(loss)
    assert not taken
    with lf.no_grad():
        assert lf.explain(losses(weight)).nbytes < explained.nbytes
    by_name = dict(explained.memory)
    assert (by_name["values of constant"], by_name["gradients of parameters"]) == (4 * 3 * 4, 2 * weight.array.nbytes)
    assert sum(by_name.values()) == explained.nbytes and f"{explained.nbytes} B of memory" in str(explained)
    assert dict(lf.explain(losses(weight, 8)).memory)["values of constant"] == 8 * 3 * 4


@pytest.mark.host
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_memory_that_runs_out_on_the_cpu(weight, monkeypatch, part):
    """The error says what was needed; a smaller minibatch runs where it is caught."""
    loss = losses(weight, 64)
    if part == "backward":
        loss.forward()
    take, most = arena.Pool.take, losses(weight, 16)

    def limited(pool, device, dtype, size):
        if size > 300:
            raise MemoryError(f"Unable to allocate {size * dtype.itemsize} bytes")
        return take(pool, device, dtype, size)

    monkeypatch.setattr(arena.Pool, "take", limited)
    with pytest.raises(
        lf.OutOfMemoryError, match=f"(?s)on cpu in a {part}: Unable.*minibatch of 32 of the 64"
    ) as caught:
        loss.backward()
    assert caught.value.fits == 32 and weight.grad is None
    most.backward()
    assert weight.grad is not None
    monkeypatch.undo()
    before = weight.grad
    weight.grad = None
    losses(weight, 16).backward()
    np.testing.assert_array_equal(before, weight.grad)
    assert loss.item() == pytest.approx(losses(weight, 64).item())


SOME = (needs.Share("values", 80), needs.Share(needs.GRADIENTS, 20))


@pytest.mark.parametrize(
    ("free", "part"),
    [
        (None, 0.5),  # nobody knows
        (200, 0.5),  # enough, which may lie in pieces
        (100, 0.5),
        (60, needs.SPARE * 40 / 80),  # gradients are as large for every minibatch
        (10, 0.0),
    ],
)
def test_the_part_of_a_minibatch_that_fits(free, part):
    assert needs._part_that_fits(SOME, free) == pytest.approx(part)


@pytest.mark.parametrize(
    ("record", "examples"),
    [
        (lambda some: some, 5),
        (lambda some: [lf.mean(some)], 5),
        (lambda some: [lf.sqrt(lf.sum(some) * 2.0)], 5),
        (lambda some: [some[0] + some[1]], 0),
        (lambda some: [some[0]], 0),
    ],
)
def test_what_an_example_is(record, examples):
    some = [lf.sum(lf.tanh(lf.Parameter(np.ones(2, np.float32)))) for _ in range(5)]
    assert needs.examples_of(collect(record(some))) == examples


def test_the_largest_shares_have_a_line_and_the_rest_have_one():
    some = [needs.Share(f"part {k}", 10) for k in range(needs.LINES + 2)]
    assert needs.lines_of(some)[needs.LINES - 1 :] == ["    10 B  part 7", "    20 B  else"]
    assert needs.lines_of(some[: needs.LINES])[-1] == "    10 B  part 7"


def memory(loss):
    return dict(lf.explain(loss).memory)


@pytest.mark.host  # a device has a copy of where rows lie
def test_a_launch_has_its_operands_and_results_and_backward_both_again(weight):
    launch = 4 * (3 + 2) * 4  # of the products: four vectors in, four out
    with lf.no_grad():
        found = memory(losses(weight))
        assert found["operands and results of one launch"] == launch
        assert not any(name in found for name in ("cotangents", needs.GRADIENTS, "where rows lie"))
        assert "values, in memory that is used again" in found
    found = memory(losses(weight))
    assert found["operands and results of one launch"] == 2 * launch and "where rows lie" not in found
    assert found["cotangents"] == sum(n for name, n in found.items() if name.startswith("values of "))


def test_values_of_joined_rows_are_as_many_as_rows(weight):
    lengths = (2, 3, 5)
    values = [lf.sum(lf.tanh(lf.constant(np.ones((n, 3), np.float32)) @ weight.T)) for n in lengths]
    assert memory(lf.mean(values))["values of tanh"] == sum(lengths) * 2 * 4


def test_what_calls_of_a_cell_keep_is_counted_with_its_cotangents(weight):
    @lf.cell
    def cell(x):
        return lf.sum(lf.tanh(lf.exp(weight @ x)) ** 2)

    few, many = (memory(lf.mean([cell(vector(3) * k) for k in range(n)])) for n in (4, 8))
    [kept] = [name for name in few if name.startswith("what the calls of") and name.endswith("cell keep")]
    assert few[kept] >= 4 * 2 * 4 and many[kept] == 2 * few[kept]
    values = sum(n for name, n in few.items() if name.startswith("values of "))
    assert few["cotangents"] > values, "those of what is inside of the calls, too"


def test_an_error_that_says_it_all_is_raised_as_it_is_and_another_lets_go_of_arrays(weight):
    plan = make(collect([losses(weight)]), schedule(dag_of(collect([losses(weight)]))))
    said = lf.OutOfMemoryError("all of it")
    assert needs.out_of_memory(said, plan, way_of([losses(weight)], [], lf.settings.current()), "a forward") is said

    class Large:
        pass

    seen = []

    def failing():
        large = Large()
        seen.extend([weakref.ref(large), sys._getframe()])  # somebody may hold the frame
        raise MemoryError("Unable")

    try:
        failing()
    except MemoryError as error:
        found = needs.out_of_memory(error, plan, way_of([losses(weight)], [], lf.settings.current()), "a forward")
    assert isinstance(found, lf.OutOfMemoryError) and seen[0]() is None

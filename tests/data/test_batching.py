"""Minibatches: every example once, the same order for the same seed, resumable anywhere."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.data import Batches, batches
from lazyflow.errors import CheckpointError

OPTIONS = st.fixed_dictionaries(
    {
        "shuffle": st.booleans(),
        "seed": st.integers(0, 2**70),
        "drop_last": st.booleans(),
        "key": st.sampled_from([None, lambda x: x % 7]),
        "epoch": st.integers(0, 5),
    }
)


@given(count=st.integers(1, 40), size=st.integers(1, 12), options=OPTIONS)
def test_every_example_comes_once(count: int, size: int, options: dict[str, Any]) -> None:
    if options["drop_last"] and count < size:
        return
    run = batches(range(count), size, **options)
    for epoch in range(2):
        assert run.epoch == options["epoch"] + epoch
        found = list(run)
        assert len(found) == len(run)
        seen = sorted(chain.from_iterable(found))
        if options["drop_last"]:
            assert {len(batch) for batch in found} == {size} and len(set(seen)) == len(seen) == count - count % size
        else:
            assert seen == list(range(count)) and sum(len(batch) < size for batch in found) == bool(count % size)


@given(count=st.integers(1, 30), size=st.integers(1, 8), stop=st.integers(0, 60), options=OPTIONS)
def test_a_stopped_run_resumes_to_the_same_order(count: int, size: int, stop: int, options: dict[str, Any]) -> None:
    if options["drop_last"] and count < size:
        return
    whole = batches(range(count), size, **options)
    expected = [list(batch) for _ in range(3) for batch in whole]
    stop %= len(expected)
    run, seen, state = batches(range(count), size, **options), [], None
    for _ in range(3):
        for batch in run:
            seen.append(batch)
            if len(seen) == stop:
                state = run.state_dict()
    assert seen == expected
    resumed = batches(range(count), size, **{**options, "seed": 99, "epoch": 0})
    if state is None:
        return
    resumed.load_state_dict(state)
    rest: list[Any] = []
    while len(rest) < len(expected) - stop:
        rest.extend(resumed)
    assert rest == expected[stop:]


def test_orders_depend_on_seed_and_epoch_only() -> None:
    def orders(seed: int, epochs: int = 3, **options: Any) -> list[Any]:
        run = batches(range(20), 4, shuffle=True, seed=seed, **options)
        return [list(run) for _ in range(epochs)]

    assert orders(1) == orders(1)
    first, second, third = orders(1)
    assert first != second != third != first
    assert orders(2)[0] != first
    assert orders(1, 1, epoch=2) == [third]


def test_unshuffled_batches_keep_the_order() -> None:
    run = batches("abcdefg", 3)
    assert list(run) == list(run) == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


def test_without_a_seed_the_default_stream_decides() -> None:
    from lazyflow.random import seed

    seed(5)
    first, second = batches(range(50), 50, shuffle=True), batches(range(50), 50, shuffle=True)
    seed(5)
    again = batches(range(50), 50, shuffle=True)
    assert list(first) == list(again)
    assert list(second) != list(again)


def test_buckets_have_similar_sizes_in_any_order() -> None:
    sizes = np.random.default_rng(1).integers(1, 100, 200).tolist()
    words = ["x" * n for n in sizes]
    plain = batches(words, 10, key=len)
    assert [len(w) for batch in plain for w in batch] == sorted(sizes)
    run = batches(words, 10, key=len, shuffle=True, seed=1)
    spans = [[(min(map(len, batch)), max(map(len, batch))) for batch in run] for _ in range(2)]
    assert sorted(spans[0]) == sorted(spans[1]) != spans[1]
    assert spans[0] != spans[1]
    ordered = sorted(spans[0])
    assert all(a[1] <= b[0] for a, b in pairwise(ordered))


def test_equal_keys_are_shuffled_among_each_other() -> None:
    run = batches(range(20), 5, key=lambda x: 0, shuffle=True, seed=1)
    first, second = ({frozenset(batch) for batch in run} for _ in range(2))
    assert first != second


def test_drop_last_leaves_out_other_examples_every_epoch_even_in_buckets() -> None:
    run = batches(range(10), 4, key=lambda x: x, shuffle=True, seed=1, drop_last=True)
    dropped = {frozenset(range(10)) - frozenset(chain.from_iterable(run)) for _ in range(5)}
    assert len(dropped) > 1 and dropped != {frozenset({8, 9})}


def test_the_key_is_computed_once_an_example() -> None:
    calls: list[int] = []

    def key(x: int) -> int:
        calls.append(x)
        return -x

    run = batches(range(5), 2, key=key, shuffle=True, seed=1)
    list(run), list(run)
    assert calls == list(range(5))


def test_an_epoch_left_early_is_over() -> None:
    run = batches(range(20), 5, shuffle=True, seed=1)
    orders = batches(range(20), 5, shuffle=True, seed=1)
    first, second = list(orders), list(orders)
    for batch in run:
        assert batch == first[0]
        break
    assert list(run) == second
    assert (run.epoch, run.position) == (2, 0)


def test_two_iterators_at_once_are_two_epochs() -> None:
    run = batches(range(6), 2, shuffle=True, seed=1)
    expected = [list(b) for b in (batches(range(6), 2, shuffle=True, seed=1, epoch=e) for e in range(2))]
    one = iter(run)
    assert next(one) == expected[0][0]
    two = iter(run)
    assert [next(two), *one, *two] == [expected[1][0], *expected[0][1:], *expected[1][1:]]
    assert (run.epoch, run.position) == (2, 0)


@pytest.mark.parametrize(
    "examples",
    [(x for x in "abc"), {"a": 1, "b": 2, "c": 3}, np.array(["a", "b", "c"])],
    ids=["generator", "dict", "array"],
)
def test_any_iterable(examples: Any) -> None:
    assert [list(map(str, batch)) for batch in batches(examples, 2)] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("examples", "size", "options", "message"),
    [
        ([], 3, {}, "there are no examples to make batches of: the data set is empty"),
        (iter(()), 3, {}, "the data set is empty"),
        ([1], 0, {}, "size must be an integer of at least 1, got 0"),
        ([1], -2, {}, "size must be"),
        ([1], 1.5, {}, "size must be an integer"),
        ([1], True, {}, "size must be an integer"),
        ([1], 1, {"epoch": -1}, "epoch must be an integer of at least 0"),
        ([1], 1, {"seed": -1}, "seed must be an integer of at least 0"),
        ([1], 1, {"seed": "x"}, "seed must be an integer"),
        ([1, 2], 3, {"drop_last": True}, "drop_last leaves no batch: 2 examples, size 3"),
    ],
)
def test_what_cannot_be_batched(examples: Any, size: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(examples, size, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Adam"}, "expected the state of Batches, got that of Adam"),
        ({"examples": 9}, "examples: expected 10, got 9"),
        ({"size": 5, "shuffle": False}, "size: expected 3, got 5\n  shuffle: expected True, got False"),
        ({"key": True}, "key: expected False, got True"),
        ({"position": -1}, "position must be an integer of at least 0, got -1"),
        ({"seed": "x"}, "seed: expected a number, got 'x'"),
        ({"more": 1}, "more: not expected"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Any], message: str) -> None:
    run = batches(range(10), 3, shuffle=True, seed=1)
    before = run.state_dict()
    with pytest.raises(CheckpointError, match=message):
        run.load_state_dict({**before, **change})
    assert run.state_dict() == before


def test_what_batches_returns_says_what_it_is() -> None:
    run = batches(range(10), 3)
    assert isinstance(run, Batches) and len(run) == 4

"""What the rounds of a map were: how many asked, where, and what ran for them."""

import numpy as np

import lazyflow as lf
from tests.deciding import XS, maps, needs_fibers, parameter, steps


@needs_fibers
def test_a_round_is_one_forward_for_all_that_wait():
    w = parameter(1, 3, 3)
    with lf.rounds() as seen:
        found = lf.map(lambda x: steps(w, x), XS)
    counts = [count for _, count in found]
    assert len(seen.seen) == max(counts) + 1
    assert [r.examples for r in seen.seen] == [sum(c >= k for c in counts) for k in range(max(counts) + 1)]
    (asked,) = seen.asked
    assert asked.rounds == len(seen.seen) and asked.times == sum(counts) + len(counts)
    assert asked.line.endswith(f"{steps.__code__.co_filename}:{steps.__code__.co_firstlineno + 3}")
    (products,) = [o for o in seen.operations if o.operation.startswith("matmul")]
    assert products.rows == sum(counts) and products.launches == max(counts)
    assert products.largest == sum(c > 0 for c in counts)
    assert "asked at" in str(seen) and asked.line in str(seen)


@needs_fibers
def test_what_stands_recorded_before_the_first_question_runs_in_the_first_round():
    w, table = parameter(1, 3, 3), parameter(2, 5, 3)
    waiting = [lf.tanh(w @ x) for x in XS]  # recorded before, on the same tape

    def fn(length):
        states = [lf.embedding(table, length % 5)]
        for _ in range(length):
            states.append(lf.tanh(w @ states[-1]))
        return [lf.sum(state).item() for state in states]

    with lf.rounds() as seen:
        found = lf.map(fn, [3, 5, 4, 1])
    np.testing.assert_allclose(np.concatenate(found), np.concatenate([fn(k) for k in (3, 5, 4, 1)]), rtol=1e-5)
    first = seen.seen[0].launches
    (products,) = {operation for operation, _, _ in first if operation.startswith("matmul")}
    assert [rows for operation, _, rows in first if operation == products] == [4, 3, 3, 2, 1]
    assert not [o for r in seen.seen[1:] for o, _, _ in r.launches if o == products]
    assert not any(e.tape.has_value(e.row) for e in waiting), "what is not the examples' own"
    np.testing.assert_allclose(waiting[0].numpy(), np.tanh(w.numpy() @ XS[0]), rtol=1e-5)


def test_maps_inside_of_maps():
    w = lf.Parameter(0.5)

    def inner(x):
        count = 0
        while x > 1:
            x, count = w * x, count + 1
        return count, x

    def outer(xs):
        found = lf.map(inner, [lf.constant(x) for x in xs])
        total = lf.sum([x for _, x in found])
        return [count for count, _ in found], total.item(), total

    batch = [[1.0, 5.0], [9.0], [], [2.0, 3.0, 17.0]]
    batch = [xs for xs in batch if xs]
    with lf.rounds() as seen:
        found = lf.map(outer, batch)
    expected = [outer(xs) for xs in batch]
    assert [f[:2] for f in found] == [f[:2] for f in expected]
    if maps.greenlet is not None:
        assert seen.seen[0].lines.total() == 6, "rounds of inner maps are rounds of the outer"
        assert len(seen.asked) == 2
    for results in (found, expected):
        w.zero_grad()
        lf.sum([total for *_, total in results]).backward()
        results.append(w.grad)
    np.testing.assert_allclose(found[-1], expected[-1])

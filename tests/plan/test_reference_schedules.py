"""The reference schedules on graphs whose answers are counted by hand, and against one another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plan import reference_schedules as reference

A, B, C = 0, 1, 2
CHAIN = [(A, []), (B, [0]), (A, [1]), (B, [2])]
DIAMOND = [(A, []), (B, [0]), (B, [0]), (C, [1, 2])]
# Two losses at different depths: by depth they are two launches, by agenda one.
STAGGERED = [(A, []), (B, [0]), (A, []), (A, [2]), (B, [3])]
REPEATED = [(A, []), (B, [0, 0])]


@pytest.mark.parametrize(
    ("nodes", "depth", "agenda", "bound"),
    [
        ([], 0, 0, 0),
        (CHAIN, 4, 4, 4),
        (DIAMOND, 3, 3, 3),
        (STAGGERED, 4, 3, 3),
        (REPEATED, 2, 2, 2),
        ([(A, [])] * 5, 1, 1, 1),
    ],
)
def test_counted_by_hand(nodes, depth, agenda, bound):
    assert len(reference.by_depth(nodes)) == depth
    assert len(reference.by_agenda(nodes)) == agenda
    assert reference.lower_bound(nodes) == bound


@pytest.mark.parametrize(
    ("launches", "fault"),
    [
        ([[0], [1, 2], [3]], None),
        ([[0], [1, 2]], "each of 4 once"),
        ([[0], [1, 2], [3], [3]], "each of 4 once"),
        ([[0], [1], [2, 3]], "one signature"),
        ([[0], [1], [3], [2]], "before its operands"),
        ([[0, 1], [2], [3]], "before its operands"),
    ],
)
def test_faults_are_found(launches, fault):
    found = reference.faults(DIAMOND, launches)
    assert (not found) if fault is None else any(fault in text for text in found)


@st.composite
def graphs(draw, size=10):
    n = draw(st.integers(1, size))
    return [(draw(st.integers(0, 2)), draw(st.lists(st.integers(0, i - 1), max_size=3)) if i else []) for i in range(n)]


@given(graphs())
def test_schedules_are_valid_and_the_bound_bounds(nodes):
    bound, fewest = reference.lower_bound(nodes), reference.fewest_launches(nodes)
    assert bound <= fewest
    for schedule in (reference.by_depth(nodes), reference.by_agenda(nodes)):
        assert reference.faults(nodes, schedule) == []
        assert len(schedule) >= fewest


def test_flat_arrays_become_pairs():
    assert reference.as_pairs([A, A, B], [0, 0, 0, 2], [0, 1]) == [(A, []), (A, []), (B, [0, 1])]

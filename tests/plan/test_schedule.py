"""Schedules: valid on any graph, equal in number to the plain references, never beaten by depth or agenda."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import families
from lazyflow.plan.schedule import Choices, Dag, cheapest, components, dag_edges, lower_bound, schedule
from lazyflow.settings import BATCHINGS
from tests.plan import reference_schedules as reference

FAST = settings(max_examples=200, deadline=None, derandomize=True)


def dag_of(nodes):
    starts = np.zeros(len(nodes) + 1, np.int64)
    np.cumsum([len(operands) for _, operands in nodes], out=starts[1:])
    return Dag(
        np.array([s for s, _ in nodes], np.int64),
        max((s for s, _ in nodes), default=-1) + 1,
        starts,
        np.array([o for _, ops in nodes for o in ops], np.int64),
    )


@st.composite
def graphs(draw):
    signatures = draw(st.integers(1, 5))
    nodes = []
    for i in range(draw(st.integers(1, 40))):
        operands = draw(st.lists(st.integers(max(0, i - 8), i - 1), max_size=3)) if i else []
        nodes.append((draw(st.integers(0, signatures - 1)), operands))
    return nodes


def check(nodes, found):
    launch = found.launch.tolist()
    assert sorted(set(launch)) == list(range(found.launches))
    signature_of = {}
    for i, (s, operands) in enumerate(nodes):
        assert signature_of.setdefault(launch[i], s) == s, "one signature in a launch"
        assert all(launch[o] < launch[i] for o in operands), "operands before users"
    assert len(found.phase) == found.launches and (np.diff(found.phase) >= 0).all()


@FAST
@given(graphs(), st.sampled_from(BATCHINGS))
def test_every_schedule_is_valid(nodes, batching):
    found = schedule(dag_of(nodes), batching)
    check(nodes, found)
    assert reference.lower_bound(nodes) <= found.launches <= len(nodes)


@FAST
@given(graphs())
def test_counts_equal_those_of_the_references(nodes):
    dag = dag_of(nodes)
    assert lower_bound(dag) == reference.lower_bound(nodes)
    assert schedule(dag, "depth").launches == len(reference.by_depth(nodes))
    assert schedule(dag, "agenda").launches == len(reference.by_agenda(nodes))
    assert schedule(dag, "none").launches == len(nodes)


REMEMBERED = Choices()


@settings(max_examples=400, deadline=None, derandomize=True)
@given(graphs())
def test_phases_never_take_more_launches_than_depth_or_agenda(nodes):
    dag = dag_of(nodes)
    found = schedule(dag, "phases", REMEMBERED).launches
    assert found <= schedule(dag, "depth").launches
    assert found <= schedule(dag, "agenda").launches


@FAST
@given(graphs())
def test_components_are_those_of_a_transitive_closure(nodes):
    dag = dag_of(nodes)
    edges = dag_edges(dag)
    reach = edges.copy()
    for k in range(dag.signatures):
        reach |= reach[:, k : k + 1] & reach[k]
    parts = components(edges)
    for a in range(dag.signatures):
        assert parts.recurrent[parts.of_signature[a]] == reach[a, a]
        for b in range(dag.signatures):
            same = a == b or (reach[a, b] and reach[b, a])
            assert same == (parts.of_signature[a] == parts.of_signature[b])
            if reach[a, b]:
                assert parts.of_signature[a] <= parts.of_signature[b], "topological order"


@pytest.mark.parametrize("name", families.FAMILIES)
def test_families(name):
    nodes = families.FAMILIES[name](8, 1)
    dag = Dag(
        np.asarray(nodes.signatures, np.int64),
        nodes.signature_count,
        np.asarray(nodes.starts, np.int64),
        np.asarray(nodes.operands, np.int64),
    )
    count = {way: schedule(dag, way).launches for way in BATCHINGS}
    bound = lower_bound(dag)
    assert all(bound <= launches <= count["none"] for launches in count.values())
    assert count["phases"] <= min(count["depth"], count["agenda"])
    if name == "tree_lstm":
        assert count["levels"] == count["frontier"] == count["phases"] == bound


def test_a_component_without_a_cycle_is_one_launch():
    nodes = [(0, []), (1, [0]), (1, [1]), (2, [0]), (2, [2]), (2, [])]
    found = schedule(dag_of(nodes), "phases")
    assert len(set(found.launch[[3, 4, 5]].tolist())) == 1
    assert found.launches == 4
    assert schedule(dag_of(nodes), "depth").launches == 6


def test_cheapest_weighs_launches_against_scheduling_time():
    assert cheapest({"levels": 100, "frontier": 99, "depth": 100, "agenda": 120}, nodes=10_000) == "levels"
    assert cheapest({"levels": 100, "frontier": 50, "depth": 100, "agenda": 120}, nodes=100) == "frontier"
    assert cheapest({"levels": 100, "frontier": 75, "depth": 100, "agenda": 70}, nodes=1_000_000) == "agenda"


def test_a_choice_is_remembered_and_compared_again_less_and_less_often():
    nodes = families.FAMILIES["nested_rnn"](4, 1)
    dag = Dag(
        np.asarray(nodes.signatures, np.int64),
        nodes.signature_count,
        np.asarray(nodes.starts, np.int64),
        np.asarray(nodes.operands, np.int64),
    )
    choices = Choices(small=10)
    for _ in range(16):
        schedule(dag, "phases", choices)
    (choice,) = choices.known.values()
    assert choice.seen == 16 and choice.compared == 3


def test_an_empty_graph():
    for way in BATCHINGS:
        assert schedule(Dag(np.zeros(0, np.int64), 0, np.zeros(1, np.int64), np.zeros(0, np.int64)), way).launches == 0

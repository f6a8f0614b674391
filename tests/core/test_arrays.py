"""Planning by the compiled core and by whole arrays is the same: what is collected, merged, scheduled and laid out."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core
from lazyflow.graph.graph import collect
from lazyflow.graph.reading import decoded, ranges_reached
from lazyflow.graph.repeats import repeats_merged
from lazyflow.plan.plan import Rows, graph_schedule, make, reads_of
from lazyflow.plan.schedule import Choices
from lazyflow.run.backward import nodes_reached
from lazyflow.settings import BATCHINGS
from tests import bodies as C
from tests import programs as P
from tests.forms import planning

if core.passes is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

SLOW = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FORMS = ("core", "arrays")


def comparable(value):
    """Arrays as lists, and what holds arrays as tuples."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Rows):
        return comparable(value.offsets()), value.width
    if isinstance(value, tuple | list):
        return [comparable(v) for v in value]
    return value


def described(graph):
    """A graph, with its signatures node by node."""
    found = {f.name: comparable(getattr(graph, f.name)) for f in fields(graph) if f.name != "signatures"}
    found["signature"] = [graph.signatures[s] for s in graph.signature.tolist()]
    found["ints"] = found["floats"] = None
    found["payload"] = [
        (
            comparable(graph.ints[graph.int_starts[i] : graph.int_starts[i] + s.ints]),
            comparable(graph.floats[graph.float_starts[i] : graph.float_starts[i] + s.floats]),
        )
        for i, s in enumerate(found["signature"])
    ]
    return found


def planned(roots, how, batching="phases", anew=True, reuse=False):
    """All that planning makes of some roots."""
    with planning(how):
        graph = collect(roots, anew=anew)
        merged = repeats_merged(graph)
        plan = make(merged, graph_schedule(merged, batching, Choices()), reuse=reuse)
        plan.check()
        launches = [(x.signature, *comparable((x.writes, reads_of(plan, x), x.nodes, x.calls))) for x in plan.launches]
        cells = [[comparable(getattr(c, f.name)) for f in fields(c)] for c in plan.cells]
        sizes = dict(plan.layout.sizes)
        nodes = [base for base, _ in merged.roots]
        reaches = [comparable(nodes_reached(merged, some)) for some in (nodes, nodes[:1])]
        places = plan.offsets.tolist(), plan.places.tolist()
        return described(graph), described(merged), launches, cells, places, sizes, reaches


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a == b


@SLOW
@given(st.lists(P.programs(), min_size=1, max_size=3), st.sampled_from(BATCHINGS), st.booleans())
def test_plain_programs(batch, batching, reuse):
    parameters = {name: lf.Parameter(v) for name, v in P.arrays(0).items()}
    inputs = P.example_inputs(1, len(batch))
    runs = [p.run(False, parameters, list(map(lf.constant, x))) for p, x in zip(batch, inputs, strict=False)]
    roots = [values[-1] for values in runs]
    assert_same(planned(roots, "core", batching, reuse=reuse), planned(roots, "arrays", batching, reuse=reuse))


@SLOW
@given(C.bodies(), st.sampled_from(["chain", "tree", "alone"]), st.sampled_from(BATCHINGS), st.booleans())
def test_cells(body, use, batching, reuse):
    loss = C.loss_of(lf.cell(body.function(C.parameters(0))), use, 1)
    assert_same(planned([loss], "core", batching, reuse=reuse), planned([loss], "arrays", batching, reuse=reuse))


def words_and_losses(count, results):
    """Losses of sentences, one after the other on one tape, by a cell with or without further results."""
    E, W = lf.Parameter(np.ones((9, 3))), lf.Parameter(np.full((3, 3), 0.5))

    @lf.cell
    def step(word, h):
        h = lf.tanh(W @ h + lf.embedding(E, word))
        return (h, lf.sum(h)) if results else h

    def loss(i):
        h, losses = lf.constant(np.full(3, 0.5)), []
        for k in range(1 + i % 5):
            found = step((i * k) % 9, h)
            h, loss = found if results else (found, lf.sum(found))
            losses.append(loss * (1.5 + k))
        return lf.sum([*losses, lf.dropout(h, 0.5)[1:].sum()])

    return [loss(i) for i in range(count)]


@pytest.mark.parametrize("results", [False, True])
def test_kept_roots_of_a_long_tape(results):
    losses = words_and_losses(150, results)
    tape = losses[0].tape
    lf.mean(losses).forward()
    assert tape.sealed
    for some in ([3, 77, 4, 140], [0], [149, 0], list(range(20, 40))):
        found = {}
        for way in FORMS:
            tape.reach.clear()
            root = lf.mean([losses[i] for i in some])
            with planning(way):
                ranges = [column.tolist() for column in ranges_reached(tape, [losses[i].row for i in some])]
                assert not decoded(tape).marks.any()
            found[way] = ranges, *planned([root], way, anew=True)
        mine, theirs = found["core"], found["arrays"]
        assert mine[0] == theirs[0]
        for a, b in zip(mine[1:3], theirs[1:3], strict=True):
            assert {**a, "tapes": None} == {**b, "tapes": None}
        assert_same(mine[3:], theirs[3:])


def test_what_was_computed_before_is_known():
    losses = words_and_losses(12, True)
    lf.forward(losses[:5])
    root = lf.sum(losses[3:9]) * losses[0]
    found = {way: planned([root], way, anew=False) for way in FORMS}
    assert_same(found["core"], found["arrays"])
    assert sum(s.op.name == "known" for s in found["core"][0]["signature"]) == 3


def test_draws_of_a_repeated_forward_are_other_ones():
    losses = words_and_losses(3, True)
    tape = losses[0].tape
    tape.generation = 2
    assert_same(planned(losses, "core"), planned(losses, "arrays"))


@SLOW
@given(st.integers(0, 10**6), st.booleans())
def test_levels_that_are_not_the_best_are_left_to_the_choices(seed, learned):
    """Two kinds of steps in a row: by levels there are more launches than need be."""
    rng = np.random.default_rng(seed)
    w = lf.Parameter(np.ones(3))
    roots = []
    for _ in range(4):
        x = lf.constant(rng.normal(size=3))
        for kind in rng.integers(0, 3, size=rng.integers(1, 9)):
            x = (lf.tanh(x), x * w, lf.sigmoid(x) + x)[kind]
        roots.append(lf.sum(x))
    choices = Choices(small=0)
    found = []
    for way in FORMS:
        with planning(way):
            graph = repeats_merged(collect(roots, anew=True))
            if learned and way == "core":
                graph_schedule(graph, "phases", choices)
            found.append(graph_schedule(graph, "phases", choices))
    assert found[0].launches == found[1].launches
    assert found[0].launch.tolist() == found[1].launch.tolist()

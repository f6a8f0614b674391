"""Plans: their invariants hold on random programs, and the check notices when they do not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow.errors import DeviceError
from lazyflow.graph.graph import collect
from lazyflow.ops.base import OPS
from lazyflow.plan.plan import Launch, Plan, Rows
from lazyflow.plan.schedule import Schedule
from lazyflow.record.tape import check_device, intern_type
from lazyflow.run.forward import plan_of
from lazyflow.settings import BATCHINGS
from tests import programs as P


def plan_for(roots, batching="phases", reuse=False):
    return plan_of(collect(roots), batching, reuse=reuse)


def some_roots():
    w = lf.Parameter(np.ones((3, 3)))
    xs = [lf.constant(np.full(3, float(k))) for k in range(4)]
    return [lf.mean([lf.sum(lf.tanh(w @ lf.tanh(w @ x))) for x in xs])]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(P.programs(), min_size=1, max_size=3), st.sampled_from(BATCHINGS), st.booleans())
def test_invariants_hold(batch, batching, reuse):
    parameters = {name: lf.Parameter(v) for name, v in P.arrays(0).items()}
    roots = [
        p.run(False, parameters, [lf.constant(a) for a in x])[-1]
        for p, x in zip(batch, P.example_inputs(1, len(batch)), strict=False)
    ]
    plan_for(roots, batching, reuse).check()


def swap_launches(plan: Plan) -> Plan:
    launch = plan.schedule.launch.copy()
    first, last = launch == launch.min(), launch == launch.max()
    launch[first], launch[last] = plan.schedule.launches - 1, 0
    schedule = Schedule(launch, plan.schedule.launches, plan.schedule.phase)
    return replace(plan, layout=replace(plan.layout, schedule=schedule))


def drop_launch(plan: Plan) -> Plan:
    return replace(plan, launches=plan.launches[:-1])


def shift_rows(plan: Plan) -> Plan:
    last = plan.launches[-1]
    moved = last.writes._replace(offset=last.writes.offset + 1)
    return replace(plan, launches=(*plan.launches[:-1], Launch(last.signature, moved, last.reads, last.nodes)))


def overlap_rows(plan: Plan) -> Plan:
    launches = list(plan.launches)
    i, j = [k for k, item in enumerate(launches) if item.signature.op.name == "tanh"]
    offsets = plan.offsets.copy()
    offsets[launches[j].nodes] = offsets[launches[i].nodes]
    launches[j] = Launch(launches[j].signature, launches[i].writes, launches[j].reads, launches[j].nodes)
    return replace(plan, launches=tuple(launches), layout=replace(plan.layout, offsets=offsets))


@pytest.mark.parametrize("damage", [swap_launches, drop_launch, shift_rows, overlap_rows])
def test_a_damaged_plan_is_noticed(damage):
    plan = plan_for(some_roots())
    plan.check()
    with pytest.raises(AssertionError):
        damage(plan).check()


def test_rows_of_one_launch_are_read_as_a_view_where_they_are_evenly_spaced():
    plan = plan_for(some_roots())
    tanh = [item for item in plan.launches if item.signature.op.name == "tanh"]
    assert all(item.reads[0].index is None and item.reads[0].pitch == 3 for item in tanh)


def test_splits_and_blocks_cost_no_launch():
    w = lf.Parameter(np.arange(12.0))
    x = w * 1.0
    parts = [*lf.split(x, 4), x[3], x[2:5].reshape(3, 1)[:, 0]]
    names = [item.signature.op.name for item in plan_for(parts).launches]
    assert names == ["multiply", "getitem"]


def test_a_parameters_gradient_is_one_launch_for_each_signature():
    w = lf.Parameter(np.ones((3, 3)))
    h = w @ lf.constant(np.ones(3))
    for _ in range(5):
        h = w @ h
    first, others = plan_for([h]).parameter_launches  # the first product has a constant operand
    assert {first.signature.op.name, others.signature.op.name} == {"matmul"}
    assert sorted((first.writes.count, others.writes.count)) == [1, 5]


def test_what_runs_at_once_is_the_launch_of_its_gradient_too():
    table, w = lf.Parameter(np.arange(12.0).reshape(4, 3)), lf.Parameter(np.eye(3))
    h = w @ lf.embedding(table, 0)
    for word in (3, 1):
        h = lf.tanh(w @ h) + lf.embedding(table, word)
    root = lf.sum(h)
    plan = plan_for([root])
    lookup, products = sorted(plan.parameter_launches, key=lambda item: item.signature.op.name != "lookup")
    assert any(lookup is item for item in plan.launches) and lookup.writes.count == 3
    assert products.signature.op.name == "matmul" and products.writes.count == 3
    assert not any(products is item for item in plan.launches)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (Rows(3, 2, 4, 2), [4, 6, 8]),
        (Rows(3, 2, 4, 0), [4, 4, 4]),
        (Rows(2, 3, 0, 0, np.array([5, 1])), [15, 3]),
        (Rows(2, 3, 0, 0, np.array([5, 1]), aligned=False), [5, 1]),
    ],
)
def test_offsets_of_rows(rows, expected):
    assert rows.offsets().tolist() == expected
    assert rows.shared == (expected == [4, 4, 4])


def test_freed_memory_is_used_again_and_never_while_it_is_needed():
    w = lf.Parameter(np.ones((8, 8)))
    xs = [lf.constant(np.full(8, float(k))) for k in range(3)]
    hs = [lf.exp(lf.sin(lf.tanh(w @ x))) for x in xs]
    kept, freed = plan_for(hs, reuse=False), plan_for(hs, reuse=True)
    assert sum(freed.layout.sizes.values()) < sum(kept.layout.sizes.values())


def test_mixed_devices_are_refused():
    types = intern_type((3,), np.dtype("f4"), "cpu"), intern_type((3,), np.dtype("f4"), "cuda:0")
    with pytest.raises(DeviceError, match="add: the operands are on different devices, cpu and cuda:0"):
        check_device(OPS["add"], types)

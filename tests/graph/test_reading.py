"""What is read of tapes: some rows as a tape of their own, in the order in which they are asked for."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.graph import reading
from lazyflow.graph.graph import collect
from lazyflow.graph.reading import AskedRows, imports_of, position_of, readings_of, row_at
from lazyflow.plan.plans import Plans
from lazyflow.record.tape import signature_by_id
from lazyflow.run import forward
from tests.forms import FORMS, planning

HOW = pytest.mark.parametrize("how", FORMS)


def losses(count):
    """Losses of one structure each, on one tape, and the parameter that they rest on."""
    w = lf.Parameter(np.full(2, 0.5, np.float32))
    with lf.using():
        return [lf.sum(lf.tanh(lf.constant(np.full(2, k + 1.0, np.float32)) * w) * w) for k in range(count)], w


def names(one):
    return [signature_by_id(number).op.name for number in one.columns.ids.tolist()]


@HOW
def test_rows_stand_as_they_are_asked_for(how, monkeypatch):
    monkeypatch.setattr(reading, "LONG", 8)
    found, _ = losses(20)
    lf.forward(found[:1])
    with planning(how):
        for asked in ([7, 3, 12], [3, 7, 12], [19]):
            [one] = readings_of([found[k] for k in asked], anew=True)
            [alone] = readings_of([found[5]], anew=True)
            rows = one.rows.tolist()
            assert [row for row in rows if row in {e.row for e in found}] == [found[k].row for k in asked]
            assert names(one) == names(alone) * len(asked)
            assert (one.columns.operands < np.arange(len(one)).repeat(np.diff(offsets_of(one)))).all()
            roots = [found[k] for k in asked]
            positions = AskedRows(roots, [one]).positions([one]).tolist()
            assert [rows[position] for position in positions] == [e.row for e in roots]
            assert [position_of(one.rows, row) for row in rows] == list(range(len(rows)))
            assert position_of(one.rows, found[0].row) == -1
            assert [row_at(one.rows, k) for k in range(len(rows))] == rows


def offsets_of(one):
    return reading.begins_of_rows(one.columns.ids, one.columns.ints)[0]


@HOW
def test_rows_that_rest_on_each_other_stand_as_they_were_recorded(how, monkeypatch):
    monkeypatch.setattr(reading, "LONG", 8)
    monkeypatch.setattr(reading, "GAP", 0)
    x = lf.Parameter(np.ones(2, np.float32)) * 2.0
    states = [x]
    for _ in range(20):
        states.append(lf.tanh(states[-1]))
    lf.forward(states[:1])
    with planning(how):
        [one] = readings_of([states[k] for k in (19, 3, 12)], anew=True)
        assert one.rows.tolist() == list(range(len(one)))
        [one] = readings_of([states[k] for k in (12, 12)], anew=True)
        assert (np.diff(one.rows) == 1).all()


@HOW
def test_imports_of_what_is_computed_with_them_of_each_other_and_of_what_was_computed(how):
    w = lf.Parameter(np.full(2, 0.5, np.float32))
    first, second, known = lf.tanh(w), lf.tanh(w * 2.0), lf.tanh(w * 3.0)
    tape = first.tape
    known.forward()
    one, other = first + known, second + known + first
    with lf.using():
        end = one * first
    with lf.using():
        end = end + other
    with planning(how):
        readings = readings_of([end], anew=False)
        assert readings[0].tape is tape and readings[-1].tape is end.tape
        starts = np.cumsum([0, *[len(r) for r in readings]]).tolist()
        nodes, numbers = [], []
        for start, r in zip(starts, readings, strict=False):
            begins = reading.begins_of_rows(r.columns.ids, r.columns.ints)[1]
            mine = [k for k, name in enumerate(names(r)) if name == "import"]
            nodes += [start + k for k in mine]
            numbers += [int(r.columns.ints[begins[k]]) for k in mine]
        columns = np.array(nodes), np.array(numbers)
        every = imports_of(readings, starts, columns, anew=False)
        aliases = {int(a): int(b) for pair in every.aliases(readings, starts) for a, b in zip(*pair, strict=True)}
        assert set(aliases) | set(every.nodes) == set(nodes) and len(every.nodes) == len(every.runs)
        places = [known.tape.place_of(known.row)] * len(every.runs)
        assert list(zip(every.runs, every.offsets, strict=True)) == places
        assert len(collect([end], readings=readings).known) == len(every.nodes) == 1


def test_shuffled_minibatches_of_one_structure_are_planned_once(monkeypatch):
    """As they would be if they were recorded anew."""
    monkeypatch.setattr(reading, "LONG", 8)
    monkeypatch.setattr(forward, "PLANS", Plans())
    with lf.no_grad():
        kept, w = losses(20)
        lf.forward(kept)
    collected = []

    def counting(*args, **options):
        collected.append(args)
        return collect(*args, **options)

    monkeypatch.setattr(forward, "collect", counting)
    rng = np.random.default_rng(0)
    for step in range(6):
        w.assign(w.numpy() * 0.9)
        chosen = rng.permutation(20)[:5].tolist()
        values = lf.forward([kept[k] for k in chosen])
        want = [np.sum(np.tanh((k + 1) * w.numpy()) * w.numpy()) for k in chosen]
        np.testing.assert_allclose(values, want, rtol=1e-6)
        assert len(collected) == min(step + 1, 2)
    assert forward.PLANS.hits >= 4

"""`lf.explain`: the counts are those of what runs, and the reasons name what differs."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.settings import BATCHINGS
from tests.losses import losses, vector


@pytest.fixture
def weight():
    return lf.Parameter(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_launches_are_those_that_run(weight, batching):
    with lf.using(batching=batching, fuse="off"):
        loss = losses(weight)
        explained = lf.explain(loss)
        loss.forward()
        assert explained.launches == len(loss.tape.runs[0].plan.launches)
        assert explained.nodes == len(loss.tape.runs[0].graph) == 21
        assert explained.batching == batching
        assert lf.explain(loss) == explained, "the same before and after"


def test_explaining_computes_nothing(weight):
    loss = losses(weight)
    lf.explain(loss)
    assert loss.tape.runs == []


def test_the_rounds_that_a_block_has_seen_are_part_of_the_text(weight):
    pytest.importorskip("greenlet")

    def deciding(x):
        h = weight @ lf.constant([x, x, x])
        return lf.sum(h) * 2 if lf.sum(h) > 9 else lf.sum(h * h)

    with lf.rounds() as seen:
        found = lf.map(deciding, [1.0, 2.0])
        explained = lf.explain(found)
    assert explained.rounds is seen and [r.examples for r in seen.seen] == [2]
    assert str(explained).endswith(str(seen)) and seen.asked[0].line in str(explained)
    lf.forward(found)
    assert lf.explain(found).rounds is None and lf.explain(found).runs == 2
    assert "computed so far in 2 runs" in str(lf.explain(found))
    assert "computed so far" not in str(lf.explain(losses(weight)))


def test_groups_add_up_and_name_the_line(weight):
    explained = lf.explain(losses(weight))
    assert sum(g.nodes for g in explained.groups) == explained.nodes
    assert sum(g.launches for g in explained.groups) == explained.launches == explained.lower_bound
    matmul = next(g for g in explained.groups if g.operation == "matmul")
    assert (matmul.nodes, matmul.launches, matmul.largest) == (4, 1, 4)
    assert matmul.line.endswith(f"{losses.__code__.co_filename}:{losses.__code__.co_firstlineno + 1}")


def other_weight(weight):
    return lf.sum(weight @ vector(3)) + lf.sum(lf.Parameter(np.ones((2, 3), np.float32), name="other") @ vector(3))


def other_shape(weight):
    return lf.sum(lf.tanh(vector(3))) + lf.sum(lf.tanh(vector(4)))


def other_attribute(weight):
    m = lf.outer(vector(2), vector(2))
    return lf.sum(lf.softmax(m, axis=0) + lf.softmax(m, axis=1))


def other_operands_of_one_number(weight):
    x = lf.tanh(vector(3))
    return lf.sum(x * x) + lf.sum(x * 2.0)


def other_count(weight):
    x, y = vector(2), vector(2)
    return lf.sum(lf.concatenate([x, y, x])) + lf.sum(lf.concatenate([x, y]))


REASONS = {
    other_weight: ["matmul: operand 0 differs", "Parameter([2, 3], float32)", "Parameter(other[2, 3], float32)"],
    other_shape: ["tanh: operand 0 differs", "(3,)", "(4,)"],
    other_attribute: ["softmax: axis differs", "-2", "-1"],
    other_operands_of_one_number: ["multiply: operand 1 differs: a Python float", "(3,) float32"],
    other_count: ["concatenate_rows: parts differs", "(3, 2)", "(2, 2)"],
}


@pytest.mark.parametrize("program", REASONS, ids=lambda f: f.__name__)
def test_reasons(weight, program):
    root = program(weight)
    text = "\n".join(lf.explain(root).reasons)
    for words in REASONS[program]:
        assert words in text, text


def test_the_text_is_a_table(weight):
    text = str(lf.explain(losses(weight)))
    head, blank, titles, *rows = text.splitlines()
    assert head.startswith("21 nodes") or "21 to compute" in head
    assert blank == "" and titles.split() == ["nodes", "launches", "largest", "operation", "first", "recorded", "at"]
    assert any("matmul(" in row and "losses.py" in row for row in rows)


def test_views_are_recorded_and_not_computed(weight):
    x = weight @ vector(3)
    explained = lf.explain(lf.sum(x[0:1] + x[1:2]))
    assert explained.recorded == explained.nodes + 2

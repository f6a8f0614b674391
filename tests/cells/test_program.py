"""How the body of a cell is cut into steps: what is merged, hoisted, sunk, fused and left out."""

import gc
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.cells.steps import HOISTED, MAIN, SUNK, Assemble, Fused, OwnKernel, Product
from lazyflow.device import to_host

N = 4
RNG = np.random.default_rng(0)
W, U, V = (lf.Parameter(RNG.normal(size=(N, N)) * 0.5) for _ in range(3))
b = lf.Parameter(RNG.normal(size=N))
KINDS = {"products": Product, "kernels": Fused, "assembled": Assemble, "operations": OwnKernel}


def vector(seed=0):
    return lf.constant(np.random.default_rng(seed).normal(size=N))


def chain(step, length=4):
    """Calls in a row, each with an input of its own; other results are summed."""
    h, others = vector(), []
    for k in range(length):
        h, *more = step(vector(k), h)
        others += more
    return lf.sum([lf.sum(h), *[lf.sum(o) for o in others]])


def stages_of(root, fuse="numpy"):
    """The stages of the largest group of calls."""
    with lf.using(fuse=fuse, dtype="float64"):
        root.forward()
    [run] = root.tape.runs
    return max(run.calls, key=lambda calls: calls.count).stages


def steps(stages, stage):
    """How many steps of each kind a stage has, those it has."""
    kinds = {name: sum(isinstance(s, kind) for s in stages.steps[stage]) for name, kind in KINDS.items()}
    return {name: count for name, count in kinds.items() if count}


def cut(body, fuse="numpy"):
    stages = stages_of(chain(lf.cell(body)), fuse)
    return [steps(stages, stage) for stage in (HOISTED, MAIN, SUNK)]


def test_products_of_one_operand_are_one():
    def body(x, h):
        return (lf.tanh(W @ h) * (U @ h) + V @ h,)

    assert cut(body) == [{}, {"products": 1, "kernels": 1}, {}]


def test_products_of_different_operands_are_not():
    def body(x, h):
        return (W @ lf.tanh(h) + U @ (h * 2),)

    assert cut(body)[MAIN]["products"] == 2


def test_what_needs_the_inputs_alone_is_hoisted():
    def body(x, h):
        return (lf.tanh(lf.affine(W, b, x) + U @ h),)

    assert cut(body) == [{"products": 1}, {"products": 1, "kernels": 1}, {}]


def test_what_only_the_outside_reads_is_sunk():
    def body(x, h):
        h = lf.tanh(x + U @ h)
        return h, lf.cross_entropy(V @ h, 1)

    assert cut(body) == [{}, {"products": 1, "kernels": 1}, {"products": 1, "operations": 1}]


def test_without_a_recurrence_nothing_is_hoisted_or_sunk():
    def body(x, y):
        return lf.tanh(W @ x) * (U @ y)

    step = lf.cell(body)
    stages = stages_of(lf.sum([lf.sum(step(vector(k), vector(k + 9))) for k in range(4)]))
    assert [steps(stages, s) for s in (HOISTED, MAIN, SUNK)] == [{}, {"products": 2, "kernels": 1}, {}]


def test_gates_are_one_kernel():
    """Bias, slices and all elementwise operations of a long short-term memory."""
    G, g = lf.Parameter(RNG.normal(size=(4 * N, N))), lf.Parameter(RNG.normal(size=4 * N))

    def body(x, h):
        i, f, o, u = lf.split(lf.affine(G, g, h), 4)
        c = lf.sigmoid(f) * x + lf.sigmoid(i) * lf.tanh(u)
        return (lf.sigmoid(o) * lf.tanh(c),)

    assert cut(body) == [{}, {"products": 1, "kernels": 1}, {}]
    assert cut(body, "off")[MAIN]["operations"] > 8


def test_concatenated_operands_are_gathered_into_place():
    def body(x, h):
        return (lf.tanh(lf.concatenate([W, U], axis=1) @ lf.concatenate([x, h])),)

    P = lf.Parameter(RNG.normal(size=(N, 2 * N)))
    assert cut(lambda x, h: (lf.tanh(P @ lf.concatenate([x, h])),)) == [
        {},
        {"assembled": 1, "products": 1, "kernels": 1},
        {},
    ]
    assert np.isfinite(chain(lf.cell(body)).item())


def test_what_no_result_needs_is_left_out():
    def body(x, h):
        lf.softmax(W @ x)
        return (lf.tanh(h + x),)

    stages = stages_of(chain(lf.cell(body)))
    assert [steps(stages, s) for s in (HOISTED, MAIN, SUNK)] == [{}, {"kernels": 1}, {}]
    assert stages.program.parameters == ()


def test_what_is_the_same_for_all_calls_is_computed_once():
    def body(x, h):
        return (lf.tanh((W / lf.norm(W)) @ h + lf.exp(b)),)

    stages = stages_of(chain(lf.cell(body)))
    assert len(stages.shared) > 1
    assert all(not stages.program.nodes[i].batch for i in stages.shared)


def test_a_program_is_cut_once_for_each_place():
    def body(x, h):
        return (lf.tanh(W @ x + U @ h),)

    step = lf.cell(body)
    first, second = (stages_of(chain(step)) for _ in range(2))
    assert first is second
    assert stages_of(chain(step), "off") is not first


def test_no_output_is_an_input_of_another_stage_before_it():
    """Every value is computed before it is read, in every stage of some of the library's cells."""
    with lf.using(dtype="float64"):
        lstm = nn.LSTM(N, N)
        outputs, _ = lstm([vector(k) for k in range(5)])
        root = lf.sum([lf.sum(o) for o in outputs])
        root.forward()
    for run in root.tape.runs:
        for calls in run.calls:
            stage = calls.stages.stage
            for i, node in enumerate(calls.stages.program.nodes):
                for ref in node.reads:
                    if ref.kind == "node" and node.batch and calls.stages.program.nodes[ref.index].batch:
                        assert stage[ref.index] <= stage[i] or stage[ref.index] == MAIN


def test_a_number_is_not_taken_for_the_value_of_that_place():
    """``x + 1`` where the second value of the kernel is ``b``."""
    step = lf.cell(lambda x: (x + b, lf.tanh(x + 1)))
    x = vector()
    found = lf.forward(list(step(x)))
    np.testing.assert_allclose(found, [x.numpy() + b.numpy(), np.tanh(x.numpy() + 1)], rtol=1e-12)


@pytest.mark.parametrize("fuse", ["numpy", "off"])
def test_one_cotangent_for_a_scalar_and_for_a_parameter(fuse):
    """The scalar's is summed over the row, the parameter's is not."""

    def body(x, h):
        return lf.tanh(h) + 0.5, lf.sum(W @ h) + b

    found = []
    for step in (body, lf.cell(body)):
        with lf.using(fuse=fuse, dtype="float64"):
            loss = chain(lambda x, h, step=step: (step(x, h)[0], step(x, h)[1] * x))
            loss.backward()
        found.append([np.array(to_host(p.grad)) for p in (W, b)])
        W.zero_grad()
        b.zero_grad()
    for plain, cell in zip(*found, strict=True):
        np.testing.assert_allclose(cell, plain, rtol=1e-9)


@pytest.mark.parametrize("fuse", ["numpy", "off"])
def test_programs_of_dead_parameters_are_freed(fuse):
    def use():
        model = nn.LSTM(N, N)
        with lf.using(fuse=fuse):
            lf.sum(model([lf.constant(np.ones(N, np.float32)) for _ in range(3)])[0][-1]).backward()
        return [weakref.ref(p) for p in model.parameters()]

    found = use()
    gc.collect()
    assert [r() for r in found] == [None] * len(found)

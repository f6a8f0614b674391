"""Launches of a cell that follow each other as one kernel: the same values and gradients, and one launch for all."""

import random
import sys
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import device, nn
from lazyflow.cells import phases
from lazyflow.fuse import phases as printed
from lazyflow.run import execute
from tests import simcupy
from tests.simcupy import emulate

pytestmark = pytest.mark.gpu
DEVICE, WORDS = "cuda:0", 7
SLOW = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def only_the_simulator_counts():
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")


# Bodies of two children and a word: each becomes products, and one elementwise kernel.


def side_by_side(p, a, b, x):
    i, f, g = lf.split(lf.affine(p["W"], p["b"], lf.concatenate([a, b])), 3)
    return lf.sigmoid(i) * lf.tanh(g) + lf.sigmoid(f) * a


def two_products(p, a, b, x):
    i, f, g = lf.split(lf.matmul(p["U"], a) + lf.matmul(p["V"], b) + p["b"], 3)
    return lf.tanh(i * f + g) + b * 0.5


def of_one_operand(p, a, b, x):
    i, f, g = lf.split(lf.affine(p["U"], p["b"], a), 3)
    return lf.sigmoid(i + b) * lf.tanh(g) - f * 0.25


def with_the_word(p, a, b, x):
    i, f, g = lf.split(lf.matmul(p["U"], a) + lf.affine(p["X"], p["b"], x), 3)
    return lf.sigmoid(i) * lf.tanh(g) + lf.sigmoid(f) * b


def joined_weights(p, a, b, x):
    i, f, g = lf.split(lf.matmul(p["U"], a), 3)
    return lf.tanh(i + lf.matmul(p["S"], a)) * f + g * b * x[0]


def square(p, a, b, x):
    return lf.tanh(lf.matmul(p["S"], a) + b)


BODIES = {
    body.__name__: body for body in (side_by_side, two_products, of_one_operand, with_the_word, joined_weights, square)
}


def parameters_of(size, rng):
    shapes = {"W": (3 * size, 2 * size), "U": (3 * size, size), "V": (3 * size, size), "X": (3 * size, 4)}
    shapes |= {"S": (size, size), "b": (3 * size,), "table": (WORDS, size), "words": (WORDS, 4)}
    return {name: lf.Parameter(rng.normal(size=shape) * 0.7) for name, shape in shapes.items()}


def random_tree(chance, leaves, chain):
    if leaves == 1:
        return chance.randrange(WORDS)
    left = leaves - 1 if chain else chance.randint(1, leaves - 1)
    return random_tree(chance, left, chain), random_tree(chance, leaves - left, chain)


def encoded(step, p, tree):
    if isinstance(tree, int):
        return lf.embedding(p["table"], tree)
    left, right = (encoded(step, p, child) for child in tree)
    return step(left, right, lf.embedding(p["words"], len(str(tree)) % WORDS))


def outcome(body, size, trees, persistent, dtype="float64", grad=True, frozen=(), deterministic=False):
    """The sum of what becomes of the trees, the launches of a forward and of a backward, and the gradients."""
    rng = np.random.default_rng(size)
    with lf.using(device=DEVICE, dtype=dtype, persistent=persistent, grad=grad, deterministic=deterministic):
        p = parameters_of(size, rng)
        for name in frozen:
            p[name].requires_grad = False
        step = lf.cell(lambda a, b, x: BODIES[body](p, a, b, x))
        loss = lf.sum([lf.sum(encoded(step, p, tree) ** 2) for tree in trees])
        with simcupy.counting("lazyflow/") as seen:
            loss.forward()
        with simcupy.counting("lazyflow/") as back:
            if loss.requires_grad:
                loss.backward()
        first = {name: on_host(q.grad) for name, q in p.items()}
        if loss.requires_grad:
            loss.backward()  # what the first has overwritten is computed again
            for name, q in p.items():
                np.testing.assert_allclose(on_host(q.grad), 2 * first[name], rtol=1e-9 if dtype == "float64" else 1e-4)
        return loss.item(), (seen, back), first


def on_host(gradient):
    if gradient is None:
        return np.zeros(())
    return device.to_host(gradient.to_dense() if isinstance(gradient, lf.RowSparse) else gradient)


@settings(SLOW)
@given(
    body=st.sampled_from(sorted(BODIES)),
    size=st.integers(1, 40),
    leaves=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    chain=st.booleans(),
    blocks=st.sampled_from([1, 2, 5, 132]),
    dtype=st.sampled_from(["float64", "float32"]),
    grad=st.booleans(),
    frozen=st.sets(st.sampled_from(["W", "U", "b", "table"])),
    order=st.sampled_from([nullcontext, emulate.backwards]),
)
def test_a_phase_computes_what_its_launches_do(body, size, leaves, seed, chain, blocks, dtype, grad, frozen, order):
    chance = random.Random(seed)
    trees = [random_tree(chance, n, chain) for n in leaves]
    expected, _, gradients = outcome(body, size, trees, False, dtype, grad, frozen)
    with mock.patch.object(device, "multiprocessors", return_value=blocks), order():
        found, _, others = outcome(body, size, trees, True, dtype, grad, frozen)
    rtol = 1e-9 if dtype == "float64" else 2e-4
    np.testing.assert_allclose(found, expected, rtol=rtol)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(others[name], gradient, rtol=rtol, atol=rtol * max(1, np.abs(gradient).max()))


def levels_of_tree(tree):
    return 0 if isinstance(tree, int) else 1 + max(map(levels_of_tree, tree))


# In backward, what reads one element for a whole row has a sum of each row.
WITH_SUMS = ("joined_weights",)


@pytest.mark.parametrize("body", BODIES)
def test_a_phase_is_one_launch_whatever_its_levels_are(body):
    chance, launches = random.Random(3), []
    for leaves in (3, 6, 12):
        trees = [random_tree(chance, leaves, True) for _ in range(3)]
        usual, persistent = (outcome(body, 4, trees, on)[1] for on in (False, True))
        backward = body not in WITH_SUMS
        assert persistent[0].kinds["RawKernel phase"] == 1
        assert persistent[1].kinds["RawKernel phase_back"] == backward
        for before, after, saves in zip(usual, persistent, (True, backward), strict=True):
            assert after.launches <= before.launches - 2 * (leaves - 2) * saves, (after.table(), before.table())
            assert after.h2d == before.h2d  # where levels end goes up with the plan
        launches.append((persistent[0].launches, persistent[1].launches * backward))
    assert len(set(launches)) == 1


def state_of(cell, children, x):
    return cell(x, children) if isinstance(cell, nn.ChildSumTreeLSTMCell | nn.NaryTreeLSTMCell) else cell(*children)


def loss_of_trees(cell):
    def state(tree):
        x = lf.constant([0.5, -1.0, 0.25])
        if isinstance(tree, int):
            return cell.leaf(x * tree) if hasattr(cell, "leaf") else cell(x * tree, [])
        return state_of(cell, [state(child) for child in tree], x)

    trees = [random_tree(random.Random(k), 5, False) for k in range(3)]
    return lf.sum([lf.sum(state(tree)[0]) for tree in trees])


def loss_of_chains(cell):
    losses = []
    for n in (3, 5):
        h = None
        for k in range(n):
            h = cell(lf.constant([0.5, -1.0, k / 4]), h)
        losses.append(lf.sum(h[0] if isinstance(h, tuple | list) else h))
    return lf.sum(losses)


LAYERS = {
    "LSTM": (lambda: nn.LSTMCell(3, 4), loss_of_chains, 1),
    "GRU": (lambda: nn.GRUCell(3, 4), loss_of_chains, 1),
    "RNN": (lambda: nn.RNNCell(3, 4), loss_of_chains, 1),
    "coupled LSTM": (lambda: nn.CoupledLSTMCell(3, 4, peepholes="diagonal"), loss_of_chains, 1),
    "with a matrix for the new state": (
        lambda: nn.CoupledLSTMCell(3, 4),
        loss_of_chains,
        0,
    ),  # a product of a level's own
    "LSTM with norms": (lambda: nn.LayerNormLSTMCell(3, 4), loss_of_chains, 0),  # a row gets sums
    "binary Tree-LSTM": (lambda: nn.BinaryTreeLSTMCell(3, 4), loss_of_trees, 1),
    "child-sum Tree-LSTM": (lambda: nn.ChildSumTreeLSTMCell(3, 4), loss_of_trees, 0),  # a sum over a list
    "n-ary Tree-LSTM": (lambda: nn.NaryTreeLSTMCell(3, 4, 2), loss_of_trees, 0),  # likewise
}


@pytest.mark.parametrize("name", LAYERS)
def test_which_layers_are_one_kernel(name):
    make, loss_of, count = LAYERS[name]
    found = []
    for persistent in (False, True):
        lf.seed(5)
        with lf.using(device=DEVICE, dtype="float64", persistent=persistent):
            cell = make()
            with simcupy.counting("lazyflow/") as seen:
                loss = loss_of(cell)
                loss.forward()
                loss.backward()
            assert seen.kinds["RawKernel phase"] == seen.kinds["RawKernel phase_back"] == count * persistent
            found.append([loss.item(), *(on_host(p.grad) for p in cell.parameters())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def chains():
    return [random_tree(random.Random(k), 6, True) for k in range(2)]


def kernels_of_phases(both):
    return [seen.kinds["RawKernel phase"] + seen.kinds["RawKernel phase_back"] for seen in both]


def test_weights_without_room_in_shared_memory_are_multiplied_level_by_level():
    usual = outcome("side_by_side", 8, chains(), False)[1]
    with mock.patch.object(printed, "SHARED_BYTES", 64):
        seen = outcome("side_by_side", 8, chains(), True)[1]
    assert kernels_of_phases(seen) == [0, 0] and [s.launches for s in seen] == [s.launches for s in usual]


def test_sums_that_are_the_same_at_every_run_are_made_level_by_level():
    value, seen, gradients = outcome("side_by_side", 8, chains(), True, deterministic=True)
    expected, _, others = outcome("side_by_side", 8, chains(), False)
    assert kernels_of_phases(seen) == [1, 0]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, others[name], rtol=1e-9, atol=1e-12)


def test_backward_from_some_of_the_roots_goes_level_by_level():
    found = []
    for persistent in (False, True):
        lf.seed(5)
        with lf.using(device=DEVICE, dtype="float64", persistent=persistent):
            cell = nn.GRUCell(3, 4)
            first, second = loss_of_chains(cell), loss_of_chains(cell) * 2
            with simcupy.counting("lazyflow/") as seen:
                lf.forward([first, second])
                first.backward()
            assert kernels_of_phases([seen]) == [persistent]
            found.append([on_host(p.grad) for p in cell.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_what_lies_in_16_bits_is_computed_level_by_level():
    with lf.using(device=DEVICE, persistent=True, storage="float16"), simcupy.counting("lazyflow/") as seen:
        loss_of_chains(nn.LSTMCell(3, 4)).forward()
    assert not seen.kinds["RawKernel phase"]


def test_levels_with_something_in_between_are_run_alone():
    with lf.using(device=DEVICE, persistent=True):
        cell, table = nn.LSTMCell(3, 4), nn.Embedding(WORDS, 4)
        h = None
        for _ in range(4):
            x = lf.constant([1.0, 2.0, 3.0])
            h = cell(x, h if h is None else (lf.softmax(h[0]), h[1]))
        with simcupy.counting("lazyflow/") as seen:
            lf.sum(h[0] + table(1)).forward()
    assert not seen.kinds["RawKernel phase"]


def both(name):
    make, loss_of, _ = LAYERS[name]
    return loss_of(make())


def interrupted():
    cell, h = nn.LSTMCell(3, 4), None
    for _ in range(4):
        h = cell(lf.constant([1.0, 2.0, 3.0]), h if h is None else (lf.softmax(h[0]), h[1]))
    return lf.sum(h[0])


WHOLE = "one kernel forward and one backward"
# What `lf.explain` says of levels: settings, programs, and words; none of those that are no kernel says "one kernel".
EXPLAINED = {
    **{name: ({}, lambda name=name: both(name), WHOLE if count else "more than products") for name, (_, _, count) in
       LAYERS.items()},
    "forward alone": ({"grad": False}, lambda: both("LSTM"), "4 levels: one kernel"),
    "deterministic": ({"deterministic": True}, lambda: both("LSTM"), "one kernel forward, and step by step backward"),
    "16 bits": ({"storage": "float16"}, lambda: both("LSTM"), "step by step, as what is kept lies in 16 bits"),
    "interrupted": ({}, interrupted, "1 level: alone, with other launches before and behind"),
    "on the host": ({"device": "cpu"}, lambda: both("LSTM"), "step by step, as on every CPU"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
def test_explain_says_whether_levels_are_one_kernel(name):
    given, program, words = EXPLAINED[name]
    with lf.using(**{"device": DEVICE, **given}):
        loss = program()
        assert lf.explain(loss).persistent == ()
        with lf.using(persistent=True):
            explained = lf.explain(loss)
            with simcupy.counting("lazyflow/") as seen:
                loss.forward()
                if loss.requires_grad:
                    loss.backward()
    found = [text for text in explained.persistent if words in text]
    assert found and all(f"- {text}" in str(explained) for text in found), explained.persistent
    said = [text.partition(": ")[2] for text in explained.persistent]
    assert seen.kinds["RawKernel phase"] == sum("one kernel" in text for text in said)
    assert seen.kinds["RawKernel phase_back"] == sum("one backward" in text for text in said)


def test_explain_says_that_weights_have_no_room():
    with mock.patch.object(printed, "SHARED_BYTES", 8), lf.using(device=DEVICE, persistent=True):
        *_, text = lf.explain(both("GRU")).persistent
    assert text.endswith("step by step, as the weights have no room in shared memory")


def test_on_the_host_nothing_changes():
    with lf.using(device="cpu"):
        cell = nn.LSTMCell(3, 4)
        loss = loss_of_chains(cell)
        with lf.using(persistent=True):
            loss.forward()
        before = loss.numpy()
        np.testing.assert_array_equal(before, loss_of_chains(cell).numpy())


def test_what_kernels_need_that_go_from_level_to_level_is_known_before():
    with lf.using(device=DEVICE):
        loss = loss_of_chains(nn.GRUCell(3, 4))
        loss.forward()
    [run] = loss.tape.runs
    assert not any(array is phases.GRID_COUNTER for array in execute.indices(run.plan, run.way))
    found = execute.indices(run.plan, run.way._replace(persistent=True))
    assert any(array is phases.GRID_COUNTER for array in found)
    assert any(array is launch.calls[1] for launch in run.plan.launches if launch.calls for array in found)

"""Calls of cells in many ways: whatever the kinds of the arguments, and in whatever order the ways come, each call
gives what the function itself gives, and what changes is seen."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.cells.cell import recurrence
from lazyflow.cells.ways import COMPILED, kinds_of
from lazyflow.record.tape import current_tape

# Parameters of this file lie on the CPU.
pytestmark = pytest.mark.host

W = lf.Parameter(np.linspace(-1, 1, 3, dtype="f4"), name="w")
TABLE = lf.Parameter(np.arange(12, dtype="f4").reshape(4, 3))


def arguments():
    """One of each kind."""
    earlier = lf.constant(np.array([1.0, 2.0, 3.0], "f4")) * 2
    earlier.numpy()
    x = lf.constant(np.array([0.5, -1.0, 2.0], "f4")) * 1
    return {
        "expression": x,
        "another": x + 1,
        "earlier": earlier,
        "parameter": W,
        "array": np.array([3.0, 0.0, 1.0], "f4"),
        "double": np.array([3.0, 0.0, 1.0]),
        "float": 1.5,
        "int": 2,
        "float32": np.float32(0.5),
        "int64": np.int64(3),
        "minus zero": -0.0,
    }


def both(a, b):
    return a * b + a


def values(result):
    parts = result if isinstance(result, tuple | list) else [result]
    return [np.asarray(p.numpy() if isinstance(p, lf.Expr) else p, "f8") for p in parts]


def agree(found, expected):
    found, expected = values(found), values(expected)
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-5)


PAIRS = [
    (a, b)
    for a, b in itertools.product(arguments(), repeat=2)
    if {"expression", "another", "earlier", "parameter", "array"} & {a, b}
]


@pytest.mark.parametrize("order", [PAIRS, PAIRS[::-1], PAIRS[::3] + PAIRS[1::3] + PAIRS[2::3]])
def test_any_two_kinds_in_any_order(order):
    cell = lf.cell(both)
    for _ in range(4):
        for a, b in order:
            given = arguments()
            agree(cell(given[a], given[b]), both(given[a], given[b]))


def test_both_operands_are_told_apart():
    cell = lf.cell(lambda a, b: a - 2 * b)
    for _ in range(4):
        x = arguments()["expression"]
        y = x + 1
        for a, b in ((x, x), (x, y), (y, x), (y, y)):
            agree(cell(a, b), a - 2 * b)


def test_states_and_structures():
    @lf.cell
    def step(x, state, flag=True):
        h, c = state
        return h * x + c, (c * 2 if flag else h, [x, h])

    for _ in range(4):
        for flag in (True, False):
            x = arguments()["expression"]
            h, c = x + 1, x * 3
            for kind in (tuple, list):
                found, (other, rest) = step(x, kind([h, c]), flag)
                agree([found, other, *rest], [h * x + c, c * 2 if flag else h, x, h])
        found, (other, _) = step(x, (h, np.ones(3, "f4")))
        agree([found, other], [h * x + 1, np.full(3, 2.0)])


def test_indices_are_checked_by_every_call():
    cell = lf.cell(lambda x, i: lf.embedding(TABLE, i) * x)
    for _ in range(3):
        x = arguments()["expression"]
        for i in (0, 3, 1, np.int64(2)):
            agree(cell(x, i), TABLE.numpy()[i] * x.numpy())
            x = arguments()["expression"]
        for wrong in (4, -1, np.int64(4), 2**40):
            with pytest.raises(IndexError):
                cell(x, wrong)


def test_numbers_whose_value_counts():
    cell = lf.cell(lambda x, n: sum([x * k for k in range(n)], x))
    for n in (1, 3, 2, 3, 1, 1, 2, 300, 2):
        x = arguments()["expression"]
        agree(cell(x, n), sum([x * k for k in range(n)], x))


def test_what_does_not_fit_a_payload_is_left_to_the_function():
    cell = lf.cell(both)
    for b in (2, 10**30, 3, 2.5, 10**30, float("inf")):
        x = arguments()["expression"]
        agree(cell(x, b), both(x, b))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = lf.Parameter(np.ones(3, "f4"))
        self.offset = np.zeros(3, "f4")
        self.options = {"power": 1.0}

    @lf.cell
    def forward(self, x, y=None):
        z = x * self.weight + self.offset
        z = z * self.options["power"]
        return z if y is None else z + y


def test_what_a_module_holds_is_watched():
    one, two = Scale(), Scale()
    two.weight.assign(np.full(3, 2.0))

    def check(module):
        for _ in range(3):
            x = arguments()["expression"]
            expected = (x.numpy() * module.weight.numpy() + module.offset) * module.options["power"]
            agree(module(x), expected)
            agree(module(x, x), expected + x.numpy())

    for module in (one, two, one):
        check(module)
    one.offset[1] = 5.0
    check(one)
    one.options["power"] = 3.0
    check(one)
    one.offset = np.ones(3, "f4")
    check(one)
    one.weight = lf.Parameter(np.full(3, 7.0, "f4"))
    check(one)
    check(two)
    one.eval()
    check(one)


def test_globals_and_closures_are_watched():
    factor = [2.0]
    space = {"lf": lf, "scale": 2.0}
    exec("def f(x):\n return x * scale", space)
    by_global, by_closure = lf.cell(space["f"]), lf.cell(lambda x: x * factor[0])
    for number in (2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 2.0, 2.0):
        space["scale"] = factor[0] = number
        x = arguments()["expression"]
        agree(by_global(x), x * number)
        agree(by_closure(x), x * number)


def test_settings():
    cell = lf.cell(lambda x: x * lf.constant([1.0, 2.0, 3.0]))
    for _ in range(3):
        for block in (lf.using(), lf.no_grad(), lf.using(dtype="float64"), lf.using(check_finite=True)):
            with block:
                x = lf.constant(np.ones(3, "f4")) * W
                found = cell(x)
                expected = x * lf.constant([1.0, 2.0, 3.0])
                assert found.dtype == expected.dtype and found.requires_grad == expected.requires_grad
                agree(found, expected)


def test_inside_of_another_cell():
    inner = lf.cell(both)
    outer = lf.cell(lambda a, b: inner(a, b) * inner(b, a))
    for _ in range(4):
        x = arguments()["expression"]
        agree(inner(x, x + 1), both(x, x + 1))
        agree(outer(x, x + 1), both(x, x + 1) * both(x + 1, x))


def test_draws():
    cell = lf.cell(lambda x, p: lf.dropout(x, 0.5) + p)

    def drawn(function):
        lf.seed(3)
        x = lf.constant(np.ones(50, "f4")) * 1
        return [function(x, p).numpy() for p in (0.0, 1.0, 2.0, 3.0)]

    for _ in range(3):
        for a, b in zip(drawn(cell), drawn(cell.__wrapped__), strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients():
    cell = lf.cell(lambda a, b, p: a * b + a * p)
    for _ in range(3):
        W.zero_grad()
        x = lf.constant(np.array([1.0, 2.0, 3.0], "f4")) * W
        lf.sum(cell(x, x + 1, W)).backward()
        found = W.grad
        W.zero_grad()
        x = lf.constant(np.array([1.0, 2.0, 3.0], "f4")) * W
        lf.sum(cell.__wrapped__(x, x + 1, W)).backward()
        np.testing.assert_allclose(found, W.grad, rtol=1e-5)


def test_nothing_is_kept_alive():
    def used():
        module = Scale()
        cell = lf.cell(lambda x: x * module.weight)
        for _ in range(4):
            x = arguments()["expression"]
            module(x), cell(x)
        return [weakref.ref(o) for o in (module, module.weight, cell)]

    references = used()
    lf.constant(0.0)
    gc.collect()
    assert [r() for r in references] == [None] * 3


def test_threads_find_the_ways_of_each_other():
    cell = lf.cell(both)
    failures = []

    def run(seed):
        order = np.random.default_rng(seed).permutation(len(PAIRS))
        try:
            for k in order[:60]:
                given = arguments()
                agree(cell(given[PAIRS[k][0]], given[PAIRS[k][1]]), both(given[PAIRS[k][0]], given[PAIRS[k][1]]))
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_text_that_was_put_together_is_the_same_kind():
    """Kinds are looked up by identity."""
    tape = current_tape()
    first, second = (kinds_of(("".join(["_l0", "_reverse"]), 1.5), tape) for _ in range(2))
    assert first == ("_l0_reverse", float) and first[0] is second[0]


class Along(nn.Module):
    """Steps whose results are states of several forms, with a number that is payload and something to see."""

    def __init__(self):
        super().__init__()
        self.w = lf.Parameter(np.array([0.5, -0.25, 1.0], "f4"))
        self.factor = 2.0

    @lf.cell
    def one(self, name, x, state, mask=None):
        h = lf.tanh(self.w * x + state) * self.factor
        return h if mask is None else h * mask

    @lf.cell
    def two(self, name, x, state, mask=None):
        h, c = state
        c = c * lf.sigmoid(x) + self.factor
        h = lf.tanh(c) + h * self.w
        return (h, c) if mask is None else (h * mask, c)

    @lf.cell
    def swapped(self, name, x, state, mask=None):
        """Its operands do not come in the order of its arguments."""
        h, c = state
        return c * self.w + x, h - x

    @lf.cell
    def drawn(self, name, x, state, mask=None):
        return lf.dropout(state, 0.5, training=True) + x * self.w

    @lf.cell
    def listed(self, name, x, state, mask=None):
        return [state[0] * x * self.w]

    def plain(self, name, x, state, mask=None):
        return state * x * self.w


def state_of(step, values):
    parts = [lf.constant(v) for v in values]
    return {"two": tuple(parts), "swapped": tuple(parts), "listed": parts[:1]}.get(step, parts[0])


@pytest.mark.parametrize("step", ["one", "two", "swapped", "drawn", "listed", "plain"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_steps_along_are_calls_one_by_one(step, masked, seed):
    """In whatever order the kinds of x come, and if something that the step sees has changed before."""
    model, rng = Along(), np.random.default_rng(seed)
    for factor in (2.0, 2.0, -1.0):
        model.factor = factor
        found = []
        for together in (False, True, True):
            lf.seed(seed)
            rng = np.random.default_rng(seed)
            kinds = arguments()
            start = [np.array([0.1, 0.2, 0.3], "f4"), np.array([0.3, -0.2, 1.0], "f4")]
            names = rng.choice(["expression", "another", "earlier", "array", "parameter"], rng.integers(1, 9))
            xs = [kinds["another"] * k if k % 3 else kinds[name] for k, name in enumerate(names)]
            after = (kinds["expression"] + 1 if masked else None,)
            state, method = state_of(step, start), getattr(model, step)
            if together:
                states = recurrence(method, ("name",), xs, state, after)
            else:
                states = []
                for x in xs:
                    states.append(method("name", x, states[-1] if states else state, *after))
            ends = states[-1] if isinstance(states[-1], tuple | list) else [states[-1]]
            model.zero_grad()
            lf.sum(lf.concatenate(list(ends))).backward()
            found.append([np.concatenate(values(s)) for s in states] + [np.array(model.w.grad)])
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6)


def test_steps_along_are_nodes_of_the_same_kind():
    """As many rows as calls one by one, and the same signatures."""
    model, kinds = Along(), arguments()
    xs = [kinds["another"] * k for k in range(6)]
    rows = []
    for together in (False, True, False, True):
        state = state_of("two", [np.zeros(3, "f4"), np.ones(3, "f4")])
        tape = current_tape()
        first = len(tape.signatures)
        if together:
            recurrence(model.two, ("name",), xs, state, (None,))
        else:
            for x in xs:
                state = model.two("name", x, state, None)
        rows.append(list(tape.signatures)[first:])
    assert rows[0] == rows[1] == rows[2] == rows[3]
    assert len(rows[0]) == 12


@pytest.mark.skipif(not COMPILED, reason="without the core every way is code")
@pytest.mark.parametrize("step", ["one", "two"])
@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_ways_of_different_settings_are_found_alike(step, order):
    """Under no_grad the kinds of arguments may be the same: neither mode goes through the code of the other."""
    model = Along()
    state = state_of(step, [np.zeros(3, "f4"), np.ones(3, "f4")])

    def called(grad):
        with lf.using(grad=grad):
            x = lf.constant(np.array([0.5, -1.0, 2.0], "f4"))
            return values(getattr(model, step)("name", x, state))

    expected = [called(grad) for grad in order for _ in range(3)]

    def refused(*arguments):
        raise AssertionError("a known way was not found")

    getattr(model, step).__cell__.ways_of(model).otherwise = refused
    for grad in (*order, *order):
        agree(np.concatenate(called(grad)), np.concatenate(expected[0]))

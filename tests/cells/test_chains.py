"""Elementwise nodes that stand together are one node, and nothing changes but the speed."""

import functools
import gc
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyflow as lf
from lazyflow import core, optim
from lazyflow.cells.chains import MOST_MEMBERS, WIDEST, Chains
from lazyflow.run import forward
from lazyflow.settings import BATCHINGS
from tests import programs as P

if core.machine is None:
    pytest.skip("the core was not compiled", allow_module_level=True)

SLOW = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
N = P.N
NAMES = (
    *(
        "add",
        "multiply",
        "same operand twice",
        "tanh",
        "sigmoid",
        "scalar",
        "reversed scalar",
        "elu",
        "detach",
        "where",
    ),
    *("parameter as data", "parameter alone", "shared matrix", "dot", "norm", "element", "halves", "window", "reshape"),
    *("list sum", "embedding", "constant", "mixed dtype"),
)


@pytest.fixture(autouse=True, scope="module")
def chains():
    """Chains of whatever stands together, also of NumPy calls, for which nothing has to be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "CHAINS", Chains(("core", "numpy"), fewest=1))
        yield forward.CHAINS


def dense(gradient, shape):
    if gradient is None:
        return np.zeros(shape)
    return gradient.to_dense() if hasattr(gradient, "to_dense") else gradient


def gradients(parameters):
    return {name: dense(p.grad, p.shape) for name, p in parameters.items()}


def check(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=str(name))


def run(batch, seed, roots, watched=(), late=(), **options):
    """Values, gradients of parameters, and those of ``watched`` values (example and position), with hooks that come
    before anything is computed or, of ``late`` ones, after; some of them replace the gradient."""
    parameters = {name: lf.Parameter(value) for name, value in P.arrays(seed).items()}
    found = {}

    def watch(key, values):
        value = values[key[0]][key[1] % len(values[key[0]])]
        if value.requires_grad:
            value.register_hook(lambda g: found.update({("seen", *key): g.copy()}) or (g * 2 if key[1] % 2 else None))

    with lf.using(**options):
        values = [
            program.run(False, parameters, [lf.constant(a) for a in x])
            for program, x in zip(batch, P.example_inputs(seed + 1, len(batch)), strict=True)
        ]
        for key in watched:
            watch(key, values)
        loss = lf.mean([lf.sum(lf.tanh(v[-1])) for v in values])
        asked = [v[i % len(v)] for v in values for i in roots]
        found.update(enumerate(lf.forward([loss, *asked])))
        for run in loss.tape.runs:
            run.plan.check()
        for key in late:
            watch(key, values)
        if loss.requires_grad:
            loss.backward()
        found["the rest"] = np.concatenate([v.numpy() for some in values for v in some])
    return {**found, **gradients(parameters)}


@st.composite
def batches(draw):
    """A program for most of the examples, and others."""
    first = draw(P.programs(NAMES))
    return [first] * draw(st.integers(1, 3)) + draw(st.lists(P.programs(NAMES), max_size=2))


@SLOW
@given(batches(), st.integers(0, 999), st.lists(st.integers(0, 9), max_size=2), st.sampled_from(BATCHINGS))
def test_values_and_gradients_are_those_of_each_node_by_itself(batch, seed, roots, batching):
    expected = run(batch, seed, roots, batching="none", fuse="off")
    check(run(batch, seed, roots, batching=batching, fuse="numpy"), expected)


KEYS = st.lists(st.tuples(st.just(0), st.integers(0, 12)), max_size=2)


@SLOW
@given(batches(), st.integers(0, 999), KEYS, KEYS)
def test_hooks_before_and_after_the_values_are_there(batch, seed, watched, late):
    late = [(0, i) for _, i in late if not used_views(batch[0], i)]
    watched = [(0, i) for _, i in watched if not used_views(batch[0], i)]
    expected = run(batch, seed, (), watched, late, batching="none", fuse="off")
    check(run(batch, seed, (), watched, late, fuse="numpy"), expected)


def used_views(program, i):
    """Whether the value is a view, of which a hook would have to come before its first use."""
    return program.steps[i % len(program.steps)][0] == "reshape"


def lstm(W, U, s, x, length):
    """A sum that is cut into gates, a memory that two operations read, a parameter and a number as factors."""
    h = c = lf.constant(np.zeros(s.shape, s.dtype))
    states = []
    for t in range(length):
        i, f, o, u = lf.split(lf.matmul(W, lf.constant(x[t])) + lf.matmul(U, h), 4)
        c = lf.sigmoid(i) * lf.tanh(u) + lf.sigmoid(f) * c * s
        h = lf.sigmoid(o) * lf.tanh(c) * (1 + 0.1 * t)
        states.append(h)
    return states


def lstm_results(dtype, size=5, lengths=(3, 5, 3, 4), **options):
    rng = np.random.default_rng(0)
    arrays = {
        "W": rng.normal(size=(4 * size, size)),
        "U": rng.normal(size=(4 * size, size)),
        "s": rng.normal(size=size),
    }
    parameters = {name: lf.Parameter((0.5 * a).astype(dtype)) for name, a in arrays.items()}
    with lf.using(dtype=dtype, **options):
        states = [lstm(*parameters.values(), rng.normal(size=(n, size)).astype(dtype), n) for n in lengths]
        loss = lf.sum([lf.sum(h * h) for some in states for h in some])
        launches = lf.explain(loss).launches
        loss.backward()
        return launches, {"loss": loss.numpy(), **gradients(parameters)}


@pytest.mark.parametrize("fuse", ["numpy", "core"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_recurrence_with_both_printers(fuse, dtype):
    many, expected = lstm_results("float64", batching="none", fuse="off")
    plain, _ = lstm_results("float64", fuse="off")
    few, found = lstm_results(dtype, fuse=fuse)
    check(found, expected, 1e-10 if dtype == "float64" else 2e-5)
    assert few < plain * 0.6 < many * 0.3


def test_all_steps_run_alike_whatever_part_of_them_is_read():
    """A memory that nobody reads after the last step is a result all the same."""
    parts = [lf.Parameter(np.full(shape, 0.1)) for shape in ((8, 2), (8, 2), (2,))]
    loss = lf.sum([lf.sum(lstm(*parts, np.ones((n, 2)), n)[-1]) for n in (2, 3, 4)])
    with lf.using(fuse="core"):
        steps = [g for g in lf.explain(loss).groups if g.operation.startswith("multiply(")]
    assert [g.nodes for g in steps] == [9, 6, 3]  # the first step's memory has no gradient


def table(rows=8):
    return lf.Parameter(np.random.default_rng(0).normal(size=(rows, 3)))


def between(x, k):
    """What stands between members and reads one of them, which a later one needs: they cannot all be one node."""
    y = lf.tanh(x)
    z = lf.exp(y)
    total = lf.sum(y)
    return lf.sum(z * total + y)


def parts(x, k):
    """A sum that is cut, and whose parts change places."""
    first, second = lf.split(lf.concatenate([x, x * 2.0]) + lf.concatenate([lf.sin(x), x]), 2)
    return lf.sum(lf.tanh(first) * second if k % 2 else lf.tanh(second) * first)


def part_between(x, k):
    whole = lf.concatenate([x, x]) * lf.concatenate([x, lf.sin(x)])
    z = lf.tanh(whole[:3]) * whole[3:]
    return lf.sum(z * lf.sum(whole))


def part_twice(x, k):
    whole = lf.concatenate([x, x]) * lf.concatenate([x, lf.exp(x)])
    return lf.sum(lf.tanh(whole[:3]) * whole[1:4] + whole[3:])


_W = np.random.default_rng(1).normal(size=(3, 3))


@lf.cell
def _cell(x, y):
    return lf.tanh(lf.matmul(lf.constant(_W), x) * y), lf.sigmoid(x) + y


def around_cells(x, k):
    """Chains before, between and behind calls of a cell with two results, which has to stand next to them."""
    h, c = lf.tanh(x) * 0.5, lf.sigmoid(x * 1.5) * x
    for _ in range(2 + k % 2):
        h, c = _cell(lf.tanh(c) * h, h * h + c)
        h, c = lf.tanh(h) * c, lf.tanh(c) + h
    return lf.sum(h * c)


PROGRAMS = {f.__name__: f for f in (between, parts, part_between, part_twice, around_cells)}


def results_of(program, **options):
    w = table()
    with lf.using(**options):
        loss = lf.sum([program(lf.embedding(w, k), k) for k in range(8)])
        loss.backward()
    return {"loss": loss.numpy(), "w": dense(w.grad, w.shape)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_chains_of_a_certain_form(name):
    check(results_of(PROGRAMS[name], fuse="numpy"), results_of(PROGRAMS[name], fuse="off", batching="none"))


def test_a_value_of_which_parts_are_read_is_asked_for():
    x = [lf.constant(np.arange(4.0) + k) for k in range(8)]
    whole = [a * 2.0 for a in x]
    products = [lf.tanh(w[:2]) * w[2:] for w in whole]
    with lf.using(fuse="numpy"):
        found = lf.forward([*products, *whole])
    np.testing.assert_allclose(found[8:], [2 * (np.arange(4.0) + k) for k in range(8)])
    np.testing.assert_allclose(found[:8], [np.tanh(w[:2]) * w[2:] for w in found[8:]])


def average(count):
    """An exponential moving average: more members than a chain may have."""
    w = lf.Parameter(np.array([0.5, -1.0]))
    h = w * 1.0
    for t in range(count):
        h = h * 0.9 + lf.sin(w * float(t)) * 0.1
    loss = lf.sum(h)
    loss.backward()
    return {"loss": loss.numpy(), "w": w.grad}


def test_a_recurrence_longer_than_a_chain():
    with lf.using(batching="none", fuse="off"):
        expected = average(2 * MOST_MEMBERS)
    with lf.using(fuse="numpy"):
        check(average(2 * MOST_MEMBERS), expected)


def in_chains(count, w, wrap=lambda y: y):
    """``count`` values in the middle of chains, and the loss."""
    middle = [lf.tanh(lf.embedding(w, k) * (k + 1.5)) for k in range(count)]
    return middle, lf.sum([lf.sum(lf.exp(wrap(y)) * y) for y in middle])


@pytest.fixture
def numpy_kernels():
    with lf.using(fuse="numpy"):
        yield


@pytest.mark.usefixtures("numpy_kernels")
def test_values_inside_are_computed_when_they_are_asked_for():
    w = table()
    middle, loss = in_chains(8, w)
    loss.forward()
    assert not any(y.tape.has_value(y.row) for y in middle)
    expected = np.tanh(w.numpy() * (np.arange(8)[:, None] + 1.5))
    np.testing.assert_allclose([y.numpy() for y in middle], expected)
    later = loss + lf.sum([lf.sum(y * 2) for y in middle])  # a tape that imports some of them
    later.backward()
    factors = np.arange(8)[:, None] + 1.5
    slope = (np.exp(expected) * (1 + expected) + 2) / np.cosh(w.numpy() * factors) ** 2 * factors
    np.testing.assert_allclose(dense(w.grad, w.shape), slope)


@pytest.mark.usefixtures("numpy_kernels")
def test_what_reads_a_parameter_keeps_its_value_when_the_parameter_changes():
    w, b = table(), lf.Parameter(np.ones(3))
    sums = [lf.embedding(w, k) + b for k in range(8)]
    loss = lf.sum([lf.sum(lf.tanh(y) * y) for y in sums])
    loss.backward()
    before = w.numpy() + 1
    optim.SGD([b], lr=1.0).step()
    np.testing.assert_array_equal([y.numpy() for y in sums], before)
    assert not np.array_equal(loss.numpy(), (loss.forward(), loss.numpy())[1])


@pytest.mark.usefixtures("numpy_kernels")
def test_a_hook_that_comes_late_sees_the_same_draws():
    w = table()
    middle, loss = in_chains(8, w, lambda y: lf.dropout(y, 0.5))
    loss.forward()
    before, seen = loss.numpy(), []
    middle[3].register_hook(lambda g: seen.append(g.copy()))
    loss.backward()
    np.testing.assert_array_equal(loss.numpy(), before)
    assert len(seen) == 1 and seen[0].shape == (3,)
    loss.backward()
    np.testing.assert_array_equal(seen[0], seen[1])


@pytest.mark.usefixtures("numpy_kernels")
def test_a_hook_that_comes_while_backward_runs():
    middle, loss = in_chains(8, table())
    loss.forward()
    later = loss * 2
    later.register_hook(lambda g: middle[0].register_hook(print) and None)
    with pytest.raises(lf.GradientError, match="before backward"):
        (later + 1).backward()


@pytest.mark.usefixtures("numpy_kernels")
def test_a_kept_gradient_of_a_value_inside():
    w = table()
    middle, loss = in_chains(8, w)
    middle[2].retain_grad()
    loss.backward()
    y = middle[2].numpy()
    np.testing.assert_allclose(middle[2].grad, np.exp(y) * (1 + y))
    loss.forward()
    middle[5].retain_grad()  # a node of its own, for what comes later
    lf.sum(middle[5] * 3).backward()
    np.testing.assert_allclose(middle[5].grad, 3.0)


@pytest.mark.usefixtures("numpy_kernels")
def test_a_gradient_that_reaches_some_of_the_chains():
    w = table()
    middle, loss = in_chains(8, w)
    parts = [lf.sum(lf.exp(y) * lf.sin(y)) for y in middle]
    lf.forward([loss, *parts])
    parts[3].backward()
    y = np.tanh(w.numpy()[3] * 4.5)
    expected = np.zeros(w.shape)
    expected[3] = np.exp(y) * (np.sin(y) + np.cos(y)) * (1 - y**2) * 4.5
    np.testing.assert_allclose(dense(w.grad, w.shape), expected)


def losses_of_a_kept_root(**options):
    w = table()
    with lf.using(**options):
        _, loss = in_chains(8, w)
        optimizer, found = optim.SGD([w], lr=0.1), []
        for _ in range(4):
            optimizer.zero_grad()
            loss.backward()
            found.append(loss.item())
            optimizer.step()
    return found


def test_kept_roots_follow_the_parameters():
    found = losses_of_a_kept_root(fuse="numpy")
    assert sorted(found, reverse=True) == found
    np.testing.assert_allclose(found, losses_of_a_kept_root(fuse="off", batching="none"))


@pytest.mark.usefixtures("numpy_kernels")
def test_without_gradients_memory_is_used_again():
    with lf.no_grad():
        middle, loss = in_chains(8, table())
        asked = [middle[1], loss]
        found = lf.forward(asked)
    with lf.using(fuse="off"):
        middle, loss = in_chains(8, table())
        check(dict(enumerate(found)), dict(enumerate(lf.forward([middle[1], loss]))))


def count(loss):
    return sum(g.nodes for g in lf.explain(loss, groups=99).groups if "(" in g.operation)


@pytest.mark.parametrize(
    "options", [{"fuse": "off"}, {"batching": "none"}, {"check_finite": True}, {"fuse": "numpy", "fewest": 9}]
)
def test_where_there_are_none(options, monkeypatch):
    monkeypatch.setattr(forward, "CHAINS", Chains(("core", "numpy"), fewest=options.pop("fewest", 8)))
    with lf.using(**options):
        _, loss = in_chains(8, table())
        assert count(loss) == 0
    with lf.using(fuse="numpy"):
        _, loss = in_chains(9, table(9))
        assert count(loss) == 9


def test_integers_halves_and_other_sizes_stay_out():
    x = [lf.constant(np.arange(4)) for _ in range(8)]
    half = [lf.constant(np.ones(4, np.float16)) for _ in range(8)]
    columns = [lf.constant(np.ones((2, 1))) for _ in range(8)]
    loss = lf.sum([lf.sum(a * a - a) + lf.sum(lf.tanh(h) * h) for a, h in zip(x, half, strict=True)])
    loss = loss + lf.sum([lf.sum((c * np.ones((1, 3))) * (np.ones((2, 1)) + c)) for c in columns])
    with lf.using(fuse="numpy"):
        assert count(loss) == 0


def test_the_name_of_a_chain_is_readable_and_bounded():
    w = table()
    y = [lf.embedding(w, k) for k in range(8)]
    for _ in range(12):
        y = [lf.sigmoid(a * 2.0) * lf.tanh(a) for a in y]
    with lf.using(fuse="numpy"):
        _, short = in_chains(8, w)
        names = [g.operation for g in lf.explain(short).groups]
        long = [g.operation for g in lf.explain(lf.sum(y)).groups if "(" in g.operation]
    assert "multiply(exp(tanh(multiply)), tanh(multiply))" in names
    assert long and all(len(name) <= 2 * WIDEST and "..." in name for name in long)


@pytest.mark.usefixtures("numpy_kernels")
def test_explain_shows_what_runs():
    _, loss = in_chains(8, table())
    explained = lf.explain(loss)
    loss.forward()
    plan = loss.tape.runs[0].plan
    assert (explained.nodes, explained.launches) == (len(plan.structure), len(plan.launches))


def test_what_keeps_two_chains_apart_is_said():
    w = table(16)
    rows = [lf.embedding(w, k) for k in range(16)]
    loss = lf.sum([lf.tanh(a) * 2.0 for a in rows[:8]]) + lf.sum([lf.tanh(a) * lf.tanh(a) for a in rows[8:]])
    with lf.using(fuse="numpy"):
        groups = [g for g in lf.explain(loss).groups if g.operation.startswith("multiply(")]
    assert sorted(g.nodes for g in groups) == [8, 8]


def test_structures_are_known_again_and_few(monkeypatch):
    found = Chains(("numpy",), fewest=1, most=2, age=3)
    monkeypatch.setattr(forward, "CHAINS", found)
    w = table()

    def run(k, examples=1):
        with lf.using(fuse="numpy"):
            ys = [lf.embedding(w, 0) for _ in range(examples)]
            for _ in range(k):
                ys = [lf.tanh(y) for y in ys]
            lf.sum([lf.sum(y) for y in ys]).forward()

    for _ in range(3):
        run(2)
        run(3)
    known = {len(structure): signature for structure, (signature, _) in found.known.items()}
    run(4)  # no room
    assert {len(s) for s in found.known} == {2, 3}
    for examples in (2, 3, 4):  # graphs of their own: one that is known does not come by here again
        run(3, examples)
    run(4, 2)  # takes the place of what has not come by for long
    assert {len(s) for s in found.known} == {3, 4}
    assert next(signature for s, (signature, _) in found.known.items() if len(s) == 3) is known[3]


def test_a_structure_goes_with_its_parameter(monkeypatch):
    found = Chains(("numpy",), fewest=1, most=1)
    monkeypatch.setattr(forward, "CHAINS", found)

    def run():
        p = lf.Parameter(np.ones(3))
        with lf.using(fuse="numpy"):
            lf.sum(lf.tanh(lf.constant(np.ones(3))) * p).forward()
        return weakref.ref(p)

    dead = run()
    gc.collect()
    assert dead() is None
    run()
    assert len(found.known) == 1


def zero_then_more(examples=6):
    """A matrix, and for each example tanh(W x), which is 0 in the first one: there sqrt has an infinite slope."""
    w = lf.Parameter(np.full((3, 3), 0.3))
    return w, [lf.tanh(w @ lf.constant(np.full(3, 0.1 * i))) for i in range(examples)]


@pytest.mark.parametrize("use", ["detached", "compared", "another root"])
def test_no_gradient_comes_from_what_the_root_does_not_reach(use):
    """Zero times infinity is not zero: a member of a chain that no gradient reaches must not take part."""
    w, values = zero_then_more()
    roots = [lf.sum(lf.sqrt(a)) for a in values]
    if use == "detached":
        others = lf.mean([lf.sum(lf.sqrt(a).detach()) for a in values])
    elif use == "compared":
        others = lf.mean([lf.sum((lf.sqrt(a) > 0.5) * 1.0) for a in values])
    else:
        others = lf.mean(roots)
    loss = lf.mean([lf.sum(w @ a) for a in values])
    with lf.using(fuse="core"):
        if use == "another root":
            lf.forward([loss, others])
            loss.backward()
        else:
            (loss + others).backward()
    assert np.isfinite(w.grad).all() and w.grad.any()


@pytest.mark.parametrize("which", [0, 1])
def test_a_late_hook_on_a_value_that_is_read_inside_and_outside_of_chains(which):
    w, values = zero_then_more()
    pairs = [(a, lf.sigmoid(a * 2)) for a in values]
    loss = lf.mean([lf.sum(b) + lf.sum(w @ a) + lf.sum(w @ b) for a, b in pairs])
    seen = []
    with lf.using(fuse="core"):
        loss.numpy()
        pairs[3][which].register_hook(lambda g: seen.append(g.copy()))
        loss.backward()
    late, w.grad = w.grad, None
    with lf.using(fuse="off", dedupe=False):
        w2, values = lf.Parameter(w.array), None
        a = [lf.tanh(w2 @ lf.constant(np.full(3, 0.1 * i))) for i in range(6)]
        pairs = [(x, lf.sigmoid(x * 2)) for x in a]
        expected = []
        pairs[3][which].register_hook(lambda g: expected.append(g.copy()))
        lf.mean([lf.sum(b) + lf.sum(w2 @ x) + lf.sum(w2 @ b) for x, b in pairs]).backward()
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    np.testing.assert_allclose(late, w2.grad, rtol=1e-6)


NOT_REACHED = {
    "detached": lambda x, w, v: lf.tanh(w * x) * lf.tanh(v * x).detach(),
    "detached twice": lambda x, w, v: lf.tanh(w * x) * lf.exp(lf.tanh(v * x).detach() * lf.tanh(v + x)).detach(),
    "a sign": lambda x, w, v: lf.tanh(w * x) * lf.sign(lf.tanh(v * x)),
    "a bound": lambda x, w, v: lf.clip(lf.tanh(w * x), lf.tanh(v * x).detach() - 5.0, 5.0) * 2,
    "a comparison": lambda x, w, v: lf.where(lf.tanh(v * x) > 0.5, lf.tanh(w * x), x) * 2,
}


@pytest.mark.parametrize("form", [lambda w: w, lambda w: lf.Parameter(np.eye(3)) @ w], ids=["parameter", "value"])
@pytest.mark.parametrize("body", NOT_REACHED.values(), ids=NOT_REACHED)
def test_what_no_gradient_flows_to_has_none(body, form):
    found = {}
    for fuse in ("off", "auto"):
        w, v = lf.Parameter(np.array([0.5, -1.0, 2.0])), lf.Parameter(np.array([1.0, 0.25, -0.5]))
        optimizer = optim.Adam([w, v], lr=0.1, weight_decay=0.1)
        with lf.using(fuse=fuse):
            lf.sum([lf.sum(body(np.full(3, k / 4), form(w), form(v))) for k in range(1, 9)]).backward()
        assert v.grad is None and w.grad is not None
        found[fuse] = w.grad.copy()
        optimizer.step()
        np.testing.assert_array_equal(v.numpy(), [1.0, 0.25, -0.5])
    np.testing.assert_allclose(found["auto"], found["off"], rtol=1e-12)


MANY = {
    "product": lambda a, b: a * b,
    "largest": lf.maximum,
    "length": lf.hypot,
    "condition": lambda a, b: lf.where(b > 0.0, 0.5 * a, a * b),
}


@pytest.mark.parametrize("count", [31, 32, 33, 100])
@pytest.mark.parametrize("through", MANY.values(), ids=MANY)
def test_however_many_values_a_chain_reads_and_keeps(through, count):
    """A loop over that many factors reads each of them, keeps what backward needs, and hands a gradient to each."""
    found = {}
    for fuse in ("off", "core"):
        factors = lf.Parameter(np.random.default_rng(0).uniform(-1.5, 1.5, size=(count, 2)))
        results = [functools.reduce(through, [x * 1.0 for x in factors * k]) for k in (0.9, 1.0, 1.1, 1.2)]
        with lf.using(fuse=fuse):
            lf.sum([lf.sum(result) for result in results]).backward()
        found[fuse] = factors.grad
    np.testing.assert_allclose(found["core"], found["off"], rtol=1e-12, atol=1e-300)


def test_a_cell_of_many_operands():
    """The body of a cell is one kernel, too, however long the list is that it is given."""

    @lf.cell
    def product(values):
        return functools.reduce(lf.multiply, values)

    weight = lf.Parameter(np.array([1.0, 0.5]))
    rows = np.random.default_rng(0).uniform(0.9, 1.1, size=(3, 90, 2))
    lf.sum([lf.sum(product([weight * x for x in row])) for row in rows]).backward()
    np.testing.assert_allclose(weight.grad, 90 * rows.prod(1).sum(0) * weight.numpy() ** 89, rtol=1e-12)

"""Long tapes read in parts: values and gradients are those of every node alone, whatever was read before.

The reference computes one node at a time in NumPy, in the order of recording, with a reverse mode of its own, and
knows of no tape. Tapes count as long, and gaps as wide, from a few rows on here, so that small programs have parts.
"""

import gc
import random
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

import lazyflow as lf
from lazyflow.graph import reading as graph_reading
from lazyflow.record.expr import is_evaluated
from tests.forms import FORMS, planning

N = 4
HOW = pytest.mark.parametrize("how", FORMS)


@contextmanager
def reading(how, long=8, gap=2):
    """Plan by one form of the passes; read tapes of ``long`` rows in parts."""
    before = graph_reading.LONG, graph_reading.GAP
    graph_reading.LONG, graph_reading.GAP = long, gap
    try:
        with planning(how):
            yield
    finally:
        graph_reading.LONG, graph_reading.GAP = before


class Reference:
    """Nodes as (function of operands and parameters, its vjp, operands); ``params`` are arrays by name."""

    def __init__(self, params):
        self.params, self.nodes = params, []

    def add(self, value, vjp, *operands):
        self.nodes.append((value, vjp, operands))
        return len(self.nodes) - 1

    def values(self):
        found = []
        for value, _, operands in self.nodes:
            found.append(value(self.params, *(found[k] for k in operands)))
        return found

    def gradients(self, seeds):
        """Of the parameters, for cotangents by node."""
        values = self.values()
        cotangents = [seeds.get(i, 0) * np.ones_like(v) for i, v in enumerate(values)]
        found = {name: np.zeros_like(v) for name, v in self.params.items()}
        for i in reversed(range(len(values))):
            _, vjp, operands = self.nodes[i]
            if vjp is None or not np.any(cotangents[i]):
                continue
            parts, parameters = vjp(self.params, cotangents[i], *(values[k] for k in operands))
            for k, part in zip(operands, parts, strict=True):
                cotangents[k] = cotangents[k] + part
            for name, part in parameters.items():
                found[name] = found[name] + part
        return found


def _embedded(g, low, high):
    out = np.zeros(N)
    out[low:high] = g
    return out


class World:
    """The same program twice: as expressions, and as nodes of a `Reference`. ``wide`` are vectors of N elements,
    ``narrow`` of two; each is an expression and its node."""

    def __init__(self, chance):
        self.chance = chance
        rng = np.random.default_rng(chance.randrange(100))
        arrays = {"W": rng.normal(size=(N, N)) * 0.5, "p": rng.normal(size=N)}
        self.parameters = {name: lf.Parameter(a) for name, a in arrays.items()}
        self.reference = Reference({name: a.copy() for name, a in arrays.items()})
        self.wide, self.narrow = [], []
        W, p = self.parameters.values()

        @lf.cell
        def step(x, h):
            h = lf.tanh(W @ h + x * p)
            return h, h * x, h[1:3]

        self.step = step
        for _ in range(2):
            array = rng.normal(size=N)
            self.wide.append((lf.constant(array), self.reference.add(lambda P, array=array: array, None)))

    def pick(self, values=None, far=0.3):
        """One of the latest few, or, so often as ``far`` says, of all."""
        values = self.wide if values is None else values
        low = 0 if self.chance.random() < far else max(0, len(values) - 6)
        return values[self.chance.randrange(low, len(values))]

    def record(self):
        """One more step of some kind."""
        kinds = [self.scaled, self.product, self.affine, self.part, self.cell, self.listed, self.detached]
        self.chance.choice(kinds if not self.narrow else [*kinds, self.joined, self.added_narrow])()

    def scaled(self):
        (x, i), c = self.pick(), self.chance.choice([0.5, 1.5, -1.0])
        node = self.reference.add(lambda P, x: np.tanh(x) * c, lambda P, g, x: ([g * c * (1 - np.tanh(x) ** 2)], {}), i)
        self.wide.append((lf.tanh(x) * c, node))

    def product(self):
        (x, i), (y, k) = self.pick(), self.pick()
        node = self.reference.add(lambda P, x, y: x * y * 0.5, lambda P, g, x, y: ([g * y / 2, g * x / 2], {}), i, k)
        self.wide.append((x * y * 0.5, node))

    def affine(self):
        (x, i), P = self.pick(), self.parameters

        def vjp(P, g, x):
            return [P["W"].T @ g], {"W": np.outer(g, x), "p": g}

        node = self.reference.add(lambda P, x: P["W"] @ x + P["p"], vjp, i)
        self.wide.append((lf.affine(P["W"], P["p"], x), node))

    def part(self):
        (x, i), low = self.pick(far=0.9), self.chance.randrange(3)
        node = self.reference.add(lambda P, x: x[low : low + 2], lambda P, g, x: ([_embedded(g, low, low + 2)], {}), i)
        self.narrow.append((x[low : low + 2], node))

    def joined(self):
        (x, i), (y, k) = self.pick(self.narrow), self.pick(self.narrow)
        node = self.reference.add(lambda P, x, y: np.concatenate([x, y]), lambda P, g, x, y: ([g[:2], g[2:]], {}), i, k)
        self.wide.append((lf.concatenate([x, y]), node))

    def added_narrow(self):
        (x, i), (y, k) = self.pick(self.narrow), self.pick(self.narrow)
        node = self.reference.add(lambda P, x, y: x + 2 * y, lambda P, g, x, y: ([g, 2 * g], {}), i, k)
        self.narrow.append((x + 2 * y, node))

    def listed(self):
        some = [self.pick() for _ in range(self.chance.randint(2, 5))]
        node = self.reference.add(
            lambda P, *xs: sum(xs) / 4, lambda P, g, *xs: ([g / 4] * len(xs), {}), *(i for _, i in some)
        )
        self.wide.append((lf.sum([x for x, _ in some]) / 4, node))

    def detached(self):
        (x, i), (y, k) = self.pick(), self.pick()
        if not x.requires_grad or is_evaluated(y):  # of a computed value, detach() is a snapshot
            return
        node = self.reference.add(lambda P, x, y: x * y, lambda P, g, x, y: ([g * y, 0 * g], {}), i, k)
        self.wide.append((x * y.detach(), node))

    def cell(self):
        (x, i), (h, k) = self.pick(), self.pick()

        def vjp(P, g, x, h):
            d = g * (1 - np.tanh(P["W"] @ h + x * P["p"]) ** 2)
            return [d * P["p"], P["W"].T @ d], {"W": np.outer(d, h), "p": d * x}

        first, second, third = self.step(x, h)
        a = self.reference.add(lambda P, x, h: np.tanh(P["W"] @ h + x * P["p"]), vjp, i, k)
        b = self.reference.add(lambda P, y, x: y * x, lambda P, g, y, x: ([g * x, g * y], {}), a, i)
        c = self.reference.add(lambda P, y: y[1:3], lambda P, g, y: ([_embedded(g, 1, 3)], {}), a)
        self.wide += [(first, a), (second, b)]
        self.narrow.append((third, c))

    def anywhere(self):
        """Any value; the narrow ones, among which are the views, as often as the others."""
        return self.pick(self.chance.choice([self.wide, self.narrow or self.wide]), far=0.5)

    def ask(self):
        """The values of some, together."""
        some = [self.anywhere() for _ in range(self.chance.randint(1, 3))]
        values = self.reference.values()
        for (_, i), got in zip(some, lf.forward([e for e, _ in some]), strict=True):
            np.testing.assert_allclose(got, values[i], rtol=1e-9, atol=1e-12)

    def differentiate(self):
        """The gradient of one kept value, or of a fresh sum over some."""
        some = [self.anywhere() for _ in range(self.chance.randint(1, 3))]
        weights = [float(self.chance.randint(1, 3)) for _ in some]
        if self.chance.random() < 0.3:
            some, weights = some[:1], [1.0]
            root = some[0][0]
        else:
            root = lf.sum([lf.sum(e) * w for (e, _), w in zip(some, weights, strict=True)])
        if not root.requires_grad:
            return
        seeds = {}
        for (_, i), w in zip(some, weights, strict=True):
            seeds[i] = seeds.get(i, 0) + w
        want = self.reference.gradients(seeds)
        root.backward(np.ones(root.shape))
        for name, parameter in self.parameters.items():
            got = np.zeros_like(want[name]) if parameter.grad is None else parameter.grad
            np.testing.assert_allclose(got, want[name], rtol=1e-9, atol=1e-11, err_msg=name)
            parameter.zero_grad()

    def update(self):
        name = self.chance.choice(list(self.parameters))
        array = self.reference.params[name] * self.chance.choice([0.9, 1.05])
        self.reference.params[name] = array
        self.parameters[name].assign(array)

    def close(self):
        """Any block closes the tape: later rows import of it."""
        with lf.no_grad() if self.chance.random() < 0.5 else lf.using(batching="depth"):
            pass

    def let_go(self):
        for values in (self.wide, self.narrow):
            if len(values) > 8:
                values.pop(self.chance.randrange(len(values)))
        gc.collect(0)


def _run(world, rounds):
    with ExitStack() as blocks:
        blocks.enter_context(lf.using(dtype="float64"))
        for _ in range(rounds):
            for _ in range(world.chance.randint(4, 40)):
                world.record()
            if world.chance.random() < 0.8:
                world.close()
            for _ in range(world.chance.randint(2, 9)):
                what = world.chance.choice([*[world.ask] * 4, world.differentiate, world.update, world.let_go])
                what()


@pytest.mark.host  # which rows are read; seconds each
@HOW
@pytest.mark.parametrize("gap", [0, 2, 5, 12])
def test_random_programs_in_parts(how, gap):
    for seed in range(25):
        with reading(how, gap=gap):
            _run(World(random.Random(f"{seed} {gap}")), rounds=3)


@pytest.mark.host  # which rows are read; seconds each
@HOW
@pytest.mark.parametrize("seed", range(3))
def test_one_long_tape_in_parts(how, seed):
    """With the limits that hold elsewhere: a thousand rows."""
    world = World(random.Random(seed))
    with lf.using(dtype="float64"), reading(how, graph_reading.LONG, graph_reading.GAP):
        world.wide[0] = (lf.constant(np.ones(N)), world.reference.add(lambda P: np.ones(N), None))
        for _ in range(700):
            world.record()
        world.close()
        for k in range(25):
            (world.ask, world.differentiate, world.update, world.ask)[k % 4]()


@HOW
@pytest.mark.parametrize("sealed_by", ["block", "forward"])
def test_a_view_of_what_was_not_read(how, sealed_by):
    with reading(how, graph_reading.LONG, graph_reading.GAP):
        b = lf.constant([1.0, 2.0])
        before = [b * 1.5 for _ in range(200)]
        u = b * 100.0
        after = [b * 2.5 for _ in range(400)]
        s = b * 3.0
        v = u[0:2]
        A = lf.tanh(s)
        if sealed_by == "block":
            with lf.no_grad():
                pass
        else:
            before[0].forward()
        np.testing.assert_allclose(A.numpy(), np.tanh([3.0, 6.0]), rtol=1e-6)
        assert v.numpy().tolist() == [100.0, 200.0]
        assert after[7].numpy().tolist() == [2.5, 5.0]


@pytest.mark.host  # long
@HOW
def test_training_goes_on_from_slices_of_states_of_which_some_scores_were_asked_for(how):
    """Losses and gradients are those of a fresh recording, and of one operation at a time."""

    def model():
        rng = np.random.default_rng(0)
        return [lf.Parameter(rng.normal(size=s) * 0.3) for s in ((6, 6), 6)]

    def states(W, b, count):
        found = []
        for k in range(count):
            h = lf.constant(np.full(6, 0.1 * (k + 1)))
            for _ in range(150):
                h = lf.tanh(lf.affine(W, b, h))
            found.append(h)
        return found

    def train(batching, asked):
        W, b = parameters = model()
        optimizer = lf.optim.SGD(parameters, lr=0.1)
        losses, gradients = [], []
        with lf.using(dtype="float64", batching=batching):
            hs = states(W, b, 8)
            squares = [h * h for h in hs]
            slices = [h[1:4] for h in hs]
            scores = [lf.sum(s) for s in squares]
            with lf.no_grad():
                pass
            if asked:
                lf.forward([scores[2], scores[5]])
            for _ in range(4):
                loss = lf.mean([lf.sum(lf.tanh(s) * (k + 1)) for k, s in enumerate(slices)])
                losses.append(loss.forward().item())
                loss.backward()
                gradients.append([p.grad.copy() for p in parameters])
                optimizer.step()
                optimizer.zero_grad()
        return losses, gradients

    with reading(how, graph_reading.LONG, graph_reading.GAP):
        got, alone, fresh = train("phases", True), train("none", True), train("phases", False)
    for other in (alone, fresh):
        np.testing.assert_allclose(got[0], other[0], rtol=1e-12)
        for a, b in zip(got[1], other[1], strict=True):
            np.testing.assert_allclose(a[0], b[0], rtol=1e-9)
            np.testing.assert_allclose(a[1], b[1], rtol=1e-9)


@HOW
@pytest.mark.parametrize("column", ["operands", "ints", "floats"])
def test_a_torn_tape_is_refused_in_parts_too(how, column):
    with reading(how):
        x = lf.constant([1.0, 2.0])
        first = [x * float(k) for k in range(6)]
        getattr(first[0].tape, column).append(0)  # what another thread does between two appends of this one
        last = [lf.tanh(e)[0:1] for e in first]
        with lf.no_grad():
            pass
        for e in (first[0], last[0], last[5]):
            with pytest.raises(lf.LazyflowError, match="torn"):
                e.numpy()

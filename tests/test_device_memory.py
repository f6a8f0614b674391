"""Memory that runs out on a device: what was needed is said, and nothing is lost or half-done behind it."""

import contextlib
import gc
import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import device as devices
from lazyflow import nn
from tests import simcupy

pytestmark = pytest.mark.gpu
CUDA = "cuda:0"
STEPS = 1000  # more than there are allocations in any of these programs


@pytest.fixture
def allocations():
    """``allocations(k)``: a block in which memory runs out behind the k-th array."""
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator runs out of memory when it is told to: --device simulated")
    return simcupy.cuda.allocations


class Net(nn.Module):
    """A table, a cell, a norm with running averages, a head."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(5, 3), nn.BatchNorm1d(3)
        self.cell, self.head = nn.LSTMCell(3, 3), nn.Linear(3, 2)

    def forward(self, words):
        state = None
        for row in self.norm(lf.stack([self.table(word) for word in words])):
            state = self.cell(row, state)
        return lf.cross_entropy(self.head(state[0]), 1)


def fresh():
    lf.seed(5)
    net = Net()
    return net, lf.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)


def stepped(net, optimizer, words):
    for _ in parts_of_a_step(net, optimizer, words):
        pass


def parts_of_a_step(net, optimizer, words):
    """A training step, which is gone on with for each of its parts; the part is named before it is done."""
    optimizer.zero_grad()
    loss = net(words)
    yield "forward"
    loss.forward()
    yield "backward"
    loss.backward()
    yield "clip"
    lf.optim.clip_grad_norm(net.parameters(), 0.5)
    yield "update"
    optimizer.step()


def state_of(net):
    return {name: np.array(value) for name, value in net.state_dict().items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def failures(allocations, program, least=1, by=1):
    """Run ``program`` with memory for 0, ``by``, 2 ``by``... arrays; yields each time that it ran out. ``least``: the
    number of arrays that it needs at least."""
    for most in range(0, STEPS, by):
        try:
            with allocations(most):
                program()
        except MemoryError:
            yield
        else:
            break
    assert least <= most < STEPS - by


@pytest.mark.parametrize("part", ["forward", "backward", "clip", "update"])
def test_a_training_step(allocations, part):
    """Memory runs out from this part on, in it and behind it."""
    with lf.using(device=CUDA):
        net, optimizer = fresh()
        for words in ([0, 1, 2], [3, 1, 1]):
            stepped(net, optimizer, words)
        expected, torn = state_of(net), set()
        for most in range(0, STEPS, 23):
            net, optimizer = fresh()
            stepped(net, optimizer, [0, 1, 2])
            before, moments = state_of(net), optimizer.state_dict()
            moments["state"] = {
                k: {n: v if n == "step" else v.copy() for n, v in s.items()} for k, s in moments["state"].items()
            }
            try:
                with contextlib.ExitStack() as limits:
                    for now in parts_of_a_step(net, optimizer, [3, 1, 1]):
                        if now == part:
                            limits.enter_context(allocations(most))
            except MemoryError:
                torn.add(now)
                try:
                    optimizer.state_dict()
                except lf.errors.TornError:  # it says so, and goes on from what was saved
                    optimizer.load_state_dict(moments)
                    net.load_state_dict(before)
                else:
                    for name, parameter in net.named_parameters():
                        np.testing.assert_array_equal(parameter.numpy(), before[name])
                net.load_state_dict(before)  # the running averages may have counted the minibatch
                stepped(net, optimizer, [3, 1, 1])
                assert_same(state_of(net), expected)
            else:
                break
        assert part in torn and most < STEPS - 23


def test_the_first_step_of_an_optimizer(allocations):
    """What it keeps is made before anything is changed; behind that it says that it is torn."""
    outcomes = set()
    for most in range(STEPS):
        with lf.using(device=CUDA):
            net, optimizer = fresh()
            net([0, 1, 2]).backward()
            before = state_of(net)
            try:
                with allocations(most):
                    optimizer.step()
            except MemoryError:
                try:
                    optimizer.state_dict()
                    outcomes.add("whole")
                    assert_same(state_of(net), before)
                    optimizer.step()
                    assert any((value != before[name]).any() for name, value in state_of(net).items())
                except lf.errors.TornError:
                    outcomes.add("torn")
            else:
                break
    assert outcomes == {"whole", "torn"}


def test_a_backward_adds_all_gradients_or_none(allocations):
    with lf.using(device=CUDA):
        net, _ = fresh()
        net([0, 1, 2]).backward()
        whole = {name: dense(p.grad) for name, p in net.named_parameters()}
        twice = {name: 2 * gradient for name, gradient in whole.items()}
        root = net([0, 1, 2])
        for _ in failures(allocations, root.backward, least=10, by=5):
            assert_same({name: dense(p.grad) for name, p in net.named_parameters()}, whole)
        assert_same({name: dense(p.grad) for name, p in net.named_parameters()}, twice)


def dense(gradient):
    return devices.to_host(gradient.to_dense() if hasattr(gradient, "to_dense") else gradient)


def test_values_are_those_that_they_would_have_been(allocations):
    with lf.using(device=CUDA):
        net, _ = fresh()
        net.eval()
        roots = [net(words) for words in ([0, 1, 2], [4, 4, 4, 1])]
        assert list(failures(allocations, lambda: lf.forward(roots), least=10))
        again = [net(words).item() for words in ([0, 1, 2], [4, 4, 4, 1])]
    np.testing.assert_allclose([root.item() for root in roots], again, rtol=1e-6)


@pytest.mark.parametrize("source", ["cpu", "cuda:1"])
def test_a_model_moves_whole_or_not_at_all(allocations, source):
    if source != "cpu" and devices.array_module(CUDA).cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    with lf.using(device=source):
        net, optimizer = fresh()
        stepped(net, optimizer, [0, 1, 2])
        before = state_of(net)
        for _ in failures(allocations, lambda: net.to(CUDA), least=10, by=3):
            assert {p.device for p in net.parameters()} == {source}
            gradients = [getattr(p.grad, "values", p.grad) for p in net.parameters()]
            assert {devices.device_of(gradient) for gradient in gradients} == {source}
            assert devices.device_of(net.norm.running_mean) == source
            assert_same(state_of(net), before)
            stepped(*fresh(), [3, 1])  # everything still runs
    assert {p.device for p in net.parameters()} == {CUDA}
    assert_same(state_of(net), before)


def test_a_state_is_loaded_whole_or_not_at_all(allocations):
    with lf.using(device=CUDA):
        net, optimizer = fresh()
        stepped(net, optimizer, [0, 1, 2])
        saved, other = state_of(net), fresh()[0]
        before = state_of(other)
        assert any((before[name] != saved[name]).any() for name in saved)
        for _ in failures(allocations, lambda: other.load_state_dict(saved)):
            assert_same(state_of(other), before)
        assert_same(state_of(other), saved)
        made = lf.optim.Adam(other.parameters())
        moments = optimizer.state_dict()
        for _ in failures(allocations, lambda: made.load_state_dict(moments)):
            assert made.state_dict()["state"] == {}
        assert made.state_dict()["state"].keys() == moments["state"].keys()


def test_making_and_changing_a_parameter(allocations):
    with lf.using(device=CUDA):
        w = lf.Parameter([1.0, 2.0])

        def program():
            with lf.no_grad():
                w.assign([3.0, 4.0])

        for _ in failures(allocations, program):
            assert w.numpy().tolist() == [1, 2]
        assert w.numpy().tolist() == [3, 4]
        made = []
        assert list(failures(allocations, lambda: made.append(nn.Linear(2, 2)))) and len(made) == 1


class Words(nn.Module):
    """A loss of a sentence, with cells or of operations."""

    def __init__(self, cells):
        super().__init__()
        self.cells, self.table = cells, nn.Embedding(9, 12)
        self.cell, self.update = nn.GRUCell(12, 12), nn.Linear(12, 12)

    def forward(self, words):
        state = self.table(words[0])
        for word in words[1:]:
            row = self.table(word)
            state = self.cell(row, state) if self.cells else lf.tanh(self.update(state)) * row
        return lf.sum(state * state)


def gradients_of(model):
    return {name: dense(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def sentences(count):
    return np.random.default_rng(2).integers(0, 9, (count, 7)).tolist()


@contextlib.contextmanager
def limited(room):
    """So many bytes may still be taken."""
    pool = devices.array_module(CUDA).get_default_memory_pool()
    pool.set_limit(size=pool.total_bytes() + room)
    try:
        yield
    finally:
        pool.set_limit(size=0)


@pytest.mark.parametrize("share", [0.2, 0.45, 0.8])
@pytest.mark.parametrize("cells", [True, False])
def test_a_minibatch_that_fits_is_named(allocations, cells, share):
    """In forward or in backward; the smaller one runs where the error is caught, the larger one still held."""
    gc.collect()  # what other tests have left would be let go of in the middle
    with lf.using(device=CUDA):
        model, given = Words(cells), sentences(48)
        whole = lf.mean([model(words) for words in given])
        explained = lf.explain(whole)
        with simcupy.cuda.peak() as peak:
            whole.backward()
        assert 0.95 * peak[0] < explained.nbytes < 1.25 * peak[0]
        expected = gradients_of(model)
        for p in model.parameters():
            p.grad = None
        del whole, p
        with limited(int(share * peak[0])):
            loss = lf.mean([model(words) for words in given])
            with pytest.raises(lf.OutOfMemoryError) as caught:
                loss.backward()
            error = caught.value
            assert f"minibatch of {error.fits} of the 48 examples" in str(error) and "cotangents" in str(error)
            assert error.needed == pytest.approx(explained.nbytes, rel=0.05)
            assert 0.6 * share * 48 < error.fits <= share * 48
            for begin in range(0, 48, error.fits):
                some = [model(words) for words in given[begin : begin + error.fits]]
                (lf.sum(some) / 48).backward()
            assert_same(gradients_of(model), expected)
        assert loss.item() > 0  # it is computed again


def test_the_limit_of_cupys_pool():
    """As on a GPU: a limit for the pool, CuPy's own error, and after it everything is free again."""
    cupy = devices.array_module(CUDA)
    pool = cupy.get_default_memory_pool()
    with lf.using(device=CUDA):
        w = lf.Parameter(np.ones((100, 100), np.float32))
        before = pool.used_bytes()
        pool.set_limit(size=pool.total_bytes() + (1 << 16))
        try:
            with pytest.raises(lf.OutOfMemoryError, match="limit set to") as caught:
                lf.sum(w @ w @ w).backward()
            assert type(caught.value.__cause__) is cupy.cuda.memory.OutOfMemoryError
        finally:
            pool.set_limit(size=0)
        assert w.grad is None
        lf.sum(w @ w).backward()
        assert float(w.grad[0, 0]) == 200
        w.grad = None
    assert pool.used_bytes() <= before + 8 * w.size

"""What is computed again, what is kept, and what a kept root becomes when its parameters do."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim
from lazyflow.random import Stream
from lazyflow.run import forward as forward_module
from lazyflow.run.execute import Run


@pytest.fixture
def ran(monkeypatch):
    """The graphs of all runs."""
    graphs = []

    def noted(plan, *rest):
        graphs.append(plan.structure)
        return Run(plan, *rest)

    monkeypatch.setattr(forward_module, "Run", noted)
    return graphs


@pytest.fixture
def looked_at(monkeypatch):
    """How often a run was asked whether it is stale, and the tapes that were walked."""
    found = {"runs": 0, "tapes": 0}
    is_stale, reached = Run.is_stale, forward_module.readings_of

    def counted(run):
        found["runs"] += 1
        return is_stale(run)

    def walked(*arguments, **options):
        tapes = reached(*arguments, **options)
        found["tapes"] += len(tapes)
        return tapes

    monkeypatch.setattr(Run, "is_stale", counted)
    monkeypatch.setattr(forward_module, "readings_of", walked)
    return found


# Only what is new is looked at.


def test_a_sum_that_grows_unread_is_not_walked_through(ran, looked_at):
    """As that of the losses of an episode, every step of which is decided by a value."""
    w, steps = lf.Parameter([1.0]), 150
    x, total, expected, value = w * 1.0, lf.constant(0.0), 0.0, 1.0
    for _ in range(steps):
        x = x * 0.5 + 0.25
        value = value * 0.5 + 0.25
        total = total + lf.sum(x * x)
        expected += value * value
        assert x.item() == pytest.approx(value)
    assert looked_at["tapes"] == 0  # nothing but what was recorded last
    assert sum(len(graph) for graph in ran) <= 10 * steps
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert w.grad.item() == pytest.approx(sum(2 * (0.5**k * 0.5 + 0.5) * 0.5**k for k in range(1, steps + 1)))


@pytest.mark.parametrize("update", [False, True], ids=["", "another parameter changes"])
def test_a_chain_of_values_in_the_middle_is_linear(ran, looked_at, update):
    w, other = lf.Parameter([1.0]), lf.Parameter([1.0])
    x = w * 1.0
    steps = 150
    for _ in range(steps):
        x = x * 0.5 + 0.5
        x.item()
        x.forward()
        if update:
            other.touch()
    assert looked_at["runs"] <= 4 * steps and looked_at["tapes"] <= 4 * steps
    assert sum(len(graph) for graph in ran) <= 5 * steps
    x.backward()
    assert w.grad.item() == pytest.approx(0.5**steps)


def test_a_change_far_below_is_noticed():
    w = lf.Parameter([1.0])
    x = w * 1.0
    for _ in range(40):
        x = x + 1.0
        x.item()
    w.assign([5.0])
    assert x.numpy().tolist() == [41.0]  # what was computed keeps its value until it is asked for anew
    assert x.forward().numpy().tolist() == [45.0]


def test_a_second_loss_stays_when_only_the_first_ones_parameters_change(ran):
    v, w = lf.Parameter([1.0, 2.0]), lf.Parameter([3.0])
    shared = lf.constant([2.0, 2.0])
    first, second = lf.sum(v * shared), lf.sum(w * shared)
    lf.forward([first])
    lf.forward([second])
    ran.clear()
    w.assign([4.0])
    assert first.forward().item() == 6 and not ran
    assert second.forward().item() == 16 and len(ran) == 1
    v.assign([0.0, 1.0])
    assert first.forward().item() == 2


def test_whatever_read_a_forgotten_value_is_stale():
    """What was drawn anew for another root, though no parameter below has changed."""
    v, w = lf.Parameter(np.sqrt(np.arange(1.0, 201))), lf.Parameter([1.0])
    dropped = lf.dropout(v * 1.0, 0.5)
    dropped.forward()
    above = lf.sum(dropped) * 1.0
    above.forward()
    higher = above + 1.0
    before = higher.forward().item()
    other = lf.sum(dropped * w)
    other.forward()
    w.touch()
    other.forward()
    after = dropped.numpy().sum()
    assert before != pytest.approx(after + 1)
    assert higher.forward().item() == pytest.approx(dropped.numpy().sum() + 1)
    assert above.forward().item() == pytest.approx(dropped.numpy().sum())


def test_values_from_both_sides_of_a_block_follow():
    w = lf.Parameter([2.0])
    with lf.no_grad():
        h = w * w
    loss = lf.sum(h * w)
    assert loss.forward().item() == 8
    w.assign([3.0])
    assert loss.forward().item() == 27
    loss.backward()
    assert w.grad.tolist() == [9.0]


# Without gradients.


def states(W, count=8, steps=5):
    found = []
    for k in range(count):
        h = lf.constant(np.full(4, 0.1 * (k + 1)))
        for _ in range(steps):
            h = lf.tanh(W @ h)
        found.append(h)
    return found


@pytest.mark.parametrize("kept", [0, 1 << 24], ids=["large", "small"])
def test_what_somebody_holds_is_not_computed_again(ran, monkeypatch, kept):
    monkeypatch.setattr(forward_module, "KEPT", kept)
    W = lf.Parameter(np.full((4, 4), 0.3))
    with lf.using(dtype="float64"):
        want = [h.numpy() for h in states(W)]
        ran.clear()
        with lf.no_grad():
            hs = states(W)
            scores = [lf.sum(h) for h in hs]
            lf.forward(scores)
            assert len(ran) == 1 and bool(ran) and forward_module._nbytes_of_values(ran[0]) > 0
            for h, value in zip(hs, want, strict=True):
                np.testing.assert_allclose(h.numpy(), value, rtol=1e-12)
            part = hs[3][1:3]
            np.testing.assert_allclose((part * 2).numpy(), want[3][1:3] * 2, rtol=1e-12)
    assert len(ran) == 2 and len(ran[1]) == 2


@pytest.mark.parametrize("kept", [0, 1 << 24], ids=["large", "small"])
def test_a_stream_without_gradients_is_linear(ran, monkeypatch, kept):
    monkeypatch.setattr(forward_module, "KEPT", kept)
    W = lf.Parameter(np.full((4, 4), 0.3))
    with lf.no_grad():
        h = lf.constant(np.ones(4, np.float32))
        for _ in range(60):
            h = lf.tanh(W @ h)
            lf.sum(h).item()
    assert sum(len(graph) for graph in ran) <= 5 * 60


def test_roots_that_nobody_else_holds_use_memory_again():
    layers = [lf.Parameter(np.full((4, 4), 0.3, np.float32)) for _ in range(20)]

    def score(k):
        h = lf.constant(np.full(4, 0.1 * k, np.float32))
        for layer in layers:
            h = layer @ h
        return lf.sum(h)

    sizes = []
    for keep in (False, True):
        with lf.no_grad():
            roots = [score(k) for k in range(5)]
            held = [lf.tanh(r) for r in roots] if keep else []
            lf.forward(roots)
        sizes.append(roots[0].tape.runs[0].plan.layout.sizes[np.dtype(np.float32)])
        del held
    assert sizes[0] * 3 < sizes[1]


# Statistics of a minibatch.


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_statistics_are_those_of_the_first_run(grad, again):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    with lf.using(dtype="float64"):
        first, norm = nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=1.0)
        want = (x @ first.weight.numpy().T + first.bias.numpy()).mean(0)
        with lf.using(grad=grad):
            loss = lf.sum([lf.sum(y * y) for y in norm([first(lf.constant(row)) for row in x])])
            loss.forward()
        first.weight.assign(first.weight.numpy() * 3 + 1)
        if again:
            loss.forward()
        np.testing.assert_allclose(norm.running_mean, want, rtol=1e-9)
        assert norm.num_batches_tracked == 1


def test_statistics_of_a_minibatch_that_never_ran_are_computed_when_they_are_read():
    norm = nn.BatchNorm1d(1, momentum=1.0)
    norm([lf.constant([1.0]), lf.constant([3.0])])
    assert norm.running_mean.tolist() == [2.0]


# Kept roots whose parameters are not what they were.


def kept():
    v, w = lf.Parameter([1.0, 2.0], name="v"), lf.Parameter([3.0, 4.0], name="w")
    loss = lf.sum(v * w * w)
    loss.backward()
    v.zero_grad(), w.zero_grad()
    return loss, v, w


@pytest.mark.parametrize("update", [False, True])
def test_a_frozen_parameter_gets_no_gradient(update):
    loss, v, w = kept()
    w.requires_grad = False
    if update:
        v.assign([2.0, 2.0])
    calls = []
    w.register_hook(calls.append)
    loss.backward()
    assert w.grad is None and v.grad.tolist() == [9.0, 16.0] and not calls
    v.requires_grad = False
    with pytest.raises(lf.GradientError, match="reaches no parameter"):
        loss.backward()
    v.requires_grad = w.requires_grad = True
    v.zero_grad()
    loss.backward()
    assert v.grad.tolist() == [9.0, 16.0] and w.grad is not None


def test_a_frozen_table_gets_no_gradient():
    E, w = lf.Parameter(np.ones((5, 2))), lf.Parameter([1.0, 2.0])
    loss = lf.sum(lf.embedding(E, 3) * w)
    loss.forward()
    E.requires_grad = False
    loss.backward()
    assert E.grad is None and w.grad is not None


@pytest.mark.parametrize("decorated", [False, True])
def test_a_frozen_parameter_of_a_cell(decorated):
    v, w = lf.Parameter([1.0, 2.0]), lf.Parameter([3.0, 4.0])

    def body(x):
        return lf.tanh(x * v) * w

    loss = lf.sum((lf.cell(body) if decorated else body)(lf.constant([0.5, 0.5])))
    loss.backward()
    v.zero_grad(), w.zero_grad()
    v.requires_grad = False
    loss.backward()
    assert v.grad is None and w.grad is not None


def test_a_thawed_parameter_is_refused():
    v, w = lf.Parameter([1.0, 2.0]), lf.Parameter([3.0, 4.0], name="w", requires_grad=False)
    loss = lf.sum(v * w)
    assert loss.forward().item() == 11
    w.requires_grad = True
    assert loss.forward().item() == 11
    with pytest.raises(lf.GradientError, match=r"parameter w had requires_grad=False.*record it again"):
        loss.backward()
    assert v.grad is None and w.grad is None
    lf.sum(v * w).backward()
    assert w.grad.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("how", ["set", "deleted", "none"])
@pytest.mark.parametrize("evaluated", [False, True])
def test_a_replaced_parameter_is_refused(how, evaluated):
    layer = nn.Linear(2, 2)
    old = layer.bias
    loss = lf.sum(layer(lf.constant([1.0, 2.0])))
    before = loss.item() if evaluated else None
    if how == "set":
        layer.bias = lf.Parameter([1.0, 1.0])
    elif how == "none":
        layer.bias = None
    else:
        del layer.bias
    for ask in (loss.forward, loss.backward):
        with pytest.raises(lf.LazyflowError, match="parameter bias was replaced in its module"):
            ask()
    if evaluated:
        assert loss.item() == before
    assert old.grad is None
    again = lf.sum(old * 2.0)  # a new recording of the old one is what somebody wants
    again.backward()
    assert old.grad.tolist() == [2.0, 2.0]


def test_loaded_numbers_are_followed():
    layer = nn.Linear(2, 1)
    loss = lf.sum(layer(lf.constant([1.0, 2.0])))
    loss.forward()
    layer.load_state_dict({"weight": np.float32([[1.0, 1.0]]), "bias": np.float32([0.5])})
    assert loss.forward().item() == 3.5
    loss.backward()
    assert layer.weight.grad.tolist() == [[1.0, 2.0]]


def test_an_array_of_another_dtype_is_refused():
    w = lf.Parameter(np.float32([1.0, 2.0]), name="w")
    loss = lf.sum(w * 2.0)
    loss.forward()
    w.array = w.array.astype(np.float64)
    w.touch()
    with pytest.raises(lf.LazyflowError, match=r"parameter w was float32.*float64"):
        loss.backward()


# Draws.


class Dropped(nn.Module):
    def __init__(self, decorated, stream):
        super().__init__()
        self.layer, self.stream = nn.Linear(4, 4), stream

        def step(x):
            return lf.sum(lf.dropout(lf.tanh(self.layer(x)), 0.5, stream=stream) ** 2)

        self.step = lf.cell(step) if decorated else step

    def loss(self, x):
        return self.step(lf.constant(x))


@pytest.mark.parametrize("decorated", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_kept_roots_with_dropout_go_on_after_a_resume(decorated, parts, tmp_path):
    """``parts``: minibatches of an epoch, in the order of recording."""
    xs = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)

    def start():
        model = Dropped(decorated, Stream(7))
        optimizer = lf.optim.SGD(model.parameters(), lr=0.05)
        return {"model": model, "optimizer": optimizer, "stream": model.stream}

    def train(parts_of_run, epochs, save=None):
        model, optimizer = parts_of_run["model"], parts_of_run["optimizer"]
        roots = [model.loss(x) for x in xs]
        found = []
        for epoch in range(epochs):
            if save == epoch:
                lf.save(tmp_path / "run", **parts_of_run)
            for some in np.array_split(np.arange(len(xs)), parts):
                loss = lf.mean([roots[i] for i in some])
                loss.backward()
                found.append(loss.item())
                optimizer.step()
                optimizer.zero_grad()
        return found

    lf.seed(0)
    whole = train(start(), 5, save=3)
    assert len(set(whole)) == len(whole)
    resumed = start()
    lf.load(tmp_path / "run", **resumed)
    assert train(resumed, 2) == whole[3 * parts :]


def test_a_mask_stays_while_nothing_changes():
    w = lf.Parameter(np.ones(50))
    dropped = lf.dropout(w * 1.0, 0.5)
    total, other = lf.sum(dropped), lf.sum(dropped * 2.0)
    w.touch()
    total.forward()
    w.touch()
    assert other.forward().item() == pytest.approx(2 * lf.sum(dropped).item())
    before = total.forward().item()
    dropped.retain_grad()
    total.backward()
    assert total.item() == before


def test_seeds_given_by_hand_are_not_drawn_anew():
    from lazyflow.ops import OPS
    from lazyflow.record.expr import record

    w = lf.Parameter(np.ones(3))
    noise = record(OPS["uniform"], (3, 4, 0.0, 1.0), shape=(3,), dtype=np.dtype(np.float32))
    total = noise * w
    before = total.forward().numpy()
    w.touch()
    assert total.forward().numpy().tolist() == before.tolist()


# Arrays of parameters that somebody keeps.

WRITES = {
    "an element": lambda held: held.__setitem__(0, 9.0),
    "through a view": lambda held: held[::-1].__setitem__(0, 9.0),
    "all": lambda held: held.fill(0.25),
    "a scaled one": lambda held: np.multiply(held, -2.0, out=held),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("name", ["data", "array"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "asked for anew"])
def test_what_rests_on_an_array_that_was_given_away_follows_it(kept, name, write):
    w = lf.Parameter(np.array([0.5, -1.0, 2.0]))
    held = getattr(w, name) if kept else None
    root = lf.sum(lf.tanh(w * w)) + lf.sum(lf.cell(lambda x: lf.exp(x * w))(lf.constant(np.ones(3))))
    for _ in range(3):
        root.backward()
        write(held if kept else getattr(w, name))
        w.grad = None
        root.backward()
        value = w.numpy()
        np.testing.assert_allclose(root.item(), np.tanh(value**2).sum() + np.exp(value).sum())
        np.testing.assert_allclose(w.grad, 2 * value * (1 - np.tanh(value**2) ** 2) + np.exp(value))
        w.assign([0.5, -1.0, 2.0])


def test_an_update_in_place_of_the_array():
    w = lf.Parameter(np.array([3.0, -4.0]))
    root = lf.sum(w * w)
    for expected in (25.0, 16.0, 10.24):
        w.grad = None
        root.backward()
        np.testing.assert_allclose(root.item(), expected)
        w.array -= 0.1 * w.grad


def test_who_only_reads_the_array_has_nothing_drawn_anew():
    w = lf.Parameter(np.ones(100))
    held = w.data
    root = lf.sum(lf.dropout(w, 0.5))
    root.forward()
    before = root.item()
    assert held.sum() == 100
    root.forward()
    root.backward()
    assert root.item() == before == w.grad.sum()


def test_an_array_that_nobody_has_any_more_is_not_compared():
    w = lf.Parameter(np.ones(3))
    held = w.data[1:]
    root = lf.sum(w * 2)
    root.forward()
    assert w._exposed
    held[0] = 5.0
    del held
    root.forward()
    assert root.item() == 14.0
    assert not w._exposed


def test_an_optimizer_gives_no_array_away():
    w = lf.Parameter(np.ones(3))
    optimizer = optim.SGD([w], lr=0.1)
    lf.sum(w * w).backward()
    optim.clip_grad_norm([w], 100.0)
    optimizer.step()
    assert not w._exposed

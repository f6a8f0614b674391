"""`Module`: what it registers, what it finds, what it saves and what it refuses."""

import sys

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.record.frames import COMPILED
from tests.nn.support import dense


class Block(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.inner = nn.Linear(size, size)
        self.scale = lf.Parameter(np.ones(size, np.float32))
        self.register_buffer("count", np.zeros((), np.int64))

    def forward(self, x):
        return self.inner(x) * self.scale


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Block()
        self.second = Block()
        self.bias = lf.Parameter(np.zeros(2, np.float32))
        self.note = "not registered"

    def forward(self, x):
        return self.second(self.first(x)) + self.bias


class Tied(nn.Module):
    """An output layer that shares its weight with the embedding, and a block that occurs twice."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.output = nn.Linear(3, 4, bias=False)
        self.output.weight = self.words.weight
        self.once = nn.Linear(3, 3)
        self.again = self.once

    def forward(self, i):
        return self.output(self.again(lf.tanh(self.once(self.words(i)))))


NET = [
    "bias", "first.scale", "first.inner.weight", "first.inner.bias",
    "second.scale", "second.inner.weight", "second.inner.bias",
]  # fmt: skip


@pytest.mark.skipif(not COMPILED, reason="the package was not compiled")
def test_a_call_is_that_of_forward_alone():
    class Caller(nn.Module):
        def forward(self):
            return sys._getframe(1).f_code.co_name

    assert Caller()() == "test_a_call_is_that_of_forward_alone"


# Registration


def test_parameters_have_dotted_names_own_ones_first():
    assert [name for name, _ in Net().named_parameters()] == NET


def test_modules_come_parents_first_and_children_are_the_next_level():
    net = Net()
    assert [name for name, _ in net.named_modules()] == ["", "first", "first.inner", "second", "second.inner"]
    assert [name for name, _ in net.named_children()] == ["first", "second"]
    assert list(map(id, net.children())) == [id(net.first), id(net.second)]
    assert list(map(id, net.modules())) == list(
        map(id, [net, net.first, net.first.inner, net.second, net.second.inner])
    )


def test_a_tied_parameter_is_found_once_and_named_by_all_its_names():
    tied = Tied()
    assert [name for name, _ in tied.named_parameters()] == ["words.weight", "once.weight", "once.bias"]
    assert len(list(tied.parameters())) == 3
    assert [name for name, _ in tied.named_parameters(remove_duplicate=False)] == list(tied.state_dict())
    assert list(tied.state_dict()) == [
        "words.weight", "output.weight", "once.weight", "once.bias", "again.weight", "again.bias",
    ]  # fmt: skip


def test_one_parameter_under_two_attributes_of_one_module():
    net = nn.Module()
    net.a = lf.Parameter([1.0])
    net.b = net.a
    assert [name for name, _ in net.named_parameters()] == ["a"]
    assert [name for name, _ in net.named_parameters(remove_duplicate=False)] == ["a", "b"]


@pytest.mark.parametrize("value", [None, 3, "text", np.zeros(2), [nn.Linear(1, 1)]], ids=lambda v: type(v).__name__)
def test_another_value_removes_the_registration(value):
    net = Net()
    net.first = value
    assert [name for name, _ in net.named_parameters()] == [name for name in NET if not name.startswith("first")]


def test_another_parameter_takes_the_place():
    net = Net()
    new = lf.Parameter(np.ones(2, np.float32))
    net.bias = new
    assert next(net.parameters()) is new
    assert [name for name, _ in net.named_parameters()] == NET


@pytest.mark.parametrize("name", ["first", "bias", "note"])
def test_deleting_an_attribute(name):
    net = Net()
    delattr(net, name)
    assert not hasattr(net, name)
    assert not any(found.split(".")[0] == name for found, _ in net.named_parameters())
    with pytest.raises(AttributeError):
        delattr(net, name)


def test_a_parameter_without_a_name_takes_that_of_the_attribute():
    net = nn.Module()
    net.weight = lf.Parameter([1.0])
    net.other = lf.Parameter([1.0], name="mine")
    assert (net.weight.name, net.other.name) == ("weight", "mine")


@pytest.mark.parametrize("value", [lf.Parameter([1.0]), nn.Linear(1, 1)], ids=lambda v: type(v).__name__)
def test_assigning_before_init_says_what_to_call(value):
    class Early(nn.Module):
        def __init__(self):
            self.part = value
            super().__init__()

    with pytest.raises(
        AttributeError, match=r"Early.__init__ must call super\(\).__init__\(\) before it assigns 'part'"
    ):
        Early()


def test_a_buffer_before_init_says_what_to_call():
    class Early(nn.Module):
        def __init__(self):
            self.register_buffer("mean", np.zeros(2))

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Early()


def test_a_plain_attribute_before_init_is_fine():
    class Early(nn.Module):
        def __init__(self):
            self.size = 3
            super().__init__()

    assert Early().size == 3


def test_a_module_cannot_contain_itself():
    net = Net()
    with pytest.raises(ValueError, match="Net cannot contain itself"):
        net.self = net
    with pytest.raises(ValueError, match="Linear cannot contain itself"):
        net.first.inner.up = net


@pytest.mark.parametrize("name", ["", "a.b"])
def test_names_are_not_empty_and_have_no_dot(name):
    with pytest.raises(ValueError, match="must not be empty or have a dot"):
        setattr(nn.Module(), name, lf.Parameter([1.0]))
    with pytest.raises(ValueError, match="must not be empty or have a dot"):
        nn.Module().register_buffer(name, np.zeros(1))


def test_nesting_has_no_limit():
    net = nn.Linear(2, 2)
    for _ in range(2000):
        outer = nn.Module()
        outer.__dict__["inner"] = net  # what assigning does, without its look for cycles
        net = outer
    assert len(list(net.modules())) == 2001
    assert next(iter(net.state_dict())) == "inner." * 2000 + "weight"
    net.eval().zero_grad()


def test_calling_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Module defines no forward\(\)"):
        nn.Module()(1)


def test_call_passes_everything_to_forward():
    class Echo(nn.Module):
        def forward(self, *args, **kwargs):
            return args, kwargs

    assert Echo()(1, 2, key=3) == ((1, 2), {"key": 3})


# Buffers


def test_a_buffer_is_a_copy_that_is_saved_and_not_trained():
    given = np.array([1.0, 2.0])
    net = nn.Module()
    net.register_buffer("mean", given)
    given[:] = 0
    assert net.mean.tolist() == [1.0, 2.0]
    assert list(net.parameters()) == []
    assert [(name, array.tolist()) for name, array in net.named_buffers()] == [("mean", [1.0, 2.0])]
    assert [array.tolist() for array in net.buffers()] == [[1.0, 2.0]]
    assert list(net.state_dict()) == ["mean"]


def test_a_buffer_stays_one_when_set_to_an_array_and_not_otherwise():
    net = nn.Module()
    net.register_buffer("mean", np.zeros(2))
    net.mean = np.ones(2)
    assert net.state_dict()["mean"].tolist() == [1.0, 1.0]
    net.mean = None
    assert net.state_dict() == {}
    net.mean = np.ones(2)
    assert net.state_dict() == {}


def test_a_buffer_can_be_deleted_or_become_a_parameter():
    net = nn.Module()
    net.register_buffer("a", np.zeros(2))
    net.register_buffer("b", np.zeros(2))
    del net.a
    net.b = lf.Parameter([1.0])
    assert list(net.state_dict()) == ["b"]
    assert list(net.named_buffers()) == []


def test_a_buffer_in_forward():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", np.array([1.0, 2.0], np.float32))

        def forward(self, x):
            return x - self.mean

    assert Shift()(lf.constant([1.0, 1.0])).numpy().tolist() == [0.0, -1.0]


@pytest.mark.parametrize(
    ("name", "array", "error"),
    [("inner", np.zeros(1), ValueError), ("forward", np.zeros(1), ValueError), ("text", np.array("a"), lf.DTypeError)],
)
def test_buffers_that_are_refused(name, array, error):
    net = Block()
    before = list(net.state_dict())
    with pytest.raises(error):
        net.register_buffer(name, array)
    assert list(net.state_dict()) == before


# Saved state


def filled(module, seed):
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        parameter.assign(rng.standard_normal(parameter.shape))
    return module


@pytest.mark.parametrize(
    "make", [Net, Tied, Block, lambda: nn.LSTM(2, 3, num_layers=2), lambda: nn.Sequential(Net(), lf.tanh)]
)
def test_state_round_trip(make):
    source, target = filled(make(), 1), filled(make(), 2)
    state = source.state_dict()
    assert target.load_state_dict(state) == ([], [])
    again = target.state_dict()
    assert list(again) == list(state)
    for name in state:
        assert again[name].dtype == state[name].dtype
        np.testing.assert_array_equal(again[name], state[name])


def test_the_state_is_a_copy_both_ways():
    net = Net()
    state = net.state_dict()
    state["bias"][:] = 5
    state["first.count"][...] = 5
    assert net.bias.numpy().tolist() == [0.0, 0.0] and net.first.count == 0
    net.load_state_dict(state)
    state["bias"][:] = 6
    state["first.count"][...] = 6
    assert net.bias.numpy().tolist() == [5.0, 5.0] and net.first.count == 5


def test_loading_keeps_the_parameters_themselves():
    net = Net()
    before = list(map(id, net.parameters()))
    net.load_state_dict(Net().state_dict())
    assert list(map(id, net.parameters())) == before


def test_values_computed_before_loading_are_stale():
    net, x = nn.Linear(1, 1, bias=False), lf.constant([2.0])
    y = net(x)
    net.load_state_dict({"weight": np.array([[3.0]], np.float32)})
    assert y.forward().item() == 6.0
    net.load_state_dict({"weight": np.array([[4.0]], np.float32)})
    assert y.forward().item() == 8.0


def changed(**changes):
    state = Net().state_dict()
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


WRONG = {
    "missing": (changed(bias=None), ["bias: missing, expected float32 of shape (2,)"]),
    "missing buffer": (changed(first__count=None), ["first.count: missing, expected int64 of shape ()"]),
    "extra": (changed(third__weight=np.zeros((1, 2))), ["third.weight: not expected, got float64 of shape (1, 2)"]),
    "misshapen": (changed(bias=np.zeros(3, np.float32)), ["bias: expected shape (2,), got (3,)"]),
    "dtype": (changed(bias=np.zeros(2)), ["bias: expected dtype float32, got float64"]),
    "no array": (changed(bias="zeros"), ["bias: expected float32 of shape (2,), got 'zeros'"]),
    "all at once": (
        changed(bias=None, first__scale=np.zeros(3, np.float32), second__scale=np.zeros(2, np.int32), new=np.zeros(1)),
        [
            "bias: missing, expected float32 of shape (2,)",
            "first.scale: expected shape (2,), got (3,)",
            "second.scale: expected dtype float32, got int32",
            "new: not expected, got float64 of shape (1,)",
        ],
    ),
    "empty": ({}, [f"{name}: missing" for name in NET]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_state_that_does_not_fit_is_refused_with_every_difference_and_nothing_is_loaded(wrong):
    state, lines = WRONG[wrong]
    net = filled(Net(), 5)
    before = net.state_dict()
    for action in (net.load_state_dict, net.check_state_dict):
        with pytest.raises(lf.CheckpointError) as caught:
            action(state)
        assert str(caught.value).startswith("Net does not fit, and nothing was changed:")
        for line in lines:
            assert f"\n  {line}" in str(caught.value)
        if wrong != "empty":
            assert str(caught.value).count("\n") == len(lines)
    after = net.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_check_state_dict_accepts_what_fits_and_changes_nothing():
    net, state = filled(Net(), 1), filled(Net(), 2).state_dict()
    before = net.state_dict()
    net.check_state_dict(state)
    assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())


def test_not_strict_takes_what_both_have_and_says_what_it_left():
    net = filled(Net(), 1)
    before = net.state_dict()
    state = changed(bias=np.full(2, 9, np.float32), first__scale=None, third=np.zeros(1))
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["first.scale"], ["third"])
    assert net.bias.numpy().tolist() == [9.0, 9.0]
    np.testing.assert_array_equal(net.first.scale.numpy(), before["first.scale"])


def test_not_strict_still_refuses_another_shape():
    with pytest.raises(lf.CheckpointError, match=r"bias: expected shape \(2,\), got \(3,\)"):
        Net().load_state_dict({"bias": np.zeros(3, np.float32)}, strict=False)


@pytest.mark.parametrize("state", ["model.safetensors", [1, 2], None], ids=str)
def test_a_state_that_is_no_dict(state):
    with pytest.raises(lf.CheckpointError, match="expected a dict of arrays by name"):
        Net().load_state_dict(state)


def test_tied_entries_with_different_values_are_refused():
    tied = Tied()
    before = tied.state_dict()
    state = {**before, "output.weight": before["output.weight"] + 1}
    with pytest.raises(lf.CheckpointError, match=r"output.weight: is the same parameter as words.weight"):
        tied.load_state_dict(state)
    assert all(np.array_equal(before[name], array) for name, array in tied.state_dict().items())


def test_tied_entries_with_nan_in_both_are_equal():
    tied = Tied()
    tied.words.weight.data[0, 0] = np.nan
    tied.load_state_dict(tied.state_dict())
    assert np.isnan(tied.words.weight.numpy()[0, 0])


def test_save_and_load_a_file(tmp_path):
    source, target = filled(Tied(), 1), filled(Tied(), 2)
    lf.save(tmp_path / "model.safetensors", source)
    lf.load(tmp_path / "model.safetensors", target)
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name], array)
    with pytest.raises(lf.CheckpointError, match="missing"):
        lf.load(tmp_path / "model.safetensors", Net())


# Modes


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(module.training for module in net.modules())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert net.train() is net
    assert all(module.training for module in net.modules())
    net.first.eval()
    assert (net.training, net.first.training, net.first.inner.training, net.second.training) == (
        True,
        False,
        False,
        True,
    )


def test_zero_grad():
    net = Net()
    lf.sum(net(lf.constant([1.0, 2.0]))).backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_requires_grad():
    net = Net()
    assert net.first.requires_grad_(False) is net.first
    lf.sum(net(lf.constant([1.0, 2.0]))).backward()
    frozen = [name for name, p in net.named_parameters() if p.grad is None]
    assert frozen == [name for name in NET if name.startswith("first")]
    net.requires_grad_()
    assert all(p.requires_grad for p in net.parameters())


def test_requires_grad_leaves_integer_parameters_alone():
    net = nn.Module()
    net.ids = lf.Parameter(np.array([1, 2]), requires_grad=False)
    net.weight = lf.Parameter([1.0])
    net.requires_grad_(False).requires_grad_(True)
    assert (net.ids.requires_grad, net.weight.requires_grad) == (False, True)


def test_apply_visits_children_before_parents_and_each_once():
    tied, seen = Tied(), []
    assert tied.apply(seen.append) is tied
    assert seen[-1] is tied
    assert sorted(map(id, seen)) == sorted(map(id, tied.modules()))


def test_to_the_cpu_is_no_change_and_to_nowhere_an_error():
    net = Net()
    before = net.state_dict()
    assert net.to("cpu") is net
    assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())
    with pytest.raises(lf.DeviceError, match="gpu"):
        net.to("gpu")


@pytest.mark.gpu
def test_to_the_gpu_and_back():
    net = filled(Net(), 1)
    before = net.state_dict()
    net.to("cuda:0")
    assert {p.device for p in net.parameters()} == {"cuda:0"}
    with lf.using(device="cuda:0"):
        assert net(lf.constant([1.0, 2.0])).numpy().shape == (2,)
    assert all(np.array_equal(before[name], array) for name, array in net.to("cpu").state_dict().items())


# Tying, copying, printing


def test_gradients_of_a_tied_weight_add_up():
    with lf.using(dtype="float64"):
        tied = filled(Tied(), 1)

        def loss(weight):
            tied.words.weight.assign(weight)
            return lf.cross_entropy(tied(1), 2)

        at, step = tied.words.weight.numpy(), 1e-5
        direction = np.random.default_rng(0).standard_normal(at.shape)
        numeric = (loss(at + step * direction).item() - loss(at - step * direction).item()) / (2 * step)
        loss(at).backward()
    assert tied.output.weight.grad is tied.words.weight.grad
    assert np.sum(dense(tied.words.weight.grad) * direction) == pytest.approx(numeric, rel=1e-7)


def test_the_default_dtype_is_that_of_the_settings():
    with lf.using(dtype="float64"):
        assert {p.dtype for p in Net().first.inner.parameters()} == {np.dtype("float64")}
    assert {p.dtype for p in nn.LSTM(1, 1).parameters()} == {np.dtype("float32")}


def test_the_seed_decides_the_initial_weights():
    def weights(seed):
        lf.seed(seed)
        return nn.LSTM(2, 3).state_dict()

    one, same, other = weights(4), weights(4), weights(5)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_repr_shows_the_nesting():
    assert repr(nn.Linear(3, 4)) == "Linear(3, 4)"
    assert repr(Net()) == "\n".join([
        "Net(",
        "  (first): Block(",
        "    (inner): Linear(2, 2)",
        "  )",
        "  (second): Block(",
        "    (inner): Linear(2, 2)",
        "  )",
        ")",
    ])  # fmt: skip

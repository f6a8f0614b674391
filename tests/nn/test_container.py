"""Sequential, ModuleList and ModuleDict: what they hold, what they name it, and what they refuse."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn


def linears(count):
    return [nn.Linear(2, 2) for _ in range(count)]


def names(module):
    return [name for name, _ in module.named_parameters()]


def test_sequential_applies_its_items_in_order():
    first, second = linears(2)
    x = lf.constant([1.0, 2.0])
    expected = second(lf.tanh(first(x))).numpy()
    np.testing.assert_allclose(nn.Sequential(first, lf.tanh, second)(x).numpy(), expected, rtol=1e-5)


def test_an_empty_sequential_is_the_identity():
    x = lf.constant([1.0])
    assert nn.Sequential()(x) is x


def test_functions_take_a_number_in_the_names():
    assert names(nn.Sequential(*linears(1), lf.tanh, *linears(1))) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("kind", [lambda *items: nn.Sequential(*items), lambda *items: nn.ModuleList(items)])
def test_they_are_lists(kind):
    a, b, c, d = linears(4)
    items = kind(a, b)
    items.append(c)
    items.extend([d])
    assert [*items] == [a, b, c, d] and len(items) == 4 and items[-1] is d and a in items
    del items[1]
    items.insert(0, b)
    assert [*items] == [b, a, c, d]
    items[0] = d
    assert [*items] == [d, a, c, d]
    assert names(items) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"], "the same module, once"
    assert type(items[1:3]) is type(items) and [*items[1:3]] == [a, c]
    with pytest.raises(IndexError):
        items[4]


def test_a_module_list_in_a_module():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(linears(3))

        def forward(self, x):
            for layer in self.layers:
                x = lf.tanh(layer(x))
            return x

    deep = Deep()
    assert names(deep)[-1] == "layers.2.bias"
    lf.sum(deep(lf.constant([1.0, 2.0]))).backward()
    assert all(p.grad is not None for p in deep.parameters())
    assert not any(layer.training for layer in deep.eval().layers)
    with pytest.raises(NotImplementedError, match="ModuleList defines no forward"):
        deep.layers(1)


def test_a_container_may_be_subclassed_with_parts_of_its_own():
    class Scaled(nn.Sequential):
        def __init__(self, *items):
            super().__init__(*items)
            self.scale = lf.Parameter([2.0])
            self.last = nn.Linear(2, 1)

        def forward(self, x):
            return self.last(super().forward(x) * self.scale)

    scaled = Scaled(*linears(1))
    assert names(scaled) == ["scale", "last.weight", "last.bias", "0.weight", "0.bias"]
    assert scaled(lf.constant([1.0, 2.0])).shape == (1,)


def test_module_dict():
    a, b, c = linears(3)
    heads = nn.ModuleDict({"a": a})
    heads["b"] = b
    heads.update({"c": c})
    assert (list(heads), list(heads.keys()), len(heads), "b" in heads) == (["a", "b", "c"], ["a", "b", "c"], 3, True)
    assert list(heads.values()) == [a, b, c] and dict(heads.items()) == {"a": a, "b": b, "c": c}
    assert names(heads)[:2] == ["a.weight", "a.bias"]
    assert heads.pop("a") is a
    del heads["b"]
    assert names(heads) == ["c.weight", "c.bias"] and heads["c"] is c
    with pytest.raises(KeyError):
        heads["a"]


def test_what_a_name_of_the_dict_is_called_does_not_matter():
    heads = nn.ModuleDict({"training": nn.Linear(1, 1), "forward": nn.Linear(1, 1)})
    assert heads.training is True and len(list(heads.parameters())) == 4


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(*linears(1), lf.tanh, nn.Sequential(*linears(2))),
    lambda: nn.ModuleList(linears(2)),
    lambda: nn.ModuleDict({"a": nn.LSTM(1, 2), "b": nn.Linear(1, 1)}),
])  # fmt: skip
def test_state_round_trip(make):
    source, target = make(), make()
    target.load_state_dict(source.state_dict())
    for (name, ours), (_, theirs) in zip(source.named_parameters(), target.named_parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=name)


def nested():
    outer = nn.Sequential(nn.ModuleList(linears(1)))
    outer[0].append(outer)


MISTAKES = {
    "a number in a Sequential": (lambda: nn.Sequential(3), TypeError, ["Sequential", "int"]),
    "a function in a ModuleList": (lambda: nn.ModuleList([lf.tanh]), TypeError, ["ModuleList", "function"]),
    "a class in a ModuleList": (lambda: nn.ModuleList([nn.Linear]), TypeError, ["ModuleList", "type"]),
    "setting an item": (lambda: nn.ModuleList(linears(1)).__setitem__(0, None), TypeError, ["NoneType"]),
    "a number in a ModuleDict": (lambda: nn.ModuleDict({"a": 3}), TypeError, ["ModuleDict", "int", "'a'"]),
    "a number as a name": (lambda: nn.ModuleDict({3: nn.Linear(1, 1)}), TypeError, ["string", "3"]),
    "a dot in a name": (lambda: nn.ModuleDict({"a.b": nn.Linear(1, 1)}), ValueError, ["dot", "'a.b'"]),
    "itself": (nested, ValueError, ["cannot contain itself"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    action, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action()
    for word in words:
        assert word in str(caught.value)


def test_a_refused_item_leaves_the_list_as_it_was():
    layers = nn.ModuleList(linears(2))
    with pytest.raises(TypeError):
        layers.extend([nn.Linear(1, 1), None])
    assert len(layers) == 2


def test_printing():
    model = nn.Sequential(nn.Linear(1, 2), lf.tanh, nn.ModuleDict({"a": nn.Dropout(0.25)}))
    assert repr(model) == "\n".join([
        "Sequential(", "  (0): Linear(1, 2)", "  (2): ModuleDict(", "    (a): Dropout(p=0.25)", "  )", ")",
    ])  # fmt: skip
    assert repr(nn.ModuleList()) == "ModuleList()"


class Foreign:
    """What looks like a module of another library: it is called, and has parameters of its own."""

    def __call__(self, x):
        return x

    def parameters(self):
        return []


def test_a_sequential_takes_no_other_librarys_modules():
    with pytest.raises(TypeError, match=r"got a [\w.]+\.Foreign, whose parameters would not be trained"):
        nn.Sequential(nn.Linear(2, 2), Foreign())
    with pytest.raises(TypeError, match="got a int"):
        nn.Sequential(3)
    assert nn.Sequential(lf.tanh, abs)(lf.constant([-1.0])).item() > 0

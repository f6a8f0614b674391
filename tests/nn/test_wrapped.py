"""Modules that are a function and its options, and `nn.functional` as a whole."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.nn.wrapped import FunctionModule

WRAPPED = sorted(
    name for name in nn.__all__ if inspect.isclass(getattr(nn, name)) and issubclass(getattr(nn, name), FunctionModule)
)
NEEDED = {
    "AdaptiveAvgPool1d": (2,), "AdaptiveAvgPool2d": (2,), "AvgPool1d": (2,), "AvgPool2d": (2,), "MaxPool1d": (2,),
    "MaxPool2d": (2,), "Fold": (2, 2), "Unfold": (2,), "Threshold": (0.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_they_are_classes_like_others(name):
    kind = getattr(nn, name)
    module = kind(*NEEDED.get(name, ()))
    assert f"{kind.__module__}.{kind.__qualname__}".startswith("lazyflow.nn.") and kind.__doc__
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is kind and repr(twin) == repr(module)
    assert not list(module.parameters())
    with pytest.raises(TypeError, match=f"{name}.*nonsense"):
        kind(*NEEDED.get(name, ()), nonsense=1)


@pytest.mark.parametrize("name", nn.functional.__all__)
def test_every_function_is_documented(name):
    function = getattr(nn.functional, name)
    assert callable(function) and function.__doc__


def test_options_are_attributes():
    layer = nn.LeakyReLU(0.5)
    assert layer.negative_slope == 0.5 and repr(layer) == "LeakyReLU(negative_slope=0.5)"
    layer.negative_slope = 0.0
    assert layer(lf.constant([-1.0, 1.0])).numpy().tolist() == [0, 1]


def test_what_they_record_was_recorded_at_the_line_of_the_call():
    with lf.using(check_finite=True):
        y, line = nn.GELU()(lf.Parameter([1.0])), inspect.currentframe().f_lineno
        assert f"test_wrapped.py:{line}" in str(lf.explain(y))


def test_a_class_of_a_wrapped_one_may_have_a_function_of_its_own():
    class Steep(nn.LeakyReLU):
        function = staticmethod(lambda x, slope, inplace: x * slope * 2)

    assert Steep(0.5)(lf.constant([-1.0, 4.0])).numpy().tolist() == [-1, 4]
    assert nn.LeakyReLU.forward.__doc__ and nn.LeakyReLU.forward.__module__ == "lazyflow.nn.wrapped"


def test_arrays_among_the_options_move_and_are_saved():
    loss = nn.BCEWithLogitsLoss(pos_weight=np.array([1.0, 3.0]))
    assert list(loss.state_dict()) == ["pos_weight"]
    other = nn.BCEWithLogitsLoss(pos_weight=np.zeros(2))
    other.load_state_dict(loss.state_dict())
    np.testing.assert_array_equal(other.pos_weight, [1, 3])


def test_a_tied_weight_is_one_parameter(tmp_path):
    """Counted once, saved under each of its names, and one again when it is loaded."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Conv1d(2, 3, 2, bias=False)
            self.decode = nn.ConvTranspose1d(3, 2, 2, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(lf.tanh(self.encode(x)))

    model, other = Model(), Model()
    assert len(list(model.parameters())) == 1
    assert list(model.state_dict()) == ["encode.weight", "decode.weight"]
    lf.save(tmp_path / "model.safetensors", model=model)
    lf.load(tmp_path / "model.safetensors", model=other)
    assert other.encode.weight is other.decode.weight
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(model(x).numpy(), other(x).numpy())
    lf.sum(model(x)).backward()
    step = 1e-3
    numeric = []
    for sign in (1, -1):
        other.encode.weight.assign(model.encode.weight.numpy() + sign * step)
        numeric.append(lf.sum(other(x)).item())
    assert float(model.encode.weight.grad.sum()) == pytest.approx((numeric[0] - numeric[1]) / (2 * step), rel=1e-2)

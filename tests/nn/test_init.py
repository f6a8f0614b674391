"""Initialisers: their ranges and moments, their seeds, and what they refuse."""

import math

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.nn import init

SHAPE = (60, 80)
FAN_IN, FAN_OUT = 80, 60


def fresh(shape=SHAPE):
    return lf.Parameter(np.full(shape, 9.0))


# bound of a uniform distribution
UNIFORM = {
    "uniform_": (lambda p, rng: init.uniform_(p, -2.0, 2.0, rng=rng), 2.0),
    "xavier": (lambda p, rng: init.xavier_uniform_(p, rng=rng), math.sqrt(6 / (FAN_IN + FAN_OUT))),
    "xavier gain": (lambda p, rng: init.xavier_uniform_(p, 3.0, rng=rng), 3 * math.sqrt(6 / (FAN_IN + FAN_OUT))),
    "kaiming": (lambda p, rng: init.kaiming_uniform_(p, rng=rng), math.sqrt(6 / FAN_IN)),
    "kaiming fan_out": (lambda p, rng: init.kaiming_uniform_(p, mode="fan_out", rng=rng), math.sqrt(6 / FAN_OUT)),
    "kaiming sqrt 5": (lambda p, rng: init.kaiming_uniform_(p, a=math.sqrt(5), rng=rng), 1 / math.sqrt(FAN_IN)),
    "kaiming tanh": (
        lambda p, rng: init.kaiming_uniform_(p, nonlinearity="tanh", rng=rng),
        5 / 3 * math.sqrt(3 / FAN_IN),
    ),
}

# standard deviation of a normal distribution
NORMAL = {
    "normal_": (lambda p, rng: init.normal_(p, 0.0, 0.1, rng=rng), 0.1),
    "xavier": (lambda p, rng: init.xavier_normal_(p, 2.0, rng=rng), 2 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "kaiming": (lambda p, rng: init.kaiming_normal_(p, nonlinearity="relu", rng=rng), math.sqrt(2 / FAN_IN)),
    "kaiming linear": (
        lambda p, rng: init.kaiming_normal_(p, mode="fan_out", nonlinearity="linear", rng=rng),
        math.sqrt(1 / FAN_OUT),
    ),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_ones_fill_their_range(name):
    fill, bound = UNIFORM[name]
    values = fill(fresh(), 1).numpy()
    assert np.abs(values).max() <= bound and np.abs(values).max() > 0.99 * bound
    assert abs(values.mean()) < 0.03 * bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize("name", NORMAL)
def test_normal_ones_have_their_deviation(name):
    fill, std = NORMAL[name]
    values = fill(fresh(), 1).numpy()
    assert values.std() == pytest.approx(std, rel=0.05)
    assert abs(values.mean()) < 0.05 * std
    assert np.abs(values).max() > 3 * std


def test_normal_has_its_mean():
    assert init.normal_(fresh(), 5.0, 0.1, rng=0).numpy().mean() == pytest.approx(5.0, abs=0.01)


def test_constants():
    assert set(init.constant_(fresh(), 2.5).numpy().ravel()) == {2.5}
    assert set(init.ones_(fresh()).numpy().ravel()) == {1.0}
    assert set(init.zeros_(fresh()).numpy().ravel()) == {0.0}
    np.testing.assert_array_equal(init.eye_(fresh((3, 5))).numpy(), np.eye(3, 5))


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (3, 2, 4)], ids=str)
def test_orthogonal(shape):
    q = init.orthogonal_(fresh(shape), 2.0, rng=1).numpy().reshape(shape[0], -1)
    product = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_orthogonal_signs_are_even():
    diagonals = [np.diag(init.orthogonal_(fresh((4, 4)), rng=seed).numpy()) for seed in range(200)]
    assert 0.4 < np.mean(np.array(diagonals) > 0) < 0.6


def test_further_axes_multiply_both_fans():
    values = init.kaiming_uniform_(fresh((50, 20, 4)), rng=0).numpy()
    assert np.abs(values).max() == pytest.approx(math.sqrt(6 / 80), rel=0.01)
    values = init.kaiming_uniform_(fresh((20, 50, 4)), mode="fan_out", rng=0).numpy()
    assert np.abs(values).max() == pytest.approx(math.sqrt(6 / 80), rel=0.01)


RANDOM = [
    "uniform_",
    "normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
]


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_rng_gives_the_same_numbers(name):
    fill = getattr(init, name)
    by_seed = fill(fresh(), rng=3).numpy()
    np.testing.assert_array_equal(fill(fresh(), rng=np.random.default_rng(3)).numpy(), by_seed)
    assert not np.array_equal(fill(fresh(), rng=4).numpy(), by_seed)
    generator = np.random.default_rng(3)
    assert not np.array_equal(fill(fresh(), rng=generator).numpy(), fill(fresh(), rng=generator).numpy())


@pytest.mark.parametrize("name", RANDOM)
def test_without_an_rng_the_default_stream_decides(name):
    fill = getattr(init, name)
    lf.seed(3)
    first, second = fill(fresh()).numpy(), fill(fresh()).numpy()
    lf.seed(3)
    np.testing.assert_array_equal(fill(fresh()).numpy(), first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", [name for name in init.__all__ if name.endswith("_")])
def test_they_return_the_parameter_which_keeps_its_dtype(name):
    parameter = lf.Parameter(np.full((3, 3, 1) if name == "dirac_" else (3, 3), 9.0, np.float16))
    arguments = (0.5,) if name in ("constant_", "sparse_") else ()
    assert getattr(init, name)(parameter, *arguments) is parameter
    assert parameter.dtype == np.float16
    assert not (parameter.numpy() == 9).any()


def test_a_truncated_normal_distribution():
    values = init.trunc_normal_(fresh((300, 300)), 1.0, 2.0, -1.0, 2.0, rng=0).numpy()
    assert -1 <= values.min() < -0.99 and 1.99 < values.max() <= 2
    low, high = (math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) for x in (-1, 0.5))
    share = (math.erf(0.5 / math.sqrt(2)) - math.erf(-1 / math.sqrt(2))) / 2
    assert values.mean() == pytest.approx(1 + 2 * (low - high) / share, abs=0.01)


def test_sparse_columns():
    values = init.sparse_(fresh((11, 40)), 0.25, 3.0, rng=0).numpy()
    assert set((values == 0).sum(axis=0)) == {3}
    assert values[values != 0].std() == pytest.approx(3.0, rel=0.1)
    assert len({tuple(column) for column in (values == 0).T}) > 10


def test_dirac_passes_channels_on():
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    weight = init.dirac_(fresh((6, 4, 3, 3)))
    y = lf.conv(x, weight, padding=1).numpy()
    np.testing.assert_array_equal(y, np.concatenate([x, np.zeros((2, 5, 6))]))
    grouped = init.dirac_(fresh((4, 2, 3, 3)), groups=2)
    np.testing.assert_array_equal(lf.conv(x, grouped, padding=1, groups=2).numpy(), x)


def test_gains():
    gains = {"conv2d": 1.0, "conv_transpose1d": 1.0, "linear": 1.0, "tanh": 5 / 3, "selu": 0.75}
    assert {name: init.calculate_gain(name) for name in gains} == gains
    assert init.calculate_gain("leaky_relu") == pytest.approx(math.sqrt(2 / 1.0001))
    assert init.calculate_gain("leaky_relu", 1.0) == 1.0


MISTAKES = {
    "dirac of a matrix": (lambda: init.dirac_(fresh()), lf.ShapeError, ["dirac_", "(60, 80)"]),
    "dirac groups": (lambda: init.dirac_(fresh((3, 2, 1)), 2), ValueError, ["groups=2", "3 outputs"]),
    "sparse of a vector": (lambda: init.sparse_(fresh((3,)), 0.5), lf.ShapeError, ["sparse_", "(3,)"]),
    "sparse share": (lambda: init.sparse_(fresh(), 1.5), ValueError, ["0 to 1", "1.5"]),
    "truncated nothing": (lambda: init.trunc_normal_(fresh(), a=1.0, b=1.0), ValueError, ["smaller than b", "1.0"]),
    "truncated far": (lambda: init.trunc_normal_(fresh(), a=8.0, b=9.0), ValueError, ["nearly no number", "8.0"]),
    "xavier of a vector": (
        lambda: init.xavier_uniform_(fresh((3,))),
        lf.ShapeError,
        ["xavier_uniform_", "(3,)", "two axes"],
    ),
    "xavier normal": (lambda: init.xavier_normal_(fresh(())), lf.ShapeError, ["xavier_normal_", "()"]),
    "kaiming of a vector": (lambda: init.kaiming_uniform_(fresh((3,))), lf.ShapeError, ["kaiming_uniform_", "(3,)"]),
    "kaiming normal": (lambda: init.kaiming_normal_(fresh((3,))), lf.ShapeError, ["kaiming_normal_", "(3,)"]),
    "orthogonal of a vector": (lambda: init.orthogonal_(fresh((3,))), lf.ShapeError, ["orthogonal_", "(3,)"]),
    "eye of a vector": (lambda: init.eye_(fresh((3,))), lf.ShapeError, ["eye_", "matrix", "(3,)"]),
    "mode": (lambda: init.kaiming_uniform_(fresh(), mode="fan"), ValueError, ["fan_in", "fan_out", "'fan'"]),
    "nonlinearity": (lambda: init.kaiming_normal_(fresh(), nonlinearity="gelu"), ValueError, ["gelu", "leaky_relu"]),
    "gain": (lambda: init.calculate_gain("softmax"), ValueError, ["softmax", "tanh"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    action, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action()
    for word in words:
        assert word in str(caught.value)


# what a fresh module's parameters look like: the bound of the uniform distribution
FRESH = {
    "Linear": (lambda: nn.Linear(25, 40), 1 / 5),
    "RNNCell": (lambda: nn.RNNCell(10, 25), 1 / 5),
    "LSTMCell": (lambda: nn.LSTMCell(10, 25), 1 / 5),
    "GRUCell": (lambda: nn.GRUCell(10, 25), 1 / 5),
    "LSTM": (lambda: nn.LSTM(10, 25, 2), 1 / 5),
    "BiLSTM": (lambda: nn.BiLSTM(10, 25, 2), 1 / 5),
    "RNN": (lambda: nn.RNN(10, 25, 2, bidirectional=True), 1 / 5),
    "GRU": (lambda: nn.GRU(10, 25, 2), 1 / 5),
    "Conv1d": (lambda: nn.Conv1d(5, 40, 5), 1 / 5),
    "Conv2d": (lambda: nn.Conv2d(8, 40, (5, 5), groups=8), 1 / 5),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(10, 25, 1), 1 / 5),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(40, 100, (1, 1), groups=4), 1 / 5),
    "Bilinear": (lambda: nn.Bilinear(25, 10, 20), 1 / 5),
}


@pytest.mark.parametrize("name", FRESH)
def test_fresh_modules_start_as_in_pytorch(name):
    make, bound = FRESH[name]
    for parameter in make().parameters():
        values = parameter.numpy()
        assert np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.35)


def test_a_fresh_embedding_is_normal_and_a_fresh_norm_does_nothing():
    table = nn.Embedding(200, 20).weight.numpy()
    assert table.std() == pytest.approx(1.0, rel=0.05)
    norm = nn.LayerNorm(3)
    assert norm.weight.numpy().tolist() == [1, 1, 1] and norm.bias.numpy().tolist() == [0, 0, 0]


def test_the_forget_bias_is_that_of_the_forget_gates_only():
    def biases(**options):
        lf.seed(1)
        binary = nn.BinaryTreeLSTMCell(2, 3, **options).inner_gates.bias.numpy()
        child_sum = nn.ChildSumTreeLSTMCell(2, 3, **options).input_gates.bias.numpy()
        return np.concatenate([binary, child_sum])

    added = biases(forget_bias=1.0) - biases()
    np.testing.assert_allclose(added.reshape(9, 3).mean(1), [0, 1, 1, 0, 0, 0, 0, 0, 1], atol=1e-6)

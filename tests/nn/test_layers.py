"""Every layer: sizes that do not fit, switches, and the same numbers however its examples are batched."""

import traceback

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.cells.steps import HOISTED, MAIN, Product
from tests.nn.support import (
    ChildSumTreeLSTM,
    TreeLSTM,
    dependency_trees,
    gradients,
    scrambled,
    sequences,
    trees,
    vectors,
    weighted,
)


def c(*shape):
    return lf.constant(np.ones(shape, np.float32))


def pair(size):
    return c(size), c(size)


# Layers on several examples of different lengths: how to make one, the examples, and one example's outputs.


def over_steps(cell, xs):
    """A cell with one state along a sequence."""
    h = None
    outputs = []
    for x in xs:
        h = cell(lf.constant(x), h)
        outputs.append(h)
    return outputs


def lstm_steps(cell, xs):
    state = None
    for x in xs:
        state = cell(lf.constant(x), state)
    return list(state)


def over_list(lstm, xs):
    outputs, states = lstm([lf.constant(x) for x in xs])
    return [*outputs, *(part for state in states for part in state)]


def each(layer, xs):
    return [layer(lf.constant(x)) for x in xs]


def one(model, example):
    return [model(example)]


def in_pairs(layer, xs):
    return [layer(lf.constant(x), lf.constant(x)) for x in xs]


def listed(layer, xs):
    return layer([lf.constant(x) for x in xs])


def over_flat_list(layer, xs):
    outputs, states = layer([lf.constant(x) for x in xs])
    return [*outputs, *states]


def attended(layer, xs):
    return [part for x in map(lf.constant, xs) for part in layer(x, x, x)]


WORDS = sequences(1, 4, (3, 1, 5, 2))
SERIES = [vectors(n, (2, 5), (2, n + 3), (2, 5)) for n in (1, 2, 3)]
IMAGES = [vectors(n, *[(2, 4 + n % 2, 5)] * n) for n in (1, 2, 3)]
SENTENCES = [vectors(n, (n, 4)) for n in (3, 1, 3, 2)]
LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), WORDS, each),
    "Linear without bias": (lambda: nn.Linear(4, 3, bias=False), WORDS, each),
    "Linear over rows": (lambda: nn.Linear(4, 3), [vectors(n, (n, 4)) for n in (1, 3, 2, 3)], each),
    "Linear over rows without bias": (
        lambda: nn.Linear(4, 3, bias=False),
        [vectors(n, (n, 2, 4)) for n in (1, 3, 3)],
        each,
    ),
    "Embedding": (lambda: nn.Embedding(6, 3), [1, 2, 1, 5], one),
    "Embedding of lists": (lambda: nn.Embedding(6, 3), [[1, 2, 1], [5], [0, 0], [2, 3]], one),
    "Embedding dense": (lambda: nn.Embedding(6, 3, sparse=False), [1, 2, 1, 5], one),
    "Embedding dense of lists": (lambda: nn.Embedding(6, 3, sparse=False), [[1, 2, 1], [5], [0, 0]], one),
    "Embedding with padding": (lambda: nn.Embedding(6, 3, padding_idx=1), [1, 2, [1, 1], [5, 1, 2], 3], one),
    "LayerNorm": (lambda: nn.LayerNorm(4), WORDS, each),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((2, 3)), [vectors(n, *[(2, 3)] * n) for n in (1, 3)], each),
    "LayerNorm of rows": (lambda: nn.LayerNorm(3), [vectors(n, (n, 3)) for n in (1, 3, 1)], each),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 5), lf.tanh, nn.LayerNorm(5)), WORDS, each),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 3), WORDS, in_pairs),
    "Highway": (lambda: nn.Highway(4), WORDS, each),
    "PReLU": (lambda: nn.PReLU(4), WORDS, each),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1, groups=2), SERIES, each),
    "Conv1d circular": (lambda: nn.Conv1d(2, 3, 2, padding="same", padding_mode="circular"), SERIES, each),
    "Conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=2, padding=1, dilation=(1, 2)), IMAGES, each),
    "Conv2d stacked": (lambda: nn.Conv2d(2, 3, 2), [vectors(n, (n, 2, 3, 4)) for n in (1, 2)], each),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 2, stride=2, output_padding=1), SERIES, each),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2, bias=False), IMAGES, each),
    "pooling": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d((2, 1))),
        IMAGES,
        each,
    ),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), WORDS, each),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, affine=True), IMAGES, each),
    "RMSNorm": (lambda: nn.RMSNorm(4), WORDS, each),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(2), SERIES, listed),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2), [images for images in IMAGES if len(images) > 1], listed),
    "RNN": (lambda: nn.RNN(4, 3, 2, nonlinearity="relu"), WORDS, over_flat_list),
    "GRU": (lambda: nn.GRU(4, 3, 2, bidirectional=True), WORDS, over_flat_list),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), SENTENCES, attended),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0), 2),
        SENTENCES,
        each,
    ),
    "RNNCell": (lambda: nn.RNNCell(4, 3), WORDS, over_steps),
    "RNNCell relu": (lambda: nn.RNNCell(4, 3, nonlinearity="relu"), WORDS, over_steps),
    "GRUCell": (lambda: nn.GRUCell(4, 3), WORDS, over_steps),
    "GRUCell without bias": (lambda: nn.GRUCell(4, 3, bias=False), WORDS, over_steps),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), WORDS, lstm_steps),
    "LSTM": (lambda: nn.LSTM(4, 3, 2), WORDS, over_list),
    "LSTM without bias": (lambda: nn.LSTM(4, 3, bias=False), WORDS, over_list),
    "BiLSTM": (lambda: nn.BiLSTM(4, 3, 2), WORDS, over_list),
    "BinaryTreeLSTMCell": (TreeLSTM, trees(1, (1, 2, 5, 9)), one),
    "ChildSumTreeLSTMCell": (ChildSumTreeLSTM, dependency_trees(1, (1, 2, 5, 9)), one),
}


def evaluated(layer, batching):
    """Value and gradients of a loss over all examples, in float64."""
    make, examples, outputs = LAYERS[layer]
    with lf.using(dtype="float64", batching=batching):
        module = scrambled(make())
        values = [o for example in examples for o in outputs(module, example)]
        loss = weighted(values)
        loss.backward()
        return [v.numpy() for v in values], gradients(module)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("batching", ["phases", "frontier", "agenda"])
def test_batched_and_unbatched_agree(layer, batching):
    values, found = evaluated(layer, batching)
    expected, wanted = evaluated(layer, "none")
    for value, other in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-12, atol=1e-12)
    assert list(found) == list(wanted)
    for name in wanted:
        assert wanted[name] is not None, f"{name} got no gradient"
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("layer", LAYERS)
def test_float32_stays_float32(layer):
    make, examples, outputs = LAYERS[layer]
    module = make()
    single = [np.float32(x) for x in examples[0]] if outputs is not one else examples[0]
    assert {o.dtype for o in outputs(module, single)} == {np.dtype("float32")}


def launches(root, name):
    """How many nodes each launch of an operation had; those of a cell that follow each other are one in the plan."""
    some = [x for run in root.tape.runs for x in run.plan.launches if x.signature.op.name == name]
    return [n for x in some for n in ([len(x.nodes)] if x.calls is None else np.diff(x.calls[1]).tolist())]


def products(calls, stage):
    """How many matrix products one of the stages of a cell has."""
    return sum(isinstance(step, Product) for step in calls.stages.steps[stage])


@pytest.mark.parametrize("make", [nn.LSTM, nn.BiLSTM])
def test_the_products_of_all_inputs_are_one_launch_a_direction(make):
    """The steps of a direction are one launch for each word of the longest list; the product with the inputs of all
    steps but the first is hoisted out of them, and what is left in a launch is the product with the states."""
    lstm = make(4, 3)
    total = weighted([o for xs in WORDS for o in over_list(lstm, np.float32(xs))])
    total.forward()
    lists, words, longest, directions = 4, 11, 5, len(lstm.directions)
    found = launches(total, "cell LSTM._step")
    assert len(found) == directions * longest
    assert sum(found) == directions * words
    [run] = total.tape.runs
    recurrent = [calls for calls in run.calls if calls.count == words - lists]
    assert [(products(c, HOISTED), products(c, MAIN)) for c in recurrent] == [(1, 1)] * directions


# Arguments and sizes that do not fit


@pytest.mark.parametrize("layer", LAYERS)
def test_arguments_that_do_not_fit_a_layer_are_told_of_its_own_class(layer):
    module = LAYERS[layer][0]()
    for args, kwargs in (((), {}), ((c(2),) * 20, {}), ((c(2),), {"nonsense": 1})):
        with pytest.raises(TypeError) as caught:
            module(*args, **kwargs)
        assert str(caught.value).startswith(f"{type(module).__name__}.forward() "), str(caught.value)


def test_operands_of_a_loss_may_be_named():
    x, y = c(3), c(3) * 2
    assert nn.MSELoss()(x, target=y).item() == nn.L1Loss()(x, target=y).item() == 1.0
    with pytest.raises(TypeError, match=r"^MSELoss\.forward\(\) missing 1 required positional argument: 'target'$"):
        nn.MSELoss()(x)
    with pytest.raises(TypeError, match=r"^ReLU\.forward\(\) takes 2 positional arguments but 3 were given$"):
        nn.ReLU()(x, x)


MISTAKES = {
    "Linear input": (lambda: nn.Linear(3, 4)(c(5)), lf.ShapeError, ["(4, 3)", "(5,)"]),
    "Linear input without bias": (lambda: nn.Linear(3, 4, bias=False)(c(5)), lf.ShapeError, ["(4, 3)", "(5,)"]),
    "Linear rows without bias": (lambda: nn.Linear(3, 4, bias=False)(c(2, 5)), lf.ShapeError, ["3", "5"]),
    "Linear scalar": (lambda: nn.Linear(3, 4)(c()), lf.ShapeError, ["(4, 3)", "()"]),
    "Linear negative": (lambda: nn.Linear(-3, 4), ValueError, ["Linear", "in_features", "-3"]),
    "Linear zero": (lambda: nn.Linear(3, 0), ValueError, ["Linear", "out_features", "0"]),
    "Linear float": (lambda: nn.Linear(3.5, 4), TypeError, ["in_features", "integer", "3.5"]),
    "Linear text": (lambda: nn.Linear("3", 4), TypeError, ["in_features", "integer", "'3'"]),
    "Linear bool": (lambda: nn.Linear(True, 4), TypeError, ["in_features", "integer", "True"]),
    "Embedding above": (lambda: nn.Embedding(5, 2)(5), IndexError, ["5", "(5, 2)", "0 to 4"]),
    "Embedding below": (lambda: nn.Embedding(5, 2)(-1), IndexError, ["-1", "0 to 4"]),
    "Embedding list": (lambda: nn.Embedding(5, 2)([1, 7]), IndexError, ["7", "(5, 2)"]),
    "Embedding float": (lambda: nn.Embedding(5, 2)(1.5), TypeError, ["integer"]),
    "Embedding dense above": (lambda: nn.Embedding(5, 2, sparse=False)(5), IndexError, ["5", "(5, 2)"]),
    "Embedding dense below": (lambda: nn.Embedding(5, 2, sparse=False)(-1), IndexError, ["-1", "0 to 4"]),
    "Embedding dense float": (lambda: nn.Embedding(5, 2, sparse=False)(1.5), TypeError, ["integer"]),
    "Embedding size": (lambda: nn.Embedding(5, -2), ValueError, ["Embedding", "embedding_dim", "-2"]),
    "Embedding empty": (lambda: nn.Embedding(0, 2), ValueError, ["Embedding", "num_embeddings", "0"]),
    "Embedding padding": (lambda: nn.Embedding(5, 2, padding_idx=5), ValueError, ["padding_idx", "0 to 4", "5"]),
    "Dropout one": (lambda: nn.Dropout(1.0), ValueError, ["Dropout", "p", "1.0"]),
    "Dropout negative": (lambda: nn.Dropout(-0.1), ValueError, ["Dropout", "-0.1"]),
    "Dropout nan": (lambda: nn.Dropout(float("nan")), ValueError, ["Dropout", "nan"]),
    "LayerNorm input": (lambda: nn.LayerNorm(3)(c(4)), lf.ShapeError, ["(3,)", "(4,)"]),
    "LayerNorm two axes": (lambda: nn.LayerNorm((2, 3))(c(3, 2)), lf.ShapeError, ["(2, 3)", "(3, 2)"]),
    "LayerNorm scalar": (lambda: nn.LayerNorm(3)(c()), lf.ShapeError, ["(3,)", "()"]),
    "LayerNorm size": (lambda: nn.LayerNorm((2, -3)), ValueError, ["LayerNorm", "normalized_shape[1]", "-3"]),
    "LayerNorm nothing": (lambda: nn.LayerNorm(()), ValueError, ["at least one axis"]),
    "RNNCell nonlinearity": (lambda: nn.RNNCell(2, 3, nonlinearity="gelu"), ValueError, ["tanh", "relu", "'gelu'"]),
    "RNNCell size": (lambda: nn.RNNCell(2, -3), ValueError, ["RNNCell", "hidden_size", "-3"]),
    "LSTMCell input": (lambda: nn.LSTMCell(2, 3)(c(4)), lf.ShapeError, ["(12, 2)", "(4,)"]),
    "LSTMCell hidden": (lambda: nn.LSTMCell(2, 3)(c(2), pair(4)), lf.ShapeError, ["(12, 3)", "(4,)"]),
    "LSTMCell memory": (lambda: nn.LSTMCell(2, 3)(c(2), (c(3), c(4))), lf.ShapeError, ["(3,)", "(4,)"]),
    "LSTMCell batch": (lambda: nn.LSTMCell(2, 3)(c(8, 2)), lf.ShapeError, ["LSTMCell", "(8, 12)", "once for each"]),
    "LSTMCell batch of states": (lambda: nn.LSTMCell(2, 3)(c(2), (c(8, 3), c(8, 3))), lf.ShapeError, ["(8, 12)"]),
    "LSTMCell state alone": (lambda: nn.LSTMCell(2, 2)(c(2), c(2)), lf.ShapeError, ["LSTMCell", "pair (h, c)", "(2,)"]),
    "LSTMCell states": (lambda: nn.LSTMCell(2, 3)(c(2), [pair(3)]), lf.ShapeError, ["pair (h, c)", "a list of 1"]),
    "LSTMCell triple": (lambda: nn.LSTMCell(2, 3)(c(2), (c(3),) * 3), lf.ShapeError, ["pair (h, c)", "a tuple of 3"]),
    "LSTMCell half": (lambda: nn.LSTMCell(2, 3)(c(2), (c(3), None)), lf.ShapeError, ["pair (h, c)", "NoneType"]),
    "LSTMCell number": (lambda: nn.LSTMCell(2, 3)(c(2), 0), lf.ShapeError, ["pair (h, c)", "int"]),
    "LSTMCell small memory": (lambda: nn.LSTMCell(2, 3)(c(2), (c(3), c(1))), lf.ShapeError, ["pair (h, c)", "(1,)"]),
    "LSTMCell memory number": (lambda: nn.LSTMCell(2, 3)(c(2), (c(3), 1.0)), lf.ShapeError, ["pair (h, c)", "float"]),
    "LSTMCell memories": (lambda: nn.LSTMCell(2, 3)(c(2), (c(3), c(3, 3))), lf.ShapeError, ["pair (h, c)", "(3, 3)"]),
    "LSTM memory": (lambda: nn.LSTM(2, 3)([c(2)], [(c(3), c(1))]), lf.ShapeError, ["LSTM", "pair (h, c)", "(1,)"]),
    "LSTM pair": (lambda: nn.LSTM(2, 3)([c(2)], pair(3)), lf.ShapeError, ["list of 1 pairs (h, c)", "got 2"]),
    "GRU state": (lambda: nn.GRU(2, 3)([c(2)], c(3)), lf.ShapeError, ["list of 1 states h", "(3,)"]),
    "coupled memory": (lambda: nn.CoupledLSTMCell(2, 3)(c(2), (c(3), c(1))), lf.ShapeError, ["pair (h, c)", "(1,)"]),
    "norm memory": (lambda: nn.LayerNormLSTMCell(2, 3)(c(2), (c(3), c(1))), lf.ShapeError, ["pair (h, c)", "(1,)"]),
    "tree child": (lambda: nn.BinaryTreeLSTMCell(2, 3)(pair(3), c(3)), lf.ShapeError, ["pair (h, c)", "(3,)"]),
    "tree small memory": (
        lambda: nn.BinaryTreeLSTMCell(2, 3)(pair(3), (c(3), c(1))), lf.ShapeError, ["pair (h, c)", "(1,)"],
    ),
    "LSTMCell size": (lambda: nn.LSTMCell(0, 3), ValueError, ["LSTMCell", "input_size", "0"]),
    "GRUCell input": (lambda: nn.GRUCell(2, 3)(c(4)), lf.ShapeError, ["(9, 2)", "(4,)"]),
    "GRUCell hidden": (lambda: nn.GRUCell(2, 3)(c(2), c(4)), lf.ShapeError, ["(9, 3)", "(4,)"]),
    "GRUCell batch": (lambda: nn.GRUCell(2, 3)(c(6, 2)), lf.ShapeError, ["GRUCell", "(6, 9)"]),
    "LSTM nothing": (lambda: nn.LSTM(2, 3)([]), lf.ShapeError, ["LSTM", "empty"]),
    "BiLSTM nothing": (lambda: nn.BiLSTM(2, 3)([]), lf.ShapeError, ["BiLSTM", "empty"]),
    "LSTM input": (lambda: nn.LSTM(2, 3)([c(2), c(4)]), lf.ShapeError, ["(12, 2)", "(4,)"]),
    "LSTM one vector": (lambda: nn.LSTM(2, 3)(c(2)), lf.ShapeError, ["(12, 2)", "()"]),
    "LSTM states": (lambda: nn.LSTM(2, 3, 2)([c(2)], [pair(3)]), lf.ShapeError, ["LSTM", "2 pairs", "got 1"]),
    "BiLSTM states": (lambda: nn.BiLSTM(2, 3)([c(2)], [pair(3)]), lf.ShapeError, ["BiLSTM", "2 pairs", "got 1"]),
    "LSTM state size": (lambda: nn.LSTM(2, 3)([c(2)], [pair(4)]), lf.ShapeError, ["(12, 3)", "(4,)"]),
    "LSTM layers": (lambda: nn.LSTM(2, 3, 0), ValueError, ["LSTM", "num_layers", "0"]),
    "LSTM dropout": (lambda: nn.LSTM(2, 3, dropout=1.5), ValueError, ["LSTM", "1.5"]),
    "RNN nonlinearity": (lambda: nn.RNN(2, 3, nonlinearity="gelu"), ValueError, ["RNN:", "tanh", "'gelu'"]),
    "RNN option": (lambda: nn.RNN(2, 3, batch_first=True), TypeError, ["batch_first"]),
    "RNN states": (lambda: nn.RNN(2, 3)([c(2)], [c(3), c(3)]), lf.ShapeError, ["RNN", "1 states h", "got 2"]),
    "GRU nothing": (lambda: nn.GRU(2, 3)([]), lf.ShapeError, ["GRU", "empty"]),
    "GRU input": (lambda: nn.GRU(2, 3)([c(4)]), lf.ShapeError, ["(9, 2)", "(4,)"]),
    "GRU states": (lambda: nn.GRU(2, 3, bidirectional=True)([c(2)], [c(3)]), lf.ShapeError, ["2 states h", "got 1"]),
    "GRU size": (lambda: nn.GRU(2, 0), ValueError, ["GRU", "hidden_size", "0"]),
    "Bilinear input": (lambda: nn.Bilinear(2, 3, 4)(c(3), c(3)), lf.ShapeError, ["(4, 2, 3)", "(3,)"]),
    "Bilinear size": (lambda: nn.Bilinear(2, -3, 4), ValueError, ["Bilinear", "in2_features", "-3"]),
    "Highway input": (lambda: nn.Highway(3)(c(4)), lf.ShapeError, ["(6, 3)", "(4,)"]),
    "Highway size": (lambda: nn.Highway(0), ValueError, ["Highway", "features", "0"]),
    "Conv2d channels": (
        lambda: nn.Conv2d(3, 4, 3)(c(2, 5, 5)), lf.ShapeError, ["2 channels", "(4, 3, 3, 3)", "takes 3"],
    ),
    "Conv2d axes": (lambda: nn.Conv2d(3, 4, 3)(c(5, 5)), lf.ShapeError, ["channels, height, width", "(5, 5)"]),
    "Conv1d axes": (lambda: nn.Conv1d(3, 4, 3)(c(2, 3, 5, 5)), lf.ShapeError, ["channels, length", "(2, 3, 5, 5)"]),
    "Conv2d no examples": (lambda: nn.Conv2d(3, 4, 3)(c(0, 3, 5, 5)), lf.ShapeError, ["stack", "(0, 3, 5, 5)"]),
    "Conv2d small": (lambda: nn.Conv2d(3, 4, 3)(c(3, 2, 5)), lf.ShapeError, ["(3, 3)", "(2, 5)"]),
    "Conv2d groups": (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, ["Conv2d", "groups=2", "in_channels=3"]),
    "Conv2d no groups": (lambda: nn.Conv2d(3, 4, 3, groups=0), ValueError, ["Conv2d", "groups", "0"]),
    "Conv2d outputs": (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, ["out_channels=3"]),
    "Conv2d kernel": (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ValueError, ["kernel_size", "2 axes", "(3, 3, 3)"]),
    "Conv2d kernel size": (lambda: nn.Conv2d(3, 4, 0), ValueError, ["kernel_size", "0"]),
    "Conv2d stride": (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, ["Conv2d", "stride", "0"]),
    "Conv2d stride type": (lambda: nn.Conv2d(3, 4, 3, stride=1.5), TypeError, ["stride", "1.5"]),
    "Conv2d padding": (lambda: nn.Conv2d(3, 4, 3, padding=-1), ValueError, ["Conv2d", "padding", "at least 0", "-1"]),
    "Conv2d padding word": (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, ["'same'", "'full'"]),
    "Conv2d same": (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), ValueError, ["stride 1", "2"]),
    "Conv2d padding mode": (lambda: nn.Conv2d(3, 4, 3, padding_mode="edge"), ValueError, ["replicate", "'edge'"]),
    "Conv2d channels size": (lambda: nn.Conv2d(3, -4, 3), ValueError, ["out_channels", "-4"]),
    "ConvTranspose2d channels": (
        lambda: nn.ConvTranspose2d(3, 4, 3)(c(2, 5, 5)), lf.ShapeError, ["2 channels", "takes 3"],
    ),
    "ConvTranspose2d more": (
        lambda: nn.ConvTranspose2d(3, 4, 3, 2, output_padding=2), ValueError, ["output_padding", "smaller than stride"],
    ),
    "ConvTranspose1d groups": (lambda: nn.ConvTranspose1d(3, 4, 3, groups=3), ValueError, ["groups=3"]),
    "MaxPool2d option": (lambda: nn.MaxPool2d(2, return_indices=True), TypeError, ["MaxPool2d", "return_indices"]),
    "MaxPool2d nothing": (lambda: nn.MaxPool2d(), TypeError, ["MaxPool2d", "kernel_size"]),
    "MaxPool2d kernel": (lambda: nn.MaxPool2d((2, 2, 2))(c(2, 5, 5)), ValueError, ["2 axes", "(2, 2, 2)"]),
    "AdaptiveAvgPool1d size": (lambda: nn.AdaptiveAvgPool1d((2, 2))(c(2, 5)), ValueError, ["1 axes", "(2, 2)"]),
    "Unfold kernel": (lambda: nn.Unfold((2,))(c(2, 5, 5)), ValueError, ["2 axes", "(2,)"]),
    "MaxPool2d small": (lambda: nn.MaxPool2d(3)(c(1, 2, 2)), lf.ShapeError, ["(3, 3)", "(2, 2)"]),
    "MaxPool2d padding": (lambda: nn.MaxPool2d(3, padding=2)(c(1, 5, 5)), ValueError, ["half", "2"]),
    "AvgPool1d axes": (lambda: nn.AvgPool1d(3)(c()), lf.ShapeError, ["1 axes", "()"]),
    "AdaptiveAvgPool2d size": (lambda: nn.AdaptiveAvgPool2d(0)(c(1, 5, 5)), ValueError, ["output_size", "0"]),
    "Unfold axes": (lambda: nn.Unfold(2)(c(5, 5)), lf.ShapeError, ["channels, height, width", "(5, 5)"]),
    "Fold rows": (lambda: nn.Fold((3, 3), 2)(c(5, 4)), lf.ShapeError, ["c * 4", "(5, 4)"]),
    "Fold columns": (lambda: nn.Fold((3, 3), 2)(c(4, 5)), lf.ShapeError, ["2 * 2", "got 5"]),
    "GroupNorm groups": (lambda: nn.GroupNorm(3, 4), ValueError, ["num_groups=3", "num_channels=4"]),
    "GroupNorm input": (lambda: nn.GroupNorm(2, 4)(c(3, 2)), lf.ShapeError, ["GroupNorm", "(4, ...)", "(3, 2)"]),
    "group_norm": (lambda: nn.functional.group_norm(c(3, 2), 2), lf.ShapeError, ["2 groups", "(3, 2)"]),
    "InstanceNorm2d axes": (lambda: nn.InstanceNorm2d(2)(c(2, 3)), lf.ShapeError, ["3 axes", "(2, 3)"]),
    "InstanceNorm1d one": (lambda: nn.InstanceNorm1d(2)(c(2, 1)), lf.ShapeError, ["several elements", "(2, 1)"]),
    "RMSNorm input": (lambda: nn.RMSNorm(3)(c(4)), lf.ShapeError, ["RMSNorm", "(3,)", "(4,)"]),
    "RMSNorm nothing": (lambda: nn.RMSNorm(()), ValueError, ["RMSNorm", "at least one axis"]),
    "BatchNorm1d one example": (
        lambda: nn.BatchNorm1d(3)(c(3)), lf.ShapeError, ["BatchNorm1d", "list of examples", "stack", "(3,)"],
    ),
    "BatchNorm2d one example": (lambda: nn.BatchNorm2d(3)(c(3, 4, 4)), lf.ShapeError, ["list of examples"]),
    "BatchNorm1d channels": (lambda: nn.BatchNorm1d(3)(c(5, 4)), lf.ShapeError, ["(n, 3, ...)", "(5, 4)"]),
    "BatchNorm1d list": (lambda: nn.BatchNorm1d(3)([c(3), c(4)]), lf.ShapeError, ["(3, ...)", "(4,)"]),
    "BatchNorm2d list": (lambda: nn.BatchNorm2d(3)([c(3, 4)]), lf.ShapeError, ["in 3 axes", "(3, 4)"]),
    "BatchNorm1d nothing": (lambda: nn.BatchNorm1d(3)([]), lf.ShapeError, ["BatchNorm1d", "empty"]),
    "BatchNorm1d no variance": (lambda: nn.BatchNorm1d(3)([c(3)]), lf.ShapeError, ["no variance", "several"]),
    "BatchNorm1d evaluating": (lambda: nn.BatchNorm1d(3).eval()(c(4)), lf.ShapeError, ["(3, ...)", "(4,)"]),
    "BatchNorm1d momentum": (lambda: nn.BatchNorm1d(3, momentum=2), ValueError, ["momentum", "2"]),
    "BatchNorm1d size": (lambda: nn.BatchNorm1d(0), ValueError, ["BatchNorm1d", "num_features", "0"]),
    "attention heads": (lambda: nn.MultiheadAttention(6, 4), ValueError, ["num_heads=4", "embed_dim=6"]),
    "attention query": (
        lambda: nn.MultiheadAttention(6, 2)(c(5), c(2, 6), c(2, 6)), lf.ShapeError, ["query", "(length, 6)", "(5,)"],
    ),
    "attention key": (lambda: nn.MultiheadAttention(6, 2)(c(2, 6), c(2, 5), c(2, 6)), lf.ShapeError, ["key", "(2, 5)"]),
    "attention value": (
        lambda: nn.MultiheadAttention(6, 2)(c(2, 6), c(3, 6), c(2, 6)), lf.ShapeError, ["one shape", "(3, 6)"],
    ),
    "attention mask": (
        lambda: nn.MultiheadAttention(6, 2)(*[c(2, 6)] * 3, attn_mask=c(3, 3)), lf.ShapeError, ["(2, 2, 2)", "(3, 3)"],
    ),
    "attention dropout": (lambda: nn.MultiheadAttention(6, 2, 1.0), ValueError, ["MultiheadAttention", "1.0"]),
    "scaled attention": (
        lambda: nn.functional.scaled_dot_product_attention(c(2, 3), c(2, 4), c(2, 4)),
        lf.ShapeError, ["(2, 3)", "(2, 4)"],
    ),
    "transformer activation": (
        lambda: nn.TransformerEncoderLayer(6, 2, activation="tanh"), ValueError, ["relu, gelu or a function", "'tanh'"],
    ),
    "transformer layers": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 4), 0), ValueError, ["num_layers", "0"],
    ),
    "activation option": (lambda: nn.ReLU(slope=1), TypeError, ["ReLU", "slope"]),
    "Threshold nothing": (lambda: nn.Threshold(), TypeError, ["Threshold", "threshold"]),
    "GLU odd": (lambda: nn.GLU()(c(3)), lf.ShapeError, ["even", "(3,)"]),
    "GLU axis": (lambda: nn.GLU(2)(c(4)), lf.ShapeError, ["axis 2", "(4,)"]),
    "GELU word": (lambda: nn.GELU("erf")(c(4)), ValueError, ["'tanh'", "'erf'"]),
    "Hardtanh order": (lambda: nn.Hardtanh(1.0, 0.5)(c(4)), ValueError, ["min_val", "1.0"]),
    "CELU zero": (lambda: nn.CELU(0)(c(4)), ValueError, ["alpha"]),
    "Softplus zero": (lambda: nn.Softplus(0)(c(4)), ValueError, ["beta"]),
    "Softshrink negative": (lambda: nn.Softshrink(-1.0)(c(4)), ValueError, ["lambd", "-1.0"]),
    "Softmax axis": (lambda: nn.Softmax(1)(c(4)), lf.ShapeError, ["axis 1"]),
    "RReLU order": (lambda: nn.RReLU(1.0, 0.5), ValueError, ["lower", "0.5"]),
    "rrelu order": (lambda: nn.functional.rrelu(c(2), 1.0, 0.5), ValueError, ["lower", "0.5"]),
    "PReLU channels": (lambda: nn.PReLU(3)(c(2, 4)), lf.ShapeError, ["(3,)", "(2, 4)"]),
    "PReLU size": (lambda: nn.PReLU(0), ValueError, ["num_parameters", "0"]),
    "Dropout2d axes": (lambda: nn.Dropout2d()(c(2, 3)), lf.ShapeError, ["dropout2d", "3 axes", "(2, 3)"]),
    "Dropout1d one": (lambda: nn.Dropout1d(1.0), ValueError, ["Dropout1d", "1.0"]),
    "Flatten axis": (lambda: nn.Flatten(1)(c(4)), lf.ShapeError, ["Flatten", "axis 1", "1 axes"]),
    "Flatten order": (lambda: nn.Flatten(1, 0)(c(4, 2)), lf.ShapeError, ["start_dim 1", "end_dim 0"]),
    "Unflatten axis": (lambda: nn.Unflatten(1, (2, 2))(c(4)), lf.ShapeError, ["Unflatten", "axis 1"]),
    "Unflatten sizes": (lambda: nn.Unflatten(0, (3, 2))(c(4)), lf.ShapeError, ["4 elements"]),
    "tree leaf": (lambda: nn.BinaryTreeLSTMCell(2, 3).leaf(c(4)), lf.ShapeError, ["(9, 2)", "(4,)"]),
    "tree leaf batch": (lambda: nn.BinaryTreeLSTMCell(2, 3).leaf(c(3, 2)), lf.ShapeError, ["one node", "(3, 9)"]),
    "tree children": (lambda: nn.BinaryTreeLSTMCell(2, 3)(pair(4), pair(3)), lf.ShapeError, ["(15, 6)", "(7,)"]),
    "tree memory": (lambda: nn.BinaryTreeLSTMCell(2, 3)(pair(3), (c(3), c(4))), lf.ShapeError, ["(3,)", "(4,)"]),
    "tree size": (lambda: nn.BinaryTreeLSTMCell(2, -3), ValueError, ["BinaryTreeLSTMCell", "hidden_size", "-3"]),
    "child sum input": (lambda: nn.ChildSumTreeLSTMCell(2, 3)(c(4)), lf.ShapeError, ["(12, 2)", "(4,)"]),
    "child sum children": (
        lambda: nn.ChildSumTreeLSTMCell(2, 3)(c(2), [pair(3), pair(4)]), lf.ShapeError, ["sum", "[3]", "[4]"],
    ),
    "child sum child": (lambda: nn.ChildSumTreeLSTMCell(2, 3)(c(2), [pair(4)]), lf.ShapeError, ["(9, 3)", "(4,)"]),
    "child sum size": (lambda: nn.ChildSumTreeLSTMCell(-2, 3), ValueError, ["ChildSumTreeLSTMCell", "input_size"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    action, error, words = MISTAKES[mistake]
    for _ in range(2):  # a mistake is no less one for being made again
        with pytest.raises(error) as caught:
            action()
        for word in words:
            assert word in str(caught.value), str(caught.value)


def test_the_error_comes_from_the_line_that_made_the_mistake():
    cell = nn.LSTMCell(2, 3)
    x = c(4)
    with pytest.raises(lf.ShapeError) as caught:
        cell(x)  # here
    lines = [frame.line for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == __file__]
    assert lines == ["cell(x)  # here"]


def test_numpy_integers_are_sizes():
    assert nn.Linear(np.int64(3), np.int32(4)).weight.shape == (4, 3)


# Embedding


def test_a_sparse_gradient_has_the_rows_touched_and_a_dense_one_all():
    for sparse in (True, False):
        table = nn.Embedding(6, 2, sparse=sparse)
        lf.sum([lf.sum(table(i)) for i in (4, 1, 4)]).backward()
        expected = np.zeros((6, 2))
        expected[[4, 1]] = [[2, 2], [1, 1]]
        if sparse:
            assert sorted(table.weight.grad.indices.tolist()) == [1, 4]
        else:
            assert not hasattr(table.weight.grad, "indices")
        np.testing.assert_array_equal(gradients(table)["weight"], expected)


@pytest.mark.parametrize("index", [2, [2, 3, 2], [[2], [1]], [3]], ids=repr)
@pytest.mark.parametrize("kind", [list, np.array, lf.constant], ids=["plain", "array", "expression"])
@pytest.mark.parametrize("sparse", [True, False])
def test_the_padding_row_starts_at_zero_and_gets_no_gradient(index, kind, sparse):
    index = index if kind is list else kind(index)
    table = nn.Embedding(5, 3, padding_idx=2, sparse=sparse)
    assert not table.weight.numpy()[2].any()
    table.weight.data[2] = 7.0
    rows = table(index)
    np.testing.assert_array_equal(rows.numpy(), table.weight.numpy()[np.asarray(index)])
    anchor = table(4)
    (lf.sum(rows) + lf.sum(anchor)).backward()
    gradient = gradients(table)["weight"]
    counts = np.bincount(np.append(np.asarray(index).ravel(), 4), minlength=5).astype(float)
    counts[2] = 0
    np.testing.assert_array_equal(gradient, np.repeat(counts[:, None], 3, axis=1))


def test_an_index_may_be_an_expression():
    table = nn.Embedding(5, 3)
    scores = lf.constant([0.0, 1.0, 5.0, 2.0, 0.0])
    np.testing.assert_array_equal(table(lf.argmax(scores)).numpy(), table.weight.numpy()[2])


# Dropout


def test_dropout_drops_while_training_only():
    layer, x = nn.Dropout(0.5), c(1000)
    dropped = layer(x).numpy()
    assert set(dropped.tolist()) == {0.0, 2.0}
    assert 400 < np.count_nonzero(dropped) < 600
    assert layer.eval()(x) is x
    assert layer.train()(x) is not x


def test_dropout_draws_anew_at_every_call_and_repeats_with_the_seed():
    layer, x = nn.Dropout(0.5), c(100)
    lf.seed(3)
    first, second = layer(x).numpy(), layer(x).numpy()
    assert not np.array_equal(first, second)
    lf.seed(3)
    np.testing.assert_array_equal(layer(x).numpy(), first)


def test_dropout_may_have_a_stream_of_its_own():
    x = c(100)
    masks = []
    for _ in range(2):
        layer = nn.Dropout(0.5, stream=lf.Stream(5))
        nn.Linear(2, 2)  # what else draws does not matter
        masks.append(layer(x).numpy())
    np.testing.assert_array_equal(*masks)


def test_the_gradient_is_that_of_the_same_mask():
    layer, w = nn.Dropout(0.5), lf.Parameter(np.ones(100, np.float32))
    y = layer(w)
    lf.sum(y).backward()
    np.testing.assert_array_equal(w.grad, y.numpy())


def test_dropout_does_not_depend_on_the_batching():
    def run(batching):
        lf.seed(1)
        layer = nn.Dropout(0.5)
        with lf.using(batching=batching):
            ys = [layer(c(n)) for n in (3, 5, 3, 5)]
            return np.concatenate([y.numpy() for y in reversed(ys)])

    np.testing.assert_array_equal(run("phases"), run("none"))


def test_dropout_in_an_lstm_is_between_layers_and_while_training():
    xs = [c(2), c(2), c(2)]
    single, deep = nn.LSTM(2, 3, dropout=0.9), nn.LSTM(2, 30, 2, dropout=0.5)

    def last(lstm):
        return lstm(xs)[0][-1].numpy()

    np.testing.assert_array_equal(last(single), last(single))
    assert not np.array_equal(last(deep), last(deep))
    deep.eval()
    np.testing.assert_array_equal(last(deep), last(deep))


# Recurrent modules over lists


def test_an_lstm_continues_from_a_state():
    lstm = nn.LSTM(4, 3, 2)
    xs = [lf.constant(x) for x in np.float32(WORDS[2])]
    outputs, states = lstm(xs)
    first, middle = lstm(xs[:2])
    second, final = lstm(xs[2:], middle)
    for ours, theirs in zip([*first, *second, *sum(final, ())], [*outputs, *sum(states, ())], strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-7)


def test_an_lstm_reads_a_matrix_as_its_rows():
    lstm, xs = nn.LSTM(4, 3), np.float32(WORDS[0])
    rows, listed = lstm(lf.constant(np.stack(xs)))[0], lstm([lf.constant(x) for x in xs])[0]
    for ours, theirs in zip(rows, listed, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_the_last_output_is_the_final_state():
    outputs, [(h, _)] = nn.LSTM(2, 3)([c(2), c(2)])
    assert h is outputs[-1]


def test_an_lstm_is_its_cells():
    lstm, cell = nn.LSTM(4, 3), nn.LSTMCell(4, 3)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in lstm.state_dict().items()})
    xs = np.float32(WORDS[2])
    np.testing.assert_array_equal(over_list(lstm, xs)[-2].numpy(), lstm_steps(cell, xs)[0].numpy())


def test_masks_of_attention_that_say_neither_of_two_things_are_refused():
    layer, x = nn.MultiheadAttention(8, 2), lf.constant(np.ones((4, 8), np.float32))
    with pytest.raises(lf.DTypeError, match=r"truth values, or of floating numbers .* got int64: .*astype\(bool\)"):
        layer(x, x, x, attn_mask=np.triu(np.ones((4, 4), np.int64), 1))
    with pytest.raises(lf.DTypeError, match="got int64"):
        nn.functional.scaled_dot_product_attention(x, x, x, np.ones((4, 4), np.int64))
    for shape in ((4, 3), (3, 4), (3, 4, 4)):
        with pytest.raises(lf.ShapeError, match=r"attn_mask is \(4, 4\) or \(2, 4, 4\) .* got \(\d, "):
            layer(x, x, x, attn_mask=np.zeros(shape, bool))
    for shape in ((4, 4), (1, 4), (2, 4, 4), (1, 4, 4)):
        assert layer(x, x, x, attn_mask=np.zeros(shape, bool))[0].shape == (4, 8)

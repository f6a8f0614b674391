"""A layer keeps the dtype of its parameters, a loss that of the prediction, whatever data comes beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn

WIDE = np.random.default_rng(0).normal(size=(3, 4))  # float64, as NumPy makes it


def first(value: Any) -> Any:
    while isinstance(value, tuple | list):
        value = value[0]
    return value


def states(n: int, form: Any) -> Any:
    return form(np.zeros(n)), form(np.ones(n))


# The layer, and a call of it with data that `form` has put into some form.
LAYERS: dict[str, tuple[Any, Any]] = {
    "Linear": (lambda: nn.Linear(4, 3), lambda m, form: m(form(WIDE[0]))),
    "Linear without bias": (lambda: nn.Linear(4, 3, bias=False), lambda m, form: m(form(WIDE[0]))),
    "Linear of rows": (lambda: nn.Linear(4, 3), lambda m, form: m(form(WIDE))),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 2), lambda m, form: m(form(WIDE[0]), form(WIDE[1]))),
    "Highway": (lambda: nn.Highway(4), lambda m, form: m(form(WIDE[0]))),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
        lambda m, form: m(form(WIDE[0])),
    ),
    "RNNCell": (lambda: nn.RNNCell(4, 3), lambda m, form: m(form(WIDE[0]), form(np.zeros(3)))),
    "GRUCell": (lambda: nn.GRUCell(4, 3), lambda m, form: m(form(WIDE[0]), form(np.zeros(3)))),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), lambda m, form: m(form(WIDE[0]), states(3, form))),
    "CoupledLSTMCell": (
        lambda: nn.CoupledLSTMCell(4, 3, peepholes="diagonal"),
        lambda m, form: m(form(WIDE[0]), states(3, form)),
    ),
    "LayerNormLSTMCell": (lambda: nn.LayerNormLSTMCell(4, 3), lambda m, form: m(form(WIDE[0]), states(3, form))),
    "BinaryTreeLSTMCell": (lambda: nn.BinaryTreeLSTMCell(4, 3), lambda m, form: m(states(3, form), states(3, form))),
    "ChildSumTreeLSTMCell": (
        lambda: nn.ChildSumTreeLSTMCell(4, 3),
        lambda m, form: m(form(WIDE[0]), [states(3, form), states(3, form)]),
    ),
    "NaryTreeLSTMCell": (
        lambda: nn.NaryTreeLSTMCell(4, 3),
        lambda m, form: m(form(WIDE[0]), [states(3, form), None]),
    ),
    "RNN": (lambda: nn.RNN(4, 3), lambda m, form: m([form(row) for row in WIDE])),
    "GRU": (lambda: nn.GRU(4, 3, variational_dropout=0.5), lambda m, form: m([form(row) for row in WIDE])),
    "LSTM": (lambda: nn.LSTM(4, 3), lambda m, form: m([form(row) for row in WIDE], [states(3, form)])),
    "BiLSTM": (lambda: nn.BiLSTM(4, 3), lambda m, form: m([form(row) for row in WIDE])),
    "LayerNorm": (lambda: nn.LayerNorm(4), lambda m, form: m(form(WIDE[0]))),
    "RMSNorm": (lambda: nn.RMSNorm(4), lambda m, form: m(form(WIDE[0]))),
    "GroupNorm": (lambda: nn.GroupNorm(1, 3), lambda m, form: m(form(WIDE))),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3, affine=True), lambda m, form: m(form(WIDE))),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda m, form: m([form(WIDE[0]), form(WIDE[1])])),
    "BatchNorm1d by averages": (lambda: nn.BatchNorm1d(4).eval(), lambda m, form: m([form(WIDE[0])])),
    "Conv1d": (lambda: nn.Conv1d(3, 2, 2), lambda m, form: m(form(WIDE))),
    "Conv1d reflecting": (
        lambda: nn.Conv1d(3, 2, 3, padding=1, padding_mode="reflect"),
        lambda m, form: m(form(WIDE)),
    ),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 2, 2), lambda m, form: m(form(WIDE))),
    "PReLU": (lambda: nn.PReLU(), lambda m, form: m(form(WIDE))),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2),
        lambda m, form: m(form(WIDE), form(WIDE), form(WIDE), attn_mask=np.zeros((3, 3))),
    ),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), lambda m, form: m(form(WIDE))),
    "TransformerEncoderLayer, norm first": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, norm_first=True),
        lambda m, form: m(form(WIDE)),
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8),
        lambda m, form: m(form(WIDE), form(WIDE[:2])),
    ),
    "GCNConv": (lambda: nn.GCNConv(4, 2), lambda m, form: m(form(WIDE), EDGES, [1.0, 2.0, 0.5])),
    "GraphConv": (lambda: nn.GraphConv(4, 2, "max"), lambda m, form: m(form(WIDE), EDGES)),
    "GATConv": (lambda: nn.GATConv(4, 2, 2), lambda m, form: m(form(WIDE), EDGES)),
    "AttentionPooling": (lambda: nn.AttentionPooling(4), lambda m, form: m(form(WIDE))),
    "SoftmaxOutput": (lambda: nn.SoftmaxOutput(4, 3), lambda m, form: m(form(WIDE[0]), 1)),
    "HierarchicalSoftmax": (
        lambda: nn.HierarchicalSoftmax(4, [[0, 1], [2, 3]]),
        lambda m, form: m(form(WIDE[0]), 1),
    ),
}

EDGES = [[0, 1, 2], [1, 0, 1]]

FORMS: dict[str, Any] = {
    "array": lambda a: a,
    "integer array": lambda a: np.round(a).astype(int),
    "list": lambda a: a.tolist(),
    "list of integers": lambda a: np.round(a).astype(int).tolist(),
    "constant": lf.constant,
    "parameter": lf.Parameter,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("make", "call"), LAYERS.values(), ids=LAYERS)
def test_a_layer_keeps_the_dtype_of_its_parameters(make: Any, call: Any, form: Any) -> None:
    """The result is that of the data in float32, and the parameters get float32 gradients."""
    lf.seed(0)
    layer = make()
    with lf.using(fuse="numpy"):
        result = first(call(layer, form))
        lf.sum(result).backward()
    assert result.dtype == np.float32
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {np.dtype("float32")}


@pytest.mark.parametrize(("make", "call"), LAYERS.values(), ids=LAYERS)
def test_a_layer_of_float64_stays_so(make: Any, call: Any) -> None:
    with lf.using(dtype="float64"):
        layer = make()
    assert first(call(layer, lambda a: a)).dtype == np.float64
    assert first(call(layer, lambda a: a.astype(np.float32))).dtype == np.float64
    assert first(call(layer, lambda a: np.round(a).astype(int).tolist())).dtype == np.float64


def test_the_gradient_of_a_wider_operand_comes_back_in_its_own_dtype() -> None:
    p, layer = lf.Parameter(np.ones(4)), nn.Linear(4, 1)
    lf.sum(layer(p)).backward()
    assert p.dtype == p.grad.dtype == np.float64
    np.testing.assert_allclose(p.grad, layer.weight.numpy()[0], rtol=1e-6)


Y = [0.2, 0.5, 0.3]
LOSSES: dict[str, Any] = {
    "mse": lambda y, t: lf.mse(y, t),
    "huber": lambda y, t: lf.huber(y, t),
    "bce_with_logits": lambda y, t: lf.bce_with_logits(y, t),
    "cross_entropy": lambda y, t: lf.cross_entropy(y, t / t.sum()),
    "L1Loss": lambda y, t: nn.L1Loss()(y, t),
    "SmoothL1Loss": lambda y, t: nn.SmoothL1Loss()(y, t),
    "BCELoss": lambda y, t: nn.BCELoss()(y, t),
    "BCEWithLogitsLoss": lambda y, t: nn.BCEWithLogitsLoss(pos_weight=np.ones(3))(y, t),
    "KLDivLoss": lambda y, t: nn.KLDivLoss()(y, t),
    "PoissonNLLLoss": lambda y, t: nn.PoissonNLLLoss(full=True)(y, t),
    "GaussianNLLLoss": lambda y, t: nn.GaussianNLLLoss()(y, t, np.ones(3)),
    "SoftMarginLoss": lambda y, t: nn.SoftMarginLoss()(y, 2 * t - 1),
    "HingeEmbeddingLoss": lambda y, t: nn.HingeEmbeddingLoss()(y, 2 * t - 1),
    "MarginRankingLoss": lambda y, t: nn.MarginRankingLoss()(y, t, np.ones(3)),
    "CosineEmbeddingLoss": lambda y, t: nn.CosineEmbeddingLoss()(y, t, 1),
    "TripletMarginLoss": lambda y, t: nn.TripletMarginLoss()(y, t, 1 - t),
    "MultiLabelSoftMarginLoss": lambda y, t: nn.MultiLabelSoftMarginLoss(weight=np.ones(3))(y, t),
    "CrossEntropyLoss": lambda y, t: nn.CrossEntropyLoss(weight=np.ones(3))(y, 1),
    "NLLLoss": lambda y, t: nn.NLLLoss(weight=np.ones(3))(y, 1),
    "MultiMarginLoss": lambda y, t: nn.MultiMarginLoss(weight=np.ones(3))(y, 1),
    "pairwise_distance": lambda y, t: lf.nn.functional.pairwise_distance(y, t),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_has_the_dtype_of_the_prediction(loss: Any, dtype: str) -> None:
    prediction = lf.Parameter(np.array(Y, dtype))
    for target in (np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0], np.float32)):
        assert loss(prediction, target).dtype == dtype


def test_numbers_and_lists_take_the_dtype_of_what_they_stand_beside() -> None:
    for dtype in ("float16", "float32", "float64"):
        x = lf.constant(np.ones(3, dtype))
        found = [
            x * 2, 2 * x, x * [1, 2, 3], [1, 2, 3] * x, x - [0.5, 1, 2], lf.maximum(x, [0, 0, 0]),
            lf.clip(x, [0, 0, 0], 1),            lf.where([True, False, True], x, [0, 0, 0]),
            lf.stack([x, [1, 2, 3]]), lf.concatenate([x, [1, 2]]),
            lf.stack([x[0], 1, 2.0]), lf.sum([x, [1, 2, 3]]), lf.mean([x[0], 1]),
            x @ [[1], [2], [3]], lf.dot(x, [1, 2, 3]),
        ]  # fmt: skip
        assert {e.dtype for e in found} == {np.dtype(dtype)}


def test_numbers_alone_take_the_default_dtype_where_the_result_is_floating() -> None:
    for dtype in ("float32", "float64"):
        with lf.using(dtype=dtype):
            found = [
                lf.sqrt(5),
                lf.tanh([1, 2]),
                lf.divide(1, 2),
                lf.mean([1, 2, 3]),
                lf.softmax([1, 2]),
                lf.Parameter([1, 2]),
            ]
            assert {e.dtype for e in found} == {np.dtype(dtype)}
    assert (lf.constant([1, 2]) * [1, 2]).dtype == np.int64
    assert lf.add([1, 2], 3).dtype == np.int64


def test_arrays_promote_in_plain_operations_as_in_numpy() -> None:
    x = lf.constant([1.0, 2.0])
    assert (x * np.ones(2)).dtype == np.float64
    assert (x * lf.Parameter(np.ones(2))).dtype == np.float64
    assert (x * np.float64(2.0)).dtype == np.float32  # but for NumPy's scalars, which are as weak as Python's

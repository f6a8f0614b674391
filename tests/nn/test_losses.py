"""Losses: what they refuse, and what PyTorch has no answer to."""

import math

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn
from lazyflow.nn import functional as F


def c(*shape):
    return lf.constant(np.ones(shape, np.float32))


NAMES = [name for name in nn.__all__ if name.endswith("Loss")]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_reduction_is_refused_when_the_loss_is_made(name):
    with pytest.raises(ValueError, match=f"{name}: reduction must be one of mean, sum, none.*got 'avg'"):
        getattr(nn, name)(reduction="avg")


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_a_loss_has_not_is_refused(name):
    with pytest.raises(TypeError, match=f"{name}.*size_average"):
        getattr(nn, name)(size_average=True)


MISTAKES = {
    "reduction": (lambda: F.l1_loss(c(2), c(2), "avg"), ValueError, ["l1_loss", "mean, sum, none", "'avg'"]),
    "kl reduction": (lambda: F.kl_div(c(2), c(2), "avg"), ValueError, ["batchmean", "'avg'"]),
    "shapes": (lambda: nn.L1Loss()(c(2), c(3)), lf.ShapeError, ["one shape", "(2,)", "(3,)"]),
    "mse shapes": (lambda: nn.MSELoss()(c(2), c(1, 2)), lf.ShapeError, ["(2,)", "(1, 2)"]),
    "beta": (lambda: nn.SmoothL1Loss(beta=-1.0)(c(2), c(2)), ValueError, ["beta", "-1.0"]),
    "delta": (lambda: nn.HuberLoss(delta=0)(c(2), c(2)), ValueError, ["delta", "0"]),
    "class": (lambda: nn.CrossEntropyLoss()(c(3), 3), IndexError, ["class 3", "3 scores"]),
    "classes": (lambda: nn.CrossEntropyLoss()(c(2, 3), [0, 3]), IndexError, ["class 3"]),
    "negative class": (lambda: nn.CrossEntropyLoss()(c(2, 3), [0, -1]), IndexError, ["class -1"]),
    "class shape": (lambda: nn.CrossEntropyLoss()(c(2, 3), [0, 1, 1]), lf.ShapeError, ["(2, 3)", "(2,)", "(3,)"]),
    "weighted class": (lambda: nn.NLLLoss(np.ones(3))(c(3), 3), IndexError, ["3", "out of"]),
    "weights": (lambda: nn.CrossEntropyLoss(np.ones(2))(c(3), 1), lf.ShapeError, ["3 classes", "(2,)"]),
    "smoothing": (lambda: F.cross_entropy(c(3), 1, label_smoothing=1.5), ValueError, ["label_smoothing", "1.5"]),
    "all ignored": (lambda: F.nll_loss(c(2, 3), [-100, -100]), ValueError, ["ignore_index=-100", "'sum'"]),
    "class axis": (lambda: F.cross_entropy(c(3, 4), [0, 1, 2, 0], dim=2), lf.ShapeError, ["dim", "2", "(3, 4)"]),
    "image": (lambda: F.cross_entropy(c(3, 2, 2), np.zeros((2, 3), int), dim=0), lf.ShapeError, ["(2, 2)", "(2, 3)"]),
    "boolean class": (lambda: F.nll_loss(c(2), np.array(True)), lf.DTypeError, ["integer", "bool"]),
    "probabilities": (lambda: F.cross_entropy(c(3), np.ones(2)), lf.ShapeError, ["(3,)", "(2,)"]),
    "margin p": (lambda: nn.MultiMarginLoss(p=3)(c(3), 1), ValueError, ["p must be 1 or 2", "3"]),
    "labels": (lambda: nn.MultiLabelMarginLoss()(c(3), [0, 1]), lf.ShapeError, ["(3,)", "(2,)"]),
    "labels dtype": (lambda: nn.MultiLabelMarginLoss()(c(2), [0.0, 1.0]), lf.ShapeError, ["float64"]),
    "label": (lambda: nn.MultiLabelMarginLoss()(c(3), [0, 3, -1]), IndexError, ["0 to 2", "[0, 3, -1]"]),
    "label expression": (lambda: nn.MultiLabelMarginLoss()(c(2), lf.constant([0, 1])), TypeError, ["array"]),
    "cosine target": (lambda: nn.CosineEmbeddingLoss()(c(2, 3), c(2, 3), 1.0), lf.ShapeError, ["(2,)", "()"]),
    "cosine vectors": (lambda: nn.CosineEmbeddingLoss()(c(2), c(3), 1.0), lf.ShapeError, ["(2,)", "(3,)"]),
    "ranking": (lambda: nn.MarginRankingLoss()(c(2), c(3), c(2)), lf.ShapeError, ["(2,)", "(3,)"]),
    "ctc target": (lambda: nn.CTCLoss()(c(3, 2), [[1]]), lf.ShapeError, ["(length,)", "(1, 1)"]),
    "ctc steps": (lambda: nn.CTCLoss()(c(3), [1]), lf.ShapeError, ["(steps, classes)", "(3,)"]),
    "ctc class": (lambda: nn.CTCLoss()(c(3, 2), [2]), IndexError, ["0 to 1", "[2]"]),
    "ctc blank": (lambda: nn.CTCLoss()(c(3, 2), [0]), IndexError, ["blank=0", "[0]"]),
    "ctc expression": (lambda: nn.CTCLoss()(c(3, 2), lf.constant([1])), TypeError, ["array of classes"]),
    "ctc too long": (lambda: nn.CTCLoss()(c(2, 2), [1, 1]), ValueError, ["2 classes, 1 of them", "2 steps"]),
    "triplet": (lambda: nn.TripletMarginLoss()(c(2), c(3), c(2)), lf.ShapeError, ["(2,)", "(3,)"]),
    "triplet norm": (lambda: nn.TripletMarginLoss(p=3)(c(2), c(2), c(2)), ValueError, ["1, 2 or inf", "3"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    action, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        action()
    for word in words:
        assert word in str(caught.value), str(caught.value)


NUMBERS = {
    "beta": lambda n: F.softplus(c(2), n),
    "threshold": lambda n: F.softplus(c(2), 1.0, n),
    "hardshrink: lambd": lambda n: F.hardshrink(c(2), n),
    "softshrink: lambd": lambda n: F.softshrink(c(2), n),
    "threshold: threshold": lambda n: F.threshold(c(2), n, 0.0),
    "value": lambda n: F.threshold(c(2), 0.0, n),
    "layer_norm": lambda n: F.layer_norm(c(2), 2, eps=n),
    "rms_norm": lambda n: F.rms_norm(c(2), 2, eps=n),
    "batch_norm": lambda n: F.batch_norm(c(2), c(2), c(2), eps=n),
    "normalize": lambda n: F.normalize(c(2), eps=n),
    "cosine_similarity": lambda n: F.cosine_similarity(c(2), c(2), eps=n),
    "pairwise_distance": lambda n: F.pairwise_distance(c(2), c(2), eps=n),
    "smooth_l1_loss": lambda n: F.smooth_l1_loss(c(2), c(2), beta=n),
    "poisson_nll_loss": lambda n: F.poisson_nll_loss(c(2), c(2), log_input=False, eps=n),
    "gaussian_nll_loss": lambda n: F.gaussian_nll_loss(c(2), c(2), c(2), eps=n),
    "hinge_embedding_loss": lambda n: F.hinge_embedding_loss(c(2), c(2), n),
    "margin_ranking_loss": lambda n: F.margin_ranking_loss(c(2), c(2), 1.0, n),
    "cosine_embedding_loss": lambda n: F.cosine_embedding_loss(c(2), c(2), 1.0, n),
    "triplet_margin_loss": lambda n: F.triplet_margin_loss(c(2), c(2), c(2), n),
    "multi_margin_loss": lambda n: F.multi_margin_loss(c(2), 1, margin=n),
    "label_smoothing": lambda n: F.cross_entropy(c(2), 1, label_smoothing=n),
    "PReLU": lambda n: nn.PReLU(init=n),
    "lower": lambda n: nn.RReLU(n, 1.0),
    "upper": lambda n: nn.RReLU(0.0, n),
    "Highway": lambda n: nn.Highway(2, gate_bias=n),
    "GINConv": lambda n: nn.GINConv(lf.tanh, eps=n),
    "negative_slope": lambda n: nn.GATConv(2, 2, negative_slope=n),
    "LayerNormLSTMCell: eps": lambda n: nn.LayerNormLSTMCell(2, 2, eps=n),
    "forget_bias": lambda n: nn.LayerNormLSTMCell(2, 2, forget_bias=n),
    "LayerNorm: eps": lambda n: nn.LayerNorm(2, eps=n),
    "RMSNorm: eps": lambda n: nn.RMSNorm(2, eps=n),
    "GroupNorm: eps": lambda n: nn.GroupNorm(1, 2, eps=n),
    "Dropout": lambda n: nn.Dropout(n),
    "LSTM: dropout": lambda n: nn.LSTM(2, 2, dropout=n),
    "MultiheadAttention: dropout": lambda n: nn.MultiheadAttention(2, 1, dropout=n),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_value_with_a_gradient_is_no_number(name):
    """It would be one of now, and no gradient would flow to it."""
    NUMBERS[name](np.float32(0.5))
    with pytest.raises(TypeError, match="must be a number, got Parameter"):
        NUMBERS[name](lf.Parameter(0.5))


def test_all_targets_may_be_ignored_in_a_sum():
    w = lf.Parameter(np.ones((2, 3)))
    loss = nn.CrossEntropyLoss(reduction="sum")(w, [-100, -100])
    loss.backward()
    assert loss.item() == 0 and not w.grad.any()


def test_an_ignored_class_among_expressions():
    x = lf.constant(np.random.default_rng(0).standard_normal((4, 3)))
    scores = np.eye(3)[[0, 2, 1, 2]]
    known = F.cross_entropy(x, [0, 2, 1, 2], ignore_index=2)
    later = F.cross_entropy(x, lf.argmax(lf.constant(scores), axis=1), ignore_index=2)
    assert later.item() == pytest.approx(known.item(), rel=1e-12)


def test_probabilities_of_0_and_1_have_finite_losses():
    losses = F.binary_cross_entropy(lf.constant(np.array([0.0, 1.0])), np.ones(2), reduction="none")
    assert losses.numpy().tolist() == pytest.approx([100.0, 0.0])


def test_losses_of_different_classes_share_launches():
    loss = nn.CrossEntropyLoss(np.array([1.0, 2.0, 3.0]), label_smoothing=0.1)
    rng = np.random.default_rng(0)
    parts = [loss(lf.constant(rng.standard_normal(3)), target) for target in (0, 2, 1, 2)]
    total = lf.mean(parts)
    total.forward()
    launches = [x for run in total.tape.runs for x in run.plan.launches if x.signature.op.name != "constant"]
    assert min(len(x.nodes) for x in launches[:-1]) == 4


WEIGHTED = {
    "bce": lambda x, w: F.binary_cross_entropy(lf.sigmoid(x), lf.constant([1.0, 0.0]), w),
    "bce with logits": lambda x, w: F.binary_cross_entropy_with_logits(x, lf.constant([1.0, 0.0]), w, pos_weight=w),
    "multilabel": lambda x, w: F.multilabel_soft_margin_loss(x, lf.constant([1.0, 0.0]), w),
    "class": lambda x, w: F.cross_entropy(x, 1, w),
    "class expression": lambda x, w: F.cross_entropy(x, lf.argmax(x), w),
    "smoothed class": lambda x, w: F.cross_entropy(x, 1, w, label_smoothing=0.1),
    "probabilities": lambda x, w: F.cross_entropy(x, lf.constant([0.5, 0.5]), w),
    "margin": lambda x, w: F.multi_margin_loss(x, 1, weight=w),
}


@pytest.mark.parametrize("kind", [np.array, list, lf.constant])
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_take_the_dtype_of_what_they_weigh(name, kind):
    x, weight = lf.constant([0.5, -1.0]), [1.0, 3.0]
    loss = WEIGHTED[name](x, kind(weight))
    assert loss.dtype == np.float32
    assert loss.item() == pytest.approx(WEIGHTED[name](x, np.float32(weight)).item(), rel=1e-6)


def test_weights_are_buffers():
    loss = nn.CrossEntropyLoss(np.array([1.0, 2.0]))
    assert list(loss.state_dict()) == ["weight"]
    assert repr(nn.SmoothL1Loss(beta=2.0)) == "SmoothL1Loss(beta=2.0)"


def test_a_gaussian_has_its_density():
    value = F.gaussian_nll_loss(lf.constant([1.0]), [3.0], [4.0], full=True).item()
    assert math.exp(-value) == pytest.approx(math.exp(-0.5) / math.sqrt(2 * math.pi * 4), rel=1e-6)


def test_a_target_that_does_not_fit_may_count_for_nothing():
    w = lf.Parameter(np.zeros((2, 2)))
    loss = F.ctc_loss(lf.log_softmax(w), [1, 1], zero_infinity=True)
    loss.backward()
    assert loss.item() == 0 and not w.grad.any()

"""Losses of infinite scores: an answer of probability 0 takes no part, in the value as in the gradient, and an infinite
cost is infinite and not NaN. PyTorch's are NaN in several of these places."""

import numpy as np
import pytest

import lazyflow as lf

F = lf.nn.functional
INF = np.inf
LOGITS, ANSWERS = np.array([INF, -INF, INF, -INF, 2.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
BINARY, SLOPES = (
    np.array([0.0, 0.0, INF, INF, np.log1p(np.exp(2.0)), np.log(2.0)]),
    [0, 0, 1, -1, 1 / (1 + np.exp(-2)), -0.5],
)
TWO = np.full(6, 2.0)
FACTOR = np.where(ANSWERS == 1, 2.0, 1.0)
SCORES, CHANCES = np.array([-INF, 1.0, 2.0, -INF]), np.array([0.0, 0.25, 0.75, 0.0])
LOGS = SCORES - np.log(np.exp(1.0) + np.exp(2.0))
KL = np.array([0.0, 0.25 * (np.log(0.25) - LOGS[1]), 0.75 * (np.log(0.75) - LOGS[2]), 0.0])
with np.errstate(divide="ignore"):
    LOG_CHANCES = np.log(CHANCES)

# name -> loss of the scores, scores, values, gradients of their sum.
LOSSES = {
    "binary": (lambda x: F.binary_cross_entropy_with_logits(x, ANSWERS, reduction="none"), LOGITS, BINARY, SLOPES),
    "binary, weighted": (
        lambda x: F.binary_cross_entropy_with_logits(x, ANSWERS, TWO, reduction="none"), LOGITS, 2 * BINARY,
        2 * np.array(SLOPES),
    ),
    "binary, pos_weight": (
        lambda x: F.binary_cross_entropy_with_logits(x, ANSWERS, reduction="none", pos_weight=TWO), LOGITS,
        FACTOR * BINARY, FACTOR * SLOPES,
    ),
    "several labels": (
        lambda x: F.multilabel_soft_margin_loss(x, ANSWERS[[0, 1, 4, 5]]), LOGITS[[0, 1, 4, 5]],
        BINARY[[0, 1, 4, 5]].mean(), np.array(SLOPES)[[0, 1, 4, 5]] / 4,
    ),
    "soft targets": (
        lambda x: lf.cross_entropy(x, CHANCES), SCORES, -0.25 * LOGS[1] - 0.75 * LOGS[2], np.exp(LOGS) - CHANCES,
    ),
    "divergence": (lambda x: F.kl_div(x, CHANCES, reduction="none"), LOGS, KL, -CHANCES),
    "divergence of logarithms": (
        lambda x: F.kl_div(x, LOG_CHANCES, reduction="none", log_target=True), LOGS, KL, -CHANCES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda f: f, lf.cell], ids=["plain", "cell"])
@pytest.mark.parametrize(("loss", "scores", "values", "slopes"), LOSSES.values(), ids=LOSSES)
def test_no_part_of_probability_zero(loss, scores, values, slopes, wrap):
    x = lf.Parameter(scores)
    found = wrap(loss)(x)
    lf.sum(found).backward()
    np.testing.assert_allclose(found.numpy(), values, rtol=1e-12)
    np.testing.assert_allclose(x.grad, slopes, rtol=1e-12, atol=1e-12)


def test_cosines_of_vectors_whose_product_float16_does_not_hold():
    a, b = np.array([1e4, -1e4, 3e4, 0.0]), np.array([1.0, 2.0, 3.0, 4.0])
    x, wide = lf.Parameter(a.astype(np.float16)), lf.Parameter(a)
    found, want = F.cosine_similarity(x, b.astype(np.float16)), F.cosine_similarity(wide, b)
    found.backward()
    want.backward()
    np.testing.assert_allclose(want.item(), a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose(found.item(), want.item(), rtol=3e-3)
    np.testing.assert_allclose(x.grad, wide.grad, rtol=2e-2, atol=1e-7)

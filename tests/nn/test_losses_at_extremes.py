"""All losses beside PyTorch's where they are difficult: probabilities of 0 and 1, huge and infinite scores, nothing to
sum, ignored rows, smoothed labels, weights; values and gradients, both dtypes."""

import numpy as np
import pytest

import lazyflow as lf

torch = pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
F, T = lf.nn.functional, torch.nn.functional
INF = np.inf

P = np.array([0.0, 1.0, 0.0, 1.0, 0.5, 1e-30, 0.25])
Q = np.array([0.0, 1.0, 1.0, 0.0, 0.5, 1.0, 0.75])
LOGITS = np.array([-1e4, 1e4, 0.0, -200.0, 200.0, 30.0, -30.0])
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
SCORES = np.array([[1e4, 0.0, -1e4], [-INF, 0.0, 1.0], [0.0, 0.0, 0.0], [300.0, 299.0, -INF], [-80.0, 90.0, 0.5]])
CLASSES = np.array([2, 1, 0, 1, 2])
W = np.array([0.5, 0.0, 2.0])
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 3.0, 1.0, 0.0])

# name -> calls of both: a function of (namespace, x, target as that namespace's, reduction).
ELEMENTS = {
    "binary_cross_entropy": (lambda f, x, t, w, r: f.binary_cross_entropy(x, t, reduction=r), P, Q),
    "weighted binary_cross_entropy": (lambda f, x, t, w, r: f.binary_cross_entropy(x, t, w, reduction=r), P, Q),
    "with_logits": (lambda f, x, t, w, r: f.binary_cross_entropy_with_logits(x, t, reduction=r), LOGITS, Q),
    "weighted with_logits": (lambda f, x, t, w, r: f.binary_cross_entropy_with_logits(x, t, w, reduction=r), LOGITS, Q),
    "with_logits, pos_weight": (
        lambda f, x, t, w, r: f.binary_cross_entropy_with_logits(x, t, pos_weight=w, reduction=r), LOGITS, Q),
    "mse_loss": (lambda f, x, t, w, r: f.mse_loss(x, t, reduction=r), LOGITS, Q),
    "l1_loss": (lambda f, x, t, w, r: f.l1_loss(x, t, reduction=r), LOGITS, Q),
    "huber_loss": (lambda f, x, t, w, r: f.huber_loss(x, t, reduction=r, delta=0.5), LOGITS, Q),
    "smooth_l1_loss": (lambda f, x, t, w, r: f.smooth_l1_loss(x, t, reduction=r, beta=2.0), LOGITS, Q),
    "kl_div": (lambda f, x, t, w, r: f.kl_div(x, t, reduction=r), -abs(LOGITS), Q),
    "kl_div of logarithms": (lambda f, x, t, w, r: f.kl_div(x, t, reduction=r, log_target=True), -abs(LOGITS), -Q * 50),
    "poisson_nll_loss": (lambda f, x, t, w, r: f.poisson_nll_loss(x, t, reduction=r), LOGITS / 1e3, Q * 9),
    "poisson_nll_loss of rates": (
        lambda f, x, t, w, r: f.poisson_nll_loss(x, t, log_input=False, full=True, reduction=r), P, Q * 9),
    "soft_margin_loss": (lambda f, x, t, w, r: f.soft_margin_loss(x, t, reduction=r), LOGITS / 200, SIGNS),
    "hinge_embedding_loss": (lambda f, x, t, w, r: f.hinge_embedding_loss(x, t, reduction=r), LOGITS, SIGNS),
}  # fmt: skip
CLASS_LOSSES = {
    "cross_entropy": lambda f, x, t, w, r: f.cross_entropy(x, t, reduction=r),
    "weighted cross_entropy": lambda f, x, t, w, r: f.cross_entropy(x, t, weight=w + 0.25, reduction=r),
    "cross_entropy, ignoring": lambda f, x, t, w, r: f.cross_entropy(x, t, ignore_index=2, reduction=r),
    "weighted, ignoring": lambda f, x, t, w, r: f.cross_entropy(x, t, weight=w + 0.25, ignore_index=1, reduction=r),
    "nll_loss": lambda f, x, t, w, r: f.nll_loss(x, t, reduction=r),
    "weighted nll_loss": lambda f, x, t, w, r: f.nll_loss(x, t, weight=w + 0.25, ignore_index=0, reduction=r),
    "multi_margin_loss": lambda f, x, t, w, r: f.multi_margin_loss(x, t, reduction=r),
}
FINITE = {
    "smoothed": lambda f, x, t, w, r: f.cross_entropy(x, t, label_smoothing=0.25, reduction=r),
    "smoothed, weighted": lambda f, x, t, w, r: f.cross_entropy(x, t, weight=w, label_smoothing=0.5, reduction=r),
    "smoothed, ignoring": lambda f, x, t, w, r: f.cross_entropy(
        x, t, weight=w, ignore_index=2, label_smoothing=0.5, reduction=r
    ),
}
DTYPES = ("float32", "float64")
REDUCTIONS = ("mean", "sum", "none")


def compare(call, x, target, weight, reduction, dtype):
    x, weight = x.astype(dtype), weight.astype(dtype)
    target = target.astype(dtype) if target.dtype.kind == "f" else target
    p, q = lf.Parameter(x.copy()), torch.tensor(x, requires_grad=True)
    ours = call(F, p, target, weight, reduction)
    theirs = call(T, q, torch.tensor(target), torch.tensor(weight), reduction)
    tolerance = {"rtol": 2e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-8, "atol": 1e-12}
    # (PyTorch's 1e-12 is one in float32.)
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), **tolerance)
    lf.sum(ours).backward()
    theirs.sum().backward()
    np.testing.assert_allclose(p.grad, q.grad.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ELEMENTS)
def test_losses_of_elements(name, reduction, dtype):
    call, x, target = ELEMENTS[name]
    compare(call, x, target, WEIGHTS, reduction, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", [*CLASS_LOSSES, *FINITE])
def test_losses_of_classes(name, reduction, dtype):
    if name in FINITE:
        compare(FINITE[name], np.where(np.isinf(SCORES), -500.0, SCORES), CLASSES, W, reduction, dtype)
    elif "nll" in name or "margin" in name:
        compare(CLASS_LOSSES[name], np.where(np.isinf(SCORES), -500.0, SCORES), CLASSES, W, reduction, dtype)
    else:
        compare(CLASS_LOSSES[name], SCORES, CLASSES, W, reduction, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_probabilities_as_targets(smoothing, reduction, dtype):
    target = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    scores = np.where(np.isinf(SCORES), -500.0, SCORES)
    compare(
        lambda f, x, t, w, r: f.cross_entropy(x, t, weight=w, label_smoothing=smoothing, reduction=r),
        *(scores, target, W, reduction, dtype),
    )


@pytest.mark.parametrize("name", ELEMENTS)
def test_sums_of_no_losses(name):
    call, _, _ = ELEMENTS[name]
    empty = np.zeros(0)
    p = lf.Parameter(empty)
    assert call(F, p, empty, empty, "sum").item() == 0.0
    assert call(F, p, empty, empty, "none").shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_by_the_targets(dtype):
    t, u = lf.Parameter(Q.astype(dtype)), torch.tensor(Q.astype(dtype), requires_grad=True)
    F.binary_cross_entropy(lf.constant(P.astype(dtype)), t, reduction="sum").backward()
    T.binary_cross_entropy(torch.tensor(P.astype(dtype)), u, reduction="sum").backward()
    np.testing.assert_allclose(
        t.grad, u.grad.numpy().clip(-100, 100), rtol=1e-5
    )  # of what the loss is, which is clamped


def test_all_rows_ignored():
    p = lf.Parameter(np.full((2, 3), -INF))
    for reduction in ("sum", "none"):
        p.grad = None
        loss = F.cross_entropy(p, np.array([-100, -100]), reduction=reduction)
        assert (loss.numpy() == 0).all()
        lf.sum(loss).backward()
        assert (p.grad == 0).all()
    with pytest.raises(ValueError, match="their mean is undefined"):
        F.cross_entropy(p, np.array([-100, -100]))

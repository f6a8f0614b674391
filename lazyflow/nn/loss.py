"""Losses as modules: the functions of `lazyflow.nn.functional.loss` with their options kept.

Those that are made of several operations are recorded as one node, unless they have weights, which may be changed in
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lazyflow.nn.functional import loss as f
from lazyflow.nn.one_node import one_node
from lazyflow.nn.wrapped import FunctionModule, wrapped
from lazyflow.record.expr import Expr, constant
from lazyflow.record.trace import TracedNumber

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss", "GaussianNLLLoss",
    "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MarginRankingLoss",
    "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss",
    "SmoothL1Loss", "SoftMarginLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss",
]  # fmt: skip

BCELoss: type[FunctionModule]
BCEWithLogitsLoss: type[FunctionModule]
CTCLoss: type[FunctionModule]
CosineEmbeddingLoss: type[FunctionModule]
CrossEntropyLoss: type[FunctionModule]
GaussianNLLLoss: type[FunctionModule]
HingeEmbeddingLoss: type[FunctionModule]
HuberLoss: type[FunctionModule]
KLDivLoss: type[FunctionModule]
L1Loss: type[FunctionModule]
MSELoss: type[FunctionModule]
MarginRankingLoss: type[FunctionModule]
MultiLabelMarginLoss: type[FunctionModule]
MultiLabelSoftMarginLoss: type[FunctionModule]
MultiMarginLoss: type[FunctionModule]
NLLLoss: type[FunctionModule]
PoissonNLLLoss: type[FunctionModule]
SmoothL1Loss: type[FunctionModule]
SoftMarginLoss: type[FunctionModule]
TripletMarginLoss: type[FunctionModule]
TripletMarginWithDistanceLoss: type[FunctionModule]


class Loss(FunctionModule):
    """A loss, whose ``reduction`` is checked when it is made."""

    reduction: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        more = ("batchmean",) if type(self).function is f.kl_div else ()
        f.check_reduction(type(self).__name__, self.reduction, *more)


class ComposedLoss(Loss):
    """A loss that is made of several operations."""

    def forward(self, *operands: Any, **named: Any) -> Expr:
        """The loss of one example's operands."""
        return self._loss(*[constant(operand) for operand in self._operands(*operands, **named)])

    @one_node
    def _loss(self, *operands: Expr) -> Expr:
        return self._applied(*operands)


class ClassLoss(Loss):
    """The cross-entropy, which is one operation unless a share of the target is spread over all classes."""

    weight: Any
    ignore_index: int
    label_smoothing: float
    dim: int

    def forward(self, x: Any, target: Any) -> Expr:
        """The loss of one example's scores."""
        scores = constant(x)
        if self.label_smoothing and self.weight is None and self._is_class(target, scores):
            return self._smoothed(scores, target)
        return self._applied(x, target)

    def _is_class(self, target: Any, scores: Expr) -> bool:
        """Whether a target is the index of one of the classes of a vector of scores."""
        if scores.ndim != 1 or self.dim not in (-1, 0):
            return False
        if type(target) is TracedNumber:  # of which not the value is known, but that it is checked
            return isinstance(target, int) and self.ignore_index < 0
        return type(target) is int and 0 <= target < scores.shape[0] and target != self.ignore_index

    @one_node
    def _smoothed(self, scores: Expr, target: int) -> Expr:
        return f.smoothed_cross_entropy(scores, target, self.label_smoothing)


# The function of each, and what it is called with: prediction and target for most.
_FUNCTIONS: dict[str, tuple[Callable[..., Expr], int]] = {
    "BCELoss": (f.binary_cross_entropy, 2), "BCEWithLogitsLoss": (f.binary_cross_entropy_with_logits, 2),
    "CTCLoss": (f.ctc_loss, 2),
    "CosineEmbeddingLoss": (f.cosine_embedding_loss, 3), "CrossEntropyLoss": (f.cross_entropy, 2),
    "GaussianNLLLoss": (f.gaussian_nll_loss, 3), "HingeEmbeddingLoss": (f.hinge_embedding_loss, 2),
    "HuberLoss": (f.huber_loss, 2), "KLDivLoss": (f.kl_div, 2), "L1Loss": (f.l1_loss, 2), "MSELoss": (f.mse_loss, 2),
    "MarginRankingLoss": (f.margin_ranking_loss, 3), "MultiLabelMarginLoss": (f.multilabel_margin_loss, 2),
    "MultiLabelSoftMarginLoss": (f.multilabel_soft_margin_loss, 2), "MultiMarginLoss": (f.multi_margin_loss, 2),
    "NLLLoss": (f.nll_loss, 2), "PoissonNLLLoss": (f.poisson_nll_loss, 2), "SmoothL1Loss": (f.smooth_l1_loss, 2),
    "SoftMarginLoss": (f.soft_margin_loss, 2), "TripletMarginLoss": (f.triplet_margin_loss, 3),
    "TripletMarginWithDistanceLoss": (f.triplet_margin_with_distance_loss, 3),
}  # fmt: skip
_ONE_OPERATION = (
    "BCEWithLogitsLoss", "HuberLoss", "MSELoss", "NLLLoss",
    "CTCLoss", "MultiLabelMarginLoss", "MultiMarginLoss",  # no, but the values of their targets decide what they record
)  # fmt: skip
_BASES = {"CrossEntropyLoss": ClassLoss, **dict.fromkeys(_ONE_OPERATION, Loss)}
globals().update(
    {name: wrapped(__name__, name, *pair, _BASES.get(name, ComposedLoss)) for name, pair in _FUNCTIONS.items()}
)

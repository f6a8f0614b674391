"""Optimizers, gradient clipping and learning-rate schedules, with the names and the numbers of PyTorch."""

from lazyflow.optim.adam import Adam, AdamW, AMSGrad
from lazyflow.optim.adaptive import Adadelta, Adagrad, RMSprop
from lazyflow.optim.average import ExponentialMovingAverage, SimpleAverage
from lazyflow.optim.base import Optimizer
from lazyflow.optim.clip import clip_grad_norm, clip_grad_value, grad_norm
from lazyflow.optim.exponentiated import ExponentiatedGradient
from lazyflow.optim.functional import functional
from lazyflow.optim.schedules import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearWarmup,
    MultiStepLR,
    ReduceLROnPlateau,
    Schedule,
    StepLR,
)
from lazyflow.optim.sgd import SGD

__all__ = [
    "SGD",
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "CyclicLR",
    "ExponentialLR",
    "ExponentialMovingAverage",
    "ExponentiatedGradient",
    "LambdaLR",
    "LinearWarmup",
    "MultiStepLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "Schedule",
    "SimpleAverage",
    "StepLR",
    "clip_grad_norm",
    "clip_grad_value",
    "functional",
    "grad_norm",
]  # fmt: skip

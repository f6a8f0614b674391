"""What is measured while an engine runs."""

from lazyflow.train.metrics.average import Average, RunningAverage
from lazyflow.train.metrics.base import Combined, Metric
from lazyflow.train.metrics.classification import (
    Accuracy,
    ConfusionMatrix,
    Fbeta,
    Precision,
    Recall,
    TopKCategoricalAccuracy,
)
from lazyflow.train.metrics.regression import Loss, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError

__all__ = [
    "Accuracy",
    "Average",
    "Combined",
    "ConfusionMatrix",
    "Fbeta",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "Precision",
    "Recall",
    "RootMeanSquaredError",
    "RunningAverage",
    "TopKCategoricalAccuracy",
]  # fmt: skip

"""Training: engines and their events, metrics and handlers in the manner of Ignite, and `fit` in that of Keras."""

from lazyflow.errors import NotComputableError
from lazyflow.train.batch import examples
from lazyflow.train.engine import Engine, RemovableEventHandle, State
from lazyflow.train.events import EventEnum, Events, EventsList, FilteredEvent
from lazyflow.train.fit import History, fit
from lazyflow.train.handlers import (
    EarlyStopping,
    LRScheduler,
    ModelCheckpoint,
    ProgressBar,
    TerminateOnNan,
    Timer,
)
from lazyflow.train.metrics import (
    Accuracy,
    Average,
    Combined,
    ConfusionMatrix,
    Fbeta,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    Precision,
    Recall,
    RootMeanSquaredError,
    RunningAverage,
    TopKCategoricalAccuracy,
)
from lazyflow.train.supervised import create_supervised_evaluator, create_supervised_trainer

__all__ = [
    "Accuracy",
    "Average",
    "Combined",
    "ConfusionMatrix",
    "EarlyStopping",
    "Engine",
    "EventEnum",
    "Events",
    "EventsList",
    "Fbeta",
    "FilteredEvent",
    "History",
    "LRScheduler",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "ModelCheckpoint",
    "NotComputableError",
    "Precision",
    "ProgressBar",
    "Recall",
    "RemovableEventHandle",
    "RootMeanSquaredError",
    "RunningAverage",
    "State",
    "TerminateOnNan",
    "Timer",
    "TopKCategoricalAccuracy",
    "create_supervised_evaluator",
    "create_supervised_trainer",
    "examples",
    "fit",
]

"""Metrics without a peer: by hand, in any cutting and form of the batches, and what they refuse."""

import re

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import train
from lazyflow.errors import NotComputableError, ShapeError
from tests.train.cases import BINARY, METRICS, NUMBERS, cut, name_of_case

SCORES = [[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.1, 0.5, 0.4]]  # classes 1, 0, 2, 1
RIGHT = [1, 0, 1, 2]

# by hand: a metric, what it sees, its value
VALUES = {
    "accuracy": (lambda: train.Accuracy(), (SCORES, RIGHT), 0.5),
    "accuracy of classes": (lambda: train.Accuracy(), ([3, 1, 2, 0], [3, 1, 0, 0]), 0.75),
    "accuracy of whole floats": (lambda: train.Accuracy(), ([1.0, 0.0], [1, 1]), 0.5),
    "accuracy of truths": (lambda: train.Accuracy(), ([True, False], [True, True]), 0.5),
    "accuracy of labels": (lambda: train.Accuracy(is_multilabel=True), ([[1, 0], [1, 1]], [[1, 0], [0, 1]]), 0.5),
    "accuracy of words": (
        lambda: train.Accuracy(), ([np.eye(3), np.eye(3)[:1]], [[0, 1, 0], [0]]), 0.75,
    ),
    "accuracy of rounded scores": (
        lambda: train.Accuracy(lambda output: (np.round(output[0]), output[1])), ([0.8, 0.3], [1, 1]), 0.5,
    ),
    "top 2": (lambda: train.TopKCategoricalAccuracy(2), (SCORES, RIGHT), 1.0),
    "top 2 of NaN": (lambda: train.TopKCategoricalAccuracy(2), ([[np.nan, 1.0, 2.0]], [0]), 0.0),
    "top 2 below NaN": (lambda: train.TopKCategoricalAccuracy(2), ([[np.nan, 1.0, 2.0]], [1]), 0.0),
    "precision": (lambda: train.Precision(), (SCORES, RIGHT), [1, 0.5, 0]),
    "recall": (lambda: train.Recall(), (SCORES, RIGHT), [1, 0.5, 0]),
    "precision of class 1": (lambda: train.Precision(), ([1, 1, 0, 1], [1, 0, 1, 1]), 2 / 3),
    "F1 of class 1": (lambda: train.Fbeta(), ([1, 1, 0, 1], [1, 0, 1, 1]), 2 / 3),
    "confusion": (lambda: train.ConfusionMatrix(3), (SCORES, RIGHT), [[1, 0, 0], [0, 1, 1], [0, 1, 0]]),
    "loss": (lambda: train.Loss(lf.mse), ([[1.0, 2.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]), 2.25),
    "loss of other shapes": (lambda: train.Loss(lf.mse), ([[1.0, 3.0], [2.0]], [[0.0, 0.0], [0.0]]), 4.5),
    "squares": (lambda: train.MeanSquaredError(), ([[1.0, 2.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]), 4.5),
    "squares of other shapes": (lambda: train.MeanSquaredError(), ([[1.0, 3.0], [2.0]], [[0.0, 0.0], [0.0]]), 7.0),
    "root": (lambda: train.RootMeanSquaredError(), ([3.0, 4.0], [0.0, 0.0]), 12.5**0.5),
    "a column is not spread": (lambda: train.MeanSquaredError(), (np.array([[1.0], [2.0]]), np.array([1.0, 2.0])), 0.0),
    "absolute": (lambda: train.MeanAbsoluteError(), ([3.0, -4.0], [0.0, 0.0]), 3.5),
    "expressions": (lambda: train.MeanAbsoluteError(), ([lf.constant(3.0), lf.constant(1.0) + 1], [0.0, 0.0]), 2.5),
    "average": (lambda: train.Average(), 3.0, 3.0),
    "average of an array": (lambda: train.Average(), np.array([1.0, 2.0]), [1.0, 2.0]),
    "running average": (lambda: train.RunningAverage(), np.float32(3), 3.0),
    "running average of a metric": (lambda: train.RunningAverage(train.Accuracy()), ([1, 0], [1, 1]), 0.5),
    "arithmetic": (lambda: 1 + 2 * (3 - train.Accuracy()) / 4 - 0.5, ([1, 0], [1, 1]), 1.75),
    "arithmetic of metrics": (
        lambda: train.Accuracy() / (train.Accuracy() + train.Precision()), ([1, 0], [1, 1]), 0.5 / 1.5,
    ),
    "arithmetic the other way": (lambda: (4 / train.Accuracy()) * 2 + 1, ([1, 0], [1, 1]), 17.0),
    "a function": (lambda: train.Combined(np.sum, train.Recall()), (SCORES, RIGHT), 1.5),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values(case):
    make, output, value = VALUES[case]
    metric = make()
    metric.update(metric.output_transform(output))
    np.testing.assert_allclose(metric.compute(), value, rtol=1e-6)


@pytest.mark.parametrize("case", METRICS, ids=name_of_case)
def test_how_examples_come_in_batches_does_not_matter(case):
    name, options, data = case
    forms = {
        "at once": [data],
        "in batches": cut(data),
        "in lists": [tuple(map(list, batch)) for batch in cut(data)],
        "one by one": [([p], [t]) for p, t in zip(*data, strict=True)],
        "with nothing between": [data, ([], [])],
    }
    found = []
    for batches in forms.values():
        metric = getattr(train, name)(**options)
        for batch in batches:
            metric.update(batch)
        found.append(metric.compute())
    for value in found[1:]:
        np.testing.assert_allclose(value, found[0], rtol=1e-12)


SEEN = {
    **{name_of_case(case): (lambda case=case: getattr(train, case[0])(**case[1]), case[2]) for case in METRICS},
    "Loss": (lambda: train.Loss(lf.mse), NUMBERS),
    "Average": (train.Average, 3.0),
    "RunningAverage": (train.RunningAverage, 3.0),
    "RunningAverage of a metric": (lambda: train.RunningAverage(train.Accuracy()), BINARY),
    "Combined": (lambda: 1 - train.Accuracy(), BINARY),
}


@pytest.mark.parametrize("case", SEEN)
def test_a_value_before_any_update_is_an_error_also_after_a_reset(case):
    make, output = SEEN[case]
    metric = make()
    with pytest.raises(NotComputableError, match="before any update"):
        metric.compute()
    metric.update(output)
    metric.compute()
    metric.reset()
    with pytest.raises(RuntimeError, match=r"call update\(...\) with a batch first"):
        metric.compute()


# On an engine


def test_a_metric_is_of_one_epoch_and_there_for_later_handlers():
    engine = train.Engine(lambda engine, batch: ([batch], [engine.state.epoch]))
    train.Accuracy().attach(engine, "accuracy")
    found = []
    engine.add_event_handler(
        train.Events.EPOCH_COMPLETED, lambda engine: found.append(engine.state.metrics["accuracy"])
    )
    state = engine.run([1, 1, 2, 3], max_epochs=3)
    assert found == [0.5, 0.25, 0.25] and state.metrics == {"accuracy": 0.25}


def test_one_metric_under_two_names_and_within_another_counts_once():
    engine = train.Engine(lambda engine, batch: batch)
    matrix = train.ConfusionMatrix(2)
    matrix.attach(engine, "matrix")
    matrix.attach(engine, "again")
    (matrix * 1).attach(engine, "product")
    found = engine.run([([0, 1], [0, 1])]).metrics
    assert all((value == np.eye(2)).all() for value in found.values()) and len(found) == 3


def test_detached_metrics_are_no_longer_measured():
    engine = train.Engine(lambda engine, batch: batch)
    kept, dropped = train.Average(), train.Average()
    kept.attach(engine, "kept")
    dropped.attach(engine, "dropped")
    assert dropped.is_attached(engine)
    dropped.detach(engine)
    assert not dropped.is_attached(engine) and kept.is_attached(engine)
    assert engine.run([1.0]).metrics == {"kept": 1.0}


def test_a_running_average_is_there_after_every_iteration_and_goes_on_through_epochs():
    engine = train.Engine(lambda engine, batch: batch)
    train.RunningAverage(alpha=0.5).attach(engine, "average")
    found = []
    engine.add_event_handler(
        train.Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.metrics["average"])
    )
    engine.run([4.0, 2.0], max_epochs=2)
    assert found == [4.0, 3.0, 3.5, 2.75]
    engine.run([1.0])
    assert found[-1] == 1.0


# What is refused

ONE = np.zeros((2, 3)), np.zeros(2, int)
REFUSED = {
    "no pair": (lambda: train.Accuracy().update(3.0), TypeError, "Accuracy takes a pair (y_pred, y), got 3.0"),
    "numbers": (lambda: train.Loss(lf.mse).update((3.0, 1.0)), TypeError, "with an entry for each example, got 3.0"),
    "an array without axes": (
        lambda: train.Accuracy().update((np.array(1), np.array(1))), TypeError, "with an entry for each example",
    ),
    "other lengths": (lambda: train.Accuracy().update(([1], [1, 2])), ShapeError, "got 1 and 2"),
    "other shapes": (
        lambda: train.Accuracy().update((np.zeros((2, 3, 4)), np.zeros((2, 4)))), ShapeError, "(2, 3, 4) and (2, 4)",
    ),
    "as many axes, other shapes": (
        lambda: train.Accuracy().update((np.zeros((2, 3)), np.zeros((2, 4)))), ShapeError, "got (2, 3) and (2, 4)",
    ),
    "one class": (
        lambda: train.Accuracy().update((np.zeros((2, 1)), np.zeros(2, int))), ShapeError, "of two classes or more",
    ),
    "probabilities": (
        lambda: train.Accuracy().update(([0.5, 1.0], [0, 1])), ValueError,
        "Accuracy: y_pred must hold classes, whole numbers, got 0.5; scores of a yes-or-no question are rounded first",
    ),
    "NaN for a class": (lambda: train.Accuracy().update(([np.nan], [0])), ValueError, "whole numbers, got nan"),
    "labels of one axis": (
        lambda: train.Accuracy(is_multilabel=True).update(([0, 1], [0, 1])), ShapeError, "(batch, ..., labels)",
    ),
    "labels of 2": (
        lambda: train.Accuracy(is_multilabel=True).update(([[0, 2]], [[0, 1]])), ValueError, "class 2, there are 2",
    ),
    "a class too many": (
        lambda: train.TopKCategoricalAccuracy().update((ONE[0], [0, 3])), ValueError, "y has class 3, there are 3",
    ),
    "a negative class": (lambda: train.Precision().update((ONE[0], [0, -1])), ValueError, "y has class -1"),
    "no scores for three classes": (lambda: train.Recall().update(([0, 2], [0, 1])), ValueError, "y_pred has class 2"),
    "a class outside the matrix": (
        lambda: train.ConfusionMatrix(2).update((ONE[0], [0, 2])), ValueError, "y has class 2, there are 2",
    ),
    "a prediction outside the matrix": (
        lambda: train.ConfusionMatrix(2).update(([2], [0])), ValueError, "y_pred has class 2",
    ),
    "another number of classes": (
        lambda: [m := train.Precision(), m.update(ONE), m.update((np.zeros((2, 4)), [0, 1]))], ShapeError,
        "has seen 3 classes, this batch has 4",
    ),
    "a prediction of another size": (
        lambda: train.MeanSquaredError().update((np.zeros((2, 3)), np.zeros(2))), ShapeError, "got (2, 3) and (2,)",
    ),
    "a loss that is no number": (
        lambda: train.Loss(lambda p, t: lf.constant(p)).update(ONE), ShapeError, "shape (), got shape (3,",
    ),
    "a loss of one argument": (lambda: train.Loss(lf.abs), TypeError, "loss_fn abs would be called as abs(y_pred, y)"),
    "a loss that is none": (lambda: train.Loss("mse"), TypeError, "loss_fn must be a function of (y_pred, y), got 'm"),
    "a word to average": (lambda: train.Average().update("3"), TypeError, "a number or an array of numbers, got '3'"),
    "words to average": (lambda: train.Average().update(np.array(["3"])), TypeError, "a number or an array of numbers"),
    "alpha 1": (lambda: train.RunningAverage(alpha=1.0), ValueError, "alpha must be at least 0 and below 1"),
    "a source that is none": (lambda: train.RunningAverage(3), TypeError, "src must be a train.Metric, got 3"),
    "two transforms": (
        lambda: train.RunningAverage(train.Accuracy(), output_transform=abs), ValueError, "give output_transform to",
    ),
    "a transform that is none": (lambda: train.Accuracy(3), TypeError, "Accuracy: output_transform must be a function"),
    "k 0": (lambda: train.TopKCategoricalAccuracy(0), ValueError, "k must be an integer of at least 1"),
    "no classes": (lambda: train.ConfusionMatrix(0), ValueError, "num_classes must be an integer of at least 1"),
    "another average": (lambda: train.Precision("mean"), ValueError, "average must be one of False, True, 'macro'"),
    "another average of a matrix": (lambda: train.ConfusionMatrix(2, "rows"), ValueError, "'samples', 'recall' or"),
    "an average of F": (lambda: train.Fbeta(1.0, "micro"), ValueError, "average must be one of False, True; got"),
    "beta 0": (lambda: train.Fbeta(0), ValueError, "beta must be above 0, got 0"),
    "attached to nothing": (lambda: train.Accuracy().attach("trainer", "x"), TypeError, "attach(engine, name) takes"),
    "without a name": (
        lambda: train.RunningAverage().attach(train.Engine(lambda e, b: b), 3), TypeError, "attach(engine, name) takes",
    ),
    "no methods": (lambda: train.Metric(), NotImplementedError, "Metric needs a method reset()"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_metric_that_needs_more_than_the_output_says_how():
    engine = train.Engine(lambda engine, batch: 0.5)
    train.Accuracy().attach(engine, "accuracy")
    with pytest.raises(TypeError, match="output_transform= may be a function that picks them"):
        engine.run([1])


def test_losses_are_computed_without_gradients():
    w = lf.Parameter([1.0, 2.0])
    loss = train.Loss(lambda p, t: lf.sum(p * w))
    loss.update((np.ones((1, 2), np.float32), [0]))
    assert loss.compute() == 3.0 and w.grad is None

"""What the metrics are measured on: one table, for the tests beside Ignite and for those without it."""

import numpy as np


def scores(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def classes(seed, number, *shape):
    return np.random.default_rng(seed).integers(0, number, shape)


MULTICLASS = (scores(0, 40, 5), classes(1, 5, 40))
ABSENT = (scores(2, 12, 6), classes(3, 3, 12))  # classes 3, 4, 5 never occur
SEQUENCES = (scores(4, 8, 6, 4), classes(5, 4, 8, 6))
BINARY = (classes(6, 2, 30), classes(7, 2, 30))
NEGATIVE = (np.zeros(6, int), np.zeros(6, int))
MULTILABEL = (classes(8, 2, 20, 3), classes(9, 2, 20, 3))
NUMBERS = (scores(10, 25), scores(11, 25))
VECTORS = (scores(12, 9, 4), scores(13, 9, 4))
COLUMN = (scores(14, 9, 1), scores(15, 9))

# the name of a metric here and in Ignite, its options, the data
METRICS = [
    ("Accuracy", {}, MULTICLASS),
    ("Accuracy", {}, SEQUENCES),
    ("Accuracy", {}, BINARY),
    ("Accuracy", {"is_multilabel": True}, MULTILABEL),
    ("TopKCategoricalAccuracy", {"k": 1}, MULTICLASS),
    ("TopKCategoricalAccuracy", {"k": 3}, MULTICLASS),
    ("MeanSquaredError", {}, NUMBERS),
    ("MeanSquaredError", {}, VECTORS),
    ("MeanSquaredError", {}, COLUMN),
    ("RootMeanSquaredError", {}, VECTORS),
    ("MeanAbsoluteError", {}, NUMBERS),
    ("MeanAbsoluteError", {}, VECTORS),
    *[
        (name, {"average": average}, data)
        for name in ("Precision", "Recall")
        for average in (False, True, "macro", "micro", "weighted")
        for data in (MULTICLASS, ABSENT, SEQUENCES)
    ],
    *[(name, {"average": average}, BINARY) for name in ("Precision", "Recall") for average in (False, True)],
    ("Precision", {}, NEGATIVE),
    ("Recall", {}, NEGATIVE),
    *[
        (name, {"average": average, "is_multilabel": True}, MULTILABEL)
        for name in ("Precision", "Recall")
        for average in (False, True, "micro", "weighted")
    ],
    *[
        ("Fbeta", {"beta": beta, "average": average}, data)
        for beta in (0.5, 1.0, 2.0)
        for average in (False, True)
        for data in (MULTICLASS, ABSENT, BINARY)
    ],
    *[
        ("ConfusionMatrix", {"num_classes": 5, "average": average}, MULTICLASS)
        for average in (None, "samples", "recall", "precision")
    ],
    ("ConfusionMatrix", {"num_classes": 6, "average": "recall"}, ABSENT),
    ("ConfusionMatrix", {"num_classes": 4}, SEQUENCES),
]


def name_of_case(case):
    name, options, (y_pred, _) = case
    return "-".join([name, *map(str, options.values()), str(y_pred.shape)])


def cut(data, size=7):
    """Batches of the data, the last one shorter."""
    y_pred, y = data
    return [(y_pred[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]

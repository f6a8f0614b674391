"""Supervised trainers and evaluators: forms of a batch, modes, devices, and what they refuse."""

import re

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim, train
from lazyflow.errors import DeviceError, ShapeError
from lazyflow.train.batch import values

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0, 2])


class Tensor:
    """An array of another library, as far as we see of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, "float of another library"

    def __array__(self, dtype=None, copy=None):
        return self.array


FORMS = {
    "a list of pairs": list(zip(X, Y, strict=True)),
    "a list of lists": [[x, int(y)] for x, y in zip(X, Y, strict=True)],
    "a tuple of arrays": (X, Y),
    "a list of arrays": [X, Y],
    "a tuple of lists": (X.tolist(), Y.tolist()),
    "a tuple of a list and an array": (list(X), Y),
    "another library's arrays": [Tensor(X), Tensor(Y)],
}


def classifier():
    lf.seed(0)
    return nn.Sequential(nn.Linear(4, 5), lf.tanh, nn.Linear(5, 3))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_may_have_any_form(form):
    def trained(batch):
        model = classifier()
        trainer = train.create_supervised_trainer(model, optim.SGD(model.parameters(), lr=0.1), lf.cross_entropy)
        loss = trainer.run([batch], max_epochs=3).output
        evaluator = train.create_supervised_evaluator(model, {"accuracy": train.Accuracy()})
        return loss, evaluator.run([batch]).metrics["accuracy"], model.state_dict()

    (loss, accuracy, state), (expected, right, arrays) = trained(FORMS[form]), trained(FORMS["a list of pairs"])
    assert loss == pytest.approx(expected) and accuracy == right
    for name in arrays:
        np.testing.assert_allclose(state[name], arrays[name], rtol=1e-6)


def test_the_step_is_the_one_of_a_loop_by_hand():
    model, other = classifier(), classifier()
    trainer = train.create_supervised_trainer(model, optim.Adam(model.parameters(), lr=0.1), lf.cross_entropy)
    trainer.run([(X, Y), (X[:3], Y[:3])], max_epochs=2)
    optimizer = optim.Adam(other.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in ((X, Y), (X[:3], Y[:3])):
            optimizer.zero_grad()
            lf.mean([lf.cross_entropy(other(a), int(b)) for a, b in zip(x, y, strict=True)]).backward()
            optimizer.step()
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


def test_examples_of_any_structure_and_a_plain_function_as_the_model():
    table = lf.Parameter(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    sentences = [([0, 1, 2], [0, 1, 2]), ([4], [1]), ([3, 3], [2, 2])]

    def tagger(words):
        return lf.stack([lf.embedding(table, word) for word in words])

    trainer = train.create_supervised_trainer(tagger, optim.Adam([table], lr=0.3), lf.cross_entropy)
    evaluator = train.create_supervised_evaluator(
        tagger, {"accuracy": train.Accuracy(), "loss": train.Loss(lf.cross_entropy)}
    )
    before = evaluator.run([sentences]).metrics
    trainer.run([sentences[:2], sentences[2:]], max_epochs=30)
    after = evaluator.run([sentences]).metrics
    assert after["accuracy"] == 1 > before["accuracy"] and after["loss"] < 0.1 < before["loss"]


def test_outputs_are_as_the_transform_says():
    model = classifier()
    seen = []

    def keep(x, y, y_pred, loss):
        seen.append((len(x), y, [e.shape for e in y_pred], loss.shape))
        return "output"

    trainer = train.create_supervised_trainer(
        model, optim.SGD(model.parameters(), lr=0.1), lf.cross_entropy, output_transform=keep
    )
    assert trainer.run([(X[:2], Y[:2])]).output == "output"
    assert seen == [(2, [0, 2], [(3,), (3,)], ())]
    evaluator = train.create_supervised_evaluator(model, output_transform=lambda x, y, y_pred: (x, y, y_pred))
    x, y, y_pred = evaluator.run([(X[:2], Y[:2])]).output
    assert len(x) == 2 and y == [0, 2]
    np.testing.assert_allclose(y_pred, lf.forward([model(x) for x in X[:2]]))


def test_an_evaluator_gives_nested_outputs_as_arrays():
    def model(x):
        e = lf.constant(x)
        return {"twice": 2 * e, "both": [e, (e, "kept")]}

    y_pred, _ = train.create_supervised_evaluator(model).run([[(1.0, 0)]]).output
    assert y_pred == [{"twice": 2.0, "both": [1.0, (1.0, "kept")]}]
    assert isinstance(y_pred[0]["both"][1][0], np.ndarray)


def test_prepare_batch_makes_the_pairs():
    model = classifier()
    batch = {"x": X, "y": Y}
    evaluator = train.create_supervised_evaluator(
        model, {"accuracy": train.Accuracy()}, prepare_batch=lambda batch: train.examples((batch["x"], batch["y"]))
    )
    assert 0 <= evaluator.run([batch]).metrics["accuracy"] <= 1


class Modes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.frozen, self.seen = nn.Linear(4, 3), nn.Dropout(0.5), []

    def forward(self, x):
        self.seen.append((self.training, self.frozen.training, lf.sum(self.linear(x)).requires_grad))
        return self.linear(x)


def test_modes_and_gradients_are_on_for_training_and_off_for_evaluation_and_come_back():
    model = Modes()
    trainer = train.create_supervised_trainer(model, optim.SGD(model.parameters(), lr=0.1), lf.cross_entropy)
    evaluator = train.create_supervised_evaluator(model)
    trainer.run([(X[:1], Y[:1])])
    model.frozen.eval()
    evaluator.run([(X[:1], Y[:1])])
    assert model.training and not model.frozen.training
    assert model.seen == [(True, True, True), (False, False, False)]
    broken = train.create_supervised_evaluator(model)
    with pytest.raises(ShapeError):
        broken.run([([[1.0]], [0])])
    assert model.training and not model.frozen.training


def test_a_device_is_where_the_batch_runs():
    model, seen = classifier(), []
    trainer = train.create_supervised_trainer(
        model,
        optim.SGD(model.parameters(), lr=0.1),
        lf.cross_entropy,
        device=lf.settings.current().device,
        output_transform=lambda x, y, y_pred, loss: seen.append(loss.device),
    )
    trainer.run([(X, Y)])
    assert seen == [lf.settings.current().device]


@pytest.mark.gpu
def test_training_on_a_gpu_gives_the_numbers_of_the_cpu():
    found = []
    for device in ("cpu", "cuda:0"):
        model = classifier().to(device)
        trainer = train.create_supervised_trainer(
            model, optim.SGD(model.parameters(), lr=0.1), lf.cross_entropy, device=device
        )
        evaluator = train.create_supervised_evaluator(model, {"accuracy": train.Accuracy()}, device=device)
        loss = trainer.run([(X, Y)], max_epochs=5).output
        found.append((loss, evaluator.run([(X, Y)]).metrics["accuracy"]))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


MODEL = classifier()
SGD = optim.SGD(MODEL.parameters(), lr=0.1)


def running(batch, loss=lf.cross_entropy, model=MODEL):
    return lambda: train.create_supervised_trainer(model, SGD, loss).run([batch])


REFUSED = {
    "a model that is none": (
        lambda: train.create_supervised_trainer(3, SGD, lf.mse), TypeError, "the model must be a function of (x), go",
    ),
    "a model of two arguments": (
        lambda: train.create_supervised_evaluator(lambda x, lengths: x), TypeError, "<lambda>(x): missing a required",
    ),
    "a loss that is none": (
        lambda: train.create_supervised_trainer(MODEL, SGD, "mse"), TypeError, "loss_fn must be a function of (y_pre",
    ),
    "a loss for an optimizer": (
        lambda: train.create_supervised_trainer(MODEL, lf.mse, SGD), TypeError, "loss_fn must be a function",
    ),
    "a name for an optimizer": (
        lambda: train.create_supervised_trainer(MODEL, "adam", lf.mse), TypeError, "expected an optimizer such as",
    ),
    "a metric that is none": (
        lambda: train.create_supervised_evaluator(MODEL, {"loss": lf.mse}), TypeError, "metrics['loss'] must be a tr",
    ),
    "a metric's class": (
        lambda: train.create_supervised_evaluator(MODEL, {"a": train.Accuracy}), TypeError, "such as train.Accuracy()",
    ),
    "a device that is none": (
        lambda: train.create_supervised_evaluator(MODEL, device="tpu"), DeviceError, "tpu",
    ),
    "a batch that is an array": (running(X), TypeError, "a list of examples (x, y) or a tuple (xs, ys), got a ndarray"),
    "a batch that is a dict": (running({"x": X}), TypeError, "got a dict; prepare_batch= may be a function"),
    "examples without targets": (running(list(X)), TypeError, "number 0 of the batch is an array of shape (4,)"),
    "a triple among pairs": (running([(X[0], 1), (1, 2, 3)]), TypeError, "number 1 of the batch is (1, 2, 3)"),
    "more x than y": (running((X, Y[:2])), ShapeError, "as many xs as ys, got 6 and 2"),
    "an x without axes": (running((np.array(1.0), Y)), ShapeError, "needs a leading axis"),
    "an empty batch": (running([]), ShapeError, "the batch has no examples"),
    "a loss of several numbers": (
        running((X, Y), loss=lambda p, t: p), ShapeError, "must be a single number, shape (), got shape (3,)",
    ),
}  # fmt: skip


@pytest.mark.host
@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_values_of_outputs_are_arrays_parameters_among_them():
    w = lf.Parameter([1.0, 2.0])
    kept, known = values({"own": [w], "made": (w * 2, "kept")}), w + 1
    known.forward()
    np.testing.assert_array_equal(kept["own"][0], [1, 2])
    np.testing.assert_array_equal(kept["made"][0], [2, 4])
    assert kept["made"][1] == "kept"
    np.testing.assert_array_equal(values([known, w])[0], [2, 3])

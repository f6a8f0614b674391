"""`fit`: what it measures is what engines made by hand measure, in every form of the data."""

import re

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import data, nn, optim, train
from lazyflow.train import Events

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(50, 4)).astype(np.float32)
Y = (X @ RANDOM.normal(size=(4, 3))).argmax(axis=1)
PAIRS = list(zip(X, Y.tolist(), strict=True))


def classifier():
    lf.seed(0)
    return nn.Linear(4, 3)


def fitted(examples=(X, Y), **options):
    model = classifier()
    options = {"epochs": 3, "batch_size": 8, "seed": 1, "progress": False, **options}
    return train.fit(model, lf.cross_entropy, examples, **options), model


def test_it_trains_and_measures_as_engines_by_hand():
    validation = PAIRS[40:]
    history, model = fitted(
        PAIRS[:40], validation=validation, metrics={"accuracy": train.Accuracy()}, optimizer=optim.AdamW
    )
    other = classifier()
    trainer = train.create_supervised_trainer(
        other,
        optim.AdamW(other.parameters()),
        lf.cross_entropy,
        output_transform=lambda x, y, y_pred, loss: loss.item(),
    )
    evaluator = train.create_supervised_evaluator(
        other, {"loss": train.Loss(lf.cross_entropy), "accuracy": train.Accuracy()}
    )
    losses, measured = [], []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: measured.append(evaluator.run([validation]).metrics.copy())
    )
    trainer.run(data.batches(PAIRS[:40], 8, shuffle=True, seed=1), max_epochs=3)
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history["loss"] == pytest.approx(np.reshape(losses, (3, 5)).mean(axis=1))
    assert history["val_loss"] == pytest.approx([found["loss"] for found in measured])
    assert history["val_accuracy"] == [found["accuracy"] for found in measured]


def test_the_loss_of_an_epoch_is_weighted_by_the_size_of_its_batches():
    zero = nn.Linear(1, 1)
    with lf.no_grad():
        zero.weight.assign([[0.0]])
        zero.bias.assign([0.0])
    examples = [([0.0], [1.0]), ([0.0], [1.0]), ([0.0], [4.0])]
    history = train.fit(
        zero, lf.mse, examples, batch_size=2, shuffle=False, optimizer=optim.SGD(zero.parameters(), lr=0.0),
        progress=False,
    )  # fmt: skip
    assert history["loss"] == [6.0]


def test_metrics_of_training_are_those_of_the_step_before_the_update():
    history, _ = fitted(epochs=1, batch_size=50, optimizer=lambda p: optim.SGD(p, lr=100.0), metrics={
        "accuracy": train.Accuracy(), "loss again": train.Loss(lf.cross_entropy), "matrix": train.ConfusionMatrix(3),
    })  # fmt: skip
    before = classifier()
    right = [int(lf.argmax(before(x)).item()) == y for x, y in PAIRS]
    assert history["accuracy"] == [sum(right) / 50] == [np.trace(history["matrix"][0]) / 50]
    assert history["loss again"] == pytest.approx(history["loss"])


def test_model_and_loss_may_decide():
    pytest.importorskip("greenlet")

    class Deciding(nn.Linear):
        def forward(self, x):
            scores = super().forward(x)
            return scores if scores[0] > 0 else scores * 2

    def loss_fn(scores, y):
        return lf.cross_entropy(scores, y) * (1 if int(scores.argmax()) == y else 3)

    lf.seed(0)
    model, other = Deciding(4, 3), Deciding(4, 3)
    other.load_state_dict(model.state_dict())
    options = {"batch_size": 8, "shuffle": False, "progress": False}
    with lf.rounds() as seen:
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        history = train.fit(model, loss_fn, PAIRS, epochs=2, optimizer=optimizer, **options)
    assert {r.examples for r in seen.seen} == {8, 2}, "all of a minibatch ask together"
    assert len(seen.asked) == 2, "at the model's line, and at the loss's"
    optimizer, expected = optim.SGD(other.parameters(), lr=0.1), []
    for _ in range(2):
        batches = []
        for k in range(0, len(PAIRS), 8):
            losses = [loss_fn(other(x), y) for x, y in PAIRS[k : k + 8]]
            lf.mean(losses).backward()
            batches.append([loss.item() for loss in losses])
            optimizer.step()
            optimizer.zero_grad()
        expected.append(np.concatenate(batches).mean())
    assert history["loss"] == pytest.approx(expected, rel=1e-5)
    for name, array in other.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=1e-5, atol=1e-6)


FORMS = {
    "pairs": (PAIRS, {}),
    "arrays": ((X, Y), {}),
    "a generator": ((pair for pair in PAIRS), {}),
    "batches": (data.batches(PAIRS, 8, shuffle=True, seed=1), {"batch_size": None, "seed": None}),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_may_have_any_form(form):
    examples, options = FORMS[form]
    assert fitted(examples, **options)[0] == fitted(PAIRS)[0]


@pytest.mark.parametrize("form", ["pairs", "arrays", "batches"])
def test_so_may_validation(form):
    validation = {"pairs": PAIRS[:9], "arrays": (X[:9], Y[:9]), "batches": data.batches(PAIRS[:9], 2)}[form]
    found = fitted(validation=validation)[0]["val_loss"]
    assert found == pytest.approx(fitted(validation=PAIRS[:9])[0]["val_loss"], rel=1e-6)


def test_a_fraction_for_validation_is_the_end_of_the_data():
    assert fitted(PAIRS, validation=0.2)[0] == fitted(PAIRS[:40], validation=PAIRS[40:])[0]


def test_the_seed_fixes_the_order_and_shuffling_can_be_off():
    assert fitted(seed=1)[0] == fitted(seed=1)[0] != fitted(seed=2)[0]
    assert fitted(shuffle=False, seed=1)[0] == fitted(shuffle=False, seed=2)[0]


def test_callbacks_are_handlers_of_the_validated_epoch_or_attach_themselves(tmp_path):
    seen = []
    model = classifier()
    timer = train.Timer()
    stopping = train.EarlyStopping(2, lambda engine: -engine.state.epoch)
    checkpoint = train.ModelCheckpoint(tmp_path, to_save={"model": model}, n_saved=None)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    history = train.fit(
        model, lf.cross_entropy, PAIRS, epochs=9, optimizer=optimizer, validation=0.2, progress=False,
        callbacks=[
            lambda engine: seen.append(dict(engine.state.metrics)), timer, train.TerminateOnNan(), checkpoint, stopping,
            train.LRScheduler(optim.ExponentialLR(optimizer, 0.5)),
        ],
    )  # fmt: skip
    assert len(seen) == len(history["loss"]) == len(checkpoint.kept) == 3
    assert [found["val_loss"] for found in seen] == history["val_loss"]
    assert optimizer.param_groups[0]["lr"] == 0.125 and timer.value() > 0


def test_a_nan_ends_it_with_the_epochs_before():
    model = classifier()
    with pytest.warns(RuntimeWarning, match="iteration 2 is not finite"), np.errstate(all="ignore"):
        history = train.fit(
            model, lambda p, t: lf.sum(p) * 1e30, PAIRS, epochs=3, batch_size=50, progress=False,
            optimizer=optim.SGD(model.parameters(), lr=1e30), callbacks=[train.TerminateOnNan()],
        )  # fmt: skip
    assert len(history["loss"]) == 1


def test_progress_is_a_line_an_epoch_and_a_bar(capsys):
    history, _ = fitted(validation=0.2, metrics={"accuracy": train.Accuracy()}, progress=True)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 3
    assert lines[2] == "epoch 3/3: " + ", ".join(f"{name} {column[2]:.4f}" for name, column in history.items())
    assert "epoch 3/3" in printed.err


def test_without_progress_nothing_is_printed(capsys):
    fitted()
    assert capsys.readouterr() == ("", "")


def test_a_history_prints_its_numbers_as_a_table():
    history = train.History(loss=[0.5, 12.25], matrix=[np.eye(2)] * 2)
    assert str(history).splitlines() == ["epoch     loss", "    1   0.5000", "    2  12.2500"]
    assert str(train.History()) == "epoch"
    assert history == {"loss": [0.5, 12.25], "matrix": history["matrix"]}


REFUSED = {
    "no data": ([], {}, ValueError, "the data set is empty"),
    "a number": (3, {}, TypeError, "data: expected a list of examples (x, y) or a tuple (xs, ys), got 3"),
    "a dict": ({"x": 1}, {}, TypeError, "data: expected a list of examples (x, y) or a tuple (xs, ys), got {'x': 1}"),
    "examples that are no pairs": ([1, 2, 3], {}, TypeError, "number 0 of the batch is 1"),
    "no epochs": (PAIRS, {"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0"),
    "no batch": (PAIRS, {"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
    "two sizes": (data.batches(PAIRS, 3), {"batch_size": 4}, ValueError, "have their size, 3; leave batch_size out"),
    "all of it held out": (PAIRS, {"validation": 1.0}, ValueError, "validation=1.0: a fraction of the data is above 0"),
    "too little held out": (PAIRS, {"validation": 0.001}, ValueError, "leaves an example on both sides, of 50"),
    "a part of batches": (data.batches(PAIRS, 3), {"validation": 0.5}, TypeError, "cannot be held out of lf.data.Ba"),
    "validation of nothing": (PAIRS, {"validation": []}, ValueError, "the data set is empty"),
    "validation that is no data": (PAIRS, {"validation": 3}, TypeError, "validation: expected a list of examples"),
    "an optimizer's name": (PAIRS, {"optimizer": "adam"}, TypeError, "such as optim.Adam; got 'adam'"),
    "a function that makes no optimizer": (PAIRS, {"optimizer": list}, TypeError, "expected an optimizer such as"),
    "metrics in a list": (PAIRS, {"metrics": [train.Accuracy()]}, TypeError, "metrics: expected a dict of metrics b"),
    "a metric's name": (PAIRS, {"metrics": {"a": "accuracy"}}, TypeError, "metrics['a'] must be a train.Metric"),
    "a metric named as the loss": (PAIRS, {"metrics": {"loss": train.Accuracy()}}, ValueError, "'loss' is the name of"),
    "a schedule as a callback": (
        PAIRS, {"callbacks": [optim.StepLR(optim.SGD([lf.Parameter([1.0])]), 1)]}, TypeError, "goes into train.LRSch",
    ),
    "a callback of two arguments": (PAIRS, {"callbacks": [lambda a, b: 0]}, TypeError, "Events.EPOCH_COMPLETED gets"),
    "a device": (PAIRS, {"device": "tpu"}, lf.DeviceError, "tpu"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case):
    examples, options, error, message = REFUSED[case]
    with pytest.raises(error, match=re.escape(message)):
        fitted(examples, **{**({} if isinstance(examples, list | int | dict) else {"batch_size": None}), **options})


def test_a_model_that_is_a_function_needs_an_optimizer_of_its_own():
    w = lf.Parameter([1.0])
    with pytest.raises(TypeError, match=r"the model is no nn\.Module"):
        train.fit(lambda x: w * x, lf.mse, [(1.0, [2.0])], progress=False)
    history = train.fit(lambda x: w * x, lf.mse, [(1.0, [2.0])], optimizer=optim.SGD([w], lr=0.5), progress=False)
    assert history == {"loss": [1.0]}

"""Handlers: progress bars, checkpoints, early stopping, NaN, timers and learning rates, on engines that run."""

import io
import re

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim, train
from lazyflow.errors import CheckpointError
from lazyflow.train import Engine, Events


def engine_of(*outputs):
    """An engine that puts these out, one an epoch."""
    return Engine(lambda engine, batch: outputs[engine.state.epoch - 1])


def run(engine, *, epochs, batches=1):
    return engine.run(range(batches), max_epochs=epochs)


# Progress


def test_a_bar_counts_batches_and_shows_numbers_metrics_and_epochs():
    screen, engine = io.StringIO(), engine_of(0.25, 0.125)
    train.Average().attach(engine, "mean")
    bar = train.ProgressBar(persist=True, file=screen, mininterval=0, ncols=100)
    bar.attach(engine, ["mean", "later"], lambda output: {"loss": output, "vector": np.zeros(3)})
    run(engine, epochs=2, batches=4)
    lines = [line for line in re.split(r"[\r\n]+", screen.getvalue()) if "4/4" in line]
    assert lines[0].startswith("epoch 1/2: 100%") and "loss=0.25" in lines[0] and "vector" not in lines[0]
    assert lines[-1].startswith("epoch 2/2: 100%") and "loss=0.125" in lines[-1] and "mean=0.25" in lines[-1]


def test_a_bar_shows_all_metrics_and_messages_go_above_it():
    screen, engine = io.StringIO(), engine_of(0.5)
    train.RunningAverage().attach(engine, "average")
    bar = train.ProgressBar(persist=True, file=screen, mininterval=0, ncols=100, desc="training")
    bar.attach(engine, "all")
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: bar.log_message("half of it"))
    run(engine, epochs=1, batches=4)
    assert "\nhalf of it\n" in screen.getvalue().replace("\r", "\n")
    assert "average=0.5" in screen.getvalue() and "training" in screen.getvalue()


@pytest.mark.parametrize("end", ["terminate", "exception"])
def test_a_bar_is_closed_when_the_run_ends_early(end):
    def step(engine, batch):
        if batch == 2 and end == "exception":
            raise ZeroDivisionError
        if batch == 2:
            engine.terminate()

    bar, engine = train.ProgressBar(file=io.StringIO()), Engine(step)
    bar.attach(engine)
    opened = []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: opened.append(bar.bar))
    try:
        run(engine, epochs=1, batches=5)
    except ZeroDivisionError:
        assert end == "exception"
    assert opened[0].disable and bar.bar is None  # tqdm disables a bar that is closed


# Checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("n_saved", "expected"), [(1, [5]), (2, [4, 5]), (None, [1, 2, 3, 4, 5])], ids=["newest", "two", "all"]
)
def test_the_newest_checkpoints_are_kept(tmp_path, n_saved, expected):
    engine = engine_of(*range(5))
    checkpoint = train.ModelCheckpoint(tmp_path / "made" / "here", "run", n_saved=n_saved)
    engine.add_event_handler(Events.EPOCH_COMPLETED, checkpoint, {"weights": {"w": np.zeros(2)}})
    run(engine, epochs=5)
    assert names(tmp_path / "made" / "here") == [f"run_{n}.safetensors" for n in expected]
    assert [path.name for path in checkpoint.kept] == names(tmp_path / "made" / "here")
    assert checkpoint.last == checkpoint.kept[-1]


def test_the_best_checkpoints_are_kept_and_nan_is_not(tmp_path):
    scores = [0.5, np.nan, 0.25, 0.75, np.nan, 0.625]
    engine = engine_of(*scores)
    checkpoint = train.ModelCheckpoint(
        tmp_path,
        to_save={"epoch": {"n": 0}},
        n_saved=2,
        score_function=lambda engine: engine.state.output,
        score_name="accuracy",
    )
    engine.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)
    run(engine, epochs=6)
    best = ["checkpoint_6_accuracy=0.6250.safetensors", "checkpoint_4_accuracy=0.7500.safetensors"]
    assert [path.name for path in checkpoint.kept] == best and names(tmp_path) == sorted(best)


def test_steps_are_iterations_where_the_event_is_one_or_what_is_asked_for(tmp_path):
    engine, saved = engine_of(0), {"weights": {"w": np.zeros(2)}}
    for options in ({"prefix": "iteration"}, {"prefix": "other", "global_step": lambda engine: 7}):
        checkpoint = train.ModelCheckpoint(tmp_path, **options)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=2), checkpoint, saved)
    run(engine, epochs=1, batches=5)
    assert names(tmp_path) == ["iteration_4.safetensors", "other_7.safetensors"]
    train.ModelCheckpoint(tmp_path, "by hand")(engine, saved)
    assert names(tmp_path)[0] == "by hand_5.safetensors"


def test_training_restored_from_a_checkpoint_goes_on_with_the_same_numbers(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)

    def made():
        lf.seed(3)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        batches = lf.data.batches(list(zip(x, x[:, :1], strict=True)), 6, shuffle=True, seed=1)
        trainer = train.create_supervised_trainer(model, optimizer, lf.mse)
        stream = lf.random.default_stream()
        parts = {"model": model, "optimizer": optimizer, "batches": batches, "trainer": trainer, "stream": stream}
        return parts, trainer, batches

    whole, trainer, batches = made()
    trainer.run(batches, max_epochs=4)
    expected = whole["model"].state_dict()
    parts, trainer, batches = made()
    checkpoint = train.ModelCheckpoint(tmp_path, to_save=parts)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), checkpoint)
    trainer.run(batches, max_epochs=4)
    parts, trainer, batches = made()
    lf.load(checkpoint.last, **parts)
    assert trainer.run(batches, max_epochs=4).iteration == 16
    for name, array in parts["model"].state_dict().items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_failed_checkpoint_leaves_the_older_one(tmp_path):
    class Failing:
        def __init__(self):
            self.saved = 0

        def state_dict(self):
            self.saved += 1
            return {"w": np.zeros(2) if self.saved == 1 else object()}

    engine = engine_of(0, 0)
    checkpoint = train.ModelCheckpoint(tmp_path, to_save={"x": Failing()})
    engine.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)
    with pytest.raises(TypeError, match="cannot store a object"):
        run(engine, epochs=2)
    assert names(tmp_path) == ["checkpoint_1.safetensors"] == [path.name for path in checkpoint.kept]


def test_checkpoints_of_another_run_are_not_mixed_in_unless_asked_for(tmp_path):
    train.ModelCheckpoint(tmp_path, to_save={"x": {"w": np.zeros(2)}})(engine_of(0))
    with pytest.raises(ValueError, match=r"has 1 files of the prefix 'checkpoint', such as checkpoint_0\.safetensors"):
        train.ModelCheckpoint(tmp_path)
    train.ModelCheckpoint(tmp_path, "other")
    train.ModelCheckpoint(tmp_path, require_empty=False)


# Stopping


def test_early_stopping_ends_the_trainer_and_not_the_evaluator():
    trainer, evaluator = engine_of(*range(9)), engine_of(*[0] * 9)
    losses = iter([3.0, 2.0, np.nan, 2.5, 2.0, 1.0])
    stopping = train.EarlyStopping(3, lambda engine: next(losses), trainer, mode="min")
    evaluator.add_event_handler(Events.COMPLETED, stopping)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: run(evaluator, epochs=2))
    assert run(trainer, epochs=9).epoch == 5 and evaluator.state.epoch == 2
    assert (stopping.best, stopping.counter) == (2.0, 3)


def test_early_stopping_that_was_restored_goes_on_counting(tmp_path):
    first = train.EarlyStopping(2, lambda engine: engine.state.output)
    run_with(first, engine_of(5, 4), epochs=2)
    second = train.EarlyStopping(2, lambda engine: engine.state.output)
    lf.save(tmp_path / "stopping.safetensors", stopping=first, fresh=second)
    lf.load(tmp_path / "stopping.safetensors", fresh=second)
    assert second.best == -np.inf
    lf.load(tmp_path / "stopping.safetensors", stopping=second)
    assert (second.best, second.counter) == (5, 1)
    assert run_with(second, engine_of(4, 4), epochs=2).epoch == 1
    with pytest.raises(CheckpointError, match="expected the state of EarlyStopping"):
        second.load_state_dict({"kind": "Engine"})


def run_with(handler, engine, *, epochs):
    engine.add_event_handler(Events.EPOCH_COMPLETED, handler)
    return run(engine, epochs=epochs)


NAN = {
    "a number": float("nan"),
    "an infinity": -np.inf,
    "an array": np.array([1.0, np.nan]),
    "an expression": lf.constant([1.0, np.inf]),
    "in a dict of lists": {"a": [1.0, (2, float("nan"))]},
    "complex": np.array([complex(0, np.nan)]),
}
FINITE = {"numbers": [1, 2.0, True, None, "nan"], "arrays": (np.zeros(2), np.array([1, 2]), np.array(["nan"]))}


@pytest.mark.parametrize("output", NAN)
def test_a_run_ends_at_the_first_nan(output):
    engine = engine_of(1.0, NAN[output], 1.0)
    train.TerminateOnNan().attach(engine)
    with pytest.warns(RuntimeWarning, match="the output of iteration 2 is not finite"):
        assert run(engine, epochs=3).epoch == 2


@pytest.mark.parametrize("output", FINITE)
def test_finite_outputs_go_on(output):
    engine = engine_of(FINITE[output], FINITE[output])
    engine.add_event_handler(Events.ITERATION_COMPLETED, train.TerminateOnNan())
    assert run(engine, epochs=2).epoch == 2


def test_only_what_the_transform_picks_is_looked_at():
    engine = engine_of((1.0, np.nan))
    train.TerminateOnNan(lambda output: output[0]).attach(engine)
    run(engine, epochs=1)


# Time


def test_a_timer_measures_between_its_events():
    now = iter(range(1000))  # a clock that goes one further each time somebody looks
    timer = train.Timer(clock=lambda: next(now))
    engine = engine_of(0, 0)
    timer.attach(
        engine, resume=Events.ITERATION_STARTED, pause=Events.ITERATION_COMPLETED, step=Events.ITERATION_COMPLETED
    )
    run(engine, epochs=2, batches=3)
    assert (timer.value(), timer.steps) == (6, 6)
    timer.average = True
    assert timer.value() == 1
    timer.reset()
    assert timer.value() == 0 and timer.steps == 0
    timer.step()
    assert timer.value() == 2  # running since the reset
    timer.pause()
    timer.pause()
    assert timer.value() == timer.value() == 3
    timer.resume()
    timer.resume()
    assert timer.value() == 4


def test_a_timer_without_pauses_measures_the_run():
    now = iter(range(10))
    timer, engine = train.Timer(clock=lambda: next(now)), engine_of(0)
    timer.attach(engine)
    run(engine, epochs=1)
    assert timer.value() == 1  # started once by __init__ and once by the run


# Learning rates


def test_schedules_step_with_their_event():
    optimizer = optim.SGD([lf.Parameter([1.0])], lr=1.0)
    engine, rates = engine_of(3.0, 3.0, 3.0, 1.0), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, train.LRScheduler(optim.StepLR(optimizer, 2, gamma=0.5)))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    run(engine, epochs=2, batches=2)
    assert rates == [0.5, 0.25]


def test_a_plateau_is_told_the_score():
    optimizer = optim.SGD([lf.Parameter([1.0])], lr=1.0)
    plateau = optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    engine = engine_of(3.0, 3.0, 3.0, 1.0)
    engine.add_event_handler(Events.EPOCH_COMPLETED, train.LRScheduler(plateau, lambda engine: engine.state.output))
    run(engine, epochs=4)
    assert plateau.get_last_lr() == [0.5] and plateau.best == 1.0


# What is refused

ADAM = optim.Adam([lf.Parameter([1.0])])
REFUSED = {
    "a metric's name for names": (
        lambda f: train.ProgressBar().attach(engine_of(0), "loss"), TypeError, "a list of names or 'all', got 'loss'",
    ),
    "a bar's transform": (
        lambda f: train.ProgressBar().attach(engine_of(0), output_transform=3), TypeError, "function of (output), got",
    ),
    "nothing saved": (lambda f: train.ModelCheckpoint(f, n_saved=0), ValueError, "n_saved must be an integer of at le"),
    "nothing to save": (lambda f: train.ModelCheckpoint(f)(engine_of(0)), TypeError, "nothing to save; add it as"),
    "a model for a dict": (
        lambda f: train.ModelCheckpoint(f)(engine_of(0), nn.Linear(1, 1)), TypeError, "checkpoint, {'model': model})",
    ),
    "a score that is none": (
        lambda f: train.ModelCheckpoint(f, score_function="loss"), TypeError, "score_function must be a function of",
    ),
    "a step of no engine": (
        lambda f: train.ModelCheckpoint(f, global_step=lambda: 3), TypeError, "global_step <lambda> would be called as",
    ),
    "no patience": (lambda f: train.EarlyStopping(0, abs), ValueError, "patience must be an integer of at least 1"),
    "the score of nothing": (lambda f: train.EarlyStopping(1, "loss"), TypeError, "score_function must be a function"),
    "another mode": (lambda f: train.EarlyStopping(1, abs, mode="best"), ValueError, "'min' or 'max', got 'best'"),
    "a negative threshold": (lambda f: train.EarlyStopping(1, abs, threshold=-1), ValueError, "at least 0, got -1"),
    "a trainer that is none": (lambda f: train.EarlyStopping(1, abs, nn.Linear(1, 1)), TypeError, "must be a train.En"),
    "a NaN of nothing": (lambda f: train.TerminateOnNan(3), TypeError, "output_transform must be a function of"),
    "no clock": (lambda f: train.Timer(clock=3), TypeError, "clock must be a function of (), got 3"),
    "no schedule": (lambda f: train.LRScheduler(3), TypeError, "step must be a function of (), got None"),
    "a plateau without a score": (
        lambda f: train.LRScheduler(optim.ReduceLROnPlateau(ADAM)), TypeError, "missing a required argument: 'metric'",
    ),
    "a score for nothing": (
        lambda f: train.LRScheduler(optim.StepLR(ADAM, 2), abs), TypeError, "too many positional arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case, tmp_path):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=re.escape(message)):
        make(tmp_path)

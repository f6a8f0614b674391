"""Engines, metrics and handlers beside those of Ignite: the same events, the same counters, the same numbers."""

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import nn, optim, train
from tests.train.cases import METRICS, cut, name_of_case
from tests.train.peer import ignite

torch, peer = ignite()
pytestmark = pytest.mark.peer

SEVEN = [event.name for event in train.Events]


def recorded(library, process, *, data=(1, 2, 3), max_epochs=2, extra=(), **options):
    """What happens when an engine runs: each event with the counters and the output at that time."""
    log = []
    events = library.Events
    engine = library.Engine(lambda engine, batch: process(engine, batch))
    for name, add in extra:
        add(engine, getattr(events, name))
    for name in SEVEN:

        def note(engine, *error, name=name):
            state = engine.state
            log.append((name, state.epoch, state.iteration, state.output, state.batch, *map(repr, error)))

        engine.add_event_handler(getattr(events, name), note)
    try:
        state = engine.run(list(data), max_epochs=max_epochs, **options)
        log.append((state.epoch, state.iteration, state.max_epochs, state.output))
    except ZeroDivisionError as error:
        log.append(repr(error))
    return log


def ten_times(engine, batch):
    return 10 * batch


def inverse(engine, batch):
    return 6 // (3 - batch)


STOPS = [(stop, name) for stop in ("terminate", "terminate_epoch") for name in SEVEN[:-1]]


def stopping(stop, name):
    def add(engine, event):
        once = event if name in ("STARTED", "COMPLETED") else event(once=1 if "EPOCH" in name else 2)
        engine.add_event_handler(once, lambda: getattr(engine, stop)())

    return [(name, add)]


RUNS = {
    "two epochs": (ten_times, {}),
    "one batch": (ten_times, {"data": [5], "max_epochs": 1}),
    "an epoch of two batches": (ten_times, {"max_epochs": 3, "epoch_length": 2}),
    "an epoch longer than the data": (ten_times, {"max_epochs": 2, "epoch_length": 4}),
    **{
        f"{stop} at {name}": (ten_times, {"extra": stopping(stop, name)})
        for stop, name in STOPS
        # where Ignite refuses to end an epoch that has not begun
        if (stop, name) not in (("terminate_epoch", "STARTED"), ("terminate_epoch", "EPOCH_STARTED"))
    },
}


@pytest.mark.parametrize("run", RUNS)
def test_events_come_in_the_same_order_with_the_same_counters(run):
    process, options = RUNS[run]
    assert recorded(train, process, **options) == recorded(peer.engine, process, **options)


def test_an_exception_comes_to_the_same_handlers_and_then_to_the_caller():
    """Ignite, whose handler did not raise it again, goes on with the next epoch."""
    *ours, caught = recorded(train, inverse)
    assert ours == recorded(peer.engine, inverse)[: len(ours)]
    assert ours[-1][0] == "EXCEPTION_RAISED" and ours[-1][-1] == caught


FILTERS = [
    {"every": 1}, {"every": 2}, {"every": 3}, {"once": 1}, {"once": 5}, {"once": [2, 3]}, {"before": 3}, {"after": 2},
    {"after": 1, "before": 4}, {"every": 2, "after": 1}, {"every": 2, "before": 5}, {"every": 3, "after": 0},
    {"event_filter": lambda engine, count: count % 3 == 1},
]  # fmt: skip


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("name", ["EPOCH_STARTED", "EPOCH_COMPLETED", "ITERATION_STARTED", "ITERATION_COMPLETED"])
def test_filters_let_the_same_events_through(name, options):
    def passed(library):
        counts = []
        engine = library.Engine(ten_times)
        event = getattr(library.Events, name)(**options)
        engine.add_event_handler(event, lambda engine: counts.append((engine.state.epoch, engine.state.iteration)))
        engine.run([1, 2, 3], max_epochs=6)
        return counts

    assert passed(train) == passed(peer.engine) != []


def test_joined_events_and_further_arguments():
    def called(library):
        log = []
        engine = library.Engine(ten_times)
        events = library.Events
        some = events.STARTED | events.ITERATION_COMPLETED(every=2) | events.COMPLETED
        engine.add_event_handler(some, lambda engine, a, b: log.append((engine.state.iteration, a, b)), 1, b=2)
        engine.add_event_handler(events.EPOCH_STARTED, lambda a: log.append(a), "without the engine")
        engine.on(events.COMPLETED, 3)(lambda engine, a: log.append(a))
        engine.run([1, 2, 3, 4])
        return log

    assert called(train) == called(peer.engine)


def measured(library, name, options, batches):
    engine = library.Engine(lambda engine, batch: batch) if hasattr(library, "Engine") else None
    metric = getattr(library, name)(**options)
    metric.attach(engine, "metric")
    return engine.run(batches).metrics["metric"]


def theirs(batch):
    """A batch as Ignite takes it: the classes in the second axis, the rest as tensors."""
    y_pred, y = batch
    return torch.tensor(y_pred if y_pred.ndim < 3 else np.moveaxis(y_pred, -1, 1)), torch.tensor(y)


@pytest.mark.parametrize("case", METRICS, ids=name_of_case)
def test_metrics(case):
    name, options, data = case
    ours = train.Engine(lambda engine, batch: batch)
    getattr(train, name)(**options).attach(ours, "metric")
    other = peer.engine.Engine(lambda engine, batch: theirs(batch))
    if name == "Fbeta":
        peer.metrics.Fbeta(**options).attach(other, "metric")
    else:
        getattr(peer.metrics, name)(**options).attach(other, "metric")
    found, expected = (engine.run(cut(data)).metrics["metric"] for engine in (ours, other))
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-6, atol=1e-12)


def test_a_loss():
    y_pred, y = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32), np.arange(20) % 4
    ours, other = train.Loss(lf.cross_entropy), peer.metrics.Loss(torch.nn.functional.cross_entropy)
    for batch in cut((y_pred, y)):
        ours.update(batch)
        other.update(tuple(map(torch.tensor, batch)))
    assert ours.compute() == pytest.approx(other.compute(), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.98])
def test_running_averages(alpha):
    def averages(library, metrics, *batches):
        found = []
        engine = library.Engine(lambda engine, batch: batch)
        metrics.RunningAverage(output_transform=lambda output: output, alpha=alpha).attach(engine, "average")
        engine.add_event_handler(
            library.Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.metrics["average"])
        )
        engine.run([3.0, 1.0, 4.0, 1.0, 5.0], max_epochs=2)
        return found

    assert averages(train, train) == pytest.approx(averages(peer.engine, peer.metrics))


def test_a_running_average_of_a_metric():
    batches = [([1, 0], [1, 1]), ([0, 0], [0, 0]), ([1, 1], [0, 0])]

    def average(library, metrics, made):
        engine = library.Engine(lambda engine, batch: tuple(map(made, batch)))
        metrics.RunningAverage(metrics.Accuracy(), alpha=0.5).attach(engine, "average")
        return engine.run(batches, max_epochs=2).metrics["average"]

    assert average(train, train, np.array) == average(peer.engine, peer.metrics, torch.tensor)


SCORES = {
    "rises, then falls": [1, 2, 3, 2, 1, 0, 5],
    "a plateau": [1, 1, 1, 1, 1],
    "small steps": [1.0, 1.3, 1.6, 1.9, 2.2, 2.5],
    "ups and downs": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5],
    "falls": [5, 4, 4, 3, 2, 2.5, 2.6, 2.7],
}


@pytest.mark.parametrize("options", [{}, {"threshold": 0.5}, {"threshold": 0.5, "cumulative": True}], ids=str)
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("scores", SCORES)
def test_early_stopping_ends_in_the_same_epoch(scores, mode, options):
    def epochs(library, handlers):
        engine = library.Engine(ten_times)
        stop = handlers.EarlyStopping(
            patience=2, score_function=lambda e: SCORES[scores][e.state.epoch - 1], trainer=engine, mode=mode, **options
        )
        engine.add_event_handler(library.Events.EPOCH_COMPLETED, stop)
        return engine.run([1], max_epochs=len(SCORES[scores])).epoch

    assert epochs(train, train) == epochs(peer.engine, peer.handlers)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_a_supervised_trainer_and_evaluator(dtype, tolerance):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 6)).astype(dtype), random.integers(0, 3, 60)
    batches = cut((x, y), 16)
    with lf.using(dtype=dtype):
        model = nn.Sequential(nn.Linear(6, 8), lf.tanh, nn.Linear(8, 3))
    twin = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(getattr(torch, dtype))
    twin.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    trainer = train.create_supervised_trainer(
        model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9), lf.cross_entropy
    )
    evaluator = train.create_supervised_evaluator(
        model, {"accuracy": train.Accuracy(), "loss": train.Loss(lf.cross_entropy)}
    )
    loss = torch.nn.functional.cross_entropy
    their_trainer = peer.engine.create_supervised_trainer(
        twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), loss
    )
    their_evaluator = peer.engine.create_supervised_evaluator(
        twin, {"accuracy": peer.metrics.Accuracy(), "loss": peer.metrics.Loss(loss)}
    )
    tensors = [tuple(map(torch.tensor, batch)) for batch in batches]
    found = trainer.run(batches, max_epochs=5).output, evaluator.run(batches).metrics
    expected = their_trainer.run(tensors, max_epochs=5).output, their_evaluator.run(tensors).metrics
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1] == pytest.approx(expected[1], rel=max(tolerance, 1e-6))  # Ignite sums in float32
    for name, array in twin.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], array, rtol=tolerance, atol=tolerance)

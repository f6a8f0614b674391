"""Engines: what handlers are called with, how runs end, fail and go on, and what is refused."""

import functools
import re
import sys

import pytest

import lazyflow as lf
from lazyflow import data, train
from lazyflow.errors import CheckpointError
from lazyflow.train import Engine, EventEnum, Events


def process(engine, batch):
    return batch


class Custom(EventEnum):
    LOSS = "loss"
    STEP = "step"


# Handlers


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python evaluates annotations where they stand")
def test_functions_whose_annotations_name_what_is_not_there():
    exec("def process(engine: Later, batch: Later) -> Later: return batch", space := {})
    exec("def handler(engine: Later) -> Later: found.append(engine.state.output)", space)
    space["found"] = found = []
    engine = Engine(space["process"])
    engine.add_event_handler(Events.ITERATION_COMPLETED, space["handler"])
    engine.run([1, 2])
    assert found == [1, 2]


def test_handlers_get_the_engine_if_they_take_it_and_their_arguments():
    calls = []

    class Method:
        def with_engine(self, engine):
            calls.append(engine)

        def without(self):
            calls.append("method")

    engine = Engine(process)
    for handler, args, kwargs in [
        (lambda engine: calls.append(engine), (), {}),
        (lambda: calls.append("nothing"), (), {}),
        (lambda engine, a, b=0: calls.append((engine, a, b)), (1,), {"b": 2}),
        (lambda a, *, b: calls.append((a, b)), (3,), {"b": 4}),
        (Method().with_engine, (), {}),
        (Method().without, (), {}),
        (functools.partial(lambda a, engine: calls.append((a, engine)), 5), (), {}),
        (lambda *all_of_them: calls.append(all_of_them), (6,), {}),
    ]:
        engine.add_event_handler(Events.COMPLETED, handler, *args, **kwargs)
    engine.run([0])
    assert calls == [engine, "nothing", (engine, 1, 2), (3, 4), engine, "method", (5, engine), (engine, 6)]


def test_a_handler_of_an_exception_gets_it_and_may_leave_out_the_engine():
    calls = []
    engine = Engine(lambda engine, batch: 1 // batch)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: calls.append((engine, error)))
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda error: calls.append(error))
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error, x: calls.append(x), "more")
    with pytest.raises(ZeroDivisionError) as caught:
        engine.run([1, 0])
    assert calls == [(engine, caught.value), caught.value, "more"]


def test_on_leaves_the_function_as_it_is_and_handlers_can_be_asked_for_and_removed():
    engine = Engine(process)

    @engine.on(Events.STARTED | Events.EPOCH_COMPLETED(every=2))
    def count():
        count.calls += 1

    count.calls = 0
    assert engine.has_event_handler(count) and engine.has_event_handler(count, Events.EPOCH_COMPLETED)
    assert not engine.has_event_handler(count, Events.COMPLETED) and not engine.has_event_handler(process)
    engine.run([1], max_epochs=4)
    assert count.calls == 3
    engine.remove_event_handler(count, Events.EPOCH_COMPLETED)
    assert not engine.has_event_handler(count, Events.EPOCH_COMPLETED)
    engine.run([1], max_epochs=4)
    assert count.calls == 4


def test_the_handle_removes_the_handler_from_all_its_events():
    engine, calls = Engine(process), []
    handle = engine.add_event_handler(Events.STARTED | Events.COMPLETED, lambda: calls.append(0))
    engine.run([1])
    handle.remove()
    handle.remove()
    engine.run([1])
    assert len(calls) == 2
    with engine.add_event_handler(Events.COMPLETED, lambda: calls.append(0)):
        engine.run([1])
    engine.run([1])
    assert len(calls) == 3


def test_handlers_may_add_and_remove_handlers():
    engine, calls = Engine(process), []

    def first(engine):
        calls.append("first")
        engine.remove_event_handler(first, Events.ITERATION_COMPLETED)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: calls.append("second"))

    engine.add_event_handler(Events.ITERATION_COMPLETED, first)
    engine.run([1, 2, 3])
    assert calls == ["first", "second", "second"]


def test_custom_events_are_fired_by_the_process_function_and_counted():
    def step(engine, batch):
        engine.fire_event(Custom.LOSS)
        engine.fire_event("named")
        return batch

    engine, calls = Engine(step), []
    engine.register_events(*Custom, "named")
    engine.add_event_handler(Custom.LOSS(every=2), lambda engine: calls.append(engine.event_count(Custom.LOSS)))
    engine.add_event_handler("named", lambda engine: calls.append(engine.current_event))
    engine.add_event_handler(Custom.STEP, lambda: calls.append("never"))
    engine.run([1, 2, 3, 4])
    assert calls == ["named", 2, "named", "named", 4, "named"]
    assert engine.current_event is None


def test_the_current_event_is_that_of_the_handler_also_after_another_was_fired_within():
    engine, events = Engine(process), []
    engine.register_events(Custom.LOSS)
    engine.add_event_handler(Custom.LOSS, lambda engine: events.append(engine.current_event))

    @engine.on(Events.COMPLETED)
    def fires(engine):
        engine.fire_event(Custom.LOSS)
        events.append(engine.current_event)

    engine.run([0])
    assert events == [Custom.LOSS, Events.COMPLETED]


def test_events_print_as_they_are_written():
    assert repr(Events.STARTED) == "Events.STARTED" and repr(Custom.LOSS) == "Custom.LOSS"
    assert repr(Events.STARTED | Custom.LOSS | (Events.COMPLETED | Custom.STEP)) == (
        "(Events.STARTED, Custom.LOSS, Events.COMPLETED, Custom.STEP)"
    )


# Runs


def test_every_run_starts_anew():
    engine = Engine(process)
    first = engine.run([1, 2, 3], max_epochs=2)
    first.metrics["x"] = 1
    second = engine.run([4])
    assert (first.epoch, first.iteration, first.output) == (2, 6, 3)
    assert (second.epoch, second.iteration, second.output, second.metrics) == (1, 1, 4, {})
    assert engine.state is second and second.dataloader == [4] and second.epoch_length == 1 and second.max_epochs == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", [e for e in Events if e is not Events.EXCEPTION_RAISED])
def test_an_exception_anywhere_reaches_handlers_and_caller_and_the_next_run_is_a_new_one(place, error):
    engine, seen = Engine(process), []
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, e: seen.append(e))

    def fail():
        raise error

    with engine.add_event_handler(place, fail), pytest.raises(error) as caught:
        engine.run([1, 2], max_epochs=2)
    assert seen == [caught.value]
    assert engine.run([1, 2]).iteration == 2


def test_an_exception_of_the_data_reaches_the_handlers_too():
    def broken():
        yield 1
        raise OSError("the disk")

    engine, seen = Engine(process), []
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda error: seen.append(str(error)))
    with pytest.raises(OSError, match="the disk"):
        engine.run(broken())
    assert seen == ["the disk"]


def test_a_stopped_run_takes_no_further_batch():
    taken = []

    def batches():
        for batch in range(10):
            taken.append(batch)
            yield batch

    engine = Engine(process)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), engine.terminate)
    engine.run(batches())
    assert taken == [0, 1, 2]


def test_endless_data_are_cut_into_epochs():
    def forever():
        n = 0
        while True:
            yield (n := n + 1)

    seen = []
    state = Engine(lambda engine, batch: seen.append((engine.state.epoch, batch))).run(forever(), 2, epoch_length=2)
    assert seen == [(1, 1), (1, 2), (2, 3), (2, 4)] and state.epoch_length == 2


def test_the_output_of_one_batch_is_gone_when_the_next_is_computed():
    engine = Engine(lambda engine, batch: (engine.state.output, batch))
    assert engine.run([1, 2]).output == (None, 2)


# Restored runs


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_run_restored_with_its_data_sees_the_same_batches(stop, tmp_path):
    def made():
        seen = []
        engine = Engine(lambda engine, batch: seen.append((engine.state.epoch, engine.state.iteration, batch)))
        return engine, data.batches(range(7), 2, shuffle=True, seed=5), seen

    engine, batches, expected = made()
    engine.run(batches, max_epochs=3)
    engine, batches, seen = made()
    path = tmp_path / "run.safetensors"
    engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=stop), lambda: lf.save(path, engine=engine, batches=batches)
    )
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop), engine.terminate)
    engine.run(batches, max_epochs=3)
    engine, batches, rest = made()
    lf.load(path, engine=engine, batches=batches)
    engine.run(batches, max_epochs=3)
    assert seen + rest == expected


def test_a_run_saved_between_epochs_goes_on_with_the_next():
    engine = Engine(process)
    states = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: states.append(engine.state_dict()))
    engine.run([1, 2], max_epochs=3)
    other, epochs = Engine(process), []
    other.load_state_dict(states[1])
    other.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    state = other.run([1, 2], max_epochs=4)
    assert epochs == [3, 4] and state.iteration == 8
    assert other.run([1, 2]).epoch == 1


def test_an_epoch_restored_after_its_last_batch_is_completed_without_metrics():
    engine, found = Engine(process), []
    engine.load_state_dict({"kind": "Engine", "epoch": 1, "iteration": 2, "epoch_done": False})
    batches = data.batches([1.0, 2.0], 1)
    iterator = iter(batches)
    next(iterator), next(iterator)
    batches.load_state_dict(batches.state_dict())
    train.Average(lambda batch: batch[0]).attach(engine, "mean")
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: found.append(dict(engine.state.metrics)))
    state = engine.run(batches, max_epochs=2)
    assert found == [{}, {"mean": 1.5}] and (state.iteration, state.epoch_iteration) == (4, 2)


# What is refused


def restored(epoch):
    engine = Engine(process)
    engine.load_state_dict({"kind": "Engine", "epoch": epoch, "iteration": 9, "epoch_done": True})
    return engine


def nested():
    engine = Engine(process)
    engine.add_event_handler(Events.STARTED, lambda engine: engine.run([1]))
    engine.run([1])


REFUSED = {
    "process not callable": (lambda: Engine(3), TypeError, "function of (engine, batch), got 3"),
    "process with one argument": (
        lambda: Engine(lambda batch: 0), TypeError, "would be called as <lambda>(engine, batch): too many positional",
    ),
    "process with three": (lambda: Engine(lambda a, b, c: 0), TypeError, "missing a required argument: 'c'"),
    "unknown event": (lambda: Engine(process).on("epoch_completed")(print), ValueError, "unknown event 'epoch_compl"),
    "unknown custom event": (
        lambda: Engine(process).add_event_handler(Custom.LOSS, print), ValueError, "unknown event Custom.LOSS; this "
        "engine has Events.STARTED,",
    ),
    "unknown filtered event": (lambda: Engine(process).on(Custom.LOSS(every=2))(print), ValueError, "Custom.LOSS"),
    "unknown event among others": (
        lambda: Engine(process).on(Events.STARTED | Custom.LOSS)(print), ValueError, "Custom.LOSS",
    ),
    "no event": (lambda: Engine(process).on(print)(print), ValueError, "unknown event <built-in function print>"),
    "firing an unknown event": (lambda: Engine(process).fire_event("x"), ValueError, "register_events"),
    "firing an exception": (
        lambda: Engine(process).fire_event(Events.EXCEPTION_RAISED), ValueError, "raise one, and the engine fires it",
    ),
    "registering a number": (lambda: Engine(process).register_events(3), TypeError, "an event is a string or"),
    "registering a filtered event": (
        lambda: Engine(process).register_events(Custom.LOSS(every=2)), TypeError, "an event is a string or",
    ),
    "handler not callable": (
        lambda: Engine(process).add_event_handler(Events.STARTED, "x"), TypeError, "must be a function, got 'x'",
    ),
    "handler with too many arguments": (
        lambda: Engine(process).on(Events.STARTED)(lambda engine, loss, rate: 0), TypeError,
        "a handler of Events.STARTED gets (engine), or the same without the engine; ",
    ),
    "handler with too few arguments": (
        lambda: Engine(process).add_event_handler(Events.STARTED, lambda: 0, 1, b="c"), TypeError,
        "gets (engine, 1, b='c')",
    ),
    "handler of an exception": (
        lambda: Engine(process).on(Events.EXCEPTION_RAISED)(lambda: 0), TypeError, "gets (engine, exception)",
    ),
    "removing what is not there": (
        lambda: Engine(process).remove_event_handler(print, Events.STARTED), ValueError,
        "print is no handler of Events.STARTED",
    ),
    "no condition": (lambda: Events.STARTED(), TypeError, "takes one condition"),
    "two conditions": (lambda: Events.STARTED(every=2, once=3), TypeError, "takes one condition"),
    "every 0": (lambda: Events.STARTED(every=0), ValueError, "every must be an integer of at least 1, got 0"),
    "every True": (lambda: Events.STARTED(every=True), ValueError, "every must be an integer"),
    "once a word": (lambda: Events.STARTED(once="first"), ValueError, "once must be an integer of at least 1"),
    "once nothing": (lambda: Events.STARTED(once=[]), ValueError, "at least one count"),
    "once 0": (lambda: Events.STARTED(once=[1, 0]), ValueError, "once must be an integer of at least 1, got 0"),
    "after -1": (lambda: Events.STARTED(after=-1), ValueError, "after must be an integer of at least 0"),
    "before 1.5": (lambda: Events.STARTED(before=1.5), ValueError, "before must be an integer"),
    "filter not callable": (lambda: Events.STARTED(3), TypeError, "event_filter must be a function of (engine, count)"),
    "filter of one argument": (lambda: Events.STARTED(lambda e: True), TypeError, "<lambda>(engine, count)"),
    "no epoch": (lambda: Engine(process).run([1], max_epochs=0), ValueError, "max_epochs must be an integer of at le"),
    "half an epoch": (lambda: Engine(process).run([1], max_epochs=0.5), ValueError, "max_epochs must be an integer"),
    "an epoch of nothing": (lambda: Engine(process).run([1], epoch_length=0), ValueError, "epoch_length must be an"),
    "empty data": (lambda: Engine(process).run([]), ValueError, "the data are empty"),
    "empty data, cut": (lambda: Engine(process).run([], epoch_length=3), ValueError, "the data are empty"),
    "an iterator twice": (
        lambda: Engine(process).run(iter([1, 2]), max_epochs=2), ValueError,
        "no batch in epoch 2: an iterator can be gone through only once",
    ),
    "data that are a number": (lambda: Engine(process).run(3), TypeError, "iterable of batches"),
    "a run within itself": (nested, RuntimeError, "this engine is running"),
    "a restored run that is over": (
        lambda: restored(3).run([1], max_epochs=3), ValueError, "has finished 3 epochs: max_epochs, the total, must",
    ),
    "the state of something else": (
        lambda: Engine(process).load_state_dict({"kind": "Adam"}), CheckpointError, "expected the state of Engine",
    ),
    "an incomplete state": (
        lambda: Engine(process).load_state_dict({"kind": "Engine", "epoch": 3}), CheckpointError, "iteration: missing",
    ),
    "a negative epoch": (lambda: restored(-1), CheckpointError, "epoch must be an integer of at least 0, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_handler_that_does_not_fit_one_of_several_events_is_added_to_none():
    engine = Engine(process)
    with pytest.raises(TypeError, match=r"Events\.EXCEPTION_RAISED"):
        engine.add_event_handler(Events.STARTED | Events.EXCEPTION_RAISED, handler := lambda: None)
    assert not engine.has_event_handler(handler)


def test_everything_public_has_a_docstring():
    assert all(getattr(train, name).__doc__ for name in train.__all__)

"""Settings and the tape that is recorded on belong to the context: tasks, generators, threads, interrupts."""

import asyncio
import contextvars
import gc
import itertools
import threading
from contextlib import ExitStack

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import settings
from lazyflow.record.tape import current_tape
from lazyflow.settings import Settings
from tests.interrupts import _traced, bytecodes, interrupted

FILES = ("settings.py", "record/tape.py", "locks.py")


def now():
    options = settings.current()
    return options.grad, options.dtype.name


DEFAULT, NO_GRAD, WIDE = (True, "float32"), (False, "float32"), (True, "float64")


@pytest.fixture(autouse=True)
def default_settings_before_and_after():
    assert settings.current() == Settings()
    yield
    assert settings.current() == Settings()


def in_thread(function):
    """What a function returns in a thread of its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


# Tasks.


def test_tasks_that_take_turns_inside_of_their_blocks():
    seen = {}

    async def work(name, block, turns):
        seen[name] = []
        with block:
            for _ in range(turns):
                seen[name].append(now())
                await asyncio.sleep(0)
        seen[name].append(now())

    async def main():
        tasks = [work("plain", lf.using(), 4), work("no grad", lf.no_grad(), 2), work("wide", lf.using(dtype="f8"), 3)]
        await asyncio.gather(*tasks)
        return now()

    assert asyncio.run(main()) == DEFAULT
    assert seen["plain"] == [DEFAULT] * 5
    assert seen["no grad"] == [NO_GRAD] * 2 + [DEFAULT]
    assert seen["wide"] == [WIDE] * 3 + [DEFAULT]


def test_a_task_keeps_the_settings_that_it_was_started_with():
    seen = []

    async def child(started, left):
        started.set()
        await left.wait()
        seen.append(now())
        with lf.using(dtype="float64"):
            seen.append(now())
        seen.append(now())

    async def main():
        started, left = asyncio.Event(), asyncio.Event()
        with lf.no_grad():
            task = asyncio.create_task(child(started, left))
            await started.wait()
        left.set()
        await task
        return now()

    assert asyncio.run(main()) == DEFAULT
    assert seen == [NO_GRAD, (False, "float64"), NO_GRAD]


def test_an_expression_of_another_task_is_recorded_on_under_the_settings_of_this_one():
    w = lf.Parameter([0.2])
    made = {}

    async def differentiable(ready, done):
        made["x"] = w * 3.0
        ready.set()
        await done.wait()
        made["after"] = lf.tanh(made["x"])

    async def without(ready, done):
        with lf.no_grad():
            await ready.wait()
            x = made["x"]
            made["without"] = [lf.tanh(x), x * x, x * 2.0, x[0], x.reshape(1, 1), lf.stack([x, x]), lf.split(x, 1)[0]]
            done.set()

    async def main():
        ready, done = asyncio.Event(), asyncio.Event()
        await asyncio.gather(differentiable(ready, done), without(ready, done))

    asyncio.run(main())
    assert made["after"].requires_grad
    assert not any(e.requires_grad for e in made["without"])
    assert {e.tape.grad for e in made["without"]} == {False}
    lf.sum(made["after"]).backward()
    np.testing.assert_allclose(w.grad, 3 * (1 - np.tanh(0.6) ** 2), rtol=1e-5)
    np.testing.assert_allclose(made["without"][2].numpy(), [1.2])


def test_cells_record_under_the_settings_of_the_task():
    w = lf.Parameter([2.0])
    cell = lf.cell(lambda x, h: lf.tanh(x * w + h))
    made = {}

    async def work(name, block):
        with block:
            h = lf.constant([0.0])
            for _ in range(6):
                h = cell(h, h)
                await asyncio.sleep(0)
                for other in made.values():
                    h = h + 0.0 * cell(other, h)
                made[name] = h
            return h

    async def main():
        return await asyncio.gather(work("a", lf.using()), work("b", lf.no_grad()), work("c", lf.using()))

    assert [h.requires_grad for h in asyncio.run(main())] == [True, False, True]


# Generators and coroutines.


def test_a_decorated_generator_has_its_settings_only_while_it_runs():
    inside = []

    @lf.no_grad()
    def numbers():
        try:
            sent = yield now()
            inside.append((sent, now()))
            yield now()
        except ValueError as error:
            inside.append((str(error), now()))
            yield now()
        finally:
            inside.append(now())
        return "result"

    g = numbers()
    assert next(g) == NO_GRAD and now() == DEFAULT
    assert g.send(7) == NO_GRAD and now() == DEFAULT
    assert g.throw(ValueError("thrown")) == NO_GRAD and now() == DEFAULT
    with pytest.raises(StopIteration) as end:
        next(g)
    assert end.value.value == "result"
    assert inside == [(7, NO_GRAD), ("thrown", NO_GRAD), NO_GRAD]


@pytest.mark.parametrize("end", ["close", "delete", "throw", "error", "break"])
def test_a_decorated_generator_that_ends_early(end):
    ends = []

    @lf.using(dtype="float64")
    def numbers():
        try:
            for k in itertools.count():
                yield k
                if k == 1:
                    raise KeyError("error")
        finally:
            ends.append(now())

    g = numbers()
    assert next(g) == 0
    if end == "close":
        g.close()
    elif end == "throw":
        with pytest.raises(ZeroDivisionError):
            g.throw(ZeroDivisionError)
    elif end == "error":
        with pytest.raises(KeyError):
            list(g)
    elif end == "break":
        for _ in g:
            break
    del g
    gc.collect()
    assert ends == [WIDE] and now() == DEFAULT


def test_a_decorated_generator_that_refuses_to_end():
    @lf.no_grad()
    def stubborn():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    g = stubborn()
    next(g)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        g.close()


def test_a_decorated_generator_takes_the_other_settings_of_its_consumer():
    @lf.no_grad()
    def numbers():
        while True:
            yield now()

    g = numbers()
    with lf.using(dtype="float64"):
        assert next(g) == (False, "float64")
    assert next(g) == NO_GRAD


def test_decorated_generators_that_take_turns_do_not_mix_their_tapes():
    w = lf.Parameter([1.0])

    def steps(x):
        for k in range(5):
            x = lf.tanh(w * x + float(k))
            yield x

    pairs = list(zip(lf.no_grad()(steps)(lf.constant([0.5])), steps(lf.constant([0.5])), strict=True))
    assert [(a.requires_grad, b.requires_grad) for a, b in pairs] == [(False, True)] * 5
    for a, b in pairs:
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_blocks_inside_of_generators_may_be_left_in_any_order():
    def block(options):
        with lf.using(**options):
            yield now()

    for order in itertools.permutations(range(3)):
        generators = [block({"grad": False}), block({"dtype": "float64"}), block({"fuse": "off"})]
        for g in generators:
            next(g)
        assert now() == (False, "float64")
        for k in order:
            generators[k].close()
        assert settings.current() == Settings()
    generators = [block({"grad": False}), block({"dtype": "float64"})]
    for g in generators:
        next(g)
    generators[0].close()
    assert now() == WIDE  # the other still holds
    generators[1].close()


def test_a_block_of_a_generator_that_ends_in_another_context():
    def block():
        with lf.no_grad():
            yield

    g = block()
    next(g)
    assert now() == NO_GRAD
    in_thread(g.close)
    assert now() == DEFAULT


def test_a_decorated_coroutine_has_its_settings_only_while_it_runs():
    seen = []

    @lf.no_grad()
    async def inner():
        seen.append(("inner", now()))
        await asyncio.sleep(0)
        seen.append(("inner", now()))
        return 5

    async def other():
        for _ in range(3):
            seen.append(("other", now()))
            await asyncio.sleep(0)

    async def main():
        found = await asyncio.gather(inner(), other())
        coroutine = inner()
        coroutine.send(None)  # waits; driven by hand, in this very context
        seen.append(("other", now()))
        coroutine.close()
        return found

    assert asyncio.run(main()) == [5, None]
    assert {what for name, what in seen if name == "inner"} == {NO_GRAD}
    assert {what for name, what in seen if name == "other"} == {DEFAULT}


def test_a_decorated_coroutine_that_is_cancelled():
    seen = []

    @lf.no_grad()
    async def waiting():
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(now())

    async def main():
        task = asyncio.create_task(waiting())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [NO_GRAD]


def test_a_decorated_asynchronous_generator():
    seen = []

    @lf.no_grad()
    async def numbers():
        try:
            sent = yield now()
            await asyncio.sleep(0)
            seen.append((sent, now()))
            try:
                yield now()
            except ValueError:
                yield "caught"
        finally:
            await asyncio.sleep(0)
            seen.append(now())

    async def main():
        g = numbers()
        assert await g.__anext__() == NO_GRAD and now() == DEFAULT
        assert await g.asend(3) == NO_GRAD and now() == DEFAULT
        assert await g.athrow(ValueError()) == "caught"
        await g.aclose()
        assert now() == DEFAULT
        async for _ in numbers():
            assert now() == DEFAULT
        return [value async for value in numbers()]

    assert asyncio.run(main()) == [NO_GRAD, NO_GRAD]
    assert seen == [(3, NO_GRAD), NO_GRAD, (None, NO_GRAD), NO_GRAD, (None, NO_GRAD), NO_GRAD]


def test_a_decorated_function_keeps_its_name_and_kind():
    import inspect

    def function(): ...
    def generator():
        yield

    async def coroutine(): ...
    async def asynchronous():
        yield

    block = lf.no_grad()
    for f in (function, generator, coroutine, asynchronous):
        assert block(f).__name__ == f.__name__ and block(f).__wrapped__ is f
    assert inspect.isgeneratorfunction(block(generator))
    assert inspect.iscoroutinefunction(block(coroutine))
    assert inspect.isasyncgenfunction(block(asynchronous))


# One block many times.


def test_one_block_entered_again_inside_of_itself():
    block = lf.using(dtype="float64")
    with lf.no_grad(), block:
        with lf.using(dtype="float16"):
            with block:
                assert now() == (False, "float64")
            assert now() == (False, "float16")
        assert now() == (False, "float64")

    @block
    def down(n):
        assert now() == WIDE
        return down(n - 1) if n else now()

    assert down(5) == WIDE


def test_one_block_of_several_threads():
    block, barrier = lf.no_grad(), threading.Barrier(2, timeout=60)

    def work(first):
        seen = []
        with block:
            seen.append(now())
            barrier.wait()
            if not first:
                barrier.wait()
            seen.append(now())
        seen.append(now())
        if first:
            barrier.wait()
        return seen

    results = {}
    threads = [threading.Thread(target=lambda k=k: results.update({k: work(k)})) for k in (True, False)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {k: [NO_GRAD, NO_GRAD, DEFAULT] for k in (True, False)}


def test_a_new_thread_has_the_default_settings_and_a_copied_context_those_of_its_origin():
    with lf.no_grad():
        assert in_thread(now) == DEFAULT
        copy = contextvars.copy_context()
        mine = current_tape()
    assert in_thread(lambda: copy.run(now)) == NO_GRAD
    assert in_thread(lambda: copy.run(current_tape)) is not mine


def test_a_thread_in_a_copied_context_records_on_a_tape_of_its_own():
    x = lf.constant([1.0])
    copy = contextvars.copy_context()

    def work():
        y = lf.constant([2.0]) * 3.0
        return y.tape is not x.tape, y.numpy()

    assert in_thread(lambda: copy.run(work)) == (True, [6.0])


def test_exit_stacks_and_blocks_entered_by_hand():
    with ExitStack() as stack:
        stack.enter_context(lf.no_grad())
        stack.enter_context(lf.using(dtype="float64"))
        assert now() == (False, "float64")
    assert now() == DEFAULT
    block = lf.no_grad()
    block.__enter__()
    block.__enter__()
    block.__exit__(None, None, None)
    assert now() == NO_GRAD
    block.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="left more often"):
        block.__exit__(None, None, None)
    first, second = lf.no_grad(), lf.using(dtype="float64")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert now() == WIDE
    second.__exit__(None, None, None)


def test_an_error_in_a_block_leaves_it():
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error), lf.no_grad(), lf.using(dtype="float64"):
            raise error


def test_what_was_recorded_before_a_block_goes_on_after_it():
    x = lf.constant([1.0]) * 2.0
    with lf.no_grad():
        lf.constant([5.0]) * 2.0
    y = x + 1.0
    assert y.tape is x.tape  # the block had a tape of its own
    with lf.no_grad():
        z = y * 3.0
    w = z + y
    assert len({e.tape.number for e in (y, z, w)}) == 3
    assert w.numpy() == [12.0]


# Functions that are differentiated.


def test_differentiated_functions_belong_to_the_context():
    found = {}

    async def work(name):
        def f(x):
            return lf.sum(x * x * x)

        found[name] = lf.grad(lambda x: lf.sum(lf.grad(f)(x)))(np.array([2.0]))
        await asyncio.sleep(0)

    async def main():
        await asyncio.gather(work(1), work(2))

    asyncio.run(main())
    assert found == {1: [12.0], 2: [12.0]}


# Interrupts. One that comes in a callback of a weak reference cannot be caught by anybody; Python prints it.

uncaught = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def nested():
    with lf.no_grad():
        with lf.using(dtype="float64"):
            assert now() == (False, "float64")
        assert now() == NO_GRAD


def decorated():
    assert list(lf.no_grad()(lambda: (yield now()))()) == [NO_GRAD]


def across_a_cell():
    lf.cell(lambda x: lf.tanh(x) * 2.0)(lf.constant([1.0]))


@uncaught
@pytest.mark.parametrize(("program", "step"), [(nested, 1), (decorated, 1), (across_a_cell, 23)])
def test_an_interrupt_of_entering_or_leaving_a_block_leaves_nothing_behind(program, step):
    program()
    count = bytecodes(program, FILES)
    assert count > 100
    for k in range(0, count, step):
        where = interrupted(program, k, FILES)
        assert settings.current() == Settings(), where
        program()


@uncaught
def test_an_interrupt_whose_traceback_is_kept_leaves_nothing_behind_either():
    block, kept = lf.no_grad(), []

    def program():
        with block:
            pass

    for k in range(bytecodes(program, FILES)):
        try:
            _traced(program, k, FILES)
        except KeyboardInterrupt as error:
            kept.append(error)
        with lf.using(fuse="off"):
            assert now() == DEFAULT
        assert settings.current() == Settings()


@uncaught
def test_an_interrupt_inside_of_another_block_leaves_that_as_it_is():
    def program():
        with lf.no_grad():
            pass

    with lf.using(dtype="float64"):
        for k in range(bytecodes(program, FILES)):
            interrupted(program, k, FILES)
            assert now() == WIDE
            with lf.using(fuse="off"):
                assert now() == WIDE
            assert now() == WIDE

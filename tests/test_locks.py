"""Threads that share parameters, streams, signatures and pools, stopped at named points and between any two bytecodes;
what another thread may be recording is refused; a fork beside a running thread."""

import contextvars
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import locks, nn, optim
from lazyflow.record import tape
from tests.interrupts import bytecodes, meanwhile
from tests.places import here

COMPILED = pytest.mark.skipif(not tape.__file__.endswith(".py"), reason="compiled, there are no lines to stop at")


def in_thread(function, context=None):
    """What a function returns, or the error that it raises, in a thread of its own, in a new context or in this."""
    found = []

    def work():
        try:
            found.append(function())
        except lf.LazyflowError as error:
            found.append(error)

    thread = threading.Thread(target=(context or contextvars.Context()).run, args=(work,), name="other")
    thread.start()
    thread.join()
    return found[0]


def every(function, files, most=24):
    """Places to stop a function at: at most so many of its bytecodes in these files, evenly spaced."""
    count = bytecodes(function, files)
    assert count
    return range(0, count, max(1, count // most))


# What is shared.


def test_gradients_of_several_threads_add_up():
    w = lf.Parameter(np.ones(3))

    def add(factor):
        lf.sum(w * float(factor)).backward()

    add(1)
    for k in every(lambda: add(1), ("run/engine.py", "run/forward.py", "run/backward.py")):
        w.grad = here(np.full(3, 5.0))
        meanwhile(lambda: add(10), k, lambda: add(100), ("run/engine.py", "run/forward.py", "run/backward.py"))
        np.testing.assert_array_equal(w.grad, [115.0] * 3)


def test_sparse_gradients_of_several_threads_add_up():
    table = lf.Parameter(np.ones((4, 2)))

    def add(row):
        lf.sum(lf.embedding(table, row)).backward()

    add(0)
    for k in every(
        lambda: add(1),
        (
            "run/engine.py",
            "run/forward.py",
        ),
        20,
    ):
        table.grad = None
        meanwhile(
            lambda: add(1),
            k,
            lambda: add(2),
            (
                "run/engine.py",
                "run/forward.py",
            ),
        )
        np.testing.assert_array_equal(table.grad.to_dense()[:, 0], [0, 1, 1, 0])


def test_threads_at_a_hook_at_the_same_time():
    w, barrier = lf.Parameter(np.ones(2)), threading.Barrier(2, timeout=60)
    w.register_hook(lambda gradient: [barrier.wait(), None][1])
    threads = [threading.Thread(target=lambda k=k: lf.sum(w * float(k)).backward()) for k in (1, 10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_array_equal(w.grad, [11.0, 11.0])


@COMPILED
def test_signatures_are_interned_once_by_several_threads():
    sizes = iter(range(100, 10_000))

    def fresh():
        n = next(sizes)
        return lambda: made.append(lf.tanh(lf.constant(np.ones((n, 1))) * lf.constant(np.ones((n, 1)))) + 1.0)

    made = []
    files = ("record/expr.py", "record/tape.py")
    for k in every(fresh(), files):
        made = []
        some = fresh()
        meanwhile(some, k, some, files)
        one, other = made
        assert one.type is other.type and one.tape is not other.tape
        assert one.tape.signatures.tolist() == other.tape.signatures.tolist()
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_threads_that_train_models_of_their_own():
    def train(seed, steps=2):
        lf_model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        for i, p in enumerate(lf_model.parameters()):
            p.assign(np.random.default_rng([seed, i]).normal(size=p.shape))
        optimizer = optim.Adam(lf_model.parameters(), lr=0.1)
        for _ in range(steps):
            loss = lf.mean([lf.sum(lf_model(lf.constant(np.full(3, 0.1 * k, np.float32))) ** 2) for k in range(5)])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.numpy() for p in lf_model.parameters()]

    alone = {seed: train(seed) for seed in (1, 2)}
    found = {}
    for k in every(lambda: train(1), (), 10):
        meanwhile(lambda: found.update({1: train(1)}), k, lambda: found.update({2: train(2)}))
        for seed in (1, 2):
            for a, b in zip(found[seed], alone[seed], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_root_that_several_threads_differentiate():
    w = lf.Parameter(np.full(3, 0.5))
    root = lf.sum(lf.tanh(lf.tanh(w) * w) * w).forward()
    root.backward()
    once = w.grad
    files = ("run/engine.py", "run/forward.py", "run/backward.py", "run/execute.py", "graph/graph.py")
    for k in every(root.backward, files):
        w.grad = None
        meanwhile(root.backward, k, root.backward, files)
        np.testing.assert_allclose(w.grad, 2 * once, rtol=1e-6)


def test_a_root_that_one_thread_computes_anew_while_another_reads_it():
    w = lf.Parameter(np.full(3, 0.5))
    root = lf.sum(w * w).forward()
    files = ("run/engine.py", "run/forward.py", "graph/graph.py", "record/tape.py", "run/execute.py")
    found = []
    for k in every(lambda: (w.touch(), root.forward()), files):
        w.assign(np.full(3, 0.5))
        root.forward()
        w.assign(np.full(3, 1.0))
        meanwhile(root.forward, k, lambda: found.append(root.item()), files)
        assert found[-1] in (0.75, 3.0) and root.item() == 3.0


def test_what_changes_of_a_module_is_counted_after_it_has_changed():
    from lazyflow.record.expr import STRUCTURE

    module = nn.Module()
    files = ("nn/module.py",)

    def change(value):
        module.value = value

    change(0)
    seen = []
    for k in every(lambda: change(0), files):
        change(k)
        meanwhile(lambda: change(-1), k, lambda: seen.append((STRUCTURE.count, module.value)), files)
        count, value = seen[-1]
        assert module.value == -1
        assert value == -1 or STRUCTURE.count != count  # whoever saw the old value notices


# What is refused.


USES = {
    "tanh": lf.tanh,
    "add": lambda x: x + x,
    "scale": lambda x: x * 2.0,
    "slice": lambda x: x[0:1],
    "index": lambda x: x[0],
    "reshape": lambda x: x.reshape(1, 2),
    "split": lambda x: lf.split(x, 2),
    "list": lambda x: lf.sum([x, x]),
    "stack": lambda x: lf.stack([x, x]),
    "detach": lambda x: x.detach(),
    "cell": lf.cell(lambda x: lf.tanh(x) * 2.0),
    "affine": lambda x: lf.affine(np.ones((2, 2)), np.ones(2), x),
    "forward": lambda x: x.forward(),
    "numpy": lambda x: x.numpy(),
    "backward": lambda x: lf.sum(x).backward(),
}


@pytest.mark.parametrize("use", USES)
def test_an_expression_that_another_thread_may_go_on_from_is_refused(use):
    w = lf.Parameter(np.ones(2))
    x = w * np.ones(2)
    size = len(x.tape)
    error = in_thread(lambda: USES[use](x))
    assert isinstance(error, lf.ThreadError) and "MainThread" in str(error) and "test_locks.py" in str(error)
    assert len(x.tape) == size and lf.tanh(x).tape is x.tape  # nothing has happened to it
    x.forward()
    assert not isinstance(in_thread(lambda: USES[use](x)), lf.LazyflowError)


@pytest.mark.parametrize("use", USES)
def test_a_context_that_was_copied_into_another_thread_takes_no_tape_with_it(use):
    """What is used there was recorded before, so that nothing but a look-up stands between it and the tape."""
    w = lf.Parameter(np.ones(2))
    for _ in range(3):
        USES[use](w * np.ones(2))
    x = w * np.ones(2)
    size = len(x.tape)
    error = in_thread(lambda: USES[use](x), contextvars.copy_context())
    assert isinstance(error, lf.ThreadError) and "MainThread" in str(error) and "test_locks.py" in str(error)
    assert len(x.tape) == size and lf.tanh(x).tape is x.tape


@pytest.mark.parametrize("use", USES)
def test_an_expression_of_a_block_that_was_left_is_anybodys(use):
    w = lf.Parameter(np.ones(2))
    with lf.using():
        x = w * np.ones(2)
    assert not isinstance(in_thread(lambda: USES[use](x)), lf.LazyflowError)


@pytest.mark.parametrize("use", USES)
def test_an_expression_of_a_thread_that_has_ended_is_anybodys(use):
    w = lf.Parameter(np.ones(2))
    x = in_thread(lambda: w * np.ones(2))
    USES[use](x)
    lf.sum(x).backward()
    assert w.grad is not None


def test_constants_are_anybodys():
    x = lf.constant([1.0, 2.0])
    np.testing.assert_array_equal(in_thread(lambda: (x * 2.0).numpy()), [2.0, 4.0])


def test_losses_that_threads_record_are_summed_in_another():
    from concurrent.futures import ThreadPoolExecutor

    w = lf.Parameter(np.ones(2))

    @lf.using()
    def loss(k):
        return lf.sum(w * float(k))

    with ThreadPoolExecutor(3) as pool:
        losses = list(pool.map(loss, range(5)))
        lf.sum(losses).backward()
    np.testing.assert_array_equal(w.grad, [10.0, 10.0])


# Forks.


FORK = """
    import os, signal, sys, threading
    import numpy as np
    import lazyflow as lf
    from lazyflow import nn

    model = nn.Linear(2, 2)

    def step(n):
        x = lf.tanh(model(lf.constant(np.ones(2, np.float32)))) * np.ones((n, 5000, 2), np.float32)  # from the pool
        loss = lf.sum(x)
        loss.backward()
        return loss.item()

    step(1)
    inside, go = threading.Event(), threading.Event()
    lines = []

    def stopping(frame, event, argument):
        # In that line, wait until the other thread is about to fork, which then has to wait for a lock.
        if frame.f_code.co_name != {name!r} or "lazyflow" not in frame.f_code.co_filename or inside.is_set():
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) > {line}:
                inside.set()
                go.wait()
        return stopping

    def work():
        sys.settrace(stopping)
        try:
            step(2)
        finally:
            sys.settrace(None)
            inside.set()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    os.register_at_fork(before=go.set)  # the one registered last runs first
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a safety net: a child that waits for good is killed
        step(3)
        with lf.no_grad():
            lf.tanh(model(lf.constant(np.ones(2, np.float32)))).numpy()
        os._exit(0)
    thread.join()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(lines) > {line}, step(4) is not None)
"""
# Functions to stop in, and at which of their lines: in the middle of what a lock guards, of recording, of running.
POINTS = [
    pytest.param("_waiting", 2, marks=COMPILED),
    pytest.param("give", 2, marks=COMPILED),
    pytest.param("_enroll", 3, marks=COMPILED),
    pytest.param("_interned", 3, marks=COMPILED),
    ("plan", 4),
    pytest.param("execute", 5, marks=COMPILED),
    pytest.param("_note", 3, marks=COMPILED),
    ("_accumulate", 2),
    ("_add_to_gradients", 3),
]


@pytest.mark.host  # CUDA does not survive a fork
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("name", "line"), POINTS)
def test_a_fork_beside_a_thread_that_is_in_the_middle(name, line):
    code = textwrap.dedent(FORK).format(name=name, line=line)
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout.split() == ["0", "True", "True"], found.stderr


class Watched:
    """A lock that another one holds until somebody waits for it; ``waits``: whether they held ``first`` meanwhile."""

    def __init__(self, first):
        self.first, self.waits = first, []

    def acquire(self, blocking=True, timeout=-1):
        if blocking:
            self.waits.append(self.first._is_owned())
        return blocking

    def release(self, *error):
        pass

    __enter__, __exit__ = acquire, release


def test_whoever_forks_keeps_the_lock_of_an_owner_while_it_waits_for_the_next(monkeypatch):
    """Or threads that are always busy, none of them at the same moment, would keep it waiting for good."""
    mine, other = locks.owner(), in_thread(locks.owner)
    watched = Watched(mine.lock.inner)
    monkeypatch.setattr(other.lock, "inner", watched)  # only here: an owner lives on until the collector comes by
    locks._before_fork()
    locks._after_fork()
    assert watched.waits == [True]

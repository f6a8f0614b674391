"""Threads while the engine runs: BLAS has one where the core shares products, and afterwards what it had before."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import core, threads
from lazyflow.run import execute, forward


def counts():
    return [lib.num_threads for lib in threads._libraries()]


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_has_the_threads_of_the_settings_and_gives_them_back(monkeypatch, number):
    seen = []
    run = execute.execute

    def watched(some):
        seen.extend(counts())
        run(some)

    monkeypatch.setattr(forward, "execute", watched)
    before = counts()
    with lf.using(threads=number):
        lf.sum(lf.matmul(lf.Parameter(np.eye(3)), np.ones(3))).backward()
    assert set(seen) <= {number if core.machine is None else 1} and seen
    assert counts() == before


@pytest.mark.skipif(core.machine is None, reason="the core was not compiled")
@pytest.mark.parametrize(("kernels", "slow"), [("Prescott", True), ("SapphireRapids", False), ("of next year", False)])
def test_the_core_is_told_of_a_blas_for_older_processors(kernels, slow, monkeypatch):
    before = core.machine.expect_slow_blas(False)
    monkeypatch.setattr(threads, "_kernels_named_by", lambda lib: kernels)
    try:
        threads._libraries.__wrapped__()
        wide = core.machine.instruction_set() != "baseline"
        assert core.machine.expect_slow_blas(before) == (slow and wide)
    finally:
        core.machine.expect_slow_blas(before)


def test_all_means_as_many_as_there_are_cores():
    with lf.using(threads="all") as options:
        assert options.threads == threads.cores() >= 1


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "many", None])
def test_other_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"threads must be a positive number or 'all'"):
        lf.using(threads=wrong)


def test_threads_come_back_after_an_error():
    before = counts()
    with pytest.raises(RuntimeError), threads.blas_threads(2):
        raise RuntimeError
    assert counts() == before


def test_a_run_is_quiet_and_leaves_nothing_behind():
    before, errors = counts(), np.geterr()
    several = 2 if core.machine is None else 1
    with np.errstate(over="raise"), threads.quietly(2):
        assert np.geterr()["over"] == "ignore" and set(counts()) <= {several}
        with threads.quietly(1):
            assert set(counts()) <= {1}
        assert set(counts()) <= {several}
    with pytest.raises(RuntimeError), threads.quietly(1):
        raise RuntimeError
    assert counts() == before and np.geterr() == errors


def test_threads_of_other_runs_are_minded():
    """One that has what it wants may not take it for given while another changes it."""
    before = counts()
    with threads.quietly(2), threads.quietly(1):
        assert set(counts()) <= {1}
    assert counts() == before


FORK = """
    import os, threading
    from lazyflow import core, threads

    if {plain}:
        core.guards = None  # runs are counted in Python then

    def counts():
        return [lib.num_threads for lib in threads._libraries()]

    def answer(child):
        return child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def work():
        with threads.quietly(1):
            begun.set()
            go.wait()

    for put in threads._setters():
        put(2)
    begun, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    beside = os.fork()
    if beside == 0:
        os._exit(counts() != [2] * len(counts()))
    with threads.quietly(1):
        inside = os.fork()
        while_inside = counts()
    if inside == 0:
        os._exit(while_inside != [1] * len(counts()) or counts() != [2] * len(counts()))
    still = counts()
    go.set()
    thread.join()
    print(answer(beside), answer(inside), set(still), set(counts()))
"""


@pytest.mark.host  # processes of their own
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("plain", [False, True])
def test_a_child_goes_on_without_the_runs_of_other_threads(plain):
    code = textwrap.dedent(FORK).format(plain=plain)
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert found.stdout == "0 0 {1} {2}\n", found.stderr

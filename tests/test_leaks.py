"""Tapes that end leave nothing behind: no objects, no memory, nothing that is interned. A million of them, by the
resident memory of a process: ``python -m benchmarks memory``."""

import gc
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import lazyflow as lf
from benchmarks.memory import SmallSteps
from lazyflow.record import tape
from lazyflow.run.forward import PLANS

COUNT = 10_000
pytestmark = pytest.mark.host  # counts what this process holds


def refused(step, number):
    """A tape whose recording is cut off by an error."""
    with lf.using():
        h = step.record(number)
        with pytest.raises(lf.ShapeError):
            lf.sum([h, lf.tanh(step.w)])


def run(step, count):
    for number in range(count):
        step(number)
        if number % 50 == 0:
            refused(step, number)


def settled():
    """Nothing waits to be let go of: what is interned and in no use goes at the second sweep, cycles when they are
    collected, references to tapes that are no more when there are many."""
    for _ in range(2):
        tape._sweep()
        gc.collect()
    tape._tapes[:] = [ref for ref in tape._tapes if ref() is not None]


def counts():
    settled()
    return {
        "tapes": len(tape._tapes),
        "types": len(tape._TYPES),
        "signatures": sum(ref() is not None for ref in tape._SIGNATURES),
        "numbers of signatures": len(tape._SIGNATURES),
        "plans": len(PLANS.kept),
        "objects": len(gc.get_objects()),
    }


def grown(step, count):
    """By how much what is held grew over ``count`` tapes, kind by kind, and in blocks of memory."""
    before, blocks = counts(), sys.getallocatedblocks()
    run(step, count)
    after = counts()
    return {what: after[what] - before[what] for what in before} | {"blocks": sys.getallocatedblocks() - blocks}


def tapes_leave_nothing():
    """What leaks grows in every round; what the interpreter keeps (free lists, caches) comes once, at any of them."""
    step = SmallSteps()
    run(step, 2000)
    rounds = [grown(step, COUNT // 4) for _ in range(6)]
    least = {what: min(round[what] for round in rounds) for what in rounds[0]}
    allowed = {"objects": 20, "blocks": COUNT // 100}  # two blocks an error, or one in 20 tapes, would be seen
    assert all(growth <= allowed.get(what, 0) for what, growth in least.items()), rounds


def memory_that_python_gives_is_given_back():
    """The columns of tapes among it."""
    step = SmallSteps()
    run(step, 2000)
    tracemalloc.start()
    try:
        run(step, 1000)
        settled()
        before, _ = tracemalloc.get_traced_memory()
        held = [step.record(k) for k in range(7)]
        more, _ = tracemalloc.get_traced_memory()
        assert more > before + 7 * 100
        del held
        run(step, 1000)
        settled()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after <= before + 300_000  # a tape takes hundreds of bytes


@pytest.mark.parametrize(
    "check", [tapes_leave_nothing, memory_that_python_gives_is_given_back], ids=lambda f: f.__name__
)
def test_in_a_process_of_its_own(check):
    """What other tests have left would be counted, too, and go in the middle."""
    code = f"from tests import test_leaks; test_leaks.{check.__name__}()"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""How a process ends: nothing is printed by what is still there when the names of modules are gone."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.host  # processes of their own

BEGIN = """
    import sys
    import numpy as np
    import lazyflow as lf
    from lazyflow import nn

    layer = nn.Linear(100, 200)
    cell = lf.cell(lambda x, h: lf.tanh(layer(x) + h))

    def step():  # large enough for buffers of the pool, in arenas and in what a cell keeps
        rows = [cell(np.ones((500, 100), np.float32), np.ones((500, 200), np.float32)) for k in range(2)]
        loss = lf.sum(lf.stack(rows))
        loss.backward()
        return loss
"""

# What keeps something until the names of modules, and at last those of `sys`, are gone.
KEPT = {
    "in sys": "sys.kept = step(), layer, cell",
    "in a context": "from contextvars import ContextVar\nsys.kept = ContextVar('kept')\nsys.kept.set([step(), layer])",
    "a parameter alone": "sys.kept = lf.Parameter([1.0])\nassert (sys.kept * 2.0).item() == 2.0",
    "a generator in a block": """
        def steps():
            with lf.using(dtype="float64"):
                yield step()
        sys.kept = steps()
        next(sys.kept)
    """,
    "a decorated generator": """
        @lf.using(dtype="float64")
        def steps():
            yield step()
        sys.kept = steps()
        next(sys.kept)
    """,
    "a decorated coroutine": """
        import types
        @types.coroutine
        def wait():
            yield
        @lf.using(dtype="float64")
        async def work():
            await wait()
        sys.kept = work()
        sys.kept.send(None)
    """,
    "a decorated asynchronous generator": """
        @lf.using(dtype="float64")
        async def steps():
            yield step()
        sys.kept = steps()
        try:
            sys.kept.asend(None).send(None)
        except StopIteration:
            pass
    """,
    "threads that go on": """
        import threading
        begun = threading.Event()
        def work():
            while True:
                begun.set()
                lf.map(lambda k: step().item(), range(3))
        threading.Thread(target=work, daemon=True).start()
        begun.wait()
    """,
}


def script(*parts):
    code = "\n".join(textwrap.dedent(part) for part in parts)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("kept", KEPT)
def test_a_process_ends_without_a_word(kept):
    ended = script(BEGIN, KEPT[kept])
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.peer
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_process_that_has_imported_torch_first_ends_without_a_word():
    ended = script("import torch", BEGIN, "kept = step()")
    assert (ended.returncode, ended.stderr) == (0, "")

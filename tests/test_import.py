"""What ``import lazyflow`` imports, and what only comes when it is named. Each in a fresh interpreter."""

import subprocess
import sys

import pytest

import lazyflow as lf

LATER = (
    "lazyflow.data",
    "lazyflow.io",
    "lazyflow.nn",
    "lazyflow.optim",
    "lazyflow.train",
    "lazyflow.inspect.unchanged",
)
OTHERS = (
    *(
        "argparse",
        "doctest",
        "importlib.metadata",
        "json",
        "logging",
        "matplotlib",
        "numpy.random",
        "pathlib",
        "safetensors",
    ),
    *("statistics", "tempfile", "threadpoolctl", "tqdm", "unittest"),
)


def ran(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_an_import_brings_what_every_program_needs_alone():
    """With what a plain NumPy brings left out; tqdm alone asks for all installed packages, 40 ms."""
    found = ran("import sys, numpy\nold = set(sys.modules)\nimport lazyflow\nprint(*(set(sys.modules) - old))")
    assert not {*found} & {*LATER, *OTHERS}


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("import lazyflow as lf; print(lf.nn.Linear.__name__, lf.nn is lf.nn)", ["Linear", "True"]),
        (
            "from lazyflow import data, nn, optim, train; print(data.__name__, train.fit.__name__)",
            ["lazyflow.data", "fit"],
        ),
        (
            "from lazyflow import *; print(nn.__name__, save.__name__, compare.__name__)",
            ["lazyflow.nn", "save", "compare"],
        ),
        ("import lazyflow.optim; print(lazyflow.optim.Adam.__name__)", ["Adam"]),
        ("import lazyflow as lf; import lazyflow.io; print(lf.load is lazyflow.io.load)", ["True"]),
        ("import lazyflow as lf; print({*lf.__all__} <= {*dir(lf)}, hasattr(lf, 'nothing'))", ["True", "False"]),
        ("import lazyflow as lf; print(all(getattr(lf, n) is getattr(lf, n) for n in lf.__all__))", ["True"]),
        ("import pickle, lazyflow as lf; print(pickle.loads(pickle.dumps(lf.save)) is lf.save)", ["True"]),
        ("from lazyflow.compare import compare; import lazyflow as lf; print(lf.compare is compare)", ["True"]),
        ("from lazyflow.map import map; import lazyflow as lf; print(lf.map is map)", ["True"]),
    ],
)
def test_what_is_imported_later_is_there_however_it_is_asked_for(code, printed):
    assert ran(code) == printed


def test_a_cell_sees_what_its_body_is_the_first_to_name():
    code = """
import numpy as np
import lazyflow as lf

@lf.cell
def body(x):
    return lf.nn.functional.relu(x) * 2

x = lf.constant(np.array([-1.0, 2.0], np.float32))
print(body(x).numpy().tolist()[1], body(x).numpy().tolist()[1])
lf.nn.functional.relu = lf.tanh
print(body(x).numpy()[0] < 0)
"""
    assert ran(code) == ["4.0", "4.0", "True"]


def test_what_is_no_name_is_an_error_that_says_so():
    with pytest.raises(AttributeError, match="module 'lazyflow' has no attribute 'nothing'"):
        lf.nothing  # noqa: B018


STALE = """
import sys, types
stale = types.ModuleType("lazyflow.record.expr")
stale.__file__ = "lazyflow/record/expr.cpython-311.so"
sys.modules[stale.__name__] = stale
try:
    import lazyflow
except ImportError as error:
    print(error)
"""


def test_what_was_compiled_of_older_sources_says_so():
    said = " ".join(ran(STALE))
    assert said.startswith("lazyflow.record.expr: compiled modules are older than their sources: run `python -m pip")

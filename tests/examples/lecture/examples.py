"""The lecture's programs as the tests load them."""

import runpy
from pathlib import Path

import lazyflow as lf

FOLDER = Path(lf.__file__).parents[1] / "examples" / "lecture"


def source(name):
    """The text of a program."""
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def names(name):
    """What a program defines."""
    return runpy.run_path(str(FOLDER / f"{name}.py"))

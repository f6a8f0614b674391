"""``--device``: where the tests compute; ``--cases``: how many of each. See docs/testing.md."""

import functools
from pathlib import Path

import numpy as np

# An extension stands beside the source of these, and is what is imported: tests/core/test_docstrings.py runs their
# examples.
collect_ignore = [
    str(types.with_suffix(".py").relative_to(Path(__file__).parent))
    for types in (Path(__file__).parent / "lazyflow").rglob("*.pxd")
]

DEVICES = ("cpu", "simulated", "cuda:0")
COMPARISONS = ("assert_allclose", "assert_array_equal", "assert_array_almost_equal", "assert_equal")


def _fetching(compare):
    """A comparison of NumPy's that takes arrays of CuPy, too: to look at them is the test's own wish."""

    @functools.wraps(compare)
    def fetching(*args, **kwargs):
        return compare(*(a.get() if hasattr(a, "get") and hasattr(a, "shape") else a for a in args), **kwargs)

    return fetching


def pytest_addoption(parser):
    """The options themselves."""
    parser.addoption(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where tests compute: cpu; cuda:0, a GPU with CuPy; simulated, a stand-in for CuPy that needs no GPU",
    )

    parser.addoption(
        "--cases",
        type=int,
        metavar="N",
        help="of each test that has more, about N of its parameters, chosen by a hash of their names, and N examples "
        "of hypothesis; those marked gpu are left whole",
    )


def pytest_configure(config):
    """The simulator takes CuPy's place before anything asks for it."""
    if config.option.device == "simulated":
        from tests import simcupy

        simcupy.install()
    if config.option.device != "cpu":
        for name in COMPARISONS:
            setattr(np.testing, name, _fetching(getattr(np.testing, name)))

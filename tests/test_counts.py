"""What a training step asks of a device, against `counts.json`: figures that may only fall.

Whoever brings one down writes the new figure there; ``python -m tests.counted`` prints them, and the lines behind them.
"""

import functools
import json
import sys
from pathlib import Path

import pytest

from tests import simcupy
from tests.counted import PROGRAMS, TREEBANK, figures, seen_in_step, seen_in_treebank

pytestmark = pytest.mark.gpu
TABLE = json.loads(Path(__file__).with_name("counts.json").read_text())
treebank = functools.cache(seen_in_treebank)


@pytest.mark.parametrize("name", [*PROGRAMS, *TREEBANK])
def test_a_step_asks_for_no_more_than_the_table_says(name):
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    seen = seen_in_step(name) if name in PROGRAMS else treebank(name)[0]
    found = figures(seen)
    more = {what: (count, TABLE[name][what]) for what, count in found.items() if count > TABLE[name][what]}
    assert not more, f"{name}: found, allowed: {more}\n{seen.table()}"
    assert not seen.implicit, f"arrays went to the device unasked\n{seen.table()}"


def test_the_table_has_a_row_for_each_program():
    assert set(TABLE) == {*PROGRAMS, *TREEBANK}


@pytest.mark.parametrize("name", [name for name, (form, *_) in TREEBANK.items() if form == "cell"])
def test_a_level_of_a_recurrent_cell_is_a_few_launches(name):
    """A gather, a product and a kernel, in either direction, and some for all of them."""
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    seen, levels = treebank(name)
    assert seen.launches <= 6 * levels + 30, (seen.launches, levels)


def test_all_levels_of_a_recurrent_cell_may_be_one_launch():
    """Forward and backward, whatever their number is."""
    if sys.modules.get("cupy") is not simcupy.namespace.CUPY:
        pytest.skip("only the simulator counts: --device simulated")
    (seen, levels), (usual, _) = treebank("64 trees, persistent"), treebank("64 trees")
    assert seen.kinds["RawKernel phase"] == seen.kinds["RawKernel phase_back"] == 1
    assert seen.launches <= usual.launches - 4 * (levels - 1), (seen.launches, usual.launches, levels)

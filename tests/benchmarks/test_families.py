"""The graph generators: well formed, reproducible, and of the recurrences that they are named after."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import families
from tests.plan import reference_schedules as reference


def pairs(nodes):
    return reference.as_pairs(nodes.signatures, nodes.starts, nodes.operands)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_operands_come_before_their_users(name):
    nodes = families.FAMILIES[name](3, 1)
    assert len(nodes) > 30
    assert all(operand < number for number, (_, operands) in enumerate(pairs(nodes)) for operand in operands)
    assert sorted(set(nodes.signatures.tolist())) == list(range(nodes.signature_count))


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_seed_is_a_graph(name):
    one, same, other = (families.FAMILIES[name](2, seed) for seed in (1, 1, 2))
    assert all(
        np.array_equal(getattr(one, column), getattr(same, column)) for column in ("signatures", "starts", "operands")
    )
    assert not np.array_equal(one.operands, other.operands)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_batching_whole_minibatches_pays(name):
    alone, together = (families.FAMILIES[name](examples, 1) for examples in (1, 8))
    fewest = reference.lower_bound(pairs(together))
    assert fewest <= len(reference.by_depth(pairs(together))) < len(together) / 2
    assert len(alone) < len(together)


def test_a_file_of_families_can_be_loaded(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("FAMILIES = {'pair': lambda examples, seed: [(seed, [])] * examples + [('add', [0, 1])]}\n")
    nodes = families.load(path)["pair"](2, 7)
    assert pairs(nodes) == [(0, []), (0, []), (1, [0, 1])]

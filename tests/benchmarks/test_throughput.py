"""Comparing models: ratios to references, and what a benchmark's table shows of them."""

from __future__ import annotations

import numpy as np
import pytest

import lazyflow as lf
from benchmarks import lazyflow_tree_gru, throughput, tree_lstm, trees
from benchmarks.throughput import Round


def rounds(*speeds):
    return [Round(speed, {"record": 1.0, "schedule": 1.0, "forward": 6.0}) for speed in speeds]


def test_a_reference_is_the_faster_of_its_names():
    measured = {"ours": rounds(6.0, 6.0, 6.0), "slow": rounds(1.0, 1.0, 1.0), "fast": rounds(3.0, 2.0, 1.0)}
    references = {"peer": ["slow", "fast", "absent"], "nobody": ["absent"]}
    assert throughput.ratios(measured, references) == {
        "ours": {"peer": 3.0},
        "slow": {"peer": 0.5},
        "fast": {"peer": 1.0},
    }


def test_summaries_are_medians():
    found = throughput.summarised({"ours": rounds(1.0, 5.0, 2.0)}, {})["ours"]
    parts = {"ms": {"record": 1.0, "schedule": 1.0, "forward": 6.0}, "before_kernels": 0.25}
    assert found == {"per_s": 2.0, "rounds": [1.0, 5.0, 2.0], "ratios": {}, **parts}


def test_inference_has_no_parts():
    assert throughput.summarised({"ours": [Round(1.0, {})]}, {})["ours"]["before_kernels"] == 0


@pytest.mark.parametrize(("kind", "cells"), [("lstm", 2 * 3 * 10 + 1 * 5 * 8), ("gru", 2 * 2 * 10 + 1 * 4 * 8)])
def test_operations_of_a_tree(kind, cells):
    word = trees.Tree(0, 1, ())
    options = type("Options", (), {"embedding": 10, "hidden": 4})
    per_node = 3 * trees.CLASSES * 4
    assert tree_lstm.operations(kind, trees.Tree(0, -1, (word, word)), options) == 6 * (4 * cells + per_node)


def test_the_users_own_cell_learns():
    model = lazyflow_tree_gru.TreeGRU(50, 6, 4, trees.CLASSES)
    drawn = trees.synthetic(5, 1, 50)
    losses = [model.train_step(drawn) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert model.infer(drawn).shape == (5, trees.CLASSES)
    model.keep(drawn)
    assert model.train_step(drawn) < losses[-1]


def test_the_users_own_cell_computes_the_loss_of_its_cell_beside_it():
    model, tree = lazyflow_tree_gru.TreeGRU(50, 6, 4, trees.CLASSES), trees.synthetic(1, 3, 50)[0]
    nodes, losses = model.nodes, []

    def state(tree):
        h = nodes.cell(*map(state, tree.children)) if tree.children else nodes.cell.leaf(nodes.words(tree.word))
        losses.append(lf.cross_entropy(nodes.head(h), tree.label))
        return h

    logits = nodes.head(state(tree)).numpy()
    np.testing.assert_allclose(model.loss(tree).numpy(), lf.sum(losses).numpy(), rtol=1e-5)
    np.testing.assert_allclose(model.outputs(tree)[0].numpy(), logits, rtol=1e-5, atol=1e-6)

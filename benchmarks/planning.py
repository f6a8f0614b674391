"""Microseconds to collect, look for repeats, schedule and plan one tree, and 64, recorded as cells and plainly."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import harness, lazyflow_tree_lstm
from benchmarks.tree_lstm import add_model_arguments
from benchmarks.trees import CLASSES, Tree, load
from lazyflow import core
from lazyflow.graph.graph import collect
from lazyflow.graph.repeats import repeats_merged
from lazyflow.plan.plan import graph_schedule, make
from lazyflow.plan.schedule import Choices

PARTS = ("collect", "repeats", "schedule", "plan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--trees", type=int, nargs="+", default=[1, 64], help="trees a minibatch")
    parser.add_argument("--minibatches", type=int, default=200, help="how many different minibatches, each once")


def lapped(watch: harness.Stopwatch, name: str, part: Callable[[], Any]) -> Any:
    """What a part returns; its seconds go to ``watch``."""
    watch.start()
    found = part()
    watch.lap(name)
    return found


def planned(model: lazyflow_tree_lstm.TreeLSTM, trees: Sequence[Tree], choices: Choices) -> dict[str, float]:
    """Seconds of every part of planning one minibatch, whose ``nodes`` and ``launches`` are counted."""
    watch = harness.Stopwatch()
    root = model.record(trees)
    graph = lapped(watch, "collect", lambda: collect([root]))
    merged = lapped(watch, "repeats", lambda: repeats_merged(graph))
    order = lapped(watch, "schedule", lambda: graph_schedule(merged, "phases", choices))
    plan = lapped(watch, "plan", lambda: make(merged, order))
    return {**watch.take(), "nodes": len(merged), "launches": len(plan.launches)}


def medians(model: lazyflow_tree_lstm.TreeLSTM, trees: Sequence[Tree], size: int, minibatches: int) -> dict[str, float]:
    """Microseconds, and counts, of the median minibatch; nothing else runs in between."""
    choices, found = Choices(), []
    count = max(min(minibatches, len(trees) // size), 1)
    for k in range(-1, count):  # the first one makes what is made once
        found.append(planned(model, trees[max(k, 0) * size : (max(k, 0) + 1) * size], choices))
    middle = {name: statistics.median(one[name] for one in found[1:]) for name in found[0]}
    return {name: 1e6 * value if name in PARTS else value for name, value in middle.items()}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the medians of every form and size."""
    corpus = load(options.data)
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0
    form = "whole arrays" if core.passes is None else "the compiled core"
    start = time.perf_counter()
    results = {}
    for name in lazyflow_tree_lstm.FORMS:
        model = lazyflow_tree_lstm.setup(*sizes, form=name)
        for size in options.trees:
            results[f"{name}, {size} trees"] = medians(model, corpus.train, size, options.minibatches)
    rows = [
        [n, int(f["nodes"]), int(f["launches"]), *(f[p] for p in PARTS), sum(f[p] for p in PARTS)]
        for n, f in results.items()
    ]
    print(f"microseconds by {form} (medians; all in {time.perf_counter() - start:.0f} s)")
    print(harness.table(["", "nodes", "launches", *PARTS, "sum"], rows))
    return {"corpus": corpus.name, "by": form, "microseconds": results}

"""Launches and scheduling time of every strategy on five families of graphs, beside the lower bound."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import families, harness
from lazyflow.plan.schedule import Choices, Dag, Schedule, lower_bound, schedule
from lazyflow.settings import BATCHINGS

MODES = tuple(reversed([way for way in BATCHINGS if way != "none"]))
# Enough calls for what "phases" remembers to show in the median, as it does in a training run.
CALLS = 9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", type=int, nargs="+", default=[64], help="examples a minibatch (default: 64)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the graphs (default: 1)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--families", type=Path, help="a Python file whose FAMILIES to take instead of our own generators"
    )


def as_dag(nodes: families.Nodes) -> Dag:
    """The graph as the scheduler takes it."""
    return Dag(nodes.signatures, nodes.signature_count, nodes.starts, nodes.operands)


def scheduler(dag: Dag, mode: str) -> Callable[[], Schedule]:
    """Schedules the graph by one strategy, remembering from call to call what a training run would remember."""
    choices = Choices()
    return lambda: schedule(dag, mode, choices)


def measure(dag: Dag, modes: list[str]) -> dict[str, dict[str, float]]:
    """Of every mode: ``launches``, ``ms`` once its choices are made, and ``first_ms`` before."""
    found = {}
    for mode in modes:
        run = scheduler(dag, mode)
        first = harness.seconds_of(run, 1)
        found[mode] = {"launches": run().launches, "ms": 1e3 * harness.seconds_of(run, CALLS), "first_ms": 1e3 * first}
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the table and returns what stands in it."""
    chosen = families.load(options.families) if options.families else families.FAMILIES
    results, rows = [], []
    for name, family in chosen.items():
        for examples in options.examples:
            nodes = family(examples, options.seed)
            dag = as_dag(nodes)
            modes = measure(dag, options.modes)
            bound = lower_bound(dag)
            results.append(
                {"family": name, "examples": examples, "nodes": len(nodes), "lower_bound": bound, "modes": modes}
            )
            rows.append(
                [name, examples, len(nodes), bound, *(f"{m['launches']:,} ({m['ms']:.1f})" for m in modes.values())]
            )
    print("launches, and in brackets milliseconds of scheduling")
    print(harness.table(["family", "examples", "nodes", "lower bound", *options.modes], rows))
    return {"seed": options.seed, "families": results}

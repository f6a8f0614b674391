"""Models that look at their own values: `lf.map`, the same by hand, and the peers, one at a time and by hand.

The parser of `examples/parser.py` in a plain loop with an argmax a step: all start with the same weights, and nothing
is timed before losses over two steps of SGD, and trees, agree. Then what a round costs at the beginning and at the end
of a long episode, and what early exit, a stack machine and a sampling decoder gain. CPU seconds of one process,
candidates alternate, ratios are within a round.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.breadth.base import has
from benchmarks.decisions import others, parsing

PARTS = ("parser", "rounds", "gains")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--libraries", nargs="*", choices=list(parsing.PEERS), default=list(parsing.PEERS))
    parser.add_argument("--ud", type=Path, help="folder of a treebank in CoNLL-U; generated sentences without it")
    parser.add_argument("--sentences", type=int, default=256, help="sentences at most")
    parser.add_argument("--batch", type=int, default=32, help="sentences a minibatch")
    parser.add_argument("--rounds", type=int, default=10_000, help="rounds of a long episode")
    parser.add_argument(
        "--repeats", type=int, default=harness.MINIMUM_REPEATS, help="rounds of measuring, at least five"
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes: only to see that it works")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table for each part; returns all rounds, medians and ratios."""
    libraries = [name for name in options.libraries if has(name)]
    missing = [name for name in options.libraries if name not in libraries]
    for name in missing:
        print(f"{name}: not installed")
    results: dict[str, Any] = {"missing": missing}
    if "parser" in options.parts:
        results["parser"] = _parser(options, libraries)
    if "rounds" in options.parts:
        results["rounds"] = _rounds(options)
    if "gains" in options.parts:
        results["gains"] = _gains(options)
    return results


def _parser(options: argparse.Namespace, libraries: list[str]) -> dict[str, Any]:
    task = parsing.task(options.ud, options.sentences, options.batch, options.small)
    found = parsing.candidates(task, libraries)
    parsing.check_equal(task, found)
    launches = parsing.launches(task, found, task.batches[0])
    measured = parsing.measured(task, found, options.repeats)
    print(f"\nparser, {options.batch} sentences a minibatch; sentences a CPU second, and lf.map's multiple of them")
    rows = [
        [name, train["per_s"], train["ratio"], measured["infer"][name]["per_s"], measured["infer"][name]["ratio"]]
        for name, train in measured["train"].items()
    ]
    print(harness.table(["", "training/s", "lf.map /", "inference/s", "lf.map /"], rows))
    print(
        f"one minibatch parsed: {launches.rounds} rounds, {launches.launches} launches, {launches.rows:.1f} rows a "
        f"launch of the scorer; {launches.bound:.1f} if all always ask together, for the longest has most steps",
        flush=True,
    )
    return {"launches": launches._asdict(), **measured}


def _rounds(options: argparse.Namespace) -> dict[str, Any]:
    found = {
        name: others.round_costs(options.rounds, options.batch, grad)
        for name, grad in (("training", True), ("inference", False))
    }
    print(f"\na round of {options.batch} questions beside its kernels and its recording, us; asked: 100 and flat")
    rows = [[name, costs["first"], costs["last"], costs["beside"]] for name, costs in found.items()]
    print(harness.table(["", "at round 1", f"at round {options.rounds:,}", "kernels and recording"], rows), flush=True)
    return found


def _gains(options: argparse.Namespace) -> dict[str, Any]:
    found = others.gains(options.small, options.repeats)
    over = others.overhead(options.small, options.repeats)
    print("\nCPU seconds, and how many times lf.map is faster than one at a time; asked: 5")
    rows = [[name, one["map"], one["loop"], one["ratio"]] for name, one in found.items()]
    print(harness.table(["", "lf.map", "one at a time", "times"], rows))
    print(f"lf.map where nothing is asked for: {over:+.1%}; asked: under 3%", flush=True)
    return {"models": found, "overhead": over}

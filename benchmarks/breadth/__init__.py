"""Models of many kinds, as their users write them, beside PyTorch one at a time and batched by hand.

Every model is written for one example, after the documentation and without tricks; PyTorch's is written twice, one
example at a time, and batched as somebody does who knows how: padded and masked, packed, scattered. All start with the
same weights, and nothing is timed before outputs, and losses over three steps of SGD, agree. Times are CPU seconds of
one process, candidates alternate, ratios are within a round.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.breadth import base


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=base.NAMES, default=list(base.NAMES))
    parser.add_argument("--libraries", nargs="*", choices=["pytorch", "dynet"], default=["pytorch", "dynet"])
    parser.add_argument("--ud", type=Path, help="folder of a treebank in CoNLL-U; generated sentences without it")
    parser.add_argument("--molecules", type=Path, help="folder with dataset-G.csv of ESOL; generated trees without it")
    parser.add_argument(
        "--pairs", type=Path, help="folder with train.ja.gz and train.en.gz; generated pairs without it"
    )
    parser.add_argument("--digits", type=Path, help="folder with optdigits.tra.gz; generated images without it")
    parser.add_argument("--examples", type=int, default=512, help="examples of each model at most")
    parser.add_argument("--batch", type=int, help="examples a minibatch, in place of each model's own")
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS, help="rounds, at least five")
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU seconds of a candidate in a round")
    parser.add_argument("--small", action="store_true", help="tiny sizes: only to see that it works")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table for each model; returns all rounds, medians and ratios."""
    libraries = [name for name in options.libraries if base.has(name)]
    missing = [name for name in options.libraries if name not in libraries]
    for name in missing:
        print(f"{name}: not installed")
    results = {}
    for name in options.models:
        for task in base.modules()[name].tasks(options):
            results[task.name] = _measured(task, options, libraries)
    return {"missing": missing, "models": results}


def _measured(task: base.Task, options: argparse.Namespace, libraries: list[str]) -> dict[str, Any]:
    task = base.sized(task, options)
    found = base.candidates(task, libraries)
    base.check_equal(task, found)
    counts = {name: base.launches(c.module, task.examples[: task.batch]) for name, c in base.plain(found)}
    measured = base.measured(task, found, options.seconds, options.repeats)
    print(f"\n{task.name}, {task.batch} a minibatch, {len(task.examples)} examples; examples a CPU second")
    print(f"asked of training and inference, to PyTorch batched by hand: {task.asked}")
    print(harness.table(base.HEADER, base.rows(measured)))
    for name, (nodes, launches, bound) in counts.items():
        print(
            f"{name}: {nodes:,} nodes of a forward in {launches:,} launches; fewer than {bound:,} cannot be", flush=True
        )
    return {"batch": task.batch, "asked": task.asked, "launches": counts, **measured}

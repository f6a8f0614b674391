"""Training and inference of a binary Tree-LSTM: trees/s of every batching mode and of the peers, and time by part."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness, lazyflow_tree_lstm, peers
from benchmarks.harness import Stopwatch
from benchmarks.trees import CLASSES, Corpus, Tree, load, minibatches
from lazyflow.settings import BATCHINGS

PARTS = ("record", "schedule", "forward", "backward", "update")
DEFAULT = "lazyflow phases"


@dataclass(frozen=True)
class Round:
    """One candidate's share of one round: trees a second, and milliseconds a tree of each part of a step."""

    trees_per_s: float
    parts: Mapping[str, float]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The data and the sizes that several benchmarks share."""
    parser.add_argument(
        "--data", type=Path, help="folder of sentiment trees (train and dev); synthetic trees without it"
    )
    parser.add_argument("--embedding", type=int, default=300, help="size of the embeddings (default: 300)")
    parser.add_argument("--hidden", type=int, default=150, help="size of the hidden states (default: 150)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256], help="trees a minibatch")
    parser.add_argument(
        "--modes", nargs="*", choices=BATCHINGS, default=list(BATCHINGS), help="lazyflow's batching modes"
    )
    parser.add_argument("--peers", nargs="*", choices=sorted(peers.MODULES), default=sorted(peers.MODULES))
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS, help="rounds, at least five")
    parser.add_argument("--seconds", type=float, default=2.0, help="end a candidate's share of a round after so long")
    parser.add_argument("--batches", type=int, default=10**6, help="or after so many minibatches")
    parser.add_argument(
        "--profile", action="store_true", help="write a pyinstrument report of lazyflow's training step"
    )


def models(options: argparse.Namespace, corpus: Corpus) -> tuple[dict[str, peers.TreeModel], list[str]]:
    """The candidates by name, and the names of peers that are not installed."""
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0
    weights = peers.initial_weights(*sizes)
    found: dict[str, peers.TreeModel] = {
        f"lazyflow {mode}": lazyflow_tree_lstm.setup(*sizes, weights, batching=mode) for mode in options.modes
    }
    setups = {name: peers.find(name) for name in options.peers}
    found.update({name: setup(*sizes, weights) for name, setup in setups.items() if setup is not None})
    return found, [name for name, setup in setups.items() if setup is None]


def measure(
    step: Callable[[Sequence[Tree]], object],
    watch: Stopwatch,
    batches: Sequence[Sequence[Tree]],
    limits: tuple[float, int],
    round_: int,
) -> Round:
    """Run minibatches, the same for every candidate of a round, until the seconds or number of ``limits`` are over."""
    seconds, most = limits
    watch.take()
    trees, count = 0, 0
    start = time.perf_counter()
    while ((elapsed := time.perf_counter() - start) < seconds and count < most) or not count:
        batch = batches[(17 * round_ + count) % len(batches)]
        step(batch)
        trees, count = trees + len(batch), count + 1
    return Round(trees / elapsed, {name: 1e3 * s / trees for name, s in watch.take().items()})


def compare(
    candidates: Mapping[str, peers.TreeModel],
    method: str,
    batches: Sequence[Sequence[Tree]],
    options: argparse.Namespace,
) -> dict[str, list[Round]]:
    """All candidates' rounds of ``train_step`` or ``infer``, alternating."""
    limits = options.seconds, options.batches
    runs = {name: partial(measure, getattr(m, method), m.watch, batches, limits) for name, m in candidates.items()}
    for model in candidates.values():
        getattr(model, method)(batches[0])
    return harness.alternate(runs, options.repeats, f"{method}, {len(batches[0])} trees")


def medians(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "trees_per_s": statistics.median(r.trees_per_s for r in rounds),
        "rounds": [r.trees_per_s for r in rounds],
        "ms_per_tree": harness.median_of_parts([r.parts for r in rounds]),
    }


def ratios(rounds: Mapping[str, Sequence[Round]]) -> dict[str, float]:
    """How many times faster `DEFAULT` is than each candidate, paired by round; nothing if it was not measured."""
    speeds = {name: [r.trees_per_s for r in found] for name, found in rounds.items()}
    return (
        {name: harness.paired_ratio(speeds[DEFAULT], speed) for name, speed in speeds.items()}
        if DEFAULT in speeds
        else {}
    )


def report(name: str, train: Mapping[str, Any], infer: Mapping[str, Any]) -> list[object]:
    parts = train["candidates"][name]["ms_per_tree"]
    return [
        name,
        train["candidates"][name]["trees_per_s"],
        train["ratios"].get(name),
        *(parts.get(part) for part in PARTS),
        infer["candidates"][name]["trees_per_s"],
        infer["ratios"].get(name),
    ]


def summarised(rounds: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    return {"candidates": {name: medians(found) for name, found in rounds.items()}, "ratios": ratios(rounds)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table for every size of minibatch; returns all rounds, their medians and the ratios."""
    corpus = load(options.data)
    candidates, missing = models(options, corpus)
    for name in missing:
        print(f"{name}: not installed")
    results = []
    for size in options.batch:
        batches = minibatches(corpus.train, size, seed=0)
        train, infer = (summarised(compare(candidates, method, batches, options)) for method in ("train_step", "infer"))
        results.append({"batch": size, "train": train, "infer": infer})
        print(f"\n{corpus.name}, {size} trees a minibatch; trees/s, times faster 'phases' is, and milliseconds a tree")
        header = ["", "training", "ratio", *PARTS, "inference", "ratio"]
        print(harness.table(header, [report(name, train, infer) for name in candidates]), flush=True)
    if options.profile:
        print(f"profile in {profile(options, corpus)}")
    return {
        "corpus": corpus.name,
        "missing": missing,
        "embedding": options.embedding,
        "hidden": options.hidden,
        "batches": results,
    }


def profile(options: argparse.Namespace, corpus: Corpus) -> Path:
    """Write a pyinstrument report of some seconds of training at the last size of minibatch. Returns its path."""
    from pyinstrument import Profiler

    model = lazyflow_tree_lstm.setup(corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0)
    batches = minibatches(corpus.train, options.batch[-1], seed=0)
    model.train_step(batches[0])
    with Profiler() as profiler:
        measure(model.train_step, model.watch, batches, (options.seconds, options.batches), 0)
    path: Path = options.out / f"tree_lstm-{options.worker}-profile.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(profiler.output_html(), encoding="utf-8")
    return path

"""Examples a second of several models on the same minibatches, alternating: what the model benchmarks share."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness, peers
from benchmarks.harness import Stopwatch
from benchmarks.trees import minibatches
from lazyflow.profile import Profile

PARTS = ("record", "schedule", "forward", "backward", "update")
PLANNING = "record + schedule"
METHODS = {"train": "train_step", "infer": "infer"}


@dataclass(frozen=True)
class Round:
    """One candidate's share of one round: examples a second, and milliseconds an example of each part of a step."""

    per_s: float
    parts: Mapping[str, float]


def add_arguments(parser: argparse.ArgumentParser, examples: str) -> None:
    """The options about minibatches and rounds."""
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256], help=f"{examples} a minibatch")
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS, help="rounds, at least five")
    parser.add_argument("--seconds", type=float, default=2.0, help="end a candidate's share of a round after so long")
    parser.add_argument("--batches", type=int, default=10**6, help="or after so many minibatches")
    parser.add_argument("--kept", action="store_true", help="candidates whose graphs are recorded once, too")
    parser.add_argument(
        "--profile", action="store_true", help="write a pyinstrument report of lazyflow's training step"
    )


def measure(
    step: Callable[[Sequence[Any]], object],
    watch: Stopwatch | Profile,
    batches: Sequence[Sequence[Any]],
    limits: tuple[float, int],
    round_: int,
) -> Round:
    """Run minibatches, the same for every candidate of a round, until the seconds or number of ``limits`` are over."""
    seconds, most = limits
    watch.take()
    examples, count = 0, 0
    start = time.perf_counter()
    while ((elapsed := time.perf_counter() - start) < seconds and count < most) or not count:
        batch = batches[(17 * round_ + count) % len(batches)]
        step(batch)
        examples, count = examples + len(batch), count + 1
    return Round(examples / elapsed, {name: 1e3 * s / examples for name, s in watch.take().items()})


WARM_UP = 20, 2.0  # steps, and seconds, before anything counts: what lazyflow compiles, it compiles in them


def _warm_up(step: Callable[[], object]) -> None:
    steps, seconds = WARM_UP
    start = time.perf_counter()
    for _ in range(steps):
        step()
        if time.perf_counter() - start > seconds:
            break


def compare(
    candidates: Mapping[str, peers.Model[Any]],
    method: str,
    batches: Sequence[Sequence[Any]],
    options: argparse.Namespace,
) -> dict[str, list[Round]]:
    """All candidates' rounds of ``train_step`` or ``infer``, alternating."""
    limits = options.seconds, options.batches
    runs = {name: partial(measure, getattr(m, method), m.watch, batches, limits) for name, m in candidates.items()}
    for model in candidates.values():
        _warm_up(partial(getattr(model, method), batches[0]))
    return harness.alternate(runs, options.repeats, f"{method}, {len(batches[0])} a minibatch")


def ratios(
    rounds: Mapping[str, Sequence[Round]], references: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """How many times faster each candidate is than each reference, paired by round.

    A reference is the faster of the named candidates that were measured; one of which none was is left out.
    """
    speeds = {name: [r.per_s for r in found] for name, found in rounds.items()}
    faster = {
        reference: max((speeds[name] for name in names if name in speeds), key=statistics.median, default=None)
        for reference, names in references.items()
    }
    return {
        name: {to: harness.paired_ratio(speed, base) for to, base in faster.items() if base is not None}
        for name, speed in speeds.items()
    }


def summarised(rounds: Mapping[str, Sequence[Round]], references: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Medians, all rounds and the ratios, for a file."""
    found = ratios(rounds, references)
    return {
        name: {
            "per_s": statistics.median(r.per_s for r in own),
            "rounds": [r.per_s for r in own],
            "ms": harness.median_of_parts([r.parts for r in own]),
            "before_kernels": statistics.median(_before_kernels(r.parts) for r in own),
            "ratios": found[name],
        }
        for name, own in rounds.items()
    }


def _before_kernels(parts: Mapping[str, float]) -> float:
    """The share of recording and scheduling in a training step."""
    total = sum(parts.values())
    return (parts.get("record", 0.0) + parts.get("schedule", 0.0)) / total if total else 0.0


def run(
    options: argparse.Namespace,
    title: str,
    examples: Sequence[Any],
    candidates: Mapping[str, peers.Model[Any]],
    references: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Prints a table for every size of minibatch: examples a second, how many times those of each reference, and
    milliseconds an example by part. Returns all of it."""
    results = []
    for size in options.batch:
        batches = minibatches(examples, size, seed=0)
        found = {
            kind: summarised(compare(candidates, method, batches, options), references)
            for kind, method in METHODS.items()
        }
        results.append({"batch": size, **found})
        print(f"\n{title}, {size} a minibatch; examples/s, as many times those of ..., and milliseconds an example")
        print(_table(candidates, found, references), flush=True)
    return results


def _table(names: Sequence[str] | Mapping[str, Any], found: Mapping[str, Any], references: Mapping[str, Any]) -> str:
    shown = [reference for reference in references if any(reference in c["ratios"] for c in found["train"].values())]
    columns = [f"/ {reference}" for reference in shown]
    header = ["", "training", *columns, *PARTS, PLANNING, "inference", *columns]
    return harness.table(header, [_row(name, found, shown) for name in names])


def _row(name: str, found: Mapping[str, Any], references: Sequence[str]) -> list[object]:
    train, infer = (found[kind][name] for kind in METHODS)
    return [
        name,
        train["per_s"],
        *(train["ratios"].get(reference) for reference in references),
        *(train["ms"].get(part) for part in PARTS),
        f"{train['before_kernels']:.1%}",
        infer["per_s"],
        *(infer["ratios"].get(reference) for reference in references),
    ]


def profile(options: argparse.Namespace, model: peers.Model[Any], examples: Sequence[Any]) -> Path:
    """Write a pyinstrument report of some seconds of training at the last size of minibatch. Returns its path."""
    from pyinstrument import Profiler

    batches = minibatches(examples, options.batch[-1], seed=0)
    model.train_step(batches[0])
    with Profiler() as profiler:
        measure(model.train_step, model.watch, batches, (options.seconds, options.batches), 0)
    path: Path = options.out / f"{options.benchmark}-{options.worker}-profile.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(profiler.output_html(), encoding="utf-8")
    return path

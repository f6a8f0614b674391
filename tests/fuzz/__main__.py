"""``python -m tests.fuzz``: random programs beside an interpreter in NumPy; see docs/testing.md."""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from lazyflow import core
from tests.fuzz.generate import generate
from tests.fuzz.printing import printed
from tests.fuzz.program import Program
from tests.fuzz.reference import Unspecified
from tests.fuzz.run import BATCHINGS, Expected, Failure, Unstable, Variant, check, collect_garbage
from tests.fuzz.shrink import shrunk


def variants(seed: int, count: int) -> list[Variant]:
    """``count`` variants for a program, drawn at random."""
    chance = random.Random(f"variants {seed}")
    fusions = ("numpy", "off", "core", "core") if core.machine is not None else ("numpy", "off")
    forms = ("core", "arrays") if core.passes is not None else ("arrays",)
    found = []
    for _ in range(count):
        fuse = chance.choice(fusions)
        has_core = fuse == "core" or (core.machine is not None and chance.random() < 0.7)
        dedupe = chance.random() < 0.6
        found.append(Variant(chance.choice(BATCHINGS), fuse, dedupe, chance.choice(forms), has_core))
    return found


def minimal(failure: Failure, trials: int) -> Failure:
    """The same failure of a smaller program."""
    smallest = [failure]

    def fails(program: Program) -> bool:
        try:
            found = check(Expected(program), [failure.variant])
        except (Unstable, Unspecified, RecursionError):
            return False
        if found is None or found.kind != failure.kind:
            return False
        smallest[0] = found
        return True

    shrunk(failure.program, fails, trials)
    return smallest[0]


def seeds(arguments: argparse.Namespace) -> Iterator[int]:
    """Numbers of programs from ``--start`` on, until there were enough or the time is over."""
    end = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
    number = arguments.start
    while (end is None or time.monotonic() < end) and (
        arguments.programs is None or number < arguments.start + arguments.programs
    ):
        yield number
        number += 1


def run(arguments: argparse.Namespace) -> int:
    """The number of failures."""
    counts: Counter[str] = Counter()
    failures = 0
    last = arguments.start
    with tqdm(seeds(arguments), unit=" programs", disable=arguments.quiet, mininterval=1.0) as bar:
        for last in bar:
            outcome = one(arguments.seed * 10_000_000 + last, arguments)
            counts[outcome if isinstance(outcome, str) else "failed"] += 1
            if isinstance(outcome, Failure):
                failures += 1
                report(outcome, arguments, last)
                if failures == arguments.most:
                    break
            if last % 500 == 0:
                collect_garbage()
    summary = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    print(f"seed {arguments.seed}, programs {arguments.start} to {last}: {summary or 'none'}")
    return failures


def one(seed: int, arguments: argparse.Namespace) -> str | Failure:
    """The outcome of one program: a word, or a failure."""
    try:
        failure = check(generate(seed), variants(seed, arguments.variants))
    except Unstable:
        return "unstable"
    except Unspecified:
        return "unspecified"
    return failure or "agreed"


def report(failure: Failure, arguments: argparse.Namespace, number: int) -> None:
    """Print a failure as a program that can be pasted."""
    small = minimal(failure, arguments.trials) if arguments.trials else failure
    again = (
        f"python -m tests.fuzz --seed {arguments.seed} --start {number} --programs 1 --variants {arguments.variants}"
    )
    text = f"# {again}\n{printed(small)}"
    tqdm.write(f"\n{text}")
    if arguments.failures:
        with Path(arguments.failures).open("a", encoding="utf-8") as file:
            file.write(text + "\n\n")


def main(given: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long to run (default: 1, or as long as --programs takes)")
    parser.add_argument("--programs", type=int, help="how many programs to run")
    parser.add_argument("--seed", type=int, default=0, help="which programs (default: 0)")
    parser.add_argument("--start", type=int, default=0, help="the first program, to go on where a run was stopped")
    parser.add_argument("--variants", type=int, default=3, help="ways to run each program (default: 3)")
    parser.add_argument("--most", type=int, default=0, help="stop at this many failures (default: never)")
    parser.add_argument("--trials", type=int, default=600, help="runs for making a failure small (default: 600)")
    parser.add_argument("--failures", help="a file to which failures are appended")
    parser.add_argument("--quiet", action="store_true", help="without a progress bar")
    arguments = parser.parse_args(given)
    if arguments.minutes is None and arguments.programs is None:
        arguments.minutes = 1.0
    return 1 if run(arguments) else 0


if __name__ == "__main__":
    gc.freeze()  # what was imported is no garbage, and programs leave little: a tenth of the time
    gc.set_threshold(50_000, 20, 100)
    sys.exit(main())

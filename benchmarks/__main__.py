"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME --help`` tells the options of one."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import (
    accuracy,
    breadth,
    decisions,
    extremes,
    gpu,
    harness,
    language_model,
    launches,
    memory,
    peak_memory,
    planning,
    recording,
    spellings,
    start,
    steps,
    tagger,
    tree_lstm,
)

BENCHMARKS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        tree_lstm,
        tagger,
        language_model,
        breadth,
        decisions,
        launches,
        recording,
        spellings,
        steps,
        start,
        extremes,
        planning,
        memory,
        peak_memory,
        accuracy,
        gpu,
    )
}


def summary(module: ModuleType) -> str:
    """The first line of a benchmark's own text."""
    return (module.__doc__ or "").strip().splitlines()[0]


def thread_count(text: str) -> str:
    """``all`` or a positive number."""
    if text != "all" and not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a positive number of threads or 'all', got {text!r}")
    return text


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure lazyflow, beside its peers.")
    commands = root.add_subparsers(dest="benchmark", metavar="NAME")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=summary(module), description=module.__doc__)
        module.add_arguments(command)
        command.add_argument(
            "--threads", nargs="+", type=thread_count, default=["1"], help="BLAS threads: numbers or 'all'"
        )
        command.add_argument("--out", type=Path, default=harness.RESULTS, help="folder for the results")
        command.add_argument("--worker", help=argparse.SUPPRESS)  # the threads that this process was started with
    return root


def listing() -> str:
    return "\n".join(f"{name:<16}{summary(module)}" for name, module in BENCHMARKS.items())


def run_here(options: argparse.Namespace) -> None:
    """Run one benchmark in this process and save what it returns."""
    results = BENCHMARKS[options.benchmark].run(options)
    print("computed by " + ", ".join(f"{name} ({kind})" for name, kind in harness.kernels().items()))
    print(f"saved to {harness.save(options.benchmark, options.worker, results, options.out)}")


def main(arguments: Sequence[str]) -> int:
    """Each setting of threads runs in a process of its own, for BLAS libraries read theirs when they are loaded."""
    options = parser().parse_args(arguments)
    if options.benchmark is None:
        print(listing())
        return 0
    if options.worker:
        run_here(options)
        return 0
    for threads in options.threads:
        print(f"-- {options.benchmark}, threads: {threads}", flush=True)
        command = [sys.executable, "-m", "benchmarks", *arguments, "--worker", threads]
        if code := subprocess.run(command, env=harness.thread_environment(threads), check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

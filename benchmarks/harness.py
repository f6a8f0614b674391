"""Measuring side by side: alternating runs, medians, paired ratios, tables, and results with their machine.

Everything compared is measured in ONE run, alternating (A B C A B C ...), for a machine's speed drifts by more than the
differences that matter; ratios are taken within each round, and only then is their median.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

import lazyflow as lf

RESULTS = Path(__file__).parent / "results"
MINIMUM_REPEATS = 5
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

T = TypeVar("T")


class Stopwatch:
    """Adds up seconds by name: each lap counts from the lap before it, or from `start`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """The seconds so far; counting begins anew."""
        taken, self.seconds = self.seconds, {}
        return taken


def alternate(candidates: Mapping[str, Callable[[int], T]], repeats: int, title: str = "") -> dict[str, list[T]]:
    """Run every candidate once a round, ``repeats`` rounds in one go; each gets the number of the round.

    Returns what they returned, by name, in the order of the rounds. Raises ``ValueError`` for fewer than five rounds.
    """
    if repeats < MINIMUM_REPEATS:
        raise ValueError(f"a median wants at least {MINIMUM_REPEATS} repeats, got {repeats}")
    found: dict[str, list[T]] = {name: [] for name in candidates}
    with tqdm(total=repeats * len(candidates), desc=title, file=sys.stderr, leave=False, disable=None) as bar:
        for round_ in range(repeats):
            for name, run in candidates.items():
                bar.set_postfix_str(name)
                found[name].append(run(round_))
                bar.update()
    return found


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios within each round.

    >>> paired_ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])
    3.0
    """
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def median_of_parts(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every named part over the rounds.

    >>> median_of_parts([{"forward": 1.0}, {"forward": 3.0}, {"forward": 2.0}])
    {'forward': 2.0}
    """
    return {name: statistics.median(r.get(name, 0.0) for r in rounds) for name in rounds[0]}


def seconds_of(function: Callable[[], object], repeats: int = MINIMUM_REPEATS) -> float:
    """Median seconds of one call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text: the first to the left, the others to the right.

    >>> print(table(["mode", "trees/s"], [["phases", 1234.5], ["none", None]]))
    mode    trees/s
    phases    1,234
    none          -
    """
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ("  ".join(_aligned(i, text, widths[i]) for i, text in enumerate(row)).rstrip() for row in cells)
    return "\n".join(lines)


def _aligned(column: int, text: str, width: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_environment(threads: str) -> dict[str, str]:
    """This process's environment with the BLAS libraries told to use so many threads: a number, or ``"all"``."""
    number = str(cores()) if threads == "all" else threads
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, number)}


def threads_here() -> int:
    """How many threads this process was told to use; all cores if nobody said."""
    return int(os.environ.get(THREAD_VARIABLES[0]) or cores())


def machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    found = lf.info()
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": threads_here(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernels": kernels(),
        "notes": list(found.notes),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def kernels() -> dict[str, str]:
    """For which processor the code was made that computes: of the compiled core, of each BLAS, and of PyTorch and DyNet
    where they were loaded."""
    found = lf.info()
    names = {"lazyflow's core": found.core or "not built"}
    names |= {blas.name: f"{blas.version}, {blas.kernels or 'not said'}" for blas in found.blas}
    if "torch" in sys.modules:
        capability = sys.modules["torch"].backends.cpu.get_cpu_capability()
        names["torch"] = f"{sys.modules['torch'].__version__}, {capability}"
    if "dynet" in sys.modules:
        names["dynet"] = "as it was built: Eigen chooses when it is compiled"
    return names


def cpu_model() -> str:
    """The processor's name as Linux tells it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def save(name: str, threads: str, results: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``<name>-<threads>.json``: the machine and the results. Returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{threads}.json"
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), **results}, indent=1) + "\n", encoding="utf-8")
    return path


def resident_bytes() -> int:
    """Resident memory of this process. Raises ``OSError`` where there is no ``/proc``."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Let the peak that `peak_bytes` tells begin anew. Raises ``OSError`` where Linux's ``/proc`` is not."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: the peak of the resident memory, proc(5)


def peak_bytes() -> int:
    """The most memory that was resident since `forget_peak`, or ever."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

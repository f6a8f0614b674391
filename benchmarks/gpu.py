"""On a GPU, in one command: the tests there, then training of three models beside PyTorch on the same card.

Examples a second at 64, 256 and 1024 a minibatch, recorded anew and with roots kept, host time beside device time,
launches and bytes of every level. The JSON file and the log lie in ``results/gpu`` and name card, driver, versions and
date. What is missing is said, and left out: so is what fails, and what there is no time left for. ``--simulated`` runs
all of it on the simulator of the tests: its times mean nothing, but it counts kernels.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

import lazyflow as lf
from benchmarks import harness, lazyflow_sequence, lazyflow_tree_lstm, peers, sentences, throughput, trees
from benchmarks.harness import Stopwatch
from lazyflow import device as devices
from lazyflow.graph.graph import collect
from lazyflow.plan.plan import Launch, Plan, Rows, reads_of
from lazyflow.record.tape import Signature
from lazyflow.run import forward
from lazyflow.run.way import way_of

DEVICE = "cuda:0"
MODELS = {"tree_lstm": (300, 150), "tagger": (100, 50), "language_model": (256, 256)}  # embedding and hidden size
SUITE_SECONDS = 150
SIZE_SECONDS = 25  # of one size of minibatch, with what PyTorch compiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 1024], help="examples a minibatch")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--embedding", type=int, help="instead of each model's own size")
    parser.add_argument("--hidden", type=int, help="instead of each model's own size")
    parser.add_argument("--examples", type=int, default=1024, help="synthetic trees and sentences (default: 1024)")
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS, help="rounds, at least five")
    parser.add_argument("--seconds", type=float, default=0.6, help="end a candidate's share of a round after so long")
    parser.add_argument("--batches", type=int, default=10**6, help="or after so many minibatches")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing that would end later (default: 8)")
    parser.add_argument("--no-suite", dest="suite", action="store_false", help="leave the tests out")
    parser.add_argument("--simulated", action="store_true", help="on the simulator of the tests, without a GPU")


# What is there, and what is not.


class Log:
    """What is printed, for the file as well; what is missing; and how much time is left."""

    def __init__(self, minutes: float) -> None:
        self.lines: list[str] = []
        self.missing: list[str] = []
        self.ends = time.perf_counter() + 60 * minutes

    def __call__(self, text: str) -> None:
        print(text, flush=True)
        self.lines.append(text)

    def lacks(self, what: str) -> None:
        """Say that something is missing."""
        self.missing.append(what)
        self(f"missing: {what}")

    def succeeds(self, what: str, step: Callable[[], object]) -> bool:
        """Whether it does; an error is said, and ends nothing else: a machine with a GPU may not come again soon."""
        try:
            step()
        except Exception as error:
            self.lacks(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return False
        return True

    def has_time(self, what: str, seconds: float) -> bool:
        """Whether so much is left; if not, it is said."""
        if time.perf_counter() + seconds > self.ends:
            self.lacks(f"{what}: there was no time left for it, see --minutes")
            return False
        return True


def require_device(simulated: bool) -> None:
    """Raise ``SystemExit`` that says what is missing: CuPy, a driver, or a device."""
    if simulated:
        from tests import simcupy

        simcupy.install()
    try:
        devices.canonical(DEVICE)
    except lf.DeviceError as error:
        raise SystemExit(f"python -m benchmarks gpu: {error}") from None


def card() -> dict[str, Any]:
    """The card, its driver, and the versions of what runs on it."""
    runtime = devices.array_module(DEVICE).cuda.runtime
    found = runtime.getDeviceProperties(0)
    names = ("cupy-cuda12x", "cupy-cuda13x", "numpy", "torch")
    versions = {name: version for name in names if (version := _version(name))}
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "card": found["name"].decode(),
        "memory_gib": round(found["totalGlobalMem"] / 2**30, 1),
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "versions": {"python": platform.python_version(), "lazyflow": lf.__version__, **versions},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_device(simulated: bool) -> tuple[str | None, str]:
    """Where PyTorch runs, None if nowhere, and what is missing then."""
    try:
        import torch
    except ImportError:
        return None, "PyTorch is not installed: pip install 'lazyflow[peers]' with a build for CUDA"
    if torch.cuda.is_available():
        return DEVICE, ""
    if simulated:
        return "cpu", "PyTorch sees no GPU: it runs on the CPU beside the simulator, and without torch.compile"
    return None, f"PyTorch {torch.__version__} sees no GPU: install a build for this driver"


# The tests.


def suite(simulated: bool) -> dict[str, Any]:
    """The tests marked ``gpu``; their last line, and whether they passed."""
    where = "simulated" if simulated else DEVICE
    command = [sys.executable, "-m", "pytest", "--device", where, "-m", "gpu", "-q", "--tb=short"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SUITE_SECONDS, check=False)
        text, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        text, code = f"{(error.stdout or b'').decode()}\nended after {SUITE_SECONDS} s", -1
    return {"passed": code == 0, "summary": text.strip().splitlines()[-1:], "log": text.splitlines()[-200:]}


# Candidates.


class OnDevice:
    """A candidate whose steps end when the device has finished. Keeps the host's and the device's milliseconds."""

    def __init__(self, step: Callable[[Sequence[Any]], object], clock: Any) -> None:
        self.watch, self.step, self.clock = Stopwatch(), step, clock
        self.host: list[float] = []
        self.device: list[float] = []

    def train_step(self, examples: Sequence[Any]) -> None:
        """One step."""
        began, start = self.clock.mark(), time.perf_counter()
        self.step(examples)
        self.host.append(1e3 * (time.perf_counter() - start))
        self.device.append(self.clock.milliseconds_since(began))


class Clock:
    """Marks in the queue of a device. ``cuda``: CuPy's events, or PyTorch's made alike."""

    def __init__(self, event: Callable[[], Any], between: Callable[[Any, Any], float]) -> None:
        self.event, self.between = event, between

    def mark(self) -> Any:
        """A mark behind all work so far."""
        event = self.event()
        event.record()
        return event

    def milliseconds_since(self, began: Any) -> float:
        """Wait for all work so far; the time of the device from ``began`` on."""
        ended = self.mark()
        ended.synchronize()
        return self.between(began, ended)


def cupy_clock() -> Clock:
    cuda = devices.array_module(DEVICE).cuda
    return Clock(cuda.Event, cuda.get_elapsed_time)


def torch_clock(device: str) -> Clock:
    import torch

    if device == "cpu":
        nothing = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
        return Clock(lambda: nothing, lambda a, b: 0.0)
    return Clock(lambda: torch.cuda.Event(enable_timing=True), lambda a, b: a.elapsed_time(b))


def task(name: str, options: argparse.Namespace) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any], str]:
    """The examples, the first weights, lazyflow's forms, and the name of PyTorch's class."""
    embedding, hidden = (
        given or own for given, own in zip((options.embedding, options.hidden), MODELS[name], strict=True)
    )
    if name == "tree_lstm":
        corpus = trees.load(None, options.examples)
        weights = peers.initial_weights(corpus.vocabulary_size, embedding, hidden, trees.CLASSES, 0)
        forms = {form: lazyflow_tree_lstm.FORMS[form] for form in ("plain", "cell")}
        return corpus.train, weights, forms, "TreeLSTM"
    found = sentences.tagging(None, options.examples) if name == "tagger" else sentences.language(None, 1000)
    sizes = found.vocabulary_size, embedding, hidden, found.classes
    weights = peers.initial_sequence_weights(*sizes, 0, 2 if name == "tagger" else 1)
    forms = {form: lazyflow_sequence.FORMS[form] for form in ("plain", "cell")}
    return found.train[: options.examples], weights, forms, "SequenceLSTM"


def candidates(
    name: str, options: argparse.Namespace, torch_at: str | None, log: Log
) -> tuple[dict[str, OnDevice], Any]:
    """lazyflow's forms and PyTorch's, by name, as far as each can make a step; and the examples."""
    examples, weights, forms, peer = task(name, options)
    found = {}
    for form, make in forms.items():
        found[f"lazyflow {form}"] = OnDevice(make(weights).train_step, cupy_clock())
    persistent = lf.using(persistent=True)(forms["cell"](weights).train_step)
    found["lazyflow persistent"] = OnDevice(persistent, cupy_clock())
    found["lazyflow cell, kept"] = OnDevice(kept(forms["cell"](weights), examples).train_step, cupy_clock())
    if torch_at is not None:
        from benchmarks.peers import torch_on_gpu

        kinds = {"PyTorch eager": False} if torch_at == "cpu" else {"PyTorch eager": False, "PyTorch compiled": True}
        for label, compiled in kinds.items():
            model = getattr(torch_on_gpu, peer)(weights, torch_at, compiled)
            found[label] = OnDevice(model.train_step, torch_clock(torch_at))
    return {
        label: own for label, own in found.items() if log.succeeds(label, partial(own.step, examples[:2]))
    }, examples


def kept(model: Any, examples: Sequence[Any]) -> Any:
    """The model, with the losses of all examples recorded beforehand: a minibatch joins these roots."""
    model.keep(examples)
    return model


# Plans.


def levels(plan: Plan) -> list[dict[str, int]]:
    """Launches, nodes and bytes that are read and written, of every level of the graph from the leaves on.

    A launch stands in the level of its first node; the bytes are those of its operands and its result.
    """
    graph = plan.structure
    depth = np.zeros(len(graph), np.int64)
    for node, (low, high) in enumerate(pairwise(graph.starts.tolist())):
        depth[node] = 1 + depth[graph.base[low:high]].max(initial=-1)
    found: dict[int, dict[str, int]] = {}
    for launch in plan.launches:
        reads = reads_of(plan, launch)
        for nodes in _ranges(launch):
            row = found.setdefault(int(depth[nodes[0]]), {"launches": 0, "nodes": 0, "bytes": 0})
            row["launches"] += 1
            row["nodes"] += len(nodes)
            row["bytes"] += _nbytes(launch.signature, reads, len(nodes))
    return [found[level] for level in sorted(found)]


def _ranges(launch: Launch) -> list[Any]:
    """The nodes of each launch of a series of calls."""
    if launch.calls is None:
        return [launch.nodes]
    _, edges = launch.calls
    return [launch.nodes[low:high] for low, high in pairwise((edges - edges[0]).tolist()) if low < high]


def _nbytes(signature: Signature, reads: Sequence[Any], count: int) -> int:
    kinds = [(o, r) for o, r in zip(signature.operands, reads, strict=True) if o.kind != "int"]
    read = sum(_elements(o, r, count) * o.dtype.itemsize for o, r in kinds)
    return int(read + count * max(signature.type.size, 1) * signature.type.dtype.itemsize)


def _elements(operand: Any, read: Any, count: int) -> int:
    size = devices.elements(operand.shape)
    shared = operand.kind == "shared" or (isinstance(read, Rows) and read.shared)
    return size if shared else size * (read.count if isinstance(read, Rows) else count)


def planned(model: Any, examples: Sequence[Any]) -> list[dict[str, int]]:
    """`levels` of the forward pass of one minibatch."""
    loss = model.record(examples)
    way = way_of([loss], [], lf.settings.current())
    return levels(forward.plan_of(forward.reduced(collect([loss]), way), way.batching, reuse=False))


def counted(step: Callable[[Sequence[Any]], object], examples: Sequence[Any]) -> dict[str, int]:
    """What the simulator counts of one step."""
    from tests import simcupy

    with simcupy.counting() as seen:
        step(examples)
    return {"kernels": seen.launches, "uploads": seen.h2d, "downloads": seen.d2h, "waits": seen.syncs}


# The run.


def one_size(
    found: Mapping[str, OnDevice], examples: Sequence[Any], size: int, options: argparse.Namespace, log: Log
) -> dict[str, Any]:
    """All candidates at one size of minibatch, alternating."""
    batches = trees.minibatches(examples, size, seed=0)
    for candidate in found.values():
        candidate.host, candidate.device = [], []
    rounds = throughput.compare(found, "train_step", batches, options)
    summary = throughput.summarised(rounds, {"PyTorch": [name for name in found if name.startswith("PyTorch")]})
    for name, candidate in found.items():
        summary[name]["host_ms"] = _median(candidate.host)
        summary[name]["device_ms"] = _median(candidate.device)
        if options.simulated and name.startswith("lazyflow"):
            summary[name]["simulated"] = counted(candidate.step, batches[0])
    header = ["", "examples/s", "/ PyTorch", "host ms", "device ms", *(["kernels"] if options.simulated else [])]
    rows = [[n, s["per_s"], s["ratios"].get("PyTorch"), s["host_ms"], s["device_ms"]] for n, s in summary.items()]
    if options.simulated:
        rows = [[*row, summary[row[0]].get("simulated", {}).get("kernels")] for row in rows]
    log(f"\n{len(batches[0])} a minibatch\n{harness.table(header, rows)}")
    return {"batch": size, "train": summary}


def _median(milliseconds: Sequence[float]) -> float:
    """Without the steps before anything counts."""
    return float(np.median(milliseconds[throughput.WARM_UP[0] :] or milliseconds))


def one_model(name: str, options: argparse.Namespace, torch_at: str | None, log: Log) -> dict[str, Any]:
    """One model at all sizes, and the plan of its largest minibatch."""
    log(f"\n== {name}")
    sizes: list[dict[str, Any]] = []
    with lf.using(device=DEVICE):
        found, examples = candidates(name, options, torch_at, log)
        for size in options.batch:
            label = f"{name}, {size} a minibatch"
            if found and log.has_time(label, 0 if options.simulated else SIZE_SECONDS):
                log.succeeds(label, lambda size=size: sizes.append(one_size(found, examples, size, options, log)))
        plain = found.get("lazyflow plain")
        largest = trees.minibatches(examples, options.batch[-1], 0)[0]
        of_levels = [] if plain is None else planned(plain.step.__self__, largest)  # type: ignore[attr-defined]
    if of_levels:
        launches, nbytes = (sum(level[what] for level in of_levels) for what in ("launches", "bytes"))
        log(
            f"\nforward, in plain operations: {len(of_levels)} levels, {launches / len(of_levels):.1f} launches and "
            f"{nbytes / len(of_levels) / 2**20:.2f} MiB a level; each of them is in the JSON file"
        )
    return {"sizes": sizes, "levels": of_levels}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints tables; returns all of it. Raises ``SystemExit`` where there is no device."""
    require_device(options.simulated)
    log, began = Log(options.minutes), time.perf_counter()
    torch_at, missing = torch_device(options.simulated)
    about = card()
    log("\n".join(f"{what}: {value}" for what, value in about.items()))
    if missing:
        log.lacks(missing)
    tests = suite(options.simulated) if options.suite else {"passed": None, "summary": ["left out"], "log": []}
    log(f"tests: {' '.join(tests['summary'])}")
    models: dict[str, Any] = {}
    for name in options.models:
        log.succeeds(name, lambda name=name: models.update({name: one_model(name, options, torch_at, log)}))
    log(f"\n{time.perf_counter() - began:.0f} s in all")
    options.out = options.out / "gpu"
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu-{options.worker}.log"
    path.write_text("\n".join([*log.lines, "", *tests["log"]]) + "\n", encoding="utf-8")
    return {**about, "simulated": options.simulated, "missing": log.missing, "tests": tests, "models": models}

"""What the models of the breadth benchmark share: candidates, equality before speed, CPU seconds, a table's rows."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np

import lazyflow as lf
from benchmarks import harness, lazyflow_model
from lazyflow import optim
from lazyflow.profile import PARTS, Profile

Array = np.ndarray[Any, Any]
LEARNING_RATE = 1e-3  # none of the models diverges: what is not finite takes other paths
STEPS = 3  # of SGD whose losses must agree before anything is timed
NAMES = ("tagger", "molecules", "translation", "transformer", "documents", "perceptron", "convolution", "unet")
LAZYFLOW, ALONE, BATCHED, DYNET = "lazyflow", "PyTorch, one at a time", "PyTorch, batched", "DyNet"


class Module(Protocol):
    """A model as a user of lazyflow writes it, for one example."""

    def loss(self, example: Any) -> lf.Expr:
        """A scalar."""

    def outputs(self, example: Any) -> Sequence[lf.Expr]:
        """What inference asks for."""


class Candidate(Protocol):
    """What is measured."""

    watch: Any

    def train_step(self, examples: Sequence[Any]) -> float:
        """Forward, backward and a step of SGD on the mean loss; returns the loss before."""

    def infer(self, examples: Sequence[Any]) -> Any:
        """The outputs of all examples as NumPy arrays, in their order."""


@dataclass(frozen=True)
class Task:
    """A model, its examples, and what is compared.

    ``asked``: the ratios to hand-batched PyTorch that are aimed at, in training and inference. ``variants``: further
    ways of writing it in lazyflow, by name. ``pytorch``: the name of the module in `benchmarks.breadth.pytorch` whose
    ``model(**sizes)`` has ``loss`` of one example and ``batch_loss`` of many, and ``outputs`` likewise; without
    ``batched`` only one at a time is compared. ``dynet``: the same for DyNet.
    """

    name: str
    batch: int
    asked: str
    examples: Sequence[Any]
    sizes: Mapping[str, int]
    model: Callable[..., Module]
    variants: Mapping[str, Callable[..., Module]] = field(default_factory=dict)
    pytorch: str = ""
    batched: bool = True
    dynet: str = ""
    further: Mapping[str, Callable[..., Candidate]] = field(default_factory=dict)


class Lazily(lazyflow_model.Model[Any]):
    """A module of lazyflow, with SGD."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self.watch = module, Profile(time.process_time)
        self.optimizer = optim.SGD(module.parameters(), lr=LEARNING_RATE)

    def loss(self, example: Any) -> lf.Expr:
        return self.module.loss(example)

    def outputs(self, example: Any) -> list[lf.Expr]:
        return list(self.module.outputs(example))

    def infer(self, examples: Sequence[Any]) -> list[Array]:
        with self.settings(), lf.no_grad():
            if self.kept_outputs:
                self._as_after_an_update()
                return lf.forward([y for example in examples for y in self.kept_outputs[id(example)]])
            return lf.forward([y for example in examples for y in self.outputs(example)])


class Torch:
    """A module of PyTorch, with SGD, one example at a time or all at once."""

    def __init__(self, module: Any, batched: bool) -> None:
        import torch

        torch.set_num_threads(harness.threads_here())
        self.watch = harness.Stopwatch()
        self.module, self.batched, self.torch = module, batched, torch
        self.optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)

    def train_step(self, examples: Sequence[Any]) -> float:
        if self.batched:
            loss = self.module.batch_loss(examples) / len(examples)
            loss.backward()
            value = loss.item()
        else:
            value = sum(self._backward(self.module.loss(example) / len(examples)) for example in examples)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(value)

    def _backward(self, loss: Any) -> float:
        loss.backward()
        return float(loss.item())

    def infer(self, examples: Sequence[Any]) -> list[Array]:
        with self.torch.inference_mode():
            if self.batched:
                return [y.numpy() for y in self.module.batch_outputs(examples)]
            return [y.numpy() for example in examples for y in self.module.outputs(example)]


def torch_module(task: Task, weights: Mapping[str, Array]) -> Any:
    """PyTorch's form of a model, with these weights."""
    import torch

    module = importlib.import_module(f"benchmarks.breadth.pytorch.{task.pytorch}").model(**task.sizes)
    module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return module


def has(library: str) -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec({"pytorch": "torch", "dynet": "_dynet"}[library]) is not None


def candidates(task: Task, libraries: Sequence[str]) -> dict[str, Candidate]:
    """All of a task's, with equal weights."""
    lf.seed(0)
    first = task.model(**task.sizes)
    weights = first.state_dict()  # type: ignore[attr-defined]
    found: dict[str, Candidate] = {LAZYFLOW: Lazily(first)}
    for name, make in task.variants.items():
        found[f"{LAZYFLOW}, {name}"] = Lazily(_loaded(make(**task.sizes), weights))
    kept = Lazily(_loaded(task.model(**task.sizes), weights))
    kept.keep(task.examples)
    found[f"{LAZYFLOW}, kept"] = kept
    for name, wrap in task.further.items():
        found[f"{LAZYFLOW}, {name}"] = wrap(_loaded(task.model(**task.sizes), weights))
    if task.pytorch and "pytorch" in libraries:
        found[ALONE] = Torch(torch_module(task, weights), batched=False)
        if task.batched:
            found[BATCHED] = Torch(torch_module(task, weights), batched=True)
    if task.dynet and "dynet" in libraries:
        found[DYNET] = importlib.import_module(f"benchmarks.breadth.{task.dynet}").setup(weights, **task.sizes)
    return found


def _loaded(module: Any, weights: Mapping[str, Array]) -> Any:
    module.load_state_dict(weights)
    return module


# Equality, before anything is timed.


def check_equal(task: Task, found: Mapping[str, Candidate]) -> None:
    """Raise ``AssertionError`` unless all candidates have the same outputs, and the same losses over steps of SGD."""
    batches = minibatches(task.examples, task.batch, round_=0)
    batches = [batches[k % len(batches)] for k in range(STEPS)]
    outputs = {name: _flat(c.infer(batches[0])) for name, c in found.items()}
    losses = {name: [c.train_step(batch) for batch in batches] for name, c in found.items()}
    for name, candidate in found.items():
        message = f"{task.name}: {name}"
        np.testing.assert_allclose(outputs[name], outputs[LAZYFLOW], rtol=1e-3, atol=1e-4, err_msg=message)
        np.testing.assert_allclose(losses[name][0], losses[LAZYFLOW][0], rtol=1e-4, err_msg=message)
        rtol = getattr(candidate, "tolerance", 1e-4)
        np.testing.assert_allclose(losses[name], losses[LAZYFLOW], rtol=rtol, err_msg=message)


def _flat(outputs: Any) -> Array:
    return np.concatenate([np.asarray(y).ravel() for y in outputs])


# Speed.


def minibatches(examples: Sequence[Any], size: int, round_: int) -> list[list[Any]]:
    """The full minibatches of one order of the examples."""
    order = np.random.default_rng(round_).permutation(len(examples)).tolist()
    size = min(size, len(examples))
    return [[examples[i] for i in order[k : k + size]] for k in range(0, len(order) - size + 1, size)]


@dataclass(frozen=True)
class Share:
    """A candidate's part of a round: examples a CPU second, and milliseconds an example by part."""

    per_s: float
    ms: Mapping[str, float]


def share(method: str, candidate: Candidate, task: Task, seconds: float, round_: int) -> Share:
    """Run the round's minibatches, at least one, until the CPU seconds are over."""
    batches = minibatches(task.examples, task.batch, round_ + 1)
    step = getattr(candidate, method)
    candidate.watch.take()
    start, count, taken = time.process_time(), 0, 0.0
    while not count or (taken < seconds and count < len(batches)):
        found = step(batches[count])
        count += 1
        taken = time.process_time() - start
    assert method == "infer" or np.isfinite(found), f"{task.name}: the loss is {found}"
    examples = count * len(batches[0])
    parts = candidate.watch.take() if method == "train_step" else {}
    return Share(examples / taken, {name: 1e3 * s / examples for name, s in parts.items()})


def measured(task: Task, found: Mapping[str, Candidate], seconds: float, rounds: int) -> dict[str, Any]:
    """Medians of examples a CPU second, and ratios within the rounds, in training and inference."""
    results: dict[str, Any] = {}
    for kind, method in (("train", "train_step"), ("infer", "infer")):
        for candidate in found.values():
            share(method, candidate, task, seconds, -1)  # what is made once, is made here
        runs = {name: partial(share, method, c, task, seconds) for name, c in found.items()}
        alternated = harness.alternate(runs, rounds, f"{task.name}, {kind}")
        results[kind] = {name: _summary(own, alternated) for name, own in alternated.items()}
    return results


def _summary(own: Sequence[Share], all_: Mapping[str, Sequence[Share]]) -> dict[str, Any]:
    speeds = [s.per_s for s in own]
    return {
        "per_s": statistics.median(speeds),
        "rounds": speeds,
        "ms": harness.median_of_parts([s.ms for s in own]),
        "ratios": {
            to: harness.paired_ratio(speeds, [s.per_s for s in all_[to]])
            for to in (ALONE, BATCHED, DYNET)
            if to in all_
        },
    }


HEADER = ("", "training/s", "/ alone", "/ batched", "/ DyNet", *PARTS, "inference/s", "/ alone", "/ batched", "/ DyNet")


def rows(results: Mapping[str, Any]) -> list[list[object]]:
    """The table's rows of one task."""
    found = []
    for name, train in results["train"].items():
        infer = results["infer"][name]
        ratios = [[kind["ratios"].get(to) for to in (ALONE, BATCHED, DYNET)] for kind in (train, infer)]
        parts = [train["ms"].get(part) for part in PARTS]
        found.append([name, train["per_s"], *ratios[0], *parts, infer["per_s"], *ratios[1]])
    return found


def launches(module: Module, examples: Sequence[Any]) -> tuple[int, int, int]:
    """Nodes, launches and their bound of the forward of a minibatch, as `lf.explain` counts."""
    explained = lf.explain(lf.mean([module.loss(example) for example in examples]))
    return explained.nodes, explained.launches, explained.lower_bound


def plain(found: Mapping[str, Candidate]) -> list[tuple[str, Any]]:
    """The candidates of lazyflow that record every minibatch."""
    return [(name, c) for name, c in found.items() if type(c) is Lazily and not c.kept]


def sized(task: Task, options: Any) -> Task:
    """The task with as many examples, and a minibatch of the size, that the options ask for."""
    return replace(task, examples=task.examples[: options.examples], batch=options.batch or task.batch)


def modules() -> dict[str, ModuleType]:
    """The models' modules, by name."""
    return {name: importlib.import_module(f"benchmarks.breadth.{name}") for name in NAMES}

"""Batched against unbatched: how fast a model goes, and whether its values are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from lazyflow import device as devices
from lazyflow import fibers, settings
from lazyflow.device import HostArray
from lazyflow.errors import GradientError, ShapeError
from lazyflow.functions import mean
from lazyflow.inspect.compared import Comparison, Measured, median
from lazyflow.inspect.explain import explain
from lazyflow.inspect.info import info
from lazyflow.ops.sparse import RowSparse
from lazyflow.plan.plan import Plan, dag_of
from lazyflow.plan.schedule import lower_bound
from lazyflow.profile import Profile
from lazyflow.record.expr import Expr, Parameter, moment
from lazyflow.run.engine import forward
from lazyflow.run.map import map as mapped
from lazyflow.settings import BATCHINGS, refuse_in_cells, using

if TYPE_CHECKING:
    from lazyflow.inspect.unchanged import Unchanged
    from lazyflow.optim import Optimizer

__all__ = ["Comparison", "Measured", "compare"]

AnExample = TypeVar("AnExample")

ROUNDS = 5  # the least of which a median says something


def compare(
    loss_of: Callable[[AnExample], Expr],
    examples: Iterable[AnExample],
    batch: int | Sequence[int] = (1, 16, 64, 256),
    modes: Sequence[str] | None = None,
    train: bool = True,
    *,
    optimizer: Optimizer | None = None,
    model: object = None,
    rounds: int = ROUNDS,
    seconds: float = 0.5,
    progress: bool | None = None,
) -> Comparison:
    """How many examples a second your own model computes, batched and unbatched, where the time goes, and whether the
    values are the same.

    ``loss_of(example)``: the loss of one example, an expression with one element; with ``train=False`` any expression.
    ``examples``: the examples, some more than the largest minibatch. ``batch``: sizes of minibatches; of those beyond
    the number of examples, that number is measured. ``modes``: ways of batching, as in
    ``lf.using(batching=...)``; ``"none"`` and the one that holds here, unless given. The other settings are those that
    hold here. Where losses look at their own values, the examples of a minibatch run in a `lazyflow.map`, and under
    ``"none"`` one after another.

    A training step records the losses of a minibatch, computes their mean, its gradients, and, with an ``optimizer``,
    an update. Without one no update is measured. Every size has ``rounds`` rounds (at least five), and one before that
    does not count; in each, all modes in turn run the same minibatches, drawn anew, for about ``seconds`` in the
    slowest mode. ``progress``: whether to show a bar; on a terminal, unless given.

    Nothing changes: the update is that of a copy of the optimizer on copies of its parameters, and parameters,
    gradients, buffers, ``training`` and random generators are afterwards as they were, also after an error or an
    interrupt. What is put back are all parameters that losses rest on, lazyflow's default stream and the generators of
    Python and NumPy, and the modules, streams and generators that ``loss_of`` refers to, or the further ``model``, a
    module or a list of anything that holds some. What else ``loss_of`` changes, a counter or a file, stays changed.

    Returns a `Comparison`: print it. Its columns: examples a second, medians of the rounds, and half of the width of
    their middle half (``±``); the ratio to ``"none"`` on the same minibatches, with a star where not even the middle
    half of the rounds agrees on which is faster; nodes and launches of one minibatch, and the bound below which no
    number of launches can be; milliseconds an example in each part; and the largest difference of losses and gradients
    to those of one example and one operation at a time, over the largest of them: with products summed in another order
    it is some 1e-7 in float32, and a note says where it is more than rounding explains. Raises ``TypeError``,
    ``ValueError``, `ShapeError` and `GradientError` for what does not fit, and what ``loss_of`` raises.

    >>> import lazyflow as lf
    >>> cell, output = lf.nn.GRUCell(4, 4), lf.nn.Linear(4, 2)
    >>> def loss_of(steps):
    ...     h = None
    ...     for x in steps:
    ...         h = cell(lf.constant(x), h)
    ...     return lf.cross_entropy(output(h), 1)
    >>> examples = [[[0.1, 0.2, 0.3, 0.4]] * n for n in (1, 2, 3, 4, 5, 6)]
    >>> found = lf.compare(loss_of, examples, batch=4, seconds=0)
    >>> [(row.batch, row.batching) for row in found.rows]
    [(4, 'none'), (4, 'phases')]
    >>> none, phases = found.rows
    >>> phases.launches < none.launches == none.nodes, phases.differs < 1e-4
    (True, True)
    """
    from tqdm import tqdm  # what most programs do without is imported by those that compare

    from lazyflow.inspect.unchanged import unchanged

    refuse_in_cells("speed is measured", "call lf.compare outside")
    given = _list_of(examples)
    sizes, notes = _sizes(batch, len(given))
    chosen = _modes(modes)
    _check_given(loss_of, train, optimizer, rounds, seconds)
    things = [loss_of, model, *([] if optimizer is None else [optimizer.param_groups])]
    copy = None if optimizer is None else _Copy(optimizer)
    total = len(sizes) * len(chosen) * (2 + rounds)
    with unchanged(things) as state, tqdm(total=total, leave=False, disable=_hidden(progress)) as bar:
        steps = _Steps(loss_of, bool(train), copy, state, Profile())
        rows: list[Measured] = []
        for size in sizes:
            found = _Size(steps, given, size, chosen, rounds, float(seconds), bar)
            rows += found.measured(notes)
    return Comparison(tuple(rows), bool(train), copy is not None, len(given), _machine(), tuple(notes))


# What is given.


def _list_of(examples: Iterable[AnExample]) -> list[AnExample]:
    try:
        found = list(examples)
    except TypeError:
        raise TypeError(
            f"examples must be a list of examples, or what one can be made of, got a {type(examples).__name__}"
        ) from None
    if not found:
        raise ValueError("there are no examples: give at least one, and some more than the largest minibatch")
    return found


def _sizes(batch: int | Iterable[int], examples: int) -> tuple[list[int], list[str]]:
    """The sizes to measure, and what is to be said of others."""
    found = [batch] if isinstance(batch, int) else batch
    if not isinstance(found, Iterable) or isinstance(found, str):
        raise TypeError(f"batch must be a number of examples or several, got {batch!r}")
    asked = list(found)
    wrong = [size for size in asked if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1]
    if wrong or not asked:
        raise ValueError(f"batch must be positive numbers of examples, as in batch=(1, 16), got {batch!r}")
    beyond = [int(size) for size in asked if size > examples]
    notes = [f"minibatches of {', '.join(map(str, beyond))} have all {examples} examples: there are no more"]
    return list(dict.fromkeys(min(int(size), examples) for size in asked)), notes if beyond else []


def _modes(modes: str | Iterable[str] | None) -> list[str]:
    if modes is None:
        here = settings.current().batching
        return ["none", "phases" if here == "none" else here]
    found = [modes] if isinstance(modes, str) else list(modes)
    wrong = [mode for mode in found if mode not in BATCHINGS]
    if wrong or not found:
        raise ValueError(f"modes must be of {', '.join(BATCHINGS)}; got {', '.join(map(repr, wrong)) or 'none'}")
    return list(dict.fromkeys(found))


def _check_given(loss_of: object, train: bool, optimizer: object, rounds: object, seconds: object) -> None:
    from lazyflow.optim import Optimizer

    if not callable(loss_of):
        raise TypeError(f"loss_of must be a function of one example that returns its loss, got {loss_of!r:.80}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be one of lazyflow.optim, as optim.Adam(model.parameters()), got a "
            f"{type(optimizer).__name__}"
        )
    if optimizer is not None and not train:
        raise ValueError("inference has no update: leave optimizer away, or train=False")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < ROUNDS:
        raise ValueError(f"rounds must be a number of at least {ROUNDS}: a median of fewer says little; got {rounds!r}")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds must be a number, 0 or more, got {seconds!r}")


def _hidden(progress: bool | None) -> bool | None:
    """As tqdm has it: None hides the bar where no terminal is."""
    return None if progress is None else not progress


def _machine() -> dict[str, str]:
    found, options = info(), settings.current()
    return {
        "lazyflow": found.version,
        "python": found.python,
        "numpy": found.numpy,
        "core": found.core or "not built",
        "processor": found.processor,
        "blas": ", ".join(f"{blas.name} {blas.version}" for blas in found.blas),
        "device": options.device,
        "threads": str(options.threads),
        "fuse": options.fuse,
    }


# One step.


class _Copy:
    """A copy of an optimizer, whose updates change nothing of the model."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = deepcopy(optimizer)
        self.pairs = list(zip(_parameters(optimizer), _parameters(self.optimizer), strict=True))

    def take_gradients(self) -> None:
        """Those of the parameters become those of the copies."""
        for parameter, copy in self.pairs:
            copy.grad, parameter.grad = parameter.grad, None

    def update(self) -> None:
        """What an update costs."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def _parameters(optimizer: Optimizer) -> Iterator[Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


@dataclass(frozen=True)
class _Steps(Generic[AnExample]):
    """The user's step, in parts."""

    loss_of: Callable[[AnExample], Expr]
    train: bool
    copy: _Copy | None
    state: Unchanged
    profile: Profile
    decides: bool = False  # whether losses ask for values: then the examples of a minibatch run in a `lazyflow.map`

    def using(self, mode: str) -> using:
        """The settings of a mode."""
        return using(batching=mode, grad=self.train, profile=self.profile)

    def record(self, batch: Sequence[AnExample]) -> list[Expr]:
        """The losses of a minibatch, where they decide as batched as everything else in this mode."""
        if self.decides:
            return mapped(self._loss, batch, together=1 if settings.current().batching == "none" else None)
        return [self._loss(example) for example in batch]

    def _loss(self, example: AnExample) -> Expr:
        return self._checked(self.loss_of(example))

    def asks(self, batch: Sequence[AnExample]) -> bool:
        """Whether one of these examples asks for a value."""
        self.state.rewind()
        noting = _Noting(fibers.Mapping(moment(), shared=False), 0)
        context = copy_context()
        context.run(fibers.enter, noting)
        with self.using("none"):
            context.run(settings.SCOPE.set, settings.SCOPE.get())
            for example in batch:
                context.run(self._loss, example)
        self.profile.take()
        return noting.asked

    def _checked(self, loss: object) -> Expr:
        if not isinstance(loss, Expr) or isinstance(loss, Parameter):
            raise TypeError(
                f"loss_of must return the expression of a loss, not its value or a parameter; got a "
                f"{type(loss).__name__}: {loss!r:.80}"
            )
        if self.train and loss.type.size != 1:
            raise ShapeError(
                f"to train, loss_of must return a loss of one element, got shape {loss.shape}: return lf.sum(x) or "
                "lf.mean(x) of it, or pass train=False"
            )
        if self.train and not loss.requires_grad:
            raise GradientError(
                "to train, the loss must reach a parameter with requires_grad=True, which this one does not: pass "
                "train=False to measure inference"
            )
        return loss

    def run(self, batch: Sequence[AnExample], mode: str) -> dict[str, float]:
        """One step; the seconds of its parts."""
        with self.using(mode), self.profile.counting("record"):
            losses = self.record(batch)
            roots = [mean(losses)] if self.train else losses
            with self.profile.counting("forward"):
                forward(roots)
            with self.profile.counting(""):
                found = self.state.hide_gradients(roots)
            if self.train:
                roots[0].backward()
                self._update()
            with self.profile.counting(self._last):
                _wait(found)
        for parameter in found:
            parameter.grad = None
        self.state.touch()  # nothing that is kept counts as computed: in training an update lies between
        return self.profile.take()

    @property
    def _last(self) -> str:
        return "forward" if not self.train else "backward" if self.copy is None else "update"

    def _update(self) -> None:
        if self.copy is not None:
            with self.profile.counting(""):
                self.copy.take_gradients()
            with self.profile.counting("update"):
                self.copy.update()

    def counts(self, batch: Sequence[AnExample], mode: str) -> tuple[int, int, int]:
        """Nodes and launches of a minibatch's forward, and the bound below which no number of launches can be; where
        losses decide, those of all rounds."""
        if self.decides:
            return self._counts_of_rounds(batch, mode)
        with self.using(mode):
            losses = self.record(batch)
            found = explain([mean(losses)] if self.train else losses)
        return found.nodes, found.launches, found.lower_bound

    def _counts_of_rounds(self, batch: Sequence[AnExample], mode: str) -> tuple[int, int, int]:
        plans: list[Plan] = []
        self.profile.plans = plans
        try:
            with self.using(mode):
                losses = self.record(batch)
                forward([mean(losses)] if self.train else losses)
        finally:
            self.profile.plans = None
        self.state.touch()
        self.profile.take()
        counts = [_counts_of(plan) for plan in plans]
        return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)

    def values(self, batches: Sequence[Sequence[AnExample]], mode: str) -> _Values:
        """The losses of the examples, and the gradients of their mean, computed in these minibatches, with the same
        random draws at every call."""
        self.state.rewind()
        losses: list[HostArray] = []
        number = sum(map(len, batches))
        gradients: dict[int, HostArray] = {}
        with self.using(mode):
            for batch, roots in self._recorded(batches):
                losses += forward(roots)
                found = self.state.hide_gradients(roots)
                if self.train:
                    mean(roots).backward(np.full(roots[0].shape, len(batch) / number))
                    _add(gradients, found)
                if not self.decides:
                    self.state.touch()
            self.state.touch()
        self.profile.take()
        return _Values(losses, gradients if self.train else None)

    def _recorded(self, batches: Sequence[Sequence[AnExample]]) -> Iterator[tuple[Sequence[AnExample], list[Expr]]]:
        """The minibatches, each with its losses. Those that decide are recorded all at once: what an example draws is a
        matter of its place among them, however they are batched."""
        if not self.decides:
            yield from ((batch, self.record(batch)) for batch in batches)
            return
        losses = iter(self.record([example for batch in batches for example in batch]))
        yield from ((batch, [next(losses) for _ in batch]) for batch in batches)


def _counts_of(plan: Plan) -> tuple[int, int, int]:
    """Nodes, launches and their bound of one run, without what it knows of earlier ones."""
    graph, dag = plan.structure, dag_of(plan.structure)
    launches = set(plan.schedule.launch[graph.known].tolist())
    kinds = set(graph.signature[graph.known].tolist())
    return len(dag) - len(graph.known), plan.schedule.launches - len(launches), lower_bound(dag) - len(kinds)


class _Noting(fibers.Example):
    """Notes whether a value is asked for; nobody waits."""

    asked = False

    def waits(self) -> bool:
        self.asked = True
        return super().waits()


def _wait(parameters: Sequence[Parameter]) -> None:
    """Until the device has done all that it was asked for."""
    if parameters:
        devices.to_host(parameters[0].stored().reshape(-1)[:1])


def _add(gradients: dict[int, HostArray], parameters: Iterable[Parameter]) -> None:
    """Add the gradients of the parameters to those so far, and forget them."""
    for parameter in parameters:
        if parameter.grad is not None:
            dense = parameter.grad.to_dense() if isinstance(parameter.grad, RowSparse) else parameter.grad
            gradients[id(parameter)] = gradients.get(id(parameter), 0) + devices.to_host(dense)
        parameter.grad = None


# Equality.


@dataclass(frozen=True)
class _Values:
    losses: Sequence[HostArray]
    gradients: Mapping[int, HostArray] | None  # by parameter

    def differences(self, other: _Values) -> tuple[float, float | None]:
        """How much losses and gradients of another computation differ from these."""
        losses = _difference(self.losses, other.losses)
        if self.gradients is None or other.gradients is None:
            return losses, None
        # In one order: which parameters an example reaches first is its own affair, and one that it does not has zeros.
        pairs = [(self.gradients.get(k), other.gradients.get(k)) for k in {**self.gradients, **other.gradients}]
        mine = [np.zeros_like(b) if a is None else a for a, b in pairs]
        others = [np.zeros_like(a) if b is None else b for a, b in pairs]
        return losses, _difference(mine, others)

    @property
    def rounding(self) -> float:
        """What sums of products in another order may differ by: half of the digits."""
        return float(max(np.sqrt(np.finfo(x.dtype).eps) if x.dtype.kind == "f" else 0.0 for x in self.losses))


def _difference(expected: Sequence[HostArray], found: Sequence[HostArray]) -> float:
    """The largest difference, over the largest element; infinite where one is no number, or of another shape.

    >>> _difference([np.array([1.0, 4.0])], [np.array([1.0, 3.0])])
    0.25
    """
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float("inf")
    a, b = (np.concatenate([x.ravel().astype(np.float64) for x in some] or [np.empty(0)]) for some in (expected, found))
    unequal = (a != b) & ~(np.isnan(a) & np.isnan(b))
    if not unequal.any():
        return 0.0
    largest, difference = np.abs(a[np.isfinite(a)]).max(initial=0.0), np.abs(a - b)[unequal].max()
    return float(difference / largest) if np.isfinite(difference) and largest else float("inf")


# One size of minibatch.


class Bar(Protocol):
    """What shows how far it is, as tqdm's."""

    def update(self) -> object: ...

    def set_postfix_str(self, text: str, /) -> object: ...


@dataclass(frozen=True)
class _Size(Generic[AnExample]):
    steps: _Steps[AnExample]
    examples: Sequence[AnExample]
    size: int
    modes: Sequence[str]
    rounds: int
    seconds: float
    bar: Bar

    def measured(self, notes: list[str]) -> list[Measured]:
        """A row for each mode; adds what is to be known about them to the notes."""
        first = self.batches(0, 1)[0]
        if self.steps.asks(first):
            return replace(self, steps=replace(self.steps, decides=True))._measured(first, notes)
        return self._measured(first, notes)

    def _measured(self, first: Sequence[AnExample], notes: list[str]) -> list[Measured]:
        same = self._same(first, notes)
        counts = {mode: self.steps.counts(first, mode) for mode in self.modes}
        rounds = self._rounds()
        none = rounds.get("none")
        rows = [self._row(mode, rounds[mode], none, counts[mode], same[mode]) for mode in self.modes]
        notes += [_noise(row) for row in rows if row.within_noise]
        return rows

    def batches(self, round_: int, count: int) -> list[list[AnExample]]:
        """The minibatches of a round, the same for all modes, and others in every round."""
        order = np.random.default_rng((self.size, round_)).permutation(len(self.examples)).tolist()
        chosen = [self.examples[i] for i in order[: self.size * count]]
        return [chosen[k : k + self.size] for k in range(0, len(chosen), self.size)]

    def _same(self, first: Sequence[AnExample], notes: list[str]) -> dict[str, tuple[float | None, float | None]]:
        """How much the values of each mode differ from those of one example and one operation at a time."""
        alone = [[example] for example in first]
        expected = self.steps.values(alone, "none")
        found: dict[str, tuple[float | None, float | None]] = {}
        for mode in self.modes:
            self._show(f"{mode}: values")
            found[mode] = expected.differences(self.steps.values([first], mode))
            if max(d for d in found[mode] if d is not None) > expected.rounding:
                if max(d for d in expected.differences(self.steps.values(alone, "none")) if d is not None):
                    found[mode] = None, None
                notes.append(_unequal(self.size, mode, *found[mode]))
            self.bar.update()
        return found

    def _rounds(self) -> dict[str, list[_Round]]:
        count = self._count()
        found: dict[str, list[_Round]] = {mode: [] for mode in self.modes}
        for round_ in range(self.rounds + 1):  # the first does not count: what is kept is made in it
            batches = self.batches(round_, count)
            for mode in self.modes:
                self._show(mode)
                parts = [self.steps.run(batch, mode) for batch in batches]
                found[mode].append(_Round.of(parts, self.size * count))
                self.bar.update()
        return {mode: own[1:] for mode, own in found.items()}

    def _count(self) -> int:
        """How many minibatches the slowest mode computes in the given seconds, if there are as many."""
        first = self.batches(0, 1)[0]
        slowest = 0.0
        for mode in self.modes:
            self._show(mode)
            slowest = max(slowest, min(sum(self.steps.run(first, mode).values()) for _ in range(2)))
        return max(1, min(int(self.seconds / slowest), len(self.examples) // self.size))

    def _show(self, text: str) -> None:
        self.bar.set_postfix_str(f"{self.size} a minibatch, {text}")

    def _row(
        self,
        mode: str,
        rounds: Sequence[_Round],
        none: Sequence[_Round] | None,
        counts: tuple[int, int, int],
        same: tuple[float | None, float | None],
    ) -> Measured:
        ratios = None if none is None else tuple(a.per_s / b.per_s for a, b in zip(rounds, none, strict=True))
        ms = {name: median(r.ms.get(name, 0.0) for r in rounds) for name in rounds[0].ms}
        return Measured(self.size, mode, tuple(r.per_s for r in rounds), ratios, *counts, ms, *same)


@dataclass(frozen=True)
class _Round:
    """Examples a second, and milliseconds an example by part."""

    per_s: float
    ms: Mapping[str, float]

    @classmethod
    def of(cls, steps: Sequence[Mapping[str, float]], examples: int) -> _Round:
        """What steps of so many examples took together."""
        seconds: dict[str, float] = {}
        for parts in steps:
            for name, value in parts.items():
                seconds[name] = seconds.get(name, 0.0) + value
        return cls(examples / sum(seconds.values()), {name: 1e3 * s / examples for name, s in seconds.items()})


def _noise(row: Measured) -> str:
    ratios = sorted(row.ratios or ())
    return (
        f"* {row.batch} a minibatch, {row.batching}: the rounds say {ratios[0]:.2f} to {ratios[-1]:.2f} times as fast "
        "as unbatched, which is no difference beyond their noise: more rounds or seconds may tell"
    )


def _unequal(size: int, mode: str, losses: float | None, gradients: float | None) -> str:
    if losses is None:
        return (
            f"{size} a minibatch, {mode}: loss_of gives other values when it is called again for the same examples, so "
            "that nothing can be said of equality: it draws from a random generator that it does not refer to (name it "
            "in model=...), or keeps something from call to call"
        )
    by = f"losses by {losses:.0e}" + ("" if gradients is None else f", gradients by {gradients:.0e}")
    return f"{size} a minibatch, {mode}: values differ by more than rounding from one example at a time: {by}"

"""The parser's loop, once for every library: one sentence at a time, or all of a minibatch in lock-step by hand.

A `Library` has a few verbs; what asks, decides and goes on is the same for all. The decisions are those of
`examples/parser.py`, without its random part, so that every form decides the same and has the same losses.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
LEARNING_RATE = 1e-3


def example(name: str) -> ModuleType:
    """A module of ``examples/``."""
    known = f"benchmarks.decisions.example_{name}"
    if known not in sys.modules:
        path = Path(__file__).parents[2] / "examples" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[known]


class Numbered(NamedTuple):
    """A sentence as numbers of words and tags, the root's behind them, and its tree."""

    words: tuple[int, ...]
    tags: tuple[int, ...]
    gold: Any

    @property
    def length(self) -> int:
        return len(self.words) - 1


class Step(NamedTuple):
    """What was asked for, and what came of it: positions of the outputs, a wrong and a right transition (or None, where
    the right one is far enough ahead), and the one that was taken."""

    at: tuple[int, ...]
    loses: tuple[int, int] | None


class Library(Protocol):
    """One library's parser. A score and a loss are what the library computes with; values are arrays."""

    def begin(self) -> None:
        """A minibatch begins."""

    def encode(self, sentence: Numbered) -> Any:
        """The outputs of one sentence, and in the end what stands for no word."""

    def encode_all(self, sentences: Sequence[Numbered]) -> Any:
        """Of several, batched as by hand."""

    def score(self, outputs: Any, at: Sequence[int]) -> Any:
        """The scores of one step."""

    def score_all(self, outputs: Any, at: Sequence[tuple[int, Sequence[int]]]) -> Any:
        """Of one step of several sentences, given with their numbers."""

    def value(self, scores: Any) -> Array:
        """The values of one step."""

    def values(self, scores: Any) -> Array:
        """Of one step of several sentences, a row each."""

    def margins(self, scores: Any, pairs: Sequence[tuple[int, int, int]]) -> list[Any]:
        """For a row, a wrong and a right transition: losses, one or many."""

    def margin(self, scores: Any, wrong: int, right: int) -> Any:
        """Of one step."""

    def step(self, losses: Sequence[Any], count: int, sentences: int) -> float:
        """Backward and SGD on the sum of ``count`` hinges, for each of the sentences."""


class Oracle:
    """What is decided by values; ``parser`` is the example's, which names transitions and knows what is best."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.state = example("parser").State

    def begin(self, sentence: Numbered) -> Any:
        return self.state(sentence.length)

    def at(self, state: Any) -> tuple[int, ...]:
        """The outputs that a step is scored by."""
        return (*[-1, -1, -1, *state.stack][-3:], state.first)

    def parse(self, values: Array, state: Any) -> None:
        """The best transition."""
        allowed = np.array(state.allowed())[self.parser.moves]
        state.take(*self.parser._named(int(np.argmax(np.where(allowed, values, -np.inf)))))

    def learn(self, values: Array, state: Any, gold: Any) -> tuple[int, int] | None:
        """The wrong and the right transition of a hinge; goes on by a wrong one that is far better."""
        good, bad = self.parser._best(values, state, gold)
        explores = bad >= 0 and values[bad] > values[good] + 1
        state.take(*self.parser._named(bad if explores else good))
        return (bad, good) if bad >= 0 and values[good] < values[bad] + 1 else None


class Alone:
    """One sentence at a time, in the plain loop; ``run`` calls it for all of a minibatch."""

    def __init__(self, library: Any, oracle: Oracle, run: Any = None) -> None:
        self.library, self.oracle = library, oracle
        self.run = run or (lambda function, sentences: [function(sentence) for sentence in sentences])

    def loss(self, sentence: Numbered) -> list[Any]:
        library, oracle = self.library, self.oracle
        outputs, state, losses = library.encode(sentence), oracle.begin(sentence), []
        while not state.is_over():
            scores = library.score(outputs, oracle.at(state))
            pair = oracle.learn(library.value(scores), state, sentence.gold)
            if pair is not None:
                losses.append(library.margin(scores, *pair))
        return losses

    def parse(self, sentence: Numbered) -> list[int]:
        library, oracle = self.library, self.oracle
        library.begin()  # a graph of its own: in DyNet that is a twelfth faster than one of all sentences
        outputs, state = library.encode(sentence), oracle.begin(sentence)
        while not state.is_over():
            oracle.parse(library.value(library.score(outputs, oracle.at(state))), state)
        return list(state.heads)

    def train_step(self, sentences: Sequence[Numbered]) -> float:
        self.library.begin()
        losses = [loss for found in self.run(self.loss, sentences) for loss in found]
        return float(self.library.step(losses, len(losses), len(sentences)))

    def infer(self, sentences: Sequence[Numbered]) -> list[list[int]]:
        with self.library.no_grad():
            return list(self.run(self.parse, sentences))


class Together(Alone):
    """All sentences in lock-step, as one would write it by hand."""

    def train_step(self, sentences: Sequence[Numbered]) -> float:
        library, oracle = self.library, self.oracle
        library.begin()
        outputs, states = library.encode_all(sentences), [oracle.begin(s) for s in sentences]
        losses, count = [], 0
        while live := [k for k, state in enumerate(states) if not state.is_over()]:
            scores = library.score_all(outputs, [(k, oracle.at(states[k])) for k in live])
            values, pairs = library.values(scores), []
            for row, k in enumerate(live):
                pair = oracle.learn(values[row], states[k], sentences[k].gold)
                if pair is not None:
                    pairs.append((row, *pair))
            if pairs:
                losses += library.margins(scores, pairs)
                count += len(pairs)
        return float(library.step(losses, count, len(sentences)))

    def infer(self, sentences: Sequence[Numbered]) -> list[list[int]]:
        library, oracle = self.library, self.oracle
        with library.no_grad():
            library.begin()
            outputs, states = library.encode_all(sentences), [oracle.begin(s) for s in sentences]
            while live := [k for k, state in enumerate(states) if not state.is_over()]:
                values = library.values(library.score_all(outputs, [(k, oracle.at(states[k])) for k in live]))
                for row, k in enumerate(live):
                    oracle.parse(values[row], states[k])
        return [list(state.heads) for state in states]


class Unasked(Alone):
    """The decisions are known from a run before; nothing is asked for in the middle."""

    def __init__(self, library: Any, oracle: Oracle) -> None:
        super().__init__(library, oracle)
        self.known: dict[str, list[list[Step]]] = {}

    def learn(self, sentences: Sequence[Numbered], found: Sequence[Sequence[Step]], kind: str) -> None:
        """Take these decisions from now on."""
        self.known[kind] = [list(steps) for steps in found]

    def train_step(self, sentences: Sequence[Numbered]) -> float:
        losses = []
        for sentence, steps in zip(sentences, self.known["train"], strict=True):
            outputs = self.library.encode(sentence)
            for at, pair in steps:
                scores = self.library.score(outputs, at)
                if pair is not None:
                    losses.append(self.library.margin(scores, *pair))
        return float(self.library.step(losses, len(losses), len(sentences)))

    def infer(self, sentences: Sequence[Numbered]) -> list[list[int]]:
        with self.library.no_grad():
            scores = []
            for sentence, steps in zip(sentences, self.known["infer"], strict=True):
                outputs = self.library.encode(sentence)
                scores += [self.library.score(outputs, at) for at, _ in steps]
            values = iter(self.library.values(scores))
            states = [self.oracle.begin(sentence) for sentence in sentences]
            for state in states:
                while not state.is_over():
                    self.oracle.parse(next(values), state)
        return [list(state.heads) for state in states]


class Noting(Oracle):
    """An oracle that writes its decisions down: ``found``, those of each sentence, in the order in which they began."""

    def __init__(self, parser: Any) -> None:
        super().__init__(parser)
        self.found: list[list[Step]] = []
        self.states: list[Any] = []

    def begin(self, sentence: Numbered) -> Any:
        self.found.append([])
        self.states.append(super().begin(sentence))
        return self.states[-1]

    def note(self, state: Any, step: Step) -> None:
        self.found[next(k for k, known in enumerate(self.states) if known is state)].append(step)

    def parse(self, values: Array, state: Any) -> None:
        self.note(state, Step(self.at(state), None))
        super().parse(values, state)

    def learn(self, values: Array, state: Any, gold: Any) -> tuple[int, int] | None:
        at = self.at(state)
        pair = super().learn(values, state, gold)
        self.note(state, Step(at, pair))
        return pair

"""Random streams: named by a seed, counted, and part of a checkpoint.

Every random node carries the seed of its stream and the count of draws before it, and its value depends on nothing
else: neither on how nodes were batched, nor on the device. So a run that is resumed from a saved stream continues with
the same numbers.

In an example of `lazyflow.map` every stream that was made outside stands for one of the example's own, so that numbers
do not depend on how examples take turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from lazyflow import fibers
from lazyflow.errors import CheckpointError

__all__ = ["Stream", "default_stream", "generator", "seed"]


class Stream:
    """A source of random numbers for dropout, noise and initial weights.

    ``seed``: any integer from 0 to 2**31 - 1.

    >>> a, b = Stream(1), Stream(1)
    >>> a.draw() == b.draw()
    True
    """

    def __init__(self, seed: int) -> None:
        self._check(seed)
        self._maker = fibers.serial()
        self._start(int(seed), 0)

    def _start(self, seed: int, count: int) -> None:
        # One attribute, and a counter that hands out each number once: threads never get the same draw, and no
        # interrupt leaves half a state.
        self._state = seed, itertools.count(count + 1)

    @property
    def seed(self) -> int:
        """Where it started."""
        return self.here()._state[0]

    @property
    def count(self) -> int:
        """How many draws there were."""
        following = int(repr(self.here()._state[1])[len("count(") : -1])  # the one way to look at it without drawing
        return (following - 1) % 2**31

    @staticmethod
    def _check(seed: object) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
            raise ValueError(f"a seed is an integer from 0 to 2**31 - 1, got {seed!r}")

    def here(self) -> Stream:
        """What draws in its place in this context: itself, or, if an example of a `lazyflow.map` runs here and has not
        made it, the example's own stream."""
        example = fibers.current_example()
        return self if example is None else self._of(example)

    def _of(self, example: fibers.Example | None) -> Stream:
        if example is None or self._maker == example.serial:
            return self
        found: Stream | None = example.streams.get(id(self))
        if found is None:
            bases = example.mapping.bases
            if id(self) not in bases:
                bases[id(self)] = self, self._of(example.outer).following()
            found = example.streams[id(self)] = _derived(bases[id(self)][1], example.number)
        return found

    def draw(self) -> tuple[int, int]:
        """Seed and count of the next draw."""
        return self.here().following()

    def following(self) -> tuple[int, int]:
        """As `draw`, of this very stream, whatever runs here."""
        seed, following = self._state
        return seed, next(following) % 2**31

    def generator(self) -> np.random.Generator:
        """A NumPy generator of its own for the next draw (initial weights, shuffling)."""
        return np.random.default_rng(self.draw())

    def reseed(self, seed: int) -> None:
        """Start again from ``seed``."""
        self._check(seed)
        self.here()._start(int(seed), 0)

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint needs."""
        return {"seed": self.seed, "count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where the saved stream stood. Raises `CheckpointError` for a state that is not one."""
        self.check_state_dict(state)
        self.here()._start(int(state["seed"]), int(state["count"]))

    def __getstate__(self) -> dict[str, int]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, int]) -> None:
        self._maker = fibers.serial()
        self._start(state["seed"], state["count"])

    def check_state_dict(self, state: dict[str, int]) -> None:
        """Raise `CheckpointError` for a state that is not one; changes nothing."""
        if not isinstance(state, Mapping) or set(state) != {"seed", "count"}:
            raise CheckpointError(f"a stream's state has seed and count, got {state!r}")
        for name, value in state.items():
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**31:
                raise CheckpointError(f"a stream's {name} is an integer from 0 to 2**31 - 1, got {value!r}")


def _derived(base: tuple[int, int], number: int) -> Stream:
    """The stream of the ``number``-th example. Within a map all seeds differ; with the counts that they begin at, 62
    bits keep the streams of all maps apart."""
    key = _mixed(base[0] << 31 | base[1])
    stream = Stream((key + 0x9E3779B1 * number) % 2**31)
    stream._start(stream._state[0], _mixed(key ^ number) % 2**31)
    return stream


def _mixed(key: int) -> int:
    """64 bits that look like chance (Steele, Lea and Flood 2014, splitmix64)."""
    key = (key + 0x9E3779B97F4A7C15) % 2**64
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    key = (key ^ key >> 27) * 0x94D049BB133111EB % 2**64
    return key ^ key >> 31


_default = Stream(0)


def default_stream() -> Stream:
    """The stream that is used where none is given."""
    return _default


def seed(number: int) -> None:
    """Restart the default stream: initial weights, dropout and noise repeat from here.

    >>> import lazyflow as lf
    >>> lf.seed(1); a = lf.normal((2,)).numpy()
    >>> lf.seed(1); b = lf.normal((2,)).numpy()
    >>> bool((a == b).all())
    True
    """
    _default.reseed(number)


def generator() -> np.random.Generator:
    """A NumPy generator for the default stream's next draw."""
    return _default.generator()

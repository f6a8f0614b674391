"""Where the time of a program goes: recording, scheduling, forward, backward, update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["PARTS", "Profile"]

PARTS = ("record", "schedule", "forward", "backward", "update")


class Profile:
    """Adds up seconds by part, for what runs in ``with lf.using(profile=profile):``.

    The engine counts "schedule" (collecting the graph, repeats, chains, schedule and plan, or finding the plan that is
    kept), "forward" and "backward"; all else belongs to the part that the program has begun with `counting`, and is not
    counted outside of one. ``clock``: what tells the seconds; ``plans``: those that ran, where a list was put there to
    be told. For one thread at a time.

    >>> import lazyflow as lf
    >>> w, profile = lf.Parameter([1.0, 2.0]), Profile()
    >>> with lf.using(profile=profile), profile.counting("record"):
    ...     lf.sum(w * w).backward()
    >>> sorted(profile.take())
    ['backward', 'forward', 'record', 'schedule']
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self.plans: list[Any] | None = None
        self._part = ""  # of what runs now; empty: not counted
        self._since = 0.0

    def switch(self, part: str) -> str:
        """Count for ``part`` from now on; returns what was counted for until now."""
        now, before = self.clock(), self._part
        if before:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before

    @contextmanager
    def counting(self, part: str) -> Iterator[None]:
        """A ``with`` block whose time counts for ``part``, but for what counts for another inside of it."""
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    def take(self) -> dict[str, float]:
        """The seconds so far, by part; counting begins anew."""
        taken, self.seconds = self.seconds, {}
        return taken

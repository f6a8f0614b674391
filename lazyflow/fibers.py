"""For which example of a `lazyflow.map` this code runs.

What runs for an example finds it in the context (`current_example`): the engine, which lets the example wait where a
value is asked for; random streams, of which each example has its own; parameters, which no example may change under
the others.
This file knows of none of them. The loop that runs the examples is `lazyflow.map`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from lazyflow.device import Array, HostArray
from lazyflow.errors import MapError, ThreadError, user_line

_fiber_serials = itertools.count(1)


class Mapping:
    """One call of `lazyflow.map`. ``started``: a moment as versions of parameters have (`lazyflow.record.expr.moment`).
    ``shared``: whether examples take turns, in which ``thread``; ``outer``: the example that the call runs for;
    ``watched``: whether somebody wants to know the lines that ask. ``bases``: of each stream that was drawn from
    inside, that stream, and what those of the examples are derived from."""

    __slots__ = ("bases", "outer", "shared", "started", "thread", "watched")

    def __init__(self, started: int, shared: bool, watched: bool = False) -> None:
        self.started, self.shared, self.watched = started, shared, watched
        self.outer, self.thread = current_example(), threading.get_ident()
        self.bases: dict[int, tuple[object, tuple[int, int]]] = {}


class Example:
    """The ``number``-th example of a map, one that runs from its beginning to its end. ``streams``: those that it draws
    from, by the ``id`` of the stream that each stands for. ``busy``: how many of the engine's methods run for it, which
    may call hooks."""

    busy = 0
    lines: Sequence[str] = ()

    def __init__(self, mapping: Mapping, number: int) -> None:
        self.mapping, self.number, self.serial = mapping, number, next(_fiber_serials)

    @cached_property
    def streams(self) -> dict[int, Any]:
        """Made by the first draw: most examples of a large map draw nothing."""
        return {}

    @property
    def outer(self) -> Example | None:
        """The example that its map was called in."""
        return self.mapping.outer

    def waits(self) -> bool:
        """Whether it may wait here for its values: of examples one after another, whether that may in which their map
        was called. Raises `ThreadError` in a thread that has got its context only."""
        self.require_own_thread()
        return not self.busy and self.outer is not None and self.outer.waits()

    def require_own_thread(self) -> None:
        if self.mapping.thread != threading.get_ident():
            raise ThreadError(
                f"{user_line()}: a value is asked for in a thread that was started inside of example {self.number} of "
                "lf.map, which runs in another: ask for it in the function that is mapped, and hand the thread numbers"
            )

    def wait(self, roots: Sequence[Any], cotangents: Sequence[Array] | None = None) -> bool:
        """Come back when the roots were computed, or, of a backward, from these cotangents, when its gradients were
        added; return whether it was one, and they were."""
        return self.outer is not None and self.outer.wait(roots, cotangents)

    def ask(self, root: Any) -> HostArray | None:
        """Come back with the root's value on the host; None where nobody could compute it."""
        return None if self.outer is None else self.outer.ask(root)


_example: ContextVar[Example | None] = ContextVar("lazyflow.example", default=None)
current_example = _example.get
enter = _example.set


def serial() -> int:
    """The number of the example that this code runs for; 0 outside of a map."""
    example = current_example()
    return 0 if example is None else example.serial


def refuse_change(what: str, version: int = 0) -> None:
    """Raise `MapError` if what has this ``version`` belongs to examples that take turns: they would see a change in an
    order that nobody has written. What the engine does for one of them is no such change."""
    example = current_example()
    while example is not None and not example.busy:
        if example.mapping.shared and version < example.mapping.started:
            raise MapError(
                f"{user_line()}: {what} in example {example.number} of lf.map, while others, which use it too, are in "
                "the middle of theirs: return what is to be done and do it behind lf.map, or map with together=1"
            )
        example = example.outer

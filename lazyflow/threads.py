"""How many threads the compiled core and BLAS use while the engine runs.

The products of small models are too small to share, and BLAS threads that wait for a busy core make them up to hundreds
of times slower; so one thread is the default, whatever the environment says, and ``lf.using(threads=...)`` the one
setting. The core cuts products into parts for its own threads, and BLAS has one: a pool beside it, whose threads look
for work all the time, would take the core's processors away. What NumPy does outside of a run is left alone.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from threadpoolctl import ThreadpoolController

from lazyflow import core
from lazyflow.locks import Lock


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """The BLAS libraries of this process. NumPy's is loaded by now; one that is loaded later is left alone."""
    return tuple(lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Users:
    """The runs of all threads that are in the middle of a `blas_threads` block, and what to go back to behind the
    last: the number is one for the whole process, and the run that came last says it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.wanted: dict[object, int] = {}
        self.before: list[int | None] = []  # of each library
        self.now: list[int | None] = []

    def enter(self, user: object, number: int) -> None:
        with self.lock:
            if not self.wanted:
                self.before = [lib.num_threads for lib in _libraries()]
                self.now = self.before.copy()
            self.wanted[user] = number
            self._set()

    def leave(self, user: object) -> None:
        with self.lock:
            self.wanted.pop(user, None)
            self._set()

    def _set(self) -> None:
        number = next(reversed(self.wanted.values()), None)
        for i, before in enumerate(self.before):
            wanted = before if number is None or before is None else number
            if wanted is not None and self.now[i] != wanted:
                _libraries()[i].set_num_threads(wanted)
                self.now[i] = wanted


_users = _Users()


class blas_threads:
    """Let BLAS use ``number`` threads in the ``with`` block, or one where the core shares products among threads.

    >>> with blas_threads(1):
    ...     {lib.num_threads for lib in _libraries()} <= {1}
    True
    """

    def __init__(self, number: int) -> None:
        self.number = number if core.machine is None else 1

    def __enter__(self) -> None:
        _users.enter(self, self.number)

    def __exit__(self, *error: object) -> None:
        _users.leave(self)


class kernel_threads:
    """Let what this thread calls of the compiled core use ``number`` threads in the ``with`` block, where it is large
    enough; every result is that of one thread to the bit.

    >>> with kernel_threads(2):
    ...     pass
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        self.before = 1 if core.machine is None else core.machine.use_threads(self.number)

    def __exit__(self, *error: object) -> None:
        if core.machine is not None:
            core.machine.use_threads(self.before)

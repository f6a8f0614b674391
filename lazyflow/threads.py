"""How many threads BLAS uses while the engine runs.

The products of small models are too small to share, and BLAS threads that wait for a busy core make them up to hundreds
of times slower; so one thread is the default, whatever the environment says, and ``lf.using(threads=...)`` the one
setting. What NumPy does outside of a run is left alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """The BLAS libraries of this process. NumPy's is loaded by now; one that is loaded later is left alone."""
    return tuple(lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def blas_threads(number: int) -> Iterator[None]:
    """Let BLAS use ``number`` threads in the ``with`` block.

    >>> with blas_threads(1):
    ...     {lib.num_threads for lib in _libraries()} <= {1}
    True
    """
    changed = [(lib, before) for lib in _libraries() if (before := lib.num_threads) not in (number, None)]
    for lib, _ in changed:
        lib.set_num_threads(number)
    try:
        yield
    finally:
        for lib, before in changed:
            lib.set_num_threads(before)

"""Modules of kernels: compiled when one is first launched, for the current device, and kept by their text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lazyflow import device as devices
from lazyflow.cuda.text import HELPERS, OPTIONS

THREADS = 128  # of a block
WARP = 32

Launcher = Callable[[int, Sequence[object]], None]


@functools.cache
def functions(source: str, names: tuple[str, ...], cooperative: bool = False) -> tuple[Any, ...]:
    """The kernels of these names in a source of CUDA C. One module has many: to compile it takes seconds.
    ``cooperative``: all blocks of a launch run at once, or it fails, so that they may wait for each other."""
    code, xp = with_helpers(source), devices.array_module("cuda:0")
    module = xp.RawModule(code=code, options=OPTIONS, enable_cooperative_groups=cooperative)
    return tuple([module.get_function(name) for name in names])


def with_helpers(source: str) -> str:
    """A source with what it needs in front.

    >>> with_helpers("none of it")
    'none of it'
    """
    return HELPERS + source if "lf_" in source else source


def launch(kernel: Any, threads: int, arguments: Sequence[Any]) -> None:
    """Put a kernel of so many threads into the queue; of none, nothing."""
    if threads > 0:
        kernel((-(-threads // THREADS),), (THREADS,), tuple(arguments))

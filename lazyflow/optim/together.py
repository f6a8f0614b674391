"""A rule for many parameters of a device in one launch: whole arrays, and rows that row-sparse gradients touch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lazyflow.cuda.module import functions, launch
from lazyflow.device import HostArray, device_of, is_on_gpu, to_device
from lazyflow.fuse.cuda import source_of_tensors
from lazyflow.fuse.scalar import ARG_BLOCK, Kernel
from lazyflow.optim.rule import Assignments, kernel_of

__all__ = ["Update", "is_possible", "run"]

Array = Any


class Update(NamedTuple):
    """One parameter: its arrays, the gradient last, its numbers, and the rows that are touched (None for all)."""

    arrays: Mapping[str, Array]
    numbers: Mapping[str, float]
    rows: Array | None


def is_possible(arrays: Sequence[Array]) -> bool:
    """Whether these are contiguous arrays of one device and dtype, of a dtype that kernels have."""
    first = arrays[0]
    if not is_on_gpu(first) or first.dtype.name not in ("float32", "float64"):
        return False
    return all(is_on_gpu(a) and a.dtype == first.dtype and a.flags.c_contiguous for a in arrays)


def run(rule: Assignments, updates: Sequence[Update]) -> None:
    """Change the arrays of all as the rule says; all have the same names, and lie on the current device."""
    names, numbers = tuple(updates[0].arrays), tuple(updates[0].numbers)
    gradient = updates[0].arrays["gradient"]
    kernel = kernel_of(tuple(rule), names, numbers, gradient.dtype, 0)
    table, total = _table(kernel, updates)
    function = _function(kernel, len(numbers))
    launch(function, total, [to_device(table, device_of(gradient)), np.int32(len(updates)), np.int64(total)])


def _table(kernel: Kernel, updates: Sequence[Update]) -> tuple[HostArray, int]:
    """The table of `lazyflow.fuse.cuda.source_of_tensors`, and how many elements there are."""
    blocks = [argument.key[0] for argument in kernel.arguments if argument.kind == ARG_BLOCK]
    lines, total = [], 0
    for update in updates:
        gradient = update.arrays["gradient"]
        total += gradient.size
        rows = 0 if update.rows is None else update.rows.data.ptr
        width = max(gradient.size // max(len(gradient), 1), 1) if gradient.ndim else 1
        lines.append([total, rows, width, *(update.arrays[name].data.ptr for name in blocks)])
    numbers = np.array([list(update.numbers.values()) or [0.0] for update in updates], np.float64)
    return np.concatenate([np.array(lines, np.int64).ravel(), numbers.ravel().view(np.int64)]), total


@functools.cache
def _function(kernel: Kernel, numbers: int) -> Any:
    [found] = functions(source_of_tensors(kernel, "update", numbers, frozenset(("gradient",))), ("update",))
    return found

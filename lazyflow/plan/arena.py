"""Memory: buffers that are used again, and the arenas that a plan lays its values out in.

An arena is one flat buffer for each dtype, and a value an offset in it. A plan puts the results of a launch behind each
other (`lazyflow.plan.plan`), so that a launch writes one matrix, and reads one where its operands were one launch, in
their order; else it gathers rows by number. DyNet copies operands together before each batched operation (Neubig et al.
2017), and ED-Batch searches for an order of memory that needs fewer copies (Chen et al. 2023); here the copy is part of
the kernel that reads, and the order is that of the launches. Where nothing is to be differentiated the memory of values
whose last reader has run is used again, as a plan of a static graph does it (Chen et al. 2016).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from lazyflow import device as devices
from lazyflow.device import Array, DType, HostArray
from lazyflow.locks import Lock
from lazyflow.ops.base import Shape, brought
from lazyflow.plan.plan import Rows

_numbers = itertools.count()


def next_number() -> int:
    """A number for every arena and run, never given twice."""
    return next(_numbers)


class Pool:
    """Buffers waiting to be used again: a fresh large array costs a page fault for every 4 KiB that is touched."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.free: dict[object, list[Array]] = {}
        # Taken again by its own thread: the garbage collector may run in the middle of `take` and end an arena there.
        self.lock = Lock()

    @property
    def held(self) -> int:
        """Bytes of the buffers that wait. Counted anew: an interrupt could come between a buffer and a count of it."""
        return sum(buffer.nbytes for waiting in list(self.free.values()) for buffer in waiting)

    def take(self, device: str, dtype: DType, size: int) -> Array:
        """A flat buffer of at least ``size`` elements, contents undefined; never more than twice as large as asked.

        On a GPU CuPy's own pool gives it: that one knows in which stream memory was used, and hands it to no other
        before the work there is done.
        """
        if device != "cpu":
            return devices.array_module(device).empty(size, dtype)
        if size * dtype.itemsize <= SMALL_BUFFER:
            return np.empty(size, dtype)
        found = self._waiting(dtype, size)
        return np.empty(size + size // 8 + 16, dtype) if found is None else found

    def _waiting(self, dtype: DType, size: int) -> Array | None:
        """The smallest buffer that waits and is neither too small nor too large."""
        with self.lock:
            waiting = self.free.get(dtype, [])
            fitting = [i for i, b in enumerate(waiting) if size <= b.size <= 2 * size + 4096]
            return waiting.pop(min(fitting, key=lambda i: int(waiting[i].size))) if fitting else None

    def give(self, device: str, buffer: Array) -> None:
        """Hand a buffer back; nobody may read it any more."""
        if device != "cpu":
            return
        with self.lock:
            waiting = self.free.setdefault(buffer.dtype, [])
            if len(waiting) < 8 and self.held + buffer.nbytes <= self.limit:
                waiting.append(buffer)


POOL = Pool()

# Buffers of so many bytes come from the allocator, which has their pages already, and go back to it.
SMALL_BUFFER = 1 << 15


def give_back(device: str, buffers: Iterable[Array]) -> None:
    """Hand buffers back to the pool."""
    for buffer in buffers:
        if buffer.nbytes > SMALL_BUFFER:
            POOL.give(device, buffer)


_NOTHING: dict[int, tuple[Array, ...]] = {}  # what is brought on the host


def _words(array: HostArray) -> HostArray:
    """The bytes of an array in words of eight, the last one filled up."""
    flat = array.ravel()
    if array.itemsize == 8:
        return flat.view(np.int64)
    words = np.zeros(-(-flat.nbytes // 8), np.int64)
    words.view(np.uint8)[: flat.nbytes] = flat.view(np.uint8)
    return words


class Arena:
    """Flat buffers, one for each dtype, that give themselves back to the pool.

    ``there``: the indices of a plan, by their identity on the host, where the device has them too; see `bring`.
    """

    # At the end of the process the names of this module may be gone before an arena is: it has this from its class.
    ends: ClassVar[staticmethod[[], bool]] = staticmethod(sys.is_finalizing)

    def __init__(self, device: str, sizes: dict[DType, int], there: dict[int, tuple[Array, ...]] | None = None) -> None:
        self.device = device
        self.brought = there if there is not None else {} if device != "cpu" else _NOTHING
        self.number = next_number()
        self.buffers: dict[DType, Array] = {}  # first of all: it may end before all of them are taken
        for dtype, size in sizes.items():
            self.buffers[dtype] = POOL.take(device, dtype, size)
        self.tables: dict[object, Array] | None = None  # made when somebody asks

    def __del__(self) -> None:
        if not self.ends():
            give_back(self.device, self.buffers.values())

    def bring(
        self,
        indices: Sequence[HostArray],
        payload: Sequence[HostArray] = (),
        counts: Sequence[HostArray] = (),
        constants: Sequence[HostArray] = (),
    ) -> None:
        """Copy host arrays to the device, all at once: indices as int64, payload as float64, counts with their running
        sums, constants as they are. On the CPU there is nothing to do."""
        if self.device == "cpu" or not (indices or payload or counts or constants):
            return
        ends = [np.cumsum(array) for array in counts]
        given = [(array, array.astype(np.int64, copy=False)) for array in (*indices, *counts, *ends)]
        given += [(array, array.astype(np.float64, copy=False)) for array in payload]
        given += [(array, array) for array in constants]
        words = [_words(same) for _, same in given]
        whole = devices.to_device(np.concatenate(words), self.device)
        begin = 0
        for (array, same), some in zip(given, words, strict=True):
            part = whole[begin : begin + some.size].view(same.dtype)[: same.size].reshape(same.shape)
            self.brought[id(array)] = array, part
            begin += some.size
        for array, sums in zip(counts, ends, strict=True):
            self.brought[id(array)] = *self.brought[id(array)], self.brought.pop(id(sums))[1]

    def index(self, index: HostArray) -> Array:
        """Indices of the plan where the arena is."""
        if self.device == "cpu":
            return index
        if id(index) not in self.brought:
            self.bring([index])
        return self.brought[id(index)][1]

    def given(self, index: Array) -> Array:
        """Payload that kernels take on the host, with what lies of it on the device."""
        found = self.brought.get(id(index))
        return index if found is None else brought(index, *found[1:])

    def payload(self, numbers: HostArray) -> Array:
        """Payload of the plan as float64, on the device."""
        if id(numbers) not in self.brought:
            self.bring([], [numbers])
        return self.brought[id(numbers)][1]

    def table(self, dtype: DType, width: int) -> Array:
        """The buffer of ``dtype`` seen as rows of ``width``."""
        key = dtype, width
        if self.tables is None:
            self.tables = {}
        found = self.tables.get(key)
        if found is None:
            buffer = self.buffers[dtype]
            found = self.tables[key] = buffer[: buffer.size // width * width].reshape(-1, width)
        return found

    def view(self, dtype: DType, rows: Rows, shape: Shape) -> Array:
        """Evenly spaced rows as a view: ``(count, *shape)``, or ``shape`` where all nodes share one row."""
        count, width, offset, pitch, _, _ = rows
        if pitch == width or count == 1:
            return devices.stretch(self.buffers[dtype], offset, (count, *shape))
        if pitch == 0:
            return devices.stretch(self.buffers[dtype], offset, shape)
        return devices.strided(self.buffers[dtype], offset, (count, *shape), pitch)

    def read(self, dtype: DType, rows: Rows, shape: Shape) -> Array:
        """The values of ``rows``: a view where they are evenly spaced, else gathered."""
        if rows.index is None:
            return self.view(dtype, rows, shape)
        if not devices.elements(shape):  # such rows are one element wide, so that no two nodes lie at one place
            return devices.array_module(self.device).empty((rows.count, *shape), dtype)
        if rows.aligned:
            return devices.take_rows(self.table(dtype, rows.width), self.index(rows.index)).reshape(
                (rows.count, *shape)
            )
        return devices.stretches(self.buffers[dtype], rows.width)[self.index(rows.index)].reshape((rows.count, *shape))

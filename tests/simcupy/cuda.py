"""``cupy.cuda``: devices, memory and streams. Nothing is late here: a stream only keeps who is current where."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from . import counters
from .emulate import RESIDENT

DEVICES = 2
MEMORY = 80 << 30  # bytes that a device says it has


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``."""


class _Thread(threading.local):
    """What is current in a thread, as in CUDA: the device, and a stream on each."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: list[list[Stream]] = [[Stream.null] for _ in range(DEVICES)]
        self.entered: list[int] = []  # devices of the streams whose blocks are open


def current() -> int:
    """The number of the current device of this thread."""
    return _thread.device


class Device:
    """One of `DEVICES` GPUs; as in CuPy, ``use()`` makes it current for good, a ``with`` block for its length."""

    compute_capability = "90"

    def __init__(self, device: Any = None) -> None:
        self.id = current() if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._before: list[int] = []

    def use(self) -> None:
        counters.use_device()
        _thread.device = self.id

    def __enter__(self) -> Device:
        self._before.append(current())
        _thread.device = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        _thread.device = self._before.pop()

    def synchronize(self) -> None:
        counters.sync()

    @property
    def attributes(self) -> dict[str, int]:
        """What is asked for of CUDA's names for what a device can do."""
        return {"MultiProcessorCount": RESIDENT[0], "CooperativeLaunch": 1}

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


_handles = itertools.count(1)


class Stream:
    """A queue of the device on which it was made, and current only there. The null stream is every device's."""

    null: Any = None

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.non_blocking = non_blocking
        self.ptr = 0 if null else next(_handles)
        self.device_id = -1 if null else current()

    def _place(self) -> int:
        place = current() if self.device_id == -1 else self.device_id
        if place != current():
            raise RuntimeError(
                f"The device that the stream is created on ({place}) does not match with the current device "
                f"({current()})"
            )
        return place

    def __enter__(self) -> Stream:
        _thread.streams[self._place()].append(self)
        _thread.entered.append(self._place())
        return self

    def __exit__(self, *error: Any) -> None:
        _thread.streams[_thread.entered.pop()].pop()

    def use(self) -> Stream:
        _thread.streams[self._place()][-1] = self
        return self

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return self.ptr

    def synchronize(self) -> None:
        counters.sync()

    def record(self, event: Any = None) -> Any:
        return event or Event()

    def wait_event(self, event: Any) -> None:
        """Nothing is late."""


class Event:
    """A mark in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.done = True

    def record(self, stream: Any = None) -> None:
        """Set the mark."""

    def synchronize(self) -> None:
        counters.sync()


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Time is nothing that is simulated."""
    return 0.0


Stream.null = Stream(null=True)
_thread = _Thread()


def get_current_stream(device_id: int = -1) -> Stream:
    return _thread.streams[current() if device_id == -1 else device_id][-1]


# Memory.


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


_used, _limit = [0] * DEVICES, [0] * DEVICES
_lock = threading.RLock()  # an array may be collected while one is made
_watched: list[list[int]] = []  # see `peak`
_left: list[int] = []  # how many allocations there may still be; see `allocations`


def reserve(nbytes: int) -> None:
    """Take memory of the current device. Raises `OutOfMemoryError`."""
    place = current()
    with _lock:
        full = _limit[place] and _used[place] + nbytes > _limit[place]
        if _left and nbytes:
            _left[-1] -= 1
            full = full or _left[-1] < 0
        if full:
            raise OutOfMemoryError(nbytes, _used[place], _limit[place])
        _used[place] += nbytes
        for most in _watched:
            most[0] = max(most[0], _used[place])


def release(place: int, nbytes: int) -> None:
    """Give memory back."""
    with _lock:
        _used[place] -= nbytes


@contextmanager
def peak() -> Iterator[list[int]]:
    """A list of one number: the most bytes of the current device that were taken in the block, beside those before."""
    before, most = _used[current()], [_used[current()]]
    _watched.append(most)
    try:
        yield most
    finally:
        _watched.remove(most)
        most[0] -= before


@contextmanager
def allocations(most: int) -> Iterator[None]:
    """In the block memory runs out behind ``most`` allocations, and stays so."""
    _left.append(most)
    try:
        yield
    finally:
        _left.pop()


class MemoryPool:
    """The pool of the current device: what arrays hold, and a limit that may be set, as CuPy's."""

    def __init__(self, allocator: Any = None) -> None:
        """There is one pool."""

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is held."""

    def used_bytes(self) -> int:
        return _used[current()]

    def total_bytes(self) -> int:
        return _used[current()]

    def get_limit(self) -> int:
        return _limit[current()]

    def set_limit(self, size: Any = None, fraction: Any = None) -> None:
        _limit[current()] = int(MEMORY * fraction) if fraction is not None else int(size or 0)


POOL = MemoryPool()


def _get_device_count() -> int:
    return DEVICES


def _get_device_properties(device: int) -> dict[str, Any]:
    return {"name": b"simulated", "totalGlobalMem": MEMORY, "multiProcessorCount": 132, "warpSize": 32}


def _mem_get_info() -> tuple[int, int]:
    return MEMORY - _used[current()], MEMORY


runtime = SimpleNamespace(
    memGetInfo=_mem_get_info,
    getDeviceCount=_get_device_count,
    getDeviceProperties=_get_device_properties,
    driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000,
    getDevice=current,
    setDevice=lambda device: Device(device).use(),
    deviceCanAccessPeer=lambda device, peer: 0,
    deviceSynchronize=counters.sync,
    CUDARuntimeError=CUDARuntimeError,
    CUDA_R_32F=0,
    CUDA_R_64F=1,
    CUDA_R_16F=2,
    is_hip=False,
)

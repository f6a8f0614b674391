"""``cupy.cuda``: devices, streams and events that do nothing but exist, and are counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from . import counters

DEVICES = 1
MEMORY = 80 << 30  # bytes that a device says it has
_current = [0]


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``."""


class Device:
    """One of `DEVICES` GPUs; as in CuPy, ``use()`` makes it current for good, a ``with`` block for its length."""

    compute_capability = "90"

    def __init__(self, device: Any = None) -> None:
        self.id = _current[0] if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._before: list[int] = []

    def use(self) -> None:
        counters.use_device()
        _current[0] = self.id

    def __enter__(self) -> Device:
        self._before.append(_current[0])
        _current[0] = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        _current[0] = self._before.pop()

    def synchronize(self) -> None:
        counters.sync()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class Stream:
    """A queue. Everything runs at once here, so order is kept whatever the streams."""

    null: Any = None
    ptr = 0

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        """The stream before is current again."""

    def use(self) -> Stream:
        return self

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


Stream.null = Stream()


class MemoryPool:
    """Counts nothing: host memory is not the device's."""

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is held."""

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


def get_current_stream(device_id: int = -1) -> Stream:
    return Stream.null  # type: ignore[no-any-return]


def _get_device_count() -> int:
    return DEVICES


def _get_device_properties(device: int) -> dict[str, Any]:
    return {"name": b"simulated", "totalGlobalMem": MEMORY, "multiProcessorCount": 132, "warpSize": 32}


runtime = SimpleNamespace(
    getDeviceCount=_get_device_count,
    getDeviceProperties=_get_device_properties,
    driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000,
    getDevice=lambda: _current[0],
    deviceSynchronize=counters.sync,
    CUDARuntimeError=CUDARuntimeError,
    is_hip=False,
)

"""Where arrays live: the only file that imports CuPy.

Everything else takes the array module ``xp`` (numpy or cupy) as an argument and asks here for what the two do
differently: choosing the module of a device, moving arrays, and views into a flat buffer.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np

from lazyflow.errors import DeviceError

Array = Any
CUDA_DEVICES = 2, 3, 13  # DLPack's numbers of CUDA, pinned and managed memory


@functools.cache
def _cupy() -> Any:
    try:
        import cupy
    except ImportError:
        raise DeviceError(
            "device 'cuda' needs CuPy, which is not installed; install the extra for your driver, "
            "pip install 'lazyflow[cuda13]' or 'lazyflow[cuda12]', or use device='cpu'"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"device 'cuda' needs a GPU and its driver: {error}; use device='cpu'") from None
    if not count:
        raise DeviceError("device 'cuda' needs a GPU, and this machine shows none; use device='cpu'")
    return cupy


def canonical(device: str) -> str:
    """``device`` in its one spelling, ``"cpu"`` or ``"cuda:N"``, after checking that it is there.

    >>> canonical("cpu")
    'cpu'
    """
    if device == "cpu":
        return device
    kind, _, index = str(device).partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise DeviceError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    number = int(index or 0)
    count = _cupy().cuda.runtime.getDeviceCount()
    if number >= count:
        raise DeviceError(f"device {device!r}: this machine has {count} GPU(s), numbered from 0")
    return f"cuda:{number}"


def array_module(device: str) -> Any:
    """numpy for ``"cpu"``, cupy (with that GPU made current) for ``"cuda:N"``."""
    if device == "cpu":
        return np
    cupy = _cupy()
    cupy.cuda.Device(int(device.partition(":")[2])).use()
    return cupy


def module(array: Array) -> Any:
    """The array module that ``array`` belongs to.

    >>> module(np.zeros(3)).__name__
    'numpy'
    """
    return _cupy() if hasattr(array, "__cuda_array_interface__") else np


def is_array(value: Any) -> bool:
    """Whether it is an array as they are computed with here: NumPy's own, and no subclass, or CuPy's."""
    cupy = sys.modules.get("cupy")
    return type(value) is np.ndarray or (cupy is not None and isinstance(value, cupy.ndarray))


def device_of(array: Array) -> str:
    """``"cpu"`` or ``"cuda:N"``."""
    return "cpu" if isinstance(array, np.ndarray) else f"cuda:{array.device.id}"


def to_device(array: Array, device: str) -> Array:
    """``array`` on ``device``; the same array when it is there already."""
    if device == "cpu":
        return to_host(array)
    return array_module(device).asarray(array)


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """``array`` as a NumPy array; the same array when it is one already."""
    return array if isinstance(array, np.ndarray) else array.get()


def from_dlpack(value: Any) -> Array:
    """An array of any library that speaks DLPack, as NumPy's or CuPy's, where it lies; memory may be shared.

    >>> from_dlpack(np.arange(2)).tolist()
    [0, 1]
    """
    if not hasattr(value, "__dlpack_device__"):
        raise TypeError(f"from_dlpack takes an array that has __dlpack__, got {type(value).__name__}")
    on_gpu = value.__dlpack_device__()[0] in CUDA_DEVICES
    return _cupy().from_dlpack(value) if on_gpu else np.from_dlpack(value)


def dlpack_device(device: str) -> tuple[int, int]:
    """What DLPack calls ``device``.

    >>> dlpack_device("cpu")
    (1, 0)
    """
    return (1, 0) if device == "cpu" else (CUDA_DEVICES[0], int(device.partition(":")[2]))


def strided(buffer: Array, offset: int, shape: tuple[int, ...], pitch: int) -> Array:
    """A view of a flat buffer: ``shape[0]`` rows of ``shape[1:]``, each contiguous, ``pitch`` elements apart.

    >>> strided(np.arange(12), 1, (3, 2), 4).tolist()
    [[1, 2], [5, 6], [9, 10]]
    """
    size = buffer.itemsize
    strides = [0] * len(shape)
    step = size
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis] = step
        step *= shape[axis]
    strides[0] = pitch * size
    if isinstance(buffer, np.ndarray):
        return np.ndarray(shape, buffer.dtype, buffer, offset * size, strides)
    return _cupy().ndarray(shape, buffer.dtype, buffer.data + offset * size, strides)


def take_rows(table: Array, index: Array, out: Array | None = None) -> Array:
    """Rows ``index`` of a 2-D ``table``. The indices were validated when they were made."""
    if isinstance(table, np.ndarray):
        return table.take(index, 0, out=out, mode="clip")  # other modes buffer ``out``
    return _cupy().take(table, index, axis=0, out=out)


def windows(buffer: Array, width: int) -> Array:
    """All stretches of ``width`` elements of a flat buffer, as overlapping rows of a view: row ``i`` starts at
    element ``i``."""
    rows = buffer.size - width + 1
    return strided(buffer, 0, (rows, width), 1)


def elements(shape: tuple[int, ...]) -> int:
    """How many elements an array of ``shape`` has."""
    return math.prod(shape)

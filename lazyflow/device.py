"""Where arrays live: the only file that imports CuPy.

Everything else takes the array module ``xp`` (numpy or cupy) as an argument and asks here for what the two do
differently: choosing the module of a device, moving arrays, and views into a flat buffer.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import numpy as np

from lazyflow import core
from lazyflow.errors import DeviceError, ShapeError

# numpy.ndarray or cupy.ndarray, which have no type in common: shape, dtype, operators, subscripts and methods of NumPy.
Array = Any
DType = np.dtype[Any]
HostArray = np.ndarray[Any, DType]
CUDA_DEVICES = 2, 3, 13  # DLPack's numbers of CUDA, pinned and managed memory


class ArrayModule(Protocol):
    """What is asked of NumPy and CuPy, and by vjps of the names of `lazyflow.numpy` for expressions: functions of
    arrays under NumPy's names. That of expressions has ``record_op`` besides."""

    @property
    def linalg(self) -> ArrayModule: ...
    @property
    def lib(self) -> Any: ...
    def __getattr__(self, name: str) -> Callable[..., Array]: ...


@functools.cache
def _cupy() -> Any:
    try:
        import cupy
    except ModuleNotFoundError:
        raise DeviceError(
            "device 'cuda' needs CuPy, which is not installed; install the extra for your driver, "
            "pip install 'lazyflow[cuda13]' or 'lazyflow[cuda12]', or use device='cpu'"
        ) from None
    except ImportError as error:
        raise DeviceError(
            f"device 'cuda' needs CuPy, which is installed but does not load: {error}; install it again for your "
            "driver, pip install 'lazyflow[cuda13]' or 'lazyflow[cuda12]', or use device='cpu'"
        ) from None
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise DeviceError(_without_devices(runtime, str(error))) from None
    if not count:
        raise DeviceError(_without_devices(runtime, "no device was found"))
    return cupy


def _without_devices(runtime: Any, error: str) -> str:
    """What is missing where CuPy is there, but no GPU."""
    try:
        driver = runtime.driverGetVersion()
    except runtime.CUDARuntimeError:
        driver = 0
    wanted = runtime.runtimeGetVersion() // 1000
    if not driver:
        return (
            f"device 'cuda' needs a GPU and its driver, and this machine has no CUDA driver ({error}); install "
            f"NVIDIA's driver for CUDA {wanted}, or use device='cpu'"
        )
    if driver // 1000 < wanted:
        return (
            f"device 'cuda' needs a driver for CUDA {wanted}, for which this CuPy was built; the driver here is for "
            f"CUDA {driver // 1000} ({error}): update the driver, or install the extra for it, pip install "
            f"'lazyflow[cuda{driver // 1000}]', or use device='cpu'"
        )
    return (
        f"device 'cuda' needs a GPU, and this machine shows none ({error}): see nvidia-smi, and CUDA_VISIBLE_DEVICES, "
        "or use device='cpu'"
    )


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
    if number >= count():
        raise DeviceError(f"device {device!r}: this machine has {count()} GPU(s), numbered from 0")
    return f"cuda:{number}"


def count() -> int:
    """How many GPUs there are. Raises `DeviceError`, which says what is missing, without one."""
    found: int = _cupy().cuda.runtime.getDeviceCount()
    return found


def array_module(device: str) -> ArrayModule:
    """numpy for ``"cpu"``, cupy for ``"cuda:N"``; see `on`."""
    return cast("ArrayModule", np if device == "cpu" else _cupy())


_NOWHERE: AbstractContextManager[object] = nullcontext()


def on(device: str) -> AbstractContextManager[object]:
    """A ``with`` block in which CuPy computes on ``device``; the user's current device is back behind it.

    >>> with on("cpu"):
    ...     pass
    """
    return _NOWHERE if device == "cpu" else _cupy().cuda.Device(_device_number(device))


class _Products:
    """A block in which CuPy multiplies float32 matrices in one mode; that of before is back behind it."""

    def __init__(self, tf32: bool) -> None:
        self.tf32 = tf32

    def __enter__(self) -> None:
        core = _cupy()._core
        kinds = core._routines_linalg
        self.before = core.get_compute_type(np.float32)
        self.inside = kinds.COMPUTE_TYPE_TF32 if self.tf32 else kinds.COMPUTE_TYPE_DEFAULT
        if self.before != self.inside:
            core.set_compute_type(np.float32, self.inside)

    def __exit__(self, *error: object) -> None:
        if self.before != self.inside:
            _cupy()._core.set_compute_type(np.float32, self.before)


def products(device: str, tf32: bool) -> AbstractContextManager[object]:
    """A ``with`` block in which CuPy rounds the float32 matrices that it multiplies on ``device`` to TF32, or does not.

    >>> with products("cpu", True):
    ...     pass
    """
    return _NOWHERE if device == "cpu" else _Products(tf32)


def on_device_of(array: Array) -> AbstractContextManager[object]:
    """`on` the device of ``array``: CuPy refuses to compute with it on any other.

    >>> with on_device_of(np.zeros(3)):
    ...     pass
    """
    return on(device_of(array)) if is_on_gpu(array) else _NOWHERE


def _device_number(device: str) -> int:
    return int(device.partition(":")[2])


def module(array: Array) -> ArrayModule:
    """The array module that ``array`` belongs to.

    >>> module(np.zeros(3)).__name__
    'numpy'
    """
    return cast("ArrayModule", _cupy() if is_on_gpu(array) else np)


def is_on_gpu(value: object) -> bool:
    """Whether it is an array of CuPy's.

    Asked of the type: the attribute ``__cuda_array_interface__`` is made anew whenever somebody looks whether it is
    there, and may raise.
    """
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def is_array(value: object) -> bool:
    """Whether it is an array as they are computed with here: NumPy's own, and no subclass, or CuPy's."""
    return type(value) is np.ndarray or is_on_gpu(value)


def device_of(array: Array) -> str:
    """``"cpu"`` or ``"cuda:N"``."""
    return f"cuda:{array.device.id}" if is_on_gpu(array) else "cpu"


@functools.cache
def multiprocessors(device: str) -> int:
    """How many blocks of a kernel run at once on a GPU, if each is as large as can be."""
    return int(_cupy().cuda.Device(_device_number(device)).attributes["MultiProcessorCount"])


def free_bytes(device: str) -> int | None:
    """How much memory can be had on ``device``; None where nobody says so.

    >>> free_bytes("cpu") is None or free_bytes("cpu") > 0
    True
    """
    if device == "cpu":
        known = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in known else None
    with on(device):
        cupy = _cupy()
        pool, (free, _) = cupy.get_default_memory_pool(), cupy.cuda.runtime.memGetInfo()
        used, limit = pool.used_bytes(), pool.get_limit()
        room = int(free + pool.total_bytes() - used)
        return min(room, int(limit - used)) if limit else room


def to_device(array: Array, device: str) -> Array:
    """``array`` on ``device``; the same array when it is there already."""
    if device == "cpu":
        return to_host(array)
    if device_of(array) == device:
        return array
    with on(device):
        return array.copy() if is_on_gpu(array) else _cupy().asarray(array)


def to_host(array: Array) -> HostArray:
    """``array`` as a NumPy array; the same array when it is one already."""
    return array if isinstance(array, np.ndarray) else array.get() if is_on_gpu(array) else np.asarray(array)


def copied(array: Array, device: str) -> Array:
    """An array of its own on ``device``.

    >>> copied(np.ones(2), "cpu").tolist()
    [1.0, 1.0]
    """
    found = to_device(array, device)
    if found is not array and (is_on_gpu(found) or is_on_gpu(array)):
        return found
    with on(device):
        return module(found).array(found)


def stacked(arrays: Sequence[Array]) -> Array:
    """CuPy's arrays, and NumPy's or numbers beside them, as one of CuPy's with an axis more in front, on the device of
    the first. Raises `ShapeError` where they differ in shape."""
    shapes = sorted({np.shape(a) for a in arrays})
    if len(shapes) > 1:
        raise ShapeError(f"a list of arrays of the shapes {', '.join(map(str, shapes))} is no array")
    place = next((device_of(a) for a in arrays if is_on_gpu(a)), "cuda:0")
    with on(place):
        return _cupy().stack([to_device(np.asarray(a) if not is_on_gpu(a) else a, place) for a in arrays])


def array_from_dlpack(value: Any) -> Array:
    """An array of any library that speaks DLPack, as NumPy's or CuPy's, where it lies; memory may be shared.

    >>> array_from_dlpack(np.arange(2)).tolist()
    [0, 1]
    """
    if not hasattr(value, "__dlpack_device__"):
        raise TypeError(f"from_dlpack takes an array that has __dlpack__, got {type(value).__name__}")
    kind, number = value.__dlpack_device__()
    if kind not in CUDA_DEVICES:
        return np.from_dlpack(value)
    with on(f"cuda:{int(number)}"):
        return _cupy().from_dlpack(value)


def dlpack_device(device: str) -> tuple[int, int]:
    """What DLPack calls ``device``.

    >>> dlpack_device("cpu")
    (1, 0)
    """
    return (1, 0) if device == "cpu" else (CUDA_DEVICES[0], _device_number(device))


def stretch(buffer: Array, offset: int, shape: tuple[int, ...]) -> Array:
    """The elements of a flat buffer from ``offset`` on, in that shape.

    >>> stretch(np.arange(12), 1, (2, 2)).tolist()
    [[1, 2], [3, 4]]
    """
    if _compiled_view is not None and isinstance(buffer, np.ndarray):
        return _compiled_view(buffer, offset, shape)
    return buffer[offset : offset + elements(shape)].reshape(shape)


_compiled_view = None if core.passes is None else core.passes.view
_copy = None if core.passes is None else core.passes.copy_elements


def copy_elements(to: Array, offset: int, source: Array, start: int, count: int) -> None:
    """Copy elements of one flat buffer of the host to another.

    >>> to = np.zeros(4)
    >>> copy_elements(to, 1, np.arange(4.0), 2, 2)
    >>> to.tolist()
    [0.0, 2.0, 3.0, 0.0]
    """
    if _copy is not None:
        _copy(to, offset, source, start, count)
    else:
        to[offset : offset + count] = source[start : start + count]


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
    cupy = _cupy()
    return cupy.take(table, cupy.asarray(index), axis=0, out=out)


def hollow(buffer: Array, shape: tuple[int, ...]) -> Array:
    """An array of that shape and the buffer's dtype without any memory of its own: what it holds is undefined.

    >>> hollow(np.zeros(1), (2, 3)).shape
    (2, 3)
    """
    strides = [0] * len(shape)
    if isinstance(buffer, np.ndarray):
        return np.ndarray(shape, buffer.dtype, buffer, 0, strides)
    return _cupy().ndarray(shape, buffer.dtype, buffer.data, strides)


def stretches(buffer: Array, width: int) -> Array:
    """All stretches of ``width`` elements of a flat buffer, as overlapping rows of a view: row ``i`` starts at
    element ``i``."""
    rows = buffer.size - width + 1
    return strided(buffer, 0, (rows, width), 1)


def elements(shape: tuple[int, ...]) -> int:
    """How many elements an array of ``shape`` has."""
    return math.prod(shape)

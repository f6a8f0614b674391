"""The device array: a NumPy array that hides. Only what CuPy's ``ndarray`` does is allowed, and all of it is counted.

The rules are those of CuPy 14 (``cupy/_core/core.pyx``, ``_kernel.pyx``, ``_routines_indexing.pyx``):

- nothing becomes a NumPy array unless asked by ``get()``, ``tolist()``, ``item()``, ``float()`` and the like;
- host arrays are refused as operands of arithmetic, and taken (and uploaded) as indices;
- an index out of range wraps around; two values for one element are undefined, which is an error here;
- fresh memory holds garbage: here bytes of ones, which are NaN as floating numbers;
- a kernel runs on the current device and takes arrays that lie there; those of another are refused, as where the cards
  have no access to each other's memory (where they have, CuPy warns). Copies to another device are made by ``copy``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import counters, cuda
from .errors import NotSimulated, UndefinedOnDevice

Host = np.ndarray[Any, Any]
KINDS = "?bhilqBHILQefdFD"


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    """A dtype that CuPy has; raises ``ValueError``."""
    found = np.dtype(dtype)
    if found.char not in KINDS:
        raise ValueError(f"Unsupported dtype {found}")
    return found


class Flags:
    """What CuPy says of the memory: there is no ``writeable``."""

    def __init__(self, array: ndarray) -> None:
        self.c_contiguous = bool(array._a.flags.c_contiguous)
        self.f_contiguous = bool(array._a.flags.f_contiguous)
        self.owndata = array.base is None
        self.fnc, self.forc = self.f_contiguous and not self.c_contiguous, self.f_contiguous or self.c_contiguous

    def __getitem__(self, name: str) -> bool:
        return {"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous, "OWNDATA": self.owndata}[name]


class MemoryPointer:
    """A place in an allocation, as ``ndarray.data`` and ``cupy.ndarray(memptr=...)`` have it."""

    def __init__(self, memory: Host, offset: int, device_id: int, owner: Any = None) -> None:
        self.memory, self.offset, self.device_id, self.owner = memory, offset, device_id, owner

    @property
    def ptr(self) -> int:
        return int(self.memory.ctypes.data) + self.offset

    @property
    def device(self) -> Any:
        return cuda.Device(self.device_id)

    def __add__(self, bytes_: int) -> MemoryPointer:
        return MemoryPointer(self.memory, self.offset + int(bytes_), self.device_id, self.owner)

    def __sub__(self, bytes_: int) -> MemoryPointer:
        return self + -int(bytes_)

    def __int__(self) -> int:
        return self.ptr


def _allocated(shape: tuple[int, ...], dtype: np.dtype[Any], order: str = "C") -> Host:
    count = int(np.prod(shape, dtype=np.int64))
    cuda.reserve(count * dtype.itemsize)
    memory = np.full(max(count * dtype.itemsize, 1), 0xFF, np.uint8)
    if dtype.kind == "b":
        memory.fill(1)
    return np.ndarray(shape, dtype, memory, order="F" if order == "F" else "C")


def _root(array: Host) -> Host:
    """All bytes of the allocation that an array lies in."""
    found = array
    while isinstance(found.base, np.ndarray):
        found = found.base
    if found.dtype == np.uint8 and found.ndim == 1:
        return found
    return np.ndarray((found.nbytes,), np.uint8, found.data if found.flags.c_contiguous else found.T.data)


class Capsule:
    """What ``__dlpack__`` gives: memory that `from_dlpack` takes once."""

    def __init__(self, array: ndarray) -> None:
        self.array: ndarray | None = array


class ndarray:
    """See the text of the module."""

    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    _a: Host
    _id: int  # of its device
    _held: int = 0  # bytes of the device that are its own
    base: Any

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"):
        shape = (int(shape),) if np.isscalar(shape) else tuple(int(n) for n in shape)
        kind = checked_dtype(dtype)
        self.base = None
        if memptr is None:
            if strides is not None:
                raise NotSimulated("ndarray(strides=...) without memory")
            self._id = cuda.current()
            self._a = _allocated(shape, kind, order)
            self._held = self._a.nbytes
        else:
            if not isinstance(memptr, MemoryPointer):
                raise TypeError(f"memptr must be a MemoryPointer, got {type(memptr).__name__}")
            self._a = np.ndarray(shape, kind, memptr.memory, memptr.offset, strides)
            self.base, self._id = memptr, memptr.device_id

    def __del__(self) -> None:
        if self._held:
            cuda.release(self._id, self._held)

    # What it is.

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(Flags)
    T = property(lambda self: view(self._a.T, self))
    mT = property(lambda self: view(self._a.mT, self))
    device = property(lambda self: cuda.Device(self._id))

    @property
    def data(self) -> MemoryPointer:
        memory = _root(self._a)
        return MemoryPointer(memory, int(self._a.ctypes.data) - int(memory.ctypes.data), self._id, self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        pointer = (int(self._a.ctypes.data), False)
        return {"shape": self.shape, "typestr": self.dtype.str, "data": pointer, "version": 3, "strides": self.strides}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._id

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise NotSimulated("DLPack with a copy, or to another device")
        return Capsule(self)

    # Ways to the host, all spelled out.

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Host:
        if self.size:
            if not self._a.flags.c_contiguous and not self._a.flags.f_contiguous:
                counters.launch("copy", 1, self.size)
            counters.download(self.nbytes)
        found = np.array(self._a, order="C")
        if out is None:
            return found
        out[...] = found
        return out  # type: ignore[no-any-return]

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError(f"Shape or dtype mismatch: {arr.shape} {arr.dtype}, {self.shape} {self.dtype}")
        counters.upload(arr.nbytes)
        self._a[...] = arr

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)  # type: ignore[arg-type]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Host:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError("The truth value of an array with more than one element is ambiguous.")
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __reduce__(self) -> Any:
        return _restored, (self.get(),)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self._a)))

    # Views and copies.

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        wanted = shape[0] if len(shape) == 1 and not np.isscalar(shape[0]) else shape
        found = np.reshape(self._a, wanted, order=order)  # type: ignore[call-overload]
        if self.size and not np.shares_memory(found, self._a):
            counters.launch("copy", 1, checked(self).size)
            return own(found)
        return view(found, self)

    def transpose(self, *axes: Any) -> ndarray:
        return view(self._a.transpose(*axes), self)

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return view(self._a.swapaxes(axis1, axis2), self)

    def squeeze(self, axis: Any = None) -> ndarray:
        return view(self._a.squeeze(axis), self)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> ndarray:
        found = self._a.diagonal(offset, axis1, axis2)
        whole = np.lib.stride_tricks.as_strided(found, found.shape, found.strides, writeable=True)
        return view(whole, self)

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return view(self._a.view(checked_dtype(dtype) if dtype is not None else None), self)

    def ravel(self, order: str = "C") -> ndarray:
        return self.reshape(-1)

    def flatten(self, order: str = "C") -> ndarray:
        return self.reshape(-1).copy()

    def copy(self, order: str = "C") -> ndarray:
        """On the current device, from whatever device the array lies on: a copy of memory needs no kernel."""
        counters.launch("copy" if self._id == cuda.current() else "copy between devices", 1, self.size)
        return own(np.array(self._a, order="F" if order == "F" else "C"))

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: Any = True) -> ndarray:
        kind = checked_dtype(dtype)
        if not copy and kind == self.dtype:
            return self
        counters.launch("astype" if kind != self.dtype else "copy", 1, checked(self).size)
        with np.errstate(all="ignore"):
            return own(self._a.astype(kind))

    def fill(self, value: Any) -> None:
        if isinstance(value, ndarray):
            if value.shape:
                raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
            counters.launch("fill", 1, checked(self).size)
            self._a.fill(checked(value)._a[()])
            return
        number = np.asarray(value, self.dtype)
        if number.shape:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        as_bytes = number == 0 and self._a.flags.c_contiguous
        counters.launch("memset" if as_bytes else "fill", 1, self.size if as_bytes else checked(self).size)
        self._a.fill(number[()])

    # Indexing.

    def _key(self, key: Any) -> tuple[tuple[Any, ...], list[Host], bool]:
        """The key with host arrays, which wrap around; its arrays; and whether one is of truth values."""
        parts = list(key) if isinstance(key, tuple) else [key]
        arrays: list[Host] = []
        masked = False
        axis = 0
        count = sum(self._axes_of(p) for p in parts)
        for i, part in enumerate(parts):
            if part is None:
                continue
            if part is Ellipsis:
                axis += self.ndim - count
                continue
            if isinstance(part, slice):
                for bound in (part.start, part.stop, part.step):
                    if isinstance(bound, ndarray):
                        raise TypeError("slice indices must be integers or None or have an __index__ method")
                axis += 1
                continue
            if np.isscalar(part) and not isinstance(part, bool | np.bool_):
                axis += 1
                continue
            if not isinstance(part, ndarray):
                host = np.asarray(part)
                if isinstance(part, list | tuple) and not host.size:
                    host = host.astype(np.int32)
                if host.dtype.kind not in "biu":
                    raise IndexError(f"arrays used as indices must be of integer or boolean type ({host.dtype.type})")
                _count_upload(host, implicit=True)
            else:
                host = checked(part)._a
                if host.dtype.kind not in "biu":
                    raise IndexError(f"arrays used as indices must be of integer or boolean type ({host.dtype.type})")
            if host.dtype.kind == "b":
                masked = True
                axis += host.ndim
                parts[i] = host
            else:
                length = self.shape[axis]
                parts[i] = host.astype(np.int64) % length if length else host
                axis += 1
            arrays.append(parts[i])
        return tuple(parts), arrays, masked

    @staticmethod
    def _axes_of(part: Any) -> int:
        if part is None or part is Ellipsis:
            return 0
        if isinstance(part, ndarray | np.ndarray) and part.dtype.kind == "b":
            return part.ndim
        return 1

    def __getitem__(self, key: Any) -> ndarray:
        parts, arrays, masked = self._key(key)
        found = self._a[parts]
        if not arrays:
            found = found if isinstance(found, np.ndarray) else self._a[(*parts, Ellipsis)]
            return view(found, self)
        checked(self)
        self._count_read(arrays, masked, found.size)
        return own(np.array(found))

    @staticmethod
    def _count_read(arrays: Sequence[Host], masked: bool, size: int) -> None:
        if masked:
            counters.launch("scan of a mask", 3)
            counters.download(4)
            counters.launch("take", 1, size)
        elif len(arrays) == 1:
            counters.launch("take", 1, size)
        else:
            counters.launch("indices", 1 + len(arrays))
            counters.launch("take", 1, size)

    def __setitem__(self, key: Any, value: Any) -> None:
        parts, arrays, masked = self._key(key)
        if arrays:
            self._scatter(parts, arrays, masked, value)
            return
        target = self._a[(*parts, Ellipsis)] if Ellipsis not in [p for p in parts if p is Ellipsis] else self._a[parts]
        if isinstance(value, ndarray):
            source = value._a
            while source.ndim > target.ndim and source.shape[0] == 1:
                source = source[0]
            if source.ctypes.data == target.ctypes.data and source.strides == target.strides:
                return
            if not (target.flags.c_contiguous and source.flags.c_contiguous and source.dtype == target.dtype):
                checked(self), checked(value)  # else a copy of memory, which goes between devices
            counters.launch("copy", 1, target.size)
            with np.errstate(all="ignore"):
                target[...] = source.copy() if np.may_share_memory(source, target) else source
            return
        view(target, self).fill(value)

    def _scatter(self, parts: Any, arrays: Sequence[Host], masked: bool, value: Any) -> None:
        checked(self)
        if isinstance(value, ndarray):
            checked(value)
            if value.dtype != self.dtype:
                counters.launch("astype", 1, value.size)
            given = value._a
        else:
            given = np.asarray(value, self.dtype)
            _count_upload(given, implicit=True)
        with np.errstate(all="ignore"):
            given = given.astype(self.dtype)
        if masked:
            counters.launch("scan of a mask", 3)
            counters.download(4)
        elif len(arrays) > 1:
            counters.launch("indices", 1 + len(arrays))
        counters.launch("scatter", 1, int(np.size(given)))
        self._a[parts] = given
        if not masked and not np.array_equal(
            np.broadcast_to(given, self._a[parts].shape), self._a[parts], equal_nan=given.dtype.kind in "fc"
        ):
            raise UndefinedOnDevice("an element gets two different values: an index comes twice in the key")

    def __delitem__(self, key: Any) -> None:
        raise TypeError("'ndarray' object doesn't support item deletion")

    # Dispatch of NumPy's functions.

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .namespace import CUPY

        inout = inputs
        if "out" in kwargs:
            (out,) = kwargs["out"]
            inout, kwargs["out"] = (*inputs, out), out
        found = getattr(CUPY, function.__name__, None)
        if found is not None and method != "__call__":
            found = getattr(found, method, None)
        if found is None:
            return NotImplemented
        for x in inout:
            known = isinstance(x, ndarray | np.ndarray | np.generic) or type(x) in (int, float, bool, complex)
            if not known and not hasattr(x, "__cuda_array_interface__"):
                return NotImplemented
        if function.__name__ in COMPARISONS:
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and not x.ndim else x for x in inputs)
        return found(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from .namespace import CUPY

        try:
            module = functools.reduce(getattr, function.__module__.split(".")[1:], CUPY)
            found = getattr(module, function.__name__)
        except AttributeError:
            return NotImplemented
        if not all(issubclass(t, ndarray | np.ndarray) for t in types):
            return NotImplemented
        return found(*args, **kwargs)


COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")


def _count_upload(host: Host, implicit: bool = False) -> None:
    if host.ndim:
        counters.upload(host.nbytes, implicit)
    else:
        counters.launch("fill")  # a number is given to a kernel that fills


def _restored(host: Host) -> ndarray:
    counters.upload(host.nbytes)
    return own(host)


def checked(array: ndarray) -> ndarray:
    """``array``, which a kernel of the current device is to read or write. Raises ``ValueError`` for another's."""
    if array._id != cuda.current():
        raise ValueError(
            f"The device where the array resides ({array._id}) is different from the current device "
            f"({cuda.current()}). Peer access is unavailable between these devices."
        )
    return array


def own(host: Any) -> ndarray:
    """A device array of its own, of what NumPy has computed."""
    found: ndarray = object.__new__(ndarray)
    host = np.asarray(host)
    found._id = cuda.current()
    cuda.reserve(host.nbytes)
    found._held = host.nbytes
    if host.base is not None or not host.flags.writeable or not host.flags.forc:
        host = host.copy()
    found._a, found.base = host, None
    return found


def view(host: Host, source: ndarray) -> ndarray:
    """A device array in the memory of another."""
    found: ndarray = object.__new__(ndarray)
    found._a, found._id = host, source._id
    found.base = source.base if isinstance(source.base, ndarray) else source
    return found


def host_of(x: Any) -> Any:
    """What NumPy computes with: the array behind a device array; anything else as it is. For kernels: `checked`."""
    return checked(x)._a if isinstance(x, ndarray) else x


def _binary(name: str, swapped: bool = False) -> Callable[[ndarray, Any], Any]:
    numpy_function = getattr(np, name)

    def operation(self: ndarray, other: Any) -> Any:
        if not isinstance(other, ndarray) and getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return numpy_function(other, self) if swapped else numpy_function(self, other)

    return operation


def _in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    def operation(self: ndarray, other: Any) -> ndarray:
        from .namespace import CUPY

        getattr(CUPY, name)(self, other, self)
        return self

    return operation


def _compare(name: str) -> Callable[[ndarray, Any], Any]:
    numpy_function = getattr(np, name)

    def operation(self: ndarray, other: Any) -> Any:
        if not isinstance(other, ndarray):
            if getattr(other, "__array_ufunc__", self) is None:
                return NotImplemented
            if other is None or type(other).__eq__ is object.__eq__:
                if name not in ("equal", "not_equal"):
                    return NotImplemented
                counters.launch("fill", 1, self.size)
                return own(np.full(self.shape, name == "not_equal"))
        return numpy_function(self, other)

    return operation


_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "lshift": "left_shift", "rshift": "right_shift", "and": "bitwise_and",
    "or": "bitwise_or", "xor": "bitwise_xor", "matmul": "matmul",
}  # fmt: skip
for _short, _name in _OPERATORS.items():
    setattr(ndarray, f"__{_short}__", _binary(_name))
    setattr(ndarray, f"__r{_short}__", _binary(_name, swapped=True))
    if _short != "matmul":
        setattr(ndarray, f"__i{_short}__", _in_place(_name))
_COMPARE = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
for _short, _name in _COMPARE.items():
    setattr(ndarray, f"__{_short}__", _compare(_name))
ndarray.__neg__ = lambda self: np.negative(self)  # type: ignore[attr-defined]
ndarray.__pos__ = lambda self: np.positive(self)  # type: ignore[attr-defined]
ndarray.__abs__ = lambda self: np.absolute(self)  # type: ignore[attr-defined]
ndarray.__invert__ = lambda self: np.invert(self)  # type: ignore[attr-defined]

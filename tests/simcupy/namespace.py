"""The module that takes CuPy's place: what is simulated, and for other names whether CuPy has them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from . import compute, cublas, cuda, functions, kernels
from .array import MemoryPointer, ndarray
from .errors import NotSimulated
from .ufuncs import ufunc

API: dict[str, Any] = json.loads(Path(__file__).with_name("api.json").read_text())
WHERE = ufunc("where", "cupy_where", 3, 1, [f"?{c}{c}->{c}" for c in "?bBhHiIlLqQefdFD"])
WHERE.function = np.where


class _Module(ModuleType):
    """A module that tells names that CuPy lacks from names that are not simulated."""

    def __init__(self, name: str, api: dict[str, Any]) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self._api = api

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_api", {}):
            raise NotSimulated(f"{self.__name__}.{name} exists in CuPy {API['version']}, but is not simulated")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _cupy() -> _Module:
    module = _Module("cupy", API["cupy"])
    for name, entry in API["cupy"].items():
        if "ufunc" in entry:
            setattr(module, name, ufunc(name, entry["ufunc"], entry["nin"], entry["nout"], entry["types"]))
        elif hasattr(np, name) and (np.isscalar(getattr(np, name)) or isinstance(getattr(np, name), type)):
            setattr(module, name, getattr(np, name))  # pi, nan, dtypes and scalar types are NumPy's
    for name, made in functions.FUNCTIONS.items():
        setattr(module, name, made)
    for name in ("RawKernel", "RawModule", "ElementwiseKernel", "ReductionKernel", "fuse"):
        setattr(module, name, getattr(kernels, name))
    tricks = _Module("cupy.lib.stride_tricks", API["cupy.lib.stride_tricks"])
    vars(tricks).update(as_strided=functions.as_strided)
    of_arrays = _Module("cupy.cublas", API["cupy.cublas"])
    vars(of_arrays).update({made.__name__: made for made in cublas.OF_ARRAYS})
    vars(module).update(
        __version__=API["version"],
        ndarray=ndarray,
        newaxis=None,
        get_default_memory_pool=lambda: cuda.POOL,
        get_array_module=_array_module,
        _core=compute.CORE,
        cuda=_cuda(),
        linalg=_filled(_Module("cupy.linalg", API["cupy.linalg"]), functions.linalg),
        lib=SimpleNamespace(stride_tricks=tricks),
        cublas=of_arrays,
    )
    return module


def _filled(module: _Module, source: Any) -> _Module:
    for name in vars(source):
        if not name.startswith("_"):
            setattr(module, name, getattr(source, name))
    return module


def _cuda() -> _Module:
    module = _Module("cupy.cuda", API["cupy.cuda"])
    for name in ("Device", "Stream", "Event", "MemoryPool", "get_current_stream", "get_elapsed_time", "runtime"):
        setattr(module, name, getattr(cuda, name))
    of_addresses = _Module("cupy.cuda.cublas", API["cupy.cuda.cublas"])
    vars(of_addresses).update(cublas.OF_ADDRESSES)
    vars(of_addresses).update({name: value for name, value in vars(cublas).items() if name.startswith("CUBLAS")})
    vars(module).update(
        MemoryPointer=MemoryPointer,
        memory=SimpleNamespace(OutOfMemoryError=cuda.OutOfMemoryError),
        is_available=lambda: True,
        get_cublas_handle=cublas.get_cublas_handle,
        device=SimpleNamespace(
            Device=cuda.Device, get_cublas_handle=cublas.get_cublas_handle, get_device_id=cuda.current
        ),
        cublas=of_addresses,
    )
    return module


def _array_module(*args: Any) -> Any:
    return CUPY if any(isinstance(a, ndarray) for a in args) else np


CUPY = _cupy()

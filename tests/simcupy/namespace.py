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
    module.__version__ = API["version"]  # type: ignore[attr-defined]
    for name, entry in API["cupy"].items():
        if "ufunc" in entry:
            setattr(module, name, ufunc(name, entry["ufunc"], entry["nin"], entry["nout"], entry["types"]))
        elif hasattr(np, name) and (np.isscalar(getattr(np, name)) or isinstance(getattr(np, name), type)):
            setattr(module, name, getattr(np, name))  # pi, nan, dtypes and scalar types are NumPy's
    for name, made in functions.FUNCTIONS.items():
        setattr(module, name, made)
    module.ndarray = ndarray  # type: ignore[attr-defined]
    module.newaxis = None  # type: ignore[attr-defined]
    module.get_default_memory_pool = lambda: cuda.POOL  # type: ignore[attr-defined]
    module.get_array_module = _array_module  # type: ignore[attr-defined]
    for name in ("RawKernel", "RawModule", "ElementwiseKernel", "ReductionKernel", "fuse"):
        setattr(module, name, getattr(kernels, name))
    module._core = compute.CORE  # type: ignore[attr-defined]
    module.cuda = _cuda()  # type: ignore[attr-defined]
    module.linalg = _filled(_Module("cupy.linalg", API["cupy.linalg"]), functions.linalg)  # type: ignore[attr-defined]
    tricks = _Module("cupy.lib.stride_tricks", API["cupy.lib.stride_tricks"])
    tricks.as_strided = functions.as_strided  # type: ignore[attr-defined]
    module.lib = SimpleNamespace(stride_tricks=tricks)  # type: ignore[attr-defined]
    module.cublas = _Module("cupy.cublas", API["cupy.cublas"])  # type: ignore[attr-defined]
    for made in cublas.OF_ARRAYS:
        setattr(module.cublas, made.__name__, made)
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
    module.MemoryPointer = MemoryPointer  # type: ignore[attr-defined]
    module.memory = SimpleNamespace(OutOfMemoryError=cuda.OutOfMemoryError)  # type: ignore[attr-defined]
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.get_cublas_handle = cublas.get_cublas_handle  # type: ignore[attr-defined]
    module.device = SimpleNamespace(  # type: ignore[attr-defined]
        Device=cuda.Device, get_cublas_handle=cublas.get_cublas_handle, get_device_id=cuda.current
    )
    module.cublas = _Module("cupy.cuda.cublas", API["cupy.cuda.cublas"])  # type: ignore[attr-defined]
    constants = {name: value for name, value in vars(cublas).items() if name.startswith(("CUBLAS", "CUBLASError"))}
    for name, value in {**cublas.OF_ADDRESSES, **constants}.items():
        setattr(module.cublas, name, value)
    return module


def _array_module(*args: Any) -> Any:
    return CUPY if any(isinstance(a, ndarray) for a in args) else np


CUPY = _cupy()

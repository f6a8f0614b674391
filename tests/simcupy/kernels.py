"""Kernels of one's own. ``RawKernel`` and ``RawModule`` run: the CUDA C is compiled as C++ (see emulate.py).

The kernels that CuPy writes around a few lines of code are refused.
"""

from __future__ import annotations

from typing import Any

from . import counters, emulate
from .array import checked, ndarray
from .errors import NotSimulated


class RawModule:
    """CUDA C with one or more kernels, each declared ``extern "C" __global__ void name(...)``."""

    def __init__(
        self, *, code: str | None = None, path: Any = None, options: Any = (), backend: str = "nvrtc",
        translate_cucomplex: bool = False, enable_cooperative_groups: bool = False, name_expressions: Any = None,
        jitify: bool = False,
    ) -> None:  # fmt: skip
        if code is None or name_expressions is not None:
            raise NotSimulated("RawModule without code, or with name_expressions")
        self.code, self.cooperative = code, enable_cooperative_groups
        self.library = emulate.compiled(code)

    def get_function(self, name: str) -> RawKernel:
        kernel = object.__new__(RawKernel)
        kernel.name, kernel.run, kernel.cooperative = name, self.library.kernel(name), self.cooperative
        return kernel


class RawKernel:
    """One kernel: ``kernel(grid, block, args)``."""

    name: str
    run: Any
    cooperative: bool

    def __init__(
        self, code: str, name: str, options: Any = (), backend: str = "nvrtc", translate_cucomplex: bool = False, *,
        enable_cooperative_groups: bool = False, jitify: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.run, self.cooperative = name, emulate.compiled(code).kernel(name), enable_cooperative_groups

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        counters.launch(f"RawKernel {self.name}")
        addresses = [checked(a).data.ptr if isinstance(a, ndarray) else a for a in args]
        self.run(grid, block, addresses, shared_mem, self.cooperative)


def _refused(name: str) -> Any:
    class Refused:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise NotSimulated(f"cupy.{name}")

    Refused.__name__ = name
    return Refused


ElementwiseKernel, ReductionKernel = _refused("ElementwiseKernel"), _refused("ReductionKernel")


def fuse(*args: Any, **kwargs: Any) -> Any:
    """Refused."""
    raise NotSimulated("cupy.fuse")

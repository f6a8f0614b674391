"""A strict stand-in for CuPy that computes with NumPy: tests of GPU code on machines without a GPU.

    from tests import simcupy
    simcupy.install()                    # ``import cupy`` gives the simulator from here on
    import cupy

    with simcupy.counting("lazyflow/") as seen:
        step()
    print(seen)                          # launches, copies, waits
    print(seen.table())                  # the lines of lazyflow that asked for them

For the tests: ``python -m pytest --device simulated``. What it is strict about, and what it cannot show: README.md.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .counters import Counters, counting
from .errors import NotSimulated, UndefinedOnDevice

__all__ = ["Counters", "NotSimulated", "UndefinedOnDevice", "counting", "install", "uninstall"]


def install() -> None:
    """From here on ``import cupy`` gives the simulator. Raises ``RuntimeError`` where CuPy was imported before."""
    from .namespace import CUPY

    known = sys.modules.get("cupy")
    if known is not None and known is not CUPY:
        raise RuntimeError("cupy was imported before the simulator was installed")
    sys.modules["cupy"] = CUPY
    sys.modules.update(_submodules(CUPY))


def uninstall() -> None:
    """Take the simulator away again."""
    from .namespace import CUPY

    for name in ("cupy", *_submodules(CUPY)):
        sys.modules.pop(name, None)


def _submodules(cupy: Any) -> dict[str, Any]:
    parents = {name: ModuleType(name) for name in ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs")}
    for name, parent in parents.items():
        parent.__path__ = []
        setattr(parents.get(name.rpartition(".")[0], parent), name.rpartition(".")[2], parent)
    parents["cupy_backends.cuda.libs"].cublas = cupy.cuda.cublas  # type: ignore[attr-defined]
    return {
        **{f"cupy.{name}": getattr(cupy, name) for name in ("cublas", "cuda", "linalg")},
        **{f"cupy.cuda.{name}": getattr(cupy.cuda, name) for name in ("cublas", "device", "runtime")},
        **parents,
        "cupy_backends.cuda.libs.cublas": cupy.cuda.cublas,
    }

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
    for name in ("cuda", "linalg"):
        sys.modules[f"cupy.{name}"] = getattr(CUPY, name)


def uninstall() -> None:
    """Take the simulator away again."""
    for name in ("cupy", "cupy.cuda", "cupy.linalg"):
        sys.modules.pop(name, None)

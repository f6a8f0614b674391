"""The settings of a ``with lf.using(...)`` block: one frozen record per thread, never a global switch or an
environment flag."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lazyflow.device import canonical
from lazyflow.errors import DTypeError
from lazyflow.threads import cores

FUSIONS = ("auto", "numba", "numpy", "off")
BATCHINGS = ("phases", "levels", "frontier", "depth", "agenda", "none")


FLOAT32: np.dtype[Any] = np.dtype(np.float32)


@dataclass(frozen=True)
class Settings:
    """What holds inside a ``with`` block.

    ``batching``: how operations are grouped into launches. ``device``: where what is recorded runs. ``dtype``: of
    Python numbers, lists and initialisers. ``grad``: whether what is recorded can be differentiated. ``check_finite``:
    record the line of every operation and raise at the first NaN or infinity. ``fuse``: what runs the elementwise parts
    of a cell: ``"numba"`` (one compiled loop; needs the extra ``jit``; elementwise operations that stand together
    outside of cells are compiled, too), ``"numpy"`` (NumPy calls over blocks that stay in cache), ``"off"`` (one
    operation after another), ``"auto"`` (numba where it is installed, else NumPy).
    ``dedupe``: nodes that compute the same are computed once. ``threads``: of BLAS, in the products of a run; ``"all"``
    for as many as there are cores.
    """

    batching: str = "phases"
    device: str = "cpu"
    dtype: np.dtype[Any] = FLOAT32
    grad: bool = True
    check_finite: bool = False
    fuse: str = "auto"
    dedupe: bool = True
    threads: int = 1


class _Local(threading.local):
    def __init__(self) -> None:
        self.settings = Settings()


_local = _Local()
_on_change: list[Callable[[], None]] = []
_before_change: list[Callable[[], None]] = []


def current() -> Settings:
    """The settings of this thread."""
    return _local.settings


def before_change(check: Callable[[], None]) -> None:
    """Call ``check``, which may raise, before a block of settings is entered."""
    _before_change.append(check)


def on_change(callback: Callable[[], None]) -> None:
    """Call ``callback`` whenever a block of settings is entered or left (recording closes its tape there)."""
    _on_change.append(callback)


def _checked(name: str, value: Any) -> Any:
    if name == "batching" and value not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}; got {value!r}")
    if name == "fuse":
        return _checked_fusion(value)
    if name == "threads":
        return _checked_threads(value)
    if name == "device":
        return canonical(value)
    if name == "dtype":
        dtype = np.dtype(value)
        if dtype.kind != "f":
            raise DTypeError(f"the default dtype must be float16, float32 or float64, got {dtype}")
        return dtype
    return bool(value) if name in ("grad", "check_finite", "dedupe") else value


def _checked_threads(value: Any) -> int:
    if value == "all":
        return cores()
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"threads must be a positive number or 'all', got {value!r}")
    return value


def _checked_fusion(value: Any) -> Any:
    if value not in FUSIONS:
        raise ValueError(f"fuse must be one of {', '.join(FUSIONS)}; got {value!r}")
    if value == "numba" and importlib.util.find_spec("numba") is None:
        raise ImportError(
            "fuse='numba' needs numba, which is not installed: pip install 'lazyflow[jit]', or fuse='numpy'"
        )
    return value


class using(ContextDecorator):
    """Settings for a ``with`` block (or, as a decorator, for a function); blocks nest.

    >>> import lazyflow as lf
    >>> with lf.using(batching="depth", dtype="float64"):
    ...     lf.constant([1.0, 2.0]).dtype
    dtype('float64')

    Raises ``TypeError`` for an unknown setting and ``ValueError``, ``DTypeError`` or ``DeviceError`` for a value that
    does not fit.
    """

    def __init__(self, **changes: Any) -> None:
        known = {f.name for f in fields(Settings)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise TypeError(f"unknown setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        self.changes = {name: _checked(name, value) for name, value in changes.items()}
        self.outer: list[Settings] = []

    def _recreate_cm(self) -> using:
        # A decorated function may run in several threads: each call has settings of its own to go back to.
        again = object.__new__(type(self))
        again.changes, again.outer = self.changes, []
        return again

    def _set(self, settings: Settings) -> None:
        _local.settings = settings
        for callback in _on_change:
            callback()

    def __enter__(self) -> Settings:
        for check in _before_change:
            check()
        self.outer.append(_local.settings)
        self._set(replace(_local.settings, **self.changes))
        return _local.settings

    def __exit__(self, *error: object) -> None:
        self._set(self.outer.pop())


class no_grad(using):
    """``using(grad=False)``: what is recorded inside cannot be differentiated, and memory is freed as soon as it was
    read.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> with lf.no_grad():
    ...     (w * w).requires_grad
    False
    """

    def __init__(self) -> None:
        super().__init__(grad=False)

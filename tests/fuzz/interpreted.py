"""Kernels that lazyflow prints for numba, run as plain Python: the same text, without the seconds of compiling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _njit(*functions: Any, **options: Any) -> Any:
    return functions[0] if functions else lambda function: function


class _Math:
    """Python's ``math`` as compiled code has it: special values, no exceptions."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = getattr(np, {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "asin": "arcsin",
                             "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}.get(name, name), None)  # fmt: skip
        if found is None:
            import math

            found = np.vectorize(getattr(math, name), otypes=[float])
        return lambda *given: np.float64(found(*(np.float64(v) for v in given)))


@functools.lru_cache(maxsize=512)
def interpreted(text: str) -> Any:
    """The module of a printed source."""
    names: dict[str, Any] = {}
    exec(compile(text.replace("from numba import njit", "from tests.fuzz.interpreted import _njit as njit"),
                 "<kernel>", "exec"), names)  # fmt: skip
    if "math" in names:
        names["math"] = _Math()
    return SimpleNamespace(**names)


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Kernels are interpreted in here, as if numba was installed."""
    from lazyflow import jit, settings
    from lazyflow.fuse import compiled

    with ExitStack() as stack:
        stack.enter_context(replaced(compiled, "_loaded", lambda text: interpreted(text).kernel))
        stack.enter_context(replaced(settings, "_checked_fusion", lambda value: value))
        stack.enter_context(replaced(jit, "row_copies", lambda: interpreted(jit._ROW_COPIES)))
        stack.enter_context(interpreted_loops())
        yield


@contextmanager
def interpreted_loops() -> Iterator[None]:
    """The loops of graph passes as they stand, where numba is not installed."""
    from lazyflow import jit

    with replaced(jit, "compiled", jit.compiled if jit.is_available() else lambda function: function):
        yield

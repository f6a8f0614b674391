"""``cupy._core.get_compute_type`` and ``set_compute_type``: how matrices are multiplied, for all threads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import NotSimulated

COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32 = 1, 7
of_float32 = COMPUTE_TYPE_DEFAULT


def get_compute_type(dtype: Any) -> int:
    return of_float32 if np.dtype(dtype) == np.float32 else COMPUTE_TYPE_DEFAULT


def set_compute_type(dtype: Any, compute_type: int) -> None:
    global of_float32
    if np.dtype(dtype) != np.float32 or compute_type not in (COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32):
        raise NotSimulated(f"compute type {compute_type} of {np.dtype(dtype)}")
    of_float32 = compute_type


def rounded(x: Any) -> Any:
    """float32 with 10 bits behind the binary point, to nearest, as tensor cores read it."""
    bits = (np.ascontiguousarray(x).view(np.uint32) + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), bits.view(np.float32), x)


CORE = SimpleNamespace(
    get_compute_type=get_compute_type,
    set_compute_type=set_compute_type,
    _routines_linalg=SimpleNamespace(COMPUTE_TYPE_DEFAULT=COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32=COMPUTE_TYPE_TF32),
)

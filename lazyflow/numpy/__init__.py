"""NumPy's names over expressions and arrays alike: arrays compute at once, as NumPy does, expressions record.

So a program written with NumPy runs as it is, and `lazyflow.grad` differentiates it:

>>> import lazyflow.numpy as np
>>> from lazyflow import grad
>>> def energy(x):
...     return np.sum(np.tanh(x) ** 2)
>>> energy(np.array([0.0, 1.0])).round(6), grad(energy)(np.array([0.0, 1.0])).round(6)
(np.float64(0.580026), array([0.    , 0.6397]))

There are the constants, dtypes and creation functions of NumPy itself, `linalg`, and `random` by named streams. NumPy's
own functions work, too, once an expression is among the arguments (NEP 13 and NEP 18): ``numpy.tanh(expression)``.
What has no counterpart that records raises; nothing falls back to values, past which no gradient would flow. ``fft``
is missing, as there are no complex numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from lazyflow.numpy import dispatch, linalg, random
from lazyflow.record.expr import PROTOCOLS

# NumPy's own: constants, dtypes, what makes arrays out of numbers, what looks at dtypes.
_CONSTANTS = ("pi", "e", "inf", "nan", "newaxis", "euler_gamma")
_DTYPES = (
    "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "intp", "floating", "integer", "number",
)  # fmt: skip
_CREATION = (
    "arange", "empty", "eye", "full", "geomspace", "identity", "indices", "logspace", "meshgrid", "ones", "tri",
    "zeros", "from_dlpack", "dtype", "ndarray", "finfo", "iinfo", "isdtype", "issubdtype", "can_cast",
    "promote_types", "broadcast_shapes", "errstate", "set_printoptions",
)  # fmt: skip

# What NumPy has since 2.1.
_LATER: Mapping[str, Callable[..., Any]] = {
    "astype": lambda x, dtype: x.astype(dtype),
    "unstack": lambda x, axis=0: tuple(numpy.moveaxis(x, axis, 0)),
}

_both = {
    name: dispatch.either(name, recorded, getattr(numpy, name, None) or _LATER[name])
    for name, recorded in dispatch.EXPRESSIONS.items()
    if hasattr(numpy, name) or name in _LATER
}
_numpys = {name: getattr(numpy, name) for name in (*_CONSTANTS, *_DTYPES, *_CREATION)}

globals().update(_both)
globals().update(_numpys)

__array_api_version__ = "2024.12"
__all__ = [*sorted({*_both, *_numpys}), "linalg", "random"]


def __getattr__(name: str) -> Any:
    raise AttributeError(f"lazyflow.numpy does not offer {name!r}; NumPy's own numpy.{name} takes values, see .numpy()")


def _namespace(api_version: str | None) -> Any:
    """The array API's way from an array to its functions."""
    if api_version is not None and api_version > __array_api_version__:
        raise ValueError(f"the functions here follow version {__array_api_version__} of the array API at the latest")
    return sys.modules[__name__]


PROTOCOLS["array_namespace"] = _namespace

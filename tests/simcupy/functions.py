"""CuPy's functions and the methods that compute, with CuPy's parameters, and what each costs in launches.

The counts follow CuPy 14.2's sources with its default accelerator (CUB). Where CuPy computes another way than NumPy,
so does this: sums of float16 in float32, products of float16 by way of float32, indices that wrap around.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import compute, counters, cuda
from .array import Capsule, _count_upload, checked, checked_dtype, host_of, ndarray, own, view
from .errors import NotSimulated

# What cupy.__getattr__ gives; filled by `function`.
FUNCTIONS: dict[str, Callable[..., Any]] = {}


def function(made: Callable[..., Any]) -> Callable[..., Any]:
    """Note a function under its name, without a trailing underscore."""
    FUNCTIONS[made.__name__.rstrip("_")] = made
    return made


def _seen(x: Any, what: str = "a") -> ndarray:
    """An array to look at: a view of it needs no kernel, whatever device is current."""
    if not isinstance(x, ndarray):
        raise TypeError(f"Unsupported type {type(x)}: {what} must be a cupy.ndarray")
    return x


def _array(x: Any, what: str = "a") -> ndarray:
    """An array that a kernel is to read."""
    return checked(_seen(x, what))


# Making arrays.


@function
def array(
    obj: Any, dtype: Any = None, copy: Any = True, order: Any = "K", subok: bool = False, ndmin: int = 0,
    blocking: bool = False,
) -> ndarray:  # fmt: skip
    return _as_device(obj, dtype, copy, ndmin)


@function
def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return _as_device(a, dtype, copy, 0)


@function
def asanyarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return _as_device(a, dtype, copy, 0)


def _as_device(obj: Any, dtype: Any, copy: Any, ndmin: int) -> ndarray:
    kind = None if dtype is None else checked_dtype(dtype)
    if isinstance(obj, ndarray):
        if obj._id != cuda.current():
            return obj.copy().astype(kind or obj.dtype, copy=False)
        same = kind is None or kind == obj.dtype
        return obj if same and not copy else obj.copy() if same else obj.astype(kind)
    if isinstance(obj, list | tuple) and obj and all(isinstance(part, ndarray) for part in obj):
        found = stack(obj) if obj[0].ndim else concatenate([part.reshape(1) for part in obj])
        return found if kind is None else found.astype(kind, copy=False)
    if _holds_device(obj):
        raise NotSimulated("an array from a nest of device arrays")
    host = np.array(obj, dtype=kind, ndmin=ndmin)
    checked_dtype(host.dtype)
    _count_upload(host)
    return own(host)


def _holds_device(obj: Any) -> bool:
    return isinstance(obj, list | tuple) and any(isinstance(p, ndarray) or _holds_device(p) for p in obj)


@function
def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a)


@function
def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    kind = a.dtype if dtype is None else checked_dtype(dtype)
    if kind == a.dtype and a.flags.c_contiguous:
        return a.reshape(1) if not a.ndim else a
    counters.launch("copy", 1, a.size)
    return own(np.array(_array(a)._a, kind, order="C", ndmin=1))


@function
def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def _made(host: Any, kind: str) -> ndarray:
    found = own(host)
    if found.size:
        counters.launch(kind, 1, found.size)
    return found


@function
def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _made(np.zeros(_shape(shape), checked_dtype(dtype)), "memset")


@function
def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _made(np.ones(_shape(shape), checked_dtype(dtype)), "fill")


@function
def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    if isinstance(fill_value, np.ndarray) and fill_value.shape:
        raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
    return _made(np.full(_shape(shape), host_of(fill_value), None if dtype is None else checked_dtype(dtype)), "fill")


def _shape(shape: Any) -> Any:
    return int(shape) if np.isscalar(shape) else tuple(operator.index(n) for n in shape)


@function
def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return ndarray(_array(prototype).shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


@function
def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return zeros(_array(a).shape if shape is None else shape, a.dtype if dtype is None else dtype)


@function
def ones_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return ones(_array(a).shape if shape is None else shape, a.dtype if dtype is None else dtype)


@function
def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    return full(_array(a).shape if shape is None else shape, fill_value, a.dtype if dtype is None else dtype)


@function
def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    host = np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype=dtype)
    return _made(host, "arange")


@function
def eye(N: int, M: Any = None, k: int = 0, dtype: Any = float, order: str = "C") -> ndarray:
    counters.launch("fill")
    return _made(np.eye(N, M, k, checked_dtype(dtype)), "memset")


@function
def tri(N: int, M: Any = None, k: int = 0, dtype: Any = float) -> ndarray:
    return _made(np.tri(N, M, k, checked_dtype(dtype)), "tri")


def _triangle(m: Any, k: int, numpy_function: Any) -> ndarray:
    counters.launch("tri")
    return _made(numpy_function(_array(m)._a, k), "where")


@function
def tril(m: Any, k: int = 0) -> ndarray:
    return _triangle(m, k, np.tril)


@function
def triu(m: Any, k: int = 0) -> ndarray:
    return _triangle(m, k, np.triu)


# Views.


@function
def reshape(a: Any, newshape: Any, order: str = "C", *, copy: Any = None) -> ndarray:
    return _seen(a).reshape(newshape)


@function
def transpose(a: Any, axes: Any = None) -> ndarray:
    return view(np.transpose(_seen(a)._a, axes), a)


@function
def moveaxis(a: Any, source: Any, destination: Any) -> ndarray:
    return view(np.moveaxis(_seen(a)._a, source, destination), a)


@function
def swapaxes(a: Any, axis1: int, axis2: int) -> ndarray:
    return _seen(a).swapaxes(axis1, axis2)


@function
def ravel(a: Any, order: str = "C") -> ndarray:
    return _seen(a).ravel()


@function
def squeeze(a: Any, axis: Any = None) -> ndarray:
    return _seen(a).squeeze(axis)


@function
def expand_dims(a: Any, axis: Any) -> ndarray:
    return view(np.expand_dims(_seen(a)._a, axis), a)


@function
def broadcast_to(array: Any, shape: Any) -> ndarray:
    return view(np.broadcast_to(_seen(array)._a, shape), array)


@function
def broadcast_arrays(*args: Any) -> list[ndarray]:
    hosts = np.broadcast_arrays(*(_seen(a)._a for a in args))
    return [view(h, a) for h, a in zip(hosts, args, strict=True)]


@function
def flip(a: Any, axis: Any = None) -> ndarray:
    return view(np.flip(_seen(a)._a, axis), a)


@function
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> ndarray:
    return _seen(a).diagonal(offset, axis1, axis2)


# Joining, repeating, choosing.


@function
def concatenate(tup: Any, axis: Any = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    arrays = list(tup)
    for a in arrays:
        if not isinstance(a, ndarray):
            raise TypeError("Only cupy arrays can be concatenated" if np.isscalar(a) else f"Unsupported type {type(a)}")
        if not a.ndim:
            raise TypeError("zero-dimensional arrays cannot be concatenated")
    if len(arrays) > 8:
        counters.launch("concatenate", 1, sum(a.size for a in arrays))
        counters.upload(8 * len(arrays), implicit=True)
    else:
        for a in arrays:
            counters.launch("copy", 1, a.size)
    host = np.concatenate([checked(a)._a for a in arrays], axis, dtype=dtype, casting=casting)  # type: ignore[call-overload]
    return _into(out, host, counted=True)


def _into(out: Any, host: Any, counted: bool = False) -> ndarray:
    """``host`` as a new array, or written to ``out``."""
    if out is None:
        return own(host)
    if not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    if out.shape != np.shape(host):
        raise ValueError(f"Output array has the wrong shape: {out.shape}, {np.shape(host)}")
    if not np.can_cast(np.asarray(host).dtype, out.dtype, "same_kind"):
        raise TypeError(f"Cannot cast {np.asarray(host).dtype} to {out.dtype}")
    checked(out)._a[...] = host
    return out


@function
def stack(tup: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    return concatenate([expand_dims(x, axis) for x in tup], axis, out, dtype=dtype, casting=casting)


@function
def vstack(tup: Any, *, dtype: Any = None, casting: str = "same_kind") -> ndarray:
    return concatenate([a.reshape(1, -1) if a.ndim < 2 else a for a in tup], 0, dtype=dtype, casting=casting)


@function
def roll(a: Any, shift: Any, axis: Any = None) -> ndarray:
    counters.launch("copy", 2 ** (1 if axis is None or np.isscalar(axis) else len(axis)), _array(a).size)
    return own(np.roll(a._a, shift, axis))


@function
def repeat(a: Any, repeats: Any, axis: Any = None) -> ndarray:
    if isinstance(repeats, np.ndarray):
        raise TypeError("'repeats' does not accept numpy.ndarray; convert with cupy.array() first")
    if isinstance(repeats, ndarray | list | tuple):
        if not isinstance(repeats, ndarray):
            counters.upload(8 * len(repeats), implicit=True)
        if np.size(host_of(repeats)) > 1:  # min, cumsum, two waits, arange, searchsorted, take
            counters.launch("repeat", 6)
            counters.download(8)
            counters.download(8)
            return own(np.repeat(_array(a)._a, host_of(repeats), axis))
        counters.download(8)
    return _made(np.repeat(_array(a)._a, host_of(repeats), axis), "copy")


@function
def tile(A: Any, reps: Any) -> ndarray:
    return _made(np.tile(_array(A)._a, reps), "copy")


@function
def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return nonzero(condition)
    from .namespace import WHERE

    if not isinstance(condition, ndarray):
        raise AttributeError(f"{type(condition).__name__!r} object has no attribute 'astype'")
    return WHERE(condition.astype("?", copy=False), x, y)


@function
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    target = _array(dst, "dst")
    if isinstance(src, np.ndarray):
        if src.size != 1:
            raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
        src = src.reshape(())[()]
    value = host_of(src)
    if isinstance(src, ndarray | np.generic):
        if not np.can_cast(src.dtype, target.dtype, casting):  # type: ignore[arg-type]
            raise TypeError(f"Cannot cast {src.dtype} to {target.dtype} in {casting} casting mode")
    else:
        np.copyto(np.empty((), target.dtype), src, casting=casting)  # type: ignore[arg-type]
    mask = True
    if where is not None:
        if not isinstance(where, ndarray | bool | np.bool_):
            raise TypeError(f"Unsupported type {type(where)}")
        mask = host_of(where)
        if isinstance(where, ndarray) and where.dtype != np.bool_:
            raise TypeError(
                f"Cannot cast array data from {where.dtype!r} to dtype('bool') according to the rule 'safe'"
            )
    if target.size:
        counters.launch("copy", 1, target.size)
    with np.errstate(all="ignore"):
        np.copyto(target._a, value.copy() if isinstance(src, ndarray) else value, casting="unsafe", where=mask)


@function
def take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    return _array(a).take(indices, axis, out)


def _take(self: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    if not isinstance(indices, ndarray) and not np.isscalar(indices):
        host = np.asarray(indices, dtype=int)
        _count_upload(host, implicit=True)
    else:
        host = np.asarray(host_of(indices))
    if out is not None:
        if not isinstance(out, ndarray):
            raise TypeError(f"Argument 'out' has incorrect type (expected ndarray, got {type(out).__name__})")
        if out.dtype != self.dtype:
            raise TypeError("Output dtype mismatch")
    if self.size:
        value = np.take(checked(self)._a, host, axis, mode="wrap")
    else:
        place = 0 if axis is None else axis % self.ndim
        shape = self.shape if axis is not None else (self.size,)
        value = np.empty((*shape[:place], *host.shape, *shape[place + 1 :]), self.dtype)
        if value.size:
            raise IndexError("cannot do a non-empty take from an empty axes.")
    if out is not None and out.shape != value.shape:
        raise ValueError("Output shape mismatch")
    if value.size:
        counters.launch("take", 1, value.size)
    return _into(out, value)


ndarray.take = _take  # type: ignore[attr-defined]


@function
def take_along_axis(a: Any, indices: Any, axis: Any) -> ndarray:
    counters.launch("arange", _array(a).ndim - 1)
    counters.launch("indices", 1 + a.ndim)
    return _made(np.take_along_axis(a._a, _array(indices)._a, axis), "take")


@function
def nonzero(a: Any) -> tuple[ndarray, ...]:
    counters.launch("scan of a mask", 4)
    counters.download(4)
    return tuple(own(x) for x in np.nonzero(_array(a)._a))


@function
def flatnonzero(a: Any) -> ndarray:
    return nonzero(_array(a).ravel())[0]


@function
def count_nonzero(a: Any, axis: Any = None) -> ndarray:
    return _made(np.count_nonzero(_array(a)._a, axis), "reduce")


@function
def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> ndarray:
    return _made(np.searchsorted(_array(a)._a, _array(v)._a, side), "searchsorted")  # type: ignore[call-overload]


# Reductions.


def _reduced(name: str, launches: int = 1, halves: bool = False) -> Callable[..., ndarray]:
    numpy_function = getattr(np, name)

    def reduce(a: Any, axis: Any, out: Any, keepdims: Any, **more: Any) -> ndarray:
        source = _array(a)._a
        kind = more.get("dtype") or source.dtype
        if halves and np.dtype(kind) == np.float16:
            more["dtype"] = np.float32
        counters.launch(name, launches, a.size)
        with np.errstate(all="ignore"):
            if halves and source.dtype.kind == "f" and axis is not None:
                host = _in_a_tree(numpy_function, source, axis, bool(keepdims), more)
            else:
                host = numpy_function(source, axis=axis, keepdims=bool(keepdims), **more)
            if halves and np.dtype(kind) == np.float16:
                host = np.asarray(host).astype(np.float16)
        return _into(out, host)

    return reduce


def _in_a_tree(numpy_function: Any, source: Any, axis: Any, keepdims: bool, more: dict[str, Any]) -> Any:
    """A reduction as the threads of a block make it, pairwise: NumPy adds so along memory only, else one by one."""
    axes = sorted(a % source.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
    kept = [a for a in range(source.ndim) if a not in axes]
    behind = np.ascontiguousarray(source.transpose(kept + axes))
    last = tuple(range(len(kept), source.ndim))
    host = numpy_function(behind, axis=last, **more)
    return np.expand_dims(host, tuple(axes)) if keepdims else host


_sum, _prod, _mean = _reduced("sum", halves=True), _reduced("prod", halves=True), _reduced("mean", halves=True)
_max, _min, _any, _all = (_reduced(n) for n in ("max", "min", "any", "all"))
_var, _std = _reduced("var", 2, halves=True), _reduced("std", 3, halves=True)
_argmax, _argmin = _reduced("argmax"), _reduced("argmin")


@function
def sum_(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _sum(a, axis, out, keepdims, dtype=dtype)


@function
def prod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _prod(a, axis, out, keepdims, dtype=dtype)


@function
def mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _mean(a, axis, out, keepdims, dtype=dtype)


@function
def var(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: Any = False) -> ndarray:
    return _var(a, axis, out, keepdims, dtype=dtype, ddof=ddof)


@function
def std(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: Any = False) -> ndarray:
    return _std(a, axis, out, keepdims, dtype=dtype, ddof=ddof)


@function
def max_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _max(a, axis, out, keepdims)


@function
def min_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _min(a, axis, out, keepdims)


@function
def any_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _any(a, axis, out, keepdims)


@function
def all_(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> ndarray:
    return _all(a, axis, out, keepdims)


@function
def argmax(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _argmax(a, axis, out, keepdims)


@function
def argmin(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    return _argmin(a, axis, out, keepdims)


@function
def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    counters.launch("cumsum", 3, _array(a).size)
    return _into(out, np.cumsum(a._a, axis, dtype))


@function
def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    counters.launch("cumprod", 3, _array(a).size)
    return _into(out, np.cumprod(a._a, axis, dtype))


def _method(name: str, parameters: Sequence[str]) -> None:
    """A method whose parameters are those of the function, in the order that CuPy's method has them."""
    made = FUNCTIONS[name]
    defaults = {"axis": None, "dtype": None, "out": None, "keepdims": False, "ddof": 0}
    text = ", ".join(f"{p}={defaults[p]!r}" for p in parameters)
    call = ", ".join(f"{p}={p}" for p in parameters)
    space: dict[str, Any] = {"made": made}
    exec(f"def {name}(self, {text}):\n    return made(self, {call})", space)
    setattr(ndarray, name, space[name])


for _name in ("sum", "prod", "mean"):
    _method(_name, ("axis", "dtype", "out", "keepdims"))
for _name in ("var", "std"):
    _method(_name, ("axis", "dtype", "out", "ddof", "keepdims"))
for _name in ("max", "min", "any", "all"):
    _method(_name, ("axis", "out", "keepdims"))
for _name in ("argmax", "argmin"):
    _method(_name, ("axis", "out", "dtype", "keepdims"))
for _name in ("cumsum", "cumprod"):
    _method(_name, ("axis", "dtype", "out"))
FUNCTIONS.update(amax=max_, amin=min_)


# Sorting.


def _kind(kind: Any) -> None:
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


@function
def sort(a: Any, axis: int = -1, kind: Any = None) -> ndarray:
    _kind(kind)
    counters.launch("sort", 3, _array(a).size)
    return own(np.sort(a._a, axis, kind="stable"))


@function
def argsort(a: Any, axis: int = -1, kind: Any = None) -> ndarray:
    _kind(kind)
    counters.launch("sort", 3, _array(a).size)
    return own(np.argsort(a._a, axis, kind="stable"))


def _argsort(self: ndarray, axis: int = -1, kind: Any = None) -> ndarray:
    return argsort(self, axis, kind)


def _sort(self: ndarray, axis: int = -1, kind: Any = None) -> None:
    _kind(kind)
    counters.launch("sort", 3, checked(self).size)
    self._a.sort(axis, kind="stable")


def _repeat(self: ndarray, repeats: Any, axis: Any = None) -> ndarray:
    return repeat(self, repeats, axis)


def _clip_method(self: ndarray, min: Any = None, max: Any = None, out: Any = None) -> ndarray:
    return clip(self, min, max, out)


def _round_method(self: ndarray, decimals: int = 0, out: Any = None) -> ndarray:
    return round_(self, decimals, out)


def _nonzero(self: ndarray) -> tuple[ndarray, ...]:
    return nonzero(self)


ndarray.argsort, ndarray.sort, ndarray.repeat = _argsort, _sort, _repeat  # type: ignore[attr-defined]
ndarray.clip, ndarray.round, ndarray.nonzero = _clip_method, _round_method, _nonzero  # type: ignore[attr-defined]


@function
def diag(v: Any, k: int = 0) -> ndarray:
    if _array(v).ndim == 2:
        return v.diagonal(k)
    return _made(np.diag(v._a, k), "diag")


@function
def isin(element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False) -> ndarray:
    if not isinstance(test_elements, ndarray):
        _count_upload(np.asarray(test_elements))
    return _made(np.isin(_array(element)._a, host_of(test_elements), assume_unique, invert), "isin")


@function
def unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False, axis: Any = None,
    *, equal_nan: bool = True,
) -> Any:  # fmt: skip
    counters.launch("unique", 8, _array(ar).size)
    counters.download(8)
    found = np.unique(ar._a, return_index, return_inverse, return_counts, axis, equal_nan=equal_nan)
    return tuple(map(own, found)) if isinstance(found, tuple) else own(found)


# Elementwise functions that are no ufuncs.


@function
def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    for bound in (a_min, a_max):
        if isinstance(bound, np.ndarray):
            raise TypeError(f"Unsupported type {type(bound)}")
    counters.launch("clip", 1, _array(a).size)
    return _into(out, np.clip(a._a, host_of(a_min), host_of(a_max)))


@function
def round_(a: Any, decimals: int = 0, out: Any = None) -> ndarray:
    counters.launch("round", 1, _array(a).size)
    return _into(out, np.round(a._a, decimals))


FUNCTIONS["around"] = round_


@function
def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> ndarray:
    return _made(np.isclose(host_of(a), host_of(b), rtol, atol, equal_nan), "isclose")


@function
def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> ndarray:
    return isclose(a, b, rtol, atol, equal_nan).all()  # type: ignore[attr-defined,no-any-return]


@function
def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> ndarray:
    return _made(np.array_equal(_array(a1)._a, _array(a2)._a, equal_nan), "array_equal")


# Products.


def _gemm(a: ndarray, b: ndarray, out: Any) -> ndarray:
    """``matmul``, with the copies that CuPy makes of what cuBLAS cannot read or write where it lies."""
    for x in (a, b):
        if not isinstance(x, ndarray):
            raise TypeError(f"Unsupported type {type(x)}")
    if not a.ndim or not b.ndim:
        raise ValueError("Scalar operands are not allowed, use '*' instead")
    kind = np.promote_types(a.dtype, b.dtype)
    x, y = checked(a)._a, checked(b)._a
    wide = np.float32 if kind == np.float16 else kind
    if compute.of_float32 == compute.COMPUTE_TYPE_TF32 and wide == np.float32:
        x, y = compute.rounded(x.astype(wide)), compute.rounded(y.astype(wide))
    with np.errstate(all="ignore"):
        value = np.asarray(np.matmul(x.astype(wide), y.astype(wide))).astype(kind)
    _count_product(a, b, value, out, kind)
    return _into(out, value)


def _count_product(a: ndarray, b: ndarray, value: Any, out: Any, kind: np.dtype[Any]) -> None:
    if not a.size or not b.size:
        counters.launch("memset")
        return
    if a.ndim > 2 or b.ndim > 2:
        wide = np.dtype(np.float32) if kind == np.float16 else kind
        for x in (a, b):
            if x.dtype != wide or not x.flags.c_contiguous:
                counters.launch("copy before a product", 1, x.size)
        if a.shape[:-2] != b.shape[:-2]:
            counters.upload(8 * value.size, implicit=True)  # tables of pointers
        counters.launch("gemm batched", 1, value.size)
        if kind != wide or (out is not None and not out.flags.c_contiguous):
            counters.launch("copy behind a product", 1, value.size)
        return
    if value.size == 1:
        counters.launch("dot", 2)
        return
    for x in (a, b):
        if x.dtype != kind or not (x.flags.c_contiguous or x.flags.f_contiguous):
            counters.launch("copy before a product", 1, x.size)
    tf32 = kind == np.float32 and compute.of_float32 == compute.COMPUTE_TYPE_TF32
    counters.launch("gemm of TF32" if tf32 else "gemm", 1, value.size)
    overlaps = out is not None and (np.may_share_memory(out._a, a._a) or np.may_share_memory(out._a, b._a))
    if out is not None and (not out.flags.c_contiguous or out.dtype != kind or overlaps):
        counters.launch("copy behind a product", 1, value.size)


@function
def matmul(
    *args: Any, axes: Any = None, axis: Any = None, keepdims: bool = False, casting: str = "same_kind",
    dtype: Any = None, signature: Any = None, order: str = "K", out: Any = None,
) -> ndarray:  # fmt: skip
    a, b, *rest = args
    return _gemm(a, b, rest[0] if rest else out)


@function
def dot(a: Any, b: Any, out: Any = None) -> ndarray:
    for x in (a, b):
        if not isinstance(x, ndarray):
            raise TypeError(f"Unsupported type {type(x)}")
    if a.ndim > 2 or b.ndim > 2:
        raise NotSimulated("dot of more than two axes")
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    if not a.ndim or not b.ndim:
        return a * b
    return _gemm(a, b, out)


def _dot_method(self: ndarray, b: Any, out: Any = None) -> ndarray:
    return dot(self, b, out)


ndarray.dot = _dot_method  # type: ignore[attr-defined]


@function
def outer(a: Any, b: Any, out: Any = None) -> ndarray:
    return _made(np.outer(_array(a)._a, _array(b)._a), "multiply")


@function
def einsum(*operands: Any, **kwargs: Any) -> ndarray:
    wrong = set(kwargs) - {"dtype", "optimize"}
    if wrong:
        raise TypeError(f"Did not understand the following kwargs: {sorted(wrong)}")
    subscripts, *arrays = operands
    for a in arrays:
        if not isinstance(a, ndarray):
            raise TypeError(f"Unsupported type {type(a)}")
    if len(arrays) == 1 and sorted(subscripts.split("->")[0]) == sorted(subscripts.split("->")[-1]):
        return view(np.einsum(subscripts, arrays[0]._a), arrays[0])
    counters.launch("einsum", 2)
    return own(np.array(np.einsum(subscripts, *(checked(a)._a for a in arrays))))


# Questions that need no device.


@function
def ndim(a: Any) -> int:
    return int(np.ndim(getattr(a, "_a", a)))


@function
def shape_(a: Any) -> tuple[int, ...]:
    return tuple(np.shape(getattr(a, "_a", a)))


@function
def size_(a: Any, axis: Any = None) -> int:
    return int(np.size(getattr(a, "_a", a), axis))


@function
def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    return np.result_type(*(a.dtype if isinstance(a, ndarray) else a for a in arrays_and_dtypes))


@function
def can_cast(from_: Any, to: Any, casting: str = "safe") -> bool:
    return np.can_cast(from_.dtype if isinstance(from_, ndarray) else from_, to, casting)  # type: ignore[arg-type]


@function
def may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.may_share_memory(_seen(a)._a, _seen(b)._a)


@function
def shares_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.shares_memory(_seen(a)._a, _seen(b)._a)


@function
def copy(a: Any, order: str = "K") -> ndarray:
    return _seen(a).copy()


@function
def from_dlpack(array: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    if device is not None or copy or array.__dlpack_device__()[0] != 2:
        raise NotSimulated("from_dlpack of an array of the host, or to another device")
    capsule = array.__dlpack__(stream=1, max_version=(1, 0))
    if not isinstance(capsule, Capsule):
        raise NotSimulated("from_dlpack of another library's array")
    given, capsule.array = capsule.array, None
    if given is None:
        raise ValueError("a DLPack tensor object may not be consumed multiple times")
    return view(given._a, given)


# cupy.linalg and cupy.lib.


class linalg:
    """``cupy.linalg``. CuPy raises nothing for a singular matrix, or one that is not finite, unless asked to: what
    comes out of it is not finite, and of the other matrices of a stack what would without it."""

    @staticmethod
    def _run(name: str, launches: int, *arrays: Any, **more: Any) -> Any:
        hosts = [_array(a)._a for a in arrays]
        counters.launch(f"linalg.{name}", launches)
        with np.errstate(all="ignore"):
            return linalg._of_each(getattr(np.linalg, name), hosts, more)

    @staticmethod
    def _of_each(function: Any, hosts: list[Any], more: dict[str, Any]) -> Any:
        try:
            return function(*hosts, **more)
        except np.linalg.LinAlgError as error:
            if not any(word in str(error).lower() for word in ("singular", "positive definite", "converge")):
                raise
        if hosts[0].ndim > 2:
            found = [linalg._of_each(function, list(some), more) for some in zip(*hosts, strict=True)]
            return tuple(map(np.stack, zip(*found, strict=True))) if isinstance(found[0], tuple) else np.stack(found)
        like = function(np.eye(*hosts[0].shape, dtype=hosts[0].dtype), *hosts[1:], **more)
        return tuple(np.full_like(x, np.nan) for x in like) if isinstance(like, tuple) else np.full_like(like, np.nan)

    @staticmethod
    def inv(a: Any) -> ndarray:
        return own(linalg._run("inv", 6, a))

    @staticmethod
    def det(a: Any) -> ndarray:
        return own(linalg._run("det", 10, a))

    @staticmethod
    def slogdet(a: Any) -> tuple[ndarray, ndarray]:
        sign, size = linalg._run("slogdet", 10, a)
        return own(sign), own(size)

    @staticmethod
    def cholesky(a: Any) -> ndarray:
        return own(linalg._run("cholesky", 4, a))

    @staticmethod
    def eigh(a: Any, UPLO: str = "L") -> tuple[ndarray, ndarray]:
        values, vectors = linalg._run("eigh", 6, a, UPLO=UPLO)
        return own(values), own(vectors)

    @staticmethod
    def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
        found = linalg._run("svd", 6, a, full_matrices=full_matrices, compute_uv=compute_uv)
        return tuple(own(x) for x in found) if compute_uv else own(found)

    @staticmethod
    def solve(a: Any, b: Any) -> ndarray:
        return own(linalg._run("solve", 6, a, b))

    @staticmethod
    def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> ndarray:
        return own(linalg._run("norm", 2, x, ord=ord, axis=axis, keepdims=keepdims))


def as_strided(x: Any, shape: Any = None, strides: Any = None) -> ndarray:
    return view(np.lib.stride_tricks.as_strided(_seen(x)._a, shape, strides), x)

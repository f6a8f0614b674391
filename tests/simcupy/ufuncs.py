"""Universal functions: CuPy's table of types, its rules for Python's numbers, its arguments, and one launch each."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import counters
from .array import checked, checked_dtype, host_of, ndarray, own
from .errors import NotSimulated

_SCORES = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


class ufunc:
    """``types``: as ``cupy.ufunc.types``, such as ``["ee->e", "ff->f"]``."""

    def __init__(self, name: str, cupy_name: str, nin: int, nout: int, types: list[str]) -> None:
        self.__name__, self.name, self.nin, self.nout, self.nargs = name, cupy_name, nin, nout, nin + nout
        self.types = types
        self.function = getattr(np, name, None)

    def __repr__(self) -> str:
        return f"<ufunc '{self.name}'>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out, where = kwargs.pop("out", None), kwargs.pop("_where", None)
        dtype, casting = kwargs.pop("dtype", None), kwargs.pop("casting", "same_kind")
        if kwargs:
            raise TypeError(f"Wrong arguments {kwargs}")
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(f"Wrong number of arguments for {self.name!r}, given {len(args)}.")
        inputs, outs = args[: self.nin], args[self.nin :]
        if out is not None:
            if outs:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            outs = out if isinstance(out, tuple) else (out,)
        for x in (*inputs, *(o for o in outs if o is not None), *([] if where is None else [where])):
            _require_operand(x)
        if self.nout != 1:
            return self._several(inputs)
        [target] = [o for o in outs if o is not None] or [None]
        if target is not None and not isinstance(target, ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        kinds = self._loop(inputs, dtype)
        return self._run(inputs, target, where, kinds, casting)

    def _loop(self, inputs: tuple[Any, ...], dtype: Any) -> str:
        if dtype is not None:
            wanted = checked_dtype(dtype).char
            found = next((t for t in self.types if t.endswith(wanted)), None)
        else:
            given = tuple(_given(x) for x in inputs)
            found = _resolved(tuple(self.types), given)
        if found is None:
            raise TypeError(
                f"Wrong type ({dtype or [getattr(x, 'dtype', type(x)) for x in inputs]}) of arguments for {self.name}"
            )
        return found

    def _run(self, inputs: tuple[Any, ...], target: Any, where: Any, loop: str, casting: str) -> ndarray:
        takes, gives = loop.split("->")
        hosts = [host_of(x) for x in inputs]
        shapes = [np.shape(h) for h in hosts] + ([] if where is None else [np.shape(host_of(where))])
        shape = np.broadcast_shapes(*shapes, *([] if target is None else [target.shape]))
        kind = np.dtype(gives)
        if target is None:
            target = ndarray(shape, kind)
        elif target.shape != shape:
            raise ValueError("Out shape is mismatched")
        elif not np.can_cast(kind, target.dtype, casting):  # type: ignore[arg-type]
            raise TypeError(f"Cannot cast output operand from {kind} to {target.dtype} with casting rule {casting!r}")
        else:
            checked(target)
            for x, h in zip(inputs, hosts, strict=True):
                if isinstance(x, ndarray) and x is not target and np.may_share_memory(h, target._a):
                    counters.launch("copy of an operand that overlaps", 1, x.size)
        if not target.size:
            return target
        counters.launch(self.name, 1, target.size)
        if self.function is None:
            raise NotSimulated(f"cupy.{self.__name__}")
        with np.errstate(all="ignore"):
            # A Python integer must fit the dtype that it takes: OverflowError, as NumPy's.
            cast = [
                np.array(h, t) if type(h) is int else np.asarray(h).astype(t) for h, t in zip(hosts, takes, strict=True)
            ]
            value = np.broadcast_to(np.asarray(self.function(*cast)).astype(kind), shape)
            if where is None:
                target._a[...] = value
            else:
                np.copyto(target._a, value, where=np.asarray(host_of(where)).astype(bool), casting="unsafe")
        return target

    def _several(self, inputs: tuple[Any, ...]) -> Any:
        counters.launch(self.name)
        if self.function is None:
            raise NotSimulated(f"cupy.{self.__name__}")
        return tuple(own(x) for x in self.function(*map(host_of, inputs)))

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        """Atomic additions and the like: one launch, an index may come twice. CuPy has it for few functions."""
        if self.__name__ not in ("add", "subtract", "maximum", "minimum"):
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        allowed = {"add": "ilefdILqQ", "subtract": "iI"}.get(self.__name__, "ilfdILqQ")
        if a.dtype.char not in allowed:
            raise TypeError(f"cupy.{self.__name__}.at does not support {a.dtype}")
        parts, arrays, masked = checked(a)._key(indices)
        if masked:
            raise NotSimulated(f"cupy.{self.__name__}.at with a mask")
        if not isinstance(b, ndarray):
            given = np.asarray(b, a.dtype)
            counters.upload(given.nbytes, implicit=True)
        else:
            given = checked(b)._a.astype(a.dtype)
            if b.dtype != a.dtype:
                counters.launch("astype", 1, b.size)
        if len(arrays) > 1:
            counters.launch("indices", 1 + len(arrays))
        counters.launch("scatter", 1, given.size)
        self.function.at(a._a, parts, given)  # type: ignore[union-attr]

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")
        return getattr(array, "sum" if self.__name__ == "add" else "prod")(axis, dtype, out, keepdims)


def _require_operand(x: Any) -> None:
    if isinstance(x, ndarray | np.generic) or type(x) in (bool, int, float, complex):
        return
    raise TypeError(f"Unsupported type {type(x)}")


def _given(x: Any) -> tuple[str, type | None]:
    """Type character, and Python's type for a number that is weak."""
    if isinstance(x, ndarray | np.generic):
        return x.dtype.char, None
    if isinstance(x, bool):
        return "?", None
    if isinstance(x, int):
        return ("Q" if x >= 1 << 63 else "l"), int
    return ("d", float) if isinstance(x, float) else ("D", complex)


@cache
def _resolved(types: tuple[str, ...], given: tuple[tuple[str, type | None], ...]) -> str | None:
    """The first loop that all operands can be cast to; weak numbers take the dtype of the others of their kind."""
    weak = [_SCORES[np.dtype(t).kind] for t, w in given if w]
    strong = [_SCORES[np.dtype(t).kind] for t, w in given if not w]
    use_weak = bool(weak) and bool(strong) and max(strong) >= max(weak)
    for loop in types:
        takes = loop.split("->")[0]
        if all(_fits(t, w if use_weak else None, to) for (t, w), to in zip(given, takes, strict=True)):
            return loop
    return None


def _fits(kind: str, weak: type | None, to: str) -> bool:
    if np.can_cast(np.dtype(kind), np.dtype(to)):
        return True
    if weak is None:
        return False
    try:
        return np.result_type(weak(0), np.dtype(to)) == np.dtype(to)
    except TypeError:
        return False

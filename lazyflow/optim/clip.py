"""Gradient clipping, for dense and for row-sparse gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np

from lazyflow.cuda import norms
from lazyflow.device import HostArray, device_of, module, on_device_of, to_host
from lazyflow.errors import NonFiniteError
from lazyflow.ops.sparse import RowSparse
from lazyflow.optim.base import Array, Trainable, has_array
from lazyflow.optim.options import number

PART = 1 << 14  # elements of one dot product

__all__ = ["clip_grad_norm", "clip_grad_value", "grad_norm"]


def grad_norm(params: Iterable[Trainable], *, norm_type: float = 2.0) -> float:
    """The norm of all gradients together, as if they were one vector; 0 when there are none.

    The rows of a row-sparse gradient are coalesced, so they count as the dense gradient would. ``norm_type``: the
    order, above 0; ``math.inf`` for the largest absolute value.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([0.0, 0.0])
    >>> w.grad = np.array([3.0, 4.0], np.float32)
    >>> grad_norm([w])
    5.0
    """
    return _norm([values for _, values in gradients_of(params)], norm_type)


def clip_grad_norm(
    params: Iterable[Trainable], max_norm: float, *, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients by one factor so that `grad_norm` is at most ``max_norm``; returns the norm before.

    On a device nobody waits: norm and factor stay there, and what is returned is the number once somebody looks at it,
    by ``float()``, a comparison, arithmetic or text (for a ``norm_type`` of 2, and without ``error_if_nonfinite``).

    The factor is ``max_norm / (norm + 1e-6)``, as in PyTorch, and only applied below 1 (Pascanu et al. 2013). When the
    norm is NaN or infinite the gradients become so too, or zero; with ``error_if_nonfinite`` a `NonFiniteError` is
    raised and nothing changes.

    Raises ``ValueError`` for a ``max_norm`` that is negative or not finite.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([0.0, 0.0])
    >>> w.grad = np.array([3.0, 4.0], np.float32)
    >>> clip_grad_norm([w], 1.0)
    5.0
    >>> w.grad.round(3)
    array([0.6, 0.8], dtype=float32)
    """
    limit = _limit("clip_grad_norm: max_norm", max_norm)
    found = list(gradients_of(params))
    arrays = [values for _, values in found]
    if norm_type == 2.0 and not error_if_nonfinite and norms.is_possible(arrays):
        return cast("float", Late(norms.limited(arrays, limit)))
    norm = _norm(arrays, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise NonFiniteError(f"clip_grad_norm: the norm of the gradients is {norm}; the gradients were not changed")
    factor = limit / (norm + 1e-6)
    if not factor >= 1.0:
        for parameter, values in found:
            with on_device_of(values):
                replace(parameter, values, scaled(values, factor))
    return norm


class Late:
    """A number that lies on a device until somebody looks at it."""

    def __init__(self, array: Array) -> None:
        self.array = array

    @cached_property
    def _value(self) -> float:
        return float(to_host(self.array))

    def __float__(self) -> float:
        return self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return repr(self._value)

    def __format__(self, form: str) -> str:
        return format(self._value, form)

    def __array__(self, dtype: Any = None, copy: Any = None) -> HostArray:
        return np.asarray(self._value, dtype)


def _as_float(name: str) -> Callable[..., Any]:
    method = getattr(float, name)

    def called(self: Late, *others: Any) -> Any:
        return method(float(self), *(float(o) if isinstance(o, Late) else o for o in others))

    return called


_BOTH = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "divmod")
_OTHERS = ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "bool", "int", "round", "trunc", "floor", "ceil")
for _name in (*_BOTH, *(f"r{name}" for name in _BOTH), *_OTHERS):
    setattr(Late, f"__{_name}__", _as_float(f"__{_name}__"))


def clip_grad_value(params: Iterable[Trainable], clip_value: float) -> None:
    """Limit every element of every gradient to the range from ``-clip_value`` to ``clip_value``.

    Raises ``ValueError`` for a value that is negative or not finite.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([0.0, 0.0])
    >>> w.grad = np.array([3.0, -0.5], np.float32)
    >>> clip_grad_value([w], 1.0)
    >>> w.grad
    array([ 1. , -0.5], dtype=float32)
    """
    limit = _limit("clip_grad_value: clip_value", clip_value)
    for parameter, values in gradients_of(params):
        with on_device_of(values):
            replace(parameter, values, module(values).clip(values, -limit, limit, out=_target(values)))


def _limit(name: str, value: Any) -> float:
    if not (number(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, at least 0; got {value!r}")
    return float(value)


def gradients_of(params: Any) -> Iterator[tuple[Trainable, Array]]:
    """Every parameter that has a gradient, and the gradient's values (of a row-sparse one, those of its rows)."""
    for parameter in [params] if has_array(params) else params:
        gradient = parameter.grad
        if gradient is not None:
            yield parameter, gradient.values if isinstance(gradient, RowSparse) else gradient


def _norm(arrays: list[Array], order: float) -> float:
    if not order > 0:
        raise ValueError(f"norm_type must be above 0, or math.inf; got {order!r}")
    filled = [array for array in arrays if array.size]
    if order == math.inf:
        return max((_largest(array) for array in filled), default=0.0)
    sum_of = _sum_of_squares if order == 2.0 else lambda array: (_wide(abs(array)) ** order).sum()
    total = _total(filled, sum_of)
    return math.sqrt(total) if order == 2.0 else math.pow(total, 1.0 / order)


def _largest(array: Array) -> float:
    with on_device_of(array):
        return float(abs(array).max())


def _total(arrays: list[Array], sum_of: Callable[[Array], Any]) -> float:
    """A sum stays on its device until all of that device are added: one wait for a GPU, not one for every parameter."""
    sums: dict[str, Any] = {}
    for array in arrays:
        place = device_of(array)
        with on_device_of(array):
            sums[place] = sums.get(place, 0) + sum_of(array)
    return float(sum(map(float, sums.values())))


def _sum_of_squares(array: Array) -> Any:
    flat = _wide(array).reshape(-1)
    if not isinstance(flat, np.ndarray):
        return module(array).dot(flat, flat)
    # a dot product adds one after another; parts of it are added in Python's double precision
    return sum(float(part.dot(part)) for part in np.array_split(flat, -(-flat.size // PART)))


def _wide(array: Array) -> Array:
    """float16 as float32, whose squares do not overflow."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _target(array: Array) -> Array | None:
    """Where the result may go: the gradient itself, unless it is read-only or a broadcast view of fewer numbers."""
    return array if array.flags.c_contiguous and getattr(array.flags, "writeable", True) else None


def scaled(array: Array, factor: float) -> Array:
    return module(array).multiply(array, factor, out=_target(array))


def replace(parameter: Trainable, before: Array, after: Array) -> None:
    if after is not before:
        gradient = parameter.grad
        sparse = isinstance(gradient, RowSparse)
        parameter.grad = gradient.with_values(after) if sparse else after

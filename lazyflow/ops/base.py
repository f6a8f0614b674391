"""What one operation is: a record of its shape rule, its kernel and its vjps.

An operation is a generalised ufunc: everything is counted from the *trailing* axes, and whatever axes lead are batch.
So a kernel never asks whether it runs batched, for how many examples, or where:

- ``infer(*operands, **attrs)`` sees the operands of ONE example (anything with ``.shape`` and ``.dtype``), raises
  `ShapeError` or `DTypeError`, or returns a `Result`: shape and dtype of one example, and the static attributes for the
  kernels (axes normalised to negative numbers, so that they hold under any number of batch axes).
- ``forward(xp, *arrays, out=None, **static)`` computes a whole launch. ``xp`` is numpy or cupy. Each array has ONE
  batch axis in front of the example's shape, except shared operands (a parameter, or one row that every node of the
  launch reads), which have none. Integers that are payload come on the host, whatever ``xp`` is (`on_device`). ``out``
  is the launch's own memory, ``(batch, *shape)``: a kernel that can write there does and returns ``out``; one that
  cannot returns a fresh array, which the engine copies (and broadcasts, if all were shared).
- ``vjps[i](xp, g, y, *arrays, **static)`` returns the cotangent of operand ``i``. ``g`` and ``y`` (cotangent and value
  of the result) always have the batch axis. The answer may have more axes than the operand, or longer ones where the
  operand was broadcast: the engine sums it down with `unbroadcast`. ``None`` in place of a vjp: not differentiable
  there. A vjp only uses operators and ``xp`` functions, and never changes its arguments. So it runs on expressions,
  too, with ``xp`` = the names of `lazyflow.numpy`, which gives higher derivatives and forward mode. Where the fast way
  assigns into an array, it asks `symbolic` and records the operation that does the same, with ``xp.record_op``. What it
  does not look at it may say (`looking_at`), what does its work on a device without an array between (`adding`), and
  what does that of all operands at once (`jointly`).

The form is that of HIPS/autograd's tables (one line a gradient) on NumPy's generalised ufuncs (NEP 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from lazyflow.device import Array, ArrayModule, DType
from lazyflow.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from types import EllipsisType

    Subscript = tuple[int | slice | EllipsisType | None, ...]  # of basic indexing

Shape = tuple[int, ...]
ALL = slice(None)
Axis = int | Sequence[int] | None
Pads = tuple[tuple[int, int], ...]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Abstract(Protocol):
    """What a shape rule sees of an operand."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> DType: ...


class Aval(NamedTuple):
    """Shape and dtype of one example's value: the plainest `Abstract`."""

    shape: Shape
    dtype: DType


class Result(NamedTuple):
    """What a shape rule returns: shape and dtype of one example's result, and the kernels' static attributes."""

    shape: Shape
    dtype: DType
    static: Mapping[str, Any] = NOTHING


@dataclass(frozen=True, eq=False)
class Op:
    """One operation. See the module's text for the contract of its three functions.

    ``elementwise``: operands broadcast against each other on trailing axes; the engine pads their shapes with ones
    behind the batch axis first. ``stacked``: the operation takes any number of operands of one type and gets them as
    ONE array with the operand axis right behind the batch axis. ``ragged``: a stacked operation whose nodes may differ
    in the number of operands: it gets all operands of all nodes end to end, ``(total, *shape)``, and the number of each
    node's. ``gathers``: the value is the operands' values in order, so that the engine may gather them straight into
    ``out`` and call no kernel. ``random``: every node draws anew. ``by_columns``: operands that forward multiplies by
    their transpose; a parameter there is handed over in column-major order, in which that is fast. ``once``: the vjps
    compute on arrays only, so that the operation can be differentiated once and not twice.
    """

    name: str
    infer: Callable[..., Result]
    forward: Callable[..., Array]
    vjps: tuple[Callable[..., Array] | None, ...] = ()
    elementwise: bool = False
    stacked: bool = False
    ragged: bool = False
    gathers: bool = False
    random: bool = False
    by_columns: tuple[int, ...] = ()
    once: bool = False
    formula: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Op({self.name})"


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add an operation to the table that the tests, the documentation and the engine read; names are unique."""
    if op.name in OPS:
        raise ValueError(f"operation {op.name!r} is registered twice")
    OPS[op.name] = op
    return op


def looking_at(vjp: Callable[..., Array], operands: Iterable[int], shapes: Iterable[int] = ()) -> Callable[..., Array]:
    """A vjp, with what it looks at behind ``g``: ``y`` is 0, operands count from 1. Of those in ``shapes`` only dtype
    and shape matter. Anything may stand in place of the rest."""
    vars(vjp)["reads"], vars(vjp)["shapes"] = frozenset(operands), frozenset(shapes)
    return vjp


def looked_at(vjp: Callable[..., Array], count: int) -> frozenset[int]:
    """What a vjp of an operation of ``count`` operands looks at: all, unless it says so."""
    found: frozenset[int] = getattr(getattr(vjp, "func", vjp), "reads", frozenset(range(count + 1)))
    return found


def shapes_wanted(vjp: Callable[..., Array]) -> frozenset[int]:
    """Of which operands a vjp wants to know the shape alone; see `looking_at`."""
    found: frozenset[int] = getattr(getattr(vjp, "func", vjp), "shapes", frozenset())
    return found


def sorting(vjp: Callable[..., Array], operand: int) -> Callable[..., Array]:
    """A vjp that sorts the integers of an operand, counted from 0, on the host: what the host has of them is best given
    to it in place of what the device has (see `on_device`), or it waits for a copy."""
    vars(vjp)["sorts"] = operand
    return vjp


def sorted_by(vjp: Callable[..., Array]) -> int | None:
    """The operand whose integers a vjp sorts, if it does; see `sorting`."""
    found: int | None = getattr(getattr(vjp, "func", vjp), "sorts", None)
    return found


def at_host(kernel: Callable[..., Array], make: Callable[..., object]) -> Callable[..., Array]:
    """A kernel, with what the core has in its place on the host: ``make``, called with the static attributes, answers
    with a function of a tuple of operands and ``out``, which returns None where it does not fit; or with None."""
    vars(kernel)["at_host"] = make
    return kernel


def host_form(kernel: Callable[..., Array]) -> Any:
    """What the core has in place of a kernel, or None; see `at_host`."""
    make = getattr(getattr(kernel, "func", kernel), "at_host", None)
    return None if make is None else make(**getattr(kernel, "keywords", {}))


def adding(vjp: Callable[..., Array], add: Callable[..., bool]) -> Callable[..., Array]:
    """A vjp, with what does its work on a device in one launch: ``add(places, xp, g, y, *arrays, **static)`` brings the
    answer to `lazyflow.cuda.rows.Places`, unless it says False. That is asked only for an operand with a batch axis."""
    vars(vjp)["adds"] = add
    return vjp


def adder_of(vjp: Callable[..., Array]) -> Callable[..., bool] | None:
    """The function that `adding` has given to a vjp, with the vjp's static attributes."""
    add: Callable[..., bool] | None = getattr(getattr(vjp, "func", vjp), "adds", None)
    if add is None or not isinstance(vjp, partial):
        return add
    return partial(add, *vjp.args, **vjp.keywords)


def jointly(
    vjps: tuple[Callable[..., Array], ...], joint: Callable[..., list[Array | None]]
) -> tuple[Callable[..., Array], ...]:
    """The vjps of an operation, with what answers for several operands at once, where most of the work is the same:
    ``joint(wanted, into, xp, g, y, *arrays, **static)`` answers with a list, in the order of the operands ``wanted``.
    ``into``: for each of them None, or `lazyflow.cuda.rows.Places` on a device; what it has brought there is None."""
    for vjp in vjps:
        vars(vjp)["joint"] = joint
    return vjps


def joint_of(vjps: Sequence[Callable[..., Array] | None]) -> Callable[..., list[Array | None]] | None:
    """What answers for all of these vjps of one operation at once, with their static attributes, if there are several
    and something does (see `jointly`)."""
    first: Any = vjps[0] if len(vjps) > 1 else None
    joint: Callable[..., list[Array | None]] | None = getattr(getattr(first, "func", first), "joint", None)
    if joint is None or not isinstance(first, partial):
        return joint
    return partial(joint, *first.args, **first.keywords)


def beginning(kernel: Callable[..., Array], operand: int, add: Callable[..., bool]) -> Callable[..., Array]:
    """A kernel whose result is a sum of one ``operand`` and of what ``add(out, xp, *arrays, **static)`` adds on a
    device to what lies in ``out``, unless it says False: so an operand that all nodes share need not be a launch of its
    own in each of their launches."""
    vars(kernel)["begins"] = operand, add
    return kernel


def beginning_of(kernel: Callable[..., Array]) -> tuple[int, Callable[..., bool]] | None:
    """What `beginning` was told of a kernel, with the kernel's static attributes."""
    found: tuple[int, Callable[..., bool]] | None = getattr(getattr(kernel, "func", kernel), "begins", None)
    if found is None or not isinstance(kernel, partial):
        return found
    return found[0], partial(found[1], *kernel.args, **kernel.keywords)


def on_device(xp: ArrayModule, index: Array) -> Array:
    """Integers as an array of ``xp``. Those that are known when they are recorded come to a kernel on the host,
    whatever ``xp`` is: what depends on them alone costs no launch there, and to look at them no wait."""
    if xp is np or symbolic(xp):
        return index
    there = getattr(index, "there", None)
    return xp.asarray(index) if there is None else there


class Brought(np.ndarray[Any, Any]):
    """Integers on the host that lie on a device as well: ``there``, with their running sums, ``ends``, if they are
    counts. Views of it have neither."""

    there: Array = None
    ends: Array = None


def brought(index: Array, there: Array, ends: Array = None) -> Brought:
    """Integers of the host, with what was copied of them to a device."""
    found: Brought = index.view(Brought)
    found.there, found.ends = there, ends
    return found


def symbolic(xp: ArrayModule) -> bool:
    """Whether ``xp`` is the namespace of expressions, in which a vjp records operations and computes nothing.

    >>> symbolic(np)
    False
    """
    return xp is not np and hasattr(xp, "record_op")  # NumPy takes microseconds to say that it has none


# Elements that are added one behind the other, at most; sums of more are sums of such sums.
STRETCH = 128


def wide(x: Array) -> Array:
    """The array in the dtype in which its elements are added: float16 in float32, others in their own."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def written(out: Array | None, value: Array) -> Array:
    """``value``, copied to ``out`` if there is one."""
    if out is None:
        return value
    out[...] = value
    return out


def total(x: Array, axis: int | tuple[int, ...], keepdims: bool = False, out: Array | None = None) -> Array:
    """``x.sum(axis)`` with an error that hardly grows with the number of elements; float16 is added in float32.

    NumPy adds pairwise along contiguous memory only; elsewhere a million float32 are added one after another, and their
    sum is off by a hundredth. Here no more than `STRETCH` are, along any axis: the error is below
    ``(STRETCH + log2(n)) * eps`` of the sum of sizes, as in pairwise summation (Higham 1993).

    >>> total(np.full((10**5, 2), 0.1, np.float32), 0).round(1).tolist()
    [10000.0, 10000.0]
    """
    if not isinstance(x, np.ndarray):
        return written(out, x.sum(axis=axis, keepdims=keepdims))
    if x.dtype.kind != "f":
        return x.sum(axis=axis, keepdims=keepdims, out=out)
    if x.dtype == np.float16:
        return written(out, total(x.astype(np.float32), axis, keepdims).astype(np.float16))
    axes = sorted(a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    count = 1
    for a in axes:
        count *= x.shape[a]
    if count <= STRETCH or (x.flags.c_contiguous and axes[0] == x.ndim - len(axes)):
        return x.sum(axis=tuple(axes), keepdims=keepdims, out=out)
    y = x
    for a in axes:
        y = _summed(y, a)
    return written(out, y if keepdims else y.reshape(tuple(n for a, n in enumerate(y.shape) if a not in axes)))


def _summed(x: Array, axis: int) -> Array:
    """The sum along one axis, which stays with size 1, in stretches."""
    n = x.shape[axis]
    if n <= STRETCH:
        return x.sum(axis=axis, keepdims=True)
    before, after = (slice(None),) * axis, x.shape[axis + 1 :]
    whole = n // STRETCH * STRETCH
    first, rest = (*before, slice(0, whole)), (*before, slice(whole, n))
    head = x[first].reshape((*x.shape[:axis], whole // STRETCH, STRETCH, *after))
    sums = _summed(head.sum(axis=axis + 1), axis)
    return sums if whole == n else sums + x[rest].sum(axis=axis, keepdims=True)


def unbroadcast(xp: ArrayModule, value: Array, shape: Shape) -> Array:
    """Sum ``value`` down to ``shape``: the transpose of broadcasting.

    >>> unbroadcast(np, np.ones((4, 2, 3)), (2, 1)).tolist()
    [[12.0], [12.0]]
    """
    if value.shape == shape:
        return value
    if value.dtype == np.float16:  # their sums stand still at 2048 ones, and a launch has no bound
        return unbroadcast(xp, value.astype(np.float32), shape).astype(np.float16)
    extra = value.ndim - len(shape)
    if extra > 0:
        value = total(value, tuple(range(extra)))
    stretched = tuple(i for i, (have, want) in enumerate(zip(value.shape, shape, strict=True)) if want == 1 != have)
    if stretched:
        value = total(value, stretched, keepdims=True)
    return value if value.shape == shape else xp.broadcast_to(value, shape)


def broadcast_shape(name: str, operands: Sequence[Abstract]) -> Shape:
    """The shape that the operands broadcast to, or a `ShapeError` that names the operation."""
    try:
        return np.broadcast_shapes(*(o.shape for o in operands))
    except ValueError:
        shapes = " and ".join(str(o.shape) for o in operands)
        raise ShapeError(
            f"{name}: the shapes {shapes} do not broadcast; aligned at the last axis, sizes must be equal or 1"
        ) from None


def floating(*operands: Abstract) -> DType:
    """NumPy's promotion of the operands' dtypes, integers and booleans becoming floating as in ``np.exp``."""
    dtype = np.result_type(*(o.dtype for o in operands))
    return (
        dtype
        if dtype.kind in "fc"
        else np.result_type(dtype, np.float16)
        if dtype.itemsize == 1
        else np.dtype(np.float32 if dtype.itemsize == 2 else np.float64)
    )


def require_floating(name: str, operand: Abstract) -> None:
    """Raise `DTypeError` unless the operand is floating."""
    if operand.dtype.kind != "f":
        raise DTypeError(f"{name} takes floating numbers, got {operand.dtype}; convert with .astype('float32')")


def require_integer(name: str, what: str, operand: Abstract) -> None:
    """Raise `DTypeError` unless the operand is integer."""
    if operand.dtype.kind not in "iu":
        raise DTypeError(f"{name}: {what} must be an integer, got {operand.dtype}; convert with .astype('int64')")


def integer(name: str, what: str, value: object) -> int:
    """``value`` as a Python integer, or a ``TypeError`` that names the operation; nothing is rounded.

    >>> integer("repeat", "repeats", np.int64(2))
    2
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name}: {what} must be an integer, got {value!r}")
    return int(value)


def integers(name: str, what: str, value: Any) -> Shape:
    """``value`` as a tuple of Python integers; one integer counts as a tuple of it.

    >>> integers("tile", "reps", np.array([2, 3])), integers("tile", "reps", 2)
    ((2, 3), (2,))
    """
    if type(value) is int:
        return (value,)
    if type(value) is tuple and all(type(n) is int for n in value):
        return value
    parts = value if isinstance(value, Sequence | np.ndarray) and np.shape(value) else (value,)
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in parts):
        raise TypeError(f"{name}: {what} must be an integer or a sequence of them, got {value!r}")
    return tuple(int(n) for n in parts)


def number(name: str, what: str, value: object) -> float:
    """``value`` as a Python float, or a ``TypeError`` that names the operation.

    >>> number("elu", "alpha", 1)
    1.0
    """
    if type(value) is float:
        return value
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        raise TypeError(f"{name}: {what} must be a number, got {value!r}")
    return float(value)


def axis_argument(name: str, axis: Any) -> Any:
    """What a user gave as ``axis``: None, an integer, or a tuple of integers. Raises ``TypeError`` for anything else.

    >>> axis_argument("sum", np.int64(1)), axis_argument("sum", [0, 1])
    (1, (0, 1))
    """
    if axis is None or axis.__class__ is int:
        return axis
    found = integers(name, "axis", axis)
    return found if isinstance(axis, Sequence | np.ndarray) else found[0]


def negative_axis(name: str, axis: int, ndim: int) -> int:
    """``axis`` counted from the end, so that it holds under any number of leading batch axes."""
    axis = integer(name, "axis", axis)
    if not -ndim <= axis < ndim:
        raise ShapeError(
            f"{name}: axis {axis} is out of range for an operand of {ndim} axes (from {-ndim} to {ndim - 1})"
        )
    return axis - ndim if axis >= 0 else axis


def negative_axes(name: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """All of ``axis`` counted from the end, sorted and distinct; ``None`` means every axis of the example."""
    if axis is None:
        return tuple(range(-ndim, 0))
    axes = tuple(sorted(negative_axis(name, a, ndim) for a in integers(name, "axis", axis)))
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{name}: axis {axis} names an axis twice")
    return axes

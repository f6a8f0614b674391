"""Expressions: handles on tape rows, parameters, and the recording of operations.

An `Expr` is three slots: its tape, its row there, its type. Recording looks the signature up in tables keyed by the
operands' types and appends a few integers to the tape; the handle of an intermediate result dies at once. Only when a
signature was never seen before does anything else happen: the shape rule runs, and raises right there.

`apply1` and `apply2` are the fast paths of the operations that models are full of; `record` is the general way.
"""

from __future__ import annotations

import itertools
import operator
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Protocol, Union

import numpy as np
from numpy import ndarray

from lazyflow import device as devices
from lazyflow import fibers, settings
from lazyflow.core.columns import Held, IntColumn, Recall, Scope, Shapes, are_within, array_of_numbers, recycle
from lazyflow.device import Array, DType, HostArray
from lazyflow.errors import CellError, DeviceError, DTypeError, GradientError, ShapeError, counted, user_line
from lazyflow.hooks import Hook, HookHandle
from lazyflow.locks import THREAD
from lazyflow.ops import OPS
from lazyflow.ops.base import Aval, Axis, Op, Shape, axis_argument, integers
from lazyflow.ops.linalg import transposed
from lazyflow.record.rows import DecodedRows
from lazyflow.record.tape import (
    CONSTANT_OP,
    IMPORT_OP,
    INDEX,
    SCALAR,
    VIEW_OP,
    Inline,
    Signature,
    Tape,
    Type,
    build,
    current_tape,
    different_devices,
    intern_type,
    interned,
    leaf_signature,
    signature_by_id,
    table_of_interned,
    without_gradient,
)
from lazyflow.record.trace import TracedNumber
from lazyflow.settings import SCOPE, refuse_in_cells, tracing

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

OperandLike = Union["Expr", Array, float, int, bool, Sequence[object]]


class Evaluator(Protocol):
    """What an expression asks of the engine, which stands further down."""

    def forward(self, roots: Sequence[Expr]) -> None: ...
    def value(self, root: Expr) -> Array: ...
    def host_value(self, root: Expr) -> HostArray: ...
    def answers(self, roots: Sequence[Expr]) -> list[HostArray]: ...
    def backward(self, root: Expr, cotangent: Array | None) -> None: ...
    def backward_all(self, roots: Sequence[Expr], cotangents: Sequence[Array | None]) -> None: ...


# The engine puts itself here when it is imported.
ENGINE: list[Evaluator] = []


class Expr:
    """One example's value, recorded and not yet computed.

    Operators, slices and the functions of ``lazyflow`` record further nodes; `numpy`, `item`, ``float()`` and
    ``bool()`` run what they need. Shape and dtype are known, and checked, at once.

    >>> import lazyflow as lf
    >>> x = lf.constant([1.0, 2.0, 3.0])
    >>> y = lf.tanh(x) * 2 + 1
    >>> y.shape, y.dtype
    ((3,), dtype('float32'))
    >>> y[0].item() > 2.5
    True

    A deep copy, or what is pickled, is the value as a constant, without what it was computed from.
    """

    __slots__ = ("note", "row", "tape", "type")  # the note says why a value is not to be unpacked, if that is so
    __pandas_priority__ = 10_000  # and series + expression, too

    tape: Tape
    row: int
    type: Type
    note: str

    def __dealloc__(self) -> None:
        """The end of a compiled expression; in Python nothing calls this."""
        if self.tape is not None and self.tape.handles is not None:
            self.tape.handles.down(self.row)

    @property
    def shape(self) -> Shape:
        """The shape of one example's value."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The NumPy dtype."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """How many axes the value has."""
        return self.type.ndim

    @property
    def size(self) -> int:
        """How many elements the value has."""
        return self.type.size

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""
        return self.type.device

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can flow through this value to a parameter."""
        return self.type.requires_grad and self.tape.grad

    def __len__(self) -> int:
        if not self.type.shape:
            raise TypeError("len() of an expression without axes")
        return self.type.shape[0]

    def __iter__(self) -> Iterator[Expr]:
        if getattr(self, "note", None) is not None:
            raise TypeError(self.note)
        return iter(unstacked(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.type!r}>"

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Expr:
        found: Expr = memo.setdefault(id(self), constant(self.numpy()))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return constant, (self.numpy(),)

    def __add__(self, other: OperandLike) -> Expr:
        return apply2(ADD_MEMO, self, other)

    def __radd__(self, other: OperandLike) -> Expr:
        return apply2(ADD_MEMO, other, self)

    def __sub__(self, other: OperandLike) -> Expr:
        return apply2(SUBTRACT_MEMO, self, other)

    def __rsub__(self, other: OperandLike) -> Expr:
        return apply2(SUBTRACT_MEMO, other, self)

    def __mul__(self, other: OperandLike) -> Expr:
        return apply2(MULTIPLY_MEMO, self, other)

    def __rmul__(self, other: OperandLike) -> Expr:
        return apply2(MULTIPLY_MEMO, other, self)

    def __truediv__(self, other: OperandLike) -> Expr:
        return apply2(DIVIDE_MEMO, self, other)

    def __rtruediv__(self, other: OperandLike) -> Expr:
        return apply2(DIVIDE_MEMO, other, self)

    def __floordiv__(self, other: OperandLike) -> Expr:
        return apply2(FLOOR_DIVIDE_MEMO, self, other)

    def __rfloordiv__(self, other: OperandLike) -> Expr:
        return apply2(FLOOR_DIVIDE_MEMO, other, self)

    def __mod__(self, other: OperandLike) -> Expr:
        return apply2(REMAINDER_MEMO, self, other)

    def __rmod__(self, other: OperandLike) -> Expr:
        return apply2(REMAINDER_MEMO, other, self)

    def __pow__(self, other: OperandLike, modulus: object = None) -> Expr:
        return apply2(POWER_MEMO, self, other)

    def __rpow__(self, other: OperandLike, modulus: object = None) -> Expr:
        return apply2(POWER_MEMO, other, self)

    def __matmul__(self, other: OperandLike) -> Expr:
        return product(self, other)

    def __rmatmul__(self, other: OperandLike) -> Expr:
        return product(other, self)

    def __neg__(self) -> Expr:
        return apply1(NEGATIVE_MEMO, self)

    def __pos__(self) -> Expr:
        if self.type.dtype.kind == "b":
            raise DTypeError("+ takes numbers, got bool; count with .astype('int64')")
        return self

    def __abs__(self) -> Expr:
        return apply1(ABS_MEMO, self)

    def __eq__(self, other: OperandLike) -> Any:
        return compared(EQUAL_MEMO, self, other)

    def __ne__(self, other: OperandLike) -> Any:
        return compared(NOT_EQUAL_MEMO, self, other)

    def __lt__(self, other: OperandLike) -> Any:
        return compared(LESS_MEMO, self, other)

    def __le__(self, other: OperandLike) -> Any:
        return compared(LESS_EQUAL_MEMO, self, other)

    def __gt__(self, other: OperandLike) -> Any:
        return compared(GREATER_MEMO, self, other)

    def __ge__(self, other: OperandLike) -> Any:
        return compared(GREATER_EQUAL_MEMO, self, other)

    def __and__(self, other: OperandLike) -> Expr:
        return of_booleans("&", LOGICAL_AND_MEMO, (self, other))

    def __or__(self, other: OperandLike) -> Expr:
        return of_booleans("|", LOGICAL_OR_MEMO, (self, other))

    def __invert__(self) -> Expr:
        return of_booleans("~", LOGICAL_NOT_MEMO, (self,))

    def all(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """Whether all elements along ``axis`` are true (all axes by default)."""
        return METHODS["all"](self, axis, keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """Whether an element along ``axis`` is true (all axes by default)."""
        return METHODS["any"](self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Expr:
        """The index of the smallest element along ``axis`` (of the flattened value by default)."""
        return METHODS["argmin"](self, axis, keepdims)

    def clip(self, low: OperandLike = None, high: OperandLike = None) -> Expr:
        """The value cut off at ``low`` and ``high``."""
        return METHODS["clip"](self, low, high)

    def cumsum(self, axis: int | None = None) -> Expr:
        """The cumulated sum along ``axis`` (of the flattened value by default)."""
        return METHODS["cumsum"](self, axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Expr:
        """A diagonal of two axes, as ``numpy.diagonal``."""
        return METHODS["diagonal"](self, offset, axis1, axis2)

    def flatten(self) -> Expr:
        """The value as a vector."""
        return METHODS["flatten"](self)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """The largest element along ``axis`` (all axes by default)."""
        return METHODS["max"](self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """The smallest element along ``axis`` (all axes by default)."""
        return METHODS["min"](self, axis, keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """The product along ``axis`` (all axes by default)."""
        return METHODS["prod"](self, axis, keepdims)

    def ravel(self) -> Expr:
        """The value as a vector."""
        return METHODS["ravel"](self)

    def repeat(self, repeats: int, axis: int | None = None) -> Expr:
        """Each element ``repeats`` times, as ``numpy.repeat``."""
        return METHODS["repeat"](self, repeats, axis)

    def round(self) -> Expr:
        """Rounded to whole numbers, halves to even ones."""
        return METHODS["round"](self)

    def squeeze(self, axis: Axis = None) -> Expr:
        """Without axes of size one."""
        return METHODS["squeeze"](self, axis)

    def std(self, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Expr:
        """The standard deviation along ``axis`` (all axes by default)."""
        return METHODS["std"](self, axis, keepdims, ddof)

    def swapaxes(self, axis1: int, axis2: int) -> Expr:
        """With two axes exchanged."""
        return METHODS["swapaxes"](self, axis1, axis2)

    def var(self, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Expr:
        """The variance along ``axis`` (all axes by default)."""
        return METHODS["var"](self, axis, keepdims, ddof)

    def transpose(self, *order: object, axes: object = None) -> Expr:
        """With its axes permuted, named one by one, as one sequence or as ``axes`` (reversed by default)."""
        return METHODS["transpose"](self, one_sequence("transpose", order, "axes", axes) or None)

    def forward(self) -> Expr:
        """Run what this value needs, under the current parameters, and return ``self``."""
        ENGINE[0].forward([self])
        return self

    def numpy(self) -> HostArray:
        """The value as a NumPy array of its own; runs what it needs if it was not computed yet.

        What was computed keeps its value when a parameter changes, until `forward` or `backward` is called, or a value
        is computed that rests on it.
        """
        return ENGINE[0].host_value(self)

    def item(self) -> Any:
        """The value of a one-element expression as a Python number. Raises ``ValueError`` for any other."""
        if self.type.size != 1:
            raise ValueError(f"item() needs one element, this expression has shape {self.shape}; use .numpy()")
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only an integer expression can be an index, this one is {self.dtype}")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __bool__(self) -> bool:
        if self.type.size != 1:
            raise ValueError(
                f"the truth value of an expression of shape {self.shape} is ambiguous; use lf.any or lf.all"
            )
        return bool(self.item())

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> HostArray:
        """For ``np.asarray``, and all that calls it unseen; raises `GradientError` where that would end a gradient.

        >>> import lazyflow as lf
        >>> np.asarray(lf.constant([1.0, 2.0]))
        array([1., 2.], dtype=float32)
        """
        _refuse_unasked(self)
        value = self.numpy()
        return value if dtype is None else value.astype(dtype)

    def __array_ufunc__(self, function: Any, method: str, *inputs: OperandLike, **options: Any) -> Any:
        memo = UFUNCS.get(function) if method == "__call__" and not options else None
        if memo is None:
            return PROTOCOLS["ufunc"](function, method, *inputs, **options)
        if len(inputs) == 1:
            return apply1(memo, inputs[0])
        if memo is MATMUL_MEMO:
            return product(inputs[0], inputs[1])
        return apply2(memo, inputs[0], inputs[1])

    def __array_function__(self, function: object, types: object, args: object, kwargs: object) -> Any:
        return PROTOCOLS["array_function"](function, args, kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return PROTOCOLS["array_namespace"](api_version)

    def __dlpack__(self, **options: object) -> Any:
        _refuse_unasked(self)  # torch.tensor and the like ask by this, too
        value = value_of(self)
        with devices.on(self.device):
            return (value.copy() if isinstance(self, Parameter) else value).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return devices.dlpack_device(self.device)

    def backward(self, gradient: Array | None = None) -> None:
        """Add the gradient of this value to ``.grad`` of every parameter that it reaches; implies `forward`.

        ``gradient``: the cotangent to start from, of this value's shape; optional for one element, where it is one.
        Raises `GradientError` when it is missing for more elements, or when nothing here can be differentiated.
        """
        ENGINE[0].backward(self, gradient)

    def detach(self) -> Expr:
        """The same value, through which no gradient flows.

        Of a value that was computed already this is a snapshot, a constant that no later update changes and that lets
        go of what it was computed from. Otherwise it is free: it shares the memory, and is computed when it is asked
        for. In the body of a `lazyflow.cell` nothing was computed yet: it belongs to the call.

        >>> import lazyflow as lf
        >>> w = lf.Parameter(1.0)
        >>> now, later = w * 10, w * 10
        >>> now.item()
        10.0
        >>> now, later = now.detach(), later.detach()
        >>> w.assign(2.0)
        >>> now.item(), later.item()
        (10.0, 20.0)
        """
        if is_evaluated(self) and tracing() is None:
            return snapshot(self)
        return view(self, intern_type(self.shape, self.dtype, self.device), 0)

    def retain_grad(self) -> None:
        """Keep the gradient of this value in `grad` when a backward comes through.

        Of a view (a slice, a part of a split, a reshape), what is recorded from this handle afterwards counts. Raises
        `GradientError` for a value without gradient.
        """
        if not self.requires_grad:
            raise GradientError("retain_grad() of a value that no gradient reaches: it depends on no parameter")
        if self.tape.body is not None:
            raise CellError(
                f"{user_line()}: a gradient inside the {self.tape.body.name} is never kept: return the value, and "
                "call retain_grad() outside"
            )
        if signature_by_id(self.tape.signatures[self.row]).op is VIEW_OP:
            # A view shares its memory, and its gradient's, with other uses of that memory: a node of its own does not.
            become(self, record(OPS["identity"], (self,)))
        self.tape.retained.setdefault(self.row, None)

    def register_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(gradient)`` in every backward that reaches this value, with its whole gradient as an array.

        What the hook returns, if not None, takes the gradient's place. Returns a handle with ``remove()``. A value
        that shares the memory of another (a slice, a part of a split, a reshape), and the result of a cell, gets a
        node of its own, which later uses go through; it must not have been used before. Raises `GradientError` for
        such a value, and for one without gradient, ``TypeError`` for what is no function; a backward raises
        `ShapeError` at a gradient of another shape.

        >>> import lazyflow as lf
        >>> w = lf.Parameter([1.0, 2.0])
        >>> y = w * 3
        >>> handle = y.register_hook(lambda gradient: 10 * gradient)
        >>> lf.sum(y).backward()
        >>> w.grad
        array([30., 30.], dtype=float32)
        """
        if not self.requires_grad:
            raise GradientError("register_hook() of a value that no gradient reaches: it depends on no parameter")
        if self.tape.body is not None:
            raise CellError(
                f"{user_line()}: a hook inside the {self.tape.body.name} would never be called: register it on a result"
            )
        signature = signature_by_id(self.tape.signatures[self.row])
        if OPS.get(signature.op.name) is not signature.op:
            if self.tape.operands.count(self.row) > len(signature.further):  # the further results of a call read it
                raise GradientError(
                    "register_hook() of a value that shares the memory of another, such as a slice, or of a cell's "
                    "result, that was used already: register the hook before the first use"
                )
            become(self, record(OPS["identity"], (self,)))
        return HookHandle(self.tape.hooks.setdefault(self.row, []), hook)

    @property
    def grad(self) -> Array | None:
        """The gradient that `retain_grad` asked for, summed over backwards; None before."""
        refuse_in_cells("a gradient is read", "pass it as an argument")
        return self.tape.retained.get(self.row)

    @property
    def T(self) -> Expr:
        """The value with its axes reversed."""
        return METHODS["transpose"](self)

    def __getitem__(self, key: object) -> Expr:
        return subscripted(self, key)

    def reshape(self, *sizes: object, shape: object = None) -> Expr:
        """The value in another shape of the same size, named one by one, as one sequence or as ``shape``; one size may
        be -1."""
        return METHODS["reshape"](self, one_sequence("reshape", sizes, "shape", shape))

    def astype(self, dtype: DTypeLike) -> Expr:
        """The value converted to ``dtype``."""
        return METHODS["astype"](self, dtype)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """The sum over ``axis`` (all axes by default)."""
        return METHODS["sum"](self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Expr:
        """The mean over ``axis`` (all axes by default)."""
        return METHODS["mean"](self, axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Expr:
        """The index of the largest element along ``axis`` (of the flattened value by default)."""
        return METHODS["argmax"](self, axis, keepdims)


recycle(Expr)


def one_sequence(method: str, given: tuple[object, ...], name: str, named: object) -> Any:
    """The argument of a method that takes integers one by one, as one sequence, or by its name."""
    if named is None:
        return given[0] if len(given) == 1 and not isinstance(given[0], int) else given
    if given:
        raise TypeError(f"{method}() got multiple values for argument {name!r}")
    return named


def _refuse_unasked(e: Expr) -> None:
    if e.requires_grad:
        raise GradientError(
            "an expression with a gradient does not become an array unasked: write x.numpy() for its value, or "
            "take operators and lazyflow's functions for a result with a gradient"
        )


def handle(tape: Tape, row: int, kind: Type) -> Expr:
    """An `Expr` for a row that is on the tape."""
    if RECALL is None:  # in Python: there a call is quicker than ``__new__``, and nobody counts
        e = Expr()
    else:
        e = Expr.__new__(Expr)
        if tape.handles is not None:
            tape.handles.up(row)
    e.tape, e.row, e.type = tape, row, kind
    return e


def become(e: Expr, other: Expr) -> None:
    """Make a handle one of another row; what is retained of its own goes along."""
    retained, row = e.tape.retained, e.row
    if e.tape.handles is not None:
        other.tape.handles.up(other.row)
        e.tape.handles.down(row)
    e.tape, e.row, e.type = other.tape, other.row, other.type
    if row in retained:
        e.tape.retained[e.row] = retained.pop(row)


_versions = itertools.count(1)


def moment() -> int:
    """A number larger than all that were given before: a version of a parameter, or the time of a run."""
    return next(_versions)


class Changes:
    """Counts changes: ``count`` is another number after each."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


STRUCTURE = Changes()  # of what a traced body can see: attributes of modules, the type of a parameter
_changes = itertools.count(1)


def note_change() -> None:
    """Count a change: afterwards, or another thread could look at what was there before and take it for the new; and
    before, too, where an interrupt may come between."""
    STRUCTURE.count = next(_changes)


class Parameter(Expr):
    """An array that training changes, shared by all examples.

    ``value``: anything NumPy can make an array of; an array keeps its dtype, Python numbers take the default one. The
    array is copied. ``grad`` is None until a backward reaches the parameter, then an array of its shape, or, for a
    table that was only looked up in, a `RowSparse` with ``.indices``, ``.values`` and ``.to_dense()``.

    >>> import lazyflow as lf
    >>> w = lf.Parameter([1.0, 2.0])
    >>> lf.sum(w * w).backward()
    >>> w.grad
    array([2., 4.], dtype=float32)
    """

    __slots__ = (
        "__weakref__", "_array", "_columns", "_content", "_exposed", "_grad", "_name", "epoch", "hooks", "version",
    )  # fmt: skip

    def __init__(self, value: object, *, name: str = "", requires_grad: bool = True) -> None:
        refuse_in_cells("a parameter is made", "make it outside, once")
        options = settings.current()
        array = _as_array(_detached(value), options.dtype)
        if requires_grad and array.dtype.kind in "iu" and isinstance(value, int | list | tuple):
            array = array.astype(options.dtype)  # Python's integers, which have no dtype of their own
        self._array = devices.copied(array, options.device)
        self.name = name
        self._grad: Array = None
        self._columns: tuple[object, Array] = (None, None)
        self._exposed, self._content = False, b""
        self.hooks: list[Hook] = []
        self.version = moment()
        self.epoch = 0
        self._retype(requires_grad)

    def _retype(self, requires_grad: bool) -> None:
        if requires_grad and self._array.dtype.kind != "f":
            raise DTypeError(
                f"only floating parameters have gradients, got {self._array.dtype}; pass requires_grad=False"
            )
        device = devices.device_of(self._array)
        self._forget_signatures()
        note_change()
        self.type = Type(self._array.shape, self._array.dtype, device, requires_grad, self)
        note_change()

    def _forget_signatures(self) -> None:
        """A type and its signatures refer to each other; without this they would wait for the garbage collector."""
        if getattr(self, "type", None) is not None:
            self.type.signatures.clear()
            if RECALL is not None:
                RECALL.forget(self.type)

    def __del__(self) -> None:
        self._forget_signatures()

    @property
    def memory(self) -> Array:
        """The array itself, for the engine, which runs no body of a cell."""
        return self._array

    def stored(self) -> Array:
        """The array itself, for the library, which says what it changes (`touch`), and keeps no reference."""
        refuse_in_cells(
            "the value of a parameter is read",
            "use the parameter itself as an operand, or parameter.detach() for one without gradient, or pass the value "
            "as an argument",
        )
        return self._array

    @property
    def array(self) -> Array:
        """The array itself; see `data`. Another one may be set in its place."""
        array = self.stored()
        fibers.refuse_change("the array of a parameter is taken, maybe to be changed,", self.version)
        self.touch()
        self._exposed, self._content = True, b""
        return array

    @array.setter
    def array(self, value: Array) -> None:
        self.refuse_change()
        self._array = value
        self.touch()
        self._exposed, self._content = True, b""

    def notice(self) -> None:
        """Look whether whoever was given the array has changed it since this was last asked: by every run, and before
        a value counts as one of now."""
        if self._exposed:
            content = devices.to_host(self._array).tobytes()
            if content != self._content and self._content:
                self.touch()
            self._content = content
            if _references(self) <= _ALONE:  # nobody has it any more
                self._exposed, self._content = False, b""

    @property
    def name(self) -> str:
        """What messages call it; may be set."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        note_change()  # a body may read it
        self._name = value
        note_change()

    @property
    def requires_grad(self) -> bool:
        """Whether backward computes a gradient for it; may be set."""
        return self.type.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.refuse_change()
        if value != self.type.requires_grad:
            self._retype(value)

    @property
    def data(self) -> Array:
        """The array itself, to read or to change in place, now or later; values computed before count as stale from
        now on.

        Setting it copies a new array in, which must have the same shape (`ShapeError`); its dtype is converted. To
        look at the values only, `numpy` copies them and leaves what was computed alone.
        """
        return self.array

    @data.setter
    def data(self, value: OperandLike) -> None:
        self.assign(value)

    def columns(self, run: int) -> Array:
        """``array`` in column-major order, copied once for every change of the parameter, or, if its `data` was handed
        out and may change unseen, once for every ``run``.

        A product with the transpose of a row-major matrix is up to five times slower where the other factor has few
        rows.
        """
        key = self.version, run if self._exposed else 0
        known, array = self._columns
        if known != key:
            array = transposed(devices.module(self._array), self._array).T
            self._columns = key, array
        return array

    def assign(self, value: object) -> None:
        """Copy ``value`` in. Raises `ShapeError` if its shape is not the parameter's; nothing has changed then."""
        self.refuse_change()
        new = value_of(value) if isinstance(value, Expr) else _as_array(_detached(value), self.dtype)
        if new.shape != self.shape:
            raise ShapeError(
                f"parameter {self.name or ''} has shape {self.shape}, got {new.shape}; a parameter keeps its shape"
            )
        self.touch()  # and once more afterwards: what is computed under half of the new values is stale, too
        with devices.on(self.device):
            self.stored()[...] = devices.to_device(new, self.device)
        self.touch()

    def refuse_change(self) -> None:
        """Raise `CellError` in the body of a cell, and `MapError` where examples of a map take turns."""
        refuse_in_cells("a parameter is changed", "change it outside, between the calls")
        fibers.refuse_change("a parameter is changed", self.version)

    def touch(self) -> None:
        """Say that ``array`` has changed in place: expressions evaluated before are stale."""
        self.version = moment()

    def replaced(self) -> None:
        """Say that a module has put another in its place: what was recorded before cannot be computed any more."""
        self.epoch += 1
        self._retype(self.requires_grad)
        self.touch()

    @property
    def grad(self) -> Array:
        """None, an array of the parameter's shape, or a `RowSparse`."""
        refuse_in_cells("a gradient is read", "pass it as an argument")
        return self._grad

    @grad.setter
    def grad(self, value: OperandLike) -> None:
        refuse_in_cells("a gradient is set", "set it outside, between the calls")
        fibers.refuse_change("a gradient is set", self.version)
        if value is not None and not hasattr(value, "shape"):
            raise TypeError(f"a gradient is an array, a RowSparse or None, got a {type(value).__name__}")
        if value is not None and value.shape != self.shape:
            raise ShapeError(f"the gradient of a parameter of shape {self.shape} must have it too, got {value.shape}")
        if value is not None:
            self._check_place(value)
        self._grad = value

    def _check_place(self, gradient: object) -> None:
        where = devices.device_of(getattr(gradient, "values", gradient))
        if where != self.device:
            here = "gradient.get(), NumPy's" if self.device == "cpu" else "cupy.asarray(gradient), CuPy's"
            raise DeviceError(
                f"the gradient of a parameter on {self.device} must lie there too, got one on {where}: write {here}, "
                "or move the parameter with .to(device), which takes its gradient along"
            )

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def to(self, device: str) -> Parameter:
        """Move the array (and its gradient) to ``device``; returns ``self``."""
        device = devices.canonical(device)
        if device != self.device:
            self.place(*self.copies(device))
        return self

    def copies(self, device: str) -> tuple[Array, Array]:
        """The array and the gradient on ``device``. Nothing has changed yet: memory may run out there."""
        array, gradient = devices.to_device(self.stored(), device), self._grad
        if gradient is None:
            return array, None
        return array, gradient.to(device) if hasattr(gradient, "indices") else devices.to_device(gradient, device)

    def place(self, array: Array, gradient: object) -> None:
        """Take over what `copies` gave."""
        self.refuse_change()
        self._array, self._grad = array, gradient
        self._retype(self.requires_grad)
        self.touch()

    def numpy(self) -> HostArray:
        """A copy of the array, on the host."""
        return devices.copied(self.stored(), "cpu")  # type: ignore[no-any-return]

    def forward(self) -> Parameter:
        """A parameter has its value already; returns ``self``."""
        return self

    def detach(self) -> Expr:
        """A snapshot of the value as a constant; inside of a `lazyflow.cell`, the value that it has when the call is
        computed, whenever that is. No gradient flows through it."""
        if tracing() is None:
            return constant(self.stored())
        signature = self.type.signatures.get("detached")
        if signature is None:
            kind = Type(self.shape, self.dtype, self.device, False, self)
            kind.detached = True
            signature = self.type.signatures.setdefault("detached", build(OPS["identity"], (kind,), {}))
        tape = current_tape()
        tape.keep.update((self, signature))
        return append(tape, signature, ())

    def retain_grad(self) -> None:
        """Parameters always keep their gradient."""

    def register_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(gradient)`` with what a backward is about to add to ``grad``: an array, or a `RowSparse` of a
        table; an array that it returns takes its place."""
        refuse_in_cells("a hook is registered", "register it outside, once")
        return HookHandle(self.hooks, hook)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """A parameter of its own: its type, which says who it is, is not copied."""
        memo[id(self)] = new = type(self)(
            devices.to_host(self.stored()), name=self.name, requires_grad=self.requires_grad
        )
        return new.to(self.device)

    def __copy__(self) -> Parameter:
        return self.__deepcopy__({})

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.numpy(), self.name, self.requires_grad, self.device)

    def __repr__(self) -> str:
        return f"Parameter({self.name or ''}{list(self.shape)}, {self.dtype.name})"

    def _in_place(self, function: Any, other: OperandLike) -> Parameter:
        if settings.current().grad:
            raise RuntimeError("a parameter is changed in place only under lf.no_grad(), so that no graph misses it")
        with devices.on(self.device):
            value = other.to_dense() if hasattr(other, "to_dense") else value_of(other)
            if not isinstance(value, float | int):
                value = devices.to_device(value if devices.is_array(value) else np.asarray(value), self.device)
            self.assign(function(self.stored(), value))
        return self

    def __iadd__(self, other: OperandLike) -> Parameter:
        return self._in_place(operator.add, other)

    def __isub__(self, other: OperandLike) -> Parameter:
        return self._in_place(operator.sub, other)

    def __imul__(self, other: OperandLike) -> Parameter:
        return self._in_place(operator.mul, other)

    def __itruediv__(self, other: OperandLike) -> Parameter:
        return self._in_place(operator.truediv, other)


PLAIN_DTYPES = frozenset(np.dtype(c) for c in "?bBhHiIlLqQefd")
NUMPYS_INTEGERS = frozenset(d.type for d in PLAIN_DTYPES if d.kind in "iu")
_NAMED: dict[object, DType] = {name: d for d in PLAIN_DTYPES for name in (d, d.name, d.type)}


def plain_dtype(dtype: DTypeLike) -> DType:
    """A dtype of values: numbers or booleans in the machine's byte order. Raises `DTypeError` for others."""
    with suppress(TypeError):  # of what has no hash
        if (known := _NAMED.get(dtype)) is not None:
            return known
    found: DType = np.dtype(dtype).newbyteorder("=")
    if found.kind not in "biuf" or found.itemsize > 8:
        raise DTypeError(f"values are booleans, integers, or float16, float32 and float64, not {found}")
    return found


def value_of(value: OperandLike) -> Array:
    """The value of an expression as an array where it lies, the very one of a parameter; anything else as it is."""
    if not isinstance(value, Expr):
        return value
    return value.stored() if isinstance(value, Parameter) else ENGINE[0].value(value)


def _unpickled(kind: type[Parameter], array: Array, name: str, requires_grad: bool, device: str) -> Parameter:
    return kind(array, name=name, requires_grad=requires_grad).to(device)


def _as_array(value: Any, dtype: DType) -> Array:
    """``value`` as an array of numbers: arrays keep their dtype, Python floats take ``dtype``, Python integers become
    int64."""
    if type(value) is TracedNumber:
        value = value.needed()
    if devices.is_array(value):
        array = value
    elif isinstance(value, np.generic):
        array = np.asarray(value)
    elif hasattr(value, "__array__"):
        array = _foreign_array(value)
    else:
        array = array_of_numbers(value)
        if array is None and holds_expressions(value):
            raise TypeError("a list that holds expressions is no array; join them with lf.stack or lf.concatenate")
        array = _listed_array(value) if array is None else array
        if array.dtype.kind == "f":
            array = array.astype(dtype)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DTypeError(f"expected numbers, got {array.dtype} from a {type(value).__name__}{_instead(value, array)}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _references(owner: Any) -> int:
    return sys.getrefcount(owner._array)


class _Sample:
    """Alone has an array, as a parameter does whose array nobody else has."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array = np.zeros(1)


_ALONE = _references(_Sample())


def _detached(value: Any) -> object:
    """A tensor of another library whose values are copied, for which its gradient does not matter."""
    return value.detach() if getattr(value, "requires_grad", False) is True else value


def _foreign_array(value: OperandLike) -> Array:
    """An array of another library, such as a tensor or a data frame, as one of NumPy's, or of the device's."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array would lose its mask: write x.filled(0.0), and lf.where with x.mask")
    if isinstance(value, np.matrix):
        raise TypeError("np.matrix multiplies otherwise than arrays do: write np.asarray(x)")
    name = type(value).__name__
    if getattr(value, "requires_grad", False) is True:
        raise GradientError(
            f"the gradient of a {name} would end here, where it becomes an array: write x.detach() if it may"
        )
    if hasattr(value, "__cuda_array_interface__"):
        return devices.array_from_dlpack(value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"a {name} cannot be read as an array of numbers ({error}); convert it first, as in x.float().numpy()"
        ) from None


def _instead(value: object, array: Array) -> str:
    """What to write in place of what is no array of numbers, after a colon; empty where there is nothing to say."""
    if value is None:
        return ": is a return missing, or an argument?"
    if array.dtype.kind in "US":
        return ": text has numbers in a vocabulary, see lf.data.Vocabulary"
    if hasattr(value, "toarray"):
        return ", which is sparse: write x.toarray(), or lf.scatter of its rows"
    if hasattr(value, "select_dtypes"):
        return ": take its columns of numbers, as in x.select_dtypes('number')"
    if array.dtype.names:
        return ": take one of its fields, as in x[" + repr(array.dtype.names[0]) + "]"
    if array.dtype.kind == "O" and isinstance(value, np.ndarray):
        return ": convert it, as in x.astype('float32')"
    return "; there are float16, float32 and float64" if array.dtype.kind == "f" else ""


def _listed_array(value: OperandLike) -> Array:
    if hasattr(value, "__next__"):
        raise TypeError(f"expected an expression, an array or numbers, got a {type(value).__name__}; make a list of it")
    try:
        return np.asarray(value)
    except TypeError:  # CuPy's arrays are not NumPy's unasked
        if not _holds_gpu_arrays(value):
            raise
        return _stacked_on_gpu(value)
    except ValueError:
        raise ShapeError(
            "a list whose parts have different lengths is no array; pad them, or record each one"
        ) from None


def _holds_gpu_arrays(value: OperandLike) -> bool:
    return devices.is_on_gpu(value) or (isinstance(value, list | tuple) and any(map(_holds_gpu_arrays, value)))


def _stacked_on_gpu(value: OperandLike) -> object:
    """A list with CuPy's arrays in it, at any depth, as one of CuPy's."""
    return devices.stacked([_stacked_on_gpu(v) for v in value]) if isinstance(value, list | tuple) else value


def holds_expressions(value: OperandLike) -> bool:
    """Whether a Python list or tuple has an expression in it, at any depth. Raises ``TypeError`` for one that says, by
    a ``note``, that it is not to be taken for a list of expressions."""
    if isinstance(value, tuple) and (note := getattr(value, "note", None)):
        raise TypeError(note)
    return isinstance(value, list | tuple) and any(isinstance(v, Expr) or holds_expressions(v) for v in value)


_constants: dict[object, ArrayKind] = table_of_interned({})  # so that each is one object


def unstacked(x: Expr) -> list[Expr]:
    """Those of the first axis, also of what has a ``note``: who asks by this name unpacks no values and indices."""
    return [x[i] for i in range(len(x))]


def constant(value: object) -> Expr:
    """An array as an expression without gradient.

    The array is copied when it is recorded: changing it afterwards changes nothing here. NumPy arrays keep their dtype;
    Python floats and lists of them take the default dtype (float32), Python integers become int64.

    >>> import lazyflow as lf
    >>> lf.constant([1.0, 2.0]).dtype, lf.constant(3).dtype
    (dtype('float32'), dtype('int64'))
    """
    if isinstance(value, Expr):
        return value
    if type(value) is ndarray:
        tape = open_here()
        known: Any = None if tape is None or SHAPES is None else SHAPES.get(value, tape.device)
        if tape is not None and known is not None:
            return constant_of(tape, known, SHAPES.copy(value))
        if value.dtype in PLAIN_DTYPES:
            return constant_node(current_tape(), np.array(value))
    array = array_of_numbers(value)
    if array is not None:
        tape = _here()
        return constant_node(tape, array if array.dtype.kind == "i" else array.astype(tape.dtype, copy=False))
    options = settings.current()
    array = _as_array(value, options.dtype)
    return constant_node(current_tape(), devices.copied(array, devices.device_of(array)))


def in_dtype(x: object, dtype: DType) -> Any:
    """``x`` as an expression of ``dtype``: what a layer is given, and what a loss compares with.

    A layer keeps the dtype of its parameters, and a loss that of the prediction. So data in float64, which is what
    NumPy makes, and integers do not turn a float32 model into one of float64; gradients are converted back. Plain
    operations promote as NumPy does, where only Python's numbers and lists are weak (`_classify`).
    """
    if isinstance(x, Expr):
        return x if x.type.dtype == dtype else record(OPS["astype"], (x,), dtype=dtype)
    if type(x) is TracedNumber:  # and is payload
        return apply2(MULTIPLY_MEMO, constant(np.ones((), dtype)), x)
    if type(x) is ndarray and x.dtype == dtype:
        return constant(x)
    return constant(_as_array(x, dtype).astype(dtype, copy=False))


def all_in_dtype(xs: Iterable[object], dtype: DType) -> list[Any]:
    """The same of several."""
    found = []
    for x in xs:
        if type(x) is Expr:
            e: Expr = x
            if e.type.dtype is dtype:
                found.append(x)
                continue
        found.append(in_dtype(x, dtype))
    return found


def as_floating(x: OperandLike, *weights: OperandLike) -> Expr:
    """``x`` as an expression in the dtype of the first of ``weights`` that is not None; without any, integers take the
    default one."""
    given = [w for w in weights if w is not None]
    if isinstance(x, Expr) and x.dtype.kind == "f" and all(getattr(w, "dtype", None) == x.dtype for w in given):
        return x
    dtype = None
    for w in given:
        if isinstance(w, Expr) and not is_array_of_a_call(w):
            dtype = w.dtype
            break
    if dtype is None or dtype.kind != "f":
        x = x if isinstance(x, Expr) else constant(x)
        dtype = x.dtype if x.dtype.kind == "f" else settings.current().dtype
    found: Expr = in_dtype(x, dtype)
    return found


def in_one_dtype(prediction: Any, *targets: Any) -> list[Expr]:
    """Operands of a loss in the dtype of the prediction: of the first floating expression, or else array, of them."""
    given = [prediction, *targets]
    if all(isinstance(o, Expr) and o.dtype is prediction.dtype and o.dtype.kind == "f" for o in given):
        return given
    given = [own_array(o) for o in given]
    floating = [o for o in given if hasattr(o, "dtype") and o.dtype.kind == "f"]
    first = next(
        (o for o in floating if isinstance(o, Expr) and not is_array_of_a_call(o)), floating[0] if floating else None
    )
    dtype = settings.current().dtype if first is None else first.dtype
    return [in_dtype(o, dtype) for o in given]


def is_array_of_a_call(e: Expr) -> bool:
    """Whether an expression is what the body of a cell has for an array among its arguments. From now on it counts for
    that body which of its arguments are arrays."""
    body = None if e.type.parameter is not None else e.tape.body
    if body is None or e.row >= len(body.inputs):
        return False
    body.tells_arrays = True
    return e.row in body.arrays or is_array_of_a_call(body.inputs[e.row])


def constants(operands: Iterable[Any]) -> list[Expr]:
    """The operands of a list as expressions; numbers, and lists of them, take the dtype of what they stand beside."""
    if (note := getattr(operands, "note", None)) is not None:
        raise TypeError(note)
    given = list(operands)
    if all(type(o) is Expr for o in given):
        return given
    given = [own_array(o) for o in given]
    dtypes = _dtypes(given)
    return [o if o.__class__ is Expr else constant(_weak(o, dtypes)) for o in given]


def _dtypes(operands: Iterable[OperandLike]) -> set[DType]:
    """The dtypes that numbers beside these operands can take."""
    return {o.dtype for o in operands if not isinstance(o, np.generic | TracedNumber) and hasattr(o, "dtype")}


def _weak(value: object, dtypes: Iterable[DType]) -> object:
    """A number, or a list of them, in the floating one of the dtypes beside it, an integer in that of integers."""
    if type(value) is TracedNumber:
        value = value.needed()
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.generic | list | tuple):
        return value
    floating = [d for d in dtypes if d.kind == "f"]
    integral = [d for d in dtypes if d.kind in "iu"]
    array = _as_array(value, settings.current().dtype)
    if floating and array.dtype.kind != "b":
        return array.astype(np.result_type(*floating))
    return _in_bounds(array, np.result_type(*integral)) if integral and array.dtype.kind in "iu" else array


def _in_bounds(array: Array, dtype: DType) -> Array:
    """Integers in another dtype of integers. Raises `OverflowError` where it does not hold them, as of a number."""
    limits = np.iinfo(dtype)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise OverflowError(
            f"a list beside {dtype} holds integers out of its bounds, {limits.min} to {limits.max}: {array}"
        )
    return array.astype(dtype)


def is_evaluated(e: Expr) -> bool:
    """Whether the value of ``e`` was computed already. A parameter has its own."""
    return isinstance(e, Parameter) or bool(e.tape.has_value(e.row))


def first_value(e: Expr) -> list[Array]:
    """An empty list, which gets the value of ``e`` when that is first computed."""
    return e.tape.remembered.setdefault(e.row, [])


def snapshot(e: Expr) -> Expr:
    """The value that ``e`` has now as a constant."""
    return constant_node(current_tape(), ENGINE[0].value(e))


class ArrayKind:
    """Of arrays of a dtype and a shape: their type, and the signature of constants of it."""

    __slots__ = ("signature", "type")

    def __init__(self, kind: Type, signature: Signature) -> None:
        self.type, self.signature = kind, signature


SHAPES: Any = Shapes()
if SHAPES is not None:
    table_of_interned(SHAPES)


def array_kind(tape: Tape, array: Array) -> ArrayKind:
    """The kind that an array is of on a tape."""
    found: ArrayKind | None = None if SHAPES is None else SHAPES.get(array, tape.device)
    if found is None:
        dtype = array.dtype if array.dtype.isnative else np.dtype(array.dtype.name)  # that of its copy
        kind = intern_type(array.shape, dtype, tape.device)
        found = _constants.get(kind)
        if found is None:
            made = interned((CONSTANT_OP, kind), partial(leaf_signature, CONSTANT_OP, kind, ints=0))
            found = _constants[kind] = ArrayKind(kind, made)
        if SHAPES is not None and array.dtype in PLAIN_DTYPES:
            SHAPES.put(array, tape.device, found)
    return found


def constant_node(tape: Tape, array: Array) -> Expr:
    """A constant node of an array that nobody will change."""
    return constant_of(tape, array_kind(tape, array), array)


def constant_here(array: Array) -> Expr:
    """The same on the tape of this context."""
    return constant_node(_here(), array)


def constant_of(tape: Tape, kind: ArrayKind, array: Array) -> Expr:
    """The same for an array whose kind is known."""
    row = len(tape.signatures)
    if tape.lines is not None:
        tape.lines[row:] = [user_line()]
    tape.signatures.append(kind.signature.id)
    e = handle(tape, row, kind.type)
    tape.objects[row] = array  # afterwards: an interrupt between the two must not make another row a constant
    return e


def append(
    tape: Tape, signature: Signature, rows: Sequence[int], ints: Sequence[int] = (), floats: Sequence[float] = ()
) -> Expr:
    """Append a row to an open tape: its signature, the rows of its operands, and its payload."""
    assert not tape.sealed, "what is recorded goes onto an open tape"
    for number in ints:
        if not -0x80000000 <= number <= 0x7FFFFFFF:
            payload_integers(ints)  # raises before anything is on the tape
    row = len(tape.signatures)
    if tape.lines is not None:
        tape.lines[row:] = [user_line()]
    for number in ints:  # in the order of `_node`
        tape.ints.append(number)
    for value in floats:
        tape.floats.append(value)
    tape.signatures.append(signature.id)
    for operand in rows:
        tape.operands.append(operand)
    return handle(tape, row, signature.type)


def payload_integers(values: Iterable[int]) -> array[int]:
    """Indices and offsets as a tape holds them. Raises `ShapeError` for one that does not fit."""
    values = list(values)
    try:
        return array("i", values)
    except OverflowError:
        raise ShapeError(
            f"an index or a view reaches element {max(values, key=abs)} of an array; a tape holds indices up to "
            "2**31 - 1: give the array in several parts"
        ) from None


_imports: dict[Type, Signature] = table_of_interned({})


def local_row(tape: Tape, e: Expr) -> int:
    """The row of ``e`` on ``tape``, importing it from its own tape if that is another."""
    if e.tape is tape:
        return e.row
    key = e.tape.number, e.row, e.tape.generation
    row = tape.imported.get(key)
    if row is not None:
        return row
    if e.row in e.tape.objects:
        # A constant needs no import: long-lived ones, such as a data set, would tie every minibatch to their tape.
        found = constant_node(tape, e.tape.objects[e.row])
        row = tape.imported[key] = found.row if e.type.device == tape.device else placed(found, e.type.device).row
    if e.tape.body is not None:
        raise CellError(
            f"{user_line()}: an expression of the inside of the {e.tape.body.name} is used outside of it, where it "
            "has no value: the body is recorded once, for all calls; return the expression"
        )
    if row is None and tape.body is not None:
        raise CellError(
            f"{user_line()}: the {tape.body.name} uses an expression that was recorded outside of it, of shape "
            f"{e.shape}; its body is recorded only once: pass the expression as an argument"
        )
    flows = e.type.requires_grad and e.tape.grad
    if row is None and not flows and e.tape.has_value(e.row) and (e.type.dtype.kind == "f" or not e.tape.grad):
        # Nothing flows back through it: a state that is carried on for ever must not keep all of its past alive. A
        # choice (an argmax, a comparison) is no such state: it is imported, for `forward` may have to make it anew.
        row = tape.imported[key] = constant_node(tape, _known_value(e)).row
    if row is None:
        e.tape.seal()
        kind = imported_type(e)
        signature = _imports.get(kind)
        if signature is None:
            signature = _imports[kind] = interned((IMPORT_OP, kind), partial(leaf_signature, IMPORT_OP, kind))
        if e.tape.owners is not tape.owners:
            tape.owners |= e.tape.owners
        tape.imports.append((e.tape, e.row))
        row = tape.imported[key] = append(tape, signature, (), (len(tape.imports) - 1,)).row
    return row


def _known_value(e: Expr) -> Array:
    """The value of what was computed: what the engine gives, and where nothing is to be moved the short way there."""
    tape = e.tape
    if tape.device != "cpu" or e.type.device != "cpu" or tape.owners is not tape.owner.alone:
        return ENGINE[0].value(e)
    with tape.owner.lock:
        if tape.has_value(e.row):
            run, offset = tape.place_of(e.row)
            if run.device == "cpu":
                return run.value(offset, e.type)
    return ENGINE[0].value(e)


def imported_type(e: Expr) -> Type:
    """The type of ``e`` as a later tape sees it: without gradient if it was recorded without."""
    kind = e.type
    if e.tape.grad or not kind.requires_grad:
        return kind
    return without_gradient(kind) if kind.plain is None else kind.plain


def type_on(tape: Tape, e: Expr) -> Type:
    """The type of ``e`` as an operand of a node on ``tape``."""
    return e.type if e.type.parameter is not None or e.tape is tape else imported_type(e)


def _classify(op: Op, operands: Sequence[OperandLike], tape: Tape) -> tuple[list[Any], tuple[Type | Inline, ...]]:
    """Operands as expressions or payload numbers, and the types that key the signature.

    Python's scalars are weak, as in NumPy (NEP 50): they take the dtype of the expression. So are lists of them, and
    NumPy's scalars, unlike in NumPy, so that ``x / np.sqrt(n)`` stays float32; an array of any shape has its own dtype.
    """
    values: list[OperandLike] = []
    types: list[Type | Inline] = []
    operands = [own_array(o) for o in operands]
    operands = [_traced_operand(op, o, operands) if isinstance(o, TracedNumber) else o for o in operands]
    operands = _weak_lists(op, operands) if op.elementwise else operands
    integral = op.elementwise and not any(_is_floating(o) for o in operands)
    alone = op.elementwise and not any(_holds_numbers(o) for o in operands)
    for o in operands:
        if isinstance(o, Expr):
            pass
        elif isinstance(o, TracedNumber):
            values.append(o)
            types.append(SCALAR if op.elementwise else INDEX)
            continue
        elif isinstance(o, float | int | np.generic) and not isinstance(o, complex):
            if (op.random and isinstance(o, float)) or (
                op.elementwise and not integral and not isinstance(o, bool | np.bool_)
            ):
                o = float(o)
                if not alone:
                    values.append(o)
                    types.append(SCALAR)
                    continue
            if not op.elementwise and isinstance(o, int | np.integer) and not isinstance(o, bool):
                values.append(int(o))
                types.append(INDEX)
                continue
            o = constant(_weak_integer(o, operands))
        else:
            o = constant(o)
        values.append(o)
        types.append(type_on(tape, o))
    return values, tuple(types)


def own_array(value: OperandLike) -> Array:
    """An array of another library as one of NumPy's, anything else as it is."""
    if (
        isinstance(value, Expr | np.generic | TracedNumber)
        or devices.is_array(value)
        or not hasattr(value, "__array__")
    ):
        return value
    return _as_array(value, settings.current().dtype)


def _weak_lists(op: Op, operands: Sequence[object]) -> Sequence[object]:
    """Lists of an elementwise operation as arrays. Where nothing has a dtype and the result is floating, integers take
    the default one: a Python integer is no reason to compute in float64."""
    if all(isinstance(o, int | list | tuple) and not isinstance(o, TracedNumber) for o in operands):
        arrays = [_as_array(o, settings.current().dtype) for o in operands]
        if op.infer(*[Aval(a.shape, a.dtype) for a in arrays]).dtype.kind == "f":
            return [a.astype(settings.current().dtype) for a in arrays]
    if not any(isinstance(o, list | tuple) for o in operands):
        return operands
    dtypes = _dtypes(operands)
    return [_weak(o, dtypes) if isinstance(o, list | tuple) else o for o in operands]


def _holds_numbers(o: OperandLike) -> bool:
    """Whether it has a dtype that a weak number can take; beside truth values alone a number takes the default one."""
    return not isinstance(o, np.generic) and bool(getattr(o, "dtype", np.bool_) != np.bool_)


def _traced_operand(op: Op, o: TracedNumber, operands: Sequence[OperandLike]) -> object:
    """A number of a cell's call as an operand: a scalar beside floating expressions, or an index; else its value
    counts."""
    beside = [e for e in operands if isinstance(e, Expr)]
    weak = op.elementwise and any(e.dtype.kind == "f" for e in beside)
    index = not op.elementwise and not op.stacked and isinstance(o.value, int | np.integer)
    return o if weak or index else o.needed()


def _is_floating(o: OperandLike) -> bool:
    if isinstance(o, TracedNumber):
        return isinstance(o.value, float | np.floating)
    if isinstance(o, Expr):
        return o.dtype.kind == "f"
    return isinstance(o, float | np.floating) or (hasattr(o, "dtype") and o.dtype.kind == "f")


def _weak_integer(value: OperandLike, operands: Sequence[OperandLike]) -> object:
    """A Python integer beside integer expressions and arrays takes their dtype, as in NumPy (NEP 50)."""
    dtypes = [d for d in _dtypes(operands) if d.kind in "iu"]
    return (
        np.asarray(value, np.result_type(*dtypes))
        if dtypes and isinstance(value, int) and not isinstance(value, bool)
        else value
    )


_signatures: dict[object, Signature] = table_of_interned({})


def exact_items(attrs: dict[str, Any]) -> tuple[object, ...]:
    """What attributes are found by, of numbers that are equal and of several types, or zeros of either sign, too: what
    was recorded, or refused, for one of them is not for the others."""
    return tuple([(name, _exactly(value)) for name, value in attrs.items()])


def _exactly(value: Any) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value)
    if kind is float:
        return kind, value.hex()
    return kind, tuple([_exactly(v) for v in value]) if kind is tuple else value


def signature_of(op: Op, types: tuple[Type | Inline, ...], attrs: dict[str, Any]) -> Signature:
    """The interned signature, kept where it dies with the first parameter in it, or among all others."""
    owner = next((t.signatures for t in types if isinstance(t, Type) and t.parameter is not None), _signatures)
    key: Any = (op, types, exact_items(attrs)) if attrs else (op, types)
    if not any(isinstance(t, Type) for t in types):  # of numbers alone: no operand says on which device
        key = (*key, settings.current().device)
    found = owner.get(key)
    if found is None:
        found = owner[key] = interned(key, lambda: build(op, types, attrs))
    return found


# Recording once more what was recorded before. What an operation is recorded as depends on the kinds of its operands
# alone: the type of an expression, the class of a number. (Where it depends on more, as on the default dtype, on a
# list's length, or on what a trace knows of a number, nothing is remembered.) So the general way, `_recorded`, leaves
# a `MemoEntry` in the operation's `Memo`, a trie whose branches are kinds; with it the same is a few look-ups and
# appends, however it is spelled. Entries with a parameter hang on the parameter's type, and go when it goes.

ROW, FLOAT, INT, SHARED = 0, 1, 2, 3  # what becomes of an operand


class MemoEntry:
    """A signature, what becomes of each operand, and of a number that is recorded as a constant the dtype.

    ``shared``: a parameter is among the operands. ``payloads``: how many numbers a node carries. ``kept``: the number
    of a tape that holds the signature.
    """

    __slots__ = ("codes", "dtypes", "kept", "payloads", "shared", "signature")

    def __init__(self, signature: Signature, codes: bytes, dtypes: tuple[DType | None, ...] | None) -> None:
        self.signature, self.codes, self.dtypes = signature, codes, dtypes
        self.kept = -1
        self.shared = SHARED in codes
        self.payloads = codes.count(FLOAT) + codes.count(INT)


# Before these tables stands, where the package was compiled, what was recorded lately of the very same kinds.
RECALL: Any = Recall()
if RECALL is not None:
    table_of_interned(RECALL)


class Memo:
    """What nodes of an operation with these attributes were recorded as, by the kinds of their operands."""

    __slots__ = ("attrs", "op", "table")

    def __init__(self, op: Op, attrs: dict[str, Any]) -> None:
        self.op, self.attrs = op, attrs
        self.table: dict[Any, Any] = {}


_plain: dict[Op, Memo] = {}
_memos: dict[object, Memo] = table_of_interned({})


def memo_of(op: Op, attrs: dict[str, Any] | None = None) -> Memo:
    """The memo of an operation with these attributes."""
    if not attrs:
        found = _plain.get(op)
        if found is None:
            found = _plain[op] = Memo(op, {})
            table_of_interned(found.table)
        return found
    key = op, exact_items(attrs)
    found = _memos.get(key)
    if found is None:
        found = _memos[key] = Memo(op, attrs)
    return found


def record(op: Op, operands: Sequence[OperandLike], **attrs: object) -> Expr:
    """Record one node of ``op``; raises `ShapeError`, `DTypeError` or `DeviceError` at this very line if it does not
    fit."""
    return apply(memo_of(op, attrs), tuple(operands))


def apply(memo: Memo, operands: tuple[OperandLike, ...]) -> Expr:
    """Record one node of a memo's operation: as before, where it is known, or else in general."""
    for o in operands:
        if type(o) is list and memo.op.elementwise:
            operands = _lists_as_arrays(operands)
            break
    try:
        found = _again(memo, operands)
    except OverflowError:  # a number that no tape holds; the general way says so
        found = None
    return _recorded(memo, operands) if found is None else found


def _lists_as_arrays(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands of an elementwise operation with arrays in place of lists of Python's numbers, which are weak: see
    `_weak_lists`. As they are, where they are not all numbers, lists and what has one dtype."""
    dtype: Any = None
    for o in operands:
        if isinstance(o, Expr) or type(o) is ndarray:
            if dtype is not None and o.dtype is not dtype:
                return operands
            dtype = o.dtype
        elif type(o) is not list and type(o) is not int and type(o) is not float:
            return operands
    if dtype is None or (dtype.kind != "f" and dtype != np.int64):  # others may be too small for an integer
        return operands
    made = list(operands)
    for k, o in enumerate(operands):
        if type(o) is list:
            array = array_of_numbers(o)
            if array is None or (dtype.kind != "f" and array.dtype.kind == "f"):
                return operands
            made[k] = array.astype(dtype, copy=False)
    return tuple(made)


def apply1(memo: Memo, x: OperandLike) -> Expr:
    """`apply` for one operand. What models are full of, expressions of one open tape that are no parameters, and
    numbers, needs but a part of `_again`."""
    if type(x) is Expr:
        a: Expr = x
        tape = a.tape
        if tape.scope is SCOPE.mine():
            found: Any = memo.table.get(a.type) if RECALL is None else RECALL.get(memo, a.type, None, None)
            if type(found) is MemoEntry:
                entry: MemoEntry = found
                row = len(tape.signatures)
                tape.signatures.append(entry.signature.id)
                tape.operands.append(a.row)
                return handle(tape, row, entry.signature.type)
    return apply(memo, (x,))


def apply2(memo: Memo, x: OperandLike, y: OperandLike) -> Expr:
    """`apply` for two operands, of which one may be a number or a parameter; see `apply1`."""
    found = _again2(memo, x, y)
    return apply(memo, (x, y)) if found is None else found


def _again2(memo: Memo, x: Any, y: Any) -> Expr | None:
    """The node, if it takes no more than that; else None, and nothing is recorded."""
    tape = _common_tape(x, y)
    entry = None if tape is None else _entry2(memo, x, y)
    if tape is None or entry is None or (entry.payloads and not _paid(tape, entry, x, y)):
        return None
    if entry.shared and entry.kept != tape.number:
        _keep(tape, entry, (x, y))
    codes = entry.codes
    row = len(tape.signatures)
    tape.signatures.append(entry.signature.id)
    if codes[0] == ROW:
        e: Expr = x
        tape.operands.append(e.row)
    if codes[1] == ROW:
        e = y
        tape.operands.append(e.row)
    return handle(tape, row, entry.signature.type)


def _common_tape(x: OperandLike, y: OperandLike) -> Tape | None:
    """The one tape that both operands can be recorded on as they are, if it may be appended to; two parameters, and
    numbers alone, have none."""
    if type(x) is Expr:
        first: Expr = x
        if type(y) is Expr:
            other: Expr = y
            if other.tape is not first.tape:
                return None
    elif type(y) is Expr:
        first = y
    elif isinstance(x, Expr) and not isinstance(y, Expr):
        return open_here()
    else:
        return None
    return first.tape if first.tape.scope is SCOPE.mine() else None


def _entry2(memo: Memo, x: OperandLike, y: OperandLike) -> MemoEntry | None:
    """What two such operands were recorded as before, where nothing but their rows and numbers goes onto the tape."""
    kind_x: Any = type(x)
    kind_y: Any = type(y)
    table: Any = memo.table
    if isinstance(x, Expr):
        e: Expr = x
        kind_x = e.type
        if type(x) is not Expr:
            table = e.type.signatures
    if isinstance(y, Expr):
        e = y
        kind_y = e.type
        if type(y) is not Expr:
            table = e.type.signatures
    if RECALL is not None:
        recalled: MemoEntry | None = RECALL.get(memo, kind_x, kind_y, None)
        return None if recalled is None or recalled.dtypes is not None else recalled
    if table is not memo.table:
        table = table.get(memo)
    table = None if table is None else table.get(kind_x)
    found: object = table.get(kind_y) if type(table) is dict else None
    if type(found) is not MemoEntry:
        return None
    entry: MemoEntry = found
    return None if entry.dtypes is not None else entry


def _paid(tape: Tape, entry: MemoEntry, x: OperandLike, y: OperandLike) -> bool:
    """Append the one number among two operands, which goes before the signature: see `_node`. False if it is none that
    fits, and nothing was appended."""
    codes = entry.codes
    last = codes[1] == FLOAT or codes[1] == INT
    number = y if last else x
    is_float = (codes[1] if last else codes[0]) == FLOAT
    if entry.payloads > 1:
        return False
    if is_float and type(number) is float:
        tape.floats.append(number)
        return True
    try:
        if is_float:
            tape.floats.append(number)
        else:
            tape.ints.append(number)
    except OverflowError:
        return False
    return True


def open_here() -> Tape | None:
    """The tape of this context, if it is there and may be appended to; see `current_tape`."""
    scope: Scope = SCOPE.get()
    for entry in scope.entries:
        held: Held = entry  # as `Held.holds` says, without a call
        if held.closed or not (held.kept or held.holder is None or held.holder() is not None):
            return None
    tape: Tape | None = scope.tape()
    return tape if tape is not None and tape.scope is scope and scope.owner is THREAD.get() else None


def _here() -> Tape:
    """The tape of this context."""
    tape = open_here()
    return current_tape() if tape is None else tape


def _again(memo: Memo, operands: tuple[OperandLike, ...]) -> Expr | None:
    """The node, if one of these kinds was recorded before, else None, and nothing is recorded."""
    tape: Tape | None = None
    owner: Type | None = None  # of the first parameter
    local, arrays = True, False
    for o in operands:
        if isinstance(o, Expr):
            e: Expr = o
            if e.type.parameter is not None:
                if owner is None:
                    owner = e.type
            elif tape is None:
                tape = e.tape
            elif e.tape is not tape:
                local = False
        elif type(o) is ndarray:
            arrays = True
    alone = tape is None and owner is None  # numbers alone: nothing says on which device
    if tape is None or tape.scope is not SCOPE.mine():
        local = tape is None
        tape = _here()
        if tape.lines is not None:
            return None
    plain = not alone and len(operands) <= 3
    entry = _recalled(memo, tape, operands) if plain and RECALL is not None else None
    if entry is None:
        entry = _found(memo, tape, owner, operands, local)
        if entry is None or (alone and entry.signature.type.device != tape.device):
            return None
        if plain and RECALL is not None:
            _recall(memo, tape, operands, entry)
    if arrays or entry.dtypes is not None or entry.payloads > 1:
        operands = _prepared(tape, entry, operands)
    elif not local:
        operands = _brought(tape, operands)
    if entry.shared and entry.kept != tape.number:
        _keep(tape, entry, operands)
    return _node(tape, entry, operands)


def _found(
    memo: Memo, tape: Tape, owner: Type | None, operands: tuple[OperandLike, ...], local: bool
) -> MemoEntry | None:
    """What operands of these kinds were recorded as before."""
    table: dict[Any, Any] | None = memo.table if owner is None else owner.signatures.get(memo)
    found: object = None
    for o in operands:
        if table is None:
            return None
        if isinstance(o, Expr):
            e: Expr = o
            found = table.get(e.type if local else type_on(tape, e))
        elif type(o) is ndarray:
            found = table.get(array_kind(tape, o).type)
        else:
            found = table.get(type(o))
        table = found if type(found) is dict else None
    return found if type(found) is MemoEntry else None


def _kind(tape: Tape, operands: tuple[OperandLike, ...], k: int) -> object:
    """The kind of an operand, None where there is none."""
    if k >= len(operands):
        return None
    o = operands[k]
    if isinstance(o, Expr):
        e: Expr = o
        return e.type if e.tape is tape else type_on(tape, e)
    return array_kind(tape, o).type if type(o) is ndarray else type(o)


def _recalled(memo: Memo, tape: Tape, operands: tuple[object, ...]) -> MemoEntry | None:
    """`_found`, where it was lately, of up to three operands of one tape."""
    found: MemoEntry | None = RECALL.get(
        memo, _kind(tape, operands, 0), _kind(tape, operands, 1), _kind(tape, operands, 2)
    )
    return found


def _recall(memo: Memo, tape: Tape, operands: tuple[object, ...], entry: MemoEntry) -> None:
    """Have it `_recalled`."""
    RECALL.put(memo, _kind(tape, operands, 0), _kind(tape, operands, 1), _kind(tape, operands, 2), entry)


def _node(tape: Tape, entry: MemoEntry, operands: tuple[Any, ...]) -> Expr:
    """Append a node whose operands are on the tape. Everywhere in this order: payload, signature, operands. Wherever an
    interrupt cuts it off, payload can only be too much and operands too few, so that nothing makes up for it, and the
    tape is refused (see `graph`)."""
    codes = entry.codes
    if entry.payloads:
        for k, o in enumerate(operands):
            if codes[k] == FLOAT:
                tape.floats.append(o)
            elif codes[k] == INT:
                tape.ints.append(o)
    row = len(tape.signatures)
    tape.signatures.append(entry.signature.id)
    for k, o in enumerate(operands):
        if codes[k] == ROW:
            e: Expr = o
            tape.operands.append(e.row)
    return handle(tape, row, entry.signature.type)


def open_tape(operands: tuple[OperandLike, ...]) -> Tape:
    """The tape to record on: that of the first expression, if it is open, else the one of this context."""
    for o in operands:
        if type(o) is Expr:
            e: Expr = o
            if e.tape.scope is SCOPE.mine():
                return e.tape
            break
    return current_tape()


def operands_on(tape: Tape, expressions: tuple[Any, ...], types: tuple[Type, ...]) -> tuple[Expr, ...] | None:
    """Expressions and arrays as expressions on this tape, if they are of these types there, else None, and nothing is
    recorded."""
    local = True
    for k, o in enumerate(expressions):
        if type(o) is ndarray:
            if array_kind(tape, o).type is not types[k]:
                return None
            local = False
            continue
        if not isinstance(o, Expr):
            return None
        e: Expr = o
        if e.tape is tape:
            if e.type is not types[k]:
                return None
        elif e.type.parameter is not None or imported_type(e) is not types[k]:
            return None
        else:
            local = False
    if local:
        return expressions
    return tuple([_located(tape, o) for o in expressions])


def _located(tape: Tape, value: OperandLike) -> Expr:
    """An expression on this tape, or an array as a constant there."""
    if not isinstance(value, Expr):
        return constant_node(tape, copied_array(value, None))
    return value if value.tape is tape else handle(tape, local_row(tape, value), value.type)


def nodes(tape: Tape, signatures: tuple[Signature, ...], operands: tuple[Expr, ...]) -> list[Expr]:
    """Append a cell's call with operands of this tape and a payload that is there already, and its further results."""
    row = len(tape.signatures)
    for s in signatures:
        signature: Signature = s
        tape.signatures.append(signature.id)
    for o in operands:
        e: Expr = o
        tape.operands.append(e.row)
    results = []
    for k, s in enumerate(signatures):
        signature = s
        if k:
            tape.operands.append(row)
        results.append(handle(tape, row + k, signature.type))
    return results


def _prepared(tape: Tape, entry: MemoEntry, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands on this tape, and numbers that are sure to fit: afterwards nothing can be raised any more."""
    codes, dtypes = entry.codes, entry.dtypes
    for k, o in enumerate(operands):
        if codes[k] == FLOAT:
            float(o)
        elif codes[k] == INT and not -0x80000000 <= o <= 0x7FFFFFFF:
            payload_integers((o,))
    made = list(operands)
    for k, o in enumerate(operands):
        if codes[k] != ROW:
            continue
        if isinstance(o, Expr):
            e: Expr = o
            if e.tape is not tape:
                made[k] = handle(tape, local_row(tape, e), e.type)
        else:
            made[k] = constant_node(tape, copied_array(o, None if dtypes is None else dtypes[k]))
    return tuple(made)


def _brought(tape: Tape, operands: tuple[OperandLike, ...]) -> tuple[object, ...]:
    """The operands on this tape."""
    made = list(operands)
    for k, o in enumerate(operands):
        if isinstance(o, Expr):
            e: Expr = o
            if e.type.parameter is None and e.tape is not tape:
                made[k] = handle(tape, local_row(tape, e), e.type)
    return tuple(made)


def copied_array(value: Array, dtype: DTypeLike | None) -> Array:
    """An array of its own of an array, in the byte order of this machine, or of a number in a dtype."""
    if dtype is not None or type(value) is not ndarray:
        return np.array(value, dtype)
    return np.array(value, value.dtype.name) if SHAPES is None else SHAPES.copy(value)


def _keep(tape: Tape, entry: MemoEntry, operands: Iterable[OperandLike]) -> None:
    """The tape keeps the parameters alive that a node reads."""
    if entry.signature not in tape.keep:
        _hold(tape, entry.signature, operands)
    entry.kept = tape.number  # what is added to `keep` stays


def _hold(tape: Tape, signature: Signature, operands: Iterable[OperandLike]) -> None:
    tape.keep.update([o for o in operands if isinstance(o, Expr) and o.type.parameter is not None])
    tape.keep.add(signature)


def _recorded(memo: Memo, operands: Sequence[Any]) -> Expr:
    """The general way, which finds out what operands are, and looks the signature up or makes it."""
    op, tape = memo.op, current_tape()
    values, types = _classify(op, operands, tape)
    signature: Any = None
    with suppress(DeviceError):
        signature = signature_of(op, types[:1] if op.ragged else types, memo.attrs)
    if signature is None:
        return apply(memo, tuple(on_one_device(op, values)))
    rows: list[int] = []
    ints = [len(values)] if op.ragged else []
    floats: list[float] = []
    for value, kind in zip(values, types, strict=True):
        if type(value) is TracedNumber:
            name, column = ("floats", floats) if kind is SCALAR else ("ints", ints)
            assert tape.trace is not None
            tape.trace.link(value, len(tape), name, len(column), len(getattr(tape, name)))
            value = value.value
        if kind is SCALAR:
            floats.append(value)
        elif kind is INDEX:
            ints.append(value)
        elif value.type.parameter is None:
            rows.append(local_row(tape, value))
        else:
            _hold(tape, signature, (value,))
    e = append(tape, signature, rows, ints, floats)
    _remember(memo, operands, values, types, signature)
    return e


def on_one_device(op: Op, operands: Sequence[OperandLike]) -> Sequence[Any]:
    """Operands that lie on the CPU and on one GPU, on that GPU. Raises `DeviceError` where that cannot be.

    Where no device was asked for, the CPU is no wish: what rests on no parameter, such as an array, a mask that is
    drawn or a position that is counted, belongs where the parameters are that it meets. It is seen as lying there, and
    the run that needs it computes it there.
    """
    places = {o.device for o in operands if isinstance(o, Expr)}
    if len(places) < 2:
        return operands
    found = sorted(places)
    if len(found) > 2 or found[0] != "cpu":
        raise different_devices(op, found)
    require_movable(op, found[1], operands)
    return [_seen_on(found[1], o) if isinstance(o, Expr) else o for o in operands]


def require_movable(op: Op, device: str, operands: Iterable[OperandLike]) -> None:
    """Raise `DeviceError` if one of the operands that lie elsewhere rests on a parameter."""
    for e in operands:
        if isinstance(e, Expr) and e.device != device and _rests_on_parameters(e):
            raise different_devices(op, sorted({device, e.device}))


def _seen_on(device: str, e: Expr) -> Expr:
    """`placed`, once for each value."""
    if e.device == device:
        return e
    tape = current_tape()
    key = e.tape.number, e.row, e.tape.generation, device
    row = tape.imported.get(key)
    if row is None:
        found = placed(e, device)
        tape.imported[key] = found.row
        return found
    return handle(tape, row, signature_by_id(tape.signatures[row]).type)


def beside(e: Expr, other: Expr) -> Expr:
    """A constant where ``other`` lies, if no device was asked for."""
    return placed(e, other.device) if e.device == "cpu" != other.device else e


def placed(e: Expr, device: str) -> Expr:
    """An expression that rests on no parameter as one on ``device``: a view, which costs nothing. A run computes all
    that it needs on the device of its roots."""
    kind = type_on(current_tape(), e)
    here = intern_type(kind.shape, kind.dtype, device, kind.requires_grad)
    return e if here is kind else view(e, here, 0)


def _rests_on_parameters(e: Expr) -> bool:
    if e.type.parameter is not None:
        return True
    seen: set[tuple[Tape, int]] = set()
    rows: dict[Tape, DecodedRows] = {}
    stack = [(e.tape, e.row)]
    while stack:
        node = stack.pop()
        if node in seen or node[1] in node[0].objects:
            continue
        seen.add(node)
        tape, row = node
        signature = signature_by_id(tape.signatures[row])
        if any(o.kind == "shared" for o in signature.operands):
            return True
        if signature.rows or signature.op is IMPORT_OP:
            rows.setdefault(tape, DecodedRows(tape))
        if signature.op is IMPORT_OP:
            stack.append(tape.imports[rows[tape].integer(row, 0)])
        elif signature.rows:
            stack.extend((tape, r) for r in rows[tape].operands(row))
    return False


def _remember(
    memo: Memo, operands: Sequence[Any], values: Sequence[Any], types: Sequence[Type | Inline], signature: Signature
) -> None:
    """Leave an entry, if what was recorded depends on the kinds of the operands alone."""
    op = memo.op
    numbers = any(not isinstance(o, Expr) for o in operands)
    if op.stacked or any(type(o) is TracedNumber for o in operands):
        return
    if not op.random and not any(isinstance(o, Expr) for o in operands):
        return
    if numbers and op.elementwise and not any(_holds_numbers(o) for o in operands):
        return  # what stands beside truth values alone takes the default dtype
    if not all(isinstance(o, Expr | int | float | np.generic) or type(o) is ndarray for o in operands):
        return
    codes: list[int] = []
    dtypes: list[DType | None] = []
    kinds: list[Any] = []
    for o, value, kind in zip(operands, values, types, strict=True):
        expression = isinstance(o, Expr) or type(o) is ndarray
        kinds.append(kind if expression else type(o))
        made = kind is not SCALAR and kind is not INDEX and not expression
        if made and isinstance(o, float) and not isinstance(o, np.generic):
            return  # it took the default dtype
        dtypes.append(value.dtype if made else None)
        parameter = isinstance(kind, Type) and kind.parameter is not None
        codes.append(SHARED if parameter else FLOAT if kind is SCALAR else INT if kind is INDEX else ROW)
    entry = MemoEntry(signature, bytes(codes), tuple(dtypes) if any(dtypes) else None)
    owner = next((t for t in types if isinstance(t, Type) and t.parameter is not None), None)
    table = memo.table if owner is None else owner.signatures.setdefault(memo, {})
    for branch in kinds[:-1]:
        table = table.setdefault(branch, {})
        if type(table) is not dict:
            return  # an operation of as few operands as that
    if type(table.get(kinds[-1])) is not dict:
        table[kinds[-1]] = entry


Unary = Callable[[OperandLike], Expr]
Binary = Callable[[OperandLike, OperandLike], Expr]
Ternary = Callable[[OperandLike, OperandLike, OperandLike], Expr]


def binary(op: Op) -> Binary:
    """The recording function of an operation of two operands."""
    memo = memo_of(op)

    def call(a: OperandLike, b: OperandLike) -> Expr:
        return apply2(memo, a, b)

    return call


ADD_MEMO, SUBTRACT_MEMO, MULTIPLY_MEMO, DIVIDE_MEMO = (
    memo_of(OPS[name]) for name in ("add", "subtract", "multiply", "divide")
)
FLOOR_DIVIDE_MEMO, REMAINDER_MEMO, POWER_MEMO = (memo_of(OPS[name]) for name in ("floor_divide", "remainder", "power"))
NEGATIVE_MEMO, ABS_MEMO, MATMUL_MEMO, LOOKUP_MEMO = (
    memo_of(OPS[name]) for name in ("negative", "abs", "matmul", "lookup")
)
DETACH_MEMO = memo_of(OPS["detach"])
TAKE_MEMO = Memo(OPS["take"], {"axis": 0})
table_of_interned(TAKE_MEMO.table)
EQUAL_MEMO, NOT_EQUAL_MEMO, LESS_MEMO = (memo_of(OPS[name]) for name in ("equal", "not_equal", "less"))
LESS_EQUAL_MEMO, GREATER_MEMO, GREATER_EQUAL_MEMO = (
    memo_of(OPS[name]) for name in ("less_equal", "greater", "greater_equal")
)
LOGICAL_AND_MEMO, LOGICAL_OR_MEMO, LOGICAL_NOT_MEMO = (
    memo_of(OPS[name]) for name in ("logical_and", "logical_or", "logical_not")
)

# The methods of expressions that are functions further down, by name: filled in by `lazyflow.functions.operators`.
METHODS: dict[str, Callable[..., Expr]] = {}
# How NumPy asks for its functions on expressions: filled in by `lazyflow.numpy`.
PROTOCOLS: dict[str, Callable[..., object]] = {}
# Of its ufuncs those that are an operation and nothing more.
UFUNCS: dict[np.ufunc, Memo] = {}


def product(a: OperandLike, b: OperandLike) -> Expr:
    """``a @ b``; lists of numbers take the dtype of the other."""
    if isinstance(a, list | tuple) or isinstance(b, list | tuple):
        a, b = constants((a, b))
    return apply2(MATMUL_MEMO, a, b)


def compared(memo: Memo, a: Expr, b: OperandLike) -> Any:
    """A comparison, which leaves what is no value to Python: ``h == None`` is False, and ``h < None`` a TypeError."""
    if isinstance(b, _VALUES) or hasattr(b, "__array__"):
        return apply2(memo, a, b)
    return NotImplemented


_VALUES = (Expr, int, float, TracedNumber, list, tuple, range, memoryview)


def of_booleans(symbol: str, memo: Memo, operands: tuple[OperandLike, ...]) -> Expr:
    """``&``, ``|`` and ``~``, which are for truth values. Raises `DTypeError` for others."""
    if any(getattr(o, "dtype", None) != np.bool_ for o in operands):
        kinds = [str(getattr(o, "dtype", type(o).__name__)) for o in operands]
        raise DTypeError(f"{symbol} takes booleans, such as those of a comparison, got {' and '.join(kinds)}")
    return apply(memo, operands)


def reduction_recorder(op: Op) -> Callable[[OperandLike, Axis, bool], Expr]:
    """The recording function of a reduction over an axis."""
    memos: dict[object, Memo] = {}

    def call(x: OperandLike, axis: Axis, keepdims: bool) -> Expr:
        if (axis is not None and (type(axis) is not int or not -64 <= axis < 64)) or type(keepdims) is not bool:
            return record(op, (x,), axis=axis_argument(op.name, axis), keepdims=keepdims)
        memo = memos.get((axis, keepdims))
        if memo is None:
            memo = memos[axis, keepdims] = Memo(op, {"axis": axis, "keepdims": keepdims})
            table_of_interned(memo.table)
        return apply1(memo, x)

    return call


def indexed(
    op: Op, axis: int, general: Callable[..., Expr], *, ndim: int | None = None, arrays: bool = False
) -> Callable[..., Expr]:
    """The recording function of an operation of an operand, which has ``ndim`` axes or any number of them, and an index
    along one of them, which is payload, or, with ``arrays``, an array of them; ``general`` records what was not
    recorded before."""
    memo = memo_of(op)
    sizes = -1 if ndim is None else ndim

    def call(*args: object, **kwargs: object) -> Expr:
        found = None if kwargs or len(args) != 2 else _indexed_again(memo, args[0], args[1], axis, sizes, arrays)
        return general(*args, **kwargs) if found is None else found

    return update_wrapper(call, general)


def looked_up(table: object, index: object) -> Expr | None:
    """A row, or rows, of a table, if such were looked up before, else None, and nothing is recorded."""
    return _indexed_again(LOOKUP_MEMO, table, index, 0, -1, True)


def _indexed_again(memo: Memo, x: object, index: Any, axis: int, ndim: int, arrays: bool) -> Expr | None:
    """The node, if ``x`` has ``ndim`` axes (-1: some), and the index is within the size of one, else None."""
    if not isinstance(x, Expr):
        return None
    e: Expr = x
    shape = e.type.shape
    if e.type.ndim != ndim and (ndim >= 0 or e.type.ndim == 0):
        return None
    if type(index) is not int:
        index = _as_indices(index)
        if type(index) in NUMPYS_INTEGERS:
            index = int(index)
        elif not arrays or not _is_index_array(index) or not index.ndim or not are_within(index, 0, shape[axis]):
            return None
        else:
            return _again(memo, (x, index))
    if not 0 <= index < shape[axis]:
        return None
    found = _again2(memo, x, index)
    return _again(memo, (x, index)) if found is None else found


Joined = tuple["ListMemo", Callable[[Sequence[object]], Union["Expr", None]], Callable[[Sequence[object]], "Expr"]]


class ListMemo:
    """What nodes of a stacked operation, of any number of operands of one type, were recorded as: by the type, and by
    the number where that is part of the signature."""

    __slots__ = ("op", "ragged", "table")

    def __init__(self, op: Op) -> None:
        self.op, self.ragged = op, op.ragged
        self.table: dict[Any, dict[int, Signature]] = table_of_interned({})


def listed_again(memo: ListMemo, operands: Any) -> Expr | None:
    """The node, if one of such operands was recorded before, else None, and nothing is recorded."""
    if type(operands) is tuple:
        operands = list(operands)
    if type(operands) is not list or not operands or type(operands[0]) is not Expr:
        return None
    given: list[Any] = operands
    first: Expr = given[0]
    kind, tape, mixed = first.type, first.tape, False
    if tape is None or tape.scope is not SCOPE.mine():
        return _listed_across(memo, given)
    for o in given:
        if type(o) is not Expr:
            return None
        e: Expr = o
        if e.tape is not tape:
            return _listed_across(memo, given)
        if e.type is not kind:
            if e.type.shape != kind.shape or e.type.dtype != kind.dtype or e.type.device != kind.device:
                return None
            mixed = True
    if mixed:  # no type is of a parameter: they differ by requires_grad alone
        kind = intern_type(kind.shape, kind.dtype, kind.device, True)
    known = memo.table.get(kind)
    signature = None if known is None else known.get(0 if memo.ragged else len(given))
    if signature is None:
        return None
    found: Signature = signature
    if mixed:
        given = [differentiable(o) for o in given]
    row = len(tape.signatures)
    if memo.ragged:
        tape.ints.append(len(given))
    tape.signatures.append(found.id)
    for o in given:
        e = o
        tape.operands.append(e.row)
    return handle(tape, row, found.type)


def listed_each(memo: ListMemo, lists: Iterable[Any], general: Callable[[Any], Expr]) -> list[Expr]:
    """A node for each of several lists; what was not recorded before is ``general``'s."""
    made = []
    for operands in lists:
        found = listed_again(memo, operands)
        made.append(general(operands) if found is None else found)
    return made


def _listed_across(memo: ListMemo, given: list[Any]) -> Expr | None:
    """As `listed_again`, of operands of one type some of which are on other tapes: these are imported."""
    tape = _here()
    if tape.lines is not None or tape.trace is not None:
        return None
    kind: Type | None = None
    for o in given:
        if type(o) is not Expr:
            return None
        e: Expr = o
        there: Type = e.type if e.tape is tape else imported_type(e)
        if kind is None:
            kind = there
        if there is not kind or there.device != tape.device:
            return None
    known = memo.table.get(kind)
    signature = None if known is None else known.get(0 if memo.ragged else len(given))
    if signature is None:
        return None
    found: Signature = signature
    rows = [local_row(tape, o) for o in given]
    row = len(tape.signatures)
    if memo.ragged:
        tape.ints.append(len(given))
    tape.signatures.append(found.id)
    for k in rows:
        tape.operands.append(k)
    return handle(tape, row, found.type)


def stacked_recorder(op: Op) -> Joined:
    """The recording functions of a stacked operation, of any number of operands of one type, and what they remember.

    The first of them is the fast path, None where it does not apply; the second always records.
    """
    memo = ListMemo(op)

    def again(operands: Sequence[OperandLike]) -> Expr | None:
        return listed_again(memo, operands)

    def call(operands: Sequence[OperandLike]) -> Expr:
        found = again(operands)
        if found is not None:
            return found
        operands = of_one_type(on_one_device(op, operands))
        kind = type_on(current_tape(), operands[0])
        e = record(op, operands)
        count = 1 if op.ragged else len(operands)
        memo.table.setdefault(kind, {})[0 if op.ragged else count] = signature_of(op, (kind,) * count, {})
        return e

    return memo, again, call


def of_one_type(operands: Sequence[Expr]) -> Sequence[Expr]:
    """Expressions of one shape and dtype as expressions of one type: constants beside differentiable values count as
    such, though no gradient leaves them."""
    tape = current_tape()
    rows = [record(OPS["identity"], (o,)) if o.type.parameter is not None else o for o in operands]
    if any(type_on(tape, o).requires_grad for o in rows):
        return [differentiable(o) for o in rows]
    return rows


def differentiable(e: Expr) -> Expr:
    """``e`` as a value of a type with gradient, of which nothing flows on to what ``e`` was detached from.

    A view has its gradient where that of the memory lies which it shows. So only a constant, whose memory is nobody
    else's, is seen as differentiable as it is; anything else without gradient is copied.
    """
    kind = e.type if e.tape.scope is SCOPE.mine() else type_on(current_tape(), e)
    if kind.requires_grad:
        return e
    own = e if e.row in e.tape.objects else apply1(DETACH_MEMO, e)
    return view(own, intern_type(kind.shape, kind.dtype, kind.device, True), 0)


def affine_recorder(op: Op, general: Ternary) -> Ternary:
    """The recording function of ``W x + b``; ``general`` records what was not recorded before."""
    memo = memo_of(op)

    def call(weight: OperandLike, bias: OperandLike, x: OperandLike) -> Expr:
        found = _layer_again(memo, weight, bias, x)
        if found is None:
            found = _again(memo, (weight, bias, x))
        return general(weight, bias, x) if found is None else found

    return update_wrapper(call, general)


def _layer_again(memo: Memo, weight: object, bias: object, x: object) -> Expr | None:
    """The node of two parameters and an expression of an open tape, if it was recorded lately; else None, and nothing
    is recorded."""
    if RECALL is None or type(weight) is not Parameter or type(bias) is not Parameter or type(x) is not Expr:
        return None
    e: Expr = x
    tape = e.tape
    if tape.scope is not SCOPE.mine():
        return None
    first: Expr = weight
    second: Expr = bias
    entry: MemoEntry | None = RECALL.get(memo, first.type, second.type, e.type)
    if entry is None or entry.dtypes is not None:
        return None
    if entry.kept != tape.number:
        _keep(tape, entry, (weight, bias))
    row = len(tape.signatures)
    tape.signatures.append(entry.signature.id)
    tape.operands.append(e.row)
    return handle(tape, row, entry.signature.type)


_views: dict[Type, dict[Type, Signature]] = table_of_interned({})


def view(x: Expr, kind: Type, offset: int) -> Expr:
    """The memory of ``x``, from element ``offset`` on, seen as ``kind``. No launch computes it, in neither
    direction."""
    tape = x.tape
    if tape.scope is SCOPE.mine():
        return _view_node(tape, view_signature(x.type, kind), x.row, offset)
    tape = current_tape()
    return append(tape, view_signature(type_on(tape, x), kind), (local_row(tape, x),), (offset,))


def views(x: Expr, kind: Type, offsets: IntColumn) -> list[Expr]:
    """Several such views of one value, in the order of `_node`."""
    tape = x.tape
    if tape.scope is not SCOPE.mine():
        return [view(x, kind, offset) for offset in offsets.tolist()]
    signature = view_signature(x.type, kind)
    row = len(tape.signatures)
    tape.ints.add(offsets)
    made = []
    for _ in range(len(offsets)):
        tape.signatures.append(signature.id)
        tape.operands.append(x.row)
        made.append(handle(tape, row, signature.type))
        row += 1
    return made


def _view_node(tape: Tape, signature: Signature, operand: int, offset: int) -> Expr:
    """Append a view, in the order of `_node`, to an open tape."""
    if not -0x80000000 <= offset <= 0x7FFFFFFF:
        payload_integers((offset,))  # raises
    row = len(tape.signatures)
    tape.ints.append(offset)
    tape.signatures.append(signature.id)
    tape.operands.append(operand)
    return handle(tape, row, signature.type)


def view_signature(source: Type, kind: Type) -> Signature:
    """The signature of a value of type ``source`` seen as ``kind``."""
    table = _views.get(source)
    found = None if table is None else table.get(kind)
    if found is None:
        found = remembered(_views, source)[kind] = interned(
            (VIEW_OP, source, kind), partial(leaf_signature, VIEW_OP, kind, operand=source)
        )
    return found


def reshaped(x: OperandLike, shape: object) -> Expr:
    """``x`` in another shape: see `lazyflow.reshape`."""
    if type(shape) is not tuple:
        shape = integers("reshape", "the shape", shape)
    if type(x) is not Expr:
        x = constant(x)
    known = _shapes.get(x.type)
    kind = None if known is None or not _all_int(shape) else known.get(shape)
    if kind is not None and x.tape.scope is SCOPE.mine():
        return view(x, kind, 0)
    given = shape = integers("reshape", "the shape", shape)
    shape = OPS["reshape"].infer(x.type, shape=shape).shape
    if x.type.parameter is not None:
        return record(OPS["reshape"], (x,), shape=shape)
    kind = intern_type(shape, x.dtype, x.device, type_on(current_tape(), x).requires_grad)
    if kind.requires_grad == x.type.requires_grad:
        remembered(_shapes, x.type)[given] = kind
    return view(x, kind, 0)


_shapes: dict[Type, dict[Shape, Type]] = table_of_interned({})


def _all_int(parts: tuple[object, ...]) -> bool:
    """Whether these are Python's integers: True, and 1.0, are equal to 1 and mean something else."""
    for part in parts:  # noqa: SIM110  # a generator is slower than all the rest of this
        if type(part) is not int:
            return False
    return True


def remembered(tables: dict[Type, dict[Any, Any]], kind: Type) -> dict[Any, Any]:
    """What is remembered of a type, a table that is emptied when it has grown large."""
    table = tables.setdefault(kind, {})
    if len(table) >= MOST_REMEMBERED:
        table.clear()
    return table


MOST_REMEMBERED = 4096


def subscripted(x: object, key: Any) -> Expr:
    """``x[key]`` for integers, slices, ``None`` and ``...``, and for integer arrays or expressions along the first
    axis.

    A block of the first axis (``x[3]``, ``x[2:5]``) is free and batches whatever its position, and so are new axes
    (``x[:, None]``); everything else copies. Of a parameter any integers batch, as in ``A[i, j]`` and ``A[:, j]``.
    Raises ``IndexError`` for an integer out of range, at this line.

    >>> import lazyflow as lf
    >>> x = lf.constant([[1.0, 2.0], [3.0, 4.0]])
    >>> x[1].numpy(), x[:, 0].numpy()
    (array([3., 4.], dtype=float32), array([1., 3.], dtype=float32))
    """
    if type(key) is not int and type(key) is not slice:
        if type(key) in NUMPYS_INTEGERS:
            key = int(key)
        elif type(key) is not tuple and isinstance(x, Expr) and x.type.shape and _is_index_array(_as_indices(key)):
            size, key = x.type.shape[0], _as_indices(key)
            return apply2(TAKE_MEMO, x, key if are_within(key, -size, size) else checked_range("take", key, size))
    if type(x) is not Expr:
        found = _indexed_again(LOOKUP_MEMO, x, key, 0, -1, False) if type(key) is int else _slice_again(x, key)
        return _getitem(constant(x), key) if found is None else found
    part = _part(key)
    if part is None:
        return _getitem(x, key)
    e: Expr = x
    tape = e.tape
    if tape.scope is not SCOPE.mine():
        tape = _here()
    known: Any = _blocks.get(type_on(tape, e))
    block: Any = None if known is None else known.get(part)
    if block is not None:
        if type(block) is Memo:
            return apply1(block, e)
        if tape.lines is None and tape.trace is None and e.type.device == tape.device:
            return _view_node(tape, block[0], local_row(tape, e), block[1])
    made = _getitem(x, key)
    _remember_block(x, key, part, made)
    return made


def _as_indices(key: object) -> Any:
    """A list of Python's integers as an array, anything else as it is."""
    found = array_of_numbers(key) if type(key) is list else None
    return found if found is not None and found.dtype.kind == "i" else key


def taken_within(x: object, indices: object) -> Expr | None:
    """The elements at an array or a list of indices along the first axis, if these are within it and count from its
    beginning; else None, and nothing is recorded."""
    if not isinstance(x, Expr) or not x.type.shape:
        return None
    index = _as_indices(indices)
    if not _is_index_array(index) or not are_within(index, 0, x.type.shape[0]):
        return None
    return apply2(TAKE_MEMO, x, index)


def _slice_again(x: object, key: object) -> Expr | None:
    """A slice of a parameter, whose operation hangs on its type from the first time on; None for any other key."""
    if type(key) is not slice or not isinstance(x, Expr) or not x.type.shape:
        return None
    part = _part(key)
    if part is None:
        return None
    tables: Any = x.type.signatures
    known: Any = tables.get(SLICES)
    memo = None if known is None else known.get(part)
    if memo is not None:
        return apply(memo, (x,))
    if _with_new_axes(key, x.type.shape) is None:
        memo = memo_of(OPS["getitem"], {"key": hashable_key(key)})
        e = apply(memo, (x,))
        remembered(tables, SLICES)[part] = memo
        return e
    return None


SLICES: Any = "slices"  # among what hangs on the type of a parameter: operations by the parts of a slice


def _is_index_array(value: OperandLike) -> bool:
    """Whether it is an array of NumPy's that holds integers."""
    return type(value) is ndarray and value.dtype.kind in "iu"


def _getitem(x: Expr, key: object) -> Expr:
    shape = x.type.shape
    if x.type.parameter is not None and type(key) is int and shape:
        return apply(LOOKUP_MEMO, (x, _checked_index(key, shape[0])))
    if x.type.parameter is not None and type(key) is tuple and (found := _taken_of_parameter(x, key)) is not None:
        return found
    if isinstance(key, bool | np.bool_):
        raise TypeError("an index is an integer, got a bool; for a mask use lf.where")
    key = devices.to_host(own_array(key)) if devices.is_on_gpu(key) else own_array(key)
    if isinstance(key, Expr | np.ndarray | list):
        key = _index_array(key if isinstance(key, Expr | np.ndarray) else index_array(key))
        if shape and not isinstance(key, Expr):
            key = checked_range("take", key, shape[0])
        return record(OPS["take"], (x, key), axis=0)
    if not shape or x.type.parameter is not None or not isinstance(key, int | slice | np.integer):
        if isinstance(key, int | np.integer) and shape:
            return record(OPS["lookup"], (x, _checked_index(int(key), shape[0])))
        wider = _with_new_axes(key, shape)
        if wider is not None:
            return reshaped(x, wider)
        return record(OPS["getitem"], (x,), key=hashable_key(key))
    if isinstance(key, slice):
        start, stop, step = _checked_slice(key, shape[0])
        if step != 1:
            return record(OPS["getitem"], (x,), key=hashable_key(key))
        block = _block(x, start, (max(stop - start, 0), *shape[1:]))
    else:
        block = _block(x, _checked_index(int(key), shape[0]), shape[1:])
    return block


# Elements that are read for one of them: a launch takes about as long.
MOST_TAKEN = 8192


def _taken_of_parameter(x: Expr, key: tuple[Any, ...]) -> Expr | None:
    """``x[key]`` of a parameter, such as ``A[i, j]`` or ``A[:, j]``, as what is taken at its first integer, which is
    payload: any of them share a launch, where each key would have one. None where that would read too much, or the key
    does not begin so."""
    axis = 0
    while axis < len(key) and type(key[axis]) is slice and key[axis] == slice(None):
        axis += 1
    shape = x.type.shape
    if axis == len(key) or not _is_integer(key[axis]) or not _are_basic(key, len(shape)):
        return None
    size = shape[axis]
    if x.type.size > MOST_TAKEN * size:
        return None
    memo = TAKE_MEMO if axis == 0 else memo_of(OPS["take"], {"axis": axis})
    found, at = apply2(memo, x, _checked_index(int(key[axis]), size)), axis + 1
    while axis == 0 and at < len(key) and _is_integer(key[at]):
        found, at = subscripted(found, int(key[at])), at + 1
    return subscripted(found, key[:axis] + key[at:]) if at < len(key) else found


def _are_basic(key: tuple[Any, ...], ndim: int) -> bool:
    """Whether these are parts of a basic index, of no more axes than there are."""
    used = 0
    for part in key:
        if _is_integer(part) or type(part) is slice:
            used += 1
        elif part is not None and part is not Ellipsis:
            return False
    return used <= ndim


def _is_integer(part: object) -> bool:
    return type(part) is int or type(part) in NUMPYS_INTEGERS


def _with_new_axes(key: object, shape: Shape) -> Shape | None:
    """The shape of ``x[key]`` where that is all of ``x`` with new axes, as in ``x[..., None]``, else None."""
    parts = key if isinstance(key, tuple) else (key,)
    whole = [p is None or p is Ellipsis or (p.__class__ is slice and p == slice(None)) for p in parts]
    dots = [i for i, p in enumerate(parts) if p is Ellipsis]
    used = len(parts) - len(dots) - sum(p is None for p in parts)
    if not all(whole) or len(dots) > 1 or used > len(shape):
        return None
    at = dots[0] if dots else len(parts)
    full = [*parts[:at], *(slice(None),) * (len(shape) - used), *parts[at + 1 :]]
    sizes = iter(shape)
    return tuple(1 if p is None else next(sizes) for p in full)


def index_array(value: OperandLike) -> Array:
    """A list or an array as an array on the host, where indices are checked, and which of them are equal is found out;
    an empty list holds indices."""
    array = devices.to_host(_as_array(value, settings.current().dtype))
    return array if array.size or isinstance(value, np.ndarray) else array.astype(np.int64)


def _index_array(key: Any) -> Array:
    array = key if isinstance(key, Expr) or key.size else key.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"an index array must hold integers, got {array.dtype}; for a mask use lf.where")
    return array


def checked_range(name: str, index: Any, size: int, what: str = "", lowest: int | None = None) -> Any:
    """An array of indices, which lie between ``lowest``, by default counted from the end, and ``size``; raises
    ``IndexError`` at this line, which names the first that does not, as on a GPU nobody would look."""
    wrong = (index < (-size if lowest is None else lowest)) | (index >= size)
    if wrong.any():
        what = what or f"an axis of {counted(size, 'element')}"
        at = np.argwhere(wrong)[0].tolist()
        element = f" (element {at})" if at else ""
        raise IndexError(f"{name}: index {index[tuple(at)]}{element} is out of range for {what}")
    return index


def _checked_index(i: int, n: int) -> int:
    if not -n <= i < n:
        raise IndexError(f"index {i} is out of range for an axis of size {n}")
    return i + n if i < 0 else i


def _block(x: Expr, start: int, shape: Shape) -> Expr:
    kind = intern_type(shape, x.dtype, x.device, type_on(current_tape(), x).requires_grad)
    rest = x.type.size // x.type.shape[0] if x.type.shape[0] else 0
    # Of an empty block the beginning: behind the last element another value lies, and would get its gradient.
    return view(x, kind, start * rest if kind.size else 0)


_blocks: dict[Type, dict[object, object]] = table_of_interned({})


def _part(key: object) -> object:
    """A key as something to look up, or None for one that nothing is remembered of: for all but Python's integers,
    slices of them, None, ``...``, and tuples of these. (An expression is an index, too, and would live for ever; and
    True is equal to 1.)"""
    if type(key) is int:
        return key
    if type(key) is slice:
        start, stop, step = _end(key.start), _end(key.stop), _end(key.step)
        return None if start is NO_END or stop is NO_END or step is NO_END else (start, stop, step)
    if key is None or key is Ellipsis:
        return "None" if key is None else "..."
    if type(key) is not tuple:
        return None
    parts = []
    for k in key:
        part = None if type(k) is tuple else _part(k)
        if part is None:
            return None
        parts.append(part)
    return (tuple(parts),)


NO_END: Any = object()


def _end(end: object) -> object:
    """The end of a slice, or `NO_END` for what is neither an integer nor None."""
    if end is None or type(end) is int:
        return end
    number: Any = end
    return int(number) if type(end) in NUMPYS_INTEGERS else NO_END


def _remember_block(x: Expr, key: object, part: object, e: Expr) -> None:
    """What ``x[key]`` was recorded as: a view of its memory, or an operation on it."""
    tape = e.tape
    if not tape.open or e is x:
        return
    signature = signature_by_id(tape.signatures[e.row])
    row = x.row if x.tape is tape else tape.imported.get((x.tape.number, x.row, x.tape.generation))
    if not len(tape.operands) or tape.operands[-1] != row:
        return
    if signature.op is VIEW_OP:
        remembered(_blocks, type_on(tape, x))[part] = signature, tape.ints[-1]
    elif signature.op is OPS["getitem"]:
        remembered(_blocks, type_on(tape, x))[part] = memo_of(signature.op, {"key": hashable_key(key)})


def _checked_slice(key: slice, size: int) -> tuple[int, int, int]:
    try:
        return key.indices(size)
    except TypeError:
        raise TypeError(
            f"the ends of a slice are integers or None, got {key.start!r}:{key.stop!r}:{key.step!r}"
        ) from None


def hashable_key(key: object) -> Any:
    """A basic index as a hashable tuple: slices become ``("slice", start, stop, step)`` (slices hash only from 3.12
    on)."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(_hashable_part(p) for p in parts)


def _hashable_part(part: object) -> object:
    if isinstance(part, slice):
        _checked_slice(part, 0)
        return ("slice", *(end if end is None else operator.index(end) for end in (part.start, part.stop, part.step)))
    if part is None or part is Ellipsis:
        return part
    if isinstance(part, int | np.integer) and not isinstance(part, bool):
        return int(part)
    raise TypeError(
        f"an index is made of integers, slices, None and ..., got {type(part).__name__}; see also lf.take and lf.where"
    )

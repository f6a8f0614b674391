"""Tracing: what stands for the arguments of a cell while its body is recorded once.

Expressions are stood for by nodes of a tape of their own. A Python number among the arguments is stood for by a
`TracedNumber`: where it is only used as an index or as a factor it is payload of each call, so that calls with
different words or classes run together. Wherever its value is needed (``range(n)``, ``if n > 2``) it gives its value,
and the trace notes that its program is good for this value only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lazyflow.random import Stream

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


class TracedNumber:
    """A Python number among the arguments of a cell, or the seed or count of a draw inside it.

    ``position``: of the number among all numbers of the arguments; of a draw, -1.
    """

    __slots__ = ("payload", "position", "trace", "value")

    def __init__(self, trace: Trace, position: int, value: float, payload: tuple[str, int]) -> None:
        self.trace, self.position, self.value, self.payload = trace, position, value, payload

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """That of the number: whoever asks for an ``int`` will ask for its value next."""
        return self.value.__class__

    def below(self, name: str, size: int) -> TracedNumber:
        """The number as an index, which every call checks: from 0 to ``size - 1``. Raises ``IndexError``."""
        if not 0 <= self.value < size:
            raise IndexError(
                f"{name}: index {self.value} is out of range for {size} entries, with indices 0 to {size - 1}"
            )
        self.trace.limits.append((self.position, size))
        return self

    def needed(self) -> Any:
        """The value, on which the program depends from now on."""
        self.trace.static.add(self.position)
        return self.value

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or name in ("type", "tape") or not hasattr(self.value, name):
            raise AttributeError(f"{type(self.value).__name__!r} object has no attribute {name!r}")
        return getattr(self.needed(), name)

    def __array_ufunc__(self, function: Any, method: str, *inputs: object, **options: object) -> object:
        if any(hasattr(type(x), "tape") for x in inputs):
            return NotImplemented  # beside an expression the number stays payload
        return getattr(function, method)(*map(_values_of, inputs), **options)

    def __array_function__(self, function: Any, types: object, args: Any, kwargs: Any) -> object:
        return function(*_values_of(args), **_values_of(kwargs))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> object:
        return np.asarray(self.needed(), dtype)

    def __format__(self, spec: str) -> str:
        return format(self.needed(), spec)

    def __round__(self, digits: int | None = None) -> object:
        return round(self.needed(), digits)


def _values_of(value: Any) -> Any:
    """Arguments of NumPy with the values of numbers."""
    if type(value) is TracedNumber:
        return value.needed()
    if type(value) is dict:
        return {k: _values_of(v) for k, v in value.items()}
    return type(value)(map(_values_of, value)) if type(value) in (tuple, list) else value


def _of_a_number(function: Callable[[object], object]) -> object:
    return lambda self: function(self.needed())


def _beside_a_number(function: Callable[..., object]) -> object:
    """Beside an expression the number stays payload: the expression's own operator records it. ``pow`` may have a third
    operand."""
    return lambda self, other, *modulus: (
        NotImplemented if hasattr(type(other), "tape") else function(self.needed(), other, *modulus)
    )


def _reflected(function: Callable[[object, object], object]) -> object:
    return lambda self, other: function(other, self.needed())


_UNARY: dict[str, Callable[..., object]] = {
    "abs": abs, "bool": bool, "ceil": math.ceil, "complex": complex, "float": float, "floor": math.floor, "hash": hash,
    "index": operator.index, "int": int, "invert": operator.invert, "neg": operator.neg, "pos": operator.pos,
    "repr": repr, "str": str, "trunc": math.trunc,
}  # fmt: skip
_BINARY: dict[str, Callable[..., object]] = {
    "add": operator.add, "and": operator.and_, "divmod": divmod, "floordiv": operator.floordiv,
    "lshift": operator.lshift, "mod": operator.mod, "mul": operator.mul, "or": operator.or_, "pow": pow,
    "rshift": operator.rshift, "sub": operator.sub, "truediv": operator.truediv, "xor": operator.xor,
}  # fmt: skip
_COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ge", "gt", "le", "lt", "ne")}
for _name, _one in _UNARY.items():
    setattr(TracedNumber, f"__{_name}__", _of_a_number(_one))
for _name, _two in (*_BINARY.items(), *_COMPARISONS.items()):
    setattr(TracedNumber, f"__{_name}__", _beside_a_number(_two))
for _name, _two in _BINARY.items():
    setattr(TracedNumber, f"__r{_name}__", _reflected(_two))


class Body:
    """Of a tape that the body of a cell is recorded on: the ``name`` of the cell, and the expressions among the
    arguments that its first rows stand for, of which ``arrays`` are arrays; ``tells_arrays``: whether it has asked."""

    def __init__(self, name: str, inputs: Sequence[Any] = (), arrays: Sequence[int] = ()) -> None:
        self.name, self.inputs, self.arrays, self.tells_arrays = name, inputs, arrays, False


class Trace:
    """What is learned while the body of a cell is recorded: where payload enters, the limits of indices, the streams
    that it draws from, and the numbers whose values it has asked for."""

    def __init__(self) -> None:
        self.links: dict[tuple[int, str, int], TracedNumber] = {}  # by row, column and place in the row's payload
        self.places: dict[tuple[int, str, int], int] = {}  # of the same, their places in the tape's column
        self.limits: list[tuple[int, int]] = []  # positions of numbers, and how many entries they are indices of
        self.streams: list[Stream] = []
        self.static: set[int] = set()
        self.given: dict[int, int] = {}  # rows of constants that are operands of the call, and which

    def link(self, number: TracedNumber, row: int, column: str, place: int, start: int) -> None:
        """Note that a number is the payload of a row, whose own begins at ``start`` of the column."""
        self.links[row, column, place] = number
        self.places[row, column, place] = start + place

    def settle(self) -> None:
        """Let go of the links of numbers whose values the program depends on, when the body has run."""
        for key in [key for key, number in self.links.items() if number.position in self.static]:
            del self.links[key], self.places[key]
        self.limits = [limit for limit in dict.fromkeys(self.limits) if limit[0] not in self.static]

    def draw(self, stream: Stream) -> tuple[TracedNumber, TracedNumber]:
        """Seed and count of a draw that every call makes anew."""
        number = len(self.streams)
        self.streams.append(stream)
        return TracedNumber(self, -1, 0, ("seed", number)), TracedNumber(self, -1, 0, ("count", number))

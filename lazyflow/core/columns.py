"""What recording works on: the columns of a tape, what was recorded before, and the variable of the context.

Columns are arrays that grow at their end, of C integers and of doubles.

Where the package was compiled, ``columns.pyx`` takes the place of this file, with the same names.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from threading import get_ident
from typing import Any

__all__ = [
    "ELEMENTS",
    "Counts",
    "Elements",
    "FloatColumn",
    "IntColumn",
    "Recall",
    "Scope",
    "Shapes",
    "ThisThread",
    "Variable",
    "are_within",
    "array_of_numbers",
    "no_tape",
    "recycle",
]


class Variable:
    """A `ContextVar`. ``mine()``: its value where that is a scope of this thread; of one that came with a context from
    another, this variable, which is no scope of any tape."""

    __slots__ = ("get", "mine", "set")

    def __init__(self, name: str, *, default: object) -> None:
        inner: ContextVar[Any] = ContextVar(name, default=default)
        self.get: Callable[[], Any] = inner.get
        self.set = inner.set

        def mine() -> Any:
            found: Any = inner.get()
            return found if found.thread == get_ident() else self

        self.mine = mine


def Counts() -> object:
    """How many handles there are of each row is not known: Python tells nobody cheaply that an object has died."""
    return None


def Recall() -> object:
    """Python's own tables are as fast as anything that stood before them."""
    return None


def Shapes() -> object:
    """As `Recall`."""
    return None


class Elements:
    """Single elements and stretches of NumPy's arrays."""

    __slots__ = ()

    def number(self, array: Any, i: int) -> int:
        """An element of an array of integers of one axis."""
        return int(array[i])

    def copy(self, buffer: Any, offset: int, shape: tuple[int, ...]) -> Any:
        """The elements of a flat buffer from ``offset`` on, in that shape, as an array of their own."""
        return buffer[offset : offset + math.prod(shape)].reshape(shape).copy()

    def put(self, buffer: Any, offset: int, array: Any) -> int:
        """Copy an array into a flat buffer of its dtype, from element ``offset`` on; return where it ends."""
        end = offset + int(array.size)
        buffer[offset:end] = array.reshape(-1)
        return end


ELEMENTS = Elements()


def are_within(array: Any, low: int, high: int) -> bool:
    """Whether all numbers of an array of integers are at least ``low``, and below ``high``."""
    return not bool(((array < low) | (array >= high)).any())


def array_of_numbers(value: object) -> Any:
    """Python has no quicker way to make an array of numbers than NumPy's."""
    return None


def recycle(one: type) -> None:
    """Python reuses the memory of small objects by itself."""


class ThisThread:
    """``local.owner`` of this thread."""

    __slots__ = ("get",)

    def __init__(self, local: Any) -> None:
        self.get: Callable[[], Any] = lambda: local.owner


class Scope:
    """See `lazyflow.settings`."""

    __slots__ = ("entries", "owner", "settings", "tape", "thread")

    def __init__(self, entries: tuple[Any, ...], settings: Any, owner: object = None) -> None:
        self.entries, self.settings, self.owner, self.tape = entries, settings, owner, no_tape
        self.thread = get_ident()


class Held:
    """See `lazyflow.settings.Entry`."""

    __slots__ = ("closed", "holder", "kept")

    holder: Callable[[], object] | None

    def __init__(self) -> None:
        self.holder = None
        self.kept = self.closed = False

    def holds(self) -> bool:
        """Whether the block holds in the contexts that have it."""
        return not self.closed and (self.kept or self.holder is None or self.holder() is not None)


def no_tape() -> Any:
    """In place of a reference to a tape that is no more."""


class IntColumn(array):  # type: ignore[type-arg]  # that an array has a type of elements is known to mypy alone
    """32-bit integers; ``append`` and ``extend`` raise ``OverflowError`` for others, and nothing was added then."""

    __slots__ = ()

    def __new__(cls, values: Iterable[int] = ()) -> IntColumn:
        return super().__new__(cls, "i", values)  # type: ignore[return-value]

    def extend(self, values: Iterable[int]) -> None:
        """Append all of some numbers, or none of them: they are converted first."""
        super().extend(values if isinstance(values, array) else array("i", values))

    add = array.extend
    put = array.__setitem__


class FloatColumn(array):  # type: ignore[type-arg]
    """Doubles; ``append`` and ``extend`` raise ``OverflowError`` for an integer that is too large for one."""

    __slots__ = ()

    def __new__(cls, values: Iterable[float] = ()) -> FloatColumn:
        return super().__new__(cls, "d", values)  # type: ignore[return-value]

    def extend(self, values: Iterable[float]) -> None:
        """Append all of some numbers, or none of them: they are converted first."""
        super().extend(values if isinstance(values, array) else array("d", values))

    add = array.extend

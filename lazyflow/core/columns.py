"""The columns of a tape: arrays that grow at their end, of C integers and of doubles.

Where the package was compiled, ``columns.pyx`` takes the place of this file, with the same names.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

__all__ = ["Counts", "FloatColumn", "IntColumn"]


def Counts() -> Any:
    """How many handles there are of each row is not known: Python tells nobody cheaply that an object has died."""
    return None


class IntColumn(array):  # type: ignore[type-arg]  # that an array has a type of elements is known to mypy alone
    """32-bit integers; ``append`` and ``extend`` raise ``OverflowError`` for others, and nothing was added then."""

    __slots__ = ()

    def __new__(cls, values: Iterable[int] = ()) -> IntColumn:
        return super().__new__(cls, "i", values)  # type: ignore[return-value]

    def extend(self, values: Iterable[int]) -> None:
        """Append all of some numbers, or none of them: they are converted first."""
        super().extend(values if isinstance(values, array) else array("i", values))


class FloatColumn(array):  # type: ignore[type-arg]
    """Doubles; ``append`` and ``extend`` raise ``OverflowError`` for an integer that is too large for one."""

    __slots__ = ()

    def __new__(cls, values: Iterable[float] = ()) -> FloatColumn:
        return super().__new__(cls, "d", values)  # type: ignore[return-value]

    def extend(self, values: Iterable[float]) -> None:
        """Append all of some numbers, or none of them: they are converted first."""
        super().extend(values if isinstance(values, array) else array("d", values))

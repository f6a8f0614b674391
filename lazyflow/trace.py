"""Tracing: what stands for the arguments of a cell while its body is recorded once.

Expressions are stood for by nodes of a tape of their own. A Python number among the arguments is stood for by a
`TracedNumber`: where it is only used as an index or as a factor it is payload of each call, so that calls with
different words or classes run together. Wherever its value is needed (``range(n)``, ``if n > 2``) it raises
`NeedsValue`, and the cell is traced again with the number itself, once for every value.
"""

from __future__ import annotations

from typing import Any, NoReturn

from lazyflow.random import Stream


class NeedsValue(Exception):
    """The body of a cell uses the number at this position in a way that depends on its value."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


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
        check_limit(name, self.value, size)
        self.trace.limits.append((self.position, size, name))
        return self

    def needed(self, *_: Any) -> NoReturn:
        """Say that the value is needed."""
        raise NeedsValue(self.position)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("type", "tape", "dtype", "shape", "ndim"):
            raise AttributeError(name)
        raise NeedsValue(self.position)


_VALUE_METHODS = (
    "abs add and array bool ceil complex divmod eq float floor floordiv format ge gt hash index int invert le lshift lt"
    " mod mul ne neg or pos pow radd rand rdivmod repr rfloordiv rlshift rmod rmul ror round rpow rrshift rshift rsub"
    " rtruediv rxor str sub truediv trunc xor"
)
for _name in _VALUE_METHODS.split():
    setattr(TracedNumber, f"__{_name}__", TracedNumber.needed)


def check_limit(name: str, value: float, size: int) -> None:
    """Raise ``IndexError`` for an index that is not from 0 to ``size - 1``."""
    if not 0 <= value < size:
        raise IndexError(f"{name}: index {value} is out of range for {size} entries, with indices 0 to {size - 1}")


class Trace:
    """What is learned while the body of a cell is recorded: where payload enters, the limits of indices, and the
    streams that it draws from. ``name`` is that of the cell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.links: dict[tuple[int, str, int], TracedNumber] = {}  # by row, column and place in the row's payload
        self.limits: list[tuple[int, int, str]] = []
        self.streams: list[Stream] = []

    def draw(self, stream: Stream) -> tuple[TracedNumber, TracedNumber]:
        """Seed and count of a draw that every call makes anew."""
        number = len(self.streams)
        self.streams.append(stream)
        return TracedNumber(self, -1, 0, ("seed", number)), TracedNumber(self, -1, 0, ("count", number))

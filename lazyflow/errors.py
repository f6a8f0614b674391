"""The exceptions that lazyflow raises. Each message says what was expected, what came, and what would fit."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from types import CodeType

__all__ = [
    "CellError",
    "CheckpointError",
    "DTypeError",
    "DeviceError",
    "GradientError",
    "LazyflowError",
    "MapError",
    "NonFiniteError",
    "NotComputableError",
    "OutOfMemoryError",
    "ParseError",
    "ShapeError",
    "ThreadError",
    "TornError",
    "user_line",
]

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class LazyflowError(Exception):
    """Base class of every error that lazyflow raises on purpose."""


class ShapeError(LazyflowError, ValueError):
    """Operands whose shapes do not fit an operation."""


class DTypeError(LazyflowError, TypeError):
    """Operands whose dtypes an operation does not take."""


class DeviceError(LazyflowError, RuntimeError):
    """A device that is missing, or operands on different devices."""


class GradientError(LazyflowError, RuntimeError):
    """A backward pass that is not defined: a non-scalar root without a cotangent, nothing to differentiate."""


class CellError(LazyflowError, RuntimeError):
    """Something that the body of a cell cannot do, because it is recorded once and not at every call."""


class MapError(LazyflowError, RuntimeError):
    """Something that an example of `lazyflow.map` cannot do while others are in the middle of theirs."""


class ThreadError(LazyflowError, RuntimeError):
    """An expression of another thread, which may be recording on the same tape at this moment."""


class TornError(LazyflowError, RuntimeError):
    """What an interrupt cut off in the middle, and what is refused since: a recording, the step of an optimizer."""


class NonFiniteError(LazyflowError, FloatingPointError):
    """A NaN or an infinity found by ``lf.using(check_finite=True)``."""


class NotComputableError(LazyflowError, RuntimeError):
    """A metric that was asked for its value before it has seen a batch."""


class OutOfMemoryError(LazyflowError, MemoryError):
    """A run, or a backward, for which there is not enough memory; nothing is changed by it.

    ``needed``: bytes that a run with its backward takes at most; ``free``: those that there are once it is let go of,
    None where that is not known. ``fits``: a number of examples for which they would do, of as many roots as there
    were, or of one root that is a sum or a mean of a list; None where it is not to be seen what an example is.
    """

    def __init__(self, message: str, needed: int = 0, free: int | None = None, fits: int | None = None) -> None:
        super().__init__(message)
        self.needed, self.free, self.fits = needed, free, fits


class CheckpointError(LazyflowError, ValueError):
    """A checkpoint whose entries are not those of the target: missing, extra or misshapen."""


class ParseError(LazyflowError, ValueError):
    """A malformed input file; the message starts with ``path:line:column``."""


def generated(name: str) -> str:
    """The file name of printed code: it counts as part of this package."""
    return f"{_PACKAGE}<{name}>"


def is_generated(code: CodeType) -> bool:
    """Whether code was printed under such a name."""
    return code.co_filename.startswith(f"{_PACKAGE}<")


def python_signature(function: Callable[..., object], *, follow_wrapped: bool = True) -> inspect.Signature:
    """The parameters of a function, whatever its annotations name: from Python 3.14 on what is not there yet, too.

    >>> [*python_signature(lambda x, k=2.0: x * k).parameters]
    ['x', 'k']
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, follow_wrapped=follow_wrapped, annotation_format=Format.STRING)
    return inspect.signature(function, follow_wrapped=follow_wrapped)


def counted(n: int, what: str) -> str:
    """So many of something, for a message.

    >>> counted(1, "node"), counted(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def user_line() -> str:
    """``file:line`` of the innermost frame outside this package: the line a user would want to see.

    >>> user_line().startswith("<doctest")
    True
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"

"""Saved state: nested dicts and lists whose leaves are arrays and JSON scalars (numbers, strings, booleans, None).

Modules, optimizers, schedules, random streams and batches all give their state in this form (``state_dict()``) and take
it back (``load_state_dict(state)``). Restoring has two phases, so that nothing is ever half loaded:
``check_state_dict(state)`` raises `CheckpointError` with every difference and changes nothing; only then is anything
assigned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lazyflow.errors import CheckpointError

__all__ = ["check_kind", "differences", "is_array", "leaves", "path_name", "raise_differences"]

Path = tuple[str | int, ...]


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array (NumPy's, CuPy's, a NumPy scalar) and not a JSON scalar.

    >>> import numpy as np
    >>> is_array(np.zeros(3)), is_array(np.float32(1)), is_array(1.0)
    (True, True, False)
    """
    return hasattr(value, "dtype") and hasattr(value, "shape")


def path_name(path: Path) -> str:
    """The dotted name of an entry.

    >>> path_name(("state", 0, "step"))
    'state.0.step'
    """
    return ".".join(map(str, path))


def leaves(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf of a state with its path, in order. Empty dicts and lists have none.

    >>> list(leaves({"lr": 0.1, "betas": [0.9, 0.99]}))
    [(('lr',), 0.1), (('betas', 0), 0.9), (('betas', 1), 0.99)]
    """
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from leaves(value, (*path, key))
    elif isinstance(state, Sequence) and not isinstance(state, str | bytes):
        for index, value in enumerate(state):
            yield from leaves(value, (*path, index))
    else:
        yield path, state


def _described(value: Any) -> str:
    if is_array(value):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return repr(value)


def _difference(name: str, expected: Any, given: Any) -> Iterator[str]:
    """What keeps ``given`` from taking the place of ``expected``: for arrays the shape and the dtype, for scalars
    the kind.
    """
    if is_array(expected) and is_array(given):
        if tuple(expected.shape) != tuple(given.shape):
            yield f"{name}: expected shape {tuple(expected.shape)}, got {tuple(given.shape)}"
        if expected.dtype != given.dtype:
            yield f"{name}: expected dtype {expected.dtype}, got {given.dtype}"
    elif is_array(expected) or is_array(given):
        yield f"{name}: expected {_described(expected)}, got {_described(given)}"
    elif None not in (expected, given) and isinstance(expected, str) != isinstance(given, str):
        kind = "a string" if isinstance(expected, str) else "a number"
        yield f"{name}: expected {kind}, got {given!r}"


def differences(expected: Any, given: Any) -> list[str]:
    """What keeps ``given`` from being loaded in place of ``expected``, one line an entry; empty when nothing does.

    Both are states (nested dicts and lists of arrays and scalars). Names, shapes and dtypes are compared, never values.

    >>> import numpy as np
    >>> for line in differences({"w": np.zeros((2, 3)), "b": np.zeros(2)}, {"w": np.zeros((3, 2)), "c": np.zeros(1)}):
    ...     print(line)
    w: expected shape (2, 3), got (3, 2)
    b: missing, expected float64 of shape (2,)
    c: not expected, got float64 of shape (1,)
    """
    ours, theirs = dict(leaves(expected)), dict(leaves(given))
    found: list[str] = []
    for path, value in ours.items():
        if path in theirs:
            found.extend(_difference(path_name(path), value, theirs[path]))
        else:
            found.append(f"{path_name(path)}: missing, expected {_described(value)}")
    extra = (path for path in theirs if path not in ours)
    return found + [f"{path_name(path)}: not expected, got {_described(theirs[path])}" for path in extra]


def raise_differences(what: str, found: Sequence[str]) -> None:
    """Raise a `CheckpointError` that lists all of ``found``, one a line; return when there are none.

    >>> raise_differences("model", ["w: expected shape (2,), got (3,)"])
    Traceback (most recent call last):
    lazyflow.errors.CheckpointError: model does not fit, and nothing was changed:
      w: expected shape (2,), got (3,)
    """
    if found:
        raise CheckpointError("\n  ".join([f"{what} does not fit, and nothing was changed:", *found]))


def check_kind(kind: str, state: Any) -> None:
    """Raise a `CheckpointError` unless ``state`` is a dict with ``kind`` under ``"kind"``."""
    given = state.get("kind") if isinstance(state, Mapping) else None
    if given != kind:
        came = f"that of {given}" if isinstance(given, str) else f"a {type(state).__name__} without a kind"
        raise CheckpointError(f"expected the state of {kind}, got {came}; nothing was changed")

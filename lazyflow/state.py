"""Saved state: nested dicts and lists whose leaves are arrays and JSON scalars (numbers, strings, booleans, None).

Modules, optimizers, schedules, random streams and batches all give their state in this form (``state_dict()``) and take
it back (``load_state_dict(state)``). Restoring has two phases, so that nothing is ever half loaded:
``check_state_dict(state)`` raises `CheckpointError` with every difference and changes nothing; only then is anything
assigned. A check reads all that the loading will read: `differences` compares names, shapes, dtypes and kinds, and each
object adds its own rules for values (a count is an integer of at least 0, an option is one that its constructor takes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from lazyflow.errors import CheckpointError

__all__ = [
    "check_kind",
    "differences",
    "is_array",
    "leaves",
    "miscounts",
    "misscored",
    "path_name",
    "raise_differences",
]

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
    elif _is_list(state):
        for index, value in enumerate(state):
            yield from leaves(value, (*path, index))
    else:
        yield path, state


def _described(value: Any) -> str:
    if is_array(value):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return repr(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _kind(value: Any) -> str:
    return "a string" if isinstance(value, str) else "a number"


def _difference(name: str, expected: Any, given: Any) -> Iterator[str]:
    """What keeps ``given`` from taking the place of ``expected``: for arrays the shape and the dtype, for scalars
    the kind. None, which stands for what is not known yet, fits any scalar.
    """
    if is_array(expected) and is_array(given):
        if tuple(expected.shape) != tuple(given.shape):
            yield f"{name}: expected shape {tuple(expected.shape)}, got {tuple(given.shape)}"
        if expected.dtype != given.dtype:
            yield f"{name}: expected dtype {expected.dtype}, got {given.dtype}"
    elif is_array(expected) or is_array(given):
        yield f"{name}: expected {_described(expected)}, got {_described(given)}"
    elif not (given is None or isinstance(given, str | Real)):
        yield f"{name}: expected {_described(expected)}, got a {type(given).__name__}"
    elif expected is not None and given is not None and _kind(expected) != _kind(given):
        yield f"{name}: expected {_kind(expected)}, got {given!r}"


def differences(expected: Any, given: Any, *, lists_grow: bool = False) -> list[str]:
    """What keeps ``given`` from being loaded in place of ``expected``, one line an entry; empty when nothing does.

    Both are states (nested dicts and lists of arrays and scalars). Names, shapes and dtypes are compared, never values.
    ``lists_grow``: lists may have other lengths, if what only one of them has is scalars.

    >>> import numpy as np
    >>> for line in differences({"w": np.zeros((2, 3)), "b": np.zeros(2)}, {"w": np.zeros((3, 2)), "c": np.zeros(1)}):
    ...     print(line)
    w: expected shape (2, 3), got (3, 2)
    b: missing, expected float64 of shape (2,)
    c: not expected, got float64 of shape (1,)
    >>> differences({"losses": []}, {"losses": [0.5, 0.25]}, lists_grow=True)
    []
    """
    found: list[str] = []
    extra: list[str] = []
    _compare((), expected, given, found, extra, lists_grow)
    return found + extra


def _compare(path: Path, expected: Any, given: Any, found: list[str], extra: list[str], lists_grow: bool) -> None:
    ours, theirs = _entries(expected), _entries(given)
    if ours is None and theirs is None:
        found.extend(_difference(path_name(path), expected, given))
    elif ours is None or theirs is None or isinstance(expected, Mapping) != isinstance(given, Mapping):
        found.extend(_missing(path, expected))
        extra.extend(_unexpected(path, given))
    else:
        may_grow = lists_grow and _is_list(expected)
        for key, value in ours.items():
            if key in theirs:
                _compare((*path, key), value, theirs[key], found, extra, lists_grow)
            elif not (may_grow and _has_only_scalars(value)):
                found.extend(_missing((*path, key), value))
        for key, value in theirs.items():
            if key not in ours and not (may_grow and _has_only_scalars(value)):
                extra.extend(_unexpected((*path, key), value))


def _has_only_scalars(value: Any) -> bool:
    return not any(is_array(leaf) and leaf.shape for _, leaf in leaves(value))


def _entries(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    return dict(enumerate(value)) if _is_list(value) else None


def _described_leaves(path: Path, value: Any) -> list[tuple[Path, str]]:
    """All leaves below ``path`` in words; an empty dict or list, which has none, stands for itself."""
    below = [(place, _described(leaf)) for place, leaf in leaves(value, path)]
    return below or [(path, repr(value))]


def _missing(path: Path, value: Any) -> list[str]:
    return [f"{path_name(place)}: missing, expected {words}" for place, words in _described_leaves(path, value)]


def _unexpected(path: Path, value: Any) -> list[str]:
    return [f"{path_name(place)}: not expected, got {words}" for place, words in _described_leaves(path, value)]


def miscounts(state: Mapping[str, Any], *names: str) -> list[str]:
    """A line for each entry of those names that is no count, an integer from 0 to 2**63 - 1.

    >>> miscounts({"step": None, "epoch": 3}, "step", "epoch")
    ['step must be an integer of at least 0, got None']
    """
    return [
        f"{name} must be an integer of at least 0, got {state[name]!r}" for name in names if not _count(state[name])
    ]


def misscored(state: Mapping[str, Any], *names: str) -> list[str]:
    """A line for each entry of those names that is no score, a number that may be infinite but not NaN.

    >>> misscored({"best": float("-inf"), "last": True}, "best", "last")
    ['last must be a number, got True']
    """
    return [f"{name} must be a number, got {state[name]!r}" for name in names if not _score(state[name])]


def _score(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**63


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
    if not isinstance(given, str) or given != kind:
        came = f"that of {given}" if isinstance(given, str) else f"a {type(state).__name__} without a kind"
        raise CheckpointError(f"expected the state of {kind}, got {came}; nothing was changed")

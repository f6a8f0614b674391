"""Checks of what users hand over: asked at their line, and not epochs later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

from lazyflow.errors import python_signature

__all__ = ["check_call", "check_count", "mismatch", "name_of"]


def check_count(name: str, value: Any, least: int) -> int:
    """``value`` as an integer. Raises ``ValueError`` unless it is one of at least ``least``.

    >>> check_count("max_epochs", 0, 1)
    Traceback (most recent call last):
    ValueError: max_epochs must be an integer of at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def name_of(function: Any) -> str:
    """The name of a function, or what is printed of a callable object without one.

    >>> name_of(len), name_of(dict.get)
    ('len', 'dict.get')
    """
    return str(getattr(function, "__qualname__", None) or repr(function)).rpartition("<locals>.")[-1]


def mismatch(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why ``function(*args, **kwargs)`` would not bind, in Python's words; empty when it does.

    A function whose signature Python does not know (some built-in ones) counts as fitting.

    >>> mismatch(lambda engine, rate: None, ["engine"], {})
    "missing a required argument: 'rate'"
    """
    try:
        signature = python_signature(function)
    except ValueError:
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


def check_call(what: str, function: Any, names: Sequence[str]) -> None:
    """Raise ``TypeError`` unless ``function`` can be called with as many arguments as there are ``names``.

    >>> check_call("the process function", lambda engine: None, ["engine", "batch"])
    Traceback (most recent call last):
    TypeError: the process function <lambda> would be called as <lambda>(engine, batch): too many positional arguments
    """
    if not callable(function):
        raise TypeError(f"{what} must be a function of ({', '.join(names)}), got {function!r}")
    reason = mismatch(function, names, {})
    if reason:
        name = name_of(function)
        raise TypeError(f"{what} {name} would be called as {name}({', '.join(names)}): {reason}")

"""What the options of optimizers may be: one table for all of them, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["RULES", "check_known", "check_values", "number", "plain"]


def number(value: Any) -> bool:
    """Whether ``value`` is a real number, finite as a float, and no boolean.

    >>> number(0.1), number(float("nan")), number(True), number("1")
    (True, False, False, False)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _not_negative(value: Any) -> bool:
    return number(value) and value >= 0


def _fraction(value: Any) -> bool:
    return number(value) and 0 <= value < 1


def _two_fractions(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_fraction, value))


def _boolean(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


Rule = tuple[Callable[[Any], bool], str]
_NOT_NEGATIVE: Rule = (_not_negative, "a finite number, at least 0")
_FRACTION: Rule = (_fraction, "a number from 0 to below 1")
_BOOLEAN: Rule = (_boolean, "True or False")

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("lr", "weight_decay", "momentum", "eps", "lr_decay", "initial_accumulator_value"), _NOT_NEGATIVE),
    **dict.fromkeys(("alpha", "rho"), _FRACTION),
    **dict.fromkeys(("nesterov", "amsgrad", "centered", "sparse"), _BOOLEAN),
    "betas": (_two_fractions, "two numbers from 0 to below 1"),
    "dampening": (number, "a finite number"),
}
"""For each option a test and what it asks for, in words. An option of a user's own optimizer under another name is
free.
"""


def check_known(where: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise ``TypeError`` for names that are not known."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"{where} has no option {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


def check_values(where: str, options: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for the first option that breaks its rule.

    >>> check_values("SGD", {"lr": -1})
    Traceback (most recent call last):
    ValueError: SGD: lr must be a finite number, at least 0; got -1
    """
    for name, value in options.items():
        if name in RULES and not RULES[name][0](value):
            raise ValueError(f"{where}: {name} must be {RULES[name][1]}; got {value!r}")


def plain(value: Any) -> Any:
    """``value`` as JSON has it: NumPy's numbers become Python's, tuples become lists.

    >>> plain({"lr": np.float32(0.5), "betas": (0.9, 0.99)})
    {'lr': 0.5, 'betas': [0.9, 0.99]}
    """
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if _boolean(value):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value

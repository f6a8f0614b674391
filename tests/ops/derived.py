"""What other tables need of an elementwise function of one operand, from its row in `accuracy`.

So a new function has one row, there; a row of its own in another table, which stands in NumPy's functions, goes before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

try:
    import mpmath as mp

    from tests.ops.accuracy import TABLE
except ImportError:  # nothing can be derived then, and new functions have rows of their own or none
    TABLE = {}

Array = np.ndarray[Any, Any]
FAR, NEAR = 3.0, 0.2  # how far numbers go where the domain has no end, and how near to an end that it has


def names(known: Collection[str]) -> list[str]:
    """The functions of one operand that have no row among the ``known`` ones."""
    alone = [name for name, row in TABLE.items() if set(row.references) <= {"y", "x"} and not row.others]
    return [name for name in alone if name not in known]


def reference(name: str, key: str) -> Callable[[Any], Array]:
    """The value (``"y"``) or the slope (``"x"``), in 30 digits, rounded to float64."""

    def one(x: float) -> float:
        try:
            with mp.workdps(30):
                return float(mp.re(TABLE[name].references[key](mp.mpf(float(x)))))
        except (ZeroDivisionError, ValueError):
            return float("nan")

    return np.vectorize(one, otypes=[float])


def domain(name: str) -> tuple[float, float]:
    """Where a function is tried."""
    low, high = TABLE[name].domain
    return (-FAR if low < -FAR else low + NEAR, FAR if high > FAR else high - NEAR)

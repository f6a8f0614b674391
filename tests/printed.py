"""Comparing what a program prints with what a page says it prints: text exactly, floating numbers as numbers."""

from __future__ import annotations

import re

__all__ = ["alike"]

RELATIVE = 1e-4
"""Another BLAS, or the same one on another processor, adds in another order. One such sum of float32 numbers is off by
some 1e-7 of its value, and a short training multiplies that by some hundreds at most. What is really wrong is further
off; what a page wants to say in more digits it must not print.
"""

_FLOAT = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?(?![\w.])")


NOTHING = 1e-6  # how far from a printed zero a sum of numbers near one may come out


def _decimals(text: str) -> int:
    return len(text.lower().partition("e")[0].partition(".")[2])


def _close(expected: str, found: str) -> bool:
    a, b = float(expected), float(found)
    if not a or not b:
        return abs(a - b) <= NOTHING
    if "e" in expected + found or not _decimals(expected) == _decimals(found) >= 2:
        return abs(a - b) <= RELATIVE * abs(a)
    return abs(a - b) <= max(RELATIVE * abs(a), 1.001 * 10.0 ** -_decimals(found))  # rounded to either side


def alike(expected: str, found: str) -> bool:
    """Whether two texts differ at most in the last digits of floating numbers, and in the spaces between them.

    Integers, words and the shape of the text are compared exactly.

    >>> alike("loss 0.69314718 after 10", "loss 0.6931472  after 10"), alike("loss 0.69 after 10", "loss 0.69 after 9")
    (True, False)
    """
    pieces = [_FLOAT.split(text) for text in (expected, found)]
    numbers = [_FLOAT.findall(text) for text in (expected, found)]
    words = [[" ".join(piece.split()) for piece in part] for part in pieces]
    return words[0] == words[1] and all(map(_close, *numbers))

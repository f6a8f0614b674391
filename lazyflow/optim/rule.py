"""An optimizer's update as formulas, written once, and the forms in which they run.

A rule is a list of assignments to arrays, by name, in order: later ones read what earlier ones made. Where there is the
compiled core they are one program, which reads and writes every array once, whatever its size; the rows of a table that
a row-sparse gradient touches are read and written in their places. Elsewhere they are array operations, one for each
step of a formula. All steps are rounded exactly, so both forms give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from lazyflow import core
from lazyflow.device import module
from lazyflow.fuse import machine
from lazyflow.fuse.scalar import BLOCK, ROWS, VECTOR, Builder, Value
from lazyflow.ops.formula import evaluate, parse

__all__ = ["Assignments", "run", "run_on_rows"]

Array = Any
Assignments = Sequence[tuple[str, str]]
"""Names with the formulas of what they become. A name that is no array is an intermediate result."""


def run(rule: Assignments, arrays: Mapping[str, Array], numbers: Mapping[str, float]) -> None:
    """Change ``arrays``, all of one shape and dtype, as the rule says; ``"gradient"`` is only read.

    >>> x = np.array([1.0, 2.0])
    >>> run([("move", "gradient * rate"), ("x", "x - move")], {"x": x, "gradient": np.ones(2)}, {"rate": 0.5})
    >>> x
    array([0.5, 1.5])
    """
    flat = _flattened(list(arrays.values()))
    if flat is None:
        _by_calls(rule, arrays, numbers)
        return
    kernel = _kernel(tuple(rule), tuple(arrays), tuple(numbers), flat[0].dtype, 0)
    kernel(0, len(flat[0]), 0, *flat, _together(numbers, flat[0].dtype))


def run_on_rows(
    rule: Assignments, arrays: Mapping[str, Array], gradient: Array, where: Array, numbers: Mapping[str, float]
) -> bool:
    """Change the rows ``where`` (distinct) of ``arrays``, whose gradient this is, in their places.

    False if they are not arrays that the core can work on: then nothing was done.
    """
    if _flattened(list(arrays.values())) is None or not gradient.flags.c_contiguous:
        return False
    if not all(a.flags.c_contiguous and a.dtype == gradient.dtype for a in arrays.values()):
        return False
    width = int(np.prod(gradient.shape[1:]))
    if not width:
        return True
    kernel = _kernel(tuple(rule), (*arrays, "gradient"), tuple(numbers), gradient.dtype, width)
    starts = where.astype(np.int64) * width
    buffers = [given for a in arrays.values() for given in (a.reshape(-1), starts)]
    rows = gradient.reshape(len(where), width)
    kernel(0, len(where), 0, *buffers, rows, _together(numbers, gradient.dtype))
    return True


def _flattened(arrays: list[Array]) -> list[Array] | None:
    """Views of one axis in one order, if the core can work on them."""
    first = arrays[0]
    if core.machine is None or not all(isinstance(a, np.ndarray) and a.dtype == first.dtype for a in arrays):
        return None
    if first.dtype.char not in "fd" or not first.dtype.isnative:
        return None
    if all(a.flags.c_contiguous for a in arrays):
        return [a.reshape(-1) for a in arrays]
    return [a.T.reshape(-1) for a in arrays] if all(a.flags.f_contiguous for a in arrays) else None


def _together(numbers: Mapping[str, float], dtype: np.dtype[Any]) -> Array:
    return np.array(list(numbers.values()), dtype)


@cache
def _kernel(
    rule: Assignments, names: tuple[str, ...], numbers: tuple[str, ...], dtype: np.dtype[Any], width: int
) -> Callable[..., None]:
    """A rule as a program, of elements, or of rows of some width in a buffer, whose gradient lies by itself."""
    b = Builder(max(width, 1), dtype)
    kinds = {name: ROWS if width and name != "gradient" else BLOCK for name in names}
    values: dict[str, Value] = {name: b.load(kinds[name], (name,), 0, width or 1) for name in names}
    values |= {name: b.load(VECTOR, ("numbers",), k, 1) for k, name in enumerate(numbers)}
    for name, source in rule:
        values[name] = b.formula(parse(source), values)
    for name in dict.fromkeys(name for name, _ in rule if name in names and name != "gradient"):
        b.store(kinds[name], (name,), 0, width or 1, values[name], adds=False)
    return machine.compiled(b.kernel())


def _by_calls(rule: Assignments, arrays: Mapping[str, Array], numbers: Mapping[str, float]) -> None:
    xp = module(arrays["gradient"])
    values: dict[str, Any] = {**arrays, **numbers}
    for name, source in rule:
        formula = parse(source)
        values[name] = evaluate(formula, xp, **{operand: values[operand] for operand in formula.operands})
    for name in dict.fromkeys(name for name, _ in rule if name in arrays and name != "gradient"):
        arrays[name][...] = values[name]

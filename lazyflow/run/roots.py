# cython: nonecheck=True
"""What a forward is asked for: lists of roots, as short loops. A round of `lazyflow.map` asks for a value an example.

Where the package was compiled, these loops are of C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lazyflow import device as devices
from lazyflow.locks import Owner
from lazyflow.record.expr import Expr, Parameter
from lazyflow.record.tape import Tape
from lazyflow.run.execute import Run


def to_run(roots: Sequence[object]) -> list[Expr]:
    """The roots without the parameters, which have their values."""
    found = []
    for root in roots:
        if not isinstance(root, Expr):
            raise TypeError(f"expected an expression, got {type(root).__name__}")
        if not isinstance(root, Parameter):
            found.append(root)
    return found


def missing(roots: Sequence[Expr]) -> list[Expr]:
    """Those that have no value yet."""
    found = []
    for e in roots:
        root: Expr = e
        if not root.tape.has_value(root.row):
            found.append(root)
    return found


def alike(roots: list[Expr]) -> list[Expr]:
    """Those that can run with the first: a run has one device, and without gradients it uses memory again that a
    backward would read."""
    first: Expr = roots[0]
    device, grad = first.type.device, first.tape.grad
    found = []
    for e in roots:
        root: Expr = e
        if root.type.device == device and root.tape.grad == grad:
            found.append(root)
    return found


def runs_of(roots: Sequence[Expr]) -> list[Run]:
    """The runs that have computed those that have a value, each once where they stand together."""
    found: list[Any] = []
    last: object = None
    for e in roots:
        root: Expr = e
        if root.tape.has_value(root.row):
            run = root.tape.place_of(root.row)[0]
            if run is not last:
                found.append(run)
                last = run
    return found


def traced(roots: Sequence[Expr]) -> Any:
    """The `Trace` of the first that stands inside of a cell's body, or None."""
    for e in roots:
        root: Expr = e
        if root.tape.trace is not None:
            return root.tape.trace
    return None


def owners_of(roots: Sequence[Any]) -> frozenset[Owner]:
    """The threads that what the roots rest on belongs to."""
    found: Any = frozenset()
    for root in roots:
        if isinstance(root, Expr) and not isinstance(root, Parameter):
            e: Expr = root
            owners = e.tape.owners
            if owners is not found:
                found = found | owners if found else owners
    return found  # type: ignore[no-any-return]


def others_held(roots: Sequence[Expr], tapes: Sequence[Tape]) -> bool:
    """Whether somebody holds expressions of these tapes, where these are counted, of other rows than the roots."""
    held = 0
    for t in tapes:
        tape: Tape = t
        if tape.handles is None:
            return False
        held += tape.handles.count()
    if held > len(roots):
        return True
    rows = set()
    for e in roots:
        root: Expr = e
        rows.add((root.tape.number, root.row))
    return held > len(rows)


def copies(roots: Sequence[Expr]) -> list[Any]:
    """Copies of the values of roots that have them, on the host."""
    found = []
    for e in roots:
        root: Expr = e
        run, offset = root.tape.place_of(root.row)
        value = run.value(offset, root.type)
        found.append(value if run.device == "cpu" else devices.to_host(value))
    return found

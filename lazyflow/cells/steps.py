"""The parts of a cell as data: what its nodes read, and the steps that they are cut into.

See `lazyflow.cells.program`, which makes them, and `lazyflow.cells.calls`, which runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lazyflow.device import DType
from lazyflow.fuse.scalar import Kernel
from lazyflow.ops.base import Shape
from lazyflow.ops.formula import Formula
from lazyflow.record.tape import Signature

REF_NODE, REF_INPUT, REF_PARAMETER, REF_CONSTANT, REF_INT, REF_FLOAT, REF_STATIC = (
    "node",
    "input",
    "parameter",
    "constant",
    "int",
    "float",
    "static",
)
PRODUCT, ASSEMBLE, ELEMENTWISE, CALL = "product", "assemble", "elementwise", "call"

HOISTED, MAIN, SUNK = range(3)


@dataclass(frozen=True)
class Ref:
    """What a node reads: ``size`` elements from ``shift`` on of a node, an input, a parameter or a constant, a payload
    number of the call, or a number that is part of the program (``REF_STATIC``, in ``value``)."""

    kind: str
    index: int
    shift: int
    shape: Shape
    dtype: DType
    size: int
    grad: bool = False
    value: Any = None


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. ``batch``: it has a value for each call, not one for all. ``formula``: of an elementwise one, with
    the names of its operands; ``slopes``: their derivatives."""

    kind: str
    signature: Signature | None
    reads: tuple[Ref, ...]
    shape: Shape
    dtype: DType
    size: int
    batch: bool
    grad: bool
    formula: Formula | None = None
    names: tuple[str, ...] = ()
    slopes: tuple[Formula | None, ...] = ()
    column_ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where the rows of a value lie: in columns from ``column`` on of a slab."""

    slab: int
    column: int


@dataclass(frozen=True)
class Slab:
    """A matrix with a row for each call."""

    columns: int
    dtype: DType
    stage: int


@dataclass(frozen=True, eq=False)
class Product:
    """Rows of ``x`` times the weights ``parameters``, into neighbouring columns of one slab."""

    x: Ref
    parameters: tuple[Ref, ...]
    place: Place
    columns: int
    grad: bool
    x_grad: bool


@dataclass(frozen=True, eq=False)
class Assemble:
    """Vectors side by side in a slab: one for each ref, at the columns ``at``."""

    parts: tuple[Ref, ...]
    at: tuple[int, ...]
    place: Place
    columns: int
    grad: bool


@dataclass(frozen=True, eq=False)
class Fused:
    """Kernels of a group of elementwise nodes, forward and (if it has a gradient) backward."""

    forward: Kernel
    backward: Kernel | None


@dataclass(frozen=True, eq=False)
class OwnKernel:
    """One operation by its own kernel. ``node`` is its number."""

    node: int


Step = Product | Assemble | Fused | OwnKernel


@dataclass(frozen=True)
class ColumnSum:
    """The gradient of a shared vector: the sum over all rows of columns of a slab of cotangents."""

    ref: Ref
    place: Place


def is_batched(ref: Ref, nodes: Sequence[Node]) -> bool:
    """Whether a ref has a value for each call."""
    return ref.kind in (REF_INPUT, REF_INT, REF_FLOAT) or (ref.kind == REF_NODE and nodes[ref.index].batch)

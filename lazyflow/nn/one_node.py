"""Methods of modules that are traced wherever nobody could tell the difference, and run at every call elsewhere.

A recurrent cell is a `lazyflow.cell`, for better or worse. The layers here are put together by their users, who watch
parts of them with hooks and replace them by modules of their own, and are called with sequences of any length. So a
method is traced only while all modules below are the library's own, without hooks, and for the first few combinations
of shapes: as many as `MOST` says, lengths of sequences aside, for each costs time and memory. While there is one length
a call is one node. From the second on it is what was recorded for its length, op by op: as a node each length would
have launches of its own, where operations share theirs (`lazyflow.graph.joined`).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from lazyflow import functions
from lazyflow.cells.cell import cell_of_any_length, without_lengths
from lazyflow.nn import functional
from lazyflow.nn.module import Module
from lazyflow.record.expr import STRUCTURE, Expr, Parameter

__all__ = ["MOST", "is_quiet", "one_node"]

Method = TypeVar("Method", bound=Callable[..., Any])

# Combinations of shapes that a module is traced for, and lengths. An encoder's layer takes 2 ms and 180 kB as a node.
MOST, MOST_SHAPES = 32, 512
# The library's own functions, by id, for a function of others need not be hashable: each does the same whenever it is
# called.
_OWN = {id(f): f for offered in (functions, functional) for f in vars(offered).values()}


def one_node(method: Method) -> Method:
    """A method of a module, taking expressions, arrays, integers, truth values and None by position, as a
    `lazyflow.cell` while the module `is_quiet`, for few shapes; `__wrapped__` is the method itself.

    >>> import lazyflow as lf
    >>> class Layer(Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = lf.nn.Linear(2, 3)
    ...     @one_node
    ...     def forward(self, x):
    ...         return lf.tanh(self.linear(x))
    >>> y = Layer()(lf.constant([1.0, 2.0]))
    >>> len(y.tape)  # the constant and the layer
    2
    """
    recorded = cell_of_any_length(method)
    uses: dict[int, _Use] = {}  # by id of the module

    @functools.wraps(method)
    def call(self: Any, *operands: Any) -> Any:
        use = uses.get(id(self))
        if use is None:
            use = uses[id(self)] = _Use()
            weakref.finalize(self, uses.pop, id(self), None).atexit = False
        return recorded(self, *operands) if use.fits(self, operands) else method(self, *operands)

    return cast(Method, call)


class _Use:
    """Of one module: whether it was quiet when anything was last changed, the shapes that it is traced for, and these
    but for lengths."""

    __slots__ = ("apart", "quiet", "shapes", "structure")

    def __init__(self) -> None:
        self.structure, self.quiet = -1, False
        self.shapes: set[tuple[Any, ...]] = set()
        self.apart: set[tuple[Any, ...]] = set()

    def fits(self, module: Module, operands: Sequence[Any]) -> bool:
        """Whether this call of the module is to be traced."""
        if self.structure != STRUCTURE.count:
            structure = STRUCTURE.count
            self.quiet = is_quiet(module)
            self.structure = structure  # last: what came meanwhile, an interrupt or a change, must be noticed
        if not self.quiet:
            return False
        shapes = tuple([o.type.shape if o.__class__ is Expr else _shape_of(o) for o in operands])
        if shapes in self.shapes:
            return True
        if len(self.shapes) >= MOST_SHAPES or not all(s.__class__ is tuple or s in _PLAIN for s in shapes):
            return False
        sizes = without_lengths([s for s in shapes if s.__class__ is tuple])
        apart = *sizes, *[s for s in shapes if s.__class__ is not tuple]
        if apart not in self.apart and len(self.apart) >= MOST:
            return False
        self.apart.add(apart)
        self.shapes.add(shapes)
        return True


def _shape_of(value: Any) -> Any:
    """The shape of an array of floating numbers, which is taken for an expression; of anything else its class: indices
    are checked where they are given."""
    return value.shape if value.__class__ is np.ndarray and value.dtype.kind == "f" else value.__class__


_PLAIN = (int, bool, type(None))


def is_quiet(module: Module) -> bool:
    """Whether tracing ``module`` once shows all that it ever does: every module below is of a class that says so of
    itself (``quiet = True``; it is not inherited) and has no hooks, and none holds arrays, lists or functions of
    others.

    >>> import lazyflow as lf
    >>> is_quiet(lf.nn.Sequential(lf.nn.Linear(2, 3), lf.tanh)), is_quiet(lf.nn.Sequential(lf.nn.Linear(2, 3), print))
    (True, False)
    """
    below = list(module.modules())
    return all(_is_known(part) for part in below[1:]) and all(_is_plain(part) for part in below)


def _is_known(module: Module) -> bool:
    return "quiet" in vars(type(module)) and module._hooks is None and "forward" not in vars(module)


def _is_plain(module: Module) -> bool:
    own = vars(module)
    rest = [value for name, value in own.items() if name not in ("_buffers", "_items", "_hooks")]
    return not own["_buffers"] and all(_is_unchanging(value) for value in (*rest, *own.get("_items", ())))


def _is_unchanging(value: Any) -> bool:
    if isinstance(value, Parameter | Module | type):
        return True
    if isinstance(value, Expr | np.ndarray | list | dict | set):
        return False
    return not callable(value) or id(value) in _OWN

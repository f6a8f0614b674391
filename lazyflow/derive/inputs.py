"""One call of a function with inputs to differentiate by: what goes in, what comes out, and what lies between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow import settings
from lazyflow.derive.cotangents import TapeRow, Walk, cotangents, fitted, node_of
from lazyflow.derive.structure import leaves, mapped, rebuilt
from lazyflow.errors import DTypeError, GradientError, ShapeError
from lazyflow.numpy.dispatch import has_expressions
from lazyflow.ops import OPS
from lazyflow.record.expr import ENGINE, Expr, Parameter, constant, differentiable, record, view
from lazyflow.record.tape import intern_type

AnyFunction = Callable[..., Any]
Argnum = int | Sequence[int]


# The inputs of the functions that this context is in the middle of differentiating.
_live: ContextVar[frozenset[TapeRow]] = ContextVar("lazyflow.live", default=frozenset())


class alive:
    """Inside, these are inputs of a function that is being differentiated: what rests on them stays an expression."""

    def __init__(self, inputs: Sequence[Expr]) -> None:
        self.before = _live.get()
        self.inside = self.before | {node_of(e) for e in inputs}

    def __enter__(self) -> None:
        _live.set(self.inside)

    def __exit__(self, *error: object) -> None:
        _live.set(self.before)


# Inputs and outputs.


def _input(x: object, what: str) -> Expr:
    """A value as an input to differentiate by: a node of its own, through which gradients flow. Free."""
    if not isinstance(x, Expr | np.ndarray | np.generic | float | int) and not devices.is_on_gpu(x):
        raise TypeError(f"{what} is no array, number or expression but {type(x).__name__}; differentiate by others")
    e = constant(np.float64(x) if isinstance(x, float) and not isinstance(x, np.generic) else x)
    if e.dtype.kind != "f":
        raise DTypeError(
            f"{what} holds {e.dtype}; only floating values can be differentiated by, see .astype('float64')"
        )
    if e.type.parameter is not None:
        e = record(OPS["identity"], (e,))
    return view(differentiable(e), intern_type(e.shape, e.dtype, e.device, True), 0)


def _inputs(tree: object, what: str) -> list[Expr]:
    return [_input(leaf, path) for path, leaf in leaves(tree, what)]


def _constant_branch(y: object) -> object:
    """What a branch that is a constant returns, a Python integer or zero, as an expression: its gradient is zero.

    Another number may be the value of something that does depend on the arguments.
    """
    return constant(np.float64(y)) if type(y) is int or (type(y) is float and not y) else y


def output(y: object, name: str) -> Expr:
    """What a function returned, which must be an expression; raises `GradientError`."""
    if not isinstance(y, Expr):
        raise GradientError(
            f"{name}: the function returned {_article(y)}, which is no expression: its result does not depend on the "
            "arguments, or was computed from their values (.numpy(), .item(), float()); compute with lazyflow.numpy, "
            "lazyflow or operators"
        )
    return y


def _article(y: object) -> str:
    return "an array" if isinstance(y, np.ndarray) else f"a {type(y).__name__}"


def scalar(y: object, name: str) -> Expr:
    """What a function returned, which must be one floating number; raises `GradientError` or `DTypeError`."""
    e = output(y, name)
    if e.size != 1:
        raise GradientError(
            f"{name} of a function whose result has shape {e.shape}: it must be one number; sum it, or use jacobian, "
            "elementwise_grad or vjp"
        )
    return _floating_input(e, name)


def _floating_input(e: Expr, name: str) -> Expr:
    if e.dtype.kind != "f":
        raise DTypeError(f"{name}: the function returned {e.dtype}, which has no derivative; it must be floating")
    return e


def _value_there(e: Expr) -> object:
    """The value as an array on its device, or as a NumPy number."""
    value = e.stored().copy() if isinstance(e, Parameter) else ENGINE[0].value(e)
    return value[()] if isinstance(value, np.ndarray) and not e.shape else value


def evaluated(tree: object) -> Any:
    """The same structure with the values of its expressions, all from one run."""
    found = [leaf for _, leaf in leaves(tree) if isinstance(leaf, Expr)]
    ENGINE[0].forward(found)
    return mapped(lambda leaf: _value_there(leaf) if isinstance(leaf, Expr) else leaf, tree)


def reads_expressions(args: Sequence[object]) -> bool:
    """Whether an expression is among the arguments, at any depth: then the result is an expression, too."""
    return has_expressions(leaf for arg in args for _, leaf in leaves(arg))


def finished(tree: object, lazy: bool) -> Any:
    """Results as they are handed to the caller: expressions if ``lazy``, else their values."""
    return tree if lazy else evaluated(tree)


def is_inside(walk: Walk) -> bool:
    """Whether what was walked over rests on an input of a function that is being differentiated further out."""
    live = _live.get()
    return bool(live) and any(node in live for node in walk.order)


# Calling the function.


class Traced:
    """One call of a function with inputs in place of some arguments."""

    def __init__(
        self, name: str, f: AnyFunction, argnum: Argnum, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        self.name = name
        self.numbers = numbers_of(name, argnum, len(args))
        self.trees = tuple(args[i] for i in self.numbers)
        given = [*args, *kwargs.values()]
        with recording():
            self.inputs = [
                e
                for i, tree in zip(self.numbers, self.trees, strict=True)
                for e in _inputs(tree, f"{name}: argument {i}")
            ]
            traced = rebuilt(self.trees, iter(self.inputs))
            replaced = dict(zip(self.numbers, traced, strict=True))
            with alive(self.inputs):
                self.y = f(*(replaced.get(i, arg) for i, arg in enumerate(args)), **kwargs)
        self.y = mapped(_constant_branch, self.y)
        self.outputs = [_floating_input(output(y, name), name) for _, y in leaves(self.y)]
        with recording():
            self.walk = Walk(self.outputs, [node_of(e) for e in self.inputs])
        self.lazy = reads_expressions(given) or is_inside(self.walk)
        self.one = isinstance(argnum, int)

    def pulled_back(self, seeds: Sequence[object]) -> list[Expr]:
        """The gradient of every input."""
        with recording():
            found = cotangents(list(zip(self.outputs, seeds, strict=True)), self.inputs, self.walk)
            return [zeros(e) if g is None else g for g, e in zip(found, self.inputs, strict=True)]

    def pushed_forward(self, tangents: Sequence[object]) -> list[Expr]:
        """The tangent of every output, for those of the inputs: the vjp of the vjp."""
        with recording():
            seeds = [_input(np.zeros(y.shape, y.dtype), self.name) for y in self.outputs]
            pulled = self.pulled_back(seeds)
            again = Walk(pulled, [node_of(e) for e in seeds])
            found = cotangents(list(zip(pulled, tangents, strict=True)), seeds, again)
            return [zeros(y) if t is None else t for t, y in zip(found, self.outputs, strict=True)]

    def structured(self, values: Sequence[object]) -> Any:
        """Values of the inputs in the structure of the arguments."""
        trees = rebuilt(self.trees, iter(values))
        return trees[0] if self.one else trees


def recording() -> AbstractContextManager[object]:
    """What is differentiated must be recorded with gradients, even inside of ``lf.no_grad()``."""
    return nullcontext() if settings.current().grad else settings.using(grad=True)


def zeros(e: Expr) -> Expr:
    """The gradient of what nothing rests on."""
    return constant(np.zeros(e.shape, e.dtype))


def numbers_of(name: str, argnum: Argnum, count: int) -> tuple[int, ...]:
    """The arguments that ``argnum`` names, counted from the front; raises ``TypeError`` where there are not so many."""
    numbers = (argnum,) if isinstance(argnum, int) else tuple(argnum)
    for n in numbers:
        if not -count <= n < count:
            raise TypeError(f"{name}: argnum {n} names no argument, the function was called with {count} of them")
    return tuple(n % count for n in numbers)


def check_function(name: str, f: object, argnum: object) -> None:
    """Raise ``TypeError`` unless ``f`` is a function and ``argnum`` the number of an argument, or several."""
    if not callable(f):
        raise TypeError(f"{name} takes a function, got {type(f).__name__}; for an expression there is lf.gradients")
    numbers = argnum if isinstance(argnum, list | tuple) else (argnum,)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise TypeError(f"{name}: argnum is the number of an argument, or a tuple of them, got {argnum!r}")


def matching(name: str, what: str, tree: object, like: Sequence[Expr]) -> list[Expr]:
    """The leaves of a cotangent or tangent, which must have the shapes of what it belongs to."""
    found = [leaf for _, leaf in leaves(tree)]
    shapes = [np.shape(leaf) if not isinstance(leaf, Expr) else leaf.shape for leaf in found]
    wanted = [e.shape for e in like]
    if shapes != wanted:
        raise ShapeError(f"{name}: the {what} must have the shapes {wanted} of what it belongs to, got {shapes}")
    return [fitted(leaf, e.type) for leaf, e in zip(found, like, strict=True)]

"""Modules that are a function and its options: activations, losses, pooling, distances.

The function says everything: its operands are what the module is called with, its other arguments what it is made with.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyflow.nn.module import Module
from lazyflow.record.expr import Expr, Parameter

__all__ = ["FunctionModule", "wrapped"]


class FunctionModule(Module):
    """A module without parameters: ``function(*operands, **options)``. `wrapped` makes the classes.

    Options are attributes; an array among them is a buffer. Raises ``TypeError`` for an option that the function has
    not.
    """

    function: Callable[..., Expr]
    _operand_count: int
    _operands: Callable[..., tuple[Any, ...]]
    _options: Callable[..., dict[str, Any]]
    _option_values: Callable[[FunctionModule], tuple[Any, ...]]
    signature: inspect.Signature

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            values = self._options(*args, **kwargs)
        except TypeError:
            values = self._bound(args, kwargs)
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                self.register_buffer(name, value)
            elif isinstance(value, Parameter | Module):
                setattr(self, name, value)
            else:  # nobody can have seen this module
                object.__setattr__(self, name, value)

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The options by name, as Python says what does not fit."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}{self.signature}: {error}") from None
        bound.apply_defaults()
        return bound.arguments

    def forward(self, *operands: Any, **named: Any) -> Expr:
        """The function of one example's operands."""
        if named or len(operands) != self._operand_count:
            operands = self._operands(*operands, **named)
        return type(self).function(*operands, *self._option_values(self))

    def extra_repr(self) -> str:
        given = [(name, getattr(self, name), p.default) for name, p in self.signature.parameters.items()]
        return ", ".join(
            f"{name}={value}" for name, value, default in given if isinstance(value, np.ndarray) or value != default
        )


def wrapped(
    module: str,
    name: str,
    function: Callable[..., Expr],
    operands: int = 1,
    base: type[FunctionModule] = FunctionModule,
) -> type[FunctionModule]:
    """The class ``name`` of ``module`` whose objects are ``function`` with the options they were made with.

    >>> from lazyflow.nn.functional import leaky_relu
    >>> LeakyReLU = wrapped(__name__, "LeakyReLU", leaky_relu)
    >>> LeakyReLU(0.5)
    LeakyReLU(negative_slope=0.5)
    """
    parameters = list(inspect.signature(function).parameters.values())
    first = (inspect.getdoc(function) or "").partition("\n\n")[0]
    text = f"`nn.functional.{function.__name__}` as a module, made with the function's options: {first}"
    members = {
        "__module__": module,
        "__doc__": text,
        "function": staticmethod(function),
        "quiet": True,
        "_operand_count": operands,
        "_operands": _in_order(f"{name}.forward", [parameter.name for parameter in parameters[:operands]]),
        "_options": staticmethod(_by_name(parameters[operands:])),
        "_option_values": staticmethod(_values_of([parameter.name for parameter in parameters[operands:]])),
        "signature": inspect.Signature(parameters[operands:]),
    }
    return type(name, (base,), members)


def _in_order(method: str, names: Sequence[str]) -> Callable[..., tuple[Any, ...]]:
    """A method with parameters of these names, which returns them; for others Python says what does not fit."""
    listed = ", ".join(names)
    found: Callable[..., tuple[Any, ...]] = eval(f"lambda self, {listed}: ({listed},)")
    found.__qualname__ = method
    return found


def _by_name(parameters: Sequence[inspect.Parameter]) -> Callable[..., dict[str, Any]]:
    """A function of these parameters, which returns them by name: a tenth of what `inspect.Signature.bind` takes."""
    marked = [p.name if p.default is p.empty else f"{p.name}=defaults[{i}]" for i, p in enumerate(parameters)]
    first = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None:
        marked.insert(first, "*")
    listed = ", ".join(f"{p.name!r}: {p.name}" for p in parameters)
    defaults = [p.default for p in parameters]
    found: Callable[..., dict[str, Any]] = eval(f"lambda {', '.join(marked)}: {{{listed}}}", {"defaults": defaults})
    return found


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """The attributes of these names, in their order: as often as a module is called."""
    if len(names) < 2:
        return lambda module: tuple([getattr(module, name) for name in names])
    return operator.attrgetter(*names)

"""Modules that are a function and its options: activations, losses, pooling, distances.

The function says everything: its operands are what the module is called with, its other arguments what it is made with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lazyflow.nn.module import Module
from lazyflow.record.expr import Expr, Parameter

__all__ = ["FunctionModule", "wrapped"]

_REGISTERED = np.ndarray, Parameter, Module


class FunctionModule(Module):
    """A module without parameters: ``function(*operands, **options)``. `wrapped` makes the classes.

    Options are attributes; an array among them is a buffer. Raises ``TypeError`` for an option that the function has
    not.
    """

    function: Callable[..., Expr]
    _applied: Callable[..., Expr]
    _operands: Callable[..., tuple[Any, ...]]
    _options: Callable[..., dict[str, Any]]
    signature: inspect.Signature

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            values = self._options(*args, **kwargs)
        except TypeError:
            values = self._bound(args, kwargs)
        for name, value in values.items():
            if not isinstance(value, _REGISTERED):  # and nobody can have seen this module
                object.__setattr__(self, name, value)
            elif isinstance(value, np.ndarray):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

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
        return self._applied(*operands, **named)

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
    names, options = [p.name for p in parameters[:operands]], [p.name for p in parameters[operands:]]
    method = f"{name}.forward"
    applied = _method(method, names, f"self.function({', '.join([*names, *[f'self.{o}' for o in options]])})")
    text = f"`nn.functional.{function.__name__}` as a module, made with the function's options: {first}"
    members = {
        "__module__": module,
        "__doc__": text,
        "function": staticmethod(function),
        "quiet": True,
        "_applied": applied,
        "_operands": _method(method, names, f"({', '.join(names)},)"),
        "_options": staticmethod(_by_name(parameters[operands:])),
        "signature": inspect.Signature(parameters[operands:]),
    }
    if base.forward is FunctionModule.forward:  # without a frame between
        members["forward"] = applied
    return type(name, (base,), members)


def _method(name: str, operands: Sequence[str], value: str) -> Callable[..., Any]:
    """A method of these operands, and of this value; for others Python says what does not fit. It counts as part of
    this file, so that lines that are shown are those of whoever calls it."""
    code = compile(f"lambda self, {', '.join(operands)}: {value}", f"{__file__}:{name}", "eval")
    found: Callable[..., Any] = eval(code, {"__name__": __name__})
    found.__name__, found.__qualname__, found.__doc__ = "forward", name, FunctionModule.forward.__doc__
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

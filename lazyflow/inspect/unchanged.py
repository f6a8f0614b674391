"""What a measurement of somebody's model must leave as it was: parameters, gradients, buffers, modes, random streams.

Values are only written back where they differ, so that what was computed before is not stale afterwards.
"""

from __future__ import annotations

import functools
import inspect
import random as python_random
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from lazyflow import device as devices
from lazyflow.cells.visible import is_filled
from lazyflow.device import Array
from lazyflow.nn import Module
from lazyflow.random import Stream, default_stream
from lazyflow.record.expr import Expr, Parameter, note_change

__all__ = ["Unchanged", "unchanged"]

GENERATORS = (Stream, python_random.Random, np.random.Generator, np.random.RandomState)


def reachable(things: Iterable[object]) -> Iterator[object]:
    """What functions and objects refer to, and they themselves: attributes, entries of lists and dicts, arguments of
    partial functions, variables of enclosing functions, and the global variables that a function of the same package
    names. Not what arrays and expressions are made of, nor modules of Python, classes and other packages' functions."""
    stack, seen = list(things), set()
    package = next((_package(thing) for thing in stack), "")
    while stack:
        thing = stack.pop()
        if id(thing) not in seen and not isinstance(thing, str | bytes | int | float | np.ndarray | type):
            seen.add(id(thing))
            yield thing
            if not isinstance(thing, (Expr, types.ModuleType, *GENERATORS)):
                stack += _held_in(thing, package)


def _package(thing: object) -> str:
    unwrapped = inspect.unwrap(thing) if callable(thing) else thing
    return str(getattr(unwrapped, "__module__", "") or "").partition(".")[0]


def _held_in(thing: object, package: str) -> list[object]:
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.FunctionType):
        return _parts_of_function(thing, package)
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    return [*getattr(thing, "__dict__", {}).values(), *([thing.__wrapped__] if hasattr(thing, "__wrapped__") else [])]


def _parts_of_function(function: types.FunctionType, package: str) -> list[object]:
    found = [cell.cell_contents for cell in function.__closure__ or () if is_filled(cell)]
    found += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    found += vars(function).values()
    if _package(function) == package:
        found += [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
    return found


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names of a function and of those that are written in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


class _Kept(NamedTuple):
    parameter: Parameter
    array: Array
    version: int
    gradient: Array


class Unchanged:
    """Remembers state, and puts it back.

    ``things``: functions and objects; the modules, parameters and random generators that they refer to are found (see
    `reachable`). Parameters that only show when a loss is recorded are given to `hide_gradients`.
    """

    def __init__(self, things: Iterable[object]) -> None:
        found = [*reachable(things), default_stream()]
        modules = {id(m): m for root in found if isinstance(root, Module) for m in root.modules()}
        self._modules = [(m, m.training, _buffers(m)) for m in modules.values()]
        self._parameters: dict[int, _Kept] = {}
        self._draws = [_generator_state(g) for g in found if isinstance(g, GENERATORS)]
        self._draws.append((python_random.setstate, python_random.getstate()))
        self._draws.append((np.random.set_state, np.random.get_state()))  # noqa: NPY002
        for parameter in [p for p in found if isinstance(p, Parameter)]:
            self._add(parameter)

    def _add(self, parameter: Parameter) -> None:
        if id(parameter) not in self._parameters:
            array = devices.copied(parameter.stored(), parameter.device)
            self._parameters[id(parameter)] = _Kept(parameter, array, parameter.version, parameter.grad)

    def hide_gradients(self, roots: Sequence[Expr]) -> list[Parameter]:
        """Take the gradients of all parameters that the roots, whose values are computed, rest on: None, for now.
        Returns these parameters."""
        runs = {id(run): run for run in (root.tape.place_of(root.row)[0] for root in roots)}
        kinds = {id(kind.parameter): kind.parameter for run in runs.values() for kind in run.rests_on}
        found = {id(p): p for reference in kinds.values() if reference and (p := reference()) is not None}
        for parameter in found.values():
            self._add(parameter)
            parameter.grad = None
        return list(found.values())

    def touch(self) -> None:
        """What was computed is stale, as it is after an update."""
        for kept in self._parameters.values():
            kept.parameter.touch()

    def rewind(self) -> None:
        """Set all random generators to where they were: the next draws are those of the beginning again."""
        for set_state, state in self._draws:
            set_state(state)

    def restore(self) -> None:
        """Put everything back; may be done twice, and interrupted before that."""
        self.rewind()
        for parameter, array, version, gradient in self._parameters.values():
            if _same_bits(parameter.stored(), array):
                parameter.version = version  # what was computed before counts as of now
            else:
                parameter.assign(array)
            parameter.grad = gradient
        for module, training, buffers in self._modules:
            _restore_module(module, training, buffers)


@contextmanager
def unchanged(things: Iterable[object]) -> Iterator[Unchanged]:
    """An `Unchanged` for a ``with`` block, at whose end all is put back, however it ends: an interrupt that cuts the
    first time off leaves the second."""
    state = Unchanged(things)
    try:
        try:
            yield state
        finally:
            state.restore()
    finally:
        state.restore()


def _generator_state(generator: Any) -> tuple[Callable[[Any], object], object]:
    """What sets the state of a generator, and the state."""
    if isinstance(generator, Stream):
        return generator.load_state_dict, generator.state_dict()
    if isinstance(generator, np.random.Generator):
        return functools.partial(setattr, generator.bit_generator, "state"), generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.set_state, generator.get_state()
    return generator.setstate, generator.getstate()


def _buffers(module: Module) -> list[tuple[str, Array, Array]]:
    return [(name, array, devices.copied(array, devices.device_of(array))) for name, array in module._own_buffers()]


def _restore_module(module: Module, training: bool, buffers: Sequence[tuple[str, Array, Array]]) -> None:
    if module.training is not training:
        module.training = training
    for name, array, content in buffers:
        if not _same_bits(array, content):
            array[...] = content
        if module.__dict__.get(name) is not array:
            module.__dict__[name] = array
            module._buffers.add(name)
            note_change()


def _same_bits(a: object, b: object) -> bool:
    """Whether two arrays are equal to the bit."""
    return devices.to_host(a).tobytes() == devices.to_host(b).tobytes()

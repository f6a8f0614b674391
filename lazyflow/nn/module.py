"""`Module`: a part of a model. It finds its parameters among its attributes; there is nothing to declare.

Parameters and submodules are ordinary entries of the instance's ``__dict__``, so reading one costs what any attribute
costs, and what is assigned, replaced or deleted is registered, replaced or gone. All walks go over an explicit stack.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

import numpy as np

from lazyflow import device as devices
from lazyflow import fibers, settings
from lazyflow.device import HostArray
from lazyflow.errors import CheckpointError, DTypeError
from lazyflow.hooks import Hook, HookHandle
from lazyflow.nn import hooks
from lazyflow.nn.called import Called
from lazyflow.ops.base import number
from lazyflow.record.expr import Expr, Parameter, note_change, own_array
from lazyflow.state import differences, raise_differences

__all__ = ["IncompatibleKeys", "Module"]

Array = Any
Self = TypeVar("Self", bound="Module")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result", covariant=True)


class HasForward(Protocol[Arguments, Result]):
    """What types the call of a module: its ``forward``, as a subclass declares it."""

    @property
    def forward(self) -> Callable[Arguments, Result]: ...


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` left alone: names without an entry, and entries without a name."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def new_parameter(*shape: int) -> Parameter:
    """A parameter of zeros, of the default dtype and on the default device, for an initialiser to fill."""
    return Parameter(np.zeros(shape, settings.current().dtype))


def checked_sizes(owner: str, **sizes: Any) -> tuple[int, ...]:
    """The sizes as integers. Raises ``TypeError`` or ``ValueError``, naming the size, for one that is none or below 1.

    >>> checked_sizes("Linear", in_features=3, out_features=-2)
    Traceback (most recent call last):
    ValueError: Linear: out_features must be at least 1, got -2
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"{owner}: {name} must be an integer, got {size!r}")
        if size < 1:
            raise ValueError(f"{owner}: {name} must be at least 1, got {size}")
    return tuple(operator.index(size) for size in sizes.values())


def checked_probability(owner: str, p: float) -> float:
    """``p`` as a float. Raises ``ValueError`` outside [0, 1)."""
    p = number(owner, "p", p)
    if not 0 <= p < 1:
        raise ValueError(f"{owner}: p, the probability of a zero, must be at least 0 and below 1, got {p}")
    return p


class Module(Called):
    """A part of a model: parameters, submodules, and a ``forward`` written for one example.

    A `Parameter` or a `Module` that is assigned to an attribute belongs to the module from then on, until the
    attribute is deleted or set to something else. Assigning one before ``super().__init__()`` raises
    ``AttributeError``. A plain list or dict of modules is not looked into: use `ModuleList` or `ModuleDict`.

    >>> import lazyflow as lf
    >>> from lazyflow import nn
    >>> class Classifier(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = nn.Linear(4, 8)
    ...         self.output = nn.Linear(8, 3)
    ...     def forward(self, x):
    ...         return self.output(lf.tanh(self.hidden(x)))
    >>> model = Classifier()
    >>> model(lf.constant([1.0, 2.0, 3.0, 4.0])).shape
    (3,)
    >>> [name for name, _ in model.named_parameters()]
    ['hidden.weight', 'hidden.bias', 'output.weight', 'output.bias']
    """

    training: bool
    _buffers: set[str]
    _hooks: hooks.ModuleHooks | None = None

    def __init__(self) -> None:
        own = self.__dict__
        if own:
            note_change()  # a body may have read it
        own["training"], own["_buffers"] = True, set()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The value of the module for one example; every subclass that is called defines it."""
        raise NotImplementedError(
            f"{type(self).__name__} defines no forward(); call one of its other methods or add it"
        )

    if TYPE_CHECKING:  # a call takes and returns what forward does

        def __call__(self: HasForward[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            """Run the hooks and `forward`."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By the protocols before the second no object of a compiled class goes."""
        return super().__reduce_ex__(max(protocol, 2))

    # Registration

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, _PARTS):
            self._adopt(name, value)
            self._buffers.discard(name)
        elif isinstance(self.__dict__.get(name), Parameter) and value is not None:
            raise TypeError(
                f"{name!r} is a parameter, and a {type(value).__name__} would take its place untrained; "
                f"use {name}.assign(...) to give it other numbers, or a lf.Parameter to replace it"
            )
        elif name in self.__dict__.get("_buffers", ()):
            if _is_plain_array(value):
                value = _own_array(value)
            else:
                self._buffers.discard(name)
        before = self.__dict__.get(name)
        if isinstance(before, Parameter) and before is not value:
            fibers.refuse_change("a parameter is replaced", before.version)
        note_change()
        object.__setattr__(self, name, value)
        note_change()
        if isinstance(before, Parameter) and before is not value:
            before.replaced()

    def __delattr__(self, name: str) -> None:
        before = self.__dict__.get(name)
        if isinstance(before, Parameter):
            fibers.refuse_change("a parameter is taken away", before.version)
        note_change()
        object.__delattr__(self, name)
        note_change()
        if isinstance(before, Parameter):
            before.replaced()
        self.__dict__.get("_buffers", set()).discard(name)

    def _adopt(self, name: str, value: Parameter | Module) -> None:
        """Check that ``value`` may belong to this module under ``name``."""
        if "_buffers" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}.__init__ must call super().__init__() before it assigns {name!r}, "
                f"or the {type(value).__name__} would not be registered"
            )
        _check_name(name)
        if isinstance(value, Parameter):
            value.name = value.name or name
        elif any(module is self for module in value.modules()):
            raise ValueError(f"{name!r}: a {type(self).__name__} cannot contain itself")

    def register_buffer(self, name: str, array: Any) -> None:
        """Keep a copy of ``array`` as an attribute that is saved and moved with the parameters, but is not trained.

        In ``forward`` it is an ordinary array. Setting the attribute to another array keeps it a buffer. Raises
        ``ValueError`` for a name that is taken or has a dot, `DTypeError` for what is no array of numbers.

        >>> module = Module()
        >>> module.register_buffer("mean", np.zeros(3))
        >>> list(module.state_dict())
        ['mean']
        """
        if "_buffers" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}.__init__ must call super().__init__() before register_buffer({name!r})"
            )
        _check_name(name)
        if hasattr(self, name):
            raise ValueError(
                f"register_buffer: {type(self).__name__} has an attribute {name!r} already; delete it first"
            )
        object.__setattr__(self, name, _own_array(array))
        self._buffers.add(name)
        note_change()

    def _own_parameters(self) -> list[tuple[str, Parameter]]:
        return [(name, value) for name, value in self.__dict__.items() if isinstance(value, Parameter)]

    def _own_buffers(self) -> list[tuple[str, Array]]:
        return [(name, value) for name, value in self.__dict__.items() if name in self._buffers]

    # Walks

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules right below this one, with their names."""
        yield from [(name, value) for name, value in self.__dict__.items() if isinstance(value, Module)]

    def children(self) -> Iterator[Module]:
        """The modules right below this one, each once."""
        yield from {id(module): module for _, module in self.named_children()}.values()

    def named_modules(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module, named ``""``, and all below it by dotted name, parents first.

        A module that occurs several times comes once, under its first name, or, with ``remove_duplicate=False``, under
        each.
        """
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [("", self)]
        while stack:
            prefix, module = stack.pop()
            if id(module) in seen:
                continue
            if remove_duplicate:
                seen.add(id(module))
            yield prefix, module
            stack.extend([(_dotted(prefix, name), child) for name, child in module.named_children()][::-1])

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once, parents first."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Every parameter by dotted name; a tied one once, by its first name, unless ``remove_duplicate`` is false."""
        seen: set[int] = set()
        for prefix, module in self.named_modules(remove_duplicate=remove_duplicate):
            for name, parameter in module._own_parameters():
                if id(parameter) not in seen:
                    yield _dotted(prefix, name), parameter
                if remove_duplicate:
                    seen.add(id(parameter))

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, each once: what an optimizer takes."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """The arrays given to `register_buffer`, by dotted name."""
        for prefix, module in self.named_modules():
            yield from ((_dotted(prefix, name), array) for name, array in module._own_buffers())

    def buffers(self) -> Iterator[Array]:
        """The arrays given to `register_buffer`."""
        return (array for _, array in self.named_buffers())

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` with every module, children before their parents; returns ``self``."""
        for module in [*self.modules()][::-1]:
            fn(module)
        return self

    # Saved state

    def _stored(self) -> Iterator[tuple[str, Parameter | Array]]:
        """Parameters and buffers under all their names."""
        for prefix, module in self.named_modules(remove_duplicate=False):
            for name, value in [*module._own_parameters(), *module._own_buffers()]:
                yield _dotted(prefix, name), value

    def state_dict(self) -> dict[str, HostArray]:
        """Copies of all parameters and buffers as NumPy arrays by dotted name; a tied one under each of its names."""
        return {name: np.array(devices.to_host(_array(value))) for name, value in self._stored()}

    def check_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Raise `CheckpointError` with everything that keeps ``state`` from being loaded: see `load_state_dict`."""
        if not isinstance(state, Mapping):
            raise CheckpointError(
                f"expected a dict of arrays by name, got a {type(state).__name__}; lf.load(path, model) reads a file"
            )
        expected = {name: _array(value) for name, value in self._stored()}
        state = {name: _entry(value, expected.get(name)) for name, value in state.items()}
        given = state if strict else {name: state[name] for name in expected if name in state}
        if not strict:
            expected = {name: expected[name] for name in given}
        found = differences(expected, given)
        found += [f"{name}: is read-only here" for name, value in expected.items() if _is_read_only(value)]
        raise_differences(type(self).__name__, found or self._torn_ties(given))

    def _torn_ties(self, state: Mapping[str, Any]) -> list[str]:
        """Entries of one tied parameter that have different values: only one of them could be loaded."""
        first: dict[int, str] = {}
        found = []
        for name, value in self._stored():
            if name in state:
                other = first.setdefault(id(value), name)
                if other != name and not _equal(state[name], state[other]):
                    found.append(f"{name}: is the same parameter as {other}, but the two entries have different values")
        return found

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> IncompatibleKeys:
        """Copy what ``state`` holds into the parameters and buffers of those names: NumPy's arrays, PyTorch's tensors,
        as in ``torch_module.state_dict()``, or lists of numbers.

        Raises `CheckpointError` that lists every missing, unexpected, misshapen or differently typed entry, and
        changes nothing then; an interrupt changes nothing either. With ``strict=False`` names that only one side has
        are left alone, and returned.

        >>> import lazyflow as lf
        >>> model = lf.nn.Linear(3, 2)
        >>> model.load_state_dict({"weight": np.zeros((3, 2), np.float32)})
        Traceback (most recent call last):
        lazyflow.errors.CheckpointError: Linear does not fit, and nothing was changed:
          weight: expected shape (2, 3), got (3, 2)
          bias: missing, expected float32 of shape (2,)
        """
        self.check_state_dict(state, strict=strict)
        stored = dict(self._stored())
        for value in stored.values():
            if isinstance(value, Parameter):
                fibers.refuse_change("a state is loaded", value.version)
        given = {name: _entry(state[name], _array(value)) for name, value in stored.items() if name in state}
        values = {name: _value_for(stored[name], value) for name, value in given.items()}
        _copy_all({name: stored[name] for name in values}, values)
        return IncompatibleKeys(
            [name for name in stored if name not in state], [name for name in state if name not in stored]
        )

    # Modes

    def train(self: Self, mode: bool = True) -> Self:
        """Set ``training`` here and in all modules below, which turns dropout on; returns ``self``."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self: Self) -> Self:
        """``train(False)``."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def requires_grad_(self: Self, flag: bool = True) -> Self:
        """Say whether backward computes gradients for the floating parameters here and below; returns ``self``."""
        for parameter in self.parameters():
            if parameter.dtype.kind == "f":
                parameter.requires_grad = bool(flag)
        return self

    def to(self: Self, device: str) -> Self:
        """Move all parameters and buffers to ``device``; returns ``self``. Raises `DeviceError` if it is not there.

        All of them or, where memory runs out, none."""
        device = devices.canonical(device)
        copies = [
            (parameter, parameter.copies(device)) for parameter in self.parameters() if parameter.device != device
        ]
        buffers = [
            (module, name, devices.to_device(array, device))
            for module in self.modules()
            for name, array in module._own_buffers()
        ]
        for parameter, (array, gradient) in copies:
            parameter.place(array, gradient)
        for module, name, array in buffers:
            module.__dict__[name] = array
        return self

    # Hooks

    def _register(self, kind: str, hook: Hook) -> HookHandle:
        found = self._hooks or hooks.ModuleHooks()
        handle = hooks.ModuleHookHandle(self, found, kind, hook)
        self._hooks = found
        return handle

    def register_forward_pre_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(module, args)`` before every forward; what it returns, if not None, takes the arguments' place:
        a tuple, or the only one. Returns a handle with ``remove()``.

        >>> import lazyflow as lf
        >>> layer = lf.nn.Identity()
        >>> handle = layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        >>> layer(1)
        2
        """
        return self._register("forward_pre", hook)

    def register_forward_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(module, args, output)`` after every forward; what it returns, if not None, takes the output's
        place. Returns a handle with ``remove()``."""
        return self._register("forward", hook)

    def register_full_backward_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(module, grad_input, grad_output)`` when gradients have come back through a call of the module.

        Both are tuples of arrays, one for each positional argument and output, None where there is no gradient. A
        tuple that the hook returns takes the place of ``grad_input``; a backward raises `ShapeError` where it does not
        fit. The module must return an expression, or a tuple or list of them (``TypeError``). Returns a handle with
        ``remove()``.

        >>> import lazyflow as lf
        >>> layer, seen = lf.nn.Linear(2, 3), []
        >>> handle = layer.register_full_backward_hook(lambda module, *gradients: seen.append(gradients))
        >>> lf.sum(layer(lf.Parameter([1.0, 2.0]))).backward()
        >>> [(grad_input[0].shape, grad_output[0].tolist()) for grad_input, grad_output in seen]
        [((2,), [1.0, 1.0, 1.0])]
        """
        return self._register("full_backward", hook)

    # Printing

    def extra_repr(self) -> str:
        """What stands in the parentheses when the module is printed; for subclasses to define."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        head, extra = type(self).__name__, self.extra_repr()
        if not lines:
            return f"{head}({extra})"
        return "\n  ".join([f"{head}({extra}", *lines]) + "\n)"


_PARTS = Parameter, Module


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _check_name(name: str) -> None:
    if not name or "." in name:
        raise ValueError(f"the name of a parameter, buffer or module must not be empty or have a dot, got {name!r}")


def _is_plain_array(value: Any) -> bool:
    return not isinstance(value, Expr) and (isinstance(value, np.ndarray) or devices.is_on_gpu(value))


def _own_array(array: Any) -> Array:
    """A copy on the default device."""
    given = array if devices.is_on_gpu(array) else np.asarray(array)
    if given.dtype.kind not in "biuf":
        raise DTypeError(f"a buffer is an array of numbers, got {given.dtype} from a {type(array).__name__}")
    return devices.copied(given, settings.current().device)


def _array(value: Parameter | Array) -> Array:
    return value.stored() if isinstance(value, Parameter) else value


def _is_read_only(array: Array) -> bool:
    return isinstance(array, np.ndarray) and not array.flags.writeable


def _equal(a: Any, b: Any) -> bool:
    return np.array_equal(devices.to_host(a), devices.to_host(b), equal_nan=True)


def _entry(value: Any, like: Array | None) -> Any:
    """An entry of a state as an array, where it is a tensor, an expression, or a list of numbers."""
    if isinstance(value, Expr):
        return value.numpy()
    if isinstance(value, list | tuple | int | float) and like is not None:
        try:
            return np.asarray(value, like.dtype)
        except (TypeError, ValueError, OverflowError):
            return value
    return own_array(value.detach() if hasattr(value, "requires_grad") else value)


def _value_for(target: Parameter | Array, value: Any) -> Array:
    """``value`` as an array on the device of ``target``: whatever can fail, fails before anything is assigned."""
    return devices.to_device(value, devices.device_of(_array(target)))


def _copy_all(targets: Mapping[str, Parameter | Array], values: Mapping[str, Array]) -> None:
    """Copy all of the values in, or none."""
    before = {name: devices.copied(_array(t), devices.device_of(_array(t))) for name, t in targets.items()}
    try:
        for name, value in values.items():
            _copy_into(targets[name], value)
    except BaseException:
        for name, value in before.items():
            _copy_into(targets[name], value)
        raise


def _copy_into(target: Parameter | Array, value: Array) -> None:
    array = _array(target)
    with devices.on(devices.device_of(array)):
        array[...] = value
    if isinstance(target, Parameter):
        target.touch()

"""Weight normalisation of a module's parameter: its direction and its length are trained in its place."""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

import numpy as np

from lazyflow.errors import GradientError
from lazyflow.nn.functional.maps import weight_norm as normalised
from lazyflow.nn.functional.maps import weight_norm_axes
from lazyflow.nn.module import Module
from lazyflow.record.expr import Expr, Parameter, handle, note_change
from lazyflow.record.tape import current_tape

__all__ = ["remove_weight_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


class _WeightNorm:
    """The hooks that compute the weight before a forward, once for all calls that are recorded on one tape under one
    value, and take it away behind it, so that nothing keeps the tape alive and the module can be copied."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, dim
        self.place: tuple[Any, int, Any] | None = None
        self.value: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _WeightNorm, (self.name, self.dim)

    def __call__(self, module: Any, args: tuple[Any, ...]) -> None:
        own = module.__dict__
        v, g = own[self.name + "_v"], own[self.name + "_g"]
        v.notice()
        g.notice()
        value = v.version, v.requires_grad, g.version, g.requires_grad
        weight = self._known() if value == self.value else None
        if weight is None:
            weight = normalised(v, g, self.dim)
            self.place, self.value = (weakref.ref(weight.tape), weight.row, weight.type), value
        own[self.name] = weight

    def _known(self) -> Expr | None:
        tape = None if self.place is None else self.place[0]()
        if self.place is None or tape is None or tape is not current_tape():
            return None
        return handle(tape, *self.place[1:])

    def after(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """The hook behind a forward."""
        module.__dict__.pop(self.name, None)


def _hooks(module: Module, name: str) -> list[Any]:
    found = module._hooks.forward_pre if module._hooks is not None else []
    hooks = [getattr(entry, "hook", None) for entry in found]
    return [hook for hook in hooks if isinstance(hook, _WeightNorm) and hook.name == name]


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Replace the parameter ``name`` of ``module`` by ``name_v``, its direction, and ``name_g``, its length, from which
    it is computed at every call (Salimans and Kingma 2016); returns ``module``.

    ``dim`` as in `functional.weight_norm`. All calls of a minibatch share one product. The module computes what it did
    before. As every module with a hook, it cannot be called within a `lazyflow.cell`. Raises ``ValueError`` where there
    is no parameter of this name, `ShapeError` for an axis that is not there, `GradientError` where a slice is zero and
    so has no direction.

    >>> import lazyflow as lf
    >>> layer = lf.nn.weight_norm(lf.nn.Linear(3, 2))
    >>> [(n, p.shape) for n, p in layer.named_parameters()]
    [('bias', (2,)), ('weight_v', (2, 3)), ('weight_g', (2, 1))]
    """
    parameter = module.__dict__.get(name)
    if not isinstance(parameter, Parameter):
        raise ValueError(f"weight_norm: {type(module).__name__} has no parameter {name!r} of its own")
    axes = weight_norm_axes(parameter, dim)
    value = parameter.numpy()
    length = np.sqrt((value * value).sum(axis=axes, keepdims=True))
    if not length.all():
        raise GradientError(f"weight_norm: a slice of {name!r} is zero and has no direction; initialise it first")
    delattr(module, name)
    setattr(module, name + "_v", Parameter(value))
    setattr(module, name + "_g", Parameter(length))
    hook = _WeightNorm(name, dim)
    module.register_forward_pre_hook(hook)
    module.register_forward_hook(hook.after)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Make ``name`` a parameter again, of the value it has now; returns ``module``.

    Raises ``ValueError`` where `weight_norm` was not applied.

    >>> import lazyflow as lf
    >>> layer = lf.nn.remove_weight_norm(lf.nn.weight_norm(lf.nn.Linear(3, 2)))
    >>> [n for n, _ in layer.named_parameters()]
    ['bias', 'weight']
    """
    found = _hooks(module, name)
    if not found:
        raise ValueError(f"remove_weight_norm: {type(module).__name__} has no weight norm on {name!r}")
    own = module.__dict__
    value = normalised(own[name + "_v"], own[name + "_g"], found[0].dim).numpy()
    own.pop(name, None)  # there after a forward that failed
    delattr(module, name + "_v")
    delattr(module, name + "_g")
    setattr(module, name, Parameter(value))
    assert module._hooks is not None
    for kind, hook in ((module._hooks.forward_pre, found[0]), (module._hooks.forward, found[0].after)):
        kind[:] = [entry for entry in kind if getattr(entry, "hook", None) != hook]
    note_change()
    return module

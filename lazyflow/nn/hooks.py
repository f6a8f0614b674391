"""Hooks on modules: before a forward, after it, and when gradients have come back through it.

A backward hook needs gradients at both ends of a module, all those of one end at once. So the inputs go through a node
of their own before the module sees them, and the outputs when it is done; several of one end are joined into one
vector, whose gradient is complete when all of theirs are. Without hooks a module costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazyflow import device as devices
from lazyflow.errors import CellError, GradientError, ShapeError
from lazyflow.functions.shape import concatenate
from lazyflow.hooks import Hook, HookHandle, checked_answer, name_of
from lazyflow.ops import OPS
from lazyflow.record.expr import Expr, record
from lazyflow.record.tape import current_tape

Array = Any
Gradients = tuple[Array | None, ...]


@dataclass
class ModuleHooks:
    """The hooks of one module, in the order in which they were registered."""

    forward_pre: list[Hook] = field(default_factory=list)
    forward: list[Hook] = field(default_factory=list)
    full_backward: list[Hook] = field(default_factory=list)


class ModuleHookHandle(HookHandle):
    """A module whose last hook is removed is as it was before the first: its attribute says so, which cells watch."""

    def __init__(self, module: Any, hooks: ModuleHooks, kind: str, hook: Hook) -> None:
        super().__init__(getattr(hooks, kind), hook)
        self._module, self._all = module, hooks

    def remove(self) -> None:
        """Call the hook no more; a second time changes nothing."""
        super().remove()
        rest = self._all.forward_pre or self._all.forward or self._all.full_backward
        if not rest and self._module._hooks is self._all:
            self._module._hooks = None


def call(module: Any, hooks: ModuleHooks, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``module.forward`` with all hooks around it."""
    body = current_tape().body
    if body is not None:
        raise CellError(
            f"{type(module).__name__} has hooks, which the {body.name} would call once and not for every call: "
            "remove them, or leave lf.cell off"
        )
    for hook in list(hooks.forward_pre):
        changed = hook(module, args)
        if changed is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
    crossing = _Crossing(module, hooks.full_backward) if hooks.full_backward else None
    output = module.forward(*(args if crossing is None else crossing.enter(args)), **kwargs)
    for hook in list(hooks.forward):
        changed = hook(module, args, output)
        output = output if changed is None else changed
    return output if crossing is None else crossing.leave(output)


class _Crossing:
    """One call of a module with backward hooks: the gradients of its outputs, until those of its inputs come."""

    def __init__(self, module: Any, hooks: list[Hook]) -> None:
        self.module, self.hooks = module, hooks
        self.inputs = 0
        self.wanted: list[int] = []
        self.grad_output: Gradients = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, those with a gradient by way of a node that hands it to the hooks."""
        self.inputs, self.wanted = len(args), _differentiable(args)
        passed = _through_one_node([args[i] for i in self.wanted], self._came_to_the_inputs)
        return _replaced(args, self.wanted, passed)

    def leave(self, output: Any) -> Any:
        """The outputs by way of a node that notes their gradients."""
        if not isinstance(output, Expr | tuple | list):
            raise TypeError(
                f"{type(self.module).__name__} has a backward hook and must return an expression, or a tuple or list "
                f"of them, got a {type(output).__name__}"
            )
        outputs = (output,) if isinstance(output, Expr) else tuple(output)
        wanted = _differentiable(outputs)

        def came(gradients: Sequence[Array]) -> None:
            self.grad_output = _replaced((None,) * len(outputs), wanted, gradients)
            if not self.wanted:
                self._call_hooks((None,) * self.inputs)

        passed = _replaced(outputs, wanted, _through_one_node([outputs[i] for i in wanted], came))
        return passed[0] if isinstance(output, Expr) else type(output)(passed)

    def _came_to_the_inputs(self, gradients: Sequence[Array]) -> Sequence[Array]:
        found = self._call_hooks(_replaced((None,) * self.inputs, self.wanted, gradients))
        return [found[i] for i in self.wanted]

    def _call_hooks(self, grad_input: Gradients) -> Gradients:
        for hook in list(self.hooks):
            answer = hook(self.module, grad_input, self.grad_output)
            if answer is not None:
                grad_input = _answered(hook, answer, grad_input)
        return grad_input


def _answered(hook: Hook, answer: Any, grad_input: Gradients) -> Gradients:
    """What a hook returned in place of the inputs' gradients, each checked; None leaves one as it is."""
    given = answer if isinstance(answer, tuple | list) else (answer,)
    if len(given) != len(grad_input):
        name = name_of(hook)
        raise ShapeError(f"the hook {name} must return {len(grad_input)} gradients, one an input, got {len(given)}")
    pairs = zip(given, grad_input, strict=True)
    return tuple(old if new is None or old is None else checked_answer(hook, new, old) for new, old in pairs)


def _differentiable(values: Sequence[Any]) -> list[int]:
    return [i for i, value in enumerate(values) if isinstance(value, Expr) and value.requires_grad]


def _replaced(values: Sequence[Any], positions: Sequence[int], others: Sequence[Any]) -> tuple[Any, ...]:
    new = list(values)
    for position, other in zip(positions, others, strict=True):
        new[position] = other
    return tuple(new)


def _through_one_node(values: list[Expr], came: Callable[[Sequence[Array]], Any]) -> list[Expr]:
    """The values by way of one node, at which ``came`` is called with all of their gradients, and may replace them."""
    if not values:
        return []
    if len({v.dtype for v in values}) > 1:
        dtypes = " and ".join(sorted({str(v.dtype) for v in values}))
        raise GradientError(f"a module with a backward hook takes and returns values of one dtype, got {dtypes}")
    ends = np.cumsum([v.size for v in values]).tolist()
    starts = [0, *ends[:-1]]
    shapes = [v.shape for v in values]

    def split(whole: Any) -> list[Any]:
        return [whole[a:b].reshape(shape) for a, b, shape in zip(starts, ends, shapes, strict=True)]

    def hook(gradient: Array) -> Array | None:
        answer = came(split(gradient.reshape(-1)))
        if answer is None:
            return None
        return devices.module(gradient).concatenate([part.reshape(-1) for part in answer]).reshape(gradient.shape)

    node = record(OPS["identity"], (values[0],)) if len(values) == 1 else concatenate([v.reshape(-1) for v in values])
    node.register_hook(hook)
    return [node] if len(values) == 1 else split(node)

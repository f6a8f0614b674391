# cython: auto_pickle=False
"""The call of a module: its ``forward``, with hooks around it where it has some.

Compiled as it stands, where there was a compiler, so that calling a layer costs what calling its method does.
"""

from __future__ import annotations

from typing import Any

from lazyflow.nn import hooks

__all__ = ["Called"]


class Called:
    """What is called by its ``forward``. ``_hooks``: those of this object, or None."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the hooks and ``forward``."""
        module: Any = self
        try:
            if module._hooks is None:
                if not kwargs:  # as most often, and without a dict it is a quarter less
                    return module.forward(args[0]) if len(args) == 1 else module.forward(*args)
                return module.forward(*args, **kwargs)
        except TypeError as error:
            misfit = _of_class(module, error)
            if misfit is None:
                raise
            raise misfit from None
        return hooks.call(module, module._hooks, args, kwargs)


def _of_class(module: Any, error: TypeError) -> TypeError | None:
    """Of arguments that an inherited ``forward`` does not take, the error with the name of the module's own class."""
    name, defined = f"{type(module).__name__}.forward()", getattr(module.forward, "__qualname__", "") + "()"
    deeper = error.__traceback__ is not None and error.__traceback__.tb_next is not None
    if deeper or name == defined or not str(error).startswith(defined):
        return None
    return TypeError(name + str(error)[len(defined) :])

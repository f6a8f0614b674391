"""Modules that hold modules: in a row, in a list, in a dict."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from lazyflow.nn.module import Module
from lazyflow.nn.one_node import one_node
from lazyflow.record.expr import note_change

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Listed(Module):
    """What a list of modules and a sequence of them share. The names of the items are their positions."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__()
        self._items: list[Any] = []
        self.extend(items)

    def _checked(self, item: Any) -> Any:
        raise NotImplementedError

    def _alike(self, items: list[Any]) -> _Listed:
        raise NotImplementedError

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from super().named_children()
        yield from [(str(i), item) for i, item in enumerate(self._items) if isinstance(item, Module)]

    def append(self, item: Any) -> None:
        """Add ``item`` at the end."""
        note_change()
        self._items.append(self._checked(item))
        note_change()

    def extend(self, items: Iterable[Any]) -> None:
        """Add all ``items`` at the end."""
        note_change()
        self._items.extend([self._checked(item) for item in items])
        note_change()

    def insert(self, position: int, item: Any) -> None:
        """Put ``item`` before ``position``; the names of those behind it grow by one."""
        note_change()
        self._items.insert(position, self._checked(item))
        note_change()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __getitem__(self, key: Any) -> Any:
        return self._alike(self._items[key]) if isinstance(key, slice) else self._items[key]

    def __setitem__(self, position: int, item: Any) -> None:
        note_change()
        self._items[position] = self._checked(item)
        note_change()

    def __delitem__(self, key: Any) -> None:
        note_change()
        del self._items[key]
        note_change()


class ModuleList(_Listed):
    """A list of modules, registered under their positions. Raises ``TypeError`` for an item that is no module.

    >>> from lazyflow import nn
    >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    >>> len(layers), [name for name, _ in layers[:1].named_parameters()]
    (3, ['0.weight', '0.bias'])
    """

    quiet = True

    def _checked(self, item: Any) -> Module:
        if not isinstance(item, Module):
            raise TypeError(f"a ModuleList holds modules, got a {type(item).__name__}")
        self._adopt("item", item)
        return item

    def _alike(self, items: list[Any]) -> ModuleList:
        return ModuleList(items)


class Sequential(_Listed):
    """Modules and plain functions, each applied to what the one before gave; an empty one is the identity.

    Several of the library's own, such as `Linear`, activations, `LayerNorm` and `Dropout`, are recorded as one node, as
    by a `lazyflow.cell`, while none of them has hooks.

    Functions take a position, and so a number in the names, like modules. Raises ``TypeError`` for what cannot be
    called.

    >>> import lazyflow as lf
    >>> from lazyflow import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), lf.tanh, nn.Linear(8, 3))
    >>> model(lf.constant([1.0, 2.0, 3.0, 4.0])).shape, [name for name, _ in model.named_parameters()]
    ((3,), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    quiet = True

    def __init__(self, *items: Any) -> None:
        super().__init__(items)

    def _checked(self, item: Any) -> Any:
        if not callable(item):
            raise TypeError(f"a Sequential holds modules and functions, got a {type(item).__name__}")
        if isinstance(item, Module):
            self._adopt("item", item)
        elif not isinstance(item, type) and callable(getattr(item, "parameters", None)):
            kind = type(item)
            raise TypeError(
                f"a Sequential holds lazyflow's modules and functions, got a {kind.__module__}.{kind.__name__}, whose "
                "parameters would not be trained"
            )
        return item

    def _alike(self, items: list[Any]) -> Sequential:
        return Sequential(*items)

    def forward(self, x: Any) -> Any:
        """``x`` through all items in order."""
        return self._joined(x) if len(self._items) > 1 else self._in_order(x)

    @one_node
    def _joined(self, x: Any) -> Any:
        return self._in_order(x)

    def _in_order(self, x: Any) -> Any:
        for item in self._items:
            x = item(x)
        return x


class ModuleDict(Module):
    """Modules by name. Raises ``TypeError`` for a value that is no module, ``ValueError`` for a name that is empty or
    has a dot.

    >>> from lazyflow import nn
    >>> heads = nn.ModuleDict({"tag": nn.Linear(4, 9), "chunk": nn.Linear(4, 3)})
    >>> heads["tag"].out_features, list(heads)
    (9, ['tag', 'chunk'])
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self._items: dict[str, Any] = {}
        self.update(modules)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from super().named_children()
        yield from list(self._items.items())

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace several."""
        for name, module in dict(modules).items():
            self[name] = module

    def pop(self, name: str) -> Any:
        """Remove a module and return it."""
        note_change()
        found = self._items.pop(name)
        note_change()
        return found

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._items.keys()

    def values(self) -> ValuesView[Any]:
        """The modules."""
        return self._items.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and modules."""
        return self._items.items()

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(name, str) or not isinstance(module, Module):
            raise TypeError(f"a ModuleDict holds modules by string, got a {type(module).__name__} under {name!r}")
        self._adopt(name, module)
        note_change()
        self._items[name] = module
        note_change()

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __delitem__(self, name: str) -> None:
        note_change()
        del self._items[name]
        note_change()

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

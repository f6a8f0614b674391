"""Nested dicts, lists and tuples of values: their leaves in a fixed order, and the same structure with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Path = str


def leaves(tree: object, path: Path = "") -> Iterator[tuple[Path, Any]]:
    """The leaves and where they stand, dict entries in the order of the dict.

    >>> list(leaves({"w": [1.0, (2.0,)]}, "x"))
    [("x['w'][0]", 1.0), ("x['w'][1][0]", 2.0)]
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, tree


def rebuilt(tree: object, values: Iterator[object]) -> Any:
    """The structure of ``tree`` with the next values for leaves.

    >>> rebuilt({"w": [1.0, (2.0,)]}, iter("ab"))
    {'w': ['a', ('b',)]}
    """
    if isinstance(tree, Mapping):
        return {key: rebuilt(value, values) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(rebuilt(value, values) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(rebuilt(value, values) for value in tree)
    return next(values)


def mapped(function: Callable[[Any], object], tree: object) -> Any:
    """The same structure with ``function`` of every leaf.

    >>> mapped(lambda x: x + 1, [1, {"a": 2}])
    [2, {'a': 3}]
    """
    return rebuilt(tree, iter([function(leaf) for _, leaf in leaves(tree)]))

"""How the package is laid out: rooms, the arrows between them, long functions. ``python -m benchmarks.house [FOLDER]``.

A room is a folder of the package, or a file that is in none. Nothing is imported: it reads the source, of any version.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIBRARY = {"nn", "optim", "data", "train", "numpy", "functions", "ops", "inspect", "io", "state", "compare", "compared"}
LIBRARY |= {"unchanged", "explain", "info", "__main__", "__init__", "version"}
LONG, WIDE, LARGE = 45, 8, 250  # lines of a function, its parameters, lines of a class
Definition = ast.FunctionDef | ast.ClassDef


class File(NamedTuple):
    """One file of the package: its name, its room, and its source."""

    name: str
    room: str
    tree: ast.Module


def files(folder: Path) -> list[File]:
    """The files of a package, but for its own ``__init__``."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts != ("__init__",):
            name = ".".join(parts).removesuffix(".__init__")
            found.append(File(name, parts[0], ast.parse(path.read_text(encoding="utf-8"))))
    return found


def arrows(some: list[File]) -> set[tuple[str, str]]:
    """From which room to which another one there is an import."""
    names = {file.name: file.room for file in some}
    return {
        (file.room, names[target])
        for file in some
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lazyflow"
        for target in _targets(node, names)
        if names[target] != file.room
    }


def _targets(node: ast.ImportFrom, names: dict[str, str]) -> Iterator[str]:
    base = (node.module or "").removeprefix("lazyflow").removeprefix(".")
    for alias in node.names:
        inner = f"{base}.{alias.name}".removeprefix(".")
        found = inner if inner in names else base
        if found in names:
            yield found


def floors(edges: set[tuple[str, str]]) -> int:
    """How many rooms stand above each other at the most; rooms that import each other count once."""
    below: dict[str, set[str]] = {}
    for room, other in edges:
        below.setdefault(room, set()).add(other)

    def height(room: str, seen: frozenset[str]) -> int:
        others = [height(other, seen | {room}) for other in below.get(room, ()) if other not in seen]
        return 1 + max(others, default=0)

    known: dict[str, int] = {}
    for room in sorted(below, key=lambda r: len(below[r])):
        known[room] = height(room, frozenset())
    return max(known.values(), default=1)


def defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module defines at its own level."""
    for node in tree.body:
        if isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (t.id for t in targets if isinstance(t, ast.Name) and not t.id.startswith("__"))


def length(node: Definition) -> int:
    """Lines of a function or a class without its docstring."""
    first = node.body[0]
    text = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) and first.end_lineno else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - text


def counts(folder: Path) -> dict[str, int]:
    """What there is to count of a package."""
    every = files(folder)
    engine = [file for file in every if file.room not in LIBRARY]
    nodes = [node for file in engine for node in ast.walk(file.tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    wide = [
        f
        for f in functions
        if len(f.args.args) + len(f.args.kwonlyargs) - (bool(f.args.args) and f.args.args[0].arg in ("self", "cls"))
        > WIDE
    ]
    twice = Counter(name for file in engine for name in set(defined(file.tree)))
    edges = arrows(every)
    return {
        "rooms": len({file.room for file in every}),
        "floors": floors(edges),
        "arrows between rooms": len(edges),
        f"functions of the engine of more than {LONG} lines": sum(length(f) > LONG for f in functions),
        f"of more than {WIDE} parameters": len(wide),
        f"classes of more than {LARGE} lines": sum(length(n) > LARGE for n in nodes if isinstance(n, ast.ClassDef)),
        "names defined in two of its files": sum(n > 1 for n in twice.values()),
        "mentions of Any": sum(isinstance(n, ast.Name) and n.id == "Any" for n in nodes),
        "lines of the engine": sum(file.tree.body[-1].end_lineno or 0 for file in engine if file.tree.body),
    }


if __name__ == "__main__":
    for what, count in counts(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "lazyflow").items():
        print(f"{what:52}{count:8,}")

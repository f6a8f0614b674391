"""How the package is laid out: rooms, the arrows between them, long functions; a column for each folder that is given.
``python -m benchmarks.house [FOLDER ...]``

A room is a folder of the package, or a file that is in none. Nothing is imported: it reads the source, of any version.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIBRARY = {"nn", "optim", "data", "train", "numpy", "io", "state"}  # the engine is the rest
LONG, WIDE, LARGE = 45, 8, 250  # lines of a function, its parameters, lines of a class
FORMS = ({"loops", "jit"}, {"core.arrays", "passes"})  # the two forms of a pass, then and now
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
            continue
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        names = [n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)]
        yield from [name for name in names if not name.startswith("__")]


def twice(some: list[File]) -> dict[str, set[str]]:
    """The names that are defined in two files or more, but for the two forms of a pass."""
    found: dict[str, set[str]] = {}
    for file in some:
        for name in defined(file.tree):
            found.setdefault(name, set()).add(file.name)
    return {name: where for name, where in found.items() if len(where) > 1 and where not in FORMS}


def length(node: Definition) -> int:
    """Lines of a function or a class without docstrings."""
    documented = [n for n in ast.walk(node) if isinstance(n, Definition) and ast.get_docstring(n)]
    texts = [n.body[0] for n in documented]
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    return lines - sum((text.end_lineno or text.lineno) - text.lineno + 1 for text in texts)


def parameters(function: ast.FunctionDef) -> int:
    """How many a function has; self is none, and ``*args`` is one."""
    given = function.args
    plain = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    own = bool(plain) and plain[0].arg in ("self", "cls")
    return len(plain) - own + bool(given.vararg) + bool(given.kwarg)


def compiled(folder: Path) -> int:
    """Lines of Cython and C that are written by hand: not what Cython has made of a file beside it."""
    sources = [path for path in folder.rglob("*") if path.suffix in (".pyx", ".c", ".h")]
    made = [
        path
        for path in sources
        if path.suffix == ".c" and (path.with_suffix(".pyx").exists() or path.with_suffix(".py").exists())
    ]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources if path not in made)


def counts(folder: Path) -> dict[str, int]:
    """What there is to count of a package."""
    every = files(folder)
    engine = [file for file in every if file.room not in LIBRARY]
    nodes = [node for file in engine for node in ast.walk(file.tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    names, edges = twice(engine), arrows(every)
    return {
        "rooms": len({file.room for file in every}),
        "floors": floors(edges),
        "arrows between rooms": len(edges),
        f"functions of the engine of more than {LONG} lines": sum(length(f) > LONG for f in functions),
        f"of more than {WIDE} parameters": sum(parameters(f) > WIDE for f in functions),
        f"classes of more than {LARGE} lines": sum(length(n) > LARGE for n in nodes if isinstance(n, ast.ClassDef)),
        "public names defined in two of its files": sum(not name.startswith("_") for name in names),
        "private ones": sum(name.startswith("_") for name in names),
        "mentions of Any": sum(isinstance(n, ast.Name) and n.id == "Any" for n in nodes),
        "lines of the engine in Python": sum(file.tree.body[-1].end_lineno or 0 for file in engine if file.tree.body),
        "in Cython and C": compiled(folder),
    }


if __name__ == "__main__":
    columns = [counts(Path(folder)) for folder in sys.argv[1:] or [Path(__file__).parents[1] / "lazyflow"]]
    for what in columns[0]:
        print(f"{what:52}" + "".join(f"{column[what]:9,}" for column in columns))

"""One word, one meaning: what holds of every file of the engine."""

import ast
from collections import defaultdict
from pathlib import Path

import lazyflow
from tests.conftest import HOST

TESTS = Path(__file__).parent
ROOT = Path(lazyflow.__file__).parent
LIBRARY = ("nn", "optim", "data", "train", "numpy", "io.py", "state.py")
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py" and path.relative_to(ROOT).parts[0] not in LIBRARY
}


def names_in(statement):
    """What a statement at module level defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return [n.id for target in targets if target is not None for n in ast.walk(target) if isinstance(n, ast.Name)]


FORMS = {"core/arrays.py", "passes.py"}  # the two forms of a pass


def test_a_name_is_defined_in_one_file():
    found = defaultdict(set)
    for path, tree in TREES.items():
        for statement in tree.body:
            for name in names_in(statement):
                found[name].add(path.as_posix())
    del found["__all__"]
    assert not {name: files for name, files in found.items() if len(files) > 1 and files != FORMS}


# At most, and what has more. `Expr` holds the operators, and `compare` is public.
LINES, PARAMETERS, CLASS_LINES = 45, 8, 250
LONG: set[tuple[str, str]] = set()
WIDE = {("inspect/compare.py", "compare")}
LARGE = {("record/expr.py", "Expr")}


def lines_of(node):
    """Without docstrings."""
    documented = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(n)]
    texts = [n.body[0] for n in documented]
    return node.end_lineno - node.lineno + 1 - sum(text.end_lineno - text.lineno + 1 for text in texts)


def parameters_of(function):
    given = function.args
    plain = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return len(plain) + bool(given.vararg) + bool(given.kwarg)


def nodes(kind):
    return [(path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)]


def test_functions_are_short():
    functions = [(p.as_posix(), f) for p, f in nodes(ast.FunctionDef)]
    assert {(p, f.name) for p, f in functions if lines_of(f) > LINES} <= LONG
    assert {(p, f.name) for p, f in functions if parameters_of(f) > PARAMETERS} <= WIDE


def test_classes_are_short():
    assert {(p.as_posix(), c.name) for p, c in nodes(ast.ClassDef) if lines_of(c) > CLASS_LINES} <= LARGE


# What has no tests of its own, and why.
WITHOUT_NAMESAKE = {
    "cells/steps.py": "records alone, which program.py makes and values.py reads",
    "version.py": "a text",
}


def test_every_file_of_the_engine_has_its_tests_at_the_same_place():
    """Of ``graph/joined.py`` they are ``tests/graph/test_joined.py``; files that are compiled alone count as well."""
    compiled = {path.relative_to(ROOT).with_suffix(".py") for path in ROOT.rglob("*.pyx")}
    files = {path.as_posix(): path for path in {*TREES, *compiled} if path.name != "__init__.py"}
    namesakes = {name: TESTS / path.parent / f"test_{path.stem.strip('_')}.py" for name, path in files.items()}
    assert {name for name, path in namesakes.items() if not path.exists()} == set(WITHOUT_NAMESAKE)


def test_what_stays_on_the_cpu_is_there():
    assert not [name for name in HOST if not (TESTS / name).exists()]


def test_no_file_imports_what_is_private_to_another():
    imported = [(path.as_posix(), alias.name) for path, node in nodes(ast.ImportFrom) for alias in node.names]
    private = [(path, name) for path, name in imported if name.startswith("_") and not name.startswith("__")]
    assert not private

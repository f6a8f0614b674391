"""The examples in the docstrings of modules that are compiled: pytest collects those of sources alone."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import lazyflow
from lazyflow.record import expr

FOLDER = Path(lazyflow.__file__).parent
SOURCES = [types.relative_to(FOLDER.parent).with_suffix("") for types in sorted(FOLDER.rglob("*.pxd"))]
COMPILED = [importlib.import_module(".".join(source.parts)) for source in SOURCES]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def documented(module):
    """The docstrings that have examples, by the names of what they describe."""
    text = (FOLDER.parent / f"{module.__name__.replace('.', '/')}.py").read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ">>>" in (ast.get_docstring(node) or ""):
            yield pytest.param(module, ast.get_docstring(node), id=f"{module.__name__}.{node.name}")


@pytest.mark.parametrize(("module", "text"), [row for module in COMPILED for row in documented(module)])
def test_examples(module, text):
    names = {**vars(module), "__name__": "__main__"}
    test = doctest.DocTestParser().get_doctest(text, names, module.__name__, None, 0)
    said = []
    found = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert found.attempted and not found.failed, "".join(said)


def test_there_are_examples():
    assert len(list(documented(expr))) > 5

"""One word, one meaning: what holds of every file of the engine."""

import ast
from collections import defaultdict
from pathlib import Path

import lazyflow
from lazyflow.ops import OPS

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


def may_share(name, files):
    """The two forms of a pass, and what computes an operation (its record, or kernel) beside what records it."""
    rooms = {file.partition("/")[0] for file in files}
    of_operation = name in OPS and len(files) == 2 and rooms == {"ops", "functions"}
    return files == {"core/arrays.py", "passes.py"} or of_operation


def test_a_public_name_is_defined_in_one_file():
    found = defaultdict(set)
    for path, tree in TREES.items():
        for statement in tree.body:
            for name in names_in(statement):
                found[name].add(path.as_posix())
    public = {name: files for name, files in found.items() if not name.startswith("_") and name != "__all__"}
    assert not {name: files for name, files in public.items() if len(files) > 1 and not may_share(name, files)}

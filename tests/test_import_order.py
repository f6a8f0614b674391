"""Files import only what stands above them, and only device.py imports CuPy."""

import ast
from pathlib import Path

import pytest

import lazyflow

ROOT = Path(lazyflow.__file__).parent
ORDER = (
    "version",
    "errors",
    "core",
    "device",
    "locks",
    "threads",
    "profile",
    "settings",
    "fibers",
    "hooks",
    "random",
    "cuda",
    "arrays",
    "passes",
    "ops.base",
    "ops.sparse",
    "ops",
    "trace",
    "tape",
    "rows",
    "expr",
    "templates",
    "ways",
    "functions",
    "graph",
    "repeats",
    "joined",
    "schedule",
    "plan",
    "recorded",
    "plans",
    "arena",
    "fuse",
    "steps",
    "lifetimes",
    "program",
    "chains",
    "line",
    "calls",
    "launch",
    "execute",
    "settle",
    "check",
    "sums",
    "backward",
    "engine",
    "numpy",
    "structure",
    "inline",
    "cotangents",
    "inputs",
    "grad",
    "vmap",
    "check_grads",
    "visible",
    "recorder",
    "cell",
    "explain",
    "rounds",
    "map",
    "info",
    "state",
    "io",
    "nn",
    "optim",
    "data",
    "train.checks",
    "train.events",
    "train.engine",
    "train.batch",
    "train.metrics",
    "train.supervised",
    "train.handlers",
    "train.fit",
    "train",
    "compared",
    "unchanged",
    "compare",
    "__main__",
)
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rank(name):
    """The position of the longest entry of `ORDER` that the module's name starts with."""
    fitting = [entry for entry in ORDER if name == entry or name.startswith(entry + ".")]
    assert fitting, f"{name} has no place in the order"
    return ORDER.index(max(fitting, key=len))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield node.module
            if node.module == "lazyflow":
                yield from (f"lazyflow.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_stands_above_it(path):
    mine = rank(name_of(path))
    for module in imports(path):
        if module.startswith("lazyflow."):
            theirs = rank(module.removeprefix("lazyflow."))
            assert theirs <= mine, f"{name_of(path)} imports {module}, which stands below it"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_device_imports_cupy(path):
    found = [m for m in imports(path) if m.split(".")[0] in ("cupy", "cupyx")]
    assert not found or name_of(path) == "device"


def test_the_order_is_that_of_real_files():
    names = {name_of(p) for p in FILES}
    assert all(any(n == entry or n.startswith(entry + ".") for n in names) for entry in ORDER)

"""Files import only what stands above them, and only device.py imports CuPy."""

import ast
from pathlib import Path

import pytest

import lazyflow

ROOT = Path(lazyflow.__file__).parent
# Rooms, and files that are one by themselves, each with its files in their order; without files any order will do.
ROOMS = {
    "version": (), "errors": (), "core": (), "device": (), "locks": (), "threads": (), "profile": (), "settings": (),
    "fibers": (), "hooks": (), "random": (), "cuda": (), "passes": (),
    "ops": ("base", "sparse"),
    "record": ("trace", "tape", "rows", "expr", "frames", "templates"),
    "functions": (),
    "graph": ("reading", "graph", "repeats", "joined"),
    "plan": ("schedule", "plan", "recorded", "plans", "arena"),
    "fuse": (),
    "cells": (
        "steps", "lifetimes", "program", "chains", "line", "values", "phases", "back", "calls", "inline", "ways",
        "visible", "costs", "recorder", "cell",
    ),
    "run": (
        "way", "launch", "execute", "needs", "settle", "sums", "check", "backward", "roots", "forward", "engine",
        "rounds", "map",
    ),
    "numpy": (),
    "derive": ("structure", "cotangents", "inputs", "grad", "vmap", "check_grads"),
    "state": (), "io": (), "nn": (), "optim": (), "data": (),
    "train": ("checks", "events", "engine", "batch", "metrics", "supervised", "handlers", "fit"),
    "inspect": ("explain", "info", "compared", "unchanged", "compare"),
    "__main__": (),
}  # fmt: skip
ORDER = tuple(name for room, files in ROOMS.items() for name in (*(f"{room}.{file}" for file in files), room))
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in FILES}


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
            names = [f"{node.module}.{alias.name}".removeprefix("lazyflow.") for alias in node.names]
            files = [name for name in names if name in NAMES]
            yield from (f"lazyflow.{name}" for name in files)
            if len(files) < len(names):  # something that the package's own file defines
                yield node.module


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

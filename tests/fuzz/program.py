"""Programs as data: lines of Python that run on lazyflow and on the reference alike.

A `Line` is its text and, of a block, the lines inside. Programs are written for the names in `run.environment`: ``lf``,
``np``, what `tests.fuzz.prelude` defines, and the functions that note what is seen of a program.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One statement; ``text`` ends with a colon if there is a ``body``."""

    text: str
    body: tuple[Line, ...] = ()

    def source(self, depth: int = 0) -> str:
        inner = "\n".join(line.source(depth + 1) for line in self.body)
        return "    " * depth + self.text + ("\n" + inner if self.body else "")

    def lines(self) -> Iterator[Line]:
        yield self
        for line in self.body:
            yield from line.lines()


Program = tuple[Line, ...]


def source(program: Program) -> str:
    """The program's text."""
    return "\n".join(line.source() for line in program) + "\n"


def count(program: Program) -> int:
    """How many lines there are, at any depth."""
    return sum(1 for line in program for _ in line.lines())


@functools.lru_cache(maxsize=4096)
def names(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names that a line defines and those that it reads; of a block, those of its first line."""
    tree = ast.parse(text + " pass" if text.endswith(":") else "@f\ndef g(): pass" if text[0] == "@" else text)
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    stored = {n.id for n in found if isinstance(n.ctx, ast.Store)}
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    targets = [c.target for c in ast.walk(tree) if isinstance(c, ast.comprehension)]
    inside = {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    read = {n.id for n in found if isinstance(n.ctx, ast.Load)}
    return frozenset((stored | defined) - inside), frozenset(read - inside)

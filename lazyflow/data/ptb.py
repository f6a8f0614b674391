"""Bracketed trees: sentiment trees ``(3 (2 a) (4 b))`` and those of the Penn Treebank ``(S (NP (DT the) (NN
tea)))``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lazyflow.data.text import StrPath, parse_error, quoted, read_text
from lazyflow.data.tree import Tree

__all__ = ["parse_ptb", "read_ptb_trees"]

# Only these four and the parentheses separate. A no-break space (in three leaves of SST) or any other Unicode space is
# part of a word, so neither str.split() nor \s will do.
_TOKEN = re.compile(r"[()]|[^() \t\r\n]+")

DEEPEST = 1_000_000  # levels of a tree, each of which takes some hundred bytes for one parenthesis of text

_ESCAPES = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}


def read_ptb_trees(path: StrPath, *, label: Callable[[str], Any] = str, unescape: bool = False) -> list[Tree]:
    """All trees of a file (UTF-8, plain or gzipped); see `parse_ptb`.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "dev.txt"
    >>> _ = path.write_text("(3 (2 not) (4 bad))")
    >>> read_ptb_trees(path, label=int)[0].label
    3
    """
    return parse_ptb(read_text(path), name=path, label=label, unescape=unescape)


def parse_ptb(
    text: str, *, name: StrPath = "<text>", label: Callable[[str], Any] = str, unescape: bool = False
) -> list[Tree]:
    """All trees of ``text``, one after another; a tree may take any number of lines.

    A tree is ``(label word)`` or ``(label tree tree ...)``. Separators are the space, the tab, the ends of lines and
    the parentheses, and nothing else. ``label`` is applied to every label (``int`` for sentiment); a missing one, as at
    the top of Penn Treebank files, is the empty string. Words stay as they are, with ``unescape`` ``-LRB-`` becomes
    ``(`` and so on.

    Raises `ParseError`, which names ``name``, line and column, for anything else: an empty tree ``()``, a label without
    a word, a parenthesis that is not closed, text outside of a tree,
    more than a million levels.

    >>> print(*parse_ptb("(S (NP (DT the) (NN tea))\\n   (VP (VBZ is) (JJ hot)))"))
    (S (NP (DT the) (NN tea)) (VP (VBZ is) (JJ hot)))
    >>> parse_ptb("(3 (2 a) ())", name="dev.txt")
    Traceback (most recent call last):
    lazyflow.errors.ParseError: dev.txt:1:11: expected a label, got ')': an empty tree
    """
    parser = _Parser(text, name, label, unescape)
    for match in _TOKEN.finditer(text):
        parser.take(match.group(), match.start())
    return parser.finish()


@dataclass(slots=True)
class _Open:
    """A tree whose closing parenthesis is still to come."""

    offset: int
    label: str | None = None
    word: str | None = None
    children: list[Tree] = field(default_factory=list)


@dataclass(slots=True)
class _Parser:
    text: str
    name: StrPath
    label: Callable[[str], Any]
    unescape: bool
    stack: list[_Open] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)

    def take(self, token: str, offset: int) -> None:
        if token == "(":
            self._open(offset)
        elif token == ")":
            self._close(offset)
        else:
            self._text(token, offset)

    def finish(self) -> list[Tree]:
        if self.stack:
            line, column = str(parse_error("", self.text, self.stack[-1].offset, "")).split(":")[1:3]
            self._fail(len(self.text), f"expected ')' for the '(' of line {line}, column {column}; the text ends")
        return self.trees

    def _open(self, offset: int) -> None:
        if self.stack and self.stack[-1].word is not None:
            self._fail(offset, f"expected ')' after the word {quoted(self.stack[-1].word)}, got '('")
        if len(self.stack) >= DEEPEST:
            self._fail(offset, f"expected a tree of at most {DEEPEST} levels, got one more '('")
        self.stack.append(_Open(offset))

    def _close(self, offset: int) -> None:
        if not self.stack:
            self._fail(offset, "expected '(', got ')' with no tree open")
        node = self.stack.pop()
        if node.word is None and not node.children:
            missing = (
                "a label, got ')': an empty tree"
                if node.label is None
                else f"a word or a tree after the label {quoted(node.label)}, got ')'"
            )
            self._fail(offset, f"expected {missing}")
        (self.stack[-1].children if self.stack else self.trees).append(self._tree(node))

    def _text(self, token: str, offset: int) -> None:
        if not self.stack:
            self._fail(offset, f"expected '(', got {quoted(token)}")
        node = self.stack[-1]
        if node.children or node.word is not None:
            wanted = "'(' or ')' after a tree" if node.children else f"')' after the word {quoted(str(node.word))}"
            self._fail(offset, f"expected {wanted}, got {quoted(token)}")
        if node.label is None:
            node.label = token
        else:
            node.word = _unescaped(token) if self.unescape else token

    def _tree(self, node: _Open) -> Tree:
        text = node.label or ""
        try:
            label = self.label(text)
        except (ValueError, KeyError, ArithmeticError) as error:
            wanted = getattr(self.label, "__name__", repr(self.label))
            self._fail(node.offset + 1, f"expected a label that {wanted} takes, got {quoted(text)} ({str(error)[:80]})")
        return Tree(label, node.children, word=node.word)

    def _fail(self, offset: int, message: str) -> NoReturn:
        raise parse_error(self.name, self.text, offset, message)


def _unescaped(word: str) -> str:
    """The Penn Treebank's spelling undone: brackets have names, slashes and asterisks a backslash."""
    for escape, plain in _ESCAPES.items():
        word = word.replace(escape, plain)
    return word.replace("\\/", "/").replace("\\*", "*")

"""Universal Dependencies: sentences in the CoNLL-U format (https://universaldependencies.org/format.html)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from lazyflow.data.text import StrPath, lines_of, quoted, read_text
from lazyflow.errors import ParseError

__all__ = ["Extra", "Sentence", "Token", "attributes", "parse_conllu", "read_conllu"]

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
LONGEST = 18  # digits of a number
_WORD, _RANGE, _EMPTY = (
    re.compile(r"[1-9][0-9]*"),
    re.compile(r"([1-9][0-9]*)-([1-9][0-9]*)"),
    re.compile(r"[0-9]+\.[1-9][0-9]*"),
)


def attributes(field: str) -> dict[str, str]:
    """The pairs of a ``feats`` or ``misc`` field.

    >>> attributes("Case=Nom|Number=Sing"), attributes("_")
    ({'Case': 'Nom', 'Number': 'Sing'}, {})
    """
    if field == "_":
        return {}
    return {name: value for name, _, value in (pair.partition("=") for pair in field.split("|"))}


@dataclass(frozen=True, slots=True)
class Token:
    """A syntactic word: the ten fields as they stand in the file (``_`` for none), ``id`` and ``head`` as integers.

    ``id`` counts from 1; ``head`` is the id of the head, 0 for the root, None when not annotated.
    """

    id: int
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: int | None
    deprel: str
    deps: str
    misc: str


@dataclass(frozen=True, slots=True)
class Extra:
    """A line that is no syntactic word: a multiword range (``id`` as in "3-4") or an empty node (as in "8.1")."""

    id: str
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: str
    deprel: str
    deps: str
    misc: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """The ``tokens`` of a sentence; beside them its multiword ``ranges``, its ``empty`` nodes and its ``comments``.

    ``len()`` counts the tokens.
    """

    tokens: tuple[Token, ...]
    ranges: tuple[Extra, ...] = ()
    empty: tuple[Extra, ...] = ()
    comments: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """The forms of the tokens."""
        return [token.form for token in self.tokens]

    @property
    def metadata(self) -> dict[str, str]:
        """The comments of the form ``# name = value``, by name."""
        pairs = (comment.removeprefix("#").partition("=") for comment in self.comments)
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}

    def __len__(self) -> int:
        return len(self.tokens)


def read_conllu(path: StrPath) -> list[Sentence]:
    """All sentences of a CoNLL-U file (UTF-8, plain or gzipped); see `parse_conllu`.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "dev.conllu"
    >>> _ = path.write_text("1\\tHello\\thello\\tINTJ\\t_\\t_\\t0\\troot\\t_\\t_\\n\\n")
    >>> read_conllu(path)[0].words
    ['Hello']
    """
    return parse_conllu(read_text(path), name=path)


def parse_conllu(text: str, *, name: StrPath = "<text>") -> list[Sentence]:
    """All sentences of ``text``. Multiword ranges and empty nodes are no tokens; the sentence keeps them apart.

    Raises `ParseError`, which names ``name``, line and column, for a line without ten fields, an empty field, ids that
    do not count 1, 2, 3, ..., and a head that is no id of the sentence. Whether the heads form a tree is not checked.

    >>> sentence, = parse_conllu("# text = Go\\n1\\tGo\\tgo\\tVERB\\tVB\\tMood=Imp\\t0\\troot\\t_\\t_\\n")
    >>> sentence.metadata, sentence.tokens[0].head, attributes(sentence.tokens[0].feats)
    ({'text': 'Go'}, 0, {'Mood': 'Imp'})
    >>> parse_conllu("1\\tGo\\tgo\\tVERB\\tVB\\t_\\t7\\troot\\t_\\t_\\n", name="x.conllu")
    Traceback (most recent call last):
    lazyflow.errors.ParseError: x.conllu:1:19: expected a head from 0 to 1, got 7
    """
    reader = _Reader(name)
    for line in lines_of(text):
        reader.take(line)
    reader.end_sentence()
    return reader.sentences


@dataclass(slots=True)
class _Reader:
    name: StrPath
    sentences: list[Sentence] = field(default_factory=list)
    number: int = 0  # of the line
    tokens: list[Token] = field(default_factory=list)
    heads: list[tuple[int, int]] = field(default_factory=list)  # line and column of every token's head
    ranges: list[Extra] = field(default_factory=list)
    empty: list[Extra] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        self.number += 1
        if not line:
            self.end_sentence()
        elif line.startswith("#"):
            self.comments.append(line)
        else:
            self._row(self._fields(line))

    def end_sentence(self) -> None:
        if not self.tokens:
            if self.comments or self.ranges or self.empty:
                self._fail(1, "expected the words of a sentence after its comments, got none")
            return
        for token, (line, column) in zip(self.tokens, self.heads, strict=True):
            if token.head is not None and token.head > len(self.tokens):
                self._fail(column, f"expected a head from 0 to {len(self.tokens)}, got {token.head}", line)
        self.sentences.append(Sentence(tuple(self.tokens), tuple(self.ranges), tuple(self.empty), tuple(self.comments)))
        self.tokens, self.heads, self.ranges, self.empty, self.comments = [], [], [], [], []

    def _fields(self, line: str) -> list[str]:
        fields = line.split("\t")
        if len(fields) != len(COLUMNS):
            self._fail(len(line) + 1, f"expected {len(COLUMNS)} fields with tabs between them, got {len(fields)}")
        if "" in fields:
            empty = fields.index("")
            column = self._column(fields, empty)
            self._fail(column, f"expected a value or '_' in the field {COLUMNS[empty]!r}, got an empty one")
        return fields

    def _row(self, fields: list[str]) -> None:
        if _WORD.fullmatch(fields[0]):
            self._token(fields)
        elif _RANGE.fullmatch(fields[0]):
            self.ranges.append(Extra(*fields))
        elif _EMPTY.fullmatch(fields[0]):
            self.empty.append(Extra(*fields))
        else:
            self._fail(1, f"expected an id as in 3, 3-4 or 3.1, got {quoted(fields[0])}")

    def _token(self, fields: list[str]) -> None:
        number = len(self.tokens) + 1
        if fields[0] != str(number):
            self._fail(1, f"expected the id {number}, got {quoted(fields[0])[1:-1]}")
        head, column = fields[6], self._column(fields, 6)
        if head != "_" and not (head.isascii() and head.isdigit() and len(head) <= LONGEST):
            self._fail(column, f"expected a head, an integer or '_', got {quoted(head)}")
        self.heads.append((self.number, column))
        _, form, lemma, upos, xpos, feats, _, deprel, deps, misc = fields
        parent = None if head == "_" else int(head)
        self.tokens.append(Token(number, form, lemma, upos, xpos, feats, parent, deprel, deps, misc))

    def _column(self, fields: list[str], index: int) -> int:
        return sum(len(field) + 1 for field in fields[:index]) + 1

    def _fail(self, column: int, message: str, line: int = 0) -> NoReturn:
        raise ParseError(f"{self.name}:{line or self.number}:{column}: {message}")

"""Bracketed trees: what is read, and where what cannot be read went wrong."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.data import parse_ptb, read_ptb_trees
from lazyflow.errors import ParseError

SENTIMENT = "(3 (2 It) (4 (2 's) (4 good)))\n(0 (2 no) (1 fun))\n"
TREEBANK = """(ROOT
  (S
    (NP-SBJ (PRP It))
    (VP (VBZ is)
\t(ADJP (JJ good)))
    (. .)))

( (NP (-LRB- -LRB-) (NN tea) (-RRB- -RRB-)) )
"""


def test_sentiment_trees() -> None:
    first, second = parse_ptb(SENTIMENT, label=int)
    assert [node.label for node in first.nodes()] == [2, 2, 4, 4, 3]
    assert first.words == ["It", "'s", "good"]
    assert str(second) == "(0 (2 no) (1 fun))"


def test_treebank_trees_over_several_lines() -> None:
    first, second = parse_ptb(TREEBANK)
    assert str(first) == "(ROOT (S (NP-SBJ (PRP It)) (VP (VBZ is) (ADJP (JJ good))) (. .)))"
    assert second.label == "" and second.words == ["-LRB-", "tea", "-RRB-"]
    assert str(second) == "( (NP (-LRB- -LRB-) (NN tea) (-RRB- -RRB-)))"


def test_windows_line_ends() -> None:
    assert parse_ptb(TREEBANK.replace("\n", "\r\n")) == parse_ptb(TREEBANK)


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c", "\u3000"])
def test_other_spaces_are_part_of_words(tmp_path: Path, space: str) -> None:
    text = f"(3 (2 8{space}1\\/2) (4 good))\n(1 (1 a) (1 {space}))\n"
    path = tmp_path / "trees.txt"
    path.write_text(text, encoding="utf-8", newline="")
    first, second = read_ptb_trees(path)
    assert first.words == [f"8{space}1\\/2", "good"] and second.words == ["a", space]


def test_unescaping() -> None:
    text = "(S (-LRB- -LRB-) (CD 8\\/9) (NN -LSB-x-RSB-) (SYM \\*) (-RCB- -RCB-))"
    assert parse_ptb(text, unescape=True)[0].words == ["(", "8/9", "[x]", "*", "}"]
    assert parse_ptb(text)[0].words == ["-LRB-", "8\\/9", "-LSB-x-RSB-", "\\*", "-RCB-"]


@pytest.mark.parametrize("text", ["", " \n\n\t "])
def test_no_text_has_no_trees(text: str) -> None:
    assert parse_ptb(text) == []


@pytest.mark.parametrize("name", ["trees.txt", "trees.txt.gz", "compressed"])
def test_files_plain_and_compressed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = ("\ufeff" + SENTIMENT).encode()
    path.write_bytes(data if name == "trees.txt" else gzip.compress(data))
    assert read_ptb_trees(path, label=int) == parse_ptb(SENTIMENT, label=int)
    assert read_ptb_trees(str(path), label=int) == parse_ptb(SENTIMENT, label=int)


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("()", {}, "1:2: expected a label, got ')': an empty tree"),
    ("(3 (2 a) (4 b))\n(2 (1 c)\n   ())", {}, "3:5: expected a label, got ')': an empty tree"),
    ("(3)", {}, "1:3: expected a word or a tree after the label '3', got ')'"),
    ("(3 (2 a b))", {}, "1:9: expected ')' after the word 'a', got 'b'"),
    ("(3 (2 a (1 b)))", {}, "1:9: expected ')' after the word 'a', got '('"),
    ("(3 (2 a) b)", {}, "1:10: expected '(' or ')' after a tree, got 'b'"),
    ("(S\n  (NP tea))\n)", {}, "3:1: expected '(', got ')' with no tree open"),
    ("(1 a)\nword (1 b)", {}, "2:1: expected '(', got 'word'"),
    ("(3 (2 a)\n", {}, "2:1: expected ')' for the '(' of line 1, column 1; the text ends"),
    ("(3 (2 a) (4 b", {}, "1:14: expected ')' for the '(' of line 1, column 10; the text ends"),
    ("(3 (x a) (4 b))", {"label": int}, "1:5: expected a label that int takes, got 'x'"),
    ("( (4 b))", {"label": int}, "1:2: expected a label that int takes, got ''"),
    ("(3 é)\n(1 \U0001f600 x)", {}, "2:6: expected ')' after the word '\U0001f600', got 'x'"),
]


@pytest.mark.parametrize(("text", "options", "message"), ERRORS, ids=[repr(text) for text, _, _ in ERRORS])
def test_errors_say_where(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ParseError) as caught:
        read_ptb_trees(path, **options)
    assert str(caught.value).startswith(f"{path}:{message}")


@given(st.text("()a 2\n", max_size=20))
def test_any_text_parses_or_says_where(text: str) -> None:
    try:
        trees = parse_ptb(text)
    except ParseError as error:
        _, line, column, _ = str(error).split(":", 3)
        assert 1 <= int(line) <= text.count("\n") + 1
        assert 1 <= int(column) <= len(text.split("\n")[int(line) - 1]) + 1
    else:
        assert parse_ptb(" ".join(map(str, trees))) == trees


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("(1 é)\n(2 na".encode() + b"\xefve)")
    with pytest.raises(ParseError, match=r"latin.txt:2:6: expected UTF-8 text, got the byte 0xef"):
        read_ptb_trees(path)


@pytest.mark.parametrize("keep", [20, -4])
def test_a_damaged_gzip_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "trees.gz"
    path.write_bytes(gzip.compress(SENTIMENT.encode() * 50)[:keep])
    with pytest.raises(ParseError, match="expected a complete gzip file"):
        read_ptb_trees(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        read_ptb_trees(tmp_path / "nothing.txt")

"""Tab-separated files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lazyflow.data import read_tsv
from lazyflow.errors import ParseError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "a.tsv"
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        ("1\ta b\n2\t\n", {"columns": ["n", "text"]}, [{"n": "1", "text": "a b"}, {"n": "2", "text": ""}]),
        ("1\ta\r\n", {"columns": {"n": int, "text": str}}, [{"n": 1, "text": "a"}]),
        ("n\ttext\n1\ta\n", {"header": True}, [{"n": "1", "text": "a"}]),
        ("n\ttext\tx\n1\ta\t.5\n", {"header": True, "columns": {"x": float, "n": int}}, [{"n": 1, "x": 0.5}]),
        ("n\ttext\n1\ta\n", {"header": True, "columns": ["text"]}, [{"text": "a"}]),
        ('"a\u2028b"\tc', {"columns": ["quoted", "c"]}, [{"quoted": '"a\u2028b"', "c": "c"}]),
        ("", {"columns": ["a"]}, []),
        ("a\tb\n", {"header": True}, []),
    ],
)
def test_rows(write: Any, text: str, options: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    assert read_tsv(write(text), **options) == rows


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1\ta\n2\n", {"columns": ["n", "text"]}, "2:2: expected 2 fields with tabs between them (n, text), got 1"),
        ("1\ta\n\n", {"columns": ["n", "text"]}, "2:1: expected 2 fields"),
        ("ab\t1\ncd\tx\n", {"columns": {"text": str, "n": int}}, "2:4: expected a n that int takes, got 'x'"),
        ("a\tb\n", {"columns": ["c"], "header": True}, "1:1: expected a column 'c' in the header, got a, b"),
        ("a\ta\n", {"header": True}, "1:1: expected columns of different names, got a, a"),
        ("", {"columns": ["c"], "header": True}, "1:1: expected a column 'c' in the header, got an empty file"),
    ],
)
def test_errors_say_where(write: Any, text: str, options: dict[str, Any], message: str) -> None:
    path = write(text)
    with pytest.raises(ParseError) as caught:
        read_tsv(path, **options)
    assert str(caught.value).startswith(f"{path}:{message}")


@pytest.mark.parametrize("columns", [None, "text"])
def test_columns_need_names(write: Any, columns: Any) -> None:
    with pytest.raises(ValueError, match="read_tsv needs columns, a list of names or a dict"):
        read_tsv(write("a\n"), columns)

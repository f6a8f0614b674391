"""Tab-separated files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lazyflow.data.text import StrPath, lines_of, quoted, read_text
from lazyflow.errors import ParseError

__all__ = ["read_tsv"]

Columns = Mapping[str, Callable[[str], Any]]


def read_tsv(
    path: StrPath, columns: Sequence[str] | Columns | None = None, *, header: bool = False
) -> list[dict[str, Any]]:
    """The rows of a tab-separated file (UTF-8, plain or gzipped), each a dict from column to value.

    ``columns``: the names of the columns, in order, or a dict from name to what makes the value (``int``, ``float``,
    ...); without it values are strings. ``header``: the first line holds the names; ``columns`` then picks some of them
    (all if None). Nothing is quoted: every tab separates, every newline ends a row.

    Raises `ParseError`, which names path, line and column, for a row with too few or too many fields or a value that
    does not convert, and ``ValueError`` without names.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.tsv"
    >>> _ = path.write_text("3\\tfine\\n1\\tdull\\n")
    >>> read_tsv(path, {"stars": int, "text": str})[0]
    {'stars': 3, 'text': 'fine'}
    """
    if isinstance(columns, str) or (columns is None and not header):
        raise ValueError(
            f"read_tsv needs columns, a list of names or a dict from name to type, or header=True; got {columns!r}"
        )
    lines = lines_of(read_text(path))
    names = lines[0].split("\t") if header and lines else [] if header else list(columns or ())
    converters = (
        dict(columns) if isinstance(columns, Mapping) else dict.fromkeys(names if columns is None else columns, str)
    )
    _check_header(path, names, converters)
    return [_row(path, number, line, names, converters) for number, line in enumerate(lines, 1) if number > header]


def _check_header(path: StrPath, names: Sequence[str], converters: Columns) -> None:
    for name in converters:
        if name not in names:
            raise ParseError(
                f"{path}:1:1: expected a column {name!r} in the header, got {_listed(names) or 'an empty file'}"
            )
    if len(set(names)) < len(names):
        raise ParseError(f"{path}:1:1: expected columns of different names, got {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 200 else text[:200] + "..."


def _row(path: StrPath, number: int, line: str, names: Sequence[str], converters: Columns) -> dict[str, Any]:
    fields = line.split("\t")
    if len(fields) != len(names):
        expected = f"expected {len(names)} fields with tabs between them ({_listed(names)})"
        raise ParseError(f"{path}:{number}:{len(line) + 1}: {expected}, got {len(fields)}")
    row, column = {}, 1
    for name, value in zip(names, fields, strict=True):
        if name in converters:
            row[name] = _converted(f"{path}:{number}:{column}", name, value, converters[name])
        column += len(value) + 1
    return row


def _converted(place: str, name: str, value: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, KeyError, ArithmeticError) as error:
        wanted = getattr(convert, "__name__", repr(convert))
        raise ParseError(
            f"{place}: expected a {name} that {wanted} takes, got {quoted(value)} ({str(error)[:80]})"
        ) from None

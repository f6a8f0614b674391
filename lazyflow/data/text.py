"""Reading text files, plain or gzipped, with errors that say where: ``path:line:column: what was expected, what
came``.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from lazyflow.errors import ParseError

__all__ = ["lines_of", "parse_error", "read_text"]

StrPath = str | os.PathLike[str]


def read_text(path: StrPath) -> str:
    """The text of a UTF-8 file, gunzipped if it is compressed (whatever its name), without a byte order mark.

    Raises ``OSError`` when it cannot be read and `ParseError` for a damaged gzip file or bytes that are not UTF-8.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "trees.gz"
    >>> _ = path.write_bytes(gzip.compress("(1 né)".encode()))
    >>> read_text(path)
    '(1 né)'
    """
    data = Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ParseError(f"{path}: expected a complete gzip file, got: {error}") from None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        raise ParseError(
            f"{path}:{line}:{column}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}"
        ) from None


def lines_of(text: str) -> list[str]:
    """The lines, ended by newline (and carriage return) only: U+2028 and its like belong to words.

    >>> lines_of("a b\\r\\nc\\u2028d\\n")
    ['a b', 'c\\u2028d']
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def parse_error(name: StrPath, text: str, offset: int, message: str) -> ParseError:
    """An error at ``text[offset]``.

    >>> print(parse_error("a.txt", "one\\ntwo", 5, "expected w"))
    a.txt:2:2: expected w
    """
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return ParseError(f"{name}:{line}:{column}: {message}")

"""Reading text files, plain or gzipped, with errors that say where: ``path:line:column: what was expected, what
came``.
"""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Iterator
from io import BufferedReader
from typing import BinaryIO

from lazyflow.errors import ParseError

__all__ = ["lines_of", "parse_error", "quoted", "read_text"]

StrPath = str | os.PathLike[str]

CHUNK = 1 << 18  # bytes that are read at a time
PACKED = 1 << 13  # bytes of a gzip file that are read at a time: those that are counted are unpacked, or almost
FREE, RATIO = 4 << 20, 100
"""A gzip file may hold `FREE` bytes, and `RATIO` times what was read of it. Text is seldom compressed to less than a
tenth, and gzip makes a thousandth of nothing but zeros: a file of some MiB could fill all memory.
"""


def read_text(path: StrPath) -> str:
    """The text of a UTF-8 file, gunzipped if it is compressed (whatever its name), without a byte order mark.

    Raises ``OSError`` when it cannot be read and `ParseError` for a damaged gzip file, one that holds more than 4 MiB
    and 100 times its size, for bytes that are not UTF-8, and for a NUL; it is read in pieces, up to there.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "trees.gz"
    >>> _ = path.write_bytes(gzip.compress("(1 né)".encode()))
    >>> read_text(path)
    '(1 né)'
    """
    pieces: list[str] = []

    def fail(message: str, more: str = "") -> ParseError:
        before = ("".join(pieces) + more).removeprefix("\ufeff")
        return parse_error(path, before, len(before), message)

    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            for chunk in _chunks(file):
                piece = decoder.decode(chunk, not chunk)
                if "\0" in piece:
                    raise fail("expected text, got a NUL character", piece.partition("\0")[0])
                pieces.append(piece)
    except UnicodeDecodeError as error:
        good = error.object[: error.start].decode("utf-8")
        raise fail(f"expected UTF-8 text, got the byte 0x{error.object[error.start]:02x}", good) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise fail(f"expected a complete gzip file, got: {error}") from None
    except _TooMuchError:
        raise fail(f"expected text, got a gzip file of more than {RATIO} times its size; unpack it first") from None
    return "".join(pieces).removeprefix("\ufeff")


class _TooMuchError(Exception):
    pass


class _Counted:
    """A file of which is known how much was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.count = file, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, PACKED))  # gzip asks for 8 KiB or, from Python 3.12 on, for 128
        self.count += len(data)
        return data


def _chunks(file: BufferedReader) -> Iterator[bytes]:
    """The bytes of a file in pieces, of which the last is empty."""
    packed = file.peek(2)[:2] == b"\x1f\x8b"
    counted = _Counted(file)
    source = gzip.GzipFile(fileobj=counted, mode="rb") if packed else file  # type: ignore[call-overload]
    size = 0
    while chunk := source.read(CHUNK):
        size += len(chunk)
        if packed and size > max(FREE, RATIO * counted.count):
            raise _TooMuchError
        yield chunk
    yield b""


def quoted(text: str) -> str:
    """A text of a file for an error, in quotes and cut where it is long.

    >>> quoted("tea"), len(quoted("x" * 100_000))
    ("'tea'", 65)
    """
    return repr(text if len(text) <= 60 else text[:60] + "...")


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

"""Files that nobody meant well with: every reader says where they are wrong, and takes no more memory than their size
gives reason for.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyflow.data import Vocabulary, ptb, read_conllu, read_listops, read_ptb_trees, read_tsv, text
from lazyflow.errors import ParseError

Reader = Callable[[Any], Any]

READERS: dict[str, tuple[Reader, bytes]] = {
    "ptb": (lambda path: read_ptb_trees(path, label=int), b"(3 (2 not) (4 b\xc3\xa9te))\n(1 (2 a)\n (3 b))\n"),
    "conllu": (
        read_conllu,
        "# text = Où\n1\tOù\toù\tADV\t_\tA=B\t0\troot\t_\t_\n2-3\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "2\tde\tde\tADP\t_\t_\t1\tcase\t_\t_\n3\tle\tle\tDET\t_\t_\t1\tdet\t_\t_\n\n".encode(),
    ),
    "tsv": (lambda path: read_tsv(path, {"n": int, "x": float}, header=True), b"n\tx\tword\n1\t2.5\ta\n2\t1e3\tb\n"),
    "listops": (read_listops, b"9\t( ( ( [MAX 2 ) 9 ) ] )\n5\t[MED 2 9 [SM 5 7 ] 8 ]\n"),
    "vocabulary": (Vocabulary.load, b'{\n"unk": "<unk>",\n"words": [\n"<unk>",\n"a",\n"b"\n]\n}\n'),
}
every_reader = pytest.mark.parametrize("name", READERS)

LONG = b"9" * 5000

MALFORMED: list[tuple[str, bytes, str]] = [
    ("ptb", b"(3 (2 a)\n (3 b\xff))", r":2:6: expected UTF-8 text, got the byte 0xff"),
    ("ptb", b"(3 (2 a)\n (3 b\0))", r":2:6: expected text, got a NUL"),
    ("ptb", b"(3 a)\n(3 b\xc3", r":2:5: expected UTF-8 text, got the byte 0xc3"),
    ("ptb", b"(" + LONG + b" a)", r":1:2: expected a label that int takes, got '9+\.\.\.'"),
    ("ptb", b"(3 " + b"a" * 10**6 + b" b)", r":1:1000005: expected '\)' after the word 'a+\.\.\.', got 'b'$"),
    ("conllu", LONG + b"\tOx" + b"\t_" * 4 + b"\t0" + b"\t_" * 3, r":1:1: expected the id 1, got 9+\.\.\.$"),
    ("conllu", b"1\tOx" + b"\t_" * 4 + b"\t" + LONG + b"\t_" * 3, r":1:14: expected a head, .* got '9+\.\.\.'$"),
    ("conllu", b"1\tOx\n", r":1:5: expected 10 fields"),
    ("tsv", b"n\tx\n" + LONG + b"\t1\n", r":2:1: expected a n that int takes, got '9+\.\.\.'"),
    ("tsv", b"n\tx\n1\t\n", r":2:3: expected a x that float takes, got ''"),
    ("tsv", b"n" * 10**6 + b"\n", r":1:1: expected a column 'n' in the header, got n+\.\.\.$"),
    ("tsv", b"", r":1:1: expected a column 'n' in the header, got an empty file"),
    ("listops", LONG + b"\t[MAX 1 2 ]\n", r":1:1: expected an answer from 0 to 9"),
    ("listops", b"2\t[MAX 1 " + LONG + b" ]\n", r":1:10: expected a digit, .* got '9+\.\.\.'$"),
    ("vocabulary", b"", r":1:1: expected a saved vocabulary \(JSON\)"),
    ("vocabulary", b"[" * 10**5, r":1:1: expected a saved vocabulary, got JSON that is nested too deeply"),
    ("vocabulary", LONG, r":1:1: expected an object"),
    ("vocabulary", b'{"unk": null, "words": ' + LONG + b"}", r":1:1: expected an object with 'words'"),
    ("vocabulary", b'{"unk": null,\n"words": ["a",\n"b", "a"]}', r":3:6: expected distinct words, got 'a' twice"),
    ("vocabulary", b'{"unk": null,\n"words": ["a", ' + LONG + b"]}", r":2:\d+: expected strings, got a float"),
    ("vocabulary", b'{"words": ["a"],\n"unk": "b"}', r":2:1: expected one of the words or null as 'unk', got 'b'"),
    ("vocabulary", b'{"words": ["a"],\n"unk": ["a"]}', r":2:1: expected one of the words or null as 'unk'"),
    ("vocabulary", b'{"words": ["\xff"]}', r":1:13: expected UTF-8 text"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_the_place_of_what_is_wrong(name: str, content: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ParseError, match="^" + re.escape(str(path)) + message) as caught:
        READERS[name][0](path)
    assert len(str(caught.value)) < 500 + len(str(path))


def refusal(read: Reader, path: Path) -> ParseError | None:
    try:
        read(path)
    except ParseError as error:
        return error
    return None


@every_reader
@settings(derandomize=True, max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_a_file_is_read_or_has_a_place(name: str, data: st.DataObject, tmp_path: Path) -> None:
    read, good = READERS[name]
    content = gzip.compress(good, mtime=0) if data.draw(st.booleans()) else good
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 5, len(content))))
    new = data.draw(st.binary(max_size=4) | st.sampled_from([b"(", b")", b"\t", b"\n", b"]", b"\0", LONG, b"\xf0\x9f"]))
    path = tmp_path / "file"
    path.write_bytes(content[:start] + new + content[end:])
    error = refusal(read, path)
    assert error is None or re.match(re.escape(str(path)) + r":\d+:\d+: expected ", str(error)), str(error)[:200]


@every_reader
@pytest.mark.parametrize("piece", [b"\0", b"\n", b"(", b"(3 a)\n", b"a", b"1\t1\n", b'{"'], ids=repr)
def test_a_compressed_bomb_takes_little_memory(name: str, piece: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(16):
            file.write(piece * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ParseError, match=r":\d+:\d+: expected text, got a (gzip file of more than 100 times|NUL)"):
            READERS[name][0](path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_long_text_that_compresses_well_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trees.gz"
    tree = "(3 (2 not) (4 bad))\n"
    path.write_bytes(gzip.compress(tree.encode() * 50_000))
    assert len(read_ptb_trees(path)) == 50_000
    path.write_bytes(b"".join(gzip.compress(tree.encode()) for _ in range(3)))  # several members are one file
    assert len(read_ptb_trees(path)) == 3


def test_a_piece_may_end_within_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "\ufeff(1 né)(2 \U0001f375)\r\n"
    path = tmp_path / "file"
    for size in range(1, 8):
        monkeypatch.setattr(text, "CHUNK", size)
        for data in (content.encode(), gzip.compress(content.encode())):
            path.write_bytes(data)
            assert text.read_text(path) == content[1:]
        path.write_bytes(content.encode() + b"\xff")
        with pytest.raises(ParseError, match=":2:1: expected UTF-8"):
            text.read_text(path)


def test_a_damaged_gzip_file_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = gzip.compress(b"one\ntwo" * 10_000, compresslevel=1)
    for damaged in (
        data[:-4],
        data[:-1],
        data[:40],
        data[:30] + b"\xff\xff" + data[32:],
        data[:-8] + b"\0" * 8,
        data[:2],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ParseError, match=r":\d+:\d+: expected a complete gzip file, got: "):
            text.read_text(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_a_pipe(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(pack(b"(1 a)"),))
    writer.start()
    assert str(read_ptb_trees(path)[0]) == "(1 a)"
    writer.join()


def test_nesting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb, "DEEPEST", 1000)
    deep = "(a " * 1000 + "b" + ")" * 1000
    assert ptb.parse_ptb(deep)[0].depth == 1000
    with pytest.raises(ParseError, match="<text>:1:3001: expected a tree of at most 1000 levels"):
        ptb.parse_ptb("(a " + deep + ")")


def test_a_label_that_overflows_has_a_place() -> None:
    with pytest.raises(ParseError, match=r"<text>:1:2: expected a label that .* takes, got '1e999'"):
        ptb.parse_ptb("(1e999 a)", label=lambda text: int(float(text)))


def test_a_saved_vocabulary_comes_back(tmp_path: Path) -> None:
    words = ["<unk>", "a\nb", "\u2028", '"', "5", "é"]
    Vocabulary(words, unk="<unk>").save(tmp_path / "v")
    assert Vocabulary.load(tmp_path / "v") == Vocabulary(words, unk="<unk>")
    assert json.loads((tmp_path / "v").read_text(encoding="utf-8"))["words"] == words

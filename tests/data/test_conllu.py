"""CoNLL-U files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lazyflow.data import Extra, Token, attributes, parse_conllu, read_conllu
from lazyflow.errors import ParseError

TEXT = """\
# sent_id = 1
# text = I can't see.
# a remark
1\tI\tI\tPRON\tPRP\tCase=Nom|Number=Sing\t4\tnsubj\t4:nsubj\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_
2\tca\tcan\tAUX\tMD\t_\t4\taux\t4:aux\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t4:advmod\t_
4\tsee\tsee\tVERB\tVB\t_\t0\troot\t0:root\tSpaceAfter=No
4.1\tit\tit\tPRON\tPRP\t_\t_\t_\t4:obj\t_
5\t.\t.\tPUNCT\t.\t_\t4\tpunct\t4:punct\t_

1\t10 000\t_\tNUM\t_\t_\t_\t_\t_\t_
"""


def row(*changes: tuple[int, str]) -> str:
    fields = ["1", "go", "go", "VERB", "VB", "_", "0", "root", "_", "_"]
    for index, value in changes:
        fields[index] = value
    return "\t".join(fields)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.conllu", "a.conllu.gz"])
def test_words_ranges_and_empty_nodes(tmp_path: Path, end: str, name: str) -> None:
    data = TEXT.replace("\n", end).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    first, second = read_conllu(path)
    assert first.words == ["I", "ca", "n't", "see", "."] and len(first) == 5
    assert [token.head for token in first.tokens] == [4, 4, 4, 0, 4]
    assert first.tokens[0] == Token(1, "I", "I", "PRON", "PRP", "Case=Nom|Number=Sing", 4, "nsubj", "4:nsubj", "_")
    assert attributes(first.tokens[0].feats) == {"Case": "Nom", "Number": "Sing"}
    assert attributes(first.tokens[3].misc) == {"SpaceAfter": "No"}
    assert first.ranges == (Extra("2-3", "can't", *"________"),)
    assert [(extra.id, extra.form, extra.deps) for extra in first.empty] == [("4.1", "it", "4:obj")]
    assert first.metadata == {"sent_id": "1", "text": "I can't see."} and len(first.comments) == 3
    assert second.words == ["10 000"] and second.tokens[0].head is None and second.comments == ()


def test_several_blank_lines_and_no_last_one() -> None:
    assert [s.words for s in parse_conllu(f"\n\n{row()}\n\n\n{row()}")] == [["go"], ["go"]]
    assert parse_conllu("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (row() + "\n1\tgo", "2:5: expected 10 fields with tabs between them, got 2"),
        (row().replace("\t", " "), "1:29: expected 10 fields with tabs between them, got 1"),
        (row() + "\t_", "1:31: expected 10 fields with tabs between them, got 11"),
        (row((3, "")), "1:9: expected a value or '_' in the field 'upos', got an empty one"),
        (row((0, "2")), "1:1: expected the id 1, got 2"),
        (f"# x\n{row()}\n{row((0, '3'))}", "3:1: expected the id 2, got 3"),
        (row((0, "one")), "1:1: expected an id as in 3, 3-4 or 3.1, got 'one'"),
        (row((0, "0")), "1:1: expected an id as in 3, 3-4 or 3.1, got '0'"),
        (row((6, "up")), "1:19: expected a head, an integer or '_', got 'up'"),
        (row((6, "-1")), "1:19: expected a head, an integer or '_', got '-1'"),
        (row((6, "²")), "1:19: expected a head, an integer or '_', got '²'"),
        (f"{row((6, '3'))}\n{row((0, '2'))}\n\n", "1:19: expected a head from 0 to 2, got 3"),
        ("# only\n\n", "2:1: expected the words of a sentence after its comments, got none"),
    ],
)
def test_errors_say_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.conllu"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParseError) as caught:
        read_conllu(path)
    assert str(caught.value) == f"{path}:{message}"

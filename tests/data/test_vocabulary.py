"""Vocabularies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.data import Vocabulary
from lazyflow.errors import ParseError

TEXT = ["b", "a", "c", "a", "b", "a", "d"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ("<unk>", "a", "b", "c", "d")),
        ({"min_count": 2}, ("<unk>", "a", "b")),
        ({"max_size": 3}, ("<unk>", "a", "b")),
        ({"specials": ("<pad>", "<unk>", "a")}, ("<pad>", "<unk>", "a", "b", "c", "d")),
        ({"specials": (), "unk": None}, ("a", "b", "c", "d")),
    ],
)
def test_building(options: dict[str, Any], words: tuple[str, ...]) -> None:
    built = Vocabulary.build(TEXT, **options)
    assert built.words == words
    assert [built[word] for word in words] == list(range(len(words)))
    assert Vocabulary.build({"a": 3, "b": 2, "c": 1, "d": 1}, **options) == built


def test_unknown_words() -> None:
    with_unk, without = Vocabulary(["a", "?"], unk="?"), Vocabulary(["a", "?"])
    assert with_unk["never"] == 1 and "never" not in with_unk and "a" in with_unk
    with pytest.raises(KeyError, match="'never' is not among the 2 words, and there is no unk"):
        without["never"]
    assert with_unk != without and list(with_unk) == ["a", "?"] and repr(with_unk) == "Vocabulary(2 words, unk='?')"


@pytest.mark.parametrize(
    ("words", "unk", "error", "message"),
    [
        (["a", "b", "a"], None, ValueError, "the words of a vocabulary are distinct; 'a' comes twice"),
        (["a"], "<unk>", ValueError, "unk must be one of the words, got '<unk>'"),
        (["a", 3], None, TypeError, "a vocabulary holds strings, got 3"),
    ],
)
def test_what_is_no_vocabulary(words: Any, unk: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Vocabulary(words, unk=unk)


@given(words=st.lists(st.text(st.characters(blacklist_categories=("Cs",)), max_size=4), unique=True))
def test_saving_and_loading_any_words(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    path = tmp_path_factory.mktemp("words") / "v.json"
    for unk in {None, *words[:1]}:
        Vocabulary(words, unk=unk).save(path)
        assert Vocabulary.load(path) == Vocabulary(words, unk=unk)
        assert hash(Vocabulary.load(path)) == hash(Vocabulary(words, unk=unk))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n  words", "2:3: expected a saved vocabulary .JSON., got"),
        ("[]", "1:1: expected an object with 'words'"),
        ('{"words": 3, "unk": null}', "1:1: expected an object with 'words'"),
    ],
)
def test_a_file_that_is_no_vocabulary(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(ParseError, match=f"v.json:{message}"):
        Vocabulary.load(path)

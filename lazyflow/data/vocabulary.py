"""Words and their numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lazyflow.data.text import StrPath, parse_error, quoted, read_text
from lazyflow.errors import ParseError
from lazyflow.io import atomic_path

__all__ = ["Vocabulary"]


class Vocabulary:
    """Words numbered from 0 in the order given. Immutable.

    ``words``: distinct strings. ``unk``: the word that stands for every unknown one, itself among the words; None to
    raise ``KeyError`` instead.

    >>> vocabulary = Vocabulary(["<unk>", "a", "b"], unk="<unk>")
    >>> vocabulary["b"], vocabulary["z"], vocabulary.words[1], len(vocabulary), "z" in vocabulary
    (2, 0, 'a', 3, False)
    """

    __slots__ = ("_index", "unk", "words")

    def __init__(self, words: Iterable[str], *, unk: str | None = None) -> None:
        self.words = tuple(words)
        self.unk = unk
        self._index = {word: i for i, word in enumerate(self.words)}
        for word in self.words:
            if not isinstance(word, str):
                raise TypeError(f"a vocabulary holds strings, got {word!r}")
        if len(self._index) < len(self.words):
            raise ValueError(
                f"the words of a vocabulary are distinct; {Counter(self.words).most_common(1)[0][0]!r} comes twice"
            )
        if unk is not None and unk not in self._index:
            raise ValueError(f"unk must be one of the words, got {unk!r}; add it to the words or the specials")

    @classmethod
    def build(
        cls,
        words: Iterable[str] | Mapping[str, int],
        *,
        min_count: int = 1,
        max_size: int | None = None,
        specials: Iterable[str] = ("<unk>",),
        unk: str | None = "<unk>",
    ) -> Vocabulary:
        """From running text (or from counts): ``specials`` first, then the words by falling count, equal ones in
        alphabetical order.

        ``min_count``: words that are rarer are left out. ``max_size``: of the whole vocabulary, specials included.

        >>> Vocabulary.build("a rose is a rose".split(), min_count=2).words
        ('<unk>', 'a', 'rose')
        """
        counts = Counter(words)
        first = list(specials)
        kept = [word for word, count in counts.items() if count >= min_count and word not in first]
        kept.sort(key=lambda word: (-counts[word], word))
        return cls([*first, *kept][:max_size], unk=unk)

    def __getitem__(self, word: str) -> int:
        found = self._index.get(word)
        if found is not None:
            return found
        if self.unk is None:
            raise KeyError(f"{word!r} is not among the {len(self.words)} words, and there is no unk to stand for it")
        return self._index[self.unk]

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.words == other.words and self.unk == other.unk

    def __hash__(self) -> int:
        return hash((self.words, self.unk))

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words)} words, unk={self.unk!r})"

    def save(self, path: StrPath) -> None:
        """Write a JSON file, one word a line; complete or not at all.

        >>> import tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "words.json")
        >>> Vocabulary(["a", "b"]).save(path)
        >>> Vocabulary.load(path).words
        ('a', 'b')
        """
        text = json.dumps({"unk": self.unk, "words": self.words}, ensure_ascii=False, indent=0)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: StrPath) -> Vocabulary:
        """Read what `save` wrote. Raises `ParseError` for any other file: its place, and what was expected."""
        text = read_text(path)
        try:
            content = json.loads(text, parse_int=float)  # there are no numbers, and a long one must not matter
        except json.JSONDecodeError as error:
            raise ParseError(
                f"{path}:{error.lineno}:{error.colno}: expected a saved vocabulary (JSON), got: {error.msg}"
            ) from None
        except RecursionError:
            raise ParseError(f"{path}:1:1: expected a saved vocabulary, got JSON that is nested too deeply") from None
        if not isinstance(content, dict) or not isinstance(content.get("words"), list) or "unk" not in content:
            raise ParseError(
                f"{path}:1:1: expected an object with 'words', a list, and 'unk'; it is no saved vocabulary"
            )
        words, unk = content["words"], content["unk"]
        _check_words(path, text, words, unk)
        return cls(words, unk=unk)


def _check_words(path: StrPath, text: str, words: list[Any], unk: Any) -> None:
    """Raise a `ParseError` at the first entry that makes no vocabulary."""
    seen: set[str] = set()
    place = max(text.find('"words"'), 0)
    for i, word in enumerate(words):
        if not isinstance(word, str):
            raise parse_error(path, text, place, f"expected strings, got a {type(word).__name__} as word {i}")
        place = max(text.find(json.dumps(word, ensure_ascii=False), place + 1), place)
        if word in seen:
            raise parse_error(path, text, place, f"expected distinct words, got {quoted(word)} twice")
        seen.add(word)
    if unk is not None and not (isinstance(unk, str) and unk in seen):
        place = max(text.find('"unk"'), 0)
        raise parse_error(path, text, place, f"expected one of the words or null as 'unk', got {quoted(str(unk))}")

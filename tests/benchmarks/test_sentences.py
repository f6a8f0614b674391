"""The benchmark's sentences: synthetic ones, and a treebank's."""

from __future__ import annotations

import gzip
import statistics

import pytest

from benchmarks import sentences
from benchmarks.sentences import START, UNKNOWN, Sentence

SEED = 5
ROW = "{}\t{}\t_\t_\t{}\t_\t0\t_\t_\t_\n"
TEXT = ROW.format(1, "a", "DT") + ROW.format(2, "dog", "NN") + "\n" + ROW.format(1, "a", "DT") + "\n"


def test_synthetic_sentences_have_the_length_of_text():
    drawn = sentences.synthetic(2000, SEED, 1000, 50)
    lengths = [len(sentence.words) for sentence in drawn]
    assert statistics.mean(lengths) == pytest.approx(24, abs=1)
    assert min(lengths) >= sentences.SHORTEST and max(lengths) <= sentences.LONGEST
    assert all(len(sentence.words) == len(sentence.labels) for sentence in drawn)
    assert {word for sentence in drawn for word in sentence.words} <= set(range(2, 1000))
    assert {label for sentence in drawn for label in sentence.labels} == set(range(50))


def test_a_seed_is_a_corpus():
    assert sentences.synthetic(9, SEED, 50, 7) == sentences.synthetic(9, SEED, 50, 7)
    assert sentences.synthetic(9, SEED, 50, 7) != sentences.synthetic(9, SEED + 1, 50, 7)


@pytest.fixture(params=["x-train.conllu", "x-train.conllu.gz"])
def folder(request, tmp_path):
    write = gzip.open if request.param.endswith("gz") else open
    with write(tmp_path / request.param, "wt", encoding="utf-8") as file:
        file.write(TEXT)
    return tmp_path


def test_a_treebanks_words_and_tags_are_numbered(folder):
    corpus = sentences.tagging(folder)
    assert corpus.train == [Sentence((2, 3), (0, 1)), Sentence((2,), (0,))]
    assert (corpus.vocabulary_size, corpus.classes, corpus.name) == (4, 2, folder.name)


def test_a_language_model_says_the_next_word(folder):
    corpus = sentences.language(folder, vocabulary_size=3)
    assert corpus.train == [Sentence((START, 2), (2, UNKNOWN)), Sentence((START,), (2,))]
    assert corpus.vocabulary_size == corpus.classes == 3


@pytest.mark.parametrize("load", [sentences.tagging, sentences.language])
def test_without_a_folder_the_sentences_are_synthetic(load):
    corpus = load(None)
    assert (corpus.name, len(corpus.train)) == ("synthetic", 1024)
    assert max(max(sentence.words) for sentence in corpus.train) < corpus.vocabulary_size
    assert max(max(sentence.labels) for sentence in corpus.train) < corpus.classes


def test_a_folder_without_sentences_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\*train\.conllu or \*train\.conllu\.gz"):
        sentences.tagging(tmp_path)

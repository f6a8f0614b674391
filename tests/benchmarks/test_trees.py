"""The benchmark's trees: synthetic ones of the treebank's make, and the treebank's files."""

from __future__ import annotations

import gzip
import statistics

import pytest

from benchmarks import trees
from benchmarks.trees import Tree

SEED = 5


def depth(tree: Tree) -> int:
    return 1 + max(map(depth, tree.children)) if tree.children else 0


def test_synthetic_trees_have_the_treebanks_statistics():
    drawn = trees.synthetic(1000, SEED)
    sizes = [len(list(trees.words(tree))) for tree in drawn]
    assert statistics.mean(sizes) == pytest.approx(19.1, abs=0.8)
    assert statistics.stdev(sizes) == pytest.approx(9.2, abs=0.8)
    assert statistics.mean(map(depth, drawn)) == pytest.approx(9.8, abs=0.6)
    words = [word for tree in drawn[:64] for word in trees.words(tree)]
    assert len(set(words)) / len(words) == pytest.approx(0.51, abs=0.05)
    assert 0 <= min(words) <= max(words) < trees.SST_VOCABULARY


def test_synthetic_trees_are_binary_and_follow_their_seed():
    drawn = trees.synthetic(20, SEED)
    assert drawn == trees.synthetic(20, SEED) != trees.synthetic(20, SEED + 1)
    stack = list(drawn)
    while stack:
        tree = stack.pop()
        assert len(tree.children) == (0 if tree.word >= 0 else 2) and 0 <= tree.label < trees.CLASSES
        stack.extend(tree.children)


def test_the_treebank_is_read_and_its_words_numbered(tmp_path):
    with gzip.open(tmp_path / "train.txt.gz", "wt", encoding="utf-8") as file:
        file.write("(3 (2 a) (4 good))\n(1 (2 a) (0 (2 bad) (2 a)))\n")
    (tmp_path / "dev.txt").write_text("(4 (2 a) (2 unseen))\n", encoding="utf-8")
    corpus = trees.load(tmp_path)
    assert corpus.train[0] == Tree(3, -1, (Tree(2, 1, ()), Tree(4, 2, ())))
    assert [list(trees.words(tree)) for tree in (*corpus.train, *corpus.dev)] == [[1, 2], [1, 3, 1], [1, 0]]
    assert corpus.vocabulary_size == 4 and [tree.label for tree in corpus.dev] == [4]


def test_a_folder_without_trees_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.txt or train\.txt\.gz"):
        trees.load(tmp_path)


def test_without_a_folder_the_trees_are_synthetic():
    corpus = trees.load(None, count=16)
    assert (len(corpus.train), len(corpus.dev), corpus.name) == (16, 2, "synthetic")


@pytest.mark.parametrize(("size", "sizes"), [(4, [4, 4]), (10, [10]), (64, [10])])
def test_minibatches_are_whole_or_all_there_is(size, sizes):
    drawn = trees.synthetic(10, SEED)
    batches = trees.minibatches(drawn, size, seed=0)
    assert [len(batch) for batch in batches] == sizes
    assert all(tree in drawn for batch in batches for tree in batch)

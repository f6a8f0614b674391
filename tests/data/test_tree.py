"""Trees: shape, walks, immutability, and no recursion at any depth."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.data import Tree, parse_ptb

WORDS = st.text(st.characters(blacklist_characters="() \t\r\n", blacklist_categories=("Cs",)), min_size=1, max_size=5)
LEAVES = st.builds(lambda label, word: Tree(label, word=word), WORDS, WORDS)
TREES = st.recursive(
    LEAVES, lambda inner: st.builds(Tree, WORDS, st.lists(inner, min_size=1, max_size=4)), max_leaves=12
)

LEVELS = 100_000


def leaf(word: str, label: Any = 0) -> Tree:
    return Tree(label, word=word)


def chain(levels: int = LEVELS) -> Tree:
    """A unary chain on top of two leaves."""
    tree = Tree("n0", [leaf("a"), leaf("b")])
    for level in range(1, levels):
        tree = Tree(f"n{level}", [tree])
    return tree


def test_a_small_tree() -> None:
    tree = Tree("S", [leaf("a", 1), Tree("V", [leaf("b", 2), leaf("c", 3), leaf("d", 4)])])
    assert (len(tree), tree.depth, tree.is_leaf, tree.word) == (6, 3, False, None)
    assert [node.label for node in tree.nodes()] == [1, 2, 3, 4, "V", "S"]
    assert tree.nodes()[-1] is tree
    assert tree.words == ["a", "b", "c", "d"]
    assert [node.label for node in tree.leaves()] == [1, 2, 3, 4]
    assert (len(leaf("a")), leaf("a").depth, leaf("a").is_leaf) == (1, 1, True)
    assert str(tree) == "(S (1 a) (V (2 b) (3 c) (4 d)))"
    assert repr(tree) == f"Tree({tree})"


@given(TREES)
def test_counts_agree_with_a_recursive_definition(tree: Tree) -> None:
    def count(node: Tree) -> int:
        return 1 + sum(map(count, node.children))

    def height(node: Tree) -> int:
        return 1 + max(map(height, node.children), default=0)

    def post(node: Tree) -> list[Tree]:
        return [n for child in node.children for n in post(child)] + [node]

    assert (len(tree), tree.depth) == (count(tree), height(tree))
    assert [id(n) for n in tree.nodes()] == [id(n) for n in post(tree)]


@given(TREES)
def test_printing_and_parsing_are_inverse(tree: Tree) -> None:
    assert parse_ptb(str(tree)) == [tree]


@given(TREES, TREES)
def test_equality_and_hash(a: Tree, b: Tree) -> None:
    twin = pickle.loads(pickle.dumps(a))
    assert twin == a and twin is not a and hash(twin) == hash(a)
    assert copy.deepcopy(a) == a
    assert (a == b) is (str(a) == str(b))
    assert a != Tree("other", [a]) and a != str(a)


def test_map_labels() -> None:
    tree = parse_ptb("(S-TOP (NP-SBJ tea) (VP boils))")[0]
    assert str(tree.map_labels(lambda node: node.label.split("-")[0])) == "(S (NP tea) (VP boils))"
    assert str(tree) == "(S-TOP (NP-SBJ tea) (VP boils))"


@pytest.mark.parametrize("name", ["label", "word", "children", "new"])
def test_trees_are_immutable(name: str) -> None:
    tree = leaf("a")
    with pytest.raises(AttributeError, match="a Tree is immutable"):
        setattr(tree, name, None)
    with pytest.raises(AttributeError, match="a Tree is immutable"):
        delattr(tree, name)
    assert not hasattr(tree, "__dict__")


@pytest.mark.parametrize(
    ("children", "word", "error", "message"),
    [
        ((), None, ValueError, "a tree has either a word or children; node 'S' has neither: an empty tree"),
        ((leaf("a"),), "b", ValueError, "node 'S' has both"),
        ((), "", ValueError, "a word is a non-empty string, got ''"),
        ((), 3, ValueError, "a word is a non-empty string, got 3"),
        (("a",), None, TypeError, "a child must be a Tree, got a str"),
    ],
)
def test_what_is_no_tree(children: Any, word: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tree("S", children, word=word)


def test_parentheses_in_words_are_escaped() -> None:
    assert str(leaf(":-)")) == "(0 :--RRB-)"
    assert parse_ptb(str(leaf("(x)")), unescape=True)[0].word == "(x)"


def test_a_chain_of_a_hundred_thousand_levels() -> None:
    tree = chain()
    assert (len(tree), tree.depth) == (LEVELS + 2, LEVELS + 1)
    assert len(tree.nodes()) == LEVELS + 2 and tree.words == ["a", "b"]
    text = str(tree)
    (again,) = parse_ptb(text)
    assert str(again) == text and repr(again).endswith("...)")
    assert pickle.loads(pickle.dumps(tree)).depth == tree.depth
    relabelled = tree.map_labels(lambda node: 0)
    assert relabelled != tree and relabelled == chain().map_labels(lambda node: 0) and hash(relabelled) != hash(tree)
    del tree, again, relabelled  # freeing does not recurse either

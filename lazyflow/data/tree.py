"""Trees: immutable, of any arity, and walked without recursion, so that no depth is too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

__all__ = ["Tree"]

Entry = tuple[Any, "str | None", int]  # label, word, number of children


class Tree:
    """A node with a label and either a word or children.

    ``label``: anything, often a string or an integer. ``children``: one or more trees. ``word``: a non-empty string, of
    a leaf. ``depth`` is the number of nodes on the longest way down, 1 for a leaf; ``len()`` counts all nodes. Both are
    known at once.

    Two trees are equal when labels, words and shapes are. Nothing here recurses, also not equality, hash, printing and
    pickling. ``str()`` is the bracketed form, on one line; parentheses in words become ``-LRB-`` and ``-RRB-``.

    >>> tree = Tree(3, [Tree(2, word="not"), Tree(4, word="bad")])
    >>> print(tree, len(tree), tree.depth, tree.words)
    (3 (2 not) (4 bad)) 3 2 ['not', 'bad']
    >>> [node.label for node in tree.nodes()]
    [2, 4, 3]

    Raises ``ValueError`` for a node with neither word nor children, or with both.
    """

    __slots__ = ("children", "depth", "label", "size", "word")

    label: Any
    children: tuple[Tree, ...]
    word: str | None
    depth: int
    size: int

    def __init__(self, label: Any, children: Iterable[Tree] = (), *, word: str | None = None) -> None:
        children = tuple(children)
        if (word is None) is not bool(children):
            came = "both" if children else "neither: an empty tree"
            raise ValueError(f"a tree has either a word or children; node {label!r} has {came}")
        if word is not None and (not isinstance(word, str) or not word):
            raise ValueError(f"a word is a non-empty string, got {word!r}")
        depth, size = 0, 1
        for child in children:
            if not isinstance(child, Tree):
                raise TypeError(
                    f"a child must be a Tree, got a {type(child).__name__}; a leaf is Tree(label, word=word)"
                )
            if child.depth > depth:
                depth = child.depth
            size += child.size
        _set_label(self, label)
        _set_children(self, children)
        _set_word(self, word)
        _set_depth(self, depth + 1)
        _set_size(self, size)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a Tree is immutable, so {name!r} cannot be set; make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Tree is immutable, so {name!r} cannot be deleted")

    @property
    def is_leaf(self) -> bool:
        """Whether this node has a word."""
        return self.word is not None

    def nodes(self) -> list[Tree]:
        """All nodes in post-order: children from left to right, then their parent; this node is the last."""
        order, stack = [], [self]
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(node.children)
        order.reverse()  # of parent first and children from the right
        return order

    def leaves(self) -> list[Tree]:
        """The leaves from left to right."""
        return [node for node in self.nodes() if node.word is not None]

    @property
    def words(self) -> list[str]:
        """The words of the leaves from left to right."""
        return [node.word for node in self.nodes() if node.word is not None]

    def map_labels(self, function: Callable[[Tree], Any]) -> Tree:
        """The same tree with ``function(node)`` as the label of every node.

        >>> tree = Tree("NP-SBJ", [Tree("NN", word="tea")])
        >>> print(tree.map_labels(lambda node: node.label.partition("-")[0]))
        (NP (NN tea))
        """
        return _built((function(node), node.word, len(node.children)) for node in self.nodes())

    def __len__(self) -> int:
        return self.size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        if self is other:
            return True
        return self.size == other.size and self.depth == other.depth and _entries(self) == _entries(other)

    def __hash__(self) -> int:
        return hash(tuple(_entries(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _built, (_entries(self),)

    def __str__(self) -> str:
        pieces: list[str] = []
        stack: list[Tree | str] = [self]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                pieces.append(item)
                continue
            pieces.append("(" if item.label is None else f"({item.label}")
            if item.word is None:
                stack.append(")")
                for child in reversed(item.children):
                    stack.extend((child, " "))
            else:
                pieces.append(f" {_escaped(item.word)})")
        return "".join(pieces)

    def __repr__(self) -> str:
        text = str(self)
        return f"Tree({text if len(text) <= 100 else text[:97] + '...'})"


# The slots' own setters, past __setattr__: a treebank has millions of nodes.
_set_label, _set_children, _set_word, _set_depth, _set_size = (
    Tree.__dict__[name].__set__ for name in ("label", "children", "word", "depth", "size")
)


def _escaped(word: str) -> str:
    return word.replace("(", "-LRB-").replace(")", "-RRB-")


def _entries(tree: Tree) -> list[Entry]:
    """A tree as a flat list, in post-order."""
    return [(node.label, node.word, len(node.children)) for node in tree.nodes()]


def _built(entries: Iterable[Entry]) -> Tree:
    """The tree of a list in post-order."""
    done: list[Tree] = []
    for label, word, arity in entries:
        first = len(done) - arity
        done[first:] = [Tree(label, done[first:], word=word)]
    return done[0]

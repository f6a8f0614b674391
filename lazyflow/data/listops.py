"""ListOps (Nangia & Bowman 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning"): nested operations on
digits.

An expression is ``[MAX 2 9 [MIN 4 7 ] 0 ]``: MAX and MIN of the arguments, MED their median, SM their sum modulo 10. In
the published files it is binarised to the left, and every binary node stands in parentheses: ``( ( ( [MAX 2 ) 9 ) ]
)``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lazyflow.data.text import StrPath, lines_of, quoted, read_text
from lazyflow.data.tree import Tree
from lazyflow.errors import ParseError

__all__ = ["ListOps", "evaluate", "listops", "parse_listops", "read_listops"]

OPERATORS = ("MAX", "MIN", "MED", "SM")
PATIENCE = 20_000  # draws in a row without a new expression, after which there are none to be found
_LEAF = "digit"  # the label of a leaf


def _median(values: Sequence[int]) -> int:
    """The middle value; of an even number of values the mean of the middle two, truncated."""
    middle, ordered = len(values) // 2, sorted(values)
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


_EVALUATE: Mapping[str, Callable[[Sequence[int]], int]] = {
    "MAX": max,
    "MIN": min,
    "MED": _median,
    "SM": lambda values: sum(values) % 10,
}


def evaluate(tree: Tree) -> int:
    """The value of an expression, from 0 to 9.

    >>> evaluate(parse_listops("[MED 2 9 [SM 5 7 ] 8 ]"))
    5
    """
    return _values(tree)[-1]


def _values(tree: Tree) -> list[int]:
    """The values of all nodes, in the order of ``tree.nodes()``."""
    values: list[int] = []
    pending: list[int] = []
    for node in tree.nodes():
        if node.word is not None:
            value = int(node.word)
        else:
            first = len(pending) - len(node.children)
            value = _EVALUATE[node.label](pending[first:])
            del pending[first:]
        pending.append(value)
        values.append(value)
    return values


@dataclass(frozen=True, slots=True)
class ListOps:
    """An expression and its value.

    ``tree``: as it is read, n-ary: inner nodes are labelled ``"MAX"``, ``"MIN"``, ``"MED"`` or ``"SM"``, leaves
    ``"digit"`` with the digit as their word. ``answer``: from 0 to 9. ``str()`` is the form of the published files.

    >>> example = ListOps(parse_listops("[MAX 2 9 ]"), 9)
    >>> print(example, example.tree, example.binary)
    ( ( ( [MAX 2 ) 9 ) ] ) (MAX (digit 2) (digit 9)) (9 ( ( ( [MAX) (2 2)) (9 9)) ( ]))
    """

    tree: Tree
    answer: int

    @property
    def binary(self) -> Tree:
        """The binary tree of the published files, as a parser from left to right would build it.

        Its leaves are the tokens ``[MAX``, ``2``, ..., ``]``. The label of a node that is an expression is its value;
        that of a node that is part of one (an operator, an operator with some arguments, a bracket) is None.
        """
        done: list[Tree] = []
        for node, value in zip(self.tree.nodes(), _values(self.tree), strict=True):
            if node.word is not None:
                done.append(Tree(value, word=node.word))
                continue
            first = len(done) - len(node.children)
            chain = Tree(None, word=f"[{node.label}")
            for argument in done[first:]:
                chain = Tree(None, [chain, argument])
            done[first:] = [Tree(value, [chain, Tree(None, word="]")])]
        return done[0]

    def __str__(self) -> str:
        return _bracketed(self.tree)


def _bracketed(tree: Tree) -> str:
    """The binarised form; an operator with n arguments opens n + 1 parentheses at once."""
    tokens: list[str] = []
    stack: list[Tree | str] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            tokens.append(item)
        elif item.word is not None:
            tokens.append(item.word)
        else:
            tokens.append("( " * (len(item.children) + 1) + f"[{item.label}")
            stack.append("] )")
            for child in reversed(item.children):
                stack.extend((")", child))
    return " ".join(tokens)


# Generating.


def listops(
    n: int,
    *,
    seed: int,
    max_depth: int = 20,
    max_args: int = 5,
    operator_probability: float = 0.25,
    max_length: int | None = None,
    balanced: bool = True,
) -> list[ListOps]:
    """``n`` distinct random expressions, by the procedure of the paper.

    The same arguments give the same expressions on every machine. An argument is an operation with
    ``operator_probability`` and a digit otherwise, and a digit at depth ``max_depth``; the operators are equally
    likely, and take 2 to ``max_args`` arguments. ``max_length``: at most so many digits and operators. ``balanced``:
    each of the ten answers equally often, up to one (as they are drawn, 0 and 9 are a fifth more frequent than the
    others, from MIN and MAX).

    Raises ``ValueError`` for arguments out of range, and when there are not enough distinct expressions.

    >>> examples = listops(20, seed=1, max_depth=3)
    >>> sorted(example.answer for example in examples) == sorted([*range(10), *range(10)])
    True
    >>> all(evaluate(example.tree) == example.answer for example in examples)
    True
    """
    _check_arguments(n, seed, max_depth, max_args, operator_probability)
    source = random.Random(seed)
    kept: dict[str, ListOps] = {}
    room = [n // 10 + (answer < n % 10) if balanced else n for answer in range(10)]
    failures = 0
    while len(kept) < n and failures < PATIENCE:
        tree = _draw(source, max_depth, max_args, operator_probability)
        fits = max_length is None or len(tree) <= max_length
        failures = 0 if fits and _keep(tree, kept, room) else failures + 1
    if len(kept) < n:
        raise ValueError(
            f"found only {len(kept)} of {n} distinct expressions; allow more with max_depth, max_args or max_length, "
            "or ask for fewer, or balanced=False"
        )
    found = list(kept.values())
    return [found[i] for i in _shuffled(source, n)]  # the last ones kept have the rarest answers


def _check_arguments(n: Any, seed: Any, max_depth: Any, max_args: Any, operator_probability: Any) -> None:
    for name, value, least in (("n", n, 0), ("seed", seed, 0), ("max_depth", max_depth, 1), ("max_args", max_args, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"listops: {name} must be an integer of at least {least}, got {value!r}")
    if not 0 <= operator_probability <= 1:
        raise ValueError(f"listops: operator_probability must be from 0 to 1, got {operator_probability!r}")


def _keep(tree: Tree, kept: dict[str, ListOps], room: list[int]) -> bool:
    """Keep an expression that is new and has an answer that is still wanted."""
    answer = evaluate(tree)
    if not room[answer]:
        return False
    example = ListOps(tree, answer)
    text = str(example)
    if text in kept:
        return False
    kept[text] = example
    room[answer] -= 1
    return True


def _below(source: random.Random, n: int) -> int:
    """An integer below ``n``. Only ``random()`` is promised to give the same numbers in every version of Python."""
    return int(source.random() * n)


def _shuffled(source: random.Random, n: int) -> list[int]:
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = _below(source, i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def _draw(source: random.Random, max_depth: int, max_args: int, probability: float) -> Tree:
    """One operation: a stack of [operator, arguments still to draw, arguments], the outermost first."""
    stack = [_operation(source, max_args)]
    while True:
        operator, missing, arguments = stack[-1]
        if not missing:
            stack.pop()
            tree = Tree(operator, arguments)
            if not stack:
                return tree
            stack[-1][2].append(tree)
            continue
        stack[-1][1] -= 1
        if len(stack) < max_depth and source.random() < probability:
            stack.append(_operation(source, max_args))
        else:
            arguments.append(_DIGITS[_below(source, 10)])


_DIGITS = [Tree(_LEAF, word=str(digit)) for digit in range(10)]


def _operation(source: random.Random, max_args: int) -> list[Any]:
    return [OPERATORS[_below(source, len(OPERATORS))], 2 + _below(source, max_args - 1), []]


# Reading.


def read_listops(path: StrPath) -> list[ListOps]:
    """A file in the published format (UTF-8, plain or gzipped): on every line the answer, a tab, the expression.

    Raises `ParseError` with path, line and column for anything else, and for an answer that is not the expression's
    value.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "test.tsv"
    >>> _ = path.write_text("9\\t( ( ( [MAX 2 ) 9 ) ] )\\n")
    >>> print(read_listops(path)[0].tree)
    (MAX (digit 2) (digit 9))
    """
    return [_read_line(path, number, line) for number, line in enumerate(lines_of(read_text(path)), 1)]


def _read_line(path: StrPath, number: int, line: str) -> ListOps:
    answer, tab, text = line.partition("\t")
    if not tab or not re.fullmatch("[0-9]", answer):
        raise ParseError(
            f"{path}:{number}:1: expected an answer from 0 to 9, a tab and an expression, got {line[:40]!r}"
        )
    example = ListOps(parse_listops(text, name=path, line=number, column=3), int(answer))
    value = evaluate(example.tree)
    if value != example.answer:
        raise ParseError(f"{path}:{number}:1: expected the answer {value}, the value of the expression, got {answer}")
    return example


def parse_listops(text: str, *, name: StrPath = "<text>", line: int = 1, column: int = 1) -> Tree:
    """The n-ary tree of one expression, with the parentheses of the published files or without any.

    ``line`` and ``column``: where ``text`` begins in the file ``name``, for errors.

    >>> print(parse_listops("( ( ( [SM 6 ) ( ( ( [MIN 6 ) 3 ) ] ) ) ] )"))
    (SM (digit 6) (MIN (digit 6) (digit 3)))
    >>> parse_listops("[SM 6 x ]")
    Traceback (most recent call last):
    lazyflow.errors.ParseError: <text>:1:7: expected a digit, [MAX, [MIN, [MED, [SM or ], got 'x'
    """
    tree = _Reader(name, line, column, text).tree()
    if "(" in text or ")" in text:
        _check_parentheses(text, _bracketed(tree), f"{name}:{line}", column)
    return tree


@dataclass(slots=True)
class _Reader:
    name: StrPath
    line: int
    column: int
    text: str

    def tree(self) -> Tree:
        stack: list[tuple[str, list[Tree]]] = []
        done: Tree | None = None
        for token, offset in self._tokens():
            if done is not None:
                self._fail(offset, f"expected the end of the expression, got {quoted(token)}")
            if token[0] == "[" and token[1:] in OPERATORS:
                stack.append((token[1:], []))
                continue
            tree = self._complete(token, offset, stack)
            if stack:
                stack[-1][1].append(tree)
            else:
                done = tree
        if done is None:
            self._fail(
                len(self.text), "expected ']', the text ends" if stack else "expected an expression, the text ends"
            )
        return done

    def _complete(self, token: str, offset: int, stack: list[tuple[str, list[Tree]]]) -> Tree:
        """The expression that ``token`` ends."""
        if token == "]" and stack:
            operator, arguments = stack.pop()
            if not arguments:
                self._fail(offset, f"expected an argument of {operator}, got ']'")
            return Tree(operator, arguments)
        if len(token) > 1 or token not in "0123456789":
            operators = ", ".join(f"[{operator}" for operator in OPERATORS)
            self._fail(offset, f"expected a digit, {operators}{' or ]' if stack else ''}, got {quoted(token)}")
        return _DIGITS[int(token)]

    def _tokens(self) -> Iterator[tuple[str, int]]:
        for match in re.finditer(r"[^ ]+", self.text):
            if match.group() not in "()":
                yield match.group(), match.start()

    def _fail(self, offset: int, message: str) -> NoReturn:
        raise ParseError(f"{self.name}:{self.line}:{self.column + offset}: {message}")


def _check_parentheses(text: str, expected: str, place: str, column: int) -> None:
    """Raise unless ``text`` has the parentheses of the binarised form: it is one text, so compare."""
    if text == expected:
        return
    offset = next(
        (i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected))
    )
    raise ParseError(
        f"{place}:{column + offset}: expected the parentheses of the left-leaning binary form, "
        f"{expected[offset : offset + 12]!r} here, got {text[offset : offset + 12]!r}"
    )

"""ListOps: evaluation against Python's own, the generator's properties, the published format."""

from __future__ import annotations

import gzip
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyflow.data import ListOps, Tree, evaluate, listops, parse_listops, read_listops
from lazyflow.errors import ParseError

DIGITS = st.integers(0, 9)


@pytest.mark.parametrize(
    ("operator", "reference"),
    [("MAX", max), ("MIN", min), ("MED", lambda v: int(statistics.median(v))), ("SM", lambda v: sum(v) % 10)],
)
@given(values=st.lists(DIGITS, min_size=1, max_size=6))
def test_operators(operator: str, reference: Any, values: list[int]) -> None:
    assert evaluate(parse_listops(f"[{operator} {' '.join(map(str, values))} ]")) == reference(values)


@pytest.mark.parametrize(
    ("plain", "answer"),
    [
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[SM 6 5 9 0 ]", 0),
        ("[MED 1 [SM 9 9 ] ]", 4),
        ("7", 7),
        ("[MIN [MAX 1 2 ] [SM 9 2 ] ]", 1),
    ],
)
def test_evaluation_of_nested_expressions(plain: str, answer: int) -> None:
    assert evaluate(parse_listops(plain)) == answer


def test_the_binary_form() -> None:
    example = ListOps(parse_listops("[MAX 2 [SM 7 7 ] ]"), 4)
    assert str(example) == "( ( ( [MAX 2 ) ( ( ( [SM 7 ) 7 ) ] ) ) ] )"
    binary = example.binary
    assert binary.words == ["[MAX", "2", "[SM", "7", "7", "]", "]"]
    assert [node.label for node in binary.nodes()] == [None, 2, None, None, 7, None, 7, None, None, 4, None, None, 4]
    assert {len(node.children) for node in binary.nodes()} == {0, 2}
    assert binary.children[0].children[0].children[0].word == "[MAX"  # leans to the left


PINNED = ["(SM (digit 5) (digit 5))", "(SM (digit 4) (digit 7))"]


@pytest.fixture(scope="module")
def generated() -> list[ListOps]:
    return listops(300, seed=5)


def test_generated_expressions(generated: list[ListOps]) -> None:
    assert Counter(example.answer for example in generated) == dict.fromkeys(range(10), 30)
    assert len({str(example) for example in generated}) == 300
    operators = Counter()
    for example in generated:
        assert example.binary.label == example.answer == evaluate(example.tree)
        for node in example.tree.nodes():
            assert node.is_leaf or 2 <= len(node.children) <= 5
            operators[node.label] += 1
    assert set(operators) == {"MAX", "MIN", "MED", "SM", "digit"}


def test_the_same_seed_gives_the_same_expressions(generated: list[ListOps]) -> None:
    assert listops(300, seed=5) == generated
    assert listops(300, seed=6) != generated
    assert [str(example.tree) for example in listops(2, seed=1, max_depth=1, max_args=2)] == PINNED


def test_answers_are_in_no_order(generated: list[ListOps]) -> None:
    halves = [Counter(example.answer for example in part) for part in (generated[:150], generated[150:])]
    assert all(counts[answer] >= 5 for counts in halves for answer in range(10))


@pytest.mark.parametrize(
    "options",
    [
        {"max_depth": 1},
        {"max_depth": 3, "max_args": 2},
        {"max_length": 6},
        {"operator_probability": 0.6, "max_depth": 4},
    ],
    ids=str,
)
def test_limits_hold(options: dict[str, Any]) -> None:
    for example in listops(50, seed=2, **options):
        assert example.tree.depth <= options.get("max_depth", 20) + 1
        assert max(len(node.children) for node in example.tree.nodes()) <= options.get("max_args", 5)
        assert len(example.tree) <= options.get("max_length", 10**9)


def test_unbalanced_and_none() -> None:
    answers = Counter(example.answer for example in listops(500, seed=3, balanced=False))
    assert len(answers) == 10 and len(set(answers.values())) > 1
    assert listops(0, seed=1) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "n must be an integer of at least 0, got -1"),
        ({"seed": None}, "seed must be an integer"),
        ({"max_depth": 0}, "max_depth must be an integer of at least 1, got 0"),
        ({"max_args": 1}, "max_args must be an integer of at least 2, got 1"),
        ({"operator_probability": 1.5}, "operator_probability must be from 0 to 1, got 1.5"),
        (
            {"n": 2000, "max_depth": 1, "max_args": 2},
            "found only .* of 2000 distinct expressions; allow more with max_depth",
        ),
        ({"max_length": 1}, "found only 0 of 5 distinct expressions"),
    ],
)
def test_what_cannot_be_generated(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listops(**{"n": 5, "seed": 1, **options})


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_the_published_format_and_back(tmp_path: Path, generated: list[ListOps], name: str) -> None:
    data = "".join(f"{example.answer}\t{example}\n" for example in generated).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_listops(path) == generated


ERRORS = [
    (
        "10\t( ( ( [MAX 2 ) 9 ) ] )",
        "1: expected an answer from 0 to 9, a tab and an expression, got '10\\t( ( ( [MAX 2 ) 9 ) ] )'",
    ),
    ("9 [MAX 2 9 ]", "1: expected an answer from 0 to 9"),
    ("8\t( ( ( [MAX 2 ) 9 ) ] )", "1: expected the answer 9, the value of the expression, got 8"),
    ("9\t[MAX 2 9", "11: expected ']', the text ends"),
    ("9\t", "3: expected an expression, the text ends"),
    ("9\t[MAX 2 9 ] ]", "14: expected the end of the expression, got ']'"),
    ("9\t[TOP 2 9 ]", "3: expected a digit, [MAX, [MIN, [MED, [SM, got '[TOP'"),
    ("9\t[MAX 2 10 ]", "10: expected a digit, [MAX, [MIN, [MED, [SM or ], got '10'"),
    ("9\t[MAX ]", "8: expected an argument of MAX, got ']'"),
    (
        "9\t( ( ( [MAX 2 ) 9 ] )",
        "20: expected the parentheses of the left-leaning binary form, ') ] )' here, got '] )'",
    ),
    (
        "9\t( ( [MAX 2 ) 9 ) ] )",
        "7: expected the parentheses of the left-leaning binary form, '( [MAX 2 ) 9' here, got '[MAX 2 ) 9 )'",
    ),
]


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[line for line, _ in ERRORS])
def test_errors_say_where(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(f"7\t7\n{line}\n", encoding="utf-8")
    with pytest.raises(ParseError) as caught:
        read_listops(path)
    assert str(caught.value).startswith(f"{path}:2:{message}")


def test_ten_thousand_levels() -> None:
    tree = Tree("digit", word="3")
    for _ in range(10_000):
        tree = Tree("SM", [tree, Tree("digit", word="1")])
    example = ListOps(tree, evaluate(tree))
    assert example.answer == (3 + 10_000) % 10
    assert example.binary.label == example.answer
    assert parse_listops(str(example)) == tree
    assert listops(1, seed=1, max_depth=10_000, max_args=2, operator_probability=0.5, balanced=False)[0].tree.depth > 1

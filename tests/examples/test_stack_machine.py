"""The machine's oracle builds the expression, and the plain loop gives the same batched."""

import gzip
import runpy
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import data, optim

EXAMPLE = Path(lf.__file__).parents[1] / "examples" / "stack_machine.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def bracketed(expression):
    """The binary tree of an expression in brackets, without its labels."""
    return expression if isinstance(expression, str) else f"({bracketed(expression[0])} {bracketed(expression[1])})"


def test_the_best_decisions_build_the_published_trees(example):
    for found in data.listops(60, seed=3, max_depth=3, max_args=4, max_length=24):
        expression, stack = example["without_parentheses"](found), []
        position = 0
        while position < len(expression.tokens) or len(stack) > 1:
            over = position == len(expression.tokens)
            if over or (len(stack) > 1 and example["best_is_to_reduce"](stack)):
                right, left = stack.pop(), stack.pop()
                stack.append(example["Entry"]((left.h, right.h), None, example["reduced"](left, right)))
            else:
                token = expression.tokens[position]
                stack.append(example["Entry"](token, None, example["kind_of"](token)))
                position += 1

        def shape(tree):
            return tree.word if tree.word is not None else f"({shape(tree.children[0])} {shape(tree.children[1])})"

        assert bracketed(stack[0].h) == shape(found.binary) and stack[0].kind == "value"


def test_it_learns_to_decide(example):
    lf.seed(0)
    made = data.listops(48, seed=1, max_depth=2, max_args=3, max_length=9)
    corpus = [example["without_parentheses"](e) for e in made]
    model = example["Machine"](8, 16)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    batches = [corpus[i : i + 16] for i in range(0, 48, 16)]
    losses = [example["train"](model, optimizer, batches) for _ in range(6)]
    scores = example["evaluate"](model, batches)
    assert losses[-1] < 0.9 * losses[0] and scores.decisions > 0.75


def test_a_map_answers_as_a_loop_does(example):
    corpus = example["generated"](24, 1)
    lf.seed(0)
    model = example["Machine"](8, 8)
    with lf.no_grad():
        assert lf.map(model.answer, corpus) == [model.answer(one) for one in corpus]
    gradients = []
    for together in (None, 1):
        model.zero_grad()
        lf.seed(4)
        lf.mean(lf.map(model.loss, corpus, together=together)).backward()
        gradients.append(model.embedding.weight.grad.to_dense())
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_the_program_says_what_it_does(example, capsys, tmp_path):
    lines = "".join(f"{e.answer}\t{e}\n" for e in data.listops(40, seed=0, max_depth=2, max_args=3, max_length=12))
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    file = str(tmp_path / "train.tsv.gz")
    example["main"](["--quick", "--epochs", "1", "--train", file, "--dev", file, "--most", "30"])
    printed = capsys.readouterr().out
    assert (
        "30 expressions an epoch, and 30 held out" in printed
        and "decisions" in printed
        and "expressions/s with lf.map" in printed
    )


def test_new_expressions_are_none_of_those_that_are_held_out(example):
    held = example["generated"](60, 0)
    first, second = (example["fresh"](300, held, seed) for seed in (1, 2))
    known = {expression.tokens for expression in held}
    assert not any(expression.tokens in known for expression in (*first, *second))
    assert len(first) > 200 and first != second

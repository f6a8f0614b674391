"""The parser's oracle is right, and the plain loop gives the same batched."""

import functools
import runpy
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import optim

EXAMPLE = Path(lf.__file__).parents[1] / "examples" / "parser.py"
CONLLU = """\
1\tDogs\tdog\tNOUN\tNNS\t_\t2\tnsubj\t_\t_
2\tsleep\tsleep\tVERB\tVBP\t_\t0\troot\t_\t_
3\tin\tin\tADP\tIN\t_\t4\tcase\t_\t_
4\thouses\thouse\tNOUN\tNNS\t_\t2\tobl:loc\t_\t_

"""


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def model_of(example, corpus, size=8):
    lf.seed(1)
    return example["Parser"](corpus, size, 4, size, size)


def gold_of(example, sentence):
    model = model_of(example, [sentence])
    return model._gold(sentence)


def copied(example, state):
    new = example["State"](state.root)
    new.stack, new.first, new.heads = list(state.stack), state.first, list(state.heads)
    return new


def most(example, state, gold):
    """How many gold heads can still be had from a state: by trying all that can be done."""
    seen = {}

    def best(stack, first):
        key = stack, first
        if key not in seen:
            here = example["State"](state.root)
            here.stack, here.first = list(stack), first
            found = [0] if here.is_over() else []
            for move, allowed in enumerate(here.allowed()):
                if allowed:
                    new = copied(example, here)
                    new.take(move, 0)
                    popped = stack[-1] if move else None
                    gained = popped is not None and new.heads[popped] == gold.heads[popped]
                    found.append(gained + best(tuple(new.stack), new.first))
            seen[key] = max(found)
        return seen[key]

    return best(tuple(state.stack), state.first)


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_what_a_search_finds(example, seed):
    rng = np.random.default_rng(seed)
    sentences = [s for s in example["generated"](60, seed) if len(s.words) <= 7][:6]
    for sentence in sentences:
        gold, state = gold_of(example, sentence), example["State"](len(sentence.words))
        while not state.is_over():
            before = most(example, state, gold)
            for move, (allowed, cost) in enumerate(zip(state.allowed(), state.costs(gold), strict=True)):
                if allowed:
                    new = copied(example, state)
                    new.take(move, 0)
                    gained = bool(move) and new.heads[state.stack[-1]] == gold.heads[state.stack[-1]]
                    assert before - most(example, new, gold) - gained == cost
            state.take(int(rng.choice(np.flatnonzero(state.allowed()))), 0)


def test_a_generated_tree_is_one_that_the_oracle_finds(example):
    for sentence in example["generated"](40, 5):
        gold, state = gold_of(example, sentence), example["State"](len(sentence.words))
        while not state.is_over():
            costs = [c if ok else 99 for c, ok in zip(state.costs(gold), state.allowed(), strict=True)]
            state.take(int(np.argmin(costs)), 0)
        assert tuple(state.heads) == sentence.heads
        assert sentence.labels.count("root") == 1 == sentence.heads.count(len(sentence.words))


@pytest.mark.parametrize("training", [True, False])
def test_a_map_parses_as_a_loop_does(example, training):
    corpus = example["generated"](24, 3)
    model = model_of(example, corpus).train(training)
    outcomes = []
    for together in (None, 1):
        lf.seed(2)
        model.zero_grad()
        losses = lf.map(model.loss, corpus, together=together)
        lf.sum([loss for found in losses for loss in found]).backward()
        states = lf.map(model.parse, corpus, together=together)
        outcomes.append(([len(found) for found in losses], [s.heads for s in states], model.scores.weight.grad))
    (counts, heads, gradient), (others, other_heads, other_gradient) = outcomes
    assert counts == others and heads == other_heads
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-3, atol=1e-4)


def test_it_learns_the_generated_language(example):
    corpus = sorted(example["generated"](160, 0), key=lambda sentence: len(sentence.words))[:64]
    model = model_of(example, corpus, 16)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    batches = [corpus[i : i + 8] for i in range(0, len(corpus), 8)]
    losses = [example["train"](model, optimizer, batches) for _ in range(5)]
    scores = example["evaluate"](model, batches)
    assert losses[-1] < 0.5 * losses[0]
    assert scores.unlabelled > 0.6 and scores.labelled > 0.5


def test_a_treebank_is_read(example, tmp_path):
    (tmp_path / "x.conllu").write_text(CONLLU)
    (sentence,) = example["treebank"](tmp_path / "x.conllu")
    assert sentence.words == ("Dogs", "sleep", "in", "houses")
    assert sentence.tags == ("NOUN", "VERB", "ADP", "NOUN")
    assert sentence.heads == (1, 4, 3, 1) and sentence.labels == ("nsubj", "root", "case", "obl")


def test_the_program_says_what_it_does(example, capsys, tmp_path):
    (tmp_path / "x.conllu").write_text(CONLLU * 8)
    file = str(tmp_path / "x.conllu")
    run = functools.partial(example["main"], ["--train", file, "--dev", file, "--epochs", "2", "--quick"])
    run()
    printed = capsys.readouterr().out
    assert "8 sentences to train" in printed and "epoch  2: loss" in printed and "LAS" in printed
    assert "sentences/s with lf.map" in printed
    with pytest.raises(SystemExit):
        example["main"](["--train", file])

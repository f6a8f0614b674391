"""The network that looks until it is sure does so, and the plain loop gives the same batched."""

import runpy
from pathlib import Path

import numpy as np
import pytest

import lazyflow as lf
from lazyflow import optim

EXAMPLE = Path(lf.__file__).parents[1] / "examples" / "early_exit.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def trained(example, corpus):
    lf.seed(0)
    model = example["Reader"](16, 16, 4, 0.9)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    for _ in range(6):
        example["train"](model, optimizer, [corpus[i : i + 32] for i in range(0, len(corpus), 32)])
    return model


def test_it_learns_and_stops_early(example):
    corpus, dev = example["generated"](256, 1), example["generated"](64, 2)
    model = trained(example, corpus)
    right, views = example["evaluate"](model, [dev])
    assert right > 0.7 and 1 < views < 12
    model.sure = 1.0
    assert example["evaluate"](model, [dev])[1] == 12
    model.sure = 0.0
    assert example["evaluate"](model, [dev])[1] == 1


def test_a_map_answers_as_a_loop_does(example):
    corpus = example["generated"](48, 1)
    lf.seed(0)
    model = example["Reader"](16, 16, 4, 0.4)
    with lf.no_grad():
        assert lf.map(model.answer, corpus) == [model.answer(one) for one in corpus]
    gradients = []
    for run in (lf.map, example["one_by_one"]):
        model.zero_grad()
        lf.mean(run(model.loss, corpus)).backward()
        gradients.append(model.cell.weight_hh.grad)
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_the_program_says_what_it_does(example, capsys):
    example["main"](["--quick", "--epochs", "1"])
    printed = capsys.readouterr().out
    assert "epoch  1: loss" in printed and "sure at 0.60" in printed and "examples/s with lf.map" in printed

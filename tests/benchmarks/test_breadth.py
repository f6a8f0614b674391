"""``python -m benchmarks breadth``: every model runs, and nothing is timed that is not equal."""

import numpy as np
import pytest

from benchmarks import __main__ as cli
from benchmarks import breadth
from benchmarks.breadth import base, molecules

ARGUMENTS = ["--small", "--examples", "12", "--batch", "4", "--seconds", "0"]


def options(*arguments):
    return cli.parser().parse_args(["breadth", *ARGUMENTS, *arguments])


@pytest.mark.parametrize("name", base.NAMES)
def test_every_model_runs(name, capsys):
    results = breadth.run(options("--models", name, "--libraries"))
    printed = capsys.readouterr().out
    for title, found in results["models"].items():
        assert title in printed and found["asked"] in printed
        assert {base.LAZYFLOW, f"{base.LAZYFLOW}, kept"} <= set(found["train"]) == set(found["infer"])
        assert all(len(c["rounds"]) == 5 and c["per_s"] > 0 for c in found["train"].values())
        for nodes, launches, bound in found["launches"].values():
            assert bound <= launches <= nodes


@pytest.mark.peer
@pytest.mark.parametrize("name", base.NAMES)
def test_every_model_equals_pytorchs(name):
    pytest.importorskip("torch", reason="compared with PyTorch, which is not installed (extra 'peers')")
    for task in base.modules()[name].tasks(options()):
        task = base.sized(task, options())
        found = base.candidates(task, ["pytorch"])
        assert base.ALONE in found and (base.BATCHED in found) == task.batched
        base.check_equal(task, found)


@pytest.mark.peer
def test_the_tagger_equals_dynets():
    if not base.has("dynet"):
        pytest.skip("compared with DyNet, which is not installed (extra 'peers')")
    (task,) = base.modules()["tagger"].tasks(options())
    task = base.sized(task, options())
    base.check_equal(task, base.candidates(task, ["dynet"]))


def test_what_is_not_equal_is_not_timed():
    (task,) = base.modules()["perceptron"].tasks(options())
    found = base.candidates(base.sized(task, options()), [])
    found[f"{base.LAZYFLOW}, kept"].module.output.bias.assign(np.arange(10.0))
    with pytest.raises(AssertionError, match="perceptron an example: lazyflow, kept"):
        base.check_equal(task, found)


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(base, "has", lambda library: False)
    results = breadth.run(options("--models", "perceptron"))
    assert results["missing"] == ["pytorch", "dynet"] and "pytorch: not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("smiles", "atoms", "bonds"),
    [
        ("CC", ["C", "C"], [(0, 1, 0)]),
        ("C=C#N", ["C", "C", "N"], [(0, 1, 1), (1, 2, 2)]),
        ("ClC(Br)I", ["Cl", "C", "Br", "I"], [(0, 1, 0), (1, 2, 0), (1, 3, 0)]),
        ("C1CC1", ["C"] * 3, [(0, 1, 0), (1, 2, 0), (0, 2, 0)]),
        ("c1ccc1", ["c"] * 4, [(0, 1, 3), (1, 2, 3), (2, 3, 3), (0, 3, 3)]),
        ("C%10CC%10", ["C"] * 3, [(0, 1, 0), (1, 2, 0), (0, 2, 0)]),
        ("C(=O)(O)N", ["C", "O", "O", "N"], [(0, 1, 1), (0, 2, 0), (0, 3, 0)]),
        ("[NH4+].[Cl-]", ["N+", "Cl-"], []),
        ("[C@@H](C)[nH]", ["C", "C", "n"], [(0, 1, 0), (0, 2, 0)]),
    ],
)
def test_molecules_are_read(smiles, atoms, bonds):
    assert molecules.parsed(smiles) == (atoms, bonds)


def test_messages_come_from_all_other_bonds():
    found = molecules.molecule([0, 0, 0], [(0, 1, 0), (1, 2, 1)], -1.0)
    assert found.bonds == ((0, 1, 0), (1, 0, 0), (1, 2, 1), (2, 1, 1))
    assert found.before == ((), (3,), (0,), ())
    assert found.into == ((1,), (0, 3), (2,))

"""Message passing over molecules: a message on every directed bond, made of those that come in at its first atom (Yang
et al. 2019, "Analyzing learned molecular representations"), and the mean over atoms says how soluble it is."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lazyflow as lf
from benchmarks import sentences
from benchmarks.breadth.base import Task
from lazyflow import nn

STEPS = 3
BONDS = {"-": 0, "/": 0, "\\": 0, "=": 1, "#": 2, ":": 3}
ATOM = r"(?P<atom>\[[^]]+\]|Br|Cl|[BCNOPSFI]|[bcnops])"
TOKEN = re.compile(ATOM + r"|(?P<bond>[-=#:/\\])|(?P<ring>%\d\d|\d)|(?P<other>[().])")


class Molecule(NamedTuple):
    """``atoms``: their kinds. ``bonds``: of each directed bond the atoms that it leads from and to, and its kind.
    ``before``: for each directed bond those that lead into its first atom, but for its own reverse; ``into``: for each
    atom those that lead into it."""

    atoms: tuple[int, ...]
    bonds: tuple[tuple[int, int, int], ...]
    before: tuple[tuple[int, ...], ...]
    into: tuple[tuple[int, ...], ...]
    solubility: float


class MessagePassing(nn.Module):
    """For one molecule."""

    def __init__(self, atoms: int, size: int, hidden: int) -> None:
        super().__init__()
        self.atom = nn.Embedding(atoms, size)
        self.bond = nn.Embedding(4, size)
        self.start = nn.Linear(2 * size, hidden)
        self.pass_on = nn.Linear(hidden, hidden, bias=False)
        self.read = nn.Linear(size + hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    def outputs(self, molecule: Molecule) -> list[lf.Expr]:
        atoms = [self.atom(kind) for kind in molecule.atoms]
        starts = [self.start(lf.concatenate([atoms[v], self.bond(kind)])) for v, _, kind in molecule.bonds]
        messages = [lf.relu(x) for x in starts]
        for _ in range(STEPS):
            messages = [
                lf.relu(x + self.pass_on(lf.sum([messages[k] for k in before]))) if before else lf.relu(x)
                for x, before in zip(starts, molecule.before, strict=True)
            ]
        read = [
            lf.relu(self.read(lf.concatenate([atom, lf.sum([messages[k] for k in into])])))
            for atom, into in zip(atoms, molecule.into, strict=True)
        ]
        return [self.output(lf.mean(read))]

    def loss(self, molecule: Molecule) -> lf.Expr:
        (y,) = self.outputs(molecule)
        return lf.sum(lf.square(y - molecule.solubility))


class WholeMolecules(MessagePassing):
    """The same with a row for each atom and for each bond: what comes in at an atom is a sum by index."""

    def outputs(self, molecule: Molecule) -> list[lf.Expr]:
        v, w, kinds = np.array(molecule.bonds).T
        count, reverse = len(molecule.atoms), np.arange(len(v)) ^ 1
        atoms = self.atom(molecule.atoms)
        start = self.start(lf.concatenate([atoms[v], self.bond(kinds)], axis=1))
        messages = lf.relu(start)
        for _ in range(STEPS):
            others = lf.segment_sum(messages, w, count)[v] - messages[reverse]
            messages = lf.relu(start + self.pass_on(others))
        read = lf.relu(self.read(lf.concatenate([atoms, lf.segment_sum(messages, w, count)], axis=1)))
        return [self.output(lf.mean(read, axis=0))]


# Molecules


def parsed(smiles: str) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Atoms and bonds of a molecule in SMILES, without stereochemistry; between two aromatic atoms a bond is aromatic.

    >>> parsed("C=C(O)c1ccccc1")[1][:3]
    [(0, 1, 1), (1, 2, 0), (1, 3, 0)]
    """
    atoms: list[str] = []
    bonds: list[tuple[int, int, int]] = []
    open_rings: dict[str, tuple[int, int | None]] = {}
    branches: list[int] = []
    last, kind = -1, None

    def bind(a: int, b: int, given: int | None) -> None:
        aromatic = atoms[a][:1].islower() and atoms[b][:1].islower()
        bonds.append((a, b, given if given is not None else 3 if aromatic else 0))

    for token in TOKEN.finditer(smiles):
        text = token[0]
        if token["atom"]:
            atoms.append(re.sub(r"[\[\]@\d]|H\d*(?=[+\-\]])", "", text) or "H")
            if last >= 0:
                bind(last, len(atoms) - 1, kind)
            last, kind = len(atoms) - 1, None
        elif token["bond"]:
            kind = BONDS[text]
        elif token["ring"]:
            if text in open_rings:
                other, before = open_rings.pop(text)
                bind(other, last, kind if kind is not None else before)
            else:
                open_rings[text] = last, kind
            kind = None
        elif text == "(":
            branches.append(last)
        else:
            last = branches.pop() if text == ")" else -1
    return atoms, bonds


def molecule(atoms: Sequence[int], bonds: Sequence[tuple[int, int, int]], solubility: float) -> Molecule:
    """Both directions of every bond, and what leads where."""
    directed = [pair for a, b, kind in bonds for pair in ((a, b, kind), (b, a, kind))]
    into = [[k for k, (_, w, _) in enumerate(directed) if w == atom] for atom in range(len(atoms))]
    before = [tuple(j for j in into[v] if j != k ^ 1) for k, (v, _, _) in enumerate(directed)]
    return Molecule(tuple(atoms), tuple(directed), tuple(before), tuple(map(tuple, into)), solubility)


def read(folder: Path | None, count: int) -> tuple[list[Molecule], int]:
    """Molecules with a bond, and how many kinds of atoms there are."""
    if folder is None:
        return [_generated(random.Random(seed)) for seed in range(count)], 9
    with (folder / "dataset-G.csv").open(newline="", encoding="utf-8") as lines:
        found = [(*parsed(row["SMILES"]), float(row["Solubility"])) for row in csv.DictReader(lines)]
    kinds = sentences.numbered((a for atoms, _, _ in found for a in atoms), first=0)
    return [molecule([kinds[a] for a in atoms], bonds, y) for atoms, bonds, y in found if _is_whole(atoms, bonds)], len(
        kinds
    )


def _is_whole(atoms: Sequence[str], bonds: Sequence[tuple[int, int, int]]) -> bool:
    """Whether every atom has a bond: lone ions take no part."""
    return {a for bond in bonds for a in bond[:2]} == set(range(len(atoms)))


def _generated(chance: random.Random) -> Molecule:
    """A random tree with some rings."""
    count = 3 + min(40, int(chance.expovariate(0.1)))
    bonds = [(chance.randrange(max(0, k - 3), k), k, chance.choice([0, 0, 0, 1])) for k in range(1, count)]
    bonds += [(k, k + 5, 0) for k in range(0, count - 5, 9) if (k, k + 5) not in {b[:2] for b in bonds}]
    return molecule([chance.randrange(9) for _ in range(count)], bonds, chance.gauss(-3, 2))


def tasks(options: Any) -> list[Task]:
    found, atoms = read(options.molecules, options.examples)
    sizes = {"size": 4, "hidden": 5} if options.small else {"size": 32, "hidden": 128}
    return [
        Task(
            "message passing over molecules", 32, "1.1 and 1.0; kept 1.3", found, {"atoms": atoms, **sizes},
            MessagePassing, {"rows": WholeMolecules}, pytorch="molecules",
        )
    ]  # fmt: skip

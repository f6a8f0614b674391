"""Training steps whose launches and copies on a device are counted: a Tree-LSTM, a tagger, a plain loop, a Transformer.

``python -m tests.counted`` prints what they cost on the simulator, and the lines that asked for most.
"""

import argparse
import sys

import numpy as np

import lazyflow as lf
from benchmarks import lazyflow_tree_lstm, trees
from lazyflow import nn
from tests import simcupy

WORDS, TAGS, EXAMPLES = 50, 5, 8


def random_trees(rng):
    """Trees as nested pairs of words."""

    def tree(size):
        if size == 1:
            return int(rng.integers(WORDS))
        left = int(rng.integers(1, size))
        return tree(left), tree(size - left)

    return [(tree(int(rng.integers(2, 9))), int(rng.integers(TAGS))) for _ in range(EXAMPLES)]


def random_sentences(rng):
    lengths = rng.integers(2, 9, EXAMPLES).tolist()
    return [(rng.integers(WORDS, size=n).tolist(), rng.integers(TAGS, size=n).tolist()) for n in lengths]


class TreeLSTM(nn.Module):
    """Classifies the root."""

    data = staticmethod(random_trees)

    def __init__(self):
        super().__init__()
        self.table, self.cell, self.out = nn.Embedding(WORDS, 6), nn.BinaryTreeLSTMCell(6, 5), nn.Linear(5, TAGS)

    def encoded(self, tree):
        if isinstance(tree, int):
            return self.cell.leaf(self.table(tree))
        return self.cell(*map(self.encoded, tree))

    def __call__(self, tree, target):
        return lf.cross_entropy(self.out(self.encoded(tree)[0]), target)


class Tagger(nn.Module):
    """A bidirectional LSTM, and a class for each word."""

    data = staticmethod(random_sentences)

    def __init__(self):
        super().__init__()
        self.table, self.lstm, self.out = nn.Embedding(WORDS, 6), nn.BiLSTM(6, 5), nn.Linear(10, TAGS)

    def __call__(self, words, tags):
        states, _ = self.lstm([self.table(word) for word in words])
        return lf.sum([lf.cross_entropy(self.out(h), tag) for h, tag in zip(states, tags, strict=True)])


class Loop(nn.Module):
    """A gated recurrent network of operations, without any cell."""

    data = staticmethod(random_sentences)

    def __init__(self):
        super().__init__()
        self.table, self.update = nn.Embedding(WORDS, 6), nn.Linear(6, 12)

    def __call__(self, words, tags):
        h = self.table(words[0])
        for word in words[1:]:
            update, gate = lf.split(self.update(h), 2)
            h = lf.tanh(update) * lf.sigmoid(gate) + self.table(word) / len(words)
        return lf.sum(h * h)


class Encoder(nn.Module):
    """A Transformer's encoder over a sentence as a matrix, and a class for each word."""

    data = staticmethod(random_sentences)

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0)
        self.table, self.encoder, self.out = nn.Embedding(WORDS, 6), nn.TransformerEncoder(layer, 2), nn.Linear(6, TAGS)

    def __call__(self, words, tags):
        scores = self.out(self.encoder(self.table(np.array(words))))
        return lf.sum(nn.functional.cross_entropy(scores, np.array(tags), reduction="none"))


PROGRAMS = {"Tree-LSTM": TreeLSTM, "tagger": Tagger, "loop": Loop, "encoder": Encoder}
# The Tree-LSTM of the benchmarks, with a loss at every node: its form, how many trees like those of the treebank, and
# whether all levels are one kernel.
TREEBANK = {
    "64 trees": ("cell", 64, False),
    "256 trees": ("cell", 256, False),
    "64 trees, persistent": ("cell", 64, True),
    "64 trees, plain operations": ("plain", 64, False),
}


def seen_in_treebank(name, device="cuda:0", watched="lazyflow/"):
    """The counters of the third training step of some trees, the loss read at its end; and the levels of the trees."""
    form, count, persistent = TREEBANK[name]
    corpus = trees.synthetic(3 * count, seed=3, vocabulary_size=400)
    with lf.using(device=device, persistent=persistent):
        model = lazyflow_tree_lstm.setup(400, 6, 5, trees.CLASSES, 1, form=form)
        for k in range(3):
            some = corpus[k * count : (k + 1) * count]
            with simcupy.counting(watched) as seen:
                loss = lf.mean([model.loss(tree) for tree in some])
                loss.backward()
                model.optimizer.step()
                model.optimizer.zero_grad()
                loss.item()
    return seen, max(map(levels, some))


def is_simulated():
    """Whether the simulator stands for CuPy, which alone counts."""
    return sys.modules.get("cupy") is simcupy.namespace.CUPY


def levels(tree):
    return 1 + max(map(levels, tree.children), default=0)


def seen_in_step(name, device="cuda:0", watched="lazyflow/"):
    """The counters of the third training step, by which time all that is made once is made."""
    lf.seed(1)
    rng = np.random.default_rng(2)
    with lf.using(device=device):
        model = PROGRAMS[name]()
        optimizer = lf.optim.Adam(model.parameters())
        for _ in range(3):
            examples = model.data(rng)
            with simcupy.counting(watched) as seen:
                optimizer.zero_grad()
                lf.mean([model(*example) for example in examples]).backward()
                optimizer.step()
    return seen


def figures(seen):
    return {"launches": seen.launches, "uploads": seen.h2d, "downloads": seen.d2h, "waits": seen.syncs}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.counted", description=__doc__)
    known = [*PROGRAMS, *TREEBANK]
    parser.add_argument("names", nargs="*", default=known, help=f"of {', '.join(known)}")
    parser.add_argument("--lines", type=int, default=12, help="how many of the lines that ask for most are printed")
    arguments = parser.parse_args()
    simcupy.install()
    for name in arguments.names:
        seen = seen_in_step(name) if name in PROGRAMS else seen_in_treebank(name)[0]
        print(name, figures(seen), "implicit", seen.implicit, dict(seen.kinds.most_common(12)))
        print(seen.table(arguments.lines))


if __name__ == "__main__":
    main()

"""A binary Tree-LSTM (Tai, Socher and Manning 2015), written for one tree in plain recursion, trained in batches.

    python examples/tree_lstm.py                 ListOps expressions, which it generates itself
    python examples/tree_lstm.py --data FOLDER   sentiment trees: train.txt and dev.txt, or .txt.gz, in brackets

Prints the accuracy on held-out trees after every epoch, and in the end what batching has gained.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tqdm import tqdm

import lazyflow as lf
from lazyflow import data, nn, optim
from lazyflow.settings import BATCHINGS

Losses = list[lf.Expr]
State = tuple[lf.Expr, lf.Expr]


class TreeLSTM(nn.Module):
    """Classifies the nodes of a binary tree that has words at its leaves."""

    def __init__(self, vocabulary: data.Vocabulary, embedding: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(len(vocabulary), embedding)
        self.cell = nn.BinaryTreeLSTMCell(embedding, hidden)
        self.output = nn.Linear(hidden, classes)

    def state(self, tree: data.Tree, losses: Losses | None = None) -> State:
        """Hidden state and memory of the root; adds the loss of every node that has a label to ``losses``."""
        if tree.word is not None:
            h, c = self.cell.leaf(self.embedding(self.vocabulary[tree.word]))
        else:
            left, right = tree.children
            h, c = self.cell(self.state(left, losses), self.state(right, losses))
        if losses is not None and tree.label is not None:
            losses.append(lf.cross_entropy(self.output(h), tree.label))
        return h, c

    def loss(self, tree: data.Tree) -> lf.Expr:
        """The loss of one tree: the sum over its nodes."""
        losses: Losses = []
        self.state(tree, losses)
        return lf.sum(losses)

    def scores(self, tree: data.Tree) -> lf.Expr:
        """One score for each class that the whole tree could have."""
        h, _ = self.state(tree)
        return self.output(h)


def train(model: TreeLSTM, optimizer: optim.Optimizer, batches: Iterable[list[data.Tree]]) -> float:
    """One update for every minibatch; returns the mean loss."""
    values = []
    for batch in batches:
        loss = lf.mean([model.loss(tree) for tree in batch])
        loss.forward()
        values.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sum(values) / len(values)


@lf.no_grad()
def accuracy(model: TreeLSTM, batches: Iterable[list[data.Tree]]) -> float:
    """The share of trees whose root gets its label."""
    right = []
    for batch in batches:
        scores = lf.forward([model.scores(tree) for tree in batch])
        right += [int(s.argmax()) == tree.label for s, tree in zip(scores, batch, strict=True)]
    return sum(right) / len(right)


class Corpus(NamedTuple):
    """Trees to train and trees to judge on."""

    train: Sequence[data.Tree]
    dev: Sequence[data.Tree]


def expressions(count: int, seed: int) -> Corpus:
    """ListOps (Nangia and Bowman 2018): nested MAX, MIN, MED and SM of digits, labelled with their values, 0 to 9."""
    held_out = count // 6
    found = data.listops(count + held_out, seed=seed, max_depth=3, max_args=4, max_length=20)
    trees = [expression.binary for expression in found]
    print(f"ListOps, {count} expressions to train and {held_out} held out, such as\n  {found[0]} = {found[0].answer}")
    return Corpus(trees[held_out:], trees[:held_out])


def sentiment(folder: Path) -> Corpus:
    """Trees with labels from 0 to 4 at every node, such as those of the Stanford Sentiment Treebank."""
    corpus = Corpus(*(data.read_ptb_trees(file(folder, part), label=int) for part in ("train", "dev")))
    print(f"{folder}: {len(corpus.train)} trees to train and {len(corpus.dev)} held out")
    return corpus


def file(folder: Path, part: str) -> Path:
    """The file of that part, plain or gzipped."""
    plain, zipped = folder / f"{part}.txt", folder / f"{part}.txt.gz"
    if not (plain.exists() or zipped.exists()):
        raise SystemExit(
            f"expected {plain} or {zipped.name} beside it, with a tree like (3 (2 not) (4 bad)) on every line"
        )
    return plain if plain.exists() else zipped


def compare(model: TreeLSTM, optimizer: optim.Optimizer, trees: Sequence[data.Tree], batch: int, batching: str) -> None:
    """Print what batching gains in training and in inference, beside one operation at a time."""
    modes = ("none", batching)
    print(f"\n{lf.compare(model.loss, trees, batch, modes, optimizer=optimizer, seconds=0.15)}")
    print(f"\n{lf.compare(model.scores, trees, batch, modes, train=False, seconds=0.15)}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="sentiment trees to train on, in place of ListOps")
    parser.add_argument("--epochs", type=int, help="passes over the trees (10, with --quick 3)")
    parser.add_argument("--batch", type=int, default=64, help="trees a minibatch")
    parser.add_argument("--embedding", type=int, default=50, help="size of a word's vector")
    parser.add_argument("--hidden", type=int, default=100, help="size of a node's state")
    parser.add_argument("--lr", type=float, default=0.003, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batching", choices=BATCHINGS, default="phases", help="how operations are grouped")
    parser.add_argument("--quick", action="store_true", help="fewer expressions and epochs: only to see that it works")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read or make trees, train, and compare."""
    options = parsed(arguments)
    lf.seed(options.seed)
    corpus = sentiment(options.data) if options.data else expressions(1200 if options.quick else 8000, options.seed)
    vocabulary = data.Vocabulary.build(word for tree in corpus.train for word in tree.words)
    classes = 1 + max(node.label for tree in corpus.train for node in tree.nodes() if node.label is not None)
    model = TreeLSTM(vocabulary, options.embedding, options.hidden, classes)
    optimizer = optim.Adam(model.parameters(), lr=options.lr)
    with lf.using(batching=options.batching):
        batches = data.batches(corpus.train, options.batch, shuffle=True, seed=options.seed)
        for epoch in range(1, 1 + (options.epochs or (3 if options.quick else 10))):
            loss = train(model, optimizer, tqdm(batches, desc=f"epoch {epoch}", unit="batch", leave=False))
            correct = accuracy(model, data.batches(corpus.dev, 256))
            print(f"epoch {epoch:2}: loss {loss:6.3f}, accuracy on held-out trees {correct:6.1%}")
    compare(model, optimizer, corpus.train, options.batch, options.batching)


if __name__ == "__main__":
    main()

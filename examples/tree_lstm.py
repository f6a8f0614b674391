"""A binary Tree-LSTM (Tai, Socher and Manning 2015), written for one tree in plain recursion, trained in minibatches.

    python examples/tree_lstm.py                 ListOps expressions, which it generates itself
    python examples/tree_lstm.py --data FOLDER   sentiment trees: train.txt and dev.txt (or .txt.gz), one in brackets a line

Prints the loss and the accuracy on held-out trees after every epoch, then what batching gained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import lazyflow as lf
from lazyflow import data, nn, optim
from lazyflow.settings import BATCHINGS

State = tuple[lf.Expr, lf.Expr]


class TreeLSTM(nn.Module):
    """Classifies every node of a binary tree with words at its leaves."""

    def __init__(self, vocabulary: data.Vocabulary, embedding: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(len(vocabulary), embedding)
        self.cell = nn.BinaryTreeLSTMCell(embedding, hidden)
        self.output = nn.Linear(hidden, classes)

    def state(self, tree: data.Tree, losses: list[lf.Expr]) -> State:
        """Hidden state and memory of the root; appends the loss of every node that has a label to ``losses``."""
        if tree.children:
            left, right = tree.children
            h, c = self.cell(self.state(left, losses), self.state(right, losses))
        else:
            h, c = self.cell.leaf(self.embedding(self.vocabulary[tree.word]))
        if tree.label is not None:
            losses.append(lf.cross_entropy(self.output(h), tree.label))
        return h, c

    def loss(self, tree: data.Tree) -> lf.Expr:
        """The loss of one tree: the sum over its labelled nodes."""
        losses: list[lf.Expr] = []
        self.state(tree, losses)
        return lf.sum(losses)

    def scores(self, tree: data.Tree) -> lf.Expr:
        """One score a class for the whole tree."""
        h, _ = self.state(tree, [])
        return self.output(h)

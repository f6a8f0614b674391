"""Fine-grained root accuracy on the treebank's dev part after training with random embeddings, for several seeds."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

import lazyflow as lf
from benchmarks import harness, lazyflow_tree_lstm, peers
from benchmarks.tree_lstm import add_model_arguments
from benchmarks.trees import CLASSES, Corpus, Tree, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=25, help="trees a minibatch (default: 25, as Tai et al. 2015)")
    parser.add_argument("--epochs", type=int, default=12, help="at most so many passes (default: 12)")
    parser.add_argument(
        "--patience", type=int, default=3, help="stop after so many passes without a better one (default: 3)"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="of all parameters but the embeddings")


def shuffled(trees: Sequence[Tree], size: int, seed: int) -> list[Sequence[Tree]]:
    """All minibatches of one pass, the last one perhaps smaller."""
    order = list(trees)
    random.Random(seed).shuffle(order)
    return [order[i : i + size] for i in range(0, len(order), size)]


def root_accuracy(model: lazyflow_tree_lstm.TreeLSTM, trees: Sequence[Tree], size: int = 256) -> float:
    """The share of trees whose root gets its label."""
    logits = np.concatenate([model.infer(trees[i : i + size]) for i in range(0, len(trees), size)])
    return float(np.mean(logits.argmax(1) == [tree.label for tree in trees]))


def train(corpus: Corpus, options: argparse.Namespace, seed: int) -> list[float]:
    """Dev accuracy after every pass, until it has not improved for ``patience`` passes."""
    lf.seed(seed)
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, CLASSES
    chosen = {name: getattr(options, name) for name in ("learning_rate", "dropout", "weight_decay")}
    model = lazyflow_tree_lstm.TreeLSTM(peers.initial_weights(*sizes, seed), **chosen)
    accuracies: list[float] = []
    while len(accuracies) < options.epochs and not _stopped(accuracies, options.patience):
        start = time.perf_counter()
        batches = shuffled(corpus.train, options.batch, seed=1000 * seed + len(accuracies))
        losses = [model.train_step(batch) for batch in tqdm(batches, desc=f"seed {seed}", leave=False, disable=None)]
        accuracies.append(root_accuracy(model, corpus.dev))
        epoch = f"seed {seed}, epoch {len(accuracies):2}: loss {statistics.mean(losses):.3f}, dev {accuracies[-1]:.2%}"
        print(f"{epoch}, {time.perf_counter() - start:.0f} s", flush=True)
    return accuracies


def _stopped(accuracies: Sequence[float], patience: int) -> bool:
    return len(accuracies) > patience and max(accuracies[-patience:]) <= max(accuracies[:-patience])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints every pass, then for each seed the best pass (chosen on these very dev trees) and the last; returns all
    of it."""
    corpus = load(options.data)
    found = {seed: train(corpus, options, seed) for seed in options.seeds}
    best = {seed: max(accuracies) for seed, accuracies in found.items()}
    last = {seed: accuracies[-1] for seed, accuracies in found.items()}
    rows = [[seed, f"{best[seed]:.2%}", f"{last[seed]:.2%}"] for seed in found]
    rows.append(["mean", f"{statistics.mean(best.values()):.2%}", f"{statistics.mean(last.values()):.2%}"])
    print(harness.table(["seed", "best pass", "last pass"], rows))
    print(f"dev root accuracy on {len(corpus.dev):,} trees")
    settings = {name: value for name, value in vars(options).items() if isinstance(value, int | float | str)}
    return {
        "corpus": corpus.name,
        "options": settings,
        "epochs": found,
        "best": best,
        "last": last,
        "mean_of_best": statistics.mean(best.values()),
        "mean_of_last": statistics.mean(last.values()),
    }

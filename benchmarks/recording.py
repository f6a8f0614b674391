"""Microseconds to record one operation, beside DyNet's own, and bytes of graph a node, from 10^4 to 10^6 nodes."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import lazyflow as lf
from benchmarks import harness, lazyflow_tree_lstm, peers
from benchmarks.tree_lstm import add_model_arguments
from benchmarks.trees import CLASSES, Tree, load

TREES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="sizes of graph to record")
    parser.add_argument("--repeats", type=int, default=harness.MINIMUM_REPEATS)


def recorded(model: lazyflow_tree_lstm.TreeLSTM, trees: Sequence[Tree], nodes: int) -> tuple[list[lf.Expr], int]:
    """Losses of as many trees as it takes for ``nodes`` nodes, all on one tape, and how many nodes there are."""
    losses: list[lf.Expr] = []
    while not losses or len(losses[0].tape) < nodes:
        losses.append(model.loss(trees[len(losses) % len(trees)]))
    return losses, len(losses[0].tape)


class Cost(NamedTuple):
    """Microseconds of recording."""

    operation: float
    tree: float


def lazyflow_cost(model: lazyflow_tree_lstm.TreeLSTM, trees: Sequence[Tree], nodes: int, round_: int) -> Cost:
    """Recording so many nodes, the cyclic garbage collector running as it does for a user."""
    del round_
    gc.collect()
    start = time.perf_counter()
    losses, count = recorded(model, trees, nodes)
    return _cost(time.perf_counter() - start, count, len(losses))


def dynet_cost(model: Any, trees: Sequence[Tree], round_: int) -> Cost:
    """Recording one minibatch."""
    del round_
    start = time.perf_counter()
    model.record(trees)
    return _cost(time.perf_counter() - start, model.operations(trees), len(trees))


def _cost(seconds: float, operations: int, trees: int) -> Cost:
    return Cost(1e6 * seconds / operations, 1e6 * seconds / trees)


def _medians(rounds: Sequence[Cost]) -> dict[str, float]:
    return {field: statistics.median(getattr(cost, field) for cost in rounds) for field in Cost._fields}


def bytes_a_node(model: lazyflow_tree_lstm.TreeLSTM, trees: Sequence[Tree], nodes: int) -> float:
    """What the tapes of a recording hold. Beside it stand one handle for each loss, and room to grow."""
    losses, count = recorded(model, trees, nodes)
    tapes = {id(loss.tape): loss.tape for loss in losses}
    return sum(tape.nbytes for tape in tapes.values()) / count


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns microseconds and bytes a node of every size."""
    corpus = load(options.data)
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0
    model = lazyflow_tree_lstm.setup(*sizes)
    recorded(model, corpus.train, min(options.nodes))
    runs: dict[str, Callable[[int], Cost]] = {
        f"lazyflow, {n:,} nodes": partial(lazyflow_cost, model, corpus.train, n) for n in options.nodes
    }
    dynet = peers.find("dynet")
    if dynet is None:
        print("dynet: not installed")
    else:
        peer = dynet(*sizes)
        peer.train_step(corpus.train[:TREES])
        runs[f"dynet, {TREES} trees"] = partial(dynet_cost, peer, corpus.train[:TREES])
    costs = {name: _medians(rounds) for name, rounds in harness.alternate(runs, options.repeats, "recording").items()}
    held = {f"lazyflow, {n:,} nodes": bytes_a_node(model, corpus.train, n) for n in options.nodes}
    rows = [[name, cost["operation"], cost["tree"], held.get(name)] for name, cost in costs.items()]
    print(harness.table(["", "us an operation", "us a tree", "bytes a node"], rows))
    return {"corpus": corpus.name, "microseconds": costs, "bytes": held}

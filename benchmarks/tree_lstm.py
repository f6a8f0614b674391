"""Training and inference of a binary Tree-LSTM: trees/s of lazyflow's forms, a user's own Tree-GRU, and the peers."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness, lazyflow_tree_gru, lazyflow_tree_lstm, peers, throughput
from benchmarks.lazyflow_model import Model
from benchmarks.trees import CLASSES, Corpus, Tree, load, nodes
from lazyflow.settings import BATCHINGS

FORMS = (*lazyflow_tree_lstm.FORMS, "unfused", "gru")
REFERENCES = {
    "DyNet": ["dynet"],
    "PyTorch batched": ["torch_batched"],
    "the same kept": ["torch_batched_kept"],
}
# Rows of the products of a leaf with the embedding and of an inner node with both children's states, in hidden sizes.
PRODUCTS = {"lstm": (3, 5), "gru": (2, 4)}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The data and the sizes that several benchmarks share."""
    parser.add_argument(
        "--data", type=Path, help="folder of sentiment trees (train and dev); synthetic trees without it"
    )
    parser.add_argument("--embedding", type=int, default=300, help="size of the embeddings (default: 300)")
    parser.add_argument("--hidden", type=int, default=150, help="size of the hidden states (default: 150)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    throughput.add_arguments(parser, "trees")
    parser.add_argument(
        "--modes", nargs="*", choices=BATCHINGS, default=list(BATCHINGS), help="lazyflow's batching modes"
    )
    parser.add_argument(
        "--forms",
        nargs="*",
        choices=FORMS,
        default=list(FORMS),
        help="plain operations (in every mode), the library's cell, plain operations without fusion, and a Tree-GRU "
        "with a user's own cell",
    )
    parser.add_argument("--peers", nargs="*", choices=sorted(peers.MODULES), default=sorted(peers.MODULES))
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="of all candidates")


def lazyflow_models(options: argparse.Namespace, corpus: Corpus) -> dict[str, Model[Tree]]:
    """lazyflow's candidates by name."""
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, CLASSES
    weights = peers.initial_weights(*sizes, 0)

    def made(form: str, mode: str = "phases") -> Model[Tree]:
        if form == "gru":
            return lazyflow_tree_gru.TreeGRU(*sizes)
        if form == "unfused":
            model = made("plain")
            model.fuse = "off"
            return model
        return lazyflow_tree_lstm.setup(*sizes, 0, weights, form=form, batching=mode)

    modes = options.modes if "plain" in options.forms else []
    found = {f"lazyflow {mode}": made("plain", mode) for mode in modes}
    found.update({f"lazyflow {form}": made(form) for form in options.forms if form != "plain"})
    return {**found, **(kept(options, made, corpus.train) if options.kept else {})}


def kept(options: argparse.Namespace, made: Any, trees: Sequence[Tree]) -> dict[str, Model[Tree]]:
    """The forms once more, with the losses of all trees recorded beforehand."""
    found: dict[str, Model[Tree]] = {
        f"lazyflow {form}, kept": made(form) for form in options.forms if form != "unfused"
    }
    for model in found.values():
        model.keep(trees)
    return found


def peer_models(options: argparse.Namespace, corpus: Corpus) -> dict[str, peers.TreeModel]:
    """The installed peers by name; says which are not."""
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, CLASSES, 0
    weights = peers.initial_weights(*sizes)
    setups = {name: peers.find(name) for name in options.peers}
    for name in [name for name, setup in setups.items() if setup is None]:
        print(f"{name}: not installed")
    found = {name: setup(*sizes, weights) for name, setup in setups.items() if setup is not None}
    for model in found.values():
        if hasattr(model, "keep"):
            model.keep(corpus.train)
    return found


def operations(kind: str, tree: Tree, options: argparse.Namespace) -> int:
    """Floating-point operations of a tree's products in one training step: forward, and two as large in backward."""
    of_leaf, of_inner = PRODUCTS[kind]
    leaves = (nodes(tree) + 1) // 2
    cells = options.hidden * (leaves * of_leaf * options.embedding + (leaves - 1) * of_inner * 2 * options.hidden)
    return 3 * 2 * (cells + nodes(tree) * CLASSES * options.hidden)


def per_operation(found: Mapping[str, Any], corpus: Corpus, options: argparse.Namespace) -> dict[str, float]:
    """10^9 floating-point operations a second of the library's cell and of the user's own, where they were measured."""
    kinds = {"lazyflow cell": "lstm", "lazyflow gru": "gru"}
    count = {kind: statistics.mean(operations(kind, tree, options) for tree in corpus.train) for kind in PRODUCTS}
    names = {f"{name}{suffix}": kind for name, kind in kinds.items() for suffix in ("", ", kept")}
    return {name: found[name]["per_s"] * count[kind] / 1e9 for name, kind in names.items() if name in found}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table for every size of minibatch; returns all rounds, their medians and the ratios."""
    corpus = load(options.data)
    ours, theirs = lazyflow_models(options, corpus), peer_models(options, corpus)
    for model in [*ours.values(), *theirs.values()] if options.optimizer == "sgd" else []:
        model.use_sgd()
    results = throughput.run(
        options, f"{corpus.name} trees, {options.optimizer}", corpus.train, {**ours, **theirs}, REFERENCES
    )
    for result in results:
        result["gflop_per_s"] = per_operation(result["train"], corpus, options)
    print("\n10^9 operations of products a second, in training")
    names = list(results[0]["gflop_per_s"])
    rows = [[name, *(result["gflop_per_s"][name] for result in results)] for name in names]
    print(harness.table(["", *map(str, options.batch)], rows))
    if options.profile:
        print(f"profile in {throughput.profile(options, next(iter(ours.values())), corpus.train)}")
    return {
        "corpus": corpus.name,
        "optimizer": options.optimizer,
        "missing": [name for name in options.peers if name not in theirs],
        "embedding": options.embedding,
        "hidden": options.hidden,
        "batches": results,
    }

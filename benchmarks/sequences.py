"""What the benchmarks of LSTMs over sentences share: their options, their candidates, and the run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import lazyflow_sequence, peers, throughput
from benchmarks.lazyflow_model import Model
from benchmarks.sentences import Corpus, Sentence

REFERENCES = {
    "DyNet": ["dynet", "dynet_fused"],
    "PyTorch": ["torch_packed", "torch_steps"],
    "PyTorch by hand": ["torch_batched"],
}


def add_arguments(parser: argparse.ArgumentParser, embedding: int, hidden: int) -> None:
    """The options, with the default sizes of a model."""
    parser.add_argument(
        "--data", type=Path, help="folder of a treebank in CoNLL-U (train); synthetic sentences without it"
    )
    parser.add_argument("--embedding", type=int, default=embedding, help=f"of the embeddings (default: {embedding})")
    parser.add_argument("--hidden", type=int, default=hidden, help=f"of the states (default: {hidden})")
    throughput.add_arguments(parser, "sentences")
    forms, known = list(lazyflow_sequence.FORMS), sorted(peers.SEQUENCE_MODULES)
    parser.add_argument("--forms", nargs="*", choices=forms, default=forms, help="how lazyflow's model is written")
    parser.add_argument("--peers", nargs="*", choices=known, default=known)


def run(options: argparse.Namespace, corpus: Corpus, directions: int) -> dict[str, Any]:
    """Prints a table for every size of minibatch; returns all rounds, their medians and the ratios."""
    sizes = corpus.vocabulary_size, options.embedding, options.hidden, corpus.classes
    weights = peers.initial_sequence_weights(*sizes, 0, directions)
    ours: dict[str, Model[Sentence]] = {
        f"lazyflow {form}": lazyflow_sequence.FORMS[form](weights) for form in options.forms
    }
    if options.kept:
        kept = {f"lazyflow {form}, kept": lazyflow_sequence.FORMS[form](weights) for form in options.forms}
        for model in kept.values():
            model.keep(corpus.train)
        ours.update(kept)
    setups = {name: peers.find_sequence(name) for name in options.peers}
    missing = [name for name, setup in setups.items() if setup is None]
    for name in missing:
        print(f"{name}: not installed")
    theirs = {name: setup(weights) for name, setup in setups.items() if setup is not None}
    results = throughput.run(options, f"{corpus.name} sentences", corpus.train, {**ours, **theirs}, REFERENCES)
    if options.profile:
        print(f"profile in {throughput.profile(options, next(iter(ours.values())), corpus.train)}")
    return {
        "corpus": corpus.name,
        "missing": missing,
        "embedding": options.embedding,
        "hidden": options.hidden,
        "vocabulary": corpus.vocabulary_size,
        "classes": corpus.classes,
        "batches": results,
    }

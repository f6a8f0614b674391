"""Training and inference of an LSTM language model: sentences/s of lazyflow's forms and of the peers."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import sentences, sequences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sequences.add_arguments(parser, embedding=256, hidden=256)
    parser.add_argument("--vocabulary", type=int, default=1000, help="how many words it knows (default: 1000)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """See `sequences.run`."""
    return sequences.run(options, sentences.language(options.data, options.vocabulary), directions=1)

"""Training and inference of a BiLSTM part-of-speech tagger: sentences/s of lazyflow's forms and of the peers."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import sentences, sequences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sequences.add_arguments(parser, embedding=100, hidden=50)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """See `sequences.run`."""
    return sequences.run(options, sentences.tagging(options.data), directions=2)

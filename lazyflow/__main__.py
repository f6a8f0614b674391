"""The command line: ``lazyflow compare module:loss_of module:examples``, or ``python -m lazyflow compare ...``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lazyflow.inspect.compare import ROUNDS, compare
from lazyflow.settings import BATCHINGS

DESCRIPTION = (
    "How fast a model goes batched and unbatched, where its time goes, and whether the values are the same: "
    "lazyflow.compare for a function and examples that are named as MODULE:NAME, where NAME may have dots "
    "(my_model:tagger.loss). MODULE is imported from this folder or from what is installed; where the name of the "
    "examples or of the optimizer is that of a function without arguments, it is called."
)


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    root = argparse.ArgumentParser(prog="lazyflow", description="Tools for models that are written with lazyflow.")
    command = root.add_subparsers(dest="command", metavar="COMMAND", required=True).add_parser(
        "compare", help="batched against unbatched speed of a model", description=DESCRIPTION
    )
    command.add_argument("loss_of", metavar="MODULE:LOSS_OF", help="a function of one example that returns its loss")
    command.add_argument("examples", metavar="MODULE:EXAMPLES", help="a list of examples")
    command.add_argument(
        "--batch", type=_at_least(1), nargs="+", default=[1, 16, 64, 256], help="sizes of minibatches (1 16 64 256)"
    )
    command.add_argument("--modes", nargs="+", choices=BATCHINGS, help="ways of batching (none and phases)")
    command.add_argument("--no-train", action="store_true", help="inference in place of training")
    command.add_argument("--optimizer", metavar="MODULE:NAME", help="measure its updates, too")
    command.add_argument("--rounds", type=_at_least(ROUNDS), default=ROUNDS, help="rounds of each, at least five")
    command.add_argument("--seconds", type=float, default=0.5, help="of a round in the slowest mode (0.5)")
    command.add_argument("--json", type=_file, metavar="FILE", help="write all figures to this file")
    command.add_argument("--markdown", type=_file, metavar="FILE", help="write the table to this file")
    command.add_argument("--plot", type=_picture, metavar="FILE", help="write a picture: .png, .svg or .pdf")
    return root


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a number of at least {least}, got {text!r}")
        return int(text)

    return number


def _file(text: str) -> Path:
    """A file that can be written, before minutes are spent on what is to stand in it."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that is there, got {text!r}")
    return path


def _picture(text: str) -> Path:
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("needs Matplotlib: python -m pip install 'lazyflow[plot]'")
    return _file(text)


class Missing(Exception):
    """What was named is not there."""


def named(text: str) -> Any:
    """What ``module:name`` names. Raises `Missing`; what the module itself raises comes through."""
    module, colon, path = text.partition(":")
    if not (module and colon and path):
        raise Missing(f"expected MODULE:NAME, as in my_model:loss_of, got {text!r}")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise Missing(f"{text}: there is no module {error.name} in {Path.cwd()}, nor is one installed") from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise Missing(f"{text}: {found!r:.60} has no {name!r}")
        found = getattr(found, name)
    return found


def made(text: str) -> Any:
    """What ``module:name`` names, or makes when it is called."""
    found = named(text)
    return found() if callable(found) and not isinstance(found, Iterable) else found


def run(options: argparse.Namespace) -> None:
    """Compare, print the table, and write the files."""
    found = compare(
        named(options.loss_of),
        made(options.examples),
        options.batch,
        options.modes,
        not options.no_train,
        optimizer=None if options.optimizer is None else made(options.optimizer),
        rounds=options.rounds,
        seconds=options.seconds,
    )
    print(found)
    if options.json is not None:
        options.json.write_text(found.to_json() + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(found.to_markdown(), encoding="utf-8")
    if options.plot is not None:
        found.plot().savefig(options.plot)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 with a line on what is missing. Errors of the model itself show where they were."""
    options = parser().parse_args(arguments)
    if str(Path.cwd()) not in sys.path:  # where the installed command is not looked for, and the user's module is
        sys.path.insert(0, str(Path.cwd()))
    try:
        run(options)
    except Missing as error:
        print(f"lazyflow {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The chart of README: training of a Tree-LSTM by the size of minibatches, from the results of ``tree_lstm``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

from benchmarks import harness

LINES = {
    "lazyflow cell, kept": "lazyflow, one cell a node, roots kept",
    "lazyflow cell": "lazyflow, one cell a node",
    "lazyflow phases": "lazyflow, plain operations",
    "dynet": "DyNet, autobatching",
    "torch_batched": "PyTorch, batched by hand",
}
PICTURE = Path(__file__).parents[1] / "docs" / "assets" / "speed.svg"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chart", description=__doc__)
    parser.add_argument("--results", type=Path, default=harness.RESULTS / "tree_lstm-1.json", help="of tree_lstm")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to draw it")
    return parser.parse_args(arguments)


def speeds(results: dict[str, Any], name: str) -> tuple[list[int], list[float], list[float], list[float]]:
    """Sizes of minibatches in order, and at each the median, slowest and fastest round, in examples a second."""
    found = sorted((one["batch"], one["train"][name]) for one in results["batches"] if name in one["train"])
    medians = [speed["per_s"] for _, speed in found]
    slowest, fastest = ([f(speed["rounds"]) for _, speed in found] for f in (min, max))
    return [batch for batch, _ in found], medians, slowest, fastest


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    rcParams.update({"svg.hashsalt": "lazyflow", "svg.fonttype": "none"})  # the same results are the same file
    results = json.loads(options.results.read_text(encoding="utf-8"))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, label), style in zip(LINES.items(), ("-", "-", "-", "--", ":"), strict=True):
        batches, medians, slowest, fastest = speeds(results, name)
        [line] = axes.plot(batches, medians, style, marker="o", markersize=4, label=label)
        axes.fill_between(batches, slowest, fastest, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set(xlabel="trees a minibatch", ylabel="trees a second, training", ylim=(0, None))
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.picture, metadata={"Date": None})
    print(f"drawn to {options.picture}")


if __name__ == "__main__":
    main()

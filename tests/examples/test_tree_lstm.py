"""The example that everybody copies does what it says."""

import gzip
import re
import runpy
from pathlib import Path

import pytest

import lazyflow as lf

EXAMPLE = Path(lf.__file__).parents[1] / "examples" / "tree_lstm.py"
TREES = [
    "(3 (2 not) (4 bad))",
    "(1 (1 bad) (2 film))",
    "(4 (3 (2 a) (4 good)) (2 film))",
    "(0 (0 awful) (1 (2 a) (2 mess)))",
]


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(EXAMPLE))["main"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress("\n".join(TREES).encode()))
    (tmp_path / "dev.txt").write_text("\n".join(TREES[:2]))
    return tmp_path


def accuracies(printed):
    return [float(found) for found in re.findall(r"accuracy on held-out trees +([\d.]+)%", printed)]


def rows_of(table):
    """Counts of the table's rows, by column: one operation at a time, and batched."""
    _, header, none, batched, *_ = table.strip().splitlines()
    columns = {name: header.split().index(name) for name in ("nodes", "launches")}
    return [{name: int(row.split()[i].replace(",", "")) for name, i in columns.items()} for row in (none, batched)]


def test_accuracy_on_listops_rises_well_above_chance(main, capsys):
    main(["--quick"])
    first, *_, last = accuracies(capsys.readouterr().out)
    assert last > first > 20


def test_the_table_counts_launches_and_nodes(main, capsys, folder):
    main(["--data", str(folder), "--epochs", "1", "--embedding", "4", "--hidden", "3", "--batch", "4"])
    training, inference = capsys.readouterr().out.split("\n\n")[-2:]
    none, batched = rows_of(training)
    assert none["launches"] == none["nodes"] == batched["nodes"] > 3 * batched["launches"]
    none, batched = rows_of(inference)
    assert none["launches"] == none["nodes"] == batched["nodes"] > 3 * batched["launches"]
    assert rows_of(training)[0]["nodes"] > none["nodes"], "inference computes no losses"


def test_sentiment_trees_are_learned(main, capsys, folder):
    main(["--data", str(folder), "--epochs", "30", "--embedding", "8", "--hidden", "8", "--batch", "2", "--lr", "0.05"])
    found = accuracies(capsys.readouterr().out)
    assert len(found) == 30
    assert found[-1] == 100


def test_missing_files_are_named(main, tmp_path):
    with pytest.raises(SystemExit, match=r"train\.txt or train\.txt\.gz"):
        main(["--data", str(tmp_path)])

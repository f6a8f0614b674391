"""``python -m benchmarks``: every benchmark runs, prints its table and saves its results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as cli
from benchmarks import peak_memory, peers, sequences, start, throughput, tree_lstm

NAMES = [
    "tree_lstm",
    "tagger",
    "language_model",
    "breadth",
    "decisions",
    "launches",
    "recording",
    "spellings",
    "steps",
    "start",
    "extremes",
    "planning",
    "memory",
    "peak_memory",
    "accuracy",
    "gpu",
]
SMALL = ["--embedding", "6", "--hidden", "4"]
ROUNDS = ["--batches", "1", "--seconds", "0.001"]
TREES = (
    "(3 (2 a) (4 (2 very) (4 good)))\n(1 (2 a) (0 bad))\n(2 (2 so) (2 so))\n(2 (2 it) (2 (2 is) (2 (2 a) (2 film))))\n"
)
TAGGED = [("the", "DT"), ("film", "NN"), ("the", "DT"), ("man", "NN"), ("saw", "VBD")]


@pytest.fixture
def data(tmp_path):
    for part in ("train", "dev"):
        (tmp_path / f"{part}.txt").write_text(TREES, encoding="utf-8")
    return ["--data", str(tmp_path)]


@pytest.fixture
def conllu(tmp_path):
    rows = [f"{k}\t{form}\t_\t_\t{tag}\t_\t0\t_\t_\t_" for k, (form, tag) in enumerate(TAGGED, start=1)]
    text = "".join("\n".join(rows[:length]) + "\n\n" for length in (5, 1, 3))
    (tmp_path / "tiny-train.conllu").write_text(text, encoding="utf-8")
    return ["--data", str(tmp_path)]


@pytest.fixture
def run(tmp_path, capsys):
    def call(*arguments):
        out = tmp_path / "results"
        assert cli.main([*arguments, "--out", str(out), "--worker", "1"]) == 0
        return capsys.readouterr().out, json.loads((out / f"{arguments[0]}-1.json").read_text())

    return call


def test_the_list_has_a_line_for_each(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(line.endswith(".") and len(line) > 40 for line in lines)


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_threads_are_numbers_or_all(threads, capsys):
    with pytest.raises(SystemExit):
        cli.main(["launches", "--threads", threads])
    assert "positive number of threads or 'all'" in capsys.readouterr().err


def test_each_setting_of_threads_is_a_process_of_its_own(monkeypatch):
    started = []

    def record(command, env, check):
        started.append((command[3:], env["OPENBLAS_NUM_THREADS"]))
        return type("Finished", (), {"returncode": 0})

    monkeypatch.setattr(cli.subprocess, "run", record)
    arguments = ["launches", "--threads", "1", "2"]
    assert cli.main(arguments) == 0
    assert started == [([*arguments, "--worker", n], n) for n in ("1", "2")]


def test_tree_lstm(run, data, monkeypatch):
    monkeypatch.setattr(peers, "find", lambda name: None)
    printed, saved = run(
        "tree_lstm", *data, *SMALL, *ROUNDS, "--batch", "1", "3", "--kept", "--modes", "phases", "none"
    )
    names = {f"lazyflow {name}" for name in ("phases", "none", "spelled", "cell", "unfused", "gru")} | {
        f"lazyflow {name}, kept" for name in ("plain", "spelled", "cell", "gru")
    }
    assert [entry["batch"] for entry in saved["batches"]] == [1, 3]
    for entry in saved["batches"]:
        assert set(entry["train"]) == set(entry["infer"]) == names
        assert set(entry["train"]["lazyflow none"]["ms"]) == set(throughput.PARTS)
        assert len(entry["infer"]["lazyflow phases"]["rounds"]) == 5
        assert set(entry["gflop_per_s"]) == {f"lazyflow {name}" for name in ("cell", "gru", "cell, kept", "gru, kept")}
    assert all(f"{name}: not installed" in printed for name in peers.MODULES)


@pytest.mark.peer
@pytest.mark.parametrize("name", sorted(peers.MODULES))
def test_tree_lstm_beside_a_peer(name, run, data):
    if peers.find(name) is None:
        pytest.skip(f"{name} is not installed")
    printed, saved = run("tree_lstm", *data, *SMALL, *ROUNDS, "--batch", "2", "--forms", "cell", "--peers", name)
    assert set(saved["batches"][0]["train"]) == {"lazyflow cell", name}
    references = [reference for reference, names in tree_lstm.REFERENCES.items() if name in names]
    assert list(saved["batches"][0]["train"]["lazyflow cell"]["ratios"]) == references
    assert all(f"/ {reference}" in printed for reference in references)


@pytest.mark.parametrize("benchmark", ["tagger", "language_model"])
def test_sentences(benchmark, run, conllu, monkeypatch):
    monkeypatch.setattr(peers, "find_sequence", lambda name: None)
    printed, saved = run(benchmark, *conllu, *SMALL, *ROUNDS, "--batch", "2", "--kept")
    names = {f"lazyflow {form}{kept}" for form in ("plain", "cell", "module") for kept in ("", ", kept")}
    assert set(saved["batches"][0]["train"]) == set(saved["batches"][0]["infer"]) == names
    assert all(f"{name}: not installed" in printed for name in peers.SEQUENCE_MODULES)


@pytest.mark.peer
@pytest.mark.parametrize("benchmark", ["tagger", "language_model"])
@pytest.mark.parametrize("name", sorted(peers.SEQUENCE_MODULES))
def test_sentences_beside_a_peer(name, benchmark, run, conllu):
    if peers.find_sequence(name) is None:
        pytest.skip(f"{name} is not installed")
    _, saved = run(benchmark, *conllu, *SMALL, *ROUNDS, "--batch", "2", "--forms", "plain", "--peers", name)
    references = [reference for reference, names in sequences.REFERENCES.items() if name in names]
    assert list(saved["batches"][0]["train"]["lazyflow plain"]["ratios"]) == references


def test_profile(run, data, tmp_path):
    pytest.importorskip("pyinstrument")
    arguments = ["--batch", "2", "--forms", "plain", "--modes", "phases", "--peers", "--profile"]
    run("tree_lstm", *data, *SMALL, *ROUNDS, *arguments)
    assert "train_step" in (tmp_path / "results" / "tree_lstm-1-profile.html").read_text()


def test_launches(run):
    printed, saved = run("launches", "--examples", "2")
    assert "lower bound" in printed
    for entry in saved["families"]:
        launches = {mode: found["launches"] for mode, found in entry["modes"].items()}
        assert entry["lower_bound"] <= launches["frontier"]
        assert launches["phases"] <= min(launches["depth"], launches["agenda"])


def test_start(run, monkeypatch):
    monkeypatch.setattr(start, "STEPS", 2)
    monkeypatch.setattr(start, "measured", lambda part: part())
    _, saved = run("start")
    assert all(number >= 0 for name, number in saved["medians"].items() if "beyond" not in name)
    assert 1 < saved["medians"]["installed, MB"] < 20


def test_extremes(run, monkeypatch):
    monkeypatch.setattr(peers, "find", lambda name: None)
    monkeypatch.setattr(peers, "find_sequence", lambda name: None)
    _, saved = run("extremes", "--words", "30", "--trees", "10", "--hidden", "4")
    assert set(saved["sentence"]["seconds"]) == {"lazyflow cell"}
    assert set(saved["trees"]["seconds"]) == {"lazyflow plain", "lazyflow cell"}


def test_planning(run, data):
    text, saved = run("planning", *data, *SMALL, "--trees", "1", "2", "--minibatches", "2")
    assert "schedule" in text
    names = [f"{form}, {count} trees" for form in ("plain", "spelled", "cell") for count in (1, 2)]
    assert list(saved["microseconds"]) == names
    for found in saved["microseconds"].values():
        assert min(found.values()) > 0 and found["launches"] < found["nodes"]


def test_recording(run, data):
    _, saved = run("recording", *data, *SMALL, "--nodes", "100", "200")
    assert list(saved["bytes"]) == ["lazyflow, 100 nodes", "lazyflow, 200 nodes"]
    assert set(saved["microseconds"]) >= set(saved["bytes"])


def test_memory(run, data):
    _, saved = run("memory", *data, *SMALL, "--batch", "2", "--batches", "40", "--tapes", "40")
    assert (len(saved["resident_mb"]), len(saved["tapes_resident_mb"])) == (4, 10)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_peak_memory(run, data, monkeypatch):
    monkeypatch.setattr(peak_memory, "MEASURED", ("lazyflow cell",))
    printed, saved = run("peak_memory", *data, *SMALL, "--batch", "2", "--steps", "2")
    before, peak = saved["megabytes"]["lazyflow cell"]
    assert 0 < before <= peak and "lazyflow cell" in printed


def test_accuracy(run, data):
    arguments = ["--seeds", "0", "1", "--epochs", "20", "--patience", "20", "--dropout", "0", "--learning-rate", "0.05"]
    printed, saved = run("accuracy", *data, *SMALL, *arguments, "--batch", "2")
    assert len(saved["epochs"]["0"]) == 20
    assert saved["mean_of_best"] == sum(saved["best"].values()) / 2 > 0.7
    assert "mean" in printed

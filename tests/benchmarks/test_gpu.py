"""``python -m benchmarks gpu``: all of it at a tiny size, and what it says where there is no device."""

import json

import pytest

import lazyflow as lf
from benchmarks import __main__ as cli
from benchmarks import gpu, lazyflow_sequence, throughput

from ..conftest import missing_gpu

TINY = ["--batch", "2", "3", "--examples", "6", "--embedding", "6", "--hidden", "4", "--batches", "1"]


@pytest.mark.gpu
def test_all_of_it_at_a_tiny_size(tmp_path, monkeypatch, capsys, pytestconfig):
    monkeypatch.setattr(throughput, "WARM_UP", (1, 0.0))
    where = ["--simulated"] if pytestconfig.option.device == "simulated" else []
    arguments = ["gpu", "--no-suite", *TINY, "--seconds", "0.001", "--out", str(tmp_path), "--worker", "1", *where]
    assert cli.main(arguments) == 0
    found = json.loads((tmp_path / "gpu" / "gpu-1.json").read_text())
    assert set(found["models"]) == {"tree_lstm", "tagger", "language_model"}
    for model in found["models"].values():
        assert [size["batch"] for size in model["sizes"]] == [2, 3]
        assert all(level["launches"] > 0 and level["bytes"] > 0 for level in model["levels"])
        for size in model["sizes"]:
            ours = size["train"]["lazyflow cell"]
            kept = size["train"]["lazyflow cell, kept"]
            assert all(one["per_s"] > 0 and one["host_ms"] > 0 for one in (ours, kept))
            if where:
                other = size["train"]["lazyflow persistent"]
                assert ours["simulated"]["kernels"] > other["simulated"]["kernels"] > 10
                assert kept["simulated"]["kernels"] <= ours["simulated"]["kernels"] + 5
    log = (tmp_path / "gpu" / "gpu-1.log").read_text()
    for said in (found["card"], found["date"], lf.__version__, "left out", "levels"):
        assert said in log
    assert found["machine"]["date"] and found["versions"]["numpy"] and not found["tests"]["passed"]
    assert "levels" in capsys.readouterr().out


@pytest.fixture
def log():
    return gpu.Log(minutes=1)


def test_what_fails_is_said_and_ends_nothing(log, capsys):
    def step():
        raise RuntimeError("no compiler\n  for the kernels")

    assert not log.succeeds("PyTorch compiled", step) and log.succeeds("PyTorch eager", lambda: None)
    assert log.missing == ["PyTorch compiled: RuntimeError: no compiler for the kernels"]
    assert "missing: PyTorch compiled" in capsys.readouterr().out


def test_what_there_is_no_time_left_for_is_said(log):
    assert log.has_time("a size", 30) and not log.has_time("the next", 90)
    assert log.missing == ["the next: there was no time left for it, see --minutes"]


@pytest.mark.gpu
def test_a_model_without_time_or_candidates(tmp_path, monkeypatch, pytestconfig):
    """The file is written all the same, and says what is not in it."""

    def broken(self, examples):
        raise MemoryError("out of memory")

    monkeypatch.setattr(lazyflow_sequence.PlainLSTM, "train_step", broken)
    where = ["--simulated"] if pytestconfig.option.device == "simulated" else []
    tiny = ["--batch", "2", "--examples", "4", "--embedding", "4", "--hidden", "3", "--minutes", "0"]
    arguments = ["gpu", "--no-suite", *tiny, "--models", "tagger", "--out", str(tmp_path), "--worker", "1", *where]
    assert cli.main(arguments) == 0
    found = json.loads((tmp_path / "gpu" / "gpu-1.json").read_text())
    assert found["models"] == {"tagger": {"sizes": [], "levels": []}}
    assert any("lazyflow plain: MemoryError: out of memory" in text for text in found["missing"])
    assert any("tagger, 2 a minibatch: there was no time" in text for text in found["missing"])


@pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")
def test_without_a_device_it_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match=r"benchmarks gpu: device 'cuda' needs (CuPy|a GPU)"):
        cli.main(["gpu", "--out", str(tmp_path), "--worker", "1"])
    assert not list(tmp_path.iterdir())

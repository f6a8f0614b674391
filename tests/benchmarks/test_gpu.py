"""``python -m benchmarks gpu``: all of it at a tiny size, and what it says where there is no device."""

import json

import pytest

from benchmarks import __main__ as cli
from benchmarks import throughput

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
            assert ours["per_s"] > 0 and ours["host_ms"] > 0
            if where:
                assert ours["simulated"]["kernels"] > 10
    assert found["card"] in (tmp_path / "gpu" / "gpu-1.log").read_text()
    assert "levels" in capsys.readouterr().out


@pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")
def test_without_a_device_it_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match=r"benchmarks gpu: device 'cuda' needs (CuPy|a GPU)"):
        cli.main(["gpu", "--out", str(tmp_path), "--worker", "1"])
    assert not list(tmp_path.iterdir())

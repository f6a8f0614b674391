"""The command line: ``lazyflow compare``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lazyflow as lf
from lazyflow.__main__ import main

PROGRAM = '''
import lazyflow as lf
from lazyflow import optim
w = lf.Parameter([1.0, 2.0])
class Model:
    def loss(self, x):
        return lf.sum(lf.tanh(w * x))
model = Model()
examples = [1.0, 2.0, 3.0]
def made():
    return examples
optimizer = optim.SGD([w], lr=0.1)
def broken(x):
    return 1 / 0
'''  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_model", None)


@pytest.mark.parametrize("command", [["-m", "lazyflow"], ["-c", "from lazyflow.__main__ import main; main()"]])
def test_the_command_in_a_process_of_its_own(folder, command):
    arguments = ["compare", "my_model:model.loss", "my_model:made", "--batch", "2", "--seconds", "0"]
    files = ["--json", "a.json", "--markdown", "a.md", "--optimizer", "my_model:optimizer"]
    done = subprocess.run(
        [sys.executable, *command, *arguments, *files],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(lf.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = lf.Comparison.from_json((folder / "a.json").read_text(encoding="utf-8"))
    assert str(found) == done.stdout.rstrip("\n") and found.updated
    assert (folder / "a.md").read_text(encoding="utf-8") == found.to_markdown()


@pytest.mark.parametrize("options", [["--no-train"], ["--modes", "depth", "levels"]])
def test_options_of_the_command(folder, capsys, options):
    assert main(["compare", "my_model:model.loss", "my_model:examples", "--seconds", "0", *options]) == 0
    assert ("inference" in capsys.readouterr().out) == (options == ["--no-train"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my_model.loss", "my_model:examples"], "expected MODULE:NAME, as in my_model:loss_of, got 'my_model.loss'"),
        (["no_model:loss", "my_model:examples"], "there is no module no_model in"),
        (["my_model:model.los", "my_model:examples"], "has no 'los'"),
        (["my_model:model.loss", "my_model:example"], "has no 'example'"),
    ],
)
def test_what_is_not_there_is_named(folder, capsys, arguments, message):
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "expected a number of at least 1, got '0'"),
        (["--rounds", "4"], "expected a number of at least 5, got '4'"),
        (["--modes", "fast"], "invalid choice: 'fast'"),
        (["--json", "no/such/folder.json"], "expected a file in a folder that is there"),
        (["--markdown", "."], "expected a file in a folder that is there"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(folder, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["compare", "my_model:model.loss", "my_model:examples", *arguments])
    assert message in capsys.readouterr().err


def test_errors_of_the_model_show_where_they_are(folder):
    with pytest.raises(ZeroDivisionError):
        main(["compare", "my_model:broken", "my_model:examples"])

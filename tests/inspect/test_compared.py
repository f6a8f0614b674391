"""What `lf.compare` returns: frozen, as JSON, as tables, as a picture."""

import builtins
import json
from dataclasses import FrozenInstanceError, replace

import pytest

import lazyflow as lf
from lazyflow.inspect.compared import HEADER
from tests.inspect.tagger import QUICK, SENTENCES, Tagger


@pytest.fixture(scope="module")
def comparison():
    lf.seed(0)
    found = lf.compare(Tagger().loss, SENTENCES, batch=(2, 9), **QUICK)
    return replace(found, notes=(*found.notes, "a note"))


def test_it_is_frozen(comparison):
    with pytest.raises(FrozenInstanceError):
        comparison.rows = ()
    with pytest.raises(FrozenInstanceError):
        comparison.rows[0].batch = 3


def test_json_and_back(comparison):
    assert lf.Comparison.from_json(comparison.to_json()) == comparison
    found = json.loads(comparison.to_json())
    assert [row["batching"] for row in found["rows"]] == ["none", "phases"] * 2
    assert {"lazyflow", "python", "numpy", "threads"} <= set(found["machine"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"batch": 3}], "notes": []}'])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match=r"as to_json\(\) writes it"):
        lf.Comparison.from_json(text)


def test_the_table_has_every_figure(comparison):
    head, titles, *rows = str(comparison).splitlines()
    assert head.startswith("training, without updates, 7 examples")
    assert titles.split() == " ".join(HEADER).split()
    assert rows[4:] == [f"- {note}" for note in comparison.notes]
    assert len({len(line) for line in [titles, *rows[:4]]}) == 1, "aligned"


def test_markdown_has_the_cells_of_the_table(comparison):
    lines = comparison.to_markdown().splitlines()
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]
    assert cells[0] == HEADER and cells[2:] == [row.cells() for row in comparison.rows]
    assert comparison._repr_markdown_() == comparison.to_markdown() and lines[-1] == "- a note"


def test_plot(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    figure = comparison.plot()
    figure.savefig(tmp_path / "speed.png")
    speed, parts = figure.axes
    assert [text.get_text() for text in speed.get_legend().get_texts()] == ["none", "phases"]
    assert [label.get_text() for label in parts.get_yticklabels()] == ["2, none", "2, phases", "7, none", "7, phases"]


def test_without_matplotlib_the_error_says_what_to_install(comparison, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'lazyflow\[plot\]'"):
        comparison.plot()
